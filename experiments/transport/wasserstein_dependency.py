"""Representations of rows of digits: contrastive coding with and without a bounded critic."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from sklearn.linear_model import RidgeClassifier

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.transport import critic_gradient_penalty, wpc_loss

SCALE = 1 / 8
METHODS = {
    # weight of the penalty, bound on the slope, weight decay
    "CPC": (0.0, 1.0, 0.0),
    "CPC, weight decay": (0.0, 1.0, 1e-4),
    "WPC, slope 1": (10.0, 1.0, 0.0),
    "WPC, slope 3": (10.0, 3.0, 0.0),
}


def digits() -> tuple[np.ndarray, np.ndarray]:
    """Images of each class, (class, image, pixels): for training and held out."""
    x, labels = load_digits(return_X_y=True)
    by_class = np.stack([x[labels == c][:174] for c in range(10)]).astype(np.float32) / 16
    return by_class[:, :120], by_class[:, 120:]


def draw(key: jax.Array, images: jax.Array, n: int, cells: int) -> tuple[jax.Array, ...]:
    """Rows of digits, those of the next classes, and the classes."""
    class_key, x_key, y_key = jax.random.split(key, 3)
    classes = jax.random.randint(class_key, (n, cells), 0, 10)

    def pick(key: jax.Array, classes: jax.Array) -> jax.Array:
        which = jax.random.randint(key, classes.shape, 0, images.shape[1])
        return images[classes, which].reshape(n, -1)

    return pick(x_key, classes), pick(y_key, (classes + 1) % 10), classes


def probe(features: np.ndarray, classes: np.ndarray, held_out: int) -> np.ndarray:
    """Accuracy of a linear classifier of each cell's class, on the last examples."""
    scores = []
    for cell in classes.T:
        ridge = RidgeClassifier().fit(features[:-held_out], cell[:-held_out])
        scores.append(ridge.score(features[-held_out:], cell[-held_out:]))
    return np.array(scores)


def accuracies(key: jax.Array, cells: int, size: Size) -> dict[str, dict[str, np.ndarray]]:
    """Probe accuracy of each method's encoder, mean and worst cell, for each seed."""
    seeds, steps, known, held_out = (2, 600, 2000, 1000) if size == "full" else (1, 10, 200, 100)
    training, testing = map(jnp.asarray, digits())
    encoder = mlp((64 * cells, 256, 64))

    def encode(params: Any, x: jax.Array) -> jax.Array:
        return encoder.apply(params, x)["logits"]

    def member(h: dict[str, jax.Array], key: jax.Array) -> train.Run:
        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            draw_key, penalty_key = jax.random.split(key)
            x, y, _ = draw(draw_key, training, 64, cells)

            def critic(x: jax.Array, y: jax.Array) -> jax.Array:
                return SCALE * jnp.vdot(encode(params["x"], x), encode(params["y"], y))

            loss = wpc_loss(encode(params["x"], x), encode(params["y"], y), scale=SCALE).mean()
            penalty = critic_gradient_penalty(penalty_key, critic, x, y, target=h["slope"]).mean()
            return loss + h["penalty"] * penalty, (state, {"contrastive": loss})

        x_key, y_key = jax.random.split(key)
        params = {"x": encoder.init(x_key), "y": encoder.init(y_key)}
        optimizer = optax.chain(
            optax.add_decayed_weights(h["decay"]), optax.scale_by_adam(), optax.scale(-1e-3)
        )
        return train.Run(loss_fn, params, optimizer, {"unused": jnp.zeros(1)})

    settings = np.repeat(np.array(list(METHODS.values()), np.float32), seeds, axis=0)
    seed_keys = jax.random.split(key, seeds)
    result = train.sweep(
        member,
        dict(zip(("penalty", "slope", "decay"), settings.T, strict=True)),
        keys=jnp.tile(seed_keys, len(METHODS)),
        steps=steps,
        batch_size=1,
        progress=False,
    )
    known_key, test_key = jax.random.split(jax.random.fold_in(key, 1))
    x, _, classes = draw(known_key, training, known, cells)
    test_x, _, test_classes = draw(test_key, testing, held_out, cells)
    x, classes = jnp.concatenate([x, test_x]), jnp.concatenate([classes, test_classes])

    def judge(params: Any) -> np.ndarray:
        return probe(np.asarray(encode(params, x)), np.asarray(classes), held_out)

    start = [encoder.init(jax.random.split(k)[0]) for k in seed_keys]
    scores = {"random encoder": np.array([judge(params) for params in start])}
    for i, name in enumerate(METHODS):
        members = range(i * seeds, (i + 1) * seeds)
        trained = [jax.tree.map(lambda leaf, j=j: leaf[j], result.params["x"]) for j in members]
        scores[name] = np.array([judge(params) for params in trained])
    contrastive = result.history["train"]["contrastive"][:, -100:].mean(1)
    return {
        "mean": {name: values.mean(1) for name, values in scores.items()},
        "worst": {name: values.min(1) for name, values in scores.items()},
        "contrastive loss": dict(
            zip(METHODS, contrastive.reshape(len(METHODS), seeds).mean(1), strict=True)
        ),
    }


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for cells in (1, 9):
        found = accuracies(jax.random.fold_in(key, cells), cells, size)
        means = found["mean"]
        best = {
            kind: max((m for m in METHODS if m.startswith(kind)), key=lambda m: means[m].mean())
            for kind in ("CPC", "WPC")
        }
        first, second = means[best["WPC"]], means[best["CPC"]]
        results[f"{cells} cells: accuracy"] = means
        results[f"{cells} cells: accuracy in the worst cell"] = found["worst"]
        results[f"{cells} cells: contrastive loss"] = found["contrastive loss"]
        results[f"{cells} cells: best"] = list(best.values())
        results[f"{cells} cells: WPC ahead of CPC by"] = float(first.mean() - second.mean())
        if len(first) > 1:
            spread = np.sqrt((first.var(ddof=1) + second.var(ddof=1)) / len(first))
            results[f"{cells} cells: standard error"] = float(spread)
    return results


def holds(results: dict[str, Any]) -> bool:
    ahead = results["9 cells: WPC ahead of CPC by"]
    return (
        ahead > results.get("9 cells: standard error", np.inf)
        and ahead > results["1 cells: WPC ahead of CPC by"]
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    axes = figure.subplots(1, 2)
    cells = (1, 9)
    for axis, what in zip(axes, ("accuracy", "accuracy in the worst cell"), strict=True):
        for name in results[f"{cells[0]} cells: {what}"]:
            values = [np.mean(results[f"{c} cells: {what}"][name]) for c in cells]
            style = ":" if name == "random encoder" else "--" if "CPC" in name else "-"
            axis.plot(cells, values, f"o{style}", label=name)
        axis.set(xlabel="digits in a row", ylabel=f"linear probe, {what}", xticks=cells)
    axes[0].legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    paper="wasserstein-dependency",
    claim="On rows of nine digits (mutual information 9 log 10, batches of log 64) a critic of "
    "bounded slope (WPC) learns features from which a linear probe reads the digits better than "
    "from contrastive coding (CPC), and by more than on single digits",
    run=run,
    holds=holds,
    plot=plot,
)
