"""The tokens that a process knows: those of the settings, of the file and of Redis.

A request finds its token in memory. A thread looks once or twice a second whether the file or the
version in Redis has changed. So a revocation reaches all processes within a second, and while
Redis is away, the tokens that were read last go on working.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from jobs.accounts.file import read_tokens
from jobs.accounts.store import TokenStore
from jobs.accounts.token import KeptToken, Role, digest_of
from jobs.errors import STORE_AWAY
from jobs.setting_errors import SettingsError
from jobs.settings import Settings

log = logging.getLogger(__name__)

ADMIN = "admin"  # the account of the tokens in the settings
_LOOK_SECONDS = 0.5
_USED_SECONDS = 60.0
_EVERYBODY_ELSE = "*"


def setting_tokens(settings: Settings) -> list[KeptToken]:
    """The tokens of `SPECTRAIN_API_TOKENS`: they are administrators."""
    digests = [digest_of(text) for text in settings.token_texts]
    return [
        KeptToken(id=f"s-{digest[:10]}", name="settings", owner=ADMIN, role=Role.ADMIN,
                  digest=digest)
        for digest in digests
    ]  # fmt: skip


class TokenBook:
    """Finds tokens by their text; `close` ends its thread."""

    def __init__(
        self, settings: Settings, store: TokenStore, *, clock: Callable[[], float] = time.time
    ) -> None:
        self._store = store
        self._clock = clock
        self._settings = settings
        self._file = Path(settings.tokens_file) if settings.tokens_file else None
        self._file_state: tuple[int, ...] | None = None
        self._of_file: list[KeptToken] = []
        self._of_redis: list[KeptToken] = []
        self._version: str | None = None
        self._limits: Mapping[str, tuple[int, int]] | None = None
        self._by_digest: Mapping[str, KeptToken] = {}
        self._parents: Mapping[str, KeptToken] = {}
        self._used: dict[str, float] = {}
        self._used_before: dict[str, float] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._loaded, self._tried = threading.Event(), threading.Event()
        self._away = False
        if self._file is not None:
            self._of_file = read_tokens(self._file)  # a file that is wrong at the start ends it
            self._file_state = _state(self._file)
        self._arrange()
        threading.Thread(target=self._run, name="tokens", daemon=True).start()

    @property
    def is_static(self) -> bool:
        """Whether the settings themselves ask for tokens, whatever Redis has."""
        return bool(self._settings.token_texts or self._file)

    @property
    def is_empty(self) -> bool:
        """Whether there is no token at all."""
        return not self.is_static and not self._of_redis

    @property
    def is_read(self) -> bool:
        """Whether the tokens in Redis were ever read."""
        return self._loaded.is_set()

    def wait_until_tried(self, seconds: float) -> None:
        """Waits until the tokens in Redis were read, or could not be, for the first time."""
        self._tried.wait(seconds)

    def find(self, text: str, *, session: bool = False) -> KeptToken | None:
        """The token with that text, if it is valid now; a session is none, and vice versa.

        Found by its hash: the time that takes says nothing about the text.
        """
        token = self._by_digest.get(digest_of(text))
        if token is None or bool(token.session_of) != session or token.is_over(self._clock()):
            return None
        if session:
            parent = self._parents.get(token.session_of)
            if parent is None or parent.is_over(self._clock()):
                return None
        return token

    def parent(self, token: KeptToken) -> KeptToken:
        """The token of a session; a token is its own."""
        return self._parents.get(token.session_of, token)

    def all(self) -> list[KeptToken]:
        """All tokens, without sessions."""
        return list(self._parents.values())

    def gpus_of(self, owner: str | None) -> int | None:
        """The GPUs that running jobs of an owner may ask for; None: as many as there are."""
        limits = _limits_of(self._parents.values(), self._settings)
        _, gpus = limits.get(owner or "", limits.get(_EVERYBODY_ELSE, (-1, -1)))
        return None if owner is None or gpus < 0 else gpus

    def mark_used(self, token: KeptToken) -> None:
        """Notes that a token was used now."""
        self._used[token.session_of or token.id] = self._clock()

    def refresh(self) -> None:
        """Reads what has changed; raises one of `jobs.errors.STORE_AWAY`."""
        with self._lock:
            changed = self._read_file()
            version = self._store.version()
            if version != self._version:
                self._of_redis = self._store.all()
                self._version = version
                changed = True
            if changed:
                self._arrange()
            limits = _limits_of(self._parents.values(), self._settings)
            if limits != self._limits:
                self._store.limit(limits)
            self._limits = limits
            self._loaded.set()

    def close(self) -> None:
        """Ends the thread."""
        self._stop.set()

    def _run(self) -> None:
        noted = time.monotonic()
        while True:
            try:
                self.refresh()
                if time.monotonic() - noted >= _USED_SECONDS:
                    self._note_used()
                    self._limits = None  # written again: a Redis that was lost has none
                    noted = time.monotonic()
                self._away = False
            except STORE_AWAY as error:
                if not self._away:
                    log.warning("tokens in Redis cannot be read, known ones still work: %s", error)
                self._away = True
            except Exception:  # the next look may succeed, and known tokens work meanwhile
                log.exception("cannot look for changes of the tokens; it is tried again")
            self._tried.set()
            if self._stop.wait(_LOOK_SECONDS):
                return

    def _note_used(self) -> None:
        now = dict(self._used)
        if new := {i: at for i, at in now.items() if self._used_before.get(i) != at}:
            self._store.note_used(new)
        self._used_before = now

    def _read_file(self) -> bool:
        """Reads the file of tokens if it is another one; whether it was read."""
        if self._file is None or (state := _state(self._file)) == self._file_state:
            return False
        self._file_state = state
        try:
            self._of_file = read_tokens(self._file)
        except SettingsError as error:
            log.warning("%s The tokens that were read before stay valid.", error)
            return False
        log.info("read %d tokens from %s", len(self._of_file), self._file)
        return True

    def _arrange(self) -> None:
        # The later ones count: a token of the settings that the file has too has the file's role.
        tokens = [*setting_tokens(self._settings), *self._of_file, *self._of_redis]
        self._parents = {token.id: token for token in tokens if not token.session_of}
        self._by_digest = {token.digest: token for token in tokens}


def _state(file: Path) -> tuple[int, ...]:
    """What changes with the file."""
    try:
        found = file.stat()
    except OSError:
        return ()
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _limits_of(tokens: Iterable[KeptToken], settings: Settings) -> dict[str, tuple[int, int]]:
    """What each owner may run at once: the smallest of the tokens' limits, else the settings'."""
    usual = (settings.owner_running or -1, settings.owner_gpus or -1)
    found: dict[str, list[tuple[int | None, int | None]]] = {}
    for token in tokens:
        found.setdefault(token.owner, []).append((token.limits.running, token.limits.gpus))
    limits = {_EVERYBODY_ELSE: usual} if usual != (-1, -1) else {}
    for owner, given in found.items():
        jobs = min((one for one, _ in given if one is not None), default=usual[0])
        gpus = min((one for _, one in given if one is not None), default=usual[1])
        if (jobs, gpus) != usual:
            limits[owner] = (jobs, gpus)
    return limits
