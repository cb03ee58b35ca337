"""The command `submit`: a job from a file, from the words behind `--`, or from both."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from api.cli.base import as_json, cli, print_json
from api.cli.foreign import TELLING
from api.cli.jobs import exit_as, print_log
from api.cli.look.live import until_it_ends
from api.cli.planning import say_plan, say_translated, translated
from api.cli.shared.commands import Command
from api.cli.shared.endpoint import Endpoint
from api.client.workspaces import UNPACKED, source_of, try_workspace
from workspaces.archive import Packed
from workspaces.layout import bytes_text

_WORDS = "spectrain.words"
_SCRIPT = re.compile(r"\.(py|sh)$")


class _WithWords(Command):
    """A command that keeps what stands behind `--` as the words of a program."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        at = args.index("--") if "--" in args else len(args)
        ctx.meta[_WORDS] = args[at + 1 :]
        return super().parse_args(ctx, args[:at])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- COMMAND...]"]


@cli.command(cls=_WithWords)
@click.argument(
    "file", type=click.File("rb"), required=False,
    help="A job in YAML or JSON; - for standard input.",
)  # fmt: skip
@click.option(
    "--from", "foreign", type=click.File("rb"), metavar="FILE",
    help="Submit the task in this file of SkyPilot or dstack, translated.",
)  # fmt: skip
@click.option(
    "--workspace", "-w", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
    help="Send the files of DIR: they are the working directory of the job.",
)  # fmt: skip
@click.option("--name", help="Set the name; by default that of the script or of the directory.")
@click.option("--gpus", type=click.IntRange(min=0), help="Set the number of GPUs.")
@click.option(
    "--env", "-e", "variables", metavar="NAME=VALUE", multiple=True,
    help="Set an environment variable; may be repeated.",
)  # fmt: skip
@click.option(
    "--input", "-i", "inputs", metavar="NAME=URL", multiple=True,
    help="Fetch s3://..., https://... or file:///... to $SPECTRAIN_INPUTS/NAME; may be repeated.",
)  # fmt: skip
@click.option(
    "--dry-run", is_flag=True,
    help="Check the job and say what would become of it; with --from, print its job file too.",
)  # fmt: skip
@click.option(
    "--wait",
    is_flag=True,
    help="Show how it is until the job ends; exit 1 unless it succeeds.",
)
@click.option("--follow", "-f", is_flag=True, help="Like --wait, and print the output of the job.")
@as_json
@click.pass_context
def submit(
    ctx: click.Context, /, file: Any, foreign: Any, dry_run: bool, wait: bool, follow: bool,
    as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Submit the job in FILE, or one that runs COMMAND.

    Options and COMMAND replace what FILE says. `spectrain submit --workspace . -- python train.py`
    runs the script with the files beside it, on any worker.
    """
    from api.cli.spec_file import checked  # noqa: PLC0415 - see there

    words: list[str] = ctx.meta[_WORDS]
    data = _given(file, foreign, words)
    if isinstance(data, dict):
        data = _completed(data, words, _folder_of(file), **options)
    source = source_of(data) if isinstance(data, dict) else None
    job_data = checked(data if source is None else {**data, "workspace": UNPACKED}).model_dump(
        mode="json"
    )
    if source is not None:
        job_data["workspace"] = source.model_dump()
    endpoint: Endpoint = ctx.obj
    if dry_run:
        if source is not None:
            _say_packed(try_workspace(source))
        if foreign is None:
            say_plan(endpoint, job_data, as_json=as_json)
        else:
            say_translated(endpoint, data, job_data, as_json=as_json)
        return
    with endpoint.client(patient=wait or follow) as client:
        job = client.submit(job_data, on_packed=_say_packed, on_sent=_say_sent)
        if not as_json:
            click.echo(job.id)
        if follow:
            print_log(client, job.id, err=as_json)
            job = client.wait(job.id)
        elif wait:
            job = until_it_ends(client, job.id, stderr=True)
    if as_json:
        print_json(job)
    if wait or follow:
        exit_as(job)


def _given(file: Any, foreign: Any, words: Sequence[str]) -> Any:
    """What a file says, ours or another service's."""
    from api.cli.spec_file import read_data  # noqa: PLC0415 - see there

    if foreign is not None:
        if file is not None:
            raise click.UsageError("give FILE or --from, not both")
        return translated(read_data(foreign.read()), _name_of(foreign))
    if file is None:
        if not words:
            raise click.UsageError("give a FILE, or a COMMAND after --")
        return {}
    name = _name_of(file)
    if (script := _SCRIPT.search(name)) is not None:
        program = {"py": "python", "sh": "bash"}[script[1]]
        raise click.UsageError(
            f"{name} is no job: `spectrain submit --workspace . -- {program} {name}` runs it"
        )
    data = read_data(file.read())
    if isinstance(data, dict) and (theirs := TELLING & data.keys()):
        click.echo(
            f"{name} has the key {sorted(theirs)[0]}: a task of SkyPilot or dstack is "
            f"submitted by `spectrain submit --from {name}`",
            err=True,
        )
    return data


def _completed(
    data: Mapping[str, Any],
    words: Sequence[str],
    folder: Path,
    *,
    workspace: Path | None,
    name: str | None,
    gpus: int | None,
    variables: Sequence[str],
    inputs: Sequence[str],
) -> dict[str, Any]:
    """What a file says, with what the command line says in its place."""
    new = dict(data)
    given = new.get("workspace")
    if isinstance(given, str):
        given = {"path": given}
    if isinstance(given, dict) and isinstance(given.get("path"), str):
        given = {**given, "path": str(folder / Path(given["path"]).expanduser())}
        new["workspace"] = given
    if workspace is not None:
        others = given if isinstance(given, dict) and "sha256" not in given else {}
        new["workspace"] = {**others, "path": str(workspace)}
    if words:
        new.pop("run", None)
        new["command"] = list(words)
        if new.get("workspace") is None and (script := _script_here(words)) is not None:
            raise click.UsageError(
                f"{script} is here, and not on the worker: `--workspace .` sends this directory"
            )
    if gpus is not None:
        new["resources"] = {**_mapping(new, "resources"), "gpus": gpus}
    if variables:
        new["env"] = {**_mapping(new, "env"), **dict(_pair(text, "--env") for text in variables)}
    if inputs:
        given = dict(_pair(text, "--input") for text in inputs)
        new["inputs"] = {**_mapping(new, "inputs"), **given}
    if named := name or new.get("name") or _derived_name(new):
        new["name"] = named
    return new


def _mapping(data: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    """A section of the file; nothing for what is no section, which the option replaces."""
    found = data.get(key)
    return found if isinstance(found, dict) else {}


def _pair(text: str, option: str) -> tuple[str, str]:
    name, sign, value = text.partition("=")
    if not sign:
        raise click.BadParameter(f"{text!r} is not of the form NAME=VALUE", param_hint=option)
    return name, value


def _folder_of(file: Any) -> Path:
    """The directory that a file's paths are relative to."""
    name = _name_of(file)
    return Path() if name == "-" else Path(name).parent


def _name_of(file: Any) -> str:
    """The name of a file; `-` for standard input."""
    name = getattr(file, "name", "-")
    return name if isinstance(name, str) and name != "<stdin>" else "-"


def _script_here(words: Sequence[str]) -> str | None:
    """The first word that names a script of the present directory, by a relative path."""
    for word in words:
        if word.startswith(("-", "/")):
            continue
        if (_SCRIPT.search(word) or (word is words[0] and "/" in word)) and Path(word).is_file():
            return word
    return None


def _derived_name(data: Mapping[str, Any]) -> str:
    """A name by the script, the module or the directory; '' if there is none."""
    command, workspace = data.get("command"), data.get("workspace")
    words = [str(word) for word in command] if isinstance(command, list) else []
    names = [Path(word).stem for word in words if _SCRIPT.search(word)]
    if "-m" in words[:-1]:
        names.append(words[words.index("-m") + 1].rpartition(".")[2])
    if isinstance(workspace, dict) and isinstance(workspace.get("path"), str):
        names.append(Path(workspace["path"]).resolve().name)
    names += [Path(word).name for word in words[:1]]
    usable = (re.sub(r"[^a-z0-9_-]+", "-", name.lower()).strip("-")[:63] for name in names)
    return next(filter(None, usable), "")


def _say_packed(packed: Packed) -> None:
    click.echo(str(packed), err=True)
    for note in packed.notes:
        click.echo(f"  {note}", err=True)


def _say_sent(sent: int, size: int) -> None:
    """Says how far a large workspace is; one that is sent at once needs no word."""
    if sent < size:
        click.echo(f"  sent {bytes_text(sent)} of {bytes_text(size)}", err=True)
