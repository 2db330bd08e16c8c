"""Errors as problem details (RFC 9457)."""

from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from sqlalchemy.exc import SQLAlchemyError
from starlette.exceptions import HTTPException

from reward_service.store import CursorError, EarlierStoreError

log = structlog.get_logger()

MEDIA_TYPE = "application/problem+json"


class Problem(BaseModel):
    """What was wrong with a request, or why it cannot be answered."""

    type: str = "about:blank"
    title: str = Field(description="Of the status.")
    status: int
    detail: str = Field(description="What to do differently.")


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """How a route documents its errors."""
    schema = {"$ref": "#/components/schemas/Problem"}
    return {
        status: {"description": HTTPStatus(status).phrase, "content": {MEDIA_TYPE: {"schema": schema}}}
        for status in statuses
    }


def problem(status: int, detail: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The response."""
    body = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return JSONResponse(body.model_dump(), status, headers, media_type=MEDIA_TYPE)


def _mistake(error: dict[str, Any]) -> str:
    """One parameter that cannot be, or several that cannot be together."""
    said = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error" and isinstance(error.get("input"), dict):
        return str(said)
    place = ".".join(map(str, error["loc"]))
    if error["type"] == "extra_forbidden":
        return f"{place}: there is no parameter of this name"
    return f"{place}: {said} (got {str(error.get('input'))[:100]!r})"


def answer_with_problems(app: FastAPI) -> None:
    """Has every error of the application answered so."""

    @app.exception_handler(HTTPException)
    async def refused(_: Request, error: HTTPException) -> JSONResponse:
        return problem(error.status_code, str(error.detail), dict(error.headers or {}))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        return problem(422, "; ".join(map(_mistake, error.errors())))

    @app.exception_handler(CursorError)
    async def damaged(_: Request, error: CursorError) -> JSONResponse:
        return problem(400, str(error))

    @app.exception_handler(EarlierStoreError)
    async def earlier(_: Request, error: EarlierStoreError) -> JSONResponse:
        return problem(409, str(error))

    @app.exception_handler(SQLAlchemyError)
    async def out(request: Request, error: SQLAlchemyError) -> JSONResponse:
        log.error(
            "trace_store_unavailable",
            message="The trace store did not answer a request",
            path=request.url.path,
            error=str(error),
        )
        return problem(503, "the trace store does not answer; scoring goes on", {"Retry-After": "5"})
