"""Tuning grids of the losses on logits and labels."""

GRIDS: dict[str, dict] = {
    "aldr_kl_loss": {"lambda0": (0.1, 1.0, 10.0)},
    # Of two classes only.
    "anyloss_from_logits": {"scale": (10.0, 30.0, 73.0)},
    "comp_sum_loss": {"tau": (0.5, 1.25, 1.5, 1.75)},
    "cross_entropy": {},
    "crammer_singer_loss": {"margin": (0.1, 0.3, 1.0), "normalize": "softplus_mean"},
    # Of two classes only.
    "ensloss": {},
    "generalized_cross_entropy_loss": {"q": (0.3, 0.5, 0.7, 0.9)},
    "label_smoothing": {"smoothing": (0.1, 0.3, 0.5, 0.8)},
    "ldr_kl_loss": {"temperature": (0.1, 1.0, 10.0)},
    "ldr_topk_kl_loss": {"k": 2, "temperature": (0.1, 1.0, 10.0)},
    "mean_absolute_error_loss": {},
    "sum_exponential_loss": {},
    "symmetric_limit_loss": {},
}
