import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.special
import sklearn.metrics

import lossbench
from lossbench.classification import (
    TemperatureNetwork,
    consistency_features,
    correctness_aware_loss,
    correctness_balance_weights,
    network_temperatures,
    temperature_network_init,
    temperature_scaling,
)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits, labels = 2 * rng.normal(size=(60, 5)), rng.integers(0, 5, 60)
    logits[np.arange(60), labels] += 1.5
    probabilities = scipy.special.softmax(logits, axis=1)
    return logits, labels, probabilities.max(1), probabilities.argmax(1) == labels


def test_squared_loss_is_the_brier_score_of_being_right(batch):
    logits, labels, confidence, correct = batch
    with jax.enable_x64(True):
        squared = correctness_aware_loss(logits, labels).mean()
        absolute = correctness_aware_loss(logits, labels, norm="absolute")
    expected = sklearn.metrics.brier_score_loss(correct, confidence)
    np.testing.assert_allclose(squared, expected, rtol=1e-12)
    np.testing.assert_allclose(absolute, np.abs(confidence - correct), rtol=1e-12)


def test_balanced_loss_is_the_authors_weighted_error(batch):
    logits, labels, confidence, correct = batch
    rate = correct.mean()
    authors = np.where(correct, 1 - rate, rate)
    expected = np.sum(authors * (confidence - correct) ** 2) / authors.sum()
    with jax.enable_x64(True):
        weights = correctness_balance_weights(logits, labels)
        balanced = jnp.sum(weights * correctness_aware_loss(logits, labels))
    np.testing.assert_allclose(weights, authors / authors.sum(), rtol=1e-12)
    np.testing.assert_allclose(balanced, expected, rtol=1e-12)
    halves = np.mean((1 - confidence[correct]) ** 2) + np.mean(confidence[~correct] ** 2)
    np.testing.assert_allclose(balanced, halves / 2, rtol=1e-12)


def test_weights_of_one_side_only():
    logits = jnp.array([[2.0, 0.0], [2.0, 0.0]])
    for label in (0, 1):
        np.testing.assert_array_equal(correctness_balance_weights(logits, jnp.full(2, label)), 0.5)


def test_population_optimum():
    # A share q = 0.6 of these examples is right, of all examples r = 0.8.
    grid = np.linspace(0.5, 0.999, 500)
    logits = jnp.asarray(np.stack([np.log(grid / (1 - grid)), np.zeros(500)], 1), jnp.float32)
    right, wrong = (correctness_aware_loss(logits, jnp.full(500, label)) for label in (0, 1))
    assert abs(grid[jnp.argmin(0.6 * right + 0.4 * wrong)] - 0.6) < 2e-3
    # Balanced: 0.6 * 0.2 / (0.6 * 0.2 + 0.4 * 0.8) = 0.273, so the least confidence is best.
    assert grid[jnp.argmin(0.6 * 0.2 * right + 0.4 * 0.8 * wrong)] == 0.5


def test_cross_entropy_sharpens_a_narrow_mistake_and_this_loss_flattens_it():
    def slopes(logits, label):
        def by_temperature(loss):
            return jax.grad(lambda t: loss(jnp.array([logits]) / t, jnp.array([label]))[0])(1.0)

        return [
            by_temperature(loss)
            for loss in (
                optax.losses.softmax_cross_entropy_with_integer_labels,
                correctness_aware_loss,
            )
        ]

    # E_p[z] = 1.687: dCE/dT = 1.9 - 1.687, dc/dT = -c (2 - 1.687).
    cross_entropy, aware = slopes([2.0, 1.9, 1.0, 1.0], 1)
    np.testing.assert_allclose([cross_entropy, aware], [0.213, -0.090], atol=1e-3)
    # With a low third class both flatten.
    assert max(slopes([2.0, 1.9, -3.0], 1)) < 0
    # A right prediction is sharpened.
    assert slopes([2.0, 1.9, 1.0, 1.0], 0)[1] > 0


def test_limits_of_the_temperature():
    logits = jnp.array([[2.0, 1.0, 0.0]])
    right, wrong = jnp.array([0]), jnp.array([2])
    np.testing.assert_allclose(correctness_aware_loss(logits / 1e-3, right), 0, atol=1e-6)
    np.testing.assert_allclose(correctness_aware_loss(logits / 1e6, wrong), 1 / 9, rtol=1e-4)


def test_features_of_the_original_are_its_sorted_probabilities(batch):
    logits, *_ = batch
    expected = -np.sort(-scipy.special.softmax(logits, axis=1), axis=1)[:, :4]
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            consistency_features(logits, logits[:, None]), expected, rtol=1e-12
        )
    few = consistency_features(logits[:, :3], np.stack([logits[:, :3]] * 2, 1))
    assert few.shape == (60, 6)


def test_features_by_hand():
    rng = np.random.default_rng(1)
    logits, views = rng.normal(size=(3, 5)), rng.normal(size=(3, 2, 5))
    expected = []
    for row, others in zip(logits, views, strict=True):
        leading = np.argsort(-row)[:2]
        expected.append([p for v in others for p in scipy.special.softmax(v)[leading]])
    np.testing.assert_allclose(consistency_features(logits, views, top_k=2), expected, rtol=1e-5)


def test_temperatures_stay_in_their_range():
    network = temperature_network_init(jax.random.key(0), 3)
    assert jax.tree.map(jnp.shape, network) == TemperatureNetwork((3, 5), (5,), (5,), ())
    features = 100 * jax.random.normal(jax.random.key(1), (50, 3))
    np.testing.assert_allclose(network_temperatures(network, features), 1, rtol=1e-6)
    moved = network._replace(weights=jnp.array([1.0, -1.0, 1.0, -1.0, 0.3]))
    temperatures = network_temperatures(moved, features, min_temperature=0.2, max_temperature=5.0)
    np.testing.assert_allclose([temperatures.min(), temperatures.max()], [0.2, 5.0], rtol=1e-5)


def test_temperature_scaling_minimises_the_likelihood(batch):
    logits, labels, *_ = batch

    def nll(log_temperature):
        log_p = scipy.special.log_softmax(logits / np.exp(log_temperature), axis=1)
        return -log_p[np.arange(60), labels].mean()

    best = scipy.optimize.minimize_scalar(nll, bounds=(-3, 3), options={"xatol": 1e-9})
    with jax.enable_x64(True):
        temperature = temperature_scaling(logits, labels)
    np.testing.assert_allclose(temperature, np.exp(best.x), rtol=1e-6)


def test_temperature_scaling_ends_at_its_range():
    logits = jnp.array([[3.0, 0.0]])
    np.testing.assert_allclose(temperature_scaling(logits, jnp.array([0])), 0.01, rtol=1e-4)
    np.testing.assert_allclose(temperature_scaling(logits, jnp.array([1])), 100, rtol=1e-4)


def test_values_are_checked():
    logits, labels = jnp.zeros((1, 3)), jnp.array([3])
    for loss in (correctness_aware_loss, correctness_balance_weights, temperature_scaling):
        with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 3"):
            lossbench.checked(loss)(logits, labels)
    network, features = temperature_network_init(jax.random.key(0), 2), jnp.ones((1, 2))
    with pytest.raises(ValueError, match="min_temperature must be below 1, got 1"):
        lossbench.checked(lambda t: network_temperatures(network, features, min_temperature=t))(1.0)
