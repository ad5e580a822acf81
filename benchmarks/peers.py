"""Other libraries' side of `speed.py`, each used as its documentation does.

The two-model stack is langchain-huggingface with all-MiniLM-L6-v2, FAISS (langchain-community), and
the same LLM through transformers. sentence-transformers runs all-MiniLM-L6-v2, and the same base
with mean pooling. Nothing of gem-rag is imported here.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from engine_work import PROMPTS, QUESTIONS, SENTENCE, seconds, seconds_to_say
from memory import in_own_process, peak_mb, resident_mb
from speed_rows import (
    EMBEDDING,
    FIRST,
    INDEXING,
    MINILM,
    PEAK,
    QUERY,
    RESIDENT,
    SAME_BASE,
    START,
    STREAM,
)
from speed_texts import ASK, SOURCE_QUESTIONS, Texts

Samples = dict[str, list[float]]
NEEDED = ("langchain_huggingface", "langchain_community", "sentence_transformers")
PACKAGES = ("langchain-huggingface", "sentence-transformers", "transformers", "torch")
ANSWER_TOKENS = 32
ASKED = ASK.format(question=SOURCE_QUESTIONS[0])


class LLM:
    """The same LLM through transformers."""

    def __init__(self, folder: Path, dtype: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self._model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
        self._tokenizer = AutoTokenizer.from_pretrained(folder)
        self._model.eval()

    def write(self, prompt: str, tokens: int) -> None:
        """Answer with exactly so many tokens."""
        import torch

        messages = [{"role": "user", "content": prompt}]
        ids = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_tensors="pt", return_dict=True
        )
        with torch.inference_mode():
            self._model.generate(
                **ids, max_new_tokens=tokens, min_new_tokens=tokens, do_sample=False
            )


def embeddings(folder: Path) -> Any:
    from langchain_huggingface import HuggingFaceEmbeddings

    return HuggingFaceEmbeddings(model_name=str(folder), model_kwargs={"device": "cpu"})


def embedding(options: argparse.Namespace, texts: Texts) -> Samples:
    """all-MiniLM-L6-v2 reads whole texts here, where its default would cut them at 256 tokens."""
    from sentence_transformers import SentenceTransformer, models

    if options.side == MINILM:
        model = SentenceTransformer(str(options.minilm), device="cpu")
        model.max_seq_length, batch = 512, 32
    else:
        words = models.Transformer(str(options.base), max_seq_length=512)
        words.tokenizer.pad_token = words.tokenizer.eos_token
        pooling = models.Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
        model = SentenceTransformer(modules=[words, pooling], device="cpu")
        batch = 8  # its best of 8, 16, 32 and 64
    model.encode(texts.passages[:4])
    took = seconds(lambda: model.encode(texts.mixed, batch_size=batch, show_progress_bar=False))
    return {EMBEDDING: [texts.mixed_tokens / took]}


def query(options: argparse.Namespace, _texts: Texts) -> Samples:
    model = embeddings(options.minilm)
    model.embed_query(SENTENCE)
    return {QUERY: [1000 * seconds(partial(model.embed_query, q)) for q in QUESTIONS * 3]}


def indexing(options: argparse.Namespace, texts: Texts) -> Samples:
    """Files to a FAISS index on disk."""
    from langchain_community.document_loaders import TextLoader
    from langchain_community.vectorstores import FAISS
    from langchain_text_splitters import MarkdownTextSplitter

    model = embeddings(options.minilm)
    model.embed_documents(texts.passages[:4])
    with tempfile.TemporaryDirectory() as folder:
        pages = Path(folder) / "pages"
        texts.write_pages(pages)

        def index() -> None:
            documents = [
                page for file in sorted(pages.iterdir()) for page in TextLoader(file).load()
            ]
            splitter = MarkdownTextSplitter(chunk_size=1000, chunk_overlap=0)
            store = FAISS.from_documents(splitter.split_documents(documents), model)
            store.save_local(str(Path(folder) / "index"))

        return {INDEXING: [1000 / len(texts.pages) * seconds(index)]}


def stream(options: argparse.Namespace, texts: Texts) -> Samples:
    llm = LLM(options.base, options.dtype)
    llm.write("Hello", 2)
    tokens = texts.sizes.tokens
    prompts = PROMPTS[: texts.sizes.prompts]
    return {STREAM: [tokens / seconds(partial(llm.write, prompt, tokens)) for prompt in prompts]}


def first(options: argparse.Namespace, texts: Texts) -> Samples:
    """The chunk is read together with the question."""
    llm = LLM(options.base, options.dtype)
    llm.write("Hello", 2)
    prompts = [f"{chunk}{ASKED}" for chunk in texts.passages[:10]]
    return {FIRST: [1000 * seconds(partial(llm.write, prompt, 1)) for prompt in prompts]}


def memory(options: argparse.Namespace, texts: Texts) -> Samples:
    """Embed passages, search an index, answer from what was found."""
    from langchain_community.vectorstores import FAISS

    place = options.texts.parent / "faiss"
    if not place.exists():
        in_own_process(fill_index, place, texts)
    model = embeddings(options.minilm)
    llm = LLM(options.base, options.dtype)
    store = FAISS.load_local(str(place), model, allow_dangerous_deserialization=True)
    model.embed_documents(texts.passages[:8])
    found = store.similarity_search(QUESTIONS[0], 4)
    llm.write(f"{found[0].page_content}{ASKED}", ANSWER_TOKENS)
    return {PEAK: [peak_mb()], RESIDENT: [resident_mb()]}


def fill_index(place: Path, texts: Texts) -> None:
    """Jittered vectors of 384 numbers with texts of a usual length."""
    from langchain_community.vectorstores import FAISS
    from langchain_core.embeddings import FakeEmbeddings
    from vectors import BLOCK, clusters, jittered
    from words import Words

    words = Words(" ".join(texts.passages))
    store = None
    for block in jittered(clusters(BLOCK, 384), texts.sizes.chunks, 0.4, seed=0):
        pairs = list(zip(words.chunks(len(block)), block.tolist(), strict=True))
        if store is None:
            store = FAISS.from_embeddings(pairs, FakeEmbeddings(size=384))
        else:
            store.add_embeddings(pairs)
    store.save_local(str(place))


def start(options: argparse.Namespace, texts: Texts) -> Samples:
    """Of a process: imports, loading both models, one token."""
    paths = ["--base", str(options.base), "--minilm", str(options.minilm)]
    command = [sys.executable, __file__, "once", "--dtype", options.dtype, *paths]
    seconds_to_say(command)
    return {START: [seconds_to_say(command) for _ in range(texts.sizes.starts)]}


def once(options: argparse.Namespace) -> None:
    """One question embedded, one token written."""
    embeddings(options.minilm).embed_query(QUESTIONS[0])
    LLM(options.base, options.dtype).write(QUESTIONS[0], 1)
    print("started", flush=True)


MEASURES: dict[str, Callable[[argparse.Namespace, Texts], Samples]] = {
    "embedding": embedding,
    "query": query,
    "indexing": indexing,
    "stream": stream,
    "first": first,
    "memory": memory,
    "start": start,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("row", choices=[*MEASURES, "once"])
    parser.add_argument("--side", choices=(MINILM, SAME_BASE), help="of the embedding row")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--base", type=Path, required=True, help="folder of the LLM")
    parser.add_argument("--minilm", type=Path, required=True, help="folder of all-MiniLM-L6-v2")
    options = parser.parse_args()
    if options.row == "once":
        once(options)
        return
    found = MEASURES[options.row](options, Texts.read(options.texts))
    what = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    print(json.dumps({"what": what, "found": found}), flush=True)


if __name__ == "__main__":
    main()
