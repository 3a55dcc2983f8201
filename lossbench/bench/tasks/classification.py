"""Tasks of class scores and labels."""

import functools
import operator
import pathlib
import types
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from lossbench.bench import models
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.tasks.task import Batch, Task
from lossbench.data import (
    class_subsample,
    instance_dependent_label_noise,
    pair_flip_label_noise,
    symmetric_label_noise,
)


def accuracy(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the share of examples whose largest logit is the label's."""
    return jnp.mean(outputs["logits"].argmax(-1) == outputs["labels"])


def balanced_accuracy(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the mean over classes, of those present, of the share that is found."""
    labels, logits = outputs["labels"], outputs["logits"]
    present = jax.nn.one_hot(labels, logits.shape[-1])
    count = present.sum(0)
    found = (present * (logits.argmax(-1) == labels)[:, None]).sum(0)
    return jnp.sum(found / jnp.maximum(count, 1)) / jnp.sum(count > 0)


def negative_log_likelihood(outputs: Mapping[str, jax.Array]) -> jax.Array:
    """Return the mean negative log-likelihood of the labels under softmax, in nats."""
    log_probabilities = jax.nn.log_softmax(outputs["logits"])
    return -jnp.mean(jnp.take_along_axis(log_probabilities, outputs["labels"][:, None], -1))


def classification_task(
    name: str,
    description: str,
    x: np.ndarray,
    labels: np.ndarray,
    *,
    test_size: int,
    hidden: int = 128,
    validation_share: float = 0.2,
    scale_features: bool = False,
    corrupt: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None,
    train_counts: tuple[int, ...] | None = None,
    metrics: Mapping[str, Callable] = types.MappingProxyType(
        {"accuracy": accuracy, "nll": negative_log_likelihood}
    ),
    objective: str = "accuracy",
    settings: Mapping[str, Any] = types.MappingProxyType({}),
    **options: Any,
) -> Task:
    """Return a task that classifies `x`, `(n, d)` or images, into `labels`, `(n,)` from 0 on.

    Features are centred and divided by one common scale, or each by its own (`scale_features`);
    the test split has no say in either. A stratified test split is drawn once; training and
    validation examples are split anew for each seed. `corrupt(key, x, labels)` changes the labels
    of both, never of the test split. `train_counts` subsamples the training split to that many
    examples of each class.
    """
    from sklearn.model_selection import train_test_split

    x = np.asarray(x, np.float32).reshape(len(x), -1)
    if not np.issubdtype(np.asarray(labels).dtype, np.integer):
        raise UsageError(f"labels must be whole numbers, got {np.asarray(labels).dtype}")
    labels = np.asarray(labels, np.int32)
    classes = int(labels.max()) + 1
    if labels.min() < 0 or len(np.unique(labels)) != classes:
        raise UsageError(f"labels must be 0 ... {classes - 1}, each present at least once")
    rest_x, test_x, rest_labels, test_labels = train_test_split(
        x, labels, test_size=test_size, stratify=labels, random_state=0
    )
    centre, scale = rest_x.mean(0), rest_x.std(0 if scale_features else None)
    if not np.all(scale > 0):
        raise UsageError("a feature is constant, so it cannot be scaled; remove it")
    rest_x, test_x = (rest_x - centre) / scale, (test_x - centre) / scale
    validation_size = round(validation_share * len(rest_x))
    model = models.mlp((x.shape[1], hidden, classes))

    def splits(key: jax.Array) -> dict[str, Batch]:
        split_key, noise_key, class_key = jax.random.split(key, 3)
        order = jax.random.permutation(split_key, len(rest_x))
        chosen_x, chosen_labels = jnp.asarray(rest_x)[order], jnp.asarray(rest_labels)[order]
        if corrupt is not None:
            chosen_labels = corrupt(noise_key, chosen_x, chosen_labels)
        rows = {"x": chosen_x, "labels": chosen_labels}
        train = jax.tree.map(operator.itemgetter(slice(validation_size, None)), rows)
        if train_counts is not None:
            kept = class_subsample(class_key, train["labels"], counts=train_counts)
            train = jax.tree.map(operator.itemgetter(kept), train)
        return {
            "train": train,
            "validation": jax.tree.map(operator.itemgetter(slice(validation_size)), rows),
            "test": {"x": jnp.asarray(test_x), "labels": jnp.asarray(test_labels)},
        }

    def outputs(params: Any, batch: Batch, key: jax.Array) -> dict[str, jax.Array]:
        return {**model.apply(params, batch["x"]), "labels": batch["labels"], "key": key}

    train_size = sum(train_counts) if train_counts else len(rest_x) - validation_size
    return Task(
        name=name,
        description=description,
        splits=splits,
        init=model.init,
        outputs=outputs,
        metrics=metrics,
        objective=objective,
        minimized=tuple(name for name in metrics if name == "nll"),
        settings={
            **settings,
            "train": train_size,
            "validation": validation_size,
            "test": len(test_x),
            "model": f"MLP {x.shape[1]}-{hidden}-{classes}",
        },
        **options,
    )


def digits(**options: Any) -> Task:
    """Scikit-learn's 1797 handwritten digits, 8 x 8 pixels, 10 classes."""
    from sklearn.datasets import load_digits

    x, labels = load_digits(return_X_y=True)
    return classification_task(
        **{
            "name": "digits",
            "description": "handwritten digits (8 x 8 pixels, 10 classes)",
            "x": x,
            "labels": labels,
            "test_size": 797,
            **options,
        }
    )


NOISES = ("symmetric", "pair-flip", "instance-dependent")


def _add_noise(
    key: jax.Array, x: jax.Array, labels: jax.Array, *, noise: str, rate: float
) -> jax.Array:
    if noise == "symmetric":
        return symmetric_label_noise(key, labels, num_classes=10, rate=rate)
    if noise == "pair-flip":
        return pair_flip_label_noise(key, labels, num_classes=10, rate=rate)
    return instance_dependent_label_noise(key, x, labels, num_classes=10, rate=rate)


def noisy_digits(*, noise: str = "symmetric", rate: float = 0.4) -> Task:
    """Digits with noisy labels in training and validation, and a clean test split.

    `noise` is `symmetric` (with probability `rate` a label becomes another one, drawn uniformly),
    `pair-flip` (it becomes the next class) or `instance-dependent` (the chance and the target
    depend on the image; `rate` is the mean). The definitions stand in `lossbench.data`.
    """
    if noise not in NOISES:
        raise UnknownNameError("noise", noise, NOISES)
    if not 0 <= rate < 1:
        raise UsageError(f"rate must lie in [0, 1), got {rate}")
    return digits(
        name="noisy-digits",
        description=f"handwritten digits, {rate:.0%} {noise} label noise, clean test",
        corrupt=functools.partial(_add_noise, noise=noise, rate=rate),
        settings={"noise": noise, "rate": rate},
    )


def breast_cancer(*, imbalance: float | None = None) -> Task:
    """Scikit-learn's breast cancer data: 30 features, malignant (0) or benign (1).

    There are 1.7 benign examples for a malignant one. `imbalance` thins the training split to 160
    benign examples and that many times fewer malignant ones (at least 2.4 times); validation and
    test keep their natural shares. Ranked by balanced accuracy.
    """
    from sklearn.datasets import load_breast_cancer

    x, labels = load_breast_cancer(return_X_y=True)
    benign, malignant = 160, None  # every seed's training split has at least 170 and 68
    if imbalance is not None:
        malignant = round(benign / imbalance)
        if not 1 <= malignant <= 67:
            raise UsageError(f"imbalance must lie in [2.4, {benign}], got {imbalance}")
    return classification_task(
        name="breast-cancer",
        description="malignant or benign tumour, "
        + ("natural shares" if imbalance is None else f"{imbalance:g} benign to 1 malignant"),
        x=x,
        labels=labels,
        test_size=171,
        hidden=32,
        scale_features=True,
        train_counts=None if malignant is None else (malignant, benign),
        metrics={
            "balanced accuracy": balanced_accuracy,
            "accuracy": accuracy,
            "nll": negative_log_likelihood,
        },
        objective="balanced accuracy",
        settings={"imbalance": "natural" if imbalance is None else imbalance},
        steps=500,
        batch_size=32,
    )


def from_folder(path: str | pathlib.Path, *, test_share: float = 0.3, **options: Any) -> Task:
    """Return a classification task on the user's own data.

    `path` is an `.npz` file with arrays `x` `(n, ...)` and `labels` `(n,)`, a folder that holds
    one, or a folder of images with one sub-folder a class (all images of one size; read in colour
    if any has colour). `options` go to `classification_task`.

    Raises `FileNotFoundError` where nothing is there, `ValueError` where it cannot be used.
    """
    path = pathlib.Path(path)
    if not path.exists():
        raise FileNotFoundError(f"no data at {path}: give an .npz file or a folder")
    archives = [path] if path.is_file() else sorted(path.glob("*.npz"))
    if len(archives) > 1:
        raise UsageError(f"{path} holds {len(archives)} .npz files; name the one to use")
    names: list[str] = []
    if archives:
        x, labels = _read_archive(archives[0])
    else:
        x, labels, names = _read_images(path)
    return classification_task(
        **{
            "name": path.stem,
            "description": f"{len(x)} examples of {len(np.unique(labels))} classes from {path}",
            "x": x,
            "labels": labels,
            "test_size": round(test_share * len(x)),
            "settings": {"classes": ", ".join(names)} if names else {},
            **options,
        }
    )


def _read_archive(path: pathlib.Path) -> tuple[np.ndarray, np.ndarray]:
    try:
        with np.load(path) as archive:
            arrays = dict(archive)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is not a readable .npz file: {error}") from error
    missing = {"x", "labels"} - set(arrays)
    if missing:
        raise UsageError(f"{path} lacks {sorted(missing)}; it holds {sorted(arrays)}")
    if len(arrays["x"]) != len(arrays["labels"]):
        raise UsageError(
            f"{path}: x has {len(arrays['x'])} rows but labels {len(arrays['labels'])}"
        )
    return arrays["x"], arrays["labels"]


def _read_images(folder: pathlib.Path) -> tuple[np.ndarray, np.ndarray, list[str]]:
    from PIL import Image

    endings = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff"}
    classes = sorted(d for d in folder.iterdir() if d.is_dir())
    files = [
        (file, label)
        for label, directory in enumerate(classes)
        for file in sorted(directory.iterdir())
        if file.suffix.lower() in endings
    ]
    if not files:
        raise UsageError(f"{folder} holds neither an .npz file nor sub-folders of images")
    images = []
    for file, _ in files:
        with Image.open(file) as image:
            images.append(np.asarray(image.convert("RGB"), np.float32) / 255)
        if images[-1].shape != images[0].shape:
            raise UsageError(
                f"{file} is {images[-1].shape[:2]}, but {files[0][0]} is {images[0].shape[:2]}; "
                "bring all images to one size first"
            )
    return np.stack(images), np.array([label for _, label in files]), [d.name for d in classes]


TASKS: dict[str, Callable[..., Task]] = {
    "breast-cancer": breast_cancer,
    "digits": digits,
    "noisy-digits": noisy_digits,
}
