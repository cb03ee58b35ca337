"""The WSGI application as it is served."""

from __future__ import annotations

from flask import Flask

from api.ops.reaper import reaping
from api.server.app import create_app
from jobs.settings import Settings


def application() -> Flask:
    """The application for the settings of the environment, and a reaper in a thread."""
    settings = Settings()
    app = create_app(settings)
    reaping(settings).start()
    return app
