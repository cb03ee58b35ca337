"""The Python client of a service: `from api.client import Client`."""

from api.client.client import Client as Client
from api.client.transport import ApiError as ApiError
from api.client.transport import Unreachable as Unreachable
from api.client.workspaces import CannotSendError as CannotSendError
