"""Unpacking an archive that anybody may have made: what it may do has bounds."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workspaces.archive import pack
from workspaces.unpacking import TIME_NS, DamagedError, unpack

LIMIT = 1_000_000
Tar = tarfile.TarFile


def archive(*parts: Callable[[Tar], None], format: int = tarfile.PAX_FORMAT) -> bytes:  # noqa: A002
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz", format=format) as tar:
        for part in parts:
            part(tar)
    return target.getvalue()


def file(name: str, data: bytes = b"x", **fields: object) -> Callable[[Tar], None]:
    def add(tar: Tar) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for field, value in fields.items():
            setattr(info, field, value)
        tar.addfile(info, io.BytesIO(data))

    return add


def member(name: str, kind: bytes, **fields: object) -> Callable[[Tar], None]:
    return file(name, b"", type=kind, **fields)


def link(name: str, target: str) -> Callable[[Tar], None]:
    return member(name, tarfile.SYMTYPE, linkname=target)


def unpacked(data: bytes, root: Path, limit: int = LIMIT) -> set[str]:
    (root / "to").mkdir()
    unpack(io.BytesIO(data), root / "to", limit=limit)
    files = root / "to" / "files"
    return {path.relative_to(files).as_posix() for path in files.rglob("*")}


def refused(data: bytes, root: Path, words: str) -> None:
    """The archive is refused with these words, and nothing is outside of its directory."""
    with pytest.raises(DamagedError, match=words):
        unpacked(data, root)
    assert {path.name for path in root.iterdir()} == {"to"}


def test_what_was_packed_is_unpacked(tmp_path: Path) -> None:
    code = tmp_path / "code"
    (code / "a" / "empty").mkdir(parents=True)
    (code / "a" / "train.py").write_bytes(os.urandom(3_000_000))
    (code / "run.sh").write_text("#!/bin/sh\n")
    (code / "run.sh").chmod(0o700)
    (code / ("long" * 60)).write_text("name")
    (code / "Ünïcode 文件").write_text("name")
    (code / "link").symlink_to("a/train.py")
    target = io.BytesIO()
    pack(code, target, limit=10 * LIMIT)
    found = unpacked(target.getvalue(), tmp_path, limit=10 * LIMIT)
    assert found == {path.relative_to(code).as_posix() for path in code.rglob("*")}
    files = tmp_path / "to" / "files"
    assert (files / "a" / "train.py").read_bytes() == (code / "a" / "train.py").read_bytes()
    assert (files / "link").readlink() == Path("a/train.py")
    assert (files / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (files / "a" / "train.py").stat().st_mode & 0o777 == 0o644
    assert {path.lstat().st_mtime_ns for path in files.rglob("*") if not path.is_symlink()} == {
        TIME_NS
    }


@pytest.mark.parametrize("format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT])
def test_an_archive_of_another_tar_is_unpacked(tmp_path: Path, format: int) -> None:  # noqa: A002
    parts = [
        member("files", tarfile.DIRTYPE), file("./files/a.py"), file("files/b/" + "c" * 90),
        file("git.json", b"{}"), file("git.patch", b"patch"),
    ]  # fmt: skip
    assert unpacked(archive(*parts, format=format), tmp_path) == {"a.py", "b", "b/" + "c" * 90}
    assert (tmp_path / "to" / "git.patch").read_text() == "patch"


@pytest.mark.parametrize(
    "name",
    [
        "/etc/x", "../x", "files/../../x", "files/a/../../../x", "files/./x", "files//x",
        "files/..",
        "x", "files.py", "git.json/x", "other/x",
    ],
)  # fmt: skip
def test_a_name_that_leads_out_is_refused(tmp_path: Path, name: str) -> None:
    refused(archive(file(name)), tmp_path, "leads out of it|outside of files/")


@pytest.mark.parametrize("target", ["/", "/etc/passwd", "..", "../../x", "a/../../x", ""])
def test_a_link_that_leads_out_is_refused(tmp_path: Path, target: str) -> None:
    refused(archive(link("files/link", target)), tmp_path, "the link files/link leads to")


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    for first, second in [
        (link("files/a", "b"), file("files/a/x")),
        (link("files/a", "b"), file("files/a")),
        (file("files/a"), link("files/a", "b")),
        (file("files/a"), file("files/a/x")),
        (file("files/a/x"), link("files/a", "b")),
        (link("files/a", "b"), link("files/a", "c")),
        (file("files/a"), file("files/a")),
        (member("files/a", tarfile.DIRTYPE), file("files/a")),
    ]:
        with pytest.raises(DamagedError, match=r"twice|is a link and a folder"):
            unpacked(archive(first, second), tmp_path)
        for path in sorted((tmp_path / "to").rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        (tmp_path / "to").rmdir()


@pytest.mark.parametrize(
    "kind", [tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE, tarfile.LNKTYPE]
)
def test_devices_pipes_and_hard_links_are_refused(tmp_path: Path, kind: bytes) -> None:
    one = member("files/x", kind, linkname="/etc/passwd")
    refused(archive(file("files/a"), one), tmp_path, "neither a file nor a folder nor a link")


def test_set_user_id_is_not_kept(tmp_path: Path) -> None:
    unpacked(archive(file("files/x", mode=0o6777)), tmp_path)
    assert (tmp_path / "to" / "files" / "x").stat().st_mode & 0o7777 == 0o755


def bounded(data: bytes, root: Path, words: str) -> None:
    """The archive is refused with these words, in little memory and disk space."""
    tracemalloc.start()
    try:
        refused(data, root, words)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    assert sum(sizes) <= LIMIT


def test_a_bomb_is_refused(tmp_path: Path) -> None:
    class Zeros(io.RawIOBase):
        def read(self, size: int = -1, /) -> bytes:
            return bytes(size)

    def add(tar: Tar) -> None:
        info = tarfile.TarInfo("files/zeros")
        info.size = 300 * LIMIT
        tar.addfile(info, Zeros())

    data = archive(add)
    assert len(data) < LIMIT
    bounded(data, tmp_path, r"larger than 1\.0 MB; SPECTRAIN_WORKSPACE_BYTES of the worker")


def test_a_bomb_of_many_files_is_refused(tmp_path: Path) -> None:
    data = archive(*(file(f"files/{n}", bytes(100_000)) for n in range(20)))
    bounded(data, tmp_path, r"larger than 1\.0 MB")


def test_a_bomb_in_a_header_is_refused(tmp_path: Path) -> None:
    huge = file("files/x", pax_headers={"comment": "x" * 300_000_000})
    bounded(archive(huge), tmp_path, "one of its headers is too long")


def test_a_bomb_of_headers_is_refused(tmp_path: Path) -> None:
    parts = [file(f"files/{n}", pax_headers={"comment": "x" * 900_000}) for n in range(300)]
    bounded(archive(*parts), tmp_path, "it unfolds to more than is allowed")


def test_zeros_behind_the_end_are_not_read(tmp_path: Path) -> None:
    data = archive(file("files/x")) + gzip.compress(bytes(10 * LIMIT))
    assert unpacked(data, tmp_path) == {"x"}


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workspaces.unpacking.MAX_FILES", 1000)
    one = tarfile.TarInfo("files/link")
    one.type, one.linkname = tarfile.SYMTYPE, "a"

    def many(tar: Tar) -> None:
        assert tar.fileobj is not None
        for number in range(2000):
            one.name = f"files/{number}"
            tar.fileobj.write(one.tobuf(tarfile.USTAR_FORMAT))

    refused(archive(many), tmp_path, "more than 1,000 files")


def test_a_sparse_file_is_refused(tmp_path: Path) -> None:
    sparse = {"GNU.sparse.map": "0,1", "GNU.sparse.size": str(1 << 60)}
    refused(archive(file("files/x", pax_headers=sparse)), tmp_path, "neither a file")


def test_names_that_no_file_system_takes_are_refused(tmp_path: Path) -> None:
    refused(archive(file("files/" + "x" * 256)), tmp_path, "is too long")
    (tmp_path / "to" / "files").rmdir()
    (tmp_path / "to").rmdir()
    not_text = archive(file("files/caf\udce9"), format=tarfile.GNU_FORMAT)
    refused(not_text, tmp_path, r"caf\\udce9 is not UTF-8")


def test_a_damaged_archive_is_told(tmp_path: Path) -> None:
    whole = archive(*(file(f"files/{n}", os.urandom(9_000)) for n in range(9)))
    for data in (b"", b"nonsense", whole[:-3_000], whole[:20], gzip.compress(b"nonsense" * 999)):
        target = tmp_path / str(len(data))
        target.mkdir()
        with pytest.raises(DamagedError, match="archive is damaged"):
            unpack(io.BytesIO(data), target, limit=LIMIT)


@given(st.binary(max_size=2_000), st.integers(0, 3_000))
def test_no_bytes_do_more_than_to_be_refused(
    tmp_path_factory: pytest.TempPathFactory, noise: bytes, at: int
) -> None:
    whole = bytearray(gzip.decompress(archive(file("files/a/b"), link("files/c", "a/b"))))
    whole[at : at + len(noise)] = noise
    root = tmp_path_factory.mktemp("noise")
    (root / "to").mkdir()
    with contextlib.suppress(DamagedError):
        unpack(io.BytesIO(gzip.compress(bytes(whole))), root / "to", limit=LIMIT)
    assert {path.name for path in root.iterdir()} == {"to"}
    for path in (root / "to").rglob("*"):
        assert (root / "to") in path.resolve().parents


def test_it_can_be_stopped(tmp_path: Path) -> None:
    class Stop(Exception):  # noqa: N818
        pass

    def stop() -> None:
        raise Stop

    with pytest.raises(Stop):
        unpack(io.BytesIO(archive(file("files/x"))), tmp_path, limit=LIMIT, on_block=stop)
