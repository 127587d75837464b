"""How prune, remove, info and verify name files that an earlier deletion had to leave."""

from __future__ import annotations

import errno
from pathlib import Path

from msb_cache.artifacts.layout import Layout
from tests.cli.support import TOOL, Call, sentence
from tests.engines.support import refusing

TOOL_2 = "example.org/team/tool:2"


def test_until_it_goes_it_is_named(home: Path, call: Call) -> None:
    layer = TOOL.layers[1].diff_id
    path = Layout(home).layer(layer)
    size = path.stat().st_size
    with refusing(errno.EIO, path):
        done = call("remove", TOOL_2)
        assert done.code == 1
        operation = call("prunes", "--format", "json").json[0]["operation"]
        assert sentence(done.err.splitlines()[-1]) == (
            f"1 file could not be deleted; `msb-cache prunes show {operation}` says which and why, "
            "and the next prune or remove tries again"
        )
        # What another removal could not make up for is no failure of its own.
        again = call("remove", "app:latest")
        assert again.code == 0
        assert "1 file of earlier deletions could not be deleted now either" in again.err
    operation = call("prunes", "--format", "json").json[0]["operation"]
    why = f"left over from operation {operation}: Input/output error"
    info = call("info")
    assert "Left over:   1 file" in info.out
    assert why in info.out
    [fields] = call("info", "--format", "json").json["leftovers"]
    assert fields.pop("since").endswith("+00:00")
    assert fields == {
        "kind": "layer",
        "subject": layer,
        "path": str(path),
        "bytes": size,
        "operation": operation,
        "reason": "Input/output error",
    }
    verify = call("verify")
    assert verify.code == 0
    assert f"{path.relative_to(home)}: {why}; the next prune or remove tries again" in verify.out
    [problem] = call("verify", "--format", "json").json["disk"]
    assert (problem["problem"], problem["leftover"]["operation"]) == ("leftover", operation)
    call("hold", "app:1", "sandbox:dev")
    shown = call("prune", "-n")
    assert "1 file that no image names" in shown.out
    assert why in shown.out
    assert call("prune", "-n", "--format", "json").json["leftovers"][0]["subject"] == layer
    pruned = call("prune", "-y", "--format", "json").json
    assert (pruned["orphans_removed"], pruned["bytes_reclaimed"]) == (1, size)
    assert "Left over" not in call("info").out
    assert call("info", "--format", "json").json["leftovers"] == []
    assert call("prune", "-y").err == "Nothing was pruned.\n"
