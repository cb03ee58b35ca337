"""Every key and channel of the service in Redis, spelled in one place.

| key | type | content |
| --- | --- | --- |
| `job:{id}` | hash | the record (`jobs.model.record.job_from_hash`) |
| `job:{id}:events` | stream | what happened to the job, the newest 1000 events |
| `jobs:all` | sorted set | job ids by sequence |
| `jobs:state:{state}` | sorted set | job ids by sequence |
| `jobs:pool:{pool}:queued` | sorted set | job ids by order: priority, then place in its line |
| `jobs:pool:{pool}:queued:{owner}` | sorted set | those of one owner, '' for nobody, likewise |
| `jobs:pool:{pool}:running:{owner}` | sorted set | ids of its running jobs by the GPUs asked for |
| `jobs:pool:{pool}:owners` | sorted set | owners with a queued job by the time when they came |
| `jobs:pool:{pool}:turns` | hash | owner -> claims that count (`lua/queue.lua`) |
| `jobs:pool:{pool}:ranked` | sorted set | those who may be next, by rank (`lua/ranking.lua`) |
| `jobs:pool:{pool}:ranked:turns` | sorted set | the same by turns |
| `jobs:pool:{pool}:ranked:due` | sorted set | the same by when aging changes their rank |
| `jobs:pool:{pool}:ranked:changed` | set | owners whose rank is out of date |
| `jobs:pool:{pool}:ranked:aging` | string | seconds of aging that the ranks are for |
| `jobs:pool:{pool}:delayed` | sorted set | job ids by the time their backoff ends |
| `jobs:pool:{pool}:running` | sorted set | job ids by sequence |
| `pools` | set | every pool that ever had a job |
| `events` | stream | what happened to any job, about the newest 10,000 events |
| `followed:{id}` | string | exists while somebody reads the log or metrics of a running job |
| `sequence` | string | sequence number of the job that was submitted last |
| `idempotency:{owner}:{key}` | hash | job id and digest of an owner's Idempotency-Key; expires |
| `leases` | sorted set | ids of running jobs by the time their lease expires |
| `outbox` | sorted set | ids of queued jobs by the time their Celery message is due |
| `queue:{pool}` | list | the Celery messages of a pool, written by Celery |
| `claims` | hash | worker name -> id of the job that it runs |
| `workers` | sorted set | worker names by the time their registration expires |
| `worker:{name}` | hash | a registration (`jobs.model.workers.Worker`), kept an hour longer |
| `reserved:{worker}` | string | id of the job an eviction made room for; expires in a minute |
| `requests:{worker}` | channel | wakes a worker: something was requested of it or of its job |
| `counters` | hash | sums over all ended attempts (`jobs.store.counters`) |
| `dirty` | sorted set | ids of jobs without a current backup, by the time of their change |
| `notices` | sorted set | ids of notices for webhooks by the time they are due |
| `notices:content` | hash | each of these notices (`jobs.webhooks.message`) |
| `notices:tries` | hash | how often each was tried, if it was |
| `epoch` | string | id of the first job that was claimed; another one after a reset of Redis |
| `reaper` | string | the lock of the reaper at work: its token; expires |
| `reaped` | string | time of the reaper's last pass |
| `tokens` | hash | token id -> the token (`jobs.accounts.token.KeptToken`) |
| `tokens:version` | string | time of the last change of `tokens`, by which others see it |
| `tokens:used` | hash | token id -> when it was used last, to the minute |
| `limits` | hash | owner -> running jobs and GPUs allowed at once; `*` for all others |
| `audit` | stream | changes that belong to no job, about the newest 10,000 |
| `probes` | sorted set | processes by the time they last reported a storage probe |

Times are seconds since the epoch by the clock of Redis. All keys live on one primary: the scripts
derive keys from records, which a Redis Cluster does not allow.

The scripts build the same keys in `lua/prelude.lua` and `lua/queue.lua`;
`tests/integration/test_job_keys.py` holds both together.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from jobs.model.states import State

PoolIndex = Literal[
    "queued", "delayed", "running", "owners", "turns",
    "ranked", "ranked:turns", "ranked:due", "ranked:changed", "ranked:aging",
]  # fmt: skip


@dataclass(frozen=True)
class Keys:
    """The keys of one service, all with its `prefix`."""

    prefix: str

    # -- jobs ---------------------------------------------------------------------------------

    def job(self, job_id: str) -> str:
        """Hash: the record of a job."""
        return f"{self.prefix}job:{job_id}"

    def events(self, job_id: str) -> str:
        """Stream: the events of a job."""
        return f"{self.prefix}job:{job_id}:events"

    @property
    def all_events(self) -> str:
        """Stream: the events of all jobs."""
        return f"{self.prefix}events"

    def followed(self, job_id: str) -> str:
        """String: exists while somebody reads the log or metrics of a job."""
        return f"{self.prefix}followed:{job_id}"

    @property
    def jobs(self) -> str:
        """Sorted set: all job ids by sequence."""
        return f"{self.prefix}jobs:all"

    def jobs_in(self, state: State) -> str:
        """Sorted set: ids of the jobs in a state by sequence."""
        return f"{self.prefix}jobs:state:{state}"

    @property
    def sequence(self) -> str:
        """String: the sequence number of the last submission."""
        return f"{self.prefix}sequence"

    def idempotency(self, owner: str, key: str) -> str:
        """Hash: the job that an owner, '' for nobody, submitted with an Idempotency-Key."""
        return f"{self.prefix}idempotency:{owner}:{key}"

    # -- queues -------------------------------------------------------------------------------

    @property
    def pools(self) -> str:
        """Set: every pool that ever had a job."""
        return f"{self.prefix}pools"

    def pool(self, pool: str, index: PoolIndex) -> str:
        """An index of a pool: its queued, delayed or running jobs, or whose they are."""
        return f"{self.prefix}jobs:pool:{pool}:{index}"

    def of_owner(self, pool: str, index: Literal["queued", "running"], owner: str) -> str:
        """Sorted set: ids of the queued or running jobs of an owner in a pool."""
        return f"{self.pool(pool, index)}:{owner}"

    def queue(self, pool: str) -> str:
        """List: the Celery messages of a pool."""
        return f"{self.prefix}queue:{pool}"

    @property
    def outbox(self) -> str:
        """Sorted set: ids of queued jobs by the time their message is due."""
        return f"{self.prefix}outbox"

    @property
    def leases(self) -> str:
        """Sorted set: ids of running jobs by the time their lease expires."""
        return f"{self.prefix}leases"

    # -- workers ------------------------------------------------------------------------------

    @property
    def workers(self) -> str:
        """Sorted set: worker names by the time their registration expires."""
        return f"{self.prefix}workers"

    def worker(self, name: str) -> str:
        """Hash: the registration of a worker."""
        return f"{self.prefix}worker:{name}"

    @property
    def claims(self) -> str:
        """Hash: the job that each busy worker runs."""
        return f"{self.prefix}claims"

    def reserved(self, worker: str) -> str:
        """String: the job that the worker's next claim gets."""
        return f"{self.prefix}reserved:{worker}"

    def requests(self, worker: str) -> str:
        """Channel: wakes a worker."""
        return f"{self.prefix}requests:{worker}"

    # -- the service --------------------------------------------------------------------------

    @property
    def counters(self) -> str:
        """Hash: sums over all ended attempts."""
        return f"{self.prefix}counters"

    @property
    def dirty(self) -> str:
        """Sorted set: ids of jobs without a current backup."""
        return f"{self.prefix}dirty"

    @property
    def notices(self) -> str:
        """Sorted set: ids of notices for webhooks by the time they are due."""
        return f"{self.prefix}notices"

    @property
    def notices_content(self) -> str:
        """Hash: the notices."""
        return f"{self.prefix}notices:content"

    @property
    def notices_tries(self) -> str:
        """Hash: how often notices were tried."""
        return f"{self.prefix}notices:tries"

    @property
    def epoch(self) -> str:
        """String: identifies the data set of this Redis."""
        return f"{self.prefix}epoch"

    @property
    def reaper(self) -> str:
        """String: the lock of the reaper at work."""
        return f"{self.prefix}reaper"

    @property
    def reaped(self) -> str:
        """String: the time of the reaper's last pass."""
        return f"{self.prefix}reaped"

    @property
    def probes(self) -> str:
        """Sorted set: processes by the time they last reported a storage probe."""
        return f"{self.prefix}probes"

    # -- accounts -----------------------------------------------------------------------------

    @property
    def tokens(self) -> str:
        """Hash: the tokens by id."""
        return f"{self.prefix}tokens"

    @property
    def tokens_version(self) -> str:
        """String: the time of the last change of the tokens."""
        return f"{self.prefix}tokens:version"

    @property
    def tokens_used(self) -> str:
        """Hash: when each token was used last."""
        return f"{self.prefix}tokens:used"

    @property
    def limits(self) -> str:
        """Hash: what each owner may use at once."""
        return f"{self.prefix}limits"

    @property
    def audit(self) -> str:
        """Stream: changes that belong to no job."""
        return f"{self.prefix}audit"
