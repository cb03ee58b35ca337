"""The command `logs`: the output of a job, or the lines of it that somebody looks for."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable, Iterator

import click

from api.cli.base import cli
from api.cli.shared.durations import Duration
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_see, job_to_see
from api.render.terminal import print_output
from api.schemas import LogMatch
from jobs.model.record import Job
from jobs.model.states import RULES, Budget, State

_FAILURES = {
    reason
    for reason, rule in RULES.items()
    if rule.then is State.FAILED or rule.budget is not Budget.NOTHING
}


@cli.command()
@job_to_see()
@click.option("--follow", "-f", is_flag=True, help="Print new output until the job ends.")
@click.option(
    "--tail", "-n", type=click.IntRange(min=1, max=100_000), metavar="LINES",
    help="Print only the last lines.",
)  # fmt: skip
@click.option("--since", type=Duration(), help="Print only what came since: 30s, 10m, 2h, 1d.")
@click.option("--search", "-s", metavar="TEXT",
              help="Print only lines with this text, in upper or lower case.")  # fmt: skip
@click.option("--context", "-C", type=click.IntRange(0, 20), default=0, metavar="LINES",
              help="With --search, print so many lines before and after each.")  # fmt: skip
@click.option("--attempt", type=click.IntRange(min=1), help="Print only this attempt's output.")
@click.option(
    "--failed", is_flag=True, help="Print only the output of the last attempt that failed."
)
@click.option(
    "--rank", type=click.IntRange(min=0),
    help="Print only lines of this rank, which begin with `[rank1]:` or `[default1]:`.",
)  # fmt: skip
@click.pass_obj
def logs(
    endpoint: Endpoint, job: str, follow: bool, tail: int | None, since: float | None,
    search: str | None, context: int, attempt: int | None, failed: bool, rank: int | None,
) -> None:  # fmt: skip
    """Print the output of a job, each line with its attempt number.

    A terminal gets the colours of the output, and no other escape code of it; a pipe gets plain
    text. `torchrun --tee 3` puts the rank before each line.
    """
    if search is not None and follow:
        raise click.UsageError("--search looks at what there is: without --follow")
    if failed and attempt is not None:
        raise click.UsageError("give --failed or --attempt, not both")
    with endpoint.client(patient=follow) as client:
        job_id = id_to_see(client, job)
        if failed:
            attempt = _last_failed(client.get(job_id))
        start = None if since is None else time.time() - since
        if search is None:
            pieces = client.logs(
                job_id, attempt=attempt, rank=rank, tail=tail, since=start, follow=follow
            )
        else:
            matches = client.search_log(
                job_id, search, attempt=attempt, rank=rank, since=start, context=context
            )
            found = _found(matches)
            pieces = found if tail is None else iter(deque(found, maxlen=tail))
        print_output(pieces)


def _last_failed(job: Job) -> int:
    for attempt in reversed(job.attempts):
        if attempt.reason in _FAILURES:
            return attempt.number
    raise click.ClickException(f"No attempt of {job.id} has failed.")


def _found(matches: Iterable[LogMatch]) -> Iterator[str]:
    """Each line once, with those around it; `--` stands between parts of the log."""
    end: int | None = None  # offset after the last line that was printed
    for match in matches:
        start = match.offset - sum(map(_size, match.before))
        if end is not None and start > end and (match.before or match.after):
            yield "--\n"
        for line in (*match.before, match.text, *match.after):
            if end is None or start >= end:
                yield f"{line}\n"
                end = start + _size(line)
            start += _size(line)


def _size(line: str) -> int:
    return len(line.encode()) + 1
