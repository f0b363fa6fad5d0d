//! Requests to the edge layers, and their keys.

use std::time::Duration;

use crate::redis_cache::key;

pub const CHECK_LIFE: Duration = Duration::from_secs(30);
pub const ENDPOINT_LIFE: Duration = Duration::from_secs(60);

/// Layer of the edge cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layer {
    Check,
    Endpoint,
    List,
}

/// Request for a value of a layer.
#[derive(Debug, Clone)]
pub struct EdgeRequest {
    pub layer: Layer,
    pub environment: String,
    /// Name of the flag; empty for the list.
    pub flag: String,
    pub user: Option<String>,
}

impl Layer {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Check => "check",
            Self::Endpoint => "endpoint",
            Self::List => "list",
        }
    }

    pub fn life(self) -> Duration {
        if self == Self::Check { CHECK_LIFE } else { ENDPOINT_LIFE }
    }
}

impl EdgeRequest {
    pub(super) fn key(&self) -> String {
        let user = self.user.as_deref().unwrap_or_default();
        match self.layer {
            Layer::Check => key::check(&self.environment, &self.flag, user),
            Layer::Endpoint => key::endpoint(&self.environment, &self.flag, user),
            Layer::List => key::list(&self.environment),
        }
    }

    pub(super) fn place(&self) -> String {
        key::place(&self.environment, &self.flag)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_those_of_the_contract() {
        let of = |layer| EdgeRequest {
            layer,
            environment: "e:1".into(),
            flag: "f".into(),
            user: Some("u".into()),
        };
        assert_eq!(of(Layer::Check).key(), "flag_check:e%3A1:f:u");
        assert_eq!(of(Layer::Endpoint).key(), "flag_endpoint:e%3A1:f:u");
        assert_eq!(of(Layer::List).key(), "flag_endpoint:e%3A1");
        assert!(key::is_of_edge(&key::data("e", "f")) && !key::is_of_edge("feature_flag:eval:e:f:u:0"));
    }
}
