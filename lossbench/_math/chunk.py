"""Row blocks, so that what is n x n need not be held at once, in the backward pass either."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax


def map_row_blocks(fn: Callable[..., Any], *arrays: jax.Array, chunk_size: int | None) -> Any:
    """Concatenate the results of `fn` over blocks of `chunk_size` rows of `arrays`.

    `fn` takes one block of each array and returns a pytree whose leaves have a row for each row of
    the block; it may close over whole arrays. Each block is computed again in the backward pass, so
    that its intermediates live one block at a time. None (static, like any `chunk_size`) is one
    block, kept as it is. All arrays have the same number of rows.
    """
    rows = arrays[0].shape[0]
    if chunk_size is None or chunk_size >= rows:
        return fn(*arrays)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    padding = -rows % chunk_size

    def split(array: jax.Array) -> jax.Array:
        # The last block repeats the last row: zeros might be where fn has no derivative, and
        # 0 x NaN would reach what fn closes over.
        padded = jnp.concatenate([array, jnp.repeat(array[-1:], padding, axis=0)])
        return padded.reshape(-1, chunk_size, *array.shape[1:])

    # Inside a loop XLA cannot undo the recomputation, so the barriers against it are not needed.
    block = jax.checkpoint(lambda block: fn(*block), prevent_cse=False)
    blocks = lax.map(block, tuple(split(array) for array in arrays))
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:])[:rows], blocks)
