from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

from lossbench.transport import (
    aas_grid_value,
    grid_log_density,
    optimal_grid_density,
    sample_grid_density,
)

ZERO, ONE = np.zeros(1), np.ones(1)


def centres(g, low=0.0, high=1.0):
    return low + (high - low) * (np.arange(g) + 0.5) / g


def roughness_matrix(g):
    """int |p'|^2 = p^T M p for the trigonometric interpolant of p on [0, 1], by definition."""
    k = np.arange(g)
    basis = np.cos(np.pi * k * centres(g)[:, None])
    coefficients = np.linalg.inv(basis)
    return coefficients.T @ np.diag((np.pi * k) ** 2 / 2) @ coefficients


@pytest.mark.parametrize("nonnegative", [True, False])
def test_one_cosine_has_a_closed_form(nonnegative):
    x, beta, k = centres(32), 0.02, 3
    residual_sq = 1 + np.cos(np.pi * k * x)
    with jax.enable_x64(True):
        options = {"beta": beta, "nonnegative": nonnegative, "num_iterations": 1000}
        p = optimal_grid_density(residual_sq, ZERO, ONE, **options)
        value = aas_grid_value(residual_sq, ZERO, ONE, **options)
    expected = 1 + np.cos(np.pi * k * x) / (2 * beta * np.pi**2 * k**2)
    np.testing.assert_allclose(p, expected, atol=1e-8)
    np.testing.assert_allclose(value, 1 + 1 / (8 * beta * np.pi**2 * k**2), rtol=1e-9)


def test_the_constrained_maximiser_is_that_of_a_quadratic_programme():
    g, beta = 24, 0.001
    x = centres(g)
    residual_sq = np.exp(-40 * (x - 0.3) ** 2) + 0.2 * x
    matrix = roughness_matrix(g)

    def loss(p):
        return -residual_sq @ p / g + beta * p @ matrix @ p

    best = optimize.minimize(
        loss,
        np.ones(g),
        jac=lambda p: -residual_sq / g + 2 * beta * matrix @ p,
        bounds=[(0, None)] * g,
        constraints={"type": "eq", "fun": lambda p: p.mean() - 1, "jac": lambda p: np.ones(g) / g},
        method="SLSQP",
        options={"ftol": 1e-13, "maxiter": 1000},
    )
    with jax.enable_x64(True):
        p = np.asarray(optimal_grid_density(residual_sq, ZERO, ONE, beta=beta, num_iterations=1000))
        value = aas_grid_value(residual_sq, ZERO, ONE, beta=beta, num_iterations=1000)
    assert np.sum(best.x < 1e-9) > g / 5  # the constraint is active
    np.testing.assert_allclose(value, -best.fun, rtol=1e-7)
    np.testing.assert_allclose(p, best.x, atol=1e-4)
    assert p.min() >= 0
    np.testing.assert_allclose(p.mean(), 1, rtol=1e-12)


def test_two_dimensions_and_a_box():
    low, high = np.array([-1.0, 0.0]), np.array([1.0, 3.0])
    x, y = np.meshgrid(centres(8, -1, 1), centres(12, 0, 3), indexing="ij")
    residual_sq = 2 + np.cos(np.pi * (x + 1) / 2) * np.cos(2 * np.pi * y / 3)
    rate = 2 * 3.0 * ((np.pi / 2) ** 2 + (2 * np.pi / 3) ** 2)
    with jax.enable_x64(True):
        p = optimal_grid_density(residual_sq, low, high, beta=3.0)
        value = aas_grid_value(residual_sq, low, high, beta=3.0)
    np.testing.assert_allclose(p, 1 / 6 + (residual_sq - 2) / rate, atol=1e-9)
    np.testing.assert_allclose(value, 2 + (6 / 4) / (2 * rate), rtol=1e-9)


def test_flat_residual_and_large_beta_give_the_uniform_density():
    residual_sq = np.arange(1.0, 17.0, dtype=np.float32).reshape(4, 4)
    low, high = np.zeros(2, np.float32), np.full(2, 2, np.float32)
    p = optimal_grid_density(np.full_like(residual_sq, 3), low, high, beta=0.1)
    np.testing.assert_allclose(p, 1 / 4, rtol=1e-5)
    p = optimal_grid_density(residual_sq, low, high, beta=1e6)
    np.testing.assert_allclose(p, 1 / 4, rtol=1e-3)


def test_gradient_of_the_value_is_the_density():
    residual_sq = np.random.default_rng(0).uniform(size=(6, 5))
    low, high = np.zeros(2), np.array([1.0, 2.0])
    with jax.enable_x64(True):
        value = partial(aas_grid_value, beta=0.05, num_iterations=2000)
        slope = jax.grad(value)(jnp.asarray(residual_sq), low, high)
        p = optimal_grid_density(residual_sq, low, high, beta=0.05, num_iterations=2000)
        np.testing.assert_allclose(slope, p * 2 / 30, rtol=1e-12)
        step = 1e-4 * np.random.default_rng(1).normal(size=(6, 5))
        ahead, behind = (value(residual_sq + s, low, high) for s in (step, -step))
        np.testing.assert_allclose(ahead - behind, 2 * np.sum(slope * step), rtol=1e-4)


def test_draws_follow_the_density():
    density = np.array([[0.0, 1.0, 2.0], [4.0, 0.0, 3.0]], np.float32)
    low, high = np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32)
    draw = partial(sample_grid_density, density=density, lower=low, upper=high, num_points=1000)
    points = draw(jax.random.key(0))
    counts, _, _ = np.histogram2d(*points.T, bins=(2, 3), range=((-1, 1), (0, 3)))
    assert np.max(np.abs(counts - 100 * density)) <= 1  # systematic
    mixed, _, _ = np.histogram2d(
        *draw(jax.random.key(0), uniform_fraction=0.6).T, bins=(2, 3), range=((-1, 1), (0, 3))
    )
    assert np.max(np.abs(mixed - 40 * density - 100)) <= 1
    within = np.asarray(points) % 1  # the cells have unit sides
    np.testing.assert_allclose(within.mean(0), 0.5, atol=0.05)
    np.testing.assert_allclose(within.std(0), 12**-0.5, atol=0.02)


def test_log_density_is_that_of_the_cell():
    density = np.array([[0.0, 1.0, 2.0], [4.0, 0.0, 3.0]], np.float32)
    low, high = np.array([-1.0, 0.0], np.float32), np.array([1.0, 3.0], np.float32)
    points = np.array(
        [[-0.5, 1.5], [0.2, 0.5], [1.0, 3.0], [-0.5, 0.5], [1.1, 1.0], [0.5, -0.1]], np.float32
    )
    values = np.exp(grid_log_density(density, low, high, points))
    np.testing.assert_allclose(values, [0.1, 0.4, 0.3, 0, 0, 0], rtol=1e-6)


def test_corners_must_fit_the_grid():
    with pytest.raises(ValueError, match="lower must have 2 entries"):
        optimal_grid_density(np.ones((3, 3), np.float32), ZERO, ONE, beta=1.0)
