"""A comparison small enough for tests, run once and shared."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.bench import compare
from lossbench.bench.tasks import Task
from lossbench.bench.tasks.classification import accuracy, negative_log_likelihood


def squared_error(logits, labels, *, scale=1.0):
    return scale * jnp.sum((jax.nn.softmax(logits) - jax.nn.one_hot(labels, 3)) ** 2, -1)


def backwards(logits, labels):
    """The wrong way round: what any honest bench must rank last."""
    return -squared_error(logits, labels)


def diverging(logits, labels):
    """Not finite from the first step on."""
    return jnp.log(-jnp.abs(logits[:, 0]) - 1.0)


@pytest.fixture(scope="session")
def losses():
    return {
        "cross_entropy": "cross_entropy",
        "squared": squared_error,
        "backwards": backwards,
        "diverging": diverging,
    }


@pytest.fixture(scope="session")
def blobs() -> Task:
    """Three Gaussian blobs and a linear model."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, 260)
    x = (np.eye(3)[labels] * 3 + rng.normal(size=(260, 3))).astype(np.float32)
    test = {"x": jnp.asarray(x[200:]), "labels": jnp.asarray(labels[200:])}

    def splits(key):
        order = jax.random.permutation(key, 200)
        chosen = {"x": jnp.asarray(x)[order], "labels": jnp.asarray(labels)[order]}
        return {
            "train": jax.tree.map(lambda rows: rows[:150], chosen),
            "validation": jax.tree.map(lambda rows: rows[150:], chosen),
            "test": test,
        }

    return Task(
        name="blobs",
        description="three blobs",
        splits=splits,
        init=lambda key: {"w": 0.01 * jax.random.normal(key, (3, 3))},
        outputs=lambda params, batch, key: {
            "logits": batch["x"] @ params["w"],
            "labels": batch["labels"],
        },
        metrics={"accuracy": accuracy, "nll": negative_log_likelihood},
        objective="accuracy",
        minimized=("nll",),
        settings={"noise": "none"},
        steps=40,
        batch_size=25,
    )


@pytest.fixture(scope="session")
def options():
    return {"seeds": 5, "tune": 4, "tune_seeds": 1, "grid": {"squared": {"scale": (0.5, 2.0)}}}


@pytest.fixture(scope="session")
def comparison(blobs, losses, options):
    return compare(blobs, losses, **options)
