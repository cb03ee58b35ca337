"""The witness of a worker: a process that ends the worker's attempt when the worker is killed.

It is forked from the worker before that has threads or connections, so it shares the worker's
memory, has its settings, and needs no time to start. It waits until a pipe closes that only the
worker holds open, as the kernel does when the worker has ended, and not when it merely stands
still; one that stands still for long, it lets go on. Then it waits until the guard has killed the
training process and has let go of the note.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import select
import signal
import socket
import time
from pathlib import Path

from redis.exceptions import RedisError

from jobs.messages import Messenger
from jobs.settings import Settings, connect
from jobs.store.jobs import open_store
from machine.python import python_module
from machine.stopped import Stopped
from machine.title import set_title
from worker.losses.note import Note, abandoned, notes, remove
from worker.losses.report import announce, end_attempt

log = logging.getLogger(__name__)

_POLL_SECONDS = 0.01
_RETRY_SECONDS = 0.2
_LOOK_SECONDS = 2.0
_STOPPED_SECONDS = 20.0


def fork_witness(settings: Settings) -> None:
    """Forks the witness of this process, which must have one thread only."""
    worker = os.getpid()
    # No process that this one starts inherits the pipe; it closes with this process.
    closes, held = os.pipe()
    gc.collect()
    gc.freeze()  # a collection in the witness would write to, and so copy, every page
    try:
        in_worker = os.fork() != 0
    except OSError as error:  # then the next worker, or the lease, finds a dead one
        log.warning("cannot start the witness of this worker: %s", error)
        in_worker = True
    if in_worker:
        os.close(closes)
        gc.unfreeze()
        return
    try:
        os.close(held)
        # A group of its own, in the worker's session: where a job has stopped this process too, the
        # kernel continues it at the worker's death.
        os.setpgid(0, 0)
        # It ends with its worker, and after it: systemd ends what a dead service has left.
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        os.environ.update(dict(os.environ))  # the title takes the place of what it began with
        set_title(python_module(__name__))
        _watch(worker, closes, settings)
        _end_attempts(worker, settings)
    except BaseException:
        log.exception("the witness of worker process %d failed", worker)
    finally:
        os._exit(0)


def _watch(worker: int, closes: int, settings: Settings) -> None:
    """Returns when the worker has ended; until then continues it when it stands still for long.

    Its job is elsewhere by then, and nothing else would take it up again.
    """
    stopped = Stopped(worker, max(_STOPPED_SECONDS, 2 * settings.lease_seconds))
    while not select.select([closes], [], [], _LOOK_SECONDS)[0]:
        if (seconds := stopped.check()) is not None:
            log.warning("worker process %d was stopped (SIGSTOP) for %.0f s, and goes on", worker,
                        seconds)  # fmt: skip


def _end_attempts(worker: int, settings: Settings) -> None:
    """Ends what the worker has left; gives up after a lease, for the next worker to do it."""
    died_at = time.monotonic()
    while left := _notes_of(worker, settings.scratch_dir):
        pause = _POLL_SECONDS
        for path in left:
            with abandoned(path) as note, contextlib.suppress(RedisError):
                pause = _RETRY_SECONDS
                if note is not None:
                    _end(note, settings, died_at)
                    remove(path)
                pause = _POLL_SECONDS
        if time.monotonic() - died_at > settings.lease_seconds:
            log.warning("worker process %d was killed; its attempt has not ended yet", worker)
            return
        time.sleep(pause)


def _end(note: Note, settings: Settings, died_at: float) -> None:
    with connect(settings) as redis:
        store = open_store(redis, settings)
        message = f"worker {note.worker} was killed, or crashed"
        seconds = time.monotonic() - died_at
        job = end_attempt(store, note, message, silent_seconds=seconds)
        if job is not None:
            log.warning("job %s: %s; it is %s now", job.id, job.message or message, job.state)
            announce(store, Messenger(settings, store))


def _notes_of(worker: int, scratch_dir: Path) -> list[Path]:
    host = socket.gethostname()
    found = ((path, Note.read(path)) for path in notes(scratch_dir))
    return [path for path, note in found if note and (note.pid, note.host) == (worker, host)]
