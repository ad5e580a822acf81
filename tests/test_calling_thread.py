"""Whoever asks computes nothing: two threads that compute in parallel slow each other by half."""

from __future__ import annotations

import pytest
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from gem_rag.index import GemIndex
from gem_rag.model import GemModel
from gem_rag.rag import GemRAG
from gem_rag.store import ReadingStore

TEXTS = ["The kettle has a warranty of seven years.", "Rivers run to the sea.", "A letter."]
QUESTION = "How long is the warranty?"


class Computed(TorchDispatchMode):
    """What this thread computes with floats; views and empty memory are not."""

    def __init__(self) -> None:
        super().__init__()
        self.operators: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [t for t in tree_leaves((args, kwargs, out)) if isinstance(t, Tensor)]
        returns = [r.alias_info for r in function._schema.returns]
        is_view = any(alias is not None and not alias.is_write for alias in returns)
        computes = not is_view and "empty" not in str(function)
        if computes and any(t.is_floating_point() for t in tensors):
            self.operators.append(str(function))
        return out


@pytest.fixture
def anew(gem):
    """The tiny model, with nothing computed yet, not even its preamble."""
    return GemModel(gem.parts)


def indexed(model, folder):
    folder.mkdir(exist_ok=True)
    (folder / "a.md").write_text("# Kettle\n\n" + " ".join(TEXTS))
    index = GemIndex(folder / "index")
    return GemRAG(model, index), folder / "a.md"


WORK = {
    "read": lambda model, _: model.read(TEXTS),
    "embed": lambda model, _: model.embed_documents(TEXTS),
    "rank": lambda model, _: model.rank(QUESTION, TEXTS),
    "rank readings": lambda model, _: model.rank(QUESTION, model.read(TEXTS)),
    "answer": lambda model, _: model.generate(QUESTION, max_new_tokens=3),
    "answer after": lambda model, _: model.generate(
        QUESTION, after=model.read(TEXTS)[0], max_new_tokens=3, temperature=0.7, seed=1
    ),
    "keep": lambda model, folder: ReadingStore(model, folder).read(TEXTS),
    "keep in int8": lambda model, folder: ReadingStore(model, folder, format="int8").read(TEXTS),
    "embed and keep": lambda model, folder: ReadingStore(model, folder).embed(TEXTS),
}


@pytest.mark.parametrize("name", WORK)
def test_who_asks_computes_nothing(anew, tmp_path, name):
    with Computed() as here:
        WORK[name](anew, tmp_path)
    assert here.operators == []


@pytest.mark.parametrize("kept_as", ["float32", "bfloat16", "int8"])
def test_nor_who_opens_what_was_kept_in_another_format(gem, anew, tmp_path, kept_as):
    ReadingStore(gem, tmp_path, format="float32").read(TEXTS)
    with Computed() as here:
        ReadingStore(anew, tmp_path, format=kept_as).read(TEXTS)
    assert here.operators == []


def test_nor_who_indexes_and_asks(anew, tmp_path):
    with Computed() as here:
        rag, file = indexed(anew, tmp_path)
        rag.add([file], show_progress=False)
        rag.answer(QUESTION, max_new_tokens=3)
    assert here.operators == []
    rag.index.close()


def test_the_special_tokens_go_on_from_what_was_just_read(anew, tmp_path, monkeypatch):
    """Texts are indexed in two passes a batch: the texts, then their special tokens."""
    expected = anew.embed_documents(TEXTS)
    passes = []
    run = type(anew.parts).run
    monkeypatch.setattr(
        type(anew.parts), "run", lambda *args: passes.append(args[1].shape) or run(*args)
    )
    found = ReadingStore(anew, tmp_path).embed(TEXTS)
    assert len(passes) == 2
    assert abs(found - expected).max() < 1e-5
