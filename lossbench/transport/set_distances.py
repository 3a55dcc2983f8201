"""Statistical distances between two sets of points, of each item of a batch.

Chatterjee et al., "PULASki: Learning inter-rater variability using statistical distances to improve
probabilistic segmentation", Medical Image Analysis 2025, arXiv 2312.15686, compares the set of a
model's predictions with the set of the raters' masks. A point may have any shape (an image, a
volume) and is flattened: distances are Euclidean over its entries.
"""

from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import pairwise_euclidean, pairwise_squared_euclidean, widen
from lossbench._typing import AnyArray, Float, Scalar, check, typed

Weights = Float[AnyArray, "b n"] | None
Exponent = Literal[1, 2]
Measure = tuple[jax.Array, jax.Array]
"""Points and their weights, with or without the axis of the items."""


def _measure(points: AnyArray, weights: AnyArray | None) -> Measure:
    """Points flattened to (b, n, p) and their weights (b, n); points of weight 0 become 0."""
    points = widen(points)
    b, n = points.shape[:2]
    points = points.reshape(b, n, -1)
    if weights is None:
        return points, jnp.full((b, n), 1 / n, points.dtype)
    weights = jnp.asarray(weights, points.dtype)
    check(
        lambda: (weights >= 0) & (jnp.abs(jnp.sum(weights, axis=1, keepdims=True) - 1) < 1e-3),
        "weights must be at least 0 and sum to 1, got {weights}",
        weights=weights,
    )
    return jnp.where(weights[..., None] > 0, points, 0), weights


def _bilinear(left: jax.Array, matrix: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.einsum("bn,bnm,bm->b", left, matrix, right, precision=lax.Precision.HIGHEST)


@partial(jax.jit, static_argnames=("unbiased",))
def _energy(predictions: Measure, masks: Measure, unbiased: bool) -> jax.Array:
    (x, a), (y, b) = predictions, masks
    within = _bilinear(a, jax.vmap(pairwise_euclidean)(x), a)
    if unbiased:
        distinct = 1 - jnp.sum(a * a, axis=1)
        within = jnp.where(distinct > 0, within / jnp.where(distinct > 0, distinct, 1), 0)
    between = _bilinear(a, jax.vmap(pairwise_euclidean)(x, y), b)
    return between - within / 2 - _bilinear(b, jax.vmap(pairwise_euclidean)(y), b) / 2


@typed
def energy_set_loss(
    predictions: Float[AnyArray, "b n *shape"],
    masks: Float[AnyArray, "b r *shape"],
    *,
    unbiased: bool = False,
    prediction_weights: Weights = None,
    mask_weights: Float[AnyArray, "b r"] | None = None,
) -> Float[jax.Array, " b"]:
    """Half of the energy distance between the sets of predictions and of masks, for each item.

    mean_ij |s_i - y_j| - 1/2 mean_ii' |s_i - s_i'| - 1/2 mean_jj' |y_j - y_j'| with the Euclidean
    norm, not squared. It is at least 0, and 0 only where the sets agree as measures. A prediction
    is pulled to each mask and pushed from each other prediction by a force of constant length,
    however few pixels they differ in: rare foreground counts. (The authors' code calls it the
    Hausdorff loss; `hausdorff_divergence` is another function.)

    The mean over pairs of predictions includes each with itself, as in the authors' code, so the
    reward for spread is (n - 1) / n of the population's. `unbiased` (static) averages over distinct
    pairs: then the expected value has its minimum at the masks' distribution, but may be negative.

    `predictions` (b, n, ...), n of each item; `masks` (b, r, ...); weights (b, n) and (b, r) that
    sum to 1, by default uniform; what has weight 0 (a rater who is missing) may hold anything.
    Returns (b,). The gradient between two equal points is 0. O(b (n + r)^2 p) for p entries a
    point.

    Szekely and Rizzo, "Energy statistics", JSPI 2013; as a loss between predictions and masks
    Chatterjee et al., Medical Image Analysis 2025, arXiv 2312.15686.

    >>> import jax.numpy as jnp
    >>> print(energy_set_loss(jnp.array([[[0.0], [2.0]]]), jnp.array([[[0.0], [0.0]]])))
    [0.5]
    """
    measures = _measure(predictions, prediction_weights), _measure(masks, mask_weights)
    return _energy(*measures, unbiased)


def _cost(x: jax.Array, y: jax.Array | None, p: Exponent) -> jax.Array:
    if p == 2:
        return pairwise_squared_euclidean(x, y) / 2
    return pairwise_euclidean(x, y)


def _soft_min(
    cost: jax.Array, potential: jax.Array, weights: jax.Array, epsilon: jax.Array
) -> jax.Array:
    """-epsilon log sum_j w_j exp((g_j - c_ij) / epsilon), of each row i."""
    return -epsilon * jax.nn.logsumexp((potential - cost) / epsilon, axis=1, b=weights)


def _potential(
    cost: jax.Array,
    a: jax.Array,
    b: jax.Array,
    epsilon: jax.Array,
    tolerance: float,
    max_iterations: int,
) -> jax.Array:
    """The potential g (m,) of the columns at the solution of an entropic problem."""
    from ott.geometry.geometry import Geometry
    from ott.problems.linear.linear_problem import LinearProblem

    from lossbench.transport.sinkhorn_newton import sinkhorn_newton

    scale: Any = epsilon  # ott's annotation asks for a Python number, its code does not
    problem = LinearProblem(Geometry(cost, epsilon=scale), a, b)
    out = sinkhorn_newton(problem, tolerance=tolerance, max_iterations=max_iterations)
    # ott's plan is exp((f + g - c) / epsilon); ours has the weights in front.
    g = out.g - epsilon * jnp.log(jnp.where(b > 0, b, 1))
    return jnp.where(b > 0, g, 0)


def _self_potential(cost: jax.Array, weights: jax.Array, epsilon: jax.Array) -> jax.Array:
    """The fixed point f = soft_min(cost, f) (n,): the potential from a measure to itself.

    Averaged iterations halve the error at least; a Newton step then squares what is left, and its
    derivative with the iterations held fixed is the implicit derivative of the fixed point.
    """
    fixed_cost, fixed_weights, fixed_epsilon = lax.stop_gradient((cost, weights, epsilon))

    def average(_: int, f: jax.Array) -> jax.Array:
        return (f + _soft_min(fixed_cost, f, fixed_weights, fixed_epsilon)) / 2

    f = lax.stop_gradient(lax.fori_loop(0, 20, average, jnp.zeros_like(fixed_weights)))
    # The plan has rows that sum to 1 and, as these kernels are positive definite, eigenvalues in
    # [0, 1], so the system is well conditioned.
    plan = jax.nn.softmax(jnp.log(fixed_weights) + (f - fixed_cost) / fixed_epsilon, axis=1)
    residual = f - _soft_min(cost, f, weights, epsilon)
    return f - jnp.linalg.solve(jnp.eye(len(f), dtype=f.dtype) + plan, residual)


@partial(jax.jit, static_argnames=("p", "tolerance", "max_iterations"))
def _sinkhorn(
    predictions: Measure,
    masks: Measure,
    epsilon: jax.Array,
    p: Exponent,
    tolerance: float,
    max_iterations: int,
) -> jax.Array:
    def divergence(predictions: Measure, masks: Measure) -> jax.Array:
        (x, a), (y, b) = predictions, masks
        cost = _cost(x, y, p)
        fixed = lax.stop_gradient((cost, a, b, epsilon))
        g = lax.stop_gradient(_potential(*fixed, tolerance, max_iterations))
        # The semi-dual, whose derivative by the cost at the optimal g is the plan.
        value = a @ _soft_min(cost, g, b, epsilon) + b @ g
        value -= a @ _self_potential(_cost(x, None, p), a, epsilon)
        return value - b @ _self_potential(_cost(y, None, p), b, epsilon)

    return jax.vmap(divergence)(predictions, masks)


@partial(jax.jit, static_argnames=("p",))
def _hausdorff(predictions: Measure, masks: Measure, epsilon: jax.Array, p: Exponent) -> jax.Array:
    def divergence(predictions: Measure, masks: Measure) -> jax.Array:
        (x, a), (y, b) = predictions, masks
        cost = _cost(x, y, p)
        own_x = _self_potential(_cost(x, None, p), a, epsilon)
        own_y = _self_potential(_cost(y, None, p), b, epsilon)
        at_x = a @ (_soft_min(cost, own_y, b, epsilon) - own_x)
        at_y = b @ (own_y - _soft_min(cost.T, own_x, a, epsilon))
        return (at_x - at_y) / 2

    return jax.vmap(divergence)(predictions, masks)


@typed
def sinkhorn_set_loss(
    predictions: Float[AnyArray, "b n *shape"],
    masks: Float[AnyArray, "b r *shape"],
    *,
    blur: Scalar = 0.05,
    p: Exponent = 2,
    prediction_weights: Weights = None,
    mask_weights: Float[AnyArray, "b r"] | None = None,
    tolerance: float = 1e-4,
    max_iterations: int = 100,
) -> Float[jax.Array, " b"]:
    """Sinkhorn divergence between the sets of predictions and of masks, for each item.

    OT(s, y) - OT(s, s) / 2 - OT(y, y) / 2 with OT(a, b) = min <P, C> + epsilon KL(P | a b^T),
    epsilon = blur^p and C = |u - v|^2 / 2 for p = 2, |u - v| for p = 1. Distances between images
    grow as the root of the number of pixels that change, so at the default blur, geomloss's, it is
    all but the exact assignment; a blur of the order of the distances tends to the energy distance.

    `predictions` (b, n, ...), n of each item; `masks` (b, r, ...); weights (b, n) and (b, r) that
    sum to 1, by default uniform; what has weight 0 may hold anything. `p`, `tolerance` (of the
    marginals, in l1) and `max_iterations` are static; an unconverged solve gives a lower bound of
    OT(s, y). Returns (b,). The gradient is that at the optimal plan, so second derivatives by the
    points hold the plan's potentials fixed. O(b (n + r)^2 p + iterations b n r).

    Genevay, Peyre and Cuturi, "Learning Generative Models with Sinkhorn Divergences", AISTATS 2018,
    arXiv 1706.00292; as a loss between predictions and masks Chatterjee et al., 2025, arXiv
    2312.15686.

    >>> import jax.numpy as jnp
    >>> print(sinkhorn_set_loss(jnp.array([[[0.0], [2.0]]]), jnp.array([[[2.0], [2.0]]])).round(2))
    [1.]
    """
    x, y = _measure(predictions, prediction_weights), _measure(masks, mask_weights)
    epsilon = jnp.asarray(blur, x[0].dtype) ** p
    return _sinkhorn(x, y, epsilon, p, tolerance, max_iterations)


@typed
def hausdorff_divergence(
    predictions: Float[AnyArray, "b n *shape"],
    masks: Float[AnyArray, "b r *shape"],
    *,
    blur: Scalar = 0.05,
    p: Exponent = 2,
    prediction_weights: Weights = None,
    mask_weights: Float[AnyArray, "b r"] | None = None,
) -> Float[jax.Array, " b"]:
    """Hausdorff divergence between the sets of predictions and of masks, for each item.

    1/2 <s - y, f_y - f_s> with f_s = -epsilon log sum_i s_i exp((f_s(x_i) - C(., x_i)) / epsilon)
    the potential of OT(s, s), at all points: the symmetrised Bregman divergence of the Sinkhorn
    entropy. epsilon = blur^p and C = |u - v|^2 / 2 for p = 2, |u - v| for p = 1. As epsilon -> 0 it
    compares each point with the nearest of the other set. No transport problem between the sets is
    solved.

    Arguments as those of `sinkhorn_set_loss`. Returns (b,). O(b (n + r)^2 (p + n + r)).

    Feydy, "Geometric data analysis, beyond convolutions", thesis, 2020; Feydy et al.,
    "Interpolating between Optimal Transport and MMD using Sinkhorn Divergences", AISTATS 2019,
    arXiv 1810.08278.

    >>> import jax.numpy as jnp
    >>> points = jnp.array([[[0.0], [2.0]]])
    >>> print(hausdorff_divergence(points, points + 0.5).round(3))
    [0.125]
    """
    x, y = _measure(predictions, prediction_weights), _measure(masks, mask_weights)
    return _hausdorff(x, y, jnp.asarray(blur, x[0].dtype) ** p, p)


@jax.custom_jvp
def _nuclear_norm(matrix: jax.Array) -> jax.Array:
    return jnp.sum(jnp.linalg.svd(matrix, compute_uv=False))


@_nuclear_norm.defjvp
def _nuclear_norm_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    u, s, vt = jnp.linalg.svd(primals[0], full_matrices=False)
    # Singular vectors of the value 0 are arbitrary: without them it is the smallest subgradient.
    rounding = jnp.finfo(s.dtype).eps * max(primals[0].shape)
    kept = s > rounding * s[0]
    return jnp.sum(s), jnp.sum(((u * kept) @ vt) * tangents[0])


@typed
def frechet_set_loss(
    prediction_features: Float[AnyArray, "n d"], mask_features: Float[AnyArray, "r d"]
) -> Float[jax.Array, ""]:
    """Squared Frechet distance between two sets of features, taken as samples of Gaussians.

    |m_p - m_m|^2 + tr(S_p + S_m - 2 (S_p S_m)^(1/2)) with means m and sample covariances S: the
    squared 2-Wasserstein distance between the Gaussians. The trace of the root is the nuclear norm
    of the product of the centred features, so nothing of size d x d is formed.

    `prediction_features` (n, d) and `mask_features` (r, d) of the whole batch, from any feature
    extractor (the authors' is Inception's pooling layer); n = 1 has covariance 0. Returns a scalar
    >= 0 to rounding. The gradient leaves out directions without variance. O(n r (d + min(n, r))).

    Dowson and Landau, "The Frechet distance between multivariate normal distributions", J.
    Multivariate Analysis 1982; as a loss Chatterjee et al., 2025, arXiv 2312.15686.

    >>> import jax.numpy as jnp
    >>> features = jnp.array([[0.0, 1.0], [2.0, 1.0]])
    >>> print(frechet_set_loss(features, features + 3.0))
    18.0
    """

    def centre(features: AnyArray) -> tuple[jax.Array, jax.Array]:
        features = widen(features)
        mean = jnp.mean(features, axis=0)
        return mean, (features - mean) / max(len(features) - 1, 1) ** 0.5

    mean_p, root_p = centre(prediction_features)
    mean_m, root_m = centre(mask_features)
    cross = jnp.matmul(root_p, root_m.T, precision=lax.Precision.HIGHEST)
    spread = jnp.sum(jnp.square(root_p)) + jnp.sum(jnp.square(root_m)) - 2 * _nuclear_norm(cross)
    return jnp.sum(jnp.square(mean_p - mean_m)) + spread
