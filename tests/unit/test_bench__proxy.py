"""The proxy by which ``make bench`` makes a connection slow passes what it is given."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from bench.proxy import Line, Proxy

_TIMEOUT_S = 60
_LINES = {
    "plain": Line(),
    "paced": Line(rate=20e6),
    "far": Line(delay=0.002),
    "far, paced, a small window": Line(rate=20e6, delay=0.002, window=100_000),
}


@pytest.fixture(params=_LINES.values(), ids=_LINES.keys())
def line(request: pytest.FixtureRequest) -> Line:
    return request.param


@contextmanager
def _serving(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Serve each connection in a thread, and yield the port."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as listener:

        def accept() -> None:
            while True:
                try:
                    client, _ = listener.accept()
                except OSError:
                    return
                client.settimeout(_TIMEOUT_S)
                threading.Thread(target=serve, args=(client,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield listener.getsockname()[1]
        # Closing alone would not wake accept().
        listener.shutdown(socket.SHUT_RDWR)


def _connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=_TIMEOUT_S)


def _read_all(end: socket.socket) -> bytes:
    return b"".join(iter(lambda: end.recv(1 << 16), b""))


def _echo(client: socket.socket) -> None:
    with client:
        while data := client.recv(1 << 16):
            client.sendall(data)


def _answer_at_the_end(client: socket.socket) -> None:
    with client:
        client.sendall(b"got " + _read_all(client))


def _break(end: socket.socket) -> None:
    """Close a connection with a reset."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    end.close()


def _assert_ends(end: socket.socket) -> None:
    """Wait for the end of a connection, in order or by a reset, with nothing before it."""
    with suppress(ConnectionResetError):
        assert _read_all(end) == b""


def _exchange(proxy: Proxy, sent: bytes) -> bytes:
    """Send, say that this is all, and return everything that comes back meanwhile and afterwards."""
    with _connect(proxy) as client:

        def send() -> None:
            client.sendall(sent)
            client.shutdown(socket.SHUT_WR)

        sender = threading.Thread(target=send)
        sender.start()
        received = _read_all(client)
        sender.join(_TIMEOUT_S)
    return received


def test_bytes_pass_unchanged_in_both_directions(line: Line) -> None:
    sent = os.urandom(2_000_000)
    with _serving(_echo) as port, Proxy(port, line) as proxy:
        assert _exchange(proxy, sent) == sent


def test_connections_do_not_mix(line: Line) -> None:
    sent = [os.urandom(20_000) for _ in range(40)]
    with _serving(_echo) as port, Proxy(port, line) as proxy, ThreadPoolExecutor(len(sent)) as pool:
        assert list(pool.map(lambda data: _exchange(proxy, data), sent)) == sent


def test_one_direction_may_end_before_the_other(line: Line) -> None:
    with _serving(_answer_at_the_end) as port, Proxy(port, line) as proxy:
        assert _exchange(proxy, b"a question") == b"got a question"


def test_a_server_that_breaks_off_ends_the_client(line: Line) -> None:
    with _serving(_break) as port, Proxy(port, line) as proxy, _connect(proxy) as client:
        _assert_ends(client)


def test_a_client_that_breaks_off_ends_the_server(line: Line) -> None:
    ended = threading.Event()

    def serve(client: socket.socket) -> None:
        with client, suppress(ConnectionResetError):
            _read_all(client)
        ended.set()

    with _serving(serve) as port, Proxy(port, line) as proxy:
        client = _connect(proxy)
        client.sendall(b"something")
        _break(client)
        assert ended.wait(_TIMEOUT_S)


def test_no_server_ends_the_client() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with Proxy(unused.getsockname()[1], Line()) as proxy, _connect(proxy) as client:
            _assert_ends(client)


def test_nothing_is_read_ahead_of_a_server_that_does_not_read(line: Line) -> None:
    holding = threading.Event()
    most = 64 << 20

    def serve(client: socket.socket) -> None:
        with client:
            holding.wait(_TIMEOUT_S)

    with _serving(serve) as port, Proxy(port, line) as proxy, _connect(proxy) as client:
        client.settimeout(1)
        sent = 0
        try:
            while sent < most:
                sent += client.send(bytes(1 << 16))
        except TimeoutError:
            pass
        holding.set()
        assert sent < most


def test_the_end_of_the_proxy_ends_its_connections() -> None:
    with _serving(_echo) as port:
        proxy = Proxy(port, Line(delay=0.001))
        with _connect(proxy) as client:
            client.sendall(b"x")
            assert client.recv(1) == b"x"
            proxy.close()
            _assert_ends(client)
