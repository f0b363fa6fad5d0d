"""A streaming count of evaluations: `stream.py` follows `feature-flag-events`, and prints who got what, flag by flag.

Each result counts once, also where Kafka has it twice: after a crash in the mode `at_least_once`, and of calls over HTTP. The
counts are kept together with the place they were counted up to, in one file, so that a restart goes on exactly there.
"""

import json
import os
import sys
import uuid
from collections import Counter
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition

SAVE_EVERY_RECORDS = 10_000
POLL_S = 1.0
METADATA_S = 10.0


class Counts:
    """What was counted, and up to where."""

    def __init__(self, file):
        self.file = file
        saved = json.loads(file.read_text()) if file.exists() else {}
        self.offsets = {int(partition): offset for partition, offset in saved.get("offsets", {}).items()}
        #: The last place of each source that was counted: of a partition of requests, or of a stream of HTTP calls.
        self.last = saved.get("last", {})
        self.outcomes = Counter({tuple(json.loads(key)): count for key, count in saved.get("outcomes", {}).items()})

    def take(self, message):
        self.offsets[message.partition()] = message.offset() + 1
        event = json.loads(message.value())
        for index, result in enumerate(self._results(event)):
            source, place = self._place(event, index, message)
            if source is not None:
                if place <= self.last.get(source, []):
                    continue
                self.last[source] = place
            outcome = result.get("variant") or result.get("value")
            self.outcomes[event["environment"], result["flag_name"], outcome, result["reason"]] += 1

    @staticmethod
    def _results(event):
        """One for each flag, whatever the form of the event. Changes of flags are in the same topic, and have none."""
        if event["event_type"] == "FEATURE_FLAGS_EVALUATED":
            return event["results"]
        return [event] if event["event_type"] == "FEATURE_FLAG_EVALUATED" else []

    @staticmethod
    def _place(event, index, message):
        source = event["source"]
        if "topic" in source:
            return f"request/{source['partition']}", [source["offset"], source["index"] + index]
        for name, value in message.headers() or []:
            if name == "sequence":
                stream, number = value.decode().split("-")
                return f"{message.partition()}/{stream}", [int(number), index]
        return None, []

    def save(self):
        unfinished = self.file.with_suffix(".new")
        outcomes = {json.dumps(key): count for key, count in self.outcomes.items()}
        unfinished.write_text(json.dumps({"offsets": self.offsets, "last": self.last, "outcomes": outcomes}))
        unfinished.replace(self.file)

    def show(self):
        for (environment, flag, outcome, reason), count in sorted(self.outcomes.items(), key=str):
            print(f"{environment} {flag} {outcome} {reason} {count}")
        sys.stdout.flush()


def main():
    topic = os.environ.get("FEATURE_FLAG_KAFKA_TOPIC", "feature-flag-events")
    counts = Counts(Path(os.environ.get("COUNTS_FILE", "counts.json")))
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        # The places are in our file, not in Kafka; a group must be named all the same.
        "group.id": f"analytics-{uuid.uuid4()}",
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
        "enable.partition.eof": True,
    })
    partitions = consumer.list_topics(topic, METADATA_S).topics[topic].partitions
    # Without a saved place from the beginning (-2).
    consumer.assign([TopicPartition(topic, partition, counts.offsets.get(partition, -2)) for partition in partitions])
    until_end = "--until-end" in sys.argv
    ended, unsaved = set(), 0
    try:
        while not (until_end and ended == set(partitions)):
            message = consumer.poll(POLL_S)
            if message is None:
                if unsaved:
                    counts.save()
                    # With `--until-end` the result is printed once, also if Kafka makes a pause before it.
                    if not until_end:
                        counts.show()
                    unsaved = 0
            elif message.error() is not None:
                # The only one that is no failure.
                if message.error().name() != "_PARTITION_EOF":
                    raise SystemExit(f"{topic}: {message.error()}")
                ended.add(message.partition())
            else:
                counts.take(message)
                unsaved += 1
                if unsaved == SAVE_EVERY_RECORDS:
                    counts.save()
                    unsaved = 0
    except KeyboardInterrupt:
        pass
    finally:
        consumer.close()
    counts.save()
    counts.show()


main()
