"""llama.cpp's side of `speed.py`, on the default model's own GGUF file. Imports no gem-rag."""

from __future__ import annotations

import argparse
import json
from functools import partial
from pathlib import Path

from engine_work import PROMPTS, joining, seconds
from llama_cpp import Llama
from speed_rows import EIGHT, EMBEDDING, SOURCES_PLAIN, STREAM
from speed_texts import SOURCE_TOKENS, Texts

ROWS = ("embedding", "stream", "eight", "sources")


def sources(llama: Llama, texts: Texts) -> list[float]:
    """Tokens/s of answers whose prompts have been run before: they come from its prompt cache."""
    rates = []
    for passage, question in texts.sources:
        prompt = f"{passage}{question}"
        llama.answer(prompt, 1)
        made: list[int] = []
        took = seconds(lambda p=prompt, m=made: m.append(llama.answer(p, SOURCE_TOKENS)))
        rates.append(made[0] / took)
    return rates


def measured(llama: Llama, row: str, texts: Texts) -> dict[str, list[float]]:
    llama.read_stream("Hello", 2)
    tokens = texts.sizes.tokens
    if row == "eight":
        return {EIGHT: [joining(lambda prompt: llama.read_stream(prompt, tokens))]}
    if row == "stream":
        prompts = PROMPTS[: texts.sizes.prompts]
        return {STREAM: [tokens / seconds(partial(llama.read_stream, p, tokens)) for p in prompts]}
    if row == "sources":
        return {SOURCES_PLAIN: sources(llama, texts)}
    took = seconds(lambda: [llama.read(text) for text in texts.mixed])
    return {EMBEDDING: [texts.mixed_tokens / took]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--texts", type=Path, required=True)
    options = parser.parse_args()
    llama = Llama(options.gguf, options.threads)
    found = measured(llama, options.row, Texts.read(options.texts))
    print(json.dumps({"what": llama.what, "found": found}), flush=True)


if __name__ == "__main__":
    main()
