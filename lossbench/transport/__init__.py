"""Optimal transport and the losses that stand on it."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.transport.adversarial_sampling import (
        AasState,
        aas_density_objective,
        aas_init,
        aas_solution_loss,
        aas_update,
        das_cross_entropy,
        laplacian,
        residual_variation,
        residual_wasserstein_1d,
    )
    from lossbench.transport.amortized_projections import (
        amortized_sliced_wasserstein,
    )
    from lossbench.transport.bounded_flow import (
        BoundedFlowParams,
        bounded_flow_init,
        bounded_flow_log_density,
        bounded_flow_sample,
    )
    from lossbench.transport.control_variates import (
        ControlVariateEstimate,
        control_variate_mean,
        control_variate_sliced_wasserstein,
        gaussian_control_variate,
    )
    from lossbench.transport.gaussian import (
        gaussian_monge_gap,
        gaussian_ot_map,
        unexplained_variance,
    )
    from lossbench.transport.grid_density import (
        aas_grid_value,
        grid_log_density,
        optimal_grid_density,
        sample_grid_density,
    )
    from lossbench.transport.max_sliced import (
        distributional_sliced_wasserstein,
        max_sliced_wasserstein,
    )
    from lossbench.transport.mesh import (
        MeshMeasure,
        SurfaceSample,
        face_areas,
        face_normals,
        mesh_varifold,
        sample_surface,
        surface_projection_cdf,
        vertex_measure,
    )
    from lossbench.transport.mesh_distances import (
        average_symmetric_surface_distance,
        chamfer_distance,
        continuous_mesh_sw1,
        mesh_sliced_wasserstein,
        normal_consistency,
        surface_hausdorff_distance,
    )
    from lossbench.transport.mesh_flow import (
        flipped_face_fraction,
        integrate_flow,
        self_intersection_fraction,
    )
    from lossbench.transport.monge_gap import (
        cyclical_monotonicity_violation,
        monge_gap,
        monge_gap_displacements,
        transport_map_loss,
    )
    from lossbench.transport.projections import (
        sample_projections,
    )
    from lossbench.transport.pulaski import (
        probabilistic_unet_elbo,
        pulaski_objective,
    )
    from lossbench.transport.segmentation_overlap import (
        focal_tversky_loss,
        generalized_energy_distance,
        max_dice,
        sample_diversity,
    )
    from lossbench.transport.set_distances import (
        energy_set_loss,
        frechet_set_loss,
        hausdorff_divergence,
        sinkhorn_set_loss,
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
    from lossbench.transport.sparse_route import (
        sparse_ot_route,
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
        "adversarial_sampling": [
            "AasState",
            "aas_density_objective",
            "aas_init",
            "aas_solution_loss",
            "aas_update",
            "das_cross_entropy",
            "laplacian",
            "residual_variation",
            "residual_wasserstein_1d",
        ],
        "amortized_projections": [
            "amortized_sliced_wasserstein",
        ],
        "bounded_flow": [
            "BoundedFlowParams",
            "bounded_flow_init",
            "bounded_flow_log_density",
            "bounded_flow_sample",
        ],
        "control_variates": [
            "ControlVariateEstimate",
            "control_variate_mean",
            "control_variate_sliced_wasserstein",
            "gaussian_control_variate",
        ],
        "gaussian": [
            "gaussian_monge_gap",
            "gaussian_ot_map",
            "unexplained_variance",
        ],
        "grid_density": [
            "aas_grid_value",
            "grid_log_density",
            "optimal_grid_density",
            "sample_grid_density",
        ],
        "max_sliced": [
            "distributional_sliced_wasserstein",
            "max_sliced_wasserstein",
        ],
        "mesh": [
            "MeshMeasure",
            "SurfaceSample",
            "face_areas",
            "face_normals",
            "mesh_varifold",
            "sample_surface",
            "surface_projection_cdf",
            "vertex_measure",
        ],
        "mesh_distances": [
            "average_symmetric_surface_distance",
            "chamfer_distance",
            "continuous_mesh_sw1",
            "mesh_sliced_wasserstein",
            "normal_consistency",
            "surface_hausdorff_distance",
        ],
        "mesh_flow": [
            "flipped_face_fraction",
            "integrate_flow",
            "self_intersection_fraction",
        ],
        "monge_gap": [
            "cyclical_monotonicity_violation",
            "monge_gap",
            "monge_gap_displacements",
            "transport_map_loss",
        ],
        "projections": [
            "sample_projections",
        ],
        "pulaski": [
            "probabilistic_unet_elbo",
            "pulaski_objective",
        ],
        "segmentation_overlap": [
            "focal_tversky_loss",
            "generalized_energy_distance",
            "max_dice",
            "sample_diversity",
        ],
        "set_distances": [
            "energy_set_loss",
            "frechet_set_loss",
            "hausdorff_divergence",
            "sinkhorn_set_loss",
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
        "sparse": [
            "SparseOTOutput",
            "sparse_ot",
            "sparse_ot_dual",
            "sparse_ot_semi_dual",
        ],
        "sparse_conjugates": [
            "sparse_simplex_projection",
            "topk_relu_conjugate",
            "topk_simplex_conjugate",
        ],
        "sparse_route": [
            "sparse_ot_route",
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
    "AasState",
    "BoundedFlowParams",
    "ControlVariateEstimate",
    "MeshMeasure",
    "SlicedEstimate",
    "SparseOTOutput",
    "SpectralNormState",
    "SurfaceSample",
    "aas_density_objective",
    "aas_grid_value",
    "aas_init",
    "aas_solution_loss",
    "aas_update",
    "amortized_sliced_wasserstein",
    "average_symmetric_surface_distance",
    "bounded_flow_init",
    "bounded_flow_log_density",
    "bounded_flow_sample",
    "chamfer_distance",
    "continuous_mesh_sw1",
    "control_variate_mean",
    "control_variate_sliced_wasserstein",
    "critic_gradient_penalty",
    "cyclical_monotonicity_violation",
    "das_cross_entropy",
    "distributional_sliced_wasserstein",
    "energy_set_loss",
    "face_areas",
    "face_normals",
    "flipped_face_fraction",
    "focal_tversky_loss",
    "frechet_set_loss",
    "gaussian_control_variate",
    "gaussian_dependency",
    "gaussian_monge_gap",
    "gaussian_ot_map",
    "generalized_energy_distance",
    "grid_log_density",
    "hausdorff_divergence",
    "integrate_flow",
    "laplacian",
    "max_dice",
    "max_sliced_wasserstein",
    "mesh_sliced_wasserstein",
    "mesh_varifold",
    "monge_gap",
    "monge_gap_displacements",
    "normal_consistency",
    "optimal_grid_density",
    "probabilistic_unet_elbo",
    "projected_wasserstein",
    "pulaski_objective",
    "residual_variation",
    "residual_wasserstein_1d",
    "sample_diversity",
    "sample_grid_density",
    "sample_projections",
    "sample_surface",
    "sample_vmf",
    "self_intersection_fraction",
    "sinkhorn_newton",
    "sinkhorn_set_loss",
    "sliced_wasserstein",
    "sliced_wasserstein_estimate",
    "sparse_ot",
    "sparse_ot_dual",
    "sparse_ot_route",
    "sparse_ot_semi_dual",
    "sparse_simplex_projection",
    "spectral_norm_init",
    "spectral_normalize",
    "surface_hausdorff_distance",
    "surface_projection_cdf",
    "topk_relu_conjugate",
    "topk_simplex_conjugate",
    "transport_map_loss",
    "unexplained_variance",
    "vertex_measure",
    "vmf_log_density",
    "vmf_mean_resultant",
    "vmf_sliced_wasserstein",
    "wasserstein_1d",
    "wasserstein_dependency",
    "wasserstein_dependency_dual",
    "wpc_loss",
]
