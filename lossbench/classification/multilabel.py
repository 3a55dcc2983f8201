"""A loss for imbalanced, correlated labels: weighted cross-entropy, label correlations, contrast.

Aslam et al., "Improving Arabic Multi-Label Emotion Classification using Stacked Embeddings and
Hybrid Loss Function", 2024, arXiv 2410.03979. The paper names the three terms; the forms below are
the usual ones. What is known of the labels is counted once, on the training set.
"""

from typing import Literal

import jax
import jax.numpy as jnp
import optax

from lossbench._math import safe_sqrt, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, check, typed
from lossbench.classification.imbalance import class_balanced_weights
from lossbench.classification.label_contrastive import multilabel_contrastive_loss


def _check_binary(labels: AnyArray) -> None:
    labels = jnp.asarray(labels)
    check(lambda: (labels == 0) | (labels == 1), "labels must be 0 or 1")


def _counted(labels: AnyArray) -> tuple[jax.Array, int]:
    """Labels as floats of the default width, and how many examples there are."""
    _check_binary(labels)
    return jnp.asarray(labels, float), len(labels)


@typed
def multilabel_class_weights(
    labels: Integer[AnyArray, "n c"],
    *,
    kind: Literal["balanced", "inverse", "effective"] = "balanced",
    beta: Scalar = 0.999,
    smoothing: Scalar = 1.0,
    bounds: tuple[Scalar, Scalar] = (0.1, 10.0),
) -> Float[jax.Array, " c"]:
    """Weights of labels, the larger the rarer, from a training set.

    With n_c examples that have label c: "balanced" (n + 2s) / (2 (n_c + s)), s the `smoothing`;
    "inverse" 1 / n_c over its mean; "effective" `class_balanced_weights` at `beta`. All are clipped
    to `bounds`.

    `labels` (n, c) in {0, 1}; `kind` is static. Returns (c,). O(n c).

    Aslam et al., arXiv 2410.03979, 2024.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    >>> print(multilabel_class_weights(labels, smoothing=0.0))
    [1. 2.]
    """
    members, n = _counted(labels)
    counts = jnp.sum(members, axis=0)
    if kind == "balanced":
        smoothing = jnp.asarray(smoothing, counts.dtype)
        weights = (n + 2 * smoothing) / (2 * (counts + smoothing))
    elif kind == "inverse":
        weights = class_balanced_weights(counts.astype(int), beta=1.0)
    else:
        weights = class_balanced_weights(counts.astype(int), beta=beta)
    return jnp.clip(weights, *(jnp.asarray(bound, counts.dtype) for bound in bounds))


@typed
def multilabel_positive_weights(
    labels: Integer[AnyArray, "n c"], *, smoothing: Scalar = 1.0, max_weight: Scalar = 20.0
) -> Float[jax.Array, " c"]:
    """Weights of having a label against not having it, from a training set.

    min((n - n_c + s) / (n_c + s), max_weight), n_c the examples with label c, s the `smoothing`.

    `labels` (n, c) in {0, 1}. Returns (c,). O(n c).

    Aslam et al., arXiv 2410.03979, 2024.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[1, 0], [1, 0], [0, 0], [0, 1]])
    >>> print(multilabel_positive_weights(labels, smoothing=0.0))
    [1. 3.]
    """
    members, n = _counted(labels)
    counts = jnp.sum(members, axis=0)
    smoothing = jnp.asarray(smoothing, counts.dtype)
    ratio = (n - counts + smoothing) / (counts + smoothing)
    return jnp.minimum(ratio, jnp.asarray(max_weight, counts.dtype))


@typed
def weighted_binary_cross_entropy(
    logits: Float[AnyArray, "n c"],
    labels: Integer[AnyArray, "n c"],
    *,
    class_weights: Float[AnyArray, " c"] | None = None,
    positive_weights: Float[AnyArray, " c"] | None = None,
) -> Float[jax.Array, " n"]:
    """Binary cross-entropy of each example, the mean over its labels, weighted.

    mean_c w_c (r_c y_c softplus(-z_c) + (1 - y_c) softplus(z_c)): a class weight w scales a label
    whole, a positive weight r moves its threshold, as the best probability becomes
    r p / (r p + 1 - p).

    `logits`, `labels` (n, c), labels in {0, 1}; weights (c,), 1 by default. Returns (n,). O(n c).

    Aslam et al., arXiv 2410.03979, 2024.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.zeros((1, 2)), jnp.array([[1, 0]])
    >>> loss = weighted_binary_cross_entropy(logits, labels, positive_weights=jnp.array([3.0, 1.0]))
    >>> print(loss.round(4))
    [1.3863]
    """
    _check_binary(labels)
    logits = widen(logits)
    terms = optax.losses.sigmoid_binary_cross_entropy(logits, jnp.asarray(labels, logits.dtype))
    if positive_weights is not None:
        terms *= jnp.where(jnp.asarray(labels) == 1, widen(positive_weights), 1)
    if class_weights is not None:
        terms *= widen(class_weights)
    return jnp.mean(terms, axis=1)


@typed
def label_correlation_matrix(
    labels: Integer[AnyArray, "n c"],
    *,
    kind: Literal["phi", "conditional", "cosine", "jaccard"] = "phi",
    shrinkage: Scalar = 0.0,
) -> Float[jax.Array, "c c"]:
    """How labels go together in a training set, (1 - shrinkage) times, with a diagonal of 0.

    "phi" the correlation of two labels, "conditional" P(column | row), "cosine"
    n_ij / sqrt(n_i n_j), "jaccard" n_ij / (n_i + n_j - n_ij), from the numbers n_i of examples with
    a label and n_ij with two; 0 where that is 0 / 0.

    `labels` (n, c) in {0, 1}; `kind` is static. Returns (c, c). O(n c^2).

    Aslam et al., arXiv 2410.03979, 2024.

    >>> import jax.numpy as jnp
    >>> labels = jnp.array([[1, 1], [1, 1], [1, 0], [0, 0]])
    >>> print(label_correlation_matrix(labels, kind="conditional").round(4))
    [[0.     0.6667]
     [1.     0.    ]]
    """
    members, n = _counted(labels)
    both = jnp.matmul(members.T, members, precision=jax.lax.Precision.HIGHEST)
    one = jnp.diagonal(both)
    if kind == "phi":
        # n times covariances: counts of up to 1e7 examples would lose their digits as products.
        centred = members - one / max(n, 1)
        both = jnp.matmul(centred.T, centred, precision=jax.lax.Precision.HIGHEST)
        spread = safe_sqrt(jnp.where((one > 0) & (one < n), jnp.diagonal(both), 0))
        whole = spread[:, None] * spread
    elif kind == "conditional":
        whole = jnp.broadcast_to(one[:, None], both.shape)
    elif kind == "cosine":
        whole = safe_sqrt(one[:, None] * one)
    else:
        whole = one[:, None] + one - both
    related = (whole > 0) & ~jnp.eye(len(one), dtype=bool)
    kept = 1 - jnp.asarray(shrinkage, both.dtype)
    return kept * jnp.where(related, both / jnp.where(related, whole, 1), 0)


@typed
def label_correlation_loss(
    logits: Float[AnyArray, "n c"], correlation: Float[AnyArray, "c c"]
) -> Float[jax.Array, " n"]:
    """How far the probabilities of each example's labels go against the labels' correlations.

    The mean over pairs i != j of labels of max(R_ij, 0) (p_i - p_j)^2 + max(-R_ij, 0) p_i p_j with
    p = sigmoid(logits): it draws the probabilities of correlated labels together, and forbids those
    of the others to rise together.

    `logits` (n, c); `correlation` R (c, c), see `label_correlation_matrix`, its diagonal unused.
    Returns (n,). O(n c^2), in memory O(n c).

    Aslam et al., arXiv 2410.03979, 2024.

    >>> import jax.numpy as jnp
    >>> correlation = jnp.array([[0.0, -0.5], [-0.5, 0.0]])
    >>> print(label_correlation_loss(jnp.array([[0.0, 0.0]]), correlation))
    [0.125]
    """
    p = jax.nn.sigmoid(widen(logits))
    c = p.shape[1]
    correlation = jnp.where(jnp.eye(c, dtype=bool), 0, widen(correlation)).astype(p.dtype)
    attracted, repelled = jax.nn.relu(correlation), jax.nn.relu(-correlation)
    degrees = jnp.sum(attracted, axis=0) + jnp.sum(attracted, axis=1)
    # sum R_ij (p_i - p_j)^2 = sum_i degree_i p_i^2 - 2 sum R_ij p_i p_j
    products = jnp.sum((p @ (2 * attracted - repelled)) * p, axis=1)
    return (jnp.square(p) @ degrees - products) / max(c * (c - 1), 1)


@typed
def hybrid_multilabel_loss(
    logits: Float[AnyArray, "n c"],
    embeddings: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, "n c"],
    correlation: Float[AnyArray, "c c"],
    *,
    class_weights: Float[AnyArray, " c"] | None = None,
    positive_weights: Float[AnyArray, " c"] | None = None,
    correlation_weight: Scalar = 0.1,
    contrastive_weight: Scalar = 0.1,
    temperature: Scalar = 0.1,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """Hybrid loss of each example: weighted cross-entropy, label correlation and contrast.

    `weighted_binary_cross_entropy` + correlation_weight * `label_correlation_loss` +
    contrastive_weight * `multilabel_contrastive_loss` (jaccard).

    `logits`, `labels` (n, c), labels in {0, 1}; `embeddings` (n, d); `correlation` (c, c), weights
    (c,), from the training set; rows outside `where` are 0. Returns (n,). O(n c^2 + n^2 (c + d)).

    Aslam et al., "Improving Arabic Multi-Label Emotion Classification using Stacked Embeddings and
    Hybrid Loss Function", 2024, arXiv 2410.03979.

    >>> import jax.numpy as jnp
    >>> logits, embeddings, labels = jnp.zeros((1, 2)), jnp.ones((1, 3)), jnp.array([[1, 0]])
    >>> correlation = jnp.array([[0.0, -0.5], [-0.5, 0.0]])
    >>> print(hybrid_multilabel_loss(logits, embeddings, labels, correlation).round(2))
    [0.71]
    """
    logits, labels = widen(logits), jnp.asarray(labels)
    contrast = multilabel_contrastive_loss(embeddings, labels, temperature=temperature, where=where)
    kept = jnp.ones(len(logits), bool) if where is None else jnp.asarray(where)
    logits, labels = (jnp.where(kept[:, None], rows, 0) for rows in (logits, labels))
    entropy = weighted_binary_cross_entropy(
        logits, labels, class_weights=class_weights, positive_weights=positive_weights
    )
    together = label_correlation_loss(logits, correlation)
    values = entropy + jnp.asarray(correlation_weight, logits.dtype) * together
    values = jnp.where(kept, values, 0)
    return values + jnp.asarray(contrastive_weight, logits.dtype) * contrast
