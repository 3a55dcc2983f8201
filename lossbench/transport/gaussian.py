"""Transport between Gaussians in closed form: the map, the Monge gap of a linear map."""

import jax
import jax.numpy as jnp

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, typed


def _sqrtm(matrix: jax.Array) -> jax.Array:
    """Square root of a symmetric positive semi-definite matrix."""
    return _symmetric_sqrtm((matrix + matrix.T) / 2)


@jax.custom_jvp
def _symmetric_sqrtm(matrix: jax.Array) -> jax.Array:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0))) @ vectors.T


@_symmetric_sqrtm.defjvp
def _symmetric_sqrtm_jvp(
    primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    # R dR + dR R = dM in the eigenbasis; through eigh itself equal eigenvalues would give NaN.
    values, vectors = jnp.linalg.eigh(primals[0])
    roots = jnp.sqrt(jnp.maximum(values, 0))
    sums = roots[:, None] + roots
    change = vectors.T @ tangents[0] @ vectors
    change = jnp.where(sums > 0, change / jnp.where(sums > 0, sums, 1), 0)
    return (vectors * roots) @ vectors.T, vectors @ change @ vectors.T


@typed
def gaussian_ot_map(
    x: Float[AnyArray, "n d"],
    source_mean: Float[AnyArray, " d"],
    source_cov: Float[AnyArray, "d d"],
    target_mean: Float[AnyArray, " d"],
    target_cov: Float[AnyArray, "d d"],
) -> Float[jax.Array, "n d"]:
    """Images of points under the optimal map between two Gaussians, for the squared cost.

    T(x) = m2 + A (x - m1) with A = S1^{-1/2} (S1^{1/2} S2 S1^{1/2})^{1/2} S1^{-1/2}.

    `x` (n, d); means (d,); covariances (d, d), symmetric, the source's positive definite. Returns
    (n, d). O(n d^2 + d^3).

    Dowson and Landau, "The Frechet distance between multivariate normal distributions", Journal of
    Multivariate Analysis, 1982.

    >>> import jax.numpy as jnp
    >>> x, one = jnp.ones((1, 1)), jnp.eye(1)
    >>> print(gaussian_ot_map(x, jnp.zeros(1), one, jnp.ones(1), 4 * one))
    [[3.]]
    """
    x, root = widen(x), _sqrtm(widen(source_cov))
    middle = _sqrtm(root @ widen(target_cov) @ root)
    matrix = jnp.linalg.solve(root, jnp.linalg.solve(root, middle).T)
    return widen(target_mean) + (x - widen(source_mean)) @ matrix


@typed
def gaussian_monge_gap(
    matrix: Float[AnyArray, "d d"], cov: Float[AnyArray, "d d"]
) -> Float[jax.Array, ""]:
    """Monge gap of the linear map x -> A x on N(0, S), for the squared Euclidean cost.

    2 [tr((S^{1/2} A S A^T S^{1/2})^{1/2}) - tr(A S)]: zero where A is symmetric and positive
    semi-definite, 4 (1 - cos t) for a rotation by t of the standard normal in the plane.

    `matrix` and `cov` (d, d), `cov` symmetric and positive semi-definite. Returns a scalar. O(d^3).

    Uscidda and Cuturi, "The Monge Gap", ICML 2023, arXiv 2302.04953.

    >>> import jax.numpy as jnp
    >>> print(gaussian_monge_gap(-jnp.eye(2), jnp.eye(2)))
    8.0
    """
    matrix, cov = widen(matrix), widen(cov)
    half = _sqrtm(cov) @ matrix
    return 2 * (jnp.trace(_sqrtm(half @ cov @ half.T)) - jnp.trace(matrix @ cov))


@typed
def unexplained_variance(
    mapped: Float[AnyArray, "n d"], optimal: Float[AnyArray, "n d"], cov: Float[AnyArray, "d d"]
) -> Float[jax.Array, ""]:
    """Share of the target's variance by which a map misses the optimal one, in percent.

    100 mean_i |T(x_i) - T*(x_i)|^2 / tr(S), with S the covariance of the target: 0 for the optimal
    map, 100 for the constant one.

    `mapped` and `optimal` (n, d), images of the same points; `cov` (d, d). Returns a scalar.
    O(n d).

    Korotin, Li, Genevay, Solomon, Filippov and Burnaev, "Do Neural Optimal Transport Solvers
    Work?", NeurIPS 2021, arXiv 2106.01954.

    >>> import jax.numpy as jnp
    >>> print(unexplained_variance(jnp.zeros((2, 1)), jnp.array([[1.0], [-1.0]]), jnp.eye(1)))
    100.0
    """
    missed = jnp.sum(jnp.square(widen(mapped) - widen(optimal)), axis=1)
    return 100 * jnp.mean(missed) / jnp.trace(widen(cov))
