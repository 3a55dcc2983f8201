"""PULASki: sets of masks as the target of a probabilistic segmentation, against one at a time."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax
from matplotlib.figure import Figure

from lossbench import train
from lossbench.bench import Experiment
from lossbench.bench.experiment import Size
from lossbench.transport import (
    energy_set_loss,
    focal_tversky_loss,
    generalized_energy_distance,
    max_dice,
    probabilistic_unet_elbo,
    pulaski_objective,
    sample_diversity,
    sinkhorn_set_loss,
)

PIXELS, CHANNELS, HIDDEN, LATENTS = 16, 12, 24, 4
METHODS = (
    "cross-entropy, KL 1",
    "cross-entropy, KL 10",
    "focal Tversky, KL 1",
    "focal Tversky, KL 0.01",
    "energy",
    "energy, unbiased",
    "Sinkhorn",
)
BASELINES = METHODS[:4]


@functools.partial(jax.jit, static_argnames="count")
def discs(key: jax.Array, count: int) -> dict[str, jax.Array]:
    """Images of a sure and a faint disc; two raters mark the sure one only, two mark both."""

    def draw(key: jax.Array) -> dict[str, jax.Array]:
        first, second, intensity, noise = jax.random.split(key, 4)
        sure = jax.random.uniform(first, (2,), minval=3, maxval=PIXELS - 4)
        candidates = jax.random.uniform(second, (50, 2), minval=3, maxval=PIXELS - 4)
        apart = jnp.linalg.norm(candidates - sure, axis=1) > 5
        faint = candidates[jnp.argmax(apart)]
        grid = jnp.stack(jnp.meshgrid(jnp.arange(PIXELS), jnp.arange(PIXELS), indexing="ij"), -1)

        def disc(centre: jax.Array, radius: float) -> jax.Array:
            return (jnp.linalg.norm(grid - centre, axis=-1) <= radius).astype(jnp.float32)

        light = jax.random.uniform(intensity, minval=0.3, maxval=0.8)
        second_disc = disc(faint, 1.5)
        small, large = disc(sure, 1.5), disc(sure, 2.5)
        image = disc(sure, 2.0) + light * second_disc
        image += 0.3 * jax.random.normal(noise, image.shape)
        both = [jnp.maximum(small, second_disc), jnp.maximum(large, second_disc)]
        return {"image": image, "masks": jnp.stack([small, large, *both])}

    return jax.vmap(draw)(jax.random.split(key, count))


def init(key: jax.Array) -> dict[str, Any]:
    """A convolutional encoder each for features, prior and posterior; a pixelwise decoder."""
    keys = iter(jax.random.split(key, 20))

    def weights(*shape: int) -> jax.Array:
        fan_in = np.prod(shape[:-1])
        return jax.random.normal(next(keys), shape) * np.sqrt(2 / fan_in)

    def encoder(inputs: int) -> dict[str, Any]:
        return {
            "convolutions": [weights(9 * inputs, CHANNELS), weights(9 * CHANNELS, CHANNELS)],
            "biases": [jnp.zeros(CHANNELS), jnp.zeros(CHANNELS)],
            "head": 0.1 * weights(CHANNELS, 2 * LATENTS),
        }

    return {
        "features": encoder(1),
        "prior": encoder(1),
        "posterior": encoder(2),
        "from_features": weights(CHANNELS, HIDDEN),
        "from_latent": weights(LATENTS, HIDDEN),
        "hidden": weights(HIDDEN, HIDDEN),
        "biases": [jnp.zeros(HIDDEN), jnp.zeros(HIDDEN)],
        "out": weights(HIDDEN),
        "out_bias": jnp.full((), -2.0),
    }


def convolve(params: dict[str, Any], x: jax.Array) -> jax.Array:
    # As products: on CPU the gradients of XLA's own convolutions compile and run slowly.
    for kernel, bias in zip(params["convolutions"], params["biases"], strict=True):
        height, width, _ = x.shape
        padded = jnp.pad(x, ((1, 1), (1, 1), (0, 0)))
        shifts = [padded[i : i + height, j : j + width] for i in range(3) for j in range(3)]
        x = jax.nn.relu(jnp.concatenate(shifts, axis=-1) @ kernel + bias)
    return x


def networks(params: dict[str, Any]) -> tuple[Any, Any, Any]:
    def gaussian(part: str, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        halved = image.reshape(PIXELS // 2, 2, PIXELS // 2, 2, -1).mean((1, 3))
        pooled = convolve(params[part], halved).mean((0, 1))
        mean, log_variance = jnp.split(pooled @ params[part]["head"], 2)
        return mean, log_variance

    def encode_prior(image: jax.Array) -> tuple[jax.Array, jax.Array]:
        return gaussian("prior", image[..., None])

    def encode_posterior(image: jax.Array, mask: jax.Array) -> tuple[jax.Array, jax.Array]:
        return gaussian("posterior", jnp.stack([image, mask], -1))

    def decode(image: jax.Array, latent: jax.Array) -> jax.Array:
        features = convolve(params["features"], image[..., None]) @ params["from_features"]
        x = jax.nn.relu(features + latent @ params["from_latent"] + params["biases"][0])
        x = jax.nn.relu(x @ params["hidden"] + params["biases"][1])
        return x @ params["out"] + params["out_bias"]

    return encode_prior, encode_posterior, decode


def objective(method: jax.Array, key: jax.Array, *args: Any) -> jax.Array:
    """The method's objective of each item: few copies of the networks, so that it compiles fast."""
    kl_weight = jnp.array([1.0, 10.0, 1.0, 0.01, 1.0, 1.0, 1.0])[method]

    def one_mask() -> jax.Array:
        def reconstruction(logits: jax.Array, masks: jax.Array) -> jax.Array:
            pixelwise = optax.losses.sigmoid_binary_cross_entropy(logits, masks)
            overlap = focal_tversky_loss(jax.nn.sigmoid(logits), masks)
            return jnp.where(method < 2, pixelwise.sum((1, 2)), overlap)

        return probabilistic_unet_elbo(
            key, *args, reconstruction=reconstruction, kl_weight=kl_weight
        )[0]

    def all_masks() -> jax.Array:
        distances = (
            energy_set_loss,
            functools.partial(energy_set_loss, unbiased=True),
            functools.partial(sinkhorn_set_loss),
        )

        def distance(predictions: jax.Array, masks: jax.Array) -> jax.Array:
            return lax.switch(method - len(BASELINES), distances, predictions, masks)

        return pulaski_objective(key, *args, distance=distance, kl_weight=kl_weight)[0]

    return lax.cond(method < len(BASELINES), one_mask, all_masks)


def draw_samples(params: Any, images: jax.Array, key: jax.Array, count: int) -> jax.Array:
    """Segmentations (b, count, ...) at draws from the prior."""
    encode_prior, _, decode = networks(params)
    mean, log_variance = jax.vmap(encode_prior)(images)
    noise = jax.random.normal(key, (count, *mean.shape))
    latents = mean + jnp.exp(log_variance / 2) * noise
    logits = jax.vmap(jax.vmap(decode, (None, 0)), (0, 1))(images, latents)
    return jax.nn.sigmoid(logits)


def run(key: jax.Array, size: Size) -> dict[str, Any]:
    seeds, steps, count, tests = (3, 500, 512, 128) if size == "full" else (2, 2, 32, 8)
    data_key, test_key, seed_key, sample_key = jax.random.split(key, 4)
    # Made outside of the trainings' program, whose compiler would evaluate them at length.
    test, examples = discs(test_key, tests), discs(data_key, count)

    def member(hyperparameters: dict[str, jax.Array], key: jax.Array) -> train.Run:
        def loss_fn(params: Any, state: Any, batch: Any, key: jax.Array) -> Any:
            draw, chosen = jax.random.split(key)
            images, masks = batch["image"], batch["masks"]
            rater = jax.random.randint(chosen, (len(images),), 0, masks.shape[1])
            values = objective(
                hyperparameters["method"], draw, *networks(params), images, masks, rater
            )
            return values.mean(), (state, {})

        def evaluate(params: Any, state: Any) -> dict[str, jax.Array]:
            samples = draw_samples(params, test["image"], sample_key, 16)
            return {
                "distance": generalized_energy_distance(samples, test["masks"]).mean(),
                "dice": max_dice(samples, test["masks"]).mean(),
                "diversity": sample_diversity(samples).mean(),
            }

        # All methods start from the same parameters and see the same examples.
        return train.Run(loss_fn, init(key), optax.adam(1e-3), examples, evaluate=evaluate)

    result = train.sweep(
        member,
        {"method": np.repeat(np.arange(len(METHODS)), seeds)},
        keys=jnp.tile(jax.random.split(seed_key, seeds), len(METHODS)),
        steps=steps,
        batch_size=16,
        log_every=steps,
        progress=False,
    )
    found = {
        name: values[:, -1].reshape(len(METHODS), seeds)
        for name, values in result.history["evaluate"].items()
        if name != "step"
    }
    results: dict[str, Any] = {
        "generalised energy distance": dict(zip(METHODS, found["distance"], strict=True)),
        "best Dice": dict(zip(METHODS, found["dice"].mean(1), strict=True)),
        "diversity": dict(zip(METHODS, found["diversity"].mean(1), strict=True)),
        "raters' diversity": float(sample_diversity(test["masks"]).mean()),
    }
    for name, values in zip(METHODS, found["distance"], strict=True):
        results[f"GED: {name}"] = float(values.mean())
    # One image, its masks, and samples of two methods, for the picture.
    last = {name: -(len(METHODS) - i) * seeds for i, name in enumerate(METHODS)}
    for name in ("cross-entropy, KL 1", "energy"):
        params = jax.tree.map(lambda leaf, i=last[name]: leaf[i], result.params)
        results[f"samples: {name}"] = draw_samples(params, test["image"][:1], sample_key, 4)[0]
    results["image"], results["masks"] = test["image"][0], test["masks"][0]
    return results


def holds(results: dict[str, Any]) -> bool:
    distances = results["generalised energy distance"]
    energy = np.asarray(distances["energy"])

    def ahead(other: np.ndarray) -> bool:
        pooled = np.sqrt((energy.var(ddof=1) + other.var(ddof=1)) / len(energy))
        return bool(other.mean() - energy.mean() > pooled)

    return all(ahead(np.asarray(distances[name])) for name in BASELINES)


def plot(results: dict[str, Any]) -> Figure:
    figure = Figure(figsize=(13, 4.6), layout="constrained")
    parts: Any = figure.subfigures(1, 2, width_ratios=(1.5, 1))
    distance, diversity = parts[0].subplots(1, 2, sharey=True)
    rows = np.arange(len(METHODS))
    for row, name in enumerate(METHODS):
        values = np.asarray(results["generalised energy distance"][name])
        colour = "tab:orange" if name in BASELINES else "tab:blue"
        distance.plot(values, np.full(len(values), row), "o", color=colour)
        diversity.barh(row, results["diversity"][name], color=colour)
    distance.set(
        yticks=rows, yticklabels=METHODS, xlabel="generalised energy distance (a dot a seed)"
    )
    distance.set_xlim(left=0)
    distance.invert_yaxis()
    diversity.axvline(results["raters' diversity"], color="black", linestyle=":")
    diversity.set_xlabel("diversity of samples (dotted: of raters)")
    pictures = {
        "image": [results["image"]],
        "raters": results["masks"],
        "cross-entropy": results["samples: cross-entropy, KL 1"],
        "energy": results["samples: energy"],
    }
    axes = parts[1].subplots(4, 4)
    for row, (name, images) in zip(axes, pictures.items(), strict=True):
        for axis in row:
            axis.set_axis_off()
        row[0].set_title(name, fontsize=9)
        for axis, image in zip(row, images, strict=False):
            axis.imshow(np.asarray(image), cmap="gray", vmin=0, vmax=1)
    return figure


EXPERIMENT = Experiment(
    paper="pulaski",
    claim="trained on the set of all raters' masks by the energy distance, a probabilistic "
    "segmentation has a smaller generalised energy distance to them than trained on one mask at a "
    "time by cross-entropy or focal Tversky, by more than a pooled standard error",
    run=run,
    holds=holds,
    plot=plot,
    reported={"GED: energy": "best or second of 7 methods (vessels, MS lesions)"},
    remark="A wide margin: 0.21 where the best of the baselines has 0.34, in every seed. The "
    "samples are nearly as diverse as the raters, those of the baselines half as much "
    "or less. The Sinkhorn distance, at geomloss's blur, is not reliable here: two "
    "seeds end at 0.25 and 0.29, one predicts nothing at all.",
)
