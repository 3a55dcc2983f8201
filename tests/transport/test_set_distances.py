import itertools
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.stats

import lossbench
from lossbench.transport import (
    energy_set_loss,
    frechet_set_loss,
    hausdorff_divergence,
    sinkhorn_set_loss,
)

LOSSES = [
    energy_set_loss,
    partial(sinkhorn_set_loss, blur=0.5, tolerance=1e-6),
    partial(hausdorff_divergence, blur=0.5),
]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def gradient(loss, x, y, **options):
    return jax.jit(jax.grad(lambda x: loss(x, y, **options).sum()))(x)


def test_energy_is_the_definition_for_images(rng):
    x, y = rng.normal(size=(3, 4, 2, 5)), rng.normal(size=(3, 6, 2, 5))

    def mean_distance(a, b):
        return np.mean([np.linalg.norm(u - v) for u, v in itertools.product(a, b)])

    expected = [
        mean_distance(a, b) - mean_distance(a, a) / 2 - mean_distance(b, b) / 2
        for a, b in zip(x, y, strict=True)
    ]
    with jax.enable_x64(True):
        np.testing.assert_allclose(energy_set_loss(x, y), expected, rtol=1e-12)
        distinct = [mean_distance(a, a) / 2 * (4 / 3 - 1) for a in x]
        unbiased = energy_set_loss(x, y, unbiased=True)
        np.testing.assert_allclose(unbiased, np.array(expected) - distinct, rtol=1e-12)


def test_energy_on_the_line_is_half_of_scipys_squared(rng):
    x, y = rng.normal(size=(2, 5, 1)), rng.normal(size=(2, 3, 1))
    a, b = rng.dirichlet(np.ones(5), 2), rng.dirichlet(np.ones(3), 2)
    expected = [
        scipy.stats.energy_distance(x[i, :, 0], y[i, :, 0], a[i], b[i]) ** 2 / 2 for i in range(2)
    ]
    with jax.enable_x64(True):
        value = energy_set_loss(x, y, prediction_weights=a, mask_weights=b)
    np.testing.assert_allclose(value, expected, rtol=1e-9)


def test_energy_gradient_is_unit_pulls_and_pushes(rng):
    x, y = rng.normal(size=(1, 4, 7)), rng.normal(size=(1, 3, 7))
    x[0, 1] = y[0, 2]  # no force between the two

    def unit(v):
        return v / max(np.linalg.norm(v), 1e-300)

    expected = [
        sum(unit(s - v) for v in y[0]) / 12 - sum(unit(s - v) for v in x[0]) / 16 for s in x[0]
    ]
    with jax.enable_x64(True):
        np.testing.assert_allclose(gradient(energy_set_loss, x, y)[0], expected, atol=1e-12)


def test_unbiased_energy_has_the_populations_mean(rng):
    # X uniform on {0, 1}, Y = 0: E|X - Y| - E|X - X'| / 2 = 1/2 - 1/4.
    pairs = np.array(list(itertools.product([0.0, 1.0], repeat=2)), np.float32)[..., None]
    zeros = np.zeros((4, 1, 1), np.float32)
    assert jnp.mean(energy_set_loss(pairs, zeros, unbiased=True)) == pytest.approx(0.25)
    assert jnp.mean(energy_set_loss(pairs, zeros)) == pytest.approx(0.375)


@pytest.mark.parametrize("loss", LOSSES)
def test_equal_sets_are_at_distance_zero(rng, loss):
    y = rng.normal(size=(2, 4, 3)).astype(np.float32)
    x = y[:, [2, 0, 3, 1]]
    np.testing.assert_allclose(loss(x, y), 0, atol=1e-5)
    # The forces of two sets cancel; each has the digits of float32's distances.
    np.testing.assert_allclose(gradient(loss, x, y), 0, atol=1e-4)
    # A doubled point is a point of twice the weight.
    doubled = np.concatenate([x, x[:, :1]], axis=1)
    weights = np.array([[0.4, 0.2, 0.2, 0.2]] * 2, np.float32)
    other = rng.normal(size=(2, 3, 3)).astype(np.float32)
    np.testing.assert_allclose(
        loss(doubled, other), loss(x, other, prediction_weights=weights), rtol=1e-3
    )


@pytest.mark.parametrize("loss", LOSSES)
def test_points_of_weight_zero_may_hold_anything(rng, loss):
    x = rng.normal(size=(1, 2, 3)).astype(np.float32)
    y = rng.normal(size=(1, 3, 3)).astype(np.float32)
    padded = np.concatenate([y, np.full((1, 1, 3), np.nan, np.float32)], axis=1)
    weights = np.array([[1 / 3, 1 / 3, 1 / 3, 0]], np.float32)
    value, slope = jax.jit(
        jax.value_and_grad(lambda x, y: loss(x, y, mask_weights=weights)[0], argnums=(0, 1))
    )(x, padded)
    np.testing.assert_allclose(value, loss(x, y)[0], rtol=1e-4)
    np.testing.assert_allclose(slope[0], gradient(loss, x, y), rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(slope[1][0, 3], 0)


def test_one_point_a_side(rng):
    x, y = rng.normal(size=(2, 1, 5)), rng.normal(size=(2, 1, 5))
    distance = np.linalg.norm((x - y)[:, 0], axis=1)
    with jax.enable_x64(True):
        np.testing.assert_allclose(energy_set_loss(x, y, unbiased=True), distance, rtol=1e-12)
        for p, expected in ((1, distance), (2, distance**2 / 2)):
            np.testing.assert_allclose(sinkhorn_set_loss(x, y, p=p), expected, rtol=1e-9)
            np.testing.assert_allclose(hausdorff_divergence(x, y, p=p), expected, rtol=1e-9)


def entropic_cost(x, y, a, b, epsilon):
    """OT_epsilon and the plan, by Sinkhorn's iterations in numpy."""
    cost = ((x[:, None] - y) ** 2).sum(-1) / 2
    kernel = a[:, None] * b * np.exp(-cost / epsilon)
    v = np.ones(len(b))
    for _ in range(5000):
        u = a / (kernel @ v)
        v = b / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return np.sum(plan * cost) + epsilon * np.sum(plan * np.log(plan / np.outer(a, b))), plan


def test_sinkhorn_is_the_definition(rng):
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    a, b = rng.dirichlet(np.ones(5)), rng.dirichlet(np.ones(4))
    between, plan = entropic_cost(x, y, a, b, 0.3)
    within, own = entropic_cost(x, x, a, a, 0.3)
    expected = between - within / 2 - entropic_cost(y, y, b, b, 0.3)[0] / 2
    pull = plan.sum(1)[:, None] * x - plan @ y - own.sum(1)[:, None] * x + (own + own.T) @ x / 2
    options = {
        "blur": 0.3**0.5,
        "prediction_weights": a[None],
        "mask_weights": b[None],
        "tolerance": 1e-12,
        "max_iterations": 100,
    }
    with jax.enable_x64(True):
        value = sinkhorn_set_loss(x[None], y[None], **options)
        slope = gradient(sinkhorn_set_loss, x[None], y[None], **options)
    np.testing.assert_allclose(value[0], expected, rtol=1e-9)
    np.testing.assert_allclose(slope[0], pull, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("p", [1, 2])
def test_sinkhorn_tends_to_the_assignment(rng, p):
    x = rng.normal(size=(3, 4, 6)).astype(np.float32)
    y = rng.normal(size=(3, 4, 6)).astype(np.float32)
    cost = np.linalg.norm(x[:, :, None] - y[:, None], axis=-1) ** p / p
    best = [
        min(np.mean(c[np.arange(4), list(order)]) for order in itertools.permutations(range(4)))
        for c in cost
    ]
    np.testing.assert_allclose(sinkhorn_set_loss(x, y, p=p), best, rtol=5e-3)


def test_hausdorff_is_the_bregman_divergence_of_the_sinkhorn_entropy(rng):
    x, y, epsilon = rng.normal(size=(5, 3)), rng.normal(size=(4, 3)), 0.2

    def potential(points, at):
        """The potential from `points` to themselves, extended to the points `at`."""

        def kernel(u, v):
            return np.exp(-((u[:, None] - v) ** 2).sum(-1) / (2 * epsilon))

        scaling = np.ones(len(points))
        for _ in range(2000):
            scaling = np.sqrt(scaling / (kernel(points, points) @ scaling / len(points)))
        return -epsilon * np.log(kernel(at, points) @ scaling / len(points))

    expected = np.mean(potential(y, x) - potential(x, x)) / 2
    expected -= np.mean(potential(y, y) - potential(x, y)) / 2
    with jax.enable_x64(True):
        value = hausdorff_divergence(x[None], y[None], blur=epsilon**0.5)
    np.testing.assert_allclose(value[0], expected, rtol=1e-10)


def test_hausdorff_compares_nearest_points_without_blur():
    x = jnp.array([[[0.0], [10.0]]])
    y = jnp.array([[[1.0], [2.0]]])
    # 0 -> 1, 10 -> 2; 1 -> 0, 2 -> 0: mean halves of squares, then their mean.
    expected = ((0.5 + 32) / 2 + (0.5 + 2) / 2) / 2
    np.testing.assert_allclose(hausdorff_divergence(x, y, blur=0.01), [expected], rtol=1e-3)


def test_frechet_is_the_closed_form(rng):
    a, b = rng.normal(size=(9, 5)), rng.normal(size=(7, 5)) @ rng.normal(size=(5, 5))
    cov_a, cov_b = np.cov(a.T), np.cov(b.T)
    root = np.real(scipy.linalg.sqrtm(cov_a @ cov_b))
    expected = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * root)
    with jax.enable_x64(True):
        np.testing.assert_allclose(frechet_set_loss(a, b), expected, rtol=1e-9)
        np.testing.assert_allclose(frechet_set_loss(a, a), 0, atol=1e-12)
        # Few samples of many features: singular covariances.
        few, slope = jax.value_and_grad(frechet_set_loss)(a[:3], b)
        assert np.isfinite(few)
        assert np.all(np.isfinite(slope))
        step = 1e-6 * rng.normal(size=(3, 5))
        ahead, behind = frechet_set_loss(a[:3] + step, b), frechet_set_loss(a[:3] - step, b)
        np.testing.assert_allclose(ahead - behind, 2 * np.sum(slope * step), rtol=1e-6)


def test_weights_are_checked():
    x = jnp.zeros((1, 2, 3))
    with pytest.raises(ValueError, match="weights must be at least 0 and sum to 1"):
        lossbench.checked(lambda x: energy_set_loss(x, x, mask_weights=jnp.ones((1, 2))))(x)
