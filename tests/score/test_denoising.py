import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.score import (
    GaussianMixture,
    Karras,
    OrnsteinUhlenbeck,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    denoising_score_matching,
    edm_denoised,
    edm_loss,
    edm_scalings,
    score_weights,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 2))
MATRIX = rng.normal(size=(2, 2))
PROCESSES = (
    VariancePreserving(),
    SubVariancePreserving(),
    VarianceExploding(),
    Karras(),
    OrnsteinUhlenbeck(),
)


def score_fn(x, t):
    return jnp.sin(x @ MATRIX) / (1 + t[:, None])


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
@pytest.mark.parametrize(
    "weighting", ["noise", "likelihood", "data", "velocity", "min_snr", "uniform"]
)
def test_the_definition(process, weighting):
    """lambda(t) |s + noise / std|^2 / 2 with lambda as the papers state it, in numpy."""
    key = jax.random.key(0)
    with jax.enable_x64(True):
        t = jnp.linspace(0.1, 0.9, 6) * process.t_max
        found = denoising_score_matching(
            key, score_fn, X, noise=process, weighting=weighting, times=t, snr_cap=2.0
        )
        noise = np.asarray(jax.random.normal(jax.random.split(key)[1], X.shape, jnp.float64))
        scale, std, g = (np.asarray(f(t)) for f in (process.scale, process.std, process.diffusion))
        score = np.asarray(score_fn(scale[:, None] * X + std[:, None] * noise, t))
    snr = scale**2 / std**2
    weight = {
        "noise": std**2,
        "likelihood": g**2,
        "data": std**4 / scale**2,
        "velocity": std**2 / scale**2,
        "min_snr": np.minimum(snr, 2.0) * std**4 / scale**2,
        "uniform": np.ones(6),
    }[weighting]
    expected = weight * np.sum((score + noise / std[:, None]) ** 2, 1) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_the_velocity_weighting_is_the_error_of_the_velocity():
    """Where scale^2 + std^2 = 1: v = scale noise - std x_0, predicted through the score."""
    process, t = VariancePreserving(), jnp.linspace(0.1, 0.9, 6)
    key = jax.random.key(1)
    with jax.enable_x64(True):
        found = denoising_score_matching(
            key, score_fn, X, noise=process, weighting="velocity", times=t
        )
        noise = jax.random.normal(jax.random.split(key)[1], X.shape, jnp.float64)
        x = process.perturb(X, t, noise)
        scale, std = process.scale(t)[:, None], process.std(t)[:, None]
        score = score_fn(x, t)
        noise_hat, data_hat = -std * score, (x + std**2 * score) / scale
        error = (scale * noise_hat - std * data_hat) - (scale * noise - std * X)
    np.testing.assert_allclose(found, np.sum(np.square(error), 1) / 2, rtol=1e-5)


def test_its_minimiser_is_the_score_of_the_noised_data():
    """The gradient along a bump is 0 at the exact score of a mixture, and not elsewhere."""
    process = OrnsteinUhlenbeck(t_min=0.05, t_max=2.0)
    mixture = GaussianMixture.of(
        np.ones(2), np.array([[-1.0, 0], [1.0, 0.5]]), np.array([0.1, 0.3])
    )

    def loss(direction, offset, key):
        x_key, loss_key = jax.random.split(key)
        x = mixture.sample(x_key, 100_000)

        def model(x, t):
            bump = jnp.stack([jnp.sin(x[:, 0] + t), jnp.cos(2 * x[:, 1])], axis=1)
            return mixture.score_at(process, x, t) + (direction + offset) * bump

        return jnp.mean(denoising_score_matching(loss_key, model, x, noise=process))

    slope = jax.jit(jax.grad(loss))
    at_truth = np.array([slope(0.0, 0.0, jax.random.key(i)) for i in range(5)])
    away = float(slope(0.0, 0.5, jax.random.key(0)))
    # 8.6: the 0.1% quantile of Student's t at four degrees of freedom.
    assert abs(at_truth.mean()) < 8.6 * at_truth.std(ddof=1) / 5**0.5
    assert away > 20 * abs(at_truth.mean())


def test_one_noise_level_is_least_at_the_smoothed_gaussian():
    """Linear scores of normal data: the minimiser is (C + sigma^2 I)^-1."""
    covariance, sigma = np.array([[1.0, 0.4], [0.4, 0.5]]), 0.6
    x = rng.normal(size=(200_000, 2)) @ np.linalg.cholesky(covariance).T
    optimum = jnp.asarray(np.linalg.inv(covariance + sigma**2 * np.eye(2)), jnp.float32)

    @jax.jit
    def gradient(a, key):
        return jax.grad(
            lambda a: jnp.mean(denoising_score_matching(key, lambda x: -x @ a, x, noise=sigma))
        )(a)

    runs = np.stack([gradient(optimum, jax.random.key(i)) for i in range(5)])
    # The sample's own covariance is off by about half a percent.
    assert np.abs(runs.mean(0)).max() < 0.01
    assert np.abs(gradient(optimum + 0.2, jax.random.key(0))).max() > 0.03


def test_the_level_weightings_differ_by_the_variance():
    key = jax.random.key(0)
    x = jnp.asarray(X, jnp.float32)
    noise, uniform = (
        denoising_score_matching(key, lambda x: -x, x, noise=0.5, weighting=w)
        for w in ("noise", "uniform")
    )
    np.testing.assert_allclose(uniform, noise / 0.25, rtol=1e-6)


def test_no_time_means_no_weighting_by_time():
    with pytest.raises(ValueError, match="one noise level has weighting"):
        denoising_score_matching(
            jax.random.key(0), lambda x: -x, jnp.asarray(X), noise=0.5, weighting="velocity"
        )


@pytest.mark.parametrize("weighting", ["noise", "likelihood", "min_snr"])
def test_finite_at_the_least_noise(weighting):
    """std is 1e-3 at t_min = 1e-5: value and gradient by the network's scale are finite."""
    process = VariancePreserving()
    x = jnp.zeros((4, 2))

    def loss(size):
        return jnp.sum(
            denoising_score_matching(
                jax.random.key(0),
                lambda x, t: size * x,
                x,
                noise=process,
                weighting=weighting,
                times=jnp.full(4, process.t_min),
            )
        )

    value, slope = jax.value_and_grad(loss)(1.0)
    assert np.isfinite(value)
    assert np.isfinite(slope)


def test_importance_and_uniform_times_have_one_expectation():
    process = VariancePreserving(t_min=1e-3)
    x = jnp.asarray(rng.normal(size=(50_000, 2)), jnp.float32)

    def runs(law):
        loss = jax.jit(
            lambda key: jnp.mean(
                denoising_score_matching(
                    key,
                    lambda x, t: -0.8 * x,
                    x,
                    noise=process,
                    weighting="likelihood",
                    time_law=law,
                )
            )
        )
        return np.array([loss(jax.random.key(i)) for i in range(4)])

    uniform, important = runs("uniform"), runs("importance")
    np.testing.assert_allclose(uniform.mean(), important.mean(), rtol=0.02)
    assert important.std() < uniform.std()


def test_unknown_weightings_are_refused():
    with pytest.raises(TypeError, match="weighting"):
        score_weights(Karras(), jnp.ones(3), "snr")


def test_edm_scalings_keep_variances_at_one():
    """Inputs, and the network's targets, of data with standard deviation sigma_data."""
    sigma, sigma_data = np.array([0.01, 0.5, 30.0]), 0.7
    with jax.enable_x64(True):
        skip, out, scale, level = map(np.asarray, edm_scalings(sigma, sigma_data=sigma_data))
    np.testing.assert_allclose(np.square(scale) * (sigma_data**2 + sigma**2), 1, rtol=1e-12)
    target = (1 - skip) ** 2 * sigma_data**2 + np.square(skip) * sigma**2
    np.testing.assert_allclose(target / np.square(out), 1, rtol=1e-9)
    np.testing.assert_allclose(level, np.log(sigma) / 4, rtol=1e-12)


def test_edm_loss_starts_at_half_a_unit_per_coordinate():
    """A network of zeros predicts c_skip x: its weighted error is that of a unit target."""
    x = 0.5 * jnp.asarray(rng.normal(size=(40_000, 3)), jnp.float32)

    def denoiser(x, sigma):
        return edm_denoised(lambda x, level: 0 * x, x, sigma)

    loss = edm_loss(jax.random.key(0), denoiser, x)
    np.testing.assert_allclose(loss.mean(), 1.5, rtol=0.02)


def test_edm_loss_is_least_at_the_exact_denoiser():
    """Normal data of standard deviation 1/2: D = x / (1 + 4 sigma^2)."""
    x = 0.5 * jnp.asarray(rng.normal(size=(100_000, 1)), jnp.float32)

    @jax.jit
    def slope(offset, key):
        def loss(a):
            return jnp.mean(
                edm_loss(key, lambda x, s: (a + offset) * x / (1 + 4 * s[:, None] ** 2), x)
            )

        return jax.grad(loss)(1.0)

    runs = np.array([slope(0.0, jax.random.key(i)) for i in range(5)])
    assert abs(runs.mean()) < 8.6 * runs.std(ddof=1) / 5**0.5
    assert slope(0.2, jax.random.key(0)) > 0.1
