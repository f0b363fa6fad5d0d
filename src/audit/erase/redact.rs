//! Removes a user's id from a flag's JSON, in every member that lists users.

use serde_json::Value;

/// Replacement for an erased id.
const ERASED: &str = "(erased)";

/// Members whose strings are user ids, in Unleash's definitions and in local flags.
const USER_LISTS: [&str; 4] = ["userIds", "target_users", "user_list", "users"];

/// Members of a condition that name its attribute.
const ATTRIBUTE_NAMES: [&str; 2] = ["contextName", "attribute"];

/// Names of the attribute that holds the user's id.
const USER_ATTRIBUTES: [&str; 3] = ["userId", "user_id", "targetingKey"];

/// Members of a condition that hold the operands.
const CONDITION_VALUES: [&str; 2] = ["value", "values"];

/// Replaces `user` in all lists of users. Returns whether any list contained it.
pub(super) fn redact(value: &mut Value, user: &str) -> bool {
    match value {
        Value::Array(items) => items.iter_mut().fold(false, |found, item| redact(item, user) | found),
        Value::Object(members) => {
            let is_about_users = ATTRIBUTE_NAMES.iter().any(|name| {
                members.get(*name).and_then(Value::as_str).is_some_and(|name| USER_ATTRIBUTES.contains(&name))
            });
            members.iter_mut().fold(false, |found, (name, member)| {
                let lists_users = USER_LISTS.contains(&name.as_str())
                    || (is_about_users && CONDITION_VALUES.contains(&name.as_str()));
                (if lists_users { redact_ids(member, user) } else { redact(member, user) }) | found
            })
        }
        _ => false,
    }
}

/// Replaces `user` in `value`, which is one id, several comma-separated ids, or a list of either. Returns whether any
/// was replaced.
fn redact_ids(value: &mut Value, user: &str) -> bool {
    match value {
        Value::String(text) => {
            let ids: Vec<&str> = text.split(',').collect();
            if text != user && !ids.iter().any(|id| id.trim() == user) {
                return false;
            }
            let kept = |id: &&str| if id.trim() == user { ERASED.to_owned() } else { (*id).to_owned() };
            *text = if text == user {
                ERASED.to_owned()
            } else {
                ids.iter().map(kept).collect::<Vec<_>>().join(",")
            };
            true
        }
        Value::Array(items) => items.iter_mut().fold(false, |found, item| redact_ids(item, user) | found),
        Value::Object(_) => redact(value, user),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_user_is_taken_out_of_every_list_of_users() {
        let lists = [
            json!({"target_users": ["ann", "bob"]}),
            json!({"user_list": ["ann"]}),
            json!({"rules": [{"users": ["bob", "ann"], "groups": ["ann"]}]}),
            json!({"strategies": [{"name": "userWithId", "parameters": {"userIds": "bob, ann,carl"}}]}),
            json!({"constraints": [{"contextName": "userId", "operator": "IN", "values": ["ann"]}]}),
            json!({"attributes": [{"attribute": "user_id", "operator": "equals", "value": "ann"}]}),
            json!({"variants": [{"overrides": [{"contextName": "userId", "values": ["ann"]}]}]}),
        ];
        for mut list in lists {
            assert!(redact(&mut list, "ann"), "{list}");
            assert!(!redact(&mut list, "ann"), "{list}");
            assert!(list.to_string().contains(ERASED), "{list}");
        }
    }

    #[test]
    fn a_text_that_is_no_user_stays() {
        let mut flag = json!({
            "name": "ann", "environment": "ann", "description": "ann", "users": ["anna", "ann2"],
            "constraints": [{"contextName": "country", "values": ["ann"]}], "parameters": {"groupId": "ann"}
        });
        let before = flag.clone();
        assert!(!redact(&mut flag, "ann"));
        assert_eq!(flag, before);
    }
}
