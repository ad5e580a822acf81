"""What a search knew of a passage, told to whoever ranks it later for the same question."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from gem_rag.config import RelevanceWeights
from gem_rag.model import GemModel


@dataclass(frozen=True)
class Finding:
    """The scores that a passage was found by.

    Attributes:
        asked: What they answer: `asked_of` the question and the model. For another question, or
            beside another model's cosines, they say nothing.
        score: Its cosine with the question; None where that is not known.
        word_score: How well the question's words stand in it, 0 to 1; None likewise.
    """

    asked: str
    score: float | None = None
    word_score: float | None = None


UNKNOWN = Finding("")  # of a passage that somebody else found


def asked_of(question: str, model: GemModel) -> str:
    """Tells one question, put with one model, from all others."""
    told = f"{model.fingerprint}\n{question}".encode(errors="surrogatepass")
    return hashlib.sha256(told).hexdigest()[:16]


def weights_for(
    findings: Sequence[Finding], question: str, model: GemModel
) -> RelevanceWeights | None:
    """What words and cosines count for: the checkpoint's weights where all passages tell theirs.

    Where one does not, None: passages are compared by what is known of all of them.
    """
    asked = asked_of(question, model)
    known = all(finding.asked == asked for finding in findings)
    return model.config.relevance if known else None
