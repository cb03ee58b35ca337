"""`spectrain up` with its runs in an object store, which the command itself does not offer.

The arguments are those of the command; the environment names the store.
"""

from __future__ import annotations

import os
import sys
from functools import partial
from unittest.mock import patch

from api.cli.main import cli
from api.local import up as local
from api.local.service import LocalService

_NAMES = (
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "SPECTRAIN_GRACE_SECONDS",
    "SPECTRAIN_LEASE_SECONDS",
    "SPECTRAIN_S3_ENDPOINT_URL",
    "SPECTRAIN_STORAGE_URL",
)

if __name__ == "__main__":
    settings = {name: os.environ[name] for name in _NAMES}
    with patch.object(local, "LocalService", partial(LocalService, settings=settings)):
        sys.exit(cli())
