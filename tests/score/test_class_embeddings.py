"""Against Gaussian conditioning, brute force and scipy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from lossbench.score import (
    cosine_alpha_bar,
    noprop_posterior_coefficients,
    prototype_embeddings,
    radial_readout,
)


def test_cosine_schedule_is_the_formula():
    t = np.arange(11) / 10
    f = np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2
    expected = np.clip(1 - f / f[0], 1e-5, 1 - 1e-5)
    np.testing.assert_allclose(cosine_alpha_bar(10), expected, rtol=1e-5, atol=1e-7)
    assert np.all(np.diff(expected) > 0)


def test_coefficients_are_those_of_gaussian_conditioning():
    """q(z_t | z_(t-1), u) by adding the precisions of q(z_t | u) and of q(z_(t-1) | z_t)."""
    alpha_bar, u, z = np.array([1e-5, 0.1, 0.4, 0.9, 0.999]), 1.7, -0.6
    with jax.enable_x64(True):
        a, b, c = (np.asarray(each) for each in noprop_posterior_coefficients(alpha_bar))
    before, after = alpha_bar[:-1], alpha_bar[1:]
    alpha = before / after
    variance = 1 / (1 / (1 - after) + alpha / (1 - alpha))
    mean = variance * (np.sqrt(after) * u / (1 - after) + np.sqrt(alpha) * z / (1 - alpha))
    np.testing.assert_allclose(c, variance, rtol=1e-9)
    np.testing.assert_allclose(a * u + b * z, mean, rtol=1e-9)


def test_coefficients_keep_the_marginals_and_the_bound():
    alpha_bar = np.array([1e-5, 0.1, 0.4, 0.9, 0.999])
    with jax.enable_x64(True):
        a, b, c = (np.asarray(each) for each in noprop_posterior_coefficients(alpha_bar))
    before, after = alpha_bar[:-1], alpha_bar[1:]
    np.testing.assert_allclose(a + b * np.sqrt(before), np.sqrt(after), rtol=1e-9)
    np.testing.assert_allclose(b**2 * (1 - before) + c, 1 - after, rtol=1e-9)
    snr = alpha_bar / (1 - alpha_bar)
    np.testing.assert_allclose(a**2 / c, np.diff(snr), rtol=1e-9)


def test_radial_readout_is_bayes_rule():
    rng = np.random.default_rng(0)
    z, u = rng.normal(size=(5, 3)), rng.normal(size=(4, 3))
    density = stats.norm(0, 0.7).logpdf(z[:, None] - u).sum(-1)
    expected = density - np.log(np.exp(density).sum(1, keepdims=True))
    got = radial_readout(z.astype(np.float32), u.astype(np.float32), std=0.7)
    np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("chunk_size", [None, 7])
def test_prototypes_are_the_brute_force(chunk_size):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(40, 2, 3)).astype(np.float32)
    labels = rng.integers(0, 3, size=40).astype(np.int32)
    labels[:2] = 3, 3  # a pair: each is as near to the other
    labels[2] = 4  # alone; class 5 is empty
    got = prototype_embeddings(x, labels, num_classes=6, chunk_size=chunk_size)
    flat = x.reshape(40, -1)
    for label in range(3):
        own = flat[labels == label]
        medians = [
            np.median(np.linalg.norm(np.delete(own, i, 0) - own[i], axis=1))
            for i in range(len(own))
        ]
        np.testing.assert_array_equal(got[label], own[np.argmin(medians)])
    np.testing.assert_array_equal(got[3:5], flat[[0, 2]])
    np.testing.assert_array_equal(got[5], 0)


def test_prototypes_are_differentiable_as_a_choice_of_rows():
    x = jnp.array([[0.0], [1.0], [5.0]])
    labels = jnp.array([0, 0, 0])
    gradient = jax.grad(lambda x: prototype_embeddings(x, labels, num_classes=1).sum())(x)
    np.testing.assert_array_equal(gradient[:, 0], [0, 1, 0])
