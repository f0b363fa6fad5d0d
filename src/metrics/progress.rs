//! Labels and gauges of partitions without progress.

use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabel, EncodeLabelSet, LabelSetEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::PartitionLabels;
use super::taps::TapPartitionLabels;

/// Labels of a `…_stuck` gauge. `topic` is set if one component reads several topics, `tap` for the source of a tap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StuckLabels {
    pub topic: Option<Arc<str>>,
    pub tap: Option<Arc<str>>,
    pub partition: i32,
    pub reason: &'static str,
}

impl EncodeLabelSet for StuckLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> Result<(), std::fmt::Error> {
        for (name, value) in [("topic", &self.topic), ("tap", &self.tap)] {
            if let Some(value) = value {
                (name, &**value).encode(encoder.encode_label())?;
            }
        }
        ("partition", self.partition).encode(encoder.encode_label())?;
        ("reason", self.reason).encode(encoder.encode_label())
    }
}

/// The gauges of one topic's partitions. A series exists only while its partition is assigned to this process.
#[derive(Debug, Clone, Default)]
pub struct PartitionGauges {
    /// Number of unprocessed records; `None` if another part of the process reports the lag, or for a tap.
    pub lag: Option<Family<PartitionLabels, Gauge>>,
    /// The tap that reads the topic, with its gauges of unprocessed records.
    pub tap: Option<(Arc<str>, Family<TapPartitionLabels, Gauge>)>,
    /// 1 while the partition is stuck.
    pub stuck: Family<StuckLabels, Gauge>,
    /// Whether `stuck` has the label `topic`.
    pub with_topic: bool,
}

impl PartitionGauges {
    pub fn set_lag(&self, partition: i32, lag: i64) {
        if let Some(gauges) = &self.lag {
            gauges.get_or_create(&PartitionLabels { partition }).set(lag);
        }
        if let Some((tap, gauges)) = &self.tap {
            gauges.get_or_create(&TapPartitionLabels { tap: Arc::clone(tap), partition }).set(lag);
        }
    }

    pub fn remove_lag(&self, partition: i32) {
        if let Some(gauges) = &self.lag {
            gauges.remove(&PartitionLabels { partition });
        }
        if let Some((tap, gauges)) = &self.tap {
            gauges.remove(&TapPartitionLabels { tap: Arc::clone(tap), partition });
        }
    }

    /// Labels of the gauge of a stuck partition of `topic`.
    pub fn stuck_labels(&self, topic: &Arc<str>, partition: i32, reason: &'static str) -> StuckLabels {
        StuckLabels {
            topic: self.with_topic.then(|| Arc::clone(topic)),
            tap: self.tap.as_ref().map(|(tap, _)| Arc::clone(tap)),
            partition,
            reason,
        }
    }
}
