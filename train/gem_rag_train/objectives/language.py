"""The next-token loss on rows ``prefix | specials | suffix`` (arXiv 2506.04344, section 3)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

import torch
from torch import Tensor, nn

from gem_rag.compute.attention import Rule
from gem_rag.compute.batches import by_budget
from gem_rag.model import GemModel
from gem_rag_train.data.pairs import Pair
from gem_rag_train.objectives.step import Outcome, ProcessGroup
from gem_rag_train.recipes.precision import Precision, autocast

TOKENS_PER_BATCH = 1024  # in one forward; few, because every token has logits over the vocabulary
FROM_FILES = ("summary", "soft_prompt")  # rows of the user's files


@dataclass(frozen=True)
class Row:
    """Token ids of a row; without a suffix it is raw text and carries no special tokens."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


class LanguageRows:
    """Each step's rows, by seed and step alone.

    Raw text, continuation and reconstruction take the texts of the step's contrastive pairs, as the
    paper's rows serve both losses. A summary or an answer is drawn from the user's files.

    Args:
        model: Tokenizes, and decides by its scope whether raw rows are of use: only ``always``
            adapts plain generation, so in the other scopes every row carries special tokens.
        tasks: Share of each of `gem_rag_train.recipes.config.LM_TASKS` among rows with special
            tokens.
        raw_share: Share p of raw rows (scope ``always``).
        own: The user's pairs by kind.
        seed: Decides the tasks and where texts are split.
        max_length: Tokens of a prefix, and of a suffix.
    """

    def __init__(
        self,
        model: GemModel,
        tasks: Mapping[str, float],
        *,
        raw_share: float,
        own: Mapping[str, Sequence[Pair]],
        seed: int,
        max_length: int,
    ) -> None:
        self._codec = model.codec
        self._raw_share = raw_share if adapts_generation(model) else 0.0
        self._tasks = list(tasks)
        self._shares = list(tasks.values())
        self._own = own
        self._seed = seed
        self._max_length = max_length

    def rows(self, step: int, pairs: Sequence[Pair]) -> list[Row]:
        """One row for each pair of the step."""
        rng = Random(f"{self._seed}:{step}:rows")
        return [self._row(pair, rng) for pair in pairs]

    def _row(self, pair: Pair, rng: Random) -> Row:
        raw = rng.random() < self._raw_share
        (task,) = rng.choices(self._tasks, self._shares)
        if not raw and task in FROM_FILES:
            other = rng.choice(self._own[task])
            if task == "summary":
                return Row(self._ids(other.second), self._ended(other.first))
            return Row(self._ids(other.first), self._ended(other.second))
        text = self._ids(pair.second if pair.kind == "query_document" else pair.first)
        if raw:
            return Row(text)
        if task == "reconstruction" or len(text) < 2:
            return Row(text, text)
        at = rng.randrange(1, len(text))
        return Row(text[:at], text[at:])

    def _ids(self, text: str) -> tuple[int, ...]:
        return tuple(self._codec.encode_texts([text], self._max_length)[0].ids)

    def _ended(self, text: str) -> tuple[int, ...]:
        """An answer with its end, unless it was cut: to stop there is not to be learnt."""
        (answer,) = self._codec.encode_texts([text], self._max_length)
        return (*answer.ids, *(() if answer.cut else self._codec.end_ids))


class LanguageObjective:
    """A step's gradients of the mean next-token loss.

    Args:
        model: What is trained.
        rows: Each step's rows.
        processes: Which slice of the rows is whose.
        precision: What is computed in.
    """

    def __init__(
        self, model: GemModel, rows: LanguageRows, processes: ProcessGroup, precision: Precision
    ) -> None:
        self._model = model
        self._rows = rows
        self._processes = processes
        self._precision = precision

    def backward(self, step: int, pairs: Sequence[Pair], weight: float) -> Outcome:
        """Add the gradients of the loss on the step's rows, times `weight`.

        Args:
            step: Decides the rows, with the pairs.
            pairs: The whole batch.
            weight: Of the loss.
        """
        rows = self._processes.slice_of(self._rows.rows(step, pairs))
        rows = [row for row in rows if label_count(self._model, row)]
        count = sum(label_count(self._model, row) for row in rows)
        device = self._model.base.device
        labels = self._processes.sum(torch.tensor(float(count), device=device)).clamp(min=1)
        total = torch.zeros((), device=device)
        for batch, counts in self._batches(rows):
            with autocast(device, self._precision):
                loss = language_loss(self._model, batch) / labels * counts
            if loss.requires_grad:
                (weight * loss).backward()
            total += loss.detach()
        mean = self._processes.sum(total).item()
        return Outcome(mean, sum(map(len, rows)), {"ntp": mean})

    def _batches(self, rows: Sequence[Row]) -> Iterator[tuple[list[Row], bool]]:
        """Rows of one kind and similar length, and whether they count: a spare one does not."""
        for special in (False, True):
            kind = [row for row in rows if bool(row.suffix) == special]
            kind.sort(key=len, reverse=True)
            batches = by_budget(range(len(kind)), [len(r) for r in kind], TOKENS_PER_BATCH)
            for batch in self._processes.as_many(list(batches), []):
                yield [kind[i] for i in batch] or [spare_row(special)], bool(batch)


def spare_row(special: bool) -> Row:
    """A row for its forward pass alone: with special tokens, or raw."""
    return Row((0, 0), (0, 0) if special else ())


def adapts_generation(model: GemModel) -> bool:
    """Whether plain text has anything to train."""
    return model.config.adapter_scope == "always"


def label_count(model: GemModel, row: Row) -> int:
    """How many tokens of a row are predicted with something to train.

    All but the first, which nothing predicts, where generation is adapted; else the suffix alone.
    """
    return len(row.suffix) + (max(0, len(row.prefix) - 1) if adapts_generation(model) else 0)


def language_loss(model: GemModel, rows: Sequence[Row], rule: Rule = Rule.GEM) -> Tensor:
    """Summed next-token loss of rows that are all raw or all with special tokens.

    Special tokens are no labels; the last one predicts the suffix's first token. Labels are chosen
    by length: a padding id may be a real one (EOS).

    Args:
        model: With scope ``tokens`` the prefix is read without gradients.
        rows: The rows.
        rule: Who may see whom.

    Returns:
        Scalar, over `label_count` tokens.
    """
    adapted = model.config.adapter_scope != "tokens"
    with torch.set_grad_enabled(adapted and torch.is_grad_enabled()):
        prefixes = [row.prefix for row in rows]
        tokens, cache, read = model.reader.outputs(prefixes, adapted)
    loss = torch.zeros((), device=model.base.device)
    if adapts_generation(model):
        loss = loss + _next_token_loss(model, read[:, :-1], [p[1:] for p in prefixes])
    if rows[0].suffix:
        suffixes = [row.suffix for row in rows]
        hidden = model.embedder.run_specials(tokens, cache, "document", suffixes, rule)
        last_special = model.config.num_special_tokens - 1
        loss = loss + _next_token_loss(model, hidden[:, last_special:-1], suffixes)
    return loss


def _next_token_loss(model: GemModel, hidden: Tensor, labels: Sequence[Sequence[int]]) -> Tensor:
    """Summed loss of outputs ``[B, T, hidden]``, the t-th of which predicts the t-th label."""
    rows = [hidden[i, : len(ids)] for i, ids in enumerate(labels)]
    target = torch.tensor([i for ids in labels for i in ids], device=hidden.device)
    logits = model.base.logits(torch.cat(rows)).float()  # (labels, vocab)
    return nn.functional.cross_entropy(logits, target, reduction="sum")
