import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import lossbench
from lossbench.classification import (
    class_balanced_weights,
    feature_separation_loss,
    focal_loss,
    gaussian_reweighting_errors,
    label_distribution_aware_margin_loss,
    srat_loss,
)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return 2 * rng.normal(size=(9, 4)), rng.normal(size=(9, 6)), rng.integers(0, 4, 9)


def test_weights_are_inverse_effective_numbers():
    counts = np.array([5000, 50, 700])
    with jax.enable_x64(True):
        weights = class_balanced_weights(counts, beta=0.9999)
        effective = [sum(0.9999**i for i in range(n)) for n in counts]
        np.testing.assert_allclose(weights[1] / weights[0], effective[0] / effective[1], rtol=1e-10)
        np.testing.assert_allclose(weights.mean(), 1, rtol=1e-12)
        np.testing.assert_allclose(class_balanced_weights(counts, beta=0.0), 1, rtol=1e-12)
        inverse = 1 / counts
        np.testing.assert_allclose(
            class_balanced_weights(counts, beta=1.0), inverse / inverse.mean(), rtol=1e-12
        )
    # 3934.845 and 49.8777 effective examples.
    np.testing.assert_allclose(weights[1] / weights[0], 78.89, rtol=1e-4)
    # float32 keeps the digits of 1 - beta^n.
    single = class_balanced_weights(jnp.array([1_000_000, 1]), beta=1 - 2.0**-23)
    np.testing.assert_allclose(single[1] / single[0], -(2**23) * np.expm1(-1e6 / 2**23), rtol=1e-4)


def test_an_empty_class_has_no_weight():
    weights = class_balanced_weights(jnp.array([10, 0, 10]))
    np.testing.assert_allclose(weights, [1, 0, 1], rtol=1e-6)
    np.testing.assert_array_equal(class_balanced_weights(jnp.zeros(2, int)), 0)


def test_focal_loss(batch):
    logits, _, labels = batch
    with jax.enable_x64(True):
        nll = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        np.testing.assert_allclose(focal_loss(logits, labels, gamma=0.0), nll, rtol=1e-12)
        p = np.exp(-np.asarray(nll))
        np.testing.assert_allclose(
            focal_loss(logits, labels, gamma=1.7), (1 - p) ** 1.7 * nll, rtol=1e-10
        )
        two = logits[:, :2]
        np.testing.assert_allclose(
            focal_loss(two, labels % 2, gamma=2.0),
            optax.losses.sigmoid_focal_loss(two[:, 1] - two[:, 0], labels % 2, gamma=2.0),
            rtol=1e-9,
        )
    # p_y rounds to 1 in float32; the loss is (e^-40)^2.5.
    value, slope = jax.value_and_grad(
        lambda z: focal_loss(jnp.array([[z, 0.0]]), jnp.array([0]), gamma=0.5)[0]
    )(40.0)
    assert 0 <= value < 1e-20
    assert np.isfinite(slope)


def test_margins_of_rare_labels(batch):
    logits, _, labels = batch
    counts = np.array([100, 16, 1, 50])
    margins = 0.5 * counts**-0.25
    moved = logits.copy()
    moved[np.arange(9), labels] -= margins[labels]
    with jax.enable_x64(True):
        cross_entropy = optax.losses.softmax_cross_entropy_with_integer_labels
        loss = label_distribution_aware_margin_loss(logits, labels, counts)
        np.testing.assert_allclose(loss, cross_entropy(jnp.asarray(30 * moved), labels), rtol=1e-10)
        plain = label_distribution_aware_margin_loss(logits, labels, counts, max_margin=0.0)
        np.testing.assert_allclose(
            plain, cross_entropy(jnp.asarray(30 * logits), labels), rtol=1e-12
        )


def test_srat_is_the_sum_of_its_terms(batch):
    logits, features, labels = batch
    weights = np.array([0.1, 2.0, 1.0, 0.9])
    with jax.enable_x64(True):
        nll = optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels)
        separation = feature_separation_loss(features, labels, temperature=0.2)
        loss = srat_loss(logits, features, labels, weights, separation_weight=0.3, temperature=0.2)
        np.testing.assert_allclose(loss, weights[labels] * nll + 0.3 * separation, rtol=1e-12)
        np.testing.assert_allclose(
            srat_loss(
                logits, features, labels, np.ones(4), separation_weight=0.0, base_loss=focal_loss
            ),
            focal_loss(logits, labels),
            rtol=1e-12,
        )


def test_gaussian_errors_are_those_of_the_best_threshold():
    # On the line, classes at -S and S: the weighted zero-one risk is least at this threshold.
    imbalance, weight, separation = 20.0, 3.0, 1.3
    grid = np.linspace(-4, 4, 80_001)
    common, rare = scipy.stats.norm.sf(grid + separation), scipy.stats.norm.cdf(grid - separation)
    best = np.argmin(imbalance * common + weight * rare)
    found = gaussian_reweighting_errors(jnp.array(1.7), imbalance=20, weight=3, radius=0.4)
    np.testing.assert_allclose(found, [common[best], rare[best]], rtol=1e-3)
    equal = gaussian_reweighting_errors(jnp.array(1.3), imbalance=20, weight=20)
    np.testing.assert_allclose(equal, scipy.stats.norm.cdf(-1.3), rtol=1e-5)


def test_reweighting_is_the_dearer_the_less_the_classes_are_apart():
    separation = jnp.linspace(0.8, 4, 50)
    imbalance = 100.0

    def price(radius):
        before, _ = gaussian_reweighting_errors(
            separation, imbalance=imbalance, weight=1.0, radius=radius
        )
        after, _ = gaussian_reweighting_errors(
            separation, imbalance=imbalance, weight=imbalance, radius=radius
        )
        return after - before

    assert np.all(np.diff(price(0.0)) < 0)
    assert np.all(price(0.5) > price(0.0))
    # By the card: about 0.158, 0.022 and 0.0013 at S = 1, 2, 3.
    np.testing.assert_allclose(
        np.interp([1, 2, 3], separation, price(0.0)), [0.158, 0.0225, 0.0013], rtol=0.03
    )


def test_values_are_checked():
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\], got 2"):
        lossbench.checked(lambda beta: class_balanced_weights(jnp.array([1]), beta=beta))(2.0)
    with pytest.raises(ValueError, match="class_counts must be positive"):
        lossbench.checked(label_distribution_aware_margin_loss)(
            jnp.zeros((1, 2)), jnp.array([0]), jnp.array([1, 0])
        )
    with pytest.raises(ValueError, match="separation must exceed radius"):
        lossbench.checked(
            lambda s: gaussian_reweighting_errors(s, imbalance=2, weight=1, radius=1)
        )(jnp.array(0.5))
