-- Which attributes tables added to the context of an evaluation, and the position of each row. Null: none.
ALTER TABLE feature_flag_evaluations ADD COLUMN attributes jsonb;
