"""Runs the containers of the chart's pods in Docker, as the kubelet would: a pod at a time.

Command, environment, users, capabilities, read-only root, limits and volumes are those of the
rendered object. What a cluster does around them (scheduling, Services, probes by the kubelet) is
not here: a Service is an alias on one network, and a probe is carried out where a test asks for it.
"""

from __future__ import annotations

import base64
import re
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.images.stack import docker
from tests.unit.helm.chart import Object, pod_of

NAMESPACE = "ml"
_REFERENCE = re.compile(r"\$\((\w+)\)")


class Node:
    """One network, one set of volumes, and the Secrets and ConfigMaps that pods name."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.secrets: dict[str, Mapping[str, str]] = {}
        self.config_maps: dict[str, Mapping[str, str]] = {}
        self.credentials: Path | None = None  # of the Kubernetes API
        self.environment: Mapping[str, str] = {}  # what the kubelet gives to every container
        self._directory = directory
        self._volumes: set[str] = set()
        self._containers: list[str] = []
        docker("network", "create", name)

    @property
    def gateway(self) -> str:
        """The address of this machine for the containers."""
        form = "{{(index .IPAM.Config 0).Gateway}}"
        return docker("network", "inspect", "--format", form, self.name).stdout.strip()

    def end(self) -> None:
        """Removes containers, volumes and the network."""
        for container in self._containers:
            docker("rm", "--force", "--volumes", container, check=False)
        for volume in self._volumes:
            docker("volume", "rm", "--force", volume, check=False)
        docker("network", "rm", self.name, check=False)

    def keep_secret(self, found: Object) -> None:
        """Takes a Secret as the Kubernetes API has it."""
        data = {key: base64.b64decode(value).decode() for key, value in found["data"].items()}
        self.secrets[found["metadata"]["name"]] = data

    def start(self, found: Object, *, services: tuple[str, ...] = ()) -> Pod:
        """Starts the main container of an object's pod, after those that run before it."""
        pod = pod_of(found)
        for before in pod.get("initContainers", []):
            docker(*("run", "--rm"), *self._options(found, before))
        name = f"{self.name}-{found['metadata']['name']}-{len(self._containers)}"
        # Names of a Service, as pods of its namespace may write them.
        names = [n for s in services for n in (s, f"{s}.{NAMESPACE}", f"{s}.{NAMESPACE}.svc")]
        aliases = [word for one in names for word in ("--network-alias", one)]
        main = pod["containers"][0]
        docker("run", "--detach", "--name", name, *aliases, *self._options(found, main))
        self._containers.append(name)
        return Pod(found, name)

    def _options(self, found: Object, container: Object) -> list[str]:
        pod = pod_of(found)
        context = {**pod["securityContext"], **container["securityContext"]}
        capabilities = context["capabilities"]
        options = ["--network", self.name, "--security-opt", "no-new-privileges"]
        options += ["--sysctl", "net.ipv6.conf.all.disable_ipv6=0"]  # every pod has ::1
        options += ["--user", f"{context['runAsUser']}:{context['runAsGroup']}"]
        options += ["--group-add", str(context["fsGroup"])]
        options += ["--read-only"] if context["readOnlyRootFilesystem"] else []
        options += [f"--cap-drop={one}" for one in capabilities["drop"]]
        options += [f"--cap-add={one}" for one in capabilities.get("add", [])]
        options += [f"--memory={_bytes(container['resources']['limits']['memory'])}"]
        for name, value in self._environment(found, container).items():
            options += ["--env", f"{name}={value}"]
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            options += self._mount(found, volumes[mount["name"]], mount)
        first, *rest = container["command"]
        return [*options, "--entrypoint", first, container["image"], *rest]

    def _environment(self, found: Object, container: Object) -> dict[str, str]:
        values = dict(self.environment)
        fields = {"metadata.namespace": NAMESPACE, "metadata.name": found["metadata"]["name"]}
        for entry in container.get("env", []):
            if "valueFrom" not in entry:
                known = dict(values)
                text = entry["value"]
                values[entry["name"]] = _REFERENCE.sub(lambda m, k=known: k[m[1]], text)
            elif field := entry["valueFrom"].get("fieldRef"):
                values[entry["name"]] = fields[field["fieldPath"]]
            else:
                reference = entry["valueFrom"]["secretKeyRef"]
                values[entry["name"]] = self.secrets[reference["name"]][reference["key"]]
        return values

    def _mount(self, found: Object, volume: Object, mount: Object) -> list[str]:
        path, mode = mount["mountPath"], "ro" if mount.get("readOnly") else "rw"
        empty = volume.get("emptyDir", {})
        if empty.get("medium") == "Memory":
            return ["--tmpfs", f"{path}:rw,mode=1777,size={_bytes(empty['sizeLimit'])}"]
        if "emptyDir" in volume:
            return ["--volume", f"{self._volume(found, volume['name'])}:{path}:{mode}"]
        if claim := volume.get("persistentVolumeClaim"):
            return ["--volume", f"{self._volume(None, claim['claimName'])}:{path}:{mode}"]
        return ["--volume", f"{self._files(found, volume)}:{path}:ro"]

    def _volume(self, found: Object | None, name: str) -> str:
        """A volume that every user may write to, as the kubelet makes it by `fsGroup`."""
        full = "-".join([self.name, *([found["metadata"]["name"]] if found else []), name])
        if full not in self._volumes:
            self._volumes.add(full)
            docker("volume", "create", full)
            image = "spectrain-api:check"
            mount = ("--volume", f"{full}:/volume", "--user", "0:0", "--entrypoint", "chmod")
            docker("run", "--rm", *mount, image, "0777", "/volume")
        return full

    def _files(self, found: Object, volume: Object) -> Path:
        """The directory of a ConfigMap, a Secret or the credentials for the API."""
        if "projected" in volume:
            assert self.credentials is not None
            return self.credentials
        if "secret" in volume:
            source, data = volume["secret"], self.secrets[volume["secret"]["secretName"]]
        else:
            source, data = volume["configMap"], self.config_maps[volume["configMap"]["name"]]
        items = source.get("items") or [{"key": key, "path": key} for key in data]
        directory = self._directory / found["metadata"]["name"] / volume["name"]
        directory.mkdir(parents=True, exist_ok=True)
        for item in items:
            (directory / item["path"]).write_text(data[item["key"]])
        return directory


class Pod:
    """A pod that was started."""

    def __init__(self, found: Object, container: str) -> None:
        self.found = found
        self.container = container

    @property
    def address(self) -> str:
        """Its address on the network, as this machine reaches it."""
        form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
        return docker("inspect", "--format", form, self.container).stdout.strip()

    @property
    def logs(self) -> str:
        """What it printed."""
        ended = docker("logs", self.container, check=False)
        return ended.stdout + ended.stderr

    def passes(self, probe: str) -> bool:
        """Whether a probe of the main container would pass now."""
        main = pod_of(self.found)["containers"][0]
        found: dict[str, Any] = main[probe]
        if "exec" in found:
            command = found["exec"]["command"]
            return docker("exec", self.container, *command, check=False).returncode == 0
        ports = {port["name"]: port["containerPort"] for port in main["ports"]}
        url = f"http://{self.address}:{ports[found['httpGet']['port']]}{found['httpGet']['path']}"
        try:
            with urllib.request.urlopen(url, timeout=found.get("timeoutSeconds", 1)) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def exec(self, *command: str, check: bool = True) -> str:
        """What a command prints in it."""
        return docker("exec", self.container, *command, check=check).stdout

    def wait(self) -> int:
        """Waits for its end; returns the exit code."""
        return int(docker("wait", self.container).stdout)

    def stop(self) -> int:
        """Stops it as the kubelet does: the hook, SIGTERM, and its grace period."""
        main = pod_of(self.found)["containers"][0]
        if hook := main.get("lifecycle", {}).get("preStop"):
            docker("exec", self.container, *hook["exec"]["command"])
        grace = pod_of(self.found)["terminationGracePeriodSeconds"]
        docker("stop", "--time", str(grace), self.container)
        return self.wait()


@contextmanager
def node(name: str, directory: Path) -> Iterator[Node]:
    """A node, which is removed at the end."""
    made = Node(name, directory)
    try:
        yield made
    finally:
        made.end()


def _bytes(quantity: str) -> int:
    number, unit = re.fullmatch(r"(\d+)([KMGT]i)", quantity).groups()  # type: ignore[union-attr]
    return int(number) << {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40}[unit]
