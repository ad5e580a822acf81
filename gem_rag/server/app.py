"""The app: routes, their errors, the page, and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.staticfiles import StaticFiles
from starlette.middleware.gzip import GZipMiddleware

from gem_rag import __version__
from gem_rag.server import errors, metrics, reference
from gem_rag.server.api import ask, conversations, documents, events, folders, search, settings
from gem_rag.server.guard import Guard
from gem_rag.server.openai import chat, embeddings, models, rerank
from gem_rag.server.service import Service

PAGE = Path(__file__).parent / "page"
ROUTERS = [
    module.router
    for module in (
        *(models, embeddings, chat, rerank),
        *(ask, search, documents, folders, conversations, events, settings),
    )
]
ABOUT = "Ask your documents, and one local model for chat, embeddings and ranks."


def create_app(service: Service) -> FastAPI:
    """The app of a service; it starts the service, and ends it."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.start()
        yield
        await service.close()

    app = FastAPI(
        title="gem-rag",
        version=__version__,
        description=ABOUT,
        lifespan=lifespan,
        docs_url=None,  # their pages need scripts from elsewhere
        redoc_url=None,
        separate_input_output_schemas=False,
    )
    app.state.service = service
    for router in ROUTERS:
        app.include_router(router, responses=errors.RESPONSES)
    app.include_router(metrics.router)
    app.include_router(reference.router)
    errors.install(app)
    page = GZipMiddleware(StaticFiles(directory=PAGE, html=True, check_dir=False))
    app.mount("/", page, name="page")
    app.add_middleware(metrics.Measured, service=service)
    app.add_middleware(Guard, settings=service.settings, keys=service.keys)
    return app
