"""Amortised projections: which models predict where two clouds differ, and what training gains."""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.transport import (
    amortized_sliced_wasserstein,
    max_sliced_wasserstein,
    sliced_wasserstein,
    vmf_sliced_wasserstein,
)

POINTS, BATCH, KAPPA, PROJECTIONS = 48, 16, 10.0, 16


class Location(NamedTuple):
    """A model of locations: `init(key) -> params`, `apply(params, x, y) -> (3,)` of norm 1."""

    init: Callable[[jax.Array], Any]
    apply: Callable[[Any, jax.Array, jax.Array], jax.Array]


def unit(direction: jax.Array) -> jax.Array:
    return direction / (jnp.linalg.norm(direction) + 1e-12)


def linear() -> Location:
    """Z' w + c 1 for the stacked points Z: a weight for each place in the order of the points."""

    def init(key: jax.Array) -> Any:
        return {"w": jax.random.normal(key, (2 * POINTS,)) / (2 * POINTS), "c": jnp.zeros(())}

    def apply(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return unit(jnp.concatenate([x, y]).T @ params["w"] + params["c"])

    return Location(init, apply)


def efficient_attention(combine: str, key_dim: int = 64) -> Location:
    """Attention in linear time, pooled over the points, of either cloud with shared weights."""

    def init(key: jax.Array) -> Any:
        keys = jax.random.split(key, 3)
        shapes = {"query": key_dim, "key": key_dim, "value": 3}
        params = {
            name: {"w": jax.random.normal(k, (3, m)) / 3**0.5, "b": jnp.zeros(m)}
            for k, (name, m) in zip(keys, shapes.items(), strict=True)
        }
        return {**params, "offset": 1e-3 * jnp.ones(3)}

    def apply(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        def summary(points: jax.Array) -> jax.Array:
            query, key, value = (
                points @ params[name]["w"] + params[name]["b"] for name in ("query", "key", "value")
            )
            context = jax.nn.softmax(key, axis=0).T @ value
            return jnp.mean(jax.nn.softmax(query, axis=1), axis=0) @ context

        if combine == "sum":
            return unit((summary(x) + summary(y)) / 2)
        # W(theta) = W(-theta), so that the antisymmetric form makes a symmetric loss as well.
        return unit(summary(x) - summary(y) + params["offset"])

    return Location(init, apply)


MODELS = {
    "linear": linear(),
    "attention, sum": efficient_attention("sum"),
    "attention, difference": efficient_attention("difference"),
}
STEPS = (1, 5, 20)
LOSSES = ("SW", "Max-SW", "amortised Max-SW", "amortised v-DSW")
LOCATIONS = ("random", "mean difference", *(f"{count} steps" for count in STEPS), *MODELS)


def clouds(key: jax.Array, shifted: Any) -> tuple[jax.Array, jax.Array]:
    """A pair of ellipsoids, in random order: in a common pose, or of any axes and shifted."""

    def one(key: jax.Array) -> jax.Array:
        points, scales, shift = jax.random.split(key, 3)
        low = jnp.where(shifted, 0.3, jnp.array([0.8, 0.8, 0.3]))
        high = jnp.where(shifted, 1.5, jnp.array([1.0, 1.0, 1.8]))
        axes = jax.random.uniform(scales, (3,), minval=low, maxval=high)
        sphere = jax.random.normal(points, (POINTS, 3))
        sphere /= jnp.linalg.norm(sphere, axis=1, keepdims=True)
        return axes * sphere + shifted * 0.3 * jax.random.normal(shift, (3,))

    first, second = jax.random.split(key)
    return one(first), one(second)


def batch_of(key: jax.Array, count: int, shifted: Any) -> tuple[jax.Array, jax.Array]:
    return jax.vmap(clouds, (0, None))(jax.random.split(key, count), shifted)


def ascent(key: jax.Array, x: jax.Array, y: jax.Array, start: jax.Array, steps: int) -> jax.Array:
    """Adam's ascent of the location for one pair, as in the paper's iterative version: its path."""
    optimizer = optax.adam(0.1)

    def value(loc: jax.Array, key: jax.Array) -> jax.Array:
        return vmf_sliced_wasserstein(
            key, x, y, unit(loc), kappa=KAPPA, num_projections=PROJECTIONS, root=False
        )

    def step(carry: Any, key: jax.Array) -> tuple[Any, jax.Array]:
        loc, state = carry
        updates, state = optimizer.update(-jax.grad(value)(loc, key), state)
        loc = unit(optax.apply_updates(loc, updates))
        return (loc, state), loc

    return jax.lax.scan(step, (start, optimizer.init(start)), jax.random.split(key, steps))[1]


def predict(params: dict[str, Any], x: jax.Array, y: jax.Array) -> jax.Array:
    """The locations of all models (models, 3)."""
    return jnp.stack([model.apply(params[name], x, y) for name, model in MODELS.items()])


@functools.partial(jax.jit, static_argnames="steps")
def train_models(key: jax.Array, shifted: jax.Array, steps: int) -> dict[str, Any]:
    """All models at once on the same pairs; none sees what another does."""
    init_key, key = jax.random.split(key)
    params = {name: model.init(init_key) for name, model in MODELS.items()}
    optimizer = optax.adam(3e-3, b1=0.0, b2=0.9)

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        data_key, draw_key = jax.random.split(key)
        x, y = batch_of(data_key, BATCH, shifted)

        def loss(params: Any) -> jax.Array:
            def one(key: jax.Array, x: jax.Array, y: jax.Array, index: jax.Array) -> jax.Array:
                def apply(params: Any, x: jax.Array, y: jax.Array) -> jax.Array:
                    return predict(params, x, y)[index]

                return amortized_sliced_wasserstein(
                    key, apply, params, x, y, kappa=KAPPA, num_projections=PROJECTIONS
                )

            over_pairs = jax.vmap(one, (0, 0, 0, None))
            over_models = jax.vmap(over_pairs, (None, None, None, 0))
            keys, indices = jax.random.split(draw_key, BATCH), jnp.arange(len(MODELS))
            return over_models(keys, x, y, indices).mean(axis=1).sum()

        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    return jax.lax.scan(step, carry, jax.random.split(key, steps))[0][0]


@functools.partial(jax.jit, static_argnames="held_out")
def location_values(
    key: jax.Array, shifted: jax.Array, params: dict[str, Any], held_out: int
) -> jax.Array:
    """Mean cost of held-out pairs about the locations of each of `LOCATIONS`."""
    data_key, start_key, ascent_key, value_key = jax.random.split(key, 4)
    x, y = batch_of(data_key, held_out, shifted)
    starts = jax.vmap(unit)(jax.random.normal(start_key, (held_out, 3)))
    climb = jax.vmap(functools.partial(ascent, steps=max(STEPS)))
    path = climb(jax.random.split(ascent_key, held_out), x, y, starts)
    shifts = jax.vmap(unit)(x.mean(1) - y.mean(1))
    trained = jax.vmap(predict, (None, 0, 0))(params, x, y)
    found = [starts, shifts, *(path[:, count - 1] for count in STEPS), *trained.swapaxes(0, 1)]

    def value(key: jax.Array, x: jax.Array, y: jax.Array, loc: jax.Array) -> jax.Array:
        return vmf_sliced_wasserstein(key, x, y, loc, kappa=KAPPA, num_projections=64, root=False)

    over_pairs = jax.vmap(value)
    keys = jax.random.split(value_key, held_out)
    return jax.lax.map(lambda locs: over_pairs(keys, x, y, locs).mean(), jnp.stack(found))


def amortization(key: jax.Array, size: Size) -> dict[str, Any]:
    """Share of what 20 ascent steps gain over a random location that each model reaches."""
    seeds, steps, held_out = (2, 600, 128) if size == "full" else (1, 20, 16)
    results: dict[str, Any] = {}
    for shifted, setting in ((0.0, "common pose"), (1.0, "shifted")):
        scores: dict[str, list[float]] = {name: [] for name in LOCATIONS}
        for seed in jax.random.split(key, seeds):
            train_key, test_key = jax.random.split(seed)
            params = train_models(train_key, jnp.asarray(shifted), steps)
            values = location_values(test_key, jnp.asarray(shifted), params, held_out)
            found = dict(zip(LOCATIONS, np.asarray(values), strict=True))
            gain = found[f"{max(STEPS)} steps"] - found["random"]
            for name, value in found.items():
                scores[name].append(float((value - found["random"]) / gain))
        for name, shares in scores.items():
            results[f"{setting}: {name}"] = float(np.mean(shares))
    return results


def autoencoder(key: jax.Array, code: int = 32) -> Any:
    sizes = {"point": (3, 64), "feature": (64, 128), "code": (128, code)}
    sizes |= {"hidden": (code, 128), "cloud": (128, 3 * POINTS)}
    keys = jax.random.split(key, len(sizes))
    return {
        name: {"w": jax.random.normal(k, shape) * (2 / shape[0]) ** 0.5, "b": jnp.zeros(shape[1])}
        for k, (name, shape) in zip(keys, sizes.items(), strict=True)
    }


def reconstruct(params: Any, x: jax.Array) -> jax.Array:
    """PointNet: a network of each point, the maximum over points, and a decoder to points."""

    def layer(name: str, x: jax.Array) -> jax.Array:
        return x @ params[name]["w"] + params[name]["b"]

    features = jax.nn.relu(layer("feature", jax.nn.relu(layer("point", x))))
    code = layer("code", features.max(axis=0))
    return layer("cloud", jax.nn.relu(layer("hidden", code))).reshape(POINTS, 3)


def reconstruction_loss(
    loss: jax.Array, key: jax.Array, params: Any, copy: jax.Array, shape: jax.Array
) -> jax.Array:
    def sliced() -> jax.Array:
        return sliced_wasserstein(key, copy, shape, num_projections=10, root=False)

    def max_sliced() -> jax.Array:
        return max_sliced_wasserstein(key, copy, shape, num_steps=5, num_starts=1, root=False)

    def amortized() -> jax.Array:
        # Directions as near to the location as at the large concentration are the location.
        kappa = jnp.where(loss == LOSSES.index("amortised Max-SW"), 1e5, 1.0)
        apply = MODELS["attention, sum"].apply
        return amortized_sliced_wasserstein(
            key, apply, params, copy, shape, kappa=kappa, num_projections=10
        )

    return jax.lax.switch(loss, (sliced, max_sliced, amortized, amortized))


@functools.partial(jax.jit, static_argnames=("steps", "held_out"))
def train_autoencoder(
    key: jax.Array, loss: jax.Array, steps: int, held_out: int
) -> tuple[jax.Array, jax.Array]:
    """Held-out shapes and their reconstructions, after training by one of `LOSSES`."""
    net_key, location_key, test_key, key = jax.random.split(key, 4)
    params = {
        "network": autoencoder(net_key),
        "location": MODELS["attention, sum"].init(location_key),
    }
    optimizer = optax.partition(
        {"network": optax.adam(1e-3), "location": optax.adam(1e-3, b1=0.0, b2=0.9)},
        {"network": "network", "location": "location"},
    )

    def step(carry: Any, key: jax.Array) -> tuple[Any, None]:
        params, state = carry
        data_key, draw_key = jax.random.split(key)
        shapes, _ = batch_of(data_key, BATCH, 0.0)

        def mean_loss(params: Any) -> jax.Array:
            copies = jax.vmap(reconstruct, (None, 0))(params["network"], shapes)
            over_pairs = jax.vmap(reconstruction_loss, (None, 0, None, 0, 0))
            keys = jax.random.split(draw_key, BATCH)
            return over_pairs(loss, keys, params["location"], copies, shapes).mean()

        updates, state = optimizer.update(jax.grad(mean_loss)(params), state, params)
        return (optax.apply_updates(params, updates), state), None

    carry = params, optimizer.init(params)
    params = jax.lax.scan(step, carry, jax.random.split(key, steps))[0][0]
    shapes, _ = batch_of(test_key, held_out, 0.0)
    return shapes, jax.vmap(reconstruct, (None, 0))(params["network"], shapes)


def reconstruction(key: jax.Array, size: Size) -> dict[str, Any]:
    """Exact W_2 of held-out shapes to their reconstructions, by training loss."""
    seeds, steps, held_out = (2, 600, 64) if size == "full" else (1, 5, 8)
    results: dict[str, Any] = {}
    for i, name in enumerate(LOSSES):
        distances = []
        for seed in jax.random.split(key, seeds):
            pairs = train_autoencoder(seed, jnp.asarray(i), steps, held_out)
            for cloud, copy in zip(*map(np.asarray, pairs), strict=True):
                cost = cdist(cloud, copy) ** 2
                distances.append(np.sqrt(cost[linear_sum_assignment(cost)].mean()))
        results[f"reconstruction: {name}"] = float(np.mean(distances))
    return results


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    first, second = jax.random.split(key)
    return {**amortization(first, size), **reconstruction(second, size)}


def holds(results: dict[str, Any]) -> bool:
    attention, linear = (results[f"common pose: {name}"] for name in ("attention, sum", "linear"))
    ours = results["reconstruction: amortised v-DSW"]
    return (
        attention > max(linear + 0.1, 0.5)
        and ours <= results["reconstruction: Max-SW"]
        and ours <= results["reconstruction: amortised Max-SW"]
        and ours <= 1.02 * results["reconstruction: SW"]
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    scores, distances = figure.subplots(1, 2, width_ratios=(3, 2))
    names = [name.split(": ")[1] for name in results if name.startswith("common pose")]
    for i, setting in enumerate(("common pose", "shifted")):
        values = [results[f"{setting}: {name}"] for name in names]
        scores.bar(np.arange(len(names)) + 0.4 * (i - 0.5), values, 0.4, label=setting)
    scores.axhline(0, color="0.3", linewidth=1)
    scores.set_xticks(range(len(names)), names, rotation=20, ha="right")
    scores.set(ylabel="cost found: 0 random, 1 after 20 steps", title="where the clouds differ")
    scores.set_ylim(top=1.2)
    scores.legend(ncols=2)
    found = {k.split(": ")[1]: v for k, v in results.items() if k.startswith("reconstruction")}
    bars = distances.bar(list(found), list(found.values()))
    distances.bar_label(bars, fmt="%.3f")
    distances.margins(y=0.1)
    distances.tick_params(axis="x", rotation=20)
    distances.set(ylabel="exact W₂, held out", title="reconstruction by training loss")
    return figure


EXPERIMENT = Experiment(
    paper="amortized-vdsw",
    claim="on shapes in a common pose efficient attention finds above half of what 20 ascent steps "
    "gain, and 0.1 more than the linear model; an autoencoder trained with it reconstructs at "
    "least as well as with Max-SW, iterative or amortised, and within 2% of SW",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "reconstruction: amortised v-DSW": "best (ShapeNet, ModelNet40; figures not at hand)"
    },
    remark="Attention reaches 0.86 of the ascent's gain in a common pose, the linear model "
    "0.28. Between shifted shapes it finds nothing: the sum of the clouds' summaries, "
    "which is the paper's model, cannot tell where one lies from the other. There the "
    "difference of the means is all but the best location, without training. "
    "Reconstruction is level with SW, 4% ahead of Max-SW and 11% of the amortised.",
)
