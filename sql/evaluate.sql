/*
 * evaluate.sql: the values that the expressions of a source give its contacts.
 *
 * The texts of the queries are made here and run by evaluate() as the source's
 * owner (src/evaluate.c), so they use nothing of this schema: the owner has no
 * rights on it. Whatever an expression is wrapped in stands outside of the
 * parentheses around it; within them the only name in sight is the alias, the source's name.
 */
-- a row of evaluate(), to be passed on in an array
CREATE TYPE mailchimp_sync.evaluated AS (
	contact_key		text,
	value			jsonb,		-- see source_query() in evaluate.sql; null with an error
	error_state		text,
	error_message	text
);

/*
 * The rows (contact_key text, value jsonb) of _query, whose $1 is _keys, or
 * what was wrong with which key. contact_key null: with the source as a whole, then
 * that is the only row.
 */
CREATE FUNCTION mailchimp_sync.evaluate(_role regrole, _query text, _keys text[],
	OUT contact_key text, OUT value jsonb, OUT error_state text, OUT error_message text)
RETURNS SETOF record
LANGUAGE c VOLATILE
AS 'MODULE_PATHNAME', 'mc_evaluate';

-- whether an error of a source as a whole stops it until it is defined anew; else it passes by itself
CREATE FUNCTION mailchimp_sync.error_is_lasting(_error_state text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE
AS 'MODULE_PATHNAME', 'mc_error_is_lasting';

-- what the expressions read; a relation that is gone has a name that no relation has
CREATE FUNCTION mailchimp_sync.source_from(_source mailchimp_sync.source) RETURNS text
LANGUAGE plpgsql STABLE		-- keeps its plan, which SQL does not
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN format('%s AS %I', coalesce(
			(SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c
				JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = _source.relation),
			format('%I.%I', 'pg_catalog', _source.relation::oid::text)),
		_source.source);
END
$$;

/*
 * How the key's type compares, as its default btree operator class says (strategy
 * 3: equal, 5: greater): under the search_path of an evaluation "=" would not
 * be that of citext, for one.
 */
CREATE FUNCTION mailchimp_sync.key_operator(_key_type text, _strategy integer, _otherwise text) RETURNS text
LANGUAGE plpgsql STABLE		-- the same
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		WITH RECURSIVE base(type) AS (
			SELECT to_regtype(_key_type)::oid
			UNION ALL
			SELECT t.typbasetype FROM base b JOIN pg_type t ON t.oid = b.type WHERE t.typtype = 'd'
		)
		SELECT format('OPERATOR(%I.%s)', coalesce(min(n.nspname), 'pg_catalog'), coalesce(min(o.oprname), _otherwise))
		FROM base b
		JOIN pg_opclass c ON c.opcintype = b.type AND c.opcdefault
		JOIN pg_am m ON m.oid = c.opcmethod AND m.amname = 'btree'
		JOIN pg_amop a ON a.amopfamily = c.opcfamily AND a.amoplefttype = b.type AND a.amoprighttype = b.type
			AND a.amopstrategy = _strategy
		JOIN pg_operator o ON o.oid = a.amopopr
		JOIN pg_namespace n ON n.oid = o.oprnamespace);
END
$$;

-- jsonb_build_object takes 100 arguments at most, so objects are glued of parts
CREATE FUNCTION mailchimp_sync.object_query(_members text[]) RETURNS text
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT coalesce(string_agg(p.part, ' || ' ORDER BY p.number), 'pg_catalog.jsonb_build_object()')
		FROM (
			SELECT m.ordinality / 40 AS number,
				format('pg_catalog.jsonb_build_object(%s)', string_agg(m.member, ', ' ORDER BY m.ordinality)) AS part
			FROM unnest(_members) WITH ORDINALITY AS m(member, ordinality)
			GROUP BY 1
		) AS p);
END
$$;

-- the column's tags and those whose rule holds: sorted, each once, none empty, without blanks around them as Mailchimp has them
CREATE FUNCTION mailchimp_sync.tags_query(_source mailchimp_sync.source) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT format('(SELECT coalesce(pg_catalog.jsonb_agg(t.tag ORDER BY t.tag COLLATE pg_catalog."C"), ''[]'') FROM '
			'(SELECT DISTINCT pg_catalog.btrim(u.tag, E'' \t\r\n'') AS tag '
			'FROM pg_catalog.unnest((%s)::pg_catalog.text[] || ARRAY[%s]::pg_catalog.text[]) AS u(tag)) AS t WHERE t.tag <> '''')',
			coalesce(_source.tags_expr, 'NULL'),
			(SELECT string_agg(format('CASE WHEN (%s) THEN %L END', r.value, r.key), ', ' ORDER BY r.key)
				FROM jsonb_each_text(_source.tag_exprs) AS r)));
END
$$;

/*
 * The values of the contacts with the keys $1, one row for each that there is:
 * {"email", "fields": {tag: value}, "tags": [...], "linked", "opt_out",
 * "rules": {audience_id: whether the audience's rule takes it}}.
 *
 * The keys are cast to the key's type, so that an index serves. Where rows of
 * the source share a key, which a view's can, the same one is taken each time.
 */
CREATE FUNCTION mailchimp_sync.source_query(_source_id integer, _audience_ids integer[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT format('SELECT DISTINCT ON (r.contact_key COLLATE pg_catalog."C") r.contact_key, r.value FROM ('
			'SELECT (%s)::pg_catalog.text AS contact_key, pg_catalog.jsonb_build_object('
				'''email'', (%s)::pg_catalog.text, ''fields'', %s, ''tags'', %s, '
				'''linked'', coalesce((%s), false), ''opt_out'', coalesce((%s), false), ''rules'', %s) AS value '
			'FROM %s WHERE (%s) %s ANY (($1)::%s[])) AS r '
			'ORDER BY r.contact_key COLLATE pg_catalog."C", r.value',
			s.key_expr, s.email_expr,
			mailchimp_sync.object_query((SELECT array_agg(format('%L, (%s)', f.key, f.value) ORDER BY f.key)
				FROM jsonb_each_text(s.field_exprs) AS f)),
			mailchimp_sync.tags_query(s),
			coalesce(s.linked_expr, 'true'), coalesce(s.opt_out_expr, 'false'),
			mailchimp_sync.object_query((
				SELECT array_agg(format('%L, coalesce((%s), false)', x.audience_id, coalesce(x.rule_expr, 'true'))
					ORDER BY x.audience_id)
				FROM mailchimp_sync.audience_source x
				WHERE x.source_id = s.source_id AND x.audience_id = ANY (_audience_ids))),
			mailchimp_sync.source_from(s), s.key_expr, mailchimp_sync.key_operator(s.key_type, 3, '='), s.key_type)
		FROM mailchimp_sync.source s
		WHERE s.source_id = _source_id);
END
$$;

-- which of the keys $1 have a row
CREATE FUNCTION mailchimp_sync.present_query(_source_id integer) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT DISTINCT (%1$s)::pg_catalog.text AS contact_key, NULL::pg_catalog.jsonb AS value '
		'FROM %2$s WHERE (%1$s) %3$s ANY (($1)::%4$s[])',
		s.key_expr, mailchimp_sync.source_from(s), mailchimp_sync.key_operator(s.key_type, 3, '='), s.key_type)
	FROM mailchimp_sync.source s
	WHERE s.source_id = _source_id
$$;

/*
 * The next $1[2] keys after $1[1] (null: from the start) in the order of the
 * key's type, each once. Without both elements it returns nothing: it is no list
 * of keys that could be halved.
 */
CREATE FUNCTION mailchimp_sync.walk_query(_source_id integer) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('SELECT (w.key)::pg_catalog.text, NULL::pg_catalog.jsonb FROM ('
		'SELECT DISTINCT (%1$s) AS key FROM %2$s '
		'WHERE (%1$s) IS NOT NULL AND (($1)[1] IS NULL OR (%1$s) %4$s '
			'(CASE WHEN pg_catalog.cardinality($1) = 2 THEN ($1)[1] END)::%3$s) '
		'ORDER BY 1 LIMIT CASE WHEN pg_catalog.cardinality($1) = 2 THEN (($1)[2])::pg_catalog.int8 ELSE 0 END'
		') AS w ORDER BY w.key',
		s.key_expr, mailchimp_sync.source_from(s), s.key_type,
		mailchimp_sync.key_operator(s.key_type, 5, '>'))
	FROM mailchimp_sync.source s
	WHERE s.source_id = _source_id
$$;

/*
 * The keys $1 as text of the key's type, each with itself; null where no row has it,
 * if it has to exist. The alias of the keys must not be the one of the relation.
 */
CREATE FUNCTION mailchimp_sync.normal_keys_query(_source mailchimp_sync.source, _existing boolean) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_alias	text := CASE WHEN _source.source = 'k' THEN 'j' ELSE 'k' END;
	_exists	text := 'true';
BEGIN
	IF _existing THEN
		_exists := format('EXISTS (SELECT FROM %s WHERE (%s) %s (%s.given)::%s)', mailchimp_sync.source_from(_source),
			_source.key_expr, mailchimp_sync.key_operator(_source.key_type, 3, '='), _alias, _source.key_type);
	END IF;
	RETURN format('SELECT %1$s.given, CASE WHEN %2$s THEN pg_catalog.to_jsonb(((%1$s.given)::%3$s)::pg_catalog.text) END '
		'FROM (SELECT DISTINCT u.given FROM pg_catalog.unnest($1) AS u(given) WHERE u.given IS NOT NULL) AS %1$s',
		_alias, _exists, _source.key_type);
END
$$;

/*
 * Without the errors of keys that the key's type does not take. They were keys of a
 * former type, and no row can have them any more.
 */
CREATE FUNCTION mailchimp_sync.of_possible_keys(_source_id integer, _values mailchimp_sync.evaluated[])
RETURNS mailchimp_sync.evaluated[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_failed		text[] := ARRAY(SELECT v.contact_key FROM unnest(_values) v WHERE v.error_state IS NOT NULL);
	_impossible	text[];
BEGIN
	IF _failed <> '{}' THEN
		SELECT array_agg(e.contact_key) INTO _impossible
		FROM mailchimp_sync.source s
		CROSS JOIN LATERAL mailchimp_sync.evaluate(s.owner, mailchimp_sync.normal_keys_query(s, false), _failed) e
		WHERE s.source_id = _source_id AND e.error_state IS NOT NULL AND e.contact_key IS NOT NULL;
	END IF;
	RETURN CASE WHEN _impossible IS NULL THEN _values
		ELSE ARRAY(SELECT v FROM unnest(_values) v WHERE v.contact_key <> ALL (_impossible)) END;
END
$$;

/*
 * Keys as people give them, cast to the key's type and back: " 7" is contact 7.
 * Nulls are left out; with _existing a key that no row of the source has raises. The
 * type's functions can be anybody's, so this too runs as the source's owner.
 */
CREATE FUNCTION mailchimp_sync.normal_keys(_source_id integer, _keys text[], _existing boolean DEFAULT false)
RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source	mailchimp_sync.source;
	_normal	jsonb;
	_bad	jsonb;
	_gone	text;
BEGIN
	SELECT * INTO STRICT _source FROM mailchimp_sync.source WHERE source_id = _source_id;
	SELECT jsonb_object_agg(e.contact_key, e.value) FILTER (WHERE e.error_state IS NULL),
		min(to_jsonb(e)::text) FILTER (WHERE e.error_state IS NOT NULL),
		min(e.contact_key) FILTER (WHERE e.error_state IS NULL AND e.value IS NULL)
	INTO _normal, _bad, _gone
	FROM mailchimp_sync.evaluate(_source.owner, mailchimp_sync.normal_keys_query(_source, _existing), _keys) AS e;
	IF _bad ->> 'contact_key' IS NOT NULL THEN
		RAISE invalid_text_representation USING
			MESSAGE = format('"%s" is not a key of source "%s"', _bad ->> 'contact_key', _source.source),
			DETAIL = _bad ->> 'error_message';
	ELSIF _bad IS NOT NULL THEN
		RAISE EXCEPTION USING ERRCODE = _bad ->> 'error_state',
			MESSAGE = format('source "%s" cannot be read: %s', _source.source, _bad ->> 'error_message');
	ELSIF _gone IS NOT NULL THEN
		RAISE undefined_object USING MESSAGE = format('source "%s" has no contact "%s"', _source.source, _gone);
	END IF;
	RETURN ARRAY(SELECT _normal ->> k.given FROM unnest(_keys) WITH ORDINALITY AS k(given, ordinality)
		WHERE k.given IS NOT NULL ORDER BY k.ordinality);
END
$$;
