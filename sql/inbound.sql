/*
 * inbound.sql: which columns of the CRM take what Mailchimp shows (R88, R91, R92).
 *
 * One definition for each source of an audience. It runs as the source's owner, with the names of columns as they
 * are then: one that is gone, or has another name, is a failure of the definition (inbound_write.sql).
 */
CREATE TABLE mailchimp_sync.inbound (
	audience_id		integer NOT NULL,
	source_id		integer NOT NULL,
	-- {"FNAME": "first_name", "email": ..., "status": ..., "id": ..., "list_name": ..., "list_from": ...}
	columns			jsonb NOT NULL,
	defaults		jsonb NOT NULL,		-- {"lead_source": "MailChimp"}: of new rows
	create_new		boolean NOT NULL,
	into_relation	regclass,			-- null: the source's own
	into_key		text,				-- the source's key as an expression over into_relation
	search_path		text NOT NULL,		-- of who defined it, for the CRM's triggers
	-- every member is to be looked at again: those after this hash still are; null: all are
	walk_after		text COLLATE "C",
	failures		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz,
	PRIMARY KEY (audience_id, source_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.inbound', '');

/* ---- when a member is to be brought into the CRM ---- */

-- member.inbound_at of one whom Mailchimp shows for the first time; null where there is nowhere to bring it
CREATE FUNCTION mailchimp_sync.inbound_now(_audience_id integer) RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT mailchimp_sync.clock() FROM mailchimp_sync.inbound i WHERE i.audience_id = _audience_id LIMIT 1);
END
$$;

/*
 * Anything of it is news, whoever found it out. No trigger for rows that are new, which would fire where a dump is
 * restored: who stores them says inbound_now().
 */
CREATE FUNCTION mailchimp_sync.note_inbound() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	NEW.inbound_at := coalesce(mailchimp_sync.inbound_now(NEW.audience_id), NEW.inbound_at);
	RETURN NEW;
END
$$;
CREATE TRIGGER changed BEFORE UPDATE ON mailchimp_sync.member FOR EACH ROW
	WHEN ((OLD.status, OLD.mailchimp_id, OLD.email, OLD.read_fields) IS DISTINCT FROM (NEW.status, NEW.mailchimp_id, NEW.email, NEW.read_fields))
	EXECUTE FUNCTION mailchimp_sync.note_inbound();

/* ---- checking a definition ---- */

-- who calls: under which search_path the CRM's triggers will run
CREATE FUNCTION mailchimp_sync.path_to_write() RETURNS text
LANGUAGE c VOLATILE AS 'MODULE_PATHNAME', 'mc_path_to_write';

-- Mailchimp's own facts about a member, which are written whatever the policy of the audience (D14)
CREATE FUNCTION mailchimp_sync.inbound_facts() RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY['status', 'id', 'list_name', 'list_from']
$$;

CREATE FUNCTION mailchimp_sync.check_inbound_names(_audience_id integer, _source_id integer, _columns jsonb, _defaults jsonb)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_name	text;
	_tags	text[];
BEGIN
	IF jsonb_typeof(_columns) <> 'object' OR jsonb_path_exists(_columns, 'strict $.* ? (@.type() != "string")') THEN
		RAISE invalid_parameter_value USING MESSAGE = 'columns must be a JSON object of column names as strings',
			HINT = 'For example {"email": "email", "FNAME": "first_name", "status": "mailchimp_status"}.';
	ELSIF jsonb_typeof(_defaults) <> 'object' THEN
		RAISE invalid_parameter_value USING MESSAGE = 'defaults must be a JSON object of values by column',
			HINT = 'For example {"lead_source": "MailChimp"}.';
	END IF;
	SELECT f.value INTO _name FROM jsonb_each_text(_columns) f GROUP BY f.value HAVING count(*) > 1 ORDER BY 1 LIMIT 1;
	IF FOUND THEN
		RAISE invalid_parameter_value USING MESSAGE = format('column "%s" can take one value only', _name);
	END IF;
	-- those that the mapping names are made at Mailchimp
	SELECT array_agg(t.tag) INTO _tags FROM (
		SELECT m.tag FROM mailchimp_sync.merge_field m
		JOIN mailchimp_sync.audience a USING (connection, list_id) WHERE a.audience_id = _audience_id
		UNION
		SELECT jsonb_object_keys(s.field_exprs) FROM mailchimp_sync.source s WHERE s.source_id = _source_id) AS t(tag);
	FOR _name IN
		SELECT k FROM jsonb_object_keys(_columns) k
		WHERE k <> 'email' AND k <> ALL (mailchimp_sync.inbound_facts()) ORDER BY 1
	LOOP
		IF _name !~ '^[A-Z0-9_]{1,10}$' OR _name = 'EMAIL' THEN
			RAISE invalid_parameter_value USING MESSAGE = format('"%s" is nothing that a member has', _name),
				HINT = format('A member has %s, and merge fields by their tags.',
					array_to_string(ARRAY['email'] || mailchimp_sync.inbound_facts(), ', '));
		ELSIF _name <> ALL (_tags) THEN
			PERFORM mailchimp_sync.raise_unknown('merge field', _name, _tags);
		END IF;
	END LOOP;
END
$$;

-- as the owner, who will write them; rights may go later, and are asked for at each write, too
CREATE FUNCTION mailchimp_sync.check_inbound_columns(_source mailchimp_sync.source, _columns text[], _new_columns text[])
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_name		text;
	_attribute	pg_attribute;
	_right		text;
BEGIN
	IF NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = _source.relation AND c.relkind IN ('r', 'p', 'v', 'f')) THEN
		RAISE wrong_object_type USING MESSAGE = format('rows of %s cannot be written', _source.relation),
			HINT = 'Name the table that takes them as into_relation.';
	END IF;
	FOREACH _name IN ARRAY _columns || _new_columns LOOP
		SELECT * INTO _attribute FROM pg_attribute a
		WHERE a.attrelid = _source.relation AND a.attname = _name AND a.attnum > 0 AND NOT a.attisdropped;
		IF NOT FOUND THEN
			PERFORM mailchimp_sync.raise_unknown('column', _name, ARRAY(SELECT a.attname::text FROM pg_attribute a
				WHERE a.attrelid = _source.relation AND a.attnum > 0 AND NOT a.attisdropped));
		ELSIF _attribute.attgenerated <> '' OR _attribute.attidentity = 'a'
			OR NOT pg_column_is_updatable(_source.relation, _attribute.attnum, true) THEN
			RAISE object_not_in_prerequisite_state USING
				MESSAGE = format('column "%s" of %s cannot be written', _name, _source.relation),
				HINT = 'It is generated, or of a view that cannot be updated there.';
		END IF;
		_right := CASE WHEN _name <> ALL (_columns) THEN 'INSERT'
			WHEN NOT has_column_privilege(_source.owner, _source.relation, _attribute.attnum, 'UPDATE') THEN 'UPDATE'
			WHEN _name = ANY (_new_columns) THEN 'INSERT' END;
		IF NOT has_column_privilege(_source.owner, _source.relation, _attribute.attnum, _right) THEN
			RAISE insufficient_privilege USING MESSAGE = format('role %s, which owns source "%s", needs %s on column "%s" of %s',
				_source.owner, _source.source, _right, _name, _source.relation);
		END IF;
	END LOOP;
	IF _new_columns <> '{}' AND pg_relation_is_updatable(_source.relation, true) & 8 = 0 THEN
		RAISE object_not_in_prerequisite_state USING MESSAGE = format('no rows can be added to %s', _source.relation),
			HINT = 'Name the table that takes them as into_relation, or give create_new => false.';
	END IF;
END
$$;

/*
 * The key of the source as an expression over another relation, where rows are written into that one: it has to give
 * the same keys.
 */
CREATE FUNCTION mailchimp_sync.inbound_key(_source mailchimp_sync.source, _into regclass) RETURNS text
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_read	record;
BEGIN
	SELECT a.expr, a.type INTO _read
	FROM mailchimp_sync.analyse(_source.owner, _into, _source.source, _source.definition ->> 'key', 'key',
		format('key of source "%s" over %s', _source.source, _into)) a;
	IF to_regtype(_read.type) IS DISTINCT FROM to_regtype(_source.key_type) THEN
		RAISE datatype_mismatch USING MESSAGE = format('key of source "%s" is of type %s, over %s of type %s',
			_source.source, _source.key_type, _into, _read.type);
	END IF;
	RETURN _read.expr;
END
$$;

CREATE FUNCTION mailchimp_sync.is_citext(_type oid) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM pg_type t JOIN pg_type b ON b.oid = coalesce(nullif(t.typbasetype, 0), t.oid)
		WHERE t.oid = _type AND b.typname = 'citext')
$$;

-- the source was defined anew: what it was that could not be written may be right now
CREATE FUNCTION mailchimp_sync.reread_inbound(_source_id integer) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.inbound i SET next_attempt_at = NULL, walk_after = '', into_key = CASE
		WHEN EXISTS (SELECT FROM pg_class c WHERE c.oid = i.into_relation) THEN mailchimp_sync.inbound_key(s, i.into_relation) END
	FROM mailchimp_sync.source s
	WHERE s.source_id = _source_id AND i.source_id = _source_id
$$;

-- the index by which members are looked up in a column, as PostgreSQL shows it
CREATE FUNCTION mailchimp_sync.inbound_index(_what text, _column text, _type oid) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format(CASE WHEN _what = 'id' OR mailchimp_sync.is_citext(_type) THEN '%I'
		WHEN _type = 'text'::regtype THEN 'lower(%I)' ELSE 'lower((%I)::text)' END, _column)
$$;

-- members are looked up in the CRM by their id and by their address, page after page
CREATE FUNCTION mailchimp_sync.notice_inbound(_source mailchimp_sync.source, _columns jsonb, _creates boolean, _direction text)
RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_part	record;
BEGIN
	IF _creates AND NOT _columns ? 'email' AND _direction <> 'push' THEN
		RAISE NOTICE 'no new rows are made in %, since no column takes the address', _source.relation;
	END IF;
	FOR _part IN
		SELECT c.key, x.indexed FROM jsonb_each_text(_columns) c
		JOIN pg_attribute a ON a.attrelid = _source.relation AND a.attname = c.value
		CROSS JOIN LATERAL mailchimp_sync.inbound_index(c.key, a.attname, a.atttypid) AS x(indexed)
		WHERE c.key IN ('email', 'id') AND EXISTS (SELECT FROM pg_class r WHERE r.oid = _source.relation AND r.relkind IN ('r', 'p'))
			AND NOT mailchimp_sync.has_key_index(_source.relation, x.indexed)
		ORDER BY c.key
	LOOP
		RAISE NOTICE USING
			MESSAGE = format('no index of %s has %s', _source.relation, _part.indexed),
			HINT = format('Finding members by their %s reads the whole table until there is one.',
				CASE _part.key WHEN 'id' THEN 'id' ELSE 'address' END);
	END LOOP;
END
$$;

/* ---- defining ---- */

CREATE FUNCTION @extschema@.mc_set_inbound(audience text, source text, columns jsonb, defaults jsonb DEFAULT '{}',
	into_relation regclass DEFAULT NULL, create_new boolean DEFAULT true)
RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_set_inbound(text, text, jsonb, jsonb, regclass, boolean) IS
	'says which columns of the CRM take what Mailchimp shows of members; an empty object: none any more';

-- every member is looked at again; in pages, by the engine
CREATE FUNCTION mailchimp_sync.mc_set_inbound(_audience text, _source text, _columns jsonb, _defaults jsonb,
	_into_relation regclass, _create_new boolean)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_audience_id	integer := mailchimp_sync.audience_id(_audience);
	_source_id		integer := mailchimp_sync.source_of_audience(_audience_id, _source);
	_target			mailchimp_sync.source := mailchimp_sync.owned_source(_source_id);
	_direction		text := (SELECT a.direction FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id);
	_into_key		text;
BEGIN
	DELETE FROM mailchimp_sync.failure f
	WHERE f.work = 'pull' AND f.audience_id = _audience_id AND f.source_id = _source_id AND f.contact_key = '';
	IF coalesce(_columns, '{}') = '{}' THEN
		DELETE FROM mailchimp_sync.inbound WHERE audience_id = _audience_id AND source_id = _source_id;
		-- nothing waits for it any more
		UPDATE mailchimp_sync.member SET inbound_at = NULL
		WHERE audience_id = _audience_id AND inbound_at IS NOT NULL
			AND NOT EXISTS (SELECT FROM mailchimp_sync.inbound i WHERE i.audience_id = _audience_id);
		RETURN;
	END IF;
	_defaults := coalesce(_defaults, '{}');
	_create_new := coalesce(_create_new, true);
	PERFORM mailchimp_sync.check_inbound_names(_audience_id, _source_id, _columns, _defaults);
	IF _into_relation <> _target.relation THEN
		_into_key := mailchimp_sync.inbound_key(_target, _into_relation);
		_target.relation := _into_relation;
		_target.key_expr := _into_key;
	END IF;
	PERFORM mailchimp_sync.check_inbound_columns(_target, ARRAY(SELECT c.value FROM jsonb_each_text(_columns) c ORDER BY c.key),
		CASE WHEN _create_new AND _direction <> 'push' AND _columns ? 'email' THEN
			ARRAY(SELECT c.value FROM jsonb_each_text(_columns) c UNION SELECT jsonb_object_keys(_defaults) ORDER BY 1)
			ELSE '{}' END);
	PERFORM mailchimp_sync.check_query(_target.owner, mailchimp_sync.inbound_look_query(_target, _columns),
		format('inbound columns of source "%s"', _source));
	INSERT INTO mailchimp_sync.inbound AS i (audience_id, source_id, columns, defaults, create_new, into_relation, into_key,
		search_path, walk_after)
	VALUES (_audience_id, _source_id, _columns, _defaults, _create_new, CASE WHEN _into_key IS NOT NULL THEN _into_relation END,
		_into_key, mailchimp_sync.path_to_write(), '')
	ON CONFLICT (audience_id, source_id) DO UPDATE SET columns = excluded.columns, defaults = excluded.defaults,
		create_new = excluded.create_new, into_relation = excluded.into_relation, into_key = excluded.into_key,
		search_path = excluded.search_path, walk_after = excluded.walk_after, failures = 0, next_attempt_at = NULL;
	PERFORM mailchimp_sync.notice_inbound(_target, _columns, _create_new, _direction);
	PERFORM mailchimp_sync.wake();
END
$$;
