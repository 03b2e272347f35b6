"""Runs tests/crash at full length: every failing call, kill and power cut. `make torture`.

Installs the tools of the file systems that are cut off, where apt can; without them their tests are
skipped. .venv and the library that the tests preload are there already. Arguments are pytest's.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys

import system_packages
from bootstrap import ROOT
from system_packages import Need, SetupError

FILE_SYSTEM_TOOLS = {
    "mkfs.ext4": Need("ext4's tools", ("e2fsprogs",)),
    "mkfs.xfs": Need("XFS's tools", ("xfsprogs",)),
    "mkfs.btrfs": Need("btrfs's tools", ("btrfs-progs",)),
}


def install_file_system_tools() -> None:
    """Installs what is missing, if that can be done; says so where it can't."""
    for command, need in FILE_SYSTEM_TOOLS.items():
        if shutil.which(command, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"):
            continue
        try:
            system_packages.install([need])
        except SetupError as error:
            print(f"goes on without {need.what}: {error}", flush=True)


def main() -> None:
    """Exits with pytest's status."""
    install_file_system_tools()
    python = ROOT / ".venv" / "bin" / "python"
    command = [str(python), "-m", "pytest", str(ROOT / "tests" / "crash"), *sys.argv[1:]]
    variables = {**os.environ, "MINDCKPT_TORTURE": "1"}
    sys.exit(subprocess.run(command, cwd=ROOT, env=variables, check=False).returncode)


if __name__ == "__main__":
    main()
