"""Derivatives of functions that act row by row, and the random probes that estimate traces."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._typing import PRNGKey

Probe = Literal["rademacher", "gaussian", "sphere"]
"""Laws of a random vector v with E v v^T = I; those on the sphere have norm sqrt(d)."""

BLOCK = 64  # tangents at once: beyond it memory counts, and the matrices are wide enough


def draw_probes(key: PRNGKey, probe: Probe, num_probes: int, x: jax.Array) -> jax.Array:
    """Draw `num_probes` vectors for each row of `x` (n, ...); returns (num_probes, n, ...)."""
    shape = (num_probes, *x.shape)
    if probe == "rademacher":
        return jax.random.rademacher(key, shape, x.dtype)
    vectors = jax.random.normal(key, shape, x.dtype)
    if probe == "gaussian":
        return vectors
    axes = tuple(range(2, vectors.ndim))
    return vectors * jnp.sqrt(x[0].size / jnp.sum(jnp.square(vectors), axis=axes, keepdims=True))


def row_dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """Inner products (n,) of the rows of two arrays (n, ...)."""
    return jnp.sum(a * b, axis=tuple(range(1, a.ndim)))


def map_axes(use: Callable[[jax.Array, jax.Array], Any], x: jax.Array) -> Any:
    """Stack `use(axis, direction)` over the axes of x (n, d), `BLOCK` of them at a time.

    The direction (n, d) is the axis's unit vector in every row.
    """

    def along(axis: jax.Array) -> Any:
        return use(axis, jnp.zeros_like(x).at[:, axis].set(1))

    return lax.map(along, jnp.arange(x.shape[1]), batch_size=BLOCK)


def map_tangents(
    fn: Callable[[jax.Array], Any], x: jax.Array, use: Callable[[jax.Array, Any], Any]
) -> Any:
    """Stack `use(axis, tangent)` over the axes of x (n, d), the tangent of `fn` along each.

    d passes for the whole batch, and no Jacobian of it.
    """
    return map_axes(lambda axis, direction: use(axis, jax.jvp(fn, (x,), (direction,))[1]), x)
