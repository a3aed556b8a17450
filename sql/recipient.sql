/*
 * recipient.sql: who gets a campaign, and why the others do not.
 *
 * A recipient is a contact, or a member that no contact stands behind:
 * source_id 0, contact_key its subscriber hash. Everybody who was selected is a
 * row: pending, or skipped with the one reason that comes first.
 */
CREATE TABLE mailchimp_sync.recipient (
	campaign_id		bigint NOT NULL,
	source_id		integer NOT NULL,
	contact_key		text COLLATE "C" NOT NULL,
	email			text,
	email_hash		text COLLATE "C",	-- as sent
	status			text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'skipped', 'sent',
						'bounced', 'opened', 'clicked', 'unsubscribed')),
	skip_reason		text CHECK (skip_reason IN ('opted_out', 'no_email', 'invalid_email', 'duplicate', 'refused',
						'not_linked', 'not_member', 'not_allowed', 'unsubscribed')),
	detail			text,
	-- the address that a request of ours may have put into the segment, and none has taken out
	segment_email	text,
	filled			boolean NOT NULL DEFAULT false,	-- Mailchimp said that it is in
	seen			boolean NOT NULL DEFAULT false,	-- in the segment, when it was last walked
	-- the resolution of the campaign's targets that brought it; 0: none does any more; null: somebody named it (resolve.sql)
	resolution		integer,
	added_at		timestamptz NOT NULL,
	added_by		text NOT NULL,
	PRIMARY KEY (campaign_id, source_id, contact_key),
	CHECK ((status = 'skipped') = (skip_reason IS NOT NULL))
);
-- a campaign that the planner has not seen yet would be one of few rows to it, as good to find by the campaign alone as by
-- contact or address, and going through all of it for each of them takes hours. So it never sees any.
ALTER TABLE mailchimp_sync.recipient ALTER campaign_id SET STATISTICS 0;
CREATE INDEX recipient_email_hash ON mailchimp_sync.recipient (campaign_id, email_hash);
CREATE INDEX recipient_contact ON mailchimp_sync.recipient (source_id, contact_key);
-- who may have to leave a segment, and who has to come into it
CREATE INDEX recipient_leaving ON mailchimp_sync.recipient (campaign_id, source_id, contact_key)
	WHERE segment_email IS NOT NULL AND (status = 'skipped' OR segment_email IS DISTINCT FROM email);
CREATE INDEX recipient_coming ON mailchimp_sync.recipient (campaign_id, source_id, contact_key)
	WHERE status = 'pending' AND NOT filled;
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.recipient', '');

-- whom somebody took out, so that no target brings them back
CREATE TABLE mailchimp_sync.recipient_exclusion (
	campaign_id		bigint NOT NULL,
	source_id		integer NOT NULL,
	contact_key		text COLLATE "C" NOT NULL,
	excluded_at		timestamptz NOT NULL,
	excluded_by		text NOT NULL,
	PRIMARY KEY (campaign_id, source_id, contact_key)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.recipient_exclusion', '');

/*
 * 2. (see opt_out.sql) whoever makes a recipient: nobody from the opt-out group
 * waits to be mailed. A campaign that is under way or over is left alone, so that a restore puts back
 * what was; where the campaign itself is not there yet, it is better to skip.
 */
CREATE FUNCTION mailchimp_sync.recipient_guard() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF mailchimp_sync.is_opted_out(NEW.source_id, NEW.contact_key, NEW.email_hash)
		AND coalesce((SELECT mailchimp_sync.campaign_is_unsent(c.status) FROM mailchimp_sync.campaign c
			WHERE c.campaign_id = NEW.campaign_id), true) THEN
		NEW.status := 'skipped';
		NEW.skip_reason := 'opted_out';
		NEW.detail := NULL;
	END IF;
	RETURN NEW;
END
$$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE OF status, email_hash ON mailchimp_sync.recipient
	FOR EACH ROW WHEN (NEW.status = 'pending') EXECUTE FUNCTION mailchimp_sync.recipient_guard();

/*
 * The first of those who have to leave the campaign's segment: they are skipped, or have another address now. This and
 * the next one are asked for every request of a campaign, and there may be hundreds of thousands of recipients: by the
 * index alone that has nobody else, whatever the planner thinks of the table.
 */
CREATE FUNCTION mailchimp_sync.leaving_recipients(_campaign_id bigint, _limit integer)
RETURNS SETOF mailchimp_sync.recipient
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
BEGIN
	RETURN QUERY SELECT r.* FROM mailchimp_sync.recipient r
	WHERE r.campaign_id = _campaign_id
		AND r.segment_email IS NOT NULL AND (r.status = 'skipped' OR r.segment_email IS DISTINCT FROM r.email)
		AND (r.status = 'skipped' OR lower(btrim(r.segment_email)) IS DISTINCT FROM lower(btrim(r.email)))
	ORDER BY r.source_id, r.contact_key LIMIT _limit;
END
$$;

-- the first of those who have to come into it
CREATE FUNCTION mailchimp_sync.coming_recipients(_campaign_id bigint, _limit integer)
RETURNS SETOF mailchimp_sync.recipient
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
AS $$
BEGIN
	RETURN QUERY SELECT r.* FROM mailchimp_sync.recipient r
	WHERE r.campaign_id = _campaign_id AND r.status = 'pending' AND NOT r.filled
	ORDER BY r.source_id, r.contact_key LIMIT _limit;
END
$$;

/* ---- deciding ---- */

-- what the source says of contacts now; read only, as the source's owner
CREATE FUNCTION mailchimp_sync.look_at_contacts(_source_id integer, _keys text[]) RETURNS SETOF mailchimp_sync.evaluated
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT e.contact_key, e.value, e.error_state, e.error_message
	FROM mailchimp_sync.source s
	CROSS JOIN LATERAL mailchimp_sync.evaluate(s.owner, mailchimp_sync.source_query(s.source_id, '{}'), _keys) e
	WHERE s.source_id = _source_id
$$;

-- the reason that an address as Mailchimp last showed it gives; null: none
CREATE FUNCTION mailchimp_sync.member_skip_reason(_status text, _archived_by_us boolean) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
		WHEN _status = 'forgotten' THEN 'refused'
		WHEN _status IN ('unsubscribed', 'cleaned', 'transactional')
			OR (_status = 'archived' AND NOT _archived_by_us) THEN 'unsubscribed'
	END
$$;

/*
 * Makes or renews recipients of one source by what their rows say now. Those
 * that were sent something keep their status. Returns what is wrong with the
 * source as a whole; null: nothing.
 */
CREATE FUNCTION mailchimp_sync.decide_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[], _by text)
RETURNS text
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_looked		mailchimp_sync.evaluated[];
	_trouble	text;
BEGIN
	SELECT array_agg(ROW(l.*)::mailchimp_sync.evaluated), min(l.error_message) FILTER (WHERE l.contact_key IS NULL)
	INTO _looked, _trouble
	FROM mailchimp_sync.look_at_contacts(_source_id, _keys) l;
	IF _trouble IS NULL THEN
		PERFORM mailchimp_sync.store_recipients(_c, _source_id, _keys, _looked, _by, NULL);
	END IF;
	RETURN _trouble;
END
$$;

-- _resolution: of the campaign's targets that brings them; null: somebody named them, or they are recipients already
CREATE FUNCTION mailchimp_sync.store_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[],
	_looked mailchimp_sync.evaluated[], _by text, _resolution integer)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_hashes	text[];
BEGIN
	WITH decided AS (
		SELECT * FROM mailchimp_sync.recipient_verdicts(_c, _source_id, _keys, _looked)
	), stored AS (
		INSERT INTO mailchimp_sync.recipient AS r (campaign_id, source_id, contact_key, email, email_hash, status,
			skip_reason, detail, resolution, added_at, added_by)
		SELECT _c.campaign_id, _source_id, d.contact_key, d.email, d.email_hash,
			CASE WHEN d.skip_reason IS NULL THEN 'pending' ELSE 'skipped' END, d.skip_reason, d.detail, _resolution,
			mailchimp_sync.clock(), _by
		FROM decided d
		ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET email = excluded.email,
			email_hash = excluded.email_hash, status = excluded.status, skip_reason = excluded.skip_reason,
			detail = excluded.detail,
			resolution = CASE WHEN r.resolution IS NOT NULL THEN coalesce(excluded.resolution, r.resolution) END
		WHERE r.status IN ('pending', 'skipped') AND coalesce(excluded.resolution, r.resolution, -1) <> 0
			AND ((r.email, r.email_hash, r.status, r.skip_reason, r.detail)
				IS DISTINCT FROM (excluded.email, excluded.email_hash, excluded.status, excluded.skip_reason, excluded.detail)
				OR r.resolution <> excluded.resolution)
		RETURNING r.email_hash
	)
	SELECT array_agg(s.email_hash) INTO _hashes FROM stored s;
	PERFORM mailchimp_sync.decide_duplicates(_c, _hashes);
END
$$;

CREATE FUNCTION mailchimp_sync.recipient_verdicts(_c mailchimp_sync.campaign, _source_id integer, _keys text[],
	_looked mailchimp_sync.evaluated[], OUT contact_key text, OUT email text, OUT email_hash text,
	OUT skip_reason text, OUT detail text)
RETURNS SETOF record
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	-- grouped, not joined: the planner takes arrays for small and would go through one of them for each key of the other
	WITH asked AS (
		SELECT u.contact_key, NOT bool_or(u.is_found) AS gone, max(u.error_message) AS error_message,
			(array_agg(u.value) FILTER (WHERE u.is_found))[1] AS value
		FROM (
			SELECT k.contact_key COLLATE "C" AS contact_key, false AS is_found, NULL::text AS error_message, NULL::jsonb AS value
			FROM unnest(_keys) AS k(contact_key)
			UNION ALL
			SELECT l.contact_key, true, l.error_message, l.value FROM unnest(_looked) l) u
		WHERE u.contact_key IS NOT NULL
		GROUP BY u.contact_key HAVING NOT bool_and(u.is_found)
	), looked AS (
		SELECT a.contact_key, a.gone, a.error_message, coalesce((a.value ->> 'linked')::boolean, true) AS linked,
			coalesce((a.value ->> 'opt_out')::boolean, false) AS opts_out, e.email, mailchimp_sync.is_email(e.email) AS is_email
		FROM asked a
		CROSS JOIN LATERAL (SELECT nullif(btrim(a.value ->> 'email'), '') AS email OFFSET 0) e
	), known AS MATERIALIZED (
		SELECT l.*, CASE WHEN l.is_email THEN mailchimp_sync.email_hash(l.email) END AS email_hash
		FROM (SELECT * FROM looked OFFSET 0) l
	)
	SELECT k.contact_key, CASE WHEN NOT e.erased THEN k.email END, CASE WHEN NOT e.erased THEN k.email_hash END, v.skip_reason,
		CASE v.skip_reason
			WHEN 'opted_out' THEN CASE WHEN e.erased THEN 'was erased' END
			WHEN 'not_linked' THEN 'its link flag is off'
			WHEN 'invalid_email' THEN 'its e-mail address is not valid'
			WHEN 'not_allowed' THEN 'is not among the addresses of the training connection'
			WHEN 'not_member' THEN 'is not a member of the audience'
			WHEN 'unsubscribed' THEN format('%s at Mailchimp', m.status)
			WHEN 'refused' THEN coalesce(k.error_message, 'was deleted permanently at Mailchimp')
			WHEN 'no_email' THEN CASE WHEN k.gone THEN 'there is no such contact' ELSE 'has no e-mail address' END
		END
	FROM known k
	LEFT JOIN mailchimp_sync.audience a ON a.audience_id = _c.audience_id
	LEFT JOIN mailchimp_sync.connection n ON n.connection = _c.connection
	-- OFFSET: a lookup each, whatever the planner knows of the tables
	LEFT JOIN LATERAL (SELECT o.status, o.archived_by_us FROM mailchimp_sync.member o
		WHERE o.audience_id = _c.audience_id AND o.email_hash = k.email_hash OFFSET 0) m ON true
	LEFT JOIN LATERAL (SELECT o.inside FROM mailchimp_sync.hand o WHERE o.audience_id = _c.audience_id
		AND o.source_id = _source_id AND o.contact_key = k.contact_key OFFSET 0) h ON true
	CROSS JOIN LATERAL (SELECT CASE
		WHEN k.opts_out OR mailchimp_sync.is_opted_out(_source_id, k.contact_key, k.email_hash) THEN 'opted_out'
		WHEN k.error_message IS NOT NULL THEN 'refused'
		WHEN NOT k.linked THEN 'not_linked'
		WHEN k.email IS NULL THEN 'no_email'
		WHEN NOT k.is_email THEN 'invalid_email'
		WHEN NOT mailchimp_sync.is_allowed(n.only_addresses, k.email_hash) THEN 'not_allowed'
		WHEN mailchimp_sync.member_skip_reason(m.status, m.archived_by_us) IS NOT NULL
			THEN mailchimp_sync.member_skip_reason(m.status, m.archived_by_us)
		WHEN h.inside IS FALSE OR ((a.recipients = 'members' OR a.direction = 'pull')
			AND coalesce(m.status NOT IN ('subscribed', 'pending'), true)) THEN 'not_member'
	END AS skip_reason OFFSET 0) v
	CROSS JOIN LATERAL (SELECT v.skip_reason IS NOT DISTINCT FROM 'opted_out'
		AND mailchimp_sync.is_erased(_source_id, k.contact_key, k.email_hash) AS erased) e;
END
$$;

/*
 * One mail to an address (D13): of the recipients that have it and could get the
 * mail the first gets it, by the order of the audience's sources, then by key; a member
 * without a contact comes last.
 */
CREATE FUNCTION mailchimp_sync.decide_duplicates(_c mailchimp_sync.campaign, _hashes text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	WITH ranked AS (
		SELECT r.*, row_number() OVER (PARTITION BY r.email_hash
			ORDER BY mailchimp_sync.precedence(CASE WHEN r.source_id = 0 THEN 2147483647 ELSE coalesce(x.position, 0) END,
				s.key_type, r.contact_key)) > 1 AS is_later
		FROM (SELECT DISTINCT unnest(_hashes) COLLATE "C" AS email_hash) h
		-- OFFSET: a lookup each, whatever the planner knows of the table
		CROSS JOIN LATERAL (SELECT o.* FROM mailchimp_sync.recipient o
			WHERE o.campaign_id = _c.campaign_id AND o.email_hash = h.email_hash
				AND (o.status = 'pending' OR o.skip_reason = 'duplicate') OFFSET 0) r
		LEFT JOIN mailchimp_sync.source s USING (source_id)
		LEFT JOIN mailchimp_sync.audience_source x ON x.audience_id = _c.audience_id AND x.source_id = r.source_id
	)
	-- all of them are there already: so they are looked up, too
	INSERT INTO mailchimp_sync.recipient AS r (campaign_id, source_id, contact_key, email, email_hash, status,
		skip_reason, detail, added_at, added_by)
	SELECT k.campaign_id, k.source_id, k.contact_key, k.email, k.email_hash,
		CASE WHEN k.is_later THEN 'skipped' ELSE 'pending' END, CASE WHEN k.is_later THEN 'duplicate' END,
		CASE WHEN k.is_later THEN 'another recipient has the same address and comes first' END, k.added_at, k.added_by
	FROM ranked k
	WHERE (k.skip_reason IS NOT DISTINCT FROM 'duplicate') <> k.is_later
	ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET status = excluded.status,
		skip_reason = excluded.skip_reason, detail = excluded.detail
	WHERE r.status = 'pending' OR r.skip_reason = 'duplicate';
END
$$;

/* ---- for people ---- */

-- a source whose contacts the campaign's audience takes
CREATE FUNCTION mailchimp_sync.campaign_source_id(_c mailchimp_sync.campaign, _source text) RETURNS integer
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_source_id	integer := mailchimp_sync.source_id(_source);
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.audience_source x
			WHERE x.audience_id = _c.audience_id AND x.source_id = _source_id) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('source "%s" does not belong to the audience of campaign %s', _source, _c.campaign_id),
			HINT = format('Its sources are: %s.', coalesce((SELECT string_agg(s.source, ', ' ORDER BY x.position)
				FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.source s USING (source_id)
				WHERE x.audience_id = _c.audience_id), 'none'));
	END IF;
	RETURN _source_id;
END
$$;

CREATE FUNCTION mailchimp_sync.raise_unreadable(_source_id integer, _trouble text) RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
		MESSAGE = format('source "%s" cannot be read: %s', (SELECT s.source FROM mailchimp_sync.source s
			WHERE s.source_id = _source_id), _trouble);
END
$$;

-- a page of a selection that somebody makes; what its expressions return is held in memory
CREATE FUNCTION mailchimp_sync.select_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_trouble	text := mailchimp_sync.decide_recipients(_c, _source_id, _keys, mailchimp_sync.caller()::text);
BEGIN
	IF _trouble IS NOT NULL THEN
		PERFORM mailchimp_sync.raise_unreadable(_source_id, _trouble);
	END IF;
END
$$;

-- keys as given to a call, each once, a thousand at a time: what the expressions return for them is held in memory
CREATE FUNCTION mailchimp_sync.key_pages(_keys text[]) RETURNS SETOF text[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT array_agg(n.key ORDER BY n.key) FROM (
		SELECT d.key, (row_number() OVER (ORDER BY d.key) - 1) / 1000 AS page
		FROM (SELECT DISTINCT u.key COLLATE "C" AS key FROM unnest(_keys) AS u(key) WHERE u.key IS NOT NULL) d) n
	GROUP BY n.page ORDER BY n.page
$$;

-- whatever was said of these before, or a target said
CREATE FUNCTION mailchimp_sync.name_recipients(_campaign_id bigint, _source_id integer, _keys text[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.recipient r SET resolution = NULL
	-- the keys are a page of sorted ones: a range is read by the index in any case
	FROM (SELECT min(k.contact_key COLLATE "C") AS first, max(k.contact_key COLLATE "C") AS last FROM unnest(_keys) AS k(contact_key)) p
	WHERE r.campaign_id = _campaign_id AND r.source_id = _source_id AND r.contact_key BETWEEN p.first AND p.last
		AND r.resolution IS NOT NULL AND r.contact_key = ANY (_keys);
	DELETE FROM mailchimp_sync.recipient_exclusion e
	WHERE e.campaign_id = _campaign_id AND e.source_id = _source_id AND e.contact_key = ANY (_keys);
$$;

CREATE FUNCTION @extschema@.mc_add_recipients(campaign bigint, source text, contact_keys anyarray) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_add_recipients(bigint, text, anyarray) IS
	'adds contacts to a campaign; returns how many of them will get it, the rest are skipped with a reason';
CREATE FUNCTION @extschema@.mc_add_recipients(campaign bigint, source text, contact_keys text) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_add_recipients(bigint, text, text) IS
	'adds contacts to a campaign, keys as an array literal; returns how many of them will get it';

CREATE FUNCTION mailchimp_sync.mc_add_recipients(_campaign bigint, _source text, _contact_keys text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'select');
	_source_id	integer := mailchimp_sync.campaign_source_id(_c, _source);
	_page		text[];
	_keys		text[] := '{}';
	_count		bigint := 0;
BEGIN
	FOR _page IN SELECT mailchimp_sync.key_pages(_contact_keys) LOOP
		_page := mailchimp_sync.normal_keys(_source_id, _page);
		PERFORM mailchimp_sync.name_recipients(_campaign, _source_id, _page);
		PERFORM mailchimp_sync.select_recipients(_c, _source_id, _page);
		_keys := _keys || _page;
	END LOOP;
	UPDATE mailchimp_sync.campaign SET fixed_at = NULL WHERE campaign_id = _campaign AND fixed_at IS NOT NULL;
	-- only now: who came later can have the same address and come first
	FOR _page IN SELECT mailchimp_sync.key_pages(_keys) LOOP
		_count := _count + (SELECT count(*) FROM unnest(_page) AS k(contact_key)
			CROSS JOIN LATERAL (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _campaign
				AND r.source_id = _source_id AND r.contact_key = k.contact_key AND r.status = 'pending' OFFSET 0) AS r);
	END LOOP;
	RETURN _count;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_add_recipients(_campaign bigint, _source text, _contact_keys text) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.mc_add_recipients(_campaign, _source, _contact_keys::text[])
$$;

CREATE FUNCTION @extschema@.mc_remove_recipients(campaign bigint, source text, contact_keys anyarray) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_remove_recipients(bigint, text, anyarray) IS
	'takes contacts out of a campaign that is not prepared yet; returns how many';
CREATE FUNCTION @extschema@.mc_remove_recipients(campaign bigint, source text, contact_keys text) RETURNS bigint
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_remove_recipients(bigint, text, text) IS
	'takes contacts out of a campaign that is not prepared yet, keys as an array literal; returns how many';

CREATE FUNCTION mailchimp_sync.mc_remove_recipients(_campaign bigint, _source text, _contact_keys text[]) RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c			mailchimp_sync.campaign := mailchimp_sync.campaign_for(_campaign, 'select');
	_source_id	integer := mailchimp_sync.source_id(_source);
	_page		text[];
	_count		bigint := 0;
BEGIN
	FOR _page IN SELECT mailchimp_sync.key_pages(_contact_keys) LOOP
		_count := _count + mailchimp_sync.remove_recipients(_c, _source_id, mailchimp_sync.normal_keys(_source_id, _page));
	END LOOP;
	RETURN _count;
END
$$;

/*
 * A page of contacts. They stay out, whatever the campaign aims at now or later, until somebody names them. Returns how many went; with
 * a target also those whom it will not bring.
 */
CREATE FUNCTION mailchimp_sync.remove_recipients(_c mailchimp_sync.campaign, _source_id integer, _keys text[])
RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_has_target	boolean := mailchimp_sync.has_target(_c.campaign_id);
	_page		text[] := ARRAY(SELECT DISTINCT k COLLATE "C" FROM unnest(_keys) AS k ORDER BY 1);
	_last		text := _page[cardinality(_page)];		-- a range is read by the index in any case
	_hashes		text[];
	_count		bigint;
BEGIN
	IF EXISTS (SELECT FROM mailchimp_sync.recipient r WHERE r.campaign_id = _c.campaign_id AND r.source_id = _source_id
			AND r.contact_key BETWEEN _page[1] AND _last AND r.contact_key = ANY (_page) AND r.segment_email IS NOT NULL) THEN
		RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
			MESSAGE = format('some of these contacts are in the segment of campaign %s at Mailchimp already', _c.campaign_id),
			HINT = 'Cancel the campaign and make a new one.';
	END IF;
	WITH gone AS (
		DELETE FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = _c.campaign_id AND r.source_id = _source_id
			AND r.contact_key BETWEEN _page[1] AND _last AND r.contact_key = ANY (_page)
		RETURNING r.contact_key, r.email_hash
	), kept_out AS (
		INSERT INTO mailchimp_sync.recipient_exclusion AS e (campaign_id, source_id, contact_key, excluded_at, excluded_by)
		SELECT _c.campaign_id, _source_id, k, mailchimp_sync.clock(), mailchimp_sync.caller()::text
		FROM unnest(_page) AS k
		ON CONFLICT DO NOTHING
		RETURNING e.contact_key
	)
	SELECT count(*), array_agg(u.email_hash) INTO _count, _hashes FROM (
		SELECT g.email_hash FROM gone g
		UNION ALL
		SELECT NULL FROM kept_out k WHERE _has_target AND k.contact_key NOT IN (SELECT g.contact_key FROM gone g)) u;
	PERFORM mailchimp_sync.decide_duplicates(_c, _hashes);
	RETURN _count;
END
$$;

CREATE FUNCTION mailchimp_sync.mc_remove_recipients(_campaign bigint, _source text, _contact_keys text) RETURNS bigint
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.mc_remove_recipients(_campaign, _source, _contact_keys::text[])
$$;

/* ---- recipients as a relation ---- */

CREATE VIEW @extschema@.mc_campaign_recipient WITH (security_barrier) AS
SELECT r.campaign_id, s.source, r.contact_key, r.email, r.status, r.skip_reason, r.detail
FROM mailchimp_sync.recipient r
JOIN mailchimp_sync.campaign c USING (campaign_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.source s USING (source_id);
COMMENT ON VIEW @extschema@.mc_campaign_recipient IS
	'everybody who was selected for a campaign, with the one status or the reason for being skipped; INSERT adds, DELETE takes out';

-- INSERT and DELETE on mc_campaign_recipient
CREATE FUNCTION mailchimp_sync.change_campaign_recipient(_op text, _old jsonb, _new jsonb) RETURNS jsonb
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_row		jsonb := coalesce(_new, _old);
	_campaign	bigint := _row ->> 'campaign_id';
	_keys		text[] := ARRAY[_row ->> 'contact_key'];
	_made		jsonb;
	_given		text;
BEGIN
	IF _op = 'DELETE' THEN
		RETURN CASE WHEN CASE WHEN _row ->> 'source' IS NOT NULL
				THEN mailchimp_sync.mc_remove_recipients(_campaign, _row ->> 'source', _keys)
				-- a member without a contact
				ELSE mailchimp_sync.remove_recipients(mailchimp_sync.campaign_for(_campaign, 'select'), 0, _keys) END > 0
			THEN '{}'::jsonb END;
	END IF;
	SELECT n.key INTO _given FROM jsonb_each_text(_row) n
	WHERE n.key NOT IN ('campaign_id', 'source', 'contact_key') AND n.value IS NOT NULL LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'generated_always', MESSAGE = format('column "%s" cannot be given', _given),
			HINT = 'A recipient is named by campaign_id, source and contact_key.';
	ELSIF _keys[1] IS NULL THEN
		RAISE EXCEPTION USING ERRCODE = 'not_null_violation', MESSAGE = 'a recipient needs a contact_key';
	END IF;
	PERFORM mailchimp_sync.mc_add_recipients(_campaign, _row ->> 'source', _keys);
	SELECT to_jsonb(r) - 'campaign_id' - 'source_id' INTO STRICT _made FROM mailchimp_sync.recipient r
	JOIN mailchimp_sync.source s USING (source_id)
	WHERE r.campaign_id = _campaign AND s.source = _row ->> 'source'
		AND r.contact_key = (mailchimp_sync.normal_keys(s.source_id, _keys))[1];
	RETURN _made;
END
$$;
CREATE TRIGGER gate INSTEAD OF INSERT OR DELETE ON @extschema@.mc_campaign_recipient
	FOR EACH ROW EXECUTE FUNCTION mailchimp_sync.gate_trigger('marketer', 'change_campaign_recipient', 'campaign', 'campaign_id');

/* ---- the campaigns; here, since it counts recipients ---- */

-- one of Mailchimp's own pages (R107); null where the account or the number is not known
CREATE FUNCTION mailchimp_sync.page_url(_dc text, _page text, _web_id bigint) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('https://%s.admin.mailchimp.com/%s?id=%s', _dc, _page, _web_id) WHERE _dc <> '' AND _web_id IS NOT NULL
$$;

CREATE VIEW @extschema@.mc_campaign WITH (security_barrier) AS
SELECT c.campaign_id, c.connection, a.audience, c.list_id, c.type, c.name, coalesce(c.subject, c.name) AS subject,
	c.template_id, c.from_name, c.from_email, c.status, c.mailchimp_status, c.mailchimp_id,
	CASE WHEN mailchimp_sync.campaign_is_unsent(c.status)
		THEN mailchimp_sync.page_url(n.dc, 'campaigns/edit', c.web_id) END AS edit_url,
	c.archive_url,
	CASE WHEN c.status IN ('sending', 'sent')
		THEN mailchimp_sync.page_url(n.dc, 'reports/summary', c.web_id) END AS report_url,
	c.created_at, c.scheduled_for, c.sent_at, c.emails_sent,
	CASE c.origin WHEN 'imported' THEN c.count_last ELSE (SELECT count(*) FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = c.campaign_id AND r.status <> 'skipped') END AS recipients,
	(SELECT count(*) FROM mailchimp_sync.recipient r
		WHERE r.campaign_id = c.campaign_id AND r.status = 'skipped') AS skipped,
	c.last_polled_at, c.next_poll_at, c.last_error, c.origin
FROM mailchimp_sync.campaign c
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.connection_state n USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (audience_id);
COMMENT ON VIEW @extschema@.mc_campaign IS
	'the campaigns: how they are set, how far they are and, where one failed, every reason';
