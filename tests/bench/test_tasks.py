"""Tasks: the splits are what they say, and a user's own data is read or refused with a reason."""

import jax
import numpy as np
import pytest
from sklearn import metrics
from sklearn.datasets import load_digits

from lossbench.bench import classification_task, from_folder, load_task
from lossbench.bench.errors import UnknownNameError, UsageError
from lossbench.bench.tasks.classification import (
    accuracy,
    balanced_accuracy,
    negative_log_likelihood,
)


def rows(split):
    return {row.tobytes() for row in np.asarray(split["x"])}


@pytest.fixture(scope="module")
def digits():
    return load_task("digits")


def test_splits_are_disjoint_and_whole(digits):
    splits = jax.jit(digits.splits)(jax.random.key(0))
    assert {name: len(split["x"]) for name, split in splits.items()} == {
        "train": 800,
        "validation": 200,
        "test": 797,
    }
    seen = [rows(split) for split in splits.values()]
    distinct = len({row.tobytes() for row in load_digits().data})
    assert len(set.union(*seen)) == distinct
    assert sum(map(len, seen)) == distinct


def test_the_test_split_is_the_same_for_every_seed(digits):
    first, second = (digits.splits(jax.random.key(seed)) for seed in (0, 1))
    np.testing.assert_array_equal(first["test"]["x"], second["test"]["x"])
    assert not np.array_equal(first["train"]["x"], second["train"]["x"])


@pytest.mark.parametrize("noise", ["symmetric", "pair-flip", "instance-dependent"])
def test_noise_is_in_train_and_validation_only(digits, noise):
    noisy = load_task("noisy-digits", noise=noise, rate=0.3)
    key = jax.random.key(0)
    clean, corrupted = digits.splits(key), noisy.splits(key)
    for split in ("train", "validation"):
        np.testing.assert_array_equal(clean[split]["x"], corrupted[split]["x"])
        flipped = np.mean(clean[split]["labels"] != corrupted[split]["labels"])
        assert flipped == pytest.approx(0.3, abs=0.11)  # 3.4 standard deviations at n = 200
    np.testing.assert_array_equal(clean["test"]["labels"], corrupted["test"]["labels"])
    assert (noisy.settings["noise"], noisy.settings["rate"]) == (noise, 0.3)


def test_breast_cancer_imbalance():
    labels = load_task("breast-cancer", imbalance=10).splits(jax.random.key(3))["train"]["labels"]
    assert np.bincount(labels).tolist() == [16, 160]
    natural = load_task("breast-cancer").splits(jax.random.key(3))["train"]["labels"]
    assert len(natural) == 318


def test_metrics_are_sklearns():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    labels = rng.integers(0, 3, 50)  # class 3 never occurs
    outputs = {"logits": jax.numpy.asarray(logits), "labels": jax.numpy.asarray(labels)}
    guess = logits.argmax(-1)
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    assert accuracy(outputs) == pytest.approx(metrics.accuracy_score(labels, guess))
    expected = np.mean([np.mean(guess[labels == c] == c) for c in range(3)])
    assert balanced_accuracy(outputs) == pytest.approx(expected)
    assert negative_log_likelihood(outputs) == pytest.approx(
        metrics.log_loss(labels, probabilities, labels=range(4)), rel=1e-5
    )


@pytest.fixture
def archive(tmp_path):
    rng = np.random.default_rng(0)
    path = tmp_path / "mine.npz"
    np.savez(path, x=rng.normal(size=(60, 5, 2)), labels=np.arange(60) % 3)
    return path


@pytest.mark.parametrize("name", ["", "mine.npz"])
def test_reads_an_archive(archive, name):
    task = from_folder(archive.parent / name, validation_share=0.25)
    splits = task.splits(jax.random.key(0))
    assert {name: split["x"].shape for name, split in splits.items()} == {
        "train": (32, 10),
        "validation": (10, 10),
        "test": (18, 10),
    }
    # Features are standardised by what is not the test split.
    known = np.concatenate([splits["train"]["x"], splits["validation"]["x"]])
    np.testing.assert_allclose(known.mean(0), 0, atol=1e-6)
    assert load_task(str(archive)).name == "mine"


def test_reads_a_folder_of_images(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = rng.integers(0, 256, (4, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    task = from_folder(tmp_path)
    assert task.settings["classes"] == "cat, dog"
    assert task.splits(jax.random.key(0))["test"]["x"].shape == (6, 72)
    Image.fromarray(np.zeros((3, 3), np.uint8)).save(tmp_path / "dog" / "small.png")
    with pytest.raises(UsageError, match="bring all images to one size"):
        from_folder(tmp_path)


def test_data_that_cannot_be_used_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no data at .*give an \.npz file or a folder"):
        from_folder(tmp_path / "nowhere")
    with pytest.raises(UsageError, match=r"neither an \.npz file nor sub-folders"):
        from_folder(tmp_path)
    path = tmp_path / "mine.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(UsageError, match="not a readable"):
        from_folder(tmp_path)
    np.savez(path, x=np.zeros((3, 2)))
    with pytest.raises(UsageError, match=r"lacks \['labels'\]; it holds \['x'\]"):
        from_folder(tmp_path)
    np.savez(path, x=np.zeros((3, 2)), labels=np.zeros(2))
    with pytest.raises(UsageError, match="x has 3 rows but labels 2"):
        from_folder(tmp_path)
    np.savez(tmp_path / "second.npz", x=np.zeros(1))
    with pytest.raises(UsageError, match=r"holds 2 \.npz files"):
        from_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "settings", "error", "message"),
    [
        ("noisy-digit", {}, UnknownNameError, "did you mean noisy-digits"),
        ("noisy-digits", {"noise": "pairflip"}, UnknownNameError, "did you mean pair-flip"),
        ("noisy-digits", {"rat": 0.1}, UnknownNameError, "did you mean rate"),
        ("noisy-digits", {"rate": 1.5}, UsageError, r"rate must lie in \[0, 1\)"),
        ("breast-cancer", {"imbalance": 0.5}, UsageError, r"imbalance must lie in \[2.4, 160\]"),
    ],
)
def test_unknown_tasks_and_settings_are_refused(name, settings, error, message):
    with pytest.raises(error, match=message):
        load_task(name, **settings)


def test_labels_must_be_classes():
    x = np.eye(12)
    with pytest.raises(UsageError, match=r"labels must be 0 \.\.\. 3"):
        classification_task("t", "t", x, np.array([0, 3] * 6), test_size=4)
    with pytest.raises(UsageError, match="whole numbers"):
        classification_task("t", "t", x, np.array([0.5, 1.5] * 6), test_size=4)


def test_an_objective_must_be_measured(digits):
    with pytest.raises(UnknownNameError, match="unknown metric 'acuracy'; did you mean accuracy"):
        type(digits)(**{**vars(digits), "objective": "acuracy"})
