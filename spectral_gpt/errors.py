"""Errors that prevent a run from starting, with messages for the user."""

from __future__ import annotations


class WorkloadError(Exception):
    """The run cannot start; the message says why and what to change."""


class ConfigError(WorkloadError, ValueError):
    """A setting is unknown, of the wrong type or invalid; the message begins with its path."""


class CorpusError(WorkloadError):
    """The training text cannot be read, or its checksum is wrong."""


class ResumeError(WorkloadError):
    """The checkpoint in the run directory belongs to another model or text."""
