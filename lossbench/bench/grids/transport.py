"""Tuning grids of the losses between two clouds of points."""

# As many directions for each, so that they cost about the same; the powers, whose gradients are
# unbiased.
_SLICED = {"num_projections": 10, "root": False}

GRIDS: dict[str, dict] = {
    "control_variate_sliced_wasserstein": {**_SLICED, "coefficient": "centred"},
    "distributional_sliced_wasserstein": {**_SLICED, "num_steps": 5, "kappa": (1.0, 10.0, 100.0)},
    "max_sliced_wasserstein": {"root": False, "num_steps": 5, "num_starts": 2},
    "sliced_wasserstein": _SLICED,
}
