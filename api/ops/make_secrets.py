"""Makes the Secrets of the chart once: `python -m api.ops.make_secrets`.

SECRETS is a JSON list of Secrets. Of each: `name`, `labels`; `random`, the keys of random texts;
`copies`, keys that begin as copies of others; and `files`, for each key of a file of tokens the
keys of those tokens with their roles. A value that is there is never changed: what is missing is
added, so that each run after the first changes nothing.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import secrets
import sys
import urllib.error
from collections.abc import Mapping
from typing import Any

from machine.kubernetes import KubernetesApi

# Helm deletes what an upgrade no longer contains, unless it says this.
_KEEP = {"helm.sh/resource-policy": "keep"}


def values(wanted: Mapping[str, Any], there: Mapping[str, str]) -> dict[str, str]:
    """The values of a Secret's keys: those that are there, and new ones for those that are not."""
    found = {key: value for key, value in there.items() if value}
    for key in wanted["random"]:
        found.setdefault(key, secrets.token_urlsafe(32))
    for key, source in wanted.get("copies", {}).items():
        found.setdefault(key, found[source])
    for key, roles in wanted.get("files", {}).items():
        entries = [_entry(token, role, found[token]) for token, role in roles.items()]
        found.setdefault(key, "\n".join(entries))
    return found


def _entry(name: str, role: str, text: str) -> str:
    """A token in the file of SPECTRAIN_TOKENS_FILE, which need not hold its text."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f'[[token]]\nname = "{name}"\nowner = "{name}"\nrole = "{role}"\nsha256 = "{digest}"\n'


def make(api: KubernetesApi, namespace: str, wanted: Mapping[str, Any]) -> str:
    """Makes one Secret or adds what it lacks; says which."""
    path, name = f"/api/v1/namespaces/{namespace}/secrets", wanted["name"]
    try:
        there = api.call("GET", f"{path}/{name}")
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        meta = {"name": name, "labels": wanted["labels"], "annotations": _KEEP}
        body = {"apiVersion": "v1", "kind": "Secret", "metadata": meta, "type": "Opaque"}
        api.call("POST", path, {**body, "data": _encoded(values(wanted, {}))})
        return f"Secret {name}: made"
    old = {k: base64.b64decode(v).decode() for k, v in (there.get("data") or {}).items()}
    new = values(wanted, old)
    added = sorted(key for key in new if not old.get(key))
    change = {"metadata": {"annotations": _KEEP}, "data": _encoded({k: new[k] for k in added})}
    api.call("PATCH", f"{path}/{name}", change)
    return f"Secret {name}: added {', '.join(added)}" if added else f"Secret {name}: kept"


def _encoded(data: Mapping[str, str]) -> dict[str, str]:
    return {key: base64.b64encode(value.encode()).decode() for key, value in data.items()}


def main() -> None:
    """Makes all Secrets that SECRETS names, or says why not."""
    api = KubernetesApi.of_this_pod(os.environ)
    if api is None:
        sys.exit("There is no Kubernetes API here, or no token for it.")
    for wanted in json.loads(os.environ["SECRETS"]):
        try:
            print(make(api, os.environ["POD_NAMESPACE"], wanted))
        except urllib.error.HTTPError as error:
            sys.exit(f"Cannot make the Secret {wanted['name']}: {error}: {error.read().decode()}")
        except OSError as error:
            sys.exit(f"Cannot make the Secret {wanted['name']}: {error}")


if __name__ == "__main__":
    main()
