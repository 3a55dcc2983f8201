"""Reductions over the entries where a mask holds.

`where` broadcasts against `values`; None takes every entry. Masked entries may hold anything, NaN
and inf too: they change nothing and their derivative is exactly 0.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from lossbench._math.safe import Axis, widen


def _fill(values: ArrayLike, where: ArrayLike | None, fill: float) -> jax.Array:
    values = widen(values)
    return values if where is None else jnp.where(where, values, fill)


def masked_mean(values: ArrayLike, where: ArrayLike | None = None, axis: Axis = None) -> jax.Array:
    """Mean over the unmasked entries; 0 where there is none."""
    kept = _fill(values, where, 0)
    count = jnp.sum(jnp.broadcast_to(True if where is None else where, kept.shape), axis)
    return jnp.sum(kept, axis) / jnp.maximum(count, 1)


def masked_max(values: ArrayLike, where: ArrayLike | None = None, axis: Axis = None) -> jax.Array:
    """Maximum over the unmasked entries; -inf with derivative 0 where there is none."""
    return jnp.max(_fill(values, where, -jnp.inf), axis, initial=-jnp.inf)


def masked_logsumexp(
    values: ArrayLike, where: ArrayLike | None = None, axis: Axis = None
) -> jax.Array:
    """Log of the sum of exponentials of the unmasked entries.

    It is -inf with derivative 0 where there is none, and where all are -inf.
    """
    kept = _fill(values, where, -jnp.inf)
    empty = jnp.max(kept, axis, keepdims=True, initial=-jnp.inf) == -jnp.inf
    # A finite stand-in: the derivative of log at an empty sum would be 0 / 0.
    total = jax.nn.logsumexp(jnp.where(empty, 0, kept), axis, keepdims=True)
    return jnp.squeeze(jnp.where(empty, -jnp.inf, total), axis)
