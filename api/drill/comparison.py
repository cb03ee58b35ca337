"""Compares two runs: their metrics digit for digit, their weights bit for bit."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Any

from monitoring.checkpoints.torch_file import NoTorchFileError, Tensor, TorchFile
from monitoring.metrics.clocks import is_clock
from monitoring.paths import RunPaths, commit_record, step_of

# Random generators that a run does not seed differ in each process.
_RANDOM = "rng_state."
_LOSSES = "loss_history"


@dataclass(frozen=True)
class Comparison:
    """What was compared, and a message for each difference."""

    rows: int = 0
    metrics: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()
    curve: list[str] = field(default_factory=list)
    step: int | None = None
    tensors: int = 0
    weights: list[str] = field(default_factory=list)
    curve_step: int | None = None  # first step with another row

    @property
    def first_step(self) -> int | None:
        """The first step at which the runs differ, as far as it is known.

        Of weights that differ after the same curve, that of the checkpoint.
        """
        if self.curve:
            return self.curve_step
        return self.step if self.weights else None

    @property
    def identical(self) -> bool:
        """Whether something was compared and no difference was found."""
        return bool(self.rows and self.tensors) and not (self.curve or self.weights)


def compare(one: RunPaths, other: RunPaths) -> Comparison:
    """Compares two runs that have ended; `one` is the reference for `other`."""
    first, second = _rows(one.metrics), _rows(other.metrics)
    names = {name for row in (*first, *second) for name in row}
    ignored = {name for name in names if is_clock(name)}
    found = list(curve_differences(first, second, ignored))
    curve = [text for _, text in found]
    step = common_step(committed_steps(one), committed_steps(other))
    tensors, weights = 0, ["the runs have no checkpoint in common"]
    if step is not None:
        tensors, weights = weight_differences(one.checkpoint(step), other.checkpoint(step))
    return Comparison(
        rows=len(first),
        metrics=tuple(sorted(names - ignored - {"step"})),
        ignored=tuple(sorted(ignored)),
        curve=curve if first else ["the uninterrupted run logged no metrics", *curve],
        curve_step=next((at for at, _ in found), None),
        step=step,
        tensors=tensors,
        weights=weights,
    )


def common_step(one: set[int], other: set[int]) -> int | None:
    """The newest step for which both have a checkpoint."""
    return max(one & other, default=None)


def committed_steps(run: RunPaths) -> set[int]:
    """The steps that have a checkpoint with a commit record."""
    found = run.checkpoints.glob("*.pt")
    steps = {step_of(path) for path in found if commit_record(path).exists()}
    return {step for step in steps if step is not None}


def curve_differences(
    first: list[dict[str, Any]], second: list[dict[str, Any]], ignored: set[str]
) -> Iterator[tuple[int | None, str]]:
    """The differences between the rows of two runs, in order, each with its step if it has one."""
    for one, other in zip_longest(first, second):
        if one is None or other is None or one.get("step") != other.get("step"):
            steps = [row.get("step", "without a number") if row else None for row in (one, other)]
            here, there = ("no row" if step is None else f"step {step}" for step in steps)
            numbers = [row["step"] for row in (one, other) if row and _is_step(row.get("step"))]
            yield min(numbers, default=None), f"one run has {here} where the other has {there}"
            return  # every row after this one would differ
        for name in sorted((one.keys() | other.keys()) - ignored):
            if one.get(name) != other.get(name):
                text = f"step {one.get('step')}: {name} is {one.get(name)} and {other.get(name)}"
                yield one["step"] if _is_step(one.get("step")) else None, text


def _is_step(value: object) -> bool:
    return isinstance(value, int)


def weight_differences(one: Path, other: Path) -> tuple[int, list[str]]:
    """The number of compared tensors, and the differences between two checkpoint files.

    Compares weights, the optimiser state and every other tensor except the states of random
    generators, and the losses of all steps.
    """
    try:
        with TorchFile(one) as first, TorchFile(other) as second:
            here, there = _compared(first), _compared(second)
            found = [
                f"{name} is in only one of them" for name in sorted(here.keys() ^ there.keys())
            ]
            for name in here.keys() & there.keys():
                found.extend(_tensor_difference(name, first, here[name], second, there[name]))
            if _losses(first) != _losses(second):
                found.append("the losses of all steps (loss_history) differ")
    except NoTorchFileError as error:
        return 0, [str(error)]
    return len(here), sorted(found)


def _compared(file: TorchFile) -> dict[str, Tensor]:
    named = file.tensors().items()
    return {n: tensor for n, tensor in named if n != _LOSSES and not n.startswith(_RANDOM)}


def _losses(file: TorchFile) -> object:
    losses = file.content.get(_LOSSES) if isinstance(file.content, dict) else None
    if isinstance(losses, Tensor):
        return losses.form, b"".join(file.blocks(losses))
    return repr(losses)  # as text, where NaN equals NaN


def _tensor_difference(
    name: str, first: TorchFile, one: Tensor, second: TorchFile, other: Tensor
) -> Iterator[str]:
    if one.form != other.form:
        yield f"{name} is {one.dtype} {list(one.shape)} and {other.dtype} {list(other.shape)}"
        return
    bits = 0
    for here, there in zip_longest(first.blocks(one), second.blocks(other), fillvalue=b""):
        if here != there:
            # A block that only one file has counts as different in every bit.
            size = max(len(here), len(there))
            left, right = (int.from_bytes(block.ljust(size, b"\0")) for block in (here, there))
            bits += (left ^ right).bit_count() or 8 * abs(len(here) - len(there))
    if bits:
        yield f"{name} differs in {bits} {'bit' if bits == 1 else 'bits'}"


def _rows(path: Path) -> list[dict[str, Any]]:
    """The rows, with every number as it is written in the file."""
    if not path.exists():
        return []
    return [_row(line) for line in path.read_text(errors="replace").splitlines() if line]


def _row(line: str) -> dict[str, Any]:
    try:
        return dict(json.loads(line, parse_float=str, parse_constant=str))
    except (TypeError, ValueError):
        return {"invalid line": line}
