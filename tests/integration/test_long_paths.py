"""Files that cannot be stored, because of their names: all others are, and the log says which."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.one_worker import Bench, python

# Goes down into folders of 200 characters, whose path becomes too long for the system.
DEEP = """
import os
for number in range({folders}):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
    open("file", "w").write("text")
os.chdir(os.environ["SPECTRAIN_RUN_DIR"])
open("result", "w").write("kept")
print("done")
"""


@pytest.mark.parametrize("folders", [15, 18, 19, 20, 22, 40])
def test_a_path_that_is_too_long_is_refused_by_name_and_all_else_is_kept(
    bench: Bench, folders: int
) -> None:
    job = bench.run(python(DEEP.format(folders=folders)))
    assert job.state is State.SUCCEEDED, bench.output(job)
    output = bench.output(job)
    assert "done\n" in output
    assert (bench.files(job).root / "result").read_text() == "kept"
    assert (bench.files(job).root / "work" / ("d" * 200) / "file").read_text() == "text"
    assert len(job.attempts) == 1
    events = [event for event in bench.store.events(job.id) if event.type == "not_saved"]
    too_long = folders >= 20  # below the directory of any test
    assert bool(events) == too_long
    assert ("cannot be saved: work/ddd" in output) == too_long
    assert ("not saved: work/ddd" in output) == too_long
    if too_long:
        assert {event.data["why"] for event in events} == {"File name too long"}


@pytest.fixture
def deep_store(settings: Settings, store: JobStore, tmp_path: Path) -> Iterator[Bench]:
    """A worker whose storage lies much deeper than its scratch directory."""
    deep = tmp_path.joinpath(*["s" * 100] * 12)
    bench = Bench(settings.model_copy(update={"storage_url": deep.as_uri()}), store)
    yield bench
    bench.service.messenger.close()


def test_many_names_that_storage_cannot_have_are_no_outage_of_storage(deep_store: Bench) -> None:
    script = DEEP.format(folders=18) + (
        "for number in range(9): open(b'not-text-\\xff%d' % number, 'w').write('text')\n"
    )
    job = deep_store.run(python(script))
    output = deep_store.output(job)
    assert job.state is State.SUCCEEDED, output
    assert (deep_store.files(job).root / "result").read_text() == "kept"
    assert "File name too long" in output
    assert "its name is not UTF-8" in output
    assert job.run_seconds < 30
