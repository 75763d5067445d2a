"""What is asked: the shipped `queries.yaml`, and a user's file of the same form laid over it.

The reading of YAML is a small one of its own: `policies.source` does more, but adapters may not import policies.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from string import Template
from typing import Annotated, Any, Final, Literal

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic.alias_generators import to_camel

from clusters.metrics._promql import with_promql
from clusters.metrics._selectors import LABEL_NAME, parse_sum
from scheduler.model.errors import InvalidObjectError
from scheduler.model.metrics import MAX, SUM, MetricQuery

SHIPPED: Final = Path(__file__).with_name("queries.yaml")
_MAX_BYTES: Final = 1 << 20
_MAX_DEPTH: Final = 12
_NAME: Final = re.compile(r"[a-z][a-z0-9_]{0,99}")
_FACTOR: Final = 1.0e30
_LOADER: Final = yaml.SafeLoader
_OWN_MAX_AGE_SECONDS: Final = 300.0


def _family(text: str) -> str:
    try:
        parse_sum(text)
    except InvalidObjectError as error:
        raise ValueError(str(error)) from error
    return text


def _label(text: str) -> str:
    if not LABEL_NAME.fullmatch(text):
        raise ValueError("no name of a label; write letters, digits and _")
    return text


Label = Annotated[str, Field(max_length=100), AfterValidator(_label)]
_Spellings = Annotated[list[Label], Field(min_length=1, max_length=20)]


class _Strict(BaseModel):
    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, alias_generator=to_camel, populate_by_name=False
    )


class From(_Strict):
    """One place where a metric is found."""

    family: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_family)]
    factor: float = Field(default=1.0, gt=0, lt=_FACTOR)


class Metric(_Strict):
    """One entry under `metrics:`; see queries.yaml."""

    help: str = Field(default="", max_length=1000)
    unit: Literal["ratio", "bytes", "watts", "celsius", "hertz", "seconds", "joules", "count", "code", "per_second"]
    kind: Literal["value", "rate", "quantile"] = "value"
    quantile: float | None = Field(default=None, gt=0, lt=1)
    from_: list[From] = Field(default_factory=list, max_length=20, alias="from")
    promql: str = Field(default="", max_length=20_000)
    labels: list[Label] = Field(default_factory=list, max_length=20)
    combine: Literal["max", "min", "sum"] | None = None
    max_age_seconds: float = Field(default=120.0, gt=0, le=86400 * 7)
    most: float | None = Field(default=None, lt=_FACTOR)
    required: bool = False

    @model_validator(mode="after")
    def _whole(self) -> Metric:
        if not self.from_ and not self.promql:
            raise ValueError("says not where it is found; write from or promql")
        if (self.kind == "quantile") != (self.quantile is not None):
            raise ValueError("kind: quantile and quantile go together; write both or neither")
        if self.kind == "quantile" and any(len(parse_sum(one.family)) > 1 for one in self.from_):
            raise ValueError("a quantile of a sum of histograms is not known; list the families one by one")
        return self


class QueriesFile(_Strict):
    """A file of queries; an entry under `metrics:` that is null removes the metric."""

    api_version: Literal["overspill.dev/v1alpha1"]
    kind: Literal["MetricQueries"]
    labels: dict[Label, _Spellings] = Field(default_factory=dict, max_length=100)
    metrics: dict[str, Metric | None] = Field(default_factory=dict, max_length=500)


def load_queries(queries_file: Path | None = None) -> tuple[MetricQuery, ...]:
    """The shipped queries with those of `queries_file` laid over them, sorted by name.

    Raises: InvalidObjectError with a line for each mistake: file, line, column, remedy.
    """
    shipped, shipped_labels = _shipped()
    if queries_file is None:
        return _queries(shipped, shipped_labels)
    document = _Document.read(queries_file)
    own = document.content.get("metrics") if isinstance(document.content, dict) else None
    merged: Any = document.content
    if isinstance(own, dict):
        # What the user writes replaces single keys; what results is checked as a whole, and blamed on the user's lines.
        metrics = {name: _laid_over(shipped.get(name), entry) for name, entry in own.items()}
        merged = {**document.content, "metrics": metrics}
    checked = document.checked(merged)
    kept = {name: metric for name, metric in {**shipped, **checked.metrics}.items() if metric is not None}
    return _queries(kept, {**shipped_labels, **checked.labels})


@lru_cache(maxsize=1)
def _shipped() -> tuple[Mapping[str, Metric], Mapping[str, list[str]]]:
    document = _Document.read(SHIPPED)
    checked = document.checked(document.content)
    return {name: metric for name, metric in checked.metrics.items() if metric is not None}, checked.labels


def _laid_over(shipped: Metric | None, entry: object) -> object:
    if shipped is None or not isinstance(entry, dict):
        return entry
    base = shipped.model_dump(by_alias=True, exclude_unset=True)
    if "from" in entry and "promql" not in entry:
        base.pop("promql", None)
    if "kind" in entry and entry["kind"] != "quantile":
        base.pop("quantile", None)
    return {**base, **entry}


def _queries(metrics: Mapping[str, Metric], labels: Mapping[str, list[str]]) -> tuple[MetricQuery, ...]:
    return tuple(_query(name, metrics[name], labels) for name in sorted(metrics))


def own_query(text: str, names: Mapping[str, str], labels: Sequence[str] = (), *, combine: str = MAX) -> MetricQuery:
    """A workload's own query, its `$namespace` and the like filled from `names`. One that is no more than a family with
    label matchers can be had from a page that is scraped as well. `labels`: which are kept, by the shipped spellings;
    samples that differ only in others become one by `combine`."""
    promql = Template(text).safe_substitute(names)
    try:
        parse_sum(promql)
        families: tuple[tuple[str, float], ...] = ((promql, 1.0),)
    except InvalidObjectError:
        families = ()
    known = _shipped()[1] if labels else {}
    spellings = tuple((label, tuple(known[label])) for label in labels if label in known)
    return MetricQuery(
        "own", "count", promql, families, tuple(labels), _OWN_MAX_AGE_SECONDS, combine=combine, spellings=spellings
    )


def _query(name: str, metric: Metric, labels: Mapping[str, list[str]]) -> MetricQuery:
    rate = metric.kind == "rate"
    query = MetricQuery(
        name=name,
        unit=metric.unit,
        promql=metric.promql,
        families=tuple((one.family, one.factor) for one in metric.from_),
        labels=tuple(dict.fromkeys(metric.labels)),
        max_age_seconds=metric.max_age_seconds,
        required=metric.required,
        help=metric.help,
        rate=rate,
        quantile=metric.quantile,
        combine=metric.combine or (SUM if rate else MAX),
        spellings=tuple((label, tuple(labels[label])) for label in metric.labels if label in labels),
        most=metric.most,
    )
    return with_promql(query)


class _Document:
    """A YAML file, its content and where everything stands."""

    def __init__(self, path: Path, node: yaml.Node | None, content: Any) -> None:
        self._path = path
        self._node = node
        self.content = content

    @classmethod
    def read(cls, path: Path) -> _Document:
        """Raises: InvalidObjectError, one line."""
        try:
            with path.open("rb") as file:
                data = file.read(_MAX_BYTES + 1)
            if len(data) > _MAX_BYTES:
                raise InvalidObjectError(f"{path}:1:1: larger than 1 MiB; split the metrics or shorten the file")
            text = data.decode("utf-8-sig")
            return cls(path, *_composed(path, text))
        except OSError as error:
            raise InvalidObjectError(f"{path}:1:1: cannot be read ({error.strerror}); check path and rights") from error
        except UnicodeDecodeError as error:
            raise InvalidObjectError(f"{path}:1:1: not UTF-8; save the file as UTF-8") from error
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            place = f"{mark.line + 1}:{mark.column + 1}" if mark else "1:1"
            what = " ".join(str(error.problem or error.context).split())[:200]
            raise InvalidObjectError(f"{path}:{place}: not YAML: {what}; correct the syntax here or above") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise InvalidObjectError(f"{path}:1:1: not YAML ({type(error).__name__}); correct the syntax") from error

    def checked(self, content: Any) -> QueriesFile:
        """`content` by the schema. Raises: InvalidObjectError with a line for each mistake."""
        problems: list[tuple[int, int, str]] = []
        checked: QueriesFile | None = None
        try:
            checked = QueriesFile.model_validate(content)
        except ValidationError as error:
            for one in error.errors(include_url=False):
                path = tuple(part for part in one["loc"] if part != "[key]")
                problems.append((*self._place(path, key=one["type"] in _KEY_ERRORS), _said(one, path)))
        metrics = content.get("metrics") if isinstance(content, dict) else None
        for name in metrics if isinstance(metrics, dict) else ():
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                message = f"{str(name)[:40]!r} is no name of a metric; write lower-case letters, digits and _"
                problems.append((*self._place(("metrics", name), key=True), message))
        if problems or checked is None:
            lines = [f"{self._path}:{line}:{column}: {text}" for line, column, text in sorted(set(problems))]
            raise InvalidObjectError("\n".join(lines))
        return checked

    def _place(self, path: tuple[int | str, ...], *, key: bool) -> tuple[int, int]:
        """Line and column, from 1, of the value at `path` (or its key), or of what is nearest around it."""
        node = self._node
        mark = node.start_mark if node is not None else None
        for step in path:
            if isinstance(node, yaml.MappingNode):
                pair = next((pair for pair in node.value if pair[0].value == str(step)), None)
                if pair is None:
                    break
                name, node = pair
                mark = name.start_mark if key or not isinstance(node, yaml.ScalarNode) else node.start_mark
            elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                mark = node.start_mark
            else:
                break
        return (mark.line + 1, mark.column + 1) if mark is not None else (1, 1)


_KEY_ERRORS: Final = frozenset({"extra_forbidden"})
_REMEDIES: Final = {
    "float_type": "write a number",
    "int_type": "write a whole number",
    "string_type": "write text (in quotes where it looks like a number)",
    "bool_type": "write true or false",
    "list_type": "write a list",
    "dict_type": "write a mapping, key: value",
    "model_type": "write a mapping, key: value",
}


def _said(error: Any, path: tuple[int | str, ...]) -> str:
    """pydantic's finding as one line with the remedy."""
    last = str(path[-1]) if path else "the file"
    kind = error["type"]
    if kind == "extra_forbidden":
        return f"unknown key {last[:40]!r}; {_nearest(last, path)}"
    if kind == "missing":
        return f"missing key {last!r}; add it"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    message = " ".join(str(error["msg"]).split())
    return f"{last[:40]}: {message[0].lower()}{message[1:]}" + (f"; {_REMEDIES[kind]}" if kind in _REMEDIES else "")


def _nearest(word: str, path: tuple[int | str, ...]) -> str:
    model: type[BaseModel] = QueriesFile if len(path) == 1 else From if "from" in path[:-1] else Metric
    names = [field.alias or name for name, field in model.model_fields.items()]
    near = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"write one of {', '.join(names)}"


def _composed(path: Path, text: str) -> tuple[yaml.Node | None, Any]:
    """The tree and its content. Anchors and tags are refused: here they only hide what is asked."""
    for event in yaml.parse(text, Loader=_LOADER):
        mark = event.start_mark
        place = f"{path}:{mark.line + 1}:{mark.column + 1}" if mark else f"{path}:1:1"
        if isinstance(event, yaml.AliasEvent):
            raise InvalidObjectError(f"{place}: aliases are not supported; write the value out")
        if getattr(event, "tag", None) not in (None, "!"):
            raise InvalidObjectError(f"{place}: tags are not supported; remove it")
    loader = _LOADER(text)
    try:
        node = loader.get_single_node()
        if node is None:
            raise InvalidObjectError(f"{path}:1:1: empty; write apiVersion, kind and metrics")
        _check_keys(path, node, 0)
        return node, loader.construct_document(node)
    finally:
        loader.dispose()


def _check_keys(path: Path, node: yaml.Node, depth: int) -> None:
    mark = node.start_mark
    if depth > _MAX_DEPTH:
        raise InvalidObjectError(f"{path}:{mark.line + 1}:{mark.column + 1}: nested too deeply; flatten it")
    if isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _check_keys(path, item, depth + 1)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: set[str] = set()
    for key, value in node.value:
        place = f"{path}:{key.start_mark.line + 1}:{key.start_mark.column + 1}"
        if not isinstance(key, yaml.ScalarNode):
            raise InvalidObjectError(f"{place}: a key must be plain text; write key: value")
        if key.value in seen:
            raise InvalidObjectError(f"{place}: duplicate key {key.value[:40]!r}; remove one")
        seen.add(key.value)
        _check_keys(path, value, depth + 1)
