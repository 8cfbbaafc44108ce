"""A headless Chromium through its driver, by the plain protocol of W3C WebDriver: no package is needed."""

import base64
import json
import shutil
import subprocess
import time
import urllib.request

DRIVER, CHROMIUM = shutil.which("chromedriver"), shutil.which("chromium") or shutil.which("google-chrome")
ELEMENT = "element-6066-11e4-a52e-4f735466cecf"
ARGUMENTS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]


class Browser:
    """One window; `close` ends it and the driver."""

    def __init__(self, port):
        self.process = subprocess.Popen([DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        self.address = f"http://127.0.0.1:{port}"
        options = {"binary": CHROMIUM, "args": ARGUMENTS}
        wanted = {"browserName": "chrome", "goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        for trial in range(100):
            try:
                session = self._post("/session", {"capabilities": {"alwaysMatch": wanted}})
                break
            except ConnectionError:
                time.sleep(0.2)
            except OSError:
                if trial == 99:
                    raise
                time.sleep(0.2)
        self.address += f"/session/{session['sessionId']}"

    def _post(self, path, body, method="POST"):
        content = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(self.address + path, content, {"Content-Type": "application/json"},
                                         method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["value"]

    def cdp(self, command, **parameters):
        return self._post("/goog/cdp/execute", {"cmd": command, "params": parameters})

    def show(self, path, width, height=900, scheme="light"):
        """Opens a file in a window of this size."""
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                 mobile=width < 600)
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        self._post("/url", {"url": path.as_uri()})

    def run(self, script, *given):
        """Returns what the body of a function returns."""
        return self._post("/execute/sync", {"script": script, "args": list(given)})

    def click(self, selector, number=0):
        """Clicks the element as a pointer does."""
        found = self._post("/elements", {"using": "css selector", "value": selector})
        self._post(f"/element/{found[number][ELEMENT]}/click", {})

    def press(self, *keys):
        """Presses keys one after the other, by their codes in WebDriver."""
        actions = [{"type": kind, "value": key} for key in keys for kind in ("keyDown", "keyUp")]
        self._post("/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def hover(self, x, y):
        """Moves the pointer to a place of the window."""
        move = {"type": "pointerMove", "duration": 0, "x": int(x), "y": int(y), "origin": "viewport"}
        self._post("/actions", {"actions": [{"type": "pointer", "id": "mouse", "actions": [move]}]})

    def errors(self):
        """Returns what the console has had since it was last asked."""
        return [line["message"] for line in self._post("/se/log", {"type": "browser"})]

    def screenshot(self, path, whole=False):
        if whole:
            size = self.cdp("Page.getLayoutMetrics")["cssContentSize"]
            clip = {"x": 0, "y": 0, "width": size["width"], "height": min(size["height"], 8000), "scale": 1}
            found = self.cdp("Page.captureScreenshot", captureBeyondViewport=True, clip=clip)["data"]
        else:
            found = self._post("/screenshot", {}, "GET")
        path.write_bytes(base64.b64decode(found))

    def close(self):
        try:
            self._post("", {}, "DELETE")
        finally:
            self.process.terminate()
            self.process.wait(timeout=30)
