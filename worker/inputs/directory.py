"""Inputs on a disk or mount that the worker sees: `file:///path`, a file or a directory."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

from machine.ownership import rights_of
from worker.files.copying import Copying
from worker.inputs.source import Check, InputError, Item, Listing, changed

_GONE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
_REFUSED = frozenset({errno.EACCES, errno.EPERM})
_EXECUTABLE = "x"  # at the end of a version
_KINDS = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class DirectorySource:
    """The file or directory at `path`, which may itself be reached through links."""

    def __init__(self, url: str, path: Path, user: int | None = None) -> None:
        """`user`: whose rights count, if not those of this process."""
        self._user = user
        self.url = url
        self._path = path
        self._copying = Copying()

    @property
    def place(self) -> str:
        """Its path."""
        return f"file://{self._path}"

    def list(self, check: Check) -> Listing:
        """The present files; see `Source`. Links within the directory are followed."""
        try:
            with rights_of(self._user):
                root = os.path.realpath(self._path, strict=True)
                status = self._path.stat()
        except OSError as error:
            raise self._blamed(error, str(self._path)) from error
        if stat.S_ISREG(status.st_mode):
            item = Item(self._path.name, status.st_size, _version(status))
            return Listing.of([item], self.url, is_file=True)
        if not stat.S_ISDIR(status.st_mode):
            raise self._is_no_file(str(self._path), status)
        return Listing.of(self._below(root, check), self.url)

    def fetch(self, item: Item, target: Path, check: Check) -> None:
        """Copies a listed file; see `Source`."""
        source = self._path if self._path.is_file() else self._path / item.path
        try:
            # O_NONBLOCK: a pipe that has come in place of the file holds nobody up.
            with rights_of(self._user):
                read = os.open(source, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno in _GONE | {errno.ENXIO}:
                raise changed(self.url, item.path) from error
            raise self._blamed(error, str(source)) from error
        try:
            self._expect(item, os.fstat(read))
            mode = 0o755 if item.version.endswith(_EXECUTABLE) else 0o644
            written = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            try:
                self._copying.copy(read, written, check)
            finally:
                os.close(written)
            self._expect(item, os.fstat(read))
            if not os.path.samestat(os.fstat(read), source.stat()):
                raise changed(self.url, item.path)
        except (FileNotFoundError, NotADirectoryError) as error:
            if error.filename != os.fspath(source):  # but that of the cache
                raise
            raise changed(self.url, item.path) from error
        finally:
            os.close(read)

    def _expect(self, item: Item, status: os.stat_result) -> None:
        if _version(status) != item.version or status.st_size != item.size:
            raise changed(self.url, item.path)

    def _below(self, root: str, check: Check) -> Iterator[Item]:
        """All files, and the empty folders, below the real path `root`."""
        # Each folder with its path in the input, and the real paths of those it lies in.
        folders: list[tuple[str, tuple[str, ...]]] = [("", (root,))]
        while folders:
            path, above = folders.pop()
            try:
                with rights_of(self._user), os.scandir(above[-1]) as found:
                    entries = list(found)
            except OSError as error:
                raise self._blamed_below(error, path or ".") from error
            if path and not entries:
                yield Item(path, 0, "")
            for entry in entries:
                check()
                name = path + entry.name
                try:
                    with rights_of(self._user):
                        real = self._followed(root, entry, name)
                        status = entry.stat()
                except OSError as error:
                    raise self._blamed_below(error, name) from error
                if stat.S_ISDIR(status.st_mode):
                    if real in above:
                        raise InputError(
                            f"{self.url} has the link {name!r}, which leads in circles"
                        )
                    folders.append((f"{name}/", (*above, real)))
                elif stat.S_ISREG(status.st_mode):
                    yield Item(name, status.st_size, _version(status))
                else:
                    raise self._is_no_file(name, status)

    def _followed(self, root: str, entry: os.DirEntry[str], name: str) -> str:
        """The real path of an entry; raises `OSError`, and `InputError` if it leads out."""
        if not entry.is_symlink():
            return entry.path
        try:
            real = os.path.realpath(entry.path, strict=True)
        except OSError as error:
            if error.errno not in _GONE:
                raise
            raise InputError(f"{self.url} has the link {name!r}, which leads nowhere") from error
        if os.path.commonpath([root, real]) != root:
            raise InputError(
                f"{self.url} has the link {name!r}, which leads out of it, to {real}: copy what "
                "it leads to, or name a folder that has both"
            )
        return real

    def _is_no_file(self, path: str, status: os.stat_result) -> InputError:
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "no file")
        return InputError(f"{self.url} cannot be fetched: {path!r} is {kind}")

    def _blamed(self, error: OSError, path: str) -> Exception:
        """The error for one of a system call: the job's, or as it is if it is an outage."""
        if error.errno in _GONE:
            return InputError(
                f"there is nothing at {self.url} on {socket.gethostname()}, where this job runs "
                f"({path}): each worker of the pool must see it"
            )
        if error.errno in _REFUSED:
            who = "the worker" if self._user is None else f"the user of the job ({self._user})"
            return InputError(f"{who} may not read {path!r} of {self.url}")
        return error

    def _blamed_below(self, error: OSError, path: str) -> Exception:
        """The same for what a directory had a moment ago."""
        return changed(self.url, path) if error.errno in _GONE else self._blamed(error, path)


def _version(status: os.stat_result) -> str:
    """What tells one content of a file from the next, on every machine that sees it.

    Without the inode, which network file systems number anew on each.
    """
    if not stat.S_ISREG(status.st_mode):
        return ""
    return f"{status.st_mtime_ns}{_EXECUTABLE if status.st_mode & stat.S_IXUSR else ''}"
