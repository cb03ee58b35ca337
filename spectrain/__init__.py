"""Spectrain from Python: `from spectrain import Client`."""

from api.client import ApiError as ApiError
from api.client import CannotSendError as CannotSendError
from api.client import Client as Client
from api.client import Metrics as Metrics
from api.client import SettingsRefusedError as SettingsRefusedError
from api.client import Unreachable as Unreachable
from api.schemas import JobView as JobView
from jobs.model.record import Job as Job
from jobs.model.spec import JobSpec as JobSpec
from jobs.model.states import Reason as Reason
from jobs.model.states import State as State
