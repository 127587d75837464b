"""The append-only event log: event types, envelope, hash chain, append and read.

It knows SQLite and nothing else of the project: no projections, no image formats, no files.
"""
