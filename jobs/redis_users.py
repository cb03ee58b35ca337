"""What each part of the service may do in Redis, as rules of its access control lists.

A worker runs other people's programs. Whoever gets hold of its password can change the records of
jobs, which is a worker's work, and can read no token, list no keys, and empty or configure nothing.
"""

from __future__ import annotations

from typing import Literal

Role = Literal["api", "worker", "reaper"]
ROLES: tuple[Role, ...] = ("api", "worker", "reaper")

# Keys, after the prefix, of jobs and of the workers that run them (`jobs.store.keys`).
_OF_JOBS = (
    "job:*", "jobs:*", "pools", "events", "leases", "outbox", "queue:*", "claims", "workers",
    "worker:*", "reserved:*", "counters", "dirty", "epoch", "limits", "notices",
    "notices:*", "reaper", "reaped", "probes",
)  # fmt: skip
_KEYS: dict[Role, tuple[str, ...]] = {
    "api": ("*",),
    "worker": (*_OF_JOBS, "followed:*"),
    "reaper": _OF_JOBS,
}
# Celery's, which have no prefix.
_OF_CELERY = ("_kombu.*", "unacked*")
# `INFO` says whether Redis may lose records.
_INFO = "-@dangerous +info"
# What changes data of these types, and no category with commands on all keys or on all scripts.
_OF_WORKERS = (
    "+@hash +@list +@set +@sortedset +@stream +@string +@pubsub +@transaction +@connection "
    "+del +unlink +exists +type +expire +pexpire +expireat +ttl +pttl +time "
    "+eval +evalsha +script|load +script|exists"
)


def rules(role: Role, prefix: str) -> str:
    """The rules of a user, for `ACL SETUSER`, without its name and its password."""
    keys = [f"{prefix}{key}" for key in _KEYS[role]]
    words = [
        "resetkeys", "resetchannels", *(f"~{key}" for key in (*keys, *_OF_CELERY)),
        f"&{prefix}requests:*" if role != "api" else f"&{prefix}*",
        "-@all", "+@all" if role == "api" else _OF_WORKERS, _INFO,
    ]  # fmt: skip
    return " ".join(words)
