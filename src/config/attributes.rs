//! The section of attributes: the tables, and who wins.

use super::values::Values;
use super::{TopicsConfig, parse};
use crate::attributes::{USER_TABLE, is_reserved};

/// Maximum number of tables.
const TABLES_MAX: usize = 16;

/// Settings of the tables of attributes.
#[derive(Debug, Clone, Default)]
pub struct AttributesConfig {
    /// The tables in the order in which they are asked; empty if the feature is off.
    pub tables: Vec<AttributeTable>,
    /// Attributes that only the tables may set. Those of callers are dropped.
    pub table_wins: Vec<String>,
    /// Memory for rows and blocks of all tables, in bytes.
    pub cache_bytes: usize,
    /// Largest row in bytes.
    pub max_row_bytes: usize,
    /// Whether to be ready before the tables have caught up with their topics.
    pub start_behind: bool,
}

/// A table of attributes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttributeTable {
    /// Name in events, metrics and calls.
    pub name: String,
    /// Context field whose value is the key.
    pub field: String,
    pub topic: String,
}

/// Reads `attributes.enabled` and the topics of the tables.
pub(super) fn tables(values: &mut Values) -> Option<Vec<AttributeTable>> {
    let enabled = values.required("attributes.enabled", parse::flag);
    let topic = values.required("topics.attributes", parse::topic);
    let more = values.list("attributes.tables", table);
    let (enabled, topic, more) = (enabled?, topic?, more?);
    if !enabled {
        if !more.is_empty() {
            return values.refuse("attributes.tables", "needs FLAGSTREAM_ATTRIBUTES__ENABLED=true");
        }
        return Some(Vec::new());
    }
    let user = AttributeTable { name: USER_TABLE.to_owned(), field: "userId".to_owned(), topic };
    let tables: Vec<_> = std::iter::once(user).chain(more).collect();
    if tables.len() > TABLES_MAX {
        return values.refuse("attributes.tables", format!("expected at most {} tables", TABLES_MAX - 1));
    }
    for (index, table) in tables.iter().enumerate() {
        if tables.iter().take(index).any(|earlier| earlier.name == table.name) {
            return values.refuse("attributes.tables", format!("`{}` is named twice", table.field));
        }
    }
    Some(tables)
}

pub(super) fn config(values: &mut Values, topics: Option<&TopicsConfig>) -> Option<AttributesConfig> {
    let table_wins = values.list("attributes.table_wins", |text| match parse::text(text)? {
        name if is_reserved(&name) => Err("is a field of the context and no attribute".into()),
        name => Ok(name),
    });
    let cache_bytes =
        values.required("attributes.cache_bytes", |text| parse::bytes(text, 4 << 20..=64 << 30));
    let max_row_bytes =
        values.required("attributes.max_row_bytes", |text| parse::bytes(text, 256..=256 << 10));
    let start_behind = values.required("attributes.start_behind", parse::flag);
    Some(AttributesConfig {
        tables: topics?.attributes.clone(),
        table_wins: table_wins?,
        cache_bytes: cache_bytes?,
        max_row_bytes: max_row_bytes?,
        start_behind: start_behind?,
    })
}

/// Parses `FIELD=TOPIC`.
fn table(text: &str) -> parse::Parsed<AttributeTable> {
    let expected = "expected a context field and its topic, such as `company=company-attributes`";
    let (field, topic) = text.split_once('=').ok_or(expected)?;
    let field = parse::instance(field.trim()).map_err(|_| expected)?;
    let is_key = !is_reserved(&field) || field == "sessionId";
    if !is_key || field == USER_TABLE {
        return Err(format!("`{field}` cannot be the key of a table; {expected}"));
    }
    Ok(AttributeTable { name: field.clone(), field, topic: parse::topic(topic)? })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use crate::config::{Config, Profile, load_from};

    fn load(pairs: &[(&str, &str)]) -> Result<Config, Vec<String>> {
        let pairs = pairs.iter().map(|(name, value)| (name.into(), value.into()));
        load_from(None, pairs.collect::<Vec<_>>(), Profile::Service)
            .map(|loaded| loaded.config)
            .map_err(|error| error.0)
    }

    const ON: (&str, &str) = ("FLAGSTREAM_ATTRIBUTES__ENABLED", "true");

    #[test]
    fn there_are_no_tables_by_default() {
        let config = load(&[]).unwrap();
        assert!(config.attributes.tables.is_empty() && config.topics.attributes.is_empty());
    }

    #[test]
    fn tables_are_keyed_by_the_user_and_by_named_fields() {
        let tables = ("FLAGSTREAM_ATTRIBUTES__TABLES", "company=company-attributes, sessionId=sessions");
        let config = load(&[ON, tables, ("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "plan,risk")]).unwrap();
        let tables: Vec<_> = config
            .attributes
            .tables
            .iter()
            .map(|table| (table.name.as_str(), table.field.as_str(), table.topic.as_str()))
            .collect();
        let expected = [
            ("user", "userId", "feature-flag-attributes"),
            ("company", "company", "company-attributes"),
            ("sessionId", "sessionId", "sessions"),
        ];
        assert_eq!(tables, expected);
        assert_eq!(config.attributes.table_wins, ["plan", "risk"]);
    }

    #[test]
    fn wrong_tables_are_refused_with_the_setting() {
        let refused = |pairs: &[(&str, &str)]| load(pairs).unwrap_err().join("\n");
        let tables = |text| [ON, ("FLAGSTREAM_ATTRIBUTES__TABLES", text)];
        for (text, problem) in [
            ("company", "expected a context field and its topic"),
            ("userId=a", "cannot be the key"),
            ("user=a", "cannot be the key"),
            ("company=a,company=b", "named twice"),
            ("company=feature-flag-events", "is also the topic of"),
        ] {
            let refused = refused(&tables(text));
            assert!(refused.contains(problem), "{text}: {refused}");
        }
        let off = refused(&[("FLAGSTREAM_ATTRIBUTES__TABLES", "company=a")]);
        assert!(off.contains("FLAGSTREAM_ATTRIBUTES__ENABLED=true"), "{off}");
        let wins = refused(&[("FLAGSTREAM_ATTRIBUTES__TABLE_WINS", "userId")]);
        assert!(wins.contains("no attribute"), "{wins}");
    }
}
