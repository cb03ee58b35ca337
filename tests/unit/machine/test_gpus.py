"""Which GPUs a process may use."""

from __future__ import annotations

import pytest

from machine.gpus import usable_gpus


@pytest.mark.parametrize(
    ("visible", "gpus"),
    [("", ()), ("-1", ()), ("0", ("0",)), ("2,GPU-7a", ("2", "GPU-7a")), ("0,-1,1", ("0",))],
)
def test_the_list_that_cuda_sees_is_the_list(
    visible: str, gpus: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert usable_gpus() == gpus
