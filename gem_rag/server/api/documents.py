"""`/api/documents`: what is indexed, uploads, and doing it again."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Literal

from fastapi import APIRouter, Query, Request, Response
from starlette.datastructures import UploadFile

from gem_rag.errors import DocumentError
from gem_rag.server import documents
from gem_rag.server.api.bodies import Again, Document, DocumentText, Queued, Uploaded
from gem_rag.server.depends import Ready, Served
from gem_rag.server.errors import ApiError
from gem_rag.server.indexing import sized
from gem_rag.server.service import Loaded, Service
from gem_rag.server.uploads import Uploads

router = APIRouter(tags=["documents"])
FIELD = "files"
UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": [FIELD],
                    "properties": {
                        FIELD: {"type": "array", "items": {"type": "string", "format": "binary"}}
                    },
                }
            }
        },
    }
}


@router.get("/api/documents", response_model=list[Document])
async def all_documents(
    loaded: Ready,
    response: Response,
    q: Annotated[str, Query(max_length=200, description="Words of the name.")] = "",
    state: Literal["queued", "indexing", "ready", "failed"] | None = None,
    offset: Annotated[int, Query(ge=0, le=1 << 31)] = 0,
    limit: Annotated[int, Query(ge=1, le=10_000)] = 1000,
) -> Any:
    """All documents, by name; the header `X-Total-Count` says how many match."""
    shown = await asyncio.to_thread(documents.all_shown, loaded)
    found = documents.matching(shown, q, state)
    response.headers["X-Total-Count"] = str(len(found))
    return [vars(document) for document in found[offset : offset + limit]]


@router.post("/api/documents", response_model=Uploaded, status_code=202, openapi_extra=UPLOAD)
async def upload(request: Request, service: Served) -> dict[str, Any]:
    """Take files; they are on disk when this is answered, and indexed one after the other."""
    loaded, limits = service.loaded, service.settings.limits
    async with request.form(max_files=limits.files, max_fields=limits.files) as form:
        files = [file for file in form.getlist(FIELD) if isinstance(file, UploadFile)]
        if not files:
            raise ApiError(400, f"there is no file in the field {FIELD!r}", param=FIELD)
        taken: list[Path] = []
        refused: list[dict[str, str]] = []
        for file in files:
            name = file.filename or ""
            try:
                taken.append(await asyncio.to_thread(_keep, service.uploads, name, file.file))
            except DocumentError as error:
                refused.append({"name": name, "error": str(error)})
    if not taken:
        raise ApiError(422, "; ".join(one["error"] for one in refused[:5]), "unreadable")
    loaded.indexer.put(await asyncio.to_thread(sized, taken), first=True)
    return {"documents": await _shown(loaded, map(str, taken)), "refused": refused}


def _keep(uploads: Uploads, name: str, content: BinaryIO) -> Path:
    return uploads.put(name, content)


async def _shown(loaded: Loaded, sources: Any) -> list[dict[str, Any]]:
    known = await asyncio.to_thread(
        lambda: [(source, loaded.rag.index.documents.get(source)) for source in sources]
    )
    return [
        vars(documents.shown(loaded, source, None if info is None else info.chunks))
        for source, info in known
    ]


@router.get("/api/documents/{document}", response_model=DocumentText)
async def one_document(document: str, loaded: Ready) -> dict[str, Any]:
    """A document's text, and where its passages lie in it."""

    def found() -> dict[str, Any]:
        return documents.with_text(loaded, documents.source_of(loaded, document))

    return await asyncio.to_thread(found)


@router.delete("/api/documents/{document}", status_code=204)
async def delete(document: str, service: Served) -> Response:
    """Take a document out of the index; an upload's file is deleted, others are left alone."""
    source = await asyncio.to_thread(documents.source_of, service.loaded, document)
    await documents.delete(service, source)
    return Response(status_code=204)


@router.post("/api/documents/reindex", response_model=Queued, status_code=202)
async def reindex_all(which: Again, service: Served) -> dict[str, int]:
    """Index all documents again, or those that failed."""
    loaded = service.loaded
    if which.failed:
        sources = loaded.indexer.failed
    else:
        known = await asyncio.to_thread(loaded.rag.index.documents.all)
        sources = [document.source for document in known]
    there = [source for source in sources if os.path.isfile(source)]  # noqa: PTH113
    await _again(service, there)
    return {"queued": len(there)}


@router.post("/api/documents/{document}/reindex", response_model=Document, status_code=202)
async def reindex(document: str, service: Served) -> dict[str, Any]:
    """Index a document again, although it has not changed."""
    loaded = service.loaded
    source = await asyncio.to_thread(documents.source_of, loaded, document)
    if not Path(source).is_file():
        raise ApiError(409, f"{source} is not there any more; delete the document", "conflict")
    await _again(service, [source])
    [shown] = await _shown(loaded, [source])
    return shown


async def _again(service: Service, sources: list[str]) -> None:
    loaded = service.loaded
    for source in sources:
        await asyncio.to_thread(service.records.take_in, source)
    await loaded.indexer.forget(sources)
    files = await asyncio.to_thread(sized, list(map(Path, sources)))
    loaded.indexer.put(files, first=True)
