"""Load on the server: many clients that embed, search and chat at once, and one beside streams.

python benchmarks/server.py --seconds 300            # a row of docs/server.md
python benchmarks/server.py --seconds 30 --bounded   # as CI runs it: fails where a bound is passed
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).parents[1]
QUESTIONS = [
    "How long is a chunk?",
    "What does gem-rag pull do?",
    "Which files are read?",
    "How is a threshold chosen?",
    "What is kept beside the index?",
]
SHARES = {"embed": 5, "search": 3, "chat": 2}
STREAMS = 8
SAME_STEP = 0.005  # seconds within which tokens of one step come: guesses that came true
MOST_STEPS, MOST_GROWTH = 5.0, 1.2
Times = dict[str, list[float]]


@asynccontextmanager
async def server(arguments: argparse.Namespace) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A server with this project's documentation, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "gem_rag.cli", "serve", str(ROOT / "docs" / "cli.md")]
        options = ["--index", folder, "--port", "0", "--no-open"]
        model = ["--model", arguments.model] if arguments.model else []
        process = subprocess.Popen([*command, *options, *model], stdout=subprocess.PIPE, text=True)
        try:
            url = process.stdout.readline().split()[0]
            limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
            async with httpx.AsyncClient(base_url=url, timeout=300, limits=limits) as http:
                while (await http.get("/readyz")).status_code != 200:
                    await asyncio.sleep(0.2)
                while not all_ready(await http.get("/api/documents")):
                    await asyncio.sleep(0.2)
                yield http, process.pid
        finally:
            process.terminate()
            process.wait(30)


def all_ready(answer: httpx.Response) -> bool:
    """Whether everything is indexed."""
    states = [document["state"] for document in answer.json()]
    return bool(states) and set(states) == {"ready"}


def resident(pid: int) -> float:
    """MB of memory a process holds."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float("nan")
    [line] = [one for one in status.read_text().splitlines() if one.startswith("VmRSS")]
    return int(line.split()[1]) / 1000


async def one(http: httpx.AsyncClient, kind: str, name: str, tokens: Counter[str]) -> int:
    """One request; its status."""
    question = random.choice(QUESTIONS)
    if kind == "embed":
        body = {"model": name, "input": question}
        return (await http.post("/v1/embeddings", json=body)).status_code
    if kind == "search":
        body = {"question": question, "k": 3}
        return (await http.post("/api/search", json=body)).status_code
    body = {
        "model": name,
        "messages": [{"role": "user", "content": question}],
        "max_tokens": 24,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                chunk = json.loads(line.removeprefix("data: "))
                tokens["errors"] += "error" in chunk
                tokens["chat"] += (chunk.get("usage") or {}).get("completion_tokens", 0)
        return response.status_code


async def client(
    http: httpx.AsyncClient,
    name: str,
    until: float,
    times: Times,
    statuses: Counter[str],
    tokens: Counter[str],
) -> None:
    """Asks one thing after another; comes again where it is told to."""
    while time.monotonic() < until:
        [kind] = random.choices(list(SHARES), weights=list(SHARES.values()))
        started = time.perf_counter()
        status = await one(http, kind, name, tokens)
        statuses[str(status)] += 1
        if status == 429:
            await asyncio.sleep(1)
        else:
            times[kind].append(time.perf_counter() - started)


async def load(http: httpx.AsyncClient, pid: int, name: str, arguments: argparse.Namespace) -> bool:
    """Many clients at once; whether all of it was within bounds."""
    times: Times = defaultdict(list)
    statuses: Counter[str] = Counter()
    tokens: Counter[str] = Counter()
    started = time.monotonic()
    until = started + arguments.seconds
    work = [
        asyncio.create_task(client(http, name, until, times, statuses, tokens))
        for _ in range(arguments.clients)
    ]
    await asyncio.sleep(arguments.seconds / 3)
    before = resident(pid)
    await asyncio.gather(*work)
    took = time.monotonic() - started  # with what was under way at the end
    after = resident(pid)
    print(f"| {arguments.clients} clients, {arguments.seconds} s | n | p50 | p95 | p99 |")
    print("|---|---|---|---|---|")
    for kind in SHARES:
        found = times[kind] or [float("nan")]
        shown = " | ".join(f"{quantile(found, q) * 1000:.0f} ms" for q in (0.5, 0.95, 0.99))
        print(f"| {kind} | {len(times[kind])} | {shown} |")
    print(f"statuses {dict(statuses)}, errors in streams {tokens['errors']}")
    print(f"chat tokens/s {tokens['chat'] / took:.1f}")
    print(f"memory {before:.0f} MB after a third, {after:.0f} MB at the end")
    return (
        set(statuses) <= {"200", "429"}
        and not tokens["errors"]
        and (not after > before * MOST_GROWTH)
    )


async def beside_streams(http: httpx.AsyncClient, name: str) -> float:
    """How many decode steps the 95th percentile of a sentence's embedding is, beside 8 streams."""
    gaps: list[float] = []
    over = asyncio.Event()

    async def stream() -> None:
        body = {"model": name, "messages": [{"role": "user", "content": "Tell a long story."}]}
        body |= {"max_tokens": 400, "stream": True, "stop": []}
        while not over.is_set():
            last = None
            async with http.stream("POST", "/v1/chat/completions", json=body) as response:
                async for line in response.aiter_lines():
                    if over.is_set():
                        return
                    if '"content"' in line:
                        now = time.perf_counter()
                        if last is not None:
                            gaps.append(now - last)
                        last = now

    streams = [asyncio.create_task(stream()) for _ in range(STREAMS)]
    await asyncio.sleep(3)
    gaps.clear()
    await asyncio.sleep(3)
    step = statistics.median(gap for gap in gaps if gap > SAME_STEP)
    waits = []
    for _ in range(40):
        started = time.perf_counter()
        await http.post("/v1/embeddings", json={"model": name, "input": random.choice(QUESTIONS)})
        waits.append(time.perf_counter() - started)
    over.set()
    await asyncio.gather(*streams)
    steps = quantile(waits, 0.95) / step
    print(
        f"beside {STREAMS} streams: a step {step * 1000:.0f} ms, "
        f"an embedding's p95 {steps:.1f} steps"
    )
    return steps


def quantile(values: list[float], share: float) -> float:
    """The value below which so many lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


async def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=300)
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--model")
    parser.add_argument("--bounded", action="store_true", help="fail where a bound is passed")
    arguments = parser.parse_args()
    async with server(arguments) as (http, pid):
        name = (await http.get("/v1/models")).json()["data"][0]["id"]
        is_within = await load(http, pid, name, arguments)
        steps = await beside_streams(http, name)
    if steps > MOST_STEPS:
        print(f"above the aim of {MOST_STEPS} steps: is anything else running?")
    if arguments.bounded and not is_within:
        sys.exit(f"out of bounds: only 200 and 429, and {MOST_GROWTH} times the memory")


if __name__ == "__main__":
    asyncio.run(main())
