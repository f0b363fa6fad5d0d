-- The token with which a token was made over HTTP; null for one made with the bootstrap token or on the command line.
-- A token ends when its maker is revoked or expires.
ALTER TABLE api_tokens ADD COLUMN made_by text;

CREATE INDEX api_tokens_made_by ON api_tokens (made_by) WHERE made_by IS NOT NULL;
