"""Samplers of a noising process run backwards: its SDE, its probability flow, and both corrected.

All scan over a falling grid of times (k + 1,), such as `Process.times` gives, and start from
`x` at the first, which for `Process.t_max` is prior_std times standard normal noise.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score.divergence import divergence, hutchinson_divergence
from lossbench.score.processes import Process

Score = Callable[[jax.Array, jax.Array], jax.Array]


def _everywhere(t: jax.Array, x: jax.Array) -> jax.Array:
    """Give every row the same time."""
    return jnp.full(x.shape[0], t)


def _reverse_step(
    process: Process, score_fn: Score, x: jax.Array, start: jax.Array, end: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Mean of one Euler step of the reverse SDE, and the scale of its noise."""
    t = _everywhere(start, x)
    drift = process.reverse_drift(score_fn(x, t), x, t, stochastic=True)
    return x - (start - end) * drift, process.diffusion(start) * jnp.sqrt(start - end)


@typed
def euler_maruyama(
    key: PRNGKey,
    score_fn: Score,
    x: Float[AnyArray, "n *d"],
    times: Float[AnyArray, " k"],
    *,
    process: Process,
) -> Float[jax.Array, "n *d"]:
    """Solve the reverse SDE by Euler-Maruyama; the last step adds no noise.

    x <- x - h (drift - g^2 score) + g sqrt(h) noise. `score_fn(x (n, *d), t (n,))`; `times` falling
    (k,). Returns (n, *d) at the last time. k - 1 passes; a thousand are usual.

    Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import Karras
    >>> key, x, process = jax.random.key(0), jnp.zeros((1, 1)), Karras()
    >>> exact, times = lambda x, t: (1 - x) / t[:, None] ** 2, process.times(50, power=3.0)
    >>> print(euler_maruyama(key, exact, x, times, process=process).round(1))  # all mass at 1
    [[1.]]
    """
    times = jnp.asarray(times)

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        start, end, noise_key, last = inputs
        mean, spread = _reverse_step(process, score_fn, x, start, end)
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        return (mean + jnp.where(last, 0, spread) * noise).astype(x.dtype), None

    keys = jax.random.split(key, len(times) - 1)
    last = jnp.arange(len(times) - 1) == len(times) - 2
    return lax.scan(step, widen(x), (times[:-1], times[1:], keys, last))[0]


@typed
def probability_flow(
    score_fn: Score,
    x: Float[AnyArray, "n *d"],
    times: Float[AnyArray, " k"],
    *,
    process: Process,
    method: Literal["heun", "euler"] = "heun",
) -> Float[jax.Array, "n *d"]:
    """Solve the probability flow dx/dt = drift - g^2 score / 2, whose marginals are the SDE's.

    `method` (static): "heun" averages the slopes at both ends of a step, error O(h^2) at two passes
    a step; "euler" takes one. `times` may fall, to sample, or rise, to encode. Returns (n, *d) at
    the last time.

    Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> process = OrnsteinUhlenbeck(t_max=1.0)
    >>> stationary = lambda x, t: -2 * x
    >>> print(probability_flow(stationary, jnp.ones((1, 1)), process.times(10), process=process))
    [[1.]]
    """
    times = jnp.asarray(times)

    def slope(x: jax.Array, t: jax.Array) -> jax.Array:
        t = _everywhere(t, x)
        return process.reverse_drift(score_fn(x, t), x, t, stochastic=False)

    def step(x: jax.Array, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, None]:
        start, end = ends
        first = slope(x, start)
        ahead = x + (end - start) * first
        if method == "heun":
            ahead = x + (end - start) * (first + slope(ahead, end)) / 2
        return ahead.astype(x.dtype), None

    return lax.scan(step, widen(x), (times[:-1], times[1:]))[0]


@typed
def predictor_corrector(
    key: PRNGKey,
    score_fn: Score,
    x: Float[AnyArray, "n *d"],
    times: Float[AnyArray, " k"],
    *,
    process: Process,
    corrector_steps: int = 1,
    signal_to_noise: Scalar = 0.16,
) -> Float[jax.Array, "n *d"]:
    """Euler-Maruyama steps, each followed by Langevin steps at the time reached.

    A corrector step is x + h score + sqrt(2 h) noise with h = 2 (signal_to_noise mean|noise| /
    mean|score|)^2, norms averaged over the batch. The last predictor step is not corrected and
    adds no noise. `corrector_steps` is static. Returns (n, *d). 1 + corrector_steps passes a step.

    Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import Karras
    >>> key, x, process = jax.random.key(0), jnp.zeros((1, 1)), Karras()
    >>> exact, times = lambda x, t: (1 - x) / t[:, None] ** 2, process.times(50, power=3.0)
    >>> print(predictor_corrector(key, exact, x, times, process=process).round(1))  # all mass at 1
    [[1.]]
    """
    times = jnp.asarray(times)

    def norm(a: jax.Array) -> jax.Array:
        return jnp.mean(jnp.sqrt(row_dot(a, a)))

    def correct(carry: tuple[jax.Array, jax.Array], key: jax.Array) -> tuple[tuple, None]:
        x, t = carry
        noise = jax.random.normal(key, x.shape, x.dtype)
        score = score_fn(x, _everywhere(t, x))
        size = 2 * jnp.square(signal_to_noise * norm(noise) / norm(score))
        moved = x + size * score + jnp.sqrt(2 * size) * noise
        return (moved.astype(x.dtype), t), None

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        start, end, step_key = inputs
        noise_key, *correctors = jax.random.split(step_key, 1 + corrector_steps)
        mean, spread = _reverse_step(process, score_fn, x, start, end)
        x = (mean + spread * jax.random.normal(noise_key, x.shape, x.dtype)).astype(x.dtype)
        (x, _), _ = (
            lax.scan(correct, (x, end), jnp.stack(correctors)) if correctors else ((x, 0), 0)
        )
        return x, None

    keys = jax.random.split(key, len(times) - 2)
    end = lax.scan(step, widen(x), (times[:-2], times[1:-1], keys))[0]
    return _reverse_step(process, score_fn, end, times[-2], times[-1])[0].astype(end.dtype)


@typed
def karras_levels(
    fraction: Float[AnyArray, "*k"],
    *,
    sigma_min: Scalar = 0.002,
    sigma_max: Scalar = 80.0,
    rho: Scalar = 7.0,
) -> Float[jax.Array, "*k"]:
    """Noise levels evenly spaced in sigma^(1 / rho): sigma_min at fraction 0, sigma_max at 1.

    Karras, Aittala, Aila and Laine, NeurIPS 2022, arXiv 2206.00364.

    >>> import jax.numpy as jnp
    >>> print(karras_levels(jnp.linspace(1, 0, 3)).round(3))
    [8.000e+01 2.515e+00 2.000e-03]
    """
    fraction = widen(fraction)
    low, high = (jnp.asarray(sigma) ** (1 / rho) for sigma in (sigma_min, sigma_max))
    level = (low + fraction * (high - low)) ** rho
    # The ends are exact, not what rounding left of their roots' powers.
    level = jnp.where(fraction == 0, sigma_min, jnp.where(fraction == 1, sigma_max, level))
    return level.astype(fraction.dtype)


@typed
def edm_sample(
    key: PRNGKey,
    denoiser_fn: Score,
    x: Float[AnyArray, "n *d"],
    sigmas: Float[AnyArray, " k"],
    *,
    churn: Scalar = 0.0,
    churn_min: Scalar = 0.0,
    churn_max: Scalar = float("inf"),
    churn_noise: Scalar = 1.0,
) -> Float[jax.Array, "n *d"]:
    """EDM's sampler: Heun steps down falling noise levels, the last to 0; noise may be stirred in.

    The slope is (x - D(x, sigma)) / sigma; the step to 0 is Euler's, whose result is D. With
    `churn` > 0 each level in [churn_min, churn_max] is first raised by the factor 1 + min(churn /
    steps, sqrt(2) - 1) with fresh noise of std `churn_noise`.

    `denoiser_fn(x (n, *d), sigma (n,))`; `x` (n, *d), sigmas[0] times standard normal noise;
    `sigmas` (k,), falling, > 0 (`karras_levels`, 18 are usual): 0 is appended. Returns (n, *d).
    2 k - 1 passes.

    Karras, Aittala, Aila and Laine, NeurIPS 2022, arXiv 2206.00364, algorithm 2.

    >>> import jax, jax.numpy as jnp
    >>> sigmas = karras_levels(jnp.linspace(1, 0, 18))
    >>> print(edm_sample(jax.random.key(0), lambda x, sigma: 1 + 0 * x, jnp.zeros((1, 1)), sigmas))
    [[1.]]
    """
    sigmas = jnp.asarray(sigmas)
    num = len(sigmas)

    def raised(x: jax.Array, sigma: jax.Array, noise_key: jax.Array) -> tuple[jax.Array, jax.Array]:
        gamma = jnp.minimum(jnp.asarray(churn) / num, jnp.sqrt(2.0) - 1)
        gamma = jnp.where((sigma >= churn_min) & (sigma <= churn_max), gamma, 0)
        higher = sigma * (1 + gamma)
        added = sigma * jnp.sqrt(gamma * (2 + gamma))
        x = x + added * churn_noise * jax.random.normal(noise_key, x.shape, x.dtype)
        return x.astype(sigmas.dtype), higher

    def slope(x: jax.Array, sigma: jax.Array) -> jax.Array:
        return (x - denoiser_fn(x, _everywhere(sigma, x))) / sigma

    def step(x: jax.Array, inputs: Any) -> tuple[jax.Array, None]:
        sigma, lower, noise_key = inputs
        x, higher = raised(x, sigma, noise_key)
        first = slope(x, higher)
        ahead = x + (lower - higher) * first
        return (x + (lower - higher) * (first + slope(ahead, lower)) / 2).astype(x.dtype), None

    keys = jax.random.split(key, num)
    start = widen(x).astype(sigmas.dtype)
    end = lax.scan(step, start, (sigmas[:-1], sigmas[1:], keys[:-1]))[0]
    end, higher = raised(end, sigmas[-1], keys[-1])
    return denoiser_fn(end, _everywhere(higher, end))


@typed
def probability_flow_log_density(
    score_fn: Score,
    x: Float[AnyArray, "n d"],
    *,
    process: Process,
    num_steps: int = 200,
    key: PRNGKey | None = None,
) -> Float[jax.Array, " n"]:
    """Log-density of the probability flow's samples at x, at time `process.t_min`.

    log N(x_T; 0, prior_std^2) + the integral of div(drift - g^2 score / 2) along the flow from x,
    by Heun's rule on times t_min + (t_max - t_min) u^2. The divergence is exact (d tangent passes),
    or with a `key` estimated by one Rademacher probe, the same at every step.

    `score_fn(x (n, d), t (n,))`; `x` (n, d); `num_steps` is static. Returns (n,).

    Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> stationary, process = lambda x, t: -2 * x, OrnsteinUhlenbeck()
    >>> log_density = probability_flow_log_density(stationary, jnp.zeros((1, 1)), process=process)
    >>> print(log_density.round(3))  # of N(0, 1/2): -log(pi) / 2
    [-0.572]
    """
    x = widen(x)
    times = process.times(num_steps, power=2.0)[::-1]

    def slope(x: jax.Array, t: jax.Array) -> tuple[jax.Array, jax.Array]:
        t = _everywhere(t, x)

        def field(x: jax.Array) -> jax.Array:
            return process.reverse_drift(score_fn(x, t), x, t, stochastic=False).astype(x.dtype)

        spread = divergence(field, x) if key is None else hutchinson_divergence(key, field, x)
        return field(x), spread

    def step(
        carry: tuple[jax.Array, jax.Array], ends: tuple[jax.Array, jax.Array]
    ) -> tuple[tuple[jax.Array, jax.Array], None]:
        x, integral = carry
        start, end = ends
        first, spread = slope(x, start)
        second, spread_ahead = slope((x + (end - start) * first).astype(x.dtype), end)
        moved = x + (end - start) * (first + second) / 2
        integral = integral + (end - start) * (spread + spread_ahead) / 2
        return (moved.astype(x.dtype), integral.astype(x.dtype)), None

    (end, integral), _ = lax.scan(step, (x, jnp.zeros_like(x[:, 0])), (times[:-1], times[1:]))
    variance = jnp.square(process.prior_std)
    normal = -(row_dot(end, end) / variance + x.shape[1] * jnp.log(2 * jnp.pi * variance)) / 2
    return (normal + integral).astype(x.dtype)
