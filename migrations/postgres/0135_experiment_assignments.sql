-- How the variant of an exposure was chosen. Null: the evaluation's event does not contain it, or an older version of
-- flagstream wrote the row.
ALTER TABLE experiment_exposures ADD COLUMN assignment bigint;

-- Each way of choosing a variant once, as the events contain it. The key is the beginning of the text's SHA-256.
CREATE TABLE experiment_assignments (
    experiment_id  bigint NOT NULL,
    assignment_key bigint NOT NULL,
    assignment     text NOT NULL,
    PRIMARY KEY (experiment_id, assignment_key)
);

-- Conversions with an event id that was there before.
ALTER TABLE experiments ADD COLUMN duplicates bigint NOT NULL DEFAULT 0;

-- The results of each day, and of each time that the number of users has grown by a twentieth. Times are microseconds
-- since 1970.
CREATE TABLE experiment_history (
    experiment_id bigint NOT NULL,
    counted_at    bigint NOT NULL,
    point         jsonb NOT NULL,
    PRIMARY KEY (experiment_id, counted_at)
);

-- Time of the action that was taken because a guardrail was harmed.
ALTER TABLE experiments ADD COLUMN acted_at bigint;
