import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

import lossbench
from lossbench.classification import (
    amplify,
    anyloss,
    anyloss_from_logits,
    confusion_accuracy,
    confusion_balanced_accuracy,
    confusion_f_beta,
    confusion_geometric_mean,
    confusion_jaccard,
    confusion_matthews,
    score_oriented_loss,
    soft_confusion_matrix,
)

F2 = functools.partial(confusion_f_beta, beta=2.0)


def geometric_mean(labels, predicted):
    recalls = sklearn.metrics.recall_score(labels, predicted, average=None)
    return np.sqrt(np.prod(recalls))


SCORES = {
    "accuracy": (confusion_accuracy, sklearn.metrics.accuracy_score),
    "balanced": (confusion_balanced_accuracy, sklearn.metrics.balanced_accuracy_score),
    "f1": (confusion_f_beta, sklearn.metrics.f1_score),
    "f2": (F2, functools.partial(sklearn.metrics.fbeta_score, beta=2)),
    "geometric": (confusion_geometric_mean, geometric_mean),
    "jaccard": (confusion_jaccard, sklearn.metrics.jaccard_score),
    "matthews": (confusion_matthews, sklearn.metrics.matthews_corrcoef),
}


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    probabilities = rng.uniform(size=50)
    probabilities[np.abs(probabilities - 0.5) < 0.01] = 0.3
    return probabilities, rng.integers(0, 2, 50)


@pytest.mark.parametrize("name", SCORES)
def test_a_steep_scale_gives_the_score_of_hard_predictions(batch, name):
    probabilities, labels = batch
    metric, expected = SCORES[name]
    with jax.enable_x64(True):
        score = 1 - anyloss(metric, probabilities, labels, scale=1e4)
    np.testing.assert_allclose(score, expected(labels, probabilities > 0.5), rtol=1e-12)


def test_hard_predictions_give_the_confusion_matrix(batch):
    probabilities, labels = batch
    hard = (probabilities > 0.5).astype(np.float32)
    expected = sklearn.metrics.confusion_matrix(labels, hard)
    np.testing.assert_array_equal(soft_confusion_matrix(hard, labels), expected)


def test_level_predictions(batch):
    probabilities, labels = batch
    n, positive = len(labels), labels.sum()
    level = functools.partial(anyloss, probabilities=probabilities, labels=labels, scale=0.0)
    np.testing.assert_allclose(level(confusion_accuracy), 0.5, rtol=1e-6)
    np.testing.assert_allclose(level(confusion_balanced_accuracy), 0.5, rtol=1e-6)
    np.testing.assert_allclose(level(confusion_f_beta), 1 - positive / (positive + n / 2), 1e-6)
    total = soft_confusion_matrix(amplify(probabilities.astype(np.float32)), labels).sum()
    np.testing.assert_allclose(total, n, rtol=1e-6)


def derivatives_by_prediction(h, y):
    """Of accuracy, F1, F2, balanced accuracy and geometric mean by each soft prediction."""
    n, positive, found = len(y), y.sum(), (y * h).sum()
    recall, specificity = found / positive, ((1 - y) * (1 - h)).sum() / (n - positive)

    def f_score(b2):
        denominator = b2 * positive + h.sum()
        return (1 + b2) * (y * denominator - found) / denominator**2

    by_recall, by_specificity = y / positive, -(1 - y) / (n - positive)
    mean = np.sqrt(recall * specificity)
    return {
        "accuracy": (2 * y - 1) / n,
        "f1": f_score(1),
        "f2": f_score(4),
        "balanced": (by_recall + by_specificity) / 2,
        "geometric": (by_recall * specificity + by_specificity * recall) / (2 * mean),
    }


@pytest.mark.parametrize("name", ["accuracy", "f1", "f2", "balanced", "geometric"])
def test_gradient_is_the_closed_form(name):
    rng = np.random.default_rng(1)
    logits, labels = rng.normal(size=30) / 4, rng.integers(0, 2, 30)
    p = 1 / (1 + np.exp(-logits))
    h = 1 / (1 + np.exp(-73 * (p - 0.5)))
    by_logit = 73 * h * (1 - h) * p * (1 - p)
    expected = -derivatives_by_prediction(h, labels)[name] * by_logit
    with jax.enable_x64(True):
        gradient = jax.grad(lambda z: anyloss_from_logits(z, labels, metric=SCORES[name][0]))(
            logits
        )
    np.testing.assert_allclose(gradient, expected, rtol=1e-10, atol=1e-14)


def test_exchanged_classes():
    rng = np.random.default_rng(2)
    probabilities, labels = rng.uniform(size=20), (rng.uniform(size=20) < 0.2).astype(int)
    with jax.enable_x64(True):
        for name, (metric, _) in SCORES.items():
            loss = anyloss(metric, probabilities, labels, scale=9.0)
            exchanged = anyloss(metric, 1 - probabilities, 1 - labels, scale=9.0)
            asymmetric = name in ("f1", "f2", "jaccard")
            assert (abs(loss - exchanged) > 1e-3) == asymmetric


def test_two_columns_are_their_difference():
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(8, 2)).astype(np.float32), np.arange(8) % 2
    probabilities = scipy.special.softmax(logits, axis=1)[:, 1]
    np.testing.assert_allclose(
        anyloss_from_logits(logits, labels, metric=F2, scale=9.0),
        anyloss(F2, probabilities, labels, scale=9.0),
        rtol=1e-5,
    )


def test_scale_reaches_as_far_as_the_docstring_says():
    with jax.enable_x64(True):
        one = jnp.ones((), jnp.float64)
        assert amplify(one, scale=73) < 1
        assert amplify(one, scale=74) == 1
    one = jnp.ones((), jnp.float32)
    assert amplify(one, scale=33) < 1
    assert amplify(one, scale=35) == 1


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_one_class_only(name, label, probability):
    metric, _ = SCORES[name]
    soften = functools.partial(score_oriented_loss, distribution="uniform")
    loss, gradient = jax.value_and_grad(lambda p: soften(metric, p, jnp.full(3, label)))(
        jnp.full(3, probability)
    )
    assert 0 <= loss <= 1
    assert jnp.all(jnp.isfinite(gradient))
    if name != "matthews" and label == probability:
        assert loss == 0


def test_score_oriented_loss_is_the_score_expected_of_a_random_threshold(batch):
    probabilities, labels = batch
    draws = np.random.default_rng(4).uniform(size=(400_000, 1))
    # Inverse distribution function of the raised cosine, by a table.
    u = np.linspace(-1, 1, 4001)
    cosine = 0.6 + 0.3 * np.interp(draws, (1 + u + np.sin(np.pi * u) / np.pi) / 2, u)
    kinds = {"uniform": draws, "cosine": cosine}
    for distribution, thresholds in kinds.items():
        predicted = np.array([np.mean(p > thresholds) for p in probabilities])
        right = np.mean(np.where(labels == 1, predicted, 1 - predicted))
        loss = score_oriented_loss(
            confusion_accuracy,
            probabilities,
            labels,
            distribution=distribution,
            center=0.6,
            width=0.3,
        )
        np.testing.assert_allclose(1 - loss, right, atol=1e-3)
    assert scipy.stats.kstest(cosine[:2000, 0], scipy.stats.cosine(0.6, 0.3 / np.pi).cdf)[1] > 0.01


def test_values_are_checked():
    loss = lossbench.checked(functools.partial(anyloss, confusion_f_beta))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 2\), got 2"):
        loss(jnp.zeros(2), jnp.array([0, 2]))
    # What masked rows hold is nobody's business.
    where = jnp.array([True, False])
    assert loss(jnp.zeros(2), jnp.array([0, 2]), where=where).shape == ()
    p, labels = jnp.array([0.1, 0.7]), jnp.array([0, 1])
    oriented = lossbench.checked(lambda width: score_oriented_loss(F2, p, labels, width=width))
    with pytest.raises(ValueError, match="width must be positive, got 0"):
        oriented(0.0)
