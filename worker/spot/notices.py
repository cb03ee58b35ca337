"""Parses spot notices, the answers of clouds' metadata services about the end of a machine.

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

# How soon the machine may be gone if the notice gives no time.
_GCP_PREEMPTION_SECONDS = 30.0
_GCP_MAINTENANCE_SECONDS = 60.0
# A machine that still runs this long after its announced end has outlived its notice.
_OUTLIVED_SECONDS = 600.0
# The child gets at least this long, even after a late notice: there is nothing to lose.
_LEAST_SECONDS = 5.0
_AWS_ACTIONS = frozenset({"terminate", "stop", "hibernate"})
# The events that end the processes of a machine; a freeze of some seconds does not.
_AZURE_ENDS = frozenset({"Preempt", "Terminate", "Reboot", "Redeploy"})


class InvalidAnswerError(ValueError):
    """The answer does not have the format of that cloud's service."""


@dataclass(frozen=True)
class Notice:
    """The cloud reclaims this machine in `seconds`, at `at` if the notice gives a time."""

    cloud: Cloud
    action: str
    seconds: float
    at: datetime | None = None

    def __str__(self) -> str:
        when = "at once" if self.at is None else f"at {self.at:%H:%M:%S} UTC"
        return f"spot notice ({self.cloud}): {self.action} {when}"

    @property
    def left(self) -> float:
        """Seconds that a job has to stop, counted from the notice."""
        return max(self.seconds, _LEAST_SECONDS)

    def is_due(self, lead: float) -> bool:
        """Whether to leave now: at most `lead` seconds are left, and the notice was not outlived.

        Some notices come days ahead, and the machine is usable until shortly before its end.
        """
        return -_OUTLIVED_SECONDS < self.seconds <= lead


def aws_notice(body: bytes, now: datetime) -> Notice:
    """The notice in `spot/instance-action`; raises `InvalidAnswerError`."""
    document = _object(body)
    action, at = str(document.get("action")), _iso_time(document.get("time"))
    if action not in _AWS_ACTIONS or at is None:
        raise InvalidAnswerError(f"not an instance action: {_short(body)}")
    # Hibernation begins at the time of its notice.
    seconds = 0.0 if action == "hibernate" else (at - now).total_seconds()
    return Notice("aws", action, seconds, at)


def aws_rebalance(body: bytes) -> datetime:
    """The time of a rebalance recommendation; raises `InvalidAnswerError`."""
    at = _iso_time(_object(body).get("noticeTime"))
    if at is None:
        raise InvalidAnswerError(f"not a rebalance recommendation: {_short(body)}")
    return at


def gcp_preempted(body: bytes) -> Notice | None:
    """The notice in `instance/preempted`, None if there is none; raises `InvalidAnswerError`."""
    if (value := body.strip()) not in {b"TRUE", b"FALSE"}:
        raise InvalidAnswerError(f"neither TRUE nor FALSE: {_short(value)}")
    return Notice("gcp", "preempt", _GCP_PREEMPTION_SECONDS) if value == b"TRUE" else None


def gcp_maintenance(body: bytes) -> Notice | None:
    """The notice in `instance/maintenance-event`, None if there is none.

    A live migration is not a notice, since it ends no process.
    """
    if body.strip() != b"TERMINATE_ON_HOST_MAINTENANCE":
        return None
    return Notice("gcp", "terminate for maintenance", _GCP_MAINTENANCE_SECONDS)


def azure_notice(body: bytes, name: str, now: datetime) -> Notice | None:
    """The earliest event that ends the virtual machine `name`, None if there is none.

    The document also lists events of neighbouring machines. Raises `InvalidAnswerError`.
    """
    events = _object(body).get("Events")
    if not isinstance(events, list):
        raise InvalidAnswerError(f"not a list of events: {_short(body)}")
    found = [notice for event in events if (notice := _azure_event(event, name, now))]
    return min(found, key=lambda notice: notice.seconds, default=None)


def _azure_event(event: Any, name: str, now: datetime) -> Notice | None:
    if not isinstance(event, dict) or str(event.get("EventType")) not in _AZURE_ENDS:
        return None
    resources = event.get("Resources")
    if not isinstance(resources, list):
        return None
    if name.casefold() not in {str(each).casefold() for each in resources}:
        return None
    action, start = str(event["EventType"]).lower(), event.get("NotBefore")
    if event.get("EventStatus") == "Started" or not start:
        return Notice("azure", action, 0.0)
    at = http_time(str(start)) or _iso_time(start)
    if at is None:
        raise InvalidAnswerError(f"not a time: {start!r}")
    return Notice("azure", action, (at - now).total_seconds(), at)


def http_time(text: str) -> datetime | None:
    """The time in a header or an event, such as `Mon, 19 Sep 2016 18:29:47 GMT`."""
    try:
        at = parsedate_to_datetime(text)
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


# The vendor's strings in /sys/class/dmi/id, by cloud.
_DMI: Mapping[Cloud, Mapping[str, str]] = {
    "aws": {"sys_vendor": "Amazon EC2", "bios_vendor": "Amazon EC2"},
    "gcp": {"product_name": "Google Compute Engine"},
    "azure": {"chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
}


def cloud_by_vendor(dmi: Mapping[str, str], hypervisor_uuid: str) -> Cloud | None:
    """The cloud that the firmware names; older AWS machines show it only in Xen's UUID."""
    for cloud, strings in _DMI.items():
        if any(dmi.get(field, "").strip() == value for field, value in strings.items()):
            return cloud
    return "aws" if hypervisor_uuid.lower().startswith("ec2") else None


def _object(body: bytes) -> dict[str, Any]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise InvalidAnswerError(f"not a JSON object: {_short(body)}")
    return document


def _iso_time(text: Any) -> datetime | None:
    try:
        at = datetime.fromisoformat(text)
        return at.replace(tzinfo=at.tzinfo or UTC).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        return None


def _short(body: bytes) -> str:
    return repr(body[:80].decode(errors="replace"))
