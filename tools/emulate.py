"""Runs the engine's tests on an emulated Ice Lake, for instructions that no machine at hand has.

Bochs boots Debian's kernel with busybox and the tests that run kernels (base, checksum, cipher) as
all of its system; what they print comes out of the serial port. Kernel and boot loader are taken
out of their packages, not installed. This shows what AVX-512, GFNI and VAES compute, and nothing of
their speed.
"""

from __future__ import annotations

import argparse
import gzip
import os
import pty
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import system_packages
from bootstrap import ROOT
from system_packages import Need, SetupError

PROGRAMS = ("kernels_alone", "base_test", "checksum_test", "cipher_test")
# What MINDCKPT_CPU leaves of the processor: all, and what changes which kernels are picked.
LEVELS = ("", "aes,avx2,vaes,avx512", "aes,avx2,gfni,avx512", "aes,avx2,vaes,gfni", "aes,avx2,gfni")
FLAGS = {"avx512f", "avx512bw", "avx512vl", "gfni", "vaes", "vpclmulqdq"}

_BUILD = ROOT / "build" / "emulate"
_TESTS = ROOT / "build" / "release" / "tests" / "engine"
_BOCHS = Path("/usr/bin/bochs-bin")
_INSTALLED = {
    "bochs": _BOCHS,
    "bochs-term": Path("/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so"),
    "genisoimage": Path("/usr/bin/genisoimage"),
}
# Bochs 2.7 tells Linux wrong sizes of PKRU's state and of XSAVE's compacted area, and Linux would
# go without AVX; and that there is FSRM but not ERMS, with which memmove writes past its end.
_BOOT = """default linux
label linux
  kernel vmlinuz
  initrd initrd.gz
  append console=ttyS0 quiet panic=-1 mitigations=off clearcpuid=pku,xsaves,xsavec,fsrm
"""
_MACHINE = """config_interface: textconfig
display_library: term
cpu: model=corei7_icelake_u, ips=100000000, reset_on_triple_fault=0
megs: 1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path=boot.iso, status=inserted
boot: cdrom
clock: sync=none, time0=utc
com1: enabled=1, mode=file, dev=serial.txt
log: bochs.txt
info: action=ignore
error: action=ignore
panic: action=fatal
"""
# Symbols are bound at once: glibc, when it binds them later, restores registers from XSAVE's
# compacted area, and for Bochs 2.7 that is a fault. A million blocks one by one take too long.
_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin LD_BIND_NOW=1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
exec >/dev/ttyS0 2>&1
grep -m1 ^flags /proc/cpuinfo
run() {
  echo "== $1 $2"
  [ -z "$2" ] || export MINDCKPT_CPU=$2
  /tests/$1 --no-colors --abort-after=10 --test-case-exclude='*million*'
  echo "== exit $?"
}
"""


def unpacked() -> Path:
    """A folder with the files of the packages that only the emulated machine needs."""
    folder = _BUILD / "packages"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # The package with this name is empty and depends on the newest kernel's.
    depends = _output(["apt-cache", "depends", "linux-image-cloud-amd64"])
    kernel = re.search(r"Depends: (linux-image-\S+)", depends)
    if kernel is None:
        raise SetupError("apt offers no linux-image-cloud-amd64: this needs Debian on x86-64")
    packages = [kernel[1], "busybox-static", "isolinux", "syslinux-common"]
    _output(["apt-get", "download", *packages], folder)
    for package in folder.glob("*.deb"):
        _output(["dpkg", "-x", str(package), str(folder)])
    (folder / "complete").touch()
    return folder


def make_disc() -> None:
    """Writes build/emulate/boot.iso: boot loader, Linux, and the tests with their libraries."""
    packages = unpacked()
    root, disc = _BUILD / "root", _BUILD / "disc"
    for folder in (root, disc):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name in ("bin", "dev", "proc", "sys", "tests", "tmp"):
        (root / name).mkdir()
    busybox = packages / "bin" / "busybox"
    shutil.copy(busybox, root / "bin")
    libraries = {str(path) for path in Path("/usr/lib").glob("*/libisal.so.2")}  # found by dlopen
    for program in PROGRAMS:
        _output(["strip", "-o", str(root / "tests" / program), str(_TESTS / program)])
        libraries |= set(re.findall(r"(/\S+) \(0x", _output(["ldd", str(_TESTS / program)])))
    for library in libraries:
        (root / library[1:]).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(library, root / library[1:])
    runs = [f"run {program} {level}\n" for level in LEVELS for program in PROGRAMS]
    (root / "init").write_text(_INIT + "".join(runs) + "echo == end\nsleep 1\npoweroff -f\n")
    (root / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(root)) for path in sorted(root.rglob("*")))
    cpio = [str(busybox), "cpio", "-o", "-H", "newc", "-R", "0:0"]
    made = subprocess.run(cpio, input=names.encode(), cwd=root, check=True, capture_output=True)
    (disc / "initrd.gz").write_bytes(gzip.compress(made.stdout))
    shutil.copy(next(packages.glob("boot/vmlinuz-*")), disc / "vmlinuz")
    shutil.copy(packages / "usr/lib/ISOLINUX/isolinux.bin", disc)
    shutil.copy(packages / "usr/lib/syslinux/modules/bios/ldlinux.c32", disc)
    (disc / "isolinux.cfg").write_text(_BOOT)
    boot = "-b isolinux.bin -c boot.cat -no-emul-boot -boot-load-size 4 -boot-info-table"
    _output(["genisoimage", "-quiet", "-o", str(_BUILD / "boot.iso"), *boot.split(), str(disc)])


def make_bochs() -> None:
    """Copies Bochs to build/emulate, with GFNI's affine instructions as Intel's manual has them.

    Bochs 2.7 looks the parity of four bits up in 0x9669, where 1 stands for even: as for the parity
    flag, but the manual's parity is the sum of the bits. All bits of a result come out inverted.
    """
    program = bytearray(_BOCHS.read_bytes())
    symbols = _output(["nm", "--dynamic", "--print-size", str(_BOCHS)])
    for begin, size in re.findall(r"^(\w+) (\w+) T .*GF2P8AFFINE", symbols, re.MULTILINE):
        function = slice(int(begin, 16), int(begin, 16) + int(size, 16))
        inverted, right = (value.to_bytes(4, "little") for value in (0x9669, 0x6996))
        program[function] = program[function].replace(inverted, right)
    (_BUILD / "bochs").write_bytes(program)
    (_BUILD / "bochs").chmod(0o755)


def emulate(limit_seconds: float) -> str:
    """Boots the disc; prints, and returns, what the serial port says until the tests have ended."""
    (_BUILD / "machine.txt").write_text(_MACHINE)
    (_BUILD / "debugger.txt").write_text("continue\n")  # Debian's Bochs starts in its debugger
    serial = _BUILD / "serial.txt"
    serial.write_text("")
    near, far = pty.openpty()  # Bochs wants a terminal
    bochs = subprocess.Popen(
        ["./bochs", "-q", "-f", "machine.txt", "-rc", "debugger.txt"],
        cwd=_BUILD, env=os.environ | {"TERM": "xterm"}, stdin=far, stdout=far, stderr=far,
    )  # fmt: skip
    threading.Thread(target=_drain, args=(near,), daemon=True).start()
    end = time.monotonic() + limit_seconds
    said = ""
    ended = False
    while not ended:
        time.sleep(1)
        ended = time.monotonic() > end or bochs.poll() is not None
        before, said = said, serial.read_text(errors="replace").replace("\r", "")
        print(said[len(before) :], end="", flush=True)
        ended = ended or "\n== end\n" in said
    bochs.kill()
    bochs.wait()
    return said


def complaints(said: str) -> list[str]:
    """What is wrong with what the machine said; nothing when every test ran and passed."""
    wrong = []
    flags = re.search(r"^flags\s*:(.*)$", said, re.MULTILINE)
    lacking = FLAGS.difference(flags[1].split() if flags else ())
    if lacking:
        wrong.append(f"the emulated processor lacks {', '.join(sorted(lacking))}")
    runs = re.findall(r"^== (\w+) (\S*)\n(.*?)^== exit (\d+)$", said, re.MULTILINE | re.DOTALL)
    ended = {(program, level): (output, status) for program, level, output, status in runs}
    for level in LEVELS:
        for program in PROGRAMS:
            output, status = ended.get((program, level), ("", "none, it did not end"))
            if status != "0":
                wrong.append(f"{program} {level}: exit status {status}")
            if level == "" and "not run" in output:
                wrong.append(f"{program}: a kernel was not run")
    return wrong


def _drain(terminal: int) -> None:
    """Reads Bochs's terminal and that of its screen: if they were full, they would stop it."""
    said = b""
    while (screen := re.search(rb'connected to screen "(\S+)"', said)) is None:
        said += os.read(terminal, 4096)
    terminals = (terminal, os.open(screen[1], os.O_RDWR | os.O_NOCTTY))
    while True:
        for full in select.select(terminals, (), ())[0]:
            os.read(full, 4096)


def _output(command: Sequence[str], folder: Path | None = None) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode != 0:
        raise SetupError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def main() -> None:
    """Exits with 1, and says why, unless every kernel ran and every test passed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--limit", type=float, default=3600, help="seconds; default: %(default)s")
    limit = parser.parse_args().limit
    missing = [name for name, path in _INSTALLED.items() if not path.exists()]
    system_packages.install([Need(name, (name,)) for name in missing])
    make_disc()
    make_bochs()
    wrong = complaints(emulate(limit))
    if wrong:
        sys.exit("\n".join(["mindckpt emulate:", *wrong]))
    print(f"all tests passed, with {', '.join(sorted(FLAGS))}")


if __name__ == "__main__":
    try:
        main()
    except SetupError as failure:
        sys.exit(f"mindckpt emulate: {failure}")
