import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.spatial
import scipy.special

from lossbench.classification import feature_separation_loss, multilabel_contrastive_loss


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return rng.normal(size=(11, 4)), (rng.uniform(size=(11, 3)) < 0.4).astype(int)


def by_hand(features, similarity, temperature):
    units = features / np.linalg.norm(features, axis=1, keepdims=True)
    losses = []
    for i in range(len(units)):
        others = [j for j in range(len(units)) if j != i]
        log_p = scipy.special.log_softmax(units[others] @ units[i] / temperature)
        shares = similarity[i, others]
        total = shares.sum()
        losses.append(-(shares @ log_p) / total if total > 0 else 0.0)
    return np.array(losses)


def similarities(sets, kind):
    if kind == "jaccard":
        distance = scipy.spatial.distance.cdist(sets.astype(bool), sets.astype(bool), "jaccard")
        return 1 - distance
    shared = sets @ sets.T
    if kind == "any":
        return (shared > 0).astype(float)
    whole = np.sqrt(np.outer(sets.sum(1), sets.sum(1)))
    return np.divide(shared, whole, out=np.zeros_like(whole), where=whole > 0)


@pytest.mark.parametrize("temperature", [0.1, 1.0])
def test_separation_is_the_mean_over_positives(batch, temperature):
    features, _ = batch
    labels = np.array([0, 1, 2, 0, 1, 0, 1, 3, 0, 1, 1])  # 2 and 3 stand alone
    expected = by_hand(features, (labels[:, None] == labels).astype(float), temperature)
    with jax.enable_x64(True):
        loss = feature_separation_loss(features, labels, temperature=temperature)
        chunked = feature_separation_loss(features, labels, temperature=temperature, chunk_size=4)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)
    np.testing.assert_allclose(chunked, expected, rtol=1e-10)
    np.testing.assert_array_equal(np.asarray(loss)[[2, 7]], 0)


@pytest.mark.parametrize("kind", ["jaccard", "any", "cosine"])
def test_similar_sets_attract(batch, kind):
    features, sets = batch
    assert np.any(sets.sum(1) == 0)
    expected = by_hand(features, similarities(sets, kind), 0.3)
    with jax.enable_x64(True):
        loss = multilabel_contrastive_loss(features, sets, similarity=kind, temperature=0.3)
    np.testing.assert_allclose(loss, expected, rtol=1e-10)


def test_one_label_each_is_the_supervised_loss(batch):
    features, _ = batch
    labels = np.arange(11) % 3
    for kind in ("jaccard", "any", "cosine"):
        np.testing.assert_allclose(
            multilabel_contrastive_loss(features, np.eye(3, dtype=int)[labels], similarity=kind),
            feature_separation_loss(features, labels),
            rtol=1e-5,
        )


def test_equal_features_cost_the_logarithm_of_the_others():
    loss = feature_separation_loss(jnp.ones((7, 2)), jnp.zeros(7, int))
    np.testing.assert_allclose(loss, np.log(6), rtol=1e-6)


def test_scale_and_rotation_do_not_matter(batch):
    features, _ = batch
    labels = np.arange(11) % 3
    turn = np.linalg.qr(np.random.default_rng(1).normal(size=(4, 4)))[0]
    with jax.enable_x64(True):
        loss = feature_separation_loss(features, labels)
        moved = feature_separation_loss(7 * features @ turn, labels)
    np.testing.assert_allclose(loss, moved, rtol=1e-10)
