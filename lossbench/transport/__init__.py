"""Optimal transport and the losses that stand on it."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.transport.control_variates import (
        ControlVariateEstimate,
        control_variate_mean,
        control_variate_sliced_wasserstein,
        gaussian_control_variate,
    )
    from lossbench.transport.projections import sample_projections
    from lossbench.transport.sliced import (
        SlicedEstimate,
        projected_wasserstein,
        sliced_wasserstein,
        sliced_wasserstein_estimate,
    )
    from lossbench.transport.wasserstein_1d import wasserstein_1d

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "control_variates": [
            "ControlVariateEstimate",
            "control_variate_mean",
            "control_variate_sliced_wasserstein",
            "gaussian_control_variate",
        ],
        "projections": ["sample_projections"],
        "sliced": [
            "SlicedEstimate",
            "projected_wasserstein",
            "sliced_wasserstein",
            "sliced_wasserstein_estimate",
        ],
        "wasserstein_1d": ["wasserstein_1d"],
    },
)

__all__ = [
    "ControlVariateEstimate",
    "SlicedEstimate",
    "control_variate_mean",
    "control_variate_sliced_wasserstein",
    "gaussian_control_variate",
    "projected_wasserstein",
    "sample_projections",
    "sliced_wasserstein",
    "sliced_wasserstein_estimate",
    "wasserstein_1d",
]
