"""Makes the FastAPI application of a service."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from starlette.types import Scope

from groundwork.health import HealthRegistry, State
from groundwork.metrics import Metrics
from groundwork.web import problem
from groundwork.web.guard import Guard
from groundwork.web.health import health_router
from groundwork.web.middleware import BodyLimit, RequestContext


def create_app(
    title: str,
    *,
    version: str,
    health: HealthRegistry,
    metrics: Metrics,
    guard: Guard,
    docs: bool,
    details: str,
    body_limit: Callable[[Scope], int],
    description: str = "",
    unavailable: tuple[type[Exception], ...] = (),
) -> FastAPI:
    """An application with health routes, problems, request ids, access log and limits. `docs`: whether `/docs` and the schema are served.

    An error of a type in `unavailable` becomes a 503. `details`: who may see the single checks on /health, `never`, `authorized` (scope
    health:details) or `always`.
    """
    app = FastAPI(
        title=title,
        version=version,
        description=description,
        docs_url="/docs" if docs else None,
        redoc_url=None,
        redirect_slashes=False,  # a redirect would lead to whatever host the request named
        openapi_url="/openapi.json" if docs else None,
        telemetry={"metrics": False, "logs": False},  # RequestContext counts and logs; traces go to whatever provider a team sets
    )
    app.state.guard = guard
    problem.install(app, unavailable)
    app.add_middleware(BodyLimit, limit=body_limit)
    app.add_middleware(RequestContext, metrics=metrics, draining=lambda: health.state is State.DRAINING)  # added last: outermost
    app.include_router(health_router(health, guard, details))

    def openapi() -> dict[str, object]:
        if not app.openapi_schema:
            app.openapi_schema = _honest(get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes))
        return app.openapi_schema

    app.openapi = openapi  # pyright: ignore[reportAttributeAccessIssue] - the documented way to change the schema
    return app


def _honest(schema: dict[str, object]) -> dict[str, object]:
    """The schema as it is served: validation errors are problems with status 400, never FastAPI's 422."""
    components = cast("dict[str, dict[str, object]]", schema.setdefault("components", {}))
    schemas = components.setdefault("schemas", {})
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    described = problem.Problem.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(described.pop("$defs"))
    schemas["Problem"] = described
    paths = cast("dict[str, dict[str, dict[str, dict[str, object]]]]", schema.get("paths", {}))
    for operation in (operation for operations in paths.values() for operation in operations.values()):
        answers = operation["responses"]
        if answers.pop("422", None) is not None:
            answers.setdefault("400", problem.responses(400)[400])
    return schema
