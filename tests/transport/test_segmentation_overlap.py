import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import f1_score, jaccard_score

from lossbench.transport import (
    focal_tversky_loss,
    generalized_energy_distance,
    max_dice,
    sample_diversity,
)


@pytest.fixture
def masks():
    rng = np.random.default_rng(0)
    samples = (rng.uniform(size=(2, 3, 4, 5)) > 0.5).astype(np.float32)
    given = (rng.uniform(size=(2, 4, 4, 5)) > 0.6).astype(np.float32)
    samples[0, 0] = given[0, 1] = given[0, 2] = 0
    return samples, given


def distance(a, b):
    return 1 - jaccard_score(a.ravel(), b.ravel(), zero_division=1.0)


def mean_distance(a, b):
    return np.mean([distance(u, v) for u, v in itertools.product(a, b)])


def test_generalized_energy_distance_is_the_definition(masks):
    expected = [
        2 * mean_distance(s, y) - mean_distance(s, s) - mean_distance(y, y)
        for s, y in zip(*masks, strict=True)
    ]
    np.testing.assert_allclose(generalized_energy_distance(*masks), expected, rtol=1e-5)
    np.testing.assert_allclose(generalized_energy_distance(masks[0], masks[0]), 0, atol=1e-6)


def test_sample_diversity_is_the_mean_over_distinct_pairs(masks):
    expected = [
        np.mean([distance(u, v) for u, v in itertools.combinations(s, 2)]) for s in masks[0]
    ]
    np.testing.assert_allclose(sample_diversity(masks[0]), expected, rtol=1e-5)
    with pytest.raises(ValueError, match="at least two"):
        sample_diversity(masks[0][:, :1])


def test_max_dice_is_the_best_f1_of_each_rater(masks):
    expected = [
        np.mean([max(f1_score(v.ravel(), u.ravel(), zero_division=1.0) for u in s) for v in y])
        for s, y in zip(*masks, strict=True)
    ]
    np.testing.assert_allclose(max_dice(*masks), expected, rtol=1e-5)


def test_focal_tversky_is_the_definition():
    rng = np.random.default_rng(0)
    p, y = rng.uniform(size=(3, 4, 5)), (rng.uniform(size=(3, 4, 5)) > 0.5).astype(float)
    found = (p * y).sum((1, 2))
    missed, wrong = ((1 - p) * y).sum((1, 2)), (p * (1 - y)).sum((1, 2))
    index = (found + 1) / (found + 0.7 * missed + 0.3 * wrong + 1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(focal_tversky_loss(p, y), (1 - index) ** 0.75, rtol=1e-12)
        dice = (2 * found + 2) / (p.sum((1, 2)) + y.sum((1, 2)) + 2)
        halves = focal_tversky_loss(p, y, alpha=0.5, gamma=1.0)
        np.testing.assert_allclose(halves, 1 - dice, rtol=1e-12)


def test_focal_tversky_at_a_perfect_prediction():
    y = jnp.array([[1.0, 0.0], [0.0, 0.0]])
    value, slope = jax.value_and_grad(lambda p: focal_tversky_loss(p, y).sum())(y)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)
