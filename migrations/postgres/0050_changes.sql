-- Changes of kill switches stand beside those of local flags. They come from the events topic, whose reader may see one
-- twice; a change of a local flag has neither id nor version.
ALTER TABLE feature_flag_changes ADD COLUMN change_id text, ADD COLUMN version bigint;
CREATE UNIQUE INDEX feature_flag_changes_once ON feature_flag_changes (change_id);

-- Changes of everything that is not a flag, in the transaction that made them. Only ever added to.
CREATE TABLE audited_changes (
    id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    -- What kind of thing was changed, and which one.
    kind       text NOT NULL,
    subject    text NOT NULL,
    action     text NOT NULL,
    actor      text NOT NULL,
    reason     text,
    before     jsonb,
    after      jsonb,
    changed_at timestamptz NOT NULL
);

CREATE INDEX audited_changes_subject ON audited_changes (kind, subject, id);
