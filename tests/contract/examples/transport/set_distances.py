import jax.numpy as jnp
import numpy as np
from kinds import Example, Keyed

rng = np.random.default_rng(0)
PREDICTIONS = rng.uniform(size=(6, 3, 4)).astype(np.float32)
MASKS = rng.uniform(size=(6, 2, 4)).astype(np.float32)
IMAGES = rng.normal(size=(6, 4)).astype(np.float32)
RATER = np.array([0, 1, 0, 1, 1, 0])
BLUR = {"blur": (0.5, 0.8)}


def encode(image, *_):
    """Mean and log-variance of two latents, from the image alone."""
    return image[:2], image[2:] / 4


def decode(image, latent):
    return image + jnp.tile(latent, 2)


OBJECTIVE = Keyed((encode, encode, decode, IMAGES, MASKS, RATER))

EXAMPLES = {
    "energy_set_loss": Example((PREDICTIONS, MASKS), rows=(0, 1)),
    "focal_tversky_loss": Example(
        (PREDICTIONS, 1 - PREDICTIONS**2),
        rows=(0, 1),
        free=(),
        traced={"alpha": (0.7, 0.4), "gamma": (0.75, 1.2), "smooth": (1.0, 0.5)},
    ),
    "frechet_set_loss": Example((PREDICTIONS[:, 0], MASKS[:, 0]), rows=(0,), result="scalar"),
    "generalized_energy_distance": Example((PREDICTIONS, MASKS), rows=(0, 1)),
    "hausdorff_divergence": Example((PREDICTIONS, MASKS), rows=(0, 1), traced=BLUR),
    "max_dice": Example((PREDICTIONS, MASKS), rows=(0, 1)),
    "probabilistic_unet_elbo": OBJECTIVE,
    "pulaski_objective": OBJECTIVE,
    "sample_diversity": Example((PREDICTIONS,), rows=(0,)),
    "sinkhorn_set_loss": Example(
        (PREDICTIONS, MASKS),
        rows=(0, 1),
        kwargs={"tolerance": 1e-9, "max_iterations": 100},
        traced=BLUR,
    ),
}
