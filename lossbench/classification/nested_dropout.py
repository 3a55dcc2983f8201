"""Nested dropout and co-teaching: compressed features for learning with noisy labels.

Chen, Hu, Shen, Ai and Suykens, "Compressing Features for Learning with Noisy Labels", TNNLS 2022,
arXiv 2206.13140. Training keeps the first k features, k drawn anew for each batch, so that features
are ordered by what they are worth; validation then chooses a width too narrow to remember noise.
Two such networks are tuned further by co-teaching, each on the examples of small loss to the other.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import argsort, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, PRNGKey, Scalar, check, typed


@typed
def truncation_law(
    num_features: int, *, mean: Scalar = 0.0, scale: Scalar = 100.0
) -> Float[jax.Array, " d"]:
    """Probabilities of the widths k = 1, ..., d kept: proportional to exp(-((k - mean) / scale)^2).

    `num_features` d is static. Returns (d,). The paper's scale is 10 for CIFAR-10, else 100.

    Chen et al., TNNLS 2022, arXiv 2206.13140.

    >>> print(truncation_law(3, scale=1e6).round(3))
    [0.333 0.333 0.333]
    """
    widths = jnp.arange(1, num_features + 1)
    return jax.nn.softmax(-jnp.square((widths - mean) / scale))


@typed
def nested_dropout(
    key: PRNGKey,
    features: Float[AnyArray, "n d"],
    probabilities: Float[AnyArray, " d"],
    *,
    per_example: bool = False,
) -> Float[jax.Array, "n d"]:
    """Keep the first k features of a batch and zero the rest, without rescaling.

    k is drawn from `probabilities` (d,) of the widths 1, ..., d (`truncation_law`), one for the
    batch as in the paper, or one for each row (`per_example`, static). `features` (n, d). Returns
    (n, d).

    Chen et al., TNNLS 2022, arXiv 2206.13140; Rippel, Gelbart and Adams, ICML 2014.

    >>> import jax, jax.numpy as jnp
    >>> print(nested_dropout(jax.random.key(0), jnp.ones((1, 3)), jnp.array([0.0, 1.0, 0.0])))
    [[1. 1. 0.]]
    """
    features = jnp.asarray(features)
    n, d = features.shape
    shape = (n,) if per_example else (1,)
    last = jax.random.categorical(key, jnp.log(widen(probabilities)), shape=shape)
    return jnp.where(jnp.arange(d) <= last[:, None], features, 0)


@typed
def expected_nested_loss(
    features: Float[AnyArray, "n d"],
    weights: Float[AnyArray, "d c"],
    labels: Integer[AnyArray, " n"],
    probabilities: Float[AnyArray, " d"],
) -> Float[jax.Array, " n"]:
    """Cross-entropy of a linear head without bias, averaged exactly over the widths kept.

    sum_k p_k cross-entropy(features[:, :k] weights[:k], label), of which `nested_dropout` draws one
    term. `features` (n, d); `weights` (d, c); `labels` (n,); `probabilities` (d,). Returns (n,).
    O(n d c) time, O(n c) memory.

    Chen et al., TNNLS 2022, arXiv 2206.13140.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.ones((1, 2)), jnp.zeros((2, 4))
    >>> print(expected_nested_loss(x, w, jnp.array([1]), jnp.array([0.5, 0.5])).round(4))
    [1.3863]
    """
    features, weights = widen(features), widen(weights)

    @jax.checkpoint
    def add(carry: tuple[jax.Array, jax.Array], inputs: tuple[jax.Array, ...]) -> tuple:
        logits, total = carry
        feature, weight, probability = inputs
        logits = logits + feature[:, None] * weight
        own = jnp.take_along_axis(logits, jnp.asarray(labels)[:, None], axis=1)[:, 0]
        return (logits, total + probability * (jax.nn.logsumexp(logits, axis=1) - own)), None

    empty = jnp.zeros((len(features), weights.shape[1]), jnp.result_type(features, weights))
    (_, total), _ = lax.scan(add, (empty, empty[:, 0]), (features.T, weights, widen(probabilities)))
    return total


class WidthChoice(NamedTuple):
    """A width, and the accuracies that it was chosen by."""

    width: jax.Array
    """From 1 to d ()."""
    accuracies: jax.Array
    """At the widths 1, ..., d (d,)."""


@typed
def select_width(
    features: Float[AnyArray, "n d"],
    weights: Float[AnyArray, "d c"],
    labels: Integer[AnyArray, " n"],
    *,
    tie_penalty: Scalar = 1e-5,
) -> WidthChoice:
    """Choose how many features to keep, by the accuracy of a linear head on validation data.

    argmax_k accuracy(k) - tie_penalty (k - 1): the narrower one on a tie. `features` (n, d);
    `weights` (d, c); `labels` (n,). O(n d c) time, O(n c) memory.

    Chen et al., TNNLS 2022, arXiv 2206.13140.

    >>> import jax.numpy as jnp
    >>> x, w = jnp.array([[1.0, 5.0], [-1.0, 5.0]]), jnp.array([[1.0, -1.0], [1.0, 0.0]])
    >>> choice = select_width(x, w, jnp.array([0, 1]))
    >>> print(choice.width, choice.accuracies)
    1 [1.  0.5]
    """
    features, weights = widen(features), widen(weights)

    def judge(
        logits: jax.Array, inputs: tuple[jax.Array, jax.Array]
    ) -> tuple[jax.Array, jax.Array]:
        feature, weight = inputs
        logits = logits + feature[:, None] * weight
        right = jnp.argmax(logits, axis=1) == jnp.asarray(labels)
        return logits, jnp.mean(right, dtype=logits.dtype)

    empty = jnp.zeros((len(features), weights.shape[1]), jnp.result_type(features, weights))
    _, accuracies = lax.scan(judge, empty, (features.T, weights))
    penalties = tie_penalty * jnp.arange(len(accuracies), dtype=accuracies.dtype)
    return WidthChoice(1 + jnp.argmax(accuracies - penalties), accuracies)


@typed
def small_loss_mask(losses: Float[AnyArray, " n"], forget_rate: Scalar) -> Bool[jax.Array, " n"]:
    """Mark the floor((1 - forget_rate) n) examples of smallest loss, which noise spares most.

    `losses` (n,), not differentiated; `forget_rate` in [0, 1], may be traced. Returns (n,).

    Han et al., "Co-teaching", NeurIPS 2018, arXiv 1804.06872.

    >>> import jax.numpy as jnp
    >>> print(small_loss_mask(jnp.array([3.0, 1.0, 2.0, 9.0]), 0.5))
    [False  True  True False]
    """
    losses = lax.stop_gradient(widen(losses))
    check(
        lambda: (jnp.asarray(forget_rate) >= 0) & (jnp.asarray(forget_rate) <= 1),
        "forget_rate must lie in [0, 1], got {rate}",
        rate=jnp.asarray(forget_rate),
    )
    n = len(losses)
    rank = jnp.zeros(n, int).at[argsort(losses)].set(jnp.arange(n))
    # Rounding must not lose an example: 0.7 * 10 is 6.9999999 in binary.
    return rank < jnp.floor((1 - jnp.asarray(forget_rate)) * n + 1e-4)


@typed
def forget_schedule(
    step: Integer[AnyArray, ""] | int, *, forget_rate: Scalar = 0.2, gradual_steps: int = 5
) -> Float[jax.Array, ""]:
    """Share of a batch that co-teaching forgets: from 0 to `forget_rate` linearly, then constant.

    `step` from 0; reached at `gradual_steps` - 1 (static), at once if that is not positive.

    Han et al., "Co-teaching", NeurIPS 2018, arXiv 1804.06872.

    >>> print([round(float(forget_schedule(step)), 2) for step in range(6)])
    [0.0, 0.05, 0.1, 0.15, 0.2, 0.2]
    """
    share = jnp.minimum(jnp.asarray(step) / max(gradual_steps - 1, 1), 1)
    return jnp.asarray(forget_rate) * (share if gradual_steps > 1 else jnp.ones_like(share))


@typed
def co_teaching_losses(
    losses_a: Float[AnyArray, " n"],
    losses_b: Float[AnyArray, " n"],
    selection_losses_a: Float[AnyArray, " n"],
    selection_losses_b: Float[AnyArray, " n"],
    *,
    forget_rate: Scalar = 0.2,
) -> tuple[Float[jax.Array, " n"], Float[jax.Array, " n"]]:
    """Losses of two networks on the examples that the other one trusts; 0 on the rest.

    Network a learns from the examples of small `selection_losses_b`, b from those of small
    `selection_losses_a`; both (n,), of the networks as they predict. `losses_a` and `losses_b` (n,)
    are those that are trained, under dropout. In the paper each half of a batch is selected by one
    network and trains the other: call it on each half and use one of the two results. Divide by
    the number kept, floor((1 - forget_rate) n). Returns (n,) each.

    Han et al., "Co-teaching", NeurIPS 2018, arXiv 1804.06872; Chen et al., TNNLS 2022.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.array([1.0, 2.0]), jnp.array([4.0, 3.0])
    >>> for loss in co_teaching_losses(a, b, a, b, forget_rate=0.5):
    ...     print(loss)
    [0. 2.]
    [4. 0.]
    """
    kept_by_a = small_loss_mask(selection_losses_a, forget_rate)
    kept_by_b = small_loss_mask(selection_losses_b, forget_rate)
    return jnp.where(kept_by_b, widen(losses_a), 0), jnp.where(kept_by_a, widen(losses_b), 0)
