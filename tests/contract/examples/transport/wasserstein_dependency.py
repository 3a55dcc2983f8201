import jax
import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed, Stateful

from lossbench.transport import spectral_norm_init, spectral_normalize

rng = np.random.default_rng(0)
X = rng.normal(size=(6, 4)).astype(np.float32)
Y = rng.normal(size=(6, 3)).astype(np.float32)
OTHERS = rng.normal(size=(6, 4)).astype(np.float32)
KERNEL = rng.normal(size=(4, 3)).astype(np.float32)
CORRELATIONS = rng.uniform(-0.9, 0.9, 6).astype(np.float32)


def critic(x, y):
    return jnp.sum(jnp.sin(x)) * jnp.sum(jnp.cos(y))


EXAMPLES = {
    "critic_gradient_penalty": Keyed((critic, X, Y), {"target": 0.5}),
    "gaussian_dependency": Example((CORRELATIONS,), rows=(0,), free=()),
    "spectral_norm_init": Keyed((KERNEL,)),
    "spectral_normalize": Stateful(
        init=lambda: spectral_norm_init(jax.random.key(0), KERNEL),
        update=spectral_normalize,
        batches=tuple((KERNEL * (1 + i),) for i in range(4)),
    ),
    "wasserstein_dependency": Keyed((X, Y)),
    "wasserstein_dependency_dual": Example(
        (X, OTHERS), rows=(0, 1), result="scalar", traced={"scale": (0.5, 2.0)}
    ),
    "wpc_loss": Example((X, OTHERS), rows=(0, 1), traced={"scale": (0.5, 2.0)}),
}
