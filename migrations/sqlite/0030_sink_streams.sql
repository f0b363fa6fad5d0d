-- How far the sink has taken the events that a process published over HTTP.

CREATE TABLE sink_streams (
    topic      TEXT NOT NULL,
    partition  INTEGER NOT NULL,
    stream     INTEGER NOT NULL,
    number     INTEGER NOT NULL,
    updated_at TEXT NOT NULL,
    PRIMARY KEY (topic, partition, stream)
);
