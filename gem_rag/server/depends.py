"""What routes ask for."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request

from gem_rag.server.service import Loaded, Service


def service_of(request: Request) -> Service:
    """The service behind the app."""
    service: Service = request.app.state.service
    return service


def loaded_of(request: Request) -> Loaded:
    """What is there once the model is loaded; 503 until then."""
    return service_of(request).loaded


async def place_of(request: Request) -> AsyncIterator[None]:
    """A place in the queue until the answer is sent; 429 where there is none."""
    service = service_of(request)
    _ = service.loaded
    with service.admission.place():
        yield


Served = Annotated[Service, Depends(service_of)]
Ready = Annotated[Loaded, Depends(loaded_of)]
Place = Depends(place_of)
