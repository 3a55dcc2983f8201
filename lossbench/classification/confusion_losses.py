"""Losses from the confusion matrix: soft predictions, a score of their counts, one minus the score.

AnyLoss (Han, Moniz and Chawla, KDD 2024, arXiv 2405.14745) makes predictions of probabilities by a
steep sigmoid, score-oriented losses (Marchetti et al., 2022, arXiv 2103.15522) by the distribution
function of a random threshold. Confusion matrices are laid out as in scikit-learn,

    [[true negatives, false positives], [false negatives, true positives]],

and the scores take soft counts and hard ones alike.
"""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp

from lossbench._math import safe_sqrt, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, check, typed
from lossbench.classification._common import BinaryLogits, binary_scores, check_labels

Confusion = Float[AnyArray, "2 2"]


@typed
def amplify(
    probabilities: Float[AnyArray, "*shape"], *, scale: Scalar = 73.0, threshold: Scalar = 0.5
) -> Float[jax.Array, "*shape"]:
    """Almost hard predictions of probabilities: sigmoid(scale (p - threshold)), of any shape.

    73 is the largest whole scale at which p = 1 stays below 1 in float64, 33 in float32. The
    derivative is lost a few 1/scale away from the threshold.

    Han, Moniz and Chawla, KDD 2024, arXiv 2405.14745.

    >>> import jax.numpy as jnp
    >>> print(amplify(jnp.array([0.0, 0.5, 0.525]), scale=80.0).round(2))
    [0.   0.5  0.88]
    """
    probabilities = widen(probabilities)
    scale, threshold = (jnp.asarray(x, probabilities.dtype) for x in (scale, threshold))
    return jax.nn.sigmoid(scale * (probabilities - threshold))


@typed
def soft_confusion_matrix(
    predictions: Float[AnyArray, " n"],
    labels: Integer[AnyArray, " n"],
    *,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, "2 2"]:
    """Confusion matrix of predictions that may be anything from 0 to 1.

    Row y, column 1 sums the predictions of the examples labelled y, column 0 their complements:
    at 0 and 1 it is `sklearn.metrics.confusion_matrix`.

    `predictions` (n,) in [0, 1]; `labels` (n,) in {0, 1}; rows outside `where` do not count.
    Returns (2, 2), entries that sum to the number of examples. O(n).

    >>> import jax.numpy as jnp
    >>> print(soft_confusion_matrix(jnp.array([0.0, 0.25, 1.0]), jnp.array([0, 1, 1])))
    [[1.   0.  ]
     [0.75 1.25]]
    """
    predictions, labels = widen(predictions), jnp.asarray(labels)
    kept = jnp.ones(labels.shape, bool) if where is None else jnp.asarray(where)
    check_labels(jnp.where(kept, labels, 0), 2)
    shares = (1 - predictions, predictions)
    return jnp.stack(
        [
            jnp.stack([jnp.sum(share, where=kept & (labels == label)) for share in shares])
            for label in (0, 1)
        ]
    )


def _ratio(numerator: jax.Array, denominator: jax.Array) -> jax.Array:
    """The quotient; 1, with derivative 0, where there is nothing to divide by."""
    empty = denominator == 0
    return jnp.where(empty, 1, numerator / jnp.where(empty, 1, denominator))


def _rates(confusion: Confusion) -> tuple[jax.Array, jax.Array]:
    """Specificity and recall: the share of either class that is found."""
    (true_negatives, false_positives), (false_negatives, true_positives) = widen(confusion)
    specificity = _ratio(true_negatives, true_negatives + false_positives)
    return specificity, _ratio(true_positives, true_positives + false_negatives)


@typed
def confusion_accuracy(confusion: Confusion) -> Float[jax.Array, ""]:
    """Share of the examples that are predicted right; 1 if there is none.

    >>> import jax.numpy as jnp
    >>> print(confusion_accuracy(jnp.array([[5.0, 1.0], [2.0, 2.0]])))
    0.7
    """
    confusion = widen(confusion)
    return _ratio(jnp.trace(confusion), jnp.sum(confusion))


@typed
def confusion_balanced_accuracy(confusion: Confusion) -> Float[jax.Array, ""]:
    """Mean of recall and specificity, each 1 where its class has no example.

    >>> import jax.numpy as jnp
    >>> print(confusion_balanced_accuracy(jnp.array([[6.0, 2.0], [1.0, 1.0]])))
    0.625
    """
    specificity, recall = _rates(confusion)
    return (specificity + recall) / 2


@typed
def confusion_geometric_mean(confusion: Confusion) -> Float[jax.Array, ""]:
    """Geometric mean of recall and specificity, each 1 where its class has no example.

    >>> import jax.numpy as jnp
    >>> print(confusion_geometric_mean(jnp.array([[6.0, 2.0], [2.0, 1.0]])).round(4))
    0.5
    """
    specificity, recall = _rates(confusion)
    return safe_sqrt(specificity) * safe_sqrt(recall)


@typed
def confusion_f_beta(confusion: Confusion, *, beta: Scalar = 1.0) -> Float[jax.Array, ""]:
    """F-score, the harmonic mean of precision and recall with weight 1 : beta^2.

    (1 + beta^2) TP / ((1 + beta^2) TP + beta^2 FN + FP); 1 where nothing is or is said positive.

    >>> import jax.numpy as jnp
    >>> print(confusion_f_beta(jnp.array([[6.0, 1.0], [1.0, 2.0]])).round(4))
    0.6667
    """
    (_, false_positives), (false_negatives, true_positives) = widen(confusion)
    weight = jnp.square(jnp.asarray(beta, true_positives.dtype))
    found = (1 + weight) * true_positives
    return _ratio(found, found + weight * false_negatives + false_positives)


@typed
def confusion_jaccard(confusion: Confusion) -> Float[jax.Array, ""]:
    """Jaccard index TP / (TP + FN + FP); 1 where nothing is or is said positive.

    >>> import jax.numpy as jnp
    >>> print(confusion_jaccard(jnp.array([[6.0, 1.0], [1.0, 2.0]])))
    0.5
    """
    (_, false_positives), (false_negatives, true_positives) = widen(confusion)
    return _ratio(true_positives, true_positives + false_negatives + false_positives)


@typed
def confusion_matthews(confusion: Confusion) -> Float[jax.Array, ""]:
    """Matthews' correlation of labels and predictions, from -1 to 1.

    (TP TN - FP FN) / sqrt((TP + FP) (TP + FN) (TN + FP) (TN + FN)); 0, with derivative 0, where a
    class has no example or no prediction.

    >>> import jax.numpy as jnp
    >>> print(confusion_matthews(jnp.array([[3.0, 1.0], [1.0, 3.0]])))
    0.5
    """
    confusion = widen(confusion)
    margins = jnp.concatenate([jnp.sum(confusion, 0), jnp.sum(confusion, 1)])
    empty = jnp.any(margins <= 0)
    confusion = jnp.where(empty, 1, confusion)
    # Root by root: the product of four counts overflows float32 from 2e9 examples on.
    roots = jnp.sqrt(jnp.where(empty, 1, margins))
    (true_negatives, false_positives), (false_negatives, true_positives) = confusion
    right = (true_positives / roots[0] / roots[1]) * (true_negatives / roots[2] / roots[3])
    wrong = (false_positives / roots[0] / roots[1]) * (false_negatives / roots[2] / roots[3])
    return jnp.where(empty, 0, right - wrong)


def _one_minus_score(
    metric: Callable[..., Any],
    soften: Callable[[jax.Array], jax.Array],
    probabilities: AnyArray,
    labels: AnyArray,
    where: AnyArray | None,
) -> jax.Array:
    probabilities = widen(probabilities)
    if where is None:
        return 1 - metric(soft_confusion_matrix(soften(probabilities), labels))
    # Before softening: the derivative of what a masked row holds must be 0, not 0 times NaN.
    probabilities = jnp.where(where, probabilities, 0)
    score = metric(soft_confusion_matrix(soften(probabilities), labels, where=where))
    return jnp.where(jnp.any(where), 1 - score, 0)


@typed
def anyloss(
    metric: Callable[..., Any],
    probabilities: Float[AnyArray, " n"],
    labels: Integer[AnyArray, " n"],
    *,
    scale: Scalar = 73.0,
    threshold: Scalar = 0.5,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """AnyLoss: one minus any score of the confusion matrix, of almost hard predictions.

    1 - metric(soft_confusion_matrix(amplify(probabilities), labels)). It is a number of the whole
    batch, not a mean of losses of its examples; batches should hold both classes. The gradient
    lives where probabilities are within a few 1/scale of the threshold: start near it, with a last
    layer of zeros, or let `scale` grow from about 5.

    `metric`: a function (2, 2) -> (), such as `confusion_f_beta`; `probabilities` (n,) of class 1;
    `labels` (n,) in {0, 1}; rows outside `where` do not count, and without any the loss is 0.
    Returns (). O(n).

    Han, Moniz and Chawla, "AnyLoss: Transforming Classification Metrics into Loss Functions",
    KDD 2024, arXiv 2405.14745.

    >>> import jax.numpy as jnp
    >>> probabilities, labels = jnp.array([0.1, 0.7, 0.9, 0.3]), jnp.array([0, 0, 1, 1])
    >>> print(anyloss(confusion_f_beta, probabilities, labels).round(4))
    0.5
    """

    def soften(p: jax.Array) -> jax.Array:
        return amplify(p, scale=scale, threshold=threshold)

    return _one_minus_score(metric, soften, probabilities, labels, where)


@typed
def anyloss_from_logits(
    logits: BinaryLogits,
    labels: Integer[AnyArray, " n"],
    *,
    metric: Callable[..., Any] = confusion_balanced_accuracy,
    scale: Scalar = 73.0,
    threshold: Scalar = 0.5,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """AnyLoss of logits: `anyloss` at probabilities sigmoid(logits), softmax for two columns.

    `logits` (n,), for class 1 against class 0, or (n, 2); the rest is as in `anyloss`. The default
    metric is one that does not care which class is called positive.

    Han, Moniz and Chawla, KDD 2024, arXiv 2405.14745.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([-2.0, 1.0, 3.0, -1.0]), jnp.array([0, 0, 1, 1])
    >>> print(anyloss_from_logits(logits, labels, metric=confusion_accuracy).round(4))
    0.5
    """
    scores = binary_scores(logits)
    if where is not None:
        scores = jnp.where(where, scores, 0)
    return anyloss(
        metric, jax.nn.sigmoid(scores), labels, scale=scale, threshold=threshold, where=where
    )


@typed
def score_oriented_loss(
    metric: Callable[..., Any],
    probabilities: Float[AnyArray, " n"],
    labels: Integer[AnyArray, " n"],
    *,
    distribution: Literal["uniform", "cosine"] = "cosine",
    center: Scalar = 0.5,
    width: Scalar = 0.1,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Score-oriented loss: one minus a score of the matrix expected under a random threshold.

    1 - metric(E C(t)), where example i is predicted positive if p_i > t. The threshold t is uniform
    in [0, 1], which leaves the probabilities as they are, or has the raised-cosine density on
    [center - width, center + width]: P(t < p) = (1 + u + sin(pi u) / pi) / 2, u = (p - center) /
    width. Probabilities outside that interval get no gradient.

    `metric`: a function (2, 2) -> (), such as `confusion_f_beta`; `probabilities` (n,) of class 1;
    `labels` (n,) in {0, 1}; `width` > 0; `distribution` is static; rows outside `where` do not
    count, and without any the loss is 0. Returns (). O(n).

    Marchetti, Guastavino, Piana and Campi, "Score-Oriented Loss (SOL) functions", Pattern
    Recognition 2022, arXiv 2103.15522.

    >>> import jax.numpy as jnp
    >>> probabilities, labels = jnp.array([0.1, 0.5, 0.9, 0.5]), jnp.array([0, 0, 1, 1])
    >>> print(score_oriented_loss(confusion_accuracy, probabilities, labels).round(4))
    0.25
    """

    def soften(p: jax.Array) -> jax.Array:
        if distribution == "uniform":
            return p
        half_width = jnp.asarray(width, p.dtype)
        check(lambda: half_width > 0, "width must be positive, got {value}", value=half_width)
        u = jnp.clip((p - jnp.asarray(center, p.dtype)) / half_width, -1, 1)
        return (1 + u + jnp.sin(jnp.pi * u) / jnp.pi) / 2

    return _one_minus_score(metric, soften, probabilities, labels, where)
