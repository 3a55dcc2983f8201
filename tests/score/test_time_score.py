import functools

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.score import (
    GaussianMixture,
    OrnsteinUhlenbeck,
    denoising_time_score_matching,
    implicit_time_score_matching,
    time_score_log_ratio,
)

SHIFT = np.array([0.8, -0.3])


def moving_gaussian(x, t):
    """d/dt log N(x; t shift, I) = <shift, x - t shift>."""
    return (x - t[:, None] * SHIFT) @ SHIFT


def test_the_ratio_of_two_gaussians():
    with jax.enable_x64(True):
        x = np.random.default_rng(0).normal(size=(5, 2))
        found = time_score_log_ratio(moving_gaussian, x, num_points=4)
    expected = -np.sum((x - SHIFT) ** 2, 1) / 2 + np.sum(x**2, 1) / 2
    np.testing.assert_allclose(found, expected, rtol=1e-10)


def test_implicit_objective_is_least_at_the_time_score():
    def loss(size, offset, key):
        keys = jax.random.split(key, 4)
        n = 100_000
        noise = [jax.random.normal(k, (n, 2)) for k in keys[:3]]
        t = jax.random.uniform(keys[3], (n,))

        def model(x, t):
            bump = jnp.sin(x[:, 0]) + t * x[:, 1] ** 2
            return moving_gaussian(x, t) + (size + offset) * bump

        return implicit_time_score_matching(
            model,
            noise[0],
            noise[1] + SHIFT,
            noise[2] + t[:, None] * SHIFT,
            t,
            weight_fn=lambda t: 1 + t**2,
        )

    slope = jax.jit(jax.grad(loss))
    runs = np.array([slope(0.0, 0.0, jax.random.key(i)) for i in range(5)])
    assert abs(runs.mean()) < 8.6 * runs.std(ddof=1) / 5**0.5
    assert slope(0.0, 0.3, jax.random.key(0)) > 0.5


def test_implicit_objective_has_the_value_of_the_identity():
    """At the truth it is minus the integral of w E (d log p / dt)^2 = -w |shift|^2."""
    keys = jax.random.split(jax.random.key(0), 4)
    n = 200_000
    start, end, middle = (jax.random.normal(k, (n, 2)) for k in keys[:3])
    t = jax.random.uniform(keys[3], (n,))
    value = implicit_time_score_matching(
        moving_gaussian, start, end + SHIFT, middle + t[:, None] * SHIFT, t
    )
    np.testing.assert_allclose(value, -np.sum(SHIFT**2), rtol=0.03)


def test_denoising_objective_is_least_at_the_mixtures_time_score():
    process = OrnsteinUhlenbeck(t_min=0.2, t_max=2.0)
    mixture = GaussianMixture.of(np.ones(2), np.array([[-1.0], [1.0]]), np.array([0.2, 0.3]))

    def time_score(x, t):
        path = functools.partial(mixture.log_density_at, process, x)
        return jax.jvp(path, (t,), (jnp.ones_like(t),))[1]

    def loss(size, offset, key):
        x_key, loss_key = jax.random.split(key)
        x = mixture.sample(x_key, 100_000)

        def model(x, t):
            return time_score(x, t) + (size + offset) * jnp.cos(x[:, 0] + t)

        return jnp.mean(denoising_time_score_matching(loss_key, model, x, process=process))

    slope = jax.jit(jax.grad(loss))
    runs = np.array([slope(0.0, 0.0, jax.random.key(i)) for i in range(5)])
    assert abs(runs.mean()) < 8.6 * runs.std(ddof=1) / 5**0.5
    assert slope(0.0, 0.3, jax.random.key(0)) > 0.1
