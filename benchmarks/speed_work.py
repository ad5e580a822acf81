"""What `speed.py` measures of gem-rag, with nothing that only one commit's code has.

Every function returns all it measured, by name; what is reported is the median of all rounds.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_work import PROMPTS, QUESTIONS, SENTENCE, joining, read_stream, seconds, seconds_to_say
from memory import in_own_process, peak_mb, resident_mb
from speed_rows import (
    AFRESH,
    EIGHT,
    EMBEDDING,
    FIRST,
    INDEXING,
    KEPT,
    PEAK,
    QUERY,
    RESIDENT,
    SOURCES,
    SOURCES_PLAIN,
    START,
    STREAM,
    TRAINING,
)
from speed_texts import ASK, SOURCE_QUESTIONS, SOURCE_TOKENS, Texts

if TYPE_CHECKING:
    from gem_rag.model import GemModel

Samples = dict[str, list[float]]
ANSWER_TOKENS = 32
ASKED = ASK.format(question=SOURCE_QUESTIONS[0])
STARTED = """
from gem_rag import GemModel
stream = GemModel.from_pretrained(dtype={dtype!r}).stream({prompt!r}, max_new_tokens=2)
next(stream)
print("started", flush=True)
stream.close()
"""


def embedding(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    model.embed_documents(texts.passages[:4])
    took = seconds(lambda: model.embed_documents(texts.mixed, show_progress=False))
    return {EMBEDDING: [texts.mixed_tokens / took]}


def query(model: GemModel, _texts: Texts, _folder: Path) -> Samples:
    model.embed_query(SENTENCE)
    return {QUERY: [1000 * seconds(partial(model.embed_query, q)) for q in QUESTIONS * 3]}


def indexing(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    """Into a new index on disk, readings kept beside it, as `gem-rag index` does it."""
    from gem_rag.index import GemIndex
    from gem_rag.rag import GemRAG

    model.embed_documents(texts.passages[:4])
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        texts.write_pages(pages)

        def index() -> None:
            with GemIndex(Path(folder) / "index") as found:
                report = GemRAG(model, found).add(pages, show_progress=False)
                assert len(report.added) == len(texts.pages), report

        return {INDEXING: [1000 / len(texts.pages) * seconds(index)]}


def stream(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    read_stream(model, "Hello", 2)
    tokens = texts.sizes.tokens
    prompts = PROMPTS[: texts.sizes.prompts]
    return {STREAM: [tokens / seconds(partial(read_stream, model, p, tokens)) for p in prompts]}


def eight(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    read_stream(model, "Hello", 2)
    return {EIGHT: [joining(lambda prompt: read_stream(model, prompt, texts.sizes.tokens))]}


def first(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    """Each chunk's reading comes from disk, as after a restart."""
    from gem_rag.store import ReadingStore

    read_stream(model, "Hello", 2)
    chunks = texts.passages[:10]
    with tempfile.TemporaryDirectory() as folder:
        ReadingStore(model, folder).read(chunks)
        store = ReadingStore(model, folder)

        times = []
        for chunk in chunks:
            start = time.perf_counter()
            (reading,) = store.read([chunk])
            pieces = model.stream(ASKED, after=reading, max_new_tokens=2)
            next(pieces)
            times.append(1000 * (time.perf_counter() - start))
            pieces.close()  # waits for the step in hand, which is the second token's
        return {FIRST: times}


def ranking(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    model.rank(SENTENCE, texts.passages[-3:])
    lists = [texts.passages[10 * i : 10 * (i + 1)] for i in range(texts.sizes.lists)]
    afresh = [seconds(partial(model.rank, QUESTIONS[1], passages)) for passages in lists]
    readings = model.read(lists[0], show_progress=False)
    model.rank(SENTENCE, readings)
    kept = [seconds(partial(model.rank, question, readings)) for question in QUESTIONS]
    return {KEPT: kept, AFRESH: afresh}


def memory(model: GemModel, texts: Texts, folder: Path) -> Samples:
    """Embed passages, search an index, answer from what was found."""
    from gem_rag.index import GemIndex

    place = folder / f"index-{model.dim}"
    if not place.exists():
        in_own_process(fill_index, place, texts, model.dim)
    with GemIndex(place) as index:
        model.embed_documents(texts.passages[:8])
        hits = index.search(model.embed_query(QUESTIONS[0]), 4, text=QUESTIONS[0])
        (reading,) = model.read([hits[0].text])
        model.generate(ASKED, after=reading, max_new_tokens=ANSWER_TOKENS)
        return {PEAK: [peak_mb()], RESIDENT: [resident_mb()]}


def fill_index(place: Path, texts: Texts, dim: int) -> None:
    """Jittered vectors with texts of a usual length."""
    from vectors import BLOCK, clusters, jittered
    from words import Words

    from gem_rag.index import GemIndex

    words = Words(" ".join(texts.passages))
    with GemIndex(place) as index:
        for block in jittered(clusters(BLOCK, dim), texts.sizes.chunks, 0.4, seed=0):
            index.add(words.chunks(len(block)), block)


def start(dtype: str, texts: Texts) -> Samples:
    """Of a process: imports, loading, the prompt, one token."""
    command = [sys.executable, "-c", STARTED.format(dtype=dtype, prompt=QUESTIONS[0])]
    seconds_to_say(command)  # warms the caches, that of quantised weights among them
    return {START: [seconds_to_say(command) for _ in range(texts.sizes.starts)]}


def sources(model: GemModel, texts: Texts, _folder: Path) -> Samples:
    """Answers that stand in a passage whose reading is kept, with speculation and without."""
    read_stream(model, "Hello", 2)
    readings = model.read([passage for passage, _ in texts.sources], show_progress=False)

    def rates(**options: Any) -> list[float]:
        return [
            answer_rate(model, question, after=reading, **options)
            for (_, question), reading in zip(texts.sources, readings, strict=True)
        ]

    if not speculates():
        return {SOURCES_PLAIN: rates()}
    return {SOURCES: rates(speculate=True), SOURCES_PLAIN: rates(speculate=False)}


def speculates() -> bool:
    """Whether this code can guess several tokens at once."""
    try:
        from gem_rag.engine.options import GenerationOptions
    except ModuleNotFoundError:  # before the engine
        return False
    return "speculate" in GenerationOptions.names()


def answer_rate(model: GemModel, asked: str, **options: Any) -> float:
    """Tokens/s of an answer whose prompt has been run before."""
    model.generate(asked, max_new_tokens=1, **options)
    made = []
    took = seconds(
        lambda: made.append(model.generate(asked, max_new_tokens=SOURCE_TOKENS, **options))
    )
    return made[0].usage.completion_tokens / took


def training(texts: Texts) -> Samples:
    """Steps of the default recipe's batches, whose texts were read before."""
    try:
        from gem_rag_train.loop.preflight import keep_freed_memory
        from gem_rag_train.loop.prepare import prepare
        from gem_rag_train.loop.trainer import Trainer
        from gem_rag_train.recipes.config import TAUGHT, TrainConfig
    except ImportError:  # before the rooms
        from gem_rag_train.config import TAUGHT, TrainConfig
        from gem_rag_train.preflight import keep_freed_memory
        from gem_rag_train.prepare import prepare
        from gem_rag_train.trainer import Trainer

    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        recipe = TrainConfig.from_recipe("default", {"output": f"{folder}/run", "eval_every": "0"})
        taught = dict.fromkeys(TAUGHT, 0.0)
        config = dataclasses.replace(recipe, examples=recipe.batch_size, teacher="", **taught)
        trainer = Trainer(config, resume=False)
        trainer.data, kept = prepare(config, trainer.model, trainer.data, None)
        holder = trainer.embedder if hasattr(trainer, "embedder") else trainer
        holder.kept = kept
        trainer.train_step()
        return {TRAINING: [1 / trainer.train_step()["seconds"] for _ in range(texts.sizes.steps)]}


Measure = Callable[["GemModel", Texts, Path], Samples]
WITH_MODEL: dict[str, Measure] = {
    "embedding": embedding,
    "query": query,
    "indexing": indexing,
    "stream": stream,
    "eight": eight,
    "first": first,
    "ranking": ranking,
    "memory": memory,
    "sources": sources,
}
PROBE = "probe"  # whether a format can be had, and which one it is


def number_format(model: GemModel) -> str:
    """Of the weights: what `dtype` names."""
    known = getattr(model.base, "number_format", None)  # not at 468d61f
    return known or str(model.base.dtype).removeprefix("torch.")


def child(row: str, dtype: str, file: Path) -> dict[str, Any]:
    """One row, and of which code it is."""
    import torch

    import gem_rag

    what = f"{Path(gem_rag.__file__).parent}, torch {torch.__version__}"
    if row in ("start", "training"):
        texts = Texts.read(file)
        return {"what": what, "found": start(dtype, texts) if row == "start" else training(texts)}
    model = gem_rag.GemModel.from_pretrained(dtype=dtype)
    if row == PROBE:
        return {"what": what, "found": number_format(model)}
    return {"what": what, "found": WITH_MODEL[row](model, Texts.read(file), file.parent)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[*WITH_MODEL, "start", "training", PROBE])
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--texts", type=Path)
    options = parser.parse_args()
    print(json.dumps(child(options.row, options.dtype, options.texts)), flush=True)


if __name__ == "__main__":
    main()
