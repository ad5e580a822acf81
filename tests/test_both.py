"""The default on a CPU that computes bfloat16: many rows in that, few in int4 where it is exact."""

import json
import pickle
import shutil
from collections import namedtuple

import numpy as np
import pytest
import torch
from tiny import TEXTS, disturb, make_base, make_four_bits
from typer.testing import CliRunner

from gem_rag import cli
from gem_rag.checkpoints import base as bases
from gem_rag.checkpoints import quantised
from gem_rag.checkpoints.folder import load_parts
from gem_rag.compute.both import FEW, Both
from gem_rag.compute.formats import BOTH
from gem_rag.compute.linear import choose, hardware_bf16
from gem_rag.compute.quantised import Codes, layer_of
from gem_rag.config import AdapterConfig
from gem_rag.errors import OptionError
from gem_rag.model import GemModel, as_model, create
from gem_rag.model.lending import borrowed, lent

WRITTEN = [t for t in TEXTS if t]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("GEM_RAG_DTYPE", raising=False)
    monkeypatch.setattr(bases, "hardware_bf16", lambda: True)
    return tmp_path / "cache"


def saved(base, folder):
    adapter = AdapterConfig(rank=4, alpha=8)
    model = disturb(create(base, dtype="float32", num_special_tokens=3, adapter=adapter))
    return model.save_pretrained(folder)


@pytest.fixture
def checkpoint(tmp_path):
    """Over a base whose weights were 4 bits, of which nothing is known yet."""
    return saved(make_four_bits(tmp_path / "base"), tmp_path / "checkpoint")


@pytest.fixture
def known(checkpoint):
    """Likewise, and it has been loaded in int4."""
    load_parts(checkpoint, dtype="int4")
    return checkpoint


def loaded(checkpoint, dtype="auto", **options):
    return GemModel.from_pretrained(checkpoint, dtype=dtype, **options)


def cosines(a, b):
    return (a * b).sum(1)


# -- a layer


def layer(name="int4", dtype=torch.float32):
    weight = Codes.of(torch.randn(64, 64), name).dense()
    bias = torch.randn(64)
    return weight, bias, Both(layer_of(Codes.of(weight, name), bias), choose(weight, bias))


@pytest.mark.parametrize("name", list(FEW))
def test_few_rows_and_many_are_one_product(name):
    weight, bias, both = layer(name)
    x = torch.randn(40, 64)
    for rows in (1, FEW[name], FEW[name] + 1, 40):
        expected = x[:rows] @ weight.T + bias
        assert (both(x[:rows]) - expected).norm() < 0.01 * expected.norm()
    torch.testing.assert_close(both.dense(), weight)


def test_gradients_flow_through_the_floats():
    weight, _, both = layer()
    x = torch.randn(3, 64, requires_grad=True)
    (gradient,) = torch.autograd.grad(both(x).sum(), x)
    torch.testing.assert_close(gradient, weight.sum(0).expand(3, -1), rtol=1e-4, atol=1e-4)


# -- who gets it


def test_a_base_that_is_known_to_be_4_bits_gets_it_without_asking(known):
    model, exact = loaded(known), loaded(known, "float32")
    assert model.base.number_format == BOTH
    assert model.parts.forward_note == "our own"
    assert model.fingerprint == exact.fingerprint
    assert model.parts.reading_fingerprint == exact.parts.reading_fingerprint
    together = model.embed_documents(WRITTEN), exact.embed_documents(WRITTEN)
    assert cosines(*together).min() > 0.99
    assert len(model.rank("Who wrote it?", model.read(WRITTEN[:2]))) == 2
    assert model.generate("Who?", max_new_tokens=3).ids


def test_bfloat16_by_its_name_is_bfloat16_alone(known, monkeypatch):
    plain, both = loaded(known, "bfloat16"), loaded(known)
    assert plain.base.number_format == "bfloat16"
    assert plain.parts.weights_bytes < both.parts.weights_bytes
    monkeypatch.setenv("GEM_RAG_DTYPE", "bfloat16")
    assert loaded(known) is plain


def test_nobody_gets_it_whose_weights_are_not_known(checkpoint, own_cache):
    assert loaded(checkpoint).base.number_format == "bfloat16"
    assert not (own_cache / "quantised").exists()


def test_nobody_gets_it_whose_weights_were_rounded(tmp_path):
    checkpoint = saved(make_base(tmp_path / "base"), tmp_path / "checkpoint")
    with pytest.warns(UserWarning, match="int8 stays nearer"):
        load_parts(checkpoint, dtype="int4")
    assert loaded(checkpoint).base.number_format == "bfloat16"


def test_damaged_int4_weights_are_not_used(known, own_cache):
    (file,) = (own_cache / "quantised").glob("*/model.safetensors")
    file.write_bytes(file.read_bytes()[:-100])
    assert loaded(known).base.number_format == "bfloat16"


def test_transformers_forward_computes_in_bfloat16(known):
    assert loaded(known, forward="transformers").base.number_format == "bfloat16"


def test_an_architecture_that_our_forward_does_not_know_computes_in_bfloat16(tmp_path):
    checkpoint = saved(make_four_bits(tmp_path / "base", "gemma2"), tmp_path / "checkpoint")
    load_parts(checkpoint, dtype="int4")
    model = loaded(checkpoint)
    assert model.parts.decoder is None
    assert model.base.number_format == "bfloat16"


@pytest.mark.parametrize("family", ["qwen2", "qwen3", "phi3", "gemma3"])
def test_families_with_biases_norms_and_fused_layers_get_it_too(tmp_path, family):
    base = make_four_bits(tmp_path / "base", family)
    load_parts(base, dtype="int4")
    model, exact = GemModel.from_base(base), GemModel.from_base(base, dtype="float32")
    assert (model.base.number_format, model.parts.forward_note) == (BOTH, "our own")
    (mine,), (theirs,) = (m.rank("Who wrote it?", m.read(WRITTEN[:1])) for m in (model, exact))
    assert mine.score == pytest.approx(theirs.score, abs=0.2)


def test_other_devices_have_no_such_kernel(known):
    weights = load_parts(known).config.base.weights
    assert quantised.exact_codes(known, weights, torch.device("cpu"))
    assert not quantised.exact_codes(known, weights, torch.device("cuda"))


# -- the bundled base, which was 4 bits


@pytest.fixture
def bundled(checkpoint, tmp_path, monkeypatch):
    monkeypatch.setattr(quantised, "converted", lambda: tmp_path / "base")
    return checkpoint


def fail(*_):
    raise AssertionError("the float weights were rounded again")


def test_its_int4_weights_are_made_at_the_first_load_alone(bundled, own_cache, monkeypatch):
    first = loaded(bundled).embed_documents(WRITTEN)
    (kept,) = (own_cache / "quantised").iterdir()
    assert kept.name.endswith("-int4")
    monkeypatch.setattr(quantised, "load_floats", fail)
    again = GemModel(load_parts(bundled))
    assert again.base.number_format == BOTH
    assert np.array_equal(again.embed_documents(WRITTEN), first)


def test_pull_makes_them_ahead_of_time(bundled, own_cache, tmp_path, monkeypatch):
    monkeypatch.setattr("gem_rag.checkpoints.embedded.embedded_base", lambda: tmp_path / "base")
    assert CliRunner().invoke(cli.app, ["pull"]).exit_code == 0
    assert list((own_cache / "quantised").glob("*-int4/model.safetensors"))
    assert list((own_cache / "outlines").glob("*/outline.json"))
    monkeypatch.setattr(quantised, "load_floats", fail)
    assert loaded(bundled).base.number_format == BOTH


def test_where_they_cannot_be_kept_they_are_not_made(bundled, own_cache, monkeypatch):
    monkeypatch.setattr(quantised, "load_floats", fail)
    own_cache.mkdir(exist_ok=True)
    (own_cache / "quantised").write_text("a file where the folder should be")
    model = loaded(bundled)
    assert model.base.number_format == "bfloat16"
    assert model.generate("Who?", max_new_tokens=2).ids


def test_where_the_disk_is_full_they_are_not_made(bundled, own_cache, monkeypatch):
    monkeypatch.setattr(quantised, "load_floats", fail)
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1))
    assert loaded(bundled).base.number_format == "bfloat16"
    assert not list((own_cache / "quantised").iterdir())


# -- what goes on working


def test_a_text_does_not_depend_on_its_neighbours(known):
    model = loaded(known)
    texts = [*WRITTEN, "sea"] * 6
    together = model.embed_documents(texts)
    alone = np.concatenate([model.embed_documents([t]) for t in texts])
    backwards = model.embed_documents(texts[::-1])[::-1]
    assert np.abs(together - alone).max() < 3e-2
    assert np.abs(together - backwards).max() < 3e-2


def test_the_transformers_model_is_whole(known):
    mine, theirs = (loaded(known, d).base.model.state_dict() for d in ("auto", "bfloat16"))
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[name], theirs[name]) for name in mine)


def test_it_is_saved_and_loaded_again(known, tmp_path):
    again = loaded(known).save_pretrained(tmp_path / "again")
    assert loaded(again).fingerprint == loaded(known).fingerprint
    whole = loaded(known).save_pretrained(tmp_path / "whole", with_base=True)
    assert cosines(*(loaded(f).embed_documents(WRITTEN) for f in (whole, known))).min() > 0.99


def test_another_process_loads_the_same(known):
    model = loaded(known)
    assert pickle.loads(pickle.dumps(model)).base.number_format == BOTH
    assert as_model(model, dtype=BOTH) is model
    with pytest.raises(OptionError, match="was not loaded with"):
        as_model(model, dtype="bfloat16")


def test_what_is_lent_is_bfloat16_alone(known):
    mine = lent(loaded(known))
    assert len(mine.memory) < 1.1 * len(lent(loaded(known, "bfloat16")).memory)
    model = borrowed(mine)
    assert model.base.number_format == "bfloat16"
    found = model.embed_documents(WRITTEN), loaded(known).embed_documents(WRITTEN)
    assert cosines(*found).min() > 0.99


def test_what_is_trained_has_floats_alone(known, tmp_path):
    for dtype, format_ in (("auto", "float32"), (BOTH, "bfloat16")):
        assert create(tmp_path / "base", dtype=dtype).base.number_format == format_


def test_the_command_line_says_it(known):
    asked = ["info", "--model", str(known), "--json"]
    facts = json.loads(CliRunner().invoke(cli.app, asked).stdout)["model"]
    assert facts["dtype"] == BOTH


# -- the default model


@pytest.mark.model
@pytest.mark.skipif(not hardware_bf16(), reason="the default is float32 here")
def test_the_default_model_reads_in_bfloat16_and_writes_in_int4(monkeypatch):
    monkeypatch.undo()
    monkeypatch.delenv("GEM_RAG_DTYPE")
    model, plain = GemModel.from_pretrained(), GemModel.from_pretrained(dtype="bfloat16")
    assert (model.base.number_format, plain.base.number_format) == (BOTH, "bfloat16")
    assert model.fingerprint == plain.fingerprint
    texts = ["The warranty of the kettle is seven years.", "Rivers run to the sea. " * 40]
    assert cosines(model.embed_documents(texts), plain.embed_documents(texts)).min() > 0.999
    for one in (model, plain):
        (reading,) = one.read(texts[:1])
        said = one.generate("How long is the warranty?", after=reading, temperature=0)
        assert "seven years" in said.text
