#!/bin/sh
# Creates the secrets of docker-compose.yml in ./secrets, and says in .env where they are; existing
# ones are kept.
set -eu
cd "$(dirname "$0")/../.."

random() { od -An -N32 -tx1 /dev/urandom | tr -d ' \n'; }

keep() { # keep NAME: creates the secret from standard input unless it exists
    if [ -e "secrets/$1" ]; then
        cat >/dev/null
    else
        cat >"secrets/$1.new"
        chmod 444 "secrets/$1.new"
        mv "secrets/$1.new" "secrets/$1"
        echo "created secrets/$1"
    fi
}

# Other users of this machine cannot enter the directory. The files are readable by any user that a
# container runs as, and docker-compose.yml mounts each only where it is needed.
umask 077
mkdir -p secrets
random | keep metrics-token
random | keep api-tokens
# What the token of Prometheus may do; more tokens may follow it.
printf '[[token]]\nname = "prometheus"\nowner = "prometheus"\nrole = "metrics"\nsha256 = "%s"\n' \
    "$(tr -d '\n' <secrets/metrics-token | sha256sum | cut -d ' ' -f 1)" | keep tokens.toml
random | keep redis-password
random | keep redis-reaper-password
random | keep redis-worker-password
random | keep grafana-password
# Receivers of webhooks verify their signatures with it.
printf 'whsec_%s' "$(random)" | keep webhook-secret
printf '[default]\naws_access_key_id = spectrain\naws_secret_access_key = %s\n' "$(random)" |
    keep s3-credentials

# Without this variable Compose says that this script has not run.
if ! grep -q '^SPECTRAIN_SECRETS=' .env 2>/dev/null; then
    umask 022
    echo 'SPECTRAIN_SECRETS=./secrets' >>.env
fi
# SELinux lets containers read only what has this label; Compose cannot set it on secrets.
if command -v selinuxenabled >/dev/null && selinuxenabled; then
    chcon -R -t container_file_t secrets deploy/compose
fi
