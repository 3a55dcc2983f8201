"""What a task is: data, a model, what a loss receives, and what is measured."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jax

from lossbench.bench.errors import UnknownNameError

Batch = dict[str, jax.Array]


@dataclass(frozen=True)
class Task:
    """A problem on which losses are compared.

    `splits(key)` draws `train` and `validation` (the split, the noise) for one seed and gives the
    same `test` to every seed, so that no tuning run ever sees a test example. `outputs(params,
    batch, key)` is what a loss may ask for by the names of its positional parameters: arrays, or
    functions as `jax.tree_util.Partial` of the parameters. Each metric maps those outputs to a
    scalar, the higher the better unless it is among `minimized`; `objective` names the one that
    ranks. All functions are pure and run inside jit.
    """

    name: str
    description: str
    splits: Callable[[jax.Array], dict[str, Batch]]
    init: Callable[[jax.Array], Any]
    outputs: Callable[[Any, Batch, jax.Array], dict[str, Any]]
    metrics: Mapping[str, Callable[[dict[str, Any]], jax.Array]]
    objective: str
    minimized: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen, the kind and rate of noise above all: printed with every table."""
    steps: int = 1000
    batch_size: int = 64
    learning_rates: tuple[float, float] = (1e-4, 1e-2)
    """The range in which `compare` searches."""
    base_loss: Callable[[dict[str, jax.Array]], jax.Array] | None = None
    """A scalar of the outputs that training adds to every loss, such as a reconstruction error."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Hyper-parameters that the task knows, for every loss that has them; a user's grid wins."""

    def __post_init__(self) -> None:
        """Refuse to rank by what is not measured."""
        for metric in (self.objective, *self.minimized):
            if metric not in self.metrics:
                raise UnknownNameError("metric", metric, self.metrics)
