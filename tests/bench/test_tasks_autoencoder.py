"""The autoencoder's task: its metrics, and training by reconstruction and loss together."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.bench import compare, load_task
from lossbench.bench.errors import UsageError
from lossbench.bench.tasks.autoencoder import prior_distance, unexplained_share


@pytest.fixture(scope="module")
def task():
    return load_task("autoencoder-prior", weight=0.5)


@pytest.fixture(scope="module")
def outputs(task):
    batch = task.splits(jax.random.key(0))["validation"]
    return task.outputs(task.init(jax.random.key(1)), batch, jax.random.key(2))


def test_a_loss_is_offered_codes_and_fresh_draws_of_the_prior(task, outputs):
    assert outputs["x"].shape == outputs["y"].shape == (200, 8)
    np.testing.assert_allclose(outputs["y"].std(), 1, atol=0.1)
    again = task.outputs(task.init(jax.random.key(1)), {"x": outputs["images"]}, jax.random.key(3))
    np.testing.assert_array_equal(again["x"], outputs["x"])
    assert not np.any(np.isclose(again["y"], outputs["y"]).all(1))


def test_metrics(task, outputs):
    images, guess = (np.asarray(outputs[name]) for name in ("images", "reconstructions"))
    share = np.mean((images - guess) ** 2, axis=0).sum() / np.trace(np.cov(images.T, ddof=0))
    np.testing.assert_allclose(unexplained_share(outputs), share, rtol=1e-5)
    # A shift by m along each of d axes, projected on a unit vector, is one of m^2 in the mean.
    x = jnp.asarray(outputs["y"])
    shifted = {"key": jax.random.key(0), "x": x + 2.0, "y": x}
    np.testing.assert_allclose(prior_distance(shifted), 4, rtol=0.3)
    total = task.metrics["total"](outputs)
    np.testing.assert_allclose(total, share + 0.5 * prior_distance(outputs), rtol=1e-5)


def nothing(x, y):
    return jnp.zeros(())


def test_training_reconstructs_and_the_loss_moves_the_codes(task):
    found = compare(
        task,
        {"none": nothing, "sliced_wasserstein": "sliced_wasserstein"},
        seeds=1,
        tune=1,
        tune_seeds=1,
        steps=200,
        progress=False,
    )
    scores = {
        name: {metric: result.scores(metric)[0] for metric in task.metrics}
        for name, result in found.results.items()
    }
    # Without the reconstruction in the training nothing would be explained.
    assert max(score["unexplained share"] for score in scores.values()) < 0.6
    free, matched = scores["none"], scores["sliced_wasserstein"]
    assert matched["prior distance"] < free["prior distance"]
    assert matched["total"] < free["total"]


def test_the_base_loss_is_added_to_every_loss(blobs):
    """Training on nothing but the base loss gives the numbers of the base loss as loss."""

    def squared(outputs):
        return jnp.mean((outputs["logits"] - jax.nn.one_hot(outputs["labels"], 3)) ** 2)

    options = {"seeds": 2, "tune": 1, "tune_seeds": 1, "progress": False}
    added = compare(
        dataclasses.replace(blobs, base_loss=squared), {"zero": zero_of_logits}, **options
    )
    alone = compare(blobs, {"squared": squared_of_logits}, **options)
    first, second = added.results["zero"], alone.results["squared"]
    np.testing.assert_allclose(first.train_loss, second.train_loss, rtol=1e-5)
    np.testing.assert_allclose(first.scores("nll"), second.scores("nll"), rtol=1e-5)


def zero_of_logits(logits):
    return 0 * logits[:, 0]


def squared_of_logits(logits, labels):
    return jnp.mean((logits - jax.nn.one_hot(labels, 3)) ** 2, -1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"code": 0}, "code must be at least 1"), ({"weight": 0.0}, "weight must be positive")],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(UsageError, match=message):
        load_task("autoencoder-prior", **settings)
