"""A program that saves in every way, and prints the system calls of each as JSON.

    python -m crash.caller FOLDER

In FOLDER, each save has a folder of its own, and another one for a retired file.
"""

from __future__ import annotations

import json
import sys
from dataclasses import astuple
from pathlib import Path

from crash import shim
from crash.scenarios import RETIRED, SAVES, Folder
from crash.shim import FILES


def main() -> None:
    control = shim.Shim()
    logs = {}
    for number, save in enumerate(SAVES.values()):
        save.choose_write_way()
        folder = Path(sys.argv[1], f"{number}")
        elsewhere = Path(sys.argv[1], f"{number}-retired")
        folder.mkdir()
        elsewhere.mkdir()
        Folder(folder, save).prepare()
        if save.reuses:
            (folder / RETIRED).rename(elsewhere / RETIRED)
        with control.armed(FILES):
            save.run(folder, retired=elsewhere / RETIRED)
        calls = [astuple(call) for call in control.log()]
        logs[save.name] = {"folder": str(folder), "elsewhere": str(elsewhere), "calls": calls}
    print(json.dumps(logs))


if __name__ == "__main__":
    main()
