"""The door to the terminal: what a job has written passes it without what would act on it.

A log, a message, a name or a label may hold escape codes, which move the cursor, change the title
or write to the clipboard of the person who reads them. Everything that a command prints goes
through a guarded stream or through `console()`.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, TextIO, cast

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from machine.text import coloured, plain

_TRAILING = re.compile(r" +$", re.MULTILINE)
# The end of a piece of text within which an escape code may begin.
_PERHAPS_A_CODE = re.compile(r"[\x1b\x9b][^\n]{0,200}\Z")
_RESET = "\x1b[0m"
# Wide enough that no line is folded in a pipe.
_PIPE_WIDTH = 10_000


class Guarded:
    """A text stream that writes plain text, without escape codes and control characters."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        """Writes what is plain of a text."""
        self.stream.write(plain(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Writes what is plain of several texts."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


class _InAPipe(Guarded):
    """Writes plain text without spaces at the ends of lines."""

    def write(self, text: str) -> int:
        """Writes lines; a console writes whole ones."""
        self.stream.write(_TRAILING.sub("", plain(text)))
        return len(text)

    def isatty(self) -> bool:
        """Whether it is a terminal: never."""
        return False


@contextlib.contextmanager
def guarded_streams() -> Iterator[None]:
    """Standard output and error are guarded within the block."""
    before = sys.stdout, sys.stderr
    for stream in map(_behind, before):
        # What the encoding of a terminal lacks is no reason to stop.
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
    guarded = [cast(TextIO, Guarded(_behind(stream))) for stream in before]
    sys.stdout, sys.stderr = guarded
    try:
        yield
    finally:
        # A stream that something else has replaced meanwhile, after a broken pipe, stays.
        if sys.stdout is guarded[0]:
            sys.stdout = before[0]
        if sys.stderr is guarded[1]:
            sys.stderr = before[1]


def console(*, soft_wrap: bool = False, stderr: bool = False) -> Console:
    """A console for standard output or error; in a pipe it writes plain text in whole lines.

    Plain: without escape codes, also those of a job's own texts, and spaces at the ends of lines.
    On a terminal its own colours and moves are the only ones.
    """
    stream = _behind(sys.stderr if stderr else sys.stdout)
    if stream.isatty():
        return _Console(file=stream, **_AS_IT_IS, soft_wrap=soft_wrap)
    return _Console(
        file=cast(TextIO, _InAPipe(stream)),
        force_terminal=False,
        **_AS_IT_IS,
        soft_wrap=soft_wrap,
        width=_PIPE_WIDTH,
    )


def heading(number: int, text: str) -> Text:
    """The heading of a step of several."""
    return Text.assemble((f"{number}.", "bold"), f" {text}")


# No part of a text is a tag or a name of a picture.
_AS_IT_IS: dict[str, Any] = {"highlight": False, "markup": False, "emoji": False}


class _Console(Console):
    """Writes texts without escape codes; what it adds by itself is kept."""

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        """The parts of something, with plain texts."""
        for part in super().render(renderable, options):
            if part.control or part.text.isprintable() or part.text == "\n":
                yield part
            else:
                yield Segment(plain(part.text), part.style)


def print_output(pieces: Iterable[str], *, stderr: bool = False) -> None:
    """Prints the output of a program; of its escape codes a terminal gets the colours alone."""
    stream = _behind(sys.stderr if stderr else sys.stdout)
    in_colour = stream.isatty() and not os.environ.get("NO_COLOR")
    clean = coloured if in_colour else plain
    was_coloured = False
    try:
        for text in _with_whole_codes(pieces):
            shown = clean(text)
            was_coloured |= "\x1b" in shown
            stream.write(shown)
            stream.flush()
    finally:
        if was_coloured:
            stream.write(_RESET)
            stream.flush()


def _with_whole_codes(pieces: Iterable[str]) -> Iterator[str]:
    """The text in pieces that do not end within an escape code."""
    rest = ""
    for piece in pieces:
        text = rest + piece
        held = _PERHAPS_A_CODE.search(text)
        end = held.start() if held else len(text)
        rest = text[end:]
        yield text[:end]
    yield rest


def _behind(stream: TextIO) -> TextIO:
    """The stream itself, without a guard."""
    return stream.stream if isinstance(stream, Guarded) else stream
