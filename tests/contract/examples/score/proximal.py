import jax
import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

from lossbench.score import input_convex_init

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
TARGET = rng.normal(size=(6, 4)).astype(np.float32)
PARAMS = input_convex_init(jax.random.key(0), in_dim=4, hidden=8, layers=2)
INVERSION = {"tolerance": 1e-15, "max_iterations": 60}
STAGES = {"dim": 4, "pretrain_steps": 4, "total_steps": 8}


def potential(x):
    """Strongly convex, its gradient onto the whole space."""
    return jnp.sum(jnp.square(x) + jnp.sqrt(1 + jnp.square(x + 0.3)), axis=1) / 2


def denoise(x):
    return x / 2 + jnp.tanh(x) / 4


def data_step(x):
    return (x + 1) / 2


EXAMPLES = {
    "annealed_proximal_matching_loss": Example(
        (X, TARGET, np.float32(5)),
        rows=(0, 1),
        kwargs={"pretrain_steps": 4, "total_steps": 8},
        traced={"width_min": (1.0, 2.0)},
        differentiable=(0, 1),
    ),
    "input_convex_init": Keyed((), {"in_dim": 2, "hidden": 4}),
    "input_convex_potential": Example(
        (PARAMS, X),
        rows=(1,),
        traced={"sharpness": (5.0, 10.0), "strong_convexity": (0.1, 0.2)},
    ),
    "invert_proximal": Example((potential, X), rows=(1,), kwargs=INVERSION),
    "learned_prior": Example((potential, X), rows=(1,), kwargs=INVERSION),
    "plug_and_play_admm": Example(
        (denoise, data_step, X),
        rows=(2,),
        kwargs={"num_steps": 5},
        part=lambda result: result[0],
    ),
    "plug_and_play_gradient": Example(
        (denoise, jnp.sin, X),
        rows=(2,),
        kwargs={"num_steps": 5},
        traced={"step_size": (0.5, 0.25)},
        part=lambda result: result[0],
    ),
    "proximal_matching_loss": Example((X, TARGET), rows=(0, 1), traced={"gamma": (1.0, 2.0)}),
    "proximal_matching_width": Example(
        (np.float32(5),),
        rows=(),
        result="scalar",
        kwargs=STAGES,
        traced={"width_min": (1.0, 2.0)},
        differentiable=(),
    ),
    "proximal_operator": Example((potential, X), rows=(1,)),
}
