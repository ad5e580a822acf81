"""What goes in and out of `/api`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from gem_rag.server.answering import Answering, Finding

QUESTION_CHARACTERS = 20_000
TITLE_CHARACTERS = 200


class Body(BaseModel):
    """Fields that are not known are an error, not silently left out."""

    model_config = ConfigDict(extra="forbid")


class Said(Body):
    """An earlier message of a conversation."""

    role: Literal["user", "assistant"] = Field(examples=["user"])
    content: str = Field(examples=["How long is the warranty?"])


class Ask(Answering, Body):
    """A question."""

    question: str = Field(
        min_length=1,
        max_length=QUESTION_CHARACTERS,
        pattern=r"\S",
        examples=["How long is the warranty?"],
    )
    history: list[Said] = Field([], description="Earlier messages; not with `conversation`.")
    temperature: float = Field(0.0, ge=0, le=2)
    max_tokens: int = Field(256, ge=1, le=1 << 20)
    seed: int | None = Field(None, ge=0, lt=1 << 63)
    conversation: str | None = Field(None, description="Id of the one it is kept in.")
    replaces: str | None = Field(
        None, description="Id of a question in it, which is taken out with all that follows."
    )


class Search(Finding, Body):
    """What is looked for."""

    question: str = Field(
        min_length=1, max_length=QUESTION_CHARACTERS, pattern=r"\S", examples=["warranty"]
    )
    k: int = Field(10, ge=1, le=200, description="Passages that are given.")


class Citation(BaseModel):
    """A passage and where it is from; places count code points."""

    model_config = ConfigDict(extra="allow")

    source: str
    document: str | None
    name: str
    start: int
    end: int
    text: str
    heading: str
    page: int | None
    id: str
    score: float | None
    rank_score: float | None
    word_score: float | None
    fused_score: float | None
    sources: list[str]
    metadata: dict[str, Any]
    quote_start: int | None = None
    quote_end: int | None = None


class SearchAnswer(BaseModel):
    """What was found, best first."""

    citations: list[Citation]
    timings: dict[str, float]


class Document(BaseModel):
    """A document in a list."""

    id: str = Field(examples=["d_8c1f"])
    source: str = Field(examples=["/home/me/notes/kettle.md"])
    name: str = Field(examples=["kettle.md"])
    folder: str | None = Field(examples=["f_77aa"])
    state: Literal["queued", "indexing", "ready", "failed"]
    chunks: int
    error: str | None


class PassagePlace(BaseModel):
    """Where a passage lies in its document's text."""

    id: str
    start: int
    end: int
    heading: str
    page: int | None


class DocumentText(Document):
    """A document, its text, and where its passages lie."""

    text: str | None
    passages: list[PassagePlace]


class Refused(BaseModel):
    """A file that is not taken."""

    name: str
    error: str


class Uploaded(BaseModel):
    """What became of an upload; what is in `documents` is on disk."""

    documents: list[Document]
    refused: list[Refused]


class Again(Body):
    """What is to be indexed again."""

    failed: bool = Field(False, description="Only what failed.")


class Queued(BaseModel):
    """How many documents wait now."""

    queued: int


class NewFolder(Body):
    """A folder on the server's machine."""

    path: str = Field(min_length=1, max_length=4096, examples=["/home/me/notes"])


class Folder(BaseModel):
    """A watched folder."""

    id: str = Field(examples=["f_77aa"])
    path: str = Field(examples=["/home/me/notes"])
    state: Literal["looking", "watching", "away"]
    looked: str | None = Field(examples=["2026-11-27T16:50:00.000Z"])
    documents: int


class Title(Body):
    """A conversation's title."""

    title: str = Field("", max_length=TITLE_CHARACTERS, examples=["Warranties"])


class Message(BaseModel):
    """What was said; an answer has more fields, as `done` of `/api/ask` has them."""

    model_config = ConfigDict(extra="allow")

    id: str = Field(examples=["m_1"])
    role: Literal["user", "assistant"]
    content: str
    created: str


class ConversationEntry(BaseModel):
    """A conversation in a list."""

    id: str = Field(examples=["c_5f0e"])
    title: str
    created: str
    updated: str
    count: int


class Conversation(ConversationEntry):
    """A conversation with what was said."""

    messages: list[Message]


class Key(Body):
    """The key that the server was started with."""

    key: str = Field(max_length=1000, examples=["abc"])


class ModelFacts(BaseModel):
    """The model."""

    name: str = Field(examples=["smollm2-135m-instruct"])
    embeds: bool
    max_context: int
    skills: list[str]


class Defaults(BaseModel):
    """What is done where a question says nothing."""

    k: int
    context: int
    mode: str
    rank: bool
    temperature: float
    max_tokens: int
    threshold: float | None


class Bounds(BaseModel):
    """What is taken at most."""

    file_bytes: int
    upload_bytes: int
    files: int
    max_tokens: int | None
    suffixes: list[str]


class FolderRules(BaseModel):
    """Whether who asks may add folders, and below which; anywhere where none is named."""

    allowed: bool
    roots: list[str]


class Settings(BaseModel):
    """All there is to know; without the key the first two fields alone."""

    key_needed: bool
    state: Literal["loading", "ready", "stopping", "failed"]
    version: str | None = None
    model: ModelFacts | None = None
    defaults: Defaults | None = None
    modes: list[str] | None = None
    limits: Bounds | None = None
    folders: FolderRules | None = None
    index: str | None = None
    documents: int | None = None
    passages: int | None = None
