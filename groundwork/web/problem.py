"""Errors over HTTP as RFC 9457 problems: one shape for all of them, a stable type per kind, nothing of the inside."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus

import aiohttp
import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from groundwork import errors
from groundwork.consul import errors as consul

MEDIA_TYPE = "application/problem+json"
PREFIX = "urn:platform:problem:"
MAX_ERRORS = 20  # of one request are listed

log = structlog.stdlib.get_logger(__name__)


class FieldError(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="where it stands, such as `body.port`")
    message: str


class Problem(BaseModel):
    """An error (RFC 9457)."""

    type: str = Field(description="what kind of problem, stable", examples=["urn:platform:problem:instance-conflict"])
    title: str
    status: int
    detail: str
    instance: str = Field(description="the path that was asked for")
    trace_id: str = ""
    errors: list[FieldError] | None = None
    retry_after: int | None = Field(default=None, description="seconds after which a repetition makes sense")


class ProblemError(Exception):
    """An answer that is a problem. `kind` is the last part of its type."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str,
        *,
        errors: Sequence[FieldError] = (),
        retry_after: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status, self.kind, self.title, self.detail = status, kind, title, detail
        self.errors, self.retry_after, self.headers = tuple(errors), retry_after, dict(headers or {})


# The most precise type first: a subclass before its base.
_KNOWN: tuple[tuple[type[errors.PlatformError], int, str, str], ...] = (
    (errors.BackendRefused, 503, "backend-unavailable", "The back end refuses the platform"),
    (errors.UnusableToken, 503, "backend-unavailable", "The back end refuses the platform"),
    (consul.SessionUnknown, 503, "backend-unavailable", "The back end refuses the platform"),
    (consul.TxnConflict, 503, "backend-unavailable", "The back end refuses the platform"),
    (errors.InstanceConflict, 409, "instance-conflict", "Service ID already exists"),
    (errors.InstanceAmbiguous, 409, "instance-ambiguous", "Which service's instance?"),
    (errors.Conflict, 409, "conflict", "The write lost against another one"),
    (errors.NotOwner, 403, "permission-denied", "Not the owner"),
    (errors.QuotaExceeded, 403, "quota-exceeded", "As many as one caller may have"),
    (errors.ServiceUnknown, 503, "service-unknown", "Something behind this service is away"),  # whom it calls, not what it was asked for
    (errors.InstanceUnknown, 404, "instance-unknown", "No such instance"),
    (errors.NotFound, 404, "not-found", "Not found"),
    (errors.AddressNotAllowed, 400, "address-not-allowed", "The address must not be checked"),
    (errors.PayloadTooLarge, 413, "payload-too-large", "Too large"),
    (errors.InvalidConfig, 400, "config-invalid", "The value cannot be used"),
    (errors.InvalidRequest, 400, "validation", "The request is not valid"),
    (errors.NoInstances, 503, "no-healthy-instance", "No instance can be picked now"),
    (errors.StaleData, 503, "backend-unavailable", "The back end cannot be reached"),
    (errors.BackendUnavailable, 503, "backend-unavailable", "The back end cannot be reached"),
    (errors.PermissionDenied, 503, "backend-unavailable", "The back end refuses the platform"),
)
RETRY_SECONDS = 1
AWAY = (aiohttp.ClientError, TimeoutError)  # what comes out of a call to another service that nobody has turned into an error of its own


def from_error(error: errors.PlatformError) -> ProblemError:
    """The problem that an error of the runtime is to an HTTP client. Words of the back end stay inside."""
    for kind, status, name, title in _KNOWN:
        if isinstance(error, kind):
            detail = str(error) if status < 500 or kind in {errors.NoInstances, errors.ServiceUnknown} else f"{title}; try again"
            return ProblemError(status, name, title, detail, retry_after=RETRY_SECONDS if status == 503 else None)
    return ProblemError(500, "internal", "Internal error", "the error was logged under this trace id")


def render(problem: ProblemError, *, path: str, trace_id: str) -> Response:
    """The HTTP answer."""
    body = Problem(
        type=PREFIX + problem.kind,
        title=problem.title,
        status=problem.status,
        detail=_plain(problem.detail),
        instance=_plain(path),
        trace_id=trace_id,
        errors=[FieldError(field=_plain(one.field), message=_plain(one.message)) for one in problem.errors] or None,
        retry_after=problem.retry_after,
    )
    headers = dict(problem.headers)
    if problem.retry_after is not None:
        headers["Retry-After"] = str(problem.retry_after)
    return Response(body.model_dump_json(exclude_none=True), status_code=problem.status, media_type=MEDIA_TYPE, headers=headers)


def _plain(text: str) -> str:
    """What the caller sent may hold half of a surrogate pair, which no encoding of text can say."""
    return text.encode("utf-8", "replace").decode()


def install(app: FastAPI, unavailable: tuple[type[Exception], ...] = ()) -> None:
    """Makes every error of `app` a problem. Those in `unavailable` say that something behind the service is away."""

    def answer(request: Request, problem: ProblemError) -> Response:
        return render(problem, path=request.scope["path"], trace_id=str(request.scope.get("trace_id", "")))

    async def on_problem(request: Request, error: Exception) -> Response:
        assert isinstance(error, ProblemError)
        return answer(request, error)

    async def on_platform_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, errors.PlatformError)
        problem = from_error(error)
        if problem.status >= 500:
            log.warning("request failed", error=type(error).__name__, detail=str(error))
        return answer(request, problem)

    async def on_validation(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = [FieldError(field=".".join(str(part) for part in e["loc"]), message=str(e["msg"])) for e in error.errors()[:MAX_ERRORS]]
        detail = "; ".join(f"{e.field}: {e.message}" for e in found[:3]) or "the request is not valid"
        return answer(request, ProblemError(400, "validation", "The request is not valid", detail, errors=found))

    async def on_http(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        title = _phrase(error.status_code)
        kind = "validation" if error.status_code == 400 else title.lower().replace(" ", "-")
        return answer(request, ProblemError(error.status_code, kind, title, title, headers=error.headers))

    async def on_unavailable(request: Request, error: Exception) -> Response:
        log.warning("something behind this service is away", error=type(error).__name__)
        title = "Something behind this service is away"
        return answer(request, ProblemError(503, "backend-unavailable", title, "try again", retry_after=RETRY_SECONDS))

    for kind in (*AWAY, *unavailable):
        app.add_exception_handler(kind, on_unavailable)
    app.add_exception_handler(ProblemError, on_problem)
    app.add_exception_handler(errors.PlatformError, on_platform_error)
    app.add_exception_handler(RequestValidationError, on_validation)
    app.add_exception_handler(HTTPException, on_http)


def _phrase(status: int) -> str:
    """The status in words, also one that only its service knows, such as 499."""
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Client error" if status < 500 else "Server error"


def responses(*codes: int) -> dict[int | str, dict[str, object]]:
    """The problems that an operation may answer, for its OpenAPI description."""
    return {
        code: {"description": HTTPStatus(code).phrase, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
        for code in codes
    }
