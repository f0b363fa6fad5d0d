-- API tokens. A secret is never stored, only its SHA-256.

CREATE TABLE api_tokens (
    id           text PRIMARY KEY,
    name         text NOT NULL,
    secret_hash  bytea NOT NULL,
    -- Names with commas.
    scopes       text NOT NULL,
    -- A JSON list of names; null stands for all.
    environments text,
    created_at   timestamptz NOT NULL,
    expires_at   timestamptz,
    revoked_at   timestamptz,
    -- Of the last minute or so.
    last_used_at timestamptz
);

CREATE INDEX api_tokens_created ON api_tokens (created_at, id);

-- Counts changes of what is valid, so that instances can look every second whether anything has changed. The row's lock
-- makes changes follow one another: who reads a number has all changes up to it.
CREATE TABLE api_token_revision (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    number bigint NOT NULL
);

INSERT INTO api_token_revision (number) VALUES (0);

CREATE FUNCTION api_tokens_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE api_token_revision SET number = number + 1;
    RETURN NULL;
END $$;

-- By triggers, so that a change by hand counts too. That a token was used is no change.
CREATE TRIGGER api_tokens_changed AFTER INSERT OR DELETE OR TRUNCATE ON api_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION api_tokens_changed();
CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at ON api_tokens
    FOR EACH STATEMENT EXECUTE FUNCTION api_tokens_changed();
