"""A real headless Chromium, driven over the Chrome DevTools Protocol: its own profile, gone when the test ends."""

from __future__ import annotations

import asyncio
import base64
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

READY_SECONDS = 30.0
_SHELL = "chromium-headless-shell"


def browser_command() -> tuple[list[str], dict[str, str]]:
    """Program and environment: Debian's, as `make servers` unpacks it or as the machine has it. Skips the test where
    there is none."""
    root = Path(sys.prefix) / "servers" / _SHELL
    unpacked = root / "usr" / "lib" / "chromium" / _SHELL
    if unpacked.is_file():
        libraries = sorted({str(found.parent) for found in root.glob("usr/lib/*-linux-gnu*/**/*.so*")})
        return [str(unpacked)], {**os.environ, "LD_LIBRARY_PATH": ":".join(libraries)}
    for name in (_SHELL, "chromium", "google-chrome"):
        if (found := shutil.which(name)) is not None:
            return [found, "--headless"], dict(os.environ)
    pytest.skip("no Chromium here: run `make servers`, or install Debian's package chromium")


class Tab:
    """One page. Methods that wait fail the test after a while."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._count = 0
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.problems: list[str] = []
        """What the browser complained of: errors, refusals of the content security policy, requests that failed."""
        self.requested: list[str] = []

    async def listen(self) -> None:
        async for message in self._socket:
            told = message.json()
            if "id" in told:
                self._waiting.pop(told["id"]).set_result(told)
                continue
            given = told.get("params") or {}
            match told.get("method"):
                case "Runtime.exceptionThrown":
                    self.problems.append(str(given["exceptionDetails"]))
                case "Log.entryAdded" if given["entry"]["level"] == "error":
                    self.problems.append(given["entry"]["text"])
                case "Network.requestWillBeSent":
                    self.requested.append(given["request"]["url"])

    async def send(self, method: str, **given: Any) -> dict[str, Any]:
        self._count += 1
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting[self._count] = future
        await self._socket.send_json({"id": self._count, "method": method, "params": given})
        told = await asyncio.wait_for(future, READY_SECONDS)
        assert "error" not in told, (method, told["error"])
        return dict(told["result"])

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression."""
        told = await self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told
        return told["result"].get("value")

    async def until(self, expression: str, seconds: float = READY_SECONDS) -> None:
        """Return once the expression is true."""
        try:
            async with asyncio.timeout(seconds):
                while not await self.run(f"Boolean({expression})"):
                    await asyncio.sleep(0.05)
        except TimeoutError:
            text = await self.run("document.body.innerText")
            pytest.fail(f"not within {seconds} s: {expression}\n{self.problems}\n{text[:3000]}")

    async def show(self, width: int, height: int, *, dark: bool = False) -> None:
        """The window's size and the user's colours."""
        await self.send(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[scheme])

    async def shot(self, file: Path, *, whole: bool = False) -> None:
        """A picture as PNG."""
        told = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        await asyncio.to_thread(file.write_bytes, base64.b64decode(told["data"]))

    async def press(self, key: str, code: int, *, shift: bool = False) -> None:
        """A key down and up, such as ("Tab", 9)."""
        text = {"Enter": "\r"}.get(key, "")
        common = {"key": key, "code": key, "windowsVirtualKeyCode": code, "modifiers": 8 if shift else 0}
        await self.send("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        await self.send("Input.dispatchKeyEvent", type="keyUp", **common)

    async def type(self, text: str) -> None:
        await self.send("Input.insertText", text=text)

    async def accessible(self) -> list[tuple[str, str]]:
        """(role, name) of everything that a screen reader is told of, in its order."""
        nodes = (await self.send("Accessibility.getFullAXTree"))["nodes"]
        return [
            (str(node["role"]["value"]), str((node.get("name") or {}).get("value", "")))
            for node in nodes
            if not node.get("ignored") and "role" in node
        ]


@asynccontextmanager
async def browser(folder: Path) -> AsyncIterator[Tab]:
    """A tab of a browser that runs for the block."""
    command, environment = browser_command()
    profile = folder / "profile"
    options = [
        "--remote-debugging-port=0",
        f"--user-data-dir={profile}",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--no-first-run",
        "--disable-background-networking",
        "--hide-scrollbars",
        "about:blank",
    ]
    process = _start([*command, *options], environment, folder / "browser.log")
    try:
        port = await _port(profile / "DevToolsActivePort", process, folder / "browser.log")
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as answer:
                url = next(one for one in await answer.json() if one["type"] == "page")["webSocketDebuggerUrl"]
            async with http.ws_connect(url, max_msg_size=0) as socket:
                tab = Tab(socket)
                listening = asyncio.ensure_future(tab.listen())
                for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
                    await tab.send(f"{domain}.enable")
                yield tab
                listening.cancel()
                await asyncio.gather(listening, return_exceptions=True)
    finally:
        process.kill()
        await asyncio.to_thread(process.wait)


def _start(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("wb") as told:
        return subprocess.Popen(command, stdout=told, stderr=told, env=environment)


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-2000:]


def _lines(file: Path) -> list[str]:
    return file.read_text().splitlines() if file.is_file() else []


async def _port(file: Path, process: subprocess.Popen[bytes], log: Path) -> int:
    for _ in range(int(READY_SECONDS / 0.05)):
        if process.poll() is not None:
            pytest.fail(f"the browser did not start: {_tail(log)}")
        if lines := _lines(file):
            return int(lines[0])
        await asyncio.sleep(0.05)
    pytest.fail(f"the browser did not get ready: {_tail(log)}")
