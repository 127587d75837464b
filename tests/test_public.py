"""Everything that a public function takes or returns is public: derived from the annotations."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import typing
from collections import deque
from collections.abc import Iterator
from functools import cache
from types import FunctionType
from typing import Any

import msb_cache
import msb_cache.errors
from msb_cache import EventData, ImageCache, MicrosandboxError, Prune
from msb_cache.eventstore.events import EVENT_TYPES, ArtifactDeleted, Event
from msb_cache.shapes import Result

OWN_USE = {
    "__init__ of BackendScope",
    "__init__ of Prune",
    "files of Preview",
    "state of Preview",
    "naming of Plan",
    "facts of Verdict",
}
OWN_USE |= {f"origin of {handle}" for handle in ("ImageHandle", "HeldImage", "PulledImage")}
OWN_USE |= {f"told of {event.__name__}" for event in (Event, ArtifactDeleted, *EVENT_TYPES)}
"""What is for msb-cache itself: what these have or return need not be importable."""


@cache
def names_of(module: str) -> dict[str, Any]:
    """Return what annotations in a module can mean, with what it imports only for type checkers."""
    found = importlib.import_module(module)
    names = dict(vars(found))
    for node in ast.parse(inspect.getsource(found)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            exec(compile(ast.Module(node.body, []), module, "exec"), names)
    return names


def classes_in(hint: Any) -> Iterator[type]:
    """Yield the classes of ours that a type is made of."""
    if isinstance(hint, typing.ForwardRef):  # of a TypedDict, or within an alias
        module = hint.__forward_module__
        names = names_of(module) if module else {name: getattr(msb_cache, name) for name in msb_cache.__all__}
        hint = eval(hint.__forward_arg__, names)
    if isinstance(hint, list | tuple):
        parts = hint
    else:
        parts = typing.get_args(hint)
        owner = typing.get_origin(hint) or hint
        if isinstance(owner, type) and owner.__module__.startswith("msb_cache"):
            yield owner
    for part in parts:
        yield from classes_in(part)


def hints_of(thing: Any) -> dict[str, Any]:
    """Return what a function's or a class's own annotations mean."""
    names = names_of(thing.__module__)
    return {
        name: eval(text, names) if isinstance(text, str) else text
        for name, hint in vars(thing).get("__annotations__", thing.__annotations__).items()
        # Of a named tuple annotations are wrapped.
        for text in [hint.__forward_arg__ if isinstance(hint, typing.ForwardRef) else hint]
    }


def attributes(cls: type) -> Iterator[tuple[str, Any]]:
    """Yield each public attribute of a class with its type, of a method with the types of its signature."""
    for owner in cls.__mro__:
        if not owner.__module__.startswith("msb_cache"):
            continue
        if "__annotations__" in vars(owner):
            yield from ((name, hint) for name, hint in hints_of(owner).items() if not name.startswith("_"))
        for name, value in vars(owner).items():
            made = name == "__init__" and not hasattr(cls, "__dataclass_fields__")  # else they are its fields
            if name.startswith("_") and not made:
                continue
            value = value.fget if isinstance(value, property) else getattr(value, "__func__", value)
            value = inspect.unwrap(value) if callable(value) else value
            if isinstance(value, FunctionType) and value.__module__.startswith("msb_cache"):
                yield from ((name, hint) for hint in hints_of(value).values())


def reachable() -> dict[type, str]:
    """Return all classes of ours that a program meets, with the place where it meets them."""
    found: dict[type, str] = {}
    waiting: deque[tuple[type, str]] = deque()
    for name in msb_cache.__all__:
        thing = getattr(msb_cache, name)
        if isinstance(thing, FunctionType):
            hints = hints_of(thing).values()
            waiting += ((cls, name) for hint in hints for cls in classes_in(hint))
        else:
            waiting += ((cls, name) for cls in classes_in(thing))
    while waiting:
        cls, where = waiting.popleft()
        if cls in found:
            continue
        found[cls] = where
        for name, hint in attributes(cls):
            if f"{name} of {cls.__name__}" not in OWN_USE:
                waiting += ((each, f"{cls.__name__}.{name}") for each in classes_in(hint))
    return found


def test_what_is_taken_or_returned_can_be_imported() -> None:
    public = {id(getattr(msb_cache, name)) for name in msb_cache.__all__}
    met = reachable().items()
    hidden = [
        f"{cls.__module__}.{cls.__qualname__} at {where}" for cls, where in met if id(cls) not in public
    ]
    assert not hidden, "\n".join(sorted(hidden))


def returned() -> set[type]:
    """Return the classes of what methods of a cache return, alone or within lists and iterators."""
    methods = [
        inspect.unwrap(value) for value in vars(ImageCache).values() if isinstance(value, FunctionType)
    ]
    hints = [hints_of(method)["return"] for method in methods if not method.__name__.startswith("_")]
    return {cls for hint in hints for cls in classes_in(hint)} - {Prune}


def test_each_result_is_plain_data() -> None:
    assert len(returned()) > 30
    assert [cls for cls in returned() if not issubclass(cls, Result)] == []


def test_each_event_is_in_the_union() -> None:
    assert typing.get_args(EventData) == EVENT_TYPES


def test_all_errors_have_one_base() -> None:
    errors = {value for value in vars(msb_cache.errors).values() if isinstance(value, type)}
    assert {error for error in errors if not issubclass(error, MicrosandboxError)} == set()
    assert {error.__name__ for error in errors} <= {*msb_cache.__all__}


def untold(cls: type) -> Iterator[str]:
    """Yield the fields of a result that can be None, where nothing says what that means."""
    (node,) = ast.parse(inspect.getsource(cls)).body
    assert isinstance(node, ast.ClassDef)
    of_class = ast.get_docstring(node) or ""
    for statement, following in zip(node.body, [*node.body[1:], None], strict=True):
        if not isinstance(statement, ast.AnnAssign) or not ast.unparse(statement.annotation).endswith(
            "| None"
        ):
            continue
        name = ast.unparse(statement.target)
        own = ast.unparse(following) if isinstance(following, ast.Expr) else ""
        if "None" not in own and not ("None" in of_class and re.search(rf"\b{name}\b", of_class)):
            yield f"{cls.__name__}.{name}"


def test_results_say_when_something_is_none() -> None:
    results = (cls for cls in reachable() if issubclass(cls, Result) and not issubclass(cls, Event))
    assert sorted(field for cls in results for field in untold(cls)) == []
