"""The benchmark of docs/benchmarks.md: requests and replies through Kafka, with the client and without it.

Latency: the time from a request to its reply, one after the other. The arms alternate in one run:

```text
 client   SyncKafkaFeatureFlagClient.evaluate ─► flagstream ─► reply
 plain    a producer and a consumer without the client ─► flagstream ─► reply, which is not decoded
 echo     the same ─► another process, which sends each request back without evaluating it
 echo-tx  the same ─► another process, which sends each batch back in a transaction, as flagstream does
```

Throughput: requests per second of one process with many requests in flight, the client for asyncio and the plain arm.

Needs KAFKA_BOOTSTRAP_SERVERS and a service with the flag `theme` that answers there. `--service echo` measures the client
alone: the echo process then answers as a service does.
"""

import argparse
import asyncio
import cProfile
import json
import os
import pstats
import statistics
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "src"))

from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic
from flagstream_client.kafka import KafkaFeatureFlagClient, SyncKafkaFeatureFlagClient

LIMIT_S = 30
WARM_UP_COUNT = 200
FLAG, ENVIRONMENT, DEFAULT = "theme", "production", "light"
TRANSACTIONAL = "echo-tx"
CORRELATION = "correlation-id"


def servers():
    return os.environ["KAFKA_BOOTSTRAP_SERVERS"]


def consumer(topic, **more):
    """A consumer of all partitions from their ends, outside of any group."""
    properties = {"bootstrap.servers": servers(), "group.id": "bench", "enable.auto.commit": False,
                  "isolation.level": "read_committed", **more}
    made = Consumer(properties)
    places = [TopicPartition(topic, number) for number in made.list_topics(topic, LIMIT_S).topics[topic].partitions]
    made.assign([TopicPartition(topic, it.partition, made.get_watermark_offsets(it, LIMIT_S)[1]) for it in places])
    return made


def create(*topics):
    """Creates topics with one partition, unless they exist."""
    admin = AdminClient({"bootstrap.servers": servers()})
    existing = admin.list_topics(timeout=LIMIT_S).topics
    missing = [NewTopic(topic, 1, 1) for topic in topics if topic not in existing]
    for created in admin.create_topics(missing).values() if missing else ():
        created.result(LIMIT_S)


# --- the echo process --------------------------------------------------------------------------------------------------------

REPLY = json.dumps({
    "request_id": None, "environment": ENVIRONMENT, "flags_version": 1, "evaluated_at": "2026-01-15T10:30:00.212345Z",
    "results": {FLAG: {"value": "dark", "enabled": True, "variant": "dark", "reason": "TARGETING_MATCH", "error_code": None,
                       "error_message": None, "flag_version": 1, "typed_value": "dark"}},
}).encode()


def echo(requests, is_transactional):
    """Sends a reply to each request of a topic until standard input ends."""
    properties = {"bootstrap.servers": servers(), "linger.ms": 0}
    producer = Producer(properties | ({"transactional.id": f"bench-{os.getpid()}"} if is_transactional else {}))
    if is_transactional:
        producer.init_transactions(LIMIT_S)
    reader = consumer(requests)
    reader.poll(1)
    os.set_blocking(0, False)
    print("ready", flush=True)
    while sys.stdin.buffer.read(1) != b"":
        first = reader.poll(0.1)
        if first is None:
            producer.poll(0)
            continue
        if is_transactional:
            producer.begin_transaction()
        for message in (first, *reader.consume(1_000, 0)):
            if message.error() is None:
                headers = dict(message.headers())
                producer.produce(headers["reply-to"].decode(), REPLY, message.key(), headers=[(CORRELATION, headers[CORRELATION])])
        if is_transactional:
            producer.commit_transaction(LIMIT_S)
        producer.poll(0)
    producer.flush(LIMIT_S)


class Echo:
    """The process that sends replies, and its topic."""

    def __init__(self, is_transactional):
        self.requests = f"bench-{'tx' if is_transactional else 'plain'}-requests-{os.getpid()}"
        create(self.requests)
        command = [sys.executable, __file__, "--echo", self.requests, *(["--transactional"] if is_transactional else [])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self.process.stdout.readline() == b"ready\n", "the echo process starts"

    def close(self):
        self.process.stdin.close()
        self.process.wait(LIMIT_S)


# --- the arms ----------------------------------------------------------------------------------------------------------------


class Plain:
    """A producer and a consumer without the client: the least that a round trip needs."""

    def __init__(self, requests, replies):
        self.requests, self.replies = requests, replies
        self.producer = Producer({"bootstrap.servers": servers(), "linger.ms": 0})
        self.consumer = consumer(replies)
        self.numbers = 0

    def send(self, user):
        """Sends a request of the same size as the client's; returns its id."""
        self.numbers += 1
        own = f"plain-{os.getpid()}-{id(self)}.{self.numbers}"
        body = {"request_id": own, "flag_name": FLAG, "environment": ENVIRONMENT, "user_id": user, "default_value": DEFAULT,
                "requested_at": "2026-01-15T10:30:00.212345Z"}
        headers = [("reply-to", self.replies.encode()), (CORRELATION, own.encode())]
        self.producer.produce(self.requests, json.dumps(body).encode(), user, headers=headers)
        return own.encode()

    def ask(self, user):
        own = self.send(user)
        self.producer.poll(0)
        deadline = time.monotonic() + LIMIT_S
        while time.monotonic() < deadline:
            message = self.consumer.poll(1)
            if message is not None and message.error() is None and dict(message.headers()).get(CORRELATION) == own:
                return
        raise TimeoutError(f"no reply to {own!r} within {LIMIT_S} s")

    def throughput(self, seconds, window):
        """Requests per second with so many in flight, and seconds of CPU for each, counted by their replies."""
        waiting, done, begun, number, cpu = set(), 0, time.perf_counter(), 0, time.process_time()
        until = begun + seconds
        while waiting or time.perf_counter() < until:
            while len(waiting) < window and time.perf_counter() < until:
                waiting.add(self.send(f"user-{number % 100}"))
                number += 1
            self.producer.poll(0)
            first = self.consumer.poll(0.1)
            for message in () if first is None else (first, *self.consumer.consume(1_000, 0)):
                own = dict(message.headers() or ()).get(CORRELATION)
                if own in waiting:
                    waiting.discard(own)
                    done += 1
            assert time.perf_counter() < until + LIMIT_S, f"{len(waiting)} requests have no reply"
        return done / (time.perf_counter() - begun), (time.process_time() - cpu) / done


class Client:
    """The client for threads."""

    def __init__(self, requests, replies):
        self.client = SyncKafkaFeatureFlagClient(servers(), ENVIRONMENT, requests_topic=requests, reply_topic=replies, timeout=LIMIT_S)
        self.client.wait_until_ready(LIMIT_S)

    def ask(self, user):
        assert self.client.evaluate(FLAG, user, DEFAULT).value == "dark"


async def client_throughput(requests, replies, seconds, window):
    """Evaluations per second of the client for asyncio with so many in flight, and seconds of CPU for each."""
    options = {"requests_topic": requests, "reply_topic": replies, "timeout": LIMIT_S, "max_pending": window + 1}
    async with KafkaFeatureFlagClient(servers(), ENVIRONMENT, **options) as client:
        await client.wait_until_ready(LIMIT_S)
        done, begun, cpu = 0, time.perf_counter(), time.process_time()
        until = begun + seconds

        async def worker(number):
            nonlocal done
            user = f"user-{number % 100}"
            while time.perf_counter() < until:
                assert (await client.evaluate(FLAG, user, DEFAULT)).value == "dark"
                done += 1

        await asyncio.gather(*(worker(number) for number in range(window)))
        return done / (time.perf_counter() - begun), (time.process_time() - cpu) / done


# --- the run -----------------------------------------------------------------------------------------------------------------


def percentile(times, share):
    return sorted(times)[min(len(times) - 1, round(len(times) * share))] * 1e3


def timed(arm, count):
    times = []
    for number in range(count):
        begun = time.perf_counter()
        arm.ask(f"user-{number % 100}")
        times.append(time.perf_counter() - begun)
    return times


def latency(arms, options):
    """Prints the percentiles of each arm, the median of its rounds, and the ratios to the plain arms."""
    for arm in arms.values():
        timed(arm, WARM_UP_COUNT)
    rounds = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            rounds[name].append(timed(arm, options.requests))
    medians = {}
    for share in (0.5, 0.99):
        for name, all_times in rounds.items():
            each = [percentile(times, share) for times in all_times]
            medians[name] = statistics.median(each)
            print(f"p{share * 100:.0f} {name}: {medians[name]:.2f} ms (rounds: {', '.join(f'{it:.2f}' for it in each)})")
        for name in list(medians)[1:]:
            print(f"p{share * 100:.0f} client / {name}: {medians['client'] / medians[name]:.2f}")


def throughput(requests, options):
    arms = {"client": lambda: asyncio.run(client_throughput(requests, options.reply_topic, options.seconds, options.window)),
            "plain": lambda: Plain(requests, options.reply_topic).throughput(options.seconds, options.window)}
    rounds = {name: [] for name in arms}
    for _ in range(options.rounds):
        for name, arm in arms.items():
            rounds[name].append(arm())
    for place, what, factor, digits in ((0, "requests per second", 1, 0), (1, "µs of CPU per request", 1e6, 1)):
        median = {name: statistics.median(each[place] for each in all_rounds) for name, all_rounds in rounds.items()}
        for name, all_rounds in rounds.items():
            each = ", ".join(f"{it[place] * factor:,.{digits}f}" for it in all_rounds)
            print(f"{name}: {median[name] * factor:,.{digits}f} {what} (rounds: {each})")
        print(f"client / plain: {median['client'] / median['plain']:.2f}")


def run(options):
    create(options.reply_topic)
    echoes = {"echo": Echo(False), TRANSACTIONAL: Echo(True)}
    requests = echoes[options.service].requests if options.service in echoes else options.requests_topic
    print(f"load of the machine: {', '.join(f'{it:.1f}' for it in os.getloadavg())} on {os.cpu_count()} cores")
    try:
        if options.profile:
            profile = cProfile.Profile()
            profile.runcall(asyncio.run, client_throughput(requests, options.reply_topic, options.seconds, options.window))
            pstats.Stats(profile).sort_stats("tottime").print_stats(25)
            return
        arms = {"client": Client(requests, options.reply_topic), "plain": Plain(requests, options.reply_topic),
                **{name: Plain(it.requests, options.reply_topic) for name, it in echoes.items()}}
        if options.requests:
            latency(arms, options)
        arms["client"].client.close()
        if options.seconds:
            throughput(requests, options)
    finally:
        for it in echoes.values():
            it.close()
    print(f"load of the machine: {', '.join(f'{it:.1f}' for it in os.getloadavg())} on {os.cpu_count()} cores")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5, help="rounds of each arm")
    parser.add_argument("--requests", type=int, default=1_000, help="requests of one round of latency; 0: none")
    parser.add_argument("--seconds", type=float, default=5, help="length of one round of throughput; 0: none")
    parser.add_argument("--window", type=int, default=1_000, help="requests in flight")
    parser.add_argument("--requests-topic", default=os.environ.get("FLAGSTREAM_TOPICS__REQUESTS", "feature-flag-evaluation-requests"))
    parser.add_argument("--reply-topic", default=os.environ.get("REPLY_TOPIC", "feature-flag-replies-bench"))
    parser.add_argument("--service", choices=["flagstream", "echo", TRANSACTIONAL], default="flagstream", help="what answers the client")
    parser.add_argument("--profile", action="store_true", help="print where the client for asyncio spends its time")
    parser.add_argument("--echo", metavar="TOPIC", help=argparse.SUPPRESS)
    parser.add_argument("--transactional", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.echo:
        echo(options.echo, options.transactional)
    else:
        run(options)


if __name__ == "__main__":
    main()
