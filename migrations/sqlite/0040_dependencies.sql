-- Local flags may depend on each other. Changes of who depends on whom are made one after the other: of two that would be
-- a cycle only together, the second one sees the first.
CREATE TABLE local_flag_dependencies (
    -- Counted up by each such change, which so waits for the one before.
    changes integer NOT NULL
);

INSERT INTO local_flag_dependencies (changes) VALUES (0);
