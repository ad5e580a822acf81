"""What the benchmarks share: real text of a wanted length, timing, and printing."""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from gem_rag.model import GemModel
from gem_rag_train.data.sources import boolq


def text_of(model: GemModel, tokens: int, offset: int = 0) -> str:
    """Wikipedia text of exactly so many tokens."""
    words = " ".join(p.body for p in boolq("dev")[offset : offset + 60])
    encoding = model.codec.backend.encode(words, add_special_tokens=False)
    text = words[: encoding.offsets[tokens - 1][1]]
    assert abs(len(model.codec.encode_texts([text], None)[0].ids) - tokens) <= 2
    return text


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """Median wall-clock seconds of a call, after one to warm up."""
    work()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def gemm_peak(size: int = 1536) -> float:
    """FLOP/s of a float32 matrix product the shape of the model's own."""
    a, b = torch.randn(2048, 576), torch.randn(size, 576)
    took = seconds(lambda: [torch.nn.functional.linear(a, b) for _ in range(20)])
    return 20 * 2 * 2048 * 576 * size / took


def arguments(what: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=what)
    parser.add_argument("--json", action="store_true", help="print JSON and nothing else")
    return parser


def show(report: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(report, indent=2))
        return
    width = max(map(len, report))
    for name, value in report.items():
        print(f"{name:<{width}}  {value:.4g}" if isinstance(value, float) else f"{name}  {value}")
