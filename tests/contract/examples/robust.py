import jax.numpy as jnp
import numpy as np
from kinds import Keyed

X = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)


def hilly(x):
    """One value a point, with many local maxima."""
    return jnp.sum(jnp.sin(3 * x), axis=-1)


EXAMPLES = {"pgd_attack": Keyed((hilly, X), {"epsilon": 0.3, "num_steps": 3})}
