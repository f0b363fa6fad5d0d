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

-- Evaluations per flag, variant and minute.
CREATE VIEW usage_per_minute AS
SELECT window_start, environment, flag_name, variant, COUNT(*) AS evaluations, COUNT(DISTINCT user_id) AS users
FROM TABLE(TUMBLE(TABLE events, DESCRIPTOR(evaluated_at), INTERVAL '1' MINUTE))
WHERE event_type = 'FEATURE_FLAG_EVALUATED'
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
