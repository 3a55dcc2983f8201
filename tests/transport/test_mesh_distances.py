import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import spatial, stats

from lossbench.transport import (
    average_symmetric_surface_distance,
    chamfer_distance,
    continuous_mesh_sw1,
    mesh_sliced_wasserstein,
    mesh_varifold,
    normal_consistency,
    sample_projections,
    surface_hausdorff_distance,
)

KEY = jax.random.key(0)


@pytest.mark.parametrize("p", [1.0, 2.0])
def test_concentric_spheres(sphere, p):
    # A sphere projects to the uniform law: SW_p^p = |r - r'|^p / (p + 1).
    errors = []
    for levels in (2, 3):
        vertices, faces = sphere(levels)
        target = 1.5 * vertices, faces
        options = {"p": p, "num_projections": 32, "method": "spiral"}
        value = mesh_sliced_wasserstein(KEY, vertices, faces, *target, **options)
        errors.append(1 - value / (0.5**p / (p + 1)))
        # The barycentres lie inside, by O(h^2).
        root = mesh_sliced_wasserstein(KEY, vertices, faces, *target, **options, root=True)
        np.testing.assert_allclose(root, value ** (1 / p), rtol=1e-6)
    assert 0 < errors[1] < 0.04
    assert 3.5 < errors[0] / errors[1] < 4.5


@pytest.mark.parametrize("encoding", ["varifold", "vertex"])
def test_a_shift_costs_a_third_or_a_sixth_of_its_square(sphere, encoding):
    vertices, faces = sphere(1)
    shift = np.array([0.3, -0.2, 0.6])
    options = {"encoding": encoding, "method": "orthogonal", "num_projections": 6}
    with jax.enable_x64(True):
        mesh = vertices, faces
        moved = vertices + shift, faces
        plain = mesh_sliced_wasserstein(KEY, *mesh, *moved, **options)
        oriented = mesh_sliced_wasserstein(KEY, *mesh, *moved, normal_weight=0.4, **options)
    np.testing.assert_allclose(plain, 0.49 / 3, rtol=1e-9)
    np.testing.assert_allclose(oriented, 0.49 / 6, rtol=1e-9)


def test_it_is_the_mean_of_scipys_weighted_distances(sphere, octahedron):
    a, b = sphere(1), (octahedron[0] * [2.0, 1.0, 0.7] + 0.1, octahedron[1])
    with jax.enable_x64(True):
        value = mesh_sliced_wasserstein(KEY, *a, *b, p=1.0, normal_weight=0.5, num_projections=7)
        # As inside: the first of three keys draws the directions.
        directions = np.asarray(sample_projections(jax.random.split(KEY, 3)[0], 7, 6))
        (x, v), (y, w) = (
            map(np.asarray, mesh_varifold(*mesh, normal_weight=0.5)) for mesh in (a, b)
        )
    expected = [stats.wasserstein_distance(x @ d, y @ d, v, w) for d in directions]
    np.testing.assert_allclose(value, np.mean(expected), rtol=1e-9)


def test_empirical_encoding_tends_to_the_surface(sphere):
    mesh = sphere(3)
    target = mesh[0] * [1.3, 1.0, 0.7], mesh[1]
    options = {"p": 1.0, "num_projections": 32, "method": "spiral"}
    exact = continuous_mesh_sw1(KEY, *mesh, *target, num_projections=32, method="spiral")
    sampled = mesh_sliced_wasserstein(
        KEY, *mesh, *target, encoding="empirical", num_points=4000, **options
    )
    atoms = mesh_sliced_wasserstein(KEY, *mesh, *target, **options)
    np.testing.assert_allclose(sampled, exact, rtol=0.05)
    np.testing.assert_allclose(atoms, exact, rtol=0.05)
    oriented = {"normal_weight": 0.5, "p": 1.0, "num_projections": 50}
    np.testing.assert_allclose(
        mesh_sliced_wasserstein(KEY, *mesh, *target, encoding="empirical", **oriented),
        mesh_sliced_wasserstein(KEY, *mesh, *target, **oriented),
        rtol=0.1,
    )


def test_orientation_counts_with_the_normals_only(sphere):
    vertices, faces = sphere(1)
    reversed_mesh = vertices, faces[:, [1, 0, 2]]
    assert mesh_sliced_wasserstein(KEY, vertices, faces, *reversed_mesh) < 1e-10
    # Radial normals: on a sphere (x, n) against (x, -n) is far.
    assert mesh_sliced_wasserstein(KEY, vertices, faces, *reversed_mesh, normal_weight=1.0) > 0.01


def test_gradient_by_vertices(octahedron):
    vertices, faces = octahedron
    target = vertices * [1.5, 1.0, 0.8], faces
    # Equal areas would make ties between the weights, where the cost has a kink.
    vertices = vertices + 0.1 * np.random.default_rng(0).normal(size=vertices.shape)
    with jax.enable_x64(True):
        # The trapezoidal rule's error, about 1e-8 here, jumps as the grid moves with the range.
        for loss, size, rtol in (
            (
                lambda v: mesh_sliced_wasserstein(KEY, v, faces, *target, normal_weight=0.3),
                1e-5,
                1e-5,
            ),
            (
                lambda v: continuous_mesh_sw1(
                    KEY, v, faces, *target, num_projections=3, grid_size=20_000
                ),
                1e-3,
                1e-2,
            ),
        ):
            slope = jax.jit(jax.grad(loss))(jnp.asarray(vertices))
            step = size * np.sign(slope)
            change = loss(vertices + step) - loss(vertices - step)
            np.testing.assert_allclose(change, 2 * np.sum(slope * step), rtol=rtol)


def test_continuous_distance_of_concentric_spheres(sphere):
    mesh = sphere(3)
    value = continuous_mesh_sw1(KEY, *mesh, 1.5 * mesh[0], mesh[1], num_projections=8)
    np.testing.assert_allclose(value, 0.25, rtol=0.02)


@pytest.fixture
def clouds():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)), rng.normal(size=(25, 3))


def test_chamfer_and_surface_distances_are_those_of_a_tree(clouds):
    x, y = clouds
    there, back = spatial.cKDTree(y).query(x)[0], spatial.cKDTree(x).query(y)[0]
    with jax.enable_x64(True):
        squared = chamfer_distance(x, y, chunk_size=7)
        np.testing.assert_allclose(squared, np.mean(there**2) + np.mean(back**2))
        mean = average_symmetric_surface_distance(x, y)
        np.testing.assert_allclose(mean, (there.mean() + back.mean()) / 2)
        hd90 = surface_hausdorff_distance(x, y)
        np.testing.assert_allclose(hd90, max(np.quantile(there, 0.9), np.quantile(back, 0.9)))
        largest = surface_hausdorff_distance(x, y, quantile=1.0)
    directed = spatial.distance.directed_hausdorff
    np.testing.assert_allclose(largest, max(directed(x, y)[0], directed(y, x)[0]))


def test_weighted_chamfer(clouds):
    x, y = clouds
    a = np.random.default_rng(1).dirichlet(np.ones(40))
    b = np.where(np.arange(25) < 20, 0.5, 0.0)
    there, back = spatial.cKDTree(y[:20]).query(x)[0], spatial.cKDTree(x).query(y[:20])[0]
    expected = a @ there**2 + np.mean(back**2)
    with jax.enable_x64(True):
        np.testing.assert_allclose(chamfer_distance(x, y, x_weights=a, y_weights=b), expected)


def test_chamfer_gradient(clouds):
    x, y = clouds
    _, to_y = spatial.cKDTree(y).query(x)
    _, to_x = spatial.cKDTree(x).query(y)
    expected = 2 * (x - y[to_y]) / 40
    np.add.at(expected, to_x, 2 * (x[to_x] - y) / 25)
    with jax.enable_x64(True):
        slope = jax.grad(chamfer_distance)(jnp.asarray(x), y, chunk_size=16)
    np.testing.assert_allclose(slope, expected, atol=1e-12)
    same = jax.jit(jax.grad(lambda x: chamfer_distance(x, y, squared=False)))(jnp.asarray(y))
    np.testing.assert_array_equal(same, 0)


def test_normal_consistency(clouds):
    x, y = clouds
    rng = np.random.default_rng(1)
    u, v = (
        m / np.linalg.norm(m, axis=1, keepdims=True)
        for m in (rng.normal(size=c.shape) for c in clouds)
    )
    _, to_y = spatial.cKDTree(y).query(x)
    _, to_x = spatial.cKDTree(x).query(y)
    expected = (np.sum(u * v[to_y], 1).mean() + np.sum(v * u[to_x], 1).mean()) / 2
    with jax.enable_x64(True):
        np.testing.assert_allclose(normal_consistency(x, u, y, v), expected, rtol=1e-12)
