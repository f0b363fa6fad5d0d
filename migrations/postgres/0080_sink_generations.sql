-- A partition whose log was cut under the same topic id (a lost disk, an unclean leader election, a restored copy) begins a
-- new generation: positions of different generations are never compared.
ALTER TABLE sink_offsets ADD COLUMN generation integer NOT NULL DEFAULT 0;

-- What retention has to remember. One row.
CREATE TABLE sink_retention (
    only_row       boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    -- The setting that was last applied in full: if it changes, more than two days may be dropped at once.
    retention_days integer NOT NULL,
    -- Rows that were older than retention when they were written (an evaluator's clock is wrong) are kept in
    -- feature_flag_evaluations_other for a week at least: those up to late_seen_id are there since late_seen_at.
    late_seen_id   bigint NOT NULL DEFAULT 0,
    late_seen_at   timestamptz NOT NULL DEFAULT now()
);
