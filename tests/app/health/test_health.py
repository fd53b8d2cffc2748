"""Health: each fault of the source document (H1 to H10) refused, and items 35 and 36 of the reliability list."""

from __future__ import annotations

import asyncio
import socket

import pytest

from groundwork.auth import TokenVerifier
from groundwork.health import CheckFailed, Finding, HealthRegistry, State, Status
from groundwork.metrics import Metrics
from groundwork.supervision import Pauses, Supervisor
from groundwork.web.guard import Guard
from tests.app.auth.issuer import issuer
from tests.app.health.support import Probe, client, fails, hang, hang_until, registry, until, well

SECRET = "postgresql://app:S3cret@db:5432/app"


async def settled(health: HealthRegistry, *probes: Probe) -> None:
    """Each of them was run at least once."""
    health.start()
    await until(lambda: all(probe.name in health.details().checks for probe in probes))


async def test_h2_failing_is_503_and_warning_is_200() -> None:
    for critical, status, http in ((True, Status.FAIL, 503), (False, Status.WARN, 200)):
        health, probe = registry(), Probe(behaviour=fails(OSError()))
        health.add(probe, critical=critical)
        await settled(health, probe)
        async with client(health) as http_client:
            answer = await http_client.get("/health/ready")
        assert (answer.status_code, answer.json()) == (http, {"status": status.value})
        assert answer.headers["content-type"] == "application/health+json"
        await health.stop()


async def test_h3_an_error_is_named_and_never_quoted() -> None:
    health, probe = registry(), Probe(behaviour=fails(ConnectionError(SECRET)))
    health.add(probe)
    await settled(health, probe)
    async with client(health, details="always") as http:
        answer = await http.get("/health")
    assert "ConnectionError" in answer.text
    assert "S3cret" not in answer.text
    await health.stop()


async def test_h3_a_checks_own_words_are_shown() -> None:
    health, probe = registry(), Probe(behaviour=fails(CheckFailed("read-only")))
    health.add(probe)
    await settled(health, probe)
    assert health.details().checks["probe"].output == "read-only"
    await health.stop()


async def test_h3_details_need_the_scope() -> None:
    with issuer() as running:
        verifier = TokenVerifier([running.settings])
        guard = Guard(verifier, metrics=Metrics(), rate=1e6)
        health, probe = registry(), Probe()
        health.add(probe)
        await settled(health, probe)
        async with client(health, details="authorized", guard=guard) as http:
            without = await http.get("/health")
            wrong = await http.get("/health", headers={"Authorization": f"Bearer {running.token(scope='registry:read')}"})
            broken = await http.get("/health", headers={"Authorization": "Bearer nonsense"})
            right = await http.get("/health", headers={"Authorization": f"Bearer {running.token(scope='health:details')}"})
        assert without.content == wrong.content == broken.content == b'{"status": "pass"}'
        assert right.json()["checks"]["probe:responseTime"][0]["status"] == "pass"
        await verifier.close()
        await health.stop()


async def test_r35_h4_twenty_hanging_checks_answer_within_one_timeout() -> None:
    health, probes = registry(), [Probe(f"p{n}", hang) for n in range(20)]
    for probe in probes:
        health.add(probe, timeout=0.2)
    begin = asyncio.get_running_loop().time()
    await settled(health, *probes)
    assert asyncio.get_running_loop().time() - begin < 20 * 0.2  # one after another would take at least this long
    assert {result.output for result in health.details().checks.values()} == {"timeout"}
    await health.stop()


async def test_r35_a_check_that_swallows_its_cancellation_stops_nobody() -> None:
    behaviour_ended = asyncio.Event()
    health, stubborn, other = registry(), Probe("stubborn", hang_until(behaviour_ended)), Probe("other")
    health.add(stubborn, timeout=0.05, critical=False)
    health.add(other)
    try:
        await settled(health, stubborn, other)
        assert health.ready().http_status == 200
        assert health.details().checks["stubborn"].output == "timeout"
        async with asyncio.timeout(10):
            await health.stop()
    finally:
        behaviour_ended.set()


@pytest.mark.parametrize("error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), BaseException(SECRET)])
async def test_r35_a_check_that_raises_more_than_an_exception_only_fails(error: BaseException) -> None:
    health, probe = registry(), Probe(behaviour=fails(error))
    health.add(probe)
    await settled(health, probe)
    assert health.details().checks["probe"].output == type(error).__name__
    assert health.ready().status is Status.FAIL
    await health.stop()


async def test_r35_h5_a_thousand_probes_cause_no_call_of_their_own() -> None:
    health, probe = registry(), Probe()
    health.add(probe, ttl=3600)
    await settled(health, probe)
    async with client(health) as http:
        for _ in range(1000):
            assert (await http.get("/health/ready")).status_code == 200
    assert probe.calls == 1
    await health.stop()


async def test_h6_a_result_is_a_type_and_no_truth_value() -> None:
    """A check says what is wrong by raising; what it returns does not matter."""

    async def returns_something() -> None:
        return {"connection": "down"}  # pyright: ignore[reportReturnType] - what the source document took for good

    health, probe = registry(), Probe(behaviour=returns_something)
    health.add(probe)
    await settled(health, probe)
    assert health.ready().status is Status.PASS
    await health.stop()


async def test_h7_a_dependency_that_is_not_required_never_unreadies() -> None:
    health, consul = registry(), Probe("consul", fails(OSError()))
    health.add(consul, critical=False)
    await settled(health, consul)
    assert health.ready().http_status == 200
    await health.stop()


async def test_h9_the_body_is_the_same_bytes_for_the_same_state() -> None:
    health, probe = registry(), Probe(behaviour=fails(OSError("a")))
    health.add(probe, ttl=0.01)
    await settled(health, probe)
    async with client(health) as http:
        first = await http.get("/health/ready")
        calls = probe.calls
        await until(lambda: probe.calls > calls)
        second = await http.get("/health/ready")
    assert first.content == second.content
    await health.stop()


async def test_h10_started_ready_draining_broken() -> None:
    health = HealthRegistry(service="test")
    states: list[tuple[int, int, int]] = []

    async def look() -> None:
        async with client(health) as http:
            found = [(await http.get(f"/health/{path}")).status_code for path in ("started", "ready", "live")]
        states.append((found[0], found[1], found[2]))

    await look()
    health.mark_ready()
    await look()
    health.mark_draining()
    await look()
    health.mark_broken()
    await look()
    assert states == [(503, 503, 200), (200, 200, 200), (200, 503, 200), (503, 503, 503)]


async def test_a_draining_process_never_becomes_ready_again() -> None:
    health = registry()
    health.mark_draining()
    health.mark_ready()
    assert health.state is State.DRAINING


async def test_r36_liveness_touches_no_dependency(monkeypatch: pytest.MonkeyPatch) -> None:
    health = registry()
    health.add(Probe(behaviour=fails(OSError())))

    def forbidden(*_: object) -> None:
        raise AssertionError("liveness opened a socket")

    async with client(health) as http:
        with monkeypatch.context() as patched:  # the loop itself may want a socket to end
            patched.setattr(socket, "socket", forbidden)
            assert (await http.get("/health/live")).status_code == 200


async def test_nothing_outside_decides_whether_a_process_lives() -> None:
    with pytest.raises(ValueError, match="never decides liveness"):
        registry().add(Probe(), groups={"live"})


async def test_a_check_that_was_never_run_counts_as_failing() -> None:
    health = registry()
    health.add(Probe())
    assert health.ready().status is Status.FAIL


async def history(*results: bool) -> list[Status]:
    """Readiness after each of the results of one check."""
    health, probe = registry(), Probe()
    health.add(probe, ttl=0.001)
    remaining, seen = list(results), list[Status]()
    turn = asyncio.Event()

    async def next_result() -> None:
        if probe.calls > 1:
            seen.append(health.ready().status)
        if not remaining:
            turn.set()
            await asyncio.Event().wait()
        if not remaining.pop(0):
            raise CheckFailed("bad")

    probe.behaviour = next_result
    health.start()
    async with asyncio.timeout(20):
        await turn.wait()
    await health.stop()
    return seen


P, F = Status.PASS, Status.FAIL


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([True, False, True, True], [P, P, P, P]),  # one lost packet
        ([True, False, False], [P, P, F]),  # two of three
        ([True, False, True, False], [P, P, P, F]),
        ([False, True], [F, P]),  # at the start one good answer is enough
        ([True, False, False, True, True], [P, P, F, F, P]),  # back after two
    ],
)
async def test_two_of_three_results_decide(results: list[bool], expected: list[Status], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("groundwork.health.registry._SOON", 0.001)
    assert await history(*results) == expected


async def test_a_change_of_readiness_is_told_at_once() -> None:
    health, told = registry(), asyncio.Event()
    health.on_change(told.set)
    health.mark_draining()
    assert told.is_set()


async def test_checks_give_back_what_they_hold() -> None:
    health, probe = registry(), Probe(behaviour=well)
    health.add(probe)
    await settled(health, probe)
    await health.stop()
    assert probe.closed


async def test_a_check_is_an_object_with_a_name_and_run() -> None:
    class Plain:
        name = "plain"

        async def run(self) -> None:
            raise CheckFailed("empty")

    health = registry()
    health.add(Plain())
    health.start()
    await until(lambda: "plain" in health.details().checks)
    result = health.details().checks["plain"]
    assert (result.component_type, result.output) == ("component", "empty")
    await health.stop()


async def test_r60_a_check_whose_task_is_killed_is_asked_again() -> None:
    metrics = Metrics()
    supervisor = Supervisor(registry=metrics.registry, pauses=Pauses(first=0.001))
    health, probe = HealthRegistry(service="test", metrics=metrics, supervisor=supervisor), Probe()
    health.add(probe, ttl=3600)
    await settled(health, probe)
    (work,) = supervisor.works
    assert work.task is not None
    work.task.cancel()
    await until(lambda: probe.calls == 2)
    assert metrics.registry.get_sample_value("background_failures_total", {"task": "health"}) == 1
    await health.stop()


@pytest.mark.parametrize(("status", "ready", "shown"), [(Status.PASS, 200, False), (Status.WARN, 200, True), (Status.FAIL, 503, True)])
async def test_what_the_process_says_about_itself_counts(status: Status, ready: int, shown: bool) -> None:
    health, told = registry(), asyncio.Event()
    finding = Finding(Status.PASS)
    health.observe("configuration", lambda: finding)
    health.refresh()
    health.on_change(told.set)
    finding = Finding(status, "code defaults")
    health.refresh()
    assert health.ready().http_status == ready
    assert told.is_set() == (ready == 503)
    assert ("configuration" in health.details().checks) == shown
    assert health.details().status is status


async def test_a_part_that_cannot_even_say_how_it_is_does_not_take_health_away() -> None:
    health = registry()
    health.observe("configuration", lambda: Finding(Status(str(1 // 0))))
    assert health.ready().http_status == 200
    assert health.details().checks["configuration"].output == "ZeroDivisionError"


@pytest.mark.parametrize("times", [{"timeout": 0.0}, {"ttl": -1.0}])
def test_times_that_cannot_work_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        registry().add(Probe(), timeout=times.get("timeout", 1.0), ttl=times.get("ttl", 1.0))


def test_two_checks_of_one_name_are_refused() -> None:
    health = registry()
    health.add(Probe())
    with pytest.raises(ValueError, match="exists already"):
        health.add(Probe())
