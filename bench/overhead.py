"""What the library costs the built-in training loop, in percent of its step time.

The loop itself runs in turns with all of the library and with none of it. Rare events are
brought about at once and counted at their real rate: a checkpoint and plots every 1000 steps,
from the step that starts them until the file is committed and the plots are drawn; the
configuration once in a run.
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

from bench.report import Report, options, timed
from spectral_gpt.config import CheckpointConfig, ModelConfig, TrainConfig
from spectral_gpt.train import Trainer

_LOG, _RARE = 10, 1000  # steps: the intervals of the specification
_NEVER = 10**9
_RUN = TrainConfig().steps  # steps of a run, over which the configuration is spread


class _Off:
    """In place of a part of the library: nothing is ever due."""

    def should_log(self, _: int) -> bool:
        """Never."""
        return False

    should_checkpoint = should_visualize = should_log


class _Pause(Exception):  # noqa: N818
    """Leaves the loop at a step boundary."""


def main(argv: Sequence[str]) -> int:
    """Train with and without the library in turns; 1 when the bar is broken."""
    parser = options("overhead", pairs=20, events=4, batch=4, layers=ModelConfig().num_layers)
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
        root = Path(directory)
        on, off = Trainer(config, root / "on"), Trainer(config, root / "off")
        for name in ("metrics", "checkpoints", "plots"):
            setattr(off, name, _Off())
        saved = [timed(lambda: _save_config(on)) for _ in range(3)]
        usual, regular = _measure_regular(report, on, off, arguments.pairs)
        rare = _measure_rare(report, on, off, arguments.events)
        for part in (on.metrics, on.checkpoints, on.plots):
            part.close()
    once = report.add("configuration, once in a run", "ms", saved)
    shares = {
        f"every step and a row every {_LOG} steps": regular,
        f"a checkpoint and plots every {_RARE} steps": rare / _RARE,
        f"the configuration once in {_RUN} steps": once / _RUN,
    }
    report.notes += [f"{100 * share / usual:8.3f} %  {name}" for name, share in shares.items()]
    # A gain is noise: it must not make up for a loss.
    total = sum(max(share, 0.0) for share in shares.values())
    report.bar("percent of step time", 100 * total / usual, 1.0)
    return report.show(keep=arguments.keep)


def _measure_regular(report: Report, on: Trainer, off: Trainer, pairs: int) -> tuple[float, float]:
    """Milliseconds of a step without the library, and how many more with it, on average."""
    without: list[float] = []
    plain: list[float] = []
    logged: list[float] = []
    for turn in range(-1, pairs):  # one turn to warm up
        first = 1 + (turn + 1) * _LOG
        bare, full = _steps(off, first, _LOG), _steps(on, first, _LOG)
        if turn >= 0:
            without += bare
            for step, taken in enumerate(full, start=first):
                (logged if step % _LOG == 0 else plain).append(taken)
    usual = report.add("a step without the library", "ms", without)
    ordinary = report.add("a step with it", "ms", plain)
    with_row = report.add("a step with it and a row", "ms", logged)
    return usual, ((_LOG - 1) * ordinary + with_row) / _LOG - usual


def _measure_rare(report: Report, on: Trainer, off: Trainer, events: int) -> float:
    """Milliseconds lost to a checkpoint and plots until both are finished."""
    lost = []
    for number in range(1, events + 1):
        # As long as they are at this step, whichever steps were left out on the way.
        on.loss_history = [8 / (1 + step / 100) for step in range(number * _RARE)]
        bare = _steps(off, number * _RARE, 2 * _LOG)
        event = _steps(on, number * _RARE, _LOG, lambda: _idle(on))
        bare += _steps(off, number * _RARE, 2 * _LOG)
        lost.append(sum(event) - len(event) * statistics.median(bare))
    report.add("lost to the first checkpoint and plots", "ms", lost[:1])
    return report.add("lost to each further checkpoint and plots", "ms", lost[1:])


def _steps(
    trainer: Trainer, first: int, least: int, enough: Callable[[], bool] = lambda: True
) -> list[float]:
    """Milliseconds of each step from `first` on: so many, and more until it is `enough`."""
    moments: list[float] = []

    def boundary() -> bool:
        moments.append(perf_counter())
        if len(moments) > least and enough():
            raise _Pause
        return False

    trainer.start = first
    with suppress(_Pause):
        trainer.run(boundary)
    return [(end - start) * 1e3 for start, end in pairwise(moments)]


def _idle(trainer: Trainer) -> bool:
    """Whether nothing goes on in the background."""
    save = trainer.checkpoints._save
    return (save is None or save.done) and trainer.plots.wait(0)


def _save_config(trainer: Trainer) -> None:
    trainer.tracker.save_config(trainer.config.to_dict(), trainer.model, trainer.corpus.info())
