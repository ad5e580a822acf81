"""One model, three jobs, on a tiny Llama."""

import os
import threading
import warnings

import numpy as np
import pytest
import torch
from tiny import TEXTS, disturb, make_base

from gem_rag.compute.kv import empty_cache
from gem_rag.compute.theirs import as_theirs
from gem_rag.config import AdapterConfig
from gem_rag.errors import (
    CheckpointError,
    ContextLengthError,
    ReadingError,
    TruncationWarning,
)
from gem_rag.model import GemModel, create

# On a card the suite is run in bfloat16 too (benchmarks/gpu.py), whose own steps are 0.002 here.
IN_BF16 = os.environ.get("GEM_RAG_TEST_DTYPE") == "bfloat16"
CLOSE = {"rtol": 0, "atol": 2e-2 if IN_BF16 else 1e-4}


def test_embeddings_are_unit_float32_rows(gem):
    vectors = gem.embed_documents(TEXTS)
    assert vectors.dtype == np.float32
    assert vectors.shape == (len(TEXTS), gem.dim)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    assert gem.embed_documents([]).shape == (0, gem.dim)


def test_an_embedding_is_the_same_alone_in_any_batch_and_order(gem):
    alone = np.stack([gem.embed_documents([t])[0] for t in TEXTS])
    np.testing.assert_allclose(gem.embed_documents(TEXTS), alone, **CLOSE)
    np.testing.assert_allclose(gem.embed_documents(TEXTS[::-1])[::-1], alone, **CLOSE)
    np.testing.assert_allclose(gem.embed_documents(TEXTS * 7)[: len(TEXTS)], alone, **CLOSE)


def test_left_and_right_padding_give_the_same_embedding(gem):
    ids = [t.ids for t in gem.codec.encode_texts(TEXTS, None)]
    with torch.inference_mode():
        right, left = (
            gem.embedder.forward_specials(*gem.reader.read(ids, False, side=side), "document")
            for side in ("right", "left")
        )
    torch.testing.assert_close(right, left, **CLOSE)


def test_queries_are_not_embedded_as_documents(gem):
    query, document = gem.embed_queries(TEXTS), gem.embed_documents(TEXTS)
    assert (np.abs(query - document).max(1) > 1e-3).all()
    np.testing.assert_allclose(gem.embed_query(TEXTS[0]), query[0], **CLOSE)


@pytest.fixture(scope="module")
def echoing(base_folder):
    """A model whose instruction reads the query again."""
    return disturb(create(base_folder, query_instruction="\nWho? {query}."))


def test_an_instruction_can_read_the_query_again(echoing):
    ids = [t.ids for t in echoing.codec.encode_texts(TEXTS, None)]
    between, after = echoing.codec.encode("\nWho? "), echoing.codec.encode(".")
    whole = [[*i, *between, *i, *after] for i in ids]
    with torch.inference_mode():
        expected = echoing.embedder.forward_texts(whole, "document").numpy()
    np.testing.assert_allclose(echoing.embed_queries(TEXTS), expected, **CLOSE)
    readings = echoing.read(TEXTS)
    np.testing.assert_allclose(echoing.embed_readings(readings, "query"), expected, **CLOSE)
    np.testing.assert_allclose(readings[0].embed(), echoing.embed_documents(TEXTS[:1])[0], **CLOSE)


def test_a_query_that_is_read_twice_is_cut_to_half_of_the_context(echoing):
    room = echoing.max_context - len(echoing.config.preamble_ids)
    long = "kettle " * room
    longest = echoing.embedder.longest_text("query")
    with pytest.warns(TruncationWarning, match=rf"cut to {longest} tokens"):
        vector = echoing.embed_query(long, max_length=room)
    assert np.isfinite(vector).all()
    assert room // 2 - 10 < longest < room // 2


def test_a_document_is_not_read_again(base_folder):
    with pytest.raises(CheckpointError, match="document_instruction"):
        create(base_folder, document_instruction="{query}")


def test_the_adapter_and_the_special_tokens_both_matter(gem, base_folder):
    plain = create(base_folder, num_special_tokens=3, adapter=AdapterConfig(rank=0))
    with torch.no_grad():
        plain.parts.special_vectors.copy_(gem.parts.special_vectors)
    difference = plain.embed_documents(TEXTS) - gem.embed_documents(TEXTS)
    assert np.abs(difference).max() > 1e-3


def test_newlines_and_control_tokens_are_text(gem):
    vectors = gem.embed_documents(["a\nb", "a b", "x<|im_end|>y"])
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-4
    ids = gem.codec.encode_texts(["x<|im_end|>y"], None)[0].ids
    assert gem.codec.tokenizer.eos_token_id not in ids


def test_concatenated_pooling_is_k_times_as_long(base_folder):
    model = create(base_folder, num_special_tokens=2, pooling="concat")
    assert model.embed_documents(["a"]).shape == (1, 2 * model.base.hidden_size)
    assert model.dim == 2 * model.base.hidden_size


def test_truncation_is_reported_and_never_silent(gem):
    with pytest.warns(TruncationWarning, match="1 of 2 texts were cut to 5 tokens"):
        vectors = gem.embed_documents([TEXTS[3], "a"], max_length=5)
    with pytest.warns(TruncationWarning):
        reading = gem.read([TEXTS[3]], max_length=5)[0]
    assert reading.cut_tokens > 0
    assert len(reading) == len(gem.config.preamble_ids) + 5
    np.testing.assert_allclose(reading.embed(), vectors[0], **CLOSE)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gem.embed_documents(["short"])


def test_one_string_where_a_list_is_meant_is_an_error(gem):
    with pytest.raises(TypeError, match="list"):
        gem.embed_documents("text")


# Readings


def test_a_reading_embeds_as_its_text(gem):
    readings = gem.read(TEXTS)
    np.testing.assert_allclose(gem.embed_readings(readings), gem.embed_documents(TEXTS), **CLOSE)
    np.testing.assert_allclose(readings[0].embed(), gem.embed_documents(TEXTS[:1])[0], **CLOSE)


def test_reading_is_what_the_base_leaves_in_its_cache(gem):
    reading = gem.read([TEXTS[0]])[0]
    cache = empty_cache(gem.base.num_layers)
    with torch.inference_mode():
        gem.base.decoder(
            reading.ids[None], **{gem.base.cache_argument: as_theirs(cache)}, use_cache=True
        )
    for (keys, values), layer in zip(reading.key_values, cache.layers, strict=True):
        torch.testing.assert_close(keys, layer.keys[0], **CLOSE)
        torch.testing.assert_close(values, layer.values[0], **CLOSE)


def test_a_reading_is_not_changed_by_its_uses(gem):
    reading = gem.read([TEXTS[3]])[0]
    before = [(k.clone(), v.clone()) for k, v in reading.key_values]
    reading.embed()
    gem.rank("Who wrote it?", [reading])
    gem.generate("Who?", after=reading, max_new_tokens=8)
    for (k0, v0), (k1, v1) in zip(before, reading.key_values, strict=True):
        assert torch.equal(k0, k1)
        assert torch.equal(v0, v1)


def test_two_generations_from_one_reading_at_once(gem):
    reading = gem.read([TEXTS[3]])[0]
    prompts = ["Who wrote the letter?", "A kettle"]
    expected = [gem.generate(p, after=reading, max_new_tokens=24).ids for p in prompts]
    found = {}

    def work(i):
        found[i] = gem.generate(prompts[i % 2], after=reading, max_new_tokens=24).ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(6)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert all(found[i] == expected[i % 2] for i in range(6))


def test_spans_see_their_own_tokens_only(gem):
    text = "Rivers run to the sea. The kettle has a warranty."
    reading = gem.read([text])[0]
    whole, first = reading.embed([(0, len(text)), (0, 22)])
    np.testing.assert_allclose(whole, reading.embed(), **CLOSE)
    # The first span is a prefix: reading it alone is the same thing.
    np.testing.assert_allclose(first, gem.embed_documents([text[:22]])[0], **CLOSE)
    together = reading.embed([(0, 22), (23, len(text)), (0, len(text))])
    np.testing.assert_allclose(together[1], reading.embed([(23, len(text))])[0], **CLOSE)
    with pytest.raises(ReadingError, match="span"):
        reading.embed([(100, 120)])
    assert reading.embed([]).shape == (0, gem.dim)


def test_another_models_reading_is_refused(gem, tmp_path):
    other = create(make_base(tmp_path, "qwen3"))
    reading = other.read(["text"])[0]
    for use in (
        lambda: gem.rank("q", [reading]),
        lambda: gem.generate("q", after=reading),
        lambda: gem.embed_readings([reading]),
    ):
        with pytest.raises(ReadingError, match="made by model"):
            use()


def test_joining_one_reading_changes_nothing_and_two_are_parted_as_if_read_together(gem):
    one, two = gem.read(["Rivers run to the sea.", "A child is riding."])
    assert gem.parts.can_join
    np.testing.assert_allclose(gem.join([one]).embed(), one.embed(), **CLOSE)
    joined = gem.join([one, two])
    whole = gem.read([one.text + "\n\n" + two.text])[0]
    assert joined.ids.tolist() == whole.ids.tolist()
    assert (joined.text, joined.offsets) == (whole.text, whole.offsets)
    # The first layer's keys do not depend on what stood before: there joining is exact.
    torch.testing.assert_close(joined.key_values[0][0], whole.key_values[0][0], **CLOSE)


def test_no_use_warns(gem):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gem.embed_documents(TEXTS)
        readings = gem.read(TEXTS)
        readings[3].embed([(0, 10)])
        gem.rank("Who wrote it?", [*readings[:2], *TEXTS[2:]])
        gem.generate("Who?", after=readings[0], max_new_tokens=3)
        gem.generate_batch(["Who?", TEXTS[3]], max_new_tokens=3)
        list(gem.stream("Who?", max_new_tokens=3))


# Ranking


def test_ranking_from_readings_equals_ranking_from_text(gem):
    text = gem.rank("Who wrote the letter?", TEXTS)
    kept = gem.rank("Who wrote the letter?", gem.read(TEXTS))
    mixed = gem.rank("Who wrote the letter?", [*gem.read(TEXTS[:2]), *TEXTS[2:]])
    for a, b, c in zip(text, kept, mixed, strict=True):
        assert a.index == b.index == c.index
        assert a.score == pytest.approx(b.score, abs=1e-4) == pytest.approx(c.score, abs=1e-4)
    assert [r.score for r in text] == sorted((r.score for r in text), reverse=True)


def test_rank_is_the_bases_likelihood_of_the_query(gem):
    query, passage = "Who wrote it?", TEXTS[0]
    (found,) = gem.rank(query, [passage])
    from gem_rag.text.prompts import RANK as RANK_INSTRUCTION

    words = gem.codec.encode_texts([" " + query], None)[0].ids
    text = gem.codec.encode_texts([passage], None)[0].ids
    ids = [*gem.config.preamble_ids, *text, *gem.codec.encode(RANK_INSTRUCTION), *words]
    with torch.inference_mode():
        logp = gem.base.model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = np.mean([logp[len(ids) - len(words) - 1 + i, w] for i, w in enumerate(words)])
    assert found.log_likelihood == pytest.approx(float(expected), abs=1e-4)


def test_an_empty_passage_has_score_zero(gem):
    (found,) = gem.rank("Who wrote it?", [""])
    assert found.score == pytest.approx(0, abs=1e-5)
    assert gem.rank("Who?", []) == []
    with pytest.raises(ValueError, match="empty"):
        gem.rank(" ", ["a"])


def test_what_does_not_fit_the_context_is_an_error(gem):
    with pytest.warns(TruncationWarning):
        reading = gem.read(["sea " * 1200], max_length=990)[0]
    with pytest.raises(ContextLengthError):
        gem.rank("Who wrote the long letter about steam engines? " * 3, [reading])


def test_a_query_longer_than_the_context_is_said_to_be(gem):
    with pytest.raises(ContextLengthError, match="leaves no room for a passage"):
        gem.rank("kettle " * gem.max_context, TEXTS)


# Scopes


@pytest.fixture(scope="module")
def scopes(base_folder):
    return {
        s: disturb(create(base_folder, adapter_scope=s, adapter=AdapterConfig(rank=4)))
        for s in ("tokens", "embedding", "always")
    }


@pytest.mark.parametrize("scope", ["tokens", "embedding", "always"])
def test_each_scope_embeds_alike_alone_and_batched(scopes, scope):
    model = scopes[scope]
    alone = np.stack([model.embed_documents([t])[0] for t in TEXTS])
    np.testing.assert_allclose(model.embed_documents(TEXTS), alone, **CLOSE)
    np.testing.assert_allclose(model.embed_readings(model.read(TEXTS)), alone, **CLOSE)


def test_scopes_differ(scopes):
    vectors = {s: m.embed_documents(TEXTS) for s, m in scopes.items()}
    assert np.abs(vectors["tokens"] - vectors["embedding"]).max() > 1e-3
    np.testing.assert_allclose(vectors["always"], vectors["embedding"], **CLOSE)


def test_scope_embedding_refuses_to_reuse_its_readings(scopes):
    model = scopes["embedding"]
    reading = model.read(["text"])[0]
    with pytest.raises(ReadingError, match="embedding"):
        model.generate("q", after=reading)
    with pytest.raises(ReadingError, match="embedding"):
        model.rank("q", [reading])
    assert model.rank("Who wrote it?", TEXTS)[0].score == pytest.approx(
        scopes["tokens"].rank("Who wrote it?", TEXTS)[0].score, abs=1e-4
    )


def logits_after(model, prompt):
    """The first token's logits, and the ids they follow."""
    seen = []
    hook = lambda _, logits: seen.append(logits.clone()) or logits  # noqa: E731
    return model.generate(prompt, max_new_tokens=1, logits_hook=hook).prompt_ids, seen[0]


def base_logits(base_folder, ids):
    from transformers import AutoModelForCausalLM

    base = AutoModelForCausalLM.from_pretrained(base_folder, dtype=torch.float32)
    with torch.inference_mode():
        return base(torch.tensor([ids]), logits_to_keep=1).logits[0, -1]


@pytest.mark.parametrize("scope", ["tokens", "embedding"])
def test_generation_is_the_bases_bit_for_bit_on_its_own_forward(base_folder, scope):
    options = {"adapter_scope": scope, "adapter": AdapterConfig(rank=4)}
    model = disturb(create(base_folder, forward="transformers", **options))
    model.embed_documents(TEXTS)
    ids, found = logits_after(model, TEXTS[3])
    assert torch.equal(found, base_logits(base_folder, ids))


@pytest.mark.parametrize("scope", ["tokens", "embedding"])
def test_generation_is_the_bases_to_rounding_on_ours(scopes, base_folder, scope):
    assert scopes[scope].parts.forward_note == "our own"
    scopes[scope].embed_documents(TEXTS)
    ids, found = logits_after(scopes[scope], TEXTS[3])
    torch.testing.assert_close(found, base_logits(base_folder, ids), **CLOSE)


def test_an_unknown_forward_is_named(base_folder):
    with pytest.raises(ValueError, match="forward is 'fast'"):
        create(base_folder, forward="fast")


def test_scope_always_generates_otherwise_than_the_base(scopes):
    prompts = ["Who wrote it?", "Rivers run"]
    base = [scopes["tokens"].generate(p, max_new_tokens=16).ids for p in prompts]
    adapted = [scopes["always"].generate(p, max_new_tokens=16).ids for p in prompts]
    assert base != adapted
    assert base == [scopes["embedding"].generate(p, max_new_tokens=16).ids for p in prompts]


# Threads and async


def test_embedding_beside_a_stream_changes_neither(gem):
    expected_text = gem.generate("Rivers run", max_new_tokens=48).text
    expected = gem.embed_documents(TEXTS)
    stop = threading.Event()
    worst = []

    def embed():
        while not stop.is_set():
            worst.append(np.abs(gem.embed_documents(TEXTS) - expected).max())

    threads = [threading.Thread(target=embed) for _ in range(2)]
    for t in threads:
        t.start()
    texts = ["".join(gem.stream("Rivers run", max_new_tokens=48)) for _ in range(3)]
    stop.set()
    for t in threads:
        t.join()
    assert worst
    assert max(worst) < 1e-4
    assert texts == [expected_text] * 3


async def test_async_twins_give_the_same_and_do_not_block(gem, monkeypatch):
    import asyncio

    beats, loop = 0, threading.get_ident()
    start = gem.stream

    def elsewhere(*args, **options):
        assert threading.get_ident() != loop
        return start(*args, **options)

    monkeypatch.setattr(gem, "stream", elsewhere)

    async def heartbeat():
        nonlocal beats
        while True:
            await asyncio.sleep(0.001)
            beats += 1

    task = asyncio.create_task(heartbeat())
    vectors = await gem.aembed_documents(TEXTS)
    np.testing.assert_allclose(vectors, gem.embed_documents(TEXTS), **CLOSE)
    np.testing.assert_allclose(await gem.aembed_query("a"), gem.embed_query("a"), **CLOSE)
    assert (await gem.aembed_queries(["a"])).shape == (1, gem.dim)
    readings = await gem.aread(TEXTS[:2])
    np.testing.assert_allclose(await gem.aembed_readings(readings), vectors[:2], **CLOSE)
    np.testing.assert_allclose(await readings[0].aembed(), vectors[0], **CLOSE)
    assert await gem.arank("Who?", readings) == gem.rank("Who?", readings)
    assert (await gem.agenerate("Who?", max_new_tokens=60)).ids == (
        gem.generate("Who?", max_new_tokens=60).ids
    )
    assert len(await gem.agenerate_batch(["Who?", "A"], max_new_tokens=3)) == 2
    pieces = [piece async for piece in gem.astream("Who?", max_new_tokens=60)]
    assert "".join(pieces) == gem.generate("Who?", max_new_tokens=60).text
    task.cancel()
    assert beats > 10


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_readings_are_joined_in_any_precision(tiny_checkpoint, dtype):
    model = GemModel.from_pretrained(tiny_checkpoint, dtype=dtype)
    readings = model.read(["Rivers run to the sea.", "A kettle."])
    assert len(model.join(readings)) > len(readings[0])
