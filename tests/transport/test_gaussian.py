import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.linalg import sqrtm

from lossbench.transport import gaussian_monge_gap, gaussian_ot_map, unexplained_variance


@pytest.fixture
def gaussians():
    rng = np.random.default_rng(0)
    factors = rng.normal(size=(2, 3, 3))
    return rng.normal(size=(2, 3)), factors @ factors.transpose(0, 2, 1) + 0.1 * np.eye(3)


def bures(first, second):
    """Squared 2-Wasserstein distance of two centred Gaussians."""
    root = sqrtm(first)
    return np.trace(first + second - 2 * sqrtm(root @ second @ root)).real


def test_map_pushes_one_gaussian_to_the_other_at_the_optimal_cost(gaussians):
    means, covs = gaussians
    with jax.enable_x64(True):
        basis = np.concatenate([np.zeros((1, 3)), np.eye(3)])
        images = np.asarray(gaussian_ot_map(basis, means[0], covs[0], means[1], covs[1]))
    matrix = (images[1:] - images[0]).T
    np.testing.assert_allclose(images[0] + matrix @ means[0], means[1], rtol=1e-10)
    np.testing.assert_allclose(matrix, matrix.T, atol=1e-10)
    assert np.linalg.eigvalsh(matrix).min() > 0
    np.testing.assert_allclose(matrix @ covs[0] @ matrix.T, covs[1], rtol=1e-9)
    cost = np.trace((np.eye(3) - matrix) @ covs[0] @ (np.eye(3) - matrix).T)
    np.testing.assert_allclose(cost, bures(*covs), rtol=1e-9)


def test_gap_is_the_cost_of_the_map_less_the_distance(gaussians):
    _, covs = gaussians
    matrix = np.random.default_rng(1).normal(size=(3, 3))
    with jax.enable_x64(True):
        gap = gaussian_monge_gap(matrix, covs[0])
        away = np.eye(3) - matrix
        moved = np.trace(away @ covs[0] @ away.T)
        expected = moved - bures(covs[0], matrix @ covs[0] @ matrix.T)
        np.testing.assert_allclose(gap, expected, rtol=1e-9)
        np.testing.assert_allclose(gaussian_monge_gap(covs[1], covs[0]), 0, atol=1e-9)


def test_gap_of_a_rotation_and_its_derivative():
    def gap(angle):
        c, s = jnp.cos(angle), jnp.sin(angle)
        return gaussian_monge_gap(jnp.array([[c, -s], [s, c]]), jnp.eye(2))

    with jax.enable_x64(True):
        value, slope = jax.value_and_grad(gap)(0.7)
        np.testing.assert_allclose(value, 4 * (1 - np.cos(0.7)), rtol=1e-12)
        np.testing.assert_allclose(slope, 4 * np.sin(0.7), rtol=1e-12)


def test_unexplained_variance_of_the_constant_map_is_all(gaussians):
    means, covs = gaussians
    x = np.random.default_rng(0).multivariate_normal(means[1], covs[1], 200_000)
    constant = np.broadcast_to(means[1], x.shape)
    np.testing.assert_allclose(unexplained_variance(constant, x, covs[1]), 100, rtol=0.02)
    assert unexplained_variance(x, x, covs[1]) == 0
