"""A program that saves once, and tells a recorded disk of each call before it is made.

    python -m crash.saver FOLDER SCENARIO SOCKET [COMMIT_AT]

COMMIT_AT is the number of the call before which the file system is synced, as a timer of the
kernel's might do at any moment; 0 for every call. Without it nothing is written to the disk before
the save waits for that.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

from crash import shim
from crash.scenarios import SAVES
from crash.shim import COMMIT, FILES, NONE


def main() -> None:
    folder, save, where = Path(sys.argv[1]), SAVES[sys.argv[2]], sys.argv[3]
    save.choose_write_way()
    control = shim.Shim()
    with socket.socket(socket.AF_UNIX) as disk:
        disk.connect(where)
        control.tell(disk.fileno())
        commits = [(int(sys.argv[4]), COMMIT, os.open(folder, os.O_RDONLY))] if sys.argv[4:] else []
        if not commits:
            control.skip_write_back()
        with control.armed(FILES, *(commits[0] if commits else (0, NONE, 0))):
            save.run(folder)
        disk.send(b"returned")
        disk.recv(1)


if __name__ == "__main__":
    main()
