"""How well confidence tells right from wrong: calibration errors, Brier score, AUC of correctness.

The confidence of an example is the largest probability of softmax(logits); it is correct where that
class is the label.
"""

from typing import Literal

import jax
import jax.numpy as jnp

from lossbench._math import argsort, masked_mean, sort, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, typed
from lossbench.classification._common import check_labels, confidence_and_correctness


def _masked_confidence(
    logits: AnyArray, labels: AnyArray, where: AnyArray | None
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Confidence, correctness as a number and the mask, each (n,); masked rows hold 0 logits."""
    kept = jnp.ones(len(logits), bool) if where is None else jnp.asarray(where)
    logits = jnp.where(kept[:, None], widen(logits), 0)
    confidence, correct = confidence_and_correctness(logits, jnp.where(kept, labels, 0))
    return confidence, correct.astype(confidence.dtype), kept


@typed
def brier_score(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> Float[jax.Array, " n"]:
    """Brier score of each example: sum_j (p_j - [j = y])^2 with p = softmax(logits).

    It lies in [0, 2]; for two classes it is twice the squared error of one probability.

    `logits` (n, k); `labels` (n,) in [0, k). Returns (n,). O(n k).

    Brier, "Verification of forecasts expressed in terms of probability", Monthly Weather Review
    1950.

    >>> import jax.numpy as jnp
    >>> print(brier_score(jnp.zeros((1, 2)), jnp.array([0])))
    [0.5]
    """
    check_labels(labels, logits.shape[1])
    probabilities = jax.nn.softmax(widen(logits), axis=1)
    truth = jax.nn.one_hot(labels, logits.shape[1], dtype=probabilities.dtype)
    return jnp.sum(jnp.square(probabilities - truth), axis=1)


@typed
def expected_calibration_error(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    num_bins: int = 15,
    scheme: Literal["width", "mass"] = "width",
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Expected calibration error: how far confidence and accuracy are apart, bin by bin.

    sum_b |sum_{i in b} (correct_i - confidence_i)| / n over bins of the confidence: "width" cuts
    (0, 1] into equal intervals, "mass" the sorted examples into equal numbers.

    `logits` (n, k); `labels` (n,) in [0, k); `num_bins` and `scheme` are static; rows outside
    `where` do not count. Returns (), in [0, 1]. O(n (k + log n)).

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    arXiv 1706.04599.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
    >>> print(expected_calibration_error(logits, jnp.array([0, 1])))
    0.25
    """
    confidence, correct, kept = _masked_confidence(logits, labels, where)
    count = jnp.maximum(jnp.sum(kept), 1)
    if scheme == "width":
        bins = jnp.clip(jnp.ceil(confidence * num_bins).astype(int) - 1, 0, num_bins - 1)
    else:
        order = argsort(jnp.where(kept, confidence, jnp.inf))
        ranks = jnp.zeros_like(order).at[order].set(jnp.arange(len(order)))
        bins = jnp.minimum(ranks * num_bins // count, num_bins - 1)
    gaps = jnp.where(kept, correct - confidence, 0)
    return jnp.sum(jnp.abs(jax.ops.segment_sum(gaps, bins, num_bins))) / count


@typed
def kolmogorov_smirnov_calibration_error(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Calibration error without bins: the largest gap between cumulated accuracy and confidence.

    max_m |sum_{i <= m} (correct_i - confidence_i)| / n with the examples sorted by confidence.

    `logits` (n, k); `labels` (n,) in [0, k); rows outside `where` do not count. Returns (), in
    [0, 1]. O(n (k + log n)).

    Gupta et al., "Calibration of Neural Networks using Splines", ICLR 2021, arXiv 2006.12800.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
    >>> print(kolmogorov_smirnov_calibration_error(logits, jnp.array([0, 1])))
    0.25
    """
    confidence, correct, kept = _masked_confidence(logits, labels, where)
    gaps = jnp.where(kept, correct - confidence, 0)[argsort(confidence)]
    return jnp.max(jnp.abs(jnp.cumsum(gaps)), initial=0) / jnp.maximum(jnp.sum(kept), 1)


@typed
def correctness_auroc(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Probability that a correct example is the more confident of a correct and a wrong one.

    The area under the ROC curve of the confidence as a detector of correctness; ties count half. It
    is 1/2 where all examples are correct or all wrong.

    `logits` (n, k); `labels` (n,) in [0, k); rows outside `where` do not count, and without any the
    result is 0. Returns (), without useful gradient. O(n (k + log n)).

    Hendrycks and Gimpel, "A Baseline for Detecting Misclassified and Out-of-Distribution Examples
    in Neural Networks", ICLR 2017, arXiv 1610.02136.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[3.0, 0.0], [1.0, 0.0], [2.0, 0.0]]), jnp.array([0, 1, 0])
    >>> print(correctness_auroc(logits, labels))
    1.0
    """
    confidence, correct, kept = _masked_confidence(logits, labels, where)
    confidence = jax.lax.stop_gradient(confidence)
    # The wrong ones sorted before the rest: how many lie below, and how many do not lie above.
    wrong = sort(jnp.where(kept & (correct == 0), confidence, jnp.inf))
    below, not_above = (jnp.searchsorted(wrong, confidence, side=s) for s in ("left", "right"))
    num_wrong = jnp.sum(kept & (correct == 0))
    wins = masked_mean((below + not_above).astype(confidence.dtype) / 2, kept & (correct == 1))
    num_right = jnp.sum(kept & (correct == 1))
    level = jnp.where(jnp.any(kept), 0.5, 0)
    mixed = (num_wrong > 0) & (num_right > 0)
    return jnp.where(mixed, wins / jnp.maximum(num_wrong, 1), level)
