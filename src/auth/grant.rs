//! Permissions of a token: scopes and environments.

use std::collections::BTreeSet;

use crate::config::{Scope, TokenKind, environment_name};

use super::Restrictions;

/// Name that stands for all environments, including future ones.
const EVERYWHERE: &str = "*";

/// Scopes, and the environments and flags for which they apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    pub scopes: Vec<Scope>,
    pub environments: Environments,
    pub restrictions: Restrictions,
    /// SDKs of Unleash that the token is for; `None`: any.
    pub kind: Option<TokenKind>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Environments {
    All,
    Listed(BTreeSet<String>),
}

impl Grant {
    pub fn new(scopes: Vec<Scope>, environments: Environments) -> Self {
        Self { scopes, environments, restrictions: Restrictions::default(), kind: None }
    }

    /// Whether the scope is granted. `admin` implies all other scopes. `write` implies `track`, which was a part of it
    /// before it became a scope of its own.
    pub fn has(&self, scope: Scope) -> bool {
        let implied = scope == Scope::Track && self.scopes.contains(&Scope::Write);
        implied || self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// Scopes in the form stored in the table.
    pub(super) fn scope_names(&self) -> String {
        let names: Vec<_> = self.scopes.iter().map(|scope| scope.name()).collect();
        names.join(",")
    }

    /// Reads the stored form. A scope that this version does not know is ignored. Restrictions or a kind that cannot be
    /// read leave no scope.
    pub(super) fn read(
        scopes: &str,
        environments: Option<&str>,
        restrictions: [Option<&str>; 3],
        kind: Option<&str>,
    ) -> Self {
        let restrictions = Restrictions::read(restrictions);
        let known_kind = kind.and_then(TokenKind::of_name);
        let is_read = restrictions.is_some() && kind.is_some() == known_kind.is_some();
        let scopes = scopes.split(',').filter_map(Scope::of_name).filter(|_| is_read).collect();
        // A list that cannot be read grants no environment.
        let listed = |text: &str| serde_json::from_str(text).unwrap_or_default();
        Self {
            scopes,
            environments: environments.map_or(Environments::All, |t| Environments::Listed(listed(t))),
            restrictions: restrictions.unwrap_or_default(),
            kind: known_kind,
        }
    }
}

impl Environments {
    /// Parses the names that users give; only `*` alone means all. The error says what was expected.
    pub fn of_names<'n>(names: impl IntoIterator<Item = &'n str>) -> Result<Self, String> {
        let mut listed = BTreeSet::new();
        for name in names {
            listed.insert(environment_name(name)?);
        }
        match (listed.contains(EVERYWHERE), listed.len()) {
            (true, 1) => Ok(Self::All),
            (true, _) => Err("expected `*` alone, or names without it".to_owned()),
            (false, 0) => Err("expected at least one environment, or `*` for all".to_owned()),
            (false, _) => Ok(Self::Listed(listed)),
        }
    }

    pub fn contains(&self, environment: &str) -> bool {
        match self {
            Self::All => true,
            Self::Listed(listed) => listed.contains(environment),
        }
    }

    /// First environment that `other` does not contain; `*` if `other` would have to contain all.
    pub fn beyond<'e>(&'e self, other: &Self) -> Option<&'e str> {
        match (self, other) {
            (_, Self::All) => None,
            (Self::All, Self::Listed(_)) => Some(EVERYWHERE),
            (Self::Listed(mine), Self::Listed(_)) => {
                mine.iter().map(String::as_str).find(|name| !other.contains(name))
            }
        }
    }

    /// Names in the form that users give.
    pub fn names(&self) -> Vec<&str> {
        match self {
            Self::All => vec![EVERYWHERE],
            Self::Listed(listed) => listed.iter().map(String::as_str).collect(),
        }
    }

    /// Environments in the form stored in the table; `None` means all.
    pub(super) fn stored(&self) -> Option<String> {
        match self {
            Self::All => None,
            Self::Listed(listed) => Some(serde_json::to_string(listed).unwrap_or_else(|_| "[]".to_owned())),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(names: &[&str]) -> Environments {
        Environments::of_names(names.iter().copied()).unwrap()
    }

    #[test]
    fn environments_are_named_or_all() {
        assert_eq!(of(&["*"]), Environments::All);
        assert!(of(&["*"]).contains("anything"));
        let two = of(&["production", "development", "production"]);
        assert_eq!(two.names(), ["development", "production"]);
        assert!(two.contains("production") && !two.contains("staging") && !two.contains("*"));
        for wrong in [&[][..], &["*", "production"], &[""], &["a/b"], &["a\nb"]] {
            assert!(Environments::of_names(wrong.iter().copied()).is_err(), "{wrong:?}");
        }
    }

    #[test]
    fn nothing_is_granted_beyond_what_one_has() {
        assert_eq!(of(&["a"]).beyond(&of(&["a", "b"])), None);
        assert_eq!(of(&["a", "c"]).beyond(&of(&["a", "b"])), Some("c"));
        assert_eq!(of(&["*"]).beyond(&of(&["a"])), Some("*"));
        assert_eq!(of(&["*"]).beyond(&of(&["*"])), None);
    }

    #[test]
    fn track_allows_no_change_and_write_allows_to_track() {
        let of = |scope| Grant::new(vec![scope], Environments::All);
        assert!(of(Scope::Track).has(Scope::Track) && !of(Scope::Track).has(Scope::Write));
        assert!(of(Scope::Write).has(Scope::Track) && of(Scope::Admin).has(Scope::Track));
        assert!(!of(Scope::Evaluate).has(Scope::Track) && !of(Scope::Read).has(Scope::Track));
    }

    #[test]
    fn the_table_is_read_as_it_was_written_and_doubt_allows_nothing() {
        for environments in [of(&["*"]), of(&["a\"b", "ü"])] {
            let grant = Grant::new(vec![Scope::Evaluate, Scope::Delete], environments);
            let (scopes, stored) = (grant.scope_names(), grant.environments.stored());
            assert_eq!(Grant::read(&scopes, stored.as_deref(), [None; 3], None), grant);
        }
        let odd = Grant::read("evaluate,fly", Some("production"), [None; 3], Some("client"));
        assert_eq!((odd.scopes.as_slice(), odd.kind), (&[Scope::Evaluate][..], Some(TokenKind::Backend)));
        assert!(!odd.environments.contains("production"));
        let odd = Grant::read("evaluate", None, [Some("not a list"), None, None], None);
        assert!(!odd.has(Scope::Evaluate), "{odd:?}");
        let odd = Grant::read("evaluate", None, [None; 3], Some("future"));
        assert!(!odd.has(Scope::Evaluate), "{odd:?}");
    }
}
