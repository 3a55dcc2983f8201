"""Many trainings as one program: over seeds and hyper-parameters, in chunks, over devices."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, PartitionSpec

from lossbench._typing import AnyArray, Key, PRNGKey, UInt32, typed
from lossbench.train import _checks
from lossbench.train.loop import (
    Carry,
    Program,
    Run,
    advance,
    begin,
    chunk_ends,
    default_log_every,
)
from lossbench.train.progress import progress_bar
from lossbench.train.sharding import check_mesh, constrain, place

PRNGKeys = Key[jax.Array, " members"] | UInt32[AnyArray, "members 2"]


class SweepResult(NamedTuple):
    """What `sweep` returns; every array has the members along its leading axis.

    Attributes:
        params: the trained parameters.
        opt_state: the optimiser's state.
        state: the loss's state.
        history: as in `FitResult`, as numpy arrays.
        diverged: `(members,)`, the step (counted from 0) whose loss, gradient or new parameters
            were not finite and at which the member froze, or -1.
    """

    params: Any
    opt_state: Any
    history: dict[str, dict[str, np.ndarray]]
    state: Any
    diverged: np.ndarray


class _Plan(NamedTuple):
    """The static part of a sweep: with `member` it fixes the compilation."""

    steps: int
    batch_size: int
    log_every: int
    vectorize: bool
    mesh: Mesh | None


@typed
def sweep(
    member: Callable[..., Run],
    hyperparameters: Any,
    *,
    key: PRNGKey | None = None,
    keys: PRNGKeys | None = None,
    steps: int,
    batch_size: int,
    log_every: int | None = None,
    chunk_size: int | None = None,
    vectorize: bool | None = None,
    mesh: Mesh | None = None,
    progress: bool | None = None,
) -> SweepResult:
    """Train `member(hyperparameters, key)` for each row of hyper-parameters, as one program.

    Member i is what `fit(*member(hyperparameters[i], keys[i]), key=keys[i], ...)` trains, by the
    same inner loop: the same numbers to rounding, and without `vectorize` bit by bit, unless XLA
    folds hyper-parameters that are constants there into other constants. `member` is traced once,
    so hyper-parameters of the loss and of the optimiser (`optax.adam(h["rate"])`) may vary
    together, and its parameters, data and noise may come from its key; arrays that it closes over
    are shared by all members. A second call with the same `member` object, the same shapes and
    settings compiles nothing.

    A member that diverges freezes at its last finite step and leaves the others alone.

    Args:
        member: `(hyperparameters, key) -> Run`, with data as arrays (no host batches).
        hyperparameters: pytree of arrays with the members along the leading axis.
        key: split into one key a member; or give `keys`.
        keys: `(members,)` keys, one a member.
        steps: optimiser steps of each member.
        batch_size: examples a step.
        log_every: steps a logging chunk; `evaluate` runs at its end. The last chunk costs as much
            as a whole one, so best a divisor of `steps`. By default a twentieth of `steps`, at
            most 1000.
        chunk_size: members trained at a time, to bound memory; the last chunk is padded, so that
            it is the same program. By default all.
        vectorize: True trains the members of a chunk side by side (`vmap`), False one after the
            other (`lax.map`: as fast on CPU, and less memory). By default False on CPU only.
        mesh: spread the members over all its devices (`make_mesh`).
        progress: show a bar over the chunks; by default on a terminal, for long sweeps.

    Raises:
        ValueError: unequal leading axes, neither or both of `key` and `keys`, counts below 1.
        TypeError: `member` or its `loss_fn` returns something else than expected.

    >>> import jax, optax
    >>> import jax.numpy as jnp
    >>> def member(h, key):
    ...     def loss_fn(w, state, batch, key):
    ...         return ((w - batch["x"]) ** 2).mean(), (state, {})
    ...     return Run(loss_fn, jnp.zeros(()), optax.sgd(h["rate"]), {"x": jnp.ones(4)})
    >>> rates = {"rate": jnp.array([0.1, 0.5])}
    >>> sweep(member, rates, key=jax.random.key(0), steps=1, batch_size=4).params.tolist()
    [0.20000000298023224, 1.0]
    """
    log_every = default_log_every(steps) if log_every is None else log_every
    _checks.check_counts(
        steps=steps, batch_size=batch_size, log_every=log_every, chunk_size=chunk_size
    )
    check_mesh(mesh)
    members = _checks.check_rows({"hyperparameters": hyperparameters}, "hyperparameters")
    if key is not None and keys is None:
        keys = jax.random.split(key, members)
    elif keys is None or key is not None:
        raise ValueError("sweep takes either key or keys")
    if len(keys) != members:
        raise ValueError(f"keys has {len(keys)} members, hyperparameters {members}")

    if vectorize is None:
        vectorize = (mesh.devices.flat[0].platform if mesh else jax.default_backend()) != "cpu"
    plan = _Plan(steps, batch_size, min(log_every, steps), vectorize, mesh)
    devices = 1 if mesh is None else mesh.size
    width = min(chunk_size or members, members)
    width = -(-width // devices) * devices

    chunks = []
    with progress_bar(members, "members", enabled=progress) as update:
        for start in range(0, members, width):
            # The last member fills the padding: a value that trains without surprises.
            rows = np.minimum(np.arange(start, start + width), members - 1)
            chosen = jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], hyperparameters)
            chunks.append(_train_members(member, plan, *place((chosen, keys[rows]), mesh)))
            if len(chunks) * width < members:
                jax.block_until_ready(chunks[-1])
            update(min(start + width, members))
    carry, history = jax.tree.map(lambda *x: jnp.concatenate(x)[:members], *chunks)
    history, diverged = jax.device_get((history, carry.diverged))
    return SweepResult(carry.params, carry.opt_state, history, carry.state, diverged)


@partial(jax.jit, static_argnames=("member", "plan"))
def _train_members(
    member: Callable[..., Run], plan: _Plan, hyperparameters: Any, keys: jax.Array
) -> tuple[Carry, dict[str, dict[str, jax.Array]]]:
    """Train a chunk of members side by side or one after the other, on one or many devices."""
    train = partial(_train_member, member, plan)
    over = jax.vmap(train) if plan.vectorize else partial(_map, train)
    if plan.mesh is None:
        return over(hyperparameters, keys)
    spec = PartitionSpec(plan.mesh.axis_names)
    over = jax.shard_map(over, mesh=plan.mesh, in_specs=spec, out_specs=spec, check_vma=False)
    carry, history = over(hyperparameters, keys)
    # What the host reads must be whole in each process.
    history, diverged = constrain((history, carry.diverged), plan.mesh)
    return carry._replace(diverged=diverged), history


def _map(train: Callable[..., Any], hyperparameters: Any, keys: jax.Array) -> Any:
    return lax.map(lambda row: train(*row), (hyperparameters, keys))


def _train_member(
    member: Callable[..., Run], plan: _Plan, hyperparameters: Any, key: jax.Array
) -> tuple[Carry, dict[str, dict[str, jax.Array]]]:
    """Train one member from its first step to its last: `fit` without the host."""
    run = member(hyperparameters, key)
    if not isinstance(run, Run):
        raise TypeError(f"member must return a lossbench.train.Run, got {type(run).__name__}")
    _checks.check_data(run.data, plan.batch_size)
    data = jax.tree.map(jnp.asarray, run.data)
    program = Program(run.loss_fn, run.optimizer, run.evaluate, plan.batch_size, plan.log_every)
    carry = begin(program, run.params, run.state)
    batch = _checks.batch_shapes({**data, "index": jnp.arange(1)}, plan.batch_size)
    _checks.log_shapes(program, carry, batch, key)

    def chunk(carry: Carry, start: jax.Array) -> tuple[Carry, Any]:
        carry, log, evaluated = advance(program, carry, data, key, start, plan.steps)
        return carry, (log, evaluated)

    ends = jnp.array(chunk_ends(plan.steps, plan.log_every), jnp.int32)
    starts = jnp.arange(len(ends), dtype=jnp.int32) * plan.log_every
    carry, (log, evaluated) = lax.scan(chunk, carry, starts)
    train = {name: x.reshape(-1)[: plan.steps] for name, x in log.items()}
    return carry, {"train": train, "evaluate": {"step": ends, **evaluated}}
