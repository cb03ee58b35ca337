"""What trusted proxies say about a client; what others say of themselves counts for nothing."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address

from api.server.access.caller import Ask
from jobs.settings import Settings


class Proxies:
    """The proxies of the settings, which alone may say who the client is."""

    def __init__(self, settings: Settings) -> None:
        self._networks = settings.proxy_networks
        self._user_header = settings.sso_header

    def address(self, ask: Ask) -> str:
        """The address of the client: the last one in the chain that is no trusted proxy."""
        address = _plain(ask.peer) or ask.peer
        chain = [part.strip() for part in ask.get("X-Forwarded-For").split(",")]
        while self._trusts(address) and chain and (before := _plain(chain.pop())):
            address = before
        return address

    def is_https(self, ask: Ask) -> bool:
        """Whether the client speaks to the nearest proxy by TLS."""
        return self._trusts(_plain(ask.peer)) and ask.get("X-Forwarded-Proto").strip() == "https"

    def user(self, ask: Ask) -> str:
        """The person who has signed in at the proxy; '' for nobody."""
        if not self._user_header or not self._trusts(_plain(ask.peer)):
            return ""
        return ask.get(self._user_header).strip()

    def _trusts(self, address: str) -> bool:
        if not self._networks:
            return False
        try:
            found = ip_address(address)
        except ValueError:
            return False
        return any(found in network for network in self._networks)


def _plain(text: str) -> str:
    """An address without its port, and IPv4 as such on a socket of IPv6; '' if it is none."""
    host = text.removeprefix("[").partition("]")[0] if text.startswith("[") else text
    if host.count(":") == 1:
        host = host.partition(":")[0]
    try:
        found = ip_address(host)
    except ValueError:
        return ""
    return str((found.ipv4_mapped if isinstance(found, IPv6Address) else None) or found)
