"""The server: homes shown live and read-only, to those who may ask; see docs/serve.md.

Starlette and uvicorn do HTTP, the extra ``web``: without it no other module of this room can be imported.
Nothing here writes to a home: it asks what ``AsyncImageCache`` answers.
"""

from __future__ import annotations

from importlib.util import find_spec

from msb_cache.errors import UnsupportedError


def require() -> None:
    """See to it that what the server needs is installed.

    Raises:
        UnsupportedError: it is not.
    """
    missing = [name for name in ("jinja2", "starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        raise UnsupportedError(
            f"the server needs {', '.join(missing)}; `pip install 'msb-cache[web]'` installs what it needs"
        )
