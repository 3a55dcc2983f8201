"""Checkpoints through orbax, guarded: orbax alone adopts foreign directories and casts silently."""

import json
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from lossbench.train.sharding import sharding_of

_NAME = "lossbench.json"
_DRAFT = "lossbench.json.draft"
_FORMAT = 1


class CheckpointError(RuntimeError):
    """The directory is not this run's checkpoint, or cannot be read or written."""


class Checkpoint:
    """The saved states of one run in one directory; use it through `open_checkpoint`.

    `lossbench.json` says which run the directory belongs to. It is written before the first save,
    and compared before anything is restored.
    """

    def __init__(self, directory: Path) -> None:
        """Look at `directory` and change nothing in it."""
        self.directory = directory
        self.saved: dict[str, Any] | None = None
        self.latest = 0
        self._manager: Any = None
        if directory.exists() and not directory.is_dir():
            raise CheckpointError(f"{directory} is a file, not a directory for checkpoints")
        if not directory.exists() or all(path.name == _DRAFT for path in directory.iterdir()):
            return
        try:
            self.saved = json.loads((directory / _NAME).read_text())
        except FileNotFoundError:
            raise CheckpointError(
                f"{directory} is not empty and holds no {_NAME}, so it is no checkpoint of "
                "lossbench: choose another directory (nothing was touched)"
            ) from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{directory / _NAME} cannot be read: {error}") from None
        self.latest = self._open().latest_step() or 0

    def claim(self, run: Mapping[str, Any]) -> None:
        """Make the directory that of `run`, or raise where it is that of another run."""
        # Each process has looked by now; whoever finds a fault says so before anyone writes.
        _wait_for_all("lossbench: looked at the checkpoint")
        run = json.loads(json.dumps({"format": _FORMAT, **run}))
        if self.saved is None:
            if jax.process_index() == 0:
                self._write(run)
            _wait_for_all("lossbench: claimed the checkpoint")
        elif self.saved != run:
            raise CheckpointError(
                f"{self.directory} holds another run: {_difference(self.saved, run)}; go on with "
                "the same arguments or choose another directory (nothing was touched)"
            )

    def _write(self, run: Mapping[str, Any]) -> None:
        draft = self.directory / _DRAFT
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            with draft.open("w") as file:
                json.dump(run, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.directory / _NAME)
        except OSError as error:
            raise CheckpointError(f"{self.directory} cannot be written: {error}") from None

    def restore(self, like: Any, mesh: Mesh | None) -> Any:
        """Return the latest state, in the structure and on the devices of the run."""
        sharding = sharding_of(mesh)

        def target(x: Any) -> Any:
            if isinstance(x, jax.ShapeDtypeStruct):
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
            return x

        with self._errors(
            f"the checkpoint {self.directory / str(self.latest)} cannot be read",
            "nothing was touched; move that folder away to go on from an older step, if there is "
            "one, or the whole directory to begin again",
        ):
            return self._open().restore(
                self.latest, args=_standard("Restore", jax.tree.map(target, like))
            )

    def save(self, step: int, tree: Any) -> None:
        """Write the state after `step` steps; the disk works while the training goes on."""
        with self._errors(f"the checkpoint of step {step} cannot be written to {self.directory}"):
            self._open().save(step, args=_standard("Save", tree), force=True)

    def close(self) -> None:
        """Wait until everything is on the disk."""
        if self._manager is not None:
            with self._errors(f"a checkpoint could not be written to {self.directory}"):
                self._manager.wait_until_finished()
            self._manager.close()

    def _open(self) -> Any:
        if self._manager is None:
            orbax = _orbax()
            # Two, so that a kill while the old one is deleted never leaves the newest half gone.
            options = orbax.CheckpointManagerOptions(max_to_keep=2)
            with self._errors(f"{self.directory} cannot be opened"):
                self._manager = orbax.CheckpointManager(self.directory.absolute(), options=options)
        return self._manager

    @contextmanager
    def _errors(self, what: str, advice: str = "") -> Iterator[None]:
        """Say in one sentence what orbax says in pages."""
        try:
            yield
        except Exception as error:
            first = str(error).strip().partition("\n")[0][:200]
            sentence = f"{what} ({type(error).__name__}: {first})"
            raise CheckpointError(f"{sentence}; {advice}" if advice else sentence) from error


@contextmanager
def open_checkpoint(directory: str | os.PathLike[str] | None) -> Iterator[Checkpoint | None]:
    """Yield the checkpoint in `directory`, and wait at the end until it is on the disk."""
    if directory is None:
        yield None
        return
    _orbax()
    quiet = _Quiet()
    logging.getLogger("absl").addFilter(quiet)
    try:
        store = Checkpoint(Path(directory))
        try:
            yield store
        finally:
            store.close()
    finally:
        logging.getLogger("absl").removeFilter(quiet)


class _Quiet(logging.Filter):
    """Drop orbax's remarks (half-written folders and the like, which are expected here)."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "orbax" not in record.pathname


def _orbax() -> Any:
    try:
        import orbax.checkpoint
    except ImportError:
        raise ImportError("checkpoints need orbax: pip install 'lossbench[bench]'") from None
    return orbax.checkpoint


def _standard(kind: str, tree: Any) -> Any:
    return getattr(_orbax().args, f"Standard{kind}")(tree)


def _wait_for_all(name: str) -> None:
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def _difference(saved: Mapping[str, Any], run: Mapping[str, Any]) -> str:
    """Name what differs, entry by entry, at most five of them."""
    old, new = _flat(saved), _flat(run)
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    parts = [f"{name} was {old.get(name)}, is {new.get(name)}" for name in names[:5]]
    return ", ".join([*parts, f"and {len(names) - 5} more"] if len(names) > 5 else parts)


def _flat(entries: Any) -> dict[str, Any]:
    if not isinstance(entries, dict):
        return {"it": entries}
    flat: dict[str, Any] = {}
    for name, value in entries.items():
        if isinstance(value, dict):
            flat |= {f"{name}{below}": leaf for below, leaf in value.items()}
        else:
            flat[name] = value
    return flat
