"""The attacks. Each gets the service and the partition that it may spoil, and returns when it has done its worst."""

import json
import os
import socket
import struct
import threading
import time

from confluent_kafka import Producer

from .service import TOKEN

NAMES = [f"f{number}" for number in range(1000)]


def producer(service, **settings):
    return Producer({"bootstrap.servers": service.kafka, "message.max.bytes": 20_000_000, **settings})


def produce(service, partition, records, **settings):
    """Records are (value, key, headers)."""
    sender = producer(service, **settings)
    for value, key, headers in records:
        while True:
            try:
                sender.produce(service.requests, value, key=key, headers=headers, partition=partition)
                break
            except BufferError:
                sender.poll(0.1)
    sender.flush(60)


def zstd(service, partition):
    """Requests compressed with zstd, as a Java producer may be configured."""
    body = json.dumps({"flag_name": "on", "user_id": "u", "environment": "production"}).encode()
    produce(service, partition, [(body, b"z", None)] * 50, **{"compression.type": "zstd"})


def large_reply(service, partition):
    """A request of 27 KB whose reply would be larger than Kafka takes."""
    topic = f"{service.replies}-large"
    service.create_topic(topic)
    body = json.dumps({"flag_names": NAMES, "environment": "e" * 20_000}).encode()
    produce(service, partition, [(body, b"r", [("reply-to", topic.encode())])])


def compressed_bomb(service, partition):
    """A record that is small on the wire and 9 MiB when it is unpacked."""
    body = b'{"flag_name": "x", "x": "' + b" " * (9 << 20) + b'"}'
    produce(service, partition, [(body, b"b", None)], **{"compression.type": "lz4"})


def many_flags(service, partition):
    """2,048 requests for 1,000 flags each, with a context of 1 KB: two million events."""
    body = json.dumps({"flag_names": NAMES, "context": {"x": "c" * 1000}, "environment": "production"}).encode()
    produce(service, partition, [(body, b"m", None)] * 2048)


def unknown_reply_topics(service, partition):
    """2,048 requests, each with a reply topic of its own that does not exist."""
    body = json.dumps({"flag_name": "on", "user_id": "u", "environment": "production"}).encode()
    records = [(body, b"t", [("reply-to", f"{service.replies}-{os.urandom(8).hex()}".encode())]) for _ in range(2048)]
    produce(service, partition, records)


def large_key(service, partition):
    """A key of 1 MB and a correlation id of 860 KB, repeated for 1,000 flags."""
    body = json.dumps({"flag_names": NAMES, "environment": "production"}).encode()
    produce(service, partition, [(body, os.urandom(1_000_000), [("correlation-id", os.urandom(430_000).hex().encode())])])


def garbage(service, partition):
    """10,000 records that are no requests, with made-up schema ids among them."""
    records = [(b"\0" + struct.pack(">I", 1_900_000_000 + number) if number % 2 else b"\xff{", b"g", None) for number in range(10_000)]
    produce(service, partition, records)


def amplified_call(service, _):
    """An anonymous call of 20 KB that asks for the longest answer it can."""
    for _ in range(20):
        service.call("POST", "/api/v1/feature-flags/evaluate/bulk", {"environment": "e" * 20_000, "flag_names": NAMES})
        service.call("POST", "/api/v1/feature-flags/evaluate/bulk", {"flag_names": ["x"], "default_values": {"x": "d" * 900_000}, "contexts": [{}] * 1000})
        service.call("POST", "/api/v1/feature-flags/evaluate/bulk", {"user_id": "u" * 900_000, "flag_names": NAMES, "environment": "production"})


def address(service):
    host, port = service.url.removeprefix("http://").split(":")
    return host, int(port)


def connections(service, count, head=b""):
    """Opens up to `count` connections and sends `head` on each; fewer if the service or the system takes no more."""
    opened = []
    for _ in range(count):
        try:
            connection = socket.create_connection(address(service), timeout=5)
            opened.append(connection)
            connection.send(head)
        except OSError:
            break
    return opened


def close(opened):
    for connection in opened:
        connection.close()


def silent_sockets(service, _):
    """2,000 connections that send nothing, for 20 seconds."""
    opened = connections(service, 2000)
    time.sleep(20)
    close(opened)


def slow_bodies(service, _):
    """1,024 bodies that never come; a kill switch must work all the same."""
    head = b"POST /api/v1/feature-flags/evaluate HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
    opened = connections(service, 1024, head)
    time.sleep(1)
    status, body = service.call("POST", "/api/v1/feature-flags/on/kill?environment=production", {"reason": "abuse"}, token=TOKEN)
    if status != 200:
        raise RuntimeError(f"the kill switch was refused: {status} {body[:200]}")
    service.call("DELETE", "/api/v1/feature-flags/on/kill?environment=production", token=TOKEN)
    time.sleep(5)
    close(opened)


def impossible_versions(service, _):
    """1,800 calls that wait for a version that cannot come."""
    head = b"GET /flags/on/check?user_id=u&min_version=18446744073709551615 HTTP/1.1\r\nHost: x\r\n\r\n"
    opened = connections(service, 1800, head)
    time.sleep(5)
    close(opened)


def regexes(service, _):
    """Previews of a flag with many large regular expressions, four at once; liveness must answer."""
    rule = {"attributes": [{"attribute": f"a{number}", "operator": "matches", "value": r"\w{30}"} for number in range(50)]}
    flag = {"name": "on", "environment": "production", "is_enabled": True, "rules": [rule] * 3}
    call = lambda: service.call("POST", "/api/v1/feature-flags/on/preview?environment=production", {"flag": flag, "last": 1}, token=TOKEN, timeout=60)
    threads = [threading.Thread(target=call) for _ in range(4)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    status, body = service.call("GET", "/health/live", timeout=5)
    if status != 200:
        raise RuntimeError(f"/health/live did not answer: {status} {body[:200]}")
    for thread in threads:
        thread.join()


ATTACKS = [zstd, large_reply, compressed_bomb, many_flags, unknown_reply_topics, large_key, garbage, amplified_call, silent_sockets,
           slow_bodies, impossible_versions, regexes]
