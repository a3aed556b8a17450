/*
 * export.sql: everything that is kept about a person, as one document (N13, GDPR article 15).
 *
 * Who is meant, and what is the person's, is found as mc_erase_contact finds it (erase.sql): what is shown here is what would go
 * there, and what stays after that (the suppression). The rows are shown as they are, with names for our numbers and without
 * what we compute for ourselves, so that a column that is new is in it. test/sql/export.sql fills every table that has
 * an address, a hash of one or a contact's key, and looks whether it is shown and erased.
 *
 * Rows of a connection on which the caller is no admin are left out, and the document says so.
 */
CREATE FUNCTION @extschema@.mc_export_contact(email text) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_export_contact(text) IS 'everything that is kept about the person with an address';
CREATE FUNCTION @extschema@.mc_export_contact(source text, contact_key text) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_export_contact(text, text) IS 'everything that is kept about a contact and its present address';
CREATE FUNCTION @extschema@.mc_export_contact(source text, contact_key anyelement) RETURNS jsonb
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_export_contact(text, anyelement) IS 'everything that is kept about a contact and its present address';

CREATE FUNCTION mailchimp_sync.mc_export_contact(_email text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_address	text := mailchimp_sync.given_address(_email);
	_hash		text := mailchimp_sync.email_hash(_address);
	_person		record;
BEGIN
	SELECT coalesce(array_agg(p.source_id), '{}') AS source_ids, coalesce(array_agg(p.contact_key), '{}') AS contact_keys,
		_hash || array_agg(DISTINCT p.aside_hash) FILTER (WHERE p.aside_hash <> _hash) AS hashes
	INTO _person
	FROM (SELECT x.source_id, x.contact_key, min(x.aside_hash) AS aside_hash
		FROM (SELECT b.source_id, b.contact_key, b.aside_hash FROM mailchimp_sync.contacts_behind(_hash) b
			UNION ALL
			-- rows of the CRM that it came into
			SELECT m.inbound_source_id, m.inbound_key, NULL FROM mailchimp_sync.audience a
			JOIN mailchimp_sync.member m ON m.audience_id = a.audience_id AND m.email_hash = _hash
			WHERE m.inbound_key IS NOT NULL) x
		GROUP BY x.source_id, x.contact_key) p;
	RETURN mailchimp_sync.export_person(jsonb_build_object('email', _address), _person.hashes, _person.source_ids,
		_person.contact_keys);
END
$$;

CREATE FUNCTION mailchimp_sync.mc_export_contact(_source text, _contact_key text) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source_id	integer := mailchimp_sync.source_id(_source);
	_key		text := (mailchimp_sync.normal_keys(_source_id, ARRAY[_contact_key]))[1];
BEGIN
	IF _key IS NULL THEN
		RETURN NULL;
	END IF;
	RETURN mailchimp_sync.export_person(jsonb_build_object('source', _source, 'contact_key', _key),
		mailchimp_sync.hashes_of_contact(_source_id, _key), ARRAY[_source_id], ARRAY[_key]);
END
$$;

-- the document: who was asked for, and a list for each kind of data of which there is any
CREATE FUNCTION mailchimp_sync.export_person(_asked jsonb, _hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_sections	jsonb;
	_hidden		bigint;
BEGIN
	WITH entry AS MATERIALIZED (
		SELECT r.section, mailchimp_sync.export_entry(r.entry) AS entry
		FROM mailchimp_sync.rows_of_person(_hashes, _source_ids, _contact_keys) r
	), visible AS MATERIALIZED (
		SELECT e.section, e.entry,
			NOT e.entry ? 'connection' OR mailchimp_sync.caller_has('admin', e.entry ->> 'connection') AS shown
		FROM entry e
	)
	SELECT coalesce(jsonb_object_agg(s.section, s.entries) FILTER (WHERE s.entries IS NOT NULL), '{}'), coalesce(sum(s.hidden), 0)
	INTO _sections, _hidden
	FROM (SELECT v.section, jsonb_agg(v.entry ORDER BY v.entry::text) FILTER (WHERE v.shown) AS entries,
			count(*) FILTER (WHERE NOT v.shown) AS hidden
		FROM visible v GROUP BY v.section) s;
	IF _hidden > 0 THEN
		RAISE WARNING USING MESSAGE = format('entries of other connections that are left out: %s', _hidden),
			HINT = 'An admin of all connections gets everything.';
	END IF;
	RETURN _asked || jsonb_build_object('exported_at', mailchimp_sync.clock(), 'complete', _hidden = 0) || _sections;
END
$$;

-- a row for people: names instead of our numbers, and without what is empty or computed
CREATE FUNCTION mailchimp_sync.export_entry(_row jsonb) RETURNS jsonb
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_strip_nulls(jsonb_build_object(
			'connection', coalesce(c.connection, a.connection),
			'list', (SELECT l.name FROM mailchimp_sync.list l WHERE l.connection = coalesce(_row ->> 'connection', c.connection, a.connection)
				AND l.list_id = coalesce(_row ->> 'list_id', c.list_id, a.list_id)),
			'audience', a.audience, 'campaign', c.name,
			'source', coalesce(s.source, (SELECT d.source FROM mailchimp_sync.dropped_source d
				WHERE d.source_id = (_row ->> 'source_id')::integer LIMIT 1))) || jsonb_strip_nulls(_row))
		- ARRAY['audience_id', 'source_id', 'list_id', 'desired_hash', 'sent_hash', 'refused_hash', 'queue', 'version', 'leave_after',
			'batch_limit', 'sent_source_id', 'inbound_source_id', 'inbound_hash', 'resolution', 'event_id', 'relation_id', 'opt_out_id', 'confirmation_id', 'hand_id',
			'ordinal', 'sub_key']
	FROM (SELECT) AS one
	LEFT JOIN mailchimp_sync.audience a ON a.audience_id = (_row ->> 'audience_id')::integer
	LEFT JOIN mailchimp_sync.campaign c ON c.campaign_id = (_row ->> 'campaign_id')::bigint
	LEFT JOIN mailchimp_sync.source s ON s.source_id = (_row ->> 'source_id')::integer
$$;

/* ---- what is kept ---- */

CREATE FUNCTION mailchimp_sync.rows_of_person(_hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS TABLE (section text, entry jsonb)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT * FROM mailchimp_sync.contact_rows_of_person(_hashes, _source_ids, _contact_keys)
	UNION ALL SELECT * FROM mailchimp_sync.opt_out_rows_of_person(_hashes, _source_ids, _contact_keys)
	UNION ALL SELECT * FROM mailchimp_sync.campaign_rows_of_person(_hashes, _source_ids, _contact_keys)
	UNION ALL SELECT * FROM mailchimp_sync.work_rows_of_person(_hashes, _source_ids, _contact_keys)
$$;

-- contacts, members, and what became of them
CREATE FUNCTION mailchimp_sync.contact_rows_of_person(_hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS TABLE (section text, entry jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH person AS MATERIALIZED (
		SELECT u.source_id, u.contact_key COLLATE "C" AS contact_key FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
	)
	SELECT 'contacts', to_jsonb(c) FROM person p JOIN mailchimp_sync.contact c USING (source_id, contact_key)
	UNION ALL
	SELECT 'by_hand', to_jsonb(g) FROM person p
	JOIN mailchimp_sync.hand_given g ON g.audience_id = ANY (ARRAY(SELECT a.audience_id FROM mailchimp_sync.audience a))
		AND g.source_id = p.source_id AND g.contact_key = p.contact_key
	UNION ALL
	SELECT 'members', to_jsonb(m) FROM mailchimp_sync.member m
	WHERE m.audience_id = ANY (ARRAY(SELECT a.audience_id FROM mailchimp_sync.audience a)) AND m.email_hash = ANY (_hashes)
	UNION ALL
	SELECT 'failures', to_jsonb(f) FROM mailchimp_sync.failure f
	WHERE mailchimp_sync.email_hash(f.email) = ANY (_hashes) OR f.contact_key = ANY (_hashes)
		OR (f.source_id, f.contact_key) IN (SELECT p.source_id, p.contact_key FROM person p)
	UNION ALL
	SELECT 'signals', to_jsonb(s) FROM mailchimp_sync.signal s
	WHERE mailchimp_sync.email_hash(s.email) = ANY (_hashes)
		OR (s.source_id, s.contact_key) IN (SELECT p.source_id, p.contact_key FROM person p)
$$;

-- the group, its history, and the erasure
CREATE FUNCTION mailchimp_sync.opt_out_rows_of_person(_hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS TABLE (section text, entry jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH person AS MATERIALIZED (
		SELECT u.source_id, u.contact_key COLLATE "C" AS contact_key FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
	)
	SELECT 'opt_outs', to_jsonb(o) FROM mailchimp_sync.opt_out o
	WHERE o.opt_out_id IN (SELECT x.opt_out_id FROM mailchimp_sync.opt_out x WHERE x.email_hash = ANY (_hashes)
		UNION ALL SELECT x.opt_out_id FROM person p JOIN mailchimp_sync.opt_out x USING (source_id, contact_key))
	UNION ALL
	SELECT 'opt_out_history', to_jsonb(l) FROM mailchimp_sync.opt_out_log l
	WHERE mailchimp_sync.email_hash(l.email) = ANY (_hashes)
		OR (l.source_id, l.contact_key) IN (SELECT p.source_id, p.contact_key FROM person p)
	UNION ALL
	SELECT 'confirmations', to_jsonb(f) FROM mailchimp_sync.confirmation f WHERE f.email_hash = ANY (_hashes)
	UNION ALL
	SELECT 'erasures', jsonb_build_object('asked_at', e.asked_at, 'asked_by', e.asked_by, 'email_hash', e.email_hash,
		'done_at', e.done_at, 'detail', coalesce(l.detail, e.detail), 'connection', l.connection, 'list_id', l.list_id,
		'state', l.state, 'erased_at', l.erased_at)
	FROM mailchimp_sync.erasure e
	LEFT JOIN mailchimp_sync.erasure_list l USING (erasure_id)
	WHERE e.email_hash = ANY (_hashes) OR EXISTS (
		SELECT FROM unnest(e.source_ids, e.contact_keys) AS u(source_id, contact_key)
		JOIN person p ON p.source_id = u.source_id AND p.contact_key = u.contact_key COLLATE "C")
$$;

-- campaigns received and not received, and what the person did with them
CREATE FUNCTION mailchimp_sync.campaign_rows_of_person(_hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS TABLE (section text, entry jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH person AS MATERIALIZED (
		SELECT u.source_id, u.contact_key COLLATE "C" AS contact_key FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
		UNION ALL SELECT 0, h.email_hash COLLATE "C" FROM unnest(_hashes) AS h(email_hash)	-- members without a contact
	), got AS (
		SELECT b.* FROM unnest(coalesce(nullif(_hashes, '{}'), ARRAY[NULL::text])) AS h(email_hash)
		CROSS JOIN LATERAL mailchimp_sync.recipients_behind(jsonb_populate_record(NULL::mailchimp_sync.erasure,
			jsonb_build_object('email_hash', h.email_hash, 'source_ids', _source_ids, 'contact_keys', _contact_keys))) b
	), did AS (
		SELECT a.* FROM mailchimp_sync.campaign c
		JOIN mailchimp_sync.activity a ON a.campaign_id = c.campaign_id AND a.email_hash = ANY (_hashes)
		UNION
		SELECT a.* FROM person p JOIN mailchimp_sync.activity a USING (source_id, contact_key)
	)
	SELECT 'campaigns', to_jsonb(g) || jsonb_build_object('subject', coalesce(c.subject, c.name), 'sent_at', c.sent_at)
	FROM (SELECT DISTINCT ON (r.campaign_id, r.source_id, r.contact_key) r.* FROM got r) g
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	UNION ALL
	SELECT 'activities', to_jsonb(d) FROM did d
	UNION ALL
	SELECT 'left_out_of_campaigns', to_jsonb(x) FROM person p JOIN mailchimp_sync.recipient_exclusion x USING (source_id, contact_key)
	UNION ALL
	SELECT 'aimed_at_by_tag', to_jsonb(h) FROM mailchimp_sync.target_hand h WHERE h.email_hash = ANY (_hashes)
	UNION ALL
	SELECT 'test_mails', to_jsonb(t) - 'emails' || jsonb_build_object('email', e.email) FROM mailchimp_sync.test_mail t
	CROSS JOIN LATERAL unnest(t.emails) AS e(email) WHERE mailchimp_sync.email_hash(e.email) = ANY (_hashes)
	UNION ALL
	SELECT 'sender_of', jsonb_build_object('campaign_id', c.campaign_id, 'from_name', c.from_name, 'from_email', c.from_email)
	FROM mailchimp_sync.campaign c WHERE mailchimp_sync.email_hash(c.from_email) = ANY (_hashes)
$$;

-- what is on its way; others' data travel in the same requests, so these are named and not shown
CREATE FUNCTION mailchimp_sync.work_rows_of_person(_hashes text[], _source_ids integer[], _contact_keys text[])
RETURNS TABLE (section text, entry jsonb)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH person AS MATERIALIZED (
		SELECT u.source_id, u.contact_key COLLATE "C" AS contact_key FROM unnest(_source_ids, _contact_keys) AS u(source_id, contact_key)
	)
	SELECT 'unread_changes', to_jsonb(e) FROM mailchimp_sync.event e
	WHERE (e.source_id, e.contact_key) IN (SELECT p.source_id, p.contact_key FROM person p)
		OR concat(e.old_row, e.new_row) LIKE '%@%' AND EXISTS (
			SELECT FROM (VALUES (e.old_row), (e.new_row)) AS r(line)
			CROSS JOIN LATERAL jsonb_each_text(r.line) AS v
			WHERE CASE WHEN v.value LIKE '%@%' AND mailchimp_sync.is_utf8(v.value)
				THEN mailchimp_sync.email_hash(v.value) = ANY (_hashes) END)
	UNION ALL
	SELECT 'requests_under_way', jsonb_build_object('connection', f.connection, 'audience_id', f.audience_id,
		'campaign_id', f.campaign_id, 'kind', f.kind, 'sent_at', f.sent_at)
	FROM mailchimp_sync.inflight f
	WHERE f.email_hashes && _hashes OR EXISTS (SELECT FROM unnest(f.source_ids, f.contact_keys) AS u(source_id, contact_key)
			JOIN person p ON p.source_id = u.source_id AND p.contact_key = u.contact_key COLLATE "C")
		OR f.kind = 'test_mail' AND EXISTS (SELECT FROM jsonb_array_elements_text(f.body::jsonb -> 'test_emails') AS t(email)
			WHERE mailchimp_sync.email_hash(t.email) = ANY (_hashes))
	UNION ALL
	SELECT 'leaves_under_way', jsonb_build_object('connection', b.connection, 'list_id', b.list_id, 'asked_at', b.asked_at)
	FROM mailchimp_sync.batch b WHERE b.email_hashes && _hashes
	UNION ALL
	SELECT 'training_addresses', jsonb_build_object('connection', n.connection, 'email', o.email)
	FROM mailchimp_sync.connection n CROSS JOIN LATERAL unnest(n.only_addresses) AS o(email)
	WHERE mailchimp_sync.email_hash(o.email) = ANY (_hashes)
$$;
