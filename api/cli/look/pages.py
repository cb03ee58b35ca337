"""The command `open`: the page of the service in a browser."""

from __future__ import annotations

import sys
import webbrowser
from urllib.parse import urlencode

import click

from api.cli.base import cli
from api.cli.shared.endpoint import Endpoint
from api.cli.shared.which_job import id_to_see, job_to_see
from api.client.transport import without_credentials


@cli.command("open")
@job_to_see(required=False, otherwise=" By default the page of all jobs.")
@click.option("--print", "only_print", is_flag=True, help="Print the URL and open nothing.")
@click.pass_obj
def open_page(endpoint: Endpoint, job: str | None, only_print: bool) -> None:
    """Open the page of a job, or of all jobs, in a browser.

    It prints the URL too. In a pipe it prints the URL alone.
    """
    url = without_credentials(endpoint.url).rstrip("/") + "/"
    if job is not None:
        with endpoint.client() as client:
            url += "?" + urlencode({"view": "job", "id": id_to_see(client, job)})
    click.echo(url)
    if not only_print and sys.stdout.isatty() and not webbrowser.open(url):
        click.echo("No browser could be started here.", err=True)
