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
# The tools that write the list of dependencies: into the program itself, and as a document (SBOM).
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    cargo install --locked cargo-auditable@0.7.7 cargo-cyclonedx@0.5.9
WORKDIR /src
COPY --from=manifests /src .
# OpenSSL and librdkafka are built from source with the C compiler, make and perl of this image.
RUN --mount=type=cache,target=/usr/local/cargo/registry cargo build --release --locked --bin flagstream
COPY . .
# Cargo compares times: the sources must be newer than what was built from the empty ones.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    find . -name '*.rs' -not -path './target/*' -exec touch {} + \
    && cargo auditable build --release --locked --bin flagstream \
    && cp target/release/flagstream /usr/local/bin/flagstream \
    && cargo cyclonedx --format json --spec-version 1.5 --override-filename flagstream.cdx \
    && mkdir -p /out/share /out/state && cp flagstream.cdx.json LICENSE-MIT LICENSE-APACHE /out/share/

# The document alone: docker build --target sbom --output . .
FROM scratch AS sbom
COPY --from=build /out/share/flagstream.cdx.json /

# The C library, OpenSSL's certificates and time zones; no shell and no package manager.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /usr/local/bin/flagstream /usr/local/bin/flagstream
COPY --from=build /out/share /usr/share/doc/flagstream
# Snapshot and spool: keep it over restarts. Nothing else is written, so the root file system can be read-only.
COPY --from=build --chown=65532:65532 /out/state /var/lib/flagstream
ENV FLAGSTREAM_STATE_DIR=/var/lib/flagstream
VOLUME /var/lib/flagstream
WORKDIR /var/lib/flagstream
USER 65532:65532
EXPOSE 8082
# Works with TLS, and with any address of the listener: the command reads the same configuration.
HEALTHCHECK --interval=5s --timeout=5s --start-period=30s --retries=3 CMD ["flagstream", "health", "--ready"]
ENTRYPOINT ["flagstream"]
CMD ["run"]
