"""Label-distributionally robust losses: rank under label noise, adaptivity, top-k consistency."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from sklearn.metrics import roc_auc_score

from lossbench import data, train
from lossbench.bench import Experiment, Task, compare
from lossbench.bench.experiment import Size
from lossbench.bench.tasks.classification import digits
from lossbench.classification import (
    aldr_kl_init,
    aldr_kl_temperature,
    aldr_kl_update,
    comp_sum_conditional_risk,
    ldr_kl_loss,
    normalize_scores,
    score_gaps,
)

CLASSES = 10
GRID = {
    "cross_entropy": {},
    "mean_absolute_error_loss": {},
    "generalized_cross_entropy_loss": {"q": (0.05, 0.7, 0.95)},
    "ldr_kl_loss": {"temperature": (0.1, 1.0, 10.0)},
    "aldr_kl_loss": {"lambda0": (0.1, 1.0, 10.0)},
}
NEXT_CLASS = (np.arange(CLASSES) + 1) % CLASSES


def noisy(kind: str, rate: float) -> Task:
    """Digits under the paper's noise: uniform over all classes, or to the next class."""
    if kind == "clean":
        return digits()

    def corrupt(key: jax.Array, x: jax.Array, labels: jax.Array) -> jax.Array:
        if kind == "uniform":
            return data.uniform_label_noise(key, labels, num_classes=CLASSES, rate=rate)
        return data.class_dependent_label_noise(key, labels, target=NEXT_CLASS, rate=rate)

    return digits(name=f"{kind} {rate:g}", corrupt=corrupt, settings={"noise": kind, "rate": rate})


def ranks(key: jax.Array, size: Size) -> dict[str, Any]:
    """Test accuracy of each loss in each setting, tuned alike, and the mean rank over settings."""
    settings = [("clean", 0.0), ("uniform", 0.3), ("uniform", 0.6), ("class-dependent", 0.3)]
    # Many tuning seeds: one validation split of 200 noisy labels often picks a poor lambda0.
    options: dict[str, Any] = {"seeds": 5, "tune": 6, "tune_seeds": 6, "steps": 600}
    if size == "smoke":
        settings, options = settings[1:2], {"seeds": 2, "tune": 3, "tune_seeds": 1, "steps": 30}
    means = {}
    for i, (kind, rate) in enumerate(settings):
        found = compare(
            noisy(kind, rate), list(GRID), grid=GRID, key=jax.random.fold_in(key, i), **options
        )
        means[f"{kind} {rate:g}"] = found.to_pandas()["mean"]
    by_setting = {name: column.rank(ascending=False) for name, column in means.items()}
    return {
        "accuracy": {name: dict(column) for name, column in means.items()},
        **{
            f"mean rank of {loss}": float(np.mean([r[loss] for r in by_setting.values()]))
            for loss in GRID
        },
    }


def adaptivity(key: jax.Array, size: Size) -> dict[str, Any]:
    """AUC of the running temperatures, one a training example, as detectors of flipped labels."""
    clean, task = digits(), noisy("uniform", 0.3)
    seeds, steps = (5, 600) if size == "full" else (2, 60)
    keys = jax.random.split(key, seeds)

    def member(hyperparameters: dict[str, jax.Array], key: jax.Array) -> train.Run:
        examples = task.splits(key)["train"]

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            logits = task.outputs(params, batch, key)["logits"]
            losses, state = aldr_kl_update(state, logits, batch["labels"], batch["index"])
            return losses.mean(), (state, {})

        optimizer = optax.adam(hyperparameters["rate"])
        state = aldr_kl_init(examples["labels"].shape[0])
        return train.Run(loss_fn, task.init(key), optimizer, examples, state)

    result = train.sweep(
        member,
        {"rate": np.full(seeds, 3e-3, np.float32)},
        keys=keys,
        steps=steps,
        batch_size=64,
        progress=False,
    )
    stored, with_margin = [], []
    for i, member_key in enumerate(keys):
        examples = task.splits(member_key)["train"]
        flipped = np.asarray(examples["labels"] != clean.splits(member_key)["train"]["labels"])
        params = jax.tree.map(lambda leaf, i=i: leaf[i], result.params)
        logits = task.outputs(params, examples, member_key)["logits"]
        gaps = score_gaps(normalize_scores(logits, mode="l1_mean"), examples["labels"])
        stored.append(roc_auc_score(flipped, result.state.temperature[i]))
        with_margin.append(roc_auc_score(flipped, aldr_kl_temperature(gaps)))
    return {
        "AUC of stored temperatures (worst seed)": min(stored),
        "AUC of exact temperatures with margin (worst seed)": min(with_margin),
        "AUC of stored temperatures": stored,
        "AUC of exact temperatures with margin": with_margin,
    }


def consistency(key: jax.Array, size: Size) -> dict[str, Any]:
    """How often the minimiser of the population risk has the right top-k set, k = 1 ... 9.

    LDR-KL's risk is convex and is minimised from zero scores, to a vanishing gradient. The absolute
    error's infimum is approached by any scores whose best class stands far above the others: its
    scores below are random but for that, and their risk is within 1e-6 of the infimum.
    """
    count, steps = (1000, 2000) if size == "full" else (50, 500)
    with jax.enable_x64(True):
        draw, shuffle = jax.random.split(key)
        probs = jax.random.dirichlet(draw, jnp.ones(CLASSES), (count,), dtype=jnp.float64)
        agreement = {}
        gradient = 0.0
        for temperature in (0.1, 1.0):
            scores, norm = minimize_ldr(probs, temperature, steps)
            gradient = max(gradient, norm)
            agreement[f"LDR-KL, temperature {temperature:g}"] = top_agreement(scores, probs)
        best = jax.nn.one_hot(probs.argmax(1), CLASSES)
        arbitrary = 30.0 * best + jax.random.uniform(shuffle, probs.shape, jnp.float64)
        risk = comp_sum_conditional_risk(arbitrary, probs, tau=2.0)
        excess = float((risk - (1 - probs.max(1))).max())
        agreement["absolute error"] = top_agreement(arbitrary, probs)
    return {
        "top-k agreement": agreement,
        "worst top-k agreement of LDR-KL": min(min(v) for n, v in agreement.items() if "LDR" in n),
        "mean top-k agreement of the absolute error, k >= 2": np.mean(
            agreement["absolute error"][1:]
        ),
        "largest gradient at LDR-KL's minimisers": gradient,
        "largest excess risk of the absolute error's": excess,
    }


@functools.partial(jax.jit, static_argnames=("temperature", "steps"))
def _minimize(probs: jax.Array, temperature: float, steps: int) -> tuple[jax.Array, jax.Array]:
    labels = jnp.arange(CLASSES)

    def risk(scores: jax.Array, p: jax.Array) -> jax.Array:
        losses = ldr_kl_loss(
            jnp.broadcast_to(scores, (CLASSES, CLASSES)),
            labels,
            temperature=temperature,
            normalize=None,
        )
        return p @ losses

    optimizer = optax.adam(optax.exponential_decay(0.05, steps, 1e-3))

    def solve(p: jax.Array) -> tuple[jax.Array, jax.Array]:
        gradient = jax.grad(risk)

        def adam(carry: Any, _: None) -> tuple[Any, None]:
            scores, state = carry
            updates, state = optimizer.update(gradient(scores, p), state)
            return (optax.apply_updates(scores, updates), state), None

        def newton(scores: jax.Array, _: None) -> tuple[jax.Array, None]:
            # The risk does not change along (1, ..., 1): adding its projector fills the null space.
            curvature = jax.hessian(risk)(scores, p) + 1 / CLASSES
            return scores - jnp.linalg.solve(curvature, gradient(scores, p)), None

        start = jnp.zeros(CLASSES, p.dtype)
        (scores, _), _ = jax.lax.scan(adam, (start, optimizer.init(start)), length=steps)
        scores, _ = jax.lax.scan(newton, scores, length=5)
        return scores, jnp.abs(gradient(scores, p)).max()

    return jax.vmap(solve)(probs)


def minimize_ldr(probs: jax.Array, temperature: float, steps: int) -> tuple[jax.Array, float]:
    """Minimisers of LDR-KL's population risk, and the largest gradient left at any of them."""
    scores, gradients = _minimize(probs, temperature, steps)
    return scores, float(gradients.max())


def top_agreement(scores: jax.Array, probs: jax.Array) -> list[float]:
    """Share of examples whose top-k set is that of the probabilities, for k = 1 ... 9."""
    by_score = np.argsort(-np.asarray(scores), axis=1)
    by_prob = np.argsort(-np.asarray(probs), axis=1)
    same = [
        [set(s[:k]) == set(p[:k]) for s, p in zip(by_score, by_prob, strict=True)]
        for k in range(1, CLASSES)
    ]
    return np.mean(same, axis=1).tolist()


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    first, second, third = jax.random.split(key, 3)
    return {**ranks(first, size), **adaptivity(second, size), **consistency(third, size)}


def holds(results: dict[str, Any]) -> bool:
    others = [results[f"mean rank of {loss}"] for loss in GRID if loss != "aldr_kl_loss"]
    return (
        results["mean rank of aldr_kl_loss"] <= min(others)
        and results["AUC of stored temperatures (worst seed)"] > 0.5
        and results["worst top-k agreement of LDR-KL"] == 1.0
        and results["mean top-k agreement of the absolute error, k >= 2"] < 0.5
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 4), layout="constrained")
    accuracy, auc, agreement = figure.subplots(1, 3)
    settings = list(results["accuracy"])
    for loss in GRID:
        values = [results["accuracy"][setting][loss] for setting in settings]
        accuracy.plot(settings, values, "o-", label=f"{loss} ({results[f'mean rank of {loss}']:g})")
    accuracy.set(ylabel="test accuracy", title="digits (mean rank)")
    accuracy.tick_params(axis="x", rotation=20)
    accuracy.legend(fontsize=7)
    for name in ("AUC of stored temperatures", "AUC of exact temperatures with margin"):
        auc.plot(results[name], "o", label=name.removeprefix("AUC of "))
    auc.axhline(0.5, color="0.6", linestyle=":")
    auc.set(xlabel="seed", ylabel="AUC for flipped labels", ylim=(0, 1), title="adaptivity")
    auc.legend(fontsize=7)
    for name, values in results["top-k agreement"].items():
        agreement.plot(range(1, CLASSES), values, "o-", label=name)
    agreement.set(xlabel="k", ylabel="share with the right top-k set", title="minimisers")
    agreement.legend(fontsize=7)
    return figure


EXPERIMENT = Experiment(
    paper="ldr",
    claim="ALDR-KL's mean rank over clean and noisy labels is at most that of cross-entropy, MAE, "
    "GCE and LDR-KL; its stored temperatures detect flipped labels; minimising LDR-KL ranks all "
    "classes as the posterior does (top-k consistency), a symmetric loss does not",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "mean rank of aldr_kl_loss": "best of 15 losses",
        "worst top-k agreement of LDR-KL": "1 (theorem)",
    },
    remark="Temperatures and consistency are as claimed. In mean rank ALDR-KL comes second to the "
    "absolute error, which suffers from its slow start on data of many classes, not on ten digits. "
    "Ranks of losses this close are unstable: with fewer tuning seeds ALDR-KL came out first once "
    "and fourth once, as the noisy validation split picked lambda0.",
)
