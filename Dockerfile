# medsam3 with every extra: docker build --build-arg DEVICE=cuda -t medsam3:cuda .
# The same image is server, worker and dashboard (compose.yaml) and the command line:
#   docker run --rm -v medsam3-store:/store -v /data:/sources:ro medsam3:cpu medsam3 ingest /sources/ct --cohort ct

# Any Debian with Python 3.11 or later and its venv module will do.
ARG BASE=docker.io/library/python:3.11-slim-bookworm

FROM ${BASE} AS build
# cpu takes torch from PyTorch's index of CPU wheels; cuda takes it from PyPI, with NVIDIA's libraries as packages.
ARG DEVICE=cpu
WORKDIR /build
RUN python3 -m venv /opt/medsam3/venv
ENV PATH=/opt/medsam3/venv/bin:$PATH PIP_NO_CACHE_DIR=1 PIP_DISABLE_PIP_VERSION_CHECK=1
# Dependencies alone, so that a change of the code leaves this layer as it is.
COPY pyproject.toml constraints.txt README.md LICENSE NOTICE ./
RUN case "${DEVICE}" in \
        cpu) index="--extra-index-url https://download.pytorch.org/whl/cpu" ;; \
        cuda) index="" ;; \
        *) echo "DEVICE must be cpu or cuda, got '${DEVICE}'" >&2; exit 1 ;; \
    esac \
    && pip install --quiet --constraint constraints.txt ${index} ".[all]"
COPY medsam3 medsam3
COPY medsam3_core medsam3_core
COPY storage storage
COPY tasks tasks
COPY flows flows
COPY dashboards dashboards
# Into a folder of its own, so that a new version of the code is a small layer on top of the dependencies.
RUN pip install --quiet --no-deps --target /opt/medsam3/code .

FROM ${BASE}
RUN useradd --uid 1000 --create-home medsam3 \
    && mkdir --mode=755 /store /sources /weights \
    && chown medsam3:medsam3 /store
COPY --from=build /opt/medsam3/venv /opt/medsam3/venv
COPY --from=build /opt/medsam3/code /opt/medsam3/code
COPY prefect.yaml /opt/medsam3/
ENV PATH=/opt/medsam3/venv/bin:$PATH \
    PYTHONPATH=/opt/medsam3/code \
    PYTHONUNBUFFERED=1 \
    MEDSAM3_STORE=/store \
    PREFECT_SERVER_ANALYTICS_ENABLED=false \
    HF_HUB_DISABLE_TELEMETRY=1 \
    DO_NOT_TRACK=1
USER medsam3
# prefect.yaml lies here: `prefect deploy --all` reads it.
WORKDIR /opt/medsam3
# The home folder holds the key of pseudonyms, Prefect's database and downloaded weights: lose the key and new cases get
# other pseudonyms. The store is a volume of its own, because the key must not lie in it.
VOLUME ["/store", "/sources", "/home/medsam3"]
# A service says in HEALTH_URL where it answers; a single command has none, and is well while it runs.
HEALTHCHECK --interval=30s --timeout=10s --start-period=120s --retries=3 \
    CMD ["python3", "-c", "import os, urllib.request as web; url = os.environ.get('HEALTH_URL'); url and web.urlopen(url, timeout=5)"]
CMD ["medsam3", "--help"]
