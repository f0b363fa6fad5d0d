-- Since when the outcomes of a flag are known, and when it was off last: whether it is always on is seen in its own row.
ALTER TABLE feature_flags ADD COLUMN outcomes_since timestamptz, ADD COLUMN last_off_at timestamptz;
