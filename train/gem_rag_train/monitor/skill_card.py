"""The model card of a skill: what it was trained on and how, how good it is, and what it is not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gem_rag.checkpoints.names import public_name
from gem_rag.config import SkillConfig
from gem_rag_train.data.sources import Source
from gem_rag_train.recipes.skill import SkillTraining

NAMES = {
    "heldout_loss": "loss, nats",
    "heldout_contains": "the answer contains a right one",
    "heldout_f1": "F1 of its words",
    "heldout_recall1": "the right passage is ranked first",
}
USE = {
    "answer": (
        'skill = model.parts.skill("{name}")\n(reading,) = model.read([passage])\n'
        "asked = skill.config.asked(question)\n"
        'print(model.generate(asked, after=reading, skill="{name}").text)'
    ),
    "rank": (
        'ranked = model.rank(question, model.read(passages), skill="{name}")\n'
        "print(ranked[0].index, ranked[0].score)"
    ),
}
LIMITS = {
    "answer": (
        "It learned to answer from the passage it is given, and answers where the passage does not "
        "say: whether it does is to be decided before (`GemRAG(threshold=...)`). It learned short "
        "answers in the language of its rows; long ones, sums and several passages at once it did "
        "not learn."
    ),
    "rank": (
        "It learned to tell a passage that answers a question from others that look like it, in "
        "the language and kind of text of its rows. A score is the log-odds that the passage "
        "answers; that it is right so often was not calibrated."
    ),
}


def skill_card(
    config: SkillConfig,
    settings: SkillTraining,
    *,
    data: Sequence[tuple[str, int]],
    sources: Sequence[Source],
    before: Mapping[str, float],
    after: Mapping[str, float],
    at: str,
    heldout: int,
    init: str = "",
) -> str:
    """Markdown: how to use a skill, its data, licences, held-out quality, limits and settings.

    Args:
        config: The skill's.
        settings: How it was trained.
        data: Sources by name, and how many rows each has.
        sources: Packages that rows were made from.
        before: Held-out measures of the untrained one; empty: nothing was measured.
        after: Those of the weights that were kept.
        at: Which step these are of, in words.
        heldout: How many rows were measured on.
        init: Name of the skill it went on from.
    """
    start = f" It went on from the skill {init}." if init else ""
    use = USE[config.task].replace("{name}", config.name)
    return (
        f"# {config.name}\n\nA skill (task: {config.task}) of a GEM checkpoint, for the base "
        f"{public_name(config.base.name)}: a LoRA adapter of rank {config.adapter.rank} that acts "
        "after what was read, so that one reading serves it, the plain base and every other "
        f"skill.{start} It is used through `gem_rag.GemModel`; plain PEFT would apply it to the "
        f"text as well.\n\n## Use\n\n```python\n{use}\n```\n\n"
        f"## Training data\n\n{_data(data, sources)}\n\n"
        f"{_quality(before, after, at, heldout)}"
        f"## Limits\n\n{LIMITS[config.task]}\n\n## Licence\n\nMade from "
        f"{public_name(config.base.name)} and the data above; what they allow, its maker may "
        f"allow.\n\n## Settings\n\n```toml\n{settings.to_toml()}```\n"
    )


def _data(data: Sequence[tuple[str, int]], sources: Sequence[Source]) -> str:
    rows = ["| source | rows |", "|---|---|", *(f"| {name} | {n:,} |" for name, n in data)]
    if sources:
        rows += [
            "",
            "The texts are not shipped; the trainer fetches the packages.",
            "",
            "| source | package | licence | what |",
            "|---|---|---|---|",
            *(f"| {s.name} | {s.requirement} | {s.licence} | {s.what} |" for s in sources),
        ]
    return "\n".join(rows)


def _quality(before: Mapping[str, float], after: Mapping[str, float], at: str, heldout: int) -> str:
    if not after:
        return ""
    rows = [
        f"| {NAMES.get(name, name)} | {before[name]:.3f} | {value:.3f} |"
        if name in before
        else f"| {NAMES.get(name, name)} | | {value:.3f} |"
        for name, value in after.items()
    ]
    table = "\n".join(["| | untrained | trained |", "|---|---|---|", *rows])
    return (
        f"## Held-out quality\n\nOn {heldout} rows about passages that were not trained on; {at}."
        f"\n\n{table}\n\n"
    )
