"""The tasks on which losses are compared, one file a family."""

import functools
import inspect
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from lossbench.bench.errors import UnknownNameError
from lossbench.bench.tasks import autoencoder, classification, score, transport, transport_map
from lossbench.bench.tasks.classification import classification_task, from_folder
from lossbench.bench.tasks.task import Task

__all__ = ["TASKS", "Task", "classification_task", "from_folder", "load_task"]

TASKS: Mapping[str, Callable[..., Task]] = {
    **autoencoder.TASKS,
    **classification.TASKS,
    **score.TASKS,
    **transport.TASKS,
    **transport_map.TASKS,
}


def load_task(name: str, **settings: Any) -> Task:
    """Return the task called `name`, with its `settings`, or the data at a path.

    >>> load_task("noisy-digits", rate=0.2).description
    'handwritten digits, 20% symmetric label noise, clean test'
    """
    if name in TASKS:
        factory = TASKS[name]
    elif pathlib.Path(name).exists():
        factory = functools.partial(from_folder, name)
    else:
        raise UnknownNameError("task", name, TASKS)
    parameters = inspect.signature(factory).parameters
    for setting in settings:
        if setting not in parameters:
            known = [n for n, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
            raise UnknownNameError(f"setting of task {name!r}", setting, known)
    return factory(**settings)
