import numpy as np
from kinds import Example, Keyed, Stateful

from lossbench.transport import mesh_varifold, vertex_measure

rng = np.random.default_rng(0)
# Six vertices of an octahedron, slightly moved.
VERTICES = np.concatenate([np.eye(3), -np.eye(3)]) + 0.05 * rng.normal(size=(6, 3))
VERTICES = VERTICES.astype(np.float32)
FACES = np.array(
    [[0, 1, 2], [0, 2, 4], [0, 5, 1], [0, 4, 5], [3, 2, 1], [3, 4, 2]]  # two are missing
)
X = rng.normal(size=(6, 3)).astype(np.float32)
Y = rng.normal(size=(5, 3)).astype(np.float32)
NORMALS = (X / np.linalg.norm(X, axis=1, keepdims=True)).astype(np.float32)
OTHER_NORMALS = (Y / np.linalg.norm(Y, axis=1, keepdims=True)).astype(np.float32)
GRID = np.linspace(-1, 1, 7).astype(np.float32)
DIRECTION = np.array([0.6, 0.1, 0.7], np.float32)


def linear(rate, t, x):
    return rate * x + t


def measure(encode):
    """A pair of points and weights has no single result: its checks are those of a pair."""
    return Stateful(
        init=lambda: np.float32(0),
        update=lambda state, vertices: (encode(vertices, FACES, normal_weight=0.3), state),
        batches=((VERTICES,), (0 * VERTICES,), (VERTICES[:1].repeat(6, 0),), (1e4 * VERTICES,)),
    )


PAIR = (VERTICES, FACES, VERTICES * np.float32(1.3), FACES)
CLOUDS = Example((X, Y), rows=(0,), result="scalar")

EXAMPLES = {
    "average_symmetric_surface_distance": CLOUDS,
    "chamfer_distance": CLOUDS,
    "continuous_mesh_sw1": Keyed(PAIR, {"num_projections": 4, "grid_size": 32}),
    "face_areas": Example((VERTICES, FACES), rows=(1,), free=()),
    "face_normals": Example((VERTICES, FACES), rows=(1,), free=()),
    "flipped_face_fraction": Example(
        (VERTICES, X, FACES), rows=(2,), result="scalar", differentiable=(), free=()
    ),
    "integrate_flow": Example(
        (linear, 0.5, X),
        rows=(2,),
        kwargs={"num_steps": 3},
        free=(2,),
        traced={"horizon": (1.0, 2.0)},
    ),
    "mesh_sliced_wasserstein": Keyed(PAIR, {"num_projections": 4}),
    "mesh_varifold": measure(mesh_varifold),
    "normal_consistency": Example(
        (X, NORMALS, Y, OTHER_NORMALS), rows=(0, 1), result="scalar", differentiable=(1, 3)
    ),
    "sample_surface": Keyed((VERTICES, FACES), {"num_points": 6}),
    "self_intersection_fraction": Example((VERTICES, FACES), rows=(1,), result="scalar", free=()),
    "surface_hausdorff_distance": Example(
        (X, Y), rows=(0,), result="scalar", traced={"quantile": (0.9, 0.5)}
    ),
    "surface_projection_cdf": Example(
        (VERTICES, FACES, DIRECTION, GRID), rows=(3,), differentiable=(0, 2, 3), free=()
    ),
    "vertex_measure": measure(vertex_measure),
}
