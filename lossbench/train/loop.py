"""The training loop inside jit: one step, one logging chunk, the order of the examples."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jax.sharding import Mesh

from lossbench._typing import PRNGKey
from lossbench.train.sharding import constrain, constrain_rows

# Folded into the key first, so that the loop's keys differ from those a caller splits off the same
# key (a member of a sweep draws its parameters from it).
_STREAM = 0x6C6F7373

Log = dict[str, jax.Array]
"""What a step or an evaluation records: scalars by name."""

Count = jax.Array | int
"""A step, traced or not."""


class Run(NamedTuple):
    """What one training needs: the arguments of `fit` as one value.

    Attributes:
        loss_fn: `(params, state, batch, key) -> (loss, (state, metrics))`.
        params: the pytree that is trained.
        optimizer: any `optax.GradientTransformation`.
        data: dict of arrays with the examples along the leading axis.
        state: what `loss_fn` carries from step to step, any pytree.
        evaluate: `(params, state) -> dict of scalars`, run at the end of each logging chunk.
    """

    loss_fn: Callable[..., Any]
    params: Any
    optimizer: optax.GradientTransformation
    data: Any
    state: Any = None
    evaluate: Callable[..., Any] | None = None


class Program(NamedTuple):
    """What fixes a compilation; hashable, unless it was made inside a trace."""

    loss_fn: Callable[..., Any]
    optimizer: optax.GradientTransformation
    evaluate: Callable[..., Any] | None
    batch_size: int
    log_every: int
    mesh: Mesh | None = None


class Carry(NamedTuple):
    """What goes from step to step; `diverged` is the step that was not finite, or -1."""

    params: Any
    opt_state: Any
    state: Any
    diverged: jax.Array


def begin(program: Program, params: Any, state: Any) -> Carry:
    """Return the carry before step 0, in buffers of its own: a donation must not eat the caller's.

    Weak types are dropped, else the second step would be another program than the first.
    """
    params, state = jax.tree.map(_strong, (params, state))
    opt_state = jax.tree.map(_strong, program.optimizer.init(params))
    carry = jax.tree.map(jnp.copy, Carry(params, opt_state, state, jnp.int32(-1)))
    return constrain(carry, program.mesh)


def _strong(x: Any) -> jax.Array:
    x = jnp.asarray(x)
    return _cast(x, x.dtype)


def _cast(x: jax.Array, dtype: Any) -> jax.Array:
    """Cast and drop a weak type; random keys have only one."""
    return x if jnp.issubdtype(dtype, jax.dtypes.prng_key) else x.astype(dtype)


def streams(key: PRNGKey) -> tuple[jax.Array, jax.Array]:
    """Split the run's key into that of the epoch orders and that of the loss."""
    order_key, loss_key = jax.random.split(jax.random.fold_in(key, _STREAM))
    return order_key, loss_key


def chunk_indices(
    order_key: PRNGKey, rows: int, batch_size: int, start: Count, length: int
) -> jax.Array:
    """Return the examples of the steps `start .. start + length`: `(length, batch_size)`.

    Epoch e is a permutation drawn from `fold_in(order_key, e)`, cut into whole batches. `start` is
    traced, so the number of epochs that a chunk may touch is bounded, and the last is drawn only if
    it is needed.
    """
    batches = rows // batch_size
    first, offset = start // batches, start % batches
    epochs = (length + 2 * batches - 2) // batches

    def order(epoch: jax.Array) -> jax.Array:
        needed = (epoch - first) * batches < offset + length
        return lax.cond(
            needed,
            lambda: permutation(jax.random.fold_in(order_key, epoch), rows),
            lambda: jnp.arange(rows, dtype=jnp.int32),
        )

    orders = lax.map(order, first + jnp.arange(epochs))[:, : batches * batch_size]
    return lax.dynamic_slice_in_dim(orders.reshape(epochs * batches, batch_size), offset, length)


def permutation(key: PRNGKey, rows: int) -> jax.Array:
    """Return a random order of `rows` examples, int32.

    Random 64-bit words whose low bits are the index, sorted: on CPU several times faster than
    `jax.random.permutation`, which sorts pairs, and more than once.
    """
    low = (1 << rows.bit_length()) - 1
    # The words are drawn in halves: 64-bit draws fail to lower inside a local x64.
    high, rest = jax.random.bits(key, (2, rows), jnp.uint32)
    rest = (rest & jnp.uint32(~low & 0xFFFFFFFF)) | jnp.arange(rows, dtype=jnp.uint32)
    with jax.enable_x64(True):
        words = (high.astype(jnp.uint64) << 32) | rest.astype(jnp.uint64)
        return (jnp.sort(words) & jnp.uint64(low)).astype(jnp.int32)


def train_step(
    program: Program,
    carry: Carry,
    batch: Mapping[str, Any],
    loss_key: PRNGKey,
    step: Count,
    stop: Count,
) -> tuple[Carry, Log]:
    """Take one step and return what to log, unless `stop` is reached or the run has diverged.

    A step whose loss, gradient or new parameters are not finite is not taken: the carry keeps what
    it held before, for good, and only the log of that step shows what happened.
    """
    params, opt_state, state, diverged = carry

    def loss_fn(params: Any) -> tuple[jax.Array, tuple[Any, dict[str, jax.Array]]]:
        return program.loss_fn(params, state, batch, jax.random.fold_in(loss_key, step))

    (loss, (new_state, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params)
    # Schedule-free, Polyak and line-search methods ask for these; the others never see them.
    updates, new_opt_state = optax.with_extra_args_support(program.optimizer).update(
        grads, opt_state, params, value=loss, grad=grads, value_fn=lambda p: loss_fn(p)[0]
    )
    new_params = optax.apply_updates(params, updates)

    live = (step < stop) & (diverged < 0)
    finite = jnp.array([jnp.isfinite(x).all() for x in jax.tree.leaves((loss, grads, new_params))])
    finite = finite.all()
    taken = live & finite
    new = Carry(new_params, new_opt_state, new_state, diverged)
    # Optimisers may widen 16-bit moments; the carry keeps its dtypes.
    new = jax.tree.map(lambda x, old: _cast(jnp.where(taken, x, old), old.dtype), new, carry)
    new = new._replace(diverged=jnp.where(live & ~finite, step, diverged))
    return new, log_values({"loss": loss, **metrics}, live)


def log_values(values: Mapping[str, jax.Array], reached: jax.Array) -> Log:
    """Return scalars as floats (16-bit ones and integers in float32), NaN where not reached."""
    return {
        name: jnp.where(reached, x, jnp.nan).astype(jnp.promote_types(x.dtype, jnp.float32))
        for name, x in ((name, jnp.asarray(x)) for name, x in values.items())
    }


def evaluate_chunk(program: Program, carry: Carry) -> Log:
    """Evaluate what the run holds at a chunk's end: the last finite parameters if it diverged."""
    if program.evaluate is None:
        return {}
    return log_values(program.evaluate(carry.params, carry.state), jnp.bool_(True))


def advance(
    program: Program,
    carry: Carry,
    data: Mapping[str, Any],
    key: PRNGKey,
    start: Count,
    stop: Count,
) -> tuple[Carry, dict[str, jax.Array], Log]:
    """Train one logging chunk from step `start`, ending early at `stop`.

    Returns the carry, what the steps logged, each `(log_every,)`, and the evaluation at the end.
    `start` and `stop` are traced: every chunk of every length is the same program.
    """
    order_key, loss_key = streams(key)
    rows = jax.tree.leaves(data)[0].shape[0]
    indices = chunk_indices(order_key, rows, program.batch_size, start, program.log_every)

    def body(carry: Carry, now: tuple[jax.Array, jax.Array]) -> tuple[Carry, Log]:
        step, index = now
        batch = jax.tree.map(lambda x: x.at[index].get(mode="promise_in_bounds"), data)
        batch = constrain_rows({**batch, "index": index}, program.mesh)
        return train_step(program, carry, batch, loss_key, step, stop)

    steps = start + jnp.arange(program.log_every, dtype=jnp.int32)
    carry, log = lax.scan(body, carry, (steps, indices))
    out = carry, log, evaluate_chunk(program, carry)
    return constrain(out, program.mesh)


def default_log_every(steps: int) -> int:
    """Return a chunk that shows about twenty points of a run, and never waits too long for one."""
    return min(-(-steps // 20), 1000)


def chunk_ends(steps: int, log_every: int) -> list[int]:
    """Return the number of steps done at the end of each logging chunk."""
    return [*range(log_every, steps, log_every), steps]
