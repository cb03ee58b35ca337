# The images of Spectrain: targets `api` (without torch), `worker`, and `worker-devel` (with a compiler).
# docs/images.md describes how to build and run them, and the build arguments.

# Tag and digest of the base image, for all architectures: Python 3.13.14 on Debian trixie, of 2026-08-05.
ARG PYTHON=3.13-slim-trixie@sha256:9662417aace5ae7b8e2609cce472b72a8958e134ba372808abe9cc1a0c0125e6

FROM python:${PYTHON} AS base


# -- build stages --------------------------------------------------------------------------------
#
# Each stage below installs the pins of one file into a directory that becomes one layer, largest and
# rarest first. None sees pyproject.toml or constraints.txt, so that a release, or a new linter, keeps
# these layers.

FROM base AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*
# Settings of pip that a base image may bring do not hold: the pins say everything.
ENV PATH=/opt/spectrain/bin:$PATH \
    PIP_CONSTRAINT=/dev/null \
    PIP_DISABLE_PIP_VERSION_CHECK=1
RUN python3 -P -m venv /opt/spectrain
WORKDIR /pins

FROM build AS environment
RUN pip uninstall --yes setuptools pip

FROM build AS api-packages
COPY deploy/images/api.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --require-hashes --prefix /packages --requirement api.txt

FROM build AS worker-packages
COPY deploy/images/worker.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --require-hashes --prefix /packages --requirement worker.txt

FROM build AS cuda
ARG TORCH=cuda
COPY deploy/images/cuda.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    mkdir /cuda \
    && if [ "$TORCH" = cuda ]; then \
        pip install --no-deps --require-hashes --prefix /cuda --requirement cuda.txt; \
    fi

FROM build AS torch
# cuda: the build on PyPI. cpu, or rocm with its version: the build on PyTorch's own index of that name,
# of which only the version is pinned; TORCH_WITH is what it needs besides, such as triton-rocm==3.7.1.
ARG TORCH=cuda
ARG TORCH_INDEX=https://download.pytorch.org/whl
ARG TORCH_WITH=
COPY deploy/images/torch.txt ./
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    case "$TORCH" in \
    cuda) pip install --no-deps --require-hashes --prefix /torch --requirement torch.txt ;; \
    cpu | rocm*) sed -n "s/^\(torch==[^ ]*\).*/\1+$TORCH/p" torch.txt >other.txt \
        && echo "$TORCH_WITH" >>other.txt \
        && pip install --no-deps --prefix /torch --index-url "$TORCH_INDEX/$TORCH" --requirement other.txt ;; \
    *) echo "TORCH is cuda, cpu or rocm with its version, not '$TORCH'" >&2; exit 1 ;; \
    esac

FROM build AS code
WORKDIR /source
# pip 25.3 and later read the second variable for build dependencies.
ENV PIP_CONSTRAINT=/source/constraints.txt \
    PIP_BUILD_CONSTRAINT=/source/constraints.txt
COPY . .
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --no-deps --prefix /code .


# -- images ---------------------------------------------------------------------------------------

FROM base AS runtime
COPY --from=build /usr/bin/tini-static /usr/bin/tini
# A new volume takes the owner of the directory at its mount point.
RUN groupadd --gid 10001 spectrain \
    && useradd --uid 10001 --gid 10001 --home-dir /tmp --no-create-home --no-log-init \
        --shell /usr/sbin/nologin spectrain \
    && install --directory --owner 10001 --group 10001 /etc/spectrain /experiments /scratch
ENV PATH=/opt/spectrain/bin:$PATH \
    HOME=/tmp \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    SPECTRAIN_API_HOST=0.0.0.0
WORKDIR /tmp
COPY --from=environment /opt/spectrain /opt/spectrain
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]

FROM runtime AS api
COPY --from=api-packages /packages /opt/spectrain
COPY --from=code /code /opt/spectrain
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=5s --start-period=60s --retries=3 \
    CMD ["python", "-P", "-m", "api.server.healthcheck"]
CMD ["spectrain", "api"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=
ENV SPECTRAIN_REVISION=$REVISION
LABEL org.opencontainers.image.title="spectrain-api" \
    org.opencontainers.image.description="Spectrain: API and command line" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.source="$SOURCE" \
    org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS worker
# NVIDIA's container runtime mounts the compute driver and nvidia-smi from the host.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    SPECTRAIN_SCRATCH_DIR=/scratch
COPY --from=cuda /cuda /opt/spectrain
COPY --from=torch /torch /opt/spectrain
COPY --from=worker-packages /packages /opt/spectrain
COPY --from=code /code /opt/spectrain
HEALTHCHECK --interval=30s --timeout=20s --start-period=60s --retries=3 \
    CMD ["python", "-P", "-m", "worker.healthcheck"]
CMD ["spectrain", "worker"]
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=
ENV SPECTRAIN_REVISION=$REVISION
LABEL org.opencontainers.image.title="spectrain-worker" \
    org.opencontainers.image.description="Spectrain: worker, with torch" \
    org.opencontainers.image.version="$VERSION" \
    org.opencontainers.image.revision="$REVISION" \
    org.opencontainers.image.source="$SOURCE" \
    org.opencontainers.image.licenses="Apache-2.0"

# With the compiler that torch.compile and extensions in C++ need.
FROM worker AS worker-devel
USER 0:0
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++=4:1* libc6-dev=2.* make=4.* \
    && rm -rf /var/lib/apt/lists/*
USER 10001:10001
