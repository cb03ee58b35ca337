"""The calls on workers and pools: who is there, how much there is to do."""

from __future__ import annotations

from api.routes import Routes
from api.service import service
from api.wire import PoolList, WorkerList

routes = Routes("workers")


@routes.call("GET", "/v1/workers", answer=WorkerList)
def list_workers() -> WorkerList:
    """List the workers that are there, and what each does."""
    return WorkerList(workers=service().register.workers())


@routes.call("GET", "/v1/pools", answer=PoolList)
def list_pools() -> PoolList:
    """List the pools: workers by what they do, and jobs.

    `wanted` is what an autoscaler follows: a queue alone would scale a training worker away.
    """
    return PoolList(pools=service().register.pools())
