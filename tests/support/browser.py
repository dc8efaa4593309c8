"""A headless Chromium, led over a pipe: what a page asks for, what it looks like, and what stands where."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import pytest

_NAMES = ("chromium", "google-chrome", "google-chrome-stable", "chrome", "chromium-browser")
_OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage"),
    "--remote-debugging-pipe",
)
_BUDGET_S = 60.0


def find_browser() -> str:
    """Return the browser; on Debian ``make setup`` has installed one, so that nothing may be skipped there."""
    for name in _NAMES:
        found = shutil.which(name)
        if found and subprocess.run([found, "--version"], capture_output=True, check=False).returncode == 0:
            return found
    system = Path("/etc/os-release").read_text(encoding="utf-8") if Path("/etc/os-release").exists() else ""
    assert "\nID=debian\n" not in f"\n{system}", "no Chromium: make setup installs it"
    pytest.skip("no Chromium or Chrome on PATH: scripts/setup-browser says what to do")


class Browser:
    """One window, until the end of the block. Raises where the browser does not answer in time."""

    def __init__(self, width: int = 1200, height: int = 900) -> None:
        #: Addresses that the page asked for, its own first.
        self.requests: list[str] = []
        #: What it had to complain of.
        self.complaints: list[str] = []
        self._events: list[str] = []
        self._number = 0
        self._rest = b""
        self._session = ""
        self._profile = tempfile.TemporaryDirectory(prefix="zodan-browser-", ignore_cleanup_errors=True)
        options = [*_OPTIONS, f"--user-data-dir={self._profile.name}", f"--window-size={width},{height}", "about:blank"]
        theirs, self._write = os.pipe()
        self._read, theirs_too = os.pipe()
        self._process = subprocess.Popen(
            ["bash", "-c", f'exec "$0" "$@" 3<&{theirs} 4>&{theirs_too}', find_browser(), *options],
            pass_fds=(theirs, theirs_too),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(theirs_too)

    def __enter__(self) -> Browser:
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Network", "Log", "Runtime"):
            self._ask(f"{domain}.enable")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.wait(_BUDGET_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def open(self, page: Path) -> None:
        """Open a file, and wait until it has loaded with all it wants."""
        found = self._ask("Page.navigate", url=page.as_uri())
        assert "errorText" not in found, found
        deadline = time.monotonic() + _BUDGET_S
        while "Page.loadEventFired" not in self._events:
            self._take(self._receive(deadline))

    def evaluate(self, script: str) -> Any:
        """Return what an expression of JavaScript comes to, once it has come to it."""
        found = self._ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """Return a picture of the whole page, as PNG."""
        return base64.b64decode(self._ask("Page.captureScreenshot", captureBeyondViewport=True)["data"])

    def shares(self, picture: bytes) -> list[float]:
        """Return how large a part of a picture each of its colours takes, the largest first."""
        return list(
            self.evaluate(
                """(async (picture) => {
                    const image = new Image();
                    image.src = 'data:image/png;base64,' + picture;
                    await image.decode();
                    const canvas = document.createElement('canvas');
                    [canvas.width, canvas.height] = [image.width, image.height];
                    const context = canvas.getContext('2d');
                    context.drawImage(image, 0, 0);
                    const seen = new Map();
                    const pixels = new Uint32Array(
                        context.getImageData(0, 0, image.width, image.height).data.buffer);
                    pixels.forEach((pixel) => seen.set(pixel, (seen.get(pixel) || 0) + 1));
                    return [...seen.values()].sort((a, b) => b - a).map((count) => count / pixels.length);
                })"""
                + f"({json.dumps(base64.b64encode(picture).decode())})"
            )
        )

    def _ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        rest = json.dumps(message).encode() + b"\0"
        while rest:
            rest = rest[os.write(self._write, rest) :]
        deadline = time.monotonic() + _BUDGET_S
        while True:
            said = self._receive(deadline)
            if said.get("id") == self._number:
                assert "error" not in said, said
                return dict(said["result"])
            self._take(said)

    def _receive(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, "the browser does not answer"
            more = os.read(self._read, 1 << 20)
            assert more, "the browser has ended"
            self._rest += more
        text, _, self._rest = self._rest.partition(b"\0")
        return dict(json.loads(text))

    def _take(self, said: dict[str, Any]) -> None:
        method, parameters = said.get("method", ""), said.get("params", {})
        self._events.append(method)
        if method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"]["text"])
