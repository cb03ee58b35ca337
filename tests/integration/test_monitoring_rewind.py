"""Rows of a run that goes back again and again, killed at random, read by others meanwhile."""

import random
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import pytest

from monitoring import MetricsLogger
from tests.forked import Forked

KILLS = 3  # of each run
STEPS = 6000  # long enough that writing the files takes time


def train(directory: Path, number: int) -> NoReturn:
    """Trains from some step on, goes back to another, and so on, each row with its own number."""
    random.seed()
    logger = MetricsLogger(directory)
    print("at work", flush=True)
    while True:
        start = random.randrange(STEPS) - 1
        logger.rewind(start)
        for step in range(start + 1, STEPS):
            logger.log_metrics(step, {"number": number}, flush=step % 100 == 0)
            number += 1


def numbers(*files: Path) -> list[int]:
    """The numbers of all rows in these files, also of a last one that lacks its newline alone.

    Such a row is completed by the next logger.
    """
    text = b"\n".join(file.read_bytes() for file in files if file.exists())
    return [int(number) for number in re.findall(rb'"number": (\d+)}(?:\n|\Z)', text)]


@pytest.mark.parametrize(
    "seed", [*range(5), *(pytest.param(seed, marks=pytest.mark.thorough) for seed in range(5, 20))]
)
def test_no_row_is_lost_or_doubled_whenever_a_kill_comes_or_somebody_reads(
    tmp_path: Path, seed: int, wait_until: Callable[..., Any]
) -> None:
    logger = MetricsLogger(tmp_path)
    rows, superseded = logger.metrics_file, tmp_path / "metrics.superseded.jsonl"
    chance = random.Random(seed)
    missed: set[int] = set()
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            # In this order: a row may be moved between the two looks.
            seen = numbers(rows)
            missed.update({*range(max(seen, default=-1) + 1)} - {*seen, *numbers(superseded)})

    reader = threading.Thread(target=look)
    reader.start()
    try:
        count = 0
        for _ in range(KILLS):
            with Forked(partial(train, tmp_path, count)) as training:
                wait_until(lambda training=training: training.stdout)
                time.sleep(chance.uniform(0, 0.3))
            found = numbers(rows, superseded)
            count = max(found, default=-1) + 1
            assert {*found} == {*range(count)}, "a row is lost"
            logger.rewind(chance.randrange(STEPS))
            assert sorted(numbers(rows, superseded)) == [*range(count)], "lost or doubled"
    finally:
        done.set()
        reader.join()
    assert not missed, "somebody who read meanwhile missed rows"
