"""The calls on workers and pools: who is there, how much there is to do."""

from __future__ import annotations

from api.schemas import PoolList, WorkerList
from api.server.context import context
from api.server.routes import Routes
from jobs.model.workers import Pool, Worker

routes = Routes("workers")


@routes.call("GET", "/v1/workers", answer=WorkerList)
def list_workers() -> WorkerList:
    """List the workers that are there, and what each does."""
    return WorkerList(workers=context().registry.workers())


@routes.call("POST", "/v1/workers/<name>/drain", answer=Worker, status=202)
def drain_worker(name: str) -> Worker:
    """Drain a worker: it ends the job it runs and takes no further one."""
    return context().registry.drain(name)


@routes.call("POST", "/v1/workers/<name>/undrain", answer=Worker, status=202)
def undrain_worker(name: str) -> Worker:
    """Let a drained worker take jobs again."""
    return context().registry.undrain(name)


@routes.call("GET", "/v1/pools", answer=PoolList)
def list_pools() -> PoolList:
    """List the pools: workers by what they do, and jobs.

    `wanted` is what an autoscaler follows: a queue alone would scale a training worker away.
    """
    return PoolList(pools=context().registry.pools())


@routes.call("GET", "/v1/pools/<name>", answer=Pool)
def get_pool(name: str) -> Pool:
    """Ask how full a pool is; one that never had a job is empty, so that it can be scaled."""
    return context().registry.pool(name)
