"""The diffusion of class embeddings that all forms of NoProp share: levels, ends, embeddings.

Li, Teh and Pascanu, "NoProp: Training Neural Networks without Full Back-propagation or Full
Forward-propagation", CoLLAs 2025, arXiv 2503.24322.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import map_row_blocks, pairwise_squared_euclidean, sort, widen
from lossbench._math.autodiff import row_dot
from lossbench._typing import AnyArray, Float, Integer, Scalar, check, typed
from lossbench.score._common import like_rows

Readout = Callable[[jax.Array], jax.Array]


@typed
def cosine_alpha_bar(
    num_steps: int, *, offset: Scalar = 0.008, clip: Scalar = 1e-5
) -> Float[jax.Array, " levels"]:
    """Rising signal shares of `num_steps` (static) blocks: 1 - f(t) / f(0), t = 0 ... num_steps.

    f(t) = cos^2(pi / 2 (t / num_steps + offset) / (1 + offset)), clipped to [clip, 1 - clip].
    Returns (num_steps + 1,).

    Nichol and Dhariwal, ICML 2021, arXiv 2102.09672, run backwards.

    >>> print(cosine_alpha_bar(2, offset=0.0, clip=0.125))
    [0.125 0.5   0.875]
    """
    angle = jnp.pi / 2 * (jnp.linspace(0, 1, num_steps + 1) + offset) / (1 + offset)
    shares = 1 - jnp.square(jnp.cos(angle) / jnp.cos(angle[0]))
    return jnp.clip(shares, clip, 1 - clip)


@typed
def noprop_posterior_coefficients(
    alpha_bar: Float[AnyArray, " levels"],
) -> tuple[Float[jax.Array, " t"], Float[jax.Array, " t"], Float[jax.Array, " t"]]:
    """Return a, b, c (T,) of q(z_t | z_(t-1), u) = N(a_t u + b_t z_(t-1), c_t I), t = 1 ... T.

    With alpha = alpha_bar_(t-1) / alpha_bar_t: a = sqrt(alpha_bar_t) (1 - alpha) / (1 -
    alpha_bar_(t-1)), b = sqrt(alpha) (1 - alpha_bar_t) / (1 - alpha_bar_(t-1)), c = (1 -
    alpha_bar_t) (1 - alpha) / (1 - alpha_bar_(t-1)).

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax.numpy as jnp
    >>> a, b, c = noprop_posterior_coefficients(jnp.array([0.0, 0.25]))
    >>> print(a, b)
    [0.5] [0.]
    """
    alpha_bar = widen(alpha_bar)
    before, after = alpha_bar[:-1], alpha_bar[1:]
    alpha, rest = before / after, 1 - before
    return (
        jnp.sqrt(after) * (1 - alpha) / rest,
        jnp.sqrt(alpha) * (1 - after) / rest,
        (1 - after) * (1 - alpha) / rest,
    )


@typed
def radial_readout(
    z: Float[AnyArray, "n k"], embeddings: Float[AnyArray, "c k"], *, std: Scalar
) -> Float[jax.Array, "n c"]:
    """Log-probabilities of the classes whose embeddings, with Gaussian noise, may have made z.

    log_softmax of -|z - u_c|^2 / (2 std^2). `z` (n, k); `embeddings` u (c, k). Returns (n, c).

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax.numpy as jnp
    >>> print(jnp.exp(radial_readout(jnp.zeros((1, 2)), jnp.eye(2), std=0.1)))
    [[0.5 0.5]]
    """
    squared = pairwise_squared_euclidean(widen(z), widen(embeddings))
    return jax.nn.log_softmax(-squared / (2 * jnp.square(std))).astype(squared.dtype)


@typed
def prototype_embeddings(
    x: Float[AnyArray, "n *d"],
    labels: Integer[AnyArray, " n"],
    *,
    num_classes: int,
    chunk_size: int | None = None,
) -> Float[jax.Array, "c d"]:
    """Each class's example with the least median distance to the others of its class, flattened.

    Class embeddings to start from, where they have the size of the data. `x` (n, *d); `labels`
    (n,); `num_classes` and `chunk_size`, the rows whose distances are held at once, are static. The
    only example of a class is its prototype; a class without examples gets zeros. Returns
    (num_classes, d). O(n^2 (d + log n)).

    Li, Teh and Pascanu, CoLLAs 2025, arXiv 2503.24322.

    >>> import jax.numpy as jnp
    >>> x, labels = jnp.array([[0.0], [1.0], [5.0], [7.0]]), jnp.array([0, 0, 0, 1])
    >>> print(prototype_embeddings(x, labels, num_classes=2)[:, 0])
    [1. 7.]
    """
    x, labels = widen(x), jnp.asarray(labels)
    x = x.reshape(len(x), -1)
    members = labels == jnp.arange(num_classes)[:, None]

    def median(rows: jax.Array, classes: jax.Array, index: jax.Array) -> jax.Array:
        mates = (classes[:, None] == labels) & (index[:, None] != jnp.arange(len(labels)))
        distances = pairwise_squared_euclidean(rows, x)
        ordered = jnp.sqrt(sort(jnp.where(mates, distances, jnp.inf)))
        count = jnp.sum(mates, axis=1)
        middle = jnp.stack([(count - 1) // 2, count // 2], axis=1)
        both = jnp.take_along_axis(ordered, jnp.maximum(middle, 0), axis=1)
        return jnp.where(count == 0, 0, jnp.mean(both, axis=1))

    index = jnp.arange(len(labels))
    medians = map_row_blocks(median, lax.stop_gradient(x), labels, index, chunk_size=chunk_size)
    best = jnp.argmin(jnp.where(members, medians, jnp.inf), axis=1)
    return jnp.where(jnp.any(members, axis=1, keepdims=True), x[best], 0)


def noised(key: jax.Array, targets: jax.Array, alpha_bar: jax.Array) -> jax.Array:
    """Draw embeddings (n, k) at a signal share () or one for each row (n,)."""
    share = like_rows(alpha_bar, targets)
    noise = jax.random.normal(key, targets.shape, targets.dtype)
    return jnp.sqrt(share) * targets + jnp.sqrt(1 - share) * noise


def endpoint_loss(
    key: jax.Array,
    readout_fn: Readout,
    targets: jax.Array,
    labels: jax.Array,
    first: jax.Array,
    last: jax.Array,
) -> jax.Array:
    """Readout's cross-entropy at the last level, and the divergence of the first from noise."""
    logits = widen(readout_fn(noised(key, targets, last)))
    size = row_dot(targets, targets)
    divergence = (first * (size - targets.shape[1]) - targets.shape[1] * jnp.log1p(-first)) / 2
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels) + divergence


def class_targets(embeddings: jax.Array, labels: jax.Array) -> jax.Array:
    """Embeddings (n, k) of the labels' classes."""
    check(
        lambda: (labels >= 0) & (labels < len(embeddings)),
        f"labels must lie in [0, {len(embeddings)})",
    )
    return embeddings[labels]
