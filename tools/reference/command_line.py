"""docs/reference/command-line.md: every command, argument and option of `spectrain`, from click."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import click

from api.cli.main import cli
from api.cli.shared.commands import EXIT_CODES
from tools.reference.markdown import code, document, sentence, table


def commands() -> Iterator[tuple[str, click.Command]]:
    """Every command with its full name, groups first."""
    yield from _walk("spectrain", cli)


def _walk(name: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        for one, inner in sorted(command.commands.items()):
            yield from _walk(f"{name} {one}", inner)


def block() -> str:
    """What the page says below its introduction."""
    found = list(commands())
    index = table(
        ["command", "what it does"],
        (
            [f"[{code(name)}](#{name.replace(' ', '-')})", _help(command).partition("\n")[0]]
            for name, command in found
        ),
    )
    sections = [part for name, command in found for part in _section(name, command)]
    codes = table(
        ["exit code", "what it says"],
        ([code(int(number)), about] for number, about in EXIT_CODES.items()),
    )
    return document(index, "## Exit codes", codes, *sections)


def _help(command: click.Command) -> str:
    return sentence(inspect.cleandoc(command.help or ""))


def _section(name: str, command: click.Command) -> Iterator[str]:
    yield f"## {name}"
    yield _help(command)
    context = click.Context(command, info_name=name)
    usage = " ".join(command.collect_usage_pieces(context))
    yield f"```\n{name} {usage}\n```"
    arguments = [one for one in command.params if isinstance(one, click.Argument)]
    if arguments:
        yield table(
            ["argument", "what it is"],
            ([code(one.human_readable_name), sentence(one.help or "")] for one in arguments),
        )
    options = [one for one in command.params if isinstance(one, click.Option) and not one.hidden]
    if options:
        yield table(
            ["option", "default", "what it does"], (_option(one, context) for one in options)
        )


def _option(option: click.Option, context: click.Context) -> list[str]:
    names = ", ".join(code(name) for name in [*option.opts, *option.secondary_opts])
    if not option.is_flag:
        names += f" {code(option.make_metavar(context).removesuffix(' RANGE'))}"
    variable = f"Environment: {code(option.envvar)}." if isinstance(option.envvar, str) else ""
    about = [sentence(option.help or ""), _range(option.type), variable]
    return [names, _default(option), " ".join(filter(None, about))]


def _range(kind: object) -> str:
    if not isinstance(kind, click.IntRange | click.FloatRange):
        return ""
    if kind.min is not None and kind.max is not None:
        return f"From {kind.min} to {kind.max}."
    if kind.min is not None:
        return f"{'Greater than' if kind.min_open else 'At least'} {kind.min}."
    return ""


def _default(option: click.Option) -> str:
    default = option.to_info_dict()["default"]
    if option.is_flag or default is None or option.multiple:
        return ""
    return "" if "Sentinel" in repr(default) else code(default)
