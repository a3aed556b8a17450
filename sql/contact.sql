/*
 * contact.sql: what we want for each contact, and what Mailchimp has.
 *
 * "contact" has one row per audience and contact that a rule, a hand or the
 * link flag concerns; only the engine writes it, so no session of the CRM can
 * hold it up. "member" has one row per audience and address: what we sent and
 * what Mailchimp showed.
 */
CREATE TABLE mailchimp_sync.contact (
	audience_id		integer NOT NULL,
	source_id		integer NOT NULL,
	contact_key		text COLLATE "C" NOT NULL,
	email			text,
	email_hash		text COLLATE "C",	-- Mailchimp's subscriber hash
	state			text NOT NULL CHECK (state IN ('in_sync', 'pending', 'refused', 'conflict',
						'opted_out', 'inactive', 'not_linked', 'not_allowed', 'outside')),
	detail			text,
	-- what is to be done at Mailchimp (D22); null: nothing
	action			text CHECK (action IN ('subscribe', 'update', 'tag', 'leave', 'rename')),
	-- with action tag: the tags that it must lose, the first of them next
	stale_tags		text[] COLLATE "C",
	-- the address under which a request of ours may have brought it to
	-- Mailchimp; null: it is not there by us
	member_hash		text COLLATE "C",
	left_hash		text COLLATE "C",	-- the address under which it left, or that it gave up (desired.sql); null: it is there, or never was
	taken_hash		text COLLATE "C",	-- an address to which Mailchimp refused to move it: the list has that already
	aside_email		text,				-- it may be at Mailchimp under this one instead: no answer has come (rename.sql)
	desired_hash	bytea,				-- of what we want there
	sent_hash		bytea,				-- of what was last accepted there
	refused_hash	bytea,				-- of what Mailchimp refused: rests until it changes
	-- of direction both (conflict.sql): the fields that requests carried of which no answer is known, as they carried them; null: none
	open_fields		jsonb,
	-- where the CRM and Mailchimp last agreed that it is (its subscriber hash)
	agreed_hash		text COLLATE "C",
	crm_at			timestamptz,		-- when the CRM last changed what it wants there
	by_hand			boolean NOT NULL DEFAULT false,	-- put in by hand or by a campaign
	-- where it waits: in those that the guard may hold (guard.sql), or in the one of all others that are pushed
	queue			text COLLATE "C" GENERATED ALWAYS AS (CASE
						WHEN action = 'leave' OR action = 'subscribe' AND NOT by_hand THEN action
						WHEN action IN ('subscribe', 'update') THEN 'push' END) STORED,
	leave_after		bigint,				-- with action leave: waits until no event up to this one is unread (leave.sql)
	version			bigint NOT NULL DEFAULT 1,	-- counts changes of what we want
	attempts		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz,		-- rests until then; infinity: until its status was read (read.sql)
	-- a whole request with it was refused: it travels with at most so many others,
	-- halved each time, until the one to blame is alone
	batch_limit		integer,
	changed_at		timestamptz NOT NULL,
	PRIMARY KEY (audience_id, source_id, contact_key)
);
CREATE INDEX contact_email_hash ON mailchimp_sync.contact (audience_id, email_hash);
CREATE INDEX contact_member_hash ON mailchimp_sync.contact (audience_id, member_hash) WHERE member_hash IS NOT NULL;
CREATE INDEX contact_left_hash ON mailchimp_sync.contact (audience_id, left_hash) WHERE left_hash IS NOT NULL;
CREATE INDEX contact_aside ON mailchimp_sync.contact (audience_id) WHERE aside_email IS NOT NULL;
CREATE INDEX contact_source ON mailchimp_sync.contact (source_id, contact_key);
-- the queues, in the order in which the engine takes from them
CREATE INDEX contact_queue ON mailchimp_sync.contact (audience_id, queue, source_id, (coalesce(next_attempt_at, '-infinity')))
	WHERE queue IS NOT NULL;
CREATE INDEX contact_tag_due ON mailchimp_sync.contact
	(audience_id, source_id, (stale_tags[1]), (coalesce(next_attempt_at, '-infinity'))) WHERE action = 'tag';
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.contact', '');

-- an answer says when it goes on; but somebody who is to leave since the request began waits until the status was read
CREATE FUNCTION mailchimp_sync.rests_until(_contact mailchimp_sync.contact, _at timestamptz) RETURNS timestamptz
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE WHEN _contact.next_attempt_at = 'infinity' THEN 'infinity' ELSE _at END
$$;

CREATE TABLE mailchimp_sync.member (
	audience_id		integer NOT NULL,
	email_hash		text COLLATE "C" NOT NULL,
	email			text NOT NULL,
	-- status as Mailchimp last showed it; null: not there as far as we know
	status			text CHECK (status IN ('subscribed', 'unsubscribed', 'cleaned', 'pending',
						'transactional', 'archived', 'forgotten')),
	status_before	text,				-- before we archived or unsubscribed it, or tried to
	archived_by_us	boolean NOT NULL DEFAULT false,
	-- the last time that the person left the list, and why, as far as Mailchimp tells
	unsubscribed_at	timestamptz,
	unsubscribe_reason	text,
	ours			boolean NOT NULL,	-- created or adopted by us (D15, D20)
	mailchimp_id	text,				-- the contact's id at Mailchimp
	-- per field what we sent and what Mailchimp showed after that (it truncates
	-- and normalises, so our own push would read back as an edit)
	sent_fields		jsonb,
	shown_fields	jsonb,
	-- the fields as Mailchimp shows them now, where they are read: in audiences of direction pull or both (pull.sql)
	read_fields		jsonb,
	sent_source_id	integer,			-- by whose mapping they were sent
	-- the tags that requests of ours have put there, or may have, and that were not taken away since (D16)
	sent_tags		text[] COLLATE "C",
	shown_tags		text[],
	last_changed	timestamptz,
	pushed_at		timestamptz,
	read_at			timestamptz,
	seen_at			timestamptz,		-- in a page that asked then and of which it was left out (pull.sql)
	look_at			timestamptz,		-- to be looked for by name from then on (look.sql)
	looks			integer NOT NULL DEFAULT 0,		-- in vain
	-- to be brought into the CRM from then on; null: nothing to bring
	inbound_at		timestamptz,
	-- the row of the CRM that it was brought into, where that is no contact of the audience
	inbound_source_id	integer,
	inbound_key		text COLLATE "C",
	inbound_hash	text COLLATE "C",	-- the address that it had when it was last brought there
	PRIMARY KEY (audience_id, email_hash)
);
CREATE INDEX member_inbound ON mailchimp_sync.member (audience_id, inbound_at) WHERE inbound_at IS NOT NULL;
CREATE INDEX member_look ON mailchimp_sync.member (audience_id, look_at) WHERE look_at IS NOT NULL;
CREATE INDEX member_inbound_row ON mailchimp_sync.member (audience_id, inbound_source_id, inbound_key) WHERE inbound_key IS NOT NULL;
-- who has moved to another address is known by the id; of audiences that only push there is none in it
CREATE INDEX member_mailchimp_id ON mailchimp_sync.member (audience_id, mailchimp_id) WHERE read_fields IS NOT NULL;
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.member', '');

-- where it is unsubscribed: by the policy on_leave, as far as we know, and not by the person?
CREATE FUNCTION mailchimp_sync.is_unsubscribed_by_us(_member mailchimp_sync.member) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(_member.status, 'unsubscribed') = 'unsubscribed' AND _member.status_before IS NOT NULL
		AND NOT _member.archived_by_us
$$;

/*
 * The static segment of each tag of ours, by the name that we send. Which names are one
 * tag is for Mailchimp to say (it may not tell "vip" from "VIP"): they have the same segment.
 */
CREATE TABLE mailchimp_sync.tag (
	audience_id		integer NOT NULL,
	tag				text COLLATE "C" NOT NULL,
	segment_id		bigint,				-- null: to be asked for
	search_offset	bigint NOT NULL DEFAULT 0,
	failures		integer NOT NULL DEFAULT 0,	-- of asking
	next_attempt_at	timestamptz,
	taken_at		timestamptz,		-- from somebody, the last time
	PRIMARY KEY (audience_id, tag)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.tag', '');

-- which of the tags that we put are to be taken away; null: none
CREATE FUNCTION mailchimp_sync.stale_tags(_audience_id integer, _put text[], _wanted text[]) RETURNS text[]
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(p.tag ORDER BY p.tag COLLATE "C") FROM unnest(_put) AS p(tag)
	WHERE p.tag <> ALL (_wanted)
		AND NOT EXISTS (SELECT FROM unnest(_wanted) AS w(tag)
			-- OFFSET: a lookup each, a join would go through all tags of the audience
			CROSS JOIN LATERAL (SELECT t.segment_id FROM mailchimp_sync.tag t
				WHERE t.audience_id = _audience_id AND t.tag = w.tag OFFSET 0) AS of_wanted
			CROSS JOIN LATERAL (SELECT t.segment_id FROM mailchimp_sync.tag t
				WHERE t.audience_id = _audience_id AND t.tag = p.tag OFFSET 0) AS of_put
			WHERE of_put.segment_id = of_wanted.segment_id)
$$;

CREATE FUNCTION mailchimp_sync.all_tags(_some text[], _others text[]) RETURNS text[]
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ARRAY(SELECT unnest(_some) COLLATE "C" UNION SELECT unnest(_others) COLLATE "C" ORDER BY 1)
$$;

/*
 * What is sent for a contact that takes a member over from one of another source: what
 * that mapping filled and this one does not have is emptied, since it is another record's.
 */
CREATE FUNCTION mailchimp_sync.with_emptied(_payload jsonb, _source_id integer, _member mailchimp_sync.member)
RETURNS jsonb
LANGUAGE plpgsql STABLE		-- keeps its plan, which SQL does not
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF coalesce(_member.sent_source_id = _source_id, true) THEN
		RETURN _payload;
	END IF;
	RETURN jsonb_set(_payload, '{merge_fields}', (
		SELECT coalesce(jsonb_object_agg(f.key, ''), '{}')
		FROM jsonb_each(_member.sent_fields) f
		JOIN mailchimp_sync.audience a ON a.audience_id = _member.audience_id
		-- the list may have lost it since
		JOIN mailchimp_sync.merge_field k ON k.connection = a.connection AND k.list_id = a.list_id AND k.tag = f.key
		WHERE f.value <> '""') || (_payload -> 'merge_fields'));
END
$$;

/* ---- addresses ---- */

-- an address from a file may have the end of its line with it
CREATE FUNCTION mailchimp_sync.bare_address(_email text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT btrim(_email, E' \t\r\n\f\x0B')
$$;

/*
 * Mailchimp's subscriber hash: MD5 of the trimmed, lower-cased address (API 3.0, "subscriber_hash"). ASCII letters
 * first and by themselves, else "I" would have no dot where the database's language is Turkish.
 */
CREATE FUNCTION mailchimp_sync.email_hash(_email text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT md5(convert_to(lower(lower(mailchimp_sync.bare_address(_email) COLLATE "C") COLLATE "default"), 'UTF8'))
$$;

-- may this address be pushed and mailed (N18)? Without a search_path, so that it is inlined.
CREATE FUNCTION mailchimp_sync.is_allowed(_only_addresses text[], _email_hash text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
	SELECT _only_addresses IS NULL
		OR _email_hash OPERATOR(pg_catalog.=) ANY (ARRAY(SELECT mailchimp_sync.email_hash(o) FROM pg_catalog.unnest(_only_addresses) AS o))
$$;

-- D8: the syntax only; the verdict is Mailchimp's
CREATE FUNCTION mailchimp_sync.is_email(_email text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(length(_email) <= 254 AND mailchimp_sync.is_utf8(_email)
		AND _email ~ '^[^[:space:][:cntrl:]@<>(),;:"\\\[\]]{1,64}@([^[:space:][:cntrl:]@<>(),;:"\\\[\].]+\.)+[^[:space:][:cntrl:]@<>(),;:"\\\[\].]{2,63}$'
		AND _email !~ '(^|@)\.|\.(@|$)|\.\.', false)
$$;

-- can it go over the wire (a SQL_ASCII database can hold anything)?
CREATE FUNCTION mailchimp_sync.is_utf8(_value text) RETURNS boolean
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'mc_is_utf8';

/* ---- what people see ---- */

CREATE VIEW @extschema@.mc_contact_state WITH (security_barrier) AS
SELECT a.audience, s.source, c.contact_key, c.email, c.state,
	nullif(concat_ws('; ', c.detail, CASE WHEN g.kind IS NOT NULL THEN 'held by the mass-change guard' END), '') AS detail
FROM mailchimp_sync.contact c
JOIN mailchimp_sync.audience a USING (audience_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.source s USING (source_id)
LEFT JOIN mailchimp_sync.guard_stop g ON g.audience_id = c.audience_id AND g.kind = c.queue;
COMMENT ON VIEW @extschema@.mc_contact_state IS
	'the one state in which each contact of each audience is, with the reason';

CREATE VIEW @extschema@.mc_audience_status WITH (security_barrier) AS
SELECT a.audience,
	count(c.state) AS contacts,
	count(*) FILTER (WHERE c.state = 'in_sync') AS in_sync,
	count(*) FILTER (WHERE c.state = 'pending') AS pending,
	count(*) FILTER (WHERE c.state = 'refused') AS refused,
	count(*) FILTER (WHERE c.state = 'conflict') AS conflict,
	count(*) FILTER (WHERE c.state = 'opted_out') AS opted_out,
	count(*) FILTER (WHERE c.state = 'inactive') AS inactive,
	count(*) FILTER (WHERE c.state = 'not_linked') AS not_linked,
	count(*) FILTER (WHERE c.state = 'not_allowed') AS not_allowed,
	count(*) FILTER (WHERE c.state = 'outside') AS outside
FROM mailchimp_sync.audience a
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.contact c USING (audience_id)
GROUP BY a.audience;
COMMENT ON VIEW @extschema@.mc_audience_status IS
	'how many contacts of each audience are in each state; the states add up to contacts';

CREATE VIEW @extschema@.mc_member WITH (security_barrier) AS
SELECT a.audience, nullif(m.email, '') AS email, s.source, c.contact_key, m.status,
	m.status IN ('subscribed', 'pending') AS active,
	CASE WHEN m.status = 'unsubscribed' THEN m.unsubscribed_at END AS unsubscribed_at,
	CASE WHEN m.status = 'unsubscribed' THEN m.unsubscribe_reason END AS unsubscribe_reason,
	coalesce(CASE WHEN a.direction <> 'push' THEN m.read_fields END, m.shown_fields, m.sent_fields) AS merge_fields,
	coalesce(m.shown_tags, m.sent_tags) AS tags,
	m.mailchimp_id, m.last_changed, m.pushed_at, NOT m.ours AS foreign_member
FROM mailchimp_sync.member m
JOIN mailchimp_sync.audience a USING (audience_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.contact c ON c.audience_id = m.audience_id AND c.member_hash = m.email_hash
LEFT JOIN mailchimp_sync.source s USING (source_id)
WHERE m.status IS NOT NULL;
COMMENT ON VIEW @extschema@.mc_member IS
	'the members of the audiences'' lists as Mailchimp last showed them, with the contact that stands behind each';
