"""How well does the base still like what a checkpoint writes at length?

Needs the extra ``train``. Continuations of 500 sampled tokens after the starts of held-out
Wikipedia passages, by the base and by the checkpoint from the same random states, and the base's
perplexity of each. With scopes ``tokens`` and ``embedding`` the two are the same text.
"""

from __future__ import annotations

import math

import torch
from common import arguments, show
from torch import Tensor, nn

from gem_rag.compute.attention import Tokens
from gem_rag.compute.kv import empty_cache
from gem_rag.engine.results import Generation
from gem_rag.model import GemModel
from gem_rag_train.loop.start import untrained
from gem_rag_train.monitor.heldout import questions
from gem_rag_train.recipes.config import TrainConfig

PROMPTS, PROMPT_TOKENS, TOKENS = 8, 32, 500


def prompts(model: GemModel) -> list[str]:
    passages = [p.second for p in questions(4 * PROMPTS)]
    read = zip(passages, model.codec.encode_texts(passages, PROMPT_TOKENS), strict=True)
    long = [text[: t.offsets[-1][1]] for text, t in read if len(t.ids) == PROMPT_TOKENS]
    return long[:PROMPTS]


def perplexity(model: GemModel, base: GemModel, tokens: int = TOKENS) -> float:
    """The base's, over what the model writes."""
    ends = list(model.end_ids)

    def never_ends(_generated: list[int], logits: Tensor) -> Tensor:
        return logits.index_fill(0, torch.tensor(ends, device=logits.device), -torch.inf)

    written = model.generate_batch(
        prompts(model),
        raw=True,
        max_new_tokens=tokens,
        temperature=1.0,
        seed=0,
        logits_hook=never_ends,
    )
    return math.exp(sum(loss(base, answer) for answer in written) / len(written))


@torch.no_grad()
def loss(base: GemModel, written: Generation) -> float:
    """Mean negative log-likelihood of what was written after its prompt, nats per token."""
    ids = torch.tensor([written.prompt_ids + written.ids], device=base.base.device)
    nothing = Tokens(ids[:, :0], ids[:, :0])
    hidden = base.reader.continue_from(nothing, empty_cache(base.base.num_layers), ids)
    start = len(written.prompt_ids)
    logits = base.base.logits(hidden[0, start - 1 : -1]).float()  # (written, vocab)
    return float(nn.functional.cross_entropy(logits, ids[0, start:]))


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("checkpoint", nargs="?", help="as for GemModel.from_pretrained")
    parser.add_argument("--tokens", type=int, default=TOKENS)
    options = parser.parse_args()
    model = GemModel.from_pretrained(options.checkpoint, dtype="float32")
    base = untrained(TrainConfig(base=model.config.base.name))
    report = {
        f"perplexity of {options.tokens} tokens by {name}": perplexity(m, base, options.tokens)
        for name, m in (("the base", base), ("the checkpoint", model))
    }
    show(report, options.json)


if __name__ == "__main__":
    main()
