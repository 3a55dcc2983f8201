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
    from lossbench.transport.bounded_flow import (
        BoundedFlowParams,
        bounded_flow_init,
        bounded_flow_log_density,
        bounded_flow_sample,
    )
    from lossbench.transport.grid_density import (
        aas_grid_value,
        grid_log_density,
        optimal_grid_density,
        sample_grid_density,
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
    from lossbench.transport.sliced import (
        SlicedEstimate,
        projected_wasserstein,
        sliced_wasserstein,
        sliced_wasserstein_estimate,
    )
    from lossbench.transport.wasserstein_1d import (
        wasserstein_1d,
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
        "bounded_flow": [
            "BoundedFlowParams",
            "bounded_flow_init",
            "bounded_flow_log_density",
            "bounded_flow_sample",
        ],
        "grid_density": [
            "aas_grid_value",
            "grid_log_density",
            "optimal_grid_density",
            "sample_grid_density",
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
        "sliced": [
            "SlicedEstimate",
            "projected_wasserstein",
            "sliced_wasserstein",
            "sliced_wasserstein_estimate",
        ],
        "wasserstein_1d": [
            "wasserstein_1d",
        ],
    },
)

__all__ = [
    "AasState",
    "BoundedFlowParams",
    "MeshMeasure",
    "SlicedEstimate",
    "SurfaceSample",
    "aas_density_objective",
    "aas_grid_value",
    "aas_init",
    "aas_solution_loss",
    "aas_update",
    "average_symmetric_surface_distance",
    "bounded_flow_init",
    "bounded_flow_log_density",
    "bounded_flow_sample",
    "chamfer_distance",
    "continuous_mesh_sw1",
    "das_cross_entropy",
    "energy_set_loss",
    "face_areas",
    "face_normals",
    "flipped_face_fraction",
    "focal_tversky_loss",
    "frechet_set_loss",
    "generalized_energy_distance",
    "grid_log_density",
    "hausdorff_divergence",
    "integrate_flow",
    "laplacian",
    "max_dice",
    "mesh_sliced_wasserstein",
    "mesh_varifold",
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
    "self_intersection_fraction",
    "sinkhorn_set_loss",
    "sliced_wasserstein",
    "sliced_wasserstein_estimate",
    "surface_hausdorff_distance",
    "surface_projection_cdf",
    "vertex_measure",
    "wasserstein_1d",
]
