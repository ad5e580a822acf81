"""The embedded default: converted once, sound, offline afterwards; and it does its three jobs."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from tiny import make_base

from gem_rag import GemModel
from gem_rag.checkpoints import embedded
from gem_rag.checkpoints.embedded import MANIFEST, embedded_base, is_whole
from gem_rag.checkpoints.names import EMBEDDED_BASE
from gem_rag.model import create


@pytest.fixture
def converter(monkeypatch, tmp_path):
    """A conversion that writes two small files, and counts."""
    calls = []

    def convert(folder):
        calls.append(folder)
        with embedded.atomic_dir(folder) as fresh:
            (fresh / "config.json").write_text("{}")
            (fresh / "model.safetensors").write_bytes(b"weights")
            files = {
                f.name: {"size": f.stat().st_size, "sha256": embedded.sha256_of(f)}
                for f in fresh.iterdir()
            }
            manifest = {"conversion": embedded.CONVERSION, "files": files}
            (fresh / MANIFEST).write_text(json.dumps(manifest))

    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path))
    monkeypatch.setattr(embedded, "_convert", convert)
    return calls


def test_converted_once_and_then_only_looked_at(converter):
    folder = embedded_base()
    assert embedded_base() == folder
    assert len(converter) == 1


def test_two_at_once_convert_once(converter, monkeypatch):
    import threading
    import time

    convert = embedded._convert

    def slowly(folder):
        time.sleep(0.3)
        convert(folder)

    monkeypatch.setattr(embedded, "_convert", slowly)
    threads = [threading.Thread(target=embedded_base) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert len(converter) == 1


@pytest.mark.parametrize("damage", ["cut", "gone", "manifest", "older"])
def test_a_damaged_conversion_is_made_again(converter, damage):
    folder = embedded_base()
    if damage == "cut":
        (folder / "model.safetensors").write_bytes(b"wei")
    elif damage == "gone":
        (folder / "config.json").unlink()
    elif damage == "manifest":
        (folder / MANIFEST).write_text("{")
    else:
        manifest = json.loads((folder / MANIFEST).read_text())
        (folder / MANIFEST).write_text(json.dumps({**manifest, "conversion": 0}))
    embedded_base()
    assert len(converter) == 2
    assert is_whole(folder)


def test_a_flipped_byte_is_found_on_request(converter):
    folder = embedded_base()
    (folder / "model.safetensors").write_bytes(b"weightz")
    assert is_whole(folder)
    assert not is_whole(folder, verify=True)


def test_a_base_with_a_flipped_byte_is_converted_again_when_it_is_loaded(
    monkeypatch, tmp_path, tmp_path_factory
):
    base = make_base(tmp_path_factory.mktemp("sound") / "base")

    def convert(folder):
        with embedded.atomic_dir(folder) as fresh:
            shutil.copytree(base, fresh, dirs_exist_ok=True)
            files = {
                f.name: {"size": f.stat().st_size, "sha256": embedded.sha256_of(f)}
                for f in fresh.iterdir()
            }
            manifest = {"conversion": embedded.CONVERSION, "files": files}
            (fresh / MANIFEST).write_text(json.dumps(manifest))

    monkeypatch.setenv("GEM_RAG_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(embedded, "_convert", convert)
    made = create(EMBEDDED_BASE)
    made.save_pretrained(tmp_path / "checkpoint")
    weights = embedded_base() / "model.safetensors"
    damaged = bytearray(weights.read_bytes())
    damaged[-1] ^= 1
    weights.write_bytes(damaged)
    assert GemModel.from_pretrained(tmp_path / "checkpoint").fingerprint == made.fingerprint
    assert is_whole(embedded_base(), verify=True)


@pytest.mark.model
def test_the_real_conversion_is_sound_and_needs_no_network(default_model):
    folder = embedded_base()
    assert is_whole(folder, verify=True)
    code = (
        "import socket\n"
        "def refuse(*a, **k): raise OSError('no network')\n"
        "socket.socket.connect = refuse\n"
        "from gem_rag import GemModel\n"
        "print(GemModel.from_pretrained().generate('What is the capital of France?').text)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert "Paris" in result.stdout


@pytest.mark.model
def test_the_tokenizer_round_trips_text(default_model):
    codec = default_model.codec
    for text in ["a\nb\n\n c", "  two spaces", "naïve café 🙂", "<|im_end|>", "日本語\ttab"]:
        (tokens,) = codec.encode_texts([text], None)
        assert codec._words.decode(tokens.ids, skip_special_tokens=False) == text
    assert codec.tokenizer.eos_token == "<|im_end|>"
    assert default_model.config.preamble.endswith("<|im_start|>user\n")


@pytest.mark.model
@pytest.mark.parametrize("forward", ["transformers", "auto"])
def test_generation_is_the_bases(forward):
    from transformers import AutoModelForCausalLM

    model = GemModel.from_pretrained(dtype="float32", forward=forward)
    base = AutoModelForCausalLM.from_pretrained(embedded_base(), dtype=torch.float32)
    ids = torch.tensor([model.codec.prompt_ids("What is the capital of France?")])
    model.embed_documents(["something else"])
    seen = []
    hook = lambda _, logits: seen.append(logits.clone()) or logits  # noqa: E731
    found = model.generate("What is the capital of France?", max_new_tokens=20, logits_hook=hook)
    with torch.inference_mode():
        logits = base(ids, logits_to_keep=1).logits[0, -1]
        if forward == "transformers":  # bit for bit; ours to rounding
            assert torch.equal(model.base.model(ids).logits, base(ids).logits)
            assert torch.equal(seen[0], logits)
        torch.testing.assert_close(seen[0], logits, rtol=0, atol=1e-4)
        expected = base.generate(ids, max_new_tokens=20, do_sample=False)[0, ids.shape[1] :]
    assert list(found.ids) == expected.tolist()
    assert found.text == "The capital of France is Paris."


@pytest.mark.model
def test_it_embeds_ranks_and_answers(default_model):
    passages = [
        "The warranty of the Zephyr kettle is seven years.",
        "The Zephyr toaster comes in red and in grey.",
        "Rivers run to the sea.",
    ]
    question = "How long is the warranty of the Zephyr kettle?"
    vectors = default_model.embed_documents(passages)
    assert np.argmax(vectors @ default_model.embed_query(question)) == 0
    readings = default_model.read(passages)
    ranked = default_model.rank(question, readings)
    assert ranked[0].index == 0
    assert ranked[0].score > 1 > ranked[-1].score
    answer = default_model.generate(f"\n\nQuestion: {question}", after=readings[0])
    assert "seven" in answer.text.lower()


@pytest.mark.model
def test_an_embedding_is_the_same_alone_and_in_a_batch(default_model):
    texts = ["short", "A kettle boils water. " * 30, "naïve café 🙂", "Rivers run to the sea. " * 5]
    alone = np.stack([default_model.embed_documents([t])[0] for t in texts])
    np.testing.assert_allclose(default_model.embed_documents(texts), alone, rtol=0, atol=1e-4)


@pytest.mark.model
def test_everyone_shares_one_copy_of_the_weights(default_model):
    from gem_rag import GemEmbeddings, GemModel
    from gem_rag.cli.console import load_model as _load

    users = [GemModel.from_pretrained(), GemEmbeddings().gem, _load(None)]
    weight = default_model.base.model.get_input_embeddings().weight
    assert all(
        u.base.model.get_input_embeddings().weight.data_ptr() == weight.data_ptr() for u in users
    )
    head = default_model.base.model.get_output_embeddings().weight
    assert head.data_ptr() == weight.data_ptr()
