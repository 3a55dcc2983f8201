import jax
import jax.numpy as jnp
import numpy as np
import optax
import ot
import pytest

from lossbench.transport import (
    critic_gradient_penalty,
    gaussian_dependency,
    spectral_norm_init,
    spectral_normalize,
    wasserstein_dependency,
    wasserstein_dependency_dual,
    wpc_loss,
)

KEY = jax.random.key(0)


def pairs(correlation, n, seed=0):
    rng = np.random.default_rng(seed)
    x, z = rng.normal(size=(2, n, 1)).astype(np.float32)
    return x, correlation * x + np.float32(np.sqrt(1 - correlation**2)) * z


def exact(x, y, metric):
    """Between the pairs and all pairs of one's x with another's y, by POT."""
    n = len(x)
    i, j = np.nonzero(~np.eye(n, dtype=bool))
    dx = np.linalg.norm(x[:, None] - x[i], axis=-1)
    dy = np.linalg.norm(y[:, None] - y[j], axis=-1)
    cost = np.hypot(dx, dy) if metric == "joint" else dx + dy
    return ot.emd2(np.full(n, 1 / n), np.full(len(i), 1 / len(i)), cost)


@pytest.mark.parametrize("metric", ["joint", "sum"])
def test_measure_is_the_distance_from_the_product(metric):
    x, y = pairs(0.9, 40)
    found = wasserstein_dependency(KEY, x, y, metric=metric, count=40)
    # Partners are a sample of the product, so the estimate is from above.
    expected = exact(x, y, metric)
    assert expected - 0.02 < found < expected + 0.15


def test_measure_grows_with_correlation_below_the_closed_form():
    found = [
        float(wasserstein_dependency(KEY, *pairs(r, 80), count=4, debiased=True))
        for r in (0.0, 0.5, 0.9, 1.0)
    ]
    assert np.all(np.diff(found) > 0)
    assert abs(found[0]) < 0.1
    np.testing.assert_array_less(
        found, np.sqrt(gaussian_dependency(np.array([0, 0.5, 0.9, 1]))) + 0.1
    )


def test_closed_form_is_the_bures_distance():
    for r in (-0.6, 0.3, 0.99):
        joint = np.array([[1, r], [r, 1]])
        expected = ot.gaussian.bures_wasserstein_distance(
            np.zeros(2), np.zeros(2), joint, np.eye(2)
        )
        np.testing.assert_allclose(gaussian_dependency(np.array(r)), expected**2, rtol=1e-4)
    assert np.isfinite(jax.grad(gaussian_dependency)(1.0))


def test_a_critic_of_slope_one_stays_below_the_distance():
    x, y = pairs(0.9, 40)
    found = exact(x, y, "joint")
    # f = x y / R has slope at most sqrt(2) max(|x|, |y|) / R, 1 for this R.
    radius = np.sqrt(2) * max(np.abs(x).max(), np.abs(y).max())
    assert 0 < wasserstein_dependency_dual(x / radius, y) <= found


def test_loss_and_dual_are_their_definitions():
    rng = np.random.default_rng(0)
    g, h = rng.normal(size=(2, 7, 3))
    with jax.enable_x64(True):
        scores = jnp.asarray(0.3 * g @ h.T)
        expected = optax.losses.softmax_cross_entropy_with_integer_labels(scores, jnp.arange(7))
        loss = wpc_loss(g, h, scale=0.3)
        np.testing.assert_allclose(loss, expected, rtol=1e-12)
        dual = wasserstein_dependency_dual(g, h, scale=0.3)
        off = np.asarray(scores)[~np.eye(7, dtype=bool)]
        np.testing.assert_allclose(dual, np.trace(scores) / 7 - off.mean(), rtol=1e-12)
        assert np.log(7) - loss.mean() <= np.log(7)
        # For a flat critic the bound is the dual, but for the pairs' own share.
        bound = (np.log(7) - wpc_loss(g, h, scale=1e-6).mean()) / 1e-6
        flat = wasserstein_dependency_dual(g, h)
        np.testing.assert_allclose(bound, 6 / 7 * flat, rtol=1e-4)


@pytest.mark.parametrize("points", ["mixed", "both"])
def test_penalty_of_a_linear_critic(points):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 3)), rng.normal(size=(5, 2, 2))
    a, b = rng.normal(size=3), rng.normal(size=(2, 2))

    def critic(x, y):
        return x @ a + jnp.sum(y * b)

    slope = np.sqrt((a**2).sum() + (b**2).sum())
    with jax.enable_x64(True):
        for target in (0.5, 2 * slope):
            got = critic_gradient_penalty(KEY, critic, x, y, target=target, points=points)
            np.testing.assert_allclose(got, max(0, slope - target) ** 2, rtol=1e-12)
            both = critic_gradient_penalty(
                KEY, critic, x, y, target=target, points=points, one_sided=False
            )
            np.testing.assert_allclose(both, (slope - target) ** 2, rtol=1e-12)


def test_penalty_is_taken_between_an_example_and_another():
    y = np.arange(6.0)[:, None] ** 2

    def critic(x, y):
        return jnp.sum(y**2) / 2

    places = critic_gradient_penalty(KEY, critic, y, y, target=0.0) ** 0.5
    apart = np.abs(places - y[:, 0])
    assert np.all(apart > 0)
    assert np.all(places <= 25)


def test_penalty_trains_by_finite_differences():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 4, 3))
    weights = rng.normal(size=3)

    def total(w):
        def critic(x, y):
            return jnp.sum(jnp.sin(w * x * y))

        return critic_gradient_penalty(KEY, critic, x, y, target=0.3).sum()

    with jax.enable_x64(True):
        gradient = jax.grad(total)(jnp.asarray(weights))
        for i, unit in enumerate(np.eye(3)):
            slope = (total(weights + 1e-6 * unit) - total(weights - 1e-6 * unit)) / 2e-6
            np.testing.assert_allclose(gradient[i], slope, rtol=1e-6, atol=1e-8)


def test_spectral_norm_is_numpys():
    kernel = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        state = spectral_norm_init(KEY, kernel)
        for _ in range(50):
            normalized, state = spectral_normalize(state, kernel, scale=0.7)
        largest = np.linalg.svd(kernel, compute_uv=False)[0]
        np.testing.assert_allclose(normalized, kernel * 0.7 / largest, rtol=1e-9)
        small, _ = spectral_normalize(state, 0.1 * kernel / largest, scale=0.7)
        np.testing.assert_allclose(small, 0.1 * kernel / largest, rtol=1e-12)
