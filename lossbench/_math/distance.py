"""Distances between the rows of two matrices, by matrix products but without their cancellation.

Rows must be finite: zero the masked ones first. With `y=None` the distances are those within `x`,
and the diagonal is exactly 0.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossbench._math.safe import normalize, power_of_two_scale, safe_sqrt, widen

# Below this share of |x|^2 + |y|^2 the product form has lost over two of float32's seven digits.
_CANCELLED = 1e-2


def _inner(x: jax.Array, y: jax.Array) -> jax.Array:
    # Accelerators multiply in fewer bits by default, which the subtraction would lay bare.
    return jnp.matmul(x, y.T, precision=lax.Precision.HIGHEST)


def _centre(x: jax.Array, y: jax.Array) -> jax.Array:
    return (jnp.sum(x, axis=0) + jnp.sum(y, axis=0)) / (len(x) + len(y))


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def _squared(x: jax.Array, y: jax.Array, within: bool) -> jax.Array:
    centre = _centre(x, y)
    u, v = x - centre, y - centre
    size = jnp.sum(u * u, axis=1)[:, None] + jnp.sum(v * v, axis=1)
    product_form = size - 2 * _inner(u, v)
    close = ~(product_form > _CANCELLED * size)
    if within:
        diagonal = jnp.eye(len(x), dtype=bool)
        product_form = jnp.where(diagonal, 0, product_form)
        close &= ~diagonal
    return lax.cond(
        jnp.any(close),
        # Several times slower, but fused: the n x m x d differences are never held.
        lambda: jnp.sum(jnp.square(x[:, None] - y), axis=-1),
        lambda: product_form,
    )


@_squared.defjvp
def _squared_jvp(
    within: bool,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    x, y = primals
    dx, dy = tangents
    centre = lax.stop_gradient(_centre(x, y))
    u, v = x - centre, y - centre
    # 2 <u_i - v_j, dx_i - dy_j>, in products so that neither mode holds n x m x d numbers.
    own = jnp.sum(u * dx, axis=1)[:, None] + jnp.sum(v * dy, axis=1)
    slope = 2 * (own - _inner(u, dy) - _inner(dx, v))
    if within:
        slope = jnp.where(jnp.eye(len(x), dtype=bool), 0, slope)
    return _squared(x, y, within), slope


def pairwise_squared_euclidean(x: ArrayLike, y: ArrayLike | None = None) -> jax.Array:
    """Squared Euclidean distances between the rows of `x` (n, d) and `y` (m, d): (n, m)."""
    x = widen(x)
    return _squared(x, x if y is None else widen(y), y is None)


def pairwise_euclidean(x: ArrayLike, y: ArrayLike | None = None) -> jax.Array:
    """Euclidean distances between the rows of `x` (n, d) and `y` (m, d), at any scale: (n, m).

    The derivative is 0 where two rows coincide.
    """
    x = widen(x)
    other = x if y is None else widen(y)
    centre = lax.stop_gradient(_centre(x, other))
    scale = jnp.maximum(power_of_two_scale(x - centre), power_of_two_scale(other - centre))
    return scale * safe_sqrt(_squared(x / scale, other / scale, y is None))


def pairwise_cosine(x: ArrayLike, y: ArrayLike | None = None) -> jax.Array:
    """Cosine distances 1 - cos between the rows of `x` (n, d) and `y` (m, d): (n, m).

    A zero row is at distance 1 from every other, with derivative 0.
    """
    x = normalize(x)
    other = x if y is None else normalize(y)
    # 1 - <u, v> = |u - v|^2 / 2 + (1 - |u|^2) / 2 + (1 - |v|^2) / 2, which keeps the digits of
    # small angles; the last two terms are 1/2 for zero rows, else 0.
    zero_rows = jnp.all(x == 0, axis=1)[:, None] / 2 + jnp.all(other == 0, axis=1) / 2
    if y is None:
        zero_rows = jnp.where(jnp.eye(len(x), dtype=bool), 0, zero_rows)
    return _squared(x, other, y is None) / 2 + zero_rows
