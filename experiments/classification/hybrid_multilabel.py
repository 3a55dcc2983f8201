"""The hybrid multi-label loss and its terms against cross-entropy, thresholds tuned or not."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.metrics import f1_score, hamming_loss, jaccard_score, precision_recall_curve

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.classification import (
    hybrid_multilabel_loss,
    label_correlation_matrix,
    multilabel_class_weights,
    multilabel_positive_weights,
)

LABELS, TRAIN, VALIDATION = 10, 1500, 500
# Name, whether weighted, weights of the correlation and of the contrastive term.
ARMS = (
    ("cross-entropy", 0.0, 0.0, 0.0),
    ("weighted", 1.0, 0.0, 0.0),
    ("weighted, correlation", 1.0, 0.1, 0.0),
    ("weighted, contrast", 1.0, 0.0, 0.1),
    ("hybrid", 1.0, 0.1, 0.1),
)
NAMES = [name for name, *_ in ARMS]
MEASURES = ("macro F1", "F1 of rare labels", "gap, frequent less rare", "Jaccard", "Hamming loss")
THRESHOLDS = ("at 0.5", "tuned")


def draw(seed: int, test: int) -> tuple[np.ndarray, np.ndarray]:
    """Features and ten labels of four common factors, from frequent (0.4) to rare (0.06)."""
    rng = np.random.default_rng(seed)
    factors, features, n = 4, 40, TRAIN + VALIDATION + test
    loadings = 1.2 * rng.normal(size=(factors, LABELS))
    t = rng.normal(size=(n, factors))
    scores = t @ loadings + np.linspace(-0.5, -3.2, LABELS) + 0.5 * rng.normal(size=(n, LABELS))
    mixing = rng.normal(size=(factors + 6, features)) / np.sqrt(10)
    x = np.tanh(np.column_stack([t, rng.normal(size=(n, 6))]) @ mixing)
    x += 0.6 * rng.normal(size=x.shape)
    return x.astype(np.float32), (scores > 0).astype(np.int32)


def measure(probabilities: np.ndarray, labels: np.ndarray, thresholds: np.ndarray) -> list[float]:
    predicted = (probabilities >= thresholds).astype(int)
    f1 = f1_score(labels, predicted, average=None, zero_division=0)
    return [
        f1.mean(),
        f1[-4:].mean(),
        f1[:4].mean() - f1[-4:].mean(),
        jaccard_score(labels, predicted, average="samples", zero_division=1),
        hamming_loss(labels, predicted),
    ]


def tuned_thresholds(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """The threshold of each label with the best F1 on these examples."""
    best = []
    for p, y in zip(probabilities.T, labels.T, strict=True):
        precision, recall, thresholds = precision_recall_curve(y, p)
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        best.append(thresholds[f1[:-1].argmax()])
    return np.array(best)


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds, steps, test = (5, 600, 3000) if size == "full" else (2, 60, 500)
    offset = int(jax.random.randint(key, (), 0, 2**20))
    x, labels = (
        np.stack(part) for part in zip(*(draw(offset + s, test) for s in range(seeds)), strict=True)
    )
    known = labels[:, :TRAIN]
    correlation = jax.vmap(label_correlation_matrix)(known)
    class_weights = jax.vmap(multilabel_class_weights)(known)
    positive_weights = jax.vmap(multilabel_positive_weights)(known)
    model = mlp((x.shape[-1], 64, 32, LABELS))

    def member(hyperparameters: dict[str, jax.Array], key: jax.Array) -> train.Run:
        seed, weighted = hyperparameters["seed"], hyperparameters["weighted"] > 0

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            outputs = model.apply(params, batch["x"])
            losses = hybrid_multilabel_loss(
                outputs["logits"],
                outputs["embeddings"],
                batch["labels"],
                correlation[seed],
                class_weights=jnp.where(weighted, class_weights[seed], 1),
                positive_weights=jnp.where(weighted, positive_weights[seed], 1),
                correlation_weight=hyperparameters["correlation"],
                contrastive_weight=hyperparameters["contrast"],
            )
            return losses.mean(), (state, {})

        data = {"x": jnp.asarray(x)[seed, :TRAIN], "labels": jnp.asarray(known)[seed]}
        optimizer = optax.adamw(1e-3, weight_decay=1e-4)
        return train.Run(loss_fn, model.init(key), optimizer, data)

    arm, seed = (index.ravel() for index in np.indices((len(ARMS), seeds)))
    settings = np.array([numbers for _, *numbers in ARMS], np.float32)[arm].T
    result = train.sweep(
        member,
        {**dict(zip(("weighted", "correlation", "contrast"), settings, strict=True)), "seed": seed},
        keys=jax.random.split(key, seeds)[seed],
        steps=steps,
        batch_size=64,
        log_every=steps,
        progress=False,
    )
    found = np.zeros((len(THRESHOLDS), len(MEASURES), len(ARMS), seeds))

    @jax.jit
    def predict(params: Any, seed: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(model.apply(params, jnp.asarray(x)[seed, TRAIN:])["logits"])

    for i, (a, s) in enumerate(zip(arm, seed, strict=True)):
        params = jax.tree.map(lambda leaf, i=i: leaf[i], result.params)
        p, y = np.asarray(predict(params, s)), labels[s, TRAIN:]
        tuned = tuned_thresholds(p[:VALIDATION], y[:VALIDATION])
        for j, thresholds in enumerate((np.full(LABELS, 0.5), tuned)):
            found[j, :, a, s] = measure(p[VALIDATION:], y[VALIDATION:], thresholds)
    results: dict[str, Any] = {}
    for j, kind in enumerate(THRESHOLDS):
        for k, name in enumerate(MEASURES):
            by_arm = dict(zip(NAMES, found[j, k], strict=True))
            results[f"{name}, {kind}"] = by_arm
            for arm_name, values in by_arm.items():
                results[f"{name}, {kind}: {arm_name}"] = float(values.mean())
    return results


def holds(results: dict[str, Any]) -> bool:
    def gain(measure: str) -> float:
        return results[f"{measure}: hybrid"] - results[f"{measure}: cross-entropy"]

    return (
        gain("macro F1, at 0.5") > 0
        and gain("gap, frequent less rare, at 0.5") < 0
        and gain("macro F1, tuned") >= 0
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(14, 3.6), layout="constrained")
    axes = figure.subplots(1, len(MEASURES), sharey=True)
    for axis, name in zip(axes, MEASURES, strict=True):
        for thresholds, marker in zip(THRESHOLDS, "os", strict=True):
            values = results[f"{name}, {thresholds}"]
            axis.errorbar(
                [np.mean(values[arm]) for arm in NAMES],
                np.arange(len(NAMES)),
                xerr=[np.std(values[arm]) / np.sqrt(len(values[arm])) for arm in NAMES],
                fmt=marker,
                label=f"thresholds {thresholds}",
            )
        axis.set(xlabel=name, yticks=range(len(NAMES)))
        axis.set_yticklabels(NAMES)
        axis.grid(axis="y", alpha=0.3)
    axes[0].invert_yaxis()
    figure.suptitle("ten correlated labels: mean and standard error over seeds")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return figure


EXPERIMENT = Experiment(
    paper="hybrid-multilabel",
    claim="the hybrid loss has a higher macro F1 than cross-entropy and a smaller gap between "
    "frequent and rare labels at threshold 0.5, and no lower a macro F1 where both have their "
    "thresholds tuned",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "macro F1, at 0.5: hybrid": "0.67 (Arabic tweets, F1)",
        "Jaccard, at 0.5: hybrid": "0.81 (Arabic tweets)",
        "Hamming loss, at 0.5: hybrid": "0.15 (Arabic tweets)",
    },
    remark="All of it is the weights' doing: the correlation and the contrastive term change "
    "no figure by more than 0.003, and once thresholds are tuned on validation data the weights' "
    "lead in macro F1 shrinks from 0.03 to 0.001, within the spread over seeds. At 0.5 the weights "
    "cost Jaccard index and Hamming loss. Synthetic labels and a small network stand in for the "
    "paper's tweets and language models.",
)
