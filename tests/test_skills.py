"""Skills: adapters that act after the text, in a checkpoint, a batch, a stream, the frameworks."""

from __future__ import annotations

import json

import pytest
import torch

from gem_rag.compute.skill import Skill
from gem_rag.config import AdapterConfig, SkillConfig
from gem_rag.documents import Document
from gem_rag.errors import CheckpointError, GemError
from gem_rag.index import GemIndex
from gem_rag.model import GemModel, load
from gem_rag.rag import GemRAG, likeliest

PASSAGE = "The kettle has a warranty of seven years."
OTHER = "Rivers run to the sea, naïve café in winter."
ASKED = "\nHow long is the warranty?"


def skilled(model: GemModel, name: str = "answer", seed: int = 0, task: str = "answer") -> Skill:
    """A skill of random weights, which says something else than the base."""
    config = SkillConfig(
        name, task, model.config.base, "\nIn a word: {question}", AdapterConfig(rank=2, alpha=8.0)
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        skill = Skill.new(model.base, config)
        for update in skill.adapter.updates.values():
            torch.nn.init.normal_(update.b, std=0.5)
        with torch.no_grad():  # as they would be kept
            for weight in skill.adapter.parameters():
                weight.copy_(weight.half().float())
    model.parts.skills[name] = skill
    return skill


@pytest.fixture(scope="module")
def tiny_checkpoint(gem, tmp_path_factory):
    return gem.save_pretrained(tmp_path_factory.mktemp("tiny") / "checkpoint")


@pytest.fixture
def model(tiny_checkpoint) -> GemModel:
    return load(tiny_checkpoint, dtype="float32")


def said(model: GemModel, **options) -> str:
    (reading,) = model.read([PASSAGE])
    return model.generate(ASKED, after=reading, max_new_tokens=12, **options).text


def test_a_skill_answers_otherwise_and_without_it_the_base_answers_as_before(model):
    before = said(model)
    skilled(model)
    assert said(model) == before
    assert said(model, skill="answer") != before


def test_readings_and_vectors_are_the_same_with_and_without_skills(model):
    (before,), vectors = model.read([PASSAGE]), model.embed_documents([PASSAGE])
    skilled(model)
    (after,) = model.read([PASSAGE])
    pairs = zip(before.key_values, after.key_values, strict=True)
    assert all(torch.equal(a, b) for one, two in pairs for a, b in zip(one, two, strict=True))
    assert (model.embed_documents([PASSAGE]) == vectors).all()


def test_both_forwards_say_the_same(tiny_checkpoint, model):
    skilled(model)
    other = load(tiny_checkpoint, dtype="float32", forward="transformers")
    skilled(other)
    assert said(model, skill="answer") == said(other, skill="answer")


def test_rows_of_one_batch_use_different_skills_each_as_it_would_alone(model):
    skilled(model)
    skilled(model, "other", seed=1)
    readings = model.read([PASSAGE, OTHER, PASSAGE])
    names = [None, "answer", "other"]
    alone = [
        model.generate(ASKED, after=r, max_new_tokens=10, skill=n).text
        for r, n in zip(readings, names, strict=True)
    ]
    futures = [
        model.submit(ASKED, after=r, max_new_tokens=10, skill=n)
        for r, n in zip(readings, names, strict=True)
    ]
    assert [future.result().text for future in futures] == alone
    assert len(set(alone)) == 3


def test_a_stream_uses_a_skill(model):
    skilled(model)
    (reading,) = model.read([PASSAGE])
    stream = model.stream(ASKED, after=reading, max_new_tokens=12, skill="answer")
    assert "".join(stream) == said(model, skill="answer")


def test_without_a_reading_a_skill_acts_after_the_users_words(model):
    skilled(model)
    prompt = PASSAGE + " " + OTHER + ASKED
    fresh = model.generate(prompt, max_new_tokens=10, skill="answer").text
    plain = model.generate(prompt, max_new_tokens=10).text  # keeps its beginning for later prompts
    assert fresh != plain
    assert model.generate(prompt, max_new_tokens=10, skill="answer").text == fresh
    assert model.generate(prompt, max_new_tokens=10).text == plain


def test_an_unknown_skill_is_refused_and_those_there_are_are_named(model):
    skilled(model)
    with pytest.raises(GemError, match="no skill 'summary'; it has: answer"):
        said(model, skill="summary")
    skilled(model, "rank", task="rank")
    with pytest.raises(GemError, match="expected one that answers"):
        said(model, skill="rank")


def test_a_checkpoint_keeps_its_skills(model, tmp_path):
    skill = skilled(model)
    skilled(model, "rank", seed=2, task="rank")
    fingerprint, words = skill.fingerprint, said(model, skill="answer")
    model.save_pretrained(tmp_path / "with")
    files = sorted(p.name for p in (tmp_path / "with" / "skills" / "answer").iterdir())
    assert files == ["README.md", "adapter_model.safetensors", "config.json"]
    again = load(tmp_path / "with", dtype="float32")
    assert again.skills == ["answer", "rank"]
    assert again.parts.skill("answer").fingerprint == fingerprint
    assert again.fingerprint == model.fingerprint, "the index depends on `embed` alone"
    assert said(again, skill="answer") == words


def test_a_config_from_a_later_version_names_it(model, tmp_path):
    skilled(model)
    model.save_pretrained(tmp_path / "new")
    path = tmp_path / "new" / "skills" / "answer" / "config.json"
    later = json.loads(path.read_text()) | {"temperature_head": 3, "written_by": "9.1.0"}
    path.write_text(json.dumps(later))
    with pytest.raises(CheckpointError, match=r"temperature_head.*gem-rag 9\.1\.0"):
        load(tmp_path / "new")


def test_a_skill_of_another_base_is_refused(model, tmp_path):
    skilled(model)
    model.save_pretrained(tmp_path / "odd")
    path = tmp_path / "odd" / "skills" / "answer" / "config.json"
    raw = json.loads(path.read_text())
    raw["base"]["weights"] = "0" * 64
    path.write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match="made for base"):
        load(tmp_path / "odd")


def rag_over(model: GemModel, **options) -> GemRAG:
    index = GemIndex(fingerprint=model.fingerprint, dim=model.dim)
    rag = GemRAG(model, index, threshold=None, **options)
    index.add([PASSAGE, OTHER], model.embed_documents([PASSAGE, OTHER]))
    return rag


def test_rag_answers_with_the_skill_where_there_is_one(model):
    plain = rag_over(model).answer("How long is the warranty?", max_new_tokens=8).answer
    skilled(model)
    auto, base = rag_over(model), rag_over(model, skill=None)
    assert auto.skill == "answer"
    with_skill = auto.answer("How long is the warranty?", max_new_tokens=8).answer
    assert with_skill != plain
    assert base.answer("How long is the warranty?", max_new_tokens=8).answer == plain
    assert auto.answer("How long is the warranty?", max_new_tokens=8, skill=None).answer == plain
    with pytest.raises(GemError, match="it has: answer"):
        rag_over(model, skill="nothing")


QUESTION = "How long is the warranty?"


def by_surety(rag: GemRAG) -> list[tuple[float, str, str]]:
    """Of each passage: what ranking and its own answer's score make of it, and that answer."""
    out = []
    prompt = rag.model.parts.skill("answer").config.asked(QUESTION)
    for cited in rag.retrieve(QUESTION):
        (reading,) = rag.model.read([cited.text])
        said = rag.model.generate(
            prompt, after=reading, skill="answer", max_new_tokens=8, beams=rag.beams
        )
        score = cited.rank_score + likeliest.SURETY * said.candidates[0].score
        out.append((score, cited.text, said.text.strip()))
    return out


def test_of_several_passages_that_is_answered_from_whose_answer_is_likeliest(model, monkeypatch):
    monkeypatch.setattr(likeliest, "SURETY", 100.0)  # what is random is seldom surer
    monkeypatch.setattr(likeliest, "NEAR", 100.0)
    for seed in range(12):  # until the likeliest is not the first
        skilled(model, seed=seed)
        rag = rag_over(model, keep_readings=False)
        tried = by_surety(rag)
        _, passage, said = max(tried)
        if passage != tried[0][1]:
            break
    assert passage != tried[0][1]
    stream = rag.stream(QUESTION, max_new_tokens=8, logits_hook=None)
    assert [cited.text for cited in stream.citations] == [passage]
    assert "".join(stream).strip() == said == stream.answer.answer
    assert stream.answer.finish_reason == "length"
    first = rag_over(model, tried=1).answer(QUESTION, max_new_tokens=8)
    assert [cited.text for cited in first.citations] == [tried[0][1]]
    assert first.answer == tried[0][2], "searched for all the same"
    others = ({"schema": {"enum": ["red"]}}, {"stop": "."}, {"num_beams": 1})
    for options in ({"temperature": 0.5}, {"skill": None}, *others):
        (cited,) = rag.answer(QUESTION, max_new_tokens=8, **options).citations
        assert cited.text == tried[0][1]
    assert rag.answer(QUESTION, max_new_tokens=8, rank=False).citations[0].rank_score is None


def test_far_ahead_the_first_passage_is_answered_from(model, monkeypatch):
    monkeypatch.setattr(likeliest, "SURETY", 100.0)
    skilled(model)
    rag = rag_over(model)
    first, second = rag.retrieve(QUESTION)
    gap = first.rank_score - second.rank_score
    asked, submit = [], type(model).submit
    monkeypatch.setattr(
        type(model), "submit", lambda *a, **options: asked.append(1) or submit(*a, **options)
    )
    monkeypatch.setattr(likeliest, "NEAR", gap / 2)
    stream = rag.stream(QUESTION, max_new_tokens=8)
    assert stream.citations[0].id == first.id
    assert len(asked) == 1
    monkeypatch.setattr(likeliest, "NEAR", gap * 2)
    rag.answer(QUESTION, max_new_tokens=8)
    assert len(asked) == 1 + 2


def test_without_beams_an_answer_is_streamed_from_the_first_passage(model):
    skilled(model)
    rag = rag_over(model, beams=1)
    stream = rag.stream(QUESTION, max_new_tokens=8)
    assert len(list(stream)) > 1
    assert stream.citations[0].id == rag.retrieve(QUESTION)[0].id
    said = rag_over(model).answer(QUESTION, max_new_tokens=8, beams=1).answer
    assert said == stream.answer.answer
    assert len(list(rag.stream(QUESTION, max_new_tokens=8, beams=2))) == 1


def test_how_many_passages_are_read_can_be_left_to_it(model):
    skilled(model)
    auto, one = (rag_over(model, context=n).answer(QUESTION, max_new_tokens=8) for n in ("auto", 1))
    assert auto.answer == one.answer
    assert [c.text for c in auto.citations] == [c.text for c in one.citations]
    assert len(rag_over(model, context=2).answer(QUESTION, max_new_tokens=8).citations) == 2


def test_no_passage_cannot_be_tried(model):
    with pytest.raises(GemError, match="tried 0; expected all >= 1"):
        rag_over(model, tried=0)
    with pytest.raises(GemError, match="beams 0"):
        rag_over(model, beams=0)


def test_rag_asks_in_the_users_words(model):
    question = "How long is the warranty?"
    own = rag_over(model, prompt="\nIn one word: {question}")
    found = own.answer(question, max_new_tokens=8)
    passage = found.citations[0].text
    (reading,) = model.read([passage])
    asked = model.generate(f"\nIn one word: {question}", after=reading, max_new_tokens=8)
    assert found.answer == asked.text.strip()
    around = rag_over(model, prompt="Read this: {context}\nNow say: {question}")
    whole = model.generate(f"Read this: {passage}\nNow say: {question}", max_new_tokens=8)
    assert around.answer(question, max_new_tokens=8).answer == whole.text.strip()
    with pytest.raises(GemError, match=r"no \{question\}"):
        rag_over(model, prompt="Answer.")


def test_frameworks_use_a_skill(model):
    from langchain_gem_rag import ChatGem
    from llama_index_gem_rag import GemLLM

    skilled(model)
    expected = model.generate(PASSAGE + ASKED, max_new_tokens=8, skill="answer").text
    chat = ChatGem(model, skill="answer", max_tokens=8)
    assert chat.invoke(PASSAGE + ASKED).text == expected
    assert ChatGem(model, max_tokens=8).invoke(PASSAGE + ASKED).text != expected
    assert ChatGem(model, max_tokens=8).invoke(PASSAGE + ASKED, skill="answer").text == expected
    assert GemLLM(model, skill="answer", max_tokens=8).complete(PASSAGE + ASKED).text == expected
    for kind in (ChatGem, GemLLM):
        with pytest.raises(GemError, match="it has: answer"):
            kind(model, skill="nothing")


def test_passages_are_ranked_by_a_skill_from_text_and_from_readings(model):
    skilled(model, "rank", task="rank")
    passages = [PASSAGE, OTHER]
    by_text = model.rank("How long is the warranty?", passages, skill="rank")
    by_reading = model.rank("How long is the warranty?", model.read(passages), skill="rank")
    assert [r.index for r in by_text] == [r.index for r in by_reading]
    assert by_text[0].score == pytest.approx(by_reading[0].score, abs=1e-4)
    assert by_text[0].score >= by_text[1].score
    assert by_text[0].score != model.rank("How long is the warranty?", passages)[0].score
    with pytest.raises(GemError, match="no skill 'best'"):
        model.rank("How long?", passages, skill="best")
    assert model.rank("How long?", [], skill="rank") == []


WARRANTY = "The warranty of the Zephyr kettle is seven years from the day it was bought."


@pytest.mark.model
def test_the_bundled_skill_answers_in_a_few_words(default_model):
    rag = GemRAG(default_model)
    rag.add(
        [Document(WARRANTY, "kettle.md"), Document("The toaster is red or grey.", "toaster.md")]
    )
    assert rag.skill == "answer"
    few = rag.answer("How long is the warranty of the Zephyr kettle?")
    assert "seven years" in few.answer.lower()
    assert len(few.answer.split()) < len(WARRANTY.split())
    assert few.citations[0].quote == WARRANTY


@pytest.mark.model
def test_the_bundled_skill_answers_yes_or_no_and_in_chains(default_model):
    from langchain_gem_rag import ChatGem

    asked = f"{WARRANTY}\n\nIs the kettle's warranty longer than a year?"
    (reading,) = default_model.read([WARRANTY])
    prompt = default_model.parts.skill("answer").config.asked("Is the warranty seven years?")
    yes = default_model.generate(prompt, after=reading, skill="answer", max_new_tokens=8)
    assert yes.text.lower().startswith("yes")
    assert len(ChatGem(skill="answer").invoke(asked).text.split()) < 12
    plain = ChatGem().invoke("Name a river.").text
    assert plain == default_model.generate("Name a river.").text
