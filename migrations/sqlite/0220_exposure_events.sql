-- The same as in Postgres.
CREATE TABLE experiment_exposure_events (
    id            INTEGER PRIMARY KEY AUTOINCREMENT,
    experiment_id INTEGER NOT NULL,
    user_key      BLOB NOT NULL,
    user_id       TEXT NOT NULL,
    event         TEXT NOT NULL
);

CREATE INDEX experiment_exposure_events_user ON experiment_exposure_events (user_key);

ALTER TABLE experiment_conversions ADD COLUMN metadata TEXT;
