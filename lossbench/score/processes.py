"""Noising processes: the one definition of noise levels that every loss and sampler shares.

A process takes data x_0 to x_t = scale(t) x_0 + std(t) noise, the solution at t of
dx = drift(x, t) dt + diffusion(t) dw with drift(x, t) = drift_rate(t) x. Each is a frozen dataclass
and a pytree of its numbers, so that they may be traced, swept and differentiated.
"""

import abc
import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed
from lossbench.score._common import like_rows

TimeLaw = Literal["uniform", "importance"]
Number = jax.Array | float


def _log_expm1(x: jax.Array) -> jax.Array:
    """Log of e^x - 1, for any x > 0."""
    return x + jnp.log(-jnp.expm1(-x))


class Process(abc.ABC):
    """A linear noising process. `t` is () or one time for each row (n,), in [t_min, t_max]."""

    t_min: Number
    """Where training and sampling stop: below it the score is too steep to learn."""
    t_max: Number

    @abc.abstractmethod
    def _scale(self, t: AnyArray) -> jax.Array: ...

    @abc.abstractmethod
    def _std(self, t: AnyArray) -> jax.Array: ...

    @abc.abstractmethod
    def _drift_rate(self, t: AnyArray) -> jax.Array: ...

    @abc.abstractmethod
    def _diffusion(self, t: AnyArray) -> jax.Array: ...

    @abc.abstractmethod
    def _clock(self, t: AnyArray) -> jax.Array:
        """Return an integral of g^2 / std^2."""

    @abc.abstractmethod
    def _time(self, clock: jax.Array) -> jax.Array:
        """Return the inverse of `_clock`."""

    @typed
    def scale(self, t: Float[AnyArray, "*n"]) -> Float[jax.Array, "*n"]:
        """Return what the data are multiplied by at t."""
        return self._scale(t)

    @typed
    def std(self, t: Float[AnyArray, "*n"]) -> Float[jax.Array, "*n"]:
        """Return the standard deviation of the noise at t."""
        return self._std(t)

    @typed
    def drift_rate(self, t: Float[AnyArray, "*n"]) -> Float[jax.Array, "*n"]:
        """Return a(t) of the drift a(t) x, the logarithmic derivative of `scale`."""
        return self._drift_rate(t)

    @typed
    def diffusion(self, t: Float[AnyArray, "*n"]) -> Float[jax.Array, "*n"]:
        """Return g(t), what multiplies the Brownian motion."""
        return self._diffusion(t)

    @property
    def prior_std(self) -> jax.Array:
        """Standard deviation of the Gaussian that sampling starts from."""
        return self.std(jnp.asarray(self.t_max, jnp.float32))

    @typed
    def drift(self, x: Float[AnyArray, "n *d"], t: Float[AnyArray, "..."]) -> jax.Array:
        """Return a(t) x (n, *d)."""
        return like_rows(self.drift_rate(t), x) * jnp.asarray(x)

    @typed
    def perturb(
        self,
        x: Float[AnyArray, "n *d"],
        t: Float[AnyArray, "..."],
        noise: Float[AnyArray, "n *d"],
    ) -> Float[jax.Array, "n *d"]:
        """Return x_t = scale(t) x + std(t) noise, standard normal noise being expected."""
        return like_rows(self.scale(t), x) * x + like_rows(self.std(t), x) * noise

    @typed
    def score_from_noise(
        self, noise: Float[AnyArray, "n *d"], t: Float[AnyArray, "..."]
    ) -> Float[jax.Array, "n *d"]:
        """Return the score that a prediction of the noise stands for, -noise / std(t)."""
        return -jnp.asarray(noise) / like_rows(self.std(t), noise)

    @typed
    def score_from_denoised(
        self,
        denoised: Float[AnyArray, "n *d"],
        x: Float[AnyArray, "n *d"],
        t: Float[AnyArray, "..."],
    ) -> Float[jax.Array, "n *d"]:
        """Return the score at x that a prediction of x_0 stands for (Tweedie's formula)."""
        variance = like_rows(jnp.square(self.std(t)), x)
        return (like_rows(self.scale(t), x) * denoised - x) / variance

    @typed
    def denoised_from_score(
        self,
        score: Float[AnyArray, "n *d"],
        x: Float[AnyArray, "n *d"],
        t: Float[AnyArray, "..."],
    ) -> Float[jax.Array, "n *d"]:
        """Return E[x_0 | x_t = x], (x + std^2 score) / scale."""
        variance = like_rows(jnp.square(self.std(t)), x)
        return (variance * score + x) / like_rows(self.scale(t), x)

    @typed
    def reverse_drift(
        self,
        score: Float[AnyArray, "n *d"],
        x: Float[AnyArray, "n *d"],
        t: Float[AnyArray, "..."],
        *,
        stochastic: bool,
    ) -> Float[jax.Array, "n *d"]:
        """Return dx/dt of the reverse process, drift - g^2 score; of its flow, with half of g^2."""
        weight = jnp.square(self.diffusion(t)) * (1.0 if stochastic else 0.5)
        return self.drift(x, t) - like_rows(weight, x) * score

    @typed
    def times(self, num_steps: int, *, power: Scalar = 1.0) -> Float[jax.Array, " k"]:
        """Return `num_steps` + 1 times, falling from t_max to t_min; a `power` > 1 refines the end.

        t_min + (t_max - t_min) u^power, u falling evenly from 1 to 0.
        """
        return self.t_min + (self.t_max - self.t_min) * jnp.linspace(1, 0, num_steps + 1) ** power

    @typed
    def sample_times(
        self, key: PRNGKey, num: int, *, law: TimeLaw = "uniform"
    ) -> tuple[Float[jax.Array, " n"], Float[jax.Array, " n"]]:
        """Draw times, and the weights that make their averages those of uniform times.

        "importance": with density proportional to g^2 / std^2, under which the likelihood weighting
        has the same size at every time; the weights are uniform density / that density.
        The draws are spread: one in each of `num` equal parts of the law, in random order, which
        changes no expectation and lowers the variance of a batch's mean.
        """
        place, order = jax.random.split(key)
        parts = (jnp.arange(num) + jax.random.uniform(place, (num,))) / num
        parts = jax.random.permutation(order, parts)
        length = self.t_max - self.t_min
        if law == "uniform":
            return self.t_min + length * parts, jnp.ones(num)
        low, high = self._clock(jnp.asarray(self.t_min)), self._clock(jnp.asarray(self.t_max))
        t = jnp.clip(self._time(low + (high - low) * parts), self.t_min, self.t_max)
        density = jnp.square(self.diffusion(t) / self.std(t)) / (high - low)
        return t, 1 / (length * density)


class _LinearRate(Process):
    """beta(t) rises linearly; B(t) is its integral."""

    beta_min: Number
    beta_max: Number

    def _beta(self, t: AnyArray) -> jax.Array:
        return jnp.asarray(self.beta_min + (self.beta_max - self.beta_min) * t)

    def _integral(self, t: AnyArray) -> jax.Array:
        return jnp.asarray(t * (self.beta_min + (self.beta_max - self.beta_min) * t / 2))

    def _solve(self, integral: jax.Array) -> jax.Array:
        rise = 2 * (self.beta_max - self.beta_min)
        root = jnp.sqrt(jnp.square(self.beta_min) + rise * integral)
        return 2 * integral / (self.beta_min + root)

    def _scale(self, t: AnyArray) -> jax.Array:
        return jnp.exp(-self._integral(t) / 2)

    def _drift_rate(self, t: AnyArray) -> jax.Array:
        return -self._beta(t) / 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VariancePreserving(_LinearRate):
    """dx = -beta x / 2 dt + sqrt(beta) dw, beta from `beta_min` to `beta_max`; data of variance 1.

    scale = exp(-B / 2), std = sqrt(1 - exp(-B)), B the integral of beta.

    Song, Sohl-Dickstein, Kingma, Kumar, Ermon and Poole, ICLR 2021, arXiv 2011.13456.

    >>> import jax.numpy as jnp
    >>> process = VariancePreserving()
    >>> print((process.scale(jnp.float32(0.5)) ** 2 + process.std(jnp.float32(0.5)) ** 2).round(6))
    1.0
    """

    beta_min: Number = 0.1
    beta_max: Number = 20.0
    t_min: Number = 1e-5
    t_max: Number = 1.0

    def _std(self, t: AnyArray) -> jax.Array:
        return jnp.sqrt(-jnp.expm1(-self._integral(t)))

    def _diffusion(self, t: AnyArray) -> jax.Array:
        return jnp.sqrt(self._beta(t))

    def _clock(self, t: AnyArray) -> jax.Array:
        return _log_expm1(self._integral(t))

    def _time(self, clock: jax.Array) -> jax.Array:
        return self._solve(jax.nn.softplus(clock))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class SubVariancePreserving(_LinearRate):
    """The drift of `VariancePreserving` with less noise: std = 1 - exp(-B).

    g^2 = beta (1 - exp(-2 B)). Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax.numpy as jnp
    >>> print(SubVariancePreserving().std(jnp.float32(1.0)).round(4))
    1.0
    """

    beta_min: Number = 0.1
    beta_max: Number = 20.0
    t_min: Number = 1e-5
    t_max: Number = 1.0

    def _std(self, t: AnyArray) -> jax.Array:
        return -jnp.expm1(-self._integral(t))

    def _diffusion(self, t: AnyArray) -> jax.Array:
        return jnp.sqrt(-self._beta(t) * jnp.expm1(-2 * self._integral(t)))

    def _clock(self, t: AnyArray) -> jax.Array:
        # 2 log sinh(B / 2), less a constant.
        integral = self._integral(t)
        return integral + 2 * jnp.log(-jnp.expm1(-integral))

    def _time(self, clock: jax.Array) -> jax.Array:
        return self._solve(2 * jnp.arcsinh(jnp.exp(clock / 2) / 2))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VarianceExploding(Process):
    """dx = g dw with std from `sigma_min` to `sigma_max` geometrically; scale = 1.

    std = sigma_min (sigma_max / sigma_min)^t, g = std sqrt(2 log(sigma_max / sigma_min)).

    Song et al., ICLR 2021, arXiv 2011.13456.

    >>> import jax.numpy as jnp
    >>> print(VarianceExploding(sigma_min=1.0, sigma_max=4.0).std(jnp.array([0.0, 0.5])).round(4))
    [1. 2.]
    """

    sigma_min: Number = 0.01
    sigma_max: Number = 50.0
    t_min: Number = 1e-5
    t_max: Number = 1.0

    def _log_ratio(self) -> jax.Array:
        return jnp.log(jnp.asarray(self.sigma_max) / self.sigma_min)

    def _scale(self, t: AnyArray) -> jax.Array:
        return jnp.ones_like(t)

    def _std(self, t: AnyArray) -> jax.Array:
        return self.sigma_min * jnp.exp(self._log_ratio() * t)

    def _drift_rate(self, t: AnyArray) -> jax.Array:
        return jnp.zeros_like(t)

    def _diffusion(self, t: AnyArray) -> jax.Array:
        return self._std(t) * jnp.sqrt(2 * self._log_ratio())

    def _clock(self, t: AnyArray) -> jax.Array:
        return 2 * self._log_ratio() * t

    def _time(self, clock: jax.Array) -> jax.Array:
        return clock / (2 * self._log_ratio())


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Karras(Process):
    """Time is the noise level: dx = sqrt(2 t) dw, scale = 1, std = t.

    Karras, Aittala, Aila and Laine ("EDM"), NeurIPS 2022, arXiv 2206.00364.

    >>> import jax.numpy as jnp
    >>> print(Karras().std(jnp.array([0.5, 80.0])))
    [ 0.5 80. ]
    """

    t_min: Number = 0.002
    t_max: Number = 80.0

    def _scale(self, t: AnyArray) -> jax.Array:
        return jnp.ones_like(t)

    def _std(self, t: AnyArray) -> jax.Array:
        return jnp.asarray(t)

    def _drift_rate(self, t: AnyArray) -> jax.Array:
        return jnp.zeros_like(t)

    def _diffusion(self, t: AnyArray) -> jax.Array:
        return jnp.sqrt(2 * jnp.asarray(t))

    def _clock(self, t: AnyArray) -> jax.Array:
        return 2 * jnp.log(t)

    def _time(self, clock: jax.Array) -> jax.Array:
        return jnp.exp(clock / 2)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class OrnsteinUhlenbeck(Process):
    """dx = -`rate` x dt + `volatility` dw.

    scale = exp(-rate t), std^2 = volatility^2 (1 - exp(-2 rate t)) / (2 rate).

    >>> import jax.numpy as jnp
    >>> print(OrnsteinUhlenbeck().std(jnp.float32(10.0)).round(4))
    0.7071
    """

    rate: Number = 1.0
    volatility: Number = 1.0
    t_min: Number = 1e-5
    t_max: Number = 10.0

    def _scale(self, t: AnyArray) -> jax.Array:
        return jnp.exp(-self.rate * jnp.asarray(t))

    def _std(self, t: AnyArray) -> jax.Array:
        variance = -jnp.expm1(-2 * self.rate * jnp.asarray(t)) / (2 * self.rate)
        return self.volatility * jnp.sqrt(variance)

    def _drift_rate(self, t: AnyArray) -> jax.Array:
        return jnp.full_like(t, -self.rate)

    def _diffusion(self, t: AnyArray) -> jax.Array:
        return jnp.full_like(t, self.volatility)

    def _clock(self, t: AnyArray) -> jax.Array:
        return _log_expm1(2 * self.rate * jnp.asarray(t))

    def _time(self, clock: jax.Array) -> jax.Array:
        return jax.nn.softplus(clock) / (2 * self.rate)
