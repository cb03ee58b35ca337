"""The WSGI application as it is served."""

from __future__ import annotations

from flask import Flask

from api.ops.reaper import reaping
from api.server.app import create_app
from jobs.settings import Settings
from jobs.webhooks.sender import Sender


def application() -> Flask:
    """The application for the settings of the environment; a reaper and webhooks in threads."""
    settings = Settings()
    app = create_app(settings)
    reaping(settings).start()
    Sender(settings).start()
    return app
