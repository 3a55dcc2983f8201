import itertools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from ott.geometry import costs, pointcloud
from ott.solvers import linear
from ott.tools.sinkhorn_divergence import sinkhorn_divergence
from scipy.optimize import linear_sum_assignment

from lossbench.transport import (
    cyclical_monotonicity_violation,
    monge_gap,
    monge_gap_displacements,
    transport_map_loss,
)

N = 20
EPSILON = 0.5


@pytest.fixture(scope="module")
def points():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(N, 2))
    return x, x[:, ::-1] + 0.3 * rng.normal(size=(N, 2))


def squared(x, y):
    return ((x[:, None] - y) ** 2).sum(-1)


def pot_plan(cost, epsilon=EPSILON):
    a, b = (np.full(size, 1 / size) for size in cost.shape)
    return ot.bregman.sinkhorn_log(a, b, cost, epsilon, stopThr=1e-13, numItermax=100_000)


def pot_cost(cost, epsilon=EPSILON):
    plan = pot_plan(cost, epsilon)
    return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan))


def test_value_gradient_and_displacements_are_pots(points):
    x, y = points
    cost = squared(x, y)
    plan = pot_plan(cost)
    with jax.enable_x64(True):
        solver = {"epsilon": EPSILON, "tolerance": 1e-11, "max_iterations": 20_000}
        value, (by_x, by_y) = jax.jit(
            jax.value_and_grad(lambda x, y: monge_gap(x, y, **solver), (0, 1))
        )(x, y)
        terms = monge_gap_displacements(x, y, **solver)
    np.testing.assert_allclose(value, np.diag(cost).mean() - pot_cost(cost), rtol=1e-9)
    np.testing.assert_allclose(terms, -EPSILON * np.log(np.diag(plan)), rtol=1e-7)
    # The gap pushes each image from where it was sent to where the plan would send it.
    np.testing.assert_allclose(by_y, 2 / N * (N * plan.T @ x - x), atol=1e-8)
    np.testing.assert_allclose(by_x, 2 / N * (N * plan @ y - y), atol=1e-8)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("squared_euclidean", costs.SqEuclidean()),
        ("euclidean", costs.Euclidean()),
        (costs.PNormP(1.5), costs.PNormP(1.5)),
    ],
)
def test_value_is_otts(points, ours, theirs):
    x, y = (jnp.asarray(p, jnp.float32) for p in points)
    value = monge_gap(x, y, cost_fn=ours, epsilon=EPSILON, tolerance=1e-5)
    # The two lines of ott's own, whose module needs diffrax.
    moved = jnp.mean(jax.vmap(theirs)(x, y))
    geometry = pointcloud.PointCloud(x, y, cost_fn=theirs, epsilon=EPSILON)
    expected = moved - linear.solve(geometry, threshold=1e-5).ent_reg_cost
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_debiased_is_the_sinkhorn_divergences(points):
    x, y = points
    expected = np.diag(squared(x, y)).mean() - (
        pot_cost(squared(x, y)) - (pot_cost(squared(x, x)) + pot_cost(squared(y, y))) / 2
    )
    with jax.enable_x64(True):
        value = monge_gap(
            x, y, kind="debiased", epsilon=EPSILON, tolerance=1e-9, max_iterations=20_000
        )
    np.testing.assert_allclose(value, expected, rtol=1e-7)


def test_exact_is_scipys_assignment_and_bounds_the_entropic(points):
    x, y = points
    cost = squared(x, y)
    rows, columns = linear_sum_assignment(cost)
    exact = np.diag(cost).mean() - cost[rows, columns].mean()
    with jax.enable_x64(True):
        value, gradient = jax.value_and_grad(lambda y: monge_gap(x, y, kind="exact"))(y)
        np.testing.assert_allclose(value, exact, rtol=1e-10)
        inverse = np.argsort(columns)
        np.testing.assert_allclose(gradient, 2 / N * (x[inverse] - x), atol=1e-10)
        for epsilon in (0.05, 1.0):
            gap = monge_gap(x, y, epsilon=epsilon, tolerance=1e-6)
            floor = epsilon * np.log(N)
            assert exact + floor - 1e-6 <= gap <= exact + 2 * floor + 1e-6


def test_optimal_maps_have_no_gap(points):
    x, _ = points
    matrix = np.array([[2.0, 0.5], [0.5, 1.0]])
    with jax.enable_x64(True):
        for mapped in (x, x + 3, x @ matrix):
            np.testing.assert_allclose(monge_gap(x, mapped, kind="exact"), 0, atol=1e-10)
        key = jax.random.key(0)
        assert cyclical_monotonicity_violation(key, x, x @ matrix, tuple_size=3) < 1e-10
        assert monge_gap(x, -x, kind="exact") > 1


def test_identity_under_the_euclidean_cost_has_finite_gradient(points):
    x = np.float32(points[0])
    gradient = jax.grad(lambda y: monge_gap(x, y, cost_fn="euclidean"))(jnp.asarray(x))
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("kind", ["entropic", "debiased", "exact"])
def test_points_that_are_not_there_change_nothing(points, kind):
    x, y = (np.float32(p) for p in points)
    pad = np.full((3, 2), np.nan, np.float32)
    where = np.arange(N + 3) < N

    def gap(x, y, where):
        return monge_gap(x, y, kind=kind, epsilon=EPSILON, tolerance=1e-5, where=where)

    long = np.concatenate([x, pad]), np.concatenate([y, pad])
    value, gradient = jax.value_and_grad(gap, 1)(*long, where)
    short, expected = jax.value_and_grad(gap, 1)(x, y, None)
    np.testing.assert_allclose(value, short, rtol=1e-5)
    np.testing.assert_allclose(gradient[:N], expected, atol=1e-5)
    np.testing.assert_array_equal(gradient[N:], 0)


def test_violation_is_the_mean_over_pairs(points):
    x, y = points
    cost = squared(x, y)
    pairs = [
        max(0, cost[i, i] + cost[j, j] - cost[i, j] - cost[j, i])
        for i, j in itertools.product(range(N), repeat=2)
    ]
    key = jax.random.key(0)
    value = cyclical_monotonicity_violation(key, x, y, samples=20_000)
    np.testing.assert_allclose(value, np.mean(pairs), atol=4 * np.std(pairs) / np.sqrt(20_000))


def test_loss_is_otts_divergence_and_the_gap(points):
    x, mapped = (jnp.asarray(p, jnp.float32) for p in points)
    target = mapped[:15] + 1
    epsilon = 0.1 * squared(target, target).mean()
    divergence, _ = sinkhorn_divergence(
        pointcloud.PointCloud, mapped, target, epsilon=epsilon, solve_kwargs={"threshold": 1e-5}
    )
    for weight in (0.0, 2.0):
        loss = transport_map_loss(x, mapped, target, gap_weight=weight, tolerance=1e-5)
        gap = monge_gap(x, mapped, tolerance=1e-5)
        np.testing.assert_allclose(loss, divergence + weight * gap, rtol=1e-3)
