"""Optimal transport and the losses that stand on it."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.transport.sinkhorn_newton import sinkhorn_newton

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "sinkhorn_newton": [
            "sinkhorn_newton",
        ],
    },
)

__all__ = [
    "sinkhorn_newton",
]
