"""One readable forward for decoders of the Llama shape.

Each block: norm, attention over grouped keys and values with rotary positions, norm, gated MLP.
Flags make it Llama, Mistral, Qwen2, Qwen3, SmolLM2 and 3, Phi-3 or Gemma 3 (`recognise`); whatever
else a model has is refused, and what is built is compared with transformers' forward (`probe`).

Letters in shapes: B rows, Q queries of a row, n = B * Q, N keys, H query heads, KV key and value
heads, G = H / KV query heads that share one, D width of a head.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.nn import functional

from gem_rag.compute import probe
from gem_rag.compute.adapter import EVERYWHERE, Acting, Adapter, Positions
from gem_rag.compute.attend import attend
from gem_rag.compute.base import Base
from gem_rag.compute.block import ACTIVATIONS, Block, blocks_of, norm_of
from gem_rag.compute.kv import Cache
from gem_rag.compute.linear import Linear, Packed, Plain, can_pack
from gem_rag.compute.outline import Outline, Source
from gem_rag.compute.recognise import Modules, Unrecognised, outline_of
from gem_rag.compute.replaced import replace_head, replace_in, restore, unmap

__all__ = ["Decoder", "Mask", "Unrecognised", "check"]

#: None is causal; else additive ``[B or 1, 1, Q, N]`` in the model's dtype, or one per layer kind.
Mask = Tensor | dict[str, Tensor] | None


class Update(NamedTuple):
    """An adapter's update of one fused layer: ``x A^T B^T``, scale included.

    Of q, k and v in one layer, say, A is their three stacked and B has theirs on its diagonal::

        A = [Aq; Ak; Av]      B = [Bq  0  0]
                                  [ 0 Bk  0]
                                  [ 0  0 Bv]
    """

    a: Linear  # (R, in)
    b: Linear  # (out, R)


# Where an update acts: indices into the n flattened positions, or None for all of them.
Acts = tuple[Tensor | None, Update]
# An adapter's updates of each block, by fused layer, and the parameters' state they are made of.
Fused = tuple[tuple[int, ...], list[dict[str, Update]]]


class Decoder:
    """A model's weights, laid out for one forward. Gradients flow to adapters, not to the weights.

    Use `of`. Safe to use from several threads at once: a run changes nothing but its cache.

    Attributes:
        outline: What it computes.
        table: The embedding's weight, ``[vocab, hidden]``.
        blocks: Each block's weights.
        head: ``[n, hidden] -> [n, vocab]``.
        nbytes: Bytes of all weights held.
    """

    def __init__(
        self, outline: Outline, source: Source, rotary: Callable[..., tuple[Tensor, Tensor]]
    ) -> None:
        self.outline = outline
        self._activation = ACTIVATIONS[outline.activation]
        self._rotary = rotary
        self.table = source.tensor(outline.table)
        self._norm = norm_of(outline.norm, outline.eps, source)
        self.blocks = list(blocks_of(outline, source))
        self.head = source.head(outline)
        self._fused: WeakKeyDictionary[Adapter, Fused] = WeakKeyDictionary()
        held = sum(b.nbytes for b in self.blocks) + self.table.nbytes + self._norm.nbytes
        tied = isinstance(self.head, Plain) and self.head.weight.data_ptr() == self.table.data_ptr()
        self.nbytes: int = held + (0 if tied else self.head.nbytes)

    @classmethod
    def of(cls, base: Base, *, keep_weights: bool = False) -> Decoder:
        """Lay out a model's weights, and check the result against transformers' forward.

        Args:
            base: The model. Its linear layers are replaced by parts of the fused ones, which hold
                the weights from now on; it goes on working, to rounding.
            keep_weights: Leave it as it is: fused and packed weights then stand beside its own.

        Raises:
            Unrecognised: The model has something this forward does not compute, or they differ by
                more than rounding. The model is then as it was.
        """
        outline = outline_of(base)
        with torch.no_grad():  # not inference mode: the weights may serve under gradients later
            expected = probe.outputs(base, base.run)
            try:
                if not keep_weights:
                    unmap(base.model)
                source = Modules(base, replace=not keep_weights)
                decoder = cls(outline, source, base.rotary)
                found = probe.deviation(probe.outputs(base, decoder.run), expected)
                if not found <= probe.BOUNDS.get(base.dtype, 0.0):
                    raise Unrecognised(f"deviates by {found:.1e} from transformers' forward")
            except Unrecognised:
                restore(base)
                raise
        return decoder

    def run(
        self,
        inputs: Tensor,
        positions: Tensor,
        mask: Mask,
        cache: Cache,
        acting: Sequence[Acting] = (),
    ) -> Tensor:
        """Run the blocks; keys and values are appended to `cache`.

        Args:
            inputs: int64 ids ``[B, Q]`` or vectors ``[B, Q, hidden]``.
            positions: int64 ``[B, Q]``.
            mask: As `Base.masks` gives it; no query may see what comes after it in its row. None:
                each query sees everything before it, in the cache and here, windows applied.
            cache: What the queries see besides themselves. As many blocks are run as it has layers.
            acting: Adapters, and where each acts.

        Returns:
            The last of these blocks' output, through the final norm, ``[B, Q, hidden]``.
        """
        x = inputs if inputs.is_floating_point() else self.embed_tokens(inputs)
        batch, queries, width = x.shape
        tables = self._tables(x, positions)
        acts = [
            (_rows(a.where, batch, queries, x.device), self._updates(a.adapter)) for a in acting
        ]
        x = x.reshape(-1, width)  # (n, hidden)
        # As many blocks as the cache has layers: a model may embed from its first layers alone.
        for i, (block, layer) in enumerate(zip(self.blocks, cache.layers, strict=False)):
            here = [(rows, updates[i]) for rows, updates in acts]
            before, after, before_mlp, after_mlp = block.norms
            h = self._attention(block, before(x), batch, mask, layer, tables, here)
            x = x + (h if after is None else after(h))
            h = self._mlp(block, before_mlp(x), here)
            x = x + (h if after_mlp is None else after_mlp(h))
        return self._norm(x).view(batch, queries, width)

    def logits(self, hidden: Tensor) -> Tensor:
        """``[..., hidden] -> [..., vocab]``."""
        return self.head(hidden.reshape(-1, hidden.shape[-1])).view(*hidden.shape[:-1], -1)

    def embed_tokens(self, ids: Tensor) -> Tensor:
        """Token vectors ``[..., hidden]`` as the first block gets them."""
        x, scale = functional.embedding(ids, self.table), self.outline.table_scale
        return x if scale is None else x * torch.tensor(scale, dtype=x.dtype)

    def _tables(self, x: Tensor, positions: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Cosines and signed sines ``[B, Q, 1, R]`` for each kind of layer, scaling included.

        From transformers' own module, so that every way of stretching positions is right. R < D
        where only a part of each head is turned.
        """
        out = {}
        for kind in self.outline.rotary_kinds:
            cos, sin = self._rotary(x, positions, *([kind] if kind else []))  # (B, Q, R)
            half = sin.shape[-1] // 2
            signed = torch.cat([-sin[..., :half], sin[..., half:]], -1)
            out[kind] = cos.unsqueeze(2), signed.unsqueeze(2)
        return out

    def _attention(
        self,
        block: Block,
        x: Tensor,
        batch: int,
        mask: Mask,
        layer: Any,
        tables: dict[str, tuple[Tensor, Tensor]],
        acts: list[tuple[Tensor | None, dict[str, Update]]],
    ) -> Tensor:
        outline, kind = self.outline, block.outline.kind
        heads, kv_heads, width = outline.heads, outline.kv_heads, outline.head_dim
        y = _linear(block.qkv, x, "qkv", acts).view(batch, -1, heads + 2 * kv_heads, width)
        qk, v = y[:, :, : heads + kv_heads], y[:, :, heads + kv_heads :]  # (B, Q, heads, D)
        if block.head_norm is not None:
            qk = functional.rms_norm(qk, (width,), None, outline.eps) * block.head_norm
        if block.outline.rotary:
            qk = _turned(qk, *tables[kind if kind in tables else ""])
        qk, v = qk.transpose(1, 2), v.transpose(1, 2)
        keys, values = layer.update(qk[:, heads:], v)  # appends; all so far, (B, KV, N, D)
        window = outline.window if kind == "sliding_attention" else 0
        own = mask[kind] if isinstance(mask, dict) else mask
        out = attend(qk[:, :heads], keys, values, own, window, outline.scale)  # (B, H, Q, D)
        out = out.transpose(1, 2).reshape(-1, heads * width)
        return _linear(block.out, out, "out", acts)

    def _mlp(
        self, block: Block, x: Tensor, acts: list[tuple[Tensor | None, dict[str, Update]]]
    ) -> Tensor:
        gate, up = _linear(block.gate_up, x, "gate_up", acts).chunk(2, -1)  # (n, intermediate)
        opened = self._activation(gate)
        # In place, unless a backward pass needs what would be written over.
        opened = opened * up if up.requires_grad else opened.mul_(up)
        return _linear(block.down, opened, "down", acts)

    def _updates(self, adapter: Adapter) -> list[dict[str, Update]]:
        """An adapter's updates, stacked for the fused layers; made again when it has changed.

        Seen is what `Adapter.state` sees.
        """
        if torch.is_grad_enabled():  # they are being trained
            return [self._fuse(adapter, i) for i in range(len(self.blocks))]
        state = adapter.state()
        known = self._fused.get(adapter)
        if known is None or known[0] != state:
            with torch.no_grad():
                fused = [self._fuse(adapter, i) for i in range(len(self.blocks))]
            known = self._fused[adapter] = state, fused
        return known[1]

    def _fuse(self, adapter: Adapter, index: int) -> dict[str, Update]:
        out = {}
        for fused, parts in self.blocks[index].outline.parts.items():
            updates = [(adapter.update_of(f"{index}.{name}"), width) for name, width in parts]
            present = [u for u, _ in updates if u is not None]
            if not present:
                continue
            a = torch.cat([u.a for u in present])  # (R, in)
            nothing = a.new_zeros(0)
            b = torch.block_diag(  # (out, R); where nothing is adapted, rows of zeros
                *(
                    nothing.view(width, 0) if u is None else adapter.scale * u.b
                    for u, width in updates
                )
            )
            dtype = self._norm.gain.dtype
            # Packed without a trial: over a few rows, as here, torch's own took six times as long.
            a, b = a.to(dtype), b.to(dtype)
            kind = Packed if can_pack(a) and not a.requires_grad else Plain
            out[fused] = Update(kind(a), kind(b))
        return out


def lend(decoder: Decoder, model: Any) -> None:
    """Let a model that was loaded after the decoder compute with its weights and drop its own."""
    unmap(model)
    outline = decoder.outline
    for index, block in enumerate(decoder.blocks):
        module = model.get_submodule(f"{outline.blocks_name}.{index}")
        for fused, parts in block.outline.parts.items():
            replace_in(module, block.linears[fused], parts)
    model.get_input_embeddings().weight = nn.Parameter(decoder.table, requires_grad=False)
    replace_head(model, decoder.head, tied=outline.tied)


def check(base: Base, decoder: Decoder) -> float:
    """How far our forward is from transformers', as both are now: compare with `probe.BOUNDS`."""
    with torch.inference_mode():
        expected = probe.outputs(base, base.run)
        return probe.deviation(probe.outputs(base, decoder.run), expected)


def _linear(
    layer: Linear, x: Tensor, name: str, acts: list[tuple[Tensor | None, dict[str, Update]]]
) -> Tensor:
    """``[n, in] -> [n, out]``, with what adapters add at their positions."""
    y = layer(x)
    for rows, updates in acts:
        if name not in updates:
            continue
        a, b = updates[name]
        if rows is None:
            y = y + b(a(x))
        else:
            y.index_add_(0, rows, b(a(x[rows])))
    return y


def _rows(where: Positions, batch: int, queries: int, device: torch.device) -> Tensor | None:
    """Positions as indices into ``[B * Q]``; None for all of them."""
    if isinstance(where, slice) and where == EVERYWHERE:
        return None
    index = torch.arange(batch * queries, device=device).view(batch, queries)
    if isinstance(where, Tensor) and where.dim() == 2:  # bool (B, Q)
        return None if bool(where.all()) else index[where]
    return index[:, where].flatten()


def _turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Heads ``[B, Q, heads, D]`` turned by their positions; what is beyond R passes.

    The "rotate half" of rotary positions: ``x cos + swapped(x) sin``, the first half's minus being
    in the signed sines already.
    """
    width = cos.shape[-1]
    rest = None if width == x.shape[-1] else x[..., width:]
    x = x if rest is None else x[..., :width]
    swapped = x.roll(width // 2, -1)
    turned = torch.addcmul(x * cos, swapped, sin)
    return turned if rest is None else torch.cat([turned, rest], -1)
