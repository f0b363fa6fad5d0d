-- ksqlDB streams over flagstream's topics in JSON. With Avro: VALUE_FORMAT = 'AVRO', without the columns.
SET 'isolation.level' = 'read_committed';
SET 'auto.offset.reset' = 'earliest';

CREATE STREAM flag_events (
  key VARCHAR KEY, event_type VARCHAR, event_id VARCHAR, flag_name VARCHAR, environment VARCHAR, user_id VARCHAR,
  value VARCHAR, enabled BOOLEAN, variant VARCHAR, reason VARCHAR, error_code VARCHAR, flag_version BIGINT,
  context MAP<VARCHAR, VARCHAR>, evaluated_at VARCHAR,
  results ARRAY<STRUCT<flag_name VARCHAR, value VARCHAR, enabled BOOLEAN, variant VARCHAR, reason VARCHAR,
    error_code VARCHAR, flag_version BIGINT>>
) WITH (KAFKA_TOPIC = 'feature-flag-events', KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON');

CREATE STREAM evaluations AS
  SELECT key, event_id, environment, user_id, evaluated_at, flag_name, value, enabled, variant, reason, error_code,
    flag_version
  FROM flag_events WHERE event_type = 'FEATURE_FLAG_EVALUATED' EMIT CHANGES;

-- The results of bulk events, one row each.
CREATE STREAM bulk_results AS
  SELECT key, event_id, environment, user_id, evaluated_at, EXPLODE(results) AS r
  FROM flag_events WHERE event_type = 'FEATURE_FLAGS_EVALUATED' EMIT CHANGES;

INSERT INTO evaluations
  SELECT key, event_id, environment, user_id, evaluated_at, r->flag_name AS flag_name, r->value AS value,
    r->enabled AS enabled, r->variant AS variant, r->reason AS reason, r->error_code AS error_code,
    r->flag_version AS flag_version
  FROM bulk_results EMIT CHANGES;

-- Evaluations per flag and variant in each minute.
CREATE TABLE usage_per_minute AS
  SELECT flag_name, variant, COUNT(*) AS evaluations, COUNT_DISTINCT(user_id) AS users
  FROM evaluations WINDOW TUMBLING (SIZE 1 MINUTE)
  GROUP BY flag_name, variant EMIT CHANGES;
