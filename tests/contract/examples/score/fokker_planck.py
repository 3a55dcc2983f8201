import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

from lossbench.score import OrnsteinUhlenbeck

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
T = rng.uniform(0.2, 1.0, 6).astype(np.float32)
ERRORS = rng.uniform(0.1, 1.0, 6).astype(np.float32)
TIMES = np.linspace(0, 2, 6, dtype=np.float32)
CORNER = np.full(4, 2, np.float32)
PROCESS = {"process": OrnsteinUhlenbeck(t_min=0.1)}


def log_density(x, t):
    return -jnp.sum(x**2, axis=1) * (1 + t) / 2 + jnp.sum(jnp.sin(x), axis=1)


def score(x, t):
    return -x * (1 + t)[:, None] + jnp.cos(x[:, ::-1])


EXAMPLES = {
    "fokker_planck_box_penalty": Keyed(
        (log_density, -CORNER, CORNER), {**PROCESS, "num_points": 8, "num_boundary_points": 4}
    ),
    "fokker_planck_loss": Keyed((log_density, X), {**PROCESS, "num_probes": 1}),
    "fokker_planck_rate": Example((score, X, T), rows=(1, 2), kwargs=PROCESS, free=(1,)),
    "log_density_fokker_planck_residual": Example(
        (log_density, X, T), rows=(1, 2), kwargs=PROCESS, free=(1,)
    ),
    "ode_sde_gap": Keyed((score, X, TIMES[::-1].copy()), PROCESS),
    "ode_sde_gap_bound": Example(
        (ERRORS, ERRORS[::-1].copy(), TIMES), rows=(), result="scalar", free=(0,)
    ),
    "reverse_sde_log_density": Keyed((log_density, X), {**PROCESS, "num_paths": 3, "num_steps": 4}),
    "score_fokker_planck_loss": Keyed((score, X), PROCESS),
    "score_fokker_planck_residual": Example((score, X, T), rows=(1, 2), kwargs=PROCESS, free=(1,)),
}
