import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lossbench.score import (
    GaussianMixture,
    conservativity_gap,
    contractive_loss,
    denoising_autoencoder_loss,
    denoising_score_matching,
    energy_difference,
    implicit_score_matching,
    optimal_reconstruction,
    path_integral_metropolis,
    reconstruction_contractive_loss,
    reconstruction_score,
)

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 3))
W1, W2 = rng.normal(size=(3, 5)), rng.normal(size=(5, 3))
MIXTURE_ARGS = np.array([0.4, 0.6]), np.array([[-1.0, 0.0], [1.0, 0.5]]), np.array([0.2, 0.3])


def encode(x):
    return jnp.tanh(x @ W1)


def reconstruct(x):
    return encode(x) @ W2


def jacobians(fn):
    return np.stack([jax.jacobian(fn)(row) for row in jnp.asarray(X)])


def test_denoising_loss_is_score_matching_of_its_score():
    """|r(x + sigma e) - x|^2 = 2 sigma^2 times the denoising loss of (r - x) / sigma^2."""
    sigma = 0.3
    key = jax.random.key(0)
    with jax.enable_x64(True):
        matching = denoising_score_matching(
            key, functools.partial(reconstruction_score, reconstruct, sigma=sigma), X, noise=sigma
        )
        noise = jax.random.normal(jax.random.split(key)[1], X.shape, jnp.float64)
        error = reconstruct(X + sigma * noise) - X
        np.testing.assert_allclose(np.sum(np.square(error), 1), 2 * sigma**2 * matching, rtol=1e-10)
        # The loss itself on its own draws, averaged over two of them.
        draws = jax.random.normal(key, (2, *X.shape), jnp.float64)
        found = denoising_autoencoder_loss(key, reconstruct, X, sigma=sigma, num_noise=2)
        expected = [np.sum((reconstruct(X + sigma * e) - X) ** 2, 1) for e in draws]
    np.testing.assert_allclose(found, np.mean(expected, 0), rtol=1e-10)


def test_the_exact_minimiser_of_a_gaussian():
    """Normal data: the best linear reconstruction is C (C + sigma^2 I)^-1."""
    covariance, sigma = np.array([[1.0, 0.4], [0.4, 0.5]]), 0.6
    x = rng.normal(size=(200_000, 2)) @ np.linalg.cholesky(covariance).T
    best = covariance @ np.linalg.inv(covariance + sigma**2 * np.eye(2))

    @jax.jit
    def gradient(a, key):
        return jax.grad(
            lambda a: jnp.mean(denoising_autoencoder_loss(key, lambda x: x @ a, x, sigma=sigma))
        )(a)

    assert np.abs(gradient(jnp.asarray(best), jax.random.key(0))).max() < 0.02
    assert np.abs(gradient(jnp.asarray(best + 0.1), jax.random.key(0))).max() > 0.1


def test_contractive_losses_by_jacobians():
    with jax.enable_x64(True):
        whole = np.sum(jacobians(reconstruct) ** 2, (1, 2))
        encoder = np.sum(jacobians(encode) ** 2, (1, 2))
        error = np.sum(np.square(reconstruct(X) - X), 1)
        np.testing.assert_allclose(
            reconstruction_contractive_loss(reconstruct, X, sigma=0.7),
            error + 0.49 * whole,
            rtol=1e-10,
        )
        np.testing.assert_allclose(
            contractive_loss(encode, lambda h: h @ W2, X, penalty=0.2),
            error + 0.2 * encoder,
            rtol=1e-10,
        )
        estimate = reconstruction_contractive_loss(
            reconstruct, X, sigma=0.7, key=jax.random.key(0), num_probes=20_000
        )
    np.testing.assert_allclose(estimate, error + 0.49 * whole, rtol=0.05)


def test_contraction_is_score_matching_with_a_penalty():
    """sigma^2 d + 2 sigma^4 (|u|^2 / 2 + div u) + sigma^6 |du/dx|_F^2 for u = (r - x) / sigma^2."""
    sigma = 0.5
    score = functools.partial(reconstruction_score, reconstruct, sigma=sigma)
    with jax.enable_x64(True):
        found = reconstruction_contractive_loss(reconstruct, X, sigma=sigma)
        spread = np.sum((jacobians(reconstruct) - np.eye(3)) ** 2, (1, 2)) / sigma**4
        implicit = np.asarray(implicit_score_matching(score, X))
    expected = 3 * sigma**2 + 2 * sigma**4 * implicit + sigma**6 * spread
    np.testing.assert_allclose(found, expected, rtol=1e-10)


@pytest.mark.parametrize("chunk_size", [None, 4])
def test_optimal_reconstruction_is_a_mixture_of_points_denoised(chunk_size):
    data = rng.normal(size=(11, 3))
    with jax.enable_x64(True):
        points = GaussianMixture.of(np.ones(11), data, np.zeros(11))
        found = optimal_reconstruction(data, X, sigma=0.4, chunk_size=chunk_size)
        np.testing.assert_allclose(found, points.denoised(X, std=0.4), rtol=1e-9)


def test_energy_differences_of_a_mixture():
    start, end = X[:, :2], X[:, :2] + rng.normal(size=(6, 2)) * 0.5
    with jax.enable_x64(True):
        mixture = GaussianMixture.of(*MIXTURE_ARGS)
        found = energy_difference(mixture.score, start, end, num_points=16)
        expected = mixture.log_density(start) - mixture.log_density(end)
        back = energy_difference(mixture.score, end, start, num_points=16)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    np.testing.assert_allclose(found, -back, atol=1e-12)


def test_the_chain_with_an_exact_score_is_plain_metropolis():
    """The same proposals and uniforms, accepted by the density itself."""
    mixture = GaussianMixture.of(*MIXTURE_ARGS)
    key = jax.random.key(0)
    x = start = jnp.asarray(rng.normal(size=(50, 2)), jnp.float32)
    accepted = 0
    for step_key in jax.random.split(key, 20):
        noise_key, accept_key = jax.random.split(step_key)
        y = x + 0.5 * jax.random.normal(noise_key, x.shape)
        rise = mixture.log_density(y) - mixture.log_density(x)
        accept = jnp.log(jax.random.uniform(accept_key, (50,))) < rise
        x, accepted = jnp.where(accept[:, None], y, x), accepted + accept
    found, rate = path_integral_metropolis(
        key, mixture.score, start, proposal_std=0.5, num_steps=20, num_points=16
    )
    np.testing.assert_allclose(found, x, atol=1e-5)
    np.testing.assert_allclose(rate, accepted / 20, rtol=1e-5)


def test_conservativity():
    with jax.enable_x64(True):
        jacobian = jacobians(reconstruct)
        expected = np.sum((jacobian - jacobian.transpose(0, 2, 1)) ** 2, (1, 2))
        np.testing.assert_allclose(conservativity_gap(reconstruct, X), expected, rtol=1e-10)
        estimate = conservativity_gap(reconstruct, X, key=jax.random.key(0), num_probes=20_000)
        np.testing.assert_allclose(estimate, expected, rtol=0.05)
        mixture = GaussianMixture.of(*MIXTURE_ARGS)
        np.testing.assert_allclose(conservativity_gap(mixture.score, X[:, :2]), 0, atol=1e-20)
