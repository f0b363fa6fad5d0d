//! The files of the console, built into the binary.

use std::io::Write;
use std::sync::LazyLock;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Characters of the hash in the path of the files.
const HASH_CHARS: usize = 12;

/// A file as it is in `console/`.
#[derive(Debug)]
pub struct File {
    pub path: &'static str,
    pub bytes: &'static [u8],
}

/// A file as it is sent.
#[derive(Debug)]
pub struct Asset {
    pub path: &'static str,
    pub plain: &'static [u8],
    pub gzip: Bytes,
}

macro_rules! files {
    ($($path:literal,)*) => {
        &[$(File { path: $path, bytes: include_bytes!(concat!("../../../console/", $path)) },)*]
    };
}

/// All files, the page included.
pub static FILES: &[File] = files![
    "icon.svg",
    "index.html",
    "lib/api.js",
    "lib/diff.js",
    "lib/format.js",
    "lib/html.js",
    "lib/router.js",
    "lib/session.js",
    "main.js",
    "pages/activity.js",
    "pages/audit.js",
    "pages/dead-letters.js",
    "pages/edit.js",
    "pages/evaluation.js",
    "pages/experiment.js",
    "pages/experiments.js",
    "pages/flag.js",
    "pages/flags.js",
    "pages/kill.js",
    "pages/live.js",
    "pages/overview.js",
    "pages/propagation.js",
    "pages/tokens.js",
    "pages/what-if.js",
    "parts/dialog.js",
    "parts/plot.js",
    "parts/states.js",
    "parts/table.js",
    "style.css",
    "vendor/hooks.js",
    "vendor/htm.js",
    "vendor/preact.js",
    "vendor/signals-core.js",
    "vendor/signals.js",
    "vendor/uplot.css",
    "vendor/uplot.js",
];

/// Hash of the paths and contents of all files.
pub fn hash() -> String {
    let mut hash = Sha256::new();
    for file in FILES {
        hash.update(file.path.as_bytes());
        hash.update(file.bytes.len().to_be_bytes());
        hash.update(file.bytes);
    }
    let mut text = hex::encode(hash.finalize());
    text.truncate(HASH_CHARS);
    text
}

/// All files with their compressed form, which is computed once.
pub fn compressed() -> &'static [Asset] {
    static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| {
        let asset = |file: &File| Asset { path: file.path, plain: file.bytes, gzip: gzip(file.bytes) };
        FILES.iter().map(asset).collect()
    });
    &ASSETS
}

/// Writing to memory does not fail.
fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}
