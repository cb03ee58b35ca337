"""`spectrain redis-acl`: the users of Redis for the parts of the service."""

from __future__ import annotations

from jobs.redis_users import ROLES, rules
from jobs.settings import Settings


def redis_acl() -> int:
    """Prints a command for each user, to be given a password; returns the exit code."""
    prefix = Settings().redis_prefix
    for role in ROLES:
        print(f"ACL SETUSER spectrain-{role} on >PASSWORD {rules(role, prefix)}")
    return 0
