"""Registration and discovery over HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from random import Random
from typing import Annotated, cast

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.api.events import Event, EventStream, Streams, holder, last_seen
from app.api.models import Heartbeat, InstanceAnswer, Maintenance, Page, RegisteredAnswer, RegistrationAnswer, ServicesAnswer
from groundwork.auth import Principal
from groundwork.auth.principal import REGISTRY_ADMIN, REGISTRY_READ, REGISTRY_WRITE
from groundwork.backends.blame import ours
from groundwork.discovery.client import DiscoveryClient, ServiceSnapshot
from groundwork.discovery.models import Instance
from groundwork.errors import InvalidRequest, NoInstances
from groundwork.health import HealthRegistry, State
from groundwork.registry.models import Registration, ServiceId, Tag, seconds
from groundwork.registry.policy import AddressPolicy
from groundwork.registry.service import ServiceRegistry
from groundwork.settings import ServiceName
from groundwork.web.guard import requires
from groundwork.web.problem import ProblemError, responses

PREFIX = "/api/v1/services"
MAX_WAIT = 60.0  # seconds of a long poll
MAX_TOLD = 1000  # services whose last event is kept
STRATEGIES = ("random", "round_robin", "weighted_round_robin")
LOCAL_STRATEGIES = ("least_connections", "p2c", "consistent_hash")  # need what only the caller's own process knows

Name = Annotated[ServiceName, Path(description="the service's name")]
Id = Annotated[ServiceId, Path(description="the instance's id")]


Of = Annotated[ServiceName | None, Query(alias="service_name", description="whose instance; needed only by who may change those of several services")]
Reader = Annotated[Principal, Depends(requires(REGISTRY_READ))]
Writer = Annotated[Principal, Depends(requires(REGISTRY_WRITE))]
Beating = Annotated[Principal, Depends(requires(REGISTRY_WRITE, lane="heartbeat"))]


@dataclass(frozen=True, slots=True)
class ServicesApi:
    """What the routes work on."""

    registry: ServiceRegistry
    discovery: DiscoveryClient
    health: HealthRegistry
    policy: AddressPolicy
    streams: Streams
    turns: dict[str, int] = field(default_factory=dict[str, int])  # of round robin, by service
    told: dict[str, tuple[ServiceSnapshot, Event]] = field(default_factory=dict[str, tuple[ServiceSnapshot, Event]])  # to event streams


def _api(request: Request) -> ServicesApi:
    return cast("ServicesApi", request.app.state.services)


Api = Annotated[ServicesApi, Depends(_api)]
RANDOM = Random()  # noqa: S311 - spreads load, no secret
router = APIRouter(prefix=PREFIX, tags=["Services"])


def mount(app: FastAPI, api: ServicesApi) -> None:
    """Serve the routes under `/api/v1/services` on `app`."""
    app.state.services = api
    app.include_router(router)


@router.post(
    "/register",
    status_code=201,
    response_model=RegisteredAnswer,
    responses={
        200: {"model": RegisteredAnswer, "description": "The same instance was registered already"},
        **responses(400, 401, 403, 408, 409, 413, 429, 503),
    },
    summary="Register an instance",
)
async def register(wish: Registration, request: Request, api: Api, caller: Writer, response: Response) -> RegisteredAnswer:
    api.policy.admit(wish, caller=request.client.host if request.client else "", admin=caller.may(REGISTRY_ADMIN))
    outcome = await api.registry.register(wish, caller)
    path = f"{PREFIX}/{wish.service_id}"
    response.headers["Location"] = path
    response.status_code = 201 if outcome.created else 200
    return RegisteredAnswer.of(outcome.stored, path)


@router.put("/{service_id}/heartbeat", status_code=204, responses=responses(400, 401, 403, 404, 408, 409, 413, 429, 503), summary="Renew the lease")
async def heartbeat(service_id: Id, api: Api, caller: Beating, body: Heartbeat | None = None, service: Of = None) -> None:
    await api.registry.heartbeat(service_id, (body or Heartbeat()).health, caller, service=service)


@router.put(
    "/{service_id}/maintenance",
    status_code=204,
    responses=responses(400, 401, 403, 404, 408, 409, 413, 429, 503),
    summary="Take it out of service or back in",
)
async def maintenance(service_id: Id, api: Api, caller: Writer, body: Maintenance, service: Of = None) -> None:
    await api.registry.maintenance(service_id, (body.reason or "maintenance") if body.enabled else None, caller, service=service)


@router.delete("/{service_id}", status_code=204, responses=responses(400, 401, 403, 404, 408, 409, 413, 429, 503), summary="Deregister an instance")
async def deregister(service_id: Id, api: Api, caller: Writer, service: Of = None) -> None:
    await api.registry.deregister(service_id, caller, service=service)


@router.get("", response_model=Page, response_model_exclude_none=True, responses=responses(400, 401, 403, 429, 503), summary="Everything registered")
async def listed(
    api: Api, _caller: Reader, limit: Annotated[int, Query(ge=1, le=1000)] = 100, after: Annotated[str, Query(max_length=200)] = ""
) -> Page:
    page = await api.registry.page(after, limit)
    return Page(services=[RegistrationAnswer.of(stored) for stored in page.stored], next=page.following)


@router.get(
    "/discover/{service_name}",
    response_model=ServicesAnswer,
    responses={304: {"description": "Nothing changed since the ETag"}, **responses(400, 401, 403, 404, 429, 503)},
    summary="The instances of a service; with `index` waits for a change",
)
async def discover(
    service_name: Name,
    request: Request,
    api: Api,
    caller: Reader,
    *,
    healthy_only: bool = True,
    tags: Annotated[list[Tag], Query(max_length=16)] = [],  # noqa: B006 - FastAPI copies it
    zone: Annotated[str, Query(max_length=128)] = "",
    index: Annotated[int | None, Query(ge=0, le=2**63 - 1, description="wait until the index differs from this one")] = None,
    wait: Annotated[str, Query(max_length=12, description="for how long, such as 30s")] = "30s",
) -> Response:
    snapshot = await _snapshot(api, service_name)
    if index is not None and snapshot.index == index:
        with api.streams.one(holder(request, caller)):
            snapshot = await _changed(api, snapshot, _wait(wait))
    headers = {"ETag": f'"{snapshot.index}"', "Age": str(int(snapshot.age)), "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    chosen = _chosen(snapshot, healthy_only=healthy_only, tags=tags, zone=zone)
    return Response(ServicesAnswer.of(snapshot, chosen).model_dump_json(), media_type="application/json", headers=headers)


@router.get(
    "/discover/{service_name}/select", response_model=InstanceAnswer, responses=responses(400, 401, 403, 404, 429, 503), summary="One instance"
)
async def select(
    service_name: Name,
    api: Api,
    _caller: Reader,
    strategy: Annotated[str, Query(max_length=32, description=f"one of {', '.join(STRATEGIES)}")] = "random",
    tags: Annotated[list[Tag], Query(max_length=16)] = [],  # noqa: B006 - FastAPI copies it
    zone: Annotated[str, Query(max_length=128)] = "",
) -> InstanceAnswer:
    if strategy in LOCAL_STRATEGIES:
        raise InvalidRequest(f"strategy {strategy!r} needs the caller's own counts: balance in the client, or use one of {', '.join(STRATEGIES)}")
    if strategy not in STRATEGIES:
        raise InvalidRequest(f"strategy {strategy!r} does not exist: use one of {', '.join(STRATEGIES)}")
    snapshot = await _snapshot(api, service_name)
    candidates = _chosen(snapshot, healthy_only=True, tags=tags, zone=zone)
    if not candidates:
        raise NoInstances(f"{service_name} has no instance that serves and matches")
    if len(api.turns) > 10_000:
        api.turns.clear()
    turn = api.turns[service_name] = api.turns.get(service_name, RANDOM.randrange(len(candidates))) + 1
    return InstanceAnswer.of(_pick(strategy, candidates, turn))


@router.get(
    "/discover/{service_name}/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **responses(400, 401, 403, 404, 429, 503)},
    summary="The instances of a service, again after each change",
)
async def events(service_name: Name, request: Request, api: Api, caller: Reader) -> EventStream:
    """Whoever comes back with the `Last-Event-ID` of what is still so is told only of the next change."""
    await _snapshot(api, service_name)
    changes = _changes(api, service_name, last_seen(request))
    return EventStream(changes, streams=api.streams, caller=caller, request=request, draining=lambda: api.health.state is State.DRAINING)


async def _changes(api: ServicesApi, service: str, seen: int | None) -> AsyncIterator[Event]:
    async for snapshot in api.discovery.watch(service):
        if snapshot.index != seen:
            yield _told(api, snapshot)
        seen = None  # it was the first one that mattered


def _told(api: ServicesApi, snapshot: ServiceSnapshot) -> Event:
    """The event that tells a state, made once for all streams."""
    known = api.told.get(snapshot.service)
    if known is None or known[0] is not snapshot:
        if len(api.told) > MAX_TOLD:
            api.told.clear()
        answer = ServicesAnswer.of(snapshot, list(snapshot.instances))
        known = api.told[snapshot.service] = snapshot, Event("service.changed", snapshot.index, answer.model_dump(mode="json"))
    return known[1]


async def _snapshot(api: ServicesApi, service: str) -> ServiceSnapshot:
    """What is known about a service.

    Raises ProblemError 404 only after a successful answer says so, BackendUnavailable while there is none.
    """
    with ours():  # the name was checked at the door; whatever is wrong from here on is not the caller's doing
        if service in await api.discovery.services(timeout=2.0):  # a name that nobody registered gets no watch
            snapshot = await api.discovery.read(service, timeout=2.0)
            if snapshot.known:
                return snapshot
    raise ProblemError(404, "service-unknown", "No such service", f"service {service} has no registered instance")


async def _changed(api: ServicesApi, known: ServiceSnapshot, wait: float) -> ServiceSnapshot:
    """The first snapshot with another index, or the last one after `wait` seconds or when this process is about to stop."""
    latest = known

    async def follow() -> None:
        nonlocal latest
        async for snapshot in api.discovery.watch(known.service):
            latest = snapshot
            if snapshot.index != known.index:
                return

    following = asyncio.ensure_future(follow())
    try:
        deadline = asyncio.get_running_loop().time() + wait
        while not following.done() and api.health.state is not State.DRAINING:
            left = deadline - asyncio.get_running_loop().time()
            if left <= 0:
                break
            await asyncio.wait({following}, timeout=min(left, 0.5))
    finally:
        following.cancel()
        await asyncio.wait({following})
    return latest


def _wait(text: str) -> float:
    try:
        return min(MAX_WAIT, seconds(text))
    except ValueError as error:
        raise InvalidRequest(f"wait: {error}") from None


def _chosen(snapshot: ServiceSnapshot, *, healthy_only: bool, tags: list[str], zone: str) -> list[Instance]:
    wanted = frozenset(tags)
    return [
        instance
        for instance in (snapshot.serving if healthy_only else snapshot.instances)
        if wanted.issubset(instance.tags) and (not zone or instance.zone == zone)
    ]


def _pick(strategy: str, candidates: list[Instance], turn: int) -> Instance:
    if strategy == "random":
        return RANDOM.choice(candidates)
    if strategy == "round_robin":
        return candidates[turn % len(candidates)]
    at = turn % sum(instance.weight for instance in candidates)
    for instance in candidates:
        at -= instance.weight
        if at < 0:
            return instance
    return candidates[-1]
