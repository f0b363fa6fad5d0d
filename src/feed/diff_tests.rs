use super::*;

fn feature(name: &str, enabled: &str) -> String {
    format!(r#"{{"name":"{name}","enabled":{enabled},"strategies":[]}}"#)
}

fn answer(features: &[String]) -> Answer {
    Answer::read(format!(r#"{{"features":[{}]}}"#, features.join(",")).as_bytes()).unwrap()
}

fn diff_of(known: &Environment, answer: &Answer) -> Diff {
    diff_from(Source::Unleash, known, answer, &Locals::new())
}

fn diff_from(source: Source, known: &Environment, answer: &Answer, locals: &Locals) -> Diff {
    let refusals = &Refusals::default();
    diff(DiffInput { environment: "dev", known, refusals, locals }, answer, source)
}

fn changes(diff: &Diff) -> Vec<(&str, ChangeKind, Option<u64>)> {
    let change = |change: &'_ PlannedChange| (change.kind(), change.previous_version);
    let named = diff.changes.iter().map(|planned| (planned.flag.as_str(), change(planned)));
    named.map(|(flag, (kind, previous))| (flag, kind, previous)).collect()
}

fn refused(diff: &Diff) -> Vec<&str> {
    diff.refused.iter().map(|refused| refused.flag.as_str()).collect()
}

/// The definitions in force after `features` were published at version 7.
fn known(features: &[String], source: Source) -> Environment {
    let diff = diff_of(&Environment::new(), &answer(features));
    let force = |change: PlannedChange| {
        let Content { checksum, digest, .. } = change.content?;
        Some((change.flag, KnownDefinition { version: 7, checksum, source, digest: Some(digest) }))
    };
    diff.changes.into_iter().filter_map(force).collect()
}

#[test]
fn created_updated_deleted_unchanged() {
    let old = [feature("same", "true"), feature("changed", "true"), feature("gone", "true")];
    let new = [feature("same", "true"), feature("changed", "false"), feature("new", "true")];
    let diff = diff_of(&known(&old, Source::Unleash), &answer(&new));
    let expected = [
        ("changed", ChangeKind::Updated, Some(7)),
        ("new", ChangeKind::Created, None),
        ("gone", ChangeKind::Deleted, Some(7)),
    ];
    assert_eq!(changes(&diff), expected);
    assert!(diff.refused.is_empty() && diff.same.is_empty());
}

#[test]
fn the_same_answer_again_changes_nothing() {
    let features = [feature("a", "true"), feature("b", "false")];
    let diff = diff_of(&known(&features, Source::Unleash), &answer(&features));
    assert!(diff.changes.is_empty());
}

#[test]
fn another_spelling_is_the_same_definition() {
    let known = known(&[feature("a", "true")], Source::Unleash);
    let respelled = r#"{ "strategies": [], "enabled": true, "name": "a" }"#.to_owned();
    let diff = diff_of(&known, &answer(&[respelled]));
    assert!(diff.changes.is_empty());
    assert_eq!(diff.same.len(), 1, "so that it is not compared again");
}

#[test]
fn a_bad_feature_is_refused_by_name_and_its_last_good_version_stays() {
    let known = known(&[feature("bad", "true"), feature("good", "true")], Source::Unleash);
    let new = answer(&[feature("bad", "\"perhaps\""), feature("good", "false"), feature("worse", "{}")]);
    let diff = diff_of(&known, &new);
    let published = [("good", ChangeKind::Updated, Some(7)), ("worse", ChangeKind::Created, None)];
    assert_eq!(changes(&diff), published);
    let stand_in = diff.changes[1].content.as_ref().unwrap().definition.get();
    let compiled = CompiledFlag::compile("dev", 1, stand_in).unwrap();
    assert!(compiled.unusable_because().unwrap().starts_with("enabled"), "{stand_in}");
    assert_eq!(refused(&diff), ["bad", "worse"]);
    assert!(diff.refused[0].reason.starts_with("enabled"), "{:?}", diff.refused);

    let mut refusals = Refusals::default();
    assert_eq!(refusals.replace(diff.refused).len(), 2);
    let again = super::diff(
        DiffInput { environment: "dev", known: &known, refusals: &refusals, locals: &Locals::new() },
        &new,
        Source::Unleash,
    );
    assert_eq!(refused(&again), ["bad", "worse"]);
    assert_eq!(changes(&again), published, "until it is known to be published");
    assert!(refusals.replace(again.refused).is_empty(), "it is not news");
}

#[test]
fn a_feature_named_twice_or_without_a_name_deletes_nothing() {
    let known = known(&[feature("a", "true"), feature("b", "true")], Source::Unleash);
    let doubled =
        diff_of(&known, &answer(&[feature("a", "false"), feature("a", "true"), feature("b", "true")]));
    assert!(doubled.changes.is_empty() && doubled.refused.is_empty(), "the last `a` is as the one in force");
    let unnamed = diff_of(&known, &answer(&[r#"{"enabled":true}"#.to_owned(), feature("b", "true")]));
    assert!(unnamed.changes.is_empty(), "the one without a name may be `a`");
}

#[test]
fn local_flags_are_neither_deleted_nor_in_the_way() {
    let known = known(&[feature("only-local", "true"), feature("both", "true")], Source::Local);
    let diff = diff_of(&known, &answer(&[feature("both", "true")]));
    assert_eq!(changes(&diff), [("both", ChangeKind::Updated, Some(7))]);
}

#[test]
fn a_shadowed_local_flag_waits_and_is_in_force_when_unleash_lets_go() {
    let mut unleash = known(&[feature("both", "true")], Source::Unleash);
    unleash.extend(known(&[feature("theirs", "true")], Source::Unleash));
    let mut local = answer(&[feature("both", "false")]);
    let shadowed = diff_from(Source::Local, &unleash, &local, &Locals::new());
    assert!(shadowed.changes.is_empty(), "{shadowed:?}");
    local.features[0].actor = Some("ann".to_owned());
    let locals = local.features.iter().map(|feature| (feature.name.clone(), feature.clone())).collect();
    let released = diff_from(Source::Unleash, &unleash, &answer(&[]), &locals);
    let expected = [("both", ChangeKind::Updated, Some(7)), ("theirs", ChangeKind::Deleted, Some(7))];
    assert_eq!(changes(&released), expected);
    assert_eq!(
        (released.changes[0].source, released.changes[0].actor.as_deref()),
        (Source::Local, Some("ann"))
    );
}

#[test]
fn a_deletion_that_was_asked_for_is_not_guarded() {
    let known = known(&[feature("asked", "true"), feature("lost", "true")], Source::Local);
    let mut empty = answer(&[]);
    empty.deleted.insert("asked".to_owned(), "ann".to_owned());
    let diff = diff_from(Source::Local, &known, &empty, &Locals::new());
    assert_eq!(diff.changes.len(), 2);
    assert_eq!(diff.changes[0].actor.as_deref(), Some("ann"));
    assert_eq!(diff.deletions().collect::<Vec<_>>(), ["lost"]);
}

#[test]
fn a_changed_segment_changes_each_flag_that_uses_it() {
    let body = |value: &str| {
        let strategy = r#"[{"name":"default","segments":[1]}]"#;
        let constraint = format!(r#"{{"contextName":"plan","operator":"IN","values":["{value}"]}}"#);
        let text = format!(
            r#"{{"features":[{{"name":"user","enabled":true,"strategies":{strategy}}},{}],
                "segments":[{{"id":1,"constraints":[{constraint}]}}]}}"#,
            feature("other", "true")
        );
        Answer::read(text.as_bytes()).unwrap()
    };
    let first = diff_of(&Environment::new(), &body("free"));
    let mut environment = Environment::new();
    for change in first.changes {
        let Content { checksum, digest, .. } = change.content.unwrap();
        let known = KnownDefinition { version: 7, checksum, source: Source::Unleash, digest: Some(digest) };
        environment.insert(change.flag, known);
    }
    assert!(diff_of(&environment, &body("free")).changes.is_empty());
    assert_eq!(changes(&diff_of(&environment, &body("paid"))), [("user", ChangeKind::Updated, Some(7))]);
}
