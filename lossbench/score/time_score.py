"""The score by time, d log p_t(x) / dt: density ratios along a path of densities."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from lossbench._math import widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, typed
from lossbench.score.processes import Process

TimeScore = Callable[[jax.Array, jax.Array], jax.Array]


def _one(t: jax.Array) -> jax.Array:
    return jnp.ones_like(t)


@typed
def implicit_time_score_matching(
    time_score_fn: TimeScore,
    x_start: Float[AnyArray, "n d"],
    x_end: Float[AnyArray, "m d"],
    x: Float[AnyArray, "k d"],
    t: Float[AnyArray, " k"],
    *,
    t_end: float = 1.0,
    weight_fn: Callable[[jax.Array], jax.Array] = _one,
) -> Float[jax.Array, ""]:
    """Objective for a path of densities that can only be sampled, from 0 to `t_end`.

    2 E_0[w(0) a(x, 0)] - 2 E_T[w(T) a(x, T)] + T E_t[2 w a_t + 2 w' a + w a^2] =
    the integral of w E (a - d log p_t / dt)^2 less a constant.

    `time_score_fn` a: ((n, d), (n,)) -> (n,), each row by itself; `x_start` (n, d) drawn at time 0,
    `x_end` (m, d) at `t_end`, `x` (k, d) at times `t` (k,), uniform in [0, t_end]; `weight_fn` w:
    (n,) -> (n,), positive. Returns a scalar: three expectations. A tangent pass by t.

    Choi, Meng, Song and Ermon, AISTATS 2022, arXiv 2111.11010.

    >>> import jax.numpy as jnp
    >>> x, t = jnp.zeros((4, 1)), jnp.linspace(0.0, 1.0, 4)
    >>> print(implicit_time_score_matching(lambda x, t: t, x, x, x, jnp.full(4, 0.5)))
    0.25
    """
    x_start, x_end, x, t = map(widen, (x_start, x_end, x, t))
    first = jnp.zeros_like(x_start[:, 0])
    last = jnp.full_like(x_end[:, 0], t_end)
    starts = jnp.mean(weight_fn(first) * time_score_fn(x_start, first))
    ends = jnp.mean(weight_fn(last) * time_score_fn(x_end, last))
    value, slope = jax.jvp(lambda t: time_score_fn(x, t), (t,), (jnp.ones_like(t),))
    weight, weight_slope = jax.jvp(weight_fn, (t,), (jnp.ones_like(t),))
    middle = 2 * weight * slope + 2 * weight_slope * value + weight * jnp.square(value)
    return 2 * (starts - ends) + t_end * jnp.mean(middle)


@typed
def denoising_time_score_matching(
    key: PRNGKey,
    time_score_fn: TimeScore,
    x: Float[AnyArray, "n *d"],
    *,
    process: Process,
    weight_fn: Callable[[jax.Array], jax.Array] = _one,
) -> Float[jax.Array, " n"]:
    """Squared error of the time score at noised data: w (a(x_t, t) - d log p(x_t | x_0) / dt)^2.

    d log p(x_t | x_0) / dt = -d std' / std + std' |noise|^2 / std + scale' <x_0, noise> / std; the
    times are uniform. `time_score_fn` a: ((n, *d), (n,)) -> (n,). `x` (n, *d). Returns (n,). One
    pass.

    Choi, Meng, Song and Ermon, AISTATS 2022, arXiv 2111.11010.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import Karras
    >>> loss = denoising_time_score_matching(jax.random.key(0), lambda x, t: 0 * t,
    ...                                      jnp.zeros((5, 2)), process=Karras(t_min=1.0))
    >>> print(loss.shape)
    (5,)
    """
    x = widen(x)
    time_key, noise_key = jax.random.split(key)
    t, _ = process.sample_times(time_key, x.shape[0])
    noise = jax.random.normal(noise_key, x.shape, x.dtype)
    _, scale_slope = jax.jvp(process.scale, (t,), (jnp.ones_like(t),))
    std, std_slope = jax.jvp(process.std, (t,), (jnp.ones_like(t),))
    spread = row_dot(noise, noise) - x[0].size
    target = (std_slope * spread + scale_slope * row_dot(x, noise)) / std
    error = widen(time_score_fn(process.perturb(x, t, noise), t)) - target
    return (weight_fn(t) * jnp.square(error)).astype(x.dtype)


@typed
def time_score_log_ratio(
    time_score_fn: TimeScore,
    x: Float[AnyArray, "n *d"],
    *,
    t_start: float = 0.0,
    t_end: float = 1.0,
    num_points: int = 50,
) -> Float[jax.Array, " n"]:
    """log p_end(x) - log p_start(x), the integral of the time score, by Gauss and Legendre's rule.

    `time_score_fn`: ((n, *d), (n,)) -> (n,); `x` (n, *d); `num_points` is static. Returns (n,).
    One pass over num_points n rows.

    >>> import jax.numpy as jnp
    >>> print(time_score_log_ratio(lambda x, t: 2 * t, jnp.zeros((1, 2))).round(5))
    [1.]
    """
    x = widen(x)
    nodes, weights = np.polynomial.legendre.leggauss(num_points)
    half = (t_end - t_start) / 2
    times = jnp.asarray(t_start + half * (nodes + 1), x.dtype)
    values = jax.lax.map(lambda t: time_score_fn(x, jnp.full(x.shape[0], t)), times)
    return half * jnp.asarray(weights, x.dtype) @ values
