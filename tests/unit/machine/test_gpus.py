"""Which GPUs a process may use."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from machine.gpus import usable_gpus

SMI = """#!/bin/sh
echo '0, GPU-aaaa, [N/A]'
echo '1, GPU-bbbb, Disabled'
echo '2, GPU-cccc, Enabled'
"""


@pytest.fixture
def nvidia_smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nvidia-smi").write_text(SMI)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("", ()), ("-1", ()), ("0", ("0",)), ("2,GPU-7a", ("2", "GPU-7a")), ("0,-1,1", ("0",)),
     ("NoDevFiles", ()), ("none", ()), ("void", ()), ("1,none", ("1",))],
)  # fmt: skip
def test_the_list_that_cuda_sees_is_the_list(
    visible: str, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "/none")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert usable_gpus() == gpus


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [(None, ("GPU-aaaa", "GPU-bbbb", "2")), ("1,0", ("GPU-bbbb", "GPU-aaaa")), ("7", ("7",)),
     ("GPU-7a,1", ("GPU-7a", "GPU-bbbb")), ("2", ("2",)), ("NoDevFiles", ())],
)  # fmt: skip
def test_a_gpu_goes_by_its_uuid_where_that_can_be_had(
    visible: str | None, gpus: tuple[str, ...], nvidia_smi: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_DEVICE_ORDER", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert usable_gpus() == gpus


def test_a_driver_that_knows_no_uuid_names_the_indices(
    nvidia_smi: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "nvidia-smi").write_text(
        '#!/bin/sh\ncase "$*" in *mig*) exit 2;; esac\necho 0\necho 1\n'
    )
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert usable_gpus() == ("0", "1")


def test_an_index_in_another_order_stays_as_it_is(
    nvidia_smi: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert usable_gpus() == ("1",)
