"""Directions on the unit sphere: independent, orthogonal, and quasi-Monte Carlo point sets."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from lossbench._math import normalize
from lossbench._typing import Float, PRNGKey, typed

Method = Literal["gaussian", "orthogonal", "spiral", "sobol"]


@typed
def sample_projections(
    key: PRNGKey, num_projections: int, dim: int, *, method: Method = "gaussian"
) -> Float[jax.Array, "{num_projections} {dim}"]:
    """Directions whose average over a function stands for its mean over the unit sphere.

    - "gaussian": independent and uniform.
    - "orthogonal": stacked Haar frames, the last one cut: exact for quadratic forms when `dim`
      divides `num_projections`, and of less variance than independent ones in high dimension.
    - "spiral": a Fibonacci lattice on the half sphere, `dim` 3 only. Sliced costs are even, so that
      the other half would repeat what this one says.
    - "sobol": Sobol points carried to the sphere: by angle (`dim` 2), by area on the half sphere
      (3), else through the Gaussian quantile, where some 20 dimensions are its limit of use.

    The last two are one fixed set, turned by a Haar rotation, so that every single direction is
    uniform and the average over the set unbiased. The counts are static. Returns
    (num_projections, dim) of unit rows in float32, or float64 where that is the default. Raises
    ValueError for a count below 1 and for a spiral outside of three dimensions.

    Mezzadri, "How to generate random matrices from the classical compact groups", 2007,
    arXiv math-ph/0609050; Nguyen, Bariletto and Ho, "Quasi-Monte Carlo for 3D Sliced Wasserstein",
    ICLR 2024, arXiv 2309.11713.

    >>> directions = sample_projections(jax.random.key(0), 6, 3, method="orthogonal")
    >>> print((directions[:3] @ directions[:3].T).round(3) + 0.0)
    [[1. 0. 0.]
     [0. 1. 0.]
     [0. 0. 1.]]
    """
    if num_projections < 1 or dim < 1:
        raise ValueError(
            f"num_projections and dim must be at least 1, got {num_projections} and {dim}"
        )
    if method == "gaussian":
        return normalize(jax.random.normal(key, (num_projections, dim)))
    if method == "orthogonal":
        frames = _haar(key, -(-num_projections // dim), dim)
        return frames.reshape(-1, dim)[:num_projections]
    points = _spiral(num_projections, dim) if method == "spiral" else _sobol(num_projections, dim)
    rotation = _haar(key, 1, dim)[0]
    return jnp.matmul(jnp.asarray(points, rotation.dtype), rotation, precision="highest")


def _haar(key: PRNGKey, count: int, dim: int) -> jax.Array:
    """Orthogonal matrices (count, dim, dim), uniform in the Haar measure."""
    q, r = jnp.linalg.qr(jax.random.normal(key, (count, dim, dim)))
    # Without the signs the law depends on the QR algorithm's convention.
    return q * jnp.sign(jnp.diagonal(r, axis1=-2, axis2=-1))[:, None]


def _half_sphere(height: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """By area, so that uniform points in [0, 1)^2 become uniform on the half sphere z >= 0."""
    radius, angle = np.sqrt(1 - height**2), 2 * np.pi * turns
    return np.stack([radius * np.cos(angle), radius * np.sin(angle), height], 1)


def _spiral(count: int, dim: int) -> np.ndarray:
    if dim != 3:
        raise ValueError(f"a spiral lies in three dimensions, got dim={dim}")
    index = np.arange(count)
    return _half_sphere((index + 0.5) / count, index * (np.sqrt(5) - 1) / 2)


def _sobol(count: int, dim: int) -> np.ndarray:
    from scipy.special import ndtri
    from scipy.stats import qmc

    # By the power of two, else scipy warns that a part of the sequence is less balanced.
    sequence = qmc.Sobol({2: 1, 3: 2}.get(dim, dim), scramble=False)
    cube = sequence.random_base2(int(np.ceil(np.log2(count))))[:count] + 2.0**-31
    if dim == 1:
        return np.ones((count, 1))
    if dim == 2:
        return np.stack([np.cos(np.pi * cube[:, 0]), np.sin(np.pi * cube[:, 0])], 1)
    if dim == 3:
        return _half_sphere(cube[:, 0], cube[:, 1])
    gaussian = ndtri(cube)
    return gaussian / np.linalg.norm(gaussian, axis=1, keepdims=True)
