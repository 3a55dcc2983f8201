"""Trainers: `fit` trains one model, `sweep` many at once; meshes and checkpoints for both."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.train.checkpoint import CheckpointError
    from lossbench.train.fit import DataEnded, Diverged, FitResult, fit
    from lossbench.train.loop import Run
    from lossbench.train.sharding import make_mesh
    from lossbench.train.sweep import SweepResult, sweep
    from lossbench.train.transport_map import fit_transport_map

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "checkpoint": ["CheckpointError"],
        "fit": ["DataEnded", "Diverged", "FitResult", "fit"],
        "loop": ["Run"],
        "sharding": ["make_mesh"],
        "sweep": ["SweepResult", "sweep"],
        "transport_map": ["fit_transport_map"],
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
    "fit_transport_map",
    "make_mesh",
    "sweep",
]
