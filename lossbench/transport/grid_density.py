"""Densities on a grid over a box: the exact adversary of adaptive sampling, and draws from it.

A grid holds the values at the centres of equal cells, g_1 x ... x g_d of them on the box from
`lower` to `upper`. Cosines that are flat at the walls diagonalise the penalty, so that a cosine
transform solves for the density.
"""

import math
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import widen
from lossbench._typing import AnyArray, Float, PRNGKey, Scalar, typed


def _cell(shape: tuple[int, ...], lower: AnyArray, upper: AnyArray, like: jax.Array) -> jax.Array:
    """Sides (d,) of a cell; ValueError where the corners do not fit the grid."""
    for name, corner in (("lower", lower), ("upper", upper)):
        if corner.shape[0] != len(shape):
            raise ValueError(
                f"{name} must have {len(shape)} entries, one for each axis of the grid, "
                f"got {corner.shape[0]}"
            )
    lower, upper = jnp.asarray(lower, like.dtype), jnp.asarray(upper, like.dtype)
    return (upper - lower) / jnp.asarray(shape, like.dtype)


def _eigenvalues(shape: tuple[int, ...], cell: jax.Array) -> jax.Array:
    """Those of minus the Laplacian on the grid's cosines: sum_i (pi k_i / l_i)^2, of its shape."""
    total = jnp.zeros(shape, cell.dtype)
    for axis, g in enumerate(shape):
        along = jnp.square(jnp.pi * jnp.arange(g, dtype=cell.dtype) / (g * cell[axis]))
        total += jnp.expand_dims(along, [i for i in range(len(shape)) if i != axis])
    return total


def _cosines(x: jax.Array) -> jax.Array:
    return jax.scipy.fft.dctn(x, norm="ortho")


def _sum_cosines(coefficients: jax.Array) -> jax.Array:
    return jax.scipy.fft.idctn(coefficients, norm="ortho")


def _project(x: jax.Array, total: jax.Array) -> jax.Array:
    """The nearest array that is at least 0 and sums to `total`."""
    # Imported here, for drawing from a density needs no optax.
    from optax.projections import projection_simplex

    return projection_simplex(x, total)


@partial(jax.jit, static_argnames=("num_iterations",))
def _maximizer(
    source: jax.Array, cell: jax.Array, beta: jax.Array, num_iterations: int
) -> jax.Array:
    """Maximiser by the alternating direction method of multipliers, feasible at every iteration."""
    mass = 1 / jnp.prod(cell)
    rates = 2 * beta * _eigenvalues(source.shape, cell)
    # The geometric mean of the slowest and the fastest rate.
    low = jnp.min(jnp.where(rates > 0, rates, jnp.inf))
    step = jnp.where(jnp.isfinite(low), jnp.sqrt(low * jnp.max(rates)), 1)

    def iterate(_: int, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        z, u = carry
        smooth = _sum_cosines(_cosines(source + step * (z - u)) / (rates + step))
        z = _project(smooth + u, mass)
        return z, u + smooth - z

    uniform = jnp.full_like(source, mass / source.size)
    z, _ = lax.fori_loop(0, num_iterations, iterate, (uniform, jnp.zeros_like(uniform)))
    return z


@jax.jit
def _signed_maximizer(source: jax.Array, cell: jax.Array, beta: jax.Array) -> jax.Array:
    rates = 2 * beta * _eigenvalues(source.shape, cell)
    potential = jnp.where(rates > 0, _cosines(source) / jnp.where(rates > 0, rates, 1), 0)
    return 1 / (jnp.prod(cell) * source.size) + _sum_cosines(potential)


@typed
def optimal_grid_density(
    residual_sq: Float[AnyArray, "*grid"],
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    beta: Scalar,
    nonnegative: bool = True,
    num_iterations: int = 200,
) -> Float[jax.Array, "*grid"]:
    """The density on which a residual weighs most, at a price for roughness: AAS's exact adversary.

    argmax_p int r^2 p - beta int |grad p|^2 over int p = 1, p >= 0. Without p >= 0
    (`nonnegative=False`) it is 1/|box| + sum_k c_k phi_k / (2 beta lambda_k) for r^2 =
    sum_k c_k phi_k in cosines: the solution of -2 beta Laplace p = r^2 - mean, flat at the walls.
    Where that is negative, clipping it would spread the mass too widely; the alternating direction
    method finds the constrained maximiser, about 7 digits in 200 iterations.

    `beta` has the unit of r^2 |box| side^2: divide r^2 by its mean first, and beta keeps its
    meaning as the residual shrinks. On [-1, 1]^2 a peak of width 0.15 gets 4 times the uniform
    density at beta 1, 12 times at 0.1.

    `residual_sq` (g_1, ..., g_d) at the cells' centres; `lower` and `upper` (d,), else ValueError;
    `beta` > 0; the other options are static. Returns the density at the centres, without gradient.
    O(iterations G log G) for G cells.

    Tang, Zhai, Wan and Yang, "Adversarial Adaptive Sampling: Unify PINN and Optimal Transport for
    the Approximation of PDEs", ICLR 2024, arXiv 2305.18702, for the objective.

    >>> import jax.numpy as jnp
    >>> residual_sq = 1 + jnp.cos(jnp.pi * (jnp.arange(4) + 0.5) / 4)
    >>> density = optimal_grid_density(residual_sq, jnp.zeros(1), jnp.ones(1), beta=0.1)
    >>> print(density.round(1), density.mean().round(4))
    [1.5 1.2 0.8 0.5] 1.0
    """
    source = lax.stop_gradient(widen(residual_sq))
    cell = _cell(source.shape, lower, upper, source)
    beta = lax.stop_gradient(jnp.asarray(beta, source.dtype))
    if nonnegative:
        return _maximizer(source, cell, beta, num_iterations)
    return _signed_maximizer(source, cell, beta)


@typed
def aas_grid_value(
    residual_sq: Float[AnyArray, "*grid"],
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    beta: Scalar,
    nonnegative: bool = True,
    num_iterations: int = 200,
) -> Float[jax.Array, ""]:
    """Adversarial residual on a grid: what a solution minimises against the exact adversary.

    max_p int r^2 p - beta int |grad p|^2 at `optimal_grid_density`. While that density is positive
    it is mean(r^2) + |r^2 - mean|^2 / (4 beta) in the H^(-1) norm, which is the linearised
    2-Wasserstein distance between the residual's law and the uniform one: the loss flattens the
    residual as well as it shrinks it. The gradient by r^2 is the density times the cell's volume.

    Arguments as those of `optimal_grid_density`. Returns a scalar, in the unit of r^2.

    Tang, Zhai, Wan and Yang, ICLR 2024, arXiv 2305.18702.

    >>> import jax.numpy as jnp
    >>> residual_sq = 1 + jnp.cos(jnp.pi * (jnp.arange(4) + 0.5) / 4)
    >>> value = aas_grid_value(residual_sq, jnp.zeros(1), jnp.ones(1), beta=0.1)
    >>> print(f"{value:.4f}")  # 1 + 1 / (8 beta pi^2)
    1.1267
    """
    source = widen(residual_sq)
    cell = _cell(source.shape, lower, upper, source)
    density = optimal_grid_density(
        source, lower, upper, beta=beta, nonnegative=nonnegative, num_iterations=num_iterations
    )
    roughness = jnp.sum(_eigenvalues(source.shape, cell) * jnp.square(_cosines(density)))
    gain = jnp.sum(source * density)
    return jnp.prod(cell) * (gain - jnp.asarray(beta, source.dtype) * roughness)


@typed
def sample_grid_density(
    key: PRNGKey,
    density: Float[AnyArray, "*grid"],
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    *,
    num_points: int,
    uniform_fraction: Scalar = 0.0,
) -> Float[jax.Array, "n d"]:
    """Points drawn from a density on a grid, mixed with the uniform one.

    The cells are drawn systematically (one uniform number for all points, so that each cell gets
    its expected count but for less than one), each point uniformly within its cell. They come
    ordered by cell: permute them before cutting batches.

    `density` (g_1, ..., g_d) >= 0, in any unit; `lower` and `upper` (d,), else ValueError;
    `num_points` is static; `uniform_fraction` in [0, 1] is the share of the uniform density.
    Returns (num_points, d), without gradient. O(G + n log G) for G cells.

    >>> import jax, jax.numpy as jnp
    >>> low, high = jnp.zeros(1), jnp.ones(1)
    >>> density = jnp.array([0.0, 0.0, 1.0, 3.0])
    >>> points = sample_grid_density(jax.random.key(0), density, low, high, num_points=4)
    >>> print(jnp.floor(4 * points[:, 0]))
    [2. 3. 3. 3.]
    """
    density = lax.stop_gradient(widen(density))
    cell = _cell(density.shape, lower, upper, density)
    share = jnp.asarray(uniform_fraction, density.dtype)
    masses = (1 - share) * density / jnp.sum(density) + share / density.size
    turn, jitter = jax.random.split(key)
    start = jax.random.uniform(turn, (), density.dtype)
    heights = (start + jnp.arange(num_points)) / num_points
    cumulative = jnp.cumsum(masses.ravel())
    # Rounding may leave the sum short of the last height, where no mass is.
    flat = jnp.searchsorted(cumulative, heights * cumulative[-1], side="right")
    last = jnp.max(jnp.where(masses.ravel() > 0, jnp.arange(density.size), 0))
    cells = jnp.stack(jnp.unravel_index(jnp.minimum(flat, last), density.shape), axis=1)
    within = jax.random.uniform(jitter, cells.shape, density.dtype)
    return jnp.asarray(lower, density.dtype) + (cells + within) * cell


@typed
def grid_log_density(
    density: Float[AnyArray, "*grid"],
    lower: Float[AnyArray, " d"],
    upper: Float[AnyArray, " d"],
    points: Float[AnyArray, "n d"],
) -> Float[jax.Array, " n"]:
    """Logarithm of a density on a grid, constant on each cell, at points; -inf outside the box.

    `density` (g_1, ..., g_d) >= 0, in any unit: it is normalised; `lower` and `upper` (d,), else
    ValueError; `points` (n, d). Returns (n,); differentiable by the density only.

    >>> import jax.numpy as jnp
    >>> low, high = jnp.zeros(1), jnp.ones(1)
    >>> points = jnp.array([[0.1], [0.9], [1.1]])
    >>> print(jnp.exp(grid_log_density(jnp.array([1.0, 3.0]), low, high, points)).round(1))
    [0.5 1.5 0. ]
    """
    density = widen(density)
    cell = _cell(density.shape, lower, upper, density)
    place = (lax.stop_gradient(jnp.asarray(points, density.dtype)) - lower) / cell
    sides = jnp.asarray(density.shape)
    inside = jnp.all((place >= 0) & (place <= sides), axis=1)
    # A point on the upper wall belongs to the last cell.
    index = jnp.clip(jnp.floor(place).astype(int), 0, sides - 1)
    chosen = density[tuple(index.T)]
    occupied = inside & (chosen > 0)
    log_mass = jnp.log(jnp.sum(density)) + jnp.log(jnp.prod(cell))
    return jnp.where(occupied, jnp.log(jnp.where(occupied, chosen, 1)) - log_mass, -math.inf)
