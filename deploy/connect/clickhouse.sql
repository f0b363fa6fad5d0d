-- Tables of the sink. `event_id` is the same if an event is written again, so merges remove repetitions.
CREATE TABLE flags.events
(
    event_type     LowCardinality(String),
    event_id       Nullable(String),
    request_id     Nullable(String),
    flag_name      LowCardinality(String),
    environment    LowCardinality(String),
    user_id        Nullable(String),
    session_id     Nullable(String),
    value          Nullable(String),
    typed_value    Nullable(String),
    enabled        Nullable(Bool),
    variant        LowCardinality(Nullable(String)),
    reason         LowCardinality(Nullable(String)),
    error_code     LowCardinality(Nullable(String)),
    flag_version   Nullable(Int64),
    flags_version  Nullable(Int64),
    context        Nullable(String),
    evaluated_at   Nullable(DateTime64(6, 'UTC')),
    version        Nullable(Int64),
    changed_at     Nullable(DateTime64(6, 'UTC')),
    actor          Nullable(String)
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(coalesce(evaluated_at, changed_at))
ORDER BY (environment, flag_name, coalesce(evaluated_at, changed_at), coalesce(event_id, toString(version)));

-- `context` is JSON text: JSONExtractString(context, 'region').
CREATE VIEW flags.evaluations AS SELECT * FROM flags.events FINAL WHERE event_type = 'FEATURE_FLAG_EVALUATED';
