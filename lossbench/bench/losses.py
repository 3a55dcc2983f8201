"""Finding the losses of a comparison: by name, by `package.module:function`, or as a function."""

import hashlib
import importlib
import inspect
import itertools
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optax

from lossbench.bench import papers
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.grids import GRIDS


def _cross_entropy(logits: Any, labels: Any) -> Any:
    """Cross-entropy of softmax, from optax."""
    return optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)


def _label_smoothing(logits: Any, labels: Any, *, smoothing: Any = 0.1) -> Any:
    """Cross-entropy against labels mixed with the uniform distribution, from optax's losses."""
    cross_entropy = _cross_entropy(logits, labels)
    uniform = optax.losses.safe_softmax_cross_entropy(
        logits, np.full(logits.shape[-1], 1 / logits.shape[-1], np.float32)
    )
    return (1 - smoothing) * cross_entropy + smoothing * uniform


def _squared_error(predictions: Any, targets: Any) -> Any:
    """Mean squared error of each example, from optax's losses."""
    return optax.losses.squared_error(predictions, targets).mean(-1)


def _absolute_error(predictions: Any, targets: Any) -> Any:
    """Mean absolute error of each example."""
    return abs(predictions - targets).mean(-1)


BASELINES: dict[str, Callable] = {
    "absolute_error": _absolute_error,
    "cross_entropy": _cross_entropy,
    "label_smoothing": _label_smoothing,
    "squared_error": _squared_error,
}
"""The ordinary losses that comparisons need beside ours, from optax where it has them."""


@dataclass(frozen=True)
class Loss:
    """A loss as a comparison uses it: the function, what it takes, and what is tuned."""

    name: str
    function: Callable
    takes: tuple[str, ...]
    """Names of the positional arguments, offered by the task."""
    grid: Mapping[str, tuple[float, ...]]
    """Searched hyper-parameters, traced."""
    fixed: Mapping[str, Any]
    """Hyper-parameters that stay as they are; may be static."""

    def __call__(self, outputs: Mapping[str, Any], hyperparameters: Mapping[str, Any]) -> Any:
        """Return the loss of a task's outputs."""
        given = [outputs[name] for name in self.takes]
        return self.function(*given, **hyperparameters, **self.fixed)

    def configurations(self, budget: int, learning_rates: tuple[float, float]) -> list[dict]:
        """Return `budget` settings: the grid times as many learning rates as fill the budget."""
        combinations = math.prod(len(values) for values in self.grid.values())
        if budget % combinations:
            raise UsageError(
                f"the grid of {self.name!r} has {combinations} combinations, which do not divide "
                f"the tuning budget of {budget} runs a loss; give a grid or tune= that fits"
            )
        # The middles of equal parts of the logarithmic range: few rates stay off its extremes.
        count, (low, high) = budget // combinations, learning_rates
        rates = [low * (high / low) ** ((i + 0.5) / count) for i in range(count)]
        return [
            {"learning_rate": rate, **dict(zip(self.grid, values, strict=True))}
            for rate in rates
            for values in itertools.product(*self.grid.values())
        ]

    @property
    def identity(self) -> dict:
        """What must not change when an interrupted comparison is resumed."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = repr(self.function)
        return {
            "takes": list(self.takes),
            "grid": {name: list(values) for name, values in self.grid.items()},
            "fixed": {name: str(value) for name, value in self.fixed.items()},
            "source": hashlib.sha256(source.encode()).hexdigest()[:16],
        }


def resolve(
    losses: Mapping[str, Callable | str] | Iterable[str],
    grid: Mapping[str, Mapping[str, Any]] | None = None,
    fixed: Mapping[str, Any] = types.MappingProxyType({}),
) -> list[Loss]:
    """Return the losses named or given, each with its grid; `grid` overrides the bench's own.

    `fixed` are hyper-parameters that the task knows, for the losses that have them: they go before
    the bench's grids, and after `grid`.
    """
    if isinstance(losses, str):
        losses = [losses]
    named = dict(losses) if isinstance(losses, Mapping) else {name: name for name in losses}
    if not named:
        raise UsageError("no losses to compare: give at least one")
    for name in grid or {}:
        if name not in named:
            raise UnknownNameError("loss in grid=", name, named)
    return [_loss(name, given, (grid or {}).get(name), fixed) for name, given in named.items()]


def _loss(
    name: str, given: Callable | str, grid: Mapping[str, Any] | None, fixed: Mapping[str, Any]
) -> Loss:
    function = load(given) if isinstance(given, str) else given
    if not callable(function):
        raise UsageError(f"loss {name!r} must be a function or a name, got {type(function)}")
    parameters = inspect.signature(function).parameters.values()
    known = {p.name: fixed[p.name] for p in parameters if p.name in fixed}
    if grid is None:
        grid = {**(GRIDS.get(given, {}) if isinstance(given, str) else {}), **known}
    else:
        grid = {**known, **grid}
    for hyperparameter in grid:
        if not any(p.name == hyperparameter or p.kind is p.VAR_KEYWORD for p in parameters):
            raise UnknownNameError(
                f"hyper-parameter of {name!r}",
                hyperparameter,
                [p.name for p in parameters if p.kind is p.KEYWORD_ONLY],
            )
    return Loss(
        name=name,
        function=function,
        takes=tuple(
            p.name
            for p in parameters
            if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
            and p.default is p.empty
            and p.name not in grid
        ),
        grid={k: tuple(v) for k, v in grid.items() if isinstance(v, tuple | list)},
        fixed={k: v for k, v in grid.items() if not isinstance(v, tuple | list)},
    )


def load(name: str) -> Callable:
    """Return the loss `name`: a baseline, a public function, or `package.module:function`."""
    if name in BASELINES:
        return BASELINES[name]
    if ":" in name:
        module, _, attribute = name.partition(":")
        if os.getcwd() not in sys.path:
            sys.path.insert(0, os.getcwd())  # as `python -m` does: a user's module lies here
        try:
            return getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise
            raise UsageError(f"loss {name!r}: no module named {module!r}") from error
        except AttributeError as error:
            raise UsageError(f"loss {name!r}: {error}") from error
    if name not in papers.functions():
        raise UnknownNameError("loss", name, [*BASELINES, *papers.functions()])
    return papers.load_function(name)
