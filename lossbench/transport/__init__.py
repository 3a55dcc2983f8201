"""Optimal transport and the losses that stand on it."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.transport.amortized_projections import (
        amortized_sliced_wasserstein,
    )
    from lossbench.transport.control_variates import (
        ControlVariateEstimate,
        control_variate_mean,
        control_variate_sliced_wasserstein,
        gaussian_control_variate,
    )
    from lossbench.transport.max_sliced import (
        distributional_sliced_wasserstein,
        max_sliced_wasserstein,
    )
    from lossbench.transport.projections import (
        sample_projections,
    )
    from lossbench.transport.sinkhorn_newton import (
        sinkhorn_newton,
    )
    from lossbench.transport.sliced import (
        SlicedEstimate,
        projected_wasserstein,
        sliced_wasserstein,
        sliced_wasserstein_estimate,
    )
    from lossbench.transport.von_mises_fisher import (
        sample_vmf,
        vmf_log_density,
        vmf_mean_resultant,
        vmf_sliced_wasserstein,
    )
    from lossbench.transport.wasserstein_1d import (
        wasserstein_1d,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "amortized_projections": [
            "amortized_sliced_wasserstein",
        ],
        "control_variates": [
            "ControlVariateEstimate",
            "control_variate_mean",
            "control_variate_sliced_wasserstein",
            "gaussian_control_variate",
        ],
        "max_sliced": [
            "distributional_sliced_wasserstein",
            "max_sliced_wasserstein",
        ],
        "projections": [
            "sample_projections",
        ],
        "sinkhorn_newton": [
            "sinkhorn_newton",
        ],
        "sliced": [
            "SlicedEstimate",
            "projected_wasserstein",
            "sliced_wasserstein",
            "sliced_wasserstein_estimate",
        ],
        "von_mises_fisher": [
            "sample_vmf",
            "vmf_log_density",
            "vmf_mean_resultant",
            "vmf_sliced_wasserstein",
        ],
        "wasserstein_1d": [
            "wasserstein_1d",
        ],
    },
)

__all__ = [
    "ControlVariateEstimate",
    "SlicedEstimate",
    "amortized_sliced_wasserstein",
    "control_variate_mean",
    "control_variate_sliced_wasserstein",
    "distributional_sliced_wasserstein",
    "gaussian_control_variate",
    "max_sliced_wasserstein",
    "projected_wasserstein",
    "sample_projections",
    "sample_vmf",
    "sinkhorn_newton",
    "sliced_wasserstein",
    "sliced_wasserstein_estimate",
    "vmf_log_density",
    "vmf_mean_resultant",
    "vmf_sliced_wasserstein",
    "wasserstein_1d",
]
