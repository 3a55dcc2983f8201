import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lossbench.score import (
    compositional_likelihood_init,
    compositional_likelihood_loss,
    effective_sample_size,
    log_partition_importance,
    noise_contrastive_loss,
)

rng = np.random.default_rng(0)


def test_with_every_state_as_noise_it_is_the_cross_entropy():
    """A table of 7 states and a uniform q: Z is known exactly."""
    labels = np.array([0, 3, 3, 6])
    table = rng.normal(size=7)
    with jax.enable_x64(True):

        def loss(table):
            values, state = compositional_likelihood_loss(
                compositional_likelihood_init(), table[labels], table, jnp.full(7, -np.log(7))
            )
            return values.mean(), (values, state)

        gradient, (values, state) = jax.jit(jax.grad(loss, has_aux=True))(jnp.asarray(table))
    log_partition = np.log(np.exp(table).sum())
    frequencies = np.bincount(labels, minlength=7) / len(labels)
    np.testing.assert_allclose(values, log_partition - table[labels], rtol=1e-12)
    np.testing.assert_allclose(gradient, np.exp(table - log_partition) - frequencies, rtol=1e-10)
    np.testing.assert_allclose(state.log_partition, log_partition, rtol=1e-6)
    assert state.steps == 1


def test_values_averages_and_gradients_are_the_papers():
    steps, n, m, rate = 5, 3, 4, 0.3
    data, noise = rng.normal(size=(steps, n, 2)), rng.normal(size=(steps, m, 2))
    log_q = rng.normal(size=(steps, m))
    theta = np.array([0.4, -0.8])

    with jax.enable_x64(True):

        @jax.jit
        def step(state, data, noise, log_q):
            def loss(theta):
                values, new = compositional_likelihood_loss(
                    state, data @ theta, noise @ theta, log_q, inner_rate=rate
                )
                return values.mean(), (values, new)

            return jax.grad(loss, has_aux=True)(jnp.asarray(theta))

        state, average = compositional_likelihood_init(), None
        for x, y, q in zip(data, noise, log_q, strict=True):
            gradient, (values, state) = step(state, x, y, q)
            weights = np.exp(y @ theta - q)
            now = weights.mean()
            average = now if average is None else (1 - rate) * average + rate * now
            expected = -x.mean(0) + (weights[:, None] * y).mean(0) / average
            np.testing.assert_allclose(gradient, expected, rtol=1e-6)
            np.testing.assert_allclose(values, np.log(average) - x @ theta, rtol=1e-6)
            np.testing.assert_allclose(state.log_partition, np.log(average), rtol=1e-6)
    assert state.steps == steps


def test_inner_rate_one_is_the_plug_in_estimate():
    data, noise, log_q = (jnp.float32(rng.normal(size=size)) for size in (3, 5, 5))
    state = compositional_likelihood_init()._replace(
        log_partition=jnp.float32(40.0), steps=jnp.int32(9)
    )

    def running(scale):
        values, new = compositional_likelihood_loss(
            state, scale * data, scale * noise, log_q, inner_rate=1.0
        )
        return values.mean(), new

    def plug_in(scale):
        return (log_partition_importance(scale * noise, log_q) - scale * data).mean()

    (value, new), gradient = jax.value_and_grad(running, has_aux=True)(1.5)
    expected, expected_gradient = jax.value_and_grad(plug_in)(1.5)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected_gradient, rtol=1e-5)
    assert abs(new.log_partition - expected - 1.5 * data.mean()) < 1e-5


def test_a_constant_in_the_model_shifts_the_partition_function_only():
    data, noise, log_q = (jnp.float32(rng.normal(size=size)) for size in (3, 5, 5))
    state = compositional_likelihood_init()._replace(steps=jnp.int32(1))

    def gradient(shift):
        def loss(scale):
            values, new = compositional_likelihood_loss(
                state._replace(log_partition=state.log_partition + shift),
                scale * data + shift,
                scale * noise + shift,
                log_q,
            )
            return values.mean(), new

        return jax.grad(loss, has_aux=True)(1.0)

    plain, plain_state = gradient(0.0)
    shifted, shifted_state = gradient(30.0)
    np.testing.assert_allclose(shifted, plain, rtol=1e-4)
    np.testing.assert_allclose(
        shifted_state.log_partition, plain_state.log_partition + 30, rtol=1e-5
    )


def test_running_partition_function_settles_at_that_of_a_gaussian():
    theta = 0.8

    def step(state, key):
        y = jax.random.normal(key, (64,))
        _, state = compositional_likelihood_loss(
            state, jnp.zeros(1), -((y - theta) ** 2) / 2, jax.scipy.stats.norm.logpdf(y)
        )
        return state, state.log_partition

    _, trace = jax.jit(lambda keys: jax.lax.scan(step, compositional_likelihood_init(), keys))(
        jax.random.split(jax.random.key(0), 2000)
    )
    np.testing.assert_allclose(np.exp(trace).mean(), np.sqrt(2 * np.pi), rtol=0.01)


@pytest.mark.parametrize("std", [1.0, 2.0])
def test_weights_vary_by_the_chi_square_divergence(std):
    """chi^2(N(theta, 1) || N(0, s^2)) = s^2 / sqrt(2 s^2 - 1) exp(theta^2 / (2 s^2 - 1)) - 1."""
    theta, m = 0.7, 400_000
    y = std * rng.normal(size=m)
    log_p = np.float32(-((y - theta) ** 2) / 2)
    log_q = np.float32(stats.norm.logpdf(y, scale=std))
    spread = 2 * std**2 - 1
    share = np.sqrt(spread) / std**2 * np.exp(-(theta**2) / spread)
    np.testing.assert_allclose(effective_sample_size(log_p, log_q) / m, share, rtol=0.03)
    log_partition = log_partition_importance(log_p, log_q)
    np.testing.assert_allclose(log_partition, np.log(2 * np.pi) / 2, atol=0.01)


def test_equal_weights_are_worth_all_draws_and_one_weight_is_worth_one():
    assert abs(effective_sample_size(jnp.arange(5.0) + 3, jnp.arange(5.0)) - 5) < 1e-5
    assert abs(effective_sample_size(jnp.array([0.0, 900.0]), jnp.zeros(2)) - 1) < 1e-6


@pytest.mark.parametrize("kind", ["logistic", "exponential"])
def test_noise_contrast_is_least_at_the_normalised_truth(kind):
    """By quadrature over the line: the gradient by mean and constant vanishes there only."""
    nu = 3.0
    with jax.enable_x64(True):
        y = jnp.linspace(-12, 12, 4001)
        truth = np.asarray(stats.norm.pdf(y, 1.0))
        noise = np.asarray(stats.norm.pdf(y, 0.0, 1.5))
        cell = float(y[1] - y[0])

        @jax.jit
        @jax.value_and_grad
        def objective(params):
            mean, log_z = params
            ratio = -((y - mean) ** 2) / 2 - log_z - np.log(noise)
            of_data, of_noise = noise_contrastive_loss(ratio, ratio, noise_ratio=nu, kind=kind)
            return cell * (of_data @ truth + nu * of_noise @ noise)

        least, at_truth = objective(jnp.array([1.0, np.log(2 * np.pi) / 2]))
        _, nearby = objective(jnp.array([1.1, 0.8]))
    np.testing.assert_allclose(at_truth, 0, atol=1e-9)
    assert np.min(np.abs(nearby)) > 1e-3
    ratio = truth / (nu * noise)
    if kind == "logistic":
        expected = np.log1p(1 / ratio) @ truth + nu * np.log1p(ratio) @ noise
    else:
        expected = (1 / np.sqrt(ratio)) @ truth + nu * np.sqrt(ratio) @ noise
    np.testing.assert_allclose(least, cell * expected, rtol=1e-9)


def test_gradient_of_noise_contrast_is_the_cards_integral():
    """With one noise point each: integral of q / (p + q) (p - p*) (x - theta)."""
    theta, target = 0.5, 2.0
    with jax.enable_x64(True):
        y = np.linspace(-14, 14, 4001)
        cell = y[1] - y[0]
        p, p_star, q = (stats.norm.pdf(y, mean) for mean in (theta, target, 0.0))

        @jax.grad
        def gradient(theta):
            ratio = theta * y - theta**2 / 2
            of_data, of_noise = noise_contrastive_loss(ratio, ratio)
            return cell * (of_data @ p_star + of_noise @ q)

        got = gradient(theta)
    expected = cell * np.sum(q / (p + q) * (p - p_star) * (y - theta))
    np.testing.assert_allclose(got, expected, rtol=1e-9)
