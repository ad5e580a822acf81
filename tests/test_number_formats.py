"""Number formats: int8 and int4 weights, made once, kept beside, refused where they do not fit."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import FAMILIES, TEXTS, make_base, make_four_bits
from typer.testing import CliRunner

from gem_rag import cli
from gem_rag.checkpoints import base as bases
from gem_rag.checkpoints import folder as folders
from gem_rag.compute import formats
from gem_rag.compute.quantised import KINDS, Codes, Int4, Quantised
from gem_rag.errors import CheckpointError, GemIndexError, OptionError
from gem_rag.index import GemIndex
from gem_rag.model import GemModel, create

CPU = torch.device("cpu")
QUANTISED = formats.QUANTISED
# Batch and order change sums' order alone: of a unit vector, what that leaves in each format.
INDEPENDENT = {"float32": 1e-5, "bfloat16": 3e-2, "int8": 3e-2, "int4": 3e-2}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def checkpoint(gem, tmp_path):
    return gem.save_pretrained(tmp_path / "checkpoint")


def cosines(a, b):
    return (a * b).sum(1)


def loaded(checkpoint, dtype, **options):
    return GemModel.from_pretrained(checkpoint, dtype=dtype, **options)


# -- the numbers


@pytest.mark.parametrize(("name", "within"), [("int8", 0.01), ("int4", 0.1)])
def test_a_product_is_the_float_product_to_rounding(name, within):
    weight, x = torch.randn(192, 128), torch.randn(40, 128)
    layer = KINDS[name](Codes.of(weight, name), torch.ones(192))
    expected = x @ weight.T + 1
    for rows in (1, 3, 40):  # integer kernels for few, widened weights for many
        found = layer(x[:rows])
        assert (found - expected[:rows]).norm() <= within * expected[:rows].norm()
        torch.testing.assert_close(found, x[:rows] @ layer.dense().T + 1, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("outputs", [64, 80])
@pytest.mark.parametrize("name", QUANTISED)
def test_rows_need_not_follow_each_other(name, outputs):
    layer = KINDS[name](Codes.of(torch.randn(outputs, 64), name))
    for rows in (2, 100):
        last = torch.randn(rows, 3, 64)[:, -1]  # as the last outputs of several texts are
        torch.testing.assert_close(layer(last), layer(last.clone()))


@pytest.mark.parametrize("outputs", [64, 80])
@pytest.mark.parametrize("name", QUANTISED)
def test_gradients_flow_through_a_layer(name, outputs):
    layer = KINDS[name](Codes.of(torch.randn(outputs, 64), name))
    x = torch.randn(3, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    torch.testing.assert_close(gradient, layer.dense().sum(0).expand(3, -1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("outputs", [16, 64, 80, 192])
def test_int4_weights_come_back_as_they_were_put_in(outputs):
    codes = Codes.of(torch.randn(outputs, 64), "int4")
    back = Int4(codes).codes()
    assert torch.equal(back.codes, codes.codes)
    assert torch.equal(back.scales, codes.scales)
    assert torch.equal(back.middles, codes.middles)


def test_weights_that_were_int4_are_held_exactly():
    places = torch.randint(0, 16, (32, 64)).float()
    steps, lows = torch.rand(32, 2, 1) + 0.1, torch.randn(32, 2, 1)
    weight = (places.view(32, 2, 32) * steps + lows).view(32, 64)
    codes = Codes.of(weight, "int4")
    assert codes.are(weight)
    torch.testing.assert_close(codes.dense(), weight, rtol=1e-5, atol=1e-5)
    assert not Codes.of(torch.randn(32, 64), "int4").are(weight)


def test_layers_of_one_input_are_one_layer():
    a, b = torch.randn(64, 64), torch.randn(16, 64)
    for name, kind in KINDS.items():
        whole = kind.fused([kind(Codes.of(a, name)), kind(Codes.of(b, name))])
        own = torch.cat([Codes.of(a, name).dense(), Codes.of(b, name).dense()])
        assert torch.equal(whole.dense(), own)


# -- a model in each


@pytest.mark.parametrize("dtype", QUANTISED)
@pytest.mark.parametrize("forward", ["auto", "transformers"])
def test_one_copy_embeds_ranks_and_answers(checkpoint, gem, dtype, forward):
    model = loaded(checkpoint, dtype, forward=forward)
    assert model.base.number_format == dtype
    texts = [t for t in TEXTS if t]
    found, expected = model.embed_documents(texts), gem.embed_documents(texts)
    assert cosines(found, expected).min() > {"int8": 0.98, "int4": 0.8}[dtype]
    assert len(model.rank("Who wrote it?", model.read(texts[:2]))) == 2
    assert model.generate("Who?", max_new_tokens=3).ids
    assert not [p for p in model.base.model.parameters() if p.dim() == 2 and len(p) != 400]


@pytest.mark.parametrize("family", FAMILIES)
def test_any_architecture_through_its_linear_layers(family, tmp_path):
    base = make_base(tmp_path / family, family)
    model = GemModel.from_base(base, dtype="int8")
    exact = GemModel.from_base(base, dtype="float32")
    passages = ["The kettle has a warranty.", "Rivers run to the sea."]
    for one in (model, exact):
        assert one.generate("Who wrote it?", max_new_tokens=4).ids
        assert len(one.rank("Who wrote it?", one.read(passages))) == 2


@pytest.mark.parametrize("dtype", QUANTISED)
def test_positions_are_those_of_the_floats(checkpoint, dtype, monkeypatch):
    monkeypatch.setattr(formats, "hardware_bf16", lambda: True)
    exact = loaded(checkpoint, "bfloat16").base.decoder.rotary_emb
    for _ in range(2):  # rounded now, and taken from the cache folder
        fresh = GemModel(folders.load_parts(checkpoint, dtype=dtype))
        assert fresh.base.dtype == torch.bfloat16
        x, at = torch.zeros(1, dtype=torch.float32), torch.tensor([[1, 100, 1000]])
        found, expected = (r(x, at)[0] for r in (fresh.base.decoder.rotary_emb, exact))
        assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", QUANTISED)
def test_gradients_flow_through_weights_rounded_just_now(checkpoint, dtype, monkeypatch):
    monkeypatch.setattr(formats, "hardware_bf16", lambda: False)
    parts = folders.load_parts(checkpoint, dtype=dtype)
    assert parts.base.dtype == torch.float32
    hidden = torch.randn(3, parts.base.hidden_size, requires_grad=True)
    parts.logits(hidden).logsumexp(-1).sum().backward()
    assert hidden.grad.abs().sum() > 0


@pytest.mark.parametrize("dtype", list(INDEPENDENT))
def test_a_text_does_not_depend_on_its_neighbours(checkpoint, dtype):
    model = loaded(checkpoint, dtype)
    texts = [t for t in TEXTS if t] * 6
    together = model.embed_documents(texts)
    alone = np.concatenate([model.embed_documents([t]) for t in texts])
    backwards = model.embed_documents(texts[::-1])[::-1]
    assert np.abs(together - alone).max() < INDEPENDENT[dtype]
    assert np.abs(together - backwards).max() < INDEPENDENT[dtype]


@pytest.mark.parametrize("dtype", QUANTISED)
def test_quantised_weights_are_smaller(checkpoint, gem, dtype):
    assert loaded(checkpoint, dtype).parts.weights_bytes < gem.parts.weights_bytes


# -- what is kept


def test_the_weights_are_rounded_once(checkpoint, base_folder, own_cache, monkeypatch):
    before = {f.name: f.read_bytes() for f in base_folder.iterdir()}
    first = loaded(checkpoint, "int8").embed_documents(TEXTS)
    (kept,) = (own_cache / "quantised").iterdir()
    assert kept.name.endswith("-int8")
    assert {f.name: f.read_bytes() for f in base_folder.iterdir()} == before

    def fail(*_):
        raise AssertionError("the float weights were read again")

    monkeypatch.setattr(folders, "load_floats", fail)
    assert np.array_equal(loaded(checkpoint, "int8").embed_documents(TEXTS), first)


def test_a_cache_that_cannot_be_written_costs_time_only(checkpoint, own_cache):
    own_cache.mkdir(exist_ok=True)
    (own_cache / "quantised").write_text("a file where the folder should be")
    assert loaded(checkpoint, "int8").generate("Who?", max_new_tokens=2).ids


@pytest.mark.parametrize("tied", [False, True])
def test_layers_no_kernel_takes_stay_floats(tmp_path, tied, monkeypatch):
    odd = {"hidden_size": 40, "intermediate_size": 72, "tie_word_embeddings": tied}
    base = make_base(tmp_path / "odd", **odd)
    model = GemModel.from_base(base, dtype="int8")
    said = model.generate("Who wrote it?", max_new_tokens=3).ids
    monkeypatch.setattr(folders, "load_floats", lambda *_: pytest.fail("read again"))
    kept = GemModel.from_base(base, dtype="int8", forward="transformers")
    assert kept.generate("Who wrote it?", max_new_tokens=3).ids == said


@pytest.mark.parametrize("damage", ["cut", "older", "empty"])
def test_damaged_weights_are_made_again(checkpoint, own_cache, damage):
    first = loaded(checkpoint, "int4").embed_documents(TEXTS)
    (file,) = (own_cache / "quantised").glob("*/model.safetensors")
    if damage == "cut":
        file.write_bytes(file.read_bytes()[:-100])
    elif damage == "older":
        save_file(load_file(file), file, {"rounding": "0"})
    else:
        save_file({}, file, {"rounding": "1", "exact": "False"})
    assert np.array_equal(loaded(checkpoint, "int4").embed_documents(TEXTS), first)


# -- who is who


def test_rounded_weights_have_a_fingerprint_of_their_own(checkpoint, gem, tmp_path):
    rounded = loaded(checkpoint, "int8")
    assert loaded(checkpoint, "bfloat16").fingerprint == gem.fingerprint
    assert rounded.fingerprint != gem.fingerprint
    with GemIndex(tmp_path / "index", fingerprint=gem.fingerprint, dim=gem.dim) as index:
        index.add(["a text"], gem.embed_documents(["a text"]))
    with pytest.raises(GemIndexError):
        GemIndex(tmp_path / "index", fingerprint=rounded.fingerprint, dim=rounded.dim)


def test_int4_that_rounds_says_so(checkpoint):
    with pytest.warns(UserWarning, match="int8 stays nearer"):
        loaded(checkpoint, "int4")


@pytest.mark.filterwarnings("error:int4 rounds")
def test_weights_that_were_int4_keep_the_fingerprint(tmp_path):
    saved = create(make_four_bits(tmp_path / "base")).save_pretrained(tmp_path / "checkpoint")
    exact, rounded = loaded(saved, "float32"), loaded(saved, "int4")
    assert rounded.fingerprint == exact.fingerprint
    assert cosines(rounded.embed_documents(TEXTS), exact.embed_documents(TEXTS)).min() > 0.99


# -- what is refused


def test_a_format_without_a_kernel_names_those_that_have_one(checkpoint, monkeypatch):
    monkeypatch.setattr(formats, "_works", lambda name, _: name != "int4")
    with pytest.raises(OptionError, match="float32, bfloat16, float16, int8"):
        loaded(checkpoint, "int4")


def test_an_unknown_format_lists_those_there_are(checkpoint):
    with pytest.raises(OptionError, match=r"int3.*int8, int4"):
        loaded(checkpoint, "int3")


def test_a_rounded_base_is_neither_trained_nor_saved(checkpoint, base_folder, tmp_path):
    with pytest.raises(OptionError, match="int8"):
        create(base_folder, dtype="int8")
    with pytest.raises(CheckpointError, match="int8"):
        loaded(checkpoint, "int8").save_pretrained(tmp_path / "whole", with_base=True)


def test_a_checkpoint_is_saved_from_any_format(checkpoint, tmp_path):
    again = loaded(checkpoint, "int8").save_pretrained(tmp_path / "again")
    assert loaded(again, "float32").fingerprint == loaded(checkpoint, "float32").fingerprint


# -- one word away


def test_the_command_line_and_the_environment(checkpoint, monkeypatch):
    def info(*options):
        asked = ["info", "--model", str(checkpoint), "--json", *options]
        return json.loads(CliRunner().invoke(cli.app, asked).stdout)["model"]["dtype"]

    assert info("--dtype", "int8") == "int8"
    monkeypatch.setenv("GEM_RAG_DTYPE", "int4")
    assert info() == "int4"


@pytest.mark.parametrize(("named", "dtype"), [("torch.int8", "int8"), ("", "bfloat16")])
def test_the_environment_is_read_as_the_argument_is(checkpoint, monkeypatch, named, dtype):
    monkeypatch.setattr(bases, "hardware_bf16", lambda: True)
    monkeypatch.setenv("GEM_RAG_DTYPE", named)
    assert loaded(checkpoint, "auto").base.number_format == dtype


def test_rounded_weights_are_not_widened_to_load_them(checkpoint, monkeypatch):
    loaded(checkpoint, "int8", forward="transformers")  # what is asked of kernels once was asked

    def fail(_):
        raise AssertionError("a layer's float weight was made")

    monkeypatch.setattr(Quantised, "dense", fail)
    assert loaded(checkpoint, "int8").parts.decoder is not None
