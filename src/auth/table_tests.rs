//! Tests of the table of tokens.

use super::*;
use crate::auth::Restrictions;
use crate::config::Secret;
use crate::database::audited;

const ACTOR: Actor<'static> = Actor { actor: "ann", reason: Some("why not") };

async fn database(folder: &tempfile::TempDir) -> Database {
    let url = format!("sqlite:{}", folder.path().join("test.db").display());
    let database = Database::open(&Secret::new(url), "test").unwrap();
    database.migrate().await.unwrap();
    database
}

fn new_token(name: &str, expires_in: Option<&str>) -> NewToken {
    NewToken::check(name, &["evaluate"], &["production"], expires_in).unwrap()
}

#[tokio::test]
async fn a_token_lives_from_its_creation_to_its_revocation() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let before = revision(&database).await.unwrap();
    let (token, made) = create(&database, &new_token("one", Some("1d")), ACTOR).await.unwrap();
    assert!(revision(&database).await.unwrap() > before);
    let [valid_one] = valid(&database).await.unwrap().try_into().unwrap();
    assert!(valid_one.hash.is_of(&token));
    assert_eq!(
        (valid_one.id, &valid_one.grant, valid_one.expires_at),
        (made.id, &made.grant, made.expires_at)
    );
    assert_eq!(list(&database, None, 10).await.unwrap(), std::slice::from_ref(&made));

    let noted = revision(&database).await.unwrap();
    let at = now();
    used(&database, token.id, at).await.unwrap();
    used(&database, token.id, at - chrono::TimeDelta::seconds(5)).await.unwrap();
    assert_eq!(find(&database, token.id).await.unwrap().unwrap().last_used_at, Some(at));
    assert_eq!(revision(&database).await.unwrap(), noted, "use is no change");

    assert_eq!(revoke(&database, token.id, ACTOR).await.unwrap(), Revoked::Now);
    assert!(revision(&database).await.unwrap() > noted);
    assert_eq!(valid(&database).await.unwrap(), []);
    assert_eq!(revoke(&database, token.id, ACTOR).await.unwrap(), Revoked::Before);
    assert_eq!(revoke(&database, Token::generate().id, ACTOR).await.unwrap(), Revoked::Unknown);
    assert_eq!(find(&database, token.id).await.unwrap().unwrap().state(), "revoked");

    // Each change is logged once, with author and reason, and without the secret.
    let log = audited::entries(&database, Kind::Token, &token.id.to_string(), 10).await.unwrap();
    let told: Vec<_> =
        log.iter().map(|it| (it.action.as_str(), it.actor.as_str(), it.reason.as_deref())).collect();
    assert_eq!(told, [("revoked", "ann", Some("why not")), ("created", "ann", Some("why not"))]);
    let after = log.last().unwrap().after.as_ref().unwrap().get();
    assert!(after.contains("\"one\"") && !after.contains(&hex::encode(token.hash().bytes())), "{after}");
}

#[tokio::test]
async fn restrictions_are_kept_and_a_change_by_hand_counts() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let restrictions = Restrictions::of_names(&["shop"], &["new-", "old-"], &[]);
    let new_token = NewToken::restricted(Ok(new_token("one", None)), restrictions).unwrap();
    let (token, made) = create(&database, &new_token, ACTOR).await.unwrap();
    assert_eq!(made.json()["flag_prefixes"], json!(["new-", "old-"]));
    assert_eq!(made.json()["owners"], json!([]));
    assert_eq!(find(&database, token.id).await.unwrap().unwrap(), made);
    assert_eq!(valid(&database).await.unwrap().first().unwrap().grant, new_token.grant);
    let log = audited::entries(&database, Kind::Token, &token.id.to_string(), 1).await.unwrap();
    let after = log.last().unwrap().after.as_ref().unwrap().get();
    assert!(after.contains(r#""projects":["shop"]"#), "{after}");

    let before = revision(&database).await.unwrap();
    let Database::Sqlite(sqlite) = &database else { panic!("not SQLite") };
    let change = "UPDATE api_tokens SET owners = '[\"ann\"]'";
    sqlx::query(change).execute(&sqlite.pool).await.unwrap();
    assert!(revision(&database).await.unwrap() > before);
    assert_ne!(valid(&database).await.unwrap().first().unwrap().grant, new_token.grant);
}

#[tokio::test]
async fn a_token_ends_with_the_one_it_was_made_with() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let make = async |name: &str, lifetime: Option<&str>, maker: Option<&Entered>| {
        let mut new_token = new_token(name, lifetime);
        if let Some(maker) = maker {
            new_token = new_token.by(maker.id, maker.expires_at);
        }
        create(&database, &new_token, ACTOR).await.unwrap().1
    };
    let root = make("root", Some("1h"), None).await;
    let child = make("child", None, Some(&root)).await;
    let grandchild = make("grandchild", Some("90d"), Some(&child)).await;
    let brief = make("brief", Some("1s"), Some(&child)).await;
    let other = make("other", None, None).await;
    // No token outlives the one it was created with.
    assert_eq!((child.expires_at, grandchild.expires_at), (root.expires_at, root.expires_at));
    assert!(brief.expires_at < root.expires_at);
    assert_eq!(find(&database, child.id).await.unwrap().unwrap().made_by, Some(root.id));

    assert_eq!(revoke(&database, root.id, ACTOR).await.unwrap(), Revoked::Now);
    let left: Vec<_> = valid(&database).await.unwrap().into_iter().map(|token| token.id).collect();
    assert_eq!(left, [other.id]);
    for ended in [&child, &grandchild, &brief] {
        assert_eq!(find(&database, ended.id).await.unwrap().unwrap().state(), "revoked");
        let log = audited::entries(&database, Kind::Token, &ended.id.to_string(), 10).await.unwrap();
        assert_eq!(log.first().unwrap().action, "revoked");
    }
    // A token created at the moment of the revocation is not revoked, but does not count as valid.
    let late = make("late", None, Some(&grandchild)).await;
    assert!(!valid(&database).await.unwrap().iter().any(|token| token.id == late.id));
    assert_eq!(revoke(&database, root.id, ACTOR).await.unwrap(), Revoked::Before);
    assert_eq!(find(&database, late.id).await.unwrap().unwrap().state(), "revoked");
}

#[tokio::test]
async fn a_token_ends_when_the_one_it_was_made_with_expires() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let mut expired = new_token("gone", None);
    expired.expires_at = Some(now() - chrono::TimeDelta::seconds(1));
    let gone = create(&database, &expired, ACTOR).await.unwrap().1;
    // Simulates a token created by a version that did not limit the expiry.
    let mut new_token = new_token("left", None);
    new_token.made_by = Some(gone.id);
    create(&database, &new_token, ACTOR).await.unwrap();
    assert_eq!(valid(&database).await.unwrap(), []);
}

#[tokio::test]
async fn lists_go_page_by_page_and_the_expired_are_not_valid() {
    let folder = tempfile::tempdir().unwrap();
    let database = database(&folder).await;
    let mut made = Vec::new();
    for number in 0..5 {
        made.push(create(&database, &new_token(&number.to_string(), None), ACTOR).await.unwrap().1);
    }
    let mut expired = new_token("gone", None);
    expired.expires_at = Some(now() - chrono::TimeDelta::seconds(1));
    let gone = create(&database, &expired, ACTOR).await.unwrap().1;
    made.push(gone.clone());
    assert_eq!((valid(&database).await.unwrap().len(), gone.state()), (5, "expired"));
    let (mut seen, mut last) = (Vec::new(), None);
    loop {
        let page = list(&database, last, 2).await.unwrap();
        let Some(end) = page.last() else { break };
        last = Some(end.id);
        seen.extend(page);
    }
    made.sort_by_key(|token| std::cmp::Reverse((token.created_at, token.id)));
    assert_eq!(seen, made);
}

#[tokio::test]
async fn without_the_table_the_error_says_what_to_do() {
    let database = Database::open(&Secret::new("sqlite::memory:"), "test").unwrap();
    let error = create(&database, &new_token("one", None), ACTOR).await.unwrap_err();
    assert!(error.to_string().contains("flagstream migrate"), "{error}");
}
