/*
 * inbound_write.sql: what Mailchimp shows is brought into the CRM, the step "inbound" (R91-R93, D13, D14).
 *
 * Level-triggered: a member is stale from member.inbound_at on, whatever has changed (pull.sql). A step takes a page of
 * the stale members of one audience, finds their rows, decides per column, and writes. Rows are found by, in this order: the
 * contact that stands behind the member (D13), the row that it was brought into before, the column that has
 * Mailchimp's id, the one that has the address. Where nothing matches there is a new row, if the audience imports, the member is subscribed
 * and nobody erased it.
 *
 * The facts of Mailchimp (status, id, list) are written in every direction; fields and the address by the policy
 * of the audience, for which field_decisions() is asked (conflict.sql). By direction pull the CRM is no side: what changed at
 * Mailchimp comes in. What was dealt with becomes the base, sent_fields and shown_fields; of a field that the mapping does not
 * send nothing was sent, which is "".
 *
 * Everything about rows of the CRM runs as the source's owner: looking in evaluate(), writing in write_rows() (src/inbound.c).
 *
 * Races that are closed:
 *	- A row that changes between the look and the write: the statement names the former values, and finds nothing
 *	  then; the member stays stale.
 *	- Somebody's lock: that row rests for a moment, the others go on (src/inbound.c).
 *	- The CRM has changed what nobody has read of its events yet, where the latest change wins: the member waits.
 *	- A request of ours to the address, under way: what it leaves at Mailchimp is not known yet, so the member waits.
 *	- Two members that mean one row: it belongs to the one whose contact it is, or that came first.
 *	- Somebody deletes the row of a member that is about to leave: it is not made anew.
 */
-- rows of the CRM, as their owner; see src/inbound.c
CREATE FUNCTION mailchimp_sync.write_rows(_role regrole, _relation regclass, _search_path text, _ids text[],
	_statements text[], _values jsonb[], OUT id text, OUT written text, OUT error_state text, OUT error_message text)
RETURNS SETOF record
LANGUAGE c VOLATILE STRICT
AS 'MODULE_PATHNAME', 'mc_write_rows';

/* ---- statements ---- */

/*
 * Writes one row, $1 is {"key", "row": what its columns were as text, "values"}. Values are read by the input functions of
 * the columns' types, so what does not fit raises, and is not cut. Returns "written", "same" (another way to
 * write what is there) or "changed" (by somebody, since it was looked at).
 */
CREATE FUNCTION mailchimp_sync.inbound_update(_target mailchimp_sync.source, _columns text[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_k	text := mailchimp_sync.other_alias(_target);
BEGIN
	RETURN (
		SELECT format('WITH %1$s AS MATERIALIZED (SELECT * FROM pg_catalog.jsonb_to_record($1 -> ''values'') AS n(%3$s)), '
			'written AS (UPDATE %2$s SET %4$s FROM %1$s WHERE %5$s AND %6$s AND (%7$s) RETURNING 1) '
			'SELECT CASE WHEN EXISTS (SELECT FROM written) THEN ''written'' '
				'WHEN EXISTS (SELECT FROM %2$s, %1$s WHERE %5$s AND NOT (%7$s)) THEN ''same'' ELSE ''changed'' END',
			_k, mailchimp_sync.source_from(_target),
			string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum),
			string_agg(format('%1$I = %2$s.%1$I', a.attname, _k), ', ' ORDER BY a.attnum),
			format('(%s) %s ($1 ->> ''key'')::%s', _target.key_expr, mailchimp_sync.key_operator(_target.key_type, 3, '='),
				_target.key_type),
			string_agg(format('%I.%I::pg_catalog.text IS NOT DISTINCT FROM ($1 -> ''row'' ->> %L)', _target.source, a.attname,
				a.attname), ' AND ' ORDER BY a.attnum),
			string_agg(format('%I.%I::pg_catalog.text IS DISTINCT FROM %s.%I::pg_catalog.text', _target.source, a.attname, _k,
				a.attname), ' OR ' ORDER BY a.attnum))
		FROM pg_attribute a
		WHERE a.attrelid = _target.relation AND a.attname = ANY (_columns) AND NOT a.attisdropped AND a.attnum > 0);
END
$$;

-- adds one row, $1 is {"values"}; returns its key, null where that is not known at once (of a view, say)
CREATE FUNCTION mailchimp_sync.inbound_insert(_target mailchimp_sync.source, _columns text[]) RETURNS text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT format('INSERT INTO %s (%s) SELECT %s FROM pg_catalog.jsonb_to_record($1 -> ''values'') AS n(%s) '
			'RETURNING (%s)::pg_catalog.text', mailchimp_sync.source_from(_target),
			string_agg(format('%I', a.attname), ', ' ORDER BY a.attnum),
			string_agg(format('n.%I', a.attname), ', ' ORDER BY a.attnum),
			string_agg(format('%I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', ' ORDER BY a.attnum),
			_target.key_expr)
		FROM pg_attribute a
		WHERE a.attrelid = _target.relation AND a.attname = ANY (_columns) AND NOT a.attisdropped AND a.attnum > 0);
END
$$;

/* ---- writing ---- */

-- what became of each, by the hash; contact_key null: what was wrong with all that are not there
CREATE FUNCTION mailchimp_sync.inbound_write(_inbound mailchimp_sync.inbound, _members mailchimp_sync.inbound_member[])
RETURNS mailchimp_sync.evaluated[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_target	mailchimp_sync.source := mailchimp_sync.inbound_target(_inbound);
	_ids	text[];
	_texts	text[];
	_values	jsonb[];
BEGIN
	WITH member AS MATERIALIZED (
		SELECT u.*, u.stored IS NULL AS is_new, ARRAY(SELECT jsonb_object_keys(u.writes) ORDER BY 1) AS columns
		FROM unnest(_members) u WHERE u.writes <> '{}'
	), statement AS MATERIALIZED (
		SELECT s.is_new, s.columns, CASE WHEN s.is_new THEN mailchimp_sync.inbound_insert(_target, s.columns)
			ELSE mailchimp_sync.inbound_update(_target, s.columns) END AS text
		FROM (SELECT DISTINCT m.is_new, m.columns FROM member m) s
	)
	SELECT array_agg(m.email_hash ORDER BY s.text, m.email_hash), array_agg(s.text ORDER BY s.text, m.email_hash),
		array_agg(jsonb_build_object('key', m.contact_key, 'row', m.stored, 'values', m.writes) ORDER BY s.text, m.email_hash)
	INTO _ids, _texts, _values
	FROM member m JOIN statement s USING (is_new, columns);
	RETURN ARRAY(SELECT ROW(w.id, to_jsonb(w.written), w.error_state, w.error_message)::mailchimp_sync.evaluated
		FROM mailchimp_sync.write_rows(_target.owner, _target.relation, _inbound.search_path, _ids, _texts, _values) w);
END
$$;

/*
 * Rows that are no contacts of the audience, and are found only now to be somebody who has unsubscribed there (D11); later
 * on they are among those who are known (read.sql). Whoever was let in again since stays so.
 */
CREATE FUNCTION mailchimp_sync.strangers_opt_out(_audience mailchimp_sync.audience, _members mailchimp_sync.inbound_member[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.opt_out_add(u.source_id, u.contact_key, m.email, 'mailchimp', m.unsubscribe_reason, 'Mailchimp')
	FROM unnest(_members) u
	CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.member o
		WHERE o.audience_id = _audience.audience_id AND o.email_hash = u.email_hash COLLATE "C" OFFSET 0) AS m
	WHERE _audience.on_unsubscribe = 'opt_out' AND u.contact_key IS NOT NULL AND m.inbound_key IS NULL
		AND m.status = 'unsubscribed' AND NOT mailchimp_sync.is_unsubscribed_by_us(m)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c WHERE c.audience_id = _audience.audience_id
			AND c.source_id = u.source_id AND c.contact_key = u.contact_key COLLATE "C");
END
$$;

-- these are in the CRM, with what is the base from now on; a row that is no contact is remembered
CREATE FUNCTION mailchimp_sync.inbound_brought(_audience mailchimp_sync.audience, _members mailchimp_sync.inbound_member[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.strangers_opt_out(_audience, _members);
	WITH brought AS MATERIALIZED (
		SELECT u.*, u.contact_key IS NOT NULL AND NOT EXISTS (SELECT FROM mailchimp_sync.contact c
			WHERE c.audience_id = _audience.audience_id AND c.source_id = u.source_id AND c.contact_key = u.contact_key COLLATE "C")
			AS is_stranger, NOT coalesce(m.sent_fields @> u.sent AND m.shown_fields @> u.shown, u.sent IS NULL) AS is_news
		FROM unnest(_members) u
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.member o
			WHERE o.audience_id = _audience.audience_id AND o.email_hash = u.email_hash COLLATE "C" OFFSET 0) AS m
	), stored AS (
		UPDATE mailchimp_sync.member m SET inbound_at = NULL,
			sent_fields = CASE WHEN b.is_news THEN coalesce(m.sent_fields, '{}') || b.sent ELSE m.sent_fields END,
			shown_fields = CASE WHEN b.is_news THEN coalesce(m.shown_fields, '{}') || b.shown ELSE m.shown_fields END,
			inbound_hash = CASE WHEN _audience.direction = 'push' THEN m.inbound_hash ELSE m.email_hash END,
			inbound_source_id = CASE WHEN b.is_stranger THEN b.source_id ELSE m.inbound_source_id END,
			inbound_key = CASE WHEN b.is_stranger THEN b.contact_key ELSE m.inbound_key END
		FROM brought b
		WHERE m.audience_id = _audience.audience_id AND m.email_hash = b.email_hash COLLATE "C"
	), unfailed AS (
		DELETE FROM mailchimp_sync.failure f USING brought b
		WHERE f.work = 'pull' AND f.audience_id = _audience.audience_id AND f.campaign_id = 0
			AND (f.source_id = b.source_id AND f.contact_key = b.contact_key COLLATE "C"
				OR f.source_id = 0 AND f.contact_key = b.email_hash COLLATE "C")
	)
	-- a contact may be in sync by that, though nothing was written
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT b.source_id, b.contact_key FROM brought b
	WHERE _audience.direction = 'both' AND b.is_news AND b.contact_key IS NOT NULL;
END
$$;

/*
 * The CRM refused these, or they are in somebody's hands: the words are kept (one without a row by the hash), and they
 * rest, for a moment where that passes by itself.
 */
CREATE FUNCTION mailchimp_sync.inbound_refused(_audience mailchimp_sync.audience, _members mailchimp_sync.inbound_member[],
	_errors mailchimp_sync.evaluated[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH refused AS MATERIALIZED (
		SELECT m.email_hash, m.email, r.source_id, r.contact_key, e.error_message AS words,
			CASE WHEN left(e.error_state, 2) IN ('40', '55', '57') THEN mailchimp_sync.clock()
				+ mailchimp_sync.backoff(1 + coalesce(f.attempts, 0)) ELSE mailchimp_sync.day_later() END AS next_at
		FROM unnest(_errors) e
		JOIN unnest(_members) u ON u.email_hash = e.contact_key
		JOIN mailchimp_sync.member m ON m.audience_id = _audience.audience_id AND m.email_hash = u.email_hash COLLATE "C"
		CROSS JOIN LATERAL (SELECT CASE WHEN u.contact_key IS NULL THEN 0 ELSE u.source_id END AS source_id,
			coalesce(u.contact_key, u.email_hash) COLLATE "C" AS contact_key) r
		LEFT JOIN mailchimp_sync.failure f ON f.work = 'pull' AND f.audience_id = _audience.audience_id AND f.campaign_id = 0
			AND f.source_id = r.source_id AND f.contact_key = r.contact_key
	), resting AS (
		UPDATE mailchimp_sync.member m SET inbound_at = r.next_at FROM refused r
		WHERE m.audience_id = _audience.audience_id AND m.email_hash = r.email_hash
	), told AS (
		INSERT INTO mailchimp_sync.failure AS f (work, audience_id, source_id, contact_key, connection, email, title, detail,
			attempts, first_failed_at, last_failed_at, next_attempt_at)
		SELECT 'pull', _audience.audience_id, r.source_id, r.contact_key, _audience.connection, r.email, 'The CRM refused it', r.words,
			1, mailchimp_sync.clock(), mailchimp_sync.clock(), r.next_at
		FROM refused r
		ON CONFLICT (work, audience_id, campaign_id, source_id, contact_key) DO UPDATE SET email = excluded.email,
			title = excluded.title, detail = excluded.detail, attempts = f.attempts + 1,
			last_failed_at = excluded.last_failed_at, next_attempt_at = excluded.next_attempt_at
	)
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT r.source_id, r.contact_key FROM refused r WHERE _audience.direction = 'both' AND r.source_id <> 0;
END
$$;

-- who is not reached stays stale
CREATE FUNCTION mailchimp_sync.inbound_bring(_audience mailchimp_sync.audience, _inbound mailchimp_sync.inbound,
	_members mailchimp_sync.inbound_member[])
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_results	mailchimp_sync.evaluated[] := '{}';
	_trouble	record;
BEGIN
	IF EXISTS (SELECT FROM unnest(_members) u WHERE u.writes <> '{}') THEN
		_results := mailchimp_sync.inbound_write(_inbound, _members);
	END IF;
	PERFORM mailchimp_sync.inbound_refused(_audience, _members, ARRAY(
		SELECT CASE WHEN r.error_state IS NOT NULL THEN r ELSE
			ROW(r.contact_key, NULL, '40001', 'the row was changed or deleted meanwhile, or a trigger of the table prevents it')::mailchimp_sync.evaluated END
		FROM unnest(_results) r JOIN unnest(_members) u ON u.email_hash = r.contact_key
		WHERE r.error_state IS NOT NULL OR u.stored IS NOT NULL AND r.value = '"changed"'));
	PERFORM mailchimp_sync.inbound_brought(_audience, ARRAY(
		SELECT ROW(u.email_hash, u.source_id, CASE WHEN u.stored IS NULL THEN r.value #>> '{}' ELSE u.contact_key END, u.is_ours,
			u.stored, u.is_late, u.refusal, u.sent, u.shown, u.writes)::mailchimp_sync.inbound_member
		FROM unnest(_members) u LEFT JOIN unnest(_results) r ON r.contact_key = u.email_hash
		WHERE u.writes = '{}' OR r.contact_key IS NOT NULL AND r.error_state IS NULL
			AND (u.stored IS NULL OR r.value IN ('"written"', '"same"'))));
	UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock() + interval '1 second'
	FROM unnest(_members) u
	WHERE u.writes IS NULL AND m.audience_id = _audience.audience_id AND m.email_hash = u.email_hash COLLATE "C";
	SELECT r.error_state, r.error_message INTO _trouble FROM unnest(_results) r WHERE r.contact_key IS NULL;
	IF FOUND THEN
		PERFORM mailchimp_sync.inbound_trouble(_inbound, _trouble.error_state, _trouble.error_message);
	ELSE
		PERFORM mailchimp_sync.inbound_works(_inbound);
	END IF;
END
$$;

/* ---- the step ---- */

-- members of one audience that a page takes
CREATE FUNCTION mailchimp_sync.inbound_size() RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT 500
$$;

-- the definitions that can be carried out now, in the order of the sources
CREATE FUNCTION mailchimp_sync.inbound_usable(_audience_id integer) RETURNS SETOF mailchimp_sync.inbound
LANGUAGE plpgsql STABLE ROWS 2
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT i.* FROM mailchimp_sync.inbound i
	JOIN mailchimp_sync.audience_source x USING (audience_id, source_id)
	JOIN mailchimp_sync.source s USING (source_id)
	WHERE i.audience_id = _audience_id AND mailchimp_sync.source_is_usable(s)
		AND coalesce(i.next_attempt_at <= mailchimp_sync.clock(), true)
	ORDER BY x.position;
END
$$;

/*
 * The stale members of a page, but not those that were erased, of whom nothing is brought any more, and those to whose
 * address a request is under way, who wait.
 */
CREATE FUNCTION mailchimp_sync.inbound_stale(_audience_id integer) RETURNS text[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hashes	text[] := ARRAY(SELECT m.email_hash FROM mailchimp_sync.member m
		WHERE m.audience_id = _audience_id AND m.inbound_at <= mailchimp_sync.clock()
		ORDER BY m.inbound_at LIMIT mailchimp_sync.inbound_size());
	_others	text[];
BEGIN
	WITH other AS (
		SELECT h.email_hash, CASE WHEN e.email_hash IS NULL THEN mailchimp_sync.clock() + interval '1 second' END AS next_at
		FROM unnest(_hashes) AS h(email_hash)
		LEFT JOIN mailchimp_sync.erased e ON e.email_hash = h.email_hash COLLATE "C"
		WHERE e.email_hash IS NOT NULL OR h.email_hash IN (SELECT b.email_hash FROM mailchimp_sync.busy b
			WHERE b.audience_id = _audience_id AND b.kind <> 'batch')
	), put AS (
		UPDATE mailchimp_sync.member m SET inbound_at = o.next_at FROM other o
		WHERE m.audience_id = _audience_id AND m.email_hash = o.email_hash COLLATE "C"
		RETURNING m.email_hash
	)
	SELECT array_agg(p.email_hash) INTO _others FROM put p;
	RETURN ARRAY(SELECT h FROM unnest(_hashes) AS h WHERE h <> ALL (coalesce(_others, '{}')));
END
$$;

-- what is wrong with the columns of a definition is said, before they are used
CREATE FUNCTION mailchimp_sync.inbound_fits(_inbound mailchimp_sync.inbound) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_misfit	text := mailchimp_sync.inbound_misfit(_inbound, mailchimp_sync.inbound_target(_inbound));
BEGIN
	IF _misfit IS NOT NULL THEN
		PERFORM mailchimp_sync.inbound_trouble(_inbound, '42703', _misfit);
	END IF;
	RETURN _misfit IS NULL;
END
$$;

-- the members with their rows: by the contacts that are known first, the others by id and address
CREATE FUNCTION mailchimp_sync.inbound_find(_audience_id integer, _hashes text[]) RETURNS mailchimp_sync.inbound_member[]
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_members	mailchimp_sync.inbound_member[] := mailchimp_sync.inbound_known(_audience_id, _hashes);
	_by_key		boolean;
	_inbound	mailchimp_sync.inbound;
BEGIN
	FOREACH _by_key IN ARRAY ARRAY[true, false] LOOP
		FOR _inbound IN SELECT * FROM mailchimp_sync.inbound_usable(_audience_id) LOOP
			CONTINUE WHEN _by_key AND NOT mailchimp_sync.inbound_fits(_inbound);
			_members := coalesce(mailchimp_sync.inbound_look(_inbound, _members, _by_key), _members);
		END LOOP;
	END LOOP;
	RETURN _members;
END
$$;

/*
 * One page. A member whose source cannot be written now rests, and so does one that might have a row in it: only
 * where all sources were looked into, nothing matches.
 */
CREATE FUNCTION mailchimp_sync.inbound_page(_audience mailchimp_sync.audience) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hashes		text[] := mailchimp_sync.inbound_stale(_audience.audience_id);
	_members	mailchimp_sync.inbound_member[] := mailchimp_sync.inbound_find(_audience.audience_id, _hashes);
	_inbound	mailchimp_sync.inbound;
	_some		mailchimp_sync.inbound_member[];
	_open		text[];
BEGIN
	_open := ARRAY(SELECT u.email_hash FROM unnest(_members) u);
	FOR _inbound IN SELECT * FROM mailchimp_sync.inbound_usable(_audience.audience_id) LOOP
		_some := mailchimp_sync.inbound_decide(_audience, _inbound, ARRAY(SELECT u FROM unnest(_members) u
			WHERE u.source_id = _inbound.source_id AND u.stored IS NOT NULL AND NOT u.is_late
				AND NOT EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.source_id = u.source_id
					AND o.contact_key = u.contact_key COLLATE "C" AND o.origin = 'erasure')));
		CONTINUE WHEN _some IS NULL;
		PERFORM mailchimp_sync.inbound_bring(_audience, _inbound, _some);
		_open := ARRAY(SELECT h FROM unnest(_open) h WHERE h NOT IN (SELECT u.email_hash FROM unnest(_some) u));
	END LOOP;
	PERFORM mailchimp_sync.inbound_refused(_audience, _members, ARRAY(
		SELECT ROW(u.email_hash, NULL, '22000', u.refusal)::mailchimp_sync.evaluated FROM unnest(_members) u
		WHERE u.stored IS NULL AND u.refusal IS NOT NULL));
	_open := ARRAY(SELECT h FROM unnest(_open) h WHERE h NOT IN (SELECT u.email_hash FROM unnest(_members) u
		WHERE u.stored IS NULL AND u.refusal IS NOT NULL));

	-- a source that is not usable any more has had trouble just now; the others go on
	IF NOT EXISTS (SELECT FROM mailchimp_sync.inbound_usable(_audience.audience_id)) THEN
		RETURN 0;
	END IF;
	UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock() + interval '10 minutes'
	FROM unnest(_members) u
	WHERE u.email_hash = ANY (_open) AND m.audience_id = _audience.audience_id AND m.email_hash = u.email_hash COLLATE "C"
		AND EXISTS (SELECT FROM mailchimp_sync.inbound i WHERE i.audience_id = _audience.audience_id
			AND i.source_id = coalesce(CASE WHEN u.is_ours OR u.stored IS NOT NULL THEN u.source_id END, i.source_id)
			AND i.source_id NOT IN (SELECT o.source_id FROM mailchimp_sync.inbound_usable(_audience.audience_id) o));
	IF FOUND THEN
		RETURN cardinality(_hashes);
	END IF;
	SELECT * INTO _inbound FROM mailchimp_sync.inbound_usable(_audience.audience_id) i
	WHERE i.create_new AND i.columns ? 'email' AND _audience.direction <> 'push' LIMIT 1;
	IF FOUND THEN
		_some := mailchimp_sync.inbound_new(_inbound, ARRAY(SELECT u.email_hash FROM unnest(_members) u
			WHERE u.email_hash = ANY (_open) AND u.stored IS NULL AND NOT u.is_ours));
		PERFORM mailchimp_sync.inbound_bring(_audience, _inbound, _some);
		_open := ARRAY(SELECT h FROM unnest(_open) h WHERE h NOT IN (SELECT u.email_hash FROM unnest(_some) u));
	END IF;
	UPDATE mailchimp_sync.member m SET inbound_at = NULL
	WHERE m.audience_id = _audience.audience_id AND m.email_hash = ANY (_open COLLATE "C");
	RETURN cardinality(_hashes);
END
$$;

-- all members of an audience whose definition is new become stale, page after page
CREATE FUNCTION mailchimp_sync.inbound_walk(_audience_id integer) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_after	text := (SELECT min(i.walk_after) FROM mailchimp_sync.inbound i WHERE i.audience_id = _audience_id);
	_page	text[];
BEGIN
	IF _after IS NULL THEN
		RETURN 0;
	END IF;
	_page := ARRAY(SELECT m.email_hash FROM mailchimp_sync.member m
		WHERE m.audience_id = _audience_id AND m.email_hash > _after COLLATE "C" ORDER BY m.email_hash
		LIMIT 10 * mailchimp_sync.inbound_size());
	UPDATE mailchimp_sync.member m SET inbound_at = mailchimp_sync.clock()
	WHERE m.audience_id = _audience_id AND m.email_hash = ANY (_page COLLATE "C")
		AND coalesce(m.inbound_at > mailchimp_sync.clock(), true);
	UPDATE mailchimp_sync.inbound i SET walk_after = _page[10 * mailchimp_sync.inbound_size()]
	WHERE i.audience_id = _audience_id AND i.walk_after IS NOT NULL;
	RETURN cardinality(_page);
END
$$;

-- audiences, and when there is something to bring; where no definition can be carried out, not before one can
CREATE VIEW mailchimp_sync.inbound_ready AS
SELECT a.audience_id, greatest(d.at, CASE WHEN d.walks THEN mailchimp_sync.clock() ELSE (SELECT m.inbound_at
		FROM mailchimp_sync.member m WHERE m.audience_id = a.audience_id AND m.inbound_at IS NOT NULL
		ORDER BY m.inbound_at LIMIT 1) END) AS at
FROM (SELECT i.audience_id, bool_or(i.walk_after IS NOT NULL) AS walks,
		min(greatest(i.next_attempt_at, mailchimp_sync.source_due(s))) AS at
	FROM mailchimp_sync.inbound i JOIN mailchimp_sync.source s USING (source_id)
	WHERE s.state <> 'stopped' GROUP BY i.audience_id) AS d
JOIN mailchimp_sync.audience a USING (audience_id)
JOIN mailchimp_sync.usable_connection u USING (connection)
WHERE a.active_since IS NOT NULL AND NOT a.paused AND (d.walks OR EXISTS (SELECT FROM mailchimp_sync.member m
	WHERE m.audience_id = a.audience_id AND m.inbound_at IS NOT NULL));

-- one step; who holds a row of the CRM is waited for only so long
CREATE FUNCTION mailchimp_sync.inbound() RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET lock_timeout = '200ms'
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_walked		bigint;
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.inbound) THEN
		RETURN 0;
	END IF;
	SELECT a.* INTO _audience FROM mailchimp_sync.inbound_ready r JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE r.at <= mailchimp_sync.clock() ORDER BY r.at, r.audience_id LIMIT 1;
	IF NOT FOUND THEN
		RETURN 0;
	END IF;
	_walked := mailchimp_sync.inbound_walk(_audience.audience_id);
	RETURN CASE WHEN _walked > 0 THEN _walked ELSE mailchimp_sync.inbound_page(_audience) END;
END
$$;

CREATE FUNCTION mailchimp_sync.inbound_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT min(r.at) FROM mailchimp_sync.inbound_ready r);
END
$$;
