"""The paper's training, part by part: rows and their loss, schedules, cached gradients, files."""

import json
import math
from dataclasses import replace
from random import Random

import pytest
import torch
from tiny import disturb, make_base
from training_run import gradients

from gem_rag.compute.adapter import applied
from gem_rag.compute.attention import Role, Rule, Tokens
from gem_rag.compute.kv import empty_cache
from gem_rag.config import AdapterConfig
from gem_rag.errors import GemError
from gem_rag.model import create
from gem_rag_train import TrainConfig, train
from gem_rag_train.data.batches import same_source, texts_of
from gem_rag_train.data.files import UserData, hold_out, load_files
from gem_rag_train.data.pairs import Pair
from gem_rag_train.loop.schedule import alpha, peak, rate
from gem_rag_train.loop.state import parameters_of
from gem_rag_train.objectives.gradcache import GradCache
from gem_rag_train.objectives.language import LanguageRows, Row, label_count, language_loss
from gem_rag_train.objectives.losses import LOG_SCALE_START, info_nce

PREFIX, SUFFIX = (5, 6, 7, 8, 9), (10, 11, 1)  # ends in 1, which is padding and EOS at once
PAIRS = [
    Pair(f"who wrote {i}?", f"the long letter {i}", "query_document", str(i)) for i in range(4)
]


def model_of(folder, scope):
    settings = {"num_special_tokens": 3, "adapter": AdapterConfig(4, 8.0)}
    return disturb(create(folder, adapter_scope=scope, **settings))


@pytest.fixture(scope="module", params=["llama", "gemma3"])
def family_folder(request, tmp_path_factory):
    return make_base(tmp_path_factory.mktemp(request.param), request.param)


def as_one_sequence(model, row, rule=Rule.GEM):
    """The row's loss the long way: one pass over the whole sequence under the mask."""
    k = model.config.num_special_tokens
    head = list(model.config.preamble_ids)
    device = model.base.device
    words = model.base.embed_tokens(torch.tensor([[*head, *row.prefix]], device=device))
    suffix = model.base.embed_tokens(torch.tensor([list(row.suffix)], device=device))
    specials = model.parts.special_vectors[None].to(words.dtype)
    inputs = torch.cat([words, specials, suffix], 1)
    n = words.shape[1]
    roles = [Role.PREFIX] * n + [Role.SPECIAL] * k + [Role.SUFFIX] * len(row.suffix)
    index = torch.arange(inputs.shape[1])[None]
    tokens = Tokens(index, torch.tensor([roles]))
    where = {"tokens": slice(n, n + k), "embedding": slice(0, n + k), "always": slice(None)}
    cache = empty_cache(model.base.num_layers)
    with applied(model.parts.adapter.at(where[model.config.adapter_scope])):
        mask = model.base.masks(tokens, tokens, rule)
        hidden = model.base.run(inputs, index, mask, cache)[0]
    log_p = model.base.logits(hidden).log_softmax(-1)
    places = [(n + k - 1 + i, label) for i, label in enumerate(row.suffix)]
    if model.config.adapter_scope == "always":
        places += [(len(head) + i, label) for i, label in enumerate(row.prefix[1:])]
    return -sum(log_p[at, label] for at, label in places), len(places)


@pytest.mark.parametrize("scope", ["tokens", "embedding", "always"])
def test_the_loss_is_that_of_one_pass_over_the_whole_row(family_folder, scope):
    model = model_of(family_folder, scope)
    row = Row(PREFIX, SUFFIX)
    expected, count = as_one_sequence(model, row)
    loss = language_loss(model, [row])
    assert count == label_count(model, row)
    torch.testing.assert_close(loss, expected, rtol=1e-4, atol=1e-4)
    loss.backward()
    mine = [p.grad.clone() for p in model.parts.parameters()]
    for p in model.parts.parameters():
        p.grad = None
    expected.backward()
    for a, b in zip(mine, model.parts.parameters(), strict=True):
        torch.testing.assert_close(a, b.grad, rtol=1e-3, atol=1e-4)


def test_padding_changes_nothing_and_is_told_by_length(base_folder):
    model = model_of(base_folder, "always")
    rows = [Row(PREFIX, SUFFIX), Row(PREFIX[:2], (4, 1)), Row(PREFIX[1:] * 3, (1, 1, 1, 1, 12))]
    assert [label_count(model, r) for r in rows] == [7, 3, 16]
    together, raw = language_loss(model, rows), [Row(r.prefix) for r in rows]
    alone = sum(language_loss(model, [r]) for r in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-4)
    alone = sum(language_loss(model, [r]) for r in raw)
    torch.testing.assert_close(language_loss(model, raw), alone, rtol=1e-5, atol=1e-4)


def test_the_suffix_knows_the_prefix_through_the_specials_alone(base_folder):
    model = model_of(base_folder, "tokens")
    one, other = Row(PREFIX, SUFFIX), Row((50, 60, 70, 80, 90), SUFFIX)
    for rule, same in ((Rule.GEM, False), (Rule.BLIND, True)):
        a, b = (language_loss(model, [row], rule) for row in (one, other))
        assert torch.allclose(a, b, atol=1e-5) == same


def test_rows_are_the_tasks_asked_for(base_folder):
    model = model_of(base_folder, "always")
    own = {
        "summary": [Pair("steam engines", "a long letter about steam", "document_document", "")],
        "soft_prompt": [Pair("Who wrote it?", "A child.", "query_document", "")],
    }

    def rows(raw_share=0.0, step=0, **tasks):
        options = {"raw_share": raw_share, "own": own, "seed": 0, "max_length": 16}
        return LanguageRows(model, tasks, **options).rows(step, PAIRS)

    def ids(text):
        return tuple(model.codec.encode_texts([text], 16)[0].ids)

    texts = [ids(pair.second) for pair in PAIRS]
    assert rows(reconstruction=1) == [Row(t, t) for t in texts]
    assert rows(raw_share=1.0, reconstruction=1) == [Row(t) for t in texts]
    split = rows(continuation=1)
    assert [r.prefix + r.suffix for r in split] == texts
    assert all(r.prefix and r.suffix for r in split)
    assert len({len(r.prefix) for s in range(3) for r in rows(step=s, continuation=1)}) > 1
    end = tuple(model.codec.end_ids)
    assert rows(summary=1)[0] == Row(ids(own["summary"][0].second), ids("steam engines") + end)
    assert rows(soft_prompt=1)[0] == Row(ids("Who wrote it?"), ids("A child.") + end)
    own["soft_prompt"] = [Pair("Who wrote it?", "A child. " * 20, "query_document", "")]
    assert rows(soft_prompt=1)[0].suffix == ids("A child. " * 20)  # cut: it does not end there
    mixed = [r for step in range(50) for r in rows(0.8, step, reconstruction=1)]
    assert 0.7 < sum(not r.suffix for r in mixed) / len(mixed) < 0.9


def test_without_adapted_generation_raw_rows_would_train_nothing(base_folder):
    model = model_of(base_folder, "tokens")
    options = {"raw_share": 1.0, "own": {}, "seed": 0, "max_length": 16}
    rows = LanguageRows(model, {"reconstruction": 1}, **options).rows(0, PAIRS)
    assert all(row.suffix for row in rows)
    assert label_count(model, Row(PREFIX)) == 0
    assert label_count(model, Row(PREFIX, SUFFIX)) == 3


def test_each_cycle_warms_up_and_falls_to_almost_nothing():
    rates = [rate(step, TrainConfig(steps=60, cycles=3, warmup_steps=5)) for step in range(60)]
    assert rates[:20] == rates[20:40] == rates[40:]
    assert max(rates) == rates[5] == 1
    assert rates[0] < 0.2
    assert rates[19] < 0.02
    short = [rate(step, TrainConfig(steps=11, cycles=3, warmup_steps=50)) for step in range(11)]
    assert short[:3] == short[3:6]  # warmed up within half of it, and the rest is the last one's
    assert max(short) == short[1] == short[8] == 1
    assert short[10] < short[9]


def test_alpha_holds_and_rises_and_takes_the_rate_along():
    config = TrainConfig(
        alpha_hold=2, alpha_ramp=3, alpha_end=0.8, learning_rate=1e-5, ntp_learning_rate=1e-4
    )
    weights = [alpha(step, config) for step in range(8)]
    assert weights == pytest.approx([0, 0, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8])
    assert peak(0, config) == pytest.approx(1e-4)
    assert peak(7, config) == pytest.approx(0.8 * 1e-5 + 0.2 * 1e-4)
    assert alpha(0, TrainConfig()) == 1
    assert peak(0, TrainConfig()) == TrainConfig().learning_rate


def test_cached_gradients_are_the_plain_ones():
    torch.manual_seed(0)
    layer = torch.nn.Linear(5, 4).double()
    scale = torch.tensor(LOG_SCALE_START, dtype=torch.double, requires_grad=True)
    chunks = list(torch.randn(12, 5, dtype=torch.double).split([3, 4, 1, 4]))

    def embed(chunk):
        return torch.nn.functional.normalize(torch.tanh(layer(chunk)), dim=1)

    def loss(vectors):
        return info_nce(vectors[:6], vectors[6:], scale)

    found = []
    for cached in (True, False):
        layer.zero_grad()
        scale.grad = None
        GradCache(embed, cached=cached).backward(chunks, loss)
        found.append([layer.weight.grad, layer.bias.grad, scale.grad])
    layer.zero_grad()
    scale.grad = None
    loss(torch.cat([embed(c) for c in chunks])).backward()
    for grads in found:
        for a, b in zip(grads, [layer.weight.grad, layer.bias.grad, scale.grad], strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.fixture
def mixed(base_folder, tmp_path):
    """A recipe with every part: user files with hard negatives, both losses, scope always."""
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
        base=str(base_folder), output=str(tmp_path / "out"), data_files=(str(file),), steps=6,
        batch_size=8, max_length=24, num_special_tokens=2, adapter_rank=4, adapter_scope="always",
        alpha_end=0.5, raw_share=0.5, max_grad_norm=1e9, warmup_steps=1, checkpoint_every=2,
        lm_tasks={"reconstruction": 1, "continuation": 1},
    )  # fmt: skip


def test_a_text_of_one_sentence_is_no_pair_with_itself():
    texts = [f"The number {i} is written on a door of the old house." for i in range(20)]
    draw = UserData(texts=texts).tasks()["texts"]
    pairs = [draw(Random(i)) for i in range(50)]
    assert sum(p.first == p.second for p in pairs) <= 5
    _, held_out = hold_out(UserData(texts=texts), 20, 0)
    assert all(p.first != p.second for p in held_out)


def test_files_of_which_nothing_would_be_trained_on_are_an_error(mixed, tmp_path):
    with pytest.raises(GemError, match=r"hold \['labelled'\], and shares has \['crops'\]"):
        train(replace(mixed, shares={"crops": 1.0}))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("scope", ["tokens", "always"])
@pytest.mark.parametrize(
    "option", [{"gradcache_tokens": 40}, {"activation_checkpointing": True}], ids=str
)
def test_memory_is_saved_without_changing_the_gradients(mixed, scope, option):
    config = replace(mixed, adapter_scope=scope)
    found = []
    for changes in ({}, option):
        _, _, trainer = gradients(replace(config, **changes))
        disturb(trainer.model)  # B of a new adapter is zero, and so would be A's gradient
        trainer.step = 0
        facts = trainer.train_step()
        found.append((facts, [p.grad for p in parameters_of(trainer.optimizer)]))
    (plain, expected), (saved, grads) = found
    assert saved["loss"] == pytest.approx(plain["loss"], rel=1e-5)
    largest = max(float(g.abs().max()) for g in expected)
    for a, b in zip(grads, expected, strict=True):  # fp32: sums in another order
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * largest)
    assert all(g.abs().max() > 1e-4 for g in expected)


def test_hard_negatives_are_columns_of_their_own():
    torch.manual_seed(0)
    a, b, n = (torch.nn.functional.normalize(torch.randn(4, 8), dim=1) for _ in range(3))
    scale = torch.tensor(LOG_SCALE_START)
    n = n[:3]
    rows = (20 * a @ torch.cat([b, n]).T).log_softmax(1)
    back = (20 * b @ a.T).log_softmax(1)
    expected = -(sum(rows[i, i] for i in range(4)) + sum(back[i, i] for i in range(4))) / 8
    assert info_nce(a, b, scale, negatives=n).item() == pytest.approx(expected.item(), rel=1e-5)
    pairs = [Pair(f"q{i}", f"p{i}", "query_document", str(i), ("p0",)) for i in range(2)]
    assert same_source(pairs).tolist() == [[True, False, True, True], [False, True, False, False]]
    assert [t for t, _ in texts_of(pairs)] == ["q0", "q1", "p0", "p1", "p0", "p0"]


def test_files_say_what_they_hold(tmp_path):
    rows = [
        {"query": "q", "positive": "p", "negatives": ["n"]},
        {"query": "q2", "positive": "p2"},
        {"context": "c", "summary": "s"},
        {"prompt": "x", "answer": "y"},
        {"text": "One. Two. Three."},
    ]
    (tmp_path / "a.jsonl").write_text("\n\n".join(map(json.dumps, rows)))
    (tmp_path / "b.md").write_text("# Kettle\nIt boils.\n## Empty\n## Warranty\nSeven years.\n")
    (tmp_path / "c.txt").write_text("A first.\n\nA second.\n")
    data = load_files([tmp_path / name for name in ("a.jsonl", "b.md", "c.txt")])
    assert data.pairs["labelled"][0] == Pair("q", "p", "query_document", "p", negatives=("n",))
    assert data.pairs["summary"] == [Pair("s", "c", "document_document", "c")]
    assert data.pairs["soft_prompt"][0].second == "y"
    assert [p.first for p in data.pairs["headings"]] == ["Kettle", "Kettle > Warranty"]
    assert data.texts == ["One. Two. Three.", "A first.", "A second."]
    assert data.kinds == ["labelled", "summary", "soft_prompt", "headings", "texts"]
    import random

    rng = random.Random(0)
    assert {kind: draw(rng).second != "" for kind, draw in data.tasks().items()}.keys() == {
        *data.kinds, "masked_texts"
    }  # fmt: skip


def test_what_is_held_out_of_the_users_data_is_not_trained_on():
    pairs = [Pair(f"q{i}", f"p{i // 2}", "query_document", f"p{i // 2}") for i in range(60)]
    data = UserData({"labelled": pairs}, [f"A text {i}. It ends." for i in range(10)])
    left, aside = hold_out(data, 150, seed=0)
    assert len(aside) == len({p.group for p in aside}) == 4  # a tenth of 40 passages
    groups = {p.group for p in aside}
    assert not groups & ({p.group for p in left.pairs["labelled"]} | set(left.texts))
    assert len({p.group for p in left.pairs["labelled"]} | set(left.texts)) == 36
    assert hold_out(data, 150, seed=0) == (left, aside)
    assert len(hold_out(data, 3, seed=0)[1]) == 3
    few = UserData({"labelled": pairs[:30]})
    assert hold_out(few, 150, seed=0) == (few, [])


@pytest.mark.parametrize(
    ("content", "error"),
    [
        ("", r"data.jsonl holds nothing to train on"),
        ('{"text": "a"}\n{"text": ', r"data.jsonl:2: no JSON"),
        ('{"text": "a"}\n\n{"txet": "a"}', r"data.jsonl:3: found the columns \['txet'\]"),
        ('{"query": "a", "positive": ""}', r"data.jsonl:1: 'positive' is ''"),
        ('{"query": "a", "positive": "b", "negatives": "c"}', r":1: 'negatives' is 'c'"),
        ("[1]", r":1: found list"),
        (r'{"text": "half \ud83d"}', r":1: 'text' is "),
        (r'{"query": "a", "positive": "b", "negatives": ["\ud83d"]}', r":1: 'negatives' is "),
    ],
)
def test_broken_files_are_found_before_the_first_step(tmp_path, content, error):
    file = tmp_path / "data.jsonl"
    file.write_text(content)
    with pytest.raises(GemError, match=error):
        load_files([file])
    with pytest.raises(GemError, match="does not exist"):
        load_files([tmp_path / "none.jsonl"])
    with pytest.raises(GemError, match="is a folder"):
        load_files([tmp_path])
    (tmp_path / "rows.csv").write_text("query,positive\na,b\n")
    with pytest.raises(GemError, match=r"is .csv; expected .jsonl"):
        load_files([tmp_path / "rows.csv"])


def test_the_paper_recipe_is_the_papers():
    paper = TrainConfig.from_recipe("paper")
    assert paper.steps * paper.batch_size == 32_000
    assert (paper.raw_share, paper.max_length, paper.adapter_scope) == (0.8, 512, "always")
    assert (alpha(99, paper), alpha(999, paper)) == (0, 1)
    assert math.isclose(peak(0, paper), 1e-4)
    assert math.isclose(peak(999, paper), 1e-5)
