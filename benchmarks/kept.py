"""Training steps from kept readings against steps that read the texts afresh: the same batches.

And what grouped attention is worth to the steps from kept readings. Needs the extra ``train``.
"""

from __future__ import annotations

import dataclasses
import tempfile

from common import arguments, show

from gem_rag_train.loop.grouped import NAME
from gem_rag_train.loop.preflight import keep_freed_memory
from gem_rag_train.loop.prepare import prepare
from gem_rag_train.loop.trainer import Trainer
from gem_rag_train.recipes.config import TAUGHT, TrainConfig


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--steps", type=int, default=3, help="timed on either side")
    options = parser.parse_args()
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as folder:
        recipe = TrainConfig.from_recipe("default", {"output": f"{folder}/run", "eval_every": "0"})
        taught = dict.fromkeys(TAUGHT, 0.0)
        config = dataclasses.replace(recipe, examples=4 * recipe.batch_size, teacher="", **taught)
        trainer = Trainer(config, resume=False)
        trainer.data, kept = prepare(config, trainer.model, trainer.data, None)
        seconds = {}
        sides = (
            ("kept readings", kept, NAME),
            ("kept readings, transformers' attention", kept, "sdpa"),
            ("reading afresh", None, NAME),
        )
        for name, source, attention in sides:
            trainer.embedder.kept, trainer.step = source, 0
            trainer.model.base.model.set_attn_implementation(attention)
            trainer.train_step()  # to warm up
            facts = [trainer.train_step() for _ in range(options.steps)]
            seconds[name] = sum(f["seconds"] for f in facts) / len(facts)
    report = {f"{name}, seconds a step": value for name, value in seconds.items()}
    report |= {
        f"{name} / kept readings": value / seconds["kept readings"]
        for name, value in list(seconds.items())[1:]
    }
    show(report, options.json)


if __name__ == "__main__":
    main()
