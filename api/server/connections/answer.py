"""The answer to a request, made in blocks as fast as its client reads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from waitress.task import WSGITask
from werkzeug.wsgi import FileWrapper

_FILE_BLOCK = 512 << 10
_TURN = 16  # blocks that a thread makes before it turns to other clients
_ANSWER = "spectrain.answer"


class Pause(BaseException):
    """The rest of the answer comes later: the client has to read first, or others are next."""


class Task(WSGITask):  # type: ignore[misc]
    """Answers a request; after a `Pause` it goes on where it was, by any thread."""

    def get_environment(self) -> dict[str, Any]:
        """That of WSGI; files are read by threads, since the loop waits for no storage."""
        environ: dict[str, Any] = super().get_environment()
        environ.setdefault(_ANSWER, _Answer(self.channel))
        environ["wsgi.file_wrapper"] = _in_blocks
        return environ

    def give_up(self) -> None:
        """Ends an answer that nobody reads any more."""
        self.get_environment()[_ANSWER].end()


def paced(application: Any) -> Any:
    """A WSGI application whose answers are made as fast as each client reads."""

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        found: _Answer = environ[_ANSWER]
        if not found.has_begun:
            found.begin(application(environ, start_response))
        return found

    return answer


class _Answer:
    """The blocks that an application answers."""

    def __init__(self, channel: Any) -> None:
        self._channel = channel
        self._made: Iterable[bytes] = ()
        self._blocks: Iterator[bytes] = iter(())
        self._turn = 0
        self._pauses = False
        self.has_begun = False

    def begin(self, made: Iterable[bytes]) -> None:
        self._made, self._blocks, self.has_begun = made, iter(made), True

    def __iter__(self) -> _Answer:
        return self

    def __next__(self) -> bytes:
        self._pauses = self._channel.is_behind or self._turn == _TURN
        if self._pauses:
            self._turn = 0
            raise Pause
        self._turn += 1
        return next(self._blocks)

    def close(self) -> None:
        """What WSGI calls when it leaves the answer, also for a pause."""
        if not self._pauses:
            self.end()

    def end(self) -> None:
        made, self._made, self._blocks = self._made, (), iter(())
        if close := getattr(made, "close", None):
            close()


def _in_blocks(file: Any, size: int = 0) -> FileWrapper:
    return FileWrapper(file, max(size, _FILE_BLOCK))
