-- Flink SQL tables over flagstream's topics in JSON. With Avro: 'format' = 'avro-confluent', and the registry's address.
CREATE TABLE events (
  event_type    STRING,
  event_id      STRING,
  request_id    STRING,
  flag_name     STRING,
  environment   STRING,
  user_id       STRING,
  `value`       STRING,
  enabled       BOOLEAN,
  variant       STRING,
  reason        STRING,
  error_code    STRING,
  flag_version  BIGINT,
  context       MAP<STRING, STRING>,
  evaluated_at  TIMESTAMP_LTZ(6),
  -- Of bulk events.
  results       ARRAY<ROW<flag_name STRING, `value` STRING, enabled BOOLEAN, variant STRING, reason STRING,
                    error_code STRING, flag_version BIGINT>>,
  `partition`   INT METADATA VIRTUAL,
  `offset`      BIGINT METADATA VIRTUAL,
  WATERMARK FOR evaluated_at AS evaluated_at - INTERVAL '10' SECOND
) WITH (
  'connector' = 'kafka',
  'topic' = 'feature-flag-events',
  'properties.bootstrap.servers' = 'kafka:9092',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.timestamp-format.standard' = 'ISO-8601',
  'json.ignore-parse-errors' = 'true'
);

-- One row for each evaluation, whatever the form of its event.
CREATE VIEW evaluations AS
SELECT environment, flag_name, user_id, `value`, enabled, variant, reason, error_code, flag_version, evaluated_at
FROM events WHERE event_type = 'FEATURE_FLAG_EVALUATED'
UNION ALL
SELECT e.environment, r.flag_name, e.user_id, r.`value`, r.enabled, r.variant, r.reason, r.error_code, r.flag_version,
  e.evaluated_at
FROM events AS e CROSS JOIN UNNEST(e.results)
  AS r (flag_name, `value`, enabled, variant, reason, error_code, flag_version)
WHERE e.event_type = 'FEATURE_FLAGS_EVALUATED';

-- Evaluations per flag, variant and minute.
CREATE VIEW usage_per_minute AS
SELECT window_start, environment, flag_name, variant, COUNT(*) AS evaluations, COUNT(DISTINCT user_id) AS users
FROM TABLE(TUMBLE(TABLE evaluations, DESCRIPTOR(evaluated_at), INTERVAL '1' MINUTE))
GROUP BY window_start, window_end, environment, flag_name, variant;

-- Evaluations in the database of the platform, without a call: requests are produced, and events are the answer.
CREATE TABLE requests (
  request_id    STRING,
  flag_name     STRING,
  user_id       STRING,
  context       MAP<STRING, STRING>,
  default_value STRING,
  environment   STRING
) WITH (
  'connector' = 'kafka',
  'topic' = 'feature-flag-evaluation-requests',
  'properties.bootstrap.servers' = 'kafka:9092',
  'key.format' = 'raw',
  'key.fields' = 'user_id',
  'value.format' = 'json'
);
