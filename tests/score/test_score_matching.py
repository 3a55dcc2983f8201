import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.score import (
    divergence,
    energy_score,
    explicit_score_matching,
    finite_difference_score_matching,
    hutchinson_divergence,
    implicit_score_matching,
    sliced_score_matching,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(5, 3))
W1, W2 = rng.normal(size=(3, 8)), rng.normal(size=(8, 3))


def network(x):
    return jnp.tanh(x @ W1) @ W2


def exact_trace(x):
    return np.array([np.trace(jax.jacobian(network)(row)) for row in jnp.asarray(x)])


def test_divergence_is_the_trace_of_the_jacobian():
    with jax.enable_x64(True):
        np.testing.assert_allclose(divergence(network, X), exact_trace(X), rtol=1e-12)


def test_divergence_in_more_dimensions_than_a_block():
    x = rng.normal(size=(2, 130))
    matrix = rng.normal(size=(130, 130))
    with jax.enable_x64(True):
        found = divergence(lambda x: jnp.sin(x) @ matrix, x)
    np.testing.assert_allclose(found, np.cos(x) @ np.diag(matrix), rtol=1e-12)


@pytest.mark.parametrize("probe", ["rademacher", "gaussian", "sphere"])
def test_probes_estimate_the_trace(probe):
    with jax.enable_x64(True):
        one = jax.jit(
            lambda key: hutchinson_divergence(key, network, X, num_probes=4000, probe=probe)
        )
        runs = np.stack([one(jax.random.key(i)) for i in range(5)])
        mean, error = runs.mean(0), runs.std(0, ddof=1) / 5**0.5
        # Student's t at four degrees of freedom: 8.6 is the two-sided 0.1% quantile.
        assert np.all(np.abs(mean - exact_trace(X)) < 8.6 * error + 1e-12)


def test_one_probe_of_more_axes():
    """The trace of x -> 3 x over images of 2 x 4, by Rademacher probes without variance."""
    x = jnp.ones((2, 2, 4))
    found = hutchinson_divergence(jax.random.key(0), lambda x: 3 * x, x, probe="rademacher")
    np.testing.assert_allclose(found, 24.0)


@pytest.fixture(scope="module")
def gaussian():
    """A Gaussian sample with covariance C, and linear scores around the truth."""
    root = np.array([[1.0, 0.3], [0.0, 0.7]])
    covariance = root @ root.T
    x = np.random.default_rng(1).normal(size=(200_000, 2)) @ root.T
    return covariance, x


@pytest.mark.parametrize("factor", [0.5, 1.0, 1.7])
def test_hyvarinens_constant(gaussian, factor):
    """Implicit = explicit - E |s*|^2 / 2, with E |s*|^2 = tr C^-1 for a Gaussian."""
    covariance, x = gaussian
    precision = np.linalg.inv(covariance)
    with jax.enable_x64(True):

        def true(x):
            return -x @ precision

        def model(x):
            return -factor * x @ precision

        explicit = explicit_score_matching(model, true, x)
        implicit = implicit_score_matching(model, x)
        explicit, difference = np.asarray(explicit), np.asarray(explicit - implicit)
    error = difference.std() / len(x) ** 0.5 + 1e-12
    assert abs(difference.mean() - np.trace(precision) / 2) < 4 * error
    # The closed form of the explicit one.
    expected = (1 - factor) ** 2 * np.trace(precision) / 2
    np.testing.assert_allclose(np.mean(explicit), expected, rtol=0.02, atol=1e-12)


@pytest.mark.parametrize("variance_reduced", [True, False])
@pytest.mark.parametrize("probe", ["rademacher", "gaussian", "sphere"])
def test_sliced_averages_to_implicit(variance_reduced, probe):
    with jax.enable_x64(True):
        loss = jax.jit(
            lambda key: sliced_score_matching(
                key, network, X, num_probes=4000, probe=probe, variance_reduced=variance_reduced
            )
        )
        runs = np.stack([loss(jax.random.key(i)) for i in range(5)])
        expected = np.asarray(implicit_score_matching(network, X))
    error = runs.std(0, ddof=1) / 5**0.5
    assert np.all(np.abs(runs.mean(0) - expected) < 8.6 * error + 1e-12)


def test_variances_with_and_without_reduction():
    """At the score -x of a standard normal, by Gaussian probes, in closed form.

    Var(|x|^2 / 2 - |v|^2) = 2 d, and Var((v x)^2 / 2 - |v|^2) = 2 d + |x|^4 / 2 - 2 |x|^2: less
    than 2 d at the points with |x| < 2, more in the mean over data if d > 2.
    """
    x = jnp.asarray(X, jnp.float32)
    square = np.sum(X**2, 1)

    def variance(reduced):
        loss = jax.vmap(
            lambda key: sliced_score_matching(key, lambda x: -x, x, variance_reduced=reduced)
        )
        return np.var(loss(jax.random.split(jax.random.key(0), 40_000)), axis=0)

    np.testing.assert_allclose(variance(True), 6, rtol=0.05)
    np.testing.assert_allclose(variance(False), 6 + square**2 / 2 - 2 * square, rtol=0.1)


def test_sliced_by_hand():
    """One probe, its terms written out with numpy."""
    key = jax.random.key(3)
    with jax.enable_x64(True):
        v = np.asarray(jax.random.normal(key, (1, *X.shape), jnp.float64))[0]
        jacobians = np.stack([jax.jacobian(network)(row) for row in jnp.asarray(X)])
        score = np.asarray(network(X))
        plain = sliced_score_matching(key, network, X, variance_reduced=False)
    curvature = np.einsum("ni,nij,nj->n", v, jacobians, v)
    np.testing.assert_allclose(plain, curvature + np.sum(v * score, 1) ** 2 / 2, rtol=1e-10)


def test_gradients_of_the_linear_score_vanish_at_the_moments(gaussian):
    """Implicit score matching of s = -A x is least at A = C^-1 of the sample, in closed form."""
    _, x = gaussian
    x = x[:2000]
    optimum = np.linalg.inv(x.T @ x / len(x))
    with jax.enable_x64(True):
        loss = jax.grad(lambda a: jnp.mean(implicit_score_matching(lambda x: -x @ a, x)))
        np.testing.assert_allclose(loss(jnp.asarray(optimum)), 0, atol=1e-12)
        sliced = jax.grad(
            lambda a: jnp.mean(
                sliced_score_matching(jax.random.key(0), lambda x: -x @ a, x, num_probes=500)
            )
        )
        assert np.abs(sliced(jnp.asarray(optimum))).max() < 0.02
        assert np.abs(sliced(jnp.asarray(optimum + 0.2))).max() > 0.1


def energy(x):
    return jnp.sum(jnp.cosh(x), axis=1) + 0.3 * jnp.prod(x, axis=1)


def test_energy_score_is_minus_the_gradient():
    with jax.enable_x64(True):
        expected = -(np.sinh(X) + 0.3 * np.prod(X, 1, keepdims=True) / X)
        np.testing.assert_allclose(energy_score(energy, X), expected, rtol=1e-12)


def test_finite_differences_approach_the_sliced_objective_as_the_square_of_the_step():
    key = jax.random.key(0)
    with jax.enable_x64(True):
        sliced = sliced_score_matching(
            key,
            functools.partial(energy_score, energy),
            X,
            num_probes=3,
            probe="sphere",
            variance_reduced=False,
        )
        errors = [
            np.abs(finite_difference_score_matching(key, energy, X, step=h, num_probes=3) - sliced)
            for h in (0.1, 0.05, 0.025)
        ]
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.05)
    np.testing.assert_allclose(errors[1] / errors[2], 4, rtol=0.05)
