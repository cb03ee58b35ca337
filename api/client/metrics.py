"""The metrics of a run: as rows, as arrays, or as a table of pandas."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from api.client.transport import Transport
from api.schemas import MetricsPage
from monitoring.json_values import restored

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

Row = dict[str, Any]


class Metrics:
    """The rows of a run's metrics so far, in the order in which they were logged.

    Iterating over it reads them from the service, page by page, each time anew.
    """

    def __init__(self, read: Callable[[], Iterator[Row]]) -> None:
        self._read = read

    def __iter__(self) -> Iterator[Row]:
        return self._read()

    def arrays(self) -> dict[str, npt.NDArray[np.float64]]:
        """An array for each metric, and one of `step`, all of the same length (rows).

        NaN where a row has no number under that name. Raises `ImportError` without numpy.
        """
        import numpy as np  # noqa: PLC0415 - numpy is optional: the client works without it

        rows = list(self)
        names = dict.fromkeys(name for row in rows for name, value in row.items() if _number(value))
        return {
            name: np.array(
                [row[name] if _number(row.get(name)) else np.nan for row in rows], dtype=np.float64
            )
            for name in names
        }

    def frame(self) -> Any:
        """The rows as a `pandas.DataFrame`, with `step` as its index.

        Raises `ImportError` without pandas, which nothing else here needs.
        """
        import pandas as pd  # noqa: PLC0415 - optional

        frame = pd.DataFrame(list(self))
        return frame.set_index("step") if "step" in frame else frame


def metric_rows(http: Transport, path: str, after_step: int) -> Iterator[Row]:
    """The rows of steps after one, page by page."""
    query: dict[str, object] = {"after_step": after_step}
    while True:
        page = http.read(MetricsPage, "GET", path, query)
        yield from map(restored, page.rows)
        if not page.rows or page.cursor is None:
            return
        query = {"after_step": after_step, "cursor": page.cursor}


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
