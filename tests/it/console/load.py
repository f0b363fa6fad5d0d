"""Sends evaluation requests at a steady rate, for tests/it/console/load.mjs.

python3 tests/it/console/load.py RATE SECONDS, with KAFKA_BOOTSTRAP_SERVERS and the packages of $FLAGSTREAM_TEST_PYTHON_PATH
"""

import json
import os
import sys
import time

from confluent_kafka import Producer

RATE, SECONDS = int(sys.argv[1]), float(sys.argv[2])
TOPIC = os.environ.get("FLAGSTREAM_TOPICS__REQUESTS", "feature-flag-evaluation-requests")
FLAGS = ["on", "off", "premium", "theme", "max-retries", "config"]
INTERVAL_S = 0.01
QUEUE_MAX = 90_000

producer = Producer({"bootstrap.servers": os.environ["KAFKA_BOOTSTRAP_SERVERS"], "linger.ms": 10})
begun, sent = time.monotonic(), 0
while (passed := time.monotonic() - begun) < SECONDS:
    while sent < RATE * passed:
        user = f"user-{sent % 1000}"
        body = {"flag_name": FLAGS[sent % len(FLAGS)], "user_id": user, "environment": "production", "context": {"plan": "gold"}}
        producer.produce(TOPIC, json.dumps(body).encode(), user)
        sent += 1
        if sent % 1000 == 0:
            # Waits while the queue is nearly full.
            while len(producer) > QUEUE_MAX:
                producer.poll(INTERVAL_S)
    producer.poll(INTERVAL_S)
left = producer.flush(30)
print(f"{(sent - left) / (time.monotonic() - begun):,.0f} requests/s")
