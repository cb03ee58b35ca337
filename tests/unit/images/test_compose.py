"""What docker-compose.yml promises, as far as it can be read; `make image-check` starts it."""

from __future__ import annotations

import json
import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from jobs.accounts.file import read_tokens
from jobs.accounts.token import digest_of
from jobs.settings import Settings
from jobs.webhooks.message import key_of

ROOT = Path(__file__).parents[3]
DEPLOY = ROOT / "deploy/compose"
OURS = ("api", "worker", "worker-gpu", "reaper", "setup")


def compose(**variables: str) -> dict[str, Any]:
    """docker-compose.yml with its variables filled in, by default with their defaults."""

    def fill(match: re.Match[str]) -> str:
        return variables.get(match["name"], match["default"] or "")

    variables = {"SPECTRAIN_SECRETS": "./secrets", **variables}
    text = (ROOT / "docker-compose.yml").read_text()
    pattern = r"\$\{(?P<name>\w+)(?::?[-?](?P<default>[^}]*))?}"
    return dict(yaml.safe_load(re.sub(pattern, fill, text)))


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
everywhere = pytest.mark.parametrize("name", SERVICES)


def seconds(duration: str) -> float:
    number, unit = re.fullmatch(r"(\d+)([sm])", duration).groups()  # type: ignore[union-attr]
    return float(number) * {"s": 1, "m": 60}[unit]


# -- what is there --------------------------------------------------------------------------------


def test_without_a_profile_api_worker_reaper_and_redis_start() -> None:
    started = {name for name, service in SERVICES.items() if "profiles" not in service}
    assert started == {"api", "worker", "reaper", "redis", "setup"}
    profiles = {n: s["profiles"] for n, s in SERVICES.items() if "profiles" in s}
    assert profiles == {
        "worker-gpu": ["gpu"],
        "seaweedfs": ["s3"],
        "prometheus": ["monitoring"],
        "grafana": ["monitoring"],
    }


def test_only_the_api_is_published_and_on_loopback_and_grafana_where_it_was_asked_for() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if "ports" in service}
    assert published == {"api": ["127.0.0.1:8080:8080"], "grafana": ["127.0.0.1:3000:3000"]}


def test_the_gpu_worker_reserves_the_gpus_and_takes_the_jobs_of_a_pool_of_its_own() -> None:
    worker = SERVICES["worker-gpu"]
    (devices,) = worker["deploy"]["resources"]["reservations"]["devices"]
    assert devices == {"driver": "nvidia", "count": "all", "capabilities": ["gpu"]}
    assert worker["environment"]["SPECTRAIN_DEVICE"] == "cuda"
    assert worker["environment"]["SPECTRAIN_POOL"] == "gpu"
    assert "args" not in worker["build"], "the CUDA build"
    assert SERVICES["worker"]["build"]["args"] == {"TORCH": "cpu"}
    assert SERVICES["worker"]["image"] != worker["image"]


@everywhere
def test_an_image_of_others_is_pinned_and_ours_is_built_unless_a_registry_has_it(name: str) -> None:
    service = SERVICES[name]
    if name not in OURS:
        assert re.search(r":v?\d+\.\d+(\.\d+)?$", service["image"])
        return
    assert "pull_policy" not in service, "each `up` would build, and preempt the jobs that run"
    assert service["build"]["context"] == "."
    there = compose(SPECTRAIN_REGISTRY="registry.example.com/ml/")["services"][name]
    assert there["image"].startswith("registry.example.com/ml/spectrain-")


def test_redis_is_the_one_of_the_chart_and_keeps_everything_as_there() -> None:
    values = yaml.safe_load((ROOT / "helm/spectrain/values.yaml").read_text())["redis"]
    (script,) = SERVICES["redis"]["command"]
    repository = values["image"]["repository"].removeprefix("library/")
    assert SERVICES["redis"]["image"] == f"{repository}:{values['image']['tag']}"
    template = (ROOT / "helm/spectrain/templates/redis.yaml").read_text()
    wanted = template.partition('define "spectrain.redisConf" -}}')[2].partition("{{- end }}")[0]
    wanted = wanted.replace("{{ .Values.redis.maxMemory }}", values["maxMemory"])
    lines = [line for line in wanted.splitlines() if line and not line.startswith("#")]
    assert "appendonly yes" in lines
    for line in lines:
        assert line in script.splitlines()
    assert SERVICES["redis"]["volumes"] == ["redis:/data"]


# -- how it is held -------------------------------------------------------------------------------


@everywhere
def test_a_container_can_change_nothing_of_its_image_and_gain_no_right(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not {"cap_add", "privileged", "pid", "ipc", "network_mode"} & service.keys()
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", []))
    if name in OURS:
        assert "user" not in service, "the image's"
    else:
        assert int(service["user"].partition(":")[0]) > 0


@everywhere
def test_a_service_takes_no_more_of_the_machine_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    if name.startswith("worker"):
        # What remains is the job's; a machine that runs out of memory ends it first.
        assert (service["mem_limit"], service["cpus"]) == (0, 0)
        assert service["oom_score_adj"] > 0
        assert service["pids_limit"] == 32768, "a fork bomb ends with its job"
        given = compose(SPECTRAIN_WORKER_MEMORY="24gb", SPECTRAIN_WORKER_CPUS="6")
        there = given["services"][name]
        assert (there["mem_limit"], there["cpus"]) == ("24gb", 6)
    else:
        assert size(service["mem_limit"]) <= 2 << 30
        assert service["cpus"] == 1, "Docker refuses more than the machine has"
    if name == "redis":
        (most,) = re.findall(r"maxmemory (\w+)", service["command"][0])
        assert size(service["mem_limit"]) > 1.2 * size(most)


def size(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([mg])b", text).groups()  # type: ignore[union-attr]
    return int(number) << {"m": 20, "g": 30}[unit]


def test_files_of_this_directory_may_be_read_where_there_is_selinux() -> None:
    mounts = [v for s in SERVICES.values() for v in s.get("volumes", []) if v.startswith("./")]
    assert mounts
    assert all(mount.endswith(":ro,z") for mount in mounts)
    assert "* text=auto eol=lf" in (ROOT / ".gitattributes").read_text().splitlines()


@everywhere
def test_whoever_waits_for_a_service_waits_until_it_is_well_or_done(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        if how["condition"] == "service_completed_successfully":
            assert SERVICES[other]["restart"] == "no"
        else:
            assert how["condition"] == "service_healthy"
            assert other == "api" or "test" in SERVICES[other]["healthcheck"]
        if "profiles" in SERVICES[other] and SERVICES[other]["profiles"] != SERVICES[name].get(
            "profiles"
        ):
            assert how["required"] is False


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_has_longer_to_stop_than_it_takes_at_most(name: str) -> None:
    service = SERVICES[name]
    grace = float(service["environment"]["SPECTRAIN_GRACE_SECONDS"])
    assert grace == Settings.model_fields["grace_seconds"].default
    assert seconds(service["stop_grace_period"]) >= grace + 30
    assert service["restart"] == "unless-stopped", "one that is stopped stays stopped"


def test_only_api_workers_and_reaper_reach_redis_and_the_store() -> None:
    networks = compose()["networks"]
    reach = {
        network: {name for name, s in SERVICES.items() if network in s["networks"]}
        for network in networks
    }
    assert networks["redis"] == networks["store"] == {"internal": True}
    service = {"api", "worker", "worker-gpu", "reaper"}
    assert reach["redis"] == service | {"redis"}
    assert reach["store"] == service | {"seaweedfs", "setup"}
    assert reach["monitoring"] == {"api", "prometheus", "grafana"}


def test_all_that_keep_runs_keep_them_in_one_place() -> None:
    shared = {n: s for n, s in SERVICES.items() if n in {"api", "worker", "worker-gpu", "reaper"}}
    for service in shared.values():
        assert {"experiments:/experiments:z", "settings:/etc/spectrain:ro"} <= {*service["volumes"]}
        assert service["environment"]["SPECTRAIN_STORAGE_URL_FILE"] == "/etc/spectrain/storage-url"
    elsewhere = compose(SPECTRAIN_EXPERIMENTS="/mnt/runs")["services"]["worker"]["volumes"]
    assert "/mnt/runs:/experiments:z" in elsewhere


# -- settings and secrets -------------------------------------------------------------------------


@everywhere
def test_every_setting_is_one_of_the_service(name: str) -> None:
    known = {f"SPECTRAIN_{setting.upper()}" for setting in Settings.model_fields}
    known |= {f"{setting}_FILE" for setting in known} | {"SPECTRAIN_API_TOKEN_FILE"}
    given = SERVICES[name].get("environment", {})
    assert {variable for variable in given if variable.startswith("SPECTRAIN_")} <= known


@everywhere
def test_a_secret_is_a_file_that_the_container_has(name: str) -> None:
    service = SERVICES[name]
    has = {f"/run/secrets/{secret}" for secret in service.get("secrets", [])}
    text = yaml.safe_dump(service)
    if name == "prometheus":
        text += (DEPLOY / "prometheus.yml").read_text()
    if name == "seaweedfs":
        text += (DEPLOY / "seaweedfs.sh").read_text()
    assert set(re.findall(r"/run/secrets/[a-z0-9.-]+", text)) == has
    for variable, value in service.get("environment", {}).items():
        if re.search("PASSWORD|TOKEN|KEY|CREDENTIAL", variable):
            assert variable.endswith("_FILE")
            assert value in has


def test_the_secrets_are_made_once_for_the_containers_and_for_nobody_else(tmp_path: Path) -> None:
    script = tmp_path / "deploy/compose/secrets.sh"
    script.parent.mkdir(parents=True)
    script.write_text((DEPLOY / "secrets.sh").read_text())
    subprocess.run(["sh", str(script)], check=True, cwd="/", capture_output=True)
    secrets = tmp_path / "secrets"
    made = {path.name: path.read_text() for path in secrets.iterdir()}
    assert set(made) == set(compose()["secrets"])
    assert {f"./secrets/{name}" for name in made} == {
        secret["file"] for secret in compose()["secrets"].values()
    }
    assert stat.S_IMODE(secrets.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in secrets.iterdir()} == {0o444}

    mine, metrics = made["api-tokens"], made["metrics-token"]
    keys = re.findall(r"= ?(\w+)", made["s3-credentials"])[1:]
    redis = [made[f"redis-{user}password"] for user in ("", "reaper-", "worker-")]
    webhooks = made["webhook-secret"].removeprefix("whsec_")
    random = [mine, metrics, *redis, made["grafana-password"], webhooks, *keys]
    assert all(re.fullmatch("[0-9a-f]{64}", value) for value in random)
    assert len(set(random)) == len(random)
    assert made["webhook-secret"].startswith("whsec_")
    assert len(key_of(made["webhook-secret"])) == 48, "the key is what the base64 stands for"
    (token,) = read_tokens(secrets / "tokens.toml")
    assert (token.digest, token.role) == (digest_of(metrics), "metrics")

    assert (tmp_path / ".env").read_text() == "SPECTRAIN_SECRETS=./secrets\n"
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
    (tmp_path / ".env").write_text("MINE=1\nSPECTRAIN_SECRETS=/elsewhere\n")

    (secrets / "api-tokens").unlink()
    subprocess.run(["sh", str(script)], check=True, capture_output=True)
    again = {path.name: path.read_text() for path in secrets.iterdir()}
    changed = {name for name in made if again[name] != made[name]}
    assert changed == {"api-tokens"}
    assert (tmp_path / ".env").read_text() == "MINE=1\nSPECTRAIN_SECRETS=/elsewhere\n"
    assert "/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def choose(kept: Path, wanted: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", str(DEPLOY / "storage.sh"), str(kept)],
        env={"PATH": "/usr/bin:/bin", "SPECTRAIN_STORAGE_URL": wanted},
        capture_output=True,
        text=True,
        check=False,
    )


def test_where_runs_are_kept_is_decided_once(tmp_path: Path) -> None:
    kept = tmp_path / "storage-url"
    for _ in range(2):
        assert choose(kept).returncode == 0  # there is no `seaweedfs` here
        assert kept.read_text() == "file:///experiments\n"
    refused = choose(kept, "s3://mine/runs")
    assert refused.returncode == 1
    assert "are in file:///experiments" in refused.stderr
    assert kept.read_text() == "file:///experiments\n"
    kept.unlink()
    assert choose(kept, "s3://mine/runs").returncode == 0
    assert choose(kept).returncode == 1
    assert kept.read_text() == "s3://mine/runs\n"


def test_prometheus_asks_the_api_and_grafana_prometheus() -> None:
    (job,) = yaml.safe_load((DEPLOY / "prometheus.yml").read_text())["scrape_configs"]
    assert job["static_configs"] == [{"targets": ["api:8080"]}]
    (source,) = yaml.safe_load((DEPLOY / "grafana/datasources/spectrain.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"
    (provider,) = yaml.safe_load((DEPLOY / "grafana/dashboards/spectrain.yaml").read_text())[
        "providers"
    ]
    mounts = dict(volume.split(":")[:2] for volume in SERVICES["grafana"]["volumes"])
    dashboard = "./helm/spectrain/files/dashboard.json"
    assert mounts[dashboard] == f"{provider['options']['path']}/dashboard.json"
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == mounts[dashboard]
    for path in mounts:
        assert not path.startswith("./") or (ROOT / path).exists()
    board = json.loads((ROOT / dashboard).read_text())
    asked = {panel["datasource"]["uid"] for panel in board["panels"] if "datasource" in panel}
    variables = {f"${{{one['name']}}}" for one in board["templating"]["list"]}
    assert asked <= {source["uid"]} | variables
