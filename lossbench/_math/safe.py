"""Square root, logarithm and norm whose derivatives are finite where the textbook ones are not.

At zero the derivative is taken as 0, the subgradient of least norm. For `x log x` and its kin call
`jax.scipy.special.xlogy` and `entr`.
"""

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

Axis = int | tuple[int, ...] | None


def widen(x: ArrayLike) -> jax.Array:
    """Return `x` in the dtype that it is reduced in: float32, or float64 if it comes so."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def safe_sqrt(x: ArrayLike) -> jax.Array:
    """Square root with derivative 0 at 0; a negative `x` gives NaN."""
    x = jnp.asarray(x)
    zero = x == 0
    return jnp.where(zero, 0, jnp.sqrt(jnp.where(zero, 1, x)))


def safe_log(x: ArrayLike) -> jax.Array:
    """Logarithm with derivative 0 at 0, where its value is -inf; a negative `x` gives NaN."""
    x = jnp.asarray(x)
    zero = x == 0
    return jnp.where(zero, -jnp.inf, jnp.log(jnp.where(zero, 1, x)))


def power_of_two_scale(x: jax.Array, axis: Axis = None) -> jax.Array:
    """Power of two, constant to autodiff, that brings the largest |x| along `axis` near 1.

    Dividing by it is exact, so squares neither overflow nor underflow and nothing else changes. It
    is 1 where x holds inf or NaN; the axes are kept.
    """
    largest = jnp.max(jnp.abs(lax.stop_gradient(x)), axis=axis, keepdims=True, initial=0)
    _, exponent = jnp.frexp(jnp.where(jnp.isfinite(largest), largest, 1))
    # Short of the extremes, so that a derivative over the scale does not underflow.
    limit = jnp.finfo(x.dtype).maxexp * 3 // 4
    return jnp.ldexp(jnp.ones_like(largest), jnp.clip(exponent - 1, -limit, limit))


def safe_norm(x: ArrayLike, axis: Axis = -1, keepdims: bool = False) -> jax.Array:
    """Euclidean norm, exact at every representable scale, with derivative 0 at the zero vector."""
    x = widen(x)
    scale = power_of_two_scale(x, axis)
    norm = scale * safe_sqrt(jnp.sum(jnp.square(x / scale), axis=axis, keepdims=True))
    return norm if keepdims else jnp.squeeze(norm, axis)


def normalize(x: ArrayLike, axis: Axis = -1) -> jax.Array:
    """`x` over its Euclidean norm; zero vectors stay zero, with derivative 0."""
    x = widen(x)
    # The direction does not depend on the scale, so the scale may be a constant here.
    x = x / power_of_two_scale(x, axis)
    norm = safe_sqrt(jnp.sum(jnp.square(x), axis=axis, keepdims=True))
    return jnp.where(norm == 0, 0, x / jnp.where(norm == 0, 1, norm))
