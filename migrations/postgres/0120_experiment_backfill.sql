-- An experiment that is being started: evaluations since its start are being read. Until that is done nobody else sees it,
-- and due_at is the time at which it is deleted again. The sinks write its exposures from the beginning.
ALTER TABLE experiments ADD COLUMN backfilling boolean NOT NULL DEFAULT false;
