//! The flags that a token may see: one environment, and restrictions to some of its flags.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::auth::{FlagFacts, Restrictions};
use crate::flag::CompiledFlag;

/// Environment and flags of a token. Tokens with the same selection share their prepared answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    pub environment: Arc<str>,
    /// Projects of an Unleash token; `None`: all. An empty list selects nothing.
    pub projects: Option<BTreeSet<String>>,
    /// Restrictions of a token of this service.
    restrictions: Restrictions,
    key: Arc<str>,
}

impl Selection {
    /// Selection of an Unleash token.
    pub fn of_projects(environment: &str, projects: Option<BTreeSet<String>>) -> Self {
        Self::new(environment, projects, Restrictions::default())
    }

    /// Selection of a token of this service.
    pub fn restricted(environment: &str, restrictions: &Restrictions) -> Self {
        let [(_, projects), ..] = restrictions.fields();
        let projects = (!projects.is_empty()).then(|| projects.clone());
        Self::new(environment, projects, restrictions.clone())
    }

    fn new(environment: &str, projects: Option<BTreeSet<String>>, restrictions: Restrictions) -> Self {
        let [_, (_, prefixes), (_, owners)] = restrictions.fields();
        let key = serde_json::json!([environment, projects, prefixes, owners]).to_string();
        Self { environment: environment.into(), projects, restrictions, key: key.into() }
    }

    /// Text that is equal for equal selections only.
    pub fn key(&self) -> &Arc<str> {
        &self.key
    }

    /// Whether the flag belongs to the selection.
    pub fn contains(&self, flag: &CompiledFlag) -> bool {
        let facts = FlagFacts::from(flag);
        let in_projects = self
            .projects
            .as_ref()
            .is_none_or(|projects| facts.project.is_some_and(|project| projects.contains(project)));
        in_projects && (self.restrictions.is_empty() || self.restrictions.check(&facts).is_ok())
    }

    /// Projects as Unleash names them: `*` for all.
    pub fn project_names(&self) -> Vec<&str> {
        match &self.projects {
            None => vec!["*"],
            Some(projects) => projects.iter().map(String::as_str).collect(),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn flag(name: &str, project: &str) -> CompiledFlag {
        let definition = format!(r#"{{"name":"{name}","enabled":true,"project":"{project}"}}"#);
        CompiledFlag::compile("e", 1, &definition).unwrap()
    }

    fn projects(names: &[&str]) -> Option<BTreeSet<String>> {
        Some(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn a_selection_has_the_flags_of_its_projects_and_nothing_without_any() {
        let shop = flag("x", "shop");
        assert!(Selection::of_projects("e", None).contains(&shop));
        assert!(Selection::of_projects("e", projects(&["pay", "shop"])).contains(&shop));
        assert!(!Selection::of_projects("e", projects(&["pay"])).contains(&shop));
        assert!(!Selection::of_projects("e", projects(&[])).contains(&shop));
        let restricted = Restrictions::of_names(&["shop"], &["new-"], &[]).unwrap();
        let selection = Selection::restricted("e", &restricted);
        assert!(!selection.contains(&shop) && selection.contains(&flag("new-x", "shop")));
        assert!(!selection.contains(&flag("new-x", "pay")));
    }

    #[test]
    fn only_equal_selections_have_the_same_key() {
        let restricted = Restrictions::of_names(&["a"], &["x"], &[]).unwrap();
        let all = [
            Selection::of_projects("e", None),
            Selection::of_projects("f", None),
            Selection::of_projects("e", projects(&["a", "b"])),
            Selection::of_projects("e", projects(&["a,b"])),
            Selection::of_projects("e", projects(&[])),
            Selection::restricted("e", &restricted),
        ];
        for (at, one) in all.iter().enumerate() {
            for other in all.iter().skip(at + 1) {
                assert_ne!(one.key(), other.key());
            }
        }
        assert_eq!(Selection::restricted("e", Restrictions::none()), Selection::of_projects("e", None));
    }
}
