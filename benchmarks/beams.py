"""How wide a search for an answer is, and what its length counts for; the right passage given.

``--on narrative`` are held-out questions, of NarrativeQA's odd stories: by them width and
`gem_rag.engine.beams.LENGTH` are chosen. ``--on squad`` reports.
"""

from __future__ import annotations

import random
import statistics
import time
from typing import Any

import numpy as np
from common import arguments, show

from gem_rag.engine.beams import LENGTH
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel
from gem_rag.progress import progress
from gem_rag_train.evaluation.answers import best, contains, f1
from gem_rag_train.evaluation.choosing import narrative_odd
from gem_rag_train.evaluation.report import shown
from gem_rag_train.evaluation.sets import Question, Retrieval, squad
from gem_rag_train.evaluation.statistics import Sample

SKILL, TOKENS = "answer", 48
POWERS = (0.0, 0.25, LENGTH, 0.75, 1.0)


def text_of(answer: Generation, power: float) -> str:
    """Of what a search came to, what is best where length counts for so much."""
    if not answer.candidates:
        return answer.text.strip()
    one = max(answer.candidates, key=lambda c: c.log_likelihood / len(c.ids) ** power)
    return one.text.strip()


def measured(
    questions: list[Question], answers: list[Generation], greedy: list[Generation], power: float
) -> dict[str, Any]:
    """Both metrics, and what is gained over one token after another."""
    found = {"words": np.mean([len(text_of(a, power).split()) for a in answers])}
    groups = [question.paragraph for question in questions]
    for metric in (contains, f1):
        scores = [
            Sample.mean(
                [best(metric, text_of(a, power), q) for a, q in zip(own, questions, strict=True)],
                groups,
            )
            for own in (answers, greedy)
        ]
        gain = scores[0].minus(scores[1])
        found[metric.__name__] = scores[0].value
        found[f"{metric.__name__} gained"] = shown(gain, "+")
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--on", choices=("narrative", "squad"), default="narrative")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--widths", type=lambda said: [*map(int, said.split(","))], default=[3, 5])
    parser.add_argument("--model")
    parser.add_argument("--dtype", default="auto")
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.model, dtype=options.dtype)
    data = Retrieval(*squad()) if options.on == "squad" else narrative_odd(model)
    questions = random.Random(0).sample(data.questions, options.questions)
    said: dict[int, list[Generation]] = {width: [] for width in (1, *options.widths)}
    seconds: dict[int, list[float]] = {width: [] for width in said}
    prompt = model.parts.skill(SKILL).config
    with progress("asking", len(questions)) as advance:
        for question in questions:
            (reading,) = model.read([data.paragraphs[question.paragraph]], show_progress=False)
            for width, answers in said.items():
                started = time.perf_counter()
                answers.append(
                    model.generate(
                        prompt.asked(question.text),
                        after=reading,
                        skill=SKILL,
                        max_new_tokens=TOKENS,
                        beams=width,
                    )
                )
                seconds[width].append(time.perf_counter() - started)
            advance(1)
    report: dict[str, Any] = {"questions": len(questions)}
    for width, answers in said.items():
        report[f"{width}: seconds"] = statistics.median(seconds[width])
        for power in POWERS if width > 1 else (LENGTH,):
            for name, value in measured(questions, answers, said[1], power).items():
                report[f"{width}, length^{power:g}: {name}"] = value
    show(report, options.json)


if __name__ == "__main__":
    main()
