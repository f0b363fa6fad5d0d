-- The same as in Postgres.

CREATE TABLE local_flags (
    environment TEXT NOT NULL,
    name        TEXT NOT NULL,
    revision    INTEGER NOT NULL,
    document    TEXT NOT NULL,
    actor       TEXT NOT NULL,
    created_at  TEXT NOT NULL,
    updated_at  TEXT NOT NULL,
    deleted_at  TEXT,
    PRIMARY KEY (environment, name)
);

CREATE TABLE feature_flag_changes (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    environment TEXT NOT NULL,
    flag_name   TEXT NOT NULL,
    action      TEXT NOT NULL,
    actor       TEXT NOT NULL,
    reason      TEXT,
    before      TEXT,
    after       TEXT,
    changed_at  TEXT NOT NULL
);

CREATE INDEX feature_flag_changes_flag ON feature_flag_changes (flag_name, environment, id);

ALTER TABLE feature_flags ADD COLUMN type TEXT;
ALTER TABLE feature_flags ADD COLUMN project TEXT;
ALTER TABLE feature_flags ADD COLUMN owner TEXT;
