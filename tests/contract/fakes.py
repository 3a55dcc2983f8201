"""Closed-form stand-ins for networks: what a loss receives as `score_fn` or `apply`."""

from collections.abc import Callable

import jax
import jax.numpy as jnp


def linear_scores(d: int, k: int) -> Callable[[jax.Array], jax.Array]:
    """A fixed linear map from points (n, d) to class scores (n, k)."""

    def score_fn(x: jax.Array) -> jax.Array:
        # Made inside, so that the weights follow the dtype and the x64 mode of the call.
        return x @ jnp.cos(jnp.arange(d * k, dtype=x.dtype)).reshape(d, k)

    return score_fn
