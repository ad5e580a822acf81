"""Import and load time, each in a process of its own; memory is a row of `speed.py`."""

from __future__ import annotations

import statistics
import subprocess
import sys

from common import arguments, show

IMPORT = "import time; t = time.perf_counter(); import gem_rag; print(time.perf_counter() - t)"
LOAD = """
import time
t = time.perf_counter()
from gem_rag import GemModel
GemModel.from_pretrained(dtype="float32")
print(time.perf_counter() - t)
"""


def measured(code: str, repeats: int) -> float:
    """The number a fresh process prints; the median of several."""
    command = [sys.executable, "-c", code]
    runs = [
        subprocess.run(command, capture_output=True, text=True, check=True) for _ in range(repeats)
    ]
    return statistics.median(float(run.stdout.split()[-1]) for run in runs)


def main() -> None:
    options = arguments(__doc__).parse_args()
    show(
        {
            "import gem_rag, s": measured(IMPORT, 5),
            "load the default model from cache (imports included), s": measured(LOAD, 3),
        },
        options.json,
    )


if __name__ == "__main__":
    main()
