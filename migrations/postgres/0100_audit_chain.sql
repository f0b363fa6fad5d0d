-- Hash chains over the audit trail. Who changes a row afterwards leaves a difference that `flagstream audit verify` reports.

-- One chain per partition of an events topic; number and hash are those of its last block. Blocks up to pruned_number were removed
-- together with their rows, because of their age.
CREATE TABLE audit_chains (
    chain     bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    topic     text NOT NULL,
    partition integer NOT NULL,
    number    bigint NOT NULL DEFAULT 0,
    hash      bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    pruned_number bigint NOT NULL DEFAULT 0,
    pruned_hash   bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex'),
    UNIQUE (topic, partition)
) WITH (fillfactor = 50);

-- A batch adds one block for each partition that brought it rows. Times are microseconds since 1970.
CREATE TABLE audit_blocks (
    chain              bigint NOT NULL,
    number             bigint NOT NULL,
    from_offset        bigint NOT NULL,
    to_offset          bigint NOT NULL,
    rows               bigint NOT NULL,
    first_evaluated_at bigint NOT NULL,
    last_evaluated_at  bigint NOT NULL,
    rows_digest        bytea NOT NULL,
    hash               bytea NOT NULL,
    written_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (chain, number)
);

-- Blocks are compared with their rows by the hour in which they were written.
CREATE INDEX audit_blocks_written ON audit_blocks USING brin (written_at);

-- Chain and block of a row: chain * 2^40 + number. Null for rows from before the chain.
ALTER TABLE feature_flag_evaluations ADD COLUMN audit_block bigint;

-- Rows that an erasure removed (replaced_by is null) or anonymised. The digest still counts in the row's block.
CREATE TABLE audit_erased_rows (
    audit_block bigint NOT NULL,
    digest      bytea NOT NULL,
    replaced_by bytea,
    erasure_id  text NOT NULL
);

CREATE INDEX audit_erased_rows_block ON audit_erased_rows (audit_block);

-- The change logs have a chain each, one link per row. The link is added by a trigger, so that every writer is covered.
CREATE TABLE audit_change_heads (
    log    text PRIMARY KEY,
    number bigint NOT NULL DEFAULT 0,
    hash   bytea NOT NULL DEFAULT decode(repeat('00', 32), 'hex')
);

INSERT INTO audit_change_heads (log) VALUES ('feature_flag_changes'), ('audited_changes');

CREATE TABLE audit_change_links (
    log        text NOT NULL,
    number     bigint NOT NULL,
    row_id     bigint NOT NULL,
    row_digest bytea NOT NULL,
    hash       bytea NOT NULL,
    PRIMARY KEY (log, number)
);

-- What an erasure made of an entry of a change log: the digest of the row as it is now.
CREATE TABLE audit_erased_changes (
    log        text NOT NULL,
    row_id     bigint NOT NULL,
    row_digest bytea NOT NULL,
    erasure_id text NOT NULL
);

-- A text behind its length in bytes; a minus where there is none. Fields so written cannot be taken for one another.
CREATE FUNCTION audit_sized(value text) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT coalesce(octet_length(convert_to(value, 'UTF8')) || ':' || value, '-') $$;

CREATE FUNCTION audit_time(value timestamptz) RETURNS text LANGUAGE sql STABLE AS
    $$ SELECT audit_sized(to_char(value AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US')) $$;

CREATE FUNCTION audit_text(change feature_flag_changes) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT audit_sized(change.id::text) || audit_sized(change.environment) || audit_sized(change.flag_name)
        || audit_sized(change.action) || audit_sized(change.actor) || audit_sized(change.reason)
        || audit_sized(change.before::text) || audit_sized(change.after::text) || audit_time(change.changed_at)
        || audit_sized(change.change_id) || audit_sized(change.version::text)
$$;

CREATE FUNCTION audit_text(change audited_changes) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT audit_sized(change.id::text) || audit_sized(change.kind) || audit_sized(change.subject)
        || audit_sized(change.action) || audit_sized(change.actor) || audit_sized(change.reason)
        || audit_sized(change.before::text) || audit_sized(change.after::text) || audit_time(change.changed_at)
$$;

CREATE FUNCTION audit_link_change() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    head   audit_change_heads%ROWTYPE;
    digest bytea;
BEGIN
    digest := sha256(convert_to(audit_text(NEW), 'UTF8'));
    -- The lock makes links follow one another.
    UPDATE audit_change_heads SET number = audit_change_heads.number + 1, hash = sha256(audit_change_heads.hash || digest)
        WHERE log = TG_TABLE_NAME RETURNING * INTO head;
    INSERT INTO audit_change_links (log, number, row_id, row_digest, hash)
        VALUES (TG_TABLE_NAME, head.number, NEW.id, digest, head.hash);
    RETURN NULL;
END $$;

-- Entries from before the chain are linked now, in their order.
DO $$
DECLARE
    change feature_flag_changes%ROWTYPE;
    other  audited_changes%ROWTYPE;
    digest bytea;
BEGIN
    FOR change IN SELECT * FROM feature_flag_changes ORDER BY id LOOP
        digest := sha256(convert_to(audit_text(change), 'UTF8'));
        UPDATE audit_change_heads SET number = number + 1, hash = sha256(hash || digest) WHERE log = 'feature_flag_changes';
        INSERT INTO audit_change_links SELECT log, number, change.id, digest, hash FROM audit_change_heads
            WHERE log = 'feature_flag_changes';
    END LOOP;
    FOR other IN SELECT * FROM audited_changes ORDER BY id LOOP
        digest := sha256(convert_to(audit_text(other), 'UTF8'));
        UPDATE audit_change_heads SET number = number + 1, hash = sha256(hash || digest) WHERE log = 'audited_changes';
        INSERT INTO audit_change_links SELECT log, number, other.id, digest, hash FROM audit_change_heads
            WHERE log = 'audited_changes';
    END LOOP;
END $$;

CREATE TRIGGER audit_link AFTER INSERT ON feature_flag_changes FOR EACH ROW EXECUTE FUNCTION audit_link_change();
CREATE TRIGGER audit_link AFTER INSERT ON audited_changes FOR EACH ROW EXECUTE FUNCTION audit_link_change();

-- A guard against accidents and against SQL written elsewhere; the chain finds whoever goes around it.
CREATE FUNCTION audit_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF current_setting('flagstream.erasure', true) = 'on' THEN
        RETURN coalesce(NEW, OLD);
    END IF;
    RAISE EXCEPTION '% is append-only: % is refused. To remove personal data, use "flagstream erase".', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'insufficient_privilege';
END $$;

CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON feature_flag_changes
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audited_changes
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_blocks
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();
CREATE TRIGGER audit_append_only BEFORE UPDATE OR DELETE ON audit_change_links
    FOR EACH ROW EXECUTE FUNCTION audit_append_only();

-- What the last checkpoint in Kafka said.
CREATE TABLE audit_checkpoint (
    one          boolean PRIMARY KEY DEFAULT true CHECK (one),
    digest       bytea,
    published_at timestamptz
);

INSERT INTO audit_checkpoint (digest) VALUES (NULL);
