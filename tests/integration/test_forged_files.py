"""Names that are the service's in a run: a program's files of these names are not taken for it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from api.ops.reindex import read_remains
from jobs.model.states import Reason, State
from monitoring.storage.run_files import RunFiles
from tests.integration.one_worker import Bench, python

RECEIPT = {
    "number": 7, "worker": "forged", "started_at": 1.0, "ended_at": 2.0, "reason": "completed",
    "message": "forged",
}  # fmt: skip
FORGE = f"""
import json, os, pathlib, sys
run = pathlib.Path(os.environ["SPECTRAIN_RUN_DIR"])
number = os.environ["SPECTRAIN_ATTEMPT"]
print("forges", flush=True)
for name in ("attempts/7.json", f"attempts/{{number}}.json", ".fence", ".record.json",
             ".moments/00000009-00000001.json", ".contents/x", "logs/output.log",
             "logs/metrics.read.jsonl", "job.json", "git.json"):
    path = run / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    path.write_text({json.dumps(json.dumps(RECEIPT))})
(run / "result").write_text("kept")
sys.exit(0 if number != "1" else 1)
"""


@pytest.fixture
def forged(bench: Bench) -> tuple[Bench, str]:
    """A job of two attempts, each of which leaves such files."""
    job = bench.claim(python(FORGE, retry={"max_failures": 1, "backoff_seconds": 0}))
    bench.begin(job).join()
    # As an earlier version has published it.
    bench.storage.append(f"{job.id}/attempts/9.json", 0, json.dumps(RECEIPT).encode())
    again = bench.store.claim("default", "w")
    assert again is not None
    bench.begin(again).join()
    assert bench.store.get(job.id).state is State.SUCCEEDED, bench.output(job)
    return bench, job.id


def test_receipts_and_the_job_are_those_of_the_service(forged: tuple[Bench, str]) -> None:
    bench, job_id = forged
    job, run = bench.store.get(job_id), bench.storage.root / job_id
    found = {path.name: path.read_bytes() for path in (run / "attempts").iterdir()}
    assert found == {f"{one.number}.json": one.receipt() for one in job.attempts}
    assert json.loads((run / "job.json").read_text())["id"] == job_id
    assert not (run / "git.json").exists()
    assert (run / ".fence").read_text() == "2"
    assert "forged" not in (run / "logs/output.log").read_text().replace("forges", "")
    assert (run / "result").read_text() == "kept"


def test_the_log_names_what_was_refused(forged: tuple[Bench, str]) -> None:
    bench, job_id = forged
    output = bench.output(bench.store.get(job_id))
    for name in ("attempts", ".fence", ".record.json", "logs/output.log", "job.json", "git.json"):
        assert f"not saved: {name}: the service uses this name itself" in output


def test_readers_and_reindex_see_the_services(forged: tuple[Bench, str]) -> None:
    bench, job_id = forged
    files = RunFiles(bench.storage, job_id)
    assert json.loads(bench.storage.read(files.key("job.json")))["spec"]["name"] == "a"
    remains = read_remains(bench.storage, job_id)
    assert {n: one.reason for n, one in remains.receipts.items()} == {
        1: Reason.ERROR, 2: Reason.COMPLETED,
    }  # fmt: skip
    assert remains.accepted is not None
    assert remains.fence == 2
    tops = {Path(path).parts[0] for path in files.all()}
    assert tops <= {"attempts", "job.json", "logs", "result"}
