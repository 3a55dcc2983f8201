import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from lossbench.score import (
    GaussianMixture,
    Karras,
    OrnsteinUhlenbeck,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
    edm_sample,
    euler_maruyama,
    karras_levels,
    predictor_corrector,
    probability_flow,
    probability_flow_log_density,
)

MIXTURE = GaussianMixture.of(
    np.array([0.4, 0.6]), np.array([[-1.2], [1.0]]), np.array([0.35**2, 0.35**2])
)
NUM = 4000


def quantiles(num):
    """Evenly spaced quantiles of the mixture, by bisection of scipy's distribution function."""
    grid = np.linspace(-4, 4, 20_001)
    cdf = 0.4 * scipy.stats.norm(-1.2, 0.35).cdf(grid) + 0.6 * scipy.stats.norm(1, 0.35).cdf(grid)
    return np.interp((np.arange(num) + 0.5) / num, cdf, grid)


def distance_to_mixture(x):
    """W_1; that of 4000 draws of the mixture itself is 0.02 or so."""
    return float(np.mean(np.abs(np.sort(np.asarray(x)[:, 0]) - quantiles(len(x)))))


def start(process, seed=0):
    return process.prior_std * jax.random.normal(jax.random.key(seed), (NUM, 1))


def sample(kind, process, steps):
    score = functools.partial(MIXTURE.score_at, process)
    times = process.times(steps, power=2.0)
    key = jax.random.key(1)
    solve = {
        "euler_maruyama": functools.partial(euler_maruyama, key),
        "predictor_corrector": functools.partial(predictor_corrector, key),
        "probability_flow": probability_flow,
    }[kind]
    return jax.jit(lambda x: solve(score, x, times, process=process))(start(process))


@pytest.mark.parametrize("kind", ["euler_maruyama", "predictor_corrector", "probability_flow"])
@pytest.mark.parametrize(
    "process",
    [
        VariancePreserving(t_min=1e-3),
        SubVariancePreserving(t_min=1e-3),
        VarianceExploding(sigma_max=10.0),
        OrnsteinUhlenbeck(t_min=1e-3, t_max=5.0),
    ],
    ids=lambda p: type(p).__name__,
)
def test_exact_scores_sample_the_mixture(kind, process):
    assert distance_to_mixture(sample(kind, process, 400)) < 0.05


def test_a_wrong_score_does_not():
    process = VariancePreserving(t_min=1e-3)
    x = probability_flow(
        lambda x, t: 1.2 * MIXTURE.score_at(process, x, t),
        start(process),
        process.times(100, power=2.0),
        process=process,
    )
    assert distance_to_mixture(x) > 0.1


def test_orders_of_the_flow():
    """Halving the steps divides Heun's error by four and Euler's by two; the flow is known exactly.

    For normal data the flow maps x_T to m scale_0 + (x_T - m scale_T) times the ratio of stds.
    """
    process = OrnsteinUhlenbeck(t_min=0.1, t_max=2.0)
    with jax.enable_x64(True):
        normal = GaussianMixture.of(np.ones(1), np.array([[0.7]]), np.array([0.2]))
        score = functools.partial(normal.score_at, process)
        x = jnp.linspace(-1, 1, 5)[:, None]
        ends = jnp.array([process.t_max, process.t_min])
        scale, std = process.scale(ends), process.std(ends)
        spread = jnp.sqrt(scale**2 * 0.2 + std**2)
        exact = 0.7 * scale[1] + (x - 0.7 * scale[0]) * spread[1] / spread[0]
        for method, order in (("heun", 4), ("euler", 2)):
            errors = [
                np.abs(
                    probability_flow(score, x, process.times(k), process=process, method=method)
                    - exact
                ).max()
                for k in (40, 80)
            ]
            np.testing.assert_allclose(errors[0] / errors[1], order, rtol=0.15)


def test_the_flow_runs_backwards():
    process = OrnsteinUhlenbeck(t_min=0.1, t_max=2.0)
    score = functools.partial(MIXTURE.score_at, process)
    x = MIXTURE.sample(jax.random.key(0), 50)
    times = process.times(400)
    encoded = probability_flow(score, x, times[::-1], process=process)
    np.testing.assert_allclose(
        probability_flow(score, encoded, times, process=process), x, atol=2e-3
    )


@pytest.mark.parametrize("churn", [0.0, 10.0])
def test_edm_sampler(churn):
    # Stirred noise is one more source of error: it wants finer levels.
    sigmas = karras_levels(jnp.linspace(1, 0, 18 if churn == 0 else 100))
    x = 80 * jax.random.normal(jax.random.key(0), (NUM, 1))
    out = jax.jit(
        lambda key, x: edm_sample(
            key, lambda x, sigma: MIXTURE.denoised(x, 1.0, sigma), x, sigmas, churn=churn
        )
    )(jax.random.key(1), x)
    assert distance_to_mixture(out) < 0.05


def test_edm_sampler_is_the_flow_of_its_process():
    """Without churn: Heun steps of Karras' flow down the levels, and D at the last."""
    sigmas = karras_levels(jnp.linspace(1, 0, 18))
    process = Karras()
    x = 80 * jax.random.normal(jax.random.key(0), (20, 1))
    flow = probability_flow(
        functools.partial(MIXTURE.score_at, process), x, sigmas, process=process
    )
    expected = MIXTURE.denoised(flow, 1.0, sigmas[-1])
    out = edm_sample(jax.random.key(1), lambda x, s: MIXTURE.denoised(x, 1.0, s), x, sigmas)
    np.testing.assert_allclose(out, expected, rtol=1e-3, atol=1e-3)


def test_churn_raises_the_level_and_keeps_the_law():
    """Noise of std sigma becomes noise of the raised level before D is asked."""
    key, x = jax.random.key(1), 2.0 * jax.random.normal(jax.random.key(0), (20_000, 1))
    level = edm_sample(key, lambda x, s: 0 * x + s[:, None], x, jnp.array([2.0]), churn=0.2)
    np.testing.assert_allclose(level, 2.4, rtol=1e-6)
    stirred = edm_sample(key, lambda x, sigma: x, x, jnp.array([2.0]), churn=0.2)
    np.testing.assert_allclose(stirred.std(), 2.4, rtol=0.02)


def test_karras_levels():
    """The formula of the paper, with exact ends."""
    i = np.arange(18)
    expected = (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7
    found = karras_levels(jnp.linspace(1, 0, 18))
    np.testing.assert_allclose(found, expected, rtol=1e-4)
    assert (float(found[0]), float(found[-1])) == (80.0, np.float32(0.002))


@pytest.mark.parametrize(
    "process",
    [VariancePreserving(t_min=0.01, beta_max=40.0), OrnsteinUhlenbeck(t_min=0.01, t_max=10.0)],
    ids=lambda p: type(p).__name__,
)
def test_log_density_of_the_flow(process):
    """It is the mixture's, noised to t_min; by t_max nothing is left of the mixture."""
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(
            np.array([0.3, 0.7]), np.array([[0.5, -1.0], [-0.5, 1.0]]), np.array([0.2, 0.4])
        )
        x = mixture.sample(jax.random.key(0), 8)
        score = functools.partial(mixture.score_at, process)
        found = probability_flow_log_density(score, x, process=process, num_steps=400)
        expected = mixture.log_density_at(process, x, jnp.asarray(process.t_min))
        estimated = probability_flow_log_density(
            score, x, process=process, num_steps=400, key=jax.random.key(3)
        )
        found, expected, estimated = map(np.asarray, (found, expected, estimated))
    np.testing.assert_allclose(found, expected, atol=3e-3)
    assert abs(np.mean(estimated - expected)) < 1.0
