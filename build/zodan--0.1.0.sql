-- Rendered by "zodan-sql build" from sql/templates/pages/extension.sql.j2: do not edit.
\echo Use "CREATE EXTENSION zodan" to load this file. \quit
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
BEGIN
    IF pg_catalog.to_regnamespace('zodan') IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD103',
            MESSAGE = pg_catalog.format('Zodan was loaded from its scripts in database "%s"',
                pg_catalog.current_database()),
            HINT = 'Run zodan-sql uninstall, or DROP SCHEMA zodan CASCADE and the procedures of Zodan in schema spock, first.';
    END IF;
END
$zodan$;

CREATE SCHEMA zodan;
REVOKE ALL ON SCHEMA zodan FROM PUBLIC;
COMMENT ON SCHEMA zodan IS 'Zodan 0.1.0: adds nodes to a running Spock cluster and removes them.';

CREATE FUNCTION zodan.version()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT '0.1.0'
$zodan$;
COMMENT ON FUNCTION zodan.version IS
'Returns the version of Zodan that is loaded.';
REVOKE ALL ON FUNCTION zodan.version FROM PUBLIC;

CREATE FUNCTION zodan.decode_percent(p_text text)
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

CREATE FUNCTION zodan.parse_dsn_keywords(p_dsn text)
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

CREATE FUNCTION zodan.parse_dsn_uri(p_dsn text)
RETURNS jsonb
LANGUAGE plpgsql STABLE
AS $zodan$
/* Reads a connection URI, postgresql://user:password@host:port,host:port/database?setting=value, percent encoding and
bracketed IPv6 addresses included, as libpq does. Returns an object of strings. Errors: ZD001, which never repeats the
text. */
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
    RETURN v_settings;
END
$zodan$;
COMMENT ON FUNCTION zodan.parse_dsn_uri IS
'Reads a connection URI, postgresql://user:password@host:port,host:port/database?setting=value, percent encoding and
bracketed IPv6 addresses included, as libpq does. Returns an object of strings. Errors: ZD001, which never repeats the
text.';
REVOKE ALL ON FUNCTION zodan.parse_dsn_uri FROM PUBLIC;

CREATE FUNCTION zodan.parse_dsn(p_dsn text)
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

CREATE FUNCTION zodan.format_dsn(p_settings jsonb)
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

CREATE FUNCTION zodan.canonical_dsn(p_dsn text)
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT zodan.format_dsn(zodan.parse_dsn(p_dsn))
$zodan$;
COMMENT ON FUNCTION zodan.canonical_dsn IS
'Returns a connection string, keyword form or URI, as the one keyword string that means the same: one node has one
spelling everywhere. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.canonical_dsn FROM PUBLIC;

CREATE FUNCTION zodan.list_secrets()
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT ARRAY['password', 'sslpassword', 'scram_client_key', 'scram_server_key', 'oauth_client_secret']
$zodan$;
COMMENT ON FUNCTION zodan.list_secrets IS
'Returns the settings of a connection string whose values nobody may see.';
REVOKE ALL ON FUNCTION zodan.list_secrets FROM PUBLIC;

CREATE FUNCTION zodan.redact_dsn(p_dsn text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT zodan.format_dsn(zodan.parse_dsn(p_dsn) - zodan.list_secrets() - 'passfile')
$zodan$;
COMMENT ON FUNCTION zodan.redact_dsn IS
'Returns a connection string without its secrets, for people to read. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.redact_dsn FROM PUBLIC;

CREATE FUNCTION zodan.find_secrets(p_dsns jsonb)
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

CREATE FUNCTION zodan.mask_secrets(p_text text, p_secrets text[])
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

CREATE FUNCTION zodan.redact_text(p_text text, p_dsns jsonb DEFAULT '{}')
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

CREATE FUNCTION zodan.quote_text(p_text text)
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

CREATE FUNCTION zodan.quote_list(p_texts text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'ARRAY[' || coalesce(pg_catalog.string_agg(zodan.quote_text(t.item), ', ' ORDER BY t.place), '') || ']::text[]'
  FROM pg_catalog.unnest(p_texts) WITH ORDINALITY AS t(item, place)
$zodan$;
COMMENT ON FUNCTION zodan.quote_list IS
'Writes a list of texts as an SQL array of literals, ARRAY[...]::text[].';
REVOKE ALL ON FUNCTION zodan.quote_list FROM PUBLIC;

CREATE FUNCTION zodan.quote_name(p_name text)
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

CREATE FUNCTION zodan.quote_result(p_value text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE WHEN p_value ~ '^\{(dsn|result):[^{}]*\}$' THEN p_value ELSE zodan.quote_text(p_value) END
$zodan$;
COMMENT ON FUNCTION zodan.quote_result IS
'Writes what an earlier step returned: a placeholder, as zodan.placeholder writes it, remains until the statement is
sent. Any other text becomes a literal.';
REVOKE ALL ON FUNCTION zodan.quote_result FROM PUBLIC;

CREATE FUNCTION zodan.placeholder(p_kind text, p_name text, p_field text DEFAULT NULL)
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

CREATE FUNCTION zodan.bind_placeholders(p_sql text, p_dsns jsonb, p_results jsonb)
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

CREATE FUNCTION zodan.subscription_name(p_provider text, p_subscriber text)
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

CREATE FUNCTION zodan.name_some(p_names jsonb)
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

CREATE FUNCTION zodan.copy_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_copy_' || pg_catalog.left(pg_catalog.md5(p_new), 8)
$zodan$;
COMMENT ON FUNCTION zodan.copy_name IS
'Returns the name of the subscription through which a new node is copied and catches up, until its direct streams
take over.';
REVOKE ALL ON FUNCTION zodan.copy_name FROM PUBLIC;

CREATE FUNCTION zodan.clone_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan clone ' || p_new
$zodan$;
COMMENT ON FUNCTION zodan.clone_name IS
'Returns the name of the replication origin by which a new node is known as a physical copy of its source: its position
is how far the copy goes.';
REVOKE ALL ON FUNCTION zodan.clone_name FROM PUBLIC;

CREATE FUNCTION zodan.connection_name(p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_' || pg_catalog.md5(p_node)
$zodan$;
COMMENT ON FUNCTION zodan.connection_name IS
'Returns the name of the kept connection to a node, of the same length for every node name.';
REVOKE ALL ON FUNCTION zodan.connection_name FROM PUBLIC;

CREATE FUNCTION zodan.lane_name(p_node text, p_lane int)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT p_node || pg_catalog.repeat(' ', 63) || p_lane
$zodan$;
COMMENT ON FUNCTION zodan.lane_name IS
'Returns what stands for a further session on a node wherever a node''s name does: no node has a name of so many
bytes.';
REVOKE ALL ON FUNCTION zodan.lane_name FROM PUBLIC;

CREATE FUNCTION zodan.lane_node(p_name text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT pg_catalog.split_part(p_name, pg_catalog.repeat(' ', 63), 1)
$zodan$;
COMMENT ON FUNCTION zodan.lane_node IS
'Returns the node of what zodan.lane_name returned.';
REVOKE ALL ON FUNCTION zodan.lane_node FROM PUBLIC;

CREATE FUNCTION zodan.snapshot_name(p_operation bigint, p_phase_name text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT pg_catalog.format('zodan_snapshot_%s_%s', p_operation, p_phase_name)
$zodan$;
COMMENT ON FUNCTION zodan.snapshot_name IS
'Returns the name of the connection that holds the snapshot of a step, p_phase_name, of an operation.';
REVOKE ALL ON FUNCTION zodan.snapshot_name FROM PUBLIC;

CREATE FUNCTION zodan.keeper_name(p_snapshot text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT p_snapshot || '_kept'
$zodan$;
COMMENT ON FUNCTION zodan.keeper_name IS
'Returns the name of the connection to the session that keeps the snapshot of zodan.snapshot_name.';
REVOKE ALL ON FUNCTION zodan.keeper_name FROM PUBLIC;

CREATE FUNCTION zodan.head_name(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_head_' || pg_catalog.left(pg_catalog.md5(p_slot), 16)
$zodan$;
COMMENT ON FUNCTION zodan.head_name IS
'Returns the name of the slot by which the first transaction of the stream of p_slot is found.';
REVOKE ALL ON FUNCTION zodan.head_name FROM PUBLIC;

CREATE FUNCTION zodan.structure_name(p_new text)
RETURNS text
LANGUAGE sql IMMUTABLE STRICT
AS $zodan$
SELECT 'zodan_structure_' || pg_catalog.left(pg_catalog.md5(p_new), 8)
$zodan$;
COMMENT ON FUNCTION zodan.structure_name IS
'Returns the name of the subscription through which a new node gets its structure, before its rows are copied.';
REVOKE ALL ON FUNCTION zodan.structure_name FROM PUBLIC;

CREATE FUNCTION zodan.name_session(p_purpose text, p_caller text)
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

CREATE FUNCTION zodan.name_caller(p_pid int)
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

CREATE FUNCTION zodan.judge_caller(p_session text)
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

CREATE FUNCTION zodan.set_session()
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

CREATE FUNCTION zodan.find_waits(p_caller text)
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

CREATE FUNCTION zodan.set_keeper()
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

CREATE FUNCTION zodan.keep_snapshot(p_subscription text, p_lsn text, p_kept text)
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

CREATE FUNCTION zodan.outlive_caller(p_caller text)
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

CREATE FUNCTION zodan.end_snapshots(p_subscription text)
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

CREATE FUNCTION zodan.probe(p_targets text)
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

CREATE FUNCTION zodan.copy_roles(p_source text)
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

CREATE FUNCTION zodan.read_sets(p_sets text[])
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

CREATE FUNCTION zodan.server_facts()
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

CREATE FUNCTION zodan.spock_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.jsonb_build_object(
    'node', (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id),
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

CREATE FUNCTION zodan.try_lock()
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

CREATE FUNCTION zodan.prove_unwritten(p_node text)
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

CREATE FUNCTION zodan.drop_subscription(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.sub_drop(subscription_name := %1$s, ifexists := true) AS dropped$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_subscription IS
'Drops a subscription if it exists, and with it its origin and its slot on the provider.';
REVOKE ALL ON FUNCTION zodan.drop_subscription FROM PUBLIC;

CREATE FUNCTION zodan.disable_streams()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(spock.sub_disable(s.sub_name, false)) AS disabled FROM spock.subscription AS s
    WHERE s.sub_enabled$sql$
$zodan$;
COMMENT ON FUNCTION zodan.disable_streams IS
'Disables every enabled subscription of a node. Tells their workers to end, but does not wait for them.';
REVOKE ALL ON FUNCTION zodan.disable_streams FROM PUBLIC;

CREATE FUNCTION zodan.drop_slot(p_slot text)
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

CREATE FUNCTION zodan.emit_sync_event()
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

CREATE FUNCTION zodan.forget_node(p_target text)
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

CREATE FUNCTION zodan.prove_gone(p_target text, p_origins text[], p_slots text[])
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

CREATE FUNCTION zodan.wait_applied(p_lsn text, p_provider text)
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

CREATE FUNCTION zodan.mirror_sets(p_wanted text, p_sets text[])
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

CREATE FUNCTION zodan.find_dblink()
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

CREATE FUNCTION zodan.disconnect_all()
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes every connection that Zodan keeps in this session; for zodan.close_connections. */
DECLARE
    v_connection text;
BEGIN
    FOREACH v_connection IN ARRAY coalesce(dblink_get_connections(), '{}') LOOP
        IF v_connection LIKE 'zodan\_%' THEN
            PERFORM dblink_disconnect(v_connection);
        END IF;
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.disconnect_all IS
'Closes every connection that Zodan keeps in this session; for zodan.close_connections.';
REVOKE ALL ON FUNCTION zodan.disconnect_all FROM PUBLIC;

CREATE FUNCTION zodan.close_connections()
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

CREATE FUNCTION zodan.disconnect(p_connection text)
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

CREATE FUNCTION zodan.connect(
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
    v_message text;
    v_detail text;
BEGIN
    PERFORM dblink_connect(p_connection, zodan.format_dsn(pg_catalog.jsonb_build_object(
            'connect_timeout', '10', 'keepalives_idle', '60')
        || zodan.parse_dsn(p_dsns ->> p_node) || p_settings || pg_catalog.jsonb_build_object(
            'application_name', zodan.name_session(p_purpose, zodan.name_caller(pg_catalog.pg_backend_pid())))));
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

CREATE FUNCTION zodan.close_connection(p_node text)
RETURNS void
LANGUAGE sql
AS $zodan$
SELECT zodan.disconnect(zodan.connection_name(p_node))
$zodan$;
COMMENT ON FUNCTION zodan.close_connection IS
'Closes the kept connection to a node, or a lane; harmless if there is none.';
REVOKE ALL ON FUNCTION zodan.close_connection FROM PUBLIC;

CREATE FUNCTION zodan.open_connection(p_node text, p_dsns jsonb, p_purpose text)
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

CREATE FUNCTION zodan.send_statement(p_node text, p_sql text, p_dsns jsonb, p_results jsonb)
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

CREATE FUNCTION zodan.drain_results(p_node text)
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

CREATE FUNCTION zodan.has_answer(p_node text)
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

CREATE FUNCTION zodan.fetch_result(p_node text, p_dsns jsonb)
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

CREATE FUNCTION zodan.cancel_statement(p_node text)
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

CREATE FUNCTION zodan.list_notes()
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

CREATE FUNCTION zodan.hide_statement(VARIADIC p_given text[])
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Keeps the caller's statement, which may hold connection strings, out of this server's log for the rest of the
session, because procedures commit, and may be ended at any moment. p_given is what the caller was given. If it has a
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
session, because procedures commit, and may be ended at any moment. p_given is what the caller was given. If it has a
password that this server has logged, or will log because the caller may not set that, warns of it. Every routine that
takes a connection string calls this first.';
REVOKE ALL ON FUNCTION zodan.hide_statement FROM PUBLIC;

CREATE FUNCTION zodan.wait_a_moment(p_since timestamptz DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Sleeps 0.002 s between two looks at the nodes, longer the longer nothing has happened:
p_since is when something last did. If the caller is cancelled meanwhile, it closes the kept connections first, so
that a session that lives on does not keep the cluster locked; the cancel then passes through. */
BEGIN
    PERFORM pg_catalog.pg_sleep(least(0.1, greatest(0.002,
        0.05 * extract(epoch FROM pg_catalog.clock_timestamp() - p_since)::double precision)));
EXCEPTION WHEN query_canceled THEN
    PERFORM zodan.close_connections();
    RAISE;
END
$zodan$;
COMMENT ON FUNCTION zodan.wait_a_moment IS
'Sleeps 0.002 s between two looks at the nodes, longer the longer nothing has happened:
p_since is when something last did. If the caller is cancelled meanwhile, it closes the kept connections first, so
that a session that lives on does not keep the cluster locked; the cancel then passes through.';
REVOKE ALL ON FUNCTION zodan.wait_a_moment FROM PUBLIC;

CREATE FUNCTION zodan.read_bound()
RETURNS interval
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN s.value ~ '^[0-9]+$' THEN pg_catalog.make_interval(secs => s.value::double precision)
            ELSE coalesce(s.value, '1 min')::interval END
  FROM (SELECT nullif(pg_catalog.current_setting('zodan.look_timeout', true), '') AS value) AS s
$zodan$;
COMMENT ON FUNCTION zodan.read_bound IS
'Returns how long a look at a node may take before it is cancelled: the setting zodan.look_timeout if it is set (an
interval, or a number of seconds), else 1 min.';
REVOKE ALL ON FUNCTION zodan.read_bound FROM PUBLIC;

CREATE FUNCTION zodan.find_blockers(p_node text, p_dsns jsonb, p_purpose text DEFAULT '')
RETURNS text
LANGUAGE plpgsql
AS $zodan$
/* Asks a node, through a connection of its own, what the statement under way on its kept connection waits for, or in
the session whose purpose ends with p_purpose, such as a lane: processes and prepared transactions that hold a lock, or
an event. Returns NULL if it waits for nothing, or if that cannot be asked. Raises no error except for a cancel. */
DECLARE
    v_connection text := zodan.connection_name(p_node) || ' asks';
    v_found text;
BEGIN
    PERFORM dblink_connect(v_connection,
        zodan.format_dsn('{"connect_timeout": "10"}'::jsonb
        || zodan.parse_dsn(p_dsns ->> p_node)
        || '{"application_name": "zodan asks"}'));
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

CREATE FUNCTION zodan.is_connected(p_node text)
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

CREATE FUNCTION zodan.query_nodes(
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

CREATE FUNCTION zodan.leave_snapshot(p_snapshot text)
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

CREATE FUNCTION zodan.close_snapshot(p_snapshot text)
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

CREATE FUNCTION zodan.open_snapshot(p_node text, p_snapshot text, p_dsns jsonb)
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

CREATE FUNCTION zodan.fetch_snapshot(p_snapshot text, p_dsns jsonb)
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

CREATE FUNCTION zodan.open_keeper(
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

CREATE FUNCTION zodan.read_patience()
RETURNS interval
LANGUAGE sql STABLE
AS $zodan$
SELECT CASE WHEN s.value ~ '^[0-9]+$' THEN pg_catalog.make_interval(secs => s.value::double precision)
            ELSE coalesce(s.value, '10 min')::interval END
  FROM (SELECT coalesce(nullif(pg_catalog.current_setting('zodan.sync_timeout', true), ''),
                        nullif(nullif(pg_catalog.current_setting('spock.sync_timeout', true), ''), '0')) AS value) AS s
$zodan$;
COMMENT ON FUNCTION zodan.read_patience IS
'Returns how long a wait may go without progress: the setting zodan.sync_timeout if it is set (an interval, or a
number of seconds), else Spock''s own spock.sync_timeout if that is set, else 10 min.';
REVOKE ALL ON FUNCTION zodan.read_patience FROM PUBLIC;

CREATE TYPE zodan.plan_step AS (
    phase int, phase_name text, ordinal int, ref text, kind text, group_name text, group_tries int, policy text,
    node text, object_name text, title text,
    do_sql text, done_sql text, undo_sql text, until_sql text, budget interval, units jsonb
);
COMMENT ON TYPE zodan.plan_step IS
'One step of a plan: the columns of zodan.step that are known before it runs.';

CREATE TYPE zodan.finding AS (
    key text, name text, scope text, severity text, passed boolean, observed text, required text, hint text
);
COMMENT ON TYPE zodan.finding IS
'What a check found: its key, which stays the same when the name is reworded; its name; the node or pair of nodes
that it examined; severity (fail, warn, info); whether it passed (NULL where that cannot be known); what it saw; what
is needed; and one thing to do if it did not pass.';

CREATE TYPE zodan.check_result AS (
    key text, name text, scope text, severity text, passed boolean, observed text, required text, hint text,
        verdict text
);
COMMENT ON TYPE zodan.check_result IS
'What a check found, as in zodan.finding, and the verdict on it: FAIL, WARN, INFO or PASS.';

CREATE TABLE zodan.operation (
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
COMMENT ON TABLE zodan.operation IS
'One row per operation called in this database: what was asked, of whom, and how it ended. arguments, members (node
and connection string) and checks (what was examined before it began, as zodan.checks returns it) hold no secrets.
State "running" while no session holds the locks means that the caller died; call the operation again to finish it.';
REVOKE ALL ON TABLE zodan.operation FROM PUBLIC;

CREATE TABLE zodan.step (
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
long until_sql may see no progress. units says of a step whose work is in zodan.unit how it is done: lanes, how many
sessions at a time; max_rate, how many bytes a second all of them may read, if that is limited; lane_sql, what prepares
one; unit_sql, what does one unit; snapshot, the node that each bundle of units needs a snapshot of; clear_sql, what
empties the tables of a bundle whose snapshot was lost; load_sql, a look at what that node carries; max_lag, how far a
peer may lag behind it. Of a step that compares rows, what it found is in zodan.compared, and units says: compare, the
nodes; sets, the replication sets; lanes and max_lag. waiting_for is what holds a step up, as far as it is known.';
REVOKE ALL ON TABLE zodan.step FROM PUBLIC;

CREATE TABLE zodan.sample (
    operation_id bigint NOT NULL,
    ordinal int NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp(),
    measure jsonb NOT NULL,
    PRIMARY KEY (operation_id, ordinal, taken_at),
    FOREIGN KEY (operation_id, ordinal) REFERENCES zodan.step ON DELETE CASCADE
);
COMMENT ON TABLE zodan.sample IS
'What a step measured while it waited. Of a copy: its stage, tables and bytes, done and in all, and the table under
way, what the copy is paused for, and who waits behind it. Of a comparison of rows: its stage, verify, tables, the
table under way and what it is paused for. Of a stream: lag_bytes to the position waited for. What is not known is
null. The longer the step waits, the further apart its samples lie.';
REVOKE ALL ON TABLE zodan.sample FROM PUBLIC;

CREATE TABLE zodan.unit (
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

CREATE TABLE zodan.compared (
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
COMMENT ON TABLE zodan.compared IS
'What the steps that compare rows found, by operation, the name of the step''s phase, and table. The row of number 0 is
about the table, the others about rows that are different or undecided; the other columns are those of zodan.verify.
print is a digest of what was compared: the nodes and how each has the table. A call that resumes the operation does not
compare a table again that was equal 24 h ago or less, while its print is the same.';
REVOKE ALL ON TABLE zodan.compared FROM PUBLIC;

CREATE FUNCTION zodan.start_operation(
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
           p.do_sql, p.done_sql, p.undo_sql, p.until_sql, p.budget, p.units
      FROM pg_catalog.unnest(p_plan) AS p;
    RETURN v_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.start_operation IS
'Writes a new operation and its plan to the journal and returns the operation''s number. The connection strings of
p_dsns and the earlier checks are stored without secrets.';
REVOKE ALL ON FUNCTION zodan.start_operation FROM PUBLIC;

CREATE FUNCTION zodan.find_interrupted(p_kind text, p_node text)
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

CREATE FUNCTION zodan.read_plan(p_kind text, p_node text)
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

CREATE FUNCTION zodan.finish_operation(p_operation bigint, p_state text, p_error text)
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

CREATE FUNCTION zodan.give_up_operations(p_node text, p_reason text)
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

CREATE FUNCTION zodan.replace_plan(
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
           p.do_sql, p.done_sql, p.undo_sql, p.until_sql, p.budget, p.units,
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

CREATE FUNCTION zodan.has_joined(p_operation bigint)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.bool_and(s.state = 'done'), false)
  FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'passed'
$zodan$;
COMMENT ON FUNCTION zodan.has_joined IS
'Returns whether an operation has passed all its steps of policy passed: in a replacement, the new node has joined.';
REVOKE ALL ON FUNCTION zodan.has_joined FROM PUBLIC;

CREATE FUNCTION zodan.is_final(p_operation bigint)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT EXISTS (SELECT FROM zodan.step AS s WHERE s.operation_id = p_operation AND s.policy = 'final' AND s.attempts > 0)
$zodan$;
COMMENT ON FUNCTION zodan.is_final IS
'Returns whether an operation has begun a step of policy final, and can only be finished.';
REVOKE ALL ON FUNCTION zodan.is_final FROM PUBLIC;

CREATE FUNCTION zodan.reopen_operation(p_operation bigint, p_dsns jsonb)
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

CREATE FUNCTION zodan.replace_rest(
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

CREATE FUNCTION zodan.set_arguments(p_operation bigint, p_arguments jsonb)
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

CREATE FUNCTION zodan.record_step(
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

CREATE FUNCTION zodan.record_sample(p_operation bigint, p_ordinal int, p_measure jsonb)
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

CREATE FUNCTION zodan.record_units(p_operation bigint, p_phase_name text, p_units jsonb)
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

CREATE FUNCTION zodan.set_lanes(p_operation bigint, p_jobs int)
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

CREATE FUNCTION zodan.set_limits(p_operation bigint, p_limits jsonb)
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

CREATE FUNCTION zodan.record_wait(p_operation bigint, p_ordinal int, p_waiting_for text)
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

CREATE FUNCTION zodan.gather_facts(p_dsns jsonb, p_purpose text)
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

CREATE FUNCTION zodan.known_dsns(p_facts jsonb)
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

CREATE FUNCTION zodan.local_dsns()
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

CREATE FUNCTION zodan.gather_cluster(
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

CREATE FUNCTION zodan.find_pause(
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

CREATE FUNCTION zodan.list_exchanged(p_facts jsonb, p_join jsonb)
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

CREATE FUNCTION zodan.give_verdict(p_finding zodan.finding)
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

CREATE FUNCTION zodan.check_reachable(p_facts jsonb, p_join jsonb)
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

CREATE FUNCTION zodan.make_step(
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

CREATE FUNCTION zodan.number_steps(
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

CREATE FUNCTION zodan.list_stream_names(p_leave jsonb, p_node text, p_role text)
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

CREATE PROCEDURE zodan.require_autocommit(p_procedure text, p_lasts boolean, VARIADIC p_given text[])
LANGUAGE plpgsql
AS $zodan$
/* Ends the transaction that a procedure was called in, so that it can commit between its phases, and hides what it
was given (zodan.hide_statement). With p_lasts it refuses the caller's own time limits, which would end the call in
the middle. Errors: ZD008 there is such a limit; ZD005 inside a transaction block; 2D000, from PostgreSQL itself,
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
    END IF;
    COMMIT;
END
$zodan$;
COMMENT ON PROCEDURE zodan.require_autocommit IS
'Ends the transaction that a procedure was called in, so that it can commit between its phases, and hides what it
was given (zodan.hide_statement). With p_lasts it refuses the caller''s own time limits, which would end the call in
the middle. Errors: ZD008 there is such a limit; ZD005 inside a transaction block; 2D000, from PostgreSQL itself,
where only the commit can tell: in the extended protocol an implicit transaction also begins before its statement, and
looks like a block.';
REVOKE ALL ON PROCEDURE zodan.require_autocommit FROM PUBLIC;

CREATE FUNCTION zodan.lock_members(p_dsns jsonb)
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

CREATE FUNCTION zodan.pick_steps(p_operation bigint, p_phase int, p_undo boolean)
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

CREATE FUNCTION zodan.read_results(p_operation bigint, p_steps zodan.step[])
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

CREATE TYPE zodan.job AS (
    stage text, sent boolean, found boolean, cancelled boolean, deadline timestamptz, next timestamptz, pause float8,
    since timestamptz, progress jsonb, sample jsonb, sample_due timestamptz, result jsonb, answer jsonb, blockers text,
    told_due timestamptz, told_after interval, lanes jsonb, load jsonb, looked timestamptz,
    moved timestamptz, compared jsonb
);
COMMENT ON TYPE zodan.job IS
'A step under way: its stage (check, do, until, lost, done or failed), whether the stage''s statement is under way on
the node (sent), whether the step turned out to be done already (found), whether its statement was cancelled, until
when the stage may last, when to look next and the seconds to the look after that, since when it waits, the progress
last seen, a sample due to be recorded and when the next one is due, the step''s result, the answer that failed it,
what holds it up, when to report that next and after how long, and, if its work is in zodan.unit, its lanes, what
zodan.judge_load knows of the source, when all of that was last looked at and when anything of the phase last moved; of a
comparison of rows, its state.';

CREATE FUNCTION zodan.begin_job()
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

CREATE FUNCTION zodan.take_sample(p_job zodan.job, p_seen jsonb, p_at timestamptz)
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

CREATE FUNCTION zodan.judge_wait(p_job zodan.job, p_seen jsonb, p_budget interval)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Decides what a look at a waiting step means. p_seen is the row of until_sql: ok (what it waits for has come),
trouble (why that never will, which fails at once), progress (anything; a change starts the budget again, so that the
budget is the time without progress), alive (somebody works at it, which also starts the budget again), pause (the
longest rest before the next look, in seconds), blockers (what holds it up) and measure (numbers for people, sampled).
Returns the step's job; the last look is the result of a step that has no other. */
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
trouble (why that never will, which fails at once), progress (anything; a change starts the budget again, so that the
budget is the time without progress), alive (somebody works at it, which also starts the budget again), pause (the
longest rest before the next look, in seconds), blockers (what holds it up) and measure (numbers for people, sampled).
Returns the step''s job; the last look is the result of a step that has no other.';
REVOKE ALL ON FUNCTION zodan.judge_wait FROM PUBLIC;

CREATE FUNCTION zodan.regain_node(p_operation bigint, p_node text, p_dsns jsonb)
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

CREATE FUNCTION zodan.tell_wait(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.advance_lost(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.judge_failure(p_job zodan.job, p_step zodan.step, p_answer jsonb)
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

CREATE FUNCTION zodan.advance_sent(
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

CREATE FUNCTION zodan.begin_units(p_step zodan.step, p_marks jsonb, p_kept jsonb)
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

CREATE FUNCTION zodan.receive_snapshot(p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.regain_snapshot(p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.pick_unit(p_step zodan.step)
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

CREATE FUNCTION zodan.describe_units(p_unit zodan.unit, p_stage text)
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

CREATE FUNCTION zodan.send_unit(
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
        WHEN p_unit.snapshot IS NULL THEN 'snapshot'
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
                || pg_catalog.jsonb_build_object('lane', p_lane -> 'number', 'rate',
                       coalesce((p_step.units ->> 'max_rate')::bigint / (p_step.units ->> 'lanes')::int, 0))
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

CREATE FUNCTION zodan.keep_units(p_unit zodan.unit, p_rewritten jsonb)
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

CREATE FUNCTION zodan.settle_unit(p_lane jsonb, p_step zodan.step, p_unit zodan.unit, p_answer jsonb)
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

CREATE FUNCTION zodan.lose_snapshot(p_step zodan.step)
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

CREATE FUNCTION zodan.fail_unit(
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

CREATE FUNCTION zodan.watch_snapshot(p_lane jsonb, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.watch_lane(p_lane jsonb, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.is_lane_wanted(p_lane jsonb, p_step zodan.step)
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

CREATE FUNCTION zodan.settle_readied(p_lane jsonb, p_step zodan.step, p_answer jsonb)
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

CREATE FUNCTION zodan.advance_lane(
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

CREATE FUNCTION zodan.close_lanes(p_step zodan.step)
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

CREATE FUNCTION zodan.list_positions(p_step zodan.step)
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

CREATE FUNCTION zodan.measure_units(p_step zodan.step, p_seen jsonb, p_due boolean)
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

CREATE FUNCTION zodan.look_at_units(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.tell_waiters(p_load jsonb, p_seen jsonb, p_step zodan.step)
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

CREATE FUNCTION zodan.judge_load(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
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

CREATE FUNCTION zodan.list_lanes(p_step zodan.step)
RETURNS SETOF int
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT i.number + CASE WHEN p_step.units ? 'beside' THEN (p_step.units ->> 'lanes')::int ELSE 0 END
  FROM pg_catalog.generate_series(1, (p_step.units ->> 'lanes')::int) AS i(number)
$zodan$;
COMMENT ON FUNCTION zodan.list_lanes IS
'Returns the numbers of the lanes of a step: after those of the step beside it.';
REVOKE ALL ON FUNCTION zodan.list_lanes FROM PUBLIC;

CREATE FUNCTION zodan.is_quiet(p_job zodan.job, p_step zodan.step, p_now timestamptz)
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

CREATE FUNCTION zodan.advance_units(
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

CREATE FUNCTION zodan.advance_job(
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

CREATE FUNCTION zodan.describe_failure(p_step zodan.step, p_answer jsonb)
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

CREATE FUNCTION zodan.announce_step(
    p_step zodan.step,
    p_job zodan.job,
    p_undo boolean,
    p_verbose boolean
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Reports that a step is done: a NOTICE when verbose, and its statement as DEBUG. Changes nothing. */
BEGIN
    IF p_verbose THEN
        RAISE NOTICE '% %: %', CASE WHEN p_job.found THEN '=' WHEN p_undo THEN '-' ELSE '+' END,
            p_step.ordinal, p_step.title;
    END IF;
    RAISE DEBUG 'on %: %', p_step.node, coalesce(p_step.do_sql, p_step.until_sql);
END
$zodan$;
COMMENT ON FUNCTION zodan.announce_step IS
'Reports that a step is done: a NOTICE when verbose, and its statement as DEBUG. Changes nothing.';
REVOKE ALL ON FUNCTION zodan.announce_step FROM PUBLIC;

CREATE FUNCTION zodan.meet_test_hook(p_point text, p_ordinal int)
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

CREATE FUNCTION zodan.record_look(p_step zodan.step, p_before zodan.job, p_job zodan.job)
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

CREATE PROCEDURE zodan.run_phase(
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
        PERFORM zodan.wait_a_moment(v_moved) WHERE v_moved < v_looked;
    END LOOP;
END
$zodan$;
COMMENT ON PROCEDURE zodan.run_phase IS
'Runs the steps of one phase at the same time, one connection per node, or undoes them with p_undo. Ends when all
are done, or when a step has failed and none is still under way; p_failure then says why. Commits after every line of
the journal, so that it has no open transaction while it waits.';
REVOKE ALL ON PROCEDURE zodan.run_phase FROM PUBLIC;

CREATE FUNCTION zodan.find_written(p_operation bigint, p_dsns jsonb, p_hint text)
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

CREATE PROCEDURE zodan.undo_phases(
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

CREATE FUNCTION zodan.is_hopeless(
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

CREATE PROCEDURE zodan.take_back_group(
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

CREATE PROCEDURE zodan.settle_group(
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

CREATE PROCEDURE zodan.regain_members(p_operation bigint, p_dsns jsonb, INOUT p_failure jsonb)
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

CREATE PROCEDURE zodan.retry_group(
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

CREATE PROCEDURE zodan.run_operation(
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

CREATE FUNCTION zodan.raise_failure(p_failure jsonb)
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

CREATE FUNCTION zodan.describe_checks(p_checks zodan.check_result[], p_state text)
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

CREATE FUNCTION zodan.judge_checks(p_checks zodan.check_result[])
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

CREATE FUNCTION zodan.find_dsns(
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

CREATE FUNCTION zodan.find_gone(p_operation bigint, p_facts jsonb)
RETURNS text[]
LANGUAGE sql STABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(m.name ORDER BY m.name), '{}')
  FROM zodan.operation AS o CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(o.members) AS m(name)
 WHERE o.operation_id = p_operation AND o.kind IN ('add_node', 'remove_node', 'replace_node')
   AND m.name <> o.node
   -- The old node leaves by the operation itself: it is gone before only if it is no node either.
   AND NOT (o.kind = 'replace_node' AND m.name = o.arguments ->> 'old_node_name'
       AND (zodan.is_final(o.operation_id) OR p_facts #>> ARRAY[m.name, 'spock', 'node'] = m.name))
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

CREATE FUNCTION zodan.find_came(p_operation bigint, p_facts jsonb)
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

CREATE FUNCTION zodan.pass_over(
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

CREATE FUNCTION zodan.may_be_away(p_operation bigint, p_node text)
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

CREATE FUNCTION zodan.may_be_blank(p_operation bigint, p_node text)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT p_node = CASE WHEN zodan.has_joined(p_operation) THEN o.arguments ->> 'old_node_name' ELSE o.node END
  FROM zodan.operation AS o WHERE o.operation_id = p_operation
$zodan$;
COMMENT ON FUNCTION zodan.may_be_blank IS
'Returns whether a node of an interrupted operation may be no Spock node: the one that is joining or leaving.';
REVOKE ALL ON FUNCTION zodan.may_be_blank FROM PUBLIC;

CREATE FUNCTION zodan.reopen(p_operation bigint, p_given jsonb, p_resumes boolean)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Prepares an interrupted operation to be resumed or rolled back: connects to all its nodes and takes the cluster's
lock. p_given holds connection strings by node where the cluster itself does not know them. Returns all of them by
node, the connections open. Passes over a member that has left the cluster meanwhile: with p_resumes it plans a join
again without that member. A removal continues without the nodes that cannot be reached if it is done with them: at
its end nobody may know their connection strings any longer. Errors: ZD003 a connection string leads to another node;
ZD006 no such operation, or it is done or rolled back; ZD101 a node cannot be reached; ZD112 a node joined meanwhile;
ZD113 the source is gone; ZD110 this operation is still running, or another one is. */
DECLARE
    v_operation zodan.operation;
    v_found record;
    v_dsns jsonb;
    v_gone text[];
    v_came text[];
BEGIN
    SELECT * INTO v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    IF v_operation.state IS NULL OR v_operation.state IN ('done', 'rolled back', 'given up') THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD006',
            MESSAGE = pg_catalog.format('operation %s cannot continue: %s', p_operation,
                        coalesce('it is ' || v_operation.state, 'there is no such operation in this database')),
            HINT = 'See the rows of zodan.operation for those that were interrupted.';
    END IF;
    SELECT * INTO v_found FROM zodan.find_dsns(p_operation, p_given);
    v_gone := zodan.find_gone(p_operation, v_found.p_facts);
    v_found.p_facts := v_found.p_facts - v_gone;
    v_found.p_dsns := v_found.p_dsns - v_gone;
    v_came := zodan.find_came(p_operation, v_found.p_facts);
    IF v_came <> '{}' AND p_resumes AND (v_operation.kind = 'add_node'
        OR v_operation.kind = 'replace_node' AND NOT zodan.has_joined(p_operation)) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD112',
            MESSAGE = pg_catalog.format('a node joined the cluster after operation %s began: %s', p_operation,
                pg_catalog.array_to_string(v_came, ', ')),
            HINT = pg_catalog.format('CALL zodan.rollback(%s), then call again.', p_operation);
    END IF;
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
node, the connections open. Passes over a member that has left the cluster meanwhile: with p_resumes it plans a join
again without that member. A removal continues without the nodes that cannot be reached if it is done with them: at
its end nobody may know their connection strings any longer. Errors: ZD003 a connection string leads to another node;
ZD006 no such operation, or it is done or rolled back; ZD101 a node cannot be reached; ZD112 a node joined meanwhile;
ZD113 the source is gone; ZD110 this operation is still running, or another one is.';
REVOKE ALL ON FUNCTION zodan.reopen FROM PUBLIC;

CREATE FUNCTION zodan.check_same_call(p_operation bigint, p_arguments jsonb)
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

CREATE FUNCTION zodan.show_plan(p_plan zodan.plan_step[], p_verbose boolean)
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

CREATE PROCEDURE zodan.carry_on(
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

CREATE PROCEDURE zodan.resume(
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

CREATE PROCEDURE zodan.rollback(
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
    IF NOT p_discard_writes THEN
        PERFORM zodan.raise_failure(zodan.find_written(p_operation, v_dsns, pg_catalog.format(
            'Finish the join: CALL zodan.resume(%1$s); or give the rows up: '
            'CALL zodan.rollback(%1$s, p_discard_writes => true).', p_operation) || CASE
            WHEN zodan.has_joined(p_operation)
            THEN ' Or take the new node out by spock.remove_node, which loses nothing and ends this operation.' ELSE '' END));
    END IF;
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


CREATE FUNCTION zodan.trace_facts(p_subscriptions text[])
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

CREATE FUNCTION zodan.drop_origin(p_origin text)
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

CREATE FUNCTION zodan.find_members(
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

CREATE FUNCTION zodan.find_traces(
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

CREATE FUNCTION zodan.list_orphans(p_facts jsonb, p_traces jsonb)
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

CREATE FUNCTION zodan.rescan(p_dsn text)
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

CREATE PROCEDURE zodan.mend(
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

CREATE FUNCTION zodan.topology(p_dsn text)
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


CREATE FUNCTION zodan.host_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.jsonb_build_object(
    'settings', (SELECT pg_catalog.jsonb_object_agg(s.name, CASE WHEN s.source IN ('client', 'session')
        AND s.context IN ('user', 'superuser') THEN coalesce(
                            (SELECT pg_catalog.substr(c.setting, pg_catalog.length(s.name) + 2)
                               FROM pg_catalog.pg_db_role_setting AS d
                                   CROSS JOIN LATERAL pg_catalog.unnest(d.setconfig) AS c(setting)
                              WHERE pg_catalog.starts_with(c.setting, s.name || '=')
                                AND d.setdatabase IN (0, (SELECT b.oid FROM pg_catalog.pg_database AS b
                                    WHERE b.datname = pg_catalog.current_database()))
                                AND d.setrole IN (0, (SELECT r.oid FROM pg_catalog.pg_roles AS r
                                    WHERE r.rolname = session_user))
                              ORDER BY d.setrole DESC, d.setdatabase DESC LIMIT 1),
                            (SELECT f.setting FROM pg_catalog.pg_file_settings AS f WHERE f.name = s.name AND f.applied
                                ORDER BY f.seqno DESC LIMIT 1),
                            s.boot_val) ELSE s.reset_val END) FROM pg_catalog.pg_settings AS s
                  WHERE s.name ~ '^(spock|pglogical|snowflake)\.'
                      OR s.name IN ('shared_preload_libraries', 'max_connections', 'max_locks_per_transaction',
                      'max_prepared_transactions',
                      'max_slot_wal_keep_size', 'idle_replication_slot_timeout', 'max_active_replication_origins',
                          'max_replication_slots', 'data_directory',
                      'statement_timeout', 'lock_timeout', 'transaction_timeout', 'idle_in_transaction_session_timeout',
                      'default_transaction_read_only', 'client_encoding', 'lc_monetary', 'xmloption',
                          'default_transaction_isolation')),
    'converts', (SELECT s.reset_val <> 'SQL_ASCII' AND pg_catalog.pg_char_to_encoding(s.reset_val) <> d.encoding
                   FROM pg_catalog.pg_settings AS s CROSS JOIN pg_catalog.pg_database AS d
                       WHERE s.name = 'client_encoding' AND d.datname = pg_catalog.current_database()),
    -- With its unit, as SHOW prints it.
    'pause', pg_catalog.current_setting('spock.pause_timeout', true),
    'library', (SELECT pg_catalog.regexp_replace(p.probin, '^.*/|\.so$', '', 'g') FROM pg_catalog.pg_proc AS p
                 WHERE p.pronamespace = pg_catalog.to_regnamespace('spock') AND p.probin IS NOT NULL LIMIT 1),
    'encoding', (SELECT pg_catalog.pg_encoding_to_char(d.encoding) FROM pg_catalog.pg_database AS d
        WHERE d.datname = pg_catalog.current_database()),
    'locale', (SELECT pg_catalog.jsonb_build_object('is', pg_catalog.concat_ws(' ', d.datlocprovider, d.datcollate,
        d.datctype,
                          coalesce(pg_catalog.to_jsonb(d) ->> 'datlocale', pg_catalog.to_jsonb(d) ->> 'daticulocale')),
                      'recorded', d.datcollversion, 'actual', pg_catalog.pg_database_collation_actual_version(d.oid))
                 FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database()),
    'database_settings', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.concat_ws(' ', CASE WHEN s.setrole <> 0
        THEN s.setrole::regrole::text WHEN s.setdatabase = 0 THEN 'all roles:' END, c.setting)
                                ORDER BY s.setdatabase = 0, s.setrole::regrole::text, c.setting), '[]')
                            FROM pg_catalog.pg_db_role_setting AS s
                                CROSS JOIN LATERAL pg_catalog.unnest(s.setconfig) AS c(setting)
                           WHERE (s.setdatabase, s.setrole) = (0, 0)
                               OR s.setdatabase = (SELECT d.oid FROM pg_catalog.pg_database AS d
                               WHERE d.datname = pg_catalog.current_database())),
    'clients', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity AS a
        WHERE a.backend_type = 'client backend'),
    'origins', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_origin_status AS o),
    'size', pg_catalog.pg_database_size(pg_catalog.current_database()),
    'wal_rate', (SELECT w.wal_bytes / greatest(extract(epoch FROM pg_catalog.now() - coalesce(w.stats_reset,
        pg_catalog.pg_postmaster_start_time())), 1) FROM pg_catalog.pg_stat_wal AS w),
    'transactions', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('pid %s (%s) for %s s', a.pid, a.usename,
        extract(epoch FROM pg_catalog.now() - a.xact_start)::int)), '[]')
                       FROM pg_catalog.pg_stat_activity AS a
                      WHERE a.backend_xid IS NOT NULL
                          AND a.xact_start < pg_catalog.now() - pg_catalog.make_interval(secs => 60)),
    'prepared', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('%s in database %s', x.gid, x.database)), '[]')
        FROM pg_catalog.pg_prepared_xacts AS x
                  WHERE x.prepared < pg_catalog.now() - pg_catalog.make_interval(secs => 5)),
    'slots', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', r.slot_name, 'active',
        r.active, 'status', r.wal_status,
                         'here', r.database IS NOT DISTINCT FROM pg_catalog.current_database(),
                         'held', w.place - r.restart_lsn, 'lag', w.place - r.confirmed_flush_lsn)), '[]')
                FROM pg_catalog.pg_replication_slots AS r
               CROSS JOIN (SELECT CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_receive_lsn()
                                       ELSE pg_catalog.pg_current_wal_lsn() END AS place) AS w
               WHERE NOT r.temporary),
    'tablespaces', (SELECT pg_catalog.jsonb_agg(t.spcname) FROM pg_catalog.pg_tablespace AS t),
    'role_attributes', (SELECT coalesce(pg_catalog.jsonb_object_agg(r.rolname, pg_catalog.concat_ws(' ',
                            CASE WHEN r.rolsuper THEN 'superuser' END, CASE WHEN r.rolcanlogin THEN 'login' END,
                            CASE WHEN r.rolreplication THEN 'replication' END, CASE WHEN r.rolcreatedb
                                THEN 'createdb' END,
                            CASE WHEN r.rolcreaterole THEN 'createrole' END, CASE WHEN r.rolbypassrls
                                THEN 'bypassrls' END,
                            (SELECT 'in ' || pg_catalog.string_agg(m.roleid::regrole::text, ', '
                                ORDER BY m.roleid::regrole::text)
                               FROM pg_catalog.pg_auth_members AS m WHERE m.member = r.oid))), '{}')
                          FROM pg_catalog.pg_roles AS r WHERE r.rolname !~ '^pg_'),
    'versions', (SELECT pg_catalog.jsonb_object_agg(e.name, coalesce(e.installed_version, e.default_version))
        FROM pg_catalog.pg_available_extensions AS e)
) AS facts$sql$
$zodan$;
COMMENT ON FUNCTION zodan.host_facts IS
'Reads from a server what only the health check needs: settings as a new session gets them, locale, connections,
origins, long and prepared transactions, slots, WAL written, roles, extensions on offer. It returns one row, facts, an
object, and names nothing of Spock.';
REVOKE ALL ON FUNCTION zodan.host_facts FROM PUBLIC;

CREATE FUNCTION zodan.table_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
       AND n.nspname NOT IN ('lolor', 'snowflake')),
owned AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.deptype = 'e'),
tables AS MATERIALIZED (
    SELECT c.oid, c.relkind, c.relreplident, c.relpersistence, c.reltuples,
        pg_catalog.format('%I.%I', s.nspname, c.relname) AS name,
           (SELECT pg_catalog.format('%I.%I', rs.nspname, rc.relname) FROM pg_catalog.pg_class AS rc JOIN spaces AS rs
               ON rs.oid = rc.relnamespace
             WHERE c.relispartition AND rc.oid = pg_catalog.pg_partition_root(c.oid)) AS root
      FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
     WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
       AND NOT EXISTS (SELECT FROM owned AS o WHERE o.classid = 'pg_catalog.pg_class'::regclass AND o.objid = c.oid))
SELECT pg_catalog.jsonb_build_object(
    'tables', (SELECT coalesce(pg_catalog.jsonb_object_agg(t.name, t.root), '{}') FROM tables AS t
        WHERE t.relkind = 'r' AND t.relpersistence = 'p'),
    'rows', (SELECT coalesce(pg_catalog.jsonb_object_agg(t.name, t.reltuples), '{}') FROM tables AS t
        WHERE t.relkind = 'r' AND t.relpersistence = 'p'),
    'small', (SELECT coalesce(pg_catalog.jsonb_agg(t.name), '[]') FROM tables AS t
               WHERE t.relkind = 'r' AND t.relpersistence = 'p' AND t.reltuples <= 10000
                 AND pg_catalog.pg_relation_size(t.oid) < 10000 * 1024),
    'unlogged', (SELECT coalesce(pg_catalog.jsonb_agg(t.name), '[]') FROM tables AS t WHERE t.relpersistence = 'u'),
    'unkeyed', (SELECT coalesce(pg_catalog.jsonb_agg(t.name), '[]') FROM tables AS t
                 WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                     WHERE i.indrelid = t.oid AND i.indisvalid AND i.indimmediate
                       AND (t.relreplident = 'd' AND i.indisprimary OR t.relreplident = 'i' AND i.indisreplident))),
    'types', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT y.typname), '[]')
                FROM tables AS t JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid JOIN pg_catalog.pg_type AS y
                    ON a.atttypid IN (y.oid, y.typarray)
               WHERE a.attnum > 0 AND y.typname IN ('money', 'xml') AND y.oid < 16384),
    'needed', (SELECT coalesce(pg_catalog.jsonb_object_agg(n.name, n.columns), '{}')
                 FROM (SELECT t.name, pg_catalog.array_agg(a.attname) AS columns FROM tables AS t
                     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = t.oid
                        WHERE a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull AND NOT a.atthasdef
                            AND a.attidentity = ''
                        GROUP BY t.name) AS n),
    'deferrable', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('%s (%s)', t.name, k.conname)), '[]')
                     FROM tables AS t JOIN pg_catalog.pg_constraint AS k ON k.conrelid = t.oid
                         WHERE k.contype IN ('p', 'u') AND k.condeferrable),
    'several_unique', (SELECT coalesce(pg_catalog.jsonb_agg(t.name), '[]') FROM tables AS t
                        WHERE (SELECT pg_catalog.count(*) FROM pg_catalog.pg_index AS i WHERE i.indrelid = t.oid
                            AND i.indisunique) > 1),
    'triggers', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.format('%s (%s)', t.name, g.tgname)), '[]')
                   FROM tables AS t JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = t.oid
                       WHERE g.tgenabled IN ('A', 'R') AND NOT g.tgisinternal),
    'tablespaces', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT p.spcname), '[]')
                      FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
                          JOIN pg_catalog.pg_tablespace AS p ON p.oid = c.reltablespace),
    -- What one restore locks in its transaction: relations, and the TOAST tables of some, which have an index.
    'lockable', (SELECT pg_catalog.count(*) + 2 * pg_catalog.count(nullif(c.reltoastrelid, 0))
        FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace),
    'large_objects', (SELECT pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata AS l),
    'lolor_bytes', pg_catalog.pg_relation_size(pg_catalog.to_regclass('lolor.pg_largeobject')),
    'subscriptions', (SELECT coalesce(pg_catalog.jsonb_agg(u.subname), '[]') FROM pg_catalog.pg_subscription AS u
                       WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                           WHERE d.datname = pg_catalog.current_database())),
    'sequences', (SELECT coalesce(pg_catalog.jsonb_object_agg(pg_catalog.format('%I.%I', q.schemaname, q.sequencename),
        pg_catalog.jsonb_build_object(
                             'last', q.last_value, 'step', q.increment_by, 'snowflake', EXISTS (
                                 SELECT FROM pg_catalog.pg_depend AS d JOIN pg_catalog.pg_attrdef AS f
                                     ON d.classid = 'pg_catalog.pg_attrdef'::regclass AND f.oid = d.objid
                                  WHERE d.refobjid = pg_catalog.format('%I.%I', q.schemaname, q.sequencename)::regclass
                                    AND pg_catalog.pg_get_expr(f.adbin, f.adrelid) ~ 'snowflake\.nextval'))), '{}')
                    FROM pg_catalog.pg_sequences AS q WHERE q.schemaname IN (SELECT s.nspname FROM spaces AS s))
) AS facts$sql$
$zodan$;
COMMENT ON FUNCTION zodan.table_facts IS
'Reads those of a database''s tables, sequences and other objects that matter to replication: names only, and only of
what belongs to no extension. It returns one row, facts, an object, and names nothing of Spock.';
REVOKE ALL ON FUNCTION zodan.table_facts FROM PUBLIC;

CREATE FUNCTION zodan.stream_facts(p_sets text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT (SELECT w.sets FROM (
WITH sets AS MATERIALIZED (
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
              JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace), '[]')) AS sets) AS w)
       || pg_catalog.jsonb_build_object(
    'exceptions', (SELECT coalesce(pg_catalog.jsonb_agg(x.what), '[]')
                     FROM (SELECT pg_catalog.format('%%s on %%s, %%s times', coalesce(e.operation, 'a change'),
                         coalesce(nullif(pg_catalog.concat_ws('.', e.table_schema, e.table_name), ''), 'no table'),
                         pg_catalog.count(*)) AS what
                             FROM spock.exception_log AS e
                            WHERE e.retry_errored_at > pg_catalog.now() - interval '1 days'
                            GROUP BY e.operation, e.table_schema, e.table_name) AS x)
) AS facts$sql$,
    zodan.quote_list(p_sets))
$zodan$;
COMMENT ON FUNCTION zodan.stream_facts IS
'Reads from a database with Spock what the health check examines beyond zodan.spock_facts: its replication sets
(p_sets; all if that is empty) with tables and sequences, and the tables with recent exceptions. It returns one row:
facts, an object.';
REVOKE ALL ON FUNCTION zodan.stream_facts FROM PUBLIC;

CREATE FUNCTION zodan.row_facts(p_counts text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_object_agg(c.name, c.rows), '{}') AS facts FROM %1$s AS c$sql$,
    p_counts)
$zodan$;
COMMENT ON FUNCTION zodan.row_facts IS
'Counts the rows of tables. p_counts is a query, in parentheses, with the columns name and rows: one for each table,
joined by UNION ALL. It returns one row: facts, an object of table and number.';
REVOKE ALL ON FUNCTION zodan.row_facts FROM PUBLIC;

CREATE FUNCTION zodan.copy_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(*) FILTER (WHERE pg_catalog.pg_relation_size(c.oid) > 0) AS tables,
       CASE WHEN pg_catalog.bool_or(t.cut) IS NOT TRUE THEN coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(c.oid)
           + coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0)), 0) END AS bytes
  FROM (SELECT s.set_reloid, pg_catalog.bool_and(s.set_row_filter IS NOT NULL OR s.set_att_list IS NOT NULL) AS cut
          FROM spock.replication_set_table AS s
          JOIN spock.replication_set AS r ON r.set_id = s.set_id
          JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
         GROUP BY s.set_reloid) AS t
  JOIN pg_catalog.pg_class AS c ON c.oid = t.set_reloid AND c.relkind = 'r'$sql$
$zodan$;
COMMENT ON FUNCTION zodan.copy_facts IS
'Reads, on the source, how much a copy of its replication sets will bring: tables, those that have rows, and bytes,
the size of their main files, TOAST included. bytes is NULL if a row filter or a column list leaves out an unknown
amount. It returns one row.';
REVOKE ALL ON FUNCTION zodan.copy_facts FROM PUBLIC;

CREATE FUNCTION zodan.list_user_objects()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))$sql$
$zodan$;
COMMENT ON FUNCTION zodan.list_user_objects IS
'Lists the objects of a database that the undo of a copy may drop: see zodan.drop_copied. It returns class, oid,
type and identity, and rank, the order of dropping.';
REVOKE ALL ON FUNCTION zodan.list_user_objects FROM PUBLIC;

CREATE FUNCTION zodan.object_facts()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.concat_ws(' ', u.type, u.identity)), '[]') AS facts
  FROM (SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u
 WHERE u.type NOT IN ('extension', 'language', 'default acl', 'large object')
     AND NOT (u.type = 'schema' AND u.identity = 'public')$sql$
$zodan$;
COMMENT ON FUNCTION zodan.object_facts IS
'Lists what a database has that a copy may be about to create: type and identity of every object of its own, of
whatever kind, except those that a copy creates only if they are missing. It returns one row, facts, an array.';
REVOKE ALL ON FUNCTION zodan.object_facts FROM PUBLIC;

CREATE FUNCTION zodan.structure_facts(p_objects text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH objects AS MATERIALIZED (
SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))),
spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'),
-- Functions of users, with what they are used in: an index, a check, a generated column.
used AS MATERIALIZED (
    SELECT DISTINCT p.oid, p.oid::regprocedure::text AS name, p.prosrc, p.proconfig, d.classid,
        coalesce(k.contype::text, 'i') AS kind
      FROM pg_catalog.pg_depend AS d
      JOIN pg_catalog.pg_proc AS p ON d.refclassid = 'pg_catalog.pg_proc'::regclass AND p.oid = d.refobjid
      JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang AND l.lanname NOT IN ('internal', 'c')
      LEFT JOIN pg_catalog.pg_constraint AS k ON d.classid = 'pg_catalog.pg_constraint'::regclass AND k.oid = d.objid
      LEFT JOIN pg_catalog.pg_class AS c ON d.classid = 'pg_catalog.pg_class'::regclass AND c.oid = d.objid
     WHERE (k.contype = 'c' OR c.relkind IN ('i', 'I')) AND p.oid >= 16384
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS e WHERE e.classid = 'pg_catalog.pg_proc'::regclass
           AND e.objid = p.oid AND e.deptype = 'e'))
SELECT pg_catalog.jsonb_build_object(
    'same', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.concat_ws(' ', o.type, o.identity)), '[]')
        FROM objects AS o
              WHERE pg_catalog.concat_ws(' ', o.type, o.identity) IN (SELECT x.name
                  FROM pg_catalog.jsonb_array_elements_text(%1$s::jsonb) AS x(name))),
    'extensions', (SELECT coalesce(pg_catalog.jsonb_object_agg(e.extname,
        pg_catalog.jsonb_build_object('schema', n.nspname,
                              'made', NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS o
                                  WHERE o.classid = 'pg_catalog.pg_namespace'::regclass AND o.objid = n.oid
                                  AND o.deptype = 'e'), 'used', EXISTS (
                              SELECT FROM pg_catalog.pg_depend AS m
                                JOIN pg_catalog.pg_depend AS d ON (d.refclassid, d.refobjid) = (m.classid, m.objid)
                               WHERE m.refclassid = 'pg_catalog.pg_extension'::regclass AND m.refobjid = e.oid
                                   AND m.deptype = 'e'
                                 -- Not a member itself, nor a part of one.
                                 AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS i
                                     WHERE (i.classid, i.objid) = (d.classid, d.objid)
                                     AND (i.deptype = 'e' OR i.deptype = 'i' AND EXISTS (
                                         SELECT FROM pg_catalog.pg_depend AS w
                                             WHERE (w.classid, w.objid) = (i.refclassid, i.refobjid)
                                             AND w.deptype = 'e')))))), '{}')
                     FROM pg_catalog.pg_extension AS e JOIN pg_catalog.pg_namespace AS n ON n.oid = e.extnamespace),
    'public', pg_catalog.to_regnamespace('public') IS NOT NULL,
    'in_public', EXISTS (SELECT FROM objects AS o WHERE o.type <> 'schema'
        AND pg_catalog.starts_with(o.identity, 'public.')),
    'generated', (SELECT coalesce(pg_catalog.jsonb_object_agg(g.name, g.columns), '{}')
                    FROM (SELECT pg_catalog.format('%%I.%%I', s.nspname, c.relname) AS name,
                        pg_catalog.array_agg(a.attname) AS columns
                            FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
                                JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid
                           WHERE c.relkind IN ('r', 'p') AND a.attnum > 0 AND NOT a.attisdropped
                               AND a.attgenerated <> '' GROUP BY s.nspname, c.relname) AS g),
    'partitions', (
WITH RECURSIVE partitioned AS MATERIALIZED (
    SELECT c.oid, c.relkind, pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relispartition OR c.relkind = 'p'),
-- What is hashed: the types of the keys, and of what these are made of. An expression's operator class shows its
-- type.
hashed AS (
    SELECT h.partrelid, k.type
      FROM pg_catalog.pg_partitioned_table AS h
     CROSS JOIN LATERAL (
        SELECT a.atttypid AS type FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = h.partrelid
            AND a.attnum = ANY (h.partattrs::int2[])
         UNION ALL
        SELECT o.opcintype FROM pg_catalog.pg_opclass AS o WHERE o.oid = ANY (h.partclass::oid[])) AS k
     WHERE h.partstrat = 'h'
     UNION
    SELECT h.partrelid, m.type
      FROM hashed AS h JOIN pg_catalog.pg_type AS t ON t.oid = h.type
     CROSS JOIN LATERAL (
        SELECT t.typelem AS type UNION ALL SELECT t.typbasetype
         UNION ALL SELECT r.rngsubtype FROM pg_catalog.pg_range AS r WHERE t.oid IN (r.rngtypid, r.rngmultitypid)
         UNION ALL SELECT a.atttypid FROM pg_catalog.pg_attribute AS a WHERE a.attrelid = t.typrelid
             AND a.attnum > 0) AS m)
SELECT pg_catalog.jsonb_build_object(
    'foreign', (SELECT coalesce(pg_catalog.jsonb_object_agg(c.name, (
                           SELECT pg_catalog.jsonb_agg(p.name) FROM pg_catalog.pg_partition_ancestors(c.oid) AS a(id)
                               JOIN partitioned AS p ON p.oid = a.id)), '{}')
                  FROM partitioned AS c WHERE c.relkind = 'f'),
    'hashed', (SELECT coalesce(pg_catalog.jsonb_object_agg(c.name, (
                          SELECT pg_catalog.jsonb_agg(DISTINCT p.name)
                            FROM (SELECT a.id FROM pg_catalog.pg_partition_ancestors(c.oid) AS a(id)
                                UNION ALL SELECT d.relid FROM pg_catalog.pg_partition_tree(c.oid) AS d) AS a(id)
                            JOIN partitioned AS p ON p.oid = a.id)), '{}')
                 FROM partitioned AS c
                -- The hash of these is that of an OID, which the same value does not have in another database.
                WHERE c.oid IN (SELECT h.partrelid FROM hashed AS h JOIN pg_catalog.pg_type AS t ON t.oid = h.type
                                 WHERE t.typtype = 'e' OR t.oid = 'anyenum'::regtype
                                    OR t.typnamespace = 'pg_catalog'::regnamespace AND t.typname ~ '^reg'
                                        AND t.typcategory = 'N'))
) AS facts),
    'references', (SELECT coalesce(pg_catalog.jsonb_agg(r.item), '[]') FROM (
        SELECT pg_catalog.jsonb_build_object('name', k.conname, 'table',
            pg_catalog.format('%%I.%%I', s.nspname, c.relname),
                   'refers', pg_catalog.format('%%I.%%I', f.nspname, t.relname), 'rows', c.reltuples,
                   'given', (SELECT pg_catalog.string_agg(pg_catalog.format('f.%%I IS NOT NULL', a.attname), ' AND ')
                       FROM pg_catalog.pg_attribute AS a
                              WHERE a.attrelid = c.oid AND a.attnum = ANY (k.conkey)),
                   'meets', (SELECT pg_catalog.string_agg(pg_catalog.format('r.%%I = f.%%I', b.attname, a.attname),
                       ' AND ')
                               FROM pg_catalog.generate_subscripts(k.conkey, 1) AS u(place)
                               JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.conkey[u.place]
                               JOIN pg_catalog.pg_attribute AS b ON b.attrelid = t.oid
                                   AND b.attnum = k.confkey[u.place])) AS item
          FROM pg_catalog.pg_constraint AS k
          JOIN pg_catalog.pg_class AS c ON c.oid = k.conrelid JOIN spaces AS s ON s.oid = c.relnamespace
          JOIN pg_catalog.pg_class AS t ON t.oid = k.confrelid JOIN pg_catalog.pg_namespace AS f
              ON f.oid = t.relnamespace
         WHERE k.contype = 'f' AND k.convalidated AND k.conparentid = 0) AS r),
    'peeking', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT u.name), '[]') FROM used AS u WHERE u.kind = 'c'
        AND u.prosrc ~* '\m(from|join)\M'),
    'unpinned', (SELECT coalesce(pg_catalog.jsonb_agg(DISTINCT u.name), '[]') FROM used AS u
                  WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest(u.proconfig) AS c(setting)
                      WHERE c.setting LIKE 'search_path=%%')
                    AND EXISTS (SELECT FROM pg_catalog.regexp_matches(u.prosrc,
                        '([a-z_][a-z0-9_$]*)\s*\(|\m(?:from|join)\s+([a-z_][a-z0-9_$]*)\M(?!\s*\.)', 'gi') AS m(part)
                                 WHERE m.part[2] IS NOT NULL
                                    OR EXISTS (SELECT FROM pg_catalog.pg_proc AS q
                                        WHERE q.proname = pg_catalog.lower(m.part[1])
                                        AND q.pronamespace <> 'pg_catalog'::regnamespace)))
) AS facts$sql$,
    zodan.quote_text(p_objects))
$zodan$;
COMMENT ON FUNCTION zodan.structure_facts IS
'Reads from a database what decides whether its structure can be created elsewhere. p_objects is what
zodan.object_facts returned for the database that is to have it. It returns one row: facts, an object: same (those of
p_objects that are here too), extensions (schema, whether that is made for the extension, whether anything here
depends on the extension), public, generated (columns), partitions (those that a copy or a stream cannot bring),
references (foreign keys), unpinned and peeking (functions in indexes, and in checks). It names nothing of Spock.';
REVOKE ALL ON FUNCTION zodan.structure_facts FROM PUBLIC;

CREATE FUNCTION zodan.try_structure(p_extensions text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_fault text;
    v_faults jsonb := '{}'::jsonb;
    v_extension_rows jsonb := '{}'::jsonb;
    v_name text;
    v_facts jsonb;
    v_count bigint;
    v_digest numeric;
BEGIN
    -- Only the caller needs to know of the error that ends this.
    PERFORM pg_catalog.set_config('log_min_messages', 'panic', true);
    -- What the caller has created and not committed is no fault of the database's.
    PERFORM pg_catalog.set_config('lock_timeout', '1s', true);
    BEGIN
        CREATE SCHEMA zodan_trial;
        CREATE TYPE zodan_trial.kind AS ENUM ('trial');
        CREATE TABLE zodan_trial.trial (id pg_catalog.int4 PRIMARY KEY);
        CREATE VIEW zodan_trial.looks AS SELECT t.id FROM zodan_trial.trial AS t;
        EXECUTE 'CREATE ' || 'FUNCTION zodan_trial.tries() RETURNS pg_catalog.int4 LANGUAGE sql IMMUTABLE AS ''SELECT 1''';
        CREATE INDEX trial_tries ON zodan_trial.trial ((id + 1));
        ALTER TABLE zodan_trial.trial ADD CONSTRAINT trial_check CHECK (id > 0);
        GRANT SELECT ON zodan_trial.trial TO CURRENT_USER;
        COMMENT ON TABLE zodan_trial.trial IS 'trial';
    EXCEPTION WHEN OTHERS THEN
        v_fault := SQLERRM;
    END;
    FOR v_name, v_facts IN SELECT x.key, x.value FROM pg_catalog.jsonb_each(%1$s::jsonb) AS x(key, value)
                            WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_extension AS e WHERE e.extname = x.key)
    LOOP
        BEGIN
            IF (v_facts ->> 'made')::boolean AND v_facts ->> 'schema' <> 'pg_catalog' THEN
                EXECUTE pg_catalog.format('CREATE SCHEMA IF NOT EXISTS %%I', v_facts ->> 'schema');
            END IF;
            EXECUTE pg_catalog.format('CREATE EXTENSION IF NOT EXISTS %%I SCHEMA %%I CASCADE', v_name,
                v_facts ->> 'schema');
        EXCEPTION WHEN lock_not_available THEN
            NULL;
        WHEN OTHERS THEN
            v_faults := v_faults || pg_catalog.jsonb_build_object(v_name, SQLERRM);
        END;
    END LOOP;
    FOR v_name IN SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
                    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e'
                    JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                   WHERE c.relkind = 'r' AND e.extname NOT IN ('spock', 'pglogical', 'zodan', 'lolor')
    LOOP
        EXECUTE pg_catalog.format('SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended('
            'zodan_row::text, 0)) FROM (SELECT * FROM %%s LIMIT 100000 + 1) AS zodan_row', v_name)
            INTO v_count, v_digest;
        v_extension_rows := v_extension_rows || pg_catalog.jsonb_build_object(v_name,
            CASE WHEN v_count <= 100000 THEN pg_catalog.concat_ws(' ', v_count, v_digest) END);
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'ZD000', MESSAGE = 'tried',
        DETAIL = pg_catalog.jsonb_build_object('objects', v_fault, 'extensions', v_faults,
            'extension_rows', v_extension_rows)::text;
END
$do$$sql$,
    zodan.quote_text(p_extensions))
$zodan$;
COMMENT ON FUNCTION zodan.try_structure IS
'Tries, on a new node, what a copy is about to do there: create a schema with objects of some kinds, as an event
trigger may forbid, and the extensions of p_extensions (as zodan.structure_facts returns them) that are not there.
Everything is rolled back, by an error ZD000 whose DETAIL is an object: objects (the fault, NULL where it worked),
extensions (an object of those that fail, with the fault) and extension_rows (tables of extensions, and what says
which rows these have once the extension is there).';
REVOKE ALL ON FUNCTION zodan.try_structure FROM PUBLIC;

CREATE FUNCTION zodan.try_references(p_filters text, p_references text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_filters jsonb := %1$s::jsonb;
    v_broken jsonb := '[]'::jsonb;
    v_unread jsonb := '[]'::jsonb;
    v_key record;
    v_is_broken boolean;
    v_extension_rows jsonb := '{}'::jsonb;
    v_name text;
    v_count bigint;
    v_digest numeric;
    v_end timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
BEGIN
    PERFORM pg_catalog.set_config('log_min_messages', 'panic', true);
    -- As the role that copies it: row security and triggers do not apply.
    PERFORM pg_catalog.set_config('row_security', 'off', true);
    FOR v_key IN
        SELECT k.* FROM pg_catalog.jsonb_to_recordset(%2$s::jsonb) AS k(name text, "table" text, refers text,
            given text, meets text, rows float8)
         WHERE v_filters ? k."table" ORDER BY k.rows
    LOOP
        IF v_key.rows > 5000000 OR pg_catalog.clock_timestamp() > v_end THEN
            v_unread := v_unread || pg_catalog.to_jsonb(pg_catalog.format('%%s on %%s', v_key.name, v_key."table"));
            CONTINUE;
        END IF;
        EXECUTE pg_catalog.format('SELECT EXISTS (SELECT FROM (SELECT * FROM %%1$s%%2$s) AS f WHERE %%3$s%%4$s)',
            v_key."table",
            ' WHERE ' || (v_filters ->> v_key."table"), v_key.given,
            CASE WHEN v_filters ? v_key.refers
                THEN pg_catalog.format(' AND NOT EXISTS (SELECT FROM (SELECT * FROM %%s%%s) AS r WHERE %%s)',
                v_key.refers, ' WHERE ' || (v_filters ->> v_key.refers), v_key.meets) ELSE '' END) INTO v_is_broken;
        IF v_is_broken THEN
            v_broken := v_broken || pg_catalog.to_jsonb(pg_catalog.format('%%s on %%s, to %%s', v_key.name, v_key."table",
                v_key.refers));
        END IF;
    END LOOP;
    FOR v_name IN SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname)
                    FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
                    JOIN pg_catalog.pg_depend AS d ON d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid
                        AND d.deptype = 'e'
                    JOIN pg_catalog.pg_extension AS e ON e.oid = d.refobjid
                   WHERE c.relkind = 'r' AND e.extname NOT IN ('spock', 'pglogical', 'zodan', 'lolor')
    LOOP
        EXECUTE pg_catalog.format('SELECT pg_catalog.count(*), pg_catalog.sum(pg_catalog.hashtextextended('
            'zodan_row::text, 0)) FROM (SELECT * FROM %%s LIMIT 100000 + 1) AS zodan_row', v_name)
            INTO v_count, v_digest;
        v_extension_rows := v_extension_rows || pg_catalog.jsonb_build_object(v_name,
            CASE WHEN v_count <= 100000 THEN pg_catalog.concat_ws(' ', v_count, v_digest) END);
    END LOOP;
    RAISE EXCEPTION USING ERRCODE = 'ZD000', MESSAGE = 'tried', DETAIL = pg_catalog.jsonb_build_object('broken',
        v_broken, 'unread', v_unread, 'extension_rows', v_extension_rows)::text;
END
$do$$sql$,
    zodan.quote_text(p_filters), zodan.quote_text(p_references))
$zodan$;
COMMENT ON FUNCTION zodan.try_references IS
'Finds, on the source, foreign keys that would not hold if only what is replicated is copied, and what is in tables
of extensions. p_references is what zodan.structure_facts returns, p_filters an object of published tables and their
row filter, NULL where all rows are published. Tables of more than 5000000 rows are not read,
and after 30 s no further table is. It ends with an error ZD000 whose DETAIL is an
object: broken and unread, arrays of names, and extension_rows, as zodan.try_structure returns it for the new node.';
REVOKE ALL ON FUNCTION zodan.try_references FROM PUBLIC;

CREATE FUNCTION zodan.subscription_exists(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT EXISTS (SELECT FROM spock.subscription WHERE sub_name = %1$s) AS ok$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.subscription_exists IS
'Returns whether a subscription exists where it runs; for done_sql.';
REVOKE ALL ON FUNCTION zodan.subscription_exists FROM PUBLIC;

CREATE FUNCTION zodan.wait_replicating(p_subscriptions text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(*) = pg_catalog.cardinality(%1$s)
    AND pg_catalog.bool_and(s.status = 'replicating') AS ok,
       pg_catalog.string_agg(s.subscription_name || ' ' || s.status, ', ' ORDER BY s.subscription_name) AS progress,
       pg_catalog.string_agg('subscription ' || pg_catalog.quote_ident(s.subscription_name) || ' is disabled', ', ')
           FILTER (WHERE s.status = 'disabled') AS trouble
  FROM spock.sub_show_status() AS s
 WHERE s.subscription_name::text = ANY (%1$s)$sql$,
    zodan.quote_list(p_subscriptions))
$zodan$;
COMMENT ON FUNCTION zodan.wait_replicating IS
'Returns, on a subscriber, whether all of p_subscriptions replicate; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_replicating FROM PUBLIC;

CREATE FUNCTION zodan.drop_empty_schema()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace = pg_catalog.to_regnamespace('zodan'))
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace = pg_catalog.to_regnamespace('zodan')) THEN
        DROP SCHEMA IF EXISTS zodan;
    END IF;
END
$do$$sql$
$zodan$;
COMMENT ON FUNCTION zodan.drop_empty_schema IS
'Drops the schema zodan if it is empty, that is, where Zodan is not installed.';
REVOKE ALL ON FUNCTION zodan.drop_empty_schema FROM PUBLIC;

CREATE FUNCTION zodan.create_subscription(
    p_slot text,
    p_subscription text,
    p_provider text,
    p_sets text[],
    p_forward text[],
    p_enabled text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname)
       FROM pg_catalog.pg_replication_origin AS o
      WHERE o.roname = %1$s AND NOT EXISTS (SELECT FROM spock.subscription AS s WHERE s.sub_slot_name = %1$s);
    PERFORM spock.sub_create(subscription_name := %2$s, provider_dsn := %3$s,
        replication_sets := %4$s, synchronize_structure := false, synchronize_data := false, forward_origins := %5$s,
        enabled := false);
    IF NOT EXISTS (SELECT FROM spock.subscription WHERE sub_name = %2$s AND sub_slot_name = %1$s) THEN
        RAISE EXCEPTION 'the subscription does not use the slot that was made for it';
    END IF;
    IF %6$s::boolean THEN
        PERFORM spock.sub_enable(%2$s);
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_slot), zodan.quote_text(p_subscription), zodan.placeholder('dsn', p_provider), zodan.quote_list(p_sets), zodan.quote_list(p_forward), zodan.quote_text(p_enabled))
$zodan$;
COMMENT ON FUNCTION zodan.create_subscription IS
'Creates, on a subscriber, a subscription that copies nothing and uses the slot that was made for it before. It is
created disabled, so that Spock makes no slot of its own; then its slot name is checked, and if p_enabled is true it
is enabled in the same transaction. First drops an origin of that name from an earlier life, whose position would be
taken for the new one''s; never that of a subscription that exists, because PostgreSQL does not give a position back
when the transaction fails.';
REVOKE ALL ON FUNCTION zodan.create_subscription FROM PUBLIC;

CREATE FUNCTION zodan.is_direct(p_slot text, p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_origin_status AS o WHERE o.external_id = %1$s
    AND o.remote_lsn <> '0/0')
       OR EXISTS (SELECT FROM spock.subscription AS s
                   WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %2$s) AS ok$sql$,
    zodan.quote_text(p_slot), zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.is_direct IS
'Returns whether the new node has turned to its direct streams, which stands for everything before that, or, if
p_subscription is not NULL, whether a subscription of that name exists; for done_sql. The sign of the turn is the
position of the origin of the source''s direct stream, p_slot: zodan.switch_streams sets it last and once, and nobody
moves it back by enabling or disabling a subscription.';
REVOKE ALL ON FUNCTION zodan.is_direct FROM PUBLIC;

CREATE FUNCTION zodan.read_positions(p_peers text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(
(SELECT pg_catalog.jsonb_object_agg(n.node_name, o.remote_lsn)
   FROM spock.node AS n
   JOIN spock.subscription AS s ON s.sub_origin = n.node_id
   JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
  WHERE s.sub_enabled AND n.node_name::text = ANY (%1$s)), '{}') AS positions,
       spock.sync_event(false) AS lsn$sql$,
    zodan.quote_list(p_peers))
$zodan$;
COMMENT ON FUNCTION zodan.read_positions IS
'Reads, on the paused source, how far it has applied each of p_peers, and puts a sync event behind that. It returns
one row: positions, an object of peer and LSN, and lsn, where the event is.';
REVOKE ALL ON FUNCTION zodan.read_positions FROM PUBLIC;

CREATE FUNCTION zodan.confirm_positions(p_peers text[], p_positions text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF coalesce((SELECT pg_catalog.jsonb_object_agg(n.node_name, o.remote_lsn)
   FROM spock.node AS n
   JOIN spock.subscription AS s ON s.sub_origin = n.node_id
   JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
  WHERE s.sub_enabled AND n.node_name::text = ANY (%1$s)), '{}') <> %2$s::pg_catalog.jsonb THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD303', MESSAGE = 'apply went on before the stream had ended';
    END IF;
END
$do$$sql$,
    zodan.quote_list(p_peers), zodan.quote_result(p_positions))
$zodan$;
COMMENT ON FUNCTION zodan.confirm_positions IS
'Fails with ZD303 if the source has applied anything of p_peers since zodan.read_positions returned p_positions.';
REVOKE ALL ON FUNCTION zodan.confirm_positions FROM PUBLIC;

CREATE FUNCTION zodan.wait_still(p_peers text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_last jsonb;
    v_now jsonb;
    v_same int := 0;
BEGIN
    WHILE v_same < 5 LOOP
        v_now := (SELECT pg_catalog.jsonb_object_agg(n.node_name, o.remote_lsn)
   FROM spock.node AS n
   JOIN spock.subscription AS s ON s.sub_origin = n.node_id
   JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
  WHERE s.sub_enabled AND n.node_name::text = ANY (%1$s));
        v_same := CASE WHEN v_now IS NOT DISTINCT FROM v_last THEN v_same + 1 ELSE 0 END;
        v_last := v_now;
        PERFORM pg_catalog.pg_sleep(0.02);
    END LOOP;
END
$do$$sql$,
    zodan.quote_list(p_peers))
$zodan$;
COMMENT ON FUNCTION zodan.wait_still IS
'Waits, on the paused source, until its positions in the streams of p_peers have been the same for
5 looks, 0.02 s apart. Certainty is not needed: the positions are
read again after the stream has ended.';
REVOKE ALL ON FUNCTION zodan.wait_still FROM PUBLIC;

CREATE FUNCTION zodan.wait_worker_gone(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(a.*) = 0 AS ok, pg_catalog.string_agg(a.pid::text, ', ') AS progress
  FROM spock.subscription AS s
  LEFT JOIN pg_catalog.pg_stat_activity AS a ON a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
 WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.wait_worker_gone IS
'Returns whether no apply worker of a subscription still runs on its subscriber; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_worker_gone FROM PUBLIC;

CREATE FUNCTION zodan.switch_streams(
    p_positions text,
    p_subscription text,
    p_peers text[],
    p_subscriptions text[],
    p_slot text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_positions jsonb := %1$s;
    v_peer text;
    v_slot text;
    v_source pg_catalog.pg_lsn;
BEGIN
    SELECT s.sub_slot_name INTO STRICT v_slot FROM spock.subscription AS s WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %2$s;
    -- Only a session that holds the origin for itself reads a position that no worker still moves.
    PERFORM pg_catalog.pg_replication_origin_session_setup(v_slot);
    v_source := pg_catalog.pg_replication_origin_session_progress(true);
    PERFORM pg_catalog.pg_replication_origin_session_reset();
    FOREACH v_peer IN ARRAY %3$s LOOP
        SELECT s.sub_slot_name INTO STRICT v_slot
          FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin
         WHERE n.node_name = v_peer AND NOT pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %2$s;
        IF v_positions ->> v_peer IS NULL THEN
            RAISE EXCEPTION 'the position in the stream of node %% is not known', v_peer;
        END IF;
        PERFORM pg_catalog.pg_replication_origin_advance(v_slot, (v_positions ->> v_peer)::pg_catalog.pg_lsn);
    END LOOP;
    IF v_source IS NULL THEN
        RAISE EXCEPTION 'the position of the copy is not known';
    END IF;
    PERFORM spock.sub_enable(s.sub_name)
       FROM spock.subscription AS s WHERE NOT s.sub_enabled AND s.sub_name::text = ANY (%4$s);
    PERFORM pg_catalog.pg_replication_origin_advance(%5$s, v_source);
END
$do$$sql$,
    zodan.quote_result(p_positions), zodan.quote_text(p_subscription), zodan.quote_list(p_peers), zodan.quote_list(p_subscriptions), zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.switch_streams IS
'Sets, on the new node, where each direct stream starts, and enables them all. The source''s stream starts at the
position of the copy''s subscription p_subscription, a peer''s at the position that the source has applied
(p_positions); an unknown position stops the statement, because none is ever guessed. PostgreSQL sets a position at
once and does not undo that with the transaction. So the source''s (p_slot) comes last, when all others are right: that
is the turn, and zodan.is_direct looks for it. The copy''s subscription does not become the source''s stream but is left
behind: its worker may have been stopped inside a transaction, and Spock would take that for the failure of a
transaction of this subscription and discard the transaction when it comes again.';
REVOKE ALL ON FUNCTION zodan.switch_streams FROM PUBLIC;

CREATE FUNCTION zodan.enable_streams(p_subscriptions text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(spock.sub_enable(s.sub_name)) AS enabled FROM spock.subscription AS s WHERE NOT s.sub_enabled
    AND s.sub_name::text = ANY (%1$s)$sql$,
    zodan.quote_list(p_subscriptions))
$zodan$;
COMMENT ON FUNCTION zodan.enable_streams IS
'Enables those of the subscriptions named that are disabled. Spock disables a subscription by itself after an
exception, and people do; a resumed join enables it again.';
REVOKE ALL ON FUNCTION zodan.enable_streams FROM PUBLIC;

CREATE FUNCTION zodan.start_streams(p_subscriptions text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '10 s';
BEGIN
    WHILE pg_catalog.clock_timestamp() < v_until
          AND (SELECT pg_catalog.count(*) FROM spock.sub_show_status() AS s
                WHERE s.subscription_name::text = ANY (%1$s)
                    AND s.status = 'replicating') < pg_catalog.cardinality(%1$s) LOOP
        PERFORM pg_catalog.pg_reload_conf();
        PERFORM pg_catalog.pg_sleep(0.03);
    END LOOP;
END
$do$$sql$,
    zodan.quote_list(p_subscriptions))
$zodan$;
COMMENT ON FUNCTION zodan.start_streams IS
'Has the workers of p_subscriptions started one right after the other. Left to itself, Spock''s manager checks once a
second whether the last worker it started is there, so that one stream would run seconds ahead of another, with
changes to rows that the other is still to bring; a reload of the new server''s configuration makes it check at once.
It tries for 10 s at most: the wait that follows handles a stream that does not start.';
REVOKE ALL ON FUNCTION zodan.start_streams FROM PUBLIC;

CREATE FUNCTION zodan.list_units(p_sets text[], p_lanes text, p_head text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH published AS MATERIALIZED (
    SELECT t.set_reloid::oid AS relid, pg_catalog.bool_or(t.set_att_list IS NULL) AS has_all,
           pg_catalog.array_agg(t.set_att_list::text) FILTER (WHERE t.set_att_list IS NOT NULL) AS lists,
           CASE WHEN pg_catalog.bool_and(t.set_row_filter IS NOT NULL) THEN pg_catalog.string_agg(
               DISTINCT '(' || pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) || ')', ' OR ') END AS filter
      FROM spock.replication_set_table AS t
      JOIN spock.replication_set AS r ON r.set_id = t.set_id
      JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%1$s)
     GROUP BY t.set_reloid),
leaves AS MATERIALIZED (
    SELECT p.relid, p.has_all, p.lists, p.filter FROM published AS p
    UNION ALL
    -- A root stands for those of its leaves that are in no set by themselves.
    SELECT i.relid, p.has_all, p.lists, p.filter
      FROM published AS p CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.relid) AS i
     WHERE i.isleaf AND i.relid <> p.relid AND i.relid NOT IN (SELECT o.relid FROM published AS o)),
tables AS MATERIALIZED (
    SELECT c.oid, n.nspname, c.relname, s.bytes, s.blocks, l.filter, s.toast <= 4194304 AS ahead,
           CASE WHEN NOT l.has_all THEN (SELECT pg_catalog.jsonb_agg(DISTINCT u.name)
               FROM pg_catalog.unnest(l.lists) AS w(list)
              CROSS JOIN LATERAL pg_catalog.unnest(w.list::text[]) AS u(name)) END AS columns
      FROM leaves AS l
      JOIN pg_catalog.pg_class AS c ON c.oid = l.relid AND c.relkind = 'r'
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     CROSS JOIN LATERAL (SELECT pg_catalog.pg_table_size(c.oid) AS bytes, pg_catalog.pg_relation_size(c.oid)
         / pg_catalog.current_setting('block_size')::bigint AS blocks,
         coalesce(pg_catalog.pg_relation_size(nullif(c.reltoastrelid, 0)), 0) AS toast) AS s),
sizes AS MATERIALIZED (
    SELECT least(268435456, greatest(8388608,
               pg_catalog.sum(t.bytes) / (8 * %2$s::bigint)))::bigint AS part
      FROM tables AS t),
parts AS MATERIALIZED (
    SELECT t.*, z.part, greatest(least(pg_catalog.ceil(t.bytes::numeric / z.part), t.blocks), 1)::bigint AS parts,
           greatest(t.blocks * CASE WHEN t.ahead THEN 4194304 ELSE 16777216 END
               / greatest(t.bytes, 1), 1) AS step
      FROM tables AS t CROSS JOIN sizes AS z),
pieces AS (
    SELECT pg_catalog.format('%%I.%%I', p.nspname, p.relname) AS bundle,
           pg_catalog.format('%%I.%%I', p.nspname, p.relname) || CASE WHEN p.parts > 1
               THEN pg_catalog.format(', part %%s of %%s', i.number, p.parts) ELSE '' END AS title,
           p.bytes / p.parts AS bytes, (i.number = p.parts)::int AS tables, p.bytes AS rank, i.number,
           pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object('oid', p.oid, 'schema', p.nspname,
               'name', p.relname, 'columns', p.columns, 'filter', p.filter, 'step', p.step, 'ahead', p.ahead,
               'begin', p.blocks * (i.number - 1) / p.parts, 'end', CASE WHEN i.number < p.parts
                   THEN p.blocks * i.number / p.parts END, 'last', p.blocks)) AS what
      FROM parts AS p CROSS JOIN LATERAL pg_catalog.generate_series(1, p.parts) AS i(number)
     WHERE p.bytes > p.part
    UNION ALL
    SELECT 'from ' || pg_catalog.min(b.title), CASE WHEN pg_catalog.count(*) = 1 THEN pg_catalog.min(b.title)
               ELSE pg_catalog.format('%%s tables from %%s on', pg_catalog.count(*), pg_catalog.min(b.title)) END,
           pg_catalog.sum(b.bytes)::bigint, pg_catalog.count(*)::int, pg_catalog.sum(b.bytes)::bigint, 1,
           pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', b.oid, 'schema', b.nspname, 'name', b.relname,
               'columns', b.columns, 'filter', b.filter, 'step', b.step, 'ahead', b.ahead, 'begin', 0,
               'end', NULL, 'last', b.blocks) ORDER BY b.oid)
      FROM (SELECT p.*, pg_catalog.format('%%I.%%I', p.nspname, p.relname) AS title,
                   -- A table has its price even if it has no row.
                   pg_catalog.sum(greatest(p.bytes, 40960)) OVER (ORDER BY p.bytes DESC, p.oid ASC)::bigint
                       / p.part AS batch
              FROM parts AS p WHERE p.bytes <= p.part) AS b
     GROUP BY b.batch)
SELECT coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object(
           'bundle', coalesce(CASE WHEN nullif(%3$s, '') IS NOT NULL THEN p.bundle END, 'all'), 'title', p.title,
           'bytes', p.bytes, 'tables', p.tables, 'what', p.what) ORDER BY p.rank DESC, p.title ASC, p.number ASC)
           FROM pieces AS p), '[]') AS units,
       coalesce((SELECT pg_catalog.jsonb_agg(pg_catalog.format('%%I.%%I', p.nspname, p.relname)) FROM parts AS p
           WHERE p.bytes > 4194304), '[]') AS large$sql$,
    zodan.quote_list(p_sets), zodan.quote_text(p_lanes), zodan.quote_result(p_head))
$zodan$;
COMMENT ON FUNCTION zodan.list_units IS
'Lists, on the source, what a copy of the tables of p_sets brings, in units for p_lanes lanes: a part of a large
table, a table, or a batch of small ones. It returns one row: units, an array of title, bundle (units of one bundle
have the same snapshot: the parts of a table, or, without p_head, all units), bytes, tables (how many end with it) and
what (the tables, each with its columns and row filter in the sets, and the blocks to read, up to the last where there
is no end); and large, an array of the tables that are more than one block of work, whose indexes are better built
afterwards.';
REVOKE ALL ON FUNCTION zodan.list_units FROM PUBLIC;

CREATE FUNCTION zodan.note_ddl()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.concat_ws(' ',
    CASE WHEN pg_catalog.to_regclass('spock.queue') IS NOT NULL THEN pg_catalog.substring(
        pg_catalog.query_to_xml('SELECT pg_catalog.count(*) AS n FROM spock.queue AS q'
        ' WHERE q.message #>> ''{}'' !~ ''zodan head''', false, false, '')::text,
        '<n>(\d+)</n>') END,
    (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.set_id, t.set_reloid::oid, t.set_att_list,
                t.set_row_filter::text), ',' ORDER BY t.set_id, t.set_reloid::oid))
       FROM spock.replication_set_table AS t),
    (SELECT pg_catalog.md5(pg_catalog.string_agg(i.inhrelid || ' ' || i.inhparent, ','
                ORDER BY i.inhrelid, i.inhparent))
       FROM pg_catalog.pg_inherits AS i)), '') AS ddl$sql$
$zodan$;
COMMENT ON FUNCTION zodan.note_ddl IS
'Notes, on the source, what its structure is before the copy. It returns one row: ddl, which changes with every
change of structure that Spock queues, and with the tables of the replication sets.';
REVOKE ALL ON FUNCTION zodan.note_ddl FROM PUBLIC;

CREATE FUNCTION zodan.create_publication(p_publication text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_publication AS p WHERE p.pubname = %1$s)
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger AS t WHERE t.evtenabled <> 'D') THEN
        CREATE PUBLICATION %2$s;
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_publication), zodan.quote_name(p_publication))
$zodan$;
COMMENT ON FUNCTION zodan.create_publication IS
'Makes an empty publication on a source, unless it is there: before PostgreSQL 18, zodan.find_head has to name one.
None is made where an event trigger might forbid to drop it again.';
REVOKE ALL ON FUNCTION zodan.create_publication FROM PUBLIC;

CREATE FUNCTION zodan.drop_publication(p_publication text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_publication AS p WHERE p.pubname = %1$s) THEN
        DROP PUBLICATION %2$s;
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_publication), zodan.quote_name(p_publication))
$zodan$;
COMMENT ON FUNCTION zodan.drop_publication IS
'Drops the publication that zodan.create_publication has made, if it is there.';
REVOKE ALL ON FUNCTION zodan.drop_publication FROM PUBLIC;

CREATE FUNCTION zodan.watch_head(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    PERFORM pg_catalog.pg_drop_replication_slot(r.slot_name) FROM pg_catalog.pg_replication_slots AS r
        WHERE r.slot_name = %1$s AND r.temporary AND r.active_pid = pg_catalog.pg_backend_pid();
    -- The copy needs two more: its own and that of its snapshot.
    IF (SELECT pg_catalog.count(*) FROM pg_catalog.pg_replication_slots) + 3
            <= pg_catalog.current_setting('max_replication_slots')::int
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %1$s) THEN
        PERFORM pg_catalog.pg_create_logical_replication_slot(%1$s, 'pgoutput', true);
    END IF;
EXCEPTION WHEN assert_failure THEN
    -- None is expected: this makes the block a subtransaction. Where other sessions change catalogs while the slot is
    -- made (temporary tables do), PostgreSQL comes back with the resources of the transaction, not of the statement.
    RAISE;
END
$do$$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.watch_head IS
'Makes, on the source, the temporary slot p_slot, from which zodan.find_head reads; it goes with the session. None is
made if the server has no slot to spare: then the stream of a copy can begin at its snapshot only.';
REVOKE ALL ON FUNCTION zodan.watch_head FROM PUBLIC;

CREATE FUNCTION zodan.send_head(p_slot text, p_sets text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, 'zodan head', %1$s::text);
    INSERT INTO spock.queue (queued_at, role, replication_sets, message_type, message)
    VALUES (pg_catalog.now(), 'pg_monitor', %2$s, 'Q', pg_catalog.to_json(pg_catalog.format(
            '/* zodan head */ SELECT pg_catalog.pg_advisory_lock_shared(1329984301,'
            ' pg_catalog.hashtext(o.roname)) FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = %%L',
            %1$s::text)));
END
$do$$sql$,
    zodan.quote_text(p_slot), zodan.quote_list(p_sets))
$zodan$;
COMMENT ON FUNCTION zodan.send_head IS
'Commits, on the source, the transaction with which the stream of a copy can begin: one that changes nothing, and has
the worker of the copy''s subscription, which uses the slot p_slot, take a lock that it keeps as long as it lives. The
other subscribers to p_sets find no such subscription and take none. The role is one that every server has.';
REVOKE ALL ON FUNCTION zodan.send_head FROM PUBLIC;

CREATE FUNCTION zodan.find_head(p_slot text, p_head text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH changes AS MATERIALIZED (
    SELECT p.xid::text AS xid, p.data
      FROM pg_catalog.pg_replication_slots AS r
     CROSS JOIN LATERAL pg_catalog.pg_logical_slot_peek_binary_changes(r.slot_name, NULL, NULL,
            'proto_version', '1', 'messages', 'true', 'publication_names',
            CASE WHEN pg_catalog.current_setting('server_version_num')::int < 180000 THEN %1$s ELSE '' END) AS p
     WHERE r.slot_name = %1$s AND r.temporary AND r.active_pid = pg_catalog.pg_backend_pid()
       AND (pg_catalog.current_setting('server_version_num')::int >= 180000
            OR EXISTS (SELECT FROM pg_catalog.pg_publication AS e WHERE e.pubname = %1$s))),
found AS MATERIALIZED (
    -- The record of the commit begins where the message B says; the one before it ends there at the latest.
    SELECT '0/0'::pg_catalog.pg_lsn
               + (('x' || pg_catalog.encode(pg_catalog.substring(b.data, 2, 8), 'hex'))::bit(64)::bigint - 1) AS lsn
      FROM changes AS b
     WHERE pg_catalog.get_byte(b.data, 0) = pg_catalog.ascii('B') AND b.xid IN (
           SELECT m.xid FROM changes AS m WHERE pg_catalog.get_byte(m.data, 0) = pg_catalog.ascii('M')
              AND pg_catalog.position(m.data, 'zodan head'::bytea) > 0
              AND pg_catalog.position(m.data, %2$s::bytea) > 0))
SELECT coalesce(pg_catalog.max(f.lsn)::text, '') AS lsn,
       (SELECT pg_catalog.count(pg_catalog.pg_drop_replication_slot(r.slot_name))
          FROM pg_catalog.pg_replication_slots AS r
         WHERE r.slot_name = %1$s AND r.temporary AND r.active_pid = pg_catalog.pg_backend_pid()
           AND (SELECT pg_catalog.count(*) FROM found) >= 0) AS dropped
  FROM found AS f$sql$,
    zodan.quote_text(p_slot), zodan.quote_text(p_head))
$zodan$;
COMMENT ON FUNCTION zodan.find_head IS
'Finds, on the source, where the commit of zodan.send_head is: reads the changes since zodan.watch_head from the slot
p_slot, and drops that. It returns one row: lsn, a position before that commit and after every earlier one; empty if
the slot or the publication is missing. p_head is the slot that zodan.send_head was given. Before PostgreSQL 18, there
has to be an empty publication of the name p_slot.';
REVOKE ALL ON FUNCTION zodan.find_head FROM PUBLIC;

CREATE FUNCTION zodan.prove_head(p_subscription text, p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_sub oid := (SELECT s.sub_id FROM spock.subscription AS s WHERE s.sub_name = %1$s);
BEGIN
    IF NOT EXISTS (SELECT FROM spock.local_sync_status AS l
            WHERE l.sync_subid = v_sub AND l.sync_nspname <> 'zodan unit') THEN
        RETURN;
    ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
            WHERE l.locktype = 'advisory' AND l.granted AND l.classid = 1329984301 AND l.objsubid = 2
              AND (l.objid::bigint - pg_catalog.hashtext(%2$s)) %% (1::bigint << 32) = 0
              AND l.database = (SELECT d.oid FROM pg_catalog.pg_database AS d
                  WHERE d.datname = pg_catalog.current_database())) THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD304',
            MESSAGE = 'the stream of the copy was interrupted before it had passed the positions of all tables';
    END IF;
    DELETE FROM spock.local_sync_status AS l
     WHERE l.sync_subid = v_sub AND l.sync_nspname <> 'zodan unit';
END
$do$$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.prove_head IS
'Fails with ZD304 on the new node, once its stream p_subscription (slot p_slot) has passed the positions of all
tables, if one worker has not done so from the first transaction on: Spock applies the first transaction after each
start of a worker to every table, whatever the table''s position. The worker shows that by the lock of zodan.send_head.
Tables that were all copied at one position have no positions of their own; nor have they once this is proved.';
REVOKE ALL ON FUNCTION zodan.prove_head FROM PUBLIC;

CREATE FUNCTION zodan.note_life()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.concat_ws(' ', extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
    (SELECT extract(epoch FROM w.stats_reset) FROM pg_catalog.pg_stat_wal AS w)) AS starts$sql$
$zodan$;
COMMENT ON FUNCTION zodan.note_life IS
'Notes which life of the new node''s server it is, before its stream begins. It returns one row: starts.';
REVOKE ALL ON FUNCTION zodan.note_life FROM PUBLIC;

CREATE FUNCTION zodan.confirm_clone_slot(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce((SELECT r.confirmed_flush_lsn::text FROM pg_catalog.pg_replication_slots AS r
         WHERE r.slot_name = %1$s AND r.plugin = 'spock_output' AND NOT r.active
           AND r.database = pg_catalog.current_database() AND r.wal_status IS DISTINCT FROM 'lost'), '') AS lsn,
       c.system_identifier::text AS system
  FROM pg_catalog.pg_control_system() AS c$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.confirm_clone_slot IS
'Confirms on the source that p_slot, made before a physical copy, has kept everything since. It returns one row: lsn,
its position, empty if it is missing, in use, of another kind or has lost its WAL; and system, the identifier of this
server, which a copy has too.';
REVOKE ALL ON FUNCTION zodan.confirm_clone_slot FROM PUBLIC;

CREATE FUNCTION zodan.confirm_clone(p_slot_lsn text, p_mark text, p_system text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_slot CONSTANT pg_lsn := nullif(%1$s, '')::pg_lsn;
    v_lsn pg_lsn := (SELECT nullif(s.remote_lsn, '0/0') FROM pg_catalog.pg_replication_origin_status AS s
    WHERE s.external_id = %2$s);
BEGIN
    IF v_slot IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD205', MESSAGE = 'the slot that was made before the copy is gone, in use or has lost its WAL';
    ELSIF (SELECT c.system_identifier::text FROM pg_catalog.pg_control_system() AS c) <> %3$s THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD205', MESSAGE = 'the database is no physical copy of the source';
    ELSIF v_lsn IS NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD205', MESSAGE = 'the copy does not say how far it goes';
    ELSIF v_lsn < v_slot THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD205', MESSAGE = pg_catalog.format('the copy goes to %%s only, and its slot began at %%s',
            v_lsn, v_slot);
    END IF;
END
$do$$sql$,
    zodan.quote_result(p_slot_lsn), zodan.quote_text(p_mark), zodan.quote_result(p_system))
$zodan$;
COMMENT ON FUNCTION zodan.confirm_clone IS
'Confirms that the new node is a physical copy of the server with identifier p_system, made after the slot that is at
p_slot_lsn, both placeholders for what zodan.confirm_clone_slot returned: the origin p_mark says how far it goes. Fails
with ZD205 if it cannot go on from there.';
REVOKE ALL ON FUNCTION zodan.confirm_clone FROM PUBLIC;

CREATE FUNCTION zodan.read_clone(p_mark text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT (SELECT nullif(s.remote_lsn, '0/0') FROM pg_catalog.pg_replication_origin_status AS s
    WHERE s.external_id = %1$s) AS lsn$sql$,
    zodan.quote_text(p_mark))
$zodan$;
COMMENT ON FUNCTION zodan.read_clone IS
'Reads, on the new node, how far its physical copy goes by the origin p_mark: lsn, NULL if there is none.';
REVOKE ALL ON FUNCTION zodan.read_clone FROM PUBLIC;

CREATE FUNCTION zodan.begin_clone_stream(p_subscription text, p_mark text, p_lsn text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
    v_sub record;
BEGIN
    SELECT s.sub_id, s.sub_name, s.sub_slot_name, s.sub_enabled INTO STRICT v_sub
      FROM spock.subscription AS s WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s;
    IF v_sub.sub_enabled THEN
        RETURN;
    ELSIF (SELECT nullif(s.remote_lsn, '0/0') FROM pg_catalog.pg_replication_origin_status AS s
    WHERE s.external_id = %2$s) = %3$s::pg_lsn THEN
        PERFORM pg_catalog.pg_replication_origin_advance(v_sub.sub_slot_name, %3$s::pg_lsn);
        PERFORM spock.sub_enable(v_sub.sub_name);
        PERFORM pg_catalog.pg_replication_origin_drop(%2$s);
        RETURN;
    ELSIF (SELECT nullif(s.remote_lsn, '0/0') FROM pg_catalog.pg_replication_origin_status AS s
    WHERE s.external_id = %2$s) IS NOT NULL OR NOT EXISTS (SELECT FROM pg_catalog.pg_replication_origin_status AS o
        WHERE o.external_id = v_sub.sub_slot_name AND o.remote_lsn >= %3$s::pg_lsn) THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD205', MESSAGE = 'the stream of the copy had begun, and cannot begin again';
    END IF;
    WHILE EXISTS (
        SELECT FROM spock.subscription AS s JOIN pg_catalog.pg_stat_activity AS a ON a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
         WHERE s.sub_id = v_sub.sub_id) LOOP
        IF pg_catalog.clock_timestamp() > v_until THEN
            RAISE EXCEPTION 'the worker of the disabled subscription %% does not end', v_sub.sub_name;
        END IF;
        PERFORM pg_catalog.pg_sleep(0.02);
        PERFORM pg_catalog.pg_stat_clear_snapshot();
    END LOOP;
    UPDATE spock.subscription AS s
       SET sub_name = pg_catalog.concat_ws(' ', pg_catalog.pg_current_xact_id(), %1$s)
     WHERE s.sub_id = v_sub.sub_id RETURNING s.sub_name INTO v_sub.sub_name;
    PERFORM spock.sub_enable(v_sub.sub_name);
END
$do$$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_mark), zodan.quote_result(p_lsn))
$zodan$;
COMMENT ON FUNCTION zodan.begin_clone_stream IS
'Begins, on a new node that is a physical copy, the stream of p_subscription at p_lsn, a placeholder for the position
that zodan.read_clone read; and drops p_mark, so that no stream begins a second time with the same copy. If the stream
had begun and was disabled it goes on from where it is, under a name of its own: Spock remembers the transaction in
which the worker of a name was stopped, and would discard it. Spock 5 takes a name for another that begins with it.
Harmless if the stream is enabled; fails with ZD205 if it had begun, and was undone.';
REVOKE ALL ON FUNCTION zodan.begin_clone_stream FROM PUBLIC;

CREATE FUNCTION zodan.describe_structure(p_brief text, p_exact text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_object_agg(o.name, CASE WHEN %1$s::boolean THEN pg_catalog.md5(o.definition)
           ELSE o.definition END), '{}') AS facts FROM (
WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$' AND n.nspname NOT IN ('lolor', 'snowflake')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
           AND d.objid = n.oid AND d.deptype = 'e')),
foreigners AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.deptype = 'e'),
relations AS MATERIALIZED (
    SELECT c.*, pg_catalog.format('%%I.%%I', s.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
     WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND NOT EXISTS (SELECT FROM foreigners AS f
         WHERE f.classid = 'pg_catalog.pg_class'::regclass AND f.objid = c.oid)),
types AS MATERIALIZED (
    SELECT t.*, pg_catalog.format('%%I.%%I', s.nspname, t.typname) AS name
      FROM pg_catalog.pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
     WHERE t.oid >= 16384 AND t.typtype IN ('b', 'd', 'e', 'r', 'c') AND t.typelem = 0
       AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.typrelid
           AND c.relkind = 'c'))
       AND NOT EXISTS (SELECT FROM foreigners AS f
           WHERE f.classid = 'pg_catalog.pg_type'::regclass AND f.objid = t.oid)),
columns AS MATERIALIZED (
    SELECT w.attrelid, pg_catalog.string_agg(w.words, ', ' ORDER BY w.words COLLATE "C") AS list
      FROM (SELECT a.attrelid, pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
                   pg_catalog.format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || pg_catalog.quote_ident(l.collname) END,
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                   CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                   CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE 'DEFAULT' END
                       || ' ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid)) AS words
              FROM pg_catalog.pg_attribute AS a
              JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
              JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
              LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
              LEFT JOIN pg_catalog.pg_attrdef AS f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum)
             WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped) AS w GROUP BY w.attrelid)
SELECT 'schema ' || pg_catalog.quote_ident(s.nspname) AS name, 'a schema' AS definition FROM spaces AS s
UNION ALL
SELECT 'extension ' || pg_catalog.quote_ident(e.extname), 'an extension' FROM pg_catalog.pg_extension AS e
 WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')
UNION ALL
SELECT CASE r.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
           ELSE 'table ' END || r.name, pg_catalog.concat_ws(' ', CASE WHEN r.relpersistence = 'u' THEN 'unlogged' END,
           '(' || c.list || ')',
           'PARTITION BY ' || CASE WHEN r.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(r.oid) END,
           (SELECT 'INHERITS ' || pg_catalog.string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
              FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = r.oid),
           pg_catalog.pg_get_expr(r.relpartbound, r.oid),
           CASE WHEN r.relkind IN ('r', 'p') THEN 'REPLICA IDENTITY ' || r.relreplident::text || coalesce((
               SELECT ' ' || x.relname
                 FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
                WHERE i.indrelid = r.oid AND i.indisreplident AND r.relreplident = 'i'), '') END,
           CASE WHEN r.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
           CASE WHEN r.relforcerowsecurity THEN 'FORCED' END)
  FROM relations AS r LEFT JOIN columns AS c ON c.attrelid = r.oid WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT pg_catalog.format('constraint %%I on %%s', k.conname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'not validated' END)
  FROM relations AS r JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid
 -- PostgreSQL 18 has NOT NULL as constraints too, and a constraint trigger is a trigger.
 WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT pg_catalog.format('index %%I on %%s', x.relname, r.name), pg_catalog.pg_get_indexdef(i.indexrelid)
  FROM relations AS r JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
 -- A dump leaves out an index whose building failed.
 WHERE i.indisvalid OR x.relkind = 'I'
UNION ALL
SELECT 'sequence ' || r.name, pg_catalog.format('%%s from %%s by %%s, %%s to %%s, cache %%s%%s',
           pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
           CASE WHEN q.seqcycle THEN ', cycles' END)
  FROM relations AS r JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = r.oid
UNION ALL
SELECT pg_catalog.format('trigger %%I on %%s', g.tgname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_triggerdef(g.oid), 'enabled', g.tgenabled)
  FROM relations AS r JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = r.oid
  JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
 WHERE NOT g.tgisinternal AND g.tgparentid = 0
   AND p.pronamespace NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname IN ('spock', 'pglogical'))
UNION ALL
SELECT pg_catalog.format('rule %%I on %%s', u.rulename, r.name),
       pg_catalog.concat_ws(' ', 'on', u.ev_type, 'enabled', u.ev_enabled,
           CASE WHEN u.is_instead THEN 'instead' END,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_ruledef(u.oid) END)
  FROM relations AS r JOIN pg_catalog.pg_rewrite AS u ON u.ev_class = r.oid WHERE u.rulename <> '_RETURN'
UNION ALL
SELECT pg_catalog.format('policy %%I on %%s', o.polname, r.name), pg_catalog.concat_ws(' ', 'for', o.polcmd,
           o.polpermissive,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_expr(o.polqual, o.polrelid) END,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid) END)
  FROM relations AS r JOIN pg_catalog.pg_policy AS o ON o.polrelid = r.oid
UNION ALL
SELECT 'query of ' || r.name, pg_catalog.pg_get_viewdef(r.oid)
  FROM relations AS r WHERE r.relkind IN ('v', 'm') AND %2$s::boolean
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || t.name, pg_catalog.concat_ws(' ', t.typtype,
           CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
           CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
           (SELECT pg_catalog.string_agg(pg_catalog.format('CONSTRAINT %%I %%s', k.conname,
                       pg_catalog.pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
              FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'),
           (SELECT '(' || pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', '
                       ORDER BY e.enumsortorder) || ')'
              FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid),
           (SELECT '(' || c.list || ')' FROM columns AS c WHERE c.attrelid = t.typrelid),
           (SELECT pg_catalog.format_type(n.rngsubtype, NULL)
              FROM pg_catalog.pg_range AS n WHERE n.rngtypid = t.oid))
  FROM types AS t
UNION ALL
SELECT pg_catalog.format('function %%I.%%I(%%s)', s.nspname, p.proname,
           pg_catalog.pg_get_function_identity_arguments(p.oid)),
       pg_catalog.concat_ws(' ', p.prokind, pg_catalog.pg_get_function_arguments(p.oid),
           pg_catalog.pg_get_function_result(p.oid), l.lanname, p.provolatile, p.proparallel,
           CASE WHEN p.proisstrict THEN 'strict' END,
           CASE WHEN p.prosecdef THEN 'security definer' END, CASE WHEN p.proleakproof THEN 'leakproof' END,
           p.proconfig::text, p.prosrc,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_function_sqlbody(p.oid) END,
           (SELECT pg_catalog.concat_ws(' ', a.aggtransfn::oid::regproc, a.aggfinalfn::oid::regproc,
                       pg_catalog.format_type(a.aggtranstype, NULL), a.agginitval)
              FROM pg_catalog.pg_aggregate AS a WHERE a.aggfnoid = p.oid))
  FROM pg_catalog.pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE p.oid >= 16384
   -- The functions of a range type are made with it, under other names from version to version.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
       AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
UNION ALL
SELECT u.type || ' ' || u.identity, 'an object'
  FROM (SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u
 WHERE u.classid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass,
       'pg_catalog.pg_proc'::regclass)
   AND (u.type LIKE 'operator%%' OR u.type LIKE 'text search %%' OR u.type IN ('collation', 'conversion', 'cast',
       'transform', 'access method', 'foreign-data wrapper', 'server'))) AS o$sql$,
    zodan.quote_text(p_brief), zodan.quote_text(p_exact))
$zodan$;
COMMENT ON FUNCTION zodan.describe_structure IS
'Describes the structure of a database, to compare it with another one; with p_exact, the texts of queries too. It
returns one row: facts, an object of the name of each object and its definition, or with p_brief a hash of that.';
REVOKE ALL ON FUNCTION zodan.describe_structure FROM PUBLIC;

CREATE FUNCTION zodan.prove_structure(p_objects text, p_stage text, p_exact text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_objects CONSTANT jsonb := %1$s;
    v_differing text[];
BEGIN
    IF v_objects = '{}' AND %2$s <> 'present' THEN
        RETURN;
    END IF;
    WITH published AS MATERIALIZED (
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
  FROM (SELECT DISTINCT i.relid FROM spock.replication_set_table AS t
         CROSS JOIN LATERAL (
            SELECT t.set_reloid::oid UNION ALL
            SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(t.set_reloid::oid) AS p) AS i(relid)) AS r
  JOIN pg_catalog.pg_class AS c ON c.oid = r.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
    SELECT pg_catalog.array_agg(pg_catalog.format('%%s %%s', coalesce(n.name, s.key), CASE WHEN n.name IS NULL
               THEN 'is missing here' WHEN s.value IS NULL THEN 'is missing on the source' ELSE 'differs' END)
               ORDER BY NOT pg_catalog.starts_with(coalesce(n.name, s.key), 'table '), coalesce(n.name, s.key) COLLATE "C") INTO v_differing
      FROM pg_catalog.jsonb_each_text(v_objects) AS s
      FULL JOIN (
WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$' AND n.nspname NOT IN ('lolor', 'snowflake')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
           AND d.objid = n.oid AND d.deptype = 'e')),
foreigners AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.deptype = 'e'),
relations AS MATERIALIZED (
    SELECT c.*, pg_catalog.format('%%I.%%I', s.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
     WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND NOT EXISTS (SELECT FROM foreigners AS f
         WHERE f.classid = 'pg_catalog.pg_class'::regclass AND f.objid = c.oid)),
types AS MATERIALIZED (
    SELECT t.*, pg_catalog.format('%%I.%%I', s.nspname, t.typname) AS name
      FROM pg_catalog.pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
     WHERE t.oid >= 16384 AND t.typtype IN ('b', 'd', 'e', 'r', 'c') AND t.typelem = 0
       AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.typrelid
           AND c.relkind = 'c'))
       AND NOT EXISTS (SELECT FROM foreigners AS f
           WHERE f.classid = 'pg_catalog.pg_type'::regclass AND f.objid = t.oid)),
columns AS MATERIALIZED (
    SELECT w.attrelid, pg_catalog.string_agg(w.words, ', ' ORDER BY w.words COLLATE "C") AS list
      FROM (SELECT a.attrelid, pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
                   pg_catalog.format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || pg_catalog.quote_ident(l.collname) END,
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                   CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                   CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE 'DEFAULT' END
                       || ' ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid)) AS words
              FROM pg_catalog.pg_attribute AS a
              JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
              JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
              LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
              LEFT JOIN pg_catalog.pg_attrdef AS f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum)
             WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped) AS w GROUP BY w.attrelid)
SELECT 'schema ' || pg_catalog.quote_ident(s.nspname) AS name, 'a schema' AS definition FROM spaces AS s
UNION ALL
SELECT 'extension ' || pg_catalog.quote_ident(e.extname), 'an extension' FROM pg_catalog.pg_extension AS e
 WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')
UNION ALL
SELECT CASE r.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
           ELSE 'table ' END || r.name, pg_catalog.concat_ws(' ', CASE WHEN r.relpersistence = 'u' THEN 'unlogged' END,
           '(' || c.list || ')',
           'PARTITION BY ' || CASE WHEN r.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(r.oid) END,
           (SELECT 'INHERITS ' || pg_catalog.string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
              FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = r.oid),
           pg_catalog.pg_get_expr(r.relpartbound, r.oid),
           CASE WHEN r.relkind IN ('r', 'p') THEN 'REPLICA IDENTITY ' || r.relreplident::text || coalesce((
               SELECT ' ' || x.relname
                 FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
                WHERE i.indrelid = r.oid AND i.indisreplident AND r.relreplident = 'i'), '') END,
           CASE WHEN r.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
           CASE WHEN r.relforcerowsecurity THEN 'FORCED' END)
  FROM relations AS r LEFT JOIN columns AS c ON c.attrelid = r.oid WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT pg_catalog.format('constraint %%I on %%s', k.conname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'not validated' END)
  FROM relations AS r JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid
 -- PostgreSQL 18 has NOT NULL as constraints too, and a constraint trigger is a trigger.
 WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT pg_catalog.format('index %%I on %%s', x.relname, r.name), pg_catalog.pg_get_indexdef(i.indexrelid)
  FROM relations AS r JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
 -- A dump leaves out an index whose building failed.
 WHERE i.indisvalid OR x.relkind = 'I'
UNION ALL
SELECT 'sequence ' || r.name, pg_catalog.format('%%s from %%s by %%s, %%s to %%s, cache %%s%%s',
           pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
           CASE WHEN q.seqcycle THEN ', cycles' END)
  FROM relations AS r JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = r.oid
UNION ALL
SELECT pg_catalog.format('trigger %%I on %%s', g.tgname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_triggerdef(g.oid), 'enabled', g.tgenabled)
  FROM relations AS r JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = r.oid
  JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
 WHERE NOT g.tgisinternal AND g.tgparentid = 0
   AND p.pronamespace NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname IN ('spock', 'pglogical'))
UNION ALL
SELECT pg_catalog.format('rule %%I on %%s', u.rulename, r.name),
       pg_catalog.concat_ws(' ', 'on', u.ev_type, 'enabled', u.ev_enabled,
           CASE WHEN u.is_instead THEN 'instead' END,
           CASE WHEN %3$s::boolean THEN pg_catalog.pg_get_ruledef(u.oid) END)
  FROM relations AS r JOIN pg_catalog.pg_rewrite AS u ON u.ev_class = r.oid WHERE u.rulename <> '_RETURN'
UNION ALL
SELECT pg_catalog.format('policy %%I on %%s', o.polname, r.name), pg_catalog.concat_ws(' ', 'for', o.polcmd,
           o.polpermissive,
           CASE WHEN %3$s::boolean THEN pg_catalog.pg_get_expr(o.polqual, o.polrelid) END,
           CASE WHEN %3$s::boolean THEN pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid) END)
  FROM relations AS r JOIN pg_catalog.pg_policy AS o ON o.polrelid = r.oid
UNION ALL
SELECT 'query of ' || r.name, pg_catalog.pg_get_viewdef(r.oid)
  FROM relations AS r WHERE r.relkind IN ('v', 'm') AND %3$s::boolean
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || t.name, pg_catalog.concat_ws(' ', t.typtype,
           CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
           CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
           (SELECT pg_catalog.string_agg(pg_catalog.format('CONSTRAINT %%I %%s', k.conname,
                       pg_catalog.pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
              FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'),
           (SELECT '(' || pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', '
                       ORDER BY e.enumsortorder) || ')'
              FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid),
           (SELECT '(' || c.list || ')' FROM columns AS c WHERE c.attrelid = t.typrelid),
           (SELECT pg_catalog.format_type(n.rngsubtype, NULL)
              FROM pg_catalog.pg_range AS n WHERE n.rngtypid = t.oid))
  FROM types AS t
UNION ALL
SELECT pg_catalog.format('function %%I.%%I(%%s)', s.nspname, p.proname,
           pg_catalog.pg_get_function_identity_arguments(p.oid)),
       pg_catalog.concat_ws(' ', p.prokind, pg_catalog.pg_get_function_arguments(p.oid),
           pg_catalog.pg_get_function_result(p.oid), l.lanname, p.provolatile, p.proparallel,
           CASE WHEN p.proisstrict THEN 'strict' END,
           CASE WHEN p.prosecdef THEN 'security definer' END, CASE WHEN p.proleakproof THEN 'leakproof' END,
           p.proconfig::text, p.prosrc,
           CASE WHEN %3$s::boolean THEN pg_catalog.pg_get_function_sqlbody(p.oid) END,
           (SELECT pg_catalog.concat_ws(' ', a.aggtransfn::oid::regproc, a.aggfinalfn::oid::regproc,
                       pg_catalog.format_type(a.aggtranstype, NULL), a.agginitval)
              FROM pg_catalog.pg_aggregate AS a WHERE a.aggfnoid = p.oid))
  FROM pg_catalog.pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE p.oid >= 16384
   -- The functions of a range type are made with it, under other names from version to version.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
       AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
UNION ALL
SELECT u.type || ' ' || u.identity, 'an object'
  FROM (SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u
 WHERE u.classid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass,
       'pg_catalog.pg_proc'::regclass)
   AND (u.type LIKE 'operator%%' OR u.type LIKE 'text search %%' OR u.type IN ('collation', 'conversion', 'cast',
       'transform', 'access method', 'foreign-data wrapper', 'server'))) AS n ON n.name = s.key
     WHERE s.value IS DISTINCT FROM pg_catalog.md5(n.definition)
       AND CASE WHEN s.key IS NULL THEN %2$s = 'present' AND NOT pg_catalog.starts_with(n.name, 'extension ')
                WHEN %2$s = 'copied' THEN s.value IS NOT NULL AND pg_catalog.starts_with(s.key, 'table ')
                -- What is gone on the source concerns this node only if it belongs to a table that is in its sets.
                ELSE s.value IS NOT NULL OR EXISTS (SELECT FROM published AS p
     WHERE n.name = 'table ' || p.name
        OR pg_catalog.right(n.name, pg_catalog.length(p.name) + 4) = ' on ' || p.name) END;
    IF v_differing IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = CASE %2$s WHEN 'copied' THEN 'ZD304' ELSE 'ZD114' END,
            MESSAGE = 'the structure here is not that of the source',
            DETAIL = pg_catalog.array_to_string(v_differing[:10], '; ') || CASE
                WHEN pg_catalog.cardinality(v_differing) > 10
                THEN pg_catalog.format('; and %%s more', pg_catalog.cardinality(v_differing) - 10)
                ELSE '' END || '.',
            HINT = CASE %2$s WHEN 'joined' THEN 'The source was changed during the join: change this node alike, and resume.'
                ELSE 'Make the structure equal.' END;
    END IF;
END
$do$$sql$,
    zodan.quote_result(p_objects), zodan.quote_text(p_stage), zodan.quote_text(p_exact))
$zodan$;
COMMENT ON FUNCTION zodan.prove_structure IS
'Fails with ZD114 if the structure of the new node is not that of the source, which zodan.describe_structure has
described briefly: p_objects is a placeholder for its result. The new node may have more extensions. If p_stage is not
present, p_objects is what zodan.changed_structure returned, and the new node may have anything else: it fails with
ZD304 if p_stage is copied and a table of the source is another one here, so that its changes cannot be applied; with
ZD114 if p_stage is joined and anything that changed there is not the same here.';
REVOKE ALL ON FUNCTION zodan.prove_structure FROM PUBLIC;

CREATE FUNCTION zodan.changed_structure(p_objects text, p_exact text, p_ddl text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH changed AS MATERIALIZED (
    SELECT coalesce(o.name, b.key) AS name, pg_catalog.md5(o.definition) AS hash
      FROM pg_catalog.jsonb_each_text(%1$s::jsonb) AS b
      FULL JOIN (
WITH spaces AS MATERIALIZED (
    SELECT n.oid, n.nspname FROM pg_catalog.pg_namespace AS n
     WHERE n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$' AND n.nspname NOT IN ('lolor', 'snowflake')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_namespace'::regclass
           AND d.objid = n.oid AND d.deptype = 'e')),
foreigners AS MATERIALIZED (
    SELECT d.classid, d.objid FROM pg_catalog.pg_depend AS d WHERE d.deptype = 'e'),
relations AS MATERIALIZED (
    SELECT c.*, pg_catalog.format('%%I.%%I', s.nspname, c.relname) AS name
      FROM pg_catalog.pg_class AS c JOIN spaces AS s ON s.oid = c.relnamespace
     WHERE c.oid >= 16384 AND c.relpersistence <> 't' AND NOT EXISTS (SELECT FROM foreigners AS f
         WHERE f.classid = 'pg_catalog.pg_class'::regclass AND f.objid = c.oid)),
types AS MATERIALIZED (
    SELECT t.*, pg_catalog.format('%%I.%%I', s.nspname, t.typname) AS name
      FROM pg_catalog.pg_type AS t JOIN spaces AS s ON s.oid = t.typnamespace
     WHERE t.oid >= 16384 AND t.typtype IN ('b', 'd', 'e', 'r', 'c') AND t.typelem = 0
       AND (t.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.typrelid
           AND c.relkind = 'c'))
       AND NOT EXISTS (SELECT FROM foreigners AS f
           WHERE f.classid = 'pg_catalog.pg_type'::regclass AND f.objid = t.oid)),
columns AS MATERIALIZED (
    SELECT w.attrelid, pg_catalog.string_agg(w.words, ', ' ORDER BY w.words COLLATE "C") AS list
      FROM (SELECT a.attrelid, pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
                   pg_catalog.format_type(a.atttypid, a.atttypmod),
                   CASE WHEN a.attcollation <> y.typcollation THEN 'COLLATE ' || pg_catalog.quote_ident(l.collname) END,
                   CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                   CASE WHEN a.attidentity <> '' THEN 'IDENTITY ' || a.attidentity::text END,
                   CASE WHEN a.attgenerated <> '' THEN 'GENERATED ' || a.attgenerated::text ELSE 'DEFAULT' END
                       || ' ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid)) AS words
              FROM pg_catalog.pg_attribute AS a
              JOIN pg_catalog.pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'c')
              JOIN pg_catalog.pg_type AS y ON y.oid = a.atttypid
              LEFT JOIN pg_catalog.pg_collation AS l ON l.oid = a.attcollation
              LEFT JOIN pg_catalog.pg_attrdef AS f ON (f.adrelid, f.adnum) = (a.attrelid, a.attnum)
             WHERE a.attrelid >= 16384 AND a.attnum > 0 AND NOT a.attisdropped) AS w GROUP BY w.attrelid)
SELECT 'schema ' || pg_catalog.quote_ident(s.nspname) AS name, 'a schema' AS definition FROM spaces AS s
UNION ALL
SELECT 'extension ' || pg_catalog.quote_ident(e.extname), 'an extension' FROM pg_catalog.pg_extension AS e
 WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')
UNION ALL
SELECT CASE r.relkind WHEN 'v' THEN 'view ' WHEN 'm' THEN 'materialized view ' WHEN 'f' THEN 'foreign table '
           ELSE 'table ' END || r.name, pg_catalog.concat_ws(' ', CASE WHEN r.relpersistence = 'u' THEN 'unlogged' END,
           '(' || c.list || ')',
           'PARTITION BY ' || CASE WHEN r.relkind = 'p' THEN pg_catalog.pg_get_partkeydef(r.oid) END,
           (SELECT 'INHERITS ' || pg_catalog.string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
              FROM pg_catalog.pg_inherits AS i WHERE i.inhrelid = r.oid),
           pg_catalog.pg_get_expr(r.relpartbound, r.oid),
           CASE WHEN r.relkind IN ('r', 'p') THEN 'REPLICA IDENTITY ' || r.relreplident::text || coalesce((
               SELECT ' ' || x.relname
                 FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
                WHERE i.indrelid = r.oid AND i.indisreplident AND r.relreplident = 'i'), '') END,
           CASE WHEN r.relrowsecurity THEN 'ROW LEVEL SECURITY' END,
           CASE WHEN r.relforcerowsecurity THEN 'FORCED' END)
  FROM relations AS r LEFT JOIN columns AS c ON c.attrelid = r.oid WHERE r.relkind IN ('r', 'p', 'v', 'm', 'f')
UNION ALL
SELECT pg_catalog.format('constraint %%I on %%s', k.conname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_constraintdef(k.oid), CASE WHEN NOT k.convalidated THEN 'not validated' END)
  FROM relations AS r JOIN pg_catalog.pg_constraint AS k ON k.conrelid = r.oid
 -- PostgreSQL 18 has NOT NULL as constraints too, and a constraint trigger is a trigger.
 WHERE k.contype IN ('c', 'f', 'p', 'u', 'x')
UNION ALL
SELECT pg_catalog.format('index %%I on %%s', x.relname, r.name), pg_catalog.pg_get_indexdef(i.indexrelid)
  FROM relations AS r JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid
  JOIN pg_catalog.pg_class AS x ON x.oid = i.indexrelid
 -- A dump leaves out an index whose building failed.
 WHERE i.indisvalid OR x.relkind = 'I'
UNION ALL
SELECT 'sequence ' || r.name, pg_catalog.format('%%s from %%s by %%s, %%s to %%s, cache %%s%%s',
           pg_catalog.format_type(q.seqtypid, NULL), q.seqstart, q.seqincrement, q.seqmin, q.seqmax, q.seqcache,
           CASE WHEN q.seqcycle THEN ', cycles' END)
  FROM relations AS r JOIN pg_catalog.pg_sequence AS q ON q.seqrelid = r.oid
UNION ALL
SELECT pg_catalog.format('trigger %%I on %%s', g.tgname, r.name), pg_catalog.concat_ws(' ',
           pg_catalog.pg_get_triggerdef(g.oid), 'enabled', g.tgenabled)
  FROM relations AS r JOIN pg_catalog.pg_trigger AS g ON g.tgrelid = r.oid
  JOIN pg_catalog.pg_proc AS p ON p.oid = g.tgfoid
 WHERE NOT g.tgisinternal AND g.tgparentid = 0
   AND p.pronamespace NOT IN (SELECT n.oid FROM pg_catalog.pg_namespace AS n WHERE n.nspname IN ('spock', 'pglogical'))
UNION ALL
SELECT pg_catalog.format('rule %%I on %%s', u.rulename, r.name),
       pg_catalog.concat_ws(' ', 'on', u.ev_type, 'enabled', u.ev_enabled,
           CASE WHEN u.is_instead THEN 'instead' END,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_ruledef(u.oid) END)
  FROM relations AS r JOIN pg_catalog.pg_rewrite AS u ON u.ev_class = r.oid WHERE u.rulename <> '_RETURN'
UNION ALL
SELECT pg_catalog.format('policy %%I on %%s', o.polname, r.name), pg_catalog.concat_ws(' ', 'for', o.polcmd,
           o.polpermissive,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_expr(o.polqual, o.polrelid) END,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_expr(o.polwithcheck, o.polrelid) END)
  FROM relations AS r JOIN pg_catalog.pg_policy AS o ON o.polrelid = r.oid
UNION ALL
SELECT 'query of ' || r.name, pg_catalog.pg_get_viewdef(r.oid)
  FROM relations AS r WHERE r.relkind IN ('v', 'm') AND %2$s::boolean
UNION ALL
SELECT CASE t.typtype WHEN 'd' THEN 'domain ' ELSE 'type ' END || t.name, pg_catalog.concat_ws(' ', t.typtype,
           CASE WHEN t.typtype = 'd' THEN pg_catalog.format_type(t.typbasetype, t.typtypmod) END,
           CASE WHEN t.typnotnull THEN 'NOT NULL' END, 'DEFAULT ' || t.typdefault,
           (SELECT pg_catalog.string_agg(pg_catalog.format('CONSTRAINT %%I %%s', k.conname,
                       pg_catalog.pg_get_constraintdef(k.oid)), ' ' ORDER BY k.conname)
              FROM pg_catalog.pg_constraint AS k WHERE k.contypid = t.oid AND k.contype = 'c'),
           (SELECT '(' || pg_catalog.string_agg(pg_catalog.quote_literal(e.enumlabel), ', '
                       ORDER BY e.enumsortorder) || ')'
              FROM pg_catalog.pg_enum AS e WHERE e.enumtypid = t.oid),
           (SELECT '(' || c.list || ')' FROM columns AS c WHERE c.attrelid = t.typrelid),
           (SELECT pg_catalog.format_type(n.rngsubtype, NULL)
              FROM pg_catalog.pg_range AS n WHERE n.rngtypid = t.oid))
  FROM types AS t
UNION ALL
SELECT pg_catalog.format('function %%I.%%I(%%s)', s.nspname, p.proname,
           pg_catalog.pg_get_function_identity_arguments(p.oid)),
       pg_catalog.concat_ws(' ', p.prokind, pg_catalog.pg_get_function_arguments(p.oid),
           pg_catalog.pg_get_function_result(p.oid), l.lanname, p.provolatile, p.proparallel,
           CASE WHEN p.proisstrict THEN 'strict' END,
           CASE WHEN p.prosecdef THEN 'security definer' END, CASE WHEN p.proleakproof THEN 'leakproof' END,
           p.proconfig::text, p.prosrc,
           CASE WHEN %2$s::boolean THEN pg_catalog.pg_get_function_sqlbody(p.oid) END,
           (SELECT pg_catalog.concat_ws(' ', a.aggtransfn::oid::regproc, a.aggfinalfn::oid::regproc,
                       pg_catalog.format_type(a.aggtranstype, NULL), a.agginitval)
              FROM pg_catalog.pg_aggregate AS a WHERE a.aggfnoid = p.oid))
  FROM pg_catalog.pg_proc AS p JOIN spaces AS s ON s.oid = p.pronamespace
  JOIN pg_catalog.pg_language AS l ON l.oid = p.prolang WHERE p.oid >= 16384
   -- The functions of a range type are made with it, under other names from version to version.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d WHERE d.classid = 'pg_catalog.pg_proc'::regclass
       AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
UNION ALL
SELECT u.type || ' ' || u.identity, 'an object'
  FROM (SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u
 WHERE u.classid NOT IN ('pg_catalog.pg_class'::regclass, 'pg_catalog.pg_type'::regclass,
       'pg_catalog.pg_proc'::regclass)
   AND (u.type LIKE 'operator%%' OR u.type LIKE 'text search %%' OR u.type IN ('collation', 'conversion', 'cast',
       'transform', 'access method', 'foreign-data wrapper', 'server'))) AS o ON o.name = b.key
     WHERE b.value IS DISTINCT FROM pg_catalog.md5(o.definition)),
published AS MATERIALIZED (
SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name
  FROM (SELECT DISTINCT i.relid FROM spock.replication_set_table AS t
         CROSS JOIN LATERAL (
            SELECT t.set_reloid::oid UNION ALL
            SELECT p.relid::oid FROM pg_catalog.pg_partition_tree(t.set_reloid::oid) AS p) AS i(relid)) AS r
  JOIN pg_catalog.pg_class AS c ON c.oid = r.relid
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace)
SELECT coalesce(pg_catalog.jsonb_object_agg(n.name, n.hash), '{}') AS facts
  FROM changed AS n
 WHERE (n.hash IS NULL OR EXISTS (SELECT FROM published AS p
     WHERE n.name = 'table ' || p.name
        OR pg_catalog.right(n.name, pg_catalog.length(p.name) + 4) = ' on ' || p.name))
   AND coalesce(nullif(pg_catalog.split_part(%3$s, ' ', 1), '')
           = pg_catalog.split_part(pg_catalog.concat_ws(' ',
    CASE WHEN pg_catalog.to_regclass('spock.queue') IS NOT NULL THEN pg_catalog.substring(
        pg_catalog.query_to_xml('SELECT pg_catalog.count(*) AS n FROM spock.queue AS q'
        ' WHERE q.message #>> ''{}'' !~ ''zodan head''', false, false, '')::text,
        '<n>(\d+)</n>') END,
    (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.set_id, t.set_reloid::oid, t.set_att_list,
                t.set_row_filter::text), ',' ORDER BY t.set_id, t.set_reloid::oid))
       FROM spock.replication_set_table AS t),
    (SELECT pg_catalog.md5(pg_catalog.string_agg(i.inhrelid || ' ' || i.inhparent, ','
                ORDER BY i.inhrelid, i.inhparent))
       FROM pg_catalog.pg_inherits AS i)), ' ', 1), true)$sql$,
    zodan.quote_result(p_objects), zodan.quote_text(p_exact), zodan.quote_result(p_ddl))
$zodan$;
COMMENT ON FUNCTION zodan.changed_structure IS
'Tells, on the source, what has changed of the tables in its replication sets since zodan.describe_structure described
it briefly, p_objects is a placeholder for that. It returns one row: facts, an object of the name of each object that
has changed, and a hash of its definition; and those that are gone, of any table, with null. With p_ddl, a placeholder
for what zodan.note_ddl returned before, it has no object if Spock queued a change of structure since: that may be on
its way.';
REVOKE ALL ON FUNCTION zodan.changed_structure FROM PUBLIC;

CREATE FUNCTION zodan.list_filled()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_agg(t.name ORDER BY t.name COLLATE "C"), '[]') AS facts
  FROM (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name
          FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'r' AND c.relpersistence <> 't'
           AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
           AND pg_catalog.pg_relation_size(c.oid) > 0
         OFFSET 0) AS t
 WHERE pg_catalog.query_to_xml(pg_catalog.format('SELECT 1 AS x FROM ONLY %s LIMIT 1', t.name), false, true,
     '')::text <> ''$sql$
$zodan$;
COMMENT ON FUNCTION zodan.list_filled IS
'Lists the tables of a database that have rows, but none of an extension''s, of Spock''s or of Zodan''s. It returns one
row: facts, an array of names.';
REVOKE ALL ON FUNCTION zodan.list_filled FROM PUBLIC;

CREATE FUNCTION zodan.empty_tables(p_node text, p_identity text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_tables text;
    v_view regclass;
BEGIN
    IF (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id) IS DISTINCT
        FROM %1$s THEN
        RETURN;
    ELSIF %2$s <> pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    pg_catalog.current_setting('data_directory'),
    (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())) THEN
        RAISE EXCEPTION 'this is not the database that the copy went to';
    END IF;
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    SELECT pg_catalog.string_agg(pg_catalog.format('ONLY %%I.%%I', n.nspname, c.relname), ', ') INTO v_tables
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
       AND (pg_catalog.pg_relation_size(c.oid) > 0 OR EXISTS (
            SELECT FROM pg_catalog.pg_index AS i WHERE i.indrelid = c.oid AND NOT i.indisvalid));
    IF v_tables IS NOT NULL THEN
        -- All that is referred to is empty before and after; CASCADE only lets PostgreSQL accept the order.
        EXECUTE 'TRUNCATE ' || v_tables || ' CASCADE';
    END IF;
    FOR v_view IN
        SELECT c.oid::regclass FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
         WHERE c.relkind = 'm' AND c.relispopulated AND pg_catalog.pg_relation_size(c.oid) > 0
           AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
    LOOP
        EXECUTE pg_catalog.format('REFRESH MATERIALIZED VIEW %%s WITH NO DATA', v_view);
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_node), zodan.quote_result(p_identity))
$zodan$;
COMMENT ON FUNCTION zodan.empty_tables IS
'Undoes a copy into a structure that was there before: empties the tables, as they were, and the materialized views.
This also builds the indexes that were set aside. It acts only in the very database that p_identity (a placeholder for
a result of zodan.note_objects) names, and only while that is node p_node, as it was when the copy came; anywhere else
it empties nothing.';
REVOKE ALL ON FUNCTION zodan.empty_tables FROM PUBLIC;

CREATE FUNCTION zodan.set_indexes_aside(p_tables text, p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    UPDATE pg_catalog.pg_index AS i SET indisvalid = false, indisready = false
      FROM pg_catalog.jsonb_array_elements_text(%1$s::pg_catalog.jsonb) AS t(name)
     WHERE i.indrelid = pg_catalog.to_regclass(t.name) AND i.indisvalid
       -- Not again once a unit is done: of a copy that goes on, some may have been built.
       AND NOT EXISTS (SELECT FROM spock.local_sync_status AS m JOIN spock.subscription AS s ON s.sub_id = m.sync_subid
                        WHERE s.sub_name = %2$s AND (s.sub_enabled OR m.sync_nspname = 'zodan unit'));
END
$do$$sql$,
    zodan.quote_result(p_tables), zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.set_indexes_aside IS
'Sets the indexes of p_tables (an array of names, a placeholder) on the new node aside, those of keys too: while
these tables are being filled, no row is written to their indexes, and each is built from the whole table afterwards.
To PostgreSQL such an index is one whose building was begun; REINDEX ends it. Nothing of its definition is lost, as
it would be if the index were dropped. See docs/explanation/protocol.md.';
REVOKE ALL ON FUNCTION zodan.set_indexes_aside FROM PUBLIC;

CREATE FUNCTION zodan.list_indexes()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('bundle', i.name, 'title', 'index ' || i.name,
           'bytes', i.bytes, 'tables', 0, 'what', i.name, 'follows', i.follows)
           ORDER BY i.bytes DESC, i.name ASC), '[]') AS units
  FROM (SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name,
               pg_catalog.pg_table_size(x.indrelid) AS bytes,
               pg_catalog.format('%I.%I', t.nspname, r.relname) AS follows
          FROM pg_catalog.pg_index AS x
          JOIN pg_catalog.pg_class AS c ON c.oid = x.indexrelid AND c.relkind = 'i'
          JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
          JOIN pg_catalog.pg_class AS r ON r.oid = x.indrelid
          JOIN pg_catalog.pg_namespace AS t ON t.oid = r.relnamespace
         WHERE NOT x.indisready AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$') AS i$sql$
$zodan$;
COMMENT ON FUNCTION zodan.list_indexes IS
'Lists the indexes that zodan.set_indexes_aside set aside, as zodan.list_units lists what is to be copied: those of
the largest tables first, each with the table that it follows. It returns one row: units.';
REVOKE ALL ON FUNCTION zodan.list_indexes FROM PUBLIC;

CREATE FUNCTION zodan.look_at_copy(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH RECURSIVE
relations AS MATERIALIZED (
    SELECT c.oid AS relid, c.reltoastrelid
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'p'
       AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$' AND n.nspname NOT IN ('lolor', 'snowflake')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
files AS (
    SELECT f.relid, f.path, 0 AS number, (SELECT s.size FROM pg_catalog.pg_stat_file(f.path, true) AS s) AS size
      FROM (SELECT r.relid, pg_catalog.pg_relation_filepath(p.relid) AS path
              FROM relations AS r CROSS JOIN LATERAL (VALUES (r.relid), (r.reltoastrelid)) AS p(relid)) AS f
    UNION ALL
    -- A full file has another after it.
    SELECT f.relid, f.path, f.number + 1, (SELECT s.size
        FROM pg_catalog.pg_stat_file(f.path || '.' || (f.number + 1), true) AS s)
      FROM files AS f WHERE f.size = pg_catalog.pg_size_bytes(pg_catalog.current_setting('segment_size')))
SELECT coalesce((SELECT pg_catalog.jsonb_object_agg(m.sync_relname, m.sync_statuslsn)
           FROM spock.local_sync_status AS m JOIN spock.subscription AS s ON s.sub_id = m.sync_subid
          WHERE s.sub_name = %1$s AND m.sync_nspname = 'zodan unit'), '{}') AS marks,
       (SELECT coalesce(pg_catalog.sum(f.size), 0) FROM files AS f) AS bytes$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.look_at_copy IS
'Looks, on the new node, at how far the copy p_subscription is; for until_sql. It returns one row: marks, an object of
unit and position, the units that it has, since each leaves its mark in the transaction that copies it; and bytes, the
size of all files of tables, in which the rows of a unit can be seen before it is done.';
REVOKE ALL ON FUNCTION zodan.look_at_copy FROM PUBLIC;

CREATE FUNCTION zodan.read_load(p_subscription text, p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH RECURSIVE lanes AS MATERIALIZED (
    SELECT a.pid, pg_catalog.substr(a.application_name, pg_catalog.length(%1$s) + 2) AS lane
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = pg_catalog.current_database()
       AND pg_catalog.starts_with(a.application_name, %1$s || ' ')),
waiting AS MATERIALIZED (
    SELECT a.pid, extract(epoch FROM a.backend_start) AS began, a.query_start,
           pg_catalog.concat_ws(', ', a.usename, coalesce(nullif(a.application_name, ''), a.backend_type)) AS who,
           pg_catalog.pg_blocking_pids(a.pid) AS blockers
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.wait_event_type = 'Lock' AND a.datname = pg_catalog.current_database()
       AND EXISTS (SELECT FROM lanes AS l)),
stuck AS (
    SELECT w.pid, l.lane, true AS is_next FROM lanes AS l JOIN waiting AS w ON l.pid = ANY (w.blockers)
    UNION
    SELECT w.pid, NULL, false FROM stuck AS s JOIN waiting AS w ON s.pid = ANY (w.blockers))
SELECT pg_catalog.pg_current_wal_lsn() AS lsn,
       (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', h.slot_name, 'own', h.own,
                   'active', h.active, 'part', pg_catalog.round(100 * h.held / h.kept))
                   ORDER BY h.held DESC, h.slot_name ASC), '[]')
          FROM (SELECT r.slot_name, r.active, r.slot_name = %2$s OR r.temporary
                           AND pg_catalog.starts_with(r.slot_name, 'zodan_') AS own,
                       pg_catalog.pg_wal_lsn_diff(pg_catalog.pg_current_wal_lsn(), r.restart_lsn) AS held,
                       s.setting::numeric * 1024 * 1024 AS kept
                  FROM pg_catalog.pg_replication_slots AS r
                  JOIN pg_catalog.pg_settings AS s ON s.name = 'max_slot_wal_keep_size' AND s.setting::bigint > 0
                 WHERE r.restart_lsn IS NOT NULL) AS h) AS slots,
       (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', w.application_name,
                   'lsn', w.replay_lsn, 'lag', extract(epoch FROM w.replay_lag)) ORDER BY w.replay_lsn ASC), '[]')
          FROM pg_catalog.pg_stat_replication AS w
          JOIN pg_catalog.pg_replication_slots AS r ON r.active_pid = w.pid
         WHERE r.slot_type = 'logical' AND NOT r.temporary AND r.database = pg_catalog.current_database()
           AND w.replay_lsn IS NOT NULL) AS peers,
       NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r
    WHERE r.slot_name = %2$s AND r.wal_status IS DISTINCT FROM 'lost') AS lost,
       (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('pid', w.pid, 'began', w.began, 'who', w.who,
                   'lane', s.lane, 'what', k.what,
                   'since', pg_catalog.date_trunc('second', coalesce(k.waitstart, w.query_start))::text)), '[]')
          FROM (SELECT f.pid, pg_catalog.min(f.lane) AS lane FROM stuck AS f WHERE f.is_next GROUP BY f.pid) AS s
          JOIN waiting AS w ON w.pid = s.pid
         CROSS JOIN LATERAL (
               SELECT pg_catalog.concat_ws(' on ', l.mode, coalesce(l.relation::regclass::text, l.locktype)) AS what,
                      l.waitstart
                 FROM pg_catalog.pg_locks AS l WHERE l.pid = w.pid AND NOT l.granted LIMIT 1) AS k) AS waiters,
       (SELECT pg_catalog.count(DISTINCT s.pid) FROM stuck AS s
         WHERE s.pid NOT IN (SELECT f.pid FROM stuck AS f WHERE f.is_next)) AS queued$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.read_load IS
'Reads, on the source, what a copy has to mind. It returns one row: lsn, the end of its WAL; slots, those that hold
WAL, with the part of max_slot_wal_keep_size in per cent, none where that has no bound; peers, the nodes that stream
from here, with the position that each has applied, and its lag in seconds as PostgreSQL knows it; lost, whether the
slot of the copy, p_slot, is gone or has lost its WAL; waiters, the sessions that wait for a lock which a session of the
copy p_subscription has here, with its lane; and queued, how many more wait for those.';
REVOKE ALL ON FUNCTION zodan.read_load FROM PUBLIC;

CREATE FUNCTION zodan.open_lane(p_subscription text, p_lane text, p_session text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_origin text := %1$s || ' ' || %2$s;
    v_function text;
BEGIN
    FOREACH v_function IN ARRAY ARRAY['connect(text, text) RETURNS text', 'get_connections() RETURNS text[]',
        'exec(text, text) RETURNS text', 'send_query(text, text) RETURNS int', 'is_busy(text) RETURNS int',
        'get_result(text) RETURNS SETOF record'] LOOP
        EXECUTE pg_catalog.format('CREATE FUNCTION pg_temp.dblink_%%s LANGUAGE c AS ''$libdir/dblink'', %%L', v_function,
            'dblink_' || pg_catalog.split_part(v_function, '(', 1));
    END LOOP;
    CREATE FUNCTION pg_temp.dblink(text, text) RETURNS SETOF record LANGUAGE c STRICT AS '$libdir/dblink', 'dblink_record';
    CREATE FUNCTION pg_temp.zodan_enter(p_source text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_dsn text;
BEGIN
    IF p_source = ANY (coalesce(pg_temp.dblink_get_connections(), '{}')) THEN
        PERFORM * FROM pg_temp.dblink_get_result(p_source) AS r(done text);
        PERFORM * FROM pg_temp.dblink_get_result(p_source) AS r(done text);
        RETURN;
    END IF;
    SELECT i.if_dsn INTO STRICT v_dsn FROM spock.subscription AS s JOIN spock.node_interface AS i
        ON i.if_id = s.sub_origin_if WHERE s.sub_name = %1$s;
    -- By its name zodan.read_load knows whose lock it is that others wait for.
    PERFORM pg_temp.dblink_connect(p_source, pg_catalog.format('keepalives_idle=10'
        ' keepalives_interval=5 keepalives_count=2 %%s application_name=''%%s''', v_dsn,
        %1$s || ' ' || %2$s));
    PERFORM * FROM pg_temp.dblink(p_source, %3$s) AS s(done text);
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_begin(p_snapshot text) RETURNS text LANGUAGE plpgsql AS $function$
BEGIN
    -- Shorter than the deadlock_timeout of others: nobody else's transaction ends because of this one.
    RETURN pg_catalog.format('BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;'
        ' SET TRANSACTION SNAPSHOT %%L; SET LOCAL lock_timeout = ''500ms'';', p_snapshot);
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_keep_pace(p_pace jsonb, p_blocks bigint) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    IF p_pace ->> 'rate' IS NOT NULL THEN
        PERFORM pg_catalog.pg_sleep(((p_pace ->> 'blocks')::bigint + p_blocks) / (p_pace ->> 'rate')::float8
            - (extract(epoch FROM pg_catalog.clock_timestamp())::float8 - (p_pace ->> 'begun')::float8));
    END IF;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_prepare(p_what jsonb, p_begin text) RETURNS SETOF jsonb LANGUAGE plpgsql AS $function$
DECLARE
    v_what jsonb := (SELECT pg_catalog.jsonb_agg(t.item || pg_catalog.jsonb_build_object('table',
            pg_catalog.format('%%I.%%I', t.item ->> 'schema', t.item ->> 'name')) ORDER BY t.place)
        FROM pg_catalog.jsonb_array_elements(p_what) WITH ORDINALITY AS t(item, place));
    v_asked CONSTANT text := pg_catalog.format($query$pg_catalog.jsonb_to_recordset(%%L) AS t(oid oid, "table" text)$query$, (
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('oid', t.item -> 'oid', 'table', t.item -> 'table'))
          FROM pg_catalog.jsonb_array_elements(v_what) AS t(item)));
    v_locked text[] := '{}';
    v_one record;
BEGIN
    FOR v_one IN SELECT o.* FROM pg_temp.dblink('zodan_source', p_begin || ' SELECT t."table", t.oid,'
            ' pg_catalog.to_regclass(t."table")::oid, pg_catalog.pg_relation_filenode(t.oid) IS NOT NULL,'
            ' EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = t.oid) FROM ' || v_asked)
            AS o(name text, oid oid, relid oid, lives boolean, seen boolean) LOOP
        IF v_one.relid <> v_one.oid OR v_one.relid IS NULL AND v_one.lives THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD304', MESSAGE = pg_catalog.format(
                'table %%s was renamed, or dropped and created again, on the source while it was copied', v_one.name);
        ELSIF v_one.relid IS NULL AND v_one.seen THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD307', MESSAGE = pg_catalog.format(
                'table %%s was dropped on the source after the snapshot', v_one.name);
        ELSIF v_one.relid IS NOT NULL THEN
            v_locked := v_locked || v_one.name;
        END IF;
        -- One that was dropped before the snapshot is left out: nothing more will come of it.
    END LOOP;
    IF v_locked = '{}' THEN
        RETURN;
    END IF;
    FOR v_one IN
        SELECT t.item, t.item ->> 'table' AS name, f.kept, f.file, f.blocks, f.print AS there,
               l.names, l.types, (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
            pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attgenerated <> '' THEN 'generated' END,
            (SELECT '(' || pg_catalog.string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) || ')'
               FROM pg_catalog.pg_enum AS e JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
              WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype))), ', ' ORDER BY a.attname COLLATE "C")
   FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) AS here
          FROM pg_catalog.jsonb_array_elements(v_what) WITH ORDINALITY AS t(item, place)
          JOIN pg_catalog.unnest(v_locked) AS k(name) ON k.name = t.item ->> 'table'
          LEFT JOIN pg_temp.dblink('zodan_source', pg_catalog.format('LOCK TABLE ONLY %%s IN ACCESS SHARE MODE;',
                pg_catalog.array_to_string(v_locked, ', ONLY ')) || $query$ SELECT t.oid, c.relfilenode,
                pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint, (SELECT pg_catalog.string_agg(pg_catalog.concat_ws(' ', pg_catalog.quote_ident(a.attname),
            pg_catalog.format_type(a.atttypid, a.atttypmod),
            CASE WHEN a.attgenerated <> '' THEN 'generated' END,
            (SELECT '(' || pg_catalog.string_agg(e.enumlabel, ', ' ORDER BY e.enumsortorder) || ')'
               FROM pg_catalog.pg_enum AS e JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
              WHERE e.enumtypid IN (t.oid, t.typelem, t.typbasetype))), ', ' ORDER BY a.attname COLLATE "C")
   FROM pg_catalog.pg_attribute AS a
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
                c.relfilenode = pg_catalog.pg_relation_filenode(c.oid) AND c.oid = pg_catalog.to_regclass(t."table")
              FROM pg_catalog.pg_class AS c JOIN $query$ || v_asked || ' ON t.oid = c.oid')
              AS f(oid oid, file oid, blocks bigint, print text, kept boolean) ON f.oid = (t.item ->> 'oid')::oid
          LEFT JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(t.item ->> 'table')
          LEFT JOIN LATERAL (
            SELECT pg_catalog.string_agg(w.name, ', ' ORDER BY w.attnum) AS names,
                   pg_catalog.string_agg(w.name || ' ' || w.type, ', ' ORDER BY w.attnum) AS types
              FROM (SELECT a.attnum, pg_catalog.quote_ident(a.attname) AS name,
                           pg_catalog.format_type(a.atttypid, a.atttypmod) AS type
                      FROM pg_catalog.pg_attribute AS a
                     WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
                       AND (t.item ->> 'columns' IS NULL OR t.item -> 'columns' ? a.attname)) AS w) AS l ON true
         ORDER BY t.place
    LOOP
        IF v_one.kept IS NOT TRUE THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD307', MESSAGE = pg_catalog.format(
                'table %%s was rewritten on the source after the snapshot', v_one.name);
        ELSIF v_one.there IS DISTINCT FROM v_one.here THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD304', MESSAGE = pg_catalog.format(
                'table %%s was altered on the source while the node was copied: there it has %%s; here %%s', v_one.name,
                coalesce(v_one.there, 'no column'), coalesce(v_one.here, 'no such table or no column'));
        END IF;
        -- Of a table without a column to copy, only how many rows it has.
        RETURN NEXT v_one.item || pg_catalog.jsonb_build_object('names', coalesce(v_one.names, 'true'),
            'types', coalesce(v_one.types, 'nothing boolean'),
            'into', coalesce('(' || v_one.names || ') OVERRIDING SYSTEM VALUE SELECT ' || v_one.names, 'SELECT'),
            'file', v_one.file::text, 'last', greatest(v_one.blocks, (v_one.item ->> 'last')::bigint));
    END LOOP;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_await(p_source text, p_other text) RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    WHILE (SELECT pg_catalog.min(pg_temp.dblink_is_busy(p_source)) FROM pg_catalog.generate_series(1, 64)
            WHERE pg_temp.dblink_is_busy(p_other) IS NOT NULL) = 1 LOOP
        PERFORM pg_catalog.pg_sleep(0.001);
    END LOOP;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_look_ahead(p_table text, p_snapshot text) RETURNS boolean LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_temp.zodan_enter('zodan_ahead');
    -- Somebody may wait for the lock of the first session: to wait behind them would be for ever.
    PERFORM pg_temp.dblink_exec('zodan_ahead', pg_temp.zodan_begin(p_snapshot)
        || pg_catalog.format(' LOCK TABLE ONLY %%s IN ACCESS SHARE MODE NOWAIT', p_table));
    RETURN true;
EXCEPTION WHEN lock_not_available THEN
    PERFORM pg_temp.dblink_exec('zodan_ahead', 'ROLLBACK');
    RETURN false;
WHEN sqlclient_unable_to_establish_sqlconnection THEN
    RETURN false;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_copy_rows(p_table jsonb, p_snapshot text, p_pace jsonb) RETURNS bigint
    LANGUAGE plpgsql AS $function$
DECLARE
    v_sources text[] := ARRAY['zodan_source'];
    v_source text;
    v_begin bigint := (p_table ->> 'begin')::bigint;
    v_last CONSTANT bigint := coalesce((p_table ->> 'end')::bigint, (p_table ->> 'last')::bigint);
    -- No more at once than a second may bring.
    v_step CONSTANT bigint := greatest(least((p_table ->> 'step')::bigint, pg_catalog.floor((p_pace ->> 'rate')::float8)), 1);
    v_end bigint;
    v_asked int := 0;
    v_taken int := 0;
    v_rows bigint;
    v_copied bigint := 0;
BEGIN
    LOOP
        WHILE v_begin IS NOT NULL AND v_asked < v_taken + pg_catalog.cardinality(v_sources) LOOP
            PERFORM pg_temp.zodan_keep_pace(p_pace, v_begin - (p_table ->> 'begin')::bigint);
            v_end := v_begin + v_step;
            IF p_table ->> 'end' IS NULL AND v_end >= (p_table ->> 'last')::bigint THEN
                v_end := NULL;
            END IF;
            v_end := least(v_end, (p_table ->> 'end')::bigint);
            PERFORM pg_temp.dblink_send_query(v_sources[1 + v_asked %% pg_catalog.cardinality(v_sources)],
                pg_catalog.concat('SELECT ', p_table ->> 'names', ' FROM ONLY ', p_table ->> 'table',
                ' WHERE ctid >= ''(', v_begin, ',0)''', ' AND ctid < ''(' || v_end || ',0)''', ' AND (' || (p_table ->> 'filter') || ')'));
            v_asked := v_asked + 1;
            v_begin := CASE WHEN v_end < v_last THEN v_end END;
            -- The first piece is under way: time to prepare the second session.
            IF v_asked = 1 AND v_begin IS NOT NULL AND (p_table ->> 'ahead')::boolean AND p_pace ->> 'rate' IS NULL
               AND pg_temp.zodan_look_ahead(p_table ->> 'table', p_snapshot) THEN
                v_sources := ARRAY['zodan_source', 'zodan_ahead'];
            END IF;
        END LOOP;
        EXIT WHEN v_taken = v_asked;
        v_source := v_sources[1 + v_taken %% pg_catalog.cardinality(v_sources)];
        IF pg_catalog.cardinality(v_sources) > 1 THEN
            PERFORM pg_temp.zodan_await(v_source, v_sources[2 - v_taken %% 2]);
        END IF;
        EXECUTE pg_catalog.format('INSERT INTO %%s %%s FROM pg_temp.dblink_get_result($1) AS r(%%s)', p_table ->> 'table',
            p_table ->> 'into', p_table ->> 'types')
          USING v_source;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        v_copied := v_copied + v_rows;
        -- The session is free for the next piece only after an empty answer has been taken.
        PERFORM * FROM pg_temp.dblink_get_result(v_source) AS r(done text);
        v_taken := v_taken + 1;
    END LOOP;
    IF pg_catalog.cardinality(v_sources) > 1 THEN
        PERFORM pg_temp.dblink_send_query('zodan_ahead', 'COMMIT');
    END IF;
    RETURN v_copied;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_copy_small(p_tables jsonb[]) RETURNS bigint LANGUAGE plpgsql AS $function$
DECLARE
    v_table jsonb;
    v_rows bigint;
    v_copied bigint := 0;
BEGIN
    PERFORM pg_temp.dblink_send_query('zodan_source', (SELECT pg_catalog.string_agg(pg_catalog.concat('SELECT ',
            t.item ->> 'names', ' FROM ONLY ', t.item ->> 'table', ' WHERE ' || (t.item ->> 'filter')), ';' ORDER BY t.place)
        FROM pg_catalog.unnest(p_tables) WITH ORDINALITY AS t(item, place)));
    FOREACH v_table IN ARRAY p_tables LOOP
        EXECUTE pg_catalog.format('INSERT INTO %%s %%s FROM pg_temp.dblink_get_result($1) AS r(%%s)', v_table ->> 'table',
            v_table ->> 'into', v_table ->> 'types')
          USING 'zodan_source'::text;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        v_copied := v_copied + v_rows;
    END LOOP;
    -- The session is free for the next query only after an empty answer has been taken.
    PERFORM * FROM pg_temp.dblink_get_result('zodan_source') AS r(done text);
    RETURN v_copied;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_copy(p_number text, p_what jsonb, p_snapshot text, p_lsn text, p_ddl text,
        p_bytes text, p_rate text, OUT copied bigint, OUT lsn text, OUT files jsonb)
    LANGUAGE plpgsql AS $function$
DECLARE
    v_sub oid := (SELECT s.sub_id FROM spock.subscription AS s WHERE s.sub_name = %1$s);
    v_table jsonb;
    v_tables jsonb[];
    -- Those that one piece holds, if no pace is to be kept between them.
    v_small jsonb[] := '{}';
    v_blocks bigint;
    v_begin text := pg_temp.zodan_begin(p_snapshot);
    v_ddl text;
    -- The pace of the unit, if there is one: blocks a second, when it began, and how many blocks it has behind it.
    v_pace jsonb := (SELECT pg_catalog.jsonb_build_object('rate', nullif(p_rate, '0')::float8 * nullif(pg_catalog.sum(
            coalesce((t.item ->> 'end')::bigint, (t.item ->> 'last')::bigint) - (t.item ->> 'begin')::bigint), 0)
            / nullif(p_bytes::float8, 0), 'begun', extract(epoch FROM pg_catalog.clock_timestamp()), 'blocks', 0)
        FROM pg_catalog.jsonb_array_elements(p_what) AS t(item));
BEGIN
    SELECT l.sync_statuslsn INTO lsn FROM spock.local_sync_status AS l
     WHERE l.sync_subid = v_sub AND l.sync_nspname = 'zodan unit' AND l.sync_relname::text = p_number;
    IF FOUND THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    -- The epoch: whatever changes a copied row later wins over it. 2000-01-01 would mean the present.
    PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', '1970-01-01 00:00:00+00');
    -- First, so that of two sessions with the same unit one waits here, and fails.
    INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
    VALUES ('d', v_sub, 'zodan unit', p_number, 'y', p_lsn::pg_catalog.pg_lsn);
    PERFORM pg_temp.zodan_enter('zodan_source');
    IF p_number = '1' THEN
        SELECT q.ddl INTO v_ddl FROM pg_temp.dblink('zodan_source', v_begin || $query$ SELECT pg_catalog.concat_ws(' ',
    CASE WHEN pg_catalog.to_regclass('spock.queue') IS NOT NULL THEN pg_catalog.substring(
        pg_catalog.query_to_xml('SELECT pg_catalog.count(*) AS n FROM spock.queue AS q'
        ' WHERE q.message #>> ''{}'' !~ ''zodan head''', false, false, '')::text,
        '<n>(\d+)</n>') END,
    (SELECT pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws(' ', t.set_id, t.set_reloid::oid, t.set_att_list,
                t.set_row_filter::text), ',' ORDER BY t.set_id, t.set_reloid::oid))
       FROM spock.replication_set_table AS t),
    (SELECT pg_catalog.md5(pg_catalog.string_agg(i.inhrelid || ' ' || i.inhparent, ','
                ORDER BY i.inhrelid, i.inhparent))
       FROM pg_catalog.pg_inherits AS i))$query$)
            AS q(ddl text);
        IF v_ddl IS DISTINCT FROM p_ddl THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD304', MESSAGE = 'the structure of the source was changed while it was copied';
        END IF;
        v_begin := '';
    END IF;
    copied := 0;
    v_tables := ARRAY(SELECT p.prepared FROM pg_temp.zodan_prepare(p_what, v_begin) AS p(prepared));
    files := (SELECT pg_catalog.jsonb_object_agg(t.item ->> 'oid', c.item -> 'file')
        FROM pg_catalog.jsonb_array_elements(p_what) AS t(item)
        LEFT JOIN pg_catalog.unnest(v_tables) AS c(item) ON c.item ->> 'oid' = t.item ->> 'oid');
    FOREACH v_table IN ARRAY v_tables LOOP
        v_blocks := coalesce((v_table ->> 'end')::bigint, (v_table ->> 'last')::bigint) - (v_table ->> 'begin')::bigint;
        IF v_blocks <= (v_table ->> 'step')::bigint AND v_table ->> 'end' IS NULL AND v_table ->> 'begin' = '0'
           AND v_pace ->> 'rate' IS NULL THEN
            v_small := v_small || v_table;
        ELSE
            copied := copied + pg_temp.zodan_copy_rows(v_table, p_snapshot, v_pace);
            v_pace := v_pace || pg_catalog.jsonb_build_object('blocks', (v_pace ->> 'blocks')::bigint + v_blocks);
        END IF;
    END LOOP;
    IF v_small <> '{}' THEN
        copied := copied + pg_temp.zodan_copy_small(v_small);
    END IF;
    -- The source's locks go now; the answer is taken when the session is used again.
    PERFORM pg_temp.dblink_send_query('zodan_source', 'COMMIT');
    PERFORM pg_temp.zodan_keep_pace(v_pace, 0);
    lsn := p_lsn;
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_compare(p_files jsonb, p_snapshot text, OUT rewritten jsonb) LANGUAGE plpgsql AS $function$
BEGIN
    PERFORM pg_temp.zodan_enter('zodan_source');
    SELECT q.rewritten INTO STRICT rewritten FROM pg_temp.dblink('zodan_source', pg_catalog.concat(
        pg_temp.zodan_begin(p_snapshot), ' SELECT coalesce(pg_catalog.jsonb_agg(c.oid::text), ''[]'')'
        ' FROM pg_catalog.jsonb_each_text(', pg_catalog.quote_literal(p_files),
        ') AS f(oid, file) JOIN pg_catalog.pg_class AS c ON c.oid = f.oid::oid WHERE c.relfilenode::text IS DISTINCT FROM f.file'))
        AS q(rewritten jsonb);
    PERFORM pg_temp.dblink_exec('zodan_source', 'COMMIT');
END
    $function$;
    CREATE FUNCTION pg_temp.zodan_clear(p_what jsonb, p_numbers jsonb) RETURNS boolean LANGUAGE plpgsql AS $function$
DECLARE
    v_tables text := (SELECT pg_catalog.string_agg(DISTINCT pg_catalog.format('%%I.%%I', t.item ->> 'schema',
            t.item ->> 'name'), ', ')
        FROM pg_catalog.jsonb_array_elements(p_what) AS t(item)
       WHERE pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', t.item ->> 'schema', t.item ->> 'name')) IS NOT NULL);
    v_table text;
BEGIN
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    BEGIN
        EXECUTE 'TRUNCATE ONLY ' || v_tables;
    EXCEPTION WHEN feature_not_supported THEN
        FOR v_table IN SELECT DISTINCT pg_catalog.format('%%I.%%I', t.item ->> 'schema', t.item ->> 'name')
            FROM pg_catalog.jsonb_array_elements(p_what) AS t(item) LOOP
            EXECUTE 'DELETE FROM ONLY ' || v_table;
        END LOOP;
    END;
    -- After the tables: a session that was thought lost may have ended its unit meanwhile.
    DELETE FROM spock.local_sync_status AS l
     WHERE l.sync_nspname = 'zodan unit' AND p_numbers ? l.sync_relname::text
        AND l.sync_subid = (SELECT s.sub_id FROM spock.subscription AS s WHERE s.sub_name = %1$s);
    RETURN true;
END
    $function$;
    IF pg_catalog.pg_replication_origin_oid(v_origin) IS NULL THEN
        PERFORM pg_catalog.pg_replication_origin_create(v_origin);
    END IF;
    PERFORM pg_catalog.pg_replication_origin_session_setup(v_origin);
    -- A unit that the journal has as done is on disk.
    PERFORM pg_catalog.set_config('synchronous_commit', 'on', false);
    PERFORM pg_catalog.set_config('work_mem', greatest(s.setting::bigint,
           pg_catalog.pg_size_bytes('32MB') / 1024)::text, false)
       FROM pg_catalog.pg_settings AS s WHERE s.name = 'work_mem';
    PERFORM pg_temp.zodan_enter('zodan_source');
    -- From now on memory is kept for the next piece, and not returned to the operating system after each.
    PERFORM pg_catalog.octet_length(pg_catalog.repeat(' ', 32505856));
END
$do$$sql$,
    zodan.quote_text(p_subscription), zodan.quote_result(p_lane), zodan.quote_text(p_session))
$zodan$;
COMMENT ON FUNCTION zodan.open_lane IS
'Prepares a session on the new node to copy units for p_subscription. Makes dblink''s functions, whether or not
dblink is installed, and those that copy; they go with the session. Takes up a replication origin, number p_lane, so
that nobody takes the rows for written here. p_session is zodan.set_session(), which prepares the session on the
source. Nothing here holds a connection string: Spock''s catalog does.';
REVOKE ALL ON FUNCTION zodan.open_lane FROM PUBLIC;

CREATE FUNCTION zodan.copy_unit(
    p_number text,
    p_what text,
    p_snapshot text,
    p_lsn text,
    p_ddl text,
    p_bytes text,
    p_rate text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT c.copied, c.lsn, c.files
  FROM pg_temp.zodan_copy(%1$s, %2$s::pg_catalog.jsonb, %3$s, %4$s, %5$s, %6$s, %7$s) AS c$sql$,
    zodan.quote_result(p_number), zodan.quote_result(p_what), zodan.quote_result(p_snapshot), zodan.quote_result(p_lsn), zodan.quote_result(p_ddl), zodan.quote_result(p_bytes), zodan.quote_result(p_rate))
$zodan$;
COMMENT ON FUNCTION zodan.copy_unit IS
'Copies the unit p_number on the new node, in one transaction that also leaves its mark: the tables p_what, as the
snapshot p_snapshot of the source has them, which is at p_lsn. It returns one row: copied, how many rows; lsn, the
position that they are at; and files, see zodan.compare_files; lsn alone if it was copied before. p_bytes is the unit''s
size, p_rate how many of them a second it may read at most, 0 if there is no limit. It fails with ZD307 if a table was
rewritten after the snapshot, which is then empty to it; with ZD304 if a table is not what it was when the structure
came, or, in the first unit, if the structure is not what zodan.note_ddl returned, p_ddl. The session was prepared by
zodan.open_lane.';
REVOKE ALL ON FUNCTION zodan.copy_unit FROM PUBLIC;

CREATE FUNCTION zodan.clear_units(p_what text, p_numbers text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_temp.zodan_clear(%1$s::pg_catalog.jsonb, %2$s::pg_catalog.jsonb) AS cleared$sql$,
    zodan.quote_result(p_what), zodan.quote_result(p_numbers))
$zodan$;
COMMENT ON FUNCTION zodan.clear_units IS
'Deletes, on the new node, all that was copied of the tables p_what of a bundle, with the marks of its units
p_numbers: the snapshot was lost before the last of them was copied, or a table was rewritten on the source.';
REVOKE ALL ON FUNCTION zodan.clear_units FROM PUBLIC;

CREATE FUNCTION zodan.compare_files(p_files text, p_snapshot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT c.rewritten FROM pg_temp.zodan_compare(%1$s::pg_catalog.jsonb, %2$s) AS c(rewritten)$sql$,
    zodan.quote_result(p_files), zodan.quote_result(p_snapshot))
$zodan$;
COMMENT ON FUNCTION zodan.compare_files IS
'Asks, in a session on the new node that zodan.open_lane prepared, which of the tables p_files that were copied before
the snapshot p_snapshot of the source were rewritten or emptied there in the meantime: their rows are of no use to a
stream that leaves out what came before the snapshot. p_files is an object of oids and numbers of files. It returns one
row: rewritten, an array of oids.';
REVOKE ALL ON FUNCTION zodan.compare_files FROM PUBLIC;

CREATE FUNCTION zodan.prepare_build()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.set_config('maintenance_work_mem', greatest(s.setting::bigint,
           pg_catalog.pg_size_bytes('256MB') / 1024)::text, false) AS memory
  FROM pg_catalog.pg_settings AS s WHERE s.name = 'maintenance_work_mem'$sql$
$zodan$;
COMMENT ON FUNCTION zodan.prepare_build IS
'Prepares a session on the new node to build indexes: as much memory for each as the server''s own setting says, but
at least 256MB.';
REVOKE ALL ON FUNCTION zodan.prepare_build FROM PUBLIC;

CREATE FUNCTION zodan.build_index(p_index text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_index AS i WHERE i.indexrelid = pg_catalog.to_regclass(%1$s) AND NOT i.indisready) THEN
        EXECUTE 'REINDEX INDEX ' || %1$s;
    END IF;
END
$do$$sql$,
    zodan.quote_result(p_index))
$zodan$;
COMMENT ON FUNCTION zodan.build_index IS
'Builds the index p_index (a name, a placeholder), which was set aside; does nothing if it is whole.';
REVOKE ALL ON FUNCTION zodan.build_index FROM PUBLIC;

CREATE FUNCTION zodan.list_analyzed()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$WITH RECURSIVE
relations AS MATERIALIZED (
    SELECT c.oid AS relid, c.reltoastrelid
      FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE c.relkind = 'r' AND c.relpersistence = 'p'
       AND n.nspname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$' AND n.nspname NOT IN ('lolor', 'snowflake')
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
    WHERE d.classid = 'pg_catalog.pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')),
files AS (
    SELECT f.relid, f.path, 0 AS number, (SELECT s.size FROM pg_catalog.pg_stat_file(f.path, true) AS s) AS size
      FROM (SELECT r.relid, pg_catalog.pg_relation_filepath(p.relid) AS path
              FROM relations AS r CROSS JOIN LATERAL (VALUES (r.relid), (r.reltoastrelid)) AS p(relid)) AS f
    UNION ALL
    -- A full file has another after it.
    SELECT f.relid, f.path, f.number + 1, (SELECT s.size
        FROM pg_catalog.pg_stat_file(f.path || '.' || (f.number + 1), true) AS s)
      FROM files AS f WHERE f.size = pg_catalog.pg_size_bytes(pg_catalog.current_setting('segment_size'))),
trees AS (
    SELECT f.relid, pg_catalog.sum(f.size) AS bytes FROM files AS f GROUP BY f.relid HAVING pg_catalog.sum(f.size) > 0
    UNION ALL
    SELECT i.inhparent, t.bytes FROM trees AS t JOIN pg_catalog.pg_inherits AS i ON i.inhrelid = t.relid),
tables AS (
    SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.sum(t.bytes)::bigint AS bytes
      FROM trees AS t JOIN pg_catalog.pg_class AS c ON c.oid = t.relid
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     WHERE NOT c.relispartition OR pg_catalog.current_setting('server_version_num')::int >= 180000
     GROUP BY n.nspname, c.relname),
batches AS (
    SELECT t.name, t.bytes, CASE WHEN t.bytes > 8388608 THEN t.name
               ELSE pg_catalog.floor(pg_catalog.sum(greatest(t.bytes, 40960)) OVER (
                   PARTITION BY t.bytes > 8388608 ORDER BY t.bytes DESC, t.name ASC)
                   / 8388608)::text END AS batch
      FROM tables AS t),
units AS (
    SELECT CASE WHEN pg_catalog.count(*) = 1 THEN pg_catalog.min(b.name)
               ELSE pg_catalog.format('%s tables from %s on', pg_catalog.count(*), pg_catalog.min(b.name)) END AS title,
           pg_catalog.sum(b.bytes)::bigint AS bytes, pg_catalog.count(*) AS tables,
           pg_catalog.jsonb_agg(b.name ORDER BY b.bytes DESC, b.name ASC) AS what
      FROM batches AS b GROUP BY b.batch)
SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('bundle', u.title, 'title', u.title,
           'bytes', u.bytes, 'tables', u.tables, 'what', u.what) ORDER BY u.bytes DESC, u.title ASC), '[]') AS units
  FROM units AS u$sql$
$zodan$;
COMMENT ON FUNCTION zodan.list_analyzed IS
'Lists, on the new node, the tables to analyze after the copy, as zodan.list_units lists what is to be copied: those
that have rows, and the tables that they are partitions or children of. The largest come first, small ones in batches.
It returns one row: units. Before PostgreSQL 18, to analyze a partitioned table is to analyze all its partitions
too.';
REVOKE ALL ON FUNCTION zodan.list_analyzed FROM PUBLIC;

CREATE FUNCTION zodan.open_analysis()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$DO $do$
BEGIN
    PERFORM pg_catalog.set_config('lock_timeout', '2s', false);
    CREATE FUNCTION pg_temp.zodan_analyze(p_tables jsonb) RETURNS text LANGUAGE plpgsql AS $function$
DECLARE
    -- Each table is listed by itself, except that earlier versions cannot leave the partitions out.
    v_analyze text := CASE WHEN pg_catalog.current_setting('server_version_num')::int >= 180000 THEN 'ANALYZE ONLY '
        ELSE 'ANALYZE ' END;
    v_table text;
    v_passed text;
BEGIN
    FOR v_table IN SELECT t.name FROM pg_catalog.jsonb_array_elements_text(p_tables) AS t(name) LOOP
        BEGIN
            EXECUTE v_analyze || v_table;
        EXCEPTION WHEN OTHERS THEN
            v_passed := pg_catalog.concat_ws('; ', v_passed, pg_catalog.format('%s: %s', v_table, SQLERRM));
        END;
    END LOOP;
    RETURN v_passed;
END
    $function$;
END
$do$$sql$
$zodan$;
COMMENT ON FUNCTION zodan.open_analysis IS
'Prepares a session on the new node to analyze tables: makes the function that does it, which goes with the session.
It passes over a table that cannot be analyzed, and returns which and why: statistics are no reason to fail a join, and
autovacuum gathers them later. It waits no longer than 2s for a table that somebody has
locked, which is enough for an autovacuum to make way.';
REVOKE ALL ON FUNCTION zodan.open_analysis FROM PUBLIC;

CREATE FUNCTION zodan.analyze_tables(p_tables text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_temp.zodan_analyze(%1$s::pg_catalog.jsonb) AS passed$sql$,
    zodan.quote_result(p_tables))
$zodan$;
COMMENT ON FUNCTION zodan.analyze_tables IS
'Analyzes p_tables, an array of names, on the new node. It returns one row: passed, the tables that it passed over and
why, NULL if none. The session was prepared by zodan.open_analysis.';
REVOKE ALL ON FUNCTION zodan.analyze_tables FROM PUBLIC;

CREATE FUNCTION zodan.drop_lanes(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
BEGIN
    WHILE EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a WHERE a.datname = pg_catalog.current_database()
                     AND pg_catalog.starts_with(a.application_name, %1$s || ' ')) LOOP
        IF pg_catalog.clock_timestamp() > v_until THEN
            RAISE EXCEPTION 'a session that copied before this call does not end';
        END IF;
        PERFORM pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
                AND pg_catalog.starts_with(a.application_name, %1$s || ' ');
        PERFORM pg_catalog.pg_sleep(0.02);
        PERFORM pg_catalog.pg_stat_clear_snapshot();
    END LOOP;
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o
        WHERE pg_catalog.starts_with(o.roname, %1$s || ' ');
END
$do$$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_lanes IS
'Ends the sessions that copy for p_subscription on the new node for an earlier call or an earlier connection, waits
until they are gone, 30 s at most, and drops their replication origins. What such a
session still commits would come on top of what is copied again.';
REVOKE ALL ON FUNCTION zodan.drop_lanes FROM PUBLIC;

CREATE FUNCTION zodan.begin_stream(
    p_subscription text,
    p_tables text,
    p_lsn text,
    p_slot_lsn text,
    p_head text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_sub record;
BEGIN
    SELECT s.sub_id, s.sub_slot_name, s.sub_enabled INTO STRICT v_sub
      FROM spock.subscription AS s WHERE s.sub_name = %1$s;
    IF v_sub.sub_enabled THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM pg_catalog.pg_index AS i JOIN pg_catalog.pg_class AS c ON c.oid = i.indexrelid
                WHERE NOT i.indisready AND c.relnamespace::regnamespace::text !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$') THEN
        RAISE EXCEPTION 'an index that was set aside has not been built';
    END IF;
    DELETE FROM spock.local_sync_status AS l WHERE l.sync_subid = v_sub.sub_id AND l.sync_nspname IS NOT NULL;
    INSERT INTO spock.local_sync_status (sync_kind, sync_subid, sync_nspname, sync_relname, sync_status, sync_statuslsn)
    WITH copied AS (
        SELECT t.schema, t.name, t.lsn
          FROM pg_catalog.jsonb_to_recordset(%2$s::pg_catalog.jsonb)
               AS t(schema name, name name, lsn pg_catalog.pg_lsn))
    SELECT 'd', v_sub.sub_id, p.schema, p.name, 'y', p.lsn FROM copied AS p
    UNION ALL
    -- Spock empties all partitions when it is told that their root is truncated.
    SELECT 'd', v_sub.sub_id, n.nspname, c.relname, 'y', pg_catalog.max(p.lsn)
      FROM copied AS p
     CROSS JOIN LATERAL pg_catalog.pg_partition_ancestors(
           pg_catalog.to_regclass(pg_catalog.format('%%I.%%I', p.schema, p.name))) AS a(relid)
      JOIN pg_catalog.pg_class AS c ON c.oid = a.relid AND c.relkind = 'p'
      JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
     GROUP BY n.nspname, c.relname;
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o
        WHERE pg_catalog.starts_with(o.roname, %1$s || ' ');
    PERFORM pg_catalog.pg_replication_origin_advance(v_sub.sub_slot_name,
        CASE WHEN %2$s = '[]' THEN greatest(%3$s::pg_catalog.pg_lsn, %4$s::pg_catalog.pg_lsn)
             ELSE nullif(%5$s, '')::pg_catalog.pg_lsn END);
    PERFORM spock.sub_enable(%1$s);
END
$do$$sql$,
    zodan.quote_text(p_subscription), zodan.quote_result(p_tables), zodan.quote_result(p_lsn), zodan.quote_result(p_slot_lsn), zodan.quote_result(p_head))
$zodan$;
COMMENT ON FUNCTION zodan.begin_stream IS
'Begins, on the new node, the stream of p_subscription. Where all rows are of one snapshot, it begins at the position
of that, p_lsn; where nothing was copied, where its slot is, p_slot_lsn. Tables of several snapshots are p_tables, an
array of {schema, name, lsn}: then it begins with the transaction after p_head, see zodan.send_head, and Spock leaves
out what a table''s snapshot had. Harmless if the stream has begun.';
REVOKE ALL ON FUNCTION zodan.begin_stream FROM PUBLIC;

CREATE FUNCTION zodan.is_enabled(p_subscription text, p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT EXISTS (SELECT FROM spock.subscription AS s
                WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s
                  AND s.sub_enabled)
       OR EXISTS (SELECT FROM pg_catalog.pg_replication_origin_status AS o WHERE o.external_id = %2$s
    AND o.remote_lsn <> '0/0') AS ok$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.is_enabled IS
'Returns whether a subscription is enabled where it runs, or the new node has turned to its direct streams, which
stands for everything before that; for done_sql.';
REVOKE ALL ON FUNCTION zodan.is_enabled FROM PUBLIC;

CREATE FUNCTION zodan.copy_continues(p_subscription text, p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT EXISTS (SELECT FROM spock.subscription AS s
                WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s
                  AND (s.sub_enabled OR NOT EXISTS (
                      SELECT FROM pg_catalog.pg_replication_origin_status AS o
                       WHERE o.external_id = s.sub_slot_name AND o.remote_lsn <> '0/0')))
       OR EXISTS (SELECT FROM pg_catalog.pg_replication_origin_status AS o WHERE o.external_id = %2$s
    AND o.remote_lsn <> '0/0') AS ok$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.copy_continues IS
'Returns whether the copy p_subscription is there and can go on from where it is; for done_sql. It cannot once its
stream has begun, which its origin shows, and was disabled: enabled again, Spock might discard a transaction. The turn
to the direct streams (p_slot) stands for everything before it.';
REVOKE ALL ON FUNCTION zodan.copy_continues FROM PUBLIC;

CREATE FUNCTION zodan.prove_copy_slot(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r
    WHERE r.slot_name = %1$s AND r.wal_status IS DISTINCT FROM 'lost') THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD304',
            MESSAGE = pg_catalog.format('slot "%%s" of the copy is gone or has lost its WAL', %1$s::text);
    END IF;
END
$do$$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.prove_copy_slot IS
'Fails with ZD304 if the slot of a copy, p_slot, is missing on the source or has lost its WAL, so that the copy has to
start over. The slot waits while the rows are copied, and PostgreSQL may invalidate a slot that waits:
max_slot_wal_keep_size, idle_replication_slot_timeout.';
REVOKE ALL ON FUNCTION zodan.prove_copy_slot FROM PUBLIC;

CREATE FUNCTION zodan.prove_sound(p_since text, p_origin text, p_starts text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_trouble text := (
SELECT pg_catalog.string_agg(x.what, '; ' ORDER BY x.at, x.what)
  FROM (SELECT pg_catalog.min(e.remote_commit_ts) AS at,
               pg_catalog.format('%%s on %%s, %%s rows, committed at %%s: %%s', coalesce(e.operation, 'a change'),
                   coalesce(nullif(pg_catalog.concat_ws('.', e.table_schema, e.table_name), ''), 'no table'),
                   pg_catalog.count(*), pg_catalog.min(e.remote_commit_ts),
                   coalesce(nullif(pg_catalog.max(e.error_message), ''), 'no reason given')) AS what
          FROM spock.exception_log AS e
         WHERE e.retry_errored_at > pg_catalog.to_timestamp(%1$s::double precision)
           AND (%2$s::text IS NULL
                OR e.remote_origin = (SELECT n.node_id FROM spock.node AS n WHERE n.node_name = %2$s::text))
         GROUP BY e.operation, e.table_schema, e.table_name
         ORDER BY 1 LIMIT 10) AS x);
BEGIN
    IF v_trouble IS NOT NULL THEN
        v_trouble := 'changes were discarded here: ' || v_trouble;
    ELSIF pg_catalog.concat_ws(' ', extract(epoch FROM pg_catalog.pg_postmaster_start_time()),
    (SELECT extract(epoch FROM w.stats_reset) FROM pg_catalog.pg_stat_wal AS w)) <> %3$s AND (SELECT e.extversion LIKE '5.%%' FROM pg_catalog.pg_extension AS e
        WHERE e.extname = 'spock') THEN
        v_trouble := 'the server was restarted while this node caught up, and Spock 5 may then apply changes twice';
    END IF;
    IF v_trouble IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD304', MESSAGE = v_trouble;
    END IF;
END
$do$$sql$,
    zodan.quote_result(p_since), zodan.quote_text(p_origin), zodan.quote_result(p_starts))
$zodan$;
COMMENT ON FUNCTION zodan.prove_sound IS
'Fails with ZD304 if the new node cannot have what the source has, so that its copy has to start over. Either it has
discarded changes since p_since (seconds of its clock; only those of node p_origin if that is given); or the server is
not in the life that p_starts describes and its Spock is older than 6, which after a crash may apply again what is
there.';
REVOKE ALL ON FUNCTION zodan.prove_sound FROM PUBLIC;

CREATE FUNCTION zodan.prove_slots(p_slots text[], p_lsn text, p_positions text, p_peer text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_trouble text;
BEGIN
    SELECT pg_catalog.string_agg(pg_catalog.format('slot "%%s" %%s', w.name, CASE WHEN r.slot_name IS NULL THEN 'is gone'
               WHEN r.wal_status = 'lost' THEN 'has lost its WAL' ELSE 'is at ' || r.confirmed_flush_lsn END), ', ')
      INTO v_trouble
      FROM pg_catalog.unnest(%1$s) AS w(name) LEFT JOIN pg_catalog.pg_replication_slots AS r
          ON r.slot_name::text = w.name
     WHERE r.slot_name IS NULL OR r.wal_status = 'lost' OR r.confirmed_flush_lsn > coalesce(
               %2$s, %3$s::pg_catalog.jsonb ->> %4$s)::pg_catalog.pg_lsn;
    IF v_trouble IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD305', MESSAGE = v_trouble;
    END IF;
END
$do$$sql$,
    zodan.quote_list(p_slots), zodan.quote_result(p_lsn), zodan.quote_result(p_positions), zodan.quote_text(p_peer))
$zodan$;
COMMENT ON FUNCTION zodan.prove_slots IS
'Fails with ZD305 if a slot of p_slots is missing on a node, has lost its WAL, or is already past the position that
its stream is to start at: p_lsn, or that of p_peer in p_positions; without either, no position is checked. PostgreSQL
may invalidate a slot that waits: max_slot_wal_keep_size, idle_replication_slot_timeout.';
REVOKE ALL ON FUNCTION zodan.prove_slots FROM PUBLIC;

CREATE FUNCTION zodan.prove_whole(p_since text, p_origin text, p_nodes text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_discarded text := (
SELECT pg_catalog.string_agg(x.what, '; ' ORDER BY x.at, x.what)
  FROM (SELECT pg_catalog.min(e.remote_commit_ts) AS at,
               pg_catalog.format('%%s on %%s, %%s rows, committed at %%s: %%s', coalesce(e.operation, 'a change'),
                   coalesce(nullif(pg_catalog.concat_ws('.', e.table_schema, e.table_name), ''), 'no table'),
                   pg_catalog.count(*), pg_catalog.min(e.remote_commit_ts),
                   coalesce(nullif(pg_catalog.max(e.error_message), ''), 'no reason given')) AS what
          FROM spock.exception_log AS e
         WHERE e.retry_errored_at > pg_catalog.to_timestamp(%1$s::double precision)
           AND (%2$s::text IS NULL
                OR e.remote_origin = (SELECT n.node_id FROM spock.node AS n WHERE n.node_name = %2$s::text))
         GROUP BY e.operation, e.table_schema, e.table_name
         ORDER BY 1 LIMIT 10) AS x);
    v_others text;
BEGIN
    IF v_discarded IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD402', MESSAGE = 'changes were discarded here: ' || v_discarded,
            HINT = 'Repair these rows, delete what spock.exception_log has of them on this node, and resume.';
    END IF;
    SELECT pg_catalog.string_agg(n.node_name, ', ' ORDER BY n.node_name) INTO v_others
      FROM spock.node AS n WHERE n.node_name::text <> ALL (%3$s);
    IF v_others IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD403', MESSAGE = 'nodes joined in the meantime: ' || v_others,
            HINT = 'Roll this join back, and call it again.';
    END IF;
END
$do$$sql$,
    zodan.quote_result(p_since), zodan.quote_text(p_origin), zodan.quote_list(p_nodes))
$zodan$;
COMMENT ON FUNCTION zodan.prove_whole IS
'Fails if a join did not end as planned: with ZD402 if a node has discarded changes since p_since (a placeholder for
seconds of its clock), with p_origin only those of that node; with ZD403 if it knows other nodes than p_nodes.';
REVOKE ALL ON FUNCTION zodan.prove_whole FROM PUBLIC;

CREATE FUNCTION zodan.wait_unbusy()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.count(*) = 0 AS ok,
       pg_catalog.concat_ws(' ', pg_catalog.pg_current_wal_insert_lsn(), pg_catalog.string_agg(
           pg_catalog.format('process %s has applied one transaction since %s', a.pid, a.xact_start), ', ')) AS progress
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.backend_xid IS NOT NULL
   AND a.xact_start < pg_catalog.clock_timestamp() - interval '0.3 s'
   AND EXISTS (SELECT FROM spock.subscription AS s WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)'))$sql$
$zodan$;
COMMENT ON FUNCTION zodan.wait_unbusy IS
'Returns whether no apply worker of a node has been inside one transaction for more than 0.3
s; for until_sql. A pause would wait for such a worker, and hold up all others meanwhile. Written WAL counts as
progress.';
REVOKE ALL ON FUNCTION zodan.wait_unbusy FROM PUBLIC;

CREATE FUNCTION zodan.read_sequences()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_object_agg(pg_catalog.format('%I.%I', q.schemaname, q.sequencename), q.last_value),
    '{}') AS sequences
  FROM pg_catalog.pg_sequences AS q
 WHERE q.last_value IS NOT NULL AND q.schemaname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'$sql$
$zodan$;
COMMENT ON FUNCTION zodan.read_sequences IS
'Reads how far every user sequence of a node has counted. It returns one row, sequences, an object of sequence and
last value.';
REVOKE ALL ON FUNCTION zodan.read_sequences FROM PUBLIC;

CREATE FUNCTION zodan.level_sequences(p_seen text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_sequence record;
    v_target numeric;
BEGIN
    FOR v_sequence IN
        SELECT pg_catalog.format('%%I.%%I', q.schemaname, q.sequencename) AS name, q.increment_by::numeric AS step,
               q.min_value::numeric AS low, q.max_value::numeric AS high,
               CASE WHEN q.increment_by > 0 THEN greatest(m.highest, q.last_value)
                   ELSE least(m.lowest, q.last_value) END AS furthest
          FROM pg_catalog.pg_sequences AS q
          LEFT JOIN (SELECT v.key, pg_catalog.max(v.value::numeric) AS highest,
              pg_catalog.min(v.value::numeric) AS lowest
                       FROM pg_catalog.unnest(%1$s) AS r(seen)
                      CROSS JOIN LATERAL pg_catalog.jsonb_each_text(r.seen) AS v(key, value)
                      GROUP BY v.key) AS m ON m.key = pg_catalog.format('%%I.%%I', q.schemaname, q.sequencename)
         WHERE q.schemaname !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
    LOOP
        CONTINUE WHEN v_sequence.furthest IS NULL;
        v_target := v_sequence.furthest + v_sequence.step * 1000;
        IF v_target NOT BETWEEN v_sequence.low AND v_sequence.high THEN
            v_target := v_sequence.furthest;
        END IF;
        PERFORM pg_catalog.setval(v_sequence.name::regclass, v_target::bigint);
    END LOOP;
END
$do$$sql$,
    p_seen)
$zodan$;
COMMENT ON FUNCTION zodan.level_sequences IS
'Moves the sequences of the new node to at least the highest value of any member (the lowest for those that count
down), and 1000 steps beyond it while the range allows, because the members go on counting
meanwhile. p_seen is an array of the results of zodan.read_sequences. A sequence never goes back.';
REVOKE ALL ON FUNCTION zodan.level_sequences FROM PUBLIC;

CREATE FUNCTION zodan.register_node(p_node text, p_location text, p_country text, p_info text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.node_create(node_name := %1$s, dsn := %2$s, location := %3$s, country := %4$s,
    info := %5$s) AS node_id$sql$,
    zodan.quote_text(p_node), zodan.placeholder('dsn', p_node), zodan.quote_text(p_location), zodan.quote_text(p_country), zodan.quote_text(p_info))
$zodan$;
COMMENT ON FUNCTION zodan.register_node IS
'Makes a database a Spock node, by the connection string that the others will reach it with. It returns node_id.';
REVOKE ALL ON FUNCTION zodan.register_node FROM PUBLIC;

CREATE FUNCTION zodan.drop_node_row(p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.node_drop(node_name := %1$s, ifexists := true) AS dropped$sql$,
    zodan.quote_text(p_node))
$zodan$;
COMMENT ON FUNCTION zodan.drop_node_row IS
'Drops a node where it is known, if it is.';
REVOKE ALL ON FUNCTION zodan.drop_node_row FROM PUBLIC;

CREATE FUNCTION zodan.create_copy_subscription(
    p_subscription text,
    p_provider text,
    p_sets text[],
    p_structure text,
    p_data text,
    p_forward text[],
    p_enabled text,
    p_skip text[]
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT spock.sub_create(subscription_name := %1$s, provider_dsn := %2$s,
    replication_sets := %3$s,
    synchronize_structure := %4$s::boolean, synchronize_data := %5$s::boolean,
    forward_origins := %6$s,
    enabled := %7$s::boolean,
    skip_schema := 'zodan'::text || %8$s) AS sub_id$sql$,
    zodan.quote_text(p_subscription), zodan.placeholder('dsn', p_provider), zodan.quote_list(p_sets), zodan.quote_text(p_structure), zodan.quote_text(p_data), zodan.quote_list(p_forward), zodan.quote_text(p_enabled), zodan.quote_list(p_skip))
$zodan$;
COMMENT ON FUNCTION zodan.create_copy_subscription IS
'Creates the subscription p_subscription from node p_provider, which copies the structure, the data, both or
nothing, and returns its id. Its sets are p_sets, and it forwards what came from p_forward. Schema zodan and the
schemas of p_skip stay out of a structure copy.';
REVOKE ALL ON FUNCTION zodan.create_copy_subscription FROM PUBLIC;

CREATE FUNCTION zodan.create_slot(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT s.lsn
  FROM (
SELECT pg_catalog.count(pg_catalog.pg_drop_replication_slot(r.slot_name)) AS dropped
  FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %1$s AND r.wal_status = 'lost') AS d
 CROSS JOIN LATERAL pg_catalog.pg_create_logical_replication_slot(
        CASE WHEN d.dropped >= 0 THEN %1$s END, 'spock_output') AS s$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.create_slot IS
'Creates a replication slot for Spock, and returns its position, lsn; for PostgreSQL 16 and earlier. First drops a
slot of that name that has lost its WAL, which can never be used again.';
REVOKE ALL ON FUNCTION zodan.create_slot FROM PUBLIC;

CREATE FUNCTION zodan.create_failover_slot(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT s.lsn
  FROM (
SELECT pg_catalog.count(pg_catalog.pg_drop_replication_slot(r.slot_name)) AS dropped
  FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %1$s AND r.wal_status = 'lost') AS d
 CROSS JOIN LATERAL pg_catalog.pg_create_logical_replication_slot(
        CASE WHEN d.dropped >= 0 THEN %1$s END, 'spock_output', failover := coalesce(
            -- Spock 6 does not have the setting: a file may still set it, and nobody reads it then.
            (SELECT g.setting::boolean FROM pg_catalog.pg_settings AS g
                WHERE g.name = 'spock.use_native_failover_slots'),
            (SELECT pg_catalog.bool_or(o.failover) FROM pg_catalog.pg_replication_slots AS o
              WHERE o.plugin = 'spock_output' AND o.database = pg_catalog.current_database()),
            true)) AS s$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.create_failover_slot IS
'Creates a replication slot for Spock, as zodan.create_slot does, on PostgreSQL 17 or later, marked for failover as
Spock itself would there: as spock.use_native_failover_slots says, else like the existing slots, else marked.';
REVOKE ALL ON FUNCTION zodan.create_failover_slot FROM PUBLIC;

CREATE FUNCTION zodan.slot_exists(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT EXISTS (SELECT FROM pg_catalog.pg_replication_slots AS r
    WHERE r.slot_name = %1$s AND r.wal_status IS DISTINCT FROM 'lost') AS ok$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.slot_exists IS
'Returns whether a slot exists and has its WAL; for done_sql.';
REVOKE ALL ON FUNCTION zodan.slot_exists FROM PUBLIC;

CREATE FUNCTION zodan.wait_slot_free(p_slot text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT NOT r.active AS ok FROM pg_catalog.pg_replication_slots AS r WHERE r.slot_name = %1$s$sql$,
    zodan.quote_text(p_slot))
$zodan$;
COMMENT ON FUNCTION zodan.wait_slot_free IS
'Returns whether nobody streams from a slot; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_slot_free FROM PUBLIC;

CREATE FUNCTION zodan.wait_structure(p_subscription text, p_tables text, p_bytes text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(l.*) > 0 AND pg_catalog.bool_and(l.sync_status IN ('r', 'y')) AS ok,
       pg_catalog.concat_ws(' ', pg_catalog.string_agg(l.sync_status::text, ''),
           -- A look must not cost what a sum over all files does.
           pg_catalog.pg_relation_size('pg_catalog.pg_attribute'), pg_catalog.pg_relation_size('pg_catalog.pg_depend'))
           AS progress,
       EXISTS (SELECT FROM (
WITH ours AS MATERIALIZED (
    SELECT a.pid, a.backend_start, a.client_addr,
           pg_catalog.starts_with(a.application_name, %1$s) AS is_session
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = pg_catalog.current_database()
       AND (pg_catalog.starts_with(a.application_name, %1$s) OR EXISTS (
            SELECT FROM spock.subscription AS s
             WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s
               AND a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)'))))
SELECT a.*
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND (a.pid IN (SELECT o.pid FROM ours AS o WHERE o.is_session)
        OR a.application_name IN ('pg_dump', 'pg_restore') AND EXISTS (
           SELECT FROM ours AS o WHERE o.backend_start <= a.backend_start
               AND (NOT o.is_session OR o.client_addr IS NOT DISTINCT FROM a.client_addr)))) AS a
                WHERE a.xact_start IS NOT NULL
    AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Activity', 'Extension'))
           OR coalesce(pg_catalog.bool_or(EXISTS (
               SELECT FROM pg_catalog.pg_stat_activity AS a
                WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
                  AND a.xact_start IS NOT NULL
    AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Activity', 'Extension'))), false) AS alive,
       CASE WHEN pg_catalog.count(s.*) = 0 THEN 'the subscription is gone'
            WHEN NOT pg_catalog.bool_or(s.sub_enabled) THEN
                'the copy failed and the subscription was disabled: '
                || coalesce((
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
            WHEN pg_catalog.bool_or(l.sync_relname IS NULL AND l.sync_status IN ('s', 'd', 'c', 'f'))
                 AND (SELECT t.status FROM spock.sub_show_status(%1$s) AS t) = 'down' THEN
                'the copy broke off and cannot be taken up again: '
                || coalesce((
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
    pg_catalog.format('the server log there says why, shortly before %%s', pg_catalog.clock_timestamp())) END AS trouble,
       pg_catalog.jsonb_build_object('stage', 'structure', 'tables_done', 0, 'tables_total', %2$s::bigint,
           'bytes_done', 0, 'bytes_total', %3$s::bigint) AS measure
  FROM spock.subscription AS s
  LEFT JOIN spock.local_sync_status AS l ON l.sync_subid = s.sub_id
 WHERE s.sub_name = %1$s$sql$,
    zodan.quote_text(p_subscription), zodan.quote_text(p_tables), zodan.quote_text(p_bytes))
$zodan$;
COMMENT ON FUNCTION zodan.wait_structure IS
'Returns whether the structure copy p_subscription is complete on the new node; for until_sql. Spock cannot resume one
that broke off: the statement reports that as trouble. p_tables and p_bytes are what is to be copied afterwards, as
zodan.size_copy returned them.';
REVOKE ALL ON FUNCTION zodan.wait_structure FROM PUBLIC;

CREATE FUNCTION zodan.note_objects()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_agg(u.classid || ':' || u.objid), '[]') AS objects,
       pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    pg_catalog.current_setting('data_directory'),
    (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())) AS identity,
       extract(epoch FROM pg_catalog.clock_timestamp()) AS at
  FROM (
SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u$sql$
$zodan$;
COMMENT ON FUNCTION zodan.note_objects IS
'Records what the new database holds before the copy. It returns one row: objects, an array of class:oid; identity,
which database that was; and at, the time by its clock.';
REVOKE ALL ON FUNCTION zodan.note_objects FROM PUBLIC;

CREATE FUNCTION zodan.drop_copied(p_objects text, p_node text, p_identity text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_before jsonb := (SELECT coalesce(pg_catalog.jsonb_object_agg(b.name, true), '{}')
        FROM pg_catalog.jsonb_array_elements_text(%1$s::jsonb) AS b(name));
    v_object record;
    v_statement text;
BEGIN
    IF (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id) IS DISTINCT
        FROM %2$s THEN
        RETURN;
    ELSIF %3$s <> pg_catalog.concat_ws(':', (SELECT c.system_identifier FROM pg_catalog.pg_control_system() AS c),
    pg_catalog.current_setting('data_directory'),
    (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())) THEN
        RAISE EXCEPTION 'this is not the database that the copy went to';
    END IF;
    PERFORM pg_catalog.set_config(s.name, 'off', true) FROM pg_catalog.pg_settings AS s WHERE s.name = 'event_triggers';
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    FOR v_object IN SELECT u.* FROM (SELECT o.classid, o.objid, i.type, i.identity, o.rank
  FROM (SELECT 'pg_catalog.pg_event_trigger'::regclass::oid AS classid, a.oid AS objid, NULL::oid AS space, 1 AS rank
      FROM pg_catalog.pg_event_trigger AS a
        UNION ALL SELECT 'pg_catalog.pg_subscription'::regclass, u.oid, NULL, 2 FROM pg_catalog.pg_subscription AS u
                   WHERE u.subdbid = (SELECT d.oid FROM pg_catalog.pg_database AS d
                       WHERE d.datname = pg_catalog.current_database())
        UNION ALL SELECT 'pg_catalog.pg_namespace'::regclass, n.oid, n.oid, 3 FROM pg_catalog.pg_namespace AS n
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass, c.oid, c.relnamespace, 4 FROM pg_catalog.pg_class AS c
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
        UNION ALL SELECT 'pg_catalog.pg_proc'::regclass, p.oid, p.pronamespace, 4 FROM pg_catalog.pg_proc AS p
        UNION ALL SELECT 'pg_catalog.pg_type'::regclass, t.oid, t.typnamespace, 4 FROM pg_catalog.pg_type AS t
            WHERE t.typtype <> 'm'
        UNION ALL SELECT 'pg_catalog.pg_operator'::regclass, r.oid, r.oprnamespace, 4 FROM pg_catalog.pg_operator AS r
        UNION ALL SELECT 'pg_catalog.pg_opclass'::regclass, k.oid, k.opcnamespace, 4 FROM pg_catalog.pg_opclass AS k
        UNION ALL SELECT 'pg_catalog.pg_opfamily'::regclass, f.oid, f.opfnamespace, 4 FROM pg_catalog.pg_opfamily AS f
        UNION ALL SELECT 'pg_catalog.pg_collation'::regclass, l.oid, l.collnamespace, 4
            FROM pg_catalog.pg_collation AS l
        UNION ALL SELECT 'pg_catalog.pg_conversion'::regclass, v.oid, v.connamespace, 4
            FROM pg_catalog.pg_conversion AS v
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass, s.oid, s.stxnamespace, 4
            FROM pg_catalog.pg_statistic_ext AS s
        UNION ALL SELECT 'pg_catalog.pg_ts_config'::regclass, g.oid, g.cfgnamespace, 4 FROM pg_catalog.pg_ts_config AS g
        UNION ALL SELECT 'pg_catalog.pg_ts_dict'::regclass, d.oid, d.dictnamespace, 4 FROM pg_catalog.pg_ts_dict AS d
        UNION ALL SELECT 'pg_catalog.pg_ts_parser'::regclass, q.oid, q.prsnamespace, 4 FROM pg_catalog.pg_ts_parser AS q
        UNION ALL SELECT 'pg_catalog.pg_ts_template'::regclass, m.oid, m.tmplnamespace, 4
            FROM pg_catalog.pg_ts_template AS m
        UNION ALL SELECT 'pg_catalog.pg_publication'::regclass, b.oid, NULL, 4 FROM pg_catalog.pg_publication AS b
        UNION ALL SELECT 'pg_catalog.pg_foreign_data_wrapper'::regclass, w.oid, NULL, 4
            FROM pg_catalog.pg_foreign_data_wrapper AS w
        UNION ALL SELECT 'pg_catalog.pg_foreign_server'::regclass, z.oid, NULL, 4 FROM pg_catalog.pg_foreign_server AS z
        UNION ALL SELECT 'pg_catalog.pg_user_mapping'::regclass, h.oid, NULL, 4 FROM pg_catalog.pg_user_mapping AS h
        UNION ALL SELECT 'pg_catalog.pg_language'::regclass, y.oid, NULL, 4 FROM pg_catalog.pg_language AS y
        UNION ALL SELECT 'pg_catalog.pg_cast'::regclass, x.oid, NULL, 4 FROM pg_catalog.pg_cast AS x
        UNION ALL SELECT 'pg_catalog.pg_transform'::regclass, j.oid, NULL, 4 FROM pg_catalog.pg_transform AS j
        UNION ALL SELECT 'pg_catalog.pg_am'::regclass, am.oid, NULL, 4 FROM pg_catalog.pg_am AS am
        UNION ALL SELECT 'pg_catalog.pg_default_acl'::regclass, da.oid, NULL, 4 FROM pg_catalog.pg_default_acl AS da
        UNION ALL SELECT 'pg_catalog.pg_largeobject'::regclass, lo.oid, NULL, 4
            FROM pg_catalog.pg_largeobject_metadata AS lo
        UNION ALL SELECT 'pg_catalog.pg_extension'::regclass, e.oid, NULL, 5 FROM pg_catalog.pg_extension AS e
                   WHERE e.extname NOT IN ('spock', 'pglogical', 'dblink', 'zodan', 'plpgsql')) AS o
 CROSS JOIN LATERAL pg_catalog.pg_identify_object(o.classid, o.objid, 0) AS i
 WHERE o.objid >= 16384
   AND coalesce(o.space::regnamespace::text, '') !~ '^(pg_.*|information_schema|spock|pglogical|zodan)$'
   -- Default privileges hang on their schema, which may have been there before.
   AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend AS d
                    -- A column may depend on its own table: one of the key of a partitioned table, a generated one.
                    WHERE d.classid = o.classid AND d.objid = o.objid AND d.objsubid = 0
                      AND (d.deptype IN ('e', 'i') OR d.deptype = 'a'
                          AND d.classid <> 'pg_catalog.pg_default_acl'::regclass))) AS u
        WHERE NOT v_before ? (u.classid || ':' || u.objid) ORDER BY u.rank, u.objid LOOP
        -- What went with an earlier object no longer has an identity.
        CONTINUE WHEN (SELECT i.identity FROM pg_catalog.pg_identify_object(v_object.classid, v_object.objid,
            0) AS i) IS NULL;
        FOR v_statement IN             SELECT s.statement FROM (
            SELECT 1 AS place, CASE v_object.type
                WHEN 'user mapping' THEN (SELECT pg_catalog.format('DROP USER MAPPING IF EXISTS FOR %%s SERVER %%I', CASE
                    WHEN m.umuser = 0 THEN 'PUBLIC' ELSE m.umuser::regrole::text END, f.srvname)
                                            FROM pg_catalog.pg_user_mapping AS m JOIN pg_catalog.pg_foreign_server AS f
                                                ON f.oid = m.umserver WHERE m.oid = v_object.objid)
                WHEN 'transform' THEN (SELECT pg_catalog.format('DROP TRANSFORM IF EXISTS FOR %%s LANGUAGE %%I CASCADE',
                    pg_catalog.format_type(t.trftype, NULL), l.lanname)
                                         FROM pg_catalog.pg_transform AS t JOIN pg_catalog.pg_language AS l
                                             ON l.oid = t.trflang WHERE t.oid = v_object.objid)
                WHEN 'large object' THEN pg_catalog.format('SELECT pg_catalog.lo_unlink(%%s)', v_object.objid)
                WHEN 'subscription' THEN pg_catalog.format('ALTER SUBSCRIPTION %%s DISABLE', v_object.identity)
                WHEN 'default acl' THEN NULL
                ELSE pg_catalog.format('DROP %%s IF EXISTS %%s CASCADE', CASE v_object.type WHEN 'composite type'
                    THEN 'type' WHEN 'statistics object' THEN 'statistics'
                         ELSE pg_catalog.replace(v_object.type, '-', ' ') END, v_object.identity) END AS statement
            UNION ALL SELECT 2, pg_catalog.format('ALTER SUBSCRIPTION %%s SET (slot_name = NONE)', v_object.identity)
                WHERE v_object.type = 'subscription'
            UNION ALL SELECT 3, pg_catalog.format('DROP SUBSCRIPTION %%s', v_object.identity)
                WHERE v_object.type = 'subscription'
            UNION ALL
            SELECT g.place, pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %%s%%s %%s ALL ON %%s %%s %%s',
                a.defaclrole::regrole, ' IN SCHEMA ' || nullif(a.defaclnamespace::regnamespace::text, '-'), g.verb,
                       CASE a.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'FUNCTIONS'
                           WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' WHEN 'L' THEN 'LARGE OBJECTS' END,
                       g.way, CASE WHEN g.grantee = 0 THEN 'PUBLIC' ELSE g.grantee::regrole::text END)
              FROM pg_catalog.pg_default_acl AS a
             CROSS JOIN LATERAL (
                    SELECT DISTINCT 4 AS place, 'REVOKE' AS verb, 'FROM' AS way, x.grantee
                        FROM pg_catalog.aclexplode(a.defaclacl) AS x
                    UNION ALL SELECT 5, 'GRANT', 'TO', a.defaclrole WHERE a.defaclnamespace = 0
                    UNION ALL SELECT 6, 'GRANT', 'TO', 0 WHERE a.defaclnamespace = 0
                        AND a.defaclobjtype IN ('f', 'T')) AS g
             WHERE v_object.type = 'default acl' AND a.oid = v_object.objid) AS s
             WHERE s.statement IS NOT NULL ORDER BY s.place LOOP
            EXECUTE v_statement;
        END LOOP;
    END LOOP;
END
$do$$sql$,
    zodan.quote_result(p_objects), zodan.quote_text(p_node), zodan.quote_result(p_identity))
$zodan$;
COMMENT ON FUNCTION zodan.drop_copied IS
'Undoes a copy: drops every object of the new database that p_objects (a placeholder for the result of
zodan.note_objects) does not name. It acts only in the very database that was recorded, and only while that is node
p_node, as it was when the copy came; anywhere else it drops nothing. It first detaches a subscription of PostgreSQL''s
own from its slot, because that slot is at the publisher and somebody else''s. No event trigger may forbid the drop, as
far as PostgreSQL can do without them.';
REVOKE ALL ON FUNCTION zodan.drop_copied FROM PUBLIC;

CREATE FUNCTION zodan.end_sessions(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(c.pid)) AS ended FROM (
WITH ours AS MATERIALIZED (
    SELECT a.pid, a.backend_start, a.client_addr,
           pg_catalog.starts_with(a.application_name, %1$s) AS is_session
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = pg_catalog.current_database()
       AND (pg_catalog.starts_with(a.application_name, %1$s) OR EXISTS (
            SELECT FROM spock.subscription AS s
             WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s
               AND a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)'))))
SELECT a.*
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND (a.pid IN (SELECT o.pid FROM ours AS o WHERE o.is_session)
        OR a.application_name IN ('pg_dump', 'pg_restore') AND EXISTS (
           SELECT FROM ours AS o WHERE o.backend_start <= a.backend_start
               AND (NOT o.is_session OR o.client_addr IS NOT DISTINCT FROM a.client_addr)))) AS c$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.end_sessions IS
'Ends the sessions of the copy p_subscription on the node where it runs, and returns how many.';
REVOKE ALL ON FUNCTION zodan.end_sessions FROM PUBLIC;

CREATE FUNCTION zodan.disable_copy(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.count(spock.sub_disable(s.sub_name, false)) AS disabled FROM spock.subscription AS s
    WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.disable_copy IS
'Disables a copy''s subscription, if it exists, so that nothing starts its worker again while the copy is being
undone.';
REVOKE ALL ON FUNCTION zodan.disable_copy FROM PUBLIC;

CREATE FUNCTION zodan.drop_copy(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
BEGIN
    WHILE pg_catalog.clock_timestamp() < v_until AND EXISTS (
        SELECT FROM spock.subscription AS s JOIN pg_catalog.pg_stat_activity AS a ON a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
         WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s)
    LOOP
        PERFORM pg_catalog.pg_terminate_backend(c.pid) FROM (
WITH ours AS MATERIALIZED (
    SELECT a.pid, a.backend_start, a.client_addr,
           pg_catalog.starts_with(a.application_name, %1$s) AS is_session
      FROM pg_catalog.pg_stat_activity AS a
     WHERE a.datname = pg_catalog.current_database()
       AND (pg_catalog.starts_with(a.application_name, %1$s) OR EXISTS (
            SELECT FROM spock.subscription AS s
             WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s
               AND a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)'))))
SELECT a.*
  FROM pg_catalog.pg_stat_activity AS a
 WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid()
   AND (a.pid IN (SELECT o.pid FROM ours AS o WHERE o.is_session)
        OR a.application_name IN ('pg_dump', 'pg_restore') AND EXISTS (
           SELECT FROM ours AS o WHERE o.backend_start <= a.backend_start
               AND (NOT o.is_session OR o.client_addr IS NOT DISTINCT FROM a.client_addr)))) AS c;
        PERFORM pg_catalog.pg_sleep(0.05);
        -- Within a transaction pg_stat_activity is read once.
        PERFORM pg_catalog.pg_stat_clear_snapshot();
    END LOOP;
    PERFORM spock.sub_drop(subscription_name := s.sub_name, ifexists := true) FROM spock.subscription AS s WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s;
END
$do$$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_copy IS
'Drops the disabled subscription of a copy, whatever its worker is doing. A worker that copies does not hear that it
must end: it waits for what its own session on this node does, and Spock''s drop would wait for the worker. So the
statement first ends the worker''s sessions, until the worker is gone, 30 s at
most.';
REVOKE ALL ON FUNCTION zodan.drop_copy FROM PUBLIC;

CREATE FUNCTION zodan.end_structure(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + interval '30 s';
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.relation = 'spock.local_node'::regclass AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
          AND l.pid <> pg_catalog.pg_backend_pid()
          AND EXISTS (SELECT FROM pg_catalog.pg_database AS d
                       WHERE d.oid = l.database AND d.datname = pg_catalog.current_database())) THEN
        PERFORM spock.sub_disable(s.sub_name, false) FROM spock.subscription AS s
          WHERE s.sub_name = %1$s;
    END IF;
    PERFORM pg_catalog.pg_terminate_backend(a.pid)
       FROM pg_catalog.pg_stat_activity AS a JOIN spock.subscription AS s ON s.sub_name = %1$s
      WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)');
    PERFORM spock.sub_disable(s.sub_name, false) FROM spock.subscription AS s
      WHERE s.sub_name = %1$s;
    WHILE pg_catalog.clock_timestamp() < v_until AND EXISTS (
        SELECT FROM pg_catalog.pg_stat_activity AS a JOIN spock.subscription AS s ON s.sub_name = %1$s
         WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')) LOOP
        PERFORM pg_catalog.pg_sleep(0.005);
        PERFORM pg_catalog.pg_stat_clear_snapshot();
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.end_structure IS
'Disables the subscription that has brought the structure, if it exists, and ends its worker, which has nothing more
to apply. Where Spock''s manager waits for a worker to start, the end of one wakes it: then this comes first. Otherwise
it must not start the worker again.';
REVOKE ALL ON FUNCTION zodan.end_structure FROM PUBLIC;

CREATE FUNCTION zodan.drop_ended(p_subscription text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.bool_and(CASE
       WHEN EXISTS (SELECT FROM pg_catalog.pg_locks AS l
        WHERE l.relation = 'spock.local_node'::regclass AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted
          AND l.pid <> pg_catalog.pg_backend_pid()
          AND EXISTS (SELECT FROM pg_catalog.pg_database AS d
                       WHERE d.oid = l.database AND d.datname = pg_catalog.current_database()))
       THEN NOT (spock.sub_add_repset(s.sub_name, 'zodan_wake')
           AND spock.sub_remove_repset(s.sub_name, 'zodan_wake'))
       ELSE spock.sub_drop(subscription_name := s.sub_name, ifexists := true) IS NOT NULL END), true) AS ok
  FROM spock.subscription AS s
 WHERE pg_catalog.regexp_replace(s.sub_name::text, '^[0-9]+ ', '') = %1$s$sql$,
    zodan.quote_text(p_subscription))
$zodan$;
COMMENT ON FUNCTION zodan.drop_ended IS
'Drops a subscription that is disabled, if it exists, with its origin and its slot on the provider: ok, once that is
done. As long as Spock''s manager is starting workers the drop would wait for it. A change of a subscription wakes the
manager, so until then this one takes a set and leaves it again.';
REVOKE ALL ON FUNCTION zodan.drop_ended FROM PUBLIC;

CREATE FUNCTION zodan.clear_names(p_slots text[], p_origins text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_slot record;
BEGIN
    FOR v_slot IN
        SELECT r.slot_name, r.active_pid FROM pg_catalog.pg_replication_slots AS r
            WHERE r.slot_name::text = ANY (%1$s)
    LOOP
        RAISE EXCEPTION 'slot "%%" is there already, %%', v_slot.slot_name,
            coalesce('and process ' || v_slot.active_pid || ' streams from it',
                'and nobody streams from it; drop it if no subscriber needs it');
    END LOOP;
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname)
       FROM pg_catalog.pg_replication_origin AS o
      WHERE o.roname = ANY (%2$s) AND NOT EXISTS (SELECT FROM spock.subscription AS s WHERE s.sub_slot_name = o.roname);
END
$do$$sql$,
    zodan.quote_list(p_slots), zodan.quote_list(p_origins))
$zodan$;
COMMENT ON FUNCTION zodan.clear_names IS
'Makes sure on a node that the names of a new node''s streams are free: drops unused origins with the names in
p_origins. A slot with a name in p_slots stops the join, because it may hold what a subscriber outside this cluster
still needs.';
REVOKE ALL ON FUNCTION zodan.clear_names FROM PUBLIC;

CREATE FUNCTION zodan.drop_roles(p_node text, p_brought text[], p_before text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_role text;
BEGIN
    IF (SELECT n.node_name FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id) IS DISTINCT
        FROM %1$s THEN
        RETURN;
    END IF;
    FOR v_role IN SELECT r.rolname FROM pg_catalog.pg_roles AS r WHERE r.rolname::text = ANY (%2$s)
        AND NOT %3$s::jsonb ? r.rolname::text LOOP
        EXECUTE pg_catalog.format('DROP OWNED BY %%I', v_role);
        EXECUTE pg_catalog.format('DROP ROLE %%I', v_role);
    END LOOP;
END
$do$$sql$,
    zodan.quote_text(p_node), zodan.quote_list(p_brought), zodan.quote_result(p_before))
$zodan$;
COMMENT ON FUNCTION zodan.drop_roles IS
'Drops the roles that came from the source: those of p_brought that p_before (the names recorded before) does not
hold. Only while the database is node p_node.';
REVOKE ALL ON FUNCTION zodan.drop_roles FROM PUBLIC;

CREATE FUNCTION zodan.view_is_filled(p_view text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT NOT EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = pg_catalog.to_regclass(%1$s)
    AND NOT c.relispopulated) AS ok$sql$,
    zodan.quote_text(p_view))
$zodan$;
COMMENT ON FUNCTION zodan.view_is_filled IS
'Returns whether a materialized view, its name schema-qualified and quoted, has its rows or no longer exists; for
done_sql.';
REVOKE ALL ON FUNCTION zodan.view_is_filled FROM PUBLIC;

CREATE FUNCTION zodan.refresh_view(p_schema text, p_view text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
BEGIN
    PERFORM pg_catalog.set_config('search_path', s.reset_val, true)
       FROM pg_catalog.pg_settings AS s WHERE s.name = 'search_path';
    REFRESH MATERIALIZED VIEW %1$s.%2$s;
END
$do$$sql$,
    zodan.quote_name(p_schema), zodan.quote_name(p_view))
$zodan$;
COMMENT ON FUNCTION zodan.refresh_view IS
'Fills the materialized view p_view of schema p_schema with the search_path that sessions of this database have,
because functions in it may rely on that.';
REVOKE ALL ON FUNCTION zodan.refresh_view FROM PUBLIC;

CREATE FUNCTION zodan.gather_more(p_facts jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Adds to what zodan.gather_facts returned, over the connections it left open and on all nodes at once: clock (the
node's, and the caller's before and after), host, tables and, where Spock is, streams. unread names what could not be
read. Never raises an error. */
DECLARE
    v_facts jsonb := p_facts;
    v_kind text;
    v_query text;
    v_answers jsonb;
    v_answer jsonb;
    v_node text;
    v_sent timestamptz;
BEGIN
    FOR v_kind, v_query IN VALUES
        ('clock', 'SELECT pg_catalog.jsonb_build_object(''at'', extract(epoch FROM pg_catalog.clock_timestamp())) AS facts'),
        ('host', zodan.host_facts()), ('tables', zodan.table_facts()), ('streams', zodan.stream_facts('{}'))
    LOOP
        v_sent := pg_catalog.clock_timestamp();
        v_answers := zodan.query_nodes((SELECT coalesce(pg_catalog.jsonb_object_agg(f.key, v_query), '{}')
              FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
             WHERE NOT f.value ? 'error' AND (v_kind <> 'streams' OR f.value ? 'spock')), p_dsns);
        FOR v_node, v_answer IN SELECT a.key, a.value FROM pg_catalog.jsonb_each(v_answers) AS a(key, value) LOOP
            v_facts := v_facts || pg_catalog.jsonb_build_object(v_node, (v_facts -> v_node) || CASE
                WHEN NOT (v_answer ->> 'ok')::boolean THEN pg_catalog.jsonb_build_object('unread', v_kind || ': '
                    || (v_answer ->> 'message'))
                WHEN v_kind = 'clock' THEN pg_catalog.jsonb_build_object('clock', (v_answer #> '{value,facts}')
                    || pg_catalog.jsonb_build_object(
                    'sent', extract(epoch FROM v_sent), 'received', extract(epoch FROM pg_catalog.clock_timestamp())))
                ELSE pg_catalog.jsonb_build_object(v_kind, v_answer #> '{value,facts}') END);
        END LOOP;
    END LOOP;
    RETURN v_facts;
END
$zodan$;
COMMENT ON FUNCTION zodan.gather_more IS
'Adds to what zodan.gather_facts returned, over the connections it left open and on all nodes at once: clock (the
node''s, and the caller''s before and after), host, tables and, where Spock is, streams. unread names what could not be
read. Never raises an error.';
REVOKE ALL ON FUNCTION zodan.gather_more FROM PUBLIC;

CREATE FUNCTION zodan.probe_pairs(p_facts jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Lets every node try to connect to every other one, plainly and for replication, all nodes at once. To another
member each uses the connection string that it knows itself. Returns an object of node, then of target, then of
connection, identity and replication, with the fault, NULL where it worked. Changes nothing. */
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
              FROM pg_catalog.jsonb_each(zodan.query_nodes(v_queries, v_dsns || p_dsns)) AS r(key, value));
END
$zodan$;
COMMENT ON FUNCTION zodan.probe_pairs IS
'Lets every node try to connect to every other one, plainly and for replication, all nodes at once. To another
member each uses the connection string that it knows itself. Returns an object of node, then of target, then of
connection, identity and replication, with the fault, NULL where it worked. Changes nothing.';
REVOKE ALL ON FUNCTION zodan.probe_pairs FROM PUBLIC;

CREATE FUNCTION zodan.list_fenced(p_facts jsonb, p_join jsonb)
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(o.name ORDER BY o.name), '{}')
  FROM pg_catalog.jsonb_array_elements_text(p_facts #> ARRAY[p_join ->> 'source', 'fenced']) AS o(name)
 WHERE p_facts #> ARRAY[p_join ->> 'new', 'fenced'] ? o.name AND o.name ~ '^[a-z_][a-z0-9_]*$'
$zodan$;
COMMENT ON FUNCTION zodan.list_fenced IS
'Returns the names of the schemas that are on source and new node and hold, on both, nothing but extensions: a copy
leaves them out. Only plain names, because Spock passes them to pg_dump as a pattern.';
REVOKE ALL ON FUNCTION zodan.list_fenced FROM PUBLIC;

CREATE FUNCTION zodan.list_published(p_facts jsonb, p_join jsonb)
RETURNS SETOF jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT i.item
  -- OFFSET 0: once, and not again for every row.
  FROM (SELECT zodan.list_exchanged(p_facts, p_join) AS sets OFFSET 0) AS x
 CROSS JOIN pg_catalog.jsonb_array_elements(p_facts #> ARRAY[p_join ->> 'source', 'streams', 'tables']) AS i(item)
 WHERE i.item ->> 'set' = ANY (x.sets)
$zodan$;
COMMENT ON FUNCTION zodan.list_published IS
'Returns the tables of the source in the replication sets that the members take from one another, one row per table
and set, as zodan.read_sets returns them: set, table, columns and filter.';
REVOKE ALL ON FUNCTION zodan.list_published FROM PUBLIC;

CREATE FUNCTION zodan.compare_structure(p_facts jsonb, p_join jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Compares, over the open connections, the structure of the new node with that of the source, object by object, and
looks for rows on the new node. Returns an object: differing and filled, arrays for people; or unread, why one of them
could not be read. Never raises an error. */
DECLARE
    v_new text := p_join ->> 'new';
    v_source text := p_join ->> 'source';
    v_exact text := ((p_facts #>> ARRAY[v_source, 'version_num'])::int / 10000
        = (p_facts #>> ARRAY[v_new, 'version_num'])::int / 10000)::text;
    v_query text;
    v_answers jsonb;
    v_filled jsonb;
BEGIN
    v_query := zodan.describe_structure(p_brief => 'false', p_exact => v_exact);
    v_answers := zodan.query_nodes(pg_catalog.jsonb_build_object(v_new, v_query, v_source, v_query), p_dsns);
    v_filled := zodan.query_nodes(pg_catalog.jsonb_build_object(v_new, zodan.list_filled()), p_dsns) -> v_new;
    IF NOT ((v_answers #>> ARRAY[v_new, 'ok'])::boolean AND (v_answers #>> ARRAY[v_source, 'ok'])::boolean
            AND (v_filled ->> 'ok')::boolean) THEN
        RETURN pg_catalog.jsonb_build_object('unread', 'structure: ' || pg_catalog.concat_ws('; ',
            v_answers #>> ARRAY[v_source, 'message'], v_answers #>> ARRAY[v_new, 'message'], v_filled ->> 'message'));
    END IF;
    RETURN pg_catalog.jsonb_build_object('filled', v_filled #> '{value,facts}', 'differing', (
        SELECT coalesce(pg_catalog.jsonb_agg(CASE WHEN n.key IS NULL THEN pg_catalog.format('%s is missing on %s', s.key, v_new)
                   WHEN s.key IS NULL THEN pg_catalog.format('%s is missing on %s', n.key, v_source)
                   ELSE pg_catalog.format('%s is "%s" on %s, "%s" on %s', s.key, s.value, v_source, n.value, v_new) END), '[]')
          FROM pg_catalog.jsonb_each_text(v_answers #> ARRAY[v_source, 'value', 'facts']) AS s
          FULL JOIN pg_catalog.jsonb_each_text(v_answers #> ARRAY[v_new, 'value', 'facts']) AS n ON n.key = s.key
         WHERE s.value IS DISTINCT FROM n.value
           AND NOT (s.key IS NULL AND pg_catalog.starts_with(n.key, 'extension '))));
END
$zodan$;
COMMENT ON FUNCTION zodan.compare_structure IS
'Compares, over the open connections, the structure of the new node with that of the source, object by object, and
looks for rows on the new node. Returns an object: differing and filled, arrays for people; or unread, why one of them
could not be read. Never raises an error.';
REVOKE ALL ON FUNCTION zodan.compare_structure FROM PUBLIC;

CREATE FUNCTION zodan.gather_structure(p_facts jsonb, p_join jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
SET plan_cache_mode = force_generic_plan
AS $zodan$
/* Adds to the facts of source and new node, if both can be reached and the new one is not a node yet, whether the
structure of the source can be made on the new node: structure, and on the new node trial, on the source references;
and for a structure that is there already, present. unread names what could not be read. Rolls back what it tries. Never raises an error. */
DECLARE
    v_new text := p_join ->> 'new';
    v_source text := p_join ->> 'source';
    v_facts jsonb := p_facts;
    v_objects jsonb;
    v_answers jsonb;
    v_answer record;
    v_filters jsonb;
BEGIN
    IF v_new IS NULL OR NOT v_facts -> v_source ? 'streams' OR NOT v_facts -> v_new ? 'tables'
        OR v_facts #>> ARRAY[v_new, 'spock', 'node'] IS NOT NULL THEN
        RETURN v_facts;
    END IF;
    v_objects := zodan.query_nodes(pg_catalog.jsonb_build_object(v_new, zodan.object_facts()), p_dsns) #> ARRAY[v_new,
        'value', 'facts'];
    v_answers := zodan.query_nodes(pg_catalog.jsonb_build_object(
        v_new, zodan.structure_facts('[]'), v_source, zodan.structure_facts(coalesce(v_objects, '[]')::text)), p_dsns);
    FOR v_answer IN SELECT a.key, a.value, a.value #> '{value,facts}' AS facts
        FROM pg_catalog.jsonb_each(v_answers) AS a(key, value) LOOP
        v_facts := v_facts || pg_catalog.jsonb_build_object(v_answer.key, (v_facts -> v_answer.key) || CASE
            WHEN v_answer.facts IS NULL
            THEN pg_catalog.jsonb_build_object('unread', 'structure: ' || (v_answer.value ->> 'message'))
            ELSE pg_catalog.jsonb_build_object('structure', v_answer.facts) END);
    END LOOP;
    SELECT coalesce(pg_catalog.jsonb_object_agg(t.name, t.filter), '{}') INTO v_filters
      FROM (SELECT i.item ->> 'table' AS name,
                   CASE WHEN pg_catalog.bool_and(i.item ->> 'filter' IS NOT NULL)
                       THEN pg_catalog.string_agg(pg_catalog.format('(%s)', i.item ->> 'filter'), ' OR ') END AS filter
              FROM zodan.list_published(v_facts, p_join) AS i(item) GROUP BY i.item ->> 'table') AS t;
    v_answers := zodan.query_nodes(pg_catalog.jsonb_build_object(
        v_new, zodan.try_structure(coalesce(v_facts #> ARRAY[v_source, 'structure', 'extensions'], '{}')::text),
        v_source, zodan.try_references(p_filters => v_filters::text,
            p_references => coalesce(v_facts #> ARRAY[v_source, 'structure', 'references'], '[]')::text)), p_dsns);
    FOR v_answer IN SELECT a.key, a.value FROM pg_catalog.jsonb_each(v_answers) AS a(key, value) LOOP
        v_facts := v_facts || pg_catalog.jsonb_build_object(v_answer.key, (v_facts -> v_answer.key) || CASE
            WHEN v_answer.value ->> 'sqlstate' = 'ZD000'
            THEN pg_catalog.jsonb_build_object(CASE v_answer.key WHEN v_new THEN 'trial' ELSE 'references' END,
                (v_answer.value ->> 'detail')::jsonb)
            ELSE pg_catalog.jsonb_build_object('unread', 'what was tried: ' || (v_answer.value ->> 'message')) END);
    END LOOP;
    IF p_join ->> 'structure' = 'present' THEN
        -- A physical copy has the structure and the rows of the source.
        v_facts := pg_catalog.jsonb_set(v_facts, ARRAY[v_new, 'present'], CASE WHEN (p_join ->> 'clone')::boolean THEN '{}'
            ELSE zodan.compare_structure(v_facts, p_join, p_dsns) END);
    END IF;
    RETURN v_facts;
END
$zodan$;
COMMENT ON FUNCTION zodan.gather_structure IS
'Adds to the facts of source and new node, if both can be reached and the new one is not a node yet, whether the
structure of the source can be made on the new node: structure, and on the new node trial, on the source references;
and for a structure that is there already, present. unread names what could not be read. Rolls back what it tries. Never raises an error.';
REVOKE ALL ON FUNCTION zodan.gather_structure FROM PUBLIC;

CREATE FUNCTION zodan.size_copy(p_source text, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Reads, over the open connection, how many tables and bytes the source has to copy, against which the progress of a
copy is measured. What could not be read is null: progress is for people, and no reason to stop. */
DECLARE
    v_answers jsonb;
BEGIN
    v_answers := zodan.query_nodes(pg_catalog.jsonb_build_object(p_source, zodan.copy_facts()), p_dsns);
    RETURN pg_catalog.jsonb_build_object('tables', v_answers #> ARRAY[p_source, 'value', 'tables'], 'bytes',
        v_answers #> ARRAY[p_source, 'value', 'bytes']);
END
$zodan$;
COMMENT ON FUNCTION zodan.size_copy IS
'Reads, over the open connection, how many tables and bytes the source has to copy, against which the progress of a
copy is measured. What could not be read is null: progress is for people, and no reason to stop.';
REVOKE ALL ON FUNCTION zodan.size_copy FROM PUBLIC;

CREATE FUNCTION zodan.check_readable(p_facts jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'readable', 'readable', f.key, 'fail', NOT f.value ? 'unread',
       coalesce('could not read ' || (f.value ->> 'unread'), 'all facts read'), 'catalogs that the role may read',
       'Connect as a superuser, and see the message for what else is in the way.'
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 WHERE NOT f.value ? 'error'
$zodan$;
COMMENT ON FUNCTION zodan.check_readable IS
'Checks that everything the checks need could be read on every node that was reached; no other check reports what
could not.';
REVOKE ALL ON FUNCTION zodan.check_readable FROM PUBLIC;

CREATE FUNCTION zodan.check_pairs(p_probes jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE t.kind WHEN 'replication' THEN 'replication-connections' WHEN 'identity' THEN 'same-from-everywhere'
    ELSE 'reachable-from-each-other' END,
       CASE t.kind WHEN 'replication' THEN 'reachable for replication' WHEN 'identity' THEN 'the same from everywhere'
           ELSE 'reachable from each other' END, t.source || ' -> ' || coalesce(nullif(t.target, ''), '?'),
       CASE WHEN t.target <> '' AND p_join ->> 'new' IN (t.source, t.target) THEN 'fail' ELSE 'warn' END,
           t.fault IS NULL,
       coalesce(t.fault, CASE t.kind WHEN 'identity' THEN 'the same database' ELSE 'connected' END),
       CASE t.kind WHEN 'replication' THEN 'a connection in replication mode from node to node'
                   WHEN 'identity' THEN 'a connection string that means the same database on every server'
                       ELSE 'a connection from node to node' END,
       CASE WHEN t.fault LIKE '%$libdir/dblink%' THEN 'Install PostgreSQL''s contrib modules on the server of "'
           || t.source || '".'
            WHEN t.target = '' THEN 'Run this statement''s parts by hand on "' || t.source
                || '" to see what forbids them: a function of dblink in pg_temp.'
            WHEN t.kind = 'identity' THEN 'Give a connection string whose host and port mean that database on "'
                || t.source || '" too: an address, no local name or socket.'
            ELSE 'Check address, firewall, password and pg_hba.conf between the two servers.' END
  FROM (SELECT p.key AS source, o.key AS target, k.key AS kind, k.value AS fault
          FROM pg_catalog.jsonb_each(p_probes) AS p(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_each(p.value) AS o(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_each_text(o.value) AS k(key, value)) AS t
$zodan$;
COMMENT ON FUNCTION zodan.check_pairs IS
'Checks that every node reaches every other one, also for replication, and the same database as the caller does.
p_probes is what zodan.probe_pairs returned. A failure if the new node is one of the two, else a warning: other checks
cover replication between members, and members need no dblink.';
REVOKE ALL ON FUNCTION zodan.check_pairs FROM PUBLIC;

CREATE FUNCTION zodan.check_versions(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, f.key, c.severity, coalesce(c.passed, false), coalesce(c.observed, 'not installed'), c.required,
    c.hint
  FROM (SELECT e.key, e.value, s.value AS source,
               pg_catalog.regexp_match(e.value #>> '{extensions,spock}', '^(\d+\.\d+)\.?([\d.]*)') AS spock,
               pg_catalog.regexp_match(s.value #>> '{extensions,spock}', '^(\d+\.\d+)\.?([\d.]*)') AS source_spock
          FROM pg_catalog.jsonb_each(p_facts) AS e(key, value)
         CROSS JOIN (SELECT p_facts -> (p_join ->> 'source') AS value) AS s
         WHERE NOT e.value ? 'error') AS f
 CROSS JOIN LATERAL (SELECT f.key = p_join ->> 'new' AND NOT p_join ? 'joined' AS joins,
     pg_catalog.string_to_array(f.spock[1], '.')::int[] > pg_catalog.string_to_array(f.source_spock[1], '.')::int[]
     AS is_newer, p_join ->> 'structure' = 'present' AS present) AS n
 CROSS JOIN LATERAL (VALUES
    ('postgresql-version', 'PostgreSQL version', 'fail', (f.value ->> 'version_num')::int >= 150000
         AND (f.key IS DISTINCT FROM p_join ->> 'new' OR f.source ? 'error'
              OR (f.value ->> 'version_num')::int / 10000 >= (f.source ->> 'version_num')::int / 10000),
     f.value ->> 'version', '15 or later, and on the new node no older major version than on the source',
     'Install the PostgreSQL version of the source.'),
    ('same-postgresql-major', 'same PostgreSQL major version', 'warn',
     (f.value ->> 'version_num')::int / 10000 = (f.source ->> 'version_num')::int / 10000,
     f.value ->> 'version', coalesce(f.source ->> 'version', '?') || ', as on the source',
         'Install the PostgreSQL version of the source, unless this is how the cluster is upgraded. Meanwhile change the structure '
         'only with syntax that the oldest server knows: Spock may replicate the statement to it.'),
    ('same-postgresql-minor', 'same PostgreSQL minor version', 'warn',
     f.value -> 'version_num' = f.source -> 'version_num',
     f.value ->> 'version', coalesce(f.source ->> 'version', '?') || ', as on the source',
         'Bring all nodes to the newest minor version.'),
    ('spock', 'Spock', 'fail', (f.value #>> '{spock,pauses}')::boolean,
     coalesce(f.value ->> 'spock_error', f.value #>> '{extensions,spock}'),
     '5.0.7 or later',
     pg_catalog.format('Run CREATE EXTENSION spock, or ALTER EXTENSION spock UPDATE, in database "%s" of node "%s".',
         f.value ->> 'dbname', f.key)),
    -- Members of two versions stream to one another already.
    ('same-spock', 'same Spock version', CASE WHEN n.joins THEN 'fail' ELSE 'warn' END,
     f.spock IS NULL OR f.source_spock IS NULL OR f.spock[1] = f.source_spock[1] OR n.joins AND n.present AND n.is_newer,
     f.value #>> '{extensions,spock}', coalesce(f.source_spock[1], '?') || CASE
         WHEN n.joins AND n.present THEN ', as on the source, or later' ELSE ', as on the source' END,
     CASE WHEN n.joins AND n.is_newer THEN 'Bring the structure with the client (--structure client), or by hand '
         '(structure => ''present''): Spock''s own synchronisation of it needs the same version.'
         ELSE 'Install the Spock version of the source, then run ALTER EXTENSION spock UPDATE.' END),
    ('same-spock-patch', 'same Spock patch level', 'warn', f.spock IS NULL OR f.source_spock IS NULL
     OR f.spock[1] <> f.source_spock[1] OR f.spock[2] = f.source_spock[2],
     f.value #>> '{extensions,spock}', coalesce(f.source #>> '{extensions,spock}', '?') || ', as on the source',
     'Bring all nodes to the newest patch level of Spock.')
 ) AS c(key, name, severity, passed, observed, required, hint)
 WHERE NOT f.source ? 'error' OR c.key IN ('postgresql-version', 'spock')
$zodan$;
COMMENT ON FUNCTION zodan.check_versions IS
'Checks for PostgreSQL 15 or later everywhere, on the new node no older than on the source (its pg_dump must read
the source), and for Spock 5.0.7 or later, which can pause its apply workers. A new
node has the minor version of Spock that the source has, or a newer one if its structure is there already: Spock streams
both ways between such versions, but cannot bring the structure.';
REVOKE ALL ON FUNCTION zodan.check_versions FROM PUBLIC;

CREATE FUNCTION zodan.check_settings(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, f.key, c.severity, coalesce(c.passed, false), coalesce(c.observed, 'unknown'), c.required, c.hint
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(t.name || ' = ' || (f.value #>> ARRAY['host', 'settings', t.name]), ', ') AS list
      FROM (VALUES ('statement_timeout'), ('lock_timeout'), ('transaction_timeout'),
          ('idle_in_transaction_session_timeout')) AS t(name)
     WHERE f.value #>> ARRAY['host', 'settings', t.name] <> '0') AS limits
 CROSS JOIN LATERAL (VALUES
    ('wal-level', 'wal_level', 'fail', f.value #>> '{settings,wal_level}' = 'logical',
     f.value #>> '{settings,wal_level}', 'logical',
     'Set wal_level = logical in postgresql.conf and restart the server.'),
    ('track-commit-timestamp', 'track_commit_timestamp', 'fail', f.value #>> '{settings,track_commit_timestamp}' = 'on',
     f.value #>> '{settings,track_commit_timestamp}', 'on',
     'Set track_commit_timestamp = on in postgresql.conf and restart the server.'),
    ('output-plugin-libraries', 'output_plugin_libraries', 'fail',
     f.value #>> '{settings,output_plugin_libraries}' IS NULL OR 'spock_output' = ANY (pg_catalog.regexp_split_to_array(
         pg_catalog.translate(f.value #>> '{settings,output_plugin_libraries}', ' "', ''), ',')),
     coalesce(f.value #>> '{settings,output_plugin_libraries}', 'no such setting'), 'a list with spock_output in it',
     'Add spock_output to output_plugin_libraries in postgresql.conf and reload.'),
    ('not-a-standby', 'not a standby', 'fail', NOT (f.value ->> 'recovery')::boolean, CASE
     WHEN (f.value ->> 'recovery')::boolean THEN 'in recovery' ELSE 'primary' END,
     'a primary server', 'Give the connection string of the primary.'),
    ('superuser', 'superuser', 'fail', (f.value ->> 'superuser')::boolean, CASE WHEN (f.value ->> 'superuser')::boolean
     THEN 'superuser' ELSE 'not a superuser' END,
     'a superuser, as Spock demands', 'Connect as a superuser.'),
    ('shared-preload-libraries', 'shared_preload_libraries', 'fail', f.value #>> '{host,library}' IS NULL
     OR f.value #>> '{host,library}' = ANY (
         pg_catalog.regexp_split_to_array(pg_catalog.regexp_replace(
             f.value #>> '{host,settings,shared_preload_libraries}', '[ "]|\$libdir/|\.so', '', 'g'), ',')),
     f.value #>> '{host,settings,shared_preload_libraries}', 'a list with '
         || coalesce(f.value #>> '{host,library}', 'Spock''s library') || ' in it',
     'Add it to shared_preload_libraries in postgresql.conf and restart the server.'),
    ('writable', 'writable', 'fail', f.value #>> '{host,settings,default_transaction_read_only}' = 'off'
     AND coalesce(f.value #>> '{host,settings,spock.readonly}', 'off') <> 'all',
     pg_catalog.format('default_transaction_read_only %s, spock.readonly %s',
         f.value #>> '{host,settings,default_transaction_read_only}',
         coalesce(f.value #>> '{host,settings,spock.readonly}', 'not set')),
     'a database that may be written to',
         'Set default_transaction_read_only and spock.readonly to off for the database and the role.'),
    ('time-limits', 'no time limits', 'warn', limits.list IS NULL, coalesce(limits.list, 'none'),
     'none, because the copy is one long statement',
     'Reset them for the role and the database that the connection string names.'),
    ('pause-timeout', 'pause_timeout', 'warn', coalesce(nullif(f.value #>> '{host,pause}', '')::interval,
     '10 s') >= '10 s'::interval,
     coalesce(nullif(f.value #>> '{host,pause}', ''), 'not set'),
         '10 s or more, because the flip is undone when a pause ends too soon',
     'Raise spock.pause_timeout in postgresql.conf and reload.')
 ) AS c(key, name, severity, passed, observed, required, hint)
 WHERE NOT f.value ? 'error' AND (f.value ? 'host' OR c.key IN ('wal-level', 'track-commit-timestamp',
     'output-plugin-libraries', 'not-a-standby', 'superuser'))
$zodan$;
COMMENT ON FUNCTION zodan.check_settings IS
'Checks the server settings and rights without which a join would fail half-way: logical WAL, commit timestamps, the
output plugin allowed where PostgreSQL keeps a list, Spock preloaded, no hot standby, a superuser, nothing read-only.
Warns of time limits that a copy would exceed and of a pause too short for the flip.';
REVOKE ALL ON FUNCTION zodan.check_settings FROM PUBLIC;

CREATE FUNCTION zodan.check_sessions(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, f.key, c.severity, coalesce(c.passed, false), coalesce(c.observed, 'unknown'), c.required, c.hint
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN (SELECT p_facts #> ARRAY[p_join ->> 'source', 'tables', 'types'] AS types,
     p_facts #>> ARRAY[p_join ->> 'source', 'host', 'settings', 'lc_monetary'] AS money) AS s
 CROSS JOIN LATERAL (SELECT f.value #> '{host,settings}' AS is) AS g
 CROSS JOIN LATERAL (VALUES
    ('client-encoding', 'client encoding', 'fail', NOT (f.value #>> '{host,converts}')::boolean,
     g.is ->> 'client_encoding', 'the encoding of the database, in which nothing is converted',
     'Run ALTER ROLE ... RESET client_encoding, ALTER DATABASE ... or ALTER SYSTEM, whichever set it.'),
    ('monetary-locale', 'monetary locale', 'fail', NOT coalesce(s.types ? 'money', false)
     OR g.is ->> 'lc_monetary' = s.money, g.is ->> 'lc_monetary', coalesce(s.money, '?')
     || ', as on the source, where there are columns of type money',
     'Set lc_monetary to the same value on all nodes.'),
    ('xml-option', 'XML option', CASE WHEN f.key = p_join ->> 'new' THEN 'fail' ELSE 'warn' END,
     NOT coalesce(s.types ? 'xml', false) OR g.is ->> 'xmloption' = 'content', g.is ->> 'xmloption',
     'content, because a column of type xml may hold fragments',
     'Set xmloption to content for the role and the database.'),
    ('transaction-isolation', 'transaction isolation', CASE WHEN f.key = p_join ->> 'new' THEN 'fail' ELSE 'warn' END,
     g.is ->> 'default_transaction_isolation' = 'read committed',
     g.is ->> 'default_transaction_isolation',
         'read committed, for apply does not try again what cannot be serialized',
         'Set default_transaction_isolation to read committed for the role and the database.')
 ) AS c(key, name, severity, passed, observed, required, hint)
 WHERE f.value ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_sessions IS
'Checks settings of role, database and server that Spock''s own sessions take over and that change values in transit:
the client encoding, lc_monetary if the source has columns of type money, xmloption if it has XML, and an isolation
level in which apply fails. Zodan sets what its own sessions need by itself.';
REVOKE ALL ON FUNCTION zodan.check_sessions FROM PUBLIC;

CREATE FUNCTION zodan.check_alike(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, f.key, c.severity, c.observed IS NOT DISTINCT FROM c.required,
    coalesce(nullif(c.observed, ''), 'not set'),
       coalesce(nullif(c.required, ''), 'not set') || ', as on the source', c.hint
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN LATERAL (SELECT f.value -> 'host' AS n, p_facts #> ARRAY[p_join ->> 'source', 'host'] AS s) AS h
 CROSS JOIN LATERAL (SELECT h.n -> 'settings' AS n, h.s -> 'settings' AS s) AS g
 CROSS JOIN LATERAL (
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(e.name)
        FROM pg_catalog.jsonb_array_elements_text(h.s -> 'database_settings') AS e(name)
        WHERE NOT h.n -> 'database_settings' ? e.name)) AS lacks,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(e.name)
               FROM pg_catalog.jsonb_array_elements_text(h.n -> 'database_settings') AS e(name)
               WHERE NOT h.s -> 'database_settings' ? e.name)) AS beyond) AS d
 CROSS JOIN LATERAL (VALUES
    ('encoding', 'encoding', 'fail', h.n ->> 'encoding', h.s ->> 'encoding',
     'Create the database with the encoding of the source.'),
    ('collation', 'collation', 'warn', h.n #>> '{locale,is}', h.s #>> '{locale,is}',
     'Create the database with provider and locale of the source.'),
    ('collation-version', 'collation version', 'warn', h.n #>> '{locale,actual}', h.s #>> '{locale,actual}',
     'Expect text to sort differently here, or use a server with the same version of the library.'),
    ('conflict-resolution', 'conflict resolution', 'fail', coalesce(g.n ->> 'spock.conflict_resolution',
     g.n ->> 'pglogical.conflict_resolution'),
     coalesce(g.s ->> 'spock.conflict_resolution', g.s ->> 'pglogical.conflict_resolution'),
         'Set spock.conflict_resolution to the same value on all nodes.'),
    ('exception-behaviour', 'exception behaviour', 'warn', g.n ->> 'spock.exception_behaviour',
     g.s ->> 'spock.exception_behaviour', 'Set spock.exception_behaviour to the same value on all nodes.'),
    ('ddl-replication', 'DDL replication', 'warn', pg_catalog.concat_ws(', ', 'enable '
     || (g.n ->> 'spock.enable_ddl_replication'), 'sets ' || (g.n ->> 'spock.include_ddl_repset'), 'functions '
     || (g.n ->> 'spock.allow_ddl_from_functions')),
     pg_catalog.concat_ws(', ', 'enable ' || (g.s ->> 'spock.enable_ddl_replication'), 'sets '
         || (g.s ->> 'spock.include_ddl_repset'), 'functions ' || (g.s ->> 'spock.allow_ddl_from_functions')),
     'Set spock.enable_ddl_replication, include_ddl_repset and allow_ddl_from_functions to the same values on all nodes.'),
    ('database-settings', 'database settings', 'warn',
     coalesce(nullif(pg_catalog.concat_ws('; ', 'lacks ' || d.lacks, 'has beyond ' || d.beyond), ''), 'the same'),
     'the same',
     'Repeat here the ALTER DATABASE ... SET and ALTER ROLE ... SET of the source that are named: no copy carries them.')
 ) AS c(key, name, severity, observed, required, hint)
 WHERE f.key <> p_join ->> 'source' AND h.n IS NOT NULL AND h.s IS NOT NULL
UNION ALL
SELECT 'collation-current', 'collation up to date', f.key, 'warn',
    f.value #> '{host,locale,recorded}' = f.value #> '{host,locale,actual}',
       pg_catalog.format('made with version %s, the library is %s',
           coalesce(f.value #>> '{host,locale,recorded}', 'unknown'),
           coalesce(f.value #>> '{host,locale,actual}', 'unknown')),
       'indexes in the order that the library sorts by',
           'Run REINDEX DATABASE, then ALTER DATABASE ... REFRESH COLLATION VERSION.'
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 WHERE f.value ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_alike IS
'Checks what must be the same on every node as on the source: encoding, and how conflicts are resolved, because
nodes that differ in these get different rows. The rest are warnings: locale, behaviour on exceptions, DDL
replication, and settings of the database, which no copy carries.';
REVOKE ALL ON FUNCTION zodan.check_alike FROM PUBLIC;

CREATE FUNCTION zodan.check_clocks(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'clock', 'clock', c.key, CASE WHEN c.skew > 2 AND c.skew <= 5
    THEN 'warn' ELSE 'fail' END, c.skew <= 2,
       pg_catalog.format('%s s from the clock of the source', pg_catalog.round(c.skew, 1)),
           '2 s at most',
       'Synchronise the clocks of all servers, for example with chrony.'
  FROM (SELECT f.key, greatest(0, (n.at - n.received) - (s.at - s.sent), (s.at - s.received) - (n.at - n.sent)) AS skew
          FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_to_record(f.value -> 'clock') AS n(at numeric, sent numeric,
             received numeric)
         CROSS JOIN LATERAL pg_catalog.jsonb_to_record(p_facts #> ARRAY[p_join ->> 'source', 'clock']) AS s(at numeric,
             sent numeric, received numeric)
         WHERE f.key <> p_join ->> 'source' AND f.value ? 'clock') AS c
$zodan$;
COMMENT ON FUNCTION zodan.check_clocks IS
'Checks that clocks differ from the source''s by no more than 2 s (a warning),
5 s (a failure), because the later commit wins, by those clocks. Each clock was read between
two readings of the caller''s clock, and the time between those counts in the node''s favour.';
REVOKE ALL ON FUNCTION zodan.check_clocks FROM PUBLIC;

CREATE FUNCTION zodan.check_capacity(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, f.key, 'fail', c.used + c.needed <= c.allowed,
       pg_catalog.format('%s of %s in use', c.used, c.allowed), pg_catalog.format('%s free', c.needed),
       pg_catalog.format('Raise %s in postgresql.conf and restart the server.', pg_catalog.split_part(c.name, ' ', 1))
  FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
 CROSS JOIN LATERAL (SELECT CASE WHEN f.key = p_join ->> 'new' THEN pg_catalog.jsonb_array_length(p_join -> 'members')
                                 WHEN f.key = p_join ->> 'source' THEN 3 ELSE 1 END AS streams,
                            CASE WHEN f.key IN (p_join ->> 'source', p_join ->> 'new')
                                THEN coalesce((p_join ->> 'lanes')::int, 0) ELSE 0 END AS lanes) AS s
 CROSS JOIN LATERAL (VALUES
    ('max-replication-slots', 'max_replication_slots', (f.value ->> 'slots')::int,
     s.streams + CASE WHEN f.key = p_join ->> 'source' THEN s.lanes ELSE 0 END,
     (f.value #>> '{settings,max_replication_slots}')::int),
    ('max-wal-senders', 'max_wal_senders', (f.value ->> 'walsenders')::int,
     s.streams + CASE WHEN f.key = p_join ->> 'source' THEN s.lanes ELSE 0 END,
     (f.value #>> '{settings,max_wal_senders}')::int),
    ('max-worker-processes', 'max_worker_processes', (f.value ->> 'workers')::int,
     CASE WHEN f.key = p_join ->> 'new' THEN s.streams + 1 ELSE 1 END,
         (f.value #>> '{settings,max_worker_processes}')::int),
    ('replication-origins', CASE WHEN f.value #> '{host,settings}' ? 'max_active_replication_origins'
     THEN 'max_active_replication_origins' ELSE 'max_replication_slots (origins)' END,
     (f.value #>> '{host,origins}')::int, CASE WHEN f.key = p_join ->> 'new' THEN s.streams + s.lanes ELSE 1 END,
     coalesce((f.value #>> '{host,settings,max_active_replication_origins}')::int,
         (f.value #>> '{settings,max_replication_slots}')::int)),
    ('max-connections', 'max_connections', (f.value #>> '{host,clients}')::int, s.streams + s.lanes + 1,
     (f.value #>> '{host,settings,max_connections}')::int)
 ) AS c(key, name, used, needed, allowed)
 WHERE NOT f.value ? 'error' AND c.used IS NOT NULL
$zodan$;
COMMENT ON FUNCTION zodan.check_capacity IS
'Checks the free replication slots, origins, WAL senders, connections and worker processes for what a join adds: one
of each on a member; on the source two more, and what each session that copies needs; and on the new node one per
member, Spock''s own worker, one for the copy, and a session and an origin for each that copies.';
REVOKE ALL ON FUNCTION zodan.check_capacity FROM PUBLIC;

CREATE FUNCTION zodan.check_new_node(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, p_join ->> 'new', 'fail', c.passed, c.observed, c.required, c.hint
  FROM (SELECT p_facts -> (p_join ->> 'new') AS n, p_facts -> (p_join ->> 'source') AS s) AS f
 CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.string_agg(r.role, ', ') FILTER (WHERE NOT f.n -> 'roles' ? r.role), '') AS roles
      FROM pg_catalog.jsonb_array_elements_text(f.s -> 'needed_roles') AS r(role)) AS missing
 CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.string_agg(e.name, ', '), '') AS extensions
      FROM pg_catalog.jsonb_object_keys(f.s -> 'extensions') AS e(name)
     WHERE NOT f.n -> 'available' ? e.name AND NOT f.n -> 'extensions' ? e.name
       -- PostgreSQL creates from Debian's extension_destdir what it does not list. What a trial has created is there.
       AND NOT coalesce(f.s #> '{structure,extensions}' ? e.name
               AND NOT f.n #> '{trial,extensions}' ? e.name, false)) AS lacking
 CROSS JOIN LATERAL (
    SELECT coalesce(pg_catalog.max(pg_catalog.octet_length(zodan.subscription_name(m.name, p_join ->> 'new'))),
        0) AS longest
      FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)) AS names
 CROSS JOIN LATERAL (
    SELECT pg_catalog.min(k.name) AS name FROM pg_catalog.jsonb_object_keys(f.s #> '{spock,nodes}') AS k(name)
     WHERE k.name <> p_join ->> 'new'
         AND pg_catalog.hashtext(k.name) & 65535 = pg_catalog.hashtext(p_join ->> 'new') & 65535) AS same
 CROSS JOIN LATERAL (VALUES
    ('not-a-node', 'not a node yet', f.n #>> '{spock,node}' IS NULL,
     coalesce('it is node "' || (f.n #>> '{spock,node}') || '"', 'no node'),
     'a database that is no Spock node',
         'Give the connection string of the database that is to join, or remove its old node first.'),
    ('empty', 'empty', (f.n ->> 'relations')::int = 0
     OR coalesce(p_join ->> 'structure' = 'present', false), (f.n ->> 'relations') || ' relations', 'no user relations',
     'Join an empty database: its structure and data come from the source. If the structure is there, '
     'give structure => ''present''; if it is a copy that zodan-sql clone has prepared, copy => ''present''.'),
    ('own-server', 'server of its own', f.n ->> 'server' <> f.s ->> 'server', CASE
     WHEN f.n ->> 'server' = f.s ->> 'server' THEN 'the same server as the source' ELSE 'another server' END,
     'another server than the source, whose apply is paused for a moment', 'Use a database on another server.'),
    ('name-free', 'name is free', NOT f.s #> '{spock,nodes}' ? (p_join ->> 'new'), CASE
     WHEN f.s #> '{spock,nodes}' ? (p_join ->> 'new') THEN 'the cluster knows a node of this name' ELSE 'free' END,
     'a name that no member knows', 'Choose another name, or remove the node of this name first.'),
    ('number-free', 'number is free', same.name IS NULL,
     coalesce(pg_catalog.format('Spock gives "%s" and "%s" the same number', same.name, p_join ->> 'new'), 'free'),
     'a name whose 16-bit hash no other node''s name has', 'Choose another name.'),
    ('name-length', 'name is short enough', names.longest <= 63,
     pg_catalog.format('%s bytes for the longest subscription name', names.longest),
     '63 bytes at most', 'Choose a shorter node name.'),
    ('roles', 'roles', missing.roles = '', CASE WHEN missing.roles = '' THEN 'all there' ELSE 'missing: '
     || missing.roles END,
     'every role that owns or may use an object on the source',
         'Call with roles => true, or create the missing roles there, for example from pg_dumpall --roles-only.'),
    ('extensions', 'extensions', lacking.extensions = '', CASE WHEN lacking.extensions = '' THEN 'all available'
     ELSE 'not available: ' || lacking.extensions END,
     'every extension of the source available on the server',
         'Install the packages of the missing extensions on the new node''s server.')
 ) AS c(key, name, passed, observed, required, hint)
 WHERE NOT f.n ? 'error' AND NOT f.s ? 'error' AND f.s ? 'spock'
$zodan$;
COMMENT ON FUNCTION zodan.check_new_node IS
'Checks that the new node is empty, is not a node yet and is on a server of its own; that its name and the number
that Spock makes of it are free and every name made from it fits 63 bytes; and that it has the
roles and can have the extensions of the source.';
REVOKE ALL ON FUNCTION zodan.check_new_node FROM PUBLIC;

CREATE FUNCTION zodan.check_new_server(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, p_join ->> 'new', c.severity, c.list IS NULL, coalesce(c.list, 'as needed'), c.required, c.hint
  FROM (SELECT p_facts -> (p_join ->> 'new') AS n, p_facts -> (p_join ->> 'source') AS s) AS f
 CROSS JOIN LATERAL (
    SELECT zodan.name_some(pg_catalog.jsonb_agg(pg_catalog.format('%s %s, the source has %s', e.key,
        f.n #>> ARRAY['host', 'versions', e.key], e.value))) AS extensions
      FROM pg_catalog.jsonb_each_text(f.s -> 'extensions') AS e(key, value) WHERE e.key <> 'spock'
          AND f.n #>> ARRAY['host', 'versions', e.key] <> e.value) AS x
 CROSS JOIN LATERAL (
    SELECT zodan.name_some(pg_catalog.jsonb_agg(pg_catalog.format('%s: "%s", on the source "%s"', r.role,
        f.n #>> ARRAY['host', 'role_attributes', r.role], f.s #>> ARRAY['host', 'role_attributes', r.role]))) AS roles
      FROM pg_catalog.jsonb_array_elements_text(f.s -> 'needed_roles') AS r(role)
     WHERE f.n #>> ARRAY['host', 'role_attributes', r.role] <> f.s #>> ARRAY['host', 'role_attributes', r.role]) AS r
 CROSS JOIN LATERAL (
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(t.name)
        FROM pg_catalog.jsonb_array_elements_text(f.s #> '{tables,tablespaces}') AS t(name)
        WHERE NOT f.n #> '{host,tablespaces}' ? t.name)) AS spaces,
           CASE WHEN f.s -> 'extensions' ? 'lolor' AND EXISTS (SELECT
               FROM pg_catalog.jsonb_array_elements(f.s #> '{streams,tables}') AS i(item)
               WHERE i.item ->> 'table' LIKE 'lolor.%') THEN
               CASE WHEN NOT f.n -> 'extensions' ? 'lolor' THEN 'lolor is missing'
                   WHEN (f.n #>> '{tables,lolor_bytes}')::bigint > 0 THEN 'its tables are not empty' END END AS lolor,
           (SELECT pg_catalog.format('%s, as on %s', f.n #>> '{host,settings,snowflake.node}',
               pg_catalog.string_agg(o.key, ', ')) FROM pg_catalog.jsonb_each(p_facts) AS o(key, value)
             WHERE o.key <> p_join ->> 'new' AND f.s -> 'extensions' ? 'snowflake'
                 AND o.value #> '{host,settings,snowflake.node}' = f.n #> '{host,settings,snowflake.node}'
            HAVING pg_catalog.count(*) > 0) AS snowflake) AS l
 CROSS JOIN LATERAL (VALUES
    ('extension-versions', 'extension versions', 'warn', x.extensions, 'the versions of the source',
     'Install the packages of the same versions on the new node''s server.'),
    ('role-attributes', 'role attributes', 'warn', r.roles, 'the attributes and memberships of the source',
     'Run ALTER ROLE and GRANT for these roles as on the source.'),
    ('tablespaces', 'tablespaces', 'fail', 'missing: ' || l.spaces,
     'every tablespace that holds a table or index of the source', 'Create the tablespaces on the new node''s server.'),
    ('lolor', 'lolor', 'fail', l.lolor,
     'where the source replicates lolor''s tables: the extension, and its tables empty',
     'Run CREATE EXTENSION lolor on the new node, and TRUNCATE its tables there.'),
    ('snowflake-node', 'snowflake.node', 'warn', l.snowflake, 'a number that no other node has',
     'Set snowflake.node in postgresql.conf of the new node to a number of its own.')
 ) AS c(key, name, severity, list, required, hint)
 WHERE f.n ? 'tables' AND f.n ? 'host' AND f.s ? 'tables' AND f.s ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_new_server IS
'Checks what the new node''s server and database must or must not have for the structure of the source to fit:
tablespaces, lolor ready, a snowflake number of its own; warns where roles or extensions differ.';
REVOKE ALL ON FUNCTION zodan.check_new_server FROM PUBLIC;

CREATE FUNCTION zodan.check_members(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, m.name, c.severity, coalesce(c.passed, false), coalesce(c.observed, 'it is no node'), c.required,
    c.hint
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL (SELECT p_facts -> m.name AS value) AS f
 CROSS JOIN LATERAL (
    SELECT zodan.name_some(pg_catalog.jsonb_agg(x.item -> 'provider')
        FILTER (WHERE NOT p_join -> 'members' ? (x.item ->> 'provider'))) AS strange,
           zodan.name_some(pg_catalog.jsonb_agg(x.item -> 'name')
               FILTER (WHERE x.item -> 'forwards' @> '["all"]')) AS forwarding,
           zodan.name_some(pg_catalog.jsonb_agg(x.item -> 'name')
               FILTER (WHERE (x.item ->> 'delay')::interval > '0'::interval)) AS delayed,
           pg_catalog.count(x.item) - pg_catalog.count(DISTINCT x.item ->> 'provider') AS doubled,
           coalesce(pg_catalog.max((x.item ->> 'delay')::interval), '0') AS longest
      FROM pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS x(item)) AS s
 CROSS JOIN LATERAL (VALUES
    ('member-identity', 'member is who it should be', 'fail', f.value #>> '{spock,node}' = m.name, 'it is node "'
     || (f.value #>> '{spock,node}') || '"', 'node "' || m.name || '"',
     'Check the name and the connection string that you gave, or correct the one in spock.node_interface.'),
    ('other-nodes', 'knows no other nodes', 'fail', s.strange IS NULL,
     coalesce('it also receives from ' || s.strange, 'members only'),
     'subscriptions from the members that the source knows',
     'Remove what is left of the other node, or subscribe the source to it.'),
    ('single-subscriptions', 'one subscription for each provider', CASE WHEN m.name = p_join ->> 'source' THEN 'fail'
     ELSE 'warn' END, s.doubled = 0, pg_catalog.format('%s too many', s.doubled),
     'one, because a join relies on one position in each stream of the source',
     'Add the sets of the others to one subscription, and drop the others.'),
    ('forwarding', 'no forwarding', CASE WHEN p_join ? 'joined' THEN 'fail' ELSE 'warn' END, s.forwarding IS NULL,
     coalesce(s.forwarding, 'none'),
     'no subscription with forward_origins all: in a mesh every change then comes twice',
     'Set forward_origins of these subscriptions to {}.'),
    ('apply-delay', 'no apply delay', CASE WHEN m.name = p_join ->> 'source'
     AND s.longest >= pg_catalog.make_interval(secs => coalesce((p_join ->> 'patience')::double precision, 600))
     THEN 'fail' ELSE 'warn' END, s.delayed IS NULL, coalesce(s.delayed, 'none'),
     'subscriptions without apply_delay, because a join waits for them',
     'Make them again without apply_delay, or raise zodan.sync_timeout above it.'),
    ('exceptions', 'no exceptions lately', 'warn', coalesce(f.value #> '{streams,exceptions}', '[]') = '[]',
     coalesce(zodan.name_some(f.value #> '{streams,exceptions}'), 'none'),
     'no row in spock.exception_log of the last 24 hours',
         'Read spock.exception_log: each row is a change that this node does not have.')
 ) AS c(key, name, severity, passed, observed, required, hint)
 WHERE f.value ? 'spock'
$zodan$;
COMMENT ON FUNCTION zodan.check_members IS
'Checks that the cluster is whole: every member''s connection string leads to that member, every member has one
subscription from every other one, forwarding nothing and without delay, none from a node that the source does not
know, and no recent exceptions.';
REVOKE ALL ON FUNCTION zodan.check_members FROM PUBLIC;

CREATE FUNCTION zodan.check_replicating(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'replicating', 'replicating', provider.name || ' -> ' || m.name, 'fail',
    coalesce(s.status = 'replicating', false),
       CASE WHEN s.lost THEN 'down, but its worker runs: Spock has lost track of it'
           ELSE coalesce(s.status, 'no subscription') END,
       'a subscription that replicates',
       pg_catalog.format(CASE WHEN s.lost
           THEN 'Restart the server of node "%s": Spock can neither stop this worker nor start another.'
           ELSE 'Fix the subscription on node "%s" first; its server log and spock.exception_log tell the cause.' END,
               m.name)
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS provider(name)
  LEFT JOIN LATERAL (
    SELECT pg_catalog.max(x.item ->> 'status') AS status,
           coalesce(pg_catalog.bool_or(x.item ->> 'status' = 'down' AND (x.item ->> 'works')::boolean), false) AS lost
      FROM pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock', 'subscriptions']) AS x(item)
     WHERE x.item ->> 'provider' = provider.name) AS s ON true
 WHERE provider.name <> m.name AND p_facts -> m.name ? 'spock'
$zodan$;
COMMENT ON FUNCTION zodan.check_replicating IS
'Checks that every member receives from every other one by a subscription that replicates.';
REVOKE ALL ON FUNCTION zodan.check_replicating FROM PUBLIC;

CREATE FUNCTION zodan.check_structure(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, p_join ->> 'new', c.severity, c.list IS NULL, coalesce(c.list, 'as needed'), c.required, c.hint
  FROM (SELECT p_facts -> (p_join ->> 'new') AS n, p_facts -> (p_join ->> 'source') AS s,
      p_facts #> ARRAY[p_join ->> 'source', 'structure'] AS t,
               (SELECT coalesce(pg_catalog.jsonb_object_agg(i.item ->> 'table', i.item -> 'columns'), '{}')
                  FROM zodan.list_published(p_facts, p_join) AS i(item)) AS published OFFSET 0) AS f
 CROSS JOIN LATERAL (
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(o.name)
        FROM pg_catalog.jsonb_array_elements_text(f.t -> 'same') AS o(name)
             WHERE NOT EXISTS (SELECT FROM pg_catalog.unnest(zodan.list_fenced(p_facts, p_join)) AS z(name)
                 WHERE o.name = 'schema ' || z.name))) AS same,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.format('%s: in %s, on the source in %s', e.key,
               f.n #>> ARRAY['structure', 'extensions', e.key, 'schema'], e.value ->> 'schema'))
              FROM pg_catalog.jsonb_each(f.t -> 'extensions') AS e(key, value)
             WHERE (e.value ->> 'used')::boolean AND f.n #>> ARRAY['structure', 'extensions', e.key,
                 'schema'] <> e.value ->> 'schema')) AS elsewhere,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.format('%s: %s', e.key, e.value))
               FROM pg_catalog.jsonb_each_text(f.n #> '{trial,extensions}') AS e(key, value)
             WHERE f.n -> 'available' ? e.key)) AS failing,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(t.name)
               FROM pg_catalog.jsonb_each_text(f.n #> '{trial,extension_rows}') AS t(name, rows)
               WHERE f.published ? t.name AND t.rows IS DISTINCT FROM '0')) AS filled) AS l
 CROSS JOIN LATERAL (VALUES
    ('same-names', 'nothing of the same name', 'fail',
     CASE WHEN NOT f.n ? 'present' THEN l.same END,
     'no object that the copy is about to create',
     'Drop these objects on the new node.'),
    ('creatable-objects', 'objects can be created', 'fail',
     CASE WHEN NOT f.n ? 'present' THEN f.n #>> '{trial,objects}' END,
     'a database in which the connecting role may create objects: the copy does',
     'Disable the event trigger that forbids it, or whatever else does, until the node has joined.'),
    ('schema-public', 'schema public', 'fail', CASE WHEN (f.t ->> 'in_public')::boolean
     AND NOT (f.n #>> '{structure,public}')::boolean THEN 'missing' END,
     'schema public, in which the source has objects', 'Run CREATE SCHEMA public on the new node.'),
    ('extension-schemas', 'schemas of extensions', 'fail', l.elsewhere,
     'an extension that others depend on in the schema that it has on the source',
     'Run ALTER EXTENSION ... SET SCHEMA on the new node, or drop it there.'),
    ('creatable-extensions', 'extensions can be created', 'fail', l.failing, 'every extension of the source',
     'Run CREATE EXTENSION on the new node to see the error, and remove its cause.'),
    ('extension-tables', 'tables of extensions', 'fail', l.filled,
     'no rows from the script of an extension in a table that is copied',
     'Take these tables out of the replication sets on every member, or create the extension on the new node and delete '
     'the rows of these tables there.'),
    ('same-structure', 'same structure', 'fail', coalesce(f.n #>> '{present,unread}',
     zodan.name_some(f.n #> '{present,differing}')), 'the structure of the source, if it is there already',
     'Make the structure equal, or join an empty database.'),
    ('empty-tables', 'empty tables', 'fail', zodan.name_some(f.n #> '{present,filled}'),
     'no row in a table, if the structure is there already', 'Run TRUNCATE for these tables on the new node.')
 ) AS c(key, name, severity, list, required, hint)
 WHERE f.t IS NOT NULL AND f.n ? 'structure'
$zodan$;
COMMENT ON FUNCTION zodan.check_structure IS
'Checks whether the structure of the source can be made on the new node, over what zodan.gather_structure returned:
nothing of the same name is there, and objects and extensions can be created. A structure that is there already must
equal the source''s, without rows.';
REVOKE ALL ON FUNCTION zodan.check_structure FROM PUBLIC;

CREATE FUNCTION zodan.check_copyable(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, p_join ->> 'source', c.severity, c.list IS NULL, coalesce(c.list, 'as needed'), c.required, c.hint
  FROM (SELECT p_facts -> (p_join ->> 'new') AS n, p_facts -> (p_join ->> 'source') AS s,
      p_facts #> ARRAY[p_join ->> 'source', 'structure'] AS t,
               (SELECT coalesce(pg_catalog.jsonb_object_agg(i.item ->> 'table', i.item -> 'columns'), '{}')
                  FROM zodan.list_published(p_facts, p_join) AS i(item)) AS published OFFSET 0) AS f
 CROSS JOIN LATERAL (
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(t.name)
               FROM pg_catalog.jsonb_each_text(f.s #> '{references,extension_rows}') AS t(name, rows)
             WHERE NOT f.published ? t.name AND (t.rows = coalesce(f.n #>> ARRAY['trial', 'extension_rows', t.name],
                 '0')) IS NOT TRUE)) AS differing,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.format('%s (%s)', g.key, l.list))
               FROM pg_catalog.jsonb_each(f.t -> 'generated') AS g(key, value)
             CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(k.name, ', ') AS list
                 FROM pg_catalog.jsonb_array_elements_text(g.value) AS k(name)
                                  WHERE pg_catalog.jsonb_typeof(f.published -> g.key) = 'null'
                                      OR f.published -> g.key ? k.name) AS l
             WHERE f.published ? g.key AND l.list IS NOT NULL
                 AND f.n #>> '{extensions,spock}' LIKE '5.%')) AS generated,
           (SELECT pg_catalog.jsonb_object_agg(k.kind,
               zodan.name_some((SELECT pg_catalog.jsonb_agg(e.key)
               FROM pg_catalog.jsonb_each(k.tables) AS e(key, related)
                       WHERE EXISTS (SELECT FROM pg_catalog.jsonb_array_elements_text(e.related) AS r(name)
                           WHERE f.published ? r.name))))
              FROM pg_catalog.jsonb_each(f.t -> 'partitions') AS k(kind, tables)) AS partitions) AS l
 CROSS JOIN LATERAL (VALUES
    ('extension-rows', 'rows of extensions', 'warn', l.differing,
     'in tables of extensions that are in no replication set, the rows of the extension''s script: others are not copied',
     'Add these tables to a set on every member, or bring their rows by hand.'),
    ('generated-columns', 'generated columns', 'fail', l.generated,
     'with Spock 5, no generated column in what is replicated: its copy fails',
     'Add these tables to their sets with a column list that leaves the generated columns out, on every member.'),
    ('foreign-partitions', 'foreign partitions', 'fail', l.partitions ->> 'foreign',
     'no foreign table below a table that is copied: the copy would read and write the rows of its server',
     'Run ALTER TABLE ... DETACH PARTITION for these on every member until the node has joined.'),
    ('partitions-by-hash', 'partitions by hash', 'fail', l.partitions ->> 'hashed',
     'no partitions by the hash of an enum or of an object''s OID: it is another one on every node, '
     'so rows belong elsewhere there',
     'Take these tables with their partitions out of the replication sets on every member, '
     'or partition them by list or by the hash of another column.'),
    ('foreign-keys', 'foreign keys', 'fail', zodan.name_some(f.s #> '{references,broken}'),
     'a row for every reference among the rows that are copied',
     'Replicate the table that is referred to, delete the rows without one, or make the constraint NOT VALID.'),
    ('unread-foreign-keys', 'foreign keys that were read', 'warn',
     zodan.name_some(f.s #> '{references,unread}'), 'tables that are small enough to be read before',
     'Look for rows without the one that they refer to: the copy would fail at its end.'),
    ('table-reading-checks', 'checks that read tables', 'warn', zodan.name_some(f.t -> 'peeking'),
     'no CHECK whose function reads a table, which may be empty while the copy fills another',
     'Make these constraints NOT VALID for the time of the join, or use a trigger.'),
    ('search-paths', 'functions with a search path', 'warn', zodan.name_some(f.t -> 'unpinned'),
     'a search_path set for functions in indexes and checks: the copy has none',
     'Run ALTER FUNCTION ... SET search_path for these.')
 ) AS c(key, name, severity, list, required, hint)
 WHERE f.t IS NOT NULL AND f.n ? 'structure'
$zodan$;
COMMENT ON FUNCTION zodan.check_copyable IS
'Checks whether the rows of the source can be copied as they are, over what zodan.gather_structure returned: foreign
keys hold for what is copied, and Spock can copy the columns and partitions. It warns where the copy may fail because
of what a function does.';
REVOKE ALL ON FUNCTION zodan.check_copyable FROM PUBLIC;

CREATE FUNCTION zodan.check_sets(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, m.name, CASE WHEN m.name = p_join ->> 'new' OR c.kind <> 'sequences' THEN 'fail' ELSE 'warn' END,
    d.lacks IS NULL AND d.has IS NULL,
       coalesce(nullif(pg_catalog.concat_ws('; ', 'lacks or has otherwise: ' || d.lacks, 'has beyond: ' || d.has), ''),
           'as on the source'),
       'what the source has',
       'Make them alike with spock.repset_create, repset_alter, repset_add_table and repset_remove_table.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN (VALUES ('replication-sets', 'replication sets', 'sets', 'name', 'name'),
     ('set-tables', 'tables in sets', 'tables', 'table', 'set'), ('set-sequences', 'sequences in sets', 'sequences',
     'sequence', 'set')) AS c(key, name, kind, label, set)
 CROSS JOIN LATERAL (SELECT p_facts #> ARRAY[m.name, 'streams', c.kind] AS own,
     p_facts #> ARRAY[p_join ->> 'source', 'streams', c.kind] AS source OFFSET 0) AS k
 -- OFFSET 0: once, and not again for every row.
 CROSS JOIN (SELECT zodan.list_exchanged(p_facts, p_join || pg_catalog.jsonb_build_object('members',
     (p_join -> 'members') - coalesce(p_join ->> 'new', ''))) AS sets OFFSET 0) AS x
 CROSS JOIN LATERAL (
    -- EXCEPT is linear, however many tables there are.
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.concat_ws(': ', e.item ->> 'set',
        e.item ->> c.label))
              FROM (SELECT s.item FROM pg_catalog.jsonb_array_elements(k.source) AS s(item) EXCEPT SELECT o.item
                  FROM pg_catalog.jsonb_array_elements(k.own) AS o(item)) AS e
             WHERE e.item ->> c.set = ANY (x.sets))) AS lacks,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.concat_ws(': ', e.item ->> 'set',
               e.item ->> c.label))
              FROM (SELECT o.item FROM pg_catalog.jsonb_array_elements(k.own) AS o(item) EXCEPT SELECT s.item
                  FROM pg_catalog.jsonb_array_elements(k.source) AS s(item)) AS e
             WHERE e.item ->> c.set = ANY (x.sets))) AS has) AS d
 WHERE m.name <> p_join ->> 'source' AND k.own IS NOT NULL AND k.source IS NOT NULL
$zodan$;
COMMENT ON FUNCTION zodan.check_sets IS
'Checks that every member has the replication sets of the source, as far as the members take them from one another:
definitions, and tables and sequences in them with columns and row filter. Sequences are a warning for any member but
the new node.';
REVOKE ALL ON FUNCTION zodan.check_sets FROM PUBLIC;

CREATE FUNCTION zodan.check_premises(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'same-sets', 'same sets taken', s.subscriber, 'fail', pg_catalog.bool_and(s.lacks IS NULL),
       coalesce(pg_catalog.string_agg(pg_catalog.format('%s does not take %s', s.name, s.lacks), '; ')
           FILTER (WHERE s.lacks IS NOT NULL), 'as every member'),
       'every replication set with tables that any member takes',
           'Run spock.sub_add_repset on this node, and bring the rows that it lacks.'
  FROM (SELECT m.name AS subscriber, i.item ->> 'name' AS name,
               (SELECT pg_catalog.string_agg(x.name, ', ')
                   FROM pg_catalog.unnest(zodan.list_exchanged(p_facts, p_join)) AS x(name)
                 WHERE NOT i.item -> 'sets' ? x.name
                   AND pg_catalog.jsonb_path_exists(p_facts #> ARRAY[p_join ->> 'source', 'streams', 'tables'],
                       '$[*] ? (@.set == $name)', pg_catalog.jsonb_build_object('name', x.name))) AS lacks
          FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
          LEFT JOIN LATERAL pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock',
              'subscriptions']) AS i(item)
            ON p_join -> 'members' ? (i.item ->> 'provider') AND (i.item ->> 'enabled')::boolean
         WHERE p_facts -> m.name ? 'spock') AS s
 GROUP BY s.subscriber
UNION ALL
SELECT c.key, c.name, p_join ->> 'source', 'fail', c.list IS NULL, coalesce(c.list, 'none'), c.required, c.hint
  FROM (SELECT p_facts #> ARRAY[p_join ->> 'source', 'tables'] AS t,
      coalesce(pg_catalog.jsonb_object_agg(i.item ->> 'table', i.item -> 'columns'), '{}') AS published
          -- OFFSET 0: once, and not again for every row.
          FROM zodan.list_published(p_facts, p_join) AS i(item) OFFSET 0) AS f
 CROSS JOIN LATERAL (VALUES
    ('partition-roots', 'partitions with their root', (SELECT zodan.name_some(pg_catalog.jsonb_agg(n.name))
     FROM pg_catalog.jsonb_each_text(f.t -> 'tables') AS n(name, root)
       WHERE n.root IS NOT NULL AND f.published ? n.name AND NOT f.published ? n.root),
     'the root of every partition in a replication set: Spock copies no partition without it',
         'Add the root with spock.repset_add_table on every member.'),
    ('needed-columns', 'columns that need a value',
     (SELECT zodan.name_some(pg_catalog.jsonb_agg(pg_catalog.format('%s (%s)', n.key, l.list)))
     FROM pg_catalog.jsonb_each(f.t -> 'needed') AS n(key, value)
        CROSS JOIN LATERAL (SELECT pg_catalog.string_agg(k.name, ', ') AS list
            FROM pg_catalog.jsonb_array_elements_text(n.value) AS k(name) WHERE NOT f.published -> n.key ? k.name) AS l
       WHERE pg_catalog.jsonb_typeof(f.published -> n.key) = 'array' AND l.list IS NOT NULL),
     'in every column list the columns that are NOT NULL without a default',
         'Add these columns to the column list, or give them a default.')
 ) AS c(key, name, list, required, hint)
 WHERE f.t IS NOT NULL
UNION ALL
SELECT 'other-joins', 'no other join under way', m.name, 'fail', j.list IS NULL,
    coalesce('slot of the copy of another node: ' || j.list, 'none'), 'no unfinished join of another node',
       'Finish that join, or roll it back, where it was called.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(s.item ->> 'name', ', ') AS list
        FROM pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'host', 'slots']) AS s(item)
     WHERE s.item ->> 'name' ~ '^spk_.*_zodan_co[0-9a-f]{8}$' AND (s.item ->> 'here')::boolean) AS j
 WHERE p_facts -> m.name ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_premises IS
'Checks what the proof of a join relies on beyond zodan.check_members and zodan.check_sets: members take the same
sets from one another; a published partition has its root published too, without which Spock does not copy it; a
column list leaves out no column that needs a value; no other join is under way, which the members would not learn
of.';
REVOKE ALL ON FUNCTION zodan.check_premises FROM PUBLIC;

CREATE FUNCTION zodan.check_slots(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, m.name, c.severity, c.list IS NULL, coalesce(c.list, 'none'), c.required, c.hint
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN (
    SELECT coalesce(pg_catalog.jsonb_agg(x.item -> 'slot'), '[]') AS slots
      FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
     CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(f.value #> '{spock,subscriptions}') AS x(item)) AS u
 CROSS JOIN LATERAL (
    SELECT zodan.name_some(pg_catalog.jsonb_agg(s.name || ', ' || pg_catalog.pg_size_pretty(coalesce(s.held, 0))
        || ' held') FILTER (WHERE NOT s.active AND NOT u.slots ? s.name)) AS idle,
           zodan.name_some(pg_catalog.jsonb_agg(s.name || ', ' || pg_catalog.pg_size_pretty(s.held) || ' held')
               FILTER (WHERE NOT s.active AND s.held > 268435456)) AS holding,
           zodan.name_some(pg_catalog.jsonb_agg(s.name || ' is ' || s.status)
               FILTER (WHERE s.status IN ('lost', 'unreserved') AND u.slots ? s.name)) AS lost,
           zodan.name_some(pg_catalog.jsonb_agg(s.name || ', ' || pg_catalog.pg_size_pretty(s.lag) || ' behind')
               FILTER (WHERE s.lag > 67108864 AND s.here)) AS slow
      FROM pg_catalog.jsonb_to_recordset(p_facts #> ARRAY[m.name, 'host', 'slots'])
               AS s(name text, active boolean, status text, here boolean, held numeric, lag numeric)) AS l
 CROSS JOIN LATERAL (VALUES
    ('inactive-slots', 'no inactive slots', 'warn', l.idle,
     'a subscriber on every slot that is none of the cluster''s own',
     'Bring the subscriber back, or drop the slot if nobody needs it (see zodan.rescan).'),
    ('held-wal', 'WAL held by inactive slots', 'warn', l.holding,
     pg_catalog.pg_size_pretty(268435456::bigint) || ' at most by a slot that nobody streams from',
     'Bring its subscriber back, or drop the slot if nobody needs it (see zodan.rescan): it fills the disk.'),
    ('lost-slots', 'no slot without its WAL', 'fail', l.lost, 'WAL for every slot that a member streams from',
     'Remove the subscriber of this slot from the cluster and join it again: changes for it are gone.'),
    ('lag', 'lag', 'warn', l.slow, pg_catalog.pg_size_pretty(67108864::bigint)
     || ' at most not yet confirmed by a subscriber',
     'Wait until the subscribers have caught up, or find what slows them.')
 ) AS c(key, name, severity, list, required, hint)
 WHERE p_facts -> m.name ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_slots IS
'Checks the replication slots of every member: streamed from, no member''s slot without its WAL, none that holds much
WAL unused, none far behind.';
REVOKE ALL ON FUNCTION zodan.check_slots FROM PUBLIC;

CREATE FUNCTION zodan.check_load(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, m.name, c.severity, c.list = '[]', coalesce(zodan.name_some(c.list), 'none'),
    'none: a slot is made only once they are over', c.hint
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL (VALUES
    ('long-transactions', 'no long transactions', 'warn', p_facts #> ARRAY[m.name, 'host', 'transactions'],
     'Let them end, or end them with pg_terminate_backend, before the join.'),
    ('prepared-transactions', 'no prepared transactions', 'fail', p_facts #> ARRAY[m.name, 'host', 'prepared'],
     'Run COMMIT PREPARED or ROLLBACK PREPARED for each.')
 ) AS c(key, name, severity, list, hint)
 WHERE p_facts -> m.name ? 'host'
UNION ALL
SELECT 'wal-kept', 'WAL kept for the copy', p_join ->> 'source', 'warn', w.allowed = -1 OR w.kept < w.allowed,
       pg_catalog.format('about %s while %s are copied at an assumed %s a second; max_slot_wal_keep_size %s',
           pg_catalog.pg_size_pretty(w.kept), pg_catalog.pg_size_pretty(w.size),
           pg_catalog.pg_size_pretty(20971520::bigint),
           CASE WHEN w.allowed = -1 THEN 'unlimited' ELSE pg_catalog.pg_size_pretty(w.allowed) END),
       'less than max_slot_wal_keep_size', 'Raise it on the source and reload, or join while little is written.'
  FROM (SELECT h.size, h.wal_rate * h.size / 20971520 AS kept,
               CASE WHEN (h.settings ->> 'max_slot_wal_keep_size')::numeric < 0 THEN -1
                   ELSE (h.settings ->> 'max_slot_wal_keep_size')::numeric * 1048576 END AS allowed
          FROM pg_catalog.jsonb_to_record(p_facts #> ARRAY[p_join ->> 'source', 'host']) AS h(size numeric,
              wal_rate numeric, settings jsonb)
         WHERE p_facts -> (p_join ->> 'source') ? 'host') AS w
UNION ALL
-- In seconds. Spock's copy does not read from its slot before it is complete.
SELECT 'waiting-slots', 'slots that wait', m.name, 'warn', i.allowed = 0 OR i.allowed > i.needed,
       pg_catalog.format('dropped after %s (idle_replication_slot_timeout)',
           pg_catalog.make_interval(secs => i.allowed)),
       pg_catalog.format('more than %s, or 0: a slot waits for as long as the copy takes',
           pg_catalog.make_interval(secs => i.needed)),
       'Set idle_replication_slot_timeout = 0 and reload, until the node has joined.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL (SELECT coalesce((p_facts #>> ARRAY[m.name, 'host', 'settings',
     'idle_replication_slot_timeout'])::double precision, 0) AS allowed,
               600 + pg_catalog.round((p_facts #>> ARRAY[p_join ->> 'source', 'host',
                   'size'])::numeric / 20971520) AS needed) AS i
 WHERE p_facts -> m.name ? 'host'
UNION ALL
-- Spock dumps and restores a structure in one transaction each. The table of locks has some slack, so more may fit.
SELECT 'max-locks-per-transaction', 'max_locks_per_transaction', o.name, 'warn', o.needed <= o.allowed,
       pg_catalog.format('room for %s locks', o.allowed),
           pg_catalog.format('%s, for what the structure of the source has', o.needed),
       'Raise max_locks_per_transaction in postgresql.conf and restart the server.'
  FROM (SELECT n.name, (p_facts #>> ARRAY[p_join ->> 'source', 'tables', 'lockable'])::bigint AS needed,
               (h.settings ->> 'max_locks_per_transaction')::bigint * ((h.settings ->> 'max_connections')::bigint
                   + (h.settings ->> 'max_prepared_transactions')::bigint) AS allowed
          FROM (VALUES (p_join ->> 'source'), (p_join ->> 'new')) AS n(name)
         CROSS JOIN LATERAL (SELECT p_facts #> ARRAY[n.name, 'host', 'settings'] AS settings) AS h
         WHERE h.settings IS NOT NULL AND p_facts -> (p_join ->> 'source') ? 'tables') AS o
UNION ALL
SELECT 'disk-space', 'disk space', p_join ->> 'new', 'info', NULL::boolean,
       pg_catalog.format('the source has %s; free space on this server is unknown',
           pg_catalog.pg_size_pretty((p_facts #>> ARRAY[p_join ->> 'source', 'host', 'size'])::bigint)),
       'room for the database and its WAL', 'Look at the free space of the file system of the data directory.'
 WHERE p_facts -> (p_join ->> 'source') ? 'host' AND p_facts -> (p_join ->> 'new') ? 'host'
$zodan$;
COMMENT ON FUNCTION zodan.check_load IS
'Checks what would slow a join down, fill a disk, or cost a waiting slot its WAL: long and prepared transactions on
a member, which a slot waits for, and the WAL that the source keeps during its copy, estimated from what it wrote on
average. SQL cannot know the disk space of the new node: its passed is NULL.';
REVOKE ALL ON FUNCTION zodan.check_load FROM PUBLIC;

CREATE FUNCTION zodan.check_tables(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT c.key, c.name, p_join ->> 'source', c.severity, c.list IS NULL, coalesce(c.list, 'none'), c.required, c.hint
  FROM (SELECT p_facts #> ARRAY[p_join ->> 'source', 'tables'] AS t,
      p_facts #> ARRAY[p_join ->> 'source', 'streams'] AS s,
               p_facts #> ARRAY[p_join ->> 'source', 'extensions'] AS e OFFSET 0) AS f
 -- A key is found in an object at once, in an array only by going through it. OFFSET 0: once, not again for every row.
 CROSS JOIN LATERAL (
    SELECT (SELECT coalesce(pg_catalog.jsonb_object_agg(i.item ->> 'table', true), '{}')
        FROM pg_catalog.jsonb_array_elements(f.s -> 'tables') AS i(item)) AS published,
           (SELECT coalesce(pg_catalog.jsonb_object_agg(k.name, true), '{}')
               FROM pg_catalog.jsonb_array_elements_text(f.t -> 'unkeyed') AS k(name)) AS unkeyed OFFSET 0) AS u
 CROSS JOIN LATERAL (
    SELECT zodan.name_some((SELECT pg_catalog.jsonb_agg(pg_catalog.format('%s in %s', i.item ->> 'table',
        i.item ->> 'set'))
              FROM pg_catalog.jsonb_array_elements(f.s -> 'tables') AS i(item)
              JOIN pg_catalog.jsonb_array_elements(f.s -> 'sets') AS r(item) ON r.item ->> 'name' = i.item ->> 'set'
             WHERE ((r.item ->> 'update')::boolean OR (r.item ->> 'delete')::boolean)
                 AND u.unkeyed ? (i.item ->> 'table'))) AS unkeyed,
           zodan.name_some((SELECT pg_catalog.jsonb_agg(t.name)
               FROM pg_catalog.jsonb_each_text(f.t -> 'tables') AS t(name, root)
             WHERE NOT u.published ?| ARRAY[t.name, t.root])) AS apart,
           CASE WHEN (f.t ->> 'large_objects')::bigint > 0 AND NOT f.e ? 'lolor'
               THEN pg_catalog.format('%s large objects', f.t ->> 'large_objects') END AS large) AS l
 CROSS JOIN LATERAL (VALUES
    ('keys', 'keys of replicated tables', 'fail', l.unkeyed,
     'a primary key or index as replica identity, not deferrable, where updates or deletes are replicated',
     'Add a primary key or REPLICA IDENTITY USING INDEX, or move the table to a set that replicates inserts only.'),
    ('unreplicated-tables', 'tables not replicated', 'warn', l.apart, 'every table in a replication set',
     'Add them with spock.repset_add_table, or know that their rows are not copied.'),
    ('deferrable-keys', 'deferrable keys', 'warn', zodan.name_some(f.t -> 'deferrable'),
     'no deferrable primary or unique constraints: conflicts on them are not found',
     'Make the constraint again NOT DEFERRABLE.'),
    ('several-keys', 'several unique keys', 'warn', zodan.name_some(f.t -> 'several_unique'),
     'one unique index for each table: conflicts are resolved on the replica identity only',
     'Let only one node write what the other keys hold, or drop them.'),
    ('unlogged-tables', 'unlogged tables', 'warn', zodan.name_some(f.t -> 'unlogged'), 'none: they are not replicated',
     'Run ALTER TABLE ... SET LOGGED and add them to a set, or do without them.'),
    ('triggers', 'triggers on applied rows', 'warn', zodan.name_some(f.t -> 'triggers'),
     'no trigger enabled ALWAYS or REPLICA: it fires for replicated rows too, on every node',
     'Run ALTER TABLE ... ENABLE TRIGGER, unless it is meant so.'),
    ('large-objects', 'large objects', 'warn', l.large, 'none, or lolor, which replicates them',
     'Install lolor and move the large objects into its tables.'),
    ('other-subscriptions', 'other subscriptions', 'warn', zodan.name_some(f.t -> 'subscriptions'),
     'no subscription of PostgreSQL''s own: the copy carries it to the new node',
     'Before it is dropped on the new node, run ALTER SUBSCRIPTION ... SET (slot_name = NONE) there: '
     'its slot is the source''s.')
 ) AS c(key, name, severity, list, required, hint)
 WHERE f.t IS NOT NULL AND f.s IS NOT NULL
$zodan$;
COMMENT ON FUNCTION zodan.check_tables IS
'Names the source''s tables that cannot be replicated, or not as one would expect. A failure only for tables without
a key in a set that replicates updates or deletes: the new node cannot have such a set.';
REVOKE ALL ON FUNCTION zodan.check_tables FROM PUBLIC;

CREATE FUNCTION zodan.check_sequences(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'sequences', 'sequences', p_join ->> 'source', 'warn', q.plain IS NULL,
       coalesce('each node counts for itself: ' || q.plain, 'no plain sequences'), 'keys that are unique across nodes',
       'Give each node its own range or step, or use snowflake sequences.'
  FROM (SELECT zodan.name_some(pg_catalog.jsonb_agg(s.key)) AS plain
          FROM pg_catalog.jsonb_each(p_facts #> ARRAY[p_join ->> 'source', 'tables', 'sequences']) AS s(key, value)
         WHERE NOT (s.value ->> 'snowflake')::boolean) AS q
 WHERE p_facts -> (p_join ->> 'source') ? 'tables'
$zodan$;
COMMENT ON FUNCTION zodan.check_sequences IS
'Names the plain sequences of the source: in a multi-master cluster each node counts for itself, so two nodes will
produce the same value sooner or later. A warning.';
REVOKE ALL ON FUNCTION zodan.check_sequences FROM PUBLIC;

CREATE FUNCTION zodan.check_join(p_facts jsonb, p_join jsonb, p_probes jsonb)
RETURNS SETOF zodan.finding
LANGUAGE plpgsql IMMUTABLE
SET plan_cache_mode = force_generic_plan
AS $zodan$
/* Returns every precondition of a join, one row per check and node, over the facts that zodan.gather_facts,
zodan.gather_more and zodan.probe_pairs returned; without a new node, only those of the members. Reads nothing else
and changes nothing. */
DECLARE
    -- The lists of all tables are nearly all of the facts, and most checks do not look at them.
    v_brief jsonb := coalesce((SELECT pg_catalog.jsonb_object_agg(f.key, f.value
            || CASE WHEN f.value ? 'tables' THEN pg_catalog.jsonb_build_object('tables',
                   (f.value -> 'tables') - '{tables,rows,small,needed,unkeyed}'::text[]) ELSE '{}' END
            || CASE WHEN f.value ? 'streams' THEN pg_catalog.jsonb_build_object('streams',
                   (f.value -> 'streams') - 'tables'::text) ELSE '{}' END)
        FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)), '{}');
BEGIN
    -- One statement per check, planned without looking at the facts: else the planner would copy the facts of thousands
    -- of tables hundreds of times.
    RETURN QUERY SELECT * FROM zodan.check_reachable(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_readable(v_brief);
    RETURN QUERY SELECT * FROM zodan.check_versions(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_settings(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_sessions(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_alike(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_clocks(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_new_node(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_new_server(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_structure(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_copyable(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_members(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_replicating(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_sets(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_premises(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_capacity(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_slots(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_load(v_brief, p_join);
    RETURN QUERY SELECT * FROM zodan.check_pairs(p_probes, p_join);
    RETURN QUERY SELECT * FROM zodan.check_tables(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_sequences(p_facts, p_join);
END
$zodan$;
COMMENT ON FUNCTION zodan.check_join IS
'Returns every precondition of a join, one row per check and node, over the facts that zodan.gather_facts,
zodan.gather_more and zodan.probe_pairs returned; without a new node, only those of the members. Reads nothing else
and changes nothing.';
REVOKE ALL ON FUNCTION zodan.check_join FROM PUBLIC;

CREATE FUNCTION zodan.check_joined(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'known-everywhere', 'known everywhere', m.name, 'fail', u.list IS NULL,
    coalesce('does not know ' || u.list, 'knows every member'), 'every member in spock.node',
       'Join the missing node again, or look for what removed its row from spock.node.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL (SELECT zodan.name_some(pg_catalog.jsonb_agg(o.name)) AS list
     FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS o(name)
                      WHERE NOT p_facts #> ARRAY[m.name, 'spock', 'nodes'] ? o.name) AS u
 WHERE p_facts -> m.name ? 'spock'
UNION ALL
SELECT 'new-node-subscriptions', 'subscriptions of the new node', p_join ->> 'new', 'fail',
    pg_catalog.count(s.item) = 2 * (pg_catalog.jsonb_array_length(p_join -> 'members') - 1),
       pg_catalog.format('%s replicate', pg_catalog.count(s.item)),
           pg_catalog.format('%s, one from and one to every member',
           2 * (pg_catalog.jsonb_array_length(p_join -> 'members') - 1)),
       'Look at the subscriptions that do not replicate, or are not there, and at the server logs.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
  LEFT JOIN LATERAL pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock', 'subscriptions']) AS s(item)
    ON s.item ->> 'status' = 'replicating' AND (m.name = p_join ->> 'new' OR s.item ->> 'provider' = p_join ->> 'new')
HAVING p_join ->> 'new' IS NOT NULL
UNION ALL
SELECT 'slot-active', 'slot is streamed from', (s.item ->> 'provider') || ' -> ' || m.name, 'fail',
    coalesce(l.active, false),
       CASE WHEN l.active IS NULL THEN pg_catalog.format('no slot "%s"', s.item ->> 'slot') WHEN l.active THEN 'active'
           ELSE 'inactive' END,
       'an active slot on the provider',
           'Enable the subscription; where its slot is gone, the subscriber has to be joined again.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(p_facts #> ARRAY[m.name, 'spock', 'subscriptions']) AS s(item)
  LEFT JOIN LATERAL pg_catalog.jsonb_to_recordset(p_facts #> ARRAY[s.item ->> 'provider', 'host',
      'slots']) AS l(name text, active boolean) ON l.name = s.item ->> 'slot'
 WHERE p_facts -> (s.item ->> 'provider') ? 'host'
UNION ALL
SELECT 'sequences-ahead', 'sequences ahead', p_join ->> 'new', 'warn', b.list IS NULL,
    coalesce('behind another member: ' || b.list, 'none behind'),
       'sequences no lower than on any member', 'Run setval for these sequences before applications write to this node.'
  FROM (SELECT zodan.name_some(pg_catalog.jsonb_agg(DISTINCT o.key)) AS list
          FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
         CROSS JOIN LATERAL pg_catalog.jsonb_each(p_facts #> ARRAY[m.name, 'tables', 'sequences']) AS o(key, value)
         CROSS JOIN LATERAL (SELECT p_facts #> ARRAY[p_join ->> 'new', 'tables', 'sequences', o.key] AS value) AS n
         WHERE NOT (o.value ->> 'snowflake')::boolean
           AND ((o.value ->> 'last')::numeric - coalesce((n.value ->> 'last')::numeric,
               '-Infinity')) * pg_catalog.sign((o.value ->> 'step')::numeric) > 0) AS b
 WHERE p_facts -> (p_join ->> 'new') ? 'tables'
$zodan$;
COMMENT ON FUNCTION zodan.check_joined IS
'Checks the outcome of a join: every member knows every other one, the new node has its 2 (n - 1) subscriptions
replicating, each stream has its slot on the provider, streamed from, and the new node''s sequences are ahead.';
REVOKE ALL ON FUNCTION zodan.check_joined FROM PUBLIC;

CREATE FUNCTION zodan.check_rows(p_facts jsonb, p_join jsonb)
RETURNS SETOF zodan.finding
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT 'row-counts', 'row counts', m.name, 'warn', coalesce(pg_catalog.bool_and(t.near), true),
       coalesce(zodan.name_some(pg_catalog.jsonb_agg(pg_catalog.format('%s has %s rows, %s on the source', t.name,
           t.own, t.source)) FILTER (WHERE NOT t.near)) || '; ', '')
           || pg_catalog.format('%s tables counted, %s estimated, %s not known', pg_catalog.count(t.name)
               FILTER (WHERE t.counted),
                  pg_catalog.count(t.name) FILTER (WHERE NOT t.counted AND t.near IS NOT NULL),
                      pg_catalog.count(t.name) FILTER (WHERE t.near IS NULL)),
       'as many rows as on the source within 5 per cent',
           'Count again once the members are level; if they still differ, compare the rows.'
  FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
  LEFT JOIN LATERAL (
    SELECT c.name, c.counted, c.own, c.source,
           CASE WHEN c.own >= 0 AND c.source >= 0
               THEN pg_catalog.abs(c.own - c.source) * 100 <= 5 * greatest(c.own,
               c.source) END AS near
      FROM (SELECT r.name, r.exact_own IS NOT NULL AND r.exact_source IS NOT NULL AS counted,
                   coalesce(r.exact_own, r.guess_own) AS own, coalesce(r.exact_source, r.guess_source) AS source
              FROM (SELECT DISTINCT i.item ->> 'table' AS name,
                           (p_facts #>> ARRAY[m.name, 'counts', i.item ->> 'table'])::numeric AS exact_own,
                           (p_facts #>> ARRAY[p_join ->> 'source', 'counts',
                               i.item ->> 'table'])::numeric AS exact_source,
                           (p_facts #>> ARRAY[m.name, 'tables', 'rows', i.item ->> 'table'])::numeric AS guess_own,
                           (p_facts #>> ARRAY[p_join ->> 'source', 'tables', 'rows',
                               i.item ->> 'table'])::numeric AS guess_source
                      FROM pg_catalog.jsonb_array_elements(p_facts #> ARRAY[p_join ->> 'source', 'streams',
                          'tables']) AS i(item)
                     WHERE i.item ->> 'filter' IS NULL) AS r) AS c) AS t ON true
 WHERE m.name <> p_join ->> 'source' AND p_facts -> m.name ? 'tables'
 GROUP BY m.name
$zodan$;
COMMENT ON FUNCTION zodan.check_rows IS
'Checks that tables in replication sets have about as many rows on every member as on the source: counted if small
on both (at most 10000 rows), else as PostgreSQL estimates. A warning, because members write
during the count.';
REVOKE ALL ON FUNCTION zodan.check_rows FROM PUBLIC;

CREATE FUNCTION zodan.check_cluster(p_facts jsonb, p_join jsonb, p_probes jsonb)
RETURNS SETOF zodan.finding
LANGUAGE plpgsql IMMUTABLE
SET plan_cache_mode = force_generic_plan
AS $zodan$
/* Returns what must hold once a node has joined, one row per check and node, over the same facts as zodan.check_join;
the new node is among the members. */
BEGIN
    -- One statement per check, planned without looking at the facts, as in zodan.check_join.
    RETURN QUERY SELECT * FROM zodan.check_reachable(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_readable(p_facts);
    RETURN QUERY SELECT * FROM zodan.check_versions(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_settings(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_sessions(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_alike(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_clocks(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_members(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_replicating(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_joined(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_sets(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_slots(p_facts, p_join);
    RETURN QUERY SELECT * FROM zodan.check_pairs(p_probes, p_join);
    RETURN QUERY SELECT * FROM zodan.check_rows(p_facts, p_join);
END
$zodan$;
COMMENT ON FUNCTION zodan.check_cluster IS
'Returns what must hold once a node has joined, one row per check and node, over the same facts as zodan.check_join;
the new node is among the members.';
REVOKE ALL ON FUNCTION zodan.check_cluster FROM PUBLIC;

CREATE FUNCTION zodan.list_sets(p_cluster jsonb, p_node text)
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.array_agg(s.name ORDER BY s.name), '{}')
  FROM pg_catalog.jsonb_array_elements_text(p_cluster #> ARRAY['sets', p_node]) AS s(name)
$zodan$;
COMMENT ON FUNCTION zodan.list_sets IS
'Returns the names of the replication sets that a member has, of those that members take from one another; a
subscription that asks for any other set never replicates.';
REVOKE ALL ON FUNCTION zodan.list_sets FROM PUBLIC;

CREATE FUNCTION zodan.list_subscriptions(p_cluster jsonb)
RETURNS text[]
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.array_agg(zodan.subscription_name(m.name, p_cluster ->> 'new'))
  FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name)
$zodan$;
COMMENT ON FUNCTION zodan.list_subscriptions IS
'Returns the names of the subscriptions by which the new node receives from every member.';
REVOKE ALL ON FUNCTION zodan.list_subscriptions FROM PUBLIC;

CREATE FUNCTION zodan.plan_clean(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the first steps of a join, which make sure that the names of the new node's streams are free, and are the
last to be undone: on every member, forget the new node's row; everywhere, prove that nothing of it is left. They also
drop the slot that Spock makes by itself, because no journal knows of it. Once done, the check is never repeated: from
then on what has these names is ours. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_cloned boolean := coalesce((p_cluster ->> 'clone')::boolean, false);
    v_leave jsonb := pg_catalog.jsonb_build_object('target', v_new, 'subscriptions', (
        SELECT pg_catalog.jsonb_object_agg(x.subscriber, x.streams)
          FROM (SELECT s.key AS subscriber,
              pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('slot', s.value, 'provider', p.key)) AS streams
                  FROM pg_catalog.jsonb_each(p_cluster -> 'slots') AS p(key, value)
                 CROSS JOIN LATERAL pg_catalog.jsonb_each_text(p.value) AS s(key, value)
                 GROUP BY s.key) AS x));
    v_copy jsonb := (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('slot', s.name, 'provider', v_source))
        FROM (VALUES (p_cluster ->> 'copy_slot'), (p_cluster ->> 'structure_slot')) AS s(name)
        -- That of a physical copy was made before the join.
       WHERE NOT (v_cloned AND s.name = p_cluster ->> 'copy_slot'));
    v_node text;
    v_origins text[];
    v_slots text[];
BEGIN
    v_leave := pg_catalog.jsonb_set(v_leave, ARRAY['subscriptions', v_new], v_leave #> ARRAY['subscriptions', v_new]
        || v_copy);
    FOR v_node IN
        SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name)
            UNION ALL SELECT v_new
    LOOP
        v_origins := zodan.list_stream_names(v_leave, v_node, 'subscriber');
        v_slots := zodan.list_stream_names(v_leave, v_node, 'provider');
        RETURN NEXT zodan.make_step('clean', v_node,
            pg_catalog.format('check for streams of an earlier node %s on %s', v_new, v_node),
            p_do := zodan.clear_names(p_slots => v_slots, p_origins => v_origins),
            p_undo := zodan.prove_gone(p_target => v_new, p_origins => v_origins, p_slots => v_slots),
                p_policy := 'once', p_kind := 'verify');
        IF v_node <> v_new THEN
            RETURN NEXT zodan.make_step('register', v_node, pg_catalog.format('forget node %s on %s (only on rollback)', v_new, v_node),
                p_undo := zodan.forget_node(v_new), p_object := v_new);
        END IF;
    END LOOP;
    RETURN NEXT zodan.make_step('slot', v_source,
        pg_catalog.format('drop slot %s of the structure on %s (only on rollback)', p_cluster ->> 'structure_slot', v_source),
        p_undo := zodan.drop_slot(p_cluster ->> 'structure_slot'), p_group := 'copy',
        p_object := p_cluster ->> 'structure_slot');
    IF v_cloned THEN
        RETURN NEXT zodan.make_step('register', v_source,
            pg_catalog.format('drop slot %s of the copy on %s (only on rollback)', p_cluster ->> 'copy_slot', v_source),
            p_undo := zodan.drop_slot(p_cluster ->> 'copy_slot'), p_object := p_cluster ->> 'copy_slot');
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_clean IS
'Returns the first steps of a join, which make sure that the names of the new node''s streams are free, and are the
last to be undone: on every member, forget the new node''s row; everywhere, prove that nothing of it is left. They also
drop the slot that Spock makes by itself, because no journal knows of it. Once done, the check is never repeated: from
then on what has these names is ours.';
REVOKE ALL ON FUNCTION zodan.plan_clean FROM PUBLIC;

CREATE FUNCTION zodan.plan_register(
    p_cluster jsonb,
    p_location text,
    p_country text,
    p_info jsonb
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that make the new node a Spock node: its node row, and an empty schema zodan there, because the
structure copy leaves out a schema only if the subscriber has one of that name. */
DECLARE
    v_new text := p_cluster ->> 'new';
BEGIN
    RETURN NEXT zodan.make_step('register', v_new, 'create node ' || v_new || ' on ' || v_new,
            p_do := zodan.register_node(p_node => v_new, p_location => p_location, p_country => p_country,
                p_info => p_info::text),
            p_done := 'SELECT EXISTS (SELECT FROM spock.local_node) AS ok',
            p_undo := zodan.drop_node_row(v_new), p_object := v_new);
    -- Where Zodan is an extension on the source, the copy brings CREATE EXTENSION, which makes the schema itself.
    IF NOT (p_cluster ->> 'extension')::boolean THEN
        RETURN NEXT zodan.make_step('register', v_new, 'keep schema zodan out of the copy on ' || v_new,
            p_do := 'CREATE SCHEMA IF NOT EXISTS zodan',
            p_undo := zodan.drop_empty_schema(), p_object := 'zodan');
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_register IS
'Returns the steps that make the new node a Spock node: its node row, and an empty schema zodan there, because the
structure copy leaves out a schema only if the subscriber has one of that name.';
REVOKE ALL ON FUNCTION zodan.plan_register FROM PUBLIC;

CREATE FUNCTION zodan.plan_roles(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that bring the roles which the new node lacks, before the copy needs them as owners. The undo
drops the roles that were not there before. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
BEGIN
    RETURN NEXT zodan.make_step('roles_before', v_new, 'note the roles of ' || v_new,
        p_do := 'SELECT pg_catalog.jsonb_agg(r.rolname) AS names FROM pg_catalog.pg_roles AS r',
        p_ref := 'roles', p_policy := 'once');
    RETURN NEXT zodan.make_step('roles', v_new, pg_catalog.format('copy the missing roles of %s to %s', v_source, v_new),
        p_do := zodan.copy_roles(v_source),
        p_undo := zodan.drop_roles(p_node => v_new,
            p_brought => ARRAY(SELECT r.name
                FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'roles') AS r(name)),
            p_before => zodan.placeholder('result', 'roles', 'names')));
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_roles IS
'Returns the steps that bring the roles which the new node lacks, before the copy needs them as owners. The undo
drops the roles that were not there before.';
REVOKE ALL ON FUNCTION zodan.plan_roles FROM PUBLIC;

CREATE FUNCTION zodan.is_exact(p_cluster jsonb)
RETURNS text
LANGUAGE sql STABLE
AS $zodan$
SELECT ((p_cluster -> 'versions' ->> (p_cluster ->> 'source'))::int / 10000
    = (p_cluster -> 'versions' ->> (p_cluster ->> 'new'))::int / 10000)::text
$zodan$;
COMMENT ON FUNCTION zodan.is_exact IS
'Returns whether source and new node have the same major version of PostgreSQL, so that both describe the texts of
queries alike: true or false, for p_exact of zodan.describe_structure.';
REVOKE ALL ON FUNCTION zodan.is_exact FROM PUBLIC;

CREATE FUNCTION zodan.plan_present(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that compare a structure which is on the new node already with that of the source before a row is
copied. On rollback the structure stays, and only the rows go. A step describes the source's structure after another has
counted the queued changes of structure: no change falls between the two. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_exact text := zodan.is_exact(p_cluster);
BEGIN
    RETURN NEXT zodan.make_step('copying', v_new, 'empty the tables on ' || v_new || ' (only on rollback)',
        p_undo := zodan.empty_tables(p_node => v_new, p_identity => zodan.placeholder('result', 'note', 'identity')),
        p_group := 'copy', p_object := 'rows');
    RETURN NEXT zodan.make_step('structured', v_new, pg_catalog.format('compare the structure on %s with that on %s', v_new,
        v_source), p_do := zodan.prove_structure(p_stage => 'present', p_exact => v_exact,
            p_objects => zodan.placeholder('result', 'structure', 'facts')),
        p_done := zodan.is_direct(p_slot => p_cluster #>> ARRAY['slots', v_source, v_new], p_subscription => zodan.copy_name(v_new)),
        p_group := 'copy', p_kind := 'verify', p_object := 'structure');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_present IS
'Returns the steps that compare a structure which is on the new node already with that of the source before a row is
copied. On rollback the structure stays, and only the rows go. A step describes the source''s structure after another has
counted the queued changes of structure: no change falls between the two.';
REVOKE ALL ON FUNCTION zodan.plan_present FROM PUBLIC;

CREATE FUNCTION zodan.plan_structure(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that bring the structure of the source to the new node, by a subscription of Spock that takes no
set and is dropped again, or confirm that it is there already; and make the slot and the subscription for the rows. No
change of structure may fall between the two: they are counted before, and by the first unit. The stream has a first
transaction of Zodan's own, because it may have to begin before the last snapshot. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text := zodan.copy_name(v_new);
    v_structure text := zodan.structure_name(v_new);
    v_slot text := p_cluster ->> 'copy_slot';
    v_head text := zodan.head_name(v_slot);
    v_publishes boolean := (p_cluster #>> ARRAY['versions', v_source])::int < 180000;
    v_present boolean := coalesce(p_cluster ->> 'structure' = 'present', false);
BEGIN
    IF v_publishes THEN
        RETURN NEXT zodan.make_step('note', v_source, 'create an empty publication on ' || v_source,
            p_do := zodan.create_publication(v_head), p_undo := zodan.drop_publication(v_head), p_group := 'copy',
            p_object := v_head);
    END IF;
    RETURN NEXT zodan.make_step('note', v_source, 'watch the transactions of ' || v_source,
        p_do := zodan.watch_head(v_head), p_group := 'copy');
    RETURN NEXT zodan.make_step('note', v_source, 'note the queued changes of structure on ' || v_source,
        p_do := zodan.note_ddl(), p_ref := 'ddl', p_group := 'copy');
    RETURN NEXT zodan.make_step('slot', v_source, pg_catalog.format('create slot %s of the copy on %s', v_slot, v_source),
        p_do := CASE WHEN (p_cluster #>> ARRAY['versions', v_source])::int >= 170000
            THEN zodan.create_failover_slot(v_slot) ELSE zodan.create_slot(v_slot) END,
        p_undo := zodan.drop_slot(v_slot), p_ref := 'slot', p_group := 'copy', p_object := v_slot);
    RETURN NEXT zodan.make_step('slot', v_source, 'send the first transaction of the stream from ' || v_source,
        p_do := zodan.send_head(p_slot => v_slot, p_sets => zodan.list_sets(p_cluster, v_source)), p_group := 'copy');
    RETURN NEXT zodan.make_step('copying', v_source, 'find the first transaction of the stream on ' || v_source,
        p_do := zodan.find_head(p_slot => v_head, p_head => v_slot), p_ref := 'head', p_group := 'copy');
    IF v_publishes THEN
        RETURN NEXT zodan.make_step('copying', v_source, 'drop the empty publication on ' || v_source,
            p_do := zodan.drop_publication(v_head), p_group := 'copy', p_object := v_head);
    END IF;
    RETURN NEXT zodan.make_step('copying', v_source, 'note the structure on ' || v_source,
        p_do := zodan.describe_structure(p_brief => 'true', p_exact => zodan.is_exact(p_cluster)),
        p_ref := 'structure', p_group := 'copy', p_object := 'structure');
    IF v_present THEN
        RETURN QUERY SELECT * FROM zodan.plan_present(p_cluster);
    ELSE
        RETURN NEXT zodan.make_step('copying', v_new, pg_catalog.format('create subscription %s on %s, with the structure only',
            v_structure, v_new),
            p_do := zodan.create_copy_subscription(p_subscription => v_structure, p_provider => v_source, p_sets => '{}',
                p_structure => 'true', p_data => 'false', p_forward => '{}', p_enabled => 'true',
                p_skip => ARRAY(SELECT s.name FROM pg_catalog.jsonb_array_elements_text(coalesce(p_cluster -> 'fenced', '[]')) AS s(name))),
            p_undo := zodan.drop_copy(v_structure), p_group := 'copy', p_object := v_structure);
        RETURN NEXT zodan.make_step('copying', v_source, 'end the sessions of the copy on ' || v_source || ' (only on rollback)',
            p_undo := zodan.end_sessions(v_structure), p_group := 'copy');
        RETURN NEXT zodan.make_step('structured', v_new, 'wait for the structure on ' || v_new,
            p_until := zodan.wait_structure(p_subscription => v_structure, p_tables => p_cluster #>> '{copy,tables}',
                p_bytes => p_cluster #>> '{copy,bytes}'),
            p_undo := zodan.disable_copy(v_structure), p_budget := p_patience, p_group := 'copy', p_object := v_structure);
    END IF;
    RETURN NEXT zodan.make_step('structured', v_source, 'list what is to be copied on ' || v_source,
        p_do := zodan.list_units(p_sets => zodan.list_sets(p_cluster, v_source), p_lanes => p_cluster ->> 'lanes',
            p_head => zodan.placeholder('result', 'head', 'lsn')),
        p_ref := 'units', p_group := 'copy', p_object := 'copied');
    IF NOT v_present THEN
        RETURN NEXT zodan.make_step('units', v_new, pg_catalog.format('disable subscription %s on %s', v_structure, v_new),
            p_do := zodan.end_structure(v_structure), p_group := 'copy', p_object := v_structure);
        RETURN NEXT zodan.make_step('aside', v_source, pg_catalog.format('drop slot %s of the structure on %s',
            p_cluster ->> 'structure_slot', v_source),
            p_do := zodan.drop_slot(p_cluster ->> 'structure_slot'), p_group := 'copy', p_object := p_cluster ->> 'structure_slot');
    END IF;
    RETURN NEXT zodan.make_step('units', v_new, pg_catalog.format('create subscription %s on %s, disabled', v_sub, v_new),
        p_do := zodan.create_subscription(p_slot => v_slot, p_subscription => v_sub, p_provider => v_source,
            p_sets => zodan.list_sets(p_cluster, v_source), p_forward => '{all}', p_enabled => 'false'),
        p_done := zodan.copy_continues(p_subscription => v_sub, p_slot => p_cluster #>> ARRAY['slots', v_source, v_new]),
        p_undo := zodan.drop_copy(v_sub), p_group := 'copy', p_object := v_sub);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_structure IS
'Returns the steps that bring the structure of the source to the new node, by a subscription of Spock that takes no
set and is dropped again, or confirm that it is there already; and make the slot and the subscription for the rows. No
change of structure may fall between the two: they are counted before, and by the first unit. The stream has a first
transaction of Zodan''s own, because it may have to begin before the last snapshot.';
REVOKE ALL ON FUNCTION zodan.plan_structure FROM PUBLIC;

CREATE FUNCTION zodan.plan_rows(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that copy the rows of the source, unit by unit in several sessions side by side, build the indexes
of each table afterwards, begin the stream through which the new node catches up with everybody's changes, and gather
statistics meanwhile. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text := zodan.copy_name(v_new);
    v_direct text := zodan.is_direct(p_slot => p_cluster #>> ARRAY['slots', v_source, v_new], p_subscription => NULL);
BEGIN
    RETURN NEXT zodan.make_step('aside', v_new, 'set the indexes of large tables aside on ' || v_new,
        p_do := zodan.set_indexes_aside(p_tables => zodan.placeholder('result', 'units', 'large'), p_subscription => v_sub),
        p_done := v_direct, p_group := 'copy');
    RETURN NEXT zodan.make_step('aside', v_new, 'list these indexes on ' || v_new, p_do := zodan.list_indexes(),
        p_group := 'copy', p_object := 'indexes');
    RETURN NEXT zodan.make_step('aside', v_source, pg_catalog.format('end the session that keeps the snapshot on %s (only on rollback)',
        v_source), p_undo := zodan.end_snapshots(v_sub), p_group := 'copy');
    RETURN NEXT zodan.make_step('copied', v_new, 'copy the rows to ' || v_new,
        p_do := zodan.drop_lanes(v_sub), p_until := zodan.look_at_copy(v_sub), p_done := v_direct,
        p_undo := zodan.drop_lanes(v_sub), p_group := 'copy',
        p_object := v_sub, p_kind := 'wait', p_ref := 'copied', p_units := pg_catalog.jsonb_build_object('stage', 'data',
            'lanes', (p_cluster ->> 'lanes')::int, 'snapshot', v_source, 'max_rate', (p_cluster ->> 'max_rate')::bigint,
            'max_lag', p_cluster ->> 'max_lag', 'load_sql', zodan.read_load(
                p_subscription => v_sub, p_slot => p_cluster ->> 'copy_slot'),
            'lane_sql', zodan.open_lane(p_subscription => v_sub, p_lane => zodan.placeholder('result', 'unit', 'lane'),
                p_session => zodan.set_session()),
            'clear_sql', zodan.clear_units(p_what => zodan.placeholder('result', 'unit', 'bundled'),
                p_numbers => zodan.placeholder('result', 'unit', 'numbers')),
            'compare_sql', zodan.compare_files(p_files => zodan.placeholder('result', 'unit', 'others'),
                p_snapshot => zodan.placeholder('result', 'unit', 'snapshot')),
            'unit_sql', zodan.copy_unit(p_number => zodan.placeholder('result', 'unit', 'number'),
                p_what => zodan.placeholder('result', 'unit', 'what'), p_snapshot => zodan.placeholder('result', 'unit', 'snapshot'),
                p_lsn => zodan.placeholder('result', 'unit', 'lsn'), p_ddl => zodan.placeholder('result', 'ddl', 'ddl'),
                p_bytes => zodan.placeholder('result', 'unit', 'bytes'), p_rate => zodan.placeholder('result', 'unit', 'rate'))));
    RETURN NEXT zodan.make_step('indexes', v_new, 'build the indexes on ' || v_new, p_done := v_direct, p_group := 'copy',
        p_object := v_sub, p_kind := 'wait', p_units := pg_catalog.jsonb_build_object('stage', 'indexes', 'beside', 'copied',
            'lanes', (p_cluster ->> 'lanes')::int, 'lane_sql', zodan.prepare_build(),
            'unit_sql', zodan.build_index(zodan.placeholder('result', 'unit', 'what'))));
    RETURN NEXT zodan.make_step('streaming', v_source, 'make sure that no session keeps the snapshot on ' || v_source,
        p_do := zodan.end_snapshots(v_sub), p_group := 'copy');
    RETURN NEXT zodan.make_step('streaming', v_new, 'note the life of the server of ' || v_new, p_do := zodan.note_life(),
        p_ref := 'life', p_group := 'copy');
    RETURN NEXT zodan.make_step('streaming', v_new, 'list the tables to analyze on ' || v_new, p_do := zodan.list_analyzed(),
        p_group := 'copy', p_object := 'analyzed');
    RETURN NEXT zodan.make_step('streaming', v_new, pg_catalog.format('begin the stream of subscription %s on %s', v_sub, v_new),
        p_do := zodan.begin_stream(p_subscription => v_sub, p_lsn => zodan.placeholder('result', 'copied', 'lsn'),
            p_slot_lsn => zodan.placeholder('result', 'slot', 'lsn'),
            p_tables => zodan.placeholder('result', 'copied', 'tables'), p_head => zodan.placeholder('result', 'head', 'lsn')),
        p_done := zodan.is_enabled(p_subscription => v_sub, p_slot => p_cluster #>> ARRAY['slots', v_source, v_new]),
        p_undo := zodan.disable_copy(v_sub), p_group := 'copy', p_object := v_sub);
    RETURN NEXT zodan.make_step('analyzed', v_new, 'gather statistics of the tables on ' || v_new, p_done := v_direct,
        p_group := 'copy', p_object := v_sub, p_kind := 'wait', p_units := pg_catalog.jsonb_build_object('stage', 'statistics',
            'lanes', (p_cluster ->> 'lanes')::int, 'lane_sql', zodan.open_analysis(),
            'unit_sql', zodan.analyze_tables(zodan.placeholder('result', 'unit', 'what'))));
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_rows IS
'Returns the steps that copy the rows of the source, unit by unit in several sessions side by side, build the indexes
of each table afterwards, begin the stream through which the new node catches up with everybody''s changes, and gather
statistics meanwhile.';
REVOKE ALL ON FUNCTION zodan.plan_rows FROM PUBLIC;

CREATE FUNCTION zodan.plan_cloned(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that begin the stream on a new node which is a physical copy of the source: it has all that the
source had up to the position that its mark says, and the slot on the source has kept everything since. Both were made
before the join. Neither can be made again for this copy: where its stream is broken, another copy has to be made. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text := zodan.copy_name(v_new);
    v_slot text := p_cluster ->> 'copy_slot';
    v_direct text := zodan.is_direct(p_slot => p_cluster #>> ARRAY['slots', v_source, v_new], p_subscription => v_sub);
BEGIN
    RETURN NEXT zodan.make_step('note', v_new, 'note the time on ' || v_new, p_do := zodan.note_objects(), p_done := v_direct,
        p_ref := 'note', p_group := 'copy');
    RETURN NEXT zodan.make_step('slot', v_source, pg_catalog.format('confirm slot %s of the copy on %s', v_slot, v_source),
        p_do := zodan.confirm_clone_slot(v_slot), p_ref := 'slot', p_kind := 'verify', p_object := v_slot);
    RETURN NEXT zodan.make_step('copying', v_new, pg_catalog.format('confirm that %s is a copy of %s', v_new, v_source),
        p_do := zodan.confirm_clone(p_mark => zodan.clone_name(v_new), p_slot_lsn => zodan.placeholder('result', 'slot', 'lsn'),
            p_system => zodan.placeholder('result', 'slot', 'system')),
        p_done := v_direct, p_kind := 'verify', p_object := zodan.clone_name(v_new));
    RETURN NEXT zodan.make_step('structured', v_new, 'read how far the copy goes on ' || v_new,
        p_do := zodan.read_clone(zodan.clone_name(v_new)), p_done := v_direct, p_ref := 'cloned', p_object := zodan.clone_name(v_new));
    RETURN NEXT zodan.make_step('units', v_new, pg_catalog.format('create subscription %s on %s, disabled', v_sub, v_new),
        p_do := zodan.create_subscription(p_slot => v_slot, p_subscription => v_sub, p_provider => v_source,
            p_sets => zodan.list_sets(p_cluster, v_source), p_forward => '{all}', p_enabled => 'false'),
        p_done := v_direct, p_undo := zodan.drop_copy(v_sub), p_group := 'copy', p_object := v_sub);
    RETURN NEXT zodan.make_step('streaming', v_new, 'note the life of the server of ' || v_new, p_do := zodan.note_life(),
        p_ref := 'life', p_group := 'copy');
    RETURN NEXT zodan.make_step('streaming', v_new, pg_catalog.format('begin the stream of subscription %s on %s', v_sub, v_new),
        p_do := zodan.begin_clone_stream(p_subscription => v_sub, p_lsn => zodan.placeholder('result', 'cloned', 'lsn'),
            p_mark => zodan.clone_name(v_new)),
        p_done := zodan.is_enabled(p_subscription => v_sub, p_slot => p_cluster #>> ARRAY['slots', v_source, v_new]),
        p_undo := zodan.disable_copy(v_sub), p_group := 'copy', p_object := v_sub);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_cloned IS
'Returns the steps that begin the stream on a new node which is a physical copy of the source: it has all that the
source had up to the position that its mark says, and the slot on the source has kept everything since. Both were made
before the join. Neither can be made again for this copy: where its stream is broken, another copy has to be made.';
REVOKE ALL ON FUNCTION zodan.plan_cloned FROM PUBLIC;

CREATE FUNCTION zodan.plan_copy(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that bring structure and data from the source, row by row or, if p_cluster says that it is a clone,
as a physical copy that is there already, and let the new node catch up through it with everybody's changes. p_patience
is how long a wait may see no progress. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text := zodan.copy_name(v_new);
    v_slot text := p_cluster #>> ARRAY['slots', v_source, v_new];
    v_cloned boolean := coalesce((p_cluster ->> 'clone')::boolean, false);
BEGIN
    IF v_cloned THEN
        RETURN QUERY SELECT * FROM zodan.plan_cloned(p_cluster);
    ELSE
        RETURN NEXT zodan.make_step('note', v_new, 'note the objects on ' || v_new,
            p_do := zodan.note_objects(), p_done := zodan.is_direct(p_slot => v_slot, p_subscription => v_sub),
            p_undo := zodan.drop_copied(p_objects => zodan.placeholder('result', 'note', 'objects'), p_node => v_new,
                p_identity => zodan.placeholder('result', 'note', 'identity')), p_ref := 'note', p_group := 'copy');
        RETURN QUERY SELECT * FROM zodan.plan_structure(p_cluster, p_patience);
        RETURN QUERY SELECT * FROM zodan.plan_rows(p_cluster);
    END IF;
    RETURN NEXT zodan.make_step('sound', v_source, 'confirm the slot of the copy on ' || v_source,
        p_do := zodan.prove_copy_slot(p_cluster ->> 'copy_slot'), p_group := 'approach', p_kind := 'verify',
        p_object := p_cluster ->> 'copy_slot');
    RETURN NEXT zodan.make_step('sound', v_new, 'confirm that the copy on ' || v_new || ' is complete',
        p_do := zodan.prove_sound(p_since => zodan.placeholder('result', 'note', 'at'), p_origin => NULL,
            p_starts => zodan.placeholder('result', 'life', 'starts')), p_group := 'approach',
            p_kind := 'verify');
    IF NOT v_cloned THEN
        RETURN NEXT zodan.make_step('analyzed', v_source, 'note what changed in the structure on ' || v_source,
            p_do := zodan.changed_structure(p_exact => zodan.is_exact(p_cluster),
                p_objects => zodan.placeholder('result', 'structure', 'facts'),
                p_ddl => zodan.placeholder('result', 'ddl', 'ddl')),
            p_ref := 'changed early', p_group := 'copy', p_object := 'structure');
        RETURN NEXT zodan.make_step('sound', v_new, 'confirm that the tables on ' || v_new || ' are those of ' || v_source,
            p_do := zodan.prove_structure(p_stage => 'copied', p_exact => zodan.is_exact(p_cluster),
                p_objects => zodan.placeholder('result', 'changed early', 'facts')), p_group := 'approach', p_kind := 'verify',
            p_object := 'structure');
    END IF;
    RETURN NEXT zodan.make_step('level', v_source, 'send a sync event on ' || v_source,
            p_do := zodan.emit_sync_event(),
            p_ref := 'level', p_group := 'approach');
    IF p_cluster ->> 'structure' IS DISTINCT FROM 'present' THEN
        RETURN NEXT zodan.make_step('level', v_new, pg_catalog.format('drop subscription %s on %s', zodan.structure_name(v_new), v_new),
            p_until := zodan.drop_ended(zodan.structure_name(v_new)), p_budget := p_patience, p_group := 'approach',
            p_object := zodan.structure_name(v_new));
    END IF;
    RETURN NEXT zodan.make_step('levelled', v_new, pg_catalog.format('wait until %s has applied it', v_new),
            p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'level', 'lsn'), p_provider => v_source),
            p_budget := p_patience, p_group := 'approach');
    RETURN NEXT zodan.make_step('levelled', v_source, 'read the replication sets of ' || v_source,
            p_do := zodan.read_sets(zodan.list_sets(p_cluster, v_source)),
            p_ref := 'sets', p_group := 'approach');
    IF NOT v_cloned THEN
        RETURN NEXT zodan.make_step('prepare', v_new, 'confirm that the stream to ' || v_new || ' began with its first transaction',
                p_do := zodan.prove_head(p_subscription => v_sub, p_slot => p_cluster ->> 'copy_slot'), p_group := 'approach',
                p_kind := 'verify');
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_copy IS
'Returns the steps that bring structure and data from the source, row by row or, if p_cluster says that it is a clone,
as a physical copy that is there already, and let the new node catch up through it with everybody''s changes. p_patience
is how long a wait may see no progress.';
REVOKE ALL ON FUNCTION zodan.plan_copy FROM PUBLIC;

CREATE FUNCTION zodan.plan_mirror(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the step that creates the replication sets of the source on the new node, as they are when it runs. */
DECLARE
    v_new text := p_cluster ->> 'new';
BEGIN
    RETURN NEXT zodan.make_step('prepare', v_new, pg_catalog.format('mirror the replication sets of %s on %s',
        p_cluster ->> 'source', v_new),
            p_do := zodan.mirror_sets(p_wanted => zodan.placeholder('result', 'sets', 'sets'),
                p_sets => zodan.list_sets(p_cluster, p_cluster ->> 'source')), p_group := 'approach');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_mirror IS
'Returns the step that creates the replication sets of the source on the new node, as they are when it runs.';
REVOKE ALL ON FUNCTION zodan.plan_mirror FROM PUBLIC;

CREATE FUNCTION zodan.plan_slot(
    p_phase text,
    p_cluster jsonb,
    p_provider text,
    p_subscriber text
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the step that makes, on a provider, the slot of one subscription, marked for failover where PostgreSQL
knows that. Its undo drops the slot once nobody streams from it. */
DECLARE
    v_slot text := p_cluster #>> ARRAY['slots', p_provider, p_subscriber];
BEGIN
    RETURN NEXT zodan.make_step(p_phase, p_provider, pg_catalog.format('create slot %s on %s', v_slot, p_provider),
            p_do := CASE WHEN (p_cluster #>> ARRAY['versions', p_provider])::int >= 170000
                THEN zodan.create_failover_slot(v_slot) ELSE zodan.create_slot(v_slot) END,
            p_done := zodan.slot_exists(v_slot),
            p_undo := zodan.drop_slot(v_slot), p_group := 'approach', p_object := v_slot);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_slot IS
'Returns the step that makes, on a provider, the slot of one subscription, marked for failover where PostgreSQL
knows that. Its undo drops the slot once nobody streams from it.';
REVOKE ALL ON FUNCTION zodan.plan_slot FROM PUBLIC;

CREATE FUNCTION zodan.plan_slots(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that make a slot at both ends of every direct stream: on each member for the new node, before the
mark that the barrier waits for; and on the new node for each member, so that what is written there from now on
reaches them. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_peer text;
BEGIN
    FOR v_peer IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name) LOOP
        RETURN QUERY SELECT * FROM zodan.plan_slot('prepare', p_cluster, v_peer, v_new);
    END LOOP;
    FOR v_peer IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name) LOOP
        RETURN QUERY SELECT * FROM zodan.plan_slot('prepare', p_cluster, v_new, v_peer);
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_slots IS
'Returns the steps that make a slot at both ends of every direct stream: on each member for the new node, before the
mark that the barrier waits for; and on the new node for each member, so that what is written there from now on
reaches them.';
REVOKE ALL ON FUNCTION zodan.plan_slots FROM PUBLIC;

CREATE FUNCTION zodan.plan_peers(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that prepare the direct streams: disabled subscriptions on the new node from every member, a sync
event on each peer after its slot, and the barrier, which waits until the source has passed that event, so that what
the source holds at the flip is no older than the slots. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text;
    v_peer text;
    v_place bigint;
BEGIN
    -- The source's comes last: Spock starts streams in this order, and what the source changes is what others wrote.
    FOR v_peer IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'peers') AS m(name)
        UNION ALL SELECT v_source LOOP
        v_sub := zodan.subscription_name(v_peer, v_new);
        RETURN NEXT zodan.make_step('mark', v_new, pg_catalog.format('create subscription %s on %s, disabled', v_sub,
            v_new),
            p_do := zodan.create_subscription(p_slot => p_cluster #>> ARRAY['slots', v_peer, v_new],
                p_subscription => v_sub,
                p_provider => v_peer, p_sets => zodan.list_sets(p_cluster, v_peer), p_forward => '{}', p_enabled => 'false'),
            p_done := zodan.subscription_exists(v_sub),
            p_undo := zodan.drop_subscription(v_sub), p_group := 'approach', p_object := v_sub);
    END LOOP;
    FOR v_peer, v_place IN
        SELECT p.name, p.place FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'peers') WITH ORDINALITY AS p(name, place)
    LOOP
        RETURN NEXT zodan.make_step('mark', v_peer, 'send a sync event on ' || v_peer,
            p_do := zodan.emit_sync_event(),
            p_ref := 'mark' || v_place, p_group := 'approach');
        RETURN NEXT zodan.make_step('barrier', v_source,
            pg_catalog.format('wait until %s has applied the sync event of %s', v_source, v_peer),
            p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'mark' || v_place, 'lsn'),
                p_provider => v_peer),
            p_budget := p_patience, p_group := 'approach', p_object := v_peer);
    END LOOP;
    -- Right before the pause: nothing large is under way on the source, and the new node has what is there.
    RETURN NEXT zodan.make_step('ready', v_source, pg_catalog.format('wait until no long transaction is applied on %s',
        v_source),
        p_until := zodan.wait_unbusy(), p_budget := p_patience, p_group := 'approach');
    RETURN NEXT zodan.make_step('near', v_source, 'send a sync event on ' || v_source,
        p_do := zodan.emit_sync_event(), p_ref := 'near', p_group := 'approach');
    RETURN NEXT zodan.make_step('nearly', v_new, pg_catalog.format('wait until %s has applied it', v_new),
        p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'near', 'lsn'), p_provider => v_source),
            p_budget := p_patience, p_group := 'approach');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_peers IS
'Returns the steps that prepare the direct streams: disabled subscriptions on the new node from every member, a sync
event on each peer after its slot, and the barrier, which waits until the source has passed that event, so that what
the source holds at the flip is no older than the slots.';
REVOKE ALL ON FUNCTION zodan.plan_peers FROM PUBLIC;

CREATE FUNCTION zodan.plan_see_slots(
    p_cluster jsonb,
    p_phase text,
    p_budget interval,
    p_group text
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps of one phase of the flip that check every slot that the turn relies on: on each member the new
node's slot, which must not be beyond the position that its stream starts at, and on the new node the slots of the
members. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_member text;
BEGIN
    FOR v_member IN SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name) LOOP
        RETURN NEXT zodan.make_step(p_phase, v_member, pg_catalog.format('confirm that the slot of %s on %s is usable',
            v_new, v_member),
            p_do := zodan.prove_slots(p_slots => ARRAY[p_cluster #>> ARRAY['slots', v_member, v_new]],
                p_lsn => CASE WHEN v_member = p_cluster ->> 'source'
                    THEN zodan.placeholder('result', 'flip', 'lsn') END,
                p_positions => zodan.placeholder('result', 'flip', 'positions'), p_peer => v_member),
            p_budget := p_budget, p_group := p_group, p_kind := 'verify');
    END LOOP;
    RETURN NEXT zodan.make_step(p_phase, v_new, 'confirm that the slots on ' || v_new || ' are usable',
        p_do := zodan.prove_slots(p_slots => ARRAY(SELECT s.value
            FROM pg_catalog.jsonb_each_text(p_cluster #> ARRAY['slots', v_new]) AS s(key, value)),
            p_lsn => NULL, p_positions => '{}', p_peer => NULL),
        p_budget := p_budget, p_group := p_group, p_kind := 'verify');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_see_slots IS
'Returns the steps of one phase of the flip that check every slot that the turn relies on: on each member the new
node''s slot, which must not be beyond the position that its stream starts at, and on the new node the slots of the
members.';
REVOKE ALL ON FUNCTION zodan.plan_see_slots FROM PUBLIC;

CREATE FUNCTION zodan.plan_turn(
    p_cluster jsonb,
    p_confirm text,
    p_budget interval,
    p_group text
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the second half of the flip: it ends the source's forwarded stream, confirms with p_confirm that the source
has applied nothing meanwhile, and turns. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_sub text := zodan.copy_name(v_new);
    v_slot text := p_cluster #>> ARRAY['slots', v_source, v_new];
BEGIN
    -- Not undone: enabled again, it would meet the transaction that its worker was stopped in, and Spock would
    -- discard that transaction. After a failure between here and the switch the copy begins again.
    RETURN NEXT zodan.make_step('detach', v_new, pg_catalog.format('disable subscription %s on %s', v_sub, v_new),
            p_do := zodan.disable_copy(v_sub),
            p_budget := p_budget,
            p_group := p_group, p_object := v_sub);
    RETURN NEXT zodan.make_step('detached', v_source, pg_catalog.format('wait until the stream to %s has ended on %s',
        v_new, v_source),
            p_until := zodan.wait_slot_free(p_cluster ->> 'copy_slot'),
            p_budget := p_budget,
            p_group := p_group, p_object := p_cluster ->> 'copy_slot');
    -- The sender may be gone before the worker: a lost connection leaves the worker busy with what it has received.
    RETURN NEXT zodan.make_step('detached', v_new, pg_catalog.format('wait until the worker of %s has ended on %s',
        v_sub, v_new),
            p_until := zodan.wait_worker_gone(v_sub), p_budget := p_budget, p_group := p_group, p_object := v_sub);
    RETURN NEXT zodan.make_step('confirm', v_source, pg_catalog.format('confirm that %s applied nothing in the meantime',
        v_source),
            p_do := p_confirm, p_budget := p_budget, p_group := p_group, p_kind := 'verify');
    RETURN QUERY SELECT * FROM zodan.plan_see_slots(p_cluster, 'confirm', p_budget, p_group);
    RETURN NEXT zodan.make_step('switch', v_new, 'switch to the direct streams on ' || v_new,
            p_do := zodan.switch_streams(p_positions => zodan.placeholder('result', 'flip', 'positions'),
                p_subscription => v_sub,
                p_peers => ARRAY(SELECT m.name
                    FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'peers') AS m(name)),
                p_subscriptions => zodan.list_subscriptions(p_cluster),
                p_slot => v_slot),
            p_done := zodan.is_direct(p_slot => v_slot, p_subscription => NULL),
            -- All at once: of a row that is written on two nodes, one stream alone may bring the second change only.
            p_undo := zodan.disable_streams(),
            p_budget := p_budget,
            p_group := p_group);
    -- A call that stopped here may be resumed at any time: Spock or a person may have disabled a stream meanwhile.
    RETURN NEXT zodan.make_step('enable', v_new, 'enable all streams on ' || v_new,
            p_do := zodan.enable_streams(zodan.list_subscriptions(p_cluster)), p_group := p_group);
    RETURN NEXT zodan.make_step('resume', v_new, 'start all streams on ' || v_new,
            p_do := zodan.start_streams(zodan.list_subscriptions(p_cluster)), p_group := p_group);
    RETURN NEXT zodan.make_step('resume', v_source, 'resume apply on ' || v_source,
            p_do := 'SELECT spock.resume_apply_workers()',
            p_budget := p_budget,
            p_group := p_group);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_turn IS
'Returns the second half of the flip: it ends the source''s forwarded stream, confirms with p_confirm that the source
has applied nothing meanwhile, and turns.';
REVOKE ALL ON FUNCTION zodan.plan_turn FROM PUBLIC;

CREATE FUNCTION zodan.plan_flip(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that turn the new node from the source's forwarded stream to everybody's direct streams: one
section, undone as a whole when a step of it fails. The starting positions are exact because the source applies
nothing between reading them and the end of its stream to the new node. The plan does not trust the pause for that: it
reads the positions again. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_source text := p_cluster ->> 'source';
    v_peers text[] := ARRAY(SELECT p.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'peers') AS p(name));
    v_confirm text := zodan.confirm_positions(p_peers => v_peers,
        p_positions => zodan.placeholder('result', 'flip', 'positions'));
    v_peer text;
    c_group CONSTANT text := 'flip';
    c_budget CONSTANT interval := '8 s'::interval;
BEGIN
    RETURN NEXT zodan.make_step('pause', v_source, 'pause apply on ' || v_source,
            p_do := 'SELECT spock.pause_apply_workers()',
            p_undo := 'SELECT spock.resume_apply_workers()',
            p_budget := c_budget,
            p_group := c_group);
    -- An idle worker counts as paused and still takes one transaction that changes nothing here: let each have it
    -- now. It has to be a transaction: only at the end of one does a worker see that it must pause.
    FOREACH v_peer IN ARRAY v_peers LOOP
        RETURN NEXT zodan.make_step('nudge', v_peer, 'send a sync event on ' || v_peer,
            p_do := 'SELECT spock.sync_event(true) AS lsn', p_budget := c_budget, p_group := c_group);
    END LOOP;
    RETURN NEXT zodan.make_step('still', v_source, pg_catalog.format('wait until %s applies nothing',
        v_source),
        p_do := zodan.wait_still(v_peers), p_budget := c_budget, p_group := c_group);
    RETURN NEXT zodan.make_step('positions', v_source, 
            'read the positions of ' || v_source || ' and send a sync event',
            p_do := zodan.read_positions(v_peers),
            p_budget := c_budget,
            p_ref := 'flip',
            p_group := c_group);
    RETURN NEXT zodan.make_step('caught_up', v_new, pg_catalog.format('wait until %s has applied it', v_new),
            p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'flip', 'lsn'), p_provider => v_source),
            p_budget := c_budget,
            p_group := c_group);
    RETURN NEXT zodan.make_step('held', v_source, pg_catalog.format('confirm that %s applies nothing', v_source),
            p_do := v_confirm, p_budget := c_budget, p_group := c_group, p_kind := 'verify');
    RETURN NEXT zodan.make_step('held', v_new, pg_catalog.format('confirm that nothing was discarded on %s', v_new),
        p_do := zodan.prove_sound(p_since => zodan.placeholder('result', 'note', 'at'), p_origin => NULL,
            p_starts => zodan.placeholder('result', 'life', 'starts')),
        p_budget := c_budget, p_group := c_group, p_kind := 'verify');
    RETURN QUERY SELECT * FROM zodan.plan_see_slots(p_cluster, 'held', c_budget, c_group);
    RETURN QUERY SELECT * FROM zodan.plan_turn(p_cluster, v_confirm, c_budget, c_group);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_flip IS
'Returns the steps that turn the new node from the source''s forwarded stream to everybody''s direct streams: one
section, undone as a whole when a step of it fails. The starting positions are exact because the source applies
nothing between reading them and the end of its stream to the new node. The plan does not trust the pause for that: it
reads the positions again.';
REVOKE ALL ON FUNCTION zodan.plan_flip FROM PUBLIC;

CREATE FUNCTION zodan.plan_return(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that start the streams from the new node: a subscription to it on every member at once, then the
wait until all replicate. Before, every member sends the sync event that will prove its own stream: once the worker of
its new subscription starts it would wait, up to a second. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_sub text;
    v_member text;
    v_place bigint;
BEGIN
    RETURN NEXT zodan.make_step('way_back', v_new,
            pg_catalog.format('drop subscription %s on %s', zodan.copy_name(v_new), v_new),
            p_until := zodan.drop_ended(zodan.copy_name(v_new)), p_budget := p_patience, p_object := zodan.copy_name(v_new));
    FOR v_member, v_place IN
        SELECT m.name, m.place FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') WITH ORDINALITY AS m(name, place)
    LOOP
        IF v_member = p_cluster ->> 'source' THEN
            -- What a physical copy has is compared whole. This comes before the sync event: once that has come, the new node
            -- has every change that came by the stream.
            RETURN NEXT zodan.make_step('way_back', v_member, 'note what changed in the structure on ' || v_member,
                p_do := zodan.changed_structure(p_exact => zodan.is_exact(p_cluster),
                    p_objects => CASE WHEN (p_cluster ->> 'clone')::boolean THEN '{}'
                        ELSE zodan.placeholder('result', 'structure', 'facts') END, p_ddl => ''),
                p_ref := 'changed', p_policy := 'fresh', p_object := 'structure');
            RETURN NEXT zodan.make_step('way_back', v_member, 'read the replication sets again on ' || v_member,
                p_do := zodan.read_sets(zodan.list_sets(p_cluster, v_member)), p_ref := 'sets again', p_policy := 'fresh');
        END IF;
        RETURN NEXT zodan.make_step('way_back', v_member, 'send a sync event on ' || v_member,
            p_do := zodan.emit_sync_event(), p_ref := 'event' || v_place);
        v_sub := zodan.subscription_name(v_new, v_member);
        RETURN NEXT zodan.make_step('way_back', v_member, pg_catalog.format('create subscription %s on %s', v_sub,
            v_member),
            p_do := zodan.create_subscription(p_slot => p_cluster #>> ARRAY['slots', v_new, v_member],
                p_subscription => v_sub,
                p_provider => v_new, p_sets => zodan.list_sets(p_cluster, p_cluster ->> 'source'), p_forward => '{}', p_enabled => 'true'),
            p_done := zodan.subscription_exists(v_sub),
            p_undo := zodan.drop_subscription(v_sub), p_object := v_sub);
        RETURN NEXT zodan.make_step('replicating', v_member,
            pg_catalog.format('wait for subscription %s to replicate on %s', v_sub, v_member),
            p_until := zodan.wait_replicating(ARRAY[v_sub]),
            p_budget := p_patience, p_kind := 'verify', p_object := v_sub);
    END LOOP;
    RETURN NEXT zodan.make_step('replicating', v_new, 'wait for all subscriptions to replicate on ' || v_new,
            p_until := zodan.wait_replicating(zodan.list_subscriptions(p_cluster)),
            p_budget := p_patience, p_kind := 'verify');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_return IS
'Returns the steps that start the streams from the new node: a subscription to it on every member at once, then the
wait until all replicate. Before, every member sends the sync event that will prove its own stream: once the worker of
its new subscription starts it would wait, up to a second.';
REVOKE ALL ON FUNCTION zodan.plan_return FROM PUBLIC;

CREATE FUNCTION zodan.plan_prove(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the last steps of a join: they bring sequences level, then prove that every stream of the new node moves in
both directions: a sync event on every node, applied at the other end. Those of the members were sent before. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_member text;
    v_place bigint;
    v_refs text[] := '{}'::text[];
    v_nodes text[] := ARRAY(SELECT m.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') AS m(name))
        || v_new;
BEGIN
    FOR v_member, v_place IN
        SELECT m.name, m.place FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'members') WITH ORDINALITY AS m(name, place)
    LOOP
        v_refs := v_refs || zodan.placeholder('result', 'seq' || v_place, 'sequences');
        RETURN NEXT zodan.make_step('sequences', v_member, 'read the sequences of ' || v_member,
            p_do := zodan.read_sequences(),
            p_ref := 'seq' || v_place);
        RETURN NEXT zodan.make_step('proven', v_new,
            pg_catalog.format('wait until %s has applied the sync event of %s', v_new, v_member),
            p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'event' || v_place, 'lsn'),
                p_provider => v_member),
            p_budget := p_patience, p_kind := 'verify', p_object := v_member);
        RETURN NEXT zodan.make_step('proven', v_member,
            pg_catalog.format('wait until %s has applied the sync event of %s', v_member, v_new),
            p_until := zodan.wait_applied(p_lsn => zodan.placeholder('result', 'event', 'lsn'), p_provider => v_new),
            p_budget := p_patience, p_kind := 'verify');
        RETURN NEXT zodan.make_step('whole', v_member, pg_catalog.format('confirm that nothing of %s was discarded on %s',
            v_new, v_member),
            p_do := zodan.prove_whole(p_nodes => v_nodes, p_since => zodan.placeholder('result', CASE
                WHEN v_member = p_cluster ->> 'source' THEN 'level'
                ELSE 'mark' || (SELECT p.place
                    FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'peers') WITH ORDINALITY AS p(name, place)
                                 WHERE p.name = v_member) END, 'at'), p_origin => v_new), p_kind := 'verify');
    END LOOP;
    RETURN NEXT zodan.make_step('prove', v_new, 'set the sequences of ' || v_new || ' beyond those of the members',
            p_do := zodan.level_sequences('ARRAY[' || pg_catalog.array_to_string(v_refs, ', ') || ']::jsonb[]'));
    RETURN NEXT zodan.make_step('prove', v_new, 'send a sync event on ' || v_new,
            p_do := zodan.emit_sync_event(),
            p_ref := 'event');
    RETURN NEXT zodan.make_step('whole', v_new, 'confirm that the structure changed alike on ' || v_new,
            p_do := zodan.prove_structure(p_stage => 'joined', p_exact => zodan.is_exact(p_cluster),
                p_objects => zodan.placeholder('result', 'changed', 'facts')), p_kind := 'verify', p_object := 'structure');
    RETURN NEXT zodan.make_step('whole', v_new, 'add what the source added to its replication sets on ' || v_new,
        p_do := zodan.mirror_sets(p_wanted => zodan.placeholder('result', 'sets again', 'sets'),
            p_sets => zodan.list_sets(p_cluster, p_cluster ->> 'source')));
    RETURN NEXT zodan.make_step('whole', v_new, 'confirm that nothing was discarded on ' || v_new,
            p_do := zodan.prove_whole(p_nodes => v_nodes, p_since => zodan.placeholder('result', 'note', 'at'),
                p_origin => NULL), p_kind := 'verify');
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_prove IS
'Returns the last steps of a join: they bring sequences level, then prove that every stream of the new node moves in
both directions: a sync event on every node, applied at the other end. Those of the members were sent before.';
REVOKE ALL ON FUNCTION zodan.plan_prove FROM PUBLIC;

CREATE FUNCTION zodan.plan_verify(p_cluster jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the step that compares the rows of all members and the new node, in a phase of its own: it fails with ZD404 if
rows are different, with ZD405 if rows are undecided. p_cluster has source, new, members, sets, lanes and max_lag. */
DECLARE
    v_nodes jsonb := (p_cluster -> 'members') || (p_cluster -> 'new');
BEGIN
    RETURN NEXT zodan.make_step('verify', p_cluster ->> 'new', pg_catalog.format('compare the rows of %s',
            (SELECT pg_catalog.string_agg(n.name, ', ' ORDER BY n.place)
               FROM pg_catalog.jsonb_array_elements_text(v_nodes) WITH ORDINALITY AS n(name, place))),
        p_kind := 'verify', p_units := pg_catalog.jsonb_build_object('stage', 'verify', 'compare', v_nodes,
            'sets', pg_catalog.to_jsonb(zodan.list_sets(p_cluster, p_cluster ->> 'source')),
            'lanes', (p_cluster ->> 'lanes')::int, 'max_lag', p_cluster ->> 'max_lag'));
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_verify IS
'Returns the step that compares the rows of all members and the new node, in a phase of its own: it fails with ZD404 if
rows are different, with ZD405 if rows are undecided. p_cluster has source, new, members, sets, lanes and max_lag.';
REVOKE ALL ON FUNCTION zodan.plan_verify FROM PUBLIC;

CREATE FUNCTION zodan.plan_finish(p_cluster jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns what is left to do on the new node after the proof that every stream moves: its materialized views get
their rows, and a schema zodan that nobody uses is dropped. */
DECLARE
    v_new text := p_cluster ->> 'new';
    v_view text;
BEGIN
    -- A copy of rows brings only the definitions of views.
    FOR v_view IN SELECT v.name FROM pg_catalog.jsonb_array_elements_text(p_cluster -> 'views') AS v(name)
        WHERE (p_cluster ->> 'clone')::boolean IS NOT TRUE LOOP
        RETURN NEXT zodan.make_step('views', v_new, pg_catalog.format('refresh materialized view %s on %s', v_view,
            v_new),
            p_do := zodan.refresh_view(p_schema => (pg_catalog.parse_ident(v_view))[1],
                p_view => (pg_catalog.parse_ident(v_view))[2]), p_done := zodan.view_is_filled(v_view),
                p_budget := p_patience, p_object := v_view);
    END LOOP;
    RETURN NEXT zodan.make_step('tidy', v_new, 'drop schema zodan if it is empty on ' || v_new,
            p_do := zodan.drop_empty_schema());
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_finish IS
'Returns what is left to do on the new node after the proof that every stream moves: its materialized views get
their rows, and a schema zodan that nobody uses is dropped.';
REVOKE ALL ON FUNCTION zodan.plan_finish FROM PUBLIC;

CREATE FUNCTION zodan.plan_join(
    p_cluster jsonb,
    p_location text,
    p_country text,
    p_info jsonb,
    p_patience interval
)
RETURNS zodan.plan_step[]
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the whole plan of the causal join for a cluster as zodan.survey_join describes it. Pure: the same cluster
always has the same plan. */
DECLARE
    v_steps zodan.plan_step[];
BEGIN
    SELECT pg_catalog.array_agg(s::zodan.plan_step) INTO v_steps FROM (
        SELECT * FROM zodan.plan_clean(p_cluster)
        UNION ALL SELECT * FROM zodan.plan_register(p_cluster, p_location, p_country, p_info)
        UNION ALL SELECT * FROM zodan.plan_roles(p_cluster) WHERE p_cluster ? 'roles'
        UNION ALL SELECT * FROM zodan.plan_copy(p_cluster, p_patience)
        UNION ALL SELECT * FROM zodan.plan_mirror(p_cluster)
        UNION ALL SELECT * FROM zodan.plan_slots(p_cluster)
        UNION ALL SELECT * FROM zodan.plan_peers(p_cluster, p_patience)
        UNION ALL SELECT * FROM zodan.plan_flip(p_cluster)
        UNION ALL SELECT * FROM zodan.plan_return(p_cluster, p_patience)
        UNION ALL SELECT * FROM zodan.plan_prove(p_cluster, p_patience)
        UNION ALL SELECT * FROM zodan.plan_verify(p_cluster) WHERE (p_cluster ->> 'verify')::boolean
        UNION ALL SELECT * FROM zodan.plan_finish(p_cluster, p_patience)) AS s;
    RETURN (SELECT pg_catalog.array_agg(n ORDER BY n.ordinal) FROM zodan.number_steps(v_steps,
        '{clean,register,roles_before,roles,note,slot,copying,structured,units,aside,copied,indexes,streaming,analyzed,sound,level,levelled,prepare,mark,barrier,ready,near,nearly,pause,nudge,still,positions,caught_up,held,detach,detached,confirm,switch,enable,resume,way_back,replicating,sequences,prove,proven,views,whole,verify,tidy}') AS n);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_join IS
'Returns the whole plan of the causal join for a cluster as zodan.survey_join describes it. Pure: the same cluster
always has the same plan.';
REVOKE ALL ON FUNCTION zodan.plan_join FROM PUBLIC;

CREATE FUNCTION zodan.check_jobs(p_jobs int)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 for a number of sessions that copy side by side which makes no sense. */
BEGIN
    IF p_jobs NOT BETWEEN 1 AND 64 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('jobs is %s', p_jobs),
            HINT = 'Give a number from 1 to 64, or leave it out.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_jobs IS
'Raises ZD004 for a number of sessions that copy side by side which makes no sense.';
REVOKE ALL ON FUNCTION zodan.check_jobs FROM PUBLIC;

CREATE FUNCTION zodan.check_limits(p_max_rate bigint, p_max_lag interval)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 for a limit of a copy which makes no sense: p_max_rate in bytes a second, p_max_lag. */
BEGIN
    IF p_max_rate < 65536 THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('max_rate is %s', p_max_rate),
            HINT = 'Give 65536 bytes a second or more, or leave it out.';
    ELSIF p_max_lag <= interval '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('max_lag is %s', p_max_lag),
            HINT = 'Give an interval such as 30 s, or leave it out.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_limits IS
'Raises ZD004 for a limit of a copy which makes no sense: p_max_rate in bytes a second, p_max_lag.';
REVOKE ALL ON FUNCTION zodan.check_limits FROM PUBLIC;

CREATE FUNCTION zodan.check_structure_choice(p_structure text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 for a way to bring the structure that does not exist, or that only the command line has. */
BEGIN
    IF p_structure IS NULL OR p_structure NOT IN ('spock', 'present') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('structure is "%s"', p_structure),
            HINT = CASE WHEN p_structure = 'client'
                THEN 'Run zodan-sql add-node --structure client, or restore a dump of the structure and give present.'
                ELSE 'Give spock, or present if the structure is on the new node already.' END;
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_structure_choice IS
'Raises ZD004 for a way to bring the structure that does not exist, or that only the command line has.';
REVOKE ALL ON FUNCTION zodan.check_structure_choice FROM PUBLIC;

CREATE FUNCTION zodan.check_copy_choice(p_copy text, p_roles boolean)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 for a way to bring the rows that does not exist, or that does not go with the one for the structure. */
BEGIN
    IF p_copy IS NULL OR p_copy NOT IN ('rows', 'present') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('copy is "%s"', p_copy),
            HINT = 'Give rows, or present if the new node is a physical copy that zodan-sql clone has prepared.';
    ELSIF p_copy = 'present' AND p_roles THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = 'a physical copy has the roles of the source',
            HINT = 'Leave out roles.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_copy_choice IS
'Raises ZD004 for a way to bring the rows that does not exist, or that does not go with the one for the structure.';
REVOKE ALL ON FUNCTION zodan.check_copy_choice FROM PUBLIC;

CREATE FUNCTION zodan.choose_lanes(p_facts jsonb, p_nodes jsonb, p_jobs int)
RETURNS int
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(p_jobs, greatest(2, least(8,
    (SELECT pg_catalog.min((p_facts #>> ARRAY[n.name, 'processors'])::int)
       FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)))))
$zodan$;
COMMENT ON FUNCTION zodan.choose_lanes IS
'Returns how many sessions read or copy side by side: p_jobs, else as many as each of p_nodes has processors, as far as
they can be known, at least 2 and at most 8.';
REVOKE ALL ON FUNCTION zodan.choose_lanes FROM PUBLIC;

CREATE FUNCTION zodan.examine(p_type text, p_facts jsonb, p_join jsonb, p_dsns jsonb)
RETURNS SETOF zodan.check_result
LANGUAGE plpgsql
AS $zodan$
/* Gathers what is still missing, over the open connections, and returns the checks of a type: pre, before a join, or
post, after it. */
DECLARE
    v_join jsonb := p_join || pg_catalog.jsonb_build_object('patience', extract(epoch FROM zodan.read_patience()));
    v_facts jsonb := zodan.gather_more(p_facts, p_dsns);
    v_probes jsonb := zodan.probe_pairs(p_facts, p_dsns);
    v_counts jsonb;
BEGIN
    IF p_type = 'pre' THEN
        v_facts := zodan.gather_structure(v_facts, v_join, p_dsns);
        RETURN QUERY SELECT c.* FROM zodan.check_join(v_facts, v_join, v_probes) AS f
            CROSS JOIN zodan.give_verdict(f) AS c;
        RETURN;
    END IF;
    IF v_join ->> 'new' IS NOT NULL THEN
        v_join := v_join || pg_catalog.jsonb_build_object('members', (v_join -> 'members') || (v_join -> 'new'));
    END IF;
    v_counts := zodan.query_nodes((SELECT coalesce(pg_catalog.jsonb_object_agg(f.key, zodan.row_facts('(' || c.counts || ')')), '{}')
          FROM pg_catalog.jsonb_each(v_facts) AS f(key, value)
         CROSS JOIN LATERAL (
            SELECT coalesce(pg_catalog.string_agg(pg_catalog.format(
                           'SELECT %s AS name, pg_catalog.count(*) AS rows FROM %s.%s', zodan.quote_text(t.name),
                           -- A name may read like a placeholder, and would get the password of a node.
                           zodan.quote_name(i.parts[1]), zodan.quote_name(i.parts[2])), ' UNION ALL '),
                       'SELECT NULL::text AS name, 0 AS rows WHERE false') AS counts
              FROM pg_catalog.jsonb_array_elements_text(f.value #> '{tables,small}') AS t(name)
             CROSS JOIN LATERAL pg_catalog.parse_ident(t.name) AS i(parts)) AS c
         WHERE f.value ? 'tables'), p_dsns);
    SELECT pg_catalog.jsonb_object_agg(f.key, f.value || pg_catalog.jsonb_build_object('counts',
        coalesce(v_counts #> ARRAY[f.key, 'value', 'facts'], '{}')))
      INTO v_facts FROM pg_catalog.jsonb_each(v_facts) AS f(key, value);
    RETURN QUERY SELECT c.* FROM zodan.check_cluster(v_facts, v_join || '{"joined": true}', v_probes) AS f
     CROSS JOIN zodan.give_verdict(f) AS c;
END
$zodan$;
COMMENT ON FUNCTION zodan.examine IS
'Gathers what is still missing, over the open connections, and returns the checks of a type: pre, before a join, or
post, after it.';
REVOKE ALL ON FUNCTION zodan.examine FROM PUBLIC;

CREATE FUNCTION zodan.survey_members(
    p_source text,
    p_source_dsn text,
    p_new text,
    p_new_dsn text,
    p_purpose text,
    OUT p_facts jsonb,
    OUT p_join jsonb,
    OUT p_dsns jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Connects to the source and, unless it is NULL, the new node; learns the members from the source, connects to them
too and reads everybody's facts. Returns the facts by node; source, new and members; and every connection string by
node. Leaves the connections open. Errors: ZD001 malformed connection string, ZD002 names missing or equal. */
DECLARE
    v_peers jsonb;
BEGIN
    IF coalesce(p_source, '') = '' OR p_new = '' OR p_source = p_new OR p_new IS NULL AND p_new_dsn IS NOT NULL THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD002',
            MESSAGE = pg_catalog.format('the new node "%s" and its source "%s" must be two nodes', p_new, p_source),
            HINT = 'Name an existing node as the source and a new name for the new node.';
    END IF;
    p_dsns := pg_catalog.jsonb_build_object(p_source, zodan.canonical_dsn(p_source_dsn));
    IF p_new IS NOT NULL THEN
        p_dsns := p_dsns || pg_catalog.jsonb_build_object(p_new, zodan.canonical_dsn(p_new_dsn));
    END IF;
    p_facts := zodan.gather_facts(p_dsns, p_purpose);
    SELECT coalesce(pg_catalog.jsonb_object_agg(n.key, zodan.canonical_dsn(n.value)), '{}') INTO v_peers
      FROM pg_catalog.jsonb_each_text(p_facts #> ARRAY[p_source, 'spock', 'nodes']) AS n(key, value)
     WHERE n.key <> p_source AND n.key IS DISTINCT FROM p_new;
    p_facts := p_facts || zodan.gather_facts(v_peers, p_purpose);
    p_dsns := v_peers || p_dsns;
    p_join := pg_catalog.jsonb_build_object('source', p_source, 'new', p_new,
        'members', (SELECT pg_catalog.jsonb_agg(k.node ORDER BY k.node COLLATE "C")
                      FROM pg_catalog.jsonb_object_keys(p_dsns) AS k(node) WHERE k.node IS DISTINCT FROM p_new),
        'peers', (SELECT coalesce(pg_catalog.jsonb_agg(k.node ORDER BY k.node COLLATE "C"), '[]')
                    FROM pg_catalog.jsonb_object_keys(v_peers) AS k(node)));
END
$zodan$;
COMMENT ON FUNCTION zodan.survey_members IS
'Connects to the source and, unless it is NULL, the new node; learns the members from the source, connects to them
too and reads everybody''s facts. Returns the facts by node; source, new and members; and every connection string by
node. Leaves the connections open. Errors: ZD001 malformed connection string, ZD002 names missing or equal.';
REVOKE ALL ON FUNCTION zodan.survey_members FROM PUBLIC;

CREATE FUNCTION zodan.survey_join(
    p_source text,
    p_source_dsn text,
    p_new text,
    p_new_dsn text,
    OUT p_facts jsonb,
    OUT p_join jsonb,
    OUT p_dsns jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Surveys a cluster for a join, as zodan.survey_members does, and requires that the source is the node named. Errors:
ZD001 malformed connection string, ZD002 names missing or equal, ZD003 the source is another node. */
DECLARE
    v_found text;
BEGIN
    SELECT s.p_facts, s.p_join, s.p_dsns INTO p_facts, p_join, p_dsns
      FROM zodan.survey_members(p_source, p_source_dsn, coalesce(p_new, ''), p_new_dsn, 'zodan add_node '
          || p_new) AS s;
    v_found := p_facts #>> ARRAY[p_source, 'spock', 'node'];
    IF p_facts -> p_source ? 'spock' AND v_found IS DISTINCT FROM p_source THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD003',
            MESSAGE = pg_catalog.format('the source''s connection string does not lead to node "%s"', p_source),
            DETAIL = coalesce('It leads to node "' || v_found || '".', 'The database there is no Spock node.'),
            HINT = 'Give the name and the connection string of the same member.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.survey_join IS
'Surveys a cluster for a join, as zodan.survey_members does, and requires that the source is the node named. Errors:
ZD001 malformed connection string, ZD002 names missing or equal, ZD003 the source is another node.';
REVOKE ALL ON FUNCTION zodan.survey_join FROM PUBLIC;

CREATE FUNCTION zodan.describe_cluster(p_facts jsonb, p_join jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Adds to source, new and members what a plan needs to know and holds no secret: the replication sets and the
PostgreSQL version by node, and the slot of every stream by provider and subscriber. Asks each subscriber, because
Spock makes a slot's name from the subscriber's database name. Errors: ZD204. */
DECLARE
    v_new text := p_join ->> 'new';
    v_queries jsonb;
    v_answers jsonb;
    v_slots jsonb := '{}'::jsonb;
    v_node text;
    v_provider text;
    v_slot text;
BEGIN
    SELECT pg_catalog.jsonb_object_agg(s.subscriber, 'SELECT ' || s.names || ' AS slots') INTO v_queries
      FROM (SELECT p.subscriber, 'pg_catalog.jsonb_build_object(' || pg_catalog.string_agg(pg_catalog.format(
                       '%1$s, spock.spock_gen_slot_name(pg_catalog.current_database()::name, %1$s, %2$s)',
                           zodan.quote_text(p.provider),
                       zodan.quote_text(zodan.subscription_name(p.provider, p.subscriber))), ', ') || CASE
                           WHEN p.subscriber = v_new THEN
                       pg_catalog.format(', ''the copy'', spock.spock_gen_slot_name(pg_catalog.current_database()::name,'
                           ' %1$s, %2$s), ''the structure'', spock.spock_gen_slot_name('
                           'pg_catalog.current_database()::name, %1$s, %3$s)',
                           zodan.quote_text(p_join ->> 'source'), zodan.quote_text(zodan.copy_name(v_new)),
                           zodan.quote_text(zodan.structure_name(v_new))) ELSE '' END
                               || ')' AS names
              FROM (SELECT m.name AS provider, v_new AS subscriber
                      FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)
                    UNION ALL
                    SELECT v_new, m.name FROM pg_catalog.jsonb_array_elements_text(p_join -> 'members') AS m(name)) AS p
             GROUP BY p.subscriber) AS s;
    v_answers := zodan.query_nodes(v_queries, p_dsns);
    FOR v_node, v_provider, v_slot IN
        SELECT a.key, s.key, s.value
          FROM pg_catalog.jsonb_each(v_answers) AS a(key, value)
          LEFT JOIN LATERAL pg_catalog.jsonb_each_text(a.value #> '{value,slots}') AS s(key, value) ON true
    LOOP
        IF v_slot IS NULL THEN
            PERFORM zodan.close_connections();
            RAISE EXCEPTION USING
                ERRCODE = 'ZD204',
                MESSAGE = pg_catalog.format('could not read the slot names on node "%s"', v_node),
                DETAIL = v_answers #>> ARRAY[v_node, 'message'],
                HINT = 'Check that Spock is complete on that node.';
        END IF;
        v_slots := v_slots || pg_catalog.jsonb_build_object(v_provider, coalesce(v_slots -> v_provider, '{}')
            || pg_catalog.jsonb_build_object(v_node, v_slot));
    END LOOP;
    RETURN p_join || pg_catalog.jsonb_build_object('slots', v_slots - '{the copy,the structure}'::text[], 'copy_slot',
        v_slots #> ARRAY['the copy', v_new], 'structure_slot', v_slots #> ARRAY['the structure', v_new],
        'views', coalesce(p_facts #> ARRAY[p_join ->> 'source', 'views'], '[]'), 'fenced',
            pg_catalog.to_jsonb(zodan.list_fenced(p_facts, p_join)), 'extension',
            coalesce(p_facts #> ARRAY[p_join ->> 'source', 'extensions'] ? 'zodan', false),
        'sets', (SELECT pg_catalog.jsonb_object_agg(f.key, (SELECT coalesce(pg_catalog.jsonb_agg(s.name), '[]')
                       FROM pg_catalog.jsonb_array_elements_text(f.value #> '{spock,sets}') AS s(name)
                           WHERE s.name = ANY (x.sets)))
                   FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)
                       CROSS JOIN (SELECT zodan.list_exchanged(p_facts, p_join) AS sets) AS x),
        'versions', (SELECT pg_catalog.jsonb_object_agg(f.key, f.value -> 'version_num')
                       FROM pg_catalog.jsonb_each(p_facts) AS f(key, value)));
END
$zodan$;
COMMENT ON FUNCTION zodan.describe_cluster IS
'Adds to source, new and members what a plan needs to know and holds no secret: the replication sets and the
PostgreSQL version by node, and the slot of every stream by provider and subscriber. Asks each subscriber, because
Spock makes a slot''s name from the subscriber''s database name. Errors: ZD204.';
REVOKE ALL ON FUNCTION zodan.describe_cluster FROM PUBLIC;

CREATE FUNCTION zodan.join_without(p_operation bigint, p_gone text[])
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
SELECT (SELECT pg_catalog.jsonb_build_object('lanes', coalesce(pg_catalog.max((s.units ->> 'lanes')::int), 2),
               'max_rate', pg_catalog.max((s.units ->> 'max_rate')::bigint), 'max_lag', pg_catalog.max((s.units ->> 'max_lag')::interval))
          FROM zodan.step AS s WHERE s.operation_id = p_operation)
       || pg_catalog.jsonb_build_object('source', o.arguments ->> 'src_node_name', 'new', o.node,
           'structure', coalesce(nullif(o.arguments ->> 'copy', 'rows'), o.arguments ->> 'structure', 'spock'),
           'clone', coalesce(o.arguments ->> 'copy' = 'present', false),
           'verify', coalesce((o.arguments ->> 'verify')::boolean, false),
           'members', pg_catalog.jsonb_agg(m.name ORDER BY m.name COLLATE "C"),
           'peers', coalesce(pg_catalog.jsonb_agg(m.name ORDER BY m.name COLLATE "C")
               FILTER (WHERE m.name <> o.arguments ->> 'src_node_name'), '[]'))
  FROM zodan.operation AS o CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(o.members) AS m(name)
 WHERE o.operation_id = p_operation AND m.name <> ALL (p_gone) AND m.name <> o.node
 GROUP BY o.operation_id
$zodan$;
COMMENT ON FUNCTION zodan.join_without IS
'Describes, as zodan.survey_join does, the join of operation p_operation for the members that remain without
p_gone.';
REVOKE ALL ON FUNCTION zodan.join_without FROM PUBLIC;

CREATE FUNCTION zodan.replan_join(
    p_operation bigint,
    p_gone text[],
    p_facts jsonb,
    p_dsns jsonb
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Plans an unfinished join, or a replacement whose new node has not joined, again without the members of p_gone. Undoes
at once what was made for them on nodes that were reached; what was done for the others stays done, and its results are
kept. Errors: ZD113 the source is gone; ZD200 something could not be undone. */
DECLARE
    v_operation zodan.operation;
    v_join jsonb;
    v_cluster jsonb;
    v_plan zodan.plan_step[];
    v_before zodan.step[];
    v_step zodan.step;
    v_answer jsonb;
BEGIN
    SELECT * INTO STRICT v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    IF v_operation.arguments ->> 'src_node_name' = ANY (p_gone) THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD113',
            MESSAGE = pg_catalog.format('the source "%s" is no longer a member',
                v_operation.arguments ->> 'src_node_name'),
            HINT = pg_catalog.format('CALL zodan.rollback(%s), then call again with another source.', p_operation);
    END IF;
    v_join := zodan.join_without(p_operation, p_gone);
    v_cluster := zodan.describe_cluster(p_facts, v_join, p_dsns)
            || pg_catalog.jsonb_build_object('copy', zodan.size_copy(v_join ->> 'source', p_dsns)) || CASE
            WHEN (v_operation.arguments ->> 'roles')::boolean THEN pg_catalog.jsonb_build_object('roles',
                p_facts #> ARRAY[v_join ->> 'source', 'roles']) ELSE '{}' END;
    v_plan := CASE WHEN v_operation.kind = 'replace_node' THEN zodan.plan_replace(v_cluster,
            zodan.describe_leave(p_facts - v_operation.node, v_operation.arguments ->> 'old_node_name'), v_operation.arguments,
            zodan.read_patience())
        ELSE zodan.plan_join(v_cluster, v_operation.arguments ->> 'new_node_location',
            v_operation.arguments ->> 'new_node_country', v_operation.arguments -> 'new_node_info', zodan.read_patience()) END;
    SELECT pg_catalog.array_agg(s ORDER BY s.ordinal) INTO v_before FROM zodan.step AS s
        WHERE s.operation_id = p_operation;
    FOR v_step IN
        SELECT s.* FROM pg_catalog.unnest(v_before) AS s
         WHERE s.attempts > 0 AND s.undo_sql IS NOT NULL AND s.node <> ALL (p_gone)
           AND NOT EXISTS (SELECT FROM pg_catalog.unnest(v_plan) AS n
                            WHERE (n.node, n.phase_name, n.kind) = (s.node, s.phase_name, s.kind)
                              AND n.object_name IS NOT DISTINCT FROM s.object_name)
         ORDER BY s.ordinal DESC
    LOOP
        v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_step.node, v_step.undo_sql), p_dsns,
            NULL) -> v_step.node;
        IF NOT (v_answer ->> 'ok')::boolean THEN
            PERFORM zodan.close_connections();
            RAISE EXCEPTION USING
                ERRCODE = 'ZD200',
                MESSAGE = pg_catalog.format('could not undo on node "%s" what was made for a member that is gone',
                    v_step.node),
                DETAIL = pg_catalog.concat_ws(': ', v_step.title, v_answer ->> 'message'),
                HINT = pg_catalog.format('Fix the cause, then CALL zodan.resume(%s).', p_operation);
        END IF;
    END LOOP;
    PERFORM zodan.replace_plan(p_operation, v_plan, v_before);
    UPDATE zodan.operation SET members = members - p_gone WHERE operation_id = p_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.replan_join IS
'Plans an unfinished join, or a replacement whose new node has not joined, again without the members of p_gone. Undoes
at once what was made for them on nodes that were reached; what was done for the others stays done, and its results are
kept. Errors: ZD113 the source is gone; ZD200 something could not be undone.';
REVOKE ALL ON FUNCTION zodan.replan_join FROM PUBLIC;

CREATE FUNCTION zodan.examine_join(
    p_source text,
    p_source_dsn text,
    p_new text,
    p_new_dsn text,
    p_roles boolean,
    p_jobs int,
    p_structure text,
    p_copy text,
    p_limits jsonb,
    p_verify boolean,
    p_lock boolean,
    OUT p_facts jsonb,
    OUT p_cluster jsonb,
    OUT p_dsns jsonb,
    OUT p_checks zodan.check_result[]
)
LANGUAGE plpgsql
AS $zodan$
/* Surveys the cluster for a join, takes its lock if asked to and runs the preconditions. p_limits has what the copy is
to keep to: max_rate, max_lag; p_verify adds the comparison of rows. Returns everybody's facts, the cluster as
zodan.plan_join needs it described, the connection strings and the checks. Leaves the connections open. Errors: those of
zodan.survey_join, zodan.lock_members and zodan.judge_checks. */
DECLARE
    v_survey record;
    v_members jsonb;
BEGIN
    SELECT * INTO v_survey FROM zodan.survey_join(p_source, p_source_dsn, p_new, p_new_dsn);
    -- Two names for one database fail a check below; its lock cannot be taken twice.
    IF p_lock AND NOT pg_catalog.jsonb_path_exists(v_survey.p_facts, '$.*.error')
       AND (SELECT pg_catalog.count(*) = pg_catalog.count(DISTINCT (f.value -> 'server', f.value -> 'dbname'))
              FROM pg_catalog.jsonb_each(v_survey.p_facts) AS f(key, value)) THEN
        -- The operation that held the lock may have changed what was read before.
        PERFORM zodan.lock_members(v_survey.p_dsns);
        v_members := v_survey.p_join;
        SELECT * INTO v_survey FROM zodan.survey_join(p_source, p_source_dsn, p_new, p_new_dsn);
        IF v_survey.p_join <> v_members THEN
            PERFORM zodan.close_connections();
            RAISE EXCEPTION USING
                ERRCODE = 'ZD110',
                MESSAGE = 'the members of the cluster changed while they were being read',
                HINT = 'Call again.';
        END IF;
    END IF;
    v_survey.p_join := v_survey.p_join || pg_catalog.jsonb_build_object('lanes',
        zodan.choose_lanes(v_survey.p_facts, pg_catalog.jsonb_build_array(v_survey.p_join -> 'source', v_survey.p_join -> 'new'),
            p_jobs), 'structure', CASE p_copy WHEN 'present' THEN p_copy ELSE p_structure END, 'clone', p_copy = 'present',
        'verify', p_verify) || p_limits;
    SELECT pg_catalog.array_agg(c) INTO p_checks
      FROM zodan.examine('pre', v_survey.p_facts, v_survey.p_join, v_survey.p_dsns) AS c;
    IF p_roles THEN
        p_checks := ARRAY(SELECT c FROM pg_catalog.unnest(p_checks) AS c
            WHERE c.key NOT IN ('roles', 'role-attributes'));
    END IF;
    PERFORM zodan.judge_checks(p_checks);
    p_dsns := v_survey.p_dsns;
    p_facts := v_survey.p_facts;
    p_cluster := zodan.describe_cluster(p_facts, v_survey.p_join, p_dsns)
        || pg_catalog.jsonb_build_object('copy', zodan.size_copy(p_source, p_dsns))
        || CASE WHEN p_roles THEN pg_catalog.jsonb_build_object('roles', p_facts #> ARRAY[p_source, 'roles']) ELSE '{}' END;
END
$zodan$;
COMMENT ON FUNCTION zodan.examine_join IS
'Surveys the cluster for a join, takes its lock if asked to and runs the preconditions. p_limits has what the copy is
to keep to: max_rate, max_lag; p_verify adds the comparison of rows. Returns everybody''s facts, the cluster as
zodan.plan_join needs it described, the connection strings and the checks. Leaves the connections open. Errors: those of
zodan.survey_join, zodan.lock_members and zodan.judge_checks.';
REVOKE ALL ON FUNCTION zodan.examine_join FROM PUBLIC;

CREATE FUNCTION zodan.prepare_join(
    p_source text,
    p_source_dsn text,
    p_new text,
    p_new_dsn text,
    p_location text,
    p_country text,
    p_info jsonb,
    p_roles boolean,
    p_jobs int,
    p_structure text,
    p_copy text,
    p_limits jsonb,
    p_verify boolean,
    p_lock boolean,
    OUT p_plan zodan.plan_step[],
    OUT p_dsns jsonb,
    OUT p_checks zodan.check_result[]
)
LANGUAGE plpgsql
AS $zodan$
/* Everything before the first change: zodan.examine_join, which has its parameters, then the plan. Without the lock, and
where a call was interrupted, it returns that call's plan as it stands. Leaves the connections open. Errors: those of
zodan.examine_join. */
DECLARE
    v_found record;
BEGIN
    IF NOT p_lock THEN
        -- What a call would continue, if one was interrupted.
        p_plan := zodan.read_plan('add_node', p_new);
        IF p_plan IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    SELECT * INTO v_found FROM zodan.examine_join(p_source, p_source_dsn, p_new, p_new_dsn, p_roles, p_jobs, p_structure,
        p_copy, p_limits, p_verify, p_lock);
    p_dsns := v_found.p_dsns;
    p_checks := v_found.p_checks;
    p_plan := zodan.plan_join(v_found.p_cluster, p_location, p_country, p_info, zodan.read_patience());
END
$zodan$;
COMMENT ON FUNCTION zodan.prepare_join IS
'Everything before the first change: zodan.examine_join, which has its parameters, then the plan. Without the lock, and
where a call was interrupted, it returns that call''s plan as it stands. Leaves the connections open. Errors: those of
zodan.examine_join.';
REVOKE ALL ON FUNCTION zodan.prepare_join FROM PUBLIC;

CREATE FUNCTION zodan.plan_add_node(
    src_node_name text,
    src_dsn text,
    new_node_name text,
    new_node_dsn text,
    new_node_location text DEFAULT 'NY',
    new_node_country text DEFAULT 'USA',
    new_node_info jsonb DEFAULT '{}',
    roles boolean DEFAULT false,
    jobs int DEFAULT NULL,
    structure text DEFAULT 'spock',
    max_rate bigint DEFAULT NULL,
    max_lag interval DEFAULT NULL,
    copy text DEFAULT 'rows',
    verify boolean DEFAULT false
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql
AS $zodan$
/* Returns the plan that spock.add_node would run, as rows; changes nothing. Takes the arguments of spock.add_node.
Errors: ZD0nn bad input, ZD100 preconditions not met. */
DECLARE
    v_plan zodan.plan_step[];
BEGIN
    PERFORM zodan.hide_statement(src_dsn, new_node_dsn);
    PERFORM zodan.check_jobs(jobs);
    PERFORM zodan.check_limits(max_rate, max_lag);
    PERFORM zodan.check_structure_choice(structure);
    PERFORM zodan.check_copy_choice(copy, roles);
    PERFORM zodan.close_connections();
    SELECT p.p_plan INTO v_plan
      FROM zodan.prepare_join(src_node_name, src_dsn, new_node_name, new_node_dsn, new_node_location, new_node_country,
               new_node_info, roles, jobs, structure, copy,
               pg_catalog.jsonb_build_object('max_rate', max_rate, 'max_lag', max_lag), verify, false) AS p;
    PERFORM zodan.close_connections();
    RETURN QUERY SELECT * FROM pg_catalog.unnest(v_plan);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_add_node IS
'Returns the plan that spock.add_node would run, as rows; changes nothing. Takes the arguments of spock.add_node.
Errors: ZD0nn bad input, ZD100 preconditions not met.';
REVOKE ALL ON FUNCTION zodan.plan_add_node FROM PUBLIC;

CREATE FUNCTION zodan.checks(
    check_type text,
    src_node_name text,
    src_dsn text,
    new_node_name text DEFAULT NULL,
    new_node_dsn text DEFAULT NULL
)
RETURNS SETOF zodan.check_result
LANGUAGE plpgsql
AS $zodan$
/* Examines a cluster, found through any member, and returns one row per check and node; changes nothing. check_type
pre covers what spock.add_node checks before it begins, post what must hold afterwards. Without a new node, only the
members are examined. passed is NULL where the result cannot be known. Never raises an error for what a check reports.
Errors: ZD001 malformed connection string, ZD002 names missing or equal, ZD004 unknown check_type. */
DECLARE
    v_survey record;
BEGIN
    PERFORM zodan.hide_statement(src_dsn, new_node_dsn);
    IF check_type IS NULL OR check_type NOT IN ('pre', 'post') THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format('there are no checks of type "%s"', check_type),
            HINT = 'Use pre, before a node joins, or post, afterwards.';
    END IF;
    PERFORM zodan.close_connections();
    SELECT * INTO v_survey FROM zodan.survey_members(src_node_name, src_dsn, new_node_name, new_node_dsn,
        'zodan health_check');
    RETURN QUERY SELECT * FROM zodan.examine(check_type, v_survey.p_facts, v_survey.p_join, v_survey.p_dsns);
    PERFORM zodan.close_connections();
END
$zodan$;
COMMENT ON FUNCTION zodan.checks IS
'Examines a cluster, found through any member, and returns one row per check and node; changes nothing. check_type
pre covers what spock.add_node checks before it begins, post what must hold afterwards. Without a new node, only the
members are examined. passed is NULL where the result cannot be known. Never raises an error for what a check reports.
Errors: ZD001 malformed connection string, ZD002 names missing or equal, ZD004 unknown check_type.';
REVOKE ALL ON FUNCTION zodan.checks FROM PUBLIC;

CREATE PROCEDURE spock.add_node(
    src_node_name text,
    src_dsn text,
    new_node_name text,
    new_node_dsn text,
    verb boolean DEFAULT false,
    new_node_location text DEFAULT 'NY',
    new_node_country text DEFAULT 'USA',
    new_node_info jsonb DEFAULT '{}',
    dry_run boolean DEFAULT false,
    roles boolean DEFAULT false,
    jobs int DEFAULT NULL,
    structure text DEFAULT 'spock',
    max_rate bigint DEFAULT NULL,
    max_lag interval DEFAULT NULL,
    copy text DEFAULT 'rows',
    verify boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Adds a node to a running Spock cluster while every member keeps accepting writes. src_node_name and src_dsn name any
member; the structure and the data come from it. new_node_name and new_node_dsn name the empty database that joins;
location, country and info describe it in spock.node. roles copies the roles that the new server lacks, with their
attributes, memberships and password hashes. jobs is how many sessions copy side by side, while as many more build the
indexes of what is copied; by default as many as source and new node have processors, but 2 at least and
8 at most. structure says who brings the structure: spock, or present if it is on the new node
already; it is then compared with the source's before a row is copied, all tables must be empty, and the new node's
Spock may be newer than the members'. copy says who brings the rows: rows, or present if the new node is a physical
copy of the source that zodan-sql clone has prepared; its structure is there then. max_rate is how many bytes of tables
a second the copy reads at most, in all its sessions together; NULL means no limit. max_lag pauses the copy while a
peer lags further behind the source; NULL means any lag. verify compares the rows of all nodes at the end, as
zodan.verify does, also with jobs sessions on each machine, and pausing for max_lag; what it finds is in
zodan.compared. verb prints every step; dry_run prints the plan and changes nothing. When called again after an
interruption, it continues where it stopped; jobs, max_rate and max_lag stay as they were unless given. Errors: ZD0nn
caller's mistake, ZD100 preconditions not met (all named), ZD110 another operation is under way, ZD114 the structures
differ, ZD2nn a step failed on a node, ZD3nn a wait ran out of its budget, ZD4nn the node has joined, and something is
left, such as ZD404: rows are different. */
DECLARE
    v_operation bigint;
    v_plan zodan.plan_step[];
    v_dsns jsonb;
    v_checks zodan.check_result[];
    v_failure jsonb;
    v_arguments jsonb := pg_catalog.jsonb_build_object('src_node_name', src_node_name,
        'new_node_location', new_node_location, 'new_node_country', new_node_country, 'new_node_info', new_node_info,
        'roles', roles, 'jobs', jobs, 'structure', structure, 'max_rate', max_rate,
        'max_lag', max_lag, 'copy', copy, 'verify', verify);
    v_limits jsonb := pg_catalog.jsonb_build_object('max_rate', max_rate, 'max_lag', max_lag);
BEGIN
    PERFORM zodan.check_jobs(jobs);
    PERFORM zodan.check_limits(max_rate, max_lag);
    PERFORM zodan.check_structure_choice(structure);
    PERFORM zodan.check_copy_choice(copy, roles);
    CALL zodan.require_autocommit('add_node', NOT dry_run, src_dsn, new_node_dsn);
    PERFORM zodan.close_connections();
    v_operation := zodan.find_interrupted('add_node', new_node_name);
    IF v_operation IS NOT NULL AND NOT dry_run THEN
        PERFORM zodan.check_same_call(v_operation, v_arguments);
        v_dsns := zodan.reopen(v_operation, pg_catalog.jsonb_build_object(src_node_name, src_dsn, new_node_name,
            new_node_dsn), true);
        PERFORM zodan.reopen_operation(v_operation, v_dsns);
        PERFORM zodan.set_lanes(v_operation, jobs);
        PERFORM zodan.set_limits(v_operation, v_limits);
        RAISE NOTICE 'operation % continues where it stopped', v_operation;
    ELSE
        SELECT p.p_plan, p.p_dsns, p.p_checks INTO v_plan, v_dsns, v_checks
          FROM zodan.prepare_join(src_node_name, src_dsn, new_node_name, new_node_dsn, new_node_location,
                   new_node_country, new_node_info, roles, jobs, structure, copy, v_limits, verify, NOT dry_run) AS p;
        IF dry_run THEN
            PERFORM zodan.close_connections();
            PERFORM zodan.show_plan(v_plan, verb);
            RETURN;
        END IF;
        v_operation := zodan.start_operation('add_node', new_node_name, v_arguments, v_dsns, v_plan, v_checks);
    END IF;
    COMMIT;
    CALL zodan.run_operation(v_operation, v_dsns, verb, v_failure);
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    RAISE NOTICE 'node "%" has joined: % members, operation %', new_node_name,
        (SELECT pg_catalog.count(*) FROM pg_catalog.jsonb_object_keys(v_dsns)), v_operation;
END
$zodan$;
COMMENT ON PROCEDURE spock.add_node IS
'Adds a node to a running Spock cluster while every member keeps accepting writes. src_node_name and src_dsn name any
member; the structure and the data come from it. new_node_name and new_node_dsn name the empty database that joins;
location, country and info describe it in spock.node. roles copies the roles that the new server lacks, with their
attributes, memberships and password hashes. jobs is how many sessions copy side by side, while as many more build the
indexes of what is copied; by default as many as source and new node have processors, but 2 at least and
8 at most. structure says who brings the structure: spock, or present if it is on the new node
already; it is then compared with the source''s before a row is copied, all tables must be empty, and the new node''s
Spock may be newer than the members''. copy says who brings the rows: rows, or present if the new node is a physical
copy of the source that zodan-sql clone has prepared; its structure is there then. max_rate is how many bytes of tables
a second the copy reads at most, in all its sessions together; NULL means no limit. max_lag pauses the copy while a
peer lags further behind the source; NULL means any lag. verify compares the rows of all nodes at the end, as
zodan.verify does, also with jobs sessions on each machine, and pausing for max_lag; what it finds is in
zodan.compared. verb prints every step; dry_run prints the plan and changes nothing. When called again after an
interruption, it continues where it stopped; jobs, max_rate and max_lag stay as they were unless given. Errors: ZD0nn
caller''s mistake, ZD100 preconditions not met (all named), ZD110 another operation is under way, ZD114 the structures
differ, ZD2nn a step failed on a node, ZD3nn a wait ran out of its budget, ZD4nn the node has joined, and something is
left, such as ZD404: rows are different.';
REVOKE ALL ON PROCEDURE spock.add_node FROM PUBLIC;

CREATE PROCEDURE spock.health_check(
    src_node_name text,
    src_dsn text,
    new_node_name text DEFAULT NULL,
    new_node_dsn text DEFAULT NULL,
    check_type text DEFAULT 'pre',
    verb boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Examines a cluster, found through the member src_node_name, and prints what does not hold: FAIL, WARN and INFO
lines, with verb PASS lines too, and a summary. check_type pre covers what spock.add_node checks before it begins,
post what must hold afterwards. new_node_name and new_node_dsn name the node that is to join or has joined; without
them only the members are examined. Changes nothing. zodan.checks returns the same as rows. Errors: ZD100 a check
failed, ZD0nn caller's mistake. */
DECLARE
    v_checks zodan.check_result[];
    v_check zodan.check_result;
    v_failed zodan.check_result[];
BEGIN
    SELECT pg_catalog.array_agg(c) INTO v_checks
      FROM zodan.checks(check_type, src_node_name, src_dsn, new_node_name, new_node_dsn) AS c;
    FOREACH v_check IN ARRAY v_checks LOOP
        IF v_check.verdict IN ('FAIL', 'WARN') THEN
            RAISE NOTICE '% % on "%": %; needed: %', v_check.verdict, v_check.name, v_check.scope, v_check.observed,
                v_check.required USING HINT = v_check.hint;
        ELSIF v_check.verdict = 'INFO' OR verb THEN
            RAISE NOTICE '% % on "%": %', v_check.verdict, v_check.name, v_check.scope, v_check.observed;
        END IF;
    END LOOP;
    SELECT pg_catalog.array_agg(c) INTO v_failed FROM pg_catalog.unnest(v_checks) AS c WHERE c.verdict = 'FAIL';
    RAISE NOTICE '% checks: % failed, % warned', pg_catalog.cardinality(v_checks),
        coalesce(pg_catalog.cardinality(v_failed), 0),
        (SELECT pg_catalog.count(*) FROM pg_catalog.unnest(v_checks) AS c WHERE c.verdict = 'WARN');
    IF v_failed IS NOT NULL THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD100',
            MESSAGE = pg_catalog.format('%s of %s checks failed; first: %s on "%s": %s',
                pg_catalog.cardinality(v_failed), pg_catalog.cardinality(v_checks),
                        v_failed[1].name, v_failed[1].scope, v_failed[1].observed),
            DETAIL = (SELECT pg_catalog.string_agg(pg_catalog.format('%s on "%s": %s; needed: %s.', f.name, f.scope,
                f.observed, f.required), E'\n')
                        FROM pg_catalog.unnest(v_failed) AS f),
            HINT = v_failed[1].hint;
    END IF;
END
$zodan$;
COMMENT ON PROCEDURE spock.health_check IS
'Examines a cluster, found through the member src_node_name, and prints what does not hold: FAIL, WARN and INFO
lines, with verb PASS lines too, and a summary. check_type pre covers what spock.add_node checks before it begins,
post what must hold afterwards. new_node_name and new_node_dsn name the node that is to join or has joined; without
them only the members are examined. Changes nothing. zodan.checks returns the same as rows. Errors: ZD100 a check
failed, ZD0nn caller''s mistake.';
REVOKE ALL ON PROCEDURE spock.health_check FROM PUBLIC;


CREATE FUNCTION zodan.write_digest(p_columns jsonb, p_exact boolean)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format(CASE WHEN p_exact THEN
           '(''x'' || pg_catalog.left(pg_catalog.md5(pg_catalog.concat(%s)), 16))::pg_catalog.bit(64)::bigint'
           ELSE 'pg_catalog.hashtextextended(pg_catalog.concat(%s) COLLATE pg_catalog."C", 0)' END,
       coalesce(pg_catalog.string_agg(g.texts, ', ''|'', ' ORDER BY g.number), ''''''))
  -- A function takes a hundred arguments at most.
  FROM (SELECT f.number, pg_catalog.format('pg_catalog.concat(%s)',
                   pg_catalog.string_agg(f.text, ', ''|'', ' ORDER BY f.place)) AS texts
          FROM (SELECT c.place, (c.place - 1) / 40 AS number, CASE WHEN (c.item ->> 'plain')::boolean THEN n.name
                           WHEN p_exact THEN pg_catalog.format(
                               'pg_catalog.md5(pg_catalog.convert_to(%s::pg_catalog.text, ''UTF8''))', n.name)
                           ELSE pg_catalog.format(
                               'pg_catalog.hashtextextended(%s::pg_catalog.text COLLATE pg_catalog."C", 0)', n.name)
                           END AS text
                  FROM pg_catalog.jsonb_array_elements(p_columns) WITH ORDINALITY AS c(item, place)
                 CROSS JOIN LATERAL (SELECT 't.' || zodan.quote_name(c.item ->> 'name') AS name) AS n) AS f
         GROUP BY f.number) AS g
$zodan$;
COMMENT ON FUNCTION zodan.write_digest IS
'Writes the expression that hashes a row t: the texts of its columns in the order of p_columns (objects of name and
plain), so that equal rows have equal hashes on every node, wherever a column stands in the table. NULL is told from an
empty text, and no two rows have the same texts in a row: what may hold a separator is hashed by itself. With p_exact
the hash is the same on servers of another byte order or encoding, too, and takes three times as long.';
REVOKE ALL ON FUNCTION zodan.write_digest FROM PUBLIC;

CREATE FUNCTION zodan.write_shown(p_columns jsonb, p_whole boolean DEFAULT false)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format('pg_catalog.jsonb_object(%s, ARRAY[%s]::pg_catalog.text[])',
       zodan.quote_list(pg_catalog.array_agg(c.item ->> 'name' ORDER BY c.place)),
       pg_catalog.string_agg(pg_catalog.format(CASE WHEN p_whole THEN '%1$s::pg_catalog.text'
           ELSE 'CASE WHEN pg_catalog.length(%1$s::pg_catalog.text) > %2$s '
           'THEN pg_catalog.left(%1$s::pg_catalog.text, %2$s) || ''... ('' || pg_catalog.length(%1$s::pg_catalog.text)'
           ' || '' characters, md5 '' || pg_catalog.md5(%1$s::pg_catalog.text) || '')'' ELSE %1$s::pg_catalog.text END' END,
           't.' || zodan.quote_name(c.item ->> 'name'), 100), ', ' ORDER BY c.place))
  FROM pg_catalog.jsonb_array_elements(p_columns) WITH ORDINALITY AS c(item, place)
$zodan$;
COMMENT ON FUNCTION zodan.write_shown IS
'Writes the expression that shows a row t to people: an object of column and text; unless p_whole, long ones are
shortened, with their length and hash, so that a difference beyond the end shows too.';
REVOKE ALL ON FUNCTION zodan.write_shown FROM PUBLIC;

CREATE FUNCTION zodan.write_key(p_key jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format('pg_catalog.jsonb_build_array(%s)', pg_catalog.string_agg(
           't.' || zodan.quote_name(c.item ->> 'name') || '::pg_catalog.text', ', ' ORDER BY c.place))
  FROM pg_catalog.jsonb_array_elements(p_key) WITH ORDINALITY AS c(item, place)
$zodan$;
COMMENT ON FUNCTION zodan.write_key IS
'Writes the expression that names a row t by its key, whose columns p_key has (objects of name and type): an array of
texts.';
REVOKE ALL ON FUNCTION zodan.write_key FROM PUBLIC;

CREATE FUNCTION zodan.write_range(p_key jsonb, p_from jsonb, p_to jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.string_agg(pg_catalog.format(
           CASE WHEN k.many THEN 'ROW(%s) %s ROW(%s)' ELSE '%s %s %s' END, k.names, b.operator, v.texts), ' AND '), 'true')
  FROM (SELECT pg_catalog.string_agg('t.' || zodan.quote_name(c.item ->> 'name'), ', ' ORDER BY c.place) AS names,
               pg_catalog.count(*) > 1 AS many
          FROM pg_catalog.jsonb_array_elements(p_key) WITH ORDINALITY AS c(item, place)) AS k
 CROSS JOIN (VALUES ('>', nullif(p_from, 'null')), ('<=', nullif(p_to, 'null'))) AS b(operator, key)
 CROSS JOIN LATERAL (
    SELECT pg_catalog.string_agg(zodan.quote_text(t.item) || '::' || (p_key -> (t.place - 1)::int ->> 'type'), ', '
               ORDER BY t.place) AS texts
      FROM pg_catalog.jsonb_array_elements_text(b.key) WITH ORDINALITY AS t(item, place)) AS v
 WHERE b.key IS NOT NULL
$zodan$;
COMMENT ON FUNCTION zodan.write_range IS
'Writes the condition that a row t is in a range of its key: after p_from, and not after p_to, both arrays of texts
as zodan.write_key makes them; NULL is before the first, or after the last. Ranges that follow one another hold every
row on every node, even where nodes sort texts differently: the first one does not end before the row is found.';
REVOKE ALL ON FUNCTION zodan.write_range FROM PUBLIC;

CREATE FUNCTION zodan.write_keys(p_key jsonb, p_keys jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce('(' || pg_catalog.string_agg(v.condition, ' OR ') || ')', 'false')
  FROM pg_catalog.jsonb_array_elements(p_keys) AS k(key)
 CROSS JOIN LATERAL (
    SELECT '(' || pg_catalog.string_agg(pg_catalog.format('t.%s = %s::%s', zodan.quote_name(p_key -> (t.place - 1)::int ->> 'name'),
               zodan.quote_text(t.item), p_key -> (t.place - 1)::int ->> 'type'), ' AND ') || ')' AS condition
      FROM pg_catalog.jsonb_array_elements_text(k.key) WITH ORDINALITY AS t(item, place)) AS v
$zodan$;
COMMENT ON FUNCTION zodan.write_keys IS
'Writes the condition that a row t has one of the keys of p_keys, an array of arrays of texts as zodan.write_key
makes them.';
REVOKE ALL ON FUNCTION zodan.write_keys FROM PUBLIC;

CREATE FUNCTION zodan.list_replicated(p_sets text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$WITH published AS MATERIALIZED (
    SELECT t.set_reloid::oid AS relid, pg_catalog.bool_or(t.set_att_list IS NULL) AS has_all,
           pg_catalog.array_agg(t.set_att_list::text) FILTER (WHERE t.set_att_list IS NOT NULL) AS lists,
           CASE WHEN pg_catalog.bool_and(t.set_row_filter IS NOT NULL) THEN pg_catalog.string_agg(
               DISTINCT '(' || pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) || ')', ' OR ') END AS filter
      FROM spock.replication_set_table AS t
      JOIN spock.replication_set AS r ON r.set_id = t.set_id
      JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%1$s)
     GROUP BY t.set_reloid),
leaves AS MATERIALIZED (
    SELECT p.relid, p.has_all, p.lists, p.filter FROM published AS p
    UNION ALL
    -- A root stands for those of its leaves that are in no set by themselves.
    SELECT i.relid, p.has_all, p.lists, p.filter
      FROM published AS p CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.relid) AS i
     WHERE i.isleaf AND i.relid <> p.relid AND i.relid NOT IN (SELECT o.relid FROM published AS o))
SELECT coalesce(pg_catalog.jsonb_object_agg(pg_catalog.format('%%I.%%I', n.nspname, c.relname),
           pg_catalog.jsonb_build_object('filter', l.filter,
               'root', (SELECT pg_catalog.format('%%I.%%I', rn.nspname, rc.relname)
                          FROM pg_catalog.pg_class AS rc JOIN pg_catalog.pg_namespace AS rn ON rn.oid = rc.relnamespace
                         WHERE c.relispartition AND rc.oid = pg_catalog.pg_partition_root(c.oid)),
               'columns', CASE WHEN NOT l.has_all THEN
                   (SELECT pg_catalog.jsonb_agg(DISTINCT u.name ORDER BY u.name)
                      FROM pg_catalog.unnest(l.lists) AS w(list)
                     CROSS JOIN LATERAL pg_catalog.unnest(w.list::text[]) AS u(name)) END)), '{}') AS tables,
       pg_catalog.current_setting('server_encoding') AS encoding,
       pg_catalog.hashtextextended('The quick brown fox', 0)::text AS probe,
       pg_catalog.concat_ws(':', (SELECT s.system_identifier FROM pg_catalog.pg_control_system() AS s),
           CASE WHEN NOT pg_catalog.pg_is_in_recovery() THEN
               pg_catalog.left(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_insert_lsn()), 8) END,
           (SELECT d.oid FROM pg_catalog.pg_database AS d WHERE d.datname = pg_catalog.current_database())) AS identity,
       CASE WHEN
pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'execute')
AND pg_catalog.pg_has_role('pg_read_server_files', 'usage')
           THEN pg_catalog.substring(pg_catalog.query_to_xml('SELECT pg_catalog.btrim(pg_catalog.pg_read_file('
               '''/proc/sys/kernel/random/boot_id'', 0, 100, true), E''\n'') AS id', false, false, '')::text,
           '<id>(.+)</id>') END AS machine
  FROM leaves AS l
  JOIN pg_catalog.pg_class AS c ON c.oid = l.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace$sql$,
    zodan.quote_list(p_sets))
$zodan$;
COMMENT ON FUNCTION zodan.list_replicated IS
'Lists, on a node, the tables that it publishes in p_sets, with the leaves of a partitioned table in its place. It
returns one row: tables, an object of name and an object of filter (the row filter, NULL where all rows are published),
columns (NULL where all are) and root (the partitioned table above it); encoding; probe, a known text''s hash;
identity, which is another one in another database, and in a standby that was promoted: it may lack rows; and machine,
which is the same for servers that share one, NULL where that cannot be known.';
REVOKE ALL ON FUNCTION zodan.list_replicated FROM PUBLIC;

CREATE FUNCTION zodan.describe_tables(p_tables text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_object_agg(w.name, pg_catalog.jsonb_build_object(
           'schema', n.nspname, 'table', c.relname,
           -- Its size would wait for a lock on it.
           'rows', greatest(c.reltuples::bigint, pg_catalog.pg_stat_get_live_tuples(c.oid)),
           'readable', pg_catalog.has_table_privilege(c.oid, 'SELECT')
               AND pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
           'columns', (SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', a.attname,
                           'type', pg_catalog.format_type(a.atttypid, -1),
                           'plain', a.atttypid IN ('int2'::regtype, 'int4'::regtype, 'int8'::regtype,
                               'float4'::regtype, 'float8'::regtype, 'numeric'::regtype, 'bool'::regtype,
                               'date'::regtype, 'time'::regtype, 'timestamp'::regtype, 'timestamptz'::regtype,
                               'interval'::regtype, 'uuid'::regtype))), '[]')
                         FROM pg_catalog.pg_attribute AS a
                        WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           'print', (SELECT pg_catalog.md5(pg_catalog.concat_ws(' ', c.oid, pg_catalog.string_agg(
                         pg_catalog.concat_ws(' ', a.attnum, a.attname,
                             pg_catalog.format_type(a.atttypid, a.atttypmod)), E'\n' ORDER BY a.attnum)))
                       FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
           'generated', (SELECT coalesce(pg_catalog.jsonb_agg(a.attname ORDER BY a.attname), '[]')
                           FROM pg_catalog.pg_attribute AS a
                          WHERE a.attrelid = c.oid AND a.attgenerated <> '' AND NOT a.attisdropped),
           'fixed', f.names,
           'inserted', CASE WHEN f.names <> '[]' THEN (
               SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND a.attgenerated = '' AND NOT a.attisdropped) END,
           -- Only where pg_catalog has the operators: nothing else can be found in every node's search_path.
           'key', (SELECT CASE WHEN pg_catalog.bool_and(y.typnamespace = 'pg_catalog'::regnamespace OR y.typtype = 'e')
                       THEN pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', a.attname,
                           'type', pg_catalog.format_type(a.atttypid, -1)) ORDER BY k.place) ELSE '[]' END
                     FROM pg_catalog.pg_index AS i
                    CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
                     JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attnum = k.number
                     JOIN pg_catalog.pg_type AS d ON d.oid = a.atttypid
                     JOIN pg_catalog.pg_type AS y
                       ON y.oid = CASE WHEN d.typtype = 'd' THEN d.typbasetype ELSE d.oid END
                    WHERE i.indrelid = c.oid AND i.indisvalid AND i.indimmediate AND k.place <= i.indnkeyatts
                      AND CASE WHEN c.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END))), '{}')
           AS tables
  FROM pg_catalog.unnest(%1$s) AS w(name)
  JOIN pg_catalog.pg_class AS c ON c.oid = pg_catalog.to_regclass(w.name) AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 CROSS JOIN LATERAL (SELECT coalesce(pg_catalog.jsonb_agg(a.attname), '[]') AS names FROM pg_catalog.pg_attribute AS a
                      WHERE a.attrelid = c.oid AND a.attidentity = 'a' AND NOT a.attisdropped) AS f$sql$,
    zodan.quote_list(p_tables))
$zodan$;
COMMENT ON FUNCTION zodan.describe_tables IS
'Describes, on a node, those of p_tables that are there, so that their rows can be compared. It returns one row:
tables, an object of name and an object of schema, table, print (which is another one if the table was made again, or
its columns were changed), columns (name, type, and whether its text can hold no separator: plain), generated (the
columns that nobody can write), fixed (the identity columns that an INSERT can write, and an UPDATE cannot), inserted
(where there are such columns, all that an INSERT can write), key (the columns of the replica identity, none where there
is no usable one), rows (estimated), readable.';
REVOKE ALL ON FUNCTION zodan.describe_tables FROM PUBLIC;

CREATE FUNCTION zodan.set_reader()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.concat(
    pg_catalog.set_config('default_transaction_read_only', 'on', false),
    pg_catalog.set_config('row_security', 'off', false),
    pg_catalog.set_config('max_parallel_workers_per_gather', '0', false),
    pg_catalog.set_config('jit', 'off', false)) AS done$sql$
$zodan$;
COMMENT ON FUNCTION zodan.set_reader IS
'Makes a session on a node one that reads rows and can change none: it sees all rows or fails, and takes one
processor at a time.';
REVOKE ALL ON FUNCTION zodan.set_reader FROM PUBLIC;

CREATE FUNCTION zodan.hash_range(
    p_place text,
    p_digest text,
    p_source text,
    p_condition text,
    p_most text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT %1$s::int AS place, pg_catalog.count(*) AS rows, coalesce(pg_catalog.sum(h.hash), 0) AS total
  FROM (SELECT %2$s AS hash FROM %3$s AS t
         WHERE %4$s LIMIT %5$s::bigint) AS h$sql$,
    zodan.quote_text(p_place), p_digest, p_source, p_condition, zodan.quote_text(p_most))
$zodan$;
COMMENT ON FUNCTION zodan.hash_range IS
'The query that hashes the rows of a piece of a table: how many there are, and the sum of their hashes. p_source is
what zodan.write_source returns, p_digest what zodan.write_digest, p_condition what zodan.write_condition. It reads
p_most rows at most: more are a difference already.';
REVOKE ALL ON FUNCTION zodan.hash_range FROM PUBLIC;

CREATE FUNCTION zodan.hash_ranges(p_pieces text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_array(p.rows, p.total::text) ORDER BY p.place) AS sums,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS took
  FROM (%1$s) AS p$sql$,
    p_pieces)
$zodan$;
COMMENT ON FUNCTION zodan.hash_ranges IS
'Hashes pieces of tables: p_pieces are queries as zodan.hash_range writes them, joined by UNION ALL. It returns one
row: sums, an array of the number of rows and the sum of their hashes; took, in seconds.';
REVOKE ALL ON FUNCTION zodan.hash_ranges FROM PUBLIC;

CREATE FUNCTION zodan.list_bounds(
    p_key text,
    p_step text,
    p_columns text,
    p_source text,
    p_condition text,
    p_most text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_agg(%1$s ORDER BY t.zodan_place)
           FILTER (WHERE t.zodan_place %% %2$s::bigint = 0), '[]') AS bounds,
       pg_catalog.count(*) AS seen,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS took
  FROM (SELECT t.*, pg_catalog.row_number() OVER () AS zodan_place
          FROM (SELECT %3$s FROM %4$s AS t
                 WHERE %5$s ORDER BY %3$s LIMIT %6$s::bigint) AS t) AS t$sql$,
    p_key, zodan.quote_text(p_step), p_columns, p_source, p_condition, zodan.quote_text(p_most))
$zodan$;
COMMENT ON FUNCTION zodan.list_bounds IS
'Finds, in a range of a table, where to cut it: the key of every p_step-th row, of the first p_most rows. p_columns
are the columns of the key, p_key is the expression of one key, p_source and p_condition are as in zodan.hash_range. It
returns one row: bounds, an array of keys; seen, the number of rows; took, in seconds.';
REVOKE ALL ON FUNCTION zodan.list_bounds FROM PUBLIC;

CREATE FUNCTION zodan.read_rows(
    p_key text,
    p_digest text,
    p_shown text,
    p_source text,
    p_condition text,
    p_most text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('key', r.key, 'hash', r.hash::text,
           'version', pg_catalog.concat_ws(' ', r.hash, r.xid, r.place), 'at', c.timestamp,
           -- Spock commits as the node that a change came from, by its id; others as one of the server's own origins,
           -- whose number may have been another one's when the row was copied.
           'origin', CASE WHEN c.timestamp IS NULL OR c.timestamp = '1970-01-01 00:00:00+00' THEN 'unknown'
               WHEN c.roident <> 0 THEN coalesce(
                   (SELECT n.node_name::text FROM spock.node AS n WHERE n.node_id = c.roident),
                   (SELECT coalesce((SELECT n.node_name::text FROM spock.subscription AS s
                                       JOIN spock.node AS n ON n.node_id = s.sub_origin
                                      WHERE s.sub_slot_name::text = o.roname),
                               pg_catalog.substring(o.roname, '^zodan (?:repair|level) \d+ (.*)$'), o.roname)
                      FROM pg_catalog.pg_replication_origin AS o WHERE o.roident = c.roident),
                   pg_catalog.format('origin %%s', c.roident)) END,
           'shown', r.shown)), '[]') AS rows,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS took
  FROM (SELECT %1$s AS key, %2$s AS hash, t.xmin AS xid, t.ctid AS place, %3$s AS shown
          FROM %4$s AS t
         WHERE %5$s LIMIT %6$s::bigint) AS r
  -- Strict: it is not called, and raises no error, where the server keeps no commit timestamps.
  LEFT JOIN LATERAL pg_catalog.pg_xact_commit_timestamp_origin(CASE
      WHEN pg_catalog.current_setting('track_commit_timestamp') = 'on' THEN r.xid END) AS c ON true$sql$,
    p_key, p_digest, p_shown, p_source, p_condition, zodan.quote_text(p_most))
$zodan$;
COMMENT ON FUNCTION zodan.read_rows IS
'Reads rows of a table one by one. p_key is the expression of what names a row, p_shown that of what people see of
it, p_digest what zodan.write_digest returns. It returns one row: rows, an array of objects key, hash, version (which
is another one after each change), at (when it was committed, NULL if unknown), origin (the node it came from, NULL
for this one, unknown for a row that was copied or whose time is not known), shown; and took, in seconds.';
REVOKE ALL ON FUNCTION zodan.read_rows FROM PUBLIC;

CREATE FUNCTION zodan.measure_blocks(p_schema text, p_table text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.pg_relation_size(c.oid) / pg_catalog.current_setting('block_size')::bigint AS blocks
  FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
 WHERE n.nspname = %1$s AND c.relname = %2$s$sql$,
    zodan.quote_text(p_schema), zodan.quote_text(p_table))
$zodan$;
COMMENT ON FUNCTION zodan.measure_blocks IS
'Measures a table in blocks. It returns one row: blocks.';
REVOKE ALL ON FUNCTION zodan.measure_blocks FROM PUBLIC;

CREATE FUNCTION zodan.tally_blocks(p_mask text, p_digest text, p_source text, p_condition text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT coalesce(pg_catalog.jsonb_object_agg(b.part, pg_catalog.jsonb_build_array(b.rows, b.total)), '{}') AS parts,
       extract(epoch FROM pg_catalog.clock_timestamp() - pg_catalog.statement_timestamp()) AS took
  FROM (SELECT h.hash & %1$s::bigint AS part, pg_catalog.count(*) AS rows, pg_catalog.sum(h.hash) AS total
          FROM (SELECT %2$s AS hash FROM %3$s AS t WHERE %4$s) AS h
         GROUP BY 1) AS b$sql$,
    zodan.quote_text(p_mask), p_digest, p_source, p_condition)
$zodan$;
COMMENT ON FUNCTION zodan.tally_blocks IS
'Hashes rows of a table without a key, in parts by their hash: p_mask and the hash make a part''s number. It returns
one row: parts, an object of the number and an array of the rows and the sum of their hashes; took, in seconds.';
REVOKE ALL ON FUNCTION zodan.tally_blocks FROM PUBLIC;

CREATE FUNCTION zodan.read_applied()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_object_agg(s.provider, pg_catalog.jsonb_build_object('position', s.position,
           'enabled', s.enabled)), '{}') AS streams
  FROM (SELECT n.node_name AS provider, pg_catalog.max(o.remote_lsn) AS position,
               pg_catalog.bool_or(s.sub_enabled) AS enabled
          FROM spock.node AS n
          JOIN spock.subscription AS s ON s.sub_origin = n.node_id
          LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
         GROUP BY n.node_name) AS s$sql$
$zodan$;
COMMENT ON FUNCTION zodan.read_applied IS
'Reads how far a node has applied the changes of the others. It returns one row: streams, an object of provider and
an object of position and enabled.';
REVOKE ALL ON FUNCTION zodan.read_applied FROM PUBLIC;

CREATE FUNCTION zodan.open_repair(p_node text, p_origins text[])
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_node text;
    v_name text;
    v_number bigint;
BEGIN
    IF (SELECT n.node_name::text FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id)
           IS DISTINCT FROM %1$s THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD003', MESSAGE = pg_catalog.format('this is not node "%%s"', %1$s),
            HINT = 'Run these statements on that node.';
    END IF;
    -- What a session left that ended before it was done.
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o
      WHERE o.roname ~ '^zodan repair \d+ ' AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity AS a
          WHERE a.pid = pg_catalog.split_part(o.roname, ' ', 3)::int);
    FOREACH v_node IN ARRAY %2$s LOOP
        v_name := pg_catalog.format('zodan repair %%s %%s', pg_catalog.pg_backend_pid(), v_node);
        CONTINUE WHEN EXISTS (SELECT FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = v_name);
        v_number := (SELECT n.node_id FROM spock.node AS n WHERE n.node_name::text = v_node);
        IF v_number BETWEEN 1 AND 65534 AND NOT EXISTS (
               SELECT FROM pg_catalog.pg_replication_origin AS o WHERE o.roident = v_number) THEN
            INSERT INTO pg_catalog.pg_replication_origin (roident, roname) VALUES (v_number, v_name);
        ELSE
            PERFORM pg_catalog.pg_replication_origin_create(v_name);
        END IF;
    END LOOP;
    PERFORM pg_catalog.set_config('search_path', 'pg_catalog', false),
            pg_catalog.set_config('spock.enable_ddl_replication', 'off', false),
            pg_catalog.set_config('DateStyle', 'ISO, YMD', false),
            pg_catalog.set_config('IntervalStyle', 'postgres', false),
            pg_catalog.set_config('TimeZone', 'UTC', false),
            pg_catalog.set_config('extra_float_digits', '1', false),
            pg_catalog.set_config('bytea_output', 'hex', false),
            pg_catalog.set_config('xmloption', 'content', false),
            pg_catalog.set_config('lc_monetary', 'C', false),
            pg_catalog.set_config('array_nulls', 'on', false),
            pg_catalog.set_config('row_security', 'off', false),
            pg_catalog.set_config('default_transaction_read_only', 'off', false),
            pg_catalog.set_config('session_replication_role', 'replica', false),
            pg_catalog.set_config('lock_timeout', '2s', false);
    CREATE OR REPLACE FUNCTION pg_temp.zodan_repair_as(p_origin text, p_committed timestamptz)
    RETURNS void LANGUAGE plpgsql AS $function$
BEGIN
    IF pg_catalog.pg_replication_origin_session_is_setup() THEN
        PERFORM pg_catalog.pg_replication_origin_session_reset();
    END IF;
    PERFORM pg_catalog.pg_replication_origin_session_setup(
        pg_catalog.format('zodan repair %%s %%s', pg_catalog.pg_backend_pid(), p_origin));
    PERFORM pg_catalog.pg_replication_origin_xact_setup('0/0', coalesce(p_committed, pg_catalog.clock_timestamp()));
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_repair(p_origin text, p_committed timestamptz, p_condition text, p_write text, p_rows bigint)
    RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_is_there boolean;
    v_rows bigint := 0;
BEGIN
    PERFORM pg_temp.zodan_repair_as(p_origin, p_committed);
    EXECUTE pg_catalog.format('SELECT %%s', p_condition) INTO v_is_there;
    IF v_is_there THEN
        EXECUTE p_write;
        GET DIAGNOSTICS v_rows = ROW_COUNT;
    END IF;
    IF v_rows <> p_rows THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD206', MESSAGE = 'the row is no longer what it was: it was left alone';
    END IF;
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_repair_together(p_source text)
    RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_table oid;
    v_columns text;
    v_row record;
    v_rows bigint;
BEGIN
    EXECUTE pg_catalog.format('SELECT t.tableoid FROM %%s AS t LIMIT 1', p_source) INTO v_table;
    v_columns := (SELECT pg_catalog.string_agg(pg_catalog.quote_ident(a.attname), ', ' ORDER BY a.attnum)
                    FROM pg_catalog.pg_attribute AS a
                   WHERE a.attrelid = v_table AND a.attnum > 0 AND a.attgenerated = '' AND NOT a.attisdropped);
    PERFORM pg_temp.zodan_repair_as(a.origin, a.committed)
       FROM pg_temp.zodan_aside AS a WHERE a.source = p_source AND a.sets IS NOT NULL
      ORDER BY a.committed, a.place LIMIT 1;
    EXECUTE pg_catalog.format('CREATE TEMPORARY TABLE zodan_wanted ON COMMIT DROP AS SELECT 0 AS "zodan place", %%s '
        'FROM %%s AS t WHERE false', v_columns, p_source);
    FOR v_row IN
        SELECT a.* FROM pg_temp.zodan_aside AS a WHERE a.source = p_source AND a.sets IS NOT NULL ORDER BY a.place
    LOOP
        EXECUTE pg_catalog.format('WITH old AS (DELETE FROM %%s AS t WHERE %%s RETURNING t.*) '
            'INSERT INTO pg_temp.zodan_wanted SELECT %%s, %%s FROM old', p_source, v_row.same, v_row.place, v_columns);
        GET DIAGNOSTICS v_rows = ROW_COUNT;
        IF v_rows <> 1 THEN
            RAISE EXCEPTION USING ERRCODE = 'ZD206',
                MESSAGE = 'a row that goes with it is no longer what it was: they were left alone';
        END IF;
        EXECUTE pg_catalog.format('UPDATE pg_temp.zodan_wanted AS t SET %%s WHERE t."zodan place" = %%s', v_row.sets,
            v_row.place);
    END LOOP;
    EXECUTE pg_catalog.format('INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%2$s FROM pg_temp.zodan_wanted',
        pg_catalog.substr(p_source, 6), v_columns);
    DELETE FROM pg_temp.zodan_aside AS a WHERE a.source = p_source AND a.sets IS NOT NULL;
END
    $function$;
    CREATE TABLE IF NOT EXISTS pg_temp.zodan_aside (place int PRIMARY KEY, name text, origin text,
        committed timestamptz, condition text, write text, rows bigint, source text, sets text, same text, why text);
    TRUNCATE pg_temp.zodan_aside;
END
$do$$sql$,
    zodan.quote_text(p_node), zodan.quote_list(p_origins))
$zodan$;
COMMENT ON FUNCTION zodan.open_repair IS
'Prepares a session on a node to repair rows: it prints and reads values as the session did that wrote the statements,
and has a replication origin for each of p_origins, nodes that rows come from. Where Spock commits a change under the id
of the node that it came from, an origin has that number, which pg_replication_origin_create would not choose. It also
makes what zodan.repair_row and zodan.repair_aside use, which goes with the session.';
REVOKE ALL ON FUNCTION zodan.open_repair FROM PUBLIC;

CREATE FUNCTION zodan.repair_row(
    p_source text,
    p_sets text,
    p_same text,
    p_check text,
    p_write text,
    p_node text,
    p_origin text,
    p_committed text,
    p_rows text,
    p_place text,
    p_row text
)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$DO $do$
DECLARE
    v_source text := %1$s;
    v_sets text := %2$s;
    v_same text := %3$s;
    v_check text := %4$s;
    v_write text := coalesce(%5$s, pg_catalog.format('UPDATE %%s AS t SET %%s WHERE %%s', v_source, v_sets, v_same));
BEGIN
    IF (SELECT n.node_name::text FROM spock.local_node AS l JOIN spock.node AS n ON n.node_id = l.node_id)
           IS DISTINCT FROM %6$s THEN
        RAISE EXCEPTION USING ERRCODE = 'ZD003', MESSAGE = pg_catalog.format('this is not node "%%s"', %6$s);
    END IF;
    BEGIN
        PERFORM pg_temp.zodan_repair(%7$s, %8$s::timestamptz, v_check, v_write, %9$s::bigint);
    EXCEPTION WHEN unique_violation OR exclusion_violation THEN
        INSERT INTO pg_temp.zodan_aside (place, name, origin, committed, condition, write, rows, source, sets, same,
            why) VALUES (%10$s::int, %11$s, %7$s, %8$s::timestamptz, v_check, v_write, %9$s::bigint,
            v_source, v_sets, v_same, SQLERRM);
        RAISE NOTICE 'put aside until the other rows are repaired: %%', SQLERRM;
    END;
END
$do$$sql$,
    zodan.quote_text(p_source), zodan.quote_text(p_sets), zodan.quote_text(p_same), zodan.quote_text(p_check), zodan.quote_text(p_write), zodan.quote_text(p_node), zodan.quote_text(p_origin), zodan.quote_text(p_committed), zodan.quote_text(p_rows), zodan.quote_text(p_place), zodan.quote_text(p_row))
$zodan$;
COMMENT ON FUNCTION zodan.repair_row IS
'Writes a row on node p_node as another node has it, in a transaction that has the origin and the commit timestamp
that the row has there (p_origin, a node; p_committed, NULL for now): no stream sends it on. p_write is the statement;
NULL for an UPDATE of p_source which sets p_sets where p_same. Fails with ZD206, and changes nothing, if the row is no
longer what was proven different: p_check says so, or the statement, which looks at the version that it locks, does not
write p_rows rows. If another row has a unique value of it, the row is put aside, for zodan.repair_aside; p_place and
p_row tell it from others there. The session was prepared by zodan.open_repair.';
REVOKE ALL ON FUNCTION zodan.repair_row FROM PUBLIC;

CREATE FUNCTION zodan.repair_aside()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$DO $do$
DECLARE
    v_row record;
    v_left bigint;
    v_is_up boolean := false;
    v_is_together boolean := false;
BEGIN
    LOOP
        v_left := (SELECT pg_catalog.count(*) FROM pg_temp.zodan_aside AS a);
        -- In a chain of rows, each of which has the value of another one, the last is the first that can be written.
        FOR v_row IN
            SELECT a.* FROM pg_temp.zodan_aside AS a ORDER BY CASE WHEN v_is_up THEN a.place ELSE -a.place END
        LOOP
            BEGIN
                PERFORM pg_temp.zodan_repair(v_row.origin, v_row.committed, v_row.condition, v_row.write, v_row.rows);
                DELETE FROM pg_temp.zodan_aside AS a WHERE a.place = v_row.place;
            EXCEPTION WHEN unique_violation OR exclusion_violation OR lock_not_available OR SQLSTATE 'ZD206' THEN
                UPDATE pg_temp.zodan_aside AS a SET why = SQLERRM
                 WHERE a.place = v_row.place AND NOT (v_is_together AND a.sets IS NOT NULL);
            END;
            COMMIT;
        END LOOP;
        v_is_up := NOT v_is_up;
        CONTINUE WHEN v_left > (SELECT pg_catalog.count(*) FROM pg_temp.zodan_aside AS a);
        EXIT WHEN v_is_together OR v_left = 0;
        FOR v_row IN
            SELECT a.source FROM pg_temp.zodan_aside AS a
             WHERE a.sets IS NOT NULL GROUP BY a.source HAVING pg_catalog.count(*) > 1
        LOOP
            BEGIN
                PERFORM pg_temp.zodan_repair_together(v_row.source);
            EXCEPTION WHEN unique_violation OR exclusion_violation OR lock_not_available OR SQLSTATE 'ZD206' THEN
                UPDATE pg_temp.zodan_aside AS a SET why = SQLERRM WHERE a.source = v_row.source AND a.sets IS NOT NULL;
            END;
            COMMIT;
        END LOOP;
        v_is_together := true;
    END LOOP;
    FOR v_row IN SELECT a.name, a.why FROM pg_temp.zodan_aside AS a ORDER BY a.place LOOP
        RAISE WARNING '% was left alone: %', v_row.name, v_row.why;
    END LOOP;
END
$do$$sql$
$zodan$;
COMMENT ON FUNCTION zodan.repair_aside IS
'Writes the rows that zodan.repair_row put aside in a session, as another row had a unique value of theirs: each in a
transaction of its own, as long as one more can be written. Rows of a table that have the values of each other are then
updated in one transaction, all or none. What cannot be written stays in pg_temp.zodan_aside, with why, and a warning
names it.';
REVOKE ALL ON FUNCTION zodan.repair_aside FROM PUBLIC;

CREATE FUNCTION zodan.read_aside()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT coalesce(pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('place', a.place, 'why', a.why)), '[]') AS aside
  FROM pg_temp.zodan_aside AS a$sql$
$zodan$;
COMMENT ON FUNCTION zodan.read_aside IS
'Reads which rows zodan.repair_row has put aside in a session. It returns one row: aside, an array of objects
place and why.';
REVOKE ALL ON FUNCTION zodan.read_aside FROM PUBLIC;

CREATE FUNCTION zodan.close_repair()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$DO $do$
BEGIN
    IF pg_catalog.pg_replication_origin_session_is_setup() THEN
        PERFORM pg_catalog.pg_replication_origin_session_reset();
    END IF;
    PERFORM pg_catalog.pg_replication_origin_drop(o.roname) FROM pg_catalog.pg_replication_origin AS o
      WHERE pg_catalog.starts_with(o.roname, pg_catalog.format('zodan repair %s ', pg_catalog.pg_backend_pid()));
END
$do$$sql$
$zodan$;
COMMENT ON FUNCTION zodan.close_repair IS
'Ends the repair of rows in a session: drops its replication origins.';
REVOKE ALL ON FUNCTION zodan.close_repair FROM PUBLIC;

CREATE TYPE zodan.verify_result AS (
    table_name text, row_key jsonb, result text, compared bigint, equal bigint, different bigint, undecided bigint,
        seconds numeric, why text, nodes jsonb
);
COMMENT ON TYPE zodan.verify_result IS
'What a comparison of rows found, as zodan.verify returns it: about a table, where row_key is NULL, or about a row that
is different or undecided.';

CREATE TYPE zodan.repair AS (
    node text, table_name text, row_key jsonb, action text, statement text, outcome text, place int
);
COMMENT ON TYPE zodan.repair IS
'What makes a row of a node as another node has it: the node that the statement runs on, the table, the row''s key as
zodan.verify returns it, what happens to the row (insert, update or delete), and the statement. outcome is NULL before
it has run, then repaired, or why the row was left alone; place finds the row in the comparison.';

CREATE FUNCTION zodan.choose_compared(p_facts jsonb, p_nodes text[])
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Returns the nodes whose rows are compared, an array of names in order: those of p_nodes, or all that p_facts names.
Errors: ZD004 fewer than two, or one that is no member; ZD101 one cannot be reached. */
DECLARE
    v_nodes jsonb;
    v_odd text;
BEGIN
    SELECT coalesce(pg_catalog.jsonb_agg(n.name ORDER BY n.name COLLATE "C"), '[]'),
           pg_catalog.min(n.name) FILTER (WHERE NOT p_facts ? n.name) INTO v_nodes, v_odd
      FROM (SELECT DISTINCT u.name FROM pg_catalog.unnest(coalesce(nullif(p_nodes, '{}'),
          ARRAY(SELECT k.node FROM pg_catalog.jsonb_object_keys(p_facts) AS k(node)))) AS u(name)) AS n;
    IF v_odd IS NOT NULL OR pg_catalog.jsonb_array_length(v_nodes) < 2 THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = CASE WHEN v_odd IS NULL THEN 'there are no two nodes to compare'
                ELSE pg_catalog.format('node "%s" is not a member of this cluster', v_odd) END,
            DETAIL = pg_catalog.format('The members are %s.', (SELECT pg_catalog.string_agg(k.node, ', ' ORDER BY k.node)
                FROM pg_catalog.jsonb_object_keys(p_facts) AS k(node))),
            HINT = 'Name two members or more, or none, which means all.';
    END IF;
    SELECT n.name INTO v_odd FROM pg_catalog.jsonb_array_elements_text(v_nodes) AS n(name)
     WHERE p_facts #>> ARRAY[n.name, 'spock', 'node'] IS DISTINCT FROM n.name ORDER BY n.name LIMIT 1;
    IF v_odd IS NOT NULL THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD101',
            MESSAGE = pg_catalog.format('node "%s" cannot be reached', v_odd),
            DETAIL = coalesce(p_facts #>> ARRAY[v_odd, 'error'], p_facts #>> ARRAY[v_odd, 'spock_error'],
                pg_catalog.format('Its connection string leads to node "%s".', p_facts #>> ARRAY[v_odd, 'spock', 'node'])),
            HINT = 'Start it, or name the nodes to compare without it.';
    END IF;
    RETURN v_nodes;
END
$zodan$;
COMMENT ON FUNCTION zodan.choose_compared IS
'Returns the nodes whose rows are compared, an array of names in order: those of p_nodes, or all that p_facts names.
Errors: ZD004 fewer than two, or one that is no member; ZD101 one cannot be reached.';
REVOKE ALL ON FUNCTION zodan.choose_compared FROM PUBLIC;

CREATE FUNCTION zodan.list_compared(p_published jsonb, p_described jsonb, p_exact boolean)
RETURNS TABLE (name text, root text, item jsonb, problems text, notes text)
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH published AS MATERIALIZED (
    SELECT t.key AS name, pg_catalog.min(t.value ->> 'root') AS root,
           pg_catalog.min(t.value ->> 'filter') AS filter,
           (pg_catalog.array_agg(t.value -> 'columns'))[1] AS columns,
           pg_catalog.count(DISTINCT t.value - 'root') > 1 AS differs
      FROM pg_catalog.jsonb_each(p_published) AS n(key, value)
     CROSS JOIN LATERAL pg_catalog.jsonb_each(n.value -> 'tables') AS t(key, value)
     GROUP BY t.key),
described AS MATERIALIZED (
    SELECT p.name, n.key AS node, n.value #> ARRAY['tables', p.name] AS facts
      FROM published AS p CROSS JOIN pg_catalog.jsonb_each(p_described) AS n(key, value)),
fields AS MATERIALIZED (
    SELECT d.name, c.item ->> 'name' AS column_name, pg_catalog.bool_and((c.item ->> 'plain')::boolean)
               AND pg_catalog.count(DISTINCT c.item ->> 'type') = 1 AS plain,
           pg_catalog.jsonb_agg(d.node) AS nodes, pg_catalog.count(DISTINCT c.item ->> 'type') > 1 AS differs,
           pg_catalog.string_agg(pg_catalog.format('%s on %s', c.item ->> 'type', d.node), ', ' ORDER BY d.node) AS types
      FROM described AS d CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(d.facts -> 'columns') AS c(item)
      JOIN published AS p ON p.name = d.name AND (coalesce(p.columns, 'null') = 'null' OR p.columns ? (c.item ->> 'name'))
     GROUP BY d.name, c.item ->> 'name'),
merged AS MATERIALIZED (
    SELECT c.name, pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('name', c.column_name, 'plain', c.plain)
               ORDER BY c.column_name COLLATE "C") AS columns,
           pg_catalog.string_agg(pg_catalog.format('column "%s" is compared by its text: it is %s', c.column_name, c.types), '; ')
               FILTER (WHERE c.differs) AS notes,
           pg_catalog.string_agg(pg_catalog.format('column "%s" is missing on %s', c.column_name, (
               SELECT pg_catalog.string_agg(k.node, ', ' ORDER BY k.node)
                 FROM pg_catalog.jsonb_object_keys(p_described) AS k(node) WHERE NOT c.nodes ? k.node)), '; ')
               FILTER (WHERE pg_catalog.jsonb_array_length(c.nodes) < a.nodes) AS missing
      FROM fields AS c JOIN (SELECT d.name, pg_catalog.count(d.facts) AS nodes FROM described AS d GROUP BY d.name) AS a
          ON a.name = c.name
     GROUP BY c.name),
nodes AS MATERIALIZED (
    SELECT d.name, pg_catalog.jsonb_object_agg(d.node, d.facts - '{columns,rows,readable}'::text[]
               || pg_catalog.jsonb_build_object('filter', coalesce(p_published #>> ARRAY[d.node, 'tables', d.name, 'filter'],
                   p.filter))) AS nodes,
           pg_catalog.max((d.facts ->> 'rows')::bigint) AS rows,
           -- The key names a row only where it is one on every node, and compared.
           pg_catalog.count(DISTINCT k.names) = 1 AND pg_catalog.bool_and(k.names <> '[]'
               AND (coalesce(p.columns, 'null') = 'null' OR p.columns @> k.names)) AS keyed,
           pg_catalog.string_agg(d.node, ', ' ORDER BY d.node) FILTER (WHERE d.facts IS NULL) AS missing,
           pg_catalog.string_agg(d.node, ', ' ORDER BY d.node) FILTER (WHERE NOT (d.facts ->> 'readable')::boolean)
               AS unreadable
      FROM described AS d JOIN published AS p ON p.name = d.name
     CROSS JOIN LATERAL (SELECT pg_catalog.jsonb_path_query_array(d.facts -> 'key', '$[*].name') AS names) AS k
     GROUP BY d.name)
SELECT p.name, p.root, pg_catalog.jsonb_build_object('name', p.name, 'keyed', n.keyed, 'rows', n.rows, 'nodes', n.nodes,
           'digest', zodan.write_digest(coalesce(m.columns, '[]'), p_exact), 'columns', (
               SELECT pg_catalog.jsonb_agg(c.item - 'plain') FROM pg_catalog.jsonb_array_elements(m.columns) AS c(item))),
       nullif(pg_catalog.concat_ws('; ', 'it is missing on ' || n.missing, 'no right to read it on ' || n.unreadable,
           m.missing, CASE WHEN p.differs THEN 'the nodes publish different rows or columns of it' END), ''), m.notes
  FROM published AS p JOIN nodes AS n ON n.name = p.name LEFT JOIN merged AS m ON m.name = p.name
$zodan$;
COMMENT ON FUNCTION zodan.list_compared IS
'Compares what the nodes report of their tables, and returns a row for each table: name; root, the partitioned table
above it; item, what a comparison of its rows needs; problems, why its rows cannot be compared; notes, what else to
know. p_published and p_described hold what zodan.list_replicated and zodan.describe_tables returned, by node.';
REVOKE ALL ON FUNCTION zodan.list_compared FROM PUBLIC;

CREATE FUNCTION zodan.choose_tables(p_tables text[], p_published jsonb, p_described jsonb, p_exact boolean)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Returns tables, the tables whose rows are compared, largest first, as zodan.list_compared describes them: those of
p_tables, or all; or failure, what a caller sees, with sqlstate ZD120, no node replicates a table, or ZD121, tables cannot
be compared. Errors: PostgreSQL's own if a name is malformed. */
DECLARE
    v_tables jsonb;
    v_problems text;
    v_odd text;
BEGIN
    WITH compared AS MATERIALIZED (
        SELECT c.*, w.wanted FROM zodan.list_compared(p_published, p_described, p_exact) AS c
          LEFT JOIN LATERAL (SELECT t.name AS wanted FROM pg_catalog.unnest(p_tables) AS t(name)
                              WHERE pg_catalog.parse_ident(t.name) IN (pg_catalog.parse_ident(c.name),
                                  (pg_catalog.parse_ident(c.name))[2:2], pg_catalog.parse_ident(c.root),
                                  (pg_catalog.parse_ident(c.root))[2:2])
                              LIMIT 1) AS w ON true
         WHERE coalesce(p_tables, '{}') = '{}' OR w.wanted IS NOT NULL)
    SELECT coalesce(pg_catalog.jsonb_agg(c.item || pg_catalog.jsonb_build_object('notes', c.notes)
               ORDER BY (c.item ->> 'rows')::bigint DESC, c.name COLLATE "C"), '[]'),
           pg_catalog.string_agg(pg_catalog.format('%s: %s.', c.name, c.problems), E'\n' ORDER BY c.name COLLATE "C")
               FILTER (WHERE c.problems IS NOT NULL),
           (SELECT pg_catalog.min(t.name) FROM pg_catalog.unnest(p_tables) AS t(name)
             WHERE t.name NOT IN (SELECT m.wanted FROM compared AS m))
      INTO v_tables, v_problems, v_odd FROM compared AS c;
    IF v_odd IS NULL AND v_problems IS NULL AND v_tables <> '[]' THEN
        RETURN pg_catalog.jsonb_build_object('tables', v_tables);
    END IF;
    RETURN pg_catalog.jsonb_build_object('failure', pg_catalog.jsonb_build_object(
        'sqlstate', CASE WHEN v_odd IS NULL AND v_problems IS NOT NULL THEN 'ZD121' ELSE 'ZD120' END,
        'message', CASE WHEN v_odd IS NOT NULL THEN pg_catalog.format('the nodes replicate no table "%s"', v_odd)
            WHEN v_problems IS NOT NULL THEN 'tables cannot be compared' ELSE 'the nodes replicate no table' END,
        'detail', coalesce(v_problems, 'Only tables in replication sets that the nodes take from one another are compared.'),
        'hint', CASE WHEN v_odd IS NULL AND v_problems IS NOT NULL THEN 'Make the tables alike, or name those to compare.'
            ELSE 'Name tables with their schema, as in public.orders.' END));
END
$zodan$;
COMMENT ON FUNCTION zodan.choose_tables IS
'Returns tables, the tables whose rows are compared, largest first, as zodan.list_compared describes them: those of
p_tables, or all; or failure, what a caller sees, with sqlstate ZD120, no node replicates a table, or ZD121, tables cannot
be compared. Errors: PostgreSQL''s own if a name is malformed.';
REVOKE ALL ON FUNCTION zodan.choose_tables FROM PUBLIC;

CREATE FUNCTION zodan.open_lanes(p_nodes jsonb, p_jobs int, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Sees that the sessions of a comparison are there, on each node one that sends marks (lane 0) and p_jobs that can
only read. Returns an object of lane and connection string: the statements of a comparison find no other connection
string in it, whatever the names in them look like. Returns failure instead if a node cannot be reached: an object of
node and message. */
DECLARE
    v_lanes jsonb;
    v_lane text;
    v_node text;
    v_answer jsonb;
BEGIN
    SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, l.number), p_dsns -> n.name) INTO v_lanes
      FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
     CROSS JOIN pg_catalog.generate_series(0, p_jobs) AS l(number);
    FOR v_node, v_lane IN
        SELECT n.name, zodan.lane_name(n.name, l.number) FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
         CROSS JOIN pg_catalog.generate_series(0, p_jobs) AS l(number)
    LOOP
        v_answer := zodan.open_connection(v_lane, v_lanes, 'zodan verify');
        IF NOT (v_answer ->> 'ok')::boolean THEN
            RETURN pg_catalog.jsonb_build_object('failure', pg_catalog.jsonb_build_object('node', v_node,
                'message', v_answer ->> 'message'));
        END IF;
    END LOOP;
    SELECT pg_catalog.jsonb_build_object('node', zodan.lane_node(a.key), 'message', a.value ->> 'message') INTO v_answer
      FROM pg_catalog.jsonb_each(zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, l.number),
               zodan.set_reader()) FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
               CROSS JOIN pg_catalog.generate_series(1, p_jobs) AS l(number)), v_lanes)) AS a(key, value)
     WHERE NOT (a.value ->> 'ok')::boolean LIMIT 1;
    RETURN CASE WHEN v_answer IS NULL THEN v_lanes ELSE pg_catalog.jsonb_build_object('failure', v_answer) END;
END
$zodan$;
COMMENT ON FUNCTION zodan.open_lanes IS
'Sees that the sessions of a comparison are there, on each node one that sends marks (lane 0) and p_jobs that can
only read. Returns an object of lane and connection string: the statements of a comparison find no other connection
string in it, whatever the names in them look like. Returns failure instead if a node cannot be reached: an object of
node and message.';
REVOKE ALL ON FUNCTION zodan.open_lanes FROM PUBLIC;

CREATE FUNCTION zodan.close_readers(p_nodes jsonb, p_jobs int)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Closes the sessions of a comparison, and no others. */
BEGIN
    PERFORM zodan.close_connection(zodan.lane_name(n.name, l.number))
       FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
      CROSS JOIN pg_catalog.generate_series(0, p_jobs) AS l(number);
END
$zodan$;
COMMENT ON FUNCTION zodan.close_readers IS
'Closes the sessions of a comparison, and no others.';
REVOKE ALL ON FUNCTION zodan.close_readers FROM PUBLIC;

CREATE FUNCTION zodan.describe_lost(p_lost jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('sqlstate', 'ZD101', 'lost', true, 'node', p_lost -> 'node',
           'message', pg_catalog.format('node "%s" cannot be reached', p_lost ->> 'node'), 'detail', p_lost -> 'message',
           'hint', 'Start it, or name the nodes to compare without it.')
$zodan$;
COMMENT ON FUNCTION zodan.describe_lost IS
'Returns what a caller sees of a node that a comparison cannot reach: p_lost has the node and the message.';
REVOKE ALL ON FUNCTION zodan.describe_lost FROM PUBLIC;

CREATE FUNCTION zodan.ask_nodes(p_query text, p_nodes jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Runs one query, which returns one row, on every node of p_nodes over the sessions of p_lanes, as zodan.open_lanes
returns them. Returns answers, the rows by node; or failure, what a caller sees: sqlstate, message, detail, hint; and lost,
whether a session was lost, which can be opened again. */
DECLARE
    v_answers jsonb;
    v_failure jsonb;
BEGIN
    v_answers := zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 0), p_query)
        FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)), p_lanes);
    SELECT pg_catalog.jsonb_object_agg(n.name, v_answers -> zodan.lane_name(n.name, 0)) INTO v_answers
      FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name);
    v_failure := zodan.find_failure(v_answers);
    IF v_failure IS NOT NULL THEN
        RETURN pg_catalog.jsonb_build_object('failure', v_failure || pg_catalog.jsonb_build_object('sqlstate', 'ZD200',
            'message', pg_catalog.format('could not read the tables of node "%s"', v_failure ->> 'node'),
            'detail', pg_catalog.concat_ws(': ', v_answers #>> ARRAY[v_failure ->> 'node', 'sqlstate'], v_failure ->> 'message'),
            'hint', 'Fix what DETAIL says, then call again.'));
    END IF;
    RETURN pg_catalog.jsonb_build_object('answers', (SELECT pg_catalog.jsonb_object_agg(a.key, a.value -> 'value')
        FROM pg_catalog.jsonb_each(v_answers) AS a(key, value)));
END
$zodan$;
COMMENT ON FUNCTION zodan.ask_nodes IS
'Runs one query, which returns one row, on every node of p_nodes over the sessions of p_lanes, as zodan.open_lanes
returns them. Returns answers, the rows by node; or failure, what a caller sees: sqlstate, message, detail, hint; and lost,
whether a session was lost, which can be opened again.';
REVOKE ALL ON FUNCTION zodan.ask_nodes FROM PUBLIC;

CREATE FUNCTION zodan.list_turns(p_machines jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_agg(t.nodes ORDER BY t.turn)
  FROM (SELECT n.turn, pg_catalog.jsonb_agg(n.node ORDER BY n.node COLLATE "C") AS nodes
          FROM (SELECT m.key AS node, pg_catalog.row_number() OVER (
                           PARTITION BY m.value, CASE WHEN m.value IS NULL THEN m.key END ORDER BY m.key COLLATE "C") AS turn
                  FROM pg_catalog.jsonb_each_text(p_machines) AS m(key, value)) AS n
         GROUP BY n.turn) AS t
$zodan$;
COMMENT ON FUNCTION zodan.list_turns IS
'Returns in which order nodes are read: turn after turn, an array of arrays of nodes. Nodes that share a machine have turns
of their own, so that no more sessions read on it at once than on any other. p_machines is an object of node and
machine, null where that is not known.';
REVOKE ALL ON FUNCTION zodan.list_turns FROM PUBLIC;

CREATE FUNCTION zodan.begin_comparison(
    p_nodes jsonb,
    p_sets text[],
    p_tables text[],
    p_jobs int,
    p_most int,
    p_max_lag interval,
    p_dsns jsonb
)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Finds out which tables the nodes of p_nodes replicate in p_sets: all, or those of p_tables (a table, or the
partitioned table above it). Returns the state of a comparison, which zodan.compare_rows takes on; or failure, what a caller
sees, as zodan.ask_nodes returns it: ZD101 a node cannot be reached, ZD120 no such table, ZD121 tables cannot be
compared, ZD200. It opens a session on each node, which stays open. */
DECLARE
    v_lanes jsonb;
    v_published jsonb;
    v_described jsonb;
    v_tables jsonb;
BEGIN
    v_lanes := zodan.open_lanes(p_nodes, 0, p_dsns);
    IF v_lanes ? 'failure' THEN
        RETURN pg_catalog.jsonb_build_object('failure', zodan.describe_lost(v_lanes -> 'failure'));
    END IF;
    v_published := zodan.ask_nodes(zodan.list_replicated(p_sets), p_nodes, v_lanes);
    IF v_published ? 'failure' THEN
        RETURN v_published;
    END IF;
    v_published := v_published -> 'answers';
    v_described := zodan.ask_nodes(zodan.describe_tables(ARRAY(
        SELECT DISTINCT t.name FROM pg_catalog.jsonb_each(v_published) AS n(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_object_keys(n.value -> 'tables') AS t(name))), p_nodes, v_lanes);
    IF v_described ? 'failure' THEN
        RETURN v_described;
    END IF;
    v_tables := zodan.choose_tables(p_tables, v_published, v_described -> 'answers', (
        SELECT pg_catalog.count(DISTINCT pg_catalog.concat_ws(' ', n.value ->> 'encoding', n.value ->> 'probe')) > 1
          FROM pg_catalog.jsonb_each(v_published) AS n(key, value)));
    IF v_tables ? 'failure' THEN
        RETURN v_tables;
    END IF;
    RETURN v_tables || pg_catalog.jsonb_build_object('nodes', p_nodes, 'jobs', p_jobs, 'most',
        coalesce(p_most, 1000), 'max_lag', p_max_lag, 'open', '{}'::jsonb, 'tasks', '[]'::jsonb,
        'suspects', '[]'::jsonb, 'trial', NULL, 'found', '[]'::jsonb, 'done', '[]'::jsonb,
        'turns', zodan.list_turns((SELECT pg_catalog.jsonb_object_agg(n.key, n.value -> 'machine')
            FROM pg_catalog.jsonb_each(v_published) AS n(key, value))),
        'identities', (SELECT pg_catalog.jsonb_object_agg(n.key, n.value -> 'identity')
            FROM pg_catalog.jsonb_each(v_published) AS n(key, value)),
        'total', pg_catalog.jsonb_array_length(v_tables -> 'tables'));
END
$zodan$;
COMMENT ON FUNCTION zodan.begin_comparison IS
'Finds out which tables the nodes of p_nodes replicate in p_sets: all, or those of p_tables (a table, or the
partitioned table above it). Returns the state of a comparison, which zodan.compare_rows takes on; or failure, what a caller
sees, as zodan.ask_nodes returns it: ZD101 a node cannot be reached, ZD120 no such table, ZD121 tables cannot be
compared, ZD200. It opens a session on each node, which stays open.';
REVOKE ALL ON FUNCTION zodan.begin_comparison FROM PUBLIC;

CREATE FUNCTION zodan.write_source(p_item jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format('ONLY %s.%s', zodan.quote_name(p_item ->> 'schema'), zodan.quote_name(p_item ->> 'table'))
$zodan$;
COMMENT ON FUNCTION zodan.write_source IS
'Writes the table that a comparison reads on a node, without those that inherit from it; p_item describes it.';
REVOKE ALL ON FUNCTION zodan.write_source FROM PUBLIC;

CREATE FUNCTION zodan.write_condition(p_item jsonb, p_from jsonb, p_to jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce('(' || (p_item ->> 'filter') || ') AND ', '') || zodan.write_range(p_item -> 'key', p_from, p_to)
$zodan$;
COMMENT ON FUNCTION zodan.write_condition IS
'Writes the condition that a row t is published, and in a range of its key; p_item describes the table on a node.';
REVOKE ALL ON FUNCTION zodan.write_condition FROM PUBLIC;

CREATE FUNCTION zodan.write_task(p_task jsonb, p_open jsonb, p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT CASE WHEN p_task ->> 'kind' = 'hash' THEN
           zodan.hash_ranges((SELECT pg_catalog.string_agg(zodan.hash_range(
               p_place => p.place::text, p_digest => t.item ->> 'digest', p_source => zodan.write_source(n.item),
               p_condition => zodan.write_condition(n.item, p.item -> 'from', p.item -> 'to'),
               p_most => p_task ->> 'most'), ' UNION ALL ')
             FROM pg_catalog.jsonb_array_elements(p_task -> 'pieces') WITH ORDINALITY AS p(item, place)
            CROSS JOIN LATERAL (SELECT p_open -> (p.item ->> 'table') AS item) AS t
            CROSS JOIN LATERAL (SELECT t.item #> ARRAY['nodes', p_node] AS item) AS n))
       ELSE (SELECT CASE WHEN p_task ->> 'kind' = 'cut' THEN zodan.list_bounds(
                  p_key => zodan.write_key(n.item -> 'key'), p_step => p_task ->> 'step',
                  p_columns => (SELECT pg_catalog.string_agg('t.' || zodan.quote_name(k.item ->> 'name'), ', ' ORDER BY k.place)
                      FROM pg_catalog.jsonb_array_elements(n.item -> 'key') WITH ORDINALITY AS k(item, place)),
                  p_source => zodan.write_source(n.item),
                  p_condition => zodan.write_condition(n.item, p_task -> 'from', p_task -> 'to'), p_most => p_task ->> 'most')
                ELSE zodan.read_rows(
                  p_key => zodan.write_key(n.item -> 'key'), p_digest => t.item ->> 'digest',
                  p_shown => zodan.write_shown(t.item -> 'columns'),
                  p_source => zodan.write_source(n.item),
                  p_condition => zodan.write_condition(n.item, p_task -> 'from', p_task -> 'to'), p_most => p_task ->> 'most') END
         FROM (SELECT p_open -> (p_task ->> 'table') AS item) AS t
        CROSS JOIN LATERAL (SELECT t.item #> ARRAY['nodes', p_node] AS item) AS n) END
$zodan$;
COMMENT ON FUNCTION zodan.write_task IS
'Writes the statement of a task of a comparison for a node; p_open has the tables under way. Tasks are hash (pieces
of tables, each a range of its key), cut (find bounds within a range) and read (the rows of a range).';
REVOKE ALL ON FUNCTION zodan.write_task FROM PUBLIC;

CREATE FUNCTION zodan.find_failure(p_answers jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('node', a.key, 'message', a.value ->> 'message',
           'lost', coalesce(a.value ->> 'sqlstate' ~ '^(08|57P)', false))
  FROM pg_catalog.jsonb_each(p_answers) AS a(key, value)
 WHERE NOT (a.value ->> 'ok')::boolean
 ORDER BY a.value ->> 'sqlstate' ~ '^(08|57P)', a.key
 LIMIT 1
$zodan$;
COMMENT ON FUNCTION zodan.find_failure IS
'Returns the first failure among the answers of nodes, as zodan.fetch_result returns them: node, message, and lost,
whether a session was lost, which can be opened again; NULL if all worked.';
REVOKE ALL ON FUNCTION zodan.find_failure FROM PUBLIC;

CREATE FUNCTION zodan.is_equal(p_seen jsonb, p_nodes jsonb)
RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.count(DISTINCT coalesce(p_seen #>> ARRAY[n.name, 'hash'], '')) = 1
  FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
$zodan$;
COMMENT ON FUNCTION zodan.is_equal IS
'Returns whether every node of p_nodes has the same row, or none has it; p_seen is an object of node and an object
with the row''s hash.';
REVOKE ALL ON FUNCTION zodan.is_equal FROM PUBLIC;

CREATE FUNCTION zodan.is_under_way(p_state jsonb, p_table text)
RETURNS boolean
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_path_exists(p_state, '$.tasks[*] ? (@.table == $name || @.pieces[*].table == $name)', v.vars)
    OR pg_catalog.jsonb_path_exists(p_state, '$.suspects[*] ? (@.table == $name)', v.vars)
    OR pg_catalog.jsonb_path_exists(p_state, '$.trial.suspects[*] ? (@.table == $name)', v.vars)
  FROM (SELECT pg_catalog.jsonb_build_object('name', p_table) AS vars) AS v
$zodan$;
COMMENT ON FUNCTION zodan.is_under_way IS
'Returns whether there is still something to do for a table of a comparison.';
REVOKE ALL ON FUNCTION zodan.is_under_way FROM PUBLIC;

CREATE FUNCTION zodan.give_up_table(p_state jsonb, p_table text, p_why text)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT p_state || pg_catalog.jsonb_build_object(
    'open', p_state -> 'open' || pg_catalog.jsonb_build_object(p_table, (p_state #> ARRAY['open', p_table])
        || pg_catalog.jsonb_build_object('why', p_why)),
    'tasks', (SELECT coalesce(pg_catalog.jsonb_agg(t.item ORDER BY t.place), '[]')
                FROM pg_catalog.jsonb_array_elements(p_state -> 'tasks') WITH ORDINALITY AS t(item, place)
               WHERE coalesce(t.item ->> 'table', t.item #>> '{pieces,0,table}') <> p_table
                   OR pg_catalog.jsonb_path_exists(t.item, '$.pieces[*] ? (@.table != $name)',
                       pg_catalog.jsonb_build_object('name', p_table))),
    'suspects', (SELECT coalesce(pg_catalog.jsonb_agg(s.item ORDER BY s.place), '[]')
                   FROM pg_catalog.jsonb_array_elements(p_state -> 'suspects') WITH ORDINALITY AS s(item, place)
                  WHERE s.item ->> 'table' <> p_table))
$zodan$;
COMMENT ON FUNCTION zodan.give_up_table IS
'Ends the comparison of a table before its end: forgets its tasks and what is under suspicion in it, and says why.';
REVOKE ALL ON FUNCTION zodan.give_up_table FROM PUBLIC;

CREATE FUNCTION zodan.begin_tables(p_state jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Begins with the next tables of a comparison if there is too little to do for all sessions: one large table, or many
small ones, which one statement hashes as a whole. Returns the state with their tasks. */
DECLARE
    v_state jsonb := p_state;
    v_tables jsonb;
    v_rest jsonb;
    v_count int;
    v_task jsonb;
BEGIN
    WHILE pg_catalog.jsonb_array_length(v_state -> 'tasks') < (v_state ->> 'jobs')::int AND v_state -> 'tables' <> '[]' LOOP
        -- They are in the order of their size, but those without a key are each a task of their own.
        SELECT greatest(coalesce(pg_catalog.min(t.place) FILTER (WHERE NOT (t.item ->> 'keyed')::boolean
                   OR (t.item ->> 'rows')::bigint > 1000) - 1,
                       least(pg_catalog.count(*), 32)), 1) INTO v_count
          FROM pg_catalog.jsonb_array_elements(v_state -> 'tables') WITH ORDINALITY AS t(item, place)
         WHERE t.place <= 32;
        SELECT pg_catalog.jsonb_agg(t.item ORDER BY t.place) FILTER (WHERE t.place <= v_count),
               coalesce(pg_catalog.jsonb_agg(t.item ORDER BY t.place) FILTER (WHERE t.place > v_count), '[]')
          INTO v_tables, v_rest
          FROM pg_catalog.jsonb_array_elements(v_state -> 'tables') WITH ORDINALITY AS t(item, place);
        v_state := v_state || pg_catalog.jsonb_build_object('tables', v_rest, 'open', v_state -> 'open' || (
            SELECT pg_catalog.jsonb_object_agg(t.item ->> 'name', t.item || pg_catalog.jsonb_build_object('step',
                       20000, 'compared', 0, 'different', 0, 'undecided', 0, 'why', NULL,
                       'began', extract(epoch FROM pg_catalog.clock_timestamp())))
              FROM pg_catalog.jsonb_array_elements(v_tables) AS t(item)));
        v_task := CASE WHEN NOT (v_tables #>> '{0,keyed}')::boolean THEN
                pg_catalog.jsonb_build_object('kind', 'scan', 'table', v_tables #> '{0,name}')
            WHEN (v_tables #>> '{0,rows}')::bigint > 1000 THEN
                pg_catalog.jsonb_build_object('kind', 'cut', 'ahead', true, 'table', v_tables #> '{0,name}', 'from', NULL,
                    'to', NULL, 'node', v_state #> '{nodes,0}')
            ELSE pg_catalog.jsonb_build_object('kind', 'hash', 'most', 2000000, 'pieces', (
                SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table', t.item -> 'name', 'from', NULL, 'to', NULL)
                           ORDER BY t.place)
                  FROM pg_catalog.jsonb_array_elements(v_tables) WITH ORDINALITY AS t(item, place))) END;
        v_state['tasks'] := v_state -> 'tasks' || v_task;
    END LOOP;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.begin_tables IS
'Begins with the next tables of a comparison if there is too little to do for all sessions: one large table, or many
small ones, which one statement hashes as a whole. Returns the state with their tasks.';
REVOKE ALL ON FUNCTION zodan.begin_tables FROM PUBLIC;

CREATE FUNCTION zodan.choose_tasks(INOUT p_state jsonb, OUT p_tasks jsonb)
LANGUAGE plpgsql
AS $zodan$
/* Takes from the state of a comparison what its sessions do next: as many tasks as there are sessions, and besides,
where what is left would not last, a search for bounds ahead. A scan, which takes all sessions, remains. Returns the
state without the tasks, and the tasks, an object of lane number and task. */
DECLARE
    v_jobs int := (p_state ->> 'jobs')::int;
    v_rest jsonb;
BEGIN
    WITH tasks AS MATERIALIZED (
        SELECT t.item, t.place, coalesce((t.item ->> 'ahead')::boolean, false) AS ahead,
               t.item ->> 'kind' = 'scan' AS scans, pg_catalog.row_number() OVER (PARTITION BY t.item ->> 'kind' = 'scan',
                   coalesce((t.item ->> 'ahead')::boolean, false) ORDER BY t.place) AS number
          FROM pg_catalog.jsonb_array_elements(p_state -> 'tasks') WITH ORDINALITY AS t(item, place)),
    chosen AS MATERIALIZED (
        SELECT t.* FROM tasks AS t
         WHERE NOT t.scans AND CASE WHEN t.ahead THEN t.number = 1
                        AND (SELECT pg_catalog.count(*) FROM tasks AS o WHERE NOT o.ahead AND NOT o.scans) < 2 * v_jobs
                    ELSE t.number <= v_jobs END)
    SELECT coalesce(pg_catalog.jsonb_object_agg(CASE WHEN t.ahead THEN 0 ELSE t.number END, CASE WHEN t.ahead THEN
               t.item || pg_catalog.jsonb_build_object('step', s.step, 'most', s.step * 2 * v_jobs) ELSE t.item END)
               FILTER (WHERE c.place IS NOT NULL), '{}'),
           coalesce(pg_catalog.jsonb_agg(t.item ORDER BY t.place) FILTER (WHERE c.place IS NULL), '[]')
      INTO p_tasks, v_rest
      FROM tasks AS t LEFT JOIN chosen AS c ON c.place = t.place
     CROSS JOIN LATERAL (SELECT (p_state #>> ARRAY['open', t.item ->> 'table', 'step'])::bigint AS step) AS s;
    p_state := p_state || pg_catalog.jsonb_build_object('tasks', v_rest);
END
$zodan$;
COMMENT ON FUNCTION zodan.choose_tasks IS
'Takes from the state of a comparison what its sessions do next: as many tasks as there are sessions, and besides,
where what is left would not last, a search for bounds ahead. A scan, which takes all sessions, remains. Returns the
state without the tasks, and the tasks, an object of lane number and task.';
REVOKE ALL ON FUNCTION zodan.choose_tasks FROM PUBLIC;

CREATE FUNCTION zodan.take_hashes(p_state jsonb, p_task jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Compares what the nodes returned for the pieces of a hash task. Pieces that are equal everywhere are done; others
are suspects, and are cut, or read row by row if they are small. Also learns from the time it took how large the
table's next chunks should be. */
DECLARE
    v_state jsonb := p_state;
    v_most bigint := (p_task ->> 'most')::bigint;
    v_table text;
    v_piece record;
    v_took numeric := (SELECT pg_catalog.max((a.value #>> '{value,took}')::numeric)
        FROM pg_catalog.jsonb_each(p_task -> 'answers') AS a(key, value));
BEGIN
    FOR v_piece IN
        SELECT p.item, s.rows, s.equal, s.node
          FROM pg_catalog.jsonb_array_elements(p_task -> 'pieces') WITH ORDINALITY AS p(item, place)
         CROSS JOIN LATERAL (
            SELECT pg_catalog.max((a.value #>> ARRAY['value', 'sums', n.place, '0'])::bigint) AS rows,
                   pg_catalog.count(DISTINCT a.value #> ARRAY['value', 'sums', n.place]) = 1 AS equal,
                   (pg_catalog.array_agg(a.key ORDER BY (a.value #>> ARRAY['value', 'sums', n.place, '0'])::bigint DESC))[1] AS node
              FROM pg_catalog.jsonb_each(p_task -> 'answers') AS a(key, value)
             CROSS JOIN (SELECT (p.place - 1)::text AS place) AS n) AS s
         ORDER BY p.place
    LOOP
        v_table := v_piece.item ->> 'table';
        CONTINUE WHEN NOT v_state -> 'open' ? v_table OR v_state #>> ARRAY['open', v_table, 'why'] IS NOT NULL;
        IF v_piece.equal AND v_piece.rows < v_most THEN
            v_state['open'][v_table]['compared'] := pg_catalog.to_jsonb((v_state #>> ARRAY['open', v_table, 'compared'])::bigint
                + v_piece.rows);
        ELSIF v_piece.rows <= 200 THEN
            v_state['tasks'] := v_state -> 'tasks' || (v_piece.item || pg_catalog.jsonb_build_object('kind', 'read',
                'most', 2000000));
        ELSE
            v_state['tasks'] := v_state -> 'tasks' || (v_piece.item || pg_catalog.jsonb_build_object('kind', 'cut',
                'node', v_piece.node, 'step', v_piece.rows / 16 + 1, 'most', v_piece.rows));
        END IF;
    END LOOP;
    IF (p_task ->> 'chunk')::boolean AND v_piece.rows >= (v_state #>> ARRAY['open', v_table, 'step'])::bigint / 2 THEN
        v_state['open'][v_table]['step'] := pg_catalog.to_jsonb(greatest(1000, least(2000000,
            v_piece.rows * least(4, greatest(0.25, 1.0 / greatest(v_took, 0.001)))))::bigint);
    END IF;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.take_hashes IS
'Compares what the nodes returned for the pieces of a hash task. Pieces that are equal everywhere are done; others
are suspects, and are cut, or read row by row if they are small. Also learns from the time it took how large the
table''s next chunks should be.';
REVOKE ALL ON FUNCTION zodan.take_hashes FROM PUBLIC;

CREATE FUNCTION zodan.take_bounds(p_state jsonb, p_task jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH found AS MATERIALIZED (
    SELECT a.value -> 'value' AS item FROM pg_catalog.jsonb_each(p_task -> 'answers') AS a(key, value)),
pieces AS MATERIALIZED (
    SELECT b.place, pg_catalog.lag(b.key, 1, p_task -> 'from') OVER (ORDER BY b.place) AS lower, b.key AS upper
      FROM (SELECT b.key, b.place FROM found AS f
             CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(f.item -> 'bounds') WITH ORDINALITY AS b(key, place)
            UNION ALL
            SELECT p_task -> 'to', 9223372036854775807 FROM found AS f
             WHERE p_task ->> 'ahead' IS NULL OR (f.item ->> 'seen')::bigint < (p_task ->> 'most')::bigint) AS b),
ranges AS MATERIALIZED (
    SELECT p.place, p.upper, pg_catalog.jsonb_build_object('table', p_task -> 'table', 'from', p.lower, 'to', p.upper) AS item
      FROM pieces AS p)
SELECT p_state || pg_catalog.jsonb_build_object('tasks', (p_state -> 'tasks') || CASE WHEN p_task ->> 'ahead' IS NULL THEN
           pg_catalog.jsonb_build_object('kind', 'hash', 'most', (p_task ->> 'most')::bigint + 1000,
               'pieces', (SELECT pg_catalog.jsonb_agg(r.item ORDER BY r.place) FROM ranges AS r))
       ELSE (SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('kind', 'hash', 'chunk', true,
                        'most', 4 * (p_task ->> 'step')::bigint, 'pieces', pg_catalog.jsonb_build_array(r.item)) ORDER BY r.place)
               FROM ranges AS r)
           || coalesce((SELECT pg_catalog.jsonb_build_array((p_task - '{answers,step,most}'::text[])
                  || pg_catalog.jsonb_build_object('from', f.item #> '{bounds,-1}')) FROM found AS f
                WHERE (f.item ->> 'seen')::bigint >= (p_task ->> 'most')::bigint), '[]') END)
$zodan$;
COMMENT ON FUNCTION zodan.take_bounds IS
'Makes of the bounds that a cut task found the tasks that hash what lies between them: the chunks of a table, and the
search for those that follow; or the pieces of a chunk that differs.';
REVOKE ALL ON FUNCTION zodan.take_bounds FROM PUBLIC;

CREATE FUNCTION zodan.take_rows(p_state jsonb, p_task jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH rows AS MATERIALIZED (
    SELECT r.item -> 'key' AS key, pg_catalog.jsonb_object_agg(a.key, r.item - 'key') AS seen
      FROM pg_catalog.jsonb_each(p_task -> 'answers') AS a(key, value)
     CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(a.value #> '{value,rows}') AS r(item)
     GROUP BY r.item -> 'key')
SELECT p_state || pg_catalog.jsonb_build_object(
    'suspects', (p_state -> 'suspects') || coalesce((
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table', p_task -> 'table', 'key', r.key, 'seen', r.seen,
                   'stable', 0)) FROM rows AS r WHERE NOT zodan.is_equal(r.seen, p_state -> 'nodes')), '[]'),
    'open', p_state -> 'open' || pg_catalog.jsonb_build_object(p_task ->> 'table', t.item
        || pg_catalog.jsonb_build_object('compared', (t.item ->> 'compared')::bigint + (SELECT pg_catalog.count(*) FROM rows AS r))))
  FROM (SELECT p_state #> ARRAY['open', p_task ->> 'table'] AS item) AS t
$zodan$;
COMMENT ON FUNCTION zodan.take_rows IS
'Compares the rows of a range as the nodes returned them. Those that are equal everywhere are done, the others are
under suspicion.';
REVOKE ALL ON FUNCTION zodan.take_rows FROM PUBLIC;

CREATE FUNCTION zodan.query_readers(p_queries jsonb, p_turns jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Runs the queries of the sessions that read, p_queries by lane, as zodan.query_nodes does, turn after turn as
zodan.list_turns returns them. */
DECLARE
    v_answers jsonb := '{}'::jsonb;
    v_queries jsonb;
BEGIN
    FOR v_queries IN
        SELECT pg_catalog.jsonb_object_agg(q.key, q.value)
          FROM pg_catalog.jsonb_array_elements(p_turns) WITH ORDINALITY AS t(nodes, turn)
          JOIN pg_catalog.jsonb_each(p_queries) AS q(key, value)
            ON t.nodes ? zodan.lane_node(q.key)
         GROUP BY t.turn ORDER BY t.turn
    LOOP
        v_answers := v_answers || zodan.query_nodes(v_queries, p_lanes);
    END LOOP;
    RETURN v_answers;
END
$zodan$;
COMMENT ON FUNCTION zodan.query_readers IS
'Runs the queries of the sessions that read, p_queries by lane, as zodan.query_nodes does, turn after turn as
zodan.list_turns returns them.';
REVOKE ALL ON FUNCTION zodan.query_readers FROM PUBLIC;

CREATE FUNCTION zodan.run_tasks(p_state jsonb, p_tasks jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Runs tasks of a comparison side by side, p_tasks by the number of their lane, each on its node or on all nodes,
and returns the state with what they found and what to do next. A task whose session was lost is done again; a
table that a node cannot read is given up. */
DECLARE
    v_state jsonb := p_state;
    v_answers jsonb;
    v_failure jsonb;
    v_number text;
    v_task jsonb;
BEGIN
    v_answers := zodan.query_readers((
        SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, t.key::int), zodan.write_task(t.value, p_state -> 'open', n.name))
          FROM pg_catalog.jsonb_each(p_tasks) AS t(key, value)
         CROSS JOIN LATERAL pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
         WHERE coalesce(t.value ->> 'node', n.name) = n.name), p_state -> 'turns', p_lanes);
    FOR v_number, v_task IN SELECT t.key, t.value FROM pg_catalog.jsonb_each(p_tasks) AS t(key, value) ORDER BY t.key::int LOOP
        SELECT v_task || pg_catalog.jsonb_build_object('answers', pg_catalog.jsonb_object_agg(n.name,
                   v_answers -> zodan.lane_name(n.name, v_number::int))) INTO v_task
          FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
         WHERE v_answers ? zodan.lane_name(n.name, v_number::int);
        v_failure := zodan.find_failure(v_task -> 'answers');
        IF v_failure IS NULL THEN
            v_state := CASE v_task ->> 'kind' WHEN 'hash' THEN zodan.take_hashes(v_state, v_task)
                WHEN 'cut' THEN zodan.take_bounds(v_state, v_task) ELSE zodan.take_rows(v_state, v_task) END;
        ELSIF (v_failure ->> 'lost')::boolean THEN
            v_state := v_state || pg_catalog.jsonb_build_object('lost', v_failure,
                'tasks', (v_task - 'answers') || (v_state -> 'tasks'));
        ELSIF pg_catalog.jsonb_array_length(v_task -> 'pieces') > 1 THEN
            -- Which of the tables it is shows when each is hashed by itself.
            v_state['tasks'] := v_state -> 'tasks' || (
                SELECT pg_catalog.jsonb_agg((v_task - 'answers') || pg_catalog.jsonb_build_object('pieces',
                    pg_catalog.jsonb_build_array(p.item)))
                  FROM pg_catalog.jsonb_array_elements(v_task -> 'pieces') AS p(item));
        ELSE
            v_state := zodan.give_up_table(v_state, coalesce(v_task ->> 'table', v_task #>> '{pieces,0,table}'),
                pg_catalog.format('node %s: %s', v_failure ->> 'node', v_failure ->> 'message'));
        END IF;
    END LOOP;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.run_tasks IS
'Runs tasks of a comparison side by side, p_tasks by the number of their lane, each on its node or on all nodes,
and returns the state with what they found and what to do next. A task whose session was lost is done again; a
table that a node cannot read is given up.';
REVOKE ALL ON FUNCTION zodan.run_tasks FROM PUBLIC;

CREATE FUNCTION zodan.add_up(p_sums jsonb, p_answers jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH answers AS MATERIALIZED (
    SELECT zodan.lane_node(a.key) AS node, a.value -> 'value' AS item
      FROM pg_catalog.jsonb_each(p_answers) AS a(key, value))
SELECT coalesce(pg_catalog.jsonb_object_agg(n.node, CASE WHEN n.tallies THEN (
           SELECT coalesce(pg_catalog.jsonb_object_agg(t.part, pg_catalog.jsonb_build_array(t.rows, t.total)), '{}')
             FROM (SELECT p.key AS part, pg_catalog.sum((p.value ->> 0)::bigint) AS rows, pg_catalog.sum((p.value ->> 1)::numeric) AS total
                     FROM (SELECT e.key, e.value FROM pg_catalog.jsonb_each(p_sums -> n.node) AS e(key, value)
                           UNION ALL
                           SELECT e.key, e.value FROM answers AS a
                            CROSS JOIN LATERAL pg_catalog.jsonb_each(a.item -> 'parts') AS e(key, value)
                            WHERE a.node = n.node) AS p
                    GROUP BY p.key) AS t)
       ELSE coalesce(p_sums -> n.node, '[]') || coalesce((SELECT pg_catalog.jsonb_agg(r.item) FROM answers AS a
           CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(a.item -> 'rows') AS r(item) WHERE a.node = n.node), '[]') END), '{}')
  FROM (SELECT a.node, pg_catalog.bool_or(a.item ? 'parts') AS tallies FROM answers AS a GROUP BY a.node) AS n
$zodan$;
COMMENT ON FUNCTION zodan.add_up IS
'Adds what lanes returned for blocks of a table to what others returned before: an object of node, and of part, rows
and the sum of their hashes; or an object of node and an array of rows.';
REVOKE ALL ON FUNCTION zodan.add_up FROM PUBLIC;

CREATE FUNCTION zodan.scan_blocks(p_item jsonb, p_state jsonb, p_lanes jsonb, p_mask text, p_condition text)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Reads a table without a key on all nodes, some blocks at a time with every session, and never under an old snapshot.
With p_mask it adds up the hashes of its rows in parts; else it reads the rows that meet p_condition. Returns an object
of node and what zodan.tally_blocks or zodan.read_rows returned, added up; or failure, as zodan.find_failure returns
it. */
DECLARE
    v_jobs int := (p_state ->> 'jobs')::int;
    v_step bigint := 500;
    v_next bigint := 0;
    v_sums jsonb := '{}'::jsonb;
    v_answers jsonb;
    v_failure jsonb;
    v_last bigint;
BEGIN
    LOOP
        SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, l.number), CASE WHEN p_mask IS NULL THEN
                   zodan.read_rows(p_key => pg_catalog.format('pg_catalog.jsonb_build_array((%s)::pg_catalog.text)',
                           p_item ->> 'digest'), p_digest => p_item ->> 'digest',
                       p_shown => zodan.write_shown(p_item -> 'columns', (p_item ->> 'whole')::boolean),
                       p_source => zodan.write_source(i.item),
                       p_condition => c.condition || ' AND ' || p_condition, p_most => '2000000')
                   ELSE zodan.tally_blocks(p_mask => p_mask, p_digest => p_item ->> 'digest',
                       p_source => zodan.write_source(i.item), p_condition => c.condition) END)
          INTO v_answers
          FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
         CROSS JOIN LATERAL (SELECT p_item #> ARRAY['nodes', n.name] AS item) AS i
         CROSS JOIN pg_catalog.generate_series(1, v_jobs) AS l(number)
         CROSS JOIN LATERAL (SELECT pg_catalog.concat('(' || (i.item ->> 'filter') || ') AND ', pg_catalog.format(
             't.ctid >= ''(%s,0)''::pg_catalog.tid', v_next + v_step * (l.number - 1)),
             -- The last one reads on to the end, whatever has been added since.
             CASE WHEN l.number < v_jobs OR v_last IS NULL OR v_next + v_step * v_jobs < v_last THEN
                 pg_catalog.format(' AND t.ctid < ''(%s,0)''::pg_catalog.tid', v_next + v_step * l.number) END) AS condition) AS c
         WHERE v_last IS NOT NULL;
        v_answers := zodan.query_readers(CASE WHEN v_last IS NULL THEN (
            SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 1), zodan.measure_blocks(
                       p_schema => p_item #>> ARRAY['nodes', n.name, 'schema'], p_table => p_item #>> ARRAY['nodes', n.name, 'table']))
              FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)) ELSE v_answers END,
            p_state -> 'turns', p_lanes);
        SELECT zodan.find_failure(pg_catalog.jsonb_object_agg(n.name, a.value)) INTO v_failure
          FROM pg_catalog.jsonb_each(v_answers) AS a(key, value)
         CROSS JOIN LATERAL (SELECT zodan.lane_node(a.key) AS name) AS n
         WHERE NOT (a.value ->> 'ok')::boolean;
        IF v_failure IS NOT NULL THEN
            RETURN pg_catalog.jsonb_build_object('failure', v_failure);
        ELSIF v_last IS NULL THEN
            SELECT coalesce(pg_catalog.max((a.value #>> '{value,blocks}')::bigint), 0) INTO v_last
              FROM pg_catalog.jsonb_each(v_answers) AS a(key, value);
            CONTINUE;
        END IF;
        v_sums := zodan.add_up(v_sums, v_answers);
        EXIT WHEN v_next + v_step * v_jobs >= v_last;
        v_next := v_next + v_step * v_jobs;
        v_step := (SELECT greatest(1, v_step * least(4, greatest(0.25, 1.0
                              / greatest(0.001, pg_catalog.max((a.value #>> '{value,took}')::numeric)))))
                     FROM pg_catalog.jsonb_each(v_answers) AS a(key, value));
    END LOOP;
    RETURN v_sums;
END
$zodan$;
COMMENT ON FUNCTION zodan.scan_blocks IS
'Reads a table without a key on all nodes, some blocks at a time with every session, and never under an old snapshot.
With p_mask it adds up the hashes of its rows in parts; else it reads the rows that meet p_condition. Returns an object
of node and what zodan.tally_blocks or zodan.read_rows returned, added up; or failure, as zodan.find_failure returns
it.';
REVOKE ALL ON FUNCTION zodan.scan_blocks FROM PUBLIC;

CREATE FUNCTION zodan.group_rows(p_rows jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT coalesce(pg_catalog.jsonb_object_agg(h.hash, h.seen), '{}')
  FROM (SELECT g.hash, pg_catalog.jsonb_object_agg(g.node, g.item) AS seen
          FROM (SELECT r.item ->> 'hash' AS hash, n.key AS node, (pg_catalog.array_agg(r.item))[1] || pg_catalog.jsonb_build_object(
                           'hash', pg_catalog.format('%s rows', pg_catalog.count(*)), 'rows', pg_catalog.count(*),
                           'version', pg_catalog.md5(pg_catalog.string_agg(r.item ->> 'version', ' '
                               ORDER BY r.item ->> 'version'))) AS item
                  FROM pg_catalog.jsonb_each(p_rows) AS n(key, value)
                 CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(n.value) AS r(item)
                 GROUP BY r.item ->> 'hash', n.key) AS g
         GROUP BY g.hash) AS h
$zodan$;
COMMENT ON FUNCTION zodan.group_rows IS
'Groups rows of a table without a key, which zodan.scan_blocks read, by their hash: an object of hash, and of node,
and what a suspect''s seen holds. Nodes agree where they have as many rows of a hash; nothing has changed on a node
where they are the same versions.';
REVOKE ALL ON FUNCTION zodan.group_rows FROM PUBLIC;

CREATE FUNCTION zodan.compare_bag(p_state jsonb, p_table text, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Compares a table without a key: adds up the hashes of its rows on every node in parts, and reads the rows of the
parts that differ. Rows that are not on every node equally often are put under suspicion. Returns the state. */
DECLARE
    v_item jsonb := p_state #> ARRAY['open', p_table];
    v_mask text;
    v_found jsonb;
    v_parts text;
    v_seen jsonb;
    v_compared bigint;
BEGIN
    SELECT (pg_catalog.power(2, pg_catalog.floor(pg_catalog.log(2.0, greatest(64, least(16384,
        (v_item ->> 'rows')::bigint / 256))))) - 1)::bigint INTO v_mask;
    v_found := zodan.scan_blocks(v_item, p_state, p_lanes, v_mask, NULL);
    SELECT pg_catalog.max(n.rows) INTO v_compared
      FROM (SELECT pg_catalog.sum((e.value ->> 0)::bigint) AS rows FROM pg_catalog.jsonb_each(v_found) AS n(key, value)
             CROSS JOIN LATERAL pg_catalog.jsonb_each(n.value) AS e(key, value) WHERE NOT v_found ? 'failure' GROUP BY n.key) AS n;
    SELECT pg_catalog.string_agg(p.part, ', ') INTO v_parts
      FROM (SELECT e.key AS part FROM pg_catalog.jsonb_each(v_found) AS n(key, value)
             CROSS JOIN LATERAL pg_catalog.jsonb_each(n.value) AS e(key, value)
             WHERE NOT v_found ? 'failure'
             GROUP BY e.key
            HAVING pg_catalog.count(*) < pg_catalog.jsonb_array_length(p_state -> 'nodes') OR pg_catalog.count(DISTINCT e.value) > 1
             ORDER BY pg_catalog.max((e.value ->> 0)::bigint)
             LIMIT 1000) AS p;
    IF v_parts IS NOT NULL THEN
        v_found := zodan.scan_blocks(v_item, p_state, p_lanes, NULL, pg_catalog.format('((%s) & %s) IN (%s)', v_item ->> 'digest',
            v_mask, v_parts));
    END IF;
    IF v_found ? 'failure' THEN
        IF (v_found #>> '{failure,lost}')::boolean THEN
            RETURN p_state || pg_catalog.jsonb_build_object('lost', v_found -> 'failure', 'tasks', pg_catalog.jsonb_build_array(
                pg_catalog.jsonb_build_object('kind', 'scan', 'table', p_table)) || (p_state -> 'tasks'));
        END IF;
        RETURN zodan.give_up_table(p_state, p_table, pg_catalog.format('node %s: %s', v_found #>> '{failure,node}',
            v_found #>> '{failure,message}'));
    END IF;
    IF v_parts IS NOT NULL THEN
        SELECT pg_catalog.jsonb_agg(pg_catalog.jsonb_build_object('table', p_table, 'key', pg_catalog.jsonb_build_array(s.key),
                   'seen', s.value, 'stable', 0)) INTO v_seen
          FROM (SELECT s.key, s.value FROM pg_catalog.jsonb_each(zodan.group_rows(v_found)) AS s(key, value)
                 WHERE NOT zodan.is_equal(s.value, p_state -> 'nodes') LIMIT 1000) AS s;
    END IF;
    RETURN p_state || pg_catalog.jsonb_build_object('suspects', (p_state -> 'suspects') || coalesce(v_seen, '[]'),
        'open', (p_state -> 'open') || pg_catalog.jsonb_build_object(p_table, v_item
            || pg_catalog.jsonb_build_object('compared', coalesce(v_compared, 0),
                -- More than that at once: what is left is looked for again when these are decided.
                'partial', coalesce(pg_catalog.jsonb_array_length(v_seen), 0) >= 1000
                    OR pg_catalog.array_length(pg_catalog.string_to_array(v_parts, ', '), 1) >= 1000,
                'scans', coalesce((v_item ->> 'scans')::int, 0) + 1)));
END
$zodan$;
COMMENT ON FUNCTION zodan.compare_bag IS
'Compares a table without a key: adds up the hashes of its rows on every node in parts, and reads the rows of the
parts that differ. Rows that are not on every node equally often are put under suspicion. Returns the state.';
REVOKE ALL ON FUNCTION zodan.compare_bag FROM PUBLIC;

CREATE FUNCTION zodan.read_keys(p_item jsonb, p_keys jsonb, p_nodes jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Reads the rows of a table with these keys on every node, all at once: an object of key, as text, and of node, and
the row. Returns failure instead if it fails, as zodan.find_failure returns it. */
DECLARE
    v_answers jsonb;
    v_failure jsonb;
BEGIN
    v_answers := zodan.query_nodes((
        SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 1), zodan.read_rows(
                   p_key => zodan.write_key(i.item -> 'key'), p_digest => p_item ->> 'digest',
                   p_shown => zodan.write_shown(p_item -> 'columns', (p_item ->> 'whole')::boolean),
                   p_source => zodan.write_source(i.item),
                   p_condition => coalesce('(' || (i.item ->> 'filter') || ') AND ', '')
                       || zodan.write_keys(i.item -> 'key', p_keys),
                   p_most => '2000000'))
          FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)
         CROSS JOIN LATERAL (SELECT p_item #> ARRAY['nodes', n.name] AS item) AS i), p_lanes);
    SELECT pg_catalog.jsonb_object_agg(n.name, v_answers -> zodan.lane_name(n.name, 1)) INTO v_answers
      FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name);
    v_failure := zodan.find_failure(v_answers);
    IF v_failure IS NOT NULL THEN
        RETURN pg_catalog.jsonb_build_object('failure', v_failure);
    END IF;
    RETURN (SELECT coalesce(pg_catalog.jsonb_object_agg(r.key, r.seen), '{}')
              FROM (SELECT (r.item -> 'key')::text AS key, pg_catalog.jsonb_object_agg(a.key, r.item - 'key') AS seen
                      FROM pg_catalog.jsonb_each(v_answers) AS a(key, value)
                     CROSS JOIN LATERAL pg_catalog.jsonb_array_elements(a.value #> '{value,rows}') AS r(item)
                     GROUP BY 1) AS r);
END
$zodan$;
COMMENT ON FUNCTION zodan.read_keys IS
'Reads the rows of a table with these keys on every node, all at once: an object of key, as text, and of node, and
the row. Returns failure instead if it fails, as zodan.find_failure returns it.';
REVOKE ALL ON FUNCTION zodan.read_keys FROM PUBLIC;

CREATE FUNCTION zodan.look_at_suspects(p_suspects jsonb, p_state jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Reads the rows under suspicion again on every node, and returns the suspects with what each node has now. Those of a
table that a node cannot read have failed, which says why; if a session was lost, returns failure. */
DECLARE
    v_suspects jsonb := '[]'::jsonb;
    v_item jsonb;
    v_keys jsonb;
    v_found jsonb;
    v_failure jsonb;
BEGIN
    FOR v_item, v_keys IN
        SELECT p_state #> ARRAY['open', s.item ->> 'table'], pg_catalog.jsonb_agg(s.item -> 'key')
          FROM pg_catalog.jsonb_array_elements(p_suspects) AS s(item) GROUP BY s.item ->> 'table'
    LOOP
        IF (v_item ->> 'keyed')::boolean THEN
            v_found := zodan.read_keys(v_item, v_keys, p_state -> 'nodes', p_lanes);
        ELSE
            v_found := zodan.scan_blocks(v_item, p_state, p_lanes, NULL, pg_catalog.format('(%s) IN (%s)', v_item ->> 'digest',
                (SELECT pg_catalog.string_agg(zodan.quote_text(k.key ->> 0) || '::bigint', ', ')
                   FROM pg_catalog.jsonb_array_elements(v_keys) AS k(key))));
            v_found := CASE WHEN v_found ? 'failure' THEN v_found ELSE zodan.group_rows(v_found) END;
        END IF;
        v_failure := v_found -> 'failure';
        IF (v_failure ->> 'lost')::boolean THEN
            RETURN v_found;
        END IF;
        v_suspects := v_suspects || (
            SELECT pg_catalog.jsonb_agg(s.item || CASE WHEN v_failure IS NULL THEN pg_catalog.jsonb_build_object('now',
                       coalesce(v_found -> CASE WHEN (v_item ->> 'keyed')::boolean THEN (s.item -> 'key')::text
                           ELSE s.item #>> '{key,0}' END, '{}'))
                   ELSE pg_catalog.jsonb_build_object('failed', pg_catalog.format('node %s: %s', v_failure ->> 'node',
                       v_failure ->> 'message')) END)
              FROM pg_catalog.jsonb_array_elements(p_suspects) AS s(item) WHERE s.item ->> 'table' = v_item ->> 'name');
    END LOOP;
    RETURN pg_catalog.jsonb_build_object('suspects', v_suspects);
END
$zodan$;
COMMENT ON FUNCTION zodan.look_at_suspects IS
'Reads the rows under suspicion again on every node, and returns the suspects with what each node has now. Those of a
table that a node cannot read have failed, which says why; if a session was lost, returns failure.';
REVOKE ALL ON FUNCTION zodan.look_at_suspects FROM PUBLIC;

CREATE FUNCTION zodan.judge_looks(p_suspects jsonb, p_nodes jsonb, p_round int)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object(
    'judged', coalesce(pg_catalog.jsonb_agg((j.item - '{now,stable}'::text[]) || pg_catalog.jsonb_build_object('seen',
        coalesce(j.item -> 'now', j.item -> 'seen'), 'verdict', j.verdict, 'failed', coalesce(j.item ->> 'failed',
            CASE WHEN j.verdict = 'undecided' THEN pg_catalog.format('the row kept changing across %s marks', p_round) END)))
        FILTER (WHERE j.verdict IS NOT NULL), '[]'),
    'left', coalesce(pg_catalog.jsonb_agg((j.item - 'now') || pg_catalog.jsonb_build_object('seen', j.item -> 'now',
        'stable', j.stable)) FILTER (WHERE j.verdict IS NULL), '[]'))
  FROM (SELECT s.item, t.stable, CASE WHEN s.item ? 'failed' THEN 'undecided'
                   WHEN zodan.is_equal(s.item -> 'now', p_nodes) THEN 'equal'
                   WHEN t.stable >= 2 THEN 'different'
                   WHEN p_round >= 6 THEN 'undecided' END AS verdict
          FROM pg_catalog.jsonb_array_elements(p_suspects) AS s(item)
         CROSS JOIN LATERAL (SELECT CASE WHEN p_round > 0 AND (
             SELECT pg_catalog.bool_and(s.item #>> ARRAY['now', n.name, 'version'] IS NOT DISTINCT FROM
                        s.item #>> ARRAY['seen', n.name, 'version'])
               FROM pg_catalog.jsonb_array_elements_text(p_nodes) AS n(name)) THEN (s.item ->> 'stable')::int + 1 ELSE 0 END
             AS stable) AS t) AS j
$zodan$;
COMMENT ON FUNCTION zodan.judge_looks IS
'Judges rows under suspicion by what every node had before the last mark, seen, and has now. Returns an object:
judged, those that are equal, different (proven) or undecided, with the verdict and why; left, those to be read
again.';
REVOKE ALL ON FUNCTION zodan.judge_looks FROM PUBLIC;

CREATE FUNCTION zodan.close_trial(p_state jsonb, p_judged jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes rows that are judged out of the trial, and counts them: different and undecided ones are kept with their rows.
A table with as many of them as are wanted is compared no further. */
DECLARE
    v_now numeric := extract(epoch FROM pg_catalog.clock_timestamp());
    v_state jsonb := p_state || pg_catalog.jsonb_build_object('trial', NULL, 'trial_due', v_now + 10
        * greatest(v_now - (p_state ->> 'trial_began')::numeric, 1));
    v_table text;
    v_different bigint;
    v_undecided bigint;
BEGIN
    v_state['found'] := v_state -> 'found' || coalesce((SELECT pg_catalog.jsonb_agg(j.item
            || pg_catalog.jsonb_build_object('verdict', coalesce(j.item ->> 'verdict', 'undecided')))
        FROM pg_catalog.jsonb_array_elements(p_judged) AS j(item) WHERE j.item ->> 'verdict' IS DISTINCT FROM 'equal'), '[]');
    FOR v_table, v_different, v_undecided IN
        SELECT j.item ->> 'table', pg_catalog.count(*) FILTER (WHERE j.item ->> 'verdict' = 'different'),
               pg_catalog.count(*) FILTER (WHERE coalesce(j.item ->> 'verdict', 'undecided') = 'undecided')
          FROM pg_catalog.jsonb_array_elements(p_judged) AS j(item) GROUP BY 1
    LOOP
        v_different := v_different + (v_state #>> ARRAY['open', v_table, 'different'])::bigint;
        v_undecided := v_undecided + (v_state #>> ARRAY['open', v_table, 'undecided'])::bigint;
        v_state['open'][v_table] := (v_state #> ARRAY['open', v_table]) || pg_catalog.jsonb_build_object(
            'different', v_different, 'undecided', v_undecided);
        IF v_different + v_undecided >= (v_state ->> 'most')::bigint AND zodan.is_under_way(v_state, v_table) THEN
            v_state := zodan.give_up_table(v_state, v_table, pg_catalog.format('compared no further after %s rows',
                v_different + v_undecided));
        END IF;
    END LOOP;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.close_trial IS
'Takes rows that are judged out of the trial, and counts them: different and undecided ones are kept with their rows.
A table with as many of them as are wanted is compared no further.';
REVOKE ALL ON FUNCTION zodan.close_trial FROM PUBLIC;

CREATE FUNCTION zodan.await_marks(p_trial jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Checks for a moment whether every node has applied what the others had committed before their marks. Returns the
trial with passed, which is true, or says why that cannot be. */
DECLARE
    v_trial jsonb := p_trial;
    v_answers jsonb;
    v_positions text;
    v_trouble text;
    v_passed boolean;
    v_begun timestamptz := pg_catalog.clock_timestamp();
BEGIN
    LOOP
        v_answers := zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(m.node, 0), zodan.read_applied())
            FROM pg_catalog.jsonb_object_keys(p_trial -> 'marks') AS m(node)), p_lanes);
        SELECT pg_catalog.bool_and(coalesce((s.stream ->> 'position')::pg_lsn >= o.mark::pg_lsn, false)),
               pg_catalog.min(CASE WHEN NOT (a.answer ->> 'ok')::boolean THEN
                       pg_catalog.format('node %s: %s', m.node, a.answer ->> 'message')
                   WHEN s.stream IS NULL THEN pg_catalog.format('node %s has no subscription from node %s', m.node, o.node)
                   WHEN NOT (s.stream ->> 'enabled')::boolean THEN
                       pg_catalog.format('the subscription of node %s from node %s is disabled', m.node, o.node) END),
               pg_catalog.md5(pg_catalog.string_agg(s.stream ->> 'position', ' ' ORDER BY m.node, o.node))
          INTO v_passed, v_trouble, v_positions
          FROM pg_catalog.jsonb_object_keys(p_trial -> 'marks') AS m(node)
          JOIN pg_catalog.jsonb_each_text(p_trial -> 'marks') AS o(node, mark) ON o.node <> m.node
         CROSS JOIN LATERAL (SELECT v_answers -> zodan.lane_name(m.node, 0) AS answer) AS a
         CROSS JOIN LATERAL (SELECT a.answer #> ARRAY['value', 'streams', o.node] AS stream) AS s;
        IF v_passed THEN
            RETURN v_trial || '{"passed": "true"}';
        ELSIF v_trial ->> 'positions' IS DISTINCT FROM v_positions THEN
            v_trial := v_trial || pg_catalog.jsonb_build_object('positions', v_positions, 'since',
                extract(epoch FROM pg_catalog.clock_timestamp()));
        END IF;
        IF extract(epoch FROM pg_catalog.clock_timestamp() - zodan.read_patience()) > (v_trial ->> 'since')::numeric THEN
            v_trouble := pg_catalog.format('the marks have made no progress for %s', zodan.read_patience());
        END IF;
        IF v_trouble IS NOT NULL THEN
            RETURN v_trial || pg_catalog.jsonb_build_object('passed', v_trouble);
        END IF;
        EXIT WHEN pg_catalog.clock_timestamp() > v_begun + interval '1 s';
        PERFORM zodan.wait_a_moment(v_begun);
    END LOOP;
    RETURN v_trial;
END
$zodan$;
COMMENT ON FUNCTION zodan.await_marks IS
'Checks for a moment whether every node has applied what the others had committed before their marks. Returns the
trial with passed, which is true, or says why that cannot be.';
REVOKE ALL ON FUNCTION zodan.await_marks FROM PUBLIC;

CREATE FUNCTION zodan.judge_suspects(p_state jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes the trial of rows under suspicion one step on. Their rows are read on every node, a mark is put into every
node's stream, and when every other node has passed it they are read again: what was committed anywhere before the
first reading is then everywhere. Rows that are equal are cleared. Rows that differ and that no node has changed
across 2 marks are proven different: the second mark brings what a node may have done
between, such as deleting a row that had just come. What has changed is read across another mark, up to 6. */
DECLARE
    v_trial jsonb := nullif(p_state -> 'trial', 'null');
    v_state jsonb := p_state;
    v_looked jsonb;
    v_marks jsonb;
BEGIN
    IF v_trial IS NULL THEN
        SELECT pg_catalog.jsonb_build_object('round', 0, 'suspects', pg_catalog.jsonb_agg(s.item ORDER BY s.place)
                   FILTER (WHERE s.place <= 250)),
               v_state || pg_catalog.jsonb_build_object('trial_began', extract(epoch FROM pg_catalog.clock_timestamp()),
                   'suspects', coalesce(pg_catalog.jsonb_agg(s.item ORDER BY s.place)
                   FILTER (WHERE s.place > 250), '[]'))
          INTO v_trial, v_state
          FROM pg_catalog.jsonb_array_elements(p_state -> 'suspects') WITH ORDINALITY AS s(item, place);
    ELSIF v_trial ->> 'passed' IS NULL THEN
        RETURN v_state || pg_catalog.jsonb_build_object('trial', zodan.await_marks(v_trial, p_lanes));
    ELSIF v_trial ->> 'passed' <> 'true' THEN
        RETURN zodan.close_trial(v_state, (SELECT pg_catalog.jsonb_agg(s.item || pg_catalog.jsonb_build_object('failed',
            v_trial ->> 'passed')) FROM pg_catalog.jsonb_array_elements(v_trial -> 'suspects') AS s(item)));
    END IF;
    v_looked := zodan.look_at_suspects(v_trial -> 'suspects', v_state, p_lanes);
    IF v_looked ? 'failure' THEN
        RETURN v_state || pg_catalog.jsonb_build_object('lost', v_looked -> 'failure', 'trial', v_trial);
    END IF;
    v_looked := zodan.judge_looks(v_looked -> 'suspects', v_state -> 'nodes', (v_trial ->> 'round')::int);
    v_state := zodan.close_trial(v_state, v_looked -> 'judged');
    IF v_looked -> 'left' = '[]' THEN
        RETURN v_state;
    END IF;
    v_marks := zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 0), zodan.emit_sync_event())
        FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)), p_lanes);
    RETURN v_state || pg_catalog.jsonb_build_object('trial', pg_catalog.jsonb_build_object('suspects', v_looked -> 'left',
        'round', (v_trial ->> 'round')::int + 1, 'since', extract(epoch FROM pg_catalog.clock_timestamp()), 'passed', (
            SELECT pg_catalog.min(pg_catalog.format('no mark could be set on node %s: %s', n.name, m.answer ->> 'message'))
              FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
             CROSS JOIN LATERAL (SELECT v_marks -> zodan.lane_name(n.name, 0) AS answer) AS m
             WHERE NOT (m.answer ->> 'ok')::boolean), 'marks', (
            SELECT pg_catalog.jsonb_object_agg(n.name, v_marks #> ARRAY[zodan.lane_name(n.name, 0), 'value', 'lsn'])
              FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name))));
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_suspects IS
'Takes the trial of rows under suspicion one step on. Their rows are read on every node, a mark is put into every
node''s stream, and when every other node has passed it they are read again: what was committed anywhere before the
first reading is then everywhere. Rows that are equal are cleared. Rows that differ and that no node has changed
across 2 marks are proven different: the second mark brings what a node may have done
between, such as deleting a row that had just come. What has changed is read across another mark, up to 6.';
REVOKE ALL ON FUNCTION zodan.judge_suspects FROM PUBLIC;

CREATE FUNCTION zodan.is_trial_due(p_state jsonb)
RETURNS boolean
LANGUAGE sql STABLE
AS $zodan$
SELECT p_state -> 'suspects' <> '[]' AND (p_state -> 'tasks' = '[]'
    OR pg_catalog.jsonb_array_length(p_state -> 'suspects') >= 1000
    OR extract(epoch FROM pg_catalog.clock_timestamp()) > coalesce((p_state ->> 'trial_due')::numeric, 0) AND EXISTS (
        SELECT FROM pg_catalog.jsonb_array_elements(p_state -> 'suspects') AS s(item)
         WHERE NOT pg_catalog.jsonb_path_exists(p_state -> 'tasks', '$[*] ? (@.table == $name || @.pieces[*].table == $name)',
             pg_catalog.jsonb_build_object('name', s.item ->> 'table'))))
$zodan$;
COMMENT ON FUNCTION zodan.is_trial_due IS
'Returns whether rows under suspicion are to be judged now: nothing else is left to do, or there are many, or a table is
done but for them. Such a table does not wait for the end, because a comparison that is interrupted loses what is not
finished; but no other row is compared meanwhile, so a trial is followed by a time without one.';
REVOKE ALL ON FUNCTION zodan.is_trial_due FROM PUBLIC;

CREATE FUNCTION zodan.settle_tables(p_state jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Moves the tables of a comparison for which nothing is left to do to those that are done. A table without a key in
which too much was under suspicion at once is read again, a bounded number of times. */
DECLARE
    v_state jsonb := p_state;
    v_table text;
    v_item jsonb;
BEGIN
    FOR v_table, v_item IN SELECT o.key, o.value FROM pg_catalog.jsonb_each(p_state -> 'open') AS o(key, value)
                            WHERE NOT zodan.is_under_way(p_state, o.key) LOOP
        IF (v_item ->> 'partial')::boolean AND v_item ->> 'why' IS NULL THEN
            IF (v_item ->> 'scans')::int < 6 THEN
                v_state['tasks'] := v_state -> 'tasks' || pg_catalog.jsonb_build_object('kind', 'scan', 'table', v_table);
                CONTINUE;
            END IF;
            v_item := v_item || '{"why": "too many rows changed while it was read"}';
        END IF;
        v_state['done'] := v_state -> 'done' || (pg_catalog.jsonb_build_object('name', v_table, 'compared', v_item -> 'compared',
            'item', CASE WHEN (v_item ->> 'different')::bigint > 0 THEN v_item END,
            'different', v_item -> 'different', 'undecided', v_item -> 'undecided', 'why', v_item -> 'why', 'key',
            CASE WHEN (v_item ->> 'keyed')::boolean THEN pg_catalog.jsonb_path_query_array(
                v_item #> ARRAY['nodes', p_state #>> '{nodes,0}'], '$.key[*].name') ELSE '[]' END,
            'seconds', extract(epoch FROM pg_catalog.clock_timestamp()) - (v_item ->> 'began')::numeric));
        v_state['open'] := (v_state -> 'open') - v_table;
    END LOOP;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.settle_tables IS
'Moves the tables of a comparison for which nothing is left to do to those that are done. A table without a key in
which too much was under suspicion at once is read again, a bounded number of times.';
REVOKE ALL ON FUNCTION zodan.settle_tables FROM PUBLIC;

CREATE FUNCTION zodan.judge_lag(p_state jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Decides, every 1 s, whether a comparison has to pause because a peer lags behind one of its
nodes by more than max_lag. Returns the state with paused, what it waits for, NULL if it may go on. Reports that it pauses,
and that it goes on. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_answers jsonb;
    v_loads jsonb;
    v_failure jsonb;
    v_paused text;
    v_by text;
BEGIN
    IF p_state ->> 'max_lag' IS NULL OR v_now < (p_state ->> 'load_due')::timestamptz THEN
        RETURN p_state;
    END IF;
    v_answers := zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 0),
            zodan.read_load(p_subscription => 'zodan verify', p_slot => ''))
        FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)), p_lanes);
    SELECT pg_catalog.jsonb_object_agg(n.name, CASE WHEN (a.item ->> 'ok')::boolean THEN
               -- It holds no WAL, and empties no slot by pausing.
               zodan.find_pause(l.item, (a.item -> 'value') - 'slots', (p_state ->> 'max_lag')::interval, n.name, v_now)
               ELSE l.item END),
           zodan.find_failure(pg_catalog.jsonb_object_agg(n.name, a.item)) INTO v_loads, v_failure
      FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
     CROSS JOIN LATERAL (SELECT v_answers -> zodan.lane_name(n.name, 0) AS item) AS a
     CROSS JOIN LATERAL (SELECT coalesce(p_state #> ARRAY['loads', n.name], '{}') AS item) AS l;
    SELECT l.value ->> 'paused', pg_catalog.concat_ws(' ', l.key, l.value ->> 'by') INTO v_paused, v_by
      FROM pg_catalog.jsonb_each(v_loads) AS l(key, value) WHERE l.value ->> 'paused' IS NOT NULL ORDER BY l.key LIMIT 1;
    IF v_by IS DISTINCT FROM p_state ->> 'paused_by' THEN
        RAISE NOTICE '%', coalesce('the comparison pauses, waiting for ' || v_paused, 'the comparison goes on');
    END IF;
    RETURN p_state || pg_catalog.jsonb_build_object('loads', v_loads, 'paused', v_paused, 'paused_by', v_by,
            'load_due', v_now + interval '1 s')
        || CASE WHEN (v_failure ->> 'lost')::boolean THEN pg_catalog.jsonb_build_object('lost', v_failure) ELSE '{}' END;
END
$zodan$;
COMMENT ON FUNCTION zodan.judge_lag IS
'Decides, every 1 s, whether a comparison has to pause because a peer lags behind one of its
nodes by more than max_lag. Returns the state with paused, what it waits for, NULL if it may go on. Reports that it pauses,
and that it goes on.';
REVOKE ALL ON FUNCTION zodan.judge_lag FROM PUBLIC;

CREATE FUNCTION zodan.compare_rows(p_state jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes a comparison on for about a second, or, if each result is kept, until a table is done, and returns its state:
with finished when there is nothing left to do, and with failure, what a caller sees (sqlstate ZD101, message, detail,
hint), if a node could not be reached for as long as zodan.sync_timeout allows. The state holds no secret and no
session: any session may go on with it. */
DECLARE
    v_state jsonb := p_state - 'lost';
    v_begun timestamptz := pg_catalog.clock_timestamp();
    v_lanes jsonb;
    v_tasks jsonb;
    v_scan text;
BEGIN
    v_lanes := zodan.open_lanes(v_state -> 'nodes', (v_state ->> 'jobs')::int, p_dsns);
    IF v_lanes ? 'failure' THEN
        v_state := v_state || pg_catalog.jsonb_build_object('lost', v_lanes -> 'failure');
    END IF;
    WHILE NOT v_state ? 'lost' AND pg_catalog.clock_timestamp() < v_begun + interval '1 s'
          AND NOT (v_state ? 'kept'
              AND pg_catalog.jsonb_array_length(v_state -> 'done') > pg_catalog.jsonb_array_length(p_state -> 'done')) LOOP
        v_state := zodan.judge_lag(v_state, v_lanes);
        EXIT WHEN v_state ? 'lost';
        IF v_state ->> 'paused' IS NULL THEN
            v_state := zodan.begin_tables(v_state);
        END IF;
        IF v_state ->> 'trial' IS NOT NULL OR zodan.is_trial_due(v_state) THEN
            v_state := zodan.judge_suspects(v_state, v_lanes);
        ELSIF v_state ->> 'paused' IS NOT NULL THEN
            PERFORM zodan.wait_a_moment(v_begun);
        ELSIF v_state -> 'tasks' <> '[]' THEN
            SELECT * INTO v_state, v_tasks FROM zodan.choose_tasks(v_state);
            IF v_tasks <> '{}' THEN
                v_state := zodan.run_tasks(v_state, v_tasks, v_lanes);
            ELSE
                v_scan := v_state #>> '{tasks,0,table}';
                v_state := zodan.compare_bag(v_state #- '{tasks,0}', v_scan, v_lanes);
            END IF;
        END IF;
        v_state := zodan.settle_tables(v_state);
        EXIT WHEN v_state -> 'open' = '{}' AND v_state -> 'tables' = '[]';
    END LOOP;
    IF NOT v_state ? 'lost' THEN
        RETURN v_state || pg_catalog.jsonb_build_object('lost_since', NULL,
            'finished', v_state -> 'open' = '{}' AND v_state -> 'tables' = '[]');
    END IF;
    PERFORM zodan.close_readers(v_state -> 'nodes', (v_state ->> 'jobs')::int);
    v_state := v_state || pg_catalog.jsonb_build_object('lost_since', coalesce((v_state ->> 'lost_since')::numeric,
        extract(epoch FROM v_begun)), 'finished', false);
    IF extract(epoch FROM pg_catalog.clock_timestamp() - zodan.read_patience()) > (v_state ->> 'lost_since')::numeric THEN
        RETURN v_state || pg_catalog.jsonb_build_object('failure', zodan.describe_lost(v_state -> 'lost'));
    END IF;
    PERFORM pg_catalog.pg_sleep(1);
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.compare_rows IS
'Takes a comparison on for about a second, or, if each result is kept, until a table is done, and returns its state:
with finished when there is nothing left to do, and with failure, what a caller sees (sqlstate ZD101, message, detail,
hint), if a node could not be reached for as long as zodan.sync_timeout allows. The state holds no secret and no
session: any session may go on with it.';
REVOKE ALL ON FUNCTION zodan.compare_rows FROM PUBLIC;

CREATE FUNCTION zodan.advance_verify(p_state jsonb, p_dsns jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Takes a comparison on, as zodan.compare_rows does, and returns its state. Errors: ZD101 a node cannot be reached for
as long as zodan.sync_timeout allows. */
DECLARE
    v_state jsonb := zodan.compare_rows(p_state, p_dsns);
BEGIN
    IF v_state ? 'failure' THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = v_state #>> '{failure,sqlstate}',
            MESSAGE = v_state #>> '{failure,message}',
            DETAIL = v_state #>> '{failure,detail}',
            HINT = v_state #>> '{failure,hint}';
    END IF;
    RETURN v_state;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_verify IS
'Takes a comparison on, as zodan.compare_rows does, and returns its state. Errors: ZD101 a node cannot be reached for
as long as zodan.sync_timeout allows.';
REVOKE ALL ON FUNCTION zodan.advance_verify FROM PUBLIC;

CREATE FUNCTION zodan.write_repair(
    p_item jsonb,
    p_node text,
    p_key jsonb,
    p_wanted jsonb,
    p_there jsonb,
    OUT p_action text,
    OUT p_condition text,
    OUT p_write text,
    OUT p_rows bigint,
    OUT p_source text,
    OUT p_sets text,
    OUT p_same text
)
LANGUAGE plpgsql IMMUTABLE
AS $zodan$
/* Writes what makes a row of a node as another node has it. p_item describes the table, p_node names the node, p_key is
the row's key; p_wanted is the row as the other node has it, p_there as this one has it, each with hash, version, shown
(all columns, whole) and, without a key, rows; NULL where it is missing. Returns p_action, insert, update or delete;
p_condition; p_write, the statement; and p_rows, how many it writes. Also p_source, the table, p_same, which rows are
written, and p_sets, what an update sets: these say all if p_write is NULL. An update that changes a column which only an
INSERT can write (GENERATED ALWAYS AS IDENTITY) deletes the row and inserts it again. */
DECLARE
    v_table jsonb := p_item #> ARRAY['nodes', p_node];
    v_names text;
    v_texts text;
    v_insert text;
    v_wanted bigint := CASE WHEN p_wanted IS NULL THEN 0 ELSE coalesce((p_wanted ->> 'rows')::bigint, 1) END;
    v_is_fixed boolean := EXISTS (SELECT FROM pg_catalog.jsonb_array_elements_text(v_table -> 'fixed') AS f(name)
        WHERE p_wanted -> 'shown' ->> f.name IS DISTINCT FROM p_there -> 'shown' ->> f.name);
    v_there bigint := CASE WHEN p_there IS NULL THEN 0 ELSE coalesce((p_there ->> 'rows')::bigint, 1) END;
BEGIN
    SELECT pg_catalog.string_agg(zodan.quote_name(c.item ->> 'name'), ', ' ORDER BY c.place),
           pg_catalog.string_agg(zodan.quote_text(p_wanted -> 'shown' ->> (c.item ->> 'name')), ', ' ORDER BY c.place)
      INTO v_names, v_texts
      FROM pg_catalog.jsonb_array_elements(p_item -> 'columns') WITH ORDINALITY AS c(item, place)
     WHERE NOT v_table -> 'generated' ? (c.item ->> 'name');
    p_source := zodan.write_source(v_table);
    p_rows := pg_catalog.abs(v_wanted - v_there);
    p_action := CASE WHEN v_wanted > v_there THEN 'insert' WHEN v_wanted < v_there THEN 'delete' ELSE 'update' END;
    p_condition := 'true';
    v_insert := pg_catalog.format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE', pg_catalog.substr(p_source, 6), v_names);
    IF NOT (p_item ->> 'keyed')::boolean THEN
        p_same := pg_catalog.concat('(' || (v_table ->> 'filter') || ') AND ', pg_catalog.format('(%s) = %s::bigint',
            p_item ->> 'digest', zodan.quote_text(p_key ->> 0)));
        p_condition := pg_catalog.format('(SELECT pg_catalog.count(*) FROM %s AS t WHERE %s) = %s', p_source, p_same, v_there);
        p_write := CASE p_action WHEN 'delete' THEN pg_catalog.format('DELETE FROM %1$s AS t WHERE t.ctid = ANY (ARRAY('
                'SELECT t.ctid FROM %1$s AS t WHERE %2$s LIMIT %3$s FOR UPDATE))', p_source, p_same, p_rows)
            ELSE pg_catalog.format('%s VALUES %s', v_insert, pg_catalog.rtrim(
                pg_catalog.repeat(pg_catalog.format('(%s), ', v_texts), p_rows::int), ', ')) END;
        RETURN;
    ELSIF p_action = 'insert' THEN
        -- If the key has come meanwhile, this fails.
        p_write := pg_catalog.format('%s VALUES (%s)', v_insert, v_texts);
        RETURN;
    END IF;
    p_same := pg_catalog.format('%s AND (%s) = %s::bigint AND t.xmin = %s::xid AND t.ctid = %s::tid',
        zodan.write_keys(v_table -> 'key', pg_catalog.jsonb_build_array(p_key)), p_item ->> 'digest',
        zodan.quote_text(p_there ->> 'hash'), zodan.quote_text(pg_catalog.split_part(p_there ->> 'version', ' ', 2)),
        zodan.quote_text(pg_catalog.split_part(p_there ->> 'version', ' ', 3)));
    IF p_action = 'delete' THEN
        p_write := pg_catalog.format('DELETE FROM %s AS t WHERE %s', p_source, p_same);
        RETURN;
    END IF;
    p_rows := 1;
    SELECT coalesce(pg_catalog.string_agg(pg_catalog.format('%s = %s', zodan.quote_name(c.item ->> 'name'),
                   zodan.quote_text(p_wanted -> 'shown' ->> (c.item ->> 'name'))), ', ' ORDER BY c.place) FILTER (WHERE NOT c.is_key),
               -- Only what is generated differs, and is computed again.
               pg_catalog.string_agg(pg_catalog.format('%1$s = t.%1$s', zodan.quote_name(c.item ->> 'name')), ', ')) INTO p_sets
      FROM (SELECT c.item, c.place, pg_catalog.jsonb_path_exists(v_table -> 'key', '$[*].name ? (@ == $name)', c.item) AS is_key
              FROM pg_catalog.jsonb_array_elements(p_item -> 'columns') WITH ORDINALITY AS c(item, place)) AS c
     WHERE NOT v_table -> 'generated' ? (c.item ->> 'name') AND (v_is_fixed OR NOT v_table -> 'fixed' ? (c.item ->> 'name'));
    IF v_is_fixed OR p_sets IS NULL THEN
        -- Columns that are not published stay as they are.
        SELECT pg_catalog.format('WITH old AS (DELETE FROM %s AS t WHERE %s RETURNING t.*) INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE '
                   'SELECT %s FROM old', p_source, p_same, pg_catalog.substr(p_source, 6),
                   pg_catalog.string_agg(zodan.quote_name(i.name), ', ' ORDER BY i.place),
                   pg_catalog.string_agg(CASE WHEN p_wanted -> 'shown' ? i.name THEN zodan.quote_text(p_wanted -> 'shown' ->> i.name)
                       ELSE 'old.' || zodan.quote_name(i.name) END, ', ' ORDER BY i.place)) INTO p_write
          FROM pg_catalog.jsonb_array_elements_text(v_table -> 'inserted') WITH ORDINALITY AS i(name, place);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.write_repair IS
'Writes what makes a row of a node as another node has it. p_item describes the table, p_node names the node, p_key is
the row''s key; p_wanted is the row as the other node has it, p_there as this one has it, each with hash, version, shown
(all columns, whole) and, without a key, rows; NULL where it is missing. Returns p_action, insert, update or delete;
p_condition; p_write, the statement; and p_rows, how many it writes. Also p_source, the table, p_same, which rows are
written, and p_sets, what an update sets: these say all if p_write is NULL. An update that changes a column which only an
INSERT can write (GENERATED ALWAYS AS IDENTITY) deletes the row and inserts it again.';
REVOKE ALL ON FUNCTION zodan.write_repair FROM PUBLIC;

CREATE FUNCTION zodan.read_whole(p_item jsonb, p_keys jsonb, p_state jsonb, p_lanes jsonb)
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Reads rows of a table on every node with all their columns, whole: those of p_keys, in a table without a key the hashes
of rows. Returns an object of key, as text, and of node, and the row; or failure, as zodan.find_failure returns it. */
DECLARE
    v_item jsonb := p_item || '{"whole": true}';
    v_found jsonb;
BEGIN
    IF (v_item ->> 'keyed')::boolean THEN
        RETURN zodan.read_keys(v_item, p_keys, p_state -> 'nodes', p_lanes);
    END IF;
    v_found := zodan.scan_blocks(v_item, p_state, p_lanes, NULL, pg_catalog.format('(%s) IN (%s)', v_item ->> 'digest',
        (SELECT pg_catalog.string_agg(zodan.quote_text(k.key ->> 0) || '::bigint', ', ')
           FROM pg_catalog.jsonb_array_elements(p_keys) AS k(key))));
    IF v_found ? 'failure' THEN
        RETURN v_found;
    END IF;
    RETURN (SELECT coalesce(pg_catalog.jsonb_object_agg(pg_catalog.jsonb_build_array(g.key)::text, g.value), '{}')
              FROM pg_catalog.jsonb_each(zodan.group_rows(v_found)) AS g(key, value));
END
$zodan$;
COMMENT ON FUNCTION zodan.read_whole IS
'Reads rows of a table on every node with all their columns, whole: those of p_keys, in a table without a key the hashes
of rows. Returns an object of key, as text, and of node, and the row; or failure, as zodan.find_failure returns it.';
REVOKE ALL ON FUNCTION zodan.read_whole FROM PUBLIC;

CREATE FUNCTION zodan.plan_repairs(p_state jsonb, p_like text, p_dsns jsonb)
RETURNS SETOF zodan.repair
LANGUAGE plpgsql
AS $zodan$
/* Returns what would make the other nodes of a finished comparison as p_like has the rows that are proven different: a
statement for each row and node, in no order. A row that has changed on p_like since has no statement, and outcome says
so. Changes nothing. Errors: ZD101, ZD200 a node cannot be read. */
DECLARE
    v_lanes jsonb := zodan.open_lanes(p_state -> 'nodes', 1, p_dsns);
    v_item jsonb;
    v_keys jsonb;
    v_places bigint[];
    v_found jsonb := v_lanes;
BEGIN
    FOR v_item, v_keys, v_places IN
        SELECT t.item -> 'item', pg_catalog.jsonb_agg(f.item -> 'key'), pg_catalog.array_agg(f.place)
          FROM pg_catalog.jsonb_array_elements(p_state -> 'done') AS t(item)
          JOIN LATERAL (SELECT f.item, f.place,
                               (pg_catalog.row_number() OVER (ORDER BY f.place) - 1) / 250 AS batch
                          FROM pg_catalog.jsonb_array_elements(p_state -> 'found') WITH ORDINALITY AS f(item, place)
                         WHERE f.item ->> 'table' = t.item ->> 'name' AND f.item ->> 'verdict' = 'different') AS f ON true
         GROUP BY t.item, f.batch
    LOOP
        EXIT WHEN v_found ? 'failure';
        v_found := zodan.read_whole(v_item, v_keys, p_state || '{"jobs": 1}', v_lanes);
        RETURN QUERY
            SELECT n.name, v_item ->> 'name', CASE WHEN (v_item ->> 'keyed')::boolean THEN (
                       SELECT pg_catalog.jsonb_object_agg(k.item ->> 'name', f.item -> 'key' -> (k.place - 1)::int)
                         FROM pg_catalog.jsonb_array_elements(v_item #> ARRAY['nodes', n.name, 'key']) WITH ORDINALITY AS k(item, place))
                       ELSE pg_catalog.jsonb_build_object('hash', f.item #> '{key,0}') END, w.p_action,
                   CASE WHEN s.same THEN zodan.repair_row(p_node => n.name, p_origin => CASE
                       WHEN p_state -> 'members' ? (l.row ->> 'origin') THEN l.row ->> 'origin' ELSE p_like END,
                       p_committed => coalesce(l.row ->> 'at', CASE WHEN w.p_action <> 'delete' THEN '1970-01-01 00:00:00+00' END),
                       p_check => w.p_condition, p_write => w.p_write, p_rows => w.p_rows::text,
                       p_source => w.p_source, p_sets => w.p_sets, p_same => w.p_same, p_place => f.place::text,
                       p_row => pg_catalog.concat(v_item ->> 'name', ' ', f.item -> 'key')) END,
                   CASE WHEN NOT s.same THEN pg_catalog.format('the row has changed on node %s', p_like) END, f.place::int
              FROM pg_catalog.jsonb_array_elements(p_state -> 'found') WITH ORDINALITY AS f(item, place)
             CROSS JOIN pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
             CROSS JOIN LATERAL (SELECT v_found #> ARRAY[(f.item -> 'key')::text, p_like] AS row) AS l
             CROSS JOIN LATERAL (SELECT l.row ->> 'version' IS NOT DISTINCT FROM f.item #>> ARRAY['seen', p_like, 'version']
                 AS same) AS s
             CROSS JOIN LATERAL zodan.write_repair(v_item, n.name, f.item -> 'key', l.row, f.item #> ARRAY['seen', n.name]) AS w
             WHERE f.place = ANY (v_places)
               AND f.item #>> ARRAY['seen', n.name, 'hash'] IS DISTINCT FROM f.item #>> ARRAY['seen', p_like, 'hash']
               AND NOT v_found ? 'failure';
    END LOOP;
    PERFORM zodan.close_readers(p_state -> 'nodes', 1);
    IF v_found ? 'failure' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD200',
            MESSAGE = pg_catalog.format('could not read rows of node "%s"', v_found #>> '{failure,node}'),
            DETAIL = v_found #>> '{failure,message}',
            HINT = 'Fix what DETAIL says, then call again.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_repairs IS
'Returns what would make the other nodes of a finished comparison as p_like has the rows that are proven different: a
statement for each row and node, in no order. A row that has changed on p_like since has no statement, and outcome says
so. Changes nothing. Errors: ZD101, ZD200 a node cannot be read.';
REVOKE ALL ON FUNCTION zodan.plan_repairs FROM PUBLIC;

CREATE FUNCTION zodan.apply_repairs(p_state jsonb, p_repairs jsonb, p_dsns jsonb, p_is_last boolean)
RETURNS SETOF zodan.repair
LANGUAGE plpgsql
AS $zodan$
/* Runs repairs that zodan.plan_repairs returned, p_repairs, an array of them, each in a transaction of its own, and returns
them with their outcome. A row is left alone if it is no longer what was proven different, or if writing it fails. A row
is put aside, and has no outcome, if another row has a unique value of it: call again with p_is_last, and with all these,
when all others are done. */
DECLARE
    v_repair zodan.repair;
    v_lanes jsonb;
    v_opened jsonb := '{}'::jsonb;
    v_aside jsonb := '{}'::jsonb;
    v_outcomes jsonb := '{}'::jsonb;
    v_answer jsonb;
    v_lane text;
BEGIN
    v_lanes := zodan.open_lanes(p_state -> 'nodes', 0, p_dsns);
    IF NOT v_lanes ? 'failure' THEN
        v_opened := zodan.query_nodes((SELECT pg_catalog.jsonb_object_agg(zodan.lane_name(n.name, 0), zodan.open_repair(
                p_node => n.name, p_origins => ARRAY(SELECT m.name
                    FROM pg_catalog.jsonb_array_elements_text(p_state -> 'members') AS m(name))))
            FROM (SELECT DISTINCT r.item ->> 'node' AS name FROM pg_catalog.jsonb_array_elements(p_repairs) AS r(item)) AS n), v_lanes);
    END IF;
    FOR v_repair IN SELECT r.* FROM pg_catalog.jsonb_populate_recordset(NULL::zodan.repair, p_repairs) AS r LOOP
        CONTINUE WHEN v_repair.statement IS NULL;
        v_lane := zodan.lane_name(v_repair.node, 0);
        v_answer := CASE WHEN v_lanes ? 'failure' THEN v_lanes -> 'failure' ELSE v_opened -> v_lane END;
        IF (v_answer ->> 'ok')::boolean THEN
            v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_lane, v_repair.statement), v_lanes) -> v_lane;
        END IF;
        v_outcomes := v_outcomes || pg_catalog.jsonb_build_object(pg_catalog.format('%s %s', v_repair.place, v_lane),
            CASE WHEN (v_answer ->> 'ok')::boolean THEN 'repaired' ELSE v_answer ->> 'message' END);
    END LOOP;
    FOR v_lane IN SELECT o.key FROM pg_catalog.jsonb_each(v_opened) AS o(key, value) WHERE (o.value ->> 'ok')::boolean LOOP
        IF p_is_last THEN
            PERFORM zodan.query_nodes(pg_catalog.jsonb_build_object(v_lane, zodan.repair_aside()), v_lanes, NULL);
        END IF;
        v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(v_lane, zodan.read_aside()), v_lanes) -> v_lane;
        v_outcomes := v_outcomes || CASE WHEN (v_answer ->> 'ok')::boolean THEN (
                SELECT coalesce(pg_catalog.jsonb_object_agg(pg_catalog.format('%s %s', a.item ->> 'place', v_lane),
                           CASE WHEN p_is_last THEN a.item -> 'why' END), '{}')
                  FROM pg_catalog.jsonb_array_elements(v_answer #> '{value,aside}') AS a(item))
            -- Some of these may be put aside, and some not.
            ELSE (SELECT coalesce(pg_catalog.jsonb_object_agg(o.key, v_answer -> 'message'), '{}')
                    FROM pg_catalog.jsonb_each_text(v_outcomes) AS o(key, value)
                   WHERE o.value = 'repaired' AND pg_catalog.substr(o.key, pg_catalog.strpos(o.key, ' ') + 1) = v_lane) END;
        PERFORM zodan.query_nodes(pg_catalog.jsonb_build_object(v_lane, zodan.close_repair()), v_lanes);
    END LOOP;
    PERFORM zodan.close_readers(p_state -> 'nodes', 0);
    RETURN QUERY
        SELECT r.node, r.table_name, r.row_key, r.action, r.statement,
               coalesce(r.outcome, v_outcomes ->> pg_catalog.format('%s %s', r.place, zodan.lane_name(r.node, 0))), r.place
          FROM pg_catalog.jsonb_populate_recordset(NULL::zodan.repair, p_repairs) AS r;
END
$zodan$;
COMMENT ON FUNCTION zodan.apply_repairs IS
'Runs repairs that zodan.plan_repairs returned, p_repairs, an array of them, each in a transaction of its own, and returns
them with their outcome. A row is left alone if it is no longer what was proven different, or if writing it fails. A row
is put aside, and has no outcome, if another row has a unique value of it: call again with p_is_last, and with all these,
when all others are done.';
REVOKE ALL ON FUNCTION zodan.apply_repairs FROM PUBLIC;

CREATE FUNCTION zodan.look_again(p_state jsonb, p_repairs jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH rows AS MATERIALIZED (
    SELECT f.item, f.place FROM pg_catalog.jsonb_array_elements(p_state -> 'found') WITH ORDINALITY AS f(item, place)
     WHERE pg_catalog.jsonb_path_exists(p_repairs, '$[*] ? (@.place == $place && @.statement != null)',
         pg_catalog.jsonb_build_object('place', f.place))),
tables AS MATERIALIZED (
    SELECT t.item -> 'item' AS item, t.item ->> 'name' AS name, pg_catalog.count(*) AS compared
      FROM pg_catalog.jsonb_array_elements(p_state -> 'done') AS t(item)
      JOIN rows AS r ON r.item ->> 'table' = t.item ->> 'name' GROUP BY 1, 2)
SELECT p_state || pg_catalog.jsonb_build_object('finished', false, 'found', '[]'::jsonb, 'done', '[]'::jsonb,
    'total', (SELECT pg_catalog.count(*) FROM tables AS t),
    'suspects', (SELECT coalesce(pg_catalog.jsonb_agg((r.item - '{verdict,failed,stable}'::text[]) || '{"stable": 0}'
        ORDER BY r.place), '[]') FROM rows AS r),
    'open', (SELECT coalesce(pg_catalog.jsonb_object_agg(t.name, t.item || pg_catalog.jsonb_build_object('compared', t.compared,
        'different', 0, 'undecided', 0, 'why', NULL, 'partial', false,
        'began', extract(epoch FROM pg_catalog.clock_timestamp()))), '{}') FROM tables AS t))
$zodan$;
COMMENT ON FUNCTION zodan.look_again IS
'Returns the state of a comparison of those rows only for which p_repairs has a statement; p_state is the state of the
one that found them. zodan.advance_verify takes it on: the rows are read, across marks, as rows under suspicion are.';
REVOKE ALL ON FUNCTION zodan.look_again FROM PUBLIC;

CREATE FUNCTION zodan.report_verify(p_state jsonb)
RETURNS SETOF zodan.verify_result
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT t.item ->> 'name', NULL::jsonb,
       CASE WHEN (t.item ->> 'different')::bigint > 0 THEN 'different'
            WHEN (t.item ->> 'undecided')::bigint > 0 OR t.item ->> 'why' IS NOT NULL THEN 'undecided' ELSE 'equal' END,
       (t.item ->> 'compared')::bigint,
       greatest((t.item ->> 'compared')::bigint - (t.item ->> 'different')::bigint - (t.item ->> 'undecided')::bigint, 0),
       (t.item ->> 'different')::bigint, (t.item ->> 'undecided')::bigint,
       pg_catalog.round((t.item ->> 'seconds')::numeric, 3), t.item ->> 'why', NULL::jsonb
  FROM pg_catalog.jsonb_array_elements(p_state -> 'done') AS t(item)
UNION ALL
SELECT f.item ->> 'table', CASE WHEN t.item -> 'key' <> '[]' THEN (
           SELECT pg_catalog.jsonb_object_agg(k.name, f.item -> 'key' -> (k.place - 1)::int)
             FROM pg_catalog.jsonb_array_elements_text(t.item -> 'key') WITH ORDINALITY AS k(name, place))
           ELSE pg_catalog.jsonb_build_object('hash', f.item #> '{key,0}') END,
       f.item ->> 'verdict', NULL, NULL, NULL, NULL, NULL, f.item ->> 'failed',
       (SELECT pg_catalog.jsonb_object_agg(n.name, s.seen) FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS n(name)
         CROSS JOIN LATERAL (SELECT f.item #> ARRAY['seen', n.name] AS item) AS h
         CROSS JOIN LATERAL (SELECT CASE WHEN h.item IS NOT NULL THEN pg_catalog.jsonb_build_object('row', d.shown,
             'committed', h.item -> 'at', 'origin', coalesce(h.item ->> 'origin', n.name), 'rows', h.item -> 'rows') END
             AS seen FROM (SELECT pg_catalog.jsonb_object_agg(c.key, c.value) AS shown
                                 FROM pg_catalog.jsonb_each(h.item -> 'shown') AS c(key, value)
                                WHERE h.item ? 'rows' OR EXISTS (
                                    SELECT FROM pg_catalog.jsonb_array_elements_text(p_state -> 'nodes') AS o(name)
                                     WHERE f.item #> ARRAY['seen', o.name, 'shown', c.key] IS DISTINCT FROM c.value)) AS d) AS s)
  FROM pg_catalog.jsonb_array_elements(p_state -> 'found') AS f(item)
  JOIN pg_catalog.jsonb_array_elements(p_state -> 'done') AS t(item) ON t.item ->> 'name' = f.item ->> 'table'
$zodan$;
COMMENT ON FUNCTION zodan.report_verify IS
'Returns what a comparison has found, from its state: a row for each table, and a row for each row that is different
or undecided.';
REVOKE ALL ON FUNCTION zodan.report_verify FROM PUBLIC;

CREATE FUNCTION zodan.tell_verify(p_state jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format('~ %s of %s tables, %s rows compared', pg_catalog.jsonb_array_length(p_state -> 'done'),
           p_state ->> 'total', (SELECT coalesce(pg_catalog.sum((t.item ->> 'compared')::bigint), 0)
               FROM (SELECT d.item FROM pg_catalog.jsonb_array_elements(p_state -> 'done') AS d(item)
                     UNION ALL
                     SELECT o.value FROM pg_catalog.jsonb_each(p_state -> 'open') AS o(key, value)) AS t))
       || CASE WHEN p_state ->> 'trial' IS NOT NULL THEN pg_catalog.format(', %s rows under suspicion',
           pg_catalog.jsonb_array_length(p_state #> '{trial,suspects}') + pg_catalog.jsonb_array_length(p_state -> 'suspects'))
          ELSE '' END
       || coalesce(', paused, waiting for ' || (p_state ->> 'paused'), '')
       || coalesce(', waiting for node ' || (p_state #>> '{lost,node}'), '')
$zodan$;
COMMENT ON FUNCTION zodan.tell_verify IS
'Says in a line how far a comparison has come.';
REVOKE ALL ON FUNCTION zodan.tell_verify FROM PUBLIC;

CREATE FUNCTION zodan.record_compared(
    p_operation bigint,
    p_phase_name text,
    p_table text,
    p_print text,
    p_results zodan.verify_result[]
)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Writes to the journal what a comparison found of a table: its row, and those of its rows that are not equal, in place
of what an earlier call found. */
BEGIN
    DELETE FROM zodan.compared AS c
     WHERE c.operation_id = p_operation AND c.phase_name = p_phase_name AND c.table_name = p_table;
    INSERT INTO zodan.compared (operation_id, phase_name, table_name, number, row_key, result, compared, equal, different,
        undecided, seconds, why, nodes, print)
    SELECT p_operation, p_phase_name, r.table_name,
           pg_catalog.row_number() OVER (ORDER BY r.row_key NULLS FIRST) - 1, r.row_key, r.result, r.compared, r.equal,
           r.different, r.undecided, r.seconds, r.why, r.nodes, CASE WHEN r.row_key IS NULL THEN p_print END
      FROM pg_catalog.unnest(p_results) AS r WHERE r.table_name = p_table;
END
$zodan$;
COMMENT ON FUNCTION zodan.record_compared IS
'Writes to the journal what a comparison found of a table: its row, and those of its rows that are not equal, in place
of what an earlier call found.';
REVOKE ALL ON FUNCTION zodan.record_compared FROM PUBLIC;

CREATE FUNCTION zodan.print_compared(p_item jsonb)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.md5((p_item - '{rows,notes}'::text[])::text)
$zodan$;
COMMENT ON FUNCTION zodan.print_compared IS
'Returns a digest of what of a table is compared on which nodes; p_item describes it as zodan.list_compared does.';
REVOKE ALL ON FUNCTION zodan.print_compared FROM PUBLIC;

CREATE FUNCTION zodan.keep_equal(p_step zodan.step, p_state jsonb)
RETURNS jsonb
LANGUAGE sql STABLE
AS $zodan$
WITH tables AS MATERIALIZED (
    SELECT t.item, t.place, c.item AS kept
      FROM pg_catalog.jsonb_array_elements(p_state -> 'tables') WITH ORDINALITY AS t(item, place)
      LEFT JOIN LATERAL (
            SELECT pg_catalog.jsonb_build_object('name', c.table_name, 'compared', c.compared, 'different', 0, 'undecided', 0,
                       'why', NULL, 'key', '[]'::jsonb, 'seconds', c.seconds) AS item
              FROM zodan.compared AS c
             WHERE c.operation_id = p_step.operation_id AND c.phase_name = p_step.phase_name AND c.number = 0
               AND c.table_name = t.item ->> 'name' AND c.result = 'equal' AND c.print = zodan.print_compared(t.item)
               AND c.compared_at > pg_catalog.clock_timestamp() - interval '24 h') AS c ON true)
SELECT p_state || pg_catalog.jsonb_build_object(
    'tables', coalesce(pg_catalog.jsonb_agg(t.item ORDER BY t.place) FILTER (WHERE t.kept IS NULL), '[]'),
    'done', coalesce(pg_catalog.jsonb_agg(t.kept ORDER BY t.place) FILTER (WHERE t.kept IS NOT NULL), '[]'),
    'kept', pg_catalog.count(t.kept), 'recorded', pg_catalog.count(t.kept),
    'prints', pg_catalog.jsonb_object_agg(t.item ->> 'name', zodan.print_compared(t.item)))
  FROM tables AS t
$zodan$;
COMMENT ON FUNCTION zodan.keep_equal IS
'Takes those tables out of what a comparison is to compare that an earlier call of the same operation found equal,
24 h ago or less, on the same nodes and with the same columns, key and filter. Returns the state,
where they are done; kept says how many that are.';
REVOKE ALL ON FUNCTION zodan.keep_equal FROM PUBLIC;

CREATE FUNCTION zodan.measure_compared(p_state jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('stage', 'verify', 'tables_done', pg_catalog.jsonb_array_length(p_state -> 'done'),
    'tables_total', p_state -> 'total', 'paused', p_state -> 'paused', 'table', (
        SELECT pg_catalog.min(k.name) FROM pg_catalog.jsonb_object_keys(p_state -> 'open') AS k(name)))
$zodan$;
COMMENT ON FUNCTION zodan.measure_compared IS
'Measures how far a comparison of rows has come, as zodan.sample has it.';
REVOKE ALL ON FUNCTION zodan.measure_compared FROM PUBLIC;

CREATE FUNCTION zodan.judge_compared(p_state jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
WITH tables AS MATERIALIZED (
    SELECT r.* FROM zodan.report_verify(p_state || '{"found": []}') AS r),
counts AS MATERIALIZED (
    SELECT pg_catalog.count(*) AS tables, coalesce(pg_catalog.sum(t.compared), 0) AS rows,
           coalesce(pg_catalog.sum(t.different), 0) AS different, coalesce(pg_catalog.sum(t.undecided), 0) AS undecided,
           CASE WHEN pg_catalog.bool_or(t.result = 'different') THEN 'different'
               WHEN pg_catalog.bool_or(t.result = 'undecided') THEN 'undecided' END AS verdict
      FROM tables AS t)
SELECT pg_catalog.jsonb_build_object('ok', c.verdict IS NULL, 'value', pg_catalog.jsonb_build_object('tables', c.tables,
           'rows', c.rows, 'different', c.different, 'undecided', c.undecided))
       || CASE WHEN c.verdict IS NULL THEN '{}' ELSE pg_catalog.jsonb_build_object(
           'sqlstate', CASE c.verdict WHEN 'different' THEN 'ZD404' ELSE 'ZD405' END,
           'message', CASE c.verdict WHEN 'different' THEN 'rows are different on the nodes: '
               ELSE 'it could not be decided whether rows are equal: ' END || (
               SELECT zodan.name_some(pg_catalog.jsonb_agg(CASE WHEN t.result = 'different' THEN
                          pg_catalog.format('%s (%s rows)', t.table_name, t.different)
                          ELSE pg_catalog.format('%s (%s)', t.table_name, coalesce(t.why, t.undecided || ' rows')) END
                          ORDER BY t.different + t.undecided DESC, t.table_name))
                 FROM tables AS t WHERE t.result = c.verdict),
           'hint', CASE c.verdict WHEN 'different' THEN 'zodan.compared has each row by its key: repair them, then resume.'
               ELSE 'zodan.compared says why: resume to compare these tables again.' END) END
  FROM counts AS c
$zodan$;
COMMENT ON FUNCTION zodan.judge_compared IS
'Returns what a finished comparison means for its step: ok, and the result; or the error that fails the step, with
sqlstate ZD404 if rows are different, ZD405 if none is, and some are undecided.';
REVOKE ALL ON FUNCTION zodan.judge_compared FROM PUBLIC;

CREATE FUNCTION zodan.advance_compared(p_job zodan.job, p_step zodan.step, p_dsns jsonb)
RETURNS zodan.job
LANGUAGE plpgsql
AS $zodan$
/* Moves a step on that compares the rows of nodes, for about a second, and returns its job. Writes what was found of a
table to the journal when the table is done, so that a resumed call goes on with the others. */
DECLARE
    v_now timestamptz := pg_catalog.clock_timestamp();
    v_state jsonb := p_job.compared;
    v_count int;
    v_answer jsonb;
BEGIN
    IF v_now < p_job.next THEN
        RETURN p_job;
    ELSIF v_state IS NULL THEN
        PERFORM zodan.close_readers(p_step.units -> 'compare', (p_step.units ->> 'lanes')::int);
        v_state := zodan.begin_comparison(p_step.units -> 'compare', ARRAY(
            SELECT s.name FROM pg_catalog.jsonb_array_elements_text(p_step.units -> 'sets') AS s(name)), NULL,
            (p_step.units ->> 'lanes')::int, NULL, (p_step.units ->> 'max_lag')::interval, p_dsns);
        p_job.deadline := coalesce(p_job.deadline, v_now + zodan.read_patience());
        IF (v_state #>> '{failure,lost}')::boolean AND v_now < p_job.deadline THEN
            p_job.blockers := v_state #>> '{failure,message}';
            p_job.next := v_now + interval '1 s';
            RETURN p_job;
        ELSIF NOT v_state ? 'failure' THEN
            v_state := zodan.keep_equal(p_step, v_state);
            DELETE FROM zodan.compared AS c
             WHERE c.operation_id = p_step.operation_id AND c.phase_name = p_step.phase_name
               AND NOT v_state -> 'prints' ? c.table_name;
        END IF;
    END IF;
    PERFORM zodan.meet_test_hook(p_step.phase_name || ' done', n.number)
       FROM pg_catalog.generate_series((v_state ->> 'hooked')::int + 1, (v_state ->> 'recorded')::int) AS n(number);
    IF NOT v_state ? 'failure' THEN
        v_state := zodan.compare_rows(v_state || pg_catalog.jsonb_build_object('hooked', v_state -> 'recorded'), p_dsns);
        v_count := (v_state ->> 'recorded')::int;
        PERFORM zodan.record_compared(p_step.operation_id, p_step.phase_name, t.item ->> 'name',
                    v_state #>> ARRAY['prints', t.item ->> 'name'], ARRAY(
                    SELECT r FROM zodan.report_verify(v_state || pg_catalog.jsonb_build_object('done',
                        pg_catalog.jsonb_build_array(t.item))) AS r))
           FROM pg_catalog.jsonb_array_elements(v_state -> 'done') WITH ORDINALITY AS t(item, place) WHERE t.place > v_count;
        v_state := v_state || pg_catalog.jsonb_build_object('recorded', pg_catalog.jsonb_array_length(v_state -> 'done'));
    END IF;
    p_job.compared := v_state;
    p_job.blockers := coalesce(v_state ->> 'paused', v_state #>> '{lost,message}');
    p_job := zodan.take_sample(p_job, pg_catalog.jsonb_build_object('ok', coalesce((v_state ->> 'finished')::boolean, false),
        'measure', zodan.measure_compared(v_state)), v_now);
    IF v_state ? 'failure' THEN
        v_answer := (v_state -> 'failure') || '{"ok": false}';
    ELSIF (v_state ->> 'finished')::boolean THEN
        v_answer := zodan.judge_compared(v_state);
    ELSE
        RETURN p_job;
    END IF;
    PERFORM zodan.close_readers(p_step.units -> 'compare', (p_step.units ->> 'lanes')::int);
    p_job.stage := CASE WHEN (v_answer ->> 'ok')::boolean THEN 'done' ELSE 'failed' END;
    p_job.answer := CASE WHEN p_job.stage = 'failed' THEN v_answer END;
    p_job.result := v_answer -> 'value';
    RETURN p_job;
END
$zodan$;
COMMENT ON FUNCTION zodan.advance_compared IS
'Moves a step on that compares the rows of nodes, for about a second, and returns its job. Writes what was found of a
table to the journal when the table is done, so that a resumed call goes on with the others.';
REVOKE ALL ON FUNCTION zodan.advance_compared FROM PUBLIC;

CREATE FUNCTION zodan.begin_verify(
    p_dsn text,
    p_tables text[],
    p_nodes text[],
    p_jobs int,
    p_most int,
    p_max_lag interval,
    OUT p_state jsonb,
    OUT p_dsns jsonb
)
LANGUAGE plpgsql
AS $zodan$
/* Connects to the nodes whose rows are to be compared, through the member of p_dsn, and finds out which tables they
replicate: all, or those of p_tables (a table, or the partitioned table above it); on all members, or on p_nodes.
Returns the state of a comparison, which zodan.advance_verify takes on, and the nodes' connection strings, which are
secret. Errors: ZD001, ZD003, ZD004 p_nodes, p_jobs or p_max_lag make no sense, ZD101 a node cannot be reached, ZD120 no
such table, ZD121 tables cannot be compared. */
DECLARE
    v_found record;
    v_nodes jsonb;
    v_note text;
BEGIN
    PERFORM zodan.hide_statement(p_dsn);
    PERFORM zodan.check_jobs(p_jobs);
    PERFORM zodan.check_limits(NULL, p_max_lag);
    PERFORM zodan.close_connections();
    SELECT * INTO v_found FROM zodan.find_members(p_dsn, 'zodan verify');
    v_nodes := zodan.choose_compared(v_found.p_facts, p_nodes);
    SELECT pg_catalog.jsonb_object_agg(n.name, v_found.p_dsns -> n.name) INTO p_dsns
      FROM pg_catalog.jsonb_array_elements_text(v_nodes) AS n(name);
    p_state := zodan.begin_comparison(v_nodes, zodan.list_exchanged(v_found.p_facts, pg_catalog.jsonb_build_object('members',
        v_nodes)), p_tables, coalesce(p_jobs, zodan.choose_lanes(v_found.p_facts, v_nodes, NULL) / 2), p_most, p_max_lag, p_dsns);
    PERFORM zodan.raise_failure(p_state -> 'failure');
    p_state := p_state || pg_catalog.jsonb_build_object('members', (SELECT pg_catalog.jsonb_agg(k.node ORDER BY k.node COLLATE "C")
        FROM pg_catalog.jsonb_object_keys(v_found.p_facts) AS k(node)));
    FOR v_note IN SELECT pg_catalog.format('table %s: %s', t.item ->> 'name', t.item ->> 'notes')
                    FROM pg_catalog.jsonb_array_elements(p_state -> 'tables') AS t(item) WHERE t.item ->> 'notes' IS NOT NULL
    LOOP
        RAISE WARNING '%', v_note USING HINT = 'Give the column one type on every node.';
    END LOOP;
    PERFORM zodan.close_connections();
END
$zodan$;
COMMENT ON FUNCTION zodan.begin_verify IS
'Connects to the nodes whose rows are to be compared, through the member of p_dsn, and finds out which tables they
replicate: all, or those of p_tables (a table, or the partitioned table above it); on all members, or on p_nodes.
Returns the state of a comparison, which zodan.advance_verify takes on, and the nodes'' connection strings, which are
secret. Errors: ZD001, ZD003, ZD004 p_nodes, p_jobs or p_max_lag make no sense, ZD101 a node cannot be reached, ZD120 no
such table, ZD121 tables cannot be compared.';
REVOKE ALL ON FUNCTION zodan.begin_verify FROM PUBLIC;

CREATE FUNCTION zodan.verify(
    dsn text,
    tables text[] DEFAULT NULL,
    nodes text[] DEFAULT NULL,
    jobs int DEFAULT NULL,
    most int DEFAULT NULL,
    max_lag interval DEFAULT NULL
)
RETURNS SETOF zodan.verify_result
LANGUAGE plpgsql
AS $zodan$
/* Compares the rows of every replicated table on all members, found through the connection string of one of them,
while they are written to; changes nothing. tables names some tables, nodes some members; jobs is the number of
sessions that read side by side on each machine, by default half as many as the smallest server has processors, from 1
to 4. Nodes that are known to share a machine are read in turn. most is the number of
different or undecided rows after which a table is compared no further. max_lag pauses the comparison while a peer lags
further behind one of the nodes; NULL means any lag. Returns a row for each table, with row_key NULL; and after it a
row for each row that is different or undecided, with the key, and in nodes what each node has: the columns that
differ, when that version was committed and the node that it came from; null if the row is missing there. result is
equal, different (proven: no change that is still on its way can make it equal) or undecided, and why says why. Errors:
ZD001, ZD003, ZD004, ZD101, ZD120, ZD121, ZD200. */
DECLARE
    v_state jsonb;
    v_dsns jsonb;
    v_told timestamptz := pg_catalog.clock_timestamp();
BEGIN
    SELECT b.p_state, b.p_dsns INTO v_state, v_dsns FROM zodan.begin_verify(dsn, tables, nodes, jobs, most, max_lag) AS b;
    WHILE v_state ->> 'finished' IS DISTINCT FROM 'true' LOOP
        v_state := zodan.advance_verify(v_state, v_dsns);
        IF pg_catalog.clock_timestamp() > v_told + interval '10 s' THEN
            v_told := pg_catalog.clock_timestamp();
            RAISE NOTICE '%', zodan.tell_verify(v_state);
        END IF;
    END LOOP;
    PERFORM zodan.close_connections();
    RETURN QUERY SELECT r.* FROM zodan.report_verify(v_state) AS r ORDER BY r.table_name, r.row_key NULLS FIRST;
END
$zodan$;
COMMENT ON FUNCTION zodan.verify IS
'Compares the rows of every replicated table on all members, found through the connection string of one of them,
while they are written to; changes nothing. tables names some tables, nodes some members; jobs is the number of
sessions that read side by side on each machine, by default half as many as the smallest server has processors, from 1
to 4. Nodes that are known to share a machine are read in turn. most is the number of
different or undecided rows after which a table is compared no further. max_lag pauses the comparison while a peer lags
further behind one of the nodes; NULL means any lag. Returns a row for each table, with row_key NULL; and after it a
row for each row that is different or undecided, with the key, and in nodes what each node has: the columns that
differ, when that version was committed and the node that it came from; null if the row is missing there. result is
equal, different (proven: no change that is still on its way can make it equal) or undecided, and why says why. Errors:
ZD001, ZD003, ZD004, ZD101, ZD120, ZD121, ZD200.';
REVOKE ALL ON FUNCTION zodan.verify FROM PUBLIC;


CREATE FUNCTION zodan.read_commit_timestamp(p_origin text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT pg_catalog.max(l.commit_timestamp) AS at FROM spock.lag_tracker AS l WHERE l.origin_name = %1$s$sql$,
    zodan.quote_text(p_origin))
$zodan$;
COMMENT ON FUNCTION zodan.read_commit_timestamp IS
'Reads when the last transaction that came from p_origin was committed there. It returns one row: at.';
REVOKE ALL ON FUNCTION zodan.read_commit_timestamp FROM PUBLIC;

CREATE FUNCTION zodan.run_on(p_dsn text, p_sql text, p_dsns jsonb DEFAULT '{}')
RETURNS jsonb
LANGUAGE plpgsql
AS $zodan$
/* Runs one statement in the database that a connection string leads to, with the connection strings of p_dsns for its
placeholders, and returns its single row as an object. Errors: ZD001 malformed connection string, ZD101 the database
cannot be reached, ZD200 the statement failed, with the remote SQLSTATE and text in DETAIL. */
DECLARE
    c_node CONSTANT text := 'the node given';
    v_dsns jsonb;
    v_answer jsonb;
BEGIN
    PERFORM zodan.hide_statement(p_dsn, p_dsns::text);
    SELECT pg_catalog.jsonb_object_agg(g.key, zodan.canonical_dsn(g.value)) INTO v_dsns
      FROM pg_catalog.jsonb_each_text(p_dsns || pg_catalog.jsonb_build_object(c_node, p_dsn)) AS g;
    PERFORM zodan.close_connections();
    v_answer := zodan.open_connection(c_node, v_dsns, 'zodan by hand');
    IF NOT (v_answer ->> 'ok')::boolean THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD101',
            MESSAGE = 'the node given cannot be reached',
            DETAIL = v_answer ->> 'message',
            HINT = 'Check that it runs, its address and its password.';
    END IF;
    -- Each statement goes to one node, whatever it binds for others.
    v_answer := zodan.query_nodes(pg_catalog.jsonb_build_object(c_node, p_sql), v_dsns, NULL) -> c_node;
    PERFORM zodan.close_connections();
    IF NOT (v_answer ->> 'ok')::boolean THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD200',
            MESSAGE = 'the statement failed on the node given',
            DETAIL = pg_catalog.concat_ws(' ', (v_answer ->> 'sqlstate') || ':', v_answer ->> 'message',
                v_answer ->> 'detail', v_answer ->> 'hint'),
            HINT = 'Fix the cause, then call again.';
    END IF;
    RETURN v_answer -> 'value';
END
$zodan$;
COMMENT ON FUNCTION zodan.run_on IS
'Runs one statement in the database that a connection string leads to, with the connection strings of p_dsns for its
placeholders, and returns its single row as an object. Errors: ZD001 malformed connection string, ZD101 the database
cannot be reached, ZD200 the statement failed, with the remote SQLSTATE and text in DETAIL.';
REVOKE ALL ON FUNCTION zodan.run_on FROM PUBLIC;

CREATE FUNCTION zodan.create_node(
    p_node text,
    p_dsn text,
    p_location text DEFAULT 'NY',
    p_country text DEFAULT 'USA',
    p_info jsonb DEFAULT '{}'
)
RETURNS oid
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, zodan.register_node(p_node => p_node, p_location => p_location, p_country => p_country,
        p_info => p_info::text),
    pg_catalog.jsonb_build_object(p_node, p_dsn)) ->> 'node_id')::oid
$zodan$;
COMMENT ON FUNCTION zodan.create_node IS
'Makes the database at p_dsn a Spock node named p_node, which the others will reach by p_dsn. Returns the node''s id.
Example: SELECT zodan.create_node(''n4'', ''host=10.0.0.4 dbname=app''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.create_node FROM PUBLIC;

CREATE FUNCTION zodan.get_spock_nodes(p_dsn text)
RETURNS TABLE (node_name text, dsn text)
LANGUAGE sql
AS $zodan$
SELECT n.key, zodan.redact_dsn(n.value)
  FROM pg_catalog.jsonb_each_text(zodan.run_on(p_dsn, zodan.spock_facts()) #> '{facts,nodes}') AS n(key, value)
 ORDER BY n.key
$zodan$;
COMMENT ON FUNCTION zodan.get_spock_nodes IS
'Returns the nodes that the node at p_dsn knows, itself included, with the connection strings in use, without
secrets. Example: SELECT * FROM zodan.get_spock_nodes(''host=10.0.0.1 dbname=app''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.get_spock_nodes FROM PUBLIC;

CREATE FUNCTION zodan.create_sub(
    p_dsn text,
    p_subscription text,
    p_provider_dsn text,
    p_replication_sets text[] DEFAULT '{default,default_insert_only,ddl_sql}',
    p_synchronize_structure boolean DEFAULT false,
    p_synchronize_data boolean DEFAULT false,
    p_forward_origins text[] DEFAULT '{}',
    p_enabled boolean DEFAULT true
)
RETURNS oid
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, zodan.create_copy_subscription(p_subscription => p_subscription, p_provider => 'provider',
        p_sets => p_replication_sets, p_structure => p_synchronize_structure::text, p_data => p_synchronize_data::text,
        p_forward => p_forward_origins, p_enabled => p_enabled::text, p_skip => '{}'),
    pg_catalog.jsonb_build_object('provider', p_provider_dsn)) ->> 'sub_id')::oid
$zodan$;
COMMENT ON FUNCTION zodan.create_sub IS
'Creates a subscription on the node at p_dsn, from the node at p_provider_dsn. A disabled subscription creates no
slot: create that first with zodan.create_replication_slot. Returns the subscription''s id. Example: SELECT
zodan.create_sub(''host=10.0.0.4 dbname=app'', ''sub_n1_n4'', ''host=10.0.0.1 dbname=app'', p_enabled => false). Errors:
those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.create_sub FROM PUBLIC;

CREATE FUNCTION zodan.enable_sub(p_dsn text, p_subscription text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, pg_catalog.format('SELECT spock.sub_enable(%s) AS enabled',
    zodan.quote_text(p_subscription))) ->> 'enabled')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.enable_sub IS
'Enables a subscription of the node at p_dsn. Returns whether it is enabled now. Example: SELECT
zodan.enable_sub(''host=10.0.0.4 dbname=app'', ''sub_n1_n4''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.enable_sub FROM PUBLIC;

CREATE FUNCTION zodan.create_replication_slot(p_dsn text, p_slot text)
RETURNS pg_lsn
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, CASE WHEN v.number >= 170000 THEN zodan.create_failover_slot(p_slot)
                                 ELSE zodan.create_slot(p_slot) END) ->> 'lsn')::pg_lsn
  FROM (SELECT (zodan.run_on(p_dsn, zodan.server_facts()) #>> '{facts,version_num}')::int AS number) AS v
$zodan$;
COMMENT ON FUNCTION zodan.create_replication_slot IS
'Creates a replication slot for a subscription on its provider, the node at p_dsn. Returns the position where the
slot starts. The slot holds WAL until a subscriber streams from it or it is dropped. Example: SELECT
zodan.create_replication_slot(''host=10.0.0.1 dbname=app'', ''spk_app_n1_sub_n1_n4''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.create_replication_slot FROM PUBLIC;

CREATE FUNCTION zodan.sync_event(p_dsn text)
RETURNS pg_lsn
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, zodan.emit_sync_event()) ->> 'lsn')::pg_lsn
$zodan$;
COMMENT ON FUNCTION zodan.sync_event IS
'Commits a mark in the stream of the node at p_dsn and returns the mark''s position, for zodan.wait_for_sync_event.
Example: SELECT zodan.sync_event(''host=10.0.0.1 dbname=app''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.sync_event FROM PUBLIC;

CREATE FUNCTION zodan.wait_for_sync_event(
    p_dsn text,
    p_origin text,
    p_lsn pg_lsn,
    p_timeout interval DEFAULT '30 s'
)
RETURNS boolean
LANGUAGE plpgsql
AS $zodan$
/* Waits, p_timeout at most, until the node at p_dsn has applied everything that node p_origin committed before p_lsn.
Returns whether it has. Example: SELECT zodan.wait_for_sync_event('host=10.0.0.4 dbname=app', 'n1', '0/1A2B3C').
Errors: those of zodan.run_on; ZD202 when the wait cannot succeed because the subscription is gone or disabled. */
DECLARE
    v_until timestamptz := pg_catalog.clock_timestamp() + p_timeout;
    v_seen jsonb;
BEGIN
    LOOP
        v_seen := zodan.run_on(p_dsn, zodan.wait_applied(p_lsn => p_lsn::text, p_provider => p_origin));
        IF v_seen ->> 'trouble' IS NOT NULL THEN
            RAISE EXCEPTION USING
                ERRCODE = 'ZD202',
                MESSAGE = v_seen ->> 'trouble',
                HINT = 'Fix the subscription first.';
        END IF;
        EXIT WHEN (v_seen ->> 'ok')::boolean OR pg_catalog.clock_timestamp() > v_until;
        PERFORM pg_catalog.pg_sleep(0.25);
    END LOOP;
    RETURN (v_seen ->> 'ok')::boolean;
END
$zodan$;
COMMENT ON FUNCTION zodan.wait_for_sync_event IS
'Waits, p_timeout at most, until the node at p_dsn has applied everything that node p_origin committed before p_lsn.
Returns whether it has. Example: SELECT zodan.wait_for_sync_event(''host=10.0.0.4 dbname=app'', ''n1'', ''0/1A2B3C'').
Errors: those of zodan.run_on; ZD202 when the wait cannot succeed because the subscription is gone or disabled.';
REVOKE ALL ON FUNCTION zodan.wait_for_sync_event FROM PUBLIC;

CREATE FUNCTION zodan.get_commit_timestamp(p_dsn text, p_origin text)
RETURNS timestamptz
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, zodan.read_commit_timestamp(p_origin)) ->> 'at')::timestamptz
$zodan$;
COMMENT ON FUNCTION zodan.get_commit_timestamp IS
'Returns the commit time, on node p_origin, of that node''s newest transaction that the node at p_dsn has applied;
NULL if it has applied none since it began to keep commit timestamps. Example: SELECT
zodan.get_commit_timestamp(''host=10.0.0.4 dbname=app'', ''n1''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.get_commit_timestamp FROM PUBLIC;

CREATE FUNCTION zodan.advance_replication_slot(p_dsn text, p_slot text, p_lsn pg_lsn)
RETURNS pg_lsn
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, pg_catalog.format(
    'SELECT end_lsn AS lsn FROM pg_catalog.pg_replication_slot_advance(%s, %s)',
    zodan.quote_text(p_slot), zodan.quote_text(p_lsn::text))) ->> 'lsn')::pg_lsn
$zodan$;
COMMENT ON FUNCTION zodan.advance_replication_slot IS
'Moves a slot of the node at p_dsn forward to p_lsn, so that the node no longer sends commits before that position:
only for a subscriber that has those commits from elsewhere. Returns the slot''s new position. Example: SELECT
zodan.advance_replication_slot(''host=10.0.0.1 dbname=app'', ''spk_app_n1_sub_n1_n4'', ''0/1A2B3C''). Errors: those of
zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.advance_replication_slot FROM PUBLIC;

CREATE FUNCTION zodan.sub_drop(p_dsn text, p_subscription text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT zodan.run_on(p_dsn, zodan.drop_subscription(p_subscription)) ->> 'dropped' NOT IN ('0', 'false')
$zodan$;
COMMENT ON FUNCTION zodan.sub_drop IS
'Drops a subscription of the node at p_dsn, with its origin there and its slot on the provider. Returns whether the
subscription existed. Example: SELECT zodan.sub_drop(''host=10.0.0.4 dbname=app'', ''sub_n1_n4''). Errors: those of
zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.sub_drop FROM PUBLIC;

CREATE FUNCTION zodan.repset_drop(p_dsn text, p_set text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, pg_catalog.format('SELECT spock.repset_drop(%s, true) AS dropped',
    zodan.quote_text(p_set))) ->> 'dropped')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.repset_drop IS
'Drops a replication set of the node at p_dsn. Returns whether the set existed. Example: SELECT
zodan.repset_drop(''host=10.0.0.4 dbname=app'', ''reports''). Errors: those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.repset_drop FROM PUBLIC;

CREATE FUNCTION zodan.node_drop(p_dsn text, p_node text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT (zodan.run_on(p_dsn, zodan.drop_node_row(p_node)) ->> 'dropped')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.node_drop IS
'Drops node p_node, another node or the node itself, from what the node at p_dsn knows; its subscriptions must be
gone. Returns whether the node existed. Example: SELECT zodan.node_drop(''host=10.0.0.4 dbname=app'', ''n4''). Errors:
those of zodan.run_on.';
REVOKE ALL ON FUNCTION zodan.node_drop FROM PUBLIC;


CREATE FUNCTION zodan.is_unpublished()
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

CREATE FUNCTION zodan.unpublish()
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

CREATE FUNCTION zodan.wait_drained(p_provider text, p_lsn text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT CASE WHEN w.gone THEN true WHEN w.ok THEN spock.sync_event(false) IS NOT NULL ELSE false END AS ok,
       w.progress, w.alive, w.measure, CASE WHEN NOT w.gone THEN w.trouble END AS trouble
  FROM (SELECT a.*, NOT EXISTS (SELECT FROM spock.subscription AS s JOIN spock.node AS n ON n.node_id = s.sub_origin
                                 WHERE n.node_name = %1$s) AS gone
          FROM (
SELECT coalesce(pg_catalog.bool_or(o.remote_lsn >= %2$s::pg_catalog.pg_lsn), false) AS ok,
       pg_catalog.max(o.remote_lsn) AS progress,
       coalesce(pg_catalog.bool_or(EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')
              AND a.xact_start IS NOT NULL
    AND coalesce(a.wait_event_type, '') NOT IN ('Lock', 'Client', 'Activity', 'Extension'))), false) AS alive,
       CASE WHEN pg_catalog.count(s.sub_id) = 0 THEN 'there is no subscription from node ' || %1$s
            WHEN NOT pg_catalog.bool_or(s.sub_enabled) THEN 'the subscription from node ' || %1$s
                || ' is disabled' || coalesce(': ' || (
                SELECT e.error_message FROM spock.exception_log AS e
                 WHERE e.remote_origin = pg_catalog.min(n.node_id) ORDER BY e.retry_errored_at DESC LIMIT 1),
                     '') END AS trouble,
       -- A worker that fails comes back after some seconds, and fails again.
       CASE WHEN pg_catalog.bool_or(s.sub_enabled AND NOT EXISTS (
           SELECT FROM pg_catalog.pg_stat_activity AS a
            WHERE a.datname = pg_catalog.current_database()
    AND pg_catalog.concat_ws(' ', a.backend_type, a.application_name) ~ ('apply .*:' || s.sub_id || '( |$)')))
           THEN 'the worker of the stream from node ' || %1$s
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
       pg_catalog.jsonb_build_object('lag_bytes', greatest(%2$s::pg_catalog.pg_lsn, pg_catalog.max(o.remote_lsn))
           - nullif(pg_catalog.max(o.remote_lsn), '0/0')) AS measure
  FROM spock.node AS n
  JOIN spock.subscription AS s ON s.sub_origin = n.node_id
  LEFT JOIN pg_catalog.pg_replication_origin_status AS o ON o.external_id = s.sub_slot_name
 WHERE n.node_name = %1$s) AS a) AS w$sql$,
    zodan.quote_text(p_provider), zodan.quote_result(p_lsn))
$zodan$;
COMMENT ON FUNCTION zodan.wait_drained IS
'Returns, on a member, whether it has applied everything that p_provider committed before p_lsn, and then flushes
it, because Spock applies with synchronous_commit off, and the slot that could send it again is about to go. A
subscription that is gone has been waited for before; for until_sql.';
REVOKE ALL ON FUNCTION zodan.wait_drained FROM PUBLIC;

CREATE FUNCTION zodan.drop_node(p_target text)
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

CREATE FUNCTION zodan.wait_settled(p_xid text)
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

CREATE FUNCTION zodan.drop_slot_of(p_provider text, p_subscription text)
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

CREATE FUNCTION zodan.stop_stream(p_provider text)
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

CREATE FUNCTION zodan.wait_stopped(p_provider text)
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

CREATE FUNCTION zodan.prove_level(p_provider text, p_lsn text)
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

CREATE FUNCTION zodan.drop_level_origins()
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

CREATE FUNCTION zodan.open_level(
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
        PERFORM pg_temp.dblink_connect(v_name, 'connect_timeout=10'
            ' keepalives_idle=10'
            ' keepalives_interval=5 keepalives_count=2 ' || v_dsn);
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
    RETURN coalesce((SELECT pg_catalog.string_agg(pg_catalog.format('ROW(%%s) %%s ROW(%%s)', p_table ->> 'keys', b.operator, v.texts), ' AND ')
      FROM (VALUES ('>', p_from), ('<=', p_to)) AS b(operator, key)
     CROSS JOIN LATERAL (
        SELECT pg_catalog.string_agg(pg_catalog.format('%%L::%%s', e.item, p_table -> 'types' ->> (e.place - 1)::int), ', ' ORDER BY e.place)
          FROM pg_catalog.jsonb_array_elements_text(b.key) WITH ORDINALITY AS e(item, place)) AS v(texts)
     WHERE b.key IS NOT NULL), 'true');
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_among(p_table jsonb, p_keys jsonb[]) RETURNS text LANGUAGE plpgsql AS $function$
BEGIN
    RETURN pg_catalog.format('(%%s) IN (VALUES %%s)', p_table ->> 'keys', (
        SELECT pg_catalog.string_agg(pg_catalog.format('(%%s)', v.texts), ', ')
          FROM pg_catalog.unnest(p_keys) AS k(key)
         CROSS JOIN LATERAL (
            SELECT pg_catalog.string_agg(pg_catalog.format('%%L::%%s', e.item, p_table -> 'types' ->> (e.place - 1)::int), ', '
                   ORDER BY e.place)
              FROM pg_catalog.jsonb_array_elements_text(k.key) WITH ORDINALITY AS e(item, place)) AS v(texts)));
END
    $function$;
    CREATE OR REPLACE FUNCTION pg_temp.zodan_list(p_furthest text) RETURNS void LANGUAGE plpgsql AS $function$
DECLARE
    v_odd text;
BEGIN
    INSERT INTO pg_temp.zodan_level_table (number, item)
    SELECT pg_catalog.row_number() OVER (ORDER BY f.name COLLATE "C"), pg_catalog.jsonb_build_object('name', f.name, 'filter', f.filter,
               'whole', f.whole AND k.keys IS NOT NULL, 'keys', k.keys, 'types', k.types, 'key', k.key,
               'hash', pg_catalog.format('pg_catalog.hashtextextended(ROW(%%s)::text COLLATE pg_catalog."C", 0)', c.values),
               'names', c.names, 'typed', c.typed, 'values', c.values, 'set', c.set, 'merges', c.merges,
               'missing', CASE WHEN c.count IS DISTINCT FROM pg_catalog.jsonb_array_length(f.columns) THEN true END,
               'clause', CASE WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_index AS i
                   WHERE i.indrelid = pg_catalog.to_regclass(f.name) AND i.indisunique AND NOT i.indimmediate)
                   THEN ' ON CONFLICT DO NOTHING' ELSE '' END)
      FROM pg_temp.dblink(pg_temp.zodan_peer(p_furthest), pg_catalog.format($query$
WITH published AS MATERIALIZED (
    SELECT t.set_reloid::oid AS relid, pg_catalog.bool_or(t.set_att_list IS NULL) AS has_all,
           pg_catalog.array_agg(t.set_att_list::text) FILTER (WHERE t.set_att_list IS NOT NULL) AS lists,
           CASE WHEN pg_catalog.bool_and(t.set_row_filter IS NOT NULL) THEN pg_catalog.string_agg(
               DISTINCT '(' || pg_catalog.pg_get_expr(t.set_row_filter, t.set_reloid) || ')', ' OR ') END AS filter,
           pg_catalog.bool_or(r.replicate_insert AND r.replicate_update AND r.replicate_delete) AS whole
      FROM spock.replication_set_table AS t
      JOIN spock.replication_set AS r ON r.set_id = t.set_id
      JOIN spock.local_node AS l ON l.node_id = r.set_nodeid
     WHERE r.set_name::text = ANY (%%1$L::text[])
     GROUP BY t.set_reloid),
leaves AS MATERIALIZED (
    SELECT p.* FROM published AS p
    UNION ALL
    SELECT i.relid, p.has_all, p.lists, p.filter, p.whole
      FROM published AS p CROSS JOIN LATERAL pg_catalog.pg_partition_tree(p.relid) AS i
     WHERE i.isleaf AND i.relid <> p.relid AND i.relid NOT IN (SELECT o.relid FROM published AS o))
SELECT pg_catalog.format('%%%%I.%%%%I', n.nspname, c.relname), l.filter, l.whole,
       (SELECT pg_catalog.jsonb_agg(a.attname ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a
         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
           AND (l.has_all OR EXISTS (SELECT FROM pg_catalog.unnest(l.lists) AS w(list)
               WHERE a.attname::text = ANY (w.list::text[]))))
  FROM leaves AS l
  JOIN pg_catalog.pg_class AS c ON c.oid = l.relid AND c.relkind = 'r'
  JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace$query$, %2$s)) AS f(name text, filter text, whole boolean, columns jsonb)
      LEFT JOIN LATERAL (
        SELECT pg_catalog.string_agg('t.' || w.name, ', ' ORDER BY w.place) AS keys, pg_catalog.jsonb_agg(w.type ORDER BY w.place) AS types,
               pg_catalog.format('pg_catalog.jsonb_build_array(%%s)', pg_catalog.string_agg('t.' || w.name || '::text', ', '
                   ORDER BY w.place)) AS key, pg_catalog.array_agg(w.number) AS numbers
          FROM (SELECT pg_catalog.quote_ident(a.attname) AS name, pg_catalog.format_type(a.atttypid, -1) AS type, k.place,
                       a.attnum AS number
                  FROM pg_catalog.pg_class AS r
                  JOIN pg_catalog.pg_index AS i ON i.indrelid = r.oid
                 CROSS JOIN LATERAL pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS k(number, place)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = r.oid AND a.attnum = k.number
                 WHERE r.oid = pg_catalog.to_regclass(f.name) AND k.place <= i.indnkeyatts AND i.indisvalid
                   AND CASE WHEN r.relreplident = 'i' THEN i.indisreplident ELSE i.indisprimary END) AS w
         HAVING pg_catalog.count(*) > 0) AS k ON true
      LEFT JOIN LATERAL (
        SELECT pg_catalog.count(*) AS count, pg_catalog.string_agg(w.name, ', ' ORDER BY w.place) AS names,
               pg_catalog.string_agg('t.' || w.name, ', ' ORDER BY w.place) AS values,
               pg_catalog.string_agg(w.name || ' ' || w.type, ', ' ORDER BY w.place) AS typed,
               pg_catalog.string_agg(w.name || ' = n.' || w.name, ', ' ORDER BY w.place) FILTER (
                   WHERE w.identity <> 'a' AND NOT w.number = ANY (coalesce(k.numbers, '{}'))) AS set,
               pg_catalog.bool_or(w.merges) AS merges
          FROM (SELECT pg_catalog.quote_ident(a.attname) AS name, pg_catalog.format_type(a.atttypid, a.atttypmod) AS type, e.place,
                       a.attnum AS number, a.attidentity AS identity, coalesce(a.attoptions::text ~ 'log_old_value|delta', false) AS merges
                  FROM pg_catalog.jsonb_array_elements_text(f.columns) WITH ORDINALITY AS e(name, place)
                  JOIN pg_catalog.pg_attribute AS a ON a.attrelid = pg_catalog.to_regclass(f.name) AND a.attname::text = e.name
                       AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') AS w) AS c ON true;
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
        v_table ->> 'hash', v_table ->> 'key', v_table ->> 'name', v_condition, v_table ->> 'keys'))
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
        CASE WHEN p_state ->> 'bag' = 'there' THEN ', ' || (v_table ->> 'values') ELSE '' END, v_table ->> 'name', v_state ->> 'block',
        CASE WHEN (v_state ->> 'block')::bigint + 500 <= (v_state ->> 'blocks')::bigint THEN pg_catalog.format(
            ' AND t.ctid < ''(%%s,0)''', (v_state ->> 'block')::bigint + 500) ELSE '' END, c_of,
        coalesce(' AND (' || (v_table ->> 'filter') || ')', ''));
    IF p_state ->> 'bag' = 'here' THEN
        EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_bag (hash, at) SELECT q.* FROM (%%s) AS q(hash, at)'
            ' WHERE $1 IS NULL OR q.at >= $1', v_query) USING v_newest;
        SELECT pg_catalog.max(b.at) INTO v_newest FROM pg_temp.zodan_level_bag AS b;
        DELETE FROM pg_temp.zodan_level_bag AS b WHERE b.at < v_newest;
    ELSE
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
    v_trouble text;
    c_rows CONSTANT text := pg_catalog.format('WITH l AS MATERIALIZED (SELECT w.id, t.ctid AS place'
        ' FROM pg_temp.zodan_level_row AS w JOIN ONLY %%s AS t ON t.ctid = pg_catalog.split_part(w.here, '' '', 3)::tid'
        ' AND t.xmin = pg_catalog.split_part(w.here, '' '', 2)::xid WHERE w.id = ANY ($1) FOR UPDATE OF t SKIP LOCKED) ',
        p_table ->> 'name');
BEGIN
    -- As an apply worker does.
    PERFORM pg_catalog.set_config('session_replication_role', 'replica', true);
    PERFORM pg_catalog.set_config('synchronous_commit', 'off', true);
    PERFORM pg_catalog.set_config('lock_timeout', '500ms', true);
    IF p_verdict = 'deleted' THEN
        EXECUTE pg_catalog.format('%%s DELETE FROM ONLY %%s AS t USING l WHERE t.ctid = l.place', c_rows, p_table ->> 'name') USING p_ids;
    ELSIF p_verdict = 'inserted' THEN
        EXECUTE pg_catalog.format('INSERT INTO %%s (%%s) OVERRIDING SYSTEM VALUE SELECT %%s FROM pg_temp.zodan_level_new AS t'
            ' WHERE t."zodan id" = ANY ($1)%%s', p_table ->> 'name', p_table ->> 'names', p_table ->> 'values',
            p_table ->> 'clause') USING p_ids;
    ELSIF p_table ->> 'set' IS NOT NULL THEN
        EXECUTE pg_catalog.format('%%s UPDATE ONLY %%s AS t SET %%s FROM l JOIN pg_temp.zodan_level_new AS n ON n."zodan id" = l.id'
            ' WHERE t.ctid = l.place', c_rows, p_table ->> 'name', p_table ->> 'set') USING p_ids;
    END IF;
    GET DIAGNOSTICS v_rows = ROW_COUNT;
    RETURN coalesce(v_rows, 0);
EXCEPTION WHEN integrity_constraint_violation OR lock_not_available THEN
    v_trouble := SQLERRM;
    UPDATE pg_temp.zodan_level_row AS w SET why = v_trouble WHERE w.id = ANY (p_ids);
    RETURN 0;
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
    CREATE OR REPLACE PROCEDURE pg_temp.zodan_write(INOUT p_state jsonb, p_table jsonb, p_ids bigint[]) LANGUAGE plpgsql AS $function$
DECLARE
    v_group record;
    v_rows bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_temp.zodan_level_row AS w WHERE w.id = ANY (p_ids) AND w.verdict IS NOT NULL) THEN
        RETURN;
    END IF;
    DROP TABLE IF EXISTS pg_temp.zodan_level_new;
    EXECUTE pg_catalog.format('CREATE TEMPORARY TABLE zodan_level_new AS SELECT 0::bigint AS "zodan id", %%s FROM ONLY %%s AS t WHERE false',
        p_table ->> 'values', p_table ->> 'name');
    EXECUTE pg_catalog.format('INSERT INTO pg_temp.zodan_level_new SELECT w.id, %%s FROM pg_temp.dblink($1, $2) AS t("zodan key" jsonb,'
        ' "zodan version" text, %%s) JOIN pg_temp.zodan_level_row AS w ON w.key = t."zodan key" AND w.there = t."zodan version"'
        ' WHERE w.id = ANY ($3)', p_table ->> 'values', p_table ->> 'typed')
      USING pg_temp.zodan_peer(p_state ->> 'furthest'), pg_catalog.format(
          'SELECT %%s, pg_catalog.concat_ws('' '', %%s, t.xmin, t.ctid), %%s FROM ONLY %%s AS t WHERE %%s', p_table ->> 'key',
          p_table ->> 'hash', p_table ->> 'values', p_table ->> 'name', pg_temp.zodan_among(p_table, ARRAY(
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
        UPDATE pg_temp.zodan_level_row AS w SET stable = 0, absent = 0, there = NULL, here = NULL WHERE w.id = ANY (v_group.ids);
        COMMIT;
        p_state := p_state || pg_catalog.jsonb_build_object('wrote', (p_state ->> 'wrote')::bigint + v_rows,
            v_group.verdict, (p_state ->> v_group.verdict)::bigint + v_rows);
    END LOOP;
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
             ORDER BY w.id LIMIT 300) AS r
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

CREATE FUNCTION zodan.level_rows()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$CALL pg_temp.zodan_level(NULL)$sql$
$zodan$;
COMMENT ON FUNCTION zodan.level_rows IS
'Takes the levelling on for about a second, in a session that zodan.open_level prepared; for until_sql.';
REVOKE ALL ON FUNCTION zodan.level_rows FROM PUBLIC;

CREATE FUNCTION zodan.describe_leave(p_facts jsonb, p_target text)
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

CREATE FUNCTION zodan.is_reachable(p_node text, p_dsn text)
RETURNS boolean
LANGUAGE sql
AS $zodan$
SELECT (zodan.open_connection(p_node, pg_catalog.jsonb_build_object(p_node, zodan.canonical_dsn(p_dsn)),
    'zodan remove_node ' || p_node) ->> 'ok')::boolean
$zodan$;
COMMENT ON FUNCTION zodan.is_reachable IS
'Returns whether a node can be connected to; the connection stays open. Errors: ZD001.';
REVOKE ALL ON FUNCTION zodan.is_reachable FROM PUBLIC;

CREATE FUNCTION zodan.check_survivors(p_facts jsonb, p_leave jsonb, p_accept boolean, p_level boolean)
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

CREATE FUNCTION zodan.check_outsiders(p_facts jsonb, p_leave jsonb)
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

CREATE FUNCTION zodan.check_leave(
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
SELECT s.* FROM zodan.check_survivors(p_facts, p_leave, p_accept, p_level) AS s
$zodan$;
COMMENT ON FUNCTION zodan.check_leave IS
'Returns every precondition of a removal. Every node can be reached, or p_force is given and at least one member
can; each is the node that it should be. The others can wait for what they receive from the target or, if the target
is dead, all have applied the same amount of it, or p_level or p_accept is given.';
REVOKE ALL ON FUNCTION zodan.check_leave FROM PUBLIC;

CREATE FUNCTION zodan.plan_drain(p_leave jsonb, p_patience interval)
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
                p_provider => v_target), p_budget := p_patience,
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

CREATE FUNCTION zodan.plan_withdraw(p_leave jsonb)
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
        RETURN NEXT zodan.make_step('forget', v_member, pg_catalog.format('forget node %s on %s', v_target, v_member),
            p_do := zodan.forget_node(v_target), p_object := v_target);
        RETURN NEXT zodan.make_step('prove', v_member, pg_catalog.format('prove that nothing of %s is left on %s',
            v_target, v_member),
            p_do := zodan.prove_gone(p_target => v_target,
                p_origins => zodan.list_stream_names(p_leave, v_member, 'subscriber'),
                p_slots => zodan.list_stream_names(p_leave, v_member, 'provider')), p_kind := 'verify');
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

CREATE FUNCTION zodan.plan_bury(p_leave jsonb)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps that remove a node which cannot be reached: all members drop their subscriptions to it at once,
then drop the slot that it used there and its row; a last step proves that they are gone. */
DECLARE
    v_target text := p_leave ->> 'target';
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
            pg_catalog.format('drop the slot that %s used on %s', v_target, v_member),
            p_do := zodan.drop_slot_of(p_provider => v_member, p_subscription => zodan.subscription_name(v_member,
                v_target)), p_policy := 'final', p_object := zodan.subscription_name(v_member, v_target));
        -- A join that never finished used this slot.
        RETURN NEXT zodan.make_step('forget', v_member,
            pg_catalog.format('drop the slot that the copy of %s used on %s', v_target, v_member),
            p_do := zodan.drop_slot_of(p_provider => v_member, p_subscription => zodan.copy_name(v_target)),
                p_policy := 'final', p_object := zodan.copy_name(v_target));
        RETURN NEXT zodan.make_step('forget', v_member,
            pg_catalog.format('drop the origins that the levelling used on %s', v_member),
            p_do := zodan.drop_level_origins(), p_policy := 'final', p_object := 'zodan level');
        RETURN NEXT zodan.make_step('forget', v_member, pg_catalog.format('forget node %s on %s', v_target, v_member),
            p_do := zodan.forget_node(v_target), p_policy := 'final', p_object := v_target);
        RETURN NEXT zodan.make_step('prove', v_member, pg_catalog.format('prove that nothing of %s is left on %s',
            v_target, v_member),
            p_do := zodan.prove_gone(p_target => v_target,
                p_origins => zodan.list_stream_names(p_leave, v_member, 'subscriber'),
                p_slots => zodan.list_stream_names(p_leave, v_member, 'provider')), p_kind := 'verify');
    END LOOP;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_bury IS
'Returns the steps that remove a node which cannot be reached: all members drop their subscriptions to it at once,
then drop the slot that it used there and its row; a last step proves that they are gone.';
REVOKE ALL ON FUNCTION zodan.plan_bury FROM PUBLIC;

CREATE FUNCTION zodan.plan_level(p_leave jsonb, p_patience interval)
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

CREATE FUNCTION zodan.plan_removal(p_leave jsonb, p_patience interval)
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

CREATE FUNCTION zodan.plan_leave(p_leave jsonb, p_patience interval)
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

CREATE FUNCTION zodan.survey_leave(
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
from this database if it is one. Returns the facts by node; target, members and their subscriptions; and the
connection strings of the nodes that it reached. Errors: ZD001 malformed connection string, ZD002 name missing, ZD003
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
    p_leave := zodan.describe_leave(p_facts, p_target);
END
$zodan$;
COMMENT ON FUNCTION zodan.survey_leave IS
'Connects to the node that is to go, learns the other nodes from it and from those it knows, until nobody names a
new one, and reads everybody''s facts. If the target cannot be reached, it starts from p_survivor_dsn, a member, or
from this database if it is one. Returns the facts by node; target, members and their subscriptions; and the
connection strings of the nodes that it reached. Errors: ZD001 malformed connection string, ZD002 name missing, ZD003
the target is another node.';
REVOKE ALL ON FUNCTION zodan.survey_leave FROM PUBLIC;

CREATE FUNCTION zodan.prepare_leave(
    p_target text,
    p_target_dsn text,
    p_survivor_dsn text,
    p_force boolean,
    p_accept boolean,
    p_level boolean,
    p_lock boolean,
    OUT p_plan zodan.plan_step[],
    OUT p_dsns jsonb,
    OUT p_checks zodan.check_result[]
)
LANGUAGE plpgsql
AS $zodan$
/* Everything before the first change of a removal: surveys the cluster, takes its lock if asked to, runs the
preconditions and makes the plan. Without the lock, and where a call was interrupted, it returns that call's plan as
it stands. Leaves the connections open. Errors: those of zodan.survey_leave, zodan.lock_members and
zodan.judge_checks. */
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
    p_plan := zodan.plan_leave(v_survey.p_leave || pg_catalog.jsonb_build_object('level', p_level, 'accept', p_accept,
        'sets', zodan.list_exchanged(v_survey.p_facts, v_survey.p_leave)), zodan.read_patience());
END
$zodan$;
COMMENT ON FUNCTION zodan.prepare_leave IS
'Everything before the first change of a removal: surveys the cluster, takes its lock if asked to, runs the
preconditions and makes the plan. Without the lock, and where a call was interrupted, it returns that call''s plan as
it stands. Leaves the connections open. Errors: those of zodan.survey_leave, zodan.lock_members and
zodan.judge_checks.';
REVOKE ALL ON FUNCTION zodan.prepare_leave FROM PUBLIC;


CREATE FUNCTION zodan.node_facts(p_node text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT n.location, n.country, n.info FROM spock.node AS n WHERE n.node_name = %1$s$sql$,
    zodan.quote_text(p_node))
$zodan$;
COMMENT ON FUNCTION zodan.node_facts IS
'Returns how Spock describes a node that it knows: location, country and info.';
REVOKE ALL ON FUNCTION zodan.node_facts FROM PUBLIC;

CREATE FUNCTION zodan.read_clock()
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT $sql$SELECT pg_catalog.clock_timestamp() AS at$sql$
$zodan$;
COMMENT ON FUNCTION zodan.read_clock IS
'Returns the time on a node.';
REVOKE ALL ON FUNCTION zodan.read_clock FROM PUBLIC;

CREATE FUNCTION zodan.wait_beside(p_soak text, p_subscriptions text[], p_since text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT t.replicate AND t.passed >= %1$s::interval AS ok, t.states AS progress, t.trouble, t.replicate AS alive,
       CASE WHEN t.replicate THEN pg_catalog.format('the end of %%s, of which %%s have passed', %1$s,
           pg_catalog.date_trunc('second', t.passed)) ELSE coalesce(t.states, 'a lost subscription') END AS blockers
  FROM (SELECT coalesce(pg_catalog.count(*) = pg_catalog.cardinality(%2$s)
                   AND pg_catalog.bool_and(s.status = 'replicating'), false) AS replicate,
               pg_catalog.string_agg(s.subscription_name || ' ' || s.status, ', ' ORDER BY s.subscription_name)
                   AS states,
               pg_catalog.string_agg(pg_catalog.format('subscription %%s is disabled',
                   pg_catalog.quote_ident(s.subscription_name)), ', ')
                   FILTER (WHERE s.status = 'disabled') AS trouble,
               pg_catalog.clock_timestamp() - %3$s::timestamptz AS passed
          FROM spock.sub_show_status() AS s
         WHERE s.subscription_name::text = ANY (%2$s)) AS t$sql$,
    zodan.quote_text(p_soak), zodan.quote_list(p_subscriptions), zodan.quote_result(p_since))
$zodan$;
COMMENT ON FUNCTION zodan.wait_beside IS
'Returns, on a subscriber, whether all of p_subscriptions replicate and p_soak has passed there since p_since; for
until_sql. As long as they replicate, the step may take as long as it wants.';
REVOKE ALL ON FUNCTION zodan.wait_beside FROM PUBLIC;

CREATE FUNCTION zodan.wait_quiet(p_quiet text, p_node text, p_origin text)
RETURNS text
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.format($sql$SELECT q.since >= %1$s::interval AS ok,
       pg_catalog.format('the end of writing on node %%s: the last transaction came %%s ago',
           pg_catalog.quote_ident(%2$s), pg_catalog.date_trunc('milliseconds', q.since)) AS blockers
  FROM (SELECT pg_catalog.clock_timestamp() - (pg_catalog.set_config('zodan.quiet', pg_catalog.jsonb_build_object(
                   'low', t.low, 'count', t.running, 'since',
                   CASE WHEN t.seen > coalesce((t.before ->> 'count')::bigint, -1) THEN pg_catalog.clock_timestamp()
                        ELSE (t.before ->> 'since')::timestamptz END)::text, false)::jsonb ->> 'since')::timestamptz
                   AS since
          FROM (SELECT l.low, l.before, pg_catalog.count(c.roident) AS seen,
                       pg_catalog.count(c.roident) FILTER (WHERE x.xid >= l.low) AS running
                  FROM (SELECT pg_catalog.pg_snapshot_xmin(s.now)::text::bigint AS low,
                               pg_catalog.pg_snapshot_xmax(s.now)::text::bigint AS high,
                               nullif(pg_catalog.current_setting('zodan.quiet', true), '')::jsonb AS before
                          FROM pg_catalog.pg_current_snapshot() AS s(now)) AS l
                  LEFT JOIN LATERAL pg_catalog.generate_series(coalesce((l.before ->> 'low')::bigint, l.low),
                      l.high - 1) AS x(xid) ON true
                  LEFT JOIN LATERAL (
                    SELECT i.roident
                      FROM pg_catalog.pg_xact_commit_timestamp_origin((CASE WHEN x.xid %% 4294967296 > 2
                               THEN x.xid %% 4294967296 END)::text::xid) AS i
                     WHERE i.roident IN (
                        SELECT o.roident FROM pg_catalog.pg_replication_origin AS o WHERE o.roname = %3$s
                        UNION ALL SELECT n.node_id FROM spock.node AS n WHERE n.node_name = %2$s)) AS c ON true
                 GROUP BY l.low, l.before) AS t) AS q$sql$,
    zodan.quote_text(p_quiet), zodan.quote_text(p_node), zodan.quote_text(p_origin))
$zodan$;
COMMENT ON FUNCTION zodan.wait_quiet IS
'Returns, on a subscriber, whether no transaction of p_node, the provider of the stream with the origin p_origin, has
been applied there for p_quiet; for until_sql. What is applied has an origin in its commit timestamp: the stream''s or,
where Spock applies, the number of the provider. The session keeps what the last look saw in the setting zodan.quiet:
the oldest transaction that was still running, how many from that one on were of the provider, and since when it has
been quiet.';
REVOKE ALL ON FUNCTION zodan.wait_quiet FROM PUBLIC;

CREATE FUNCTION zodan.add_newcomer(p_leave jsonb, p_cluster jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT p_leave || pg_catalog.jsonb_build_object(
    'members', (SELECT pg_catalog.jsonb_agg(m.name ORDER BY m.name COLLATE "C")
                  FROM pg_catalog.jsonb_array_elements_text((p_leave -> 'members') || (p_cluster -> 'new')) AS m(name)),
    'subscriptions', (p_leave -> 'subscriptions') || pg_catalog.jsonb_build_object(
        n.target, (p_leave #> ARRAY['subscriptions', n.target]) || pg_catalog.jsonb_build_object(
            'name', zodan.subscription_name(n.new, n.target), 'provider', n.new, 'enabled', true,
            'slot', p_cluster #> ARRAY['slots', n.new, n.target]),
        n.new, pg_catalog.jsonb_build_array(pg_catalog.jsonb_build_object(
            'name', zodan.subscription_name(n.target, n.new), 'provider', n.target, 'enabled', true,
            'slot', p_cluster #> ARRAY['slots', n.target, n.new]))))
  FROM (SELECT p_leave ->> 'target' AS target, p_cluster ->> 'new' AS new) AS n
$zodan$;
COMMENT ON FUNCTION zodan.add_newcomer IS
'Adds the new node of p_cluster, and its streams from and to the target, to p_leave, the description of a removal
from before the join.';
REVOKE ALL ON FUNCTION zodan.add_newcomer FROM PUBLIC;

CREATE FUNCTION zodan.describe_replace(p_leave jsonb, p_new text, p_arguments jsonb)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
AS $zodan$
SELECT pg_catalog.jsonb_build_object('new', p_new, 'soak', p_arguments -> 'soak', 'quiet', coalesce(p_arguments ->> 'quiet',
    '5 s'),
    'origin', (SELECT s.item -> 'slot'
                 FROM pg_catalog.jsonb_array_elements(p_leave #> ARRAY['subscriptions', p_new]) AS s(item)
                WHERE s.item ->> 'provider' = p_leave ->> 'target' LIMIT 1))
$zodan$;
COMMENT ON FUNCTION zodan.describe_replace IS
'Returns what zodan.plan_beside needs to know of a replacement: new, soak, quiet, and origin, the name of the stream
from the old node to the new one.';
REVOKE ALL ON FUNCTION zodan.describe_replace FROM PUBLIC;

CREATE FUNCTION zodan.plan_beside(p_replace jsonb, p_leave jsonb, p_patience interval)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the steps between the join of the new node and the removal of the old: both live beside each other for the
time of the soak, or for as long as it takes to see that every stream of the new node replicates; then users have to
have ended to write on the old node, unless that is dead or nobody asks for it. p_replace has new, the members without
it, soak, quiet, and origin, the name of the stream from the old node to the new one. */
DECLARE
    v_new text := p_replace ->> 'new';
    v_old text := p_leave ->> 'target';
    v_members text[] := ARRAY(SELECT m.name
        FROM pg_catalog.jsonb_array_elements_text(p_leave -> 'members') WITH ORDINALITY AS m(name, place)
       WHERE m.name <> v_new ORDER BY m.place) || CASE WHEN NOT (p_leave ->> 'dead')::boolean THEN v_old END;
    v_node text;
    v_place bigint;
    v_soak text := coalesce(p_replace ->> 'soak', '0');
BEGIN
    v_members := pg_catalog.array_remove(v_members, NULL);
    FOR v_node, v_place IN
        SELECT n.name, n.place FROM pg_catalog.unnest(v_members || v_new) WITH ORDINALITY AS n(name, place)
    LOOP
        RETURN NEXT zodan.make_step('joined', v_node, pg_catalog.format('note the time on %s, where %s is a member', v_node, v_new),
            p_do := zodan.read_clock(), p_ref := 'joined' || v_place, p_policy := 'passed', p_object := v_new);
        RETURN NEXT zodan.make_step('beside', v_node, CASE WHEN v_soak::interval > interval '0'
                THEN pg_catalog.format('watch the streams of %s for %s on %s', v_new, v_soak, v_node)
                ELSE pg_catalog.format('see that the streams of %s replicate on %s', v_new, v_node) END,
            p_until := zodan.wait_beside(p_soak => v_soak, p_since => zodan.placeholder('result', 'joined' || v_place, 'at'),
                p_subscriptions => CASE WHEN v_node <> v_new THEN ARRAY[zodan.subscription_name(v_new, v_node)]
                    ELSE ARRAY(SELECT zodan.subscription_name(m.name, v_new) FROM pg_catalog.unnest(v_members) AS m(name)) END),
            p_budget := p_patience, p_kind := 'verify', p_object := v_new);
    END LOOP;
    IF NOT (p_leave ->> 'dead')::boolean AND (p_replace ->> 'quiet')::interval > interval '0' THEN
        RETURN NEXT zodan.make_step('quiet', v_new, 'wait until users no longer write on ' || v_old,
            p_until := zodan.wait_quiet(p_node => v_old, p_quiet => p_replace ->> 'quiet', p_origin => p_replace ->> 'origin'),
            p_budget := p_patience, p_object := v_old);
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_beside IS
'Returns the steps between the join of the new node and the removal of the old: both live beside each other for the
time of the soak, or for as long as it takes to see that every stream of the new node replicates; then users have to
have ended to write on the old node, unless that is dead or nobody asks for it. p_replace has new, the members without
it, soak, quiet, and origin, the name of the stream from the old node to the new one.';
REVOKE ALL ON FUNCTION zodan.plan_beside FROM PUBLIC;

CREATE FUNCTION zodan.plan_rest(
    p_replace jsonb,
    p_leave jsonb,
    p_patience interval,
    p_after zodan.plan_step
)
RETURNS zodan.plan_step[]
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns what follows the join in a replacement: the steps of zodan.plan_beside and the removal of the old node, as
p_leave describes it, numbered after p_after, the last step of the join. */
DECLARE
    v_steps zodan.plan_step[];
BEGIN
    SELECT pg_catalog.array_agg(s::zodan.plan_step) INTO v_steps FROM (
        SELECT * FROM zodan.plan_beside(p_replace, p_leave, p_patience)
        UNION ALL SELECT * FROM zodan.plan_removal(p_leave, p_patience)) AS s;
    RETURN (SELECT pg_catalog.array_agg(n ORDER BY n.ordinal) FROM zodan.number_steps(v_steps,
        '{joined,beside,quiet,unpublish,mark,settled,drain,drained,halt,halted,level,levelled,leave,forget,prove,drop,proven}', p_after) AS n);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_rest IS
'Returns what follows the join in a replacement: the steps of zodan.plan_beside and the removal of the old node, as
p_leave describes it, numbered after p_after, the last step of the join.';
REVOKE ALL ON FUNCTION zodan.plan_rest FROM PUBLIC;

CREATE FUNCTION zodan.plan_replace(
    p_cluster jsonb,
    p_leave jsonb,
    p_arguments jsonb,
    p_patience interval
)
RETURNS zodan.plan_step[]
LANGUAGE plpgsql STABLE
AS $zodan$
/* Returns the whole plan of a replacement: the join of the new node of p_cluster, then the rest, for p_leave, which
describes the removal as it is before the join. */
DECLARE
    v_join zodan.plan_step[] := zodan.plan_join(p_cluster, p_arguments ->> 'new_node_location',
        p_arguments ->> 'new_node_country', p_arguments -> 'new_node_info', p_patience);
    v_leave jsonb := zodan.add_newcomer(p_leave, p_cluster);
BEGIN
    RETURN v_join || zodan.plan_rest(zodan.describe_replace(v_leave, p_cluster ->> 'new', p_arguments), v_leave, p_patience,
        v_join[pg_catalog.cardinality(v_join)]);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_replace IS
'Returns the whole plan of a replacement: the join of the new node of p_cluster, then the rest, for p_leave, which
describes the removal as it is before the join.';
REVOKE ALL ON FUNCTION zodan.plan_replace FROM PUBLIC;

CREATE FUNCTION zodan.check_soak(p_soak interval, p_quiet interval)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Raises ZD004 for a time beside each other or without writing that makes no sense. */
BEGIN
    IF least(p_soak, p_quiet) < interval '0' THEN
        RAISE EXCEPTION USING
            ERRCODE = 'ZD004',
            MESSAGE = pg_catalog.format(CASE WHEN p_soak < interval '0' THEN 'soak is %s' ELSE 'quiet is %s' END,
                least(p_soak, p_quiet)),
            HINT = 'Give an interval such as 1 h, or leave it out.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_soak IS
'Raises ZD004 for a time beside each other or without writing that makes no sense.';
REVOKE ALL ON FUNCTION zodan.check_soak FROM PUBLIC;

CREATE FUNCTION zodan.check_old_node(p_old text, p_old_dsn text)
RETURNS void
LANGUAGE plpgsql
AS $zodan$
/* Connects to the old node of a replacement and raises ZD003 if its connection string leads to another node. Errors:
ZD001, ZD101 it cannot be reached. */
DECLARE
    v_facts jsonb := zodan.gather_facts(pg_catalog.jsonb_build_object(p_old, zodan.canonical_dsn(p_old_dsn)),
        'zodan replace_node') -> p_old;
BEGIN
    IF v_facts ? 'error' THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD101',
            MESSAGE = pg_catalog.format('the old node "%s" cannot be reached', p_old),
            DETAIL = v_facts ->> 'error',
            HINT = 'Bring it back; if it is gone for good, remove it with spock.remove_node and force => true, then call '
                'spock.add_node.';
    ELSIF v_facts #>> '{spock,node}' IS DISTINCT FROM p_old THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD003',
            MESSAGE = pg_catalog.format('the old node''s connection string does not lead to node "%s"', p_old),
            DETAIL = coalesce('It leads to node "' || (v_facts #>> '{spock,node}') || '".', 'The database there is no Spock node.'),
            HINT = 'Give the name and the connection string of the member to replace.';
    END IF;
END
$zodan$;
COMMENT ON FUNCTION zodan.check_old_node IS
'Connects to the old node of a replacement and raises ZD003 if its connection string leads to another node. Errors:
ZD001, ZD101 it cannot be reached.';
REVOKE ALL ON FUNCTION zodan.check_old_node FROM PUBLIC;

CREATE FUNCTION zodan.prepare_replace(
    p_old_dsn text,
    p_source_dsn text,
    p_new text,
    p_new_dsn text,
    p_lock boolean,
    INOUT p_arguments jsonb,
    OUT p_plan zodan.plan_step[],
    OUT p_dsns jsonb,
    OUT p_checks zodan.check_result[]
)
LANGUAGE plpgsql
AS $zodan$
/* Everything before the first change of a replacement: examines the join of the new node and the removal of the old,
and plans both. p_arguments are those of zodan.replace_node that the journal keeps; what they say nothing of, location,
country and info, is the old node's, and is added. Without the lock, and where a call was interrupted, it returns that
call's plan as it stands. Leaves the connections open. Errors: ZD002 names missing or equal, ZD003 a connection string
leads to another node, those of zodan.examine_join. */
DECLARE
    v_old text := p_arguments ->> 'old_node_name';
    v_source text := p_arguments ->> 'src_node_name';
    v_found record;
    v_leave jsonb;
    v_facts jsonb;
    v_checks zodan.check_result[];
    v_described jsonb;
BEGIN
    IF NOT p_lock THEN
        -- What a call would continue, if one was interrupted.
        p_plan := zodan.read_plan('replace_node', p_new);
        IF p_plan IS NOT NULL THEN
            RETURN;
        END IF;
    END IF;
    IF coalesce(v_old, '') = '' OR coalesce(p_new, '') = '' OR v_old = p_new THEN
        PERFORM zodan.close_connections();
        RAISE EXCEPTION USING
            ERRCODE = 'ZD002',
            MESSAGE = pg_catalog.format('the old node "%s" and the new node "%s" must be two nodes', v_old, p_new),
            HINT = 'Name the member to replace, and a new name for the new node.';
    END IF;
    PERFORM zodan.check_old_node(v_old, p_old_dsn);
    SELECT * INTO v_found FROM zodan.examine_join(v_source, p_source_dsn, p_new, p_new_dsn, (p_arguments ->> 'roles')::boolean,
        (p_arguments ->> 'jobs')::int, p_arguments ->> 'structure', p_arguments ->> 'copy',
        pg_catalog.jsonb_build_object('max_rate', p_arguments -> 'max_rate', 'max_lag', p_arguments -> 'max_lag'),
        (p_arguments ->> 'verify')::boolean, p_lock);
    -- What is in the way of the removal is found before anything is changed, and looked for again before the removal.
    v_leave := zodan.describe_leave(v_found.p_facts - p_new, v_old);
    -- The slot of a physical copy is there before the join, and belongs to it.
    SELECT pg_catalog.jsonb_set(v_found.p_facts - p_new, ARRAY[v_old, 'spock', 'slots'], coalesce(pg_catalog.jsonb_agg(s.item)
           FILTER (WHERE s.item ->> 'name' <> v_found.p_cluster ->> 'copy_slot'), '[]')) INTO v_facts
      FROM pg_catalog.jsonb_array_elements(v_found.p_facts #> ARRAY[v_old, 'spock', 'slots']) AS s(item);
    SELECT pg_catalog.array_agg(zodan.give_verdict(f)) INTO v_checks
      FROM zodan.check_leave(v_facts, v_leave, false, false, NULL) AS f;
    PERFORM zodan.judge_checks(v_checks);
    p_checks := v_found.p_checks || v_checks;
    p_dsns := v_found.p_dsns;
    v_described := zodan.query_nodes(pg_catalog.jsonb_build_object(v_source, zodan.node_facts(v_old)), p_dsns)
        #> ARRAY[v_source, 'value'];
    p_arguments := pg_catalog.jsonb_build_object('new_node_location', v_described -> 'location', 'new_node_country',
        v_described -> 'country', 'new_node_info', v_described -> 'info') || (
        SELECT pg_catalog.jsonb_object_agg(a.key, a.value)
          FROM pg_catalog.jsonb_each(p_arguments) AS a(key, value) WHERE a.value <> 'null');
    p_plan := zodan.plan_replace(v_found.p_cluster, v_leave, p_arguments, zodan.read_patience());
END
$zodan$;
COMMENT ON FUNCTION zodan.prepare_replace IS
'Everything before the first change of a replacement: examines the join of the new node and the removal of the old,
and plans both. p_arguments are those of zodan.replace_node that the journal keeps; what they say nothing of, location,
country and info, is the old node''s, and is added. Without the lock, and where a call was interrupted, it returns that
call''s plan as it stands. Leaves the connections open. Errors: ZD002 names missing or equal, ZD003 a connection string
leads to another node, those of zodan.examine_join.';
REVOKE ALL ON FUNCTION zodan.prepare_replace FROM PUBLIC;

CREATE FUNCTION zodan.replan_rest(p_operation bigint, INOUT p_dsns jsonb, OUT p_failure jsonb)
LANGUAGE plpgsql
AS $zodan$
/* Plans what follows the join in a replacement again, from the facts of now, and judges the removal by them: before it
begins, and where a node that it needs has gone. A step that is in the new plan too keeps its state and its result.
Takes the lock of members that have come. p_dsns are the connection strings of the nodes that were reached. Returns
NULL, or the failure as zodan.describe_failure returns it: ZD100, what is in the way of the removal. */
DECLARE
    v_operation zodan.operation;
    v_before zodan.step[];
    v_join zodan.plan_step;
    v_survey record;
    v_checks zodan.check_result[];
    v_plan zodan.plan_step[];
    v_old text;
BEGIN
    SELECT * INTO STRICT v_operation FROM zodan.operation AS o WHERE o.operation_id = p_operation;
    v_old := v_operation.arguments ->> 'old_node_name';
    SELECT * INTO v_survey FROM zodan.survey_leave(v_old, coalesce(p_dsns ->> v_old, v_operation.members ->> v_old),
        p_dsns ->> v_operation.node);
    PERFORM zodan.lock_members(v_survey.p_dsns);
    IF NOT v_survey.p_leave -> 'members' ? v_operation.node THEN
        p_failure := pg_catalog.jsonb_build_object('sqlstate', 'ZD003', 'message', pg_catalog.format(
            'the new node "%s" is no member', v_operation.node), 'hint', pg_catalog.format('CALL zodan.rollback(%s).', p_operation));
        RETURN;
    END IF;
    SELECT pg_catalog.array_agg(zodan.give_verdict(f)) INTO v_checks
      FROM zodan.check_leave(v_survey.p_facts, v_survey.p_leave, coalesce((v_operation.arguments ->> 'force')::boolean, false),
          coalesce((v_operation.arguments ->> 'accept_divergence')::boolean, false), NULL) AS f
     -- Somebody has removed it already: what follows proves that nothing is left of it.
     WHERE (v_survey.p_leave ->> 'dead')::boolean IS FALSE
        OR pg_catalog.jsonb_path_exists(v_survey.p_facts, '$.*.spock.nodes.keyvalue() ? (@.key == $node)',
               pg_catalog.jsonb_build_object('node', v_old));
    p_failure := zodan.describe_checks(v_checks, pg_catalog.format('node "%s" stays a member', v_old));
    IF p_failure IS NOT NULL THEN
        RETURN;
    END IF;
    SELECT pg_catalog.array_agg(s ORDER BY s.ordinal) INTO v_before FROM zodan.step AS s
     WHERE s.operation_id = p_operation AND s.phase >= (SELECT pg_catalog.min(j.phase) FROM zodan.step AS j
           WHERE j.operation_id = p_operation AND j.policy = 'passed');
    v_join.ordinal := v_before[1].ordinal - 1;
    v_join.phase := v_before[1].phase - 1;
    v_plan := zodan.plan_rest(zodan.describe_replace(v_survey.p_leave, v_operation.node, v_operation.arguments),
        v_survey.p_leave, zodan.read_patience(), v_join);
    PERFORM zodan.replace_rest(p_operation, v_plan, v_before);
    p_dsns := p_dsns || v_survey.p_dsns;
    UPDATE zodan.operation SET members = members || (
        SELECT pg_catalog.jsonb_object_agg(d.key, zodan.redact_dsn(d.value)) FROM pg_catalog.jsonb_each_text(p_dsns) AS d(key, value))
     WHERE operation_id = p_operation;
END
$zodan$;
COMMENT ON FUNCTION zodan.replan_rest IS
'Plans what follows the join in a replacement again, from the facts of now, and judges the removal by them: before it
begins, and where a node that it needs has gone. A step that is in the new plan too keeps its state and its result.
Takes the lock of members that have come. p_dsns are the connection strings of the nodes that were reached. Returns
NULL, or the failure as zodan.describe_failure returns it: ZD100, what is in the way of the removal.';
REVOKE ALL ON FUNCTION zodan.replan_rest FROM PUBLIC;

CREATE FUNCTION zodan.plan_replace_node(
    old_node_name text,
    old_node_dsn text,
    new_node_name text,
    new_node_dsn text,
    new_node_location text DEFAULT NULL,
    new_node_country text DEFAULT NULL,
    new_node_info jsonb DEFAULT NULL,
    roles boolean DEFAULT false,
    jobs int DEFAULT NULL,
    structure text DEFAULT 'spock',
    max_rate bigint DEFAULT NULL,
    max_lag interval DEFAULT NULL,
    copy text DEFAULT 'rows',
    verify boolean DEFAULT true,
    src_node_name text DEFAULT NULL,
    src_dsn text DEFAULT NULL,
    soak interval DEFAULT NULL,
    quiet interval DEFAULT NULL
)
RETURNS SETOF zodan.plan_step
LANGUAGE plpgsql
AS $zodan$
/* Returns the plan that zodan.replace_node would run, as rows; changes nothing. Takes the arguments of
zodan.replace_node. Errors: ZD0nn bad input, ZD100 preconditions not met. */
DECLARE
    v_plan zodan.plan_step[];
    v_source text := coalesce(src_node_name, old_node_name);
BEGIN
    PERFORM zodan.hide_statement(old_node_dsn, new_node_dsn, src_dsn);
    PERFORM zodan.check_jobs(jobs);
    PERFORM zodan.check_limits(max_rate, max_lag);
    PERFORM zodan.check_structure_choice(structure);
    PERFORM zodan.check_copy_choice(copy, roles);
    PERFORM zodan.check_soak(soak, quiet);
    PERFORM zodan.close_connections();
    SELECT p.p_plan INTO v_plan
      FROM zodan.prepare_replace(old_node_dsn, CASE WHEN v_source = old_node_name THEN old_node_dsn ELSE src_dsn END,
               new_node_name, new_node_dsn, false, pg_catalog.jsonb_build_object('old_node_name', old_node_name,
                   'src_node_name', v_source, 'new_node_location', new_node_location, 'new_node_country', new_node_country,
                   'new_node_info', new_node_info, 'roles', roles, 'jobs', jobs, 'structure', structure,
                   'max_rate', max_rate, 'max_lag', max_lag, 'copy', copy, 'verify', verify, 'soak', soak, 'quiet', quiet)) AS p;
    PERFORM zodan.close_connections();
    RETURN QUERY SELECT * FROM pg_catalog.unnest(v_plan);
END
$zodan$;
COMMENT ON FUNCTION zodan.plan_replace_node IS
'Returns the plan that zodan.replace_node would run, as rows; changes nothing. Takes the arguments of
zodan.replace_node. Errors: ZD0nn bad input, ZD100 preconditions not met.';
REVOKE ALL ON FUNCTION zodan.plan_replace_node FROM PUBLIC;

CREATE PROCEDURE zodan.replace_node(
    old_node_name text,
    old_node_dsn text,
    new_node_name text,
    new_node_dsn text,
    verb boolean DEFAULT false,
    new_node_location text DEFAULT NULL,
    new_node_country text DEFAULT NULL,
    new_node_info jsonb DEFAULT NULL,
    dry_run boolean DEFAULT false,
    roles boolean DEFAULT false,
    jobs int DEFAULT NULL,
    structure text DEFAULT 'spock',
    max_rate bigint DEFAULT NULL,
    max_lag interval DEFAULT NULL,
    copy text DEFAULT 'rows',
    verify boolean DEFAULT true,
    src_node_name text DEFAULT NULL,
    src_dsn text DEFAULT NULL,
    soak interval DEFAULT NULL,
    quiet interval DEFAULT NULL,
    force boolean DEFAULT false,
    accept_divergence boolean DEFAULT false
)
LANGUAGE plpgsql
AS $zodan$
/* Replaces a member of a Spock cluster by another server while every member keeps accepting writes: the new node joins,
the rows of all nodes are compared, both live beside each other, and then the old one is removed. One operation with one
plan, which can be rolled back until the removal begins. old_node_name and old_node_dsn name the member to replace;
new_node_name and new_node_dsn the empty database that joins, under another name. Structure and data come from the old
node, or from the member that src_node_name and src_dsn name. location, country and info of the new node are by default
those of the old one. soak is how long both live beside each other before the removal, with every stream of the new node
watched. Then the call waits until nothing that users wrote on the old node has come for as long as quiet says, by
default 5 s: move your application meanwhile; 0 means that the removal does not wait. force goes on
without an old node that cannot be reached any longer, once the new one has joined, and accept_divergence is as for
spock.remove_node. roles, jobs, structure, max_rate, max_lag, copy and verify are as for spock.add_node. verb prints
every step; dry_run prints the plan and changes nothing. When called again after an interruption, it continues where it
stopped; jobs, max_rate, max_lag, soak and quiet stay as they were unless given. Errors: ZD0nn caller's mistake, ZD100
preconditions not met, ZD110 another operation is under way, ZD2nn a step failed on a node, ZD3nn a wait ran out of its
budget, ZD4nn something is left, such as ZD404: rows are different. */
DECLARE
    v_operation bigint;
    v_plan zodan.plan_step[];
    v_dsns jsonb;
    v_checks zodan.check_result[];
    v_failure jsonb;
    v_source text := coalesce(src_node_name, old_node_name);
    v_source_dsn text := CASE WHEN v_source = old_node_name THEN old_node_dsn ELSE src_dsn END;
    v_arguments jsonb := pg_catalog.jsonb_build_object('old_node_name', old_node_name, 'src_node_name', v_source,
        'new_node_location', new_node_location, 'new_node_country', new_node_country, 'new_node_info', new_node_info,
        'roles', roles, 'jobs', jobs, 'structure', structure, 'max_rate', max_rate, 'max_lag', max_lag, 'copy', copy, 'verify', verify,
        'soak', soak, 'quiet', quiet, 'force', nullif(force, false), 'accept_divergence', nullif(accept_divergence, false));
BEGIN
    PERFORM zodan.check_jobs(jobs);
    PERFORM zodan.check_limits(max_rate, max_lag);
    PERFORM zodan.check_structure_choice(structure);
    PERFORM zodan.check_copy_choice(copy, roles);
    PERFORM zodan.check_soak(soak, quiet);
    CALL zodan.require_autocommit('zodan.replace_node', NOT dry_run, old_node_dsn, new_node_dsn, src_dsn);
    PERFORM zodan.close_connections();
    v_operation := zodan.find_interrupted('replace_node', new_node_name);
    IF v_operation IS NOT NULL AND NOT dry_run THEN
        PERFORM zodan.check_same_call(v_operation, v_arguments);
        PERFORM zodan.set_arguments(v_operation, v_arguments);
        v_dsns := zodan.reopen(v_operation, pg_catalog.jsonb_build_object(old_node_name, old_node_dsn, v_source, v_source_dsn,
            new_node_name, new_node_dsn), true);
        PERFORM zodan.reopen_operation(v_operation, v_dsns);
        PERFORM zodan.set_lanes(v_operation, jobs);
        PERFORM zodan.set_limits(v_operation, pg_catalog.jsonb_build_object('max_rate', max_rate, 'max_lag', max_lag));
        RAISE NOTICE 'operation % continues where it stopped', v_operation;
    ELSE
        SELECT p.p_arguments, p.p_plan, p.p_dsns, p.p_checks INTO v_arguments, v_plan, v_dsns, v_checks
          FROM zodan.prepare_replace(old_node_dsn, v_source_dsn, new_node_name, new_node_dsn, NOT dry_run, v_arguments) AS p;
        IF dry_run THEN
            PERFORM zodan.close_connections();
            PERFORM zodan.show_plan(v_plan, verb);
            RETURN;
        END IF;
        v_operation := zodan.start_operation('replace_node', new_node_name, v_arguments, v_dsns, v_plan, v_checks);
    END IF;
    COMMIT;
    CALL zodan.carry_on(v_operation, v_dsns, verb, v_failure);
    PERFORM zodan.raise_failure(v_failure);
    PERFORM zodan.close_connections();
    RAISE NOTICE 'node "%" has replaced node "%", operation %', new_node_name, old_node_name, v_operation;
END
$zodan$;
COMMENT ON PROCEDURE zodan.replace_node IS
'Replaces a member of a Spock cluster by another server while every member keeps accepting writes: the new node joins,
the rows of all nodes are compared, both live beside each other, and then the old one is removed. One operation with one
plan, which can be rolled back until the removal begins. old_node_name and old_node_dsn name the member to replace;
new_node_name and new_node_dsn the empty database that joins, under another name. Structure and data come from the old
node, or from the member that src_node_name and src_dsn name. location, country and info of the new node are by default
those of the old one. soak is how long both live beside each other before the removal, with every stream of the new node
watched. Then the call waits until nothing that users wrote on the old node has come for as long as quiet says, by
default 5 s: move your application meanwhile; 0 means that the removal does not wait. force goes on
without an old node that cannot be reached any longer, once the new one has joined, and accept_divergence is as for
spock.remove_node. roles, jobs, structure, max_rate, max_lag, copy and verify are as for spock.add_node. verb prints
every step; dry_run prints the plan and changes nothing. When called again after an interruption, it continues where it
stopped; jobs, max_rate, max_lag, soak and quiet stay as they were unless given. Errors: ZD0nn caller''s mistake, ZD100
preconditions not met, ZD110 another operation is under way, ZD2nn a step failed on a node, ZD3nn a wait ran out of its
budget, ZD4nn something is left, such as ZD404: rows are different.';
REVOKE ALL ON PROCEDURE zodan.replace_node FROM PUBLIC;


CREATE FUNCTION zodan.plan_remove_node(
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

CREATE PROCEDURE spock.remove_node(
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
    v_failure jsonb;
    v_step zodan.step;
BEGIN
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
        PERFORM zodan.reopen_operation(v_operation, v_dsns);
        RAISE NOTICE 'operation % continues where it stopped', v_operation;
    ELSE
        SELECT p.p_plan, p.p_dsns, p.p_checks INTO v_plan, v_dsns, v_checks
          FROM zodan.prepare_leave(target_node_name, target_node_dsn, survivor_dsn, force, accept_divergence,
              level, NOT dry_run) AS p;
        IF dry_run THEN
            PERFORM zodan.close_connections();
            PERFORM zodan.show_plan(v_plan, verbose_mode);
            RETURN;
        END IF;
        PERFORM zodan.give_up_operations(target_node_name, 'the node is being removed');
        v_operation := zodan.start_operation('remove_node', target_node_name, '{}', v_dsns, v_plan, v_checks);
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


-- What ran belongs to the database, not to the extension: a dump carries it.
SELECT pg_catalog.pg_extension_config_dump('zodan.operation', '');
SELECT pg_catalog.pg_extension_config_dump('zodan.operation_operation_id_seq', '');
SELECT pg_catalog.pg_extension_config_dump('zodan.step', '');
SELECT pg_catalog.pg_extension_config_dump('zodan.sample', '');
SELECT pg_catalog.pg_extension_config_dump('zodan.unit', '');
SELECT pg_catalog.pg_extension_config_dump('zodan.compared', '');
