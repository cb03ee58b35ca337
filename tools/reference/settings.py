"""The table in docs/settings.md: every setting, from the model of the settings."""

from __future__ import annotations

from jobs.settings import PREFIX, Settings
from tools.reference.markdown import code, table


def block() -> str:
    """The table."""
    rows = (
        [code(f"{PREFIX}{name.upper()}"), _default(field.default), field.description or ""]
        for name, field in Settings.model_fields.items()
    )
    return table(["variable", "default", "what it sets"], rows)


def _default(value: object) -> str:
    if isinstance(value, bool):
        return code(str(value).lower())
    return code(value) if str(value) else "none"
