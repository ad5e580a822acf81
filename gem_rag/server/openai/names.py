"""The names that one model goes by."""

from __future__ import annotations

from gem_rag.config import Task
from gem_rag.server.errors import ApiError
from gem_rag.server.service import Loaded

DOCS, QUERY = ":docs", ":query"


def all_names(loaded: Loaded) -> list[str]:
    """The plain model, the one that answers from the index, the one that embeds questions."""
    return [loaded.name, loaded.name + DOCS, loaded.name + QUERY]


def require_known(loaded: Loaded, name: str) -> None:
    """Refuse a model that is not here.

    Raises:
        ApiError: 404.
    """
    names = all_names(loaded)
    if name not in names:
        raise ApiError(
            404,
            f"there is no model {name!r}; expected one of {', '.join(names)}",
            "model_not_found",
            param="model",
        )


def answers_from_documents(loaded: Loaded, name: str) -> bool:
    """Whether a chat is to answer from the index.

    Raises:
        ApiError: There is no such model, or it does not chat.
    """
    require_known(loaded, name)
    if name.endswith(QUERY):
        raise ApiError(400, f"{name} embeds questions; chat with {loaded.name}", param="model")
    return name.endswith(DOCS)


def task_of(loaded: Loaded, name: str, input_type: Task | None) -> Task:
    """What texts are embedded as.

    Raises:
        ApiError: There is no such model, or name and type contradict each other.
    """
    require_known(loaded, name)
    if not name.endswith(QUERY):
        return input_type or "document"
    if input_type == "document":
        raise ApiError(400, f"{name} embeds questions, not documents", param="input_type")
    return "query"
