"""How long certificates last, as `status` shows it."""

from __future__ import annotations

import datetime as dt
from base64 import b64encode
from pathlib import Path

import pytest

from sandbox import certificates, pki
from sandbox.certificates import Certificate

NOW = dt.datetime(2026, 3, 1, 12, 0, tzinfo=dt.UTC)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node") / "pki"
    pki.ensure(folder, NOW)
    return folder


def of_stack(name: str, data: dict[str, str], stack: str | None = "sandbox") -> dict[str, object]:
    """A Secret or a ConfigMap of the API."""
    labels = {} if stack is None else {certificates.INSTANCE: stack}
    return {"metadata": {"namespace": f"groundwork-{stack}", "name": name, "labels": labels}, "data": data}


def encoded(content: bytes) -> dict[str, str]:
    return {"tls.crt": b64encode(content).decode()}


def ending(days: float, name: str = "leaf") -> Certificate:
    return Certificate("n", name, NOW + dt.timedelta(days=days), "run `make up`")


def test_every_certificate_of_the_node_is_listed(node: Path) -> None:
    found = {item.name: item.days(NOW) for item in certificates.of_node(node)}
    assert found == {"ca": 365 * pki.AUTHORITY_YEARS} | {leaf.file: pki.LEAF_DAYS for leaf in pki.LEAVES}


def test_every_server_of_every_stack_is_listed_with_its_own_days(node: Path) -> None:
    leaf, authority = ((node / file).read_bytes() for file in ("admin.crt", "ca.crt"))
    secrets = [of_stack("redis-tls", encoded(leaf)), of_stack("redis-tls", encoded(authority), stack="sandbox-e2e")]
    found = [(item.where, item.name, item.days(NOW)) for item in certificates.of_secrets(secrets)]
    assert found == [("groundwork-sandbox", "redis-tls", 365), ("groundwork-sandbox-e2e", "redis-tls", 3650)]


def test_a_bundle_of_the_old_and_the_new_authority_is_two_certificates(node: Path) -> None:
    bundle = (node / "ca.crt").read_text() + (node / "admin.crt").read_text()
    found = certificates.of_config_maps([of_stack("groundwork-ca", {"ca.crt": bundle}), of_stack("settings", {"settings.json": "{}"})])
    assert [(item.name, item.days(NOW)) for item in found] == [("groundwork-ca 1", 3650), ("groundwork-ca 2", 365)]


def test_what_cannot_be_read_is_listed_and_not_left_out() -> None:
    for data in ({"tls.crt": "eA=="}, {"tls.crt": "!"}, {}):
        (found,) = certificates.of_secrets([of_stack("broken", data)])
        assert (found.name, found.end) == ("broken", None)
        assert "cannot be read" in found.note(NOW)


def test_the_first_to_end_is_at_the_top_and_the_unreadable_above_all() -> None:
    listed = certificates.lines([ending(90, "c"), ending(-1, "a"), Certificate("n", "x", None, ""), ending(40, "b")], NOW)
    assert [(line[1], line[2]) for line in listed] == [("x", "?"), ("a", "-1"), ("b", "40"), ("c", "90")]


@pytest.mark.parametrize(
    ("days", "note"),
    [(30.5, ""), (29.9, "ends soon: run `make up`"), (0.1, "ends soon: run `make up`"), (-0.1, "HAS ENDED: run `make up`")],
)
def test_in_its_last_thirty_days_a_certificate_says_what_to_do(days: float, note: str) -> None:
    assert ending(days).note(NOW) == note


@pytest.mark.parametrize(
    ("stack", "renew"),
    [("sandbox", "run `make up`"), ("sandbox-e2e", "run `python -m sandbox up --stack sandbox-e2e`"), (None, "whoever made it renews it")],
)
def test_the_fix_is_the_command_that_renews_this_stacks_certificates(node: Path, stack: str | None, renew: str) -> None:
    (found,) = certificates.of_secrets([of_stack("redis-tls", encoded((node / "admin.crt").read_bytes()), stack)])
    assert found.renew == renew


def test_the_nodes_authority_is_not_renewed_by_an_up(node: Path) -> None:
    renew = {item.name: item.renew for item in certificates.of_node(node)}
    assert "make clean" in renew["ca"]
    assert renew["apiserver"] == "run `make up`"
