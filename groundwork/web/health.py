"""The health routes. Probes need no token and get bytes that only change with the state (a Consul check stores what it sees)."""

from __future__ import annotations

import json
from collections.abc import Mapping

from fastapi import APIRouter, Request
from fastapi.responses import Response

from groundwork.auth.principal import HEALTH_DETAILS
from groundwork.health import HealthRegistry, Report, Status
from groundwork.metrics import CONTENT_TYPE, Metrics
from groundwork.web.guard import Guard
from groundwork.web.problem import ProblemError

MEDIA_TYPE = "application/health+json"
_BODIES: Mapping[Status, bytes] = {status: json.dumps({"status": status.value}).encode() for status in Status}
_DESCRIPTION: dict[int | str, dict[str, object]] = {
    200: {"description": "pass or warn", "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}},
    503: {"description": "fail", "content": {MEDIA_TYPE: {"schema": {"type": "object"}}}},
}


def health_router(health: HealthRegistry, guard: Guard, details: str) -> APIRouter:
    """`/health` and its three probes. `details`: `never`, `authorized` or `always`."""
    router = APIRouter(tags=["Health"])

    def answer(report: Report, body: bytes | None = None) -> Response:
        return Response(body or _BODIES[report.status], report.http_status, media_type=MEDIA_TYPE, headers={"Cache-Control": "no-store"})

    async def may_see(request: Request) -> bool:
        if details != "authorized":
            return details == "always"
        try:
            principal = await guard.principal(request)
        except ProblemError:
            return False  # a probe without a token is no error
        return principal.may(HEALTH_DETAILS)

    @router.get("/health", responses=_DESCRIPTION, response_class=Response, summary="Readiness; with scope health:details also every check")
    async def whole(request: Request) -> Response:
        if not await may_see(request):
            return answer(health.ready())
        report = health.details()
        return answer(report, _detailed(health, report))

    @router.get("/health/live", responses=_DESCRIPTION, response_class=Response, summary="Would a restart help? Never looks at a dependency")
    async def live() -> Response:
        return answer(health.live())

    @router.get("/health/ready", responses=_DESCRIPTION, response_class=Response, summary="Should this instance get requests?")
    async def ready() -> Response:
        return answer(health.ready())

    @router.get("/health/started", responses=_DESCRIPTION, response_class=Response, summary="Has it started?")
    async def started() -> Response:
        return answer(health.started())

    del whole, live, ready, started  # registered; nobody calls them by name
    return router


def metrics_route(router: APIRouter, metrics: Metrics) -> None:
    """`/metrics` on the service's own port, for a service that has no second one."""

    @router.get("/metrics", response_class=Response, summary="Metrics in the Prometheus text format")
    async def text() -> Response:
        return Response(metrics.text(), media_type=CONTENT_TYPE)

    del text


def _detailed(health: HealthRegistry, report: Report) -> bytes:
    checks: dict[str, list[dict[str, object]]] = {}
    for name, result in sorted(report.checks.items()):
        entry: dict[str, object] = {"componentType": result.component_type, "status": result.status.value, "time": result.observed_at}
        entry |= {"observedValue": result.response_ms, "observedUnit": "ms"}
        if result.output:
            entry["output"] = result.output
        checks[f"{name}:responseTime"] = [entry]
    body = {"status": report.status.value, "serviceId": health.service, "version": health.version, "notes": [report.state.value], "checks": checks}
    return json.dumps(body).encode()
