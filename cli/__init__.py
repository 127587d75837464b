"""The ``msb-cache`` command: parses arguments, calls ``msb_cache``, formats what comes back.

It decides nothing about the cache. Commands start fast, so everything that is not needed by all of
them is imported where it is used.
"""
