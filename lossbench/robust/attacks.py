"""Attacks: the worst points near given ones, for any objective."""

import math
from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import normalize, safe_norm, widen
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


@typed
def pgd_attack(
    key: PRNGKey,
    objective: Callable[..., Any],
    x: Float[AnyArray, "n ..."],
    *,
    epsilon: Scalar,
    num_steps: int = 10,
    step_size: Scalar | None = None,
    norm: Literal["linf", "l2"] = "linf",
    bounds: tuple[Scalar, Scalar] | None = None,
    num_restarts: int = 1,
) -> Float[jax.Array, "n ..."]:
    """Points within `epsilon` of `x` that maximise an objective, by projected gradient ascent.

    x' <- project(x' + step_size direction), with the direction the sign of the gradient for "linf"
    and the gradient over its length for "l2", from a uniformly drawn point of the ball; the
    projection on the ball, and on the box `bounds` = (low, high) where given, is exact. Of all
    points visited, x itself included, each example keeps its best.

    `objective`: (n, ...) -> (n,), finite, its entry i a function of example i alone, else TypeError
    for its shape; `x` must lie within `bounds`; `step_size` defaults to 2.5 epsilon / num_steps;
    the counts and the norm are static. Returns the shape of `x`, without gradient.
    num_restarts (num_steps + 1) + 1 evaluations. The objective is compiled anew at each call
    outside `jax.jit`: call it inside.

    Madry et al., "Towards Deep Learning Models Resistant to Adversarial Attacks", ICLR 2018,
    arXiv 1706.06083.

    >>> import jax, jax.numpy as jnp
    >>> x = jnp.zeros((1, 2))
    >>> print(pgd_attack(jax.random.key(0), lambda x: x[:, 0] - x[:, 1], x, epsilon=0.5))
    [[ 0.5 -0.5]]
    """
    x = widen(x)
    shape, axes = x.shape, tuple(range(1, x.ndim))
    epsilon = jnp.asarray(epsilon, x.dtype)
    step_size = jnp.asarray(2.5 / num_steps * epsilon if step_size is None else step_size, x.dtype)

    def per_example(values: jax.Array) -> jax.Array:
        return jnp.expand_dims(values, axes)

    def project(delta: jax.Array) -> jax.Array:
        if norm == "linf":
            delta = jnp.clip(delta, -epsilon, epsilon)
            return delta if bounds is None else jnp.clip(x + delta, *bounds) - x
        length = safe_norm(delta, axes)
        shrink = jnp.where(length > epsilon, epsilon / jnp.where(length > 0, length, 1), 1)
        if bounds is None:
            return per_example(shrink) * delta

        # The nearest point of ball and box is the box's nearest to x + s delta, for the largest s
        # at which that lies in the ball; the box only shortens, so s = shrink always does.
        def boxed(s: jax.Array) -> jax.Array:
            return jnp.clip(x + per_example(s) * delta, *bounds) - x

        def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = ends
            middle = (low + high) / 2
            fits = safe_norm(boxed(middle), axes) <= epsilon
            return jnp.where(fits, middle, low), jnp.where(fits, high, middle)

        # The first middle of (shrink, 2 - shrink) is 1, no shrinking at all.
        low, _ = lax.fori_loop(0, 30, halve, (shrink, 2 - shrink))
        return boxed(jnp.minimum(low, 1))

    def random_delta(key: jax.Array) -> jax.Array:
        if norm == "linf":
            return epsilon * jax.random.uniform(key, shape, x.dtype, -1, 1)
        turn, reach = jax.random.split(key)
        direction = normalize(jax.random.normal(turn, shape, x.dtype), axes)
        radius = jax.random.uniform(reach, shape[:1], x.dtype) ** (1 / math.prod(shape[1:]))
        return epsilon * per_example(radius) * direction

    def evaluate(point: jax.Array) -> jax.Array:
        values = objective(point)
        if jnp.shape(values) != shape[:1]:
            raise TypeError(
                f"objective must return shape {shape[:1]}, one value an example, "
                f"got {jnp.shape(values)}"
            )
        return widen(values)

    def value_and_gradient(point: jax.Array) -> tuple[jax.Array, jax.Array]:
        def total(point: jax.Array) -> tuple[jax.Array, jax.Array]:
            values = evaluate(point)
            return jnp.sum(values), values

        gradient, values = jax.grad(total, has_aux=True)(point)
        # Stopped at each step, lest a gradient by the objective's parameters record the loop.
        return lax.stop_gradient((values, gradient))

    Best = tuple[jax.Array, jax.Array]

    def keep_better(best: Best, point: jax.Array, values: jax.Array) -> Best:
        better = values > best[1]
        return jnp.where(per_example(better), point, best[0]), jnp.where(better, values, best[1])

    def climb(_: int, carry: tuple[jax.Array, Best]) -> tuple[jax.Array, Best]:
        delta, best = carry
        values, gradient = value_and_gradient(x + delta)
        best = keep_better(best, x + delta, values)
        direction = jnp.sign(gradient) if norm == "linf" else normalize(gradient, axes)
        return project(delta + step_size * direction), best

    def restart(best: Best, key: jax.Array) -> tuple[Best, None]:
        start = project(random_delta(key))
        delta, best = lax.fori_loop(0, num_steps, climb, (start, best))
        return keep_better(best, x + delta, lax.stop_gradient(evaluate(x + delta))), None

    start = lax.stop_gradient((x, evaluate(x)))
    (worst, _), _ = lax.scan(restart, start, jax.random.split(key, num_restarts))
    return worst
