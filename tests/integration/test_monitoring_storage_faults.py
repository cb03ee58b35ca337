"""Full disks, forbidden directories and storage that hangs: training goes on."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from worker.launch.fork_client import ForkServerClient

PRELUDE = """
import json, logging, os, resource, sys, threading
__import__("warnings").simplefilter("error")
from pathlib import Path
import torch
import monitoring.checkpoints.manager
from monitoring import CheckpointManager, MetricsLogger
torch.set_num_threads(1)
root = Path(sys.argv[1])
model = torch.nn.Linear(100, 100)
optimizer = torch.optim.SGD(model.parameters())
warnings = []
class Keep(logging.Handler):
    def emit(self, record):
        warnings.append(record.getMessage())
logging.getLogger("monitoring").addHandler(Keep())
def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
def files():
    return sorted(path.name for path in (root / "checkpoints").iterdir())
def tell(**facts):
    print(json.dumps({**facts, "warnings": warnings}))
"""


Tell = Callable[[str, Path], dict[str, object]]


@pytest.fixture
def tell(warm: ForkServerClient, runner: Any) -> Tell:
    """What a script tells, run in a process of its own."""

    def tell(script: str, root: Path) -> dict[str, object]:
        (runner.cwd / "script.py").write_text(PRELUDE + script)
        ended = runner.run(warm.start, ["python", "script.py", str(root)])
        assert ended.code == 0, ended.output
        facts = json.loads(ended.output.splitlines()[-1])
        assert isinstance(facts, dict)
        return facts

    return tell


@pytest.mark.parametrize("mode", ["sync", "async", "direct"])
def test_a_full_disk_skips_the_checkpoint_with_one_warning_and_the_next_tries_again(
    tell: Tell, tmp_path: Path, mode: str
) -> None:
    facts = tell(
        f"monitoring.checkpoints.manager._LARGE = {0 if mode == 'direct' else 10**9}\n"
        f"manager = CheckpointManager(root, async_save={mode != 'sync'})\n"
        "def save(step):\n"
        "    path = manager.save_checkpoint(step, model, optimizer, [], {})\n"
        "    return path is not None and manager.wait()\n"
        "first = save(1)\n"
        "limit(10_000)\n"
        "second = save(2)\n"
        "after = files()\n"
        "limit(resource.RLIM_INFINITY)\n"
        "third = save(3)\n"
        "latest = manager.load_latest_checkpoint()['step']\n"
        "tell(saved=[first, second, third], after=after, latest=latest)\n",
        tmp_path,
    )
    assert facts["saved"] == [True, False, True]
    assert facts["after"] == [
        "checkpoint_latest.pt",
        "checkpoint_step_1.pt",
        "checkpoint_step_1.pt.json",
    ]  # the temporary file is gone
    assert facts["latest"] == 3
    [warning] = facts["warnings"]  # type: ignore[misc]
    assert "checkpoint_step_2.pt" in warning
    assert "File too large" in warning


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 600 kB, which only root can mount."""
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(place)]
    if subprocess.run(command, check=False, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_training_outlives_a_disk_that_fills_up(tell: Tell, small_disk: Path) -> None:
    facts = tell(
        "manager = CheckpointManager(root, keep_last_n=10)\n"
        "logger = MetricsLogger(root / 'logs')\n"
        "saved = []\n"
        "for step in range(1, 15):\n"
        "    saved.append(manager.save_checkpoint(step, model, optimizer, [], {}) is not None)\n"
        "    logger.log_metrics(step, {'loss': 1.0})\n"
        "full = not saved[-1]\n"
        "left = [name for name in files() if name.startswith('.')]\n"
        "latest = manager.load_latest_checkpoint()['step']\n"
        "ballast = root / 'ballast'\n"
        "tell(saved=saved, full=full, left=left, latest=latest)\n",
        small_disk,
    )
    assert facts["full"] is True
    assert facts["left"] == []
    saved = facts["saved"]
    assert isinstance(saved, list)
    assert facts["latest"] == saved.count(True)


def test_no_metric_row_is_lost_when_the_disk_was_full_for_a_while(
    tell: Tell, tmp_path: Path
) -> None:
    facts = tell(
        "logger = MetricsLogger(root / 'logs')\n"
        "for step in range(300):\n"
        "    if step == 100: limit(os.path.getsize(logger.metrics_file) + 30)\n"
        "    if step == 200: limit(resource.RLIM_INFINITY)\n"
        "    logger.log_metrics(step, {'loss': step / 3})\n"
        "logger.close()\n"
        "before = list(warnings)\n"
        "rows = [(row['step'], row['loss']) for row in logger.load_metrics()]\n"
        "tell(complete=rows == [(step, step / 3) for step in range(300)], before=before,\n"
        "     text=len(logger.training_log.read_text().splitlines()))\n",
        tmp_path,
    )
    assert facts["complete"] is True
    before = facts["before"]
    assert isinstance(before, list)
    assert sum("Cannot write" in w and "metrics.jsonl" in w for w in before) == 1


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that other users reach too; pytest closes its own whenever a session starts."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_directory_without_permission_skips_the_checkpoint(
    tell: Tell, open_path: Path, mode: str
) -> None:
    (open_path / "checkpoints").mkdir()
    (open_path / "checkpoints").chmod(0o555)
    facts = tell(
        "if os.getuid() == 0: os.setgid(65534); os.setuid(65534)\n"
        f"manager = CheckpointManager(root, async_save={mode == 'async'})\n"
        "manager.save_checkpoint(1, model, optimizer, [], {})\n"
        "manager.wait()\n"
        "MetricsLogger(root / 'logs').log_metrics(1, {'loss': 1.0})\n"
        "tell(files=files())\n",
        open_path,
    )
    assert facts["files"] == []
    warnings = facts["warnings"]
    assert isinstance(warnings, list)
    assert sum("checkpoint_step_1.pt skipped" in w and "Permission" in w for w in warnings) == 1
    assert sum("metrics.jsonl" in w for w in warnings) == 1


# A named pipe that nobody reads hangs whoever opens it for writing, as a dead network mount does.
HANG = """
from monitoring.checkpoints import writer
manager = CheckpointManager(root, async_save=MODE, stall_seconds=0.2)
draft, usual = root / "checkpoints" / ".hanging.tmp", writer.temporary
writer.temporary = lambda path: draft if path.stem.endswith("_2") else usual(path)
def save(step):
    path = manager.save_checkpoint(step, model, optimizer, [], {})
    return path is not None and manager.wait()
first = save(1)
os.mkfifo(draft)
second = save(2)
third = save(3)
said = list(warnings)
reader = os.open(draft, os.O_RDONLY | os.O_NONBLOCK)  # the storage is back
os.set_blocking(reader, True)
while os.read(reader, 1 << 20): pass
manager.wait()
fourth = save(4)
latest = manager.load_latest_checkpoint()["step"]
saved = [first, second, third, fourth]
steps = [item["step"] for item in manager.list_checkpoints()]
tell(saved=saved, said=said, latest=latest, steps=steps)
"""


@pytest.mark.parametrize("mode", ["sync", "async"])
def test_a_storage_that_hangs_skips_the_checkpoint_and_is_tried_again(
    tell: Tell, tmp_path: Path, mode: str
) -> None:
    facts = tell(HANG.replace("MODE", str(mode == "async")), tmp_path)
    assert facts["saved"] == [True, False, False, True]
    said = facts["said"]
    assert isinstance(said, list)
    assert len(said) == 1
    assert "accepted no byte for 0.2 s" in said[0]
    assert facts["latest"] == 4
    assert facts["steps"] == [1, 4]


def test_a_stop_request_makes_an_asynchronous_save_wait(tell: Tell, tmp_path: Path) -> None:
    facts = tell(
        "import signal\n"
        "from monitoring import preemption\n"
        "preemption.install()\n"
        "manager = CheckpointManager(root, async_save=True)\n"
        "ballast = {'ballast': torch.zeros(5_000_000)}\n"
        "path = manager.save_checkpoint(1, model, optimizer, [], {}, extra=ballast)\n"
        "at_once = os.path.exists(path)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\n"
        "path = manager.save_checkpoint(2, model, optimizer, [], {}, extra=ballast)\n"
        "tell(at_once=at_once, waited=os.path.exists(path), steps=[item['step'] for item in\n"
        "     manager.list_checkpoints()])\n",
        tmp_path,
    )
    assert facts["waited"] is True
    assert facts["steps"] == [1, 2]


def test_a_program_that_ends_finishes_its_last_save(tell: Tell, tmp_path: Path) -> None:
    tell(
        "manager = CheckpointManager(root, async_save=True)\n"
        "ballast = {'ballast': torch.zeros(5_000_000)}\n"
        "manager.save_checkpoint(1, model, optimizer, [], {}, extra=ballast)\n"
        "MetricsLogger(root / 'logs').log_metrics(1, {'loss': 2.0}, flush=False)\n"
        "tell()\n",
        tmp_path,
    )
    assert (tmp_path / "checkpoints" / "checkpoint_step_1.pt.json").exists()
    assert len((tmp_path / "logs" / "metrics.jsonl").read_text().splitlines()) == 1


def test_a_program_that_ends_writes_the_rows_that_it_held_without_a_word(tmp_path: Path) -> None:
    script = (
        "import sys\n"
        "from monitoring import MetricsLogger\n"
        "logger = MetricsLogger(sys.argv[1])\n"
        "logger.log_metrics(1, {'loss': 1.0})\n"
        "logger.log_metrics(2, {'loss': 2.0}, flush=False)\n"
    )
    child = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(tmp_path)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2
    assert child.stderr == ""
