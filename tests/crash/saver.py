"""A program that saves once, and tells a recorded disk, or its standard output, of each call.

    python -m crash.saver FOLDER SCENARIO SOCKET [COMMIT_AT]

COMMIT_AT is the number of the call before which the file system is synced, as a timer of the
kernel's might do at any moment; 0 for every call. Without a SOCKET ('') the log is printed as JSON.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from dataclasses import astuple
from pathlib import Path

from crash import shim
from crash.scenarios import SAVES
from crash.shim import COMMIT, FILES, NONE, THREADS


def main() -> None:
    folder, save, where = Path(sys.argv[1]), SAVES[sys.argv[2]], sys.argv[3]
    os.environ["MINDCKPT_WRITE"] = save.write_way
    control = shim.Shim()
    if not where:
        with control.armed(FILES | THREADS):
            save.run(folder)
        print(json.dumps([astuple(call) for call in control.log()]))
        return
    with socket.socket(socket.AF_UNIX) as disk:
        disk.connect(where)
        control.tell(disk.fileno())
        commits = [(int(sys.argv[4]), COMMIT, os.open(folder, os.O_RDONLY))] if sys.argv[4:] else []
        with control.armed(FILES, *(commits[0] if commits else (0, NONE, 0))):
            save.run(folder)
        disk.send(b"returned")
        disk.recv(1)


if __name__ == "__main__":
    main()
