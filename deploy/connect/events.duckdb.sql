-- DuckDB over lines of JSON, as `files.json` and `flagstream tail --output json` write them. `$lines` is the file.
CREATE OR REPLACE TABLE events AS
SELECT * FROM read_json(getvariable('lines'), format = 'newline_delimited', columns = {
    event_type: 'VARCHAR', event_id: 'VARCHAR', request_id: 'VARCHAR', flag_name: 'VARCHAR', environment: 'VARCHAR',
    user_id: 'VARCHAR', session_id: 'VARCHAR', value: 'VARCHAR', typed_value: 'JSON', enabled: 'BOOLEAN',
    variant: 'VARCHAR', reason: 'VARCHAR', error_code: 'VARCHAR', flag_version: 'BIGINT', flags_version: 'BIGINT',
    context: 'JSON', default_value: 'JSON', evaluated_at: 'TIMESTAMPTZ', version: 'BIGINT', changed_at: 'TIMESTAMPTZ',
    actor: 'VARCHAR', results: 'STRUCT(flag_name VARCHAR, "value" VARCHAR, typed_value JSON, enabled BOOLEAN,
        variant VARCHAR, reason VARCHAR, error_code VARCHAR, flag_version BIGINT, default_value JSON,
        session_id VARCHAR, context JSON)[]', source: 'STRUCT(topic VARCHAR, "partition" INTEGER, "offset" BIGINT, "index" INTEGER, api VARCHAR)'});

-- Evaluations with the position in their event: a bulk event has several, which share what they do not have themselves.
CREATE OR REPLACE VIEW results AS
SELECT 0 AS result, * EXCLUDE (results) FROM events WHERE event_type = 'FEATURE_FLAG_EVALUATED'
UNION ALL BY NAME
SELECT result, event_type, event_id, request_id, environment, user_id, flags_version, evaluated_at, source,
    r.flag_name, r."value", r.typed_value, r.enabled, r.variant, r.reason, r.error_code, r.flag_version, r.default_value,
    coalesce(r.session_id, session_id) AS session_id, coalesce(r.context, context) AS context
FROM (SELECT *, unnest(results) AS r, generate_subscripts(results, 1) - 1 AS result FROM events
    WHERE event_type = 'FEATURE_FLAGS_EVALUATED');

-- Each evaluation once: an event that was written again has the same id.
CREATE OR REPLACE VIEW evaluations AS SELECT DISTINCT ON (event_id, result) * FROM results;
