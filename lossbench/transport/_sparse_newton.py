"""Sparse Newton steps on the whole dual of entropic transport: the methods of the literature.

In units of epsilon the dual is F(x, y) = <a, x> + <b, y> - sum P, P_ij = exp(x_i + y_j -
C_ij / epsilon), with the Hessian -[diag(P 1), P; P^T, diag(P^T 1)]. Off the diagonal only some
entries of P are kept; the diagonal stays exact, so what remains is still positive definite and its
direction one of ascent. The kept entries are masked, not gathered: on CPU a product with a masked
matrix costs less than gathering one hundredth of its entries.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench.transport._newton import Newton
from lossbench.transport._schur import conjugate_gradients

_SWEEPS = 20  # Sinkhorn sweeps before the first Newton step
_BISECTIONS = 50
_SHORTEST = 1e-3  # step length below which a sweep of Sinkhorn is taken instead


class _State(NamedTuple):
    z: jax.Array
    """x and y joined, `(n + m,)`."""
    error: jax.Array
    shift: jax.Array
    errors: jax.Array
    iterations: jax.Array
    products: jax.Array


def _largest(plan: jax.Array, count: int) -> jax.Array:
    """Return the mask of the `count` largest entries (fewer where entries tie)."""
    if count >= plan.size:
        return jnp.ones(plan.shape, bool)
    floor = jnp.log(jnp.finfo(plan.dtype).tiny)
    logarithms = jnp.log(jnp.maximum(plan, jnp.finfo(plan.dtype).tiny))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        below, above = bounds
        middle = (below + above) / 2
        many = (logarithms >= middle).sum() > count
        return jnp.where(many, middle, below), jnp.where(many, above, middle)

    _, threshold = lax.fori_loop(0, _BISECTIONS, halve, (floor, logarithms.max() + 1))
    return logarithms >= threshold


def sparse_newton(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    *,
    tolerance: jax.Array,
    max_iterations: int,
    init: jax.Array | None,
    density: float | None,
) -> Newton:
    """Solve by Newton steps with `density * max(n, m)` entries; None is the safeguarded rule."""
    n, m = cost.shape
    dtype = cost.dtype
    scaled = cost / epsilon
    log_a, log_b = jnp.log(a), jnp.log(b)
    marginals = jnp.concatenate([a, b])

    def plan_at(z: jax.Array) -> jax.Array:
        return jnp.exp(z[:n, None] + z[n:] - scaled)

    def sums(plan: jax.Array) -> jax.Array:
        return jnp.concatenate([plan.sum(1), plan.sum(0)])

    def dual(z: jax.Array, total: jax.Array) -> jax.Array:
        return jnp.where(marginals > 0, marginals * z, 0).sum() - total

    def sinkhorn(z: jax.Array) -> jax.Array:
        x = log_a - jax.nn.logsumexp(z[n:] - scaled, axis=1)
        y = log_b - jax.nn.logsumexp(x[:, None] - scaled, axis=0)
        return jnp.concatenate([x, y])

    def newton_step(state: _State) -> _State:
        plan = plan_at(state.z)
        diagonal = sums(plan)
        gradient = marginals - diagonal
        norm = jnp.linalg.norm(gradient)
        if density is None:
            kept = jnp.where(plan >= 0.01 * norm, plan, 0)
            shift = epsilon * state.shift * norm
        else:
            kept = jnp.where(_largest(plan, round(density * max(n, m))), plan, 0)
            shift = jnp.asarray(1e-14, dtype)
        damped = jnp.where(diagonal > 0, diagonal + shift, 1)

        def operator(q: jax.Array) -> jax.Array:
            image = jnp.concatenate([kept @ q[n:], q[:n] @ kept])
            return damped * q + image

        step, solved = conjugate_gradients(
            operator,
            damped,
            gradient,
            tolerance=jnp.minimum(0.1, jnp.sqrt(norm)),
            max_iterations=300,
        )
        step = jnp.where(marginals > 0, step, 0)
        value = dual(state.z, diagonal.sum())

        # The dual's change falls below rounding near the optimum: then the error decides.
        noise = 100 * jnp.finfo(dtype).eps * (1 + jnp.abs(value))

        def try_length(carry: Any) -> Any:
            length = carry[0] / 2
            z = state.z + length * step
            plan = plan_at(z)
            gain = dual(z, plan.sum()) - value
            good = gain > noise
            error = jnp.abs(marginals - sums(plan)).sum()
            return length, gain, good | ((gain >= -noise) & (error < state.error))

        length, gain, good = lax.while_loop(
            lambda carry: ~carry[2] & (carry[0] > _SHORTEST),
            try_length,
            (jnp.asarray(2, dtype), jnp.asarray(0, dtype), jnp.asarray(False)),
        )
        predicted = length * (gradient @ step) - 0.5 * length**2 * (step @ operator(step))
        ratio = gain / predicted
        accepted = good & jnp.isfinite(step).all()
        fallback = sinkhorn(state.z)
        z = jnp.where(accepted, state.z + jnp.where(accepted, length * step, 0), fallback)
        worse = ~accepted | (ratio < 0.25)
        better = jnp.where(ratio > 0.75, jnp.maximum(state.shift / 2, 1e-3), state.shift)
        return state._replace(
            z=z, shift=jnp.where(worse, 4 * state.shift, better), products=state.products + solved
        )

    def body(state: _State) -> _State:
        sweeping = state.iterations < _SWEEPS
        state = lax.cond(sweeping, lambda s: s._replace(z=sinkhorn(s.z)), newton_step, state)
        error = jnp.abs(marginals - sums(plan_at(state.z))).sum()
        return state._replace(
            error=error,
            errors=state.errors.at[state.iterations].set(error),
            iterations=state.iterations + 1,
        )

    def cond(state: _State) -> Any:
        return (state.error >= tolerance) & (state.iterations < max_iterations)

    start = jnp.where(b > 0, 0.0 if init is None else init / epsilon, -jnp.inf).astype(dtype)
    state = _State(
        z=jnp.concatenate([jnp.where(a > 0, 0.0, -jnp.inf).astype(dtype), start]),
        error=jnp.full((), jnp.inf, dtype),
        shift=jnp.ones((), dtype),
        errors=jnp.full((max_iterations,), -1, dtype),
        iterations=jnp.asarray(0),
        products=jnp.asarray(0),
    )
    state = lax.while_loop(cond, body, state)
    return Newton(
        f=epsilon * state.z[:n],
        g=epsilon * state.z[n:],
        errors=state.errors,
        iterations=state.iterations,
        products=state.products,
        converged=state.error < tolerance,
    )
