"""A training run as a process of its own, for tests that kill it or start two of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor

from gem_rag_train import TrainConfig, train
from gem_rag_train.loop import trainer as trainer_module
from gem_rag_train.loop.state import parameters_of
from gem_rag_train.loop.trainer import Trainer


class FakeHeldOut:
    """A quality that rises and falls, whatever the weights: the third measurement is the best."""

    what = "3 held-out pairs"

    def __init__(self, model, config, pairs, *, keep):
        self.count = 0

    def record_checks(self, run_folder, when):
        file = Path(run_folder) / "checks.txt"
        file.parent.mkdir(exist_ok=True)
        with file.open("a") as out:
            out.write(f"{when}\n")

    def measure(self):
        self.count += 1
        return {"heldout_ndcg10": 1 - abs(3 - self.count) / 10}


class ByWeights(FakeHeldOut):
    """A quality that only the weights decide, and not steadily."""

    def __init__(self, model, config, pairs, *, keep):
        self.model = model

    def measure(self):
        total = sum(float(p.detach().double().sum()) for p in self.model.parts.parameters())
        return {"heldout_ndcg10": total * 1000 % 1}


def gradients(config):
    """A step's gradients, before the optimizer uses them."""
    trainer = Trainer(config, resume=False)
    trainer.optimizer.step = lambda: None
    facts = trainer.train_step()
    parameters = parameters_of(trainer.optimizer)
    found = {str(i): p.grad.clone() for i, p in enumerate(parameters) if p.grad is not None}
    return found, facts, trainer


def main(mode, recipe, output, resume):
    torch.set_num_threads(1)
    config = replace(TrainConfig.from_recipe(recipe), output=output)
    if mode != "gradients":
        if mode == "train":
            trainer_module.HeldOut = ByWeights
        trainer_module.write_report = lambda run, checkpoint: None
        train(config, resume=resume == "resume", show_progress=False)
        return
    found, facts, trainer = gradients(config)
    rank = trainer.processes.rank
    save_file(found, Path(output) / f"{rank}.safetensors")
    weight = trainer.model.base.blocks[0].mlp.up_proj.weight
    own = weight.to_local() if isinstance(weight, DTensor) else weight
    facts |= {"rows": len(own), "of": len(weight)}
    (Path(output) / f"{rank}.json").write_text(json.dumps(facts))
    trainer.processes.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
