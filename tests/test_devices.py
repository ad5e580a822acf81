"""What an accelerator would refuse: found on a CPU, by a device that is pretended."""

from pathlib import Path

import pytest
import torch
from pretend_device import PretendDevice, WrongDevice, is_there
from pretend_graph import Pretended

from gem_rag.checkpoints.base import chosen_device
from gem_rag.compute import replay
from gem_rag.compute.lent import borrow, lend
from gem_rag.engine.beams import Beams
from gem_rag.engine.slots import Slots
from gem_rag.errors import OptionError
from gem_rag.model import load
from gem_rag.model.lending import borrowed as as_model
from gem_rag.text.codec import Tokenized

IDS = [[5, 6, 7, 8], [9, 10]]
TOKENIZED = [Tokenized(own, [(i, i + 1) for i in range(len(own))], 0) for own in IDS]


def test_the_device_is_chosen_by_name_or_by_the_environment(monkeypatch):
    monkeypatch.setenv("GEM_RAG_DEVICE", "meta")
    assert chosen_device("auto").type == "meta"
    assert chosen_device("cpu").type == "cpu"
    monkeypatch.setenv("GEM_RAG_DEVICE", "gpu")
    with pytest.raises(OptionError, match="'gpu'; expected auto, cpu, cuda"):
        chosen_device("auto")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OptionError, match=r"'cuda:1', and torch .* finds none here"):
        chosen_device("cuda:1")


@pytest.fixture(params=["auto", "transformers"])
def there(tiny_checkpoint, request):
    """A model whose weights are on the device, and the device."""
    model = load(Path(tiny_checkpoint), device="cpu", dtype="float32", forward="transformers")
    # Everything a model holds, found as it is found to be lent.
    tensors = []
    if request.param == "auto":
        model.parts.choose_forward("auto", keep_weights=False)
        tensors += tensors_of(model.parts.decoder)
    model.parts.base.model.apply(lambda module: tensors.extend(own(module)))
    tensors += [*model.parts.parameters(), model.parts.whitening]
    with torch.inference_mode(), PretendDevice(tensors) as device:
        yield model, device


def own(module):
    return [*module.parameters(recurse=False), *module.buffers(recurse=False)]


def tensors_of(thing, seen=None):
    """All tensors that an object of ours holds, however deep."""
    seen = set() if seen is None else seen
    if id(thing) in seen:
        return []
    seen.add(id(thing))
    if isinstance(thing, torch.Tensor):
        return [thing]
    if isinstance(thing, dict):
        inner = thing.values()
    elif isinstance(thing, list | tuple):
        inner = thing
    elif type(thing).__module__.startswith("gem_rag.compute"):
        inner = vars(thing).values()
    else:
        return []
    return [tensor for one in inner for tensor in tensors_of(one, seen)]


@pytest.mark.parametrize("ids", [IDS, [[5, 6], [7, 8]]], ids=["two passes", "one pass"])
@pytest.mark.parametrize("task", ["query", "document"])
def test_texts_are_embedded_on_the_device(there, ids, task):
    model, device = there
    vectors = model.embedder.forward_texts(ids, task)
    assert is_there(vectors)
    assert device.waits == 0


def test_what_was_read_is_embedded_ranked_and_joined_on_the_device(there):
    model, _ = there
    readings = model.reader.readings(["abcd", "ab"], TOKENIZED)
    assert all(is_there(k) and is_there(v) for r in readings for k, v in r.key_values)
    assert is_there(model.embedder.forward_readings(readings, "document"))
    assert is_there(model.embedder.forward_spans(readings[0], [(0, 2), (1, 3)]))
    asked = model.ranker.asked("Who wrote it?")
    assert len(model.ranker.likelihoods(readings, asked)) == 2
    assert len(model.ranker.likelihoods(TOKENIZED, asked)) == 2
    joined = model.reader.join(readings)
    assert all(is_there(k) for k, _ in joined.key_values)


def test_rows_of_different_lengths_generate_on_the_device(there):
    model, _ = there
    reading = model.reader.readings(["abcd"], TOKENIZED[:1])[0]
    slots = Slots(model.parts)
    rows = [
        slots.open(None, 0, 10),
        slots.open(reading.key_values, len(reading), 10),
        slots.open(None, 0, 10),
    ]
    slots.run(rows, [[3, 4, 5], [6], [7, 8]])
    for _ in range(3):
        slots.run(rows, [[7], [8], [9]])
    slots.close(rows[0])
    slots.run(rows[1:], [[1], [2]])


def test_a_search_goes_on_on_the_device(there):
    model, device = there
    slots, beams = Slots(model.parts), Beams(2, model.parts.end_ids, 8)
    rows = [slots.open(None, 0, 10)]
    logits = slots.run(rows, [[3, 4, 5]])
    device.waits = 0
    parents = beams.advance(logits.at([logits.places[0][-1]]))
    rows = [rows[0], slots.fork(rows[0])]
    assert parents == [0, 0]
    logits = slots.run(rows, [[one.ids[-1]] for one in beams.kept])
    beams.advance(logits.at([at[-1] for at in logits.places]))
    if model.parts.decoder is not None:
        assert device.waits == 2 * 2, "likelihoods and places, once a step"


def test_steps_are_recorded_and_replayed_on_the_device(there, monkeypatch):
    model, device = there
    pretended = Pretended()
    monkeypatch.setattr(replay, "recorded", pretended)
    model.parts.replays = True
    slots = Slots(model.parts)
    rows = [slots.open(None, 0, 20), slots.open(None, 0, 20)]
    slots.run(rows, [[3, 4, 5], [6]])
    for _ in range(replay.AFTER):
        slots.run(rows, [[7], [8]])
    device.waits = 0
    for _ in range(5):
        assert is_there(slots.run(rows, [[7], [8]]).all)
    ours = model.parts.decoder is not None
    assert pretended.replayed == (1 + 5 if ours else 0)
    assert device.waits == 0 or not ours


def test_the_pretended_device_refuses_what_a_real_one_would():
    weight = torch.ones(2, 3)
    with PretendDevice([weight]):
        with pytest.raises(WrongDevice, match="host"):
            weight + torch.ones(3)
        with pytest.raises(WrongDevice, match="host"):
            weight[torch.tensor([0, 1])]
        with pytest.raises(WrongDevice, match="numpy"):
            (weight * 2).numpy()
        moved = torch.ones(3).to(weight.device)
        assert is_there(weight + moved)
        assert is_there(weight * torch.tensor(2.0))
        assert (weight + moved).cpu().numpy().shape == (2, 3)


def test_borrowed_parts_are_views_of_one_memory_and_compute_the_same(tiny_checkpoint):
    model = load(Path(tiny_checkpoint), device="cpu", dtype="float32", forward="transformers")
    lent = lend(model.parts)
    lent.memory.flags.writeable = False
    borrowed = borrow(lent)
    first, last = lent.memory.ctypes.data, lent.memory.ctypes.data + lent.memory.nbytes
    weights = [*borrowed.base.model.parameters(), *borrowed.parameters()]
    assert all(first <= w.data_ptr() < last for w in weights)

    there = as_model(lent)
    fused = tensors_of(there.parts.decoder)
    big = [t for t in fused if t.numel() >= 32 * 32]
    assert big
    assert all(first <= t.data_ptr() < last for t in big), "no weight is copied"
    texts = ["The kettle has a warranty of seven years.", "Rivers run to the sea."]
    assert there.fingerprint == model.fingerprint
    assert abs(there.embed_documents(texts) - model.embed_documents(texts)).max() < 1e-5
    assert abs(there.embed_queries(texts) - model.embed_queries(texts)).max() < 1e-5


@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_rounded_weights_are_lent_too(tiny_checkpoint, dtype, tmp_path, monkeypatch):
    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path / "cache"))
    model = load(Path(tiny_checkpoint), device="cpu", dtype=dtype, forward="transformers")
    lent = lend(model.parts)
    lent.memory.flags.writeable = False
    there = as_model(lent)
    assert there.parts.decoder is not None
    assert there.base.number_format == dtype
    texts = ["The kettle has a warranty of seven years.", "Rivers run to the sea."]
    assert there.fingerprint == model.fingerprint
    assert (there.embed_documents(texts) * model.embed_documents(texts)).sum(1).min() > 0.99
    assert there.generate("Who wrote it?", max_new_tokens=3).ids
