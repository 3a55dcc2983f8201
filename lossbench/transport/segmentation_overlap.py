"""Overlap of segmentations: a loss for one mask, and measures of a set against several raters.

Masks are arrays of any shape, foreground where they exceed 1/2. An empty mask is at distance 0 from
an empty one and at distance 1 from any other.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Scalar, typed


@typed
def focal_tversky_loss(
    probabilities: Float[AnyArray, "b *shape"],
    masks: Float[AnyArray, "b *shape"],
    *,
    alpha: Scalar = 0.7,
    gamma: Scalar = 0.75,
    smooth: Scalar = 1.0,
) -> Float[jax.Array, " b"]:
    """Focal Tversky loss of each item: an overlap that weighs false negatives and positives.

    (1 - T)^gamma, T = (TP + s) / (TP + alpha FN + (1 - alpha) FP + s) with soft counts over all
    pixels of the item, s = `smooth`. alpha = 1/2 and gamma = 1 is the soft Dice loss with 2 s added
    to its numerator and denominator. The gradient is 0 where the prediction is perfect; just short
    of that it is unbounded for gamma < 1.

    `probabilities` (b, ...) in [0, 1]; `masks` (b, ...) in [0, 1]; `gamma` and `smooth` > 0.
    Returns (b,) in [0, 1].

    Abraham and Khan, "A Novel Focal Tversky Loss Function with Improved Attention U-Net for Lesion
    Segmentation", ISBI 2019, arXiv 1810.07842.

    >>> import jax.numpy as jnp
    >>> mask = jnp.array([[1.0, 0.0, 0.0]])
    >>> print(focal_tversky_loss(1 - mask, mask, gamma=1.0).round(3))
    [0.565]
    """
    p, y = widen(probabilities), widen(masks)
    alpha, gamma, smooth = (jnp.asarray(h, p.dtype) for h in (alpha, gamma, smooth))
    pixels = tuple(range(1, p.ndim))
    missed = jnp.sum((1 - p) * y, axis=pixels)
    wrong = jnp.sum(p * (1 - y), axis=pixels)
    # 1 - T in one fraction, which keeps its digits where T is near 1.
    lost = alpha * missed + (1 - alpha) * wrong
    share = lost / (jnp.sum(p * y, axis=pixels) + lost + smooth)
    perfect = share <= 0
    return jnp.where(perfect, 0, jnp.where(perfect, 1, share) ** gamma)


def _overlaps(samples: AnyArray, masks: AnyArray) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Number of foreground pixels in common (b, n, r), and of each: (b, n) and (b, r)."""

    def flatten(x: AnyArray) -> jax.Array:
        wide = widen(x)
        foreground = (wide > 0.5).astype(wide.dtype)
        return foreground.reshape(*wide.shape[:2], math.prod(wide.shape[2:]))

    x, y = flatten(samples), flatten(masks)
    common = jnp.einsum("bnp,brp->bnr", x, y, precision=lax.Precision.HIGHEST)
    return common, jnp.sum(x, axis=2), jnp.sum(y, axis=2)


def _jaccard_distance(samples: AnyArray, masks: AnyArray) -> jax.Array:
    common, own, other = _overlaps(samples, masks)
    union = own[:, :, None] + other[:, None] - common
    return jnp.where(union > 0, 1 - common / jnp.maximum(union, 1), 0)


@typed
def generalized_energy_distance(
    samples: Float[AnyArray, "b n *shape"], masks: Float[AnyArray, "b r *shape"]
) -> Float[jax.Array, " b"]:
    """Generalised energy distance between sampled and given segmentations of each item.

    2 mean_ij d(s_i, y_j) - mean_ii' d(s_i, s_i') - mean_jj' d(y_j, y_j') with d = 1 - IoU, over all
    pairs, each with itself included: at least 0, at most 2, and 0 where the sets agree. Two empty
    masks are at distance 0.

    `samples` (b, n, ...) and `masks` (b, r, ...), foreground where > 1/2. Returns (b,), without
    gradient. O(b (n + r)^2 p) for p pixels.

    Kohl et al., "A Probabilistic U-Net for Segmentation of Ambiguous Images", NeurIPS 2018,
    arXiv 1806.05034.

    >>> import jax.numpy as jnp
    >>> ones, zeros = jnp.ones((1, 2, 3)), jnp.zeros((1, 2, 3))
    >>> print(generalized_energy_distance(ones, zeros))
    [2.]
    """
    pairs = (samples, masks), (samples, samples), (masks, masks)
    between, among, rated = (jnp.mean(_jaccard_distance(*pair), axis=(1, 2)) for pair in pairs)
    return 2 * between - among - rated


@typed
def sample_diversity(samples: Float[AnyArray, "b n *shape"]) -> Float[jax.Array, " b"]:
    """Mean of 1 - IoU over the distinct pairs of segmentations of each item.

    The number to compare between samples and raters, as it does not depend on how many there are.

    `samples` (b, n, ...), n >= 2 else ValueError, foreground where > 1/2. Returns (b,) in [0, 1],
    without gradient. O(b n^2 p) for p pixels.

    Kohl et al., NeurIPS 2018, arXiv 1806.05034 (a term of the generalised energy distance).

    >>> import jax.numpy as jnp
    >>> print(sample_diversity(jnp.array([[[1.0, 1.0], [1.0, 0.0]]])))
    [0.5]
    """
    n = samples.shape[1]
    if n < 2:
        raise ValueError(f"samples must hold at least two of each item, got {n}")
    return jnp.sum(_jaccard_distance(samples, samples), axis=(1, 2)) / (n * (n - 1))


@typed
def max_dice(
    samples: Float[AnyArray, "b n *shape"], masks: Float[AnyArray, "b r *shape"]
) -> Float[jax.Array, " b"]:
    """Dice score of the sample that matches each mask best, averaged over the masks of each item.

    mean_j max_i 2 |s_i and y_j| / (|s_i| + |y_j|), 1 for two empty masks: whether every rater is
    represented among the samples.

    `samples` (b, n, ...) and `masks` (b, r, ...), foreground where > 1/2. Returns (b,) in [0, 1],
    without gradient. O(b n r p) for p pixels.

    Rahman et al., "Ambiguous Medical Image Segmentation using Diffusion Models", CVPR 2023,
    arXiv 2304.04745.

    >>> import jax.numpy as jnp
    >>> samples, masks = jnp.array([[[1.0, 0, 0], [0, 0, 0]]]), jnp.array([[[1.0, 1, 1]]])
    >>> print(max_dice(samples, masks))
    [0.5]
    """
    common, own, other = _overlaps(samples, masks)
    total = own[:, :, None] + other[:, None]
    dice = jnp.where(total > 0, 2 * common / jnp.maximum(total, 1), 1)
    return jnp.mean(jnp.max(dice, axis=1), axis=1)
