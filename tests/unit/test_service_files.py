"""The files for systemd and Slurm agree with the settings."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from jobs.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
UNITS = sorted(ROOT.glob("deploy/systemd/*.service"))
WORKER = (ROOT / "deploy/systemd/spectrain-worker@.service").read_text()
SBATCH = ROOT / "deploy/slurm/worker.sbatch"
GRACE = Settings.model_fields["grace_seconds"].default
# The time for the last upload and the receipt, as on Kubernetes.
MARGIN = yaml.safe_load((ROOT / "helm/spectrain/values.yaml").read_text())["workers"][
    "terminationMarginSeconds"
]


def number(pattern: str, text: str) -> int:
    (found,) = re.findall(pattern, text, re.M)
    return int(found)


def test_systemd_waits_longer_than_the_grace_period() -> None:
    assert number(r"^TimeoutStopSec=(\d+)$", WORKER) == GRACE + MARGIN
    documented = (ROOT / "docs/systemd.md").read_text()
    assert f"`SPECTRAIN_GRACE_SECONDS` ({GRACE:.0f} s)" in documented
    assert f"`TimeoutStopSec` is {MARGIN} s longer" in documented


def test_slurm_waits_longer_than_the_grace_period() -> None:
    text = SBATCH.read_text()
    grace = number(r"SPECTRAIN_GRACE_SECONDS:-(\d+)", text)
    assert grace < 30, "the default of KillWait"
    notice = number(r"^#SBATCH --signal=TERM@(\d+)$", text)
    assert notice >= GRACE + MARGIN, "the default fits as well"
    documented = (ROOT / "docs/slurm.md").read_text()
    assert f"`SPECTRAIN_GRACE_SECONDS` is {grace} here" in documented
    assert f"--signal=TERM@{notice}`: SIGTERM to the step {notice} s before" in documented


@pytest.mark.parametrize("path", [*UNITS, SBATCH], ids=lambda path: path.name)
def test_every_setting_that_a_service_file_names_exists(path: Path) -> None:
    known = {f"{PREFIX}{name.upper()}" for name in Settings.model_fields} | {f"{PREFIX}ENV"}
    assert set(re.findall(rf"{PREFIX}[A-Z_]+", path.read_text())) <= known


def test_bash_can_read_the_batch_script() -> None:
    subprocess.run(["bash", "-n", str(SBATCH)], check=True)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_finds_nothing_wrong_with_the_units(tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace("/opt/spectrain/bin/spectrain", "/bin/true")
        (tmp_path / unit.name.replace("@", "@0")).write_text(text)
    copies = sorted(map(str, tmp_path.iterdir()))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *copies], capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    ours = [line for line in done.stderr.splitlines() if "spectrain" in line]
    assert ours == [], done.stderr
