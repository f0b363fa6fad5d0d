# syntax=docker/dockerfile:1

# The manifests with empty sources. The dependencies are built from these alone, so that their layer stays valid until a
# manifest or the lock file changes.
FROM rust:1.95-bookworm AS manifests
WORKDIR /src
COPY . .
RUN find . -type f ! -name Cargo.toml ! -name Cargo.lock -delete \
    && for manifest in $(find . -name Cargo.toml); do \
        folder=$(dirname "$manifest")/src && mkdir -p "$folder" && touch "$folder/lib.rs"; \
    done \
    && for program in src/main.rs crates/bench/src/main.rs benches/flag.rs benches/avro.rs examples/openfeature/rust/flags.rs; do \
        echo 'fn main() {}' > "$program"; \
    done

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY --from=manifests /src .
# OpenSSL and librdkafka are built from source with the C compiler, make and perl of this image.
RUN --mount=type=cache,target=/usr/local/cargo/registry cargo build --release --locked --bin flagstream
COPY . .
# Cargo compares times: the sources must be newer than what was built from the empty ones.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo build --release --locked --bin flagstream \
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
