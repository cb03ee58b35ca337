"""The chart's Job that makes Secrets, as a process, against an API that answers as Kubernetes."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jobs.accounts.file import read_tokens
from jobs.accounts.token import digest_of
from tests.kubernetes_api import KubernetesServer
from tests.unit.helm.chart import rendered, wanted_secrets

SECRETS = "/api/v1/namespaces/ml/secrets"
TOKENS, REDIS = f"{SECRETS}/prod-spectrain-tokens", f"{SECRETS}/prod-spectrain-redis"
_MODULE = (
    "import pathlib, sys; import machine.kubernetes as k;"
    "k.KubernetesApi.of_this_pod.__func__.__defaults__ = (pathlib.Path(sys.argv.pop()),);"
    "from api.ops.make_secrets import main; main()"
)


@pytest.fixture
def api(tmp_path: Path) -> Iterator[KubernetesServer]:
    api = KubernetesServer(tmp_path)
    yield api
    api.close()


def run(api: KubernetesServer, **environment: str) -> subprocess.CompletedProcess[str]:
    given = {"SECRETS": json.dumps(wanted_secrets(rendered())), **api.environment, **environment}
    return subprocess.run(
        [sys.executable, "-c", _MODULE, str(api.credentials)],
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        check=False,
    )


def data(found: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}


def test_the_secrets_are_made_once_and_no_later_run_changes_one(api: KubernetesServer) -> None:
    first = run(api)
    assert (first.returncode, first.stderr) == (0, "")
    made = json.loads(json.dumps(api.objects))
    tokens, redis = data(made[TOKENS]), data(made[REDIS])
    random = [tokens[k] for k in ("client-token", "metrics-token", "viewer-token")]
    random += [redis["redis-password"]]
    assert len(set(random)) == 4
    assert all(len(text) >= 43 for text in random), "as good as 256 bits"
    assert tokens["tokens"] == tokens["client-token"]
    assert not any(text in first.stdout for text in random)
    again = run(api)
    assert again.stdout.count("kept") == 2
    assert api.objects == made


def test_prometheus_and_the_autoscaler_get_tokens_that_may_not_train(
    api: KubernetesServer, tmp_path: Path
) -> None:
    run(api)
    tokens = data(api.objects[TOKENS])
    (tmp_path / "tokens.toml").write_text(tokens["tokens.toml"])
    found = {token.digest: token.role for token in read_tokens(tmp_path / "tokens.toml")}
    assert found == {digest_of(tokens[f"{role}-token"]): role for role in ("metrics", "viewer")}
    for role in ("metrics", "viewer"):
        assert tokens[f"{role}-token"] not in tokens["tokens"] + tokens["tokens.toml"]


def test_what_an_older_chart_made_or_a_person_changed_stays(api: KubernetesServer) -> None:
    old = base64.b64encode(b"mine,yours").decode()
    meta = {"name": "prod-spectrain-tokens", "annotations": {"a": "b"}}
    api.objects[TOKENS] = {"metadata": meta, "data": {"tokens": old, "client-token": old}}
    ended = run(api)
    assert "added metrics-token, tokens.toml, viewer-token" in ended.stdout
    tokens = data(api.objects[TOKENS])
    assert tokens["tokens"] == tokens["client-token"] == "mine,yours"
    annotations = api.objects[TOKENS]["metadata"]["annotations"]
    assert annotations == {"a": "b", "helm.sh/resource-policy": "keep"}, "or Helm would delete it"


def test_an_api_that_refuses_ends_it_with_the_reason(api: KubernetesServer) -> None:
    api.refuses = 403
    ended = run(api)
    assert ended.returncode == 1
    assert "Cannot make the Secret prod-spectrain-tokens: HTTP Error 403" in ended.stderr
    assert "There is no Kubernetes API here" in run(api, KUBERNETES_SERVICE_HOST="").stderr
