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
    actor          Nullable(String),
    -- Of bulk events.
    results        Array(Tuple(flag_name String, value Nullable(String), typed_value Nullable(String), enabled Bool,
                       variant Nullable(String), reason String, error_code Nullable(String), flag_version Nullable(Int64),
                       session_id Nullable(String), context Nullable(String)))
)
ENGINE = ReplacingMergeTree
PARTITION BY toDate(coalesce(evaluated_at, changed_at))
ORDER BY (environment, flag_name, coalesce(evaluated_at, changed_at), coalesce(event_id, toString(version)));

-- `context` is JSON text: JSONExtractString(context, 'region').
CREATE VIEW flags.evaluations AS
SELECT event_id, 0 AS result, request_id, flag_name, environment, user_id, session_id, value, typed_value, enabled, variant,
    reason, error_code, flag_version, flags_version, context, evaluated_at
FROM flags.events FINAL WHERE event_type = 'FEATURE_FLAG_EVALUATED'
UNION ALL
SELECT event_id, result, request_id, r.flag_name, environment, user_id, coalesce(r.session_id, session_id), r.value,
    r.typed_value, r.enabled, r.variant, r.reason, r.error_code, r.flag_version, flags_version,
    coalesce(r.context, context), evaluated_at
FROM flags.events FINAL ARRAY JOIN results AS r, arrayEnumerate(results) AS result
WHERE event_type = 'FEATURE_FLAGS_EVALUATED';
