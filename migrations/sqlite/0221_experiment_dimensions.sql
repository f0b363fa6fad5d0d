-- The same as in Postgres.
ALTER TABLE experiment_exposures ADD COLUMN attributes TEXT;
