"""Who may see whom: GEM's attention rule as pure functions of roles and positions.

A sequence is ``prefix | special_1..special_K | suffix`` (arXiv 2506.04344, section 3.1). The same
rule serves every pass, because a pass is only a choice of which tokens ask (queries) and which are
there to be seen (keys): reading asks with the prefix, embedding with the specials against a read
prefix, the bottleneck's suffix against the specials.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

import torch
from torch import Tensor


class Role(IntEnum):
    """What a token is to the rule."""

    PADDING = 0
    PREFIX = 1
    SPECIAL = 2
    SUFFIX = 3


class Rule(Enum):
    """GEM's rule, a plain decoder's, and two controls for experiments (Gist tokens' controls).

    ``CHAIN`` is GEM's rule but for the special tokens: each sees those before it, as in a runtime
    that knows causal masks only.
    ``CAUSAL`` is the positive control: no bottleneck, a plain causal mask. ``BLIND`` is the
    negative one: special tokens see nothing of the prefix, so nothing can be carried by them.
    """

    GEM = "gem"
    CHAIN = "chain"
    CAUSAL = "causal"
    BLIND = "blind"


@dataclass(frozen=True)
class Tokens:
    """A batch of tokens as the rule sees them.

    Attributes:
        positions: int64 ``[B, T]``, place in the sequence, padding not counted.
        roles: int64 ``[B, T]``, values of `Role`.
    """

    positions: Tensor
    roles: Tensor

    @property
    def lengths(self) -> Tensor:
        """int64 ``[B]``: number of real tokens, the position of what comes next."""
        return (self.roles != Role.PADDING).sum(1)

    def expand(self, batch: int) -> Tokens:
        """One row as `batch` rows."""
        return Tokens(self.positions.expand(batch, -1), self.roles.expand(batch, -1))

    def rows(self, index: Tensor) -> Tokens:
        """These rows only."""
        return Tokens(self.positions[index], self.roles[index])


def together(first: Tokens, second: Tokens) -> Tokens:
    """``[B, N]`` and ``[B, Q]`` as ``[B, N + Q]``."""
    return Tokens(
        torch.cat([first.positions, second.positions], 1), torch.cat([first.roles, second.roles], 1)
    )


def visible(
    queries: Tokens, keys: Tokens, *, window: int | None = None, rule: Rule = Rule.GEM
) -> Tensor:
    """Which keys each query may see.

    Args:
        queries: ``[B, Q]`` tokens that ask.
        keys: ``[B, N]`` tokens that may be seen, the queries among them.
        window: Width of sliding-window attention: a key further back than this is not seen.
        rule: GEM's rule or another.

    Returns:
        bool ``[B, 1, Q, N]``, True where attention is open. Padding sees itself alone, so that no
        row is empty (a softmax over nothing is NaN).
    """
    qpos, kpos = queries.positions.unsqueeze(2), keys.positions.unsqueeze(1)  # (B, Q, 1), (B, 1, N)
    qrole, krole = queries.roles.unsqueeze(2), keys.roles.unsqueeze(1)
    seen = (kpos <= qpos) & (krole != Role.PADDING)  # (B, Q, N)
    if window is not None:
        seen &= qpos - kpos < window
    if rule is not Rule.CAUSAL:
        seen &= ~((qrole == Role.SUFFIX) & (krole == Role.PREFIX))
    if rule in (Rule.GEM, Rule.BLIND):
        seen &= ~((qrole == Role.SPECIAL) & (krole == Role.SPECIAL) & (qpos != kpos))
    if rule is Rule.BLIND:
        seen &= ~((qrole == Role.SPECIAL) & (krole == Role.PREFIX))
    padding = (qrole == Role.PADDING) & (krole == Role.PADDING) & (qpos == kpos)
    return (seen | padding).unsqueeze(1)


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """A bool mask as the float mask attention adds: 0 where open, the dtype's minimum elsewhere.

    Args:
        mask: bool ``[B, 1, Q, N]``.
        dtype: Floating-point torch dtype of the model.

    Returns:
        Tensor of `dtype`, ``[B, 1, Q, N]``.
    """
    out = torch.zeros(mask.shape, dtype=dtype, device=mask.device)
    return out.masked_fill_(~mask, torch.finfo(dtype).min)


def span_mask(mask: Tensor, width: int) -> Tensor:
    """Lay the masks of S spans of one reading side by side, so that one pass serves all spans.

    Args:
        mask: bool ``[S, 1, Q, width + Q]``: each span's own queries against the reading and
            themselves.
        width: Number of the reading's keys.

    Returns:
        bool ``[1, 1, S * Q, width + S * Q]``: queries of different spans do not see each other.
    """
    spans, _, queries, _ = mask.shape
    reading = mask[:, 0, :, :width].reshape(spans * queries, width)
    own = torch.block_diag(*mask[:, 0, :, width:])  # (S*Q, S*Q)
    return torch.cat([reading, own.bool()], dim=1)[None, None]


def positions_of(valid: Tensor, start: int = 0) -> Tensor:
    """Positions that count real tokens only, so that padding on either side changes nothing.

    Args:
        valid: bool ``[B, T]``, True at real tokens.
        start: Position of the first real token.

    Returns:
        int64 ``[B, T]``. Padding gets its column's position: nobody sees it but itself.
    """
    counted = valid.long().cumsum(1) - 1 + start
    index = torch.arange(valid.shape[1], device=valid.device).expand_as(counted)
    return torch.where(valid, counted, index + start)
