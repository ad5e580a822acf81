"""A warm start: a base that was loaded once is made again from its files, without transformers."""

import json
import subprocess
import sys

import pytest
import torch
from tiny import FAMILIES, TEMPLATE, TEXTS, disturb, make_base, make_four_bits

from gem_rag.checkpoints import outlines
from gem_rag.compute.base import Unloaded
from gem_rag.compute.both import Both
from gem_rag.compute.formats import BOTH
from gem_rag.compute.replaced import Part
from gem_rag.config import AdapterConfig
from gem_rag.model import create, load
from gem_rag.text.tools import Tool

CLOSE = {"rtol": 0, "atol": 1e-5}
# What our forward does not know, or whose positions change with the text's length, is not kept.
NOT_KEPT = {"gemma2", "gpt_neox"}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def checkpoint_of(family, folder):
    base = make_base(folder / "base", family)
    model = disturb(create(base, num_special_tokens=2, adapter=AdapterConfig(rank=4, alpha=8)))
    return model.save_pretrained(folder / "checkpoint")


@pytest.fixture
def checkpoint(tmp_path):
    return checkpoint_of("llama", tmp_path)


def is_unloaded(model):
    return isinstance(model.base._held, Unloaded)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_second_start_gives_the_same_model(family, dtype, tmp_path):
    folder = checkpoint_of(family, tmp_path)
    first, second = load(folder, dtype=dtype), load(folder, dtype=dtype)
    assert not is_unloaded(first)
    assert is_unloaded(second) == (family not in NOT_KEPT)
    assert second.fingerprint == first.fingerprint
    close = CLOSE if dtype == "float32" else {"rtol": 0, "atol": 3e-2}
    for embed in ("embed_documents", "embed_queries"):
        found, expected = (torch.as_tensor(getattr(m, embed)(TEXTS)) for m in (second, first))
        torch.testing.assert_close(found, expected, **close)
    asked = "Who wrote the long letter?"
    assert second.rank(asked, TEXTS[:2]) == pytest.approx(first.rank(asked, TEXTS[:2]), abs=0.05)
    texts = [m.generate(asked, max_new_tokens=8).text for m in (second, first)]
    assert texts[0] == texts[1]


def test_modules_asked_for_later_are_the_base_and_hold_no_second_copy(checkpoint):
    first, second = load(checkpoint), load(checkpoint)
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        found, expected = (m.base.model(ids).logits for m in (second, first))
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not is_unloaded(second)
    linears = [m for m in second.base.blocks.modules() if isinstance(m, torch.nn.Linear)]
    assert linears
    assert all(isinstance(layer, Part) for layer in linears)
    table = second.base.model.get_input_embeddings().weight
    assert table.data_ptr() == second.parts.decoder.table.data_ptr()
    assert second.base.model.state_dict().keys() == first.base.model.state_dict().keys()


def test_adapters_act_in_modules_that_are_loaded_later(checkpoint):
    load(checkpoint)
    kept, other = load(checkpoint), load(checkpoint, forward="transformers")
    assert is_unloaded(kept)
    kept.parts.decoder = None  # as under autocast: transformers' forward runs
    found, expected = (torch.as_tensor(m.embed_documents(TEXTS[:2])) for m in (kept, other))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4)


def test_a_plain_base_starts_so_too(tmp_path):
    base = make_base(tmp_path / "base")
    first, second = load(base), load(base)
    assert is_unloaded(second)
    assert second.fingerprint == first.fingerprint
    assert second.generate("Who?", max_new_tokens=6) == first.generate("Who?", max_new_tokens=6)


def test_what_transformers_was_asked_for_is_transformers_own(checkpoint):
    load(checkpoint)
    assert not is_unloaded(load(checkpoint, forward="transformers"))


def test_a_changed_config_or_weight_is_another_base(checkpoint, tmp_path):
    load(checkpoint)
    config = tmp_path / "base" / "config.json"
    told = json.loads(config.read_text())
    told["rms_norm_eps"] = 1e-3
    config.write_text(json.dumps(told))
    again = load(checkpoint)
    assert not is_unloaded(again)
    assert again.parts.decoder.outline.eps == 1e-3


@pytest.mark.parametrize("damage", ["", "{", '{"outline": {}}'])
def test_a_damaged_outline_costs_time_only(checkpoint, own_cache, damage):
    first = load(checkpoint)
    [kept] = (own_cache / "outlines").glob(f"*/{outlines.OUTLINE}")
    kept.write_text(damage)
    again = load(checkpoint)
    assert not is_unloaded(again)
    assert again.fingerprint == first.fingerprint
    assert is_unloaded(load(checkpoint))  # and it was made anew


def test_a_cache_that_cannot_be_written_costs_time_only(checkpoint, own_cache):
    (own_cache / "outlines").write_text("a file where the folder would be")
    assert load(checkpoint).embed_query("Who?").shape == load(checkpoint).embed_query("Who?").shape


def test_a_warm_start_imports_no_transformers(checkpoint, own_cache):
    load(checkpoint)
    code = f"""
import sys
from gem_rag import GemModel
model = GemModel.from_pretrained({str(checkpoint)!r}, dtype="float32")
model.embed_query("Who wrote it?")
reading = model.read(["The kettle has a warranty."])[0]
model.rank("Who?", [reading])
print(model.generate("Who wrote it?", after=reading, max_new_tokens=4).text)
sys.exit("transformers" in sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_few_rows_in_int4_come_back_with_the_second_start(tmp_path):
    base = make_four_bits(tmp_path / "base")
    model = disturb(create(base, num_special_tokens=2, adapter=AdapterConfig(rank=4, alpha=8)))
    checkpoint = model.save_pretrained(tmp_path / "checkpoint")
    load(checkpoint, dtype="int4")  # finds that the weights were 4 bits
    first, second = load(checkpoint, dtype=BOTH), load(checkpoint, dtype=BOTH)
    assert is_unloaded(second)
    assert second.base.number_format == BOTH
    assert second.fingerprint == first.fingerprint == model.fingerprint
    assert all(isinstance(b.qkv, Both) for b in second.parts.decoder.blocks)
    asked = "Who wrote the long letter?"
    texts = [m.generate(asked, max_new_tokens=8).text for m in (second, first)]
    assert texts[0] == texts[1]


@pytest.mark.parametrize(
    "template",
    [
        "{% generation %}{% endgeneration %}",  # transformers' own tag
        "{{ raise_exception('no') }}",
        TEMPLATE + "{{ messages[0].reasoning.x.y if messages[0].reasoning else '' }}",
    ],
)
def test_a_template_that_needs_transformers_or_fails_costs_time_only(template, tmp_path):
    base = make_base(tmp_path / "base")
    model = create(base, num_special_tokens=1, adapter=AdapterConfig(rank=0))
    checkpoint = model.save_pretrained(tmp_path / "checkpoint")
    (base / "chat_template.jinja").write_text(template)
    first, second = load(checkpoint), load(checkpoint)
    assert is_unloaded(second) == (template.startswith(TEMPLATE))
    assert first.codec.template.exists


def test_tools_are_written_as_transformers_writes_them(tmp_path):
    base = make_base(tmp_path / "base")
    model = create(base, num_special_tokens=1, adapter=AdapterConfig(rank=0))
    checkpoint = model.save_pretrained(tmp_path / "checkpoint")
    written = "{% if tools %}{{ tools | tojson }}<tool_call>{% endif %}" + TEMPLATE
    (base / "chat_template.jinja").write_text(written)
    first, second = load(checkpoint), load(checkpoint)
    assert is_unloaded(second)
    tool = Tool("look_up", "Looks a word up: é, <b>.", {"type": "object", "properties": {}})
    first_text, second_text = (m.codec.prompt("Who?", tools=[tool]) for m in (first, second))
    assert first_text == second_text
    assert "é, <b>." in second_text
