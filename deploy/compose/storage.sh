#!/bin/sh
# Chooses the storage of the runs at the first start: SPECTRAIN_STORAGE_URL if it is set, else the
# object store if it was started (--profile s3), else the volume. A later start that would choose
# another storage fails, because the records in Redis belong to the runs in the first one.
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
    echo "The runs of this installation are in $(cat "$kept"), but this start selects" \
        "$wanted. Start it as before (--profile s3, SPECTRAIN_STORAGE_URL); docs/images.md says" \
        "how to start over." >&2
    exit 1
fi
echo "Storage of the runs: $wanted"
