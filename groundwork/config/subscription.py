"""Callbacks on changes. Each has a task of its own and sees the latest state, so that none can hold up another or the loop."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from groundwork.config.codec import Json, same
from groundwork.config.metrics import ConfigMetrics
from groundwork.supervision import Supervisor

log = logging.getLogger(__name__)


class ChangeKind(StrEnum):
    """What happened to a key."""

    CREATED = "created"
    UPDATED = "updated"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class ConfigChange:
    """A change of the value at `key`, whose parts are joined by `/`. Secrets stand in `old` and `new` as references.

    `index` is the back end's for the answer that brought it, 0 for files. `generation` counts this process's states and only grows.
    """

    key: str
    kind: ChangeKind
    old: Json
    new: Json
    index: int
    generation: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What a subscriber knows."""

    present: bool
    value: Json
    index: int
    generation: int


Callback = Callable[[ConfigChange], Awaitable[None] | None]


class ConfigSubscription:
    """A callback in force until `close`. A slow one misses the states in between; one that raises or hangs is logged and gets the next change.

    Functions that are not coroutines run in a thread, since one that blocks would stop everything else.
    """

    def __init__(
        self,
        key: str,
        callback: Callback,
        seen: Seen,
        look: Callable[[], Seen],
        metrics: ConfigMetrics,
        *,
        supervisor: Supervisor,
        timeout: float,
    ) -> None:
        self.key = key
        self._callback = callback
        self._seen = seen
        self._look = look
        self._metrics = metrics
        self._timeout = timeout
        self._wake = asyncio.Event()
        self._closed = False
        self._loop = asyncio.get_running_loop()
        self._hanging: asyncio.Future[Awaitable[None] | None] | None = None
        self._on_close: Callable[[ConfigSubscription], None] | None = None
        self._work = supervisor.start(self._run, name=f"config-subscription:{key}")

    def bind(self, on_close: Callable[[ConfigSubscription], None]) -> None:
        """Called by the store, to be told when this ends."""
        self._on_close = on_close

    def wake(self) -> None:
        """There may be something new."""
        self._wake.set()

    def close(self) -> None:
        """No further calls; may be called from within the callback, and from any thread."""
        self._closed = True
        try:
            here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            here = False
        if here:
            self._close()
        elif not self._loop.is_closed():  # from the callback's thread
            self._loop.call_soon_threadsafe(self._close)

    async def aclose(self) -> None:
        """The same, and wait for the task's end."""
        self.close()
        await self._work.aclose()

    def _close(self) -> None:
        self._work.stop()
        if self._on_close is not None:
            self._on_close(self)

    async def _run(self) -> None:
        self._wake.set()  # after a failure it may have missed something
        while not self._closed:
            await self._wake.wait()
            if self._hanging is not None:  # a second thread beside one that hangs would be the first of many
                await asyncio.wait({self._hanging})
                self._hanging = None
            self._wake.clear()
            now = self._look()
            change = _difference(self.key, self._seen, now)
            self._seen = now
            if change is not None and not self._closed:
                await self._deliver(change)

    async def _deliver(self, change: ConfigChange) -> None:
        task = asyncio.current_task()
        try:
            async with asyncio.timeout(self._timeout):
                if inspect.iscoroutinefunction(self._callback):
                    await self._callback(change)
                else:
                    self._hanging = _in_thread(self._callback, change)
                    result = await asyncio.shield(self._hanging)
                    self._hanging = None
                    if inspect.isawaitable(result):
                        await result
        except TimeoutError:
            self._metrics.callback_failed("timeout")
            log.warning("the callback on config %s did not return within %g s", self.key, self._timeout)
        except asyncio.CancelledError:
            if task is not None and task.cancelling():
                raise
            self._metrics.callback_failed("CancelledError")  # the callback's own doing
        except Exception as error:
            self._metrics.callback_failed(type(error).__name__)
            log.exception("the callback on config %s failed", self.key)


def _in_thread(callback: Callback, change: ConfigChange) -> asyncio.Future[Awaitable[None] | None]:
    """Run a function in a thread of its own: a shared pool would fill up with those that never return."""
    loop = asyncio.get_running_loop()
    done: asyncio.Future[Awaitable[None] | None] = loop.create_future()
    context = contextvars.copy_context()

    def settle(result: Awaitable[None] | None, error: BaseException | None) -> None:
        if done.done():
            return
        if error is None:
            done.set_result(result)
        else:
            done.set_exception(error if isinstance(error, Exception) else RuntimeError(type(error).__name__))

    def run() -> None:
        result: Awaitable[None] | None = None
        failure: BaseException | None = None
        try:
            result = context.run(callback, change)
        except BaseException as error:  # whatever it is, the subscriber's task must hear of it
            failure = error
        try:
            loop.call_soon_threadsafe(settle, result, failure)
        except RuntimeError:
            return  # the loop has ended; nobody waits any more

    threading.Thread(target=run, name="config callback", daemon=True).start()
    done.add_done_callback(lambda ended: ended.cancelled() or ended.exception())  # its error counts as seen, also after a timeout
    return done


def _difference(key: str, old: Seen, new: Seen) -> ConfigChange | None:
    if old.present == new.present and same(old.value, new.value):
        return None
    kind = ChangeKind.UPDATED if old.present and new.present else ChangeKind.CREATED if new.present else ChangeKind.DELETED
    return ConfigChange(key, kind, old.value, new.value, new.index, new.generation)
