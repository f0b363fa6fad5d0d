//! Choices of a flag's variants: the draws of a definition, and the one that an evaluation used.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Choice of a variant, as the event of an evaluation records it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Assignment {
    pub how: How,
    /// Index of the strategy whose variants were used. `None`: those of the flag itself.
    #[serde(default)]
    pub rule: Option<u32>,
    /// Context field that determines the draw.
    #[serde(default)]
    pub stickiness: Option<String>,
    /// Weight of each variant.
    #[serde(default)]
    pub weights: std::collections::BTreeMap<String, f64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum How {
    /// A draw by the weights, from a hash of the context.
    Drawn,
    /// A rule or an override gives the variant without a choice.
    Forced,
}

/// Variants that share a draw.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrawList {
    /// Strategies that draw with these weights, as indexes. Empty: the flag's own variants.
    pub rules: Vec<u32>,
    /// Name and weight of each variant.
    pub weights: Vec<(String, f64)>,
    /// Context field that determines the draw, unless it is the user.
    pub unit: Option<String>,
}

/// All draws of a definition.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Draws {
    pub lists: Vec<DrawList>,
    /// Variants that are served without a draw.
    pub forced: Vec<String>,
}

impl Assignment {
    /// Reads an assignment. `None` if the text is not one, for example one of a newer version.
    pub fn read(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The draw, or `None` if there was no choice.
    pub fn list(&self) -> Option<DrawList> {
        let weights = self.weights.iter().map(|(name, weight)| (name.clone(), *weight));
        let list = DrawList::new(self.rule, weights.collect(), self.stickiness.as_deref());
        (self.how == How::Drawn && list.weights.len() > 1).then_some(list)
    }
}

impl DrawList {
    fn new(rule: Option<u32>, mut weights: Vec<(String, f64)>, stickiness: Option<&str>) -> Self {
        // A variant with weight 0 is never selected.
        weights.retain(|(_, weight)| *weight > 0.0);
        // Exposures have a user, so the default stickiness is always the user.
        let unit = stickiness.filter(|name| !matches!(*name, "default" | "userId"));
        Self { rules: rule.into_iter().collect(), weights, unit: unit.map(str::to_owned) }
    }

    pub fn has(&self, variant: &str) -> bool {
        self.weights.iter().any(|(name, _)| name == variant)
    }

    /// Share of a variant; 0 if the draw does not have it.
    pub fn share(&self, variant: &str) -> f64 {
        let total: f64 = self.weights.iter().map(|(_, weight)| weight).sum();
        let weight = self.weights.iter().find(|(name, _)| name == variant).map_or(0.0, |(_, weight)| *weight);
        if total > 0.0 { weight / total } else { 0.0 }
    }

    /// Whether both assign each user to each variant with the same probability, by the same unit.
    pub fn is_like(&self, other: &Self) -> bool {
        let same = |name: &str| other.has(name) && (self.share(name) - other.share(name)).abs() < 1e-9;
        self.unit == other.unit
            && self.weights.len() == other.weights.len()
            && self.weights.iter().all(|(name, _)| same(name))
    }

    /// Adds the rules of a draw that is like this one.
    pub fn absorb(&mut self, other: &Self) {
        // An empty list of rules means the flag itself, and must not disappear among those of rules.
        if self.rules.is_empty() || other.rules.is_empty() {
            self.rules.clear();
            return;
        }
        self.rules.extend(&other.rules);
        self.rules.sort_unstable();
        self.rules.dedup();
    }
}

impl Draws {
    /// Reads the draws of a definition.
    pub fn read(definition: &str) -> Self {
        let definition: Value = serde_json::from_str(definition).unwrap_or_default();
        let mut draws = Self::default();
        let strategies = definition.get("strategies").and_then(Value::as_array);
        let mut own_is_used = strategies.is_none_or(Vec::is_empty);
        for (index, strategy) in strategies.into_iter().flatten().enumerate() {
            // A strategy that turns the flag off exposes no user.
            if strategy.pointer("/local/off").and_then(Value::as_bool) == Some(true) {
                continue;
            }
            let weights = weights(strategy.get("variants"));
            own_is_used |= weights.is_empty();
            let stickiness = strategy.pointer("/parameters/stickiness").and_then(Value::as_str);
            draws.add(DrawList::new(u32::try_from(index).ok(), weights, stickiness));
        }
        let own = definition.get("variants");
        let stickiness = own.and_then(|own| own.pointer("/0/stickiness")).and_then(Value::as_str);
        if own_is_used {
            draws.add(DrawList::new(None, weights(own), stickiness));
            draws.forced.extend(overridden(own));
        }
        draws
    }

    /// Restricts the draws to those that include the control, unless there is none.
    pub fn with(mut self, control: &str) -> Self {
        if self.lists.iter().any(|list| list.has(control)) {
            self.lists.retain(|list| list.has(control));
        }
        self
    }

    fn add(&mut self, list: DrawList) {
        match (list.weights.as_slice(), self.lists.iter_mut().find(|known| known.is_like(&list))) {
            ([], _) => {}
            // A single variant only carries a value; nothing is selected.
            ([(name, _)], _) => self.forced.push(name.clone()),
            (_, Some(known)) => known.absorb(&list),
            _ => self.lists.push(list),
        }
    }
}

fn weights(variants: Option<&Value>) -> Vec<(String, f64)> {
    let variants = variants.and_then(Value::as_array).into_iter().flatten();
    let weight = |variant: &Value| {
        let name = variant.get("name")?.as_str()?.to_owned();
        Some((name, variant.get("weight").and_then(Value::as_f64).unwrap_or(0.0)))
    };
    variants.filter_map(weight).collect()
}

/// Variants with an override, which some contexts get without a draw.
fn overridden(variants: Option<&Value>) -> Vec<String> {
    let variants = variants.and_then(Value::as_array).into_iter().flatten();
    let has_override = |variant: &&Value| {
        variant.get("overrides").and_then(Value::as_array).is_some_and(|of| !of.is_empty())
    };
    variants.filter(has_override).filter_map(|of| of.get("name")?.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const HALVES: &str = r#"[{"name": "b", "weight": 500}, {"name": "a", "weight": 500}]"#;

    fn rules(draws: &Draws) -> Vec<Vec<u32>> {
        draws.lists.iter().map(|list| list.rules.clone()).collect()
    }

    #[test]
    fn rules_with_the_same_weights_in_any_order_are_one_draw() {
        let other = r#"[{"name": "a", "weight": 5}, {"name": "b", "weight": 5}, {"name": "c", "weight": 0}]"#;
        let draws =
            Draws::read(&format!(r#"{{"strategies": [{{"variants": {HALVES}}}, {{"variants": {other}}}]}}"#));
        assert_eq!(rules(&draws), [[0, 1]]);
        assert_eq!(draws.lists[0].share("a"), 0.5);
        let uneven = r#"[{"name": "a", "weight": 9}, {"name": "b", "weight": 1}]"#;
        let draws = Draws::read(&format!(
            r#"{{"strategies": [{{"variants": {HALVES}}}, {{}}], "variants": {uneven}}}"#
        ));
        assert_eq!(rules(&draws), [vec![0], vec![]]);
    }

    #[test]
    fn draws_without_the_control_do_not_belong_to_the_experiment() {
        let phantom = r#"[{"name": "x", "weight": 1}, {"name": "y", "weight": 1}]"#;
        let text = format!(r#"{{"strategies": [{{"variants": {phantom}}}, {{}}], "variants": {HALVES}}}"#);
        assert_eq!(rules(&Draws::read(&text)).len(), 2);
        assert_eq!(rules(&Draws::read(&text).with("a")), [Vec::<u32>::new()]);
        assert_eq!(rules(&Draws::read(&text).with("gone")).len(), 2);
        assert_eq!(Draws::read("not JSON"), Draws::default());
    }

    #[test]
    fn what_is_served_without_a_choice_is_forced() {
        let text = format!(
            r#"{{"strategies": [{{"variants": [{{"name": "b", "weight": 1000}}]}}, {{"variants": [{{"name": "z", "weight": 1}}], "local": {{"off": true}}}}, {{}}],
            "variants": {}}}"#,
            HALVES.replace(r#""a", "#, r#""a", "overrides": [{"contextName": "userId", "values": ["u"]}], "#)
        );
        assert_eq!(Draws::read(&text).forced, ["b", "a"]);
    }

    #[test]
    fn an_assignment_is_the_draw_that_its_event_names() {
        let read = |text: &str| Assignment::read(text).unwrap().list();
        let drawn =
            read(r#"{"how": "drawn", "rule": 1, "stickiness": "company", "weights": {"b": 1, "a": 1}}"#)
                .unwrap();
        assert_eq!((drawn.rules.as_slice(), drawn.unit.as_deref()), (&[1][..], Some("company")));
        assert_eq!(read(r#"{"how": "drawn", "weights": {"b": 1, "a": 1}, "new": 1}"#).unwrap().unit, None);
        assert_eq!(read(r#"{"how": "forced", "rule": 1, "weights": {"b": 1000}}"#), None);
        assert_eq!(read(r#"{"how": "drawn", "weights": {"b": 1000, "a": 0}}"#), None);
        assert_eq!(Assignment::read(r#"{"how": "guessed"}"#), None);
    }
}
