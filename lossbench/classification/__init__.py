"""Losses of class scores and labels: comp-sum and label-distributionally robust."""

from typing import TYPE_CHECKING

from lossbench._lazy import attach

if TYPE_CHECKING:
    from lossbench.classification.aldr import (
        AldrKlState,
        aldr_kl_init,
        aldr_kl_loss,
        aldr_kl_temperature,
        aldr_kl_update,
    )
    from lossbench.classification.comp_sum import (
        comp_sum_from_nll,
        comp_sum_gradient_weight,
        comp_sum_loss,
        comp_sum_phi,
        generalized_cross_entropy_loss,
        mean_absolute_error_loss,
        sum_exponential_loss,
    )
    from lossbench.classification.comp_sum_adversarial import (
        adv_comp_sum_objective,
        adversarial_comp_sum_margin_loss,
        drift_attack,
        margin_drift,
        smooth_adversarial_comp_sum_loss,
    )
    from lossbench.classification.comp_sum_theory import (
        comp_sum_conditional_minimizer,
        comp_sum_conditional_minimum,
        comp_sum_conditional_risk,
        h_consistency_bound,
        h_consistency_bound_closed,
        h_consistency_transform,
        minimizability_gap,
        minimizability_gap_bound,
    )
    from lossbench.classification.ldr import (
        crammer_singer_loss,
        ldr_kl_loss,
        ldr_kl_weights,
        normalize_scores,
        score_gaps,
        symmetric_limit_loss,
    )
    from lossbench.classification.ldr_topk import (
        capped_entropic_weights,
        ldr_topk_kl_loss,
    )

__getattr__, __dir__, _public = attach(
    __name__,
    {
        "aldr": [
            "AldrKlState",
            "aldr_kl_init",
            "aldr_kl_loss",
            "aldr_kl_temperature",
            "aldr_kl_update",
        ],
        "comp_sum": [
            "comp_sum_from_nll",
            "comp_sum_gradient_weight",
            "comp_sum_loss",
            "comp_sum_phi",
            "generalized_cross_entropy_loss",
            "mean_absolute_error_loss",
            "sum_exponential_loss",
        ],
        "comp_sum_adversarial": [
            "adv_comp_sum_objective",
            "adversarial_comp_sum_margin_loss",
            "drift_attack",
            "margin_drift",
            "smooth_adversarial_comp_sum_loss",
        ],
        "comp_sum_theory": [
            "comp_sum_conditional_minimizer",
            "comp_sum_conditional_minimum",
            "comp_sum_conditional_risk",
            "h_consistency_bound",
            "h_consistency_bound_closed",
            "h_consistency_transform",
            "minimizability_gap",
            "minimizability_gap_bound",
        ],
        "ldr": [
            "crammer_singer_loss",
            "ldr_kl_loss",
            "ldr_kl_weights",
            "normalize_scores",
            "score_gaps",
            "symmetric_limit_loss",
        ],
        "ldr_topk": [
            "capped_entropic_weights",
            "ldr_topk_kl_loss",
        ],
    },
)

__all__ = [
    "AldrKlState",
    "adv_comp_sum_objective",
    "adversarial_comp_sum_margin_loss",
    "aldr_kl_init",
    "aldr_kl_loss",
    "aldr_kl_temperature",
    "aldr_kl_update",
    "capped_entropic_weights",
    "comp_sum_conditional_minimizer",
    "comp_sum_conditional_minimum",
    "comp_sum_conditional_risk",
    "comp_sum_from_nll",
    "comp_sum_gradient_weight",
    "comp_sum_loss",
    "comp_sum_phi",
    "crammer_singer_loss",
    "drift_attack",
    "generalized_cross_entropy_loss",
    "h_consistency_bound",
    "h_consistency_bound_closed",
    "h_consistency_transform",
    "ldr_kl_loss",
    "ldr_kl_weights",
    "ldr_topk_kl_loss",
    "margin_drift",
    "mean_absolute_error_loss",
    "minimizability_gap",
    "minimizability_gap_bound",
    "normalize_scores",
    "score_gaps",
    "smooth_adversarial_comp_sum_loss",
    "sum_exponential_loss",
    "symmetric_limit_loss",
]
