"""The stack's authority is replaced in three steps, and no request is refused on the way. Last but one: the old one does not come back."""

from __future__ import annotations

import ssl

import pytest

from groundwork.platform_outputs import parse
from tests.e2e.cluster import Platform
from tests.e2e.demo import creating, documents
from tests.e2e.tls import shown

ENGINES = ("postgres", "redis", "rabbitmq", "consul")
TRUST_BOTH = ("certificates.trusted=[1, 2]",)
LET_THE_NEXT_ONE_SIGN = (*TRUST_BOTH, "certificates.authority=2")
TRUST_IT_ALONE = ("certificates.trusted=[2]", "certificates.authority=2")


def test_an_authority_is_replaced_without_refusing_anybody(platform: Platform) -> None:
    work = documents(platform)
    old = parse(platform.stack.outputs()).ca.pem

    with creating(work):
        platform.stack.up(*TRUST_BOTH)
        assert parse(platform.stack.outputs()).ca.pem.startswith(old)
        platform.stack.up(*LET_THE_NEXT_ONE_SIGN)
        platform.stack.up(*TRUST_IT_ALONE)

    assert work.failed == []
    new = parse(platform.stack.outputs()).ca.pem
    assert new.count("BEGIN CERTIFICATE") == 1
    for engine in ENGINES:
        shown(platform, engine, ca_pem=new)
        with pytest.raises(ssl.SSLCertVerificationError):
            shown(platform, engine, ca_pem=old)
    work.all_kept(seconds=60)
