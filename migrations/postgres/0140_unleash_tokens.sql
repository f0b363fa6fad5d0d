-- Tokens of Unleash's SDKs that Unleash has validated. Only their SHA-256 is stored. `projects` is a JSON list; null
-- means all projects. `validated_ms` is the time of the last validation, in milliseconds since 1970.
CREATE TABLE unleash_tokens (
    token_hash   text PRIMARY KEY,
    kind         text NOT NULL,
    environment  text NOT NULL,
    projects     text,
    validated_ms bigint NOT NULL
);

-- SDKs that a token of this service is for: `backend` or `frontend`; null means both.
ALTER TABLE api_tokens ADD COLUMN kind text;

DROP TRIGGER api_tokens_updated ON api_tokens;
CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at, projects, flag_prefixes, owners,
        kind
    ON api_tokens FOR EACH STATEMENT EXECUTE FUNCTION api_tokens_changed();
