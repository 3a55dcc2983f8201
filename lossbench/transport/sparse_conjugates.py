"""Conjugates that need only the largest entries of each row, and the projections they bring.

Liu, Puigcerver and Blondel, "Sparsity-Constrained Optimal Transport", ICLR 2023, arXiv 2209.15466.
A row of the scores here is a column of the plan: its entries are the sources.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, Scalar, typed

# Candidates beyond k that are ranked again in float64.
_SPARE = 8


def _top_indices(x: jax.Array, k: int) -> jax.Array:
    return lax.top_k(x, k)[1]


def _top_indices_float64(x: jax.Array, k: int) -> jax.Array:
    """The same on CPU, where XLA's top_k sorts whole rows of float64, seventy times slower.

    Rounding is monotone: candidates are found in float32 and ranked in float64, unless what was
    left out ties in float32 with the last one taken.
    """
    if k + _SPARE >= x.shape[-1]:
        return _top_indices(x, k)
    # Without the barrier XLA no longer recognises its own top_k and sorts.
    rounded, candidates = lax.optimization_barrier(lax.top_k(x.astype(jnp.float32), k + _SPARE))
    among = _top_indices(jnp.take_along_axis(x, candidates, -1), k)
    last = jnp.take_along_axis(rounded, among[..., -1:], -1)
    return lax.cond(
        jnp.all(last > rounded[..., -1:]),
        lambda: jnp.take_along_axis(candidates, among, -1),
        lambda: _top_indices(x, k),
    )


def leading_entries(scores: jax.Array, k: int | None) -> tuple[jax.Array, jax.Array | None]:
    """The k largest entries of each row and where they stand, or all of them in place (None)."""
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    if k is None or k >= scores.shape[-1]:
        return scores, None
    still = lax.stop_gradient(scores)
    rows = _top_indices(still, k)
    if scores.dtype == jnp.float64:
        rows = lax.platform_dependent(
            still, cpu=partial(_top_indices_float64, k=k), default=partial(_top_indices, k=k)
        )
    return jnp.take_along_axis(scores, rows, -1, mode="promise_in_bounds"), rows


@jax.custom_jvp
def _threshold(heights: jax.Array, mass: jax.Array) -> jax.Array:
    """The tau of each row at which sum_i max(heights_i - tau, 0) is its mass; the highest is 0.

    Newton's method on a convex piecewise linear function, from below: a few passes, where a sort
    would cost as much as fifty.
    """
    ones = jnp.ones(heights.shape[1], heights.dtype)

    def climb(tau: jax.Array) -> jax.Array:
        above = heights > tau[:, None]
        excess = jnp.where(above, heights - tau[:, None], 0) @ ones - mass
        count = jnp.where(above, ones, 0) @ ones
        # Only up: about the root rounding may push either way, row by row, for ever.
        return jnp.maximum(tau, tau + excess / jnp.maximum(count, 1))

    _, tau = lax.while_loop(
        lambda taus: jnp.any(taus[1] > taus[0]),
        lambda taus: (taus[1], climb(taus[1])),
        (-mass, climb(-mass)),  # at -mass the highest entry alone would do
    )
    return tau


@_threshold.defjvp
def _threshold_jvp(
    primals: tuple[jax.Array, jax.Array], tangents: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    heights, _ = primals
    tau = _threshold(*primals)
    # The mean over the support, which is constant almost everywhere. The highest entry is always
    # in it, even where there is no mass.
    support = lax.stop_gradient((heights > tau[:, None]) | (heights == 0))
    total = jnp.sum(jnp.where(support, tangents[0], 0), axis=1)
    return tau, (total - tangents[1]) / jnp.sum(support, axis=1)


def simplex_conjugate(
    values: jax.Array, mass: jax.Array, gamma: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The conjugate of the leading entries (m, k), their tau, and the maximiser at them.

    max_t <s, t> - gamma/2 |t|^2 over t >= 0 of the given mass.
    """
    # Relative to the largest entry, else a small mass would drown in the scores' rounding.
    top = lax.stop_gradient(jnp.max(values, axis=1))
    heights = values - top[:, None]
    tau = _threshold(heights, gamma * mass)
    above = jnp.maximum(heights - tau[:, None], 0)
    conjugate = (tau + top) * mass + jnp.sum(above * above, axis=1) / (2 * gamma)
    return conjugate, tau + top, above / gamma


@typed
def topk_relu_conjugate(
    scores: Float[AnyArray, "m n"], *, k: int | None = None, gamma: Scalar = 1.0
) -> Float[jax.Array, " m"]:
    """Conjugate of the squared norm over non-negative vectors with at most k nonzeros, each row.

    max_{t >= 0, |t|_0 <= k} <s, t> - gamma/2 |t|^2 = sum_{i <= k} max(s_[i], 0)^2 / (2 gamma), with
    s_[i] the i-th largest entry. Its gradient, max(s_i, 0) / gamma on the top k and 0 elsewhere, is
    the maximiser.

    `scores` (m, n); `k` is static, at least 1, and None for n; `gamma` > 0. Returns (m,).
    Raises `ValueError` for k < 1. O(m n log k).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> print(topk_relu_conjugate(jnp.array([[3.0, -1.0, 1.0, 2.0]]), k=2))
    [6.5]
    """
    values, _ = leading_entries(widen(scores), k)
    return jnp.sum(jnp.square(jnp.maximum(values, 0)), axis=1) / (2 * _like(gamma, values))


@typed
def topk_simplex_conjugate(
    scores: Float[AnyArray, "m n"],
    mass: Float[AnyArray, " m"],
    *,
    k: int | None = None,
    gamma: Scalar = 1.0,
) -> Float[jax.Array, " m"]:
    """Conjugate of the squared norm over the k-sparse simplex of a given mass, each row.

    max_{t >= 0, sum t = b, |t|_0 <= k} <s, t> - gamma/2 |t|^2
    = tau b + sum_{i <= k} max(s_[i] - tau, 0)^2 / (2 gamma), with tau such that t has mass b. Its
    gradient by the scores is the maximiser t = `sparse_simplex_projection(scores / gamma, mass)`,
    and by the mass it is tau.

    `scores` (m, n); `mass` (m,), non-negative; `k` is static, at least 1, and None for n; `gamma`
    > 0. Returns (m,). Raises `ValueError` for k < 1. O(m n log k).

    Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> print(topk_simplex_conjugate(jnp.array([[3.0, -1.0, 2.5]]), jnp.array([1.0]), k=1))
    [2.5]
    """
    values, _ = leading_entries(widen(scores), k)
    return simplex_conjugate(values, _like(mass, values), _like(gamma, values))[0]


@typed
def sparse_simplex_projection(
    vectors: Float[AnyArray, "m n"], mass: Float[AnyArray, " m"], *, k: int | None = None
) -> Float[jax.Array, "m n"]:
    """Projection of each row onto the vectors of a given mass with at most k nonzeros.

    argmin_{t >= 0, sum t = b, |t|_0 <= k} |t - v|^2: max(v_i - tau, 0) on the top k entries, 0
    elsewhere. Where entries tie for the k-th place the first is taken. Its derivative takes a
    direction to its deviation from the mean, both over the support.

    `vectors` (m, n); `mass` (m,), non-negative; `k` is static, at least 1, and None for n. Returns
    (m, n). Raises `ValueError` for k < 1. O(m n log k).

    Kyrillidis, Becker, Cevher and Koch, "Sparse projections onto the simplex", ICML 2013, arXiv
    1206.1529; Liu, Puigcerver and Blondel, ICLR 2023, arXiv 2209.15466.

    >>> import jax.numpy as jnp
    >>> print(sparse_simplex_projection(jnp.array([[1.0, 0.5, 0.25]]), jnp.array([1.0]), k=2))
    [[0.75 0.25 0.  ]]
    """
    vectors = widen(vectors)
    values, rows = leading_entries(vectors, k)
    *_, entries = simplex_conjugate(values, _like(mass, values), _like(1, values))
    return scatter_rows(entries, rows, vectors.shape[1])


def scatter_rows(entries: jax.Array, rows: jax.Array | None, n: int) -> jax.Array:
    """The rows (m, n) whose leading entries (m, k) these are."""
    if rows is None:
        return entries
    m = len(entries)
    return (
        jnp.zeros((m, n), entries.dtype)
        .at[jnp.arange(m)[:, None], rows]
        .set(entries, unique_indices=True, mode="promise_in_bounds")
    )


def _like(x: ArrayLike, values: jax.Array) -> jax.Array:
    return jnp.asarray(x, values.dtype)
