"""Changes of policy files are seen, however they come: by git-sync's link or by a mounted ConfigMap's."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable
from itertools import count
from pathlib import Path

from scheduler.daemon.config.watch_files import changes


def turn(link: Path, target: Path) -> None:
    """As git-sync and the kubelet do it: at once."""
    fresh = link.with_name("fresh")
    fresh.symlink_to(target)
    fresh.replace(link)


async def noticed(watch: AsyncIterator[None], act: Callable[[], None]) -> None:
    """Returns once a change is told. `act` is done again until then: nobody can say when a watch has begun."""
    pending = asyncio.ensure_future(anext(watch))
    async with asyncio.timeout(30):
        while not pending.done():
            act()
            await asyncio.wait([pending], timeout=2)
    await pending


async def test_each_commit_that_git_sync_fetches_is_seen(tmp_path: Path) -> None:
    numbers = count()

    def commit(folder: str) -> None:
        """A checkout of its own, the link turned to it, the one before removed."""
        number = next(numbers)
        place = tmp_path / "worktrees" / str(number) / folder
        place.mkdir(parents=True)
        (place / "a.yaml").write_text(str(number))
        turn(tmp_path / "current", place.parent)
        shutil.rmtree(tmp_path / "worktrees" / str(number - 1), ignore_errors=True)

    commit("policies")
    path = tmp_path / "current" / "policies"
    watch = aiter(changes(path))
    for folder, want in (("policies", True), ("policies", True), ("renamed", False), ("policies", True)):
        await noticed(watch, lambda folder=folder: commit(folder))  # type: ignore[misc]
        assert path.is_dir() == want


async def test_a_mounted_config_map_is_seen_each_time(tmp_path: Path) -> None:
    numbers = count()

    def update() -> None:
        place = tmp_path / f"..{next(numbers)}"
        place.mkdir()
        (place / "a.yaml").write_text(place.name)
        turn(tmp_path / "..data", place)

    update()
    (tmp_path / "a.yaml").symlink_to("..data/a.yaml")
    watch = aiter(changes(tmp_path))
    for _ in range(2):
        before = (tmp_path / "a.yaml").read_text()
        await noticed(watch, update)
        assert (tmp_path / "a.yaml").read_text() != before
