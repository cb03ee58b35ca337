"""docs/reference/metrics.md: every Prometheus metric, as `GET /metrics` serves it."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from api.server.app import create_app
from api.server.context import EXTENSION
from bench.system.service import redis_server
from jobs.settings import Settings
from tools.reference.markdown import code, document, sentence, table

_HISTOGRAM_SUFFIXES = "`_bucket`, `_sum`, `_count`"


def families() -> list[Metric]:
    """The families of one scrape of a service that has seen a job and a request."""
    with tempfile.TemporaryDirectory() as directory, redis_server(Path(directory)) as redis:
        settings = Settings(redis_url=redis.url, storage_url=f"file://{directory}/runs")
        (Path(directory) / "runs").mkdir()
        app = create_app(settings)
        with closing(app.extensions[EXTENSION]):
            client = app.test_client()
            job = {"name": "example", "command": ["true"]}
            client.post("/v1/jobs", json=job)
            text = client.get("/metrics").get_data(as_text=True)
    return list(text_string_to_metric_families(text))


def block() -> str:
    """What the page says below its introduction."""
    rows = (_row(family) for family in sorted(families(), key=lambda family: family.name))
    return document(
        table(["metric", "type", "labels", "what it counts"], rows),
    )


def _row(family: Metric) -> list[str]:
    name = f"{family.name}_total" if family.type == "counter" else family.name
    labels = {label: None for sample in family.samples for label in sample.labels if label != "le"}
    kind = f"histogram: {_HISTOGRAM_SUFFIXES}" if family.type == "histogram" else family.type
    anchor = f'<a id="{name}"></a>{code(name)}'
    return [anchor, kind, ", ".join(map(code, labels)) or "none", sentence(family.documentation)]
