"""How fast it is beside an older commit of itself and beside its peers: docs/speed.md's table.

    pip install xllamacpp langchain-huggingface langchain-community sentence-transformers
    python benchmarks/speed.py --today ../today --json speed.json --docs

Sides: this code in each number format that works here; commit 468d61f in a worktree and an
environment of its own, which are made in the folder that ``--today`` names if they are not there
(``--peers PYTHON`` names an interpreter that has the peers, where this one has not); the two-model
stack; sentence-transformers with the same base; llama.cpp on the same GGUF (the wheel of xllamacpp,
which is built for AVX2: one built for the machine may be faster).

Each row is measured in a process of its own for each side and round, the sides in turns; numbers
are medians of all that was measured. Nothing else should run meanwhile. ``--rows`` and ``--sides``
measure some anew and leave the others of ``--json`` as they are; ``--quick`` shows that everything
works, its numbers mean nothing; ``--from`` prints an earlier run again.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from sides import HERE, Side, SideError, has, say, today
from speed_report import machine, plot, put_into_docs, tables
from speed_rows import (
    FORMATS,
    LLAMA,
    MINILM,
    ONCE,
    PEERS,
    ROWS,
    SAME_BASE,
    TODAY,
    TWO_MODELS_BF16,
)
from speed_texts import QUICK, Sizes, make

from gem_rag.checkpoints.embedded import embedded_base
from gem_rag.compute.linear import hardware_bf16

NO_BF16 = "this CPU does not compute it"
Report = dict[str, Any]
Samples = dict[str, dict[str, list[float]]]  # by measurement and side


def rows_of(side: str) -> list[str]:
    """What is measured of a side."""
    return [row for row, taking in ROWS.items() if side in taking]


class Table:
    """One run: who takes part, and what was found.

    Attributes:
        sides: Those that can take part.
        left_out: Those that cannot, and rows that failed, with the reason.
    """

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options = options
        self.texts = folder / "texts.json"
        self.base = embedded_base()
        self.left_out: dict[str, str] = {}
        sizes = QUICK if options.quick else Sizes()
        make(self.base / "tokenizer.json", sizes).write(self.texts)
        self.sides = [*self._own(), *self._today(), *self._peers(), *self._llama(folder)]
        self.default = self.run(self._gem(FORMATS[0], sys.executable), ["probe", "--dtype=auto"])

    def _gem(self, name: str, python: str) -> Side:
        command = [python, str(HERE / "speed_work.py")]
        return Side(name, command, rows_of(name), own_code=python == sys.executable)

    def _own(self) -> Iterator[Side]:
        """This code, in the formats that can be had."""
        for name in FORMATS:
            side = self._gem(name, sys.executable)
            if name.startswith("bfloat16") and not hardware_bf16():
                self.left_out[name] = NO_BF16
                continue
            try:
                self.run(side, ["probe", f"--dtype={name}"])
            except SideError as error:
                self.left_out[name] = str(error).splitlines()[-1]
            else:
                yield side

    def _today(self) -> Iterator[Side]:
        if self.options.today is None:
            self.left_out[TODAY] = "not asked for: --today FOLDER"
            return
        yield self._gem(TODAY, str(today(self.options.today)))

    def _peers(self) -> Iterator[Side]:
        needed = ("langchain_huggingface", "langchain_community", "sentence_transformers")
        missing = [name for name in needed if not has(self.options.peers, name)]
        for name in PEERS:
            if missing:
                self.left_out[name] = f"{self.options.peers} has no {', '.join(missing)}"
            elif name == TWO_MODELS_BF16 and not hardware_bf16():
                self.left_out[name] = NO_BF16
            else:
                from gem_rag_train.objectives.teacher import minilm_folder

                folders = ["--base", str(self.base), "--minilm", str(minilm_folder())]
                command = [self.options.peers, str(HERE / "peers.py"), *folders]
                yield Side(name, command, rows_of(name))

    def _llama(self, folder: Path) -> Iterator[Side]:
        if not has(self.options.peers, "xllamacpp"):
            self.left_out[LLAMA] = f"{self.options.peers} has no xllamacpp"
            return
        from llama_cpp import take_out

        own = [f"--gguf={take_out(folder)}", f"--threads={self.options.threads}"]
        command = [self.options.peers, str(HERE / "speed_llama.py"), *own]
        yield Side(LLAMA, command, rows_of(LLAMA))

    def run(self, side: Side, arguments: Sequence[str]) -> Any:
        return side.run(arguments, self.options.threads)

    def measured(self, side: Side, row: str) -> dict[str, list[float]]:
        """One row of one side."""
        arguments = [row, f"--texts={self.texts}"]
        if side.name in FORMATS:
            arguments.append(f"--dtype={side.name}")
        elif side.name == TWO_MODELS_BF16:
            arguments.append("--dtype=bfloat16")
        elif side.name in (MINILM, SAME_BASE):
            arguments.append(f"--side={side.name}")
        found: dict[str, list[float]] = self.run(side, arguments)
        return found

    def row(self, row: str) -> Samples:
        """All rounds of a row."""
        wanted = self.options.sides
        taking = [s for s in self.sides if row in s.measures and (not wanted or s.name in wanted)]
        rounds = 1 if row in ONCE else self.options.rounds
        found, failed = in_turns(taking, rounds, partial(self.measured, row=row), row)
        self.left_out.update({f"{side}: {row}": why for side, why in failed.items()})
        return found


def in_turns(
    sides: Sequence[Side],
    rounds: int,
    measured: Callable[[Side], dict[str, list[float]]],
    row: str,
) -> tuple[Samples, dict[str, str]]:
    """What every side measures, one after the other, round after round; and which failed, why."""
    found: Samples = {}
    failed: dict[str, str] = {}
    for turn in range(rounds):
        for side in (s for s in sides if s.name not in failed):
            start = time.perf_counter()
            try:
                samples = measured(side)
            except SideError as error:
                failed[side.name] = str(error).splitlines()[-1]
                say(str(error))
                continue
            for what, values in samples.items():
                found.setdefault(what, {}).setdefault(side.name, []).extend(values)
            took = time.perf_counter() - start
            middles = ", ".join(f"{statistics.median(values):.4g}" for values in samples.values())
            say(f"{row}, round {turn + 1} of {rounds}, {side.name}: {middles} ({took:.0f} s)")
    return found, failed


def measure(options: argparse.Namespace, report: Report) -> None:
    """Into a report, which is written after each row."""
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        run = Table(options, Path(folder))
        for row in options.rows:
            start = time.perf_counter()
            for what, found in run.row(row).items():
                report["samples"].setdefault(what, {}).update(found)
            report["seconds"][row] = round(time.perf_counter() - start)
            report["sides"].update({side.name: side.what for side in run.sides if side.what})
            report |= {
                "machine": machine(),
                "default": run.default,
                "left_out": run.left_out,
                **{name: getattr(options, name) for name in ("quick", "rounds", "threads")},
            }
            if options.json:
                options.json.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    say(f"{time.perf_counter() - began:.0f} s in all")


def begun(options: argparse.Namespace) -> Report:
    """What there is already: an earlier run, where only some rows are measured anew."""
    earlier = options.source or options.json
    is_part = options.rows != list(ROWS) or options.sides
    keeps = options.source or (is_part and options.json)
    if keeps and earlier.exists():
        report: Report = json.loads(earlier.read_text(encoding="utf-8"))
        return report
    return {"samples": {}, "sides": {}, "seconds": {}}


def arguments() -> argparse.Namespace:
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=shape)
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS))
    parser.add_argument("--sides", nargs="+", metavar="SIDE", help="likewise only some sides anew")
    parser.add_argument("--quick", action="store_true", help="tiny, to see that all of it works")
    parser.add_argument("--rounds", type=int, default=2, help="the sides take turns (default 2)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of each side")
    parser.add_argument("--today", metavar="FOLDER", type=Path, help="the older commit, made there")
    parser.add_argument("--peers", metavar="PYTHON", default=sys.executable, help="has the peers")
    parser.add_argument("--json", metavar="FILE", type=Path, help="where all numbers are kept")
    parser.add_argument("--docs", action="store_true", help="write docs/speed.md's tables and plot")
    parser.add_argument(
        "--from", dest="source", metavar="FILE", type=Path, help="measure nothing: an earlier run's"
    )
    options = parser.parse_args()
    if options.quick:
        options.rounds = 1
    return options


def main() -> None:
    options = arguments()
    report = begun(options)
    if options.source is None:
        measure(options, report)
    text = tables(report)
    print(text)
    if options.docs:
        plot(report)
        put_into_docs("speed", f"{text}\n\n![Every measurement, a bar for each side](speed.svg)")


if __name__ == "__main__":
    main()
