"""Calibrators trained to know right from wrong beside ones trained on cross-entropy, on digits."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import ndimage
from sklearn.datasets import load_digits

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.classification import (
    consistency_features,
    correctness_auroc,
    correctness_aware_loss,
    correctness_balance_weights,
    expected_calibration_error,
    network_temperatures,
    temperature_network_init,
    temperature_scaling,
)

TRAIN, CALIBRATE = 400, 700
# Until the network is over-confident: after 300 it is not yet.
EPOCHS = 1000
NETWORK, AWARE, BALANCED = "network, cross-entropy", "network, aware", "network, balanced"
CALIBRATORS = ("none", "one temperature", NETWORK, AWARE, BALANCED)
MEASURES = ("ECE", "top-1 Brier score", "AUC of correctness", "confidence of narrow mistakes")
SPLITS = ("in distribution", "rotated")


def cross_entropy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels).mean()


def aware(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return correctness_aware_loss(logits, labels).mean()


def balanced(logits: jax.Array, labels: jax.Array) -> jax.Array:
    weights = correctness_balance_weights(logits, labels)
    return jnp.sum(weights * correctness_aware_loss(logits, labels))


def rotated(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Each image turned by 15 degrees to one side or the other."""
    sides = rng.choice([-15, 15], len(images))
    return np.stack(
        [
            ndimage.rotate(image, side, reshape=False, order=1)
            for image, side in zip(images, sides, strict=True)
        ]
    )


def views(images: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The images, shifted by a pixel, turned and blurred: (n, 4, 64)."""
    moves = np.array([(1, 0), (-1, 0), (0, 1), (0, -1)])[rng.integers(0, 4, len(images))]
    shifted = [ndimage.shift(x, move, order=0) for x, move in zip(images, moves, strict=True)]
    blurred = ndimage.uniform_filter(images, (0, 3, 3), mode="constant")
    seen = np.stack([images, np.stack(shifted), rotated(images, rng), blurred], axis=1)
    return seen.reshape(len(images), 4, 64).astype(np.float32)


def draw(seed: int) -> dict[str, np.ndarray]:
    """Noisy digits to train on, and views of those to calibrate and to test with."""
    rng = np.random.default_rng(seed)
    images, labels = load_digits().images / 16, load_digits().target
    order = rng.permutation(len(images))
    images, labels = images[order], labels[order]

    def noisy(images: np.ndarray, scale: float) -> np.ndarray:
        return images + rng.normal(0, scale, images.shape)

    seen = noisy(images, 0.15)
    test = TRAIN + CALIBRATE
    return {
        "train": seen[:TRAIN].reshape(TRAIN, 64).astype(np.float32),
        "calibrate": views(seen[TRAIN:test], rng),
        "in distribution": views(seen[test:], rng),
        "rotated": views(noisy(rotated(images[test:], rng), 0.25), rng),
        "labels": labels,
    }


def descend(loss: Callable[[Any], jax.Array], params: Any, optimizer: Any, steps: int) -> Any:
    def step(_: Any, carry: Any) -> Any:
        params, state = carry
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    return jax.lax.fori_loop(0, steps, step, (params, optimizer.init(params)))[0]


def measure(logits: jax.Array, labels: jax.Array) -> jax.Array:
    probabilities = jax.nn.softmax(logits)
    confidence = probabilities.max(1)
    # The true class is ranked second, with a fair probability.
    own = probabilities[jnp.arange(len(labels)), labels]
    narrow = (logits.argmax(1) != labels) & ((probabilities > own[:, None]).sum(1) == 1)
    return jnp.array(
        [
            expected_calibration_error(logits, labels, num_bins=15, scheme="mass"),
            correctness_aware_loss(logits, labels).mean(),
            correctness_auroc(logits, labels),
            jnp.mean(confidence, where=narrow),
        ]
    )


@functools.partial(jax.jit, static_argnames="steps")
def calibrate(
    keys: jax.Array, data: dict[str, jax.Array], steps: int
) -> tuple[jax.Array, jax.Array]:
    """Measures (seeds, splits, calibrators, measures) and accuracies (seeds, splits)."""
    model = mlp((64, 64, 10))

    def run(given: tuple[jax.Array, dict[str, jax.Array]]) -> tuple[jax.Array, jax.Array]:
        key, data = given
        model_key, network_key = jax.random.split(key)
        parts = (slice(TRAIN), slice(TRAIN, TRAIN + CALIBRATE), slice(TRAIN + CALIBRATE, None))
        train_labels, labels, test_labels = (data["labels"][part] for part in parts)

        def training_loss(params: Any) -> jax.Array:
            return cross_entropy(model.apply(params, data["train"])["logits"], train_labels)

        params = descend(training_loss, model.init(model_key), optax.adam(1e-3), EPOCHS)

        def see(seen: jax.Array) -> tuple[jax.Array, jax.Array]:
            outputs = model.apply(params, seen)["logits"]
            return outputs[:, 0], consistency_features(outputs[:, 0], outputs[:, 1:])

        logits, features = see(data["calibrate"])
        start = temperature_network_init(network_key, features.shape[1])

        def fitted(loss: Callable[[jax.Array, jax.Array], jax.Array]) -> Any:
            def value(network: Any) -> jax.Array:
                return loss(logits / network_temperatures(network, features)[:, None], labels)

            return descend(value, start, optax.adam(3e-3), steps)

        one = temperature_scaling(logits, labels)
        networks = [fitted(loss) for loss in (cross_entropy, aware, balanced)]
        measured, accuracies = [], []
        for split in SPLITS:
            test, its_features = see(data[split])
            scaled = [network_temperatures(network, its_features) for network in networks]
            temperatures = [jnp.ones(len(test)), jnp.full(len(test), one), *scaled]
            measured.append([measure(test / t[:, None], test_labels) for t in temperatures])
            accuracies.append(jnp.mean(test.argmax(1) == test_labels))
        return jnp.array(measured), jnp.array(accuracies)

    return jax.lax.map(run, (keys, data))


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds, steps = (5, 400) if size == "full" else (1, 100)
    offset = int(jax.random.randint(key, (), 0, 2**20))
    drawn = [draw(offset + seed) for seed in range(seeds)]
    data = {name: jnp.stack([jnp.asarray(each[name]) for each in drawn]) for name in drawn[0]}
    measured, accuracies = calibrate(jax.random.split(key, seeds), data, steps)
    results: dict[str, Any] = {}
    for i, split in enumerate(SPLITS):
        results[f"{split}: accuracy"] = float(accuracies[:, i].mean())
        for k, name in enumerate(MEASURES):
            results[f"{split}: {name}"] = {
                calibrator: measured[:, i, j, k] for j, calibrator in enumerate(CALIBRATORS)
            }
            for j, calibrator in enumerate(CALIBRATORS):
                results[f"{split}: {name}, {calibrator}"] = float(measured[:, i, j, k].mean())
    return results


def holds(results: dict[str, Any]) -> bool:
    def ahead(split: str, measure: str, calibrator: str) -> bool:
        own = results[f"{split}: {measure}, {calibrator}"]
        return own <= results[f"{split}: {measure}, {NETWORK}"]

    return all(
        ahead("rotated", measure, AWARE) for measure in ("ECE", "top-1 Brier score")
    ) and all(
        ahead(split, "confidence of narrow mistakes", calibrator)
        for split in SPLITS
        for calibrator in (AWARE, BALANCED)
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for axis, name in zip(axes, MEASURES, strict=True):
        for split, marker in zip(SPLITS, "os", strict=True):
            values = results[f"{split}: {name}"]
            axis.errorbar(
                [np.mean(values[calibrator]) for calibrator in CALIBRATORS],
                np.arange(len(CALIBRATORS)),
                xerr=[np.std(values[calibrator]) for calibrator in CALIBRATORS],
                fmt=marker,
                label=split,
            )
        axis.set(xlabel=name, yticks=range(len(CALIBRATORS)))
        axis.set_yticklabels(CALIBRATORS)
        axis.grid(axis="y", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle("digits: mean and spread over seeds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


EXPERIMENT = Experiment(
    paper="correctness-calibration",
    claim="a calibrator of transformed views trained on the correctness-aware loss has, out of "
    "distribution, an ECE and a top-1 Brier score no larger than one trained on "
    "cross-entropy; it, and its balanced form, are less confident of narrow mistakes",
    run=run,
    holds=holds,
    plot=plot,
    reported={"rotated: ECE, network, aware": "competitive with others (ImageNet variants)"},
    remark="By small margins, and for an over-confident network: after 300 steps of training "
    "instead of 1000 it is under-confident, and the two losses calibrate alike. One temperature "
    "for all is the stronger rival, ahead of both networks when rotated. The claim of a better "
    "separation of right from wrong does not show (AUC). The balanced form, the authors' code, "
    "wins when rotated because half of the examples are wrong there, as it supposes always.",
)
