import json

import jax
import pytest

from lossbench.bench import reproduce
from lossbench.bench.experiment import load_experiment


@pytest.fixture
def smoke(tmp_path):
    """Run a paper's experiment at smoke size and return what it measured."""

    def run(slug):
        experiment, _ = load_experiment(slug)
        assert experiment.paper == slug
        verdict = reproduce(experiment, size="smoke", folder=tmp_path)
        json.dumps(verdict, allow_nan=False)
        numbers = jax.tree.leaves(verdict["measured"])
        assert numbers
        assert all(value is not None for value in numbers), "a figure is not finite"
        assert (tmp_path / f"{slug}.png").stat().st_size > 5000
        return verdict["measured"]

    return run
