"""Label noise of every kind, and subsampling by class.

`rate` is the probability that a label is redrawn; it may be traced. Labels keep their dtype.
"""

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, check, typed


def _replace(
    key: PRNGKey, labels: jax.Array, drawn: jax.Array, rate: Scalar | jax.Array
) -> jax.Array:
    """Put the drawn labels in place of the given ones with probability `rate`."""
    rate = jnp.asarray(rate)
    check(lambda: (rate >= 0) & (rate <= 1), "rate must lie in [0, 1]")
    replaced = jax.random.bernoulli(key, rate, labels.shape)
    return jnp.where(replaced, drawn.astype(labels.dtype), labels)


def _as_labels(labels: AnyArray, num_classes: int) -> jax.Array:
    labels = jnp.asarray(labels)
    check(lambda: (labels >= 0) & (labels < num_classes), f"labels must lie in [0, {num_classes})")
    return labels


@typed
def symmetric_label_noise(
    key: PRNGKey, labels: Integer[AnyArray, " n"], *, num_classes: int, rate: Scalar
) -> Integer[jax.Array, " n"]:
    """Flip each label with probability `rate` to a uniformly drawn OTHER class.

    P(y' = y) = 1 - rate, P(y' = j) = rate / (num_classes - 1). `num_classes` >= 2 is static.

    >>> import jax, jax.numpy as jnp
    >>> key, labels = jax.random.key(0), jnp.array([0, 1, 1])
    >>> print(symmetric_label_noise(key, labels, num_classes=2, rate=1.0))
    [1 0 0]
    """
    labels = _as_labels(labels, num_classes)
    draw, replace = jax.random.split(key)
    shift = jax.random.randint(draw, labels.shape, 1, num_classes)
    return _replace(replace, labels, (labels + shift) % num_classes, rate)


@typed
def uniform_label_noise(
    key: PRNGKey, labels: Integer[AnyArray, " n"], *, num_classes: int, rate: Scalar
) -> Integer[jax.Array, " n"]:
    """Replace each label with probability `rate` by a uniformly drawn class, its own included.

    P(y' = j) = (1 - rate) [j = y] + rate / num_classes: the share that changes is
    rate (1 - 1 / num_classes). `num_classes` is static.

    Zhu, Ying and Yang, ICML 2023, arXiv 2112.14869.

    >>> import jax, jax.numpy as jnp
    >>> key, labels = jax.random.key(0), jnp.array([2, 0, 1])
    >>> print(uniform_label_noise(key, labels, num_classes=3, rate=0.0))
    [2 0 1]
    """
    labels = _as_labels(labels, num_classes)
    draw, replace = jax.random.split(key)
    return _replace(replace, labels, jax.random.randint(draw, labels.shape, 0, num_classes), rate)


@typed
def class_dependent_label_noise(
    key: PRNGKey,
    labels: Integer[AnyArray, " n"],
    *,
    target: Integer[AnyArray, " k"],
    rate: Scalar,
) -> Integer[jax.Array, " n"]:
    """Flip each label with probability `rate` to the class that its class is confused with.

    P(y' = target[y]) = rate; a class with target[y] = y stays clean. `target` (k,) in [0, k).

    >>> import jax, jax.numpy as jnp
    >>> key, labels, target = jax.random.key(0), jnp.array([0, 1, 2]), jnp.array([0, 2, 1])
    >>> print(class_dependent_label_noise(key, labels, target=target, rate=1.0))
    [0 2 1]
    """
    target = jnp.asarray(target)
    labels = _as_labels(labels, target.shape[0])
    return _replace(key, labels, target[labels], rate)


@typed
def pair_flip_label_noise(
    key: PRNGKey, labels: Integer[AnyArray, " n"], *, num_classes: int, rate: Scalar
) -> Integer[jax.Array, " n"]:
    """Flip each label with probability `rate` to the next class, y + 1 mod `num_classes` (static).

    >>> import jax, jax.numpy as jnp
    >>> key, labels = jax.random.key(0), jnp.array([0, 1, 2])
    >>> print(pair_flip_label_noise(key, labels, num_classes=3, rate=1.0))
    [1 2 0]
    """
    target = (jnp.arange(num_classes) + 1) % num_classes
    return class_dependent_label_noise(key, labels, target=target, rate=rate)


@typed
def instance_dependent_label_noise(
    key: PRNGKey,
    x: Float[AnyArray, "n ..."],
    labels: Integer[AnyArray, " n"],
    *,
    num_classes: int,
    rate: Scalar,
    std: Scalar = 0.1,
) -> Integer[jax.Array, " n"]:
    """Flip labels with a probability and to a class that depend on the example.

    Example i flips with probability q_i ~ Normal(rate, std^2) truncated to [0, 1], to a class drawn
    from softmax(x_i W_y) over the other classes, where each true class y has its own projection
    W_y ~ Normal(0, 1)^(d x num_classes). Give the x that the model sees: its scale sets how sharp
    the choice is.

    `x` (n, ...), flattened; `labels` (n,); `num_classes` >= 2, static. Returns (n,).
    O(n d num_classes^2) time, O((n + d) num_classes) memory.

    Xia et al., "Part-dependent Label Noise: Towards Instance-dependent Label Noise", NeurIPS 2020,
    arXiv 2006.07836, algorithm 2.

    >>> import jax, jax.numpy as jnp
    >>> key, x, labels = jax.random.key(0), jnp.ones((3, 2)), jnp.array([0, 1, 1])
    >>> noisy = instance_dependent_label_noise(key, x, labels, num_classes=2, rate=0.4)
    >>> bool(((noisy == 0) | (noisy == 1)).all())
    True
    """
    labels = _as_labels(labels, num_classes)
    x = widen(x).reshape(labels.shape[0], -1)
    rate, std = jnp.asarray(rate, x.dtype), jnp.asarray(std, x.dtype)
    project, flip, draw, replace = jax.random.split(key, 4)
    z = jax.random.truncated_normal(flip, -rate / std, (1 - rate) / std, labels.shape, x.dtype)
    rates = jnp.clip(rate + std * z, 0, 1)

    # Class by class: all projections at once would be num_classes times larger.
    def project_class(scores: jax.Array, label: jax.Array) -> tuple[jax.Array, None]:
        weights = jax.random.normal(
            jax.random.fold_in(project, label), (x.shape[1], num_classes), x.dtype
        )
        return jnp.where((labels == label)[:, None], x @ weights, scores), None

    empty = jnp.zeros((x.shape[0], num_classes), x.dtype)
    scores, _ = lax.scan(project_class, empty, jnp.arange(num_classes))
    own = jnp.arange(num_classes) == labels[:, None]
    drawn = jax.random.categorical(draw, jnp.where(own, -jnp.inf, scores))
    return _replace(replace, labels, drawn, rates)


@typed
def class_subsample(
    key: PRNGKey, labels: Integer[AnyArray, " n"], *, counts: tuple[int, ...]
) -> Integer[jax.Array, " m"]:
    """Positions of counts[c] randomly drawn examples of each class c, without replacement.

    `labels` (n,) in [0, len(counts)); `counts` is static; a class with too few examples is reported
    by `lossbench.checked`. Returns (sum(counts),), ordered by class. O(n log n).

    >>> import jax, jax.numpy as jnp
    >>> chosen = class_subsample(jax.random.key(0), jnp.array([1, 0, 1, 1]), counts=(1, 2))
    >>> print(jnp.array([1, 0, 1, 1])[chosen])
    [0 1 1]
    """
    labels = _as_labels(labels, len(counts))
    order = jax.random.permutation(key, labels.shape[0])
    order = order[jnp.argsort(labels[order], stable=True)]
    ends = jnp.searchsorted(labels[order], jnp.arange(len(counts) + 1))
    check(
        lambda: jnp.diff(ends) >= jnp.asarray(counts), f"too few examples of a class for {counts}"
    )
    return order[jnp.concatenate([ends[c] + jnp.arange(m) for c, m in enumerate(counts)])]
