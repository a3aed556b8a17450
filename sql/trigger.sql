/*
 * trigger.sql: the triggers on the tables of the CRM (src/trigger.c).
 *
 * They are ordinary triggers of those tables, dumped and restored with them. What
 * they have to be follows from "watch" and from two settings of the source.
 *
 * For statements or for rows: a statement that writes one row costs the same
 * with either, one that writes many costs more with triggers for rows
 * (test/bench/triggers measures it). On partitioned tables they are for rows
 * all the same: PostgreSQL gives those to each partition that comes later, and for
 * statements they would make writes fail that reach a foreign partition, which
 * has no transition tables. So are those that replication has to fire, whose worker
 * knows rows only. TRUNCATE is a statement in any case.
 */
CREATE FUNCTION mailchimp_sync.note_change() RETURNS trigger
LANGUAGE c AS 'MODULE_PATHNAME', 'mc_note_change';
COMMENT ON FUNCTION mailchimp_sync.note_change() IS
	'arguments: source_id, relation_id, the number of stored columns, their names, the names of the other columns that matter';

-- CREATE TRIGGER's own way, ALTER TRIGGER ... DEPENDS ON EXTENSION, would lock out readers
CREATE FUNCTION mailchimp_sync.depend_on_extension(_relation regclass, _trigger name) RETURNS void
LANGUAGE c VOLATILE STRICT AS 'MODULE_PATHNAME', 'mc_depend_on_extension';

/*
 * What there has to be for a relation (null: nothing): triggers on each table of its
 * partition or inheritance tree, since a statement that names a member fires that
 * member's triggers only. A view has no rows of its own; temporary members are
 * a session's own affair, which the engine cannot read.
 *
 * is_clone: PostgreSQL makes it along with that of the parent. foreign_member: that it
 * is for statements makes writes fail that reach this one. is_minor: nobody misses
 * it on a new partition, which can be detached without a trace as well. type and
 * enabled are those of pg_trigger. Reads catalogs only: a view calls it.
 */
CREATE FUNCTION mailchimp_sync.wanted_triggers(_relation_id integer, _relation regclass, _triggers text, _replica boolean)
RETURNS TABLE (relation regclass, name text, event text, referencing text, type smallint, is_clone boolean,
	in_partitions boolean, is_minor boolean, enabled "char", foreign_member regclass)
LANGUAGE sql STABLE ROWS 4
SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE member(relation, is_clone) AS (
		SELECT _relation::oid, false
		UNION
		SELECT i.inhrelid, c.relispartition
		FROM pg_inherits i
		JOIN member m ON i.inhparent = m.relation
		JOIN pg_class c ON c.oid = i.inhrelid AND c.relpersistence <> 't'
	), tree AS (
		SELECT bool_or(c.relkind = 'p') AS is_partitioned, min(c.oid) FILTER (WHERE c.relkind = 'f') AS foreign_member
		FROM member m JOIN pg_class c ON c.oid = m.relation
	)
	SELECT c.oid, format('mailchimp_sync_%s_%s', _relation_id, o.suffix), o.event,
		CASE WHEN o.event = 'TRUNCATE' THEN 'FOR EACH STATEMENT' WHEN w.for_rows THEN 'FOR EACH ROW'
			ELSE format('REFERENCING %s FOR EACH STATEMENT', o.tables) END,
		(o.type + CASE WHEN w.for_rows AND o.event <> 'TRUNCATE' THEN 1 ELSE 0 END)::smallint,
		m.is_clone AND w.for_rows AND o.event <> 'TRUNCATE',
		t.is_partitioned,
		t.is_partitioned AND m.is_clone AND o.event = 'TRUNCATE',
		CASE WHEN _replica THEN 'A' ELSE 'O' END::"char",
		CASE WHEN NOT w.for_rows THEN t.foreign_member END
	FROM tree t
	CROSS JOIN LATERAL (SELECT CASE _triggers WHEN 'row' THEN true WHEN 'statement' THEN false
		ELSE _replica OR t.is_partitioned OR t.foreign_member IS NOT NULL END) AS w(for_rows)
	CROSS JOIN member m
	JOIN pg_class c ON c.oid = m.relation AND c.relkind IN ('r', 'p')
	CROSS JOIN (VALUES
		('ins', 'INSERT', 4, 'NEW TABLE AS new_rows'),
		('upd', 'UPDATE', 16, 'OLD TABLE AS old_rows NEW TABLE AS new_rows'),
		('del', 'DELETE', 8, 'OLD TABLE AS old_rows'),
		('tru', 'TRUNCATE', 32, NULL)) AS o(suffix, event, type, tables)
$$;

/*
 * Runs a statement that locks a table of the CRM. New writers (and for DROP TRIGGER readers) queue
 * behind it while it waits for those that were before, so it waits no
 * longer than the engine's own look at the table may take, unless the caller says how long (N17).
 */
CREATE FUNCTION mailchimp_sync.run_ddl(_relation regclass, _statement text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_lock_timeout	text := current_setting('lock_timeout');
BEGIN
	IF _lock_timeout = '0' THEN
		PERFORM set_config('lock_timeout', '5s', true);
	END IF;
	EXECUTE _statement;
	PERFORM set_config('lock_timeout', _lock_timeout, true);
EXCEPTION WHEN lock_not_available THEN
	RAISE lock_not_available USING
		MESSAGE = format('%s is in use by other transactions, so its triggers cannot be changed now', _relation),
		HINT = 'Try again, or SET lock_timeout to wait longer: meanwhile all who come later wait, too.';
END
$$;

-- all that a row of "watch" has, clones included
CREATE FUNCTION mailchimp_sync.our_triggers(_relation_id integer) RETURNS SETOF pg_catalog.pg_trigger
LANGUAGE sql STABLE ROWS 4
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.* FROM pg_trigger t
	WHERE t.tgfoid = 'mailchimp_sync.note_change()'::regprocedure
		AND t.tgname LIKE format('mailchimp\_sync\_%s\_%%', _relation_id)
$$;

/*
 * Takes away the triggers of a row of "watch" that are not to be, all of them
 * without a relation. This waits for readers, too; a trigger that is only to be
 * another one is replaced where it stands, but for the clones that a partitioned
 * table's triggers for rows have and those for statements have not.
 */
CREATE FUNCTION mailchimp_sync.drop_triggers(_relation_id integer, _relation regclass DEFAULT NULL,
	_triggers text DEFAULT NULL, _replica boolean DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_trigger	record;
BEGIN
	FOR _trigger IN
		SELECT t.tgname, t.tgrelid::regclass AS relation
		FROM mailchimp_sync.our_triggers(_relation_id) t
		WHERE t.tgparentid = 0
			AND NOT EXISTS (SELECT FROM mailchimp_sync.wanted_triggers(_relation_id, _relation, _triggers, _replica) w
				WHERE w.relation = t.tgrelid AND w.name = t.tgname AND NOT w.is_clone
					AND (w.type = t.tgtype OR NOT w.in_partitions))
		ORDER BY t.tgrelid, t.tgname
	LOOP
		PERFORM mailchimp_sync.run_ddl(_trigger.relation, format('DROP TRIGGER %I ON %s', _trigger.tgname, _trigger.relation));
	END LOOP;
END
$$;

/*
 * Makes the triggers of all relations of a source what they have to be. It touches
 * only what differs, so it may be called whenever something might: creating takes a
 * lock that waits for writers.
 */
CREATE FUNCTION mailchimp_sync.install_triggers(_source_id integer) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_watch		record;
	_trigger	record;
	_arguments	text[];
BEGIN
	FOR _watch IN
		SELECT w.*, s.source, s.triggers, s.replica
		FROM mailchimp_sync.watch w JOIN mailchimp_sync.source s USING (source_id)
		WHERE w.source_id = _source_id ORDER BY w.relation_id
	LOOP
		PERFORM mailchimp_sync.drop_triggers(_watch.relation_id, _watch.relation, _watch.triggers, _watch.replica);
		_arguments := ARRAY[_source_id, _watch.relation_id, cardinality(_watch.stored_columns),
				coalesce(cardinality(_watch.mapped_columns), -1)]::text[]
			|| _watch.stored_columns || _watch.mapped_columns;
		FOR _trigger IN
			SELECT w.* FROM mailchimp_sync.wanted_triggers(_watch.relation_id, _watch.relation, _watch.triggers,
				_watch.replica) w
			WHERE NOT w.is_clone ORDER BY w.relation, w.name
		LOOP
			IF _trigger.foreign_member IS NOT NULL THEN
				RAISE feature_not_supported USING
					MESSAGE = format('triggers of source "%s" cannot be for statements, since %s is a foreign table',
						_watch.source, _trigger.foreign_member),
					DETAIL = format('Writes to %s that reach it would fail.', _watch.relation),
					HINT = format('SELECT mc_alter_source(%L, ''{"triggers": "auto"}'') lets them be for rows here.',
						_watch.source);
			END IF;
			PERFORM mailchimp_sync.install_trigger(_trigger.relation, _trigger.name, _trigger.event,
				_trigger.referencing, _trigger.type, _arguments);
		END LOOP;
		PERFORM mailchimp_sync.enable_triggers(_watch.relation_id, _watch.replica);
	END LOOP;
END
$$;

CREATE FUNCTION mailchimp_sync.install_trigger(_relation regclass, _name text, _event text, _referencing text,
	_type smallint, _arguments text[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF EXISTS (
		SELECT FROM pg_trigger t
		WHERE t.tgrelid = _relation AND t.tgname = _name AND t.tgtype = _type
			AND t.tgfoid = 'mailchimp_sync.note_change()'::regprocedure
			AND t.tgargs = (SELECT string_agg(convert_to(a.argument, getdatabaseencoding()) || '\x00', ''
								ORDER BY a.position)
							FROM unnest(_arguments) WITH ORDINALITY AS a(argument, position))) THEN
		RETURN;
	END IF;
	PERFORM mailchimp_sync.run_ddl(_relation, format(
		'CREATE OR REPLACE TRIGGER %I AFTER %s ON %s %s EXECUTE FUNCTION mailchimp_sync.note_change(%s)',
		_name, _event, _relation, _referencing,
		(SELECT string_agg(quote_literal(a.argument), ', ' ORDER BY a.position)
			FROM unnest(_arguments) WITH ORDINALITY AS a(argument, position))));
	PERFORM mailchimp_sync.depend_on_extension(_relation, _name);
END
$$;

-- clones too, which somebody may have disabled by themselves
CREATE FUNCTION mailchimp_sync.enable_triggers(_relation_id integer, _replica boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_trigger	record;
BEGIN
	FOR _trigger IN
		SELECT t.tgname, t.tgrelid::regclass AS relation
		FROM mailchimp_sync.our_triggers(_relation_id) t
		WHERE t.tgenabled <> CASE WHEN _replica THEN 'A' ELSE 'O' END
		ORDER BY t.tgrelid, t.tgname
	LOOP
		PERFORM mailchimp_sync.run_ddl(_trigger.relation, format('ALTER TABLE %s ENABLE %s TRIGGER %I', _trigger.relation,
			CASE WHEN _replica THEN 'ALWAYS' ELSE '' END, _trigger.tgname));
	END LOOP;
END
$$;

/* ---- the settings ---- */

CREATE FUNCTION mailchimp_sync.check_trigger_settings(_settings jsonb) RETURNS void
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.check_settings(_settings, ARRAY['triggers', 'replica'], 'a source');
	IF coalesce(_settings -> 'triggers', 'null') NOT IN ('"auto"', '"statement"', '"row"', 'null') THEN
		RAISE invalid_parameter_value USING MESSAGE = format('triggers cannot be %s', _settings -> 'triggers'),
			HINT = 'It takes one of: auto, statement, row.';
	ELSIF jsonb_typeof(coalesce(_settings -> 'replica', 'null')) NOT IN ('boolean', 'null') THEN
		RAISE invalid_parameter_value USING MESSAGE = format('replica cannot be %s', _settings -> 'replica'),
			HINT = 'It takes true or false.';
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_alter_source(_source text, _settings jsonb) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_found	mailchimp_sync.source;
BEGIN
	_found := mailchimp_sync.owned_source(mailchimp_sync.source_id(_source));
	PERFORM mailchimp_sync.check_trigger_settings(_settings);
	IF _settings ? 'triggers' THEN
		_found.triggers := coalesce(_settings ->> 'triggers', 'auto');
	END IF;
	IF _settings ? 'replica' THEN
		_found.replica := coalesce((_settings ->> 'replica')::boolean, false);
	END IF;
	IF _found.replica AND _found.triggers = 'statement' THEN
		RAISE invalid_parameter_value USING
			MESSAGE = 'replica needs triggers for rows',
			DETAIL = 'The worker of a subscription fires no triggers for statements.',
			HINT = 'Set {"triggers": "row", "replica": true}, or {"triggers": "statement", "replica": false}.';
	END IF;
	UPDATE mailchimp_sync.source s SET triggers = _found.triggers, replica = _found.replica
	WHERE s.source_id = _found.source_id;
	PERFORM mailchimp_sync.install_triggers(_found.source_id);
	-- what happened while they were otherwise may not have been noted
	INSERT INTO mailchimp_sync.event (source_id) VALUES (_found.source_id);
	PERFORM mailchimp_sync.wake();
END
$$;

CREATE FUNCTION @extschema@.mc_alter_source(source text, settings jsonb) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_alter_source(text, jsonb) IS
	'how the tables of a source note changes: triggers (auto, statement, row) and replica (fired by replication, too)';
