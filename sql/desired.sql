/*
 * desired.sql: what we want for contacts, given what their source says now.
 *
 * mailchimp_sync.desired() is the one place where rule, hand, link, opt-out,
 * address and Mailchimp's own verdict are weighed. The engine stores what it
 * returns (settle.sql), mc_preview shows it (N4); it writes nothing.
 */
/*
 * What goes over the wire for a contact, in canonical form. A field is emptied by an
 * empty text: a null would leave it as it is.
 */
CREATE FUNCTION mailchimp_sync.payload(_value jsonb) RETURNS jsonb
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT jsonb_build_object('email', btrim(_value ->> 'email'),
		'merge_fields', (SELECT coalesce(jsonb_object_agg(f.key, coalesce(nullif(f.value, 'null'), '""')), '{}')
			FROM jsonb_each(_value -> 'fields') AS f),
		'tags', coalesce(_value -> 'tags', '[]'))
$$;

-- the leading number is the version of this format: a new one sends all anew
CREATE FUNCTION mailchimp_sync.payload_hash(_payload jsonb) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT sha256(convert_to('1 ' || _payload::text, 'UTF8'))
$$;

/*
 * The address under which a contact left, when it is to have another one; that may be the one that it gives up,
 * where Mailchimp has somebody there who is not to be mailed: that goes with the contact (D10), but not with who only
 * shared the address.
 */
CREATE FUNCTION mailchimp_sync.left_under(_audience_id integer, _state text, _email_hash text, _left_hash text) RETURNS text
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _state <> 'conflict' AND EXISTS (SELECT FROM mailchimp_sync.member m
			WHERE m.audience_id = _audience_id AND m.email_hash = _email_hash
				AND m.status IN ('unsubscribed', 'cleaned', 'archived') AND NOT m.archived_by_us)
		THEN _email_hash ELSE _left_hash END
$$;

/*
 * Who owns an address that several contacts have (D13): the first by the order
 * of the sources in the audience, then by key; whole numbers in their own order. The keys of
 * rows that are gone may be of a type that the key had before.
 */
CREATE FUNCTION mailchimp_sync.precedence(_position integer, _key_type text, _contact_key text)
RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT lpad(_position::text, 10, '0') || ' '
		|| CASE WHEN _key_type IN ('smallint', 'integer', 'bigint') AND _contact_key ~ '^-?[0-9]{1,19}$'
			THEN lpad((_contact_key::numeric + 9223372036854775808)::text, 20, '0') ELSE _contact_key END
$$;

CREATE FUNCTION mailchimp_sync.conflict_detail(_source text, _contact_key text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('contact "%s" of source "%s" has the same address and comes first', _contact_key, _source)
$$;

/*
 * A contact as it is weighed by itself, before others with the same address are
 * looked at. What it comes to then is said by outcome(), for the run and the preview.
 */
CREATE TYPE mailchimp_sync.weight AS (
	precedence		text,
	wants			boolean,	-- nothing in the CRM stands against it
	claims			boolean,	-- its address is not for others who come later: it wants in, or wanted to before it failed
	opts_out		boolean,	-- joins the opt-out group when this is stored
	state			text,
	detail			text,
	sends			text,		-- the action, where it is pending
	leaves			boolean,	-- it is not to be where member_hash says
	may_leave		boolean,	-- the policy, or Mailchimp's status, does not keep it there
	member_hash		text
);

/*
 * _preceded: another contact claims its address and comes first; _is_claimed: some
 * contact that is not inactive claims the address under which it is at Mailchimp, so
 * that it stays there.
 */
CREATE FUNCTION mailchimp_sync.outcome(_w mailchimp_sync.weight, _preceded boolean, _is_claimed boolean,
	OUT state text, OUT action text)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN l.leaves THEN 'pending' WHEN _preceded THEN 'conflict' ELSE _w.state END,
		CASE WHEN l.leaves THEN 'leave' WHEN NOT _preceded AND _w.state = 'pending' THEN _w.sends END
	FROM (SELECT _w.may_leave AND NOT _is_claimed AND (_preceded OR _w.leaves) AS leaves) AS l
$$;

/*
 * Costs what the page costs, whatever the planner knows of the tables: a lookup
 * behind LIMIT or OFFSET is done row by row, with an index for all of its columns.
 *
 * _values is what evaluate() returned for _keys; a key without a value has no
 * row any more. The result has a row for each contact that the audience is or
 * was concerned with; state null: none of its business. standing: among those who
 * claim its address it is "first", or first but "inactive", or "later"; old_standing:
 * so it was stored.
 *
 * desired_hash is stored for whoever claims an address and for nobody else, which is
 * how others, on other pages and of other sources, know.
 */
CREATE FUNCTION mailchimp_sync.desired(_audience_id integer, _source_id integer, _keys text[],
	_values mailchimp_sync.evaluated[],
	OUT contact_key text, OUT email text, OUT email_hash text, OUT state text, OUT detail text,
	OUT action text, OUT stale_tags text[], OUT desired_hash bytea, OUT payload jsonb, OUT old_email_hash text,
	OUT error_message text, OUT standing text, OUT old_standing text, OUT weight mailchimp_sync.weight,
	OUT at_hash text, OUT adopts boolean, OUT pushes jsonb, OUT agrees jsonb)
RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 100
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
WITH audience AS MATERIALIZED (
	SELECT a.on_leave, a.on_unsubscribe, a.direction, a.conflict, s.source, s.key_type, x.position,
		CASE WHEN a.direction = 'both' THEN mailchimp_sync.incoming_fields(_audience_id, _source_id) END AS comes_in,
		-- an empty list allows nobody, none at all everybody
		CASE WHEN c.only_addresses IS NOT NULL
			THEN ARRAY(SELECT mailchimp_sync.email_hash(o.address) FROM unnest(c.only_addresses) AS o(address)) END AS allowed
	FROM mailchimp_sync.audience a
	JOIN mailchimp_sync.audience_source x USING (audience_id)
	JOIN mailchimp_sync.source s USING (source_id)
	LEFT JOIN mailchimp_sync.connection c USING (connection)
	WHERE a.audience_id = _audience_id AND x.source_id = _source_id
), input AS MATERIALIZED (
	SELECT k.contact_key, v.value, v.error_state, v.error_message,
		v.contact_key IS NULL AS gone,
		nullif(btrim(v.value ->> 'email'), '') AS email,
		CASE WHEN mailchimp_sync.is_email(btrim(v.value ->> 'email'))
			THEN mailchimp_sync.email_hash(v.value ->> 'email') END AS email_hash,
		coalesce((v.value ->> 'linked')::boolean, true) AS linked,
		coalesce((v.value ->> 'opt_out')::boolean, false) AS opts_out,
		coalesce((v.value -> 'rules' ->> _audience_id::text)::boolean, false) AS taken,
		coalesce(mailchimp_sync.is_utf8(v.value::text), true) AS is_utf8,
		h.inside,
		mailchimp_sync.precedence(a.position, a.key_type, k.contact_key) AS precedence
	FROM audience a
	CROSS JOIN (
		-- a join of two lists whose lengths nobody knows would go through the one for each of the other
		SELECT u.contact_key, (array_agg(u.value) FILTER (WHERE u.has_value))[1] AS value
		FROM (
			SELECT unnest(_keys) COLLATE "C", NULL::mailchimp_sync.evaluated, false
			UNION ALL
			SELECT v.contact_key COLLATE "C", v, true FROM unnest(_values) AS v
		) AS u(contact_key, value, has_value)
		WHERE u.contact_key IS NOT NULL
		GROUP BY u.contact_key HAVING bool_or(NOT u.has_value)
	) AS k
	CROSS JOIN LATERAL (SELECT (k.value).contact_key, (k.value).value, (k.value).error_state, (k.value).error_message) AS v
	LEFT JOIN LATERAL (SELECT o.inside FROM mailchimp_sync.hand o
		WHERE o.audience_id = _audience_id AND o.source_id = _source_id AND o.contact_key = k.contact_key LIMIT 1) AS h ON true
), wish AS MATERIALIZED (
	-- does it want in, as far as the CRM alone can say?
	SELECT i.*,
		CASE
			WHEN i.error_state IS NOT NULL THEN 'refused'
			WHEN i.gone THEN 'outside'
			WHEN i.inside IS FALSE THEN 'inactive'
			WHEN NOT (i.taken OR i.inside IS TRUE) THEN 'outside'
			WHEN NOT i.linked THEN 'not_linked'
			-- whom the CRM opts out now joins the group when this is stored; a preview stores nothing
			WHEN i.opts_out
				OR EXISTS (SELECT FROM mailchimp_sync.opt_out o
					WHERE o.source_id = _source_id AND o.contact_key = i.contact_key)
				OR EXISTS (SELECT FROM mailchimp_sync.opt_out o WHERE o.email_hash = i.email_hash) THEN 'opted_out'
			WHEN i.email_hash IS NULL OR NOT i.is_utf8 THEN 'refused'
			WHEN i.email_hash <> ALL (a.allowed) THEN 'not_allowed'
		END AS obstacle,
		EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = i.email_hash)
			OR EXISTS (SELECT FROM mailchimp_sync.opt_out o
				WHERE o.source_id = _source_id AND o.contact_key = i.contact_key AND o.origin = 'erasure') AS erased
	FROM input i, audience a
), claim AS MATERIALIZED (
	SELECT w.*, c.contact_key IS NOT NULL AS is_known, c.email AS old_email, c.email_hash AS old_email_hash,
		c.state AS old_state, c.detail AS old_detail, c.desired_hash AS old_desired_hash,
		c.member_hash, CASE WHEN c.member_hash IS NULL AND c.email_hash <> w.email_hash
			THEN mailchimp_sync.left_under(_audience_id, c.state, c.email_hash, c.left_hash) ELSE c.left_hash END AS left_hash,
		c.taken_hash, c.aside_email, c.sent_hash, c.refused_hash, c.open_fields, c.crm_at,
		-- where it is to be at Mailchimp
		CASE a.direction WHEN 'push' THEN w.email_hash
			WHEN 'pull' THEN mailchimp_sync.pulled_hash(_audience_id, w.email_hash, c.member_hash)
			ELSE mailchimp_sync.agreed_address(_audience_id, a.conflict, a.comes_in, w.email_hash, c.member_hash,
				c.agreed_hash, c.crm_at) END AS here_hash,
		CASE WHEN w.error_state IS NULL THEN w.email_hash ELSE c.email_hash END AS own_hash,
		CASE WHEN w.error_state IS NULL THEN w.obstacle IS NULL ELSE c.desired_hash IS NOT NULL END AS claims
	FROM wish w
	CROSS JOIN audience a
	LEFT JOIN LATERAL (SELECT o.* FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.source_id = _source_id AND o.contact_key = w.contact_key LIMIT 1) AS c ON true
), ranked AS MATERIALIZED (
	SELECT c.*, row_number() OVER o AS page_rank, first_value(c.contact_key) OVER o AS page_key,
		first_value(c.precedence) OVER o AS page_precedence
	FROM claim c
	WINDOW o AS (PARTITION BY c.own_hash, c.claims ORDER BY c.precedence)
), known AS MATERIALIZED (
	SELECT w.*,
		CASE WHEN w.obstacle IS NULL THEN mailchimp_sync.payload(w.value) END AS payload,
		-- who is there now moves away first, and takes the status along
		CASE WHEN NOT g.is_given_up THEN m.status END AS status,
		CASE WHEN NOT g.is_given_up THEN m.archived_by_us END AS archived_by_us,
		m.sent_tags,
		-- no member can move to an address that the list has already
		w.member_hash <> w.here_hash AND (CASE WHEN NOT g.is_given_up THEN m.status END IS NOT NULL
			OR coalesce(w.taken_hash = w.email_hash, false)) AS is_taken,
		-- who comes first of all who claim the address: of this page, or of what is stored of others
		CASE WHEN max(f.precedence) OVER a < w.page_precedence THEN max(f.source) OVER a END AS first_source,
		CASE WHEN max(f.precedence) OVER a < w.page_precedence THEN max(f.contact_key) OVER a ELSE w.page_key END AS first_key
	FROM ranked w
	-- once for each address: very many contacts may have the same one
	LEFT JOIN LATERAL (SELECT s2.source, c2.contact_key,
			mailchimp_sync.precedence(x2.position, s2.key_type, c2.contact_key) AS precedence
		FROM (SELECT o.source_id, o.contact_key FROM mailchimp_sync.contact o
			WHERE w.claims AND w.page_rank = 1 AND o.audience_id = _audience_id AND o.email_hash = w.own_hash
				AND o.desired_hash IS NOT NULL
				AND NOT (o.source_id = _source_id AND o.contact_key IN (SELECT i.contact_key FROM input i))
			-- by the address before anything else: where few are thought to be there, the order of the primary key tempts
			OFFSET 0) AS c2
		JOIN mailchimp_sync.audience_source x2 ON x2.audience_id = _audience_id AND x2.source_id = c2.source_id
		JOIN mailchimp_sync.source s2 ON s2.source_id = c2.source_id
		ORDER BY 3 LIMIT 1) AS f ON true
	LEFT JOIN LATERAL (SELECT o.status, o.archived_by_us, o.sent_tags FROM mailchimp_sync.member o
		WHERE o.audience_id = _audience_id AND o.email_hash = w.here_hash LIMIT 1) AS m ON true
	CROSS JOIN LATERAL (SELECT EXISTS (
		SELECT FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.member_hash = w.email_hash
			AND (o.source_id, o.contact_key) <> (_source_id, w.contact_key)
			-- of this page: as soon as its address changes, what is stored does not know
			AND coalesce((SELECT w2.obstacle IS NULL AND CASE WHEN w2.email_hash = o.email_hash THEN o.action = 'rename'
					ELSE w2.email_hash <> o.member_hash END FROM wish w2
				WHERE o.source_id = _source_id AND w2.contact_key = o.contact_key), o.action = 'rename')
		OFFSET 0) AS is_given_up) AS g
	WINDOW a AS (PARTITION BY w.own_hash, w.claims)
), hashed AS MATERIALIZED (	-- else the hash would be computed wherever it is looked at
	SELECT k.*, mailchimp_sync.payload_hash(k.payload) AS desired_hash,
		-- Mailchimp's word on the contact under its former address goes with it (D10)
		CASE WHEN k.is_taken OR k.member_hash IS NULL AND k.left_hash <> k.email_hash THEN (
			SELECT v.status FROM mailchimp_sync.member m
			CROSS JOIN LATERAL (SELECT CASE WHEN m.archived_by_us THEN m.status_before ELSE m.status END) AS v(status)
			WHERE m.audience_id = _audience_id AND m.email_hash = coalesce(k.member_hash, k.left_hash)
				AND (v.status IN ('unsubscribed', 'cleaned', 'archived')
					OR k.member_hash IS NULL AND v.status IN ('pending', 'transactional'))) END AS former_status,
		-- is the address under which we brought it there still ours to take away?
		k.member_hash IS NOT NULL AND a.on_leave <> 'keep' AND a.direction <> 'pull' AND k.error_state IS NULL
			AND coalesce(k.member_hash = ANY (a.allowed), true)
			AND coalesce((SELECT m.status IN ('subscribed', 'pending', 'transactional')
				FROM mailchimp_sync.member m
				WHERE m.audience_id = _audience_id AND m.email_hash = k.member_hash), true) AS may_leave,
		k.claims AND (k.first_source IS NOT NULL OR k.first_key <> k.contact_key) AS comes_later
	FROM known k, audience a
), compared AS MATERIALIZED (
	SELECT h.*, s.is_sent, (f.fields).pushes, (f.fields).agrees,
		CASE WHEN s.is_sent AND to_jsonb(h.sent_tags) <> h.payload -> 'tags'
			THEN mailchimp_sync.stale_tags(_audience_id, h.sent_tags,
				ARRAY(SELECT jsonb_array_elements_text(h.payload -> 'tags'))) END AS stale_tags
	FROM hashed h
	CROSS JOIN audience a
	CROSS JOIN LATERAL (SELECT CASE WHEN a.direction = 'both' AND h.payload IS NOT NULL AND h.status <> 'archived'
		THEN mailchimp_sync.weigh_fields(_audience_id, _source_id, h.here_hash, a.conflict, a.comes_in, h.payload,
			h.open_fields, h.crm_at) END AS fields OFFSET 0) AS f
	CROSS JOIN LATERAL (SELECT h.aside_email IS NULL AND NOT coalesce(h.archived_by_us, false) AND CASE a.direction
		WHEN 'push' THEN h.desired_hash = h.sent_hash AND h.member_hash = h.email_hash
		-- whom we find as the CRM wants them is adopted without a request
		WHEN 'both' THEN coalesce((f.fields).pushes = '{}' AND h.open_fields IS NULL AND coalesce(h.member_hash = h.here_hash, true)
			AND to_jsonb(coalesce(h.sent_tags, '{}')) @> (h.payload -> 'tags'), false)
		ELSE false END AS is_sent) AS s
), weighed AS MATERIALIZED (
	SELECT h.*,
		CASE
			WHEN h.obstacle = 'outside' AND NOT h.is_known THEN NULL
			-- nobody is brought to Mailchimp: who is not there is none of its business
			WHEN a.direction = 'pull' AND h.error_state IS NULL
				AND (h.obstacle = 'refused' OR h.obstacle IS NULL AND h.status IS NULL) THEN CASE WHEN h.is_known THEN 'outside' END
			WHEN h.obstacle IS NOT NULL THEN h.obstacle
			WHEN h.status = 'forgotten' THEN 'refused'
			-- nobody knows where it is: that is looked for first
			WHEN h.is_taken AND h.aside_email IS NOT NULL THEN 'pending'
			WHEN h.former_status IS NOT NULL THEN 'inactive'
			WHEN h.status IN ('cleaned', 'archived') AND (a.direction = 'pull' OR NOT coalesce(h.archived_by_us, false)) THEN 'inactive'
			WHEN h.status = 'unsubscribed' AND a.on_unsubscribe <> 'ignore' THEN 'inactive'
			WHEN a.direction = 'pull' THEN 'in_sync'
			-- moved at Mailchimp: the CRM gets the new address first
			WHEN a.direction = 'both' AND h.here_hash <> h.email_hash
				THEN CASE WHEN mailchimp_sync.inbound_rests(_audience_id, h.here_hash) THEN 'refused' ELSE 'pending' END
			WHEN h.desired_hash = h.refused_hash AND NOT (a.direction = 'both' AND h.is_sent) THEN 'refused'
			WHEN h.is_sent AND h.stale_tags IS NULL THEN 'in_sync'
			ELSE 'pending'
		END AS verdict,
		CASE
			WHEN h.error_state IS NOT NULL THEN h.error_message
			WHEN h.gone THEN 'its row is gone'
			WHEN h.obstacle = 'inactive' THEN 'removed by hand'
			WHEN h.obstacle = 'outside' THEN 'the rule does not take it'
			WHEN h.obstacle = 'not_linked' THEN 'its link flag is off'
			WHEN h.obstacle = 'opted_out' AND h.erased THEN 'was erased'
			WHEN h.obstacle = 'opted_out' THEN 'is in the opt-out group'
			WHEN h.obstacle = 'refused' AND h.email IS NULL THEN 'has no e-mail address'
			WHEN h.obstacle = 'refused' AND h.email_hash IS NULL THEN 'its e-mail address is not valid'
			WHEN h.obstacle = 'refused' THEN 'its data cannot be converted to UTF-8'
			WHEN h.obstacle = 'not_allowed' THEN 'is not among the addresses of the training connection'
			WHEN a.direction = 'pull' AND h.status IS NULL THEN 'is not a member'
			WHEN h.status = 'forgotten' THEN 'was deleted permanently at Mailchimp'
			WHEN h.former_status IS NOT NULL THEN h.former_status || ' at Mailchimp under its former address'
			WHEN h.status IN ('unsubscribed', 'cleaned', 'archived')
				AND (a.direction = 'pull' OR NOT coalesce(h.archived_by_us, false)) THEN h.status || ' at Mailchimp'
			WHEN a.direction = 'both' AND h.here_hash <> h.email_hash THEN 'its new address at Mailchimp is to come into the CRM'
			WHEN h.desired_hash = h.refused_hash AND NOT (a.direction = 'both' AND h.is_sent) THEN h.old_detail
		END AS why,
		CASE
			WHEN a.direction = 'both' AND h.here_hash <> h.email_hash THEN NULL
			WHEN h.is_sent THEN 'tag'
			WHEN h.member_hash <> h.here_hash AND NOT h.is_taken OR h.member_hash IS NOT NULL AND h.aside_email IS NOT NULL
				THEN 'rename'
			WHEN h.status IS NULL OR h.status = 'archived' THEN 'subscribe'
			ELSE 'update'
		END AS sends
	FROM compared h, audience a
), single AS MATERIALIZED (
	SELECT w.*, w.comes_later AND w.obstacle IS NULL AS preceded,
		-- who is inactive needs no member
		w.member_hash IN (SELECT o.own_hash FROM weighed o WHERE o.claims AND o.verdict <> 'inactive')
			OR EXISTS (SELECT FROM mailchimp_sync.contact c2
				WHERE c2.audience_id = _audience_id AND c2.email_hash = w.member_hash
					AND c2.desired_hash IS NOT NULL AND c2.state <> 'inactive'
					AND NOT (c2.source_id = _source_id AND c2.contact_key IN (SELECT i.contact_key FROM input i))) AS is_claimed,
		ROW(w.precedence, w.obstacle IS NULL, w.claims, w.opts_out,
		w.verdict, w.why, w.sends, w.verdict IN ('outside', 'not_linked', 'not_allowed')
			OR (w.verdict = 'refused' AND w.obstacle = 'refused')
			OR (w.verdict = 'inactive' AND w.obstacle = 'inactive')
			OR (w.verdict IN ('pending', 'inactive') AND w.is_taken AND w.aside_email IS NULL), w.may_leave,
		w.member_hash)::mailchimp_sync.weight AS weight
	FROM weighed w
	WHERE w.verdict IS NOT NULL
)
-- a row that is gone, or cannot be evaluated, is known by its last address; who was erased by none
SELECT w.contact_key,
	CASE WHEN NOT w.erased THEN coalesce(w.email, CASE WHEN w.gone OR w.error_state IS NOT NULL THEN w.old_email END) END,
	CASE WHEN w.gone OR w.error_state IS NOT NULL THEN w.old_email_hash ELSE w.email_hash END,
	o.state,
	CASE WHEN w.preceded THEN mailchimp_sync.conflict_detail(coalesce(w.first_source, a.source), w.first_key)
		WHEN o.action = 'leave' THEN coalesce(w.why, 'its new address is at Mailchimp already')
		ELSE w.why END,
	o.action,
	CASE WHEN o.action = 'tag' THEN w.stale_tags END,
	CASE WHEN w.error_state IS NULL THEN w.desired_hash ELSE w.old_desired_hash END,
	w.payload, w.old_email_hash, w.error_message,
	CASE WHEN w.claims THEN CASE WHEN w.comes_later THEN 'later' WHEN w.verdict = 'inactive' THEN 'inactive' ELSE 'first' END END,
	CASE WHEN w.old_desired_hash IS NOT NULL THEN CASE w.old_state WHEN 'conflict' THEN 'later' WHEN 'inactive' THEN 'inactive'
		ELSE 'first' END END,
	w.weight,
	w.here_hash, a.direction = 'both' AND o.state = 'in_sync'
		-- only linked
		OR a.direction = 'pull' AND w.status IS NOT NULL AND w.obstacle IS NULL AND NOT w.preceded,
	w.pushes, CASE WHEN NOT w.preceded THEN w.agrees END
FROM single w
CROSS JOIN audience a
CROSS JOIN LATERAL mailchimp_sync.outcome(w.weight, w.preceded, coalesce(w.is_claimed, false)) AS o;
END
$$;

/* ---- preview ---- */

-- what mc_preview calls a state that is not to be acted upon
CREATE FUNCTION mailchimp_sync.preview_action(_state text, _action text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN _action = 'rename' THEN 'update'
		WHEN _action IS NOT NULL THEN _action
		WHEN _state = 'conflict' THEN 'conflict'
		WHEN _state NOT IN ('in_sync', 'outside') THEN 'skip'
	END
$$;

CREATE FUNCTION @extschema@.mc_preview(audience text)
RETURNS TABLE (action text, source text, contact_key text, email text, reason text, before jsonb, after jsonb)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_preview(text) IS
	'what a full comparison would do now, by the very query that does it; read only, asks nothing of Mailchimp';

CREATE FUNCTION mailchimp_sync.preview_rows(_audience_id integer)
RETURNS TABLE (source text, contact_key text, email text, email_hash text, before jsonb, after jsonb,
	weight mailchimp_sync.weight)
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
	_source	record;
	_phase	text;
	_page	mailchimp_sync.compare_page;
BEGIN
	FOR _source IN
		SELECT s.source_id, s.source
		FROM mailchimp_sync.audience_source x
		JOIN mailchimp_sync.source s USING (source_id)
		WHERE x.audience_id = _audience_id ORDER BY x.position
	LOOP
		FOREACH _phase IN ARRAY ARRAY['rows', 'contacts'] LOOP
			_page := NULL;
			LOOP
				_page := mailchimp_sync.compare_page(_audience_id, _source.source_id, _phase, _page.last_key);
				IF _page.error_state IS NOT NULL THEN
					RAISE EXCEPTION USING ERRCODE = _page.error_state,
						MESSAGE = format('source "%s" cannot be read: %s', _source.source, _page.error_message);
				END IF;
				RETURN QUERY
				SELECT _source.source, d.contact_key, d.email, d.email_hash,
					CASE WHEN p.fields IS NOT NULL THEN jsonb_build_object('email', m.email,
						'merge_fields', p.fields, 'tags', to_jsonb(coalesce(m.sent_tags, '{}'))) END,
					CASE WHEN d.pushes IS NULL THEN mailchimp_sync.with_emptied(d.payload, _source.source_id, m)
						ELSE jsonb_set(d.payload, '{merge_fields}', p.fields || d.pushes) END, d.weight
				FROM mailchimp_sync.desired(_audience_id, _source.source_id, _page.keys, _page.values) d
				LEFT JOIN mailchimp_sync.member m ON m.audience_id = _audience_id
					AND m.email_hash = coalesce((d.weight).member_hash, d.email_hash)
				CROSS JOIN LATERAL (SELECT CASE WHEN d.pushes IS NULL THEN m.sent_fields
					ELSE coalesce(m.read_fields, m.shown_fields, '{}') END AS fields) AS p;
				EXIT WHEN _page.is_last;
			END LOOP;
		END LOOP;
	END LOOP;
END
$$;

-- how many members leave by a preview, and what that means for them
CREATE FUNCTION mailchimp_sync.notice_leaves(_audience_id integer, _leaves bigint) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.notice_leaving(format(CASE WHEN _leaves = 1 THEN '%s member would be %s' ELSE '%s members would be %s' END,
		_leaves, mailchimp_sync.status_of_leaving(a.on_leave)), a.on_leave)
	FROM mailchimp_sync.audience a WHERE a.audience_id = _audience_id AND _leaves > 0
$$;

/*
 * The run stores page by page, and who is told by that of an address that changed
 * hands is evaluated again. Here nothing is stored, so who claims which address is
 * found out when all are there, and each contact's outcome by that; so is who
 * has the address of somebody who is about to join the opt-out group.
 */
CREATE FUNCTION mailchimp_sync.mc_preview(_audience text)
RETURNS TABLE (action text, source text, contact_key text, email text, reason text, before jsonb, after jsonb)
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH found AS MATERIALIZED (
		SELECT p.*, (p.weight).wants AND bool_or((p.weight).opts_out) OVER (PARTITION BY p.email_hash) AS opts_out
		FROM mailchimp_sync.preview_rows(mailchimp_sync.audience_id(_audience)) p
	), owner AS MATERIALIZED (
		SELECT DISTINCT ON (f.email_hash) f.email_hash, f.source, f.contact_key
		FROM found f
		WHERE (f.weight).claims AND NOT f.opts_out
		ORDER BY f.email_hash, (f.weight).precedence COLLATE "C"
	), claimed AS MATERIALIZED (
		SELECT DISTINCT f.email_hash FROM found f
		WHERE (f.weight).claims AND NOT f.opts_out AND (f.weight).state <> 'inactive'
	), decided AS MATERIALIZED (
		SELECT f.*, e.preceded, o.state, o.action, w.source AS first_source, w.contact_key AS first_key
		FROM found f
		LEFT JOIN owner w ON w.email_hash = f.email_hash
		LEFT JOIN claimed h ON h.email_hash = (f.weight).member_hash
		CROSS JOIN LATERAL (SELECT coalesce((f.weight).wants AND NOT f.opts_out
			AND (w.source, w.contact_key) <> (f.source, f.contact_key), false) AS preceded) AS e
		CROSS JOIN LATERAL mailchimp_sync.outcome(f.weight, e.preceded, h.email_hash IS NOT NULL) AS o
	), noticed AS MATERIALIZED (
		SELECT mailchimp_sync.notice_leaves(mailchimp_sync.audience_id(_audience), count(*))
		FROM decided d WHERE d.action = 'leave'
	)
	SELECT r.action, d.source, d.contact_key, d.email,
		CASE WHEN d.opts_out THEN 'is in the opt-out group'
			WHEN d.preceded THEN mailchimp_sync.conflict_detail(d.first_source, d.first_key)
			WHEN d.action = 'leave' THEN coalesce((d.weight).detail, 'its new address is at Mailchimp already')
			ELSE (d.weight).detail END,
		d.before,
		CASE r.action WHEN 'leave' THEN jsonb_build_object('status', mailchimp_sync.status_of_leaving(a.on_leave))
			WHEN 'conflict' THEN NULL WHEN 'skip' THEN NULL ELSE d.after END
	FROM decided d
	CROSS JOIN noticed
	JOIN mailchimp_sync.audience a ON a.audience = _audience
	CROSS JOIN LATERAL (SELECT CASE WHEN d.opts_out THEN 'skip'
		ELSE mailchimp_sync.preview_action(d.state, CASE
			WHEN d.action = 'update' AND d.before - 'tags' = d.after - 'tags' AND d.before <> d.after THEN 'tag'
			ELSE d.action END) END AS action) AS r
	WHERE r.action IS NOT NULL
	ORDER BY (d.weight).precedence COLLATE "C"
$$;
