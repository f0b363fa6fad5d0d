-- The same as in Postgres.
CREATE TABLE unleash_tokens (
    token_hash   TEXT PRIMARY KEY,
    kind         TEXT NOT NULL,
    environment  TEXT NOT NULL,
    projects     TEXT,
    validated_ms INTEGER NOT NULL
);

ALTER TABLE api_tokens ADD COLUMN kind TEXT;

DROP TRIGGER api_tokens_updated;
CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at, projects, flag_prefixes, owners,
        kind
    ON api_tokens
BEGIN
    UPDATE api_token_revision SET number = number + 1;
END;
