"""Nested dropout under label noise, and co-teaching of two such networks against their ensemble."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.classification import (
    nested_dropout,
    select_width,
    small_loss_mask,
    truncation_law,
)
from lossbench.data import symmetric_label_noise

WIDTH, CLASSES, NOISE = 256, 10, 0.4
METHODS = {
    "cross-entropy": (None, 0.0),
    "dropout 0.3": (None, 0.3),
    "dropout 0.7": (None, 0.7),
    "nested 10": (10.0, 0.0),
    "nested 30": (30.0, 0.0),
}
FORGET = (0.2, 0.4)
TRUNK = mlp((64, WIDTH, WIDTH))
CROSS_ENTROPY = optax.losses.softmax_cross_entropy_with_integer_labels


def features(params: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(TRUNK.apply(params["trunk"], x)["logits"])


def keep_first(h: jax.Array, width: jax.Array) -> jax.Array:
    return jnp.where(jnp.arange(WIDTH) < width, h, 0)


def init(key: jax.Array) -> Any:
    trunk_key, head_key = jax.random.split(key)
    head = jax.random.normal(head_key, (WIDTH, CLASSES)) / WIDTH**0.5
    return {"trunk": TRUNK.init(trunk_key), "head": head}


def law(scale: float | None) -> jax.Array:
    """Widths kept: the truncation law, or always all of them."""
    if scale is None:
        return jnp.zeros(WIDTH).at[-1].set(1.0)
    return truncation_law(WIDTH, scale=scale)


def split(seed: jax.Array, x: jax.Array, labels: jax.Array) -> dict[str, Any]:
    """Half of the digits to train on, a fifth of it for validation, both noisy; the rest clean."""
    order_key, noise_key = jax.random.split(jax.random.fold_in(jax.random.key(0), seed))
    order = jax.random.permutation(order_key, len(x))
    x, labels = x[order], labels[order]
    half, held = len(x) // 2, len(x) // 10
    noisy = symmetric_label_noise(noise_key, labels[:half], num_classes=CLASSES, rate=NOISE)
    return {
        "train": {"x": x[held:half], "labels": noisy[held:]},
        "clean": labels[held:half],
        "validation": {"x": x[:held], "labels": noisy[:held]},
        "test": {"x": x[half:], "labels": labels[half:]},
    }


def best_width(params: Any, data: dict[str, Any]) -> jax.Array:
    rows = data["validation"]
    return select_width(features(params, rows["x"]), params["head"], rows["labels"]).width


def logits_at(params: Any, x: jax.Array, width: jax.Array) -> jax.Array:
    return keep_first(features(params, x), width) @ params["head"]


def accuracy(logits: jax.Array, labels: jax.Array) -> jax.Array:
    return jnp.mean(jnp.argmax(logits, axis=1) == labels)


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    """Train the five methods (nested ones twice), then tune pairs of nested ones by co-teaching."""
    seeds, epochs, tuning = (3, 150, 30) if size == "full" else (2, 6, 2)
    digits = load_digits()
    x, labels = jnp.asarray(digits.data / 16, jnp.float32), jnp.asarray(digits.target)
    steps_each = len(x) // 2 * 4 // 5 // 64

    def first_stage(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        data = split(h["seed"], x, labels)

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            width_key, mask_key = jax.random.split(key)
            kept = nested_dropout(width_key, features(params, batch["x"]), h["law"])
            mask = jax.random.bernoulli(mask_key, 1 - h["rate"], kept.shape) / (1 - h["rate"])
            loss = CROSS_ENTROPY((kept * mask) @ params["head"], batch["labels"])
            return jnp.mean(loss), (state, {})

        return train.Run(loss_fn, init(key), optax.adam(1e-3), data["train"])

    members = [(name, net) for name in METHODS for net in range(1 + name.startswith("nested"))]
    laws = jnp.stack([law(METHODS[name][0]) for name, _ in members])
    rates = jnp.array([METHODS[name][1] for name, _ in members])
    member, seed = (a.ravel() for a in np.indices((len(members), seeds)))
    seed_array = jnp.asarray(seed, jnp.int32)
    trained = train.sweep(
        first_stage,
        {"law": laws[member], "rate": rates[member], "seed": seed_array},
        keys=jax.random.split(key, len(seed)),
        steps=epochs * steps_each,
        batch_size=64,
        progress=False,
    ).params

    @jax.jit
    def judge(params: Any, seed: jax.Array) -> dict[str, jax.Array]:
        data = split(seed, x, labels)
        width = best_width(params, data)
        rows = data["train"]
        wrong = rows["labels"] != data["clean"]
        guess = jnp.argmax(logits_at(params, rows["x"], width), axis=1)
        return {
            "accuracy": accuracy(
                logits_at(params, data["test"]["x"], width), data["test"]["labels"]
            ),
            "wrong labels fitted": jnp.mean(guess == rows["labels"], where=wrong),
            "width": width,
        }

    judged = jax.lax.map(lambda pair: judge(*pair), (trained, seed_array))
    table = {name: np.asarray(v).reshape(len(members), seeds) for name, v in judged.items()}

    def pick(name: str, net: int) -> Any:
        rows = members.index((name, net)) * seeds + np.arange(seeds)
        return jax.tree.map(lambda leaf: leaf[rows], trained)

    def second_stage(h: dict[str, Any], key: jax.Array) -> train.Run:
        data = split(h["seed"], x, labels)
        widths = [best_width(net, data) for net in h["nets"]]

        def loss_fn(nets: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            halves = [jax.tree.map(lambda leaf, i=i: leaf[i::2], batch) for i in range(2)]
            total = jnp.zeros(())
            # Each network judges its half; the other one learns from what it keeps of it.
            for judging, learning, width, half in zip(
                nets, nets[::-1], widths, halves, strict=True
            ):
                losses = CROSS_ENTROPY(logits_at(judging, half["x"], width), half["labels"])
                kept = small_loss_mask(losses, h["forget"])
                hidden = nested_dropout(key, features(learning, half["x"]), h["law"])
                losses = CROSS_ENTROPY(hidden @ learning["head"], half["labels"])
                total += jnp.mean(losses, where=kept)
            return total, (state, {})

        return train.Run(loss_fn, h["nets"], optax.adam(3e-4), data["train"])

    def judge_pair(nets: Any, seed: jax.Array) -> jax.Array:
        data = split(seed, x, labels)
        logits = [logits_at(net, data["test"]["x"], best_width(net, data)) for net in nets]
        return accuracy(logits[0] + logits[1], data["test"]["labels"])

    pairs: dict[str, Any] = {}
    every_seed = jnp.arange(seeds, dtype=jnp.int32)
    for name in ("nested 10", "nested 30"):
        nets = (pick(name, 0), pick(name, 1))
        judge_all = jax.jit(jax.vmap(judge_pair))
        pairs[f"{name}, two networks"] = np.asarray(judge_all(nets, every_seed))
        for forget in FORGET:
            tuned = train.sweep(
                second_stage,
                {
                    "nets": nets,
                    "seed": every_seed,
                    "law": jnp.tile(law(METHODS[name][0]), (seeds, 1)),
                    "forget": jnp.full(seeds, forget),
                },
                keys=jax.random.split(jax.random.fold_in(key, 1), seeds),
                steps=tuning * steps_each,
                batch_size=64,
                progress=False,
            ).params
            pairs[f"{name}, co-teaching {forget:g}"] = np.asarray(judge_all(tuned, every_seed))
    first = [members.index((name, 0)) for name in METHODS]
    return {
        "accuracy": {name: table["accuracy"][i] for name, i in zip(METHODS, first, strict=True)},
        "wrong labels fitted": {
            name: table["wrong labels fitted"][i] for name, i in zip(METHODS, first, strict=True)
        },
        "width": {name: table["width"][i] for name, i in zip(METHODS, first, strict=True)},
        "pairs": pairs,
    }


def holds(results: dict[str, Any]) -> bool:
    """Nested beats plain and dropout by a standard error; co-teaching beats the same ensemble."""
    accuracies = {name: np.asarray(v) for name, v in results["accuracy"].items()}
    nested = max((v for name, v in accuracies.items() if name.startswith("nested")), key=np.mean)
    plain = max((v for name, v in accuracies.items() if not name.startswith("nested")), key=np.mean)
    error = np.sqrt((nested.var(ddof=1) + plain.var(ddof=1)) / len(nested))
    better = [
        max(np.mean(results["pairs"][f"{name}, co-teaching {forget:g}"]) for forget in FORGET)
        > np.mean(results["pairs"][f"{name}, two networks"])
        for name in ("nested 10", "nested 30")
    ]
    fitted = {name: np.mean(v) for name, v in results["wrong labels fitted"].items()}
    return bool(
        nested.mean() > plain.mean() + error
        and all(better)
        and max(fitted["nested 10"], fitted["nested 30"]) < fitted["dropout 0.7"]
    )


def plot(results: dict[str, Any]) -> Figure:
    """Draw the accuracies on clean digits, and the share of wrong labels that was learned."""
    figure = Figure(figsize=(12, 4), layout="constrained")
    accuracies, wrong = figure.subplots(1, 2, width_ratios=(2, 1))
    bars = {**results["accuracy"], **results["pairs"]}
    means = [np.mean(v) for v in bars.values()]
    accuracies.barh(list(bars), means, color=["tab:blue"] * 5 + ["tab:green"] * 6)
    for i, values in enumerate(bars.values()):
        accuracies.plot(values, [i] * len(values), "k.", markersize=4)
    accuracies.set(xlim=(0.5, 1), xlabel="accuracy on clean digits after 40% label noise")
    accuracies.invert_yaxis()
    fitted = {name: np.mean(v) for name, v in results["wrong labels fitted"].items()}
    wrong.barh(list(fitted), list(fitted.values()), color="tab:red")
    wrong.set(xlabel="share of the wrong training labels fitted", xlim=(0, 1))
    wrong.invert_yaxis()
    return figure


EXPERIMENT = Experiment(
    paper="nested-dropout",
    claim=(
        "Under 40% symmetric label noise nested dropout is more accurate than plain training and "
        "dropout and fits fewer wrong labels; co-teaching two such networks beats their ensemble"
    ),
    run=run,
    holds=holds,
    plot=plot,
)
