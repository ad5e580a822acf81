"""`/api/settings` and `/api/auth`: what there is to know, and being let in."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter, Request, Response

from gem_rag import __version__
from gem_rag.documents.kinds import KNOWN
from gem_rag.index.address import shown
from gem_rag.rag.retrieve import CANDIDATES
from gem_rag.server.api.bodies import Key, Settings
from gem_rag.server.api.folders import may_add
from gem_rag.server.depends import Served
from gem_rag.server.errors import ApiError
from gem_rag.server.keys import COOKIE
from gem_rag.server.service import Loaded

router = APIRouter(tags=["settings"])
MAX_TOKENS = 256
WRONG_KEY_SECONDS = 0.5  # that a wrong key waits for its answer
COOKIE_SECONDS = 365 * 24 * 3600


@router.get("/api/settings", response_model=Settings, response_model_exclude_unset=True)
async def settings(request: Request, service: Served) -> dict[str, Any]:
    """What the page needs to know; without the key, whether one is needed."""
    if not service.keys.admits(request.headers):
        return {"key_needed": True, "state": service.state}
    loaded, limits = service.loaded_or_none, service.settings.limits
    counts = {"documents": 0, "passages": 0}
    if loaded is not None:
        counts = await asyncio.to_thread(_counts, loaded)
    return {
        "key_needed": False,
        "state": service.state,
        "version": __version__,
        "model": None if loaded is None else _model(loaded),
        "defaults": None if loaded is None else _defaults(loaded),
        "modes": ["hybrid", "vector", "words"],
        "limits": {
            "file_bytes": limits.file_bytes,
            "upload_bytes": limits.upload_bytes,
            "files": limits.files,
            "max_tokens": None if loaded is None else loaded.model.max_context,
            "suffixes": sorted(KNOWN),
        },
        "folders": {
            "allowed": may_add(request) or bool(service.settings.roots),
            "roots": [] if may_add(request) else [str(root) for root in service.settings.roots],
        },
        "index": shown(service.settings.index or service.settings.home),
        **counts,
    }


def _counts(loaded: Loaded) -> dict[str, int]:
    index = loaded.rag.index
    return {"documents": len(index.documents), "passages": index.count()}


def _model(loaded: Loaded) -> dict[str, Any]:
    model = loaded.model
    return {
        "name": loaded.name,
        "embeds": model.embeds,
        "max_context": model.max_context,
        "skills": model.skills,
    }


def _defaults(loaded: Loaded) -> dict[str, Any]:
    return {
        "k": CANDIDATES,
        "context": loaded.rag.context,
        "mode": loaded.rag.mode,
        "rank": loaded.rag.rank,
        "temperature": 0.0,
        "max_tokens": MAX_TOKENS,
        "threshold": loaded.rag.threshold,
    }


@router.post("/api/auth", status_code=204)
async def log_in(given: Key, request: Request, service: Served) -> Response:
    """Have the page remember that its user knows the key, in a cookie that no script reads."""
    if not service.keys.fits(given.key):
        await asyncio.sleep(WRONG_KEY_SECONDS)
        raise ApiError(401, "that is not the key", "invalid_api_key", param="key")
    response = Response(status_code=204)
    response.set_cookie(
        COOKIE,
        service.keys.cookie,
        max_age=COOKIE_SECONDS,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.delete("/api/auth", status_code=204)
async def log_out() -> Response:
    """Forget that."""
    response = Response(status_code=204)
    response.delete_cookie(COOKIE, httponly=True, samesite="strict")
    return response
