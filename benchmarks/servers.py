"""`gem-rag serve` beside llama.cpp's server and `transformers serve`: one machine, one model.

    python benchmarks/servers.py --json servers.json      # a table of docs/server.md

All three have the default model's weights, out of one GGUF file: llama.cpp runs the file, the
others what it was converted to (`--dtype` says how gem-rag computes with it; repeatable). Each is
asked over HTTP, in OpenAI's protocol, by the same client. One runs at a time, in turns; the numbers
are medians of the rounds. Of llama.cpp's servers two run, one for answers and one for embeddings,
as people have it: a single one does not embed while it answers.

llama.cpp takes part where `xllamacpp` is installed (``pip install xllamacpp``; `--llama` names
another interpreter that has it). Who is missing is left out, and the table says so.

Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import psutil
from engine_work import PROMPTS, QUESTIONS, passages
from llama_cpp import take_out

HERE = Path(__file__).parent
STREAMS = (1, 4, 8)
BESIDE = 4  # streams beside which is embedded
READY_SECONDS = 300
FIRST, MEMORY = "first token of an answer from a passage, ms", "memory, MB"
EMBEDDINGS = f"embeddings of a sentence a second, beside {BESIDE} streams"
Round = dict[str, float | None]


def at_once(streams: int) -> str:
    """What the speed of so many streams is called."""
    return f"tokens/s, {streams} stream{'s'[: streams > 1]}"


@dataclass(frozen=True)
class Server:
    """One of those that are compared.

    Attributes:
        name: Its column.
        what: Which version, of what.
        command: Starts it, but for the port.
        model: How it knows the model; None is the first it names.
        ready: Answers with 200 when it can be asked.
        embedder: Starts what embeds, but for the port: itself, another process, or nothing.
    """

    name: str
    what: str
    command: list[str]
    model: str | None
    ready: str
    embedder: list[str] | None


def ours(options: argparse.Namespace, folder: Path) -> Iterator[Server]:
    """gem-rag, once for each number format."""
    from importlib.metadata import version

    what = f"gem-rag {version('gem-rag')}, torch {version('torch')}"
    for dtype in options.dtype:
        settings = ["--no-open", "--dtype", dtype, "--index", str(folder / dtype)]
        command = [sys.executable, "-m", "gem_rag.cli", "serve", *settings]
        yield Server(f"gem-rag ({dtype})", what, command, None, "/readyz", command)


def llama_cpp(options: argparse.Namespace, gguf: Path) -> Server:
    """llama.cpp's servers, one for answers and one for embeddings.

    Raises:
        OSError, subprocess.CalledProcessError: It is not there.
    """
    command = [options.llama, str(HERE / "llama_server.py")]
    what = subprocess.run([*command, "--version"], capture_output=True, text=True, check=True)
    command += ["--gguf", str(gguf), "--threads", str(options.threads)]
    embedder = [*command, "--embeddings"]
    return Server("llama.cpp", what.stdout.strip(), command, "default", "/health", embedder)


def transformers_serve(options: argparse.Namespace) -> Server:
    """transformers' server, which has no embeddings.

    Raises:
        OSError, subprocess.CalledProcessError: It is not there, or lacks what it needs.
    """
    from importlib.metadata import version

    from gem_rag.checkpoints.embedded import embedded_base

    command = [options.transformers, "serve"]
    subprocess.run([*command, "--help"], capture_output=True, check=True)
    folder = str(embedded_base())
    command += ["--device", "cpu", *options.transformers_option, folder]
    what = f"transformers {version('transformers')}"
    return Server("transformers serve", what, command, folder, "/health", None)


def all_there(options: argparse.Namespace, folder: Path) -> tuple[list[Server], list[str]]:
    """Those that can take part, and why others cannot; the folder is theirs."""
    servers, missing = list(ours(options, folder)), []
    peers = {
        "llama.cpp": (partial(llama_cpp, options, take_out(folder)), "pip install xllamacpp"),
        "transformers serve": (
            partial(transformers_serve, options),
            "pip install 'transformers[serving]'",
        ),
    }
    for name, (find, remedy) in peers.items():
        try:
            servers.append(find())
        except (OSError, subprocess.CalledProcessError):
            missing.append(f"{name} is not here ({remedy})")
    return servers, missing


@asynccontextmanager
async def running(
    command: list[str], ready: str, threads: int
) -> AsyncIterator[tuple[httpx.AsyncClient, int]]:
    """A server in a process of its own: a client for it, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = dict(os.environ, OMP_NUM_THREADS=str(threads))
    environment.pop("OMP_WAIT_POLICY", None)
    with tempfile.TemporaryFile() as log:
        whole = [*command, "--port", str(port)]
        process = subprocess.Popen(whole, env=environment, stdout=log, stderr=log)
        try:
            options: dict[str, Any] = {"base_url": f"http://127.0.0.1:{port}", "timeout": 600}
            # A connection each: llama.cpp's server closes those it has kept for a while.
            options["limits"] = httpx.Limits(max_keepalive_connections=0)
            async with httpx.AsyncClient(**options) as http:
                await until_ready(http, ready, process)
                yield http, process.pid
        finally:
            process.terminate()
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()


async def until_ready(
    http: httpx.AsyncClient, ready: str, process: subprocess.Popen[bytes]
) -> None:
    """Wait until it can be asked."""
    end = time.monotonic() + READY_SECONDS
    while time.monotonic() < end and process.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if (await http.get(ready)).status_code == 200:
                return
        await asyncio.sleep(0.2)
    sys.exit(f"it did not start: {process.args}")


async def stream(
    http: httpx.AsyncClient, model: str, prompt: str, tokens: int, begun: asyncio.Event
) -> tuple[float, int]:
    """Read an answer to its end: seconds to its first word, and how many tokens it had."""
    body = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, pieces, said = time.perf_counter(), float("nan"), 0, None
    async with http.stream("POST", "/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line.removeprefix("data: "))
            said = (chunk.get("usage") or {}).get("completion_tokens", said)
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                first = first if pieces else time.perf_counter() - start
                pieces += 1
                begun.set()
    return first, pieces if said is None else said


async def first_token(http: httpx.AsyncClient, model: str, options: argparse.Namespace) -> float:
    """Milliseconds to the first word of an answer from a passage, which is another each time."""
    found = []
    for place, passage in enumerate(passages(options.repeats, seed=7)):
        prompt = f"{passage}\n\n{QUESTIONS[place % len(QUESTIONS)]}"
        found.append((await stream(http, model, prompt, 4, asyncio.Event()))[0])
    return 1000 * statistics.median(found)


async def speed(http: httpx.AsyncClient, model: str, streams: int, tokens: int) -> float:
    """Tokens a second of so many streams in all, from the questions to the last word."""
    start = time.perf_counter()
    asked = [stream(http, model, p, tokens, asyncio.Event()) for p in PROMPTS[:streams]]
    came = [count for _, count in await asyncio.gather(*asked)]
    return sum(came) / (time.perf_counter() - start)


async def embeddings(
    http: httpx.AsyncClient, embedder: httpx.AsyncClient, model: str, seconds: float
) -> float:
    """Sentences embedded a second, one after another, while answers are written."""

    async def go_on(prompt: str, begun: asyncio.Event) -> None:
        while True:
            await stream(http, model, prompt, 600, begun)

    begun = [asyncio.Event() for _ in range(BESIDE)]
    asked = zip(PROMPTS[:BESIDE], begun, strict=True)
    streams = [asyncio.create_task(go_on(prompt, event)) for prompt, event in asked]
    await asyncio.gather(*(event.wait() for event in begun))
    start, count = time.perf_counter(), 0
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):  # one may wait until all streams have ended
            while True:
                sentence = f"{QUESTIONS[count % len(QUESTIONS)]} ({count})"
                body = {"model": model, "input": sentence}
                (await embedder.post("/v1/embeddings", json=body)).raise_for_status()
                count += 1
    took = time.perf_counter() - start
    for task in streams:
        task.cancel()
    await asyncio.gather(*streams, return_exceptions=True)
    return count / took


def resident(pid: int) -> float:
    """MB that a process and its children hold, files that are mapped among it."""
    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 1e6


async def measured(server: Server, options: argparse.Namespace) -> Round:
    """One round of one server."""
    async with AsyncExitStack() as stack:
        start = partial(running, ready=server.ready, threads=options.threads)
        http, pid = await stack.enter_async_context(start(server.command))
        pids, embedder = [pid], http
        if server.embedder not in (None, server.command):
            embedder, other = await stack.enter_async_context(start(server.embedder))
            pids.append(other)
        model = server.model
        if model is None:
            model = (await http.get("/v1/models")).json()["data"][0]["id"]
        await stream(http, model, "Hello", 4, asyncio.Event())  # warms up
        found: Round = {FIRST: await first_token(http, model, options)}
        for streams in STREAMS:
            found[at_once(streams)] = await speed(http, model, streams, options.tokens)
        found[EMBEDDINGS] = None
        if server.embedder is not None:
            found[EMBEDDINGS] = await embeddings(http, embedder, model, options.seconds)
        found[MEMORY] = sum(map(resident, pids))
    return found


def medians(rounds: list[Round]) -> Round:
    """Of each number; None where there is none."""
    return {
        name: None if None in (found := [one[name] for one in rounds]) else statistics.median(found)
        for name in rounds[0]
    }


def shown_number(number: float | None) -> str:
    """In three places, or as many as stand before the point."""
    if number is None:
        return "none"
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def table(columns: dict[str, Round]) -> str:
    """Servers side by side, as Markdown."""
    lines = [f"| | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for name in next(iter(columns.values())):
        numbers = (column[name] for column in columns.values())
        shown = map(shown_number, numbers)
        lines.append(f"| {name} | {' | '.join(shown)} |")
    return "\n".join(lines)


def compared(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """All rounds of all servers, and what of them is printed."""
    servers, missing = all_there(options, folder)
    rounds: dict[str, list[Round]] = {server.name: [] for server in servers}
    for number in range(options.rounds):
        for server in servers if number % 2 == 0 else servers[::-1]:
            rounds[server.name].append(asyncio.run(measured(server, options)))
            print(f"round {number + 1}, {server.name}: {rounds[server.name][-1]}", file=sys.stderr)
    return {
        "threads": options.threads,
        "tokens": options.tokens,
        "what": {server.name: server.what for server in servers},
        "missing": missing,
        "medians": {name: medians(found) for name, found in rounds.items()},
        "rounds": rounds,
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tokens", type=int, default=128, help="of each answer")
    parser.add_argument("--repeats", type=int, default=7, help="first tokens a round")
    parser.add_argument("--seconds", type=float, default=10, help="of embedding beside streams")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--dtype", action="append", help="gem-rag's; repeatable (auto)")
    parser.add_argument("--llama", default=sys.executable, help="interpreter that has xllamacpp")
    beside = str(Path(sys.executable).with_name("transformers"))
    parser.add_argument("--transformers", default=beside, help="the command")
    parser.add_argument("--transformers-option", action="append", default=[], help="of serve")
    parser.add_argument("--json", type=Path, help="write all rounds here, too")
    options = parser.parse_args()
    options.dtype = options.dtype or ["auto"]
    with tempfile.TemporaryDirectory() as folder:
        report = compared(options, Path(folder))
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report["medians"]))
    print(f"\n{options.threads} threads, {options.rounds} rounds. ", end="")
    print("; ".join([*dict.fromkeys(report["what"].values()), *report["missing"]]))


if __name__ == "__main__":
    main()
