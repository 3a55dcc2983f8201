"""How far apart the two densities of a score are: the reverse SDE's and the probability flow's."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import safe_sqrt, widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, PRNGKey, typed
from lossbench.score.fokker_planck import log_density_fokker_planck_residual
from lossbench.score.processes import Process
from lossbench.score.samplers import euler_maruyama, probability_flow
from lossbench.transport import sliced_wasserstein, wasserstein_1d

LogDensity = Callable[[jax.Array, jax.Array], jax.Array]
Score = Callable[[jax.Array, jax.Array], jax.Array]


@typed
def ode_sde_gap(
    key: PRNGKey,
    score_fn: Score,
    x: Float[AnyArray, "n d"],
    times: Float[AnyArray, " k"],
    *,
    process: Process,
    num_projections: int = 200,
) -> Float[jax.Array, ""]:
    """Wasserstein distance W_2 between what the reverse SDE and the probability flow sample.

    By `euler_maruyama` and `probability_flow` (Heun) from the same points; exact in one dimension,
    else sliced (`num_projections`, static). Two samples of one law are n^(-1/2) apart or so.

    `score_fn(x (n, d), t (n,))`; `x` (n, d), drawn from the prior at times[0]; `times` falling
    (k,), such as `process.times(100, power=2.0)`. Returns a scalar. 3 (k - 1) passes.

    Deveney et al., Phil. Trans. R. Soc. A 383 (2025), arXiv 2311.15996.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> process, key = OrnsteinUhlenbeck(t_max=3.0), jax.random.key(0)
    >>> x = process.prior_std * jax.random.normal(key, (1000, 1))
    >>> for slope in (2.0, 8.0):  # of a density that stays, and of one that does not
    ...     score_fn = lambda x, t: -slope * x
    ...     print(ode_sde_gap(key, score_fn, x, process.times(100), process=process).round(1))
    0.0
    0.2
    """
    sde_key, projection_key = jax.random.split(key)
    of_sde = euler_maruyama(sde_key, score_fn, x, times, process=process)
    of_flow = probability_flow(score_fn, x, times, process=process)
    if of_sde.shape[1] == 1:
        return safe_sqrt(wasserstein_1d(of_sde[:, 0], of_flow[:, 0]))
    return sliced_wasserstein(projection_key, of_sde, of_flow, num_projections=num_projections)


@typed
def ode_sde_gap_bound(
    velocity_errors: Float[AnyArray, " k"],
    lipschitz: Float[AnyArray, " k"],
    times: Float[AnyArray, " k"],
) -> Float[jax.Array, ""]:
    """Gronwall's bound on W_2 between the laws of the reverse SDE and of the probability flow.

    The integral of v(t) exp(integral_0^t L) dt. The SDE's density moves with the flow's velocity
    plus g^2 / 2 grad e, e = log of the SDE's density over that of the model (see
    `reverse_sde_log_density`).

    `velocity_errors` v (k,): the root mean square of g^2 / 2 grad e under the SDE's law;
    `lipschitz` L (k,): the largest eigenvalue of the symmetric part of g^2 / 2 ds/dx - a, over all
    x (one-sided: it may be negative); `times` (k,), rising from 0. Returns a scalar, by the
    trapezoid rule. An equality for centred Gaussians on the line whose error keeps its sign.

    >>> import jax.numpy as jnp
    >>> times = jnp.linspace(0.0, 2.0, 5)
    >>> print(ode_sde_gap_bound(jnp.full(5, 0.5), jnp.zeros(5), times))
    1.0
    """
    velocity_errors, lipschitz, times = map(widen, (velocity_errors, lipschitz, times))
    areas = (lipschitz[1:] + lipschitz[:-1]) / 2 * jnp.diff(times)
    growth = jnp.exp(jnp.concatenate([jnp.zeros_like(areas[:1]), jnp.cumsum(areas)]))
    return jnp.trapezoid(velocity_errors * growth, times)


@typed
def reverse_sde_log_density(
    key: PRNGKey,
    log_density_fn: LogDensity,
    x: Float[AnyArray, "n d"],
    *,
    process: Process,
    num_paths: int = 256,
    num_steps: int = 100,
) -> Float[jax.Array, " n"]:
    """Log-density of the reverse SDE's samples at x, at time `process.t_min`.

    f(x, t_min) + log E exp(integral of R dt + log N(X_T; 0, prior_std^2) - f(X_T, T)) over paths X
    of the noising process from x, R the Fokker-Planck residual of f: where the equation holds and f
    ends at the prior, f itself (Feynman and Kac's formula for the difference of the two equations).
    Any constant in f cancels. The counterpart of `probability_flow_log_density`.

    `log_density_fn(x (n, d), t (n,))` -> (n,), as in `log_density_fokker_planck_residual`;
    `num_paths` of `num_steps` (static) on times t_min + (t_max - t_min) u^2: the transitions are
    exact, the integral is the trapezoid rule's. Returns (n,): biased down by half of the relative
    variance of the mean over paths, which may be large where f is far off.

    Follows from Deveney et al., arXiv 2311.15996.

    >>> import jax, jax.numpy as jnp
    >>> from lossbench.score import OrnsteinUhlenbeck
    >>> stationary = lambda x, t: -jnp.sum(x**2, axis=1)
    >>> log_density = reverse_sde_log_density(jax.random.key(0), stationary, jnp.zeros((1, 1)),
    ...                                       process=OrnsteinUhlenbeck(), num_paths=8)
    >>> print(log_density.round(3))  # of N(0, 1/2): -log(pi) / 2
    [-0.572]
    """
    x = widen(x)
    n, d = x.shape
    paths = jnp.repeat(x, num_paths, axis=0)
    times = process.times(num_steps, power=2.0)[::-1].astype(x.dtype)

    def residual(x: jax.Array, t: jax.Array) -> jax.Array:
        t = jnp.full(len(x), t)
        return log_density_fokker_planck_residual(log_density_fn, x, t, process=process)

    def step(
        carry: tuple[jax.Array, jax.Array, jax.Array],
        inputs: tuple[jax.Array, jax.Array, jax.Array],
    ) -> tuple[tuple[jax.Array, jax.Array, jax.Array], None]:
        x, before, integral = carry
        start, end, noise_key = inputs
        decay = process.scale(end) / process.scale(start)
        added = jnp.square(process.std(end)) - jnp.square(decay * process.std(start))
        noise = jax.random.normal(noise_key, x.shape, x.dtype)
        x = (decay * x + jnp.sqrt(added) * noise).astype(x.dtype)
        after = residual(x, end)
        integral = integral + (end - start) * (before + after) / 2
        return (x, after, integral.astype(x.dtype)), None

    start = (paths, residual(paths, times[0]), jnp.zeros_like(paths[:, 0]))
    keys = jax.random.split(key, num_steps)
    (end, _, integral), _ = lax.scan(step, start, (times[:-1], times[1:], keys))
    variance = jnp.square(process.prior_std)
    prior = -(row_dot(end, end) / variance + d * jnp.log(2 * jnp.pi * variance)) / 2
    exponents = integral + prior - widen(log_density_fn(end, jnp.full(len(end), times[-1])))
    correction = jax.nn.logsumexp(exponents.reshape(n, num_paths), axis=1) - jnp.log(num_paths)
    first = widen(log_density_fn(x, jnp.full(n, times[0])))
    return (first + correction).astype(x.dtype)
