-- The same as in Postgres.
CREATE TABLE feature_flag_usage (
    environment TEXT NOT NULL,
    flag_name   TEXT NOT NULL,
    seconds     INTEGER NOT NULL,
    starts_at   INTEGER NOT NULL,
    variant     TEXT NOT NULL,
    evaluations INTEGER NOT NULL,
    enabled     INTEGER NOT NULL,
    errors      INTEGER NOT NULL,
    timed       INTEGER NOT NULL,
    nanoseconds INTEGER NOT NULL,
    PRIMARY KEY (environment, flag_name, seconds, starts_at, variant)
);

CREATE INDEX feature_flag_usage_age ON feature_flag_usage (seconds, starts_at);
