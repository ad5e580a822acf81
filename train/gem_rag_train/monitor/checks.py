"""The checks the method calls for: does text pass through the specials, and what is the space like?

Each is a function of a model and texts and gives plain numbers. A run makes them before its first
step and after its last, and its report shows both.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from gem_rag.compute.adapter import EVERYWHERE, Positions
from gem_rag.compute.attention import Role, Rule, Tokens, positions_of, visible
from gem_rag.compute.base import Base
from gem_rag.compute.batches import by_budget, tokens_per_batch
from gem_rag.compute.kv import empty_cache
from gem_rag.errors import GemError, TruncationWarning, UnsupportedModelError
from gem_rag.model import GemModel
from gem_rag_train.evaluation import retrieval

SuffixTask = Literal["reconstruction", "continuation"]

LENGTHS = (16, 32, 64, 128, 256, 512, 1024)  # tokens
SUFFIX_TOKENS = 64
SEEN = (Role.PREFIX, Role.SPECIAL, Role.SUFFIX)


@dataclass(frozen=True)
class Attention:
    """Where a suffix looks: shares of its attention mass, by layer, mean over heads and tokens.

    Attributes:
        prefix: On the text before the specials, preamble included (nothing under GEM's rule).
        special: On the special tokens.
        suffix: On the suffix itself. The three sum to 1 in each layer.
        even: What the specials would get if attention were spread evenly over all that is open.
    """

    prefix: tuple[float, ...]
    special: tuple[float, ...]
    suffix: tuple[float, ...]
    even: float


@dataclass(frozen=True)
class Bottleneck:
    """How well a suffix is predicted when ``prefix | special | suffix`` is run.

    Attributes:
        accuracy: Share of the suffix's tokens that are the likeliest (the last special predicts
            the first).
        loss: Their mean negative log-likelihood, nats per token.
        tokens: How many were predicted.
        attention: Where the suffix looks.
    """

    accuracy: float
    loss: float
    tokens: int
    attention: Attention


@dataclass(frozen=True)
class Stability:
    """What the start of a text has of the whole text's embedding.

    Attributes:
        cosine: Mean cosine between the start's embedding and the whole's.
        recall1: Share of starts whose nearest whole text is their own.
        texts: How many texts are longer than the start.
    """

    cosine: float
    recall1: float
    texts: int


def alignment(first: np.ndarray, second: np.ndarray) -> float:
    """Mean squared distance of positives ``[n, d]``; lower is closer (Wang & Isola 2020)."""
    return float(((first - second) ** 2).sum(1).mean())


def uniformity(vectors: np.ndarray) -> float:
    """Log of the mean Gaussian potential, exp(-2 |x - y|^2), over pairs of unit vectors ``[n, d]``.

    0 where all are the same, lower the more evenly they fill the sphere (Wang & Isola 2020).
    """
    pairs = np.triu_indices(len(vectors), k=1)
    squared = 2 - 2 * (vectors @ vectors.T)[pairs]
    return float(np.log(np.exp(-2 * squared).mean()))


def stability(
    model: GemModel, texts: Sequence[str], lengths: Sequence[int] = LENGTHS
) -> dict[int, Stability]:
    """Compare the embedding of each text's first 16, 32, ... tokens with that of the whole text.

    A text is read once: what was read of its start is the same with and without the rest.

    Args:
        model: What is checked.
        texts: Of different lengths; read up to the checkpoint's ``max_text_tokens``.
        lengths: In tokens.

    Returns:
        By length; a length that no text exceeds is left out.
    """
    wholes: list[np.ndarray] = []
    starts: dict[int, dict[int, np.ndarray]] = {n: {} for n in lengths}
    for row, text in enumerate(texts):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TruncationWarning)
            reading = model.read([text], show_progress=False)[0]
        shorter = [n for n in lengths if n < len(reading.offsets)]
        ends = [reading.offsets[n - 1][1] for n in shorter]
        vectors = reading.embed([*((0, end) for end in ends), (0, len(text))])
        wholes.append(vectors[-1])
        for n, vector in zip(shorter, vectors, strict=False):
            starts[n][row] = vector
    return {n: _stability(np.stack(wholes), found) for n, found in starts.items() if found}


def _stability(wholes: np.ndarray, starts: dict[int, np.ndarray]) -> Stability:
    rows, vectors = list(starts), np.stack(list(starts.values()))
    cosine = (vectors * wholes[rows]).sum(1).mean()
    return Stability(float(cosine), retrieval(wholes, vectors, rows)[0].recall1, len(rows))


def bottleneck(
    model: GemModel,
    texts: Sequence[str],
    task: SuffixTask,
    *,
    rule: Rule = Rule.GEM,
    length: int = SUFFIX_TOKENS,
) -> Bottleneck:
    """Run ``prefix | special | suffix`` as training does and see what the suffix gets out of it.

    Args:
        model: What is checked.
        texts: Those too short to be cut in two are passed over.
        task: ``reconstruction``: the suffix is the prefix again; ``continuation``: what follows.
        rule: GEM's, or a control: with ``CAUSAL`` the suffix may look at the prefix too.
        length: Tokens of prefix and suffix at most.

    Raises:
        GemError: No text is long enough.
        UnsupportedModelError: The base's attention weights cannot be seen.
    """
    ids = [t.ids for t in model.codec.encode_texts(texts, 2 * length)]
    cuts = [_cut(i, task, length) for i in ids]
    cuts = [(prefix, suffix) for prefix, suffix in cuts if prefix and suffix]
    if not cuts:
        raise GemError(f"none of {len(texts)} texts is long enough for {task}")
    sums = _Sums(model.base.num_layers)
    lengths = [len(prefix) + len(suffix) for prefix, suffix in cuts]
    order = sorted(range(len(cuts)), key=lambda i: -lengths[i])
    with torch.no_grad():
        for rows in by_budget(order, lengths, tokens_per_batch(model.base.device)):
            _run(model, [cuts[i] for i in rows], rule, sums)
    return sums.result()


def _cut(ids: Sequence[int], task: SuffixTask, length: int) -> tuple[Sequence[int], Sequence[int]]:
    if task == "reconstruction":
        return ids[:length], ids[:length]
    half = len(ids) // 2
    return ids[:half], ids[half:]


class _Sums:
    """What is added up over batches."""

    def __init__(self, layers: int) -> None:
        self.looked = torch.zeros(layers, len(SEEN), dtype=torch.float64)
        self.even = torch.zeros(len(SEEN), dtype=torch.float64)
        self.queries = self.right = self.predicted = 0
        self.loss = 0.0

    def result(self) -> Bottleneck:
        prefix, special, suffix = (self.looked / self.queries).T.tolist()
        even = float(self.even[SEEN.index(Role.SPECIAL)] / self.queries)
        return Bottleneck(
            accuracy=self.right / self.predicted,
            loss=self.loss / self.predicted,
            tokens=self.predicted,
            attention=Attention(tuple(prefix), tuple(special), tuple(suffix), even),
        )


def _run(
    model: GemModel,
    cuts: Sequence[tuple[Sequence[int], Sequence[int]]],
    rule: Rule,
    sums: _Sums,
) -> None:
    """One batch in one pass over ``preamble, prefix | instruction, specials | suffix``."""
    base, k = model.base, model.config.num_special_tokens
    instruction = model.embedder.instruction("document").tolist()
    before = [([*model.config.preamble_ids, *prefix], Role.PREFIX) for prefix, _ in cuts]
    after = [(list(suffix), Role.SUFFIX) for _, suffix in cuts]
    middle = [([*instruction, *[0] * k], Role.PREFIX)] * len(cuts)
    columns = [_columns(part) for part in (before, middle, after)]
    ids, roles = (torch.cat(parts, 1).to(base.device) for parts in zip(*columns, strict=True))
    end = ids.shape[1] - columns[-1][0].shape[1]  # of the specials, where the suffix starts
    roles[:, end - k : end] = Role.SPECIAL
    tokens = Tokens(positions_of(roles != Role.PADDING), roles)
    inputs = base.embed_tokens(ids)
    inputs[:, end - k : end] = model.parts.special_vectors.to(base.dtype)
    layer = iter(range(base.num_layers))
    mask, cache = base.masks(tokens, tokens, rule), empty_cache(base.num_layers)
    acting = model.parts.adapter.at(_adapted(model, end))
    with attention_weights(base, lambda w: sums.looked[next(layer)].add_(_looked(w, roles))):
        hidden = base.run(inputs, tokens.positions, mask, cache, acting)
    open_ = visible(tokens, tokens, rule=rule).float()
    sums.even += _looked(open_ / open_.sum(-1, keepdim=True), roles)
    sums.queries += int((roles == Role.SUFFIX).sum())
    for row, (suffix, _) in enumerate(after):
        logits = base.logits(hidden[row, end - 1 : end - 1 + len(suffix)]).float()  # (n, vocab)
        target = torch.tensor(suffix, device=logits.device)
        sums.loss += float(nn.functional.cross_entropy(logits, target, reduction="sum"))
        sums.right += int((logits.argmax(1) == target).sum())
        sums.predicted += len(target)


def _columns(rows: Sequence[tuple[list[int], Role]]) -> tuple[Tensor, Tensor]:
    """Ids and roles ``[B, n]`` of one part of the sequence, padded on the right."""
    width = max(len(ids) for ids, _ in rows)
    padded = [ids + [0] * (width - len(ids)) for ids, _ in rows]
    roles = [[role] * len(ids) + [Role.PADDING] * (width - len(ids)) for ids, role in rows]
    return torch.tensor(padded), torch.tensor(roles)


def _adapted(model: GemModel, end: int) -> Positions:
    """Where the adapter acts: the suffix is generated, so it is adapted with scope ``always``."""
    starts = {"tokens": end - model.config.num_special_tokens, "embedding": 0}
    scope = model.config.adapter_scope
    return EVERYWHERE if scope == "always" else slice(starts[scope], end)


def _looked(weights: Tensor, roles: Tensor) -> Tensor:
    """Attention mass of all suffix tokens on each of `SEEN`, mean over heads: float64 ``[3]``."""
    seen = torch.stack([roles == role for role in SEEN], 2).to(weights.dtype)  # (B, N, 3)
    mass = torch.einsum("bhqn,bnr->bqr", weights, seen) / weights.shape[1]
    return mass[roles == Role.SUFFIX].double().sum(0).cpu()


@contextmanager
def attention_weights(base: Base, take: Callable[[Tensor], Any]) -> Iterator[None]:
    """Hand each layer's attention weights ``[B, H, Q, N]`` to `take` as the blocks are run.

    Only ``eager`` attention computes them; the base runs with it inside the block, in other
    threads as well.

    Raises:
        UnsupportedModelError: The decoder blocks name their attention otherwise.
    """
    attention = [getattr(b, "self_attn", getattr(b, "attention", None)) for b in base.blocks]
    if None in attention:
        raise UnsupportedModelError(
            f"{type(base.model).__name__} has decoder blocks without `self_attn`; expected those "
            "of Llama, Mistral, Qwen, Gemma, Phi-3 or GPT-NeoX"
        )

    def hand_on(_module: nn.Module, _inputs: Any, out: tuple[Tensor, Tensor]) -> None:
        take(out[1])

    used = base.config._attn_implementation
    hooks = [module.register_forward_hook(hand_on) for module in attention if module is not None]
    base.model.set_attn_implementation("eager")
    try:
        yield
    finally:
        base.model.set_attn_implementation(used)
        for hook in hooks:
            hook.remove()
