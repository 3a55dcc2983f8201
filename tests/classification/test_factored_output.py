from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.classification import (
    SphericalStatistics,
    factored_output_init,
    factored_output_refresh,
    factored_output_statistics,
    factored_output_step,
    factored_output_weights,
    spherical_softmax_from_statistics,
    spherical_squared_error_from_statistics,
    spherical_statistics,
    taylor_softmax_from_statistics,
    z_loss_from_statistics,
)

LOSSES = {
    "z": partial(z_loss_from_statistics, sharpness=1.5, location=0.5),
    "taylor": taylor_softmax_from_statistics,
    "spherical": spherical_softmax_from_statistics,
    "squared": spherical_squared_error_from_statistics,
    "arbitrary": lambda t, q, s, num_classes: (
        0.3 * jnp.tanh(t) - 0.1 * jnp.tanh(q / num_classes) + 0.2 * jnp.sin(s / num_classes)
    ),
}


def dense_step(weights, hidden, labels, loss, rate):
    """Gradient descent on all k x d weights, by autodiff through all outputs."""

    def total(weights, hidden):
        losses = loss(*spherical_statistics(hidden @ weights.T, labels), num_classes=len(weights))
        return jnp.sum(losses), losses

    (_, losses), grads = jax.value_and_grad(total, (0, 1), has_aux=True)(weights, hidden)
    return losses, grads[1], weights - rate * grads[0]


@pytest.mark.parametrize("name", LOSSES)
def test_a_thousand_steps_are_the_dense_ones(name):
    """To 1e-10 in float64, with repeated labels, refreshed every hundred steps."""
    loss, rate = LOSSES[name], 0.02
    rng = np.random.default_rng(0)
    k, d, m, steps = 23, 4, 5, 1000
    with jax.enable_x64(True):
        weights = jnp.asarray(rng.normal(size=(k, d)))
        hidden = jnp.asarray(rng.normal(size=(steps, m, d))) / 2
        labels = jnp.asarray(rng.integers(0, 6, (steps, m)))

        @jax.jit
        def both(weights, state, hidden, labels):
            def step(carry, batch):
                weights, state = carry
                losses, grad, weights = dense_step(weights, *batch, loss, rate)
                ours, our_grad, state = factored_output_step(
                    state, *batch, loss_from_statistics=loss, learning_rate=rate
                )
                error = jnp.maximum(abs(losses - ours).max(), abs(grad - our_grad).max())
                state = jax.lax.cond(
                    state.steps == 100, factored_output_refresh, lambda state: state, state
                )
                return (weights, state), error

            return jax.lax.scan(step, (weights, state), (hidden, labels))

        (weights, state), errors = both(weights, factored_output_init(weights), hidden, labels)
        assert errors.max() < 1e-10
        found = np.asarray(factored_output_weights(state))
        np.testing.assert_allclose(found, weights, atol=1e-10)
        np.testing.assert_allclose(state.gram, weights.T @ weights, atol=1e-9)
        np.testing.assert_allclose(state.row_sum, weights.sum(0), atol=1e-9)
        np.testing.assert_allclose(state.mixing @ state.unmixing.T, np.eye(d), atol=1e-9)


def test_statistics_without_the_outputs():
    rng = np.random.default_rng(1)
    weights, hidden = rng.normal(size=(7, 3)), rng.normal(size=(4, 3))
    labels = np.array([0, 6, 6, 2])
    with jax.enable_x64(True):
        found = factored_output_statistics(factored_output_init(weights), hidden, labels)
    outputs = hidden @ weights.T
    np.testing.assert_allclose(found.target, outputs[np.arange(4), labels], rtol=1e-12)
    np.testing.assert_allclose(found.sum_squares, np.sum(outputs**2, 1), rtol=1e-12)
    np.testing.assert_allclose(found.total, outputs.sum(1), rtol=1e-10)
    assert isinstance(found, SphericalStatistics)


def test_refreshing_changes_nothing_but_the_factors():
    rng = np.random.default_rng(2)
    state = factored_output_init(jnp.asarray(rng.normal(size=(8, 3)), jnp.float32))
    for _ in range(5):
        _, _, state = factored_output_step(
            state,
            jnp.asarray(rng.normal(size=(2, 3)), jnp.float32),
            jnp.array([1, 1]),
            loss_from_statistics=z_loss_from_statistics,
            learning_rate=0.1,
        )
    assert np.abs(state.mixing - np.eye(3)).max() > 1e-3
    fresh = factored_output_refresh(state)
    np.testing.assert_allclose(
        factored_output_weights(fresh), factored_output_weights(state), atol=1e-6
    )
    np.testing.assert_array_equal(fresh.mixing, np.eye(3))
    np.testing.assert_allclose(fresh.gram, state.gram, atol=1e-4)
    assert (int(state.steps), int(fresh.steps)) == (5, 0)


def test_the_state_may_be_donated():
    state = factored_output_init(jnp.ones((8, 3)))
    step = jax.jit(
        partial(
            factored_output_step, loss_from_statistics=z_loss_from_statistics, learning_rate=0.1
        ),
        donate_argnums=0,
    )
    for _ in range(2):
        _, _, state = step(state, jnp.ones((2, 3)), jnp.array([0, 5]))
    assert int(state.steps) == 2
