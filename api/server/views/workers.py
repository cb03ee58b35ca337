"""The calls on workers and pools."""

from __future__ import annotations

from api.schemas import PoolList, WorkerList
from api.server.context import context
from api.server.routes import Routes
from jobs.accounts.token import Role
from jobs.model.workers import Pool, Worker

routes = Routes("workers")


@routes.call("GET", "/v1/workers", answer=WorkerList)
def list_workers() -> WorkerList:
    """List the registered workers and what each does."""
    return WorkerList(workers=context().registry.workers())


@routes.call("POST", "/v1/workers/<name>/drain", answer=Worker, status=202, role=Role.ADMIN)
def drain_worker(name: str) -> Worker:
    """Drain a worker: it completes its job and takes no further one."""
    worker = context().registry.drain(name)
    context().token_store.note("worker_drained", {"worker": name})
    return worker


@routes.call("POST", "/v1/workers/<name>/undrain", answer=Worker, status=202, role=Role.ADMIN)
def undrain_worker(name: str) -> Worker:
    """Undrain a worker: it takes jobs again."""
    worker = context().registry.undrain(name)
    context().token_store.note("worker_undrained", {"worker": name})
    return worker


@routes.call("GET", "/v1/pools", answer=PoolList)
def list_pools() -> PoolList:
    """List the pools, with the number of workers and jobs by state.

    An autoscaler follows `wanted`. The length of the queue alone would remove busy workers.
    """
    return PoolList(pools=[_with_wait(pool) for pool in context().registry.pools()])


@routes.call("GET", "/v1/pools/<name>", answer=Pool)
def get_pool(name: str) -> Pool:
    """Show a pool; an unknown one is empty, so that an autoscaler may ask before the first job."""
    return _with_wait(context().registry.pool(name))


def _with_wait(pool: Pool) -> Pool:
    return pool.model_copy(update={"wait_seconds": context().forecast.pool_seconds(pool.name)})
