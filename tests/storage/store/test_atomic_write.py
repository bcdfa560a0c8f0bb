import errno
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from medsam3_core.errors import StoreError
from storage.store.atomic import TEMPORARY_PREFIX, read_json, replacing, sweep_leftovers, write_json

WRITE_SLOWLY = """
import sys, time
from pathlib import Path
from storage.store.atomic import replacing
with replacing(Path(sys.argv[1])) as scratch:
    with scratch.open("wb") as file:
        file.write(b"half")
        file.flush()
        print("writing", flush=True)
        time.sleep(60)
"""


def leftovers(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if path.name.startswith(TEMPORARY_PREFIX)]


def test_a_process_killed_while_it_writes_leaves_no_file_under_the_final_name(tmp_path: Path) -> None:
    target = tmp_path / "volume.ozx"
    with subprocess.Popen([sys.executable, "-c", WRITE_SLOWLY, str(target)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"writing\n"
        writer.send_signal(signal.SIGKILL)
    assert not target.exists()
    assert len(leftovers(tmp_path)) == 1
    assert sweep_leftovers(tmp_path, older_than_seconds=3600) == 0  # it could belong to a process that writes now
    assert sweep_leftovers(tmp_path, older_than_seconds=-1) == 1
    assert list(tmp_path.iterdir()) == []


def interrupted_write(target: Path) -> None:
    with replacing(target) as scratch:
        scratch.write_text("newer")
        raise RuntimeError("half way")


def test_an_error_while_writing_keeps_the_older_file(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("older")
    with pytest.raises(RuntimeError, match="half way"):
        interrupted_write(target)
    assert target.read_text() == "older"
    assert leftovers(tmp_path) == []


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    target = tmp_path / "case.ome.zarr"
    for name in ("first", "second"):
        with replacing(target) as scratch:
            scratch.mkdir()
            (scratch / name).touch()
    assert [path.name for path in target.iterdir()] == ["second"]
    assert leftovers(tmp_path) == []


def test_folders_on_the_way_are_made(tmp_path: Path) -> None:
    write_json(tmp_path / "a" / "b" / "c.json", {"x": 1})
    assert read_json(tmp_path / "a" / "b" / "c.json") == {"x": 1}


def test_a_full_disk_is_a_store_error_that_names_file_and_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A real full disk needs a mount, which tests may not make: the rename reports what the kernel would.
    def no_space(source: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "replace", no_space)
    with pytest.raises(StoreError, match=r"cannot write .*file: No space left on device; free the disk"):
        write_json(tmp_path / "file", {})
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_the_kernel_cuts_short_leaves_the_target_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_bytes(b"older")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(StoreError, match="File too large; free the disk"), replacing(target) as scratch:
            scratch.write_bytes(b"x" * 100_000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)
    assert target.read_bytes() == b"older"
    assert leftovers(tmp_path) == []


def test_a_file_where_a_folder_is_needed_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for below in ("x.json", "folder/x.json"):
        with pytest.raises(StoreError, match=r"cannot write .*x\.json: (File exists|Not a directory)"):
            write_json(tmp_path / "file" / below, {})


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(StoreError, match="Permission denied"):
        write_json(tmp_path / "file", {})
    tmp_path.chmod(0o700)


def test_not_a_number_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "file", {"x": float("nan")})
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize("content", [None, "{"])
def test_json_that_is_absent_or_damaged_is_named(tmp_path: Path, content: str | None) -> None:
    path = tmp_path / "run.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(StoreError, match=r"cannot read .*run\.json"):
        read_json(path)
