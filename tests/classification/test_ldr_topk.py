from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

from lossbench.classification import (
    capped_entropic_weights,
    ldr_kl_loss,
    ldr_topk_kl_loss,
    score_gaps,
)

K = 6
PLAIN: dict[str, Any] = {"margin": 0.0, "normalize": None}
LOSS = jax.jit(ldr_topk_kl_loss, static_argnames=("k", "normalize"))
WEIGHTS = jax.jit(capped_entropic_weights, static_argnames="k")


def by_slsqp(gaps, k, temperature):
    def negative(p):
        p = np.maximum(p, 1e-300)
        return temperature * np.sum(p * np.log(K * p)) - p @ gaps

    def slope(p):
        return temperature * (np.log(K * np.maximum(p, 1e-300)) + 1) - gaps

    found = scipy.optimize.minimize(
        negative,
        np.full(K, 1 / K),
        jac=slope,
        method="SLSQP",
        bounds=scipy.optimize.Bounds(1e-12, 1 / k),
        constraints=scipy.optimize.LinearConstraint(np.ones(K), 1, 1),
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return -found.fun, found.x


def by_bisection(gaps, k, temperature):
    """p_j = min(1/k, c exp(a_j / t)) with log c found by bisection."""
    low, high = -1e8, 1e8
    for _ in range(300):
        middle = (low + high) / 2
        total = np.minimum(1 / k, np.exp(np.minimum(gaps / temperature + middle, 0))).sum()
        low, high = (middle, high) if total < 1 else (low, middle)
    return np.minimum(1 / k, np.exp(np.minimum(gaps / temperature + low, 0)))


@pytest.mark.parametrize("k", range(1, K + 1))
def test_value_and_weights_are_the_maximum(k):
    gaps = np.array([0.0, 2.1, 1.9, -0.5, 0.7, -2.0])
    with jax.enable_x64(True):
        for temperature in (0.3, 1.5):
            value, weights = by_slsqp(gaps, k, temperature)
            loss = LOSS(gaps[None], np.array([0]), k=k, temperature=temperature, **PLAIN)
            ours = WEIGHTS(gaps[None], k=k, temperature=temperature)[0]
            np.testing.assert_allclose(loss, [value], rtol=1e-6)
            np.testing.assert_allclose(ours, weights, atol=1e-4)
            np.testing.assert_allclose(ours, by_bisection(gaps, k, temperature), atol=1e-9)
            np.testing.assert_allclose(np.sum(ours), 1, rtol=1e-12)
            assert np.max(ours) <= 1 / k + 1e-12


@pytest.mark.parametrize("k", [1, 2, 4, K])
def test_gradients(k):
    rng = np.random.default_rng(k)
    logits, labels = 2 * rng.normal(size=(8, K)), rng.integers(0, K, 8)
    # Ties within the capped, at the cap and among the free.
    logits[0] = 1.0
    logits[1] = [3, 3, 3, 0, 0, 0]
    logits[2] = [9, 1, 1, 1, 1, 1]
    with jax.enable_x64(True):

        def loss(f, t):
            return LOSS(f, labels, k=k, temperature=t, margin=0.2, normalize=None)

        gradient = jax.jit(jax.grad(lambda f: loss(f, 0.7).sum()))(logits)
        by_temperature = jax.jit(jax.jacfwd(lambda t: loss(logits, t)))(0.7)
        gaps = np.asarray(score_gaps(logits, labels, margin=0.2))
    p = np.stack([by_bisection(row, k, 0.7) for row in gaps])
    np.testing.assert_allclose(gradient, p - np.eye(K)[labels], atol=1e-9)
    entropy = np.sum(np.where(p > 0, p * np.log(K * np.maximum(p, 1e-300)), 0), axis=1)
    np.testing.assert_allclose(by_temperature, -entropy, atol=1e-9)


def test_second_derivative():
    # Away from the cap the Hessian by the gaps is that of a softmax over the free classes.
    gaps = np.array([[5.0, 0.3, -0.2, 0.1]])
    with jax.enable_x64(True):
        hessian = jax.jit(
            jax.hessian(lambda f: LOSS(f[None], np.array([2]), k=2, temperature=0.5, **PLAIN)[0])
        )(gaps[0])
    share = np.exp(gaps[0, 1:] / 0.5)
    share /= share.sum()
    expected = np.zeros((4, 4))
    expected[1:, 1:] = 0.5 / 0.5 * (np.diag(share) - np.outer(share, share))
    np.testing.assert_allclose(hessian, expected, atol=1e-10)


def test_special_cases():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(7, K)), rng.integers(0, K, 7)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            LOSS(logits, labels, k=1, temperature=0.4),
            ldr_kl_loss(logits, labels, temperature=0.4),
            rtol=1e-12,
        )
        gaps = np.asarray(score_gaps(logits, labels, margin=0.0))
        np.testing.assert_allclose(
            LOSS(logits, labels, k=K, **PLAIN), gaps.mean(axis=1), rtol=1e-10
        )
        np.testing.assert_allclose(
            LOSS(logits, labels, k=3, temperature=1e-5, **PLAIN),
            np.sort(gaps, axis=1)[:, -3:].mean(axis=1),
            atol=1e-4,
        )


@pytest.mark.parametrize("k", [1, 2, 5, K])
def test_extreme_gaps_in_float32(k):
    rows = [[1e4, -1e4, 0, 0, 5, 6], [0] * 6, [1e4] * 6, [1e4, 1e4, -1e4, -1e4, -1e4, -1e4]]
    logits, labels = np.array(rows, np.float32), np.array([1, 0, 2, 3])
    gaps = logits - logits[np.arange(4), labels][:, None]

    @jax.jit
    def everything(t):
        def loss(f):
            return LOSS(f, labels, k=k, temperature=t, **PLAIN)

        weights = WEIGHTS(gaps, k=k, temperature=t)
        return weights, loss(logits), jax.grad(lambda f: loss(f).sum())(logits)

    for temperature in (1e-3, 1.0, 1e3):
        weights, value, gradient = everything(temperature)
        np.testing.assert_allclose(weights.sum(axis=1), 1, rtol=1e-5)
        np.testing.assert_allclose(gradient, weights - np.eye(K)[labels], atol=1e-6)
        for row, ours, loss in zip(gaps.astype(float), weights, value, strict=True):
            exact = by_bisection(row, k, temperature)
            entropy = np.sum(exact * np.log(K * np.maximum(exact, 1e-300)))
            np.testing.assert_allclose(ours, exact, atol=1e-4)
            np.testing.assert_allclose(
                loss, exact @ row - temperature * entropy, rtol=1e-4, atol=1e-6
            )


def test_k_out_of_range():
    for k in (0, K + 1):
        with pytest.raises(ValueError, match=rf"k must lie in \[1, {K}\], got {k}"):
            LOSS(jnp.zeros((2, K)), jnp.zeros(2, int), k=k)
