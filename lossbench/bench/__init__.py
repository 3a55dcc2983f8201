"""The bench: tasks, comparisons of losses, and experiments that re-test papers' claims."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.bench.compare import compare
    from lossbench.bench.comparison import Comparison
    from lossbench.bench.experiment import Experiment, reproduce
    from lossbench.bench.tasks import Task, classification_task, from_folder, load_task

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "compare": ["compare"],
        "comparison": ["Comparison"],
        "experiment": ["Experiment", "reproduce"],
        "tasks": ["Task", "classification_task", "from_folder", "load_task"],
    },
)

__all__ = [
    "Comparison",
    "Experiment",
    "Task",
    "classification_task",
    "compare",
    "from_folder",
    "load_task",
    "reproduce",
]
