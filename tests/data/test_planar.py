import jax
import numpy as np
import pytest
import scipy.stats

from lossbench.data import sample_checkerboard, sample_moons, sample_rings

NUM = 20_000


def test_rings_have_equal_mass_and_even_radii():
    x = np.asarray(sample_rings(jax.random.key(0), NUM, num_rings=4, noise=0.02))
    radius = np.hypot(*x.T)
    nearest = np.rint(radius / 0.375).astype(int)
    counts = np.bincount(nearest, minlength=5)[1:]
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    np.testing.assert_allclose(np.std(radius - 0.375 * nearest), 0.02, rtol=0.05)
    angle = np.arctan2(*x.T) / (2 * np.pi) + 0.5
    assert scipy.stats.kstest(angle, "uniform").pvalue > 1e-3


def test_moons_are_mirror_images_at_unit_distance_from_their_centres():
    x = np.asarray(sample_moons(jax.random.key(0), NUM, noise=0.01))
    gaps = np.abs([np.hypot(x[:, 0] + s * 0.5, x[:, 1] + s * 0.25) - 1 for s in (1, -1)])
    assert np.all(gaps.min(0) < 0.06)
    np.testing.assert_allclose(x.mean(0), 0, atol=4 * x.std(0).max() / NUM**0.5)


@pytest.mark.parametrize("squares", [2, 5])
def test_checkerboard_fills_every_other_square(squares):
    x = np.asarray(sample_checkerboard(jax.random.key(0), NUM, squares=squares, side=0.5)) / 0.5
    cell = np.floor(x + squares / 2).astype(int)
    assert cell.min() == 0
    assert cell.max() == squares - 1
    assert np.all(cell.sum(1) % 2 == 0)
    _, counts = np.unique(cell, axis=0, return_counts=True)
    assert len(counts) == (squares**2 + 1) // 2
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    inside = (x + squares / 2) % 1
    assert scipy.stats.kstest(inside.ravel(), "uniform").pvalue > 1e-3
