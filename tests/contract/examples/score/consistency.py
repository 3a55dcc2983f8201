import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
Y = rng.normal(size=(6, 4)).astype(np.float32)
SIGMA = np.geomspace(0.01, 10, 6).astype(np.float32)
LOWER, UPPER = SIGMA, 1.3 * SIGMA
STEPS = np.arange(0, 60, 10).astype(np.int32)
LEVEL = np.log(SIGMA) / 4
FREQUENCIES = rng.normal(size=3).astype(np.float32)


def network(x, level):
    return jnp.tanh(x) + level[:, None]


def student(x, sigma):
    return x / (1 + sigma[:, None])


def denoiser(x, sigma):
    return x / (1 + sigma[:, None] ** 2)


DATA = {"sigma_data": (0.5, 1.0), "sigma_min": (0.002, 0.005)}

EXAMPLES = {
    "adaptive_teacher_decay": Example(
        (STEPS + 2,),
        rows=(0,),
        traced={"initial": (0.9, 0.95)},
        skip={"weak_types": "its array is of integers"},
    ),
    "consistency_distillation_loss": Keyed((student, denoiser, X, LOWER, UPPER)),
    # The levels are positive, and near the least of them the network counts for nothing.
    "consistency_output": Example(
        (network, X, SIGMA), rows=(1, 2), differentiable=(1, 2), free=(1,), traced=DATA
    ),
    "consistency_sample": Keyed((student, X, SIGMA[::-1])),
    "consistency_scalings": Example(
        (SIGMA,), rows=(0,), free=(), traced=DATA, part=lambda result: result[1]
    ),
    "consistency_training_loss": Keyed((student, X, LOWER, UPPER)),
    "doubling_num_scales": Example((STEPS, 60), rows=(0,), part=lambda count: 1.0 * count),
    "fourier_noise_embedding": Example(
        (LEVEL, FREQUENCIES), rows=(0,), traced={"scale": (0.02, 16.0)}
    ),
    "lognormal_index_probabilities": Example(
        (SIGMA,),
        rows=(),
        result="scalar",
        traced={"log_sigma_mean": (-1.1, 0.0), "log_sigma_std": (2.0, 1.0)},
        part=lambda probabilities: probabilities[0],
    ),
    "pseudo_huber": Example((X, Y), rows=(0, 1), traced={"c": (0.03, 1.0)}),
    "sample_adjacent_levels": Keyed((5,), {"num_scales": 20}),
    "square_root_num_scales": Example((STEPS, 60), rows=(0,), part=lambda count: 1.0 * count),
}
