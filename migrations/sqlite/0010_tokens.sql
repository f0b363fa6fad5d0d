-- The same table as in Postgres: times as RFC 3339 texts in UTC.

CREATE TABLE api_tokens (
    id           TEXT PRIMARY KEY,
    name         TEXT NOT NULL,
    secret_hash  BLOB NOT NULL,
    scopes       TEXT NOT NULL,
    environments TEXT,
    created_at   TEXT NOT NULL,
    expires_at   TEXT,
    revoked_at   TEXT,
    last_used_at TEXT
);

CREATE INDEX api_tokens_created ON api_tokens (created_at, id);

CREATE TABLE api_token_revision (
    one    INTEGER PRIMARY KEY DEFAULT 1 CHECK (one = 1),
    number INTEGER NOT NULL
);

INSERT INTO api_token_revision (number) VALUES (0);

CREATE TRIGGER api_tokens_inserted AFTER INSERT ON api_tokens
BEGIN
    UPDATE api_token_revision SET number = number + 1;
END;

CREATE TRIGGER api_tokens_deleted AFTER DELETE ON api_tokens
BEGIN
    UPDATE api_token_revision SET number = number + 1;
END;

CREATE TRIGGER api_tokens_updated
    AFTER UPDATE OF id, name, secret_hash, scopes, environments, expires_at, revoked_at ON api_tokens
BEGIN
    UPDATE api_token_revision SET number = number + 1;
END;
