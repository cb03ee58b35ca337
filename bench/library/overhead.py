"""Measures the cost of the library in the built-in training loop, in percent of its step time.

The same loop runs in turns with the whole library and without it. On a machine whose step times
vary by a few percent, that only bounds the cost per step, so the calls are timed as well: the
result is the larger of their time and of the difference that the turns show beyond doubt. Rare
events are triggered at once and counted at their real rate: a checkpoint and plots every 1000
steps, from the step that starts them until the file is committed and the plots are drawn; the
configuration once per run.
"""

from __future__ import annotations

import io
import statistics
import tempfile
from collections.abc import Callable, Sequence
from contextlib import redirect_stdout, suppress
from itertools import pairwise
from pathlib import Path
from time import perf_counter
from typing import Any

from bench.report import Report, options, timed
from spectral_gpt.config import CheckpointConfig, ModelConfig, TrainConfig
from spectral_gpt.train import Trainer

_LOG, _RARE = 10, 1000  # steps: the intervals of the specification
_NEVER = 10**9
_RUN = TrainConfig().steps  # steps of a run, over which the configuration is spread


class _Off:
    """Replaces a part of the library: nothing is ever due."""

    def should_log(self, _: int) -> bool:
        """Never."""
        return False

    should_checkpoint = should_visualize = should_log


class _Pause(Exception):  # noqa: N818
    """Leaves the loop at a step boundary."""


class _Timed:
    """A part of the library that sums up how long its calls hold the loop."""

    def __init__(self, part: Any) -> None:
        self._part = part
        self.held = 0.0  # milliseconds

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._part, name)

        def timed_call(*arguments: Any, **named: Any) -> Any:
            start = perf_counter()
            try:
                return call(*arguments, **named)
            finally:
                self.held += (perf_counter() - start) * 1e3

        return timed_call


class Loop:
    """One training loop that runs with or without the library.

    A single one, since two loops differ by a few percent because of their memory layout.
    """

    def __init__(self, config: TrainConfig, directory: Path) -> None:
        self.held = 0.0  # milliseconds in calls of the library, in the last `steps`
        self.trainer = Trainer(config, directory)
        self._parts = {
            name: getattr(self.trainer, name) for name in ("metrics", "checkpoints", "plots")
        }

    def steps(
        self, first: int, least: int, *, library: bool, enough: Callable[[], bool] = lambda: True
    ) -> list[float]:
        """Milliseconds of at least `least` steps from `first` on, and more until `enough`."""
        timed_parts = {name: _Timed(part) for name, part in self._parts.items()}
        for name, part in timed_parts.items():
            setattr(self.trainer, name, part if library else _Off())
        moments: list[float] = []

        def boundary() -> bool:
            moments.append(perf_counter())
            if len(moments) > least and enough():
                raise _Pause
            return False

        self.trainer.start = first
        with suppress(_Pause):
            self.trainer.run(boundary)
        self.held = sum(part.held for part in timed_parts.values())
        return [(end - start) * 1e3 for start, end in pairwise(moments)]

    def idle(self) -> bool:
        """Whether nothing runs in the background."""
        save = self._parts["checkpoints"]._save
        drawn: bool = self._parts["plots"].wait(0)
        return drawn and (save is None or save.done)

    def save_config(self) -> None:
        """Write `config.json` again."""
        trainer = self.trainer
        trainer.tracker.save_config(trainer.config.to_dict(), trainer.model, trainer.corpus.info())

    def close(self) -> None:
        """Finish everything in progress."""
        for part in self._parts.values():
            part.close()


def main(argv: Sequence[str]) -> int:
    """Train with and without the library in turns; return 1 if the limit is exceeded."""
    usual = TrainConfig()
    parser = options(
        "overhead", pairs=20, events=6, batch=usual.batch_size, layers=usual.model.num_layers
    )
    arguments = parser.parse_args(argv)
    config = TrainConfig(
        model=ModelConfig(num_layers=arguments.layers),
        batch_size=arguments.batch,
        steps=_NEVER,
        log_every=_LOG,
        eval_every=_NEVER,
        plot_every=_RARE,
        checkpoint=CheckpointConfig(every_steps=_RARE),
    )
    report = Report("overhead", {**vars(arguments), "model": config.model.type})
    with tempfile.TemporaryDirectory() as directory, redirect_stdout(io.StringIO()):
        loop = Loop(config, Path(directory))
        saved = [timed(loop.save_config) for _ in range(3)]
        step, regular = _measure_regular(report, loop, arguments.pairs)
        rare = _measure_rare(report, loop, arguments.events)
        loop.close()
    once = report.add("configuration, once in a run", "ms", saved)
    shares = {
        f"every step and a row every {_LOG} steps": regular,
        f"a checkpoint and plots every {_RARE} steps": rare / _RARE,
        f"the configuration once in {_RUN} steps": once / _RUN,
    }
    report.notes += [f"{100 * share / step:8.3f} %  {name}" for name, share in shares.items()]
    # A negative cost is noise and must not offset another.
    total = sum(max(share, 0.0) for share in shares.values())
    report.bar("percent of step time", 100 * total / step, 1.0)
    return report.show(keep=arguments.keep)


def _measure_regular(report: Report, loop: Loop, pairs: int) -> tuple[float, float]:
    """The milliseconds of a step without the library, and the additional ones with it."""
    taken: dict[bool, list[float]] = {False: [], True: []}
    held: list[float] = []
    loop.steps(1, _LOG, library=True)  # to warm up
    for turn in range(pairs):
        for library in (False, True) if turn % 2 else (True, False):
            taken[library].append(sum(loop.steps(1 + turn * _LOG, _LOG, library=library)) / _LOG)
            if library:
                held.append(loop.held / _LOG)
    step = report.add(f"a step without the library, mean of {_LOG}", "ms", taken[False])
    report.add("a step with it, one of them with a row", "ms", taken[True])
    in_calls = report.add("of that in the library's calls", "ms", held)
    more = [ours - bare for ours, bare in zip(taken[True], taken[False], strict=True)]
    mean, error = statistics.fmean(more), statistics.stdev(more) / len(more) ** 0.5
    report.notes.append(f"turns: {mean:+.3g} ms a step with the library, ± {error:.3g} (one sigma)")
    return step, max(in_calls, mean - 2 * error)


def _measure_rare(report: Report, loop: Loop, events: int) -> float:
    """The milliseconds lost to a checkpoint and plots until both are finished."""
    lost = []
    for number in range(1, events + 1):
        # As long as it would be at this step, although earlier steps were skipped.
        loop.trainer.loss_history = [8 / (1 + step / 100) for step in range(number * _RARE)]
        first = number * _RARE
        bare = loop.steps(first, 2 * _LOG, library=False)
        event = loop.steps(first, _LOG, library=True, enough=loop.idle)
        bare += loop.steps(first, 2 * _LOG, library=False)
        lost.append(sum(event) - len(event) * statistics.median(bare))
    report.add("lost to the first checkpoint and plots", "ms", lost[:1])
    return report.add("lost to each further checkpoint and plots", "ms", lost[1:])
