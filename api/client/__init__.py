"""The Python client of a service: `from spectrain import Client`."""

from api.client.client import Client as Client
from api.client.metrics import Metrics as Metrics
from api.client.transport import ApiError as ApiError
from api.client.transport import SettingsRefusedError as SettingsRefusedError
from api.client.transport import Unreachable as Unreachable
from api.client.workspaces import CannotSendError as CannotSendError
