"""The page in a real headless Chromium: at both widths, light and dark, by keyboard, read aloud, and under attack."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import aiohttp
import pytest

from scheduler.daemon.http.api import Served
from scheduler.daemon.http.page import FILES, POLICY
from scheduler.daemon.http.server import HttpServer
from scheduler.daemon.http.status import StatusReport
from scheduler.daemon.parts import Daemon
from scheduler.model.contract import CONFIG_MAPS, NODES
from tests.builders.browser import Tab, browser, browser_command
from tests.builders.rbac import LEASE
from tests.loop import test_behaviours_remedies as remedies
from tests.loop.harness import POLICIES, World, a_world, until
from tests.loop.test_api_access import ASKING

SIZES = ((1920, 1080), (360, 740))
MARKUP = "<script>window.hacked=1</script><img src=x onerror='window.hacked=1'>"
AXE = Path(sys.prefix) / "servers" / "axe-core" / "axe.min.js"


class Hostile:
    """A status report in which every name and sentence that people can choose is markup."""

    def __init__(self, report: StatusReport) -> None:
        self._report = report

    def __getattr__(self, name: str) -> Any:
        return getattr(self._report, name)

    def status(self) -> dict[str, Any]:
        return cast(dict[str, Any], spoiled(self._report.status()))

    def workloads(self, queue: str, limit: int) -> tuple[list[dict[str, Any]], int]:
        found, total = self._report.workloads(queue, limit)
        return cast(list[dict[str, Any]], spoiled(found)), total

    async def explain(self, name: str) -> Any:
        return spoiled(await self._report.explain("default/train"))


def spoiled(value: Any, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: spoiled(each, name) for name, each in value.items()}
    if isinstance(value, list | tuple):
        return [spoiled(each, key) for each in value]
    kept = key.endswith(("usd", "_hour", "uid", "digest", "mode", "phase"))
    return value if kept or not isinstance(value, str) else f"{MARKUP}{value}"


@asynccontextmanager
async def looked_at(folder: Path, spoil: bool = False) -> AsyncIterator[tuple[World, Daemon, Tab, str]]:
    """A daemon with something to show, and a browser that has its page open."""
    browser_command()
    async with a_world(folder, policies=POLICIES + ASKING) as world, world.daemon() as (daemon, _):
        served: Served = daemon.served
        if spoil:
            served = replace(served, report=cast(StatusReport, Hostile(daemon.report)))
        server = HttpServer("127.0.0.1", 0, served)
        url = await server.start()
        try:
            await world.submit("train", seconds=1e6)
            await world.submit("too-large-for-any-machine", gpus=64)
            await until(lambda: daemon.report.status()["workloads"]["started"], "one runs")
            async with browser(folder) as tab:
                await tab.show(*SIZES[0])
                await tab.send("Page.navigate", url=url)
                await tab.until("document.querySelectorAll('#workloads tbody a').length >= 2")
                yield world, daemon, tab, url
        finally:
            await server.stop()


async def complaints(tab: Tab) -> str:
    """What axe-core finds against WCAG 2.1 A and AA; nothing where it is not at hand."""
    if not AXE.is_file():
        return ""
    # It is put in by the test, past the page's own content security policy.
    if not await tab.run("Boolean(window.axe)"):
        await tab.run(AXE.read_text() + ";0")
    tags = "{runOnly: ['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'best-practice'], resultTypes: ['violations']}"
    told = "v => v.id + ': ' + v.nodes.map(n => n.html).join(' | ')"
    found = await tab.run(f"axe.run(document, {tags}).then(r => r.violations.map({told}))")
    return "\n".join(str(each)[:500] for each in found)


@pytest.mark.timeout(180)
async def test_people_look_and_throw_a_switch(tmp_path: Path) -> None:
    async with looked_at(tmp_path) as (world, daemon, tab, url):
        told = remedies.Told(daemon)
        name = (await world.member("onprem").list(NODES)).items[0]["metadata"]["name"]
        told.open("i1", "gpu.xid.79", "onprem", name)
        await tab.until("document.querySelector('#live').className === 'on'")
        await world.submit("while-looking")
        await tab.until(
            "[...document.querySelectorAll('#events a')].some(a => a.textContent === 'default/while-looking')"
        )
        await tab.until("document.querySelector('#incident-list button')", 60)
        for width, height in SIZES:
            for dark in (False, True):
                await tab.show(width, height, dark=dark)
                overflow = await tab.run("document.documentElement.scrollWidth - innerWidth")
                assert overflow <= 0, (width, overflow)
                if dark == (width < 720):
                    assert await complaints(tab) == ""
        heard = await tab.accessible()
        assert {name for role, name in heard if role == "heading"} >= {
            "Clusters and pools", "Queues", "Budgets and spend", "Placements", "Incidents",
        }  # fmt: skip
        assert all(name for role, name in heard if role in ("button", "link", "textbox", "searchbox", "combobox")), (
            heard
        )
        await by_keyboard(tab)
        await switched(world, daemon, tab)
        assert tab.problems == []
        assert {address.split("/")[2] for address in tab.requested} == {url.split("/")[2]}


async def by_keyboard(tab: Tab) -> None:
    """The first stop leads past the head; a workload opens with Enter, closes with Escape, and focus comes back."""
    await tab.run("document.activeElement.blur()")
    await tab.press("Tab", 9)
    assert await tab.run("document.activeElement.className") == "skip"
    for _ in range(60):
        await tab.press("Tab", 9)
        if await tab.run("document.activeElement.matches('#workloads tbody a')"):
            break
    opened = await tab.run("document.activeElement.textContent")
    assert opened.startswith("default/")
    await tab.press("Enter", 13)
    await tab.until("document.querySelector('#detail[open] .facts')")
    assert await tab.run("document.querySelector('#detail').contains(document.activeElement)")
    assert await tab.run("document.querySelector('#detail-title').textContent") == f"job/{opened}"
    assert await complaints(tab) == ""
    # Rows are written anew whenever something changes.
    rows = "document.querySelectorAll('#workloads tbody tr')"
    await tab.run(f"{rows}.forEach(row => row.replaceWith(row.cloneNode(true)))")
    await tab.press("Escape", 27)
    await tab.until("!document.querySelector('#detail').open")
    await tab.until("document.activeElement.matches('#workloads tbody a')")
    assert await tab.run("document.activeElement.textContent") == opened


async def switched(world: World, daemon: Daemon, tab: Tab) -> None:
    """Remedies are paused with the hub's own token; a wrong one changes nothing; none is kept anywhere."""
    token = world.sandbox.servers["hub"].token
    await tab.run("document.querySelector('#pause').click()")
    for typed, want in (("wrong-token", False), (token, True)):
        await tab.run("document.querySelector('#act-token').value = ''")
        await tab.run("document.querySelector('#act-token').focus()")
        await tab.type(typed)
        await tab.press("Enter", 13)
        if not want:
            await tab.until("document.querySelector('#act-error').textContent.includes('does not know that token')")
            assert not daemon.control.switches.paused
    await tab.until("document.querySelector('#pause').textContent === 'Resume remedies'")
    kept = await world.hub.get(CONFIG_MAPS, "kube-system", LEASE)
    assert kept["data"] == {"paused": "true"}
    shown = await tab.run("document.documentElement.outerHTML + JSON.stringify({...localStorage, ...sessionStorage})")
    assert token not in shown
    assert await tab.run("[...document.querySelectorAll('input')].every(each => !each.value)")
    tab.problems[:] = [each for each in tab.problems if "401" not in each]


@pytest.mark.timeout(120)
async def test_markup_in_names_and_sentences_is_shown_as_text(tmp_path: Path) -> None:
    async with looked_at(tmp_path, spoil=True) as (_, _, tab, _):
        await tab.run("document.querySelector('#workloads tbody a').click()")
        await tab.until("document.querySelector('#detail .facts')")
        assert MARKUP in await tab.run("document.querySelector('#detail').textContent")
        for place in ("#workloads tbody", "#clusters table", "#queues tbody", "#federation"):
            assert MARKUP in await tab.run(f"document.querySelector({place!r}).textContent"), place
        assert (
            await tab.run("document.querySelectorAll('main script, main img, dialog script, dialog img').length") == 0
        )
        assert await tab.run("window.hacked === undefined")
        for width, height in SIZES:
            await tab.show(width, height)
            assert await tab.run("document.documentElement.scrollWidth - innerWidth") <= 0, width
        # What could put markup in is forbidden by the policy even where the page were to try.
        tried = "try { document.body.innerHTML = '<p>x</p>'; return 'set' } catch (error) { return error.name }"
        assert await tab.run(f"(() => {{ {tried} }})()") == "TypeError"


async def test_every_file_has_a_strict_policy_and_nothing_inline(tmp_path: Path) -> None:
    async with a_world(tmp_path) as world, world.daemon() as (daemon, _), aiohttp.ClientSession() as http:
        server = HttpServer("127.0.0.1", 0, daemon.served)
        url = await server.start()
        try:
            for path in (*FILES, "/api/v1/status", "/api/v1/nothing", "/metrics"):
                async with http.get(f"{url}{path}") as answer:
                    assert answer.headers["Content-Security-Policy"] == POLICY, path
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert "Access-Control-Allow-Origin" not in answer.headers
                    tag, text = answer.headers.get("ETag", ""), await answer.text()
                if path in FILES:
                    async with http.get(f"{url}{path}", headers={"If-None-Match": tag}) as answer:
                        assert answer.status == 304
                    assert "style=" not in text, "inline styles are refused"
                    assert "http://" not in text.replace("http://www.w3.org/2000/svg", ""), "no other host"
                    assert "https://" not in text
                    assert "innerHTML" not in text
            assert "unsafe" not in POLICY
        finally:
            await server.stop()
