"""A terminal of so many columns that shows what a program wrote to it: the little that ours writes."""

from __future__ import annotations

import re

_PART = re.compile(
    r"\x1b\[(?P<number>[?0-9;]*)(?P<letter>[A-Za-z])|(?P<control>[\r\n])|(?P<text>[^\x1b\r\n]+)"
)


class Screen:
    """What is to be seen after all of ``written``.

    Attributes:
        lines: without those that are empty.
        seen: every line that was there at some time, as it was when it was ended or erased.
        hidden: whether the cursor is; as long as it is, no line may be wider than the terminal.
    """

    def __init__(self, written: str, columns: int = 80) -> None:
        cells: list[str] = [""]
        row = column = 0
        self.seen: list[str] = []
        self.hidden = False
        end = 0
        for part in _PART.finditer(written):
            assert part.start() == end, f"not understood: {written[end : end + 20]!r}"
            end = part.end()
            if part["text"]:
                line = cells[row].ljust(column)
                cells[row] = line[:column] + part["text"] + line[column + len(part["text"]) :]
                column += len(part["text"])
                assert not self.hidden or len(cells[row]) <= columns, f"wider than {columns}: {cells[row]!r}"
            elif part["control"] == "\r":
                column = 0
            elif part["control"] == "\n":
                self.seen.append(cells[row].rstrip())
                row += 1
                column = 0
                cells += [""] * (row + 1 - len(cells))
            elif part["letter"] == "A":
                row -= int(part["number"] or 1)
                assert row >= 0, "above the first line"
            elif part["letter"] == "K":
                assert part["number"] == "2"
                self.seen.append(cells[row].rstrip())
                cells[row] = ""
            elif part["letter"] in "hl" and part["number"] == "?25":
                self.hidden = part["letter"] == "l"
            else:
                assert part["letter"] == "m", part[0]
        assert end == len(written)
        self.lines = [line.rstrip() for line in cells if line.strip()]
