"""A broker and a service in this process: librdkafka's mock broker, and a thread that answers requests."""

import json
import threading
import time

from confluent_kafka import Consumer, Producer, TopicPartition

REQUESTS, REPLIES, CONVERSIONS, UPDATES = "requests", "replies", "conversions", "updates"
#: The mock broker answers an empty fetch after this time.
FETCH_WAIT_MS = 10
LIMIT_S = 30


def wait_until(condition, what="the condition"):
    deadline = time.monotonic() + LIMIT_S
    while not (result := condition()):
        assert time.monotonic() < deadline, f"{what} does not hold within {LIMIT_S} s"
        time.sleep(0.005)
    return result


def answer(body, value=True, version=10):
    """The service's reply to a request."""
    flags = body.get("flag_names") or [body["flag_name"]]
    result = {"value": value, "enabled": True, "variant": None, "reason": "TARGETING_MATCH", "error_code": None,
              "error_message": None, "flag_version": 9}
    return {"request_id": body["request_id"], "environment": body.get("environment"), "results": dict.fromkeys(flags, result),
            "flags_version": version}


class FakeKafka:
    """The broker, which lives as long as the producer that embeds it."""

    def __init__(self):
        self.producer = Producer({"test.mock.num.brokers": 1, "linger.ms": 0})
        self.servers = ",".join(f"{broker.host}:{broker.port}" for broker in self.producer.list_topics(timeout=LIMIT_S).brokers.values())
        for topic in (REQUESTS, REPLIES, CONVERSIONS, UPDATES):
            wait_until(lambda topic=topic: self.producer.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions, topic)

    def send(self, topic, value, key=None, headers=()):
        self.producer.produce(topic, value, key, headers=list(headers))
        assert self.producer.flush(LIMIT_S) == 0

    def consumer(self, topic):
        """A consumer of all partitions from their beginning."""
        consumer = Consumer({"bootstrap.servers": self.servers, "group.id": "test", "enable.auto.commit": False,
                             "fetch.wait.max.ms": FETCH_WAIT_MS})
        partitions = self.producer.list_topics(topic, timeout=LIMIT_S).topics[topic].partitions
        consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
        return consumer

    def read(self, topic, count):
        """The first messages of a topic."""
        consumer, messages = self.consumer(topic), []
        wait_until(lambda: messages.extend(m for m in [consumer.poll(0.05)] if m) or len(messages) >= count, f"{count} messages")
        consumer.close()
        return messages


class FakeService:
    """Answers each request as `self.answer` says; None is no reply."""

    def __init__(self, kafka, answer=answer, read=json.loads):
        self.kafka, self.answer, self.read, self.requests = kafka, answer, read, []
        self.open = threading.Event()
        self.open.set()
        self.closing = threading.Event()
        self.thread = threading.Thread(target=self.run, daemon=True)
        self.thread.start()

    def run(self):
        consumer = self.kafka.consumer(REQUESTS)
        while not self.closing.is_set():
            message = consumer.poll(0.05)
            if message is None:
                continue
            self.open.wait()
            body, headers = self.read(message.value()), dict(message.headers() or [])
            self.requests.append((message.key(), headers, body))
            reply = self.answer(body)
            if reply is not None and "reply-to" in headers:
                value = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
                correlation = [("correlation-id", headers["correlation-id"])]
                self.kafka.producer.produce(headers["reply-to"].decode(), value, message.key(), headers=correlation)
                self.kafka.producer.poll(0)
        consumer.close()

    def close(self):
        self.open.set()
        self.closing.set()
        self.thread.join()
        self.kafka.producer.flush(LIMIT_S)
