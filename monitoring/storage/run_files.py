"""The files of a run as its readers see them: those of its newest moment, and the service's own."""

from __future__ import annotations

from pathlib import Path

from monitoring.paths import RunPaths, step_of
from monitoring.storage.base import Storage, StoredFile
from monitoring.storage.moments import Moments, files_now

_PATHS = RunPaths(Path())
# With copies of these a program may do what it likes: what counts is what the service stored.
COPIED = frozenset(path.as_posix() for path in (_PATHS.job, _PATHS.git, _PATHS.git_patch))
_OWN = COPIED | {
    path.as_posix()
    for path in (
        _PATHS.output_log, _PATHS.earlier_output_log, _PATHS.output_times, _PATHS.read_metrics,
        _PATHS.system,
    )
}  # fmt: skip
_ATTEMPTS = f"{_PATHS.attempts.as_posix()}/"


class RunFiles:
    """The files of one run, by path; every method may raise `OSError` or `StorageError`."""

    def __init__(self, storage: Storage, run: str) -> None:
        self._storage = storage
        self._run = run
        self._moments = Moments(storage, run)

    def all(self) -> dict[str, StoredFile]:
        """The files, each with the key of its content; sorted by path."""
        at_path = {
            file.key.removeprefix(f"{self._run}/"): file for file in self._storage.list(self._run)
        }
        moment = self._moments.newest()
        if moment is None:  # a run from before moments
            return at_path
        found = files_now(self._storage, self._run, moment)
        own = {p: file for p, file in at_path.items() if is_services(p) or _is_adoption(p, found)}
        return dict(sorted((found | own).items()))

    def links(self) -> dict[str, str]:
        """The symbolic links and their targets; sorted by path."""
        moment = self._moments.newest()
        if moment is None:
            found = self._storage.links(self._run)
            return {key.removeprefix(f"{self._run}/"): target for key, target in found.items()}
        links = {p: entry.target for p, entry in moment.entries.items() if entry.kind == "link"}
        return dict(sorted(links.items()))

    def key(self, path: str) -> str:
        """The key of a file's content; there may be no such file."""
        moment = self._moments.newest()
        entry = moment.entries.get(path) if moment is not None and not is_services(path) else None
        if entry is not None and entry.content:
            kept = self._moments.kept(entry.content)
            if self._storage.stat(kept) is not None:
                return kept
        return f"{self._run}/{path}"


def is_services(path: str) -> bool:
    """Whether the service writes a file itself: logs, what it reads, the job, the receipts."""
    return path in _OWN or (path.startswith(_ATTEMPTS) and "/" not in path[len(_ATTEMPTS) :])


def _is_adoption(path: str, found: dict[str, StoredFile]) -> bool:
    """Whether a path is the record of a checkpoint that another program wrote."""
    checkpoint = path.removesuffix(".json")
    return checkpoint != path and checkpoint in found and step_of(Path(checkpoint)) is not None
