"""Answers with the passage given, and over a small index: by the plain base, and by the skill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gem_rag.documents import Document
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag import ASK, GemRAG
from gem_rag_train.evaluation.answers import METRICS, best
from gem_rag_train.evaluation.kept import KeptAnswers, digest
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Question, Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import CHECKPOINT, PLAIN_BASE

LONGEST_ANSWER = 48  # tokens
AT_ONCE = 16
SKILL = "answer"


def given(
    model: GemModel,
    title: str,
    data: Retrieval,
    folder: Path,
    *,
    show_progress: bool | None = None,
) -> list[Measure]:
    """How often the answer is right with the right passage before the model, greedy.

    Args:
        model: The checkpoint; where it has no skill that answers, the plain base alone is measured.
        title: Of the set.
        data: Questions and the paragraphs that answer them.
        folder: Where answers are kept.
        show_progress: As for `GemModel.read`.
    """
    said = {
        system: _answers(model, data, folder, skill, show_progress)
        for system, skill in ((PLAIN_BASE, None), (CHECKPOINT, SKILL))
        if skill is None or skill in model.skills
    }
    return right(said, data, "answers", f"{title}, the right passage given")


def small_index(
    model: GemModel, data: Retrieval, folder: Path, *, show_progress: bool | None = None
) -> list[Measure]:
    """Answers at default settings over an index of few paragraphs, each asked about once.

    Args:
        model: The checkpoint.
        data: Paragraphs, and a question about each.
        folder: Where answers are kept.
        show_progress: As for `GemModel.read`.
    """
    said = {}
    with GemIndex(fingerprint=model.fingerprint, dim=model.dim) as index:
        rag = GemRAG(model, index)
        rag.add(
            [Document(text, f"{i:05d}") for i, text in enumerate(data.paragraphs)],
            show_progress=show_progress,
        )
        for system, skill in ((PLAIN_BASE, None), (CHECKPOINT, "auto")):
            kept = KeptAnswers(folder / f"{_name(model, data, rag.skill if skill else None)}.jsonl")
            with progress(f"{system}: answering", len(data.questions), show_progress) as advance:
                for question in data.questions:
                    if question.text not in kept:
                        answer = rag.answer(
                            question.text, max_new_tokens=LONGEST_ANSWER, skill=skill
                        )
                        kept[question.text] = answer.answer
                    advance(1)
            said[system] = [kept[question.text] for question in data.questions]
    task = f"SQuAD dev, {len(data.paragraphs)} paragraphs, one question each, default settings"
    return right(said, data, "answers", task)


def right(said: dict[str, list[str]], data: Retrieval, part: str, task: str) -> list[Measure]:
    """Each metric of each system's answers, with the paired difference to the plain base."""
    measures = []
    for metric, function in METRICS.items():
        samples = {
            system: Sample.mean(_scores(function, answers, data.questions), data.gold)
            for system, answers in said.items()
        }
        measures.append(measure(part, task, metric, samples, against=PLAIN_BASE))
    words = {
        system: Sample.mean([float(len(answer.split())) for answer in answers], data.gold)
        for system, answers in said.items()
    }
    return [*measures, measure(part, task, "words an answer", words, against=PLAIN_BASE)]


def _scores(
    metric: Callable[[str, str], float], answers: Sequence[str], questions: Sequence[Question]
) -> list[float]:
    return [best(metric, a, q) for a, q in zip(answers, questions, strict=True)]


def _name(model: GemModel, data: Retrieval, skill: str | None) -> str:
    """Of the file that keeps answers: another base, skill or set is another file."""
    by = "base" if skill is None else model.parts.skill(skill).fingerprint[:16]
    questions = [question.text for question in data.questions]
    return f"{model.config.base.weights[:16]}-{by}-{digest(data.paragraphs, questions)}"


def _answers(
    model: GemModel,
    data: Retrieval,
    folder: Path,
    skill: str | None,
    show_progress: bool | None,
) -> list[str]:
    kept = KeptAnswers(folder / f"{_name(model, data, skill)}-given.jsonl")
    left = [question for question in data.questions if question.text not in kept]
    prompt = ASK if skill is None else model.parts.skill(skill).config.prompt
    what = f"{PLAIN_BASE if skill is None else skill}: answering"
    with progress(what, len(left), show_progress) as advance:
        for start in range(0, len(left), AT_ONCE):
            batch = left[start : start + AT_ONCE]
            texts = list(dict.fromkeys(data.paragraphs[q.paragraph] for q in batch))
            readings = dict(zip(texts, model.read(texts, show_progress=False), strict=True))
            answers = model.generate_batch(
                [prompt.replace("{question}", q.text) for q in batch],
                after=[readings[data.paragraphs[q.paragraph]] for q in batch],
                max_new_tokens=LONGEST_ANSWER,
                skill=skill,
            )
            for question, answer in zip(batch, answers, strict=True):
                kept[question.text] = answer.text.strip()
                advance(1)
    return [kept[question.text] for question in data.questions]
