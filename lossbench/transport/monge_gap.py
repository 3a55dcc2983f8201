"""The Monge gap: how much further a map moves its points than it would have to.

Uscidda and Cuturi, "The Monge Gap: A Regularizer to Learn All Transport Maps", ICML 2023, arXiv
2302.04953.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.scipy.special import xlogy
from ott.geometry import geometry
from ott.problems.linear import linear_problem

from lossbench._math import masked_mean, pairwise_euclidean, pairwise_squared_euclidean, widen
from lossbench._typing import AnyArray, Bool, Float, PRNGKey, Scalar, typed
from lossbench.transport.sinkhorn_newton import sinkhorn_newton

Cost = Literal["squared_euclidean", "euclidean"] | Callable[[Any, Any], Any]
Kind = Literal["entropic", "debiased", "exact"]


def _cost_matrix(source: jax.Array, mapped: jax.Array, cost_fn: Cost) -> jax.Array:
    if cost_fn == "squared_euclidean":
        return pairwise_squared_euclidean(source, mapped)
    if cost_fn == "euclidean":
        return pairwise_euclidean(source, mapped)
    return jax.vmap(lambda x: jax.vmap(lambda y: cost_fn(x, y))(mapped))(source)


def _entropic_solution(
    cost: jax.Array,
    epsilon: jax.Array,
    a: jax.Array,
    b: jax.Array,
    tolerance: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Potentials f (n,) and g (m,) and the plan (n, m) of entropic transport."""
    # Any: ott's annotations ask for a Python number, its code does not.
    scale: Any = epsilon
    problem = linear_problem.LinearProblem(geometry.Geometry(cost, epsilon=scale), a, b)
    out = sinkhorn_newton(problem, tolerance=tolerance, max_iterations=max_iterations)
    f, g = jnp.where(a > 0, out.f, 0), jnp.where(b > 0, out.g, 0)
    plan = jnp.exp((f[:, None] + g - cost) / epsilon)
    return f, g, jnp.where((a[:, None] > 0) & (b > 0), plan, 0)


@partial(jax.custom_jvp, nondiff_argnums=(5,))
def _entropic_cost(
    cost: jax.Array,
    epsilon: jax.Array,
    a: jax.Array,
    b: jax.Array,
    tolerance: jax.Array,
    max_iterations: int,
) -> jax.Array:
    """min_P <P, C> - epsilon H(P) over the couplings of the weights a and b."""
    return _envelope(cost, epsilon, a, b, tolerance, max_iterations)[0]


def _envelope(
    cost: jax.Array,
    epsilon: jax.Array,
    a: jax.Array,
    b: jax.Array,
    tolerance: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    f, g, plan = _entropic_solution(cost, epsilon, a, b, tolerance, max_iterations)
    # The dual value: its error is the square of the plan's.
    value = jnp.vdot(f, a) + jnp.vdot(g, b) - epsilon * (jnp.sum(plan) - jnp.sum(a))
    return value, plan


@_entropic_cost.defjvp
def _entropic_cost_jvp(
    max_iterations: int, primals: tuple[jax.Array, ...], tangents: tuple[jax.Array, ...]
) -> tuple[jax.Array, jax.Array]:
    cost, epsilon, a, b, tolerance = primals
    # The envelope theorem: the plan stays as it is.
    value, plan = _envelope(cost, epsilon, a, b, tolerance, max_iterations)
    change = jnp.vdot(plan, tangents[0]) + tangents[1] * jnp.sum(xlogy(plan, plan))
    return value, change


class _Pairs(NamedTuple):
    """Points before and after a map, those that are not there at the first one's place."""

    source: jax.Array
    mapped: jax.Array
    weights: jax.Array
    there: jax.Array


def _pairs(source: AnyArray, mapped: AnyArray, where: AnyArray | None) -> _Pairs:
    source, mapped = widen(source), widen(mapped)
    there = jnp.ones(len(source), bool) if where is None else jnp.asarray(where)
    # With no point at all one stands in, lest there be no mass: its gap is 0 times.
    source = jnp.where(there[:, None], source, 0)
    mapped = jnp.where(there[:, None], mapped, 0)
    some = there | ~jnp.any(there)
    weights = some.astype(source.dtype) / jnp.sum(some)
    return _Pairs(source, mapped, weights, there)


def _epsilon(
    cost: jax.Array, weights: jax.Array, epsilon: Scalar | None, relative: Scalar
) -> jax.Array:
    if epsilon is not None:
        return jnp.asarray(epsilon, cost.dtype)
    # No gradient, else a map could shrink its gap by shrinking epsilon.
    mean = lax.stop_gradient(weights @ cost @ weights)
    return jnp.asarray(relative, cost.dtype) * jnp.where(mean > 0, mean, 1)


@typed
def monge_gap(
    source: Float[AnyArray, "n d"],
    mapped: Float[AnyArray, "n d"],
    *,
    cost_fn: Cost = "squared_euclidean",
    kind: Kind = "entropic",
    epsilon: Scalar | None = None,
    relative_epsilon: Scalar = 0.01,
    tolerance: Scalar = 1e-3,
    max_iterations: int = 100,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Monge gap of a map, from its values at a sample: 0 where it is optimal for its own image.

    mean_i c(x_i, y_i) - min_P [<P, C> - epsilon H(P)] with C_ij = c(x_i, y_j) and P over the
    couplings of the two uniform samples. It exceeds the gap at epsilon = 0, the "exact" kind, by
    between epsilon log n and 2 epsilon log n. The gradient is that of the envelope theorem, the
    plan held fixed, correct to the marginal error; there is no second derivative.

    Args:
        source: points x_i, `(n, d)`.
        mapped: their images y_i, `(n, d)`.
        cost_fn: static, "squared_euclidean", "euclidean", or a function of two points, such as
            ott's costs; it must be differentiable where a point is mapped to itself.
        kind: static; "entropic", the paper's; "debiased" takes half of the two samples' transport
            costs to themselves off the minimum, as the Sinkhorn divergence does; "exact" takes the
            optimal assignment, O(n^3) one step after the other, for small n.
        epsilon: strength of the entropy; by default `relative_epsilon` times the mean cost.
        relative_epsilon: see there; at 0.1 the gap pulls towards the mean, also at optimal maps.
        tolerance: marginal error (l1) of the plan.
        max_iterations: static, most iterations of the solver.
        where: which points are there.

    Returns a scalar in the cost's units, 0 with everything masked. O(n^2 (d + iterations)).

    Uscidda and Cuturi, ICML 2023, arXiv 2302.04953.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [1.0]])
    >>> print(monge_gap(x, x[::-1], kind="exact"), monge_gap(x, x + 5.0, kind="exact"))
    1.0 0.0
    """
    pairs = _pairs(source, mapped, where)
    x, y, weights, there = pairs
    cost = _cost_matrix(x, y, cost_fn)
    moved = masked_mean(jnp.diagonal(cost), there)
    if kind == "exact":
        # Points that are not there are worth leaving to each other.
        apart = there[:, None] != there
        far = lax.stop_gradient(jnp.where(apart, 2 * jnp.sum(jnp.abs(cost)) + 1, cost))
        rows, columns = optax.assignment.hungarian_algorithm(far)
        return moved - masked_mean(cost[rows, columns], there[rows])
    epsilon = _epsilon(cost, weights, epsilon, relative_epsilon)
    tolerance = jnp.asarray(tolerance, cost.dtype)
    least = _entropic_cost(cost, epsilon, weights, weights, tolerance, max_iterations)
    if kind == "debiased":
        for points in (x, y):
            own = _cost_matrix(points, points, cost_fn)
            least -= _entropic_cost(own, epsilon, weights, weights, tolerance, max_iterations) / 2
    return jnp.where(jnp.any(there), moved - least, 0)


@typed
def monge_gap_displacements(
    source: Float[AnyArray, "n d"],
    mapped: Float[AnyArray, "n d"],
    *,
    cost_fn: Cost = "squared_euclidean",
    epsilon: Scalar | None = None,
    relative_epsilon: Scalar = 0.01,
    tolerance: Scalar = 1e-3,
    max_iterations: int = 100,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """What each point adds to the entropic Monge gap: which of them are sent astray.

    c(x_i, y_i) - f_i - g_i = -epsilon log P_ii, with the optimal potentials and plan; the mean is
    `monge_gap`, and each is at least epsilon log n where the plan is feasible. It carries no
    gradient.

    Arguments as in `monge_gap`. Returns (n,). O(n^2 (d + iterations)).

    Uscidda and Cuturi, ICML 2023, arXiv 2302.04953.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [1.0], [9.0]])
    >>> print(monge_gap_displacements(x, x[jnp.array([1, 0, 2])], epsilon=0.01).round(1))
    [1. 1. 0.]
    """
    x, y, weights, there = lax.stop_gradient(_pairs(source, mapped, where))
    cost = _cost_matrix(x, y, cost_fn)
    epsilon = lax.stop_gradient(_epsilon(cost, weights, epsilon, relative_epsilon))
    tolerance = jnp.asarray(tolerance, cost.dtype)
    f, g, _ = _entropic_solution(cost, epsilon, weights, weights, tolerance, max_iterations)
    return jnp.where(there, jnp.diagonal(cost) - f - g, 0)


@typed
def transport_map_loss(
    source: Float[AnyArray, "n d"],
    mapped: Float[AnyArray, "n d"],
    target: Float[AnyArray, "m d"],
    *,
    cost_fn: Cost = "squared_euclidean",
    gap_weight: Scalar = 1.0,
    gap_relative_epsilon: Scalar = 0.01,
    fitting_relative_epsilon: Scalar = 0.1,
    tolerance: Scalar = 1e-3,
    max_iterations: int = 100,
) -> Float[jax.Array, ""]:
    """Loss of a map that is to be the optimal one to the target: that it lands, and by short ways.

    S_epsilon(T#mu, nu) + lambda M(T): the Sinkhorn divergence (squared Euclidean) of the images
    from the target sample, with epsilon a share of the target's mean squared distance, and the
    Monge gap for `cost_fn`.

    `source` and `mapped` (n, d); `target` (m, d); `gap_weight` is lambda; the others as in
    `monge_gap`. Returns a scalar. O((n + m)^2 (d + iterations)).

    Uscidda and Cuturi, ICML 2023, arXiv 2302.04953.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[0.0], [1.0]])
    >>> lands = transport_map_loss(x, x + 2.0, x + 2.0, gap_weight=0.0)
    >>> print(abs(lands) < 1e-3, transport_map_loss(x, x, x + 2.0, gap_weight=0.0) > 3.0)
    True True
    """
    mapped, target = widen(mapped), widen(target)
    n, m = len(mapped), len(target)
    own = pairwise_squared_euclidean(target)
    a, b = jnp.full(n, 1 / n, own.dtype), jnp.full(m, 1 / m, own.dtype)
    epsilon = _epsilon(own, b, None, fitting_relative_epsilon)
    across, within = pairwise_squared_euclidean(mapped, target), pairwise_squared_euclidean(mapped)
    threshold = jnp.asarray(tolerance, own.dtype)
    divergence = (
        _entropic_cost(across, epsilon, a, b, threshold, max_iterations)
        - _entropic_cost(within, epsilon, a, a, threshold, max_iterations) / 2
        - _entropic_cost(own, epsilon, b, b, threshold, max_iterations) / 2
    )
    gap = monge_gap(
        source,
        mapped,
        cost_fn=cost_fn,
        relative_epsilon=gap_relative_epsilon,
        tolerance=tolerance,
        max_iterations=max_iterations,
    )
    return divergence + jnp.asarray(gap_weight, gap.dtype) * gap


@typed
def cyclical_monotonicity_violation(
    key: PRNGKey,
    source: Float[AnyArray, "n d"],
    mapped: Float[AnyArray, "n d"],
    *,
    cost_fn: Cost = "squared_euclidean",
    tuple_size: int = 2,
    samples: int = 4096,
) -> Float[jax.Array, ""]:
    """What tuples of points would save by passing their images round, 0 for an optimal map.

    The mean, over random tuples, of max(0, sum_i c(x_i, y_i) - sum_i c(x_i, y_{i+1})): each term
    bounds the exact Monge gap of the tuple from below. No solver is needed.

    `source` and `mapped` (n, d), images of the same points; `cost_fn` as in `monge_gap`;
    `tuple_size`, at least 2, and `samples`, the number of tuples, are static. Returns a scalar.
    O(samples tuple_size d).

    Smith and Knott, "On Hoeffding-Frechet bounds and cyclic monotone relations", Journal of
    Multivariate Analysis, 1992.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (8, 2))
    >>> print(cyclical_monotonicity_violation(jax.random.key(1), x, 3 * x))
    0.0
    """
    source, mapped = widen(source), widen(mapped)
    chosen = jax.random.randint(key, (samples, tuple_size), 0, len(source))

    def saving(index: jax.Array) -> jax.Array:
        cost = _cost_matrix(source[index], mapped[index], cost_fn)
        passed = jnp.diagonal(jnp.roll(cost, -1, axis=1))
        return jnp.maximum(jnp.sum(jnp.diagonal(cost) - passed), 0)

    return jnp.mean(jax.vmap(saving)(chosen))
