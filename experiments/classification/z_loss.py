"""The Z-loss: an exact step at a cost without the number of classes, and top-k errors by tuning."""

import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.classification import (
    factored_output_init,
    factored_output_step,
    spherical_softmax_loss,
    spherical_squared_error_from_statistics,
    spherical_statistics,
    taylor_softmax_loss,
    z_loss,
    z_loss_from_statistics,
)

WORDS, CONTEXT, EMBEDDING = 500, 3, 16
TOPS = (1, 5, 20, 50)
Z_SETTINGS = [(sharpness, location) for sharpness in (0.3, 1.0) for location in (0.0, 5.0, 10.0)]


def squared_error(logits: jax.Array, labels: jax.Array) -> jax.Array:
    statistics = spherical_statistics(logits, labels)
    return spherical_squared_error_from_statistics(*statistics, num_classes=logits.shape[1])


LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "log-softmax": optax.losses.softmax_cross_entropy_with_integer_labels,
    "Taylor softmax": taylor_softmax_loss,
    "spherical softmax": spherical_softmax_loss,
    "squared error": squared_error,
    **{
        f"Z {sharpness:g}, {location:g}": partial(z_loss, sharpness=sharpness, location=location)
        for sharpness, location in Z_SETTINGS
    },
}


def speed(size: Size) -> dict[str, Any]:
    """Median seconds of one step, factored and dense, against the number of classes."""
    classes = (1000, 10_000, 100_000) if size == "full" else (100, 1000)
    d, batch, rounds = 64, 128, 9
    rng = np.random.default_rng(0)
    hidden = jnp.asarray(rng.normal(size=(batch, d)) / d**0.5, jnp.float32)

    def dense(weights: jax.Array, hidden: jax.Array, labels: jax.Array) -> tuple:
        def total(weights: jax.Array, hidden: jax.Array) -> jax.Array:
            return jnp.sum(z_loss(hidden @ weights.T, labels))

        loss, (by_weights, by_hidden) = jax.value_and_grad(total, (0, 1))(weights, hidden)
        return weights - 0.01 * by_weights, (loss, by_hidden)

    def factored(state: Any, hidden: jax.Array, labels: jax.Array) -> tuple:
        losses, by_hidden, state = factored_output_step(
            state,
            hidden,
            labels,
            loss_from_statistics=z_loss_from_statistics,
            learning_rate=0.01,
        )
        return state, (losses, by_hidden)

    found: dict[str, Any] = {"classes": list(classes), "factored": [], "dense": []}
    for k in classes:
        labels = jnp.asarray(rng.integers(0, k, batch))
        for name, step, init in (
            ("factored", factored, factored_output_init),
            ("dense", dense, jnp.array),
        ):
            state = init(jnp.asarray(rng.normal(size=(k, d)) / d**0.5, jnp.float32))
            run = jax.jit(step, donate_argnums=0)
            times = []
            for _ in range(rounds):
                start = time.perf_counter()
                state, result = run(state, hidden, labels)
                jax.block_until_ready((state, result))
                times.append(time.perf_counter() - start)
            found[name].append(statistics.median(times[1:]))
    return found


def language(key: jax.Array, num: int) -> tuple[jax.Array, jax.Array]:
    """Contexts of three words as features, and next words: Zipf's prior, log-linear in context.

    The words and their weights are the same for every key; only the draws differ.
    """
    embedding_key, weight_key = jax.random.split(jax.random.key(0))
    embeddings = jax.random.normal(embedding_key, (WORDS, EMBEDDING))
    weights = jax.random.normal(weight_key, (CONTEXT * EMBEDDING, WORDS)) / 4
    prior = -jnp.log(jnp.arange(1, WORDS + 1.0))
    word_key, next_key = jax.random.split(key)
    words = jax.random.categorical(word_key, prior, shape=(num, CONTEXT))
    features = embeddings[words].reshape(num, -1)
    return features, jax.random.categorical(next_key, features @ weights + prior)


def quality(key: jax.Array, size: Size) -> dict[str, Any]:
    """Top-k errors on fresh contexts of every loss at every rate, with and without noisy labels."""
    seeds, steps, num, rates = (
        (2, 1500, 20_000, (1e-3, 3e-3)) if size == "full" else (1, 60, 1000, (3e-3,))
    )
    model = mlp((CONTEXT * EMBEDDING, 64, 32, WORDS))
    branches = [lambda *args, loss=loss: jnp.mean(loss(*args)) for loss in LOSSES.values()]

    def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        data_key, noise_key, init_key, held_key = jax.random.split(key, 4)
        features, labels = language(data_key, num)
        random_key, which_key = jax.random.split(noise_key)
        other = jax.random.randint(random_key, labels.shape, 0, WORDS)
        labels = jnp.where(jax.random.bernoulli(which_key, h["noise"], labels.shape), other, labels)
        held = language(held_key, 10_000)

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            logits = model.apply(params, batch["x"])["logits"]
            value = jax.lax.switch(h["loss"], branches, logits, batch["labels"])
            return value, (state, {})

        def evaluate(params: Any, state: Any) -> dict[str, jax.Array]:
            logits = model.apply(params, held[0])["logits"]
            own = jnp.take_along_axis(logits, held[1][:, None], axis=1)
            wrong = jnp.sum(logits > own, axis=1)[:, None] >= jnp.array(TOPS)
            # One half chooses settings, the other judges them.
            halves = {"validation": wrong[:5000], "test": wrong[5000:]}
            return {
                f"{split} {top}": jnp.mean(rows[:, i])
                for split, rows in halves.items()
                for i, top in enumerate(TOPS)
            }

        optimizer = optax.adam(optax.cosine_decay_schedule(1.0, steps))
        optimizer = optax.chain(optimizer, optax.scale(h["rate"]))
        return train.Run(
            loss_fn,
            model.init(init_key),
            optimizer,
            {"x": features, "labels": labels},
            evaluate=evaluate,
        )

    shape = 2, len(LOSSES), len(rates), seeds
    noise, loss, rate, seed = (a.ravel() for a in np.indices(shape))
    result = train.sweep(
        member,
        {
            "noise": (0.05 * noise).astype(np.float32),
            "loss": loss.astype(np.int32),
            "rate": np.array(rates, np.float32)[rate],
        },
        keys=jax.vmap(jax.random.fold_in, (None, 0))(key, seed.astype(np.uint32)),
        steps=steps,
        batch_size=128,
        log_every=steps,
        progress=False,
    )
    history = result.history["evaluate"]
    validation, test = (
        np.stack([history[f"{split} {top}"][:, -1] for top in TOPS], -1).reshape(*shape, -1)
        for split in ("validation", "test")
    )
    groups = {
        name: [i for i, loss in enumerate(LOSSES) if loss.startswith(name[:5])]
        for name in ("log-softmax", "Taylor softmax", "spherical softmax", "squared error")
    }
    groups["Z-loss"] = [i for i, name in enumerate(LOSSES) if name.startswith("Z ")]
    errors: dict[str, list] = {}
    for name, members in groups.items():
        # (noise, setting, seed, k): the setting with the least validation error, for each k.
        tried = validation[:, members].reshape(2, -1, seeds, len(TOPS))
        judged = test[:, members].reshape(2, -1, seeds, len(TOPS)).mean(2)
        best = tried.mean(2).argmin(1)
        errors[name] = np.take_along_axis(judged, best[:, None], 1)[:, 0].tolist()
    return {"tops": list(TOPS), "errors, clean and noisy": errors}


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    """Measure speed and quality."""
    return {"seconds": speed(size), **quality(key, size)}


def holds(results: dict[str, Any]) -> bool:
    """The factored step is flat in the classes; Z beats its kin at every k, log-softmax at one."""
    seconds = results["seconds"]
    factored, dense = np.asarray(seconds["factored"]), np.asarray(seconds["dense"])
    errors = {name: np.asarray(e)[0] for name, e in results["errors, clean and noisy"].items()}
    z = errors["Z-loss"]
    kin = [errors[name] for name in ("Taylor softmax", "spherical softmax", "squared error")]
    return bool(
        factored[-1] < 2 * factored[0]
        and dense[-1] > 20 * dense[0]
        and dense[-1] > 10 * factored[-1]
        and np.all(z < np.min(kin, axis=0))
        and np.any(z < errors["log-softmax"])
    )


def plot(results: dict[str, Any]) -> Figure:
    """Draw the seconds of a step, and the top-k errors."""
    figure = Figure(figsize=(14, 3.8), layout="constrained")
    time_axes, *error_axes = figure.subplots(1, 3)
    seconds = results["seconds"]
    for name in ("factored", "dense"):
        time_axes.loglog(seconds["classes"], seconds[name], "o-", label=name)
    time_axes.set(xlabel="classes", ylabel="seconds a step", title="Z-loss, d = 64, batch 128")
    time_axes.legend()
    for i, (axes, title) in enumerate(
        zip(error_axes, ("clean labels", "5% of labels random"), strict=True)
    ):
        for name, errors in results["errors, clean and noisy"].items():
            axes.plot(range(len(results["tops"])), np.asarray(errors)[i], "o-", label=name)
        axes.set_xticks(range(len(results["tops"])), [f"top {k}" for k in results["tops"]])
        axes.set(ylabel="error", title=title)
    error_axes[0].legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    paper="z-loss",
    claim=(
        "An exact factored step costs the same at 1e5 classes as at 1e3; tuned for each k, the "
        "Z-loss has lower top-k errors than the other spherical losses, and than log-softmax for "
        "at least one k"
    ),
    run=run,
    holds=holds,
    plot=plot,
    remark=(
        "Log-softmax, the well-specified likelihood here, is beaten at top 50 only, by 0.002, "
        "which is less than the standard error of its 10,000 judged contexts (0.005); with 5% of "
        "labels random at top 1 and top 50, by 0.001 and 0.007."
    ),
)
