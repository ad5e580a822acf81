"""How good embeddings and rankings are, on public sets that nothing here is trained on.

STS-B dev (a CSV the caller has) and SQuAD 1.1 dev (from the package ``bigbench``).
"""

from __future__ import annotations

import argparse
import csv
import json
import tarfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from gem_rag.errors import GemError, MissingExtraError
from gem_rag.fetch import atomic_write, cache_dir, fetch_wheel
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.store import ReadingStore
from gem_rag_train.teacher import minilm_folder

BIGBENCH = ("bigbench==1.0.0", "1bb398a5512c6d798cdebe0dfa0ac03f67f6033fa6b39c6ef71df978c7cbc5c2")
SQUAD = "squaddev_v1.1"
SHIFTED = ("new_wiki_v1.0", "nyt_v1.0", "reddit_v1.0", "amazon_reviews_v1.0")

KEPT_BYTES = 4 << 30  # of readings, while ranking

Embed = Callable[[Sequence[str]], np.ndarray]


@dataclass(frozen=True)
class RetrievalScores:
    """Means over questions: nDCG@10 and recall@1 by embedding, recall@1 after ranking."""

    ndcg10: float
    recall1: float
    ranked_recall1: float | None = None


@dataclass(frozen=True)
class Question:
    """A question, the index of the paragraph that answers it, and accepted answers."""

    text: str
    paragraph: int
    answers: tuple[str, ...]


def load_stsb(path: str | Path) -> list[tuple[str, str, float]]:
    """Rows ``sentence1, sentence2, score 0..5`` of a CSV without a header."""
    with Path(path).open(encoding="utf-8", newline="") as file:
        rows = [(a, b, float(score)) for a, b, score in csv.reader(file)]
    if not rows:
        raise GemError(f"{path} is empty; expected rows of sentence1,sentence2,score")
    return rows


def spearman_sts(embed: Embed, rows: Sequence[tuple[str, str, float]]) -> float:
    """Spearman correlation of cosine similarities with the gold scores."""
    try:
        from scipy.stats import spearmanr
    except ImportError as error:
        raise MissingExtraError("evaluation", "train") from error
    first, second = embed([r[0] for r in rows]), embed([r[1] for r in rows])
    return float(spearmanr((first * second).sum(1), [r[2] for r in rows]).statistic)


def squad(name: str = SQUAD) -> tuple[list[str], list[Question]]:
    """Paragraphs and questions of SQuAD 1.1 dev or one of the `SHIFTED` sets."""
    data = json.loads(_squad_file(name).read_text(encoding="utf-8"))["data"]
    paragraphs: list[str] = []
    questions: list[Question] = []
    for paragraph in (p for article in data for p in article["paragraphs"]):
        for qa in paragraph["qas"]:
            answers = tuple(dict.fromkeys(a["text"] for a in qa["answers"]))
            questions.append(Question(qa["question"], len(paragraphs), answers))
        paragraphs.append(paragraph["context"])
    return paragraphs, questions


def _squad_file(name: str) -> Path:
    kept = cache_dir() / "evaluation" / f"{name}.json"
    if not kept.exists():
        sdist = fetch_wheel(*BIGBENCH, sdist=True)
        with tarfile.open(sdist) as archive:
            for member in archive:
                stem = Path(member.name).stem
                if "/squad_shifts/" in member.name and stem in (SQUAD, *SHIFTED):
                    file = archive.extractfile(member)
                    assert file is not None
                    atomic_write(kept.with_name(f"{stem}.json"), file.read())
        sdist.unlink()  # 358 MB for five files
    return kept


def squad_sample(n: int = 300, seed: int = 1) -> tuple[list[str], list[Question]]:
    """The first `n` paragraphs after shuffling, and the first question of each."""
    paragraphs, questions = squad()
    order = list(range(len(paragraphs)))
    Random(seed).shuffle(order)
    first: dict[int, Question] = {}
    for question in questions:
        first.setdefault(question.paragraph, question)
    chosen = order[:n]
    sample = [Question(first[p].text, i, first[p].answers) for i, p in enumerate(chosen)]
    return [paragraphs[p] for p in chosen], sample


def retrieval(
    documents: np.ndarray, queries: np.ndarray, gold: Sequence[int]
) -> tuple[RetrievalScores, np.ndarray]:
    """Score cosine retrieval with one right document per query.

    Args:
        documents: float32 ``[n, d]``.
        queries: float32 ``[q, d]``.
        gold: Index of each query's document.

    Returns:
        The scores, and each query's ten best documents ``[q, 10]``.
    """
    similarity = queries @ documents.T  # (q, n)
    right = similarity[np.arange(len(gold)), list(gold)]
    place = (similarity > right[:, None]).sum(1)  # 0 is first
    gain = np.where(place < 10, 1 / np.log2(place + 2.0), 0.0)
    top = np.argsort(-similarity, axis=1)[:, :10]
    return RetrievalScores(float(gain.mean()), float((place == 0).mean())), top


def evaluate_retrieval(
    model: GemModel,
    paragraphs: Sequence[str],
    questions: Sequence[Question],
    *,
    max_length: int = 256,
    rank: bool = True,
    show_progress: bool | None = None,
) -> RetrievalScores:
    """Read each paragraph once; embed it, retrieve, and rank each question's ten best from it.

    Args:
        model: What is measured.
        paragraphs: Texts; only their first `max_length` tokens count.
        questions: Each with its one right paragraph.
        max_length: In tokens.
        rank: Rank as well.
        show_progress: As for `GemModel.read`.
    """
    store = ReadingStore(model, memory_bytes=KEPT_BYTES)
    texts = [first_tokens(model, text, max_length) for text in paragraphs]
    if rank:
        documents = store.embed(texts)
    else:
        documents = model.embed_documents(texts, show_progress=show_progress)
    queries = model.embed_queries([q.text for q in questions], show_progress=show_progress)
    scores, top = retrieval(documents, queries, [q.paragraph for q in questions])
    if not rank:
        return scores
    hits = 0
    with progress("ranking", len(questions), show_progress) as advance:
        for question, row in zip(questions, top, strict=True):
            best = store.rank(question.text, [texts[i] for i in row])[0]
            hits += int(row[best.index]) == question.paragraph
            advance(1)
    return RetrievalScores(scores.ndcg10, scores.recall1, hits / len(questions))


def first_tokens(model: GemModel, text: str, count: int) -> str:
    """The text's first `count` tokens."""
    offsets = model.codec.encode_texts([text], count)[0].offsets
    return text[: offsets[-1][1]] if offsets else text


def minilm() -> Embed:
    """all-MiniLM-L6-v2, the embedder users pick beside an LLM: texts to unit ``[n, 384]``."""
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise GemError(
            "the comparison with all-MiniLM-L6-v2 needs `pip install sentence-transformers`"
        ) from error
    peer = SentenceTransformer(str(minilm_folder()), device="cpu")

    def embed(texts: Sequence[str]) -> np.ndarray:
        vectors: Any = peer.encode(list(texts), normalize_embeddings=True, batch_size=32)
        return np.asarray(vectors, dtype=np.float32)

    return embed


def main() -> None:
    """``python -m gem_rag_train.evaluation CHECKPOINT --stsb FILE``: a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--stsb", type=Path, help="STS-B dev: sentence1,sentence2,score")
    parser.add_argument("--paragraphs", type=int, default=300, help="SQuAD dev sample")
    parser.add_argument("--minilm", action="store_true", help="all-MiniLM-L6-v2 beside it")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    paragraphs, questions = squad_sample(arguments.paragraphs)
    rows = load_stsb(arguments.stsb) if arguments.stsb else []
    report: dict[str, Any] = {}
    model = GemModel.from_pretrained(arguments.checkpoint)
    report["gem"] = asdict(evaluate_retrieval(model, paragraphs, questions))
    embedders: dict[str, Embed] = {"gem": model.embed_documents}
    if arguments.minilm:
        embedders["all-MiniLM-L6-v2"] = peer = minilm()
        scores, _ = retrieval(
            peer(paragraphs), peer([q.text for q in questions]), [q.paragraph for q in questions]
        )
        report["all-MiniLM-L6-v2"] = asdict(scores)
    for name, embed in embedders.items():
        if rows:
            report[name]["stsb_spearman"] = spearman_sts(embed, rows)
    if arguments.json:
        print(json.dumps(report, indent=2))
        return
    for name, values in report.items():
        print(name, *(f"{k} {v:.3f}" for k, v in values.items() if v is not None), sep="  ")


if __name__ == "__main__":
    main()
