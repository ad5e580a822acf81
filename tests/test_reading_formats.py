"""Readings kept in fewer bits: close, the same each time, told apart, and mapped from the disk."""

import pickle
import sys
import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from tiny import TEXTS, same_numbers

from gem_rag.documents import Document
from gem_rag.errors import GemError
from gem_rag.index import GemIndex
from gem_rag.rag import GemRAG
from gem_rag.store import SUFFIX, ReadingStore

NARROW = ["bfloat16", "float16", "int8"]


def size(folder):
    return sum(file.stat().st_size for file in folder.glob(f"*{SUFFIX}"))


@pytest.mark.parametrize(
    ("kept_as", "most"), [("bfloat16", 2e-2), ("float16", 3e-3), ("int8", 4e-2)]
)
def test_a_round_trip_is_close_and_the_same_each_time(gem, tmp_path, kept_as, most, count_reads):
    exact = gem.read(TEXTS)
    store = ReadingStore(gem, tmp_path, format=kept_as)
    first = store.read(TEXTS)
    count_reads.clear()
    for again in (store.read(TEXTS), ReadingStore(gem, tmp_path, format=kept_as).read(TEXTS)):
        assert all(same_numbers(a, b) for a, b in zip(again, first, strict=True))
    assert count_reads == []
    for kept, own in zip(first, exact, strict=True):
        assert torch.equal(kept.ids, own.ids)
        for pair, right in zip(kept.key_values, own.key_values, strict=True):
            for part, whole in zip(pair, right, strict=True):
                assert part.shape == whole.shape
                assert part.dtype == whole.dtype
                assert (part - whole).abs().max() <= most * whole.abs().max()
    passages = [(gem.rank("Who wrote it?", r)[0].score) for r in ([k] for k in first)]
    right = [(gem.rank("Who wrote it?", r)[0].score) for r in ([k] for k in exact)]
    assert passages == pytest.approx(right, abs=0.05)


def test_int8_is_off_by_half_a_step_at_most_and_keeps_the_preamble_exact(gem):
    (exact,) = gem.read([TEXTS[3]])
    (kept,) = ReadingStore(gem, format="int8").read([TEXTS[3]])
    head = len(gem.config.preamble_ids)
    assert head
    for pair, right in zip(kept.key_values, exact.key_values, strict=True):
        for axis, part, whole in zip((1, 2), pair, right, strict=True):
            assert torch.equal(part[:, :head], whole[:, :head])
            step = whole[:, head:].abs().amax(axis, keepdim=True) / 127
            assert ((part - whole)[:, head:].abs() <= 0.501 * step).all()


def test_fewer_bits_take_less_disk_and_memory(gem, tmp_path):
    long = TEXTS[3] * 4
    bytes_of = {}
    for kept_as in ("float32", *NARROW):
        store = ReadingStore(gem, tmp_path / kept_as, format=kept_as)
        store.read([long])
        bytes_of[kept_as] = store.info().memory_bytes
        assert size(tmp_path / kept_as) == store.info().disk_bytes
        assert store.info().disk_bytes - store.info().memory_bytes < 600  # names and shapes
    assert bytes_of["bfloat16"] == bytes_of["float16"] == bytes_of["float32"] // 2
    assert bytes_of["int8"] < 0.36 * bytes_of["float32"]  # heads of 8 channels: scales count


def test_what_one_format_wrote_another_does_not_take_for_its_own(gem, tmp_path, count_reads):
    for kept_as in NARROW:
        ReadingStore(gem, tmp_path, format=kept_as).read(TEXTS[:1])
    assert len(count_reads) == len(list(tmp_path.iterdir())) == len(NARROW)


@pytest.mark.parametrize("kept_as", ["float32", *NARROW])
def test_a_store_of_before_opens_and_its_readings_are_taken_over(
    gem,
    tmp_path,
    kept_as,
    count_reads,
):
    ReadingStore(gem, tmp_path, format="float32").read([TEXTS[3]])
    (file,) = tmp_path.iterdir()
    (exact,) = gem.read([TEXTS[3]])
    packed = torch.stack([torch.stack(pair) for pair in exact.key_values])
    data = save({"key_values": packed}, metadata={"reading": exact.fingerprint})
    file.write_bytes(data + zlib.crc32(data).to_bytes(4, "little"))
    before = size(tmp_path)
    count_reads.clear()
    store = ReadingStore(gem, tmp_path, format=kept_as)
    (kept,) = store.read([TEXTS[3]])
    assert count_reads == []
    assert same_numbers(kept, ReadingStore(gem, format=kept_as).read([TEXTS[3]])[0])
    assert len(list(tmp_path.iterdir())) == 1
    assert size(tmp_path) == store.info().disk_bytes
    assert size(tmp_path) < 0.7 * before or kept_as == "float32"


def test_vectors_do_not_depend_on_the_format_nor_on_what_is_kept(gem):
    right = gem.embed_documents(TEXTS)
    for kept_as in ("float32", *NARROW):
        store = ReadingStore(gem, format=kept_as)
        for _ in range(2):
            assert abs(store.embed(TEXTS) - right).max() < 1e-5


@pytest.mark.parametrize("kept_as", ["float32", *NARROW])
@pytest.mark.parametrize("at", [0.02, 0.3, 0.98])
def test_damage_is_found_in_every_format(gem, tmp_path, kept_as, at, count_reads):
    (good,) = ReadingStore(gem, tmp_path, format=kept_as).read([TEXTS[0]])
    (file,) = tmp_path.iterdir()
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 1
    file.write_bytes(data)
    count_reads.clear()
    (found,) = ReadingStore(gem, tmp_path, format=kept_as).read([TEXTS[0]])
    assert count_reads == [TEXTS[0]]
    assert same_numbers(found, good)


@pytest.mark.parametrize("kept_as", ["float32", *NARROW])
def test_files_are_plain_numbers_and_a_pickled_store_has_no_readings(gem, tmp_path, kept_as):
    store = ReadingStore(gem, tmp_path, format=kept_as)
    (reading,) = store.read([TEXTS[3]])
    (file,) = tmp_path.iterdir()
    tensors = load(file.read_bytes()[:-4])  # safetensors, and a checksum
    assert sum(tensor.nbytes for tensor in tensors.values()) == reading.nbytes
    make, arguments = store.__reduce__()
    assert len(pickle.dumps((make, arguments[1:]))) < 500
    assert make(*arguments).dtype == store.dtype


def test_only_readings_of_ranked_passages_are_read_from_the_disk(gem, tmp_path, monkeypatch):
    docs = [Document(f"{TEXTS[0]} It is kettle number {i}.", f"{i:02d}") for i in range(24)]
    with GemIndex(tmp_path, fingerprint=gem.fingerprint, dim=gem.dim) as index:
        GemRAG(gem, index).add(docs)
        assert len(list(tmp_path.rglob(f"*{SUFFIX}"))) == len(docs)
        mapped, ranked = [], []
        map_file, rank = torch.from_file, gem.rank
        monkeypatch.setattr(
            torch, "from_file", lambda path, **o: mapped.append(path) or map_file(path, **o)
        )
        monkeypatch.setattr(
            gem, "rank", lambda q, passages, **o: ranked.extend(passages) or rank(q, passages, **o)
        )
        rag = GemRAG(gem, index, candidates=8)
        assert mapped == []
        rag.answer("How long is the warranty of kettle number 7?", max_new_tokens=2)
        assert 0 < len(ranked) <= 8
        assert len(mapped) == len(set(mapped)) == len(ranked)


@pytest.mark.skipif(sys.platform != "linux", reason="what is mapped is read from /proc")
@pytest.mark.parametrize("kept_as", ["float32", "int8"])
def test_a_kept_reading_is_the_file(gem, tmp_path, kept_as):
    ReadingStore(gem, tmp_path, format=kept_as).read([TEXTS[3]])
    (file,) = tmp_path.iterdir()
    (held,) = ReadingStore(gem, tmp_path, format=kept_as).read([TEXTS[3]])
    assert str(file) in Path("/proc/self/maps").read_text()
    before = [(k.clone(), v.clone()) for k, v in held.key_values]
    file.unlink()  # by another process: who holds it keeps it
    assert all(
        torch.equal(k, a) and torch.equal(v, b)
        for (k, v), (a, b) in zip(held.key_values, before, strict=True)
    )


def test_nothing_is_kept_in_more_bits_than_it_was_computed_in(gem, tiny_checkpoint):
    from gem_rag import GemModel

    half = GemModel.from_pretrained(tiny_checkpoint, dtype="bfloat16")
    assert ReadingStore(half, format="float32").dtype == torch.bfloat16
    assert ReadingStore(gem, format="float32").dtype == torch.float32
    (kept,) = ReadingStore(half, format="int8").read([TEXTS[3]])
    assert {part.dtype for pair in kept.key_values for part in pair} == {torch.bfloat16}


def test_an_index_remembers_the_format_of_its_readings(gem, tmp_path, count_reads):
    def opened(**options):
        return GemRAG(gem, index, **options).store

    with GemIndex(tmp_path, fingerprint=gem.fingerprint, dim=gem.dim) as index:
        opened(readings_format="int8").read(TEXTS)
        count_reads.clear()
        assert opened().dtype == torch.int8
        opened().read(TEXTS)
        assert count_reads == []
        with pytest.raises(GemError, match="'int7'; expected one of auto, float32"):
            opened(readings_format="int7")
        assert opened().dtype == torch.int8
        assert opened(readings_format="auto").dtype == torch.bfloat16
        assert ReadingStore(gem).dtype == torch.float32  # in memory alone
        with pytest.raises(GemError, match="give either"):
            GemRAG(gem, index, store=ReadingStore(gem), readings_format="int8")
