"""A normalizing flow on a box: a density that can be evaluated, drawn from and trained.

The flow of Tang, Wan and Liao's KRnet, as used by Tang, Zhai, Wan and Yang, "Adversarial Adaptive
Sampling", ICLR 2024, arXiv 2305.18702, without its rotations and its dropping of dimensions. A box
slightly larger than the given one is mapped to Gaussian coordinates, then affine couplings follow.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.scipy.special import ndtr, ndtri

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


class BoundedFlowParams(NamedTuple):
    """Parameters of a flow with c couplings in d dimensions, each stacked along the first axis."""

    log_scale: jax.Array
    """Of the affine layer before each coupling (c, d)."""
    bias: jax.Array
    """Of that layer (c, d)."""
    reach: jax.Array
    """Logarithm of the largest shift of each coordinate (c, d)."""
    weights: tuple[jax.Array, ...]
    """Of the couplings' networks: (c, d, width), (c, width, width), (c, width, 2 d)."""
    biases: tuple[jax.Array, ...]
    """(c, width), (c, width), (c, 2 d)."""


@typed
def bounded_flow_init(
    key: PRNGKey, *, dim: int, num_couplings: int = 6, width: int = 24
) -> BoundedFlowParams:
    """Parameters at which the flow is the uniform density on its box.

    `dim`, `num_couplings` and `width` (of two hidden layers) are static.

    >>> import jax
    >>> bounded_flow_init(jax.random.key(0), dim=2).bias.shape
    (6, 2)
    """
    first, second = jax.random.split(key)
    zeros = partial(jnp.zeros, dtype=jnp.float32)
    # The last layer is 0, so the couplings begin as the identity.
    weights = (
        jax.random.normal(first, (num_couplings, dim, width), jnp.float32) / dim**0.5,
        jax.random.normal(second, (num_couplings, width, width), jnp.float32) / width**0.5,
        zeros((num_couplings, width, 2 * dim)),
    )
    biases = tuple(zeros((num_couplings, size)) for size in (width, width, 2 * dim))
    affine = zeros((num_couplings, dim))
    return BoundedFlowParams(affine, affine, affine, weights, biases)


def _passive(params: BoundedFlowParams) -> jax.Array:
    """Which coordinates each coupling leaves as they are (c, d): one half, then the other."""
    couplings, dim = params.bias.shape
    return (jnp.arange(couplings)[:, None] + jnp.arange(dim)) % 2 == 0


def _coupling(
    layer: BoundedFlowParams, passive: jax.Array, z: jax.Array, scale_bound: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Scale and shift (n, d) of the active coordinates, functions of the passive ones."""
    hidden = jnp.where(passive, z, 0)
    for weight, bias in zip(layer.weights[:-1], layer.biases[:-1], strict=True):
        hidden = jnp.tanh(hidden @ weight + bias)
    scale, shift = jnp.split(hidden @ layer.weights[-1] + layer.biases[-1], 2, axis=-1)
    # Dead zones would need many layers to leave: both are bounded, smoothly.
    scale = 1 + scale_bound * jnp.tanh(scale)
    shift = jnp.exp(layer.reach) * jnp.tanh(shift)
    return jnp.where(passive, 1, scale), jnp.where(passive, 0, shift)


def _box(
    lower: AnyArray, upper: AnyArray, margin: Scalar, dtype: jnp.dtype
) -> tuple[jax.Array, jax.Array]:
    """Lower corner and sides of the enlarged box."""
    low, high = jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)
    spare = jnp.asarray(margin, dtype) * (high - low)
    return low - spare, high - low + 2 * spare


@jax.jit
def _log_density(
    params: BoundedFlowParams,
    points: jax.Array,
    corner: jax.Array,
    sides: jax.Array,
    scale_bound: jax.Array,
) -> jax.Array:
    place = (points - corner) / sides
    inside = jnp.all((place > 0) & (place < 1), axis=1)
    start = ndtri(jnp.where(inside[:, None], place, 0.5))

    def forward(
        carry: tuple[jax.Array, jax.Array], layer: tuple[BoundedFlowParams, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        z, log_volume = carry
        parameters, passive = layer
        z = jnp.exp(parameters.log_scale) * (z + parameters.bias)
        scale, shift = _coupling(parameters, passive, z, scale_bound)
        growth = jnp.sum(jnp.log(scale), axis=1) + jnp.sum(parameters.log_scale)
        return (scale * z + shift, log_volume + growth), None

    initial = (start, jnp.zeros_like(start[:, 0]))
    (z, log_volume), _ = lax.scan(forward, initial, (params, _passive(params)))
    # From Gaussian coordinates to the box: the densities of N(0, I) at both ends of the couplings.
    gaussians = (jnp.sum(start * start, axis=1) - jnp.sum(z * z, axis=1)) / 2
    value = gaussians + log_volume - jnp.sum(jnp.log(sides))
    return jnp.where(inside, value, -jnp.inf)


@typed
def bounded_flow_log_density(
    params: BoundedFlowParams,
    points: Float[AnyArray, "n d"],
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    margin: Scalar = 0.005,
    scale_bound: Scalar = 0.6,
) -> Float[jax.Array, " n"]:
    """Log-density of the flow at points: log N(z(x); 0, I) + log |dz / dx|.

    The box, enlarged by `margin` of its sides at each wall so that its own walls keep finite
    coordinates, is mapped to [0, 1]^d and by the normal quantile to Gaussian coordinates (KRnet's
    logit would start far from uniform near the walls); then come couplings z'' = z' (1 +
    scale_bound tanh s) + e^c tanh t of half of the coordinates, s and t functions of the other
    half, an affine layer before each. -inf outside the enlarged box.

    `params` of `bounded_flow_init`; `points` (n, d); `lower` and `upper` (d,); `scale_bound` in
    (0, 1). Returns (n,). O(n couplings width (width + d)).

    Tang, Wan and Liao, "Deep density estimation via invertible block-triangular mapping", 2020;
    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax, jax.numpy as jnp
    >>> params = bounded_flow_init(jax.random.key(0), dim=2)
    >>> points, low, high = jnp.array([[0.3, 1.0]]), jnp.zeros(2), jnp.full(2, 2.0)
    >>> print(jnp.exp(bounded_flow_log_density(params, points, low, high, margin=0.0)))
    [0.25]
    """
    points = widen(points)
    box = _box(lower, upper, margin, points.dtype)
    return _log_density(params, points, *box, jnp.asarray(scale_bound, points.dtype))


@partial(jax.jit, static_argnames=("shape",))
def _draw(
    key: PRNGKey,
    params: BoundedFlowParams,
    corner: jax.Array,
    sides: jax.Array,
    scale_bound: jax.Array,
    shape: tuple[int, int],
) -> jax.Array:
    def backward(
        z: jax.Array, layer: tuple[BoundedFlowParams, jax.Array]
    ) -> tuple[jax.Array, None]:
        parameters, passive = layer
        scale, shift = _coupling(parameters, passive, z, scale_bound)
        z = (z - shift) / scale
        return z * jnp.exp(-parameters.log_scale) - parameters.bias, None

    z = jax.random.normal(key, shape, corner.dtype)
    z, _ = lax.scan(backward, z, (params, _passive(params)), reverse=True)
    return corner + sides * ndtr(z)


@typed
def bounded_flow_sample(
    key: PRNGKey,
    params: BoundedFlowParams,
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    num_points: int,
    margin: Scalar = 0.005,
    scale_bound: Scalar = 0.6,
) -> Float[jax.Array, "n d"]:
    """Points of the box drawn from the flow; those that fall in its margin are drawn again.

    So the density of the draws is the flow's over its mass of the box (0.98 at the start in 2-D);
    after 100 rounds what is still outside is moved to the wall.

    Arguments as those of `bounded_flow_log_density`; `num_points` is static. Returns
    (num_points, d), without gradient. O(rounds n couplings width (width + d)).

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax, jax.numpy as jnp
    >>> params = bounded_flow_init(jax.random.key(0), dim=2)
    >>> low, high = jnp.zeros(2), jnp.ones(2)
    >>> bounded_flow_sample(jax.random.key(1), params, low, high, num_points=5).shape
    (5, 2)
    """
    params = lax.stop_gradient(params)
    dtype = params.bias.dtype
    low, high = jnp.asarray(lower, dtype), jnp.asarray(upper, dtype)
    corner, sides = _box(low, high, margin, dtype)
    bound = jnp.asarray(scale_bound, dtype)

    def outside(points: jax.Array) -> jax.Array:
        return jnp.any((points < low) | (points > high), axis=1)

    def redraw(carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        round_number, points = carry
        new = _draw(
            jax.random.fold_in(key, round_number), params, corner, sides, bound, points.shape
        )
        return round_number + 1, jnp.where(outside(points)[:, None], new, points)

    def unfinished(carry: tuple[jax.Array, jax.Array]) -> jax.Array:
        return (carry[0] < 100) & jnp.any(outside(carry[1]))

    nowhere = jnp.full((num_points, low.shape[0]), jnp.inf, dtype)
    _, points = lax.while_loop(unfinished, redraw, (jnp.zeros((), jnp.int32), nowhere))
    return jnp.clip(points, low, high)
