"""A headless Chromium for tests, spoken to as the WebDriver standard says: JSON over HTTP.

chromium and chromedriver (or google-chrome) have to be on PATH; no Python package is needed.
"""

import base64
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # whatever http_proxy says
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def missing() -> str | None:
    """What is not installed, in words, or None."""
    if not any(shutil.which(name) for name in NAMES):
        return "no chromium or google-chrome on PATH"
    return None if shutil.which("chromedriver") else "no chromedriver on PATH"


class Browser:
    """One window."""

    def __init__(self, address: str, *arguments: str) -> None:
        binary = next(found for name in NAMES if (found := shutil.which(name)))
        options = {
            "binary": binary,
            # no sandbox: it needs rights that containers lack, and the pages are our own
            "args": ["--headless=new", "--no-sandbox", "--window-size=1150,1500", *arguments],
        }
        wanted = {
            "goog:chromeOptions": options,
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        self.address = f"{address}/session"
        session = self.call("POST", "", capabilities={"alwaysMatch": wanted})
        self.address += f"/{session['sessionId']}"

    def call(self, method: str, path: str, **body: Any) -> Any:
        content = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(
            self.address + path, content, {"Content-Type": "application/json"}, method=method
        )
        with DIRECT.open(request, timeout=60) as reply:
            return json.load(reply)["value"]

    def open(self, path: Path) -> None:
        self.call("POST", "/url", url=path.as_uri())

    def run(self, script: str, *arguments: Any) -> Any:
        """The value that the body of a function returns."""
        return self.call("POST", "/execute/sync", script=script, args=list(arguments))

    def wait_for(self, expression: str) -> Any:
        """The value of an expression as soon as it is true."""
        end = time.monotonic() + 20
        while time.monotonic() < end:
            if found := self.run(f"return {expression}"):
                return found
            time.sleep(0.02)
        raise AssertionError(f"never true: {expression}")

    def press(self, *keys: str) -> None:
        """Keys, one after the other, to what has the focus."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._act({"type": "key", "id": "keys", "actions": actions})

    def point(self, x: float, y: float, *, click: bool = False) -> None:
        """The mouse goes to a place in the window, in pixels of the page's style."""
        move = {"type": "pointerMove", "x": round(x), "y": round(y), "duration": 0}
        clicks = [{"type": "pointerDown", "button": 0}, {"type": "pointerUp", "button": 0}]
        actions = [move, *(clicks if click else [])]
        self._act({"type": "pointer", "id": "mouse", "actions": actions})

    def _act(self, source: dict[str, Any]) -> None:
        self.call("POST", "/actions", actions=[source])

    def prefer(self, scheme: str) -> None:
        """Ask pages for their ``light`` or their ``dark`` colours."""
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.command("Emulation.setEmulatedMedia", features=[feature])

    def command(self, name: str, **values: Any) -> Any:
        """What only Chromium's own protocol can do."""
        return self.call("POST", "/goog/cdp/execute", cmd=name, params=values)

    def complaints(self) -> list[str]:
        """What the console has said since it was asked last."""
        return [entry["message"] for entry in self.call("POST", "/se/log", type="browser")]

    def requested(self) -> list[str]:
        """Addresses that were requested since it was asked last."""
        entries = self.call("POST", "/se/log", type="performance")
        events = [json.loads(entry["message"])["message"] for entry in entries]
        sent = [one["params"] for one in events if one["method"] == "Network.requestWillBeSent"]
        return [one["request"]["url"] for one in sent]

    def screenshot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.call("GET", "/screenshot")))


@contextmanager
def browser() -> Iterator[Browser]:
    """A window of a browser of its own, gone afterwards."""
    with subprocess.Popen(
        ["chromedriver", "--port=0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as driver:
        try:
            assert driver.stdout is not None
            ports = (
                re.search(r"started successfully on port (\d+)", line) for line in driver.stdout
            )
            port = next(found[1] for found in ports if found)
            window = Browser(f"http://127.0.0.1:{port}")
            try:
                yield window
            finally:
                window.call("DELETE", "")
        finally:
            driver.terminate()
