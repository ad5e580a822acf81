"""Second and later questions of a conversation: is the passage that answers them found first?

QuAC's dialogues of odd number, cut into chunks, all articles of a half in one index; by the first
half something was chosen, by the second nothing. Three ways: the question alone, the last question
put before it, and `find_in_context`. Beside the follow-ups, changes of subject: first questions of
a dialogue, asked after another one; of these also the part that may stand alone. The answers in the
history are the set's own; with ``--own-answers`` they are the model's.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np
from common import arguments, show

from gem_rag.model import GemModel
from gem_rag.rag.question import stands_alone
from gem_rag_train.evaluation.conversations import CANDIDATES, WAYS, Asker
from gem_rag_train.evaluation.dialogues import Half, Turn, quac_conversations
from gem_rag_train.evaluation.statistics import Sample


def compared(name: str, turns: Sequence[Turn], asker: Asker) -> dict[str, Any]:
    """Recall@1 of each way, and what the last gains over the one before, with the interval."""
    right = np.array([asker.right(turn) for turn in turns], dtype=np.float64)
    groups = [turn.dialogue for turn in turns]
    alone = np.array([stands_alone(turn.question) for turn in turns])
    report: dict[str, Any] = {f"{name}: questions": len(turns)}
    for part, kept in ((name, alone | True), (f"{name}, may stand alone", alone)):
        samples = [Sample.mean(r, np.array(groups)[kept]) for r in right[kept].T]
        for way, sample in zip(WAYS, samples, strict=True):
            report[f"{part}: {way}"] = sample.value
        gain = samples[2].minus(samples[1])
        report[f"{part}: gained"] = f"{gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]"
    return report


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--half", choices=get_args(Half), default="second")
    parser.add_argument("--questions", type=int, default=300, help="of each kind, at most")
    parser.add_argument("--candidates", type=int, default=CANDIDATES)
    parser.add_argument("--readings", type=Path, help="a folder where readings are kept")
    parser.add_argument("--own-answers", action="store_true")
    options = parser.parse_args()
    model = GemModel.from_pretrained()
    asked = quac_conversations(model, options.half)
    asker = Asker(
        model, asked.paragraphs, options.candidates, options.readings, options.own_answers
    )
    report: dict[str, Any] = {}
    for name, turns in (("follow-ups", asked.follow_ups), ("changes", asked.changes)):
        drawn = random.Random(0).sample(turns, min(options.questions, len(turns)))
        report |= compared(name, drawn, asker)
    show(report, options.json)


if __name__ == "__main__":
    main()
