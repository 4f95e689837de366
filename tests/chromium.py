"""Headless Chromium for tests, spoken to over a pair of pipes in its DevTools protocol."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser")
_SWITCHES = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking"),
    *("--remote-debugging-pipe", "--hide-scrollbars"),
)


class Tab:
    """One tab of a browser.

    Attributes:
        complaints: What the browser has put on the console: errors and violations of the policy.
    """

    def __init__(self, reading: int, writing: int) -> None:
        self._reading, self._writing = reading, writing
        self._received = b""
        self._number = 0
        self._session: Mapping[str, str] = {}
        self._is_loaded = False
        self.complaints: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = {"sessionId": attached["sessionId"]}
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """The result of a command of the protocol."""
        self._number += 1
        request = {"id": self._number, "method": method, "params": params, **self._session}
        os.write(self._writing, json.dumps(request).encode() + b"\0")
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                result: dict[str, Any] = message["result"]
                return result

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._received:
            data = os.read(self._reading, 1 << 20)
            assert data, "chromium has ended"
            self._received += data
        text, _, self._received = self._received.partition(b"\0")
        message: dict[str, Any] = json.loads(text)
        method, params = message.get("method", ""), message.get("params", {})
        if method == "Log.entryAdded" and params["entry"]["level"] in {"error", "warning"}:
            self.complaints.append(params["entry"]["text"])
        if method == "Page.loadEventFired":
            self._is_loaded = True
        if method == "Runtime.exceptionThrown":
            self.complaints.append(params["exceptionDetails"]["text"])
        return message

    def open(self, url: str) -> None:
        """Load a page, and wait until it is there."""
        self._is_loaded = False
        self.call("Page.navigate", url=url)
        while not self._is_loaded:
            self._next()

    def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 60.0) -> None:
        """Wait until an expression is true in the page, which looks itself, every 50 ms."""
        self.call(
            "Runtime.evaluate",
            awaitPromise=True,
            expression=f"""new Promise((done, fail) => {{
                const end = Date.now() + {1000 * seconds};
                const look = () => ({condition}) ? done() : Date.now() > end
                    ? fail(new Error("never")) : setTimeout(look, 50);
                look();
            }})""",
        )
        assert self.evaluate(f"!!({condition})"), condition

    def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """Take another size, and another scheme of colours."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def accessible(self) -> list[tuple[str, str]]:
        """The (role, name) of everything that a screen reader finds."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored")
        ]

    def screenshot(self, file: Path) -> None:
        """A picture of the whole page, as PNG."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))


def _high_pipe() -> tuple[int, int]:
    """A pipe whose descriptors are not in the way of those that the browser expects."""
    low = os.pipe()
    high = [fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 10) for end in low]
    for end in low:
        os.close(end)
    return high[0], high[1]


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """A tab of a browser whose profile is in this folder."""
    assert PROGRAM is not None
    their_reading, our_writing = _high_pipe()
    our_reading, their_writing = _high_pipe()

    def place() -> None:
        os.dup2(their_reading, 3)  # where the switch expects them
        os.dup2(their_writing, 4)

    browser = subprocess.Popen(
        [PROGRAM, *_SWITCHES, f"--user-data-dir={folder}"],
        preexec_fn=place,  # noqa: PLW1509 - numbers of descriptors cannot be chosen otherwise
        close_fds=False,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.close(their_reading)
    os.close(their_writing)
    try:
        yield Tab(our_reading, our_writing)
    finally:
        browser.kill()
        browser.wait()
        os.close(our_reading)
        os.close(our_writing)
