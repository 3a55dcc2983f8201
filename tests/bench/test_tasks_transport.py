import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lossbench.bench import compare, load_task
from lossbench.bench.errors import UsageError
from lossbench.bench.tasks.transport import exact_wasserstein


def test_the_metric_against_scipys_assignment():
    x, y = np.random.default_rng(0).normal(size=(2, 30, 3)).astype(np.float32)
    cost = cdist(x, y) ** 2
    expected = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    found = jax.jit(exact_wasserstein)({"x": jnp.asarray(x), "y": jnp.asarray(y)})
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_the_target_is_a_torus_and_starts_differ():
    task = load_task("point-cloud-flow", points=50)
    splits = task.splits(jax.random.key(0))
    y = np.asarray(splits["test"]["y"])
    np.testing.assert_allclose(
        (np.hypot(y[:, 0], y[:, 1]) - 1) ** 2 + y[:, 2] ** 2, 0.09, rtol=1e-4
    )
    np.testing.assert_array_equal(y, splits["train"]["y"])
    first, second = (task.init(jax.random.key(seed)) for seed in range(2))
    assert first.shape == (50, 3)
    assert not np.allclose(first, second)


def test_losses_of_clouds_are_compared():
    task = load_task("point-cloud-flow", points=24)
    found = compare(
        task,
        ["sliced_wasserstein", "control_variate_sliced_wasserstein"],
        seeds=2,
        tune=1,
        tune_seeds=1,
        steps=60,
        progress=False,
    )
    start = exact_wasserstein(
        {"x": task.init(jax.random.key(0)), "y": task.splits(jax.random.key(0))["test"]["y"]}
    )
    for name in found.results:
        assert np.all(found.results[name].scores("exact W2") < start / 2)


def test_a_cloud_of_one_point_is_refused():
    with pytest.raises(UsageError, match="points must be at least 2"):
        load_task("point-cloud-flow", points=1)
