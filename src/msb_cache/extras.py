"""The extras of the package: what a few commands need beside the core."""

from __future__ import annotations

from importlib.util import find_spec

from msb_cache.errors import UnsupportedError


def require(extra: str, whose: str, *modules: str) -> None:
    """Refuse where modules of an extra are not installed; none is imported.

    Args:
        extra: its name in pyproject.toml.
        whose: what needs them, as the sentence begins: ``the server``.
        modules: names of them.

    Raises:
        UnsupportedError: one is not installed; the sentence says how to get it.
    """
    missing = [name for name in modules if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"{whose} needs {', '.join(missing)}; `pip install 'msb-cache[{extra}]'` installs what is missing"
        )
