"""Denoising score matching at one noise level or over a process, and EDM's form of it."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score._common import like_rows
from lossbench.score.processes import Process, TimeLaw

ScoreWeighting = Literal["noise", "likelihood", "data", "velocity", "min_snr", "uniform"]


@typed
def score_weights(
    process: Process, t: Float[AnyArray, " n"], weighting: ScoreWeighting, snr_cap: Scalar = 5.0
) -> Float[jax.Array, " n"]:
    """Return q(t) in q(t) |std s + noise|^2 / 2, the loss whose weight on the score is q std^2.

    "noise": 1, the error of predicted noise; "likelihood": g^2 / std^2, the evidence bound; "data":
    std^2 / scale^2, the error of predicted x_0; "velocity": 1 / scale^2, that of the velocity scale
    noise - std x_0 where scale^2 + std^2 = 1; "min_snr": "data" times min(scale^2 / std^2,
    `snr_cap`) (Hang et al., ICCV 2023); "uniform": 1 / std^2, the score's own error.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import Karras
    >>> print(score_weights(Karras(), jnp.array([0.5, 2.0]), "data"))
    [0.25 4.  ]
    """
    t = widen(t)
    scale, std = process.scale(t), process.std(t)
    match weighting:
        case "noise":
            return jnp.ones_like(std)
        case "likelihood":
            return jnp.square(process.diffusion(t) / std)
        case "data":
            return jnp.square(std / scale)
        case "velocity":
            return 1 / jnp.square(scale)
        case "min_snr":
            # Not min(snr, cap) / snr: at the least noise that is inf / inf.
            return jnp.minimum(1.0, snr_cap * jnp.square(std / scale))
        case "uniform":
            return 1 / jnp.square(std)


def process_times(
    key: PRNGKey, x: jax.Array, process: Process, law: TimeLaw, times: AnyArray | None
) -> tuple[jax.Array, jax.Array]:
    """Times of the rows, given or drawn, and the weights that make them uniform, (n,) each."""
    if times is None:
        return process.sample_times(key, x.shape[0], law=law)
    return widen(times), jnp.ones(x.shape[0], x.dtype)


def matching_error(
    score: jax.Array,
    t: jax.Array,
    noise: jax.Array,
    process: Process,
    weighting: ScoreWeighting,
    snr_cap: Scalar = 5.0,
) -> jax.Array:
    """Weighted error (n,) of a score at data noised by `noise` at times `t`."""
    # The weight enters std s + noise: 1 / std^2 would overflow where the noise is least.
    error = like_rows(process.std(t), noise) * widen(score) + noise
    return score_weights(process, t, weighting, snr_cap) * row_dot(error, error) / 2


@typed
def denoising_score_matching(
    key: PRNGKey,
    score_fn: Callable[..., jax.Array],
    x: Float[AnyArray, "n *d"],
    *,
    noise: Process | Scalar,
    weighting: ScoreWeighting = "noise",
    time_law: TimeLaw = "uniform",
    times: Float[AnyArray, " n"] | None = None,
    snr_cap: Scalar = 5.0,
) -> Float[jax.Array, " n"]:
    """Squared error of the score at noised data: lambda(t) |s(x_t, t) + noise / std(t)|^2 / 2.

    Its minimiser is the score of the noised data; its expectation is half of their Fisher
    divergence, weighted, plus a constant. No derivative of the network by x is taken.

    `noise`: a process, for `score_fn(x, t)` with x (n, *d) and t (n,); or one noise level > 0, for
    `score_fn(x)`. The rows' times are `times` if given, else drawn by `time_law`, with weights that
    keep the expectation that of uniform times. `weighting` names lambda, see `score_weights`
    ("noise" and "uniform" at one level: sigma^2 and 1). `x` (n, *d). Returns (n,). One pass.

    Vincent, Neural Computation 23 (2011); Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import VariancePreserving
    >>> key, x = jax.random.key(0), jnp.zeros((4, 2))
    >>> exact = lambda x, t: -x / VariancePreserving().std(t)[:, None] ** 2
    >>> print(denoising_score_matching(key, exact, x, noise=VariancePreserving()).round(3))
    [0. 0. 0. 0.]
    """
    x = widen(x)
    time_key, noise_key = jax.random.split(key)
    epsilon = jax.random.normal(noise_key, x.shape, x.dtype)
    if not isinstance(noise, Process):
        if weighting not in ("noise", "uniform"):
            raise ValueError(
                f"one noise level has weighting 'noise' or 'uniform', not {weighting!r}"
            )
        std = jnp.asarray(noise, x.dtype)
        error = std * widen(score_fn(x + std * epsilon)) + epsilon
        weight = 1 if weighting == "noise" else 1 / jnp.square(std)
        return weight * row_dot(error, error) / 2
    t, density_ratio = process_times(time_key, x, noise, time_law, times)
    score = score_fn(noise.perturb(x, t, epsilon), t)
    matching = matching_error(score, t, epsilon, noise, weighting, snr_cap)
    return (density_ratio * matching).astype(x.dtype)


@typed
def edm_scalings(
    sigma: Float[AnyArray, "*n"], *, sigma_data: Scalar = 0.5
) -> tuple[
    Float[jax.Array, "*n"], Float[jax.Array, "*n"], Float[jax.Array, "*n"], Float[jax.Array, "*n"]
]:
    """Return c_skip, c_out, c_in and c_noise: D(x, sigma) = c_skip x + c_out F(c_in x, c_noise).

    They keep the network's inputs, targets and gradients of size 1 at every noise level for data of
    standard deviation `sigma_data`. sigma_data^2 / (sigma^2 + sigma_data^2), sigma sigma_data /
    sqrt(sigma^2 + sigma_data^2), 1 / sqrt(sigma^2 + sigma_data^2), log(sigma) / 4.

    Karras, Aittala, Aila and Laine, NeurIPS 2022, arXiv 2206.00364.

    >>> import jax.numpy as jnp
    >>> print([float(c) for c in edm_scalings(jnp.array(1.0), sigma_data=1.0)])
    [0.5, 0.7071067690849304, 0.7071067690849304, 0.0]
    """
    sigma = widen(sigma)
    total = jnp.square(sigma) + jnp.square(sigma_data)
    root = jnp.sqrt(total)
    return jnp.square(sigma_data) / total, sigma * sigma_data / root, 1 / root, jnp.log(sigma) / 4


@typed
def edm_denoised(
    net_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    sigma: Float[AnyArray, " n"],
    *,
    sigma_data: Scalar = 0.5,
) -> Float[jax.Array, "n *d"]:
    """Denoised data D(x, sigma) that a network's output stands for, see `edm_scalings`.

    `net_fn(c_in x (n, *d), c_noise (n,))` -> (n, *d); `x` (n, *d); `sigma` > 0 (n,). Returns
    (n, *d). One pass.

    Karras, Aittala, Aila and Laine, NeurIPS 2022, arXiv 2206.00364.

    >>> import jax.numpy as jnp
    >>> x, sigma = jnp.ones((1, 2)), jnp.array([1.0])
    >>> print(edm_denoised(lambda x, c_noise: 0 * x, x, sigma, sigma_data=1.0))
    [[0.5 0.5]]
    """
    x = widen(x)
    skip, out, scale, level = edm_scalings(sigma, sigma_data=sigma_data)
    value = widen(net_fn((like_rows(scale, x) * x).astype(x.dtype), level))
    return (like_rows(skip, x) * x + like_rows(out, x) * value).astype(x.dtype)


@typed
def edm_loss(
    key: PRNGKey,
    denoiser_fn: Callable[[jax.Array, jax.Array], jax.Array],
    x: Float[AnyArray, "n *d"],
    *,
    log_sigma_mean: Scalar = -1.2,
    log_sigma_std: Scalar = 1.2,
    sigma_data: Scalar = 0.5,
) -> Float[jax.Array, " n"]:
    """EDM's denoising loss at lognormal noise levels, weighted so that each starts at size one.

    (sigma^2 + sigma_data^2) / (sigma sigma_data)^2 |D(x + sigma noise, sigma) - x|^2 / 2,
    log sigma ~ N(log_sigma_mean, log_sigma_std^2).

    `denoiser_fn(x (n, *d), sigma (n,))` -> (n, *d), see `edm_denoised`; `x` (n, *d). Returns
    (n,), summed over coordinates. One pass.

    Karras, Aittala, Aila and Laine, NeurIPS 2022, arXiv 2206.00364.

    >>> import jax, jax.numpy as jnp
    >>> print(edm_loss(jax.random.key(0), lambda x, sigma: 0 * x, jnp.zeros((2, 3))))
    [0. 0.]
    """
    x = widen(x)
    level_key, noise_key = jax.random.split(key)
    normal = jax.random.normal(level_key, x.shape[:1], x.dtype)
    sigma = jnp.exp(log_sigma_mean + log_sigma_std * normal)
    noised = x + like_rows(sigma, x) * jax.random.normal(noise_key, x.shape, x.dtype)
    error = widen(denoiser_fn(noised, sigma)) - x
    weight = (jnp.square(sigma) + jnp.square(sigma_data)) / jnp.square(sigma * sigma_data)
    return weight * row_dot(error, error) / 2
