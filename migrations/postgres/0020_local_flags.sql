-- Flags that are managed here, and who changed them.

-- One row per name and environment. A flag that was deleted keeps its row, so that a deletion is told from a loss.
CREATE TABLE local_flags (
    environment text NOT NULL,
    name        text NOT NULL,
    -- The number of its last change.
    revision    bigint NOT NULL,
    -- What the flag says, without name and environment.
    document    jsonb NOT NULL,
    -- Who changed it last.
    actor       text NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    deleted_at  timestamptz,
    PRIMARY KEY (environment, name)
);

-- Every change, in the transaction that made it. Only ever added to.
CREATE TABLE feature_flag_changes (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment text NOT NULL,
    flag_name   text NOT NULL,
    -- created, updated or deleted.
    action      text NOT NULL,
    actor       text NOT NULL,
    reason      text,
    before      jsonb,
    after       jsonb,
    changed_at  timestamptz NOT NULL
);

CREATE INDEX feature_flag_changes_flag ON feature_flag_changes (flag_name, environment, id);

-- What Unleash says about a flag beside its definition.
ALTER TABLE feature_flags ADD COLUMN type text, ADD COLUMN project text, ADD COLUMN owner text;
