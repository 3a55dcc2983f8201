import jax.numpy as jnp
import numpy as np
from fakes import linear_scores
from kinds import Example, Keyed, Stateful

from lossbench.classification import aldr_kl_init, aldr_kl_update

rng = np.random.default_rng(0)
LOGITS = rng.normal(size=(6, 3)).astype(np.float32)
OTHERS = rng.normal(size=(6, 3)).astype(np.float32)
X = rng.normal(size=(6, 4)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
PROBS = rng.dirichlet(np.ones(3), 6).astype(np.float32)
WEIGHTS = rng.dirichlet(np.ones(6)).astype(np.float32)
UNIT = rng.uniform(0.05, 0.95, 6).astype(np.float32)

TAU = {"tau": (1.3, 0.6)}
MARGIN = {"margin": (0.1, 0.4)}
TEMPERATURE = {"temperature": (0.7, 2.0)}
ALDR = {"lambda0": (0.8, 1.6), "alpha": (2.0, 3.0)}
SCALES = {"rho": (0.8, 1.5), "nu": (0.5, 1.0)}


def loss(*, skip=None, kwargs=None, **traced):
    return Example(
        (LOGITS, LABELS), rows=(0, 1), traced=traced, kwargs=kwargs or {}, skip=skip or {}
    )


BOUND = {"num_classes": (5.0, 7.0), **TAU}
PAIR = (jnp.zeros((6, 3)) + LOGITS, OTHERS, LABELS)
STATEFUL = Stateful(
    init=lambda: aldr_kl_init(12, lambda0=0.8),
    update=lambda state, *batch: aldr_kl_update(state, *batch, lambda0=0.8),
    batches=tuple((LOGITS * (i + 1), LABELS, (np.arange(6) + 5 * i) % 12) for i in range(4)),
)

EXAMPLES = {
    "adv_comp_sum_objective": Keyed(
        (linear_scores(4, 3), X, LABELS), {"epsilon": 0.2, "num_steps": 3}
    ),
    "adversarial_comp_sum_margin_loss": loss(**TAU, rho=(0.8, 1.5)),
    "aldr_kl_init": STATEFUL,
    "aldr_kl_loss": loss(**ALDR, **MARGIN),
    "aldr_kl_temperature": Example(
        (LOGITS,),
        rows=(0,),
        traced=ALDR,
        skip={"gradient": "the temperature carries no gradient, by the envelope theorem"},
    ),
    "aldr_kl_update": STATEFUL,
    "capped_entropic_weights": Example((LOGITS,), rows=(0,), kwargs={"k": 2}, traced=TEMPERATURE),
    "comp_sum_conditional_minimizer": Example((PROBS,), rows=(0,), free=(), traced=TAU),
    "comp_sum_conditional_minimum": Example((PROBS,), rows=(0,), free=(), traced=TAU),
    "comp_sum_conditional_risk": Example((LOGITS, PROBS), rows=(0, 1), free=(0,), traced=TAU),
    "comp_sum_from_nll": Example((UNIT,), rows=(0,), traced=TAU),
    "comp_sum_gradient_weight": loss(**TAU),
    "comp_sum_loss": loss(**TAU),
    "comp_sum_phi": Example((UNIT,), rows=(0,), traced=TAU),
    "crammer_singer_loss": loss(margin=(1.0, 2.0)),
    "drift_attack": Keyed((linear_scores(4, 3), X, LABELS), {"epsilon": 0.2, "num_steps": 3}),
    "generalized_cross_entropy_loss": loss(q=(0.7, 0.4)),
    "h_consistency_bound": Example((UNIT / 9,), rows=(0,), traced=BOUND),
    "h_consistency_bound_closed": Example((UNIT / 9,), rows=(0,), traced=BOUND),
    "h_consistency_transform": Example((UNIT,), rows=(0,), free=(), traced=BOUND),
    "ldr_kl_loss": loss(**TEMPERATURE, **MARGIN),
    "ldr_kl_weights": Example((LOGITS,), rows=(0,), traced=TEMPERATURE),
    "ldr_topk_kl_loss": loss(kwargs={"k": 2}, **TEMPERATURE, **MARGIN),
    "margin_drift": Example(PAIR, rows=(0, 1, 2)),
    "mean_absolute_error_loss": loss(),
    "minimizability_gap": Example(
        (np.float32(1.0), PROBS, WEIGHTS), rows=(1, 2), result="scalar", free=(), traced=TAU
    ),
    "minimizability_gap_bound": Example(
        (np.float32(1.0), PROBS, WEIGHTS), rows=(1, 2), result="scalar", free=(), traced=TAU
    ),
    "normalize_scores": Example((LOGITS,), rows=(0,)),
    "score_gaps": loss(**MARGIN),
    "smooth_adversarial_comp_sum_loss": Example(PAIR, rows=(0, 1, 2), traced={**TAU, **SCALES}),
    "sum_exponential_loss": loss(),
    "symmetric_limit_loss": loss(**MARGIN),
}
