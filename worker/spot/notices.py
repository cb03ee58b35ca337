"""What the metadata services of clouds say about the end of a machine: read here, purely.

AWS: docs.aws.amazon.com/AWSEC2/latest/UserGuide/spot-instance-termination-notices.html
GCP: cloud.google.com/compute/docs/instances/create-use-spot#detect-preemption
Azure: learn.microsoft.com/azure/virtual-machines/linux/scheduled-events
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Literal

Cloud = Literal["aws", "gcp", "azure"]

# How soon the machine may be gone where the notice names no time.
_GCP_PREEMPTION_SECONDS = 30.0
_GCP_MAINTENANCE_SECONDS = 60.0
# A machine that is still there so long after it was to go has outlived its notice.
_OUTLIVED_SECONDS = 600.0
# A notice that comes late leaves the child so long all the same: there is nothing to lose.
_LEAST_SECONDS = 5.0
_AWS_ACTIONS = frozenset({"terminate", "stop", "hibernate"})
# All that end the processes of a machine: a freeze of seconds does not.
_AZURE_ENDS = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})


class NotUnderstoodError(ValueError):
    """The answer is not what the service of that cloud says."""


@dataclass(frozen=True)
class Notice:
    """This machine goes away in `seconds`, at `at` where the notice names a time."""

    cloud: Cloud
    action: str
    seconds: float
    at: datetime | None = None

    def __str__(self) -> str:
        when = "at once" if self.at is None else f"at {self.at:%H:%M:%S} UTC"
        return f"spot notice ({self.cloud}): {self.action} {when}"

    @property
    def left(self) -> float:
        """The seconds that a job has, from the notice on."""
        return max(self.seconds, _LEAST_SECONDS)

    def is_due(self, lead: float) -> bool:
        """Whether to leave now: less than `lead` seconds are left, and it was not outlived.

        Some are given days ahead: until shortly before its end the machine can be used.
        """
        return -_OUTLIVED_SECONDS < self.seconds <= lead


def aws_notice(body: bytes, now: datetime) -> Notice:
    """The notice of `spot/instance-action`; raises `NotUnderstoodError`."""
    said = _object(body)
    action, at = str(said.get("action")), _iso_time(said.get("time"))
    if action not in _AWS_ACTIONS or at is None:
        raise NotUnderstoodError(f"no interruption of an instance: {_short(body)}")
    # Hibernation begins with its notice.
    seconds = 0.0 if action == "hibernate" else (at - now).total_seconds()
    return Notice("aws", action, seconds, at)


def aws_rebalance(body: bytes) -> datetime:
    """When a rebalance was recommended; raises `NotUnderstoodError`."""
    at = _iso_time(_object(body).get("noticeTime"))
    if at is None:
        raise NotUnderstoodError(f"no recommendation: {_short(body)}")
    return at


def gcp_preempted(body: bytes) -> Notice | None:
    """The notice of `instance/preempted`, None without one; raises `NotUnderstoodError`."""
    if (said := body.strip()) not in {b"TRUE", b"FALSE"}:
        raise NotUnderstoodError(f"neither TRUE nor FALSE: {_short(said)}")
    return Notice("gcp", "preempt", _GCP_PREEMPTION_SECONDS) if said == b"TRUE" else None


def gcp_maintenance(body: bytes) -> Notice | None:
    """The notice of `instance/maintenance-event`, None without one.

    A live migration ends no process, and is none.
    """
    if body.strip() != b"TERMINATE_ON_HOST_MAINTENANCE":
        return None
    return Notice("gcp", "terminate for maintenance", _GCP_MAINTENANCE_SECONDS)


def azure_notice(body: bytes, name: str, now: datetime) -> Notice | None:
    """The first event that ends the virtual machine `name`, None without one.

    The document tells of the neighbours' events too. Raises `NotUnderstoodError`.
    """
    events = _object(body).get("Events")
    if not isinstance(events, list):
        raise NotUnderstoodError(f"no list of events: {_short(body)}")
    found = [notice for event in events if (notice := _azure_event(event, name, now))]
    return min(found, key=lambda notice: notice.seconds, default=None)


def _azure_event(event: Any, name: str, now: datetime) -> Notice | None:
    if not isinstance(event, dict) or str(event.get("EventType")) not in _AZURE_ENDS:
        return None
    concerned = event.get("Resources")
    if not isinstance(concerned, list):
        return None
    if name.casefold() not in {str(resource).casefold() for resource in concerned}:
        return None
    action, start = str(event["EventType"]).lower(), event.get("NotBefore")
    if event.get("EventStatus") == "Started" or not start:
        return Notice("azure", action, 0.0)
    at = http_time(str(start)) or _iso_time(start)
    if at is None:
        raise NotUnderstoodError(f"no time: {start!r}")
    return Notice("azure", action, (at - now).total_seconds(), at)


def http_time(text: str) -> datetime | None:
    """The time that a header or an event names like `Mon, 19 Sep 2016 18:29:47 GMT`."""
    try:
        at = parsedate_to_datetime(text)
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# The vendor's words in /sys/class/dmi/id, by cloud.
_DMI: Mapping[Cloud, Mapping[str, str]] = {
    "aws": {"sys_vendor": "Amazon EC2", "bios_vendor": "Amazon EC2"},
    "gcp": {"product_name": "Google Compute Engine"},
    "azure": {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
}


def cloud_by_vendor(dmi: Mapping[str, str], hypervisor_uuid: str) -> Cloud | None:
    """The cloud that the machine's firmware names; older AWS machines only say so by Xen."""
    for cloud, words in _DMI.items():
        if any(dmi.get(field, "").strip() == word for field, word in words.items()):
            return cloud
    return "aws" if hypervisor_uuid.lower().startswith("ec2") else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict):
        raise NotUnderstoodError(f"no JSON object: {_short(body)}")
    return said


def _iso_time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _short(body: bytes) -> str:
    return repr(body[:80].decode(errors="replace"))
