"""Ports are held against others."""

from __future__ import annotations

import socket

from zodan_sql.sandbox import ports


def test_a_port_is_leased_once() -> None:
    leases = [ports.lease_port() for _ in range(20)]
    assert len({lease.port for lease in leases}) == len(leases)
    for lease in leases:
        lease.release()


def test_a_port_in_use_is_not_free() -> None:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        assert not ports.is_free(listener.getsockname()[1])
