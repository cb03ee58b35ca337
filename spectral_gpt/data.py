"""Training texts as tokens, and batches that are a pure function of (seed, step)."""

from __future__ import annotations

import hashlib
import importlib
import os
import sys
import sysconfig
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from spectral_gpt.config import DatasetConfig
from spectral_gpt.errors import CorpusError

TINYSHAKESPEARE = (
    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
)
TINYSHAKESPEARE_SHA256 = "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed"
TRAIN_SHARE = 0.9
# Tests, third-party packages and compiled files.
NOT_LIBRARY = {"test", "tests", "idle_test", "site-packages", "dist-packages", "__pycache__"}
DOWNLOAD_SECONDS = 60

Tokens = npt.NDArray[np.integer[Any]]
Split = Literal["train", "val"]


class Tokenizer(Protocol):
    """Text to token ids and back; `vocab_size` ids are possible."""

    vocab_size: int

    def encode(self, text: bytes) -> Tokens:
        """The token ids of a text."""

    def decode(self, tokens: Tokens) -> str:
        """The text of token ids."""


class ByteTokenizer:
    """Every byte is a token."""

    vocab_size = 256

    def encode(self, text: bytes) -> Tokens:
        """The bytes themselves."""
        tokens: Tokens = np.frombuffer(text, dtype=np.uint8)
        return tokens

    def decode(self, tokens: Tokens) -> str:
        """The text, with replacement characters for bytes that are not UTF-8."""
        return tokens.astype(np.uint8).tobytes().decode("utf-8", errors="replace")


class CharTokenizer:
    """Every character of the corpus is a token; other characters of a prompt are ignored."""

    def __init__(self, corpus: bytes) -> None:
        self.characters = np.flatnonzero(np.bincount(_code_points(corpus)))
        self.vocab_size = len(self.characters)
        self._absent = self.vocab_size
        self._places = np.full(sys.maxunicode + 1, self._absent, np.min_scalar_type(self._absent))
        self._places[self.characters] = np.arange(self.vocab_size)

    def encode(self, text: bytes) -> Tokens:
        """The index of each character among those of the corpus, by code point."""
        places = self._places[_code_points(text)]
        known: Tokens = places[places != self._absent]
        return known

    def decode(self, tokens: Tokens) -> str:
        """The characters with these indices."""
        return "".join(map(chr, self.characters[tokens]))


def _code_points(text: bytes) -> Tokens:
    points: Tokens = np.frombuffer(text.decode("utf-8").encode("utf-32-le"), dtype=np.uint32)
    return points


class GPT2Tokenizer:
    """GPT-2's 50,257 byte pairs, through tiktoken."""

    def __init__(self) -> None:
        try:
            self._encoding: Any = importlib.import_module("tiktoken").get_encoding("gpt2")
        except ImportError as error:
            raise CorpusError(
                "dataset.tokens: gpt2 needs the package tiktoken (pip install tiktoken)"
            ) from error
        except OSError as error:
            raise CorpusError(
                f"dataset.tokens: GPT-2's vocabulary cannot be had: {error}"
            ) from error
        self.vocab_size: int = self._encoding.n_vocab

    def encode(self, text: bytes) -> Tokens:
        """Byte pairs; special tokens count as ordinary text."""
        return np.array(self._encoding.encode_ordinary(text.decode("utf-8")), dtype=np.uint16)

    def decode(self, tokens: Tokens) -> str:
        """The text of byte pairs."""
        return str(self._encoding.decode(tokens.tolist()))


@dataclass(frozen=True)
class Corpus:
    """A text as tokens in two splits, and the SHA-256 by which a resume recognises it."""

    name: str
    tokenizer: Tokenizer
    train: Tokens
    val: Tokens
    sha256: str

    def batch(
        self, split: Split, seed: int, step: int, size: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """Inputs and next-token targets, int64 (size, length), of random windows.

        A pure function of its arguments: to resume from a step, no state is needed.
        """
        tokens = self.train if split == "train" else self.val
        rng = np.random.default_rng((seed, step, int(split == "val")))
        starts = rng.integers(len(tokens) - length, size=size)
        windows = tokens[starts[:, None] + np.arange(length + 1)].astype(np.int64)
        batch = torch.from_numpy(windows)  # (size, length + 1)
        return batch[:, :-1].contiguous(), batch[:, 1:].contiguous()

    def info(self) -> dict[str, Any]:
        """The description of the data for config.json."""
        return {
            "name": self.name,
            "num_tokens": len(self.train) + len(self.val),
            "vocab_size": self.tokenizer.vocab_size,
            "train_split": TRAIN_SHARE,
            "val_split": round(1 - TRAIN_SHARE, 6),
            "sha256": self.sha256,
        }


def load_corpus(config: DatasetConfig, block_size: int) -> Corpus:
    """The configured corpus, downloaded once where it has to be.

    Raises CorpusError when it cannot be had, is not what it should be, or is too short for
    windows of block_size + 1 tokens in both splits.
    """
    text = _read_text(config)
    try:
        tokenizer = _build_tokenizer(config, text)
        tokens = tokenizer.encode(text)
    except UnicodeDecodeError as error:
        raise CorpusError(
            f"dataset: the text is not UTF-8 ({error}); take `tokens: byte`"
        ) from error
    cut = int(TRAIN_SHARE * len(tokens))
    train, val = tokens[:cut], tokens[cut:]
    if min(len(train), len(val)) <= block_size:
        raise CorpusError(
            f"dataset: {len(tokens):,} tokens, of which {len(val):,} for validation, are too few "
            f"for windows of block_size + 1 = {block_size + 1}"
        )
    return Corpus(config.name, tokenizer, train, val, hashlib.sha256(text).hexdigest())


def _build_tokenizer(config: DatasetConfig, text: bytes) -> Tokenizer:
    match config.tokens:
        case "byte":
            return ByteTokenizer()
        case "char":
            return CharTokenizer(text)
        case "gpt2":
            return GPT2Tokenizer()


def _read_text(config: DatasetConfig) -> bytes:
    location = config.location or ""
    match config.name:
        case "stdlib":
            return b"".join(path.read_bytes() for path in stdlib_sources())
        case "tinyshakespeare":
            return download(TINYSHAKESPEARE, TINYSHAKESPEARE_SHA256)
        case "url":
            return download(location)
        case "path":
            try:
                return Path(location).read_bytes()
            except OSError as error:
                raise CorpusError(f"dataset.location: cannot read {location}: {error}") from error


def stdlib_sources() -> Iterator[Path]:
    """The source files of this interpreter's standard library, sorted, without its tests.

    `_sysconfigdata…` is left out too: it describes the machine that Python was built on.
    """
    root = sysconfig.get_path("stdlib")
    found = []
    for folder, subfolders, files in os.walk(root):
        subfolders[:] = [name for name in subfolders if name not in NOT_LIBRARY]
        found += [
            Path(folder, name)
            for name in files
            if name.endswith(".py") and not name.startswith("_sysconfigdata")
        ]
    if not found:
        raise CorpusError(f"dataset: there are no sources of the standard library in {root}")
    return iter(sorted(found))


def download(url: str, sha256: str | None = None) -> bytes:
    """Return the content of an http(s) URL; it is downloaded once and cached for the user.

    Raises CorpusError if the download fails or the SHA-256 is wrong.
    """
    if not url.startswith(("http://", "https://")):
        raise CorpusError(f"dataset.location: {url} is not an http or https URL")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "spectrain"
    cached = cache / hashlib.sha256(url.encode()).hexdigest()
    if cached.exists():
        return cached.read_bytes()
    try:
        with urllib.request.urlopen(url, timeout=DOWNLOAD_SECONDS) as response:  # noqa: S310
            content: bytes = response.read()
    except OSError as error:
        raise CorpusError(f"dataset: cannot download {url}: {error}") from error
    if sha256 and hashlib.sha256(content).hexdigest() != sha256:
        raise CorpusError(f"dataset: the text at {url} has changed (its SHA-256 differs)")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=cache, delete=False) as temporary:
        temporary.write(content)
    Path(temporary.name).replace(cached)  # atomic: the name never has a partial file
    return content
