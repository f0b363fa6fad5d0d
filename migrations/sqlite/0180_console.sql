-- The same as in Postgres.
CREATE INDEX feature_flag_evaluations_request ON feature_flag_evaluations (request_id, evaluated_at);
CREATE INDEX feature_flag_changes_time ON feature_flag_changes (changed_at);
CREATE INDEX audited_changes_time ON audited_changes (changed_at);
CREATE INDEX feature_flag_versions_time ON feature_flag_versions (in_force_at);

CREATE TABLE replays (
    id          TEXT PRIMARY KEY,
    request     TEXT NOT NULL,
    actor       TEXT NOT NULL,
    instance    TEXT NOT NULL,
    state       TEXT NOT NULL,
    evaluations INTEGER NOT NULL DEFAULT 0,
    progress    INTEGER NOT NULL DEFAULT 0,
    error       TEXT,
    report      TEXT,
    started_at  TEXT NOT NULL,
    seen_at     TEXT NOT NULL,
    ended_at    TEXT
);

CREATE INDEX replays_started ON replays (started_at);
