import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.stats import wasserstein_distance

import lossbench
from lossbench.transport import wasserstein_1d

rng = np.random.default_rng(0)
X, Y = rng.normal(size=(3, 12)), rng.normal(size=(3, 8)) * 2 + 1
A, B = rng.dirichlet(np.ones(12)), rng.dirichlet(np.ones(8))


@pytest.fixture(autouse=True)
def doubles():
    with jax.enable_x64(True):
        yield


def check_gradient(fn, *args):
    """Central differences along random directions, of all the arguments together."""
    grads = jax.jit(jax.grad(fn, tuple(range(len(args)))))(*args)
    for seed in range(3):
        steps = [np.random.default_rng(seed).normal(size=np.shape(a)) * 1e-6 for a in args]
        ahead = fn(*(a + s for a, s in zip(args, steps, strict=True)))
        behind = fn(*(a - s for a, s in zip(args, steps, strict=True)))
        slope = sum(np.vdot(g, s) for g, s in zip(grads, steps, strict=True))
        np.testing.assert_allclose(slope, (ahead - behind) / 2, rtol=1e-6, atol=1e-13)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_equal_sizes_against_the_best_assignment(p):
    y = rng.normal(size=(3, 12))
    for row in range(3):
        cost = np.abs(X[row][:, None] - y[row]) ** p
        best = cost[linear_sum_assignment(cost)].mean()
        np.testing.assert_allclose(wasserstein_1d(X, y, p=p)[row], best, rtol=1e-12)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
def test_unequal_sizes_and_weights_against_pot(p):
    for a, b in ((None, None), (A, None), (None, B), (A, B)):
        got = wasserstein_1d(X, Y, p=p, x_weights=a, y_weights=b)
        for row in range(3):
            expected = ot.wasserstein_1d(X[row], Y[row], a, b, p=p)
            np.testing.assert_allclose(got[row], expected, rtol=1e-10)


def test_unnormalised_weights_against_scipy():
    got = wasserstein_1d(X[0], Y[0], p=1.0, x_weights=5 * A, y_weights=B / 7)
    np.testing.assert_allclose(got, wasserstein_distance(X[0], Y[0], A, B), rtol=1e-12)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 5), (4, 8), (7, 5), (6, 6)])
def test_sizes_against_repeated_points(n, m):
    # n m copies of either cloud: equal sizes, and the same measures.
    x, y = rng.normal(size=n), rng.normal(size=m)
    expected = np.mean((np.sort(np.repeat(x, m)) - np.sort(np.repeat(y, n))) ** 2)
    np.testing.assert_allclose(wasserstein_1d(x, y), expected, rtol=1e-12)
    weighted = wasserstein_1d(x, y, x_weights=np.ones(n), y_weights=np.ones(m))
    np.testing.assert_allclose(weighted, expected, rtol=1e-12)


@pytest.mark.parametrize("p", [1.0, 1.7, 2.0])
def test_gradients_by_points_and_weights(p):
    check_gradient(lambda x, y: wasserstein_1d(x, y, p=p).sum(), X, rng.normal(size=(3, 12)))
    check_gradient(lambda x, y: wasserstein_1d(x, y, p=p).sum(), X, Y)
    check_gradient(
        lambda x, y, a, b: wasserstein_1d(x, y, p=p, x_weights=a, y_weights=b).sum(), X, Y, A, B
    )


@pytest.mark.parametrize("hidden", [np.nan, np.inf, 1e30])
def test_points_without_weight_take_no_part(hidden):
    def cost(x, a):
        return wasserstein_1d(x, Y[0], p=3.0, x_weights=a)

    padded, mask = np.append(X[0], [hidden, hidden]), np.append(A, [0, 0])
    value, slope = jax.value_and_grad(cost)(padded, mask)
    expected, expected_slope = jax.value_and_grad(cost)(X[0], A)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(slope[:12], expected_slope, rtol=1e-10)
    np.testing.assert_array_equal(slope[12:], 0)


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_equal_measures_and_no_mass_cost_nothing(p):
    def cost(x, a):
        return wasserstein_1d(x, X[0], p=p, x_weights=a)

    for weights in (None, A * 0 + 1):
        value, slope = jax.value_and_grad(cost)(X[0], weights)
        assert value == pytest.approx(0, abs=1e-15)
        np.testing.assert_allclose(slope, 0, atol=1e-15)
    value, slope = jax.value_and_grad(lambda x: cost(x, A * 0))(X[0])
    assert value == 0
    assert np.isfinite(slope).all()


def test_single_precision_on_large_clouds():
    # Quantiles of a uniform law against those of its square: int (u - u^2)^2 du = 1 / 30.
    u = (np.arange(100_000) + 0.5) / 100_000
    x, y = np.float32(rng.permutation(u)), np.float32(rng.permutation(u) ** 2)
    weights = np.ones(100_000, np.float32)
    for kwargs in ({}, {"x_weights": weights}, {"x_weights": weights, "y_weights": weights}):
        np.testing.assert_allclose(wasserstein_1d(x, y, **kwargs), 1 / 30, rtol=1e-4)
    assert wasserstein_1d(x, y).dtype == jnp.float32


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=r"p must be at least 1, got 0\.5"):
        wasserstein_1d(X, Y, p=0.5)
    with pytest.raises(ValueError, match="weights must be nonnegative"):
        lossbench.checked(lambda a: wasserstein_1d(X, Y, x_weights=a))(-A)
