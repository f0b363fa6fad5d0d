-- Restrictions of a token to certain flags: JSON lists of projects, of prefixes of flag names, and of owners. Null
-- restricts nothing; a flag must satisfy all lists that are not null.
ALTER TABLE api_tokens
    ADD COLUMN projects      text,
    ADD COLUMN flag_prefixes text,
    ADD COLUMN owners        text;

DROP TRIGGER api_tokens_updated ON api_tokens;
CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at, projects, flag_prefixes, owners
    ON api_tokens FOR EACH STATEMENT EXECUTE FUNCTION api_tokens_changed();
