"""The command line of scripts/abuse."""

import argparse
import json
import os
import sys
import time
from pathlib import Path

P99_RATIO_MAX = 2.0
MEMORY_GROWTH_MAX_MIB = 256
# Latencies below this are noise, so a doubling is not a finding.
FLOOR_MS = {"kafka": 400.0, "http": 50.0}
AFTERWARDS_SECONDS = 120
WARM_UP_SECONDS = 5


def main(argv):
    parser = argparse.ArgumentParser(prog="scripts/abuse", description=__doc__)
    parser.add_argument("--binary", default="target/release/flagstream", help="the binary (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=15, help="how long the time before an attack is measured (default: %(default)s)")
    parser.add_argument("--only", action="append", metavar="ATTACK", help="only this attack; may be given several times")
    parser.add_argument("--list", action="store_true", help="list the attacks")
    parser.add_argument("--output", choices=["text", "json"], default="text")
    options = parser.parse_args(argv)
    sys.path.insert(0, os.environ.get("FLAGSTREAM_TEST_PYTHON_PATH", ""))
    try:
        from . import attacks
    except ImportError as error:
        print(f"scripts/abuse: {error}: run it in the test stack: scripts/stack run -- scripts/abuse", file=sys.stderr)
        return 2
    if options.list:
        for attack in attacks.ATTACKS:
            print(f"{attack.__name__:<22} {attack.__doc__}")
        return 0
    chosen = [attack for attack in attacks.ATTACKS if not options.only or attack.__name__ in options.only]
    missing = set(options.only or ()) - {attack.__name__ for attack in chosen}
    if missing or not Path(options.binary).exists():
        what = f"no such attack: {', '.join(sorted(missing))}" if missing else f"{options.binary} does not exist: cargo build --release"
        print(f"scripts/abuse: {what}", file=sys.stderr)
        return 2
    if "FLAGSTREAM_TEST_KAFKA" not in os.environ:
        print("scripts/abuse: run it in the test stack: scripts/stack run -- scripts/abuse", file=sys.stderr)
        return 2
    return run(options, chosen)


def run(options, chosen):
    from .load import Load, percentile
    from .service import PARTITIONS, Service

    failed = 0
    if options.output == "text":
        print(f"{'attack':<22} {'kafka p99 ms':>18} {'http p99 ms':>18} {'memory MiB':>16} {'goes on':>8}  result")
    for attack in chosen:
        with Service(options.binary, os.environ["FLAGSTREAM_TEST_KAFKA"], os.environ["FLAGSTREAM_TEST_DATABASE_URL"]) as service:
            service.create_topic = lambda topic: create_topic(service.kafka, topic)
            load = Load(service, PARTITIONS, attacked=0)
            load.start()
            # The first answers are slower, because partitions and connections are being set up.
            time.sleep(WARM_UP_SECONDS)
            load.take()
            time.sleep(options.seconds)
            before = [percentile(values, 0.99) for values in load.take()[:2]]
            memory = peak = service.memory_mib()
            problems = []
            peak, error = attacked(attack, service, peak)
            problems += [error] if error else []
            recovered, peak = goes_on(service, peak)
            kafka, http, failed_calls = load.take()
            during = [percentile(values, 0.99) for values in (kafka, http)]
            unanswered = load.stop()
            for what, was, now in zip(("kafka", "http"), before, during):
                if now > P99_RATIO_MAX * max(was, FLOOR_MS[what] / P99_RATIO_MAX):
                    problems.append(f"{what} p99 {now / max(was, 0.1):.1f} times")
            problems += [f"memory grew by {peak - memory:.0f} MiB"] if peak - memory > MEMORY_GROWTH_MAX_MIB else []
            problems += [f"{unanswered} requests unanswered"] if unanswered else []
            problems += [f"{failed_calls} calls failed"] if failed_calls else []
            problems += [] if recovered else [f"the attacked partition stands still after {AFTERWARDS_SECONDS} s"]
            failed += bool(problems)
            row = {"attack": attack.__name__, "kafka_p99_ms": [before[0], during[0]], "http_p99_ms": [before[1], during[1]],
                   "memory_mib": [memory, peak], "goes_on": recovered, "problems": problems}
            show(row, options.output)
    return 1 if failed else 0


def attacked(attack, service, peak):
    """Runs the attack; the highest memory meanwhile, and what went wrong."""
    import threading

    outcome = []

    def run():
        try:
            attack(service, 0)
        except Exception as error:  # noqa: BLE001  (it is reported)
            outcome.append(str(error))

    thread = threading.Thread(target=run)
    thread.start()
    while thread.is_alive():
        peak = max(peak, service.memory_mib())
        thread.join(0.1)
    return peak, outcome[0] if outcome else None


def goes_on(service, peak):
    """Whether a request behind the attack, in the same partition, is answered."""
    from confluent_kafka import Consumer, Producer, TopicPartition

    consumer = Consumer({"bootstrap.servers": service.kafka, "group.id": f"{service.requests}-after", "isolation.level": "read_committed",
                         "enable.auto.commit": False})
    _, high = consumer.get_watermark_offsets(TopicPartition(service.events, 0), timeout=10)
    consumer.assign([TopicPartition(service.events, 0, high)])
    sender = Producer({"bootstrap.servers": service.kafka})
    body = json.dumps({"request_id": "afterwards", "flag_name": "on", "user_id": "u", "environment": "production"})
    sender.produce(service.requests, body.encode(), partition=0)
    sender.flush(30)
    deadline = time.monotonic() + AFTERWARDS_SECONDS
    try:
        while time.monotonic() < deadline:
            peak = max(peak, service.memory_mib())
            for record in consumer.consume(1000, 0.2):
                if record.error() is None and b'"afterwards"' in (record.value() or b""):
                    return True, peak
        return False, peak
    finally:
        consumer.close()


def create_topic(kafka, topic):
    from confluent_kafka.admin import AdminClient, NewTopic

    # The client must live until the result has arrived.
    admin = AdminClient({"bootstrap.servers": kafka})
    for future in admin.create_topics([NewTopic(topic, 1, 1)]).values():
        future.result(30)


def show(row, output):
    if output == "json":
        print(json.dumps(row), flush=True)
        return
    pair = lambda values: f"{values[0]:.0f} -> {values[1]:.0f}"
    print(f"{row['attack']:<22} {pair(row['kafka_p99_ms']):>18} {pair(row['http_p99_ms']):>18} {pair(row['memory_mib']):>16} "
          f"{'yes' if row['goes_on'] else 'NO':>8}  {'; '.join(row['problems']) or 'ok'}", flush=True)
