"""Makes an attempt ready for its program: its inputs, its environment, its setup.

Each may take hours, and prints. So the attempt is supervised meanwhile like a program, and its log
shows what happens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol, TypeVar

from jobs.model.record import Job
from jobs.model.spec import BASH
from jobs.model.states import Reason
from machine.ownership import give
from worker.attempt.context import WorkerContext
from worker.attempt.outcome import Outcome, outcome
from worker.attempt.preparation.inputs import AttemptInputs
from worker.attempt.reporting import Reporter
from worker.cache.cache import CacheFullError, Held, Unwanted
from worker.environment.build import Builder, BuildError, is_away, refusal
from worker.environment.layer import make_layer
from worker.environment.python import InterpreterError, Python
from worker.environment.requirements import RequirementsError, read_requirements
from worker.files.logs.output import last_lines, written
from worker.files.scratch import Scratch
from worker.launch.child import Child, Start, start_cold
from worker.launch.command import Launch
from worker.launch.prepare import CannotLaunchError, prepare

Result = TypeVar("Result")
_POLL_SECONDS = 0.2
_COMMAND_CHARS = 100
_INDEX_AWAY = "the package index could not be reached"


class Supervision(Protocol):
    """What the supervisor of the attempt does for its preparation."""

    def child(self, launch: Launch, start: Start | None = None) -> Child:
        """Starts a process of the attempt."""

    def until_ended(self, child: Child) -> int:
        """Supervises a process to its end; its exit code."""

    def meanwhile(self, action: Callable[[], Result]) -> Result:
        """Supervises the attempt while `action` runs; its result."""

    def say(self, line: str) -> None:
        """Adds a line to the log of the run."""


@dataclass(frozen=True)
class _FailedError(Exception):
    outcome: Outcome


class Preparation:
    """The preparation of one attempt; `code` is where its workspace is unpacked, if it has one.

    `wanted` says whether the attempt still goes on. What is held for it is let go by `close`.
    """

    def __init__(
        self,
        context: WorkerContext,
        job: Job,
        scratch: Scratch,
        *,
        code: Path | None,
        reporter: Reporter,
        wanted: Callable[[], bool],
    ) -> None:
        self._context = context
        self._job = job
        self._scratch = scratch
        self._code = code
        self._reporter = reporter
        self._wanted = wanted
        self._held: list[Held] = []

    def run(self, supervision: Supervision, *, resumed: bool) -> Launch | Outcome | None:
        """How to start the program, or why the attempt ends here; None: it was asked to stop.

        `resumed`: it has something to go on from. Raises `OSError` for a scratch disk that fails.
        """
        try:
            beneath = self._beneath()
            layered = beneath if self._is_layered else None
            launch = self._launch(layered, resumed)
            self._fetch_inputs(supervision)
            if layered is not None:
                self._environment(supervision, layered, launch)
            self._setup(supervision, launch)
        except (CannotLaunchError, InterpreterError) as error:
            return Outcome(Reason.ERROR, str(error), words=str(error))
        except CacheFullError as error:
            return Outcome(Reason.STORAGE, str(error))
        except _FailedError as failed:
            return failed.outcome if self._wanted() else None
        except Unwanted:
            return None
        return launch if self._wanted() else None

    def close(self) -> None:
        """Lets the cache remove what the attempt has used."""
        for held in self._held:
            held.close()

    # -- the interpreter ----------------------------------------------------------------------

    @property
    def _is_layered(self) -> bool:
        """Whether the attempt has a Python environment of its own, for what it installs."""
        return bool(self._job.spec.environment or self._job.spec.setup)

    def _beneath(self) -> Python:
        path = self._job.spec.python
        if path is None:
            return Python.of_this_process()
        return Python.at(path, {"PATH": str(Path(path).parent)}, self._context.rights.uid)

    def _launch(self, layered: Python | None, resumed: bool) -> Launch:
        """The launch of the program, whose environment is not there yet."""
        python, path = self._job.spec.python, self._scratch.environment
        programs = Path(python).parent if python is not None else None
        return prepare(
            self._job, self._scratch, self._context.slot, self._context.settings,
            resumed=resumed,
            programs=path / "bin" if layered is not None else programs,
            virtual_env=path if layered is not None else None,
            user=self._context.user,
        )  # fmt: skip

    # -- inputs -------------------------------------------------------------------------------

    def _fetch_inputs(self, supervision: Supervision) -> None:
        if not self._job.spec.inputs:
            return
        inputs = AttemptInputs(self._context, self._job, self._wanted, supervision.say)
        try:
            failure = supervision.meanwhile(partial(inputs.fetch, self._scratch.inputs))
        finally:
            self._held += inputs.held
            self._reporter.note(inputs.measures())
        if failure is not None:
            raise _FailedError(failure)

    # -- the environment ----------------------------------------------------------------------

    def _environment(self, supervision: Supervision, beneath: Python, launch: Launch) -> None:
        """Makes the attempt's layer, on top of the environment that it shares with other jobs.

        So what the attempt itself installs is its own.
        """
        if self._job.spec.environment is not None:
            begun = time.monotonic()
            try:
                beneath = self._shared(supervision, beneath, launch)
            finally:
                self._reporter.note({"environment_seconds": time.monotonic() - begun})
        layer = make_layer(self._scratch.environment, beneath)
        give(self._scratch.environment, self._scratch.owner)
        if self._job.spec.setup and beneath.version_of("pip") is None:
            self._succeed(
                supervision, replace(launch, command=[str(layer.executable), "-m", "ensurepip"]),
                "pip could not be installed",
            )  # fmt: skip

    def _shared(self, supervision: Supervision, beneath: Python, launch: Launch) -> Python:
        """The environment of the job's requirements."""
        assert self._job.spec.environment is not None  # noqa: S101
        path, begun = self._job.spec.environment.requirements, time.monotonic()
        if self._code is None:
            raise _FailedError(Outcome(Reason.ERROR, "environment needs a workspace",
                                       retryable=False))  # fmt: skip
        # The program's own variables for its threads and devices do no harm to an installation.
        run = partial(self._run_for_build, supervision)
        builder = Builder(beneath, launch.env, run, owner=self._context.rights.uid)
        try:
            requirements = read_requirements(self._code, path)
            used = supervision.meanwhile(
                lambda: builder.use(
                    self._context.cache,
                    requirements,
                    wanted=self._wanted,
                    on_wait=lambda: supervision.say(
                        f"environment of {path}: waits for another worker, which builds it"
                    ),
                    on_build=lambda: supervision.say(f"environment of {path}: is being built"),
                )
            )
        except RequirementsError as error:
            message = f"environment: {error}"
            raise _FailedError(Outcome(Reason.ERROR, message, retryable=False)) from None
        except BuildError as error:
            what = f"the environment of {path} could not be built"
            raise _FailedError(_failure(what, error.exit_code, error.lines)) from None
        if used is None:
            raise Unwanted
        held, python = used
        self._held.append(held)
        how = "built" if held.built else "from the cache of this machine"
        supervision.say(f"environment of {path}: {how} in {time.monotonic() - begun:.2f} s")
        return python

    def _run_for_build(
        self,
        supervision: Supervision,
        command: Sequence[str],
        env: Mapping[str, str],
        cwd: Path,
        inherited: Sequence[int],
    ) -> tuple[int, Sequence[str]]:
        """Runs a command of the build, in the thread that builds."""
        output, start = self._scratch.output, written(self._scratch.output)
        launch = Launch(list(command), dict(env), cwd)
        child = supervision.child(launch, partial(start_cold, inherited=inherited))
        try:
            while not child.wait(_POLL_SECONDS):
                if not self._wanted():
                    raise Unwanted
        finally:
            child.end()
        return child.exit_code or 0, last_lines(output, start)

    # -- setup --------------------------------------------------------------------------------

    def _setup(self, supervision: Supervision, launch: Launch) -> None:
        commands = self._job.spec.setup
        begun = time.monotonic()
        try:
            for number, command in enumerate(commands, start=1):
                supervision.say(f"setup {number} of {len(commands)}: {_short(command)}")
                what = f"setup command {number} ({_short(command)}) failed"
                self._succeed(supervision, replace(launch, command=[*BASH, command]), what)
        finally:
            if commands:
                self._reporter.note({"setup_seconds": time.monotonic() - begun})

    def _succeed(self, supervision: Supervision, launch: Launch, what: str) -> None:
        """Runs a command to its end; one that fails ends the attempt, with `what` as the reason."""
        start = written(self._scratch.output)
        child = supervision.child(launch)
        try:
            code = supervision.until_ended(child)
        finally:
            child.end()
        if not self._wanted():
            raise Unwanted
        if code != 0:
            raise _FailedError(_failure(what, code, last_lines(self._scratch.output, start)))


def _failure(what: str, exit_code: int, lines: Sequence[str]) -> Outcome:
    """The outcome of an attempt that could not be prepared.

    It would fail again, but for an index that is away for a while.
    """
    ended = outcome(exit_code, None, lines, zero_means_done=False)
    if why := refusal(lines):
        ended = replace(ended, message=f"exit code {exit_code}: {why}")
    if is_away(lines):
        return replace(ended, message=f"{what}: {_INDEX_AWAY}: {ended.message}", words=_INDEX_AWAY)
    return replace(ended, message=f"{what}: {ended.message}", retryable=False)


def _short(command: str) -> str:
    """The first line of a command, for a message."""
    line = command.strip().partition("\n")[0]
    return line if len(line) <= _COMMAND_CHARS else f"{line[: _COMMAND_CHARS - 1]}…"
