"""Drives a real Chromium through its DevTools protocol: reads, clicks and types as a user does."""

import asyncio
import base64
import os
import re
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp

from tests.kit.support import PATIENCE

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
KEYS = {"Tab": (9, ""), "Enter": (13, "\r"), " ": (32, " ")}
SHIFT = 8
SHOWN = "[document.querySelector(SELECTOR)].find((element) => element?.checkVisibility())?.innerText"


def find_chromium() -> str | None:
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)


@contextmanager
def running(binary: str, profile: Path) -> Iterator[str]:
    """The address of the browser's DevTools."""
    options = ["--headless=new", "--remote-debugging-port=0", f"--user-data-dir={profile}", "--disable-dev-shm-usage"]
    options += ["--no-first-run", "--disable-background-networking", "--disable-gpu", "--lang=en-GB"]
    if os.geteuid() == 0:
        options.append("--no-sandbox")
    log = profile / "log"
    with log.open("w") as stderr, subprocess.Popen([binary, *options, "about:blank"], stderr=stderr) as process:
        try:
            yield _address(process, log)
        finally:
            process.kill()


def _address(process: "subprocess.Popen[bytes]", log: Path) -> str:
    until = time.monotonic() + PATIENCE
    while not (match := re.search(r"DevTools listening on (ws://\S+)\n", log.read_text(errors="replace"))):
        if process.poll() is not None or time.monotonic() > until:
            raise AssertionError(f"Chromium did not start: {log.read_text(errors='replace')}")
        time.sleep(0.02)
    return match[1]


class Page:
    """One tab. `problems` are the errors and warnings of its console, including violations of its policy."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._numbers = count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._session: str | None = None
        self.loaded = asyncio.Event()
        self.problems: list[str] = []

    async def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        number = next(self._numbers)
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._answers[number] = answer
        session = {"sessionId": self._session} if self._session else {}
        await self._socket.send_json({"id": number, "method": method, "params": parameters, **session})
        async with asyncio.timeout(PATIENCE):
            return await answer

    async def attach(self) -> None:
        target = await self.call("Target.createTarget", url="about:blank")
        attached = await self.call("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Accessibility"):
            await self.call(f"{domain}.enable")
        await self.call("Emulation.setScrollbarsHidden", hidden=True)
        await self.set_viewport(1000, 900)

    async def read(self) -> None:
        async for message in self._socket:
            reply = message.json()
            if "id" in reply:
                answer = self._answers.pop(reply["id"])
                if "error" in reply:
                    answer.set_exception(AssertionError(reply["error"]))
                elif not answer.cancelled():
                    answer.set_result(reply["result"])
            else:
                self._handle(reply["method"], reply["params"])

    def _handle(self, event: str, params: dict[str, Any]) -> None:
        match event:
            case "Page.loadEventFired":
                self.loaded.set()
            case "Runtime.exceptionThrown":
                self.problems.append(str(params["exceptionDetails"]))
            case "Runtime.consoleAPICalled" if params["type"] in ("error", "warning", "assert"):
                self.problems.append(str(params["args"]))
            case "Log.entryAdded" if params["entry"]["level"] in ("error", "warning"):
                self.problems.append(f"{params['entry']['text']} {params['entry'].get('url', '')}")

    async def open(self, url: str) -> None:
        # Through another page first, because a new fragment alone loads nothing.
        for place in ("about:blank", url):
            self.loaded.clear()
            await self.call("Page.navigate", url=place)
            await self.loaded.wait()

    async def reload(self) -> None:
        self.loaded.clear()
        await self.call("Page.reload")
        await self.loaded.wait()

    async def set_viewport(self, width: int, height: int, *, dark: bool = False) -> None:
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])

    async def value(self, expression: str) -> Any:
        reply = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, (expression, reply["exceptionDetails"])
        return reply["result"].get("value")

    async def until(self, expression: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE):
                while not await self.value(f"!!({expression})"):
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise AssertionError(f"this did not become true: {expression}\n{await self.text()}") from None

    async def text(self, selector: str = "body") -> str:
        """The visible text of an element; empty if it is not visible."""
        return str(await self.value(f"(({SHOWN}) ?? '')".replace("SELECTOR", repr(selector))))

    async def shows(self, selector: str, text: str) -> None:
        await self.until(f"(({SHOWN}) ?? '').includes({text!r})".replace("SELECTOR", repr(selector)))

    async def click(self, selector: str) -> None:
        """Click an element with the mouse."""
        await self._click(f"document.querySelector({selector!r})")

    async def click_button(self, text: str) -> None:
        """Click the button whose text begins with `text`. Use it if no selector finds the button."""
        buttons = "[...document.querySelectorAll('button')].filter((one) => one.checkVisibility())"
        await self._click(f"{buttons}.find((one) => one.innerText.trim().startsWith({text!r}))")

    async def hover(self, selector: str) -> None:
        x, y = await self._middle(f"document.querySelector({selector!r})")
        await self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    async def _click(self, element: str) -> None:
        x, y = await self._middle(element)
        for event_type in ("mousePressed", "mouseReleased"):
            await self.call("Input.dispatchMouseEvent", type=event_type, x=x, y=y, button="left", clickCount=1)

    async def _middle(self, element: str) -> tuple[float, float]:
        """The middle of an element, after it has become visible."""
        await self.until(f"{element}?.checkVisibility()")
        await self.value(f"{element}.scrollIntoView({{block: 'center'}})")
        x, y = await self.value(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({element}.getBoundingClientRect())"
        )
        return x, y

    async def press(self, key: str, *, shift: bool = False) -> None:
        code, text = KEYS[key]
        for event_type in ("keyDown", "keyUp"):
            typed = {"text": text} if text and event_type == "keyDown" else {}
            await self.call(
                "Input.dispatchKeyEvent",
                type=event_type,
                key=key,
                code=key.strip() or "Space",
                windowsVirtualKeyCode=code,
                modifiers=SHIFT if shift else 0,
                **typed,
            )

    async def type(self, text: str) -> None:
        await self.call("Input.insertText", text=text)

    async def shoot(self, file: Path) -> None:
        """Save a screenshot of the whole page."""
        file.parent.mkdir(parents=True, exist_ok=True)
        shot = await self.call("Page.captureScreenshot", captureBeyondViewport=True)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(shot["data"]))

    async def accessible(self) -> list[tuple[str, str]]:
        """Role and name of every element that a screen reader finds."""
        nodes = (await self.call("Accessibility.getFullAXTree"))["nodes"]
        return [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]


@asynccontextmanager
async def tab(devtools: str) -> AsyncIterator[Page]:
    async with aiohttp.ClientSession() as session, session.ws_connect(devtools, max_msg_size=0) as socket:
        page = Page(socket)
        reading = asyncio.create_task(page.read())
        try:
            await page.attach()
            yield page
            await page.call("Page.close")
        finally:
            reading.cancel()
            await asyncio.wait([reading])
