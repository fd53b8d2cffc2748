"""Addresses and names that would turn the registry against its own network (R5, items 39 and 40 of the reliability list)."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from groundwork.errors import AddressNotAllowed, InvalidSettings
from groundwork.registry.models import CheckSpec, Registration, seconds
from groundwork.registry.policy import AddressPolicy

POD = "10.244.1.7"
POLICY = AddressPolicy(["10.244.0.0/16", "fd00:10:244::/56", "0.0.0.0/5"])


def http(address: str = POD, *, port: int = 8000, path: str = "/health/ready") -> Registration:
    return Registration(service_name="s", service_id="s-1", address=address, port=port, health_check=path, check=CheckSpec(type="http"))


def test_a_pod_may_have_itself_checked() -> None:
    POLICY.admit(http(), caller=POD, admin=False)


def test_only_an_admin_may_have_others_checked() -> None:
    with pytest.raises(AddressNotAllowed, match="not the caller's own"):
        POLICY.admit(http(), caller="10.244.1.8", admin=False)
    POLICY.admit(http(), caller="10.244.1.8", admin=True)


def test_without_networks_http_checks_are_off_and_leases_work() -> None:
    closed = AddressPolicy(())
    with pytest.raises(AddressNotAllowed, match="allowed_cidrs is empty"):
        closed.admit(http(), caller=POD, admin=True)
    closed.admit(Registration(service_name="s", service_id="s-1", address="example.org", port=80), caller=POD, admin=False)


@pytest.mark.parametrize("text", ["10.244.1.7", "fd00:10:244::7", "::ffff:10.244.1.7"])
def test_r39_an_address_is_parsed_once_and_kept_in_its_plain_form(text: str) -> None:
    wish = http(f"{text}")
    assert str(wish.ip) == wish.address
    assert http(text.upper()) == wish


def test_a_host_name_is_no_address() -> None:
    assert Registration(service_name="s", service_id="s-1", address="example.org", port=80).ip is None


EVERYTHING = AddressPolicy(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.8.8.8",
        "169.254.169.254",
        "169.254.1.1",
        "100.100.100.200",
        "::1",
        "fe80::1",
        "fd00:ec2::254",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "::ffff:a9fe:a9fe",
        "::127.0.0.1",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
        "240.0.0.1",
        "255.255.255.255",
    ],
)
def test_r39_never_checked_even_for_an_admin(address: str) -> None:
    with pytest.raises(AddressNotAllowed):
        EVERYTHING.admit(http(address), caller=address, admin=True)


@pytest.mark.parametrize("address", ["metadata.google.internal", "localhost", "rebind.example.org", "kubernetes.default.svc"])
def test_r39_a_name_is_never_checked(address: str) -> None:
    with pytest.raises(AddressNotAllowed, match="IP address"):
        EVERYTHING.admit(http(address), caller=POD, admin=True)


@pytest.mark.parametrize("address", ["192.168.1.1", "8.8.8.8", "10.245.0.1", "fd00:10:245::1"])
def test_r39_outside_of_the_allowed_networks(address: str) -> None:
    with pytest.raises(AddressNotAllowed, match="outside"):
        POLICY.admit(http(address), caller=address, admin=True)


@pytest.mark.parametrize("port", [22, 25, 2379, 5432, 6379, 6443, 8500, 10250])
def test_r39_ports_of_other_protocols(port: int) -> None:
    with pytest.raises(AddressNotAllowed, match="port"):
        POLICY.admit(http(port=port), caller=POD, admin=True)


@pytest.mark.parametrize(
    "address",
    [
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0x7f.1",
        "0.0.0.0",
        "::",
        "224.0.0.1",
        "ff02::1",
        "user@10.0.0.1",
        "10.0.0.1#x",
        "10.0.0.1/x",
        "10.0.0.1:80",
        "10.0.0.1\r\nX: y",
        "10.0.0.1%2f",
        "１２７.0.0.1",  # noqa: RUF001 - the wide digits are the attack
        "127。0。0。1",
        "[::1]",
        "",
        " 10.0.0.1",
        "a" * 254,
        "::ffff:10.244.1.7%]@[::ffff:169.254.169.254",
        "fd00:10:244::7%\r\nX-Evil: y",
        "fd00:10:244::7%/x",
        "fe80::1%eth0",
        "10.0.0.1\n",
        "example.org\n",
    ],
)
def test_r39_what_is_no_address_is_refused_whatever_the_check(address: str) -> None:
    with pytest.raises(ValidationError):
        Registration(service_name="s", service_id="s-1", address=address, port=80)


@pytest.mark.parametrize(
    "path",
    [
        "health",
        "//evil",
        "/a//b",
        "/../x",
        "/a/..",
        "/a?b",
        "/a#b",
        "/a@b",
        "/a b",
        "/a%2fb",
        "/\r\nHost: x",
        "@169.254.169.254/",
        "http://x/",
        "",
        "/" + "a" * 300,
        "/ä",
    ],
)
def test_r39_what_is_no_plain_path_is_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        http(path=path)


@pytest.mark.parametrize(
    "change",
    [
        {"service_name": "User"},
        {"service_name": "a_b"},
        {"service_name": "a/b"},
        {"service_name": "../x"},
        {"service_name": "a" * 64},
        {"service_name": "-a"},
        {"service_name": ""},
        {"service_id": "a/b"},
        {"service_id": ".."},
        {"service_id": "a b"},
        {"service_id": "a\n"},
        {"service_id": "a" * 129},
        {"tags": ["a b"]},
        {"tags": ['a" or "1"=="1']},
        {"tags": ["x"] * 65},
        {"tags": [""]},
        {"metadata": {"a b": "c"}},
        {"metadata": {"a": "c" * 513}},
        {"metadata": {"a": "c\x00"}},
        {"metadata": {f"k{n}": "v" for n in range(65)}},
        {"weight": 0},
        {"port": 0},
        {"port": 65536},
        {"check": {"type": "script"}},
        {"check": {"ttl": "0s"}},
        {"check": {"ttl": "30"}},
        {"check": {"deregister_after": "59s"}},
        {"check": {"interval": "1s"}},
        {"unknown": 1},
    ],
)
def test_r40_what_cannot_be_registered(change: dict[str, object]) -> None:
    good: dict[str, object] = {"service_name": "s", "service_id": "s-1", "address": POD, "port": 80}
    with pytest.raises(ValidationError):
        Registration.model_validate(good | change)


@given(st.text(max_size=20))
def test_a_duration_is_a_number_or_an_error(text: str) -> None:
    with suppress(ValueError):
        assert seconds(text) >= 0


def test_a_network_that_is_none_is_refused_with_the_setting() -> None:
    with pytest.raises(InvalidSettings, match="allowed_cidrs"):
        AddressPolicy(["10.0.0.1/8"])


def test_equal_registrations_are_equal_whatever_the_order() -> None:
    one = Registration(service_name="s", service_id="s-1", address=POD, port=80, tags=("b", "a", "a"), metadata={"x": "1", "y": "2"})
    two = Registration(service_name="s", service_id="s-1", address=POD, port=80, tags=("a", "b"), metadata={"y": "2", "x": "1"})
    assert one == two
