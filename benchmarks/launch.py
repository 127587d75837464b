"""Run a command and print, as JSON, the seconds it took and the peak of its resident memory in bytes.

It is a process of its own because Linux counts what the starting process had in memory as its child's.
"""

import json
import os
import sys
import time

silent = (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)
began = time.perf_counter()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=[silent])
_, status, used = os.wait4(pid, 0)
seconds = time.perf_counter() - began
print(json.dumps([seconds, used.ru_maxrss << 10]))
sys.exit(0 if status == 0 else 1)
