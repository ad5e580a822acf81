"""Short trainings that differ in one thing, on the same kept readings: `docs/experiments/`.

Needs the extras ``train`` and ``eval``. Within a group each is the same recipe with an equal, small
budget, measured on held-out texts only: BoolQ's questions to their passages, how like the teacher
sentences lie, the next-token loss; with scope ``always`` also 100 questions of MMLU and of PIQA,
and the base's perplexity of 500-token continuations. What was run already is read from the folder.
"""

from __future__ import annotations

import dataclasses
import gc
import hashlib
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from agreement import Likeness
from common import arguments
from longform import perplexity

from gem_rag.compute.attention import Rule
from gem_rag.files import atomic_write
from gem_rag.model import GemModel
from gem_rag_train.evaluation.generation import CHOICE_TASKS, compare
from gem_rag_train.evaluation.sets import choices, drawn
from gem_rag_train.evaluation.systems import BASE, CHECKPOINT
from gem_rag_train.loop.preflight import keep_freed_memory
from gem_rag_train.loop.start import untrained
from gem_rag_train.loop.trainer import Trainer
from gem_rag_train.monitor.heldout import HeldOut
from gem_rag_train.recipes.config import TAUGHT, TrainConfig

COLUMNS = {
    "heldout_ndcg10": "BoolQ nDCG@10",
    "heldout_recall1": "recall@1",
    "like the teacher, sentences": "like the teacher",
    "like the teacher, short": "the same, short",
    "heldout_ntp_loss": "next-token loss",
    "mmlu_words": "MMLU",
    "piqa": "PIQA",
    "long form": "perplexity of 500 tokens",
    "seconds_a_step": "s a step",
}
ASKED = 100  # of each multiple-choice task
TEXTS = ("examples", "shares", "batch_size", "written_questions")  # what decides about the texts
Settings = dict[str, Any]
NO_TEACHER_LOSS: Settings = dict.fromkeys(TAUGHT, 0.0)
ALONE: Settings = NO_TEACHER_LOSS | {"contrastive": 1.0}
FEW: Settings = ALONE | {"examples": 1920}  # of texts of their own
CROPS: Settings = FEW | {"shares": {"crops": 1.0}}
QUESTIONS: Settings = FEW | {"shares": {"questions": 1.0}, "teacher": "", "neighbours": 1}
ASKED_ITSELF: Settings = CROPS | {"written_questions": 480}
FRESH: Settings = ALONE | {
    "examples": 0,
    "teacher": "",
    "batch_size": 32,
    "steps": 40,
}
ALWAYS: Settings = FRESH | {
    "adapter_scope": "always",
    "alpha_end": 0.5,
    "batch_size": 16,
    "steps": 20,
}

# Group -> run -> what it changes. `rule` and `place` are no settings of a recipe: see `changed`.
EXPERIMENTS: dict[str, dict[str, Settings]] = {
    "specials": {f"K = {k}": {"num_special_tokens": k} for k in (1, 2, 4, 8)},
    "pooling": {name: {"pooling": name} for name in ("mean", "concat")},
    "mask": {
        "specials do not see each other": {},
        "specials see the ones before": {"rule": Rule.CAUSAL},
    },
    "place": {
        "right after the text": {},
        "100 positions later": {"place": 100},
    },
    "losses": {
        "contrastive": ALONE,
        "distillation": NO_TEACHER_LOSS | {"contrastive": 0.0, "distillation": 1.0},
        "alignment": NO_TEACHER_LOSS | {"contrastive": 0.0, "alignment": 1.0},
        "contrastive, distillation": ALONE | {"distillation": 6.0},
        "all but neighbourhood": {"neighbourhood": 0.0},
        "all four (default)": {},
    },
    "weight of the contrastive loss": {f"{w}": {"contrastive": w} for w in (0.2, 1.0)},
    "positives": {
        **{name: FEW | {"shares": {name: 1.0}} for name in ("masked", "crops", "questions")},
        "crops and the model's own questions": ASKED_ITSELF,
        "crops, distilled": CROPS | {"distillation": 6.0},
    },
    "ranking": {
        "the model's own questions": ASKED_ITSELF,
        "and the base's ranking": ASKED_ITSELF | {"ranker_weight": 1.0},
        "the base's ranking alone": ASKED_ITSELF | {"ranker_weight": 1.0, "contrastive": 0.0},
    },
    "ranking, no teacher": {
        "BoolQ's questions": QUESTIONS,
        "the base's ranking alone": QUESTIONS | {"ranker_weight": 1.0, "contrastive": 0.0},
    },
    "rank and rate": {
        f"rank {r}, {rate:.0e}": {
            "adapter_rank": r,
            "adapter_alpha": 2.0 * r,
            "learning_rate": rate,
        }
        for r, rate in ((16, 5e-4), (16, 2e-3), (16, 5e-3), (32, 2e-3))
    },
    "batch": {
        f"{n} pairs, {steps} steps": {"batch_size": n, "steps": steps}
        for n, steps in ((32, 120), (64, 60), (128, 30))
    },
    "pairs": {f"{n} pairs": {"examples": n} for n in (512, 2048, 8192)},
    "layers": {f"{n} of 30 layers": {"embed_layers": n} for n in (12, 18, 24, 30)},
    "scopes": {
        scope: FRESH | {"adapter_scope": scope} for scope in ("tokens", "embedding", "always")
    },
    "alpha (always)": {
        "0.5": ALWAYS,
        "0, then rising to 1": ALWAYS | {"alpha_end": 1.0, "alpha_hold": 6, "alpha_ramp": 14},
    },
    "p (always)": {f"{p}": ALWAYS | {"raw_share": p} for p in (0.0, 0.8)},
    "neighbours": {f"{n} at a time": {"neighbours": n} for n in (1, 8)},
}


def measure(model: GemModel, config: TrainConfig, likeness: Likeness) -> dict[str, float]:
    """Held-out quality of a model; what it answers too, where training changes that."""
    facts = HeldOut(model, config).measure() | likeness(model, config.max_length)
    if config.adapter_scope != "always":
        return facts
    base = untrained(dataclasses.replace(config, adapter_scope="tokens"))
    facts |= {"long form": perplexity(model, base), "long form, base": perplexity(base, base)}
    return facts | answering(model, Path(config.output).with_name("generation"))


def answering(model: GemModel, folder: Path) -> dict[str, float]:
    """Accuracy of the base and of the adapted model, with the options' words scored."""
    tasks = [task for task in CHOICE_TASKS if task.name in COLUMNS]
    documents = {
        task.name: [task.document(c) for c in drawn(choices(task.file), ASKED, seed=0)]
        for task in tasks
    }
    measures = dict(zip(documents, compare(model, model, folder, documents), strict=True))
    after = {name: m.scores[CHECKPOINT].value for name, m in measures.items()}
    return after | {f"{name}, base": m.scores[BASE].value for name, m in measures.items()}


def changed(model: GemModel, *, rule: Rule = Rule.GEM, place: int = 0) -> None:
    """Make a model's special tokens see by another rule, or stand elsewhere."""
    if rule is not Rule.GEM:
        run: Callable[..., Any] = model.embedder.run_specials
        model.embedder.run_specials = partial(run, rule=rule)  # type: ignore[method-assign]
    if place:
        queries: Callable[..., Any] = model.embedder.special_queries
        model.embedder.special_queries = lambda at, task: queries(at + place, task)  # type: ignore[method-assign]


def resolved(settings: Settings, base: TrainConfig) -> tuple[TrainConfig, Settings, str]:
    """A run's recipe, what is beyond a recipe, and a name by both: equal runs are made once."""
    settings = dict(settings)
    beyond = {key: settings.pop(key) for key in ("rule", "place") if key in settings}
    config = dataclasses.replace(base, **settings)
    facts = {**config.to_dict(), **beyond, "output": "", "readings": ""}
    name = _short(sorted(facts.items()))
    output = f"{base.output}/{name}"
    texts = [(key, settings[key]) for key in TEXTS if key in settings]
    if config.examples and texts:  # the shared readings are of other texts
        own = f"{base.output}/{_short(texts)}.readings"
        config = dataclasses.replace(config, readings=own)
    return dataclasses.replace(config, output=output), beyond, name


def _short(facts: object) -> str:
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:12]


def run(config: TrainConfig, beyond: Settings, likeness: Likeness) -> dict[str, float]:
    """Train and measure one."""
    for folder in (config.output, f"{config.output}.run"):  # of one that was interrupted
        shutil.rmtree(folder, ignore_errors=True)
    trainer = Trainer(config, resume=False)
    changed(trainer.model, **beyond)
    trainer.run()
    log = Path(f"{config.output}.run/log.jsonl").read_text().splitlines()
    seconds = float(np.median([json.loads(line)["seconds"] for line in log]))
    facts = measure(trainer.model, config, likeness) | {"seconds_a_step": seconds}
    for folder in (config.output, f"{config.output}.run"):
        shutil.rmtree(folder, ignore_errors=True)
    Path(f"{config.output}.scores.jsonl").unlink(missing_ok=True)  # the ranker's
    return facts


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("groups", nargs="*", help=f"of {', '.join(EXPERIMENTS)}; none: all")
    parser.add_argument("--folder", type=Path, default=Path("runs/experiments"))
    parser.add_argument("--readings", help="kept readings to share; default: in the folder")
    parser.add_argument("--recipe", default="default", help="that all runs start from")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of it")
    parser.add_argument("--steps", type=int, default=60)
    options = parser.parse_args()
    keep_freed_memory()
    readings = Path(options.readings or options.folder / "readings")
    base = dataclasses.replace(
        TrainConfig.from_recipe(options.recipe, dict(s.split("=", 1) for s in options.set)),
        output=str(options.folder),
        readings=str(readings),
        steps=options.steps,
        cycles=1,
        whitening=0,
        checkpoint_every=options.steps,
        warmup_steps=10,
        eval_every=0,
    )
    likeness = Likeness()
    for group in options.groups or EXPERIMENTS:
        print(f"\n| {group} | " + " | ".join(COLUMNS.values()) + " |")
        print("|---" * (1 + len(COLUMNS)) + "|")
        own: set[str] = set()
        for name, settings in EXPERIMENTS[group].items():
            config, beyond, key = resolved(settings, base)
            own |= {config.readings} - {base.readings}
            file = options.folder / f"{key}.json"
            if not file.exists():
                facts = run(config, beyond, likeness)
                atomic_write(file, json.dumps({"group": group, "run": name} | facts))
                gc.collect()
            row = json.loads(file.read_text())
            cells = [f"{row[k]:.3f}" if k in row else "" for k in COLUMNS]
            print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
        for texts in own:  # gigabytes, which no other group uses
            shutil.rmtree(texts, ignore_errors=True)


if __name__ == "__main__":
    main()
