"""Tasks of maps from one distribution to another."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from lossbench import transport
from lossbench.bench import models
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.tasks.task import Batch, Task

TARGETS = ("gaussian", "ring")
_TRAIN, _HELD_OUT = 2048, 256


def sinkhorn_divergence(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the Sinkhorn divergence of the images from the target sample."""
    return transport.transport_map_loss(
        outputs["source"], outputs["mapped"], outputs["target"], gap_weight=0.0, max_iterations=200
    )


def transport_map(*, dimension: int = 2, target: str = "gaussian") -> Task:
    """A network that maps a standard normal distribution to another, given samples of both.

    `target` is `gaussian`, correlated and shifted, in any `dimension`: ranked by the unexplained
    variance against the optimal map, known in closed form; or `ring`, eight small Gaussians in the
    plane: ranked by the Sinkhorn divergence from the target, which says nothing of the map being
    optimal. Losses may take `source`, `mapped` and `target`, (n, dimension) each; rows of source
    and target are no pairs.
    """
    if target not in TARGETS:
        raise UnknownNameError("target", target, TARGETS)
    if dimension < 1 or (target == "ring" and dimension != 2):
        raise UsageError(f"a {target} target has no dimension {dimension}")
    basis = jax.random.orthogonal(jax.random.key(0), dimension)
    cov = (basis * jnp.linspace(0.3, 2.0, dimension) ** 2) @ basis.T
    mean = jnp.ones(dimension)
    metrics: dict[str, Callable] = {"sinkhorn divergence": sinkhorn_divergence}
    if target == "gaussian":
        metrics = {
            "unexplained variance": lambda outputs: transport.unexplained_variance(
                outputs["mapped"], outputs["optimal"], cov
            ),
            **metrics,
        }

    def sample(key: jax.Array, n: int) -> Batch:
        source_key, target_key, place_key = jax.random.split(key, 3)
        x = jax.random.normal(source_key, (n, dimension))
        if target == "ring":
            angle = jax.random.randint(place_key, (n,), 0, 8) * (jnp.pi / 4)
            centre = 3 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
            return {"source": x, "target": centre + 0.2 * jax.random.normal(target_key, (n, 2))}
        y = jax.random.multivariate_normal(target_key, mean, cov, (n,))
        origin, identity = jnp.zeros(dimension), jnp.eye(dimension)
        return {
            "source": x,
            "target": y,
            "optimal": transport.gaussian_ot_map(x, origin, identity, mean, cov),
        }

    def splits(key: jax.Array) -> dict[str, Batch]:
        train_key, validation_key = jax.random.split(key)
        return {
            "train": sample(train_key, _TRAIN),
            "validation": sample(validation_key, _HELD_OUT),
            "test": sample(jax.random.key(1), _HELD_OUT),
        }

    model = models.mlp((dimension, 64, 64, dimension), activation=jax.nn.gelu)

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        return {**batch, "mapped": model.apply(params, batch["source"])["logits"], "key": key}

    return Task(
        name="transport-map",
        description=f"map of a standard normal to a {target} in {dimension} dimensions",
        splits=splits,
        init=model.init,
        outputs=outputs,
        metrics=metrics,
        objective=next(iter(metrics)),
        minimized=tuple(metrics),
        settings={
            "target": target,
            "dimension": dimension,
            "train": _TRAIN,
            "validation": _HELD_OUT,
            "test": _HELD_OUT,
            "model": f"MLP {dimension}-64-64-{dimension}",
        },
        steps=500,
        batch_size=128,
    )


TASKS: dict[str, Callable[..., Task]] = {"transport-map": transport_map}
