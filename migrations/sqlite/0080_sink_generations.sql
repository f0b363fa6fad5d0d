-- A partition whose log was cut under the same topic id begins a new generation: positions of different generations are
-- never compared.
ALTER TABLE sink_offsets ADD COLUMN generation INTEGER NOT NULL DEFAULT 0;

-- What retention has to remember. One row.
CREATE TABLE sink_retention (
    only_row       INTEGER PRIMARY KEY DEFAULT 1 CHECK (only_row = 1),
    -- The setting that was last applied in full: if it changes, more than two days may be deleted at once.
    retention_days INTEGER NOT NULL,
    -- Rows more than two days older than retention are kept for a week at least: those up to late_seen_id were there at
    -- late_looks looks, which take a while each whatever the clock does.
    late_seen_id   INTEGER NOT NULL DEFAULT 0,
    late_looks     INTEGER NOT NULL DEFAULT 0
);
