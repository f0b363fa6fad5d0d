-- ksqlDB streams over flagstream's topics in JSON. With Avro: VALUE_FORMAT = 'AVRO', without the columns.
SET 'isolation.level' = 'read_committed';
SET 'auto.offset.reset' = 'earliest';

CREATE STREAM flag_events (
  key VARCHAR KEY, event_type VARCHAR, event_id VARCHAR, flag_name VARCHAR, environment VARCHAR, user_id VARCHAR,
  value VARCHAR, enabled BOOLEAN, variant VARCHAR, reason VARCHAR, error_code VARCHAR, flag_version BIGINT,
  context MAP<VARCHAR, VARCHAR>, evaluated_at VARCHAR
) WITH (KAFKA_TOPIC = 'feature-flag-events', KEY_FORMAT = 'KAFKA', VALUE_FORMAT = 'JSON');

CREATE STREAM evaluations AS
  SELECT * FROM flag_events WHERE event_type = 'FEATURE_FLAG_EVALUATED' EMIT CHANGES;

-- Evaluations per flag and variant in each minute.
CREATE TABLE usage_per_minute AS
  SELECT flag_name, variant, COUNT(*) AS evaluations, COUNT_DISTINCT(user_id) AS users
  FROM evaluations WINDOW TUMBLING (SIZE 1 MINUTE)
  GROUP BY flag_name, variant EMIT CHANGES;
