-- DuckDB over lines of JSON, as `files.json` and `flagstream tail --output json` write them. `$lines` is the file.
CREATE OR REPLACE TABLE events AS
SELECT * FROM read_json(getvariable('lines'), format = 'newline_delimited', columns = {
    event_type: 'VARCHAR', event_id: 'VARCHAR', request_id: 'VARCHAR', flag_name: 'VARCHAR', environment: 'VARCHAR',
    user_id: 'VARCHAR', session_id: 'VARCHAR', value: 'VARCHAR', typed_value: 'JSON', enabled: 'BOOLEAN',
    variant: 'VARCHAR', reason: 'VARCHAR', error_code: 'VARCHAR', flag_version: 'BIGINT', flags_version: 'BIGINT',
    context: 'JSON', default_value: 'JSON', evaluated_at: 'TIMESTAMPTZ', version: 'BIGINT', changed_at: 'TIMESTAMPTZ',
    actor: 'VARCHAR', source: 'STRUCT(topic VARCHAR, "partition" INTEGER, "offset" BIGINT, "index" INTEGER, api VARCHAR)'});

-- Each evaluation once: an event that was written again has the same id.
CREATE OR REPLACE VIEW evaluations AS
SELECT DISTINCT ON (event_id) * FROM events WHERE event_type = 'FEATURE_FLAG_EVALUATED';
