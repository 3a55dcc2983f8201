"""What the modules of the family share."""

import jax
import jax.numpy as jnp

from lossbench._typing import AnyArray


def like_rows(values: AnyArray, x: AnyArray) -> jax.Array:
    """One value a row (n,), or one for all (), in the shape that multiplies x (n, ...)."""
    values = jnp.asarray(values)
    return values if values.ndim == 0 else values.reshape(-1, *[1] * (x.ndim - 1))
