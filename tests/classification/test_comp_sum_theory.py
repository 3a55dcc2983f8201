import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

import lossbench
from lossbench.classification import (
    comp_sum_conditional_minimizer,
    comp_sum_conditional_minimum,
    comp_sum_conditional_risk,
    comp_sum_loss,
    h_consistency_bound,
    h_consistency_bound_closed,
    h_consistency_transform,
    minimizability_gap,
    minimizability_gap_bound,
)

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]
RISK = jax.jit(comp_sum_conditional_risk)
MINIMUM = jax.jit(comp_sum_conditional_minimum)
TRANSFORM = jax.jit(h_consistency_transform)


def transform(b, tau, n):
    """T as the paper writes it, case by case."""
    if tau == 1:
        return (1 + b) / 2 * np.log1p(b) + (1 - b) / 2 * np.log1p(-b)
    if tau >= 2:
        return b / ((tau - 1) * n ** (tau - 1))
    r = 1 / (2 - tau)
    g = (((1 + b) ** r + (1 - b) ** r) / 2) ** (1 / r)
    if tau < 1:
        return 2 ** (1 - tau) * (1 - g) / (1 - tau)
    return (g - 1) / ((tau - 1) * n ** (tau - 1))


@pytest.mark.parametrize("tau", TAUS)
def test_risk_is_the_expected_loss(tau):
    rng = np.random.default_rng(1)
    logits, probs = rng.normal(size=(6, 4)), rng.dirichlet(np.ones(4), 6)
    with jax.enable_x64(True):
        risk = RISK(logits, probs, tau=tau)
        losses = [comp_sum_loss(logits, np.full(6, y), tau=tau) for y in range(4)]
    np.testing.assert_allclose(risk, np.sum(probs * np.stack(losses, axis=1), axis=1), rtol=1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5])
def test_minimum_is_what_scipy_finds(tau):
    probs = np.random.default_rng(2).dirichlet(np.ones(4), 1)
    with jax.enable_x64(True):
        objective = jax.jit(jax.value_and_grad(lambda f: RISK(f[None], probs, tau=tau)[0]))

        def value(f: np.ndarray) -> float:
            return float(objective(f)[0])

        def slope(f: np.ndarray) -> np.ndarray:
            return np.asarray(objective(f)[1])

        found = scipy.optimize.minimize(value, np.zeros(4), jac=slope, tol=1e-12)
        minimum = MINIMUM(probs, tau=tau)
        minimizer = comp_sum_conditional_minimizer(probs, tau=tau)
    sharpened = probs ** (1 / (2 - tau))
    np.testing.assert_allclose(minimum[0], found.fun, rtol=1e-9)
    np.testing.assert_allclose(minimizer, sharpened / sharpened.sum(), rtol=1e-12)
    best = np.exp(found.x) / np.exp(found.x).sum()
    np.testing.assert_allclose(minimizer[0], best, atol=1e-5)


def test_minimum_in_closed_form():
    probs = np.random.default_rng(3).dirichlet(np.ones(5), 7)
    with jax.enable_x64(True):
        minimum = MINIMUM
        np.testing.assert_allclose(
            minimum(probs, tau=1.0), scipy.stats.entropy(probs, axis=1), rtol=1e-12
        )
        for tau in (0.0, 0.5, 0.99, 1.01, 1.9):
            power = np.sum(probs ** (1 / (2 - tau)), axis=1) ** (2 - tau)
            np.testing.assert_allclose(minimum(probs, tau=tau), (power - 1) / (1 - tau), rtol=1e-10)
        for tau in (2.0, 3.0):
            np.testing.assert_allclose(
                minimum(probs, tau=tau), (1 - probs.max(axis=1)) / (tau - 1), rtol=1e-12
            )
            np.testing.assert_array_equal(
                comp_sum_conditional_minimizer(probs, tau=tau), np.eye(5)[probs.argmax(axis=1)]
            )
        # Continuous where the form changes.
        np.testing.assert_allclose(minimum(probs, tau=2 - 1e-6), minimum(probs, tau=2.0), rtol=1e-5)
        # The Hessian is that of the entropy, -1/p on the diagonal, along the simplex.
        direction = np.array([1.0, -1.0, 0.0, 0.0, 0.0])
        curvature = jax.grad(
            lambda t: jax.grad(lambda s: minimum(probs[:1] + s * direction, tau=1.0)[0])(t)
        )(0.0)
        np.testing.assert_allclose(curvature, -np.sum(direction**2 / probs[0]), rtol=1e-8)


def test_impossible_classes_are_finite():
    probs = jnp.array([[0.0, 1.0, 0.0], [0.0, 0.5, 0.5]])
    minimum = jax.jit(jax.value_and_grad(lambda p, tau: MINIMUM(p, tau=tau).sum()))
    for tau in TAUS:
        value, gradient = minimum(probs, tau)
        assert jnp.isfinite(value)
        assert jnp.all(jnp.isfinite(gradient))
    np.testing.assert_allclose(MINIMUM(probs, tau=1.0), [0, np.log(2)], rtol=1e-6)


@pytest.mark.parametrize("tau", [0.0, 0.4, 1.0, 1.3, 1.9, 2.0, 2.5])
def test_transform_and_its_inverse(tau):
    beta = np.linspace(0.01, 0.99, 15)
    with jax.enable_x64(True):
        value = TRANSFORM(beta, tau=tau, num_classes=7)
        np.testing.assert_allclose(value, transform(beta, tau, 7), rtol=1e-10)
        bound = h_consistency_bound(value, tau=tau, num_classes=7)
        np.testing.assert_allclose(bound, beta, rtol=1e-12)
        closed = h_consistency_bound_closed(value, tau=tau, num_classes=7)
        assert np.all(closed >= bound - 1e-12)
        ends = TRANSFORM(jnp.array([0.0, 1.0]), tau=tau, num_classes=7)
        np.testing.assert_allclose(ends, [0, transform(1 - 1e-15, tau, 7)], atol=1e-7)
        beyond = h_consistency_bound(jnp.array([0.0, 9.0]), tau=tau, num_classes=7)
        np.testing.assert_array_equal(beyond, [0, 1])
        assert np.all(np.diff(value, 2) >= -1e-14)


@pytest.mark.parametrize("tau", [0.0, 1.0, 1.5, 2.5])
def test_bound_has_the_derivatives_of_the_inverse(tau):
    step = 1e-6
    with jax.enable_x64(True):
        regret = transform(np.array([0.2, 0.7]), tau, 3)

        def bound(t, tau):
            return h_consistency_bound(t, tau=tau, num_classes=3)

        by_regret = jax.grad(lambda t: bound(t, tau).sum())(regret)
        by_tau = jax.jacfwd(lambda tau: bound(regret, tau))(tau)
        numeric = (bound(regret + step, tau) - bound(regret - step, tau)) / (2 * step)
        np.testing.assert_allclose(by_regret, numeric, rtol=1e-5)
        if tau not in (0.0, 1.0):  # The factor 2^(1 - tau) gives way to n^(1 - tau) at 1.
            numeric = (bound(regret, tau + step) - bound(regret, tau - step)) / (2 * step)
            np.testing.assert_allclose(by_tau, numeric, rtol=1e-5)
        gradient = jax.grad(lambda t: bound(t, tau).sum())(jnp.array([0.0, 50.0]))
        np.testing.assert_array_equal(gradient, [0, 0])


@pytest.mark.parametrize("tau", [0.0, 0.999, 1.0, 1.3, 1.9])
def test_float32_resolves_small_regrets(tau):
    # T(b) = m^(1 - tau) b^2 / (2 (2 - tau)) (1 + O(b^2 / (2 - tau)^2)).
    beta = np.array([1e-15, 1e-8, 1e-6, 1e-5])
    leading = (2 if tau < 1 else 5) ** (1 - tau) / (2 * (2 - tau))
    small = TRANSFORM(beta.astype(np.float32), tau=tau, num_classes=5)
    np.testing.assert_allclose(small, leading * beta**2, rtol=2e-6)
    regret = np.array([1e-30, 1e-16, 1e-10], np.float32)
    bound, slope = jax.vmap(
        jax.value_and_grad(lambda t: h_consistency_bound(t, tau=tau, num_classes=5))
    )(regret)
    np.testing.assert_allclose(bound, np.sqrt(regret / leading), rtol=1e-5)
    np.testing.assert_allclose(slope, bound / (2 * regret), rtol=1e-5)
    middle = np.linspace(0.01, 0.9, 20)
    exact = transform(middle, tau, 5)
    if tau not in (0.999, 1.0):  # The paper's form cancels near tau = 1, ours must not.
        np.testing.assert_allclose(
            TRANSFORM(middle.astype(np.float32), tau=tau, num_classes=5), exact, rtol=1e-5
        )


def test_transform_at_one():
    top = TRANSFORM(jnp.array(1.0), tau=0.0, num_classes=2)
    np.testing.assert_allclose(top, 1, rtol=1e-6)


def test_binary_cross_entropy_case():
    beta = np.linspace(0, 0.999, 9)
    p = (1 + beta) / 2
    with jax.enable_x64(True):
        value = TRANSFORM(beta, tau=1.0, num_classes=2)
    entropy = scipy.stats.entropy(np.stack([p, 1 - p]), axis=0)
    np.testing.assert_allclose(value, np.log(2) - entropy, atol=1e-14)


@pytest.mark.parametrize("num_classes", [2, 3, 10])
def test_theorem(num_classes):
    rng = np.random.default_rng(num_classes)
    probs = rng.dirichlet(0.7 * np.ones(num_classes), 2000)
    logits = np.log(rng.dirichlet(0.7 * np.ones(num_classes), 2000))
    best = probs.max(axis=1)
    beta = best - probs[np.arange(2000), logits.argmax(axis=1)]
    with jax.enable_x64(True):
        for tau in TAUS:
            excess = RISK(logits, probs, tau=tau) - MINIMUM(probs, tau=tau)
            cost = TRANSFORM(beta, tau=tau, num_classes=num_classes)
            assert np.all(cost <= excess + 1e-12)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 1.5, 2.0])
def test_theorem_is_tight_for_two_classes(tau):
    beta = np.linspace(0.05, 0.95, 7)
    probs = np.stack([(1 - beta) / 2, (1 + beta) / 2], axis=1)
    with jax.enable_x64(True):
        tied = RISK(np.zeros((7, 2)), probs, tau=tau)
        excess = tied - MINIMUM(probs, tau=tau)
        cost = TRANSFORM(beta, tau=tau, num_classes=2)
    np.testing.assert_allclose(cost, excess, rtol=1e-9)


def test_gaps():
    # The class of constant scores: its best risk is the conditional minimum of the mean posterior.
    probs = np.array([[0.9, 0.1], [0.3, 0.7], [0.5, 0.5]])
    weights = np.array([0.5, 0.3, 0.2])
    mean = weights @ probs

    def least(p, tau):
        if tau == 1:
            return scipy.stats.entropy(p)
        return (np.sum(p ** (1 / (2 - tau))) ** (2 - tau) - 1) / (1 - tau)

    with jax.enable_x64(True):
        for tau in (0.0, 1.0, 1.5):
            gap = minimizability_gap(least(mean, tau), probs, weights, tau=tau)
            expected = least(mean, tau) - sum(
                w * least(p, tau) for w, p in zip(weights, probs, strict=True)
            )
            np.testing.assert_allclose(gap, expected, rtol=1e-9)
            bound = minimizability_gap_bound(least(mean, 0.0), probs, weights, tau=tau)
            assert 0 < gap <= bound + 1e-12
            if tau == 0:
                np.testing.assert_allclose(bound, gap, rtol=1e-9)


def test_values_are_checked():
    with pytest.raises(ValueError, match="probs must be non-negative and sum to 1"):
        lossbench.checked(comp_sum_conditional_minimum)(jnp.array([[0.7, 0.7]]), tau=1.0)
    with pytest.raises(ValueError, match=r"beta must lie in \[0, 1\]"):
        lossbench.checked(h_consistency_transform)(jnp.array([1.5]), tau=1.0, num_classes=2)
