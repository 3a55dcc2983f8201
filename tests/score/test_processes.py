import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

from lossbench.score import (
    Karras,
    OrnsteinUhlenbeck,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)

PROCESSES = (
    VariancePreserving(),
    SubVariancePreserving(),
    VarianceExploding(),
    Karras(),
    OrnsteinUhlenbeck(rate=0.7, volatility=1.3, t_max=4.0),
)
each = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)


@each
def test_scale_and_std_solve_the_moment_equations(process):
    """d scale / dt = a scale, d std^2 / dt = 2 a std^2 + g^2, by the derivatives of autodiff."""
    with jax.enable_x64(True):
        t = jnp.linspace(process.t_min + 0.01, process.t_max, 23)
        one = jnp.ones_like(t)
        scale, scale_slope = jax.jvp(process.scale, (t,), (one,))
        variance, variance_slope = jax.jvp(lambda t: process.std(t) ** 2, (t,), (one,))
        rate = process.drift_rate(t)
        np.testing.assert_allclose(scale_slope, rate * scale, rtol=1e-9, atol=1e-12)
        expected = 2 * rate * variance + process.diffusion(t) ** 2
        np.testing.assert_allclose(variance_slope, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("process", "start"),
    [
        (VariancePreserving(), (1.0, 0.0)),
        (SubVariancePreserving(), (1.0, 0.0)),
        (OrnsteinUhlenbeck(), (1.0, 0.0)),
        (Karras(), (1.0, 0.0)),
        (VarianceExploding(), (1.0, 0.01)),
    ],
    ids=lambda p: type(p).__name__,
)
def test_the_noise_at_time_zero_is_where_the_process_starts(process, start):
    values = float(process.scale(jnp.float32(0))), float(process.std(jnp.float32(0)))
    np.testing.assert_allclose(values, start, atol=1e-6)


def test_values_of_the_variance_preserving_process():
    """B(1/2) = 0.1 / 2 + 19.9 / 8, written out."""
    integral = 0.05 + 19.9 / 8
    process = VariancePreserving()
    t = jnp.float32(0.5)
    np.testing.assert_allclose(process.scale(t), np.exp(-integral / 2), rtol=1e-6)
    np.testing.assert_allclose(process.std(t), np.sqrt(1 - np.exp(-integral)), rtol=1e-6)
    np.testing.assert_allclose(process.diffusion(t), np.sqrt(10.05), rtol=1e-6)
    np.testing.assert_allclose(SubVariancePreserving().std(t), 1 - np.exp(-integral), rtol=1e-6)


@each
def test_importance_sampling_of_times_keeps_expectations(process):
    """The weighted mean of a function of time is its mean over uniform times, by quadrature."""
    length = process.t_max - process.t_min

    def fn(t):
        return np.cos(3 * t / process.t_max)

    expected = scipy.integrate.quad(fn, process.t_min, process.t_max)[0] / length
    with jax.enable_x64(True):
        sample = jax.jit(lambda key: process.sample_times(key, 20_000, law="importance"))
        t, weights = map(np.asarray, sample(jax.random.key(0)))
    assert float(t.min()) >= process.t_min
    assert float(t.max()) <= process.t_max
    # Spread draws integrate far better than independent ones; the weights at late times are large.
    np.testing.assert_allclose(np.mean(weights * fn(t)), expected, atol=5e-3)


@each
def test_the_density_of_important_times(process):
    """Under it g^2 / std^2 has one size: weight * g^2 / std^2 is constant."""
    with jax.enable_x64(True):
        t, weights = process.sample_times(jax.random.key(1), 50, law="importance")
        inside = (t > process.t_min) & (t < process.t_max)
        ratio = weights * jnp.square(process.diffusion(t) / process.std(t))
    np.testing.assert_allclose(ratio[inside], float(ratio[inside][0]), rtol=1e-9)


@each
def test_uniform_times_are_spread(process):
    t, weights = process.sample_times(jax.random.key(0), 100)
    parts = np.sort((np.asarray(t) - process.t_min) / (process.t_max - process.t_min)) * 100
    np.testing.assert_array_equal(
        np.floor(np.clip(parts + 1e-3, 0, 99.5))[1:-1], np.arange(100)[1:-1]
    )
    np.testing.assert_array_equal(weights, 1)


def test_a_forward_simulation_has_the_marginals():
    """Euler and Maruyama from a point, without the closed forms."""
    process = VariancePreserving()
    steps, start = 2000, 1.5

    @jax.jit
    def simulate(key):
        def step(x, inputs):
            t, step_key = inputs
            noise = jax.random.normal(step_key, x.shape)
            h = 0.5 / steps
            return x + h * process.drift(x, t) + process.diffusion(t) * jnp.sqrt(h) * noise, None

        times = (jnp.arange(steps) + 0.5) * 0.5 / steps
        initial = jnp.full((4000, 1), start)
        return jax.lax.scan(step, initial, (times, jax.random.split(key, steps)))[0]

    x = simulate(jax.random.key(0))
    t = jnp.float32(0.5)
    # Three standard errors of 4000 draws.
    assert abs(float(x.mean()) - start * float(process.scale(t))) < 3 * float(process.std(t)) / 63
    assert abs(float(x.std()) / float(process.std(t)) - 1) < 3 / 89


@each
def test_conversions_agree(process):
    key = jax.random.key(0)
    x0, noise = jax.random.normal(key, (2, 5, 3))
    t = jnp.linspace(0.3, 0.9, 5) * process.t_max
    x = process.perturb(x0, t, noise)
    score = process.score_from_noise(noise, t)
    # The score that the true noise stands for points back at the data.
    np.testing.assert_allclose(process.denoised_from_score(score, x, t), x0, atol=2e-2)
    np.testing.assert_allclose(
        process.score_from_denoised(process.denoised_from_score(score, x, t), x, t),
        score,
        rtol=1e-3,
        atol=1e-4,
    )


def test_fields_may_be_traced_and_swept():
    t = jnp.float32(0.5)
    stds = jax.vmap(lambda top: VarianceExploding(sigma_max=top).std(t))(jnp.array([1.0, 100.0]))
    np.testing.assert_allclose(stds, [0.1, 1.0], rtol=1e-5)
    assert len(jax.tree.leaves(VariancePreserving())) == 4


def test_times_fall_and_a_power_refines_the_end():
    process = OrnsteinUhlenbeck(t_min=0.1, t_max=2.1)
    np.testing.assert_allclose(process.times(4), [2.1, 1.6, 1.1, 0.6, 0.1], rtol=1e-6)
    np.testing.assert_allclose(process.times(2, power=2.0), [2.1, 0.6, 0.1], rtol=1e-6)


def test_wrong_times_are_named():
    with pytest.raises(TypeError, match="t"):
        VariancePreserving().perturb(jnp.ones((3, 2)), jnp.ones(3, int), jnp.ones((3, 2)))
