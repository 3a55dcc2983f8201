"""Losses and estimators from the research literature as pure JAX functions.

Families (`lossbench.classification`, `lossbench.robust`, ...) load when they are first used.
"""

from typing import TYPE_CHECKING

import jax

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench import bench, classification, data, robust, score, train, transport
    from lossbench._typing import checked

__version__ = "0.1.0"

# Made with the package: creating a user context later would drop every jit cache the user has.
_checking = jax.make_user_context(False)

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "_typing": ["checked"],
        "bench": [],
        "classification": [],
        "data": [],
        "robust": [],
        "score": [],
        "train": [],
        "transport": [],
    },
)

__all__ = [
    "bench",
    "checked",
    "classification",
    "data",
    "robust",
    "score",
    "train",
    "transport",
]
