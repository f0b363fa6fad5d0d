"""Tests of the document check and of the generated limits."""

import subprocess
import tempfile
import unittest
from pathlib import Path

from checks import docs, limits
from checks.source import Constant, constants


class Project(unittest.TestCase):
    """A small project in a temporary folder."""

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.root = Path(folder.name)
        subprocess.run(["git", "init", "-q", folder.name], check=True)

    def write(self, path: str, text: str):
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)


class Links(Project):
    def test_links_to_files_and_headings_that_exist_are_fine(self):
        self.write("docs/a.md", "# A title, with `code`!\n\n## Twice\n\n## Twice\n")
        self.write("README.md", "[a](docs/a.md) [b](docs/a.md#a-title-with-code) [c](docs/a.md#twice-1) [d](https://example.com)\n")
        self.assertEqual(list(docs.links(self.root)), [])

    def test_missing_files_and_headings_are_reported(self):
        self.write("docs/a.md", "# Title\n\n[self](#nothing)\n```\n[code](code.md)\n```\n")
        self.write("README.md", "[a](docs/b.md) `[code](docs/c.md)`\n[a](docs/a.md#other)\n")
        self.assertEqual(
            list(docs.links(self.root)),
            [
                "README.md:1: docs/b.md: there is no such file",
                "README.md:2: docs/a.md#other: there is no such heading",
                "docs/a.md:3: #nothing: there is no such heading",
            ],
        )


class Tables(Project):
    def test_settings_are_compared_in_both_directions(self):
        self.write("src/config/settings.rs", 's("FLAGSTREAM_A", "a.b", Text("1"),\n "x"),\n s("", "c", Unset("none"), "y"),\n s("FLAGSTREAM_G__", "g",')
        self.write(docs.OPERATIONS, "| `FLAGSTREAM_A` | `a.b` | 1 | x |\n| `FLAGSTREAM_G__<NAME>` | `g` | – | z |\n| `FLAGSTREAM_B` | `b` | 1 | x |\n")
        self.assertEqual(
            list(docs.settings(self.root)),
            [f"{docs.OPERATIONS}: the table of settings lacks c", f"{docs.OPERATIONS}: FLAGSTREAM_B is no setting of src/config"],
        )

    def test_metrics_are_compared_in_both_directions(self):
        self.write(
            "src/metrics.rs",
            'impl Metrics {\n fn new() { registry.register("requests", "", a);\n'
            ' let audit = AuditMetrics::register(registry.sub_registry_with_prefix("audit"));\n } }\n',
        )
        self.write("src/metrics/audit.rs", 'impl AuditMetrics {\n fn register() { registry.register(\n "lag", "", a); } }\n')
        self.write(docs.OPERATIONS, "| `flagstream_requests_total` | | a |\n| `flagstream_audit_rows_total` | | b |\n")
        self.assertEqual(
            list(docs.metrics(self.root)),
            [
                f"{docs.OPERATIONS}: the table of metrics lacks flagstream_audit_lag",
                f"{docs.OPERATIONS}: flagstream_audit_rows is not registered in src/metrics",
            ],
        )

    def test_variables_that_no_code_reads_are_reported(self):
        self.write("src/a.rs", '"FLAGSTREAM_LOG"')
        self.write("README.md", "FLAGSTREAM_LOG and\nFLAGSTREAM_LGO, FLAGSTREAM_KAFKA__CLIENT__SASL_PASSWORD\n")
        self.assertEqual(list(docs.variables(self.root)), ["README.md:2: no code reads FLAGSTREAM_LGO"])


class Names(Project):
    def test_paths_and_modules_that_do_not_exist_are_reported(self):
        self.write("src/store/reader.rs", "")
        self.write(docs.ARCHITECTURE, "`src/store` `store/reader` `store/reader.rs` `src/store/*` `docs/…`\n`store/writer` `src/feed`\n")
        self.assertEqual(
            list(docs.paths(self.root)),
            [f"{docs.ARCHITECTURE}:2: store/writer does not exist", f"{docs.ARCHITECTURE}:2: src/feed does not exist"],
        )

    def test_tests_that_do_not_exist_are_reported(self):
        self.write("tests/it/faults.rs", "fn the_broker_is_stopped_and_comes_back() {}")
        self.write(docs.ARCHITECTURE, "`faults::the_broker_is_stopped_…`, `the_broker_is_stopped_and_comes_back`\n`faults::another_…`\n")
        self.write("docs/faults.md", "`a_test_that_is_not_there` `flagstream_a_metric_with_words_total`\n")
        self.assertEqual(
            list(docs.tests(self.root)),
            [
                f"{docs.ARCHITECTURE}:2: there is no test or module faults::another_…",
                "docs/faults.md:1: there is no test or module a_test_that_is_not_there",
            ],
        )

    def test_the_map_names_every_folder_and_crate(self):
        self.write("src/store/reader.rs", "")
        self.write("src/feed/mod.rs", "")
        self.write("crates/kafka/Cargo.toml", "")
        self.write(docs.ARCHITECTURE, "`src/store`\n")
        missing = [f"{docs.ARCHITECTURE}: the map lacks {name}" for name in ("crates/kafka", "src/feed")]
        self.assertEqual(list(docs.the_map(self.root)), missing)


class Limits(Project):
    def test_constants_have_their_comments_and_those_of_tests_are_left_out(self):
        text = (
            "/// Longest name,\n/// in bytes.\npub(crate) const NAME_BYTES: usize = 1 << 10;\n"
            "#[cfg(test)]\n#[allow(clippy::unwrap_used)]\nmod tests {\n    const OTHER_MAX: usize = 1;\n}\n"
        )
        self.assertEqual(constants(text), [Constant("NAME_BYTES", "usize", "1 << 10", "Longest name, in bytes.")])

    def test_values_are_for_people(self):
        for type_, name, value, expected in (
            ("usize", "A_BYTES", "64 << 10", "64 KiB"),
            ("usize", "A_BYTES", "1_000", "1,000 bytes"),
            ("usize", "A_MAX", "10_000", "10,000"),
            ("usize", "A_MAX", "OTHER + 1", "`OTHER + 1`"),
            ("f64", "A_MIN", "0.8", "0.8"),
            ("Duration", "A_TTL", "Duration::from_millis(1_500)", "1,500 ms"),
            ("Duration", "A_TTL", "Duration::from_secs(60)", "60 s"),
            ("Duration", "A_TTL", "Duration::from_secs(12 * 60 * 60)", "12 h"),
            ("Duration", "A_TTL", "Duration::from_secs(10 * 86_400)", "10 days"),
            ("Duration", "A_TTL", "OTHER.saturating_mul(2)", "`OTHER.saturating_mul(2)`"),
        ):
            self.assertEqual(limits.value_text(Constant(name, type_, value, "")), expected, value)

    def test_the_document_is_current_only_after_a_fix(self):
        self.write("src/audit/writer.rs", "/// Longest [`Batch`] | row.\nconst ROW_MAX: usize = 2;\nconst OTHER: usize = 3;\n")
        self.write("docs/limits.md", "")
        self.assertEqual(len(list(docs.limits_are_current(self.root))), 1)
        (self.root / "docs/limits.md").write_text(limits.document(self.root))
        self.assertEqual(list(docs.limits_are_current(self.root)), [])
        self.assertIn("| `ROW_MAX` | 2 | Longest `Batch` \\| row. | `src/audit/writer.rs` |", limits.document(self.root))
        self.assertNotIn("OTHER", limits.document(self.root))


if __name__ == "__main__":
    unittest.main()
