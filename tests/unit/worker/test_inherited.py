"""Which variables of a worker its jobs get."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.settings import Settings
from worker.launch.inherited import PATTERNS, inherited
from worker.launch.prepare import Slot, base_environment

SETTINGS = Path(__file__).parents[3] / "docs/settings.md"


@pytest.mark.parametrize(
    "name",
    ["PATH", "HOME", "LC_ALL", "https_proxy", "NO_PROXY", "SSL_CERT_FILE", "PIP_INDEX_URL",
     "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "CUDA_HOME", "NCCL_DEBUG", "LD_LIBRARY_PATH",
     "OMP_NUM_THREADS", "TORCH_HOME", "HF_HOME", "TOKENIZERS_PARALLELISM", "SLURM_JOB_ID"],
)  # fmt: skip
def test_what_programs_need_reaches_a_job(name: str) -> None:
    assert inherited({name: "value"}) == {name: "value"}


@pytest.mark.parametrize(
    "name",
    ["MY_DB_PASSWORD", "DATABASE_URL", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "REDIS_URL",
     "SPECTRAIN_REDIS_URL", "SPECTRAIN_API_TOKENS", "SPECTRAIN_SECRET_HF_TOKEN", "HF_TOKEN",
     "WANDB_API_KEY", "GITHUB_TOKEN", "KUBECONFIG", "SSH_AUTH_SOCK", "CELERY_BROKER_URL",
     "UV_PUBLISH_TOKEN", "SLURM_JWT_KEY"],
)  # fmt: skip
def test_what_is_nobodys_business_does_not(name: str) -> None:
    assert inherited({name: "value"}) == {}


def test_a_setting_adds_names_and_patterns_and_a_secret_only_by_its_name() -> None:
    given = {"WANDB_MODE": "1", "WANDB_API_KEY": "2", "HF_TOKEN": "3", "OTHER": "4"}
    assert inherited(given, "WANDB_*, HF_TOKEN") == {"WANDB_MODE": "1", "HF_TOKEN": "3"}


def test_the_environment_of_a_job_follows_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_OWN_VARIABLE", "value")
    settings = Settings(job_env="MY_OWN_*")
    assert base_environment(Slot(()), settings)["MY_OWN_VARIABLE"] == "value"
    assert "MY_OWN_VARIABLE" not in base_environment(Slot(()), Settings())


def test_the_settings_page_has_the_whole_list() -> None:
    text = SETTINGS.read_text()
    for what, names in PATTERNS.items():
        assert f"| {what} | {', '.join(f'`{name}`' for name in names)} |" in text
