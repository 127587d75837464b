"""Where the files lie that a user has for all homes. Most commands ask for it, so here is nothing else."""

from __future__ import annotations

import os


def user_folder() -> str:
    """Return the folder of a user's own files: ``msb-cache`` in ``XDG_CONFIG_HOME``, else in ``~/.config``.

    It begins with ``~`` for a user without a home, who has none.
    """
    config = os.environ.get("XDG_CONFIG_HOME", "")
    if not os.path.isabs(config):  # as the specification of that variable wants it
        config = os.path.join("~", ".config")
    return os.path.join(os.path.expanduser(config), "msb-cache")
