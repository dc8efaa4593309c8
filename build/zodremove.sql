-- Rendered by "zodan-sql build" from sql/templates/pages/zodremove.sql.j2: do not edit.
-- Zodan 0.1.0: CALL spock.remove_node(...). Load with psql; twice does no harm.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL transaction_read_only TO off;
SELECT pg_catalog.set_config('spock.enable_ddl_replication', 'off', true),
       pg_catalog.set_config('spock.include_ddl_repset', 'off', true),
       pg_catalog.set_config('client_min_messages', 'warning', true),
       -- PostgreSQL parses a routine when it checks it, and when it runs.
       pg_catalog.set_config('standard_conforming_strings', 'on', true) \g /dev/null

DO $zodan$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'dblink')
       AND EXISTS (SELECT FROM pg_catalog.pg_available_extensions AS a WHERE a.name = 'dblink') THEN
        CREATE EXTENSION dblink;
    END IF;
END
$zodan$;

DO $zodan$
DECLARE
    v_spock text := (SELECT e.extversion FROM pg_catalog.pg_extension AS e WHERE e.extname = 'spock');
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int < 150000 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD102',
            MESSAGE = 'Zodan needs PostgreSQL 15 or later',
            HINT = 'Load it on a newer server.';
    ELSIF v_spock IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD102',
            MESSAGE = pg_catalog.format('Zodan needs Spock in database "%s"', pg_catalog.current_database()),
            HINT = 'Run CREATE EXTENSION spock first.';
    ELSIF pg_catalog.regexp_split_to_array(pg_catalog.substring(v_spock, '^[0-9.]+'),
        '\.')::int[] < '{5,0,7}' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD102',
            MESSAGE = pg_catalog.format('Zodan needs Spock 5.0.7 or later, this is %s', v_spock),
            HINT = 'Install a newer Spock, then run ALTER EXTENSION spock UPDATE.';
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'dblink') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD102',
            MESSAGE = pg_catalog.format('Zodan needs dblink in database "%s"', pg_catalog.current_database()),
            HINT = 'Run CREATE EXTENSION dblink first.';
    END IF;
END
$zodan$;

DO $zodan$
DECLARE
    v_routine regprocedure;
    v_open record;
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'zodan') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD103',
            MESSAGE = pg_catalog.format('Zodan is installed as an extension in database "%s"',
                pg_catalog.current_database()),
            HINT = 'Use ALTER EXTENSION zodan UPDATE, or DROP EXTENSION zodan first.';
    END IF;
    -- Routines of another version go first, all of them: a mixture of two versions must not run. The same goes for another
    -- build of this version, whose routines may have other arguments.
    IF pg_catalog.to_regprocedure('zodan.version()') IS NOT NULL THEN
        IF zodan.version() <> '0.1.0' OR pg_catalog.to_regclass('zodan.sample') IS NULL
            OR coalesce(pg_catalog.obj_description(pg_catalog.to_regnamespace('zodan')::oid, 'pg_namespace'), '')
                NOT LIKE '%, build c426b1a4:%' THEN
            IF pg_catalog.string_to_array(zodan.version(), '.')::int[] > pg_catalog.string_to_array('0.1.0',
                '.')::int[] THEN
                RAISE EXCEPTION USING
                    ERRCODE = 'ZD104',
                    MESSAGE = pg_catalog.format('Zodan %s is in database "%s", and this is %s', zodan.version(),
                        pg_catalog.current_database(), '0.1.0'),
                    HINT = 'Load the scripts of that version, or a later one.';
            END IF;
            IF pg_catalog.to_regclass('zodan.operation') IS NOT NULL THEN
                SELECT o.operation_id, o.kind, o.node INTO v_open FROM zodan.operation AS o
                 WHERE o.state IN ('running', 'failed')
                   AND NOT EXISTS (SELECT FROM zodan.operation AS l WHERE l.kind = o.kind AND l.node = o.node
                       AND l.operation_id > o.operation_id)
                 ORDER BY o.operation_id LIMIT 1;
                IF FOUND THEN
                    RAISE EXCEPTION USING
                        ERRCODE = 'ZD105',
                        MESSAGE = pg_catalog.format('%s of node "%s", operation %s of Zodan %s, is not finished',
                            v_open.kind, v_open.node, v_open.operation_id, zodan.version()),
                        HINT = pg_catalog.format('Run CALL zodan.resume(%1$s) or CALL zodan.rollback(%1$s), then load this version.',
                        v_open.operation_id);
                END IF;
            END IF;
            FOR v_routine IN
                SELECT p.oid FROM pg_catalog.pg_proc AS p
                 WHERE p.pronamespace = pg_catalog.to_regnamespace('zodan')
                    OR p.pronamespace = 'spock'::regnamespace AND p.proname IN ('add_node', 'remove_node',
                        'health_check')
                 -- The youngest first: a default of one routine may name an older one.
                 ORDER BY p.oid DESC
            LOOP
                EXECUTE pg_catalog.format('DROP ROUTINE %s', v_routine);
            END LOOP;
            RAISE WARNING 'another version or build of Zodan was here: load both scripts, zodan.sql and zodremove.sql';
        END IF;
    END IF;
END
$zodan$;

CREATE SCHEMA IF NOT EXISTS zodan;
REVOKE ALL ON SCHEMA zodan FROM PUBLIC;
COMMENT ON SCHEMA zodan IS 'Zodan 0.1.0, build c426b1a4: adds nodes to a Spock cluster and removes them.';

CREATE OR REPLACE FUNCTION zodan.version()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT '0.1.0'
$zodan$;
COMMENT ON FUNCTION zodan.version IS
'Returns the version of Zodan that is loaded.';
REVOKE ALL ON FUNCTION zodan.version FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.decode_percent(p_text text)
RETURNS text
LANGUAGE plpgsql STABLE STRICT
AS $zodan$
/* Decodes the percent encoding of a connection URI: %20 is a space, bytes above 7F are UTF-8. Errors: ZD001 for a
percent sign without two hexadecimal digits after it, or bytes that are not text. */
DECLARE
    v_hex text;
BEGIN
    IF p_text ~ '%(?![0-9A-Fa-f]{2})' OR p_text ~ '%00' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection URI has a malformed percent encoding',
            HINT = 'Write a literal percent sign as %25.';
    END IF;
    SELECT pg_catalog.string_agg(CASE
               WHEN m.piece[1] ~ '^%[0-9A-Fa-f]{2}$' THEN pg_catalog.substr(m.piece[1], 2)
               ELSE pg_catalog.encode(pg_catalog.convert_to(m.piece[1], 'UTF8'), 'hex')
           END, '' ORDER BY m.place)
      INTO v_hex
      FROM pg_catalog.regexp_matches(p_text, '%[0-9A-Fa-f]{2}|[^%]+', 'g') WITH ORDINALITY AS m(piece, place);
    RETURN pg_catalog.convert_from(pg_catalog.decode(coalesce(v_hex, ''), 'hex'), 'UTF8');
EXCEPTION WHEN character_not_in_repertoire OR untranslatable_character THEN
    -- PostgreSQL's own message would show the bytes.
    RAISE EXCEPTION USING
        ERRCODE = 'ZD001',
        MESSAGE = 'the percent encoding of a connection URI is no text in UTF-8',
        HINT = 'Encode special characters as UTF-8 first, then percent-encode the bytes.';
END
$zodan$;
COMMENT ON FUNCTION zodan.decode_percent IS
'Decodes the percent encoding of a connection URI: %20 is a space, bytes above 7F are UTF-8. Errors: ZD001 for a
percent sign without two hexadecimal digits after it, or bytes that are not text.';
REVOKE ALL ON FUNCTION zodan.decode_percent FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.parse_dsn_keywords(p_dsn text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $zodan$
/* Reads a connection string of the form key = value ..., in any order, spaces around the = sign allowed, values
quoted or not, backslash escapes in both, as libpq does. Returns an object of strings. Errors: ZD001, which names the
place of the fault and never the text. */
DECLARE
    v_settings jsonb := '{}'::jsonb;
    v_rest text := pg_catalog.ltrim(p_dsn, E' \t\n\r\f\v');
    v_name text;
    v_match text[];
BEGIN
    WHILE v_rest <> '' LOOP
        v_match := pg_catalog.regexp_match(v_rest, '^([^= \t\n\r\f\v]+)[ \t\n\r\f\v]*=[ \t\n\r\f\v]*(.*)$', 's');
        IF v_match IS NULL THEN
            v_name := NULL;
            EXIT;
        END IF;
        v_name := v_match[1];
        v_rest := v_match[2];
        -- A quoted value ends at the first quote that no backslash precedes; a bare one at white space.
        IF pg_catalog.left(v_rest, 1) = '''' THEN
            v_match := pg_catalog.regexp_match(v_rest, '^''((?:[^''\\]|\\.)*)''(.*)$', 's');
        ELSE
            v_match := pg_catalog.regexp_match(v_rest, '^((?:[^ \t\n\r\f\v\\]|\\.|\\$)*)(.*)$', 's');
        END IF;
        IF v_match IS NULL THEN
            v_name := NULL;
            EXIT;
        END IF;
        v_settings := v_settings || pg_catalog.jsonb_build_object(
            v_name, pg_catalog.regexp_replace(v_match[1], '\\(.?)', '\1', 'gs'));
        v_rest := pg_catalog.ltrim(v_match[2], E' \t\n\r\f\v');
    END LOOP;
    IF v_rest <> '' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = pg_catalog.format('a connection string is malformed near character %s',
                        pg_catalog.char_length(p_dsn) - pg_catalog.char_length(v_rest) + 1),
            HINT = 'Write key=value pairs, and quote values that hold spaces or quotes.';
    END IF;
    RETURN v_settings;
END
$zodan$;
COMMENT ON FUNCTION zodan.parse_dsn_keywords IS
'Reads a connection string of the form key = value ..., in any order, spaces around the = sign allowed, values
quoted or not, backslash escapes in both, as libpq does. Returns an object of strings. Errors: ZD001, which names the
place of the fault and never the text.';
REVOKE ALL ON FUNCTION zodan.parse_dsn_keywords FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.parse_dsn_uri(p_dsn text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $zodan$
/* Reads a connection URI, postgresql://user:password@host:port,host:port/database?setting=value, percent encoding and
bracketed IPv6 addresses included, as libpq does. Returns an object of strings. Errors: ZD001, which never repeats the
text; also where libpq would take a piece of a password that is not percent-encoded for a host, a port or a database,
and show it. */
DECLARE
    v_settings jsonb := '{}'::jsonb;
    v_parts text[];
    v_user text[];
    v_hosts text;
    v_ports text;
    v_well_formed boolean;
    v_query text[];
    v_setting text;
    v_value text;
BEGIN
    -- scheme, credentials, hosts, database, settings
    v_parts := pg_catalog.regexp_match(p_dsn, '^postgres(?:ql)?://(?:([^@/]*)@)?([^/?]*)(?:/([^?]*))?(?:\?(.*))?$',
        's');
    IF v_parts IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection URI is malformed',
            HINT = 'Write postgresql://user@host:port/database, and percent-encode special characters.';
    END IF;
    v_user := pg_catalog.regexp_match(v_parts[1], '^([^:]*)(?::(.*))?$', 's');
    -- an address of IPv6 in brackets, or a host; a port
    SELECT pg_catalog.bool_and(h.part IS NOT NULL),
           pg_catalog.string_agg(coalesce(h.part[1], h.part[2], ''), ',' ORDER BY h.place),
           pg_catalog.string_agg(coalesce(h.part[3], ''), ',' ORDER BY h.place)
      INTO v_well_formed, v_hosts, v_ports
      FROM (SELECT pg_catalog.regexp_match(s.host, '^(?:\[([^]]+)\]|([^:[\]]*))(?::(.*))?$') AS part, s.place
              FROM pg_catalog.regexp_split_to_table(v_parts[2], ',') WITH ORDINALITY AS s(host, place)) AS h;
    IF NOT v_well_formed THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection URI has a malformed host',
            HINT = 'Write host:port, and an IPv6 address in brackets.';
    END IF;
    v_settings := pg_catalog.jsonb_strip_nulls(pg_catalog.jsonb_build_object(
        'user', zodan.decode_percent(nullif(v_user[1], '')),
        'password', zodan.decode_percent(nullif(v_user[2], '')),
        'host', zodan.decode_percent(nullif(v_hosts, '')),
        'port', zodan.decode_percent(CASE WHEN v_ports ~ '[^,]' THEN v_ports END),
        'dbname', zodan.decode_percent(nullif(v_parts[3], ''))));
    FOR v_query IN
        SELECT pg_catalog.regexp_match(q.pair, '^([^=]+)=([^=]*)$')
          FROM pg_catalog.regexp_split_to_table(
                   nullif(pg_catalog.regexp_replace(v_parts[4], '([^&])&$', '\1'), ''), '&') AS q(pair)
    LOOP
        IF v_query IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'ZD001',
                MESSAGE = 'a connection URI has a malformed setting after the ? sign',
                HINT = 'Write setting=value pairs separated by &, and percent-encode special characters.';
        END IF;
        v_setting := zodan.decode_percent(v_query[1]);
        v_value := zodan.decode_percent(v_query[2]);
        v_settings := v_settings || CASE WHEN v_setting = 'ssl' AND v_value = 'true'
            THEN pg_catalog.jsonb_build_object('sslmode', 'require')
            ELSE pg_catalog.jsonb_build_object(v_setting, v_value) END;
    END LOOP;
    IF v_parts[2] LIKE '%@%' OR v_parts[3] ~ '@[^/]*/' OR v_settings ->> 'port' !~ '^[0-9, ]*$' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection URI has an @, / or : where none belongs',
            HINT = 'Percent-encode the special characters of user and password: write %40 for @, %2F for /, %3A for :.';
    END IF;
    RETURN v_settings;
END
$zodan$;
COMMENT ON FUNCTION zodan.parse_dsn_uri IS
'Reads a connection URI, postgresql://user:password@host:port,host:port/database?setting=value, percent encoding and
bracketed IPv6 addresses included, as libpq does. Returns an object of strings. Errors: ZD001, which never repeats the
text; also where libpq would take a piece of a password that is not percent-encoded for a host, a port or a database,
and show it.';
REVOKE ALL ON FUNCTION zodan.parse_dsn_uri FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.parse_dsn(p_dsn text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $zodan$
/* Reads a connection string, keyword form or URI, by the rules of libpq. Returns its settings as an object of
strings. Errors: ZD001 when the string is malformed or names an unknown setting; the message never repeats any of the
string, because a piece of it may be a piece of a password. */
DECLARE
    v_settings jsonb;
    v_unknown int;
    c_known CONSTANT text[] := ARRAY[
        'service', 'user', 'password', 'passfile', 'channel_binding', 'connect_timeout', 'dbname', 'host', 'hostaddr',
        'port', 'client_encoding', 'options', 'application_name', 'fallback_application_name', 'keepalives',
        'keepalives_idle', 'keepalives_interval', 'keepalives_count', 'tcp_user_timeout', 'sslmode', 'sslnegotiation',
        'sslcompression', 'sslcert', 'sslkey', 'sslcertmode', 'sslpassword', 'sslrootcert', 'sslcrl', 'sslcrldir',
        'sslsni', 'requirepeer', 'require_auth', 'ssl_min_protocol_version', 'ssl_max_protocol_version', 'gssencmode',
        'krbsrvname', 'gsslib', 'gssdelegation', 'target_session_attrs', 'load_balance_hosts', 'requiressl',
        'min_protocol_version', 'max_protocol_version', 'sslkeylogfile', 'scram_client_key', 'scram_server_key',
        'oauth_issuer', 'oauth_client_id', 'oauth_client_secret', 'oauth_scope'];
BEGIN
    IF p_dsn IS NULL OR p_dsn !~ '[^ \t\n\r\f\v]' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection string is empty',
            HINT = 'Give every node a connection string such as host=... dbname=... user=...';
    END IF;
    IF p_dsn ~ '^postgres(ql)?://' THEN
        v_settings := zodan.parse_dsn_uri(p_dsn);
    ELSE
        v_settings := zodan.parse_dsn_keywords(p_dsn);
    END IF;
    SELECT pg_catalog.count(*) INTO v_unknown
      FROM pg_catalog.jsonb_object_keys(v_settings) AS k(name)
     WHERE k.name <> ALL (c_known);
    IF v_unknown > 0 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD001',
            MESSAGE = 'a connection string names a setting that PostgreSQL does not know',
            HINT = 'Check the names before each = sign, and quote values that hold spaces.';
    END IF;
    RETURN v_settings;
END
$zodan$;
COMMENT ON FUNCTION zodan.parse_dsn IS
'Reads a connection string, keyword form or URI, by the rules of libpq. Returns its settings as an object of
strings. Errors: ZD001 when the string is malformed or names an unknown setting; the message never repeats any of the
string, because a piece of it may be a piece of a password.';
REVOKE ALL ON FUNCTION zodan.parse_dsn FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.format_dsn(p_settings jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT pg_catalog.string_agg(
           s.key || '=' || CASE
               WHEN s.value ~ '^[A-Za-z0-9_./:,@+-]+$' THEN s.value
               ELSE '''' || pg_catalog.regexp_replace(s.value, '([\\''])', '\\\1', 'g') || ''''
           END, ' ' ORDER BY s.key COLLATE "C")
  FROM pg_catalog.jsonb_each_text(p_settings) AS s(key, value)
$zodan$;
COMMENT ON FUNCTION zodan.format_dsn IS
'Writes connection settings (as zodan.parse_dsn returns them) as one keyword string, every value quoted, the names
sorted, so that one node has one spelling everywhere.';
REVOKE ALL ON FUNCTION zodan.format_dsn FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.canonical_dsn(p_dsn text)
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT zodan.format_dsn(zodan.parse_dsn(p_dsn))
$zodan$;
COMMENT ON FUNCTION zodan.canonical_dsn IS
'Returns a connection string, keyword form or URI, as the one keyword string that means the same: one node has one
spelling everywhere. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.canonical_dsn FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_secrets()
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT ARRAY['password', 'sslpassword', 'scram_client_key', 'scram_server_key', 'oauth_client_secret']
$zodan$;
COMMENT ON FUNCTION zodan.list_secrets IS
'Returns the settings of a connection string whose values nobody may see.';
REVOKE ALL ON FUNCTION zodan.list_secrets FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.redact_dsn(p_dsn text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT zodan.format_dsn(zodan.parse_dsn(p_dsn) - zodan.list_secrets() - 'passfile')
$zodan$;
COMMENT ON FUNCTION zodan.redact_dsn IS
'Returns a connection string without its secrets, for people to read. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.redact_dsn FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_secrets(p_dsns jsonb)
RETURNS text[]
LANGUAGE sql STABLE
AS $zodan$
WITH parsed AS MATERIALIZED (
    SELECT zodan.parse_dsn(d.value) AS settings FROM pg_catalog.jsonb_each_text(p_dsns) AS d(key, value)
     -- Only a URI can spell the name of a setting in another way.
     WHERE d.value ~ '://|password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret')
SELECT coalesce(pg_catalog.array_agg(x.secret ORDER BY pg_catalog.char_length(x.secret) DESC, x.secret), '{}')
  FROM (SELECT DISTINCT p.settings ->> s.name
          FROM parsed AS p CROSS JOIN pg_catalog.unnest(zodan.list_secrets()) AS s(name)) AS x(secret)
 WHERE pg_catalog.char_length(x.secret) > 2
$zodan$;
COMMENT ON FUNCTION zodan.find_secrets IS
'Returns the secrets in connection strings, an object of node and string, the longest first: what zodan.mask_secrets is
to mask. One of one or two letters is not among them, because it would mask half the alphabet.';
REVOKE ALL ON FUNCTION zodan.find_secrets FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.mask_secrets(p_text text, p_secrets text[])
RETURNS text
LANGUAGE plpgsql IMMUTABLE
AS $zodan$
/* Masks every secret in a text that came from elsewhere: password settings in keyword strings and URIs, whoever they
belong to, and each of p_secrets. Returns the text with **** in their place. */
DECLARE
    v_text text := p_text;
    v_secret text;
BEGIN
    FOREACH v_secret IN ARRAY p_secrets LOOP
        v_text := pg_catalog.replace(v_text,
            zodan.format_dsn(pg_catalog.jsonb_build_object('password', v_secret)), 'password=****');
        v_text := pg_catalog.replace(v_text, v_secret, '****');
    END LOOP;
    v_text := pg_catalog.regexp_replace(v_text,
        '((?:password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret)\s*=\s*)'
        '(''(?:[^''\\]|\\.|'''')*''|''''(?:[^''\\]|\\.)*''''|(?:[^\s''"&\\]|\\.)+)', '\1****', 'gi');
    RETURN pg_catalog.regexp_replace(v_text, '(postgres(?:ql)?://[^:/@\s]*:)[^@\s]*@', '\1****@', 'gi');
END
$zodan$;
COMMENT ON FUNCTION zodan.mask_secrets IS
'Masks every secret in a text that came from elsewhere: password settings in keyword strings and URIs, whoever they
belong to, and each of p_secrets. Returns the text with **** in their place.';
REVOKE ALL ON FUNCTION zodan.mask_secrets FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.redact_text(p_text text, p_dsns jsonb DEFAULT '{}')
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT zodan.mask_secrets(p_text, zodan.find_secrets(p_dsns))
$zodan$;
COMMENT ON FUNCTION zodan.redact_text IS
'Masks every secret in a text that came from elsewhere: password settings in keyword strings and URIs, whoever they
belong to, and each password of the connection strings given (an object of node and string). Returns the text with
**** in their place.';
REVOKE ALL ON FUNCTION zodan.redact_text FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.quote_text(p_text text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE
    WHEN p_text IS NULL THEN 'NULL'
    WHEN p_text ~ '\{(dsn|result):|\$' THEN
        ' E''' || pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
            p_text, '\', '\\'), '''', ''''''), '{', '\x7b'), '$', '\x24') || ''''
    ELSE pg_catalog.quote_literal(p_text)
END
$zodan$;
COMMENT ON FUNCTION zodan.quote_text IS
'Writes a text as an SQL literal in which no placeholder can hide: a name that happens to read like {dsn:n2} stays a
name, and a name that holds a dollar quote does not end the block around it. NULL becomes NULL, spelled out.';
REVOKE ALL ON FUNCTION zodan.quote_text FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.quote_list(p_texts text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'ARRAY[' || coalesce(pg_catalog.string_agg(zodan.quote_text(t.item), ', ' ORDER BY t.place), '') || ']::text[]'
  FROM pg_catalog.unnest(p_texts) WITH ORDINALITY AS t(item, place)
$zodan$;
COMMENT ON FUNCTION zodan.quote_list IS
'Writes a list of texts as an SQL array of literals, ARRAY[...]::text[].';
REVOKE ALL ON FUNCTION zodan.quote_list FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.quote_name(p_name text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT CASE
    WHEN p_name ~ '[{$]' THEN
        'U&"' || pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(
            p_name, '\', '\\'), '"', '""'), '{', '\007b'), '$', '\0024') || '"'
    ELSE pg_catalog.quote_ident(p_name)
END
$zodan$;
COMMENT ON FUNCTION zodan.quote_name IS
'Writes an identifier, quoted if necessary, so that no placeholder can hide in it and it does not end the dollar
quote around it.';
REVOKE ALL ON FUNCTION zodan.quote_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.quote_result(p_value text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE WHEN p_value ~ '^\{(dsn|result):[^{}]*\}$' THEN p_value ELSE zodan.quote_text(p_value) END
$zodan$;
COMMENT ON FUNCTION zodan.quote_result IS
'Writes what an earlier step returned: a placeholder, as zodan.placeholder writes it, remains until the statement is
sent. Any other text becomes a literal.';
REVOKE ALL ON FUNCTION zodan.quote_result FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.placeholder(p_kind text, p_name text, p_field text DEFAULT NULL)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT '{' || p_kind || ':'
    || pg_catalog.replace(pg_catalog.replace(pg_catalog.replace(p_name, '%', '%25'), '{', '%7B'), '}', '%7D')
    || coalesce('.' || p_field, '') || '}'
$zodan$;
COMMENT ON FUNCTION zodan.placeholder IS
'Writes a placeholder: {dsn:n2} for a node''s connection string, {result:12.lsn} for what an earlier step returned.
Characters of the name that would end it early are percent-encoded.';
REVOKE ALL ON FUNCTION zodan.placeholder FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.bind_placeholders(p_sql text, p_dsns jsonb, p_results jsonb)
RETURNS text
LANGUAGE plpgsql STABLE
AS $zodan$
/* Fills the placeholders of a statement with literals just before it is sent: {dsn:n2} from p_dsns (node and
connection string), {result:12.lsn} from p_results (ordinal and result). A placeholder that nothing fills is an error,
ZD901, because no value is ever guessed. */
DECLARE
    v_sql text := '';
    v_rest text := p_sql;
    v_match text[];
    v_value text;
BEGIN
    LOOP
        v_match := pg_catalog.regexp_match(v_rest, '^(.*?)\{(dsn|result):([^}]*)\}(.*)$', 's');
        EXIT WHEN v_match IS NULL;
        IF v_match[2] = 'dsn' THEN
            v_value := p_dsns ->> zodan.decode_percent(v_match[3]);
        ELSE
            v_value := p_results #>> pg_catalog.string_to_array(v_match[3], '.');
        END IF;
        IF v_value IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'ZD901',
                MESSAGE = pg_catalog.format('nothing fills the placeholder "%s:%s"', v_match[2], v_match[3]),
                HINT = 'Report this with the rows of zodan.step.';
        END IF;
        v_sql := v_sql || v_match[1] || zodan.quote_text(v_value);
        v_rest := v_match[4];
    END LOOP;
    RETURN v_sql || v_rest;
END
$zodan$;
COMMENT ON FUNCTION zodan.bind_placeholders IS
'Fills the placeholders of a statement with literals just before it is sent: {dsn:n2} from p_dsns (node and
connection string), {result:12.lsn} from p_results (ordinal and result). A placeholder that nothing fills is an error,
ZD901, because no value is ever guessed.';
REVOKE ALL ON FUNCTION zodan.bind_placeholders FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.subscription_name(p_provider text, p_subscriber text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'sub_' || CASE
    WHEN n.pair !~ '[^a-z0-9_]' THEN n.pair
    ELSE pg_catalog.regexp_replace(pg_catalog.lower(n.pair), '[^a-z0-9_]', '_', 'g')
        || '_' || pg_catalog.left(pg_catalog.md5(p_provider || '/' || p_subscriber), 6)
END
  FROM (SELECT (p_provider || '_' || p_subscriber) COLLATE "C" AS pair) AS n
$zodan$;
COMMENT ON FUNCTION zodan.subscription_name IS
'Returns the name of the subscription by which p_subscriber receives from p_provider: sub_<provider>_<subscriber>.
Spock takes only a-z, 0-9 and _ in it; in node names anything else becomes _, and a digest keeps names apart that are
then alike. Not shortened: the caller checks that it fits the 63 bytes of a name.';
REVOKE ALL ON FUNCTION zodan.subscription_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.name_some(p_names jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.string_agg(n.name, ', ' ORDER BY n.name COLLATE "C")
    FILTER (WHERE n.place <= 10)
       || CASE WHEN pg_catalog.count(*) > 10
           THEN pg_catalog.format(' and %s more', pg_catalog.count(*) - 10) ELSE '' END
  FROM (SELECT e.name, pg_catalog.row_number() OVER (ORDER BY e.name COLLATE "C") AS place
          FROM pg_catalog.jsonb_array_elements_text(p_names) AS e(name)) AS n
$zodan$;
COMMENT ON FUNCTION zodan.name_some IS
'Writes an array of names for people: the first 10 in order, and how many there are beyond;
NULL if there are none.';
REVOKE ALL ON FUNCTION zodan.name_some FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.copy_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_copy_' || pg_catalog.left(pg_catalog.md5(p_new), 8)
$zodan$;
COMMENT ON FUNCTION zodan.copy_name IS
'Returns the name of the subscription through which a new node is copied and catches up, until its direct streams
take over.';
REVOKE ALL ON FUNCTION zodan.copy_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.clone_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan clone ' || p_new
$zodan$;
COMMENT ON FUNCTION zodan.clone_name IS
'Returns the name of the replication origin by which a new node is known as a physical copy of its source: its position
is how far the copy goes.';
REVOKE ALL ON FUNCTION zodan.clone_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.connection_name(p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_' || pg_catalog.md5(p_node)
$zodan$;
COMMENT ON FUNCTION zodan.connection_name IS
'Returns the name of the kept connection to a node, of the same length for every node name.';
REVOKE ALL ON FUNCTION zodan.connection_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.lane_name(p_node text, p_lane int)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT p_node || pg_catalog.repeat(' ', 63) || p_lane
$zodan$;
COMMENT ON FUNCTION zodan.lane_name IS
'Returns what stands for a further session on a node wherever a node''s name does: no node has a name of so many
bytes.';
REVOKE ALL ON FUNCTION zodan.lane_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.lane_node(p_name text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT pg_catalog.split_part(p_name, pg_catalog.repeat(' ', 63), 1)
$zodan$;
COMMENT ON FUNCTION zodan.lane_node IS
'Returns the node of what zodan.lane_name returned.';
REVOKE ALL ON FUNCTION zodan.lane_node FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.snapshot_name(p_operation bigint, p_phase_name text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT pg_catalog.format('zodan_snapshot_%s_%s', p_operation, p_phase_name)
$zodan$;
COMMENT ON FUNCTION zodan.snapshot_name IS
'Returns the name of the connection that holds the snapshot of a step, p_phase_name, of an operation.';
REVOKE ALL ON FUNCTION zodan.snapshot_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.keeper_name(p_snapshot text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT p_snapshot || '_kept'
$zodan$;
COMMENT ON FUNCTION zodan.keeper_name IS
'Returns the name of the connection to the session that keeps the snapshot of zodan.snapshot_name.';
REVOKE ALL ON FUNCTION zodan.keeper_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.head_name(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_head_' || pg_catalog.left(pg_catalog.md5(p_slot), 16)
$zodan$;
COMMENT ON FUNCTION zodan.head_name IS
'Returns the name of the slot by which the first transaction of the stream of p_slot is found.';
REVOKE ALL ON FUNCTION zodan.head_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.structure_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_structure_' || pg_catalog.left(pg_catalog.md5(p_new), 8)
$zodan$;
COMMENT ON FUNCTION zodan.structure_name IS
'Returns the name of the subscription through which a new node gets its structure, before its rows are copied.';
REVOKE ALL ON FUNCTION zodan.structure_name FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.name_session(p_purpose text, p_caller text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.left(p_purpose, 30) || ' by ' || p_caller
$zodan$;
COMMENT ON FUNCTION zodan.name_session IS
'Returns the application_name of a session that an operation opens on a node: what it is for, and which caller
opened it, as zodan.name_caller names that caller. If both do not fit into 63 bytes, the
purpose is cut, never the caller.';
REVOKE ALL ON FUNCTION zodan.name_session FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.name_caller(p_pid int)
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT a.pid || '.' || pg_catalog.left(pg_catalog.md5(pg_catalog.concat_ws(' ',
    extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
           pg_catalog.current_setting('port'))), 8) || '.'
               || pg_catalog.left(pg_catalog.md5(extract(epoch FROM a.backend_start)::text), 8)
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.pid = p_pid
$zodan$;
COMMENT ON FUNCTION zodan.name_caller IS
'Names a session of this server: process, a hash of the server''s life and one of when the session began. No other
session on any server has this name, now or later. NULL if it has ended, or if the caller may not see when it
began.';
REVOKE ALL ON FUNCTION zodan.name_caller FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.judge_caller(p_session text)
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN c.parts IS NULL OR pg_catalog.split_part(zodan.name_caller(pg_catalog.pg_backend_pid()), '.',
    2) <> c.parts[2] THEN 'unknown'
            WHEN zodan.name_caller(c.parts[1]::int) = pg_catalog.array_to_string(c.parts, '.') THEN 'alive'
            WHEN zodan.name_caller(c.parts[1]::int) IS NULL AND EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.pid = c.parts[1]::int) THEN 'unknown'
            ELSE 'dead' END
  FROM (SELECT pg_catalog.regexp_match(p_session, ' by (\d+)\.([0-9a-f]{8})\.([0-9a-f]{8})$') AS parts) AS c
$zodan$;
COMMENT ON FUNCTION zodan.judge_caller IS
'Returns what has become of the caller of a session, by the session''s application_name, made by zodan.name_session:
alive or dead if the caller is a session of this server, in its present life; unknown if it is of another.';
REVOKE ALL ON FUNCTION zodan.judge_caller FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.set_session()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.concat(
    -- Statements carry connection strings: keep them out of the server's log and statistics where the role may.
    CASE WHEN (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user) THEN pg_catalog.concat(
        pg_catalog.set_config('log_statement', 'none', false),
        pg_catalog.set_config('log_min_error_statement', 'panic', false),
        -- Spock's DETAIL of a failed connection is the connection string.
        pg_catalog.set_config('log_error_verbosity', 'terse', false),
        pg_catalog.set_config('log_min_duration_statement', '-1', false),
        pg_catalog.set_config('log_min_duration_sample', '-1', false),
        pg_catalog.set_config('log_transaction_sample_rate', '0', false),
        pg_catalog.set_config('auto_explain.log_min_duration', '-1', false),
        -- Autovacuum makes way for whoever has waited this long for its lock.
        pg_catalog.set_config('deadlock_timeout', '100ms', false),
        pg_catalog.set_config('temp_file_limit', '-1', false),
        pg_catalog.set_config('pg_stat_statements.track', 'none', false)) END,
    pg_catalog.set_config('search_path', 'pg_catalog', false),
    pg_catalog.set_config('statement_timeout', '0', false),
    pg_catalog.set_config('lock_timeout', '0', false),
    CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 170000
         THEN pg_catalog.set_config('transaction_timeout', '0', false) END,
    pg_catalog.set_config('idle_session_timeout', '0', false),
    pg_catalog.set_config('idle_in_transaction_session_timeout', '0', false),
    -- These statements are long and read little: compiling one takes seconds.
    pg_catalog.set_config('jit', 'off', false),
    pg_catalog.set_config('standard_conforming_strings', 'on', false),
    -- What changes how functions print or parse: one spelling of a value on every node, whatever is set there.
    pg_catalog.set_config('quote_all_identifiers', 'off', false),
    pg_catalog.set_config('DateStyle', 'ISO, YMD', false),
    pg_catalog.set_config('IntervalStyle', 'postgres', false),
    pg_catalog.set_config('TimeZone', 'UTC', false),
    pg_catalog.set_config('extra_float_digits', '1', false),
    pg_catalog.set_config('bytea_output', 'hex', false),
    pg_catalog.set_config('xmlbinary', 'base64', false),
    pg_catalog.set_config('xmloption', 'content', false),
    pg_catalog.set_config('lc_monetary', 'C', false),
    pg_catalog.set_config('array_nulls', 'on', false),
    pg_catalog.set_config('transform_null_equals', 'off', false),
    pg_catalog.set_config('default_transaction_isolation', 'read committed', false),
    pg_catalog.set_config('default_transaction_deferrable', 'off', false),
    pg_catalog.set_config('client_connection_check_interval', '1s', false),
    -- A caller whose host is gone without a word is noticed in seconds, not in hours.
    pg_catalog.set_config('tcp_keepalives_idle', '10', false),
    pg_catalog.set_config('tcp_keepalives_interval', '5', false),
    pg_catalog.set_config('tcp_keepalives_count', '2', false),
    pg_catalog.set_config('tcp_user_timeout', '20s', false),
    pg_catalog.set_config('spock.enable_ddl_replication', 'off', false),
    pg_catalog.set_config('spock.include_ddl_repset', 'off', false))$sql$
$zodan$;
COMMENT ON FUNCTION zodan.set_session IS
'Makes a session on a node one that logs nothing, has no time limit, prints and parses values as every other one,
and ends soon after its caller is gone.';
REVOKE ALL ON FUNCTION zodan.set_session FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_waits(p_caller text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(
           (SELECT pg_catalog.string_agg(DISTINCT coalesce(
                       pg_catalog.format('process %%s (%%s, %%s, %%s, in a transaction for %%s, since %%s)', h.pid, h.usename,
                           coalesce(nullif(h.application_name, ''), h.backend_type), h.state,
                           pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - h.xact_start),
                           pg_catalog.date_trunc('second', h.xact_start)),
                       (SELECT pg_catalog.string_agg(pg_catalog.format('prepared transaction %%s (%%s, for %%s, since %%s)',
                                   x.gid, x.owner,
                                   pg_catalog.date_trunc('second', pg_catalog.clock_timestamp() - x.prepared),
                                   pg_catalog.date_trunc('second', x.prepared)), ', ')
                          FROM pg_catalog.pg_prepared_xacts AS x WHERE b.pid = 0), 'process ' || b.pid), ', ')
              FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) AS b(pid)
              LEFT JOIN pg_catalog.pg_stat_activity AS h ON h.pid = b.pid),
           a.wait_event_type || ' ' || a.wait_event) AS found
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.state = 'active' AND a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND pg_catalog.right(a.application_name, pg_catalog.length(%1$s)) = %1$s
 LIMIT 1$sql$,
    zodan.quote_text(p_caller))
$zodan$;
COMMENT ON FUNCTION zodan.find_waits IS
'Reports what the statement waits for that is under way in the session whose application_name ends with p_caller:
processes and prepared transactions that hold a lock, or an event. It returns one row: found; none where there is no
such session.';
REVOKE ALL ON FUNCTION zodan.find_waits FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.set_keeper()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.concat(pg_catalog.set_config('client_connection_check_interval', '0', false),
    CASE WHEN pg_catalog.current_setting('is_superuser') = 'on'
         THEN pg_catalog.set_config('log_min_messages', 'panic', false) END)$sql$
$zodan$;
COMMENT ON FUNCTION zodan.set_keeper IS
'Makes a session on the source one that can keep a snapshot when its caller is gone: it does not look for it. Nobody
needs to read in the server''s log that it was ended.';
REVOKE ALL ON FUNCTION zodan.set_keeper FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.keep_snapshot(p_subscription text, p_lsn text, p_kept text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT e.snapshot, pg_catalog.set_config('application_name', pg_catalog.concat_ws(' ',
           'zodan snapshot', pg_catalog.right(%1$s, 8), e.snapshot, %2$s), false) AS name
  FROM (SELECT pg_catalog.pg_export_snapshot() AS snapshot) AS e
 WHERE pg_catalog.length(%3$s) = 0 OR EXISTS (
       SELECT FROM pg_catalog.pg_stat_get_activity(NULL) AS a
        WHERE a.datid = (SELECT o.datid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS o)
          AND a.application_name = pg_catalog.concat_ws(' ',
              'zodan snapshot', pg_catalog.right(%1$s, 8), %3$s, %2$s))$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_lsn), zodan.quote_text(p_kept))
$zodan$;
COMMENT ON FUNCTION zodan.keep_snapshot IS
'Exports, in a session that keeps a snapshot of the source for the copy p_subscription, the snapshot of its
transaction, which is at p_lsn, and names the session after all three. p_kept is the snapshot that the transaction was
given, if the journal has it from a session that kept it before; '''' if it is the caller''s own. It returns one row:
snapshot and name; none if that session has ended: after a crash of the server, another snapshot may have the same
name. No table is read here, as the transaction would hold a lock on it.';
REVOKE ALL ON FUNCTION zodan.keep_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.outlive_caller(p_caller text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '600 s';
BEGIN
    WHILE pg_catalog.clock_timestamp() < v_until LOOP
        PERFORM pg_catalog.pg_sleep(1);
        PERFORM pg_catalog.pg_stat_clear_snapshot();
        IF EXISTS (SELECT FROM pg_catalog.pg_stat_get_activity(NULL) AS a
                    WHERE a.pid <> pg_catalog.pg_backend_pid()
                      AND pg_catalog.right(a.application_name, pg_catalog.length(%1$s)) = %1$s) THEN
            v_until := pg_catalog.clock_timestamp() + interval '600 s';
        END IF;
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_caller))
$zodan$;
COMMENT ON FUNCTION zodan.outlive_caller IS
'Keeps the transaction of a session open as long as its caller, p_caller as zodan.name_caller names it, has another
session on this server, and 600 s longer.';
REVOKE ALL ON FUNCTION zodan.outlive_caller FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.end_snapshots(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) AS ended
  FROM pg_catalog.pg_stat_get_activity(NULL) AS a
 WHERE a.pid <> pg_catalog.pg_backend_pid()
   AND a.datid = (SELECT o.datid FROM pg_catalog.pg_stat_get_activity(pg_catalog.pg_backend_pid()) AS o)
   AND pg_catalog.starts_with(a.application_name, pg_catalog.concat('zodan snapshot ',
       pg_catalog.right(%1$s, 8), ' '))
   AND pg_catalog.pg_has_role(a.usesysid, 'USAGE')$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.end_snapshots IS
'Ends the other sessions that keep a snapshot of this database for the copy p_subscription, and returns how many. No
table is read here either, see zodan.keep_snapshot.';
REVOKE ALL ON FUNCTION zodan.end_snapshots FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.probe(p_targets text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_targets jsonb := %1$s;
    v_faults jsonb := '{}'::jsonb;
    v_schema text;
    v_node text;
    v_target jsonb;
    v_kind text;
    v_mode text;
    v_fault text;
    v_string text;
    v_who text;
    v_place text;
BEGIN
    -- Only the caller needs to know of the error that ends this.
    PERFORM pg_catalog.set_config('log_min_messages', 'panic', true);
    SELECT e.extnamespace::regnamespace::text INTO v_schema FROM pg_catalog.pg_extension AS e
        WHERE e.extname = 'dblink';
    IF v_schema IS NULL THEN
        -- Not the extension itself: the caller may be about to create it here.
        v_schema := 'pg_temp';
        FOR v_kind, v_mode IN VALUES
            ('dblink_connect(text, text) RETURNS text', 'dblink_connect'), ('dblink_disconnect(text) RETURNS text', 'dblink_disconnect'),
            ('dblink(text, text) RETURNS SETOF record', 'dblink_record')
        LOOP
            EXECUTE pg_catalog.format('CREATE FUNCTION pg_temp.%%s LANGUAGE c STRICT AS ''$libdir/dblink'', %%L', v_kind, v_mode);
        END LOOP;
    END IF;
    FOR v_node, v_target, v_kind, v_mode IN
        SELECT t.key, t.value, m.kind, m.mode FROM pg_catalog.jsonb_each(v_targets) AS t(key, value)
         CROSS JOIN (VALUES (1, 'connection', ''), (2, 'replication', ' replication=database')) AS m(place, kind, mode)
             ORDER BY t.key, m.place
    LOOP
        -- A node that cannot be reached plainly is not tried again: each try may last 10
        -- s.
        CONTINUE WHEN v_faults #>> ARRAY[v_node, 'connection'] IS NOT NULL;
        v_fault := NULL;
        v_string := (v_target ->> 'dsn') || ' connect_timeout=10' || v_mode;
        BEGIN
            IF v_kind = 'connection' THEN
                -- In a connection that ends with the query, however that ends.
                EXECUTE pg_catalog.concat('SELECT w.who, w.place FROM ', v_schema,
                    '.dblink($1, $2) AS w(who text, place text)') INTO v_who, v_place
                  USING v_string, $query$
                          SELECT pg_catalog.concat_ws(':',
    pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    extract(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.current_setting('port')),
    (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())), pg_catalog.format('database "%%s" of the server at %%s, port %%s',
                              pg_catalog.current_database(), coalesce(pg_catalog.host(pg_catalog.inet_server_addr()),
                                  'a socket'),
                              pg_catalog.current_setting('port'))$query$;
                v_faults := v_faults || pg_catalog.jsonb_build_object(v_node, CASE WHEN v_target ->> 'who' IS NULL
                    THEN '{}'
                    ELSE pg_catalog.jsonb_build_object('identity', CASE WHEN v_who <> v_target ->> 'who'
                        THEN 'another one: ' || v_place END) END);
            ELSE
                EXECUTE pg_catalog.concat('SELECT ', v_schema, '.dblink_connect($1, $2)') USING 'zodan_probe', v_string;
                EXECUTE pg_catalog.concat('SELECT ', v_schema, '.dblink_disconnect($1)') USING 'zodan_probe';
            END IF;
        EXCEPTION WHEN OTHERS THEN
            GET STACKED DIAGNOSTICS v_fault = PG_EXCEPTION_DETAIL;
            v_fault := pg_catalog.concat_ws(': ', SQLERRM, v_fault);
        END;
        v_faults := v_faults || pg_catalog.jsonb_build_object(v_node, coalesce(v_faults -> v_node, '{}')
            || pg_catalog.jsonb_build_object(v_kind, v_fault));
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'ZD000', MESSAGE = 'probed', DETAIL = v_faults::text;
END
$do$$sql$,
    p_targets)
$zodan$;
COMMENT ON FUNCTION zodan.probe IS
'Tries, from the node where it runs, to connect to other nodes, plainly and, where that works, for replication.
p_targets is an object of node and an object: dsn, and who, what zodan.server_facts reports of the database that the
caller reaches, NULL if the caller reaches none. If dblink is not installed, its functions are created for the
duration of the statement. Everything is rolled back, by an error ZD000 whose DETAIL is an object of node, then of
connection, identity (if who is known) and replication, with the fault, NULL where it worked.';
REVOKE ALL ON FUNCTION zodan.probe FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.copy_roles(p_source text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_source text := %1$s;
    v_created boolean := NOT EXISTS (SELECT FROM pg_catalog.pg_extension WHERE extname = 'dblink');
    v_schema text;
    v_statement text;
BEGIN
    IF v_created THEN
        CREATE EXTENSION dblink SCHEMA public;
    END IF;
    SELECT e.extnamespace::regnamespace::text INTO v_schema FROM pg_catalog.pg_extension AS e
        WHERE e.extname = 'dblink';
    FOR v_statement IN EXECUTE pg_catalog.concat('SELECT s.statement FROM ', v_schema,
        '.dblink($1, $2) AS s(statement text)')
        USING v_source, pg_catalog.format($query$
            WITH missing AS (SELECT a.* FROM pg_catalog.pg_authid AS a WHERE a.rolname !~ '^pg_'
                AND a.rolname::text <> ALL (%%L::text[]))
            SELECT s.statement FROM (
                -- As JSON a date reads the same whatever the DateStyle of the source.
                SELECT 1 AS rank, pg_catalog.format('CREATE ROLE %%%%I %%%%s %%%%s %%%%s %%%%s %%%%s %%%%s %%%%s CONNECTION LIMIT %%%%s%%%%s%%%%s', m.rolname,
                    CASE WHEN m.rolsuper THEN 'SUPERUSER' ELSE 'NOSUPERUSER' END, CASE WHEN m.rolinherit THEN 'INHERIT'
                        ELSE 'NOINHERIT' END,
                    CASE WHEN m.rolcreaterole THEN 'CREATEROLE' ELSE 'NOCREATEROLE' END, CASE WHEN m.rolcreatedb
                        THEN 'CREATEDB' ELSE 'NOCREATEDB' END,
                    CASE WHEN m.rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN m.rolreplication
                        THEN 'REPLICATION' ELSE 'NOREPLICATION' END,
                    CASE WHEN m.rolbypassrls THEN 'BYPASSRLS' ELSE 'NOBYPASSRLS' END, m.rolconnlimit,
                    ' PASSWORD ' || pg_catalog.quote_literal(m.rolpassword), ' VALID UNTIL '
                        || pg_catalog.quote_literal(
                        pg_catalog.to_jsonb(m.rolvaliduntil) #>> '{}')) AS statement
                  FROM missing AS m
                UNION ALL
                -- A list is stored as one text; written back as one value it would become the name of one thing.
                SELECT 2 + c.place / 10000.0, pg_catalog.format('ALTER ROLE %%%%I %%%%sSET %%%%I = %%%%s', m.rolname,
                    CASE WHEN d.setdatabase <> 0 THEN pg_catalog.format('IN DATABASE %%%%I ', %%L) END, v.name,
                    CASE WHEN v.name IN ('search_path', 'session_preload_libraries', 'local_preload_libraries',
                        'shared_preload_libraries', 'temp_tablespaces', 'unix_socket_directories')
                         THEN (SELECT coalesce(pg_catalog.string_agg(pg_catalog.quote_literal(CASE WHEN e.found[1] LIKE '"%%%%'
                             THEN pg_catalog.replace(pg_catalog.substr(e.found[1], 2,
                             pg_catalog.length(e.found[1]) - 2), '""', '"')
                                   ELSE pg_catalog.rtrim(e.found[1]) END), ', ' ORDER BY e.place), '''''')
                                 FROM pg_catalog.regexp_matches(v.value, '("(?:[^"]|"")*"|[^,[:space:]"][^,]*)',
                                     'g') WITH ORDINALITY AS e(found, place))
                         ELSE pg_catalog.quote_literal(v.value) END)
                  FROM missing AS m JOIN pg_catalog.pg_db_role_setting AS d ON d.setrole = m.oid
                   AND d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database AS b
                       WHERE b.datname = pg_catalog.current_database()))
                 CROSS JOIN LATERAL pg_catalog.unnest(d.setconfig) WITH ORDINALITY AS c(setting, place)
                 CROSS JOIN LATERAL (SELECT pg_catalog.split_part(c.setting, '=', 1) AS name,
                     pg_catalog.substr(c.setting, pg_catalog.strpos(c.setting, '=') + 1) AS value) AS v
                UNION ALL
                SELECT 3, pg_catalog.format('GRANT %%%%I TO %%%%I%%%%s', a.granted, a.member,
                    coalesce(' WITH ADMIN ' || a.admin || ', INHERIT ' || a.inherit || ', SET ' || a.sets, CASE
                        WHEN a.admin THEN ' WITH ADMIN OPTION' END))
                  FROM (SELECT g.rolname AS granted, u.rolname AS member, pg_catalog.bool_or(a.admin_option) AS admin,
                               pg_catalog.bool_or((pg_catalog.to_jsonb(a) ->> 'inherit_option')::boolean) AS inherit,
                               pg_catalog.bool_or((pg_catalog.to_jsonb(a) ->> 'set_option')::boolean) AS sets
                          FROM pg_catalog.pg_auth_members AS a JOIN pg_catalog.pg_roles AS g ON g.oid = a.roleid
                          JOIN pg_catalog.pg_roles AS u ON u.oid = a.member
                         WHERE EXISTS (SELECT FROM missing AS m WHERE m.oid IN (a.roleid, a.member))
                         GROUP BY 1, 2) AS a
                UNION ALL
                SELECT 4, pg_catalog.format('GRANT %%%%s ON PARAMETER %%%%s TO %%%%I%%%%s', x.privilege_type, q.parname,
                    m.rolname, CASE WHEN x.is_grantable THEN ' WITH GRANT OPTION' END)
                  FROM pg_catalog.pg_parameter_acl AS q CROSS JOIN LATERAL pg_catalog.aclexplode(q.paracl) AS x
                      JOIN missing AS m ON m.oid = x.grantee) AS s
             ORDER BY s.rank, s.statement$query$,
            (SELECT pg_catalog.array_agg(r.rolname) FROM pg_catalog.pg_roles AS r), pg_catalog.current_database())
    LOOP
        EXECUTE v_statement;
    END LOOP;
    IF v_created THEN
        DROP EXTENSION dblink;
    END IF;
END
$do$$sql$,
    zodan.placeholder('dsn', p_source))
$zodan$;
COMMENT ON FUNCTION zodan.copy_roles IS
'Brings, to the server where it runs, the roles of p_source that are missing there: attributes, settings, those in
this database too, memberships with their options, rights on parameters, and passwords as the hashes that the source
keeps. They go from server to server inside this one statement, through dblink, which is created for its duration if
it is not installed; no journal and no message holds them.';
REVOKE ALL ON FUNCTION zodan.copy_roles FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.read_sets(p_sets text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH sets AS MATERIALIZED (
    SELECT r.* FROM spock.replication_set AS r JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%1$s) OR %1$s = '{}')
SELECT pg_catalog.jsonb_build_object(
    'sets', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', r.set_name,
                'insert', r.replicate_insert, 'update', r.replicate_update,
                'delete', r.replicate_delete, 'truncate', r.replicate_truncate))
              FROM sets AS r), '[]'),
    'tables', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('set', r.set_name,
                'table', pg_catalog.format('%%I.%%I', n.nspname, c.relname),
                'columns', (SELECT pg_catalog.array_agg(a.name ORDER BY a.name)
                    FROM pg_catalog.unnest(t.set_att_list) AS a(name)),
                'filter', pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid)))
              FROM spock.replication_set_table AS t
              JOIN sets AS r ON r.set_id = t.set_id
              JOIN pg_catalog.pg_class AS c ON c.oid = t.set_reloid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace), '[]'),
    'sequences', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('set', r.set_name,
                'sequence', pg_catalog.format('%%I.%%I', n.nspname, c.relname)))
              FROM spock.replication_set_seq AS q
              JOIN sets AS r ON r.set_id = q.set_id
              JOIN pg_catalog.pg_class AS c ON c.oid = q.set_seqoid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace), '[]')) AS sets$sql$,
    zodan.quote_list(p_sets))
$zodan$;
COMMENT ON FUNCTION zodan.read_sets IS
'Reads the replication sets of a node: definitions, tables with column list and row filter, sequences; of the sets
that p_sets names, or of all sets if it is empty. It returns one row: sets.';
REVOKE ALL ON FUNCTION zodan.read_sets FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.server_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.jsonb_build_object(
    'dbname', pg_catalog.current_database(),
    'version_num', pg_catalog.current_setting('server_version_num')::int,
    'version', pg_catalog.current_setting('server_version'),
    'settings', (SELECT pg_catalog.jsonb_object_agg(s.name, s.setting) FROM pg_catalog.pg_settings AS s
                  WHERE s.name IN ('wal_level', 'max_replication_slots', 'max_wal_senders', 'max_worker_processes',
                      'output_plugin_libraries', 'track_commit_timestamp', 'shared_preload_libraries', 'port',
                      'data_directory', 'spock.pause_timeout', 'server_encoding')),
    'who',
pg_catalog.concat_ws(':',
    pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    extract(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.current_setting('port')),
    (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())),
    'server',
pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    extract(epoch FROM pg_catalog.pg_postmaster_start_time()), pg_catalog.current_setting('port')),
    'slots', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots),
    'walsenders', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a WHERE a.backend_type = 'walsender'),
    'workers', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
                 WHERE a.backend_type NOT IN ('client backend', 'walsender', 'autovacuum launcher', 'autovacuum worker',
                     'background writer', 'checkpointer', 'walwriter', 'startup', 'archiver', 'slotsync worker',
                     'io worker', 'walsummarizer', 'walreceiver', 'logger')),
    -- Where the kernel says so, and the role may read it.
    'processors', nullif(CASE WHEN
pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'execute')
AND pg_catalog.pg_has_role('pg_read_server_files', 'usage')
        THEN pg_catalog.substring(pg_catalog.query_to_xml('SELECT pg_catalog.count(*) AS n'
            ' FROM pg_catalog.regexp_matches(pg_catalog.pg_read_file(''/proc/cpuinfo'', 0, 1000000, true),'
            ' ''^processor\s'', ''gn'')', false, false, '')::text, '<n>(\d+)</n>') END, '0')::int,
    'superuser', (SELECT r.rolsuper FROM pg_catalog.pg_roles AS r WHERE r.rolname = current_user),
    'recovery', pg_catalog.pg_is_in_recovery(),
    'extensions', (SELECT pg_catalog.jsonb_object_agg(e.extname, e.extversion) FROM pg_catalog.pg_extension AS e),
    -- Schemas of their own in which everything belongs to extensions.
    'fenced', (SELECT coalesce(pg_catalog.jsonb_agg(n.nspname), '[]') FROM pg_catalog.pg_namespace AS n
                WHERE n.oid >= 16384 AND EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extnamespace = n.oid)
                  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                                   WHERE d.refclassid = 'pg_catalog.pg_namespace'::regclass AND d.refobjid = n.oid
                                       AND d.classid <> 'pg_catalog.pg_extension'::regclass
                                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS m
                                         WHERE (m.classid, m.objid) = (d.classid, d.objid) AND m.deptype = 'e'))),
    -- Views that hold rows, each after those that it is made of.
    'views', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('%I.%I', n.nspname, c.relname) ORDER BY c.oid),
        '[]')
                FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
               WHERE c.relkind = 'm' AND c.relispopulated AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                                WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                                    AND d.deptype = 'e')),
    'available', (SELECT pg_catalog.jsonb_agg(e.name) FROM pg_catalog.pg_available_extensions AS e),
    'roles', (SELECT pg_catalog.jsonb_agg(r.rolname) FROM pg_catalog.pg_roles AS r),
    'needed_roles', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT pg_catalog.pg_get_userbyid(o.role)), '[]') FROM (
                     SELECT 10::oid AS role WHERE EXISTS (
                         SELECT FROM (SELECT c.oid, c.relowner AS owner, c.relnamespace AS space
                             FROM pg_catalog.pg_class AS c
                                      UNION ALL SELECT p.oid, p.proowner, p.pronamespace FROM pg_catalog.pg_proc AS p
                                      UNION ALL SELECT t.oid, t.typowner, t.typnamespace FROM pg_catalog.pg_type AS t
                                      UNION ALL SELECT n.oid, n.nspowner, n.oid FROM pg_catalog.pg_namespace AS n) AS x
                          WHERE x.owner = 10 AND x.oid >= 16384
                              AND x.space::regnamespace::text !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
                            AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.objid = x.oid
                                AND d.deptype = 'e'))
                     UNION ALL
                     SELECT d.refobjid
                       FROM pg_catalog.pg_shdepend AS d
                      WHERE d.refclassid = 'pg_catalog.pg_authid'::regclass AND d.deptype <> 'i'
                        AND d.dbid = (SELECT b.oid FROM pg_catalog.pg_database AS b
                                       WHERE b.datname = pg_catalog.current_database())) AS o),
    'relations', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_class AS c
                    JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                   WHERE c.relkind IN ('r', 'p', 'S', 'v', 'm', 'f')
                     AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
                     AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                                      WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                                        AND d.deptype = 'e'))
) AS facts$sql$
$zodan$;
COMMENT ON FUNCTION zodan.server_facts IS
'Reads from a server what the checks need to know and every PostgreSQL can report. It returns one row: facts, an
object. It names nothing of Spock, which may be missing there.';
REVOKE ALL ON FUNCTION zodan.server_facts FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.spock_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.jsonb_build_object(
    'node', (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id),
    'life', (SELECT l.xmin::text FROM spock.local_node AS l),
    'publishes', EXISTS (SELECT FROM spock.replication_set_table AS t
                           JOIN spock.replication_set AS r ON r.set_id = t.set_id
                           JOIN spock.local_node AS l ON l.node_id = r.set_nodeid),
    'pauses', pg_catalog.to_regprocedure('spock.pause_apply_workers()') IS NOT NULL,
    'nodes', (SELECT coalesce(pg_catalog.jsonb_object_agg(n.node_name, i.if_dsn), '{}')
                FROM spock.node AS n
                JOIN spock.node_interface AS i ON i.if_id = coalesce(
                         (SELECT l.node_local_interface FROM spock.local_node AS l WHERE l.node_id = n.node_id),
                         (SELECT pg_catalog.min(s.sub_origin_if) FROM spock.subscription AS s
                             WHERE s.sub_origin = n.node_id))),
    'subscriptions', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
                          'name', s.sub_name, 'provider', n.node_name, 'slot', s.sub_slot_name, 'enabled',
                              s.sub_enabled, 'sets', s.sub_replication_sets,
                          'forwards', s.sub_forward_origins, 'delay', s.sub_apply_delay,
                          'position', (SELECT o.remote_lsn FROM pg_catalog.pg_replication_origin_status AS o
                              WHERE o.external_id = s.sub_slot_name),
                          'status', (SELECT t.status FROM spock.sub_show_status(s.sub_name) AS t),
                          -- A worker that has just begun may not be in Spock's table yet.
                          'works', EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
                                            WHERE a.backend_start < pg_catalog.clock_timestamp() - interval '10 s'
                                              AND a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')))), '[]')
                        FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin),
    'slots', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', l.slot_name, 'active',
        l.active)), '[]')
                FROM pg_catalog.pg_replication_slots AS l WHERE l.database = pg_catalog.current_database()
                    AND NOT l.temporary),
    'sets', (SELECT coalesce(pg_catalog.jsonb_agg(r.set_name ORDER BY r.set_name), '[]')
               FROM spock.replication_set AS r JOIN spock.local_node AS l ON l.node_id = r.set_nodeid)
) AS facts$sql$
$zodan$;
COMMENT ON FUNCTION zodan.spock_facts IS
'Reads from a database with Spock its node, the nodes it knows with the connection string in use, its subscriptions
and its replication sets. It returns one row: facts, an object. The connection strings in it are secrets: callers take
them out before they show anything.';
REVOKE ALL ON FUNCTION zodan.spock_facts FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.try_lock()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT t.ok, h.pid, h.name, h.holder
  FROM (SELECT pg_catalog.pg_try_advisory_lock(5712036017245690) AS ok) AS t
  LEFT JOIN LATERAL (
    SELECT a.pid, a.application_name AS name, pg_catalog.format('"%s" from %s since %s', a.application_name,
               coalesce(pg_catalog.host(a.client_addr), 'a local socket'), a.backend_start) AS holder
      FROM pg_catalog.pg_locks AS l JOIN pg_catalog.pg_stat_activity AS a ON a.pid = l.pid
     WHERE NOT t.ok AND l.locktype = 'advisory' AND l.granted AND l.pid <> pg_catalog.pg_backend_pid()
       AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())
       AND l.classid::bigint << 32 | l.objid::bigint = 5712036017245690
     LIMIT 1) AS h ON true$sql$
$zodan$;
COMMENT ON FUNCTION zodan.try_lock IS
'Tries to take the cluster''s lock on a node. It returns one row: ok, and if another session has the lock, pid and
name, its application_name, and holder, a description.';
REVOKE ALL ON FUNCTION zodan.try_lock FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.prove_unwritten(p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_table regclass;
    v_rows bigint;
    v_written text[] := '{}';
BEGIN
    IF (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id) IS DISTINCT
        FROM %1$s THEN
        RETURN;
    END IF;
    FOR v_table IN
        SELECT c.oid::regclass FROM pg_catalog.pg_class AS c
         WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND c.oid >= 16384
           AND c.relnamespace::regnamespace::text !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
         ORDER BY 1
    LOOP
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_locks AS l WHERE l.relation = v_table AND l.granted
            AND l.mode = 'AccessExclusiveLock'
            AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                WHERE d.datname = pg_catalog.current_database()));
        EXECUTE pg_catalog.format('SELECT pg_catalog.count(*) FROM ONLY %%s AS t'
            ' WHERE (pg_catalog.pg_xact_commit_timestamp_origin(t.xmin)).roident = 0', v_table)
           INTO v_rows;
        IF v_rows > 0 THEN
            v_written := v_written || pg_catalog.format('%%s: %%s', v_table, v_rows);
        END IF;
    END LOOP;
    IF v_written <> '{}' THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD111',
            MESSAGE = pg_catalog.array_to_string(v_written[:10], ', ');
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_node))
$zodan$;
COMMENT ON FUNCTION zodan.prove_unwritten IS
'Fails, with ZD111 and a list of tables, if node p_node holds rows that were written there: what was copied or
streamed has an origin in its commit timestamp, what a user wrote has none. It reads every table except one that the
copy has locked to build its indexes, because waiting for that may take hours. A row that was only deleted leaves no
trace.';
REVOKE ALL ON FUNCTION zodan.prove_unwritten FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_subscription(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.sub_drop(subscription_name := %1$s, ifexists := true) AS dropped$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_subscription IS
'Drops a subscription if it exists, and with it its origin and its slot on the provider.';
REVOKE ALL ON FUNCTION zodan.drop_subscription FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.disable_streams()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(spock.sub_disable(s.sub_name, false)) AS disabled FROM spock.subscription AS s
    WHERE s.sub_enabled$sql$
$zodan$;
COMMENT ON FUNCTION zodan.disable_streams IS
'Disables every enabled subscription of a node. Tells their workers to end, but does not wait for them.';
REVOKE ALL ON FUNCTION zodan.disable_streams FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_slot(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_slot record;
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
BEGIN
    LOOP
        SELECT r.active_pid INTO v_slot FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %1$s;
        EXIT WHEN NOT FOUND;
        IF v_slot.active_pid IS NULL THEN
            PERFORM pg_catalog.pg_drop_replication_slot(%1$s);
            EXIT;
        ELSIF pg_catalog.clock_timestamp() > v_until THEN
            RAISE EXCEPTION 'slot %% is still in use by process %%', %1$s, v_slot.active_pid;
        END IF;
        PERFORM pg_catalog.pg_terminate_backend(v_slot.active_pid);
        PERFORM pg_catalog.pg_sleep(0.05);
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.drop_slot IS
'Drops a replication slot if it exists. First ends a sender that still streams from it for a subscription that is
gone, and waits for its end, 30 s at most.';
REVOKE ALL ON FUNCTION zodan.drop_slot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.emit_sync_event()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT CASE WHEN EXISTS (SELECT FROM spock.local_node) THEN spock.sync_event(false) ELSE '0/0' END AS lsn,
       extract(epoch FROM pg_catalog.clock_timestamp()) AS at$sql$
$zodan$;
COMMENT ON FUNCTION zodan.emit_sync_event IS
'Puts a sync event into the stream of a node and returns its position, lsn, and its time by the node''s clock, at: a
subscriber that has passed the event has applied everything committed there before. The event is no transaction of its
own: a subscriber of Spock 5.0 registers the end of an empty transaction up to a second late, but this event at once.
If the node no longer exists there is nothing to wait for, so that an interrupted removal can continue.';
REVOKE ALL ON FUNCTION zodan.emit_sync_event FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.forget_node(p_target text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.node_drop(node_name := %1$s, ifexists := true) AS dropped,
       (SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_stat_activity AS a
         WHERE a.datname = pg_catalog.current_database() AND pg_catalog.pg_has_role(a.usesysid, 'USAGE')
           AND pg_catalog.starts_with(a.application_name, pg_catalog.concat('zodan snapshot ',
               pg_catalog.left(pg_catalog.md5(%1$s), 8), ' '))) AS ended
    WHERE NOT EXISTS (SELECT FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id
    WHERE n.node_name = %1$s)$sql$,
    zodan.quote_text(p_target))
$zodan$;
COMMENT ON FUNCTION zodan.forget_node IS
'Makes a member forget node p_target, of which nothing but its row is left there, and ends the sessions that keep the
snapshot of its copy, if its join was never finished.';
REVOKE ALL ON FUNCTION zodan.forget_node FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.prove_gone(p_target text, p_origins text[], p_slots text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_left text;
BEGIN
    SELECT pg_catalog.string_agg(x.what, ', ') INTO v_left FROM (
        SELECT 'node ' || n.node_name AS what FROM spock.node AS n WHERE n.node_name = %1$s
        UNION ALL
        SELECT 'interface ' || i.if_name
          FROM spock.node_interface AS i JOIN spock.node AS n ON n.node_id = i.if_nodeid WHERE n.node_name = %1$s
        UNION ALL
        SELECT 'subscription ' || s.sub_name FROM spock.subscription AS s WHERE s.sub_slot_name::text = ANY (%2$s)
        UNION ALL
        SELECT 'slot ' || r.slot_name FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name::text = ANY (%3$s)
        UNION ALL
        SELECT 'origin ' || o.roname FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = ANY (%2$s)) AS x;
    IF v_left IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD401', MESSAGE = 'still there: ' || v_left;
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_target), zodan.quote_list(p_origins), zodan.quote_list(p_slots))
$zodan$;
COMMENT ON FUNCTION zodan.prove_gone IS
'Fails with ZD401 and a list if anything of a removal is left on a node: on a member the node row and the interface
of node p_target, a subscription or origin of those in p_origins, a slot of those in p_slots; on the target its
own.';
REVOKE ALL ON FUNCTION zodan.prove_gone FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.wait_applied(p_lsn text, p_provider text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.bool_or(o.remote_lsn >= %1$s::pg_catalog.pg_lsn), false) AS ok,
       pg_catalog.max(o.remote_lsn) AS progress,
       coalesce(pg_catalog.bool_or(EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
              AND a.xact_start IS NOT NULL
    AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Activity', 'Extension'))), false) AS alive,
       CASE WHEN pg_catalog.count(s.sub_id) = 0 THEN 'there is no subscription from node ' || %2$s
            WHEN NOT pg_catalog.bool_or(s.sub_enabled) THEN 'the subscription from node ' || %2$s
                || ' is disabled' || coalesce(': ' || (
                SELECT e.error_message FROM spock.exception_log AS e
                 WHERE e.remote_origin = pg_catalog.min(n.node_id) ORDER BY e.retry_errored_at DESC LIMIT 1),
                     '') END AS trouble,
       -- A worker that fails comes back after some seconds, and fails again.
       CASE WHEN pg_catalog.bool_or(s.sub_enabled AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')))
           THEN 'the worker of the stream from node ' || %2$s
               || ' is not running: ' || coalesce((
    SELECT pg_catalog.string_agg(w.words, '; ' ORDER BY w.place)
      FROM (SELECT pg_catalog.max(m.place) AS place, m.found[1] AS words
              FROM (SELECT pg_catalog.pg_current_logfile('stderr') AS path) AS l
             CROSS JOIN LATERAL (
                SELECT greatest(f.size - 100000, 0) AS begins FROM pg_catalog.pg_stat_file(l.path) AS f) AS b
             -- The text may begin inside a character, so it is read as bytes.
             CROSS JOIN LATERAL pg_catalog.regexp_matches(pg_catalog.encode(pg_catalog.pg_read_binary_file(
                    l.path, b.begins, 100000, true), 'escape'),
                    '(?:ERROR|FATAL):  ([^\n]*)', 'g') WITH ORDINALITY AS m(found, place)
             GROUP BY m.found[1] ORDER BY pg_catalog.max(m.place) DESC LIMIT 3) AS w),
    pg_catalog.format('the server log there says why, shortly before %%s', pg_catalog.clock_timestamp()))
           END AS blockers,
       pg_catalog.jsonb_build_object('lag_bytes', greatest(%1$s::pg_catalog.pg_lsn, pg_catalog.max(o.remote_lsn))
           - nullif(pg_catalog.max(o.remote_lsn), '0/0')) AS measure
  FROM spock.node AS n
  JOIN spock.subscription AS s ON s.sub_origin = n.node_id
  LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
 WHERE n.node_name = %2$s$sql$,
    zodan.quote_result(p_lsn), zodan.quote_text(p_provider))
$zodan$;
COMMENT ON FUNCTION zodan.wait_applied IS
'Returns, on a subscriber, whether it has applied everything that p_provider committed before p_lsn, and measures
how many bytes are missing; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_applied FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.mirror_sets(p_wanted text, p_sets text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_want jsonb := %1$s;
    v_is jsonb := (SELECT w.sets FROM (
WITH sets AS MATERIALIZED (
    SELECT r.* FROM spock.replication_set AS r JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%2$s) OR %2$s = '{}')
SELECT pg_catalog.jsonb_build_object(
    'sets', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', r.set_name,
                'insert', r.replicate_insert, 'update', r.replicate_update,
                'delete', r.replicate_delete, 'truncate', r.replicate_truncate))
              FROM sets AS r), '[]'),
    'tables', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('set', r.set_name,
                'table', pg_catalog.format('%%I.%%I', n.nspname, c.relname),
                'columns', (SELECT pg_catalog.array_agg(a.name ORDER BY a.name)
                    FROM pg_catalog.unnest(t.set_att_list) AS a(name)),
                'filter', pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid)))
              FROM spock.replication_set_table AS t
              JOIN sets AS r ON r.set_id = t.set_id
              JOIN pg_catalog.pg_class AS c ON c.oid = t.set_reloid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace), '[]'),
    'sequences', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('set', r.set_name,
                'sequence', pg_catalog.format('%%I.%%I', n.nspname, c.relname)))
              FROM spock.replication_set_seq AS q
              JOIN sets AS r ON r.set_id = q.set_id
              JOIN pg_catalog.pg_class AS c ON c.oid = q.set_seqoid
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace), '[]')) AS sets) AS w);
    v_item jsonb;
BEGIN
    FOR v_item IN SELECT w.item FROM pg_catalog.jsonb_array_elements(v_want -> 'sets') AS w(item) LOOP
        IF NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(v_is -> 'sets') AS i(item)
                        WHERE i.item ->> 'name' = v_item ->> 'name') THEN
            PERFORM spock.repset_create(v_item ->> 'name', (v_item ->> 'insert')::boolean,
                (v_item ->> 'update')::boolean,
                (v_item ->> 'delete')::boolean, (v_item ->> 'truncate')::boolean);
        ELSIF NOT v_is -> 'sets' @> pg_catalog.jsonb_build_array(v_item) THEN
            PERFORM spock.repset_alter(v_item ->> 'name', (v_item ->> 'insert')::boolean,
                (v_item ->> 'update')::boolean,
                (v_item ->> 'delete')::boolean, (v_item ->> 'truncate')::boolean);
        END IF;
    END LOOP;
    FOR v_item IN SELECT i.item FROM pg_catalog.jsonb_array_elements(v_is -> 'tables') AS i(item)
                   WHERE i.item NOT IN (SELECT o.item
                       FROM pg_catalog.jsonb_array_elements(v_want -> 'tables') AS o(item)) LOOP
        PERFORM spock.repset_remove_table(v_item ->> 'set', (v_item ->> 'table')::regclass);
    END LOOP;
    FOR v_item IN SELECT w.item FROM pg_catalog.jsonb_array_elements(v_want -> 'tables') AS w(item)
                   WHERE w.item NOT IN (SELECT o.item
                       FROM pg_catalog.jsonb_array_elements(v_is -> 'tables') AS o(item)) LOOP
        PERFORM spock.repset_add_table(set_name := v_item ->> 'set', relation := (v_item ->> 'table')::regclass,
            synchronize_data := false,
            columns := (SELECT pg_catalog.array_agg(a.name)
                          FROM pg_catalog.jsonb_array_elements_text(nullif(v_item -> 'columns', 'null')) AS a(name)),
            row_filter := v_item ->> 'filter', include_partitions := false);
    END LOOP;
    FOR v_item IN SELECT i.item FROM pg_catalog.jsonb_array_elements(v_is -> 'sequences') AS i(item)
                   WHERE i.item NOT IN (SELECT o.item FROM pg_catalog.jsonb_array_elements(v_want -> 'sequences') AS o(item)) LOOP
        PERFORM spock.repset_remove_seq(v_item ->> 'set', (v_item ->> 'sequence')::regclass);
    END LOOP;
    FOR v_item IN SELECT w.item FROM pg_catalog.jsonb_array_elements(v_want -> 'sequences') AS w(item)
                   WHERE w.item NOT IN (SELECT o.item
                       FROM pg_catalog.jsonb_array_elements(v_is -> 'sequences') AS o(item)) LOOP
        PERFORM spock.repset_add_seq(v_item ->> 'set', (v_item ->> 'sequence')::regclass, false);
    END LOOP;
END
$do$$sql$,
    zodan.quote_result(p_wanted), zodan.quote_list(p_sets))
$zodan$;
COMMENT ON FUNCTION zodan.mirror_sets IS
'Makes a node''s replication sets equal to p_wanted (what zodan.read_sets returned elsewhere): in the sets of p_sets
it adds what is missing and takes out what p_wanted lacks. Harmless when repeated.';
REVOKE ALL ON FUNCTION zodan.mirror_sets FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_dblink()
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Lets the routines of remote/ find dblink in its schema, and nowhere else: they call it by bare name, and the DBA
chooses the schema, and may change it later. Changes nothing if they already find it. Errors: ZD102 dblink is not
installed. */
DECLARE
    v_schema name := (SELECT n.nspname FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n
        ON n.oid = e.extnamespace
                       WHERE e.extname = 'dblink');
    v_travels text := pg_catalog.current_setting('spock.enable_ddl_replication', true);
    v_routine regprocedure;
BEGIN
    IF v_schema IS NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD102',
            MESSAGE = pg_catalog.format('Zodan needs dblink in database "%s"', pg_catalog.current_database()),
            HINT = 'Run CREATE EXTENSION dblink first.';
    END IF;
    FOR v_routine IN
        SELECT p.oid FROM pg_catalog.pg_proc AS p
         WHERE p.pronamespace = 'zodan'::regnamespace AND p.prosrc LIKE '%dblink\_%' AND p.proname <> 'find_dblink'
           AND pg_catalog.format('search_path=pg_catalog, %I, pg_temp', v_schema) <> ALL (coalesce(p.proconfig, '{}'))
    LOOP
        -- The setting is for this node alone.
        PERFORM pg_catalog.set_config('spock.enable_ddl_replication', 'off', true);
        EXECUTE pg_catalog.format('ALTER FUNCTION %s SET search_path = pg_catalog, %I, pg_temp', v_routine, v_schema);
    END LOOP;
    PERFORM pg_catalog.set_config('spock.enable_ddl_replication', v_travels, true) WHERE v_travels IS NOT NULL;
END
$zodan$;
COMMENT ON FUNCTION zodan.find_dblink IS
'Lets the routines of remote/ find dblink in its schema, and nowhere else: they call it by bare name, and the DBA
chooses the schema, and may change it later. Changes nothing if they already find it. Errors: ZD102 dblink is not
installed.';
REVOKE ALL ON FUNCTION zodan.find_dblink FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.disconnect_all()
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes every connection that Zodan keeps in this session; for zodan.close_connections. */
DECLARE
    v_connection text;
BEGIN
    FOREACH v_connection IN ARRAY coalesce(dblink_get_connections(), '{}') LOOP
        IF pg_catalog.starts_with(v_connection, 'zodan_') THEN
            PERFORM dblink_disconnect(v_connection);
        END IF;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.disconnect_all IS
'Closes every connection that Zodan keeps in this session; for zodan.close_connections.';
REVOKE ALL ON FUNCTION zodan.disconnect_all FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.close_connections()
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes every kept connection of this session, which frees the locks they hold; every public routine begins and ends
with it. Finds dblink first, which may have moved since Zodan was loaded. Errors: those of zodan.find_dblink. */
BEGIN
    PERFORM zodan.find_dblink();
    PERFORM zodan.disconnect_all();
END
$zodan$;
COMMENT ON FUNCTION zodan.close_connections IS
'Closes every kept connection of this session, which frees the locks they hold; every public routine begins and ends
with it. Finds dblink first, which may have moved since Zodan was loaded. Errors: those of zodan.find_dblink.';
REVOKE ALL ON FUNCTION zodan.close_connections FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.disconnect(p_connection text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes a connection of this session by its name; harmless if there is none. */
BEGIN
    IF p_connection = ANY (coalesce(dblink_get_connections(), '{}')) THEN
        PERFORM dblink_disconnect(p_connection);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.disconnect IS
'Closes a connection of this session by its name; harmless if there is none.';
REVOKE ALL ON FUNCTION zodan.disconnect FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.does_answer(p_settings jsonb)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Returns whether a server answers a connection within its connect_timeout, be it with a refusal; p_settings as zodan.parse_dsn
returns them. dblink knows no such limit from PostgreSQL 16 on, and would wait for a server that hangs for ever. So a
second session on this server tries it, without a password, under a statement_timeout. True without a try where dblink
knows the limit, where there is none, and if there cannot be such a session: it comes through this server's socket. Raises
no error except for a cancel. */
DECLARE
    c_connection CONSTANT text := 'zodan tries';
BEGIN
    IF pg_catalog.current_setting('server_version_num')::int < 160000
       OR coalesce((p_settings ->> 'connect_timeout')::int, 0) <= 0 THEN
        RETURN true;
    END IF;
    PERFORM zodan.disconnect(c_connection);
    PERFORM dblink_connect(c_connection, zodan.format_dsn(pg_catalog.jsonb_build_object(
        'host', pg_catalog.btrim(pg_catalog.split_part(pg_catalog.current_setting('unix_socket_directories'), ',', 1)),
        'port', pg_catalog.current_setting('port'), 'dbname', pg_catalog.current_database(), 'user', current_user,
        'application_name', c_connection)));
    PERFORM dblink_exec(c_connection, pg_catalog.format('SET search_path TO %s; SET statement_timeout TO %L',
        pg_catalog.current_setting('search_path'), (p_settings ->> 'connect_timeout') || 's'));
    PERFORM dblink_exec(c_connection, pg_catalog.format('DO %L', pg_catalog.format('BEGIN PERFORM dblink_connect(%L);'
        ' EXCEPTION WHEN query_canceled THEN RAISE EXCEPTION USING ERRCODE = %L; WHEN OTHERS THEN NULL; END',
        zodan.format_dsn(p_settings - zodan.list_secrets() - 'passfile'), 'ZD000')));
    PERFORM dblink_disconnect(c_connection);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    PERFORM zodan.disconnect(c_connection);
    RETURN SQLSTATE <> 'ZD000';
END
$zodan$;
COMMENT ON FUNCTION zodan.does_answer IS
'Returns whether a server answers a connection within its connect_timeout, be it with a refusal; p_settings as zodan.parse_dsn
returns them. dblink knows no such limit from PostgreSQL 16 on, and would wait for a server that hangs for ever. So a
second session on this server tries it, without a password, under a statement_timeout. True without a try where dblink
knows the limit, where there is none, and if there cannot be such a session: it comes through this server''s socket. Raises
no error except for a cancel.';
REVOKE ALL ON FUNCTION zodan.does_answer FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.connect(
    p_connection text,
    p_node text,
    p_dsns jsonb,
    p_purpose text,
    p_settings jsonb
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Opens a connection to a node and prepares its session: no DDL replication, no time limits of the role's own, and an
end to its statement when the caller dies. p_dsns holds the connection strings by node, p_purpose shows in
pg_stat_activity, p_settings is what the connection string gets besides. Returns {ok: true}, or {ok: false, sqlstate,
message} without secrets; raises no error for a node that cannot be reached. */
DECLARE
    v_settings jsonb;
    v_message text;
    v_detail text;
BEGIN
    v_settings := pg_catalog.jsonb_build_object(
            'connect_timeout', '10', 'keepalives_idle', '60')
        || zodan.parse_dsn(p_dsns ->> p_node) || p_settings || pg_catalog.jsonb_build_object(
            'application_name', zodan.name_session(p_purpose, zodan.name_caller(pg_catalog.pg_backend_pid())));
    -- Not a node that has a kept connection.
    IF zodan.connection_name(p_node) <> ALL (coalesce(dblink_get_connections(), '{}'))
       AND NOT zodan.does_answer(v_settings) THEN
        RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', '08001', 'message', pg_catalog.format(
            'could not establish connection: the server did not answer within %s s', v_settings ->> 'connect_timeout'));
    END IF;
    PERFORM dblink_connect(p_connection, zodan.format_dsn(v_settings));
    PERFORM * FROM dblink(p_connection, zodan.set_session()) AS s(done text);
    RETURN '{"ok": true}'::jsonb;
EXCEPTION WHEN OTHERS THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL;
    PERFORM zodan.disconnect(p_connection);
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', SQLSTATE,
        'message', zodan.redact_text(pg_catalog.concat_ws(': ', v_message, nullif(v_detail, '')), p_dsns));
END
$zodan$;
COMMENT ON FUNCTION zodan.connect IS
'Opens a connection to a node and prepares its session: no DDL replication, no time limits of the role''s own, and an
end to its statement when the caller dies. p_dsns holds the connection strings by node, p_purpose shows in
pg_stat_activity, p_settings is what the connection string gets besides. Returns {ok: true}, or {ok: false, sqlstate,
message} without secrets; raises no error for a node that cannot be reached.';
REVOKE ALL ON FUNCTION zodan.connect FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.close_connection(p_node text)
RETURNS void
LANGUAGE sql
AS $zodan$
SELECT zodan.disconnect(zodan.connection_name(p_node))
$zodan$;
COMMENT ON FUNCTION zodan.close_connection IS
'Closes the kept connection to a node, or a lane; harmless if there is none.';
REVOKE ALL ON FUNCTION zodan.close_connection FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.open_connection(p_node text, p_dsns jsonb, p_purpose text)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Opens the kept connection to a node, if it is not open yet. p_dsns, p_purpose and what it returns are as
zodan.connect has them. */
DECLARE
    v_connection text := zodan.connection_name(p_node);
BEGIN
    IF v_connection = ANY (coalesce(dblink_get_connections(), '{}')) THEN
        RETURN '{"ok": true}'::jsonb;
    END IF;
    RETURN zodan.connect(v_connection, p_node, p_dsns, p_purpose, '{}');
END
$zodan$;
COMMENT ON FUNCTION zodan.open_connection IS
'Opens the kept connection to a node, if it is not open yet. p_dsns, p_purpose and what it returns are as
zodan.connect has them.';
REVOKE ALL ON FUNCTION zodan.open_connection FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.send_statement(p_node text, p_sql text, p_dsns jsonb, p_results jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Fills the placeholders of a statement and sends it to a node over its kept connection, without waiting for it. A
query is wrapped so that it returns its one row as an object; any other statement returns nothing. Returns NULL when
the statement is under way, or {ok: false, sqlstate, message} when a placeholder cannot be filled or the connection is
gone. */
DECLARE
    v_connection text := zodan.connection_name(p_node);
    v_sql text;
BEGIN
    v_sql := zodan.bind_placeholders(p_sql, p_dsns, p_results);
    IF v_sql ~* '^\s*(SELECT|WITH)\s' THEN
        v_sql := 'SELECT pg_catalog.to_jsonb(z)::text FROM (' || v_sql || ') AS z';
    END IF;
    -- A broken connection is never opened again behind the executor's back (zodan.advance_lost).
    IF dblink_send_query(v_connection, v_sql) = 1 THEN
        RETURN NULL;
    END IF;
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', '08006',
        'message', dblink_error_message(v_connection));
EXCEPTION WHEN OTHERS THEN
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', SQLSTATE, 'message', SQLERRM);
END
$zodan$;
COMMENT ON FUNCTION zodan.send_statement IS
'Fills the placeholders of a statement and sends it to a node over its kept connection, without waiting for it. A
query is wrapped so that it returns its one row as an object; any other statement returns nothing. Returns NULL when
the statement is under way, or {ok: false, sqlstate, message} when a placeholder cannot be filled or the connection is
gone.';
REVOKE ALL ON FUNCTION zodan.send_statement FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drain_results(p_node text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Takes what a failed statement left on a node's connection, so that the next one can be sent; closes a broken
connection. */
DECLARE
    v_connection text := zodan.connection_name(p_node);
BEGIN
    PERFORM r.answer FROM dblink_get_result(v_connection, false) AS r(answer text);
    PERFORM r.answer FROM dblink_get_result(v_connection, false) AS r(answer text);
EXCEPTION WHEN OTHERS THEN
    IF v_connection = ANY (coalesce(dblink_get_connections(), '{}')) THEN
        PERFORM dblink_disconnect(v_connection);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.drain_results IS
'Takes what a failed statement left on a node''s connection, so that the next one can be sent; closes a broken
connection.';
REVOKE ALL ON FUNCTION zodan.drain_results FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.has_answer(p_node text)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Returns whether there may be something to fetch from a node: true too if it is not known, and false only while the statement
sent to it is still under way. */
BEGIN
    RETURN dblink_is_busy(zodan.connection_name(p_node)) = 0;
EXCEPTION WHEN OTHERS THEN
    RETURN true;
END
$zodan$;
COMMENT ON FUNCTION zodan.has_answer IS
'Returns whether there may be something to fetch from a node: true too if it is not known, and false only while the statement
sent to it is still under way.';
REVOKE ALL ON FUNCTION zodan.has_answer FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.fetch_result(p_node text, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Checks whether the statement sent to a node is done. Returns NULL while it runs; then {ok: true, value} or {ok:
false, sqlstate, message, detail, hint}, free of the secrets of p_dsns. A cancel of the caller passes through. */
DECLARE
    v_connection text := zodan.connection_name(p_node);
    v_row text;
    v_value text;
    v_message text;
    v_detail text;
    v_hint text;
    v_context text;
    v_secrets text[];
BEGIN
    IF dblink_is_busy(v_connection) = 1 THEN
        RETURN NULL;
    END IF;
    -- The connection is free for the next statement only after an empty answer has been taken.
    FOR v_answer IN 1 .. 2 LOOP
        FOR v_row IN SELECT r.answer FROM dblink_get_result(v_connection) AS r(answer text) LOOP
            v_value := v_row;
        END LOOP;
    END LOOP;
    RETURN pg_catalog.jsonb_build_object('ok', true,
        'value', CASE WHEN pg_catalog.left(v_value, 1) = '{' THEN v_value::jsonb END);
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_detail = PG_EXCEPTION_DETAIL,
        v_hint = PG_EXCEPTION_HINT, v_context = PG_EXCEPTION_CONTEXT;
    IF SQLSTATE = '57014' AND v_context !~ 'dblink connection' THEN
        RAISE;
    END IF;
    PERFORM zodan.drain_results(p_node);
    v_secrets := zodan.find_secrets(p_dsns);
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', SQLSTATE,
        'message', zodan.mask_secrets(v_message, v_secrets),
        'detail', zodan.mask_secrets(nullif(v_detail, ''), v_secrets),
        'hint', zodan.mask_secrets(nullif(v_hint, ''), v_secrets));
END
$zodan$;
COMMENT ON FUNCTION zodan.fetch_result IS
'Checks whether the statement sent to a node is done. Returns NULL while it runs; then {ok: true, value} or {ok:
false, sqlstate, message, detail, hint}, free of the secrets of p_dsns. A cancel of the caller passes through.';
REVOKE ALL ON FUNCTION zodan.fetch_result FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.cancel_statement(p_node text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Asks a node to cancel the statement under way on its kept connection; zodan.fetch_result then returns 57014. */
BEGIN
    PERFORM dblink_cancel_query(zodan.connection_name(p_node));
END
$zodan$;
COMMENT ON FUNCTION zodan.cancel_statement IS
'Asks a node to cancel the statement under way on its kept connection; zodan.fetch_result then returns 57014.';
REVOKE ALL ON FUNCTION zodan.cancel_statement FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_notes()
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('note', n.note, 'hint', n.hint)), '[]')
  FROM (SELECT c.query,
               c.query ~* '(password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret)\s*=|postgres(ql)?://[^:/@]*:[^@/]*@'
                   AS holds,
               -- Only the extended protocol has a visible portal of the empty name.
               EXISTS (SELECT FROM pg_catalog.pg_cursors AS p WHERE p.name = '') AS extended
          FROM pg_catalog.current_query() AS c(query)) AS s
 CROSS JOIN LATERAL (SELECT s.holds OR s.extended
     AND pg_catalog.current_setting('log_parameter_max_length') <> '0' AS shown) AS l
 CROSS JOIN LATERAL (VALUES
    (l.shown AND pg_catalog.current_setting('log_statement') = 'all',
     'log_statement is all here: the passwords of this call are in this server''s log',
         'Run SET log_statement = none before the next call'),
    -- Durations: of the time to parse the statement, and to bind.
    (l.shown AND s.extended AND (pg_catalog.current_setting('log_min_duration_statement') = '0'
        OR pg_catalog.current_setting('log_min_duration_sample') = '0'
            AND pg_catalog.current_setting('log_statement_sample_rate')::float8 > 0
        OR pg_catalog.current_setting('log_transaction_sample_rate')::float8 > 0),
     'durations are logged here, of what a driver binds too: the passwords of this call are in this server''s log',
     'Run SET log_min_duration_statement = -1, and the same for log_min_duration_sample, '
     'and SET log_transaction_sample_rate = 0 before the next call'),
    (s.extended AND NOT s.holds AND pg_catalog.current_setting('log_parameter_max_length_on_error') <> '0',
     'log_parameter_max_length_on_error is not 0 here: where this call fails, its passwords are in this server''s log',
     'Run SET log_parameter_max_length_on_error = 0 before the next call'),
    -- pg_stat_statements keeps a query, and from PostgreSQL 17 on a CALL, without its constants.
    (s.holds AND s.query !~* '^\s*(SELECT|WITH)\M'
        AND (pg_catalog.current_setting('server_version_num')::int < 170000 OR s.query !~* '^\s*CALL\M')
        AND coalesce(pg_catalog.current_setting('pg_stat_statements.track_utility', true)::boolean, false)
        AND pg_catalog.current_setting('pg_stat_statements.track', true) <> 'none',
     'pg_stat_statements keeps this call with its passwords',
     'Forget it with pg_stat_statements_reset(), and run SET pg_stat_statements.track_utility = off '
     'before the next call')
 ) AS n(noted, note, hint)
 WHERE n.noted
$zodan$;
COMMENT ON FUNCTION zodan.list_notes IS
'Lists where this server recorded the caller''s statement, or what it binds, before it began, which nothing here can
prevent: an array of objects note and hint, on the condition that a password was given.';
REVOKE ALL ON FUNCTION zodan.list_notes FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.hide_statement(VARIADIC p_given text[])
RETURNS void
LANGUAGE plpgsql
SET standard_conforming_strings = on
AS $zodan$
/* Keeps the caller's statement, which may hold connection strings, out of this server's log for the rest of the
session, because procedures commit, and may be ended at any moment. Has every routine that is called from now on parsed
with standard_conforming_strings, for which Zodan is written. p_given is what the caller was given. If it has a
password that this server has logged, or will log because the caller may not set that, warns of it. Every routine that
takes a connection string calls this first. */
DECLARE
    -- Read before it is set.
    v_notes jsonb := zodan.list_notes();
    v_note jsonb;
    v_left text;
    c_unlogged CONSTANT jsonb := '{"auto_explain.log_min_duration": "-1", "log_min_duration_sample": "-1", "log_min_duration_statement": "-1", "log_transaction_sample_rate": "0"}'::jsonb;
    c_statement CONSTANT text := extract(epoch FROM pg_catalog.statement_timestamp());
BEGIN
    -- Once per statement, whatever it calls.
    IF pg_catalog.current_setting('zodan.hidden', true) = c_statement THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('zodan.hidden', c_statement, false);
    -- Without LOCAL, this outlasts the setting of this function alone.
    PERFORM pg_catalog.set_config('standard_conforming_strings', 'on', false);
    -- Until this is done, auto_explain logs p_given with the statement that takes it (from PostgreSQL 16 on).
    PERFORM pg_catalog.set_config(s.name, s.value, false)
       FROM pg_catalog.jsonb_each_text(c_unlogged || '{"log_min_error_statement": "panic"}') AS s(name, value)
      WHERE pg_catalog.has_parameter_privilege(s.name, 'SET')
        AND pg_catalog.current_setting(s.name, true) IS DISTINCT FROM s.value;
    IF pg_catalog.array_to_string(p_given, ' ') !~* '(password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret)\s*=|postgres(ql)?://[^:/@]*:[^@/]*@' THEN
        RETURN;
    END IF;
    FOR v_note IN SELECT n.item FROM pg_catalog.jsonb_array_elements(v_notes) AS n(item) LOOP
        RAISE WARNING '%', v_note ->> 'note' USING HINT = (v_note ->> 'hint')
            || ', or give connection strings with a passfile instead of a password.';
    END LOOP;
    SELECT pg_catalog.string_agg(s.name, ', ') INTO v_left
      FROM pg_catalog.jsonb_each_text(c_unlogged) AS s(name, value)
     WHERE pg_catalog.current_setting(s.name, true) <> s.value;
    IF v_left IS NOT NULL AND pg_catalog.current_query() ~* '(password|sslpassword|scram_client_key|scram_server_key|oauth_client_secret)\s*=|postgres(ql)?://[^:/@]*:[^@/]*@' THEN
        RAISE WARNING 'this server logs the passwords of this call, since you may not set %', v_left
            USING HINT = 'Call as a superuser, or give connection strings with a passfile instead of a password.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.hide_statement IS
'Keeps the caller''s statement, which may hold connection strings, out of this server''s log for the rest of the
session, because procedures commit, and may be ended at any moment. Has every routine that is called from now on parsed
with standard_conforming_strings, for which Zodan is written. p_given is what the caller was given. If it has a
password that this server has logged, or will log because the caller may not set that, warns of it. Every routine that
takes a connection string calls this first.';
REVOKE ALL ON FUNCTION zodan.hide_statement FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.wait_a_moment(p_since timestamptz DEFAULT NULL, p_for_answers boolean DEFAULT false)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Rests between two looks at the nodes: 0.002 s, longer the longer nothing has happened, up to
0.1 s; p_since is when something last did. With p_for_answers, for looks that would find nothing but
answers, it rests 0.1 s, but no longer than until one of the statements that are under way has ended.
If the caller is cancelled meanwhile, it closes the kept connections first, so that a session that lives on does not
keep the cluster locked; the cancel then passes through. */
DECLARE
    v_end timestamptz := pg_catalog.clock_timestamp() + interval '0.1 s';
    v_rest double precision := greatest(0.002,
        0.05 * extract(epoch FROM pg_catalog.clock_timestamp() - p_since)::double precision);
    v_busy text[];
BEGIN
    IF NOT p_for_answers THEN
        PERFORM pg_catalog.pg_sleep(least(0.1, v_rest));
        RETURN;
    END IF;
    SELECT pg_catalog.array_agg(c.name) INTO v_busy FROM pg_catalog.unnest(dblink_get_connections()) AS c(name)
     WHERE pg_catalog.starts_with(c.name, 'zodan_') AND dblink_is_busy(c.name) = 1;
    LOOP
        PERFORM pg_catalog.pg_sleep(least(0.01, v_rest));
        EXIT WHEN pg_catalog.clock_timestamp() > v_end
            OR EXISTS (SELECT FROM pg_catalog.unnest(v_busy) AS c(name) WHERE dblink_is_busy(c.name) = 0);
    END LOOP;
EXCEPTION WHEN query_canceled THEN
    PERFORM zodan.close_connections();
    RAISE;
END
$zodan$;
COMMENT ON FUNCTION zodan.wait_a_moment IS
'Rests between two looks at the nodes: 0.002 s, longer the longer nothing has happened, up to
0.1 s; p_since is when something last did. With p_for_answers, for looks that would find nothing but
answers, it rests 0.1 s, but no longer than until one of the statements that are under way has ended.
If the caller is cancelled meanwhile, it closes the kept connections first, so that a session that lives on does not
keep the cluster locked; the cancel then passes through.';
REVOKE ALL ON FUNCTION zodan.wait_a_moment FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.read_duration(p_setting text, p_value text, p_default text)
RETURNS interval
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns a setting that says how long something may take: p_value, an interval or a number of seconds, or p_default
where it is NULL. Errors: ZD004 the value of p_setting is neither, or not above zero. */
DECLARE
    v_duration interval;
BEGIN
    BEGIN
        v_duration := CASE WHEN p_value ~ '^[0-9]+$' THEN pg_catalog.make_interval(secs => p_value::double precision)
            ELSE coalesce(p_value, p_default)::interval END;
    EXCEPTION WHEN data_exception THEN
        v_duration := NULL;
    END;
    IF v_duration > interval '0' THEN
        RETURN v_duration;
    END IF;
    RAISE EXCEPTION USING
        ERRCODE = 'ZD004',
        MESSAGE = pg_catalog.format('%s is "%s" in this session', p_setting, p_value),
        HINT = pg_catalog.format('Run SET %s with an interval such as ''30 min'', or with a number of seconds.', p_setting);
END
$zodan$;
COMMENT ON FUNCTION zodan.read_duration IS
'Returns a setting that says how long something may take: p_value, an interval or a number of seconds, or p_default
where it is NULL. Errors: ZD004 the value of p_setting is neither, or not above zero.';
REVOKE ALL ON FUNCTION zodan.read_duration FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.read_bound()
RETURNS interval
LANGUAGE sql STABLE
AS $zodan$
SELECT zodan.read_duration('zodan.look_timeout',
    nullif(pg_catalog.current_setting('zodan.look_timeout', true), ''), '1 min')
$zodan$;
COMMENT ON FUNCTION zodan.read_bound IS
'Returns how long a look at a node may take before it is cancelled: the setting zodan.look_timeout if it is set (an
interval, or a number of seconds), else 1 min. Errors: ZD004.';
REVOKE ALL ON FUNCTION zodan.read_bound FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_blockers(p_node text, p_dsns jsonb, p_purpose text DEFAULT '')
RETURNS text
LANGUAGE plpgsql
AS $zodan$
/* Asks a node, through a connection of its own, what the statement under way on its kept connection waits for, or in
the session whose purpose ends with p_purpose, such as a lane: processes and prepared transactions that hold a lock, or
an event. Returns NULL if it waits for nothing, or if that cannot be asked. Raises no error except for a cancel. */
DECLARE
    v_connection text := zodan.connection_name(p_node) || ' asks';
    v_settings jsonb;
    v_found text;
BEGIN
    v_settings := '{"connect_timeout": "10"}'::jsonb || zodan.parse_dsn(p_dsns ->> p_node)
        || '{"application_name": "zodan asks"}';
    IF NOT zodan.does_answer(v_settings) THEN
        RETURN NULL;
    END IF;
    PERFORM dblink_connect(v_connection, zodan.format_dsn(v_settings));
    SELECT b.found INTO v_found FROM dblink(v_connection,
        zodan.find_waits(zodan.name_session(p_purpose, zodan.name_caller(pg_catalog.pg_backend_pid())))) AS b(found text);
    PERFORM dblink_disconnect(v_connection);
    RETURN v_found;
EXCEPTION WHEN OTHERS THEN
    PERFORM zodan.disconnect(v_connection);
    RETURN NULL;
END
$zodan$;
COMMENT ON FUNCTION zodan.find_blockers IS
'Asks a node, through a connection of its own, what the statement under way on its kept connection waits for, or in
the session whose purpose ends with p_purpose, such as a lane: processes and prepared transactions that hold a lock, or
an event. Returns NULL if it waits for nothing, or if that cannot be asked. Raises no error except for a cancel.';
REVOKE ALL ON FUNCTION zodan.find_blockers FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_connected(p_node text)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Returns whether the kept connection to a node, which has nothing under way, still works; closes it if not. */
DECLARE
    v_connection text := zodan.connection_name(p_node);
BEGIN
    IF NOT v_connection = ANY (coalesce(dblink_get_connections(), '{}')) THEN
        RETURN false;
    END IF;
    PERFORM t.one FROM dblink(v_connection, 'SELECT 1') AS t(one int);
    RETURN true;
EXCEPTION WHEN OTHERS THEN
    PERFORM dblink_disconnect(v_connection);
    RETURN false;
END
$zodan$;
COMMENT ON FUNCTION zodan.is_connected IS
'Returns whether the kept connection to a node, which has nothing under way, still works; closes it if not.';
REVOKE ALL ON FUNCTION zodan.is_connected FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.query_nodes(
    p_queries jsonb,
    p_dsns jsonb,
    p_bound interval DEFAULT zodan.read_bound()
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Runs one query on each of several nodes at the same time and waits for all, p_bound at most, or as long as they
take if that is NULL. p_queries is an object of node and query, each returning one row. Returns an object of node and
result, as zodan.fetch_result returns it; for a query cancelled because it took too long, ZD306 and what it waited
for. */
DECLARE
    v_results jsonb := '{}'::jsonb;
    v_late jsonb := '{}'::jsonb;
    v_result jsonb;
    v_node text;
    v_sql text;
    v_blockers text;
    v_begun timestamptz := pg_catalog.clock_timestamp();
BEGIN
    FOR v_node, v_sql IN SELECT q.key, q.value FROM pg_catalog.jsonb_each_text(p_queries) AS q(key, value) LOOP
        v_result := zodan.send_statement(v_node, v_sql, p_dsns, '{}');
        IF v_result IS NOT NULL THEN
            v_results := v_results || pg_catalog.jsonb_build_object(v_node, v_result);
        END IF;
    END LOOP;
    LOOP
        FOR v_node IN
            SELECT k.node FROM pg_catalog.jsonb_object_keys(p_queries) AS k(node) WHERE NOT v_results ? k.node
        LOOP
            v_result := zodan.fetch_result(v_node, p_dsns);
            IF v_result IS NOT NULL THEN
                v_results := v_results || pg_catalog.jsonb_build_object(v_node, v_result
                    || coalesce(v_late -> v_node, '{}'));
            ELSIF pg_catalog.clock_timestamp() > v_begun + p_bound AND NOT v_late ? v_node THEN
                v_blockers := coalesce(zodan.find_blockers(v_node, p_dsns), 'nothing that is known');
                v_late := v_late || pg_catalog.jsonb_build_object(v_node,
                    pg_catalog.jsonb_build_object('ok', false, 'sqlstate', 'ZD306', 'message',
                    pg_catalog.format('no answer within %s, waiting for %s', p_bound, v_blockers)));
                PERFORM zodan.cancel_statement(v_node);
            END IF;
        END LOOP;
        EXIT WHEN (SELECT pg_catalog.bool_and(v_results ? k.node)
            FROM pg_catalog.jsonb_object_keys(p_queries) AS k(node))
            IS NOT FALSE;
        PERFORM zodan.wait_a_moment(v_begun);
    END LOOP;
    RETURN v_results;
END
$zodan$;
COMMENT ON FUNCTION zodan.query_nodes IS
'Runs one query on each of several nodes at the same time and waits for all, p_bound at most, or as long as they
take if that is NULL. p_queries is an object of node and query, each returning one row. Returns an object of node and
result, as zodan.fetch_result returns it; for a query cancelled because it took too long, ZD306 and what it waited
for.';
REVOKE ALL ON FUNCTION zodan.query_nodes FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.leave_snapshot(p_snapshot text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes the connections to the sessions that hold a snapshot. One that keeps it, see zodan.open_keeper, goes on for a
while; harmless if there is none. */
BEGIN
    PERFORM zodan.disconnect(p_snapshot);
    PERFORM zodan.disconnect(zodan.keeper_name(p_snapshot));
END
$zodan$;
COMMENT ON FUNCTION zodan.leave_snapshot IS
'Closes the connections to the sessions that hold a snapshot. One that keeps it, see zodan.open_keeper, goes on for a
while; harmless if there is none.';
REVOKE ALL ON FUNCTION zodan.leave_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.close_snapshot(p_snapshot text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Lets a snapshot go that zodan.open_snapshot asked for, and with it its slot, or the session that keeps it; harmless if
there is none. */
DECLARE
    v_keeper text := zodan.keeper_name(p_snapshot);
BEGIN
    IF v_keeper = ANY (coalesce(dblink_get_connections(), '{}')) THEN
        -- It would not notice that the connection is closed.
        PERFORM dblink_cancel_query(v_keeper);
    END IF;
    PERFORM zodan.leave_snapshot(p_snapshot);
END
$zodan$;
COMMENT ON FUNCTION zodan.close_snapshot IS
'Lets a snapshot go that zodan.open_snapshot asked for, and with it its slot, or the session that keeps it; harmless if
there is none.';
REVOKE ALL ON FUNCTION zodan.close_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.open_snapshot(p_node text, p_snapshot text, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Asks a node for a snapshot and its position in the node's WAL, without waiting for it: through a connection of its
own, with a temporary slot, which waits for the transactions that are open there. The snapshot lives until
zodan.close_snapshot, or until this session ends. p_snapshot names the connection. Returns NULL when that is under way, or {ok: false,
sqlstate, message} without secrets. */
DECLARE
    v_answer jsonb;
BEGIN
    PERFORM zodan.close_snapshot(p_snapshot);
    v_answer := zodan.connect(p_snapshot, p_node, p_dsns, 'zodan snapshot', '{"replication": "database"}');
    IF NOT (v_answer ->> 'ok')::boolean THEN
        RETURN v_answer;
    ELSIF dblink_send_query(p_snapshot, pg_catalog.format('CREATE_REPLICATION_SLOT "%s" TEMPORARY LOGICAL spock_output'
        ' (SNAPSHOT ''export'')', p_snapshot || '_' || pg_catalog.pg_backend_pid())) = 1 THEN
        RETURN NULL;
    END IF;
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', '08006',
        'message', dblink_error_message(p_snapshot));
END
$zodan$;
COMMENT ON FUNCTION zodan.open_snapshot IS
'Asks a node for a snapshot and its position in the node''s WAL, without waiting for it: through a connection of its
own, with a temporary slot, which waits for the transactions that are open there. The snapshot lives until
zodan.close_snapshot, or until this session ends. p_snapshot names the connection. Returns NULL when that is under way, or {ok: false,
sqlstate, message} without secrets.';
REVOKE ALL ON FUNCTION zodan.open_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.fetch_snapshot(p_snapshot text, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Checks whether the snapshot that zodan.open_snapshot asked for is there. Returns NULL while it is not; then {ok:
true, snapshot, lsn} or {ok: false, sqlstate, message}, free of the secrets of p_dsns. A cancel of the caller passes
through. */
DECLARE
    v_found record;
    v_message text;
    v_context text;
BEGIN
    IF dblink_is_busy(p_snapshot) = 1 THEN
        RETURN NULL;
    END IF;
    SELECT r.lsn, r.snapshot INTO STRICT v_found FROM dblink_get_result(p_snapshot) AS r(slot text, lsn text, snapshot text, plugin text);
    RETURN pg_catalog.jsonb_build_object('ok', true, 'snapshot', v_found.snapshot, 'lsn', v_found.lsn);
EXCEPTION WHEN OTHERS OR query_canceled THEN
    GET STACKED DIAGNOSTICS v_message = MESSAGE_TEXT, v_context = PG_EXCEPTION_CONTEXT;
    IF SQLSTATE = '57014' AND v_context !~ 'dblink connection' THEN
        RAISE;
    END IF;
    PERFORM zodan.close_snapshot(p_snapshot);
    RETURN pg_catalog.jsonb_build_object('ok', false, 'sqlstate', SQLSTATE, 'message', zodan.redact_text(v_message, p_dsns));
END
$zodan$;
COMMENT ON FUNCTION zodan.fetch_snapshot IS
'Checks whether the snapshot that zodan.open_snapshot asked for is there. Returns NULL while it is not; then {ok:
true, snapshot, lsn} or {ok: false, sqlstate, message}, free of the secrets of p_dsns. A cancel of the caller passes
through.';
REVOKE ALL ON FUNCTION zodan.fetch_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.open_keeper(
    p_node text,
    p_snapshot text,
    p_dsns jsonb,
    p_subscription text,
    p_exported text,
    p_lsn text,
    p_is_kept boolean
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Opens a session on a node that keeps the snapshot p_exported of the copy p_subscription, at p_lsn, in place of the
session that p_snapshot names. It lives 600 s longer than the caller, and its own name says what
it keeps. p_is_kept says that an earlier caller's session has kept the snapshot until now; that one ends. Returns {ok:
true, snapshot}, the name of the snapshot from now on; or {ok: false}, and the old one is as it was. */
DECLARE
    v_keeper text := zodan.keeper_name(p_snapshot);
    v_caller text := zodan.name_caller(pg_catalog.pg_backend_pid());
    v_kept text;
BEGIN
    PERFORM zodan.disconnect(v_keeper);
    IF NOT (zodan.connect(v_keeper, p_node, p_dsns, 'zodan keeper', '{}') ->> 'ok')::boolean THEN
        RETURN '{"ok": false}'::jsonb;
    END IF;
    PERFORM * FROM dblink(v_keeper, zodan.set_keeper()) AS s(done text);
    -- One message for all: each is a round trip for which the whole copy waits.
    SELECT k.snapshot INTO STRICT v_kept FROM dblink(v_keeper, pg_catalog.format(
        'BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT %L;', p_exported)
        || zodan.keep_snapshot(p_subscription => p_subscription, p_lsn => p_lsn,
            p_kept => CASE WHEN p_is_kept THEN p_exported ELSE '' END)) AS k(snapshot text, name text);
    IF dblink_send_query(v_keeper, zodan.end_snapshots(p_subscription) || ';' || zodan.outlive_caller(v_caller)) <> 1 THEN
        PERFORM zodan.disconnect(v_keeper);
        RETURN '{"ok": false}'::jsonb;
    END IF;
    PERFORM zodan.disconnect(p_snapshot);
    RETURN pg_catalog.jsonb_build_object('ok', true, 'snapshot', v_kept);
EXCEPTION WHEN OTHERS THEN
    PERFORM zodan.disconnect(v_keeper);
    RETURN '{"ok": false}'::jsonb;
END
$zodan$;
COMMENT ON FUNCTION zodan.open_keeper IS
'Opens a session on a node that keeps the snapshot p_exported of the copy p_subscription, at p_lsn, in place of the
session that p_snapshot names. It lives 600 s longer than the caller, and its own name says what
it keeps. p_is_kept says that an earlier caller''s session has kept the snapshot until now; that one ends. Returns {ok:
true, snapshot}, the name of the snapshot from now on; or {ok: false}, and the old one is as it was.';
REVOKE ALL ON FUNCTION zodan.open_keeper FROM PUBLIC;

DO $zodan$ BEGIN PERFORM zodan.find_dblink(); END $zodan$;

CREATE OR REPLACE FUNCTION zodan.read_patience()
RETURNS interval
LANGUAGE sql STABLE
AS $zodan$
SELECT zodan.read_duration('zodan.sync_timeout',
    coalesce(nullif(pg_catalog.current_setting('zodan.sync_timeout', true), ''),
             nullif(nullif(pg_catalog.current_setting('spock.sync_timeout', true), ''), '0')),
    '10 min')
$zodan$;
COMMENT ON FUNCTION zodan.read_patience IS
'Returns how long a wait may go without progress: the setting zodan.sync_timeout if it is set (an interval, or a
number of seconds), else Spock''s own spock.sync_timeout if that is set, else 10 min. Errors:
ZD004.';
REVOKE ALL ON FUNCTION zodan.read_patience FROM PUBLIC;

DO $zodan$
DECLARE
    v_type pg_catalog.pg_type;
    v_wanted text[] := ARRAY(SELECT pg_catalog.format('%I %s', c.name, c.type::regtype) FROM (VALUES
        (1, 'phase',
            'int'),
        (2, 'phase_name',
            'text'),
        (3, 'ordinal',
            'int'),
        (4, 'ref',
            'text'),
        (5, 'kind',
            'text'),
        (6, 'group_name',
            'text'),
        (7, 'group_tries',
            'int'),
        (8, 'policy',
            'text'),
        (9, 'node',
            'text'),
        (10, 'object_name',
            'text'),
        (11, 'title',
            'text'),
        (12, 'do_sql',
            'text'),
        (13, 'done_sql',
            'text'),
        (14, 'undo_sql',
            'text'),
        (15, 'until_sql',
            'text'),
        (16, 'budget',
            'interval'),
        (17, 'units',
            'jsonb')
    ) AS c(place, name, type) ORDER BY c.place);
    v_there text[];
    v_routine regprocedure;
    v_others boolean;
BEGIN
    SELECT * INTO v_type FROM pg_catalog.pg_type AS t WHERE t.oid = pg_catalog.to_regtype('zodan.plan_step');
    IF FOUND THEN
        v_there := ARRAY(SELECT pg_catalog.format('%I %s', a.attname, a.atttypid::regtype)
            FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = v_type.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
        IF v_there = v_wanted THEN
            RETURN;
        END IF;
        -- These were written for the earlier columns. The scripts create them again.
        FOR v_routine IN
            SELECT p.oid FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace IN ('zodan'::regnamespace, pg_catalog.to_regnamespace('spock'))
               AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_catalog.pg_type'::regclass
                                  AND d.refobjid IN (v_type.oid, v_type.typarray))
             ORDER BY p.oid DESC
        LOOP
            EXECUTE pg_catalog.format('DROP ROUTINE %s', v_routine);
        END LOOP;
        IF v_routine IS NOT NULL THEN
            RAISE WARNING 'Zodan of another version was here: load both scripts, zodan.sql and zodremove.sql';
        END IF;
        -- A type that rows are stored in cannot be changed.
        IF v_there = v_wanted[1:pg_catalog.cardinality(v_there)] AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
                WHERE a.atttypid IN (v_type.oid, v_type.typarray) AND c.relkind IN ('r', 'p', 'm')) THEN
            FOR v_place IN pg_catalog.cardinality(v_there) + 1 .. pg_catalog.cardinality(v_wanted) LOOP
                EXECUTE pg_catalog.format('ALTER TYPE zodan.plan_step ADD ATTRIBUTE %s', v_wanted[v_place]);
            END LOOP;
            RETURN;
        END IF;
        SELECT pg_catalog.count(*) > 0 INTO v_others FROM pg_catalog.pg_depend AS d
         WHERE d.deptype = 'n' AND (d.refclassid, d.refobjid) IN (('pg_catalog.pg_type'::regclass, v_type.oid),
               ('pg_catalog.pg_type'::regclass, v_type.typarray), ('pg_catalog.pg_class'::regclass, v_type.typrelid));
        IF v_others THEN
            -- A user's view, function or table keeps the type that it was made with.
            IF EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'zodan') THEN
                ALTER EXTENSION zodan DROP TYPE zodan.plan_step;
            END IF;
            EXECUTE pg_catalog.format('ALTER TYPE zodan.plan_step RENAME TO %I',
                pg_catalog.concat(v_type.typname, '_', v_type.oid));
        ELSE
            DROP TYPE zodan.plan_step;
        END IF;
    END IF;
    CREATE TYPE zodan.plan_step AS (
        phase int, phase_name text, ordinal int, ref text, kind text, group_name text, group_tries int, policy text,
    node text, object_name text, title text,
    do_sql text, done_sql text, undo_sql text, until_sql text, budget interval, units jsonb);
END
$zodan$;
COMMENT ON TYPE zodan.plan_step IS
'One step of a plan: the columns of zodan.step that are known before it runs.';

DO $zodan$
DECLARE
    v_type pg_catalog.pg_type;
    v_wanted text[] := ARRAY(SELECT pg_catalog.format('%I %s', c.name, c.type::regtype) FROM (VALUES
        (1, 'key',
            'text'),
        (2, 'name',
            'text'),
        (3, 'scope',
            'text'),
        (4, 'severity',
            'text'),
        (5, 'passed',
            'boolean'),
        (6, 'observed',
            'text'),
        (7, 'required',
            'text'),
        (8, 'hint',
            'text')
    ) AS c(place, name, type) ORDER BY c.place);
    v_there text[];
    v_routine regprocedure;
    v_others boolean;
BEGIN
    SELECT * INTO v_type FROM pg_catalog.pg_type AS t WHERE t.oid = pg_catalog.to_regtype('zodan.finding');
    IF FOUND THEN
        v_there := ARRAY(SELECT pg_catalog.format('%I %s', a.attname, a.atttypid::regtype)
            FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = v_type.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
        IF v_there = v_wanted THEN
            RETURN;
        END IF;
        -- These were written for the earlier columns. The scripts create them again.
        FOR v_routine IN
            SELECT p.oid FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace IN ('zodan'::regnamespace, pg_catalog.to_regnamespace('spock'))
               AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_catalog.pg_type'::regclass
                                  AND d.refobjid IN (v_type.oid, v_type.typarray))
             ORDER BY p.oid DESC
        LOOP
            EXECUTE pg_catalog.format('DROP ROUTINE %s', v_routine);
        END LOOP;
        IF v_routine IS NOT NULL THEN
            RAISE WARNING 'Zodan of another version was here: load both scripts, zodan.sql and zodremove.sql';
        END IF;
        -- A type that rows are stored in cannot be changed.
        IF v_there = v_wanted[1:pg_catalog.cardinality(v_there)] AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
                WHERE a.atttypid IN (v_type.oid, v_type.typarray) AND c.relkind IN ('r', 'p', 'm')) THEN
            FOR v_place IN pg_catalog.cardinality(v_there) + 1 .. pg_catalog.cardinality(v_wanted) LOOP
                EXECUTE pg_catalog.format('ALTER TYPE zodan.finding ADD ATTRIBUTE %s', v_wanted[v_place]);
            END LOOP;
            RETURN;
        END IF;
        SELECT pg_catalog.count(*) > 0 INTO v_others FROM pg_catalog.pg_depend AS d
         WHERE d.deptype = 'n' AND (d.refclassid, d.refobjid) IN (('pg_catalog.pg_type'::regclass, v_type.oid),
               ('pg_catalog.pg_type'::regclass, v_type.typarray), ('pg_catalog.pg_class'::regclass, v_type.typrelid));
        IF v_others THEN
            -- A user's view, function or table keeps the type that it was made with.
            IF EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'zodan') THEN
                ALTER EXTENSION zodan DROP TYPE zodan.finding;
            END IF;
            EXECUTE pg_catalog.format('ALTER TYPE zodan.finding RENAME TO %I',
                pg_catalog.concat(v_type.typname, '_', v_type.oid));
        ELSE
            DROP TYPE zodan.finding;
        END IF;
    END IF;
    CREATE TYPE zodan.finding AS (
        key text, name text, scope text, severity text, passed boolean, observed text, required text, hint text);
END
$zodan$;
COMMENT ON TYPE zodan.finding IS
'What a check found: its key, which stays the same when the name is reworded; its name; the node or pair of nodes
that it examined; severity (fail, warn, info); whether it passed (NULL where that cannot be known); what it saw; what
is needed; and one thing to do if it did not pass.';

DO $zodan$
DECLARE
    v_type pg_catalog.pg_type;
    v_wanted text[] := ARRAY(SELECT pg_catalog.format('%I %s', c.name, c.type::regtype) FROM (VALUES
        (1, 'key',
            'text'),
        (2, 'name',
            'text'),
        (3, 'scope',
            'text'),
        (4, 'severity',
            'text'),
        (5, 'passed',
            'boolean'),
        (6, 'observed',
            'text'),
        (7, 'required',
            'text'),
        (8, 'hint',
            'text'),
        (9, 'verdict',
            'text')
    ) AS c(place, name, type) ORDER BY c.place);
    v_there text[];
    v_routine regprocedure;
    v_others boolean;
BEGIN
    SELECT * INTO v_type FROM pg_catalog.pg_type AS t WHERE t.oid = pg_catalog.to_regtype('zodan.check_result');
    IF FOUND THEN
        v_there := ARRAY(SELECT pg_catalog.format('%I %s', a.attname, a.atttypid::regtype)
            FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = v_type.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
        IF v_there = v_wanted THEN
            RETURN;
        END IF;
        -- These were written for the earlier columns. The scripts create them again.
        FOR v_routine IN
            SELECT p.oid FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace IN ('zodan'::regnamespace, pg_catalog.to_regnamespace('spock'))
               AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_catalog.pg_type'::regclass
                                  AND d.refobjid IN (v_type.oid, v_type.typarray))
             ORDER BY p.oid DESC
        LOOP
            EXECUTE pg_catalog.format('DROP ROUTINE %s', v_routine);
        END LOOP;
        IF v_routine IS NOT NULL THEN
            RAISE WARNING 'Zodan of another version was here: load both scripts, zodan.sql and zodremove.sql';
        END IF;
        -- A type that rows are stored in cannot be changed.
        IF v_there = v_wanted[1:pg_catalog.cardinality(v_there)] AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
                WHERE a.atttypid IN (v_type.oid, v_type.typarray) AND c.relkind IN ('r', 'p', 'm')) THEN
            FOR v_place IN pg_catalog.cardinality(v_there) + 1 .. pg_catalog.cardinality(v_wanted) LOOP
                EXECUTE pg_catalog.format('ALTER TYPE zodan.check_result ADD ATTRIBUTE %s', v_wanted[v_place]);
            END LOOP;
            RETURN;
        END IF;
        SELECT pg_catalog.count(*) > 0 INTO v_others FROM pg_catalog.pg_depend AS d
         WHERE d.deptype = 'n' AND (d.refclassid, d.refobjid) IN (('pg_catalog.pg_type'::regclass, v_type.oid),
               ('pg_catalog.pg_type'::regclass, v_type.typarray), ('pg_catalog.pg_class'::regclass, v_type.typrelid));
        IF v_others THEN
            -- A user's view, function or table keeps the type that it was made with.
            IF EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'zodan') THEN
                ALTER EXTENSION zodan DROP TYPE zodan.check_result;
            END IF;
            EXECUTE pg_catalog.format('ALTER TYPE zodan.check_result RENAME TO %I',
                pg_catalog.concat(v_type.typname, '_', v_type.oid));
        ELSE
            DROP TYPE zodan.check_result;
        END IF;
    END IF;
    CREATE TYPE zodan.check_result AS (
        key text, name text, scope text, severity text, passed boolean, observed text, required text, hint text,
        verdict text);
END
$zodan$;
COMMENT ON TYPE zodan.check_result IS
'What a check found, as in zodan.finding, and the verdict on it: FAIL, WARN, INFO or PASS.';

CREATE TABLE IF NOT EXISTS zodan.operation (
    operation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('add_node', 'remove_node', 'replace_node', 'mend')),
    node text NOT NULL,
    arguments jsonb NOT NULL,
    members jsonb NOT NULL,
    state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'failed', 'done', 'rolled back', 'given up')),
    error text,
    called_by text NOT NULL DEFAULT session_user,
    started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    finished_at timestamptz,
    checks jsonb
);
DO $zodan$
DECLARE
    v_column text;
BEGIN
    FOR v_column IN
        SELECT c.column FROM (VALUES
            (1, $column$operation_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY$column$),
            (2, $column$kind text NOT NULL CHECK (kind IN ('add_node', 'remove_node', 'replace_node', 'mend'))$column$),
            (3, $column$node text NOT NULL$column$),
            (4, $column$arguments jsonb NOT NULL$column$),
            (5, $column$members jsonb NOT NULL$column$),
            (6, $column$state text NOT NULL DEFAULT 'running' CHECK (state IN ('running', 'failed', 'done', 'rolled back', 'given up'))$column$),
            (7, $column$error text$column$),
            (8, $column$called_by text NOT NULL DEFAULT session_user$column$),
            (9, $column$started_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()$column$),
            (10, $column$finished_at timestamptz$column$),
            (11, $column$checks jsonb$column$)
        ) AS c(place, "column")
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = 'zodan.operation'::regclass
                                AND a.attname = pg_catalog.split_part(c.column, ' ', 1) AND NOT a.attisdropped)
         ORDER BY c.place
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE zodan.operation ADD COLUMN %s', v_column);
    END LOOP;
    ALTER TABLE zodan.operation DROP CONSTRAINT IF EXISTS operation_kind_check,
        ADD CONSTRAINT operation_kind_check CHECK (kind IN ('add_node', 'remove_node', 'replace_node', 'mend'));
    ALTER TABLE zodan.operation DROP CONSTRAINT IF EXISTS operation_state_check,
        ADD CONSTRAINT operation_state_check CHECK (state IN ('running', 'failed', 'done', 'rolled back', 'given up'));
END
$zodan$;
COMMENT ON TABLE zodan.operation IS
'One row per operation called in this database: what was asked, of whom, and how it ended. arguments, members (node
and connection string) and checks (what was examined before it began, as zodan.checks returns it) hold no secrets.
State "running" while no session holds the locks means that the caller died; call the operation again to finish it.';
REVOKE ALL ON TABLE zodan.operation FROM PUBLIC;

CREATE TABLE IF NOT EXISTS zodan.step (
    operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE,
    phase int NOT NULL,
    ordinal int NOT NULL,
    node text NOT NULL,
    title text NOT NULL,
    do_sql text,
    done_sql text,
    undo_sql text,
    until_sql text,
    budget interval,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed', 'undone')),
    attempts int NOT NULL DEFAULT 0,
    result jsonb,
    error text,
    started_at timestamptz,
    finished_at timestamptz,
    phase_name text NOT NULL DEFAULT '',
    kind text NOT NULL DEFAULT 'act' CHECK (kind IN ('act', 'wait', 'verify')),
    group_name text,
    group_tries int,
    policy text CHECK (policy IN ('once', 'final', 'guarded', 'again', 'swift', 'fresh', 'passed')),
    object_name text,
    units jsonb,
    waiting_for text,
    PRIMARY KEY (operation_id, ordinal)
);
DO $zodan$
DECLARE
    v_column text;
BEGIN
    FOR v_column IN
        SELECT c.column FROM (VALUES
            (1, $column$operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE$column$),
            (2, $column$phase int NOT NULL$column$),
            (3, $column$ordinal int NOT NULL$column$),
            (4, $column$node text NOT NULL$column$),
            (5, $column$title text NOT NULL$column$),
            (6, $column$do_sql text$column$),
            (7, $column$done_sql text$column$),
            (8, $column$undo_sql text$column$),
            (9, $column$until_sql text$column$),
            (10, $column$budget interval$column$),
            (11, $column$state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed', 'undone'))$column$),
            (12, $column$attempts int NOT NULL DEFAULT 0$column$),
            (13, $column$result jsonb$column$),
            (14, $column$error text$column$),
            (15, $column$started_at timestamptz$column$),
            (16, $column$finished_at timestamptz$column$),
            (17, $column$phase_name text NOT NULL DEFAULT ''$column$),
            (18, $column$kind text NOT NULL DEFAULT 'act' CHECK (kind IN ('act', 'wait', 'verify'))$column$),
            (19, $column$group_name text$column$),
            (20, $column$group_tries int$column$),
            (21, $column$policy text CHECK (policy IN ('once', 'final', 'guarded', 'again', 'swift', 'fresh', 'passed'))$column$),
            (22, $column$object_name text$column$),
            (23, $column$units jsonb$column$),
            (24, $column$waiting_for text$column$)
        ) AS c(place, "column")
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = 'zodan.step'::regclass
                                AND a.attname = pg_catalog.split_part(c.column, ' ', 1) AND NOT a.attisdropped)
         ORDER BY c.place
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE zodan.step ADD COLUMN %s', v_column);
    END LOOP;
    ALTER TABLE zodan.step DROP CONSTRAINT IF EXISTS step_state_check,
        ADD CONSTRAINT step_state_check CHECK (state IN ('pending', 'running', 'done', 'failed', 'undone'));
    ALTER TABLE zodan.step DROP CONSTRAINT IF EXISTS step_kind_check,
        ADD CONSTRAINT step_kind_check CHECK (kind IN ('act', 'wait', 'verify'));
    ALTER TABLE zodan.step DROP CONSTRAINT IF EXISTS step_policy_check,
        ADD CONSTRAINT step_policy_check CHECK (policy IN ('once', 'final', 'guarded', 'again', 'swift', 'fresh', 'passed'));
END
$zodan$;
COMMENT ON TABLE zodan.step IS
'The journal: the plan of each operation, one row per step, with its progress. Steps of one phase run at the same
time. phase_name and kind (act, wait or verify) say what a step is for; object_name names the object of the node that it
concerns, where a phase has several. Programs rely on these: titles are for people, and a later version may reword them.
Statements name connection strings as {dsn:node} and results as {result:ordinal.field}, so that no secret is ever
stored. The steps of a group_name are undone and tried again as a whole, group_tries times in one call. policy says what
is special about a step. once: not repeated after it is done. final: from there on the operation cannot be rolled back.
guarded: not undone if users have written on the new node. again: runs again before a later group is tried again. fresh:
runs again in each call. swift: holds others up, so it fails at once if its node is lost, and once done it stands for
all steps before it. passed: once all steps of this policy are done, a resume runs none before them again. budget is how
long until_sql may see no progress; null means as long as the session that runs it says. units says of a step whose
work is in zodan.unit how it is done: lanes, how many
sessions at a time; max_rate, how many bytes a second all of them may read, if that is limited; lane_sql, what prepares
one; unit_sql, what does one unit; snapshot, the node that each bundle of units needs a snapshot of; clear_sql, what
empties the tables of a bundle whose snapshot was lost; load_sql, a look at what that node carries; max_lag, how far a
peer may lag behind it. Of a step that compares rows, what it found is in zodan.compared, and units says: compare, the
nodes; sets, the replication sets; lanes and max_lag. waiting_for is what holds a step up, as far as it is known.';
REVOKE ALL ON TABLE zodan.step FROM PUBLIC;

CREATE TABLE IF NOT EXISTS zodan.sample (
    operation_id bigint NOT NULL,
    ordinal int NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    measure jsonb NOT NULL,
    PRIMARY KEY (operation_id, ordinal, taken_at),
    FOREIGN KEY (operation_id, ordinal) REFERENCES zodan.step ON DELETE CASCADE
);
DO $zodan$
DECLARE
    v_column text;
BEGIN
    FOR v_column IN
        SELECT c.column FROM (VALUES
            (1, $column$operation_id bigint NOT NULL$column$),
            (2, $column$ordinal int NOT NULL$column$),
            (3, $column$taken_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()$column$),
            (4, $column$measure jsonb NOT NULL$column$)
        ) AS c(place, "column")
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = 'zodan.sample'::regclass
                                AND a.attname = pg_catalog.split_part(c.column, ' ', 1) AND NOT a.attisdropped)
         ORDER BY c.place
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE zodan.sample ADD COLUMN %s', v_column);
    END LOOP;
END
$zodan$;
COMMENT ON TABLE zodan.sample IS
'What a step measured while it waited. Of a copy: its stage, tables and bytes, done and in all, and the table under
way, what the copy is paused for, and who waits behind it. Of a comparison of rows: its stage, verify, tables, the
table under way and what it is paused for. Of a stream: lag_bytes to the position waited for. What is not known is
null. The longer the step waits, the further apart its samples lie.';
REVOKE ALL ON TABLE zodan.sample FROM PUBLIC;

CREATE TABLE IF NOT EXISTS zodan.unit (
    operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE,
    phase_name text NOT NULL,
    number int NOT NULL,
    bundle text NOT NULL,
    title text NOT NULL,
    bytes bigint NOT NULL,
    tables int NOT NULL,
    what jsonb NOT NULL,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed')),
    lane int,
    attempts int NOT NULL DEFAULT 0,
    snapshot text,
    lsn pg_lsn,
    spoiled boolean NOT NULL DEFAULT false,
    rows bigint,
    error text,
    due timestamptz,
    started_at timestamptz,
    finished_at timestamptz,
    files jsonb,
    proved pg_lsn,
    follows text,
    PRIMARY KEY (operation_id, phase_name, number)
);
DO $zodan$
DECLARE
    v_column text;
BEGIN
    FOR v_column IN
        SELECT c.column FROM (VALUES
            (1, $column$operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE$column$),
            (2, $column$phase_name text NOT NULL$column$),
            (3, $column$number int NOT NULL$column$),
            (4, $column$bundle text NOT NULL$column$),
            (5, $column$title text NOT NULL$column$),
            (6, $column$bytes bigint NOT NULL$column$),
            (7, $column$tables int NOT NULL$column$),
            (8, $column$what jsonb NOT NULL$column$),
            (9, $column$state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed'))$column$),
            (10, $column$lane int$column$),
            (11, $column$attempts int NOT NULL DEFAULT 0$column$),
            (12, $column$snapshot text$column$),
            (13, $column$lsn pg_lsn$column$),
            (14, $column$spoiled boolean NOT NULL DEFAULT false$column$),
            (15, $column$rows bigint$column$),
            (16, $column$error text$column$),
            (17, $column$due timestamptz$column$),
            (18, $column$started_at timestamptz$column$),
            (19, $column$finished_at timestamptz$column$),
            (20, $column$files jsonb$column$),
            (21, $column$proved pg_lsn$column$),
            (22, $column$follows text$column$)
        ) AS c(place, "column")
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = 'zodan.unit'::regclass
                                AND a.attname = pg_catalog.split_part(c.column, ' ', 1) AND NOT a.attisdropped)
         ORDER BY c.place
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE zodan.unit ADD COLUMN %s', v_column);
    END LOOP;
    ALTER TABLE zodan.unit DROP CONSTRAINT IF EXISTS unit_state_check,
        ADD CONSTRAINT unit_state_check CHECK (state IN ('pending', 'running', 'done', 'failed'));
END
$zodan$;
COMMENT ON TABLE zodan.unit IS
'The units of a step whose work is divided: what is copied, a part of a large table, a table or a batch of small
ones, and what is built afterwards. phase_name is that of the step; units of one bundle have the same snapshot, which
is at lsn. A unit that is done is never done again, unless the snapshot was lost before the last unit of its bundle was
done, a table of the bundle was rewritten before the next snapshot, or the copy starts over. rows is how many were
copied, NULL where a caller died before it could hear. lane is the session that it runs in, or ran in, attempts how
often it was tried, error why that failed the last time, or which tables were passed over, and due when it may be tried
again. files is an object of the tables'' oids and the numbers of their files on the source, and proved the position of
the last snapshot in which they were the same. follows is the bundle of the phase beside it that has to be done
first.';
REVOKE ALL ON TABLE zodan.unit FROM PUBLIC;

CREATE TABLE IF NOT EXISTS zodan.compared (
    operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE,
    phase_name text NOT NULL,
    table_name text NOT NULL,
    number int NOT NULL,
    row_key jsonb,
    result text NOT NULL CHECK (result IN ('equal', 'different', 'undecided')),
    compared bigint,
    equal bigint,
    different bigint,
    undecided bigint,
    seconds numeric,
    why text,
    nodes jsonb,
    print text,
    compared_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    PRIMARY KEY (operation_id, phase_name, table_name, number)
);
DO $zodan$
DECLARE
    v_column text;
BEGIN
    FOR v_column IN
        SELECT c.column FROM (VALUES
            (1, $column$operation_id bigint NOT NULL REFERENCES zodan.operation ON DELETE CASCADE$column$),
            (2, $column$phase_name text NOT NULL$column$),
            (3, $column$table_name text NOT NULL$column$),
            (4, $column$number int NOT NULL$column$),
            (5, $column$row_key jsonb$column$),
            (6, $column$result text NOT NULL CHECK (result IN ('equal', 'different', 'undecided'))$column$),
            (7, $column$compared bigint$column$),
            (8, $column$equal bigint$column$),
            (9, $column$different bigint$column$),
            (10, $column$undecided bigint$column$),
            (11, $column$seconds numeric$column$),
            (12, $column$why text$column$),
            (13, $column$nodes jsonb$column$),
            (14, $column$print text$column$),
            (15, $column$compared_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()$column$)
        ) AS c(place, "column")
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_attribute AS a
                            WHERE a.attrelid = 'zodan.compared'::regclass
                                AND a.attname = pg_catalog.split_part(c.column, ' ', 1) AND NOT a.attisdropped)
         ORDER BY c.place
    LOOP
        EXECUTE pg_catalog.format('ALTER TABLE zodan.compared ADD COLUMN %s', v_column);
    END LOOP;
    ALTER TABLE zodan.compared DROP CONSTRAINT IF EXISTS compared_result_check,
        ADD CONSTRAINT compared_result_check CHECK (result IN ('equal', 'different', 'undecided'));
END
$zodan$;
COMMENT ON TABLE zodan.compared IS
'What the steps that compare rows found, by operation, the name of the step''s phase, and table. The row of number 0 is
about the table, the others about rows that are different or undecided; the other columns are those of zodan.verify.
print is a digest of what was compared: the nodes and how each has the table. A call that resumes the operation does not
compare a table again that was equal 24 h ago or less, while its print is the same.';
REVOKE ALL ON TABLE zodan.compared FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.keep_budget(p_policy text, p_budget interval)
RETURNS interval
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN p_policy IS DISTINCT FROM 'swift' THEN nullif(p_budget, zodan.read_patience()) ELSE p_budget END
$zodan$;
COMMENT ON FUNCTION zodan.keep_budget IS
'Returns the budget of a planned step as the journal keeps it: NULL where it is the patience of the session that plans, so
that a session which continues has its own. Steps that hold others up keep theirs.';
REVOKE ALL ON FUNCTION zodan.keep_budget FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.start_operation(
    p_kind text,
    p_node text,
    p_arguments jsonb,
    p_dsns jsonb,
    p_plan zodan.plan_step[],
    p_checks zodan.check_result[] DEFAULT NULL
)
RETURNS bigint
LANGUAGE plpgsql
AS $zodan$
/* Writes a new operation and its plan to the journal and returns the operation's number. The connection strings of
p_dsns and the earlier checks are stored without secrets. */
DECLARE
    v_operation bigint;
    v_secrets text[] := zodan.find_secrets(p_dsns);
BEGIN
    INSERT INTO zodan.operation (kind, node, arguments, members, checks)
    SELECT p_kind, p_node, p_arguments, pg_catalog.jsonb_object_agg(d.key, zodan.redact_dsn(d.value)),
           (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(c) - 'place'
                       || pg_catalog.jsonb_build_object('observed', zodan.mask_secrets(c.observed, v_secrets))
                           ORDER BY c.place)
              FROM pg_catalog.unnest(p_checks) WITH ORDINALITY
                       AS c(key, name, scope, severity, passed, observed, required, hint, verdict, place))
      FROM pg_catalog.jsonb_each_text(p_dsns) AS d(key, value)
    RETURNING operation_id INTO v_operation;
    INSERT INTO zodan.step (operation_id, phase, phase_name, ordinal, kind, group_name, group_tries, policy, node,
        object_name, title,
        do_sql, done_sql, undo_sql, until_sql, budget, units)
    SELECT v_operation, p.phase, p.phase_name, p.ordinal, p.kind, p.group_name, p.group_tries, p.policy, p.node,
        p.object_name, p.title,
           p.do_sql, p.done_sql, p.undo_sql, p.until_sql, zodan.keep_budget(p.policy, p.budget), p.units
      FROM pg_catalog.unnest(p_plan) AS p;
    RETURN v_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.start_operation IS
'Writes a new operation and its plan to the journal and returns the operation''s number. The connection strings of
p_dsns and the earlier checks are stored without secrets.';
REVOKE ALL ON FUNCTION zodan.start_operation FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_interrupted(p_kind text, p_node text)
RETURNS bigint
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN o.state IN ('running', 'failed') THEN o.operation_id END
  FROM zodan.operation AS o
 WHERE o.kind = p_kind AND o.node = p_node
 ORDER BY o.operation_id DESC
 LIMIT 1
$zodan$;
COMMENT ON FUNCTION zodan.find_interrupted IS
'Returns the newest operation of a kind on a node if it was neither finished nor rolled back, else NULL.';
REVOKE ALL ON FUNCTION zodan.find_interrupted FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.read_plan(p_kind text, p_node text)
RETURNS zodan.plan_step[]
LANGUAGE sql STABLE
AS $zodan$
SELECT pg_catalog.array_agg(ROW(s.phase, s.phase_name, s.ordinal, NULL, s.kind, s.group_name, s.group_tries, s.policy,
    s.node, s.object_name,
           s.title, s.do_sql, s.done_sql, s.undo_sql, s.until_sql, s.budget, s.units)::zodan.plan_step ORDER BY s.ordinal)
  FROM zodan.step AS s
 WHERE s.operation_id = zodan.find_interrupted(p_kind, p_node)
$zodan$;
COMMENT ON FUNCTION zodan.read_plan IS
'Returns the plan of the interrupted operation of a kind on a node, or NULL if there is none: what calling the
operation again would run, without the steps already done.';
REVOKE ALL ON FUNCTION zodan.read_plan FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.finish_operation(p_operation bigint, p_state text, p_error text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Records how an operation ended. The error holds no secrets, as zodan.fetch_result returns it. */
BEGIN
    UPDATE zodan.operation
       SET state = p_state, error = p_error, finished_at = pg_catalog.clock_timestamp()
     WHERE operation_id = p_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.finish_operation IS
'Records how an operation ended. The error holds no secrets, as zodan.fetch_result returns it.';
REVOKE ALL ON FUNCTION zodan.finish_operation FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.give_up_operations(p_node text, p_reason text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Marks every unfinished operation on a node as given up: nobody will resume one, because the node is gone. */
BEGIN
    UPDATE zodan.operation
       SET state = 'given up', error = p_reason, finished_at = pg_catalog.clock_timestamp()
     WHERE node = p_node AND state IN ('running', 'failed');
END
$zodan$;
COMMENT ON FUNCTION zodan.give_up_operations IS
'Marks every unfinished operation on a node as given up: nobody will resume one, because the node is gone.';
REVOKE ALL ON FUNCTION zodan.give_up_operations FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.replace_plan(
    p_operation bigint,
    p_plan zodan.plan_step[],
    p_before zodan.step[]
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Replaces p_before with another plan in the journal of an operation. A step of the same node, phase, kind and
object, matched in order, keeps its state, attempts and result. */
BEGIN
    DELETE FROM zodan.step AS s USING pg_catalog.unnest(p_before) AS b
     WHERE s.operation_id = p_operation AND b.ordinal = s.ordinal;
    INSERT INTO zodan.step (operation_id, phase, phase_name, ordinal, kind, group_name, group_tries, policy, node,
        object_name, title,
        do_sql, done_sql, undo_sql, until_sql, budget, units, state, attempts, result)
    SELECT p_operation, p.phase, p.phase_name, p.ordinal, p.kind, p.group_name, p.group_tries, p.policy, p.node,
        p.object_name, p.title,
           p.do_sql, p.done_sql, p.undo_sql, p.until_sql, zodan.keep_budget(p.policy, p.budget), p.units,
           coalesce(b.state, 'pending'), coalesce(b.attempts, 0), b.result
      FROM (SELECT n.*, coalesce(n.object_name, '') AS object,
                   pg_catalog.row_number() OVER (PARTITION BY n.node, n.phase_name, n.kind, n.object_name
                       ORDER BY n.ordinal) AS place
              FROM pg_catalog.unnest(p_plan) AS n) AS p
      LEFT JOIN (SELECT s.*, coalesce(s.object_name, '') AS object,
                        pg_catalog.row_number() OVER (PARTITION BY s.node, s.phase_name, s.kind, s.object_name
                            ORDER BY s.ordinal) AS place
                   FROM pg_catalog.unnest(p_before) AS s) AS b
        ON (b.node, b.phase_name, b.kind, b.object, b.place) = (p.node, p.phase_name, p.kind, p.object, p.place);
END
$zodan$;
COMMENT ON FUNCTION zodan.replace_plan IS
'Replaces p_before with another plan in the journal of an operation. A step of the same node, phase, kind and
object, matched in order, keeps its state, attempts and result.';
REVOKE ALL ON FUNCTION zodan.replace_plan FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.has_joined(p_operation bigint)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.bool_and(s.state = 'done'), false)
  FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'passed'
$zodan$;
COMMENT ON FUNCTION zodan.has_joined IS
'Returns whether an operation has passed all its steps of policy passed: in a replacement, the new node has joined.';
REVOKE ALL ON FUNCTION zodan.has_joined FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_final(p_operation bigint)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT EXISTS (SELECT FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'final' AND s.attempts > 0)
$zodan$;
COMMENT ON FUNCTION zodan.is_final IS
'Returns whether an operation has begun a step of policy final, and can only be finished.';
REVOKE ALL ON FUNCTION zodan.is_final FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.reopen_operation(p_operation bigint, p_dsns jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Makes an interrupted operation ready to run again: every step on the nodes of p_dsns, which were reached, becomes
pending, because the cluster and not the journal says what is done; results stay. Not repeated once they are done: a
step of policy once, all up to the last of policy passed, and after the first of policy final has begun, all before it. */
BEGIN
    UPDATE zodan.operation SET state = 'running', error = NULL, finished_at = NULL WHERE operation_id = p_operation;
    UPDATE zodan.step SET state = 'pending', error = NULL
     WHERE operation_id = p_operation AND p_dsns ? node AND NOT (state = 'done' AND (policy IS NOT DISTINCT FROM 'once'
       OR zodan.has_joined(p_operation) AND phase < (
           SELECT pg_catalog.min(l.phase) FROM zodan.step AS l WHERE l.operation_id = p_operation AND CASE
               WHEN zodan.is_final(p_operation) THEN l.policy = 'final'
               ELSE l.phase > (SELECT pg_catalog.max(j.phase) FROM zodan.step AS j
                                WHERE j.operation_id = p_operation AND j.policy = 'passed') END)));
END
$zodan$;
COMMENT ON FUNCTION zodan.reopen_operation IS
'Makes an interrupted operation ready to run again: every step on the nodes of p_dsns, which were reached, becomes
pending, because the cluster and not the journal says what is done; results stay. Not repeated once they are done: a
step of policy once, all up to the last of policy passed, and after the first of policy final has begun, all before it.';
REVOKE ALL ON FUNCTION zodan.reopen_operation FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.replace_rest(
    p_operation bigint,
    p_plan zodan.plan_step[],
    p_before zodan.step[]
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Replaces p_before, the last steps in the journal of an operation, with p_plan, unless both are equal. If a step of
policy final was begun, the new plan counts as begun too, because a rollback is not possible afterwards. */
DECLARE
    v_final boolean := zodan.is_final(p_operation);
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.unnest(p_plan) AS p
             FULL JOIN pg_catalog.unnest(p_before) AS b ON (b.ordinal, b.phase, b.node, b.title) = (p.ordinal, p.phase, p.node, p.title)
               AND (b.do_sql, b.undo_sql, b.until_sql) IS NOT DISTINCT FROM (p.do_sql, p.undo_sql, p.until_sql)
             WHERE b.ordinal IS NULL OR p.ordinal IS NULL) THEN
        RETURN;
    END IF;
    PERFORM zodan.replace_plan(p_operation, p_plan, p_before);
    UPDATE zodan.step AS s SET attempts = greatest(s.attempts, 1)
     WHERE s.operation_id = p_operation AND s.policy = 'final' AND v_final
       AND s.phase = (SELECT pg_catalog.min(f.phase) FROM zodan.step AS f
                       WHERE f.operation_id = p_operation AND f.policy = 'final');
END
$zodan$;
COMMENT ON FUNCTION zodan.replace_rest IS
'Replaces p_before, the last steps in the journal of an operation, with p_plan, unless both are equal. If a step of
policy final was begun, the new plan counts as begun too, because a rollback is not possible afterwards.';
REVOKE ALL ON FUNCTION zodan.replace_rest FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.set_arguments(p_operation bigint, p_arguments jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Changes arguments of an operation that goes on: those of p_arguments that are not null. */
BEGIN
    UPDATE zodan.operation SET arguments = arguments || pg_catalog.jsonb_strip_nulls(p_arguments)
     WHERE operation_id = p_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.set_arguments IS
'Changes arguments of an operation that goes on: those of p_arguments that are not null.';
REVOKE ALL ON FUNCTION zodan.set_arguments FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.record_step(
    p_operation bigint,
    p_ordinal int,
    p_state text,
    p_result jsonb DEFAULT NULL,
    p_error text DEFAULT NULL
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Writes to the journal what became of a step: running (one more attempt), done (with its result), failed (with its
error) or undone. */
BEGIN
    UPDATE zodan.step
       SET state = p_state,
           attempts = attempts + (p_state = 'running')::int,
           -- A statement without a row returns the null of JSON, which is no result.
           result = coalesce(nullif(p_result, 'null'), result),
           error = p_error,
           waiting_for = CASE WHEN p_state = 'failed' THEN waiting_for END,
           started_at = CASE WHEN p_state = 'running' THEN pg_catalog.clock_timestamp() ELSE started_at END,
           finished_at = CASE WHEN p_state <> 'running' THEN pg_catalog.clock_timestamp() END
     WHERE operation_id = p_operation AND ordinal = p_ordinal;
END
$zodan$;
COMMENT ON FUNCTION zodan.record_step IS
'Writes to the journal what became of a step: running (one more attempt), done (with its result), failed (with its
error) or undone.';
REVOKE ALL ON FUNCTION zodan.record_step FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.record_sample(p_operation bigint, p_ordinal int, p_measure jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Writes to the journal what a waiting step has measured. */
BEGIN
    INSERT INTO zodan.sample (operation_id, ordinal, measure) VALUES (p_operation, p_ordinal, p_measure);
END
$zodan$;
COMMENT ON FUNCTION zodan.record_sample IS
'Writes to the journal what a waiting step has measured.';
REVOKE ALL ON FUNCTION zodan.record_sample FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.record_units(p_operation bigint, p_phase_name text, p_units jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Writes the units of a phase to the journal, in the order of p_units, unless it has some: then the copy goes on with
those. */
BEGIN
    INSERT INTO zodan.unit (operation_id, phase_name, number, bundle, title, bytes, tables, what, follows)
    SELECT p_operation, p_phase_name, u.number, u.item ->> 'bundle', u.item ->> 'title', (u.item ->> 'bytes')::bigint,
           (u.item ->> 'tables')::int, u.item -> 'what', u.item ->> 'follows'
      FROM pg_catalog.jsonb_array_elements(p_units) WITH ORDINALITY AS u(item, number)
     WHERE NOT EXISTS (SELECT FROM zodan.unit AS o WHERE (o.operation_id, o.phase_name) = (p_operation, p_phase_name));
END
$zodan$;
COMMENT ON FUNCTION zodan.record_units IS
'Writes the units of a phase to the journal, in the order of p_units, unless it has some: then the copy goes on with
those.';
REVOKE ALL ON FUNCTION zodan.record_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.set_lanes(p_operation bigint, p_jobs int)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Sets how many sessions copy side by side in an operation that goes on, unless p_jobs is NULL. */
BEGIN
    UPDATE zodan.step AS s SET units = s.units || pg_catalog.jsonb_build_object('lanes', p_jobs)
     WHERE s.operation_id = p_operation AND s.units IS NOT NULL AND p_jobs IS NOT NULL;
END
$zodan$;
COMMENT ON FUNCTION zodan.set_lanes IS
'Sets how many sessions copy side by side in an operation that goes on, unless p_jobs is NULL.';
REVOKE ALL ON FUNCTION zodan.set_lanes FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.set_limits(p_operation bigint, p_limits jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Sets the limits of a copy or a comparison that goes on, p_limits as zodan.prepare_join has them, except those that
are null. */
BEGIN
    UPDATE zodan.step AS s SET units = s.units || pg_catalog.jsonb_strip_nulls(p_limits)
     WHERE s.operation_id = p_operation AND s.units ?| '{snapshot,compare}';
END
$zodan$;
COMMENT ON FUNCTION zodan.set_limits IS
'Sets the limits of a copy or a comparison that goes on, p_limits as zodan.prepare_join has them, except those that
are null.';
REVOKE ALL ON FUNCTION zodan.set_limits FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.record_wait(p_operation bigint, p_ordinal int, p_waiting_for text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Writes to the journal what a step waits for, NULL for nothing that is known. */
BEGIN
    UPDATE zodan.step SET waiting_for = p_waiting_for WHERE operation_id = p_operation AND ordinal = p_ordinal;
END
$zodan$;
COMMENT ON FUNCTION zodan.record_wait IS
'Writes to the journal what a step waits for, NULL for nothing that is known.';
REVOKE ALL ON FUNCTION zodan.record_wait FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.gather_facts(p_dsns jsonb, p_purpose text)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Connects to every node of p_dsns (node and connection string) and reads what the checks need, all nodes at once.
Returns an object of node and facts; a node that could not be reached or read has only error. p_purpose shows in
pg_stat_activity. Never raises an error. */
DECLARE
    v_facts jsonb := '{}'::jsonb;
    v_answers jsonb;
    v_answer jsonb;
    v_node text;
    v_queries jsonb := '{}'::jsonb;
BEGIN
    FOR v_node IN SELECT k.node FROM pg_catalog.jsonb_object_keys(p_dsns) AS k(node) LOOP
        v_answer := zodan.open_connection(v_node, p_dsns, p_purpose);
        IF (v_answer ->> 'ok')::boolean THEN
            v_queries := v_queries || pg_catalog.jsonb_build_object(v_node, zodan.server_facts());
        ELSE
            v_facts := v_facts || pg_catalog.jsonb_build_object(v_node,
                pg_catalog.jsonb_build_object('error', v_answer ->> 'message'));
        END IF;
    END LOOP;
    v_answers := zodan.query_nodes(v_queries, p_dsns);
    v_queries := '{}'::jsonb;
    FOR v_node, v_answer IN SELECT a.key, a.value FROM pg_catalog.jsonb_each(v_answers) AS a(key, value) LOOP
        v_facts := v_facts || pg_catalog.jsonb_build_object(v_node, CASE WHEN (v_answer ->> 'ok')::boolean
            THEN v_answer #> '{value,facts}' ELSE pg_catalog.jsonb_build_object('error', v_answer ->> 'message') END);
        IF v_facts #> ARRAY[v_node, 'extensions'] ? 'spock' THEN
            v_queries := v_queries || pg_catalog.jsonb_build_object(v_node, zodan.spock_facts());
        END IF;
    END LOOP;
    v_answers := zodan.query_nodes(v_queries, p_dsns);
    FOR v_node, v_answer IN SELECT a.key, a.value FROM pg_catalog.jsonb_each(v_answers) AS a(key, value) LOOP
        v_facts := v_facts || pg_catalog.jsonb_build_object(v_node, (v_facts -> v_node) || CASE
            WHEN (v_answer ->> 'ok')::boolean THEN pg_catalog.jsonb_build_object('spock', v_answer #> '{value,facts}')
            ELSE pg_catalog.jsonb_build_object('spock_error', v_answer ->> 'message') END);
    END LOOP;
    RETURN v_facts;
END
$zodan$;
COMMENT ON FUNCTION zodan.gather_facts IS
'Connects to every node of p_dsns (node and connection string) and reads what the checks need, all nodes at once.
Returns an object of node and facts; a node that could not be reached or read has only error. p_purpose shows in
pg_stat_activity. Never raises an error.';
REVOKE ALL ON FUNCTION zodan.gather_facts FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.known_dsns(p_facts jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.jsonb_object_agg(n.key, zodan.canonical_dsn(n.value)), '{}')
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_each_text(f.value #> '{spock,nodes}') AS n(key, value)
$zodan$;
COMMENT ON FUNCTION zodan.known_dsns IS
'Returns the connection strings of all nodes that the nodes of p_facts (from zodan.gather_facts) know: an object of
node and connection string in its one spelling.';
REVOKE ALL ON FUNCTION zodan.known_dsns FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.local_dsns()
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.jsonb_object_agg(n.node_name, zodan.canonical_dsn(i.if_dsn)), '{}')
  FROM spock.node AS n
  JOIN spock.node_interface AS i ON i.if_id = coalesce(
           (SELECT l.node_local_interface FROM spock.local_node AS l WHERE l.node_id = n.node_id),
           (SELECT pg_catalog.min(s.sub_origin_if) FROM spock.subscription AS s WHERE s.sub_origin = n.node_id))
$zodan$;
COMMENT ON FUNCTION zodan.local_dsns IS
'Returns the connection strings of the nodes that this database''s own Spock knows, none if it is not a node: an
object of node and connection string in its one spelling.';
REVOKE ALL ON FUNCTION zodan.local_dsns FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.gather_cluster(
    p_known jsonb,
    p_wanted text[],
    p_purpose text,
    INOUT p_dsns jsonb,
    INOUT p_facts jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Reads everybody's facts, from the nodes of p_known (node and connection string) and from those that these know,
until nobody names anyone new; of p_wanted only, where that is not NULL. Adds to p_dsns and p_facts, of which nothing
is read again; what p_known says of a node goes before what others say. The connections stay open. */
DECLARE
    v_known jsonb := p_known;
    v_new jsonb;
BEGIN
    LOOP
        v_known := zodan.known_dsns(p_facts) || v_known;
        SELECT pg_catalog.jsonb_object_agg(k.key, k.value) INTO v_new
          FROM pg_catalog.jsonb_each(v_known) AS k(key, value)
         WHERE NOT p_dsns ? k.key AND (p_wanted IS NULL OR k.key = ANY (p_wanted));
        EXIT WHEN v_new IS NULL;
        p_dsns := p_dsns || v_new;
        p_facts := p_facts || zodan.gather_facts(v_new, p_purpose);
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.gather_cluster IS
'Reads everybody''s facts, from the nodes of p_known (node and connection string) and from those that these know,
until nobody names anyone new; of p_wanted only, where that is not NULL. Adds to p_dsns and p_facts, of which nothing
is read again; what p_known says of a node goes before what others say. The connections stay open.';
REVOKE ALL ON FUNCTION zodan.gather_cluster FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.probe_pairs(p_facts jsonb, p_dsns jsonb, p_bound interval DEFAULT zodan.read_bound())
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Lets every node try to connect to every other one, plainly and for replication, all nodes at once. To another
member each uses the connection string that it knows itself. Returns an object of node, then of target, then of
connection, identity and replication, with the fault, NULL where it worked. A node may take p_bound for its tries. Changes
nothing. */
DECLARE
    v_dsns jsonb;
    v_queries jsonb;
BEGIN
    SELECT coalesce(pg_catalog.jsonb_object_agg(t.way, t.dsn), '{}'), pg_catalog.jsonb_object_agg(t.node, t.targets)
        INTO v_dsns, v_queries
      FROM (SELECT f.key AS node, pg_catalog.concat_ws(' -> ', f.key, o.key) AS way,
                   coalesce(zodan.known_dsns(pg_catalog.jsonb_build_object('own', f.value)) -> o.key, o.value) AS dsn,
                   pg_catalog.jsonb_object_agg(o.key, pg_catalog.jsonb_build_object(
                       'way', pg_catalog.concat_ws(' -> ', f.key, o.key), 'who',
                           p_facts #> ARRAY[o.key, 'who'])) OVER (PARTITION BY f.key) AS targets
              FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
             CROSS JOIN pg_catalog.jsonb_each(p_dsns) AS o(key, value)
             -- Only a superuser can keep a statement, and the connection strings in it, out of the server's log.
             WHERE o.key <> f.key AND (f.value ->> 'superuser')::boolean) AS t;
    SELECT coalesce(pg_catalog.jsonb_object_agg(q.key, zodan.probe((
               SELECT 'pg_catalog.jsonb_build_object(' || pg_catalog.string_agg(pg_catalog.format(
                          '%s, pg_catalog.jsonb_build_object(''dsn'', %s, ''who'', %s)', zodan.quote_text(t.key),
                          zodan.placeholder('dsn', t.value ->> 'way'), zodan.quote_text(t.value ->> 'who')), ', ')
                              || ')'
                 FROM pg_catalog.jsonb_each(q.value) AS t(key, value)))), '{}') INTO v_queries
      FROM pg_catalog.jsonb_each(v_queries) AS q(key, value);
    RETURN (SELECT coalesce(pg_catalog.jsonb_object_agg(r.key, CASE WHEN r.value ->> 'sqlstate' = 'ZD000'
                       THEN (r.value ->> 'detail')::jsonb
                       ELSE pg_catalog.jsonb_build_object('', pg_catalog.jsonb_build_object('connection',
                           coalesce(r.value ->> 'message', 'no answer'))) END), '{}')
              FROM pg_catalog.jsonb_each(zodan.query_nodes(v_queries, v_dsns || p_dsns, p_bound)) AS r(key, value));
END
$zodan$;
COMMENT ON FUNCTION zodan.probe_pairs IS
'Lets every node try to connect to every other one, plainly and for replication, all nodes at once. To another
member each uses the connection string that it knows itself. Returns an object of node, then of target, then of
connection, identity and replication, with the fault, NULL where it worked. A node may take p_bound for its tries. Changes
nothing.';
REVOKE ALL ON FUNCTION zodan.probe_pairs FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_pause(
    p_load jsonb,
    p_seen jsonb,
    p_max_lag interval,
    p_source text,
    p_at timestamptz
)
RETURNS jsonb
LANGUAGE plpgsql IMMUTABLE
AS $zodan$
/* Decides whether a copy has to pause: p_seen is what zodan.read_load saw at p_at on p_source. Returns p_load with
paused, what it waits for, NULL if it may go on, and by, which slot or peer that is. A slot is too full beyond
80 per cent, and until it is below 70; the copy's own slot only gets free by
going on. A peer is too far behind if it has not yet applied what the source had p_max_lag ago, which trail remembers:
PostgreSQL learns nothing of a peer that does not answer. Before trail goes back so far, what PostgreSQL says counts, but
not of a peer that lacks nothing: it goes on telling the last lag until that peer has reported twice. */
DECLARE
    v_at float8 := extract(epoch FROM p_at);
    v_lag float8 := extract(epoch FROM p_max_lag);
    v_trail jsonb := coalesce(p_load -> 'trail', '[]');
    v_then pg_lsn;
    v_found record;
BEGIN
    IF v_lag IS NOT NULL THEN
        IF coalesce((v_trail #>> '{-1,at}')::float8 + v_lag / 20 <= v_at, true) THEN
            v_trail := v_trail || pg_catalog.jsonb_build_object('at', v_at, 'lsn', p_seen -> 'lsn');
        END IF;
        WHILE (v_trail #>> '{1,at}')::float8 <= v_at - v_lag LOOP
            v_trail := v_trail - 0;
        END LOOP;
        v_then := CASE WHEN (v_trail #>> '{0,at}')::float8 <= v_at - v_lag THEN (v_trail #>> '{0,lsn}')::pg_lsn END;
    END IF;
    SELECT f.* INTO v_found FROM (
        SELECT 1 AS place, s.part, 'slot ' || s.name AS holder, pg_catalog.format(
                   'slot "%s" on node "%s", which holds %s %% of max_slot_wal_keep_size%s', s.name, p_source, s.part,
                   CASE WHEN NOT s.active THEN ', and which nobody reads' ELSE '' END) AS what
          FROM pg_catalog.jsonb_to_recordset(p_seen -> 'slots') AS s(name text, own boolean, active boolean, part numeric)
         WHERE NOT s.own AND (s.part > 80
               OR s.part >= 70 AND p_load ->> 'by' = 'slot ' || s.name)
        UNION ALL
        SELECT 2, p.lag::numeric, 'peer ' || p.name, pg_catalog.format(
                   'peer "%s", which lags behind node "%s" by more than %s (%s)', p.name, p_source, p_max_lag,
                   pg_catalog.pg_size_pretty((p_seen ->> 'lsn')::pg_lsn - p.lsn))
          FROM pg_catalog.jsonb_to_recordset(p_seen -> 'peers') AS p(name text, lsn pg_lsn, lag float8)
         WHERE CASE WHEN v_then IS NOT NULL THEN p.lsn < v_then
                   ELSE p.lag > v_lag AND p.lsn < (p_seen ->> 'lsn')::pg_lsn END) AS f
     ORDER BY f.place, f.part DESC NULLS LAST, f.holder
     LIMIT 1;
    RETURN p_load || pg_catalog.jsonb_build_object('paused', v_found.what, 'by', v_found.holder, 'trail', v_trail);
END
$zodan$;
COMMENT ON FUNCTION zodan.find_pause IS
'Decides whether a copy has to pause: p_seen is what zodan.read_load saw at p_at on p_source. Returns p_load with
paused, what it waits for, NULL if it may go on, and by, which slot or peer that is. A slot is too full beyond
80 per cent, and until it is below 70; the copy''s own slot only gets free by
going on. A peer is too far behind if it has not yet applied what the source had p_max_lag ago, which trail remembers:
PostgreSQL learns nothing of a peer that does not answer. Before trail goes back so far, what PostgreSQL says counts, but
not of a peer that lacks nothing: it goes on telling the last lag until that peer has reported twice.';
REVOKE ALL ON FUNCTION zodan.find_pause FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_exchanged(p_facts jsonb, p_join jsonb)
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE WHEN pg_catalog.jsonb_array_length(p_join -> 'members') > 1 THEN
           (SELECT coalesce(pg_catalog.array_agg(DISTINCT t.name ORDER BY t.name), '{}')
              FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
             CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock',
                 'subscriptions']) AS s(item)
             CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(s.item -> 'sets') AS t(name)
             WHERE p_join -> 'members' ? (s.item ->> 'provider'))
       ELSE (SELECT coalesce(pg_catalog.array_agg(t.name ORDER BY t.name), '{}')
               FROM pg_catalog.jsonb_array_elements_text(p_facts #> ARRAY[p_join ->> 'source', 'spock',
                   'sets']) AS t(name)) END
$zodan$;
COMMENT ON FUNCTION zodan.list_exchanged IS
'Returns the names of the replication sets that the members'' subscriptions take from one another; of a cluster of
one, all its sets. A set that only an outside consumer takes is not among them.';
REVOKE ALL ON FUNCTION zodan.list_exchanged FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.give_verdict(p_finding zodan.finding)
RETURNS zodan.check_result
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT ROW(f.key, f.name, f.scope, f.severity, f.passed, pg_catalog.regexp_replace(f.observed, '\s*\n\s*', ' ', 'g'),
           f.required, f.hint,
           CASE WHEN f.severity = 'info' OR f.passed IS NULL THEN 'INFO' WHEN f.passed THEN 'PASS'
                WHEN f.severity = 'fail' THEN 'FAIL' ELSE 'WARN' END)::zodan.check_result
  FROM (SELECT p_finding.*) AS f
$zodan$;
COMMENT ON FUNCTION zodan.give_verdict IS
'Returns the verdict on what a check found: PASS if it passed, FAIL or WARN by its severity if it did not, INFO if
it only informs or nothing can be known. Writes what was seen in one line, because libpq''s messages about a connection
have several.';
REVOKE ALL ON FUNCTION zodan.give_verdict FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_reachable(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'reachable', 'reachable', f.key, 'fail', NOT f.value ? 'error',
       coalesce(f.value ->> 'error', 'connected'), 'a connection from the calling database',
       pg_catalog.format('Check that node "%s" runs, its address, password and pg_hba.conf.', f.key)
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
$zodan$;
COMMENT ON FUNCTION zodan.check_reachable IS
'Checks that every node can be reached from the database the operation is called in. p_facts is what
zodan.gather_facts returned, p_join names source, new node and members.';
REVOKE ALL ON FUNCTION zodan.check_reachable FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.make_step(
    p_phase text,
    p_node text,
    p_title text,
    p_do text DEFAULT NULL,
    p_done text DEFAULT NULL,
    p_undo text DEFAULT NULL,
    p_until text DEFAULT NULL,
    p_budget interval DEFAULT NULL,
    p_ref text DEFAULT NULL,
    p_group text DEFAULT NULL,
    p_policy text DEFAULT NULL,
    p_kind text DEFAULT NULL,
    p_object text DEFAULT NULL,
    p_units jsonb DEFAULT NULL
)
RETURNS zodan.plan_step
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT ROW(NULL, p_phase, NULL, p_ref, coalesce(p_kind, CASE WHEN p_until IS NULL THEN 'act' ELSE 'wait' END),
           p_group, g.tries, coalesce(p_policy, g.policy), p_node, p_object, p_title, p_do, p_done, p_undo, p_until,
           p_budget, p_units)::zodan.plan_step
  FROM (VALUES (p_group)) AS s(name)
  LEFT JOIN (VALUES
    ('copy', 2::int, 'guarded'),
    ('approach', NULL::int, 'again'),
    ('flip', 5::int, 'swift')
    ) AS g(name, tries, policy) ON g.name = s.name
$zodan$;
COMMENT ON FUNCTION zodan.make_step IS
'Returns one step of a draft plan, not numbered yet. p_phase is the name of its phase, p_ref the name by which other
steps refer to its result until zodan.number_steps puts its number there. zodan.step says what a group of p_group
means for a step, and p_policy for a step without a group. Unless given, p_kind is wait if there is p_until, else
act. p_units is as zodan.step has it.';
REVOKE ALL ON FUNCTION zodan.make_step FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.number_steps(
    p_steps zodan.plan_step[],
    p_phases text[],
    p_after zodan.plan_step DEFAULT NULL
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql IMMUTABLE
AS $zodan$
/* Finishes a plan: orders the steps by their phases in the order of p_phases, numbers phases (those that run beside one
another as one) and steps from 1, and turns the names by which steps refer to one another's results into those numbers.
With p_after, the last step of another plan, both numbers go on from there. Errors: ZD902 for a step of a phase that
p_phases does not have. */
DECLARE
    v_steps zodan.plan_step[] := ARRAY(
        SELECT p_steps[i.place] FROM pg_catalog.generate_subscripts(p_steps, 1) AS i(place)
         ORDER BY pg_catalog.array_position(p_phases, p_steps[i.place].phase_name), i.place);
    v_step zodan.plan_step;
    v_before zodan.plan_step;
    v_refs jsonb := '{}'::jsonb;
    v_ref text;
    v_ordinal text;
BEGIN
    FOR v_index IN 1 .. pg_catalog.cardinality(v_steps) LOOP
        v_step := v_steps[v_index];
        IF pg_catalog.array_position(p_phases, v_step.phase_name) IS NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'ZD902',
                MESSAGE = pg_catalog.format('a step of this plan is in phase "%s", which the plan does not have',
                    v_step.phase_name),
                HINT = 'Report this with the statement that you called.';
        END IF;
        v_step.ordinal := coalesce(p_after.ordinal, 0) + v_index;
        v_step.phase := coalesce(v_before.phase, p_after.phase, 0) + (v_step.phase_name IS DISTINCT FROM v_before.phase_name
            AND (v_step.units ->> 'beside' = v_before.phase_name) IS NOT TRUE)::int;
        IF v_step.ref IS NOT NULL THEN
            v_refs := v_refs || pg_catalog.jsonb_build_object(v_step.ref, v_step.ordinal);
        END IF;
        v_steps[v_index] := v_step;
        v_before := v_step;
    END LOOP;
    FOREACH v_step IN ARRAY v_steps LOOP
        FOR v_ref, v_ordinal IN SELECT r.key, r.value FROM pg_catalog.jsonb_each_text(v_refs) AS r(key, value) LOOP
            v_ref := '{result:' || v_ref || '.';
            v_ordinal := '{result:' || v_ordinal || '.';
            v_step.do_sql := pg_catalog.replace(v_step.do_sql, v_ref, v_ordinal);
            v_step.undo_sql := pg_catalog.replace(v_step.undo_sql, v_ref, v_ordinal);
            v_step.until_sql := pg_catalog.replace(v_step.until_sql, v_ref, v_ordinal);
            v_step.units := pg_catalog.replace(v_step.units::text, v_ref, v_ordinal)::jsonb;
        END LOOP;
        RETURN NEXT v_step;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.number_steps IS
'Finishes a plan: orders the steps by their phases in the order of p_phases, numbers phases (those that run beside one
another as one) and steps from 1, and turns the names by which steps refer to one another''s results into those numbers.
With p_after, the last step of another plan, both numbers go on from there. Errors: ZD902 for a step of a phase that
p_phases does not have.';
REVOKE ALL ON FUNCTION zodan.number_steps FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_stream_names(p_leave jsonb, p_node text, p_role text)
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(DISTINCT s.item ->> 'slot'), '{}')
  FROM pg_catalog.jsonb_each(p_leave -> 'subscriptions') AS n(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(n.value) AS s(item)
 WHERE p_node = CASE p_role WHEN 'provider' THEN s.item ->> 'provider' WHEN 'subscriber' THEN n.key END
$zodan$;
COMMENT ON FUNCTION zodan.list_stream_names IS
'Returns the names of the streams between the target of p_leave and the others that p_node provides (p_role
provider: its slots have these names) or receives (p_role subscriber: its origins do). Origins belong to a server, so
that an origin of the other role may be another database''s on the same server.';
REVOKE ALL ON FUNCTION zodan.list_stream_names FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.require_autocommit(p_procedure text, p_lasts boolean, VARIADIC p_given text[])
LANGUAGE plpgsql
AS $zodan$
/* Ends the transaction that a procedure was called in, so that it can commit between its phases, and hides what it
was given (zodan.hide_statement). With p_lasts it refuses the caller's own time limits, which would end the call in
the middle, and transactions that may not write. Errors: ZD008 there is such a limit, or transactions are read-only;
ZD004 a time limit of Zodan's own makes no sense; ZD005 inside a transaction block; 2D000, from PostgreSQL itself,
where only the commit can tell: in the extended protocol an implicit transaction also begins before its statement, and
looks like a block. */
BEGIN
    PERFORM zodan.hide_statement(VARIADIC p_given);
    -- Only the extended protocol has a visible portal of the empty name.
    IF pg_catalog.now() <> pg_catalog.statement_timestamp()
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_cursors AS c WHERE c.name = '') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD005',
            MESSAGE = pg_catalog.format('%s cannot run inside a transaction block', p_procedure),
            HINT = 'Call it on its own, with autocommit on.';
    END IF;
    IF p_lasts AND pg_catalog.current_setting('statement_timeout') <> '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD008',
            MESSAGE = pg_catalog.format('statement_timeout is %s in this session, and would end %s in the middle',
                pg_catalog.current_setting('statement_timeout'), p_procedure),
            HINT = 'Run SET statement_timeout = 0, then call again.';
    ELSIF p_lasts AND coalesce(pg_catalog.current_setting('transaction_timeout', true), '0') <> '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD008',
            MESSAGE = pg_catalog.format('transaction_timeout is %s in this session, and would end %s in the middle',
                pg_catalog.current_setting('transaction_timeout'), p_procedure),
            HINT = 'Run SET transaction_timeout = 0, then call again.';
    ELSIF p_lasts AND pg_catalog.pg_is_in_recovery() THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD008',
            MESSAGE = pg_catalog.format('this server is a standby, where %s cannot write its journal', p_procedure),
            HINT = 'Call on a server that is not a standby.';
    ELSIF p_lasts AND pg_catalog.current_setting('default_transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD008',
            MESSAGE = pg_catalog.format('transactions are read-only in this session, and %s writes its journal', p_procedure),
            HINT = 'Run SET default_transaction_read_only = off, then call again.';
    END IF;
    PERFORM zodan.read_patience(), zodan.read_bound();
    COMMIT;
END
$zodan$;
COMMENT ON PROCEDURE zodan.require_autocommit IS
'Ends the transaction that a procedure was called in, so that it can commit between its phases, and hides what it
was given (zodan.hide_statement). With p_lasts it refuses the caller''s own time limits, which would end the call in
the middle, and transactions that may not write. Errors: ZD008 there is such a limit, or transactions are read-only;
ZD004 a time limit of Zodan''s own makes no sense; ZD005 inside a transaction block; 2D000, from PostgreSQL itself,
where only the commit can tell: in the extended protocol an implicit transaction also begins before its statement, and
looks like a block.';
REVOKE ALL ON PROCEDURE zodan.require_autocommit FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.lock_members(p_dsns jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Takes the cluster's lock: a session-level advisory lock in the database of every node of p_dsns, through the kept
connections, so that it is held exactly as long as they are. Locks nodes in the order of their names, so that exactly
one of two callers gets all. Ends a session whose caller is dead first. If the caller is on another server, and nobody
knows whether it lives, tries the lock again for 3 s. Errors: ZD110 another operation holds
the lock, with who, where and since when; ZD201 a node does not answer. */
DECLARE
    v_node text;
    v_until timestamptz;
    v_holder text;
    v_state text;
    v_answer jsonb;
BEGIN
    FOR v_node IN SELECT k.node FROM pg_catalog.jsonb_object_keys(p_dsns) AS k(node) ORDER BY k.node COLLATE "C" LOOP
        v_until := pg_catalog.clock_timestamp() + interval '3 s';
        LOOP
            v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_node, zodan.try_lock()), p_dsns) -> v_node;
            IF NOT (v_answer ->> 'ok')::boolean THEN
                PERFORM zodan.close_connections();
                RAISE EXCEPTION USING
                    ERRCODE = 'ZD201',
                    MESSAGE = pg_catalog.format('could not take the lock on node "%s"', v_node),
                    DETAIL = v_answer ->> 'message',
                    HINT = 'Check that the node can be reached, then call again.';
            END IF;
            EXIT WHEN (v_answer #>> '{value,ok}')::boolean;
            v_holder := coalesce(v_answer #>> '{value,holder}', 'a session that has just ended');
            v_state := zodan.judge_caller(v_answer #>> '{value,name}');
            IF v_state = 'dead' THEN
                v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_node, pg_catalog.format(
                    'SELECT pg_catalog.pg_terminate_backend(%s) AS ended', v_answer #>> '{value,pid}')), p_dsns);
            END IF;
            IF v_state = 'alive' OR pg_catalog.clock_timestamp() > v_until THEN
                PERFORM zodan.close_connections();
                RAISE EXCEPTION USING
                    ERRCODE = 'ZD110',
                    MESSAGE = pg_catalog.format('another operation is under way in this cluster, seen on node "%s"',
                        v_node),
                    DETAIL = pg_catalog.format('The lock is held by %s.', v_holder),
                    HINT = 'Wait until it is done, then call again.';
            END IF;
            PERFORM zodan.wait_a_moment();
        END LOOP;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.lock_members IS
'Takes the cluster''s lock: a session-level advisory lock in the database of every node of p_dsns, through the kept
connections, so that it is held exactly as long as they are. Locks nodes in the order of their names, so that exactly
one of two callers gets all. Ends a session whose caller is dead first. If the caller is on another server, and nobody
knows whether it lives, tries the lock again for 3 s. Errors: ZD110 another operation holds
the lock, with who, where and since when; ZD201 a node does not answer.';
REVOKE ALL ON FUNCTION zodan.lock_members FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.pick_steps(p_operation bigint, p_phase int, p_undo boolean)
RETURNS zodan.step[]
LANGUAGE plpgsql
AS $zodan$
/* Returns the steps of a phase that are still to be run, in order; with p_undo those that can be undone, each with
its undo as the statement to run. Some steps made nothing, so that what has their name is somebody else's: a step that
never began, a step of policy once that did not finish, and a step whose undo needs a result that it never had. */
DECLARE
    v_steps zodan.step[];
BEGIN
    SELECT coalesce(pg_catalog.array_agg(s ORDER BY s.ordinal), '{}') INTO v_steps
      FROM zodan.step AS s
     WHERE s.operation_id = p_operation AND s.phase = p_phase
       AND CASE WHEN NOT p_undo THEN s.state <> 'done'
                ELSE s.undo_sql IS NOT NULL AND s.attempts > 0 AND (s.policy IS DISTINCT FROM 'once'
                    OR s.state = 'done') AND NOT EXISTS (
                    SELECT FROM pg_catalog.regexp_matches(s.undo_sql, '\{result:(\d+)\.', 'g') AS m(found)
                     WHERE NOT EXISTS (SELECT FROM zodan.step AS r WHERE r.operation_id = p_operation
                                          AND r.ordinal = m.found[1]::int AND r.result IS NOT NULL)) END;
    IF p_undo THEN
        FOR v_index IN 1 .. pg_catalog.cardinality(v_steps) LOOP
            v_steps[v_index].done_sql := NULL;
            v_steps[v_index].until_sql := NULL;
            v_steps[v_index].units := NULL;
            IF v_steps[v_index].do_sql IS NOT NULL THEN
                v_steps[v_index].title := 'undo: ' || v_steps[v_index].title;
            END IF;
            v_steps[v_index].do_sql := v_steps[v_index].undo_sql;
        END LOOP;
    END IF;
    RETURN v_steps;
END
$zodan$;
COMMENT ON FUNCTION zodan.pick_steps IS
'Returns the steps of a phase that are still to be run, in order; with p_undo those that can be undone, each with
its undo as the statement to run. Some steps made nothing, so that what has their name is somebody else''s: a step that
never began, a step of policy once that did not finish, and a step whose undo needs a result that it never had.';
REVOKE ALL ON FUNCTION zodan.pick_steps FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.read_results(p_operation bigint, p_steps zodan.step[])
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
WITH named AS MATERIALIZED (
    SELECT DISTINCT m.found[1] AS ordinal, m.found[2] AS field
      FROM pg_catalog.unnest(p_steps) AS t
     CROSS JOIN LATERAL pg_catalog.regexp_matches(pg_catalog.concat_ws(' ', t.do_sql, t.done_sql, t.until_sql, t.units),
               '\{result:(\d+)\.([^{}.]+)\}', 'g') AS m(found))
SELECT coalesce(pg_catalog.jsonb_object_agg(r.ordinal, r.fields), '{}')
  FROM (SELECT s.ordinal, pg_catalog.jsonb_object_agg(n.field, s.result ->> n.field) AS fields
          FROM zodan.step AS s JOIN named AS n ON n.ordinal = s.ordinal::text
         WHERE s.operation_id = p_operation AND s.result IS NOT NULL
         GROUP BY s.ordinal) AS r
$zodan$;
COMMENT ON FUNCTION zodan.read_results IS
'Returns what the statements of p_steps refer to of the results of others: an object of the ordinals of the steps that have
them, and of an object of fields, as texts. All else is left out: a result may be large, and it is passed on at every
look.';
REVOKE ALL ON FUNCTION zodan.read_results FROM PUBLIC;

DO $zodan$
DECLARE
    v_type pg_catalog.pg_type;
    v_wanted text[] := ARRAY(SELECT pg_catalog.format('%I %s', c.name, c.type::regtype) FROM (VALUES
        (1, 'stage',
            'text'),
        (2, 'sent',
            'boolean'),
        (3, 'found',
            'boolean'),
        (4, 'cancelled',
            'boolean'),
        (5, 'deadline',
            'timestamptz'),
        (6, 'next',
            'timestamptz'),
        (7, 'pause',
            'float8'),
        (8, 'since',
            'timestamptz'),
        (9, 'progress',
            'jsonb'),
        (10, 'sample',
            'jsonb'),
        (11, 'sample_due',
            'timestamptz'),
        (12, 'result',
            'jsonb'),
        (13, 'answer',
            'jsonb'),
        (14, 'blockers',
            'text'),
        (15, 'told_due',
            'timestamptz'),
        (16, 'told_after',
            'interval'),
        (17, 'lanes',
            'jsonb'),
        (18, 'load',
            'jsonb'),
        (19, 'looked',
            'timestamptz'),
        (20, 'moved',
            'timestamptz'),
        (21, 'compared',
            'jsonb')
    ) AS c(place, name, type) ORDER BY c.place);
    v_there text[];
    v_routine regprocedure;
    v_others boolean;
BEGIN
    SELECT * INTO v_type FROM pg_catalog.pg_type AS t WHERE t.oid = pg_catalog.to_regtype('zodan.job');
    IF FOUND THEN
        v_there := ARRAY(SELECT pg_catalog.format('%I %s', a.attname, a.atttypid::regtype)
            FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = v_type.typrelid AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum);
        IF v_there = v_wanted THEN
            RETURN;
        END IF;
        -- These were written for the earlier columns. The scripts create them again.
        FOR v_routine IN
            SELECT p.oid FROM pg_catalog.pg_proc AS p
             WHERE p.pronamespace IN ('zodan'::regnamespace, pg_catalog.to_regnamespace('spock'))
               AND EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                            WHERE d.classid = 'pg_catalog.pg_proc'::regclass AND d.objid = p.oid
                              AND d.refclassid = 'pg_catalog.pg_type'::regclass
                                  AND d.refobjid IN (v_type.oid, v_type.typarray))
             ORDER BY p.oid DESC
        LOOP
            EXECUTE pg_catalog.format('DROP ROUTINE %s', v_routine);
        END LOOP;
        IF v_routine IS NOT NULL THEN
            RAISE WARNING 'Zodan of another version was here: load both scripts, zodan.sql and zodremove.sql';
        END IF;
        -- A type that rows are stored in cannot be changed.
        IF v_there = v_wanted[1:pg_catalog.cardinality(v_there)] AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_attribute AS a JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid
                WHERE a.atttypid IN (v_type.oid, v_type.typarray) AND c.relkind IN ('r', 'p', 'm')) THEN
            FOR v_place IN pg_catalog.cardinality(v_there) + 1 .. pg_catalog.cardinality(v_wanted) LOOP
                EXECUTE pg_catalog.format('ALTER TYPE zodan.job ADD ATTRIBUTE %s', v_wanted[v_place]);
            END LOOP;
            RETURN;
        END IF;
        SELECT pg_catalog.count(*) > 0 INTO v_others FROM pg_catalog.pg_depend AS d
         WHERE d.deptype = 'n' AND (d.refclassid, d.refobjid) IN (('pg_catalog.pg_type'::regclass, v_type.oid),
               ('pg_catalog.pg_type'::regclass, v_type.typarray), ('pg_catalog.pg_class'::regclass, v_type.typrelid));
        IF v_others THEN
            -- A user's view, function or table keeps the type that it was made with.
            IF EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = 'zodan') THEN
                ALTER EXTENSION zodan DROP TYPE zodan.job;
            END IF;
            EXECUTE pg_catalog.format('ALTER TYPE zodan.job RENAME TO %I',
                pg_catalog.concat(v_type.typname, '_', v_type.oid));
        ELSE
            DROP TYPE zodan.job;
        END IF;
    END IF;
    CREATE TYPE zodan.job AS (
        stage text, sent boolean, found boolean, cancelled boolean, deadline timestamptz, next timestamptz, pause float8,
    since timestamptz, progress jsonb, sample jsonb, sample_due timestamptz, result jsonb, answer jsonb, blockers text,
    told_due timestamptz, told_after interval, lanes jsonb, load jsonb, looked timestamptz,
    moved timestamptz, compared jsonb);
END
$zodan$;
COMMENT ON TYPE zodan.job IS
'A step under way: its stage (check, do, until, lost, done or failed), whether the stage''s statement is under way on
the node (sent), whether the step turned out to be done already (found), whether its statement was cancelled, until
when the stage may last, when to look next and the seconds to the look after that, since when it waits, the progress
last seen, a sample due to be recorded and when the next one is due, the step''s result, the answer that failed it,
what holds it up, when to report that next and after how long, and, if its work is in zodan.unit, its lanes, what
zodan.judge_load knows of the source, when all of that was looked into last and when anything of the phase last moved; of a
comparison of rows, its state.';

CREATE OR REPLACE FUNCTION zodan.begin_job()
RETURNS zodan.job
LANGUAGE plpgsql IMMUTABLE
AS $zodan$
/* Returns the job of a step that is about to begin, or to begin again. */
DECLARE
    v_job zodan.job;
BEGIN
    v_job.stage := 'check';
    v_job.sent := false;
    v_job.found := false;
    v_job.cancelled := false;
    RETURN v_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.begin_job IS
'Returns the job of a step that is about to begin, or to begin again.';
REVOKE ALL ON FUNCTION zodan.begin_job FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.take_sample(p_job zodan.job, p_seen jsonb, p_at timestamptz)
RETURNS zodan.job
LANGUAGE plpgsql STABLE
AS $zodan$
/* Puts what a look at a waiting step measured, p_seen.measure, into its job as sample, if one is due at p_at: the
first and the last look, and between them with rests that grow with the time waited, so that a copy of a day leaves no
more than some 2000 rows. */
BEGIN
    p_job.since := coalesce(p_job.since, p_at);
    p_job.sample := NULL;
    IF pg_catalog.jsonb_typeof(p_seen -> 'measure') = 'object'
       AND (p_at >= coalesce(p_job.sample_due, p_at) OR (p_seen ->> 'ok')::boolean
           OR p_seen ->> 'trouble' IS NOT NULL) THEN
        p_job.sample := p_seen -> 'measure';
        p_job.sample_due := p_at + least('60 s',
            greatest('0.25 s',
            0.01 * (p_at - p_job.since)));
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.take_sample IS
'Puts what a look at a waiting step measured, p_seen.measure, into its job as sample, if one is due at p_at: the
first and the last look, and between them with rests that grow with the time waited, so that a copy of a day leaves no
more than some 2000 rows.';
REVOKE ALL ON FUNCTION zodan.take_sample FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.judge_wait(p_job zodan.job, p_seen jsonb, p_budget interval)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Decides what a look at a waiting step means. p_seen is the row of until_sql: ok (what it waits for has come),
trouble (why that never will, which fails at once), passed (what was passed over, and why), progress (anything; a
change starts the budget again, so that the budget is the time without progress), alive (somebody works at it, which
also starts the budget again), pause (the longest rest before the next look, in seconds), blockers (what holds it up)
and measure (numbers for people, sampled). Returns the step's job; the last look is the result of a step that has no
other. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_pause double precision := coalesce(p_job.pause, 0.01);
BEGIN
    p_job.sent := false;
    p_job := zodan.take_sample(p_job, p_seen, v_now);
    p_job.blockers := zodan.redact_text(p_seen ->> 'blockers');
    IF p_seen ->> 'trouble' IS NOT NULL THEN
        p_job.stage := 'failed';
        -- The text may quote a server's log.
        p_job.answer := pg_catalog.jsonb_build_object('ok', false, 'sqlstate', 'ZD202',
            'message', zodan.redact_text(p_seen ->> 'trouble'));
        RETURN p_job;
    ELSIF (p_seen ->> 'ok')::boolean THEN
        p_job.stage := 'done';
        IF p_seen ->> 'passed' IS NOT NULL THEN
            p_seen := pg_catalog.jsonb_set(p_seen, '{passed}', pg_catalog.to_jsonb(zodan.redact_text(p_seen ->> 'passed')));
        END IF;
        p_job.result := coalesce(p_job.result, nullif(p_seen - '{ok,trouble,alive,pause,blockers}'::text[], '{}'));
        RETURN p_job;
    ELSIF (p_seen ->> 'alive')::boolean OR p_seen -> 'progress' IS DISTINCT FROM p_job.progress THEN
        p_job.progress := p_seen -> 'progress';
        p_job.deadline := v_now + p_budget;
    ELSIF v_now > p_job.deadline THEN
        p_job.stage := 'failed';
        p_job.answer := pg_catalog.jsonb_build_object('ok', false, 'sqlstate', 'ZD301',
            'message', pg_catalog.format('nothing moved for %s, last seen: %s%s', p_budget, p_seen - 'blockers',
                '; ' || p_job.blockers));
        RETURN p_job;
    END IF;
    p_job.next := v_now + pg_catalog.make_interval(secs => v_pause);
    -- A look at a copy of many tables is not free, and after an hour nobody minds some seconds.
    p_job.pause := least(v_pause * 1.5, (p_seen ->> 'pause')::double precision, greatest(0.25,
        least(5, 0.005 * extract(epoch FROM v_now - p_job.since))));
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_wait IS
'Decides what a look at a waiting step means. p_seen is the row of until_sql: ok (what it waits for has come),
trouble (why that never will, which fails at once), passed (what was passed over, and why), progress (anything; a
change starts the budget again, so that the budget is the time without progress), alive (somebody works at it, which
also starts the budget again), pause (the longest rest before the next look, in seconds), blockers (what holds it up)
and measure (numbers for people, sampled). Returns the step''s job; the last look is the result of a step that has no
other.';
REVOKE ALL ON FUNCTION zodan.judge_wait FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.regain_node(p_operation bigint, p_node text, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Connects again to a node whose connection was lost, and takes the cluster's lock there again, which went with the
connection. Returns {ok}, and where that is false sqlstate and message. Errors: ZD110 another operation has taken the
lock. */
DECLARE
    v_answer jsonb;
BEGIN
    SELECT zodan.open_connection(p_node, p_dsns, pg_catalog.format('zodan %s %s', o.kind, o.node)) INTO v_answer
      FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    IF (v_answer ->> 'ok')::boolean THEN
        PERFORM zodan.lock_members(pg_catalog.jsonb_build_object(p_node, p_dsns -> p_node));
    END IF;
    RETURN v_answer;
END
$zodan$;
COMMENT ON FUNCTION zodan.regain_node IS
'Connects again to a node whose connection was lost, and takes the cluster''s lock there again, which went with the
connection. Returns {ok}, and where that is false sqlstate and message. Errors: ZD110 another operation has taken the
lock.';
REVOKE ALL ON FUNCTION zodan.regain_node FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.tell_wait(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Reports in a NOTICE that the statement of a step has been running for a while, and what it waits for: after
10 s, and whenever that time has doubled. Returns the step's job. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
BEGIN
    p_job.told_after := coalesce(p_job.told_after, '10 s');
    p_job.told_due := coalesce(p_job.told_due, v_now + interval '10 s');
    IF v_now >= p_job.told_due THEN
        p_job.blockers := zodan.find_blockers(p_step.node, p_dsns);
        RAISE NOTICE 'step % has been running on "%" for %: %', p_step.ordinal, p_step.node, p_job.told_after,
            pg_catalog.concat(p_step.title, ', waiting for ' || p_job.blockers);
        p_job.told_due := v_now + p_job.told_after;
        p_job.told_after := 2 * p_job.told_after;
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.tell_wait IS
'Reports in a NOTICE that the statement of a step has been running for a while, and what it waits for: after
10 s, and whenever that time has doubled. Returns the step''s job.';
REVOKE ALL ON FUNCTION zodan.tell_wait FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.advance_lost(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Moves on a step whose node is no longer connected: tries to connect again, once every 1
s, for as long as a wait may see no progress, and then checks again whether the step is already done. A step of policy
swift never gets here: its broken connection may be the only sign that a node has restarted and lost what it had
applied. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_answer jsonb;
BEGIN
    IF v_now < p_job.next THEN
        RETURN p_job;
    END IF;
    v_answer := zodan.regain_node(p_step.operation_id, p_step.node, p_dsns);
    IF (v_answer ->> 'ok')::boolean THEN
        RAISE NOTICE 'connected to node "%" again', p_step.node;
        RETURN zodan.begin_job();
    ELSIF v_now > p_job.deadline THEN
        p_job.stage := 'failed';
    END IF;
    p_job.next := v_now + interval '1 s';
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_lost IS
'Moves on a step whose node is no longer connected: tries to connect again, once every 1
s, for as long as a wait may see no progress, and then checks again whether the step is already done. A step of policy
swift never gets here: its broken connection may be the only sign that a node has restarted and lost what it had
applied.';
REVOKE ALL ON FUNCTION zodan.advance_lost FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.judge_failure(p_job zodan.job, p_step zodan.step, p_answer jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Decides what a failed answer means for a step: the step failed or, unless its policy is swift, its connection was
lost and must be opened again. Adds to the answer what a cancelled statement waited for. */
DECLARE
    v_lost zodan.job;
BEGIN
    IF p_step.policy IS DISTINCT FROM 'swift' AND NOT zodan.is_connected(p_step.node) THEN
        RAISE NOTICE 'lost the connection to node "%", trying again: %', p_step.node, p_answer ->> 'message';
        v_lost := zodan.begin_job();
        v_lost.stage := 'lost';
        v_lost.answer := p_answer;
        v_lost.deadline := pg_catalog.clock_timestamp() + zodan.read_patience();
        RETURN v_lost;
    END IF;
    p_job.stage := 'failed';
    p_job.answer := p_answer || CASE WHEN p_job.blockers IS NULL THEN '{}'
        ELSE pg_catalog.jsonb_build_object('detail', 'It waited for ' || p_job.blockers || '.') END;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_failure IS
'Decides what a failed answer means for a step: the step failed or, unless its policy is swift, its connection was
lost and must be opened again. Adds to the answer what a cancelled statement waited for.';
REVOKE ALL ON FUNCTION zodan.judge_failure FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.advance_sent(
    p_job zodan.job,
    p_step zodan.step,
    p_dsns jsonb,
    p_budget interval
)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Moves on a step whose statement is under way: waits for an answer that is not there yet, cancels a statement past
its budget, and, if the connection was lost, sends the statement again once the node is back, unless the step's policy
is swift. */
DECLARE
    v_answer jsonb := zodan.fetch_result(p_step.node, p_dsns);
BEGIN
    IF v_answer IS NULL THEN
        IF pg_catalog.clock_timestamp() > p_job.deadline AND NOT p_job.cancelled THEN
            p_job.cancelled := true;
            p_job.blockers := zodan.find_blockers(p_step.node, p_dsns);
            PERFORM zodan.cancel_statement(p_step.node);
            RETURN p_job;
        END IF;
        RETURN zodan.tell_wait(p_job, p_step, p_dsns);
    ELSIF NOT (v_answer ->> 'ok')::boolean THEN
        RETURN zodan.judge_failure(p_job, p_step, v_answer);
    END IF;
    p_job.sent := false;
    IF p_job.stage = 'check' THEN
        p_job.found := coalesce((v_answer #>> '{value,ok}')::boolean, false);
        p_job.stage := CASE WHEN p_job.found THEN 'done' ELSE 'do' END;
    ELSIF p_job.stage = 'do' THEN
        -- Done at once: its result is to be in the journal before the next statement goes to this node.
        p_job.stage := CASE WHEN p_step.until_sql IS NULL AND p_step.units IS NULL THEN 'done' ELSE 'until' END;
        p_job.deadline := NULL;
        p_job.result := nullif(v_answer -> 'value', 'null');
    ELSE
        RETURN zodan.judge_wait(p_job, v_answer -> 'value', p_budget);
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_sent IS
'Moves on a step whose statement is under way: waits for an answer that is not there yet, cancels a statement past
its budget, and, if the connection was lost, sends the statement again once the node is back, unless the step''s policy
is swift.';
REVOKE ALL ON FUNCTION zodan.advance_sent FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.begin_units(p_step zodan.step, p_marks jsonb, p_kept jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Prepares the units of a step to be worked at: p_marks, an object of unit and position, says which of them the node
has, whatever the journal says. The others are to be done, under the snapshot p_kept, if zodan.regain_snapshot has one. A
bundle begins again that is not done under one snapshot, unless what is done is under p_kept; or that was copied later
than it was known that the tables copied before it are not rewritten. */
DECLARE
    v_lsn pg_lsn := (p_kept ->> 'lsn')::pg_lsn;
BEGIN
    WITH looked AS (
        SELECT u.number, u.bundle, CASE WHEN p_marks IS NULL THEN u.lsn ELSE (p_marks ->> u.number::text)::pg_lsn END AS lsn,
               CASE WHEN p_marks IS NULL THEN u.state = 'done' ELSE p_marks ? u.number::text END AS done,
               u.lsn = (p_marks ->> u.number::text)::pg_lsn AND u.state = 'done' AS known, u.proved
          FROM zodan.unit AS u WHERE u.operation_id = p_step.operation_id AND u.phase_name = p_step.phase_name),
    bundles AS (
        SELECT l.bundle, pg_catalog.bool_and(l.done) AND pg_catalog.count(DISTINCT l.lsn) <= 1 AS whole,
               pg_catalog.bool_or(l.done) AS begun, pg_catalog.max(l.lsn) AS lsn,
               coalesce(pg_catalog.bool_and(l.lsn = v_lsn) FILTER (WHERE l.done), false) AS current,
               CASE WHEN pg_catalog.bool_and(l.known) THEN pg_catalog.min(l.proved) ELSE pg_catalog.max(l.lsn) END AS proved
          FROM looked AS l GROUP BY l.bundle),
    judged AS (
        SELECT b.bundle, b.begun, b.proved, b.whole, b.whole OR b.current AS sound, p_marks IS NULL
                   OR coalesce(b.lsn <= pg_catalog.min(b.proved) FILTER (WHERE b.whole) OVER (), true) AS timely
          FROM bundles AS b),
    kept AS (
        SELECT l.number, l.known, l.lsn, l.done AND j.sound AND j.timely AS kept, j.begun AND NOT (j.sound AND j.timely) AS spoiled,
               CASE WHEN j.whole THEN j.proved ELSE l.lsn END AS proved
          FROM looked AS l JOIN judged AS j ON j.bundle = l.bundle)
    UPDATE zodan.unit AS u
       SET state = CASE WHEN k.kept THEN 'done' ELSE 'pending' END, lane = CASE WHEN k.kept THEN u.lane END,
           snapshot = CASE WHEN NOT k.kept THEN p_kept ->> 'snapshot' END, due = NULL, error = NULL,
           lsn = CASE WHEN k.kept THEN k.lsn ELSE v_lsn END, spoiled = k.spoiled,
           files = CASE WHEN k.kept AND k.known THEN u.files END,
           proved = CASE WHEN k.kept THEN k.proved END
      FROM kept AS k
     WHERE u.operation_id = p_step.operation_id AND u.phase_name = p_step.phase_name AND u.number = k.number;
END
$zodan$;
COMMENT ON FUNCTION zodan.begin_units IS
'Prepares the units of a step to be worked at: p_marks, an object of unit and position, says which of them the node
has, whatever the journal says. The others are to be done, under the snapshot p_kept, if zodan.regain_snapshot has one. A
bundle begins again that is not done under one snapshot, unless what is done is under p_kept; or that was copied later
than it was known that the tables copied before it are not rewritten.';
REVOKE ALL ON FUNCTION zodan.begin_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.receive_snapshot(p_step zodan.step, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Checks whether the snapshot of a step's units is there, as zodan.fetch_snapshot does. If a bundle has several units, a
session then keeps it, so that a caller which dies among them leaves it to the next one. Where there can be none, the
copy goes on without. */
DECLARE
    v_name text := zodan.snapshot_name(p_step.operation_id, p_step.phase_name);
    v_answer jsonb := zodan.fetch_snapshot(v_name, p_dsns);
BEGIN
    IF (v_answer ->> 'ok')::boolean AND EXISTS (
        SELECT FROM zodan.unit AS u WHERE (u.operation_id, u.phase_name) = (p_step.operation_id, p_step.phase_name)
         GROUP BY u.bundle HAVING pg_catalog.count(*) > 1 AND NOT pg_catalog.bool_and(u.state = 'done'))
    THEN
        v_answer := v_answer || zodan.open_keeper(p_step.units ->> 'snapshot', v_name, p_dsns, p_step.object_name,
            v_answer ->> 'snapshot', v_answer ->> 'lsn', false) || '{"ok": true}';
    END IF;
    RETURN v_answer;
END
$zodan$;
COMMENT ON FUNCTION zodan.receive_snapshot IS
'Checks whether the snapshot of a step''s units is there, as zodan.fetch_snapshot does. If a bundle has several units, a
session then keeps it, so that a caller which dies among them leaves it to the next one. Where there can be none, the
copy goes on without.';
REVOKE ALL ON FUNCTION zodan.receive_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.regain_snapshot(p_step zodan.step, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes over the snapshot under which an earlier caller, or this one before its connections were lost, copied the units
of a step, if a session on the source still keeps it. Returns {ok, snapshot, lsn}, or NULL if there is none. One that
was given up, because a table was rewritten after it, never comes back: then the journal has a unit without. */
DECLARE
    v_last record;
    v_answer jsonb;
BEGIN
    SELECT pg_catalog.min(u.snapshot) AS snapshot, pg_catalog.min(u.lsn)::text AS lsn INTO v_last
      FROM zodan.unit AS u
     WHERE (u.operation_id, u.phase_name) = (p_step.operation_id, p_step.phase_name) AND u.state <> 'done'
    HAVING pg_catalog.bool_and(u.snapshot IS NOT NULL) AND pg_catalog.count(DISTINCT (u.snapshot, u.lsn)) = 1;
    IF v_last.snapshot IS NULL OR NOT p_step.units ? 'snapshot' THEN
        RETURN NULL;
    END IF;
    v_answer := zodan.open_keeper(p_step.units ->> 'snapshot', zodan.snapshot_name(p_step.operation_id,
        p_step.phase_name), p_dsns, p_step.object_name, v_last.snapshot, v_last.lsn, true);
    IF NOT (v_answer ->> 'ok')::boolean THEN
        RETURN NULL;
    END IF;
    RAISE NOTICE 'the copy goes on with its snapshot';
    RETURN v_answer || pg_catalog.jsonb_build_object('lsn', v_last.lsn);
END
$zodan$;
COMMENT ON FUNCTION zodan.regain_snapshot IS
'Takes over the snapshot under which an earlier caller, or this one before its connections were lost, copied the units
of a step, if a session on the source still keeps it. Returns {ok, snapshot, lsn}, or NULL if there is none. One that
was given up, because a table was rewritten after it, never comes back: then the journal has a unit without.';
REVOKE ALL ON FUNCTION zodan.regain_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.pick_unit(p_step zodan.step)
RETURNS zodan.unit
LANGUAGE sql STABLE
AS $zodan$
WITH ahead AS MATERIALIZED (
    SELECT o.bundle, pg_catalog.bool_and(o.state = 'done') AS done FROM zodan.unit AS o
     WHERE o.operation_id = p_step.operation_id AND o.phase_name = p_step.units ->> 'beside'
     GROUP BY o.bundle)
SELECT u.* FROM zodan.unit AS u
 WHERE u.operation_id = p_step.operation_id AND u.phase_name = p_step.phase_name AND u.state = 'pending'
   AND coalesce(u.due <= pg_catalog.clock_timestamp(), true)
   AND NOT EXISTS (SELECT FROM zodan.unit AS o
        WHERE (o.operation_id, o.phase_name) = (u.operation_id, u.phase_name) AND o.state = 'running'
          AND (p_step.units ? 'snapshot' AND u.snapshot IS NULL OR u.spoiled AND o.bundle = u.bundle))
   AND (u.follows IS NULL OR coalesce((SELECT a.done FROM ahead AS a WHERE a.bundle = u.follows),
       (SELECT pg_catalog.bool_and(a.done) FROM ahead AS a), true))
 ORDER BY u.snapshot IS NULL, u.number
 LIMIT 1
$zodan$;
COMMENT ON FUNCTION zodan.pick_unit IS
'Returns the unit that a free lane is to work at, the row of NULLs if there is none now: the next in order that has its
snapshot, or needs none. One without a snapshot has to wait until all that are under way are done, so that there is one
snapshot at a time; one that is spoiled until the others of its bundle are; and one that follows a bundle until that is
done, or, if no bundle has this name, until all are.';
REVOKE ALL ON FUNCTION zodan.pick_unit FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.describe_units(p_unit zodan.unit, p_stage text)
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE p_stage
       WHEN 'clearing' THEN (
           SELECT pg_catalog.jsonb_build_object('bundled', pg_catalog.jsonb_agg(w.item),
                      'numbers', pg_catalog.jsonb_agg(DISTINCT u.number::text))
             FROM zodan.unit AS u CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(u.what) AS w(item)
            WHERE (u.operation_id, u.phase_name, u.bundle) = (p_unit.operation_id, p_unit.phase_name, p_unit.bundle))
       WHEN 'comparing' THEN (
           SELECT pg_catalog.jsonb_build_object('others', coalesce(pg_catalog.jsonb_object_agg(f.key, f.value), '{}'))
             FROM zodan.unit AS u CROSS JOIN LATERAL pg_catalog.jsonb_each(u.files) AS f(key, value)
            WHERE (u.operation_id, u.phase_name) = (p_unit.operation_id, p_unit.phase_name) AND u.state = 'done'
              AND u.proved < p_unit.lsn)
       ELSE '{}' END
$zodan$;
COMMENT ON FUNCTION zodan.describe_units IS
'Returns what the statement of a stage needs to know of other units besides its own: for clearing, bundled and numbers, the
tables and the units of its bundle; for comparing, others, the files of what was copied before its snapshot.';
REVOKE ALL ON FUNCTION zodan.describe_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.share_rate(p_step zodan.step)
RETURNS bigint
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce((p_step.units ->> 'max_rate')::bigint / greatest(1, least((p_step.units ->> 'lanes')::int, (
           SELECT pg_catalog.count(*) FROM zodan.unit AS u
            WHERE (u.operation_id, u.phase_name) = (p_step.operation_id, p_step.phase_name) AND u.state <> 'done'))), 0)
$zodan$;
COMMENT ON FUNCTION zodan.share_rate IS
'Returns how many bytes a second a unit that is sent now may read, 0 where p_step has no limit: its part among the
units that can run beside it. Those are fewer than the lanes at the end of a copy. What runs then was sent while
there were more, and has no larger part, so that all of them together keep to the limit.';
REVOKE ALL ON FUNCTION zodan.share_rate FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.send_unit(
    p_lane jsonb,
    p_step zodan.step,
    p_unit zodan.unit,
    p_dsns jsonb,
    p_results jsonb
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes the next step of the unit that a lane works at, or gets ready for one, without waiting for it: asks for a snapshot,
connects and prepares the session, clears what a lost snapshot left, compares what was copied under an earlier one, or
sends the unit itself. Returns the lane, with failure, an answer as zodan.fetch_result returns it, where that could not be
done. */
DECLARE
    v_node text := zodan.lane_name(p_step.node, (p_lane ->> 'number')::int);
    v_provider text := p_step.units ->> 'snapshot';
    v_stage text := CASE
        -- This lane's session can be prepared while the others already copy.
        WHEN p_lane ? 'unit' AND v_provider IS NOT NULL AND p_unit.snapshot IS NULL AND NOT p_unit.spoiled THEN 'snapshot'
        WHEN NOT (p_lane ->> 'open')::boolean THEN 'opening'
        WHEN v_provider IS NULL THEN 'copying'
        WHEN p_unit.spoiled THEN 'clearing'
        WHEN EXISTS (SELECT FROM zodan.unit AS u WHERE (u.operation_id, u.phase_name)
            = (p_unit.operation_id, p_unit.phase_name) AND u.state = 'done' AND u.proved < p_unit.lsn) THEN 'comparing'
        ELSE 'copying' END;
    v_answer jsonb;
BEGIN
    IF v_stage = 'opening' THEN
        v_answer := nullif(zodan.open_connection(v_node, p_dsns, pg_catalog.concat_ws(' ', p_step.object_name, p_lane ->> 'number')),
            '{"ok": true}');
    ELSIF v_stage = 'snapshot' THEN
        v_answer := zodan.open_snapshot(v_provider, zodan.snapshot_name(p_step.operation_id, p_step.phase_name), p_dsns);
    END IF;
    IF v_answer IS NULL AND v_stage <> 'snapshot' THEN
        v_answer := zodan.send_statement(v_node, p_step.units ->> CASE v_stage WHEN 'opening' THEN 'lane_sql'
            WHEN 'clearing' THEN 'clear_sql' WHEN 'comparing' THEN 'compare_sql' ELSE 'unit_sql' END, p_dsns,
            p_results || pg_catalog.jsonb_build_object('unit', coalesce(pg_catalog.to_jsonb(p_unit), '{}')
                || pg_catalog.jsonb_build_object('lane', p_lane -> 'number', 'rate', zodan.share_rate(p_step))
                || zodan.describe_units(p_unit, v_stage)));
    END IF;
    RETURN p_lane - '{blockers,told_due}'::text[] || pg_catalog.jsonb_build_object('stage', v_stage, 'snapshot', p_unit.snapshot, 'due',
        pg_catalog.clock_timestamp() + zodan.read_patience()) || CASE WHEN v_answer IS NULL THEN '{}'
        ELSE pg_catalog.jsonb_build_object('failure', v_answer) END;
END
$zodan$;
COMMENT ON FUNCTION zodan.send_unit IS
'Takes the next step of the unit that a lane works at, or gets ready for one, without waiting for it: asks for a snapshot,
connects and prepares the session, clears what a lost snapshot left, compares what was copied under an earlier one, or
sends the unit itself. Returns the lane, with failure, an answer as zodan.fetch_result returns it, where that could not be
done.';
REVOKE ALL ON FUNCTION zodan.send_unit FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.keep_units(p_unit zodan.unit, p_rewritten jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Records which of the units that were copied before the snapshot of p_unit are still of use: not those of a bundle with
a table that is in p_rewritten, an array of oids, or of which nobody knows the file. They are copied again. */
BEGIN
    WITH bundles AS (
        SELECT u.bundle, pg_catalog.bool_and(NOT EXISTS (
                   SELECT FROM pg_catalog.jsonb_array_elements(u.what) AS w(item)
                    WHERE p_rewritten ? (w.item ->> 'oid') OR NOT EXISTS (
                          -- Another part of the table is of the same snapshot.
                          SELECT FROM zodan.unit AS o
                           WHERE (o.operation_id, o.phase_name, o.bundle) = (u.operation_id, u.phase_name, u.bundle)
                             AND o.state = 'done' AND o.files ? (w.item ->> 'oid')))) AS kept
          FROM zodan.unit AS u
         WHERE (u.operation_id, u.phase_name) = (p_unit.operation_id, p_unit.phase_name) AND u.state = 'done'
           AND u.proved < p_unit.lsn
         GROUP BY u.bundle)
    UPDATE zodan.unit AS u
       SET state = CASE WHEN b.kept THEN 'done' ELSE 'pending' END, spoiled = NOT b.kept,
           snapshot = CASE WHEN b.kept THEN u.snapshot ELSE p_unit.snapshot END,
           lsn = CASE WHEN b.kept THEN u.lsn ELSE p_unit.lsn END, proved = p_unit.lsn
      FROM bundles AS b
     WHERE (u.operation_id, u.phase_name, u.bundle) = (p_unit.operation_id, p_unit.phase_name, b.bundle)
       AND u.state = 'done';
END
$zodan$;
COMMENT ON FUNCTION zodan.keep_units IS
'Records which of the units that were copied before the snapshot of p_unit are still of use: not those of a bundle with
a table that is in p_rewritten, an array of oids, or of which nobody knows the file. They are copied again.';
REVOKE ALL ON FUNCTION zodan.keep_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.settle_unit(p_lane jsonb, p_step zodan.step, p_unit zodan.unit, p_answer jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Records what the last step of a lane's unit brought, and returns the lane: free, if the unit is done. A snapshot is for
all units that are not done; a bundle of which some are, under an earlier snapshot, begins again. */
DECLARE
    v_is_lost boolean;
BEGIN
    IF p_lane ->> 'stage' = 'opening' THEN
        RETURN p_lane || '{"open": true}';
    ELSIF p_lane ->> 'stage' = 'clearing' THEN
        UPDATE zodan.unit AS u SET spoiled = false
         WHERE (u.operation_id, u.phase_name, u.bundle) = (p_unit.operation_id, p_unit.phase_name, p_unit.bundle);
        RETURN p_lane;
    ELSIF p_lane ->> 'stage' = 'snapshot' THEN
        WITH bundles AS (
            SELECT u.bundle, pg_catalog.bool_or(u.state = 'done') AS parted FROM zodan.unit AS u
             WHERE (u.operation_id, u.phase_name) = (p_unit.operation_id, p_unit.phase_name)
             GROUP BY u.bundle HAVING NOT pg_catalog.bool_and(u.state = 'done'))
        UPDATE zodan.unit AS u
           SET snapshot = p_answer ->> 'snapshot', lsn = (p_answer ->> 'lsn')::pg_lsn, spoiled = u.spoiled OR b.parted,
               state = CASE WHEN u.state = 'done' THEN 'pending' ELSE u.state END
          FROM bundles AS b
         WHERE (u.operation_id, u.phase_name, u.bundle) = (p_unit.operation_id, p_unit.phase_name, b.bundle);
        RETURN p_lane;
    ELSIF p_lane ->> 'stage' = 'comparing' THEN
        PERFORM zodan.keep_units(p_unit, p_answer #> '{value,rewritten}');
        RETURN p_lane;
    END IF;
    -- A session that was thought lost may have copied it, under an earlier snapshot.
    v_is_lost := coalesce((p_answer #>> '{value,lsn}')::pg_lsn <> p_unit.lsn, false);
    UPDATE zodan.unit AS u
       SET state = CASE WHEN v_is_lost THEN 'pending' ELSE 'done' END, error = p_answer #>> '{value,passed}',
           spoiled = v_is_lost, rows = (p_answer #>> '{value,copied}')::bigint,
           lsn = CASE WHEN NOT v_is_lost THEN u.lsn END, snapshot = CASE WHEN NOT v_is_lost THEN u.snapshot END,
           files = p_answer #> '{value,files}', proved = u.lsn, finished_at = pg_catalog.clock_timestamp()
     WHERE (u.operation_id, u.phase_name, u.number) = (p_unit.operation_id, p_unit.phase_name, p_unit.number);
    IF NOT EXISTS (SELECT FROM zodan.unit AS u WHERE (u.operation_id, u.phase_name)
        = (p_unit.operation_id, p_unit.phase_name) AND u.state <> 'done') THEN
        PERFORM zodan.close_snapshot(zodan.snapshot_name(p_step.operation_id, p_step.phase_name));
    END IF;
    RETURN p_lane || '{"stage": "free", "moved": true}';
END
$zodan$;
COMMENT ON FUNCTION zodan.settle_unit IS
'Records what the last step of a lane''s unit brought, and returns the lane: free, if the unit is done. A snapshot is for
all units that are not done; a bundle of which some are, under an earlier snapshot, begins again.';
REVOKE ALL ON FUNCTION zodan.settle_unit FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.lose_snapshot(p_step zodan.step)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Has the units of a step that are to be copied wait for another snapshot. Those under way keep theirs. */
BEGIN
    PERFORM zodan.close_snapshot(zodan.snapshot_name(p_step.operation_id, p_step.phase_name));
    UPDATE zodan.unit AS u SET snapshot = NULL, lsn = NULL
     WHERE (u.operation_id, u.phase_name) = (p_step.operation_id, p_step.phase_name) AND u.state NOT IN ('done', 'running');
END
$zodan$;
COMMENT ON FUNCTION zodan.lose_snapshot IS
'Has the units of a step that are to be copied wait for another snapshot. Those under way keep theirs.';
REVOKE ALL ON FUNCTION zodan.lose_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.fail_unit(
    p_lane jsonb,
    p_step zodan.step,
    p_unit zodan.unit,
    p_answer jsonb
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Decides what a failed answer means for the unit of a lane, closes the lane's connection, and returns the lane. The
unit is tried again if a connection was lost, a server was busy, or somebody held or changed the table. If its
snapshot is gone or too old, all units of its bundle begin again; a lost connection does not mean that it is. Otherwise
failure stays in the lane: trying again would not help. */
DECLARE
    v_node text := zodan.lane_name(p_step.node, (p_lane ->> 'number')::int);
    v_state text := p_answer ->> 'sqlstate';
    -- The snapshot has a connection of its own, and may be asked for before the lane has one.
    v_is_lost boolean := p_lane ->> 'stage' <> 'snapshot' AND NOT zodan.is_connected(v_node);
    -- The snapshot is gone, on PostgreSQL 17 and later by 42704, which names it.
    v_is_gone boolean := v_state IN ('22023', '55000')
        OR v_state = '42704' AND coalesce(pg_catalog.strpos(p_answer ->> 'message', p_unit.snapshot) > 0, false);
    -- The same, or the table was altered, renamed or rewritten: a later one is needed.
    v_is_stale boolean := v_is_gone OR v_state IN ('ZD307', '42P01', '42703', '42704');
    -- Of two sessions with one unit, the one that was thought lost has copied it.
    v_is_double boolean := v_state = '23505' AND p_answer ->> 'message' ~ 'local_sync_status';
    v_is_passing boolean := (v_is_lost OR v_is_stale OR v_is_double OR v_state ~ '^(08|57P|40)'
        OR v_state IN ('53300', '53400', '55P03'))
        AND (v_is_stale AND NOT v_is_gone AND p_unit.attempts >= 5) IS NOT TRUE;
BEGIN
    PERFORM zodan.close_connection(v_node);
    UPDATE zodan.unit AS u
       SET state = CASE WHEN v_is_passing THEN 'pending' ELSE 'failed' END, lane = NULL, error = p_answer ->> 'message',
           due = pg_catalog.clock_timestamp() + interval '1 s', finished_at = pg_catalog.clock_timestamp()
     WHERE (u.operation_id, u.phase_name, u.number) = (p_unit.operation_id, p_unit.phase_name, p_unit.number);
    IF (v_is_stale OR p_unit.snapshot IS NULL) AND p_unit.snapshot IS NOT DISTINCT FROM p_lane ->> 'snapshot' THEN
        PERFORM zodan.lose_snapshot(p_step);
    END IF;
    p_lane := p_lane || '{"stage": "free", "open": false}';
    IF v_is_passing THEN
        RAISE NOTICE '%: %, trying again', p_unit.title, p_answer ->> 'message';
        RETURN (p_lane - 'failure') || pg_catalog.jsonb_build_object('trouble', p_answer);
    END IF;
    RETURN p_lane || pg_catalog.jsonb_build_object('failure', p_answer || pg_catalog.jsonb_build_object('message',
        pg_catalog.concat_ws(': ', p_unit.title, (p_answer ->> 'message') || coalesce('; it waited for ' || (p_lane ->> 'blockers'), ''))));
END
$zodan$;
COMMENT ON FUNCTION zodan.fail_unit IS
'Decides what a failed answer means for the unit of a lane, closes the lane''s connection, and returns the lane. The
unit is tried again if a connection was lost, a server was busy, or somebody held or changed the table. If its
snapshot is gone or too old, all units of its bundle begin again; a lost connection does not mean that it is. Otherwise
failure stays in the lane: trying again would not help.';
REVOKE ALL ON FUNCTION zodan.fail_unit FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.watch_snapshot(p_lane jsonb, p_step zodan.step, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Looks at a lane that waits for a snapshot of the source, which comes when the transactions that are open there have
ended. Reports what it waits for after 10 s, and whenever the time has doubled. Returns the
lane, with overdue, an answer as zodan.fetch_result returns it, if it has waited for as long as a wait may see no
progress. */
DECLARE
    v_source text := p_step.units ->> 'snapshot';
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_asked timestamptz := (p_lane ->> 'due')::timestamptz - zodan.read_patience();
    v_is_overdue boolean := v_now >= (p_lane ->> 'due')::timestamptz;
    v_waited interval := pg_catalog.date_trunc('second', v_now - v_asked);
    v_blockers text;
BEGIN
    IF NOT v_is_overdue AND v_now < coalesce((p_lane ->> 'told_due')::timestamptz, v_asked + interval '10 s') THEN
        RETURN p_lane;
    END IF;
    v_blockers := zodan.find_blockers(v_source, p_dsns, ' snapshot');
    p_lane := p_lane || pg_catalog.jsonb_build_object('told_due', v_now + (v_now - v_asked), 'blockers', v_blockers);
    IF v_is_overdue THEN
        RETURN p_lane || pg_catalog.jsonb_build_object('overdue', pg_catalog.jsonb_build_object('ok', false, 'sqlstate', '57014',
            'message', pg_catalog.format('node "%s" has given no snapshot for %s', v_source, v_waited)));
    END IF;
    RAISE NOTICE 'node "%" has given no snapshot for %: waiting for %', v_source, v_waited, coalesce(v_blockers, 'nothing that is known');
    RETURN p_lane;
END
$zodan$;
COMMENT ON FUNCTION zodan.watch_snapshot IS
'Looks at a lane that waits for a snapshot of the source, which comes when the transactions that are open there have
ended. Reports what it waits for after 10 s, and whenever the time has doubled. Returns the
lane, with overdue, an answer as zodan.fetch_result returns it, if it has waited for as long as a wait may see no
progress.';
REVOKE ALL ON FUNCTION zodan.watch_snapshot FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.watch_lane(p_lane jsonb, p_step zodan.step, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Looks at a lane whose statement is under way. It may take as long as it works; one that has waited for somebody's lock
for as long as a wait may see no progress is cancelled. Returns the lane. */
DECLARE
    v_node text := zodan.lane_name(p_step.node, (p_lane ->> 'number')::int);
    v_now timestamptz := pg_catalog.clock_timestamp();
BEGIN
    IF p_lane ->> 'stage' = 'snapshot' THEN
        RETURN zodan.watch_snapshot(p_lane, p_step, p_dsns);
    ELSIF v_now < (p_lane ->> 'due')::timestamptz THEN
        RETURN p_lane;
    END IF;
    p_lane := p_lane || pg_catalog.jsonb_build_object('due', v_now + zodan.read_patience(), 'blockers',
        zodan.find_blockers(v_node, p_dsns, ' ' || (p_lane ->> 'number')));
    IF p_lane ->> 'blockers' ~ '^(process|prepared transaction) ' THEN
        PERFORM zodan.cancel_statement(v_node);
    END IF;
    RETURN p_lane;
END
$zodan$;
COMMENT ON FUNCTION zodan.watch_lane IS
'Looks at a lane whose statement is under way. It may take as long as it works; one that has waited for somebody''s lock
for as long as a wait may see no progress is cancelled. Returns the lane.';
REVOKE ALL ON FUNCTION zodan.watch_lane FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_lane_wanted(p_lane jsonb, p_step zodan.step)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT p_step.units ? 'snapshot' AND NOT (p_lane ->> 'open')::boolean AND NOT p_lane ? 'readied'
   AND (SELECT pg_catalog.count(*) FROM zodan.unit AS u WHERE (u.operation_id, u.phase_name)
            = (p_step.operation_id, p_step.phase_name) AND u.state <> 'done') >= (p_lane ->> 'number')::int
$zodan$;
COMMENT ON FUNCTION zodan.is_lane_wanted IS
'Returns whether the session of a lane is worth preparing before there is a unit for the lane: while the first one waits for
the snapshot, the others get ready. Not more of them than units are left.';
REVOKE ALL ON FUNCTION zodan.is_lane_wanted FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.settle_readied(p_lane jsonb, p_step zodan.step, p_answer jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Returns a lane whose session was prepared before there was a unit for it, free. What went wrong is no unit's fault: the first
unit that takes the lane tries it again, and reports it. */
BEGIN
    IF NOT (p_answer ->> 'ok')::boolean THEN
        PERFORM zodan.close_connection(zodan.lane_name(p_step.node, (p_lane ->> 'number')::int));
    END IF;
    RETURN p_lane || pg_catalog.jsonb_build_object('stage', 'free', 'open', (p_answer ->> 'ok')::boolean);
END
$zodan$;
COMMENT ON FUNCTION zodan.settle_readied IS
'Returns a lane whose session was prepared before there was a unit for it, free. What went wrong is no unit''s fault: the first
unit that takes the lane tries it again, and reports it.';
REVOKE ALL ON FUNCTION zodan.settle_readied FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.advance_lane(
    p_lane jsonb,
    p_step zodan.step,
    p_dsns jsonb,
    p_results jsonb,
    p_open boolean
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Moves one lane of a step on as far as it can go without waiting, and returns it. p_lane has number, stage (free, or what is
under way), open (whether its session is prepared), readied (whether it was, or was tried, before there was a unit for
it), unit, snapshot (the one that the unit under way was given), due;
and, for zodan.advance_units to take out, moved (a unit is done), trouble and failure. A lane takes no new unit unless
p_open. */
DECLARE
    v_node text := zodan.lane_name(p_step.node, (p_lane ->> 'number')::int);
    v_unit zodan.unit;
    v_answer jsonb;
BEGIN
    LOOP
        IF p_lane ->> 'stage' = 'free' THEN
            IF p_open THEN
                v_unit := zodan.pick_unit(p_step);
            END IF;
            IF v_unit.number IS NULL AND p_open AND zodan.is_lane_wanted(p_lane, p_step) THEN
                p_lane := zodan.send_unit((p_lane - 'unit') || '{"readied": true}', p_step, v_unit, p_dsns, p_results);
                IF p_lane ? 'failure' THEN
                    p_lane := zodan.settle_readied(p_lane - 'failure', p_step, p_lane -> 'failure');
                END IF;
            END IF;
            EXIT WHEN NOT p_open OR v_unit.number IS NULL;
            UPDATE zodan.unit AS u
               SET state = 'running', lane = (p_lane ->> 'number')::int, attempts = u.attempts + 1,
                   started_at = pg_catalog.clock_timestamp(), finished_at = NULL
             WHERE (u.operation_id, u.phase_name, u.number) = (v_unit.operation_id, v_unit.phase_name, v_unit.number);
            p_lane := p_lane || pg_catalog.jsonb_build_object('unit', v_unit.number);
            v_answer := NULL;
        ELSE
            v_answer := CASE WHEN p_lane ->> 'stage' <> 'snapshot' THEN zodan.fetch_result(v_node, p_dsns)
                ELSE zodan.receive_snapshot(p_step, p_dsns) END;
            IF v_answer IS NULL THEN
                p_lane := zodan.watch_lane(p_lane, p_step, p_dsns);
                v_answer := p_lane -> 'overdue';
                EXIT WHEN v_answer IS NULL;
                p_lane := p_lane - 'overdue';
            END IF;
            IF NOT p_lane ? 'unit' THEN
                p_lane := zodan.settle_readied(p_lane, p_step, v_answer);
                CONTINUE;
            END IF;
        END IF;
        SELECT u.* INTO STRICT v_unit FROM zodan.unit AS u WHERE u.operation_id = p_step.operation_id
            AND u.phase_name = p_step.phase_name AND u.number = (p_lane ->> 'unit')::int;
        IF (v_answer ->> 'ok')::boolean THEN
            p_lane := zodan.settle_unit(p_lane, p_step, v_unit, v_answer);
            IF p_lane ->> 'stage' = 'free' THEN
                PERFORM zodan.meet_test_hook(p_step.phase_name || ' done', v_unit.number);
                CONTINUE;
            END IF;
            SELECT u.* INTO STRICT v_unit FROM zodan.unit AS u WHERE (u.operation_id, u.phase_name, u.number)
                = (v_unit.operation_id, v_unit.phase_name, v_unit.number);
            v_answer := NULL;
        END IF;
        IF v_answer IS NULL THEN
            p_lane := zodan.send_unit(p_lane, p_step, v_unit, p_dsns, p_results);
            v_answer := p_lane -> 'failure';
            PERFORM zodan.meet_test_hook(pg_catalog.concat_ws(' ', p_step.phase_name, p_lane ->> 'stage'), v_unit.number);
        END IF;
        IF v_answer IS NOT NULL THEN
            p_lane := zodan.fail_unit(p_lane, p_step, v_unit, v_answer);
            EXIT;
        END IF;
    END LOOP;
    RETURN p_lane;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_lane IS
'Moves one lane of a step on as far as it can go without waiting, and returns it. p_lane has number, stage (free, or what is
under way), open (whether its session is prepared), readied (whether it was, or was tried, before there was a unit for
it), unit, snapshot (the one that the unit under way was given), due;
and, for zodan.advance_units to take out, moved (a unit is done), trouble and failure. A lane takes no new unit unless
p_open.';
REVOKE ALL ON FUNCTION zodan.advance_lane FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.close_lanes(p_step zodan.step)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes the lanes of a step, the connection to the snapshot of its units, and the session that looks at the source. */
BEGIN
    PERFORM zodan.close_connection(zodan.lane_name(p_step.units ->> 'snapshot', 0));
    PERFORM zodan.close_connection(zodan.lane_name(p_step.node, l.number))
       FROM zodan.list_lanes(p_step) AS l(number);
    PERFORM zodan.leave_snapshot(zodan.snapshot_name(p_step.operation_id, p_step.phase_name));
END
$zodan$;
COMMENT ON FUNCTION zodan.close_lanes IS
'Closes the lanes of a step, the connection to the snapshot of its units, and the session that looks at the source.';
REVOKE ALL ON FUNCTION zodan.close_lanes FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_positions(p_step zodan.step)
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT pg_catalog.jsonb_agg(DISTINCT pg_catalog.jsonb_build_object('schema', w.item ->> 'schema', 'name', w.item ->> 'name',
           'lsn', u.lsn))
  FROM zodan.unit AS u CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(u.what) AS w(item)
 WHERE u.operation_id = p_step.operation_id AND u.phase_name = p_step.phase_name
$zodan$;
COMMENT ON FUNCTION zodan.list_positions IS
'Lists the tables that a step has copied, an array of schema, name and lsn, the position of the snapshot they are from.';
REVOKE ALL ON FUNCTION zodan.list_positions FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.measure_units(p_step zodan.step, p_seen jsonb, p_due boolean)
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('ok', coalesce(pg_catalog.bool_and(u.state = 'done'), true),
           'rows', pg_catalog.sum(u.rows), 'lsn', coalesce(pg_catalog.max(u.lsn), '0/0'),
           'tables', CASE WHEN pg_catalog.bool_and(u.state = 'done') AND pg_catalog.min(u.lsn) <> pg_catalog.max(u.lsn)
               THEN zodan.list_positions(p_step) ELSE '[]' END,
           'measure', CASE WHEN coalesce(pg_catalog.bool_and(d.is_due), true) THEN pg_catalog.jsonb_build_object(
               'stage', p_step.units ->> 'stage',
               'tables_done', coalesce(pg_catalog.sum(u.tables) FILTER (WHERE u.state = 'done'), 0),
               'tables_total', coalesce(pg_catalog.sum(u.tables), 0),
               'bytes_done', greatest((p_seen ->> 'bytes')::bigint,
                   pg_catalog.sum(u.bytes) FILTER (WHERE u.state = 'done'), 0),
               'bytes_total', CASE WHEN NOT coalesce(pg_catalog.bool_or(CASE WHEN d.is_due THEN pg_catalog.jsonb_path_exists(
                   u.what, '$[*] ? (@.filter != null || @.columns != null)') END), false)
                   THEN coalesce(pg_catalog.sum(u.bytes), 0) END,
               'table', pg_catalog.min(u.title) FILTER (WHERE u.state = 'running')) END)
  FROM zodan.unit AS u CROSS JOIN (
       SELECT p_due OR NOT EXISTS (SELECT FROM zodan.unit AS o WHERE o.operation_id = p_step.operation_id
           AND o.phase_name = p_step.phase_name AND o.state <> 'done') AS is_due) AS d
 WHERE u.operation_id = p_step.operation_id AND u.phase_name = p_step.phase_name
$zodan$;
COMMENT ON FUNCTION zodan.measure_units IS
'Measures the units of a step: ok, whether all are done; rows, how many were copied; lsn, the latest position that they
are at; tables, the positions of all tables, none if they are the same; and measure, as zodan.sample has it, if p_due or
all are done: to look into every unit costs more than a look at them may. p_seen is what a look at the node saw: bytes of
its tables. How many are to come is not known where a row filter or a column list leaves something out.';
REVOKE ALL ON FUNCTION zodan.measure_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.look_at_units(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Has a look at the node whose units are being done, whenever a sample is due, and opens the lanes after the first one;
without until_sql at once. What it saw is the progress of the step's job. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_answer jsonb;
BEGIN
    IF p_job.sent THEN
        v_answer := zodan.fetch_result(p_step.node, p_dsns);
        IF v_answer IS NULL THEN
            RETURN p_job;
        END IF;
        p_job.sent := false;
    ELSIF p_step.until_sql IS NOT NULL AND p_job.answer IS NULL AND v_now >= coalesce(p_job.next, v_now) THEN
        v_answer := zodan.send_statement(p_step.node, p_step.until_sql, p_dsns, '{}');
        p_job.sent := v_answer IS NULL;
        p_job.next := v_now + interval '0.25 s';
    END IF;
    IF NOT (v_answer ->> 'ok')::boolean THEN
        PERFORM zodan.close_lanes(p_step);
        RETURN zodan.judge_failure(p_job, p_step, v_answer);
    ELSIF v_answer IS NOT NULL AND (v_answer -> 'value') - 'marks' IS DISTINCT FROM p_job.progress THEN
        p_job.progress := (v_answer -> 'value') - 'marks';
        p_job.deadline := v_now + zodan.read_patience();
    END IF;
    IF p_job.lanes IS NULL AND (v_answer IS NOT NULL OR p_step.until_sql IS NULL) THEN
        PERFORM zodan.close_lanes(p_step);
        PERFORM zodan.begin_units(p_step, v_answer #> '{value,marks}', zodan.regain_snapshot(p_step, p_dsns));
        p_job.deadline := v_now + zodan.read_patience();
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('number', l.number, 'stage', 'free', 'open', false)) INTO p_job.lanes
          FROM zodan.list_lanes(p_step) AS l(number);
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.look_at_units IS
'Has a look at the node whose units are being done, whenever a sample is due, and opens the lanes after the first one;
without until_sql at once. What it saw is the progress of the step''s job.';
REVOKE ALL ON FUNCTION zodan.look_at_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.tell_waiters(p_load jsonb, p_seen jsonb, p_step zodan.step)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Names each session of a source once which waits for a lock that a lane's session has there: p_seen is what
zodan.read_load saw. Returns p_load with told, the sessions named, the newest last, and behind, what is true now, NULL if
nobody waits. */
DECLARE
    v_told jsonb := coalesce(p_load -> 'told', '[]');
    v_waiter record;
    v_text text;
    v_behind jsonb := '[]'::jsonb;
BEGIN
    FOR v_waiter IN
        SELECT w.*, u.title
          FROM pg_catalog.jsonb_to_recordset(p_seen -> 'waiters') AS w(pid int, began text, who text, what text, since text, lane int)
          LEFT JOIN zodan.unit AS u ON (u.operation_id, u.phase_name, u.lane) = (p_step.operation_id, p_step.phase_name, w.lane)
           AND u.state = 'running'
         ORDER BY w.since, w.pid
    LOOP
        v_text := pg_catalog.format('process %s (%s) on node "%s" waits for %s behind the copy of %s, since %s', v_waiter.pid,
            v_waiter.who, p_step.units ->> 'snapshot', v_waiter.what, coalesce(v_waiter.title, 'a table'), v_waiter.since);
        v_behind := v_behind || pg_catalog.to_jsonb(v_text);
        IF NOT v_told ? (v_waiter.pid || ' ' || v_waiter.began) THEN
            RAISE NOTICE '%', v_text;
            v_told := v_told || pg_catalog.to_jsonb(v_waiter.pid || ' ' || v_waiter.began);
        END IF;
    END LOOP;
    WHILE pg_catalog.jsonb_array_length(v_told) > 500 LOOP
        v_told := v_told - 0;
    END LOOP;
    RETURN p_load || pg_catalog.jsonb_build_object('told', v_told, 'behind', CASE WHEN v_behind <> '[]' THEN
        zodan.name_some(v_behind) || CASE WHEN (p_seen ->> 'queued')::int > 0
            THEN pg_catalog.format(' (%s more behind)', p_seen ->> 'queued') ELSE '' END END);
END
$zodan$;
COMMENT ON FUNCTION zodan.tell_waiters IS
'Names each session of a source once which waits for a lock that a lane''s session has there: p_seen is what
zodan.read_load saw. Returns p_load with told, the sessions named, the newest last, and behind, what is true now, NULL if
nobody waits.';
REVOKE ALL ON FUNCTION zodan.tell_waiters FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.judge_load(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Looks, every 1 s, at what the source of a copy carries, without waiting for it, and returns
the step's job. Its load has due, when to look next; asked, whether a look is under way; known, whether there was one;
and what zodan.find_pause and zodan.tell_waiters add. Reports that the copy pauses, and that it goes on. The session is
one of its own: the looks go on whatever the others do. What was seen last holds for 10 s where
the source cannot be asked. */
DECLARE
    v_source text := p_step.units ->> 'snapshot';
    v_node text := zodan.lane_name(v_source, 0);
    v_dsns jsonb := p_dsns || pg_catalog.jsonb_build_object(v_node, p_dsns -> v_source);
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_load jsonb := coalesce(p_job.load, pg_catalog.jsonb_build_object('due', v_now, 'asked', false, 'known', false));
    v_answer jsonb;
BEGIN
    IF (v_load ->> 'asked')::boolean THEN
        v_answer := zodan.fetch_result(v_node, v_dsns);
    ELSIF v_now >= (v_load ->> 'due')::timestamptz THEN
        v_answer := zodan.open_connection(v_node, v_dsns, 'zodan load');
        IF (v_answer ->> 'ok')::boolean THEN
            v_answer := zodan.send_statement(v_node, p_step.units ->> 'load_sql', v_dsns, '{}');
        END IF;
        v_load := v_load || pg_catalog.jsonb_build_object('asked', v_answer IS NULL,
            'due', v_now + interval '1 s');
    END IF;
    IF v_answer IS NULL THEN
        -- Nobody waits long for the first look.
        p_job.load := v_load || pg_catalog.jsonb_build_object('known', (v_load ->> 'known')::boolean
            OR v_now > (v_load ->> 'due')::timestamptz + interval '10 s');
        RETURN p_job;
    END IF;
    v_load := v_load || '{"asked": false, "known": true}';
    IF (v_answer ->> 'ok')::boolean THEN
        v_load := zodan.find_pause(v_load, v_answer -> 'value', (p_step.units ->> 'max_lag')::interval, v_source, v_now);
        v_load := zodan.tell_waiters(v_load, v_answer -> 'value', p_step) || pg_catalog.jsonb_build_object('seen', v_now);
    ELSE
        PERFORM zodan.close_connection(v_node);
        -- To connect may take its time, in which nothing else goes on here.
        v_load := v_load || pg_catalog.jsonb_build_object('due', greatest(v_now + interval '1 s',
            v_now + 10 * (pg_catalog.clock_timestamp() - v_now)));
        IF v_now > (v_load ->> 'seen')::timestamptz + interval '10 s' THEN
            v_load := v_load || '{"paused": null, "by": null, "behind": null}';
        END IF;
    END IF;
    IF v_load ->> 'by' IS DISTINCT FROM p_job.load ->> 'by' THEN
        RAISE NOTICE '%', coalesce('the copy pauses, waiting for ' || (v_load ->> 'paused'), 'the copy goes on');
        p_job.sample_due := v_now;
    ELSIF v_load -> 'behind' IS DISTINCT FROM p_job.load -> 'behind' THEN
        p_job.sample_due := v_now;
    END IF;
    IF (v_answer #>> '{value,lost}')::boolean THEN
        -- Without it, all that is still copied is for nothing.
        p_job.answer := coalesce(p_job.answer, pg_catalog.jsonb_build_object('ok', false, 'sqlstate', 'ZD304', 'message',
            pg_catalog.format('the slot of the copy on node "%s" is gone or has lost its WAL', v_source)));
    END IF;
    p_job.load := v_load;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_load IS
'Looks, every 1 s, at what the source of a copy carries, without waiting for it, and returns
the step''s job. Its load has due, when to look next; asked, whether a look is under way; known, whether there was one;
and what zodan.find_pause and zodan.tell_waiters add. Reports that the copy pauses, and that it goes on. The session is
one of its own: the looks go on whatever the others do. What was seen last holds for 10 s where
the source cannot be asked.';
REVOKE ALL ON FUNCTION zodan.judge_load FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_lanes(p_step zodan.step)
RETURNS SETOF int
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT i.number + CASE WHEN p_step.units ? 'beside' THEN (p_step.units ->> 'lanes')::int ELSE 0 END
  FROM pg_catalog.generate_series(1, (p_step.units ->> 'lanes')::int) AS i(number)
$zodan$;
COMMENT ON FUNCTION zodan.list_lanes IS
'Returns the numbers of the lanes of a step: after those of the step beside it.';
REVOKE ALL ON FUNCTION zodan.list_lanes FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_quiet(p_job zodan.job, p_step zodan.step, p_now timestamptz)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Returns whether a look at the units of a step, at p_now, would find nothing: all that is under way still is, and nothing
of the phase has moved since the last look, which was not 0.1 s ago. It costs a fraction of that look. */
BEGIN
    IF p_job.lanes IS NULL OR NOT coalesce((p_job.load ->> 'known')::boolean, true) OR p_job.moved >= p_job.looked
       OR p_now > p_job.looked + interval '0.1 s' THEN
        RETURN false;
    END IF;
    RETURN NOT EXISTS (
        SELECT FROM pg_catalog.jsonb_array_elements(p_job.lanes) AS l(item)
         WHERE CASE l.item ->> 'stage' WHEN 'free' THEN false WHEN 'snapshot' THEN true
                   ELSE zodan.has_answer(zodan.lane_name(p_step.node, (l.item ->> 'number')::int)) END)
       AND NOT (p_job.sent AND zodan.has_answer(p_step.node));
END
$zodan$;
COMMENT ON FUNCTION zodan.is_quiet IS
'Returns whether a look at the units of a step, at p_now, would find nothing: all that is under way still is, and nothing
of the phase has moved since the last look, which was not 0.1 s ago. It costs a fraction of that look.';
REVOKE ALL ON FUNCTION zodan.is_quiet FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.advance_units(
    p_job zodan.job,
    p_step zodan.step,
    p_dsns jsonb,
    p_results jsonb
)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Moves a step on whose work is in zodan.unit: each of its lanes, and what that shows. The step is done when every unit
is, and fails when one cannot be done, or when nothing has moved for as long as a wait may see no progress; what is
under way then is waited for. While something holds a copy up, no unit begins, and that is no lack of progress.
until_sql is a look at the node: the first says which units it has. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_dsns jsonb;
    v_lane jsonb;
    v_units jsonb;
    v_is_busy boolean;
BEGIN
    IF zodan.is_quiet(p_job, p_step, v_now) THEN
        RETURN p_job;
    END IF;
    p_job.looked := v_now;
    p_job := zodan.look_at_units(p_job, p_step, p_dsns);
    IF p_job.stage <> 'until' OR p_job.lanes IS NULL THEN
        RETURN p_job;
    ELSIF p_step.units ? 'load_sql' THEN
        p_job := zodan.judge_load(p_job, p_step, p_dsns);
    END IF;
    IF p_job.load ->> 'paused' IS NOT NULL THEN
        p_job.deadline := v_now + zodan.read_patience();
    END IF;
    SELECT p_dsns || pg_catalog.jsonb_object_agg(zodan.lane_name(p_step.node, (l.item ->> 'number')::int), p_dsns -> p_step.node)
      INTO v_dsns FROM pg_catalog.jsonb_array_elements(p_job.lanes) AS l(item);
    FOR v_place IN 0 .. pg_catalog.jsonb_array_length(p_job.lanes) - 1 LOOP
        v_lane := zodan.advance_lane(p_job.lanes -> v_place, p_step, v_dsns, p_results,
            p_job.answer IS NULL AND p_job.load ->> 'paused' IS NULL AND coalesce((p_job.load ->> 'known')::boolean, true));
        IF v_lane ? 'moved' THEN
            p_job.deadline := v_now + zodan.read_patience();
        END IF;
        p_job.answer := coalesce(p_job.answer, v_lane -> 'failure',
            CASE WHEN v_now > p_job.deadline THEN v_lane -> 'trouble' END);
        p_job.lanes := pg_catalog.jsonb_set(p_job.lanes, ARRAY[v_place::text],
            v_lane - '{moved,trouble,failure}'::text[]);
    END LOOP;
    p_job.blockers := coalesce(p_job.load ->> 'paused',
        pg_catalog.jsonb_path_query_first(p_job.lanes, '$[*] ? (@.stage != "free").blockers ? (@ != null)') #>> '{}');
    v_is_busy := p_job.sent OR pg_catalog.jsonb_path_exists(p_job.lanes, '$[*] ? (@.stage != "free")');
    -- Lanes may also be free because what their units follow is not done.
    IF v_now < p_job.sample_due AND (v_is_busy OR p_job.answer IS NULL AND EXISTS (SELECT FROM zodan.unit AS u
        WHERE (u.operation_id, u.phase_name) = (p_step.operation_id, p_step.phase_name) AND u.state <> 'done')) THEN
        RETURN p_job;
    END IF;
    v_units := zodan.measure_units(p_step => p_step, p_seen => p_job.progress,
        p_due => v_now >= coalesce(p_job.sample_due, v_now));
    p_job := zodan.take_sample(p_job, pg_catalog.jsonb_set(v_units, '{measure}', nullif(v_units -> 'measure', 'null')
        || pg_catalog.jsonb_build_object('paused', p_job.load -> 'paused', 'behind', p_job.load -> 'behind')), v_now);
    IF ((v_units ->> 'ok')::boolean OR p_job.answer IS NOT NULL) AND NOT v_is_busy THEN
        PERFORM zodan.close_snapshot(zodan.snapshot_name(p_step.operation_id, p_step.phase_name)) WHERE p_job.answer IS NULL;
        PERFORM zodan.close_lanes(p_step);
        p_job.stage := CASE WHEN p_job.answer IS NULL THEN 'done' ELSE 'failed' END;
        p_job.result := v_units - '{ok,measure}'::text[];
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_units IS
'Moves a step on whose work is in zodan.unit: each of its lanes, and what that shows. The step is done when every unit
is, and fails when one cannot be done, or when nothing has moved for as long as a wait may see no progress; what is
under way then is waited for. While something holds a copy up, no unit begins, and that is no lack of progress.
until_sql is a look at the node: the first says which units it has.';
REVOKE ALL ON FUNCTION zodan.advance_units FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.advance_job(
    p_job zodan.job,
    p_step zodan.step,
    p_dsns jsonb,
    p_results jsonb
)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Moves a step on by one notch, and returns its job; only a comparison of rows, alone in its phase, takes about a
second. A step whose done_sql says so is done; otherwise its statement runs, then until_sql is polled. A statement past
its budget is cancelled; without a budget of its own it may take as long as a wait may see no progress. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_budget interval;
    v_sql text := CASE p_job.stage WHEN 'check' THEN p_step.done_sql WHEN 'do' THEN p_step.do_sql
        ELSE p_step.until_sql END;
    v_answer jsonb;
BEGIN
    IF p_step.units ? 'compare' AND p_job.stage = 'until' THEN
        RETURN zodan.advance_compared(p_job, p_step, p_dsns);
    ELSIF p_step.units IS NOT NULL AND p_job.stage = 'until' THEN
        RETURN zodan.advance_units(p_job, p_step, p_dsns, p_results);
    END IF;
    v_budget := coalesce(p_step.budget, zodan.read_patience());
    IF p_job.sent THEN
        RETURN zodan.advance_sent(p_job, p_step, p_dsns, v_budget);
    ELSIF p_job.stage = 'lost' THEN
        RETURN zodan.advance_lost(p_job, p_step, p_dsns);
    ELSIF v_sql IS NULL THEN
        p_job.stage := CASE p_job.stage WHEN 'check' THEN 'do' WHEN 'do' THEN 'until' ELSE 'done' END;
        RETURN p_job;
    ELSIF p_job.stage = 'until' AND v_now < p_job.next THEN
        RETURN p_job;
    END IF;
    v_answer := zodan.send_statement(p_step.node, v_sql, p_dsns, p_results);
    IF v_answer IS NOT NULL THEN
        RETURN zodan.judge_failure(p_job, p_step, v_answer);
    END IF;
    p_job.sent := true;
    IF p_job.stage <> 'until' OR p_job.deadline IS NULL THEN
        p_job.deadline := v_now + v_budget;
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_job IS
'Moves a step on by one notch, and returns its job; only a comparison of rows, alone in its phase, takes about a
second. A step whose done_sql says so is done; otherwise its statement runs, then until_sql is polled. A statement past
its budget is cancelled; without a budget of its own it may take as long as a wait may see no progress.';
REVOKE ALL ON FUNCTION zodan.advance_job FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.describe_failure(p_step zodan.step, p_answer jsonb)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $zodan$
/* Turns the answer that failed a step into what the caller sees: sqlstate of class ZD, message, detail with the
remote SQLSTATE and text, hint. */
DECLARE
    v_state text := p_answer ->> 'sqlstate';
BEGIN
    RETURN pg_catalog.jsonb_build_object(
        'sqlstate', CASE WHEN v_state LIKE 'ZD%' THEN v_state WHEN v_state = '57014' THEN 'ZD302'
                         WHEN v_state LIKE '08%' THEN 'ZD203' ELSE 'ZD200' END,
        'message', pg_catalog.format('step %s failed on node "%s": %s', p_step.ordinal, p_step.node, p_step.title),
        'detail', pg_catalog.format('%s: %s', v_state, pg_catalog.concat_ws(' ', p_answer ->> 'message',
            p_answer ->> 'detail', p_answer ->> 'hint')),
        'hint', pg_catalog.format(CASE
            WHEN EXISTS (SELECT FROM zodan.step AS s WHERE s.operation_id = p_step.operation_id
                AND s.undo_sql IS NOT NULL)
                 AND NOT EXISTS (SELECT FROM zodan.step AS s
                                  WHERE s.operation_id = p_step.operation_id AND s.policy = 'final' AND s.attempts > 0)
            THEN 'Fix the cause, then CALL zodan.resume(%1$s) to finish, or CALL zodan.rollback(%1$s) to undo.'
            ELSE 'Fix the cause, then CALL zodan.resume(%1$s) to finish.' END, p_step.operation_id));
END
$zodan$;
COMMENT ON FUNCTION zodan.describe_failure IS
'Turns the answer that failed a step into what the caller sees: sqlstate of class ZD, message, detail with the
remote SQLSTATE and text, hint.';
REVOKE ALL ON FUNCTION zodan.describe_failure FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.announce_step(
    p_step zodan.step,
    p_job zodan.job,
    p_undo boolean,
    p_verbose boolean
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Reports that a step is done: a NOTICE when verbose, its statement as DEBUG and, whether verbose or not, a WARNING with
the materialized view that it passed over. Changes nothing. */
BEGIN
    IF p_verbose THEN
        RAISE NOTICE '% %: %', CASE WHEN p_job.found THEN '=' WHEN p_undo THEN '-' ELSE '+' END,
            p_step.ordinal, p_step.title;
    END IF;
    IF p_job.result ->> 'passed' IS NOT NULL THEN
        RAISE WARNING 'on node "%", passed over: %', p_step.node, pg_catalog.concat_ws(': ', p_step.object_name,
            p_job.result ->> 'passed')
            USING HINT = pg_catalog.format('It has no rows on this node until REFRESH MATERIALIZED VIEW %s succeeds there.',
                p_step.object_name);
    END IF;
    RAISE DEBUG 'on %: %', p_step.node, coalesce(p_step.do_sql, p_step.until_sql);
END
$zodan$;
COMMENT ON FUNCTION zodan.announce_step IS
'Reports that a step is done: a NOTICE when verbose, its statement as DEBUG and, whether verbose or not, a WARNING with
the materialized view that it passed over. Changes nothing.';
REVOKE ALL ON FUNCTION zodan.announce_step FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.meet_test_hook(p_point text, p_ordinal int)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* For tests of interruptions: if the setting zodan.test_hook is '<point> <ordinal>', point being before or after, or
for a unit its phase and opening, clearing, snapshot or copying (that was sent) or done, the executor stops there
once, until it gets the advisory lock 5712036017245691 of this database, which the
test holds while it breaks something. Without the setting it does nothing. */
BEGIN
    IF pg_catalog.current_setting('zodan.test_hook', true) = p_point || ' ' || p_ordinal THEN
        PERFORM pg_catalog.set_config('zodan.test_hook', '', false);
        PERFORM pg_catalog.pg_advisory_lock_shared(5712036017245691);
        PERFORM pg_catalog.pg_advisory_unlock_shared(5712036017245691);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.meet_test_hook IS
'For tests of interruptions: if the setting zodan.test_hook is ''<point> <ordinal>'', point being before or after, or
for a unit its phase and opening, clearing, snapshot or copying (that was sent) or done, the executor stops there
once, until it gets the advisory lock 5712036017245691 of this database, which the
test holds while it breaks something. Without the setting it does nothing.';
REVOKE ALL ON FUNCTION zodan.meet_test_hook FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.record_look(p_step zodan.step, p_before zodan.job, p_job zodan.job)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Writes to the journal what the last look at a step brought: what it measured, and what it waits for, if that has
changed since p_before. Returns the step's job. */
BEGIN
    IF p_before.blockers IS DISTINCT FROM p_job.blockers THEN
        PERFORM zodan.record_wait(p_step.operation_id, p_step.ordinal, p_job.blockers);
    END IF;
    IF p_job.sample IS NOT NULL THEN
        PERFORM zodan.record_sample(p_step.operation_id, p_step.ordinal, p_job.sample);
        p_job.sample := NULL;
    END IF;
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.record_look IS
'Writes to the journal what the last look at a step brought: what it measured, and what it waits for, if that has
changed since p_before. Returns the step''s job.';
REVOKE ALL ON FUNCTION zodan.record_look FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.run_phase(
    p_operation bigint,
    p_phase int,
    p_undo boolean,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Runs the steps of one phase at the same time, one connection per node, or undoes them with p_undo. Ends when all
are done, or when a step has failed and none is still under way; p_failure then says why. Commits after every line of
the journal, so that it has no open transaction while it waits. */
DECLARE
    v_steps zodan.step[] := zodan.pick_steps(p_operation, p_phase, p_undo);
    v_jobs zodan.job[];
    v_step zodan.step;
    v_job zodan.job;
    v_results jsonb := zodan.read_results(p_operation, v_steps);
    v_busy text[] := '{}'::text[];
    v_open boolean;
    v_before zodan.job;
    v_moved timestamptz := pg_catalog.clock_timestamp();
    v_looked timestamptz;
BEGIN
    FOR v_index IN 1 .. pg_catalog.cardinality(v_steps) LOOP
        v_jobs[v_index] := zodan.begin_job();
        IF NOT p_undo THEN
            PERFORM zodan.record_step(p_operation, v_steps[v_index].ordinal, 'running');
        END IF;
    END LOOP;
    COMMIT;
    LOOP
        v_open := false;
        v_looked := pg_catalog.clock_timestamp();
        FOR v_index IN 1 .. pg_catalog.cardinality(v_steps) LOOP
            v_job := v_jobs[v_index];
            CONTINUE WHEN v_job.stage IN ('done', 'failed');
            v_step := v_steps[v_index];
            -- After a failure nothing new begins, no unit either, and what is under way is waited for.
            CONTINUE WHEN NOT v_job.sent AND p_failure IS NOT NULL AND v_job.lanes IS NULL;
            v_open := true;
            CONTINUE WHEN NOT v_job.sent AND v_step.node = ANY (v_busy);
            v_job.answer := coalesce(v_job.answer, CASE WHEN NOT v_job.sent THEN p_failure END);
            IF v_job.stage = 'check' THEN
                PERFORM zodan.meet_test_hook('before', v_step.ordinal);
            END IF;
            v_busy := pg_catalog.array_remove(v_busy, v_step.node);
            v_job.moved := v_moved;
            v_before := v_job;
            v_job := zodan.advance_job(v_job, v_step, p_dsns, v_results);
            IF v_job.compared IS NOT NULL OR (v_before.stage, v_before.lanes) IS DISTINCT FROM (v_job.stage, v_job.lanes) THEN
                v_moved := pg_catalog.clock_timestamp();
            END IF;
            v_job := zodan.record_look(v_step, v_before, v_job);
            IF v_job.stage = 'failed' THEN
                p_failure := coalesce(p_failure, zodan.describe_failure(v_step, v_job.answer));
                PERFORM zodan.record_step(p_operation, v_step.ordinal, 'failed', NULL, v_job.answer ->> 'message');
                COMMIT;
            ELSIF v_job.stage = 'done' THEN
                PERFORM zodan.record_units(p_operation, v_step.object_name, v_job.result -> 'units') WHERE v_job.result ? 'units';
                PERFORM zodan.record_step(p_operation, v_step.ordinal, CASE WHEN p_undo THEN 'undone' ELSE 'done' END,
                    CASE WHEN NOT p_undo THEN v_job.result - 'units' END);
                COMMIT;
                PERFORM zodan.announce_step(v_step, v_job, p_undo, p_verbose);
                PERFORM zodan.meet_test_hook('after', v_step.ordinal);
                -- It may be large, and is copied at every look at the others.
                v_job.result := NULL;
            ELSIF v_job.sent THEN
                v_busy := v_busy || v_step.node;
            END IF;
            v_jobs[v_index] := v_job;
        END LOOP;
        EXIT WHEN NOT v_open;
        -- No snapshot is held from one look to the next: a copy may take hours, and vacuum goes on.
        COMMIT;
        PERFORM zodan.wait_a_moment(v_moved, NOT EXISTS (SELECT FROM pg_catalog.unnest(v_jobs) AS j
            WHERE j.stage NOT IN ('done', 'failed') AND j.lanes IS NULL)) WHERE v_moved < v_looked;
    END LOOP;
END
$zodan$;
COMMENT ON PROCEDURE zodan.run_phase IS
'Runs the steps of one phase at the same time, one connection per node, or undoes them with p_undo. Ends when all
are done, or when a step has failed and none is still under way; p_failure then says why. Commits after every line of
the journal, so that it has no open transaction while it waits.';
REVOKE ALL ON PROCEDURE zodan.run_phase FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_written(p_operation bigint, p_dsns jsonb, p_hint text)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Looks, before a copy is undone, for rows that users wrote on the new node, which the undo would delete. Returns
NULL if there are none, else the failure as zodan.describe_failure returns it, with p_hint: ZD111 with the tables and
how many rows each; ZD200 if they cannot be counted. The undo of a join with a physical copy deletes none. */
DECLARE
    v_node text;
    v_answer jsonb;
BEGIN
    SELECT o.node INTO v_node FROM zodan.operation AS o WHERE o.operation_id = p_operation 
        AND o.kind IN ('add_node', 'replace_node')
        AND o.arguments ->> 'copy' IS DISTINCT FROM 'present';
    IF v_node IS NULL THEN
        RETURN NULL;
    END IF;
    v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_node, zodan.prove_unwritten(v_node)), p_dsns,
        NULL) -> v_node;
    RETURN CASE WHEN v_answer ->> 'sqlstate' = 'ZD111' THEN pg_catalog.jsonb_build_object('sqlstate', 'ZD111', 'hint',
        p_hint,
            'message', pg_catalog.format('rows were written on node "%s", and rolling the join back would delete them',
                v_node), 'detail', v_answer ->> 'message')
        WHEN NOT (v_answer ->> 'ok')::boolean THEN pg_catalog.jsonb_build_object('sqlstate', 'ZD200', 'hint', p_hint,
            'message', pg_catalog.format('could not look for rows that were written on node "%s"', v_node),
            'detail', pg_catalog.concat_ws(': ', v_answer ->> 'sqlstate', v_answer ->> 'message')) END;
END
$zodan$;
COMMENT ON FUNCTION zodan.find_written IS
'Looks, before a copy is undone, for rows that users wrote on the new node, which the undo would delete. Returns
NULL if there are none, else the failure as zodan.describe_failure returns it, with p_hint: ZD111 with the tables and
how many rows each; ZD200 if they cannot be counted. The undo of a join with a physical copy deletes none.';
REVOKE ALL ON FUNCTION zodan.find_written FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.undo_phases(
    p_operation bigint,
    p_from int,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Undoes, last phase first, every step from phase p_from on, or the whole plan if that is NULL: what was made on
something goes with it. Every undo_sql is harmless if nothing was done. Stops at the first failure, reported in
p_failure. */
DECLARE
    v_phases int[];
BEGIN
    SELECT coalesce(pg_catalog.array_agg(DISTINCT s.phase), '{}') INTO v_phases
      FROM zodan.step AS s
     WHERE s.operation_id = p_operation AND (p_from IS NULL OR s.phase >= p_from);
    FOR v_index IN REVERSE pg_catalog.cardinality(v_phases) .. 1 LOOP
        CALL zodan.run_phase(p_operation, v_phases[v_index], true, p_dsns, p_verbose, p_failure);
        EXIT WHEN p_failure IS NOT NULL;
    END LOOP;
END
$zodan$;
COMMENT ON PROCEDURE zodan.undo_phases IS
'Undoes, last phase first, every step from phase p_from on, or the whole plan if that is NULL: what was made on
something goes with it. Every undo_sql is harmless if nothing was done. Stops at the first failure, reported in
p_failure.';
REVOKE ALL ON PROCEDURE zodan.undo_phases FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_hopeless(
    p_operation bigint,
    p_group text,
    p_ordinal int,
    p_dsns jsonb
)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Returns whether what a group waits for after step p_ordinal will never come: the next wait in the group reports
trouble (Spock cannot resume a copy that broke off). */
DECLARE
    v_step zodan.step;
    v_answer jsonb;
BEGIN
    SELECT s.* INTO v_step FROM zodan.step AS s
     WHERE s.operation_id = p_operation AND s.group_name = p_group AND s.ordinal > p_ordinal AND s.until_sql IS NOT NULL
     ORDER BY s.ordinal LIMIT 1;
    IF v_step.until_sql IS NULL OR v_step.until_sql LIKE '%{result:%' THEN
        RETURN false;
    END IF;
    v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_step.node, v_step.until_sql), p_dsns) -> v_step.node;
    RETURN v_answer #>> '{value,trouble}' IS NOT NULL;
END
$zodan$;
COMMENT ON FUNCTION zodan.is_hopeless IS
'Returns whether what a group waits for after step p_ordinal will never come: the next wait in the group reports
trouble (Spock cannot resume a copy that broke off).';
REVOKE ALL ON FUNCTION zodan.is_hopeless FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.take_back_group(
    p_operation bigint,
    p_group text,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Undoes a group of steps with everything that was made after it, and has all of that done again. What comes before
the group stays. A group of policy guarded is not undone if users have written on the new node: p_failure then says
so. */
DECLARE
    v_first record;
BEGIN
    IF EXISTS (SELECT FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.group_name = p_group
        AND s.policy = 'guarded') THEN
        p_failure := zodan.find_written(p_operation, p_dsns,
            pg_catalog.format(
                'The copy has to start over, which deletes these rows: save them elsewhere, delete them there, '
                'then CALL zodan.resume(%s).', p_operation));
        IF p_failure IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT pg_catalog.min(s.phase) AS phase, pg_catalog.min(s.ordinal) AS ordinal INTO v_first
      FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.group_name = p_group;
    CALL zodan.undo_phases(p_operation, v_first.phase, p_dsns, p_verbose, p_failure);
    DELETE FROM zodan.unit AS u USING zodan.step AS s
     WHERE u.operation_id = p_operation AND s.operation_id = p_operation AND s.phase_name = u.phase_name AND s.ordinal >= v_first.ordinal;
    UPDATE zodan.step AS s SET state = 'pending'
     WHERE s.operation_id = p_operation AND s.state = 'done' AND s.policy IS DISTINCT FROM 'once'
         AND s.ordinal >= v_first.ordinal;
    COMMIT;
END
$zodan$;
COMMENT ON PROCEDURE zodan.take_back_group IS
'Undoes a group of steps with everything that was made after it, and has all of that done again. What comes before
the group stays. A group of policy guarded is not undone if users have written on the new node: p_failure then says
so.';
REVOKE ALL ON PROCEDURE zodan.take_back_group FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.settle_group(
    p_operation bigint,
    p_group text,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Brings an interrupted group of steps to where it can continue. If the cluster shows that a step of the group is
done, and the wait that follows still has hope, then the step and those before it in the group count as done, and the
rest runs at once, before anything waits for a node whose apply may still be paused. A done step of policy swift
stands for everything before it, outside its group too. Otherwise the group is undone, to begin again. */
DECLARE
    v_step zodan.step;
    v_answer jsonb;
    v_phase int;
BEGIN
    FOR v_step IN
        SELECT s.* FROM zodan.step AS s
         WHERE s.operation_id = p_operation AND s.group_name = p_group AND s.done_sql IS NOT NULL
         ORDER BY s.ordinal DESC
    LOOP
        v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_step.node, v_step.done_sql),
            p_dsns) -> v_step.node;
        IF NOT (v_answer ->> 'ok')::boolean THEN
            p_failure := zodan.describe_failure(v_step, v_answer);
            RETURN;
        ELSIF (v_answer #>> '{value,ok}')::boolean THEN
            EXIT WHEN zodan.is_hopeless(p_operation, p_group, v_step.ordinal, p_dsns);
            UPDATE zodan.step AS s SET state = 'done'
             WHERE s.operation_id = p_operation AND s.ordinal <= v_step.ordinal
                 AND (s.group_name = p_group OR v_step.policy = 'swift');
            -- What the cluster shows as not done is done again, whatever was done earlier.
            UPDATE zodan.step AS s SET state = 'pending'
             WHERE s.operation_id = p_operation AND s.group_name = p_group AND s.ordinal > v_step.ordinal
                 AND s.done_sql IS NOT NULL AND s.state = 'done';
            FOREACH v_phase IN ARRAY ARRAY(SELECT DISTINCT s.phase FROM zodan.step AS s
                WHERE s.operation_id = p_operation AND s.group_name = p_group AND s.ordinal > v_step.ordinal
                    ORDER BY s.phase)
            LOOP
                EXIT WHEN p_failure IS NOT NULL;
                CALL zodan.run_phase(p_operation, v_phase, false, p_dsns, p_verbose, p_failure);
            END LOOP;
            RETURN;
        END IF;
    END LOOP;
    CALL zodan.take_back_group(p_operation, p_group, p_dsns, p_verbose, p_failure);
END
$zodan$;
COMMENT ON PROCEDURE zodan.settle_group IS
'Brings an interrupted group of steps to where it can continue. If the cluster shows that a step of the group is
done, and the wait that follows still has hope, then the step and those before it in the group count as done, and the
rest runs at once, before anything waits for a node whose apply may still be paused. A done step of policy swift
stands for everything before it, outside its group too. Otherwise the group is undone, to begin again.';
REVOKE ALL ON PROCEDURE zodan.settle_group FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.regain_members(p_operation bigint, p_dsns jsonb, INOUT p_failure jsonb)
LANGUAGE plpgsql
AS $zodan$
/* Makes sure after a failed flip that every node of p_dsns is connected, and connects again to those that are not,
for as long as a wait may see no progress. Reports in p_failure a node that stays away. */
DECLARE
    v_node text;
    v_answer jsonb;
    v_until timestamptz := pg_catalog.clock_timestamp() + zodan.read_patience();
    v_next timestamptz;
BEGIN
    FOR v_node IN SELECT k.node FROM pg_catalog.jsonb_object_keys(p_dsns) AS k(node) ORDER BY k.node COLLATE "C" LOOP
        CONTINUE WHEN zodan.is_connected(v_node);
        RAISE NOTICE 'lost the connection to node "%", trying again', v_node;
        LOOP
            v_answer := zodan.regain_node(p_operation, v_node, p_dsns);
            EXIT WHEN (v_answer ->> 'ok')::boolean;
            IF pg_catalog.clock_timestamp() > v_until THEN
                p_failure := pg_catalog.jsonb_build_object('sqlstate', 'ZD203', 'message',
                    pg_catalog.format('lost the connection to node "%s"', v_node), 'detail', v_answer ->> 'message',
                    'hint', pg_catalog.format('Bring the node back, then CALL zodan.resume(%s).', p_operation));
                RETURN;
            END IF;
            COMMIT;
            v_next := pg_catalog.clock_timestamp() + interval '1 s';
            WHILE pg_catalog.clock_timestamp() < v_next LOOP
                PERFORM zodan.wait_a_moment(v_next - interval '1 s');
            END LOOP;
        END LOOP;
    END LOOP;
END
$zodan$;
COMMENT ON PROCEDURE zodan.regain_members IS
'Makes sure after a failed flip that every node of p_dsns is connected, and connects again to those that are not,
for as long as a wait may see no progress. Reports in p_failure a node that stays away.';
REVOKE ALL ON PROCEDURE zodan.regain_members FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.retry_group(
    p_operation bigint,
    p_group text,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_tries int,
    INOUT p_copies int,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Decides, after a failure in a group of steps, whether to try the group again, and prepares that; p_failure is NULL
then. A group of policy swift is always settled first, so that nothing stays paused; then the guarded group before it
is brought level again. If the failure says that what the guarded group made is not whole (ZD304), the guarded group
begins again. p_tries counts the tries of the swift group, with a rest before the next one, and p_copies those of the
guarded group, both in one call. Any other failure stays as it is, so that you can examine it, until the operation is
called again or rolled back. */
DECLARE
    v_failure jsonb;
    v_rest timestamptz;
    v_is_whole boolean := p_failure ->> 'sqlstate' IS DISTINCT FROM 'ZD304';
    v_swift record;
    v_guarded record;
BEGIN
    SELECT s.group_name AS name, s.group_tries AS tries INTO v_swift
      FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'swift' LIMIT 1;
    SELECT s.group_name AS name, s.group_tries AS tries INTO v_guarded
      FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'guarded' LIMIT 1;
    IF v_swift.name IS NULL OR v_guarded.name IS NULL OR p_group IS DISTINCT FROM v_swift.name AND v_is_whole THEN
        RETURN;
    ELSIF p_group = v_swift.name THEN
        p_tries := p_tries + 1;
        CALL zodan.regain_members(p_operation, p_dsns, v_failure);
        IF v_failure IS NOT NULL THEN
            RETURN;
        END IF;
        CALL zodan.settle_group(p_operation, v_swift.name, p_dsns, p_verbose, v_failure);
    END IF;
    p_copies := p_copies + (NOT v_is_whole)::int;
    IF v_failure IS NOT NULL OR p_tries >= v_swift.tries OR p_copies >= v_guarded.tries THEN
        RETURN;
    ELSIF v_is_whole THEN
        CALL zodan.settle_group(p_operation, v_guarded.name, p_dsns, p_verbose, v_failure);
    ELSE
        CALL zodan.take_back_group(p_operation, v_guarded.name, p_dsns, p_verbose, v_failure);
    END IF;
    IF v_failure IS NOT NULL THEN
        -- What prevents another try matters more than why one is needed.
        p_failure := v_failure || pg_catalog.jsonb_build_object('detail',
            pg_catalog.concat_ws(E'\n', v_failure ->> 'detail', p_failure ->> 'detail'));
        RETURN;
    END IF;
    RAISE NOTICE 'trying again from the % on: %', CASE WHEN v_is_whole THEN p_group ELSE v_guarded.name END,
        p_failure ->> 'detail';
    p_failure := NULL;
    UPDATE zodan.step AS s SET state = 'pending'
     WHERE s.operation_id = p_operation AND s.state = 'done' AND s.policy = 'again' AND NOT EXISTS (
           SELECT FROM zodan.step AS t WHERE t.operation_id = p_operation AND t.policy = 'swift' AND t.state = 'done');
    COMMIT;
    v_rest := pg_catalog.clock_timestamp()
        + pg_catalog.make_interval(secs => 0.5 * 2 ^ greatest(p_tries - 1, 0));
    WHILE pg_catalog.clock_timestamp() < v_rest LOOP
        PERFORM zodan.wait_a_moment();
    END LOOP;
END
$zodan$;
COMMENT ON PROCEDURE zodan.retry_group IS
'Decides, after a failure in a group of steps, whether to try the group again, and prepares that; p_failure is NULL
then. A group of policy swift is always settled first, so that nothing stays paused; then the guarded group before it
is brought level again. If the failure says that what the guarded group made is not whole (ZD304), the guarded group
begins again. p_tries counts the tries of the swift group, with a rest before the next one, and p_copies those of the
guarded group, both in one call. Any other failure stays as it is, so that you can examine it, until the operation is
called again or rolled back.';
REVOKE ALL ON PROCEDURE zodan.retry_group FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.run_operation(
    p_operation bigint,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb,
    p_last int DEFAULT NULL
)
LANGUAGE plpgsql
AS $zodan$
/* Runs the plan of an operation from its first phase to its last, and believes the cluster about what is already
done. Undoes a failed flip and tries it again, and copies again where a copy is not whole. Returns NULL, or why it
stopped; the journal says the same. With p_last, it runs up to that phase, and the operation stays open. */
DECLARE
    v_phase int;
    v_group text;
    v_tries int := 0;
    v_copies int := 0;
BEGIN
    FOR v_group IN
        -- The later group first: a turn that happened stands for everything before it.
        SELECT s.group_name FROM zodan.step AS s
         WHERE s.operation_id = p_operation AND s.group_tries IS NOT NULL
         GROUP BY s.group_name HAVING pg_catalog.max(s.attempts) > 0 AND pg_catalog.bool_or(s.state <> 'done')
         ORDER BY pg_catalog.min(s.ordinal) DESC
    LOOP
        CALL zodan.settle_group(p_operation, v_group, p_dsns, p_verbose, p_failure);
        EXIT WHEN p_failure IS NOT NULL;
    END LOOP;
    UPDATE zodan.step AS s SET state = 'pending'
     WHERE s.operation_id = p_operation AND s.policy = 'fresh' AND s.state = 'done' AND NOT zodan.has_joined(p_operation);
    SELECT pg_catalog.min(s.phase) INTO v_phase FROM zodan.step AS s WHERE s.operation_id = p_operation;
    WHILE v_phase <= coalesce(p_last, v_phase) AND p_failure IS NULL LOOP
        SELECT pg_catalog.max(s.group_name) INTO v_group
          FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.phase = v_phase;
        CALL zodan.run_phase(p_operation, v_phase, false, p_dsns, p_verbose, p_failure);
        IF p_failure IS NOT NULL THEN
            CALL zodan.retry_group(p_operation, v_group, p_dsns, p_verbose, v_tries, v_copies, p_failure);
            IF p_failure IS NULL THEN
                SELECT pg_catalog.min(s.phase) - 1 INTO v_phase
                  FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.state <> 'done';
            END IF;
        END IF;
        SELECT pg_catalog.min(s.phase) INTO v_phase
          FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.phase > v_phase;
    END LOOP;
    IF p_failure IS NULL AND p_last IS NOT NULL THEN
        RETURN;
    END IF;
    PERFORM zodan.finish_operation(p_operation, CASE WHEN p_failure IS NULL THEN 'done' ELSE 'failed' END,
        pg_catalog.concat_ws(' ', p_failure ->> 'message', p_failure ->> 'detail'));
    COMMIT;
END
$zodan$;
COMMENT ON PROCEDURE zodan.run_operation IS
'Runs the plan of an operation from its first phase to its last, and believes the cluster about what is already
done. Undoes a failed flip and tries it again, and copies again where a copy is not whole. Returns NULL, or why it
stopped; the journal says the same. With p_last, it runs up to that phase, and the operation stays open.';
REVOKE ALL ON PROCEDURE zodan.run_operation FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.raise_failure(p_failure jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises the failure that zodan.describe_failure returned, if any, after closing the connections. */
BEGIN
    IF p_failure IS NOT NULL THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = p_failure ->> 'sqlstate',
            MESSAGE = p_failure ->> 'message',
            DETAIL = coalesce(p_failure ->> 'detail', ''),
            HINT = coalesce(p_failure ->> 'hint', '');
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.raise_failure IS
'Raises the failure that zodan.describe_failure returned, if any, after closing the connections.';
REVOKE ALL ON FUNCTION zodan.raise_failure FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.describe_checks(p_checks zodan.check_result[], p_state text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('sqlstate', 'ZD100',
           'message', pg_catalog.format('%s of %s preconditions are not met, %s; first: %s on "%s": %s',
               pg_catalog.cardinality(f.failed), pg_catalog.cardinality(p_checks), p_state, f.failed[1].name, f.failed[1].scope,
               f.failed[1].observed),
           'detail', (SELECT pg_catalog.string_agg(pg_catalog.format('%s on "%s": %s; needed: %s.', c.name, c.scope, c.observed,
                          c.required), E'\n') FROM pg_catalog.unnest(f.failed) AS c),
           'hint', f.failed[1].hint)
  FROM (SELECT pg_catalog.array_agg(c) AS failed FROM pg_catalog.unnest(p_checks) AS c WHERE c.verdict = 'FAIL') AS f
 WHERE f.failed IS NOT NULL
$zodan$;
COMMENT ON FUNCTION zodan.describe_checks IS
'Returns NULL if no check failed, else the failure as zodan.describe_failure returns it: ZD100, with all failures in
detail and the hint of the first. p_state says what that means for the cluster.';
REVOKE ALL ON FUNCTION zodan.describe_checks FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.judge_checks(p_checks zodan.check_result[])
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises an error if a check failed, with all failures in DETAIL and the HINT of the first, and warns of the checks
that warn. Errors: ZD100. */
DECLARE
    v_check zodan.check_result;
BEGIN
    PERFORM zodan.raise_failure(zodan.describe_checks(p_checks, 'nothing was changed'));
    FOREACH v_check IN ARRAY coalesce(p_checks, '{}') LOOP
        IF v_check.verdict = 'WARN' THEN
            RAISE WARNING '% on "%": %', v_check.name, v_check.scope, v_check.observed USING HINT = v_check.hint;
        END IF;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_checks IS
'Raises an error if a check failed, with all failures in DETAIL and the HINT of the first, and warns of the checks
that warn. Errors: ZD100.';
REVOKE ALL ON FUNCTION zodan.judge_checks FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_dsns(
    p_operation bigint,
    p_given jsonb,
    OUT p_dsns jsonb,
    OUT p_facts jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Finds the connection strings of an operation's nodes again, because the journal keeps no passwords: first as given,
then as this database's own Spock knows them, then as the nodes reached so far know each other, last as the journal
has them. Returns the strings and everybody's facts, by node; the connections stay open. */
DECLARE
    v_operation zodan.operation;
    v_purpose text;
    v_wanted text[];
    v_known jsonb;
BEGIN
    SELECT * INTO STRICT v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    v_purpose := pg_catalog.format('zodan %s %s', v_operation.kind, v_operation.node);
    SELECT pg_catalog.array_agg(k.node) INTO v_wanted FROM pg_catalog.jsonb_object_keys(v_operation.members) AS k(node);
    SELECT zodan.local_dsns() || coalesce(pg_catalog.jsonb_object_agg(g.key, zodan.canonical_dsn(g.value)), '{}')
      INTO v_known FROM pg_catalog.jsonb_each_text(p_given) AS g(key, value);
    p_dsns := '{}';
    p_facts := '{}';
    LOOP
        SELECT g.p_dsns, g.p_facts INTO p_dsns, p_facts
          FROM zodan.gather_cluster(v_known, v_wanted, v_purpose, p_dsns, p_facts) AS g;
        -- Nobody names the rest: try without a password, as a password file or a trusted socket allow.
        SELECT pg_catalog.jsonb_object_agg(d.key, d.value) INTO v_known
          FROM pg_catalog.jsonb_each(v_operation.members) AS d(key, value) WHERE NOT p_dsns ? d.key;
        EXIT WHEN v_known IS NULL;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.find_dsns IS
'Finds the connection strings of an operation''s nodes again, because the journal keeps no passwords: first as given,
then as this database''s own Spock knows them, then as the nodes reached so far know each other, last as the journal
has them. Returns the strings and everybody''s facts, by node; the connections stay open.';
REVOKE ALL ON FUNCTION zodan.find_dsns FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_gone(p_operation bigint, p_facts jsonb)
RETURNS text[]
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(m.name ORDER BY m.name), '{}')
  FROM zodan.operation AS o CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(o.members) AS m(name)
 WHERE o.operation_id = p_operation AND o.kind IN ('add_node', 'remove_node', 'replace_node')
   AND m.name <> o.node
   -- The old node leaves by the operation itself: it is gone before only if it is no node either.
   AND NOT (o.kind = 'replace_node' AND m.name = o.arguments ->> 'old_node_name'
       AND (zodan.is_final(o.operation_id) OR p_facts #>> ARRAY[m.name, 'spock', 'node'] IS NOT DISTINCT FROM m.name))
   AND EXISTS (SELECT FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                WHERE f.key NOT IN (m.name, o.node) AND o.members ? f.key AND f.value #>> '{spock,node}' = f.key)
   AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                    WHERE f.key NOT IN (m.name, o.node) AND f.value #>> '{spock,node}' = f.key
                        AND f.value #> '{spock,nodes}' ? m.name)
$zodan$;
COMMENT ON FUNCTION zodan.find_gone IS
'Returns the members of an unfinished operation that are no longer members, by what zodan.gather_facts reported now:
no other member that was reached knows them. If nobody was reached, it names none.';
REVOKE ALL ON FUNCTION zodan.find_gone FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_came(p_operation bigint, p_facts jsonb)
RETURNS text[]
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(DISTINCT n.name), '{}')
  FROM zodan.operation AS o CROSS JOIN LATERAL pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(f.value #> '{spock,nodes}') AS n(name)
 WHERE o.operation_id = p_operation AND f.key <> o.node AND f.value #>> '{spock,node}' = f.key
     AND NOT o.members ? n.name
$zodan$;
COMMENT ON FUNCTION zodan.find_came IS
'Returns the nodes that have joined the cluster since an unfinished operation began, by what zodan.gather_facts
reported now: a member knows them, and the operation does not.';
REVOKE ALL ON FUNCTION zodan.find_came FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_past(p_operation zodan.operation, p_facts jsonb)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN p_operation.kind IN ('remove_node', 'replace_node') AND (
        SELECT s.state = 'done' FROM zodan.step AS s
         WHERE s.operation_id = p_operation.operation_id AND s.phase_name = 'unpublish')
         AND (p_facts #>> ARRAY[coalesce(p_operation.arguments ->> 'old_node_name', p_operation.node), 'spock', 'publishes'])::boolean
        THEN true
    WHEN p_operation.kind = 'remove_node' THEN n.facts ->> 'life' <> p_operation.arguments ->> 'life'
        OR EXISTS (SELECT FROM pg_catalog.unnest(zodan.find_came(p_operation.operation_id, p_facts)) AS c(name)
                    WHERE NOT p_operation.arguments -> 'missing' ? c.name)
    WHEN p_operation.kind = 'mend' THEN false
    ELSE coalesce((SELECT s.result ->> 'life' <> n.facts ->> 'life' FROM zodan.step AS s
                    WHERE s.operation_id = p_operation.operation_id AND s.phase_name = 'note' AND s.node = p_operation.node
                      AND s.result IS NOT NULL), n.facts -> 'subscriptions' <> '[]') END IS TRUE
  FROM (SELECT CASE WHEN p_facts #>> ARRAY[p_operation.node, 'spock', 'node'] = p_operation.node
            THEN p_facts #> ARRAY[p_operation.node, 'spock'] END AS facts) AS n
$zodan$;
COMMENT ON FUNCTION zodan.is_past IS
'Returns whether what an unfinished operation has done no longer holds, by what zodan.gather_facts reported now. It does
not if the operation is about an earlier life of its node: a call in another database ended what this one began, and the
node joined again. A join notes the life of the new node before it makes a subscription there, a removal that of the node
that leaves. A removal is past as well if a node has joined that is not in its plan, or if the node to remove publishes
again: members that had drained it then lack what comes after that.';
REVOKE ALL ON FUNCTION zodan.is_past FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.pass_over(
    p_operation bigint,
    p_gone text[],
    p_resumes boolean,
    p_facts jsonb,
    p_dsns jsonb
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Continues without members that have left. A resumed join is planned again, and zodan.carry_on does so with what
follows the join in a replacement; in any other operation their steps count as done or, in a rollback, as never begun.
Errors: those of zodan.replan_join. */
BEGIN
    IF p_resumes AND zodan.has_joined(p_operation) THEN
        RETURN;
    ELSIF p_resumes AND EXISTS (SELECT FROM zodan.operation AS o WHERE o.operation_id = p_operation
        AND o.kind IN ('add_node', 'replace_node')) THEN
        PERFORM zodan.replan_join(p_operation, p_gone, p_facts, p_dsns);
    ELSE
        UPDATE zodan.step SET state = 'done', attempts = CASE WHEN p_resumes THEN attempts ELSE 0 END
         WHERE operation_id = p_operation AND node = ANY (p_gone);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.pass_over IS
'Continues without members that have left. A resumed join is planned again, and zodan.carry_on does so with what
follows the join in a replacement; in any other operation their steps count as done or, in a rollback, as never begun.
Errors: those of zodan.replan_join.';
REVOKE ALL ON FUNCTION zodan.pass_over FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.may_be_away(p_operation bigint, p_node text)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT (o.kind = 'remove_node' OR o.kind = 'replace_node' AND o.node <> p_node AND zodan.has_joined(p_operation))
       AND (NOT EXISTS (SELECT FROM zodan.step AS s
                         WHERE s.operation_id = p_operation AND s.node = p_node AND s.state <> 'done')
            OR o.kind = 'replace_node' AND coalesce((o.arguments ->> 'force')::boolean, false))
  FROM zodan.operation AS o WHERE o.operation_id = p_operation
$zodan$;
COMMENT ON FUNCTION zodan.may_be_away IS
'Returns whether an interrupted operation can continue without a node that cannot be reached: a removal that is done
with it; and in a replacement whose new node has joined, another node that it is done with, or any but the new one with
force.';
REVOKE ALL ON FUNCTION zodan.may_be_away FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_unfinished(p_operation bigint)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD006 if there is no operation of a number, or if it has ended. */
DECLARE
    v_state text := (SELECT o.state FROM zodan.operation AS o WHERE o.operation_id = p_operation);
BEGIN
    IF v_state IS NULL OR v_state IN ('done', 'rolled back', 'given up') THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD006',
            MESSAGE = pg_catalog.format('operation %s cannot continue: %s', p_operation,
                        coalesce('it is ' || v_state, 'there is no such operation in this database')),
            HINT = 'See the rows of zodan.operation for those that were interrupted.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_unfinished IS
'Raises ZD006 if there is no operation of a number, or if it has ended.';
REVOKE ALL ON FUNCTION zodan.check_unfinished FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.may_be_blank(p_operation bigint, p_node text)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT p_node = o.node AND NOT (o.kind = 'replace_node' AND zodan.is_final(p_operation))
       OR zodan.has_joined(p_operation) AND p_node = o.arguments ->> 'old_node_name'
  FROM zodan.operation AS o WHERE o.operation_id = p_operation
$zodan$;
COMMENT ON FUNCTION zodan.may_be_blank IS
'Returns whether a node of an interrupted operation may be no Spock node: the one that is joining or leaving, and in a
replacement the new node until the removal begins, because somebody may have removed it or an earlier rollback was
interrupted, and the old one once the new one has joined.';
REVOKE ALL ON FUNCTION zodan.may_be_blank FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_came(p_operation zodan.operation, p_resumes boolean, p_facts jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Refuses to resume a join, or to roll one back, because of nodes that joined the cluster after it began: its plan does not
have them, and the undo would delete the rows of a node that sends its changes to them. p_facts is what zodan.find_dsns
returned. Errors: ZD112. */
DECLARE
    v_came text[] := zodan.find_came(p_operation.operation_id, p_facts);
    v_takes_part boolean := coalesce(p_facts #> ARRAY[p_operation.node, 'spock', 'nodes'] ?| v_came, false);
BEGIN
    IF v_came = '{}' OR p_operation.kind NOT IN ('add_node', 'replace_node') OR NOT p_resumes AND NOT v_takes_part
       OR p_resumes AND p_operation.kind = 'replace_node' AND zodan.has_joined(p_operation.operation_id) THEN
        RETURN;
    END IF;
    PERFORM zodan.close_connections();
    RAISE EXCEPTION USING
        ERRCODE = 'ZD112',
        MESSAGE = pg_catalog.format('a node joined the cluster after operation %s began: %s', p_operation.operation_id,
            pg_catalog.array_to_string(v_came, ', ')),
        DETAIL = pg_catalog.format(CASE WHEN v_takes_part THEN 'It exchanges rows with node "%s", and a rollback would reach it too.'
            ELSE 'It exchanges no rows with node "%s".' END, p_operation.node),
        HINT = CASE WHEN NOT v_takes_part THEN pg_catalog.format('CALL zodan.rollback(%s), then call again.', p_operation.operation_id)
            ELSE pg_catalog.format('Take node "%s" out by spock.remove_node, which ends this operation; or leave it, and see by'
                ' zodan-sql verify whether it has all rows.', p_operation.node) END;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_came IS
'Refuses to resume a join, or to roll one back, because of nodes that joined the cluster after it began: its plan does not
have them, and the undo would delete the rows of a node that sends its changes to them. p_facts is what zodan.find_dsns
returned. Errors: ZD112.';
REVOKE ALL ON FUNCTION zodan.check_came FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.reopen(p_operation bigint, p_given jsonb, p_resumes boolean)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Prepares an interrupted operation to be resumed or rolled back: connects to all its nodes and takes the cluster's
lock. p_given holds connection strings by node where the cluster itself does not know them. Returns all of them by
node, the connections open; or NULL if what the operation has done no longer holds: it gives the operation up. Passes
over a member that has left the cluster meanwhile: with p_resumes it plans a join again without that member. A removal
continues without the nodes that cannot be reached if it is done with them: at its end nobody may know their
connection strings any longer. Errors: ZD003 a connection string leads to another node; ZD006 no such operation, or it
is done or rolled back; ZD101 a node cannot be reached; ZD112 a node joined meanwhile; ZD113 the source is gone; ZD110
this operation is still running, or another one is. */
DECLARE
    v_operation zodan.operation;
    v_found record;
    v_dsns jsonb;
    v_gone text[];
BEGIN
    PERFORM zodan.check_unfinished(p_operation);
    SELECT * INTO v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    SELECT * INTO v_found FROM zodan.find_dsns(p_operation, p_given);
    IF zodan.is_past(v_operation, v_found.p_facts) THEN
        UPDATE zodan.operation SET state = 'given up', finished_at = pg_catalog.clock_timestamp(),
            error = 'what it had done no longer holds' WHERE operation_id = p_operation;
        RETURN NULL;
    END IF;
    v_gone := zodan.find_gone(p_operation, v_found.p_facts);
    v_found.p_facts := v_found.p_facts - v_gone;
    v_found.p_dsns := v_found.p_dsns - v_gone;
    PERFORM zodan.check_came(v_operation, p_resumes, v_found.p_facts);
    IF EXISTS (SELECT FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value)
                WHERE f.value ? 'error' AND NOT zodan.may_be_away(p_operation, f.key)) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD101',
            MESSAGE = 'a node of the interrupted operation cannot be reached',
            DETAIL = (SELECT pg_catalog.string_agg(pg_catalog.format('node "%s": %s', f.key, f.value ->> 'error'), '; ')
                        FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value) WHERE f.value ? 'error'),
            HINT = CASE WHEN zodan.has_joined(p_operation)
                THEN 'Bring the node back; if it is gone for good, call zodan.replace_node again with force => true.'
                ELSE 'Bring the node back, or give its connection string, then call again.' END;
    END IF;
    IF EXISTS (SELECT FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value)
                WHERE NOT f.value ? 'error' AND f.value #>> '{spock,node}' IS DISTINCT FROM f.key
                  AND NOT (f.value #>> '{spock,node}' IS NULL AND zodan.may_be_blank(p_operation, f.key))) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD003',
            MESSAGE = 'a connection string leads to the wrong node',
            DETAIL = (SELECT pg_catalog.string_agg(pg_catalog.format('That of "%s" leads to %s.', f.key,
                               coalesce('node "' || (f.value #>> '{spock,node}') || '"', 'no node')), ' ')
                        FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value)
                       WHERE NOT f.value ? 'error' AND f.value #>> '{spock,node}' IS DISTINCT FROM f.key),
            HINT = 'Give the connection strings of the nodes of this operation.';
    END IF;
    SELECT pg_catalog.jsonb_object_agg(d.key, d.value) INTO v_dsns
      FROM pg_catalog.jsonb_each(v_found.p_dsns) AS d(key, value) WHERE NOT v_found.p_facts -> d.key ? 'error';
    PERFORM zodan.lock_members(v_dsns);
    -- Whoever held the lock until now may have finished it.
    PERFORM zodan.check_unfinished(p_operation);
    IF v_gone <> '{}' THEN
        RAISE NOTICE 'skipped, because they are no longer members: %', pg_catalog.array_to_string(v_gone, ', ');
        PERFORM zodan.pass_over(p_operation, v_gone, p_resumes, v_found.p_facts, v_dsns);
    END IF;
    RETURN v_dsns;
END
$zodan$;
COMMENT ON FUNCTION zodan.reopen IS
'Prepares an interrupted operation to be resumed or rolled back: connects to all its nodes and takes the cluster''s
lock. p_given holds connection strings by node where the cluster itself does not know them. Returns all of them by
node, the connections open; or NULL if what the operation has done no longer holds: it gives the operation up. Passes
over a member that has left the cluster meanwhile: with p_resumes it plans a join again without that member. A removal
continues without the nodes that cannot be reached if it is done with them: at its end nobody may know their
connection strings any longer. Errors: ZD003 a connection string leads to another node; ZD006 no such operation, or it
is done or rolled back; ZD101 a node cannot be reached; ZD112 a node joined meanwhile; ZD113 the source is gone; ZD110
this operation is still running, or another one is.';
REVOKE ALL ON FUNCTION zodan.reopen FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.require_present(p_operation bigint, p_dsns jsonb)
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD006 if zodan.reopen gave an operation up, p_dsns is NULL then, and keeps in the journal that it did. */
BEGIN
    IF p_dsns IS NULL THEN
        COMMIT;
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD006',
            MESSAGE = pg_catalog.format('operation %s cannot continue, and is given up: what it had done no longer holds', p_operation),
            DETAIL = 'Since then a node has joined the cluster, or the node that was to leave publishes again.',
            HINT = 'If a node is to join or to leave, call spock.add_node or spock.remove_node for it.';
    END IF;
END
$zodan$;
COMMENT ON PROCEDURE zodan.require_present IS
'Raises ZD006 if zodan.reopen gave an operation up, p_dsns is NULL then, and keeps in the journal that it did.';
REVOKE ALL ON PROCEDURE zodan.require_present FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_same_call(p_operation bigint, p_arguments jsonb)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 when a call that resumes an interrupted operation asks for something other than the interrupted call
did. What is null in p_arguments is not asked for. */
DECLARE
    v_operation zodan.operation;
    c_free CONSTANT text[] := ARRAY['jobs', 'max_rate', 'max_lag', 'soak', 'quiet', 'force', 'accept_divergence'];
BEGIN
    SELECT * INTO STRICT v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    -- How many sessions copy side by side, and how fast, may change on the way.
    IF EXISTS (SELECT FROM pg_catalog.jsonb_each(p_arguments - c_free) AS a(key, value)
                WHERE a.value <> 'null' AND a.value IS DISTINCT FROM
                      ('{"structure": "spock", "copy": "rows", "verify": false}' || v_operation.arguments) -> a.key) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('node "%s" has an interrupted operation with other arguments',
                v_operation.node),
            DETAIL = pg_catalog.format('Operation %s, begun at %s: %s.', p_operation, v_operation.started_at,
                v_operation.arguments),
            HINT = pg_catalog.format('Call again with those arguments, or CALL zodan.rollback(%s) first.', p_operation);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_same_call IS
'Raises ZD004 when a call that resumes an interrupted operation asks for something other than the interrupted call
did. What is null in p_arguments is not asked for.';
REVOKE ALL ON FUNCTION zodan.check_same_call FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.show_plan(p_plan zodan.plan_step[], p_verbose boolean)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Prints a plan as NOTICEs, one line per step; with p_verbose its statements too. */
DECLARE
    v_step zodan.plan_step;
BEGIN
    FOREACH v_step IN ARRAY p_plan LOOP
        RAISE NOTICE '%.% %: %', v_step.phase, v_step.ordinal, v_step.node, v_step.title;
        IF p_verbose THEN
            RAISE NOTICE '%', coalesce(v_step.do_sql, v_step.until_sql);
        END IF;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.show_plan IS
'Prints a plan as NOTICEs, one line per step; with p_verbose its statements too.';
REVOKE ALL ON FUNCTION zodan.show_plan FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.carry_on(
    p_operation bigint,
    p_dsns jsonb,
    p_verbose boolean,
    INOUT p_failure jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Runs the plan of an operation that was begun or reopened. A replacement stops once the new node has joined, and again
before the removal of the old one: what follows is planned and judged again from the facts of then. So it is where a
node that it needs was not reached. Returns NULL in p_failure, or why it stopped. */
DECLARE
    v_dsns jsonb := p_dsns;
    v_policy text;
    v_last int;
    v_policies text[] := (SELECT CASE WHEN o.kind = 'replace_node' THEN '{passed,final}'::text[] ELSE '{}'::text[] END
        FROM zodan.operation AS o WHERE o.operation_id = p_operation);
BEGIN
    FOREACH v_policy IN ARRAY v_policies LOOP
        CONTINUE WHEN zodan.is_final(p_operation) AND NOT EXISTS (SELECT FROM zodan.step AS s
            WHERE s.operation_id = p_operation AND s.state <> 'done' AND NOT v_dsns ? s.node);
        IF NOT zodan.has_joined(p_operation) OR v_policy = 'final' AND NOT zodan.is_final(p_operation) THEN
            SELECT pg_catalog.min(s.phase) - (v_policy = 'final')::int INTO v_last FROM zodan.step AS s
             WHERE s.operation_id = p_operation AND s.policy = v_policy;
            CALL zodan.run_operation(p_operation, v_dsns, p_verbose, p_failure, v_last);
            IF p_failure IS NOT NULL THEN
                RETURN;
            END IF;
        END IF;
        SELECT r.p_dsns, r.p_failure INTO v_dsns, p_failure FROM zodan.replan_rest(p_operation, v_dsns) AS r;
        IF p_failure IS NOT NULL THEN
            PERFORM zodan.finish_operation(p_operation, 'failed',
                pg_catalog.concat_ws(' ', p_failure ->> 'message', p_failure ->> 'detail'));
            COMMIT;
            RETURN;
        END IF;
        COMMIT;
    END LOOP;
    CALL zodan.run_operation(p_operation, v_dsns, p_verbose, p_failure);
END
$zodan$;
COMMENT ON PROCEDURE zodan.carry_on IS
'Runs the plan of an operation that was begun or reopened. A replacement stops once the new node has joined, and again
before the removal of the old one: what follows is planned and judged again from the facts of then. So it is where a
node that it needs was not reached. Returns NULL in p_failure, or why it stopped.';
REVOKE ALL ON PROCEDURE zodan.carry_on FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.resume(
    p_operation bigint,
    p_dsns jsonb DEFAULT '{}',
    p_verbose boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Finishes an interrupted operation from the true state of the cluster. p_operation is its number in zodan.operation
of this database; p_dsns holds connection strings by node where the cluster no longer knows them (or not yet). Errors:
those of zodan.reopen, and of the operation itself. */
DECLARE
    v_dsns jsonb;
    v_failure jsonb;
BEGIN
    CALL zodan.require_autocommit('zodan.resume', true, p_dsns::text);
    PERFORM zodan.close_connections();
    v_dsns := zodan.reopen(p_operation, p_dsns, true);
    CALL zodan.require_present(p_operation, v_dsns);
    PERFORM zodan.reopen_operation(p_operation, v_dsns);
    COMMIT;
    CALL zodan.carry_on(p_operation, v_dsns, p_verbose, v_failure);
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    RAISE NOTICE 'operation % is done', p_operation;
END
$zodan$;
COMMENT ON PROCEDURE zodan.resume IS
'Finishes an interrupted operation from the true state of the cluster. p_operation is its number in zodan.operation
of this database; p_dsns holds connection strings by node where the cluster no longer knows them (or not yet). Errors:
those of zodan.reopen, and of the operation itself.';
REVOKE ALL ON PROCEDURE zodan.resume FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.rollback(
    p_operation bigint,
    p_dsns jsonb DEFAULT '{}',
    p_verbose boolean DEFAULT false,
    p_discard_writes boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Rolls back an interrupted operation: undoes every step that can be undone, last phase first, whether or not the
journal says that the step was done, and proves at the end that nothing is left. Arguments as for zodan.resume. With
p_discard_writes it rolls back even if users have written on the new node meanwhile, and deletes their rows. Errors:
those of zodan.reopen; ZD111 users have written and p_discard_writes is not given; ZD007 a removal is past the point
where only finishing it loses nothing; ZD2nn a step could not be undone. */
DECLARE
    v_dsns jsonb;
    v_failure jsonb;
BEGIN
    CALL zodan.require_autocommit('zodan.rollback', true, p_dsns::text);
    PERFORM zodan.close_connections();
    IF zodan.is_final(p_operation) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD007',
            MESSAGE = pg_catalog.format('operation %s can no longer be rolled back', p_operation),
            DETAIL = 'The node that leaves has stopped publishing. The others would lose what users have written there since.',
            HINT = pg_catalog.format('Finish it: CALL zodan.resume(%s).', p_operation);
    END IF;
    v_dsns := zodan.reopen(p_operation, p_dsns, false);
    CALL zodan.require_present(p_operation, v_dsns);
    IF NOT p_discard_writes THEN
        PERFORM zodan.raise_failure(zodan.find_written(p_operation, v_dsns, pg_catalog.format(
            'Finish the join: CALL zodan.resume(%1$s); or give the rows up: '
            'CALL zodan.rollback(%1$s, p_discard_writes => true).', p_operation) || CASE
            WHEN zodan.has_joined(p_operation)
            THEN ' Or take the new node out by spock.remove_node, which loses nothing and ends this operation.' ELSE '' END));
    END IF;
    -- The new node is no member any longer, even if the rollback does not get to its end.
    UPDATE zodan.step SET state = 'pending' WHERE operation_id = p_operation AND policy = 'passed';
    CALL zodan.undo_phases(p_operation, NULL, v_dsns, p_verbose, v_failure);
    PERFORM zodan.finish_operation(p_operation, CASE WHEN v_failure IS NULL THEN 'rolled back' ELSE 'failed' END,
        pg_catalog.concat_ws(' ', v_failure ->> 'message', v_failure ->> 'detail'));
    COMMIT;
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    RAISE NOTICE 'operation % has been rolled back', p_operation;
END
$zodan$;
COMMENT ON PROCEDURE zodan.rollback IS
'Rolls back an interrupted operation: undoes every step that can be undone, last phase first, whether or not the
journal says that the step was done, and proves at the end that nothing is left. Arguments as for zodan.resume. With
p_discard_writes it rolls back even if users have written on the new node meanwhile, and deletes their rows. Errors:
those of zodan.reopen; ZD111 users have written and p_discard_writes is not given; ZD007 a removal is past the point
where only finishing it loses nothing; ZD2nn a step could not be undone.';
REVOKE ALL ON PROCEDURE zodan.rollback FROM PUBLIC;


CREATE OR REPLACE FUNCTION zodan.trace_facts(p_subscriptions text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.jsonb_build_object(
    'slots', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', r.slot_name, 'active',
        r.active,
                          'known', EXISTS (
                              -- The name is known except for the subscriber's database name in its middle.
                              SELECT FROM pg_catalog.unnest(%1$s) AS u(name)
                               CROSS JOIN pg_catalog.substr(spock.spock_gen_slot_name('x', me.node_name, u.name)::text,
                                   6) AS t(tail)
                               WHERE pg_catalog.right(r.slot_name, pg_catalog.length(t.tail)) = t.tail),
                          'held', pg_catalog.pg_current_wal_lsn() - r.restart_lsn,
                          'lag', greatest(pg_catalog.pg_current_wal_lsn() - r.confirmed_flush_lsn, 0)))
                         FROM pg_catalog.pg_replication_slots AS r
                        CROSS JOIN (spock.local_node AS l JOIN spock.node AS me ON me.node_id = l.node_id)
                        WHERE r.database = pg_catalog.current_database() AND NOT r.temporary
                          AND pg_catalog.left(r.slot_name, 4) = 'spk_'), '[]'),
    -- Origins are the server's. Those of this database start with its name, with which another's name may start too.
    'origins', coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', o.roname, 'certain',
        d.others = 0))
                           FROM pg_catalog.pg_replication_origin AS o
                          CROSS JOIN LATERAL (
                                SELECT pg_catalog.count(*) FILTER (
                                           WHERE b.datname = pg_catalog.current_database()) AS own,
                                       pg_catalog.count(*) FILTER (
                                           WHERE b.datname <> pg_catalog.current_database()) AS others
                                  FROM pg_catalog.pg_database AS b
                                 WHERE pg_catalog.starts_with(o.roname,
                                     pg_catalog.regexp_replace(spock.spock_gen_slot_name(b.datname, 'x', 'x')::text,
                                     'x_x$', ''))) AS d
                          WHERE d.own = 1), '[]'),
    'strangers', coalesce((SELECT pg_catalog.jsonb_agg(n.node_name) FROM spock.node AS n
                            WHERE NOT EXISTS (SELECT FROM spock.local_node AS l WHERE l.node_id = n.node_id)
                              AND NOT EXISTS (SELECT FROM spock.subscription AS s
                                  WHERE n.node_id IN (s.sub_origin, s.sub_target))), '[]'),
    'interfaces', coalesce((SELECT pg_catalog.jsonb_agg(i.if_name) FROM spock.node_interface AS i
                             WHERE NOT EXISTS (SELECT FROM spock.node AS n WHERE n.node_id = i.if_nodeid)), '[]')
) AS traces$sql$,
    zodan.quote_list(p_subscriptions))
$zodan$;
COMMENT ON FUNCTION zodan.trace_facts IS
'Reads from a node every trace of replication that can be left behind: slots with the WAL they hold, origins, node
rows and interfaces. It returns one row, traces, an object. p_subscriptions are those by which the other members
receive from the node: a slot named for one of them has a known owner.';
REVOKE ALL ON FUNCTION zodan.trace_facts FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_origin(p_origin text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(pg_catalog.pg_replication_origin_drop(o.roname)) AS dropped
    FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = %1$s$sql$,
    zodan.quote_text(p_origin))
$zodan$;
COMMENT ON FUNCTION zodan.drop_origin IS
'Drops a replication origin if it exists.';
REVOKE ALL ON FUNCTION zodan.drop_origin FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_members(
    p_dsn text,
    p_purpose text,
    OUT p_dsns jsonb,
    OUT p_facts jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Connects to a member, learns the other nodes from it and from those it knows, and reads everybody's facts. Returns
them, and the connection strings of the nodes that it reached, by node; the connections stay open. p_purpose shows in
pg_stat_activity. Errors: ZD001, ZD101 the node given cannot be reached, ZD003 that database is not a node. */
DECLARE
    v_first jsonb;
BEGIN
    v_first := zodan.gather_facts(pg_catalog.jsonb_build_object('the node given',
        zodan.canonical_dsn(p_dsn)), p_purpose);
    IF v_first #> '{the node given,error}' IS NOT NULL THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD101',
            MESSAGE = 'the node given cannot be reached',
            DETAIL = v_first #>> '{the node given,error}',
            HINT = 'Check that it runs, its address and its password.';
    ELSIF v_first #>> '{the node given,spock,node}' IS NULL THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD003',
            MESSAGE = 'the connection string does not lead to a Spock node',
            HINT = 'Give the connection string of a member.';
    END IF;
    SELECT g.p_dsns, g.p_facts INTO p_dsns, p_facts
      FROM zodan.gather_cluster(zodan.known_dsns(v_first), NULL, p_purpose, '{}', '{}') AS g;
    SELECT coalesce(pg_catalog.jsonb_object_agg(d.key, d.value), '{}') INTO p_dsns
      FROM pg_catalog.jsonb_each(p_dsns) AS d(key, value) WHERE p_facts #>> ARRAY[d.key, 'spock', 'node'] = d.key;
END
$zodan$;
COMMENT ON FUNCTION zodan.find_members IS
'Connects to a member, learns the other nodes from it and from those it knows, and reads everybody''s facts. Returns
them, and the connection strings of the nodes that it reached, by node; the connections stay open. p_purpose shows in
pg_stat_activity. Errors: ZD001, ZD101 the node given cannot be reached, ZD003 that database is not a node.';
REVOKE ALL ON FUNCTION zodan.find_members FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.find_traces(
    p_dsn text,
    OUT p_dsns jsonb,
    OUT p_facts jsonb,
    OUT p_traces jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Connects to a member, learns the other nodes from it and from those it knows, and reads everybody's facts and
traces. Returns them, and the connection strings of the nodes that it reached, by node; the connections stay open.
Errors: ZD001, ZD101 the node given cannot be reached, ZD003 that database is not a node. */
BEGIN
    SELECT m.p_dsns, m.p_facts INTO p_dsns, p_facts FROM zodan.find_members(p_dsn, 'zodan rescan') AS m;
    SELECT coalesce(pg_catalog.jsonb_object_agg(r.key, r.value #> '{value,traces}'), '{}') INTO p_traces
      FROM pg_catalog.jsonb_each(zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(k.node, zodan.trace_facts(ARRAY(
                         SELECT zodan.subscription_name(k.node, o.node)
                             FROM pg_catalog.jsonb_object_keys(p_facts) AS o(node) WHERE o.node <> k.node)))
                                                     FROM pg_catalog.jsonb_object_keys(p_dsns) AS k(node)),
                                                         p_dsns)) AS r(key, value);
END
$zodan$;
COMMENT ON FUNCTION zodan.find_traces IS
'Connects to a member, learns the other nodes from it and from those it knows, and reads everybody''s facts and
traces. Returns them, and the connection strings of the nodes that it reached, by node; the connections stay open.
Errors: ZD001, ZD101 the node given cannot be reached, ZD003 that database is not a node.';
REVOKE ALL ON FUNCTION zodan.find_traces FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_orphans(p_facts jsonb, p_traces jsonb)
RETURNS TABLE (node text, kind text, name text, reason text, statement text, certain boolean)
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH subs AS (
    SELECT f.key AS node, s.item ->> 'name' AS name, s.item ->> 'provider' AS provider, s.item ->> 'slot' AS slot
      FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
     CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS s(item)),
unreached AS (
    SELECT f.key AS node FROM pg_catalog.jsonb_each(p_facts) AS f(key, value) WHERE f.value ? 'error')
SELECT t.key, 'slot', s.item ->> 'name',
       pg_catalog.format('no subscription of a member streams from it; it holds %s bytes of WAL', s.item ->> 'held'),
       pg_catalog.format('SELECT pg_catalog.pg_drop_replication_slot(%L)', s.item ->> 'name'),
           (s.item ->> 'known')::boolean
  FROM pg_catalog.jsonb_each(p_traces) AS t(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(t.value -> 'slots') AS s(item)
 WHERE NOT (s.item ->> 'active')::boolean
   AND NOT EXISTS (SELECT FROM subs WHERE subs.provider = t.key AND subs.slot = s.item ->> 'name')
   AND NOT EXISTS (SELECT FROM unreached)
UNION ALL
SELECT subs.node, 'subscription', subs.name,
       CASE WHEN p_facts -> subs.provider IS NULL OR p_facts #>> ARRAY[subs.provider, 'spock', 'node'] IS DISTINCT
           FROM subs.provider
            THEN 'no node of its provider''s name is left' ELSE 'its provider has no slot for it' END,
       pg_catalog.format('SELECT spock.sub_drop(%L, true)', subs.name), true
  FROM subs
 WHERE NOT EXISTS (SELECT FROM unreached AS u WHERE u.node = subs.provider)
   AND (p_traces ? subs.provider OR p_facts #>> ARRAY[subs.provider, 'spock', 'node'] IS DISTINCT FROM subs.provider)
   AND NOT EXISTS (SELECT FROM pg_catalog.jsonb_array_elements(p_traces #> ARRAY[subs.provider, 'slots']) AS s(item)
       WHERE s.item ->> 'name' = subs.slot)
UNION ALL
SELECT t.key, 'origin', o.name, CASE WHEN o.certain THEN 'no subscription uses it'
    ELSE 'no subscription uses it, but another database of this server may' END,
       pg_catalog.format('SELECT pg_catalog.pg_replication_origin_drop(%L)', o.name), o.certain
  FROM pg_catalog.jsonb_each(p_traces) AS t(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_to_recordset(t.value -> 'origins') AS o(name text, certain boolean)
 WHERE NOT EXISTS (SELECT FROM subs WHERE subs.node = t.key AND subs.slot = o.name)
UNION ALL
SELECT t.key, 'node', n.name, 'no subscription leads to it or from it',
    pg_catalog.format('SELECT spock.node_drop(%L, true)', n.name), true
  FROM pg_catalog.jsonb_each(p_traces) AS t(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(t.value -> 'strangers') AS n(name)
UNION ALL
SELECT t.key, 'interface', i.name, 'its node does not exist',
    pg_catalog.format('DELETE FROM spock.node_interface AS i WHERE i.if_name = %L'
        ' AND NOT EXISTS (SELECT FROM spock.node AS n WHERE n.node_id = i.if_nodeid)', i.name), true
  FROM pg_catalog.jsonb_each(p_traces) AS t(key, value)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(t.value -> 'interfaces') AS i(name)
$zodan$;
COMMENT ON FUNCTION zodan.list_orphans IS
'Finds, in what zodan.gather_facts and zodan.trace_facts returned, what nobody uses: slots that no member''s
subscription streams from, origins and interfaces without an owner, subscriptions whose provider does not exist as
that node or has no slot for them, node rows without a subscription. Each comes with the reason and the statement that
removes it, to be run on that node. Nothing is assumed of a node that cannot be reached: while there is one, no slot
is an orphan, because that node may use it. certain is false for a slot whose name is that of no stream between
members, because a subscriber outside the cluster, or one that is still to join, may need it; and for an origin that
may be another database''s.';
REVOKE ALL ON FUNCTION zodan.list_orphans FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.rescan(p_dsn text)
RETURNS TABLE (node text, kind text, name text, reason text, statement text, certain boolean)
LANGUAGE plpgsql
AS $zodan$
/* Searches a whole cluster, reached through any member's connection string, for leftovers, and returns a row for each
with the statement that removes it on that node. Changes nothing; zodan.mend runs the statements. certain is false for
a slot that a subscriber outside the cluster may still need, or a subscriber that has not joined yet: only you can
know. Warns of nodes that cannot be reached. Errors: ZD001, ZD003, ZD101. */
DECLARE
    v_found record;
    v_unreached text;
BEGIN
    PERFORM zodan.hide_statement(p_dsn);
    PERFORM zodan.close_connections();
    SELECT * INTO v_found FROM zodan.find_traces(p_dsn);
    PERFORM zodan.close_connections();
    SELECT pg_catalog.string_agg(f.key, ', ') INTO v_unreached
      FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value) WHERE f.value ? 'error';
    IF v_unreached IS NOT NULL THEN
        RAISE WARNING 'skipped, because they could not be reached: %', v_unreached
            USING HINT = 'Scan again once it is back.';
    END IF;
    RETURN QUERY SELECT o.* FROM zodan.list_orphans(v_found.p_facts, v_found.p_traces) AS o ORDER BY o.node, o.kind,
        o.name;
END
$zodan$;
COMMENT ON FUNCTION zodan.rescan IS
'Searches a whole cluster, reached through any member''s connection string, for leftovers, and returns a row for each
with the statement that removes it on that node. Changes nothing; zodan.mend runs the statements. certain is false for
a slot that a subscriber outside the cluster may still need, or a subscriber that has not joined yet: only you can
know. Warns of nodes that cannot be reached. Errors: ZD001, ZD003, ZD101.';
REVOKE ALL ON FUNCTION zodan.rescan FROM PUBLIC;

CREATE OR REPLACE PROCEDURE zodan.mend(
    p_dsn text,
    p_verbose boolean DEFAULT false,
    p_all boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Runs the statements that zodan.rescan returns for the cluster reached through p_dsn, as an operation with lock and
journal like any other. Subscriptions come first because dropping one also drops its slot and origin. A slot that may
belong to something outside this cluster is left alone with a warning, unless p_all is given. Errors: those of
zodan.rescan, ZD110 another operation is under way, ZD2nn a step failed. */
DECLARE
    v_found record;
    v_steps zodan.plan_step[];
    v_operation bigint;
    v_failure jsonb;
    v_left text;
BEGIN
    CALL zodan.require_autocommit('zodan.mend', true, p_dsn);
    PERFORM zodan.close_connections();
    SELECT * INTO v_found FROM zodan.find_traces(p_dsn);
    PERFORM zodan.lock_members(v_found.p_dsns);
    SELECT * INTO v_found FROM zodan.find_traces(p_dsn);
    SELECT pg_catalog.array_agg(zodan.make_step(
               CASE o.kind WHEN 'subscription' THEN 'subscriptions' WHEN 'slot' THEN 'slots' WHEN 'origin' THEN 'slots'
                   ELSE 'nodes' END, o.node,
               pg_catalog.format('%s %s on %s: %s', o.kind, o.name, o.node, o.reason),
               CASE o.kind WHEN 'origin' THEN zodan.drop_origin(o.name)
                           WHEN 'node' THEN zodan.forget_node(o.name) ELSE o.statement END))
               FILTER (WHERE o.certain OR p_all),
           pg_catalog.string_agg(pg_catalog.format('%s on %s', o.name, o.node), ', ')
               FILTER (WHERE NOT (o.certain OR p_all))
      INTO v_steps, v_left
      FROM zodan.list_orphans(v_found.p_facts, v_found.p_traces) AS o;
    IF v_left IS NOT NULL THEN
        RAISE WARNING 'kept, because a subscriber outside the cluster or another database may need it: %', v_left
            USING HINT = 'If you know that nobody needs it, call again with p_all => true.';
    END IF;
    IF v_steps IS NULL THEN
        PERFORM zodan.close_connections();
        RAISE NOTICE 'nothing %is left behind in this cluster', CASE WHEN v_left IS NOT NULL THEN 'else ' ELSE '' END;
        RETURN;
    END IF;
    v_operation := zodan.start_operation('mend', 'cluster', '{}', v_found.p_dsns,
        (SELECT pg_catalog.array_agg(n ORDER BY n.ordinal) FROM zodan.number_steps(v_steps,
            '{subscriptions,slots,nodes}') AS n));
    COMMIT;
    CALL zodan.run_operation(v_operation, v_found.p_dsns, p_verbose, v_failure);
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    RAISE NOTICE '% leftovers have been removed, operation %', pg_catalog.cardinality(v_steps), v_operation;
END
$zodan$;
COMMENT ON PROCEDURE zodan.mend IS
'Runs the statements that zodan.rescan returns for the cluster reached through p_dsn, as an operation with lock and
journal like any other. Subscriptions come first because dropping one also drops its slot and origin. A slot that may
belong to something outside this cluster is left alone with a warning, unless p_all is given. Errors: those of
zodan.rescan, ZD110 another operation is under way, ZD2nn a step failed.';
REVOKE ALL ON PROCEDURE zodan.mend FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.topology(p_dsn text)
RETURNS TABLE (provider text, subscriber text, subscription text, status text, active boolean, lag_bytes numeric)
LANGUAGE plpgsql
AS $zodan$
/* Returns who streams to whom in a cluster, reached through any member's connection string: one row per subscription,
with its status on the subscriber, whether its slot is being streamed from, and how many bytes of the provider's WAL
the subscriber has not confirmed yet. A node without any subscription has a row of its own; so does a node that cannot
be reached, with the status unreachable. Changes nothing. Errors: ZD001, ZD003, ZD101. */
DECLARE
    v_found record;
BEGIN
    PERFORM zodan.hide_statement(p_dsn);
    PERFORM zodan.close_connections();
    SELECT * INTO v_found FROM zodan.find_traces(p_dsn);
    PERFORM zodan.close_connections();
    RETURN QUERY
        SELECT s.item ->> 'provider', f.key, s.item ->> 'name',
               s.item ->> 'status', (t.slot ->> 'active')::boolean, (t.slot ->> 'lag')::numeric
          FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS s(item)
          LEFT JOIN LATERAL (
            SELECT x.slot FROM pg_catalog.jsonb_array_elements(v_found.p_traces #> ARRAY[s.item ->> 'provider',
                'slots']) AS x(slot)
             WHERE x.slot ->> 'name' = s.item ->> 'slot') AS t ON true
        UNION ALL
        SELECT f.key, NULL, NULL, CASE WHEN f.value ? 'error' THEN 'unreachable' ELSE 'alone' END, NULL, NULL
          FROM pg_catalog.jsonb_each(v_found.p_facts) AS f(key, value)
         WHERE f.value ? 'error' OR (f.value #> '{spock,subscriptions}' = '[]' AND NOT pg_catalog.jsonb_path_exists(
               v_found.p_facts, '$.*.spock.subscriptions[*] ? (@.provider == $node)',
                   pg_catalog.jsonb_build_object('node', f.key)))
         ORDER BY 1, 2;
END
$zodan$;
COMMENT ON FUNCTION zodan.topology IS
'Returns who streams to whom in a cluster, reached through any member''s connection string: one row per subscription,
with its status on the subscriber, whether its slot is being streamed from, and how many bytes of the provider''s WAL
the subscriber has not confirmed yet. A node without any subscription has a row of its own; so does a node that cannot
be reached, with the status unreachable. Changes nothing. Errors: ZD001, ZD003, ZD101.';
REVOKE ALL ON FUNCTION zodan.topology FROM PUBLIC;


CREATE OR REPLACE FUNCTION zodan.is_unpublished()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT NOT EXISTS (SELECT FROM spock.replication_set_table AS t
                     JOIN spock.replication_set AS r ON r.set_id = t.set_id
                     JOIN spock.local_node AS l ON l.node_id = r.set_nodeid) AS ok$sql$
$zodan$;
COMMENT ON FUNCTION zodan.is_unpublished IS
'Returns whether a node no longer publishes any table; for done_sql.';
REVOKE ALL ON FUNCTION zodan.is_unpublished FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.unpublish()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(spock.repset_remove_table(t.set_name, t.set_reloid, false)) AS removed
  FROM (SELECT r.set_name, t.set_reloid
          FROM spock.replication_set_table AS t
          JOIN spock.replication_set AS r ON r.set_id = t.set_id
          JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
         OFFSET 0) AS t$sql$
$zodan$;
COMMENT ON FUNCTION zodan.unpublish IS
'Takes every table out of every replication set of a node.';
REVOKE ALL ON FUNCTION zodan.unpublish FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.wait_drained(p_lsn text, p_provider text, p_streams text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT CASE WHEN d.gone THEN true WHEN d.passed THEN spock.sync_event(false) IS NOT NULL ELSE false END AS ok,
       d.progress, w.alive, w.measure || d.measure AS measure, w.blockers,
       CASE WHEN NOT d.gone THEN coalesce(w.trouble, d.trouble) END AS trouble
  FROM (
SELECT coalesce(pg_catalog.bool_or(o.remote_lsn >= %1$s::pg_catalog.pg_lsn), false) AS ok,
       pg_catalog.max(o.remote_lsn) AS progress,
       coalesce(pg_catalog.bool_or(EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
              AND a.xact_start IS NOT NULL
    AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Activity', 'Extension'))), false) AS alive,
       CASE WHEN pg_catalog.count(s.sub_id) = 0 THEN 'there is no subscription from node ' || %2$s
            WHEN NOT pg_catalog.bool_or(s.sub_enabled) THEN 'the subscription from node ' || %2$s
                || ' is disabled' || coalesce(': ' || (
                SELECT e.error_message FROM spock.exception_log AS e
                 WHERE e.remote_origin = pg_catalog.min(n.node_id) ORDER BY e.retry_errored_at DESC LIMIT 1),
                     '') END AS trouble,
       -- A worker that fails comes back after some seconds, and fails again.
       CASE WHEN pg_catalog.bool_or(s.sub_enabled AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')))
           THEN 'the worker of the stream from node ' || %2$s
               || ' is not running: ' || coalesce((
    SELECT pg_catalog.string_agg(w.words, '; ' ORDER BY w.place)
      FROM (SELECT pg_catalog.max(m.place) AS place, m.found[1] AS words
              FROM (SELECT pg_catalog.pg_current_logfile('stderr') AS path) AS l
             CROSS JOIN LATERAL (
                SELECT greatest(f.size - 100000, 0) AS begins FROM pg_catalog.pg_stat_file(l.path) AS f) AS b
             -- The text may begin inside a character, so it is read as bytes.
             CROSS JOIN LATERAL pg_catalog.regexp_matches(pg_catalog.encode(pg_catalog.pg_read_binary_file(
                    l.path, b.begins, 100000, true), 'escape'),
                    '(?:ERROR|FATAL):  ([^\n]*)', 'g') WITH ORDINALITY AS m(found, place)
             GROUP BY m.found[1] ORDER BY pg_catalog.max(m.place) DESC LIMIT 3) AS w),
    pg_catalog.format('the server log there says why, shortly before %%s', pg_catalog.clock_timestamp()))
           END AS blockers,
       pg_catalog.jsonb_build_object('lag_bytes', greatest(%1$s::pg_catalog.pg_lsn, pg_catalog.max(o.remote_lsn))
           - nullif(pg_catalog.max(o.remote_lsn), '0/0')) AS measure
  FROM spock.node AS n
  JOIN spock.subscription AS s ON s.sub_origin = n.node_id
  LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
 WHERE n.node_name = %2$s) AS w
 CROSS JOIN (
    SELECT pg_catalog.count(*) = 0 AS gone,
           pg_catalog.bool_and(coalesce(o.remote_lsn >= %1$s::pg_catalog.pg_lsn, false)) AS passed,
           pg_catalog.string_agg(o.remote_lsn::text, ' ' ORDER BY s.sub_name) AS progress,
           pg_catalog.jsonb_build_object('lag_bytes', greatest(%1$s::pg_catalog.pg_lsn
               - nullif(pg_catalog.min(o.remote_lsn), '0/0'), 0)) AS measure,
           'subscription ' || pg_catalog.min(s.sub_name) FILTER (WHERE NOT s.sub_enabled) || ' is disabled' AS trouble
      FROM spock.subscription AS s
      LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
     WHERE s.sub_name::text = ANY (%3$s)) AS d$sql$,
    zodan.quote_result(p_lsn), zodan.quote_text(p_provider), zodan.quote_list(p_streams))
$zodan$;
COMMENT ON FUNCTION zodan.wait_drained IS
'Returns, on a member, whether each of its subscriptions p_streams from p_provider has applied everything that was
committed there before p_lsn, and then flushes it, because Spock applies with synchronous_commit off, and the slot that
could send it again is about to go. A subscription that is gone has been waited for before; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_drained FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_node(p_target text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_subscription name;
BEGIN
    FOR v_subscription IN SELECT s.sub_name FROM spock.subscription AS s ORDER BY s.sub_name LOOP
        PERFORM spock.sub_drop(v_subscription, true);
    END LOOP;
    PERFORM spock.node_drop(%1$s, true);
END
$do$$sql$,
    zodan.quote_text(p_target))
$zodan$;
COMMENT ON FUNCTION zodan.drop_node IS
'Drops, on the node that goes, all its subscriptions and then the node itself, with its replication sets, in one
transaction: until that commits the node still knows the others, so that an interrupted removal finds them.';
REVOKE ALL ON FUNCTION zodan.drop_node FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.wait_settled(p_xid text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(*) = 0 AS ok, pg_catalog.string_agg(o.what, ', ') AS progress
  FROM (SELECT 'process ' || a.pid AS what FROM pg_catalog.pg_stat_activity AS a
         WHERE a.datname = pg_catalog.current_database()
             AND pg_catalog.age(a.backend_xid) > pg_catalog.age(%1$s::xid8::xid)
        UNION ALL
        SELECT 'prepared transaction ' || p.gid FROM pg_catalog.pg_prepared_xacts AS p
         WHERE p.database = pg_catalog.current_database()
             AND pg_catalog.age(p.transaction) > pg_catalog.age(%1$s::xid8::xid)) AS o$sql$,
    zodan.quote_result(p_xid))
$zodan$;
COMMENT ON FUNCTION zodan.wait_settled IS
'Returns whether every transaction of this database that was open when p_xid (a placeholder) began has ended,
prepared ones too; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_settled FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_slot_of(p_provider text, p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_tail text := pg_catalog.substr(spock.spock_gen_slot_name('x', %1$s, %2$s)::text, 6);
    v_slot record;
BEGIN
    FOR v_slot IN
        SELECT r.slot_name, r.active_pid FROM pg_catalog.pg_replication_slots AS r
         WHERE r.database = pg_catalog.current_database() AND pg_catalog.left(r.slot_name, 4) = 'spk_'
           AND pg_catalog.right(r.slot_name, pg_catalog.length(v_tail)) = v_tail
    LOOP
        -- The dead node's connection may linger until the network notices.
        WHILE EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = v_slot.slot_name
            AND r.active) LOOP
            PERFORM pg_catalog.pg_terminate_backend(r.active_pid) FROM pg_catalog.pg_replication_slots AS r
                WHERE r.slot_name = v_slot.slot_name;
            PERFORM pg_catalog.pg_sleep(0.05);
        END LOOP;
        PERFORM pg_catalog.pg_drop_replication_slot(v_slot.slot_name);
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_provider), zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_slot_of IS
'Drops, on a provider, the slot of a subscription whose node can no longer be asked for the slot''s name. The name is
known except for the subscriber''s database name in its middle.';
REVOKE ALL ON FUNCTION zodan.drop_slot_of FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.stop_stream(p_provider text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(spock.sub_disable(s.sub_name, false)) AS disabled
  FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin
 WHERE n.node_name = %1$s AND s.sub_enabled$sql$,
    zodan.quote_text(p_provider))
$zodan$;
COMMENT ON FUNCTION zodan.stop_stream IS
'Disables the subscription of a member from p_provider, if there is one that is enabled: whatever becomes of the
provider, its stream goes no further.';
REVOKE ALL ON FUNCTION zodan.stop_stream FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.wait_stopped(p_provider text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(a.*) = 0 AND pg_catalog.bool_and(NOT s.sub_enabled) IS NOT FALSE AS ok,
       pg_catalog.string_agg(a.pid::text, ', ') AS progress,
       CASE WHEN pg_catalog.bool_or(s.sub_enabled)
            THEN 'somebody has enabled the subscription from node ' || %1$s END AS trouble
  FROM spock.subscription AS s
  JOIN spock.node AS n ON n.node_id = s.sub_origin
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
 WHERE n.node_name = %1$s$sql$,
    zodan.quote_text(p_provider))
$zodan$;
COMMENT ON FUNCTION zodan.wait_stopped IS
'Returns, on a member, whether its subscription from p_provider is disabled and no worker of it still runs; for
until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_stopped FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.prove_level(p_provider text, p_lsn text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF EXISTS (SELECT FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin
                 LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
                WHERE n.node_name = %1$s
                  AND (s.sub_enabled OR coalesce(o.remote_lsn, '0/0') <> %2$s::pg_catalog.pg_lsn)) THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD406', MESSAGE = pg_catalog.format('the stream of node %%s is not at %%s here',
            %1$s, %2$s);
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_provider), zodan.quote_result(p_lsn))
$zodan$;
COMMENT ON FUNCTION zodan.prove_level IS
'Fails with ZD406 unless a member has the stream of p_provider up to p_lsn, and nothing goes on with it.';
REVOKE ALL ON FUNCTION zodan.prove_level FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.drop_level_origins()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(pg_catalog.pg_replication_origin_drop(o.roname)) AS dropped
  FROM pg_catalog.pg_replication_origin AS o
 WHERE pg_catalog.starts_with(o.roname, (SELECT pg_catalog.concat('zodan level ', d.oid, ' ')
    FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()))$sql$
$zodan$;
COMMENT ON FUNCTION zodan.drop_level_origins IS
'Drops, on a member, the replication origins that a levelling has left there.';
REVOKE ALL ON FUNCTION zodan.drop_level_origins FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.open_level(
    p_session text,
    p_sets text[],
    p_target text,
    p_members text[],
    p_accept text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['connect(text, text) RETURNS text', 'get_connections() RETURNS text[]'] LOOP
        EXECUTE pg_catalog.format('CREATE OR REPLACE FUNCTION pg_temp.dblink_%%s LANGUAGE c AS ''$libdir/dblink'', %%L', v_function,
            'dblink_' || pg_catalog.split_part(v_function, '(', 1));
    END LOOP;
    CREATE OR REPLACE FUNCTION pg_temp.dblink(text, text) RETURNS SETOF record LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record';
    CREATE OR REPLACE FUNCTION pg_temp.zodan_peer(p_node text) RETURNS text LANGUAGE plpgsql AS $function$
DECLARE
    v_dsn text;
    v_name text := 'zodan ' || pg_catalog.md5(p_node);
    c_more CONSTANT text := 'connect_timeout=10 keepalives_idle=10'
        ' keepalives_interval=5 keepalives_count=2';
BEGIN
    IF NOT v_name = ANY (coalesce(pg_temp.dblink_get_connections(), '{}')) THEN
        SELECT i.if_dsn INTO v_dsn
          FROM spock.subscription AS s
          JOIN spock.node AS n ON n.node_id = s.sub_origin
          JOIN spock.node_interface AS i ON i.if_id = s.sub_origin_if
         WHERE n.node_name::text = p_node LIMIT 1;
        IF v_dsn IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD202', MESSAGE = pg_catalog.format('there is no subscription from node %%s', p_node);
        END IF;
        PERFORM pg_temp.dblink_connect(v_name, CASE WHEN v_dsn !~ '^postgres(ql)?://' THEN c_more || ' ' || v_dsn
            -- What stands before the host may hold a question mark, too.
            ELSE v_dsn || CASE WHEN pg_catalog.regexp_replace(v_dsn, '^[^/]*//[^@/]*@', '') ~ '\?' THEN '&' ELSE '?' END
                || pg_catalog.replace(c_more, ' ', '&') END);
        PERFORM * FROM pg_temp.dblink(v_name, %1$s) AS s(done text);
    END IF;
    RETURN v_name;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_origin(p_node text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_name text := pg_catalog.concat('zodan level ', (SELECT d.oid FROM pg_catalog.pg_database AS d
        WHERE d.datname = pg_catalog.current_database()), ' ' || p_node);
    v_number oid := (SELECT n.node_id FROM spock.node AS n WHERE n.node_name::text = p_node);
BEGIN
    IF pg_catalog.pg_replication_origin_session_is_setup() THEN
        PERFORM pg_catalog.pg_replication_origin_session_reset();
    END IF;
    IF p_node IS NULL THEN
        RETURN;
    END IF;
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = v_name) THEN
        IF EXISTS (SELECT FROM pg_catalog.pg_replication_origin AS o WHERE o.roident = v_number) THEN
            PERFORM pg_catalog.pg_replication_origin_create(v_name);
        ELSE
            INSERT INTO pg_catalog.pg_replication_origin (roident, roname) VALUES (v_number, v_name);
        END IF;
    END IF;
    PERFORM pg_catalog.pg_replication_origin_session_setup(v_name);
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_query(p_table jsonb, p_condition text) RETURNS text LANGUAGE plpgsql AS $function$
BEGIN
    RETURN pg_catalog.format($query$
        SELECT r.key, pg_catalog.concat_ws(' ', r.hash, r.xid, r.place) AS version, c.timestamp AS at,
               CASE WHEN c.roident = 0 THEN (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id)
                    ELSE coalesce((SELECT n.node_name FROM pg_catalog.pg_replication_origin AS o
                        JOIN spock.subscription AS s ON s.sub_slot_name::text = o.roname
                        JOIN spock.node AS n ON n.node_id = s.sub_origin WHERE o.roident = c.roident LIMIT 1),
                   (SELECT n.node_name FROM spock.node AS n WHERE n.node_id = c.roident)) END::text AS origin
          FROM (SELECT %%s AS key, %%s AS hash, t.xmin AS xid, t.ctid AS place FROM ONLY %%s AS t WHERE %%s) AS r
         CROSS JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(r.xid) AS c$query$,
        p_table ->> 'key', p_table ->> 'hash', p_table ->> 'name',
        coalesce(nullif(pg_catalog.concat_ws(' AND ', '(' || (p_table ->> 'filter') || ')', p_condition), ''), 'true'));
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_range(p_table jsonb, p_from jsonb, p_to jsonb) RETURNS text LANGUAGE plpgsql AS $function$
BEGIN
    RETURN coalesce((SELECT pg_catalog.string_agg(
               CASE WHEN v.alike THEN pg_catalog.format('ROW(%%s) %%s ROW(%%s)', v.names, v.operator, v.texts)
                   ELSE v.nested || pg_catalog.repeat('))', v.count::int - 1) END, ' AND ')
      FROM (VALUES ('>', p_from), ('<=', p_to)) AS b(operator, key)
     CROSS JOIN LATERAL (
        SELECT pg_catalog.count(DISTINCT c.item ->> b.operator) = 1 AS alike, pg_catalog.min(c.item ->> b.operator) AS operator,
               pg_catalog.string_agg(c.item ->> 'name', ', ' ORDER BY c.place) AS names,
               pg_catalog.string_agg(w.text, ', ' ORDER BY c.place) AS texts, pg_catalog.count(*) AS count,
               pg_catalog.string_agg(CASE WHEN c.place = pg_catalog.jsonb_array_length(p_table -> 'keys')
                   THEN pg_catalog.concat_ws(' ', c.item ->> 'name', c.item ->> b.operator, w.text)
                   ELSE pg_catalog.format('(%%1$s %%2$s %%4$s AND (%%1$s %%3$s %%4$s OR ', c.item ->> 'name',
                       c.item ->> (pg_catalog.left(b.operator, 1) || '='), c.item ->> pg_catalog.left(b.operator, 1), w.text) END, ''
                   ORDER BY c.place) AS nested
          FROM pg_catalog.jsonb_array_elements(p_table -> 'keys') WITH ORDINALITY AS c(item, place)
         CROSS JOIN LATERAL pg_catalog.format('%%L::%%s', b.key ->> (c.place - 1)::int, c.item ->> 'type') AS w(text)) AS v
     WHERE b.key IS NOT NULL), 'true');
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_among(p_table jsonb, p_keys jsonb[]) RETURNS text LANGUAGE plpgsql AS $function$
BEGIN
    RETURN (SELECT pg_catalog.format('EXISTS (SELECT FROM (VALUES %%s) AS k(%%s) WHERE %%s)', (
                SELECT pg_catalog.string_agg(pg_catalog.format('(%%s)', (
                       SELECT pg_catalog.string_agg(pg_catalog.format('%%L::%%s', e.item, p_table -> 'keys' -> (e.place - 1)::int ->> 'type'),
                              ', ' ORDER BY e.place)
                         FROM pg_catalog.jsonb_array_elements_text(w.key) WITH ORDINALITY AS e(item, place))), ', ')
                  FROM pg_catalog.unnest(p_keys) AS w(key)),
            pg_catalog.string_agg('k' || c.place, ', ' ORDER BY c.place),
            pg_catalog.string_agg(pg_catalog.format('%%s %%s k.k%%s', c.item ->> 'name', c.item ->> '=', c.place), ' AND ' ORDER BY c.place))
      FROM pg_catalog.jsonb_array_elements(p_table -> 'keys') WITH ORDINALITY AS c(item, place));
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_list(p_furthest text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_odd text;
BEGIN
    INSERT INTO pg_temp.zodan_level_table (number, item)
    SELECT pg_catalog.row_number() OVER (ORDER BY f.name COLLATE "C"), pg_catalog.jsonb_build_object('name', f.name, 'blind', f.blind,
               'filter', CASE WHEN NOT f.blind THEN f.filter END,
               'whole', f.whole AND k.keys IS NOT NULL, 'keys', k.keys, 'key', k.key, 'order', k.order,
               'hash', pg_catalog.format('pg_catalog.hashtextextended(ROW(%%s)::text COLLATE pg_catalog."C", 0)', c.values),
               'names', c.names, 'typed', c.typed, 'values', c.values, 'sent', c.sent, 'set', c.set, 'merges', c.merges,
               'fixed', c.fixed, 'all', e.names, 'kept', e.kept,
               'missing', CASE WHEN c.count IS DISTINCT FROM pg_catalog.jsonb_array_length(f.columns) THEN true END,
               'clause', CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                   WHERE i.indrelid = pg_catalog.to_regclass(f.name) AND (i.indisunique OR i.indisexclusion) AND NOT i.indimmediate)
                   THEN ' ON CONFLICT DO NOTHING' ELSE '' END)
      FROM pg_temp.dblink(pg_temp.zodan_peer(p_furthest), pg_catalog.format($query$
WITH published AS MATERIALIZED (
    SELECT t.set_reloid::oid AS relid, pg_catalog.bool_and(t.set_att_list IS NULL) AS has_all,
           pg_catalog.array_agg(t.set_att_list::text) FILTER (WHERE t.set_att_list IS NOT NULL) AS lists,
           pg_catalog.string_agg(DISTINCT '(' || pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) || ')', ' AND ')
               AS filter, pg_catalog.string_agg(t.set_row_filter::text, ' ') AS tree,
           pg_catalog.bool_or(r.replicate_insert AND r.replicate_update AND r.replicate_delete) AS whole
      FROM spock.replication_set_table AS t
      JOIN spock.replication_set AS r ON r.set_id = t.set_id
      JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%%1$L::text[])
     GROUP BY t.set_reloid),
judged AS MATERIALIZED (
    SELECT p.relid, p.has_all, p.lists, p.filter, p.whole, NOT p.has_all AND EXISTS (
               SELECT FROM pg_catalog.regexp_matches(p.tree, ':varattno (\d+)', 'g') AS v(number)
                 LEFT JOIN pg_catalog.pg_attribute AS a ON a.attrelid = p.relid AND a.attnum = v.number[1]::int
                WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest(p.lists) AS w(list) WHERE a.attname::text = ANY (w.list::text[])))
               AS blind
      FROM published AS p),
leaves AS MATERIALIZED (
    SELECT p.* FROM judged AS p
    UNION ALL
    SELECT i.relid, p.has_all, p.lists, p.filter, p.whole, p.blind
      FROM judged AS p CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.relid) AS i
     WHERE i.isleaf AND i.relid <> p.relid AND i.relid NOT IN (SELECT o.relid FROM judged AS o))
SELECT pg_catalog.format('%%%%I.%%%%I', n.nspname, c.relname), l.filter, l.whole,
       (SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND (l.has_all OR EXISTS (SELECT FROM pg_catalog.unnest(l.lists) AS w(list)
               WHERE a.attname::text = ANY (w.list::text[])))),
       l.blind
  FROM leaves AS l
  JOIN pg_catalog.pg_class AS c ON c.oid = l.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace$query$, %2$s)) AS f(name text, filter text, whole boolean, columns jsonb, blind boolean)
      LEFT JOIN LATERAL (
        SELECT pg_catalog.jsonb_agg(w.operators || pg_catalog.jsonb_build_object('name', 't.' || w.name, 'type', w.type) ORDER BY w.place)
                   AS keys, pg_catalog.format('pg_catalog.jsonb_build_array(%%s)', pg_catalog.string_agg(pg_catalog.format(
                   -- A cast may be a function of somebody's.
                   'pg_catalog.concat(t.%%s)', w.name), ', ' ORDER BY w.place)) AS key, pg_catalog.array_agg(w.number) AS numbers,
               pg_catalog.string_agg(pg_catalog.format('t.%%s USING %%s', w.name, w.operators ->> '<'), ', ' ORDER BY w.place) AS order
          FROM (SELECT pg_catalog.quote_ident(a.attname) AS name, k.place,
                       pg_catalog.format_type(CASE WHEN y.typtype = 'd' THEN y.typbasetype ELSE y.oid END, -1) AS type,
                       a.attnum AS number, coalesce((SELECT pg_catalog.jsonb_object_agg((ARRAY['<', '<=', '=', '>=', '>'])[m.amopstrategy],
                               pg_catalog.format('OPERATOR(%%I.%%s)', n.nspname, p.oprname))
                           FROM pg_catalog.pg_opclass AS c
                           JOIN pg_catalog.pg_am AS b ON b.oid = c.opcmethod AND b.amname = 'btree'
                           JOIN pg_catalog.pg_amop AS m ON m.amopfamily = c.opcfamily AND m.amoplefttype = c.opcintype
                                AND m.amoprighttype = c.opcintype AND m.amoppurpose = 's'
                           JOIN pg_catalog.pg_operator AS p ON p.oid = m.amopopr
                           JOIN pg_catalog.pg_namespace AS n ON n.oid = p.oprnamespace
                          WHERE c.oid = i.indclass[k.place - 1]),
                           -- A key WITHOUT OVERLAPS has no order of its own.
                           '{"<": "OPERATOR(pg_catalog.<)", "<=": "OPERATOR(pg_catalog.<=)", "=": "OPERATOR(pg_catalog.=)",
                             ">=": "OPERATOR(pg_catalog.>=)", ">": "OPERATOR(pg_catalog.>)"}'::jsonb) AS operators
                  FROM pg_catalog.pg_class AS r
                  JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid
                 CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.number
                  JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
                 WHERE r.oid = pg_catalog.to_regclass(f.name) AND k.place <= i.indnkeyatts AND i.indisvalid
                   AND CASE WHEN r.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END) AS w
         HAVING pg_catalog.count(*) > 0) AS k ON true
      LEFT JOIN LATERAL (
        SELECT pg_catalog.count(*) AS count, pg_catalog.string_agg(w.name, ', ' ORDER BY w.place) AS names,
               pg_catalog.string_agg('t.' || w.name, ', ' ORDER BY w.place) AS values,
               -- What PostgreSQL prints of xml lacks the encoding that it declares.
               pg_catalog.string_agg(pg_catalog.concat('t.', w.name, CASE WHEN w.type = 'xml' THEN '::pg_catalog.text' END),
                   ', ' ORDER BY w.place) AS sent,
               pg_catalog.string_agg(w.name || ' ' || w.type, ', ' ORDER BY w.place) AS typed,
               pg_catalog.string_agg(w.name || ' = n.' || w.name, ', ' ORDER BY w.place) FILTER (
                   WHERE w.identity <> 'a' AND NOT w.number = ANY (coalesce(k.numbers, '{}'))) AS set,
               pg_catalog.string_agg(pg_catalog.format('t.%%1$s IS DISTINCT FROM n.%%1$s', w.name), ' OR ') FILTER (
                   WHERE w.identity = 'a' AND NOT w.number = ANY (coalesce(k.numbers, '{}'))) AS fixed,
               pg_catalog.bool_or(w.merges) AS merges
          FROM (SELECT pg_catalog.quote_ident(a.attname) AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, e.place,
                       a.attnum AS number, a.attidentity AS identity, coalesce(a.attoptions::text ~ 'log_old_value|delta', false) AS merges
                  FROM pg_catalog.jsonb_array_elements_text(f.columns) WITH ORDINALITY AS e(name, place)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = pg_catalog.to_regclass(f.name) AND a.attname::text = e.name
                       AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS w) AS c ON true
      LEFT JOIN LATERAL (
        SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum) AS names,
               pg_catalog.string_agg(CASE WHEN f.columns ? a.attname::text THEN 'n.' ELSE 'o.' END || pg_catalog.quote_ident(a.attname),
                   ', ' ORDER BY a.attnum) AS kept
          FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = pg_catalog.to_regclass(f.name) AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS e ON true;
    SELECT pg_catalog.string_agg(t.item ->> 'name', ', ') INTO v_odd FROM pg_temp.zodan_level_table AS t
     WHERE t.item ->> 'missing' IS NOT NULL;
    IF v_odd IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD121', MESSAGE = pg_catalog.format(
            'tables lack a column here that they have on node %%s: %%s', p_furthest, v_odd);
    END IF;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_begin() RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    c_self CONSTANT text := (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id);
    c_query CONSTANT text := pg_catalog.format('SELECT pg_catalog.max(coalesce(o.remote_lsn, ''0/0'')) FROM spock.subscription AS s'
        ' JOIN spock.node AS n ON n.node_id = s.sub_origin LEFT JOIN pg_catalog.pg_replication_origin_status AS o'
        ' ON o.external_id = s.sub_slot_name WHERE n.node_name = %%L AND NOT s.sub_enabled', %3$s);
    v_member text;
    v_place pg_lsn;
    v_own pg_lsn;
    v_furthest text := c_self;
    v_most pg_lsn;
BEGIN
    EXECUTE c_query INTO v_own;
    v_most := v_own;
    FOREACH v_member IN ARRAY pg_catalog.array_remove(%4$s, c_self) LOOP
        SELECT p.place INTO v_place FROM pg_temp.dblink(pg_temp.zodan_peer(v_member), c_query) AS p(place pg_lsn);
        IF v_place IS NULL OR v_own IS NULL THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD202', MESSAGE = pg_catalog.format(
                'the subscription of node %%s from node %%s is gone or was enabled meanwhile',
                CASE WHEN v_own IS NULL THEN c_self ELSE v_member END, %3$s);
        END IF;
        IF v_place > v_most THEN
            v_furthest := v_member;
            v_most := v_place;
        END IF;
    END LOOP;
    IF v_furthest <> c_self THEN
        PERFORM pg_temp.zodan_list(v_furthest);
    END IF;
    RETURN pg_catalog.jsonb_build_object('stage', CASE WHEN v_furthest = c_self THEN 'done' ELSE 'scan' END,
        'furthest', v_furthest, 'self', c_self, 'lsn', v_most, 'sweep', 1, 'round', 0, 'tab', 1, 'wrote', 0,
        'inserted', 0, 'updated', 0, 'deleted', 0);
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_scan(p_state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    v_state jsonb := p_state;
    v_furthest CONSTANT text := pg_temp.zodan_peer(p_state ->> 'furthest');
    v_table jsonb;
    v_from jsonb := nullif(p_state -> 'from', 'null');
    v_there record;
    v_to jsonb;
    v_rows bigint;
    v_total numeric;
    v_condition text;
BEGIN
    SELECT t.item INTO v_table FROM pg_temp.zodan_level_table AS t WHERE t.number = (p_state ->> 'tab')::int;
    IF NOT FOUND THEN
        RETURN v_state || pg_catalog.jsonb_build_object('stage',
            CASE WHEN EXISTS (SELECT FROM pg_temp.zodan_level_row) THEN 'mark' ELSE 'swept' END);
    ELSIF NOT (v_table ->> 'whole')::boolean THEN
        RETURN v_state || pg_catalog.jsonb_build_object('stage', 'bag', 'bag', 'here', 'block', 0, 'newest', NULL, 'blocks', NULL);
    END IF;
    v_condition := pg_catalog.concat_ws(' AND ', '(' || (v_table ->> 'filter') || ')', pg_temp.zodan_range(v_table, v_from, NULL));
    SELECT f.* INTO v_there FROM pg_temp.dblink(v_furthest, pg_catalog.format(
        'SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(h.hash), 0), (pg_catalog.array_agg(h.key))[pg_catalog.count(*)]'
        ' FROM (SELECT %%s AS hash, %%s AS key FROM ONLY %%s AS t WHERE %%s ORDER BY %%s LIMIT 5000) AS h',
        v_table ->> 'hash', v_table ->> 'key', v_table ->> 'name', v_condition, v_table ->> 'order'))
        AS f(rows bigint, total numeric, last jsonb);
    v_to := CASE WHEN v_there.rows = 5000 THEN v_there.last END;
    v_condition := pg_temp.zodan_range(v_table, v_from, v_to);
    EXECUTE pg_catalog.format('SELECT pg_catalog.count(*), coalesce(pg_catalog.sum(%%s), 0) FROM ONLY %%s AS t WHERE %%s', v_table ->> 'hash',
        v_table ->> 'name', pg_catalog.concat_ws(' AND ', '(' || (v_table ->> 'filter') || ')', v_condition)) INTO v_rows, v_total;
    IF v_rows <> v_there.rows OR v_total <> v_there.total THEN
        EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_row (tab, key, there, here)'
            ' SELECT $1, coalesce(f.key, l.key), f.version, l.version'
            ' FROM pg_temp.dblink($2, $3) AS f(key jsonb, version text, at timestamptz, origin text) FULL JOIN (%%s) AS l ON l.key = f.key'
            ' WHERE pg_catalog.split_part(f.version, '' '', 1) IS DISTINCT FROM pg_catalog.split_part(l.version, '' '', 1)'
            ' ON CONFLICT DO NOTHING', pg_temp.zodan_query(v_table, v_condition))
          USING (p_state ->> 'tab')::int, v_furthest, pg_temp.zodan_query(v_table, v_condition);
    END IF;
    RETURN v_state || CASE WHEN v_to IS NOT NULL THEN pg_catalog.jsonb_build_object('from', v_to)
        ELSE pg_catalog.jsonb_build_object('from', NULL, 'tab', (p_state ->> 'tab')::int + 1) END;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_bag(p_state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    v_state jsonb := p_state;
    v_table jsonb;
    v_peer CONSTANT text := pg_temp.zodan_peer(p_state ->> 'furthest');
    v_query text;
    v_newest timestamptz := (p_state ->> 'newest')::timestamptz;
    c_size CONSTANT text := 'SELECT pg_catalog.pg_relation_size(%%L::regclass) / pg_catalog.current_setting(''block_size'')::bigint';
    c_of CONSTANT text := pg_catalog.format('(SELECT n.node_id FROM spock.node AS n WHERE n.node_name = %%1$L UNION ALL SELECT o.roident'
        ' FROM pg_catalog.pg_replication_origin AS o JOIN spock.subscription AS s ON s.sub_slot_name::text = o.roname'
        ' JOIN spock.node AS n ON n.node_id = s.sub_origin WHERE n.node_name = %%1$L)', %3$s);
BEGIN
    SELECT t.item INTO v_table FROM pg_temp.zodan_level_table AS t WHERE t.number = (p_state ->> 'tab')::int;
    IF p_state ->> 'blocks' IS NULL THEN
        IF p_state ->> 'bag' = 'here' THEN
            TRUNCATE pg_temp.zodan_level_bag;
            EXECUTE pg_catalog.format(c_size, v_table ->> 'name') INTO v_query;
        ELSE
            DROP TABLE IF EXISTS pg_temp.zodan_level_new;
            EXECUTE pg_catalog.format('CREATE TEMPORARY TABLE zodan_level_new AS SELECT 0::bigint AS "zodan id", ''-infinity''::timestamptz'
                ' AS "zodan at", %%s FROM ONLY %%s AS t WHERE false', v_table ->> 'values', v_table ->> 'name');
            SELECT f.size INTO v_query FROM pg_temp.dblink(v_peer, pg_catalog.format(c_size, v_table ->> 'name')) AS f(size text);
        END IF;
        v_state := v_state || pg_catalog.jsonb_build_object('blocks', v_query::bigint, 'block', 0);
    END IF;
    v_query := pg_catalog.format('SELECT %%s, c.timestamp%%s FROM ONLY %%s AS t CROSS JOIN LATERAL'
        ' pg_catalog.pg_xact_commit_timestamp_origin(t.xmin) AS c WHERE t.ctid >= ''(%%s,0)''%%s AND c.roident IN %%s%%s', v_table ->> 'hash',
        CASE WHEN p_state ->> 'bag' = 'there' THEN ', ' || (v_table ->> 'sent') ELSE '' END, v_table ->> 'name', v_state ->> 'block',
        CASE WHEN (v_state ->> 'block')::bigint + 500 <= (v_state ->> 'blocks')::bigint THEN pg_catalog.format(
            ' AND t.ctid < ''(%%s,0)''', (v_state ->> 'block')::bigint + 500) ELSE '' END, c_of,
        coalesce(' AND (' || (v_table ->> 'filter') || ')', ''));
    IF p_state ->> 'bag' = 'here' THEN
        EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_bag (hash, at) SELECT q.* FROM (%%s) AS q(hash, at)'
            ' WHERE $1 IS NULL OR q.at >= $1', v_query) USING v_newest;
        SELECT pg_catalog.max(b.at) INTO v_newest FROM pg_temp.zodan_level_bag AS b;
        DELETE FROM pg_temp.zodan_level_bag AS b WHERE b.at < v_newest;
    ELSE
        SET LOCAL search_path TO DEFAULT;
        EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_new SELECT q.* FROM pg_temp.dblink($1, $2) AS q("zodan id" bigint,'
            ' "zodan at" timestamptz, %%s)', v_table ->> 'typed') USING v_peer, pg_catalog.concat(v_query,
            ' AND c.timestamp >= ' || pg_catalog.quote_literal(v_newest), ' AND c.timestamp > ' || pg_catalog.quote_literal((
                SELECT pg_catalog.max(l.commit_timestamp) FROM spock.lag_tracker AS l
                 WHERE l.origin_name = %3$s AND l.receiver_name = p_state ->> 'self')));
    END IF;
    v_state := v_state || pg_catalog.jsonb_build_object('newest', v_newest,
        'block', (v_state ->> 'block')::bigint + 500);
    IF (v_state ->> 'block')::bigint <= (v_state ->> 'blocks')::bigint THEN
        RETURN v_state;
    ELSIF p_state ->> 'bag' = 'here' THEN
        RETURN v_state || '{"bag": "there", "blocks": null}';
    END IF;
    DELETE FROM pg_temp.zodan_level_new AS n
     USING (SELECT o.ctid AS place, o."zodan id" AS hash, o."zodan at" AS at, pg_catalog.row_number() OVER (
                PARTITION BY o."zodan id", o."zodan at") AS number FROM pg_temp.zodan_level_new AS o) AS k
     WHERE n.ctid = k.place
       AND k.number <= (SELECT pg_catalog.count(*) FROM pg_temp.zodan_level_bag AS b WHERE b.hash = k.hash AND b.at = k.at);
    RETURN v_state || '{"stage": "pour"}';
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_mark(p_state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    v_marks jsonb := '{}'::jsonb;
    v_member text;
    v_mark text;
BEGIN
    FOREACH v_member IN ARRAY %4$s::text[] LOOP
        IF v_member = p_state ->> 'self' THEN
            v_mark := spock.sync_event(false);
        ELSE
            SELECT m.mark INTO v_mark FROM pg_temp.dblink(pg_temp.zodan_peer(v_member), 'SELECT spock.sync_event(false)') AS m(mark text);
        END IF;
        v_marks := v_marks || pg_catalog.jsonb_build_object(v_member, v_mark);
    END LOOP;
    RETURN p_state || pg_catalog.jsonb_build_object('stage', 'wait', 'marks', v_marks, 'round', (p_state ->> 'round')::int + 1);
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_wait(p_state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    c_query CONSTANT text := $query$SELECT coalesce(pg_catalog.jsonb_object_agg(n.node_name, pg_catalog.jsonb_build_object(
        'position', coalesce(o.remote_lsn, '0/0'), 'enabled', s.sub_enabled)), '{}')
        FROM spock.node AS n JOIN spock.subscription AS s ON s.sub_origin = n.node_id
        LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name$query$;
    v_member text;
    v_streams jsonb;
    v_passed boolean := true;
    v_trouble text;
    v_places text := '';
BEGIN
    FOREACH v_member IN ARRAY %4$s::text[] LOOP
        IF v_member = p_state ->> 'self' THEN
            EXECUTE c_query INTO v_streams;
        ELSE
            SELECT q.streams INTO v_streams FROM pg_temp.dblink(pg_temp.zodan_peer(v_member), c_query) AS q(streams jsonb);
        END IF;
        SELECT v_passed AND coalesce(pg_catalog.bool_and((v_streams #>> ARRAY[m.key, 'position'])::pg_lsn >= m.value::pg_lsn), true),
               coalesce(v_trouble, pg_catalog.min(pg_catalog.format('the subscription of node %%s from node %%s is gone or disabled',
                   v_member, m.key)) FILTER (WHERE (v_streams #>> ARRAY[m.key, 'enabled'])::boolean IS NOT TRUE)),
               v_places || coalesce(pg_catalog.string_agg(v_streams #>> ARRAY[m.key, 'position'], ' '), '')
          INTO v_passed, v_trouble, v_places
          FROM pg_catalog.jsonb_each_text(p_state -> 'marks') AS m(key, value) WHERE m.key <> v_member;
    END LOOP;
    IF v_trouble IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD202', MESSAGE = v_trouble,
            DETAIL = 'Its server log and spock.exception_log say why.',
            HINT = 'If a change met a row that is not there yet, set spock.exception_behaviour to discard, and enable the '
                'subscription: what is discarded comes with the levelling.';
    END IF;
    RETURN p_state || pg_catalog.jsonb_build_object('stage', CASE WHEN v_passed THEN 'look' ELSE 'wait' END, 'places',
        pg_catalog.md5(v_places));
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_doubt(p_state jsonb, p_table jsonb, p_ids bigint[]) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_first timestamptz;
    v_peer CONSTANT text := pg_temp.zodan_peer(p_state ->> 'furthest');
BEGIN
    IF p_table ->> 'filter' IS NOT NULL AND EXISTS (
           SELECT FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) AND w.verdict = 'deleted') THEN
        UPDATE pg_temp.zodan_level_row AS w SET verdict = CASE WHEN f.at < (
                   SELECT pg_catalog.max(l.commit_timestamp) FROM spock.lag_tracker AS l
                    WHERE l.origin_name = %3$s AND l.receiver_name = p_state ->> 'self') THEN 'kept' ELSE 'odd' END
          FROM pg_temp.dblink(v_peer, pg_temp.zodan_query(p_table - 'filter', pg_temp.zodan_among(p_table, ARRAY(
              SELECT o.key FROM pg_temp.zodan_level_row AS o WHERE o.id = ANY (p_ids) AND o.verdict = 'deleted'))))
              AS f(key jsonb, version text, at timestamptz, origin text)
         WHERE w.id = ANY (p_ids) AND w.verdict = 'deleted' AND w.key = f.key;
        DELETE FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) AND w.verdict = 'kept';
    END IF;
    IF EXISTS (SELECT FROM pg_temp.zodan_level_row AS w
                WHERE w.id = ANY (p_ids) AND w.verdict = 'deleted' AND w.here_origin = p_state ->> 'self') THEN
        SELECT f.at INTO v_first FROM pg_temp.dblink(v_peer, pg_catalog.format(
            'SELECT pg_catalog.min(r.at) FROM (%%s) AS r WHERE r.origin = %%L AND r.at > ''1970-01-02''',
            pg_temp.zodan_query(p_table, NULL), p_state ->> 'self')) AS f(at timestamptz);
    END IF;
    UPDATE pg_temp.zodan_level_row AS w SET verdict = 'odd'
     WHERE w.id = ANY (p_ids) AND w.verdict = 'deleted'
       AND (w.here_at > '1970-01-02' AND w.here_origin IS NOT NULL AND (w.here_origin <> p_state ->> 'self' OR v_first <= w.here_at))
           IS NOT TRUE;
    UPDATE pg_temp.zodan_level_row AS w SET verdict = 'odd'
      FROM pg_temp.dblink(v_peer, pg_catalog.format(
          'SELECT DISTINCT e.remote_commit_ts FROM spock.exception_log AS e WHERE e.remote_commit_ts = ANY (%%L::timestamptz[])',
          ARRAY(SELECT o.here_at FROM pg_temp.zodan_level_row AS o WHERE o.id = ANY (p_ids) AND o.verdict = 'deleted')))
          AS e(at timestamptz)
     WHERE w.id = ANY (p_ids) AND w.verdict = 'deleted' AND w.here_at = e.at;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_put(p_table jsonb, p_verdict text, p_ids bigint[]) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    v_rows bigint;
    v_again boolean := p_verdict = 'exchanged' OR p_table ->> 'set' IS NULL;
    v_trouble text;
    c_rows CONSTANT text := pg_catalog.format('WITH l AS MATERIALIZED (SELECT w.id, t.ctid AS place'
        ' FROM pg_temp.zodan_level_row AS w JOIN ONLY %%s AS t ON t.ctid = pg_catalog.split_part(w.here, '' '', 3)::tid'
        ' AND t.xmin = pg_catalog.split_part(w.here, '' '', 2)::xid WHERE w.id = ANY ($1) FOR UPDATE OF t SKIP LOCKED) ',
        p_table ->> 'name');
BEGIN
    SET LOCAL search_path TO DEFAULT;
    SET LOCAL TimeZone TO DEFAULT;
    SET LOCAL DateStyle TO DEFAULT;
    SET LOCAL IntervalStyle TO DEFAULT;
    SET LOCAL extra_float_digits TO DEFAULT;
    SET LOCAL bytea_output TO DEFAULT;
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
    PERFORM pg_catalog.set_config('lock_timeout', '500ms', true);
    IF p_verdict = 'deleted' THEN
        EXECUTE pg_catalog.format('%%s DELETE FROM ONLY %%s AS t USING l WHERE t.ctid = l.place', c_rows, p_table ->> 'name') USING p_ids;
    ELSIF p_verdict = 'inserted' THEN
        EXECUTE pg_catalog.format('INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%s FROM pg_temp.zodan_level_new AS t'
            ' WHERE t."zodan id" = ANY ($1)%%s', p_table ->> 'name', p_table ->> 'names', p_table ->> 'values',
            p_table ->> 'clause') USING p_ids;
    ELSE
        IF NOT v_again AND p_table ->> 'fixed' IS NOT NULL THEN
            EXECUTE pg_catalog.format('%%s SELECT EXISTS (SELECT FROM l JOIN ONLY %%s AS t ON t.ctid = l.place'
                ' JOIN pg_temp.zodan_level_new AS n ON n."zodan id" = l.id WHERE %%s)', c_rows, p_table ->> 'name',
                p_table ->> 'fixed') INTO v_again USING p_ids;
        END IF;
        IF NOT v_again THEN
            BEGIN
                EXECUTE pg_catalog.format('%%s UPDATE ONLY %%s AS t SET %%s FROM l JOIN pg_temp.zodan_level_new AS n ON n."zodan id" = l.id'
                    ' WHERE t.ctid = l.place', c_rows, p_table ->> 'name', p_table ->> 'set') USING p_ids;
                GET DIAGNOSTICS v_rows = ROW_COUNT;
                RETURN v_rows;
            EXCEPTION WHEN unique_violation OR exclusion_violation THEN
                NULL;
            END;
        END IF;
        -- The count makes all of them go before the first comes.
        EXECUTE pg_catalog.format('%%s, o AS (DELETE FROM ONLY %%s AS t USING l JOIN pg_temp.zodan_level_new AS n ON n."zodan id" = l.id'
            ' WHERE t.ctid = l.place RETURNING l.id AS "zodan id", t.*) INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%s FROM o'
            ' JOIN pg_temp.zodan_level_new AS n ON n."zodan id" = o."zodan id" WHERE (SELECT pg_catalog.count(*) FROM o) > 0',
            c_rows, p_table ->> 'name', p_table ->> 'name', p_table ->> 'all', p_table ->> 'kept') USING p_ids;
    END IF;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN v_rows;
EXCEPTION WHEN integrity_constraint_violation OR lock_not_available THEN
    v_trouble := SQLERRM;
    UPDATE pg_temp.zodan_level_row AS w SET why = v_trouble WHERE w.id = ANY (p_ids);
    RETURN CASE WHEN SQLSTATE NOT IN ('23505', '23P01') THEN 0 END;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_finish(p_state jsonb) RETURNS jsonb LANGUAGE plpgsql AS $function$
DECLARE
    v_left bigint;
    v_rows text;
    v_slot text;
BEGIN
    IF (p_state ->> 'wrote')::bigint > 0 AND (p_state ->> 'sweep')::int < 5 THEN
        TRUNCATE pg_temp.zodan_level_odd;
        RETURN p_state || pg_catalog.jsonb_build_object('stage', 'scan', 'tab', 1, 'from', NULL, 'wrote', 0,
            'sweep', (p_state ->> 'sweep')::int + 1);
    END IF;
    SELECT pg_catalog.count(*), pg_catalog.string_agg(pg_catalog.format('%%s %%s: %%s', w.name, w.key, w.why), '; ' ORDER BY w.name, w.key)
               FILTER (WHERE w.number <= 10)
      INTO v_left, v_rows
      FROM (SELECT t.item ->> 'name' AS name, o.key, o.why, pg_catalog.row_number() OVER (ORDER BY o.tab, o.key) AS number
              FROM pg_temp.zodan_level_odd AS o JOIN pg_temp.zodan_level_table AS t ON t.number = o.tab) AS w;
    IF v_left > 0 AND NOT %5$s::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD406', MESSAGE = pg_catalog.format(
            '%%s rows differ from those of node %%s, and cannot be levelled: %%s', v_left, p_state ->> 'furthest', v_rows);
    END IF;
    SELECT s.sub_slot_name INTO STRICT v_slot FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin
     WHERE n.node_name = %3$s;
    PERFORM pg_catalog.pg_replication_origin_advance(v_slot, (p_state ->> 'lsn')::pg_lsn);
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o
      WHERE pg_catalog.starts_with(o.roname, (SELECT pg_catalog.concat('zodan level ', d.oid, ' ')
          FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()));
    -- A transaction of its own, so that the commit flushes it and what came before.
    PERFORM pg_catalog.set_config('synchronous_commit', 'on', true), pg_catalog.pg_current_xact_id();
    RETURN p_state || pg_catalog.jsonb_build_object('stage', 'done', 'left', v_left, 'rows', v_rows);
END
    $function$;
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_exchange(INOUT p_state jsonb, p_table jsonb, p_ids bigint[]) LANGUAGE plpgsql AS $function$
DECLARE
    v_rows bigint;
    v_first timestamptz := (SELECT pg_catalog.min(w.there_at) FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids));
    v_query text := pg_temp.zodan_query(p_table, pg_temp.zodan_among(p_table, ARRAY(
        SELECT w.key FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids))));
    v_group record;
BEGIN
    PERFORM pg_temp.zodan_origin(%3$s);
    PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', coalesce(v_first, '1970-01-01 00:00:00+00'));
    v_rows := coalesce(pg_temp.zodan_put(p_table, 'exchanged', p_ids), 0);
    UPDATE pg_temp.zodan_level_row AS w SET here = NULL WHERE w.id = ANY (p_ids);
    -- What this transaction has written has no commit time yet.
    EXECUTE pg_catalog.format('UPDATE pg_temp.zodan_level_row AS w SET here = l.version FROM (%%s) AS l WHERE w.id = ANY ($1)'
        ' AND w.key = l.key AND l.at IS NULL AND pg_catalog.split_part(l.version, '' '', 1) = pg_catalog.split_part(w.there, '' '', 1)',
        v_query) USING p_ids;
    COMMIT;
    p_state := p_state || pg_catalog.jsonb_build_object('wrote', (p_state ->> 'wrote')::bigint + v_rows,
        'updated', (p_state ->> 'updated')::bigint + v_rows);
    FOR v_group IN
        SELECT coalesce(w.there_origin, %3$s) AS origin, w.there_at AS at, pg_catalog.array_agg(w.id) AS ids
          FROM pg_temp.zodan_level_row AS w
         WHERE w.id = ANY (p_ids) AND w.here IS NOT NULL
           AND (coalesce(w.there_origin, %3$s) <> %3$s OR w.there_at IS DISTINCT FROM v_first)
         GROUP BY 1, 2 ORDER BY 1, 2
    LOOP
        PERFORM pg_temp.zodan_origin(v_group.origin);
        PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', coalesce(v_group.at, '1970-01-01 00:00:00+00'));
        PERFORM pg_temp.zodan_put(p_table, 'updated', v_group.ids);
        COMMIT;
    END LOOP;
    UPDATE pg_temp.zodan_level_row AS w SET stable = 0, absent = 0, there = NULL, here = NULL WHERE w.id = ANY (p_ids);
END
    $function$;
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_write(INOUT p_state jsonb, p_table jsonb, p_ids bigint[]) LANGUAGE plpgsql AS $function$
DECLARE
    v_group record;
    v_rows bigint;
    v_clashing bigint[] := '{}';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) AND w.verdict IS NOT NULL) THEN
        RETURN;
    END IF;
    DROP TABLE IF EXISTS pg_temp.zodan_level_new;
    EXECUTE pg_catalog.format('CREATE TEMPORARY TABLE zodan_level_new AS SELECT 0::bigint AS "zodan id", %%s FROM ONLY %%s AS t WHERE false',
        p_table ->> 'values', p_table ->> 'name');
    -- A domain checks what comes.
    SET LOCAL search_path TO DEFAULT;
    EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_new SELECT w.id, %%s FROM pg_temp.dblink($1, $2) AS t("zodan key" jsonb,'
        ' "zodan version" text, %%s) JOIN pg_temp.zodan_level_row AS w ON w.key = t."zodan key" AND w.there = t."zodan version"'
        ' WHERE w.id = ANY ($3)', p_table ->> 'values', p_table ->> 'typed')
      USING pg_temp.zodan_peer(p_state ->> 'furthest'), pg_catalog.format(
          'SELECT %%s, pg_catalog.concat_ws('' '', %%s, t.xmin, t.ctid), %%s FROM ONLY %%s AS t WHERE %%s', p_table ->> 'key',
          p_table ->> 'hash', p_table ->> 'sent', p_table ->> 'name', pg_temp.zodan_among(p_table, ARRAY(
              SELECT w.key FROM pg_temp.zodan_level_row AS w
              WHERE w.id = ANY (p_ids) AND w.verdict IN ('inserted', 'updated')) || CASE WHEN NOT EXISTS (
                  SELECT FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) AND w.verdict IN ('inserted', 'updated'))
              THEN ARRAY(SELECT w.key FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) LIMIT 1) ELSE '{}' END)), p_ids;
    COMMIT;
    FOR v_group IN
        -- What was deleted may have held a value that what was inserted has now.
        SELECT w.verdict, coalesce(CASE WHEN w.verdict <> 'deleted' THEN w.there_origin END, %3$s) AS origin,
               CASE WHEN w.verdict <> 'deleted' THEN w.there_at ELSE pg_catalog.now() END AS at,
               pg_catalog.array_agg(w.id) AS ids
          FROM pg_temp.zodan_level_row AS w
         WHERE w.id = ANY (p_ids) AND w.verdict IS NOT NULL
         GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
    LOOP
        IF p_state ->> 'origin' IS DISTINCT FROM v_group.origin THEN
            PERFORM pg_temp.zodan_origin(v_group.origin);
            p_state := p_state || pg_catalog.jsonb_build_object('origin', v_group.origin);
        END IF;
        PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', coalesce(v_group.at, '1970-01-01 00:00:00+00'));
        v_rows := pg_temp.zodan_put(p_table, v_group.verdict, v_group.ids);
        IF v_rows IS NULL AND v_group.verdict = 'updated' THEN
            v_clashing := v_clashing || v_group.ids;
            COMMIT;
            CONTINUE;
        END IF;
        UPDATE pg_temp.zodan_level_row AS w SET stable = 0, absent = 0, there = NULL, here = NULL WHERE w.id = ANY (v_group.ids);
        COMMIT;
        p_state := p_state || pg_catalog.jsonb_build_object('wrote', (p_state ->> 'wrote')::bigint + coalesce(v_rows, 0),
            v_group.verdict, (p_state ->> v_group.verdict)::bigint + coalesce(v_rows, 0));
    END LOOP;
    IF v_clashing <> '{}' THEN
        CALL pg_temp.zodan_exchange(p_state, p_table, v_clashing);
    END IF;
    PERFORM pg_temp.zodan_origin(NULL);
    p_state := p_state - 'origin';
END
    $function$;
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_look(INOUT p_state jsonb) LANGUAGE plpgsql AS $function$
DECLARE
    v_table jsonb;
    v_tab int;
    v_ids bigint[];
    v_keys jsonb[];
BEGIN
    SELECT r.tab, pg_catalog.array_agg(r.id), pg_catalog.array_agg(r.key) INTO v_tab, v_ids, v_keys
      FROM (SELECT w.tab, w.id, w.key FROM pg_temp.zodan_level_row AS w
             WHERE w.round < (p_state ->> 'round')::int
               AND w.tab = (SELECT pg_catalog.min(o.tab) FROM pg_temp.zodan_level_row AS o WHERE o.round < (p_state ->> 'round')::int)
             ORDER BY w.why IS NULL, w.id
             LIMIT least(5000, greatest(300, (
                SELECT pg_catalog.count(*) FROM pg_temp.zodan_level_row AS o
                 WHERE o.why IS NOT NULL AND o.round < (p_state ->> 'round')::int)))) AS r
     GROUP BY r.tab;
    IF v_tab IS NULL THEN
        WITH gone AS (DELETE FROM pg_temp.zodan_level_row AS w
            WHERE (p_state ->> 'round')::int - w.since > 12 RETURNING w.*)
        INSERT INTO pg_temp.zodan_level_odd (tab, key, why)
        SELECT g.tab, g.key, coalesce(g.why, 'it kept changing') FROM gone AS g;
        p_state := p_state || pg_catalog.jsonb_build_object('stage',
            CASE WHEN EXISTS (SELECT FROM pg_temp.zodan_level_row) THEN 'mark' ELSE 'swept' END);
        RETURN;
    END IF;
    SELECT t.item INTO v_table FROM pg_temp.zodan_level_table AS t WHERE t.number = v_tab;
    EXECUTE pg_catalog.format('UPDATE pg_temp.zodan_level_row AS w SET round = $1, verdict = NULL, since = coalesce(w.since, $1),'
        ' stable = CASE WHEN (w.there, w.here) IS NOT DISTINCT FROM (n.there, n.here) THEN w.stable + 1 ELSE 0 END,'
        ' absent = CASE WHEN w.here IS NULL AND n.here IS NULL AND n.there IS NOT NULL THEN w.absent + 1 ELSE 0 END,'
        ' there = n.there, there_at = n.there_at, there_origin = n.there_origin, here = n.here, here_at = n.here_at,'
        ' here_origin = n.here_origin'
        ' FROM (SELECT k.key, f.version AS there, f.at AS there_at, f.origin AS there_origin, l.version AS here, l.at AS here_at,'
        '              l.origin AS here_origin'
        '         FROM pg_catalog.unnest($2) AS k(key)'
        '         LEFT JOIN pg_temp.dblink($3, $4) AS f(key jsonb, version text, at timestamptz, origin text) ON f.key = k.key'
        '         LEFT JOIN (%%s) AS l ON l.key = k.key) AS n'
        ' WHERE w.tab = $5 AND w.key = n.key', pg_temp.zodan_query(v_table, pg_temp.zodan_among(v_table, v_keys)))
      USING (p_state ->> 'round')::int, v_keys, pg_temp.zodan_peer(p_state ->> 'furthest'),
          pg_temp.zodan_query(v_table, pg_temp.zodan_among(v_table, v_keys)), v_tab;
    DELETE FROM pg_temp.zodan_level_row AS w
     WHERE w.id = ANY (v_ids)
       AND pg_catalog.split_part(w.there, ' ', 1) IS NOT DISTINCT FROM pg_catalog.split_part(w.here, ' ', 1);
    UPDATE pg_temp.zodan_level_row AS w
       SET verdict = CASE WHEN w.here IS NULL THEN 'inserted'
                          WHEN w.there IS NULL THEN 'deleted'
                          WHEN w.there_at > coalesce(w.here_at, '-infinity')
                               OR w.there_at = w.here_at AND w.there_origin = w.here_origin THEN 'updated' ELSE 'odd' END
     WHERE w.id = ANY (v_ids) AND (w.stable >= 2
           OR w.absent >= 2 * 2 AND NOT coalesce((v_table ->> 'merges')::boolean, false));
    IF (v_table ->> 'blind')::boolean THEN
        -- Which rows a node publishes cannot be told elsewhere, but what came of the dead node it has published.
        DELETE FROM pg_temp.zodan_level_row AS w
         WHERE w.id = ANY (v_ids) AND NOT CASE w.verdict WHEN 'inserted' THEN w.there_origin = %3$s
             WHEN 'updated' THEN w.there_origin = %3$s WHEN 'deleted' THEN w.here_origin = %3$s
             WHEN 'odd' THEN false ELSE %3$s IN (w.there_origin, w.here_origin) END;
        UPDATE pg_temp.zodan_level_row AS w SET verdict = 'odd' WHERE w.id = ANY (v_ids) AND w.verdict = 'deleted';
    END IF;
    PERFORM pg_temp.zodan_doubt(p_state, v_table, v_ids);
    WITH gone AS (DELETE FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (v_ids) AND w.verdict = 'odd' RETURNING w.*)
    INSERT INTO pg_temp.zodan_level_odd (tab, key, why)
    SELECT g.tab, g.key, CASE WHEN g.there IS NULL THEN 'only here, and whether anybody deleted it cannot be known'
               ELSE 'the version here is not the older one' END FROM gone AS g;
    CALL pg_temp.zodan_write(p_state, v_table, v_ids);
END
    $function$;
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_pour(INOUT p_state jsonb) LANGUAGE plpgsql AS $function$
DECLARE
    v_table jsonb;
    v_at timestamptz;
    v_rows bigint;
    v_end timestamptz := pg_catalog.clock_timestamp() + interval '1 s';
BEGIN
    SELECT t.item INTO v_table FROM pg_temp.zodan_level_table AS t WHERE t.number = (p_state ->> 'tab')::int;
    PERFORM pg_temp.zodan_origin(%3$s);
    LOOP
        SELECT pg_catalog.min(n."zodan at") INTO v_at FROM pg_temp.zodan_level_new AS n;
        EXIT WHEN v_at IS NULL OR pg_catalog.clock_timestamp() > v_end;
        PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', v_at);
        SET LOCAL search_path TO DEFAULT;
    SET LOCAL TimeZone TO DEFAULT;
    SET LOCAL DateStyle TO DEFAULT;
    SET LOCAL IntervalStyle TO DEFAULT;
    SET LOCAL extra_float_digits TO DEFAULT;
    SET LOCAL bytea_output TO DEFAULT;
        PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
        PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
        EXECUTE pg_catalog.format('WITH t AS (DELETE FROM pg_temp.zodan_level_new AS n WHERE n.ctid = ANY (ARRAY(SELECT o.ctid'
            ' FROM pg_temp.zodan_level_new AS o WHERE o."zodan at" = $1 LIMIT 5000)) RETURNING n.*)'
            ' INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%s FROM t%%s', v_table ->> 'name', v_table ->> 'names',
            v_table ->> 'values', v_table ->> 'clause') USING v_at;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        COMMIT;
        p_state := p_state || pg_catalog.jsonb_build_object('wrote', (p_state ->> 'wrote')::bigint + v_rows,
            'inserted', (p_state ->> 'inserted')::bigint + v_rows);
    END LOOP;
    PERFORM pg_temp.zodan_origin(NULL);
    IF v_at IS NULL THEN
        p_state := p_state || pg_catalog.jsonb_build_object('stage', 'scan', 'from', NULL, 'tab', (p_state ->> 'tab')::int + 1);
    END IF;
END
    $function$;
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_level(INOUT p_seen text) LANGUAGE plpgsql AS $function$
DECLARE
    v_state jsonb := coalesce(nullif(pg_catalog.current_setting('zodan.level', true), ''), '{"stage": "begin"}')::jsonb;
    v_end timestamptz := pg_catalog.clock_timestamp() + interval '1 s';
BEGIN
    LOOP
        IF v_state ->> 'stage' = 'begin' THEN
            v_state := pg_temp.zodan_begin();
        ELSIF v_state ->> 'stage' = 'scan' THEN
            v_state := pg_temp.zodan_scan(v_state);
        ELSIF v_state ->> 'stage' = 'bag' THEN
            v_state := pg_temp.zodan_bag(v_state);
        ELSIF v_state ->> 'stage' = 'pour' THEN
            CALL pg_temp.zodan_pour(v_state);
        ELSIF v_state ->> 'stage' = 'mark' THEN
            v_state := pg_temp.zodan_mark(v_state);
        ELSIF v_state ->> 'stage' = 'wait' THEN
            v_state := pg_temp.zodan_wait(v_state);
        ELSIF v_state ->> 'stage' = 'look' THEN
            CALL pg_temp.zodan_look(v_state);
        ELSIF v_state ->> 'stage' = 'swept' THEN
            v_state := pg_temp.zodan_finish(v_state);
        END IF;
        PERFORM pg_catalog.set_config('zodan.level', v_state::text, false);
        COMMIT;
        EXIT WHEN v_state ->> 'stage' IN ('done', 'wait') OR pg_catalog.clock_timestamp() > v_end;
    END LOOP;
    p_seen := pg_catalog.jsonb_build_object('ok', v_state ->> 'stage' = 'done', 'progress', pg_catalog.md5(v_state::text),
        'lsn', v_state -> 'lsn', 'furthest', v_state -> 'furthest', 'inserted', v_state -> 'inserted', 'updated', v_state -> 'updated',
        'deleted', v_state -> 'deleted', 'left', v_state -> 'left', 'rows', v_state -> 'rows', 'measure', pg_catalog.jsonb_build_object(
            'sweep', v_state -> 'sweep', 'tables', (SELECT pg_catalog.count(*) FROM pg_temp.zodan_level_table),
            'table', v_state -> 'tab', 'suspects', (SELECT pg_catalog.count(*) FROM pg_temp.zodan_level_row),
            'written', (v_state ->> 'inserted')::bigint + (v_state ->> 'updated')::bigint + (v_state ->> 'deleted')::bigint))::text;
END
    $function$;
    PERFORM pg_temp.zodan_origin(NULL);
    PERFORM pg_catalog.set_config('zodan.level', '', false);
    CREATE TABLE IF NOT EXISTS pg_temp.zodan_level_table (number int PRIMARY KEY, item jsonb NOT NULL);
    CREATE TABLE IF NOT EXISTS pg_temp.zodan_level_row (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, tab int NOT NULL,
        key jsonb NOT NULL, there text, there_at timestamptz, there_origin text, here text, here_at timestamptz, here_origin text,
        round int NOT NULL DEFAULT 0, since int, stable int NOT NULL DEFAULT 0, absent int NOT NULL DEFAULT 0, verdict text, why text,
        UNIQUE (tab, key));
    CREATE TABLE IF NOT EXISTS pg_temp.zodan_level_odd (tab int NOT NULL, key jsonb NOT NULL, why text);
    CREATE TABLE IF NOT EXISTS pg_temp.zodan_level_bag (hash bigint NOT NULL, at timestamptz);
    TRUNCATE pg_temp.zodan_level_table, pg_temp.zodan_level_row, pg_temp.zodan_level_odd, pg_temp.zodan_level_bag;
END
$do$$sql$,
    zodan.quote_text(p_session), zodan.quote_list(p_sets), zodan.quote_text(p_target), zodan.quote_list(p_members), zodan.quote_text(p_accept))
$zodan$;
COMMENT ON FUNCTION zodan.open_level IS
'Prepares a session on a member to level its rows of the dead node p_target with those of the member that has that
node''s stream furthest: makes dblink''s functions and those that compare and write, which go with the session. p_members
are the members; p_sets what they take from one another; p_accept whether rows may be left that differ; p_session is
zodan.set_session(), which prepares the sessions on the other members. No statement has a connection string: Spock''s
catalog does.';
REVOKE ALL ON FUNCTION zodan.open_level FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.level_rows()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$CALL pg_temp.zodan_level(NULL)$sql$
$zodan$;
COMMENT ON FUNCTION zodan.level_rows IS
'Takes the levelling on for about a second, in a session that zodan.open_level prepared; for until_sql.';
REVOKE ALL ON FUNCTION zodan.level_rows FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.describe_leave(p_facts jsonb, p_target text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('target', p_target, 'dead', p_facts #>> ARRAY[p_target, 'spock', 'node'] IS NULL,
    'members', (SELECT coalesce(pg_catalog.jsonb_agg(f.key ORDER BY f.key COLLATE "C"), '[]')
                  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                 WHERE NOT f.value ? 'error' AND f.key <> p_target),
    'missing', (SELECT coalesce(pg_catalog.jsonb_agg(f.key ORDER BY f.key COLLATE "C"), '[]')
                  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                 WHERE f.value ? 'error' AND f.key <> p_target),
    'let_go', (SELECT pg_catalog.bool_or(NOT f.value #> '{spock,nodes}' ? p_target)
                 FROM pg_catalog.jsonb_each(p_facts) AS f(key, value) WHERE f.key <> p_target AND f.value ? 'spock'),
    'subscriptions', (SELECT pg_catalog.jsonb_object_agg(f.key, coalesce((
                          SELECT pg_catalog.jsonb_agg(s.item)
                            FROM pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS s(item)
                           WHERE f.key = p_target OR s.item ->> 'provider' = p_target), '[]'))
                        FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)))
$zodan$;
COMMENT ON FUNCTION zodan.describe_leave IS
'Describes the removal of p_target by what zodan.gather_facts reported: target, whether it is dead, members, those
that could not be reached (missing), whether a member has dropped the target already (let_go), and the subscriptions:
of each member those from the target, of the target all.';
REVOKE ALL ON FUNCTION zodan.describe_leave FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.is_reachable(p_node text, p_dsn text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT (zodan.open_connection(p_node, pg_catalog.jsonb_build_object(p_node, zodan.canonical_dsn(p_dsn)),
    'zodan remove_node ' || p_node) ->> 'ok')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.is_reachable IS
'Returns whether a node can be connected to; the connection stays open. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.is_reachable FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.list_reaching(p_target text, p_dsn text, p_facts jsonb)
RETURNS jsonb
LANGUAGE sql
AS $zodan$
SELECT coalesce(pg_catalog.jsonb_agg(p.key ORDER BY p.key COLLATE "C"), '[]')
  FROM pg_catalog.jsonb_each(zodan.probe_pairs(
           (SELECT coalesce(pg_catalog.jsonb_object_agg(f.key, f.value), '{}') FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
             WHERE f.key <> p_target AND f.value #>> '{spock,node}' = f.key),
           pg_catalog.jsonb_build_object(p_target, zodan.canonical_dsn(p_dsn)),
           -- It may hang, and from PostgreSQL 16 on dblink waits for a connection without a limit.
           least(zodan.read_bound(), interval '20 s'))) AS p(key, value)
 WHERE p.value -> p_target ? 'connection' AND p.value #>> ARRAY[p_target, 'connection'] IS NULL
$zodan$;
COMMENT ON FUNCTION zodan.list_reaching IS
'Returns the members that can connect to p_target, each by the connection string that it knows, else by p_dsn; a list of
names. p_facts is what zodan.gather_facts returned, over the connections that it left open. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.list_reaching FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_survivors(p_facts jsonb, p_leave jsonb, p_accept boolean, p_level boolean)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH places AS MATERIALIZED (
    SELECT m.*, pg_catalog.max(m.place) OVER () AS first, coalesce((p_leave ->> 'let_go')::boolean, false) AS let_go,
               pg_catalog.bool_and(m.place IS NOT NULL) OVER () AND NOT coalesce((p_leave ->> 'let_go')::boolean, false) AS can_level
      FROM (SELECT f.key AS name, (s.item ->> 'position')::pg_catalog.pg_lsn AS place
                  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                  LEFT JOIN LATERAL pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', f.key]) AS s(item) ON true
                 WHERE f.key <> p_leave ->> 'target' AND (f.value ? 'error' OR s.item IS NOT NULL)) AS m)
SELECT 'equally-far', 'same position', p.name, CASE WHEN p_accept OR p.can_level AND p_level THEN 'warn' ELSE 'fail' END,
    coalesce(p.place = p.first, false) AND NOT p.let_go,
       CASE WHEN p.let_go AND p.place = p.first
           THEN 'other members have dropped its stream before, and may have applied more'
            WHEN p.place IS NULL THEN 'its position in the stream of the dead node is unknown'
            ELSE pg_catalog.format(
                'it has applied the stream of the dead node up to %s, %s bytes less than another member',
                p.place, p.first - p.place) END,
       'the same position in the stream of the dead node on every member',
       CASE WHEN p.can_level AND p_level THEN 'Its rows are brought level with those of that member.'
            WHEN p.can_level AND p_level IS NULL THEN 'Remove it with spock.remove_node, force => true and level => true, then '
                'resume; or call with accept_divergence => true: rows of the dead node then differ between members.'
            WHEN p.can_level THEN 'Call with level => true to bring the members level first; or with accept_divergence => true to '
                'remove it anyway: rows of the dead node then differ between members.'
            ELSE 'Call with accept_divergence => true to remove it anyway; rows of the dead node then differ between members.' END
  FROM places AS p
 WHERE (p_leave ->> 'dead')::boolean
UNION ALL
SELECT 'streams-while-levelled', 'streams while levelled', s.provider || ' -> ' || s.name, 'fail', s.enabled, 'disabled',
       'subscriptions between the members that are enabled: the levelling has to tell what is on its way',
       pg_catalog.format('SELECT spock.sub_enable(%L) on node "%s". If Spock disables it again, because a change meets a row '
           'that node lacks, first set spock.exception_behaviour to discard there: what is discarded comes with the levelling.',
           s.subscription, s.name)
  FROM (SELECT f.key AS name, x.item ->> 'provider' AS provider, x.item ->> 'name' AS subscription,
               (x.item ->> 'enabled')::boolean AS enabled
          FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS x(item)
         WHERE p_leave -> 'members' ? f.key AND p_leave -> 'members' ? (x.item ->> 'provider')) AS s
 WHERE (p_leave ->> 'dead')::boolean AND p_level AND EXISTS (SELECT FROM places AS p WHERE p.place < p.first)
$zodan$;
COMMENT ON FUNCTION zodan.check_survivors IS
'Checks that the members have applied the same amount of a dead target''s stream, or that they can be and are to be
brought level (p_level, NULL if the call cannot be asked to), or p_accept is given; and that they stream to one another if they
are to be.';
REVOKE ALL ON FUNCTION zodan.check_survivors FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_outsiders(p_facts jsonb, p_leave jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'outside-subscribers', 'no outside subscriber', p_leave ->> 'target', CASE WHEN o.active THEN 'fail'
    ELSE 'warn' END, false, o.list,
       'no replication slot but those of the members', CASE WHEN o.active
           THEN 'End what reads from these slots, and drop them, or let it read from another node.'
               ELSE 'Drop these slots there: they hold WAL for nobody.' END
  FROM (SELECT (s.item ->> 'active')::boolean AS active, pg_catalog.string_agg(s.item ->> 'name', ', ') AS list
          FROM pg_catalog.jsonb_array_elements(p_facts #> ARRAY[p_leave ->> 'target', 'spock', 'slots']) AS s(item)
         WHERE NOT pg_catalog.jsonb_path_exists(p_facts, '$.*.spock.subscriptions[*] ? (@.slot == $slot)',
             pg_catalog.jsonb_build_object('slot', s.item -> 'name'))
         GROUP BY 1) AS o
 WHERE NOT (p_leave ->> 'dead')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.check_outsiders IS
'Checks that only members read from the target: a subscriber outside the cluster would lose its stream.';
REVOKE ALL ON FUNCTION zodan.check_outsiders FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_cut_off(p_facts jsonb, p_leave jsonb, p_accept boolean)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'cut-off', 'reached without the node', f.name, CASE WHEN p_accept THEN 'warn' ELSE 'fail' END, f.list IS NULL,
       coalesce(pg_catalog.format('the changes of %s come to it only through node "%s"', f.list, p_leave ->> 'target'),
           'nothing comes only through the node'),
       'a subscription from each member whose changes the node to remove forwards',
       pg_catalog.format('First subscribe node "%s" to those members, and set forward_origins of its subscription to {}. Or call '
           'with accept_divergence => true: what is on its way may be lost, and nothing comes any longer.', f.name)
  FROM (SELECT m.name, zodan.name_some(pg_catalog.jsonb_agg(o.name ORDER BY o.name)
                 FILTER (WHERE NOT p_facts #> ARRAY[m.name, 'spock', 'subscriptions'] @> pg_catalog.jsonb_build_array(
                     pg_catalog.jsonb_build_object('provider', o.name)))) AS list
          FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
         CROSS JOIN pg_catalog.jsonb_array_elements_text((p_leave -> 'members') || (p_leave -> 'missing')) AS o(name)
         WHERE o.name <> m.name
           AND p_leave #> ARRAY['subscriptions', m.name] @> '[{"forwards": ["all"]}]'
           AND ((p_leave ->> 'dead')::boolean OR p_leave #> ARRAY['subscriptions', p_leave ->> 'target']
               @> pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('provider', o.name)))
         GROUP BY m.name) AS f
UNION ALL
SELECT 'drain-delay', 'drains in time', (p_leave ->> 'target') || ' -> ' || m.name, 'fail', false,
       pg_catalog.format('subscription "%s" has an apply delay of %s', s.item ->> 'name', s.item ->> 'delay'),
       pg_catalog.format('less than %s, for which a wait may see no progress', w.patience),
       'Set zodan.sync_timeout above the delay in the session that calls.'
  FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', m.name]) AS s(item)
 CROSS JOIN LATERAL (SELECT coalesce((p_leave ->> 'patience')::interval, '10 min') AS patience) AS w
 WHERE NOT (p_leave ->> 'dead')::boolean AND (s.item ->> 'enabled')::boolean
   AND (s.item ->> 'delay')::interval >= w.patience
UNION ALL
SELECT 'receives', 'receives from the node', m.name, 'warn', false, 'it has no subscription from node "' || (p_leave ->> 'target') || '"',
       'a subscription, by which everything committed on the node to remove comes',
       pg_catalog.format('If node "%s" should have what was committed on node "%s", compare their rows: '
           'the removal brings it nothing.', m.name, p_leave ->> 'target')
  FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
 WHERE NOT (p_leave ->> 'dead')::boolean AND p_leave #> ARRAY['subscriptions', m.name] = '[]'
$zodan$;
COMMENT ON FUNCTION zodan.check_cut_off IS
'Checks what members get from the target and would not get any longer: changes of other members that only it forwards
to them; and, of a living target, what takes longer to come than a wait may see no progress, or does not come at all.';
REVOKE ALL ON FUNCTION zodan.check_cut_off FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_dead(p_facts jsonb, p_leave jsonb, p_accept boolean)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'gone-for-all', 'gone for every member', p_leave ->> 'target', CASE WHEN p_accept THEN 'warn' ELSE 'fail' END,
       p_leave -> 'reached_by' = '[]',
       CASE p_leave -> 'reached_by' WHEN '[]' THEN 'no member reaches it'
           ELSE 'it lives: reached from ' || zodan.name_some(p_leave -> 'reached_by') END,
       'a node that no member reaches',
       pg_catalog.format('Give a connection string that leads to it from here, or call on node "%s". If it is to go without what '
           'it has not sent yet, stop its server first.', p_leave #>> '{reached_by,0}')
 WHERE (p_leave ->> 'dead')::boolean AND pg_catalog.jsonb_typeof(p_leave -> 'reached_by') = 'array'
UNION ALL
SELECT 'unread-slots', 'slots with a known reader', m.name, 'warn', s.list IS NULL, coalesce(s.list, 'none without'),
       'inactive slots only of known subscriptions',
       'After the removal, drop those slots that the dead node read from: they hold WAL for nobody.'
  FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
 CROSS JOIN LATERAL (
    SELECT zodan.name_some(pg_catalog.jsonb_agg(l.item -> 'name')) AS list
      FROM pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock', 'slots']) AS l(item)
     WHERE NOT (l.item ->> 'active')::boolean AND pg_catalog.left(l.item ->> 'name', 4) = 'spk_'
       -- Those of these subscriptions the removal drops.
       AND NOT EXISTS (SELECT FROM (VALUES (zodan.subscription_name(m.name, p_leave ->> 'target')),
                                           (zodan.copy_name(p_leave ->> 'target'))) AS k(name)
                        WHERE pg_catalog.right(l.item ->> 'name', pg_catalog.length(k.name) + 1) = '_' || k.name)
       AND NOT pg_catalog.jsonb_path_exists(p_facts, '$.*.spock.subscriptions[*] ? (@.slot == $slot)',
           pg_catalog.jsonb_build_object('slot', l.item -> 'name'))) AS s
 WHERE (p_leave ->> 'dead')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.check_dead IS
'Checks that a target which the caller cannot reach is gone for the members too, or p_accept is given: while it lives,
members stop at different points of its stream. Names the slots that it may have read from under names that Zodan does
not know.';
REVOKE ALL ON FUNCTION zodan.check_dead FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.check_leave(
    p_facts jsonb,
    p_leave jsonb,
    p_force boolean,
    p_accept boolean,
    p_level boolean
)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT r.key, r.name, r.scope, CASE WHEN p_force THEN 'warn' ELSE 'fail' END, r.passed, r.observed, r.required,
       CASE WHEN r.scope = p_leave ->> 'target'
            THEN 'Bring the node back; if it is gone for good, call on a member with force => true.'
            ELSE 'Bring the node back, or call with force => true and again once it is back.' END
  FROM zodan.check_reachable(p_facts, p_leave) AS r
UNION ALL
SELECT 'member-found', 'a member', p_leave ->> 'target', 'fail', p_leave -> 'members' <> '[]',
    'no member can be reached through it', 'a member to remove it from',
       'Call on a member, or give the connection string of one as survivor_dsn.'
 WHERE (p_leave ->> 'dead')::boolean
UNION ALL
SELECT 'is-a-node', 'is a node', f.key, 'fail', coalesce(f.value #>> '{spock,node}' = f.key,
    f.key = p_leave ->> 'target' AND pg_catalog.jsonb_path_exists(
           p_facts - f.key, '$.*.spock.nodes.keyvalue() ? (@.key == $node)',
               pg_catalog.jsonb_build_object('node', f.key)), false),
       coalesce('it is node "' || (f.value #>> '{spock,node}') || '"', f.value ->> 'spock_error', 'no node'), 'node "'
           || f.key || '"',
       'Check the name and the connection string; a node that was never created needs no removal.'
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 WHERE NOT f.value ? 'error'
UNION ALL
SELECT 'drains', 'drains', (p_leave ->> 'target') || ' -> ' || m.name, CASE WHEN p_accept
    AND NOT (s.item ->> 'enabled')::boolean THEN 'warn' ELSE 'fail' END,
       (s.item ->> 'enabled')::boolean AND s.item ->> 'status' <> 'down',
       CASE WHEN (s.item ->> 'enabled')::boolean THEN s.item ->> 'status' ELSE 'disabled' END,
       'a subscription that is enabled and runs, so that nothing committed on the target is lost',
       pg_catalog.format(CASE WHEN (s.item ->> 'enabled')::boolean
           THEN 'Fix what stops subscription "%s" on node "%s" first: its server log and spock.exception_log say it. '
           'Or disable the subscription, and call with accept_divergence => true.'
           ELSE 'Fix and enable subscription "%s" on node "%s" first, or call with accept_divergence => true.' END,
               s.item ->> 'name', m.name)
  FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', m.name]) AS s(item)
 WHERE NOT (p_leave ->> 'dead')::boolean
UNION ALL
SELECT 'drains', 'drains', (p_leave ->> 'target') || ' -> ' || f.key, CASE WHEN p_accept THEN 'warn' ELSE 'fail' END,
    false,
       'it cannot be reached, and would never get what is on its way to it',
           'a member that gets everything that was committed on the target',
       'Bring the member back first; or call with accept_divergence => true, and again once it is back.'
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 WHERE f.value ? 'error' AND f.key <> p_leave ->> 'target' AND NOT (p_leave ->> 'dead')::boolean
UNION ALL
SELECT o.* FROM zodan.check_outsiders(p_facts, p_leave) AS o
UNION ALL
SELECT c.* FROM zodan.check_cut_off(p_facts, p_leave, p_accept) AS c
UNION ALL
SELECT d.* FROM zodan.check_dead(p_facts, p_leave, p_accept) AS d
UNION ALL
SELECT s.* FROM zodan.check_survivors(p_facts, p_leave, p_accept, p_level) AS s
$zodan$;
COMMENT ON FUNCTION zodan.check_leave IS
'Returns every precondition of a removal. Every node can be reached, or p_force is given and at least one member
can; each is the node that it should be. The others can wait for what they receive from the target or, if the target
is dead, all have applied the same amount of it, or p_level or p_accept is given.';
REVOKE ALL ON FUNCTION zodan.check_leave FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_drain(p_leave jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that make every member hold the same commits of the target. One transaction takes the target's
tables out of its replication sets: that ends what it publishes at one point of its stream for every reader, and lets
its writers go on. Then comes a sync event after that point, applied by every member and flushed to its disk. From
here on the removal can only be finished: what is written on the target now reaches nobody. */
DECLARE
    v_target text := p_leave ->> 'target';
    v_member text;
BEGIN
    RETURN NEXT zodan.make_step('unpublish', v_target, 'stop publishing on ' || v_target,
        p_do := zodan.unpublish(), p_done := zodan.is_unpublished(), p_policy := 'final');
    -- A transaction that began before publishes what it wrote before: the last event must come after all of those.
    RETURN NEXT zodan.make_step('mark', v_target, 'note the open transactions on ' || v_target,
        p_do := 'SELECT pg_catalog.pg_current_xact_id() AS xid', p_ref := 'mark');
    RETURN NEXT zodan.make_step('settled', v_target,
        'wait for these transactions to end on ' || v_target,
        p_until := zodan.wait_settled(zodan.placeholder('result', 'mark', 'xid')), p_budget := p_patience);
    RETURN NEXT zodan.make_step('drain', v_target, 'send a sync event on ' || v_target,
        p_do := zodan.emit_sync_event(), p_ref := 'drain');
    FOR v_member IN
        SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
         WHERE pg_catalog.jsonb_path_exists(p_leave #> ARRAY['subscriptions', m.name], '$[*] ? (@.enabled == true)')
    LOOP
        -- Never again once it is done: a member that crashes while it drops its subscription gets that back, but not
        -- the slot.
        RETURN NEXT zodan.make_step('drained', v_member,
            pg_catalog.format('wait until %s has applied and flushed everything of %s', v_member, v_target),
            p_until := zodan.wait_drained(p_lsn => zodan.placeholder('result', 'drain', 'lsn'),
                p_provider => v_target, p_streams => ARRAY(SELECT s.item ->> 'name'
                  FROM pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', v_member]) AS s(item)
                 WHERE (s.item ->> 'enabled')::boolean)), p_budget := p_patience,
            p_policy := 'once');
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_drain IS
'Returns the steps that make every member hold the same commits of the target. One transaction takes the target''s
tables out of its replication sets: that ends what it publishes at one point of its stream for every reader, and lets
its writers go on. Then comes a sync event after that point, applied by every member and flushed to its disk. From
here on the removal can only be finished: what is written on the target now reaches nobody.';
REVOKE ALL ON FUNCTION zodan.plan_drain FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_forget(p_leave jsonb, p_member text, p_policy text)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that make a member forget the target: drop the slots of its streams there, also those of a join
that never finished, which has a slot before the subscription that would name it; drop its node row; then prove that
nothing is left. */
DECLARE
    v_target text := p_leave ->> 'target';
    v_subscription text;
BEGIN
    FOREACH v_subscription IN ARRAY ARRAY[zodan.subscription_name(p_member, v_target), zodan.copy_name(v_target),
        zodan.structure_name(v_target)] LOOP
        RETURN NEXT zodan.make_step('forget', p_member,
            pg_catalog.format('drop the slot of subscription %s on %s, if it is there', v_subscription, p_member),
            p_do := zodan.drop_slot_of(p_provider => p_member, p_subscription => v_subscription), p_policy := p_policy,
            p_object := v_subscription);
    END LOOP;
    RETURN NEXT zodan.make_step('forget', p_member, pg_catalog.format('forget node %s on %s', v_target, p_member),
        p_do := zodan.forget_node(v_target), p_policy := p_policy, p_object := v_target);
    RETURN NEXT zodan.make_step('prove', p_member, pg_catalog.format('prove that nothing of %s is left on %s',
        v_target, p_member),
        p_do := zodan.prove_gone(p_target => v_target,
            p_origins => zodan.list_stream_names(p_leave, p_member, 'subscriber'),
            p_slots => zodan.list_stream_names(p_leave, p_member, 'provider')), p_kind := 'verify');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_forget IS
'Returns the steps that make a member forget the target: drop the slots of its streams there, also those of a join
that never finished, which has a slot before the subscription that would name it; drop its node row; then prove that
nothing is left.';
REVOKE ALL ON FUNCTION zodan.plan_forget FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_withdraw(p_leave jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that take the target out: its subscribers drop their subscriptions all at once, and its own
subscriptions are disabled; then the members drop whatever they still have of it, and a step proves that; last go its
subscriptions, its sets and its node row. Until then it knows the others, so that an interrupted removal finds them
through it. */
DECLARE
    v_target text := p_leave ->> 'target';
    v_member text;
    v_item jsonb;
BEGIN
    FOR v_member, v_item IN
        SELECT m.name, s.item FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name)
         CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', m.name]) AS s(item)
    LOOP
        RETURN NEXT zodan.make_step('leave', v_member,
            pg_catalog.format('drop subscription %s on %s', v_item ->> 'name', v_member),
            p_do := zodan.drop_subscription(v_item ->> 'name'), p_object := v_item ->> 'name');
    END LOOP;
    -- All its workers are told to end before the first subscription is dropped, so that they end side by side.
    RETURN NEXT zodan.make_step('leave', v_target, 'disable every subscription on ' || v_target,
        p_do := zodan.disable_streams());
    FOR v_item IN SELECT s.item FROM pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions',
        v_target]) AS s(item) LOOP
        IF p_leave -> 'members' ? (v_item ->> 'provider') THEN
            RETURN NEXT zodan.make_step('forget', v_item ->> 'provider',
                pg_catalog.format('drop slot %s on %s', v_item ->> 'slot', v_item ->> 'provider'),
                p_do := zodan.drop_slot(v_item ->> 'slot'), p_object := v_item ->> 'slot');
        END IF;
    END LOOP;
    -- A member that cannot be reached does not drop its own.
    FOR v_member IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'missing') AS m(name) LOOP
        RETURN NEXT zodan.make_step('forget', v_target, pg_catalog.format('drop the slot that %s used on %s', v_member,
            v_target),
            p_do := zodan.drop_slot_of(p_provider => v_target, p_subscription => zodan.subscription_name(v_target,
                v_member)), p_object := zodan.subscription_name(v_target, v_member));
    END LOOP;
    FOR v_member IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name) LOOP
        RETURN QUERY SELECT * FROM zodan.plan_forget(p_leave, v_member, NULL);
    END LOOP;
    RETURN NEXT zodan.make_step('drop', v_target,
        pg_catalog.format('drop every subscription and node %s on %s', v_target, v_target),
            p_do := zodan.drop_node(v_target));
    RETURN NEXT zodan.make_step('proven', v_target, 'prove that nothing is left on ' || v_target,
        p_do := zodan.prove_gone(p_target => v_target,
            p_origins => zodan.list_stream_names(p_leave, v_target, 'subscriber'),
            p_slots => zodan.list_stream_names(p_leave, v_target, 'provider')), p_kind := 'verify');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_withdraw IS
'Returns the steps that take the target out: its subscribers drop their subscriptions all at once, and its own
subscriptions are disabled; then the members drop whatever they still have of it, and a step proves that; last go its
subscriptions, its sets and its node row. Until then it knows the others, so that an interrupted removal finds them
through it.';
REVOKE ALL ON FUNCTION zodan.plan_withdraw FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_bury(p_leave jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that remove a node which cannot be reached: all members drop their subscriptions to it at once,
then drop the slot that it used there and its row; a last step proves that they are gone. */
DECLARE
    v_member text;
    v_item jsonb;
BEGIN
    FOR v_member IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name) LOOP
        FOR v_item IN SELECT s.item FROM pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions',
            v_member]) AS s(item) LOOP
            RETURN NEXT zodan.make_step('leave', v_member,
                pg_catalog.format('drop subscription %s on %s', v_item ->> 'name', v_member),
                p_do := zodan.drop_subscription(v_item ->> 'name'), p_policy := 'final', p_object := v_item ->> 'name');
        END LOOP;
        RETURN NEXT zodan.make_step('forget', v_member,
            pg_catalog.format('drop the origins that the levelling used on %s', v_member),
            p_do := zodan.drop_level_origins(), p_policy := 'final', p_object := 'zodan level');
        RETURN QUERY SELECT * FROM zodan.plan_forget(p_leave, v_member, 'final');
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_bury IS
'Returns the steps that remove a node which cannot be reached: all members drop their subscriptions to it at once,
then drop the slot that it used there and its row; a last step proves that they are gone.';
REVOKE ALL ON FUNCTION zodan.plan_bury FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_level(p_leave jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that bring every member level with the one that has a dead node's stream furthest: all members end
that stream; each finds out who is furthest, compares its rows with those there, and writes what it lacks; at last the
positions of the stream say that they are level, and a step proves that. p_leave has level, sets and accept. */
DECLARE
    v_target text := p_leave ->> 'target';
    v_members text[] := ARRAY(SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') AS m(name));
    v_member text;
BEGIN
    IF (p_leave ->> 'level')::boolean IS NOT TRUE THEN
        RETURN;
    END IF;
    FOREACH v_member IN ARRAY v_members LOOP
        RETURN NEXT zodan.make_step('halt', v_member, pg_catalog.format('disable the subscription to %s on %s', v_target, v_member),
            p_do := zodan.stop_stream(v_target), p_policy := 'final');
        RETURN NEXT zodan.make_step('halted', v_member,
            pg_catalog.format('wait until %s applies nothing of %s', v_member, v_target),
            p_until := zodan.wait_stopped(v_target), p_budget := p_patience);
        RETURN NEXT zodan.make_step('level', v_member,
            pg_catalog.format('bring the rows of %s level with the member that has most of %s', v_member, v_target),
            p_do := zodan.open_level(p_target => v_target, p_members => v_members,
                p_sets => ARRAY(SELECT s.name FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'sets') AS s(name)),
                p_accept => p_leave ->> 'accept', p_session => zodan.set_session()),
            p_until := zodan.level_rows(), p_budget := p_patience,
            p_ref := 'level' || pg_catalog.array_position(v_members, v_member), p_policy := 'final');
        RETURN NEXT zodan.make_step('levelled', v_member,
            pg_catalog.format('prove that %s has as much of %s as every other member', v_member, v_target),
            p_do := zodan.prove_level(p_provider => v_target,
                p_lsn => zodan.placeholder('result', 'level1', 'lsn')), p_kind := 'verify');
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_level IS
'Returns the steps that bring every member level with the one that has a dead node''s stream furthest: all members end
that stream; each finds out who is furthest, compares its rows with those there, and writes what it lacks; at last the
positions of the stream say that they are level, and a step proves that. p_leave has level, sets and accept.';
REVOKE ALL ON FUNCTION zodan.plan_level FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_removal(p_leave jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps of a removal without numbers. p_leave is what zodan.describe_leave returned: with the drain or, if
the target is dead, without it, and with the levelling of the members if p_leave has level. */
BEGIN
    IF (p_leave ->> 'dead')::boolean THEN
        RETURN QUERY SELECT * FROM zodan.plan_level(p_leave, p_patience);
        RETURN QUERY SELECT * FROM zodan.plan_bury(p_leave);
    ELSE
        RETURN QUERY SELECT * FROM zodan.plan_drain(p_leave, p_patience);
        RETURN QUERY SELECT * FROM zodan.plan_withdraw(p_leave);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_removal IS
'Returns the steps of a removal without numbers. p_leave is what zodan.describe_leave returned: with the drain or, if
the target is dead, without it, and with the levelling of the members if p_leave has level.';
REVOKE ALL ON FUNCTION zodan.plan_removal FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.plan_leave(p_leave jsonb, p_patience interval)
RETURNS zodan.plan_step[]
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the whole plan of a removal for a cluster as zodan.describe_leave describes it. */
DECLARE
    v_steps zodan.plan_step[];
BEGIN
    SELECT pg_catalog.array_agg(s::zodan.plan_step) INTO v_steps FROM zodan.plan_removal(p_leave, p_patience) AS s;
    RETURN (SELECT pg_catalog.array_agg(n ORDER BY n.ordinal) FROM zodan.number_steps(v_steps,
        '{unpublish,mark,settled,drain,drained,halt,halted,level,levelled,leave,forget,prove,drop,proven}') AS n);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_leave IS
'Returns the whole plan of a removal for a cluster as zodan.describe_leave describes it.';
REVOKE ALL ON FUNCTION zodan.plan_leave FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.survey_leave(
    p_target text,
    p_target_dsn text,
    p_survivor_dsn text,
    OUT p_facts jsonb,
    OUT p_leave jsonb,
    OUT p_dsns jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Connects to the node that is to go, learns the other nodes from it and from those it knows, until nobody names a
new one, and reads everybody's facts. If the target cannot be reached, it starts from p_survivor_dsn, a member, or
from this database if it is one. Returns the facts by node; target, members and their subscriptions, how
long a wait may see no progress, and the members that reach a target which the caller does not; and the connection
strings of the nodes that it reached. Errors: ZD001 malformed connection string, ZD002 name missing, ZD003
the target is another node. */
DECLARE
    c_purpose CONSTANT text := 'zodan remove_node ' || p_target;
    v_found text;
    v_known jsonb := '{}'::jsonb;
BEGIN
    IF coalesce(p_target, '') = '' THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD002',
            MESSAGE = 'the name of the node is missing',
            HINT = 'Give the name of the node to remove.';
    END IF;
    p_dsns := pg_catalog.jsonb_build_object(p_target, zodan.canonical_dsn(p_target_dsn));
    p_facts := zodan.gather_facts(p_dsns, c_purpose);
    v_found := p_facts #>> ARRAY[p_target, 'spock', 'node'];
    IF v_found <> p_target THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD003',
            MESSAGE = pg_catalog.format('the connection string does not lead to node "%s"', p_target),
            DETAIL = pg_catalog.format('It leads to node "%s".', v_found),
            HINT = 'Give the name and the connection string of the same node.';
    END IF;
    -- A database that answers but is no longer a node names nobody either: an earlier removal did not reach every
    -- member.
    IF v_found IS NULL THEN
        v_known := zodan.local_dsns() || CASE WHEN p_survivor_dsn IS NULL THEN '{}' ELSE zodan.known_dsns(
            zodan.gather_facts(pg_catalog.jsonb_build_object('a survivor', p_survivor_dsn), c_purpose)) END;
    END IF;
    SELECT g.p_dsns, g.p_facts INTO p_dsns, p_facts
      FROM zodan.gather_cluster(v_known, NULL, c_purpose, p_dsns, p_facts) AS g;
    SELECT coalesce(pg_catalog.jsonb_object_agg(d.key, d.value), '{}') INTO p_dsns
      FROM pg_catalog.jsonb_each(p_dsns) AS d(key, value) WHERE NOT p_facts -> d.key ? 'error';
    p_leave := zodan.describe_leave(p_facts, p_target) || pg_catalog.jsonb_build_object('patience', zodan.read_patience())
        || CASE WHEN p_facts -> p_target ? 'error' THEN pg_catalog.jsonb_build_object('reached_by',
            zodan.list_reaching(p_target, p_target_dsn, p_facts)) ELSE '{}' END;
END
$zodan$;
COMMENT ON FUNCTION zodan.survey_leave IS
'Connects to the node that is to go, learns the other nodes from it and from those it knows, until nobody names a
new one, and reads everybody''s facts. If the target cannot be reached, it starts from p_survivor_dsn, a member, or
from this database if it is one. Returns the facts by node; target, members and their subscriptions, how
long a wait may see no progress, and the members that reach a target which the caller does not; and the connection
strings of the nodes that it reached. Errors: ZD001 malformed connection string, ZD002 name missing, ZD003
the target is another node.';
REVOKE ALL ON FUNCTION zodan.survey_leave FROM PUBLIC;

CREATE OR REPLACE FUNCTION zodan.prepare_leave(
    p_target text,
    p_target_dsn text,
    p_survivor_dsn text,
    p_force boolean,
    p_accept boolean,
    p_level boolean,
    p_lock boolean,
    OUT p_plan zodan.plan_step[],
    OUT p_dsns jsonb,
    OUT p_checks zodan.check_result[],
    OUT p_arguments jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Everything before the first change of a removal: surveys the cluster, takes its lock if asked to, runs the
preconditions and makes the plan. Without the lock, and where a call was interrupted, it returns that call's plan as
it stands. p_arguments goes to the journal: which life of the node is to end, and which members were not reached.
Leaves the connections open. Errors: those of zodan.survey_leave, zodan.lock_members and zodan.judge_checks. */
DECLARE
    v_survey record;
BEGIN
    IF NOT p_lock THEN
        -- What a call would continue, if one was interrupted.
        p_plan := zodan.read_plan('remove_node', p_target);
        IF p_plan IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_survey FROM zodan.survey_leave(p_target, p_target_dsn, p_survivor_dsn);
    IF p_lock AND (p_force OR NOT pg_catalog.jsonb_path_exists(v_survey.p_facts, '$.*.error')) THEN
        PERFORM zodan.lock_members(v_survey.p_dsns);
        SELECT * INTO v_survey FROM zodan.survey_leave(p_target, p_target_dsn, p_survivor_dsn);
    END IF;
    SELECT pg_catalog.array_agg(zodan.give_verdict(f)) INTO p_checks
      FROM zodan.check_leave(v_survey.p_facts, v_survey.p_leave, p_force, p_accept, p_level) AS f;
    PERFORM zodan.judge_checks(p_checks);
    p_dsns := v_survey.p_dsns;
    p_arguments := pg_catalog.jsonb_build_object('life', v_survey.p_facts #> ARRAY[p_target, 'spock', 'life'],
        'missing', v_survey.p_leave -> 'missing');
    p_plan := zodan.plan_leave(v_survey.p_leave || pg_catalog.jsonb_build_object('level', p_level, 'accept', p_accept,
        'sets', zodan.list_exchanged(v_survey.p_facts, v_survey.p_leave)), zodan.read_patience());
END
$zodan$;
COMMENT ON FUNCTION zodan.prepare_leave IS
'Everything before the first change of a removal: surveys the cluster, takes its lock if asked to, runs the
preconditions and makes the plan. Without the lock, and where a call was interrupted, it returns that call''s plan as
it stands. p_arguments goes to the journal: which life of the node is to end, and which members were not reached.
Leaves the connections open. Errors: those of zodan.survey_leave, zodan.lock_members and zodan.judge_checks.';
REVOKE ALL ON FUNCTION zodan.prepare_leave FROM PUBLIC;


CREATE OR REPLACE FUNCTION zodan.plan_remove_node(
    target_node_name text,
    target_node_dsn text,
    force boolean DEFAULT false,
    accept_divergence boolean DEFAULT false,
    survivor_dsn text DEFAULT NULL,
    level boolean DEFAULT false
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql
AS $zodan$
/* Returns the plan that spock.remove_node would run, as rows; changes nothing. Takes the arguments of
spock.remove_node. Errors: ZD0nn bad input, ZD100 preconditions not met. */
DECLARE
    v_plan zodan.plan_step[];
BEGIN
    PERFORM zodan.hide_statement(target_node_dsn, survivor_dsn);
    PERFORM zodan.close_connections();
    SELECT p.p_plan INTO v_plan FROM zodan.prepare_leave(target_node_name, target_node_dsn, survivor_dsn, force,
        accept_divergence, level, false) AS p;
    PERFORM zodan.close_connections();
    RETURN QUERY SELECT * FROM pg_catalog.unnest(v_plan);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_remove_node IS
'Returns the plan that spock.remove_node would run, as rows; changes nothing. Takes the arguments of
spock.remove_node. Errors: ZD0nn bad input, ZD100 preconditions not met.';
REVOKE ALL ON FUNCTION zodan.plan_remove_node FROM PUBLIC;

CREATE OR REPLACE PROCEDURE spock.remove_node(
    target_node_name text,
    target_node_dsn text,
    verbose_mode boolean DEFAULT false,
    force boolean DEFAULT false,
    accept_divergence boolean DEFAULT false,
    dry_run boolean DEFAULT false,
    survivor_dsn text DEFAULT NULL,
    level boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Removes a node from a Spock cluster. target_node_name and target_node_dsn name the node to remove; the others are
found through it. Everything committed there before the call first reaches every other node, and all other nodes end
with the same rows. The database keeps its tables; Spock's node, subscriptions, slots and origins are dropped, and a
check at the end proves that they are gone. force removes a node that cannot be reached: call it on a member, or with
the connection string of a member in survivor_dsn. If members have applied different amounts of that node's changes,
accept_divergence is required too; or level, which first brings their
rows level with those of the member that has applied most. force also skips members that cannot be reached: call again once they are back.
verbose_mode prints every step; dry_run prints the plan and changes nothing. When called again after an interruption,
it continues where it stopped. Errors: ZD0nn caller's mistake, ZD100 preconditions not met, ZD110 another operation is
under way, ZD2nn a step failed, ZD3nn a wait ran out, ZD401 something is left, ZD406 rows cannot be levelled. */
DECLARE
    v_operation bigint;
    v_plan zodan.plan_step[];
    v_dsns jsonb;
    v_checks zodan.check_result[];
    v_arguments jsonb;
    v_failure jsonb;
    v_step zodan.step;
BEGIN
    dry_run := coalesce(dry_run, false);
    CALL zodan.require_autocommit('remove_node', NOT dry_run, target_node_dsn, survivor_dsn);
    PERFORM zodan.close_connections();
    v_operation := zodan.find_interrupted('remove_node', target_node_name);
    IF v_operation IS NOT NULL AND force AND NOT dry_run AND NOT zodan.is_reachable(target_node_name,
        target_node_dsn) THEN
        -- The old plan needs the node, which is gone: a new plan does without the node.
        v_operation := NULL;
    END IF;
    IF v_operation IS NOT NULL AND NOT dry_run THEN
        v_dsns := zodan.reopen(v_operation, pg_catalog.jsonb_build_object(target_node_name, target_node_dsn), true);
    END IF;
    IF v_dsns IS NOT NULL THEN
        PERFORM zodan.reopen_operation(v_operation, v_dsns);
        RAISE NOTICE 'operation % continues where it stopped', v_operation;
    ELSE
        SELECT p.p_plan, p.p_dsns, p.p_checks, p.p_arguments INTO v_plan, v_dsns, v_checks, v_arguments
          FROM zodan.prepare_leave(target_node_name, target_node_dsn, survivor_dsn, force, accept_divergence,
              level, NOT dry_run) AS p;
        IF dry_run THEN
            PERFORM zodan.close_connections();
            PERFORM zodan.show_plan(v_plan, verbose_mode);
            RETURN;
        END IF;
        PERFORM zodan.give_up_operations(target_node_name, 'the node is being removed');
        v_operation := zodan.start_operation('remove_node', target_node_name, v_arguments, v_dsns, v_plan, v_checks);
    END IF;
    COMMIT;
    CALL zodan.run_operation(v_operation, v_dsns, verbose_mode, v_failure);
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    FOR v_step IN SELECT s.* FROM zodan.step AS s WHERE s.operation_id = v_operation AND s.phase_name = 'level'
        AND s.result ->> 'furthest' <> s.node ORDER BY s.ordinal LOOP
        RAISE NOTICE 'node "%" was brought level with node "%": % rows inserted, % updated, % deleted', v_step.node,
            v_step.result ->> 'furthest', v_step.result ->> 'inserted', v_step.result ->> 'updated', v_step.result ->> 'deleted';
        IF (v_step.result ->> 'left')::bigint > 0 THEN
            RAISE WARNING 'node "%" has % rows that differ from those of node "%": %', v_step.node, v_step.result ->> 'left',
                v_step.result ->> 'furthest', v_step.result ->> 'rows' USING HINT = 'Reconcile these rows yourself.';
        END IF;
    END LOOP;
    RAISE NOTICE 'node "%" has been removed: % members are left, operation %', target_node_name,
        (SELECT pg_catalog.count(*) FROM zodan.operation AS o
            CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(o.members) AS k(node)
          WHERE o.operation_id = v_operation AND k.node <> target_node_name), v_operation;
END
$zodan$;
COMMENT ON PROCEDURE spock.remove_node IS
'Removes a node from a Spock cluster. target_node_name and target_node_dsn name the node to remove; the others are
found through it. Everything committed there before the call first reaches every other node, and all other nodes end
with the same rows. The database keeps its tables; Spock''s node, subscriptions, slots and origins are dropped, and a
check at the end proves that they are gone. force removes a node that cannot be reached: call it on a member, or with
the connection string of a member in survivor_dsn. If members have applied different amounts of that node''s changes,
accept_divergence is required too; or level, which first brings their
rows level with those of the member that has applied most. force also skips members that cannot be reached: call again once they are back.
verbose_mode prints every step; dry_run prints the plan and changes nothing. When called again after an interruption,
it continues where it stopped. Errors: ZD0nn caller''s mistake, ZD100 preconditions not met, ZD110 another operation is
under way, ZD2nn a step failed, ZD3nn a wait ran out, ZD401 something is left, ZD406 rows cannot be levelled.';
REVOKE ALL ON PROCEDURE spock.remove_node FROM PUBLIC;


DO $zodan$
BEGIN
    IF pg_catalog.to_regprocedure('spock.reserved_object_add(name,text,boolean,boolean,boolean)') IS NOT NULL THEN
        IF NOT EXISTS (SELECT FROM spock.reserved_object AS r WHERE r.name = 'zodan' AND r.kind = 'schema') THEN
            PERFORM spock.reserved_object_add('zodan', 'schema', true, true, false);
        END IF;
    END IF;
END
$zodan$;
COMMIT;
