-- The same as in Postgres.
ALTER TABLE experiments ADD COLUMN backfilling INTEGER NOT NULL DEFAULT 0;
