"""Consistency training on a ring of Gaussians: the improved recipe against the original one."""

import functools
import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.figure import Figure

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.score import (
    GaussianMixture,
    adaptive_teacher_decay,
    consistency_output,
    consistency_sample,
    consistency_training_loss,
    doubling_num_scales,
    pseudo_huber,
    sample_adjacent_levels,
    square_root_num_scales,
)
from lossbench.transport import energy_set_loss

WIDTH, BATCH, AVERAGE = 64, 128, 0.995
SIGMAS = jnp.array([80.0, 0.8])


class Arm(NamedTuple):
    """A recipe: the improved one, or the original one with or without its averaged teacher."""

    improved: bool
    averaged_teacher: bool


ARMS = {
    "original": Arm(improved=False, averaged_teacher=True),
    "original, no teacher average": Arm(improved=False, averaged_teacher=False),
    "improved": Arm(improved=True, averaged_teacher=False),
}


def ring() -> GaussianMixture:
    """Eight Gaussians at radius 0.7, of standard deviation 0.06: 0.5 an axis in all."""
    angle = 2 * jnp.pi * jnp.arange(8) / 8
    means = 0.7 * jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    return GaussianMixture.of(jnp.full(8, 1 / 8), means, jnp.full((8, 2), 0.06**2))


def init(key: jax.Array) -> list[tuple[jax.Array, jax.Array]]:
    sizes = (5, WIDTH, WIDTH, WIDTH, 2)
    layers = []
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(sizes)):
        scale = np.sqrt(2 / fan_in) * (0.3 if fan_out == 2 else 1.0)
        weights = scale * jax.random.normal(jax.random.fold_in(key, i), (fan_in, fan_out))
        layers.append((weights, jnp.zeros(fan_out)))
    return layers


def model(params: Any, x: jax.Array, sigma: jax.Array) -> jax.Array:
    def network(x: jax.Array, level: jax.Array) -> jax.Array:
        features = jnp.stack([level, jnp.sin(2 * level), jnp.cos(2 * level)], axis=1)
        x = jnp.concatenate([x, features], axis=1)
        for weights, bias in params[:-1]:
            x = jax.nn.silu(x @ weights + bias)
        return x @ params[-1][0] + params[-1][1]

    return consistency_output(network, x, sigma)


def squared(output: jax.Array, target: jax.Array) -> jax.Array:
    return jnp.sum(jnp.square(output - target), axis=1)


@functools.partial(jax.jit, static_argnames=("steps", "num_samples"))
def train_all(
    keys: jax.Array, arms: Arm, *, steps: int, num_samples: int
) -> tuple[jax.Array, jax.Array]:
    """Train every arm and return its samples in one and in two steps, (run, num_samples, 2)."""
    optimizer = optax.radam(1e-3)

    def loss_fn(params: Any, teacher: Any, arm: Arm, step: jax.Array, key: jax.Array) -> jax.Array:
        data_key, level_key, noise_key = jax.random.split(key, 3)
        num_scales = jnp.where(
            arm.improved, doubling_num_scales(step, steps), square_root_num_scales(step, steps)
        )
        levels = [
            sample_adjacent_levels(level_key, BATCH, num_scales=num_scales, law=law)
            for law in ("lognormal", "uniform")
        ]
        lower, upper = jax.tree.map(functools.partial(jnp.where, arm.improved), *levels)

        def metric(output: jax.Array, target: jax.Array) -> jax.Array:
            huber = pseudo_huber(output, target) / (upper - lower)
            return jnp.where(arm.improved, huber, squared(output, target))

        return consistency_training_loss(
            noise_key,
            functools.partial(model, params),
            ring().sample(data_key, BATCH),
            lower,
            upper,
            teacher_fn=functools.partial(model, teacher),
            metric=metric,
            weighting="uniform",
        ).mean()

    def run(inputs: tuple[jax.Array, Arm]) -> tuple[jax.Array, jax.Array]:
        key, arm = inputs
        init_key, train_key, start_key, sample_key = jax.random.split(key, 4)
        params = init(init_key)

        def train_step(carry: Any, step: jax.Array) -> tuple[Any, None]:
            params, teacher, average, state = carry
            step_key = jax.random.fold_in(train_key, step)
            gradient = jax.grad(loss_fn)(params, teacher, arm, step, step_key)
            updates, state = optimizer.update(gradient, state)
            params = optax.apply_updates(params, updates)
            # At decay 0 the teacher is the student.
            decay = adaptive_teacher_decay(square_root_num_scales(step, steps))
            pace = jnp.where(arm.averaged_teacher, 1 - decay, 1.0)
            teacher = optax.incremental_update(params, teacher, pace)
            average = optax.incremental_update(params, average, 1 - AVERAGE)
            return (params, teacher, average, state), None

        start = params, params, params, optimizer.init(params)
        (_, _, average, _), _ = lax.scan(train_step, start, jnp.arange(steps))
        noise = SIGMAS[0] * jax.random.normal(start_key, (num_samples, 2))
        trained = functools.partial(model, average)
        return (
            consistency_sample(sample_key, trained, noise, SIGMAS[:1]),
            consistency_sample(sample_key, trained, noise, SIGMAS),
        )

    return lax.map(run, (keys, arms))


def near_a_mode(samples: jax.Array) -> float:
    """Share of the samples within three standard deviations of a component's mean."""
    offsets = samples[:, None] - ring().means
    return float(jnp.mean(jnp.min(jnp.linalg.norm(offsets, axis=-1), axis=1) < 3 * 0.06))


def energy_distance(samples: jax.Array, data: jax.Array) -> float:
    return 2 * float(energy_set_loss(samples[None], data[None])[0])


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds, steps, num_samples = (3, 3000, 4000) if size == "full" else (1, 40, 500)
    run_key, data_key, other_key = jax.random.split(key, 3)
    # All arms start from the same parameters and see the same data and noise.
    keys = jnp.tile(jax.random.split(run_key, seeds), len(ARMS))
    arms = jax.tree.map(lambda *flags: jnp.repeat(jnp.array(flags), seeds), *ARMS.values())
    samples = train_all(keys, arms, steps=steps, num_samples=num_samples)
    data, other = (ring().sample(each, num_samples) for each in (data_key, other_key))
    results: dict[str, Any] = {"of data to data": energy_distance(other, data)}
    for count, drawn in zip(("one step", "two steps"), samples, strict=True):
        for i, name in enumerate(ARMS):
            own = drawn[i * seeds : (i + 1) * seeds]
            distances = [energy_distance(each, data) for each in own]
            results[f"{count}: {name}, by seed"] = distances
            results[f"{count}: {name}"] = float(np.mean(distances))
            results[f"{count}, share near a mode: {name}"] = float(
                np.mean(list(map(near_a_mode, own)))
            )
            results[f"samples in {count}: {name}"] = own[0][:500]
    results["one step: improved / original"] = (
        results["one step: improved"] / results["one step: original"]
    )
    return results


def holds(results: dict[str, Any]) -> bool:
    return (
        results["one step: improved / original"] <= 0.7
        and results["two steps: improved"] <= results["one step: improved"]
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 6), layout="constrained")
    grid = figure.add_gridspec(2, 4, width_ratios=(1.4, 1, 1, 1))
    distances = figure.add_subplot(grid[:, 0])
    for count, marker in (("one step", "o"), ("two steps", "s")):
        for i, name in enumerate(ARMS):
            values = results[f"{count}: {name}, by seed"]
            shift = -0.1 if count == "one step" else 0.1
            distances.plot(
                np.full(len(values), i + shift),
                values,
                marker,
                color="tab:orange" if count == "one step" else "tab:blue",
                label=count if i == 0 else None,
            )
    distances.axhline(results["of data to data"], color="0.5", linestyle=":", label="data to data")
    distances.set(yscale="log", ylabel="energy distance to the data (a mark a seed)")
    distances.set_xticks(range(len(ARMS)), [name.replace(", ", ",\n") for name in ARMS])
    distances.set_xlim(-0.5, len(ARMS) - 0.5)
    distances.legend(loc="upper right")
    for row, count in enumerate(("one step", "two steps")):
        for column, name in enumerate(ARMS):
            axis = figure.add_subplot(grid[row, column + 1])
            points = np.asarray(results[f"samples in {count}: {name}"])
            axis.scatter(points[:, 0], points[:, 1], s=3, alpha=0.6)
            axis.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
            axis.set_title(f"{name}, {count}", fontsize=9)
    return figure


EXPERIMENT = Experiment(
    paper="consistency-training",
    claim="on a ring of eight Gaussians the improved recipe's one-step samples have at most 0.7 of "
    "the original consistency training's energy distance to the data, and its two-step samples are "
    "no worse than those in one step",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "one step: improved / original": "FID 2.51 against 8.70 on CIFAR-10: 0.29",
    },
    remark="Dropping the teacher's average is what counts in energy distance: the original recipe "
    "without it equals the improved one in one step (0.012). But the pictures differ: it fills the "
    "disc, while the improved recipe finds the ring, and in two steps its modes (0.0014, data to "
    "data 0.0004).",
)
