"""Gaussian mixtures, whose noised densities, scores and denoisers are known exactly."""

import dataclasses

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, PRNGKey, typed
from lossbench.score.processes import Process


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GaussianMixture:
    """A mixture of k Gaussians in d dimensions, at time 0 of a process or at any later one.

    Made by `GaussianMixture.of`. Noise keeps the axes of each component, so one eigendecomposition
    serves all noise levels. Methods take `scale` and `std` (each () or one a row (n,)): they speak
    of scale x_0 + std noise; the defaults are the mixture itself.

    >>> import jax.numpy as jnp
    >>> mixture = GaussianMixture.of(jnp.array([0.5, 0.5]), jnp.array([[-1.0], [1.0]]),
    ...                              jnp.array([0.25, 0.25]))
    >>> print(mixture.score(jnp.array([[3.0]])).round(3))
    [[-8.]]
    """

    log_weights: jax.Array
    """Of the components (k,), normalised."""
    means: jax.Array
    """(k, d)"""
    variances: jax.Array
    """Along the axes of each component (k, d)."""
    axes: jax.Array
    """Orthonormal, in the columns of (k, d, d)."""

    @classmethod
    @typed
    def of(
        cls,
        weights: Float[AnyArray, " k"],
        means: Float[AnyArray, "k d"],
        covariances: Float[AnyArray, " k"] | Float[AnyArray, "k d"] | Float[AnyArray, "k d d"],
    ) -> "GaussianMixture":
        """Return the mixture; covariances may be variances (k,) or (k, d), or matrices (k, d, d).

        Weights need not be normalised. A variance of 0 is a point mass: it has no density, but
        noise gives it one.
        """
        means, covariances = widen(means), widen(covariances)
        k, d = means.shape
        axes = jnp.broadcast_to(jnp.eye(d, dtype=means.dtype), (k, d, d))
        variances = jnp.broadcast_to(covariances.reshape(k, -1)[:, :d], (k, d))
        if covariances.ndim == 3:
            variances, axes = jnp.linalg.eigh(covariances)
            variances = jnp.maximum(variances, 0)
        return cls(jax.nn.log_softmax(jnp.log(widen(weights))), means, variances, axes)

    def _parts(
        self, x: AnyArray, scale: AnyArray | float, std: AnyArray | float
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log-weights and log-densities, summed (n, k); variances and offsets on axes (n, k, d)."""
        x = widen(x)
        scale, std = (jnp.asarray(a, x.dtype).reshape(-1, 1, 1) for a in (scale, std))
        variances = jnp.square(scale) * self.variances + jnp.square(std)
        offsets = jnp.einsum("nkd,kde->nke", x[:, None] - scale * self.means, self.axes)
        quadratic = jnp.sum(jnp.square(offsets) / variances, axis=-1)
        log_volume = jnp.sum(jnp.log(2 * jnp.pi * variances), axis=-1)
        return self.log_weights - (quadratic + log_volume) / 2, variances, offsets

    def _posteriors(
        self, x: AnyArray, scale: AnyArray | float, std: AnyArray | float
    ) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Each component's share (n, k), and its x_0 given x: means and variances (n, k, d)."""
        joint, variances, offsets = self._parts(x, scale, std)
        scale, std = (jnp.asarray(a, joint.dtype).reshape(-1, 1, 1) for a in (scale, std))
        gain = self.variances / variances
        pull = jnp.einsum("nke,kde->nkd", scale * gain * offsets, self.axes)
        return jax.nn.softmax(joint, axis=1), self.means + pull, jnp.square(std) * gain

    @typed
    def log_density(
        self,
        x: Float[AnyArray, "n d"],
        scale: Float[AnyArray, "..."] | float = 1.0,
        std: Float[AnyArray, "..."] | float = 0.0,
    ) -> Float[jax.Array, " n"]:
        """Return the log-density (n,) of scale x_0 + std noise at `x` (n, d). O(n k d^2)."""
        return jax.nn.logsumexp(self._parts(x, scale, std)[0], axis=1)

    @typed
    def score(
        self,
        x: Float[AnyArray, "n d"],
        scale: Float[AnyArray, "..."] | float = 1.0,
        std: Float[AnyArray, "..."] | float = 0.0,
    ) -> Float[jax.Array, "n d"]:
        """Return the gradient of `log_density` by x (n, d)."""
        joint, variances, offsets = self._parts(x, scale, std)
        responsibilities = jax.nn.softmax(joint, axis=1)[..., None]
        return -jnp.einsum("nke,kde->nd", responsibilities * offsets / variances, self.axes)

    @typed
    def log_density_at(
        self, process: Process, x: Float[AnyArray, "n d"], t: Float[AnyArray, "..."]
    ) -> Float[jax.Array, " n"]:
        """Return the log-density at `x` of the process started from the mixture, at time `t`."""
        return self.log_density(x, process.scale(t), process.std(t))

    @typed
    def score_at(
        self, process: Process, x: Float[AnyArray, "n d"], t: Float[AnyArray, "..."]
    ) -> Float[jax.Array, "n d"]:
        """Return the score at `x` of the process started from the mixture, at time `t`."""
        return self.score(x, process.scale(t), process.std(t))

    @typed
    def denoised(
        self,
        x: Float[AnyArray, "n d"],
        scale: Float[AnyArray, "..."] | float = 1.0,
        std: Float[AnyArray, "..."] | float = 0.0,
    ) -> Float[jax.Array, "n d"]:
        """Return E[x_0 | scale x_0 + std noise = x] (n, d)."""
        responsibilities, means, _ = self._posteriors(x, scale, std)
        return jnp.einsum("nk,nkd->nd", responsibilities, means)

    @typed
    def denoised_covariance(
        self,
        x: Float[AnyArray, "n d"],
        scale: Float[AnyArray, "..."] | float = 1.0,
        std: Float[AnyArray, "..."] | float = 0.0,
    ) -> Float[jax.Array, "n d d"]:
        """Return Cov[x_0 | scale x_0 + std noise = x] (n, d, d), within and between components."""
        responsibilities, means, left = self._posteriors(x, scale, std)
        apart = means - jnp.einsum("nk,nkd->nd", responsibilities, means)[:, None]
        within = jnp.einsum("nk,nke,kde,kfe->ndf", responsibilities, left, self.axes, self.axes)
        return within + jnp.einsum("nk,nkd,nkf->ndf", responsibilities, apart, apart)

    @typed
    def sample(self, key: PRNGKey, num: int) -> Float[jax.Array, "n d"]:
        """Draw `num` points (num, d)."""
        which, noise = jax.random.split(key)
        components = jax.random.categorical(which, self.log_weights, shape=(num,))
        normal = jax.random.normal(noise, (num, self.means.shape[1]), self.means.dtype)
        spread = jnp.sqrt(self.variances[components]) * normal
        return self.means[components] + jnp.einsum("nde,ne->nd", self.axes[components], spread)
