"""Which addresses the registry itself may connect to, so that nobody borrows its place in the network (SSRF)."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Address, ip_network
from typing import Final

from groundwork.errors import AddressNotAllowed, InvalidSettings
from groundwork.registry.models import Address, Registration, literal

DENIED_PORTS: Final = frozenset({22, 23, 25, 53, 110, 143, 179, 389, 445, 465, 587, 2375, 2376, 2379, 2380, 3306, 3389})
DENIED_PORTS_PLATFORM: Final = frozenset({5432, 5671, 5672, 6379, 6443, 8300, 8301, 8302, 8500, 8501, 8502, 9200, 10250, 10255, 15672, 26379})
METADATA: Final = frozenset({"169.254.169.254", "fd00:ec2::254", "100.100.100.200"})  # of the large clouds


class AddressPolicy:
    """Allows HTTP checks of addresses inside `cidrs` only; without any, HTTP checks are off."""

    def __init__(self, cidrs: Sequence[str]) -> None:
        try:
            self._networks = tuple(ip_network(cidr) for cidr in cidrs)
        except ValueError as error:
            raise InvalidSettings(f"allowed_cidrs: {error}; write networks such as 10.244.0.0/16") from None

    def admit(self, wish: Registration, *, caller: str, admin: bool) -> None:
        """Raises AddressNotAllowed unless the registry may ask `wish` how it is.

        `caller` is the address that the request came from: who is no `admin` may only name its own.
        """
        if wish.check.type == "ttl":
            return  # nobody connects
        if not self._networks:
            raise AddressNotAllowed("check.type http is off here (allowed_cidrs is empty): use ttl and send heartbeats")
        address = wish.ip
        if address is None:
            raise AddressNotAllowed(f"address {wish.address!r}: an HTTP check needs an IP address, because a name may change what it means")
        inner = unwrapped(address)
        if str(inner) in METADATA or inner.is_loopback or inner.is_link_local or inner.is_multicast or inner.is_unspecified or inner.is_reserved:
            raise AddressNotAllowed(f"address {wish.address} is of a kind that is never checked")
        if not any(inner.version == network.version and inner in network for network in self._networks):
            raise AddressNotAllowed(f"address {wish.address} is outside of allowed_cidrs")
        if wish.port in DENIED_PORTS | DENIED_PORTS_PLATFORM:
            raise AddressNotAllowed(f"port {wish.port} belongs to another protocol and is never checked")
        asking = literal(caller.partition("%")[0])  # the peer of a link-local connection has a scope
        if not admin and (asking is None or unwrapped(asking) != inner):
            raise AddressNotAllowed(f"address {wish.address} is not the caller's own: only scope registry:admin may register for others")


def unwrapped(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that only wraps it (mapped, 6to4, Teredo, NAT64, IPv4-compatible), else the address itself."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    if address.sixtofour is not None:
        return address.sixtofour
    if address.teredo is not None:
        return address.teredo[1]
    if address in _NAT64 or (int(address) >> 32 == 0 and int(address) > 1):
        return IPv4Address(int(address) & 0xFFFFFFFF)
    return address


_NAT64: Final = ip_network("64:ff9b::/96")
