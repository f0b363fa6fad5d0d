-- Search by the id of a request. By a hash, like the index of users: an id may be longer than an index can hold. Evaluations
-- over HTTP have no request id.
CREATE INDEX feature_flag_evaluations_request
    ON feature_flag_evaluations (hashtextextended(request_id, 0), evaluated_at) WHERE request_id IS NOT NULL;

-- The latest changes of everything, by time.
CREATE INDEX feature_flag_changes_time ON feature_flag_changes (changed_at);
CREATE INDEX audited_changes_time ON audited_changes (changed_at);
CREATE INDEX feature_flag_versions_time ON feature_flag_versions (in_force_at);

-- Replays that were started over HTTP. Any instance shows and cancels them; the one that runs a replay writes its progress.
CREATE TABLE replays (
    id          text PRIMARY KEY,
    -- The request, as it was sent.
    request     jsonb NOT NULL,
    actor       text NOT NULL,
    instance    text NOT NULL,
    -- running, done, failed or cancelled.
    state       text NOT NULL,
    evaluations bigint NOT NULL DEFAULT 0,
    -- The part of the period that was read, in thousandths.
    progress    integer NOT NULL DEFAULT 0,
    error       text,
    report      jsonb,
    started_at  timestamptz NOT NULL,
    -- Written every second while it runs: a replay that is not is one whose instance has stopped.
    seen_at     timestamptz NOT NULL,
    ended_at    timestamptz
);

CREATE INDEX replays_started ON replays (started_at);
