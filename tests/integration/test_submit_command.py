"""`spectrain submit` with a workspace, and from the words behind `--`, as somebody types it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from werkzeug.serving import make_server

from api.cli.main import cli
from api.client.client import CannotSendError, Client
from api.local.redis_server import free_port
from jobs.model.record import Job
from jobs.model.states import State
from jobs.settings import Settings
from jobs.store.jobs import JobStore
from tests.integration.http_calls import MakeApp
from tests.integration.one_worker import Bench
from worker.attempt.supervisor import supervise
from workspaces.archive import Directory
from workspaces.layout import archive_key

Submit = Callable[..., Result]


@pytest.fixture
def url(settings: Settings, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    server = make_server("127.0.0.1", 0, make_app(settings), threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    monkeypatch.setenv("SPECTRAIN_URL", f"http://127.0.0.1:{server.port}")
    yield f"http://127.0.0.1:{server.port}"
    server.shutdown()
    thread.join()


@pytest.fixture
def code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "My Project"
    (root / "lib").mkdir(parents=True)
    (root / "train.py").write_text(
        "import os, sys\nfrom lib import names\nprint('runs', names.ONE, sys.argv[1:],"
        " os.environ.get('LR'))\n"
    )
    (root / "lib" / "names.py").write_text("ONE = 1\n")
    (root / "job.yaml").write_text(
        "name: from_file\ncommand: [python, train.py]\n"
        "workspace: {path: ., exclude: [job.yaml]}\nenv: {LR: 1e-3, A: a}\n"
    )
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def submit(url: str) -> Submit:
    def run(*words: str, **options: Any) -> Result:
        return CliRunner().invoke(cli, ["submit", *words], **options)

    return run


def submitted(store: JobStore, result: Result) -> Job:
    assert result.exit_code == 0, result.output
    return store.get(result.stdout.strip())


def output(settings: Settings, store: JobStore, job: Job) -> str:
    """What the job prints on a worker that has never seen its code."""
    bench = Bench(settings, store)
    claimed = store.claim("default", "w")
    assert claimed is not None
    supervise(bench.service, claimed)
    bench.service.messenger.close()
    assert store.get(job.id).state is State.SUCCEEDED, store.get(job.id).message
    return bench.output(job)


@pytest.mark.usefixtures("code")
def test_the_one_thing_to_type(submit: Submit, settings: Settings, store: JobStore) -> None:
    result = submit(
        "--workspace", ".", "--env", "LR=3e-4", "--", "python", "train.py", "--lr", "3e-4", "--x"
    )
    assert result.stderr == "workspace: 3 files, 214 B\n"
    job = submitted(store, result)
    assert job.spec.name == "train"
    assert "runs 1 ['--lr', '3e-4', '--x'] 3e-4" in output(settings, store, job)


def test_a_job_file_says_the_same_and_its_paths_begin_at_the_file(
    submit: Submit, settings: Settings, store: JobStore, code: Path,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    result = submit(str(code / "job.yaml"))
    assert result.stderr.startswith("workspace: 2 files")
    job = submitted(store, result)
    assert job.spec.name == "from_file"
    assert "runs 1 [] 1e-3" in output(settings, store, job)
    (code / "job.yaml").write_text('name: short\nworkspace: "."\ncommand: [python, train.py]\n')
    assert submitted(store, submit(str(code / "job.yaml"))).spec.workspace is not None


def test_the_command_line_replaces_what_the_file_says(
    submit: Submit, store: JobStore, code: Path
) -> None:
    job = submitted(
        store,
        submit("job.yaml", "--name", "other", "--gpus", "2", "-e", "A=b", "--", "python", "x", "3"),
    )
    spec = job.spec
    assert (spec.name, spec.command, spec.resources.gpus) == ("other", ["python", "x", "3"], 2)
    assert spec.env == {"LR": "1e-3", "A": "b"}
    assert spec.workspace is not None
    assert spec.workspace.files == 2, "what the file excludes stays so"
    moved = submit("job.yaml", "--workspace", "lib")
    assert "workspace: 1 file," in moved.stderr


@pytest.mark.usefixtures("code")
def test_it_is_sent_once(submit: Submit, settings: Settings, store: JobStore) -> None:
    words = ("--workspace", ".", "--", "python", "train.py")
    first = submitted(store, submit(*words)).spec.workspace
    assert first is not None
    archive = Path(settings.storage_url.removeprefix("file://")) / archive_key(first.sha256)
    before = archive.stat()
    assert submitted(store, submit(*words)).spec.workspace == first
    assert (archive.stat().st_ino, archive.stat().st_mtime_ns) == (
        before.st_ino,
        before.st_mtime_ns,
    )


@pytest.mark.parametrize("change", ["nothing", "content", "mode", "commit", "memory", "service"])
def test_what_was_packed_before_is_sent_again_if_anything_has_changed(
    submit: Submit, settings: Settings, store: JobStore, code: Path, change: str,
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path,
) -> None:  # fmt: skip
    memory = tmp_path / "cache" / "spectrain" / "packed.json"
    monkeypatch.setenv("XDG_CACHE_HOME", str(memory.parents[1]))
    subprocess.run(["git", "-C", str(code), "init", "--quiet"], check=True)
    words = ("--workspace", ".", "--", "python", "train.py")
    first = submitted(store, submit(*words)).spec.workspace
    assert first is not None
    stored = Path(settings.storage_url.removeprefix("file://")) / archive_key(first.sha256)
    packs: list[None] = []
    pack = Directory.pack
    monkeypatch.setattr(
        Directory,
        "pack",
        lambda *given: packs.append(None) or pack(*given),  # type: ignore[func-returns-value]
    )
    if change == "content":
        (code / "lib" / "names.py").write_text("ONE = 2\n")
    elif change == "mode":
        (code / "train.py").chmod(0o755)
    elif change == "commit":
        subprocess.run(["git", "-C", str(code), "add", "."], check=True)
    elif change == "memory":
        memory.write_text('{"nonsense": ')
    elif change == "service":
        stored.unlink()
    again = submitted(store, submit(*words)).spec.workspace
    assert (again == first) == (change in {"nothing", "memory", "service"})
    assert packs == ([] if change == "nothing" else [None])
    assert stored.exists()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["python", "src/Train_GPT.v2.py"], "train_gpt-v2"),
        (["torchrun", "--nproc-per-node", "2", "train.py"], "train"),
        (["python", "-m", "package.run"], "run"),
        (["make", "train"], "my-project"),
        (["python", "é.py"], "my-project"),
    ],
)
@pytest.mark.usefixtures("code")
def test_the_name_is_that_of_the_script_or_of_the_directory(
    submit: Submit, store: JobStore, words: list[str], name: str
) -> None:
    assert submitted(store, submit("--workspace", ".", "--", *words)).spec.name == name


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "give a FILE, or a COMMAND after --"),
        (["--", "python", "train.py"], "train.py is here, and not on the worker: `--workspace .`"),
        (["--env", "LR", "--", "true"], "'LR' is not of the form NAME=VALUE"),
        (["--workspace", "nowhere", "--", "true"], "there is no directory nowhere"),
        (["--workspace", "job.yaml", "--", "true"], "is a file"),
        (["--workspace", ".", "--gpus", "x", "--", "true"], "is not a valid integer"),
        (["--workspace", ".", "--name", "a/b", "--", "true"], "name: given"),
        (["-", "extra"], "unexpected extra argument"),
        (["train.py"], "train.py is no job: `spectrain submit --workspace . -- python train.py`"),
    ],
)
@pytest.mark.usefixtures("code")
def test_what_cannot_be_is_answered_with_what_to_type(
    submit: Submit, store: JobStore, words: list[str], said: str
) -> None:
    result = submit(*words)
    assert result.exit_code != 0
    assert said in " ".join(result.output.split())
    assert not list(store.newest())


def test_nothing_is_sent_for_a_job_that_is_refused(
    submit: Submit, settings: Settings, code: Path
) -> None:
    (code / "job.yaml").write_text("name: a\nworkspace: .\ncomand: [true]\n")
    assert "did you mean command?" in submit("job.yaml").output
    (code / "job.yaml").write_text("name: a\nworkspace: {pth: .}\ncommand: [true]\n")
    assert "workspace.pth: given" in submit("job.yaml").output
    assert not (Path(settings.storage_url.removeprefix("file://")) / "workspaces").exists()


def test_a_workspace_that_cannot_be_packed_is_refused_in_a_sentence(
    submit: Submit, store: JobStore, code: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code / "data").symlink_to("/mnt/data")
    refused = submit("--workspace", ".", "--", "python", "train.py")
    assert refused.exit_code == 1
    assert "The workspace cannot be sent: the link data -> /mnt/data" in refused.output
    (code / ".spectrainignore").write_text("/data\n")
    assert submitted(store, submit("--workspace", ".", "--", "python", "train.py"))
    monkeypatch.setenv("SPECTRAIN_WORKSPACE_BYTES", "100")
    refused = submit("--workspace", ".", "--", "python", "train.py")
    assert "more than 100 B; the largest files are" in refused.output


def test_the_python_client_sends_it_too(url: str, code: Path, store: JobStore) -> None:
    said: list[str] = []
    with Client(url) as client:
        spec = {"name": "a", "command": ["python", "train.py"], "workspace": {"path": "."}}
        job = client.submit(spec, on_packed=lambda packed: said.append(str(packed)))
        again = client.submit({**spec, "workspace": vars(job.spec.workspace)})
        with pytest.raises(CannotSendError, match="there is no directory"):
            client.submit({**spec, "workspace": {"path": str(code / "nowhere")}})
        with pytest.raises(CannotSendError, match=r"workspace\.path: given 3"):
            client.submit({**spec, "workspace": {"path": 3}})
    assert said == ["workspace: 3 files, 214 B"]
    assert again.spec.workspace == job.spec.workspace
    assert spec["workspace"] == {"path": "."}


def test_a_large_one_arrives_whole_through_the_server_that_is_used(
    settings: Settings, code: Path, wait_until: Callable[..., Any]
) -> None:
    (code / "weights").write_bytes(os.urandom(30 << 20))
    port = free_port("127.0.0.1")
    environment = os.environ | {
        "SPECTRAIN_REDIS_URL": settings.redis_url, "SPECTRAIN_STORAGE_URL": settings.storage_url,
        "SPECTRAIN_API_TOKENS": "secret-of-sixteen-or-more",
    }  # fmt: skip
    server = subprocess.Popen(
        [sys.executable, "-m", "api.cli", "api", "--port", str(port)], env=environment
    )
    try:
        options = [
            "--url",
            f"http://127.0.0.1:{port}",
            "--token",
            "secret-of-sixteen-or-more",
            "--timeout",
            "30",
        ]
        words = ["submit", "--json", "--workspace", ".", "--", "python", "train.py"]
        result = CliRunner().invoke(cli, [*options, *words])
    finally:
        server.terminate()
        server.wait(20)
    assert result.exit_code == 0, result.output
    assert "  sent 16.8 MB of 31.5 MB\n" in result.stderr
    sha256 = json.loads(result.stdout)["spec"]["workspace"]["sha256"]
    stored = Path(settings.storage_url.removeprefix("file://")) / archive_key(sha256)
    assert stored.stat().st_size > 30 << 20
