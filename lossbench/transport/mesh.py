"""Triangle meshes as measures: atoms of faces or vertices, samples, and the surface itself.

A mesh is its `vertices` (v, 3) and its `faces` (f, 3), the positions of each face's corners among
the vertices, counterclockwise seen from outside. Pad a mesh with faces (0, 0, 0): having no area
they weigh nothing.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from lossbench._math import normalize, safe_norm, sort, widen
from lossbench._typing import AnyArray, Float, Integer, PRNGKey, Scalar, typed


class MeshMeasure(NamedTuple):
    """Weighted points that stand for a mesh."""

    points: jax.Array
    """(n, 3), or (n, 6) with the scaled normals behind the positions."""
    weights: jax.Array
    """(n,), of sum 1 unless the mesh has no area."""


class SurfaceSample(NamedTuple):
    """Points drawn from a surface."""

    points: jax.Array
    """(n, 3)"""
    normals: jax.Array
    """Unit normals of their faces (n, 3)."""
    faces: jax.Array
    """Which faces they lie on (n,), in ascending order."""


def _corners(vertices: AnyArray, faces: AnyArray) -> tuple[jax.Array, jax.Array, jax.Array]:
    corners = widen(vertices)[jnp.asarray(faces)]
    return corners[:, 0], corners[:, 1], corners[:, 2]


def _face_vectors(vertices: AnyArray, faces: AnyArray) -> jax.Array:
    """Normals of the length of twice the area (f, 3)."""
    a, b, c = _corners(vertices, faces)
    return jnp.cross(b - a, c - a)


@typed
def face_areas(
    vertices: Float[AnyArray, "v 3"], faces: Integer[AnyArray, "f 3"]
) -> Float[jax.Array, " f"]:
    """Area |(b - a) x (c - a)| / 2 of each face; the derivative of a degenerate one is 0.

    `vertices` (v, 3), `faces` (f, 3) in [0, v). Returns (f,).

    >>> import jax.numpy as jnp
    >>> print(face_areas(jnp.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), jnp.array([[0, 1, 2]])))
    [3.]
    """
    return safe_norm(_face_vectors(vertices, faces)) / 2


@typed
def face_normals(
    vertices: Float[AnyArray, "v 3"], faces: Integer[AnyArray, "f 3"]
) -> Float[jax.Array, "f 3"]:
    """Unit normal of each face, by the right hand around its corners; 0 of a degenerate face.

    `vertices` (v, 3), `faces` (f, 3) in [0, v). Returns (f, 3).

    >>> import jax.numpy as jnp
    >>> print(face_normals(jnp.array([[0.0, 0, 0], [2, 0, 0], [0, 3, 0]]), jnp.array([[0, 1, 2]])))
    [[0. 0. 1.]]
    """
    return normalize(_face_vectors(vertices, faces))


def _shares(vertices: AnyArray, faces: AnyArray) -> jax.Array:
    """Area of each face over that of the mesh (f,)."""
    areas = face_areas(vertices, faces)
    total = jnp.sum(areas)
    return areas / jnp.where(total > 0, total, 1)


def _with_normals(
    positions: jax.Array, normals: jax.Array, normal_weight: Scalar | None
) -> jax.Array:
    if normal_weight is None:
        return positions
    scaled = jnp.asarray(normal_weight, positions.dtype) * normals
    return jnp.concatenate([positions, scaled], axis=1)


@typed
def mesh_varifold(
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    *,
    normal_weight: Scalar | None = None,
) -> MeshMeasure:
    """Oriented varifold of a mesh: an atom at each face's barycentre, weighted by its area.

    sum_f area_f / A delta(barycentre_f, s n_f), with unit normals n and s = `normal_weight`: the
    length that trades an error of the normal against one of the position, |x - y|^2 +
    s^2 |n - n'|^2; a tenth of the mesh's radius is a start. None (static) leaves the normals out.
    Refining the mesh changes the measure by O(h^2) for edges of length h.

    `vertices` (v, 3), `faces` (f, 3) in [0, v). Returns points (f, 3) or (f, 6) and weights (f,);
    both are differentiable: stop the gradient of the weights to move the atoms alone.

    Charon and Trouve, "The varifold representation of nonoriented shapes for diffeomorphic
    registration", SIAM J. Imaging Sciences 2013; Le et al., "Diffeomorphic Mesh Deformation via
    Efficient Optimal Transport for Cortical Surface Reconstruction", ICLR 2024, arXiv 2305.17555.

    >>> import jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    >>> measure = mesh_varifold(vertices, jnp.array([[0, 1, 2], [0, 2, 3]]), normal_weight=0.5)
    >>> print(measure.points, measure.weights)
    [[1.  1.  0.  0.  0.  0.5]
     [0.  1.  1.  0.5 0.  0. ]] [0.5 0.5]
    """
    a, b, c = _corners(vertices, faces)
    points = _with_normals((a + b + c) / 3, face_normals(vertices, faces), normal_weight)
    return MeshMeasure(points, _shares(vertices, faces))


@typed
def vertex_measure(
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    *,
    normal_weight: Scalar | None = None,
) -> MeshMeasure:
    """A mesh's vertices, each weighted by a third of the area of the faces around it.

    There are half as many atoms as in `mesh_varifold`, and on convex parts they lie outside of the
    surface's mean. Vertex normals are the area-weighted means of the faces', normalised.

    Arguments as those of `mesh_varifold`. Returns points (v, 3) or (v, 6) and weights (v,).

    >>> import jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    >>> measure = vertex_measure(vertices, jnp.array([[0, 1, 2], [0, 2, 3]]))
    >>> print((6 * measure.weights).round(1))
    [2. 1. 2. 1.]
    """
    positions = widen(vertices)
    shares = _shares(vertices, faces)

    def spread(values: jax.Array) -> jax.Array:
        """Sum over the faces around each vertex."""
        corners = jnp.repeat(values[:, None], 3, axis=1)
        return jnp.zeros((len(positions), *values.shape[1:]), values.dtype).at[faces].add(corners)

    normals = normalize(spread(shares[:, None] * face_normals(vertices, faces)))
    return MeshMeasure(_with_normals(positions, normals, normal_weight), spread(shares) / 3)


@typed
def sample_surface(
    key: PRNGKey,
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    *,
    num_points: int,
) -> SurfaceSample:
    """Points drawn uniformly from a surface, evenly spread over its faces.

    The faces are drawn systematically by their areas (each gets its expected count but for less
    than one), the points uniformly within: (1 - sqrt r) a + sqrt r (1 - r') b + sqrt r r' c. They
    move with the vertices; the choice of faces has no gradient.

    `vertices` (v, 3), `faces` (f, 3) in [0, v); `num_points` is static. Draw one point each from
    many keys for independent ones. O(f + n log f).

    Le et al., ICLR 2024, arXiv 2305.17555 (the empirical encoding).

    >>> import jax, jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [3, 0, 0], [0, 3, 0], [0, 0, 3]])
    >>> faces = jnp.array([[0, 1, 2], [0, 2, 3]])
    >>> print(sample_surface(jax.random.key(0), vertices, faces, num_points=4).faces)
    [0 0 1 1]
    """
    a, b, c = _corners(vertices, faces)
    shares = lax.stop_gradient(_shares(vertices, faces))
    turn, place = jax.random.split(key)
    heights = (jax.random.uniform(turn, (), a.dtype) + jnp.arange(num_points)) / num_points
    cumulative = jnp.cumsum(shares)
    chosen = jnp.searchsorted(cumulative, heights * cumulative[-1], side="right")
    # Rounding may lead past the last face that has an area.
    last = jnp.max(jnp.where(shares > 0, jnp.arange(len(shares)), 0))
    chosen = jnp.minimum(chosen, last)
    r, s = jax.random.uniform(place, (2, num_points, 1), a.dtype)
    r = jnp.sqrt(r)
    points = (1 - r) * a[chosen] + r * (1 - s) * b[chosen] + r * s * c[chosen]
    return SurfaceSample(points, face_normals(vertices, faces)[chosen], chosen)


@typed
def surface_projection_cdf(
    vertices: Float[AnyArray, "v 3"],
    faces: Integer[AnyArray, "f 3"],
    direction: Float[AnyArray, "3"],
    grid: Float[AnyArray, " t"],
) -> Float[jax.Array, " t"]:
    """Distribution function of a surface projected on a direction, exactly.

    F(t) = P(<direction, X> <= t) for X uniform on the surface: the area-weighted mean over faces of
    a function that is quadratic between the face's projected corners. Refining the mesh without
    moving the surface does not change it.

    `vertices` (v, 3), `faces` (f, 3) in [0, v), `direction` (3,), `grid` (t,). Returns (t,) in
    [0, 1]. O(t f) time, O(t + f) memory.

    Le et al., ICLR 2024, arXiv 2305.17555 (the continuous encoding).

    >>> import jax.numpy as jnp
    >>> vertices = jnp.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]])
    >>> grid, direction = jnp.array([0.0, 0.5, 1.0]), jnp.array([1.0, 0, 0])
    >>> print(surface_projection_cdf(vertices, jnp.array([[0, 1, 2]]), direction, grid))
    [0.   0.75 1.  ]
    """
    heights = jnp.matmul(widen(vertices), direction, precision=lax.Precision.HIGHEST)
    low, middle, high = sort(heights[jnp.asarray(faces)]).T
    t = jnp.asarray(grid, heights.dtype)[:, None]

    def part(distance: jax.Array, near: jax.Array) -> jax.Array:
        """Share of a face within `distance` of its end whose adjacent piece is `near` wide."""
        area = near * (high - low)
        return distance**2 / jnp.where(area > 0, area, 1)

    rising = part(t - low, middle - low)
    falling = 1 - part(high - t, high - middle)
    inner = jnp.where(t < middle, rising, falling)
    share = jnp.where(t < low, 0, jnp.where(t >= high, 1, inner))
    return jnp.sum(share * _shares(vertices, faces), axis=1)
