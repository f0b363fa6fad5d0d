//! The files of the console, built into the binary.

use std::io::Write;
use std::sync::LazyLock;

use axum::body::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

/// Folder of the libraries, which are minified.
const VENDOR: &str = "vendor/";
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
    pub plain: Bytes,
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

/// All files as they are sent, which are computed once.
pub fn assets() -> &'static [Asset] {
    static ASSETS: LazyLock<Vec<Asset>> = LazyLock::new(|| FILES.iter().map(asset).collect());
    &ASSETS
}

fn asset(file: &'static File) -> Asset {
    let plain = match std::str::from_utf8(file.bytes) {
        Ok(text) if !file.path.starts_with(VENDOR) && file.path.ends_with(".js") => {
            compact_script(text).into()
        }
        Ok(text) if file.path.ends_with(".css") => compact_style(text).into(),
        _ => Bytes::from_static(file.bytes),
    };
    Asset { path: file.path, gzip: gzip(&plain), plain }
}

/// Text without comments, indentation and empty lines, which a browser does not need. A comment begins with
/// `comment` anywhere and may span lines, or takes a whole line that begins with `//`. Line ends stay, because
/// JavaScript may end a statement there. Strings and templates must not contain `comment`, nor text whose indentation
/// matters.
fn compact(text: &str, comment: &str) -> String {
    let (mut code, mut rest) = (String::with_capacity(text.len()), text);
    while let Some((before, after)) = rest.split_once(comment) {
        code.push_str(before);
        rest = after.split_once("*/").map_or("", |(_, rest)| rest.strip_prefix(' ').unwrap_or(rest));
    }
    code.push_str(rest);
    let lines = code.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("//"));
    lines.collect::<Vec<_>>().join("\n")
}

/// A script without comments, and without the white space that neither statements nor templates need: `htm` drops line
/// ends between tags and values. Strings and templates must not contain ` = `.
fn compact_script(text: &str) -> String {
    let ends =
        [(";\n", ";"), ("{\n", "{"), (">\n<", "><"), (">\n${", ">${"), ("}\n<", "}<"), ("}\n${", "}${")];
    let spaced = compact(text, "/**").replace(" = ", "=");
    ends.iter().fold(spaced, |script, (from, to)| script.replace(from, to))
}

/// A style sheet without comments and without white space around punctuation. Its strings must not contain any of that.
fn compact_style(text: &str) -> String {
    let spaced = [(": ", ":"), (" {", "{"), ("{ ", "{"), (", ", ","), ("; ", ";"), (";}", "}")];
    let joined = compact(text, "/*").replace('\n', "");
    spaced.iter().fold(joined, |style, (from, to)| style.replace(from, to))
}

/// Writing to memory does not fail.
fn gzip(bytes: &[u8]) -> Bytes {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    let written = encoder.write_all(bytes).and_then(|()| encoder.finish());
    written.unwrap_or_default().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_sent_without_comments_and_indentation() {
        let script = "// Title.\n/** A function.\n * @param {any} x */\nfunction f(x) {\n  return /** @type {any} */ (x) / 2; // half\n\n}\n";
        assert_eq!(compact(script, "/**"), "function f(x) {\nreturn (x) / 2; // half\n}");
        let template = "const a = html`<b>\n  <i>1</i>\n  ${x}\n  ${y}\n</b>`;\n";
        assert_eq!(compact_script(template), "const a=html`<b><i>1</i>${x}${y}</b>`;");
        let style = "/* Colours. */\n:root { --a: #fff; }\n@media print {\n  a { color: red; }\n}\n";
        assert_eq!(compact_style(style), ":root{--a:#fff}@media print{a{color:red}}");
    }

    #[test]
    fn only_comments_and_spaces_of_own_files_are_removed() {
        for (file, asset) in FILES.iter().zip(assets()) {
            let (before, after) =
                (String::from_utf8_lossy(file.bytes), String::from_utf8_lossy(&asset.plain));
            if file.path.starts_with(VENDOR) || !file.path.ends_with(".js") {
                assert_eq!(file.path.ends_with(".css"), before != after, "{}", file.path);
                continue;
            }
            // Comments contain no templates, so that each mark of one in a comment shows a comment that was none.
            let templates = |text: &str| text.matches("html`").count();
            assert_eq!(templates(&before), templates(&after), "{}", file.path);
            assert_eq!(before.matches("/**").count(), before.matches("*/").count(), "{}", file.path);
            assert!(!after.contains("*/"), "{}", file.path);
        }
    }
}
