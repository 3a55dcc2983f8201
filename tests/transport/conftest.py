import numpy as np
import pytest


def subdivide(vertices, faces):
    """Each face cut in four at the middles of its edges."""
    middles, new_faces, points = {}, [], list(vertices)

    def middle(i, j):
        edge = (min(i, j), max(i, j))
        if edge not in middles:
            middles[edge] = len(points)
            points.append((vertices[i] + vertices[j]) / 2)
        return middles[edge]

    for a, b, c in faces:
        ab, bc, ca = middle(a, b), middle(b, c), middle(c, a)
        new_faces += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
    return np.array(points), np.array(new_faces)


@pytest.fixture
def octahedron():
    """Six vertices, eight faces, normals outwards."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = [
        [x, y, z] if (x < 3) ^ (y < 3) ^ (z < 3) else [x, z, y]
        for x in (0, 3)
        for y in (1, 4)
        for z in (2, 5)
    ]
    return vertices, np.array(faces)


@pytest.fixture
def sphere(octahedron):
    """Builds a sphere of 8 x 4^levels faces."""

    def build(levels):
        vertices, faces = octahedron
        for _ in range(levels):
            vertices, faces = subdivide(vertices, faces)
            vertices = vertices / np.linalg.norm(vertices, axis=1, keepdims=True)
        return vertices, faces

    return build


@pytest.fixture
def refine():
    return subdivide
