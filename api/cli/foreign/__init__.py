"""Jobs of other schedulers, SkyPilot's and dstack's, said as jobs of this service."""

from api.cli.foreign.result import ForeignError as ForeignError
from api.cli.foreign.result import Translation as Translation
from api.cli.foreign.result import name_of as name_of
from api.cli.foreign.translation import TELLING as TELLING
from api.cli.foreign.translation import translate as translate
