"""Where a checkpoint lands. Oracle: MindSpore's rules, but for deleting the old file first."""

import errno
import itertools
import os
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from mindckpt import load_checkpoint, save_checkpoint
from support import Array, run_python, temporaries


def parameters(value: int) -> dict[str, Array]:
    return {"w": np.full(100, value, np.int32)}


def value_in(path: Path) -> int:
    return int(load_checkpoint(str(path))["w"].asnumpy()[0])


def test_the_file_is_readable_by_its_owner_alone(tmp_path: Path) -> None:
    """As MindSpore's, whatever the umask and the mode of the old file."""
    path = tmp_path / "a.ckpt"
    for umask in (0o000, 0o077, 0o777):
        old = os.umask(umask)
        try:
            save_checkpoint(parameters(1), str(path))
        finally:
            os.umask(old)
        assert stat.S_IMODE(path.stat().st_mode) == 0o400
    path.chmod(0o666)
    save_checkpoint(parameters(2), str(path))
    assert stat.S_IMODE(path.stat().st_mode) == 0o400


def test_an_unwritable_old_file_is_replaced(tmp_path: Path) -> None:
    """A checkpoint is 0400 itself: the folder's permission decides."""
    save_checkpoint(parameters(1), str(tmp_path / "a.ckpt"))
    save_checkpoint(parameters(2), str(tmp_path / "a.ckpt"))
    assert value_in(tmp_path / "a.ckpt") == 2


@pytest.mark.parametrize("async_save", [False, True])
def test_nothing_but_the_file_stays_in_the_folder(tmp_path: Path, async_save: bool) -> None:
    job = save_checkpoint(parameters(1), str(tmp_path / "a.ckpt"), async_save=async_save)
    if job is not None:
        job.result()
    assert os.listdir(tmp_path) == ["a.ckpt"]


def test_a_path_object_will_do(tmp_path: Path) -> None:
    """An addition: MindSpore takes str alone."""
    save_checkpoint(parameters(1), tmp_path / "a.ckpt")
    save_checkpoint(parameters(2), tmp_path / "b")
    assert value_in(tmp_path / "a.ckpt") == 1
    assert value_in(tmp_path / "b.ckpt") == 2


def test_a_relative_name_lands_in_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    save_checkpoint(parameters(1), "a")
    save_checkpoint(parameters(2), "./b.ckpt")
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt"]


@pytest.mark.parametrize(
    "name", ["\u6f22\u5b57.ckpt", "with space.ckpt", "-rf.ckpt", "a\nb.ckpt", "x" * 200 + ".ckpt"]
)
def test_odd_file_names_are_taken_as_they_are(tmp_path: Path, name: str) -> None:
    save_checkpoint(parameters(1), str(tmp_path / name))
    assert os.listdir(tmp_path) == [name]


@pytest.mark.parametrize("name", [os.fsdecode(b"\xff\xfe.ckpt"), "\u6f22.ckpt", "a\nb.ckpt"])
def test_odd_file_names_are_loaded(tmp_path: Path, name: str) -> None:
    """A name that is not UTF-8 is a name to Linux; and errors can tell it."""
    path = tmp_path / name
    save_checkpoint(parameters(1), str(path))
    assert value_in(path) == 1
    with pytest.raises(ValueError, match=r"CRC|crc"):
        load_checkpoint(str(path), crc_check=True)


def test_a_relative_name_is_resolved_when_the_save_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An asynchronous save does not follow the process to another folder."""
    (tmp_path / "first").mkdir()
    (tmp_path / "second").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    job = save_checkpoint({"w": np.zeros(4 << 20)}, "a.ckpt", async_save=True)
    monkeypatch.chdir(tmp_path / "second")
    assert job is not None
    job.result()
    assert os.listdir(tmp_path / "first") == ["a.ckpt"]
    assert os.listdir(tmp_path / "second") == []


def test_the_longest_file_name_is_taken(tmp_path: Path) -> None:
    """255 bytes fill a directory entry: the temporary file must find room, or the save fail."""
    name = "x" * 250 + ".ckpt"
    try:
        save_checkpoint(parameters(1), str(tmp_path / name))
    except OSError as error:
        assert error.errno == errno.ENAMETOOLONG
        assert os.listdir(tmp_path) == []
    else:
        assert os.listdir(tmp_path) == [name]


def test_a_file_name_too_long_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="x") as caught:
        save_checkpoint(parameters(1), str(tmp_path / ("x" * 300)))
    assert caught.value.errno == errno.ENAMETOOLONG
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", ".", "folder", "folder.ckpt", "folder.ckpt/"])
def test_a_folder_as_target_is_an_is_a_directory_error(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder.ckpt").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(IsADirectoryError) as caught:
        save_checkpoint(parameters(1), name)
    assert caught.value.errno == errno.EISDIR
    assert caught.value.filename is not None
    assert sorted(os.listdir(tmp_path)) == ["folder", "folder.ckpt"]


@pytest.mark.parametrize("async_save", [False, True])
def test_a_missing_parent_is_a_file_not_found_error(tmp_path: Path, async_save: bool) -> None:
    """Before anything is started: with async_save too."""
    path = tmp_path / "missing" / "a.ckpt"
    with pytest.raises(FileNotFoundError) as caught:
        save_checkpoint(parameters(1), str(path), async_save=async_save)
    assert caught.value.errno == errno.ENOENT
    assert "missing" in str(caught.value.filename)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("async_save", [False, True])
def test_a_parent_that_is_a_file_is_a_not_a_directory_error(
    tmp_path: Path, async_save: bool
) -> None:
    (tmp_path / "file").write_bytes(b"content")
    with pytest.raises(NotADirectoryError) as caught:
        save_checkpoint(parameters(1), str(tmp_path / "file" / "a.ckpt"), async_save=async_save)
    assert caught.value.errno == errno.ENOTDIR
    assert (tmp_path / "file").read_bytes() == b"content"


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _socket(path: Path) -> None:
    folder = os.open(path.parent, os.O_PATH)  # the address of a socket is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{folder}/{path.name}")
    os.close(folder)


@pytest.mark.parametrize("make", [_fifo, _socket])
def test_a_target_that_is_no_regular_file_is_an_os_error(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    """It is neither written to nor replaced."""
    path = tmp_path / "a.ckpt"
    make(path)
    before = path.stat()
    with pytest.raises(OSError, match=r".") as caught:
        save_checkpoint(parameters(1), str(path))
    assert caught.value.errno is not None
    assert path.stat().st_rdev == before.st_rdev
    assert stat.S_IFMT(path.stat().st_mode) == stat.S_IFMT(before.st_mode)
    assert os.listdir(tmp_path) == ["a.ckpt"]


# ---- symbolic links


def test_a_symlink_stays_and_its_target_is_written(tmp_path: Path) -> None:
    (tmp_path / "links").mkdir()
    (tmp_path / "files").mkdir()
    target = tmp_path / "files" / "target.ckpt"
    link = tmp_path / "links" / "link.ckpt"
    save_checkpoint(parameters(1), str(target))
    link.symlink_to(target)
    save_checkpoint(parameters(2), str(link))
    assert link.is_symlink()
    assert os.readlink(link) == str(target)
    assert value_in(target) == 2
    assert os.listdir(tmp_path / "links") == ["link.ckpt"]
    assert os.listdir(tmp_path / "files") == ["target.ckpt"]


def test_a_dangling_symlink_stays_and_its_target_is_made(tmp_path: Path) -> None:
    (tmp_path / "link.ckpt").symlink_to("target.ckpt")
    save_checkpoint(parameters(3), str(tmp_path / "link.ckpt"))
    assert (tmp_path / "link.ckpt").is_symlink()
    assert not (tmp_path / "target.ckpt").is_symlink()
    assert value_in(tmp_path / "target.ckpt") == 3


def test_a_chain_of_symlinks_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "c.ckpt").symlink_to("b.ckpt")
    (tmp_path / "b.ckpt").symlink_to("a.ckpt")
    save_checkpoint(parameters(4), str(tmp_path / "c.ckpt"))
    assert [
        name for name in sorted(os.listdir(tmp_path)) if not (tmp_path / name).is_symlink()
    ] == ["a.ckpt"]
    assert value_in(tmp_path / "a.ckpt") == 4


def test_a_symlinked_folder_is_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "alias").symlink_to("real")
    save_checkpoint(parameters(5), str(tmp_path / "alias" / "a.ckpt"))
    assert value_in(tmp_path / "real" / "a.ckpt") == 5


def test_a_dangling_symlink_into_a_missing_folder_is_a_file_not_found_error(tmp_path: Path) -> None:
    (tmp_path / "link.ckpt").symlink_to("missing/target.ckpt")
    with pytest.raises(FileNotFoundError):
        save_checkpoint(parameters(1), str(tmp_path / "link.ckpt"))
    assert os.listdir(tmp_path) == ["link.ckpt"]


def test_a_loop_of_symlinks_is_an_os_error(tmp_path: Path) -> None:
    (tmp_path / "a.ckpt").symlink_to("b.ckpt")
    (tmp_path / "b.ckpt").symlink_to("a.ckpt")
    with pytest.raises(OSError, match="ckpt"):
        save_checkpoint(parameters(1), str(tmp_path / "a.ckpt"))
    assert sorted(os.listdir(tmp_path)) == ["a.ckpt", "b.ckpt"]
    assert (tmp_path / "a.ckpt").is_symlink()
    assert (tmp_path / "b.ckpt").is_symlink()


def test_a_symlink_to_a_folder_is_an_is_a_directory_error(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.ckpt").symlink_to("folder")
    with pytest.raises(IsADirectoryError):
        save_checkpoint(parameters(1), str(tmp_path / "link.ckpt"))


def test_a_hard_link_of_the_old_file_keeps_the_old_contents(tmp_path: Path) -> None:
    """The new file is another inode: who holds the old one is not disturbed."""
    save_checkpoint(parameters(1), str(tmp_path / "a.ckpt"))
    os.link(tmp_path / "a.ckpt", tmp_path / "kept.ckpt")
    save_checkpoint(parameters(2), str(tmp_path / "a.ckpt"))
    assert value_in(tmp_path / "kept.ckpt") == 1
    assert value_in(tmp_path / "a.ckpt") == 2


# ---- symbolic links of other users, by the rule of fs.protected_symlinks

NOBODY = 65534
needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can make another user's symbolic link"
)


def planted(tmp_path: Path, *, mode: int, folder_owner: int = 0, link_owner: int = NOBODY) -> Path:
    """A link in a folder of that mode and owner, to a checkpoint that is saved already."""
    save_checkpoint(parameters(1), tmp_path / "precious.ckpt")
    folder = tmp_path / "shared"
    folder.mkdir()
    link = folder / "a.ckpt"
    link.symlink_to(tmp_path / "precious.ckpt")
    os.chown(link, link_owner, link_owner, follow_symlinks=False)
    os.chown(folder, folder_owner, folder_owner)
    folder.chmod(mode)
    return link


@needs_root
@pytest.mark.parametrize("async_save", [False, True])
@pytest.mark.parametrize("exists", [True, False])
def test_a_link_planted_in_a_folder_like_tmp_is_not_followed(
    tmp_path: Path, exists: bool, async_save: bool
) -> None:
    link = planted(tmp_path, mode=0o1777)
    if not exists:
        (tmp_path / "precious.ckpt").unlink()
    with pytest.raises(PermissionError, match="symbolic link of another user") as caught:
        save_checkpoint(parameters(2), link, async_save=async_save)
    assert caught.value.errno == errno.EACCES
    assert caught.value.filename == str(link)
    assert os.listdir(link.parent) == ["a.ckpt"]
    if exists:
        assert value_in(tmp_path / "precious.ckpt") == 1
    else:
        assert not (tmp_path / "precious.ckpt").exists()
    with pytest.raises(PermissionError):
        save_checkpoint(parameters(2), link.with_suffix(""))  # the name with .ckpt is the link


@needs_root
@pytest.mark.parametrize("owners", [{"mode": 0o777}, {"mode": 0o1755}, {"mode": 0o1775}])
def test_a_link_in_a_folder_that_is_not_like_tmp_is_followed(
    tmp_path: Path, owners: dict[str, int]
) -> None:
    save_checkpoint(parameters(2), planted(tmp_path, **owners))
    assert value_in(tmp_path / "precious.ckpt") == 2


@needs_root
@pytest.mark.parametrize(
    "owners", [{"link_owner": 0, "folder_owner": NOBODY}, {"folder_owner": NOBODY}]
)
def test_a_link_of_ones_own_or_of_the_folders_owner_is_followed(
    tmp_path: Path, owners: dict[str, int]
) -> None:
    save_checkpoint(parameters(2), planted(tmp_path, mode=0o1777, **owners))
    assert value_in(tmp_path / "precious.ckpt") == 2


@needs_root
@pytest.mark.skipif(
    Path("/proc/sys/fs/protected_symlinks").read_text(encoding="ascii").strip() != "1",
    reason="this machine's kernel follows every link",
)
def test_a_save_follows_just_the_links_that_the_kernel_follows(tmp_path: Path) -> None:
    followed = 0
    modes = (0o1777, 0o777, 0o1775, 0o1773, 0o1757, 0o700)
    cases = list(itertools.product(modes, (0, NOBODY), (0, NOBODY, NOBODY - 1)))
    for number, (mode, folder_owner, link_owner) in enumerate(cases):
        case = tmp_path / str(number)
        case.mkdir()
        link = planted(case, mode=mode, folder_owner=folder_owner, link_owner=link_owner)
        try:
            link.read_bytes()
        except PermissionError:
            with pytest.raises(PermissionError):
                save_checkpoint(parameters(2), link)
        else:
            save_checkpoint(parameters(2), link)
            followed += 1
        assert link.is_symlink()
    assert 0 < followed < len(cases)


@needs_root
def test_every_link_of_a_chain_is_looked_at(tmp_path: Path) -> None:
    link = planted(tmp_path, mode=0o1777)
    (tmp_path / "b.ckpt").symlink_to("c.ckpt")
    (tmp_path / "c.ckpt").symlink_to("shared/a.ckpt")
    with pytest.raises(PermissionError) as caught:
        save_checkpoint(parameters(2), tmp_path / "b.ckpt")
    assert caught.value.filename == str(link)
    assert value_in(tmp_path / "precious.ckpt") == 1


@needs_root
def test_a_load_follows_the_links_that_the_kernel_follows(tmp_path: Path) -> None:
    """To resolve a name ourselves must not undo fs.protected_symlinks."""
    link = planted(tmp_path, mode=0o1777)
    try:
        link.read_bytes()
    except PermissionError:
        with pytest.raises(PermissionError):
            load_checkpoint(link)
    else:
        assert value_in(link) == 1


# ---- permissions

READ_ONLY = """
import errno, os, sys
import numpy as np
from mindckpt import load_checkpoint, save_checkpoint
folder = sys.argv[1]
if os.geteuid() == 0:
    os.setgid(65534)
    os.setuid(65534)
for name in ("old.ckpt", "new.ckpt"):
    for async_save in (False, True):
        try:
            path = os.path.join(folder, name)
            job = save_checkpoint({"w": np.zeros(9)}, path, async_save=async_save)
            if job is not None:
                job.result()
        except PermissionError as error:
            assert error.errno == errno.EACCES, error
            assert folder in str(error.filename), error
        else:
            sys.exit(f"{name} was saved")
"""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other users can enter, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder
        folder.chmod(0o755)


def test_a_read_only_folder_is_a_permission_error(open_folder: Path) -> None:
    """Root may write anywhere: the child process becomes nobody first."""
    save_checkpoint(parameters(1), str(open_folder / "old.ckpt"))
    open_folder.chmod(0o555)
    run_python(READ_ONLY, open_folder)
    assert os.listdir(open_folder) == ["old.ckpt"]
    assert value_in(open_folder / "old.ckpt") == 1


def test_a_target_that_looks_like_a_temporary_file_is_saved_like_any_other(tmp_path: Path) -> None:
    name = ".a.ckpt.0123456789abcdef.tmp"
    save_checkpoint(parameters(1), str(tmp_path / name))
    assert value_in(tmp_path / f"{name}.ckpt") == 1
    assert temporaries(tmp_path) == []
