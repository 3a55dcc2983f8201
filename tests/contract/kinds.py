"""The kinds of public functions, each with its checks: what an example says of its function."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Example:
    """A loss or estimator, and arguments that show it at work.

    `args` are positional (arrays float32 or integer), `kwargs` static options; `traced` gives each
    hyper-parameter two values. `rows` are the positions whose first axis is the row axis (n = 6, so
    that all functions share the compiled operations). `differentiable` are the positions by which
    gradients are taken, all float arrays by default, and `free` those of them that may be
    any number, so that the hostile inputs may scale them, all the differentiable by default.
    `hostile` adds inputs by name. `part` takes from a result of several what is examined. `skip`
    maps a check to the reason why it cannot hold.
    """

    args: tuple[Any, ...]
    rows: tuple[int, ...]
    result: Literal["per_row", "scalar"] = "per_row"
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    traced: Mapping[str, tuple[float, float]] = dataclasses.field(default_factory=dict)
    differentiable: tuple[int, ...] | None = None
    free: tuple[int, ...] | None = None
    hostile: Mapping[str, tuple[Any, ...]] = dataclasses.field(default_factory=dict)
    part: Callable[[Any], Any] = lambda result: result
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    checks = (
        "result",
        "eager",
        "vmap",
        "gradient",
        "hostile",
        "padding",
        "permutation",
        "bfloat16",
        "one_trace",
        "weak_types",
        "wrong_shape",
        "wrong_dtype",
    )


@dataclasses.dataclass(frozen=True)
class Stateful:
    """An init/update pair, given as closures: `update(state, *batch) -> (value, state)`."""

    init: Callable[[], Any]
    update: Callable[..., tuple[Any, Any]]
    batches: tuple[tuple[Any, ...], ...]
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    checks = ("state", "eager", "restart", "finite")


@dataclasses.dataclass(frozen=True)
class Keyed:
    """A random function, its key first: attacks, samplers, noise."""

    args: tuple[Any, ...]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    checks = ("eager", "vmap", "same_key", "key_styles", "finite")


@dataclasses.dataclass(frozen=True)
class Solver:
    """A function of one problem, a pytree: `problem(seed)` makes it, the same shapes each time.

    `value(output)` is the scalar by which derivatives are examined.
    """

    problem: Callable[[int], Any]
    value: Callable[[Any], Any]
    kwargs: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    skip: Mapping[str, str] = dataclasses.field(default_factory=dict)

    checks = ("eager", "vmap", "gradient", "finite", "wrong_type")
