"""Where a webhook may lead: to public addresses, over https, and nowhere else unless the deployment names networks.

A name is resolved once for each attempt, all that it resolves to is checked, and the connection is made to an address
that was checked. So a name that resolves to something else a moment later (DNS rebinding) changes nothing.
"""

from collections.abc import Iterator, Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import BeforeValidator
from pydantic_settings import NoDecode

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network


def _listed(networks: object) -> object:
    return [one.strip() for one in networks.split(",") if one.strip()] if isinstance(networks, str) else networks


# A setting: written 10.0.0.0/8,fd00::/8.
Networks = Annotated[tuple[Network, ...], NoDecode, BeforeValidator(_listed)]

# IANA's special-purpose registries, and what clouds answer at: `ipaddress.is_global` lets some of these pass.
_NOT_PUBLIC = tuple(
    ip_network(text)
    for text in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.31.196.0/24", "192.52.193.0/24", "192.88.99.0/24", "192.168.0.0/16"),
        *("192.175.48.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # Azure's own, on every virtual machine
        *("2001::/23", "2001:db8::/32", "2620:4f:8000::/48", "3fff::/20"),
    )
)
_GLOBAL_UNICAST = IPv6Network("2000::/3")  # what IANA has given out; beside it only forms that hold an IPv4 address

# IPv6 forms that lead to an IPv4 address, and how many bits stand after it.
_EMBEDDING = {
    IPv6Network("::/96"): 0,  # IPv4-compatible
    IPv6Network("::ffff:0:0/96"): 0,  # IPv4-mapped
    IPv6Network("::ffff:0:0:0/96"): 0,  # IPv4-translated
    IPv6Network("64:ff9b::/96"): 0,  # NAT64
    IPv6Network("2002::/16"): 80,  # 6to4
}
_ISATAP = (0x00005EFE, 0x02005EFE)  # bits 64 to 95, before the address

_LOCAL_ENDINGS = ("localhost", "local", "internal", "intranet", "lan", "home.arpa", "onion", "test", "invalid")


def embedded(address: Address) -> Iterator[IPv4Address]:
    """The IPv4 addresses that an IPv6 address may be turned into on its way."""
    if isinstance(address, IPv4Address):
        return
    value = int(address)
    for network, bits_after in _EMBEDDING.items():
        if address in network:
            yield IPv4Address(value >> bits_after & 0xFFFFFFFF)
    if value >> 32 & 0xFFFFFFFF in _ISATAP:
        yield IPv4Address(value & 0xFFFFFFFF)


def is_public(address: Address) -> bool:
    """Whether an address, and every one embedded in it, is one that anyone on the internet may talk to."""
    if isinstance(address, IPv6Address) and not any(address in network for network in (_GLOBAL_UNICAST, *_EMBEDDING)):
        return False
    return not any(address in network for network in _NOT_PUBLIC) and all(map(is_public, embedded(address)))


def is_named(address: Address, networks: Sequence[Network]) -> bool:
    """Whether the deployment's own networks hold it, in any of its forms."""
    return any(form in network for network in networks for form in (address, *embedded(address)))


def why_refused(url: str, networks: Sequence[Network] = ()) -> str | None:
    """What of an address can be told from it alone; None when there is nothing against it. The rest is up to DNS.

    `url` is in its normal form (`contract.webhook_url`); `networks` are those that the deployment allows beside public
    ones.
    """
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        address = ip_address(host)
    except ValueError:
        is_local = "." not in host or host.endswith(tuple(f".{ending}" for ending in _LOCAL_ENDINGS))
        if is_local and not networks:
            return "must name a host that is public"
        return "must begin with https://" if parts.scheme == "http" and not networks else None
    return why_unreachable(address, is_plain=parts.scheme == "http", networks=networks)


def why_unreachable(address: Address, *, is_plain: bool, networks: Sequence[Network]) -> str | None:
    """Why no connection is made to an address; None when one may be. `is_plain`: without TLS."""
    if is_named(address, networks):
        return None
    if not is_public(address):
        return "must lead to a public address"
    return "must begin with https://" if is_plain else None
