"""What `import lossbench` costs beside `import jax`: fresh processes, interleaved, medians.

Run: python experiments/speed/imports.py
"""

import json
import os
import pathlib
import platform
import statistics
import subprocess
import sys

import jax

RUNS = 15
CODE = "import time; start = time.perf_counter(); import {}; print(time.perf_counter() - start)"
RESULT = pathlib.Path(__file__).parent / "results" / "imports.json"


def seconds(module: str) -> float:
    """Return the time of an import in a fresh process."""
    command = [sys.executable, "-c", CODE.format(module)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def main() -> None:
    """Measure, print and save."""
    samples: dict[str, list[float]] = {"jax": [], "lossbench": []}
    for run in range(RUNS + 1):
        for module, times in samples.items():
            value = seconds(module)
            if run > 0:  # the first warms the disk cache
                times.append(value)
    medians = {module: statistics.median(times) for module, times in samples.items()}
    ratio = medians["lossbench"] / medians["jax"]
    for module, value in medians.items():
        print(f"import {module:10s} {value:.3f} s")
    print(f"ratio {ratio:.3f} (at most 1.10)")
    RESULT.parent.mkdir(exist_ok=True)
    content = {
        "seconds": samples,
        "ratio": ratio,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }
    RESULT.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
