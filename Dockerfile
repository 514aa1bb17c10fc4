# Two images from one file: `--target operator` and `--target runtime`.
# BASE_IMAGE needs Python 3.11 with venv; any Debian- or python.org-based image will do.
ARG BASE_IMAGE=python:3.11-slim-bookworm

FROM ${BASE_IMAGE} AS base
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONPATH=/app \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
RUN python3 -m venv /opt/venv
WORKDIR /app

FROM base AS operator
COPY locks/operator.txt /tmp/lock.txt
RUN pip install --require-hashes -r /tmp/lock.txt
COPY operator/despina /app/despina
RUN python -m compileall -q /app
USER 65532:65532
ENTRYPOINT ["python", "-m", "despina.cli"]
CMD ["operator"]

FROM base AS runtime
COPY locks/runtime.txt /tmp/lock.txt
RUN pip install --require-hashes -r /tmp/lock.txt
COPY operator/despina /app/despina
COPY runtime_image/despina_runtime /app/despina_runtime
RUN python -m compileall -q /app
# Without the first, the first LM call asks a public host for prices and waits 5 s where there is none.
ENV LITELLM_LOCAL_MODEL_COST_MAP=True \
    MLFLOW_DISABLE_TELEMETRY=true \
    DSPY_CACHEDIR=/tmp/dspy \
    HOME=/tmp
USER 65532:65532
ENTRYPOINT ["python", "-m", "despina_runtime.main"]
