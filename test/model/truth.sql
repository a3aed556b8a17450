-- What must be at Mailchimp, said by plain queries over the CRM's tables and a remembered history, without anything of the
-- extension: the schema mailchimp_sync is not read here, public views only where two results are compared (compare.sql).
--
-- The engine works while the CRM changes, so between two looks at Mailchimp it may have seen any of the states that were
-- committed meanwhile. After each step model.note() therefore adds what is wanted at that moment to what was "seen" since the
-- last comparison. When all has come to rest, what is there must be what is wanted now, and every change that a request
-- made on the way must have a reason in what was seen.

CREATE SCHEMA model;

-- ---- what steps tell, in the transaction that does it

CREATE TABLE model.audience (audience text PRIMARY KEY, connection text, list text, on_leave text, on_unsubscribe text, double_opt_in boolean);
CREATE TABLE model.audience_source (audience text, source text, position integer, rule text, PRIMARY KEY (audience, source));
-- put in or out by hand (R77)
CREATE TABLE model.hand (audience text, source text, key text, inside boolean, PRIMARY KEY (audience, source, key));
-- addresses whose members became nobody's, since the audience lost a source
CREATE TABLE model.abandoned (audience text, address text, PRIMARY KEY (audience, address));
-- the opt-out group (D12): a contact with the address that it had, or an address
CREATE TABLE model.opted (source text, key text, address text);
-- since the last comparison: who left the group, and who was to be asked by mail
CREATE TABLE model.lifted (source text, key text, address text);
CREATE TABLE model.asked (address text);

-- ---- what was seen since the last comparison

CREATE TABLE model.seen_address (audience text, address text, fact text, PRIMARY KEY (audience, address, fact));
CREATE TABLE model.seen_contact (audience text, source text, key text, address text, fact text, UNIQUE (audience, source, key, address, fact));
CREATE TABLE model.seen_policy (audience text, on_leave text, on_unsubscribe text, double_opt_in boolean,
	PRIMARY KEY (audience, on_leave, on_unsubscribe, double_opt_in));
CREATE TABLE model.seen_opted (source text, key text, address text, UNIQUE (source, key, address));

-- ---- what is remembered for good

-- addresses that were in the group at some time
CREATE TABLE model.opted_once (address text PRIMARY KEY);
CREATE TABLE model.had (source text, key text, address text, PRIMARY KEY (source, key, address));
-- contacts that the audience was concerned with when last compared, and members that were ours then (D15, D20)
CREATE TABLE model.known (audience text, source text, key text, PRIMARY KEY (audience, source, key));
CREATE TABLE model.ours (list text, web_id integer, PRIMARY KEY (list, web_id));

-- ---- the CRM as it is now

-- an address that may stand in a request; the step that draws addresses draws nothing else that would pass for one
CREATE FUNCTION model.address(_email text) RETURNS text LANGUAGE sql IMMUTABLE AS $$
	SELECT CASE WHEN lower(btrim(_email)) ~ '^[a-z0-9.+]+@[a-z]+\.(test|com)$' THEN lower(btrim(_email)) END
$$;

-- what Mailchimp refuses by its looks
CREATE FUNCTION model.is_bad_address(_address text) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT _address ~ '^(fake|toomany)' OR _address ~ '@example\.com$'
$$;
CREATE FUNCTION model.is_bad_value(_fields jsonb) RETURNS boolean LANGUAGE sql IMMUTABLE AS $$
	SELECT coalesce(_fields ->> 'BORN' !~ '^(|\d{4}-\d\d-\d\d)$', false)
$$;

CREATE VIEW model.person AS
SELECT 'candidate' AS source, c.id::text AS key, c.id AS number, btrim(c.email) AS email, model.address(c.email) AS address,
	jsonb_build_object('FNAME', left(coalesce(c.first_name, c.initials, ''), 255), 'LNAME', coalesce(c.last_name, ''),
		'OWNERNAME', coalesce((SELECT o.name FROM crm.owner o WHERE o.id = c.owner_id), ''), 'BORN', coalesce(c.born, '')) AS fields,
	ARRAY(SELECT t FROM unnest(c.groups) t WHERE btrim(t) <> ''
		UNION SELECT 'Mailingen-ontvangen-nee' WHERE NOT c.mailings ORDER BY 1) AS tags,
	coalesce(c.linked, false) AS linked, false AS opts_out
FROM crm.candidate c
UNION ALL
SELECT 'client', c.code, 0, btrim(e.email), model.address(e.email), jsonb_build_object('LNAME', coalesce(upper(c.name), '')),
	ARRAY(SELECT DISTINCT t FROM unnest(c.interests) t WHERE btrim(t) <> '' ORDER BY 1),
	coalesce(c.linked, false), coalesce(c.no_mail, false)
FROM crm.client c
CROSS JOIN LATERAL (SELECT coalesce(nullif(btrim(c.email), ''), (SELECT m.email FROM crm.company m WHERE m.id = c.company_id)) AS email) e;

-- is the contact, or the address that it has, in the group?
CREATE FUNCTION model.is_opted(_source text, _key text, _address text) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT EXISTS (SELECT FROM model.opted o WHERE o.source = _source AND o.key = _key)
		OR EXISTS (SELECT FROM model.opted o WHERE o.address = _address)
$$;

/*
 * What each audience wants of each row of its sources: obstacle is null for who is to be a member, of equal addresses
 * the one at place 1 (D13).
 */
CREATE FUNCTION model.wish() RETURNS TABLE (audience text, list text, source text, key text, email text, address text,
	fields jsonb, tags text[], obstacle text, place bigint)
LANGUAGE plpgsql STABLE AS $$
DECLARE
	_taken	text;
BEGIN
	SELECT string_agg(format($q$SELECT %L, %L, %s, %L, k.key FROM crm.%I AS %2$I CROSS JOIN LATERAL (SELECT %5$I.%6$I::text AS key) k
		WHERE (%7$s) OR EXISTS (SELECT FROM model.hand h WHERE h.audience = %1$L AND h.source = %2$L AND h.key = k.key)$q$,
		s.audience, s.source, s.position, a.list, s.source, CASE s.source WHEN 'candidate' THEN 'id' ELSE 'code' END, s.rule), ' UNION ALL ')
	INTO STRICT _taken FROM model.audience_source s JOIN model.audience a USING (audience);
	RETURN QUERY EXECUTE '
		SELECT w.audience, w.list, w.source, w.key, w.email, w.address, w.fields, w.tags, w.obstacle,
			CASE WHEN w.obstacle IS NULL THEN row_number() OVER (PARTITION BY w.audience, w.obstacle IS NULL, w.address
				ORDER BY w.position, w.number, w.key COLLATE "C") END
		FROM (SELECT t.audience, t.list, t.position, p.*, CASE
				WHEN EXISTS (SELECT FROM model.hand h WHERE h.audience = t.audience AND h.source = t.source AND h.key = t.key AND NOT h.inside)
					THEN ''inactive''
				WHEN NOT p.linked THEN ''not_linked''
				WHEN p.opts_out OR model.is_opted(p.source, p.key, p.address) THEN ''opted_out''
				WHEN p.address IS NULL THEN ''refused'' END AS obstacle
			FROM (' || _taken || ') AS t(audience, source, position, list, key) JOIN model.person p USING (source, key)) w';
END
$$;

-- what it said last
CREATE TABLE model.wanted (audience text, list text, source text, key text, email text, address text, fields jsonb, tags text[],
	obstacle text, place bigint);

-- remembers what is wanted at this moment
CREATE FUNCTION model.note() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
	TRUNCATE model.wanted;
	INSERT INTO model.wanted SELECT * FROM model.wish();
	INSERT INTO model.seen_policy SELECT a.audience, a.on_leave, a.on_unsubscribe, a.double_opt_in FROM model.audience a ON CONFLICT DO NOTHING;
	INSERT INTO model.had SELECT p.source, p.key, p.address FROM model.person p WHERE p.address IS NOT NULL ON CONFLICT DO NOTHING;
	INSERT INTO model.seen_opted SELECT coalesce(o.source, ''), coalesce(o.key, ''), coalesce(o.address, '') FROM model.opted o
		UNION SELECT p.source, p.key, coalesce(p.address, '') FROM model.person p WHERE p.opts_out ON CONFLICT DO NOTHING;
	INSERT INTO model.opted_once SELECT o.address FROM model.opted o WHERE o.address IS NOT NULL
		UNION SELECT p.address FROM model.person p LEFT JOIN model.opted o USING (source, key)
			WHERE p.address IS NOT NULL AND (p.opts_out OR o.key IS NOT NULL) ON CONFLICT DO NOTHING;
	INSERT INTO model.seen_contact SELECT w.audience, w.source, w.key, coalesce(w.address, ''), coalesce(w.obstacle, CASE WHEN w.place = 1 THEN 'owner' ELSE 'conflict' END)
		FROM model.wanted w
		UNION ALL
		SELECT DISTINCT s.audience, s.source, h.key, '', 'out' FROM model.had h JOIN model.audience_source s USING (source)
		WHERE NOT EXISTS (SELECT FROM model.wanted w WHERE w.audience = s.audience AND w.source = h.source AND w.key = h.key)
		ON CONFLICT DO NOTHING;
	INSERT INTO model.seen_address
		SELECT DISTINCT w.audience, w.address, 'wanted' FROM model.wanted w WHERE w.place = 1
		UNION ALL
		SELECT a.audience, h.address, 'unwanted' FROM model.audience a CROSS JOIN (SELECT DISTINCT d.address FROM model.had d) h
		WHERE NOT EXISTS (SELECT FROM model.wanted w WHERE w.audience = a.audience AND w.address = h.address AND w.place = 1)
		ON CONFLICT DO NOTHING;
END
$$;

-- a comparison is over: what is wanted now is all that can have been seen
CREATE FUNCTION model.forget_seen() RETURNS void LANGUAGE sql AS $$
	TRUNCATE model.seen_address, model.seen_contact, model.seen_policy, model.seen_opted, model.lifted, model.asked;
	SELECT model.note();
$$;

-- ---- sources come and go

CREATE FUNCTION model.drop_source(_audience text, _source text) RETURNS void LANGUAGE sql AS $$
	DELETE FROM model.audience_source s WHERE s.audience = _audience AND s.source = _source;
	DELETE FROM model.hand h WHERE h.audience = _audience AND h.source = _source;
	DELETE FROM model.known k WHERE k.audience = _audience AND k.source = _source;
	INSERT INTO model.abandoned SELECT DISTINCT _audience, h.address FROM model.had h WHERE h.source = _source ON CONFLICT DO NOTHING;
$$;
CREATE FUNCTION model.add_source(_audience text, _source text, _rule text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO model.audience_source SELECT _audience, _source, coalesce(max(s.position), 0) + 1, _rule
		FROM model.audience_source s WHERE s.audience = _audience
	ON CONFLICT (audience, source) DO UPDATE SET rule = excluded.rule;
$$;

-- ---- the group, by whom a step puts in or out (D12)

CREATE FUNCTION model.present_address(_source text, _key text) RETURNS text LANGUAGE sql STABLE AS $$
	SELECT p.address FROM model.person p WHERE p.source = _source AND p.key = _key
$$;
CREATE FUNCTION model.opt_out(_source text, _key text, _address text) RETURNS void LANGUAGE sql AS $$
	INSERT INTO model.opted SELECT NULL, NULL, _address
	WHERE _address IS NOT NULL AND CASE WHEN _source IS NULL
		THEN NOT EXISTS (SELECT FROM model.opted o WHERE o.source IS NULL AND o.address = _address)
		ELSE EXISTS (SELECT FROM model.opted o WHERE o.source = _source AND o.key = _key)
			AND NOT EXISTS (SELECT FROM model.opted o WHERE o.address = _address) END;
	INSERT INTO model.opted SELECT _source, _key, _address
	WHERE _source IS NOT NULL AND NOT EXISTS (SELECT FROM model.opted o WHERE o.source = _source AND o.key = _key);
$$;
CREATE FUNCTION model.opt_in(_source text, _key text, _address text, _ask boolean) RETURNS void LANGUAGE sql AS $$
	DELETE FROM model.opted o WHERE (o.source = _source AND o.key = _key) OR (o.source IS NULL AND o.address = _address);
	INSERT INTO model.lifted VALUES (_source, _key, _address);
	INSERT INTO model.asked SELECT _address WHERE _ask AND _address IS NOT NULL;
$$;
