//! The Avro schemas of the repository, embedded in the binary.

use std::sync::LazyLock;

use apache_avro::Schema;

use super::{Misfit, Plan};

/// Kind of message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    Request,
    Evaluated,
    /// The evaluations of one request or call.
    EvaluatedTogether,
    Changed,
    Hint,
    Reply,
    Conversion,
    Definition,
}

/// Content of a subject of the schema registry: one kind of message, or a union of kinds that share a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subject {
    pub kinds: &'static [Kind],
}

/// Schema that a message was written with.
#[derive(Debug)]
pub struct Writer {
    pub(super) schema: Schema,
    /// Schemas that it references; each follows the ones that it references itself.
    pub(super) others: Vec<Schema>,
}

/// Schema that belongs to flagstream, with the plan to read and write it.
#[derive(Debug)]
struct Own {
    writer: Writer,
    plan: Plan,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Request,
        Self::Evaluated,
        Self::Changed,
        Self::Hint,
        Self::Reply,
        Self::Conversion,
        Self::Definition,
        Self::EvaluatedTogether,
    ];

    /// Name of the schema's file in `schemas/`, without `.avsc`.
    pub fn file(self) -> &'static str {
        match self {
            Self::Request => "evaluation-request",
            Self::Evaluated => "evaluated-event",
            Self::EvaluatedTogether => "evaluated-together-event",
            Self::Changed => "change-event",
            Self::Hint => "change-hint",
            Self::Reply => "reply",
            Self::Conversion => "conversion",
            Self::Definition => "definition",
        }
    }

    /// Text of the schema.
    pub fn text(self) -> &'static str {
        match self {
            Self::Request => include_str!("../../schemas/evaluation-request.avsc"),
            Self::Evaluated => include_str!("../../schemas/evaluated-event.avsc"),
            Self::EvaluatedTogether => include_str!("../../schemas/evaluated-together-event.avsc"),
            Self::Changed => include_str!("../../schemas/change-event.avsc"),
            Self::Hint => include_str!("../../schemas/change-hint.avsc"),
            Self::Reply => include_str!("../../schemas/reply.avsc"),
            Self::Conversion => include_str!("../../schemas/conversion.avsc"),
            Self::Definition => include_str!("../../schemas/definition.avsc"),
        }
    }

    /// Name of the record with its namespace.
    pub fn full_name(self) -> String {
        self.schema().name().map(ToString::to_string).unwrap_or_default()
    }

    pub fn schema(self) -> &'static Schema {
        &self.own().writer.schema
    }

    /// Plan to read and write messages of flagstream's own schema.
    pub fn plan(self) -> &'static Plan {
        &self.own().plan
    }

    fn own(self) -> &'static Own {
        static ALL: LazyLock<Vec<Own>> = LazyLock::new(|| Kind::ALL.map(own).into());
        let index = Self::ALL.iter().position(|kind| *kind == self).unwrap_or_default();
        #[allow(clippy::indexing_slicing)] // All kinds are there.
        &ALL[index]
    }
}

// The texts are constants, and a test reads all of them.
#[allow(clippy::expect_used)]
fn own(kind: Kind) -> Own {
    let writer = Writer::parse(kind.text(), &[]).expect("a schema of ours");
    let plan = Plan::resolve(&writer, &[&writer.schema]).expect("a schema of ours fits itself");
    Own { writer, plan }
}

impl Writer {
    /// Parses a schema and the schemas that it references; each of these follows the ones that it references
    /// itself.
    pub fn parse(schema: &str, others: &[String]) -> Result<Self, String> {
        let (schema, others) =
            Schema::parse_str_with_list(schema, others).map_err(|error| error.to_string())?;
        Ok(Self { schema, others })
    }
}

impl Subject {
    /// Subject of any topic.
    pub const ANY: Self = Self { kinds: &Kind::ALL };
    /// Subject of a topic of another service: messages of any schema are converted completely.
    pub const FOREIGN: Self = Self { kinds: &[] };
    pub const REQUESTS: Self = Self { kinds: &[Kind::Request] };
    /// All messages of the events topic.
    pub const EVENTS: Self = Self { kinds: &[Kind::Evaluated, Kind::Changed, Kind::EvaluatedTogether] };
    /// Messages of the events topic if each evaluation has an event of its own.
    pub const EVENTS_WITHOUT_BULK: Self = Self { kinds: &[Kind::Evaluated, Kind::Changed] };
    pub const UPDATES: Self = Self { kinds: &[Kind::Changed] };
    pub const HINTS: Self = Self { kinds: &[Kind::Hint] };
    pub const REPLIES: Self = Self { kinds: &[Kind::Reply] };
    pub const CONVERSIONS: Self = Self { kinds: &[Kind::Conversion] };

    /// Text of the schema to register under the subject of a topic.
    pub fn text(self) -> String {
        match self.kinds {
            [kind] => kind.text().to_owned(),
            kinds => format!("[{}]", kinds.iter().map(|kind| kind.text()).collect::<Vec<_>>().join(",")),
        }
    }

    /// Computes how messages of another schema are read as one of these kinds.
    pub fn resolve(self, writer: &Writer) -> Result<Plan, Misfit> {
        if self.kinds.is_empty() {
            return Plan::complete(writer);
        }
        let readers: Vec<_> = self.kinds.iter().map(|kind| kind.schema()).collect();
        Plan::resolve(writer, &readers)
    }
}
