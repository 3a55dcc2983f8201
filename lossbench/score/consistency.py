"""Consistency models: networks that take a noised point to the start of its probability flow.

Noise is that of `Karras`, x_sigma = x + sigma noise. Training compares the outputs at two adjacent
levels of a grid that grows finer, see `sample_adjacent_levels` and `doubling_num_scales`.
"""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._math.safe import safe_sqrt
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score._common import like_rows

Network = Callable[[jax.Array, jax.Array], jax.Array]
Metric = Callable[[jax.Array, jax.Array], jax.Array]
LevelWeighting = Literal["inverse_gap", "uniform"]


@typed
def consistency_scalings(
    sigma: Float[AnyArray, "*n"], *, sigma_data: Scalar = 0.5, sigma_min: Scalar = 0.002
) -> tuple[
    Float[jax.Array, "*n"], Float[jax.Array, "*n"], Float[jax.Array, "*n"], Float[jax.Array, "*n"]
]:
    """Return c_skip, c_out, c_in and c_noise: f(x, sigma) = c_skip x + c_out F(c_in x, c_noise).

    EDM's scalings, moved so that f(x, sigma_min) = x for any network F: with gap = sigma -
    sigma_min, sigma_data^2 / (gap^2 + sigma_data^2), sigma_data gap / sqrt(sigma^2 + sigma_data^2),
    1 / sqrt(sigma^2 + sigma_data^2), log(sigma) / 4.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax.numpy as jnp
    >>> print([float(c) for c in consistency_scalings(jnp.array(1.0), sigma_min=1.0)[:2]])
    [1.0, 0.0]
    """
    sigma = widen(sigma)
    sigma_data = jnp.asarray(sigma_data, sigma.dtype)
    gap = sigma - jnp.asarray(sigma_min, sigma.dtype)
    root = jnp.sqrt(jnp.square(sigma) + jnp.square(sigma_data))
    skip = jnp.square(sigma_data) / (jnp.square(gap) + jnp.square(sigma_data))
    return skip, sigma_data * gap / root, 1 / root, jnp.log(sigma) / 4


@typed
def consistency_output(
    net_fn: Network,
    x: Float[AnyArray, "n *d"],
    sigma: Float[AnyArray, " n"],
    *,
    sigma_data: Scalar = 0.5,
    sigma_min: Scalar = 0.002,
) -> Float[jax.Array, "n *d"]:
    """Start of the probability flow that a network's output stands for, see `consistency_scalings`.

    `net_fn(c_in x (n, *d), c_noise (n,))` -> (n, *d); `x` (n, *d); `sigma` >= sigma_min (n,), where
    it is sigma_min the result is x. Returns (n, *d). One pass.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax.numpy as jnp
    >>> x, sigma = jnp.ones((2, 1)), jnp.array([0.002, 0.502])
    >>> print(consistency_output(lambda x, c_noise: 0 * x, x, sigma).round(3))
    [[1. ]
     [0.5]]
    """
    x = widen(x)
    skip, out, scale, level = consistency_scalings(
        sigma, sigma_data=sigma_data, sigma_min=sigma_min
    )
    value = widen(net_fn((like_rows(scale, x) * x).astype(x.dtype), level))
    return (like_rows(skip, x) * x + like_rows(out, x) * value).astype(x.dtype)


@typed
def pseudo_huber(
    x: Float[AnyArray, "n *d"], y: Float[AnyArray, "n *d"], *, c: Scalar | None = None
) -> Float[jax.Array, " n"]:
    """Distance of whole examples, smooth at 0: sqrt(|x - y|^2 + c^2) - c, the norm over all axes.

    |x - y|^2 / (2 c) when they are near, |x - y| when they are far; its gradient is shorter than 1.

    `x`, `y` (n, *d); `c` >= 0, by default 0.00054 sqrt(number of coordinates), 0.03 for images of
    32 x 32 x 3. Returns (n,).

    Charbonnier et al., ICIP 1994; in consistency training Song and Dhariwal, ICLR 2024,
    arXiv 2310.14189.

    >>> import jax.numpy as jnp
    >>> print(pseudo_huber(jnp.array([[3.0, 0.0]]), jnp.array([[0.0, 4.0]]), c=12.0))
    [1.]
    """
    difference = widen(x) - widen(y)
    if c is None:
        c = 0.00054 * difference[0].size ** 0.5
    squared = row_dot(difference, difference)
    # The subtraction as a quotient, which does not cancel; 0 / 0 where c and the distance are 0.
    divisor = safe_sqrt(squared + jnp.square(c)) + c
    return (squared / jnp.where(divisor == 0, 1, divisor)).astype(squared.dtype)


def _distance(
    student_fn: Network,
    teacher_fn: Network | None,
    upper: tuple[jax.Array, jax.Array],
    lower: tuple[jax.Array, jax.Array],
    metric: Metric,
    weighting: LevelWeighting,
) -> jax.Array:
    """Weighted distance of the student's output at the upper point from the teacher's below."""
    target = lax.stop_gradient((teacher_fn or student_fn)(*lower))
    distance = metric(student_fn(*upper), target)
    if weighting == "uniform":
        return distance
    return distance / (upper[1] - lower[1])


@typed
def consistency_training_loss(
    key: PRNGKey,
    student_fn: Network,
    x: Float[AnyArray, "n *d"],
    lower: Float[AnyArray, " n"],
    upper: Float[AnyArray, " n"],
    *,
    teacher_fn: Network | None = None,
    metric: Metric = pseudo_huber,
    weighting: LevelWeighting = "inverse_gap",
) -> Float[jax.Array, " n"]:
    """Distance of a consistency model's outputs at two adjacent noise levels of the same noise.

    metric(f(x + upper noise, upper), stop_gradient(f(x + lower noise, lower))), divided by upper -
    lower unless `weighting` (static) is "uniform". The improved recipe is the default: the student
    is its own teacher, for with a moving average of its parameters as the teacher the gradient of a
    fine grid says nothing of the data. If the network drops units, let the function drop the same
    ones in both calls.

    `student_fn(x (n, *d), sigma (n,))` -> (n, *d), see `consistency_output`; `x` (n, *d); `lower` <
    `upper` (n,), see `sample_adjacent_levels`; `teacher_fn` as `student_fn`; `metric(output,
    target)` -> (n,). Returns (n,). Two passes, one of them differentiated.

    Song and Dhariwal, "Improved Techniques for Training Consistency Models", ICLR 2024,
    arXiv 2310.14189; Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax, jax.numpy as jnp
    >>> exact = lambda x, sigma: 0.002 * x / sigma[:, None]  # all mass at 0
    >>> lower, upper = jnp.array([0.5, 1.0]), jnp.array([1.0, 2.0])
    >>> loss = consistency_training_loss(jax.random.key(0), exact, jnp.zeros((2, 3)), lower, upper)
    >>> print(loss.round(3))
    [0. 0.]
    """
    x = widen(x)
    lower, upper = jnp.asarray(lower, x.dtype), jnp.asarray(upper, x.dtype)
    noise = jax.random.normal(key, x.shape, x.dtype)
    noisier = x + like_rows(upper, x) * noise, upper
    cleaner = x + like_rows(lower, x) * noise, lower
    return _distance(student_fn, teacher_fn, noisier, cleaner, metric, weighting)


@typed
def consistency_distillation_loss(
    key: PRNGKey,
    student_fn: Network,
    denoiser_fn: Network,
    x: Float[AnyArray, "n *d"],
    lower: Float[AnyArray, " n"],
    upper: Float[AnyArray, " n"],
    *,
    teacher_fn: Network | None = None,
    metric: Metric = pseudo_huber,
    weighting: LevelWeighting = "uniform",
    method: Literal["heun", "euler"] = "heun",
) -> Float[jax.Array, " n"]:
    """Distance of a consistency model's outputs along one step of a denoiser's probability flow.

    As `consistency_training_loss`, but the point at the lower level is the end of a step of dx /
    dsigma = (x - D(x, sigma)) / sigma from x + upper noise, with which no bias remains on a coarse
    grid.

    `denoiser_fn(x (n, *d), sigma (n,))` -> (n, *d), see `edm_denoised`; `method` (static) "heun" or
    "euler"; the rest as there. Returns (n,). Two passes of the model, two of the denoiser ("euler":
    one), without gradient.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469.

    >>> import jax, jax.numpy as jnp
    >>> exact = lambda x, sigma: 0.002 * x / sigma[:, None]  # all mass at 0
    >>> key, x, lower, upper = jax.random.key(0), jnp.ones((1, 3)), jnp.ones(1), jnp.full(1, 1.5)
    >>> loss = consistency_distillation_loss(key, exact, lambda x, sigma: 0 * x, x, lower, upper)
    >>> print(loss.round(3))
    [0.]
    """
    x = widen(x)
    lower, upper = jnp.asarray(lower, x.dtype), jnp.asarray(upper, x.dtype)
    noisier = x + like_rows(upper, x) * jax.random.normal(key, x.shape, x.dtype)

    def slope(x: jax.Array, sigma: jax.Array) -> jax.Array:
        return (x - denoiser_fn(x, sigma)) / like_rows(sigma, x)

    step = like_rows(lower - upper, x)
    first = slope(noisier, upper)
    cleaner = noisier + step * first
    if method == "heun":
        cleaner = noisier + step * (first + slope(cleaner, lower)) / 2
    ends = (noisier, upper), (cleaner, lower)
    return _distance(student_fn, teacher_fn, *ends, metric, weighting)


@typed
def consistency_sample(
    key: PRNGKey,
    consistency_fn: Network,
    x: Float[AnyArray, "n *d"],
    sigmas: Float[AnyArray, " k"],
    *,
    sigma_min: Scalar = 0.002,
) -> Float[jax.Array, "n *d"]:
    """Sample by a consistency model: one step from noise, and more of noising anew and denoising.

    x <- f(x, sigmas[0]); for each further sigma, x <- f(x + sqrt(sigma^2 - sigma_min^2) noise,
    sigma).

    `consistency_fn(x (n, *d), sigma (n,))`; `x` (n, *d), sigmas[0] times standard normal noise;
    `sigmas` (k,), falling, >= sigma_min: (80,) for one step, (80, 0.821) for two on images in
    [-1, 1]. Returns (n, *d). k passes.

    Song, Dhariwal, Chen and Sutskever, ICML 2023, arXiv 2303.01469, algorithm 1.

    >>> import jax, jax.numpy as jnp
    >>> exact = lambda x, sigma: 1 + 0.002 * (x - 1) / sigma[:, None]  # all mass at 1
    >>> sigmas = jnp.array([80.0, 0.8])
    >>> print(consistency_sample(jax.random.key(0), exact, jnp.zeros((1, 1)), sigmas).round(2))
    [[1.]]
    """
    x, sigmas = widen(x), jnp.asarray(sigmas)

    def denoise(x: jax.Array, sigma: jax.Array) -> jax.Array:
        return consistency_fn(x, jnp.full(len(x), sigma, x.dtype)).astype(x.dtype)

    def step(x: jax.Array, inputs: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        sigma, step_key = inputs
        added = jnp.sqrt((sigma - sigma_min) * (sigma + sigma_min))
        noise = jax.random.normal(step_key, x.shape, x.dtype)
        return denoise((x + added * noise).astype(x.dtype), sigma), None

    keys = jax.random.split(key, len(sigmas) - 1)
    return lax.scan(step, denoise(x, sigmas[0]), (sigmas[1:], keys))[0]
