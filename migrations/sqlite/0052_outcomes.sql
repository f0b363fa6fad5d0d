-- The same as in Postgres.
ALTER TABLE feature_flags ADD COLUMN outcomes_since TEXT;
ALTER TABLE feature_flags ADD COLUMN last_off_at TEXT;
