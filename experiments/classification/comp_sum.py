"""Comp-sum losses: which tau is best with clean and noisy labels, the bound, robust training."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from matplotlib.figure import Figure
from scipy import stats
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from lossbench import train
from lossbench.bench import Experiment, compare, load_task
from lossbench.bench.experiment import Size
from lossbench.bench.models import mlp
from lossbench.classification import (
    adv_comp_sum_objective,
    comp_sum_conditional_minimum,
    comp_sum_conditional_risk,
    comp_sum_loss,
    h_consistency_transform,
)
from lossbench.robust import pgd_attack

TAUS = (0.0, 0.5, 1.0, 1.5, 2.0)
EPSILON = 0.1
# As many weights for either method, each past both ends of where it does best.
METHODS = (
    ("cross-entropy", 0.0),
    *(("TRADES", beta) for beta in (0.5, 1.0, 2.0, 3.0, 6.0, 12.0)),
    *(("ADV-COMP-SUM", nu) for nu in (0.0625, 0.125, 0.25, 0.5, 1.0, 2.0)),
)


def accuracies(key: jax.Array, size: Size) -> dict[str, Any]:
    """Test accuracy for each tau, learning rate tuned for each, with clean and noisy labels."""
    losses = {f"tau {tau:g}": functools.partial(comp_sum_loss, tau=tau) for tau in TAUS}
    options: dict[str, Any] = {"seeds": 5, "tune": 6, "tune_seeds": 2, "steps": 750}
    if size == "smoke":
        options = {"seeds": 2, "tune": 1, "tune_seeds": 1, "steps": 30}
    found = {}
    for i, (name, task) in enumerate(
        {"clean": load_task("digits"), "noisy": load_task("noisy-digits", rate=0.4)}.items()
    ):
        comparison = compare(task, losses, key=jax.random.fold_in(key, i), **options)
        found[name] = np.stack(
            [result.scores("accuracy") for result in comparison.results.values()]
        )
    results: dict[str, Any] = {f"{name} accuracy": scores for name, scores in found.items()}
    for name, scores in found.items():
        for tau, mean in zip(TAUS, scores.mean(1), strict=True):
            results[f"{name}: tau {tau:g}"] = float(mean)
    clean, noisy = (dict(zip(TAUS, found[name], strict=True)) for name in ("clean", "noisy"))
    middle = max(clean[1.0].mean(), clean[1.5].mean())
    results["clean: tau 1 or 1.5 best"] = bool(middle > max(clean[0.0].mean(), clean[2.0].mean()))

    def ahead(first: np.ndarray, second: np.ndarray) -> bool:
        return bool((first - second).mean() > stats.sem(first - second))

    results["noisy: tau 1.5 > 1 > 0"] = ahead(noisy[1.5], noisy[1.0]) and ahead(
        noisy[1.0], noisy[0.0]
    )
    return results


def bound(key: jax.Array, size: Size) -> dict[str, Any]:
    """Violations of T(zero-one regret) <= surrogate regret, and whether two labels attain it."""
    count, class_counts = (100_000, (2, 3, 5, 10)) if size == "full" else (1_000, (3,))
    violations, worst, attained = 0, -np.inf, 0.0

    @functools.partial(jax.jit, static_argnames="classes")
    def slack(key: jax.Array, tau: jax.Array, classes: int) -> jax.Array:
        draw, move, sharpen = jax.random.split(key, 3)
        rows = count // 5
        probs = jax.random.dirichlet(draw, jnp.full(classes, 0.5), (rows,), dtype=jnp.float64)
        scale = jax.random.uniform(sharpen, (rows, 1), jnp.float64, 0.1, 4.0)
        scores = scale * jax.random.normal(move, probs.shape, jnp.float64)
        chosen = jnp.take_along_axis(probs, scores.argmax(1)[:, None], 1)[:, 0]
        zero_one = probs.max(1) - chosen
        surrogate = comp_sum_conditional_risk(scores, probs, tau=tau)
        surrogate -= comp_sum_conditional_minimum(probs, tau=tau)
        return surrogate - h_consistency_transform(zero_one, tau=tau, num_classes=classes)

    with jax.enable_x64(True):
        for i, tau in enumerate(TAUS):
            for classes in class_counts:
                found = slack(jax.random.fold_in(key, 10 * i + classes), jnp.float64(tau), classes)
                violations += int((found < -1e-9).sum())
                worst = max(worst, float(-found.min()))
            gap = jnp.linspace(0.0, 0.99, 100)
            probs = jnp.stack([(1 - gap) / 2, (1 + gap) / 2], 1)
            tied = comp_sum_conditional_risk(jnp.zeros_like(probs), probs, tau=tau)
            tied -= comp_sum_conditional_minimum(probs, tau=tau)
            reached = h_consistency_transform(gap, tau=tau, num_classes=2)
            attained = max(attained, float(jnp.abs(tied - reached).max()))
    return {
        "violations of the bound": violations,
        "largest violation": worst,
        "distance from the bound for two labels": attained,
    }


def robust_training(key: jax.Array, size: Size) -> dict[str, Any]:
    """Clean and robust accuracy of ADV-COMP-SUM beside adversarial cross-entropy and TRADES."""
    seeds, epochs, attack_steps = (3, 40, 10) if size == "full" else (1, 2, 2)
    restarts, evaluation_steps = (3, 40) if size == "full" else (1, 5)
    x, labels = load_digits(return_X_y=True)
    rest_x, test_x, rest_labels, test_labels = train_test_split(
        (x / 16).astype(np.float32),
        labels.astype(np.int32),
        test_size=797,
        stratify=labels,
        random_state=0,
    )
    model = mlp((64, 128, 10))
    attack: dict[str, Any] = {"epsilon": EPSILON, "bounds": (0.0, 1.0)}

    def accuracy_under_attack(params: Any, x: Any, labels: Any, key: jax.Array) -> jax.Array:
        def margin(x: jax.Array) -> jax.Array:
            logits = model.apply(params, x)["logits"]
            own = jax.nn.one_hot(labels, 10, dtype=bool)
            return jnp.where(own, -jnp.inf, logits).max(1) - logits[own.nonzero(size=len(x))]

        moved = pgd_attack(
            key, margin, x, num_steps=evaluation_steps, num_restarts=restarts, **attack
        )
        return jnp.mean(margin(moved) < 0)

    def member(hyperparameters: dict[str, jax.Array], key: jax.Array) -> train.Run:
        order_key, init_key = jax.random.split(key)
        order = jax.random.permutation(order_key, len(rest_x))
        known = {"x": jnp.asarray(rest_x)[order], "labels": jnp.asarray(rest_labels)[order]}
        validation, training = (
            {name: rows[part] for name, rows in known.items()}
            for part in (slice(200), slice(200, None))
        )
        test = {"x": jnp.asarray(test_x), "labels": jnp.asarray(test_labels)}
        weight = hyperparameters["weight"]

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            x, labels = batch["x"], batch["labels"]

            def scores(x: jax.Array) -> jax.Array:
                return model.apply(params, x)["logits"]

            def cross_entropy(logits: jax.Array) -> jax.Array:
                return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)

            def adversarial() -> jax.Array:
                moved = pgd_attack(
                    key, lambda x: cross_entropy(scores(x)), x, num_steps=attack_steps, **attack
                )
                return cross_entropy(scores(moved))

            def trades() -> jax.Array:
                clean = jax.nn.log_softmax(scores(x))

                def divergence(x: jax.Array, clean: jax.Array) -> jax.Array:
                    moved = jax.nn.log_softmax(scores(x))
                    return optax.losses.kl_divergence_with_log_targets(moved, clean)

                fixed = jax.lax.stop_gradient(clean)
                moved = pgd_attack(
                    key, lambda x: divergence(x, fixed), x, num_steps=attack_steps, **attack
                )
                return cross_entropy(clean) + weight * divergence(moved, clean)

            def adv_comp_sum() -> jax.Array:
                return adv_comp_sum_objective(
                    key, scores, x, labels, nu=weight, num_steps=attack_steps, **attack
                )

            values = jax.lax.switch(hyperparameters["method"], [adversarial, trades, adv_comp_sum])
            return values.mean(), (state, {})

        def evaluate(params: Any, state: Any) -> dict[str, jax.Array]:
            clean = model.apply(params, test["x"])["logits"].argmax(1) == test["labels"]
            return {
                "clean": clean.mean(),
                "robust": accuracy_under_attack(params, test["x"], test["labels"], key),
                "validation": accuracy_under_attack(
                    params, validation["x"], validation["labels"], key
                ),
            }

        optimizer = optax.adamw(3e-3, weight_decay=5e-4)
        return train.Run(loss_fn, model.init(init_key), optimizer, training, evaluate=evaluate)

    kinds = {"cross-entropy": 0, "TRADES": 1, "ADV-COMP-SUM": 2}
    steps = epochs * (800 // 64)
    result = train.sweep(
        member,
        {
            "method": np.repeat([kinds[kind] for kind, _ in METHODS], seeds),
            "weight": np.repeat(np.array([w for _, w in METHODS], np.float32), seeds),
        },
        keys=jnp.tile(jax.random.split(key, seeds), len(METHODS)),
        steps=steps,
        batch_size=64,
        log_every=steps,
        progress=False,
    )
    last = {
        name: values[:, -1].reshape(len(METHODS), seeds).mean(1)
        for name, values in result.history["evaluate"].items()
        if name != "step"
    }
    results: dict[str, Any] = {"robust training": last}
    for kind in kinds:
        rows = [i for i, (name, _) in enumerate(METHODS) if name == kind]
        best = max(rows, key=lambda i: last["validation"][i])
        results[f"{kind}: weight"] = METHODS[best][1]
        results[f"{kind}: clean accuracy"] = float(last["clean"][best])
        results[f"{kind}: robust accuracy"] = float(last["robust"][best])
    return results


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    first, second, third = jax.random.split(key, 3)
    return {**accuracies(first, size), **bound(second, size), **robust_training(third, size)}


def holds(results: dict[str, Any]) -> bool:
    return (
        results["clean: tau 1 or 1.5 best"]
        and results["noisy: tau 1.5 > 1 > 0"]
        and results["violations of the bound"] == 0
        and results["distance from the bound for two labels"] < 1e-6
        and all(
            results[f"ADV-COMP-SUM: {kind} accuracy"] >= results[f"TRADES: {kind} accuracy"]
            for kind in ("clean", "robust")
        )
    )


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(11, 4), layout="constrained")
    taus, robust = figure.subplots(1, 2)
    for name in ("clean", "noisy"):
        scores = np.asarray(results[f"{name} accuracy"])
        error = scores.std(1, ddof=1) / np.sqrt(scores.shape[1])
        taus.errorbar(TAUS, scores.mean(1), yerr=error, fmt="o-", capsize=4, label=name)
    taus.set(xlabel="tau", ylabel="test accuracy", title="digits, clean and 40% noisy labels")
    taus.legend()
    last = results["robust training"]
    for kind, colour in (("TRADES", "tab:orange"), ("ADV-COMP-SUM", "tab:blue")):
        rows = [i for i, (name, _) in enumerate(METHODS) if name == kind]
        weights = [METHODS[i][1] for i in rows]
        robust.plot(weights, last["robust"][rows], "o-", color=colour, label=f"{kind}, attacked")
        robust.plot(weights, last["clean"][rows], "o:", color=colour, label=f"{kind}, clean")
    robust.axhline(last["robust"][0], color="0.5", label="adversarial cross-entropy, attacked")
    robust.set(
        xscale="log",
        xlabel="weight of the drift (beta, nu)",
        ylabel="test accuracy",
        title=f"attacks within an l-infinity ball of {EPSILON:g}",
    )
    robust.legend(fontsize=8)
    return figure


EXPERIMENT = Experiment(
    paper="comp-sum",
    claim="tau = 1 or 1.5 is more accurate than tau = 0 and 2 with clean labels, 1.5 beats 1 beats "
    "0 under 40% label noise; the H-consistency bound is never violated and tight for two labels; "
    "ADV-COMP-SUM is at least as accurate as TRADES, clean and attacked",
    run=run,
    holds=holds,
    plot=plot,
    reported={
        "clean: tau 1": "0.926 (CIFAR-10)",
        "violations of the bound": "0 (theorem)",
        "ADV-COMP-SUM: robust accuracy": "above TRADES (CIFAR-10, CIFAR-100, SVHN)",
    },
    remark="The theorem and the noisy ranking hold. With clean labels digits are nearly solved by "
    "every tau, whose order is within the seeds' spread. In robust training of this small network "
    "TRADES is some points ahead at the best weights, and nu >= 1, the paper's default, flattens "
    "the scores: a matter of scale and setting, since the loss, its bound and its attack agree "
    "with brute force in the tests.",
)
