"""Speculation: guesses change how fast an answer is written, and not the answer."""

import gc
import time
from collections import Counter
from dataclasses import dataclass, field

import pytest
import torch
from tiny import TEXTS, disturb, make_base

from gem_rag.compute.skill import Skill
from gem_rag.config import AdapterConfig, SkillConfig
from gem_rag.engine.answers import Answer
from gem_rag.engine.committee import Committee
from gem_rag.engine.rows import Row, Seat
from gem_rag.engine.sampling import Sampler, Sampling, choose
from gem_rag.engine.slots import Slots
from gem_rag.engine.speculation import Guesser, Pace, guesses
from gem_rag.model import create

WORDS = ["Rivers", "run", "to", "the sea", "A kettle", "in winter", "Who wrote", "naïve café", "🙂"]
PROMPTS = [f"{a} {b} {a} {b[::-1]}" for a in WORDS for b in WORDS[:4]]
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "years": {"type": "integer"}},
    "required": ["name", "years"],
}


@pytest.fixture(scope="module")
def gem(tmp_path_factory):
    """A model that falls into repeating itself, and out of it: some guesses are right."""
    from transformers import AutoModelForCausalLM

    folder = make_base(tmp_path_factory.mktemp("repeats"))
    base = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():  # a token depends on the one before it more than on anything else
        for block in base.model.layers:
            block.self_attn.o_proj.weight.mul_(0.1)
            block.mlp.down_proj.weight.mul_(0.1)
    base.save_pretrained(folder)
    adapter = AdapterConfig(rank=4, alpha=8)
    model = disturb(create(folder, num_special_tokens=3, adapter=adapter))
    config = SkillConfig("answer", "answer", model.config.base, "{question}", adapter)
    skill = Skill.new(model.base, config)
    with torch.no_grad():
        for parameter in skill.adapter.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.parts.skills["answer"] = skill
    return model


@pytest.fixture
def calls(monkeypatch):
    """How many tokens of each row every pass had."""
    seen, run = [], Slots.run

    def noted(self, slots, ids):
        seen.append([len(own) for own in ids])
        return run(self, slots, ids)

    monkeypatch.setattr(Slots, "run", noted)
    return seen


def both(model, requests, **options):
    """A batch's answers with and without."""
    return [
        model.generate_batch(requests, speculate=speculate, **options)
        for speculate in (True, False)
    ]


# The texts are the same


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"stop": ["e", "ri"]},
        {"temperature": 0.1, "seed": 3},
        {"temperature": 1.0, "top_k": 2, "seed": 4},
        {"temperature": 0.3, "top_p": 0.3, "seed": 5, "stop": "xy"},
        {"raw": True},
    ],
)
def test_texts_are_those_without(gem, options):
    guessed, plain = both(gem, PROMPTS, max_new_tokens=40, **options)
    assert guessed == plain
    assert sum(answer.usage.accepted_tokens for answer in guessed) > 0
    assert not any(answer.usage.proposed_tokens for answer in plain)


def test_after_readings(gem):
    readings = gem.read([text for text in TEXTS if text] * 6)
    for options in ({}, {"temperature": 0.1, "seed": 1}, {"stop": "a"}):
        guessed, plain = both(
            gem, ["Who?"] * len(readings), after=readings, max_new_tokens=30, **options
        )
        assert guessed == plain


def test_with_a_schema(gem):
    guessed, plain = both(gem, PROMPTS[:6], max_new_tokens=60, schema=SCHEMA)
    assert guessed == plain
    assert all(answer.misfit is None for answer in guessed)
    assert sum(answer.usage.proposed_tokens for answer in guessed) > 0


def test_with_a_skill(gem):
    (reading,) = gem.read([TEXTS[0]])
    found = [
        gem.submit("Who?", after=reading, max_new_tokens=60, skill=name, speculate=speculate)
        for speculate in (True, False)
        for name in ("answer", None)
    ]
    skilled, base, skilled_plain, base_plain = [future.result() for future in found]
    assert (skilled, base) == (skilled_plain, base_plain)
    assert skilled.ids != base.ids
    assert skilled.usage.accepted_tokens > 0


@pytest.mark.parametrize("contrast", [0.0, 0.5])
def test_a_committee_agrees_on_guesses_too(gem, contrast):
    readings = gem.read([TEXTS[0], TEXTS[1], TEXTS[4]])
    committee = Committee(readings, weights=[1.0, 0.5, 0.9], contrast=contrast)
    guessed, plain = [
        gem.generate("Who?", after=committee, max_new_tokens=40, speculate=speculate)
        for speculate in (True, False)
    ]
    assert guessed == plain
    assert len(guessed.sources) == len(guessed.ids)
    assert guessed.usage.accepted_tokens > 0


def test_streams_have_the_same_pieces_and_are_not_far_ahead(gem):
    streams = [
        gem.stream(PROMPTS[i], max_new_tokens=60, speculate=True, temperature=i % 2 / 5, seed=i)
        for i in range(6)
    ]
    before = gem.engine.stats().tokens
    shown = [[next(stream)] for stream in streams]
    time.sleep(0.2)
    # The piece that was read may be a token or, where the first give no text, a few.
    assert gem.engine.stats().tokens - before <= len(streams) * (8 + 4)
    for pieces, stream in zip(shown, streams, strict=True):
        pieces += stream
    plain = [
        gem.generate(PROMPTS[i], max_new_tokens=60, speculate=False, temperature=i % 2 / 5, seed=i)
        for i in range(6)
    ]
    assert ["".join(pieces) for pieces in shown] == [answer.text for answer in plain]
    assert [stream.generation for stream in streams] == plain


def test_hooks_see_each_token_once_and_the_logits_are_the_same(gem):
    def noted(speculate):
        seen = []

        def hook(ids, logits):
            seen.append((len(ids), logits.log_softmax(0).max()))
            return logits

        answer = gem.generate(
            "Rivers run", max_new_tokens=40, logits_hook=hook, speculate=speculate
        )
        return answer, seen

    (guessed, mine), (plain, theirs) = noted(True), noted(False)
    assert guessed == plain
    assert [place for place, _ in mine] == list(range(len(plain.ids)))
    torch.testing.assert_close([p for _, p in mine], [p for _, p in theirs], atol=1e-4, rtol=0)


def test_a_hook_that_fails_leaves_no_trace(gem):
    words = "A long letter about rivers that run to the sea in winter. " * 3
    plain = gem.generate(words, max_new_tokens=40, speculate=False)

    def broken(ids, logits):
        if len(ids) == 20:
            raise RuntimeError("broken hook")
        return logits

    with pytest.raises(RuntimeError, match="broken hook"):
        gem.generate(words, max_new_tokens=40, logits_hook=broken, speculate=True)
    assert gem.generate(words, max_new_tokens=40, speculate=False) == plain


def test_what_is_kept_of_a_guessed_answer_is_what_was_written(gem):
    told = [{"role": "user", "content": "Speak of rivers and of the sea alone, in winter. " * 3}]
    first = gem.generate(told, max_new_tokens=50, speculate=True)
    assert 0 < first.usage.accepted_tokens < first.usage.proposed_tokens
    more = [
        *told,
        {"role": "assistant", "content": first.text},
        {"role": "user", "content": "Who?"},
    ]
    hits = gem.engine.stats().prefix_hits
    second = gem.generate(more, max_new_tokens=12)
    assert gem.engine.stats().prefix_hits == hits + 1
    whole = torch.tensor([second.prompt_ids])
    with torch.inference_mode():
        expected = gem.base.model.generate(
            whole, max_new_tokens=12, do_sample=False, pad_token_id=1
        )
    assert list(second.ids) == expected[0, whole.shape[1] :].tolist()


@pytest.mark.parametrize("family", ["mistral", "gemma3", "gemma2"])
def test_with_windows_and_on_transformers_forward(tmp_path, family):
    model = create(make_base(tmp_path, family))
    guessed, plain = both(model, PROMPTS[:8], max_new_tokens=40)
    assert guessed == plain
    assert sum(answer.usage.accepted_tokens for answer in guessed) > 0
    if model.parts.decoder is None:  # a token at a time, as its own model has it
        assert not model.generate(PROMPTS[0], max_new_tokens=20).usage.proposed_tokens


# In distribution


def test_sampled_tokens_have_the_models_probabilities_whatever_is_guessed(gem):
    torch.manual_seed(0)
    table = torch.randn(5, 5) * 1.5  # of the token after each of five: a tiny language
    row = Row([0], (Seat(),), Sampling(1.0), [], 3, 0, [])
    pairs = Counter()
    for seed in range(6000):
        row = Row([0], (Seat(),), Sampling(1.0, seed=seed), [], 3, 0, [])
        answer = Answer(row, gem.parts)
        guess = [3, 2]  # wrong most of the time
        logits = table[[2, *guess]]
        answer.take(choose(logits, [row.sampling] * 3, answer.numbers(range(3))), guess)
        while len(answer.ids) < 2:
            logits = table[answer.ids[-1:]]
            answer.take(choose(logits, [row.sampling], answer.numbers(range(1))))
        pairs[tuple(answer.ids[:2])] += 1
    first, after = table[2].softmax(0), table.softmax(1)
    chi = 0.0
    for a in range(5):
        for b in range(5):
            expected = 6000 * float(first[a] * after[a, b])
            chi += (pairs[a, b] - expected) ** 2 / expected
    assert chi < 51.2  # 24 degrees of freedom: passed by chance once in a thousand


def test_rows_of_different_settings_are_chosen_together_as_they_are_alone():
    torch.manual_seed(0)
    logits = torch.randn(40, 300) * 3
    kinds = [Sampling(), Sampling(0.7), Sampling(1.0, top_p=0.5), Sampling(2.0, top_k=3)]
    settings = [kinds[i % 4] for i in range(40)]
    numbers = torch.rand(40).tolist()
    alone = [choose(logits[i : i + 1], settings[i : i + 1], numbers[i : i + 1]) for i in range(40)]
    assert [[token] for token in choose(logits, settings, numbers)] == alone


def test_a_nucleus_is_the_smallest_set_that_reaches_its_share():
    logits = torch.tensor([0.4, 0.3, 0.2, 0.1]).log()
    numbers = torch.arange(0, 1, 0.01).tolist()
    for top_p, allowed in ((0.35, {0}), (0.41, {0, 1}), (0.9, {0, 1, 2}), (0.95, {0, 1, 2, 3})):
        settings = [Sampling(1.0, top_p=top_p)] * len(numbers)
        assert set(choose(logits.expand(len(numbers), -1), settings, numbers)) == allowed


def test_a_seed_says_the_same_whenever_it_is_asked():
    assert Sampler(Sampling(1.0, seed=7)).numbers(range(5)) == [
        Sampler(Sampling(1.0, seed=7)).numbers(range(i, i + 1))[0] for i in range(5)
    ]


# What it saves


def test_a_text_that_repeats_takes_fewer_passes(gem, calls):
    plain = gem.generate("Rivers run", max_new_tokens=120, speculate=False)
    passes = len(calls)
    calls.clear()
    guessed = gem.generate("Rivers run", max_new_tokens=120, speculate=True)
    assert guessed == plain
    assert len(calls) < passes / 2
    assert guessed.usage.accepted_tokens == passes - len(calls)
    assert guessed.acceptance == guessed.usage.accepted_tokens / guessed.usage.proposed_tokens
    assert plain.acceptance is None


def test_never_more_than_the_limit(gem, calls):
    for limit in (1, 2, 3, 7):
        answer = gem.generate("Rivers run", max_new_tokens=limit, speculate=True)
        assert len(answer.ids) <= limit


def test_the_engine_counts_them(gem):
    gc.collect()
    before = gem.engine.stats()
    answer = gem.generate("Rivers run", max_new_tokens=60, speculate=True)
    deadline = time.monotonic() + 20
    while gem.engine.stats().tokens < before.tokens + len(answer.ids) - 1:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    after = gem.engine.stats()
    assert after.accepted - before.accepted == answer.usage.accepted_tokens
    assert after.proposed - before.proposed == answer.usage.proposed_tokens


# What is guessed, and when


def test_what_followed_the_last_words_when_they_stood_there_last_is_guessed():
    guesser = Guesser([1, 2, 3, 4, 5, 9, 2, 3])
    assert guesser.guess(3) == [4, 5, 9]
    guesser.extend([7, 2, 3])
    assert guesser.guess(2) == [7, 2]
    assert guesser.guess(6) == [7, 2, 3, 7, 2, 3]  # and on, should it repeat itself
    assert Guesser([1, 2, 3]).guess(3) == []


def test_longer_agreement_comes_first():
    assert Guesser([1, 2, 3, 4, 8, 2, 3, 5, 1, 2, 3]).guess(1) == [4]


@dataclass
class Asked:
    ids: list[int] = field(default_factory=lambda: [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3])
    speculates: bool | None = None
    most_guessed: int = 50
    width: int = 1

    def __post_init__(self):
        self.guesser = Guesser(self.ids)


def paced(rows, seconds):
    """Known times of steps, by their width."""
    pace = Pace()
    for width, took in seconds.items():
        for _ in range(3):
            pace.note(rows, width, took)
    return pace


CHEAP, DEAR = {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}, {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}


def test_rows_guess_where_wide_steps_cost_little():
    cheap, dear = paced(1, CHEAP), paced(1, DEAR)
    assert len(guesses([Asked()], cheap)[0]) == 7
    assert guesses([Asked()], dear) == [[]]
    assert guesses([Asked(speculates=False)], cheap) == [[]]
    assert len(guesses([Asked(speculates=True)], dear)[0]) == 7
    assert len(guesses([Asked(speculates=True, most_guessed=2)], cheap)[0]) == 2


def test_who_guessed_wrong_guesses_less_and_tries_again_later():
    pace = paced(1, {1: 1.0, 2: 1.2, 4: 1.4, 8: 1.8})
    row = Asked()
    assert guesses([row], pace)[0]
    for _ in range(30):
        row.guesser.judge(0, wrong=1)
    assert guesses([row], pace) == [[]]
    assert any(guesses([row], pace)[0] for _ in range(30))


def test_rows_beside_each_other_are_decided_for_together():
    pace = paced(8, {1: 1.0, 2: 1.4, 4: 1.9, 8: 3.0})
    silent = [Asked(ids=list(range(20))) for _ in range(7)]
    assert not any(guesses([Asked(), *silent], pace))  # seven would wait for one
    assert all(guesses([Asked() for _ in range(8)], pace))


def test_a_slow_step_is_not_believed_at_once():
    pace = paced(1, {1: 1.0, 8: 1.2})
    pace.note(1, 8, 50.0)
    assert pace.ratio(1, 8) < 7
    pace.note(1, 8, 1.1)
    assert pace.ratio(1, 8) == pytest.approx(1.1)


def test_a_width_that_was_dear_once_is_tried_again():
    pace = paced(1, DEAR)
    assert guesses([Asked()], pace) == [[]]
    for _ in range(400):
        pace.note(1, 1, 1.0)
    assert guesses([Asked()], pace)[0]
