"""Answers with the passage given, and over a small index: by the plain base, and by the skill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gem_rag.documents import Document
from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag.rag import ASK, GemRAG
from gem_rag.rag.citation import Citation
from gem_rag.rag.likeliest import BEAMS
from gem_rag.rag.quotes import quoted
from gem_rag_train.evaluation.answers import METRICS, best, contains
from gem_rag_train.evaluation.kept import KeptAnswers, digest
from gem_rag_train.evaluation.measures import Measure, measure
from gem_rag_train.evaluation.sets import Question, Retrieval
from gem_rag_train.evaluation.statistics import Sample
from gem_rag_train.evaluation.systems import CHECKPOINT, GREEDY, PLAIN_BASE

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
    """How often the answer is right with the right passage before the model.

    By the plain base and by the skill, both greedy, and by the skill as `GemRAG` asks it.

    Args:
        model: The checkpoint; where it has no skill that answers, the plain base alone is measured.
        title: Of the set.
        data: Questions and the paragraphs that answer them.
        folder: Where answers are kept.
        show_progress: As for `GemModel.read`.
    """
    systems = ((PLAIN_BASE, None, 1), (GREEDY, SKILL, 1), (CHECKPOINT, SKILL, BEAMS))
    said = {
        system: _answers(model, data, folder, system, skill, beams, show_progress)
        for system, skill, beams in systems
        if skill is None or skill in model.skills
    }
    task = f"{title}, the right passage given"
    return [*right(said, data, "answers", task), *_quotes(said, data, task)]


def _quotes(said: dict[str, list[str]], data: Retrieval, task: str) -> list[Measure]:
    """Of the right answers of each system, how many are quoted from a gold one's place."""
    scores = {}
    for system, answers in said.items():
        pairs = [
            (quotes_place(q, data.paragraphs[q.paragraph], a), q.paragraph)
            for q, a in zip(data.questions, answers, strict=True)
            if q.places and best(contains, a, q)
        ]
        if pairs:
            held, groups = zip(*pairs, strict=True)
            scores[system] = Sample.mean([float(h) for h in held], list(groups)).score()
    note = "of the right answers alone, which are others of each system"
    metric = "the quote holds the gold place"
    return [Measure("answers", task, metric, None, scores, note=note)] if scores else []


def quotes_place(question: Question, passage: str, answer: str) -> bool:
    """Whether the sentence that is quoted for an answer holds a place of the gold one."""
    whole = Citation("", 0, len(passage), None, None, passage)
    (cited,) = quoted([whole], question.text, answer)
    if cited.quote_start is None or cited.quote_end is None:
        return False
    return any(cited.quote_start <= s and e <= cited.quote_end for s, e in question.places)


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
            by = rag.skill if skill else None
            name = f"{_name(model, data, by)}{_searched(rag.beams if by else 1)}"
            kept = KeptAnswers(folder / f"{name}.jsonl")
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


def _searched(beams: int) -> str:
    """Of a file's name: other answers come of a search."""
    return "" if beams == 1 else f"-beams{beams}"


def _answers(
    model: GemModel,
    data: Retrieval,
    folder: Path,
    system: str,
    skill: str | None,
    beams: int,
    show_progress: bool | None,
) -> list[str]:
    kept = KeptAnswers(folder / f"{_name(model, data, skill)}{_searched(beams)}-given.jsonl")
    left = [question for question in data.questions if question.text not in kept]
    prompt = ASK if skill is None else model.parts.skill(skill).config.prompt
    with progress(f"{system}: answering", len(left), show_progress) as advance:
        for start in range(0, len(left), AT_ONCE):
            batch = left[start : start + AT_ONCE]
            texts = list(dict.fromkeys(data.paragraphs[q.paragraph] for q in batch))
            readings = dict(zip(texts, model.read(texts, show_progress=False), strict=True))
            answers = model.generate_batch(
                [prompt.replace("{question}", q.text) for q in batch],
                after=[readings[data.paragraphs[q.paragraph]] for q in batch],
                max_new_tokens=LONGEST_ANSWER,
                skill=skill,
                beams=beams,
            )
            for question, answer in zip(batch, answers, strict=True):
                kept[question.text] = answer.text.strip()
                advance(1)
    return [kept[question.text] for question in data.questions]
