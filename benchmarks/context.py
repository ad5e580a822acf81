"""How many passages to put before the model: SQuAD dev questions answered through GemRAG.

A question counts when its answer contains a gold one (letter case, articles and punctuation aside).
"""

from __future__ import annotations

import re
import string
import warnings

from common import arguments, show

from gem_rag.documents import Document
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag_train.evaluation import squad_sample


def plain(text: str) -> str:
    text = re.sub(f"[{re.escape(string.punctuation)}]", "", text.lower())
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--questions", type=int, default=40)
    parser.add_argument("--paragraphs", type=int, default=100)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    model = GemModel.from_pretrained(dtype="float32")
    paragraphs, questions = squad_sample(options.paragraphs)
    rag = GemRAG(model, chunk_tokens=512)
    rag.add([Document(p, str(i)) for i, p in enumerate(paragraphs)])
    settings = {
        "one passage, from its reading": (1, False),
        "three passages, read together": (3, False),
        "three passages, readings joined": (3, True),
    }
    report: dict[str, float] = {}
    for name, (context, join) in settings.items():
        rag.context, rag.join_readings = context, join
        right, first, silent = 0, 0.0, 0
        for question in questions[: options.questions]:
            answer = rag.answer(question.text, max_new_tokens=48)
            said = f" {plain(answer.answer)} "
            right += any(f" {plain(a)} " in said for a in question.answers)
            silent += answer.finish_reason == "nothing_found"
            first += answer.timings.get("first_token", 0.0)
        count = options.questions
        report[f"{name}: answer contains the gold one"] = right / count
        report[f"{name}: nothing found"] = silent / count
        report[f"{name}: first token, s"] = first / max(1, count - silent)
    show(report, options.json)


if __name__ == "__main__":
    main()
