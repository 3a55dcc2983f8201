import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

from lossbench.score import Karras, VariancePreserving

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 2)).astype(np.float32)
OTHER = rng.normal(size=(6, 2)).astype(np.float32)
TIMES = np.linspace(0.1, 0.9, 6).astype(np.float32)
GRID = np.linspace(1, 0.1, 5).astype(np.float32)
PROCESS = VariancePreserving()
SMALL = {"probe": "sphere", "num_probes": 2}


def field(x):
    return jnp.stack([jnp.tanh(x[:, 0] - x[:, 1]), -x[:, 1] / (1 + x[:, 0] ** 2)], axis=1)


def timed(x, t):
    return field(x) / (1 + t[:, None])


def energy(x):
    return jnp.sum(jnp.log1p(x**2), axis=1)


def log_density(x):
    return -energy(x)


def slope(x, t):
    return jnp.sum(jnp.tanh(x), axis=1) * t


EXAMPLES = {
    "annealed_langevin": Keyed((timed, X, GRID), {"steps_each": 2}),
    "denoising_score_matching": Keyed((timed, X), {"noise": PROCESS}),
    "denoising_time_score_matching": Keyed((slope, X), {"process": PROCESS}),
    "divergence": Example((field, X), rows=(1,)),
    "edm_denoised": Example(
        (timed, X, TIMES), rows=(1, 2), free=(1,), traced={"sigma_data": (0.5, 1.0)}
    ),
    "edm_loss": Keyed((timed, X)),
    "edm_sample": Keyed((timed, X, GRID), {"churn": 1.0}),
    "edm_scalings": Example(
        (TIMES,),
        rows=(0,),
        free=(),
        traced={"sigma_data": (0.5, 1.0)},
        part=lambda scalings: jnp.stack(scalings, axis=-1),
    ),
    "energy_score": Example((energy, X), rows=(1,)),
    "euler_maruyama": Keyed((timed, X, GRID), {"process": PROCESS}),
    "explicit_score_matching": Example((field, lambda x: -x, X), rows=(2,)),
    "finite_difference_score_matching": Keyed((energy, X), SMALL),
    "hutchinson_divergence": Keyed((field, X), SMALL),
    "implicit_score_matching": Example((field, X), rows=(1,)),
    "implicit_time_score_matching": Example(
        (slope, X, OTHER, X + OTHER, TIMES), rows=(3, 4), result="scalar", free=(3,)
    ),
    "karras_levels": Example(
        (TIMES,), rows=(0,), free=(), traced={"rho": (7.0, 5.0), "sigma_max": (80.0, 10.0)}
    ),
    "langevin": Keyed((field, X), {"step_size": 0.1, "num_steps": 3}),
    "metropolis_langevin": Keyed((log_density, X), {"step_size": 0.1, "num_steps": 3}),
    "predictor_corrector": Keyed((timed, X, GRID), {"process": PROCESS}),
    "probability_flow": Example(
        (timed, X, GRID), rows=(1,), kwargs={"process": PROCESS}, free=(1,)
    ),
    "probability_flow_log_density": Example(
        (timed, X), rows=(1,), kwargs={"process": PROCESS, "num_steps": 4}
    ),
    "score_weights": Example(
        (Karras(), TIMES, "min_snr"), rows=(1,), free=(), traced={"snr_cap": (5.0, 2.0)}
    ),
    "sliced_score_matching": Keyed((field, X), SMALL),
    "time_score_log_ratio": Example((slope, X), rows=(1,)),
}
