-- How far the sink has taken the events that a process published over HTTP, by partition of the events topic. Such an
-- event has no request's offset; it carries the process's name for this life of it (stream) and a number that grows.
-- Changed in the transaction that writes the rows, under the lock on the partition's row in sink_offsets. Not by
-- log_id: a stream is not used twice, and what is sent again may reach the topic after it was made anew.
CREATE TABLE sink_streams (
    topic      text NOT NULL,
    partition  integer NOT NULL,
    stream     bigint NOT NULL,
    -- The last event taken: what does not come after it was taken before.
    number     bigint NOT NULL,
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (topic, partition, stream)
) WITH (fillfactor = 50);
