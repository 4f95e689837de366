# The exporter. Build with `docker build -t virnucpro-exporter .`; docker-compose.yml does it for you.
# It runs as a user without rights, and needs nothing but /tmp to be writable (`docker run --read-only
# --tmpfs /tmp`). The NVIDIA library comes from the host, through the NVIDIA container toolkit.

FROM python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c AS build
# Extras to install, such as [dask].
ARG EXTRAS=""
WORKDIR /source
COPY . .
RUN python -m venv /opt/virnucpro \
    && /opt/virnucpro/bin/pip install --no-cache-dir --disable-pip-version-check ".$EXTRAS"

FROM python:3.13.16-slim-trixie@sha256:bf44cdfcb76cd3b41e879bc058fc37ec5872002ccfde7fcb765e218cde0cd79c
LABEL org.opencontainers.image.title="virnucpro-exporter" \
      org.opencontainers.image.licenses="MIT"
COPY --from=build /opt/virnucpro /opt/virnucpro
ENV PATH=/opt/virnucpro/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1
USER 10001:10001
WORKDIR /tmp
EXPOSE 9877
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:9877/-/healthy', timeout=4)"]
ENTRYPOINT ["virnucpro-exporter"]
CMD ["serve", "--web-listen-address", ":9877"]
