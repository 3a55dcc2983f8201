"""What the trainers ask of their arguments, checked once before anything is compiled."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossbench._typing import PRNGKey
from lossbench.train.loop import Carry, Program

Shapes = dict[str, jax.ShapeDtypeStruct]


def check_counts(**counts: int | None) -> None:
    """Raise unless each of `steps`, `batch_size`, ... that is given is at least 1."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")


def check_rows(data: Any, what: str) -> int:
    """Return the common leading axis of a dict of arrays, or say what is wrong with it."""
    if not isinstance(data, Mapping):
        raise TypeError(f"{what} must be a dict of arrays, got {type(data).__name__}")
    leaves = jax.tree_util.tree_leaves_with_path(data)
    rows = {jax.tree_util.keystr(path): np.shape(x)[:1] for path, x in leaves}
    if not rows or () in rows.values() or len(set(rows.values())) > 1:
        found = ", ".join(f"{name}: {n[0] if n else 'a scalar'}" for name, n in rows.items())
        raise ValueError(f"{what} needs arrays with one common leading axis, got {found or 'none'}")
    return next(iter(rows.values()))[0]


def check_data(data: Any, batch_size: int) -> None:
    """Raise unless `data` is a dict of arrays with at least `batch_size` examples."""
    rows = check_rows(data, "data")
    if "index" in data:
        raise ValueError("data must not hold 'index': the batch gets the examples' positions there")
    if batch_size > rows:
        raise ValueError(f"batch_size {batch_size} exceeds the {rows} examples of data")


def check_batch(batch: Any, rows: int) -> None:
    """Raise unless a host batch is a dict of arrays of `rows` rows, "index" among them."""
    found = check_rows(batch, "a host batch")
    if "index" not in batch:
        raise ValueError(f"a host batch must hold 'index', got {sorted(batch)}")
    if found != rows:
        raise ValueError(f"a host batch must have {rows} rows in this process, got {found}")


def log_shapes(program: Program, carry: Carry, batch: Any, key: PRNGKey) -> tuple[Shapes, Shapes]:
    """Return the shapes of what a step and an evaluation log, or say what is wrong with them.

    Everything is traced by `jax.eval_shape`: nothing is computed or compiled.
    """
    out = jax.eval_shape(program.loss_fn, carry.params, carry.state, batch, key)
    expected = "loss_fn must return (loss, (state, metrics))"
    match out:
        case (loss, (state, dict(metrics))):
            pass
        case _:
            raise TypeError(f"{expected}, got {_describe(out)}")
    if not _is_scalar(loss, jnp.floating):
        raise TypeError(f"{expected} with a scalar loss (a .mean()?), got {_describe(loss)}")
    if not _alike(state, carry.state):
        raise TypeError(
            "loss_fn must return state as it came (structure, shapes, dtypes): "
            f"got {_describe(state)}, expected {_describe(carry.state)}"
        )
    _check_scalars(metrics, "loss_fn's metrics", reserved="loss")
    evaluated = {}
    if program.evaluate is not None:
        evaluated = jax.eval_shape(program.evaluate, carry.params, carry.state)
        _check_scalars(evaluated, "evaluate's result", reserved="step")
    return {"loss": loss, **metrics}, evaluated


def _check_scalars(values: Any, what: str, reserved: str) -> None:
    good = isinstance(values, dict) and all(
        _is_scalar(x, jnp.number) or _is_scalar(x, jnp.bool_) for x in values.values()
    )
    if not good:
        raise TypeError(f"{what} must be a dict of scalars, got {_describe(values)}")
    if reserved in values:
        raise ValueError(f"{what} must not hold {reserved!r}: the history has its own")


def _is_scalar(x: Any, kind: Any) -> bool:
    return isinstance(x, jax.ShapeDtypeStruct) and not x.shape and jnp.issubdtype(x.dtype, kind)


def _alike(tree: Any, other: Any) -> bool:
    kinds: list[Any] = [
        (jax.tree.structure(t), [(x.shape, x.dtype) for x in jax.tree.leaves(t)])
        for t in (tree, other)
    ]
    return bool(kinds[0] == kinds[1])


def _describe(tree: Any) -> str:
    return str(jax.tree.map(describe_array, tree)).replace("'", "")


def describe_array(x: Any) -> str:
    """Return dtype and shape as in `float32[3, 4]`."""
    return f"{x.dtype}{list(x.shape)}"


def batch_shapes(data: Any, batch_size: int) -> Any:
    """Return the shapes of a batch of rows of `data`."""
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(
            (batch_size, *np.shape(x)[1:]), jax.dtypes.canonicalize_dtype(x.dtype)
        ),
        data,
    )
