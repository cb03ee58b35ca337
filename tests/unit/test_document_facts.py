"""Numbers in the documents are those of the code: each sentence is formatted from its constant."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import click
import pytest

from api.cli.main import cli
from api.drill.run import LEASE_SECONDS as DRILL_LEASE_SECONDS
from api.server import app, readiness
from api.server.connections import threads
from jobs.model import rules
from jobs.model.spec import JobSpec, Limits
from jobs.reaper import backup, reaper
from jobs.settings import Settings
from monitoring import preemption, step_counter
from monitoring.metrics import append_log
from monitoring.storage.s3 import bucket, clients
from worker import consumer
from worker.attempt import lease, outcome, retry
from worker.attempt.context import WorkerContext
from worker.files.logs import output
from worker.gpu import health
from worker.launch import fork_client
from worker.spot import notices, services, watch
from worker.spot.services import Aws, Azure, Http

ROOT = Path(__file__).parents[2]
CONCEPTS, DECISIONS = "docs/concepts", "docs/decisions"
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"]
PARTS = {2: "half", 3: "third", 4: "quarter", 5: "fifth", 10: "tenth"}
SETTINGS = Settings.model_construct()


def word(number: float) -> str:
    assert number == int(number), number
    return WORDS[int(number)]


def part(value: float) -> str:
    """`three fifths` for 0.6, `a fifth` for 0.2, `half` for 0.5."""
    found = Fraction(value).limit_denominator(100)
    name = PARTS[found.denominator]
    if found.numerator > 1:
        return f"{word(found.numerator)} {name}s"
    return name if name == "half" else f"a {name}"


def renewals() -> float:
    """How often a worker renews in one lease, by the worker's own thread."""
    context = SimpleNamespace(
        settings=SETTINGS, store=None, shutdown_state=SimpleNamespace(wake=None)
    )
    job = SimpleNamespace(request=None, spec=SimpleNamespace(limits=None))
    kept = lease.Lease(cast(WorkerContext, context), cast(Any, job))
    return SETTINGS.lease_seconds / kept._thread._seconds


def priorities() -> int:
    schema = JobSpec.model_json_schema()["properties"]["priority"]
    return int(schema["maximum"]) - int(schema["minimum"]) + 1


def lua(script: str, pattern: str) -> float:
    (found,) = re.findall(pattern, (ROOT / f"jobs/store/lua/{script}.lua").read_text())
    return float(found)


def default(command: str, option: str) -> Any:
    assert isinstance(cli, click.Group)
    (found,) = (one for one in cli.commands[command].params if option in one.opts)
    return found.default


FACTS: dict[str, tuple[str, Callable[[], str]]] = {
    "lease": (
        f"{CONCEPTS}/recovery.md",
        lambda: f"`SPECTRAIN_LEASE_SECONDS` long ({SETTINGS.lease_seconds:g} s by default)",
    ),
    "renewal": (
        f"{CONCEPTS}/recovery.md",
        lambda: (
            f"The worker renews it every {PARTS[int(renewals())]} of its duration, every "
            f"{SETTINGS.lease_seconds / renewals():g} s by default."
        ),
    ),
    "renewal, in the life of a job": (
        "docs/architecture.md",
        lambda: f"renews the lease every {PARTS[int(renewals())]} of its duration",
    ),
    "renewal, the decision": (
        f"{DECISIONS}/0006-renew-the-lease-five-times-in-its-duration.md",
        lambda: f"every `SPECTRAIN_LEASE_SECONDS` / {renewals():g}",
    ),
    "step counter": (
        f"{DECISIONS}/0020-the-step-counter-is-a-memory-mapped-file.md",
        lambda: f"a memory-mapped file of {step_counter._LAYOUT.size} bytes",
    ),
    "longest backoff": (
        f"{CONCEPTS}/queue.md",
        lambda: f"up to {rules.MAX_BACKOFF_SECONDS:g} seconds",
    ),
    "jitter": (
        f"{CONCEPTS}/queue.md",
        lambda: f"up to {part(rules._backoff(1.0, 1, 1.0) - 1)} of jitter",
    ),
    "priorities": (f"{CONCEPTS}/queue.md", lambda: f"Each of the {word(priorities())} priorities"),
    "absence": (
        f"{DECISIONS}/0013-a-silence-is-an-absence.md",
        lambda: f"After a silence of {part(reaper._ABSENCE)} of a lease",
    ),
    "rest of a reaper": (
        f"{DECISIONS}/0011-a-reaper-without-storage-judges-nobody.md",
        lambda: f"It gives up the lock for {part(reaper._REST)} of a lease.",
    ),
    "processor share of the backup": (
        f"{CONCEPTS}/recovery.md",
        lambda: f"with at most {part(1 / (1 + backup._REST))} of a processor",
    ),
    "a worker that stood still": (
        f"{DECISIONS}/0012-a-worker-that-stood-still-asks-before-it-publishes.md",
        lambda: f"publication pass began longer than {part(lease.MAX_PAUSE)} a lease ago",
    ),
    "reconnect": (
        f"{DECISIONS}/0003-reconnect-to-redis-twice-a-second.md",
        lambda: {0.5: "tries twice a second"}[consumer._RETRY_SECONDS],
    ),
    "reservation": (
        f"{CONCEPTS}/preemption.md",
        lambda: {60: "reserved for the waiting job for a minute"}[
            int(lua("moves", r"'reserved:' .*'EX', (\d+)\)"))
        ],
    ),
    "hidden entries": (
        f"{DECISIONS}/0007-scripts-keep-the-worker-registry.md",
        lambda: {3600: "kept for an hour"}[int(lua("workers/renew", r"NOW - (\d+)\)"))],
    ),
    "readiness": (
        f"{DECISIONS}/0033-check-the-environment-before-taking-a-job.md",
        lambda: f"a good result counts for {word(readiness._GOOD)} seconds",
    ),
    "memory in use": (
        f"{DECISIONS}/0009-watch-gpus-through-nvml.md",
        lambda: (
            f"more than {part(health._FREE_SHARE)} of its memory "
            f"(at least {health._FREE_BYTES >> 30} GiB) in use after the worker has run nothing "
            f"for {health.SETTLE_SECONDS:g} s"
        ),
    ),
    "a silent driver": (
        f"{DECISIONS}/0009-watch-gpus-through-nvml.md",
        lambda: {60: "does not answer for a minute"}[int(health.SILENT_SECONDS)],
    ),
    "fork server": (
        f"{CONCEPTS}/warm-start.md",
        lambda: f"gives no answer for {fork_client._ANSWER_SECONDS:g} s",
    ),
    "fork server, in the table": (
        "docs/failures.md",
        lambda: f"a fork server that hangs is replaced after {fork_client._ANSWER_SECONDS:g} s",
    ),
    "AWS": (
        f"{CONCEPTS}/preemption.md",
        lambda: f"`spot/instance-action`, every {Aws(Http('http://a', 1)).pause:g} s",
    ),
    "GCP": (
        f"{CONCEPTS}/preemption.md",
        lambda: f"{notices._GCP_PREEMPTION_SECONDS:g} s; {notices._GCP_MAINTENANCE_SECONDS:g} s |",
    ),
    "GCP, how often": (
        f"{CONCEPTS}/preemption.md",
        lambda: f"`instance/maintenance-event`, every {services._GCP_WAIT_SECONDS:g} s",
    ),
    "Azure": (
        f"{CONCEPTS}/preemption.md",
        lambda: {1: "Scheduled Events, every second"}[int(Azure(Http("http://a", 1)).pause)],
    ),
    "early notices": (
        f"{CONCEPTS}/preemption.md",
        lambda: f"takes effect {word(watch._LEAD_SECONDS / 60)} minutes before its time",
    ),
    "notices that outlive their time": (
        f"{CONCEPTS}/preemption.md",
        lambda: f"or {word(notices._OUTLIVED_SECONDS / 60)} minutes after the notice's time",
    ),
    "a silent metadata service": (
        f"{CONCEPTS}/preemption.md",
        lambda: (
            f"up to every {word(watch._MOST_SECONDS_NEVER / 60)} minutes, and one that has "
            f"answered before at least every {word(watch._MOST_SECONDS_AWAY)} seconds"
        ),
    ),
    "signals that come together": (
        f"{CONCEPTS}/preemption.md",
        lambda: (
            f"SIGTERM, any number within {word(preemption.TOGETHER_SECONDS)} seconds of the first"
        ),
    ),
    "metrics in memory": (
        "docs/failures.md",
        lambda: f"Rows of metrics wait in memory ({append_log._MOST >> 20} MiB).",
    ),
    "patience with storage": (
        "docs/failures.md",
        lambda: f"At the start and the end of an attempt, up to {retry.OUTAGE_SECONDS / 60:g} min.",
    ),
    "last lines": ("docs/failures.md", lambda: f"its last {outcome._TAIL_LINES} lines"),
    "stall": (
        "docs/failures.md",
        lambda: f"`limits.stall_seconds`, {cast(float, Limits().stall_seconds) / 60:g} min",
    ),
    "lease of the drill": (
        "docs/failures.md",
        lambda: (
            f"Its lease is {DRILL_LEASE_SECONDS:g} s instead of the "
            f"{SETTINGS.lease_seconds:g} s of `SPECTRAIN_LEASE_SECONDS`."
        ),
    ),
    "age of progress": (
        "docs/failures.md",
        lambda: (
            f"up to {DRILL_LEASE_SECONDS / renewals():g} s in the drill, "
            f"{SETTINGS.lease_seconds / renewals():g} s otherwise"
        ),
    ),
    "tries": (
        "docs/failures.md",
        lambda: (
            f"each request is tried {word(bucket._READ_TRIES)} times, each part of a large "
            f"file {word(clients._TRIES_OF_A_PART)} times"
        ),
    ),
    "tries, in the settings": (
        "docs/settings.md",
        lambda: (
            f"instead of {word(bucket._READ_TRIES)} times "
            f"({word(clients._TRIES_OF_A_PART)} for parts of large files)"
        ),
    ),
    "gc": (
        "docs/kubernetes.md",
        lambda: {7: "unchanged for a week"}[int(default("gc", "--older-than"))],
    ),
    "threads of the API": (
        "docs/kubernetes.md",
        lambda: f"one pod serves {threads._THREADS['records']} calls at a time",
    ),
    "largest body": (
        "docs/reference/http-api.md",
        lambda: f"The body is larger than {app.MAX_BODY_BYTES >> 20} MiB.",
    ),
    "port": ("README.md", lambda: f"else http://127.0.0.1:{SETTINGS.api_port}"),
    "progress bars": (
        "CHANGELOG.md",
        lambda: f"bar every {word(output._REWRITTEN_SECONDS)} seconds",
    ),
    "Python": (
        "README.md",
        lambda: "Python {} or later".format(
            tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
                "requires-python"
            ].removeprefix(">=")
        ),
    ),
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_number_in_a_document_is_the_one_in_the_code(fact: str) -> None:
    path, sentence = FACTS[fact]
    text = re.sub(r"\s+", " ", (ROOT / path).read_text())
    assert sentence() in text


def bars(bench: str) -> set[float]:
    """The limits that a bench writes as plain numbers."""
    (path,) = (ROOT / "bench").glob(f"*/{bench}.py")
    calls = (node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call))
    limits = (
        call.args[2]
        for call in calls
        if isinstance(call.func, ast.Attribute) and call.func.attr == "bar"
    )
    return {
        float(node.value)
        for limit in limits
        for node in ast.walk(limit)
        if isinstance(node, ast.Constant) and isinstance(node.value, int | float)
    }


@pytest.mark.parametrize(
    ("bench", "limit", "words"),
    [
        ("metrics", 6.0, "≤ {:g} µs"),
        ("plots", 2.0, "≤ {:g} ms each"),
        ("reader", 1.5, "≤ {:g} s"),
        ("reader", 5.0, "latest step ≤ {:g} ms"),
        ("overhead", 1.0, "≤ {:g} % of step time"),
        ("dispatch", 60.0, "≤ {:g} ms warm"),
        ("recovery", 2.0, "≤ {:g} s, of which"),
        ("recovery", 1.0, "restore and start ≤ {:g} s"),
        ("scale", 5.0, "≤ {:g} ms of Redis each"),
        ("scale", 10.0, "< {:g} % of a core"),
        ("storage", 0.8, "≥ {:g} \u00d7 boto3"),
        ("storage", 3.0, "≤ {:g} % slower"),
        ("gpu", 10.0, "held ≤ {:g} ms"),
    ],
)
def test_a_bar_in_the_document_is_the_one_of_the_bench(
    bench: str, limit: float, words: str
) -> None:
    text = (ROOT / "docs/benchmarks.md").read_text()
    (row,) = re.findall(rf"^\| `python -m bench {bench}` .*$", text, re.M)
    assert limit in bars(bench)
    assert words.format(limit) in row


def test_the_defaults_of_compose_are_those_in_the_document() -> None:
    compose = (ROOT / "docker-compose.yml").read_text()
    defaults = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    text = (ROOT / "docs/images.md").read_text()
    table = text.partition("\n## Settings\n")[2].partition("\n## ")[0]
    documented: dict[str, str] = {}
    for names, values in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| ([^|]+) \|", table, re.M):
        found = zip(re.findall(r"`(\w+)`", names), values.split(", "), strict=True)
        documented |= {name: value.strip().strip("`") for name, value in found}
    assert set(defaults) <= set(documented)
    for name, value in documented.items():
        if defaults.get(name) and defaults[name] != "experiments":
            assert value == defaults[name], name


def test_the_reasons_in_the_document_have_their_rules() -> None:
    text = (ROOT / f"{CONCEPTS}/queue.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| `(\w+)`[^|]* \| (\w+) \|$", text, re.M)
    found = {reason: (state, budget) for reason, state, budget in rows}
    assert found == {
        str(reason): (str(rule.then), str(rule.budget)) for reason, rule in rules.RULES.items()
    }
