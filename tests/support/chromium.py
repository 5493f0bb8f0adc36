"""A headless Chromium, driven through its DevTools pipe without further packages, and the `browser` fixture."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import pytest

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--remote-debugging-pipe",
]
TIMEOUT_SECONDS = 30.0
"""For one answer."""


def find_chromium() -> str | None:
    """The path of the browser's executable; None if it is not installed."""
    return shutil.which("chromium") or shutil.which("chromium-browser")


class PageError(AssertionError):
    """A script on the page raised an exception."""


class Chromium:
    """A browser with one page. The context manager terminates the browser."""

    def __init__(self, program: str, profile: Path):
        from_browser, browser_end = os.pipe()
        browser_start, to_browser = os.pipe()
        # the pipe must be descriptors 3 (commands) and 4 (answers) of the browser
        launch = f'exec "$0" "$@" 3<&{browser_start} 4>&{browser_end}'
        self._process = subprocess.Popen(
            ["bash", "-c", launch, program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(browser_start, browser_end),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(browser_start)
        os.close(browser_end)
        self._in, self._out = from_browser, to_browser
        self._buffer = b""
        self._last_id = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        page = next(t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page")
        self._session = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._process.terminate()
        self._process.wait(timeout=TIMEOUT_SECONDS)
        os.close(self._in)
        os.close(self._out)

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command of the DevTools protocol and return its result."""
        self._last_id += 1
        message: dict[str, Any] = {"id": self._last_id, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._last_id:
                assert "error" not in answer, answer
                return dict(answer["result"])
            self.events.append(answer)

    def _receive(self) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while b"\0" not in self._buffer:
            readable, _, _ = select.select([self._in], [], [], max(0.0, deadline - time.monotonic()))
            chunk = os.read(self._in, 1 << 16) if readable else b""
            assert chunk, "the browser does not answer"
            self._buffer += chunk
        message, _, self._buffer = self._buffer.partition(b"\0")
        return dict(json.loads(message))

    # -- actions and queries of tests -----------------------------------------------------------------------------

    def resize(self, width: int, height: int, mobile: bool = False) -> None:
        """Set the size of the page in CSS pixels; a mobile screen has touch input and two device pixels for each."""
        ratio = 2 if mobile else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=ratio, mobile=mobile
        )
        self.call("Emulation.setTouchEmulationEnabled", enabled=mobile)

    def open(self, path: Path, fragment: str = "") -> None:
        """Open a replay page and wait until its episode is shown."""
        self.call("Page.navigate", url="about:blank")
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri() + fragment)
        self.wait_for("document.documentElement?.dataset.openedIn !== undefined")
        self.wait_until_drawn()

    @contextmanager
    def inside_frame(self) -> Iterator[None]:
        """A context in which calls address the page's only iframe, which the browser runs in a separate process."""
        page, self._session = self._session, None
        (frame,) = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "iframe"]
        self._session = self.call("Target.attachToTarget", targetId=frame["targetId"], flatten=True)["sessionId"]
        for domain in ("Runtime", "Log"):
            self.call(f"{domain}.enable")
        yield
        self._session = page

    def evaluate(self, expression: str) -> Any:
        """The value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise PageError(answer["exceptionDetails"])
        return answer["result"].get("value")

    def run(self, function: str, *arguments: object) -> Any:
        """Call a JavaScript function on the page and return its result."""
        return self.evaluate(f"({function})({', '.join(map(json.dumps, arguments))})")

    def wait_for(self, condition: str) -> None:
        """Wait until a JavaScript expression is true."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while not self.evaluate(condition):
            assert time.monotonic() < deadline, f"never true: {condition}"
            time.sleep(0.02)

    def wait_until_drawn(self) -> None:
        """Wait until the page has drawn its current state."""
        self.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")

    def text(self, selector: str) -> str:
        """The text of the first element that matches."""
        return str(self.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))

    def press(self, key: str, *, shift: bool = False) -> None:
        """Press a key, named as by `KeyboardEvent.key`."""
        text: Mapping[str, str] = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, modifiers=8 if shift else 0, **text)
        self.wait_until_drawn()

    def click(self, x: float, y: float) -> None:
        """Click at a point of the page."""
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)
        self.wait_until_drawn()

    def problems(self) -> list[str]:
        """Exceptions, logged errors and warnings, and requests for other files since the page was opened."""
        self.wait_until_drawn()
        found = []
        for event in self.events:
            parameters = event.get("params", {})
            match event.get("method"):
                case "Runtime.exceptionThrown":
                    found.append(str(parameters["exceptionDetails"]))
                case "Log.entryAdded" if parameters["entry"]["level"] in ("error", "warning"):
                    text = parameters["entry"]["text"]
                    if "willReadFrequently" not in text:  # caused by tests that read the canvas
                        found.append(text)
                case "Network.requestWillBeSent" if not parameters["request"]["url"].startswith(("file:", "about:")):
                    found.append("requested " + parameters["request"]["url"])
        return found

    def screenshot(self, path: Path) -> None:
        """Write a screenshot of the page as a PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Chromium]:
    """One browser for all tests of a session; without one they are skipped, in CI they fail."""
    program = find_chromium()
    if program is None:
        reason = "these tests need Chromium (on Debian: apt-get install chromium)"
        assert os.environ.get("CI") != "true", reason
        pytest.skip(reason)
    with Chromium(program, tmp_path_factory.mktemp("profile")) as chromium:
        yield chromium
