"""The configuration of one service: read from memory, kept current by one watch per tree, written with compare-and-set."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Final, Self, TypeVar

from prometheus_client import REGISTRY, CollectorRegistry
from pydantic import BaseModel, SecretStr

from groundwork.backends.base import ConfigEntry, ConfigSource
from groundwork.config import keeper
from groundwork.config.binding import Bound
from groundwork.config.codec import MAX_VALUE, Json, check_key, encode, look_up, own, replace, same
from groundwork.config.layers import Layer, from_environment, from_files, from_mapping, from_secrets, merged, prefixes
from groundwork.config.metrics import config_metrics
from groundwork.config.secrets import REFERENCE, SecretsFolder, stamp
from groundwork.config.subscription import Callback, ConfigSubscription, Seen
from groundwork.consul.hub import Lease, WatchHub
from groundwork.consul.metrics import consul_metrics
from groundwork.consul.pacing import CONFIG, WatchOptions
from groundwork.consul.watch import Update
from groundwork.errors import InvalidConfig, NotFound, PayloadTooLarge
from groundwork.supervision import Supervisor, Work

M = TypeVar("M", bound=BaseModel)
Entries = tuple[ConfigEntry, ...]
log = logging.getLogger(__name__)

CALLBACK_SECONDS: Final = 10.0
SAVE_SECONDS: Final = 5.0  # for the last write of the file at the end
FILES_SECONDS: Final = 5.0  # between two looks at mounted files; Kubernetes itself takes up to a minute to change them


class _Required:
    """Stands for "no default"."""


_REQUIRED: Final = _Required()


@dataclass(frozen=True, slots=True)
class _State:
    """Everything that one generation says. Replaced whole."""

    tree: dict[str, Json] = field(default_factory=dict[str, Json])
    generation: int = 0
    index: int = 0


class ConfigStore:
    """Use it as an async context manager; entering starts the watches and does not wait for them (`ready` does).

    Layers, each over the one before: `defaults`, the trees `application/`, `application,{profile}/`, `{app}/`, `{app},{profile}/` below `prefix`,
    the folder `files` (a mounted ConfigMap), the names in `secrets_dir`, variables `PLATFORM_CONFIG__A__B`. Within one tree every change is seen
    whole, however many keys it has. `snapshot_file` keeps the last known good trees for a start without the back end.
    """

    def __init__(
        self,
        source: ConfigSource,
        app: str,
        profile: str = "",
        *,
        prefix: str = "config/",
        defaults: Mapping[str, Json] | None = None,
        files: Path | None = None,
        secrets_dir: Path | None = None,
        environment: Mapping[str, str] | None = None,
        snapshot_file: Path | None = None,
        options: WatchOptions = CONFIG,
        callback_timeout: float = CALLBACK_SECONDS,
        files_interval: float = FILES_SECONDS,
        registry: CollectorRegistry = REGISTRY,
        random: Random | None = None,
        supervisor: Supervisor | None = None,
    ) -> None:
        self._source = source
        self._prefixes = prefixes(prefix, app, profile)
        self._own = f"{prefix}{app}/"
        self._files = files
        self._secrets_dir = secrets_dir
        self._secrets = SecretsFolder(secrets_dir)
        self._snapshot_file = snapshot_file
        self._callback_timeout = callback_timeout
        self._files_interval = files_interval
        self._metrics = config_metrics(registry)
        self._supervisor = supervisor or Supervisor(registry=registry)
        self._hub: WatchHub[Entries] = WatchHub(options, consul_metrics(registry), self._supervisor, random=random)
        self._leases: dict[str, Lease[Entries]] = {}
        self._entries: dict[str, Entries] = {}
        self._bound: list[Bound[BaseModel]] = []
        self._subscriptions: set[ConfigSubscription] = set()
        self._looking: Work | None = None
        self._save = asyncio.Event()
        self._keeping: Work | None = None
        self._closing = False
        self._defaults = from_mapping("defaults", defaults or {})
        self._trees = {name: Layer(name) for name in self._prefixes}
        self._environment = from_environment("environment", os.environ if environment is None else environment)
        self._stamp: object = None
        self._mounted: tuple[Layer, ...] = ()
        self._unusable: dict[str, str] = {}
        self._on_loaded: list[Callable[[], None]] = []
        self._state = _State()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self._read_files)
        kept: keeper.Trees = {}
        if self._snapshot_file is not None:
            kept = await asyncio.to_thread(keeper.load, self._snapshot_file, self._prefixes)
            for name, entries in kept.items():
                self._entries[name] = entries
                self._report(self._trees[name], self._trees[name].load(entries))
        self._rebuild(0)
        for name in self._prefixes:
            self._leases[name] = self._watch(name)
        if self._files is not None or self._secrets_dir is not None:
            self._looking = self._supervisor.start(self._look_at_files, name="config-files")
        file = self._snapshot_file
        if file is not None:
            self._keeping = self._supervisor.start(lambda: self._keep(file, kept), name="config-snapshot", endless=False)
        self._metrics.store(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Stop watches and callbacks, and finish the last known good file. Values stay readable."""
        if self._looking is not None:
            await self._looking.aclose()
        await asyncio.gather(*(subscription.aclose() for subscription in tuple(self._subscriptions)))
        await self._hub.aclose()
        if self._keeping is not None and self._keeping.task is not None:
            self._closing = True
            self._save.set()
            await asyncio.wait({self._keeping.task}, timeout=SAVE_SECONDS)
            await self._keeping.aclose()

    async def ready(self, timeout: float = 10.0) -> None:  # noqa: ASYNC109 the reason for the failure is kept
        """Wait until every tree was read once.

        Raises DeadlineExceeded after `timeout` seconds, PermissionDenied where a tree was refused.
        """
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(_outcome(lease, timeout)) for lease in self._leases.values()]
        for task in waiting:
            error = task.result()
            if error is not None:
                raise error

    # Reading, from memory

    def get(self, key: str, default: Json | _Required = _REQUIRED) -> Json:
        """The value at `key` with all layers merged; references to secrets stay references.

        Raises NotFound without a `default` where there is none: a value made up for an outage would be worse than none.
        """
        present, value = look_up(self._state.tree, key)
        if present and key:
            return own(value)
        check_key(key)
        if isinstance(default, _Required):
            raise NotFound(f"config {key} is not set in any layer: set it, for instance at {self._own}{key}")
        return default

    def secret(self, key: str) -> SecretStr:
        """The secret that the value at `key` refers to, as it is mounted now.

        Raises NotFound where nothing is set, InvalidConfig where it is no reference or leads nowhere.
        """
        value = self._secrets.resolve(self.get(key))
        if not isinstance(value, SecretStr):
            raise InvalidConfig(f'config {key} is no reference to a secret: write {{"{REFERENCE}": "name"}} there')
        return value

    def bind(self, key: str, model: type[M]) -> Bound[M]:
        """A typed view of the subtree at `key` (empty: of all), in force until the store is closed. `bound.current` is always valid.

        Raises InvalidConfig where the value that is there now cannot be used; later ones that cannot are rejected and the last good one stays.
        """
        _, value = look_up(self._state.tree, check_key(key) if key else key)
        bound = Bound(key, model, self._secrets, value)
        self._bound.append(bound)  # pyright: ignore[reportArgumentType] a view of any model is swapped the same way
        return bound

    def subscribe(self, key: str, callback: Callback) -> ConfigSubscription:
        """Call `callback` with each later change of the value at `key` (empty: of anything), deletion included. It may be a coroutine or not."""
        if key:
            check_key(key)
        look = lambda: self._seen(key)  # noqa: E731 a closure over the key
        subscription = ConfigSubscription(key, callback, look(), look, self._metrics, supervisor=self._supervisor, timeout=self._callback_timeout)
        subscription.bind(self._subscriptions.discard)
        self._subscriptions.add(subscription)
        return subscription

    @property
    def generation(self) -> int:
        """How many different states this process has seen."""
        return self._state.generation

    @property
    def problems(self) -> Mapping[str, str]:
        """What is wrong with which key or place, values left out."""
        layers = self._layers()
        found = {
            f"{layer.name}{key}" if layer.name.endswith("/") else f"{layer.name}:{key}": why
            for layer in layers
            for key, why in layer.problems.items()
        }
        return found | self._unusable | {bound.key or "/": str(bound.error) for bound in self._bound if bound.error is not None}

    @property
    def age(self) -> float:
        """Seconds since the oldest of the trees was last known to be current: 0 while all watches are connected."""
        return max((lease.query.freshness.age for lease in self._leases.values()), default=0.0)

    @property
    def loaded(self) -> bool:
        """Whether every tree was read at least once, or comes from the last known good file."""
        return all(name in self._entries for name in self._prefixes)

    @property
    def on_defaults(self) -> bool:
        """Whether somebody has bound a model and so far works with what mounted files and the code say."""
        return bool(self._bound) and not self.loaded

    def on_loaded(self, listener: Callable[[], None]) -> None:
        """Call `listener` when the last tree has been read for the first time."""
        self._on_loaded.append(listener)

    @property
    def stale(self) -> bool:
        """Whether one of the trees cannot be read now; its last known good state is in force."""
        return any(lease.query.freshness.stale for lease in self._leases.values())

    # Writing

    async def put(self, key: str, value: Json, *, cas: int | None = None) -> ConfigEntry:
        """Write a value into the service's own tree. `cas`: only over that `modify_index`, 0: only where there is nothing.

        Raises Conflict, PayloadTooLarge above 512 KiB, and PermissionDenied: most services may only read.
        """
        raw = encode(value)
        if len(raw) > MAX_VALUE:
            raise PayloadTooLarge(f"config {key} would have {len(raw)} bytes, at most {MAX_VALUE} can be kept: split it")
        return await self._source.put(self._own + check_key(key), raw, cas=cas)

    async def delete(self, key: str, *, cas: int | None = None) -> None:
        """Remove a value from the service's own tree. Raises Conflict, PermissionDenied."""
        await self._source.delete(self._own + check_key(key), cas=cas)

    # How a new state comes about

    def _watch(self, name: str) -> Lease[Entries]:
        return self._hub.lease(name, f"config:{name}", lambda: self._source.tree(name), listener=lambda _, update: self._tree_changed(name, update))

    def _tree_changed(self, name: str, update: Update[Entries]) -> None:
        before = self.loaded
        try:
            self._report(self._trees[name], self._trees[name].load(update.value))
            self._rebuild(update.index)
        except Exception as error:
            self._unusable[name] = f"{type(error).__name__}: the state before stays in force"
            self._metrics.rejected(name)
            raise  # the watch counts it, and lives
        self._unusable.pop(name, None)
        self._entries[name] = update.value
        self._save.set()
        if self.loaded and not before:
            for listener in self._on_loaded:
                listener()

    def _report(self, layer: Layer, keys: tuple[str, ...]) -> None:
        for key in keys:
            self._metrics.rejected(key)
            log.warning("config %s%s is rejected: %s", layer.name, key, layer.problems[key])

    def _layers(self) -> tuple[Layer, ...]:
        return (self._defaults, *self._trees.values(), *self._mounted, self._environment)

    def _rebuild(self, index: int) -> None:
        """Merge the layers, let the bound models judge, and put the result in force by one assignment."""
        tree = merged(self._layers())
        for bound in self._bound:
            _, value = look_up(tree, bound.key)
            known, old = look_up(self._state.tree, bound.key)
            before = str(bound.error)
            if not bound.accepts(value):
                if str(bound.error) != before:  # once, not with every change elsewhere
                    self._metrics.rejected(bound.key or "/")
                    log.warning("config %s is rejected: %s", bound.key or "/", bound.error)
                if bound.key:
                    replace(tree, bound.key, old, present=known)
                elif isinstance(old, dict):
                    tree = dict(old)
        for bound in self._bound:
            if bound.error is None:
                bound.swap()
        if same(tree, self._state.tree) and self._state.generation:
            return
        self._state = _State(tree, self._state.generation + 1, index)
        self._metrics.changed(self._state.generation)
        for subscription in self._subscriptions:
            subscription.wake()

    def _seen(self, key: str) -> Seen:
        present, value = look_up(self._state.tree, key)
        return Seen(present, value, self._state.index, self._state.generation)

    def _read_files(self) -> bool:
        """Look at what is mounted; whether it has changed. What cannot be read leaves the state before in force."""
        try:
            now = (stamp(self._files), stamp(self._secrets_dir))
            if now == self._stamp:
                return False
            before = next((layer for layer in self._mounted if layer.name == "files"), None)
            layers = (from_files("files", self._files, before), from_secrets("secrets", self._secrets))
        except OSError as error:  # the kubelet replaces a folder while it is read: the next look sees the new one
            if "mounted files" not in self._unusable:
                log.warning("mounted configuration cannot be read now (%s)", error.strerror)
            self._unusable["mounted files"] = f"cannot be read ({error.strerror})"
            return False
        self._unusable.pop("mounted files", None)
        for layer in layers:
            self._report(layer, tuple(layer.problems))
        self._mounted, self._stamp = layers, now
        return True

    async def _look_at_files(self) -> None:
        while True:
            await asyncio.sleep(self._files_interval)
            if await asyncio.to_thread(self._read_files):
                self._rebuild(0)

    async def _keep(self, path: Path, written: keeper.Trees) -> None:
        """Write the file after each change, and before the end what was not yet written. It holds `written` now."""
        self._save.set()  # after a failure something may be left to write
        while True:
            await self._save.wait()
            self._save.clear()
            last, entries = self._closing, dict(self._entries)
            if entries != written:
                await asyncio.to_thread(keeper.save, path, entries)
                written = entries
            if last:
                return


async def _outcome(lease: Lease[Entries], timeout: float) -> Exception | None:  # noqa: ASYNC109 the reason for the failure is kept
    """How the first read of a tree ended."""
    try:
        await lease.query.loaded(timeout)
    except Exception as error:  # handed to the caller once all trees are through
        return error
    return None
