"""Truncated Newton on the semi-dual of entropic optimal transport.

With f eliminated by the exact row-wise softmin, the dual is a concave function of v = g / epsilon,

    H(v) = <a, u(v)> + <b, v>,    u = log a - log(K e^v),    P = diag(e^u) K diag(e^v),

whose gradient is b - c with c = P^T 1 and whose negative Hessian S = diag(c) - P^T diag(1/a) P is
the Laplacian of a graph. K is formed once and then only multiplied; directions come from conjugate
gradients on S, whose diagonal must be formed without cancellation, since where P is nearly a
permutation it is the tiny rest that the direction is about.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench.transport._schur import (
    Point,
    conjugate_gradients,
    evaluate,
    evaluate_one,
    schur_operator,
)
from lossbench.transport._strips import Dense, Streamed, Sweep

_STAGE_RATIO = 3.0  # epsilon falls by this from stage to stage
_STAGE_TOLERANCE = 1e-2  # marginal error at which a stage hands its potential on
_ABSORB = 20.0  # largest |v| for which the kernel is used unchanged
_STEPS = (1.0, 0.5, 0.25, 0.1)  # step lengths tried at once


class Newton(NamedTuple):
    """Potentials with P_ij = exp((f_i + g_j - C_ij) / epsilon), and how they were found."""

    f: jax.Array
    g: jax.Array
    errors: jax.Array
    """Marginal error after each outer step, `(max_iterations,)`, -1 where none was made."""
    iterations: jax.Array
    products: jax.Array
    """Conjugate gradient iterations: pairs of products with the kernel."""
    converged: jax.Array


class _State(NamedTuple):
    g: jax.Array
    f: jax.Array
    epsilon: jax.Array
    previous_g: jax.Array
    previous_epsilon: jax.Array
    error: jax.Array
    best: jax.Array
    """Smallest error so far by a tenth, and the step at which it was reached."""
    best_step: jax.Array
    errors: jax.Array
    iterations: jax.Array
    products: jax.Array


def _direction(
    sweep: Sweep,
    point: Point,
    a: jax.Array,
    b: jax.Array,
    tolerance: jax.Array,
    max_iterations: int,
) -> tuple[jax.Array, jax.Array]:
    """Return a step of ascent: the Newton equation, damped, solved as far as it is worth."""
    weights = jnp.where(a > 0, jnp.exp(2 * point.u) / jnp.where(a > 0, a, 1), 0)
    relative = point.error / b.sum()
    damping = jnp.clip(1e-2 * relative, 1e-10, 1e-2)
    operator, diagonal = schur_operator(sweep, point.v, weights, point.columns, damping)
    rhs = b - point.columns
    size = jnp.abs(rhs).max()
    rhs = rhs / jnp.where(size > 0, size, 1)  # far below 1 it would be lost in float32
    step, iterations = conjugate_gradients(
        operator,
        diagonal,
        rhs,
        tolerance=jnp.clip(jnp.sqrt(relative), 0.3 * tolerance / point.error, 0.1),
        max_iterations=max_iterations,
    )
    step = step * size
    step = jnp.where(b > 0, step - (b * step).sum() / b.sum(), 0)
    step = jnp.where(jnp.isfinite(step).all(), step, 0)
    return jnp.clip(step, -_ABSORB, _ABSORB), iterations


def _newton_steps(
    sweep: Sweep,
    point: Point,
    counts: tuple[jax.Array, ...],
    a: jax.Array,
    b: jax.Array,
    *,
    tolerance: jax.Array,
    patience: int,
    max_products: int,
    max_iterations: int,
) -> tuple[Point, tuple[jax.Array, ...]]:
    """Take Newton steps on one kernel until it converges, is worn out, or no longer helps."""
    dtype = point.v.dtype
    log_b = jnp.log(jnp.where(b > 0, b, 1))
    tiny = jnp.finfo(dtype).tiny

    def sinkhorn(point: Point) -> jax.Array:
        v = point.v + log_b - jnp.log(jnp.maximum(point.columns, tiny))
        return jnp.where(b > 0, v, 0)

    def cond(carry: Any) -> jax.Array:
        point, (_, best_step, _, iterations, _) = carry
        going = (point.error >= tolerance) & (jnp.abs(point.v).max() <= _ABSORB)
        return going & (iterations < max_iterations) & (iterations - best_step < patience)

    def body(carry: Any) -> Any:
        point, (best, best_step, errors, iterations, products) = carry
        step, solved = _direction(sweep, point, a, b, tolerance, max_products)
        lengths = jnp.asarray(_STEPS, dtype)
        tried = jnp.concatenate([point.v + lengths[:, None] * step, sinkhorn(point)[None]])
        found = evaluate(sweep, tried, a, b)
        # Differences first: what is left of the objective's change is then well above rounding.
        rise = jnp.where(a > 0, a * (found.u - point.u), 0).sum(-1) + (found.v - point.v) @ b
        rise = jnp.where(jnp.isfinite(rise) & jnp.isfinite(found.error), rise, -jnp.inf)
        # The objective decides, and where it no longer can, the error among those that do not
        # lower it. Sinkhorn's step, the last one, never lowers the objective nor raises the error.
        noise = 30 * jnp.finfo(dtype).eps * b.sum()
        least = jnp.where(rise >= -noise, found.error, jnp.inf).at[-1].min(jnp.finfo(dtype).max)
        chosen = jnp.where(rise.max() > noise, rise.argmax(), least.argmin())
        taken = jax.tree.map(lambda array: array[chosen], found)
        # Sinkhorn's sweep after it mends what is local, for the price of one conjugate gradient.
        point = evaluate_one(sweep, sinkhorn(taken), a, b)
        better = point.error < 0.9 * best
        counts = (
            jnp.where(better, point.error, best),
            jnp.where(better, iterations + 1, best_step),
            errors.at[iterations].set(point.error),
            iterations + 1,
            products + solved,
        )
        return point, counts

    return lax.while_loop(cond, body, (point, counts))


def _phase(
    operator: Dense | Streamed,
    state: _State,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    *,
    tolerance: jax.Array,
    dtype: Any,
    patience: int,
    max_products: int,
    max_iterations: int,
) -> _State:
    """Follow epsilon down and converge, with the kernel in `dtype`.

    The kernel is formed anew whenever v has gone far from where it was formed.
    """
    outer = state.g.dtype
    narrow_a, narrow_b = a.astype(dtype), b.astype(dtype)

    def finished(error: Any, aim: Any, iterations: Any, best_step: Any) -> jax.Array:
        # Written so that it is true of an error that is not a number.
        return ~(error >= aim) | (iterations - best_step >= patience)

    def cond(state: _State) -> jax.Array:
        done = (state.epsilon <= epsilon) & finished(
            state.error, tolerance, state.iterations, state.best_step
        )
        return ~done & (state.iterations < max_iterations)

    def body(state: _State) -> _State:
        g = jnp.where(b > 0, state.g, -jnp.inf)
        sweep = operator.sweep(g, state.epsilon, dtype)
        point = evaluate_one(sweep, jnp.zeros(b.shape, dtype), narrow_a, narrow_b)
        last = state.epsilon <= epsilon
        aim = jnp.where(last, tolerance, _STAGE_TOLERANCE * b.sum()).astype(dtype)
        counts = (
            jnp.asarray(state.best, dtype),
            state.best_step,
            state.errors.astype(dtype),
            state.iterations,
            state.products,
        )
        point, (best, best_step, errors, iterations, products) = _newton_steps(
            sweep,
            point,
            counts,
            narrow_a,
            narrow_b,
            tolerance=aim,
            patience=patience,
            max_products=max_products,
            max_iterations=max_iterations,
        )
        (shift,), _ = sweep(lambda kernel, shift: ((shift,), ()))
        g = state.g + state.epsilon * point.v
        f = state.epsilon * (point.u - shift)
        # The next stage starts on the line through the last two: potentials are nearly linear in
        # a small epsilon.
        handed_on = ~last & finished(point.error, aim, iterations, best_step)
        next_epsilon = jnp.maximum(state.epsilon / _STAGE_RATIO, epsilon)
        slope = (next_epsilon - state.epsilon) / (state.epsilon - state.previous_epsilon)
        return _State(
            g=jnp.where(handed_on, g + slope * (g - state.previous_g), g),
            f=f.astype(outer),
            epsilon=jnp.where(handed_on, next_epsilon, state.epsilon),
            previous_g=jnp.where(handed_on, g, state.previous_g),
            previous_epsilon=jnp.where(handed_on, state.epsilon, state.previous_epsilon),
            error=jnp.where(handed_on, jnp.inf, point.error).astype(outer),
            best=jnp.where(handed_on, jnp.inf, best).astype(outer),
            best_step=jnp.where(handed_on, iterations, best_step),
            errors=errors.astype(outer),
            iterations=iterations,
            products=products,
        )

    return lax.while_loop(cond, body, state)


def newton(
    operator: Dense | Streamed,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    *,
    tolerance: jax.Array,
    max_iterations: int,
    init: jax.Array | None,
) -> Newton:
    """Solve from `init`, a potential g, or from zero with epsilon falling in stages."""
    outer = b.dtype
    mass = b.sum()
    state = _State(
        g=jnp.zeros_like(b) if init is None else jnp.where(b > 0, init, 0),
        f=jnp.zeros_like(a),
        epsilon=epsilon if init is not None else jnp.maximum(operator.spread / 20, epsilon),
        previous_g=jnp.zeros_like(b),
        previous_epsilon=jnp.full_like(epsilon, jnp.inf),
        error=jnp.full((), jnp.inf, outer),
        best=jnp.full((), jnp.inf, outer),
        best_step=jnp.asarray(0),
        errors=jnp.full((max_iterations,), -1, outer),
        iterations=jnp.asarray(0),
        products=jnp.asarray(0),
    )
    # Half the traffic as long as float32 can tell right from wrong.
    phases: list[tuple[Any, Any, int, int]] = [
        (jnp.float32, 2e-5 * mass, 3, 100),
        (jnp.float64, 0.0, 30, 1000),
    ]
    if outer != jnp.float64:
        phases = [(jnp.float32, 0.0, 30, 300)]
    for dtype, exit_error, patience, max_products in phases:
        state = _phase(
            operator,
            state._replace(error=jnp.full((), jnp.inf, outer), best_step=state.iterations),
            a,
            b,
            epsilon,
            tolerance=jnp.maximum(tolerance, exit_error),
            dtype=dtype,
            patience=patience,
            max_products=max_products,
            max_iterations=max_iterations,
        )
    return Newton(
        f=jnp.where(a > 0, state.f, -jnp.inf),
        g=jnp.where(b > 0, state.g, -jnp.inf),
        errors=state.errors,
        iterations=state.iterations,
        products=state.products,
        converged=state.error < tolerance,
    )
