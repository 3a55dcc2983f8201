import itertools

import jax
import numpy as np
import pytest

from lossbench.transport import sample_projections

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("method", "dim"),
    [("gaussian", 5), ("orthogonal", 5), ("spiral", 3), ("sobol", 2), ("sobol", 3), ("sobol", 5)],
)
def test_directions_are_unit_and_each_is_uniform(method, dim):
    keys = jax.random.split(KEY, 4000)
    found = jax.vmap(lambda key: sample_projections(key, 7, dim, method=method))(keys)
    assert found.shape == (4000, 7, dim)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, rtol=1e-5)
    # By symmetry E theta = 0, E theta theta' = I / d and E theta_1^4 = 3 / (d (d + 2)), for each.
    for i in (0, 3, 6):
        theta = np.asarray(found[:, i], np.float64)
        np.testing.assert_allclose(theta.mean(0), 0, atol=4 / np.sqrt(4000 * dim))
        np.testing.assert_allclose(theta.T @ theta / 4000, np.eye(dim) / dim, atol=0.03)
        np.testing.assert_allclose((theta**4).mean(0), 3 / dim / (dim + 2), atol=0.03)


def test_frames_are_orthonormal_and_the_last_is_cut():
    found = np.asarray(sample_projections(KEY, 10, 4, method="orthogonal"))
    for start in (0, 4, 8):
        frame = found[start : start + 4]
        np.testing.assert_allclose(frame @ frame.T, np.eye(len(frame)), atol=1e-6)


@pytest.mark.parametrize("method", ["spiral", "sobol"])
def test_quasi_monte_carlo_integrates_even_polynomials_better(method):
    def error(method, power):
        keys = jax.random.split(KEY, 20)
        theta = jax.vmap(lambda key: sample_projections(key, 256, 3, method=method))(keys)
        # E theta_1^(2 k) = 1 / (2 k + 1) on the sphere in three dimensions (Archimedes).
        return np.sqrt(np.mean((np.mean(theta[..., 0] ** power, axis=1) - 1 / (power + 1)) ** 2))

    for power in (2, 4, 6):
        assert error(method, power) < error("gaussian", power) / 5


def test_sobol_directions_in_the_plane_are_evenly_spaced_lines():
    found = np.asarray(sample_projections(KEY, 16, 2, method="sobol"))
    angles = np.sort(np.arctan2(found[:, 1], found[:, 0]) % np.pi)
    np.testing.assert_allclose(np.diff(angles), np.pi / 16, rtol=1e-3)


@pytest.mark.parametrize("method", ["gaussian", "orthogonal", "sobol"])
def test_one_dimension_and_one_direction(method):
    for count, dim in itertools.product((1, 3), (1, 4)):
        found = sample_projections(KEY, count, dim, method=method)
        np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-5)


def test_what_cannot_be_drawn_is_refused():
    with pytest.raises(ValueError, match="three dimensions, got dim=4"):
        sample_projections(KEY, 5, 4, method="spiral")
    with pytest.raises(ValueError, match="at least 1, got 0 and 3"):
        sample_projections(KEY, 0, 3)
