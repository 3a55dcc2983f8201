"""Adversarial adaptive sampling: a solution shrinks a residual where a density makes it weigh most.

Tang, Zhai, Wan and Yang, "Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for the
Approximation of PDEs", ICLR 2024, arXiv 2305.18702:

    min over u, max over densities p:  int r^2 p - beta int |grad p|^2 + gamma mean b^2

with r the residual of a differential equation in a box and b that of its boundary conditions. The
price for roughness makes the maximum over p a transport distance between the law r^2 / int r^2 and
the uniform one. The density is a model here; `optimal_grid_density` is the exact one in few
dimensions. Functions of points map (n, d) to (n,), each row by itself.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import power_of_two_scale, widen
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


@typed
def laplacian(fn: Callable[..., Any], points: Float[AnyArray, "n d"]) -> Float[jax.Array, " n"]:
    """Laplacian of a function at each point: the sum of its second derivatives.

    `fn`: (n, d) -> (n,), each row by itself, twice differentiable (a network of tanh, not of relu);
    `points` (n, d). Returns (n,), differentiable. d evaluations with two tangents.

    >>> import jax.numpy as jnp
    >>> print(laplacian(lambda x: jnp.sum(x**3, axis=1), jnp.array([[1.0, 2.0]])))
    [18.]
    """
    points = widen(points)

    def second_derivative(total: jax.Array, axis: jax.Array) -> tuple[jax.Array, None]:
        direction = jnp.zeros_like(points).at[:, axis].set(1)

        def slope(x: jax.Array) -> jax.Array:
            return jax.jvp(fn, (x,), (direction,))[1]

        return total + jax.jvp(slope, (points,), (direction,))[1], None

    n, d = points.shape
    total, _ = lax.scan(second_derivative, jnp.zeros(n, points.dtype), jnp.arange(d))
    return total


@typed
def aas_solution_loss(
    residuals: Float[AnyArray, " n"],
    boundary_residuals: Float[AnyArray, " m"],
    *,
    boundary_weight: Scalar = 100.0,
    weights: Float[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """The solution's loss: mean r^2 over points drawn from the density, and the boundary's.

    mean_i r_i^2 + boundary_weight mean_j b_j^2. The points come from p, which is part of the
    objective, so there is no importance weight; `weights` (n,), normalised to mean 1, correct for
    points of another density.

    `residuals` (n,) and `boundary_residuals` (m,). Returns a scalar.

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax.numpy as jnp
    >>> print(aas_solution_loss(jnp.array([1.0, 3.0]), jnp.array([0.1])).round(4))
    6.0
    """
    squares = jnp.square(widen(residuals))
    if weights is not None:
        squares = squares * _normalized(weights)
    boundary = jnp.mean(jnp.square(widen(boundary_residuals)))
    return jnp.mean(squares) + boundary_weight * boundary


def _normalized(weights: AnyArray) -> jax.Array:
    weights = widen(weights)
    return weights / jnp.mean(weights)


def _importance(proposal_log_density: AnyArray, self_normalize: bool) -> jax.Array:
    """1 / q, with a floor under q, constant to autodiff."""
    weights = 1 / (jnp.exp(lax.stop_gradient(widen(proposal_log_density))) + 1e-6)
    return _normalized(weights) if self_normalize else weights


def _clipped(log_density: jax.Array) -> jax.Array:
    """Within float32's reach, as the authors do; the derivative outside is 0."""
    return jnp.clip(log_density, -23, 5)


@typed
def aas_density_objective(
    log_density_fn: Callable[..., Any],
    points: Float[AnyArray, "n d"],
    residual_sq: Float[AnyArray, " n"],
    proposal_log_density: Float[AnyArray, " n"],
    *,
    beta: Scalar = 5.0,
    self_normalize: bool = True,
    relative: bool = False,
) -> Float[jax.Array, ""]:
    """The density's objective, to be MAXIMISED: the residual it weighs, less its roughness.

    mean_i w_i (r_i^2 p(x_i) - beta |grad p(x_i)|^2), w_i = 1 / (q(x_i) + 1e-6): an estimate of int
    r^2 p - beta int |grad p|^2, up to the factor 1 / int 1 if the weights are normalised to mean 1
    (`self_normalize`, static). `relative` (static) divides r^2 by its weighted mean first, so that
    beta keeps its meaning while the residual shrinks; else p tends to the uniform density. log p is
    clipped to [-23, 5], as in the authors' code.

    `log_density_fn`: (n, d) -> (n,), each row by itself; `points` (n, d) drawn from the proposal q;
    `residual_sq` (n,), held fixed; `proposal_log_density` (n,). Returns a scalar.

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax.numpy as jnp
    >>> uniform = lambda x: 0.0 * x[:, 0]
    >>> points, residual_sq = jnp.array([[0.2], [0.7]]), jnp.array([1.0, 3.0])
    >>> print(aas_density_objective(uniform, points, residual_sq, jnp.zeros(2)))
    2.0
    """
    points, gain = widen(points), lax.stop_gradient(widen(residual_sq))
    weights = _importance(proposal_log_density, self_normalize)
    if relative:
        total = jnp.sum(weights * gain)
        gain = gain * jnp.sum(weights) / jnp.where(total > 0, total, 1)

    def log_density(x: jax.Array) -> jax.Array:
        return _clipped(widen(log_density_fn(x)))

    log_p, pull_back = jax.vjp(log_density, points)
    (score,) = pull_back(jnp.ones_like(log_p))
    roughness = jnp.exp(2 * log_p) * jnp.sum(jnp.square(score), axis=1)
    return jnp.mean(weights * (gain * jnp.exp(log_p) - beta * roughness))


@typed
def das_cross_entropy(
    log_density_fn: Callable[..., Any],
    points: Float[AnyArray, "n d"],
    residual_sq: Float[AnyArray, " n"],
    proposal_log_density: Float[AnyArray, " n"],
) -> Float[jax.Array, ""]:
    """The density's loss in deep adaptive sampling, the baseline: p follows r^2, however rough.

    -mean_i w_i r_i^2 log p(x_i) with w_i = 1 / (q(x_i) + 1e-6) normalised to mean 1: its minimiser
    is r^2 / int r^2. The authors' code leaves out the floor and the normalisation. log p is clipped
    to [-23, 5].

    Arguments as those of `aas_density_objective`. Returns a scalar, to be minimised.

    Tang, Wan and Yang, "DAS-PINNs: A deep adaptive sampling method for solving high-dimensional
    partial differential equations", J. Computational Physics 2023, arXiv 2112.14038.

    >>> import jax.numpy as jnp
    >>> half = lambda x: jnp.full(len(x), jnp.log(0.5))
    >>> points, residual_sq = jnp.array([[0.2], [0.7]]), jnp.array([1.0, 3.0])
    >>> print(das_cross_entropy(half, points, residual_sq, jnp.zeros(2)).round(4))
    1.3863
    """
    weights = _importance(proposal_log_density, True)
    gain = lax.stop_gradient(widen(residual_sq))
    return -jnp.mean(weights * gain * _clipped(widen(log_density_fn(widen(points)))))


@typed
def residual_variation(
    residual_sq: Float[AnyArray, " n"], *, weights: Float[AnyArray, " n"] | None = None
) -> Float[jax.Array, ""]:
    """Coefficient of variation of a squared residual: its standard deviation over its mean.

    0 for a flat residual, which adversarial sampling aims at; also 0 where the residual vanishes.

    `residual_sq` (n,) >= 0 at uniform points, or at points with importance `weights` (n,) (in any
    unit). Returns a scalar.

    >>> import jax.numpy as jnp
    >>> print(residual_variation(jnp.array([1.0, 3.0])))
    0.5
    """
    values = widen(residual_sq)
    values = values / power_of_two_scale(values)
    w = jnp.ones_like(values) if weights is None else _normalized(weights)
    mean = jnp.mean(w * values)
    excess = values / jnp.where(mean > 0, mean, 1) - jnp.where(mean > 0, 1, 0)
    variance = jnp.mean(w * jnp.square(excess))
    flat = variance <= 0
    return jnp.where(flat, 0, jnp.sqrt(jnp.where(flat, 1, variance)))


@typed
def residual_wasserstein_1d(
    residual_sq: Float[AnyArray, " n"], lower: Scalar, upper: Scalar
) -> Float[jax.Array, ""]:
    """W1 between a residual's law r^2 / int r^2 and the uniform law on an interval.

    int |F_r - F_U|, both laws constant on each of n equal cells. Against densities with Lipschitz
    constant K the adversary's maximum of int r^2 p is int r^2 (K W1 + 1 / (upper - lower)), as long
    as it is positive. In more dimensions use `sliced_wasserstein` with weights r^2.

    `residual_sq` (n,) >= 0 at the cells' centres, 0 everywhere giving 0; `lower` < `upper` scalars.
    Returns a scalar in the unit of the interval.

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax.numpy as jnp
    >>> print(residual_wasserstein_1d(jnp.array([2.0, 0.0]), 0.0, 1.0))
    0.25
    """
    values = widen(residual_sq)
    values = values / power_of_two_scale(values)
    n = values.shape[0]
    total = jnp.sum(values)
    shares = jnp.where(total > 0, values / jnp.where(total > 0, total, 1), 1 / n)
    # F_r - F_U is linear on each cell, from `before` to `after`.
    after = jnp.cumsum(shares - 1 / n)
    before = after - (shares - 1 / n)
    crosses = before * after < 0
    length = jnp.where(crosses, jnp.abs(before) + jnp.abs(after), 1)
    areas = jnp.where(crosses, (before**2 + after**2) / length, jnp.abs(before) + jnp.abs(after))
    return (
        jnp.sum(areas)
        * (jnp.asarray(upper, values.dtype) - jnp.asarray(lower, values.dtype))
        / (2 * n)
    )


class AasState(NamedTuple):
    """What adversarial sampling carries from stage to stage: both players and their optimisers."""

    params: Any
    opt_state: optax.OptState
    density_params: Any
    density_opt_state: optax.OptState


@typed
def aas_init(
    params: Any,
    density_params: Any,
    optimizer: optax.GradientTransformation,
    density_optimizer: optax.GradientTransformation,
) -> AasState:
    """State of adversarial sampling at the given parameters of solution and density.

    >>> import jax.numpy as jnp, optax
    >>> adam = optax.adam(1e-3)
    >>> aas_init(jnp.zeros(3), jnp.zeros(2), adam, adam).params
    Array([0., 0., 0.], dtype=float32)
    """
    return AasState(
        params, optimizer.init(params), density_params, density_optimizer.init(density_params)
    )


@typed
def aas_update(
    key: PRNGKey,
    state: AasState,
    residual_fn: Callable[..., Any],
    boundary_fn: Callable[..., Any],
    log_density_fn: Callable[..., Any],
    sample_fn: Callable[..., Any],
    optimizer: optax.GradientTransformation,
    density_optimizer: optax.GradientTransformation,
    *,
    solution_steps: int = 500,
    density_steps: int = 1000,
    boundary_weight: Scalar = 100.0,
    beta: Scalar = 5.0,
    relative: bool = False,
) -> tuple[dict[str, jax.Array], AasState]:
    """One stage: draw points, train the solution on them, then the density against it.

    x_i ~ p; `solution_steps` steps down `aas_solution_loss`; then, with the residuals at these
    points held fixed and p as it was as the proposal, `density_steps` steps up
    `aas_density_objective`.

    `residual_fn(params, points)` -> (n,); `boundary_fn(params)` -> (m,);
    `log_density_fn(density_params, points)` -> (n,); `sample_fn(key, density_params)` -> (n, d), as
    `bounded_flow_sample`; the optimisers are those of `aas_init`; the counts and `relative` are
    static. Returns {"solution_loss": (solution_steps,), "density_objective": (density_steps,)} and
    the state. Compiled anew at each call outside `jax.jit`: call it inside.

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax, jax.numpy as jnp, optax
    >>> adam = optax.adam(0.1)
    >>> state = aas_init(jnp.zeros(()), jnp.zeros(()), adam, adam)
    >>> metrics, state = aas_update(
    ...     jax.random.key(0), state,
    ...     lambda a, x: a * x[:, 0] - x[:, 0],  # solved by a = 1
    ...     lambda a: a[None] - 1,
    ...     lambda c, x: c * x[:, 0] - jnp.log(jnp.where(c == 0, 1, jnp.expm1(c) / c)),
    ...     lambda key, c: jax.random.uniform(key, (8, 1)),
    ...     adam, adam, solution_steps=200, density_steps=5,
    ... )
    >>> print(state.params.round(2), metrics["density_objective"].shape)
    1.0 (5,)
    """
    points = lax.stop_gradient(sample_fn(key, state.density_params))

    def solution_loss(params: Any) -> jax.Array:
        return aas_solution_loss(
            residual_fn(params, points), boundary_fn(params), boundary_weight=boundary_weight
        )

    losses, params, opt_state = _descend(
        solution_loss, state.params, state.opt_state, optimizer, solution_steps
    )
    residual_sq = jnp.square(residual_fn(params, points))
    proposal = log_density_fn(state.density_params, points)

    def density_loss(density_params: Any) -> jax.Array:
        return -aas_density_objective(
            lambda x: log_density_fn(density_params, x),
            points,
            residual_sq,
            proposal,
            beta=beta,
            relative=relative,
        )

    costs, density_params, density_opt_state = _descend(
        density_loss,
        state.density_params,
        state.density_opt_state,
        density_optimizer,
        density_steps,
    )
    metrics = {"solution_loss": losses, "density_objective": -costs}
    return metrics, AasState(params, opt_state, density_params, density_opt_state)


def _descend(
    loss: Callable[[Any], jax.Array],
    params: Any,
    opt_state: optax.OptState,
    optimizer: optax.GradientTransformation,
    steps: int,
) -> tuple[jax.Array, Any, optax.OptState]:
    def step(carry: tuple[Any, optax.OptState], _: None) -> tuple[Any, jax.Array]:
        params, opt_state = carry
        value, gradient = jax.value_and_grad(loss)(params)
        updates, opt_state = optimizer.update(gradient, opt_state, params)
        return (optax.apply_updates(params, updates), opt_state), value

    (params, opt_state), values = lax.scan(step, (params, opt_state), length=steps)
    return values, params, opt_state
