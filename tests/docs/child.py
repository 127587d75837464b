"""Runs the python blocks of one document, one after the other in one namespace.

Reads a JSON string (the source) from each line of stdin and writes a JSON string (what it printed, or the
traceback after that) to stdout.
"""

from __future__ import annotations

import io
import json
import sys
import traceback
import types
from contextlib import redirect_stderr, redirect_stdout

commands, answers = sys.stdin, sys.stdout
sys.argv[:] = ["app.py"]
ours = sys.modules["__main__"]  # kept: a module that nobody names loses its globals
sys.modules["__main__"] = program = types.ModuleType("__main__")
for line in commands:
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        try:
            exec(compile(json.loads(line), "app.py", "exec"), program.__dict__)
        except BaseException:
            traceback.print_exc(file=printed)
    print(json.dumps(printed.getvalue()), file=answers, flush=True)
