"""The commands `metrics` and `plot`: the curves of a run in a terminal."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Iterator, Sequence
from typing import Literal

import click
from pydantic import BaseModel
from rich.table import Table

from api.cli.base import as_json, cli, print_found
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_see, job_to_see
from api.client.client import Client
from api.render import console
from api.render.curves import plot as drawn
from api.render.curves import sparkline
from api.render.tables import number, table_of
from api.schemas import JobView, Series
from jobs.model.record import Real

_AT_ONCE = 32  # curves of one request
_POINTS = 24
_MOST = 200
_USUAL = "loss"
# Characters; on a terminal its own size counts.
_IN_A_PIPE = 80, 20


class Summary(BaseModel):
    """A metric in one line."""

    name: str
    rows: int
    last: Real
    min: Real
    max: Real
    curve: list[Real]

    @classmethod
    def of(cls, name: str, rows: int, series: Series) -> Summary:
        """The summary of a curve that has at least one bucket; min and max are finite if any is."""
        low = [value for value in series.min if math.isfinite(value)]
        high = [value for value in series.max if math.isfinite(value)]
        last = series.last[-1]
        return cls(
            name=name, rows=rows, last=last, min=min(low, default=last),
            max=max(high, default=last), curve=series.last,
        )  # fmt: skip


@cli.command()
@job_to_see()
@click.argument("names", metavar="[METRIC]...", nargs=-1,
                help="Metrics to show, or patterns such as 'val*'; by default all.")  # fmt: skip
@as_json
@click.pass_obj
def metrics(endpoint: Endpoint, job: str, names: tuple[str, ...], as_json: bool) -> None:
    """Show the metrics of a run, a line for each.

    Its last, smallest and largest value, and its curve.
    """
    with endpoint.client() as client:
        job_id = id_to_see(client, job)
        known = client.series(job_id).names
        wanted = [name for name in known if _is_wanted(name, names)]
        if len(wanted) > _MOST:
            click.echo(f"The first {_MOST} of {len(wanted)} metrics:", err=True)
        found = [
            Summary.of(name, known[name], series)
            for name, series in _series(client, job_id, wanted[:_MOST])
            if series.last
        ]
    print_found(found, _table, kind="metrics", as_json=as_json)


@cli.command()
@job_to_see()
@click.argument("names", metavar="[METRIC]...", nargs=-1,
                help=f"Metrics to draw; by default {_USUAL}, or the first one.")  # fmt: skip
@click.option("--log", "log_y", is_flag=True, help="Scale the values logarithmically.")
@click.option("--log-x", is_flag=True, help="Scale the x axis logarithmically.")
@click.option("--x", type=click.Choice(["step", "time", "tokens"]), default="step",
              show_default=True, help="Draw over this.")  # fmt: skip
@click.option("--from", "start", type=float, help="Begin at this x.")
@click.option("--to", "end", type=float, help="End at this x.")
@click.option("--width", type=click.IntRange(20, 1000), help="Set the width, characters.")
@click.option("--height", type=click.IntRange(3, 500), help="Set the height, lines.")
@click.pass_obj
def plot(
    endpoint: Endpoint, job: str, names: tuple[str, ...], log_y: bool, log_x: bool,
    x: Literal["step", "time", "tokens"], start: float | None, end: float | None,
    width: int | None, height: int | None,
) -> None:  # fmt: skip
    """Draw curves of a run in the terminal.

    Marks show where attempts began.
    """
    screen = console()
    usual = (screen.width, screen.height - 6) if screen.is_terminal else _IN_A_PIPE
    width, height = width or usual[0], height or min(usual[1], usual[0] // 3)
    with endpoint.client() as client:
        found = client.get(id_to_see(client, job))
        known = client.series(found.id).names
        wanted = _to_draw(found, known, names)
        page = client.series(found.id, wanted, x=x, between=(start, end), points=width * 2)
    curves = [(name, page.series[name]) for name in wanted if name in page.series]
    marks = _beginnings(found) if x == "step" else []
    picture = drawn(
        curves, width=width, height=height, x_name=_UNITS[x], log_x=log_x, log_y=log_y, marks=marks
    )
    screen.print(picture)


_UNITS = {"step": "step", "time": "seconds", "tokens": "tokens"}


def _is_wanted(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _series(client: Client, job_id: str, names: Sequence[str]) -> Iterator[tuple[str, Series]]:
    for start in range(0, len(names), _AT_ONCE):
        some = names[start : start + _AT_ONCE]
        found = client.series(job_id, some, points=_POINTS).series
        yield from ((name, found[name]) for name in some if name in found)


def _to_draw(job: JobView, known: dict[str, int], names: Sequence[str]) -> list[str]:
    """The metrics to draw; raises `ClickException` for what there is none of."""
    if not known:
        raise click.ClickException(f"{job.id} has logged no metrics yet.")
    if not names:
        return [_USUAL if _USUAL in known else next(iter(known))]
    wanted = [name for name in known if _is_wanted(name, names)]
    missing = [name for name in names if not any(fnmatch.fnmatchcase(one, name) for one in known)]
    if missing:
        raise click.ClickException(
            f"{job.id} has no metric {missing[0]!r}; it has {', '.join(list(known)[:20])}"
        )
    return wanted[:_AT_ONCE]


def _beginnings(job: JobView) -> list[float]:
    """The first steps of the attempts that went on with an earlier one."""
    return [one.first_step for one in job.attempts[1:] if one.first_step is not None]


def _table(found: Sequence[Summary]) -> Table:
    table = table_of("metric", "rows", "last", "min", "max", "curve", first_to_go=("rows", "curve"))
    for one in found:
        values = (number(value) for value in (one.last, one.min, one.max))
        table.add_row(one.name, str(one.rows), *values, sparkline(one.curve, _POINTS))
    return table
