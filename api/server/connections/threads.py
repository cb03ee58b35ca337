"""Threads that make answers, in groups by what the calls of each wait for."""

from __future__ import annotations

from flask import Flask
from waitress.task import ThreadedTaskDispatcher
from werkzeug.exceptions import HTTPException

from api.server.connections.channel import Channel

# Threads by what their calls wait for: nothing, Redis, storage, storage for as long as files are.
_THREADS = {"health": 2, "records": 16, "runs": 12, "downloads": 16}
_DOWNLOADS = {"runs.get_artifact", "runs.get_archive"}
_STORAGE = {"runs", "workspaces", "forks", "jobs.delete_job"}
_HEALTH = "health.get_health"


class Threads:
    """Gives the first request of a connection to a thread of its group."""

    def __init__(self, app: Flask) -> None:
        self._routes = app.url_map.bind("localhost")
        self._groups = {name: ThreadedTaskDispatcher() for name in _THREADS}
        for name, group in self._groups.items():
            group.set_thread_count(_THREADS[name])

    def add_task(self, channel: Channel) -> None:
        """Has the request answered, or the rest of its answer made, once the client reads."""
        if not channel.waits_for_its_client():
            request = channel.requests[0]
            # What is no request has neither a method nor a path.
            is_one = request.error is None
            group = self.group_of(request.command, request.path) if is_one else "health"
            self._groups[group].add_task(channel)

    def shutdown(self, cancel_pending: bool = True, timeout: float = 0.2) -> bool:
        """Ends the threads; those that still answer have had their time before."""
        ended = [group.shutdown(cancel_pending, timeout) for group in self._groups.values()]
        return all(ended)

    def group_of(self, method: str, path: str) -> str:
        """The group that a call belongs to."""
        try:
            endpoint, _ = self._routes.match(path, method)
        except HTTPException:  # no such path, or method
            return "health"
        if endpoint == _HEALTH:
            return "health"
        if endpoint in _DOWNLOADS:
            return "downloads"
        return "runs" if {endpoint, endpoint.partition(".")[0]} & _STORAGE else "records"
