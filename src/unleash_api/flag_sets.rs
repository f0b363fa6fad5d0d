//! The flags of each selection, sorted, and their definitions, prepared once per change and shared by all calls.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwapOption;

use crate::flag::{CompiledFlag, EnvironmentFlags, Snapshot};
use crate::metrics::{EnvironmentLabels, Metrics};

use super::features::Features;
use super::selection::Selection;

/// Maximum selections that are prepared at the same time. Further ones replace those that are not in use.
pub const MAX_SELECTIONS: usize = 1_024;

/// Prepared selections by their keys.
#[derive(Debug)]
pub struct FlagSets {
    sets: RwLock<HashMap<Arc<str>, Arc<FlagSet>, ahash::RandomState>>,
    metrics: Arc<Metrics>,
}

/// One selection with its flags and definitions.
#[derive(Debug)]
pub struct FlagSet {
    pub selection: Selection,
    selected: ArcSwapOption<Selected>,
    features: ArcSwapOption<Features>,
    /// Held while something is prepared, so that only one call does it.
    preparing: Mutex<()>,
}

/// The flags of a selection in one snapshot, sorted by name.
#[derive(Debug)]
pub struct Selected {
    pub environment: Arc<EnvironmentFlags>,
    pub flags: Vec<Arc<CompiledFlag>>,
}

impl FlagSets {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self { sets: RwLock::default(), metrics }
    }

    /// The set of a selection. All callers with equal selections share one.
    pub fn of(&self, selection: &Selection) -> Arc<FlagSet> {
        let sets = self.sets.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(set) = sets.get(selection.key()) {
            return Arc::clone(set);
        }
        drop(sets);
        let mut sets = self.sets.write().unwrap_or_else(PoisonError::into_inner);
        if sets.len() >= MAX_SELECTIONS {
            sets.retain(|_, set| Arc::strong_count(set) > 1);
        }
        let set = sets.entry(Arc::clone(selection.key())).or_insert_with(|| {
            Arc::new(FlagSet {
                selection: selection.clone(),
                selected: ArcSwapOption::empty(),
                features: ArcSwapOption::empty(),
                preparing: Mutex::new(()),
            })
        });
        Arc::clone(set)
    }

    /// All prepared sets.
    pub fn all(&self) -> Vec<Arc<FlagSet>> {
        self.sets.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The definitions of a set in this snapshot; `None` if the environment is not served.
    pub fn features(&self, set: &FlagSet, snapshot: &Snapshot, now_ms: i64) -> Option<Arc<Features>> {
        let selected = set.selected(snapshot)?;
        if let Some(features) = set.fresh(&selected, now_ms) {
            return Some(features);
        }
        let _preparing = set.preparing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(features) = set.fresh(&selected, now_ms) {
            return Some(features);
        }
        let before = set.features.load_full();
        let features = Arc::new(Features::prepare(selected, now_ms, before.as_deref()));
        set.features.store(Some(Arc::clone(&features)));
        if set.selection.projects.is_none() {
            let labels = EnvironmentLabels { environment: Arc::clone(&set.selection.environment) };
            let omitted = i64::try_from(features.omitted.len()).unwrap_or(i64::MAX);
            self.metrics.unleash_api.omitted_flags.get_or_create(&labels).set(omitted);
        }
        Some(features)
    }
}

impl FlagSet {
    /// The flags of the selection in this snapshot; `None` if the environment is not served.
    pub fn selected(&self, snapshot: &Snapshot) -> Option<Arc<Selected>> {
        let environment = snapshot.environment(&self.selection.environment)?;
        if let Some(selected) = &*self.selected.load()
            && Arc::ptr_eq(&selected.environment, environment)
        {
            return Some(Arc::clone(selected));
        }
        let is_selected = |flag: &&Arc<CompiledFlag>| self.selection.contains(flag);
        let mut flags: Vec<_> = environment.iter().filter(is_selected).cloned().collect();
        flags.sort_unstable_by(|one, other| one.name.cmp(&other.name));
        let selected = Arc::new(Selected { environment: Arc::clone(environment), flags });
        self.selected.store(Some(Arc::clone(&selected)));
        Some(selected)
    }

    /// The prepared definitions, if they are those of `selected` and still valid.
    fn fresh(&self, selected: &Arc<Selected>, now_ms: i64) -> Option<Arc<Features>> {
        let features = self.features.load_full()?;
        let is_same = Arc::ptr_eq(&features.selected.environment, &selected.environment);
        (is_same && now_ms < features.valid_until_ms).then_some(features)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::BTreeSet;

    use serde_json::{Value, json};

    use crate::flag::{FlagChange, KillSwitch, SwitchState};

    use super::*;

    fn definition(name: &str, version: u64, source: &str, feature: Value) -> CompiledFlag {
        let record = json!({"environment": "e", "flag_name": name, "source": source, "version": version,
            "checksum": "", "definition": feature});
        let mut flag = CompiledFlag::compile("e", version, &record["definition"].to_string()).unwrap();
        flag.record = Some(record.to_string().into_bytes().into());
        flag
    }

    fn of_unleash(name: &str, version: u64, project: &str) -> CompiledFlag {
        let feature = json!({"name": name, "enabled": true, "strategies": [], "project": project});
        definition(name, version, "unleash", feature)
    }

    fn snapshot(flags: Vec<CompiledFlag>) -> Snapshot {
        Snapshot::default().with(flags.into_iter().map(|flag| FlagChange::Set(flag.into())))
    }

    fn body(features: &Features, selection: &Selection) -> Value {
        serde_json::from_slice(&features.body(selection).plain).unwrap()
    }

    fn sets() -> FlagSets {
        FlagSets::new(Metrics::new())
    }

    #[test]
    fn a_body_has_the_flags_of_the_projects_and_changes_only_with_them() {
        let sets = sets();
        let shop = Selection::of_projects("e", Some(BTreeSet::from(["shop".to_owned()])));
        let set = sets.of(&shop);
        let first =
            snapshot(vec![of_unleash("b", 1, "shop"), of_unleash("a", 2, "shop"), of_unleash("c", 3, "pay")]);
        let features = sets.features(&set, &first, 0).unwrap();
        let named = body(&features, &shop);
        let names: Vec<_> =
            named["features"].as_array().unwrap().iter().map(|flag| flag["name"].clone()).collect();
        assert_eq!(names, ["a", "b"]);
        assert_eq!(named["query"]["project"], json!(["shop"]));
        assert_eq!(named["meta"]["etag"], features.body(&shop).etag);
        assert!(Arc::ptr_eq(&features, &sets.features(&sets.of(&shop), &first, 5).unwrap()), "prepared once");
        let other = first.with([FlagChange::Set(of_unleash("c", 4, "pay").into())]);
        let again = sets.features(&set, &other, 0).unwrap();
        assert_eq!(again.body(&shop).etag, features.body(&shop).etag);
        assert!(Arc::ptr_eq(&again.items[0], &features.items[0]), "unchanged texts are kept");
        let changed = other.with([FlagChange::Set(
            definition("a", 5, "unleash", json!({"name": "a", "enabled": false, "project": "shop"})).into(),
        )]);
        let changed = sets.features(&set, &changed, 0).unwrap();
        assert_ne!(changed.body(&shop).etag, features.body(&shop).etag);
        assert_eq!(changed.find("a").unwrap().flag.version, 5);
        assert!(changed.find("c").is_none());
        assert!(sets.features(&sets.of(&Selection::of_projects("x", None)), &first, 0).is_none());
    }

    #[test]
    fn the_compressed_body_is_the_same_body() {
        use std::io::Read;
        let (sets, all) = (sets(), Selection::of_projects("e", None));
        let features = sets.features(&sets.of(&all), &snapshot(vec![of_unleash("a", 1, "p")]), 0).unwrap();
        let prepared = features.body(&all);
        let mut text = Vec::new();
        flate2::read::GzDecoder::new(&*prepared.gzip).read_to_end(&mut text).unwrap();
        assert_eq!(text, prepared.plain);
        let prefixed = features.filtered(&all, Some("b"), &[]);
        assert_ne!(prefixed.etag, prepared.etag);
        let prefixed: Value = serde_json::from_slice(&prefixed.plain).unwrap();
        assert_eq!(prefixed["features"], json!([]));
    }

    #[test]
    fn a_killed_flag_is_disabled_until_its_switch_expires() {
        let switch = |expires_at: Option<i64>| KillSwitch {
            environment: "e".to_owned(),
            flag_name: "a".to_owned(),
            version: 9,
            state: SwitchState::Killed,
            expires_at: expires_at.map(|at| chrono::DateTime::from_timestamp_millis(at).unwrap()),
            definition_version: None,
            actor: "a".to_owned(),
            reason: "r".to_owned(),
            changed_at: chrono::DateTime::UNIX_EPOCH,
            change_id: uuid::Uuid::nil(),
        };
        let (sets, all) = (sets(), Selection::of_projects("e", None));
        let killed = of_unleash("a", 1, "p").switched(Arc::new(switch(Some(1_000))));
        let (set, snapshot) = (sets.of(&all), snapshot(vec![killed]));
        let at = |now| sets.features(&set, &snapshot, now).unwrap();
        assert_eq!(body(&at(10), &all)["features"][0]["enabled"], false);
        assert_eq!(at(10).valid_until_ms, 1_000);
        assert_eq!(body(&at(1_000), &all)["features"][0]["enabled"], true);
    }

    #[test]
    fn a_local_flag_is_expressed_or_named() {
        let on = json!({"name": "default", "constraints": [], "parameters": {}});
        let off = json!({"name": "default", "local": {"off": true}});
        let local = |name: &str, strategies: Value, parents: Value| {
            let feature = json!({"name": name, "enabled": true, "strategies": strategies,
                "dependencies": parents, "local": {"revision": 1, "chained": true}});
            definition(name, 1, "local", feature)
        };
        let parent = |name: &str| json!([{"feature": name, "enabled": true}]);
        let snapshot = snapshot(vec![
            local("simple", json!([on, off]), json!([])),
            local("odd", json!([off, on]), json!([])),
            local("child", json!([on]), parent("simple")),
            local("orphan", json!([on]), parent("odd")),
            local("grandchild", json!([on]), parent("child")),
        ]);
        let (sets, all) = (sets(), Selection::of_projects("e", None));
        let features = sets.features(&sets.of(&all), &snapshot, 0).unwrap();
        let names: Vec<_> = features.items.iter().map(|item| &*item.flag.name).collect();
        assert_eq!(names, ["child", "simple"]);
        assert!(!features.find("simple").unwrap().text.contains("local"));
        let omitted: Vec<_> = features.omitted.iter().map(|(name, _)| &**name).collect();
        assert_eq!(omitted, ["grandchild", "odd", "orphan"]);
    }
}
