-- Who wins, per field, and whether both sides agree, said by plain queries over the CRM's tables, what people did there (model.log) and
-- at Mailchimp (model.edit), and what both sides were when last compared. Nothing of the extension is read here, but for the public
-- view of states.
--
-- Since the last comparison the engine either rested until people had done all that they did, or worked meanwhile. Of the first the
-- outcome is known to the last value. Of the second it is, too, where one side alone changed a field, and for crm_wins in any case;
-- else it is one of the last values of the two sides, for nobody can say whether a request landed before somebody's click.

CREATE TABLE model.audience (kind text PRIMARY KEY, list text);
-- what people did to a field at Mailchimp, in its order
CREATE TABLE model.edit (n bigserial PRIMARY KEY, list text, web_id integer, tag text, value text, at timestamptz);
CREATE INDEX ON model.edit (list, web_id);
-- rows and members that belonged together when last compared, with the fields that they had
CREATE TABLE model.pair (kind text, id integer, list text, web_id integer, crm jsonb, mailchimp jsonb, PRIMARY KEY (kind, id));
CREATE TABLE model.log_mark (n bigint);
INSERT INTO model.log_mark VALUES (0);
-- addresses that people had erased, and those in the opt-out group when last compared
CREATE TABLE model.erased (address text PRIMARY KEY);
CREATE TABLE model.opted (address text PRIMARY KEY);
CREATE TABLE model.seen (kind text, id integer, mark text, PRIMARY KEY (kind, id));

CREATE FUNCTION model.note() RETURNS void LANGUAGE sql AS '';

CREATE VIEW model.row AS
SELECT r.kind, r.id, r.email, lower(btrim(r.email)) AS address, r.active, r.groups, r.lead_source, r.mailchimp_status, r.mailchimp_id, r.list_name, r.mark,
	jsonb_build_object('EMAIL', coalesce(btrim(r.email), ''), 'FNAME', coalesce(r.first_name, ''), 'LNAME', coalesce(r.last_name, ''), 'CITY', coalesce(r.city, ''),
		'BORN', coalesce(r.born, ''), 'NICK', coalesce(r.nick, ''), 'NOTE', coalesce(r.note, ''), 'PHONE', coalesce(r.phone, '')) AS fields
FROM (SELECT 'crm_wins' AS kind, c.*, format('%s %s', c.ctid, c.xmin) AS mark FROM crm.crm_wins c
	UNION ALL SELECT 'mailchimp_wins', c.*, format('%s %s', c.ctid, c.xmin) FROM crm.mailchimp_wins c
	UNION ALL SELECT 'latest_wins', c.*, format('%s %s', c.ctid, c.xmin) FROM crm.latest_wins c) AS r(kind, id, email, first_name, last_name, city, born, nick, note, phone,
		groups, active, lead_source, mailchimp_status, mailchimp_id, list_name, mark);

CREATE VIEW model.person AS SELECT r.* FROM model.row r;	-- as the stories of what differs call them

CREATE FUNCTION model.fields(_m model.member) RETURNS jsonb LANGUAGE sql AS $$
	SELECT jsonb_object_agg(t.tag, coalesce(_m.fields ->> t.tag, '')) || jsonb_build_object('EMAIL', _m.email)
	FROM unnest('{FNAME,LNAME,CITY,BORN,NICK,NOTE,PHONE}'::text[]) AS t(tag)
$$;

/*
 * Both sides agree where this is the same of what they have: what is lost on the way is left out. A value on the way to
 * Mailchimp changes only once for each time that it is read back, so the words in front of NICK are any number.
 */
CREATE FUNCTION model.same(_tag text, _value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE _tag
		WHEN 'EMAIL' THEN lower(btrim(_value))
		WHEN 'FNAME' THEN btrim(left(_value, 255))
		WHEN 'LNAME' THEN lower(btrim(_value))
		WHEN 'CITY' THEN upper(_value)
		WHEN 'BORN' THEN CASE WHEN _value ~ '^\d\d/\d\d/\d{4}$' THEN to_char(to_date(_value, 'MM/DD/YYYY'), 'YYYY-MM-DD') ELSE _value END
		WHEN 'NICK' THEN regexp_replace(_value, '^(Mr )+', '')
		ELSE _value END
$$;

-- what Mailchimp is sent for a column, but for blanks around it, which are nothing
CREATE FUNCTION model.sent(_tag text, _value text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN _tag = 'EMAIL' THEN lower(btrim(_value)) WHEN _tag = 'CITY' THEN upper(btrim(_value)) WHEN _tag = 'NICK' AND _value <> '' THEN 'Mr ' || btrim(_value)
		ELSE coalesce(btrim(_value), '') END
$$;

-- ---- what people did since the last comparison, per field: the values that a side had by them, the last one last

CREATE FUNCTION model.by_people(_kind text, _id integer, _tag text) RETURNS text[] LANGUAGE sql STABLE AS $$
	SELECT array_agg(coalesce(l.new, '') ORDER BY l.n) FROM model.log l, model.log_mark m
	WHERE l.n > m.n AND l.kind = _kind AND l.id = _id AND l.tag = _tag AND l.people
$$;
CREATE FUNCTION model.by_people_there(_list text, _web_id integer, _tag text) RETURNS text[] LANGUAGE sql STABLE AS $$
	SELECT array_agg(e.value ORDER BY e.n) FROM model.edit e WHERE e.list = _list AND e.web_id = _web_id AND e.tag = _tag
$$;

-- when they last changed the row (of the field alone, where one is given): the CRM's side of latest_wins
CREATE FUNCTION model.changed_at(_kind text, _id integer, _tag text DEFAULT NULL) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT max(l.at) FROM model.log l, model.log_mark m
	WHERE l.n > m.n AND l.kind = _kind AND l.id = _id AND l.people AND l.tag NOT IN ('FACT', 'PHONE') AND l.tag = coalesce(_tag, l.tag)
$$;

-- and Mailchimp's side, in whole seconds
CREATE FUNCTION model.changed_there_at(_list text, _web_id integer) RETURNS timestamptz LANGUAGE sql STABLE AS $$
	SELECT max(e.at) FROM model.edit e WHERE e.list = _list AND e.web_id = _web_id
$$;

/*
 * By the policy, where both sides changed a field: 'crm', 'mailchimp', or null where that is a matter of a second, or of
 * whether a change of another field counts.
 */
CREATE FUNCTION model.winner(_kind text, _id integer, _tag text, _list text, _web_id integer) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT CASE _kind WHEN 'crm_wins' THEN 'crm' WHEN 'mailchimp_wins' THEN 'mailchimp'
		ELSE CASE WHEN f.at > m.at + interval '2 s' THEN 'crm' WHEN r.at < m.at - interval '1 s' THEN 'mailchimp' END END
	FROM model.changed_at(_kind, _id) AS r(at), model.changed_at(_kind, _id, _tag) AS f(at), model.changed_there_at(_list, _web_id) AS m(at)
$$;

/*
 * The values that a field may have in the end (model.same of them), of a row and a member that belonged together all the time. _crm and
 * _there are what the sides had before, _crms and _theres what people made of them; null where they did nothing. _always: the CRM wins
 * also where it changed nothing.
 */
CREATE FUNCTION model.outcome(_rests boolean, _winner text, _tag text, _crm text, _there text, _crms text[], _theres text[],
	_always boolean)
RETURNS text[] LANGUAGE plpgsql IMMUTABLE AS $$
DECLARE
	_c		text := coalesce(_crms[cardinality(_crms)], _crm);
	_m		text := coalesce(_theres[cardinality(_theres)], _there);
	-- nobody saw what was changed back while the engine rested
	_by_crm	boolean := CASE WHEN _rests THEN model.sent(_tag, _c) <> model.sent(_tag, _crm) ELSE _crms IS NOT NULL END;
	_by_m	boolean := CASE WHEN _rests THEN btrim(_m) <> btrim(_there) ELSE _theres IS NOT NULL END;
	_result	text[];
BEGIN
	IF NOT _by_m OR _tag = 'NOTE' THEN
		_result := ARRAY[_c];
	ELSIF _winner = 'crm' AND (_by_crm OR _always) THEN
		_result := ARRAY[_c];
	ELSIF _rests THEN
		_result := CASE WHEN _m = '' THEN ARRAY[_c]		-- D14: what is empty overwrites nothing
			WHEN NOT _by_crm OR _winner = 'mailchimp' THEN ARRAY[_m]
			ELSE ARRAY[_c, _m] END;
	ELSE
		-- of several values there any may have been brought before it was emptied again
		_result := CASE WHEN _m <> '' THEN ARRAY[_m] ELSE _theres || _c END || CASE WHEN _by_crm THEN ARRAY[_c] ELSE '{}' END;
	END IF;
	RETURN ARRAY(SELECT DISTINCT model.same(_tag, v) FROM unnest(_result) v);
END
$$;

-- ---- differences

CREATE TYPE model.difference AS (what text, audience text, who text, wanted text, found text);

-- who is a member for a row: it alone has the address, and has no obstacle
CREATE VIEW model.together AS
SELECT r.kind, r.id, r.address, m.list, m.web_id, m.status, r.fields AS crm, model.fields(m) AS mailchimp, r.groups, m.tags, s.state, r.mark
FROM model.row r
JOIN model.audience a USING (kind)
JOIN model.member m ON m.list = a.list AND m.address = r.address
JOIN model.state s ON s.audience = r.kind AND s.source = r.kind AND s.contact_key = r.id::text
WHERE s.state = 'in_sync' AND m.status IN ('subscribed', 'pending');

-- Mailchimp has what a row that the CRM refuses
CREATE FUNCTION model.is_refused(_t model.together) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT _t.mailchimp ->> 'LNAME' ~* '^\s*refused\s*$'
$$;

CREATE FUNCTION model.disagreements() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'the sides disagree on ' || f.tag, t.kind, t.id || ' ' || t.address, f.crm, f.mailchimp
	FROM model.together t
	CROSS JOIN LATERAL (SELECT c.key AS tag, c.value AS crm, t.mailchimp ->> c.key AS mailchimp FROM jsonb_each_text(t.crm) c) f
	WHERE NOT model.is_refused(t) AND model.same(f.tag, f.crm) <> model.same(f.tag, f.mailchimp) AND f.tag <> 'PHONE'
$$;

-- did nobody else have an address of the two, was the row in the rule, and the member subscribed, all the time?
CREATE FUNCTION model.is_undisturbed(_kind text, _id integer, _list text, _web_id integer) RETURNS boolean LANGUAGE sql STABLE AS $$
	WITH address AS (
		SELECT lower(btrim(v.value)) AS address
		FROM model.pair p CROSS JOIN LATERAL (VALUES (p.crm ->> 'EMAIL'), (p.mailchimp ->> 'EMAIL')) AS v(value)
		WHERE p.kind = _kind AND p.id = _id
		UNION SELECT lower(btrim(l.new)) FROM model.log l, model.log_mark m WHERE l.n > m.n AND l.kind = _kind AND l.id = _id AND l.tag = 'EMAIL'
		UNION SELECT lower(e.value) FROM model.edit e WHERE e.list = _list AND e.web_id = _web_id AND e.tag = 'EMAIL'
		UNION SELECT x.address FROM model.change x, model.mark m WHERE x.n > m.n AND x.list = _list AND x.web_id = _web_id
	)
	SELECT NOT EXISTS (SELECT FROM model.change x, model.mark m WHERE x.n > m.n AND x.list = _list
			AND (x.web_id = _web_id AND x.was IS NULL OR x.web_id <> _web_id AND x.address IN (SELECT address FROM address)))
		AND NOT EXISTS (SELECT FROM model.log l, model.log_mark m WHERE l.n > m.n AND l.kind = _kind
			AND (l.id = _id AND l.tag = 'MORE' AND l.new IN ('true', 'false') OR l.id <> _id AND l.tag = 'EMAIL'
				AND (lower(btrim(l.old)) IN (SELECT address FROM address) OR lower(btrim(l.new)) IN (SELECT address FROM address))))
		AND NOT EXISTS (SELECT FROM model.row r WHERE r.kind = _kind AND r.id <> _id AND r.address IN (SELECT address FROM address))
$$;

-- the right one has won, where nobody else had or took an address of the two and nothing but data changed
CREATE FUNCTION model.wrong_winners(_rests boolean) RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'who wins ' || f.tag, t.kind, t.id || ' ' || t.address, array_to_string(o.may_be, ' or '),
		format('%s (before: %s, %s; people: %s, there: %s; winner %s)', f.found, f.crm, f.mailchimp, f.crms, f.theres, w.winner)
	FROM model.together t
	JOIN model.pair p USING (kind, id, list, web_id)
	CROSS JOIN LATERAL (SELECT c.key AS tag, t.crm ->> c.key AS found, c.value AS crm, p.mailchimp ->> c.key AS mailchimp,
			model.by_people(t.kind, t.id, c.key) AS crms, model.by_people_there(t.list, t.web_id, c.key) AS theres
		FROM jsonb_each_text(p.crm) c WHERE c.key <> 'PHONE') f
	CROSS JOIN LATERAL (SELECT CASE WHEN f.crms IS NOT NULL AND f.theres IS NOT NULL OR t.kind = 'crm_wins'
		THEN model.winner(t.kind, t.id, f.tag, t.list, t.web_id) END AS winner) w
	CROSS JOIN LATERAL model.outcome(_rests, w.winner, f.tag, f.crm, f.mailchimp, f.crms, f.theres, t.kind = 'crm_wins') AS o(may_be)
	WHERE NOT model.is_refused(t) AND model.same(f.tag, f.found) <> ALL (o.may_be) AND model.is_undisturbed(t.kind, t.id, t.list, t.web_id)
$$;

-- what was there already when the row came, or the other way about (no common base), while the engine rested
CREATE FUNCTION model.wrong_first_winners() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'who wins ' || f.tag || ' first', t.kind, t.id || ' ' || t.address, array_to_string(o.may_be, ' or '),
		format('%s (there: %s; winner %s)', t.crm ->> f.tag, f.theres, w.winner)
	FROM model.together t
	CROSS JOIN LATERAL (SELECT k.tag, (model.by_people(t.kind, t.id, k.tag)) AS crms, (model.by_people_there(t.list, t.web_id, k.tag)) AS theres
		FROM unnest('{FNAME,LNAME,CITY,BORN,NICK}'::text[]) AS k(tag)) f
	CROSS JOIN LATERAL (SELECT model.winner(t.kind, t.id, f.tag, t.list, t.web_id) AS winner) w
	CROSS JOIN LATERAL model.outcome(true, w.winner, f.tag, '', '', f.crms, f.theres, t.kind = 'crm_wins') AS o(may_be)
	WHERE t.id < 1000 AND model.same(f.tag, t.crm ->> f.tag) <> ALL (o.may_be) AND NOT model.is_refused(t)
		-- both came since the last comparison, and were never anything else
		AND EXISTS (SELECT FROM model.log l, model.log_mark m WHERE l.n > m.n AND l.kind = t.kind AND l.id = t.id AND l.action = 'insert')
		AND NOT EXISTS (SELECT FROM model.log l, model.log_mark m WHERE l.n > m.n AND l.kind = t.kind AND l.id = t.id AND l.action = 'delete')
		AND EXISTS (SELECT FROM model.change c, model.mark m WHERE c.n > m.n AND c.list = t.list AND c.web_id = t.web_id AND c.from_status IS NULL AND c.request IS NULL)
		AND NOT EXISTS (SELECT FROM model.change c, model.mark m WHERE c.n > m.n AND c.list = t.list AND c.web_id = t.web_id AND c.from_status IS NOT NULL)
		AND (SELECT count(*) = 1 FROM model.log l, model.log_mark m WHERE l.n > m.n AND l.kind = t.kind AND lower(btrim(l.new)) = t.address AND l.tag = 'EMAIL')
		AND NOT EXISTS (SELECT FROM model.row r WHERE r.kind = t.kind AND r.id <> t.id AND r.address = t.address)
		AND NOT EXISTS (SELECT FROM model.pair p WHERE p.kind = t.kind AND p.id = t.id)
$$;

-- Mailchimp's own: what people change there comes, where the CRM does not win; the CRM's is never sent
CREATE FUNCTION model.wrong_phones() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'PHONE', t.kind, t.id || ' ' || t.address, concat_ws(' or ', VARIADIC o.may_be), t.crm ->> 'PHONE'
	FROM model.together t
	JOIN model.pair p USING (kind, id, list, web_id)
	CROSS JOIN LATERAL (SELECT model.by_people(t.kind, t.id, 'PHONE') AS crms, model.by_people_there(t.list, t.web_id, 'PHONE') AS theres) f
	CROSS JOIN LATERAL (SELECT CASE WHEN t.kind = 'crm_wins' THEN ARRAY[coalesce(f.crms[cardinality(f.crms)], p.crm ->> 'PHONE')]
		WHEN f.theres IS NULL AND coalesce(p.mailchimp ->> 'PHONE', '') = ''
			THEN ARRAY[coalesce(f.crms[cardinality(f.crms)], p.crm ->> 'PHONE')]
		ELSE f.theres || f.crms || (p.crm ->> 'PHONE') || (p.mailchimp ->> 'PHONE') END AS may_be) o
	WHERE NOT model.is_refused(t) AND model.is_undisturbed(t.kind, t.id, t.list, t.web_id) AND t.crm ->> 'PHONE' <> ALL (o.may_be)
	UNION ALL
	SELECT 'PHONE there', t.kind, t.id || ' ' || t.address, 'what people made of it', t.mailchimp ->> 'PHONE'
	FROM model.together t JOIN model.pair p USING (kind, id, list, web_id)
	CROSS JOIN LATERAL (SELECT model.by_people_there(t.list, t.web_id, 'PHONE') AS theres) f
	WHERE t.mailchimp ->> 'PHONE' <> coalesce(f.theres[cardinality(f.theres)], p.mailchimp ->> 'PHONE')
$$;

-- Mailchimp's facts are in the CRM: of who alone has the address
CREATE FUNCTION model.wrong_facts() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'Mailchimp''s facts', r.kind, r.id || ' ' || r.address, concat_ws(', ', m.status, m.raw ->> 'contact_id', r.kind),
		concat_ws(', ', r.mailchimp_status, r.mailchimp_id, r.list_name)
	FROM model.row r JOIN model.audience a USING (kind) JOIN model.member m ON m.list = a.list AND m.address = r.address
	LEFT JOIN model.state s ON s.audience = r.kind AND s.source = r.kind AND s.contact_key = r.id::text
	WHERE (s.state = 'in_sync' OR s.state = 'inactive' AND s.detail ~ ' at Mailchimp$')
		AND (r.mailchimp_status, r.mailchimp_id, r.list_name) IS DISTINCT FROM (m.status, m.raw ->> 'contact_id', r.kind)
		AND NOT EXISTS (SELECT FROM model.erased e WHERE e.address = r.address)
		-- nor is it the member of another row, which has another address by now
		AND NOT EXISTS (SELECT FROM model.row o WHERE o.kind = r.kind AND o.id <> r.id AND o.mailchimp_id = m.raw ->> 'contact_id')
		AND m.fields ->> 'LNAME' !~* '^\s*refused\s*$'
$$;

-- who is subscribed there is in the CRM, but for who was erased, or whom people took out of it again; and nobody comes into it otherwise
CREATE FUNCTION model.wrong_imports(_rests boolean) RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'not imported', a.kind, m.address, 'a row', 'none'
	FROM model.member m JOIN model.audience a USING (list)
	WHERE m.status = 'subscribed' AND m.fields ->> 'LNAME' !~* '^\s*refused\s*$'
		AND NOT EXISTS (SELECT FROM model.row r WHERE r.kind = a.kind AND (r.address = m.address OR r.mailchimp_id = m.raw ->> 'contact_id'))
		AND NOT EXISTS (SELECT FROM model.erased e WHERE e.address = m.address)
		AND NOT EXISTS (SELECT FROM model.log l WHERE l.kind = a.kind AND l.people AND l.tag = 'EMAIL' AND lower(btrim(l.old)) = m.address)
	UNION ALL
	SELECT 'an erased person came back', l.kind, l.id || ' ' || l.new, 'nothing', 'a row'
	FROM model.log l, model.log_mark k WHERE l.n > k.n AND NOT l.people AND l.tag = 'EMAIL' AND EXISTS (SELECT FROM model.erased e WHERE e.address = lower(btrim(l.new)))
	UNION ALL
	SELECT 'imported twice', l.kind, l.new, 'the row that was there', l.id::text
	FROM model.log l, model.log_mark k
	-- a row of no contact is found as it is written
	WHERE l.n > k.n AND NOT l.people AND l.action = 'insert' AND l.tag = 'EMAIL' AND EXISTS (SELECT FROM model.row r WHERE r.kind = l.kind AND r.id <> l.id
		AND lower(r.email) = r.address
		AND r.address = lower(btrim(l.new)) AND (SELECT max(o.n) FROM model.log o WHERE o.kind = r.kind AND o.id = r.id AND o.tag = 'EMAIL')
			< CASE WHEN _rests THEN l.n ELSE k.n END)
	UNION ALL
	SELECT 'default of new rows', r.kind, r.id || ' ' || r.address, 'MailChimp', r.lead_source
	FROM model.row r WHERE r.lead_source IS DISTINCT FROM CASE WHEN r.id >= 1000 THEN 'MailChimp' END
	UNION ALL
	SELECT 'a row went', l.kind, l.id::text, 'left alone', 'deleted' FROM model.log l, model.log_mark k WHERE l.n > k.n AND NOT l.people AND l.action = 'delete'
$$;

-- what the CRM never takes from there
CREATE FUNCTION model.wrong_writes() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'written by us', l.kind, l.id || ' ' || l.tag, coalesce(l.old, 'null'), coalesce(l.new, 'null')
	FROM model.log l, model.log_mark k
	WHERE l.n > k.n AND NOT l.people AND l.action = 'update'
		AND (l.tag IN ('NOTE', 'MORE') OR l.tag <> 'FACT' AND (l.kind = 'crm_wins' OR coalesce(l.old, '') <> '' AND coalesce(l.new, '') = ''))
$$;

/*
 * Consent: a request subscribes whom nobody knew there, who never opted out; or brings back whom we archived when subscribed and whose
 * subscription nobody ended. It moves a member only to an address of a row.
 */
CREATE FUNCTION model.wrong_changes() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'a request may not', a.kind, c.address, NULL, format('%s%s -> %s by request %s', c.was || ' ', c.from_status, c.to_status, c.request)
	FROM model.change c JOIN model.audience a USING (list), model.mark k
	WHERE c.n > k.n AND c.request IS NOT NULL AND NOT CASE
		WHEN c.was IS NOT NULL THEN c.address ~ '\+moving-' OR EXISTS (SELECT FROM model.log l WHERE l.kind = a.kind AND l.tag = 'EMAIL' AND lower(btrim(l.new)) = c.address)
		WHEN c.to_status IN ('subscribed', 'pending') THEN
			CASE WHEN c.from_status IS NULL THEN c.to_status = 'subscribed' WHEN c.from_status = 'archived' THEN NOT model.consent_ended(c.list, c.web_id, c.n) ELSE false END
			AND EXISTS (SELECT FROM model.log l WHERE l.kind = a.kind AND l.tag = 'EMAIL' AND lower(btrim(l.new)) = c.address)
			AND NOT EXISTS (SELECT FROM model.opted o WHERE o.address = c.address)
			AND NOT EXISTS (SELECT FROM model.erased e WHERE e.address = c.address)
		-- they may have moved before that
		WHEN c.to_status IS NULL THEN EXISTS (SELECT FROM model.change x JOIN model.erased e ON e.address IN (x.address, x.was)
			WHERE x.list = c.list AND x.web_id = c.web_id)
		ELSE true END
$$;

-- who opted out is mailed nowhere, unless they came back there by themselves
CREATE FUNCTION model.wrong_mailed() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'who opted out', a.kind, m.address, 'not subscribed', m.status
	FROM model.member m JOIN model.audience a USING (list)
	JOIN public.mc_group_member g ON lower(btrim(g.email)) = m.address
	WHERE m.status IN ('subscribed', 'pending')
		AND (SELECT c.request IS NOT NULL FROM model.change c WHERE c.list = m.list AND c.web_id = m.web_id AND c.was IS NULL ORDER BY c.n DESC LIMIT 1)
$$;

-- nobody is left whom no rule takes and whom we had, and nobody is touched whom nobody wants
CREATE FUNCTION model.wrong_members() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'whom nobody wants', p.kind, p.id || ' ' || m.address, 'archived', m.status
	FROM model.pair p JOIN model.member m USING (list, web_id)
	WHERE m.status = 'subscribed' AND NOT EXISTS (SELECT FROM model.row r WHERE r.kind = p.kind AND r.address = m.address AND r.active)
		AND NOT EXISTS (SELECT FROM model.change c, model.mark k WHERE c.n > k.n AND c.list = m.list AND c.web_id = m.web_id)
	UNION ALL
	SELECT 'a member', r.kind, r.id || ' ' || r.address, 'subscribed', 'none'
	FROM model.row r JOIN model.audience a USING (kind)
	WHERE r.active AND NOT EXISTS (SELECT FROM model.member m WHERE m.list = a.list AND m.address = r.address)
		AND r.address ~ '^[a-z0-9+]+@m\.test$' AND NOT EXISTS (SELECT FROM model.forgotten f WHERE f.list = a.list AND f.hash = md5(r.address))
		AND NOT EXISTS (SELECT FROM public.mc_group_member g WHERE lower(btrim(g.email)) = r.address OR g.source = r.kind AND g.contact_key = r.id::text)
		AND NOT EXISTS (SELECT FROM model.state s WHERE s.audience = r.kind AND s.contact_key = r.id::text AND s.state IN ('refused', 'inactive', 'opted_out', 'conflict'))
	UNION ALL
	SELECT 'touched without a reason', a.kind, b.address, b.raw::text, m.raw::text
	FROM model.before b JOIN model.audience a USING (list) JOIN model.member m USING (list, web_id)
	WHERE b.raw IS DISTINCT FROM m.raw
		AND NOT EXISTS (SELECT FROM public.mc_group_member g WHERE lower(btrim(g.email)) = m.address)
		-- no row ever had an address that it had
		AND NOT EXISTS (SELECT FROM model.change c JOIN model.log l ON l.kind = a.kind AND lower(btrim(l.new)) IN (c.address, c.was)
			WHERE c.list = b.list AND c.web_id = b.web_id AND l.tag = 'EMAIL')
$$;

-- one person is one member: a request makes no other one for a row whose member is there still, but where somebody moved it just then
CREATE FUNCTION model.wrong_identities(_rests boolean) RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'a second member', p.kind, p.id || ' ' || r.address, o.web_id || ' ' || o.address, n.web_id || ' ' || n.address
	FROM model.pair p
	JOIN model.row r USING (kind, id)
	JOIN model.member o USING (list, web_id)
	JOIN model.member n ON n.list = p.list AND n.address = r.address AND n.web_id <> p.web_id
	WHERE o.status = 'subscribed' AND _rests
		AND EXISTS (SELECT FROM model.change c, model.mark k WHERE c.n > k.n AND c.list = n.list AND c.web_id = n.web_id
			AND c.from_status IS NULL AND c.request IS NOT NULL)
		AND NOT EXISTS (SELECT FROM model.log l, model.log_mark k WHERE l.n > k.n AND l.kind = p.kind AND l.id <> p.id AND l.tag = 'EMAIL'
			AND (lower(btrim(l.new)) IN (o.address, r.address) OR lower(btrim(l.old)) IN (o.address, r.address)))
$$;

/*
 * Tags go one way (D16). Who moves there while a request of ours is on its way to the former address is made a second time by it, and the
 * first one has become somebody else's, with the tags that we had put.
 */
CREATE FUNCTION model.wrong_tags(_rests boolean) RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'tags', t.kind, t.id || ' ' || t.address, t.groups::text, t.tags::text
	FROM model.together t WHERE NOT t.tags @> t.groups
		OR _rests AND EXISTS (SELECT FROM unnest(t.tags) g WHERE g NOT LIKE 'hand%' AND g <> ALL (coalesce(t.groups, '{}')))
			AND t.id < 1000
$$;

-- every row is in a state that it may rest in; who cannot be brought is a failure with the reason, and nobody else is
CREATE FUNCTION model.wrong_states() RETURNS SETOF model.difference LANGUAGE sql STABLE AS $$
	SELECT 'state', s.audience, s.contact_key, 'in_sync', concat_ws(': ', s.state, s.detail)
	FROM model.state s WHERE s.state = 'pending'
	UNION ALL
	SELECT 'failure', coalesce(f.audience, t.kind), coalesce(f.email, t.address), CASE WHEN t.id IS NULL THEN 'none' ELSE 'refused by the CRM' END,
		concat_ws(': ', f.work, f.title, f.detail)
	FROM (SELECT * FROM public.mc_failure f WHERE f.work = 'pull') f
	FULL JOIN (SELECT t.kind, t.id, t.address FROM model.together t WHERE model.is_refused(t) AND t.kind <> 'crm_wins') t
		ON f.audience = t.kind AND (f.contact_key = t.id::text OR lower(f.email) = t.address)
	WHERE f.work IS NULL OR t.id IS NULL AND NOT EXISTS (SELECT FROM model.member m JOIN model.audience a USING (list)
		WHERE a.kind = f.audience AND m.address = lower(f.email) AND m.fields ->> 'LNAME' ~* '^\s*refused\s*$')
$$;

CREATE FUNCTION model.differences(_rests boolean) RETURNS SETOF model.difference LANGUAGE sql AS $$
	SELECT * FROM model.wrong_changes()
	UNION ALL SELECT * FROM model.wrong_mailed()
	UNION ALL SELECT * FROM model.wrong_imports(_rests)
	UNION ALL SELECT * FROM model.wrong_writes()
	UNION ALL SELECT * FROM model.disagreements()
	UNION ALL SELECT * FROM model.wrong_winners(_rests)
	UNION ALL SELECT * FROM model.wrong_first_winners() WHERE _rests
	UNION ALL SELECT * FROM model.wrong_phones()
	UNION ALL SELECT * FROM model.wrong_facts()
	UNION ALL SELECT * FROM model.wrong_members()
	UNION ALL SELECT * FROM model.wrong_identities(_rests)
	UNION ALL SELECT * FROM model.wrong_tags(_rests)
	UNION ALL SELECT * FROM model.wrong_states()
	UNION ALL
	SELECT 'the preview finds something to do', a.kind, concat_ws(' ', p.contact_key, p.email), 'nothing', concat_ws(' ', p.action, p.reason, p.before, p.after)
	FROM model.audience a CROSS JOIN LATERAL public.mc_preview(a.kind) p WHERE p.action NOT IN ('skip', 'conflict')
$$;

-- all is well: this is where the next steps begin
CREATE FUNCTION model.compared() RETURNS void LANGUAGE sql AS $$
	TRUNCATE model.before, model.acted, model.pair, model.edit, model.opted, model.seen;
	INSERT INTO model.before SELECT * FROM model.member;
	INSERT INTO model.pair SELECT t.kind, t.id, t.list, t.web_id, t.crm, t.mailchimp FROM model.together t WHERE NOT model.is_refused(t);
	INSERT INTO model.opted SELECT DISTINCT lower(btrim(g.email)) FROM public.mc_group_member g WHERE g.email IS NOT NULL;
	UPDATE model.mark SET n = (SELECT coalesce(max(c.n), 0) FROM model.change c);
	UPDATE model.log_mark SET n = (SELECT coalesce(max(l.n), 0) FROM model.log l);
	INSERT INTO model.seen SELECT r.kind, r.id, r.mark FROM model.row r;
$$;

-- rows that somebody has written since; nobody but us can have done that
CREATE FUNCTION model.rewritten() RETURNS SETOF text LANGUAGE sql STABLE AS $$
	SELECT format('a full comparison writes to the CRM: %s %s', coalesce(r.kind, s.kind), coalesce(r.id, s.id))
	FROM model.row r FULL JOIN model.seen s USING (kind, id) WHERE r.mark IS DISTINCT FROM s.mark
$$;
