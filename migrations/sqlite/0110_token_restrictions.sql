-- The same as in Postgres.
ALTER TABLE api_tokens ADD COLUMN projects TEXT;
ALTER TABLE api_tokens ADD COLUMN flag_prefixes TEXT;
ALTER TABLE api_tokens ADD COLUMN owners TEXT;

DROP TRIGGER api_tokens_updated;
CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at, projects, flag_prefixes, owners
    ON api_tokens
BEGIN
    UPDATE api_token_revision SET number = number + 1;
END;
