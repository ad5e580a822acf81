"""Whole runs: several processes, kill -9, the best weights, full fine-tuning, early errors."""

import json
import math
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import types
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import training_run
from safetensors.torch import load_file, save_file
from tiny import make_base

from gem_rag.checkpoints.fingerprint import weights_hash
from gem_rag.errors import GemError, MissingExtraError, UnsupportedModelError
from gem_rag.model import GemModel
from gem_rag_train import TrainConfig, train
from gem_rag_train.data.pairs import Pair
from gem_rag_train.loop import preflight
from gem_rag_train.loop import trainer as trainer_module
from gem_rag_train.loop.sharding import require_shardable
from gem_rag_train.loop.trainer import Trainer
from gem_rag_train.recipes.precision import require_precision, resolved

WEIGHTS = ("adapter_model.safetensors", "special_tokens.safetensors")


@pytest.fixture
def config(base_folder, tmp_path):
    """Both losses, scope always, the user's own files with hard negatives."""
    rows = [
        {
            "query": f"who wrote letter {i}?",
            "positive": f"the letter {i} about steam engines",
            "negatives": [f"rivers run {i} to the sea"] * (i % 3),
        }
        for i in range(16)
    ]
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    return TrainConfig(
        base=str(base_folder), output=str(tmp_path / "out"), data_files=(str(file),), steps=8,
        batch_size=8, max_length=24, num_special_tokens=2, adapter_rank=4, adapter_scope="always",
        alpha_hold=1, alpha_ramp=3, alpha_end=0.5, raw_share=0.5, warmup_steps=1,
        checkpoint_every=2, learning_rate=5e-3, ntp_learning_rate=5e-3,
    )  # fmt: skip


@pytest.fixture
def fake_heldout(monkeypatch):
    monkeypatch.setattr(trainer_module, "HeldOut", training_run.FakeHeldOut)


@pytest.fixture(autouse=True)
def _no_report(monkeypatch):
    """Reports have their own tests."""
    monkeypatch.setattr(trainer_module, "write_report", lambda run, checkpoint: None)


def log_of(config):
    return [json.loads(line) for line in Path(f"{config.output}.run/log.jsonl").open()]


def start(mode, config, output, *, resume="", **environment):
    recipe = Path(output).with_suffix(".toml")
    recipe.write_text(config.to_toml())
    command = [sys.executable, training_run.__file__, mode, str(recipe), str(output), resume]
    path = os.pathsep.join([str(Path(training_run.__file__).parent), *sys.path])
    return subprocess.Popen(
        command, env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"} | environment
    )


def start_two(mode, config, output, **environment):
    """Two processes of one run, to their end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    shared = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    shared |= {"MASTER_PORT": port, "ACCELERATE_USE_CPU": "true"} | environment
    both = [start(mode, config, output, RANK=rank, LOCAL_RANK=rank, **shared) for rank in "01"]
    assert [p.wait(300) for p in both] == [0, 0]


@pytest.mark.parametrize(
    ("changes", "environment"),
    [
        ({}, {}),
        # Uneven numbers of forward passes, which a sharded base would wait for forever.
        ({"gradcache_tokens": 60, "raw_share": 0.9}, {"ACCELERATE_USE_FSDP": "true"}),
        ({"activation_checkpointing": True}, {"ACCELERATE_USE_FSDP": "true"}),
    ],
    ids=["whole", "sharded", "sharded, checkpointed"],
)
def test_two_processes_have_the_gradients_of_one(config, tmp_path, changes, environment):
    config = replace(config, alpha_hold=0, alpha_ramp=0, max_grad_norm=1e9, **changes)
    expected, facts, _ = training_run.gradients(config)
    (tmp_path / "two").mkdir()
    start_two("gradients", config, tmp_path / "two", **environment)
    for rank in "01":
        found = load_file(tmp_path / "two" / f"{rank}.safetensors")
        assert found.keys() == expected.keys()
        for name, grad in expected.items():
            torch.testing.assert_close(found[name], grad, rtol=1e-5, atol=1e-5)
        theirs = json.loads((tmp_path / "two" / f"{rank}.json").read_text())
        for name in ("loss", "contrastive", "ntp", "accuracy", "grad_norm"):
            assert theirs[name] == pytest.approx(facts[name], rel=1e-4)
        assert theirs["rows"] == theirs["of"] / (2 if environment else 1)


# Long: four processes in each scope, and importing torch and the trainer is most of what each does.
@pytest.mark.parametrize("scope", ["tokens", "always"])
def test_a_sharded_run_measures_and_ends_at_the_same_checkpoint(config, tmp_path, scope):
    rows = [{"query": f"who wrote {i}?", "positive": f"letter {i}"} for i in range(40)]
    file = tmp_path / "more.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    config = replace(config, data_files=(str(file),), steps=4, eval_every=2, adapter_scope=scope)
    runs = {"whole": {}, "sharded": {"ACCELERATE_USE_FSDP": "true"}}
    for name, environment in runs.items():
        start_two("evaluated", config, tmp_path / name, **environment)
    whole, sharded = (replace(config, output=str(tmp_path / name)) for name in runs)
    for mine, theirs in zip(log_of(whole), log_of(sharded), strict=True):
        assert mine.keys() == theirs.keys()
        for key in mine.keys() - {"seconds", "tokens_per_second"}:
            assert mine[key] == pytest.approx(theirs[key], rel=1e-3, abs=1e-5)
    assert "heldout_ndcg10" in log_of(sharded)[-1]
    assert json.loads(Path(f"{sharded.output}.run/checks.json").read_text()).keys() == {
        "before", "after",
    }  # fmt: skip
    for name in WEIGHTS:
        mine, theirs = (load_file(Path(c.output) / name) for c in (whole, sharded))
        for key in mine:
            torch.testing.assert_close(mine[key], theirs[key], rtol=1e-2, atol=1e-4)
    GemModel.from_pretrained(sharded.output)


def test_a_killed_run_resumes_to_the_same_weights(config, tmp_path):
    """kill -9 in a process of its own, several times; the best so far is kept as well."""
    # Long: four processes one after another, each of which imports torch and the trainer.
    config = replace(config, eval_every=2, checkpoint_every=3, steps=12)
    folder = tmp_path / "killed"
    for kill_after in (4, 9):
        resume = "resume" if Path(f"{folder}.run/state.safetensors").exists() else ""
        process = start("train", config, folder, resume=resume)
        log = Path(f"{folder}.run/log.jsonl")
        while process.poll() is None:
            if log.exists() and log.read_text().count("\n") >= kill_after:
                process.send_signal(signal.SIGKILL)
                break
            time.sleep(0.02)
        process.wait(60)
    assert start("train", config, folder, resume="resume").wait(300) == 0
    whole = tmp_path / "whole"
    assert start("train", config, whole).wait(300) == 0
    for name in WEIGHTS:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()
    steps = [json.loads(line)["step"] for line in log.open()]
    assert steps == list(range(1, 13))
    saved, expected = (load_file(f"{f}.run/state.safetensors") for f in (folder, whole))
    assert saved.keys() == expected.keys()
    assert all(torch.equal(saved[name], expected[name]) for name in saved)


def test_the_best_weights_are_kept_and_a_run_that_stalls_stops(config, tmp_path, fake_heldout):
    stops = replace(config, steps=30, eval_every=1, patience=2)
    Path(config.base, "README.md").write_text("---\nlicense: mit\n---\n# A base\n")
    folder = train(stops, show_progress=False)
    log = log_of(stops)
    assert [line["heldout_ndcg10"] for line in log] == pytest.approx([0.8, 0.9, 1.0, 0.9, 0.8])
    assert Path(f"{config.output}.run/checks.txt").read_text() == "before\nafter\n"
    card = (folder / "README.md").read_text()
    assert "heldout_ndcg10 1.000 at step 3 of 30, on 3 held-out pairs" in card
    assert "whose licence is mit" in card
    third = Trainer(replace(stops, output=str(tmp_path / "third")), resume=False)
    for _ in range(3):
        third.train_step()
    kept = GemModel.from_pretrained(folder)
    for a, b in zip(kept.parts.parameters(), third.model.parts.parameters(), strict=True):
        torch.testing.assert_close(a, b.half().float())
    train(stops, resume=True, show_progress=False)
    assert len(log_of(stops)) == 5
    lower = replace(stops, output=str(tmp_path / "lower"), best_metric="heldout_ntp_loss")
    with pytest.raises(GemError, match=r"what was measured is \['heldout_ndcg10'\]"):
        train(lower, show_progress=False)


def test_the_next_token_loss_falls_and_the_log_tells_the_parts(config):
    train(replace(config, steps=24, alpha_hold=12), show_progress=False)
    log = log_of(config)
    assert all("contrastive" not in line and line["loss"] == line["ntp"] for line in log[:12])
    assert all(line["loss"] == pytest.approx(
        line["alpha"] * line["contrastive"] + (1 - line["alpha"]) * line["ntp"], rel=1e-4
    ) for line in log[12:])  # fmt: skip
    assert np.mean([line["ntp"] for line in log[9:12]]) < 0.9 * log[0]["ntp"]


def test_a_measured_run_ends_with_its_report(config, monkeypatch):
    from gem_rag_train.monitor import heldout, report

    pairs = [Pair(f"who {i}?", f"letter {i} " * 40, "query_document", str(i)) for i in range(6)]
    monkeypatch.setattr(heldout, "questions", lambda count: pairs)
    monkeypatch.setattr(heldout, "articles", lambda: [p.second for p in pairs])
    monkeypatch.setattr(trainer_module, "write_report", report.write_report)
    measured = replace(config, eval_every=3, steps=4, best_metric="heldout_ntp_loss")
    folder = train(measured, show_progress=False)
    values = [line["heldout_ntp_loss"] for line in log_of(measured) if "heldout_ndcg10" in line]
    assert len(values) == 2  # at step 3, and at the last
    assert f"heldout_ntp_loss {min(values):.3f}" in (folder / "README.md").read_text()
    assert (folder / "report.html").exists()
    checks = json.loads(Path(f"{measured.output}.run/checks.json").read_text())
    assert checks.keys() == {"before", "after"}


def test_full_fine_tuning_gives_a_checkpoint_with_its_own_base(config, base_folder, tmp_path):
    before = weights_hash(base_folder)
    full = replace(config, full_fine_tuning=True, learning_rate=1e-3, ntp_learning_rate=1e-3)
    trainer = Trainer(full, resume=False)
    folder = trainer.run(show_progress=False)
    assert weights_hash(base_folder) == before
    loaded = GemModel.from_pretrained(folder)
    assert loaded.config.base.name == "./base"
    assert loaded.config.base.weights == weights_hash(folder / "base") != before
    assert loaded.fingerprint == trainer.model.fingerprint
    texts = ["Rivers run to the sea.", "Who wrote it?"]
    vectors = loaded.embed_documents(texts)
    np.testing.assert_allclose(vectors, trainer.model.embed_documents(texts), atol=1e-2)
    (folder / "base" / "model.safetensors").unlink()
    with pytest.raises(GemError):
        GemModel.from_pretrained(folder, dtype="bfloat16")


def test_only_the_layers_asked_for_are_adapted(config):
    some = replace(config, adapter_targets=("q_proj", "v_proj"), steps=2)
    folder = train(some, show_progress=False)
    loaded = GemModel.from_pretrained(folder)
    assert loaded.parts.adapter.target_modules == ["q_proj", "v_proj"]
    assert loaded.config.adapter.targets == ("q_proj", "v_proj")
    wrong = replace(some, output=config.output + "2", adapter_targets=("query",))
    with pytest.raises(UnsupportedModelError, match=r"\['query'\].*q_proj"):
        train(wrong)


def test_bf16_trains_close_to_fp32(config, tmp_path):
    one, _, _ = training_run.gradients(config)
    low = replace(config, mixed_precision="bf16", output=str(tmp_path / "low"))
    two, _, trainer = training_run.gradients(low)
    assert next(iter(trainer.model.base.model.parameters())).dtype == torch.float32
    cosine = torch.nn.functional.cosine_similarity
    flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (one, two)]
    assert cosine(*flat, dim=0) > 0.98
    assert not torch.equal(*flat)


def test_bf16_is_for_hardware_that_has_it(monkeypatch):
    cpu, other = torch.device("cpu"), torch.device("cuda")
    monkeypatch.setattr("accelerate.utils.is_bf16_available", lambda: False)
    with pytest.raises(GemError, match=r"cuda does not have.*'auto'"):
        require_precision("bf16", other)
    found = {"avx2": True}
    monkeypatch.setattr("torch.cpu.get_capabilities", lambda: found, raising=False)
    assert (resolved("auto", cpu), resolved("bf16", cpu)) == ("no", "bf16")
    with pytest.warns(UserWarning, match="emulation"):
        require_precision("bf16", cpu)
    found["avx512_bf16"] = True
    assert resolved("auto", cpu) == "bf16"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        require_precision("bf16", cpu)


def test_a_folder_that_is_in_use_is_never_replaced(config):
    output = Path(config.output)
    (output / "others").mkdir(parents=True)
    for resume in (False, True):
        with pytest.raises(GemError, match="exists already; choose another output"):
            train(config, resume=resume, show_progress=False)
    (output / "others").rmdir()  # an empty folder is free
    train(replace(config, steps=1), show_progress=False)
    shutil.rmtree(f"{output}.run")
    with pytest.raises(GemError, match="exists already"):
        train(replace(config, steps=1), show_progress=False)


def refuse(*args, **options):
    raise RuntimeError("no token")


def broken_base(folder):
    """A base of which one number is NaN."""
    tensors = load_file(make_base(folder) / "model.safetensors")
    tensors["model.norm.weight"][0] = math.nan
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_cached_gradients_need_the_memory_of_one_forward(config, monkeypatch):
    needed = []
    monkeypatch.setattr(trainer_module, "require_memory", lambda *_, **size: needed.append(size))
    for scope, cached in (("tokens", 0), ("tokens", 30), ("always", 0), ("always", 30)):
        Trainer(replace(config, adapter_scope=scope, gradcache_tokens=cached), resume=False)
    for whole, part in (needed[:2], needed[2:]):
        assert part["live"] < whole["live"] / 3
        assert part["read"] <= 30 < whole["read"]


def test_a_containers_limit_is_the_memory_there_is(tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "CGROUP", tmp_path)
    (tmp_path / "memory.current").write_text("700\n")
    (tmp_path / "memory.stat").write_text("anon 500\ninactive_file 150\nactive_file 50\n")
    (tmp_path / "memory.max").write_text("1000\n")
    assert preflight.free_memory(torch.device("cpu")) == 500
    (tmp_path / "memory.max").write_text("max\n")
    assert preflight.free_memory(torch.device("cpu")) > 1000


def test_it_is_said_what_a_run_on_few_rows_is_measured_by(config, fake_heldout):
    with pytest.warns(UserWarning, match="BoolQ's dev part; set eval_every to 0"):
        Trainer(replace(config, eval_every=2), resume=False)


def test_what_cannot_work_is_said_before_the_first_step(config, tmp_path, monkeypatch):
    def fails(match, error=GemError, **changes):
        with pytest.raises(error, match=match):
            train(replace(config, **changes), show_progress=False)
        assert not Path(f"{config.output}.run").exists()

    fails("different passages", batch_size=32)
    fails(r"lm_tasks has \['summary'\]", lm_tasks={"summary": 1.0})
    fails("expected shares", shares={"nothing": 1.0})
    fails(
        "decoder such as Llama",
        UnsupportedModelError,
        base=str(make_base(tmp_path / "gpt2", "gpt2")),
    )
    fails("max_length is 600, but the context window of 1024", max_length=600)
    fails("adapter_scope", adapter_scope="tokens", full_fine_tuning=True)
    fails("adapter_scope", examples=100)
    fails("eval_every", patience=3)
    fails("heldout_passages is 1; expected >= 2", eval_every=2, heldout_passages=1)
    fails("best_metric", best_metric="loss")
    fails("raw_share", raw_share=2.0)
    fails("expected shares|lm_tasks", lm_tasks={"poetry": 1.0})
    fails("embed_layers to 0", embed_layers=1)
    fails("give no questions", adapter_scope="tokens", data_files=(), ranker_weight=1.0)
    free = "gem_rag_train.loop.preflight.free_memory"
    monkeypatch.setattr(free, lambda device: 1000)
    half = make_base(tmp_path / "half")
    tensors = {
        name: tensor.half() for name, tensor in load_file(half / "model.safetensors").items()
    }
    save_file(tensors, half / "model.safetensors", metadata={"format": "pt"})
    fails(r"base .* takes .* GB, but .* free; free some", base=str(half))
    fails("GB of memory are free; lower batch_size")
    monkeypatch.undo()
    find_spec = preflight.find_spec
    monkeypatch.setattr(preflight, "find_spec", lambda n: None if n == "tomli_w" else find_spec(n))
    fails(r"gem-rag\[train\]", MissingExtraError)
    monkeypatch.undo()
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: types.SimpleNamespace(create_repo=refuse))
    fails("run `hf auth login`", push_to_hub="me/mine")
    monkeypatch.undo()
    fails("gives NaN or infinity", base=str(broken_base(tmp_path / "broken")))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    fails("run `accelerate config` for FSDP")
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    fails(r"gem-rag\[tensorboard\]", MissingExtraError, tensorboard=True)


def test_what_one_process_would_do_alone_cannot_be_sharded(config):
    tokens = replace(config, adapter_scope="tokens", shares={"crops": 1.0})
    for changes, match in (
        ({"examples": 100}, "--set examples=0"),
        ({"ranker_weight": 1.0}, "ranker_weight above 0"),
        ({"adapter_scope": "always", "full_fine_tuning": True}, "use an adapter"),
    ):
        with pytest.raises(GemError, match=match):
            require_shardable(replace(tokens, **changes))


def test_tensorboard_report_and_hub(config, monkeypatch):
    pushed = []

    class Api:
        def create_repo(self, name, exist_ok, private):
            pushed.append((name, private))

        def upload_folder(self, folder_path, repo_id, ignore_patterns):
            pushed.append((folder_path, repo_id, ignore_patterns))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    monkeypatch.setattr(
        trainer_module, "write_report", lambda run, checkpoint: pushed.append((run, checkpoint))
    )
    written = {}

    class Writer:
        def __init__(self, folder, purge_step):
            assert folder.endswith("out.run/tensorboard")

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def add_scalar(self, name, value, step):
            written.setdefault(name, []).append((step, value))

    board = types.ModuleType("torch.utils.tensorboard")
    board.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", board)
    folder = train(
        replace(config, steps=2, tensorboard=True, push_to_hub="me/mine", hub_private=True),
        show_progress=True,
    )
    local = ["recipe.toml", "report.html"]  # they name the user's folders
    assert pushed == [
        ("me/mine", True),
        (Path(f"{config.output}.run"), folder),
        (str(folder), "me/mine", local),
    ]
    assert [step for step, _ in written["ntp"]] == [1, 2]


def test_a_run_goes_on_with_the_same_files_and_may_save_more_often(config, tmp_path):
    begun = Trainer(config, resume=False)
    begun.train_step()
    begun._save()
    assert Trainer(replace(config, checkpoint_every=1), resume=True).step == 1
    Path(f"{config.output}.run").rename(tmp_path / "moved.run")
    moved = replace(config, output=str(tmp_path / "moved"))
    assert Trainer(moved, resume=True).step == 1
    (tmp_path / "moved.run").rename(f"{config.output}.run")
    file = Path(config.data_files[0])
    file.write_text(file.read_text() + "\n")
    with pytest.raises(GemError, match="trained on other contents of data_files"):
        Trainer(config, resume=True)


def test_the_temperature_comes_back_and_gradients_need_not_be_clipped(config):
    run = Trainer(
        replace(config, learning_rate=50.0, warmup_steps=0, max_grad_norm=0), resume=False
    )
    before = [p.detach().clone() for p in run.model.parts.adapter.parameters()]
    run.log_scale.data.fill_(9.0)
    run.step = 4  # alpha is above zero
    run.train_step()
    assert 0 <= run.log_scale.item() <= math.log(100) + 1e-6
    after = run.model.parts.adapter.parameters()
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_a_state_of_an_earlier_version_is_resumed(config):
    from safetensors.torch import save_file

    short = replace(config, steps=4)
    whole = train(replace(short, output=short.output + "2"), show_progress=False)
    broken = Trainer(short, resume=False)
    broken.train_step()
    broken.train_step()
    broken._save()
    state = Path(f"{short.output}.run/state.safetensors")
    tensors = load_file(state)
    save_file(tensors, state)  # without metadata: the step was in a file of its own
    old = {k: v for k, v in short.to_dict().items() if k not in ("tensorboard", "patience")}
    facts = {"step": 2, "recipe": old}
    (state.parent / "progress.json").write_text(json.dumps(facts))
    resumed = train(short, resume=True, show_progress=False)
    for name in WEIGHTS:
        assert (resumed / name).read_bytes() == (whole / name).read_bytes()
