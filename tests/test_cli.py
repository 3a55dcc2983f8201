"""The command line as a user types it: in a process of its own for the main paths."""

import contextlib
import importlib.metadata
import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from lossbench import cli

SMALL = ["--seeds", "2", "--tune", "3", "--tune-seeds", "1", "--steps", "20"]


def run(*arguments, cwd=None, **environment):
    return subprocess.run(
        [sys.executable, "-m", "lossbench", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=cwd,
        env={**os.environ, "COLUMNS": "140", **environment},
        check=False,
    )


def test_version():
    done = run("--version")
    assert done.returncode == 0
    assert done.stdout.strip() == importlib.metadata.version("lossbench")


def test_the_base_install_says_what_the_command_needs():
    code = "import sys; sys.modules['typer'] = None\nfrom lossbench.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stderr == "the command line needs typer: pip install 'lossbench[bench]'\n"


def test_list():
    done = run("list", "classification")
    assert done.returncode == 0
    assert "aldr_kl_loss" in done.stdout
    assert "pgd_attack" not in done.stdout
    rows = json.loads(run("list", "--json").stdout)
    assert {"family": "robust", "function": "pgd_attack"}.items() <= next(
        row for row in rows if row["function"] == "pgd_attack"
    ).items()


def test_show():
    done = run("show", "aldr_kl_loss")
    assert done.returncode == 0
    for expected in ("lambda0", "default 10.0; tuned over 0.1, 1.0, 10.0", "ICML 2023", "logits"):
        assert expected in done.stdout
    assert json.loads(run("show", "ldr_kl_loss", "--json").stdout)["family"] == "classification"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "aldr_kl_los"], "did you mean aldr_kl_loss"),
        (["list", "robustness"], "did you mean robust"),
        (["compare", "digit"], "did you mean digits"),
        (["compare", "--set", "rate"], "--set takes name=value"),
        (["compare", "digits", "--losses", "cross_entrop"], "did you mean cross_entropy"),
        (["reproduce"], "name a paper or a file"),
        (["reproduce", "lrd"], "did you mean ldr"),
        (["frobnicate"], "No such command"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(arguments, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


def test_compare_with_a_loss_of_ones_own(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import optax\n"
        "def loss(logits, labels):\n"
        "    return 2 * optax.losses.softmax_cross_entropy_with_integer_labels(logits, labels)\n"
    )
    out = tmp_path / "out"
    done = run(
        "compare", "digits", "--losses", "cross_entropy,mine:loss", "--out", str(out), *SMALL,
        cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "mine:loss" in done.stdout
    assert str(out / "comparison.html") in done.stdout.replace("\n", "")
    for ending in ("json", "csv", "png", "html"):
        assert (out / f"comparison.{ending}").stat().st_size > 0
    again = run(
        "compare", "digits", "--losses", "cross_entropy,mine:loss", "--out", str(out), *SMALL,
        "--json", cwd=tmp_path,
    )  # fmt: skip
    assert json.loads(again.stdout)["task"] == "digits"


def test_interrupt_keeps_what_is_done_and_says_how_to_go_on(tmp_path):
    arguments = [
        sys.executable, "-m", "lossbench", "compare", "digits", "--losses", "cross_entropy",
        "--seeds", "400", "--tune", "1", "--tune-seeds", "1",
    ]  # fmt: skip
    with subprocess.Popen(
        arguments, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        journal = tmp_path / "lossbench-results" / "digits" / "runs.jsonl"
        deadline = time.monotonic() + 60
        while not (journal.exists() and len(journal.read_text().splitlines()) > 1):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on from them" in stderr.replace("\n", " ")
    assert "Traceback" not in stderr
    assert len(journal.read_text().splitlines()) > 1


def test_an_interrupt_that_a_callback_drops_comes_again():
    before = signal.getsignal(signal.SIGINT)

    def work():
        with contextlib.suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        time.sleep(30)

    with cli._lasting_interrupt(), pytest.raises(KeyboardInterrupt):
        work()
    assert signal.getsignal(signal.SIGINT) is before


def test_reproduce_and_report(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "from matplotlib.figure import Figure\n"
        "from lossbench.bench import Experiment\n"
        "EXPERIMENT = Experiment(paper='mine', claim='1 < 2', run=lambda key, size: {'one': 1.0},\n"
        "    holds=lambda results: results['one'] < 2, plot=lambda results: Figure(),\n"
        "    reported={'one': 0.9})\n"
    )
    out = tmp_path / "out"
    done = run("reproduce", str(file), "--out", str(out), "--report", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "HOLDS" in done.stdout
    assert "0.9" in done.stdout
    assert "| 1 < 2 | holds |" in (pathlib.Path(out) / "README.md").read_text()
    verdicts = json.loads(run("reproduce", str(file), "--out", str(out), "--json").stdout)
    assert verdicts[0]["holds"] is True
