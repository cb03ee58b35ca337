"""The commit record decides which checkpoints exist."""

from pathlib import Path

import pytest

from monitoring.checkpoints import commit
from monitoring.checkpoints.commit import CheckpointCorrupt, CommitRecord
from monitoring.paths import RunPaths, commit_record

CONTENT = b"weights" * 1000


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = RunPaths(tmp_path).checkpoint(7)
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def record_of(path: Path, algorithm: str = "crc32", step: int = 7) -> CommitRecord:
    size = path.stat().st_size
    return CommitRecord(step, size, commit.checksum(path, algorithm), attempt=2, time=1.5)


@pytest.mark.parametrize("algorithm", ["crc32", "sha256"])
def test_a_record_reads_back_and_verifies(checkpoint: Path, algorithm: str) -> None:
    record = record_of(checkpoint, algorithm)
    commit.write(checkpoint, record)
    assert commit.read(checkpoint) == record
    assert commit.verify(checkpoint) == record
    assert commit.committed(checkpoint.parent) == [(record, checkpoint)]


def test_a_file_without_a_record_does_not_exist(checkpoint: Path) -> None:
    assert commit.committed(checkpoint.parent) == []
    with pytest.raises(CheckpointCorrupt, match="no commit record"):
        commit.verify(checkpoint)


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (CONTENT[:100], "has 100 bytes"),
        (b"", "has 0 bytes"),
        (bytes(len(CONTENT)), "checksum"),
        (CONTENT[:50] + b"\x00" + CONTENT[51:], "checksum"),
    ],
    ids=["truncated", "empty", "zero-filled", "one byte changed"],
)
def test_damage_is_found_and_named(checkpoint: Path, damage: bytes, cause: str) -> None:
    commit.write(checkpoint, record_of(checkpoint))
    checkpoint.write_bytes(damage)
    with pytest.raises(CheckpointCorrupt, match=cause) as caught:
        commit.verify(checkpoint)
    assert caught.value.path == checkpoint


@pytest.mark.parametrize("text", ["", "{", "[]", '{"step": 1}', "\x00" * 80])
def test_an_unreadable_record_is_damage(checkpoint: Path, text: str) -> None:
    commit_record(checkpoint).write_text(text)
    with pytest.raises(CheckpointCorrupt):
        commit.read(checkpoint)
    with pytest.raises(CheckpointCorrupt):
        commit.verify(checkpoint)
    assert commit.committed(checkpoint.parent) == []


def test_saving_a_step_again_is_safe_between_data_and_record(checkpoint: Path) -> None:
    commit.write(checkpoint, record_of(checkpoint))
    checkpoint.write_bytes(b"new weights")
    new = record_of(checkpoint)
    intent = commit_record(checkpoint).with_name(commit_record(checkpoint).name + ".next")
    commit_record(checkpoint).rename(checkpoint.parent / "old")
    commit.write(checkpoint, new)
    commit_record(checkpoint).rename(intent)
    (checkpoint.parent / "old").rename(commit_record(checkpoint))

    # Killed here: the new data under its name, the old record, and the intent beside them.
    assert commit.verify(checkpoint) == new
    assert commit.committed(checkpoint.parent) == [(new, checkpoint)]


def test_a_record_that_takes_its_name_while_it_is_looked_for_is_found(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    record, decode = record_of(checkpoint), commit._decode
    intent = commit_record(checkpoint).with_name(commit_record(checkpoint).name + ".next")

    def meanwhile(path: Path) -> CommitRecord:
        if path == intent and intent.exists():  # its writer goes on between our two looks
            intent.rename(commit_record(checkpoint))
        return decode(path)

    monkeypatch.setattr(commit, "_decode", meanwhile)
    commit.write(checkpoint, record)
    commit_record(checkpoint).rename(intent)
    assert commit.verify(checkpoint) == record
    commit_record(checkpoint).rename(intent)
    assert commit.committed(checkpoint.parent) == [(record, checkpoint)]


def test_committed_checkpoints_come_by_step(tmp_path: Path) -> None:
    directory = RunPaths(tmp_path).checkpoints
    directory.mkdir()
    for step in (300, 100, 200):
        path = RunPaths(tmp_path).checkpoint(step)
        path.write_bytes(CONTENT)
        commit.write(path, record_of(path, step=step))
    assert [record.step for record, _ in commit.committed(directory)] == [100, 200, 300]


def test_setting_aside_keeps_the_bytes(checkpoint: Path) -> None:
    commit.write(checkpoint, record_of(checkpoint))
    aside = commit.set_aside(checkpoint)
    assert aside.name == "checkpoint_step_7.pt.corrupt"
    assert aside.read_bytes() == CONTENT
    assert not checkpoint.exists()
    assert not commit_record(checkpoint).exists()
