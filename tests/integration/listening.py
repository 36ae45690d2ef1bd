"""Which ports of processes can be reached from other hosts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from ipaddress import IPv6Address, ip_address

import psutil

__all__ = ["open_to_the_network"]


def open_to_the_network(processes: Iterable[psutil.Process]) -> list[str]:
    """Return "name: address" of every listening TCP socket that is not bound to the loopback address.

    Raises:
      AssertionError: none listens at all; then nothing was looked at.
    """
    found = []
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            connections = process.net_connections(kind="tcp")
            found += [(process.name(), c.laddr) for c in connections if c.status == psutil.CONN_LISTEN]
    assert found, "nobody listens"
    return [f"{name}: {address.ip} port {address.port}" for name, address in found if not _is_loopback(address.ip)]


def _is_loopback(text: str) -> bool:
    address = ip_address(text)
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback
