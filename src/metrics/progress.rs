//! Labels and gauges of partitions without progress.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::PartitionLabels;

/// Labels of a `…_stuck` gauge. `topic` is set if one component reads several topics.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StuckLabels {
    pub topic: Option<Arc<str>>,
    pub partition: i32,
    pub reason: &'static str,
}

impl EncodeLabelSet for StuckLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        if let Some(topic) = &self.topic {
            ("topic", &**topic).encode(encoder.encode_label())?;
        }
        ("partition", self.partition).encode(encoder.encode_label())?;
        ("reason", self.reason).encode(encoder.encode_label())
    }
}

/// The gauges of one topic's partitions. A series exists only while its partition is assigned to this process.
#[derive(Debug, Clone, Default)]
pub struct PartitionGauges {
    /// Number of unprocessed records; `None` if another part of the process reports the lag.
    pub lag: Option<Family<PartitionLabels, Gauge>>,
    /// 1 while the partition is stuck.
    pub stuck: Family<StuckLabels, Gauge>,
    /// Whether `stuck` has the label `topic`.
    pub with_topic: bool,
}
