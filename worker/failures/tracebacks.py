"""Finds the tracebacks and other last words in the output of a program, without I/O.

A traceback is a header, frames and an exception. Launchers print those of several processes, and
mark each line; the mark is whatever stands before the header and the frames below it. All is one
pass over the lines, and looks at each a fixed number of times.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto

_HEADER_WORDS = "Traceback (most recent call last)"
_HEADER = re.compile(
    r"(?P<mark>.{0,120}?)(?P<indent>[\s|+│─╭-]*)(?:traceback : |Original |Exception Group )?"
    r"Traceback \(most recent call last\):?(?P<box>[ ─╮+-]*)$"
)
# A crash lists its frames (faulthandler) in the opposite order, as `line 3 in f`.
_FRAME = re.compile(r'(?P<indent>[\s|]*)File "[^"]*", line \d+(?:, in .*)?$')
_EXCEPTION = re.compile(
    r"(?P<type>(?:[^\W\d]\w*|<locals>)(?:\.(?:[^\W\d]\w*|<locals>))*(?:\(\w+\))?)(?::(?:\s.*)?)?$"
)
_UNPARSED = ("SyntaxError", "IndentationError", "TabError")  # have frames without a header
_LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)
_MEMBER = re.compile(r"[ |]*(?:\+-)?\+-+ \d+ -+$")  # of an exception group
# What other runtimes print in place of a traceback.
_CRASH = re.compile(
    r"terminate called (?:after throwing|without|recursively)|Fatal Python error: |panic: "
    r"|thread '.*' panicked at |Exception in thread \"|(?:\S+: )*(?:line \d+: +)?\d* *"
    r"(?:Segmentation fault|Bus error|Illegal instruction|Floating point exception|Aborted)\b"
)
# Python goes on after the exceptions that these lines announce.
_WEAK = re.compile(
    r"Exception ignored |--- Logging error ---|Error in atexit|Exception in thread "
    r"|Task exception was never retrieved|future: <Task |exception calling callback"
)
_PROCESS = re.compile(r"Process (\S+):$")  # of multiprocessing
_BOX = ("│", "|", "╭", "╰", "+-")

_MARKS = 64  # processes that are told apart
_MARKED_WITHIN = 64  # lines in which the next line of a marked traceback follows
_NOISE = 20  # lines of others between the frames of a traceback
_LINE_CHARS = 2000
_TEXT_CHARS = 500
_MORE_LINES = 3  # of a message


@dataclass
class Traceback:
    """The exceptions of a traceback, root cause first, and the lines that it takes.

    `mark` tells its process from others. The program goes on after a `weak` one. A `crash` is the
    message of a runtime, not of Python.
    """

    mark: str
    start: int
    end: int
    exceptions: list[str] = field(default_factory=list)
    weak: bool = False
    crash: bool = False

    @property
    def cause(self) -> str:
        """The root cause: its type and message."""
        return self.exceptions[0]


def tracebacks(lines: Sequence[str]) -> list[Traceback]:
    """The tracebacks and crashes in `lines`, in the order of their ends."""
    lines = [line[:_LINE_CHARS].rstrip() for line in lines]
    streams: dict[str, _Stream] = {}
    for number, (mark, line) in enumerate(_marked(lines)):
        if mark not in streams:
            streams[mark] = _Stream(mark)
        streams[mark].take(number, line)
    found = [one for stream in streams.values() for one in stream.found if one.exceptions]
    return sorted(found, key=lambda one: (one.end, one.start))


def _marked(lines: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Each line as the mark of its process and the rest."""
    marks = sorted(_marks(lines), key=len, reverse=True)
    pattern = re.compile("|".join(map(re.escape, marks)))
    for line in lines:
        match = pattern.match(line) if marks else None
        yield (match[0], line[match.end() :]) if match else ("", line)


def _marks(lines: Sequence[str]) -> set[str]:
    """The marks before headers that the lines of their tracebacks have too."""
    found: set[str] = set()
    for number, line in enumerate(lines):
        header = _HEADER.match(line) if _HEADER_WORDS in line else None
        if header is None or not header["mark"] or len(found) == _MARKS:
            continue
        mark = header["mark"] + (" " if header["indent"].startswith(" ") else "")
        following = lines[number + 1 : number + 1 + _MARKED_WITHIN]
        rests = (one.removeprefix(mark) for one in following if one.startswith(mark))
        if mark in found or any(_FRAME.match(rest) or rest.startswith(_BOX) for rest in rests):
            found.add(mark)
    return found


class _At(Enum):
    OUTSIDE = auto()
    FRAMES = auto()
    MESSAGE = auto()


class _Stream:
    """The output of one process, or of all without a mark, line by line."""

    def __init__(self, mark: str) -> None:
        self.found: list[Traceback] = []
        self._mark = mark
        self._at = _At.OUTSIDE
        self._before = ""  # the last line with text outside of a traceback
        self._prefix = ""  # of each line of an exception group
        self._boxed = self._bare = self._linked = False
        self._depth = 0  # of the exception group, 0 outside of one
        self._place: int | None = None  # of the next exception among those found; None: nowhere
        self._noise = self._more = 0

    def take(self, number: int, line: str) -> None:
        """Reads the next line."""
        header = _HEADER.match(line) if _HEADER_WORDS in line else None
        if header is not None:
            self._boxed = bool(header["box"].strip())
            indent = "" if self._boxed or header["mark"] else header["indent"]
            self._begin(number, indent.replace("+", "|"), bare=False)
        elif self._depth and _MEMBER.match(line):
            self._begin(number, " " * line.rindex("+-") + "| ", bare=False)
        elif self._at is not _At.FRAMES and 'File "' in line and (frame := _FRAME.match(line)):
            self._begin(number, frame["indent"][:-2], bare=True)
        elif self._at is _At.FRAMES:
            self._take_frame(number, line)
        else:
            self._take_other(number, line)

    def _begin(self, number: int, prefix: str, *, bare: bool) -> None:
        """A traceback begins, or goes on with the next exception of a chain or a group."""
        inside = self._depth > 0 and "|" in prefix
        if self._at is _At.FRAMES and inside and prefix == self._prefix:
            return  # the header below the number of a member
        if inside:
            deeper = len(prefix) > self._depth
            self._depth = max(self._depth, len(prefix))
            self._place = 0 if deeper else None
        elif self._linked and self.found:
            self._place = len(self.found[-1].exceptions)
        else:
            process = _PROCESS.match(self._before)
            mark = process[1] if process and not self._mark else self._mark
            weak = _WEAK.match(self._before) is not None
            self.found.append(Traceback(mark, number, number, weak=weak))
            self._place = 0
        if not inside:
            self._depth = len(prefix) if "|" in prefix else 0
        self._at, self._prefix, self._bare = _At.FRAMES, prefix, bare
        self._noise, self._linked, self._before = 0, False, ""

    def _take_frame(self, number: int, line: str) -> None:
        text = line.removeprefix(self._prefix)
        if not text or text[0] in " \t" or (self._boxed and text.startswith(_BOX)):
            return
        match = _EXCEPTION.match(text)
        if match and _is_type(match["type"]) and (not self._bare or match["type"] in _UNPARSED):
            current = self.found[-1]
            current.end = number
            if self._place is not None:
                current.exceptions.insert(self._place, text[:_TEXT_CHARS])
            self._at, self._more, self._boxed = _At.MESSAGE, _MORE_LINES, False
            return
        self._noise += 1
        if self._noise > _NOISE or self._bare:
            self._at = _At.OUTSIDE

    def _take_other(self, number: int, line: str) -> None:
        text = line.removeprefix(self._prefix)
        if not text.strip():
            if self._at is _At.MESSAGE and not self._is_open_ended():
                self._at = _At.OUTSIDE
            return
        if text in _LINKS:
            self._linked, self._at = bool(self.found), _At.OUTSIDE
        elif self._at is _At.MESSAGE and self._more and self._goes_on(text):
            self._add(number, text.strip())
        elif _CRASH.match(text):
            self.found.append(Traceback(self._mark, number, number, [text[:_TEXT_CHARS]]))
            self.found[-1].crash = True
            self._at, self._more, self._place, self._depth = _At.MESSAGE, _MORE_LINES, 0, 0
        else:
            self._at, self._before = _At.OUTSIDE, text
            self._depth = self._depth if line.startswith((" ", "|")) else 0

    def _is_open_ended(self) -> bool:
        """Whether the message so far introduces the next line."""
        exceptions = self.found[-1].exceptions
        return self._place is not None and exceptions[self._place].endswith(":")

    def _goes_on(self, text: str) -> bool:
        return (text[0] in " \t" or self._is_open_ended()) and any(map(str.isalnum, text))

    def _add(self, number: int, text: str) -> None:
        """Adds a line to the message."""
        self._more -= 1
        current = self.found[-1]
        current.end = number
        if self._place is not None:
            longer = f"{current.exceptions[self._place]} {text}"
            current.exceptions[self._place] = longer[:_TEXT_CHARS]


def _is_type(name: str) -> bool:
    """Whether this may be the name of an exception, as opposed to the name of a program."""
    return "." in name or (name != name.lower() and name != name.upper())
