"""Evaluation through Kafka, and changes from Kafka: `pip install flagstream-client[kafka]`."""

from .blocking import SyncKafkaFeatureFlagClient
from .changes import KafkaInvalidations
from .client import KafkaFeatureFlagClient
from .formats import JSON, MessageFormat
from .options import KafkaOptions

__all__ = ["JSON", "KafkaFeatureFlagClient", "KafkaInvalidations", "KafkaOptions", "MessageFormat", "SyncKafkaFeatureFlagClient"]
