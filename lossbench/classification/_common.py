"""What the modules of the classification family share."""

import jax
import jax.numpy as jnp
import optax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Scalar, check

BinaryLogits = Float[AnyArray, " n"] | Float[AnyArray, "n 2"]
"""Scores of two classes: one number an example for class 1 against 0, or one for either class."""

# Powers of 1/p are continued linearly beyond e^30: 1e13 can still be squared and summed in float32.
_LARGEST_EXPONENT = 30.0


def check_labels(labels: AnyArray, num_classes: int) -> None:
    """Report a label outside [0, num_classes)."""
    labels = jnp.asarray(labels)

    def valid() -> jax.Array:
        return (labels >= 0) & (labels < num_classes)

    def wrong_label() -> jax.Array:
        lowest = jnp.iinfo(labels.dtype).min
        return jnp.max(jnp.where(valid(), lowest, labels), initial=lowest)

    check(valid, f"labels must lie in [0, {num_classes}), got {{label}}", label=wrong_label)


def check_distributions(probs: jax.Array, name: str) -> None:
    """Report a negative entry, or a sum over the last axis that is not 1."""
    check(
        lambda: jnp.all(probs >= 0, axis=-1) & (jnp.abs(jnp.sum(probs, axis=-1) - 1) < 1e-3),
        f"{name} must be non-negative and sum to 1",
    )


def take_label(scores: jax.Array, labels: AnyArray) -> jax.Array:
    """The entry of each row of `scores` (n, k) at its label: (n,)."""
    return jnp.take_along_axis(scores, jnp.asarray(labels)[:, None], axis=1)[:, 0]


def binary_scores(logits: AnyArray) -> jax.Array:
    """The score (n,) of class 1 against class 0, of logits (n,) or (n, 2)."""
    logits = widen(logits)
    return logits if logits.ndim == 1 else logits[:, 1] - logits[:, 0]


def label_signs(labels: AnyArray, dtype: jnp.dtype) -> jax.Array:
    """-1 and +1 for the labels 0 and 1: (n,)."""
    check_labels(labels, 2)
    return 2 * jnp.asarray(labels, dtype) - 1


def confidence_and_correctness(logits: AnyArray, labels: AnyArray) -> tuple[jax.Array, jax.Array]:
    """The largest probability of each example (n,), and whether its class is the label (n,)."""
    check_labels(labels, logits.shape[1])
    confidence = jnp.exp(jnp.max(jax.nn.log_softmax(widen(logits), axis=1), axis=1))
    return confidence, jnp.argmax(logits, axis=1) == jnp.asarray(labels)


def label_nll(logits: AnyArray, labels: AnyArray) -> jax.Array:
    """Negative log-likelihood of the labels, at least in float32: (n,)."""
    check_labels(labels, logits.shape[1])
    return optax.losses.softmax_cross_entropy_with_integer_labels(
        widen(logits), jnp.asarray(labels)
    )


def deformed_log(log_x: AnyArray, q: Scalar) -> jax.Array:
    """Tsallis' q-logarithm (x^(1-q) - 1) / (1 - q) of x, from log x; log x itself at q = 1.

    It continues linearly in log x where (1 - q) log x exceeds 30.
    """
    log_x = widen(log_x)
    return log_x * exprel((1 - jnp.asarray(q, log_x.dtype)) * log_x)


def bounded_exp(z: jax.Array) -> jax.Array:
    """e^z, constant beyond the exponent where `deformed_log` becomes linear: its slope."""
    return jnp.exp(jnp.minimum(z, _LARGEST_EXPONENT))


def exprel(z: jax.Array) -> jax.Array:
    """(e^z - 1) / z, with accurate derivatives of every order at and around 0."""
    small = jnp.abs(z) < 0.25
    near = jnp.where(small, z, 0)
    series = jnp.ones_like(near)
    for n in range(13, 1, -1):  # Taylor: the first term left out is below 1e-17 at 1/4.
        series = 1 + near * series / n
    far = jnp.where(small, 1, z)
    exponent = jnp.minimum(far, _LARGEST_EXPONENT)
    growth = jnp.expm1(exponent)
    growth += (1 + growth) * (far - exponent)
    return jnp.where(small, series, growth / far)
