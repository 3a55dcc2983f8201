"""Optimal transport and the losses that stand on it."""

from lossbench._lazy import attach

__getattr__, __dir__, _public = attach(__name__, {})

__all__: list[str] = []
