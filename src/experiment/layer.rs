//! Layers of mutually exclusive experiments, and global holdouts.
//!
//! A layer is a flag whose variants divide all users: each experiment's flag depends on a variant of it (a slot), so a user
//! is in the experiments of one slot only. A global holdout is a flag with a variant for the users whom no experiment may
//! change: each experiment's flag depends on another variant of it. Both are dependencies of Unleash, so every SDK computes
//! the same; what is checked here is that the flags are as an experiment says.

use serde::Deserialize;

use crate::flag::local::Invalid;

use super::Draws;
use super::design::{Design, Layer};
use super::phases::variants;

/// Relevant members of a flag's definition.
#[derive(Debug, Default, Deserialize)]
struct Feature {
    #[serde(default)]
    dependencies: Option<Vec<Parent>>,
}

#[derive(Debug, Deserialize)]
struct Parent {
    feature: String,
    #[serde(default)]
    enabled: Option<bool>,
    #[serde(default)]
    variants: Option<Vec<String>>,
}

/// Use of another flag by an experiment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Use {
    /// Experiments with different variants of the flag are mutually exclusive.
    Layer,
    /// Users with other variants of the flag are held out of all experiments.
    GlobalHoldout,
}

impl Use {
    /// Member of the request.
    pub(super) fn field(self) -> &'static str {
        match self {
            Self::Layer => "layer",
            Self::GlobalHoldout => "global_holdout",
        }
    }

    pub(super) fn of(self, design: &Design) -> Option<&Layer> {
        match self {
            Self::Layer => design.layer.as_ref(),
            Self::GlobalHoldout => design.global_holdout.as_ref(),
        }
    }
}

/// Variants of `parent` that a flag depends on. `None` if it depends on none of them in particular.
fn required(definition: &str, parent: &str) -> Option<Vec<String>> {
    let feature: Feature = serde_json::from_str(definition).unwrap_or_default();
    let mut of_parent = feature.dependencies.into_iter().flatten().filter(|of| of.feature == parent);
    let found = of_parent.find(|of| of.enabled != Some(false))?;
    found.variants.filter(|variants| !variants.is_empty())
}

/// Checks a layer or holdout of an experiment, and returns its variants. `definitions`: those of the experiment's flag, and
/// of the flag of its layer if there is one. `drawn`: definition of the flag `name`.
pub(super) fn read(
    of: Use,
    flag: &str,
    definitions: &[&str],
    name: &str,
    drawn: &str,
) -> Result<Layer, Invalid> {
    let refuse = |message: String| Invalid::new(of.field(), message);
    let mut slots =
        definitions.iter().find_map(|definition| required(definition, name)).ok_or_else(|| {
            refuse(format!(
                "the flag {flag} does not depend on variants of {name}: add \
             {{\"flag\": \"{name}\", \"variants\": [\"…\"]}} to its depends_on"
            ))
        })?;
    slots.sort();
    slots.dedup();
    let Draws { lists, forced } = Draws::read(drawn);
    let all = variants(&lists);
    let [list] = lists.as_slice() else {
        return Err(refuse(format!(
            "the flag {name} must draw its variants in one way for all users, but it has {} draws",
            lists.len()
        )));
    };
    if let Some(unit) = &list.unit {
        return Err(refuse(format!("the flag {name} draws by {unit}; expected a draw by user")));
    }
    if let Some(variant) = forced.first() {
        return Err(refuse(format!("the flag {name} gives some users {variant} without a draw")));
    }
    if let Some(unknown) = slots.iter().find(|slot| list.share(slot) <= 0.0) {
        let names: Vec<&str> = all.iter().map(|variant| variant.name.as_str()).collect();
        return Err(refuse(format!(
            "the flag {name} draws no variant {unknown}; its variants are {}",
            names.join(", ")
        )));
    }
    let share: f64 = slots.iter().map(|slot| list.share(slot)).sum();
    if of == Use::GlobalHoldout && share >= 1.0 {
        return Err(refuse(format!(
            "the flag {flag} depends on all variants of {name}, so no user is held out"
        )));
    }
    Ok(Layer { flag_name: name.to_owned(), variants: slots })
}

/// Checks that a new experiment does not share slots of its layer with a running one, and holds the same users out.
pub(super) fn check_running<'d>(new: &Design, running: impl Iterator<Item = &'d Design>) -> Vec<Invalid> {
    let mut wrong = Vec::new();
    for other in running.filter(|other| other.environment == new.environment && other.name != new.name) {
        // Several experiments on one flag compare the same users on purpose.
        if other.flag_name != new.flag_name
            && let Some((ours, theirs)) = same_flag(Use::Layer, new, other)
            && let Some(slot) = ours.variants.iter().find(|slot| theirs.variants.contains(slot))
        {
            let message = format!(
                "the variant {slot} of {} belongs to the running experiment {} already; use another one, or stop that \
                 experiment",
                ours.flag_name, other.name
            );
            wrong.push(Invalid::new(Use::Layer.field(), message));
        }
        if let Some((ours, theirs)) = same_flag(Use::GlobalHoldout, new, other)
            && ours.variants != theirs.variants
        {
            let message = format!(
                "the running experiment {} depends on other variants of {} ({}), so it holds other users out",
                other.name,
                ours.flag_name,
                theirs.variants.join(", ")
            );
            wrong.push(Invalid::new(Use::GlobalHoldout.field(), message));
        }
    }
    wrong
}

/// Layers or holdouts of two experiments, if both have the same flag.
fn same_flag<'d>(of: Use, one: &'d Design, other: &'d Design) -> Option<(&'d Layer, &'d Layer)> {
    let both = of.of(one).zip(of.of(other));
    both.filter(|(one, other)| one.flag_name == other.flag_name)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const CHILD: &str = r#"{"dependencies": [{"feature": "other"},
        {"feature": "layer", "enabled": true, "variants": ["b", "a", "b"]}, {"feature": "off", "enabled": false, "variants": ["a"]}]}"#;
    const LAYER: &str = r#"{"strategies": [{}], "variants": [
        {"name": "a", "weight": 300}, {"name": "b", "weight": 300}, {"name": "rest", "weight": 400}]}"#;

    fn layer(drawn: &str) -> Result<Vec<String>, String> {
        let read = read(Use::Layer, "checkout", &[CHILD], "layer", drawn);
        read.map(|layer| layer.variants).map_err(|invalid| format!("{}: {}", invalid.field, invalid.message))
    }

    fn design(name: &str, layer: Option<(&str, &[&str])>, holdout: Option<&[&str]>) -> Design {
        let mut design: Design = serde_json::from_str(
            r#"{"name": "", "environment": "e", "flag_name": "f", "control": "a", "metrics": [], "window_hours": 1,
            "confidence": 0.95, "power": 0.8}"#,
        )
        .unwrap();
        let of = |flag: &str, variants: &[&str]| Layer {
            flag_name: flag.to_owned(),
            variants: variants.iter().map(|name| (*name).to_owned()).collect(),
        };
        (design.name, design.flag_name) = (name.to_owned(), format!("flag of {name}"));
        design.layer = layer.map(|(flag, variants)| of(flag, variants));
        design.global_holdout = holdout.map(|variants| of("holdout", variants));
        design
    }

    #[test]
    fn the_variants_that_a_flag_depends_on_are_its_slots() {
        assert_eq!(layer(LAYER).unwrap(), ["a", "b"]);
        let unknown = layer(&LAYER.replace(r#""b""#, r#""c""#)).unwrap_err();
        assert!(
            unknown.starts_with("layer: the flag layer draws no variant b; its variants are a, c"),
            "{unknown}"
        );
        let by_company = LAYER.replace(r#""weight": 300}, "#, r#""weight": 300, "stickiness": "company"}, "#);
        assert!(layer(&by_company).unwrap_err().contains("draws by company"));
        let two = LAYER.replace(
            "[{}]",
            r#"[{"variants": [{"name": "a", "weight": 1}, {"name": "b", "weight": 1}]}, {}]"#,
        );
        assert!(layer(&two).unwrap_err().contains("it has 2 draws"));
        let forced = LAYER.replace("[{}]", r#"[{"variants": [{"name": "a", "weight": 1}]}, {}]"#);
        assert!(layer(&forced).unwrap_err().contains("without a draw"));
        for (flag, name) in [("{}", "layer"), (CHILD, "other"), (CHILD, "off"), (CHILD, "none")] {
            let refused = read(Use::Layer, "checkout", &[flag], name, LAYER).unwrap_err();
            assert!(refused.message.starts_with("the flag checkout does not depend on"), "{refused:?}");
        }
    }

    #[test]
    fn a_holdout_holds_someone_out_and_may_be_that_of_the_layer() {
        let read = |definitions: &[&str], drawn: &str| {
            read(Use::GlobalHoldout, "checkout", definitions, "layer", drawn).map(|of| of.variants)
        };
        assert_eq!(read(&["{}", CHILD], LAYER).unwrap(), ["a", "b"]);
        let all = LAYER.replace(r#", {"name": "rest", "weight": 400}"#, "");
        assert!(read(&[CHILD], &all).unwrap_err().message.contains("no user is held out"));
    }

    #[test]
    fn running_experiments_share_no_slot_and_one_holdout() {
        let running = [
            design("one", Some(("layer", &["a", "b"])), Some(&["in"])),
            design("two", Some(("other", &["c"])), None),
        ];
        let wrong = |new: &Design| -> Vec<String> {
            check_running(new, running.iter()).into_iter().map(|invalid| invalid.field).collect()
        };
        let none: [&str; 0] = [];
        assert_eq!(wrong(&design("new", Some(("layer", &["c"])), Some(&["in"]))), none);
        assert_eq!(wrong(&design("new", Some(("layer", &["b", "c"])), None)), ["layer"]);
        assert_eq!(wrong(&design("new", None, Some(&["in", "more"]))), ["global_holdout"]);
        let elsewhere =
            Design { environment: "x".to_owned(), ..design("new", Some(("layer", &["a"])), None) };
        assert_eq!(wrong(&elsewhere), none);
        let same_flag =
            Design { flag_name: "flag of one".to_owned(), ..design("new", Some(("layer", &["a"])), None) };
        assert_eq!(wrong(&same_flag), none, "one flag may have several experiments");
    }
}
