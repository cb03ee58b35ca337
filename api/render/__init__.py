"""What people see in a terminal: tables, curves and texts, without what would act on it."""

from api.render.jobs import job_table as job_table
from api.render.jobs import story as story
from api.render.terminal import console as console
from api.render.terminal import heading as heading
from api.render.workers import pool_table as pool_table
from api.render.workers import worker_table as worker_table
