"""A real Chromium, driven through its debugging pipe: what a page shows, and what it complains of.

The protocol is https://chromedevtools.github.io/devtools-protocol/; messages are JSON between
null bytes, on descriptors 3 and 4.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess

from peers import eventually

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
REASON = "Chromium is not installed (apt: chromium)"
_OPTIONS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--no-proxy-server", "--remote-debugging-pipe", "--hide-scrollbars", "--disable-extensions",
)  # fmt: skip
#: What a page says when something is wrong.
_COMPLAINTS = ("Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled")


class Browser:
    """One page in a browser of its own."""

    def __init__(self, directory):
        ours, theirs = os.pipe(), os.pipe()

        def place():
            os.dup2(ours[0], 103)
            os.dup2(theirs[1], 104)
            os.dup2(103, 3)
            os.dup2(104, 4)

        self.process = subprocess.Popen(
            [CHROMIUM, *_OPTIONS, f"--user-data-dir={directory}", "about:blank"],
            preexec_fn=place,  # noqa: PLW1509 - the pipes have to be 3 and 4
            close_fds=False,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(ours[0])
        os.close(theirs[1])
        self._to, self._from = os.fdopen(ours[1], "wb", 0), os.fdopen(theirs[0], "rb")
        self._number, self._session = 0, None
        self.complaints = []
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(one for one in targets if one["type"] == "page")
        attached = self.call("Target.attachToTarget", targetId=page["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Runtime", "Log", "Page"):
            self.call(f"{domain}.enable")
        # A page that looks every two seconds hurries: tests have no patience.
        hasten = "const wait = setTimeout; window.setTimeout = (what, ms) => wait(what, ms / 5);"
        self.call("Page.addScriptToEvaluateOnNewDocument", source=hasten)

    def __enter__(self):
        return self

    def __exit__(self, *_exc):
        self.process.kill()
        self.process.wait()
        self._to.close()
        self._from.close()

    def call(self, method, **params):
        """Call a method of the protocol and return its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        self._to.write(json.dumps(message).encode() + b"\0")
        while True:
            answer = json.loads(self._message())
            if answer.get("method") in _COMPLAINTS:
                self.complaints.append(answer["params"])
            if answer.get("id") == self._number:
                # An expression may be lost on the way from one page to the next.
                assert "error" not in answer or method == "Runtime.evaluate", answer
                return answer.get("result", {"result": {}})

    def _message(self):
        found = bytearray()
        while (byte := self._from.read(1)) != b"\0":
            assert byte, "the browser has gone"
            found += byte
        return bytes(found)

    def open(self, url):
        """Go to an address, and wait until its page is there."""
        self.call("Page.navigate", url=url)
        self.until(f"location.href === '{url}' && document.readyState === 'complete'")

    def ask(self, expression):
        """Return what a JavaScript expression is in the page."""
        options = {"returnByValue": True, "awaitPromise": True}
        answer = self.call("Runtime.evaluate", expression=expression, **options)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def until(self, expression):
        """Wait until a JavaScript expression is true."""
        assert eventually(lambda: self.ask(expression)), expression

    def resize(self, width, height):
        """Look as on a screen of that size, in pixels."""
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
            mobile=width < 600,
        )  # fmt: skip

    def dark(self, *, on):
        """Prefer dark pages, or light ones."""
        scheme = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
