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
    from lossbench.score.fokker_planck import (
        fokker_planck_box_penalty,
        fokker_planck_loss,
        fokker_planck_rate,
        log_density_fokker_planck_residual,
        score_fokker_planck_loss,
        score_fokker_planck_residual,
    )
    from lossbench.score.langevin import (
        annealed_langevin,
        langevin,
        metropolis_langevin,
    )
    from lossbench.score.mixtures import (
        GaussianMixture,
    )
    from lossbench.score.ode_sde_gap import (
        ode_sde_gap,
        ode_sde_gap_bound,
        reverse_sde_log_density,
    )
    from lossbench.score.processes import (
        Karras,
        OrnsteinUhlenbeck,
        Process,
        SubVariancePreserving,
        VarianceExploding,
        VariancePreserving,
    )
    from lossbench.score.proximal_networks import (
        InputConvexParams,
        annealed_proximal_matching_loss,
        input_convex_init,
        input_convex_potential,
        proximal_matching_loss,
        proximal_matching_width,
        proximal_operator,
    )
    from lossbench.score.proximal_solvers import (
        LeastSquaresProximal,
        invert_proximal,
        learned_prior,
        plug_and_play_admm,
        plug_and_play_gradient,
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
    from lossbench.score.unnormalized import (
        CompositionalState,
        compositional_likelihood_init,
        compositional_likelihood_loss,
        effective_sample_size,
        log_partition_importance,
        noise_contrastive_loss,
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
        "fokker_planck": [
            "fokker_planck_box_penalty",
            "fokker_planck_loss",
            "fokker_planck_rate",
            "log_density_fokker_planck_residual",
            "score_fokker_planck_loss",
            "score_fokker_planck_residual",
        ],
        "langevin": [
            "annealed_langevin",
            "langevin",
            "metropolis_langevin",
        ],
        "mixtures": [
            "GaussianMixture",
        ],
        "ode_sde_gap": [
            "ode_sde_gap",
            "ode_sde_gap_bound",
            "reverse_sde_log_density",
        ],
        "processes": [
            "Karras",
            "OrnsteinUhlenbeck",
            "Process",
            "SubVariancePreserving",
            "VarianceExploding",
            "VariancePreserving",
        ],
        "proximal_networks": [
            "InputConvexParams",
            "annealed_proximal_matching_loss",
            "input_convex_init",
            "input_convex_potential",
            "proximal_matching_loss",
            "proximal_matching_width",
            "proximal_operator",
        ],
        "proximal_solvers": [
            "LeastSquaresProximal",
            "invert_proximal",
            "learned_prior",
            "plug_and_play_admm",
            "plug_and_play_gradient",
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
        "unnormalized": [
            "CompositionalState",
            "compositional_likelihood_init",
            "compositional_likelihood_loss",
            "effective_sample_size",
            "log_partition_importance",
            "noise_contrastive_loss",
        ],
    },
)

__all__ = [
    "CompositionalState",
    "GaussianMixture",
    "InputConvexParams",
    "Karras",
    "LeastSquaresProximal",
    "OrnsteinUhlenbeck",
    "Process",
    "SubVariancePreserving",
    "VarianceExploding",
    "VariancePreserving",
    "annealed_langevin",
    "annealed_proximal_matching_loss",
    "compositional_likelihood_init",
    "compositional_likelihood_loss",
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
    "effective_sample_size",
    "energy_difference",
    "energy_score",
    "euler_maruyama",
    "explicit_score_matching",
    "finite_difference_score_matching",
    "fokker_planck_box_penalty",
    "fokker_planck_loss",
    "fokker_planck_rate",
    "hutchinson_divergence",
    "implicit_score_matching",
    "implicit_time_score_matching",
    "input_convex_init",
    "input_convex_potential",
    "invert_proximal",
    "karras_levels",
    "kernel_gradient_descent",
    "langevin",
    "learned_prior",
    "local_rademacher_complexity",
    "log_density_fokker_planck_residual",
    "log_partition_importance",
    "metropolis_langevin",
    "noise_contrastive_loss",
    "ode_sde_gap",
    "ode_sde_gap_bound",
    "optimal_reconstruction",
    "path_integral_metropolis",
    "plug_and_play_admm",
    "plug_and_play_gradient",
    "predictor_corrector",
    "probability_flow",
    "probability_flow_log_density",
    "proximal_matching_loss",
    "proximal_matching_width",
    "proximal_operator",
    "reconstruction_contractive_loss",
    "reconstruction_score",
    "regression_pairs",
    "relu_ntk",
    "reverse_sde_log_density",
    "score_fokker_planck_loss",
    "score_fokker_planck_residual",
    "score_regression_loss",
    "score_weights",
    "sliced_score_matching",
    "time_score_log_ratio",
    "truncated_denoised",
]
