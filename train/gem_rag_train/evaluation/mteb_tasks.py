"""mteb: an encoder for GEM checkpoints and their peers, and tasks over local files.

Any of mteb's own tasks runs where its data can be fetched from the hub; local tasks run offline.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import mteb
import numpy as np
from datasets import Dataset, DatasetDict
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.sts import AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType

from gem_rag.config import Task
from gem_rag.errors import GemError
from gem_rag.files import sha256_of
from gem_rag.model import GemModel
from gem_rag_train.evaluation.kept import KeptVectors
from gem_rag_train.evaluation.measures import Measure
from gem_rag_train.evaluation.sets import load_stsb
from gem_rag_train.evaluation.statistics import Score
from gem_rag_train.evaluation.systems import Embedder, GemEmbedder

if TYPE_CHECKING:
    from mteb.abstasks.abstask import AbsTask

SPLIT, SUBSET = "test", "default"


class GemEncoder(AbsEncoder):  # type: ignore[misc]  # mteb is skipped by mypy
    """A GEM checkpoint (or another embedder) as mteb calls it.

    mteb's prompt type decides how a text is embedded: queries as queries, everything else as
    documents, which is also how texts are compared with each other.

    Args:
        model: A loaded checkpoint, or vectors that are kept.
    """

    def __init__(self, model: GemModel | KeptVectors) -> None:
        self.model: GemEmbedder | KeptVectors
        named: Embedder
        if isinstance(model, GemModel):
            self.model = named = GemEmbedder(model, model.config.max_text_tokens)
        else:
            self.model, named = model, model.embedder
        self.mteb_model_meta = ModelMeta.create_empty(
            {"name": f"gem-rag/{named.key}", "revision": named.key, "embed_dim": named.dim}
        )

    def encode(
        self,
        inputs: Iterable[dict[str, Any]],
        *,
        prompt_type: PromptType | None = None,
        **_: Any,
    ) -> np.ndarray:
        """Texts of all batches to unit vectors ``[n, d]``, float32."""
        texts = [text for batch in inputs for text in batch["text"]]
        kind: Task = "query" if prompt_type == PromptType.query else "document"
        vectors: np.ndarray = self.model.embed(texts, kind)
        return vectors


class LocalRetrieval(AbsTaskRetrieval):  # type: ignore[misc]
    """A retrieval task over a local folder in the layout of BEIR.

    ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``), and
    ``qrels/test.tsv`` or ``qrels.tsv`` (query id, document id, score; with a header).

    Args:
        folder: The folder.

    Raises:
        GemError: A file is missing or not as expected.
    """

    def __init__(self, folder: str | Path) -> None:
        folder = Path(folder)
        qrels = folder / "qrels" / "test.tsv"
        self._files = [
            folder / "corpus.jsonl",
            folder / "queries.jsonl",
            qrels if qrels.exists() else folder / "qrels.tsv",
        ]
        missing = [file.name for file in self._files if not file.is_file()]
        if missing:
            raise GemError(
                f"{folder} has no {', '.join(missing)}; expected corpus.jsonl, queries.jsonl and "
                "qrels/test.tsv or qrels.tsv"
            )
        self._name = folder.name
        super().__init__()

    @cached_property  # mteb drops an instance's own metadata with its data
    def metadata(self) -> TaskMetadata:
        """Named by the folder and what is in it."""
        return _metadata(self._name, self._files, "Retrieval", "ndcg_at_10")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the three files."""
        corpus, queries, qrels = self._files
        self.dataset = {
            SUBSET: {
                SPLIT: {
                    "corpus": Dataset.from_list(_rows(corpus)),
                    "queries": Dataset.from_list(_rows(queries)),
                    "relevant_docs": _qrels(qrels),
                    "top_ranked": None,
                }
            }
        }
        self.data_loaded = True


class LocalSTS(AbsTaskSTS):  # type: ignore[misc]
    """Sentence similarity over a local CSV of ``sentence1,sentence2,score``, score 0 to 5.

    Args:
        file: The CSV.
    """

    def __init__(self, file: str | Path) -> None:
        self._file = Path(file)
        super().__init__()

    @cached_property
    def metadata(self) -> TaskMetadata:
        """Named by the file and what is in it."""
        return _metadata(self._file.stem, [self._file], "STS", "cosine_spearman")

    def load_data(self, *_: Any, **__: Any) -> None:
        """Read the file."""
        first, second, score = zip(*load_stsb(self._file), strict=True)
        columns = {"sentence1": first, "sentence2": second, "score": score}
        self.dataset = {SUBSET: DatasetDict({SPLIT: Dataset.from_dict(columns)})}
        self.data_loaded = True


def run_tasks(
    systems: Sequence[KeptVectors], tasks: Sequence[AbsTask], folder: Path, show: bool | None
) -> list[Measure]:
    """Each task's main score for each system.

    Args:
        systems: What is measured.
        tasks: What `find_task` gives.
        folder: Where mteb keeps its results; what is there is not run again.
        show: mteb's progress bars.
    """
    cache = mteb.ResultCache(folder)
    measures = []
    for task in tasks:
        scores = {s.name: Score(_run(GemEncoder(s), task, cache, bool(show))) for s in systems}
        title = task.metadata.name.rpartition("-")[0] if _is_local(task) else task.metadata.name
        title = f"mteb {task.metadata.type}: {title}"
        measures.append(Measure("mteb", title, task.metadata.main_score, None, scores))
    return measures


def find_task(name: str) -> AbsTask:
    """A task by mteb's name, folder (`LocalRetrieval`) or CSV file (`LocalSTS`).

    Raises:
        GemError: There is none.
    """
    path = Path(name)
    if path.is_dir():
        return LocalRetrieval(path)
    if path.is_file():
        return LocalSTS(path)
    try:
        return mteb.get_task(name)
    except (KeyError, ValueError) as error:
        raise GemError(
            f"no mteb task {name!r}; expected one of mteb's names, a folder with corpus.jsonl, "
            "queries.jsonl and qrels, or a CSV of sentence1,sentence2,score"
        ) from error


def _run(encoder: GemEncoder, task: AbsTask, cache: mteb.ResultCache, show: bool) -> float:
    try:
        result = mteb.evaluate(encoder, task, cache=cache, show_progress_bar=show)
    except OSError as error:  # what the hub's client raises without a network
        raise GemError(
            f"the data of mteb task {task.metadata.name} could not be loaded: {error}; mteb's own "
            "tasks need the hub, local folders and files do not"
        ) from error
    return float(result.task_results[0].get_score())


def _is_local(task: AbsTask) -> bool:
    return isinstance(task, LocalRetrieval | LocalSTS)


def _metadata(name: str, files: Sequence[Path], kind: str, main_score: str) -> TaskMetadata:
    """Of a local task; its name changes with the files, so that results kept are of these."""
    content = "".join(sha256_of(file) for file in files)[:8]
    return TaskMetadata(
        name=f"{re.sub(r'[^A-Za-z0-9]+', '_', name)}-{content}",
        description=f"local files of {name}",
        dataset={"path": name, "revision": content},
        type=kind,
        category="t2t",
        eval_splits=[SPLIT],
        eval_langs=["eng-Latn"],
        main_score=main_score,
    )


def _rows(file: Path) -> list[dict[str, str]]:
    """Lines of JSON with ``_id``, ``text`` and perhaps ``title``, as mteb wants them."""
    rows = []
    lines = file.read_text(encoding="utf-8").rstrip("\n").split("\n")  # U+2028 ends no line
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            rows.append({"id": str(row["_id"]), "title": row.get("title", ""), "text": row["text"]})
        except (ValueError, KeyError, TypeError) as error:
            raise GemError(
                f'{file}, line {number}: expected {{"_id": ..., "text": ...}}, got {line[:80]!r}'
            ) from error
    if file.name == "queries.jsonl":
        return [{"id": row["id"], "text": row["text"]} for row in rows]
    return rows


def _qrels(file: Path) -> dict[str, dict[str, int]]:
    """``{query: {document: relevance}}``."""
    relevant: dict[str, dict[str, int]] = {}
    with file.open(encoding="utf-8", newline="") as opened:
        for number, row in enumerate(csv.reader(opened, delimiter="\t"), 1):
            if number == 1 or not row:  # the header
                continue
            try:
                query, document, score = row
                relevant.setdefault(query, {})[document] = int(float(score))
            except ValueError as error:
                raise GemError(
                    f"{file}, line {number}: expected query-id, corpus-id and score between tabs, "
                    f"got {row}"
                ) from error
    return relevant
