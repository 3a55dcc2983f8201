"""Calibration after training that minds whether predictions are right, not how likely labels are.

Liu, Wang, Zou, Zou and Zheng, "Optimizing Calibration by Gaining Aware of Prediction Correctness",
2024, arXiv 2404.13016. Cross-entropy raises the confidence of a wrong prediction whose true class
has an above-average logit; the correctness-aware loss lowers it. A small network gives each example
its temperature, from how the probabilities of its leading classes change under transformations of
the input.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Bool, Float, Integer, PRNGKey, Scalar, check, typed
from lossbench.classification._common import (
    check_labels,
    confidence_and_correctness,
    take_label,
)

# Where `temperature_scaling` looks.
_LOWEST, _HIGHEST = 1e-2, 1e2


@typed
def correctness_aware_loss(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    norm: Literal["squared", "absolute"] = "squared",
) -> Float[jax.Array, " n"]:
    """Correctness-aware loss of each example: its confidence against its being right or wrong.

    (c - a)^2 or |c - a|, with c the largest probability of softmax(logits) and a = 1 where that
    class is the label, else 0. Of all functions of what the confidence may depend on, the
    probability of being right minimises the squared form (it is a Brier score), and the mean of the
    absolute form bounds every expected calibration error.

    `logits` (n, k), already calibrated; `labels` (n,) in [0, k); `norm` is static. Returns (n,).
    O(n k).

    Liu et al., arXiv 2404.13016, 2024.

    >>> import jax.numpy as jnp
    >>> logits = jnp.log(jnp.array([[0.75, 0.25], [0.75, 0.25]]))
    >>> print(correctness_aware_loss(logits, jnp.array([0, 1])))
    [0.0625 0.5625]
    """
    confidence, correct = confidence_and_correctness(logits, labels)
    gap = jnp.where(correct, 1 - confidence, confidence)
    return jnp.square(gap) if norm == "squared" else gap


@typed
def correctness_balance_weights(
    logits: Float[AnyArray, "n k"],
    labels: Integer[AnyArray, " n"],
    *,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """Weights that give the right and the wrong predictions of a batch half the mass each.

    1 / (2 number right) for a right one, 1 / (2 number wrong) for a wrong one; equal weights where
    there are only such or only such. They sum to 1. The authors' loss is their sum with
    `correctness_aware_loss`: it separates right from wrong at the price of confidences near 1/2.

    `logits` (n, k); `labels` (n,) in [0, k); rows outside `where` get 0. Returns (n,). O(n k).

    Liu et al., arXiv 2404.13016, 2024.

    >>> import jax.numpy as jnp
    >>> logits, labels = jnp.array([[2.0, 0.0], [2.0, 0.0], [2.0, 0.0]]), jnp.array([0, 0, 1])
    >>> print(correctness_balance_weights(logits, labels))
    [0.25 0.25 0.5 ]
    """
    kept = jnp.ones(len(logits), bool) if where is None else jnp.asarray(where)
    logits = jnp.where(kept[:, None], widen(logits), 0)
    _, correct = confidence_and_correctness(logits, jnp.where(kept, labels, 0))
    right, wrong = jnp.sum(kept & correct), jnp.sum(kept & ~correct)
    sides = jnp.where((right > 0) & (wrong > 0), 2, 1)
    members = sides * jnp.maximum(jnp.where(correct, right, wrong), 1)
    return jnp.where(kept, 1 / members.astype(logits.dtype), 0)


@typed
def consistency_features(
    logits: Float[AnyArray, "n k"], views: Float[AnyArray, "n v k"], *, top_k: int = 4
) -> Float[jax.Array, "n f"]:
    """What transformed views of an example say of the classes that lead in the original.

    The probabilities softmax(views) of the min(top_k, k) most probable classes of `logits`, in
    their order there, one view after the other.

    `logits` (n, k) of the originals; `views` (n, v, k), those of v transformations of each (the
    paper takes rotation, greyscale and colour jitter); `top_k` is static. Returns
    (n, v min(top_k, k)). O(n v k).

    Liu et al., arXiv 2404.13016, 2024.

    >>> import jax.numpy as jnp
    >>> logits, views = jnp.array([[0.0, 2.0, 1.0]]), jnp.log(jnp.array([[[0.125, 0.5, 0.375]]]))
    >>> print(consistency_features(logits, views, top_k=2))
    [[0.5   0.375]]
    """
    _, leading = lax.top_k(logits, min(top_k, logits.shape[1]))
    chosen = jnp.take_along_axis(jax.nn.softmax(widen(views), axis=2), leading[:, None], axis=2)
    return chosen.reshape(len(chosen), -1)


class TemperatureNetwork(NamedTuple):
    """Weights of a network with one hidden layer from f features to a temperature.

    Attributes:
        hidden_weights: (f, h).
        hidden_bias: (h,).
        weights: (h,).
        bias: ().
    """

    hidden_weights: jax.Array
    hidden_bias: jax.Array
    weights: jax.Array
    bias: jax.Array


@typed
def temperature_network_init(
    key: PRNGKey, num_features: int, *, hidden: int = 5
) -> TemperatureNetwork:
    """Weights of a temperature network: random (He) below, zeros above; every temperature is 1.

    Liu et al., arXiv 2404.13016, 2024.

    >>> import jax
    >>> network = temperature_network_init(jax.random.key(0), 12)
    >>> print(network_temperatures(network, jax.numpy.ones((2, 12))).round(4))
    [1. 1.]
    """
    scale = jnp.sqrt(2 / num_features)
    return TemperatureNetwork(
        scale * jax.random.normal(key, (num_features, hidden)),
        jnp.zeros(hidden),
        jnp.zeros(hidden),
        jnp.zeros(()),
    )


@typed
def network_temperatures(
    network: TemperatureNetwork,
    features: Float[AnyArray, "n f"],
    *,
    min_temperature: Scalar = 0.1,
    max_temperature: Scalar = 10.0,
) -> Float[jax.Array, " n"]:
    """Temperature of each example, by which to divide its logits; no prediction changes.

    min(min_temperature + softplus(w . relu(W features + b) + b' + s), max_temperature), s such that
    the temperature of a network of zeros is 1. (The authors clip where this takes a softplus: below
    the clip nothing would be learned.)

    `network`: see `temperature_network_init`; `features` (n, f), see `consistency_features`;
    `min_temperature` < 1. Returns (n,). O(n f h).

    Liu et al., arXiv 2404.13016, 2024.

    >>> import jax.numpy as jnp
    >>> network = TemperatureNetwork(jnp.eye(2), jnp.zeros(2), jnp.array([2.0, 2.0]), jnp.zeros(()))
    >>> print(network_temperatures(network, jnp.array([[0.0, 0.0], [0.0, 2.0]])).round(2))
    [1.   4.49]
    """
    features = widen(features)
    lowest = jnp.asarray(min_temperature, features.dtype)
    check(lambda: lowest < 1, "min_temperature must be below 1, got {value}", value=lowest)
    hidden = jax.nn.relu(features @ network.hidden_weights + network.hidden_bias)
    start = jnp.log(jnp.expm1(1 - lowest))
    output = hidden @ network.weights + network.bias + start
    return jnp.minimum(
        lowest + jax.nn.softplus(output), jnp.asarray(max_temperature, features.dtype)
    )


@typed
def temperature_scaling(
    logits: Float[AnyArray, "n k"], labels: Integer[AnyArray, " n"]
) -> Float[jax.Array, ""]:
    """The one temperature at which softmax(logits / T) gives the labels the largest likelihood.

    The mean negative log-likelihood is convex in 1 / T; its derivative, the mean logit expected
    under the softmax less the label's, is brought to 0 by bisection of log T in [0.01, 100].

    `logits` (n, k) on examples not trained on; `labels` (n,) in [0, k). Returns (), without
    gradient. O(40 n k).

    Guo, Pleiss, Sun and Weinberger, "On Calibration of Modern Neural Networks", ICML 2017,
    arXiv 1706.04599.

    >>> import jax.numpy as jnp
    >>> logits = 3 * jnp.log(jnp.array([[0.75, 0.25]] * 4))
    >>> print(temperature_scaling(logits, jnp.array([0, 0, 0, 1])).round(4))
    3.0
    """
    check_labels(labels, logits.shape[1])
    logits = lax.stop_gradient(widen(logits))
    observed = jnp.mean(take_label(logits, labels))

    def halve(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        probabilities = jax.nn.softmax(logits * jnp.exp(-middle), axis=1)
        # Sharper than the labels bear out: a larger temperature is due.
        sharp = jnp.mean(jnp.sum(probabilities * logits, axis=1)) > observed
        return jnp.where(sharp, middle, low), jnp.where(sharp, high, middle)

    low, high = (jnp.log(jnp.asarray(end, logits.dtype)) for end in (_LOWEST, _HIGHEST))
    low, high = lax.fori_loop(0, 40, halve, (low, high))
    return jnp.exp((low + high) / 2)
