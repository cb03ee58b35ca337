import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from spectral_gpt.config import DatasetConfig
from spectral_gpt.data import Corpus, download, load_corpus, stdlib_sources
from spectral_gpt.errors import CorpusError

TEXT = "Für alle Zeit: θ = 2π·h·f + φ. " * 40


@pytest.fixture
def corpus(tmp_path: Path) -> Corpus:
    return text_corpus(tmp_path, tokens="char")


def text_corpus(folder: Path, text: bytes = TEXT.encode(), tokens: str = "byte") -> Corpus:
    path = folder / "text.txt"
    path.write_bytes(text)
    config = DatasetConfig(name="path", location=str(path), tokens=tokens)  # type: ignore[arg-type]
    return load_corpus(config, block_size=16)


class Text(BaseHTTPRequestHandler):
    requests = 0

    def do_GET(self) -> None:
        Text.requests += 1
        self.send_response(200 if self.path == "/text" else 404)
        self.end_headers()
        self.wfile.write(b"to be or not to be")

    def log_message(self, *args: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with ThreadingHTTPServer(("127.0.0.1", 0), Text) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()


def test_a_batch_is_a_function_of_seed_and_step(corpus: Corpus) -> None:
    def batch(seed: int, step: int) -> torch.Tensor:
        return corpus.batch("train", seed, step, size=4, length=16)[0]

    np.random.seed(0)
    torch.manual_seed(0)
    first = batch(1, 2)
    assert torch.equal(first, batch(1, 2))
    assert not torch.equal(first, batch(1, 3))
    assert not torch.equal(first, batch(2, 2))
    assert first.shape == (4, 16)
    assert first.dtype == torch.int64


def test_targets_are_the_inputs_shifted_by_one_and_every_window_is_reached(tmp_path: Path) -> None:
    corpus = text_corpus(tmp_path, bytes(range(200)))
    x, y = corpus.batch("val", seed=0, step=0, size=200, length=16)
    assert torch.equal(y, x + 1)
    assert sorted(set(x[:, 0].tolist())) == [180, 181, 182, 183]  # the last target is 199


def test_the_splits_do_not_overlap(corpus: Corpus) -> None:
    tokens = corpus.tokenizer.encode(TEXT.encode())
    assert len(corpus.train) == int(0.9 * len(tokens))
    assert np.array_equal(np.concatenate([corpus.train, corpus.val]), tokens)


@pytest.mark.parametrize("tokens", ["byte", "char"])
def test_tokens_turn_back_into_their_text(tmp_path: Path, tokens: str) -> None:
    tokenizer = text_corpus(tmp_path, tokens=tokens).tokenizer
    ids = tokenizer.encode(TEXT.encode())
    assert tokenizer.decode(ids) == TEXT
    assert ids.max() < tokenizer.vocab_size


def test_a_prompt_loses_characters_that_the_corpus_has_not(corpus: Corpus) -> None:
    assert corpus.tokenizer.decode(corpus.tokenizer.encode("Zeit? 時".encode())) == "Zeit "


def test_another_text_has_another_sha256(tmp_path: Path) -> None:
    assert text_corpus(tmp_path).sha256 != text_corpus(tmp_path, TEXT.encode() + b".").sha256


def test_a_text_too_short_for_the_windows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="160 tokens, of which 16 for validation, are too few"):
        text_corpus(tmp_path, b"x" * 160)


def test_characters_need_utf_8(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match=r"not UTF-8 .* take `tokens: byte`"):
        text_corpus(tmp_path, b"\xff" * 900, tokens="char")


def test_a_missing_file_is_named() -> None:
    with pytest.raises(CorpusError, match=r"cannot read /no/such\.txt"):
        load_corpus(DatasetConfig(name="path", location="/no/such.txt"), 16)


def test_the_standard_library_is_read_in_order_and_without_tests() -> None:
    paths = list(stdlib_sources())
    assert paths == sorted(paths)
    names = {path.name for path in paths}
    assert {"argparse.py", "heapq.py", "socket.py"} <= names
    folders = {folder for path in paths for folder in path.parts}
    assert not folders & {"test", "tests", "idle_test", "site-packages", "__pycache__"}
    assert not any(name.startswith("_sysconfigdata") for name in names)
    assert load_corpus(DatasetConfig(), 256).info()["num_tokens"] > 5_000_000


def test_a_url_is_downloaded_once(server: str) -> None:
    Text.requests = 0
    assert download(f"{server}/text") == download(f"{server}/text") == b"to be or not to be"
    assert Text.requests == 1


def test_a_download_that_is_another_text_is_refused_and_not_kept(server: str) -> None:
    with pytest.raises(CorpusError, match="SHA-256 differs"):
        download(f"{server}/text", sha256="0" * 64)
    assert download(f"{server}/text") == b"to be or not to be"


def test_a_failed_download_says_what_failed(server: str) -> None:
    with pytest.raises(CorpusError, match=f"cannot download {server}/none: HTTP Error 404"):
        download(f"{server}/none")
    with pytest.raises(CorpusError, match="file:///etc/passwd is not an http"):
        download("file:///etc/passwd")
