"""Which addresses a webhook may go to: those of the internet, and no others.

A job's author names the address. Without this rule the service would ask, for that person, whatever
it can reach: itself, the machines beside it, the cloud's metadata.
"""

from __future__ import annotations

import ipaddress
import socket

_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_NAT64_LOCAL = ipaddress.ip_network("64:ff9b:1::/48")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class ForbiddenAddressError(OSError):
    """A host has an address that no webhook may go to."""


def is_global(text: str) -> bool:
    """Whether an address belongs to the internet; not one that stands for one that does not."""
    address = ipaddress.ip_address(text.partition("%")[0])
    return all(one.is_global and not one.is_multicast for one in _meant(address))


def _meant(address: Address) -> list[Address]:
    """The address, and the IPv4 address that a translator would reach by it."""
    if not isinstance(address, ipaddress.IPv6Address):
        return [address]
    inside = [address.ipv4_mapped, address.sixtofour]
    if address.teredo is not None:
        inside += list(address.teredo)
    if address in _NAT64:
        # The prefix is none of the internet's, what lies behind it may be.
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    if address in _NAT64_LOCAL:
        return [ipaddress.IPv4Address("127.0.0.1")]
    return [address, *(one for one in inside if one is not None)]


def resolve(host: str, port: int, *, anywhere: bool) -> list[str]:
    """The addresses of a host, all of which may be connected to.

    `anywhere`: any address may be. Raises `ForbiddenAddressError` and `OSError`.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except UnicodeError:
        raise OSError(f"{host} is no name of a host") from None
    addresses = list(dict.fromkeys(str(info[4][0]) for info in found))
    if not anywhere and not all(map(is_global, addresses)):
        raise ForbiddenAddressError(
            "its address is not one of the internet; SPECTRAIN_WEBHOOK_PRIVATE=true allows others"
        )
    return addresses
