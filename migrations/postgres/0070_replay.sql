-- What it takes to evaluate again exactly what was evaluated: the version of all flags together, which says what the
-- flags that a flag depends on were, and the type that was asked for.
ALTER TABLE feature_flag_evaluations ADD COLUMN flags_version bigint, ADD COLUMN value_type text;
