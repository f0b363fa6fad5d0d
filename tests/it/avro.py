"""A service in Python that speaks Avro: writes by confluent-kafka's serializer, reads by its deserializer and by fastavro.

Reads from stdin what to do, as JSON; prints what it read, one JSON object a line.
"""

import datetime
import io
import json
import sys
import urllib.request
import uuid

import fastavro
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.schema_registry import Schema, SchemaReference, SchemaRegistryClient
from confluent_kafka.schema_registry.avro import AvroDeserializer, AvroSerializer
from confluent_kafka.serialization import MessageField, SerializationContext

PATIENCE_S = 30


def main():
    told = json.load(sys.stdin)
    registry = SchemaRegistryClient({"url": told["registry"]})
    producer = Producer({"bootstrap.servers": told["kafka"], "partitioner": "murmur2_random"})
    for message in told["writes"]:
        # Each schema under a subject of its own, as of services that know nothing of each other.
        topic, subject = message["topic"], message["subject"]
        references = [SchemaReference(name, of, registry.get_latest_version(of).version)
                      for name, of in message.get("references", {}).items()]
        schema = Schema(message["schema"], "AVRO", references)
        serialize = AvroSerializer(registry, schema, conf={"subject.name.strategy": lambda *_: subject})
        value = serialize(message["value"], SerializationContext(topic, MessageField.VALUE))
        producer.produce(topic, value=value, key=message["key"], headers=message.get("headers", {}))
    producer.flush(PATIENCE_S)
    for topic, count in told["reads"]:
        for value in read(told["kafka"], topic, count):
            by_confluent = AvroDeserializer(registry)(value, SerializationContext(topic, MessageField.VALUE))
            by_fastavro = with_fastavro(told["registry"], value)
            assert by_confluent == by_fastavro, (by_confluent, by_fastavro)
            print(json.dumps({"topic": topic, "message": by_confluent}, default=plain))


def read(kafka, topic, count):
    consumer = Consumer({"bootstrap.servers": kafka, "group.id": "avro.py", "enable.auto.commit": False,
                         "isolation.level": "read_committed"})
    partitions = consumer.list_topics(topic, PATIENCE_S).topics[topic].partitions
    consumer.assign([TopicPartition(topic, partition, 0) for partition in partitions])
    values = []
    while len(values) < count:
        record = consumer.poll(PATIENCE_S)
        assert record is not None and record.error() is None, f"{topic}: {len(values)} records"
        if record.value()[:1] == b"\0":
            values.append(record.value())
    consumer.close()
    return values


def with_fastavro(registry, value):
    schema_id = int.from_bytes(value[1:5], "big")
    with urllib.request.urlopen(f"{registry}/schemas/ids/{schema_id}") as answer:
        schema = fastavro.parse_schema(json.loads(json.load(answer)["schema"]))
    return fastavro.schemaless_reader(io.BytesIO(value[5:]), schema)


def plain(value):
    if isinstance(value, datetime.datetime):
        return value.astimezone(datetime.timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    if isinstance(value, uuid.UUID):
        return str(value)
    raise TypeError(type(value))


main()
