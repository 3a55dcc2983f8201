import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import Lasso

from lossbench.score import (
    LeastSquaresProximal,
    input_convex_init,
    input_convex_potential,
    invert_proximal,
    learned_prior,
    plug_and_play_admm,
    plug_and_play_gradient,
    proximal_operator,
)

rng = np.random.default_rng(0)
SOLVERS = ["direct", "conjugate_gradient"]


def soft_threshold(y, width):
    return jnp.sign(y) * jnp.maximum(jnp.abs(y) - width, 0)


def soft_potential(y):
    """Of the maximum a posteriori denoiser of Laplace data: scale 1, noise 1."""
    return jnp.sum(jnp.square(jnp.maximum(jnp.abs(y) - 1, 0)), axis=1) / 2


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_prior_of_the_soft_threshold_is_the_absolute_value(linear_solver):
    x = np.float32(np.concatenate([rng.normal(size=(30, 2)), [[1e-3, 0], [0, 0], [-9, 9]]]))

    @jax.jit
    def evaluate(x):
        y = invert_proximal(soft_potential, x, linear_solver=linear_solver)
        prior = jax.value_and_grad(
            lambda x: learned_prior(soft_potential, x, linear_solver=linear_solver).sum()
        )
        values = learned_prior(soft_potential, x, linear_solver=linear_solver)
        return y, values, prior(x)[1]

    y, values, gradient = evaluate(x)
    inside = x != 0
    np.testing.assert_allclose(y[inside], (x + np.sign(x))[inside], atol=2e-5)
    assert np.all(np.abs(y[~inside]) <= 1 + 1e-5)
    np.testing.assert_allclose(values, np.abs(x).sum(1), rtol=2e-5, atol=2e-5)
    np.testing.assert_allclose(gradient[inside], np.sign(x)[inside], atol=2e-5)


def test_prior_of_a_gaussian_is_its_energy():
    """Of N(m, s^2): f(y) = (s^2 y + sigma^2 m) / (s^2 + sigma^2), R = sigma^2 |x - m|^2 / 2 s^2."""
    m, s, sigma = np.array([1.0, -2.0]), 0.7, 0.4
    x = rng.normal(size=(8, 2))

    def potential(y):
        return jnp.sum(s**2 * y**2 / 2 + sigma**2 * m * y, axis=1) / (s**2 + sigma**2)

    with jax.enable_x64(True):
        prior = learned_prior(potential, x, tolerance=1e-12)
    expected = sigma**2 * np.sum((x - m) ** 2, axis=1) / (2 * s**2)
    np.testing.assert_allclose(prior - prior[0], expected - expected[0], atol=1e-9)


@pytest.mark.parametrize("linear_solver", SOLVERS)
def test_inverse_of_a_quadratic_and_its_derivatives_are_linear_solves(linear_solver):
    d = 5
    root = rng.normal(size=(d, d))
    matrix, shift = root @ root.T + np.eye(d), rng.normal(size=d)
    x, weights = rng.normal(size=(2, 3, d))
    with jax.enable_x64(True):

        @jax.jit
        def evaluate(scale, x):
            def inverse(scale, x):
                y = invert_proximal(
                    lambda y: scale * jnp.sum(y @ matrix * y, axis=1) / 2 + y @ shift,
                    x,
                    linear_solver=linear_solver,
                    tolerance=1e-12,
                )
                return jnp.sum(weights * y), y

            return jax.grad(inverse, (0, 1), has_aux=True)(scale, x)

        (by_scale, by_x), y = jax.tree.map(np.asarray, evaluate(1.0, x))
    inverse = np.linalg.inv(matrix)
    np.testing.assert_allclose(y, (x - shift) @ inverse, atol=1e-9)
    # Conjugate gradients stop at a relative residual of 1e-6.
    loose = 1e-9 if linear_solver == "direct" else 1e-5
    np.testing.assert_allclose(by_x, weights @ inverse, atol=loose)
    np.testing.assert_allclose(by_scale, -np.sum(weights * y), rtol=loose)


def test_network_is_inverted_and_its_prior_has_gradient_y_minus_x():
    params = input_convex_init(jax.random.key(3), in_dim=2, hidden=16, layers=3)
    y = rng.normal(size=(10, 2))
    with jax.enable_x64(True):
        params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float64), params)

        def potential(y):
            return input_convex_potential(params, y, sharpness=20.0, strong_convexity=0.05)

        @jax.jit
        def evaluate(y):
            x = proximal_operator(potential, y)
            back = invert_proximal(potential, x, tolerance=1e-11)
            step = 1e-5 * jnp.eye(2)[:, None]
            ahead, behind = (
                jax.vmap(lambda x: learned_prior(potential, x, tolerance=1e-11))(points)
                for points in (x + step, x - step)
            )
            return x, back, (ahead - behind).T / 2e-5

        x, back, slope = map(np.asarray, evaluate(y))
    np.testing.assert_allclose(back, y, atol=1e-8)
    np.testing.assert_allclose(slope, y - x, atol=1e-5)


def test_plug_and_play_with_the_soft_threshold_solves_the_lasso():
    samples, d, penalty = 20, 8, 2.0
    matrix = rng.normal(size=(samples, d))
    truth = np.array([3.0, -2.0, 0, 0, 1.5, 0, 0, 0])
    b = matrix @ truth + 0.1 * rng.normal(size=samples)
    expected = Lasso(alpha=penalty / samples, fit_intercept=False, tol=1e-14, max_iter=100_000)
    expected = expected.fit(matrix, b).coef_
    assert 0 < np.count_nonzero(expected) < d
    largest = np.linalg.eigvalsh(matrix.T @ matrix)[-1]
    with jax.enable_x64(True):
        start = jnp.zeros((1, d))
        step_size, rho = 0.9 / largest, 1.1 * largest

        @jax.jit
        def solve(start):
            return (
                plug_and_play_gradient(
                    lambda x: soft_threshold(x, step_size * penalty),
                    lambda x: (x @ matrix.T - b) @ matrix,
                    start,
                    step_size=step_size,
                    num_steps=2000,
                ),
                plug_and_play_admm(
                    lambda x: soft_threshold(x, penalty / rho),
                    LeastSquaresProximal.of(matrix, b[None], rho=rho),
                    start,
                    num_steps=2000,
                ),
            )

        solved = jax.tree.map(np.asarray, solve(start))
    for x, distances in solved:
        assert distances.shape == (2000, 1)
        assert distances[0, 0] > 1e-2 > 1e-9 > distances[-1, 0]
        np.testing.assert_allclose(x[0], expected, atol=1e-7)


def test_least_squares_proximal_is_the_argmin():
    matrix, v = rng.normal(size=(3, 5)), rng.normal(size=(2, 5))
    b = rng.normal(size=(2, 3))
    with jax.enable_x64(True):
        x = LeastSquaresProximal.of(matrix, b, rho=0.6)(v)
    for row in range(2):
        stacked = np.concatenate([matrix, np.sqrt(0.6) * np.eye(5)])
        right = np.concatenate([b[row], np.sqrt(0.6) * v[row]])
        np.testing.assert_allclose(x[row], np.linalg.lstsq(stacked, right)[0], rtol=1e-9)
