"""What is hidden from config.json, and what has to stay readable."""

import time
from typing import Any

import pytest

from monitoring.runs.redaction import redact
from monitoring.runs.secret_names import is_secret_name, is_secret_variable


@pytest.mark.parametrize(
    "name",
    ["api_key", "wandb_api_key", "openai.api_key", "--api-key", "apiKey", "token", "hf_token",
     "accessToken", "secret", "client_secret", "password", "db_passwd", "credentials",
     "private_key", "aws_secret_access_key", "access_key", "OPENAI_KEY", "GH_PAT", "DB_PASS",
     "smtp_pass", "github_pat"],
)  # fmt: skip
def test_an_entry_with_a_secret_name_is_hidden(name: str) -> None:
    assert redact({name: "s3cr3t"}, {}) == {name: "***"}
    assert redact({"deep": [{name: ["s3cr3t"]}]}, {}) == {"deep": [{name: ["***"]}]}


@pytest.mark.parametrize(
    ("name", "value"),
    [("tokens_per_sec", 1500.0), ("num_tokens", "1000000"), ("tokenizer", "bert-base-uncased"),
     ("key_dim", 64), ("max_tokens", 512), ("keys", 8), ("key", "loss"), ("sort_key", "val_loss"),
     ("pad_token", "[PAD] as ever"), ("eos_token", "</s>"), ("mask_token", "MASKED"),
     ("token", 50256), ("token", "<|endoftext|>"), ("api_key", None), ("api_key", True),
     ("password", "false"), ("token", "12"), ("token", {"embedding": "learned"}),
     ("forward_pass", "checkpointed"), ("pass", "first"), ("file_pat", "*.jsonl"),
     ("password_file", "/run/secrets/db"), ("d_model", 512), ("secretary", "Ms Jones")],
)  # fmt: skip
def test_an_ordinary_entry_stays(name: str, value: Any) -> None:
    assert redact({name: value}, {}) == {name: value}


@pytest.mark.parametrize(
    ("command", "hidden"),
    [(["--api-key=sk-123"], ["--api-key=***"]),
     (["--api-key", "sk-123", "--lr", "1"], ["--api-key", "***", "--lr", "1"]),
     (["--token", "--lr", "0.1"], ["--token", "--lr", "0.1"]),
     (["wandb.api_key=wk-1", "steps=5"], ["wandb.api_key=***", "steps=5"]),
     (["--max-tokens", "512000", "--tokenizer=gpt2-large"],
      ["--max-tokens", "512000", "--tokenizer=gpt2-large"]),
     (["sh", "-c", "WANDB_API_KEY=wk-1 python train.py --password hunter2 --lr 1"],
      ["sh", "-c", "WANDB_API_KEY=*** python train.py --password *** --lr 1"]),
     (["Namespace(api_key='sk-1', lr=0.1)"], ["Namespace(api_key='***', lr=0.1)"]),
     (['{"password": "hunter2", "lr": 1}'], ['{"password": "***", "lr": 1}'])],
)  # fmt: skip
def test_options_and_assignments_are_hidden(command: list[str], hidden: list[str]) -> None:
    assert redact(command, {}) == hidden


@pytest.mark.parametrize(
    ("url", "hidden"),
    [("postgres://bob:hunter2@db/x", "postgres://bob:***@db/x"),
     ("see redis://:p@ss@host:6379/0 there", "see redis://:***@host:6379/0 there"),
     ("https://ghp_0123456789abcdefghij@github.com/x", "https://***@github.com/x"),
     ("http://host:8080/a@b", "http://host:8080/a@b"),
     ("ssh://git@host/x", "ssh://git@host/x"), ("s3://bucket/runs", "s3://bucket/runs")],
)  # fmt: skip
def test_passwords_in_urls_are_hidden(url: str, hidden: str) -> None:
    assert redact({"url": url}, {}) == {"url": hidden}


@pytest.mark.parametrize(
    "name",
    ["OPENAI_KEY", "GH_PAT", "DB_PASS", "HF_TOKEN", "CLIENT_SECRET", "PGPASSWORD",
     "GOOGLE_CREDENTIALS", "AWS_ACCESS_KEY_ID", "wandb_api_key"],
)  # fmt: skip
def test_values_of_secret_variables_are_hidden_wherever_they_occur(name: str) -> None:
    assert redact({"note": "it is abcdef-1!"}, {name: "abcdef-1"}) == {"note": "it is ***!"}


@pytest.mark.parametrize(
    "name", ["TOKENIZER", "TOKENIZERS_PARALLELISM", "MAX_TOKENS", "PATH", "KEYBOARD", "SSL_BYPASS"]
)
def test_other_variables_hide_nothing(name: str) -> None:
    assert not is_secret_variable(name)
    assert redact({"note": "gpt2-large"}, {name: "gpt2-large"}) == {"note": "gpt2-large"}


def test_the_password_of_a_url_in_the_environment_is_hidden_elsewhere_too() -> None:
    environment = {"DATABASE_URL": "postgres://bob:hunter2hunter2@db/x"}
    assert redact(["hunter2hunter2", "bob", "db"], environment) == ["***", "bob", "db"]


def test_long_texts_are_searched_in_linear_time() -> None:
    texts = ["a" * 1_000_000, "://" * 300_000, "a='" * 300_000, "-- " * 300_000, "a.-" * 300_000]
    start = time.process_time()
    assert redact(texts, {}) == texts
    assert time.process_time() - start < 20  # a quadratic search takes hours


def test_names_without_words_are_no_secrets() -> None:
    assert not any(is_secret_name(name) for name in ("", "-", "--", "_", ".", "KEY", "a/"))
