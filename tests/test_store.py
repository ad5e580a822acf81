"""Kept readings: exact, bounded, and gone when damaged."""

import pytest
import torch
from tiny import TEXTS, disturb, same_numbers

from gem_rag.config import AdapterConfig
from gem_rag.errors import ReadingError
from gem_rag.model import create
from gem_rag.rag import GemRAG
from gem_rag.store import SUFFIX, ReadingStore


def test_what_was_read_is_not_read_again(gem, tmp_path, count_reads):
    store = ReadingStore(gem, tmp_path)
    first = store.read(TEXTS)
    assert len(count_reads) == len(TEXTS)
    again = store.read(TEXTS[::-1])
    assert len(count_reads) == len(TEXTS)
    assert all(a is b for a, b in zip(again[::-1], first, strict=True))
    reopened = ReadingStore(gem, tmp_path).read(TEXTS)
    assert len(count_reads) == len(TEXTS)
    assert all(same_numbers(a, b) for a, b in zip(reopened, first, strict=True))
    assert [r.text for r in reopened] == TEXTS


def test_memory_and_disk_stay_within_bounds_and_the_oldest_go(gem, tmp_path):
    one = ReadingStore(gem, tmp_path / "one").read([TEXTS[0]])[0].nbytes
    store = ReadingStore(gem, tmp_path, memory_bytes=3 * one, disk_bytes=4 * one)
    texts = [f"Rivers run to the sea {i}." for i in range(12)]
    for text in texts:
        store.read([text])
        info = store.info()
        assert info.memory_bytes <= 3 * one
        assert info.disk_bytes <= 4 * one
        assert info.disk_bytes == sum(f.stat().st_size for f in tmp_path.glob(f"*{SUFFIX}"))
    assert 0 < store.info().in_memory < 12


def test_recently_used_ones_are_kept(gem, count_reads):
    one = gem.read([TEXTS[1]])[0].nbytes
    store = ReadingStore(gem, memory_bytes=int(3.5 * one))
    store.read(["Rivers run a", "Rivers run b"])
    store.read(["Rivers run a"])
    store.read(["Rivers run c", "Rivers run d"])
    count_reads.clear()
    store.read(["Rivers run a"])
    assert len(count_reads) <= 1


def test_bulk_work_fills_but_does_not_churn(gem, tmp_path):
    one = ReadingStore(gem, tmp_path / "one").read([TEXTS[0]])[0].nbytes
    store = ReadingStore(gem, tmp_path, memory_bytes=2 * one, disk_bytes=3 * one)
    store.read(TEXTS[:1], evict=False)
    kept = set(tmp_path.iterdir())
    store.read([f"{TEXTS[0]} {i}" for i in range(6)], evict=False)
    assert kept <= set(tmp_path.iterdir())
    assert not store.has_room
    assert store.info().disk_bytes <= 3 * one
    store.clear()
    assert store.has_room


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "foreign"])
def test_a_damaged_or_foreign_entry_is_dropped_and_read_again(gem, tmp_path, damage, count_reads):
    good = ReadingStore(gem, tmp_path).read([TEXTS[0]])[0]
    (file,) = tmp_path.glob(f"*{SUFFIX}")
    data = bytearray(file.read_bytes())
    if damage == "flip":
        data[len(data) // 2] ^= 1
    file.write_bytes({"cut": data[:100], "empty": b"", "foreign": b"x" * 500}.get(damage, data))
    count_reads.clear()
    found = ReadingStore(gem, tmp_path).read([TEXTS[0]])[0]
    assert count_reads == [TEXTS[0]]
    assert same_numbers(found, good)


def test_half_precision_halves_the_disk_at_a_small_error(gem, tmp_path):
    whole = ReadingStore(gem, tmp_path / "whole", format="float32")
    half = ReadingStore(gem, tmp_path / "half", dtype=torch.float16)
    whole.read([TEXTS[3]])
    half.read([TEXTS[3]])
    assert half.info().disk_bytes < 0.7 * whole.info().disk_bytes
    reading = ReadingStore(gem, tmp_path / "half", dtype=torch.float16).read([TEXTS[3]])[0]
    assert abs(reading.embed() - whole.read([TEXTS[3]])[0].embed()).max() < 5e-3


def test_clear(gem, tmp_path):
    store = ReadingStore(gem, tmp_path)
    store.read(TEXTS)
    store.clear()
    assert store.info().on_disk == store.info().in_memory == 0
    assert not list(tmp_path.iterdir())


def test_a_store_of_another_checkpoint_is_not_used_to_embed(gem, base_folder):
    other = ReadingStore(disturb(create(base_folder, adapter=AdapterConfig(rank=4))))
    assert (
        other.model.parts.reading_fingerprint == gem.parts.reading_fingerprint
    )  # what it read would fit
    with pytest.raises(ReadingError, match="give a ReadingStore of this model"):
        GemRAG(gem, store=other)
