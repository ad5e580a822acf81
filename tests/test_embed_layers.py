"""Embedding from the first layers of the base: as a model that ends there; the rest as ever."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny import TEXTS, disturb, make_base, save_tokenizer

from gem_rag.compute.adapter import applied
from gem_rag.config import AdapterConfig
from gem_rag.errors import CheckpointError
from gem_rag.model import create, load

CLOSE = {"rtol": 0, "atol": 1e-4}
SETTINGS = {"num_special_tokens": 2, "adapter": AdapterConfig(rank=4), "query_instruction": " Who?"}


@pytest.fixture(scope="module")
def shallow(base_folder):
    return disturb(create(base_folder, embed_layers=1, **SETTINGS))


@pytest.fixture(scope="module")
def whole(base_folder):
    return disturb(create(base_folder, **SETTINGS))


def cut_base(base, folder, layers):
    """The base as a model of its own that ends after these layers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(base)
    config.num_hidden_layers = layers
    if getattr(config, "layer_types", None):
        config.layer_types = config.layer_types[:layers]
    model = AutoModelForCausalLM.from_config(config)
    beyond = model.load_state_dict(load_file(base / "model.safetensors"), strict=False)
    assert not [name for name in beyond.missing_keys if "lm_head" not in name]
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


@pytest.mark.parametrize("family", ["llama", "mistral", "gemma3", "phi3"])
def test_it_embeds_as_a_model_that_ends_there(family, tmp_path):
    base = make_base(tmp_path / "base", family)
    shallow = disturb(create(base, embed_layers=1, **SETTINGS))
    ending = disturb(create(cut_base(base, tmp_path / "cut", 1), **SETTINGS))
    np.testing.assert_allclose(
        shallow.embed_documents(TEXTS), ending.embed_documents(TEXTS), rtol=0, atol=1e-6
    )
    np.testing.assert_allclose(
        shallow.embed_queries(TEXTS), ending.embed_queries(TEXTS), rtol=0, atol=1e-6
    )


def test_a_whole_reading_embeds_as_its_text(shallow, whole):
    readings = shallow.read(TEXTS)
    assert len(readings[0].key_values) == shallow.base.num_layers
    expected = shallow.embed_documents(TEXTS)
    np.testing.assert_allclose(shallow.embed_readings(readings), expected, **CLOSE)
    first = TEXTS[0].index(" of")
    spans = readings[0].embed([(0, len(TEXTS[0])), (0, first)])
    np.testing.assert_allclose(spans[0], expected[0], **CLOSE)
    np.testing.assert_allclose(spans[1], shallow.embed_documents([TEXTS[0][:first]])[0], **CLOSE)
    assert np.abs(expected - whole.embed_documents(TEXTS)).max() > 1e-3


def test_generating_and_ranking_run_all_layers(shallow, whole):
    ids = torch.tensor([shallow.codec.prompt_ids(TEXTS[0])])
    shallow.embed_documents(TEXTS)
    with torch.inference_mode():
        assert torch.equal(shallow.base.model(ids).logits, whole.base.model(ids).logits)
    found = shallow.generate(TEXTS[0], max_new_tokens=12)
    assert found.ids == whole.generate(TEXTS[0], max_new_tokens=12).ids
    assert shallow.rank("Who?", TEXTS) == whole.rank("Who?", TEXTS)
    reading = shallow.read([TEXTS[3]])[0]
    reading.embed()
    after = shallow.generate(" Who?", after=reading, max_new_tokens=8)
    assert (
        after.ids == whole.generate(" Who?", after=whole.read([TEXTS[3]])[0], max_new_tokens=8).ids
    )


@pytest.mark.parametrize("scope", ["tokens", "embedding", "always"])
def test_each_scope_embeds_alike_alone_batched_and_from_readings(base_folder, scope):
    model = disturb(create(base_folder, embed_layers=1, adapter_scope=scope, **SETTINGS))
    alone = np.stack([model.embed_documents([t])[0] for t in TEXTS])
    np.testing.assert_allclose(model.embed_documents(TEXTS), alone, **CLOSE)
    np.testing.assert_allclose(model.embed_readings(model.read(TEXTS)), alone, **CLOSE)


def test_embedding_runs_no_layer_beyond(base_folder):
    # What our own forward runs no module is called for: tests/test_decoder.py looks at that.
    model = disturb(create(base_folder, embed_layers=1, forward="transformers", **SETTINGS))
    calls = []
    handle = model.base.blocks[1].register_forward_hook(lambda *_: calls.append(1))
    model.embed_documents(TEXTS)
    model.embed_query("Who?")
    with torch.enable_grad():
        ids = [t.ids for t in model.codec.encode_texts(TEXTS, None)]
        model.embedder.forward_texts(ids, "document").sum().backward()
    assert not calls
    assert all(p.grad is not None for p in model.parts.parameters())  # none is on a layer not run
    model.read(["text"])
    handle.remove()
    assert calls


def test_it_is_saved_and_loaded_and_part_of_the_fingerprint(shallow, whole, tmp_path):
    folder = shallow.save_pretrained(tmp_path / "gem")
    assert all(".layers.0." in name for name in load_file(folder / "adapter_model.safetensors"))
    assert json.loads((folder / "adapter_config.json").read_text())["layers_to_transform"] == [0]
    loaded = load(folder)
    assert loaded.config.embed_layers == 1
    assert loaded.fingerprint == shallow.fingerprint != whole.fingerprint
    assert (
        loaded.parts.reading_fingerprint == whole.parts.reading_fingerprint
    )  # readings are the base's
    np.testing.assert_allclose(loaded.embed_documents(TEXTS), shallow.embed_documents(TEXTS))


def test_peft_loads_its_adapter(shallow, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder = shallow.save_pretrained(tmp_path / "gem")
    base = AutoModelForCausalLM.from_pretrained(shallow.config.base.name, dtype=torch.float32)
    peft = PeftModel.from_pretrained(base, folder)
    ids = torch.tensor([shallow.codec.encode(TEXTS[0])])
    with torch.inference_mode(), applied(shallow.parts.adapter.at(slice(None))):
        torch.testing.assert_close(shallow.base.model(ids).logits, peft(ids).logits, **CLOSE)


def test_checkpoints_without_the_field_load_and_keep_their_fingerprint(whole, tmp_path):
    folder = whole.save_pretrained(tmp_path / "gem")
    path = folder / "gem_config.json"
    fields = json.loads(path.read_text())
    assert fields.pop("embed_layers") is None
    path.write_text(json.dumps(fields))
    assert load(folder).fingerprint == whole.fingerprint


@pytest.mark.parametrize(("layers", "says"), [(0, "embed_layers is 0"), (3, "has 2 layers")])
def test_layers_that_are_not_there_are_an_error(base_folder, layers, says):
    with pytest.raises(CheckpointError, match=says):
        create(base_folder, embed_layers=layers, **SETTINGS)
