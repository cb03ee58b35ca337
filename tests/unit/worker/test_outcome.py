"""What the end of a training process means."""

from __future__ import annotations

import pytest

from jobs.model.states import Reason
from worker.attempt.outcome import StopReason, grace, outcome

KILLED = "killed by the kernel: the machine or the container is out of memory"


@pytest.mark.parametrize(
    ("exit_code", "stop_reason", "zero_means_done", "reason"),
    [
        (0, None, False, Reason.COMPLETED),
        (0, StopReason.SHUTDOWN, True, Reason.COMPLETED),
        # A script that saves and exits with 0 on SIGTERM has not finished.
        (0, StopReason.SHUTDOWN, False, Reason.PREEMPTED),
        (143, StopReason.SHUTDOWN, True, Reason.PREEMPTED),
        (137, StopReason.PREEMPT, True, Reason.PREEMPTED),
        (143, StopReason.PAUSE, True, Reason.PAUSED),
        (143, StopReason.CANCEL, False, Reason.CANCELLED),
        (143, StopReason.STALL, True, Reason.STALLED),
        (143, StopReason.TIMEOUT, True, Reason.TIMEOUT),
        (143, StopReason.DIVERGED, True, Reason.DIVERGED),
        (0, StopReason.DIVERGED, True, Reason.DIVERGED),
        (0, StopReason.RESTARTED, True, Reason.ERROR),
        (143, None, True, Reason.ERROR),
        (1, None, True, Reason.ERROR),
    ],
)
def test_exit_code_and_intent_make_the_reason(
    exit_code: int, stop_reason: StopReason | None, zero_means_done: bool, reason: Reason
) -> None:
    assert outcome(exit_code, stop_reason, [], zero_means_done=zero_means_done).reason is reason


@pytest.mark.parametrize(
    "line",
    [
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.",
        "RuntimeError: [enforce fail at alloc_cpu.cpp:119] . DefaultCPUAllocator: can't "
        "allocate memory: Error code 12 (Cannot allocate memory)",
        "MemoryError",
        "numpy._core._exceptions._ArrayMemoryError: Unable to allocate 7.11 PiB for an array",
        "RuntimeError: CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "RuntimeError: cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "XlaRuntimeError: RESOURCE_EXHAUSTED: Out of memory while trying to allocate 8 bytes.",
    ],
)
def test_running_out_of_memory_is_told_from_a_bug(line: str) -> None:
    ended = outcome(1, None, ["Traceback ...", line], zero_means_done=True)
    assert ended.reason is Reason.OUT_OF_MEMORY
    assert ended.message == line.strip()


def test_the_line_that_says_so_is_the_message_whatever_is_printed_after_it() -> None:
    lines = ["Traceback (most recent call last):", "torch.OutOfMemoryError: CUDA out of memory.",
             "wandb: synced"]  # fmt: skip
    ended = outcome(1, None, lines, zero_means_done=True)
    assert (ended.reason, ended.message) == (
        Reason.OUT_OF_MEMORY, "torch.OutOfMemoryError: CUDA out of memory.",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        (["CUDA out of memory: going on with half the batch"], Reason.ERROR),
        (["MemoryError", "", "During handling of the above exception, another exception occurred:",
          ""], Reason.OUT_OF_MEMORY),
        (["MemoryError", "", "The above exception was the direct cause of the following exception:",
          ""], Reason.OUT_OF_MEMORY),
    ],
    ids=["survived", "while it was handled", "its cause"],
)  # fmt: skip
def test_memory_that_a_program_got_along_without_is_not_why_it_ended(
    between: list[str], reason: Reason
) -> None:
    traceback = "Traceback (most recent call last):"
    lines = [traceback, *between, traceback, "ValueError: no"]
    assert outcome(1, None, lines, zero_means_done=True).reason is reason


def test_an_error_says_how_it_ended_and_its_last_words() -> None:
    lines = [f"line {n}" for n in range(100)] + ["ValueError: no", ""]
    ended = outcome(1, None, lines, zero_means_done=True)
    assert ended.message == "exit code 1: ValueError: no"
    assert len(ended.log_tail) == 50
    assert outcome(139, None, [], zero_means_done=True).message == "killed by SIGSEGV: no output"


def test_only_a_machine_that_is_about_to_go_cuts_the_grace_for_the_upload() -> None:
    assert grace(StopReason.PAUSE, 60, last_upload=50) == 60
    assert grace(StopReason.SHUTDOWN, 60, last_upload=0) == 58
    assert grace(StopReason.SHUTDOWN, 60, last_upload=20) == 38
    assert grace(StopReason.SHUTDOWN, 60, last_upload=500) == 28, (
        "at least half of it is the child's"
    )
    assert grace(StopReason.SHUTDOWN, 4, last_upload=500) > 0


@pytest.mark.parametrize(
    ("stop_reason", "kept"),
    [
        (StopReason.STALL, 50),
        (StopReason.TIMEOUT, 50),
        (StopReason.DIVERGED, 50),
        (StopReason.SHUTDOWN, 0),
    ],
)
def test_what_went_wrong_keeps_the_last_lines_and_what_was_asked_for_does_not(
    stop_reason: StopReason, kept: int
) -> None:
    ended = outcome(143, stop_reason, ["line"] * 60, zero_means_done=True)
    assert len(ended.log_tail) == kept


@pytest.mark.parametrize("killed", [True, False])
def test_a_data_loader_that_the_kernel_killed_ran_out_of_memory(killed: bool) -> None:
    line = "RuntimeError: DataLoader worker (pid 4711) is killed by signal: Killed. "
    ended = outcome(1, None, [line], zero_means_done=True, out_of_memory=KILLED if killed else "")
    assert ended.reason is (Reason.OUT_OF_MEMORY if killed else Reason.ERROR)


TRACE = ["Traceback (most recent call last):", '  File "t.py", line 3, in f', "ValueError: real"]


def test_the_reason_is_the_exception_and_not_the_last_line() -> None:
    lines = [*TRACE, *("wandb: line" for _ in range(60)), "wandb: Find logs at: ./wandb"]
    ended = outcome(1, None, lines, zero_means_done=True)
    assert ended.message == "exit code 1: ValueError: real"
    assert len(ended.log_tail) == 50
    assert ended.log_tail[-1] == "wandb: Find logs at: ./wandb"


@pytest.mark.parametrize(
    "last",
    [
        "torch._inductor.exc.InductorError: InvalidCxxCompiler: No working C++ compiler found in "
        "torch._inductor.config.cpp.cxx: (None, 'g++')",
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable.",
    ],
)
def test_a_worker_without_a_compiler_says_where_to_get_one(last: str) -> None:
    lines = ["Traceback (most recent call last):", '  File "t.py", line 1, in <module>', last]
    ended = outcome(1, None, lines, zero_means_done=False)
    assert last in ended.message
    assert ended.message.endswith("install g++, or use the image spectrain-worker-devel")
    assert "g++" not in outcome(1, None, ["ValueError: no"], zero_means_done=False).message


@pytest.mark.parametrize("code", [129, 137, 143])
def test_what_others_print_is_not_why_a_program_was_killed(code: int) -> None:
    lines = [*TRACE[:2], "ConnectionResetError: [Errno 104] Connection reset by peer"]
    message = outcome(code, None, lines, zero_means_done=True).message
    assert message in {"killed by SIGHUP", "killed by SIGKILL", "killed by SIGTERM"}
    killed = outcome(137, None, lines, zero_means_done=True, out_of_memory=KILLED)
    assert (killed.reason, killed.message) == (Reason.OUT_OF_MEMORY, KILLED)
    assert "Connection" not in killed.message


def test_a_rank_that_the_kernel_killed_ran_out_of_memory() -> None:
    lines = [
        *TRACE[:2], "torch.elastic.ChildFailedError: ", "Root Cause (first observed failure):",
        "  rank      : 3 (local_rank: 3)", "  traceback : Signal 9 (SIGKILL) received by PID 12",
    ]  # fmt: skip
    ended = outcome(1, None, lines, zero_means_done=True, out_of_memory=KILLED)
    assert ended.reason is Reason.OUT_OF_MEMORY
    assert ended.message == "rank 3: Signal 9 (SIGKILL) received by PID 12"


def test_the_record_has_no_escape_codes() -> None:
    coloured = [*TRACE[:2], "\x1b[1;35mValueError\x1b[0m: \x1b[35mreal\x1b[0m\x1b]8;;a\x07\x07"]
    ended = outcome(1, None, coloured, zero_means_done=True)
    assert ended.message == "exit code 1: ValueError: real"
    assert "\x1b" not in "".join(ended.log_tail)
    assert outcome(1, None, ["\x1b[31mno data\x1b[0m"], zero_means_done=True).message == (
        "exit code 1: no data"
    )
