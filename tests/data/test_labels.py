import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import lossbench
from lossbench.data import (
    class_dependent_label_noise,
    class_subsample,
    instance_dependent_label_noise,
    pair_flip_label_noise,
    symmetric_label_noise,
    uniform_label_noise,
)

KEY = jax.random.key(0)
K, PER_CLASS = 5, 20_000
LABELS = np.repeat(np.arange(K), PER_CLASS)


def transitions(noisy):
    counts = np.zeros((K, K), int)
    np.add.at(counts, (LABELS, np.asarray(noisy)), 1)
    return counts


def assert_transition(noisy, matrix):
    """Every count lies within a binomial interval; all of them do with probability 1 - 1e-4."""
    counts = transitions(noisy)
    low, high = scipy.stats.binom.interval(1 - 1e-4 / K**2, PER_CLASS, matrix)
    # At p = 0 and p = 1 scipy's interval degenerates to [-1, 0] and the like.
    low, high = np.where(matrix == 0, 0, low), np.where(matrix == 1, PER_CLASS, high)
    assert np.all((counts >= low) & (counts <= high)), counts / PER_CLASS


@pytest.mark.parametrize("rate", [0.0, 0.4, 1.0])
def test_symmetric(rate):
    noisy = symmetric_label_noise(KEY, LABELS, num_classes=K, rate=rate)
    eye = np.eye(K)
    assert_transition(noisy, (1 - rate) * eye + rate / (K - 1) * (1 - eye))


def test_uniform():
    noisy = uniform_label_noise(KEY, LABELS, num_classes=K, rate=0.6)
    assert_transition(noisy, 0.4 * np.eye(K) + 0.6 / K)


def test_class_dependent_and_pair_flip():
    target = np.array([3, 1, 0, 0, 2])
    noisy = class_dependent_label_noise(KEY, LABELS, target=target, rate=0.3)
    assert_transition(noisy, 0.7 * np.eye(K) + 0.3 * np.eye(K)[target])
    noisy = pair_flip_label_noise(KEY, LABELS, num_classes=K, rate=0.45)
    assert_transition(noisy, 0.55 * np.eye(K) + 0.45 * np.roll(np.eye(K), 1, axis=1))


def test_instance_dependent_rate():
    x = np.random.default_rng(0).normal(size=(len(LABELS), 3)).astype(np.float32)
    for rate in (0.05, 0.4, 0.95):
        noisy = instance_dependent_label_noise(KEY, x, LABELS, num_classes=K, rate=rate)
        mean = scipy.stats.truncnorm.mean(-rate / 0.1, (1 - rate) / 0.1, loc=rate, scale=0.1)
        low, high = scipy.stats.binom.interval(1 - 1e-5, len(LABELS), mean)
        assert low <= np.sum(np.asarray(noisy) != LABELS) <= high


def test_instance_dependent_choice_is_a_softmax_of_projections():
    """Of one example, c: the flips follow softmax(c W_y), so those at c = 1 predict c = 2."""

    def flips(scale):
        x = np.full((len(LABELS), 1), scale, np.float32)
        noisy = instance_dependent_label_noise(KEY, x, LABELS, num_classes=K, rate=1.0, std=1e-4)
        return transitions(noisy) / PER_CLASS

    once, others = flips(1.0), ~np.eye(K, dtype=bool)
    assert np.all(np.diag(once) < 1e-3)
    weights = np.where(others, np.log(np.where(others, once, 1)), -np.inf)
    np.testing.assert_allclose(flips(2.0), scipy.special.softmax(2 * weights, axis=1), atol=0.02)
    assert np.std(weights[others]) > 0.5
    np.testing.assert_allclose(flips(0.0)[others], 1 / (K - 1), atol=0.02)


def test_instance_dependent_examples_differ():
    x = np.random.default_rng(1).normal(size=(2, 8)).astype(np.float32)

    def noisy(key, x):
        labels = jnp.zeros(len(x), int)
        return instance_dependent_label_noise(key, x, labels, num_classes=3, rate=0.9)

    first, second = np.asarray(noisy(KEY, np.repeat(x, 4000, axis=0))).reshape(2, 4000)
    assert abs(np.mean(first == 1) - np.mean(second == 1)) > 0.05
    # Over keys the projections differ as well, and the two other classes are alike.
    over_keys = jax.jit(jax.vmap(noisy, in_axes=(0, None)))(jax.random.split(KEY, 4000), x)
    shares = np.bincount(np.ravel(over_keys), minlength=3) / 8000
    np.testing.assert_allclose(shares, [0.1, 0.45, 0.45], atol=0.03)


def test_class_subsample():
    labels = np.random.default_rng(0).integers(0, 3, 60)
    draw = jax.jit(jax.vmap(lambda key: class_subsample(key, labels, counts=(4, 0, 2))))
    chosen = np.asarray(draw(jax.random.split(KEY, 3000)))
    assert all(len(set(row)) == 6 for row in chosen)
    np.testing.assert_array_equal(labels[chosen], np.tile([0, 0, 0, 0, 2, 2], (3000, 1)))
    for label, count in [(0, 4), (2, 2)]:
        members = np.flatnonzero(labels == label)
        times = np.bincount(chosen.ravel(), minlength=60)[members]
        low, high = scipy.stats.binom.interval(1 - 1e-6, 3000, count / len(members))
        assert np.all((times >= low) & (times <= high))


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_traced_rates_keep_the_dtype(dtype):
    labels = np.arange(K).astype(dtype)
    x = np.ones((K, 2), np.float32)

    @jax.jit
    def noises(rate):
        return (
            symmetric_label_noise(KEY, labels, num_classes=K, rate=rate),
            uniform_label_noise(KEY, labels, num_classes=K, rate=rate),
            pair_flip_label_noise(KEY, labels, num_classes=K, rate=rate),
            instance_dependent_label_noise(KEY, x, labels, num_classes=K, rate=rate, std=1e-6),
        )

    for noisy in noises(jnp.array(0.0)):
        np.testing.assert_array_equal(noisy, labels)
        assert noisy.dtype == dtype


def test_values_are_checked():
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        lossbench.checked(lambda r: pair_flip_label_noise(KEY, LABELS, num_classes=K, rate=r))(1.5)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\)"):
        lossbench.checked(lambda y: uniform_label_noise(KEY, y, num_classes=3, rate=0.5))(LABELS)
    with pytest.raises(ValueError, match="too few examples of a class"):
        lossbench.checked(lambda y: class_subsample(KEY, y, counts=(2, 2)))(jnp.array([0, 0, 0, 1]))
