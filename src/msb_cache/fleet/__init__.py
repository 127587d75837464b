"""Logs of many hosts in one place: PostgreSQL, or a file on a laptop."""
