# syntax=docker/dockerfile:1

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# OpenSSL and librdkafka are built from source with the C compiler, make and perl of this image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --release --locked --bin flagstream \
    && cp target/release/flagstream /usr/local/bin/flagstream

FROM debian:bookworm-slim
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 --user-group --create-home --home-dir /var/lib/flagstream flagstream
COPY --from=build /usr/local/bin/flagstream /usr/local/bin/flagstream

USER flagstream
WORKDIR /var/lib/flagstream
# Snapshot and spool: keep it over restarts.
ENV FLAGSTREAM_STATE_DIR=/var/lib/flagstream
VOLUME /var/lib/flagstream
EXPOSE 8082
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["flagstream", "health", "--ready"]
ENTRYPOINT ["flagstream"]
CMD ["run"]
