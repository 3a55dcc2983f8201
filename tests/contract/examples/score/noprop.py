import jax
import jax.numpy as jnp
import numpy as np
import optax
from kinds import Example, Keyed, Stateful

from lossbench.score import noprop_gamma_init, noprop_init, noprop_update

rng = np.random.default_rng(0)
Z = rng.normal(size=(6, 3)).astype(np.float32)
X = rng.normal(size=(6, 4)).astype(np.float32)
T = rng.uniform(0.1, 0.9, 6).astype(np.float32)
LABELS = np.array([0, 0, 1, 1, 2, 2], np.int32)
PAIR = np.array([0, 1, 0, 1, 0, 1], np.int32)
EMBEDDINGS = rng.normal(size=(3, 3)).astype(np.float32)
ALPHA_BAR = np.array([0.01, 0.3, 0.7, 0.95], np.float32)
PARAMS = rng.normal(size=(3, 4, 3)).astype(np.float32)
LEVELS = {"alpha_bar": ALPHA_BAR}
ADAM = optax.adam(1e-2)


def block(params, z, x):
    return jnp.tanh(x @ params) + z / 2


def network(z, x, t):
    return jnp.tanh(x[:, :3]) + z / 2 + t[:, None]


def readout(z):
    return 2 * z


def gamma(t):
    return 4 - 8 * t


TRAINING = Stateful(
    init=lambda: noprop_init(ADAM, jnp.asarray(PARAMS)),
    update=lambda state, number: noprop_update(
        jax.random.fold_in(jax.random.key(0), number), state, ADAM, block, Z, X, **LEVELS
    ),
    batches=tuple((np.int32(i),) for i in range(4)),
)

EXAMPLES = {
    "cosine_alpha_bar": Example(
        (4,),
        rows=(),
        result="scalar",
        traced={"offset": (0.008, 0.1), "clip": (1e-5, 1e-3)},
        part=lambda alpha_bar: alpha_bar[1] + alpha_bar[-1],
    ),
    "noprop_block_errors": Keyed((block, PARAMS, Z, X), LEVELS),
    "noprop_continuous_loss": Keyed((network, readout, EMBEDDINGS, X, LABELS), {"gamma_fn": gamma}),
    "noprop_denoise": Keyed((block, PARAMS, Z, X), LEVELS),
    "noprop_diffusion_sample": Keyed((network, Z, X), {"gamma_fn": gamma, "num_steps": 3}),
    "noprop_flow_loss": Keyed((network, EMBEDDINGS, X, LABELS), {"readout_fn": readout}),
    "noprop_flow_sample": Example((network, Z, X), rows=(1, 2), kwargs={"num_steps": 3}),
    "noprop_gamma": Example(
        (noprop_gamma_init(3), T), rows=(1,), traced={"start": (4.0, 3.0), "end": (-4.0, -3.0)}
    ),
    "noprop_gamma_init": Example(
        (3,), rows=(), result="scalar", part=lambda gamma: gamma.offsets[0]
    ),
    "noprop_init": TRAINING,
    "noprop_loss": Keyed((block, readout, PARAMS, EMBEDDINGS, X, LABELS), LEVELS),
    "noprop_posterior_coefficients": Example(
        (ALPHA_BAR,), rows=(), result="scalar", part=lambda parts: sum(map(jnp.sum, parts))
    ),
    "noprop_update": TRAINING,
    "noprop_velocity": Example((network, Z, X, T), rows=(1, 2, 3), kwargs={"gamma_fn": gamma}),
    # Three a class: of two examples each is as near to the other, and their order decides.
    "prototype_embeddings": Example(
        (X, PAIR),
        rows=(0, 1),
        result="scalar",
        kwargs={"num_classes": 2},
        part=lambda prototypes: jnp.sum(jnp.cos(prototypes)),
    ),
    "radial_readout": Example((Z, EMBEDDINGS), rows=(0,), traced={"std": (0.5, 1.0)}),
}
