-- The same as in Postgres.
ALTER TABLE feature_flag_evaluations ADD COLUMN flags_version INTEGER;
ALTER TABLE feature_flag_evaluations ADD COLUMN value_type TEXT;
