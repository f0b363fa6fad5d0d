-- The same tables as in Postgres, for the embedded mode: without partitions, times as RFC 3339 texts in UTC, JSON as text.

CREATE TABLE feature_flags (
    id                INTEGER PRIMARY KEY,
    name              TEXT NOT NULL,
    description       TEXT,
    is_enabled        INTEGER NOT NULL DEFAULT 0,
    rollout_percentage TEXT,
    target_users      TEXT NOT NULL DEFAULT '[]',
    environment       TEXT NOT NULL,
    unleash_flag_name TEXT,
    last_synced_at    TEXT,
    evaluation_count  INTEGER NOT NULL DEFAULT 0,
    last_evaluated_at TEXT,
    created_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    updated_at        TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    source            TEXT,
    version           INTEGER,
    deleted_at        TEXT,
    UNIQUE (name, environment)
);

CREATE TABLE feature_flag_versions (
    environment TEXT NOT NULL,
    name        TEXT NOT NULL,
    version     INTEGER NOT NULL,
    definition  TEXT,
    checksum    TEXT,
    source      TEXT,
    actor       TEXT,
    in_force_at TEXT NOT NULL,
    recorded_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (environment, name, version)
);

CREATE TABLE feature_flag_evaluations (
    id                INTEGER PRIMARY KEY,
    flag_name         TEXT NOT NULL,
    user_id           TEXT,
    context           TEXT NOT NULL,
    result            INTEGER,
    variant           TEXT,
    evaluated_value   TEXT,
    environment       TEXT NOT NULL,
    evaluated_at      TEXT NOT NULL,
    evaluation_reason TEXT NOT NULL,
    event_id          TEXT NOT NULL,
    request_id        TEXT,
    session_id        TEXT,
    enabled           INTEGER NOT NULL,
    default_value     TEXT,
    error_code        TEXT,
    error_message     TEXT,
    flag_version      INTEGER,
    source_topic      TEXT,
    source_partition  INTEGER,
    source_offset     INTEGER,
    source_index      INTEGER,
    source_api        TEXT,
    amended           INTEGER NOT NULL DEFAULT 0
);

CREATE INDEX feature_flag_evaluations_time ON feature_flag_evaluations (evaluated_at);
CREATE INDEX feature_flag_evaluations_flag ON feature_flag_evaluations (flag_name, environment, evaluated_at);
CREATE INDEX feature_flag_evaluations_user ON feature_flag_evaluations (user_id, evaluated_at);

CREATE TABLE sink_offsets (
    topic       TEXT NOT NULL,
    log_id      TEXT NOT NULL,
    partition   INTEGER NOT NULL,
    next_offset INTEGER NOT NULL,
    sources     TEXT NOT NULL DEFAULT '[]',
    batch_id    TEXT,
    updated_at  TEXT NOT NULL DEFAULT (strftime('%Y-%m-%dT%H:%M:%fZ', 'now')),
    PRIMARY KEY (topic, log_id, partition)
);
