"""What a request asks for: its parameters, read and checked by what is declared of them."""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Literal

from msgspec import Struct
from starlette.datastructures import QueryParams

from msb_cache.queries.near import meant
from msb_cache.web.problems import RefusedError

LONGEST = 1000
"""Characters of a value."""

MOST = 20
"""How often a parameter may be given that may be given several times."""

PAGE = 100
LARGEST_PAGE = 1000

_FLAGS = {"true": True, "1": True, "false": False, "0": False}


class Parameter(Struct, frozen=True):
    """A parameter of a query.

    Attributes:
        name: its name.
        words: what it means, for the description of the API.
        kind: what its text is.
        many: it may be given several times.
        needed: it has to be given.
        most: of a number the largest.
        default: what holds where it is not given, for the description.
    """

    name: str
    words: str
    kind: Literal["text", "number", "flag"] = "text"
    many: bool = False
    needed: bool = False
    most: int = 2**63 - 1
    default: int | None = None


HOME = Parameter("home", "Which home, by its id; without it the first. `/api/homes` lists them.")
AS_OF = Parameter("as_of", "As it was at this time, or, such as `@5`, after this event of the log.")
SINCE = Parameter("since", "Where the time shown begins: a duration such as `30d`.")
LIMIT = Parameter("limit", "At most this many.", "number", most=LARGEST_PAGE, default=PAGE)

FILTERS = (
    Parameter("since", "Only what occurred at or after this time, or this event (`@5`)."),
    Parameter("until", "Only what occurred at or before this time, or this event."),
    Parameter("recorded_since", "Only what was recorded at or after this time."),
    Parameter("recorded_until", "Only what was recorded at or before this time."),
    Parameter("after", "Only positions greater than this; the first that come, not the newest.", "number"),
    Parameter("types", "Only this type of event, such as `image.pulled`; repeatable.", many=True),
    Parameter("subject", "Only about this reference, wildcard, digest or operation; repeatable.", many=True),
    Parameter("operation", "Only of this operation, by its id or a unique beginning."),
    Parameter("actor", "Only what this user did, or one who claimed this."),
    Parameter("host", "Only what was done on this machine."),
    Parameter("holder", "Only holds, releases and uses of this holder."),
    Parameter("digest", "Only about this manifest or layer, or naming it."),
    Parameter("grep", "Only with this text in the subject, the data or the actor."),
    Parameter("reverse", "Newest first.", "flag"),
    LIMIT,
)
"""Those of ``Filters``, by its names."""


def given(query: QueryParams, parameters: Iterable[Parameter]) -> dict[str, Any]:
    """Return what was given, by name; what is empty counts as not given.

    Raises:
        RefusedError: there is no parameter of a name, or a value is none.
    """
    known = {each.name: each for each in parameters}
    found: dict[str, Any] = {}
    for name, text in query.multi_items():
        parameter = known.get(name)
        if parameter is None:
            offered = meant(name[:100], known) or f"; there are: {', '.join(known)}"
            raise _wrong(f"there is no such parameter here{offered}")
        if not text:
            continue
        value = _value(parameter, text)
        if not parameter.many and name in found:
            raise _wrong(f"{name} is given twice")
        found[name] = [*found.get(name, ()), value] if parameter.many else value
        if parameter.many and len(found[name]) > MOST:
            raise _wrong(f"{name} is given more than {MOST} times")
    for parameter in known.values():
        if parameter.needed and parameter.name not in found:
            raise _wrong(f"say {parameter.name}: {parameter.words}")
    return found


def _value(parameter: Parameter, text: str) -> str | int | bool:
    name = parameter.name
    if len(text) > LONGEST:
        raise _wrong(f"{name} has at most {LONGEST} characters")
    if parameter.kind == "number":
        if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= parameter.most):
            raise _wrong(f"{name} is a number from 0 to {parameter.most}")
        return int(text)
    if parameter.kind == "flag":
        if text not in _FLAGS:
            raise _wrong(f"{name} is true or false")
        return _FLAGS[text]
    return text


def _wrong(sentence: str) -> RefusedError:
    return RefusedError(HTTPStatus.BAD_REQUEST, sentence, "invalid-parameter")
