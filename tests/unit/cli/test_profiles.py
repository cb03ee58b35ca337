"""Which service a command talks to: options, environment, profiles."""

from __future__ import annotations

from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from api.cli.main import cli
from api.cli.shared.endpoint import Endpoint
from api.client.nearest import DEFAULT_URL, Service, nearest_service
from spectrain import Client, SettingsRefusedError

FILE = """
profile = "lab"

[profiles.lab]
url = "http://lab:1"
token = "lab-token"

[profiles.cloud]
url = "http://cloud:2"
token_file = "cloud.token"

[profiles.open]
url = "http://open:3"
"""
NAMES = ("SPECTRAIN_URL", "SPECTRAIN_API_TOKEN", "SPECTRAIN_API_TOKEN_FILE", "SPECTRAIN_PROFILE")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    (tmp_path / "cloud.token").write_text("cloud-token\n")
    (tmp_path / "cloud.token").chmod(0o600)
    path = tmp_path / "spectrain.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def endpoint(*words: str, **env: str) -> Endpoint:
    """What a command with these words would talk to."""
    seen: list[Endpoint] = []

    @click.command()
    @click.pass_obj
    def probe(found: Endpoint) -> None:
        seen.append(found)

    cli.add_command(probe, "probe")
    try:
        done = CliRunner().invoke(cli, [*words, "probe"], env=env, catch_exceptions=False)
        assert done.exit_code == 0, done.output
    finally:
        del cli.commands["probe"]
    return seen[0]


def refused(*words: str, **env: str) -> str:
    done = CliRunner().invoke(cli, [*words, "ls"], env=env)
    assert done.exit_code == 2, done.output
    assert isinstance(done.exception, SystemExit)
    return done.stderr


services = pytest.mark.parametrize(
    ("words", "env", "url", "token"),
    [
        ([], {}, "http://lab:1", "lab-token"),
        (["--profile", "cloud"], {}, "http://cloud:2", "cloud-token"),
        ([], {"SPECTRAIN_PROFILE": "cloud"}, "http://cloud:2", "cloud-token"),
        (["--profile", "open"], {}, "http://open:3", None),
        (["--profile", "cloud", "--token", "t"], {}, "http://cloud:2", "t"),
        # What is typed counts more than the environment, and that more than the file.
        ([], {"SPECTRAIN_URL": "http://env"}, "http://env", None),
        (["--profile", "cloud"], {"SPECTRAIN_URL": "http://env"}, "http://cloud:2", "cloud-token"),
        ([], {"SPECTRAIN_URL": "http://env", "SPECTRAIN_PROFILE": "cloud"}, "http://env", None),
        (["--profile", "cloud"], {"SPECTRAIN_API_TOKEN": "e"}, "http://cloud:2", "cloud-token"),
        (["--profile", "open"], {"SPECTRAIN_API_TOKEN": "e"}, "http://open:3", "e"),
        # The token of a profile goes to no other address.
        (["--url", "http://evil"], {}, "http://evil", None),
        (["--url", "http://evil", "--profile", "lab"], {}, "http://evil", None),
        (["--url", "http://a"], {"SPECTRAIN_API_TOKEN": "e"}, "http://a", "e"),
    ],
    ids=str,
)


@services
@pytest.mark.usefixtures("config")
def test_what_is_nearest_counts(
    words: list[str], env: dict[str, str], url: str, token: str | None
) -> None:
    found = endpoint(*words, **env)
    assert (found.url, found.token) == (url, token)
    assert found.named


@services
@pytest.mark.usefixtures("config")
def test_the_library_finds_the_service_that_a_command_finds(
    words: list[str], env: dict[str, str], url: str, token: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    options = dict(zip((word[2:] for word in words[::2]), words[1::2], strict=True))
    assert nearest_service(**options) == Service(url, token)
    with Client(**options) as client:
        assert client.url == url


def test_the_library_can_be_told_to_send_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECTRAIN_API_TOKEN", "secret")
    assert nearest_service("http://a", "").token is None
    assert nearest_service("http://a").token == "secret"


def test_a_profile_that_cannot_be_used_is_an_exception_of_the_library(config: Path) -> None:
    with pytest.raises(SettingsRefusedError, match="has no profile 'nobody'; it has cloud"):
        Client(profile="nobody")
    config.chmod(0o644)
    with pytest.raises(SettingsRefusedError, match="chmod 600"):
        Client()


def test_without_a_file_it_is_this_machine(config: Path) -> None:
    config.unlink()
    found = endpoint()
    assert (found.url, found.token, found.named) == (DEFAULT_URL, None, False)
    assert "has no profile 'lab'" in refused("--profile", "lab")


@pytest.mark.parametrize("name", ["spectrain.toml", "cloud.token"])
def test_a_token_that_everybody_can_read_is_refused(config: Path, name: str) -> None:
    (config.parent / name).chmod(0o644)
    said = refused("--profile", "lab" if name == "spectrain.toml" else "cloud")
    assert f"chmod 600 {config.parent / name}" in said
    assert "-token" not in said.replace("cloud.token", "")


def test_a_file_without_tokens_may_be_read_by_everybody(config: Path) -> None:
    config.write_text('profile = "a"\n[profiles.a]\nurl = "http://a"\n')
    config.chmod(0o644)
    assert endpoint().url == "http://a"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("profile = ", "is no valid TOML"),
        ("a = " + "[" * 9999, "is no valid TOML"),
        ("[profile.lab]\n", "has no profile"),
        ('[profiles.lab]\nurl = "http://a"\ntokn = "x"\n', "did you mean token?"),
        ('[profiles.lab]\ntoken = "x"\n', "profiles.lab has no url"),
        ('[profiles.lab]\nurl = 3\n', "profiles.lab.url is no text"),
        ('[profiles.lab]\nurl = "a"\ntoken = "x"\ntoken_file = "y"\n', "give one"),
        ('[profiles.lab]\nurl = "a"\ntoken_file = "missing"\n', "cannot be read"),
        ("profiles = 3\n", "has no profile 'lab'"),
        ("url = 'http://a'\n", "unknown key url"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_a_sentence(config: Path, text: str, says: str) -> None:
    config.write_text(text)
    said = refused("--profile", "lab")
    assert says in said
    assert "Traceback" not in said


def test_bytes_that_are_no_text_are_a_sentence(config: Path) -> None:
    config.write_bytes(b"\xff\xfe")
    assert "cannot be read" in refused()


def test_tilde_and_missing_home_are_understood(
    config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".config").mkdir()
    config.rename(tmp_path / ".config/spectrain.toml")
    assert endpoint().url == "http://lab:1"
