"""Ordinary traffic, and how long its answers take."""

import json
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

KAFKA_PER_SECOND = 50
HTTP_PER_SECOND = 20
ANSWER_SECONDS = 60


class Load:
    """Requests in all partitions but the attacked one, and calls over HTTP, until `stop`."""

    def __init__(self, service, partitions, attacked):
        self.service = service
        self.partitions = [partition for partition in range(partitions) if partition != attacked]
        self.lock = threading.Lock()
        self.sent, self.kafka, self.http = {}, [], []
        self.failed_calls = 0
        self.stopping = threading.Event()
        self.threads = [threading.Thread(target=run, daemon=True) for run in (self._produce, self._consume, self._call)]
        self.consuming = threading.Event()

    def start(self):
        for thread in self.threads:
            thread.start()
        self.consuming.wait(30)

    def stop(self):
        """Stops sending and waits until everything that was sent is answered. The number of unanswered requests."""
        self.stopping.set()
        deadline = time.monotonic() + ANSWER_SECONDS
        while time.monotonic() < deadline:
            with self.lock:
                if not self.sent:
                    return 0
            time.sleep(0.1)
        with self.lock:
            return len(self.sent)

    def take(self):
        """The latencies since the last call: of Kafka and of HTTP, in milliseconds, and failed calls."""
        now = time.monotonic()
        with self.lock:
            # Unanswered requests count with the time since they were sent.
            waiting = [1000 * (now - since) for since in self.sent.values()]
            taken = (self.kafka + waiting, self.http, self.failed_calls)
            self.kafka, self.http, self.failed_calls = [], [], 0
        return taken

    def _produce(self):
        producer = Producer({"bootstrap.servers": self.service.kafka, "linger.ms": 0})
        number = 0
        self.consuming.wait(30)
        while not self.stopping.is_set():
            number += 1
            name = f"load-{number}"
            body = json.dumps({"request_id": name, "flag_name": "half", "user_id": f"user-{number % 1000}", "environment": "production"})
            with self.lock:
                self.sent[name] = time.monotonic()
            producer.produce(self.service.requests, body.encode(), key=name, partition=self.partitions[number % len(self.partitions)])
            producer.poll(0)
            time.sleep(1 / KAFKA_PER_SECOND)
        producer.flush(10)

    def _consume(self):
        consumer = Consumer({"bootstrap.servers": self.service.kafka, "group.id": f"{self.service.requests}-load",
                             "isolation.level": "read_committed", "enable.auto.commit": False, "fetch.wait.max.ms": 50})
        assigned = []
        for partition in self.partitions:
            _, high = consumer.get_watermark_offsets(TopicPartition(self.service.events, partition), timeout=10)
            assigned.append(TopicPartition(self.service.events, partition, high))
        consumer.assign(assigned)
        self.consuming.set()
        while not (self.stopping.is_set() and not self.sent):
            for record in consumer.consume(500, 0.05):
                if record.error() is None and record.value():
                    event = json.loads(record.value())
                    with self.lock:
                        since = self.sent.pop(event.get("request_id"), None)
                        if since is not None:
                            self.kafka.append(1000 * (time.monotonic() - since))
        consumer.close()

    def _call(self):
        body = {"flag_name": "half", "user_id": "caller", "environment": "production"}
        while not self.stopping.is_set():
            since = time.monotonic()
            status, _ = self.service.call("POST", "/api/v1/feature-flags/evaluate", body, timeout=10)
            with self.lock:
                self.http.append(1000 * (time.monotonic() - since))
                self.failed_calls += status != 200
            time.sleep(1 / HTTP_PER_SECOND)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(share * len(values)))] if values else 0.0
