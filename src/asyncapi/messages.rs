//! The tables of the document: which topic has which messages, and what their keys and headers are.

use crate::config::{Config, TopicsConfig};
use crate::message::avro::Kind;

/// Ids of channels that other parts of the document refer to.
pub(super) const REQUESTS: &str = "evaluationRequests";
pub(super) const REPLIES: &str = "replies";

/// A topic, and what flagstream does with it.
#[derive(Debug)]
pub(super) struct TopicUse {
    pub id: &'static str,
    pub topic: String,
    pub title: &'static str,
    pub description: &'static str,
    pub messages: &'static [&'static str],
    pub directions: &'static [Direction],
}

/// A use of a topic by flagstream, with a summary.
#[derive(Debug)]
pub(super) enum Direction {
    Reads(&'static str),
    Writes(&'static str),
}

/// A kind of message.
#[derive(Debug)]
pub(super) struct Message {
    pub id: &'static str,
    pub name: &'static str,
    pub title: &'static str,
    /// Name of the payload's schema in `schemas/messages.schema.json`.
    pub schema: &'static str,
    pub content_type: &'static str,
    pub key: &'static str,
    pub headers: &'static [(&'static str, &'static str)],
    /// The Avro schema of the message; `None` if it is always JSON or bytes.
    pub avro: Option<Kind>,
}

const JSON: &str = "application/json";
const CORRELATION: (&str, &str) = ("correlation-id", "Copied from the request, up to 1 KiB");
const TRACE: (&str, &str) = ("traceparent", "W3C trace context");
const SEQUENCE: (&str, &str) =
    ("sequence", "Only of calls over HTTP: stream and number, to recognize duplicates");
const FLAG_KEY: &str = "environment/flag_name";

/// All kinds of messages.
pub(super) const ALL: &[Message] = &[
    Message {
        id: "evaluationRequest",
        name: "EvaluationRequest",
        title: "Request to evaluate one flag or many",
        schema: "evaluationRequest",
        content_type: JSON,
        key: "user_id, so that the requests of a user stay in order. Any key or none is accepted",
        headers: &[
            ("reply-to", "Topic for one message with all results"),
            ("correlation-id", "Copied to events, reply and dead letter, up to 1 KiB"),
            ("traceparent", "Copied to events, reply and dead letter"),
        ],
        avro: Some(Kind::Request),
    },
    Message {
        id: "featureFlagEvaluated",
        name: "FEATURE_FLAG_EVALUATED",
        title: "Result of one flag of one request",
        schema: "featureFlagEvaluated",
        content_type: JSON,
        key: "The key of the request; for calls over HTTP user_id",
        headers: &[CORRELATION, TRACE, SEQUENCE],
        avro: Some(Kind::Evaluated),
    },
    Message {
        id: "featureFlagsEvaluated",
        name: "FEATURE_FLAGS_EVALUATED",
        title: "Results of several flags of one request, with FLAGSTREAM_EVENTS__BULK=together",
        schema: "featureFlagsEvaluated",
        content_type: JSON,
        key: "The key of the request; for calls over HTTP user_id",
        headers: &[CORRELATION, TRACE, SEQUENCE],
        avro: Some(Kind::EvaluatedTogether),
    },
    Message {
        id: "flagChanged",
        name: "FEATURE_FLAG_CREATED, FEATURE_FLAG_UPDATED, FEATURE_FLAG_DELETED",
        title: "Change of a flag",
        schema: "changeEvent",
        content_type: JSON,
        key: FLAG_KEY,
        headers: &[],
        avro: Some(Kind::Changed),
    },
    Message {
        id: "invalidation",
        name: "Invalidation",
        title: "Values of a flag below a version are stale",
        schema: "invalidation",
        content_type: JSON,
        key: FLAG_KEY,
        headers: &[],
        avro: Some(Kind::Changed),
    },
    Message {
        id: "reply",
        name: "EvaluationReply",
        title: "All results of one request",
        schema: "reply",
        content_type: JSON,
        key: "The key of the request",
        headers: &[CORRELATION, TRACE],
        avro: Some(Kind::Reply),
    },
    Message {
        id: "hint",
        name: "ChangeHint",
        title: "A flag may have changed",
        schema: "hint",
        content_type: JSON,
        key: "Any; environment/flag_name of flagstream's own hints",
        headers: &[],
        avro: Some(Kind::Hint),
    },
    Message {
        id: "definition",
        name: "Definition",
        title: "Definition of a flag",
        schema: "definition",
        content_type: JSON,
        key: FLAG_KEY,
        headers: &[
            ("version", "Of a tombstone: the version of the deletion"),
            ("actor", "Of a tombstone: who deleted the flag"),
        ],
        avro: None,
    },
    Message {
        id: "sourceStatus",
        name: "SourceStatus",
        title: "Status of a source of flags",
        schema: "sourceStatus",
        content_type: JSON,
        key: "/source/environment, for example /unleash/production",
        headers: &[],
        avro: None,
    },
    Message {
        id: "killSwitch",
        name: "KillSwitch",
        title: "Kill switch of a flag",
        schema: "killSwitch",
        content_type: JSON,
        key: FLAG_KEY,
        headers: &[("version", "Of a tombstone: the version of the removal")],
        avro: None,
    },
    Message {
        id: "deadLetter",
        name: "DeadLetter",
        title: "A record that cannot be processed",
        schema: "deadLetter",
        content_type: "application/octet-stream",
        key: "The key of the record",
        headers: &[
            ("error-code", "Stable code of the reason"),
            ("error-message", "Text for people: the field, and what was expected"),
            ("source-topic", "Topic of the record"),
            ("source-partition", "Partition of the record"),
            ("source-offset", "Offset of the record"),
            ("source-index", "Index of the flag in the request, if one result was rejected"),
            ("body-omitted", "true if the body was too large for this topic"),
            ("key-omitted", "true if the key was too large as well"),
            ("headers-omitted", "Number of omitted headers"),
        ],
        avro: None,
    },
    Message {
        id: "conversion",
        name: "Conversion",
        title: "A user did what a metric of an experiment counts",
        schema: "conversion",
        content_type: JSON,
        key: "user_id",
        headers: &[("user-id", "hashed, if privacy settings have replaced the user by a hash")],
        avro: Some(Kind::Conversion),
    },
    Message {
        id: "exposure",
        name: "FEATURE_FLAG_EXPOSED",
        title: "First evaluation of a user in an experiment",
        schema: "exposure",
        content_type: JSON,
        key: "user_id",
        headers: &[],
        avro: None,
    },
    Message {
        id: "clientMetrics",
        name: "ClientMetrics",
        title: "What SDKs of Unleash report about themselves and the flags that they evaluated",
        schema: "clientMetrics",
        content_type: JSON,
        key: "environment/app",
        headers: &[],
        avro: None,
    },
    Message {
        id: "attributes",
        name: "Attributes",
        title: "Attributes of a user, or of another key",
        schema: "attributes",
        content_type: JSON,
        key: "user_id, or the value of the field that the table is keyed by. A record without a value removes the row",
        headers: &[],
        avro: None,
    },
    Message {
        id: "auditCheckpoint",
        name: "AUDIT_CHECKPOINT",
        title: "Ends of the hash chains of the audit trail",
        schema: "auditCheckpoint",
        content_type: JSON,
        key: "The instance that wrote it",
        headers: &[],
        avro: None,
    },
    Message {
        id: "instanceReport",
        name: "INSTANCE_REPORT",
        title: "State of a running instance",
        schema: "instanceReport",
        content_type: JSON,
        key: "The instance",
        headers: &[],
        avro: None,
    },
];

/// The topics of a configuration. Replies go to topics of the callers; the first allowed prefix stands for them.
pub(super) fn uses(config: &Config) -> Vec<TopicUse> {
    let replies = config.reply.allowed_prefixes.first().cloned().map(replies);
    let attributes = vec![attributes(&config.topics)];
    let tables = [evaluation(&config.topics), flags(&config.topics), others(&config.topics), attributes];
    tables.into_iter().flatten().chain(replies).collect()
}

/// Topics of requests, results and changes.
fn evaluation(topics: &TopicsConfig) -> Vec<TopicUse> {
    vec![
        TopicUse {
            id: REQUESTS,
            topic: topics.requests.clone(),
            title: "Evaluation requests",
            description: "Services request evaluations here.",
            messages: &["evaluationRequest"],
            directions: &[Direction::Reads("Evaluates the flags of the request")],
        },
        TopicUse {
            id: "events",
            topic: topics.events.clone(),
            title: "Events",
            description: "Results, one for each requested flag or for all flags of a request, in the partition of the request; and changes of flags.",
            messages: &["featureFlagEvaluated", "featureFlagsEvaluated", "flagChanged"],
            directions: &[
                Direction::Writes("Publishes a result or a change"),
                Direction::Reads("Writes events to the audit trail and results to Redis"),
            ],
        },
        TopicUse {
            id: "updates",
            topic: topics.updates.clone(),
            title: "Invalidations",
            description: "Announces that values of a flag are stale. Caches of other services read it.",
            messages: &["invalidation"],
            directions: &[
                Direction::Writes("Announces a change of a flag"),
                Direction::Reads("Invalidates values in Redis"),
            ],
        },
    ]
}

/// Topics with the state of flags.
fn flags(topics: &TopicsConfig) -> Vec<TopicUse> {
    vec![
        TopicUse {
            id: "hints",
            topic: topics.changes.clone(),
            title: "Hints",
            description: "Requests an immediate poll of a source of flags.",
            messages: &["hint"],
            directions: &[
                Direction::Reads("Polls the source of the flag"),
                Direction::Writes("Reports a management call or a webhook to the leader"),
            ],
        },
        TopicUse {
            id: "definitions",
            topic: topics.definitions.clone(),
            title: "Definitions",
            description: "The flags as they are in force. Compacted: the last record of each flag.",
            messages: &["definition", "sourceStatus"],
            directions: &[
                Direction::Writes("Publishes the definition of a flag"),
                Direction::Reads("Takes the definition into force"),
            ],
        },
        TopicUse {
            id: "overrides",
            topic: topics.overrides.clone(),
            title: "Kill switches",
            description: "The kill switch of each flag that has one. Compacted.",
            messages: &["killSwitch"],
            directions: &[
                Direction::Writes("Kills or restores a flag"),
                Direction::Reads("Takes the kill switch into force"),
            ],
        },
    ]
}

/// Topics of rejected records, experiments and the audit trail.
fn others(topics: &TopicsConfig) -> Vec<TopicUse> {
    vec![
        TopicUse {
            id: "deadLetters",
            topic: topics.dead_letters.clone(),
            title: "Dead letters",
            description: "Records that cannot be processed: their bytes, with the reason in the headers.",
            messages: &["deadLetter"],
            directions: &[Direction::Writes("Rejects a record")],
        },
        TopicUse {
            id: "conversions",
            topic: topics.conversions.clone(),
            title: "Conversions",
            description: "What users did, for experiments.",
            messages: &["conversion"],
            directions: &[
                Direction::Reads("Counts the conversion"),
                Direction::Writes("Publishes a conversion that was reported over HTTP"),
            ],
        },
        TopicUse {
            id: "exposures",
            topic: topics.exposures.clone(),
            title: "Exposures",
            description: "Each first evaluation of a user under a version of an experiment's flag, for analytics. The same \
                event_id may come more than once; the event with the earliest exposed_at counts.",
            messages: &["exposure"],
            directions: &[Direction::Writes("Publishes an exposure that is in the database")],
        },
        TopicUse {
            id: "clientMetrics",
            topic: topics.client_metrics.clone(),
            title: "Metrics of SDKs",
            description: "What SDKs of Unleash report to the API for Unleash's SDKs. Needed only if that is enabled.",
            messages: &["clientMetrics"],
            directions: &[
                Direction::Writes("Publishes the report of an SDK"),
                Direction::Reads("Forwards the report to Unleash, and counts it in the usage of flags"),
            ],
        },
        TopicUse {
            id: "auditCheckpoints",
            topic: topics.audit_checkpoints.clone(),
            title: "Checkpoints of the audit trail",
            description: "Where its hash chains ended, signed. These records never expire.",
            messages: &["auditCheckpoint"],
            directions: &[
                Direction::Writes("Records the ends of the hash chains"),
                Direction::Reads("Verifies the audit trail (flagstream audit verify)"),
            ],
        },
        TopicUse {
            id: "instances",
            topic: topics.instances.clone(),
            title: "Instances",
            description: "The last report of each running instance; a tombstone when it stops.",
            messages: &["instanceReport"],
            directions: &[
                Direction::Writes("Publishes the state of the instance every five seconds"),
                Direction::Reads("Lists the instances of the cluster"),
            ],
        },
    ]
}

/// The topic of users' attributes, which stands for those of further tables too.
fn attributes(topics: &TopicsConfig) -> TopicUse {
    TopicUse {
        id: "attributes",
        topic: topics.attributes_topic.clone(),
        title: "Attributes",
        description: "The attributes of each user, which complete the context of evaluations. Compacted. Further tables have \
            topics of the same form, keyed by another field. Needed only with FLAGSTREAM_ATTRIBUTES__ENABLED.",
        messages: &["attributes"],
        directions: &[
            Direction::Reads("Takes the attributes of a user into force"),
            Direction::Writes(
                "Publishes a row that was written over HTTP, or removes the row of an erased user",
            ),
        ],
    }
}

/// Topics of the callers.
fn replies(topic: String) -> TopicUse {
    TopicUse {
        id: REPLIES,
        topic,
        title: "Replies",
        description: "A topic of the caller, named by the header reply-to of the request. It must begin with an allowed prefix \
            (FLAGSTREAM_REPLY__ALLOWED_PREFIXES); flagstream does not create it.",
        messages: &["reply"],
        directions: &[Direction::Writes("Answers a request that names a topic")],
    }
}
