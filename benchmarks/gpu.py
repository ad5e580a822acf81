"""One call on a CUDA machine without network: does it compute the same as the CPU, and how fast?

`python benchmarks/gpu.py --json gpu.json` takes under 8 minutes: a phase that would begin after
`--minutes` is left out and said to be. `--model NAME` measures a checkpoint or a base that is
there; without one, a Llama of a billion random weights is made, whose speed is a real one's.
`--rehearse` runs every phase on the CPU with a tiny model: what is left to fail is the card.

Needs torch, transformers, tokenizers and safetensors alone (and pytest for the core tests).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("GEM_RAG_CACHE", tempfile.mkdtemp())

import numpy as np  # noqa: E402
import torch  # noqa: E402
from tiny import WORDS, disturb, make_base, save_tokenizer  # noqa: E402

from gem_rag.config import AdapterConfig  # noqa: E402
from gem_rag.model import GemModel, create  # noqa: E402

# What a card computes in bf16 without sparsity, by its data sheet, in TFLOP/s.
DATA_SHEETS = {"H100": 989, "H200": 989, "A100": 312, "L40S": 362, "L4": 121, "4090": 165}
CORE_TESTS = (
    "test_devices",
    "test_replay",
    "test_attention",
    "test_decoder",
    "test_model",
    "test_ranker",
)
# These compare with more places than bf16 has.
EXACT_TESTS = (
    "test_reading_is_what_the_base_leaves_in_its_cache",
    "test_joining_one_reading_changes_nothing_and_two_are_parted_as_if_read_together",
    "test_rank_is_the_bases_likelihood_of_the_query",
)
# Least cosine of an embedding to the CPU's in float32, largest difference of a rank score in nats.
TOLERANCES = {"float32": (0.9999, 1e-3), "bfloat16": (0.99, 5e-2)}
TEXTS = [f"{sentence.strip()}." for sentence in (WORDS * 3).split(".") if sentence.strip()]
QUESTION = "Who wrote the long letter?"


@dataclass(frozen=True)
class Sizes:
    """How much of everything is run.

    Attributes:
        hidden: Of the Llama that is made; 64 to a head, four query heads share a key head.
        layers: Likewise.
        intermediate: Likewise.
        vocabulary: Likewise.
        product: Rows and columns of the matrices whose product is the measured peak.
        texts: Embedded, each of `length` tokens; a training step has 64 at most.
        length: See there.
        prompt: Tokens of the prompt that is read.
        answer: Tokens that each row generates.
        steps: Of training.
    """

    hidden: int = 2048
    layers: int = 16
    intermediate: int = 8192
    vocabulary: int = 49152
    product: int = 8192
    texts: int = 512
    length: int = 256
    prompt: int = 4096
    answer: int = 128
    steps: int = 10


REHEARSAL = Sizes(128, 2, 256, 400, 256, 4, 24, 64, 6, 2)


def llama(folder: Path, sizes: Sizes) -> Path:
    """A Llama of random weights with a tokenizer made on the spot."""
    from transformers import AutoModelForCausalLM, LlamaConfig

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.hidden // 64,
        num_key_value_heads=max(1, sizes.hidden // 256),
        max_position_embeddings=8192,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=1,
        tie_word_embeddings=True,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return folder


def made(base: Path, device: str, dtype: str) -> GemModel:
    """A model over a base, its adapter doing something."""
    adapter = AdapterConfig(rank=16, alpha=32)
    return disturb(create(base, device=device, dtype=dtype, num_special_tokens=2, adapter=adapter))


class Card:
    """The device, and what it does in a second.

    Args:
        device: ``cuda`` or ``cpu``.
    """

    def __init__(self, device: str) -> None:
        self.device, self.is_cuda = device, device == "cuda"

    def facts(self, sizes: Sizes) -> dict[str, Any]:
        """What it is, and its peak: by the data sheet and as measured with one product."""
        out: dict[str, Any] = {"torch": torch.__version__, "device": "cpu"}
        if self.is_cuda:
            about = torch.cuda.get_device_properties(0)
            named = next((v for k, v in DATA_SHEETS.items() if k in about.name), None)
            out |= {"device": about.name, "memory_gb": round(about.total_memory / 1e9, 1)}
            out |= {"cuda": torch.version.cuda, "data_sheet_tflops": named}
        n = sizes.product
        a, b = (torch.randn(n, n, device=self.device, dtype=torch.bfloat16) for _ in range(2))
        seconds = self.seconds(lambda: [a @ b for _ in range(10)])
        return out | {"product_tflops": 10 * 2 * n**3 / seconds / 1e12}

    def seconds(self, work: Callable[[], Any], repeats: int = 3) -> float:
        """Best wall-clock seconds of a call, after one to warm up; the device waited for."""
        best = float("inf")
        for turn in range(repeats + 1):
            self.wait()
            start = time.perf_counter()
            work()
            self.wait()
            best = min(best, time.perf_counter() - start) if turn else best
        return best

    def wait(self) -> None:
        """Until all that was asked of it is done."""
        if self.is_cuda:
            torch.cuda.synchronize()

    def peak_gb(self) -> float | None:
        """Most memory allocated since it was asked last."""
        if not self.is_cuda:
            return None
        most = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.reset_peak_memory_stats()
        return round(most, 2)


def agreement(card: Card, folder: Path) -> dict[str, Any]:
    """Embeddings, ranking and generation beside the CPU's in float32, for every tiny family."""
    torch.backends.cuda.matmul.allow_tf32 = False
    out: dict[str, Any] = {}
    for family in ("llama", "qwen3", "gemma3", "phi3"):
        base = make_base(folder / family, family)
        expected = answers(made(base, "cpu", "float32"))
        for dtype, (cosine, nats) in TOLERANCES.items():
            model = made(base, card.device, dtype)
            facts = compared(answers(model), expected)
            facts["replayed"] = model.parts.replays  # False: a graph failed, or said otherwise
            same_text = dtype != "float32" or facts["same_tokens"] == 1.0
            within = facts["least_cosine"] >= cosine and facts["largest_rank_nats"] <= nats
            replayed = facts["replayed"] == card.is_cuda
            out[f"{family} {dtype}"] = facts | {"ok": bool(within and same_text and replayed)}
    return out | {"ok": all(facts["ok"] for facts in out.values())}


def answers(model: GemModel) -> dict[str, Any]:
    """What a model makes of a few texts: vectors, rank scores by text, generated ids."""
    readings = model.read(TEXTS)
    vectors = [model.embed_documents(TEXTS), model.embed_queries(TEXTS)]
    vectors.append(model.embed_readings(readings))
    ranked = sorted(model.rank(QUESTION, readings), key=lambda r: r.index)
    prompts = [f"{text} {QUESTION}" for text in TEXTS[:3]]
    generated = model.generate_batch(prompts, max_new_tokens=24)
    generated += [model.generate(QUESTION, after=readings[0], max_new_tokens=24)]
    return {
        "vectors": np.concatenate(vectors),
        "scores": np.array([r.score for r in ranked]),
        "ids": [g.ids for g in generated],
    }


def compared(found: dict[str, Any], expected: dict[str, Any]) -> dict[str, Any]:
    """How far apart two models' answers are."""
    pairs = [
        (a, b)
        for mine, theirs in zip(found["ids"], expected["ids"], strict=True)
        for a, b in zip(mine, theirs, strict=False)
    ]
    return {
        "least_cosine": float((found["vectors"] * expected["vectors"]).sum(1).min()),
        "largest_rank_nats": float(np.abs(found["scores"] - expected["scores"]).max()),
        "same_tokens": float(np.mean([a == b for a, b in pairs])),
    }


class Speed:
    """What one model does in a second on a card, and how much of the card's peak that is.

    Args:
        card: Where.
        model: What is run, in bf16.
        sizes: How much of it.
        peak: FLOP/s that the card's share is taken of.
    """

    def __init__(self, card: Card, model: GemModel, sizes: Sizes, peak: float) -> None:
        self._card, self._model, self._sizes, self._peak = card, model, sizes, peak
        blocks = sum(p.numel() for block in model.base.blocks for p in weights_of(block))
        self.flops_a_token = 2 * blocks  # attention's own, a few percent here, is left out
        self.head_flops = 2 * model.base.hidden_size * model.base.vocabulary

    def embedding(self) -> dict[str, float]:
        """Texts of one length, in the batches the library makes."""
        texts = [text_of(self._model, self._sizes.length, i) for i in range(self._sizes.texts)]
        took = self._card.seconds(lambda: self._model.embed_documents(texts, show_progress=False))
        tokens = sum(len(t.ids) for t in self._model.codec.encode_texts(texts, None))
        return self._facts(tokens, took, self.flops_a_token) | {"texts_a_second": len(texts) / took}

    def prefill(self) -> dict[str, float]:
        """A long text, read; of another one each time, as beginnings of prompts are kept."""
        texts = iter(text_of(self._model, self._sizes.prompt, i) for i in range(100))
        n = self._sizes.prompt
        took = self._card.seconds(lambda: self._model.read([next(texts)], max_length=n))
        return self._facts(n, took, self.flops_a_token)

    def decoding(self, rows: int) -> dict[str, float]:
        """Rows that generate together, their steps replayed as graphs, and run one by one."""
        parts, facts = self._model.parts, {}
        for name, parts.replays in (("one_by_one", False), ("", self._card.is_cuda)):
            found = self._decoded(rows)
            facts |= {f"{key}_{name}".strip("_"): value for key, value in found.items()}
        gain = facts["tokens_a_second"] / facts["tokens_a_second_one_by_one"]
        return facts | {"replayed": parts.replays, "gain_of_replaying": gain}

    def _decoded(self, rows: int) -> dict[str, float]:
        """The time of all tokens, less that of the same prompts with one token."""
        prompts = [text_of(self._model, 32, i) for i in range(rows)]
        counted = 0

        def run(most: int) -> None:
            nonlocal counted
            done = self._model.generate_batch(prompts, max_new_tokens=most)
            counted = sum(g.usage.completion_tokens for g in done) - rows

        first = self._card.seconds(lambda: run(1))
        took = self._card.seconds(lambda: run(self._sizes.answer)) - first
        facts = self._facts(counted, took, self.flops_a_token + self.head_flops)
        return facts | {"ms_a_step": 1e3 * took / max(1, counted / rows)}

    def training(self) -> dict[str, float]:
        """Steps of the contrastive objective: the special tokens' pass, its gradients, AdamW.

        The reading runs without gradients, as the default recipe has it.
        """
        from torch.nn import functional

        model, sizes = self._model, self._sizes
        pairs = min(64, sizes.texts)
        ids = [model.codec.encode(text_of(model, sizes.length // 2, i)) for i in range(2 * pairs)]
        optimizer = torch.optim.AdamW(model.parts.parameters(), lr=1e-4)

        def step() -> None:
            with torch.autocast(self._card.device, torch.bfloat16):
                first = model.embedder.forward_texts(ids[:pairs], "query")
                second = model.embedder.forward_texts(ids[pairs:], "document")
            scores = first @ second.T / 0.05
            loss = functional.cross_entropy(scores, torch.arange(pairs, device=scores.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        took = self._card.seconds(lambda: [step() for _ in range(sizes.steps)], 1)
        return {"steps_a_second": sizes.steps / took, "pairs": pairs, "tokens": sizes.length // 2}

    def _facts(self, tokens: int, seconds: float, flops: int) -> dict[str, float]:
        return {
            "tokens_a_second": tokens / seconds,
            "share_of_peak": tokens * flops / seconds / self._peak,
        }


def weights_of(block: torch.nn.Module) -> list[torch.Tensor]:
    """The matrices of a block, those that a fused layer holds among them."""
    return [m.weight for m in block.modules() if isinstance(m, torch.nn.Linear)]


def text_of(model: GemModel, tokens: int, which: int) -> str:
    """A text of about so many tokens that begins otherwise than the others."""
    words = WORDS.split()
    text = " ".join(words[(which + i) % len(words)] for i in range(tokens))
    encoded = model.codec.encode_texts([f"{which} {text}"], tokens)[0]
    return f"{which} {text}"[: encoded.offsets[-1][1]]


def core_tests(seconds: float) -> dict[str, Any]:
    """The tests of the core, on the card in bf16: all pass, but for `EXACT_TESTS`."""
    bf16 = dict.fromkeys(("GEM_RAG_DTYPE", "GEM_RAG_TEST_DTYPE"), "bfloat16")
    path = os.pathsep.join(str(ROOT / name) for name in ("", "integrations", "train", "tests"))
    environment = os.environ | bf16 | {"PYTHONPATH": path}
    files = [str(ROOT / "tests" / f"{name}.py") for name in CORE_TESTS]
    options = ["-q", "-m", "not model and not slow", "-p", "no:cacheprovider", "--tb=line"]
    if find_spec("pytest_asyncio") is None:
        options += ["-k", "not async"]
    command = [sys.executable, "-m", "pytest", *options, "-rf", *files]
    try:
        done = subprocess.run(
            command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=seconds
        )
    except subprocess.TimeoutExpired:
        return {"ok": False, "problem": f"not done after {seconds:.0f} s"}
    lines = done.stdout.splitlines()
    failed = [line.split()[1] for line in lines if line.startswith("FAILED")]
    wrong = [name for name in failed if not any(test in name for test in EXACT_TESTS)]
    passed = bool(lines) and " passed" in lines[-1] and " error" not in lines[-1]
    return {"ok": passed and not wrong, "summary": lines[-1:], "failed": failed}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", help="a checkpoint or base that is there; else one is made")
    parser.add_argument("--json", type=Path, help="where the figures go too")
    parser.add_argument("--minutes", type=float, default=7.0)
    parser.add_argument("--rehearse", action="store_true", help="on the CPU, with a tiny model")
    options = parser.parse_args()
    if not options.rehearse and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --rehearse runs everything on the CPU")
    card, sizes = Card("cpu" if options.rehearse else "cuda"), Sizes()
    sizes = REHEARSAL if options.rehearse else sizes
    end = time.monotonic() + 60 * options.minutes
    report: dict[str, Any] = {"sizes": asdict(sizes)}

    def phase(name: str, work: Callable[[], Any]) -> Any:
        """Run a phase, keep what it says, print it; the next one runs whatever happened."""
        started = time.monotonic()
        if started > end:
            report[name] = {"left_out": "no time"}
        else:
            try:
                report[name] = work()
            except Exception as error:
                report[name] = {"ok": False, "problem": f"{type(error).__name__}: {error}"}
            report[name]["seconds"] = round(time.monotonic() - started, 1)
            report[name]["peak_gb"] = card.peak_gb()
        print(name, json.dumps(report[name]), flush=True)
        if options.json:
            options.json.write_text(json.dumps(report, indent=2))
        return report[name]

    with tempfile.TemporaryDirectory() as name:
        facts = phase("card", lambda: card.facts(sizes))
        phase("agreement", lambda: agreement(card, Path(name)))
        measure_speed(phase, card, sizes, facts, options.model, Path(name))
    left = max(30.0, end - time.monotonic())
    phase("core tests", lambda: core_tests(left))
    sys.exit(any(facts.get("ok") is False for facts in report.values()))


def measure_speed(
    phase: Callable[..., Any],
    card: Card,
    sizes: Sizes,
    facts: dict[str, Any],
    name: str | None,
    folder: Path,
) -> None:
    """The phases that want the large model."""
    found: dict[str, GemModel] = {}

    def load() -> dict[str, Any]:
        if name is None:
            found["model"] = made(llama(folder / "llama", sizes), card.device, "bfloat16")
        else:
            found["model"] = GemModel.from_pretrained(name, device=card.device, dtype="bfloat16")
        parts = found["model"].parts
        count = sum(p.numel() for p in parts.base.model.parameters())
        return {
            "parameters": count,
            "weights_gb": parts.weights_bytes / 1e9,
            "forward": parts.forward_note,
        }

    phase("model", load)
    if "model" not in found:
        return
    peak = 1e12 * (facts.get("data_sheet_tflops") or facts.get("product_tflops") or 1.0)
    speed = Speed(card, found["model"], sizes, peak)
    phase("embedding", speed.embedding)
    phase("prefill", speed.prefill)
    for rows in (1, 8, 32):
        phase(f"decoding {rows}", lambda rows=rows: speed.decoding(rows))
    if name is None:  # one that keeps its weights beside the fused ones
        phase("training", speed.training)


if __name__ == "__main__":
    main()
