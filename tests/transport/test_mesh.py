import jax
import jax.numpy as jnp
import numpy as np
from scipy import stats

from lossbench.transport import (
    face_areas,
    face_normals,
    mesh_varifold,
    sample_surface,
    surface_projection_cdf,
    vertex_measure,
)

surface_cdf = jax.jit(surface_projection_cdf)


def corners(mesh):
    vertices, faces = mesh
    return vertices[faces]


def heron(mesh):
    a, b, c = np.moveaxis(corners(mesh), 1, 0)
    x, y, z = (np.linalg.norm(u - v, axis=1) for u, v in ((a, b), (b, c), (c, a)))
    s = (x + y + z) / 2
    return np.sqrt(s * (s - x) * (s - y) * (s - z))


def test_areas_and_normals(sphere):
    mesh = sphere(2)
    with jax.enable_x64(True):
        areas, normals = np.asarray(face_areas(*mesh)), np.asarray(face_normals(*mesh))
    np.testing.assert_allclose(areas, heron(mesh), rtol=1e-10)
    middles = corners(mesh).mean(1)
    # The normal is orthogonal to the edges and points outwards.
    edges = np.diff(corners(mesh), axis=1)
    np.testing.assert_allclose(np.einsum("fed,fd->fe", edges, normals), 0, atol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, rtol=1e-12)
    assert np.all(np.sum(middles * normals, axis=1) > 0.9)


def test_order_and_orientation(octahedron):
    vertices, faces = octahedron
    turned, swapped = np.roll(faces, 1, axis=1), faces[:, [1, 0, 2]]
    np.testing.assert_allclose(face_normals(vertices, turned), face_normals(vertices, faces))
    np.testing.assert_allclose(face_normals(vertices, swapped), -face_normals(vertices, faces))
    np.testing.assert_allclose(face_areas(vertices, swapped), face_areas(vertices, faces))


def test_degenerate_faces_have_a_finite_gradient():
    vertices = jnp.array([[0.0, 0, 0], [1, 1, 1], [2, 2, 2], [0, 0, 0]])
    faces = jnp.array([[0, 1, 2], [0, 3, 3]])

    def total(vertices):
        points, weights = mesh_varifold(vertices, faces, normal_weight=0.3)
        return points.sum() + weights.sum() + vertex_measure(vertices, faces).weights.sum()

    value, slope = jax.jit(jax.value_and_grad(total))(vertices)
    assert np.isfinite(value)
    assert np.all(np.isfinite(slope))


def test_varifold_atoms(sphere):
    mesh = sphere(1)
    with jax.enable_x64(True):
        points, weights = mesh_varifold(*mesh, normal_weight=0.3)
        plain, _ = mesh_varifold(*mesh)
        np.testing.assert_allclose(points[:, 3:], 0.3 * face_normals(*mesh))
    np.testing.assert_allclose(points[:, :3], corners(mesh).mean(1), atol=1e-15)
    np.testing.assert_array_equal(plain, points[:, :3])
    np.testing.assert_allclose(weights, heron(mesh) / heron(mesh).sum(), rtol=1e-9)


def test_padding_has_no_weight(octahedron):
    vertices, faces = octahedron
    padded = np.concatenate([faces, [[0, 0, 0], [0, 0, 0]]])
    for encode in (mesh_varifold, vertex_measure):
        weights = encode(vertices, faces).weights
        np.testing.assert_allclose(
            encode(vertices, padded).weights[: len(weights)], weights, rtol=1e-6
        )
    sample = sample_surface(jax.random.key(0), vertices, padded, num_points=100)
    assert np.all(sample.faces < 8)
    grid, direction = np.linspace(-1, 1, 9), np.array([0.6, 0.0, 0.8])
    np.testing.assert_allclose(
        surface_cdf(vertices, padded, direction, grid),
        surface_cdf(vertices, faces, direction, grid),
        atol=1e-6,
    )


def test_vertex_measure_is_lumped(sphere):
    vertices, faces = mesh = sphere(1)
    expected = np.zeros(len(vertices))
    for face, area in zip(faces, heron(mesh), strict=True):
        expected[face] += area / 3
    with jax.enable_x64(True):
        points, weights = map(np.asarray, vertex_measure(*mesh, normal_weight=0.3))
    np.testing.assert_allclose(weights, expected / expected.sum(), rtol=1e-9)
    np.testing.assert_array_equal(points[:, :3], vertices)
    # The mesh is symmetric enough that the normals at its vertices are radial to a few degrees.
    np.testing.assert_allclose(np.linalg.norm(points[:, 3:], axis=1), 0.3, rtol=1e-9)
    assert np.all(np.sum(points[:, 3:] * vertices, axis=1) > 0.29)


def test_samples_are_uniform_on_the_surface(octahedron):
    vertices, faces = octahedron
    vertices = vertices * [1.0, 2.0, 3.0] + np.eye(1, 3)  # stretched: unequal faces
    vertices = np.concatenate([vertices, [[9.0, 9, 9]]])
    faces = np.concatenate([faces[:5], [[0, 1, 6]], faces[5:7]])
    mesh = vertices, faces
    share = heron(mesh) / heron(mesh).sum()
    n = 4000
    points, normals, chosen = sample_surface(jax.random.key(0), *mesh, num_points=n)
    counts = np.bincount(chosen, minlength=len(faces))
    assert np.max(np.abs(counts - n * share)) < 1 + 1e-3
    np.testing.assert_allclose(normals, face_normals(*mesh)[chosen], atol=1e-6)
    # Barycentric coordinates within the largest face are uniform: each is Beta(1, 2).
    largest = np.argmax(share)
    basis = corners(mesh)[largest].T
    inside = np.linalg.solve(basis, np.asarray(points)[chosen == largest].T)
    np.testing.assert_allclose(inside.sum(0), 1, atol=1e-4)
    for coordinate in inside:
        assert stats.kstest(coordinate, stats.beta(1, 2).cdf).pvalue > 1e-3


def test_samples_move_with_the_vertices(octahedron):
    vertices, faces = octahedron
    points, push = jax.vjp(
        lambda v: sample_surface(jax.random.key(0), v, faces, num_points=50).points,
        jnp.asarray(vertices, jnp.float32),
    )
    # A shift of all vertices moves every point by it.
    (pull,) = push(jnp.ones_like(points))
    np.testing.assert_allclose(pull.sum(0), 50, rtol=1e-4)


def test_cdf_of_a_sphere_is_archimedes(sphere):
    grid = np.linspace(-1.1, 1.1, 40)
    direction = np.array([2.0, -1.0, 2.0]) / 3
    value = surface_cdf(*sphere(4), direction, grid)
    np.testing.assert_allclose(value, np.clip((grid + 1) / 2, 0, 1), atol=3e-3)


def test_cdf_is_that_of_many_samples(octahedron):
    vertices, faces = octahedron
    vertices = vertices * [1.0, 2.0, 0.5]
    direction, grid = np.array([0.5, 0.7, -0.2]), np.linspace(-2, 2, 21)
    points = sample_surface(jax.random.key(1), vertices, faces, num_points=100_000).points
    empirical = np.searchsorted(np.sort(points @ direction), grid) / 100_000
    np.testing.assert_allclose(surface_cdf(vertices, faces, direction, grid), empirical, atol=5e-3)


def test_cdf_does_not_see_a_refinement(octahedron, refine):
    direction, grid = np.array([0.5, 0.7, -0.2]), np.linspace(-1, 1, 33)
    with jax.enable_x64(True):
        coarse = surface_projection_cdf(*octahedron, direction, grid)
        fine = surface_projection_cdf(*refine(*refine(*octahedron)), direction, grid)
    np.testing.assert_allclose(coarse, fine, atol=1e-12)


def test_cdf_of_a_face_orthogonal_to_the_direction_is_a_step():
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]], np.float32)
    grid = np.array([-0.1, 0.0, 0.1, 0.5, 1.0], np.float32)

    @jax.jit
    def value_and_slope(direction):
        return jax.value_and_grad(
            lambda v: surface_projection_cdf(v, np.array([[0, 1, 2]]), direction, grid).sum()
        )(vertices)

    # 1 - (1 - t)^2 along either side; along the normal all mass is at 0.
    along = np.sum(1 - (1 - np.clip(grid, 0, 1)) ** 2)
    for direction, expected in zip(np.eye(3, dtype=np.float32), (along, along, 4), strict=True):
        value, slope = value_and_slope(direction)
        np.testing.assert_allclose(value, expected, rtol=1e-6)
        assert np.all(np.isfinite(slope))
