-- The same as in Postgres.
ALTER TABLE experiment_exposures ADD COLUMN assignment INTEGER;

CREATE TABLE experiment_assignments (
    experiment_id  INTEGER NOT NULL,
    assignment_key INTEGER NOT NULL,
    assignment     TEXT NOT NULL,
    PRIMARY KEY (experiment_id, assignment_key)
);

ALTER TABLE experiments ADD COLUMN duplicates INTEGER NOT NULL DEFAULT 0;

CREATE TABLE experiment_history (
    experiment_id INTEGER NOT NULL,
    counted_at    INTEGER NOT NULL,
    point         TEXT NOT NULL,
    PRIMARY KEY (experiment_id, counted_at)
);

-- Time of the action that was taken because a guardrail was harmed.
ALTER TABLE experiments ADD COLUMN acted_at INTEGER;
