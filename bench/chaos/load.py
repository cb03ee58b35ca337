"""The jobs of a chaos run: submits each at its time and follows them through the API."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass

from api.client.client import ApiError, Client, Unreachable
from bench.chaos.schedule import Submission
from jobs.model.record import Progress
from jobs.model.spec import JobSpec, Retry
from jobs.model.workers import WorkerState
from workload.settings import CheckpointConfig, LossConfig, ModelConfig, OptimizerConfig, TrainSpec

_POLL_SECONDS = 0.5
_TIMEOUT_SECONDS = 5.0
_PATIENCE_SECONDS = 120.0  # without an answer of the API


def specifications(steps: int) -> list[JobSpec]:
    """The distinct specifications, each of about `steps` steps.

    They use dropout, whose random numbers a resumed run must not repeat.
    """
    small = {"d_model": 16, "num_layers": 1, "num_heads": 2, "block_size": 16, "dropout": 0.1}
    kinds = [
        ("wave", "rgd", "qfe", steps),
        ("standard", "adamw", "ce", steps * 6 // 5),
        ("wave", "adamw", "ce", steps * 4 // 5),
    ]
    return [
        JobSpec(
            name=f"chaos-{number}",
            train=TrainSpec(
                model=ModelConfig.model_validate(
                    {"type": model, "num_waves": 2, "num_harmonics": 2, **small}
                ),
                optimizer=OptimizerConfig.model_validate({"name": optimizer, "warmup_steps": 50}),
                loss=LossConfig.model_validate({"name": loss}),
                steps=length,
                seed=number,
                batch_size=8,
                log_every=5,
                eval_every=max(1, length // 3),
                eval_batches=2,
                plot_every=0 if number else 10 * length,
                sample_tokens=8,
            ),
            checkpoint=CheckpointConfig(every_steps=25, every_seconds=None, keep_last=2),
            # Random strikes may hit one job again and again: the retry budgets are not under test.
            retry=Retry(
                max_failures=1000, max_no_progress=1000, backoff_seconds=0.5, out_of_memory=True
            ),
        )
        for number, (model, optimizer, loss, length) in enumerate(kinds)
    ]


@dataclass(frozen=True)
class Accepted:
    """A job that the service accepted: its id and the index of its specification."""

    id: str
    kind: int


class Load:
    """Submits jobs in a thread of its own, so that no slow answer delays a strike."""

    def __init__(
        self, url: str, specs: Sequence[JobSpec], submissions: Sequence[Submission]
    ) -> None:
        self._client = Client(url, timeout=_TIMEOUT_SECONDS, patience=_PATIENCE_SECONDS)
        self._specs = specs
        self._left = list(submissions)
        self._thread = threading.Thread(target=self._run, name="load", daemon=True)
        self._stopping = threading.Event()
        self._seen: list[tuple[str, str, int, Progress | None]] = []
        self._idle_since: dict[str, float] = {}  # of workers while jobs wait
        self.accepted: list[Accepted] = []
        self.progress_at = time.monotonic()  # when a job was last seen to make progress
        self.idle_beside_work = 0.0  # longest time that an idle worker left a job waiting, seconds
        self.done = False
        self.error: Exception | None = None

    def start(self) -> None:
        """Starts the clock and the thread."""
        self._begun = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread."""
        self._stopping.set()
        self._thread.join()
        self._client.close()

    def _run(self) -> None:
        try:
            while not self.done and not self._stopping.wait(_POLL_SECONDS):
                self._submit_due()
                self._poll()
        except (ApiError, Unreachable) as error:
            self.error = error

    def _submit_due(self) -> None:
        while self._left and time.monotonic() - self._begun >= self._left[0].at:
            next_one = self._left.pop(0)
            spec = self._specs[next_one.kind].model_copy(update={"priority": next_one.priority})
            self.accepted.append(Accepted(self._client.submit(spec).id, next_one.kind))

    def _poll(self) -> None:
        ours = {accepted.id for accepted in self.accepted}
        jobs = [job for job in self._client.list(limit=None) if job.id in ours]
        seen = [(j.id, str(j.state), j.attempt, j.progress) for j in jobs]
        if seen != self._seen:
            self._seen, self.progress_at = seen, time.monotonic()
        self._note_idle()
        self.done = not self._left and all(job.state.is_final for job in jobs)

    def _note_idle(self) -> None:
        """Updates how long a worker, idle by the registry, has left a runnable job waiting."""
        now = time.monotonic()
        waiting = any(pool.queued for pool in self._client.pools())
        idle = [w.name for w in self._client.workers() if w.state is WorkerState.IDLE]
        self._idle_since = {name: self._idle_since.get(name, now) for name in idle if waiting}
        longest = max((now - since for since in self._idle_since.values()), default=0.0)
        self.idle_beside_work = max(self.idle_beside_work, longest)
