"""Removes answers that a change has overtaken from a Redis that services keep them in, under `ff_eval:{environment}:{flag}:{user}`.

flagstream keeps its own Redis new by itself (docs/api.md, "Redis"); this is for caches that services fill, with values like
`{"enabled": true, "flag_version": …}`. A value that is as new as the change stays. One without a version goes.
"""

import json
import os
import signal

import redis
from confluent_kafka import Consumer

#: Found, compared and removed at once; a Redis that others use is never blocked for longer.
BATCH_KEYS = 500
POLL_S = 1.0

# Compared and removed in one step: a value that was written in between is not lost.
REMOVE_OLDER = """
local removed = 0
for _, key in ipairs(KEYS) do
    local known, value = pcall(cjson.decode, redis.call('GET', key) or '{}')
    local version = known and type(value) == 'table' and tonumber(value.basis_version or value.flag_version)
    if not version or version < tonumber(ARGV[1]) then
        removed = removed + redis.call('UNLINK', key)
    end
end
return removed
"""


def escaped(part):
    """A part of a key as it stands in keys (`%` and `:` percent-encoded), and literally in a pattern."""
    part = part.replace("%", "%25").replace(":", "%3A")
    return "".join(f"\\{letter}" if letter in "*?[]\\" else letter for letter in part)


def invalidate(cache, remove_older, event):
    pattern = f"ff_eval:{escaped(event['environment'])}:{escaped(event['flag_name'])}:*"
    removed, cursor = 0, None
    while cursor != 0:
        cursor, keys = cache.scan(cursor or 0, match=pattern, count=BATCH_KEYS)
        if keys:
            removed += remove_older(keys=keys, args=[event["version"]])
    print(f"{event['environment']}/{event['flag_name']} version {event['version']}: {removed} keys removed", flush=True)


def main():
    cache = redis.Redis.from_url(os.environ.get("REDIS_URL", "redis://localhost:6379"))
    remove_older = cache.register_script(REMOVE_OLDER)
    consumer = Consumer({
        "bootstrap.servers": os.environ.get("KAFKA_BOOTSTRAP_SERVERS", "localhost:9092"),
        "group.id": os.environ.get("GROUP_ID", "cache-invalidator"),
        # Committed after the keys are gone: what was not removed is read again.
        "enable.auto.commit": False,
        "auto.offset.reset": "earliest",
        "isolation.level": "read_committed",
    })
    consumer.subscribe([os.environ.get("FLAGSTREAM_TOPICS__UPDATES", "feature-flag-updates")])
    stopping = []
    signal.signal(signal.SIGTERM, lambda *_: stopping.append(True))
    try:
        while not stopping:
            message = consumer.poll(POLL_S)
            if message is None:
                continue
            if message.error() is not None:
                print(message.error(), flush=True)
                continue
            invalidate(cache, remove_older, json.loads(message.value()))
            consumer.commit(message, asynchronous=False)
    finally:
        consumer.close()


main()
