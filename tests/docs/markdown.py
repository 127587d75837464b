"""Fenced code blocks of a markdown file, with the marker comment that may stand before one.

A marker is an HTML comment on the last line before the block that is not empty:

* ``<!-- docs: not run: REASON -->`` — the block is not executed, and why.
* ``<!-- docs: file NAME -->`` — the block is written to NAME in the home, for later blocks.
* ``<!-- docs: terminal, typing "y" -->`` — the console block runs on a terminal that gets this line.
* ``<!-- docs: needs sqlite3 -->`` — the block runs only where that program is installed.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

_MARKER = re.compile(r"<!-- docs: (not run|file|terminal, typing|needs)(?:: | )(.+) -->")


@dataclass(frozen=True)
class Block:
    """One fenced block: the index of its first line inside the fence, and its text with line ends."""

    line: int
    language: str
    text: str
    marker: str = ""
    argument: str = ""
    follows: bool = False
    """Nothing but empty lines lie between it and the block before."""


def blocks(markdown: str) -> list[Block]:
    """Every fenced block in order; ValueError for a fence that never ends."""
    found: list[Block] = []
    lines = markdown.splitlines(keepends=True)
    number, previous, only_space = 0, "", False
    while number < len(lines):
        line = lines[number]
        number += 1
        if not line.startswith("```"):
            if line.strip():
                previous, only_space = line.strip(), False
            continue
        start = number
        while number < len(lines) and lines[number].rstrip() != "```":
            number += 1
        if number == len(lines):
            raise ValueError(f"the block in line {start} never ends")
        marker = _MARKER.fullmatch(previous)
        if marker is None and previous.startswith("<!--"):
            raise ValueError(f"line {start} follows a marker that is none: {previous}")
        found.append(
            Block(
                start,
                line[3:].strip(),
                "".join(lines[start:number]),
                marker[1] if marker else "",
                marker[2].strip('"') if marker else "",
                follows=only_space,
            )
        )
        number += 1
        previous, only_space = "", True
    return found


def replaced(markdown: str, texts: Mapping[int, str]) -> str:
    """The markdown with the text of blocks, given by their line, replaced."""
    lines = markdown.splitlines(keepends=True)
    for block in reversed(blocks(markdown)):
        if block.line in texts:
            lines[block.line : block.line + block.text.count("\n")] = [texts[block.line]]
    return "".join(lines)
