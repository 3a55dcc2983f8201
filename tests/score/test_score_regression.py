import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.kernel_ridge import KernelRidge

from lossbench.score import (
    OrnsteinUhlenbeck,
    denoising_score_matching,
    early_stopping_time,
    kernel_gradient_descent,
    local_rademacher_complexity,
    regression_pairs,
    relu_ntk,
    score_regression_loss,
    truncated_denoised,
)

rng = np.random.default_rng(0)
Z, Q = rng.normal(size=(12, 3)), rng.normal(size=(5, 3))
Y = rng.normal(size=(12, 2))
PROCESS = OrnsteinUhlenbeck(volatility=2**0.5, t_min=0.05, t_max=2.0)


@pytest.mark.parametrize("weighting", ["data", "noise", "likelihood", "uniform"])
def test_regression_is_denoising_score_matching(weighting):
    key = jax.random.key(0)
    x = rng.normal(size=(7, 2))

    def denoise(x, t):
        return jnp.tanh(x) * t[:, None]

    with jax.enable_x64(True):
        t = jnp.linspace(0.1, 1.9, 7)
        matching = denoising_score_matching(
            key,
            lambda x, t: PROCESS.score_from_denoised(denoise(x, t), x, t),
            x,
            noise=PROCESS,
            weighting=weighting,
            times=t,
        )
        noise = jax.random.normal(jax.random.split(key)[1], x.shape, jnp.float64)
        predicted = denoise(PROCESS.perturb(x, t, noise), t)
        found = score_regression_loss(predicted, x, t, process=PROCESS, weighting=weighting)
    np.testing.assert_allclose(found, matching, rtol=1e-9)


def test_regression_pairs():
    x = jnp.asarray(rng.normal(size=(2000, 1)), jnp.float32)
    noised, t, targets = regression_pairs(jax.random.key(0), x, process=PROCESS, num_noise=3)
    np.testing.assert_array_equal(targets, np.repeat(x, 3, axis=0))
    assert t.min() >= 0.05
    assert t.max() <= 2.0
    residual = (noised - PROCESS.scale(t)[:, None] * targets) / PROCESS.std(t)[:, None]
    np.testing.assert_allclose(residual.mean(), 0, atol=0.05)
    np.testing.assert_allclose(residual.std(), 1, rtol=0.03)


def test_truncation():
    x = jnp.asarray(rng.normal(size=(50, 4)) * 2)
    out = truncated_denoised(lambda x, t: 3 * x * t, x, 0.5, input_radius=4.0, output_radius=2.0)
    norms, inside = np.linalg.norm(out, axis=1), np.linalg.norm(x, axis=1) <= 4
    np.testing.assert_array_equal(norms[~inside], 0)
    np.testing.assert_allclose(
        norms[inside], np.minimum(1.5 * np.linalg.norm(x, axis=1), 2)[inside], rtol=1e-5
    )
    slope = jax.grad(
        lambda x: truncated_denoised(jnp.sin, x, input_radius=1.0, output_radius=1.0).sum()
    )(jnp.zeros((1, 4)))
    np.testing.assert_allclose(slope, 1)


def test_the_kernel_is_the_mean_over_random_features():
    """E[<z, z'> 1{w.z > 0} 1{w.z' > 0}] over w ~ N(0, I)."""
    w = rng.normal(size=(400_000, 3))
    active, active_q = (w @ Z.T > 0), (w @ Q.T > 0)
    expected = Z @ Q.T * (active.T.astype(float) @ active_q.astype(float)) / len(w)
    found = relu_ntk(jnp.asarray(Z), jnp.asarray(Q))
    np.testing.assert_allclose(found, expected, atol=0.02)


def test_the_kernel_at_small_angles():
    """float32 against numpy's longdouble, where the arc cosine would have lost half the digits."""
    z = np.array([[1.0, 0.3, -0.2]])
    near = z + 1e-4 * np.array([[0.2, -1.0, 0.5]])
    wide = z.astype(np.longdouble), near.astype(np.longdouble)
    u, v = (a / np.sqrt(np.sum(a * a)) for a in wide)
    angle = 2 * np.arctan2(np.sqrt(np.sum((u - v) ** 2)), np.sqrt(np.sum((u + v) ** 2)))
    expected = float((wide[0] @ wide[1].T).item() * (np.pi - angle) / (2 * np.pi))
    found = relu_ntk(jnp.asarray(z, jnp.float32), jnp.asarray(near, jnp.float32))
    np.testing.assert_allclose(found, expected, rtol=3e-7)
    same = relu_ntk(jnp.asarray(Z), jnp.asarray(Z))
    np.testing.assert_allclose(np.diag(same), np.sum(Z**2, 1) / 2, rtol=1e-6)
    assert np.linalg.eigvalsh(np.asarray(same, np.float64)).min() > -1e-5


def test_descent_is_the_recursion():
    with jax.enable_x64(True):
        gram, cross = relu_ntk(Z, Z), relu_ntk(Q, Z)
        size = 1 / np.linalg.eigvalsh(gram / 12).max()
        times = np.array([0, 1, 7, 50])
        trained = kernel_gradient_descent(gram, gram, Y, times)
        predicted = kernel_gradient_descent(gram, cross, Y, times, step_size=size)
        faster = kernel_gradient_descent(gram, cross, Y, times, step_size=1.8 * size)
        gram, cross = np.asarray(gram), np.asarray(cross)
    for found, kernel, eta in (
        (trained, gram, size),
        (predicted, cross, size),
        (faster, cross, 1.8 * size),
    ):
        # f = K c, and a step moves c by eta (Y - K c) / n.
        coefficients = np.zeros_like(Y)
        for step in range(51):
            if step in times:
                at = found[list(times).index(step)]
                np.testing.assert_allclose(at, kernel @ coefficients, atol=1e-10)
            coefficients += eta / 12 * (Y - gram @ coefficients)


def test_descent_ends_at_kernel_regression():
    with jax.enable_x64(True):
        gram, cross = relu_ntk(Z, Z), relu_ntk(Q, Z)
        found = kernel_gradient_descent(gram, cross, Y, np.array([10**9]))[0]
        trained = kernel_gradient_descent(gram, gram, Y, np.array([10**9]))[0]
    np.testing.assert_allclose(trained, Y, rtol=1e-6)
    ridge = KernelRidge(kernel="precomputed", alpha=1e-10).fit(np.asarray(gram), Y)
    np.testing.assert_allclose(found, ridge.predict(np.asarray(cross)), rtol=1e-4, atol=1e-6)


def test_a_singular_kernel_learns_nothing_in_its_null_space():
    gram = jnp.array([[1.0, 1.0], [1.0, 1.0]])
    found = kernel_gradient_descent(gram, gram, jnp.array([[1.0], [3.0]]), jnp.array([1000]))
    np.testing.assert_allclose(found[0], 2, rtol=1e-5)


@pytest.mark.parametrize("noise_std", [1e-6, 0.02, 0.3, 50.0])
def test_stopping_time_by_search(noise_std):
    eigenvalues = 0.5 * np.arange(1, 40.0) ** -2
    last = 5000

    def complexity(radius):
        return np.sqrt(np.mean(np.minimum(eigenvalues, radius**2)))

    size = 1.5
    first = next(
        (
            time
            for time in range(1, last + 2)
            if complexity(1 / np.sqrt(size * time)) > 1 / (2 * np.e * noise_std * size * time)
        ),
        last + 1,
    )
    with jax.enable_x64(True):
        found = early_stopping_time(eigenvalues, noise_std=noise_std, step_size=size, max_time=last)
        np.testing.assert_allclose(
            local_rademacher_complexity(eigenvalues, np.array([0.1, 0.7])),
            [complexity(0.1), complexity(0.7)],
            rtol=1e-12,
        )
    assert int(found) == min(first - 1, last)
