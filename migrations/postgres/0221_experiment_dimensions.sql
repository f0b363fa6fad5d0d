-- Attributes of the context by which the results of the experiment are broken down, as a JSON object. Null: none.
ALTER TABLE experiment_exposures ADD COLUMN attributes jsonb;
