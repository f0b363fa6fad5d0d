-- What evaluations of a flag came to, minute by minute: added to by the sink, in the transaction of their rows. Minutes
-- that are old become hours, and these days, so that nothing is counted twice and a question sums what is there.
CREATE TABLE feature_flag_usage (
    environment text NOT NULL,
    flag_name   text NOT NULL,
    -- 60, 3600 or 86400.
    seconds     integer NOT NULL,
    -- When it begins: seconds since 1970.
    starts_at   bigint NOT NULL,
    -- Empty where there was none.
    variant     text NOT NULL,
    evaluations bigint NOT NULL,
    enabled     bigint NOT NULL,
    errors      bigint NOT NULL,
    -- How many of the evaluations were timed, and how long these took.
    timed       bigint NOT NULL,
    nanoseconds bigint NOT NULL,
    PRIMARY KEY (environment, flag_name, seconds, starts_at, variant)
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.05);

-- To find what is old. Nothing in it changes when counts do.
CREATE INDEX feature_flag_usage_age ON feature_flag_usage (seconds, starts_at);
