"""Optimal transport and the losses that stand on it."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.transport.gaussian import (
        gaussian_monge_gap,
        gaussian_ot_map,
        unexplained_variance,
    )
    from lossbench.transport.monge_gap import (
        cyclical_monotonicity_violation,
        monge_gap,
        monge_gap_displacements,
        transport_map_loss,
    )
    from lossbench.transport.sparse import (
        SparseOTOutput,
        sparse_ot,
        sparse_ot_dual,
        sparse_ot_semi_dual,
    )
    from lossbench.transport.sparse_conjugates import (
        sparse_simplex_projection,
        topk_relu_conjugate,
        topk_simplex_conjugate,
    )
    from lossbench.transport.sparse_route import sparse_ot_route
    from lossbench.transport.wasserstein_dependency import (
        SpectralNormState,
        critic_gradient_penalty,
        gaussian_dependency,
        spectral_norm_init,
        spectral_normalize,
        wasserstein_dependency,
        wasserstein_dependency_dual,
        wpc_loss,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "gaussian": ["gaussian_monge_gap", "gaussian_ot_map", "unexplained_variance"],
        "monge_gap": [
            "cyclical_monotonicity_violation",
            "monge_gap",
            "monge_gap_displacements",
            "transport_map_loss",
        ],
        "sparse": ["SparseOTOutput", "sparse_ot", "sparse_ot_dual", "sparse_ot_semi_dual"],
        "sparse_conjugates": [
            "sparse_simplex_projection",
            "topk_relu_conjugate",
            "topk_simplex_conjugate",
        ],
        "sparse_route": ["sparse_ot_route"],
        "wasserstein_dependency": [
            "SpectralNormState",
            "critic_gradient_penalty",
            "gaussian_dependency",
            "spectral_norm_init",
            "spectral_normalize",
            "wasserstein_dependency",
            "wasserstein_dependency_dual",
            "wpc_loss",
        ],
    },
)

__all__ = [
    "SparseOTOutput",
    "SpectralNormState",
    "critic_gradient_penalty",
    "cyclical_monotonicity_violation",
    "gaussian_dependency",
    "gaussian_monge_gap",
    "gaussian_ot_map",
    "monge_gap",
    "monge_gap_displacements",
    "sparse_ot",
    "sparse_ot_dual",
    "sparse_ot_route",
    "sparse_ot_semi_dual",
    "sparse_simplex_projection",
    "spectral_norm_init",
    "spectral_normalize",
    "topk_relu_conjugate",
    "topk_simplex_conjugate",
    "transport_map_loss",
    "unexplained_variance",
    "wasserstein_dependency",
    "wasserstein_dependency_dual",
    "wpc_loss",
]
