import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import optimize, stats

from lossbench.transport import (
    aas_density_objective,
    aas_init,
    aas_solution_loss,
    aas_update,
    bounded_flow_init,
    bounded_flow_log_density,
    bounded_flow_sample,
    das_cross_entropy,
    laplacian,
    residual_variation,
    residual_wasserstein_1d,
)


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def test_laplacian_of_a_peak(rng):
    sharpness, points = 20.0, rng.normal(size=(7, 3)) / 5

    def peak(x):
        return jnp.exp(-sharpness * jnp.sum(jnp.square(x), axis=1))

    squared = np.sum(points**2, axis=1)
    expected = (4 * sharpness**2 * squared - 6 * sharpness) * np.exp(-sharpness * squared)
    with jax.enable_x64(True):
        np.testing.assert_allclose(laplacian(peak, points), expected, rtol=1e-12)
        slope = jax.grad(lambda x: laplacian(lambda y: jnp.sum(y**4, 1), x).sum())(points)
        np.testing.assert_allclose(slope, 24 * points, rtol=1e-12)


def test_solution_loss(rng):
    r, b, w = rng.normal(size=9), rng.normal(size=4), rng.uniform(size=9)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            aas_solution_loss(r, b, boundary_weight=7.0), np.mean(r**2) + 7 * np.mean(b**2)
        )
        np.testing.assert_allclose(
            aas_solution_loss(r, b, boundary_weight=0.0, weights=w), np.average(r**2, weights=w)
        )


def gaussian(x):
    """Log-density of N(0.2, 0.3^2) in each coordinate."""
    return jnp.sum(jax.scipy.stats.norm.logpdf(x, 0.2, 0.3), axis=1)


def test_density_objective_is_the_integral():
    # On a fine grid of [-2, 2] the mean with q uniform is the integral.
    x = (-2 + 4 * (np.arange(4000) + 0.5) / 4000)[:, None]
    residual_sq = 1 + x[:, 0] ** 2
    uniform = np.full(4000, -np.log(4.0))
    with jax.enable_x64(True):
        value = aas_density_objective(
            gaussian, x, residual_sq, uniform, beta=0.1, self_normalize=False
        )
        # E[1 + X^2], and int (p')^2 = 1 / (4 sqrt(pi) s^3); log p is clipped at -23.
        expected = 1 + 0.04 + 0.09 - 0.1 / (4 * np.pi**0.5 * 0.027)
        np.testing.assert_allclose(value, expected, rtol=1e-5)
        normalized = aas_density_objective(gaussian, x, residual_sq, uniform, beta=0.1)
        np.testing.assert_allclose(normalized, expected / 4, rtol=1e-5)
        relative = aas_density_objective(
            gaussian, x, 50 * residual_sq, uniform, beta=0.1, relative=True
        )
        scaled = aas_density_objective(
            gaussian, x, residual_sq / residual_sq.mean(), uniform, beta=0.1
        )
        np.testing.assert_allclose(relative, scaled, rtol=1e-9)


def test_importance_weights_undo_the_proposal(rng):
    x = rng.normal(0.2, 0.5, (200_000, 1)).astype(np.float32)
    proposal = stats.norm(0.2, 0.5).logpdf(x[:, 0]).astype(np.float32)
    value = aas_density_objective(
        gaussian, x, np.ones(len(x), np.float32), proposal, beta=0.0, self_normalize=False
    )
    np.testing.assert_allclose(value, 1, rtol=0.01)


def test_cross_entropy_is_least_at_the_residuals_law(rng):
    residual_sq = rng.uniform(0.1, 2, 12)
    points = np.arange(12.0)[:, None]

    def loss(logits):
        def log_density(x):
            return jax.nn.log_softmax(logits)[x[:, 0].astype(int)]

        return das_cross_entropy(log_density, points, residual_sq, np.zeros(12))

    with jax.enable_x64(True):
        found = optimize.minimize(
            jax.jit(jax.value_and_grad(loss)), np.zeros(12), jac=True, options={"gtol": 1e-9}
        )
        law = jax.nn.softmax(found.x)
    np.testing.assert_allclose(law, residual_sq / residual_sq.sum(), rtol=1e-4)


def test_variation(rng):
    values, w = rng.uniform(size=8), rng.uniform(size=8)
    with jax.enable_x64(True):
        np.testing.assert_allclose(residual_variation(values), values.std() / values.mean())
        mean = np.average(values, weights=w)
        spread = np.average((values - mean) ** 2, weights=w) ** 0.5
        np.testing.assert_allclose(residual_variation(values, weights=w), spread / mean)
    value, slope = jax.value_and_grad(residual_variation)(jnp.ones(4))
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_wasserstein_to_the_uniform_law(rng):
    residual_sq = rng.uniform(size=9) ** 3
    # Each cell's uniform law as many atoms.
    atoms = -1 + 3 * (np.arange(9 * 400) + 0.5) / (9 * 400)
    expected = stats.wasserstein_distance(atoms, atoms, np.repeat(residual_sq, 400))
    with jax.enable_x64(True):
        value = residual_wasserstein_1d(residual_sq, np.array(-1.0), np.array(2.0))
    np.testing.assert_allclose(value, expected, rtol=1e-4)


def test_lipschitz_adversary_is_the_wasserstein_distance(rng):
    # max int r^2 p over p >= 0 with Lipschitz constant 1 and int p = 1 on [0, 1], as a programme.
    g = 100
    residual_sq = rng.uniform(size=g)
    differences = np.eye(g)[1:] - np.eye(g)[:-1]
    best = optimize.linprog(
        -residual_sq / g,
        A_ub=np.concatenate([differences, -differences]),
        b_ub=np.full(2 * g - 2, 1 / g),
        A_eq=np.full((1, g), 1 / g),
        b_eq=[1],
    )
    # The same atoms on both sides, as the programme has them.
    x = (np.arange(g) + 0.5) / g
    atoms = stats.wasserstein_distance(x, x, residual_sq)
    np.testing.assert_allclose(-best.fun, residual_sq.mean() * (1 + atoms), rtol=1e-9)
    with jax.enable_x64(True):
        value = residual_wasserstein_1d(residual_sq, np.array(0.0), np.array(1.0))
    np.testing.assert_allclose(value, atoms, atol=1 / g)


def test_a_stage_moves_both_players():
    low, high = np.full(2, -1.0, np.float32), np.full(2, 1.0, np.float32)

    def residual_fn(params, x):
        # A peak in one corner that the solution's one parameter scales.
        return params["a"] * jnp.exp(-4 * jnp.sum(jnp.square(x - 0.5), axis=1))

    def boundary_fn(params):
        return params["a"][None] - 1

    optimizer, density_optimizer = optax.adam(1e-2), optax.adam(1e-2)
    state = aas_init(
        {"a": jnp.float32(3.0)},
        bounded_flow_init(jax.random.key(0), dim=2),
        optimizer,
        density_optimizer,
    )
    stage = jax.jit(
        lambda key, state: aas_update(
            key,
            state,
            residual_fn,
            boundary_fn,
            lambda params, x: bounded_flow_log_density(params, x, low, high),
            lambda key, params: bounded_flow_sample(key, params, low, high, num_points=400),
            optimizer,
            density_optimizer,
            solution_steps=50,
            density_steps=200,
            boundary_weight=1.0,
            beta=0.2,
            relative=True,
        )
    )
    metrics, state = stage(jax.random.key(1), state)
    assert metrics["solution_loss"][-1] < metrics["solution_loss"][0]
    assert metrics["density_objective"][-1] > metrics["density_objective"][0]
    points = bounded_flow_sample(
        jax.random.key(2), state.density_params, low, high, num_points=1000
    )
    residuals = jnp.abs(residual_fn({"a": 1.0}, points))
    uniform = np.random.default_rng(0).uniform(-1, 1, (1000, 2)).astype(np.float32)
    assert residuals.mean() > 1.3 * jnp.abs(residual_fn({"a": 1.0}, uniform)).mean()
