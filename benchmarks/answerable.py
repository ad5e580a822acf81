"""When "nothing about this in the documents" is said: what is answered of questions that the
documents answer, and of the same questions with their passage taken out.

The curve on SQuAD dev, which chooses nothing, by the checkpoint's confidence and by the threshold
on a rank score that decided before. ``--choose`` fits the weights on BoolQ's dev part and the odd
NarrativeQA stories and QuAC dialogues, each counting alike, and shows each by weights that the two
others chose; ``--write FOLDER`` puts them into a checkpoint's config. ``--plot FILE`` draws. What
was asked is kept in ``--kept``, so that an interrupted run goes on.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from common import arguments, show
from sklearn.linear_model import LogisticRegression

from gem_rag.config import CONFIG_FILE, AnswerableWeights, GemConfig, RelevanceWeights
from gem_rag.documents import CHUNK_TOKENS
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag_train.evaluation.answerable import CONFIDENCE, RANK_SCORE, Tried, tried
from gem_rag_train.evaluation.choosing import boolq_dev, narrative_odd, quac_odd
from gem_rag_train.evaluation.kept import KeptAnswers, digest
from gem_rag_train.evaluation.report import shown
from gem_rag_train.evaluation.sets import Retrieval, squad
from gem_rag_train.evaluation.statistics import Sample

KEEP = 0.95
CURVE = (0.97, 0.95, 0.9, 0.8, 0.7, 0.5)  # shares of the answerable questions that are kept
GOAL = (0.8, 0.35)
SQUAD = "SQuAD dev"
COLOURS = {CONFIDENCE: "#c0504d", RANK_SCORE: "#5b8db8"}


def fitted(sets: Sequence[Tried], relevance: RelevanceWeights) -> AnswerableWeights:
    """A logistic regression, each set counting alike; the threshold keeps `KEEP` of all.

    On the sum that ranks, with the part of the words covered in the word score's place: a weight
    for each by itself does worse on a set that did not choose it.
    """
    x = np.concatenate([found.known[:, :, :3].reshape(-1, 3) for found in sets])
    beside = np.array([1.0, relevance.words, relevance.cosine])
    y = np.tile([1, 0], len(x) // 2)
    alike = np.concatenate([np.full(2 * len(f.known), 1 / len(f.known)) for f in sets])
    fit = LogisticRegression(C=100)
    fit.fit((x @ beside)[:, None], y, sample_weight=alike * len(x) / alike.sum())
    bias, *usual = (round(float(v), 2) for v in (fit.intercept_[0], *x[:, 1:].mean(0)))
    weights = AnswerableWeights(bias, *(round(float(w), 2) for w in fit.coef_[0] * beside), *usual)
    own = np.concatenate([found.by(CONFIDENCE, weights)[0] for found in sets])
    least = math.floor(100 * np.quantile(own, 1 - KEEP)) / 100
    return dataclasses.replace(weights, threshold=least)


def lines(
    name: str, found: Tried, weights: AnswerableWeights, before: float | None
) -> dict[str, object]:
    """A set's curve by both rules, and what happens at the thresholds in use."""
    report: dict[str, object] = {}
    for share in CURVE:
        new, old = (found.answered(rule, weights, share) for rule in (CONFIDENCE, RANK_SCORE))
        at = f"{name}: unanswerable answered at {share:.0%} kept"
        report[f"{at}, {CONFIDENCE}"] = shown(new.score())
        report[f"{at}, {RANK_SCORE}"] = shown(old.score())
        report[f"{at}, difference"] = shown(new.minus(old), "+")
    for rule, least in ((CONFIDENCE, weights.threshold), (RANK_SCORE, before)):
        if least is not None:
            for what, scores in zip(
                ("answerable", "unanswerable"), found.by(rule, weights), strict=True
            ):
                share_of = Sample.mean(scores >= least, found.groups).score()
                report[f"{name}: {what} answered, {rule} {least}"] = shown(share_of)
    return report


def calibration(name: str, found: Tried, weights: AnswerableWeights) -> dict[str, object]:
    """Of passages by their confidence, the share that was the question's own set's."""
    own, without = found.by(CONFIDENCE, weights)
    likely, true = np.concatenate([own, without]), np.repeat([1.0, 0.0], len(own))
    bins = np.clip((likely * 5).astype(int), 0, 4)
    return {
        f"{name}: confidence {b / 5:.1f} to {(b + 1) / 5:.1f}": (
            f"{true[bins == b].mean():.2f} answerable of {int((bins == b).sum())}"
        )
        for b in range(5)
        if (bins == b).any()
    }


def plot(file: Path, sets: Mapping[str, Tried], weights: Mapping[str, AnswerableWeights]) -> None:
    """A panel for each set: the unanswerable that are answered over the answerable that are."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.2 * len(sets), 3.4), layout="constrained")
    FigureCanvasSVG(figure)
    panels = figure.subplots(1, len(sets), squeeze=False, sharey=True)[0]
    shares = np.linspace(0.3, 1, 71)
    for panel, (name, found) in zip(panels, sets.items(), strict=True):
        for rule, colour in COLOURS.items():
            own, without = found.by(rule, weights[name])
            answered = [(without >= np.quantile(own, 1 - share)).mean() for share in shares]
            panel.plot(shares, answered, color=colour, label=rule)
        own, without = (s >= weights[name].threshold for s in found.by(CONFIDENCE, weights[name]))
        panel.plot(own.mean(), without.mean(), "o", color=COLOURS[CONFIDENCE], label="default")
        panel.plot(*GOAL, "v", color="#808080", label="goal")
        panel.set_title(name)
        panel.set_xlabel("answerable answered")
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("unanswerable answered")
    panels[0].legend()
    figure.savefig(file, metadata={"Date": None})


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--paragraphs", type=int, default=300, help="of SQuAD dev")
    parser.add_argument("--questions", type=int, default=200, help="of SQuAD dev")
    parser.add_argument("--choose", action="store_true", help="fit the weights anew")
    parser.add_argument("--choose-questions", type=int, default=500, help="of each choosing set")
    parser.add_argument("--kept", type=Path, default=Path("answerable-kept"))
    parser.add_argument("--write", type=Path, help="a checkpoint folder; with --choose")
    parser.add_argument("--plot", type=Path, help="an SVG")
    options = parser.parse_args()
    model = GemModel.from_pretrained()
    options.kept.mkdir(parents=True, exist_ok=True)

    def asked(name: str, data: Retrieval) -> Tried:
        kept = KeptAnswers(options.kept / f"{digest(name, len(data.paragraphs))}.jsonl")
        return tried(model, data, kept, max_length=CHUNK_TOKENS)

    sets: dict[str, Tried] = {}
    used, relevance = model.config.answerable, model.config.relevance
    by: dict[str, AnswerableWeights] = {}
    if options.choose:
        choosing = {
            "BoolQ dev": boolq_dev(),
            "NarrativeQA odd": narrative_odd(model),
            "QuAC odd": quac_odd(model),
        }
        sets = {
            name: asked(name, data.sample(None, options.choose_questions, seed=0))
            for name, data in choosing.items()
        }
        used = fitted(list(sets.values()), relevance)
        for name in sets:
            others = [found for other, found in sets.items() if other != name]
            by[name] = fitted(others, relevance)
    data = Retrieval(*squad()).sample(options.paragraphs, options.questions, seed=1)
    sets, by = {SQUAD: asked(SQUAD, data), **sets}, {SQUAD: used, **by}
    report: dict[str, object] = dict(dataclasses.asdict(used))
    for name, found in sets.items():
        report |= lines(name, found, by[name], relevance.threshold)
    report |= calibration(SQUAD, sets[SQUAD], used)
    if options.plot:
        plot(options.plot, sets, by)
    if options.write:
        config = dataclasses.replace(GemConfig.from_folder(options.write), answerable=used)
        atomic_write(options.write / CONFIG_FILE, config.to_json())
    show(report, options.json)


if __name__ == "__main__":
    main()
