"""Losses head to head on a task: the same tuning budget for each, then many seeds for the winner.

All runs of all losses share one compiled program, called on blocks of a fixed number of runs.
"""

import contextlib
import functools
import os
import pathlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from lossbench import train
from lossbench.bench.comparison import Comparison, LossResult, environment
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.journal import Journal
from lossbench.bench.losses import Loss, resolve
from lossbench.bench.tasks import Task
from lossbench.train.progress import progress_bar

EVALUATIONS = 20
"""Points of a curve."""


def compare(
    task: Task,
    losses: Mapping[str, Callable | str] | Iterable[str],
    *,
    seeds: int = 10,
    tune: int = 12,
    tune_seeds: int = 2,
    grid: Mapping[str, Mapping[str, Any]] | None = None,
    baseline: str | None = None,
    steps: int | None = None,
    batch_size: int | None = None,
    key: jax.Array | int = 0,
    out: str | pathlib.Path | None = None,
    mesh: jax.sharding.Mesh | None = None,
    progress: bool | None = None,
) -> Comparison:
    """Train `task`'s model with each of `losses` and return the table.

    Each loss gets `tune` settings of its hyper-parameters (`grid`, or the bench's own) and the
    learning rate, each tried on `tune_seeds` seeds and judged by the task's objective on the
    validation split at the last step. The winner is trained anew on `seeds` other seeds, the same
    for every loss, and measured on the test split. `losses` are names, or a mapping from a name to
    a function of what the task offers: `{"mine": my_loss, "cross_entropy": "cross_entropy"}`.

    Training is Adam with a cosine schedule and gradients clipped to norm 1. A run whose loss is no
    longer finite keeps its last finite parameters and counts as diverged. `baseline` is the loss
    that the paired test compares with (default: cross_entropy if it is there, else the first).

    With `out`, finished runs are kept there as they come: called again after an interruption, with
    the same arguments, `compare` goes on from them. `mesh` spreads the runs over its devices; with
    several processes each calls `compare` alike, and the first writes.

    Raises `ValueError` for a loss that asks for what the task does not offer.
    """
    start = time.perf_counter()
    resolved = resolve(losses, grid, task.fixed)
    names = [loss.name for loss in resolved]
    baseline = baseline or ("cross_entropy" if "cross_entropy" in names else names[0])
    if baseline not in names:
        raise UnknownNameError("baseline", baseline, names)
    for argument, value in {"seeds": seeds, "tune": tune, "tune_seeds": tune_seeds}.items():
        if value < 1:
            raise UsageError(f"{argument} must be at least 1, got {value}")
    _check_fits(task, resolved)
    steps, batch_size = steps or task.steps, batch_size or task.batch_size
    base_key = jax.random.key(key) if isinstance(key, int) else key
    configurations = {
        loss.name: loss.configurations(tune, task.learning_rates) for loss in resolved
    }
    settings = {
        "seeds": seeds,
        "tuning runs per loss": tune * tune_seeds,
        "settings tried per loss": tune,
        "steps": steps,
        "batch size": batch_size,
        "learning rates": list(task.learning_rates),
        "key": np.asarray(jax.random.key_data(base_key)).tolist(),
    }
    journal = Journal(
        out,
        {
            "task": task.name,
            "task settings": dict(task.settings),
            "losses": {loss.name: loss.identity for loss in resolved},
            **settings,
            "tune_seeds": tune_seeds,
        },
    )
    width = max([1, *(len(loss.grid) for loss in resolved)])
    on_cpu = mesh is None and jax.default_backend() == "cpu"
    workers = os.cpu_count() or 1 if on_cpu else 1
    block = _block_size([tune * tune_seeds, seeds], mesh, workers)
    run_block = functools.partial(
        train.sweep,
        _member(task, resolved, steps),
        steps=steps,
        batch_size=batch_size,
        log_every=max(1, steps // EVALUATIONS),
        mesh=mesh,
        progress=False,
    )

    done = 0

    def runs(loss: int, phase: int, members: list[tuple[dict, int]]) -> list[dict]:
        """Train (configuration, seed) members of one loss, block by block, unless on record."""

        def block_of(first: int) -> list[dict]:
            record = journal.get(names[loss], phase, first)
            if record is not None:
                return record
            chunk = members[first : first + block]
            return _records(run_block, base_key, loss, phase, chunk, block, width)

        nonlocal done
        records = []
        firsts = range(0, len(members), block)
        for first, record in zip(firsts, _in_threads(block_of, firsts, workers), strict=True):
            journal.add(names[loss], phase, first, record)
            records += record
            done += len(record)
            update(done, names[loss])
        return records

    results = {}
    total = len(resolved) * (tune * tune_seeds + seeds)
    title = f"compiling one program for {len(resolved)} losses"
    with (
        contextlib.closing(journal),
        progress_bar(total, "runs", title=title, enabled=progress, patience=0) as update,
    ):
        for index, loss in enumerate(resolved):
            settings_tried = configurations[loss.name]
            members = [(setting, seed) for setting in settings_tried for seed in range(tune_seeds)]
            tuned = runs(index, 0, members)
            chosen = _choose(tuned, task, tune_seeds)
            final = runs(index, 1, [(settings_tried[chosen], seed) for seed in range(seeds)])
            results[loss.name] = LossResult(
                chosen=settings_tried[chosen],
                fixed={name: str(value) for name, value in loss.fixed.items()},
                tuning=[
                    {
                        "setting": setting,
                        "validation": [r["validation"][task.objective][-1] for r in tried],
                        "diverged": [r["diverged"] for r in tried],
                    }
                    for setting, tried in zip(
                        settings_tried, _grouped(tuned, tune_seeds), strict=True
                    )
                ],
                evaluated_at=final[0]["evaluated_at"],
                train_loss=[r["loss"] for r in final],
                validation={m: [r["validation"][m] for r in final] for m in task.metrics},
                test={m: [r["test"][m] for r in final] for m in task.metrics},
                diverged=[r["diverged"] for r in final],
            )
    comparison = Comparison(
        task=task.name,
        description=task.description,
        task_settings=dict(task.settings),
        objective=task.objective,
        minimized=list(task.minimized),
        baseline=baseline,
        settings=settings,
        results=results,
        environment=environment(),
        seconds=time.perf_counter() - start,
    )
    if out is not None and jax.process_index() == 0:
        comparison.save(out)
    return comparison


def _check_fits(task: Task, losses: list[Loss]) -> None:
    """Trace each loss alone on the task's outputs, so that an error names its loss."""

    def offered(key: jax.Array) -> dict[str, jax.Array]:
        batch = jax.tree.map(lambda x: x[: task.batch_size], task.splits(key)["train"])
        return task.outputs(task.init(key), batch, key)

    outputs = jax.eval_shape(offered, jax.random.key(0))
    for loss in losses:
        missing = [name for name in loss.takes if name not in outputs]
        if missing:
            raise UsageError(
                f"loss {loss.name!r} takes ({', '.join(loss.takes)}), but task {task.name!r} "
                f"offers ({', '.join(sorted(outputs))})"
            )
        first = {name: values[0] for name, values in loss.grid.items()}
        try:
            value = jax.eval_shape(loss, outputs, first)
        except Exception as error:  # whatever a loss raises goes on, with its name
            error.add_note(f"raised while tracing loss {loss.name!r} on task {task.name!r}")
            raise
        if not isinstance(value, jax.ShapeDtypeStruct) or not jnp.issubdtype(
            value.dtype, jnp.floating
        ):
            raise UsageError(f"loss {loss.name!r} must return one array of floats, got {value}")


def _member(task: Task, losses: list[Loss], steps: int) -> Callable:
    """Return the training of one member of the sweep: one loss, one setting, one seed."""

    def branch(loss: Loss) -> Callable:
        def value(outputs: dict[str, jax.Array], hyperparameters: jax.Array) -> jax.Array:
            traced = {name: hyperparameters[i] for i, name in enumerate(loss.grid)}
            return jnp.mean(loss(outputs, traced)).astype(jnp.float32)

        return value

    branches = [branch(loss) for loss in losses]
    decay = optax.cosine_decay_schedule(1.0, steps, alpha=0.01)

    def member(hyperparameters: dict[str, jax.Array], key: jax.Array) -> train.Run:
        split_key, init_key, metric_key = jax.random.split(key, 3)
        splits = task.splits(split_key)

        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            outputs = task.outputs(params, batch, key)
            loss = jax.lax.switch(
                hyperparameters["loss"], branches, outputs, hyperparameters["values"]
            )
            if task.base_loss is not None:
                loss = loss + task.base_loss(outputs)
            return loss, (state, {})

        def evaluate(params: Any, state: Any) -> dict[str, jax.Array]:
            return {
                f"{split}/{name}": metric(task.outputs(params, splits[split], metric_key))
                for split in ("validation", "test")
                for name, metric in task.metrics.items()
            }

        optimizer = optax.chain(
            optax.clip_by_global_norm(1.0),
            optax.scale_by_adam(),
            # The schedule is a constant of the program; the learning rate is traced.
            optax.scale_by_schedule(decay),
            optax.scale(-hyperparameters["learning_rate"]),
        )
        return train.Run(
            loss_fn, task.init(init_key), optimizer, splits["train"], evaluate=evaluate
        )

    return member


def _block_size(counts: list[int], mesh: jax.sharding.Mesh | None, workers: int) -> int:
    """Return the runs per compiled call: the size that ends first, the larger one on a tie.

    One worker is an accelerator, which takes all runs of a phase side by side. On CPU each of
    several workers trains its blocks one run after the other, and blocks are short, so that little
    is lost by an interruption.
    """
    devices = 1 if mesh is None else mesh.size
    if workers == 1:
        return -(-max(counts) // devices) * devices
    sizes = range(min(4, max(counts)), 1 + min(16, max(counts)))
    return min(
        sizes, key=lambda size: (sum(-(-n // (size * workers)) * size for n in counts), -size)
    )


def _in_threads(work: Callable[[int], Any], items: Iterable[int], workers: int) -> Iterator[Any]:
    """Yield `work(item)` in order, `workers` at a time; the first alone, since it may compile.

    A compiled CPU program leaves the interpreter free, and small ones use a single core.
    """
    first, *rest = items
    yield work(first)
    pool = ThreadPoolExecutor(workers)
    try:
        yield from pool.map(work, rest)
    finally:
        pool.shutdown(cancel_futures=True)


def _records(
    run_block: Callable,
    base_key: jax.Array,
    loss: int,
    phase: int,
    members: list[tuple[dict, int]],
    block: int,
    width: int,
) -> list[dict]:
    """Train one block of runs, padded to `block`, and return a JSON-ready record of each run."""
    padded = members + members[-1:] * (block - len(members))
    values = np.zeros((block, width), np.float32)
    for row, (setting, _) in enumerate(padded):
        searched = list(setting.values())[1:]  # the learning rate comes first
        values[row, : len(searched)] = searched
    phase_key = jax.random.fold_in(base_key, phase)  # tuning and final seeds differ
    result = run_block(
        {
            "loss": np.full(block, loss, np.int32),
            "values": values,
            "learning_rate": np.array([s["learning_rate"] for s, _ in padded], np.float32),
        },
        keys=jax.vmap(jax.random.fold_in, (None, 0))(
            phase_key, np.array([seed for _, seed in padded], np.uint32)
        ),
    )
    history, diverged = jax.device_get((result.history, result.diverged))
    evaluated = history["evaluate"]
    steps = evaluated["step"].reshape(-1, evaluated["step"].shape[-1])[0]
    records = []
    for row in range(len(members)):
        loss_curve = history["train"]["loss"][row]
        record: dict[str, Any] = {
            "evaluated_at": steps.tolist(),
            "loss": [
                _number(part.mean())
                for part in np.split(loss_curve, np.minimum(steps, len(loss_curve)))[:-1]
            ],
            "diverged": int(diverged[row]),
        }
        for name, curve in evaluated.items():
            split, _, metric = name.partition("/")
            if metric:
                record.setdefault(split, {})[metric] = [_number(v) for v in curve[row]]
        records.append(record)
    return records


def _number(value: Any) -> float | None:
    """Return a float that JSON can hold: None for what is not finite."""
    return float(value) if np.isfinite(value) else None


def _grouped(records: list[dict], size: int) -> list[list[dict]]:
    return [records[i : i + size] for i in range(0, len(records), size)]


def _choose(tuned: list[dict], task: Task, tune_seeds: int) -> int:
    """Return the setting with the best mean validation score; a diverged one only if all did."""
    sign = -1 if task.objective in task.minimized else 1

    def score(tried: list[dict]) -> tuple[bool, float]:
        finals = [r["validation"][task.objective][-1] for r in tried]
        finite = [-np.inf if value is None else sign * value for value in finals]
        return all(r["diverged"] < 0 for r in tried), float(np.mean(finite))

    scores = [score(tried) for tried in _grouped(tuned, tune_seeds)]
    return max(range(len(scores)), key=scores.__getitem__)
