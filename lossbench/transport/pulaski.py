"""Objectives of probabilistic segmentation: one mask at a time, or all raters' masks as a set.

The networks are given as functions of one item: `encode_prior(image)` and
`encode_posterior(image, mask)` return the mean and log-variance (z,) of a latent Gaussian,
`decode(image, latent)` returns logits of the shape of a mask. What `decode` computes from the image
alone is computed once for all samples.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed
from lossbench.transport.set_distances import energy_set_loss

Gaussian = tuple[jax.Array, jax.Array]
Aux = dict[str, jax.Array]


def _clip(gaussian: tuple[Any, Any]) -> Gaussian:
    mean, log_variance = gaussian
    return widen(mean), jnp.clip(widen(log_variance), -10, 10)


def _gaussian_kl(q: Gaussian, p: Gaussian) -> jax.Array:
    """KL(q | p) between diagonal Gaussians, given by means and log-variances (..., z)."""
    (mean_q, log_q), (mean_p, log_p) = q, p
    # expm1(x) - x, x the difference of the log-variances, keeps its digits where q is near p.
    difference = log_q - log_p
    gap = jnp.square(mean_q - mean_p) * jnp.exp(-log_p)
    return jnp.sum(jnp.expm1(difference) - difference + gap, axis=-1) / 2


def _sample_logits(
    key: PRNGKey, decode: Callable[..., Any], images: AnyArray, latent: Gaussian, samples: int
) -> jax.Array:
    """Logits (b, samples, ...) at reparametrised draws of the latents (b, z)."""
    mean, log_variance = latent
    noise = jax.random.normal(key, (samples, *mean.shape), mean.dtype)
    draws = mean + jnp.exp(log_variance / 2) * noise
    over_samples = jax.vmap(decode, (None, 0))
    return widen(jax.vmap(over_samples, (0, 1))(images, draws))


def _latents(
    encode_prior: Callable[..., Any],
    encode_posterior: Callable[..., Any],
    images: AnyArray,
    masks: AnyArray,
    rater: AnyArray,
) -> tuple[Gaussian, Gaussian, jax.Array]:
    shown = jnp.asarray(masks)[jnp.arange(len(masks)), rater]
    prior = _clip(jax.vmap(encode_prior)(images))
    return prior, _clip(jax.vmap(encode_posterior)(images, shown)), shown


@typed
def pulaski_objective(
    key: PRNGKey,
    encode_prior: Callable[..., Any],
    encode_posterior: Callable[..., Any],
    decode: Callable[..., Any],
    images: Float[AnyArray, "b ..."],
    masks: Float[AnyArray, "b r *shape"],
    rater: Integer[AnyArray, " b"],
    *,
    samples: int | None = None,
    distance: Callable[..., Any] = energy_set_loss,
    distance_weight: Scalar = 1.0,
    kl_weight: Scalar = 1.0,
    use_prior: bool = False,
) -> tuple[Float[jax.Array, " b"], dict[str, Float[jax.Array, " b"]]]:
    """PULASki's objective of each item: a distance between the sets of samples and of masks.

    distance_weight D({s_i}, {y_j}) + kl_weight KL(q | p) with s_i = sigmoid(decode(x, z_i)),
    z_i ~ q = encode_posterior(x, y_rater) and p = encode_prior(x), diagonal Gaussians whose
    log-variances are clipped to [-10, 10]. As the distance sees all masks whichever was encoded, q
    gains nothing by the mask, and the gap between training (z ~ q) and use (z ~ p) closes;
    `use_prior` draws from p at once and leaves the posterior and the KL out.

    `images` (b, ...); `masks` (b, r, ...) in [0, 1]; `rater` (b,) in [0, r): the mask that the
    posterior is shown, to be drawn anew each step; the functions are described in the module's
    head. `samples` (static) defaults to r; `distance` maps (b, samples, ...) and (b, r, ...) to
    (b,): `energy_set_loss`, `sinkhorn_set_loss`, `hausdorff_divergence`, or the Frechet distance of
    features, repeated. The authors average the distances and SUM the KL over the batch: their
    kl_weight is b here. Returns (b,) and its two terms {"distance", "kl"}, unweighted. `samples`
    decodings an item.

    Chatterjee et al., Medical Image Analysis 2025, arXiv 2312.15686.

    >>> import jax, jax.numpy as jnp
    >>> standard = lambda *_: (jnp.zeros(2), jnp.zeros(2))
    >>> decode = lambda image, latent: image + latent[0]
    >>> images, masks = jnp.ones((1, 3)), jnp.ones((1, 4, 3))
    >>> values, terms = pulaski_objective(
    ...     jax.random.key(0), standard, standard, decode, images, masks, jnp.array([2])
    ... )
    >>> print(values.shape, terms["kl"])
    (1,) [0.]
    """
    if use_prior:
        latent = _clip(jax.vmap(encode_prior)(images))
        kl = jnp.zeros(len(images), latent[0].dtype)
    else:
        prior, latent, _ = _latents(encode_prior, encode_posterior, images, masks, rater)
        kl = _gaussian_kl(latent, prior)
    count = masks.shape[1] if samples is None else samples
    predictions = jax.nn.sigmoid(_sample_logits(key, decode, images, latent, count))
    terms = {"distance": distance(predictions, masks), "kl": kl}
    return distance_weight * terms["distance"] + kl_weight * kl, terms


def _cross_entropy(logits: jax.Array, masks: jax.Array) -> jax.Array:
    losses = jax.nn.softplus(logits) - masks * logits
    return jnp.sum(losses, axis=tuple(range(1, losses.ndim)))


@typed
def probabilistic_unet_elbo(
    key: PRNGKey,
    encode_prior: Callable[..., Any],
    encode_posterior: Callable[..., Any],
    decode: Callable[..., Any],
    images: Float[AnyArray, "b ..."],
    masks: Float[AnyArray, "b r *shape"],
    rater: Integer[AnyArray, " b"],
    *,
    reconstruction: Callable[..., Any] = _cross_entropy,
    kl_weight: Scalar = 10.0,
) -> tuple[Float[jax.Array, " b"], dict[str, Float[jax.Array, " b"]]]:
    """The probabilistic U-Net's objective of each item, one mask and one sample: the baseline.

    reconstruction(decode(x, z), y_rater) + kl_weight KL(q | p) with z ~ q = encode_posterior(x,
    y_rater) and p = encode_prior(x): the negative evidence lower bound for kl_weight = 1 and the
    default reconstruction, the cross-entropy summed over pixels.

    Arguments as those of `pulaski_objective`; `reconstruction` maps logits (b, ...) and masks
    (b, ...) to (b,). Returns (b,) and its two terms {"reconstruction", "kl"}, unweighted.

    Kohl et al., "A Probabilistic U-Net for Segmentation of Ambiguous Images", NeurIPS 2018,
    arXiv 1806.05034.

    >>> import jax, jax.numpy as jnp
    >>> standard = lambda *_: (jnp.zeros(2), jnp.zeros(2))
    >>> images, masks = jnp.zeros((1, 3)), jnp.ones((1, 4, 3))
    >>> values, _ = probabilistic_unet_elbo(
    ...     jax.random.key(0), standard, standard, lambda x, z: x, images, masks, jnp.array([2])
    ... )
    >>> print(values.round(3))  # 3 log 2
    [2.079]
    """
    prior, latent, shown = _latents(encode_prior, encode_posterior, images, masks, rater)
    logits = _sample_logits(key, decode, images, latent, 1)[:, 0]
    terms = {
        "reconstruction": reconstruction(logits, shown),
        "kl": _gaussian_kl(latent, prior),
    }
    return terms["reconstruction"] + kl_weight * terms["kl"], terms
