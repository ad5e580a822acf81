"""What goes wrong, in one shape for all of the server: OpenAI's."""

from __future__ import annotations

import errno
import logging
import sqlite3
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from gem_rag.errors import (
    ContextLengthError,
    DiskFullError,
    DocumentError,
    EngineFull,
    GemError,
    GenerationTimeout,
)

RETRY_SECONDS = 1
_KINDS = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
_GONE = 499  # as nginx calls it; nobody reads it
_CODES = {404: "not_found", 405: "method_not_allowed", 413: "too_large"}
_log = logging.getLogger("gem_rag.server")


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str = Field(examples=["dimensions is 512; the model has 576"])
    type: str = Field(examples=["invalid_request_error"])
    param: str | None = Field(None, examples=["dimensions"])
    code: str | None = Field(None, examples=["invalid_value"])


class ErrorBody(BaseModel):
    """Every error's shape."""

    error: ErrorDetail


RESPONSES: dict[int | str, dict[str, Any]] = {
    "4XX": {"model": ErrorBody, "description": "What was asked cannot be done; `error` says why."},
    "5XX": {"model": ErrorBody, "description": "Not now, or a full disk; `error` says why."},
}


class ClientGone(Exception):  # noqa: N818
    """Whoever asked is not there any more."""


class ApiError(HTTPException):
    """An answer that is an error.

    Args:
        status: HTTP's.
        message: What was found, what was expected, what to do.
        code: What programs tell it by.
        param: The field that is wrong.
        retry_after: Seconds after which to ask again.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str = "invalid_value",
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        headers = None if retry_after is None else {"Retry-After": str(retry_after)}
        super().__init__(status, message, headers)
        self.code = code
        self.param = param

    @property
    def body(self) -> dict[str, Any]:
        """Its JSON."""
        return _body(self.status_code, str(self.detail), self.code, self.param)

    def response(self) -> JSONResponse:
        """It as an answer."""
        return JSONResponse(self.body, self.status_code, self.headers)


def _body(status: int, message: str, code: str | None, param: str | None = None) -> dict[str, Any]:
    kind = _KINDS.get(status, "invalid_request_error" if status < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def queue_full(message: str) -> ApiError:
    """Too many ask at once."""
    return ApiError(429, message, "queue_full", retry_after=RETRY_SECONDS)


def not_found(what: str) -> ApiError:
    """There is no such thing."""
    return ApiError(404, f"there is no {what}", "not_found")


def require_few(count: int, most: int, param: str) -> None:
    """Refuse more of something than this server gives.

    Raises:
        ApiError: 400.
    """
    if count > most:
        raise ApiError(400, f"{param} is {count}; expected at most {most}", param=param)


def stopping() -> ApiError:
    """The server is ending."""
    return ApiError(503, "the server is stopping; what came so far stays", "stopping")


def as_api_error(error: BaseException) -> ApiError | None:
    """An error of the library or the system as an answer; None for what is a bug."""
    match error:
        case ApiError():
            return error
        case EngineFull():
            return queue_full(str(error))
        case ContextLengthError():
            return ApiError(400, str(error), "context_length_exceeded", param="messages")
        case GenerationTimeout():
            return ApiError(503, str(error), "timeout")
        case DiskFullError():
            return _disk_full(str(error))
        case DocumentError():
            return ApiError(422, str(error), "unreadable")
        case GemError():
            return ApiError(400, str(error))
        case OSError() if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _disk_full(f"the disk is full ({error})")
        case sqlite3.OperationalError() if "full" in str(error):
            return _disk_full(f"the disk is full ({error})")
        case _:
            return None


def _disk_full(message: str) -> ApiError:
    return ApiError(507, f"{message}; what was there stays; make room", "disk_full")


def error_body(error: BaseException) -> dict[str, Any]:
    """The JSON of any error, for a stream that has begun."""
    known = as_api_error(error)
    return _unknown(error) if known is None else known.body


def install(app: FastAPI) -> None:
    """Give all of an app's errors their shape."""
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(ClientGone, _of_nobody)
    for kind in (GemError, OSError, sqlite3.OperationalError, Exception):
        app.add_exception_handler(kind, _of_any)


def _of_http(_: Request, error: Exception) -> JSONResponse:
    if isinstance(error, ApiError):
        return error.response()
    assert isinstance(error, HTTPException)
    status = error.status_code
    body = _body(status, str(error.detail), _CODES.get(status, "invalid_value"))
    return JSONResponse(body, status, error.headers)


def _of_nobody(_: Request, error: Exception) -> Response:
    del error
    return Response(status_code=_GONE)


def _of_validation(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first: Mapping[str, Any] = error.errors()[0]
    place = [str(part) for part in first["loc"] if part not in ("body", "query", "path")]
    param = ".".join(place) or None
    message = f"{param}: {first['msg']}" if param else str(first["msg"])
    return ApiError(400, message, param=param).response()


def _of_any(_: Request, error: Exception) -> JSONResponse:
    known = as_api_error(error)
    return JSONResponse(_unknown(error), 500) if known is None else known.response()


def _unknown(error: BaseException) -> dict[str, Any]:
    _log.error("a bug", exc_info=error)
    return _body(500, f"a bug of the server: {type(error).__name__}; its log says more", "bug")
