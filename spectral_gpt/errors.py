"""What can go wrong before the first step, in words for whoever started the run."""

from __future__ import annotations


class WorkloadError(Exception):
    """The run cannot start; the message says why and what would help."""


class ConfigError(WorkloadError, ValueError):
    """A setting is unknown, of the wrong type or impossible; the message begins with its path."""


class CorpusError(WorkloadError):
    """The training text cannot be had or is not what it should be."""


class ResumeError(WorkloadError):
    """The run directory's checkpoint belongs to another model or another text."""
