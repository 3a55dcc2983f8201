import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.optimize
import scipy.spatial
from sklearn.utils.class_weight import compute_class_weight

import lossbench
from lossbench.classification import (
    hybrid_multilabel_loss,
    label_correlation_loss,
    label_correlation_matrix,
    multilabel_class_weights,
    multilabel_contrastive_loss,
    multilabel_positive_weights,
    weighted_binary_cross_entropy,
)


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    labels = (rng.uniform(size=(40, 4)) < [0.5, 0.3, 0.2, 0.6]).astype(int)
    labels[:, 3] |= labels[:, 1]
    return 2 * rng.normal(size=(40, 4)), rng.normal(size=(40, 5)), labels


def test_class_weights(batch):
    *_, labels = batch
    with jax.enable_x64(True):
        balanced = multilabel_class_weights(labels, smoothing=0.0)
        for c in range(4):
            expected = compute_class_weight("balanced", classes=np.array([0, 1]), y=labels[:, c])
            np.testing.assert_allclose(balanced[c], expected[1], rtol=1e-12)
        counts = labels.sum(0)
        inverse = multilabel_class_weights(labels, kind="inverse")
        np.testing.assert_allclose(inverse, (1 / counts) / (1 / counts).mean(), rtol=1e-12)
        effective = 1 / (1 - 0.9**counts)
        np.testing.assert_allclose(
            multilabel_class_weights(labels, kind="effective", beta=0.9),
            effective / effective.mean(),
            rtol=1e-9,
        )
        np.testing.assert_allclose(
            multilabel_positive_weights(labels, smoothing=0.5),
            (40 - counts + 0.5) / (counts + 0.5),
            rtol=1e-12,
        )


def test_weights_of_a_label_that_never_occurs():
    labels = np.array([[1, 0]] * 50)
    assert multilabel_class_weights(labels, smoothing=0.0)[1] == 10
    assert multilabel_positive_weights(labels, smoothing=0.0)[1] == 20


def test_weighted_cross_entropy_is_the_sum_of_its_terms(batch):
    logits, _, labels = batch
    class_weights, positive_weights = np.array([1.0, 2, 0.5, 3]), np.array([2.0, 1, 4, 0.3])
    p = 1 / (1 + np.exp(-logits))
    terms = -positive_weights * labels * np.log(p) - (1 - labels) * np.log1p(-p)
    with jax.enable_x64(True):
        loss = weighted_binary_cross_entropy(
            logits, labels, class_weights=class_weights, positive_weights=positive_weights
        )
        np.testing.assert_allclose(loss, (class_weights * terms).mean(1), rtol=1e-10)
        plain = optax.losses.sigmoid_binary_cross_entropy(jnp.asarray(logits), labels).mean(1)
        np.testing.assert_allclose(weighted_binary_cross_entropy(logits, labels), plain, rtol=1e-12)


def test_a_positive_weight_moves_the_optimum():
    labels = np.array([[1]] * 2 + [[0]] * 8)

    def risk(logit):
        logits = np.full((10, 1), logit, np.float32)
        return float(
            weighted_binary_cross_entropy(logits, labels, positive_weights=np.array([3.0])).mean()
        )

    found = scipy.optimize.minimize_scalar(risk, bounds=(-3, 3)).x
    p = 3 * 0.2 / (3 * 0.2 + 0.8)
    np.testing.assert_allclose(1 / (1 + np.exp(-found)), p, atol=1e-3)


def test_correlation_matrices(batch):
    *_, labels = batch
    found = {}
    with jax.enable_x64(True):
        for kind in ("phi", "conditional", "cosine", "jaccard"):
            found[kind] = np.asarray(label_correlation_matrix(labels, kind=kind))
            np.testing.assert_array_equal(np.diag(found[kind]), 0)
        shrunk = label_correlation_matrix(labels, shrinkage=0.25)
    off = ~np.eye(4, dtype=bool)
    columns = labels.T.astype(bool)
    cosine = 1 - scipy.spatial.distance.cdist(columns, columns, "cosine")
    jaccard = 1 - scipy.spatial.distance.cdist(columns, columns, "jaccard")
    conditional = [[labels[row, j].mean() for j in range(4)] for row in columns]
    for kind, expected in {
        "phi": np.corrcoef(labels.T),
        "conditional": np.array(conditional),
        "cosine": cosine,
        "jaccard": jaccard,
    }.items():
        np.testing.assert_allclose(found[kind][off], expected[off], rtol=1e-10)
    np.testing.assert_allclose(shrunk, 0.75 * found["phi"], rtol=1e-12)


def test_constant_labels_are_related_to_none():
    labels = np.array([[1, 0, 1], [1, 0, 0], [1, 0, 1]])
    for kind in ("phi", "cosine", "jaccard", "conditional"):
        matrix = label_correlation_matrix(labels, kind=kind)
        assert np.all(np.isfinite(matrix))
        np.testing.assert_array_equal(matrix[:, 1], 0)
    np.testing.assert_array_equal(label_correlation_matrix(labels), 0)


def test_correlation_loss_is_the_sum_over_pairs(batch):
    logits, *_ = batch
    rng = np.random.default_rng(1)
    correlation = rng.uniform(-1, 1, size=(4, 4))
    p = 1 / (1 + np.exp(-logits))
    expected = np.zeros(40)
    for i in range(4):
        for j in range(4):
            if i != j:
                expected += max(correlation[i, j], 0) * (p[:, i] - p[:, j]) ** 2
                expected += max(-correlation[i, j], 0) * p[:, i] * p[:, j]
    with jax.enable_x64(True):
        loss = label_correlation_loss(logits, correlation)
        np.testing.assert_allclose(loss, expected / 12, rtol=1e-10)
        level = label_correlation_loss(np.full((1, 4), 0.7), np.abs(correlation))
    np.testing.assert_allclose(level, 0, atol=1e-12)


def test_hybrid_is_the_sum_of_its_terms(batch):
    logits, embeddings, labels = batch
    correlation = np.asarray(label_correlation_matrix(labels), np.float64)
    weights = np.array([1.0, 2, 0.5, 3])
    with jax.enable_x64(True):
        loss = hybrid_multilabel_loss(
            logits,
            embeddings,
            labels,
            correlation,
            positive_weights=weights,
            correlation_weight=0.4,
            contrastive_weight=0.7,
            temperature=0.5,
        )
        expected = (
            weighted_binary_cross_entropy(logits, labels, positive_weights=weights)
            + 0.4 * label_correlation_loss(logits, correlation)
            + 0.7 * multilabel_contrastive_loss(embeddings, labels, temperature=0.5)
        )
    np.testing.assert_allclose(loss, expected, rtol=1e-12)


def test_values_are_checked():
    with pytest.raises(ValueError, match="labels must be 0 or 1"):
        lossbench.checked(weighted_binary_cross_entropy)(jnp.zeros((1, 2)), jnp.array([[0, 2]]))
