"""Distances between meshes: by sliced transport between their measures, and by nearest points."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import map_row_blocks, pairwise_squared_euclidean, safe_norm, widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, check, typed
from lossbench.transport._common import root_of
from lossbench.transport.mesh import (
    MeshMeasure,
    mesh_varifold,
    sample_surface,
    surface_projection_cdf,
    vertex_measure,
)
from lossbench.transport.projections import Method, sample_projections
from lossbench.transport.sliced import projected_wasserstein

Encoding = Literal["varifold", "vertex", "empirical"]


@typed
def mesh_sliced_wasserstein(
    key: PRNGKey,
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    target_vertices: Float[AnyArray, "w 3"],
    target_faces: Integer[AnyArray, "g 3"],
    *,
    encoding: Encoding = "varifold",
    normal_weight: Scalar | None = None,
    num_points: int | None = None,
    num_projections: int = 100,
    p: float = 2.0,
    method: Method = "gaussian",
    root: bool = False,
    chunk_size: int | None = None,
) -> Float[jax.Array, ""]:
    """Sliced Wasserstein cost between two meshes, taken as measures.

    SW_p^p = E_theta W_p^p of the projections of `mesh_varifold` ("varifold"), `vertex_measure`
    ("vertex"), or of `num_points` points of each surface drawn anew ("empirical", by default as
    many as faces). With `normal_weight` the atoms are [x, normal_weight n] and theta is uniform on
    the sphere in R^6. No correspondence and no equal number of faces is needed. A common rigid
    motion changes nothing but the directions drawn.

    `vertices` (v, 3), `faces` (f, 3) and those of the target, in the same units;
    `encoding`, `method`, `p`, `root` (the p-th root of the estimate) and the counts are static. For
    a target that stays, encode it once and call `projected_wasserstein` with the weights. Returns a
    scalar, in units^p. O(num_projections (f + g) log(f + g)).

    Le et al., "Diffeomorphic Mesh Deformation via Efficient Optimal Transport for Cortical Surface
    Reconstruction", ICLR 2024, arXiv 2305.17555.

    >>> import jax, jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> faces = jnp.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    >>> shifted = vertices + jnp.array([0.0, 0.0, 3.0])
    >>> cost = mesh_sliced_wasserstein(jax.random.key(0), vertices, faces, shifted, faces,
    ...     method="orthogonal", num_projections=3)  # the shift's square / 3
    >>> print(cost.round(4))
    3.0
    """
    sides = (vertices, faces), (target_vertices, target_faces)
    draw, *samplings = jax.random.split(key, 3)

    def encode(key: PRNGKey, vertices: AnyArray, faces: AnyArray) -> MeshMeasure:
        if encoding == "varifold":
            return mesh_varifold(vertices, faces, normal_weight=normal_weight)
        if encoding == "vertex":
            return vertex_measure(vertices, faces, normal_weight=normal_weight)
        count = len(faces) if num_points is None else num_points
        sample = sample_surface(key, vertices, faces, num_points=count)
        points = sample.points
        if normal_weight is not None:
            scaled = jnp.asarray(normal_weight, points.dtype) * sample.normals
            points = jnp.concatenate([points, scaled], axis=1)
        return MeshMeasure(points, jnp.full(count, 1 / count, points.dtype))

    (x, a), (y, b) = (encode(k, *side) for k, side in zip(samplings, sides, strict=True))
    directions = sample_projections(draw, num_projections, x.shape[1], method=method)
    # Sampled points weigh the same: unweighted, they need no merge.
    weights = {} if encoding == "empirical" else {"x_weights": a, "y_weights": b}
    costs = projected_wasserstein(x, y, directions, p=p, chunk_size=chunk_size, **weights)
    power = jnp.mean(costs)
    return root_of(power, p) if root else power


@typed
def continuous_mesh_sw1(
    key: PRNGKey,
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    target_vertices: Float[AnyArray, "w 3"],
    target_faces: Integer[AnyArray, "g 3"],
    *,
    num_projections: int = 100,
    grid_size: int = 1024,
    method: Method = "gaussian",
) -> Float[jax.Array, ""]:
    """Sliced 1-Wasserstein distance between two surfaces themselves, no atoms put in their place.

    E_theta int |F - G| dt with the distribution functions of `surface_projection_cdf`, by the
    trapezoidal rule on `grid_size` points of the common range. Refining either mesh without moving
    its surface does not change it.

    `vertices` (v, 3), `faces` (f, 3) and those of the target, in the same units; the counts and
    `method` are static. Returns a scalar in these units. O(num_projections grid_size (f + g)) time,
    also in the backward pass, which holds one direction at a time.

    Le et al., ICLR 2024, arXiv 2305.17555.

    >>> import jax, jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
    >>> faces = jnp.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])
    >>> print(continuous_mesh_sw1(jax.random.key(0), vertices, faces, vertices, faces))
    0.0
    """
    directions = sample_projections(key, num_projections, 3, method=method)
    x, y = widen(vertices), widen(target_vertices)

    def distances(directions: jax.Array) -> jax.Array:
        direction = directions[0].astype(x.dtype)
        ends = [
            end(jnp.matmul(points, direction, precision=lax.Precision.HIGHEST))
            for points in (x, y)
            for end in (jnp.min, jnp.max)
        ]
        low, high = jnp.minimum(ends[0], ends[2]), jnp.maximum(ends[1], ends[3])
        # The two functions agree at the ends, which may therefore stay fixed.
        grid = lax.stop_gradient(jnp.linspace(low, high, grid_size))
        gap = surface_projection_cdf(x, faces, direction, grid)
        gap -= surface_projection_cdf(y, target_faces, direction, grid)
        return jnp.trapezoid(jnp.abs(gap), grid)[None]

    return jnp.mean(map_row_blocks(distances, directions, chunk_size=1))


@partial(jax.jit, static_argnames=("chunk_size",))
def _nearest(x: jax.Array, y: jax.Array, absent: jax.Array | None, chunk_size: int) -> jax.Array:
    """Position among `y` of the nearest point that is not absent, for each row of `x`."""

    def block(x: jax.Array) -> jax.Array:
        squares = pairwise_squared_euclidean(x, y)
        return jnp.argmin(squares if absent is None else jnp.where(absent, jnp.inf, squares), 1)

    return map_row_blocks(block, x, chunk_size=chunk_size)


def _gaps(
    x: AnyArray, y: AnyArray, y_weights: AnyArray | None = None, chunk_size: int = 1024
) -> tuple[jax.Array, jax.Array]:
    """Vectors to the nearest points of `y` (n, d), and their positions."""
    x, y = widen(x), widen(y)
    absent = None if y_weights is None else jnp.asarray(y_weights) <= 0
    fixed = lax.stop_gradient((x, y))
    index = _nearest(*fixed, absent, chunk_size)
    # Taken from the points themselves, the gap has no cancellation and its derivative no matrix.
    return x - y[index], index


@typed
def chamfer_distance(
    x: Float[AnyArray, "n d"],
    y: Float[AnyArray, "m d"],
    *,
    x_weights: Float[AnyArray, " n"] | None = None,
    y_weights: Float[AnyArray, " m"] | None = None,
    squared: bool = True,
    chunk_size: int = 1024,
) -> Float[jax.Array, ""]:
    """Chamfer distance between two clouds: the mean distance to the nearest point, both ways.

    mean_i min_j |x_i - y_j|^2 + mean_j min_i |x_i - y_j|^2, or unsquared (`squared=False`).

    `x` (n, d), `y` (m, d) in the same units; weights (n,) and (m,) >= 0, normalised inside, uniform
    by default: a point of weight 0 takes no part. `squared` and `chunk_size` are static. Returns a
    scalar. O(n m d) time, O(chunk_size max(n, m)) memory.

    Fan, Su and Guibas, "A Point Set Generation Network for 3D Object Reconstruction from a Single
    Image", CVPR 2017, arXiv 1612.00603.

    >>> import jax.numpy as jnp
    >>> print(chamfer_distance(jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])))
    2.5
    """

    def one_way(
        x: AnyArray, y: AnyArray, x_weights: AnyArray | None, y_weights: AnyArray | None
    ) -> jax.Array:
        gaps, _ = _gaps(x, y, y_weights, chunk_size)
        lengths = jnp.sum(jnp.square(gaps), axis=1) if squared else safe_norm(gaps)
        if x_weights is None:
            return jnp.mean(lengths)
        weights = jnp.asarray(x_weights, lengths.dtype)
        check(lambda: weights >= 0, "weights must be at least 0, got {weights}", weights=weights)
        total = jnp.sum(weights)
        return weights @ lengths / jnp.where(total > 0, total, 1)

    return one_way(x, y, x_weights, y_weights) + one_way(y, x, y_weights, x_weights)


@typed
def average_symmetric_surface_distance(
    points: Float[AnyArray, "n d"], other_points: Float[AnyArray, "m d"]
) -> Float[jax.Array, ""]:
    """Mean distance between two surfaces (ASSD), from dense samples of both.

    (mean_i min_j |x_i - y_j| + mean_j min_i |x_i - y_j|) / 2.

    `points` (n, d) and `other_points` (m, d), see `sample_surface`. Returns a scalar in their unit.
    O(n m d).

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])
    >>> print(average_symmetric_surface_distance(x, y))
    0.75
    """
    return chamfer_distance(points, other_points, squared=False) / 2


@typed
def surface_hausdorff_distance(
    points: Float[AnyArray, "n d"],
    other_points: Float[AnyArray, "m d"],
    *,
    quantile: Scalar = 0.9,
) -> Float[jax.Array, ""]:
    """Hausdorff distance between two surfaces at a quantile, from dense samples of both.

    The larger of the two quantiles, over the points of either, of the distance to the nearest point
    of the other: HD90 by default, the Hausdorff distance of the samples at quantile 1.

    `points` (n, d) and `other_points` (m, d), see `sample_surface`; `quantile` in [0, 1], linear
    between order statistics. Returns a scalar in their unit. O(n m d).

    >>> import jax.numpy as jnp
    >>> x, y = jnp.array([[0.0], [1.0]]), jnp.array([[0.0], [3.0]])
    >>> print(surface_hausdorff_distance(x, y, quantile=1.0))
    2.0
    """
    pairs = (points, other_points), (other_points, points)
    lengths = [safe_norm(_gaps(x, y)[0]) for x, y in pairs]
    one, other = (jnp.quantile(each, jnp.asarray(quantile, each.dtype)) for each in lengths)
    return jnp.maximum(one, other)


@typed
def normal_consistency(
    points: Float[AnyArray, "n 3"],
    normals: Float[AnyArray, "n 3"],
    other_points: Float[AnyArray, "m 3"],
    other_normals: Float[AnyArray, "m 3"],
) -> Float[jax.Array, ""]:
    """Mean cosine between the unit normals at nearest points of two surfaces, both ways.

    1 where the surfaces run alike, -1 where they are oppositely oriented.

    `points` and `normals` (n, 3), `other_points` and `other_normals` (m, 3), see `sample_surface`.
    Returns a scalar in [-1, 1], differentiable by the normals. O(n m).

    >>> import jax.numpy as jnp
    >>> points, up = jnp.zeros((1, 3)), jnp.array([[0.0, 0.0, 1.0]])
    >>> print(normal_consistency(points, up, points + 1, -up))
    -1.0
    """
    own, other = widen(normals), widen(other_normals)
    _, to_other = _gaps(points, other_points)
    _, to_own = _gaps(other_points, points)
    one_way = jnp.mean(jnp.sum(own * other[to_other], axis=1))
    return (one_way + jnp.mean(jnp.sum(other * own[to_own], axis=1))) / 2
