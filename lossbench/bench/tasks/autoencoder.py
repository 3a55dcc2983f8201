"""Tasks of autoencoders, whose codes are to follow a prior."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lossbench import transport
from lossbench.bench import models
from lossbench.bench.errors import UsageError
from lossbench.bench.tasks.classification import digits
from lossbench.bench.tasks.task import Batch, Task

_PIXELS, _HIDDEN = 64, 128


def unexplained_share(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the squared error of the reconstructions over the images' scatter about their mean."""
    images = outputs["images"]
    error = jnp.sum(jnp.square(outputs["reconstructions"] - images))
    return error / jnp.sum(jnp.square(images - images.mean(0)))


def prior_distance(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the squared sliced 2-Wasserstein distance of codes and prior, by 200 directions.

    The prior has variance 1 along each direction, so it is 1 where all codes are 0.
    """
    return transport.sliced_wasserstein(
        outputs["key"], outputs["x"], outputs["y"], num_projections=200, root=False
    )


def autoencoder_prior(*, code: int = 8, weight: float = 1.0) -> Task:
    """An autoencoder of the digits whose codes are to be standard normal.

    Training minimises the unexplained share of the images plus `weight` times the loss, which may
    take `key`, the codes `x` of a batch and as many fresh draws `y` of the prior, (n, code) each.
    The objective is the same sum on held-out digits with the squared sliced distance for the loss:
    unexplained share + `weight` * prior distance. A loss on a larger scale than that distance
    weighs more; the two metrics tell on which side it errs.
    """
    if code < 1:
        raise UsageError(f"code must be at least 1, got {code}")
    if not weight > 0:
        raise UsageError(f"weight must be positive, got {weight}")
    images = digits()
    encoder = models.mlp((_PIXELS, _HIDDEN, code))
    decoder = models.mlp((code, _HIDDEN, _PIXELS))

    def splits(key: jax.Array) -> dict[str, Batch]:
        return {split: {"x": rows["x"]} for split, rows in images.splits(key).items()}

    def init(key: jax.Array) -> Any:
        encoder_key, decoder_key = jax.random.split(key)
        return {"encoder": encoder.init(encoder_key), "decoder": decoder.init(decoder_key)}

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        prior_key, loss_key = jax.random.split(key)
        codes = encoder.apply(params["encoder"], batch["x"])["logits"]
        return {
            "key": loss_key,
            "x": codes,
            "y": jax.random.normal(prior_key, codes.shape),
            "images": batch["x"],
            "reconstructions": decoder.apply(params["decoder"], codes)["logits"],
        }

    def total(outputs: Mapping[str, jax.Array]) -> jax.Array:
        return unexplained_share(outputs) + weight * prior_distance(outputs)

    metrics: dict[str, Callable] = {
        "total": total,
        "unexplained share": unexplained_share,
        "prior distance": prior_distance,
    }
    return Task(
        name="autoencoder-prior",
        description=f"autoencoder of the digits with {code} standard normal codes",
        splits=splits,
        init=init,
        outputs=outputs,
        # The optimiser has no scale: the sum over the weight is minimised where the sum is.
        base_loss=lambda outputs: unexplained_share(outputs) / weight,
        metrics=metrics,
        objective="total",
        minimized=tuple(metrics),
        settings={
            **{split: images.settings[split] for split in ("train", "validation", "test")},
            "code": code,
            "weight": weight,
            "model": f"MLP {_PIXELS}-{_HIDDEN}-{code}-{_HIDDEN}-{_PIXELS}",
        },
        learning_rates=(5e-4, 2e-2),
    )


TASKS: dict[str, Callable[..., Task]] = {"autoencoder-prior": autoencoder_prior}
