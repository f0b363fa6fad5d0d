-- The same as in Postgres.
ALTER TABLE feature_flag_evaluations ADD COLUMN attributes TEXT;
