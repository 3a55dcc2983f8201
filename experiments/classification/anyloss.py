"""AnyLoss: training on the score itself against training on a proxy, with overlapping classes."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_breast_cancer, load_digits, make_classification
from sklearn.decomposition import PCA
from sklearn.metrics import balanced_accuracy_score, f1_score, precision_recall_curve
from sklearn.model_selection import StratifiedKFold

from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.classification import (
    anyloss,
    confusion_balanced_accuracy,
    confusion_f_beta,
    score_oriented_loss,
)

LOSSES: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "cross-entropy": lambda z, y: optax.losses.sigmoid_binary_cross_entropy(z, y).mean(),
    "squared error": lambda z, y: jnp.square(jax.nn.sigmoid(z) - y).mean(),
    "AnyLoss F1": lambda z, y: anyloss(confusion_f_beta, jax.nn.sigmoid(z), y),
    "AnyLoss balanced": lambda z, y: anyloss(confusion_balanced_accuracy, jax.nn.sigmoid(z), y),
    "SOL F1": lambda z, y: score_oriented_loss(confusion_f_beta, jax.nn.sigmoid(z), y),
    "SOL balanced": lambda z, y: score_oriented_loss(
        confusion_balanced_accuracy, jax.nn.sigmoid(z), y
    ),
}
TUNED = "cross-entropy, threshold tuned for F1"
METHODS = (*LOSSES, TUNED)
SCORES = {"F1": f1_score, "balanced accuracy": balanced_accuracy_score}
# Share of the minority and separation of the classes.
SYNTHETIC = [(0.1, 1.2), (0.1, 0.8), (0.05, 1.2), (0.05, 0.8)]


def synthetic(share: float, separation: float, size: int, seed: int) -> tuple[Any, Any]:
    """The authors' generator: five features of two overlapping classes, projected to the plane."""
    x, labels = make_classification(
        size,
        5,
        n_informative=3,
        n_redundant=1,
        n_clusters_per_class=1,
        weights=[1 - share],
        class_sep=separation,
        random_state=seed,
    )
    return PCA(2).fit_transform(x), labels


def eights(seed: int) -> tuple[Any, Any]:
    x, labels = load_digits(return_X_y=True)
    return x[:, x.std(0) > 0], (labels == 8).astype(int)


def few_malignant(seed: int) -> tuple[Any, Any]:
    x, benign = load_breast_cancer(return_X_y=True)
    kept = np.random.default_rng(seed).permutation(np.flatnonzero(benign == 0))[:40]
    rows = np.concatenate([kept, np.flatnonzero(benign == 1)])
    return x[rows], 1 - benign[rows]


@functools.partial(jax.jit, static_argnames="steps")
def fit_linear(x: jax.Array, labels: jax.Array, steps: int) -> jax.Array:
    """Weights (folds, losses, d) of linear models trained on each fold (n, d) with each loss."""
    optimizer = optax.adam(0.01)

    def fit(run: tuple[jax.Array, jax.Array, jax.Array]) -> jax.Array:
        x, labels, loss = run

        def value(weights: jax.Array) -> jax.Array:
            return jax.lax.switch(loss, list(LOSSES.values()), x @ weights, labels)

        def step(carry: Any, _: None) -> tuple[Any, None]:
            weights, state = carry
            updates, state = optimizer.update(jax.grad(value)(weights), state)
            return (optax.apply_updates(weights, updates), state), None

        start = jnp.zeros(x.shape[1])
        (weights, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), length=steps)
        return weights

    folds, losses = len(x), len(LOSSES)
    runs = (jnp.repeat(x, losses, 0), jnp.repeat(labels, losses, 0))
    weights = jax.lax.map(fit, (*runs, jnp.tile(jnp.arange(losses), folds)))
    return weights.reshape(folds, losses, -1)


def cross_validate(x: np.ndarray, labels: np.ndarray, steps: int, seed: int) -> np.ndarray:
    """Mean of each score (methods, scores) over five stratified folds."""
    # Equal folds, so that all train in one program.
    rows = np.random.default_rng(seed).permutation(len(labels))[: len(labels) // 5 * 5]
    x, labels = x[rows], labels[rows]
    splits = list(StratifiedKFold(5).split(x, labels))
    sets = []
    for known, unknown in splits:
        centre, scale = x[known].mean(0), x[known].std(0)
        scaled = np.column_stack([(x - centre) / np.where(scale > 0, scale, 1), np.ones(len(x))])
        sets.append((scaled[known], labels[known], scaled[unknown], labels[unknown]))
    train_x, train_labels = (np.stack(part) for part in list(zip(*sets, strict=True))[:2])
    weights = np.asarray(fit_linear(train_x.astype(np.float32), train_labels, steps))
    found = []
    for (known_x, known_labels, test_x, test_labels), fold in zip(sets, weights, strict=True):
        precision, recall, thresholds = precision_recall_curve(known_labels, known_x @ fold[0])
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        scores = [test_x @ w for w in fold]
        scores.append(scores[0] - thresholds[f1[:-1].argmax()])
        found.append([[score(test_labels, z >= 0) for score in SCORES.values()] for z in scores])
    return np.mean(found, axis=0)


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    n, steps, seeds, settings = 4000, 1000, 3, SYNTHETIC
    if size == "smoke":
        n, steps, seeds, settings = 1000, 200, 1, SYNTHETIC[:1]
    sets: dict[str, Callable[[int], tuple[Any, Any]]] = {
        f"{share:.0%}, {separation:g} apart": functools.partial(synthetic, share, separation, n)
        for share, separation in settings
    }
    names = list(sets)
    sets |= {"digits, 8 or not": eights, "breast cancer, 40 malignant": few_malignant}
    offset = int(jax.random.randint(key, (), 0, 2**20)) * seeds
    found = {
        name: np.stack(
            [
                cross_validate(*draw(offset + seed), steps=steps, seed=offset + seed)
                for seed in range(seeds)
            ]
        )
        for name, draw in sets.items()
    }
    results: dict[str, Any] = {
        f"{score}: {name}": {m: values[:, i, j] for i, m in enumerate(METHODS)}
        for j, score in enumerate(SCORES)
        for name, values in found.items()
    }
    for j, score in enumerate(SCORES):
        for i, method in enumerate(METHODS):
            mean = np.mean([found[name][:, i, j] for name in names])
            results[f"synthetic {score}: {method}"] = float(mean)
    return results


def holds(results: dict[str, Any]) -> bool:
    def gain(score: str, target: str, rival: str) -> float:
        return results[f"synthetic {score}: {target}"] - results[f"synthetic {score}: {rival}"]

    rivals = ("cross-entropy", "squared error")
    real = [
        results[f"balanced accuracy: {name}"]
        for name in ("digits, 8 or not", "breast cancer, 40 malignant")
    ]
    return (
        all(gain("F1", "AnyLoss F1", rival) >= 0.02 for rival in rivals)
        and all(gain("balanced accuracy", "AnyLoss balanced", rival) >= 0.05 for rival in rivals)
        and all(
            np.mean(scores["AnyLoss balanced"]) >= np.mean(scores["cross-entropy"]) - 0.005
            for scores in real
        )
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(12, 5), layout="constrained")
    axes = figure.subplots(1, len(SCORES), sharey=True)
    for axis, score in zip(axes, SCORES, strict=True):
        rows = {n.removeprefix(f"{score}: "): v for n, v in results.items() if n.startswith(score)}
        for i, method in enumerate(METHODS):
            values = [np.asarray(row[method]) for row in rows.values()]
            axis.errorbar(
                [np.mean(v) for v in values],
                np.arange(len(rows)) + (i - len(METHODS) / 2) / 10,
                xerr=[np.std(v) for v in values],
                fmt="s" if method == TUNED else "o",
                label=method,
                markersize=5,
            )
        axis.set(xlabel=f"test {score} (mean and spread over seeds)", yticks=range(len(rows)))
        axis.set_yticklabels(list(rows))
        axis.grid(axis="y", alpha=0.3)
    axes[0].invert_yaxis()
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


EXPERIMENT = Experiment(
    paper="anyloss",
    claim="a linear model trained on AnyLoss has a higher F1 (by 0.02) and balanced accuracy (by "
    "0.05), each its own target, than one trained on cross-entropy or squared error, on the mean "
    "over imbalanced, overlapping synthetic sets; its balanced accuracy is no lower on two real "
    "sets",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "synthetic F1: AnyLoss F1": "0.673 (102 data sets)",
        "synthetic F1: cross-entropy": "0.561 (102 data sets)",
        "synthetic balanced accuracy: AnyLoss balanced": "0.815 (102 data sets)",
        "synthetic balanced accuracy: cross-entropy": "0.739 (102 data sets)",
    },
    remark="Where classes overlap the gains are several times those claimed, and a threshold of "
    "cross-entropy tuned for F1 on the training folds gets nine tenths of the gain in F1: it is "
    "an effect of the threshold. The last part fails: on breast cancer, nearly separable and with "
    "32 positives a fold, training on balanced accuracy gives two points less of it than "
    "cross-entropy; F1 is lower on both real sets. Steep losses see few examples there.",
)
