"""What all commands do alike: short names, ids that begin with a dash, errors as sentences."""

from __future__ import annotations

import re
from enum import IntEnum
from typing import Any

import click

from api.client.transport import ClientError, SettingsRefusedError
from api.render.terminal import guarded_streams
from api.schemas import JOB_ID

ALIASES = {"ps": "ls", "stop": "cancel"}
_ID_WITH_DASH = re.compile(rf"(?=-){JOB_ID}")
# Stands before an id that begins with a dash while options are told from arguments.
_NO_OPTION = "\0"


class Exit(IntEnum):
    """The exit codes of all commands."""

    DONE = 0
    FAILED = 1
    WRONG_CALL = 2
    INTERRUPTED = 130


EXIT_CODES = {
    Exit.DONE: "The command has done what it says; a job that it waited for has succeeded.",
    Exit.FAILED: "The service refused, nobody answered in time, no job or several match the name, "
    "a file could not be read or written, or a job that the command waited for has not succeeded.",
    Exit.WRONG_CALL: "The command was called wrongly, or with settings that cannot be used. "
    "Nothing was done.",
    Exit.INTERRUPTED: "Ctrl-C. A job that the command waited for goes on.",
}


class _WrongCall(click.ClickException):
    exit_code = Exit.WRONG_CALL


class Command(click.Command):
    """A command whose arguments may begin with a dash, if they are ids of jobs."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parses the words behind the command's name."""
        words = [_NO_OPTION + word if _ID_WITH_DASH.fullmatch(word) else word for word in args]
        rest = super().parse_args(ctx, words)
        ctx.params = {name: _as_given(value) for name, value in ctx.params.items()}
        return rest


def _as_given(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(map(_as_given, value))
    return value.removeprefix(_NO_OPTION) if isinstance(value, str) else value


class Commands(click.Group):
    """The group of all commands; expected errors are one message on standard error."""

    command_class = Command
    group_class = type

    def main(self, *args: Any, **options: Any) -> Any:
        """Runs a command; what it prints has no escape codes but its own."""
        with guarded_streams():
            return super().main(*args, **options)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of a name, or of another name for it."""
        return super().get_command(ctx, ALIASES.get(cmd_name, cmd_name))

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command that was parsed."""
        try:
            return super().invoke(ctx)
        except (ClientError, OSError) as error:
            if isinstance(error, BrokenPipeError):
                raise
            wrong = isinstance(error, SettingsRefusedError)
            raise (_WrongCall if wrong else click.ClickException)(str(error)) from error
        except KeyboardInterrupt:
            click.echo(err=True)  # the terminal has shown ^C
            raise click.exceptions.Exit(Exit.INTERRUPTED) from None
