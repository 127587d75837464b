"""A home in pictures: what happened, what takes the disk, who did it."""

from __future__ import annotations

from importlib.util import find_spec

from msb_cache.errors import UnsupportedError


def require() -> None:
    """See to it that what draws a page is installed.

    Raises:
        UnsupportedError: it is not.
    """
    if find_spec("jinja2") is None:
        raise UnsupportedError(
            "a page needs jinja2; `pip install 'msb-cache[web]'` installs it, and --text needs none"
        )
