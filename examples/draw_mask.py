"""Draw who may see whom, from the rule the model runs with: docs/attention-mask.svg."""

from __future__ import annotations

import sys

import torch

from gem_rag.compute.attention import Role, Tokens, visible

CELL = 26
COLOURS = {Role.PREFIX: "#4c78a8", Role.SPECIAL: "#e45756", Role.SUFFIX: "#72b7b2"}
NAMES = {Role.PREFIX: "text", Role.SPECIAL: "special", Role.SUFFIX: "suffix"}


def draw(prefix: int = 6, special: int = 4, suffix: int = 4) -> str:
    """The mask of ``prefix | specials | suffix`` as SVG: a row sees the filled columns."""
    roles = [Role.PREFIX] * prefix + [Role.SPECIAL] * special + [Role.SUFFIX] * suffix
    n = len(roles)
    tokens = Tokens(torch.arange(n)[None], torch.tensor([roles]))
    mask = visible(tokens, tokens)[0, 0]
    left, top = 90, 50
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + n * CELL + 20}" '
        f'height="{top + n * CELL + 46}" font-family="sans-serif" font-size="13">',
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for i in range(n):
        for j in range(n):
            fill = COLOURS[roles[j]] if mask[i, j] else "#f2f2f2"
            out.append(
                f'<rect x="{left + j * CELL}" y="{top + i * CELL}" width="{CELL - 2}" '
                f'height="{CELL - 2}" rx="3" fill="{fill}"/>'
            )
    at = 0
    for role, count in ((Role.PREFIX, prefix), (Role.SPECIAL, special), (Role.SUFFIX, suffix)):
        middle = (at + count / 2) * CELL
        out.append(
            f'<text x="{left + middle}" y="{top - 12}" text-anchor="middle">{NAMES[role]}</text>'
        )
        out.append(
            f'<text x="{left - 12}" y="{top + middle + 4}" text-anchor="end">{NAMES[role]}</text>'
        )
        at += count
    caption = "A row sees the filled columns. The adapter acts in the special rows only."
    out.append(f'<text x="{left}" y="{top + n * CELL + 28}" fill="#555">{caption}</text>')
    return "\n".join([*out, "</svg>"]) + "\n"


if __name__ == "__main__":
    sys.stdout.write(draw())
