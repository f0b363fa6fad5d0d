"""Tests of the language check."""

import unittest

from checks.language import check, opening_problem, replaced_words

GLOSSARY = """\
| use | meaning | do not use |
|---|---|---|
| event batch | the events of one call | `parcel` |
| dead letter | a rejected record | `letter` |
| report, return | what software does | `tells`, `look after` |
| lag | records behind | |

| file | content |
|---|---|
| other | `table` |
"""
WORDS = replaced_words(GLOSSARY)


def openings(*texts: str) -> list[str]:
    return [text for text in texts if opening_problem(text)]


class Openings(unittest.TestCase):
    def test_bare_pronouns_question_words_and_prepositions_are_problems(self):
        bare = (
            "Of them, in words.", "What is there is not asked for again.", "Those that came.", "It waits.", "How it ends.",
            "Since then.", "Who leads.", "Its name.", "One of many.", "Some of them.", "Both are kept.", "The same of these.",
            "Not deleted while it runs.", "Why it failed.", "When it ends.", "How long it is believed.", "Nothing is sent.",
            "Then the next.", "From real Unleash to definitions, change events and invalidations.",
            "Where the services are, and stopping them.", "Beside each event: its own offset, and when it was evaluated.",
        )
        self.assertEqual(openings(*bare), list(bare))

    def test_sentences_and_noun_phrases_with_a_subject_are_fine(self):
        fine = (
            "Upper bound of the batch in bytes.", "For each flag, the event of its result is sent.", "One batch of events.",
            "Some members of a group.", "Both timestamps in microseconds.", "How long a cached answer stays valid.",
            "At most 64 records per fetch.", "At least one worker.", "In-flight batches.", "These settings override the file.",
            "When the broker is unreachable, the batch is paused.", "Whether the error persists.", "`None` without a limit.",
            "The version in force.", "In a cluster, each command goes to its own node.", "",
        )
        self.assertEqual(openings(*fine), [])

    def test_only_doc_comments_are_checked_for_their_opening(self):
        text = "// Of them, the first.\nfn f() {}\n/// Of them, in words.\nfn g() {}\n//! It waits.\n"
        self.assertEqual([line.split(": ")[0] for line in check("src/a.rs", text, WORDS)], ["src/a.rs:3", "src/a.rs:5"])

    def test_code_in_a_doc_comment_is_no_prose(self):
        text = "/// Example of a call.\n///\n/// ```\n/// parcel.send();\n/// ```\nfn f() {}\n"
        self.assertEqual(list(check("src/a.rs", text, WORDS)), [])


class Words(unittest.TestCase):
    def test_the_glossary_gives_the_better_word(self):
        self.assertEqual(
            WORDS,
            {"parcel": "event batch", "letter": "dead letter", "tells": "report, return", "look after": "report, return"},
        )

    def test_a_word_is_reported_with_file_line_rule_and_the_better_word(self):
        text = "fn f() {\n    // A long line\n    // with parcels in it.\n}\n"
        self.assertEqual(list(check("src/a.rs", text, WORDS)), ['src/a.rs:3: word: write "event batch" instead of "parcels"'])

    def test_a_comment_behind_code_is_checked_and_a_string_is_not(self):
        text = 'let a = 1; // one Parcel\nlet b = "a // parcel";\nlet c = "https://parcel";\n'
        self.assertEqual([line.split(": ")[0] for line in check("src/a.rs", text, WORDS)], ["src/a.rs:1"])

    def test_an_established_term_is_fine_also_over_a_line_break(self):
        text = "A dead letter, dead-letter topic, and a dead\nletter. A letter.\n"
        self.assertEqual([line.split(": ")[0] for line in check("docs/a.md", text, WORDS)], ["docs/a.md:2"])

    def test_code_spans_code_blocks_and_link_targets_are_no_prose(self):
        text = "`parcel` and [a link](parcel.md)\n\n```\nparcel\n```\n\n    text\nA parcel.\n"
        self.assertEqual([line.split(": ")[0] for line in check("docs/a.md", text, WORDS)], ["docs/a.md:8"])

    def test_words_of_two_parts_and_inner_words_are_distinguished(self):
        text = "// looks and lookafter are fine; it has to look\n// after this.\n"
        self.assertEqual([line.split(": ")[0] for line in check("src/a.rs", text, WORDS)], ["src/a.rs:1"])


if __name__ == "__main__":
    unittest.main()
