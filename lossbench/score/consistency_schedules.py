"""What consistency training runs on: adjacent noise levels, and grids that grow during training."""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.stats import norm
from jax.typing import ArrayLike

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.score.samplers import karras_levels


@typed
def doubling_num_scales(
    step: Integer[ArrayLike, "*k"], total_steps: int, *, first: int = 10, last: int = 1280
) -> Integer[jax.Array, "*k"]:
    """Count the noise levels at a training step: it doubles in stages of equal length.

    min(first 2^floor(step / stage), last) + 1, stage = floor(total_steps / (log2(floor(last /
    first)) + 1)). `step` >= 0 may be traced; the rest is static.

    Song and Dhariwal, ICLR 2024, arXiv 2310.14189.

    >>> import jax.numpy as jnp
    >>> print(doubling_num_scales(jnp.array([0, 99, 100, 799]), 800))
    [  11   11   21 1281]
    """
    stage = max(int(total_steps / (math.log2(last // first) + 1)), 1)
    # So many doublings reach `last`; more would overflow.
    doublings = jnp.minimum(jnp.asarray(step) // stage, (last // first).bit_length())
    return jnp.minimum(first << doublings, last) + 1


@typed
def square_root_num_scales(
    step: Integer[ArrayLike, "*k"], total_steps: int, *, first: int = 2, last: int = 150
) -> Integer[jax.Array, "*k"]:
    """Count the noise levels at a training step, by the rule that consistency models began with.

    max(ceil(sqrt(step / total_steps ((last + 1)^2 - first^2) + first^2) - 1), 1) + 1. `step` >= 0
    may be traced; the rest is static.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax.numpy as jnp
    >>> print(square_root_num_scales(jnp.array([0, 500, 1000]), 1000))
    [  2 107 151]
    """
    share = jnp.asarray(step) / total_steps
    root = jnp.sqrt(share * ((last + 1) ** 2 - first**2) + first**2)
    return jnp.maximum(jnp.ceil(root - 1), 1).astype(jnp.int32) + 1


@typed
def adaptive_teacher_decay(
    num_scales: Integer[ArrayLike, "*k"], *, first: int = 2, initial: Scalar = 0.9
) -> Float[jax.Array, "*k"]:
    """Decay of the averaged teacher that consistency models began with: it rises with the grid.

    initial^(first / (num_scales - 1)), `first` as in `square_root_num_scales`. The improved recipe
    has no such teacher.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax.numpy as jnp
    >>> print(adaptive_teacher_decay(jnp.array([2, 3]), initial=0.5))
    [0.25 0.5 ]
    """
    return jnp.exp(first * jnp.log(initial) / (jnp.asarray(num_scales) - 1))


@typed
def sample_adjacent_levels(
    key: PRNGKey,
    num: int,
    *,
    num_scales: Integer[ArrayLike, ""],
    law: Literal["lognormal", "uniform"] = "lognormal",
    log_sigma_mean: Scalar = -1.1,
    log_sigma_std: Scalar = 2.0,
    sigma_min: Scalar = 0.002,
    sigma_max: Scalar = 80.0,
    rho: Scalar = 7.0,
) -> tuple[Float[jax.Array, " n"], Float[jax.Array, " n"]]:
    """Draw pairs of adjacent noise levels of the grid of `num_scales` `karras_levels`.

    "lognormal": the pair that holds a lognormal variable truncated to the grid, so pair i has the
    probability of `lognormal_index_probabilities`; "uniform": all pairs are equally likely.

    `num` pairs (static); `num_scales` >= 2 may be traced, so that a growing grid does not compile
    anew. Returns the lower and the upper levels (num,). O(num), without a table.

    Song and Dhariwal, ICLR 2024, arXiv 2310.14189.

    >>> import jax
    >>> lower, upper = sample_adjacent_levels(jax.random.key(0), 3, num_scales=2)
    >>> print(lower, upper)
    [0.002 0.002 0.002] [80. 80. 80.]
    """
    intervals = jnp.asarray(num_scales) - 1
    if law == "uniform":
        index = jax.random.randint(key, (num,), 0, intervals)
    else:
        first, last = (
            (jnp.log(sigma) - log_sigma_mean) / log_sigma_std for sigma in (sigma_min, sigma_max)
        )
        normal = jax.random.truncated_normal(key, first, last, (num,))
        sigma = jnp.exp(log_sigma_mean + log_sigma_std * normal)
        low, high, root = (jnp.asarray(each) ** (1 / rho) for each in (sigma_min, sigma_max, sigma))
        index = jnp.floor(intervals * (root - low) / (high - low)).astype(jnp.int32)
        index = jnp.clip(index, 0, intervals - 1)  # rounding may step over an end

    def level(index: jax.Array) -> jax.Array:
        return karras_levels(index / intervals, sigma_min=sigma_min, sigma_max=sigma_max, rho=rho)

    return level(index), level(index + 1)


@typed
def lognormal_index_probabilities(
    sigmas: Float[AnyArray, " k"], *, log_sigma_mean: Scalar = -1.1, log_sigma_std: Scalar = 2.0
) -> Float[jax.Array, " pairs"]:
    """Probability of each pair of adjacent levels under the lognormal law truncated to the grid.

    Phi((log sigma_(i+1) - mean) / std) - Phi((log sigma_i - mean) / std), normalised. `sigmas`
    rising (k,). Returns (k - 1,).

    Song and Dhariwal, ICLR 2024, arXiv 2310.14189.

    >>> import jax.numpy as jnp
    >>> print(lognormal_index_probabilities(jnp.exp(jnp.array([-3.1, -1.1, 0.9]))).round(3))
    [0.5 0.5]
    """
    z = (jnp.log(widen(sigmas)) - log_sigma_mean) / log_sigma_std
    # In the upper half the mirror image, whose small tails keep their digits.
    above = z[:-1] > 0
    start, end = jnp.where(above, -z[1:], z[:-1]), jnp.where(above, -z[:-1], z[1:])
    mass = norm.cdf(end) - norm.cdf(start)
    return mass / jnp.sum(mass)


@typed
def fourier_noise_embedding(
    level: Float[AnyArray, " n"], frequencies: Float[AnyArray, " m"], *, scale: Scalar = 0.02
) -> Float[jax.Array, "n features"]:
    """Embed noise levels (such as log(sigma) / 4) by sines and cosines of random frequencies.

    sin and cos of 2 pi scale frequency level. The improved recipe's `scale` is small, lest adjacent
    levels of a fine grid look unlike; consistency models began with 16.

    `level` (n,); `frequencies` (m,), fixed standard normal draws. Returns (n, 2 m).

    Song and Dhariwal, ICLR 2024, arXiv 2310.14189.

    >>> import jax.numpy as jnp
    >>> print(fourier_noise_embedding(jnp.array([0.0]), jnp.ones(2)))
    [[0. 0. 1. 1.]]
    """
    angle = 2 * jnp.pi * scale * widen(level)[:, None] * frequencies
    return jnp.concatenate([jnp.sin(angle), jnp.cos(angle)], axis=1)
