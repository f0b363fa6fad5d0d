# Tasks of the project; `just` lists them. Each is a command that also works without just.

_default:
    @just --list

# The fast inner loop: format, lints, unit and component tests, language and documents. Needs no services.
check:
    scripts/check

# All tests on the real services. Arguments go to cargo test: `just test --test it -- pipeline::`
test *arguments:
    scripts/test {{arguments}}

# Everything that must pass, as in CI
ci:
    .ci/run

# Chart, alerts, dashboard, AsyncAPI and the documentation site, with the tools of those who use them
deploy-check *arguments:
    scripts/deploy-check {{arguments}}

# Builds the documentation site in a folder
site folder:
    scripts/site {{folder}}

# Formats the Rust code
fmt:
    cargo fmt --all

# Lints of the code, the language and the documents
lint:
    cargo clippy --workspace --locked --all-targets -- -D warnings
    scripts/language-check
    scripts/docs-check

# Writes the generated documents, checks all of them, and builds the API documentation of the crates
docs:
    scripts/docs-check --fix
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --all-features --locked --no-deps

# Benchmarks of the core, without services. docs/benchmarks.md describes the others.
bench:
    cargo bench --bench flag
    cargo bench --bench avro

# The service on an embedded broker
dev *arguments:
    cargo run -- dev {{arguments}}
