import jax.numpy as jnp
import numpy as np
import optax
from kinds import Example, Keyed

rng = np.random.default_rng(0)
FEATURES = rng.normal(size=(6, 4)).astype(np.float32)
WEIGHTS = rng.normal(size=(4, 3)).astype(np.float32)
LABELS = np.array([0, 1, 2, 0, 1, 2])
LAW = np.array([0.1, 0.4, 0.2, 0.3], np.float32)
MAPS = rng.uniform(size=(6, 5, 4, 2)).astype(np.float32)
LOSSES, OTHER = rng.uniform(size=(2, 6)).astype(np.float32)
RANKS = {"padding": "examples are ranked among the batch, so more of them change the ranks"}
TIES = {"permutation": "equal losses, as the padded rows' are, are told apart by their place"}
WHOLE = {"weak_types": "an integer has no float dtype for the result to follow"}
KEEPS = dict.fromkeys(("bfloat16", "weak_types"), "it moves features and keeps their dtype")


def head(features, key):
    return features @ WEIGHTS


EXAMPLES = {
    "co_teaching_losses": Example(
        (LOSSES, OTHER, OTHER, LOSSES),
        rows=(0, 1, 2, 3),
        part=lambda losses: jnp.stack(losses, axis=-1),
        skip=RANKS,
    ),
    "expected_nested_loss": Example((FEATURES, WEIGHTS, LABELS, LAW), rows=(0, 2)),
    "flip_second_half": Example(
        (MAPS, jnp.array(1)), rows=(0,), kwargs={"num_samples": 2}, skip=KEEPS
    ),
    "forget_schedule": Example(
        (jnp.array(2),), rows=(), result="scalar", traced={"forget_rate": (0.2, 0.4)}, skip=WHOLE
    ),
    "multi_sample_dropout_loss": Keyed(
        (head, FEATURES, LABELS),
        {"loss_fn": optax.losses.softmax_cross_entropy_with_integer_labels, "num_samples": 2},
    ),
    "nested_dropout": Keyed((FEATURES, LAW)),
    "random_pad_pool": Keyed((MAPS,)),
    "select_width": Example(
        (FEATURES, WEIGHTS, LABELS),
        rows=(0, 2),
        result="scalar",
        differentiable=(),
        part=lambda choice: choice.accuracies.sum(),
    ),
    "small_loss_mask": Example(
        (LOSSES, 0.5), rows=(0,), differentiable=(), part=lambda mask: 1.0 * mask, skip=RANKS | TIES
    ),
    "truncation_law": Example(
        (4,),
        rows=(),
        result="scalar",
        traced={"scale": (100.0, 3.0), "mean": (0.0, 1.0)},
        part=lambda law: law[0],
        skip=WHOLE,
    ),
}
