"""`spectrain up`: the whole service on this machine until Ctrl-C."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from api.client.nearest import DEFAULT_URL
from api.local.redis_server import NoRedisServerError
from api.local.service import CannotStartError, LocalService, running
from jobs.settings import Settings
from machine.control_groups import divide
from machine.readable import hide


def up(data: Path, host: str, port: int, workers: int | None, device: str) -> int:
    """Runs the service until Ctrl-C or SIGTERM; returns the exit code."""
    hide()
    umask = os.umask(Settings().umask_bits)
    divide()  # for the workers, which share the group of this process
    try:
        service = LocalService(
            data, host=host, port=port, workers=workers, device=device, umask=umask
        )
        with running(service):
            print(f"Spectrain is up at {service.url}")
            print(f"  runs     {service.data / 'experiments'}")
            print(f"  logs     {service.data / 'logs'}")
            print(f"  workers  {len(service.workers)}")
            if service.url != DEFAULT_URL:
                print(f"Other commands find it by: export SPECTRAIN_URL={service.url}")
            print(
                "Press Ctrl-C to stop; running jobs are saved and resume at the next `up`.",
                flush=True,
            )
            try:
                while True:
                    time.sleep(1.0)
                    service.tend()
            except KeyboardInterrupt:
                print("\nStopping; running jobs are saved and requeued ...", flush=True)
    except KeyboardInterrupt:
        return 130
    except (CannotStartError, NoRedisServerError) as error:
        print(f"Cannot start: {error}", file=sys.stderr)
        return 1
    return 0
