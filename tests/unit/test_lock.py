"""The scan of requirements.lock finds what it is for."""

from __future__ import annotations

import pytest

from deploy.lock import faults, main

HASH = f"--hash=sha256:{'a' * 64}"
GOOD = f"aiohttp==3.14.5 \\\n    {HASH} \\\n    {HASH}\nnumpy==2.4.6 ; python_full_version < '3.12' \\\n    {HASH}\n"
ADVISORIES = {"aiohttp": {"least": "3.14.3", "id": "CVE-1"}}


@pytest.mark.parametrize(
    ("lock", "installed", "said"),
    [
        (GOOD, {"aiohttp": "3.14.5", "overspill": "0.1", "pip": "1"}, ""),
        (GOOD.replace("3.14.5", "3.14.3"), {}, ""),
        (GOOD.replace("3.14.5", "3.9"), {}, "aiohttp 3.9: CVE-1 is mended in 3.14.3"),
        (GOOD.replace("==3.14.5", ">=3.14.5"), {}, "aiohttp: is not pinned"),
        (GOOD.replace("==3.14.5", "==3.*"), {}, "aiohttp: is not pinned"),
        (GOOD.replace("==3.14.5", " @ https://example.com/a.whl"), {}, "aiohttp: is not pinned"),
        (GOOD.replace(HASH, ""), {}, "aiohttp: has no hashes"),
        (GOOD.replace("sha256:", "md5:"), {}, "numpy: has no hashes"),
        (GOOD + "--index-url https://example.com\n", {}, "is no requirement"),
        (GOOD, {"aiohttp": "3.14.4"}, "aiohttp 3.14.4: is installed and not locked"),
        (GOOD, {"stowaway": "1"}, "stowaway 1: is installed and not locked"),
    ],
)
def test_what_is_wrong_with_a_lock(lock: str, installed: dict[str, str], said: str) -> None:
    found = list(faults(lock, ADVISORIES, installed))
    assert any(said in line for line in found) if said else not found, found


def test_ours_is_sound(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0, capsys.readouterr().err
