import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lossbench.score import GaussianMixture, OrnsteinUhlenbeck, VariancePreserving

rng = np.random.default_rng(0)
WEIGHTS = np.array([0.2, 0.5, 0.3])
MEANS = rng.normal(size=(3, 2))
ROOTS = rng.normal(size=(3, 2, 2))
COVARIANCES = ROOTS @ ROOTS.transpose(0, 2, 1) + 0.1 * np.eye(2)
POINTS = rng.normal(size=(7, 2))


def scipy_log_density(x, scale, std):
    parts = [
        np.log(w)
        + scipy.stats.multivariate_normal(scale * m, scale**2 * c + std**2 * np.eye(2)).logpdf(x)
        for w, m, c in zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    ]
    return np.logaddexp.reduce(parts, axis=0)


@pytest.mark.parametrize(("scale", "std"), [(1.0, 0.0), (0.4, 0.9)])
def test_log_density_is_scipys(scale, std):
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(WEIGHTS, MEANS, COVARIANCES)
        found = mixture.log_density(POINTS, scale, std)
    np.testing.assert_allclose(found, scipy_log_density(POINTS, scale, std), rtol=1e-12)


@pytest.mark.parametrize("kind", ["isotropic", "diagonal"])
def test_the_shorter_covariances(kind):
    variances = np.array([0.3, 0.5, 0.7]) if kind == "isotropic" else rng.uniform(0.2, 1, (3, 2))
    full = np.stack([np.eye(2) * v for v in variances])
    with jax.enable_x64(True):
        short = GaussianMixture.of(WEIGHTS, MEANS, variances).log_density(POINTS)
        long = GaussianMixture.of(WEIGHTS, MEANS, full).log_density(POINTS)
    np.testing.assert_allclose(short, long, rtol=1e-12)


def test_the_score_is_the_gradient_at_every_time():
    process = OrnsteinUhlenbeck()
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(WEIGHTS, MEANS, COVARIANCES)
        t = jnp.linspace(0.1, 2.0, 7)
        gradient = jax.grad(lambda x: mixture.log_density_at(process, x, t).sum())(
            jnp.asarray(POINTS)
        )
        np.testing.assert_allclose(mixture.score_at(process, POINTS, t), gradient, rtol=1e-10)


def test_denoised_mean_and_covariance_by_quadrature():
    """Moments of x_0 given x_t on a grid in one dimension."""
    grid = np.linspace(-8, 8, 40_001)
    means, variances = np.array([[-1.0], [2.0]]), np.array([0.3, 0.5])
    x, scale, std = np.array([[0.4], [1.7]]), 0.6, 0.8
    prior = sum(
        w * scipy.stats.norm(m[0], v**0.5).pdf(grid)
        for w, m, v in zip((0.4, 0.6), means, variances, strict=True)
    )
    posterior = prior * scipy.stats.norm(scale * grid, std).pdf(x)
    posterior /= posterior.sum(1, keepdims=True)
    mean = posterior @ grid
    variance = posterior @ grid**2 - mean**2
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(np.array([0.4, 0.6]), means, variances)
        np.testing.assert_allclose(mixture.denoised(x, scale, std)[:, 0], mean, rtol=1e-8)
        found = mixture.denoised_covariance(x, scale, std)[:, 0, 0]
        np.testing.assert_allclose(found, variance, rtol=1e-7)


def test_tweedie_and_the_jacobian_of_the_denoiser():
    """E[x_0 | x] = (x + std^2 score) / scale; Cov[x_0 | x] = std^2 / scale times its Jacobian."""
    process = VariancePreserving()
    t = jnp.float32(0.3)
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(WEIGHTS, MEANS, COVARIANCES)
        scale, std = process.scale(t), process.std(t)
        score = mixture.score(POINTS, scale, std)
        denoised = mixture.denoised(POINTS, scale, std)
        np.testing.assert_allclose(
            denoised, process.denoised_from_score(score, POINTS, t), rtol=1e-6
        )
        jacobian = jax.vmap(jax.jacfwd(lambda x: mixture.denoised(x[None], scale, std)[0]))(
            jnp.asarray(POINTS)
        )
        covariance = mixture.denoised_covariance(POINTS, scale, std)
        np.testing.assert_allclose(covariance, std**2 / scale * jacobian, rtol=1e-6, atol=1e-9)


def test_sample_moments():
    mixture = GaussianMixture.of(WEIGHTS, MEANS, COVARIANCES)
    x = np.asarray(mixture.sample(jax.random.key(0), 40_000))
    mean = WEIGHTS @ MEANS
    second = np.einsum("k,kij->ij", WEIGHTS, COVARIANCES) + np.einsum(
        "k,ki,kj->ij", WEIGHTS, MEANS, MEANS
    )
    covariance = second - np.outer(mean, mean)
    errors = np.sqrt(np.diag(covariance) / len(x))
    assert np.all(np.abs(x.mean(0) - mean) < 4 * errors)
    np.testing.assert_allclose(np.cov(x.T), covariance, atol=0.06)


def test_points_of_mass_need_noise():
    mixture = GaussianMixture.of(np.ones(2), np.array([[-1.0], [1.0]]), np.zeros(2))
    denoised = mixture.denoised(jnp.array([[0.2], [5.0]]), std=0.5)
    # tanh(x / std^2) for two points at +-1.
    np.testing.assert_allclose(denoised, np.tanh(np.array([[0.8], [20.0]])), rtol=1e-5)
