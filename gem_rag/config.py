"""What a GEM checkpoint says about itself: frozen, and kept as JSON beside the weights."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from gem_rag.errors import CheckpointError

SCHEMA_VERSION = 1
CONFIG_FILE = "gem_config.json"
SKILL_CONFIG = "config.json"
AGAIN = "{query}"  # in an instruction: the text once more

Pooling = Literal["mean", "concat", "last"]
AdapterScope = Literal["tokens", "embedding", "always"]
Task = Literal["query", "document"]
SkillTask = Literal["answer", "rank"]
C = TypeVar("C")


@dataclass(frozen=True)
class BaseIdentity:
    """Which base model a checkpoint was made for.

    Attributes:
        name: Bundled name, hub id or folder, as the checkpoint's maker gave it.
        weights: sha256 over names, shapes, dtypes and bytes of the base's tensors.
        revision: Hub revision, if one was asked for.
    """

    name: str
    weights: str
    revision: str | None = None


@dataclass(frozen=True)
class AdapterConfig:
    """LoRA hyper-parameters of the adapter that acts at the special tokens.

    Attributes:
        rank: Rank r of the low-rank update; 0 means no adapter, token vectors only.
        alpha: The update is scaled by alpha / r.
        targets: Last names of the linear layers to adapt, such as ``q_proj``; empty: all of them.
    """

    rank: int = 32
    alpha: float = 32.0
    targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "targets", tuple(self.targets))  # JSON and TOML give lists


@dataclass(frozen=True)
class RelevanceWeights:
    """What a passage's relevance to a question is made of: see `gem_rag.rag.relevance`.

    Attributes:
        words: What a word score (0 to 1) counts for, beside the part of the question's surprise
            that the passage explains (at most 1).
        cosine: What a cosine counts for.
        threshold: Least sum of a passage that says something about the question, for those who
            choose passages by their rank score; whether one answers is `AnswerableWeights`' matter.
    """

    words: float = 0.65
    cosine: float = 0.73
    threshold: float = 0.46


@dataclass(frozen=True)
class AnswerableWeights:
    """How likely the best passage answers the question: a logistic regression on what is known.

    Attributes:
        bias: The log-odds of a passage that explains and holds nothing of the question.
        explained: What the part of the question's surprise that the passage explains (at most 1)
            adds to them.
        covered: What the part of the question's words that stand in it (0 to 1) adds.
        cosine: What its cosine adds.
        usual_covered: The part covered that counts where it is not known, as in an index that
            holds no words.
        usual_cosine: The cosine that counts where there is none, as where words alone find.
        threshold: Least probability with which a question is answered.
    """

    bias: float = -3.42
    explained: float = 3.23
    covered: float = 2.1
    cosine: float = 2.36
    usual_covered: float = 0.61
    usual_cosine: float = 0.43
    threshold: float = 0.23


@dataclass(frozen=True)
class GemConfig:
    """How texts are read and embedded (arXiv 2506.04344, section 3).

    Attributes:
        base: The base model this checkpoint belongs to.
        preamble: What every text is read after, as text (for people).
        preamble_ids: The same as token ids (what is used).
        num_special_tokens: K, the number of special tokens.
        pooling: How the K outputs become one vector: their mean, one after the other, or the last
            alone, which then sees the specials before it.
        adapter_scope: ``tokens``: adapter at the specials only. ``embedding``: on all of the text
            while embedding. ``always``: also while generating (the paper's).
        query_prefix: Read before a query, after the preamble.
        query_instruction: Read after a query, before the specials. At ``{query}`` the query is read
            again: the second time, each of its tokens sees all of it (the idea of echo embeddings,
            Springer et al. 2024).
        document_instruction: Read after a document, before the specials.
        max_text_tokens: Longest text embedded without an explicit ``max_length``.
        embed_layers: To embed, only this many of the base's first layers are run, and the adapter
            is on these alone; None is all.
        adapter: LoRA hyper-parameters.
        relevance: How ranking weighs what is known of a passage.
        answerable: How what is known of the best one says whether the question is answered.
        written_by: Version of gem-rag that wrote it; empty before there were skills.
        schema_version: Version of this file's layout.
    """

    base: BaseIdentity
    preamble: str
    preamble_ids: tuple[int, ...]
    num_special_tokens: int = 4
    pooling: Pooling = "mean"
    adapter_scope: AdapterScope = "tokens"
    query_prefix: str = ""
    query_instruction: str = ""
    document_instruction: str = ""
    max_text_tokens: int = 1024
    embed_layers: int | None = None
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    relevance: RelevanceWeights = field(default_factory=RelevanceWeights)
    answerable: AnswerableWeights = field(default_factory=AnswerableWeights)
    written_by: str = field(default="", compare=False)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require(
            self.num_special_tokens >= 1, "num_special_tokens", self.num_special_tokens, ">= 1"
        )
        _require(self.pooling in get_args(Pooling), "pooling", self.pooling, get_args(Pooling))
        scopes = get_args(AdapterScope)
        _require(self.adapter_scope in scopes, "adapter_scope", self.adapter_scope, scopes)
        _require(self.adapter.rank >= 0, "adapter.rank", self.adapter.rank, ">= 0")
        _require(self.max_text_tokens >= 1, "max_text_tokens", self.max_text_tokens, ">= 1")
        layers = self.embed_layers
        _require(layers is None or layers >= 1, "embed_layers", layers, "None, or >= 1")
        _require(len(self.preamble_ids) >= 1, "preamble_ids", self.preamble_ids, "one id at least")
        document = self.document_instruction
        _require(AGAIN not in document, "document_instruction", document, f"no {AGAIN} in it")

    def instruction(self, task: Task) -> list[str]:
        """What is read after a text of this kind, in parts; between two, the text again."""
        words = self.query_instruction if task == "query" else self.document_instruction
        return words.split(AGAIN)

    def to_json(self) -> str:
        """This config as indented JSON, written by this gem-rag."""
        return _written(self)

    @classmethod
    def from_folder(cls, folder: Path) -> GemConfig:
        """Read ``gem_config.json`` in a checkpoint folder.

        Raises:
            CheckpointError: The file is absent, not JSON, or of another schema.
        """
        missing = (
            f"{folder} has no {CONFIG_FILE}, so it is not a GEM checkpoint; if it is a plain "
            "model, make a checkpoint for it with `gem-rag train`"
        )
        path = folder / CONFIG_FILE
        return cls.from_dict(_read(path, missing), where=str(path))

    @classmethod
    def from_dict(cls, raw: dict[str, Any], where: str = "the config") -> GemConfig:
        """Build a config from plain JSON values; unknown or missing fields are errors."""
        return _checked(
            cls,
            raw,
            where,
            base=lambda value: BaseIdentity(**value),
            adapter=lambda value: AdapterConfig(**value),
            preamble_ids=tuple,
            relevance=lambda value: RelevanceWeights(**value),
            answerable=lambda value: AnswerableWeights(**value),
        )


@dataclass(frozen=True)
class SkillConfig:
    """What a skill says about itself: see `gem_rag.compute.skill`.

    Attributes:
        name: What it is asked for by: letters, digits, "-" and "_".
        task: What it does: "answer" writes an answer, "rank" says how well a passage answers.
        base: The base it was trained on.
        prompt: What is put after a passage, with ``{question}`` in it.
        adapter: LoRA hyper-parameters.
        written_by: Version of gem-rag that wrote it.
        schema_version: Version of this file's layout.
    """

    name: str
    task: SkillTask
    base: BaseIdentity
    prompt: str
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    written_by: str = field(default="", compare=False)
    schema_version: int = SCHEMA_VERSION

    def __post_init__(self) -> None:
        _require(
            bool(re.fullmatch(r"[\w-]+", self.name)), "name", self.name, "letters, digits, - _"
        )
        _require(self.task in get_args(SkillTask), "task", self.task, get_args(SkillTask))
        _require("{question}" in self.prompt, "prompt", self.prompt, "{question} in it")
        _require(self.adapter.rank >= 1, "adapter.rank", self.adapter.rank, ">= 1")

    def asked(self, question: str) -> str:
        """The prompt with a question in it."""
        return self.prompt.replace("{question}", question)

    def essence(self) -> str:
        """What of it decides what the skill says, as JSON."""
        facts = [self.task, self.prompt, self.base.weights, self.adapter.alpha, self.adapter.rank]
        return json.dumps(facts)

    def to_json(self) -> str:
        """This config as indented JSON, written by this gem-rag."""
        return _written(self)

    @classmethod
    def from_folder(cls, folder: Path) -> SkillConfig:
        """Read a skill folder's ``config.json``.

        Raises:
            CheckpointError: The file is absent, not JSON, or of another schema.
        """
        path = folder / SKILL_CONFIG
        raw = _read(path, f"{folder} has no {SKILL_CONFIG}, so it is no skill")
        return _checked(
            cls,
            raw,
            str(path),
            base=lambda value: BaseIdentity(**value),
            adapter=lambda value: AdapterConfig(**value),
        )


def _written(config: Any) -> str:
    """Indented JSON of a config, with the version that writes it."""
    try:
        own = version("gem-rag")
    except PackageNotFoundError:  # a source tree that was not installed
        own = ""
    return json.dumps({**dataclasses.asdict(config), "written_by": own}, indent=2) + "\n"


def _read(path: Path, missing: str) -> Any:
    """A JSON file's value; `missing` is the error's text where there is none."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(missing) from None
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({error}); fetch it again") from error


def _checked(kind: type[C], raw: Any, where: str, **nested: Callable[[Any], object]) -> C:
    """A config of plain JSON values, of this schema, with known fields and no others."""
    found = raw.get("schema_version") if isinstance(raw, dict) else None
    if found != SCHEMA_VERSION:
        raise CheckpointError(
            f"{where} has schema version {found!r}; this gem-rag reads {SCHEMA_VERSION}. "
            "Upgrade gem-rag if the checkpoint is newer"
        )
    known = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    if odd := sorted(raw.keys() - known):
        writer = raw.get("written_by") or "a version that is not named"
        raise CheckpointError(
            f"{where} has fields that this gem-rag does not know: {', '.join(odd)}. It was written "
            f"by gem-rag {writer}: upgrade to that, or a later one"
        )
    try:
        made = {name: make(raw[name]) for name, make in nested.items() if name in raw}
        return kind(**{**raw, **made})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{where} does not have the expected fields: {error}") from error


def _require(holds: bool, name: str, found: object, expected: object) -> None:
    if not holds:
        raise CheckpointError(f"{name} is {found!r}; expected {expected}")
