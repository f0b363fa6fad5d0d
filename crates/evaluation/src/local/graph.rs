//! Dependencies between the local flags of an environment: refuses cycles and parents that are missing or
//! archived.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::{Dependency, Invalid};

/// Maximum number of levels from a flag to its highest ancestor; evaluation has the same limit.
pub const MAX_DEPENDENCY_LEVELS: usize = 8;
/// Maximum number of ancestors of a flag: its parents, their parents, and so on.
const MAX_ANCESTORS: usize = 200;

/// Dependencies of all flags of an environment: the names of each flag's parents, and the archived flags.
#[derive(Debug, Default)]
pub struct Family {
    pub parents: BTreeMap<String, Vec<String>>,
    pub archived: HashSet<String>,
}

/// All problems with the parents of `flag`.
pub fn check_dependencies(flag: &str, depends_on: &[Dependency], family: &Family) -> Vec<Invalid> {
    let mut problems = Vec::new();
    let mut ancestors = HashMap::new();
    for (index, Dependency { flag: parent, .. }) in depends_on.iter().enumerate() {
        let field = format!("depends_on[{index}]");
        if parent != flag && !family.parents.contains_key(parent) {
            problems.push(Invalid::new(&field, format!("there is no flag {parent:?} in this environment")));
        } else if family.archived.contains(parent) {
            problems.push(Invalid::new(&field, format!("the flag {parent:?} is archived")));
        } else {
            let mut path = vec![flag];
            if let Err(message) = climb(parent, family, &mut path, &mut ancestors) {
                problems.push(Invalid::new(&field, message));
            }
        }
    }
    problems
}

/// Visits `name` and its ancestors. `path` holds the flags from the checked one up to the child of `name`. A
/// flag that was already visited by a path of at least this length is skipped.
///
/// The maximum length of the path bounds the recursion.
fn climb<'f>(
    name: &'f str,
    family: &'f Family,
    path: &mut Vec<&'f str>,
    ancestors: &mut HashMap<&'f str, usize>,
) -> Result<(), String> {
    if path.first() == Some(&name) {
        return Err(format!("is a cyclic dependency: {} -> {name}", path.join(" -> ")));
    }
    // A cycle among ancestors that does not include this flag: it was created elsewhere, and evaluating it
    // fails.
    if path.contains(&name) {
        return Err(format!("leads to a cyclic dependency: {} -> {name}", path.join(" -> ")));
    }
    if path.len() > MAX_DEPENDENCY_LEVELS {
        return Err(format!(
            "dependencies are nested deeper than {MAX_DEPENDENCY_LEVELS} levels: {} -> {name}",
            path.join(" -> ")
        ));
    }
    if ancestors.get(name).is_some_and(|longest| *longest >= path.len()) {
        return Ok(());
    }
    ancestors.insert(name, path.len());
    if ancestors.len() > MAX_ANCESTORS {
        return Err(format!("depends on more than {MAX_ANCESTORS} flags, directly and indirectly"));
    }
    path.push(name);
    for parent in family.parents.get(name).into_iter().flatten() {
        climb(parent, family, path, ancestors)?;
    }
    path.pop();
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn family(flags: &[(&str, &[&str])]) -> Family {
        let owned = |(name, parents): &(&str, &[&str])| {
            ((*name).to_owned(), parents.iter().map(|parent| (*parent).to_owned()).collect())
        };
        Family { parents: flags.iter().map(owned).collect(), archived: ["old".to_owned()].into() }
    }

    fn check(flag: &str, parents: &[&str], family: &Family) -> Vec<String> {
        let on = |parent: &&str| Dependency { flag: (*parent).to_owned(), on: true, variants: Vec::new() };
        let depends_on: Vec<_> = parents.iter().map(on).collect();
        let problems = check_dependencies(flag, &depends_on, family);
        problems.into_iter().map(|problem| format!("{}: {}", problem.field, problem.message)).collect()
    }

    #[test]
    fn a_cycle_is_told_with_its_path() {
        let family =
            family(&[("a", &["b"]), ("b", &["c"]), ("c", &[]), ("old", &[]), ("x", &["y"]), ("y", &["x"])]);
        assert!(check("c", &[], &family).is_empty());
        assert!(check("new", &["a", "c"], &family).is_empty());
        assert_eq!(check("c", &["a"], &family), ["depends_on[0]: is a cyclic dependency: c -> a -> b -> c"]);
        assert_eq!(check("new", &["new"], &family), ["depends_on[0]: is a cyclic dependency: new -> new"]);
        assert_eq!(
            check("new", &["x"], &family),
            ["depends_on[0]: leads to a cyclic dependency: new -> x -> y -> x"]
        );
        assert_eq!(
            check("new", &["nobody", "old"], &family),
            [
                "depends_on[0]: there is no flag \"nobody\" in this environment",
                "depends_on[1]: the flag \"old\" is archived"
            ]
        );
    }

    #[test]
    fn chains_are_bounded() {
        let names: Vec<String> = (0..20).map(|number| format!("f{number}")).collect();
        let chain = names.windows(2).map(|pair| (pair[1].clone(), vec![pair[0].clone()]));
        let mut family = Family { parents: chain.collect(), archived: HashSet::new() };
        family.parents.insert("f0".to_owned(), Vec::new());
        assert!(check("new", &["f7"], &family).is_empty());
        assert!(check("new", &["f8"], &family)[0].contains("deeper than 8 levels"));
        let wide: Vec<String> = (0..300).map(|number| format!("w{number}")).collect();
        family.parents.insert("wide".to_owned(), wide.clone());
        family.parents.extend(wide.into_iter().map(|name| (name, Vec::new())));
        assert!(check("new", &["wide"], &family)[0].contains("more than 200 flags"));
    }
}
