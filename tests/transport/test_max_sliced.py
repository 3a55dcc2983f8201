import jax
import numpy as np
import ot
import pytest

from lossbench.transport import (
    distributional_sliced_wasserstein,
    max_sliced_wasserstein,
    projected_wasserstein,
    sliced_wasserstein,
    vmf_mean_resultant,
)

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype(np.float32)
Y = (rng.normal(size=(30, 3)) * [0.5, 1, 2] + [0, 1, 0]).astype(np.float32)
SHIFT = np.float32([1, -2, 0.5])


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_the_plane_against_a_grid_of_angles(p):
    angles = np.linspace(0, np.pi, 2000)
    grid = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    x, y = X[:, :2], Y[:, 1:]
    expected = np.max(projected_wasserstein(x, y, grid, p=p)) ** (1 / p)
    np.testing.assert_allclose(max_sliced_wasserstein(KEY, x, y, p=p), expected, rtol=2e-3)


def test_not_below_the_best_of_many_random_directions():
    theirs = ot.max_sliced_wasserstein_distance(X, Y, n_projections=2000, seed=0)
    ours = max_sliced_wasserstein(KEY, X, Y)
    assert ours > theirs * (1 - 1e-4)
    assert ours < theirs * 1.02


def test_one_cloud_scaled_differs_most_along_its_longest_axis():
    stretched = X * np.float32([3, 1, 1])
    cov = np.linalg.eigvalsh(stretched.T @ stretched / 40)
    found = max_sliced_wasserstein(KEY, stretched, 2 * stretched)
    np.testing.assert_allclose(found, np.sqrt(cov[-1]), rtol=1e-3)


def test_a_translation_in_closed_form():
    size = np.linalg.norm(SHIFT)
    np.testing.assert_allclose(max_sliced_wasserstein(KEY, X, X + SHIFT), size, rtol=1e-5)
    values = [
        distributional_sliced_wasserstein(KEY, X, X + SHIFT, kappa=kappa, num_projections=500)
        for kappa in (0.5, 5.0, 50.0)
    ]
    expected = [
        size * np.sqrt(1 - 2 * vmf_mean_resultant(kappa, 3) / kappa) for kappa in (0.5, 5.0, 50.0)
    ]
    np.testing.assert_allclose(values, expected, rtol=0.04)


def test_distributional_lies_between_sliced_and_max_sliced():
    # Not shifted, so that the ascent must find the axis by itself.
    centred = [cloud - cloud.mean(0) for cloud in (X, Y)]
    low = sliced_wasserstein(KEY, *centred, num_projections=500, method="spiral")
    middle = distributional_sliced_wasserstein(KEY, *centred, kappa=10.0)
    high = max_sliced_wasserstein(KEY, *centred)
    assert low < middle < high


def test_gradient_holds_the_direction_fixed():
    # The best direction is the shift's, and each point is matched with its own copy.
    slope = jax.grad(lambda x: max_sliced_wasserstein(KEY, x, X + SHIFT, root=False))(X)
    np.testing.assert_allclose(slope, np.tile(-2 / 40 * SHIFT, (40, 1)), rtol=1e-3)


def test_weightless_points_take_no_part_and_equal_clouds_cost_nothing():
    padded = np.concatenate([X, np.full((2, 3), np.nan, np.float32)])
    weights = (np.arange(42) < 40).astype(np.float32)
    for distance in (max_sliced_wasserstein, distributional_sliced_wasserstein):
        found = distance(KEY, padded, Y, x_weights=weights, num_steps=5)
        np.testing.assert_allclose(found, distance(KEY, X, Y, num_steps=5), rtol=1e-4)
        value, slope = jax.value_and_grad(lambda x, d=distance: d(KEY, x, X, num_steps=5))(X)
        assert value == 0
        np.testing.assert_array_equal(slope, 0)
