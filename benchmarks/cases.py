"""Hand-written questions of eight kinds, each with its passage: how many are answered rightly.

By the plain base and, where the checkpoint has it, by its skill "answer", greedy and searched for
as `GemRAG` does. What counts as right stands at the top of `gem_rag_train.evaluation.cases`. With
``--answers`` each answer is printed before the table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from common import arguments

from gem_rag.model import GemModel
from gem_rag.rag.likeliest import BEAMS
from gem_rag_train.evaluation.answers import LONGEST_ANSWER
from gem_rag_train.evaluation.cases import KINDS, Case, answered, hand_written, is_right

SKILL = "answer"


def counts(cases: Sequence[Case], said: Mapping[str, Sequence[str]]) -> dict[str, dict[str, int]]:
    """How many answers of each kind are right, and of how many, by who gave them."""
    table: dict[str, dict[str, int]] = {}
    for kind in (*KINDS, "all"):
        of_kind = [i for i, case in enumerate(cases) if kind in (case.kind, "all")]
        table[kind] = {"of": len(of_kind)} | {
            who: sum(is_right(answers[i], cases[i]) for i in of_kind)
            for who, answers in said.items()
        }
    return table


def show_answers(cases: Sequence[Case], said: Mapping[str, Sequence[str]]) -> None:
    for i, case in enumerate(cases):
        print(f"\n{case.id}: {case.question}\n  expected: {case.answers[0]}")
        for who, answers in said.items():
            mark = "right" if is_right(answers[i], case) else "wrong"
            print(f"  {who}, {mark}: {answers[i]}")
    print()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--model", help="a checkpoint; the bundled one by default")
    parser.add_argument("--max-tokens", type=int, default=LONGEST_ANSWER)
    parser.add_argument("--answers", action="store_true", help="print each answer too")
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.model, dtype="float32")
    cases = hand_written()
    ways: dict[str, tuple[str | None, int]] = {"base": (None, 1)}
    if SKILL in model.skills:
        ways |= {"skill": (SKILL, 1), "skill, searched for": (SKILL, BEAMS)}
    said = {
        who: answered(model, cases, skill=skill, max_new_tokens=options.max_tokens, beams=beams)
        for who, (skill, beams) in ways.items()
    }
    table = counts(cases, said)
    if options.json:
        print(json.dumps(table, indent=2))
        return
    if options.answers:
        show_answers(cases, said)
    print(" | ".join(["kind", *said, "of"]))
    for kind, row in table.items():
        print(" | ".join([kind, *(str(row[who]) for who in said), str(row["of"])]))


if __name__ == "__main__":
    main()
