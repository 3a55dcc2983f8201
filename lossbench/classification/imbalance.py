"""Losses and weights for classes of unequal size, and what reweighting costs the larger ones.

Wang et al., "Imbalanced Adversarial Training with Reweighting", ICDM 2022, arXiv 2107.13639, join a
reweighted loss of adversarial examples with a term that separates their features: the theory of two
Gaussians says that reweighting is the dearer the less the classes are apart.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lossbench._math import widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, check, typed
from lossbench.classification._common import check_labels, exprel, label_nll, take_label
from lossbench.classification.label_contrastive import feature_separation_loss


@typed
def class_balanced_weights(
    class_counts: Integer[AnyArray, " k"], *, beta: Scalar = 0.9999
) -> Float[jax.Array, " k"]:
    """Weights of classes by the inverse of their effective number of examples, of mean 1.

    The effective number of n examples is (1 - beta^n) / (1 - beta): 1 at beta = 0, which weighs
    all classes alike, n at beta = 1. A class without examples gets 0 and does not count in the
    mean. To defer them, as is usual, take `jnp.where(step < start, 1, weights)`.

    `class_counts` (k,); `beta` in [0, 1]. Returns (k,). O(k).

    Cui, Jia, Lin, Song and Belongie, "Class-Balanced Loss Based on Effective Number of Samples",
    CVPR 2019, arXiv 1901.05555.

    >>> import jax.numpy as jnp
    >>> print(class_balanced_weights(jnp.array([300, 100]), beta=1.0))
    [0.5 1.5]
    """
    counts = jnp.asarray(class_counts, float)
    check(lambda: counts >= 0, "class_counts must not be negative")
    beta = jnp.asarray(beta, counts.dtype)
    check(lambda: (beta >= 0) & (beta <= 1), "beta must lie in [0, 1], got {value}", value=beta)
    # (1 - e^(n log beta)) / (1 - e^(log beta)), which is n where log beta vanishes.
    log_beta = jnp.log(jnp.maximum(beta, jnp.finfo(counts.dtype).tiny))
    effective = counts * exprel(counts * log_beta) / exprel(log_beta)
    weights = jnp.where(counts > 0, 1 / jnp.where(counts > 0, effective, 1), 0)
    return (
        weights
        * jnp.maximum(jnp.sum(counts > 0), 1)
        / jnp.maximum(jnp.sum(weights), jnp.finfo(counts.dtype).tiny)
    )


@typed
def focal_loss(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"], *, gamma: Scalar = 2.0
) -> Float[jax.Array, " n"]:
    """Focal loss of each example: cross-entropy, faded out as the label's probability nears 1.

    -(1 - p_y)^gamma log p_y with p = softmax(logits); cross-entropy at gamma = 0. For independent
    labels see `optax.losses.sigmoid_focal_loss`.

    `logits` (n, k), k >= 2; `labels` (n,) in [0, k); `gamma` >= 0. Returns (n,). O(n k).

    Lin, Goyal, Girshick, He and Dollár, "Focal Loss for Dense Object Detection", ICCV 2017,
    arXiv 1708.02002.

    >>> import jax.numpy as jnp
    >>> print(focal_loss(jnp.zeros((1, 2)), jnp.array([0])).round(4))
    [0.1733]
    """
    nll = label_nll(logits, labels)
    rest = -jnp.expm1(-nll)
    # At p_y = 1 the loss is 0, whatever the power of 0 and its derivative by gamma.
    uncertain = rest > 0
    fade = jnp.where(uncertain, rest, 1) ** jnp.asarray(gamma, nll.dtype)
    return jnp.where(uncertain, fade * nll, 0)


@typed
def label_distribution_aware_margin_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    class_counts: Integer[AnyArray, " k"],
    *,
    max_margin: Scalar = 0.5,
    scale: Scalar = 30.0,
) -> Float[jax.Array, " n"]:
    """LDAM loss of each example: cross-entropy with a margin that rare labels must hold.

    Cross-entropy of scale * (logits - margin_y onehot(y)), margin_y = max_margin times
    (smallest count / count_y)^(1/4). Meant for logits that are cosines.

    `logits` (n, k); `labels` (n,) in [0, k); `class_counts` (k,), positive. Returns (n,). O(n k).

    Cao, Wei, Gaidon, Arechiga and Ma, "Learning Imbalanced Datasets with Label-Distribution-Aware
    Margin Loss", NeurIPS 2019, arXiv 1906.07413.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[0.5, 0.0], [0.0, 0.5]]), jnp.array([0, 1])
    >>> loss = label_distribution_aware_margin_loss(logits, labels, jnp.array([1, 16]))
    >>> print(loss.round(3))
    [0.693 0.001]
    """
    logits = widen(logits)
    check_labels(labels, logits.shape[1])
    counts = jnp.asarray(class_counts, logits.dtype)
    check(lambda: counts > 0, "class_counts must be positive")
    margins = jnp.asarray(max_margin, logits.dtype) * (jnp.min(counts) / counts) ** 0.25
    own = jax.nn.one_hot(labels, logits.shape[1], dtype=logits.dtype)
    return label_nll(jnp.asarray(scale, logits.dtype) * (logits - margins * own), labels)


@typed
def srat_loss(
    logits: Float[AnyArray, "n k"],
    features: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, " n"],
    class_weights: Float[AnyArray, " k"],
    *,
    base_loss: Callable[..., Any] = optax.losses.softmax_cross_entropy_with_integer_labels,
    separation_weight: Scalar = 1.0,
    temperature: Scalar = 0.1,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """SRAT: a reweighted loss of each example and the separation of its features from others'.

    class_weights_y base_loss(logits, labels) + separation_weight * `feature_separation_loss`. Both
    outputs are those of adversarial examples, such as `lossbench.robust.pgd_attack` on plain
    cross-entropy finds.

    `logits` (n, k); `features` (n, d), those before the last layer; `labels` (n,) in [0, k);
    `class_weights` (k,), see `class_balanced_weights`, ones until the last part of the training;
    `base_loss`: (logits, labels) -> (n,), such as `focal_loss`; rows outside `where` are 0.
    Returns (n,). O(n (k + n d)).

    Wang, Xu, Liu, Li, Thuraisingham and Tang, "Imbalanced Adversarial Training with Reweighting",
    ICDM 2022, arXiv 2107.13639.

    >>> import jax.numpy as jnp
    >>> logits, features, labels = jnp.zeros((2, 2)), jnp.ones((2, 3)), jnp.array([0, 1])
    >>> print(srat_loss(logits, features, labels, jnp.array([1.0, 2.0])).round(4))
    [0.6931 1.3863]
    """
    logits, labels = widen(logits), jnp.asarray(labels)
    separation = feature_separation_loss(features, labels, temperature=temperature, where=where)
    if where is not None:
        logits = jnp.where(jnp.asarray(where)[:, None], logits, 0)
        labels = jnp.where(where, labels, 0)
    check_labels(labels, logits.shape[1])
    weights = take_label(jnp.broadcast_to(widen(class_weights), logits.shape), labels)
    values = weights * base_loss(logits, labels)
    if where is not None:
        values = jnp.where(where, values, 0)
    return values + jnp.asarray(separation_weight, values.dtype) * separation


@typed
def gaussian_reweighting_errors(
    separation: Float[AnyArray, "*shape"],
    *,
    imbalance: Scalar,
    weight: Scalar,
    radius: Scalar = 0.0,
) -> tuple[Float[jax.Array, "*shape"], Float[jax.Array, "*shape"]]:
    """Errors of the common and of the rare class of two Gaussians under a reweighted classifier.

    Classes N(-mu, s^2 I) and N(mu, s^2 I), the first `imbalance` times as frequent, and the
    minimiser of the zero-one risk with the second's weighted: with S = separation - radius,

        Phi(-S - log(imbalance / weight) / (2 S)) and Phi(-S + log(imbalance / weight) / (2 S)).

    `weight` = `imbalance` makes them equal; the price that the common class pays grows as S falls.
    An adversary who may move d features by epsilon takes sqrt(d) epsilon / s off, if mu is
    proportional to (1, ..., 1): its `radius`.

    `separation` |mu| / s, of any shape, larger than `radius`. Returns two arrays of that shape.

    Wang et al., ICDM 2022, arXiv 2107.13639.

    >>> import jax.numpy as jnp
    >>> common, rare = gaussian_reweighting_errors(jnp.array(1.0), imbalance=100, weight=1)
    >>> print(f"{common:.4f} {rare:.4f}")
    0.0005 0.9036
    """
    separation = widen(separation)
    margin = separation - jnp.asarray(radius, separation.dtype)
    check(lambda: margin > 0, "separation must exceed radius")
    imbalance, weight = (jnp.asarray(x, separation.dtype) for x in (imbalance, weight))
    shift = (jnp.log(imbalance) - jnp.log(weight)) / (2 * margin)
    return jax.scipy.stats.norm.cdf(-margin - shift), jax.scipy.stats.norm.cdf(-margin + shift)
