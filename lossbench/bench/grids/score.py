"""Tuning grids of the losses of scores, energies and denoisers."""

GRIDS: dict[str, dict] = {
    "denoising_score_matching": {"noise": (0.03, 0.1, 0.3)},
    "edm_loss": {"log_sigma_mean": (-1.2, -0.5, 0.0)},
    "finite_difference_score_matching": {"step": (0.03, 0.1, 0.3)},
    "implicit_score_matching": {},
    "proximal_matching_loss": {"gamma": (1.0, 2.0, 4.0)},
    "sliced_score_matching": {},
}
