"""The statistics against scipy and hand calculation, and the files."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from lossbench.bench import Comparison
from lossbench.bench.comparison import interval, paired_p_value
from lossbench.bench.errors import UsageError


def test_interval_is_students():
    values = np.random.default_rng(0).normal(size=9)
    expected = stats.t.interval(0.95, 8, loc=values.mean(), scale=stats.sem(values))
    np.testing.assert_allclose(interval(values), expected)
    assert interval(values[:1]) == (values[0], values[0])


def test_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(1)
    covered = [low < 0 < high for low, high in map(interval, rng.normal(size=(2000, 5)))]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.015)


def test_paired_test_is_scipys():
    rng = np.random.default_rng(2)
    a, b = rng.normal(size=(2, 10))
    np.testing.assert_allclose(paired_p_value(a, b), stats.ttest_rel(a, b).pvalue)
    assert np.isnan(paired_p_value(a, a))
    assert np.isnan(paired_p_value(a[:1], b[:1]))


def test_table(comparison):
    table = comparison.to_pandas()
    scores = {name: result.scores("accuracy") for name, result in comparison.results.items()}
    assert list(table["mean"]) == sorted(table["mean"], reverse=True)
    for name, values in scores.items():
        assert table.loc[name, "mean"] == pytest.approx(values.mean())
        assert table.loc[name, "worst"] == values.min()
        # Rank by counting: one more than the losses ahead, ties sharing their places.
        ranks = [
            1
            + sum(other[seed] > values[seed] for other in scores.values())
            + (sum(other[seed] == values[seed] for other in scores.values()) - 1) / 2
            for seed in range(5)
        ]
        assert table.loc[name, "rank"] == pytest.approx(np.mean(ranks))


def test_minimized_metric_ranks_the_smallest_first(comparison):
    table = comparison.to_pandas("nll")
    assert list(table["mean"]) == sorted(table["mean"])
    worst = comparison.results["squared"].scores("nll").max()
    assert table.loc["squared", "worst"] == worst


def test_saved_and_loaded_is_the_same(comparison, tmp_path):
    folder = comparison.save(tmp_path / "new" / "folder")
    assert Comparison.load(folder) == comparison
    content = json.loads((folder / "comparison.json").read_text())
    assert set(content["environment"]) >= {"jax", "optax", "python", "device", "created"}
    assert len(content["results"]["squared"]["test"]["accuracy"]) == 5
    assert (folder / "comparison.csv").read_text().startswith("loss,mean,low,high,worst,rank")
    assert (folder / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert not list(folder.glob("*.tmp"))


def test_what_cannot_be_loaded_says_so(comparison, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"comparison\.json is not there"):
        Comparison.load(tmp_path)
    (tmp_path / "comparison.json").write_text("{")
    with pytest.raises(UsageError, match="cannot be read"):
        Comparison.load(tmp_path)
    (tmp_path / "comparison.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="another format"):
        Comparison.load(tmp_path)


def test_values_that_are_not_finite_survive_saving(comparison, tmp_path):
    result = comparison.results["squared"]
    curves = [[*curve[:-1], None] for curve in result.test["accuracy"]]
    broken = dataclasses.replace(result, test={**result.test, "accuracy": curves})
    changed = dataclasses.replace(comparison, results={**comparison.results, "squared": broken})
    loaded = Comparison.load(changed.save(tmp_path))
    assert np.isnan(loaded.results["squared"].scores("accuracy")).all()
    assert loaded.to_pandas().index[-1] == "squared"


def test_shows_itself_in_a_notebook(comparison):
    html = comparison._repr_html_()
    assert "<table" in html
    assert all(name in html for name in comparison.results)
