import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ive
from scipy.stats import kstest, vonmises_fisher

from lossbench.transport import (
    sample_vmf,
    sliced_wasserstein,
    vmf_log_density,
    vmf_mean_resultant,
    vmf_sliced_wasserstein,
)

KEY = jax.random.key(0)
rng = np.random.default_rng(0)
X = rng.normal(size=(40, 3)).astype(np.float32)
SHIFT = np.float32([1, -2, 0.5])


def unit(dim):
    loc = rng.normal(size=dim).astype(np.float32)
    return loc / np.linalg.norm(loc)


@pytest.mark.parametrize("dim", [2, 3, 4, 10, 65])
def test_mean_resultant_against_the_bessel_functions(dim):
    kappas = np.array([1e-3, 0.1, 1.0, 10.0, 100.0, 1e4])
    expected = ive(dim / 2, kappas) / ive(dim / 2 - 1, kappas)
    with jax.enable_x64(True):
        found = jax.vmap(lambda kappa: vmf_mean_resultant(kappa, dim))(kappas)
        slopes = jax.vmap(jax.grad(lambda kappa: vmf_mean_resultant(kappa, dim)))(kappas)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # A' = 1 - A^2 - (d - 1) A / kappa, which cancels where A is near 1.
    exact = 1 - expected**2 - (dim - 1) * expected / kappas
    np.testing.assert_allclose(slopes[:5], exact[:5], rtol=1e-4)
    assert vmf_mean_resultant(0.0, dim) == 0


@pytest.mark.parametrize("dim", [2, 3, 4, 7])
def test_log_density_against_scipy(dim):
    loc = unit(dim)
    directions = np.stack([unit(dim) for _ in range(6)])
    for kappa in (1e-6, 0.1, 3.0, 200.0):
        expected = vonmises_fisher(np.float64(loc) / np.linalg.norm(np.float64(loc)), kappa).logpdf(
            np.asarray(directions, np.float64)
            / np.linalg.norm(np.asarray(directions, np.float64), axis=1, keepdims=True)
        )
        found = vmf_log_density(directions, loc, kappa=kappa)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=2e-4)


@pytest.mark.parametrize(("dim", "kappa"), [(2, 1.0), (3, 10.0), (3, 0.0), (10, 100.0), (64, 5.0)])
def test_moments_of_the_samples(dim, kappa):
    loc, count = unit(dim), 20_000
    theta = np.asarray(sample_vmf(KEY, loc, kappa=kappa, num_samples=count), np.float64)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=1), 1, rtol=1e-5)
    mean = ive(dim / 2, kappa) / ive(dim / 2 - 1, kappa) if kappa else 0
    share = mean / kappa if kappa else 1 / dim
    second = share * np.eye(dim) + (1 - dim * share) * np.outer(loc, loc)
    np.testing.assert_allclose(theta.mean(0), mean * loc, atol=5 / np.sqrt(count * dim))
    np.testing.assert_allclose(theta.T @ theta / count, second, atol=5 / np.sqrt(count) / dim)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sign", [1, -1])
def test_samples_about_an_axis_follow_the_law_of_the_cosine(axis, sign):
    loc = sign * np.eye(3, dtype=np.float32)[axis]
    cosines = np.asarray(sample_vmf(KEY, loc, kappa=2.0, num_samples=5000) @ loc, np.float64)
    law = lambda w: (np.exp(2 * w) - np.exp(-2)) / (2 * np.sinh(2))  # noqa: E731
    assert kstest(cosines, law).pvalue > 1e-3


def test_derivative_by_the_location():
    with jax.enable_x64(True):
        loc = np.float64(unit(4))

        def total(loc):
            theta = sample_vmf(KEY, loc / jnp.linalg.norm(loc), kappa=3.0, num_samples=5)
            return jnp.sum(jnp.sin(theta * jnp.arange(1.0, 5.0)))

        slope = jax.grad(total)(loc)
        step = 1e-6 * rng.normal(size=4)
        np.testing.assert_allclose(
            slope @ step, (total(loc + step) - total(loc - step)) / 2, rtol=1e-6
        )


@pytest.mark.parametrize("kappa", [0.0, 50.0])
@pytest.mark.parametrize("bound", [None, "lower"])
def test_a_translation_in_closed_form(kappa, bound):
    loc = SHIFT / np.linalg.norm(SHIFT)
    mean = 1 / np.tanh(kappa) - 1 / kappa if kappa else 0
    share = mean / kappa if kappa else 1 / 3
    expected = SHIFT @ SHIFT * (1 - 2 * share)
    found = vmf_sliced_wasserstein(
        KEY, X, X + SHIFT, loc, kappa=kappa, num_projections=2000, bound=bound, root=False
    )
    # With the lower bound as a control nothing is left to chance.
    np.testing.assert_allclose(found, expected, rtol=0.06 if bound is None else 1e-3)


def test_no_concentration_is_sliced_wasserstein():
    found = vmf_sliced_wasserstein(KEY, X, 2 * X + 1, unit(3), kappa=0.0, num_projections=4000)
    expected = sliced_wasserstein(KEY, X, 2 * X + 1, num_projections=4000, method="spiral")
    np.testing.assert_allclose(found, expected, rtol=0.02)


def test_equal_clouds_are_at_distance_zero_with_derivative_zero():
    def distance(x, loc):
        return vmf_sliced_wasserstein(KEY, x, X, loc, num_projections=5)

    value, slopes = jax.value_and_grad(distance, (0, 1))(X, unit(3))
    assert value == 0
    for slope in slopes:
        np.testing.assert_array_equal(slope, 0)
