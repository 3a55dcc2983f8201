import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.classification import (
    adv_comp_sum_objective,
    adversarial_comp_sum_margin_loss,
    comp_sum_loss,
    comp_sum_phi,
    drift_attack,
    margin_drift,
    smooth_adversarial_comp_sum_loss,
)

RNG = np.random.default_rng(0)
N, D, K = 6, 4, 3
W = RNG.normal(size=(D, K)).astype(np.float32)
X = RNG.normal(size=(N, D)).astype(np.float32)
LABELS = RNG.integers(0, K, N)


def linear(x):
    return x @ W


def test_margin_drift_is_the_norm_of_the_change():
    scores, moved = np.random.default_rng(1).normal(size=(2, N, K))
    with jax.enable_x64(True):
        drift, gradient = jax.value_and_grad(
            lambda moved: margin_drift(scores, moved, LABELS).sum()
        )(moved)
        nothing = jax.grad(lambda moved: margin_drift(scores, moved, LABELS).sum())(scores)
    expected = np.float64(0)
    for before, after, y in zip(scores, moved, LABELS, strict=True):
        others = [k for k in range(K) if k != y]
        change = [(after[y] - after[k]) - (before[y] - before[k]) for k in others]
        expected += np.linalg.norm(change)
    np.testing.assert_allclose(drift, expected, rtol=1e-12)
    np.testing.assert_allclose(np.asarray(gradient).sum(axis=1), 0, atol=1e-12)
    np.testing.assert_array_equal(nothing, 0)


def test_without_movement_only_the_clean_loss_is_left():
    scores = linear(X)
    np.testing.assert_allclose(
        smooth_adversarial_comp_sum_loss(scores, scores, LABELS, tau=1.5, rho=2.0, nu=3.0),
        comp_sum_loss(scores / 2, LABELS, tau=1.5),
        rtol=1e-6,
    )
    objective = adv_comp_sum_objective(
        jax.random.key(0), linear, X, LABELS, epsilon=0.0, tau=0.5, rho=2.0
    )
    np.testing.assert_allclose(objective, comp_sum_loss(scores / 2, LABELS, tau=0.5), rtol=1e-5)


def test_margin_loss_by_hand():
    scores = np.array([[1.0, 0.5, 3.0], [0.0, -5.0, 0.25]])
    # Ramps at rho 2: (1 - 0.25) + 1, and 0 + 1 - (-0.25 / 2) cut at 1.
    u = np.array([0.75 + 1, 0 + 1])
    with jax.enable_x64(True):
        loss = adversarial_comp_sum_margin_loss(scores, np.array([0, 0]), tau=2.0, rho=2.0)
    np.testing.assert_allclose(loss, 1 - 1 / (1 + u), rtol=1e-12)


@pytest.mark.parametrize(("tau", "rho"), [(0.0, 1.0), (1.0, 0.5), (1.5, 2.0)])
def test_chain_of_bounds(tau, rho):
    """Phi(1) [some x' errs] <= sup margin loss <= smooth loss at the maximal drift."""
    rng = np.random.default_rng(2)
    inner, outer = rng.normal(size=(2, 32, K))
    hidden = rng.normal(size=(D, 32))

    def scores(x):
        return np.tanh(x @ hidden) @ (inner / 4) + np.tanh(x @ hidden + 1) @ (outer / 4)

    labels = scores(X).argmax(axis=1)
    labels[:2] = (labels[:2] + 1) % K
    points = X[None] + rng.uniform(-0.1, 0.1, size=(400, N, D))
    with jax.enable_x64(True):
        clean = np.broadcast_to(scores(X), (400, N, K))
        moved = scores(points)
        margin = jax.jit(
            jax.vmap(lambda s: adversarial_comp_sum_margin_loss(s, labels, tau=tau, rho=rho))
        )(moved).max(axis=0)
        smooth = jax.jit(
            jax.vmap(
                lambda s, m: smooth_adversarial_comp_sum_loss(
                    s, m, labels, tau=tau, rho=rho, nu=np.sqrt(K - 1) / rho
                )
            )
        )(clean, moved).max(axis=0)
        phi = comp_sum_phi(jnp.array(1.0), tau=tau)
    errs = np.any(moved.argmax(axis=2) != labels, axis=0)
    assert errs.any()
    assert not errs.all()
    assert np.all(np.asarray(phi) * errs <= np.asarray(margin) + 1e-12)
    assert np.all(np.asarray(margin) <= np.asarray(smooth) + 1e-12)


def largest_drifts(epsilon, norm):
    for y in LABELS:
        rows = np.stack([W[:, y] - W[:, k] for k in range(K) if k != y])
        if norm == "l2":
            yield epsilon * np.linalg.svd(rows, compute_uv=False)[0]
        else:
            corners = itertools.product([-epsilon, epsilon], repeat=D)
            yield max(np.linalg.norm(rows @ np.array(c)) for c in corners)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_drift_attack_finds_the_maximum_of_a_linear_score(norm):
    moved = drift_attack(
        jax.random.key(1),
        linear,
        X,
        LABELS,
        epsilon=0.5,
        norm=norm,
        num_steps=200,
        num_restarts=8,
        step_size=0.1,
    )
    drift = margin_drift(linear(X), linear(moved), LABELS)
    np.testing.assert_allclose(drift, list(largest_drifts(0.5, norm)), rtol=1e-4)


def test_objective_differentiates_through_both_scores_at_a_fixed_attack():
    key, w = jax.random.key(2), jnp.asarray(W)

    def objective(w):
        return adv_comp_sum_objective(key, lambda x: x @ w, X, LABELS, epsilon=0.3, nu=2.0).sum()

    moved = drift_attack(key, linear, X, LABELS, epsilon=0.3)

    def fixed(w):
        return smooth_adversarial_comp_sum_loss(X @ w, moved @ w, LABELS, nu=2.0).sum()

    value, gradient = jax.jit(jax.value_and_grad(objective))(w)
    expected_value, expected = jax.jit(jax.value_and_grad(fixed))(w)
    np.testing.assert_allclose(value, expected_value, rtol=1e-5)
    np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-5)
