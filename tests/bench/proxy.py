"""A TCP proxy that makes a connection slow: so many bytes a second, so long a way. It runs in a process of its own.

What it does to one direction of a connection:

- ``rate``: at most so many bytes a second pass, in small chunks. Nobody reads ahead: the sender feels it.
- ``delay``: every byte arrives so many seconds later, and what is under way does not wait for what is before it.
- ``window``: so many bytes are under way at most, from when they are sent until the word of their arrival is back, as
  with TCP. A connection begins with 64 kB, and Linux lets it grow to 3 MB (half of the largest receive buffer). The
  default is between the two: 1 MB, which is 25 MB/s over a round trip of 40 ms.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_HOST = "127.0.0.1"
_LARGEST_CHUNK = 64 << 10
_CHUNKS_A_SECOND = 100
#: A chunk that was passed on late lets the next ones pass sooner, up to so many seconds; otherwise the rate is lower.
_CATCH_UP_S = 0.05
#: The kernel's own buffers, on the proxy's side: what is in them is not counted.
_KERNEL_BUFFER = 128 << 10
_END_S = 10


@dataclass(frozen=True)
class Line:
    """What lies between the two ends: bytes a second, seconds one way, bytes under way."""

    rate: float | None = None
    delay: float = 0.0
    window: int = 1 << 20

    @property
    def chunk(self) -> int:
        """How many bytes are passed on at a time, at most."""
        paced = _LARGEST_CHUNK if self.rate is None else int(self.rate / _CHUNKS_A_SECOND)
        return max(min(paced, _LARGEST_CHUNK, self.window), 1)


class Proxy:
    """The proxy of a local port, while the context lasts."""

    def __init__(self, target_port: int, line: Line) -> None:
        words = [str(target_port), "--delay", str(line.delay), "--window", str(line.window)]
        if line.rate is not None:
            words += ["--rate", str(line.rate)]
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).resolve()), *words],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        #: Connect here instead of to the target.
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the proxy, and with it every connection through it."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                stream.close()
        self._process.wait(_END_S)


class _Direction:
    """Carries the bytes of one direction of a connection, and the end of them."""

    def __init__(self, source: socket.socket, target: socket.socket, line: Line) -> None:
        self._source = source
        self._target = target
        self._line = line
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._under_way = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        #: When the line is free for the next chunk.
        self._free_at = 0.0

    async def receive(self) -> None:
        """Take bytes off the sender, as fast as the line and the window allow."""
        data = b"-"
        while data:
            await self._has_room.wait()
            room = self._line.window - self._under_way
            data = await self._loop.sock_recv(self._source, min(self._line.chunk, room))
            self._count(len(data))
            if self._line.rate is not None:
                begins_at = max(self._free_at, self._loop.time() - _CATCH_UP_S)
                self._free_at = begins_at + len(data) / self._line.rate
                await asyncio.sleep(self._free_at - self._loop.time())
            self._queue.put_nowait((self._loop.time() + self._line.delay, data))

    async def send(self) -> None:
        """Hand them to the receiver when their time has come."""
        while True:
            due, data = await self._queue.get()
            if due > self._loop.time():
                await asyncio.sleep(due - self._loop.time())
            if not data:
                self._target.shutdown(socket.SHUT_WR)
                return
            await self._loop.sock_sendall(self._target, data)
            # The sender hears of it only as much later.
            self._loop.call_later(self._line.delay, self._count, -len(data))

    def _count(self, size: int) -> None:
        self._under_way += size
        if self._under_way < self._line.window:
            self._has_room.set()
        else:
            self._has_room.clear()


async def _connect(client: socket.socket, target_port: int, line: Line) -> None:
    """Carry both directions of a connection until both have ended, or until one end has broken."""
    with client, _socket() as server, contextlib.suppress(OSError):
        await asyncio.sleep(2 * line.delay)
        await asyncio.get_running_loop().sock_connect(server, (_HOST, target_port))
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            async with asyncio.TaskGroup() as group:
                for direction in (_Direction(client, server, line), _Direction(server, client, line)):
                    group.create_task(direction.receive())
                    group.create_task(direction.send())
        except* OSError:
            pass


async def _serve(target_port: int, line: Line) -> None:
    """Tell the port, and serve it until the standard input ends: then whoever started this has."""
    loop = asyncio.get_running_loop()
    over = asyncio.Event()
    loop.add_reader(sys.stdin, over.set)
    with _socket() as listener:
        listener.bind((_HOST, 0))
        listener.listen(socket.SOMAXCONN)
        print(listener.getsockname()[1], flush=True)
        accepting = asyncio.create_task(_accept(listener, target_port, line))
        await over.wait()
        accepting.cancel()


async def _accept(listener: socket.socket, target_port: int, line: Line) -> None:
    connections: set[asyncio.Task[None]] = set()
    while True:
        client, _ = await asyncio.get_running_loop().sock_accept(listener)
        task = asyncio.create_task(_connect(client, target_port, line))
        connections.add(task)
        task.add_done_callback(connections.discard)


def _socket() -> socket.socket:
    made = socket.socket()
    made.setblocking(False)
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        # What the listener accepts has the same.
        made.setsockopt(socket.SOL_SOCKET, option, _KERNEL_BUFFER)
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return made


def main() -> None:
    """Serve as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("target_port", type=int)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--delay", type=float, default=Line.delay)
    parser.add_argument("--window", type=int, default=Line.window)
    given = parser.parse_args()
    asyncio.run(_serve(given.target_port, Line(given.rate, given.delay, given.window)))


if __name__ == "__main__":
    main()
