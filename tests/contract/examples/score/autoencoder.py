import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 2)).astype(np.float32)
OTHER = rng.normal(size=(6, 2)).astype(np.float32)
DATA = rng.normal(size=(4, 2)).astype(np.float32)
SIGMA = {"sigma": (0.1, 0.5)}


def reconstruct(x):
    return jnp.stack([jnp.tanh(x[:, 0] - x[:, 1]), x[:, 1] / (1 + x[:, 0] ** 2)], axis=1)


EXAMPLES = {
    "conservativity_gap": Example((reconstruct, X), rows=(1,)),
    "contractive_loss": Example(
        (jnp.tanh, reconstruct, X), rows=(2,), traced={"penalty": (0.1, 0.5)}
    ),
    "denoising_autoencoder_loss": Keyed((reconstruct, X), {"num_noise": 2}),
    "energy_difference": Example((reconstruct, X, OTHER), rows=(1, 2)),
    "optimal_reconstruction": Example(
        (DATA, X), rows=(1,), traced={"sigma": (0.5, 1.0)}, differentiable=(1,)
    ),
    "path_integral_metropolis": Keyed((reconstruct, X), {"proposal_std": 0.5, "num_steps": 3}),
    "reconstruction_contractive_loss": Example((reconstruct, X), rows=(1,), traced=SIGMA),
    "reconstruction_score": Example((reconstruct, X), rows=(1,), traced=SIGMA),
}
