# One image for every service of docker-compose.yml. Wheels only: no compiler is needed.
# The tag says what it is, the digest which; docker/pin-images.sh looks up the newest.
FROM python:3.11.16-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

# The OpenMP runtime that LightGBM links against. Its version is the release's own, so it is not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# torch first and on its own: a lock with hashes cannot name the build that fits the machine.
# CPU by default; https://pypi.org/simple has the CUDA build (profile gpu).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --index-url "${TORCH_INDEX}" torch==2.13.0

WORKDIR /opt/tickwalk
COPY requirements.lock docker/build-backend.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes -r requirements.lock \
    && pip install --require-hashes -r build-backend.lock

# Editable, so that dags/ and the lock lie beside the code that looks for them. Without isolation, because an isolated
# build would fetch whichever build backend is the newest.
COPY . ./
RUN pip install --no-cache-dir --no-deps --no-build-isolation --no-index --editable . \
    && python -m compileall -q dags features ingest serving storage tickwalk training

# The owner of secrets/ on the host (docker/make-env.sh), whose files only this user may read. A new named volume takes
# over the owner of these folders, so the services can write without being root.
ARG UID=1000
ARG GID=1000
RUN groupadd --gid "${GID}" tickwalk \
    && useradd --uid "${UID}" --gid "${GID}" --create-home tickwalk \
    && install --directory --owner tickwalk --group tickwalk --mode 0700 \
        /var/lib/tickwalk /var/lib/airflow /var/cache/tickwalk
USER ${UID}:${GID}
# The root file system is read-only when it runs: caches go to a volume.
ENV TICKWALK_HOME=/var/lib/tickwalk \
    TICKWALK_LOG=json \
    AIRFLOW_HOME=/var/lib/airflow \
    NUMBA_CACHE_DIR=/var/cache/tickwalk \
    CUDA_CACHE_PATH=/var/cache/tickwalk/cuda \
    XDG_CACHE_HOME=/var/cache/tickwalk \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/tickwalk
CMD ["tickwalk", "--help"]
