"""Scores of densities: matching, denoising, sampling, and what is learned with them."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.score.autoencoder import (
        conservativity_gap,
        contractive_loss,
        denoising_autoencoder_loss,
        energy_difference,
        optimal_reconstruction,
        path_integral_metropolis,
        reconstruction_contractive_loss,
        reconstruction_score,
    )
    from lossbench.score.denoising import (
        denoising_score_matching,
        edm_denoised,
        edm_loss,
        edm_scalings,
        score_weights,
    )
    from lossbench.score.divergence import (
        divergence,
        energy_score,
        hutchinson_divergence,
    )
    from lossbench.score.langevin import (
        annealed_langevin,
        langevin,
        metropolis_langevin,
    )
    from lossbench.score.mixtures import (
        GaussianMixture,
    )
    from lossbench.score.processes import (
        Karras,
        OrnsteinUhlenbeck,
        Process,
        SubVariancePreserving,
        VarianceExploding,
        VariancePreserving,
    )
    from lossbench.score.samplers import (
        edm_sample,
        euler_maruyama,
        karras_levels,
        predictor_corrector,
        probability_flow,
        probability_flow_log_density,
    )
    from lossbench.score.score_matching import (
        explicit_score_matching,
        finite_difference_score_matching,
        implicit_score_matching,
        sliced_score_matching,
    )
    from lossbench.score.score_regression import (
        early_stopping_time,
        kernel_gradient_descent,
        local_rademacher_complexity,
        regression_pairs,
        relu_ntk,
        score_regression_loss,
        truncated_denoised,
    )
    from lossbench.score.time_score import (
        denoising_time_score_matching,
        implicit_time_score_matching,
        time_score_log_ratio,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "autoencoder": [
            "conservativity_gap",
            "contractive_loss",
            "denoising_autoencoder_loss",
            "energy_difference",
            "optimal_reconstruction",
            "path_integral_metropolis",
            "reconstruction_contractive_loss",
            "reconstruction_score",
        ],
        "denoising": [
            "denoising_score_matching",
            "edm_denoised",
            "edm_loss",
            "edm_scalings",
            "score_weights",
        ],
        "divergence": [
            "divergence",
            "energy_score",
            "hutchinson_divergence",
        ],
        "langevin": [
            "annealed_langevin",
            "langevin",
            "metropolis_langevin",
        ],
        "mixtures": [
            "GaussianMixture",
        ],
        "processes": [
            "Karras",
            "OrnsteinUhlenbeck",
            "Process",
            "SubVariancePreserving",
            "VarianceExploding",
            "VariancePreserving",
        ],
        "samplers": [
            "edm_sample",
            "euler_maruyama",
            "karras_levels",
            "predictor_corrector",
            "probability_flow",
            "probability_flow_log_density",
        ],
        "score_matching": [
            "explicit_score_matching",
            "finite_difference_score_matching",
            "implicit_score_matching",
            "sliced_score_matching",
        ],
        "score_regression": [
            "early_stopping_time",
            "kernel_gradient_descent",
            "local_rademacher_complexity",
            "regression_pairs",
            "relu_ntk",
            "score_regression_loss",
            "truncated_denoised",
        ],
        "time_score": [
            "denoising_time_score_matching",
            "implicit_time_score_matching",
            "time_score_log_ratio",
        ],
    },
)

__all__ = [
    "GaussianMixture",
    "Karras",
    "OrnsteinUhlenbeck",
    "Process",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "annealed_langevin",
    "conservativity_gap",
    "contractive_loss",
    "denoising_autoencoder_loss",
    "denoising_score_matching",
    "denoising_time_score_matching",
    "divergence",
    "early_stopping_time",
    "edm_denoised",
    "edm_loss",
    "edm_sample",
    "edm_scalings",
    "energy_difference",
    "energy_score",
    "euler_maruyama",
    "explicit_score_matching",
    "finite_difference_score_matching",
    "hutchinson_divergence",
    "implicit_score_matching",
    "implicit_time_score_matching",
    "karras_levels",
    "kernel_gradient_descent",
    "langevin",
    "local_rademacher_complexity",
    "metropolis_langevin",
    "optimal_reconstruction",
    "path_integral_metropolis",
    "predictor_corrector",
    "probability_flow",
    "probability_flow_log_density",
    "reconstruction_contractive_loss",
    "reconstruction_score",
    "regression_pairs",
    "relu_ntk",
    "score_regression_loss",
    "score_weights",
    "sliced_score_matching",
    "time_score_log_ratio",
    "truncated_denoised",
]
