import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.score import annealed_langevin, langevin, metropolis_langevin


def test_langevin_by_hand():
    key = jax.random.key(0)
    x = jnp.ones((3, 2))
    expected = np.asarray(x)
    for step_key in jax.random.split(key, 4):
        noise = np.asarray(jax.random.normal(step_key, (3, 2)))
        expected = expected + 0.1 * -expected + np.sqrt(0.2) * noise
    found = langevin(key, lambda x: -x, x, step_size=0.1, num_steps=4)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_langevin_has_the_variance_of_its_recursion():
    """x <- (1 - h) x + sqrt(2 h) noise is stationary at 2 h / (1 - (1 - h)^2)."""
    x = langevin(
        jax.random.key(1), lambda x: -x, jnp.zeros((40_000, 1)), step_size=0.3, num_steps=60
    )
    np.testing.assert_allclose(np.var(x), 0.6 / (1 - 0.49), rtol=0.03)


@pytest.mark.parametrize("step_size", [0.05, 0.5])
def test_metropolis_is_exact_at_any_step(step_size):
    """A lopsided density, p = x^2 exp(-x) on x > 0: mean 3, variance 3, from its own start."""

    def log_density(x):
        x = x[:, 0]
        return jnp.where(x > 0, 2 * jnp.log(jnp.where(x > 0, x, 1)) - x, -jnp.inf)

    start = jnp.asarray(np.random.default_rng(0).gamma(3.0, size=(20_000, 1)), jnp.float32)
    x, rate = metropolis_langevin(
        jax.random.key(0), log_density, start, step_size=step_size, num_steps=100
    )
    np.testing.assert_allclose(x.mean(), 3, atol=0.05)
    np.testing.assert_allclose(np.var(x), 3, rtol=0.06)
    assert 0.5 < float(rate.mean()) < 1
    assert np.all(x > 0)


def test_metropolis_corrects_what_langevin_gets_wrong():
    start = jax.random.normal(jax.random.key(2), (20_000, 1))

    def log_density(x):
        return -jnp.sum(x**2, axis=1) / 2

    exact, _ = metropolis_langevin(
        jax.random.key(0), log_density, start, step_size=0.8, num_steps=50
    )
    plain = langevin(jax.random.key(0), lambda x: -x, start, step_size=0.8, num_steps=50)
    np.testing.assert_allclose(np.var(exact), 1, rtol=0.04)
    assert np.var(plain) > 1.5


def test_annealed_steps_follow_the_variances():
    """Each level is Langevin with step_scale sigma^2 / sigma_last^2 / 2."""
    key, x = jax.random.key(0), jnp.ones((4, 1))
    sigmas = jnp.array([2.0, 0.5])

    def score(x, sigma):
        return -x / sigma[:, None] ** 2

    found = annealed_langevin(key, score, x, sigmas, step_scale=0.01, steps_each=3)
    expected = x
    for sigma, level_key in zip((2.0, 0.5), jax.random.split(key, 2), strict=True):
        size = 0.01 * (sigma / 0.5) ** 2 / 2
        expected = langevin(
            level_key, lambda x, s=sigma: -x / s**2, expected, step_size=size, num_steps=3
        )
    np.testing.assert_allclose(found, expected, rtol=1e-5)
