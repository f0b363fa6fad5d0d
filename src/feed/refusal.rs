//! Flags that were refused by name. Their last valid versions stay in force.

use std::collections::BTreeMap;

use serde::Serialize;

use super::answer::Digest;

/// Flag whose definition cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Refused {
    pub flag: String,
    pub reason: String,
    /// Digest of the refused definition; `None` if the refusal is not about a single definition.
    #[serde(skip)]
    pub digest: Option<Digest>,
}

/// Refused flags of one environment, so that the same definition is neither compiled nor logged twice.
#[derive(Debug, Default)]
pub struct Refusals {
    by_flag: BTreeMap<String, Refused>,
}

impl Refused {
    pub fn new(flag: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { flag: flag.into(), reason: reason.into(), digest: None }
    }

    pub fn of(flag: impl Into<String>, reason: impl Into<String>, digest: Digest) -> Self {
        Self { digest: Some(digest), ..Self::new(flag, reason) }
    }
}

impl Refusals {
    /// The earlier refusal of exactly this definition of `flag`, if there is one.
    pub fn of(&self, flag: &str, digest: &Digest) -> Option<&Refused> {
        self.by_flag.get(flag).filter(|refused| refused.digest.as_ref() == Some(digest))
    }

    /// Replaces all refusals. Returns those that are new.
    pub fn replace(&mut self, refused: Vec<Refused>) -> Vec<Refused> {
        let before = std::mem::take(&mut self.by_flag);
        let is_new = |now: &&Refused| before.get(&now.flag).is_none_or(|old| old.reason != now.reason);
        let news = refused.iter().filter(is_new).cloned().collect();
        self.by_flag = refused.into_iter().map(|refused| (refused.flag.clone(), refused)).collect();
        news
    }

    pub fn add(&mut self, refused: Refused) {
        self.by_flag.insert(refused.flag.clone(), refused);
    }

    pub fn iter(&self) -> impl Iterator<Item = &Refused> {
        self.by_flag.values()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_new_refusals_are_news() {
        let mut refusals = Refusals::default();
        let bad = Refused::of("a", "no operator", [1; 32]);
        assert_eq!(refusals.replace(vec![bad.clone()]).len(), 1);
        assert!(refusals.replace(vec![bad.clone()]).is_empty());
        assert_eq!(refusals.of("a", &[1; 32]), Some(&bad));
        assert_eq!(refusals.of("a", &[2; 32]), None);
        assert_eq!(refusals.replace(vec![Refused::of("a", "too large", [2; 32])]).len(), 1);
        assert!(refusals.replace(Vec::new()).is_empty());
        assert_eq!(refusals.iter().count(), 0);
    }
}
