"""The ``msb-cache`` command: parses arguments, calls ``msb_cache``, formats what comes back.

It decides nothing about the cache. Each command has a file of its own, named for it, which ``main`` finds by
that name; what several commands share is in the modules that ``main.NO_COMMANDS`` names. What ``list``,
``inspect`` and ``history`` may not need is imported where it is used, since these have to start fast.
"""
