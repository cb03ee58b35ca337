"""What a metadata service says, and whether that is a notice."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jobs.settings import Settings
from worker.spot.notices import (
    InvalidAnswerError,
    Notice,
    aws_notice,
    aws_rebalance,
    azure_notice,
    cloud_by_vendor,
    gcp_maintenance,
    gcp_preempted,
)
from worker.spot.watch import watched_service

NOW = datetime(2026, 11, 23, 5, 10, 30, tzinfo=UTC)


def event(**changes: Any) -> dict[str, Any]:
    """A preemption, as Azure tells it with api-version=2020-07-01."""
    return {
        "EventId": "602d9444-d2cd-49c7-8624-8643e7171297",
        "EventType": "Preempt",
        "ResourceType": "VirtualMachine",
        "Resources": ["train_7"],
        "EventStatus": "Scheduled",
        "NotBefore": "Mon, 23 Nov 2026 05:11:00 GMT",
        "Description": "",
        "EventSource": "Platform",
        "DurationInSeconds": -1,
        **changes,
    }


def azure(*events: Any, name: str = "train_7") -> Notice | None:
    body = json.dumps({"DocumentIncarnation": 2, "Events": list(events)}).encode()
    return azure_notice(body, name, NOW)


@pytest.mark.parametrize("action", ["terminate", "stop"])
def test_an_interruption_of_aws_says_what_and_when(action: str) -> None:
    body = f'{{"action": "{action}", "time": "2026-11-23T05:12:30Z"}}'.encode()
    notice = aws_notice(body, NOW)
    assert notice.seconds == 120
    assert str(notice) == f"spot notice (aws): {action} at 05:12:30 UTC"


def test_hibernation_begins_with_its_notice() -> None:
    body = b'{"action": "hibernate", "time": "2026-11-23T05:12:30Z"}'
    assert aws_notice(body, NOW).seconds == 0


def test_a_recommendation_of_aws_names_its_time_and_is_no_notice() -> None:
    body = b'{"noticeTime": "2026-11-23T05:10:00Z"}'
    assert aws_rebalance(body) == NOW - timedelta(seconds=30)
    with pytest.raises(InvalidAnswerError):
        aws_notice(body, NOW)


def test_a_preemption_of_gcp_leaves_thirty_seconds() -> None:
    notice = gcp_preempted(b"TRUE\n")
    assert notice is not None
    assert notice.seconds == 30
    assert str(notice) == "spot notice (gcp): preempt at once"
    assert gcp_preempted(b"FALSE") is None


def test_maintenance_of_gcp_is_a_notice_where_it_ends_the_machine_and_not_where_it_moves_it() -> (
    None
):
    notice = gcp_maintenance(b"TERMINATE_ON_HOST_MAINTENANCE")
    assert notice is not None
    assert notice.seconds == 60
    assert gcp_maintenance(b"MIGRATE_ON_HOST_MAINTENANCE") is None
    assert gcp_maintenance(b"NONE") is None


def test_an_event_of_azure_is_a_notice_for_the_machines_that_it_names() -> None:
    notice = azure(event(Resources=["train_3", "TRAIN_7"]))
    assert notice is not None
    assert notice.seconds == 30
    assert str(notice) == "spot notice (azure): preempt at 05:11:00 UTC"
    assert azure(event(Resources=["train_3", "train_77"])) is None
    assert azure() is None


@pytest.mark.parametrize("kind", ["Terminate", "Reboot", "Redeploy"])
def test_all_that_ends_the_processes_of_an_azure_machine_is_a_notice(kind: str) -> None:
    notice = azure(event(EventType=kind))
    assert notice is not None
    assert notice.action == kind.lower()


def test_a_freeze_of_seconds_is_no_notice_and_the_nearest_of_several_counts() -> None:
    assert azure(event(EventType="Freeze")) is None
    later = event(EventType="Reboot", NotBefore="Mon, 23 Nov 2026 06:00:00 GMT")
    notice = azure(event(EventType="Freeze", NotBefore=""), later, event())
    assert notice is not None
    assert notice.action == "preempt"


def test_an_event_that_has_started_is_due_at_once() -> None:
    notice = azure(event(EventStatus="Started", NotBefore=""))
    assert notice is not None
    assert notice.seconds == 0
    assert notice.left == 5, "what there is, is given to the child"


@pytest.mark.parametrize(
    ("seconds", "due"),
    [(120, True), (0, True), (-30, True), (121, False), (7 * 86400, False), (-601, False)],
    ids=["two minutes", "now", "late", "not yet", "in a week", "outlived"],
)
def test_a_machine_is_used_until_shortly_before_its_end(seconds: float, due: bool) -> None:
    assert Notice("azure", "redeploy", seconds).is_due(120) is due


GARBAGE: list[bytes] = [
    b"", b"{", b"null", b"[]", b"3", b"\xff\xfe\x00", b"<html>502 Bad Gateway</html>", b"[" * 99999,
    b'{"action": "terminate"}', b'{"action": "terminate", "time": "soon"}',
    b'{"action": "dance", "time": "2026-11-23T05:12:30Z"}',
    b'{"action": ["terminate"], "time": 3}', b'{"time": "2026-11-23T05:12:30Z"}',
    b'{"action": "terminate", "time": "0001-01-01T00:00:00+23:00"}',
    b'{"Events": {}}', b'{"Events": null}', b"true", b"TRUE?", b"TRU",
]  # fmt: skip


@pytest.mark.parametrize(
    "reads",
    [lambda b: aws_notice(b, NOW), aws_rebalance, gcp_preempted,
     lambda b: azure_notice(b, "train_7", NOW)],
    ids=["aws", "rebalance", "gcp", "azure"],
)  # fmt: skip
@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_understood_is_no_notice(body: bytes, reads: Callable[[bytes], Any]) -> None:
    with pytest.raises(InvalidAnswerError):
        reads(body)


@given(st.binary().filter(lambda b: b.strip() not in {b"TRUE", b"TERMINATE_ON_HOST_MAINTENANCE"}))
def test_no_bytes_are_taken_for_a_notice_or_raise_anything_else(body: bytes) -> None:
    for reads in (lambda b: aws_notice(b, NOW), gcp_preempted,
                  lambda b: azure_notice(b, "", NOW)):  # fmt: skip
        with contextlib.suppress(InvalidAnswerError):
            assert reads(body) is None
    assert gcp_maintenance(body) is None


VALUES: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*event()]), VALUES), VALUES)
def test_events_like_no_other_are_no_notice_for_this_machine(
    changes: dict[str, Any], other: Any
) -> None:
    changes.setdefault("Resources", ["train_3"])
    with contextlib.suppress(InvalidAnswerError):
        assert azure(event(**changes), other) is None


# -- which cloud it is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dmi", "uuid", "cloud"),
    [
        ({"sys_vendor": "Amazon EC2\n"}, "", "aws"),
        ({"sys_vendor": "Xen", "bios_vendor": "Xen"}, "ec2e1916-9099-7caf-fd21-012345", "aws"),
        ({"sys_vendor": "Google", "product_name": "Google Compute Engine"}, "", "gcp"),
        ({"sys_vendor": "Microsoft Corporation",
          "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"}, "", "azure"),
        ({"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7125-0001"}, "", None),
        ({"sys_vendor": "Dell Inc.", "product_name": "PowerEdge R750"}, "", None),
        ({}, "", None),
    ],
    ids=["aws", "aws, older", "gcp", "azure", "Hyper-V at home", "a machine of one's own", "none"],
)  # fmt: skip
def test_the_firmware_says_which_cloud_it_is(
    dmi: dict[str, str], uuid: str, cloud: str | None, tmp_path: Path
) -> None:
    assert cloud_by_vendor(dmi, uuid) == cloud
    files = tmp_path / "class/dmi/id"
    files.mkdir(parents=True)
    for name, text in dmi.items():
        (files / name).write_text(text)
    if uuid:
        (tmp_path / "hypervisor").mkdir()
        (tmp_path / "hypervisor/uuid").write_text(uuid)
    service = watched_service(Settings(), tmp_path)
    assert (None if service is None else type(service).__name__.lower()) == cloud
    assert watched_service(Settings(spot="off"), tmp_path) is None
    assert type(watched_service(Settings(spot="gcp"), tmp_path)).__name__ == "Gcp"
