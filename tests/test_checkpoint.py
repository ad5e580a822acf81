"""Names to files, saving and loading, fingerprints, and one copy of the weights."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import TEXTS, disturb, make_base

from gem_rag.checkpoints import folder as folder_module
from gem_rag.checkpoints.fingerprint import seal, weights_hash
from gem_rag.compute.adapter import applied
from gem_rag.config import AdapterConfig, GemConfig
from gem_rag.errors import CheckpointError
from gem_rag.model import GemModel, create, load

CLOSE = {"rtol": 0, "atol": 1e-4}


@pytest.fixture
def saved(gem, tmp_path):
    return gem.save_pretrained(tmp_path / "checkpoint")


def test_save_and_load_give_the_same_model(gem, saved):
    loaded = GemModel.from_pretrained(saved)
    np.testing.assert_allclose(loaded.embed_documents(TEXTS), gem.embed_documents(TEXTS), **CLOSE)
    np.testing.assert_allclose(loaded.embed_queries(TEXTS), gem.embed_queries(TEXTS), **CLOSE)
    assert loaded.fingerprint == gem.fingerprint
    assert loaded.config == gem.config
    assert {f.name for f in saved.iterdir()} == {
        "gem_config.json",
        "adapter_config.json",
        "adapter_model.safetensors",
        "special_tokens.safetensors",
        "README.md",
    }
    assert "GemModel.from_pretrained" in (saved / "README.md").read_text()


def test_one_checkpoint_is_loaded_once(saved, gem):
    first = GemModel.from_pretrained(saved)
    assert GemModel.from_pretrained(str(saved), device="cpu", dtype="float32") is first
    from gem_rag.cli.console import load_model
    from langchain_gem_rag import ChatGem, GemEmbeddings
    from llama_index_gem_rag import GemEmbedding, GemLLM

    name = str(saved)
    users = [
        GemEmbeddings(saved).gem,
        ChatGem(model=name).gem,
        GemEmbedding(name).gem,
        GemLLM(name).gem,
        load_model(name),
    ]
    assert all(user is first for user in users)
    assert GemEmbeddings(gem).gem is gem
    pointers = {p.data_ptr() for p in first.base.model.parameters()}
    used = {
        p.data_ptr() for p in [*first.base.decoder.parameters(), *first.base.blocks.parameters()]
    }
    assert used <= pointers


def test_a_checkpoint_saved_again_is_loaded_again(gem, saved):
    first = GemModel.from_pretrained(saved)
    with torch.no_grad():
        changed = create(gem.config.base.name, num_special_tokens=3, adapter=gem.config.adapter)
    changed.save_pretrained(saved)
    assert GemModel.from_pretrained(saved).fingerprint == changed.fingerprint != first.fingerprint


def test_the_adapter_is_stored_as_peft_stores_it(gem, saved):
    """PEFT itself loads it and, applied everywhere, gives what scope `always` gives."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(gem.config.base.name, dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, saved)
    ids = torch.tensor([gem.codec.encode(TEXTS[0])])
    with torch.inference_mode():
        expected = peft(ids).logits
        with applied(gem.parts.adapter.at(slice(None))):
            found = gem.base.model(ids).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_whitening_weakens_directions_in_queries_and_is_part_of_the_checkpoint(
    base_folder, tmp_path
):
    model = disturb(create(base_folder, num_special_tokens=3, adapter=AdapterConfig(rank=4)))
    plain, documents = model.embed_queries(TEXTS), model.embed_documents(TEXTS)
    directions = torch.linalg.qr(torch.randn(model.dim, 2))[0]
    model.parts.whitening = (directions * torch.tensor([1.0, 0.5**0.5])).half().float()
    expected = (
        plain - plain @ (directions @ torch.diag(torch.tensor([1.0, 0.5])) @ directions.T).numpy()
    )
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    without = model.fingerprint
    model.save_pretrained(tmp_path / "model")
    loaded = GemModel.from_pretrained(tmp_path / "model")
    assert loaded.fingerprint == seal(model.parts).fingerprint != without
    np.testing.assert_allclose(loaded.embed_queries(TEXTS), expected, atol=5e-3)
    again = loaded.embed_readings(loaded.read(TEXTS), "query")
    np.testing.assert_allclose(again, expected, atol=5e-3)
    np.testing.assert_allclose(loaded.embed_documents(TEXTS), documents, atol=5e-3)


def test_fingerprint_follows_what_changes_vectors(base_folder, gem):
    def make(**settings):
        return create(base_folder, num_special_tokens=3, adapter=AdapterConfig(rank=4), **settings)

    same, again = make(), make()
    assert same.fingerprint == again.fingerprint
    assert make(pooling="concat").fingerprint != same.fingerprint
    assert make(query_instruction="?").fingerprint != same.fingerprint
    assert disturb(make()).fingerprint != same.fingerprint
    # Readings do not depend on the adapter, so a new one may use old readings.
    assert disturb(make()).parts.reading_fingerprint == same.parts.reading_fingerprint


def test_weights_hash_is_of_the_tensors_not_of_the_files(tmp_path, base_folder):
    tensors = load_file(base_folder / "model.safetensors")
    names = sorted(tensors)
    split = tmp_path / "split"
    split.mkdir()
    save_file({n: tensors[n].clone() for n in names[::2]}, split / "a.safetensors")
    save_file({n: tensors[n].clone() for n in names[1::2]}, split / "b.safetensors")
    assert weights_hash(split) == weights_hash(base_folder)
    with torch.no_grad():
        tensors[names[0]] = tensors[names[0]] + 1
    save_file(tensors, split / "a.safetensors")
    (split / "b.safetensors").unlink()
    assert weights_hash(split) != weights_hash(base_folder)


def test_another_base_is_refused_with_both_named(gem, tmp_path):
    base = make_base(tmp_path / "base")
    model = create(base, adapter=AdapterConfig(rank=2))
    folder = model.save_pretrained(tmp_path / "gem")
    shutil.rmtree(base)
    make_base(base, "qwen3")
    with pytest.raises(CheckpointError) as caught:
        GemModel.from_pretrained(folder)
    assert model.config.base.weights[:12] in str(caught.value)
    assert weights_hash(base)[:12] in str(caught.value)


def test_a_plain_model_and_a_missing_one_are_explained(base_folder, tmp_path):
    with pytest.warns(UserWarning, match="plain model.*gem-rag train"):
        plain = GemModel.from_pretrained(base_folder)
    assert not plain.embeds
    with pytest.raises(CheckpointError, match="no-such-model"):
        GemModel.from_pretrained("someone/no-such-model")


@pytest.mark.parametrize("broken", ["adapter_model.safetensors", "special_tokens.safetensors"])
def test_a_missing_or_cut_file_is_an_error(saved, broken):
    whole = (saved / broken).read_bytes()
    (saved / broken).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match="whole"):
        load(saved)
    (saved / broken).unlink()
    with pytest.raises(CheckpointError, match="whole"):
        load(saved)


@pytest.mark.parametrize("name", ["special_tokens", "whitening"])
def test_tensors_of_another_shape_are_refused_by_name(gem, saved, name):
    file = saved / "special_tokens.safetensors"
    tensors = {"whitening": torch.zeros(gem.dim, 2), **load_file(file)}
    save_file({**tensors, name: torch.zeros(5, 2)}, file)
    with pytest.raises(CheckpointError, match=rf"{name} of shape \(5, 2\)"):
        GemModel.from_pretrained(saved)


def test_configs_of_another_schema_or_with_nonsense_are_refused(saved):
    path = saved / "gem_config.json"
    good = json.loads(path.read_text())
    for change, message in [
        ({"schema_version": 99}, "schema version 99"),
        ({"pooling": "max"}, "pooling"),
        ({"num_special_tokens": 0}, "num_special_tokens"),
        ({"surprise": 1}, "surprise"),
    ]:
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(CheckpointError, match=message):
            GemConfig.from_folder(saved)
    path.write_text("{")
    with pytest.raises(CheckpointError, match="JSON"):
        GemConfig.from_folder(saved)


def test_pickled_weights_are_not_read(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"x")
    with pytest.raises(CheckpointError, match="safetensors"):
        create(tmp_path)


def test_saving_replaces_the_old_checkpoint_only_when_all_is_written(gem, saved, monkeypatch):
    before = {f.name: f.read_bytes() for f in saved.iterdir()}

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(folder_module, "_write_peft_config", fail)
    with pytest.raises(OSError, match="disk full"):
        gem.save_pretrained(saved)
    assert {f.name: f.read_bytes() for f in saved.iterdir()} == before
    assert [f.name for f in saved.parent.iterdir()] == ["checkpoint"]


def test_unknown_dtype_is_an_error(base_folder):
    with pytest.raises(ValueError, match="dtype"):
        create(base_folder, dtype="float7")


def test_bfloat16_works(base_folder):
    model = create(base_folder, dtype="bfloat16")
    assert model.embed_documents(TEXTS).dtype == np.float32
    assert model.rank("Who?", model.read(TEXTS[:2]))
    assert model.generate("Who?", max_new_tokens=3).ids


def test_saving_replaces_a_checkpoint_and_nothing_else(gem, saved, tmp_path):
    gem.save_pretrained(saved)
    (tmp_path / "empty").mkdir()
    gem.save_pretrained(tmp_path / "empty")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    for taken in (tmp_path / "mine", tmp_path / "mine" / "thesis.txt"):
        with pytest.raises(CheckpointError, match="holds files and no checkpoint"):
            gem.save_pretrained(taken)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "words"
