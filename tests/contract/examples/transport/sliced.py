import functools

import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

rng = np.random.default_rng(0)
KEY = np.array([0, 7], np.uint32)
X = rng.normal(size=(6, 4)).astype(np.float32)
Y = 1 + rng.normal(size=(6, 4)).astype(np.float32)
CONTROLS = (rng.normal(size=6).astype(np.float32), X[:, :2], np.zeros(2, np.float32))
FEW = {"num_projections": 4}
KAPPA = {"kappa": (1.0, 3.0)}

# A random loss of two clouds, at a fixed key; the rows are the first cloud's.
sliced = functools.partial(Example, (KEY, X, Y[:5]), rows=(1,), result="scalar", kwargs=FEW)

EVEN = np.concatenate([X[:3].round(), -X[:3].round()])
LOC = X[0] / np.linalg.norm(X[0])


def constant_location(params, x, y):
    """The same direction for every pair."""
    return params / jnp.linalg.norm(params)


EXAMPLES = {
    "amortized_sliced_wasserstein": Keyed((constant_location, LOC, X, Y), FEW),
    "control_variate_mean": Example(
        CONTROLS, rows=(0, 1), result="scalar", part=lambda estimate: estimate.value
    ),
    "control_variate_sliced_wasserstein": sliced(),
    "distributional_sliced_wasserstein": Keyed((X, Y), {**FEW, "num_steps": 2}),
    "gaussian_control_variate": Example(
        (X[:5], Y[:3], X), rows=(2,), part=lambda control: control[0]
    ),
    # Of equal means, exactly, so that the start is random.
    "max_sliced_wasserstein": Keyed((EVEN, 2 * EVEN), {"num_steps": 1, "num_starts": 1}),
    "projected_wasserstein": Example((X[:5], Y[:3], X), rows=(2,)),
    "sample_projections": Keyed((5, 3)),
    "sample_vmf": Keyed((LOC,), {"kappa": 2.0, "num_samples": 3}),
    "sliced_wasserstein": sliced(),
    "sliced_wasserstein_estimate": sliced(part=lambda estimate: estimate.value),
    "vmf_log_density": Example((X, LOC), rows=(0,), traced=KAPPA),
    "vmf_mean_resultant": Example((np.float32(1.3), 3), rows=(), result="scalar"),
    "vmf_sliced_wasserstein": Keyed((X, Y, LOC), FEW),
    "wasserstein_1d": Example((X, Y), rows=(0, 1)),
}
