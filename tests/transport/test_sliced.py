import functools

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.special import gamma
from scipy.stats import wasserstein_distance

from lossbench.transport import (
    projected_wasserstein,
    sample_projections,
    sliced_wasserstein,
    sliced_wasserstein_estimate,
)

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X, Y = (rng.normal(size=(n, 3)).astype(np.float32) for n in (20, 30))
A, B = (rng.dirichlet(np.ones(n)).astype(np.float32) for n in (20, 30))
THETA = np.asarray(sample_projections(KEY, 7, 3))


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_directions_given_to_pot(p):
    costs = projected_wasserstein(X, Y, THETA, p=p, x_weights=A, y_weights=B)
    expected = ot.sliced_wasserstein_distance(X, Y, A, B, projections=THETA.T, p=p)
    np.testing.assert_allclose(np.mean(costs) ** (1 / p), expected, rtol=1e-5)


def test_each_direction_against_scipy():
    costs = projected_wasserstein(X, Y, THETA, p=1.0, x_weights=A)
    expected = [wasserstein_distance(X @ theta, Y @ theta, A) for theta in THETA]
    np.testing.assert_allclose(costs, expected, rtol=1e-5)


def test_invariances():
    cost = functools.partial(projected_wasserstein, p=3.0)
    expected = cost(X, Y, THETA)
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype(np.float32)
    np.testing.assert_allclose(cost(X @ turn, Y @ turn, THETA @ turn), expected, rtol=1e-4)
    np.testing.assert_allclose(cost(X[::-1], Y[rng.permutation(30)], THETA), expected, rtol=1e-5)
    np.testing.assert_allclose(cost(X + 2, Y + 2, THETA), expected, rtol=1e-4)
    np.testing.assert_allclose(cost(2 * X, 2 * Y, THETA), 8 * expected, rtol=1e-5)
    np.testing.assert_allclose(cost(X, Y, -THETA), expected, rtol=1e-5)


def test_far_off_clouds_keep_their_digits():
    moved = [points * np.float32(0.01) for points in (X, Y)]
    far = [(points + np.float32(512)) for points in moved]
    near = [points.astype(np.float64) - 512 for points in far]  # what is left of them, exactly
    with jax.enable_x64(True):
        expected = projected_wasserstein(*near, THETA.astype(np.float64))
    np.testing.assert_allclose(projected_wasserstein(*far, THETA), expected, rtol=1e-3)


@pytest.mark.parametrize("chunk_size", [1, 3, 7, 100])
def test_chunks_change_nothing(chunk_size):
    def total(x, a, chunk_size=None):
        costs = projected_wasserstein(x, Y, THETA, x_weights=a, chunk_size=chunk_size)
        return jnp.sum(costs * jnp.arange(7.0))

    expected = jax.value_and_grad(total, (0, 1))(X, A)
    got = jax.value_and_grad(functools.partial(total, chunk_size=chunk_size), (0, 1))(X, A)
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-6), got, expected)


def test_gradient_in_double_precision():
    with jax.enable_x64(True):
        x, a, theta = (np.asarray(v, np.float64) for v in (X, A, THETA))

        def total(x, a, theta):
            return projected_wasserstein(x, Y * 1.0, theta, p=1.5, x_weights=a).sum()

        grads = jax.grad(total, (0, 1, 2))(x, a, theta)
        steps = [1e-6 * rng.normal(size=v.shape) for v in (x, a, theta)]
        ahead = total(*(v + s for v, s in zip((x, a, theta), steps, strict=True)))
        behind = total(*(v - s for v, s in zip((x, a, theta), steps, strict=True)))
        slope = sum(np.vdot(g, s) for g, s in zip(grads, steps, strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / 2, rtol=1e-6)


@pytest.mark.parametrize("method", ["gaussian", "orthogonal", "spiral", "sobol"])
@pytest.mark.parametrize("p", [1.0, 2.0])
def test_two_points_in_closed_form(method, p):
    x, y = X[:1], Y[:1]
    gap = np.linalg.norm(x - y)
    # |x - y|^p E |theta_1|^p
    expected = gap**p * gamma(1.5) * gamma((p + 1) / 2) / (np.sqrt(np.pi) * gamma((3 + p) / 2))
    options = {"num_projections": 3000, "p": p, "method": method}
    value, error = sliced_wasserstein_estimate(KEY, x, y, **options)
    assert abs(value - expected) < 4 * error + 1e-6 * expected
    assert error < 0.03 * expected
    loss = functools.partial(sliced_wasserstein, KEY, x, y, **options)
    np.testing.assert_allclose(loss(root=False), expected, rtol=0.05)
    np.testing.assert_allclose(loss() ** p, loss(root=False), rtol=1e-5)


@pytest.mark.parametrize("method", ["gaussian", "orthogonal", "spiral"])
def test_the_standard_error_is_the_spread_over_keys(method):
    def estimate(key):
        return sliced_wasserstein_estimate(key, X, 2 * Y, num_projections=40, method=method)

    value, error = jax.vmap(estimate)(jax.random.split(KEY, 500))
    # The spread of 500 values is known to 3 per cent, the root of the mean square error as well.
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), np.std(value), rtol=0.12)


def test_equal_clouds_are_at_distance_zero_with_derivative_zero():
    value, slope = jax.value_and_grad(lambda x: sliced_wasserstein(KEY, x, X))(X)
    assert value == 0
    np.testing.assert_array_equal(slope, 0)


def test_sixteen_bits_accumulate_in_single_precision():
    half = sliced_wasserstein(KEY, X.astype(jnp.bfloat16), Y.astype(jnp.bfloat16))
    assert half.dtype == jnp.float32
    np.testing.assert_allclose(half, sliced_wasserstein(KEY, X, Y), rtol=0.02)


def test_an_error_needs_independent_sets():
    with pytest.raises(ValueError, match="45 projections cannot be drawn as 10 sets"):
        sliced_wasserstein_estimate(KEY, X, Y, num_projections=45, method="spiral")
    with pytest.raises(ValueError, match="1 projections cannot be drawn as 1 sets"):
        sliced_wasserstein_estimate(KEY, X, Y, num_projections=1)
