"""Finished runs on disk, one JSON line a block, so that an interruption loses one block at most."""

import json
import pathlib

import jax

from lossbench.bench.comparison import write_text
from lossbench.bench.errors import UsageError


class Journal:
    """The record of a comparison in the folder `out`, or none where `out` is None.

    `identity` is what must be the same for the runs on record to count: the first line.
    """

    NAME = "runs.jsonl"

    def __init__(self, out: str | pathlib.Path | None, identity: dict):
        self._done: dict[tuple, list[dict]] = {}
        self._file = None
        if out is None:
            return
        path = pathlib.Path(out)
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file; out= takes a folder")
        path.mkdir(parents=True, exist_ok=True)
        path /= self.NAME
        identity = json.loads(json.dumps(identity))  # as it reads back
        whole = self._read(path, identity) if path.exists() else []
        if jax.process_index() > 0:
            return  # the first process writes what all know
        # Written anew without a line that an interruption cut short.
        write_text(path, "".join(line + "\n" for line in [json.dumps(identity), *whole]))
        self._file = path.open("a")

    def _read(self, path: pathlib.Path, identity: dict) -> list[str]:
        lines = path.read_text().split("\n")
        try:
            found = json.loads(lines[0])
        except json.JSONDecodeError as error:
            raise UsageError(f"{path} is not a record of runs; choose another folder") from error
        changed = (
            [name for name in identity | found if identity.get(name) != found.get(name)]
            if isinstance(found, dict)
            else ["format"]
        )
        if changed:
            raise UsageError(
                f"{path.parent} holds another comparison (it differs in: {', '.join(changed)}); "
                "choose another folder, or remove this one to start over"
            )
        whole = []
        for line in lines[1:-1]:  # a whole line ends in a newline
            row = json.loads(line)
            self._done[row["loss"], row["phase"], row["first"]] = row["runs"]
            whole.append(line)
        return whole

    def get(self, loss: str, phase: int, first: int) -> list[dict] | None:
        """Return the runs of a block that is on record, or None."""
        return self._done.get((loss, phase, first))

    def add(self, loss: str, phase: int, first: int, records: list[dict]) -> None:
        """Put a block on record."""
        if self._file is not None and (loss, phase, first) not in self._done:
            row = {"loss": loss, "phase": phase, "first": first, "runs": records}
            self._file.write(json.dumps(row) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
