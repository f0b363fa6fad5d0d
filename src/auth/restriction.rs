//! Restrictions of a token to certain flags: by project, by prefix of the flag's name, and by owner.
//!
//! An empty list restricts nothing. If several lists are given, a flag must satisfy all of them. The project is the one
//! in the definition in force; flags of Unleash and of files have one, local flags do not. The owner is that of a local
//! flag; other flags have none. A flag without a project or owner satisfies no list of projects or owners.

use std::collections::BTreeSet;

use crate::flag::{CompiledFlag, EnvironmentFlags};

use super::NewTokenError;

/// Maximum names in one list.
const NAMES_MAX: usize = 100;
/// Maximum length of a project, prefix or owner.
const NAME_BYTES_MAX: usize = 255;

/// Restrictions of a token to certain flags. An empty set restricts nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Restrictions {
    projects: BTreeSet<String>,
    flag_prefixes: BTreeSet<String>,
    owners: BTreeSet<String>,
}

/// Properties of a flag that restrictions are checked against.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlagFacts<'f> {
    pub name: &'f str,
    pub project: Option<&'f str>,
    pub owner: Option<&'f str>,
}

/// Error: the restrictions do not allow a flag. The message names the restriction, and of the flag only its name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Outside(String);

impl<'f> From<&'f CompiledFlag> for FlagFacts<'f> {
    fn from(flag: &'f CompiledFlag) -> Self {
        let summary = flag.summary();
        Self { name: &flag.name, project: summary.project.as_deref(), owner: summary.owner.as_deref() }
    }
}

impl Restrictions {
    /// Returns restrictions that allow every flag.
    pub fn none() -> &'static Self {
        static NONE: Restrictions = Restrictions {
            projects: BTreeSet::new(),
            flag_prefixes: BTreeSet::new(),
            owners: BTreeSet::new(),
        };
        &NONE
    }

    /// Parses the lists that a user gave, or returns all their problems.
    pub fn of_names(
        projects: &[&str],
        flag_prefixes: &[&str],
        owners: &[&str],
    ) -> Result<Self, Vec<NewTokenError>> {
        let mut problems = Vec::new();
        let mut read = |field, names: &[&str]| {
            parse(names).unwrap_or_else(|message| {
                problems.push(NewTokenError { field, message });
                BTreeSet::new()
            })
        };
        let restrictions = Self {
            projects: read("projects", projects),
            flag_prefixes: read("flag_prefixes", flag_prefixes),
            owners: read("owners", owners),
        };
        if problems.is_empty() { Ok(restrictions) } else { Err(problems) }
    }

    /// Returns whether every flag is allowed.
    pub fn is_empty(&self) -> bool {
        self.flag_prefixes.is_empty() && !self.need_definition()
    }

    /// Returns whether the check needs more than the flag's name.
    pub fn need_definition(&self) -> bool {
        !self.projects.is_empty() || !self.owners.is_empty()
    }

    /// Checks that the flag is allowed.
    pub fn check(&self, flag: &FlagFacts<'_>) -> Result<(), Outside> {
        self.check_name(flag.name)?;
        let name = flag.name;
        if !holds(&self.projects, flag.project) {
            let projects = listed(&self.projects);
            let why = format!(
                "the token is restricted to flags of the projects {projects}, and flag {name} is in none of them"
            );
            return Err(Outside(why));
        }
        if !holds(&self.owners, flag.owner) {
            let owners = listed(&self.owners);
            let why = format!(
                "the token is restricted to flags of the owners {owners}, and flag {name} has none of them"
            );
            return Err(Outside(why));
        }
        Ok(())
    }

    /// Checks a flag by its definition in force. For a flag that is not in force only the name is checked, because an
    /// evaluation shows nothing of it.
    pub fn check_in_force(&self, flags: Option<&EnvironmentFlags>, name: &str) -> Result<(), Outside> {
        match flags.and_then(|flags| flags.get(name)) {
            Some(flag) => self.check(&FlagFacts::from(&**flag)),
            None => self.check_name(name),
        }
    }

    /// Whether something that is recorded about a flag may be shown. Unlike [`Self::check_in_force`], this hides flags that
    /// are not in force if their project or owner, which cannot be checked, matters.
    pub fn may_show(&self, flags: Option<&EnvironmentFlags>, name: &str) -> bool {
        let is_in_force = flags.is_some_and(|flags| flags.get(name).is_some());
        self.is_empty()
            || ((is_in_force || !self.need_definition()) && self.check_in_force(flags, name).is_ok())
    }

    /// Checks only the list of prefixes.
    pub fn check_name(&self, name: &str) -> Result<(), Outside> {
        let is_inside = |prefix: &String| name.starts_with(prefix.as_str());
        if self.flag_prefixes.is_empty() || self.flag_prefixes.iter().any(is_inside) {
            return Ok(());
        }
        let prefixes = listed(&self.flag_prefixes);
        let why = format!(
            "the token is restricted to flags whose names begin with {prefixes}, and {name} does not"
        );
        Err(Outside(why))
    }

    /// Checks that `self` allows no flag that `other` does not allow.
    pub fn check_within(&self, other: &Self) -> Result<(), Outside> {
        let is_project = |project: &str| other.projects.contains(project);
        let is_prefix = |prefix: &str| other.flag_prefixes.iter().any(|mine| prefix.starts_with(mine));
        let is_owner = |owner: &str| other.owners.contains(owner);
        within("projects", &self.projects, &other.projects, is_project)?;
        within("flag_prefixes", &self.flag_prefixes, &other.flag_prefixes, is_prefix)?;
        within("owners", &self.owners, &other.owners, is_owner)
    }

    /// Returns the three lists with the names of their fields.
    pub fn fields(&self) -> [(&'static str, &BTreeSet<String>); 3] {
        [("projects", &self.projects), ("flag_prefixes", &self.flag_prefixes), ("owners", &self.owners)]
    }

    /// Returns the values of the three columns: a JSON list, or `None` for an empty list.
    pub(super) fn stored(&self) -> [Option<String>; 3] {
        let text = |names| serde_json::to_string(names).unwrap_or_default();
        self.fields().map(|(_, names)| (!names.is_empty()).then(|| text(names)))
    }

    /// Reads the three columns. `None` if one of them is not a JSON list of texts.
    pub(super) fn read(columns: [Option<&str>; 3]) -> Option<Self> {
        let read = |column: Option<&str>| match column {
            None => Some(BTreeSet::new()),
            Some(text) => serde_json::from_str::<BTreeSet<String>>(text).ok(),
        };
        let [projects, flag_prefixes, owners] = columns.map(read);
        Some(Self { projects: projects?, flag_prefixes: flag_prefixes?, owners: owners? })
    }
}

fn holds(allowed: &BTreeSet<String>, value: Option<&str>) -> bool {
    allowed.is_empty() || value.is_some_and(|value| allowed.contains(value))
}

fn within(
    field: &str,
    wanted: &BTreeSet<String>,
    own: &BTreeSet<String>,
    is_own: impl Fn(&str) -> bool,
) -> Result<(), Outside> {
    if own.is_empty() || (!wanted.is_empty() && wanted.iter().all(|name| is_own(name))) {
        return Ok(());
    }
    let own = listed(own);
    Err(Outside(format!(
        "the token is restricted by {field} to {own}: every token created with it must have the same or a narrower \
         restriction"
    )))
}

fn listed(names: &BTreeSet<String>) -> String {
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    names.join(", ")
}

fn parse(names: &[&str]) -> Result<BTreeSet<String>, String> {
    if names.len() > NAMES_MAX {
        return Err(format!("expected at most {NAMES_MAX} names, got {}", names.len()));
    }
    let mut parsed = BTreeSet::new();
    for name in names.iter().map(|name| name.trim()) {
        if name.is_empty() || name.len() > NAME_BYTES_MAX || name.contains(char::is_control) {
            return Err(format!("expected names of 1 to {NAME_BYTES_MAX} bytes without control characters"));
        }
        parsed.insert(name.to_owned());
    }
    Ok(parsed)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn of(projects: &[&str], flag_prefixes: &[&str], owners: &[&str]) -> Restrictions {
        Restrictions::of_names(projects, flag_prefixes, owners).unwrap()
    }

    fn flag<'f>(name: &'f str, project: Option<&'f str>, owner: Option<&'f str>) -> FlagFacts<'f> {
        FlagFacts { name, project, owner }
    }

    #[test]
    fn a_flag_is_allowed_if_every_restriction_that_is_given_holds() {
        let (shop, ann) = (Some("shop"), Some("ann"));
        let table = [
            (of(&[], &[], &[]), flag("x", None, None), None),
            (of(&["shop", "pay"], &[], &[]), flag("x", shop, None), None),
            (of(&["pay"], &[], &[]), flag("x", shop, ann), Some("projects pay")),
            (of(&["pay"], &[], &[]), flag("x", None, None), Some("projects pay")),
            (of(&[], &["new-", "old-"], &[]), flag("old-x", None, None), None),
            (of(&[], &["new-"], &[]), flag("x-new-", shop, ann), Some("begin with new-")),
            (of(&[], &["new-"], &[]), flag("new", shop, ann), Some("begin with new-")),
            (of(&[], &[], &["ann"]), flag("x", None, ann), None),
            (of(&[], &[], &["Ann"]), flag("x", None, ann), Some("owners Ann")),
            (of(&[], &[], &["ann"]), flag("x", shop, None), Some("owners ann")),
            (of(&["shop"], &["x"], &["ann"]), flag("x", shop, ann), None),
            (of(&["shop"], &["y"], &["ann"]), flag("x", shop, ann), Some("begin with y")),
            (of(&["pay"], &["x"], &["ann"]), flag("x", shop, ann), Some("projects pay")),
            (of(&["shop"], &["x"], &["bob"]), flag("x", shop, ann), Some("owners bob")),
        ];
        for (restrictions, flag, expected) in table {
            let refused = restrictions.check(&flag).err().map(|outside| outside.to_string());
            match expected {
                None => assert_eq!(refused, None, "{restrictions:?} {flag:?}"),
                Some(named) => assert!(refused.as_ref().unwrap().contains(named), "{refused:?}"),
            }
        }
    }

    #[test]
    fn nothing_is_told_of_a_flag_that_is_outside() {
        let refused = of(&["pay"], &[], &[]).check(&flag("x", Some("secret-project"), None)).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "the token is restricted to flags of the projects pay, and flag x is in none of them"
        );
        let refused = of(&[], &[], &["ann"]).check(&flag("x", None, Some("secret-owner"))).unwrap_err();
        assert!(!refused.to_string().contains("secret"));
    }

    #[test]
    fn a_token_makes_none_that_is_wider_than_itself() {
        let own = of(&["shop", "pay"], &["new-"], &["ann"]);
        let table = [
            (of(&["shop"], &["new-ui-", "new-"], &["ann"]), None),
            (of(&[], &["new-"], &["ann"]), Some("projects")),
            (of(&["shop", "other"], &["new-"], &["ann"]), Some("projects")),
            (of(&["shop"], &[], &["ann"]), Some("flag_prefixes")),
            (of(&["shop"], &["new-", "new"], &["ann"]), Some("flag_prefixes")),
            (of(&["shop"], &["new-"], &["ann", "bob"]), Some("owners")),
        ];
        for (wanted, refused) in table {
            match (wanted.check_within(&own), refused) {
                (Ok(()), None) => {}
                (Err(outside), Some(field)) => assert!(outside.to_string().contains(field), "{outside}"),
                (checked, _) => panic!("{wanted:?}: {checked:?}"),
            }
            assert_eq!(wanted.check_within(Restrictions::none()), Ok(()));
        }
    }

    #[test]
    fn the_table_is_read_as_it_was_written_and_doubt_allows_nothing() {
        for restrictions in [of(&[], &[], &[]), of(&["a\"b"], &["ü"], &[]), of(&["a", "b"], &[], &["c"])] {
            let stored = restrictions.stored();
            let stored = [stored[0].as_deref(), stored[1].as_deref(), stored[2].as_deref()];
            assert_eq!(Restrictions::read(stored), Some(restrictions));
        }
        assert_eq!(Restrictions::read([None, Some("new-"), None]), None);
        assert!(Restrictions::none().is_empty() && !of(&[], &["a"], &[]).is_empty());
    }

    #[test]
    fn names_are_limited() {
        let long = "n".repeat(256);
        let many: Vec<String> = (0..101).map(|n| n.to_string()).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        for wrong in [&[""][..], &[" "], &["a\nb"], &[&long], &many] {
            let problems = Restrictions::of_names(wrong, wrong, wrong).unwrap_err();
            let fields: Vec<_> = problems.iter().map(|problem| problem.field).collect();
            assert_eq!(fields, ["projects", "flag_prefixes", "owners"], "{wrong:?}");
        }
    }
}
