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
    },
)

__all__ = [
    "class_dependent_label_noise",
    "class_subsample",
    "instance_dependent_label_noise",
    "pair_flip_label_noise",
    "symmetric_label_noise",
    "uniform_label_noise",
]
