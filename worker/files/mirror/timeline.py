"""Commits the moments of a run, and keeps some older ones."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from machine.trees import remove_tree
from monitoring.storage.base import Fence, Storage
from monitoring.storage.moments import Entry, Moment, Moments, encode
from worker.files.mirror.contents import Contents

# Of the older moments, the newest one that is older than each of these is kept.
_AGES_SECONDS = (60.0, 600.0, 3600.0)
_NEWEST = 4
_EARLIER = 4
_SKIPPED = 2


class Timeline:
    """The moments of one attempt, after those of the attempts before it.

    Its methods raise `OvertakenError`, other `StorageError`s and `OSError`s.
    """

    def __init__(
        self,
        storage: Storage,
        fence: Fence,
        contents: Contents,
        draft: Path,
        moments: Sequence[Moment],
        begun_from: Moment | None,
    ) -> None:
        self._storage = storage
        self._fence = fence
        self._contents = contents
        self._draft = draft
        self._moments = Moments(storage, fence.run)
        self._all = sorted(moments, key=lambda moment: moment.name)
        self._begun_from = begun_from
        self._number = 0
        self._committed = False
        self.entries: Mapping[str, Entry] = begun_from.entries if begun_from else {}

    @property
    def moments(self) -> Sequence[Moment]:
        """The moments of the run that are kept, the oldest first."""
        return self._all

    def commit(self, entries: Mapping[str, Entry]) -> bool:
        """Makes these entries the newest moment, unless they are; whether it did."""
        if self._committed and not _differs(self.entries, entries):
            self.entries = entries
            return False
        self._number += 1
        moment = Moment(self._fence.attempt, self._number, time.time(), dict(entries))
        remove_tree(self._draft)  # whatever a program has put there
        with self._draft.open("xb") as file:
            file.write(encode(moment))
        self._storage.put(self._moments.key(moment), self._draft, self._fence)
        self._all.append(moment)
        self._committed = True
        self.entries = entries
        return True

    def thin(self) -> None:
        """Removes moments and contents that are no longer kept."""
        kept = to_keep(self._all, time.time())
        if self._begun_from is not None:
            # Should it prove bad, the next attempt needs those before it.
            earlier = [m.name for m in self._all if m.name <= self._begun_from.name]
            kept.update(earlier[-_EARLIER:])
            # Should it be no better, the newer ones were not to blame.
            skipped = [
                moment.name
                for moment in self._all
                if moment.name > self._begun_from.name and moment.attempt < self._fence.attempt
            ]
            kept.update(skipped[-_SKIPPED:])
        self._keep(kept)

    def keep_newest(self) -> None:
        """Removes all moments but the newest, and the contents that only they name."""
        self._keep({moment.name for moment in self._all[-1:]})

    def _keep(self, kept: set[str]) -> None:
        for moment in [one for one in self._all if one.name not in kept]:
            self._moments.remove(moment.name, self._fence)
            self._all.remove(moment)
        named = {content for moment in self._all for content in moment.contents}
        self._contents.drop(self._contents.unnamed(named))


def to_keep(moments: Sequence[Moment], now: float) -> set[str]:
    """The names of the moments to keep: the newest ones, and one of each age."""
    by_age = sorted(moments, key=lambda moment: moment.name, reverse=True)
    kept = {moment.name for moment in by_age[:_NEWEST]}
    for age in _AGES_SECONDS:
        older = (moment for moment in by_age if now - moment.time >= age)
        kept.update(moment.name for moment in list(older)[:1])
    return kept


def _differs(before: Mapping[str, Entry], after: Mapping[str, Entry]) -> bool:
    """Whether more differs than what the files at their paths say themselves."""
    return {path: _essence(entry) for path, entry in before.items()} != {
        path: _essence(entry) for path, entry in after.items()
    }


def _essence(entry: Entry) -> Entry:
    if entry.kind == "directory":
        return replace(entry, modified_ns=0)
    return replace(entry, size=0, modified_ns=0) if entry.grows else entry
