import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy import integrate, stats

from lossbench.transport import (
    energy_set_loss,
    focal_tversky_loss,
    frechet_set_loss,
    probabilistic_unet_elbo,
    pulaski_objective,
)

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(5, 2, 3)).astype(np.float32)
MASKS = (rng.uniform(size=(5, 4, 2, 3)) > 0.5).astype(np.float32)
RATER = np.array([0, 3, 1, 1, 2])


def encode_prior(image):
    return jnp.array([image.mean()]), jnp.array([-0.5])


def encode_posterior(image, mask):
    return jnp.array([image.sum() * mask.mean()]), jnp.array([mask.sum() / 4])


def decode(image, latent):
    return 2 * image - 1 + 3 * latent[0]


NETWORKS = (encode_prior, encode_posterior, decode)


def numeric_kl(q, p):
    """KL between Gaussians by quadrature."""
    q, p = stats.norm(*q), stats.norm(*p)
    low, high = q.ppf(1e-14), q.ppf(1 - 1e-14)
    return integrate.quad(lambda z: q.pdf(z) * (q.logpdf(z) - p.logpdf(z)), low, high)[0]


@pytest.fixture(scope="module")
def kl():
    found = []
    for image, masks, rater in zip(IMAGES, MASKS, RATER, strict=True):
        shown = masks[rater]
        q = image.sum() * shown.mean(), np.exp(shown.sum() / 8)
        found.append(numeric_kl(q, (image.mean(), np.exp(-0.25))))
    return found


def test_terms_of_the_set_objective(kl):
    def inspect(predictions, masks):
        # One z an item and draw moves all of its logits by the same amount.
        assert predictions.shape == (5, 6, 2, 3)
        logits = jnp.log(predictions) - jnp.log1p(-predictions)
        shifts = logits - (2 * IMAGES - 1)[:, None]
        return jnp.mean(jnp.std(shifts, axis=(2, 3)), axis=1) + 10 * jnp.std(shifts, axis=1).min()

    values, terms = pulaski_objective(
        jax.random.key(0),
        *NETWORKS,
        IMAGES,
        MASKS,
        RATER,
        samples=6,
        distance=inspect,
        kl_weight=0.3,
        distance_weight=2.0,
    )
    np.testing.assert_allclose(terms["kl"], kl, rtol=1e-5)
    np.testing.assert_allclose(values, 2 * terms["distance"] + 0.3 * terms["kl"], rtol=1e-5)
    # Its first part is 0 to rounding, its second the spread of the draws.
    assert np.all(terms["distance"] > 0.5)


def test_samples_follow_the_posterior_or_the_prior():
    draws = {}
    for use_prior in (False, True):
        collected = []

        def distance(predictions, masks, collected=collected):
            logits = jnp.log(predictions) - jnp.log1p(-predictions)
            collected.append((logits - (2 * IMAGES - 1)[:, None])[:, :, 0, 0] / 3)
            return energy_set_loss(predictions, masks)

        with jax.enable_x64(True):
            pulaski_objective(
                jax.random.key(1),
                encode_prior,
                lambda image, mask: (jnp.array([mask.mean()]), jnp.array([-1.0])),
                decode,
                IMAGES.astype(np.float64),
                MASKS.astype(np.float64),
                RATER,
                samples=2000,
                distance=distance,
                use_prior=use_prior,
            )
        draws[use_prior] = np.asarray(collected[0])
    shown = MASKS[np.arange(5), RATER].mean((1, 2))
    np.testing.assert_allclose(draws[False].mean(1), shown, atol=5 * np.exp(-0.5) / 2000**0.5)
    np.testing.assert_allclose(draws[False].std(1), np.exp(-0.5), rtol=0.1)
    np.testing.assert_allclose(draws[True].mean(1), IMAGES.mean((1, 2)), atol=5 / 2000**0.5)
    np.testing.assert_allclose(draws[True].std(1), np.exp(-0.25), rtol=0.1)


def test_elbo_is_cross_entropy_and_kl(kl):
    def narrow(image, mask):
        mean, _ = encode_posterior(image, mask)
        return mean, jnp.array([-1e3])  # clipped to -10

    key = jax.random.key(0)
    values, terms = probabilistic_unet_elbo(
        key, encode_prior, narrow, decode, IMAGES, MASKS, RATER, kl_weight=0.5
    )
    shown = MASKS[np.arange(5), RATER]
    z = IMAGES.sum((1, 2)) * shown.mean((1, 2))
    logits = 2 * IMAGES - 1 + 3 * z[:, None, None]
    expected = optax.losses.sigmoid_binary_cross_entropy(jnp.asarray(logits), shown).sum((1, 2))
    np.testing.assert_allclose(terms["reconstruction"], expected, atol=18 * 5 * np.exp(-5))
    np.testing.assert_allclose(values, terms["reconstruction"] + 0.5 * terms["kl"], rtol=1e-6)
    _, wide = probabilistic_unet_elbo(key, *NETWORKS, IMAGES, MASKS, RATER)
    np.testing.assert_allclose(wide["kl"], kl, rtol=1e-5)


def test_other_reconstructions_and_distances():
    def tversky(logits, masks):
        return focal_tversky_loss(jax.nn.sigmoid(logits), masks)

    key, data = jax.random.key(0), (IMAGES, MASKS, RATER)
    _, terms = probabilistic_unet_elbo(key, *NETWORKS, *data, reconstruction=tversky)
    assert np.all((terms["reconstruction"] > 0) & (terms["reconstruction"] < 1))

    def frechet(predictions, masks):
        flat = (predictions.reshape(-1, 6), masks.reshape(-1, 6))
        return jnp.full(len(masks), frechet_set_loss(*flat))

    slope = jax.grad(
        lambda images: pulaski_objective(key, *NETWORKS, images, MASKS, RATER, distance=frechet)[
            0
        ].sum()
    )(IMAGES)
    assert np.all(np.isfinite(slope))
    assert np.any(slope != 0)
