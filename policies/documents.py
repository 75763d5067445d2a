"""From a YAML document to a pydantic model, every mistake told with its place in the file."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel
from pydantic_core import ErrorDetails, PydanticCustomError

from policies.errors import PolicyError, PolicyErrors, did_you_mean, shown
from policies.expressions import ExpressionError
from policies.source import MAX_ERRORS, Document, ListNode, MapNode, Node, Scalar, Steps, plain

_LONGEST_KEY: Final = 60
ModelT = TypeVar("ModelT", bound=BaseModel)


class Strict(BaseModel):
    """Base of every model of a file: camelCase keys, no unknown key, no guessing between types."""

    model_config = ConfigDict(
        alias_generator=to_camel, extra="forbid", frozen=True, strict=True, use_attribute_docstrings=True,
        arbitrary_types_allowed=True,
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake below the value that is being checked: `path` leads from that value to it."""

    path: Steps
    message: str


def refuse(*problems: Problem) -> PydanticCustomError:
    """What a validator raises to report `problems`, each at its own place."""
    return PydanticCustomError("problems", "{count} problems", {"count": len(problems), "problems": problems})


def refuse_value(message: str) -> PydanticCustomError:
    """What a validator raises to refuse the value itself."""
    return refuse(Problem((), message))


def refuse_expression(error: ExpressionError) -> PydanticCustomError:
    return PydanticCustomError("expression", "bad expression", {"problems": error.problems})


def duplicates(names: Sequence[str], what: str, key: str, inside: str) -> Iterator[Problem]:
    """A problem for each name that comes a second time in the list `inside`, at its `key`."""
    for index, name in enumerate(names):
        if name in names[:index]:
            yield Problem((inside, index, key), f"duplicate {what} {shown(name)}; rename or remove one")


def validate(document: Document, model: type[ModelT]) -> ModelT:
    """The document as `model`. Raises: PolicyErrors with every mistake in it."""
    try:
        found, problem = model.model_validate(plain(document.root)), None
    except ValidationError as error:
        found, problem = None, error
    errors = [*islice(_valueless(document), MAX_ERRORS), *(explain(document, problem, model) if problem else ())]
    if found is None or errors:
        raise PolicyErrors(_without_echoes(errors))
    return found


def explain(document: Document, error: ValidationError, model: type[BaseModel]) -> Iterator[PolicyError]:
    """Pydantic's findings on the document, each at its place and in our words."""
    for details in error.errors(include_url=False)[:MAX_ERRORS]:
        yield from _explain(document, details, model)
    if error.error_count() > MAX_ERRORS:
        more = error.error_count() - MAX_ERRORS
        yield document.error(document.root.place, f"{more} more mistakes in this document; correct the others first")


def problems_of(error: ValidationError, model: type[BaseModel]) -> list[Problem]:
    """Pydantic's findings as paths and messages, for settings that are checked apart from their file."""
    found: list[Problem] = []
    for details in error.errors(include_url=False):
        for path, message in _messages(details, model):
            found.append(Problem(path, message))
    return found


def named(path: Steps) -> str:
    """`("spec", "budgets", 0, "window")` as people read it: budgets[0].window."""
    text = ""
    for part in path[1:] if path[:1] == ("spec",) and len(path) > 1 else path:
        word = (
            f"[{part}]" if isinstance(part, int) else part if len(part) <= _LONGEST_KEY else f"{part[:_LONGEST_KEY]}..."
        )
        text += word if isinstance(part, int) or not text else f".{word}"
    return text


def at_path(document: Document, path: Steps, message: str, *, key: bool = False) -> PolicyError:
    """A mistake at `path`, the path told before the message."""
    prefix = f"{named(path)}: " if path else ""
    return document.error(document.place(path, key=key), f"{prefix}{message}")


def _explain(document: Document, details: ErrorDetails, model: type[BaseModel]) -> Iterator[PolicyError]:
    path = _clean(details["loc"])
    if details["type"] == "expression":
        for problem in details.get("ctx", {})["problems"]:
            place = document.place_inside(path, problem.line, problem.column)
            yield document.error(place, f"{named(path)}: {problem.message}")
        return
    for where, message in _messages(details, model):
        if details["type"] == "extra_forbidden":
            inside = named(where[:-1]) or "the document"
            known = _keys_at(model, where[:-1])
            text = f"unknown key {shown(where[-1])} in {inside}; {did_you_mean(str(where[-1]), known)}"
            yield document.error(document.place(where, key=True), text)
        else:
            yield at_path(document, where, message)


def _messages(details: ErrorDetails, model: type[BaseModel]) -> Iterator[tuple[Steps, str]]:
    path = _clean(details["loc"])
    kind, context = details["type"], details.get("ctx", {})
    if kind == "problems":
        for problem in context["problems"][:MAX_ERRORS]:
            yield (*path, *problem.path), problem.message
    elif kind == "expression":
        yield path, "; ".join(problem.message for problem in context["problems"])
    elif kind == "missing":
        yield path[:-1], f'missing key "{path[-1]}"; add it'
    elif kind == "extra_forbidden":
        yield path, f"unknown key; {did_you_mean(str(path[-1]), _keys_at(model, path[:-1]))}"
    else:
        yield path, _wording(kind, context, details["input"], details["msg"])


def _wording(kind: str, context: dict[str, Any], value: object, message: str) -> str:
    is_ = f"{_what(value)} is not"
    if kind == "literal_error":
        known = [part.strip("' ") for part in context["expected"].replace(" or ", ", ").split(",")]
        return f"{is_} allowed; {did_you_mean(str(value), known)}"
    worded = _WORDING.get(kind)
    if worded is not None:
        return worded(is_, context)
    return f"{_what(value)} is refused: {message}; correct it"


_WORDING: Final[dict[str, Callable[[str, dict[str, Any]], str]]] = {
    "string_type": lambda is_, _: f"{is_} text; write text, in quotes if it looks like a number or true",
    "int_type": lambda is_, _: f"{is_} a whole number; write one without quotes, such as 8",
    "int_from_float": lambda is_, _: f"{is_} a whole number; write one, such as 8",
    "int_parsing": lambda is_, _: f"{is_} a whole number; write one, such as 8",
    "bool_type": lambda is_, _: f"{is_} true or false; write one of these without quotes",
    "bool_parsing": lambda is_, _: f"{is_} true or false; write one of these",
    "dict_type": lambda is_, _: f"{is_} a map; write key: value pairs",
    "model_type": lambda is_, _: f"{is_} a map; write key: value pairs",
    "model_attributes_type": lambda is_, _: f"{is_} a map; write key: value pairs",
    "list_type": lambda is_, _: f"{is_} a list; write for example [a, b]",
    "tuple_type": lambda is_, _: f"{is_} a list; write for example [a, b]",
    "too_short": lambda is_, _: "must not be empty; write at least one",
    "string_pattern_mismatch": lambda is_, ctx: f"{is_} of the form {ctx['pattern']}; correct it",
    "string_too_short": lambda is_, _: "must not be empty; write a value or remove the key",
    "string_too_long": lambda is_, ctx: f"longer than {ctx['max_length']} characters; shorten it",
    "greater_than_equal": lambda is_, ctx: f"{is_} allowed; write {ctx['ge']} or more",
    "greater_than": lambda is_, ctx: f"{is_} allowed; write more than {ctx['gt']}",
    "less_than_equal": lambda is_, ctx: f"{is_} allowed; write {ctx['le']} or less",
    "less_than": lambda is_, ctx: f"{is_} allowed; write less than {ctx['lt']}",
}


def _what(value: object) -> str:
    match value:
        case dict():
            return "a map"
        case list():
            return "a list"
    return shown(value)


def _valueless(document: Document) -> Iterator[PolicyError]:
    """A key without a value would silently mean the default, so it is refused wherever it stands."""

    def walk(node: Node, path: Steps) -> Iterator[PolicyError]:
        match node:
            case MapNode():
                for key, value in node.entries:
                    if isinstance(value, Scalar) and plain(value) is None:
                        message = f"{named((*path, key.text))}: no value; give it one or remove the key"
                        yield document.error(key.place, message)
                    yield from walk(value, (*path, key.text))
            case ListNode():
                for index, item in enumerate(node.items):
                    if isinstance(item, Scalar) and plain(item) is None:
                        yield at_path(document, (*path, index), "no value; give it one or remove the item")
                    yield from walk(item, (*path, index))
            case Scalar():
                pass

    return walk(document.root, ())


def _without_echoes(errors: Iterable[PolicyError]) -> list[PolicyError]:
    """Drops what is said of a missing value besides that it is missing."""
    found = list(errors)
    told = {(error.line, error.message.split(": ")[0]) for error in found if ": no value; " in error.message}
    return [
        error
        for error in found
        if ": no value; " in error.message or (error.line, error.message.split(": ")[0]) not in told
    ]


def _clean(location: tuple[str | int, ...]) -> Steps:
    """Pydantic marks an error on a dict's key by a last part "[key]", which is no part of the file."""
    return location[:-1] if location[-1:] == ("[key]",) else location


def _keys_at(model: type[BaseModel], path: Steps) -> tuple[str, ...]:
    """The keys that the model at `path` below `model` knows."""
    kind: Any = model
    for part in path:
        kind = _model_in(kind)
        if kind is None:
            return ()
        if isinstance(part, str):
            fields = (info for name, info in kind.model_fields.items() if part in (info.alias, name))
            kind = next((info.annotation for info in fields), None)
    kind = _model_in(kind)
    return () if kind is None else tuple(info.alias or name for name, info in kind.model_fields.items())


def _model_in(kind: Any) -> type[BaseModel] | None:
    """The model class in `Model`, `Model | None`, `list[Model]` or `Annotated[...]` of these."""
    if inspect.isclass(kind) and typing.get_origin(kind) is None and issubclass(kind, BaseModel):
        return kind
    return next((found for part in typing.get_args(kind) if (found := _model_in(part)) is not None), None)
