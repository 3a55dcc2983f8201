"""The rows of `papers.toml` name what is there."""

import pytest

from lossbench.bench.experiment import checkout
from lossbench.bench.grids import GRIDS
from lossbench.bench.losses import BASELINES, resolve
from lossbench.bench.papers import families, functions, load_function, paper_of, papers


def test_slugs_and_functions_are_unique():
    slugs = [paper.slug for paper in papers()]
    assert len(set(slugs)) == len(slugs)
    assert {"classification", "robust"} <= set(families())


@pytest.mark.parametrize("paper", papers(), ids=lambda paper: paper.slug)
def test_a_row_names_what_is_there(paper):
    assert set(paper.functions) <= set(functions())
    assert (checkout() / paper.experiment).is_file()
    assert paper.title
    assert paper.authors
    assert 1980 < paper.year < 2030
    assert paper.citation.startswith(paper.authors)


def test_functions_find_their_paper():
    assert paper_of("aldr_kl_loss").slug == "ldr"
    assert load_function("aldr_kl_loss").__name__ == "aldr_kl_loss"


def test_every_grid_is_of_a_loss_that_is_there_and_fits_the_budget():
    assert set(GRIDS) <= {*functions(), *BASELINES}
    for loss in resolve(list(GRIDS)):
        settings = loss.configurations(12, (1e-4, 1e-2))
        assert len(settings) == 12
        assert len({tuple(setting.items()) for setting in settings}) == 12
        rates = sorted({setting["learning_rate"] for setting in settings})
        assert rates[0] == pytest.approx(1e-4)
        assert rates[-1] == pytest.approx(1e-2)
