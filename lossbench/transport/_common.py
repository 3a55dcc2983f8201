"""What the modules of the family share."""

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._typing import AnyArray


def present(x: AnyArray, weights: AnyArray | None) -> jax.Array:
    """`x` (n, d) with the rows of zero weight, which may hold anything, set to 0."""
    x = widen(x)
    return x if weights is None else jnp.where(jnp.asarray(weights)[:, None] > 0, x, 0)


def weighted_mean(x: jax.Array, weights: AnyArray | None) -> jax.Array:
    """Mean along the leading axis; 0 where there is no weight."""
    if weights is None:
        return jnp.mean(x, axis=0)
    weights = jnp.asarray(weights, x.dtype)
    total = jnp.sum(weights)
    return weights @ x / jnp.where(total > 0, total, 1)


def root_of(power: jax.Array, p: float) -> jax.Array:
    """`power`^(1/p), 0 with derivative 0 where `power` is not positive."""
    positive = power > 0
    return jnp.where(positive, jnp.where(positive, power, 1) ** (1 / p), 0)
