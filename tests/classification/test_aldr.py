from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import lossbench
from lossbench.classification import (
    AldrKlState,
    aldr_kl_init,
    aldr_kl_loss,
    aldr_kl_temperature,
    aldr_kl_update,
    ldr_kl_loss,
    score_gaps,
)

K = 6
PLAIN: dict[str, Any] = {"margin": 0.1, "normalize": None}
LOSS = jax.jit(aldr_kl_loss, static_argnames=("normalize", "num_starts", "num_iters"))
UPDATE = jax.jit(aldr_kl_update, static_argnames="normalize")


def phi(t, gaps, lambda0, alpha):
    """The inner objective, in numpy: temperatures (...,) against one row of gaps (k,)."""
    top = gaps.max()
    mean = np.mean(np.exp((gaps - top) / t[..., None]), axis=-1)
    stiffness = alpha * np.log(len(gaps)) / lambda0
    return top + t * np.log(mean) - stiffness / 2 * (t - lambda0) ** 2


def problems(n=40):
    rng = np.random.default_rng(0)
    scale = np.exp(rng.uniform(-3, 4, size=(n, 1)))
    return scale * rng.normal(size=(n, K)), rng.integers(0, K, n)


@pytest.mark.parametrize(("lambda0", "alpha"), [(10.0, 2.0), (1.0, 1.05), (0.1, 2.0), (3.0, 1.3)])
def test_value_is_the_maximum_over_a_fine_grid(lambda0, alpha):
    logits, labels = problems()
    grid = np.linspace(lambda0 * (1 - 1 / alpha), lambda0, 20001)
    with jax.enable_x64(True):
        gaps = np.asarray(score_gaps(logits, labels, margin=0.1))
        loss = LOSS(logits, labels, lambda0=lambda0, alpha=alpha, **PLAIN)
        temperature = aldr_kl_temperature(gaps, lambda0=lambda0, alpha=alpha)
        fixed = ldr_kl_loss(logits, labels, temperature=lambda0, **PLAIN)
        best = np.array([phi(grid, row, lambda0, alpha).max() for row in gaps])
        assert np.all(loss >= best - 1e-9)
        assert np.all(loss >= fixed - 1e-12)
        assert np.all((temperature >= grid[0] - 1e-12) & (temperature <= grid[-1] + 1e-12))
    np.testing.assert_allclose(loss, best, rtol=1e-6, atol=1e-7)


def test_joint_maximum_by_scipy():
    gaps, lambda0, alpha = np.array([0.0, 1.5, -0.3]), 0.8, 2.0
    stiffness = alpha * np.log(3) / lambda0

    def negative(v):
        p, t = v[:3], v[3]
        return t * np.sum(p * np.log(3 * p)) - p @ gaps + stiffness / 2 * (t - lambda0) ** 2

    found = scipy.optimize.minimize(
        negative,
        np.array([1 / 3, 1 / 3, 1 / 3, 0.6]),
        bounds=scipy.optimize.Bounds([1e-9] * 3 + [1e-3], [1, 1, 1, 5]),
        constraints=scipy.optimize.LinearConstraint(np.array([1, 1, 1, 0]), 1, 1),
        tol=1e-12,
    )
    with jax.enable_x64(True):
        temperature = aldr_kl_temperature(gaps[None], lambda0=lambda0, alpha=alpha)
        loss = LOSS(
            gaps[None], np.array([0]), lambda0=lambda0, alpha=alpha, margin=0.0, normalize=None
        )
    np.testing.assert_allclose(loss, [-found.fun], rtol=1e-9)
    np.testing.assert_allclose(temperature, found.x[3:], atol=1e-5)


def test_iteration_climbs_monotonically():
    logits, labels = problems()
    with jax.enable_x64(True):
        gaps = np.asarray(score_gaps(logits, labels, margin=0.1))
        path = [
            np.asarray(aldr_kl_temperature(gaps, lambda0=2.0, num_starts=1, num_iters=i))
            for i in range(5)
        ]
    np.testing.assert_array_equal(path[0], 2.0)
    assert np.all(np.diff(path, axis=0) <= 1e-12)
    values = [[phi(t, row, 2.0, 2.0) for t, row in zip(ts, gaps, strict=True)] for ts in path]
    assert np.all(np.diff(values, axis=0) >= -1e-10)


def test_gradients_are_those_of_the_maximum():
    logits, labels = problems(10)
    rng = np.random.default_rng(1)
    step, direction = 1e-5, rng.normal(size=logits.shape)
    with jax.enable_x64(True):

        @jax.jit
        def loss(logits, lambda0, alpha):
            return LOSS(logits, labels, lambda0=lambda0, alpha=alpha, num_iters=200).sum()

        at = (jnp.asarray(logits), 1.3, 1.7)
        by_logits, by_lambda0, by_alpha = jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*at)
        for gradient, moves in [
            (np.sum(by_logits * direction), (step * direction, 0, 0)),
            (by_lambda0, (0, step, 0)),
            (by_alpha, (0, 0, step)),
        ]:
            up = loss(*(a + m for a, m in zip(at, moves, strict=True)))
            down = loss(*(a - m for a, m in zip(at, moves, strict=True)))
            np.testing.assert_allclose(gradient, (up - down) / (2 * step), rtol=1e-6)


def test_stiff_limit_is_the_fixed_temperature():
    logits, labels = problems(10)
    with jax.enable_x64(True):
        np.testing.assert_allclose(
            LOSS(logits, labels, lambda0=2.0, alpha=1e6, **PLAIN),
            ldr_kl_loss(logits, labels, temperature=2.0, **PLAIN),
            atol=1e-5,
        )


def test_invariance_to_the_scale_of_the_logits():
    logits, labels = problems(10)
    with jax.enable_x64(True):
        np.testing.assert_allclose(LOSS(31 * logits, labels), LOSS(logits, labels), rtol=1e-12)


def running_by_hand(lambdas, logits, labels, ids, lambda0, alpha, margin):
    """The authors' ALDRLoss_V1, an example at a time."""
    lambdas, losses = lambdas.copy(), []
    for f, y, i in zip(logits, labels, ids, strict=True):
        f = f / np.mean(np.abs(f))
        p = np.exp(f / lambdas[i])
        p = p / p.sum() + 1e-5
        p /= p.sum()
        divergence = np.sum(p * np.log(K * p))
        lambdas[i] = lambda0 - lambda0 * divergence / (alpha * np.log(K))
        gaps = np.array([0 if j == y else f[j] - f[y] + margin for j in range(K)])
        losses.append(phi(np.array(lambdas[i]), gaps, lambda0, alpha))
    return losses, lambdas


def test_running_form_is_the_authors_step():
    rng = np.random.default_rng(3)
    expected = np.full(9, 0.5)
    with jax.enable_x64(True):
        state = AldrKlState(jnp.full(9, 0.5))
        for _ in range(3):
            logits, labels = rng.normal(size=(4, K)), rng.integers(0, K, 4)
            ids = rng.choice(9, 4, replace=False)
            losses, state = UPDATE(state, logits, labels, ids, lambda0=0.5, alpha=2.0, margin=0.2)
            by_hand, expected = running_by_hand(expected, logits, labels, ids, 0.5, 2.0, 0.2)
            exact = LOSS(logits, labels, lambda0=0.5, alpha=2.0, margin=0.2)
            np.testing.assert_allclose(losses, by_hand, rtol=1e-10)
            np.testing.assert_allclose(state.temperature, expected, rtol=1e-10)
            assert np.all(np.asarray(losses) <= np.asarray(exact) + 1e-9)


def test_running_form_repeated_finds_the_label_free_temperature():
    logits, labels = problems(5)
    with jax.enable_x64(True):
        state, index = AldrKlState(jnp.full(5, 1.0)), np.arange(5)
        for _ in range(60):
            _, state = UPDATE(
                state, logits, labels, index, lambda0=1.0, normalize=None, smoothing=0.0
            )
        exact = aldr_kl_temperature(logits, lambda0=1.0, num_starts=1, num_iters=60)
    np.testing.assert_allclose(state.temperature, exact, rtol=1e-10)


def test_state_of_padding_rows_is_left_alone_and_carries_no_gradient():
    state = aldr_kl_init(3, lambda0=2.0)
    assert state.temperature.dtype == jnp.float32
    logits, labels = jnp.array([[1.0, 2.0], [5.0, 0.0]]), jnp.array([0, 1])
    losses, after = UPDATE(state, logits, labels, jnp.array([1, 3]), lambda0=2.0)
    assert jnp.all(jnp.isfinite(losses))
    np.testing.assert_array_equal(after.temperature != 2.0, [False, True, False])

    def stored(logits):
        _, after = UPDATE(state, logits, labels, jnp.array([1, 2]), lambda0=2.0)
        return after.temperature.sum()

    np.testing.assert_array_equal(jax.grad(stored)(logits), 0)


def test_values_are_checked():
    loss = lossbench.checked(
        lambda alpha: aldr_kl_loss(jnp.zeros((1, 3)), jnp.array([0]), alpha=alpha)
    )
    with pytest.raises(ValueError, match="alpha must exceed 1, got 1"):
        loss(1.0)
    np.testing.assert_array_less(loss(1.5), 1)
