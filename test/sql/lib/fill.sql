-- fill(values): a row in every table of ours, whatever tables there are. A column gets the value of its name or of
-- table.name (an array: that value alone), else the first that its CHECK allows, else something of its type if it must have
-- something. Checks over several columns are given up: the caller rolls back.
CREATE FUNCTION pg_temp.fill_value(_column pg_attribute, _given jsonb) RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	_name	text := _column.attname;
	_type	regtype := _column.atttypid;
	_is_array	boolean := _type::text LIKE '%[]';
	_full	text := concat_ws('.', (SELECT c.relname FROM pg_class c WHERE c.oid = _column.attrelid), _name);
	_value	text := coalesce(_given ->> _full, _given ->> _name);
	_check	text;
BEGIN
	IF _value IS NULL AND _name ~ '(^|_)(e?mails?|address(es)?)$' AND _type::text ~ '^text' THEN
		_value := _given ->> 'email';
	ELSIF _value IS NULL AND _name ~ 'hash(es)?$' AND _type::text ~ '^text' THEN
		_value := _given ->> 'email_hash';
	ELSIF _value IS NULL AND _name ~ '_keys?$' AND _name NOT IN ('sub_key', 'into_key') AND _type::text ~ '^text' THEN
		_value := _given ->> 'contact_key';
	ELSIF _value IS NULL AND _name ~ 'source_ids?$' THEN
		_value := _given ->> 'source_id';
	END IF;
	IF _value IS NULL AND NOT _column.attnotnull THEN
		RETURN NULL;
	ELSIF _value IS NULL AND NOT _is_array THEN
		SELECT substring(pg_get_constraintdef(c.oid) FROM '''([a-z_]+)''::text') INTO _check FROM pg_constraint c
		WHERE c.conrelid = _column.attrelid AND c.contype = 'c' AND c.conkey = ARRAY[_column.attnum] LIMIT 1;
		_value := coalesce(_check, CASE WHEN _type = 'text'::regtype THEN _given ->> 'text' WHEN _type::text ~ 'int|numeric' THEN '1'
			WHEN _type::text ~ '^timestamp' THEN '2026-01-01 UTC' WHEN _type = 'boolean'::regtype THEN 'false'
			WHEN _type::text ~ '^json' THEN '{}' WHEN _type = 'interval'::regtype THEN '1 day' ELSE '' END);
	END IF;
	RETURN CASE WHEN NOT _is_array THEN _value WHEN _value IS NULL THEN '{}' ELSE format('{%s}', _value) END;
END
$$;
CREATE FUNCTION pg_temp.fill(_given jsonb) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
	_table	record;
BEGIN
	FOR _table IN SELECT c.oid::regclass AS name, k.conname FROM pg_class c
		JOIN pg_constraint k ON k.conrelid = c.oid AND k.contype = 'c' AND cardinality(k.conkey) <> 1
		WHERE c.relnamespace = 'mailchimp_sync'::regnamespace LOOP
		EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', _table.name, _table.conname);
	END LOOP;
	FOR _table IN SELECT c.oid::regclass AS name, string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum) AS columns,
			string_agg(format('%L::%s', v.value, a.atttypid::regtype), ', ' ORDER BY a.attnum) AS line
		FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
		CROSS JOIN LATERAL pg_temp.fill_value(a, _given) AS v(value)
		WHERE c.relnamespace = 'mailchimp_sync'::regnamespace AND c.relkind = 'r' AND v.value IS NOT NULL
			AND (a.attidentity = '' AND NOT a.atthasdef OR _given ?| ARRAY[a.attname, concat_ws('.', c.relname, a.attname)])
		GROUP BY c.oid ORDER BY c.oid LOOP
		EXECUTE format('INSERT INTO %s (%s) OVERRIDING SYSTEM VALUE VALUES (%s) ON CONFLICT DO NOTHING', _table.name, _table.columns, _table.line);
	END LOOP;
END
$$;
