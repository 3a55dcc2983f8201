import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from lossbench.transport import (
    flipped_face_fraction,
    integrate_flow,
    self_intersection_fraction,
)

MATRIX = np.array([[0.1, -1.0, 0.3], [0.9, -0.2, 0.0], [0.2, 0.4, 0.3]])


def linear(matrix, t, x):
    return x @ matrix.T


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("midpoint", 2), ("rk4", 4)])
def test_a_step_of_a_linear_field_is_the_exponentials_series(method, order):
    x = np.random.default_rng(0).normal(size=(5, 3))
    h = 1.5 / 4
    powers = [np.linalg.matrix_power(h * MATRIX, k) / math.factorial(k) for k in range(order + 1)]
    with jax.enable_x64(True):
        moved = integrate_flow(linear, MATRIX, x, num_steps=4, horizon=1.5, method=method)
    expected = x @ np.linalg.matrix_power(sum(powers), 4).T
    np.testing.assert_allclose(moved, expected, atol=1e-12)


@pytest.mark.parametrize("method", ["euler", "midpoint", "rk4"])
def test_a_field_of_time_alone_is_a_quadrature(method):
    starts, h = np.arange(4) / 2, 0.5
    expected = {
        "euler": np.sum(h * starts**3),
        "midpoint": np.sum(h * (starts + h / 2) ** 3),
        "rk4": 4.0,  # Simpson's rule, exact for cubics
    }
    with jax.enable_x64(True):
        moved = integrate_flow(
            lambda _, t, x: t**3 + 0 * x,
            None,
            np.zeros((1, 1)),
            num_steps=4,
            horizon=2.0,
            method=method,
        )
    np.testing.assert_allclose(moved[0, 0], expected[method], rtol=1e-12)


def test_there_and_back():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):
        there = integrate_flow(linear, MATRIX, x, method="rk4", num_steps=20)
        np.testing.assert_allclose(there, x @ scipy.linalg.expm(MATRIX).T, atol=1e-6)
        back = integrate_flow(linear, MATRIX, there, method="rk4", num_steps=20, reverse=True)
    np.testing.assert_allclose(back, x, atol=1e-6)


def test_gradient_by_the_field():
    x = np.random.default_rng(0).normal(size=(5, 3))
    with jax.enable_x64(True):

        def end(matrix):
            return integrate_flow(linear, matrix, x, num_steps=4).sum()

        slope = jax.grad(end)(jnp.asarray(MATRIX))
        step = 1e-6 * np.random.default_rng(1).normal(size=(3, 3))
        change = end(MATRIX + step) - end(MATRIX - step)
        np.testing.assert_allclose(change, 2 * np.sum(slope * step), rtol=1e-6)


def test_flipped_faces(sphere):
    vertices, faces = sphere(1)
    assert flipped_face_fraction(vertices, vertices, faces) == 0
    assert flipped_face_fraction(vertices * [1, 1, -1], vertices, faces) > 0
    turned = np.concatenate([faces[:8, [1, 0, 2]], faces[8:]])
    np.testing.assert_allclose(
        flipped_face_fraction(vertices, vertices, turned),
        0,  # both normals turn with the faces
    )
    pushed = vertices.copy()
    pushed[0] = -2 * vertices[0]  # through the centre and out on the other side
    around = np.any(faces == 0, axis=1).mean()
    np.testing.assert_allclose(flipped_face_fraction(pushed, vertices, faces), around, rtol=1e-6)


def test_self_intersections(sphere, octahedron):
    assert self_intersection_fraction(*sphere(2), chunk_size=50) == 0
    vertices, faces = octahedron
    both = np.concatenate([vertices, vertices + 10.0])
    apart = np.concatenate([faces, faces + 6])
    assert self_intersection_fraction(both, apart) == 0
    # The vertex at -x of the second lies inside of the first: its four faces pierce one side.
    shifted = np.concatenate([vertices, vertices + np.array([1.7, 0.05, 0.03])])
    edges_of_tip = [face for face in faces if 3 in face]
    fraction = self_intersection_fraction(shifted, apart, chunk_size=5)
    # The tip of either pierces faces around the other's tip, and nothing else.
    assert len(edges_of_tip) == 4
    np.testing.assert_allclose(fraction, 8 / 16, rtol=1e-6)


def crossing_faces(vertices, faces):
    """By the linear system of each edge and each triangle."""
    corners = vertices[faces]
    a, sides = corners[:, 0], np.stack([corners[:, 1], corners[:, 2]], 1) - corners[:, :1]
    crossing = np.zeros((len(faces), len(faces)), bool)
    for i in range(3):
        origin, end = corners[:, i], corners[:, (i + 1) % 3]
        systems = np.empty((len(faces), len(faces), 3, 3))
        systems[..., :2] = np.swapaxes(sides, 1, 2)
        systems[..., 2] = (origin - end)[:, None]
        apart = np.all(faces[:, None, :, None] != faces[:, None, :], axis=(2, 3))
        systems[~apart] = np.eye(3)
        u, v, t = np.moveaxis(
            np.linalg.solve(systems, (origin[:, None] - a)[..., None])[..., 0], 2, 0
        )
        crossing |= apart & (u >= 0) & (v >= 0) & (u + v <= 1) & (t >= 0) & (t <= 1)
    return np.any(crossing | crossing.T, axis=1)


def test_self_intersections_of_many_triangles_by_brute_force():
    random = np.random.default_rng(3)
    corners = random.normal(size=(230, 1, 3)) + 0.25 * random.normal(size=(230, 3, 3))
    vertices, faces = corners.reshape(-1, 3).astype(np.float32), np.arange(690).reshape(-1, 3)
    expected = crossing_faces(vertices.astype(np.float64), faces).mean()
    assert 0.2 < expected < 0.8
    for chunk_size in (64, 230):
        found = self_intersection_fraction(vertices, faces, chunk_size=chunk_size)
        np.testing.assert_allclose(found, expected, rtol=1e-6)


@pytest.mark.parametrize("chunk_size", [64, 512])
def test_a_surface_around_a_point_does_not_cross_itself(sphere, chunk_size):
    # Each face has a cone of directions of its own.
    u, faces = sphere(3)
    x, y, z = u.T
    vertices = (1 + 0.3 * (x**3 - 3 * x * y**2) + 0.25 * z**3)[:, None] * u
    found = self_intersection_fraction(vertices.astype(np.float32), faces, chunk_size=chunk_size)
    assert found == 0
