"""Configuration over HTTP: values are JSON, writes never overwrite what the writer has not seen."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Annotated, Final, cast

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from fastapi.responses import Response, StreamingResponse

from app.api.changes import ChangeLog
from app.api.events import Event, EventStream, Streams, last_seen
from groundwork.auth import Principal
from groundwork.auth.principal import CONFIG_OWN, CONFIG_READ, CONFIG_WRITE
from groundwork.backends.base import ConfigEntry, ConfigSource
from groundwork.config.codec import PART, Json, decode
from groundwork.config.secrets import REFERENCE
from groundwork.consul.hub import WatchHub
from groundwork.errors import Conflict, InvalidConfig, InvalidRequest, NotFound, NotOwner
from groundwork.health import HealthRegistry, State
from groundwork.web.guard import requires
from groundwork.web.problem import ProblemError, responses

PREFIX: Final = "/api/v1/config"
KEY: Final = f"^{PART}(,{PART})?(/{PART})*$"  # a service, perhaps with a profile, and a key of its
SECRET_NAME: Final = re.compile(r"pass(word|wd)$|secret$|token$|private_?key$|api_?key$", re.IGNORECASE)

_ETAG = re.compile(r'"(?P<index>[0-9]{1,19})"')
_IF_MATCH = {
    "name": "If-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "the ETag of the value that is replaced",
}
_VALUE: dict[str, object] = {"required": True, "content": {"application/json": {"schema": {}}}}

Key = Annotated[str, Path(max_length=400, pattern=KEY, description="such as `documents/limits`")]
Reader = Annotated[Principal, Depends(requires(CONFIG_READ))]
Writer = Annotated[Principal, Depends(requires(CONFIG_OWN, CONFIG_WRITE))]


@dataclass(frozen=True, slots=True)
class ConfigApi:
    """What the routes work on. `watches` holds the one watch that all event streams share, `log` what it has seen."""

    source: ConfigSource
    watches: WatchHub[tuple[ConfigEntry, ...]]
    health: HealthRegistry
    prefix: str
    streams: Streams
    log: ChangeLog


def _api(request: Request) -> ConfigApi:
    return cast("ConfigApi", request.app.state.config)


Api = Annotated[ConfigApi, Depends(_api)]
router = APIRouter(prefix=PREFIX, tags=["Configuration"])


def mount(app: FastAPI, api: ConfigApi) -> None:
    """Serve the routes under `/api/v1/config` on `app`."""
    app.state.config = api
    app.include_router(router)


@router.get(
    "/events",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/event-stream": {}}}, **responses(400, 401, 403, 429, 503)},
    summary="What changes below a prefix",
)
async def events(
    request: Request, api: Api, caller: Reader, prefix: Annotated[str, Query(max_length=400, pattern=f"^({PART}(,{PART})?(/{PART})*/?)?$")] = ""
) -> EventStream:
    """First `config.connected`, then `config.changed` with key, kind (created, updated, deleted) and index; never a value.

    With `Last-Event-ID` what was missed comes first. `complete` false says that this replica does not know what was missed: read again.
    """
    changes = _changes(api, api.prefix + prefix, last_seen(request))
    return EventStream(changes, streams=api.streams, caller=caller, request=request, draining=lambda: api.health.state is State.DRAINING)


@router.get(
    "/{key:path}",
    response_class=Response,
    responses={
        200: {"content": {"application/json": {"schema": {}}}},
        304: {"description": "Nothing changed since the ETag"},
        **responses(400, 401, 403, 404, 429, 503),
    },
    summary="A value",
)
async def read(key: Key, request: Request, api: Api, _caller: Reader) -> Response:
    """The value as it was written; its ETag is what a write needs."""
    found = await api.source.get(_stored_key(api, key))
    if found is None:
        raise NotFound(f"{key} is not set")
    headers = {"ETag": _etag(found), "Cache-Control": "no-cache"}
    if request.headers.get("if-none-match") == headers["ETag"]:
        return Response(status_code=304, headers=headers)
    return Response(found.value, media_type="application/json" if _is_json(found.value) else "application/octet-stream", headers=headers)


@router.put(
    "/{key:path}",
    response_class=Response,
    status_code=204,
    responses={201: {"description": "Created"}, 204: {"description": "Replaced"}, **responses(400, 401, 403, 408, 412, 413, 415, 428, 429, 503)},
    openapi_extra={"requestBody": _VALUE, "parameters": [_IF_MATCH]},
    summary="Create a value, or replace the one that If-Match names",
)
async def write(key: Key, request: Request, api: Api, caller: Writer) -> Response:
    """A new key needs no precondition; an existing one needs `If-Match` with its ETag, so that no write is lost."""
    _check_owner(caller, key)
    media = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if media != "application/json":
        raise ProblemError(415, "unsupported-media-type", "Unsupported media type", "send the value as application/json")
    body = await request.body()
    _validate(key, body)
    expected = await _expected(api, key, request)
    try:
        entry = await api.source.put(_stored_key(api, key), body, cas=expected)
    except Conflict:
        raise _lost(key, created=expected == 0) from None
    headers = {"ETag": _etag(entry)} | ({"Location": f"{PREFIX}/{key}"} if expected == 0 else {})
    return Response(status_code=201 if expected == 0 else 204, headers=headers)


@router.delete(
    "/{key:path}",
    response_class=Response,
    status_code=204,
    responses=responses(400, 401, 403, 404, 408, 412, 413, 428, 429, 503),
    openapi_extra={"parameters": [_IF_MATCH]},
    summary="Remove the value that If-Match names",
)
async def remove(key: Key, request: Request, api: Api, caller: Writer) -> Response:
    """Needs `If-Match` with the value's ETag."""
    _check_owner(caller, key)
    expected = await _expected(api, key, request)
    if expected == 0:
        raise NotFound(f"{key} is not set")
    try:
        await api.source.delete(_stored_key(api, key), cas=expected)
    except Conflict:
        raise _lost(key, created=False) from None
    return Response(status_code=204)


async def _expected(api: ConfigApi, key: str, request: Request) -> int:
    """The index that a write may replace: 0 where there must be nothing yet.

    Raises ProblemError 412 where If-Match cannot hold, 428 where a value exists and If-Match is missing.
    """
    wanted = request.headers.get("if-match")
    if wanted is not None and wanted != "*":
        match = _ETAG.fullmatch(wanted.strip())
        if match is None or int(match["index"]) == 0:
            raise _lost(key, created=False)
        return int(match["index"])
    current = await api.source.get(_stored_key(api, key))
    if wanted == "*":
        if current is None:
            raise _lost(key, created=False)
        return current.modify_index
    if current is None:
        return 0
    if request.headers.get("if-none-match") == "*":
        raise _lost(key, created=True)
    raise ProblemError(428, "config-conflict", "If-Match is needed", f"{key} exists: read it and send its ETag as If-Match")


def _check_owner(caller: Principal, key: str) -> None:
    """Raises NotOwner unless the caller may write the configuration of the service that `key` begins with."""
    service = re.split("[,/]", key, maxsplit=1)[0]
    if not caller.configures(service):
        raise NotOwner(f"{caller.subject} may not write the configuration of {service}: scope {CONFIG_OWN} is for one's own, {CONFIG_WRITE} for all")


def _lost(key: str, *, created: bool) -> ProblemError:
    detail = f"{key} exists already" if created else f"{key} is not what If-Match names: read it again"
    return ProblemError(412, "config-conflict", "The value has changed", detail)


def _stored_key(api: ConfigApi, key: str) -> str:
    """The key in the store, always below the configuration's prefix."""
    if key == "events" or re.fullmatch(KEY, key) is None:  # `..` and empty parts do not match
        raise InvalidRequest(f"key {key!r}: write SERVICE/NAME or SERVICE,PROFILE/NAME, of letters, digits and . _ -")
    return api.prefix + key


def _etag(entry: ConfigEntry) -> str:
    return f'"{entry.modify_index}"'


def _is_json(value: bytes) -> bool:
    try:
        json.loads(value)
    except (ValueError, RecursionError):
        return False
    return True


def _validate(key: str, body: bytes) -> None:
    """Raises InvalidConfig unless `body` is JSON as every reader understands it, without a secret."""
    try:
        value = decode(body)
    except InvalidConfig as error:
        raise InvalidConfig(f"{key}: {error}") from None
    _refuse_secrets(key, value)


def _refuse_secrets(key: str, value: Json) -> None:
    if isinstance(value, dict):
        for name, item in value.items():
            if isinstance(item, str) and item and name != REFERENCE and SECRET_NAME.search(name):
                raise InvalidConfig(f'{key}: {name} looks like a secret, which is never kept here: write {{"{REFERENCE}": "<name>"}} instead')
            _refuse_secrets(key, item)
    elif isinstance(value, list):
        for item in value:
            _refuse_secrets(key, item)


async def _changes(api: ConfigApi, prefix: str, seen: int | None) -> AsyncIterator[Event]:
    log = api.log
    position: int | None = None
    with api.watches.lease(
        api.prefix, "config", lambda: api.source.tree(api.prefix), listener=lambda _, update: log.seen(update), on_drop=log.forget
    ) as lease:
        async with lease.query.subscribe() as updates:
            async for _ in updates:
                if position is None:
                    position = log.end if seen is None else log.position(seen)
                    # Whoever gets missed changes next has not seen the newest index yet.
                    yield _connected(log.index if position is None or seen is None else seen, log.index, complete=position is not None)
                changes = None if position is None else log.after(position)
                if changes is None and position is not None:  # a reader so slow that what it missed is not kept any more
                    yield _connected(log.index, log.index, complete=False)
                position = log.end
                for change in changes or ():
                    if change.key.startswith(prefix):
                        yield change.event


def _connected(last: int, index: int, *, complete: bool) -> Event:
    return Event("config.connected", last, {"index": index, "complete": complete})
