-- The same as in Postgres.
CREATE TABLE experiments (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    environment TEXT NOT NULL,
    name        TEXT NOT NULL,
    flag_name   TEXT NOT NULL,
    design      TEXT NOT NULL,
    created_by  TEXT NOT NULL,
    started_at  INTEGER NOT NULL,
    stopped_at  INTEGER,
    reason      TEXT,
    winner      TEXT,
    expired     INTEGER NOT NULL DEFAULT 0,
    due_at      INTEGER NOT NULL DEFAULT 0,
    results     TEXT,
    UNIQUE (environment, name)
);

CREATE TABLE experiment_exposures (
    experiment_id INTEGER NOT NULL,
    user_key      BLOB NOT NULL,
    flag_version  INTEGER NOT NULL,
    variant       TEXT NOT NULL,
    exposed_at    INTEGER NOT NULL,
    crossed       INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, user_key, flag_version)
);

CREATE TABLE experiment_conversions (
    experiment_id INTEGER NOT NULL,
    event_key     BLOB NOT NULL,
    user_key      BLOB NOT NULL,
    metric        TEXT NOT NULL,
    value         REAL,
    occurred_at   INTEGER NOT NULL,
    PRIMARY KEY (experiment_id, event_key)
);

CREATE INDEX experiment_conversions_user ON experiment_conversions (user_key);
