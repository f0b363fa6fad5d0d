"""Tests of the summary of failed tests."""

import unittest

from checks import failures

LOG = """\
test kill::one ... FAILED
test kill::two ... ok

failures:

---- kill::one stdout ----
thread 'kill::one' panicked at tests/it/kill.rs:357:13:
assertion `left == right` failed: 2026
  left: Bool(true)
a long log of a service
---- clients::python stdout ----
thread 'clients::python' panicked at tests/it/clients.rs:40:5:
python3 ended with 1:
E   assert 1 == 2
FAILED tests/test_kafka.py::test_x - assert 1 == 2

failures:
    clients::python
    kill::one

test result: FAILED. 1 passed; 2 failed
"""


class Failures(unittest.TestCase):
    def test_each_failed_test_has_its_place_and_its_errors(self):
        self.assertEqual(
            failures.summary(LOG),
            [
                "failed: kill::one",
                "  thread 'kill::one' panicked at tests/it/kill.rs:357:13:",
                "  assertion `left == right` failed: 2026",
                "  left: Bool(true)",
                "failed: clients::python",
                "  thread 'clients::python' panicked at tests/it/clients.rs:40:5:",
                "  python3 ended with 1:",
                "  E   assert 1 == 2",
                "  FAILED tests/test_kafka.py::test_x - assert 1 == 2",
            ],
        )

    def test_a_log_without_failures_has_none(self):
        self.assertEqual(failures.summary("test result: ok. 3 passed; 0 failed\n"), [])


if __name__ == "__main__":
    unittest.main()
