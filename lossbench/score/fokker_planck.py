"""The Fokker-Planck equation of a learned density, as residuals and losses.

A score defines two densities, that of the reverse SDE's samples and that of the probability flow's
(`ode_sde_gap`). They agree where the log-density that the score is the gradient of solves the
equation of the noising process dx = a x dt + g dw:

    d log p / dt = g^2 / 2 (div s + |s|^2) - <a x, s> - d a,    s = grad log p.

Deveney, Stanczuk, Kreusser, Budd and Schonlieb, "Closing the ODE-SDE Gap in Score-Based Diffusion
Models through the Fokker-Planck Equation", Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._math.autodiff import Probe, row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score.denoising import ScoreWeighting, matching_error, process_times
from lossbench.score.divergence import divergence, hutchinson_divergence
from lossbench.score.processes import Process

LogDensity = Callable[[jax.Array, jax.Array], jax.Array]
Score = Callable[[jax.Array, jax.Array], jax.Array]


def _score_of(log_density_fn: LogDensity) -> Score:
    return lambda x, t: jax.grad(lambda x: jnp.sum(widen(log_density_fn(x, t))))(x)


@typed
def fokker_planck_rate(
    score_fn: Score,
    x: Float[AnyArray, "n d"],
    t: Float[AnyArray, " n"],
    *,
    process: Process,
    key: PRNGKey | None = None,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """d log p / dt that the Fokker-Planck equation asks of a density with this score.

    g^2 / 2 (div s + |s|^2) - <a x, s> - d a, with the process's drift a x and diffusion g.

    `score_fn(x (n, d), t (n,))` -> (n, d), each row by itself. The divergence is exact by d tangent
    passes, or with a `key` estimated, without bias, by `num_probes` of them (static). Returns (n,).

    Deveney et al., Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> stationary, x, t = lambda x, t: -2 * x, jnp.array([[0.3, 0.7]]), jnp.array([1.0])
    >>> print(fokker_planck_rate(stationary, x, t, process=OrnsteinUhlenbeck()).round(5))
    [0.]
    """
    x, t = widen(x), widen(t)

    def field(x: jax.Array) -> jax.Array:
        return widen(score_fn(x, t))

    score = field(x)
    if key is None:
        spread = divergence(field, x)
    else:
        spread = hutchinson_divergence(key, field, x, num_probes=num_probes, probe=probe)
    diffused = jnp.square(process.diffusion(t)) / 2 * (spread + row_dot(score, score))
    carried = process.drift_rate(t) * (row_dot(x, score) + x.shape[1])
    return (diffused - carried).astype(x.dtype)


@typed
def log_density_fokker_planck_residual(
    log_density_fn: LogDensity,
    x: Float[AnyArray, "n d"],
    t: Float[AnyArray, " n"],
    *,
    process: Process,
    key: PRNGKey | None = None,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """By how much a log-density f(x, t) fails the Fokker-Planck equation of its process.

    df/dt - g^2 / 2 (lap f + |grad f|^2) + <a x, grad f> + d a. Adding c(t) to f adds c'(t): the
    normalising constant may be off, but by the same at all times.

    `log_density_fn(x (n, d), t (n,))` -> (n,), each row by itself, twice differentiable (a network
    of softplus or SiLU, not of relu). The Laplacian is exact by d tangent passes of the gradient,
    or with a `key` estimated by `num_probes` (static): an unbiased residual whose square is too
    large by its variance. Returns (n,).

    Deveney et al., Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> normal = lambda x, t: -jnp.sum(x**2, axis=1)  # N(0, 1/2), which stays
    >>> x, t = jnp.array([[0.3, 0.7]]), jnp.array([1.0])
    >>> residual = log_density_fokker_planck_residual(normal, x, t, process=OrnsteinUhlenbeck())
    >>> print(residual.round(5))
    [0.]
    """
    x, t = widen(x), widen(t)
    _, slope = jax.jvp(lambda t: widen(log_density_fn(x, t)), (t,), (jnp.ones_like(t),))
    rate = fokker_planck_rate(
        _score_of(log_density_fn),
        x,
        t,
        process=process,
        key=key,
        num_probes=num_probes,
        probe=probe,
    )
    return (slope - rate).astype(x.dtype)


@typed
def score_fokker_planck_residual(
    score_fn: Score,
    x: Float[AnyArray, "n d"],
    t: Float[AnyArray, " n"],
    *,
    process: Process,
    key: PRNGKey | None = None,
    num_probes: int = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, "n d"]:
    """By how much a score fails the equation of scores: ds/dt - grad of `fokker_planck_rate`.

    For a network that has no log-density. Where s = grad f it is the gradient of
    `log_density_fokker_planck_residual`. Both derivatives are exact, that by time included.

    `score_fn(x (n, d), t (n,))` -> (n, d), each row by itself, twice differentiable. The divergence
    inside is exact, or with a `key` estimated by `num_probes` (static). Returns (n, d). d tangent
    passes (or num_probes) and their gradient.

    Lai, Takida, Murata, Uesaka, Mitsufuji and Ermon, "FP-Diffusion", ICML 2023, arXiv 2210.04296.

    >>> import jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> stationary, x, t = lambda x, t: -2 * x, jnp.array([[0.3, 0.7]]), jnp.array([1.0])
    >>> residual = score_fokker_planck_residual(stationary, x, t, process=OrnsteinUhlenbeck())
    >>> print(jnp.abs(residual).round(5))
    [[0. 0.]]
    """
    x, t = widen(x), widen(t)
    _, slope = jax.jvp(lambda t: widen(score_fn(x, t)), (t,), (jnp.ones_like(t),))

    def total_rate(x: jax.Array) -> jax.Array:
        rate = fokker_planck_rate(
            score_fn, x, t, process=process, key=key, num_probes=num_probes, probe=probe
        )
        return jnp.sum(rate)

    rate_score = jax.grad(total_rate)(x)
    return (slope - rate_score).astype(x.dtype)


def _noised(
    key: PRNGKey, x: jax.Array, process: Process, times: AnyArray | None
) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """Noised data, their times, the noise, and the weights of the times' law."""
    time_key, noise_key = jax.random.split(key)
    t, density_ratio = process_times(time_key, x, process, "uniform", times)
    noise = jax.random.normal(noise_key, x.shape, x.dtype)
    return process.perturb(x, t, noise).astype(x.dtype), t, noise, density_ratio


@typed
def fokker_planck_loss(
    key: PRNGKey,
    log_density_fn: LogDensity,
    x: Float[AnyArray, "n d"],
    *,
    process: Process,
    residual_weight: Scalar = 1.0,
    weighting: ScoreWeighting = "noise",
    times: Float[AnyArray, " n"] | None = None,
    num_probes: int | None = None,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """Denoising score matching of grad f and the squared Fokker-Planck residual, at noised data.

    q(t) |std grad f + noise|^2 / 2 + residual_weight R(x_t, t)^2, q as in `score_weights`. The
    residual brings the samples of the flow to those of the SDE; the SDE's own may get worse.

    The paper takes the residual at points spread evenly over a box (`fokker_planck_box_penalty`)
    with batches of 10^4; with small ones that spends the network on empty corners, and these points
    are the better ones. It takes q = 1 / std^2 ("uniform") and t_min = 1e-5, which needs such
    batches too.

    `log_density_fn(x (n, d), t (n,))` -> (n,), see `log_density_fokker_planck_residual`; `x` (n,
    d); `times` (n,) if not to be uniform (the paper's are t_max times Beta(1, 2)). The Laplacian is
    exact, or estimated by `num_probes` if given (static; the estimate's variance, times
    residual_weight, is then part of the loss). Returns (n,). A gradient and d (num_probes) tangents
    of it.

    Deveney et al., Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> process = OrnsteinUhlenbeck()
    >>> exact = lambda x, t: -x[:, 0] ** 2 / (2 * process.std(t) ** 2) - jnp.log(process.std(t))
    >>> print(jnp.abs(fokker_planck_loss(jax.random.key(0), exact, jnp.zeros((3, 1)),
    ...                                  process=OrnsteinUhlenbeck(t_min=0.1))).round(4))
    [0. 0. 0.]
    """
    x = widen(x)
    noise_key, probe_key = jax.random.split(key)
    noised, t, noise, density_ratio = _noised(noise_key, x, process, times)
    matching = matching_error(_score_of(log_density_fn)(noised, t), t, noise, process, weighting)
    residual = log_density_fokker_planck_residual(
        log_density_fn,
        noised,
        t,
        process=process,
        key=None if num_probes is None else probe_key,
        num_probes=num_probes or 1,
        probe=probe,
    )
    penalty = jnp.asarray(residual_weight, x.dtype) * jnp.square(residual)
    return (density_ratio * (matching + penalty)).astype(x.dtype)


@typed
def score_fokker_planck_loss(
    key: PRNGKey,
    score_fn: Score,
    x: Float[AnyArray, "n d"],
    *,
    process: Process,
    residual_weight: Scalar = 0.15,
    rate_weight: Scalar = 0.01,
    weighting: ScoreWeighting = "likelihood",
    times: Float[AnyArray, " n"] | None = None,
    num_probes: int | None = 1,
    probe: Probe = "rademacher",
) -> Float[jax.Array, " n"]:
    """Denoising score matching and the Fokker-Planck residual of a score without a log-density.

    q(t) |std s + noise|^2 / 2 + residual_weight g^2 |R_s|^2 / d^2 + rate_weight |rate|, at noised
    data, with `score_fokker_planck_residual` R_s and `fokker_planck_rate`.

    `score_fn(x (n, d), t (n,))` -> (n, d); `x` (n, d); `times` (n,) if not to be uniform. The
    divergence is estimated by `num_probes` (static), or exact where that is None. Returns (n,).
    With one probe a constant number of passes, whatever the dimension.

    Lai, Takida, Murata, Uesaka, Mitsufuji and Ermon, "FP-Diffusion", ICML 2023, arXiv 2210.04296.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> process = OrnsteinUhlenbeck(t_min=0.1)
    >>> exact = lambda x, t: -x / process.std(t)[:, None] ** 2
    >>> print(jnp.abs(score_fokker_planck_loss(jax.random.key(0), exact, jnp.zeros((3, 1)),
    ...                                        process=process, rate_weight=0.0)).round(4))
    [0. 0. 0.]
    """
    x = widen(x)
    noise_key, probe_key = jax.random.split(key)
    noised, t, noise, density_ratio = _noised(noise_key, x, process, times)
    matching = matching_error(score_fn(noised, t), t, noise, process, weighting)
    # The same probes for both, so that under jit the pass is shared.
    residual, rate = (
        fn(
            score_fn,
            noised,
            t,
            process=process,
            key=None if num_probes is None else probe_key,
            num_probes=num_probes or 1,
            probe=probe,
        )
        for fn in (score_fokker_planck_residual, fokker_planck_rate)
    )
    size = jnp.square(process.diffusion(t) / x.shape[1]) * row_dot(residual, residual)
    residual_weight, rate_weight = (jnp.asarray(w, x.dtype) for w in (residual_weight, rate_weight))
    penalty = residual_weight * size + rate_weight * jnp.abs(rate)
    return (density_ratio * (matching + penalty)).astype(x.dtype)


@typed
def fokker_planck_box_penalty(
    key: PRNGKey,
    log_density_fn: LogDensity,
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    process: Process,
    num_points: int,
    num_boundary_points: int,
    boundary_weight: Scalar = 1.0,
    log_density_cap: Scalar = 20.0,
) -> Float[jax.Array, ""]:
    """The paper's penalty: the mean squared residual over a box, and the density on its faces.

    mean R(x, t)^2, (x, t) uniform in the box and [t_min, t_max], + boundary_weight times the mean
    of exp(f)^2 over points uniform on the faces. Added to `denoising_score_matching` of grad f.

    `lower` and `upper` (d,) are the box's corners, where the density should have vanished;
    `num_points` and `num_boundary_points` on each of the 2 d faces are static. On the faces f is
    cut at `log_density_cap`, lest exp overflow. Returns a scalar. d tangents of a gradient.

    Deveney et al., Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> stationary = lambda x, t: -jnp.sum(x**2, axis=1) - jnp.log(jnp.pi)
    >>> key, corner, process = jax.random.key(0), jnp.array([4.0, 4.0]), OrnsteinUhlenbeck()
    >>> print(fokker_planck_box_penalty(key, stationary, -corner, corner, process=process,
    ...                                 num_points=10, num_boundary_points=5).round(5))
    0.0
    """
    lower, upper = widen(lower), widen(upper)
    (d,) = lower.shape
    inside_key, face_key, inside_time_key, face_time_key = jax.random.split(key, 4)

    def uniform(key: PRNGKey, num: int) -> jax.Array:
        return lower + (upper - lower) * jax.random.uniform(key, (num, d), lower.dtype)

    inside = uniform(inside_key, num_points)
    t, _ = process.sample_times(inside_time_key, num_points)
    residual = log_density_fokker_planck_residual(log_density_fn, inside, t, process=process)

    faces = uniform(face_key, 2 * d * num_boundary_points).reshape(2, d, -1, d)
    fixed = jnp.eye(d, dtype=bool)[:, None]
    ends = jnp.stack([lower, upper])[:, None, None]
    faces = jnp.where(fixed, ends, faces).reshape(-1, d)
    t, _ = process.sample_times(face_time_key, len(faces))
    log_density = jnp.minimum(widen(log_density_fn(faces, t)), log_density_cap)
    boundary = jnp.asarray(boundary_weight, lower.dtype) * jnp.mean(jnp.exp(2 * log_density))
    return (jnp.mean(jnp.square(residual)) + boundary).astype(lower.dtype)
