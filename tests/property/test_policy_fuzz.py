"""Whatever stands in a policy or federation file, reading it gives a result or a list of mistakes with places."""

from __future__ import annotations

import json
import random
from decimal import Decimal
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import policies
from policies.errors import PolicyError, PolicyErrors
from policies.loader import FederationNames, check_bytes
from scheduler.daemon.config.federation import check_federation

ROOT = Path(policies.__file__).parent.parent
SEEDS = [path.read_bytes() for path in sorted((ROOT / "policies" / "examples").iterdir())]
SEEDS.append((ROOT / "examples" / "policy.yaml").read_bytes())
FEDERATION = (ROOT / "examples" / "federation.yaml").read_bytes()
FUZZ = settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)

FRAGMENTS = st.sampled_from(
    [
        *(b"&a ", b"*a", b"<<: ", b"!!python/object/apply:os.system ", b"!!binary ", b"!!int ", b"---\n", b"...\n"),
        *(
            b"%YAML 9.9\n",
            b"\t",
            b"\x00",
            b"\xff\xfe",
            b"\xef\xbb\xbf",
            b"\xed\xa0\x80",
            b"\xe2\x80\xa8",
            b"\x85",
            b"\r",
        ),
        *(b"{", b"}", b"[", b"]", b"[" * 200, b"{a: " * 200, b"- " * 200, b"? ", b": ", b"|\n", b">-\n", b"'", b'"'),
        *(b'"\\ud800"', b'"\\x00"', b"#", b"null", b"~", b".nan", b".inf", b"-1", b"1e999999999", b"9" * 400, b"0x10"),
        *(b"1:30", b"yes", b"true", b"10m", b"-5m", b"1e9", b"workload.labels['", b"\n", b"  ", b"expression: (((("),
        *(b"spec: {}\n", b"a: 1\n", b"kind: Queue\n"),
    ]
)


@st.composite
def mutated(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file with a few bytes replaced, removed, repeated or inserted."""
    data = draw(st.sampled_from(seeds))
    for _ in range(draw(st.integers(1, 6))):
        at = draw(st.integers(0, len(data)))
        end = min(len(data), at + draw(st.integers(0, 40)))
        change = draw(st.sampled_from(["insert", "replace", "remove", "repeat"]))
        piece = draw(st.one_of(FRAGMENTS, st.binary(max_size=8)))
        if change == "remove":
            data = data[:at] + data[end:]
        elif change == "repeat":
            data = data[:end] + data[at:]
        else:
            data = data[:at] + piece + data[at if change == "insert" else end :]
    return data


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(),
        st.integers(min_value=10**40),
        st.floats(),
        st.text(max_size=20),
        st.sampled_from(["10m", "1h", "-1", "0", "4.50", "1e99", "16Gi", "spot", "never", "cost", "workload.gpus > 0"]),
        st.dates(),
        st.binary(max_size=4),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=6,
)


def paths_of(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        found.extend(paths_of(inner, (*path, key)))
    return found


@st.composite
def restructured(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """A file in which values are replaced by others, keys renamed, removed or added; still YAML."""
    documents = list(yaml.safe_load_all(draw(st.sampled_from(seeds))))
    for _ in range(draw(st.integers(1, 4))):
        document = draw(st.sampled_from(documents))
        paths = paths_of(document)
        if not paths:
            continue
        *way, last = draw(st.sampled_from(paths))
        holder = document
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(["replace", "rename", "remove", "add"]))
        if change == "replace":
            holder[last] = draw(VALUES)
        elif isinstance(holder, dict) and change == "rename":
            holder[draw(st.text(max_size=6))] = holder.pop(last)
        elif isinstance(holder, dict) and change == "add":
            holder[draw(st.text(max_size=6))] = draw(VALUES)
        else:
            del holder[last]
    return yaml.safe_dump_all(documents, allow_unicode=draw(st.booleans())).encode("utf-8", "surrogatepass")


def well_told(errors: tuple[PolicyError, ...]) -> None:
    assert errors
    for error in errors:
        assert error.file == "f.yaml"
        assert error.line >= 1
        assert error.column >= 1
        assert error.message.strip()
        assert error.message.isprintable()
        assert len(error.message) < 2000


def read_policies(data: bytes) -> None:
    checked = check_bytes(data, "f.yaml", FederationNames(clusters=frozenset({"onprem"})))
    if checked.policies is None:
        well_told(checked.errors)
    else:
        assert checked.errors == ()
        assert len(checked.policies.digest) == 64
        if checked.warnings:
            well_told(checked.warnings)


def read_federation(data: bytes) -> None:
    try:
        check_federation(data, "f.yaml")
    except PolicyErrors as error:
        well_told(error.errors)


@FUZZ
@given(mutated(SEEDS))
def test_mutated_bytes_of_policies(data: bytes) -> None:
    read_policies(data)


@FUZZ
@given(restructured(SEEDS))
def test_restructured_policies(data: bytes) -> None:
    read_policies(data)


@FUZZ
@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: text.encode("utf-8", "replace"))))
def test_anything_at_all(data: bytes) -> None:
    read_policies(data)
    read_federation(data)


@FUZZ
@given(st.one_of(mutated([FEDERATION]), restructured([FEDERATION])))
def test_mutated_federations(data: bytes) -> None:
    read_federation(data)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@settings(FUZZ, max_examples=50)
@given(st.lists(st.sampled_from(SEEDS), min_size=1, max_size=3, unique=True), st.randoms(use_true_random=False))
def test_key_order_comments_and_style_do_not_change_the_digest(seeds: list[bytes], order: random.Random) -> None:
    documents = [document for seed in seeds for document in yaml.safe_load_all(seed)]
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    original = check_bytes(b"\n---\n".join(seeds), "f.yaml")
    if len(names) < len(documents):
        well_told(original.errors)
        return
    order.shuffle(documents)
    texts = [
        json.dumps(document, indent=2) if order.random() < 0.5 else yaml.safe_dump(document, sort_keys=False)
        for document in (shuffled(document, order) for document in documents)
    ]
    again = check_bytes("# a comment\n---\n".join(texts).encode(), "f.yaml")
    assert original.policies is not None
    assert again.policies is not None, again.errors
    assert again.policies == original.policies


MONEY = st.decimals(min_value=0, max_value=10**12, places=9, allow_nan=False, allow_infinity=False)


@FUZZ
@given(MONEY, st.sampled_from(["{}", "'{}'", '"{}"']))
def test_money_is_exact(amount: Decimal, written: str) -> None:
    text = (
        "apiVersion: overspill.dev/v1alpha1\nkind: PlacementPolicy\nmetadata: {name: p}\n"
        f"spec: {{constraints: {{maxUsdPerRun: {written.format(format(amount, 'f'))}}}}}\n"
    )
    checked = check_bytes(text.encode(), "f.yaml")
    assert checked.policies is not None, checked.errors
    assert checked.policies.policies[0].constraints.max_usd_per_run == amount


@FUZZ
@given(st.text(alphabet="workload.gpsn<>=&|!()[]{}'\"0123456789+-*/%?: \\,etrufalsinhm\n", max_size=60))
def test_expressions_compile_or_are_refused(source: str) -> None:
    text = json.dumps({
        "apiVersion": "overspill.dev/v1alpha1", "kind": "PlacementPolicy", "metadata": {"name": "p"},
        "spec": {"match": {"expression": source}},
    })  # fmt: skip
    read_policies(text.encode())
