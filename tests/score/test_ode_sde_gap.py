import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from lossbench.score import (
    GaussianMixture,
    OrnsteinUhlenbeck,
    ode_sde_gap,
    ode_sde_gap_bound,
    reverse_sde_log_density,
)

T = 1.0


def variances(a, at):
    """Of the reverse SDE and of the flow under the score -a x, from 1/2 at T; times falling."""

    def slopes(elapsed, v):
        return [2 * (1 - a) * v[0] + 1, 2 * (1 - a / 2) * v[1]]

    start = [(1 - np.exp(-2 * T)) / 2] * 2
    solution = solve_ivp(slopes, (0, T), start, t_eval=T - at, rtol=1e-10, atol=1e-12)
    return solution.y


@pytest.mark.parametrize("d", [1, 3])
def test_gap_of_gaussians(d):
    process = OrnsteinUhlenbeck(t_max=T)
    keys = jax.random.split(jax.random.key(0))
    x = process.prior_std * jax.random.normal(keys[0], (40_000, d))
    gap = jax.jit(
        lambda a: ode_sde_gap(keys[1], lambda x, t: -a * x, x, process.times(100), process=process)
    )
    for a in (0.5, 2.0, 4.0):
        of_sde, of_flow = variances(a, np.array([0.0]))[:, 0]
        np.testing.assert_allclose(gap(a), abs(np.sqrt(of_sde) - np.sqrt(of_flow)), atol=0.03)


def test_gap_of_an_exact_score_is_that_of_two_samples():
    process = OrnsteinUhlenbeck(t_min=1e-3, t_max=4.0)
    mixture = GaussianMixture.of(
        jnp.array([0.4, 0.6]), jnp.array([[-1.2], [1.0]]), jnp.array([0.1, 0.1])
    )
    x = process.prior_std * jax.random.normal(jax.random.key(0), (4000, 1))
    times = process.times(200, power=2.0)

    @jax.jit
    def gap(temperature):
        def score(x, t):
            return temperature * mixture.score_at(process, x, t)

        return ode_sde_gap(jax.random.key(1), score, x, times, process=process)

    assert gap(1.0) < 0.06
    assert gap(1.5) > 0.15


@pytest.mark.parametrize(("a", "one_sign"), [(-0.5, True), (0.0, True), (4.0, False)])
def test_bound_is_the_gap_of_centred_gaussians(a, one_sign):
    times = np.linspace(0, T, 2001)
    of_sde, of_flow = variances(a, times[::-1])
    # e = log psi - log f, so that de/dx = (a - 1 / V) x under N(0, V).
    slopes = (a - 1 / of_sde[::-1]) * np.sqrt(of_sde[::-1]) / 2
    bound = ode_sde_gap_bound(np.abs(slopes), np.full_like(times, 1 - a / 2), times)
    gap = abs(np.sqrt(of_sde[-1]) - np.sqrt(of_flow[-1]))
    assert (np.ptp(np.sign(slopes)) == 0) == one_sign
    if one_sign:
        np.testing.assert_allclose(bound, gap, rtol=1e-4)
    else:
        assert bound > 1.1 * gap


def test_density_of_the_reverse_sde():
    """A density that does not solve the equation: Feynman and Kac against the SDE's own moments."""
    a, process = 2.5, OrnsteinUhlenbeck(t_min=1e-4, t_max=T)
    x = np.linspace(-1.2, 1.2, 7)
    log_density = jax.jit(
        lambda key: reverse_sde_log_density(
            key,
            lambda x, t: 17.0 - a * x[:, 0] ** 2 / 2,
            jnp.float32(x[:, None]),
            process=process,
            num_paths=4000,
        )
    )(jax.random.key(0))
    variance = variances(a, np.array([0.0]))[0, 0]
    expected = -(x**2) / (2 * variance) - np.log(2 * np.pi * variance) / 2
    assert np.abs(expected + a * x**2 / 2 + np.log(2 * np.pi / a) / 2).max() > 0.1
    np.testing.assert_allclose(log_density, expected, atol=0.03)
