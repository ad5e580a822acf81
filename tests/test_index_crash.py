"""An ingest really killed at many random moments leaves exactly what it had committed.

`GEM_RAG_KILLS=300 pytest tests/test_index_crash.py` kills more often.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import numpy as np
import pytest

from gem_rag.index import GemIndex, ann

CHUNKS, BATCH, DIM = 10_000, 100, 32
KILLS = int(os.environ.get("GEM_RAG_KILLS", "12"))

# Goes on where the last one was killed; every batch also replaces and deletes some chunks of the
# one before, so that a commit is more than an append.
INGEST = """
import sys
import numpy as np
from gem_rag.index import ann
from gem_rag.index import GemIndex

ann.FLAT_LIMIT = 1000
chunks, batch, dim = map(int, sys.argv[2:])
vectors = np.random.default_rng(0).normal(size=(chunks, dim))
print("start", flush=True)
with GemIndex(sys.argv[1], fingerprint="model") as index:
    for first in range(index.get_meta("done", 0), chunks, batch):
        rows = range(first, first + batch)
        with index.transaction():
            index.add([f"text {n}" for n in rows], vectors[first : first + batch],
                      [{"batch": first // batch, "n": n} for n in rows], [str(n) for n in rows])
            if first:
                index.upsert(["replaced"], vectors[first - 1 : first], ids=[str(first - 1)])
                index.delete([str(first - 2)])
            index.set_meta("done", first + batch)
        print(first + batch, flush=True)
        if first // batch % 10 == 9:
            index.checkpoint()
"""


def kill_after(folder, seconds):
    """Run the ingest, kill it some time after it starts to write; the last batch it reported."""
    command = [sys.executable, "-c", INGEST, str(folder), str(CHUNKS), str(BATCH), str(DIM)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "start\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    reported = process.stdout.read().split()
    process.stdout.close()
    killed = process.wait() == -signal.SIGKILL
    # The kill may have cut the last line short; the one before is whole.
    return (int(reported[-2]) if len(reported) > 1 else 0), killed


def check(folder, reported):
    """The index holds exactly whole batches, all of those reported and at most some more."""
    vectors = np.random.default_rng(0).normal(size=(CHUNKS, DIM))
    with GemIndex(folder, fingerprint="model") as index:
        done = index.get_meta("done", 0)
        assert done >= reported
        expected = {str(n): f"text {n}" for n in range(done)}
        for first in range(BATCH, done, BATCH):
            expected[str(first - 1)] = "replaced"
            del expected[str(first - 2)]
        records = list(index.iterate(vectors=True))
        assert {record.id: record.text for record in records} == expected
        assert len(records) == len(expected) == index.count()
        for record in records:
            unit = vectors[int(record.id)] / np.linalg.norm(vectors[int(record.id)])
            assert np.allclose(record.vector, unit, atol=1e-6)
        if done:
            sample = [name for name in expected if int(name) % 97 == 0]
            found = index.search_batch(vectors[[int(name) for name in sample]], k=1)
            assert [hits[0].id for hits in found] == sample
            assert len(index.search(vectors[0], k=CHUNKS)) == len(expected)
    connection = sqlite3.connect(folder / "index.sqlite")
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return done


@pytest.mark.timeout(3600)
def test_kill_9_leaves_exactly_the_committed_batches(tmp_path, monkeypatch):
    monkeypatch.setattr(ann, "FLAT_LIMIT", 1000)
    rng = random.Random(os.environ.get("GEM_RAG_SEED"))
    kills = rounds = 0
    while kills < KILLS:
        folder = tmp_path / f"ingest {rounds}"
        rounds += 1
        done = 0
        while done < CHUNKS and kills < KILLS:
            # From the first instant, when the file is being created, to several batches in.
            reported, killed = kill_after(folder, rng.choice([0.05, 0.5, 1.5]) * rng.random())
            done = check(folder, reported)
            kills += killed
    print(f"{kills} kills over {rounds} ingests")
