"""Transport plans with at most k nonzeros in each column, by gradient steps on the semi-dual.

Liu, Puigcerver and Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023, arXiv 2209.15466.
Only one potential is searched: given it, each column of the plan is a projection onto the k-sparse
simplex, and the semi-dual's gradient is what the plan's rows lack. `k=None` is quadratically
regularised transport.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import cho_factor, cho_solve

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Scalar, typed
from lossbench.transport.sparse_conjugates import topk_relu_conjugate, topk_simplex_conjugate
from lossbench.transport.sparse_search import (
    Method,
    Problem,
    columns_at,
    laplacian,
    search_potential,
    semi_dual,
    support_of,
)


class SparseOTOutput(NamedTuple):
    """What `sparse_ot` returns; differentiable by cost, marginals and gamma, but for the counts.

    Attributes:
        values: `(m, k)`, the entries of the plan's columns.
        rows: `(m, k)`, where they stand in their column.
        alpha: `(n,)`, the potential of the sources, with mean 0.
        beta: `(m,)`, the potential of the targets.
        value: the dual optimum, at most the optimum of the sparsity-constrained problem.
        marginal_error: l1 distance of the plan's row sums from `a`; the column sums are exact.
        iterations: steps taken at the target k.
        converged: whether the marginal error is at most the tolerance.
    """

    values: jax.Array
    rows: jax.Array
    alpha: jax.Array
    beta: jax.Array
    value: jax.Array
    marginal_error: jax.Array
    iterations: jax.Array
    converged: jax.Array

    @property
    def matrix(self) -> jax.Array:
        """The plan as a dense array (n, m)."""
        n, m = len(self.alpha), len(self.beta)
        columns = jnp.broadcast_to(jnp.arange(m)[:, None], self.rows.shape)
        return jnp.zeros((n, m), self.values.dtype).at[self.rows, columns].set(self.values)


@partial(jax.custom_jvp, nondiff_argnums=(4, 5))
def _potential(
    problem: Problem,
    init: jax.Array | None,
    tolerance: jax.Array,
    max_iterations: jax.Array,
    k: int | None,
    method: Method,
) -> tuple[jax.Array, jax.Array]:
    """The optimal potential and the steps it took; differentiable by the problem."""
    return search_potential(problem, init, tolerance, max_iterations, k, method)


@_potential.defjvp
def _potential_jvp(
    k: int | None, method: Method, primals: tuple[Any, ...], tangents: tuple[Any, ...]
) -> tuple[Any, Any]:
    problem = primals[0]
    alpha, steps = search_potential(*primals, k, method)
    # The plan's rows keep their sums: the potential makes up for what the problem's change does.
    _, change = jax.jvp(
        lambda problem: semi_dual(alpha, problem, k).gradient, (problem,), tangents[:1]
    )
    support = lax.stop_gradient(support_of(columns_at(alpha, problem, k), len(alpha)))
    same = _components(support)
    # The pseudo-inverse: the potential is free by a constant on each component of the graph.
    constants = same / jnp.sum(same, axis=1, keepdims=True)
    factor = cho_factor(laplacian(support) + constants)
    response = problem.gamma * cho_solve(factor, change - constants @ change)
    return (alpha, steps), (response, jnp.zeros(steps.shape, jax.dtypes.float0))


def _components(support: jax.Array) -> jax.Array:
    """1 where two sources are connected through shared columns, (n, n)."""
    n = support.shape[1]
    joined = support > 0

    def spread(labels: jax.Array) -> jax.Array:
        least = jnp.min(jnp.where(joined, labels, n), axis=1, keepdims=True)
        return jnp.minimum(labels, jnp.min(jnp.where(joined, least, n), axis=0))

    _, labels = lax.while_loop(
        lambda pair: jnp.any(pair[0] != pair[1]),
        lambda pair: (pair[1], spread(pair[1])),
        (jnp.full(n, n), jnp.arange(n)),
    )
    return (labels[:, None] == labels).astype(support.dtype)


@typed
def sparse_ot(
    cost: Float[AnyArray, "n m"],
    a: Float[AnyArray, " n"] | None = None,
    b: Float[AnyArray, " m"] | None = None,
    *,
    k: int | None = None,
    gamma: Scalar = 1.0,
    method: Method = "lbfgs",
    tolerance: Scalar = 1e-6,
    max_iterations: int = 500,
    init: Float[AnyArray, " n"] | None = None,
) -> SparseOTOutput:
    """Optimal transport by plans with at most k nonzeros in each column.

    min <T, C> + gamma/2 |T|^2 over T >= 0 with row sums a, column sums b and at most k nonzeros a
    column, by maximising its semi-dual. Whatever the iterate, columns have at most k nonzeros and
    exactly their mass; only row sums can be wrong. Where `converged`, the plan solves the
    non-convex problem. It cannot where k m < n + m - 1 and the masses are generic, and at kinks of
    the semi-dual (small k) rows stay a few percent off: `marginal_error` is the certificate.
    k = None is quadratically regularised transport, which the search starts from, by way of larger
    gammas, unless `init` is given.

    The entries, potentials and value are differentiable, in both modes, by cost, marginals and
    gamma: implicitly, at the support of the plan. The plan has mass 1 / m a column, so its spread
    is set by gamma / m against the cost: normalise the cost (by its mean or maximum) first.

    Args:
        cost: `(n, m)`, finite.
        a: masses of the sources, `(n,)`, non-negative, by default uniform with sum 1.
        b: masses of the targets, `(m,)`, non-negative, with the sum of `a`, by default uniform.
        k: most nonzeros a column, static; None for no bound.
        gamma: strength of the regularisation, positive.
        method: static. "lbfgs", O(n m) memory; or "newton", semismooth with a dense system, few
            steps of O(n^2 (n + m)), for plans of high accuracy where k is no active bound.
        tolerance: marginal error (l1) at which to stop; below 1e-5 it wants float64.
        max_iterations: most steps.
        init: potential of the sources to start from.

    Raises `ValueError` for k < 1. A step costs a few O(n m log k); the derivative O(n^2 (n + m)).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466; quadratic case: Blondel, Seguy and
    Rolet, "Smooth and Sparse Optimal Transport", AISTATS 2018, arXiv 1710.06276.

    >>> import jax.numpy as jnp
    >>> out = sparse_ot(jnp.array([[0.0, 1.0, 2.0], [2.0, 1.0, 0.0]]), k=2, gamma=0.1)
    >>> print((12 * out.matrix).round(2) + 0.0)
    [[4. 2. 0.]
     [0. 2. 4.]]
    """
    cost = widen(cost).T
    m, n = cost.shape

    def masses(given: AnyArray | None, count: int) -> jax.Array:
        return jnp.full(count, 1 / count, cost.dtype) if given is None else _as(given)

    def _as(x: AnyArray | Scalar) -> jax.Array:
        return jnp.asarray(x, cost.dtype)

    problem = Problem(cost, masses(a, n), masses(b, m), _as(gamma))
    start = None if init is None else _as(init)
    alpha, steps = _potential(problem, start, _as(tolerance), jnp.int32(max_iterations), k, method)
    point = semi_dual(alpha, problem, k)
    values, rows, tau, _ = point.columns
    error = jnp.sum(jnp.abs(point.gradient))
    return SparseOTOutput(
        values=values,
        rows=jnp.broadcast_to(jnp.arange(n), values.shape) if rows is None else rows,
        alpha=alpha,
        beta=-tau,
        value=point.value,
        marginal_error=error,
        iterations=steps,
        converged=error <= _as(tolerance),
    )


@typed
def sparse_ot_semi_dual(
    alpha: Float[AnyArray, " n"],
    cost: Float[AnyArray, "n m"],
    a: Float[AnyArray, " n"],
    b: Float[AnyArray, " m"],
    *,
    k: int | None = None,
    gamma: Scalar = 1.0,
) -> Float[jax.Array, ""]:
    """Semi-dual of sparsity-constrained transport, concave in the potential of the sources.

    <alpha, a> - sum_j Omega*_{b_j}(alpha - c_j), with c_j the columns of the cost and the conjugate
    of `topk_simplex_conjugate`. Its gradient by alpha is a less the row sums of the plan whose
    columns are the maximisers. At k = 1 it is the semi-dual of unregularised transport, plus
    gamma/2 |b|^2.

    `alpha`, `a` (n,); `cost` (n, m); `b` (m,); `k` is static, None for no bound; `gamma` > 0.
    Returns a scalar. O(n m log k).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> print(sparse_ot_semi_dual(jnp.zeros(2), jnp.eye(2), jnp.ones(2), jnp.ones(2), k=1))
    1.0
    """
    alpha = widen(alpha)
    conjugates = topk_simplex_conjugate(alpha - widen(cost).T, b, k=k, gamma=gamma)
    return jnp.vdot(alpha, widen(a)) - jnp.sum(conjugates)


@typed
def sparse_ot_dual(
    alpha: Float[AnyArray, " n"],
    beta: Float[AnyArray, " m"],
    cost: Float[AnyArray, "n m"],
    a: Float[AnyArray, " n"],
    b: Float[AnyArray, " m"],
    *,
    k: int | None = None,
    gamma: Scalar = 1.0,
) -> Float[jax.Array, ""]:
    """Dual of sparsity-constrained transport, concave in the potentials of both sides.

    <alpha, a> + <beta, b> - sum_j Omega*(alpha + beta_j - c_j), with c_j the columns of the cost
    and the conjugate of `topk_relu_conjugate`. Its maximum over beta is the semi-dual.

    `alpha`, `a` (n,); `beta`, `b` (m,); `cost` (n, m); `k` is static, None for no bound; `gamma` >
    0. Returns a scalar. O(n m log k).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones(2)
    >>> print(sparse_ot_dual(one, one, jnp.eye(2), one, one, k=1))
    0.0
    """
    alpha, beta = widen(alpha), widen(beta)
    scores = alpha + beta[:, None] - widen(cost).T
    conjugates = topk_relu_conjugate(scores, k=k, gamma=gamma)
    return jnp.vdot(alpha, widen(a)) + jnp.vdot(beta, widen(b)) - jnp.sum(conjugates)
