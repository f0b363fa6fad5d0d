-- The hash chain is kept in Postgres only; the column is there so that both databases have the same rows.
ALTER TABLE feature_flag_evaluations ADD COLUMN audit_block INTEGER;
