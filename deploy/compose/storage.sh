#!/bin/sh
# Decides at the first start where runs are kept: where SPECTRAIN_STORAGE_URL says, in the object
# store where that was started (--profile s3), else on the volume. A later start that would keep
# them elsewhere fails: the records in Redis are of the runs in the first place.
set -eu
kept=${1:-/etc/spectrain/storage-url}

wanted=${SPECTRAIN_STORAGE_URL:-}
if [ -z "$wanted" ]; then
    if python -P -c 'import socket; socket.getaddrinfo("seaweedfs", 8333)' 2>/dev/null; then
        wanted=s3://spectrain/runs
    else
        wanted=file:///experiments
    fi
fi
if [ ! -s "$kept" ]; then
    echo "$wanted" >"$kept.new"
    mv "$kept.new" "$kept"
fi
if [ "$(cat "$kept")" != "$wanted" ]; then
    echo "The runs of this installation are in $(cat "$kept"), and this start would look for them" \
        "in $wanted. Start it as before (--profile s3, SPECTRAIN_STORAGE_URL); docs/images.md says" \
        "how to begin anew." >&2
    exit 1
fi
echo "Runs are kept in $wanted"
