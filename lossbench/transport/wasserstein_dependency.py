"""Dependence of two variables as the Wasserstein distance of their joint law from independence.

Ozair, Lynch, Bengio, van den Oord, Levine and Sermanet, "Wasserstein Dependency Measure for
Representation Learning", NeurIPS 2019, arXiv 1903.11780. A critic of bounded slope must spend it on
every factor, where one that only has to win a contrast stops at log n nats.
"""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax

from lossbench._math import normalize, pairwise_euclidean, safe_norm, safe_sqrt, widen
from lossbench._typing import AnyArray, Bool, Float, PRNGKey, Scalar, typed

Critic = Callable[[Any, Any], Any]


def _partners(key: PRNGKey, n: int) -> jax.Array:
    """Another example for each of n, each once: the examples in a random circle."""
    order = jax.random.permutation(key, n)
    return jnp.zeros(n, order.dtype).at[order].set(jnp.roll(order, 1))


@typed
def wasserstein_dependency(
    key: PRNGKey,
    x: Float[AnyArray, "n dx"],
    y: Float[AnyArray, "n dy"],
    *,
    metric: Literal["joint", "sum"] = "joint",
    count: int = 1,
    debiased: bool = False,
) -> Float[jax.Array, ""]:
    """Wasserstein dependency measure of two variables, estimated from pairs.

    W_1 between the pairs (x_i, y_i) and as many pairs (x_i, y_j), j a random partner other than i:
    exact transport between the two samples, averaged over `count` draws of partners. It is 0 for
    independent variables only in the limit; `debiased` takes off its value with y shuffled. It
    scales with the data and does not change under isometries of x and of y; unlike mutual
    information it does under other maps.

    Args:
        key: draws the partners.
        x: first variables, `(n, dx)`.
        y: second variables, `(n, dy)`.
        metric: static; on pairs, the Euclidean norm of both together, or the "sum" of both norms.
        count: static number of draws.
        debiased: static.

    Returns a scalar, differentiable by x and y. O(count n^3), one step after the other: n up to a
    thousand.

    Ozair et al., NeurIPS 2019, arXiv 1903.11780.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (50, 1))
    >>> y = jax.random.normal(jax.random.key(1), (50, 1))
    >>> key = jax.random.key(2)
    >>> wasserstein_dependency(key, x, x).item() > wasserstein_dependency(key, x, y).item()
    True
    """
    x, y = widen(x), widen(y)
    n = len(x)

    def estimate(key: jax.Array, y: jax.Array) -> jax.Array:
        other = y[_partners(key, n)]
        if metric == "joint":
            cost = pairwise_euclidean(
                jnp.concatenate([x, y], axis=1), jnp.concatenate([x, other], axis=1)
            )
        else:
            cost = pairwise_euclidean(x) + pairwise_euclidean(y, other)
        rows, columns = optax.assignment.hungarian_algorithm(lax.stop_gradient(cost))
        return jnp.mean(cost[rows, columns])

    def draw(key: jax.Array) -> jax.Array:
        if not debiased:
            return estimate(key, y)
        shuffle, *keys = jax.random.split(key, 3)
        return estimate(keys[0], y) - estimate(keys[1], jax.random.permutation(shuffle, y))

    return jnp.mean(lax.map(draw, jax.random.split(key, count)))


def _scores(
    embeddings: AnyArray, positives: AnyArray, scale: Scalar, where: AnyArray | None
) -> tuple[jax.Array, jax.Array]:
    """scale <g(x_i), h(y_j)>, and which pairs are there."""
    embeddings, positives = widen(embeddings), widen(positives)
    there = jnp.ones(len(embeddings), bool) if where is None else jnp.asarray(where)
    embeddings = jnp.where(there[:, None], embeddings, 0)
    positives = jnp.where(there[:, None], positives, 0)
    inner = jnp.matmul(embeddings, positives.T, precision=lax.Precision.HIGHEST)
    return jnp.asarray(scale, inner.dtype) * inner, there


@typed
def wpc_loss(
    embeddings: Float[AnyArray, "n d"],
    positives: Float[AnyArray, "n d"],
    *,
    scale: Scalar = 1.0,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, " n"]:
    """Contrastive cross-entropy of each pair, the loss of Wasserstein and contrastive coding.

    -f(x_i, y_i) + log sum_j exp f(x_i, y_j), with the critic f(x, y) = scale <g(x), h(y)>. log n
    less its mean is a lower bound of the mutual information, whatever the critic, and at most
    log n. With slopes bounded, by `critic_gradient_penalty` or `spectral_normalize`, it is
    Wasserstein predictive coding; with no bound contrastive predictive coding (InfoNCE). As scale
    goes to 0, (log n - mean) / scale goes to (n - 1) / n times `wasserstein_dependency_dual`.

    `embeddings` g(x_i) and `positives` h(y_i), (n, d); `where` says which pairs are there. Returns
    (n,), 0 for those that are not. O(n^2 d). For another critic's scores, true pairs on the
    diagonal, it is optax's softmax cross-entropy with the labels 0 ... n - 1.

    Ozair et al., NeurIPS 2019, arXiv 1903.11780; van den Oord, Li and Vinyals, "Representation
    Learning with Contrastive Predictive Coding", 2018, arXiv 1807.03748.

    >>> import jax.numpy as jnp
    >>> print(wpc_loss(jnp.zeros((4, 2)), jnp.ones((4, 2))).round(4))
    [1.3863 1.3863 1.3863 1.3863]
    """
    scores, there = _scores(embeddings, positives, scale, where)
    # A row that is not there keeps its diagonal, so that its sum is not empty.
    kept = (there[:, None] & there) | jnp.eye(len(scores), dtype=bool)
    value = jax.nn.logsumexp(scores, axis=1, where=kept) - jnp.diagonal(scores)
    return jnp.where(there, value, 0)


@typed
def wasserstein_dependency_dual(
    embeddings: Float[AnyArray, "n d"],
    positives: Float[AnyArray, "n d"],
    *,
    scale: Scalar = 1.0,
    where: Bool[AnyArray, " n"] | None = None,
) -> Float[jax.Array, ""]:
    """Dual value of a critic: its mean over true pairs less that over the other pairs.

    mean_i f(x_i, y_i) - mean_{i != j} f(x_i, y_j) with f(x, y) = scale <g(x), h(y)>: in
    expectation at most L times the Wasserstein dependency measure for a critic of Lipschitz
    constant L.

    `embeddings` g(x_i) and `positives` h(y_i), (n, d); `where` says which pairs are there. Returns
    a scalar, 0 where there are fewer than two pairs. O(n^2 d).

    Ozair et al., NeurIPS 2019, arXiv 1903.11780.

    >>> import jax.numpy as jnp
    >>> print(wasserstein_dependency_dual(jnp.eye(3), jnp.eye(3)))
    1.0
    """
    scores, there = _scores(embeddings, positives, scale, where)
    # The embeddings of what is not there are 0, and so are its scores.
    n, own = jnp.sum(there), jnp.trace(scores)
    others = (jnp.sum(scores) - own) / jnp.maximum(n * (n - 1), 1)
    return jnp.where(n > 1, own / jnp.maximum(n, 1) - others, 0)


@typed
def critic_gradient_penalty(
    key: PRNGKey,
    critic: Critic,
    x: Float[AnyArray, "n *dx"],
    y: Float[AnyArray, "n *dy"],
    *,
    target: Scalar = 1.0,
    one_sided: bool = True,
    points: Literal["mixed", "both"] = "mixed",
) -> Float[jax.Array, " n"]:
    """How far a critic's slope exceeds its bound between true and random pairs, squared.

    max(0, |grad f| - target)^2 at (x_i, t y_i + (1 - t) y_j), with t uniform and j another example
    (each is another's partner once), or (|grad f| - target)^2 if not `one_sided`; the
    gradient is by both arguments together.

    Args:
        key: draws t and the partners.
        critic: f, of one x and one y, twice differentiable almost everywhere; no batch norm.
        x: first variables, `(n, ...)`, of the order of 1 to 10 apart, else `target` means little.
        y: second variables, `(n, ...)`.
        target: bound on the slope.
        one_sided: static.
        points: static; "both" moves x towards x_j as well.

    Returns (n,). n gradients of the critic.

    Ozair et al., NeurIPS 2019, arXiv 1903.11780; Gulrajani et al., "Improved Training of
    Wasserstein GANs", NeurIPS 2017, arXiv 1704.00028.

    >>> import jax
    >>> x = jax.random.normal(jax.random.key(0), (3, 2))
    >>> print(critic_gradient_penalty(jax.random.key(1), lambda x, y: 3 * x[0] + 4 * y[0], x, x))
    [16. 16. 16.]
    """
    x, y = widen(x), widen(y)
    n = len(x)
    mix_key, partner_key = jax.random.split(key)
    partner = _partners(partner_key, n)
    share = jax.random.uniform(mix_key, (n,), x.dtype)

    def between(z: jax.Array) -> jax.Array:
        t = share.reshape(-1, *[1] * (z.ndim - 1))
        return t * z + (1 - t) * z[partner]

    at_x = between(x) if points == "both" else x
    by_x, by_y = jax.vmap(jax.grad(critic, (0, 1)))(at_x, between(y))
    both = jnp.concatenate([by_x.reshape(n, -1), by_y.reshape(n, -1)], axis=1)
    excess = safe_norm(both, axis=1) - jnp.asarray(target, x.dtype)
    return jnp.square(jnp.maximum(excess, 0) if one_sided else excess)


class SpectralNormState(NamedTuple):
    """The left singular vector that the power iteration of `spectral_normalize` carries."""

    u: jax.Array


@typed
def spectral_norm_init(key: PRNGKey, kernel: Float[AnyArray, "d k"]) -> SpectralNormState:
    """Start of the power iteration for a kernel (d, k): a random unit vector.

    >>> import jax
    >>> spectral_norm_init(jax.random.key(0), jax.numpy.ones((3, 2))).u.shape
    (3,)
    """
    return SpectralNormState(normalize(jax.random.normal(key, (len(kernel),), widen(kernel).dtype)))


@typed
def spectral_normalize(
    state: SpectralNormState,
    kernel: Float[AnyArray, "d k"],
    *,
    scale: Scalar = 1.0,
    num_iters: int = 1,
) -> tuple[Float[jax.Array, "d k"], SpectralNormState]:
    """The kernel at most `scale` in spectral norm, by power iteration: a bound on a critic's slope.

    W scale / max(sigma, scale), sigma = u^T W v. A network whose kernels are all normalised, with
    activations of slope at most 1, has at most the product of the scales as its Lipschitz constant.
    sigma is from below and exact in the limit of many calls.

    `kernel` (d, k); `num_iters` is static. Returns the kernel and the state for the next call.
    O(num_iters d k).

    Miyato, Kataoka, Koyama and Yoshida, "Spectral Normalization for Generative Adversarial
    Networks", ICLR 2018, arXiv 1802.05957.

    >>> import jax
    >>> kernel = jax.numpy.diag(jax.numpy.array([4.0, 1.0]))
    >>> state = spectral_norm_init(jax.random.key(0), kernel)
    >>> print(spectral_normalize(state, kernel, num_iters=20)[0].round(4))
    [[1.   0.  ]
     [0.   0.25]]
    """
    kernel = widen(kernel)
    still = lax.stop_gradient(kernel)

    def iterate(_: int, u: jax.Array) -> jax.Array:
        return normalize(still @ normalize(still.T @ u))

    u = lax.fori_loop(0, num_iters, iterate, lax.stop_gradient(state.u.astype(kernel.dtype)))
    sigma = u @ kernel @ normalize(still.T @ u)
    scale = jnp.asarray(scale, kernel.dtype)
    return kernel * (scale / jnp.maximum(sigma, scale)), SpectralNormState(u)


@typed
def gaussian_dependency(correlation: Float[AnyArray, "*shape"]) -> Float[jax.Array, "*shape"]:
    """Squared W_2 dependence of two standard normal variables, each correlation.

    4 - 2 sqrt(1 + r) - 2 sqrt(1 - r), for the Euclidean norm of the pair: an upper bound of W_1
    squared, 0 at independence, at most 4 - 2 sqrt 2 at r = 1, where the mutual information is
    infinite. Independent pairs add up.

    Correlations in [-1, 1], of any shape, beyond them as at the ends, where the derivative is taken
    as that of the other root. Returns the same shape.

    Ozair et al., NeurIPS 2019, arXiv 1903.11780, and the Bures distance.

    >>> import jax.numpy as jnp
    >>> print(gaussian_dependency(jnp.array([0.0, 1.0])).round(3))
    [0.    1.172]
    """
    r = jnp.clip(widen(correlation), -1, 1)
    # (sqrt(1 + r) - 1)^2 + (sqrt(1 - r) - 1)^2, without their cancellation.
    return (r / (1 + safe_sqrt(1 + r))) ** 2 + (r / (1 + safe_sqrt(1 - r))) ** 2
