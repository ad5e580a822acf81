"""Fixtures: a tiny random base, a tiny GEM model, and the real default one."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
# What tests compare to many places was computed in float32; those of other dtypes name theirs.
os.environ.setdefault("GEM_RAG_DTYPE", "float32")
# Threads that wait for each other sleep. By default they spin, and where another process wants the
# same cores, a forward pass takes ten times as long. Read when torch is imported, here and in the
# processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import places
import pytest
import torch
from tiny import disturb, make_base

from gem_rag.config import AdapterConfig
from gem_rag.model import GemModel, create


@pytest.fixture(scope="session", autouse=True)
def _threads():
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))


@pytest.fixture(scope="session")
def base_folder(tmp_path_factory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def gem(base_folder) -> GemModel:
    """A tiny Llama with K=3, an adapter that does something and a query instruction."""
    model = create(
        base_folder,
        dtype=os.environ.get("GEM_RAG_TEST_DTYPE", "auto"),
        num_special_tokens=3,
        adapter=AdapterConfig(rank=4, alpha=8),
        query_instruction=" Who wrote this?",
    )
    return disturb(model)


@pytest.fixture
def count_reads(gem, monkeypatch):
    """The texts that the tiny model reads from now on."""
    taken = gem.reader.taken
    calls = []
    monkeypatch.setattr(
        gem.reader, "taken", lambda texts, *rest: calls.extend(texts) or taken(texts, *rest)
    )
    return calls


@pytest.fixture(scope="session")
def default_model() -> GemModel:
    """Loaded once, and kept: whoever loads the default by name in this session gets this object."""
    return GemModel.from_pretrained()


@pytest.fixture(scope="session")
def tiny_checkpoint(gem, tmp_path_factory) -> str:
    """The tiny GEM model's folder, for what loads a model by name."""
    return str(gem.save_pretrained(tmp_path_factory.mktemp("served") / "tiny"))


@pytest.fixture(scope="session")
def wheels(tmp_path_factory) -> dict[str, places.Wheel]:
    """The distributions of `integrations/`, built."""
    return places.build(tmp_path_factory.mktemp("wheels"))


@pytest.fixture(scope="session")
def placed(wheels, tmp_path_factory) -> Path:
    """The folder in which they are installed; this process imports from it."""
    folder = tmp_path_factory.mktemp("placed")
    places.install(wheels, folder)
    return folder
