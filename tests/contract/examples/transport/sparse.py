import numpy as np
from kinds import Example, Stateful

from lossbench.transport import sparse_ot

rng = np.random.default_rng(0)
SCORES = rng.normal(size=(6, 4)).astype(np.float32)
COST = rng.uniform(size=(6, 4)).astype(np.float32)
ALPHA = rng.normal(size=6).astype(np.float32) / 4
BETA = rng.normal(size=4).astype(np.float32) / 4
SOURCES = rng.dirichlet(np.ones(6)).astype(np.float32)
TARGETS = rng.dirichlet(np.ones(4)).astype(np.float32)
MASSES = rng.uniform(0.5, 1.5, 6).astype(np.float32)
GAMMA = {"gamma": (0.7, 1.5)}


def solve(alpha, cost):
    """A stream of problems, each started from the potential of the one before."""
    out = sparse_ot(cost, SOURCES, TARGETS, k=3, gamma=0.5, tolerance=1e-4, init=alpha)
    return (out.values, out.rows, out.value), out.alpha


EXAMPLES = {
    "sparse_ot": Stateful(
        init=lambda: np.zeros(6, np.float32),
        update=solve,
        batches=tuple((COST + 0.1 * i * COST**2,) for i in range(4)),
    ),
    "sparse_ot_dual": Example(
        (ALPHA, BETA, COST, SOURCES, TARGETS),
        rows=(0, 2, 3),
        result="scalar",
        free=(0, 2),
        kwargs={"k": 2},
        traced=GAMMA,
    ),
    "sparse_ot_route": Example(
        (SCORES,), rows=(0,), kwargs={"k": 2}, traced={"learning_rate": (0.01, 0.3)}
    ),
    "sparse_ot_semi_dual": Example(
        (ALPHA, COST, SOURCES, TARGETS),
        rows=(0, 1, 2),
        result="scalar",
        free=(0, 1),
        kwargs={"k": 2},
        traced=GAMMA,
    ),
    "sparse_simplex_projection": Example((SCORES, MASSES), rows=(0, 1), kwargs={"k": 2}, free=(0,)),
    "topk_relu_conjugate": Example((SCORES,), rows=(0,), kwargs={"k": 2}, traced=GAMMA),
    "topk_simplex_conjugate": Example(
        (SCORES, MASSES), rows=(0, 1), kwargs={"k": 2}, traced=GAMMA, free=(0,)
    ),
}
