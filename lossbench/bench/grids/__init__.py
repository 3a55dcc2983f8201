"""What `compare` tunes: for each loss the values of its hyper-parameters, one file a family.

A tuple is searched, a single value is fixed (so it may be static). The learning rate fills the
rest of the budget, so every loss gets the same number of tuning runs.
"""

from collections.abc import Mapping
from typing import Any

from lossbench.bench.grids import classification, score, transport

GRIDS: Mapping[str, Mapping[str, Any]] = {
    **classification.GRIDS,
    **score.GRIDS,
    **transport.GRIDS,
}
