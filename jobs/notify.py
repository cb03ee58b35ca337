"""Who is told of a job's life: the `notify` section of a job."""

from __future__ import annotations

from typing import Annotated, Literal, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from workload.settings import Strict

# What is told; the script that writes an event decides which it is (`jobs/store/lua/prelude.lua`).
Notice = Literal[
    "submitted", "started", "finished", "failed", "cancelled", "paused", "preempted", "lost",
    "retried",
]  # fmt: skip
NOTICES: tuple[Notice, ...] = get_args(Notice)


def _address(url: str) -> str:
    try:
        parts = urlsplit(url)
        known = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:  # such as http://[ or a port that is no number
        known = False
    if not known:
        raise ValueError("https://host/path, or http://")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ValueError("no name, password or fragment in the URL")
    return url


WebhookUrl = Annotated[
    str, Field(max_length=2048, pattern=r"^[\x21-\x7e]+$"), AfterValidator(_address)
]


class Webhook(Strict):
    """An address that is told of some events of the job."""

    url: WebhookUrl = Field(
        description="Where to send them, by POST. Everybody who may read the job sees it."
    )
    on: list[Notice] = Field(
        min_length=1,
        max_length=len(NOTICES),
        description="Events to send. `finished`: it succeeded. `preempted`: it made room, or was "
        "preempted, and is queued again. `lost`: its worker vanished. `retried`: an attempt "
        "failed, and another one follows.",
    )
    format: Literal["json", "slack", "text"] = Field(
        "json",
        description="`json`: the whole event. `slack`: a message for Slack or Mattermost. `text`: "
        "a sentence, as ntfy takes it.",
    )
