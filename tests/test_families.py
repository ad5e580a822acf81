"""Decoder families: each reads, embeds, ranks and generates as its own base would."""

import numpy as np
import pytest
import torch
from tiny import FAMILIES, TEXTS, disturb, make_base, tiny_config

from gem_rag.config import AdapterConfig
from gem_rag.errors import ReadingError, UnsupportedModelError
from gem_rag.model import create

CLOSE = {"rtol": 0, "atol": 1e-4}
LONG = TEXTS[3]  # longer than the sliding windows of 8


@pytest.fixture(scope="module", params=FAMILIES)
def model(request, tmp_path_factory):
    folder = make_base(tmp_path_factory.mktemp(request.param), request.param)
    return disturb(create(folder, num_special_tokens=2, adapter=AdapterConfig(rank=4)))


def test_batches_do_not_change_embeddings(model):
    alone = np.stack([model.embed_documents([t])[0] for t in TEXTS])
    np.testing.assert_allclose(model.embed_documents(TEXTS), alone, **CLOSE)
    np.testing.assert_allclose(model.embed_readings(model.read(TEXTS)), alone, **CLOSE)


def test_padding_on_either_side_changes_nothing(model):
    ids = [t.ids for t in model.codec.encode_texts(TEXTS, None)]
    with torch.inference_mode():
        right, left = (
            model.embedder.forward_specials(*model.reader.read(ids, False, side=side), "document")
            for side in ("right", "left")
        )
    torch.testing.assert_close(right, left, **CLOSE)


def test_reading_after_the_shared_preamble_is_reading_it_all(model):
    reading = model.read([LONG])[0]
    from gem_rag.compute.kv import empty_cache
    from gem_rag.compute.theirs import as_theirs

    with torch.inference_mode():
        cache = empty_cache(model.base.num_layers)
        model.base.decoder(
            reading.ids[None], **{model.base.cache_argument: as_theirs(cache)}, use_cache=True
        )
    for (keys, values), layer in zip(reading.key_values, cache.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys[0], rtol=0, atol=1e-3)
        torch.testing.assert_close(values, layer.values[0], rtol=0, atol=1e-3)


def test_special_tokens_see_through_the_window_rule(model):
    """Pass 2 against one pass over the whole sequence with the rule's mask."""
    from gem_rag.compute.adapter import EVERYWHERE
    from gem_rag.compute.attention import Role, Tokens
    from gem_rag.compute.kv import empty_cache

    reading = model.read([LONG])[0]
    n, k = len(reading), model.config.num_special_tokens
    tokens = Tokens(
        torch.arange(n + k)[None], torch.tensor([[Role.PREFIX] * n + [Role.SPECIAL] * k])
    )
    with torch.inference_mode():
        words = model.base.embed_tokens(reading.ids)
        inputs = torch.cat([words, model.parts.special_vectors])[None]
        hidden = model.base.run(
            inputs,
            tokens.positions,
            model.base.masks(tokens, tokens),
            empty_cache(model.base.num_layers),
            model.parts.adapter.at(slice(n, None)),
        )
        expected = model.embedder.pool(hidden[:, n:])
    assert slice(None) == EVERYWHERE
    torch.testing.assert_close(torch.as_tensor(reading.embed())[None], expected, **CLOSE)


def test_greedy_generation_is_transformers_own(model):
    ids = model.codec.prompt_ids(LONG)
    found = model.generate(LONG, max_new_tokens=20)
    with torch.inference_mode():
        expected = model.base.model.generate(
            torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=1
        )
    assert found.prompt_ids == tuple(ids)
    assert list(found.ids) == expected[0, len(ids) :].tolist()


def test_logits_are_the_bases_bit_for_bit(model):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(model.config.base.name, dtype=torch.float32)
    ids = torch.tensor([model.codec.prompt_ids(LONG)])
    with torch.inference_mode():
        expected = base(ids).logits
        model.embed_documents(TEXTS)
        assert torch.equal(model.base.model(ids).logits, expected)


def test_generating_after_a_reading_is_generating_after_its_ids(model):
    reading = model.read([LONG])[0]
    found = model.generate(" Who wrote it?", after=reading, max_new_tokens=12)
    with torch.inference_mode():
        whole = torch.tensor([found.prompt_ids])
        expected = model.base.model.generate(
            whole, max_new_tokens=12, do_sample=False, pad_token_id=1
        )[0, whole.shape[1] :].tolist()
        logits = model.base.model(torch.tensor([[*found.prompt_ids, *found.ids]])).logits[0]
    for i, (a, b) in enumerate(zip(found.ids, expected, strict=False)):
        if a != b:  # only where the base itself cannot tell
            best = logits[whole.shape[1] - 1 + i].topk(2).values
            assert best[0] - best[1] < 1e-3
            break


def test_ranking_from_readings_equals_ranking_from_text(model):
    text = model.rank("Who wrote it?", TEXTS)
    kept = model.rank("Who wrote it?", model.read(TEXTS))
    for a in text:
        b = next(r for r in kept if r.index == a.index)
        assert a.score == pytest.approx(b.score, abs=1e-4)


def test_a_batch_generates_what_each_would_alone(model):
    prompts = ["Who?", LONG, "Rivers run to"]
    together = model.generate_batch(prompts, max_new_tokens=10)
    for prompt, result in zip(prompts, together, strict=True):
        assert result.ids == model.generate(prompt, max_new_tokens=10).ids


def test_what_has_no_rotary_positions_is_refused_with_the_reason(tmp_path):
    from tiny import save_tokenizer
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(tiny_config("gpt2")).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"GPT2LMHeadModel .*(rotary|layers)"):
        create(tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"attention_chunk_size": 64}, "chunked attention"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"num_kv_shared_layers": 1}, "shares KV"),
        ({"_attn_implementation": "flash_attention_2"}, "no 4D mask"),
        ({"is_encoder_decoder": True}, "encoder-decoder"),
        ({"rope_parameters": None}, "no rotary positions"),
    ],
)
def test_what_cannot_be_read_is_refused_with_the_reason(base_folder, change, reason):
    from types import SimpleNamespace

    from transformers import AutoModelForCausalLM

    from gem_rag.compute.base import Base

    model = AutoModelForCausalLM.from_pretrained(base_folder)
    known = {"layer_types": None, "_attn_implementation": "sdpa", "is_encoder_decoder": False}
    fields = {**known, "rope_parameters": {"rope_type": "default"}, **change}
    model.config = SimpleNamespace(get_text_config=lambda: SimpleNamespace(**fields))
    with pytest.raises(UnsupportedModelError, match=f"LlamaForCausalLM .*{reason}"):
        Base(model)


def test_layers_without_rotation_are_read_and_embedded_but_not_joined(tmp_path):
    from tiny import SMALL, save_tokenizer
    from transformers import AutoModelForCausalLM, SmolLM3Config

    config = SmolLM3Config(**SMALL, no_rope_layers=[1, 0], initializer_range=0.2)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    model = create(tmp_path)
    readings = model.read(TEXTS[:2])
    np.testing.assert_allclose(
        model.embed_readings(readings), model.embed_documents(TEXTS[:2]), **CLOSE
    )
    assert not model.parts.can_join
    with pytest.raises(ReadingError, match="cannot be moved"):
        model.join(readings)


def test_a_rope_that_rewrites_its_frequencies_is_read_up_to_where_it_would(tmp_path):
    from tiny import SMALL, save_tokenizer
    from transformers import AutoModelForCausalLM, LlamaConfig

    rope = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    config = LlamaConfig(**{**SMALL, "max_position_embeddings": 64}, rope_parameters=rope)
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert create(tmp_path).max_context == 64


def test_a_base_without_a_chat_template_is_read_after_one_token(tmp_path):
    model = create(make_base(tmp_path, template=False))
    assert len(model.config.preamble_ids) == 1
    assert model.embed_documents(["a"]).shape == (1, model.dim)
    assert model.generate("Rivers run", max_new_tokens=4).ids
