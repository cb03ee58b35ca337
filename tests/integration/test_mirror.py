"""Whatever a program does to its run directory, and whenever its worker is killed, the next attempt
gets what the directory held at some one moment.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from jobs.model.record import Attempt as Receipt
from monitoring.storage.base import Fence
from monitoring.storage.directory import FileStorage
from monitoring.storage.moments import Entry, Moments
from worker.code.place import place_code
from worker.failures.going_back import has_saved
from worker.files.given import Given
from worker.files.mirror import settle
from worker.files.publish import Publisher
from worker.files.restore import restore
from worker.files.scratch import Scratch

RUN = "mirror-23456789"
COUNT = itertools.count()
State = dict[str, tuple[str, Any]]


class Killed(BaseException):
    """The worker is gone."""


def state_of(root: Path) -> State:
    """All that a directory holds, but for the files of the service."""
    found: State = {}
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            found[name] = ("link", str(path.readlink()))
        elif path.is_dir():
            found[name] = ("directory", path.stat().st_mode & 0o777)
        else:
            found[name] = ("file", (path.read_bytes(), path.stat().st_mode & 0o777,
                                    path.stat().st_mtime_ns))  # fmt: skip
    return found


class Program:
    """Does random things to its run directory, each of them at once."""

    def __init__(self, root: Path, chance: random.Random) -> None:
        self.root = root
        self.chance = chance
        self.history: list[State] = [state_of(root)]
        self.logs: dict[str, bytes] = {}

    def step(self) -> None:
        act = self.chance.choice(
            [self.write, self.write, self.append, self.append, self.rename, self.link, self.rotate,
             self.delete, self.folder, self.swap, self.mode, self.pair]
        )  # fmt: skip
        act()
        self.history.append(state_of(self.root))

    def data(self) -> bytes:
        return (b"%d " % next(COUNT)) * self.chance.randint(1, 400)

    def files(self) -> list[Path]:
        return [p for p in self.root.rglob("*") if p.is_file() and not p.is_symlink()]

    def write(self) -> None:
        (self.root / f"f{self.chance.randint(0, 3)}").write_bytes(self.data())

    def append(self) -> None:
        name = f"log{self.chance.randint(0, 1)}.jsonl"
        data = self.data() + b"\n"
        with (self.root / name).open("ab") as file:
            file.write(data)

    def rename(self) -> None:
        part = self.root / "part"
        part.write_bytes(self.data())
        part.rename(self.root / f"f{self.chance.randint(0, 3)}")

    def link(self) -> None:
        path = self.root / f"link{self.chance.randint(0, 1)}"
        path.unlink(missing_ok=True)
        path.symlink_to(self.chance.choice(["f1", "../x", "d0", "d1/x"]))

    def rotate(self) -> None:
        new = self.root / f"ckpt-{next(COUNT)}"
        new.mkdir()
        for name in ("weights.bin", "state.json"):
            (new / name).write_bytes(self.data())
        for old in sorted(self.root.glob("ckpt-*"), key=lambda p: int(p.name[5:]))[:-2]:
            shutil.rmtree(old)

    def delete(self) -> None:
        if files := self.files():
            self.chance.choice(files).unlink()

    def folder(self) -> None:
        (self.root / f"d{self.chance.randint(0, 2)}").mkdir(exist_ok=True)

    def swap(self) -> None:
        path = self.root / f"f{self.chance.randint(0, 3)}"
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
            path.write_bytes(b"")

    def mode(self) -> None:
        if files := self.files():
            self.chance.choice(files).chmod(self.chance.choice([0o600, 0o644, 0o755]))

    def pair(self) -> None:
        data = self.data()
        (self.root / "pair.a").write_bytes(data)
        (self.root / "pair.b").write_bytes(data[::-1])


class Store(FileStorage):
    """A store before whose operations something may happen."""

    hook: Callable[[], None] = staticmethod(lambda: None)

    def put(self, *args: Any, **options: Any) -> None:
        self.hook()
        super().put(*args, **options)
        self.hook()

    def put_all(self, files: Mapping[str, Path], fence: Fence | None = None) -> None:
        for key, source in files.items():
            self.put(key, source, fence)

    def append(self, *args: Any, **options: Any) -> None:
        self.hook()
        super().append(*args, **options)
        self.hook()

    def keep_all(self, places: Mapping[str, str], fence: Fence | None = None) -> None:
        for key, place in places.items():
            self.hook()
            super().keep_all({key: place}, fence)
            self.hook()

    def delete_all(self, keys: Sequence[str], fence: Fence | None = None) -> None:
        for key in keys:
            self.hook()
            super().delete_all([key], fence)
            self.hook()

    def point(self, *args: Any, **options: Any) -> None:
        self.hook()
        super().point(*args, **options)
        self.hook()


def essence(state: State) -> State:
    """A state without what any length of a log says."""
    left_out = {"logs", "logs/output.log", "checkpoints", "visualizations"}
    return {
        name: value
        for name, value in state.items()
        if name not in left_out and not name.endswith(".jsonl")
    }


def compare(restored: State, history: list[State], seed: str) -> None:
    mine = essence(restored)
    differing = [
        sorted(n for n in mine.keys() | theirs.keys() if mine.get(n) != theirs.get(n))
        for theirs in map(essence, history)
    ]
    assert [] in differing, f"{seed}: no such moment; the nearest differ in " + str(
        sorted(differing, key=len)[:3]
    )
    for name, value in restored.items():
        if name.endswith(".jsonl"):
            data = value[1][0]
            assert any(state.get(name, ("", (b"",)))[1][0] == data for state in history), (
                f"{seed}: {name} never had these {len(data)} bytes"
            )


def code(base: Path) -> Path:
    """Code as it lies in a cache, with names that the program uses too."""
    code = base / "code"
    files = code / "files"
    for path in ("f0", "f1", "d0/x", "d1/y/z", "ckpt-0/weights.bin", "own/a", "own/b"):
        (files / path).parent.mkdir(parents=True, exist_ok=True)
        (files / path).write_text(path * 20)
    (files / "link0").symlink_to("own/a")
    (code / "git.json").write_text("{}")
    return code


class Attempt:
    def __init__(
        self,
        store: Store,
        base: Path,
        number: int,
        before: str | None = None,
        code: Path | None = None,
    ) -> None:
        self.fence = Fence(RUN, number)
        self.scratch = Scratch(base, RUN, number)
        self.scratch.root.mkdir(parents=True)
        store.seize(self.fence)
        self.scratch.empty()
        root = self.scratch.run.root

        def place(entries: Mapping[str, Entry], is_moment: bool, _: object) -> Given:
            return place_code(code, root, entries, is_moment=is_moment) if code else Given()

        restored = restore(store, RUN, self.scratch.run, before=before, place=place)
        assert restored is not None
        self.restored = restored
        self.publisher = Publisher(store, self.scratch, self.fence, restored)


@pytest.mark.parametrize("brings_code", [False, True], ids=["", "code"])
@pytest.mark.parametrize("seed", range(40))
def test_a_kill_at_any_operation_leaves_one_moment(
    tmp_path: Path, seed: int, brings_code: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(settle, "PATIENCE_SECONDS", 1e9)
    chance = random.Random(seed)
    store = Store(tmp_path / "store")
    store.root.mkdir()
    history: list[State] = []
    own = code(tmp_path) if brings_code else None
    for number in range(1, 6):
        Store.hook = staticmethod(lambda: None)
        attempt = Attempt(store, tmp_path / f"scratch{number}", number, code=own)
        root = attempt.scratch.workspace if brings_code else attempt.scratch.run.root
        restored = state_of(root)
        if history:
            compare(restored, history, f"seed {seed}, attempt {number}")
        program = Program(root, chance)
        left = chance.randint(1, 120)
        inside = chance.random() < 0.5

        def hook(program: Program = program, inside: bool = inside) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                raise Killed
            if inside and chance.random() < 0.15:
                program.step()

        Store.hook = staticmethod(hook)
        try:
            for _ in range(60):
                for _ in range(chance.choice([0, 0, 0, 1, 3])):
                    program.step()
                attempt.publisher.publish()
        except Killed:
            pass
        history += program.history
    Store.hook = staticmethod(lambda: None)


@pytest.mark.parametrize("seed", range(10))
def test_storage_ends_with_exactly_what_the_program_has(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    store = Store(tmp_path / "store")
    store.root.mkdir()
    Store.hook = staticmethod(lambda: None)
    for number in range(1, 4):
        attempt = Attempt(store, tmp_path / f"scratch{number}", number)
        program = Program(attempt.scratch.run.root, chance)
        for _ in range(20):
            for _ in range(chance.randint(0, 3)):
                program.step()
            attempt.publisher.publish()
        if number < 3:
            continue
        attempt.publisher.close("end", completed=True)
        attempt.publisher.publish()
    root = attempt.scratch.run.root
    files = {n: v[1][0] for n, v in state_of(root).items() if v[0] == "file"}
    stored = {file.key.removeprefix(f"{RUN}/"): store.read(file.key) for file in store.list(RUN)}
    for name in ("logs/output.log", "logs/output.times"):
        stored.pop(name, None)
    assert stored == files
    assert len(list((store.root / RUN / ".moments").iterdir())) == 1
    named = Moments(store, RUN).newest().contents  # type: ignore[union-attr]
    assert Moments(store, RUN).contents() <= named, "what only older moments name is gone"


def test_an_attempt_that_goes_back_saves_nothing_by_that(tmp_path: Path) -> None:
    """Else its failure would not count against the moment, and nobody would go back further."""
    store = Store(tmp_path / "store")
    store.root.mkdir()
    Store.hook = staticmethod(lambda: None)
    first = Attempt(store, tmp_path / "first", 1)
    for text in ("good", "bad", "worse"):
        (first.scratch.run.root / "model").write_text(text)
        for _ in range(3):
            first.publisher.publish()
    before = None
    for number, text in ((2, "worse"), (3, "bad"), (4, "good")):
        attempt = Attempt(store, tmp_path / str(number), number, before)
        assert (attempt.scratch.run.root / "model").read_text() == text
        (attempt.scratch.run.root / "note").write_text("x")
        for _ in range(3):
            attempt.publisher.publish()
        moment = attempt.restored.moment
        assert moment is not None
        ended = Receipt(number=number, worker="w", started_at=0, moment=moment.name)
        assert not has_saved(ended, Moments(store, RUN).all())
        assert store.read(f"{RUN}/model").decode() == text, "and it lies where people look"
        before = moment.name
