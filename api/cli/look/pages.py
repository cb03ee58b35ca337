"""The command `open`: the page of the service in a browser."""

from __future__ import annotations

import sys
import webbrowser
from urllib.parse import urlencode

import click

from api.cli.base import cli
from api.cli.shared.completion import JobId
from api.cli.shared.endpoint import Endpoint
from api.client.find import find_job
from api.client.transport import without_credentials


@cli.command("open")
@click.argument("job", metavar="[ID]", type=JobId(), required=False,
                help="The job's id, or a part of it; by default the page of all jobs.")  # fmt: skip
@click.option("--print", "only_print", is_flag=True, help="Print the URL and open nothing.")
@click.pass_obj
def open_page(endpoint: Endpoint, job: str | None, only_print: bool) -> None:
    """Open the page of a job, or that of all jobs, in a browser, and print its URL.

    In a pipe it prints the URL alone.
    """
    url = without_credentials(endpoint.url).rstrip("/") + "/"
    if job is not None:
        with endpoint.client() as client:
            url += "?" + urlencode({"view": "job", "id": find_job(client, job)})
    click.echo(url)
    if not only_print and sys.stdout.isatty() and not webbrowser.open(url):
        click.echo("No browser could be started here.", err=True)
