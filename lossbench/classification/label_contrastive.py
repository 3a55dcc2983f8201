"""Contrastive losses of features and labels: examples that share labels are drawn together."""

from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import map_row_blocks, masked_logsumexp, normalize, safe_sqrt, widen
from lossbench._typing import AnyArray, Bool, Float, Integer, Scalar, check, typed


def _contrast(
    features: AnyArray,
    labels: jax.Array,
    similarity: Callable[[jax.Array, jax.Array], jax.Array],
    temperature: Scalar,
    where: AnyArray | None,
    chunk_size: int | None,
) -> jax.Array:
    """Cross-entropy (n,) of each anchor's softmax over the others against their similarities.

    `similarity` maps the labels of a block of anchors and those of all examples to (block, n).
    """
    features = widen(features)
    kept = jnp.ones(len(features), bool) if where is None else jnp.asarray(where)
    # Zeroed: the derivative of what a masked row holds must be 0, not 0 times NaN.
    units = normalize(jnp.where(kept[:, None], features, 0))
    scale = 1 / jnp.asarray(temperature, units.dtype)
    check(lambda: scale > 0, "temperature must be positive")
    index = jnp.arange(len(units))

    def anchors(units_: jax.Array, labels_: jax.Array, index_: jax.Array, kept_: jax.Array):
        scores = scale * jnp.matmul(units_, units.T, precision=lax.Precision.HIGHEST)
        others = kept & (index_[:, None] != index)
        shares = jnp.where(others, similarity(labels_, labels), 0).astype(scores.dtype)
        total = jnp.sum(shares, axis=1)
        valid = kept_ & (total > 0)
        pull = jnp.sum(shares * scores, axis=1) / jnp.where(valid, total, 1)
        spread = masked_logsumexp(scores, others, axis=1)
        return jnp.where(valid, jnp.where(valid, spread, 0) - pull, 0)

    return map_row_blocks(anchors, units, labels, index, kept, chunk_size=chunk_size)


@typed
def feature_separation_loss(
    features: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, " n"],
    *,
    temperature: Scalar = 0.1,
    where: Bool[AnyArray, " n"] | None = None,
    chunk_size: int | None = None,
) -> Float[jax.Array, " n"]:
    """Supervised contrastive loss of each anchor: its class against the others, in features.

    -(mean over the other examples j of its class) log(e^(s_j) / sum_{i != anchor} e^(s_i)), where s
    are the cosines of the features with the anchor's over `temperature`. Without another example of
    its class an anchor's loss is 0.

    `features` (n, d); `labels` (n,); rows outside `where` are 0 and unseen; `chunk_size` (static)
    bounds the memory to chunk_size x n. Returns (n,). O(n^2 d).

    Khosla et al., "Supervised Contrastive Learning", NeurIPS 2020, arXiv 2004.11362; as the
    separation term of Wang et al., ICDM 2022, arXiv 2107.13639.

    >>> import jax.numpy as jnp
    >>> features = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> print(feature_separation_loss(features, jnp.array([0, 0, 1]), temperature=1.0).round(1))
    [0.3 0.3 0. ]
    """

    def same(anchors: jax.Array, others: jax.Array) -> jax.Array:
        return anchors[:, None] == others

    return _contrast(features, jnp.asarray(labels), same, temperature, where, chunk_size)


@typed
def multilabel_contrastive_loss(
    embeddings: Float[AnyArray, "n d"],
    labels: Integer[AnyArray, "n c"],
    *,
    similarity: Literal["jaccard", "any", "cosine"] = "jaccard",
    temperature: Scalar = 0.1,
    where: Bool[AnyArray, " n"] | None = None,
    chunk_size: int | None = None,
) -> Float[jax.Array, " n"]:
    """Supervised contrastive loss of each anchor with positives as similar as their sets of labels.

    -sum_j a_j log(e^(s_j) / sum_{i != anchor} e^(s_i)), where s are the cosines of the embeddings
    with the anchor's over `temperature`, and a_j the similarities of the labels, normalised to sum
    1: "jaccard" |A and B| / |A or B| (1 for two empty sets), "any" 1 where they share a label,
    "cosine" |A and B| / sqrt(|A| |B|). An anchor like no other has loss 0.

    `embeddings` (n, d); `labels` (n, c) in {0, 1}; `similarity` is static; rows outside `where` are
    0 and unseen; `chunk_size` (static) bounds the memory to chunk_size x n. Returns (n,).
    O(n^2 (d + c)).

    Aslam et al., "Improving Arabic Multi-Label Emotion Classification using Stacked Embeddings and
    Hybrid Loss Function", 2024, arXiv 2410.03979.

    >>> import jax.numpy as jnp
    >>> embeddings = jnp.array([[1.0, 0.0], [2.0, 0.0], [0.0, 1.0]])
    >>> labels = jnp.array([[1, 0], [1, 1], [0, 0]])
    >>> print(multilabel_contrastive_loss(embeddings, labels, temperature=1.0).round(1))
    [0.3 0.3 0. ]
    """
    dtype = widen(embeddings).dtype
    members = jnp.asarray(labels, dtype)

    def alike(anchors: jax.Array, others: jax.Array) -> jax.Array:
        shared = anchors @ others.T  # small whole numbers: exact in any precision
        if similarity == "any":
            return shared > 0
        sizes, other_sizes = jnp.sum(anchors, axis=1)[:, None], jnp.sum(others, axis=1)
        if similarity == "cosine":
            whole = safe_sqrt(sizes * other_sizes)
            return jnp.where(whole > 0, shared / jnp.where(whole > 0, whole, 1), 0)
        union = sizes + other_sizes - shared
        return jnp.where(union > 0, shared / jnp.where(union > 0, union, 1), 1)

    return _contrast(embeddings, members, alike, temperature, where, chunk_size)
