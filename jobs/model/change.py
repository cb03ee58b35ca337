"""What may be changed of a job that was submitted: JSON merge patch (RFC 7396) of a few fields."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from jobs.model.spec import JobSpec, LabelValue, Limits, Name
from jobs.model.workload import Strict


class LimitsChange(Strict):
    """New limits; those left out stay, null takes one away."""

    run_seconds: float | None = Field(None, gt=0)
    stall_seconds: float | None = Field(None, gt=0)
    stop_on_nan: bool = True


class JobChange(Strict):
    """A change of a job; what is left out stays as it is."""

    priority: int = Field(5, ge=0, le=9, description="0 lowest, 9 highest.")
    preemptible: bool = True
    limits: LimitsChange = LimitsChange()
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
