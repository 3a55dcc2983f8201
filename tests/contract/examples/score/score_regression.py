import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

from lossbench.score import OrnsteinUhlenbeck

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 2)).astype(np.float32)
OTHER = rng.normal(size=(4, 2)).astype(np.float32)
TARGETS = rng.normal(size=(4, 2)).astype(np.float32)
CROSS = rng.normal(size=(6, 4)).astype(np.float32)
TIMES = np.linspace(0.1, 0.9, 6).astype(np.float32)
PROCESS = OrnsteinUhlenbeck(t_max=2.0)
GRAM = OTHER @ OTHER.T + np.eye(4, dtype=np.float32)
EIGENVALUES = np.array([0.9, 0.5, 0.2, 0.1, 0.05, 0.01], np.float32)

EXAMPLES = {
    "early_stopping_time": Example(
        (EIGENVALUES,),
        rows=(0,),
        result="scalar",
        kwargs={"max_time": 100},
        traced={"noise_std": (0.1, 0.2), "step_size": (1.0, 0.5)},
        differentiable=(),
        part=lambda time: 1.0 * time,
    ),
    "kernel_gradient_descent": Example(
        (GRAM, CROSS, TARGETS, np.array([1, 20])),
        rows=(1,),
        traced={"step_size": (0.3, 0.1)},
        differentiable=(1,),
        part=lambda predictions: jnp.moveaxis(predictions, 1, 0),
    ),
    "local_rademacher_complexity": Example(
        (EIGENVALUES, np.array(0.4, np.float32)), rows=(0,), result="scalar", free=(0,)
    ),
    "regression_pairs": Keyed((X,), {"process": PROCESS, "num_noise": 2}),
    "relu_ntk": Example((X, OTHER), rows=(0,)),
    "score_regression_loss": Example(
        (X + 0.1, X, TIMES), rows=(0, 1, 2), kwargs={"process": PROCESS}, free=(0, 1)
    ),
    "truncated_denoised": Example(
        (jnp.sin, X), rows=(1,), traced={"input_radius": (3.0, 2.0), "output_radius": (0.7, 0.6)}
    ),
}
