"""The Flask application: the one place that wires store, storage and views together."""

from __future__ import annotations

import json

from flask import Flask
from redis import Redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from werkzeug.routing import BaseConverter

from api.page.serving import serve_page
from api.schemas import JOB_ID, SHA256
from api.server.access.access import Access
from api.server.access.guard import Guard
from api.server.context import EXTENSION, AppContext
from api.server.dates import without_odd_dates
from api.server.listing import Listing
from api.server.openapi import describe_api
from api.server.problems import handle_problems
from api.server.prometheus import EXPORTER, Exporter
from api.server.readiness import Readiness
from api.server.reference import reference_page
from api.server.views import accounts, forks, health, jobs, runs, workers, workspaces
from jobs.accounts.book import TokenBook
from jobs.accounts.store import TokenStore
from jobs.checks import Checks
from jobs.forecast.forecast import Forecast
from jobs.messages import Messenger
from jobs.settings import Settings, connect
from jobs.store.jobs import open_store
from jobs.store.registry import WorkerRegistry
from monitoring.storage.open import open_storage
from monitoring.storage.probe import StorageProbe

MAX_BODY_BYTES = 1 << 20
# Timeout of Redis, seconds: a caller waits for the answer.
_REDIS_TIMEOUT = 2.0


class Sha256Converter(BaseConverter):
    """Matches a SHA-256 in a path; any other text is a 404."""

    regex = SHA256


class JobIdConverter(BaseConverter):
    """Matches a job id in a path; any other text is a 404."""

    regex = JOB_ID


class FilePathConverter(BaseConverter):
    """Matches the path of a file, which may have any character, a newline too."""

    part_isolating = False
    regex = r"[^/][\s\S]*?"
    weight = 200


def create_app(settings: Settings | None = None) -> Flask:
    """The application for `settings`, by default those of the environment.

    Raises `SettingsError` and `StorageError` for settings that cannot be used.
    """
    settings = settings or Settings()
    redis = _connect(settings)
    store = open_store(redis, settings)
    storage = open_storage(settings.storage_url, **settings.storage_options)
    token_store = TokenStore(redis, settings.redis_prefix)
    book = TokenBook(settings, token_store)
    access = Access(settings, book)
    app = Flask("api", static_folder=None)
    registry = WorkerRegistry(
        redis, prefix=settings.redis_prefix, lease_seconds=settings.lease_seconds
    )
    app.extensions[EXTENSION] = AppContext(
        settings=settings,
        store=store,
        registry=registry,
        forecast=Forecast(store, registry, settings.eviction_min_seconds),
        listing=Listing(store),
        messenger=Messenger(settings, store),
        storage=storage,
        readiness=Readiness(Checks(redis, settings, StorageProbe(storage, settings.storage_url))),
        tokens=book,
        token_store=token_store,
        access=access,
    )
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
    app.url_map.converters["job_id"] = JobIdConverter
    app.url_map.converters["sha256"] = Sha256Converter
    app.url_map.converters["path"] = FilePathConverter
    app.url_map.merge_slashes = False
    groups = (
        jobs.routes,
        forks.routes,
        runs.routes,
        workspaces.routes,
        workers.routes,
        accounts.routes,
        health.routes,
    )
    for routes in groups:
        app.register_blueprint(routes.blueprint)
    calls = [call for routes in groups for call in routes.calls]
    description = describe_api(calls)
    app.config[health.OPENAPI] = json.dumps(description)
    app.config[health.REFERENCE] = reference_page(description)
    guard = Guard(settings, access)
    exporter = app.extensions[EXPORTER] = Exporter(app.extensions[EXTENSION], guard.refused)
    exporter.time_requests(app)
    guard.watch(app, public={(call.method, call.rule) for call in calls if call.public})
    handle_problems(app)
    book.wait_until_tried(_REDIS_TIMEOUT)
    serve_page(app)
    app.wsgi_app = without_odd_dates(app.wsgi_app)  # type: ignore[assignment]
    return app


def _connect(settings: Settings) -> Redis:
    """A client that fails sooner than that of a worker; one retry replaces a stale connection."""
    return connect(
        settings,
        socket_connect_timeout=_REDIS_TIMEOUT,
        socket_timeout=_REDIS_TIMEOUT,
        retry=Retry(NoBackoff(), 1),
    )
