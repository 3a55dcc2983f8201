import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import lossbench
from lossbench.classification import (
    comp_sum_from_nll,
    comp_sum_gradient_weight,
    comp_sum_loss,
    comp_sum_phi,
    generalized_cross_entropy_loss,
    mean_absolute_error_loss,
    sum_exponential_loss,
)

TAUS = [0.0, 0.5, 1.0, 1.5, 2.0, 2.5]


@jax.jit
def value_gradient_weight(logits, labels, tau):
    gradient = jax.grad(lambda f: comp_sum_loss(f, labels, tau=tau).sum())(logits)
    weight = comp_sum_gradient_weight(logits, labels, tau=tau)
    return comp_sum_loss(logits, labels, tau=tau), gradient, weight


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    return 3 * rng.normal(size=(8, 5)), rng.integers(0, 5, 8)


def softmax(logits):
    p = np.exp(logits - logits.max(axis=1, keepdims=True))
    return p / p.sum(axis=1, keepdims=True)


def defined(logits, labels, tau):
    p = softmax(logits)[np.arange(len(labels)), labels]
    return -np.log(p) if tau == 1 else (p ** (tau - 1) - 1) / (1 - tau)


@pytest.mark.parametrize("tau", TAUS)
def test_value_and_gradient_are_the_definition(batch, tau):
    logits, labels = batch
    with jax.enable_x64(True):
        value, gradient, weight = value_gradient_weight(logits, labels, tau)
    p = softmax(logits)
    one_hot = np.eye(5)[labels]
    scale = np.sum(p * one_hot, axis=1) ** (tau - 1)
    np.testing.assert_allclose(value, defined(logits, labels, tau), rtol=1e-10)
    np.testing.assert_allclose(gradient, scale[:, None] * (p - one_hot), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(weight, scale, rtol=1e-10)


def test_members(batch):
    logits, labels = batch
    with jax.enable_x64(True):
        np.testing.assert_array_equal(
            comp_sum_loss(logits, labels),
            optax.losses.softmax_cross_entropy_with_integer_labels(jnp.asarray(logits), labels),
        )
        label_scores = np.take_along_axis(logits, labels[:, None], axis=1)
        np.testing.assert_allclose(
            sum_exponential_loss(logits, labels),
            np.exp(logits - label_scores).sum(axis=1) - 1,
            rtol=1e-10,
        )
        np.testing.assert_allclose(
            mean_absolute_error_loss(logits, labels),
            np.abs(np.eye(5)[labels] - softmax(logits)).sum(axis=1) / 2,
            rtol=1e-10,
        )
        np.testing.assert_allclose(
            generalized_cross_entropy_loss(logits, labels, q=0.3),
            (1 - np.exp(logits - label_scores).sum(axis=1) ** -0.3) / 0.3,
            rtol=1e-10,
        )


def test_tau_is_smooth_at_one():
    # nll^2 / 2 is the derivative by 1 - tau at tau = 1, nll^3 / 3 the second.
    nll = np.array([0.0, 1e-3, 0.7, 5.0])
    with jax.enable_x64(True):
        loss = jax.jit(lambda tau: comp_sum_from_nll(nll, tau=tau))
        np.testing.assert_allclose(loss(1.0), nll, rtol=1e-15)
        np.testing.assert_allclose(loss(1 + 1e-4), loss(1.0), atol=1e-4 * 13)
        np.testing.assert_allclose(jax.jacfwd(loss)(1.0), -(nll**2) / 2, rtol=1e-12)
        np.testing.assert_allclose(jax.jacfwd(jax.jacfwd(loss))(1.0), nll**3 / 3, rtol=1e-12)
        # Either side of the switch from the series: (1 - tau) nll = 1/4 at nll = 1/2.
        for tau in (0.5 - 1e-9, 0.5 + 1e-9):
            value = comp_sum_from_nll(jnp.array(0.5), tau=tau)
            np.testing.assert_allclose(value, np.expm1((1 - tau) / 2) / (1 - tau), rtol=1e-14)


def test_linear_beyond_the_largest_exponent():
    nll = jnp.array([59.0, 61.0, 100.0, 2e4])
    value, slope = jax.vmap(jax.value_and_grad(lambda x: comp_sum_from_nll(x, tau=0.5)))(nll)
    top = np.exp(30.0)
    expected = [np.expm1(29.5) / 0.5, *(np.expm1(30) / 0.5 + top * (nll[1:] - 60))]
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(slope, [np.exp(29.5), top, top, top], rtol=1e-5)


def test_phi_is_the_loss_of_the_summed_exponentials(batch):
    logits, labels = batch
    label_scores = np.take_along_axis(logits, labels[:, None], axis=1)
    u = np.exp(logits - label_scores).sum(axis=1) - 1
    with jax.enable_x64(True):
        phi = jax.jit(
            jax.vmap(jax.value_and_grad(lambda u, tau: comp_sum_phi(u, tau=tau)), in_axes=(0, None))
        )
        for tau in TAUS:
            value, slope = phi(u, tau)
            np.testing.assert_allclose(value, defined(logits, labels, tau), rtol=1e-9)
            np.testing.assert_allclose(slope, (1 + u) ** -tau, rtol=1e-9)


@pytest.mark.parametrize("tau", [1.25, 1.5, 2.0])
def test_sum_over_labels_is_nearly_constant(batch, tau):
    logits, _ = batch
    k = logits.shape[1]
    with jax.enable_x64(True):
        losses = [value_gradient_weight(logits, np.full(8, y), tau)[0] for y in range(k)]
    total = np.sum(losses, axis=0)
    low, high = (k - k ** (2 - tau)) / (tau - 1), (k - 1) / (tau - 1)
    assert np.all(total >= low - 1e-12)
    assert np.all(total <= high + 1e-12)


def test_values_are_checked():
    logits = jnp.zeros((2, 3))
    loss = lossbench.checked(comp_sum_loss)
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got 7"):
        loss(logits, jnp.array([1, 7]))
    with pytest.raises(ValueError, match=r"labels must lie in \[0, 3\), got -1"):
        loss(logits, jnp.array([-1, 0]))
    with pytest.raises(ValueError, match="tau must be at least 0, got -1"):
        loss(logits, jnp.array([1, 0]), tau=-1.0)
    assert loss(logits, jnp.array([1, 2])).shape == (2,)
    assert comp_sum_loss(jnp.zeros((0, 3)), jnp.zeros((0,), int)).shape == (0,)
