"""`/api/folders`: what is watched."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from gem_rag.documents.find import absolute
from gem_rag.server import folders
from gem_rag.server.api.bodies import Folder, NewFolder
from gem_rag.server.depends import Ready, Served
from gem_rag.server.errors import ApiError, not_found
from gem_rag.server.service import Loaded
from gem_rag.server.settings import Settings, is_loopback

router = APIRouter(tags=["folders"])


@router.get("/api/folders", response_model=list[Folder])
async def all_folders(loaded: Ready) -> list[dict[str, Any]]:
    """The folders that are watched."""
    return await _shown(loaded, loaded.folders.all())


@router.post("/api/folders", response_model=Folder, status_code=201)
async def add(new: NewFolder, request: Request, service: Served) -> dict[str, Any]:
    """Watch a folder of the server's machine, now and when it is started again."""
    loaded = service.loaded
    path = _allowed(new.path, request, service.settings)
    if not await asyncio.to_thread(path.is_dir):
        raise ApiError(400, f"there is no folder {new.path!r}; check the path", param="path")
    if path == absolute(service.settings.home) or path.is_relative_to(service.uploads.folder):
        raise ApiError(400, f"{new.path!r} is where the server keeps its own", param="path")
    folder = await loaded.folders.add(path)
    [shown] = await _shown(loaded, [folder])
    return shown


@router.delete("/api/folders/{folder}", status_code=204)
async def remove(
    folder: str,
    loaded: Ready,
    keep: Annotated[bool, Query(description="Leave its documents in the index.")] = False,
) -> Response:
    """Watch a folder no more; its documents leave the index, its files stay."""
    found = loaded.folders.get(folder)
    if found is None:
        raise not_found(f"folder {folder!r}")
    await loaded.folders.remove(found, keep=keep)
    return Response(status_code=204)


def may_add(request: Request) -> bool:
    """Whether who asks may have any folder watched: only from the machine itself."""
    return request.client is not None and is_loopback(request.client.host)


def _allowed(given: str, request: Request, settings: Settings) -> Path:
    """The folder, links followed; below a root where others than this machine ask."""
    if "\0" in given or not Path(given).expanduser().is_absolute():
        raise ApiError(400, f"the path {given!r} is not absolute", param="path")
    path = absolute(given)
    roots = [absolute(root) for root in settings.roots]
    if may_add(request) or any(path.is_relative_to(root) for root in roots):
        return path
    raise ApiError(
        403,
        "folders are added from the server's own machine, or below those that it was started with "
        "(--allow-root)",
        "not_allowed",
    )


async def _shown(loaded: Loaded, some: list[folders.Folder]) -> list[dict[str, Any]]:
    known = await asyncio.to_thread(loaded.rag.index.documents.all)
    counts: dict[str, int] = {}
    for document in known:
        if (inside := loaded.folders.of(document.source)) is not None:
            counts[inside.id] = counts.get(inside.id, 0) + 1
    return [
        {**loaded.folders.shown(folder), "documents": counts.get(folder.id, 0)} for folder in some
    ]
