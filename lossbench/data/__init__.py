"""Generators and corruptions of data, pure functions of a key."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.data.labels import (
        class_dependent_label_noise,
        class_subsample,
        instance_dependent_label_noise,
        pair_flip_label_noise,
        symmetric_label_noise,
        uniform_label_noise,
    )
    from lossbench.data.planar import (
        sample_checkerboard,
        sample_moons,
        sample_rings,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "labels": [
            "class_dependent_label_noise",
            "class_subsample",
            "instance_dependent_label_noise",
            "pair_flip_label_noise",
            "symmetric_label_noise",
            "uniform_label_noise",
        ],
        "planar": [
            "sample_checkerboard",
            "sample_moons",
            "sample_rings",
        ],
    },
)

__all__ = [
    "class_dependent_label_noise",
    "class_subsample",
    "instance_dependent_label_noise",
    "pair_flip_label_noise",
    "sample_checkerboard",
    "sample_moons",
    "sample_rings",
    "symmetric_label_noise",
    "uniform_label_noise",
]
