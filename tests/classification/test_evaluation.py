import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import sklearn.metrics

import lossbench
from lossbench.classification import (
    brier_score,
    correctness_auroc,
    correctness_aware_loss,
    expected_calibration_error,
    kolmogorov_smirnov_calibration_error,
)

MEASURES = {
    "width": functools.partial(expected_calibration_error, num_bins=7),
    "mass": functools.partial(expected_calibration_error, num_bins=7, scheme="mass"),
    "ks": kolmogorov_smirnov_calibration_error,
    "auroc": correctness_auroc,
}


@pytest.fixture(params=[0, 1, 2])
def batch(request):
    rng = np.random.default_rng(request.param)
    logits, labels = 2 * rng.normal(size=(101, 4)), rng.integers(0, 4, 101)
    logits[np.arange(101), labels] += request.param
    probabilities = scipy.special.softmax(logits, axis=1)
    return logits, labels, probabilities.max(1), probabilities.argmax(1) == labels


def error_by_bins(confidence, correct, members):
    gaps = [abs(correct[m].mean() - confidence[m].mean()) * len(m) for m in members if len(m)]
    return sum(gaps) / len(confidence)


def test_expected_calibration_error_is_the_mean_gap_of_the_bins(batch):
    logits, labels, confidence, correct = batch
    edges = np.linspace(0, 1, 8)
    by_width = [
        np.flatnonzero((confidence > low) & (confidence <= high))
        for low, high in itertools.pairwise(edges)
    ]
    by_mass = np.array_split(np.argsort(confidence)[:98], 7)  # whole bins
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            MEASURES["width"](logits, labels),
            error_by_bins(confidence, correct, by_width),
            rtol=1e-10,
        )
        kept = np.sort(by_mass)
        rows = np.concatenate(list(kept))
        np.testing.assert_allclose(
            MEASURES["mass"](logits[rows], labels[rows]),
            error_by_bins(confidence, correct, by_mass) * 101 / 98,
            rtol=1e-10,
        )


def test_no_binning_exceeds_the_mean_absolute_error(batch):
    logits, labels, *_ = batch
    logits = logits.astype(np.float32)
    bound = correctness_aware_loss(logits, labels, norm="absolute").mean() + 1e-6
    for bins in (1, 5, 50):
        for scheme in ("width", "mass"):
            error = expected_calibration_error(logits, labels, num_bins=bins, scheme=scheme)
            assert error <= bound


def test_kolmogorov_smirnov_error_is_the_largest_partial_sum(batch):
    logits, labels, confidence, correct = batch
    total, largest = 0.0, 0.0
    for i in np.argsort(confidence):
        total += correct[i] - confidence[i]
        largest = max(largest, abs(total))
    with jax.enable_x64(True):
        error = kolmogorov_smirnov_calibration_error(logits, labels)
    np.testing.assert_allclose(error, largest / 101, rtol=1e-10)


def test_auroc_is_scikit_learns(batch):
    logits, labels, confidence, correct = batch
    with jax.enable_x64(True):
        expected = sklearn.metrics.roc_auc_score(correct, confidence)
        np.testing.assert_allclose(correctness_auroc(logits, labels), expected, rtol=1e-12)
        # A tie counts half.
        gap = np.abs(np.round(2 * logits[:, 0]) / 2)
        assert len(np.unique(gap)) < 20
        tied = np.stack([gap, np.zeros(101)], axis=1)
        expected = sklearn.metrics.roc_auc_score(labels % 2 == 0, gap)
        np.testing.assert_allclose(correctness_auroc(tied, labels % 2), expected, rtol=1e-12)


def test_brier_score_is_scikit_learns():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(50, 2)), rng.integers(0, 2, 50)
    positive = scipy.special.softmax(logits, axis=1)[:, 1]
    with jax.enable_x64(True):
        score = brier_score(logits, labels).mean()
    expected = 2 * sklearn.metrics.brier_score_loss(labels, positive)
    np.testing.assert_allclose(score, expected, rtol=1e-12)
    logits, labels = rng.normal(size=(9, 5)).astype(np.float32), rng.integers(0, 5, 9)
    squared = (scipy.special.softmax(logits, axis=1) - np.eye(5)[labels]) ** 2
    np.testing.assert_allclose(brier_score(logits, labels), squared.sum(1), rtol=1e-5)


@pytest.mark.parametrize("name", MEASURES)
def test_extremes(name):
    measure = MEASURES[name]
    logits = jnp.array([[50.0, 0.0], [50.0, 0.0], [0.0, 60.0]])
    right, wrong = jnp.array([0, 0, 1]), jnp.array([1, 1, 0])
    level = 0.5 if name == "auroc" else 0.0
    np.testing.assert_allclose(measure(logits, right), level, atol=1e-6)
    np.testing.assert_allclose(measure(logits, wrong), 0.5 if level else 1.0, atol=1e-6)
    assert measure(jnp.zeros((0, 2)), jnp.zeros((0,), int)) == 0


def test_values_are_checked():
    for measure in (*MEASURES.values(), brier_score):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 2"):
            lossbench.checked(measure)(jnp.zeros((2, 2)), jnp.array([0, 2]))
