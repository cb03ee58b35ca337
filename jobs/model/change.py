"""Changes of a submitted job: a JSON merge patch (RFC 7396) of a few fields."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from jobs.model.spec import JobSpec, LabelValue, Limits, Name
from workload.settings import Seconds, Strict


class LimitsChange(Strict):
    """New limits; one that is left out stays, null removes one."""

    run_seconds: Seconds | None = Field(
        None, description="Longest run time of all attempts together, seconds."
    )
    stall_seconds: Seconds | None = Field(
        None, description="Longest time without a step or a heartbeat, seconds."
    )
    stop_on_nan: bool = Field(True, description="Whether a NaN or infinite loss fails the job.")


class JobChange(Strict):
    """A change of a job; a field that is left out stays as it is."""

    priority: int = Field(5, ge=0, le=9, description="0 (lowest) to 9 (highest).")
    preemptible: bool = Field(True, description="Whether a job of higher priority may evict it.")
    limits: LimitsChange = Field(LimitsChange(), description="Limits to change.")
    labels: dict[Name, LabelValue | None] = Field(
        default_factory=dict, max_length=64, description="Labels to set; null removes one."
    )

    def apply(self, spec: JobSpec) -> JobSpec:
        """The specification with this change. Raises pydantic.ValidationError."""
        given: dict[str, Any] = {name: getattr(self, name) for name in self.model_fields_set}
        if "limits" in given:
            changed = self.limits.model_dump(exclude_unset=True)
            given["limits"] = Limits.model_validate({**spec.limits.model_dump(), **changed})
        if "labels" in given:
            labels = {**spec.labels, **self.labels}
            given["labels"] = {name: value for name, value in labels.items() if value is not None}
        return JobSpec.model_validate({**dict(spec), **given})
