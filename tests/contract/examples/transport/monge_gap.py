import numpy as np
from kinds import Example, Keyed

rng = np.random.default_rng(0)
SOURCE = rng.normal(size=(6, 4)).astype(np.float32)
MAPPED = rng.normal(size=(6, 4)).astype(np.float32)
TARGET = rng.normal(size=(6, 4)).astype(np.float32) + 1
OPTIMAL = MAPPED + 0.1 * TARGET
MATRIX = rng.normal(size=(4, 4)).astype(np.float32)
FACTORS = rng.normal(size=(2, 4, 4)).astype(np.float32)
COVS = FACTORS @ FACTORS.transpose(0, 2, 1) + np.eye(4, dtype=np.float32)

# Solved to rounding, so that finite differences see the derivative and not the tolerance.
SOLVER = {"tolerance": 1e-9, "max_iterations": 2000}

EXAMPLES = {
    "cyclical_monotonicity_violation": Keyed((SOURCE, MAPPED), {"samples": 64}),
    "gaussian_monge_gap": Example((MATRIX, COVS[0]), rows=(), result="scalar", free=(0,)),
    "gaussian_ot_map": Example(
        (SOURCE, MATRIX[0], COVS[0], MATRIX[1], COVS[1]), rows=(0,), free=(0,)
    ),
    "monge_gap": Example(
        (SOURCE, MAPPED),
        rows=(0, 1),
        result="scalar",
        kwargs=SOLVER,
        traced={"epsilon": (3.0, 5.0)},
    ),
    "monge_gap_displacements": Example(
        (SOURCE, MAPPED),
        rows=(0, 1),
        kwargs=SOLVER,
        traced={"epsilon": (3.0, 5.0)},
        skip={"gradient": "it says where the gap comes from and carries no gradient"},
    ),
    "transport_map_loss": Example(
        (SOURCE, MAPPED, TARGET),
        rows=(0, 1),
        result="scalar",
        kwargs={**SOLVER, "gap_relative_epsilon": 0.5, "fitting_relative_epsilon": 0.5},
        traced={"gap_weight": (0.5, 2.0)},
        skip={"gradient": "the epsilons follow the clouds but stay fixed in the derivative"},
    ),
    "unexplained_variance": Example(
        (MAPPED, OPTIMAL, COVS[0]), rows=(0, 1), result="scalar", free=(0, 1)
    ),
}
