"""The Monge gap as a regulariser: do plain networks learn the optimal map between Gaussians?"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.transport import gaussian_ot_map, transport_map_loss, unexplained_variance

METHODS = {"lambda 0": 0.0, "lambda 0.1": 0.1, "lambda 1": 1.0, "lambda 0, residual": 0.0}


def maps(key: jax.Array, dimension: int, size: Size) -> dict[str, Any]:
    """Train each method from the same parameters, for each seed, and judge the maps."""
    seeds, steps, batch, held_out = (2, 400, 128, 512) if size == "full" else (1, 20, 32, 64)
    basis_key, source_key, target_key, seed_key = jax.random.split(key, 4)
    basis, _ = jnp.linalg.qr(jax.random.normal(basis_key, (dimension, dimension)))
    cov = (basis * jnp.linspace(0.3, 2, dimension) ** 2) @ basis.T
    mean = jnp.ones(dimension)
    source = jax.random.normal(source_key, (4096 + held_out, dimension))
    target = jax.random.multivariate_normal(target_key, mean, cov, source.shape[:1])
    fresh = source[4096:]
    optimal = gaussian_ot_map(fresh, jnp.zeros(dimension), jnp.eye(dimension), mean, cov)
    model = mlp((dimension, 64, 64, dimension), activation=jax.nn.gelu)

    def image(params: Any, x: jax.Array) -> jax.Array:
        return params["skip"] * x + model.apply(params["network"], x)["logits"]

    def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            # The skip connection stays as it is.
            params = {**params, "skip": jax.lax.stop_gradient(params["skip"])}
            value = transport_map_loss(
                batch["source"],
                image(params, batch["source"]),
                batch["target"],
                gap_weight=h["weight"],
                gap_relative_epsilon=0.02,
                max_iterations=40,
            )
            return value, (state, {})

        params = {"network": model.init(key), "skip": h["skip"]}
        optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))
        order = jax.random.permutation(key, 4096)
        data = {"source": source[:4096], "target": target[:4096][order]}
        return train.Run(loss_fn, params, optimizer, data)

    keys = jnp.tile(jax.random.split(seed_key, seeds), len(METHODS))
    weights = np.repeat(np.array(list(METHODS.values()), np.float32), seeds)
    skips = np.repeat(np.array(["residual" in m for m in METHODS], np.float32), seeds)
    result = train.sweep(
        member,
        {"weight": weights, "skip": skips},
        keys=keys,
        steps=steps,
        batch_size=batch,
        progress=False,
    )
    images = jax.vmap(lambda params: image(params, fresh))(result.params)

    def land(mapped: jax.Array) -> jax.Array:
        return transport_map_loss(fresh, mapped, target[4096:], gap_weight=0.0, max_iterations=500)

    def gap(mapped: jax.Array) -> float:
        cost = cdist(fresh, mapped, "sqeuclidean")
        rows, columns = linear_sum_assignment(cost)
        return float(np.diag(cost).mean() - cost[rows, columns].mean())

    by_method = len(METHODS), seeds
    figures = {
        "unexplained variance, %": jax.vmap(lambda y: unexplained_variance(y, optimal, cov))(
            images
        ),
        "Sinkhorn divergence over variance": jax.lax.map(land, images) / jnp.trace(cov),
        "exact gap over variance": np.array([gap(y) for y in images]) / float(jnp.trace(cov)),
    }
    return {name: np.reshape(values, by_method) for name, values in figures.items()}


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for dimension in (2, 4):
        found = maps(jax.random.fold_in(key, dimension), dimension, size)
        for name, values in found.items():
            results[f"d = {dimension}: {name}"] = dict(zip(METHODS, values, strict=True))
        means = found["unexplained variance, %"].mean(1)
        landing = found["Sinkhorn divergence over variance"].mean(1)
        best = 1 + int(np.argmin(means[1:3]))
        results[f"d = {dimension}: best lambda"] = list(METHODS.values())[best]
        results[f"d = {dimension}: unexplained variance over that without gap"] = float(
            means[best] / means[0]
        )
        results[f"d = {dimension}: rise of the divergence over variance"] = float(
            landing[best] - landing[0]
        )
    return results


def holds(results: dict[str, Any]) -> bool:
    return all(
        results[f"d = {d}: unexplained variance over that without gap"] <= 0.5
        and results[f"d = {d}: rise of the divergence over variance"] <= 0.05
        for d in (2, 4)
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    axes = figure.subplots(1, 3)
    names = (
        "unexplained variance, %",
        "exact gap over variance",
        "Sinkhorn divergence over variance",
    )
    for axis, name in zip(axes, names, strict=True):
        for dimension, colour in ((2, "tab:blue"), (4, "tab:orange")):
            for place, values in enumerate(results[f"d = {dimension}: {name}"].values()):
                shift = 0.1 * (dimension - 3)
                label = f"d = {dimension}" if place == 0 else None
                axis.plot(
                    np.full(len(values), place + shift), values, "o", color=colour, label=label
                )
        axis.set(yscale="log", ylabel=name, xticks=range(len(METHODS)))
        axis.set_xticklabels(METHODS, rotation=20, fontsize=8)
    axes[0].legend()
    return figure


EXPERIMENT = Experiment(
    paper="monge-gap",
    claim="A plain MLP trained to land on a Gaussian misses the optimal map by at most half as "
    "much (unexplained variance) with the Monge gap as without, in 2 and 4 dimensions, and its "
    "Sinkhorn divergence from the target rises by at most 5% of the variance",
    run=run,
    holds=holds,
    plot=plot,
)
