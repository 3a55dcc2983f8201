"""Numerics that the families share: safe functions, distances, masks, sorting, row blocks."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench._math.chunk import map_row_blocks
    from lossbench._math.distance import (
        pairwise_cosine,
        pairwise_euclidean,
        pairwise_squared_euclidean,
    )
    from lossbench._math.masked import masked_logsumexp, masked_max, masked_mean
    from lossbench._math.safe import (
        normalize,
        power_of_two_scale,
        safe_log,
        safe_norm,
        safe_sqrt,
        widen,
    )
    from lossbench._math.sorting import argsort, sort, sort_and_argsort

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "chunk": ["map_row_blocks"],
        "distance": ["pairwise_cosine", "pairwise_euclidean", "pairwise_squared_euclidean"],
        "masked": ["masked_logsumexp", "masked_max", "masked_mean"],
        "safe": [
            "normalize",
            "power_of_two_scale",
            "safe_log",
            "safe_norm",
            "safe_sqrt",
            "widen",
        ],
        "sorting": ["argsort", "sort", "sort_and_argsort"],
    },
)

__all__ = [
    "argsort",
    "map_row_blocks",
    "masked_logsumexp",
    "masked_max",
    "masked_mean",
    "normalize",
    "pairwise_cosine",
    "pairwise_euclidean",
    "pairwise_squared_euclidean",
    "power_of_two_scale",
    "safe_log",
    "safe_norm",
    "safe_sqrt",
    "sort",
    "sort_and_argsort",
    "widen",
]
