import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from lossbench.score import (
    GaussianMixture,
    OrnsteinUhlenbeck,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    fokker_planck_box_penalty,
    fokker_planck_loss,
    fokker_planck_rate,
    log_density_fokker_planck_residual,
    score_fokker_planck_loss,
    score_fokker_planck_residual,
)

PROCESSES = [
    OrnsteinUhlenbeck(rate=1.3, volatility=0.8),
    VariancePreserving(),
    SubVariancePreserving(),
    VarianceExploding(sigma_max=5.0),
]
A, TIME = 1.4, 0.7


def network(x, t):
    """A smooth log-density without any symmetry."""
    return jnp.sin(x[:, 0] * x[:, 1] + t) + jnp.cos(2 * x[:, 2] + x[:, 0]) - t * jnp.sum(x**2, 1)


def gaussian(x, t):
    return -A * jnp.sum(x**2, axis=1) / 2


def gaussian_score(x, t):
    return -A * x


@pytest.mark.parametrize("process", PROCESSES, ids=lambda process: type(process).__name__)
def test_the_density_of_a_process_solves_its_equation(process):
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        x, t = jnp.asarray(rng.normal(size=(20, 2))), jnp.asarray(rng.uniform(0.1, 1, 20))
        covariances = jnp.array([[[0.3, 0.1], [0.1, 0.2]], [[0.2, 0.0], [0.0, 0.5]]])
        means = jnp.array([[-1.0, 0.5], [1.0, 0.0]])
        mixture = GaussianMixture.of(jnp.array([0.3, 0.7]), means, covariances)

        def log_density(x, t):
            return mixture.log_density_at(process, x, t)

        @jax.jit
        def evaluate(x, t):
            ones = jnp.ones_like(t)
            return {
                "rate": fokker_planck_rate(
                    lambda x, t: mixture.score_at(process, x, t), x, t, process=process
                ),
                "slope": jax.jvp(lambda t: log_density(x, t), (t,), (ones,))[1],
                "residual": log_density_fokker_planck_residual(log_density, x, t, process=process),
                "tempered": log_density_fokker_planck_residual(
                    lambda x, t: 1.2 * log_density(x, t), x, t, process=process
                ),
                "of the score": score_fokker_planck_residual(
                    lambda x, t: mixture.score_at(process, x, t), x, t, process=process
                ),
            }

        out = evaluate(x, t)
    size = np.abs(out["slope"]).max()
    assert size > 0.1
    np.testing.assert_allclose(out["rate"], out["slope"], atol=1e-10 * size)
    np.testing.assert_allclose(out["residual"], 0, atol=1e-10 * size)
    np.testing.assert_allclose(out["of the score"], 0, atol=1e-8 * size)
    assert np.abs(out["tempered"]).max() > 0.01 * size


def test_residual_of_a_gaussian_in_closed_form():
    """f = -a(t) x^2 / 2 + c(t): x^2 (-a' / 2 + a - a^2 / 2) + c' - 1 + a / 2."""
    rng = np.random.default_rng(1)
    with jax.enable_x64(True):
        x, t = jnp.asarray(rng.normal(size=(9, 1))), jnp.asarray(rng.uniform(0.1, 2, 9))
        residual = log_density_fokker_planck_residual(
            lambda x, t: -(2 + jnp.sin(t)) * x[:, 0] ** 2 / 2 + t**3,
            x,
            t,
            process=OrnsteinUhlenbeck(),
        )
    x, t = np.asarray(x)[:, 0], np.asarray(t)
    a, slope = 2 + np.sin(t), np.cos(t)
    expected = x**2 * (-slope / 2 + a - a**2 / 2) + 3 * t**2 - 1 + a / 2
    np.testing.assert_allclose(residual, expected, atol=1e-12)


def test_residual_of_the_score_is_the_gradient_of_the_residual():
    rng = np.random.default_rng(2)
    process = VariancePreserving()
    with jax.enable_x64(True):
        x, t = jnp.asarray(rng.normal(size=(5, 3))), jnp.asarray(rng.uniform(0.1, 1, 5))

        @jax.jit
        def both(x, t):
            def total(x):
                return log_density_fokker_planck_residual(network, x, t, process=process).sum()

            def score(x, t):
                return jax.grad(lambda x: network(x, t).sum())(x)

            return jax.grad(total)(x), score_fokker_planck_residual(score, x, t, process=process)

        expected, residual = both(x, t)
    np.testing.assert_allclose(residual, expected, rtol=1e-9, atol=1e-9)


def test_probes_are_unbiased():
    rng = np.random.default_rng(3)
    process = OrnsteinUhlenbeck()
    x, t = jnp.float32(rng.normal(size=(4, 3))), jnp.float32(rng.uniform(0.1, 1, 4))

    def score(x, t):
        return jax.grad(lambda x: network(x, t).sum())(x)

    @jax.jit
    def draw(keys):
        def one(key):
            options = {"process": process, "key": key}
            return (
                log_density_fokker_planck_residual(network, x, t, **options),
                score_fokker_planck_residual(score, x, t, **options),
            )

        return jax.vmap(one)(keys)

    drawn = draw(jax.random.split(jax.random.key(0), 2000))
    exact = (
        log_density_fokker_planck_residual(network, x, t, process=process),
        score_fokker_planck_residual(score, x, t, process=process),
    )
    for values, expected in zip(drawn, exact, strict=True):
        error = np.std(values, axis=0) / np.sqrt(len(values))
        assert np.max(error) > 1e-3
        assert np.all(np.abs(np.mean(values, axis=0) - expected) < 4 * error + 1e-4)


def test_losses_of_a_gaussian_have_their_expectations():
    """All data at 0 and one time: x_t = std noise, and every term is a polynomial of the noise."""
    process, n = OrnsteinUhlenbeck(), 100_000
    data, times = jnp.zeros((n, 1)), jnp.full(n, TIME)
    keys = jax.random.split(jax.random.key(0))
    options = {"process": process, "times": times, "weighting": "noise"}
    of_density = jax.jit(
        lambda key: fokker_planck_loss(key, gaussian, data, residual_weight=0.7, **options)
    )(keys[0])
    of_score = jax.jit(
        lambda key: score_fokker_planck_loss(
            key, gaussian_score, data, residual_weight=0.7, rate_weight=0.3, **options
        )
    )(keys[1])

    variance = (1 - np.exp(-2 * TIME)) / 2

    def matching(noise):
        return (1 - A * variance) ** 2 * noise**2 / 2

    def rate(noise):
        x_squared = variance * noise**2
        return (A**2 * x_squared - A) / 2 - A * x_squared + 1

    def density_loss(noise):
        return matching(noise) + 0.7 * rate(noise) ** 2

    def score_loss(noise):
        residual = (2 * A - A**2) * np.sqrt(variance) * noise
        return matching(noise) + 0.7 * residual**2 + 0.3 * abs(rate(noise))

    for values, loss in ((of_density, density_loss), (of_score, score_loss)):
        values = np.asarray(values, np.float64)
        expected, _ = quad(
            lambda z, loss=loss: loss(z) * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi), -9, 9
        )
        assert abs(values.mean() - expected) < 4 * values.std() / np.sqrt(n)


def test_likelihood_weighting_counts_the_score_by_the_squared_diffusion():
    process = OrnsteinUhlenbeck(volatility=1.7)
    data, times = jnp.ones((8, 2)), jnp.linspace(0.2, 2.0, 8)
    options = {"process": process, "times": times, "residual_weight": 0.0}
    key = jax.random.key(0)
    plain = fokker_planck_loss(key, gaussian, data, **options)
    weighted = fokker_planck_loss(key, gaussian, data, weighting="likelihood", **options)
    variance = 1.7**2 * (1 - np.exp(-2 * np.asarray(times))) / 2
    np.testing.assert_allclose(weighted / plain, 1.7**2 / variance, rtol=1e-4)


def test_box_penalty_is_the_mean_over_the_box_and_its_faces():
    lower, upper = jnp.array([-1.0, -2.0]), jnp.array([1.0, 2.0])

    @jax.jit
    def penalties(key):
        def of(fn, weight):
            return fokker_planck_box_penalty(
                key,
                fn,
                lower,
                upper,
                process=OrnsteinUhlenbeck(),
                num_points=200_000,
                num_boundary_points=50_000,
                boundary_weight=weight,
            )

        return (
            of(gaussian, 0.0),
            of(lambda x, t: -jnp.sum(x**2, axis=1), 3.0),
            of(lambda x, t: 1e3 + 0 * t, 1.0),
        )

    inside, faces, capped = penalties(jax.random.key(0))
    # R = p |x|^2 + r with p = a - a^2 / 2 and r = a - 2, two coordinates uniform.
    p, r = A - A**2 / 2, A - 2
    square, fourth = np.array([1, 4]) / 3, np.array([1, 16]) / 5
    expected = p**2 * (fourth.sum() + 2 * square.prod()) + 2 * p * r * square.sum() + r**2
    np.testing.assert_allclose(inside, expected, rtol=0.01)

    def mean(b):
        return quad(lambda y: np.exp(-2 * y**2), 0, b)[0] / b

    expected = 3 * (np.exp(-2) * mean(2) + np.exp(-8) * mean(1)) / 2
    np.testing.assert_allclose(faces, expected, rtol=0.01)
    # Of a constant, d a = -2 remains of the residual; its density is cut at exp(20).
    np.testing.assert_allclose(capped, np.exp(40), rtol=1e-5)
