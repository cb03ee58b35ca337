#!/bin/sh
# Makes the secrets of docker-compose.yml, in ./secrets, once: what is there already is kept.
set -eu
cd "$(dirname "$0")/../.."

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

keep() { # keep NAME: its content comes by standard input
    if [ -e "secrets/$1" ]; then
        cat >/dev/null
    else
        cat >"secrets/$1.new"
        chmod 444 "secrets/$1.new"
        mv "secrets/$1.new" "secrets/$1"
        echo "made secrets/$1"
    fi
}

# The directory is closed to others on this machine; the files are open to whichever user a
# container runs as, and each is mounted only where docker-compose.yml says.
umask 077
mkdir -p secrets
random | keep metrics-token
# The first is yours, the second Prometheus'.
printf '%s,%s' "$(random)" "$(cat secrets/metrics-token)" | keep api-tokens
random | keep redis-password
random | keep grafana-password
printf '[default]\naws_access_key_id = spectrain\naws_secret_access_key = %s\n' "$(random)" |
    keep s3-credentials
