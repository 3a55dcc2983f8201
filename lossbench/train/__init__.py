"""Trainers: `fit` trains one model, `sweep` many at once; meshes and checkpoints for both."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.train._fit import DataEnded, Diverged, FitResult, fit
    from lossbench.train._sweep import SweepResult, sweep
    from lossbench.train.checkpoint import CheckpointError
    from lossbench.train.loop import Run
    from lossbench.train.sharding import make_mesh

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "checkpoint": ["CheckpointError"],
        "_fit": ["DataEnded", "Diverged", "FitResult", "fit"],
        "loop": ["Run"],
        "sharding": ["make_mesh"],
        "_sweep": ["SweepResult", "sweep"],
    },
)

__all__ = [
    "CheckpointError",
    "DataEnded",
    "Diverged",
    "FitResult",
    "Run",
    "SweepResult",
    "fit",
    "make_mesh",
    "sweep",
]
