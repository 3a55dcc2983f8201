"""One training: a Python loop over compiled logging chunks, which can stop and be resumed."""

import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from lossbench._typing import PRNGKey, typed
from lossbench.train import _checks
from lossbench.train._checks import Shapes
from lossbench.train.checkpoint import open_checkpoint
from lossbench.train.loop import (
    Carry,
    Log,
    Program,
    advance,
    begin,
    chunk_ends,
    default_log_every,
    evaluate_chunk,
    streams,
    train_step,
)
from lossbench.train.progress import progress_bar
from lossbench.train.sharding import check_mesh, constrain, place, place_rows

History = dict[str, dict[str, np.ndarray]]


class FitResult(NamedTuple):
    """What `fit` returns.

    Attributes:
        params: the trained parameters.
        opt_state: the optimiser's state.
        history: numpy arrays of fixed length, NaN where not reached:
            `history["train"]` holds "loss" and each of the loss's metrics, `(steps,)`;
            `history["evaluate"]` holds "step", the number of steps done at the end of each logging
            chunk, and each value of `evaluate` there, `(chunks,)`, of the last finite
            parameters where the run has diverged.
        state: the loss's state.
    """

    params: Any
    opt_state: Any
    history: History
    state: Any


class Diverged(RuntimeError):
    """The loss, its gradient or the new parameters were not finite.

    Attributes:
        result: the `FitResult` of the steps before, frozen at the last finite one; the history
            still shows the loss of the step that failed.
        step: that step, counted from 0: `result.history["train"]["loss"][step]` is its loss.
    """

    def __init__(self, result: FitResult, step: int) -> None:
        loss = result.history["train"]["loss"][step]
        super().__init__(
            f"training diverged at step {step} (counted from 0): the loss was {loss}, and it, its "
            "gradient or the new parameters are not finite; .result holds what stood before"
        )
        self.result, self.step = result, step


class DataEnded(RuntimeError):
    """The iterator of host batches ended before the last step.

    Attributes:
        result: the `FitResult` of the steps done.
        step: how many those are.
    """

    def __init__(self, result: FitResult, step: int, steps: int) -> None:
        super().__init__(
            f"the host batches ended after {step} of {steps} steps; .result holds what was done"
        )
        self.result, self.step = result, step


@typed
def fit(
    loss_fn: Callable[..., Any],
    params: Any,
    optimizer: optax.GradientTransformation,
    data: Any,
    state: Any = None,
    evaluate: Callable[..., Any] | None = None,
    *,
    key: PRNGKey,
    steps: int,
    batch_size: int,
    log_every: int | None = None,
    mesh: Mesh | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: int | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Minimise `loss_fn` over `params` by `steps` steps of `optimizer`.

    Each epoch is a fresh permutation of the examples, cut into whole batches (a last partial batch
    is dropped), drawn inside jit from `key`; each logging chunk is one compiled scan, the same for
    all chunks. A second call with the same function objects and shapes compiles nothing.

    With a mesh the batch is split over its "batch" axis and the parameters stand on every device;
    the numbers are those of one device to rounding. With several processes, each calls `fit` with
    the same arguments.

    Args:
        loss_fn: `(params, state, batch, key) -> (loss, (state, metrics))`, with a scalar loss, the
            state as it came (same structure, shapes, dtypes) and a dict of scalar metrics. The
            batch holds the rows of `data` and "index", their positions in it.
        params: the pytree of floating-point arrays to train; never donated, so it may be used
            again.
        optimizer: any `optax.GradientTransformation`; it is also handed `value`, `grad` and
            `value_fn`, so that line searches (`optax.lbfgs`) work.
        data: dict of arrays (or pytrees of them) with the examples along the leading axis, put on
            the devices whole. Or a function `batches(start_step)` for data that does not fit: an
            iterator over the batches from that step on, dicts of numpy arrays of `batch_size` rows
            with "index" among them (with several processes, each yields its own share of the
            rows). While a step runs, the next batch is fetched. A resumed run asks for the step
            where it stopped.
        state: what the loss carries from step to step: moving averages, queues, dual variables.
        evaluate: `(params, state) -> dict of scalars`, run at the end of each logging chunk.
        key: draws the order of the examples and the keys that `loss_fn` receives.
        steps: optimiser steps in all.
        batch_size: examples a step (of all processes together).
        log_every: steps a logging chunk, by default a twentieth of `steps`, at most 1000. The last
            chunk costs as much as a whole one, so best a divisor of `steps`.
        mesh: devices to train on (`make_mesh`).
        checkpoint: directory that keeps the run: called again after any interruption, it goes on
            from there and ends bit by bit as if it had never stopped; called again after the end,
            it returns at once. Needs orbax (`pip install 'lossbench[bench]'`).
        checkpoint_every: steps between saves, rounded up to chunk ends; by default each chunk.
        progress: show a bar; by default on a terminal, for runs of more than two seconds.

    Raises:
        Diverged: something was not finite. What was done stays in `.result` and in the checkpoint.
        DataEnded: the host batches ended early; likewise.
        CheckpointError: the directory is not this run's, or damaged. Nothing in it is touched.
        ValueError: counts below 1, data without a common leading axis or smaller than a batch.
        TypeError: `loss_fn` or `evaluate` returns something else than expected.

    >>> import jax.numpy as jnp
    >>> def loss_fn(w, state, batch, key):
    ...     return ((w - batch["x"]) ** 2).mean(), (state, {})
    >>> fit(loss_fn, jnp.zeros(()), optax.sgd(0.5), {"x": jnp.ones(4)}, key=jax.random.key(0),
    ...     steps=1, batch_size=4).params.item()
    1.0
    """
    log_every = default_log_every(steps) if log_every is None else log_every
    _checks.check_counts(
        steps=steps, batch_size=batch_size, log_every=log_every, checkpoint_every=checkpoint_every
    )
    check_mesh(mesh, batch_size)
    log_every = min(log_every, steps)
    program = Program(loss_fn, optimizer, evaluate, batch_size, log_every, mesh)
    carry: Carry = jax.eval_shape(partial(begin, program), params, state)

    with open_checkpoint(checkpoint) as store:
        done = store.latest if store else 0
        if callable(data):
            batch, train_chunk = _host_chunks(program, data, key, min(done, steps - 1))
        else:
            batch, train_chunk = _device_chunks(program, data, key)
        history = _empty_history(program, steps, *_checks.log_shapes(program, carry, batch, key))
        if store:
            store.claim(_describe(program, steps, key, carry, history, data))
        if store and done:
            carry, history = store.restore((carry, history), mesh)
        else:
            carry = _begin(program, *place((params, state), mesh))

        every = checkpoint_every or log_every
        due = [*range(every, steps, every), steps]
        saves = {min(-(-step // log_every) * log_every, steps) for step in due}
        failed = int(carry.diverged)
        with progress_bar(steps, "steps", enabled=progress) as update:
            while done < steps and failed < 0:
                chunk, start = done // log_every, done
                stop = min((chunk + 1) * log_every, steps)
                carry, log, evaluated = train_chunk(carry, start, stop)
                done = start + len(log["loss"]) if log else start
                failed = int(carry.diverged)
                _write(history["train"], log, slice(start, done))
                if done == stop:
                    _write(history["evaluate"], evaluated, chunk)
                if store and start < done and (failed >= 0 or done in saves or done < stop):
                    store.save(done, (carry, jax.tree.map(np.copy, history)))
                if done < stop and failed < 0:
                    raise DataEnded(_result(carry, history), done, steps)
                update(done, loss=log["loss"][-1])
    result = _result(carry, history)
    if failed >= 0:
        raise Diverged(result, failed)
    return result


Chunk = Callable[[Carry, int, int], tuple[Carry, dict[str, np.ndarray], Log]]
"""Train from one step to another and return the carry, what each step logged, the evaluation."""


def _device_chunks(program: Program, data: Any, key: PRNGKey) -> tuple[Any, Chunk]:
    """Return the shapes of a batch and how to train a chunk on data that stands on the devices."""
    _checks.check_data(data, program.batch_size)
    data, key = place((data, key), program.mesh)
    batch = _checks.batch_shapes({**data, "index": np.zeros(1, np.int32)}, program.batch_size)

    def train(carry: Carry, start: int, stop: int) -> tuple[Carry, dict[str, np.ndarray], Log]:
        steps = np.int32(start), np.int32(stop)
        carry, log, evaluated = _advance(program, carry, data, key, *steps)
        log = {name: x[: stop - start] for name, x in jax.device_get(log).items()}
        return carry, log, evaluated

    return batch, train


def _host_chunks(
    program: Program, batches: Callable[[int], Iterator[Any]], key: PRNGKey, start: int
) -> tuple[Any, Chunk]:
    """The same for host batches from step `start` on."""
    mesh = program.mesh
    rows = program.batch_size // (
        1 if mesh is None else len({d.process_index for d in mesh.devices.flat})
    )
    iterator = iter(batches(start))
    first = next(iterator, None)
    if first is None:
        raise ValueError(f"batches({start}) yielded no batch")
    _checks.check_batch(first, rows)
    key = place(key, mesh)
    pending = itertools.chain([first], iterator)

    def train(carry: Carry, start: int, stop: int) -> tuple[Carry, dict[str, np.ndarray], Log]:
        logs: list[Log] = []
        for step, batch in zip(range(start, stop), pending, strict=False):
            _checks.check_batch(batch, rows)
            batch = place_rows(batch, mesh, program.batch_size)
            carry, log = _step(program, carry, batch, key, np.int32(step))
            logs.append(log)
            # Dispatch runs ahead of the devices, so the next batch is fetched while they work; but
            # not further, or the queue would hold the whole chunk.
            jax.block_until_ready(logs[-2:][0])
        fetched = jax.device_get(logs)
        log = {name: np.array([x[name] for x in fetched]) for name in (logs[0] if logs else ())}
        return carry, log, _evaluate(program, carry)

    return _checks.batch_shapes(first, program.batch_size), train


_begin = jax.jit(begin, static_argnums=0)
_advance = jax.jit(advance, static_argnums=0, donate_argnums=1)
_evaluate = jax.jit(evaluate_chunk, static_argnums=0)


@partial(jax.jit, static_argnums=0, donate_argnums=1)
def _step(
    program: Program, carry: Carry, batch: Any, key: PRNGKey, step: jax.Array
) -> tuple[Carry, Log]:
    out = train_step(program, carry, batch, streams(key)[1], step, step + 1)
    return constrain(out, program.mesh)


def _empty_history(program: Program, steps: int, train: Shapes, evaluated: Shapes) -> History:
    ends = np.array(chunk_ends(steps, program.log_every), np.int32)

    def empty(shapes: Shapes, length: int) -> dict[str, np.ndarray]:
        return {
            name: np.full(length, np.nan, jnp.promote_types(x.dtype, jnp.float32))
            for name, x in shapes.items()
        }

    return {
        "train": empty(train, steps),
        "evaluate": {"step": ends, **empty(evaluated, len(ends))},
    }


def _write(history: dict[str, np.ndarray], log: Mapping[str, Any], where: slice | int) -> None:
    for name, values in log.items():
        history[name][where] = values


def _describe(
    program: Program, steps: int, key: PRNGKey, carry: Carry, history: History, data: Any
) -> dict[str, Any]:
    """Return what makes a run this run and no other, in words that an error can show."""

    def leaves(tree: Any) -> dict[str, str]:
        pairs = jax.tree_util.tree_leaves_with_path(tree)
        return {jax.tree_util.keystr(path): _checks.describe_array(x) for path, x in pairs}

    return {
        "steps": steps,
        "batch_size": program.batch_size,
        "log_every": program.log_every,
        "key": np.asarray(jax.random.key_data(key)).tolist(),
        "data": "host batches" if callable(data) else leaves(data),
        "carry": leaves(carry),
        "history": leaves(history),
    }


def _result(carry: Carry, history: History) -> FitResult:
    return FitResult(carry.params, carry.opt_state, history, carry.state)
