# docker build -t virnuc .
# docker run --rm -v "$PWD:/data" virnuc predict contigs.fasta --output results
FROM python:3.11-slim

# pip reads it: an index with CPU builds of torch, without which several gigabytes of CUDA are installed.
ARG PIP_EXTRA_INDEX_URL=
# postgres and s3 for deploy/compose.yaml
ARG EXTRAS=parquet,anndata

WORKDIR /opt/virnuc
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY virnuc_dagster virnuc_dagster
RUN pip install --no-cache-dir --constraint constraints.txt ".[${EXTRAS}]" \
    && useradd --create-home --uid 10001 virnuc \
    && mkdir -p /data/home/dagster /data/home/inbox \
    && chown -R virnuc /data

USER 10001
WORKDIR /data
ENTRYPOINT ["virnuc"]
CMD ["--help"]
