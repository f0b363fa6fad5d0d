-- The same as in Postgres.
ALTER TABLE feature_flag_changes ADD COLUMN change_id TEXT;
ALTER TABLE feature_flag_changes ADD COLUMN version INTEGER;
CREATE UNIQUE INDEX feature_flag_changes_once ON feature_flag_changes (change_id);

CREATE TABLE audited_changes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    kind       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    action     TEXT NOT NULL,
    actor      TEXT NOT NULL,
    reason     TEXT,
    before     TEXT,
    after      TEXT,
    changed_at TEXT NOT NULL
);

CREATE INDEX audited_changes_subject ON audited_changes (kind, subject, id);
