"""Adversarial adaptive sampling: a peaked Poisson problem from uniform and adaptive points."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.figure import Figure

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.transport import (
    aas_solution_loss,
    laplacian,
    optimal_grid_density,
    residual_variation,
    sample_grid_density,
)

SHARPNESS, CENTRE = 100.0, 0.5
LOW, HIGH = jnp.full(2, -1.0), jnp.full(2, 1.0)
CELLS = 48
SAMPLERS = {
    "uniform": 0,
    "uniform, fixed": 1,
    "DAS": 2,
    "AAS, beta 0.1": 3,
    "AAS, beta 0.1, 20% uniform": 4,
    "AAS, beta 0.01": 5,
    "AAS, beta 1": 6,
}
SHOWN = ("DAS", "AAS, beta 0.1, 20% uniform")


def solution(x: jax.Array) -> jax.Array:
    return jnp.exp(-SHARPNESS * jnp.sum(jnp.square(x - CENTRE), axis=1))


def source(x: jax.Array) -> jax.Array:
    """-Laplace u of the solution."""
    squares = jnp.sum(jnp.square(x - CENTRE), axis=1)
    return (4 * SHARPNESS - 4 * SHARPNESS**2 * squares) * jnp.exp(-SHARPNESS * squares)


def centres(count: int) -> jax.Array:
    axis = -1 + 2 * (jnp.arange(count) + 0.5) / count
    return jnp.stack(jnp.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 2)


def next_density(sampler: jax.Array, relative: jax.Array) -> jax.Array:
    """The density of a stage from r^2 over its mean, on the grid."""

    def adversary(beta: float) -> Any:
        return lambda: optimal_grid_density(relative, LOW, HIGH, beta=beta)

    def uniform() -> jax.Array:
        return jnp.full_like(relative, 0.25)

    branches = [uniform, uniform, lambda: relative / 4]
    branches += [adversary(beta) for beta in (0.1, 0.1, 0.01, 1.0)]
    return lax.switch(sampler, branches)


def train_one(key: jax.Array, sampler: jax.Array, size: Size) -> dict[str, jax.Array]:
    stages, steps, points = (30, 100, 300) if size == "full" else (2, 2, 32)
    model = mlp((2, 32, 32, 32, 1), activation=jnp.tanh)
    optimizer = optax.adam(1e-3)
    grid = centres(CELLS)
    init_key, stage_key = jax.random.split(key)

    def value(params: Any, x: jax.Array) -> jax.Array:
        return model.apply(params, x)["logits"][:, 0]

    def residual(params: Any, x: jax.Array) -> jax.Array:
        return -laplacian(lambda x: value(params, x), x) - source(x)

    def squares(params: Any) -> jax.Array:
        return jnp.square(residual(params, grid)).reshape(CELLS, CELLS)

    def stage(carry: Any, number: jax.Array) -> tuple[Any, dict[str, jax.Array]]:
        params, opt_state = carry
        # The first density knows the first residual; fixed points are those of stage 0.
        draw = jnp.where(sampler == SAMPLERS["uniform, fixed"], 0, number)
        inner, edge, side = jax.random.split(jax.random.fold_in(stage_key, draw), 3)
        residual_sq = squares(params)
        density = next_density(sampler, residual_sq / jnp.mean(residual_sq))
        share = jnp.where(sampler == SAMPLERS["AAS, beta 0.1, 20% uniform"], 0.2, 0.0)
        chosen = sample_grid_density(
            inner, density, LOW, HIGH, num_points=points, uniform_fraction=share
        )
        along = jax.random.uniform(edge, (200,), minval=-1, maxval=1)
        wall = jnp.where(jax.random.bernoulli(side, shape=(200,)), 1.0, -1.0)
        even = (jnp.arange(200) % 2 == 0)[:, None]
        boundary = jnp.where(even, jnp.stack([along, wall], 1), jnp.stack([wall, along], 1))

        def loss(params: Any) -> jax.Array:
            gap = value(params, boundary) - solution(boundary)
            return aas_solution_loss(residual(params, chosen), gap, boundary_weight=100.0)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            params, opt_state = carry
            updates, opt_state = optimizer.update(jax.grad(loss)(params), opt_state)
            return (optax.apply_updates(params, updates), opt_state), None

        (params, opt_state), _ = lax.scan(step, (params, opt_state), length=steps)
        fine = centres(100)
        gap = value(params, fine) - solution(fine)
        error = jnp.sqrt(jnp.sum(gap**2) / jnp.sum(solution(fine) ** 2))
        out = {"error": error, "density": density}
        out["variation"] = residual_variation(squares(params).ravel())
        out["points"] = chosen
        return (params, opt_state), out

    params = model.init(init_key)
    _, history = lax.scan(stage, (params, optimizer.init(params)), jnp.arange(stages))
    last = {name: history[name][-1] for name in ("density", "points")}
    return {**last, "error": history["error"], "variation": history["variation"]}


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds = 5 if size == "full" else 1
    kinds = list(SAMPLERS.values()) if size == "full" else [0, 2, 3, 4]
    # beta 0.01 and 1 are reported beside, from fewer seeds.
    members = [(kind, seed) for kind in kinds for seed in range(seeds if kind < 5 else 2)]
    keys = jax.random.split(key, seeds)[np.array([seed for _, seed in members])]
    samplers = jnp.array([kind for kind, _ in members])
    found = jax.jit(
        lambda *members: lax.map(lambda member: train_one(member[0], member[1], size), members)
    )(keys, samplers)
    results: dict[str, Any] = {}
    for name, kind in SAMPLERS.items():
        rows = np.flatnonzero(np.asarray(samplers) == kind)
        if not len(rows):
            continue
        error = np.asarray(found["error"])[rows]
        results[name] = {"error": error}
        if name in SHOWN:
            results[name]["density"] = np.asarray(found["density"])[rows[0]]
            results[name]["points"] = np.asarray(found["points"])[rows[0]]
        results[f"error: {name}"] = float(np.exp(np.mean(np.log(error[:, -1]))))
        results[f"variation: {name}"] = float(np.mean(np.asarray(found["variation"])[rows, -1]))
    return results


def holds(results: dict[str, Any]) -> bool:
    adaptive = "AAS, beta 0.1"
    return (
        results[f"error: {adaptive}"] < 0.7 * results["error: uniform"]
        and results[f"variation: {adaptive}"] < results["variation: uniform"]
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 4), layout="constrained")
    errors, das, adaptive = figure.subplots(1, 3)
    for name in SAMPLERS:
        if name in results:
            error = np.exp(np.mean(np.log(np.asarray(results[name]["error"])), axis=0))
            variation = results[f"variation: {name}"]
            errors.semilogy(
                np.arange(len(error)) + 1, error, label=f"{name} (variation {variation:.3g})"
            )
    errors.set(xlabel="stage", ylabel="relative L2 error (geometric mean)")
    errors.legend(fontsize=6, loc="lower left")
    for axes, name in zip((das, adaptive), SHOWN, strict=True):
        density, points = (np.asarray(results[name][part]) for part in ("density", "points"))
        image = axes.imshow(4 * density.T, origin="lower", extent=(-1, 1, -1, 1), cmap="Blues")
        figure.colorbar(image, ax=axes, shrink=0.8)
        axes.plot(*points.T, ".", color="tab:orange", markersize=2)
        axes.set_title(f"{name}: density over uniform, points", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    paper="adversarial-sampling",
    claim="on a Poisson problem with one peak, collocation points from the adversarial density "
    "(beta 0.1 of the relative residual) end in less than 0.7 of the error of uniform points, with "
    "a flatter residual",
    run=run,
    holds=holds,
    plot=plot,
    reported={"error: AAS, beta 0.1": "below uniform and DAS"},
    remark="The adversary is the exact one, on a grid; the flow is tried in the tests. A smoother "
    "density is better still: beta 1 ends in half of the error of 0.1, a fifth of uniform "
    "points helps. Without smoothness (DAS, beta 0.01) so few points chase the last peak of the "
    "residual that the rest is forgotten.",
)
