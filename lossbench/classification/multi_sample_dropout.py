"""Multi-sample dropout: one pass of the trunk, several dropout masks before the head.

Inoue, "Multi-Sample Dropout for Accelerated Training and Better Generalization", 2019, arXiv
1905.09788. The losses of the samples are averaged, not their logits: the objective stays that of
dropout, and the noise of its gradient falls by the number of samples.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, check, typed


@typed
def multi_sample_dropout_loss(
    key: PRNGKey,
    head_fn: Callable[[jax.Array, jax.Array], jax.Array],
    features: Float[AnyArray, "n *d"],
    labels: AnyArray,
    *,
    loss_fn: Callable[[jax.Array, jax.Array], jax.Array],
    num_samples: int = 8,
    rate: Scalar = 0.5,
    diversify: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    chunk_size: int | None = None,
) -> Float[jax.Array, " n"]:
    """Mean of the losses of several dropout samples of the same features.

    (1 / num_samples) sum_k loss(head(mask_k * features), labels), each entry of a mask 0 with
    probability `rate`, else 1 / (1 - rate). For fixed features the gradient's covariance over masks
    is 1 / num_samples of that of ordinary dropout, whose mean it has.

    `features` (n, *d), the trunk's output; `labels`, whatever `loss_fn(logits, labels)` -> (n,)
    takes; `head_fn(dropped features, key)` -> logits, whose key serves dropout inside the head;
    `diversify(features, sample index, key)`, applied before the mask, such as `flip_second_half`.
    `num_samples` and `chunk_size` are static; `chunk_size` samples live at a time, in the backward
    pass too (None: all). 0 <= `rate` < 1. Returns (n,). `num_samples` passes of the head.

    Inoue, 2019, arXiv 1905.09788.

    >>> import jax, jax.numpy as jnp, optax
    >>> loss = multi_sample_dropout_loss(
    ...     jax.random.key(0), lambda features, key: features, jnp.zeros((2, 4)), jnp.array([0, 3]),
    ...     loss_fn=optax.losses.softmax_cross_entropy_with_integer_labels)
    >>> print(loss.round(4))
    [1.3863 1.3863]
    """
    features = jnp.asarray(features)
    rate = jnp.asarray(rate, jnp.float32)
    check(lambda: (rate >= 0) & (rate < 1), "rate must lie in [0, 1), got {rate}", rate=rate)

    def one(sample: tuple[jax.Array, jax.Array]) -> jax.Array:
        index, sample_key = sample
        mask_key, head_key, diversify_key = jax.random.split(sample_key, 3)
        varied = features if diversify is None else diversify(features, index, diversify_key)
        kept = jax.random.bernoulli(mask_key, 1 - rate, varied.shape)
        dropped = jnp.where(kept, varied / (1 - rate).astype(varied.dtype), 0)
        return widen(loss_fn(head_fn(dropped, head_key), jnp.asarray(labels)))

    samples = jnp.arange(num_samples), jax.random.split(key, num_samples)
    if chunk_size is None or chunk_size >= num_samples:
        return jnp.mean(jax.vmap(lambda *sample: one(sample))(*samples), axis=0)
    if chunk_size < 1:
        raise ValueError(f"chunk_size must be at least 1, got {chunk_size}")
    losses = lax.map(jax.checkpoint(one, prevent_cse=False), samples, batch_size=chunk_size)
    return jnp.mean(losses, axis=0)


@typed
def flip_second_half(
    feature_maps: Float[AnyArray, "n height width c"],
    sample_index: Integer[AnyArray, ""],
    *,
    num_samples: int,
) -> Float[jax.Array, "n height width c"]:
    """Reverse the width of the feature maps for the second half of the samples.

    A `diversify` of `multi_sample_dropout_loss`, where the head sees the layout. `feature_maps`
    (n, height, width, c); `sample_index` in [0, num_samples). Returns the same shape.

    Inoue, 2019, arXiv 1905.09788.

    >>> import jax.numpy as jnp
    >>> maps = jnp.arange(3.0).reshape(1, 1, 3, 1)
    >>> print(flip_second_half(maps, jnp.array(1), num_samples=2).ravel())
    [2. 1. 0.]
    """
    feature_maps = jnp.asarray(feature_maps)
    return jnp.where(sample_index >= num_samples / 2, feature_maps[:, :, ::-1], feature_maps)


@typed
def random_pad_pool(
    key: PRNGKey, feature_maps: Float[AnyArray, "n height width c"]
) -> Float[jax.Array, "n h w c"]:
    """Maximum over 2 x 2 windows whose grid is shifted at random by a row, a column or both.

    One row of zeros is put above or below and one column left or right, then windows at stride 2
    that fit. `feature_maps` (n, height, width, c), not negative (after a relu). Returns
    (n, (height + 1) // 2, (width + 1) // 2, c).

    Inoue, 2019, arXiv 1905.09788.

    >>> import jax, jax.numpy as jnp
    >>> random_pad_pool(jax.random.key(0), jnp.ones((1, 5, 4, 1))).shape
    (1, 3, 2, 1)
    """
    feature_maps = jnp.asarray(feature_maps)
    n, height, width, channels = feature_maps.shape
    padded = jnp.zeros((n, height + 1, width + 1, channels), feature_maps.dtype)
    above, left = jax.random.randint(key, (2,), 0, 2)
    padded = lax.dynamic_update_slice(padded, feature_maps, (0, above, left, 0))
    rows, columns = (height + 1) // 2, (width + 1) // 2
    windows = padded[:, : 2 * rows, : 2 * columns]
    return jnp.max(windows.reshape(n, rows, 2, columns, 2, channels), axis=(2, 4))
