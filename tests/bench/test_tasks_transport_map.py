"""The task of transport maps: its optimal map is optimal, its losses fit and its metrics judge."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest

from lossbench.bench import compare, load_task
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.transport import transport_map_loss


@pytest.mark.parametrize("dimension", [2, 16])
def test_optimal_images_are_distributed_as_the_target_at_least_cost(dimension):
    task = load_task("transport-map", dimension=dimension)
    train = task.splits(jax.random.key(0))["train"]
    x, y, optimal = (np.asarray(train[name]) for name in ("source", "target", "optimal"))
    np.testing.assert_allclose(np.cov(optimal.T), np.cov(y.T), atol=0.35)
    np.testing.assert_allclose(optimal.mean(0), y.mean(0), atol=0.2)
    some = slice(200)
    uniform = np.full(200, 1 / 200)
    least = ot.emd2(uniform, uniform, ot.dist(x[some], optimal[some]))
    np.testing.assert_allclose(np.mean(np.sum((x - optimal)[some] ** 2, 1)), least, rtol=1e-4)


def test_metrics_of_the_optimal_and_the_constant_map():
    task = load_task("transport-map")
    test = task.splits(jax.random.key(0))["test"]
    best = {**test, "mapped": test["optimal"]}
    constant = {**test, "mapped": jnp.ones_like(test["optimal"])}
    assert task.metrics["unexplained variance"](best) == 0
    assert 70 < task.metrics["unexplained variance"](constant) < 130
    landing = task.metrics["sinkhorn divergence"]
    assert landing(best) < 0.2 < landing(constant)


def test_losses_compare():
    def nearest(mapped, target):
        """Pulls every image to the target's mean: it never learns the spread."""
        return jnp.sum((mapped - target.mean(0)) ** 2, axis=1)

    task = load_task("transport-map", target="ring")
    few = dataclasses.replace(  # a comparison measures both held-out splits twenty times a run
        task, splits=lambda key: jax.tree.map(lambda rows: rows[:64], task.splits(key))
    )
    found = compare(
        few,
        {"gap": transport_map_loss, "mean": nearest},
        grid={"gap": {"gap_weight": 0.1, "max_iterations": 10}},
        seeds=1,
        tune=1,
        tune_seeds=1,
        steps=40,
        batch_size=16,
        progress=False,
    )
    means = found.to_pandas()["mean"]
    assert means["gap"] < means["mean"]


def test_wrong_settings_are_refused():
    with pytest.raises(UnknownNameError, match="did you mean ring"):
        load_task("transport-map", target="rin")
    with pytest.raises(UsageError, match="no dimension 3"):
        load_task("transport-map", target="ring", dimension=3)
