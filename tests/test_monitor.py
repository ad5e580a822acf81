"""What a run measures, checks and reports: the numbers mean what they say."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import FAMILIES, TEXTS, WORDS, disturb, make_base

from gem_rag.compute.attention import Role, Rule, Tokens
from gem_rag.config import AdapterConfig
from gem_rag.errors import GemError
from gem_rag.model import create
from gem_rag_train.data.pairs import Pair
from gem_rag_train.data.sources import Passage
from gem_rag_train.monitor import checks, heldout, report
from gem_rag_train.monitor.checks import (
    alignment,
    attention_weights,
    bottleneck,
    stability,
    uniformity,
)
from gem_rag_train.monitor.heldout import HeldOut, next_token_loss
from gem_rag_train.recipes.config import TrainConfig

WORD = WORDS.split()
PAIRS = [
    Pair(WORD[i], " ".join(WORD[i : i + 8]), ("query_document", "document_document")[i % 2], str(i))
    for i in range(12)
]
LONG = " ".join(WORD * 2)
SCOPES = ["tokens", "embedding", "always"]


@pytest.fixture
def config(tmp_path):
    return TrainConfig(output=str(tmp_path / "out"), max_length=24)


def tiny(folder, **settings):
    settings = {"num_special_tokens": 2, "adapter": AdapterConfig(rank=4)} | settings
    return disturb(create(folder, **settings))


# Held-out measures


def test_held_out_measures_are_those_of_the_models_own_embeddings(gem, config):
    held_out = HeldOut(gem, config, PAIRS)
    first, second = held_out.embed()
    np.testing.assert_allclose(second, gem.embed_documents([p.second for p in PAIRS]), atol=2e-3)
    np.testing.assert_allclose(first[0], gem.embed_query(PAIRS[0].first), atol=2e-3)
    found = held_out.measure()
    best = (first @ second.T).argmax(1) == np.arange(len(PAIRS))
    assert found["heldout_recall1"] == pytest.approx(best.mean())
    assert found["heldout_recall1"] <= found["heldout_ndcg10"] <= 1
    assert found["heldout_alignment"] == pytest.approx(alignment(first, second))


def test_a_perfect_embedding_scores_1(gem, config):
    held_out = HeldOut(gem, config, PAIRS)
    one_hot = np.eye(len(PAIRS), gem.dim, dtype=np.float32)
    held_out.embed = lambda: (one_hot, one_hot)
    found = held_out.measure()
    assert found["heldout_ndcg10"] == found["heldout_recall1"] == 1
    assert found["heldout_alignment"] == 0


def test_embeddings_that_are_not_finite_are_no_success(gem, config, monkeypatch):
    held_out = HeldOut(gem, config, PAIRS)
    monkeypatch.setattr(
        held_out, "_forward", lambda ids, task: np.full((len(ids), gem.dim), np.nan)
    )
    with pytest.raises(GemError, match="not finite"):
        held_out.measure()
    with pytest.raises(GemError, match="2 at least"):
        HeldOut(gem, config, PAIRS[:1])


def test_with_scope_tokens_texts_are_read_once(gem, config, monkeypatch):
    held_out = HeldOut(gem, config, PAIRS)
    held_out.measure()
    monkeypatch.setattr(gem.reader, "read", lambda *a, **k: pytest.fail("read again"))
    held_out.measure()


@pytest.mark.parametrize("scope", SCOPES)
def test_next_token_loss_changes_with_scope_always_only(base_folder, config, scope):
    model = tiny(base_folder, adapter_scope=scope)
    held_out = HeldOut(model, config, PAIRS)
    before = held_out.measure()
    disturb(model, 0.3)
    model.reader.forget_preambles()
    after = held_out.measure()
    assert before["heldout_alignment"] != after["heldout_alignment"]
    assert (before["heldout_ntp_loss"] != after["heldout_ntp_loss"]) == (scope == "always")


def test_next_token_loss_is_the_bases_own(gem):
    ids = [t.ids for t in gem.codec.encode_texts([TEXTS[0], TEXTS[3]], 30)]
    total = count = 0.0
    for text in ids:
        whole = torch.tensor([[*gem.config.preamble_ids, *text]])
        with torch.no_grad():
            nll = -gem.base.model(whole).logits[0].log_softmax(-1)
        for i in range(1, len(text)):
            total += float(nll[len(gem.config.preamble_ids) + i - 1, text[i]])
            count += 1
    assert next_token_loss(gem, ids) == pytest.approx(total / count, rel=1e-4)


def test_the_default_questions_are_of_the_dev_part(gem, config, monkeypatch):
    asked = []

    def boolq(part):
        asked.append(part)
        return tuple(
            Passage(f"t{i % 3}", " ".join(WORD[i : i + 5]), str(i), f"who {i}") for i in range(9)
        )

    monkeypatch.setattr(heldout, "boolq", boolq)
    held_out = HeldOut(gem, replace(config, heldout_passages=5))
    assert set(asked) == {"dev"}
    assert len({p.second for p in held_out.pairs}) == 5
    assert held_out.pairs == HeldOut(gem, replace(config, heldout_passages=5, seed=9)).pairs
    assert len(held_out.long_texts) == 3  # the passages of an article are one text


# Checks


def test_alignment_and_uniformity_of_known_vectors():
    axes = np.eye(4)
    assert alignment(axes, axes) == 0
    assert alignment(axes, -axes) == pytest.approx(4)
    assert uniformity(np.repeat(axes[:1], 3, 0)) == pytest.approx(0)
    assert uniformity(axes) == pytest.approx(-4)  # all at squared distance 2
    assert uniformity(np.array([[1.0, 0], [-1, 0]])) == pytest.approx(-8)


@pytest.mark.parametrize("family", FAMILIES)
def test_attention_weights_are_the_bases_and_the_base_is_left_alone(tmp_path, family):
    model = tiny(make_base(tmp_path, family))
    texts = [TEXTS[0], LONG]
    before = model.embed_documents(texts)
    used = model.base.config._attn_implementation
    found = bottleneck(model, texts, "reconstruction", length=20)
    for rule in (Rule.CAUSAL, Rule.GEM):
        look = bottleneck(model, texts, "continuation", rule=rule, length=20).attention
        total = np.array([look.prefix, look.special, look.suffix]).sum(0)
        np.testing.assert_allclose(total, np.ones(model.base.num_layers), atol=1e-5)
        assert (max(look.prefix) == 0) == (rule is Rule.GEM)
        assert 0 < look.even < 1
    assert found.tokens == len(model.codec.encode(texts[0])) + 20
    assert model.base.config._attn_implementation == used
    assert not any(m._forward_hooks for block in model.base.blocks for m in block.children())
    assert np.array_equal(model.embed_documents(texts), before)


def test_attention_is_counted_on_the_right_tokens():
    roles = torch.tensor([[Role.PREFIX, Role.SPECIAL, Role.SUFFIX, Role.SUFFIX, Role.PADDING]])
    weights = torch.zeros(1, 2, 5, 5)
    weights[0, :, 2] = torch.tensor([0.0, 0.7, 0.3, 0.0, 0.0])
    weights[0, 0, 3] = torch.tensor([0.0, 1.0, 0.0, 0.0, 0.0])
    weights[0, 1, 3] = torch.tensor([0.2, 0.0, 0.4, 0.4, 0.0])
    weights[0, :, :2] = 9.0  # not the suffix's
    np.testing.assert_allclose(checks._looked(weights, roles), [0.1, 1.2, 0.7], atol=1e-6)


def test_a_suffix_under_the_causal_control_is_plain_text_without_specials(base_folder):
    """Without an adapter, causal attention to the specials aside, the base's own prediction."""
    model = create(base_folder, num_special_tokens=2)
    ids = model.codec.encode(LONG)[:20]
    n = len(model.config.preamble_ids)
    found = bottleneck(model, [LONG], "continuation", rule=Rule.CAUSAL, length=10)
    whole = torch.tensor([*model.config.preamble_ids, *ids[:10], 0, 0, *ids[10:]])
    inputs = model.base.embed_tokens(whole)[None]
    inputs[0, n + 10 : n + 12] = model.parts.special_vectors
    with torch.no_grad():
        logits = model.base.model(inputs_embeds=inputs).logits[0, n + 11 : -1]
    target = torch.tensor(ids[10:])
    expected = torch.nn.functional.cross_entropy(logits, target).item()
    assert found.loss == pytest.approx(expected, rel=1e-4)
    assert found.accuracy == pytest.approx((logits.argmax(1) == target).float().mean().item())


def test_rows_of_a_batch_do_not_disturb_each_other(gem):
    texts = [LONG, TEXTS[0], LONG[:60]]
    alone = [bottleneck(gem, [t], "reconstruction", length=16) for t in texts]
    both = bottleneck(gem, texts, "reconstruction", length=16)
    tokens = np.array([a.tokens for a in alone])
    assert both.tokens == tokens.sum()
    assert both.loss == pytest.approx((tokens * [a.loss for a in alone]).sum() / tokens.sum())
    special = np.array([a.attention.special for a in alone])
    expected = (special * tokens[:, None]).sum(0) / tokens.sum()
    np.testing.assert_allclose(both.attention.special, expected, atol=1e-5)
    with pytest.raises(GemError, match="long enough"):
        bottleneck(gem, ["", "a"], "continuation")


@pytest.mark.parametrize("rule", [Rule.GEM, Rule.BLIND])
def test_the_suffix_knows_of_the_prefix_what_the_specials_saw(gem, rule):
    results = []
    for prefix in ([5, 6, 7, 8], [9, 10, 11, 12]):
        sums = checks._Sums(gem.base.num_layers)
        with torch.no_grad():
            checks._run(gem, [(prefix, [20, 21, 22, 23])], rule, sums)
        results.append(sums.result())
    assert (results[0] == results[1]) == (rule is Rule.BLIND)


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.filterwarnings("ignore::gem_rag.errors.TruncationWarning")
def test_stability_is_that_of_embedding_the_start_alone(base_folder, scope):
    model = tiny(base_folder, adapter_scope=scope)
    texts = [LONG, LONG[::-1], "short"]
    found = stability(model, texts, lengths=(4, 16, 1024))
    assert set(found) == {4, 16}
    for n, values in found.items():
        starts = model.embed_documents(texts[:2], max_length=n)
        wholes = model.embed_documents(texts)
        assert values.texts == 2
        assert values.cosine == pytest.approx((starts * wholes[:2]).sum(1).mean(), abs=1e-4)
        nearest = (starts @ wholes.T).argmax(1)
        assert values.recall1 == pytest.approx(np.mean(nearest == [0, 1]))


def test_attention_that_cannot_be_seen_is_refused(gem):
    odd = SimpleNamespace(blocks=[torch.nn.Linear(2, 2)], model=gem.base.model)
    with pytest.raises(GemError, match="self_attn"), attention_weights(odd, print):
        pass


# Report

LOG = [
    {"step": i, "loss": 1 / i, "contrastive": 0.5 / i, "temperature": 0.05, "grad_norm": 1.0 * i}
    | {"lr": 1e-3 / i, "tokens_per_second": 400.0 + i, "accuracy": i / 60, "odd_one": 1.0}
    | ({"heldout_ndcg10": 1 - abs(i - 40) / 100, "heldout_recall1": 0.3} if i % 20 == 0 else {})
    | ({"heldout_ntp_loss": 3.25} if i % 20 == 0 else {})
    for i in range(1, 61)
]


def write_run(folder, rows=LOG):
    folder.mkdir()
    (folder / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return folder


def test_the_report_holds_every_curve_and_needs_no_network(gem, config, tmp_path):
    run = write_run(tmp_path / "run")
    held_out = HeldOut(gem, config, [*PAIRS, Pair("a", LONG, "document_document", "l")])
    held_out.record_checks(run, "before")
    held_out.record_checks(run, "after")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "recipe.toml").write_text('base = "b"\n[shares]\n"<b>" = 0.5\n')
    path = report.write_report(run, tmp_path / "out")
    assert path == tmp_path / "out" / "report.html"
    html = path.read_text()
    drawn = re.findall(r'<svg[^>]*aria-label="([^"]*)"', html)
    assert {"Loss", "Temperature", "Gradient norm", "Learning rate", "Speed"} <= set(drawn)
    assert {"Held-out retrieval", "Held-out next-token loss", "odd one"} <= set(drawn)
    assert {"Attention on the specials, reconstruction", "A text's start: cosine"} <= {
        d.replace("&#39;", "'").removesuffix(" with the whole") for d in drawn
    }
    for name in ("held-out nDCG@10", "reconstruction, through the specials: next-token accuracy"):
        assert f"<th>{name}</th>" in html
    for key in {k for row in LOG for k in row} - {"step"}:
        assert f"<th>{key}</th>" in html
        assert f">{report.label(key)}</text>" in html
    assert not re.search(r"https?:|//[a-z]|@import|<script|<link", html)
    assert "best heldout_ndcg10 at step 40" in html
    assert "shares.&lt;b&gt;" in html
    assert "shares.<b>" not in html
    assert report.INK not in html
    assert report.write_report(run, tmp_path / "out").read_text() == html


def test_a_run_without_held_out_measures_has_a_report_too(tmp_path):
    run = write_run(tmp_path / "run", [{"step": 1, "loss": 2.0}])
    html = report.write_report(run, tmp_path / "out").read_text()
    assert "<h2>Checks</h2>" not in html
    assert " at step " not in html
    (run / "log.jsonl").write_text("")
    with pytest.raises(GemError, match="empty"):
        report.write_report(run, tmp_path / "out")
    with pytest.raises(GemError, match=r"no log\.jsonl"):
        report.write_report(tmp_path, tmp_path / "out")


def test_long_curves_are_averaged_over_neighbours():
    steps, values = report.curve([{"step": i, "x": i % 2} for i in range(4000)], "x")
    assert len(steps) == report.MOST_POINTS
    assert values == [0.5] * report.MOST_POINTS
    assert steps == sorted(steps)


def test_the_best_step_is_the_first_of_the_highest():
    rows = [{"step": s, "heldout_ndcg10": v} for s, v in ((1, 0.2), (2, 0.4), (3, 0.4))]
    assert report.best_step(rows) == 2
    assert report.best_step(rows[:2], "heldout_ntp_loss") is None
    losses = [{"step": s, "heldout_ntp_loss": v} for s, v in ((1, 3.0), (2, 2.0), (3, 2.5))]
    assert report.best_step(losses, "heldout_ntp_loss") == 2


def test_tokens_of_padding_are_not_looked_at():
    tokens = Tokens(
        torch.arange(3)[None], torch.tensor([[Role.SPECIAL, Role.SUFFIX, Role.PADDING]])
    )
    weights = torch.ones(1, 1, 3, 3) / 3
    assert checks._looked(weights, tokens.roles).sum() == pytest.approx(2 / 3)
