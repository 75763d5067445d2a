"""The federation file: what it becomes, and how its mistakes are told."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import policies
from policies.documents import Problem
from policies.errors import PolicyErrors
from scheduler.daemon.config.federation import Federation, Hub, Source, load_federation, validate_settings
from scheduler.daemon.main import gathering_of
from scheduler.model.cluster import NodePool, Taint
from scheduler.model.errors import InvalidObjectError
from scheduler.model.ids import ClusterId, PoolId, PoolRef
from scheduler.model.money import Price
from scheduler.model.resources import Resources

EXAMPLE = Path(policies.__file__).parent.parent / "examples" / "federation.yaml"


def load(tmp_path: Path, text: str | bytes, **arguments: Any) -> Federation:
    file = tmp_path / "f.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_federation(file, **arguments)


def mistakes(tmp_path: Path, text: str | bytes, **arguments: Any) -> list[str]:
    with pytest.raises(PolicyErrors) as caught:
        load(tmp_path, text, **arguments)
    return [str(error).removeprefix(f"{tmp_path}/") for error in caught.value.errors]


def test_the_example_becomes_what_the_daemon_uses() -> None:
    found = load_federation(EXAMPLE, as_of=1000.0, validate_provider=validate_settings)
    folder = EXAMPLE.parent
    assert (found.name, found.mode, found.own_queries) == ("example", "shadow", True)
    assert found.hub == Hub("hub", folder / "kubeconfigs/hub.yaml", "hub")
    assert (found.listen_address, found.listen_port, found.clock_file) == ("127.0.0.1", 8080, None)
    assert found.history_url == f"sqlite+aiosqlite:///{folder.absolute()}/overspill.db"
    onprem, eks = found.members
    assert (onprem.id, onprem.region, onprem.labels) == ("onprem", "eu-dc1", (("overspill.dev/residency", "eu"),))
    assert (onprem.provider_type, onprem.provider_settings) == ("onprem", {"type": "onprem"})
    assert onprem.metrics == Source("scrape", {"type": "scrape", "url": "http://127.0.0.1:9400/metrics"}, folder)
    assert (onprem.pools[0].scaling, onprem.pools[0].price) == (
        "fixed",
        Price(Decimal("9.80"), "federation.yaml", 1000.0),
    )
    assert eks.provider_settings == {"type": "eks", "clusterName": "gpu-burst", "region": "us-east-1"}
    assert eks.base_dir == folder
    assert eks.pools == (
        NodePool(
            ref=PoolRef(ClusterId("eks"), PoolId("p4d-spot")),
            capacity_type="spot",
            scaling="managed",
            instance_type="p4d.24xlarge",
            min_nodes=0,
            max_nodes=8,
            desired_nodes=None,
            node_resources=Resources(95_000, 1100 * 2**30, 8, 110),
            gpu_model="A100-40GB",
            gpu_memory_bytes=40 * 2**30,
            labels=(("eks.amazonaws.com/nodegroup", "p4d-spot"),),
            selector=(("eks.amazonaws.com/nodegroup", "p4d-spot"),),
            taints=(Taint("nvidia.com/gpu", "present", "NoSchedule"),),
            price=Price(Decimal("9.62"), "federation.yaml", 1000.0),
            provisioning_seconds=240.0,
        ),
    )
    assert (found.names.clusters, found.names.residency) == (
        frozenset({"onprem", "eks"}),
        frozenset({"eu", "us"}),
    )
    assert found.names.gpu_models == {"A100-80GB", "A100-40GB"}


SMALL = """apiVersion: overspill.dev/v1alpha1
kind: Federation
metadata: {name: f}
spec:
  members:
    - name: m
      region: r
      provider: {type: onprem}
      pools:
        - {name: p, selector: {a: b}, capacityType: owned, node: {cpu: 1, memory: 1Gi}}
"""


def test_what_is_left_out(tmp_path: Path) -> None:
    found = load(tmp_path, SMALL)
    assert (found.mode, found.hub) == ("shadow", Hub("hub", None, None))
    assert (found.listen_address, found.listen_port) == ("127.0.0.1", 8080)
    assert found.history_url == f"sqlite+aiosqlite:///{tmp_path}/overspill.db"
    (member,) = found.members
    assert (member.kubeconfig, member.context, member.metrics, member.labels) == (None, None, None, ())
    (pool,) = member.pools
    assert (pool.price, pool.provisioning_seconds, pool.gpu_model, pool.gpu_memory_bytes) == (None, None, None, None)
    assert (pool.scaling, pool.min_nodes, pool.node_resources) == ("fixed", 0, Resources(1000, 2**30, 0, 110))


def test_prices_and_currencies(tmp_path: Path) -> None:
    assert (load(tmp_path, SMALL).prices, load(tmp_path, SMALL).currencies) == ((), {})
    more = """
  prices:
    - {type: onprem, pue: 1.3, machines: [{pool: p, purchasePrice: 100000.10, powerWatts: 5000}]}
    - {type: static, file: prices.csv}
  currencies:
    SEK: 0.095
    EUR: {usdPerUnit: "1.08", asOf: 2026-03-31}
"""
    found = load(tmp_path, SMALL + more)
    onprem, static = found.prices
    assert onprem.settings["machines"] == [{"pool": "p", "purchasePrice": 100000.10, "powerWatts": 5000}]
    assert static == Source("static", {"type": "static", "file": "prices.csv"}, tmp_path)
    assert found.currencies == {
        "EUR": {"usdPerUnit": Decimal("1.08"), "asOf": "2026-03-31"},
        "SEK": {"usdPerUnit": Decimal("0.095")},
    }


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("prices: []", "f.yaml:11:3: prices: must not be empty; write at least one"),
        ("prices: [aws]", 'f.yaml:11:12: prices[0]: "aws" is not a map; write key: value pairs'),
        ("prices: [{region: x}]", 'f.yaml:11:12: prices[0]: missing key "type"; add it'),
        ("prices: [{type: onprme}]", "f.yaml:11:19: prices[0].type: price source type 'onprme' is not known; did"),
        ("prices: [{type: onprem, pew: 2}]", 'f.yaml:11:27: prices[0].pew: unknown key; did you mean "pue"?'),
        ("prices: [{type: onprem, pue: 0.5}]", 'f.yaml:11:32: prices[0].pue: "0.5" is not allowed; write 1 or more'),
        ("currencies: {EURO: 1}", 'f.yaml:11:22: currencies.EURO: "EURO" is not of the form ^[A-Z]{3}$; correct it'),
        ("currencies: {USD: 1}", "f.yaml:11:21: currencies.USD: USD is what the rates lead to; remove it"),
        ("currencies: {EUR: 0}", "f.yaml:11:21: currencies.EUR.usdPerUnit: must be more than 0; write how many"),
        ("currencies: {EUR: much}", 'f.yaml:11:21: currencies.EUR.usdPerUnit: "much" is not an amount of USD; write'),
        ("currencies: {EUR: {usdPerUnit: 1, asof: x}}", 'f.yaml:11:37: unknown key "asof" in currencies.EUR; '),
        ("currencies: {EUR: {usdPerUnit: 1, asOf: May}}", 'currencies.EUR.asOf: "May" is not of the form'),
    ],
)
def test_mistakes_of_prices_have_their_places(tmp_path: Path, written: str, want: str) -> None:
    told = mistakes(tmp_path, f"{SMALL}  {written}\n", validate_provider=validate_settings)
    assert len(told) == 1
    assert want in told[0]


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("type: scrap", "f.yaml:8:23: members[0].metrics.type: metrics type 'scrap' is not known; did you mean"),
        ("type: scrape, auth: x", "f.yaml:8:31: members[0].metrics.auth: unknown key; "),
        ("type: prometheus, maxAnswerBytes: few", 'members[0].metrics.maxAnswerBytes: "few" is not a whole number'),
    ],
)
def test_mistakes_of_metrics_have_their_places(tmp_path: Path, written: str, want: str) -> None:
    text = SMALL.replace("region: r", "region: r\n      metrics: {" + written + ", url: 'http://x/metrics'}")
    told = mistakes(tmp_path, text, validate_provider=validate_settings)
    assert len(told) == 1
    assert want in told[0]


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("", "in-cluster"),
        ("\n      kubeconfig: k.yaml", "kubeconfig"),
        ("\n      kubeconfig: k.yaml\n      login: kubeconfig", "kubeconfig"),
        ("\n      login: provider", "provider"),
        ("\n      login: in-cluster", "in-cluster"),
    ],
)
def test_how_a_member_is_logged_in_to(tmp_path: Path, written: str, want: str) -> None:
    assert load(tmp_path, SMALL.replace("region: r", f"region: r{written}")).members[0].login == want


def test_prices_are_as_of_the_files_last_change(tmp_path: Path) -> None:
    found = load(tmp_path, SMALL.replace("node:", "price: {usdPerHour: 0.1}, node:"))
    price = found.members[0].pools[0].price
    assert price == Price(Decimal("0.1"), "f.yaml", (tmp_path / "f.yaml").stat().st_mtime)


def test_the_password_of_the_history_may_come_from_a_file(tmp_path: Path) -> None:
    written = "  history: {url: 'postgresql+asyncpg://over@db/x', passwordFile: word}\n  members"
    text = SMALL.replace("  members", written)
    with pytest.raises(InvalidObjectError, match=r"history.passwordFile: .*word: cannot be read \(FileNotFoundError\)"):
        load(tmp_path, text)
    (tmp_path / "word").write_text("p@ss/word\n")
    assert load(tmp_path, text).history_url == "postgresql+asyncpg://over:p%40ss%2Fword@db/x"
    (tmp_path / "word").write_text("\n")
    with pytest.raises(InvalidObjectError, match="should hold one line, the password alone"):
        load(tmp_path, text)


def test_the_whole_url_of_the_history_may_come_from_a_file(tmp_path: Path) -> None:
    text = SMALL.replace("  members", "  history: {urlFile: url}\n  members")
    with pytest.raises(InvalidObjectError, match=r"history.urlFile: .*url: cannot be read \(FileNotFoundError\)"):
        load(tmp_path, text)
    (tmp_path / "url").write_text("postgresql+asyncpg://over:p%40ss@db/x\n")
    assert load(tmp_path, text).history_url == "postgresql+asyncpg://over:p%40ss@db/x"
    for wrong in ("mysql://over:hunter2@db/x", "hunter2"):
        (tmp_path / "url").write_text(wrong)
        with pytest.raises(InvalidObjectError, match=r"history.urlFile: .*sqlite\+aiosqlite") as caught:
            load(tmp_path, text)
        assert "hunter2" not in str(caught.value)
    with pytest.raises(InvalidObjectError, match="urlFile: holds the whole URL; write neither url nor passwordFile"):
        load(tmp_path, text.replace("urlFile: url", "urlFile: url, passwordFile: word"))


def test_replicas_reach_one_another_at_the_address_of_the_pod(tmp_path: Path) -> None:
    found = load(tmp_path, SMALL.replace("  members", "  gathering: {shards: 2, tokenFile: t}\n  members"))
    for environment, want in (
        ({}, "http://127.0.0.1:8080"),
        ({"POD_IP": "10.0.0.7"}, "http://10.0.0.7:8080"),
        ({"POD_IP": "fd00::7"}, "http://[fd00::7]:8080"),
        ({"POD_IP": "10.0.0.7", "OVERSPILL_ADVERTISE_URL": "http://a/"}, "http://a"),
    ):
        gathering = gathering_of(found, environment)
        assert gathering is not None
        assert gathering.url == want


@pytest.mark.parametrize(
    ("written", "want"),
    [
        ("sqlite+aiosqlite:////var/x.db", "sqlite+aiosqlite:////var/x.db"),
        ("'sqlite+aiosqlite:///:memory:'", "sqlite+aiosqlite:///:memory:"),
        ("postgresql+asyncpg://u:secret@db/x", "postgresql+asyncpg://u:secret@db/x"),
    ],
)
def test_history_urls_that_name_no_relative_file_stay(tmp_path: Path, written: str, want: str) -> None:
    assert load(tmp_path, SMALL.replace("  members", f"  history: {{url: {written}}}\n  members")).history_url == want


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    text = SMALL.replace("region: r", "region: r\n      kubeconfig: k/m.yaml").replace(
        "  members", "  clockFile: ../clock\n  hub: {kubeconfig: /etc/hub.yaml}\n  members"
    )
    found = load(tmp_path, text)
    assert found.members[0].kubeconfig == tmp_path / "k/m.yaml"
    assert found.clock_file == tmp_path / "../clock"
    assert found.hub.kubeconfig == Path("/etc/hub.yaml")


@pytest.mark.parametrize(
    ("listen", "want"),
    [
        ("{address: 0.0.0.0}", 'f.yaml:5:21: listen.address: "0.0.0.0" can be reached from other machines; '),
        ("{address: '::'}", 'f.yaml:5:21: listen.address: "::" can be reached'),
        ("{address: example.com}", 'f.yaml:5:21: listen.address: "example.com" can be reached'),
        ("{address: 0.0.0.0, allowRemote: true}", None),
        ("{address: localhost}", None),
        ("{address: '::1'}", None),
        ("{port: 65536}", 'f.yaml:5:18: listen.port: "65536" is not allowed; write 65535 or less'),
        ("{workloadMetrics: 0}", None),
        ("{workloadMetrics: 5001}", 'f.yaml:5:29: listen.workloadMetrics: "5001" is not allowed; write 5000 or less'),
    ],
)
def test_listening_to_others_must_be_said(tmp_path: Path, listen: str, want: str | None) -> None:
    text = SMALL.replace("  members", f"  listen: {listen}\n  members")
    if want is None:
        load(tmp_path, text)
    else:
        assert mistakes(tmp_path, text)[0].startswith(want)


POOL = "        - {name: p, selector: {a: b}, capacityType: owned, node: {cpu: 1, memory: 1Gi}}\n"
CASES = [
    # what, old, new, want_
    ("key", "region: r", "regoin: r", 'f.yaml:7:7: unknown key "regoin" in members[0]; did you mean "region"?'),
    ("no selector", "selector: {a: b}, ", "", 'members[0].pools[0]: missing key "selector"; add it'),
    ("empty selector", "{a: b}", "{}", "10:21: members[0].pools[0].selector: must not be empty; write at least one"),
    ("capacity type", "owned", "ondemand", 'capacityType: "ondemand" is not allowed; did you mean "on-demand"?'),
    ("managed without limit", "owned", "spot", 'members[0].pools[0]: missing key "maxNodes"; a managed pool needs one'),
    ("limits", "owned", "spot, minNodes: 3, maxNodes: 2", "maxNodes: less than minNodes (3); write at least that"),
    ("quantity", "1Gi", "1GB", 'node.memory: "1GB" is not a Kubernetes quantity; write for example 500m, 4 or 16Gi'),
    ("price", "node:", "price: {usdPerHour: free}, node:", 'price.usdPerHour: "free" is not an amount of USD; write'),
    ("negative time", "node:", "provisioningSeconds: -1, node:", 'provisioningSeconds: "-1" is out of range; write'),
    (
        "taint",
        "node:",
        "taints: [{key: k, effect: NoExec}], node:",
        'effect: "NoExec" is not allowed; did you mean "NoExecute"?',
    ),
    ("member name", "name: m", "name: M_", 'f.yaml:6:13: members[0].name: "M_" is not a cluster name; use at most'),
    ("pool twice", POOL, POOL * 2, 'f.yaml:11:18: members[0].pools[1].name: duplicate pool "p"; rename or remove one'),
    ("selector twice", POOL, POOL + POOL.replace("p,", "q,"), 'selector: the same as of pool "p"; tell them apart'),
    (
        "metrics",
        "region: r",
        "region: r\n      metrics: {type: scrape, url: 'ftp://x'}",
        'url: "ftp://x" is not of the',
    ),
    ("history", "  members", "  history: {url: 'mysql://x/y'}\n  members", '"mysql" is not supported; write sqlite'),
    ("no URL", "  members", "  history: {url: nonsense}\n  members", "history.url: not a database URL; write one such"),
    (
        "mode",
        "  members",
        "  mode: on\n  members",
        'f.yaml:5:9: mode: "on" is not allowed; write one of active, shadow',
    ),
    ("no members", SMALL[SMALL.index("    - name") :], "    []\n", "members: must not be empty; write at least one"),
    ("two documents", "kind", "kind: x\n---\nkind", "f.yaml:1:1: more than one document; keep one Federation"),
    ("a policy", "Federation", "Queue", 'f.yaml:2:7: unsupported kind "Queue"; write one of Federation'),
    ("provider without type", "{type: onprem}", "{x: 1}", 'members[0].provider: missing key "type"; add it'),
    (
        "login without kubeconfig",
        "region: r",
        "region: r\n      login: kubeconfig",
        'members[0]: missing key "kubeconfig"; login: kubeconfig needs one',
    ),
    (
        "kubeconfig that is not used",
        "region: r",
        "region: r\n      login: provider\n      kubeconfig: k.yaml",
        "f.yaml:9:19: members[0].kubeconfig: is not used with login: provider; remove it or write login: kubeconfig",
    ),
    (
        "context without kubeconfig",
        "region: r",
        "region: r\n      context: c",
        "members[0].context: is not used with login: in-cluster; remove it or write login: kubeconfig",
    ),
    (
        "login",
        "region: r",
        "region: r\n      login: incluster",
        'members[0].login: "incluster" is not allowed; did you mean "in-cluster"?',
    ),
    ("no map", "{type: onprem}", "onprem", 'members[0].provider: "onprem" is not a map; write key: value pairs'),
]


@pytest.mark.parametrize(("old", "new", "want"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_a_mistake_is_told_with_place_and_remedy(tmp_path: Path, old: str, new: str, want: str) -> None:
    assert old in SMALL
    told = mistakes(tmp_path, SMALL.replace(old, new), validate_provider=validate_settings)
    assert any(want in line for line in told), told


@pytest.mark.parametrize("content", [b"", b"# c\n", b"\xff", b"[1", b"a", b"kind: Federation\n", b"- a\n" * 30000])
def test_what_is_no_federation_at_all(tmp_path: Path, content: bytes) -> None:
    assert all(line.startswith("f.yaml:") for line in mistakes(tmp_path, content))


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyErrors, match=r"none\.yaml:1:1: not a regular file"):
        load_federation(tmp_path / "none.yaml")


def test_mistakes_of_provider_settings_have_their_places(tmp_path: Path) -> None:
    provider = "{type: eks, clusterNam: x, region: 5, readTimeoutSeconds: 500.5}"
    told = mistakes(tmp_path, SMALL.replace("{type: onprem}", provider), validate_provider=validate_settings)
    assert told == [
        'f.yaml:8:7: members[0].provider: missing key "clusterName"; add it',
        'f.yaml:8:29: members[0].provider.clusterNam: unknown key; did you mean "clusterName"?',
        'f.yaml:8:52: members[0].provider.region: "5" is not text; '
        "write text, in quotes if it looks like a number or true",
        'f.yaml:8:75: members[0].provider.readTimeoutSeconds: "500.5" is not allowed; write 120.0 or less',
    ]


def test_an_unknown_provider_is_told_at_its_place(tmp_path: Path) -> None:
    told = mistakes(tmp_path, SMALL.replace("type: onprem", "type: ekss"), validate_provider=validate_settings)
    assert len(told) == 1
    assert told[0].startswith("f.yaml:8:24: members[0].provider.type: ")
    assert "ekss" in told[0]


def test_the_caller_says_what_settings_a_provider_takes(tmp_path: Path) -> None:
    seen: list[tuple[str, Mapping[str, Any], Path]] = []

    def check(provider: str, settings: Mapping[str, Any], base_dir: Path) -> list[Problem]:
        seen.append((provider, settings, base_dir))
        return [Problem(("zones", 1), "no such zone; write a or b")]

    text = SMALL.replace("{type: onprem}", "{type: onprem, zones: [a, c], share: 0.5}")
    assert mistakes(tmp_path, text, validate_provider=check) == [
        "f.yaml:8:43: members[0].provider.zones[1]: no such zone; write a or b"
    ]
    assert seen == [("onprem", {"type": "onprem", "zones": ["a", "c"], "share": 0.5}, tmp_path)]
