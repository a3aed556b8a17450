-- Holds what is at Mailchimp, and what the public views say of it, against what must be (truth.sql). Everything has come to rest
-- when this is done.

CREATE FUNCTION model.saw(_audience text, _address text, _fact text) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.seen_address s WHERE s.audience = _audience AND s.address = _address AND s.fact = _fact)
$$;

-- was the address in the group at some moment, by itself or by a contact that had it, which may have opted out with another one?
CREATE FUNCTION model.saw_opted(_address text) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.seen_opted o WHERE o.address = _address)
		OR EXISTS (SELECT FROM model.seen_opted o JOIN model.had h USING (source, key) WHERE h.address = _address)
		OR EXISTS (SELECT FROM model.seen_opted o JOIN model.had n USING (address) JOIN model.had h ON (h.source, h.key) = (n.source, n.key) WHERE h.address = _address)
$$;

CREATE FUNCTION model.saw_policy(_audience text, _on_leave text) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.seen_policy p WHERE p.audience = _audience AND p.on_leave = _on_leave)
$$;

-- was the member like that only since the last comparison? Then a request may have been made without knowing it.
CREATE FUNCTION model.is_news(_c model.change) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.change c, model.mark m WHERE c.list = _c.list AND c.web_id = _c.web_id AND c.n > m.n AND c.n < _c.n
		AND c.to_status = _c.from_status)
$$;

-- a member that has to wait until its new address is free stays at a sub-address of that one
CREATE FUNCTION model.plain(_address text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT regexp_replace(_address, '\+moving-[0-9a-f]{8}@', '@')
$$;
CREATE FUNCTION model.moved_from(_c model.change) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT c.was FROM model.change c WHERE c.list = _c.list AND c.web_id = _c.web_id AND c.n <= _c.n AND c.was = model.plain(c.was)
	ORDER BY c.n DESC LIMIT 1
$$;

/*
 * Mailchimp's word on a contact under its former address goes with it (D10) also where the list has the new one already, so
 * that the member cannot move: then the contact is inactive. So it is where somebody deleted the former one permanently, which no
 * list of changes tells.
 */
CREATE FUNCTION model.is_held_back(_w model.wanted) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.state s
		JOIN model.had h ON h.source = s.source AND h.key = s.contact_key AND h.address <> _w.address
		WHERE s.audience = _w.audience AND s.source = _w.source AND s.contact_key = _w.key AND s.state = 'inactive'
			AND (EXISTS (SELECT FROM model.member m WHERE s.detail ~ 'under its former address'
					AND m.list = _w.list AND m.address = h.address AND m.status NOT IN ('subscribed', 'pending'))
				OR EXISTS (SELECT FROM model.change c WHERE c.list = _w.list AND c.address = h.address AND c.to_status IS NULL
					AND NOT EXISTS (SELECT FROM model.member m WHERE m.list = _w.list AND m.address = _w.address))))
$$;

-- was the member not wanted at some moment, or only by somebody who is held back?
CREATE FUNCTION model.is_unwanted(_audience text, _address text) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT model.saw(_audience, model.plain(_address), 'unwanted') OR EXISTS (SELECT FROM model.wanted w
		WHERE w.audience = _audience AND w.address = model.plain(_address) AND w.place = 1 AND model.is_held_back(w))
$$;

-- had a request a reason for what it did?
CREATE FUNCTION model.is_justified(_audience text, _c model.change) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT CASE
		WHEN _c.was IS NOT NULL THEN EXISTS (SELECT FROM model.had o JOIN model.had n USING (source, key)
			JOIN model.seen_contact s USING (source, key)
			WHERE o.address = model.moved_from(_c) AND n.address = model.plain(_c.address) AND s.address = n.address AND s.audience = _audience)
		WHEN _c.from_status IS NULL THEN model.saw(_audience, _c.address, 'wanted') AND (_c.to_status = 'subscribed'
			OR (_c.to_status = 'pending' AND (EXISTS (SELECT FROM model.seen_policy p WHERE p.audience = _audience AND p.double_opt_in)
				OR EXISTS (SELECT FROM model.asked a WHERE a.address = _c.address))))
		WHEN _c.to_status = 'subscribed' THEN _c.from_status = 'archived' AND model.saw(_audience, _c.address, 'wanted')
			AND NOT model.consent_ended(_c.list, _c.web_id, _c.n)
		WHEN _c.to_status = 'pending' THEN _c.from_status = 'unsubscribed' AND EXISTS (SELECT FROM model.asked a WHERE a.address = _c.address)
		WHEN _c.to_status = 'archived' THEN (_c.from_status IN ('subscribed', 'pending') OR model.is_news(_c))
			AND (model.is_unwanted(_audience, _c.address) OR _c.address <> model.plain(_c.address))
			AND model.saw_policy(_audience, 'archive')
		-- of somebody who was there before us only Mailchimp knows the status
		WHEN _c.to_status = 'unsubscribed' THEN (_c.from_status IN ('subscribed', 'pending') OR model.is_news(_c)
				OR NOT EXISTS (SELECT FROM model.ours u WHERE u.list = _c.list AND u.web_id = _c.web_id))
			AND (model.saw_opted(model.plain(_c.address)) OR model.saw_opted(model.moved_from(_c))
				OR (model.is_unwanted(_audience, _c.address) AND model.saw_policy(_audience, 'unsubscribe')))
		ELSE false END
$$;

-- ---- each kind of difference; who is an address or a contact, with its audience

CREATE TYPE model.difference AS (what text, audience text, who text, wanted text, found text);

CREATE FUNCTION model.changes_without_reason() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'a request changed a member without a reason', a.audience, c.address, NULL,
		format('%s%s -> %s by request %s', c.was || ' ', c.from_status, c.to_status, c.request)
	FROM model.change c JOIN model.audience a USING (list)
	WHERE c.request IS NOT NULL AND c.n > (SELECT n FROM model.mark) AND NOT model.is_justified(a.audience, c)
$$;

-- who is to be a member is one
CREATE FUNCTION model.missing_members() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'a member', w.audience, w.address, 'subscribed', coalesce(m.status, 'none')
	FROM model.wanted w LEFT JOIN model.member m USING (list, address)
	WHERE w.place = 1 AND NOT model.is_bad_address(w.address) AND NOT model.is_held_back(w)
		-- an address that Mailchimp reviews cannot be brought back, nor one that was deleted permanently under another one
		AND NOT EXISTS (SELECT FROM model.state s WHERE s.audience = w.audience AND s.source = w.source AND s.contact_key = w.key
			AND s.state = 'refused' AND s.detail ~ 'compliance review|permanently deleted')
		AND CASE
			WHEN m.web_id IS NULL THEN NOT model.is_bad_value(w.fields)
				AND NOT EXISTS (SELECT FROM model.forgotten f WHERE f.list = w.list AND f.hash = md5(w.address))
			-- archived by us, and nobody else ended the subscription, nor opted out meanwhile
			WHEN m.status = 'archived' THEN NOT model.is_bad_value(w.fields) AND NOT EXISTS (SELECT FROM model.opted_once o WHERE o.address = m.address)
				AND NOT model.consent_ended(m.list, m.web_id, 1000000000)
				AND (SELECT c.from_status = 'subscribed' FROM model.change c
					WHERE c.list = m.list AND c.web_id = m.web_id AND c.to_status = 'archived' AND c.was IS NULL ORDER BY c.n DESC LIMIT 1)
			ELSE m.status NOT IN ('subscribed', 'pending') AND NOT model.consent_ended(m.list, m.web_id, 1000000000) END
$$;

-- who is in sync has the data of the CRM, but for what people changed at Mailchimp afterwards
CREATE FUNCTION model.wrong_data() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT d.what, w.audience, w.address, d.wanted, d.found
	FROM model.wanted w JOIN model.audience a USING (audience)
	JOIN model.member m ON m.list = w.list AND m.address = w.address
	CROSS JOIN LATERAL (
		SELECT 'address' AS what, w.email AS wanted, m.email AS found WHERE w.email <> m.email
		UNION ALL
		SELECT 'field ' || f.key, f.value, m.fields ->> f.key FROM jsonb_each_text(w.fields) f
		WHERE coalesce(m.fields ->> f.key, '') <> f.value AND NOT EXISTS (SELECT FROM model.edited e
			WHERE e.list = m.list AND e.web_id = m.web_id AND e.field = f.key AND e.value = m.fields ->> f.key)
		UNION ALL
		SELECT 'tag', t, 'missing' FROM unnest(w.tags) t
		WHERE t <> ALL (m.tags) AND NOT EXISTS (SELECT FROM model.hand_tag h
			WHERE h.list = m.list AND h.web_id = m.web_id AND h.tag = t AND NOT h.is_there)) d
	WHERE w.place = 1 AND NOT model.is_bad_value(w.fields) AND NOT model.is_held_back(w)
		AND (m.status IN ('subscribed', 'pending') OR (m.status = 'unsubscribed' AND a.on_unsubscribe = 'ignore'))
$$;

-- a tag that somebody put on by hand stays (D16)
CREATE FUNCTION model.lost_tags() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'a tag by hand', a.audience, m.address, h.tag, array_to_string(m.tags, ', ')
	FROM model.hand_tag h JOIN model.member m USING (list, web_id) JOIN model.audience a USING (list)
	WHERE h.is_there AND h.tag LIKE 'hand%' AND h.tag <> ALL (m.tags)
$$;

/*
 * Nobody is left whom nobody wants (R58, R74), by the policy in force now; nobody who opted out (D12). Not those who came, or came back,
 * by themselves, unless they were ours when last compared (D15, D20); nor those of a source that the audience has lost; nor whose new
 * address Mailchimp refuses.
 */
CREATE FUNCTION model.left_overs() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN o.opted THEN 'who opted out' ELSE 'whom nobody wants' END, a.audience, m.address, 'not subscribed', m.status
	FROM model.member m JOIN model.audience a USING (list)
	CROSS JOIN LATERAL (SELECT EXISTS (SELECT FROM model.wanted w WHERE w.audience = a.audience AND w.address = m.address AND w.obstacle = 'opted_out') AS opted) o
	CROSS JOIN LATERAL (SELECT c.request IS NOT NULL AS by_us, c.n <= (SELECT n FROM model.mark) AS is_old FROM model.change c
		WHERE c.list = m.list AND c.web_id = m.web_id AND c.was IS NULL ORDER BY c.n DESC LIMIT 1) l
	WHERE m.status IN ('subscribed', 'pending') AND (o.opted OR a.on_leave <> 'keep')
		AND NOT EXISTS (SELECT FROM model.wanted w WHERE w.audience = a.audience AND w.address = m.address AND w.place = 1)
		AND NOT EXISTS (SELECT FROM public.mc_failure f JOIN model.had h ON h.source = f.source AND h.key = f.contact_key
			WHERE f.work = 'rename' AND f.audience = a.audience AND h.address = m.address)
		AND (o.opted OR NOT EXISTS (SELECT FROM model.abandoned x WHERE x.audience = a.audience AND x.address = m.address))
		AND (l.by_us OR (l.is_old AND EXISTS (SELECT FROM model.ours u WHERE u.list = m.list AND u.web_id = m.web_id)))
$$;

-- whom nobody wanted at any moment, and who had ended the subscription before, is as before to the last second
CREATE FUNCTION model.touched_members() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'touched without a reason', a.audience, b.address, b.raw::text, m.raw::text
	FROM model.before b JOIN model.audience a USING (list) LEFT JOIN model.member m USING (list, web_id)
	WHERE b.raw IS DISTINCT FROM m.raw
		AND NOT EXISTS (SELECT FROM model.change c WHERE c.list = b.list AND c.web_id = b.web_id AND c.n > (SELECT n FROM model.mark) AND c.request IS NOT NULL)
		AND (NOT model.saw(a.audience, b.address, 'wanted')
			OR (b.status IN ('unsubscribed', 'cleaned') AND NOT EXISTS (SELECT FROM model.acted x WHERE x.list = b.list AND x.web_id = b.web_id)
				AND NOT EXISTS (SELECT FROM model.seen_policy p WHERE p.audience = a.audience AND p.on_unsubscribe = 'ignore')))
$$;

-- the one state of each contact (N8); a contact that the rule never took may have none
CREATE FUNCTION model.wrong_states() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'state', x.audience, x.source || ' ' || x.key, array_to_string(x.expected, ' or '), concat_ws(': ', s.state, s.detail)
	FROM (
		SELECT k.audience, k.source, k.key, CASE
			WHEN w.key IS NULL THEN CASE WHEN EXISTS (SELECT FROM model.known o WHERE (o.audience, o.source, o.key) = (k.audience, k.source, k.key))
				THEN ARRAY['outside'] ELSE ARRAY['outside', 'none'] END
			WHEN w.obstacle IS NOT NULL THEN ARRAY[w.obstacle]
			WHEN w.place > 1 THEN ARRAY['conflict']
			WHEN model.is_held_back(w) THEN ARRAY['inactive']
			WHEN model.is_bad_address(w.address) THEN ARRAY['refused']
			-- whom somebody deleted permanently is in no list of changes, which are all that is read
			WHEN m.web_id IS NULL AND EXISTS (SELECT FROM model.forgotten f WHERE f.list = a.list AND f.hash = md5(w.address)) THEN ARRAY['refused', 'in_sync', 'inactive']
			WHEN m.web_id IS NULL THEN ARRAY['refused']
			WHEN m.status = 'archived' THEN ARRAY['inactive', 'refused']
			WHEN m.status = 'cleaned' THEN ARRAY['inactive']
			WHEN m.status = 'unsubscribed' AND a.on_unsubscribe <> 'ignore' THEN ARRAY['inactive']
			WHEN model.is_bad_value(w.fields) THEN ARRAY['refused']
			ELSE ARRAY['in_sync'] END AS expected
		FROM (SELECT audience, source, key FROM model.wanted UNION SELECT audience, source, key FROM model.known
			UNION SELECT audience, source, contact_key FROM model.state) k
		JOIN model.audience a USING (audience)
		LEFT JOIN model.wanted w USING (audience, source, key)
		LEFT JOIN model.member m ON m.list = a.list AND m.address = w.address) x
	LEFT JOIN model.state s ON s.audience = x.audience AND s.source = x.source AND s.contact_key = x.key
	WHERE coalesce(s.state, 'none') <> ALL (x.expected)
$$;

CREATE FUNCTION model.wrong_sums() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'sum of the states', s.audience, k.state, k.contacts::text, j.value
	FROM public.mc_audience_status s
	CROSS JOIN LATERAL jsonb_each_text(to_jsonb(s) - 'audience') j
	CROSS JOIN LATERAL (SELECT j.key AS state, count(*) AS contacts FROM model.state c
		WHERE c.audience = s.audience AND j.key IN (c.state, 'contacts')) k
	WHERE k.contacts::text <> j.value
$$;

-- a failure is what Mailchimp refused, and nothing else (R62)
CREATE FUNCTION model.wrong_failures() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	-- whom Mailchimp is known to have forgotten is not asked for
	SELECT 'failure', coalesce(f.audience, s.audience), concat_ws(' ', coalesce(f.source, s.source), coalesce(f.contact_key, s.contact_key)),
		CASE WHEN s.contact_key IS NOT NULL THEN 'refused by Mailchimp' ELSE 'none' END,
		CASE WHEN f.work IS NOT NULL THEN concat_ws(': ', f.work, f.title, f.detail, f.next_attempt_at) ELSE 'none' END
	FROM public.mc_failure f
	FULL JOIN (SELECT c.audience, c.source, c.contact_key FROM model.state c
		JOIN model.wanted w ON w.audience = c.audience AND w.source = c.source AND w.key = c.contact_key
		WHERE c.state = 'refused' AND w.place = 1 AND c.detail IS DISTINCT FROM 'was deleted permanently at Mailchimp') s
		ON f.audience = s.audience AND f.source = s.source AND f.contact_key = s.contact_key
	WHERE f.work IS NULL OR s.contact_key IS NULL
$$;

-- the opt-out group (D12): at least who was put in, at most those whom the CRM or Mailchimp put in as well
CREATE FUNCTION model.wrong_group() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	WITH found AS (SELECT g.source, g.contact_key AS key, lower(btrim(g.email)) AS address, g.origin FROM public.mc_group_member g),
	-- unsubscribed by hand since the last comparison, in an audience where that counts
	gone AS (SELECT a.audience, c.address, m.status FROM model.change c JOIN model.audience a USING (list)
		LEFT JOIN model.member m USING (list, web_id)
		WHERE c.request IS NULL AND c.to_status = 'unsubscribed' AND c.n > (SELECT n FROM model.mark)
			AND EXISTS (SELECT FROM model.seen_policy p WHERE p.audience = a.audience AND p.on_unsubscribe = 'opt_out'))
	SELECT 'group', NULL, concat_ws(' ', o.source, o.key, o.address), 'in the group', 'not'
	FROM (SELECT o.source, o.key, CASE WHEN o.source IS NULL THEN o.address END AS address FROM model.opted o
		UNION SELECT p.source, p.key, NULL FROM model.person p WHERE p.opts_out
		UNION SELECT NULL, NULL, g.address FROM gone g
		WHERE g.status = 'unsubscribed' AND model.saw(g.audience, g.address, 'wanted') AND NOT model.saw(g.audience, g.address, 'unwanted')
			AND NOT EXISTS (SELECT FROM model.seen_policy p WHERE p.audience = g.audience AND p.on_unsubscribe <> 'opt_out')
			AND NOT EXISTS (SELECT FROM model.lifted l WHERE l.address = g.address)) o
	WHERE NOT EXISTS (SELECT FROM found f WHERE (f.source = o.source AND f.key = o.key) OR (o.source IS NULL AND f.address = o.address))
	UNION ALL
	SELECT 'group', NULL, concat_ws(' ', f.source, f.key, f.address), 'not in the group', f.origin
	FROM found f
	WHERE NOT EXISTS (SELECT FROM model.opted o WHERE (o.source = f.source AND o.key = f.key) OR (f.source IS NULL AND o.address = f.address))
		AND NOT EXISTS (SELECT FROM model.seen_opted o WHERE (o.source = f.source AND o.key = f.key) OR (f.source IS NULL AND o.address = f.address))
		AND NOT EXISTS (SELECT FROM model.had h JOIN gone g USING (address) WHERE h.source = f.source AND h.key = f.key)
		AND NOT EXISTS (SELECT FROM gone g WHERE g.address = f.address)
		-- an address that opted out, and whose contact took its member along to another one
		AND NOT (f.origin = 'mailchimp' AND EXISTS (SELECT FROM model.had h WHERE h.source = f.source AND h.key = f.key AND model.saw_opted(h.address)))
$$;

-- a changed address moves the member: who had no other reason to come and go is the same one as before (D10)
CREATE FUNCTION model.lost_identities() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'the member moves with the address', w.audience, w.address, format('%s (%s)', b.web_id, b.address), m.web_id::text
	FROM model.wanted w
	JOIN model.seen_contact o ON o.audience = w.audience AND o.source = w.source AND o.key = w.key AND o.fact = 'owner' AND o.address <> w.address
	JOIN model.before b ON b.list = w.list AND b.address = o.address
	JOIN model.ours u ON u.list = b.list AND u.web_id = b.web_id
	JOIN model.member m ON m.list = w.list AND m.address = w.address
	WHERE w.place = 1 AND b.status = 'subscribed' AND m.web_id <> b.web_id
		-- it had these two addresses and no other obstacle, and nobody else had either
		AND (SELECT count(*) = 2 FROM model.seen_contact s WHERE s.audience = w.audience AND s.source = w.source AND s.key = w.key)
		AND NOT EXISTS (SELECT FROM model.seen_contact s WHERE s.audience = w.audience AND s.address IN (o.address, w.address)
			AND (s.source, s.key) <> (w.source, w.key))
		AND NOT EXISTS (SELECT FROM model.before x WHERE x.list = w.list AND x.address = w.address)
		AND NOT EXISTS (SELECT FROM model.abandoned x WHERE x.audience = w.audience AND x.address = o.address)
		AND NOT EXISTS (SELECT FROM model.acted x WHERE x.list = w.list AND x.web_id IN (b.web_id, m.web_id))
$$;

CREATE FUNCTION model.differences() RETURNS SETOF model.difference LANGUAGE plpgsql AS $$
BEGIN
	RETURN QUERY SELECT * FROM model.wrong_group();
	-- within those bounds the group is what it is
	TRUNCATE model.opted;
	INSERT INTO model.opted SELECT g.source, g.contact_key, lower(btrim(g.email)) FROM public.mc_group_member g;
	PERFORM model.note();
	RETURN QUERY SELECT * FROM model.changes_without_reason();
	RETURN QUERY SELECT * FROM model.missing_members();
	RETURN QUERY SELECT * FROM model.wrong_data();
	RETURN QUERY SELECT * FROM model.lost_tags();
	RETURN QUERY SELECT * FROM model.left_overs();
	RETURN QUERY SELECT * FROM model.touched_members();
	RETURN QUERY SELECT * FROM model.wrong_states();
	RETURN QUERY SELECT * FROM model.wrong_sums();
	RETURN QUERY SELECT * FROM model.wrong_failures();
	RETURN QUERY SELECT * FROM model.lost_identities();
	RETURN QUERY SELECT 'the preview finds something to do', p.audience, p.who, 'nothing', p.action
	FROM model.audience a CROSS JOIN LATERAL (SELECT a.audience, v.source || ' ' || v.contact_key AS who,
		concat_ws(' ', v.action, v.email, v.reason, v.before, v.after) AS action FROM public.mc_preview(a.audience) v
		WHERE v.action NOT IN ('skip', 'conflict')) p;
END
$$;

-- all is well: this is where the next steps begin
CREATE FUNCTION model.compared() RETURNS void LANGUAGE sql AS $$
	TRUNCATE model.before, model.acted, model.known;
	INSERT INTO model.before SELECT * FROM model.member;
	INSERT INTO model.known SELECT audience, source, contact_key FROM model.state;
	-- nor is ours who came back without us, and whom nobody wants
	DELETE FROM model.ours u WHERE NOT EXISTS (SELECT FROM model.member m WHERE m.list = u.list AND m.web_id = u.web_id AND m.status IN ('subscribed', 'pending')
		AND (EXISTS (SELECT FROM model.wanted w WHERE w.list = m.list AND w.address = m.address AND w.place = 1
				AND NOT model.is_bad_value(w.fields) AND NOT model.is_held_back(w))
			OR (SELECT c.request IS NOT NULL FROM model.change c WHERE c.list = m.list AND c.web_id = m.web_id AND c.was IS NULL ORDER BY c.n DESC LIMIT 1)));
	DELETE FROM model.abandoned x WHERE EXISTS (SELECT FROM model.wanted w WHERE w.audience = x.audience AND w.address = x.address AND w.place = 1);
	INSERT INTO model.ours SELECT m.list, m.web_id FROM model.wanted w JOIN model.member m USING (list, address)
		WHERE w.place = 1 AND m.status IN ('subscribed', 'pending') AND NOT model.is_bad_value(w.fields) AND NOT model.is_held_back(w)
		ON CONFLICT DO NOTHING;
	UPDATE model.mark SET n = (SELECT coalesce(max(c.n), 0) FROM model.change c);
	SELECT model.forget_seen();
$$;
