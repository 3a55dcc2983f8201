"""Robustness: attacks on any objective."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.robust.attacks import (
        pgd_attack,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "attacks": [
            "pgd_attack",
        ],
    },
)

__all__ = [
    "pgd_attack",
]
