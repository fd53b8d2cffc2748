"""Two generations of accounts live at once, and a certificate changes without a restart: what the program promises of every engine."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator
from pathlib import Path

import pytest

from tests.app.accounts.kinds import GONE, KINDS, Alive, ConsulKind, Kind
from tests.app.accounts.runs import mount, said


@pytest.fixture(scope="module", params=KINDS.values(), ids=[*KINDS])
def running(request: pytest.FixtureRequest) -> Generator[Kind]:
    made: type[Kind] = request.param
    kind = made()
    try:
        kind.server.start()
        yield kind
    finally:
        kind.server.close()


@pytest.fixture
async def kind(running: Kind) -> Kind:
    """No test sees the accounts of another one."""
    if not running.server.running:
        running.server.start()
    await running.clear()
    return running


async def ended(alive: Alive) -> bool:
    """Whether the session is over, now or within half a minute: an engine may be told, and do it a moment later."""
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            await asyncio.wait_for(alive(), 10)
        except (*GONE, TimeoutError):
            return True
        await asyncio.sleep(0.1)
    return False


async def test_a_rotation_leaves_the_generation_before_as_it_was(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders", "billing"])
    async with kind.logged_in("orders", 1) as alive:
        await kind.apply(tmp_path, ["orders", "billing"], 2)
        await alive()
    assert await kind.lets_in("orders", 1)
    assert await kind.lets_in("orders", 2)


async def test_the_second_run_refuses_the_generation_before_and_ends_its_sessions(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders"], 2)
    async with kind.logged_in("orders", 1) as alive:
        run = await kind.apply(tmp_path, ["orders"], 2, retire=True)
        assert await ended(alive)
    assert "0 of them changed, 1" in run.last
    assert not await kind.lets_in("orders", 1)
    assert await kind.lets_in("orders", 2)


async def test_a_session_of_the_new_generation_outlives_the_end_of_the_old_one(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders"], 2)
    async with kind.logged_in("orders", 2) as alive:
        await kind.apply(tmp_path, ["orders"], 2, retire=True)
        await alive()


async def test_a_late_run_changes_nothing_while_both_generations_live(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders", "billing"], 2)
    before = await kind.accounts()
    for retire in (False, True):
        run = await kind.apply(tmp_path, ["orders", "search"], 1, retire=retire)
        assert "generation 1 is late" in run.last
    assert await kind.accounts() == before
    assert await kind.lets_in("billing", 2)


async def test_a_late_run_brings_no_retired_account_back(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders"], 2, retire=True)
    before = await kind.accounts()
    for retire in (False, True):
        run = await kind.apply(tmp_path, ["orders"], 1, retire=retire)
        assert "generation 1 is late" in run.last
    assert await kind.accounts() == before
    assert not await kind.lets_in("orders", 1)


async def test_a_late_run_waits_for_no_certificate(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"], 2)
    run = await kind.run(tmp_path, kind.state(["orders"], 1, certificate="0" * 64))
    assert run.code == 0, run.output
    assert "is late" in run.last


async def test_what_was_retired_stays_so_in_a_later_run_of_the_same_generation(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders"], 2, retire=True)
    before = await kind.accounts()
    run = await kind.apply(tmp_path, ["orders"], 2)
    assert "0 of them changed" in run.last
    assert await kind.accounts() == before
    assert not await kind.lets_in("orders", 1)


async def test_accounts_of_a_newer_generation_are_left_alone_even_where_the_engine_has_forgotten_it(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders", "billing"], 3, retire=True)
    before = await kind.accounts()
    await kind.forget()
    await kind.apply(tmp_path, ["orders"], 2, retire=True)
    after = await kind.accounts()
    assert await kind.lets_in("orders", 3)
    assert await kind.lets_in("billing", 3)
    assert {name: each for name, each in after.items() if name in before and not name.startswith("agent")} == {
        name: each for name, each in before.items() if not name.startswith("agent")
    }


async def test_a_client_that_is_no_longer_declared_stays_until_the_others_have_rolled(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders", "billing"])
    await kind.apply(tmp_path, ["orders"])
    assert await kind.lets_in("billing")
    async with kind.logged_in("billing") as alive:
        await kind.apply(tmp_path, ["orders"], retire=True)
        assert await ended(alive)
    assert not await kind.lets_in("billing")
    assert await kind.lets_in("orders")


async def test_a_client_that_comes_back_in_the_same_generation_may_log_in_again(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders", "billing"])
    await kind.apply(tmp_path, ["orders"], retire=True)
    assert not await kind.lets_in("billing")
    await kind.apply(tmp_path, ["orders", "billing"])
    assert await kind.lets_in("billing")


async def test_an_account_from_before_there_were_generations_works_until_the_second_run(kind: Kind, tmp_path: Path) -> None:
    await kind.make_old("orders")
    async with kind.logged_in("orders", 0) as alive:
        await kind.apply(tmp_path, ["orders"])
        await alive()
        assert await kind.lets_in("orders", 0)
        assert await kind.lets_in("orders", 1)
        await kind.apply(tmp_path, ["orders"], retire=True)
        assert await ended(alive)
    assert not await kind.lets_in("orders", 0)
    assert await kind.lets_in("orders", 1)
    await kind.apply(tmp_path, ["orders"])
    assert not await kind.lets_in("orders", 0)


async def test_a_second_run_changes_nothing(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders", "billing"], 2, retire=True)
    before = await kind.accounts()
    run = await kind.apply(tmp_path, ["orders", "billing"], 2, retire=True)
    assert "0 of them changed, 0" in run.last
    assert await kind.accounts() == before


async def test_an_emptied_server_gets_the_accounts_of_its_generation_back(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    await kind.apply(tmp_path, ["orders"], 2, retire=True)
    kind.server.kill()
    kind.server.wipe()
    kind.server.start()
    await kind.apply(tmp_path, ["orders"], 2, retire=True)
    assert await kind.lets_in("orders", 2)
    assert not await kind.lets_in("orders", 1)


async def test_a_server_that_starts_again_knows_accounts_and_generation_still(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"], 2)
    kind.server.restart()
    assert await kind.lets_in("orders", 2)
    assert "is late" in (await kind.apply(tmp_path, ["orders"], 1)).last


async def test_a_renewed_certificate_is_shown_while_open_sessions_go_on(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    renewed = kind.issue()
    async with kind.logged_in("orders") as alive:
        job = asyncio.create_task(kind.apply(tmp_path, ["orders"], certificate=renewed.sha256))
        await said(tmp_path, f"wanted is {renewed.sha256}")  # the kubelet takes its time
        kind.mount(renewed)
        run = await job
        await alive()
    assert "clients can log in" in run.last or "tokens are accepted" in run.last
    again = await kind.run(tmp_path, kind.state(["orders"], certificate=renewed.sha256), wait_seconds=5)
    assert again.code == 0, again.output
    assert await kind.lets_in("orders")


async def test_a_certificate_that_never_comes_is_said_with_what_is_shown_and_what_is_wanted(kind: Kind, tmp_path: Path) -> None:
    shown, wanted = kind.issue(), kind.issue()
    kind.mount(shown)
    await kind.apply(tmp_path, ["orders"], certificate=shown.sha256)
    run = await kind.run(tmp_path, kind.state(["orders"], certificate=wanted.sha256), wait_seconds=3)
    assert run.code == 1
    assert f"shows the certificate {shown.sha256}, wanted is {wanted.sha256}" in run.last
    assert "Secret with the certificate" in run.last


async def test_a_key_that_does_not_fit_is_not_taken_and_the_certificate_before_stays(kind: Kind, tmp_path: Path) -> None:
    if kind.name == "rabbitmq":
        pytest.skip("Erlang reads the files at each handshake: it shows what is there, fitting or not")
    shown, wanted, other = kind.issue(), kind.issue(), kind.issue()
    kind.mount(shown)
    await kind.apply(tmp_path, ["orders"], certificate=shown.sha256)
    kind.mount(type(wanted)(wanted.certificate, other.key))
    run = await kind.run(tmp_path, kind.state(["orders"], certificate=wanted.sha256), wait_seconds=3)
    assert run.code == 1
    assert await kind.lets_in("orders")
    kind.mount(wanted)
    await kind.apply(tmp_path, ["orders"], certificate=wanted.sha256)


async def test_a_certificate_of_the_next_authority_is_taken_where_the_bundle_holds_both(kind: Kind, tmp_path: Path) -> None:
    await kind.apply(tmp_path, ["orders"])
    former = kind.authority
    genuine = kind.server.ca.read_text()
    kind.authority = type(former)("the next CA")
    try:
        kind.server.ca.write_text(former.certificate + kind.authority.certificate)
        renewed = kind.issue()
        kind.mount(renewed)
        await kind.apply(tmp_path, ["orders"], certificate=renewed.sha256)
        assert await kind.lets_in("orders")
    finally:
        kind.authority = former
        back = kind.issue()
        kind.mount(back)
        await kind.apply(tmp_path, ["orders"], certificate=back.sha256)
        kind.server.ca.write_text(genuine)


async def test_each_of_consul_s_servers_must_show_the_certificate(tmp_path: Path) -> None:
    first = ConsulKind()
    second = ConsulKind(first.authority, host="127.0.0.2")
    second.server.port, second.server.password = first.server.port, first.server.password
    renewed = first.issue()
    try:
        for each in (first, second):
            each.server.start()
        mount(first.server, renewed)
        state = {**first.state(["orders"], certificate=renewed.sha256), "servers": ["127.0.0.1", "127.0.0.2"]}
        run = await first.run(tmp_path, state, wait_seconds=3)
        assert run.code == 1
        assert f"127.0.0.2:{first.server.port} shows the certificate" in run.last
        mount(second.server, renewed)
        run = await first.run(tmp_path, state)
        assert run.code == 0, run.output
    finally:
        first.server.close()
        second.server.close()
