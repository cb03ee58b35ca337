"""The verdicts of drills, in the records of the jobs that they were about."""

from __future__ import annotations

from redis import Redis

from jobs.errors import JobNotFoundError
from jobs.model.record import Proof, Verdict
from jobs.store.clock import redis_time
from jobs.store.scripts import Scripts


class Proofs:
    """Records verdicts; raises one of `jobs.errors.STORE_AWAY` while Redis is away."""

    def __init__(self, redis: Redis, prefix: str) -> None:
        self._redis = redis
        self._run = Scripts(redis, prefix)

    def record(self, job_id: str, verdict: Verdict) -> Proof:
        """Makes a verdict the last one of a job; raises `JobNotFoundError`."""
        proof = Proof(**dict(verdict), at=redis_time(self._redis))
        told = verdict.model_dump_json(
            include={"verdict", "step", "interruptions"}, exclude_none=True
        )
        status, _ = self._run("jobs/prove", job_id, proof.model_dump_json(), told)
        if status != "ok":
            raise JobNotFoundError(job_id)
        return proof
