-- The same as in Postgres.
ALTER TABLE api_tokens ADD COLUMN made_by TEXT;

CREATE INDEX api_tokens_made_by ON api_tokens (made_by) WHERE made_by IS NOT NULL;
