"""Which symbolic links stay inside of a workspace."""

from __future__ import annotations


def leaves(path: str, target: str) -> bool:
    """Whether the link at `path`, which points to `target`, may lead out of its workspace.

    Only a `..` at the beginning is allowed, at most one for each folder that the link lies in.
    Folders of a workspace are no links, so these lead up inside; what follows only leads down, over
    other links of which the same is true. A `..` behind a name may follow such a link upwards.
    """
    if not target or target.startswith("/") or "\0" in target:
        return True
    parts = [part for part in target.split("/") if part not in {"", "."}]
    ups = 0
    while ups < len(parts) and parts[ups] == "..":
        ups += 1
    return ups > path.count("/") or ".." in parts[ups:]
