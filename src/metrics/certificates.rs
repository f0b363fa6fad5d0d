//! Expiry of the certificates that this process uses. `flagstream_certificate_…`.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;

/// Expiry of each certificate as Unix time in seconds, by the certificate's purpose.
#[derive(Debug, Clone, Default)]
pub struct Certificates(Arc<Mutex<BTreeMap<&'static str, i64>>>);

impl Certificates {
    /// Records when the certificate for `purpose` expires.
    pub fn set(&self, purpose: &'static str, expires: i64) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(purpose, expires);
    }
}

impl Collector for Certificates {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let certificates = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if certificates.is_empty() {
            return Ok(());
        }
        let help = "Time at which a certificate expires, as Unix time in seconds";
        let mut metric = encoder.encode_descriptor(
            "certificate_expiry_timestamp_seconds",
            help,
            None,
            MetricType::Gauge,
        )?;
        for (purpose, expires) in &*certificates {
            let labels = [("certificate", *purpose)];
            ConstGauge::new(*expires).encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
