# One image for every service of docker-compose.yml. Wheels only: no compiler is needed.
FROM python:3.11-slim-bookworm

# The OpenMP runtime that LightGBM links against. Its version is the release's own, so it is not pinned.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libgomp1 \
    && rm -rf /var/lib/apt/lists/*

# torch first and on its own: a lock with hashes cannot name the build that fits the machine.
# CPU by default; https://pypi.org/simple has the CUDA build (docker/gpu.yml).
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --index-url "${TORCH_INDEX}" torch==2.13.0

WORKDIR /opt/tickwalk
COPY requirements.lock ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --require-hashes -r requirements.lock

# Editable, so that dags/ and the lock lie beside the code that looks for them.
COPY . ./
# hadolint ignore=DL3042
RUN --mount=type=cache,target=/root/.cache/pip \
    pip install --no-deps --editable . \
    && python -m compileall -q dags features ingest serving storage tickwalk training

# A new named volume takes over these folders' owner, so the services can write without being root.
RUN useradd --uid 1000 --create-home tickwalk \
    && install --directory --owner tickwalk --group tickwalk --mode 0700 /var/lib/tickwalk /var/lib/airflow
USER 1000:1000
ENV TICKWALK_HOME=/var/lib/tickwalk \
    TICKWALK_LOG=json \
    AIRFLOW_HOME=/var/lib/airflow \
    PYTHONUNBUFFERED=1
WORKDIR /var/lib/tickwalk
CMD ["tickwalk", "--help"]
