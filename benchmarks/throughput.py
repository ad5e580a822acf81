"""Embedding throughput against sentence-transformers: same base weights, mean pooling.

Texts of mixed lengths, 8 to 512 tokens, once through each side, alternating. sentence-transformers
gets its best batch size of 8 to 64. We run the special tokens as well.
"""

from __future__ import annotations

import random
import statistics
import time

import torch
from common import arguments, gemm_peak, show, text_of

from gem_rag.checkpoints.names import resolve_base
from gem_rag.model import GemModel


def peer(folder: str):
    from sentence_transformers import SentenceTransformer, models

    words = models.Transformer(folder, max_seq_length=512)
    words.tokenizer.pad_token = words.tokenizer.eos_token
    pooling = models.Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
    return SentenceTransformer(modules=[words, pooling], device="cpu")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--texts", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    model = GemModel.from_pretrained(dtype="float32")
    other = peer(str(resolve_base(model.config.base.name)))
    rng = random.Random(0)
    texts = [text_of(model, rng.randint(8, 512), i * 7) for i in range(options.texts)]
    tokens = sum(len(t.ids) for t in model.codec.encode_texts(texts, None))
    sides = {"gem-rag": lambda: model.embed_documents(texts, show_progress=False)}
    for size in (8, 16, 32, 64):
        sides[f"sentence-transformers, batch {size}"] = lambda size=size: other.encode(
            texts, batch_size=size, show_progress_bar=False
        )
    model.embed_documents(texts[:8])
    other.encode(texts[:8])
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(options.rounds):
        for name, work in sides.items():
            start = time.perf_counter()
            work()
            times[name].append(time.perf_counter() - start)
    report: dict[str, object] = {
        f"{name}: tokens/s": tokens / statistics.median(t) for name, t in times.items()
    }
    best = min(statistics.median(t) for name, t in times.items() if name != "gem-rag")
    ours = statistics.median(times["gem-rag"])
    peak = gemm_peak()
    blocks = sum(p.numel() for p in model.base.blocks.parameters())
    report["ratio to the best batch size"] = best / ours
    report["GEMM peak, GFLOP/s"] = peak / 1e9
    report["share of the peak"] = 2 * blocks * tokens / ours / peak
    report["threads"] = torch.get_num_threads()
    show(report, options.json)


if __name__ == "__main__":
    main()
