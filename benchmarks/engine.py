"""The engine beside an older commit's code and beside llama.cpp: all sides in one run.

    python benchmarks/engine.py --beside /path/to/old/python --json engine.json

Every number is measured in a process of its own, the sides in turns; a column "x" says how many
times better the first side is, with the smallest and largest ratio of a round. The other side is an
environment of its own with the older commit:

    git worktree add ../base 468d61f
    python -m venv ../base-env && ../base-env/bin/pip install torch==2.13.0 -e ../base

llama.cpp takes part where `xllamacpp` is installed (``pip install xllamacpp``; ``--llama`` names
another interpreter that has it), with the default model's own GGUF file, out of the pinned wheel.
That wheel of llama.cpp is built for AVX2; one built for the machine may be faster.

Nothing else should run meanwhile. Children never see ``OMP_WAIT_POLICY``: passive waiting costs a
lone process a third of its speed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import engine_work
from sides import HERE, Side, SideError, has, say
from speed_rows import FORMATS, LLAMA, TODAY

NEW = "new"
Found = dict[str, dict[str, list[float]]]  # by what was measured and side, one number a round


def taking_part(options: argparse.Namespace, gguf: Path | None) -> Iterator[Side]:
    """Those that can take part."""
    script, names = str(HERE / "engine.py"), list(engine_work.MEASURES)
    yield Side(NEW, [sys.executable, script], names, own_code=True)
    if options.beside:
        yield Side(TODAY, [options.beside, script], names)
    if gguf is not None:
        command = [options.llama, str(HERE / "llama_cpp.py"), "--gguf", str(gguf)]
        yield Side(LLAMA, command, ("embedding", "stream", "joining"))


def measured(side: Side, measure: str, dtype: str, options: argparse.Namespace) -> dict[str, float]:
    """What a child found."""
    sizes = [f"--{name}={getattr(options, name)}" for name in ("tokens", "passages", "threads")]
    try:
        found: dict[str, float] = side.run(
            ["--child", measure, "--dtype", dtype, *sizes], options.threads
        )
    except SideError as error:
        sys.exit(f"{measure}, {dtype}: {error}")
    return found


def compare(taking: Sequence[Side], dtype: str, options: argparse.Namespace) -> Found:
    """Every measurement of every side, the sides in turns."""
    found: Found = {}
    for measure in options.only or engine_work.MEASURES:
        for turn in range(options.rounds):
            for side in (s for s in taking if measure in s.measures):
                say(f"{dtype}, {measure}, round {turn + 1} of {options.rounds}, {side.name}")
                for name, value in measured(side, measure, dtype, options).items():
                    found.setdefault(name, {}).setdefault(side.name, []).append(value)
    one, eight = found.get(engine_work.ONE, {}), found.get(engine_work.EIGHT, {})
    gains = {s: ratios(eight[s], one[s]) for s in eight.keys() & one.keys()}
    return found | ({engine_work.GAIN: gains} if gains else {})


def ratios(mine: Sequence[float], others: Sequence[float]) -> list[float]:
    """Round by round."""
    return [a / b if b else float("nan") for a, b in zip(mine, others, strict=True)]


def times_better(name: str, values: dict[str, list[float]], other: str) -> str:
    """How many times better the new code is than another side, and the rounds' extremes."""
    if NEW not in values or other not in values:
        return ""
    pair = (values[NEW], values[other])
    mine, others = pair if engine_work.more_is_better(name) else pair[::-1]
    (middle,) = ratios([statistics.median(mine)], [statistics.median(others)])
    rounds = ratios(mine, others)
    spread = f" ({min(rounds):.2f} to {max(rounds):.2f})" if len(rounds) > 1 else ""
    return f"{middle:.2f}{spread}"


def table(title: str, found: Found, names: Sequence[str]) -> str:
    """Medians of all sides, and ratios to the first."""
    rows = [[title, NEW, *(cell for name in names[1:] for cell in (name, "x"))]]
    for what, values in found.items():
        row = [what, middle_of(values, NEW)]
        for name in names[1:]:
            row += [middle_of(values, name), times_better(what, values, name)]
        rows.append(row)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(f"{cell:{'<>'[i > 0]}{widths[i]}}" for i, cell in enumerate(row)) for row in rows
    )


def middle_of(values: dict[str, list[float]], side: str) -> str:
    if side not in values:
        return ""
    middle = statistics.median(values[side])
    return f"{middle:,.0f}" if middle >= 100 else f"{middle:.3g}"


def arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--beside", metavar="PYTHON", help="interpreter with the older commit")
    parser.add_argument("--llama", metavar="PYTHON", default=sys.executable, help="has xllamacpp")
    parser.add_argument("--dtype", choices=FORMATS, help="only this one")
    parser.add_argument("--only", nargs="+", choices=list(engine_work.MEASURES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side")
    parser.add_argument("--tokens", type=int, default=128, help="of each stream")
    parser.add_argument("--passages", type=int, default=64, help="that are embedded")
    parser.add_argument("--json", metavar="FILE", type=Path, help="write all numbers there too")
    parser.add_argument("--profile", action="store_true", help="where the new side's time goes")
    parser.add_argument("--docs", action="store_true", help="the profile into the docs, too")
    parser.add_argument("--child", choices=list(engine_work.MEASURES), help=argparse.SUPPRESS)
    return parser.parse_args()


def run(options: argparse.Namespace, dtypes: Sequence[str], gguf: Path | None) -> dict[str, Any]:
    """Measure and print; what there is to write."""
    taking, found = list(taking_part(options, gguf)), {}
    for dtype in dtypes:
        found[dtype] = compare(taking, dtype, options)
    for dtype in dtypes:
        print("\n" + table(dtype, found[dtype], [side.name for side in taking]))
    print()
    for side in taking:
        print(f"{side.name}: {side.what}")
    if gguf is None:
        print("llama.cpp: not measured; pip install xllamacpp (or name an interpreter: --llama)")
    return {
        "sides": {side.name: side.what for side in taking},
        "rounds": options.rounds,
        "threads": options.threads,
        "found": found,
    }


def with_gguf(do: Callable[[Path | None], Any], python: str) -> Any:
    """With the default model's GGUF file in a folder of its own, if llama.cpp can run it."""
    if not has(python, "xllamacpp"):
        return do(None)
    import llama_cpp

    with tempfile.TemporaryDirectory() as folder:
        return do(llama_cpp.take_out(Path(folder)))


def main() -> None:
    options = arguments()
    if options.child:
        dtype = options.dtype or "float32"
        print(json.dumps(engine_work.child(options.child, dtype, options)), flush=True)
        return
    dtypes = [options.dtype] if options.dtype else ["float32", "bfloat16"]
    if options.profile:
        import engine_profile

        dtypes = [options.dtype] if options.dtype else ["bfloat16", "int4"]
        engine_profile.show(dtypes, options.passages, docs=options.docs)
        return
    report = with_gguf(lambda gguf: run(options, dtypes, gguf), options.llama)
    if options.json:
        options.json.write_text(json.dumps(report, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
