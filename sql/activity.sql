/*
 * activity.sql: what recipients did with a mail (R39-R44).
 *
 * One row per bounce, open, click, unsubscribe or complaint. The natural key has an
 * ordinal, since two opens of one person can fall into one second, so storing the same page again,
 * or pages in another order, changes nothing. Rows are only added: what Mailchimp lists no more stays
 * known. Who asks for the pages, and when, is in poll.sql.
 */
CREATE TABLE mailchimp_sync.activity (
	campaign_id		bigint NOT NULL,
	email_hash		text COLLATE "C" NOT NULL,	-- of the address as sent
	type			text NOT NULL CHECK (type IN ('bounced', 'opened', 'clicked', 'unsubscribed')),
	occurred_at		timestamptz NOT NULL,
	-- tells apart what falls into one second: the link's MD5, hard or soft, 'complaint'
	sub_key			text COLLATE "C" NOT NULL,
	ordinal			integer NOT NULL,
	-- null: no contact stood behind the address
	source_id		integer,
	contact_key		text COLLATE "C",
	email			text,						-- null: erased
	url				text,
	bounce_type		text CHECK (bounce_type IN ('hard', 'soft')),
	ip				inet,						-- with mailchimp_sync.store_ip alone
	machine			boolean NOT NULL DEFAULT false,	-- Mailchimp takes it for a machine's (machine.sql)
	reason			text,
	recorded_at		timestamptz NOT NULL,
	PRIMARY KEY (campaign_id, email_hash, type, occurred_at, sub_key, ordinal),
	CHECK ((type = 'bounced') = (bounce_type IS NOT NULL)),
	CHECK ((source_id IS NULL) = (contact_key IS NULL))
);
ALTER TABLE mailchimp_sync.activity ALTER campaign_id SET STATISTICS 0;		-- see recipient.sql
CREATE INDEX activity_contact ON mailchimp_sync.activity (source_id, contact_key, occurred_at);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.activity', '');

-- how many rows there are of each kind: to count them takes long where there are a million. Not dumped, a restore counts anew.
CREATE TABLE mailchimp_sync.activity_count (
	campaign_id		bigint PRIMARY KEY,
	opened			bigint NOT NULL,
	clicked			bigint NOT NULL,
	bounced			bigint NOT NULL,
	unsubscribed	bigint NOT NULL,
	complained		bigint NOT NULL,
	-- of those above, moved by the marks too (machine.sql)
	machine_opened	bigint NOT NULL,
	machine_clicked	bigint NOT NULL
);

CREATE FUNCTION mailchimp_sync.count_activity() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_sign	integer := CASE TG_OP WHEN 'DELETE' THEN -1 ELSE 1 END;
BEGIN
	INSERT INTO mailchimp_sync.activity_count AS c (campaign_id, opened, clicked, bounced, unsubscribed, complained,
		machine_opened, machine_clicked)
	SELECT r.campaign_id, _sign * count(*) FILTER (WHERE r.type = 'opened'), _sign * count(*) FILTER (WHERE r.type = 'clicked'),
		_sign * count(*) FILTER (WHERE r.type = 'bounced'),
		_sign * count(*) FILTER (WHERE r.type = 'unsubscribed' AND r.sub_key = ''),
		_sign * count(*) FILTER (WHERE r.type = 'unsubscribed' AND r.sub_key <> ''),
		_sign * count(*) FILTER (WHERE r.type = 'opened' AND r.machine), _sign * count(*) FILTER (WHERE r.type = 'clicked' AND r.machine)
	FROM changed r GROUP BY r.campaign_id
	ORDER BY r.campaign_id
	ON CONFLICT (campaign_id) DO UPDATE SET opened = c.opened + excluded.opened, clicked = c.clicked + excluded.clicked,
		bounced = c.bounced + excluded.bounced, unsubscribed = c.unsubscribed + excluded.unsubscribed,
		complained = c.complained + excluded.complained, machine_opened = c.machine_opened + excluded.machine_opened,
		machine_clicked = c.machine_clicked + excluded.machine_clicked;
	RETURN NULL;
END
$$;
CREATE TRIGGER counted_in AFTER INSERT ON mailchimp_sync.activity
	REFERENCING NEW TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION mailchimp_sync.count_activity();
CREATE TRIGGER counted_out AFTER DELETE ON mailchimp_sync.activity
	REFERENCING OLD TABLE AS changed FOR EACH STATEMENT EXECUTE FUNCTION mailchimp_sync.count_activity();

-- a restore may have filled the table without its triggers
CREATE FUNCTION mailchimp_sync.recount_activity() RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	LOCK TABLE mailchimp_sync.activity IN SHARE ROW EXCLUSIVE MODE;
	DELETE FROM mailchimp_sync.activity_count;
	INSERT INTO mailchimp_sync.activity_count (campaign_id, opened, clicked, bounced, unsubscribed, complained,
		machine_opened, machine_clicked)
	SELECT a.campaign_id, count(*) FILTER (WHERE a.type = 'opened'), count(*) FILTER (WHERE a.type = 'clicked'),
		count(*) FILTER (WHERE a.type = 'bounced'), count(*) FILTER (WHERE a.type = 'unsubscribed' AND a.sub_key = ''),
		count(*) FILTER (WHERE a.type = 'unsubscribed' AND a.sub_key <> ''),
		count(*) FILTER (WHERE a.type = 'opened' AND a.machine), count(*) FILTER (WHERE a.type = 'clicked' AND a.machine)
	FROM mailchimp_sync.activity a GROUP BY a.campaign_id;
END
$$;

/* ---- keeping ---- */

-- bounces, opens and clicks are kept from this instant on (mailchimp_sync.activity_retention); null: all
CREATE FUNCTION mailchimp_sync.activity_kept_since() RETURNS timestamptz
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.clock() - nullif(current_setting('mailchimp_sync.activity_retention')::interval, interval '0')
$$;

-- who left stays known: an old line of Mailchimp's report must not be news again
CREATE FUNCTION mailchimp_sync.tidy_activity() RETURNS bigint
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_since	timestamptz := mailchimp_sync.activity_kept_since();
	_count	bigint;
BEGIN
	IF _since IS NULL THEN
		RETURN 0;
	END IF;
	DELETE FROM mailchimp_sync.activity a WHERE a.occurred_at < _since AND a.type <> 'unsubscribed';
	GET DIAGNOSTICS _count = ROW_COUNT;
	RETURN _count;
END
$$;

/*
 * ---- storing ----
 *
 * A page has a thousand persons, a campaign perhaps many more recipients. The planner takes
 * what comes out of JSON for more than it is, and a campaign for smaller, and would read all recipients for each
 * page, or even for each line of it, hence the settings of these functions: they are looked up one by one. A
 * plan that does not know the page takes it for short.
 */

-- the precedence of what a recipient did (D4); null: it got no mail. Without a search_path, so that it is inlined.
CREATE FUNCTION mailchimp_sync.status_rank(_status text) RETURNS integer
LANGUAGE sql IMMUTABLE PARALLEL SAFE
AS $$
	SELECT pg_catalog.array_position(ARRAY['sent', 'bounced', 'opened', 'clicked', 'unsubscribed'], _status)
$$;

-- recipients are raised to the highest of these statuses and never lowered, whatever came first (R44)
CREATE FUNCTION mailchimp_sync.raise_recipients(_campaign_id bigint, _hashes text[], _statuses text[]) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
	UPDATE mailchimp_sync.recipient r SET status = h.status
	FROM (SELECT DISTINCT ON (u.hash) u.hash COLLATE "C" AS email_hash, u.status
		FROM (SELECT DISTINCT x.hash, x.status FROM unnest(_hashes, _statuses) AS x(hash, status)) u
		ORDER BY u.hash, mailchimp_sync.status_rank(u.status) DESC) h
	WHERE r.campaign_id = _campaign_id AND r.email_hash = h.email_hash
		AND mailchimp_sync.status_rank(r.status) < mailchimp_sync.status_rank(h.status)
$$;

-- what Mailchimp calls an address is not always one
CREATE FUNCTION mailchimp_sync.inet_or_null(_ip text) RETURNS inet
LANGUAGE plpgsql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN _ip::inet;
EXCEPTION WHEN invalid_text_representation THEN
	RETURN NULL;
END
$$;

-- the recipients of a campaign who got the mail, by the address as sent
CREATE VIEW mailchimp_sync.mailed AS
SELECT r.campaign_id, r.email_hash, nullif(r.source_id, 0) AS source_id,
	CASE WHEN r.source_id > 0 THEN r.contact_key END AS contact_key
FROM mailchimp_sync.recipient r
WHERE r.status NOT IN ('pending', 'skipped');

/*
 * Whom a line of a report is about, at most one: who got the mail at that address, or else who has come to
 * have it since. Without a search_path, so that it is inlined.
 */
CREATE FUNCTION mailchimp_sync.recipient_shown(_campaign_id bigint, _hash text)
RETURNS TABLE (email_hash text, source_id integer, contact_key text, email text)
LANGUAGE sql STABLE
AS $$
	(SELECT m.email_hash, m.source_id, m.contact_key, NULL::pg_catalog.text
	FROM mailchimp_sync.mailed m WHERE m.campaign_id = _campaign_id AND m.email_hash = _hash
	UNION ALL
	(SELECT r.email_hash, r.source_id, r.contact_key, r.email
	FROM mailchimp_sync.campaign k
	CROSS JOIN LATERAL (
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = k.audience_id AND c.member_hash = _hash
		UNION ALL
		SELECT c.source_id, c.contact_key FROM mailchimp_sync.contact c
		WHERE c.audience_id = k.audience_id AND c.left_hash = _hash) c
	JOIN mailchimp_sync.recipient r ON r.campaign_id = _campaign_id AND r.source_id = c.source_id AND r.contact_key = c.contact_key
	WHERE k.campaign_id = _campaign_id AND r.status NOT IN ('pending', 'skipped')
		AND NOT EXISTS (SELECT FROM mailchimp_sync.mailed m WHERE m.campaign_id = _campaign_id AND m.email_hash = _hash)
	ORDER BY r.source_id, r.contact_key LIMIT 1))
	LIMIT 1
$$;

/*
 * A page of email-activity: one row per recipient with all its events, or with
 * those after an instant. Seconds are there as a whole or not at all, so the ordinals
 * are the same each time. A bounce of no known type is taken for a temporary one.
 */
CREATE FUNCTION mailchimp_sync.activities_seen(_campaign_id bigint, _ids text[], _emails text[], _activities text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	_store_ip	boolean := current_setting('mailchimp_sync.store_ip')::boolean;
	_kept_since	timestamptz := mailchimp_sync.activity_kept_since();
	_hashes		text[];
	_types		text[];
BEGIN
	PERFORM mailchimp_sync.import_recipients(_campaign_id, array_agg(u.id), array_agg(u.email))
	FROM unnest(_ids, _emails, _activities) AS u(id, email, activity) WHERE u.activity <> '[]';
	WITH person AS (
		SELECT coalesce(m.email_hash, lower(u.id)) COLLATE "C" AS email_hash, coalesce(m.email, u.email) AS email, u.activity,
			m.source_id, m.contact_key, u.line
		FROM unnest(_ids, _emails, _activities) WITH ORDINALITY AS u(id, email, activity, line)
		LEFT JOIN mailchimp_sync.recipient_shown(_campaign_id, lower(u.id)) m ON true
		WHERE u.activity <> '[]' AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = lower(u.id))
	), event AS MATERIALIZED (
		SELECT p.email_hash, p.email, p.source_id, p.contact_key, p.line, k.type, e.timestamp::timestamptz AS occurred_at,
			CASE k.type WHEN 'clicked' THEN md5(coalesce(e.url, '')) WHEN 'bounced' THEN k.bounce_type ELSE '' END AS sub_key,
			CASE WHEN k.type = 'clicked' THEN e.url END AS url, k.bounce_type,
			CASE WHEN _store_ip THEN mailchimp_sync.inet_or_null(nullif(e.ip, '')) END AS ip
		FROM person p
		CROSS JOIN LATERAL json_to_recordset(p.activity::json)
			AS e(action text, type text, "timestamp" text, url text, ip text)
		CROSS JOIN LATERAL (SELECT CASE e.action WHEN 'open' THEN 'opened' WHEN 'click' THEN 'clicked'
				WHEN 'bounce' THEN 'bounced' END AS type,
			CASE WHEN e.action = 'bounce' THEN CASE WHEN e.type = 'hard' THEN 'hard' ELSE 'soft' END END AS bounce_type) k
		WHERE k.type IS NOT NULL
	), numbered AS (
		-- a line at a time: should a page show somebody twice, these are the same events
		SELECT e.*, row_number() OVER (PARTITION BY e.line, e.email_hash, e.type, e.occurred_at, e.sub_key) AS ordinal
		FROM event e
	), stored AS (
		INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, source_id,
			contact_key, email, url, bounce_type, ip, recorded_at)
		SELECT _campaign_id, n.email_hash, n.type, n.occurred_at, n.sub_key, n.ordinal, n.source_id, n.contact_key,
			n.email, n.url, n.bounce_type, n.ip, mailchimp_sync.clock()
		FROM numbered n
		WHERE coalesce(n.occurred_at >= _kept_since, true)
		ORDER BY n.email_hash, n.occurred_at
		ON CONFLICT DO NOTHING
	)
	SELECT array_agg(e.email_hash), array_agg(e.type) INTO _hashes, _types FROM event e;
	PERFORM mailchimp_sync.raise_recipients(_campaign_id, _hashes, _types);
END
$$;

-- Mailchimp's own fact, whatever the policy, and whatever address the member has by now; who has come back since has a later one
CREATE FUNCTION mailchimp_sync.member_left(_audience_id integer, _email_hash text, _at timestamptz, _reason text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.member m SET status = 'unsubscribed',
		status_before = CASE WHEN m.status = 'unsubscribed' THEN m.status_before END,
		last_changed = greatest(m.last_changed, _at), unsubscribed_at = _at,
		unsubscribe_reason = mailchimp_sync.better_reason(CASE WHEN m.status = 'unsubscribed' THEN m.unsubscribe_reason END, _reason)
	WHERE m.audience_id = _audience_id AND m.email_hash = _email_hash
		AND (m.status IN ('subscribed', 'pending') AND coalesce(m.last_changed <= _at, true)
			OR m.status = 'unsubscribed' AND coalesce(_at <= m.unsubscribed_at, true))
$$;

/*
 * Who left by a mail, or complained about it. All of them come each time, so
 * only what was not known yet has consequences: somebody who opted in again is
 * not put out once more by an old line of the report.
 */
CREATE FUNCTION mailchimp_sync.unsubscribes_seen(_campaign_id bigint, _ids text[], _emails text[], _times text[],
	_reasons text[], _complained boolean)
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	_audience	mailchimp_sync.audience;
	_new		mailchimp_sync.activity[];
	_hashes		text[];
BEGIN
	PERFORM mailchimp_sync.import_recipients(_campaign_id, _ids, _emails);
	WITH shown AS MATERIALIZED (
		SELECT coalesce(m.email_hash, lower(u.id)) AS email_hash, m.source_id, m.contact_key, coalesce(m.email, u.email) AS email,
			u.at::timestamptz AS occurred_at, CASE WHEN _complained THEN 'abuse complaint' ELSE nullif(u.reason, '') END AS reason,
			EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = lower(u.id)) AS is_erased
		FROM unnest(_ids, _emails, _times, _reasons) AS u(id, email, at, reason)
		LEFT JOIN mailchimp_sync.recipient_shown(_campaign_id, lower(u.id)) m ON true
	), stored AS (
		INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, source_id,
			contact_key, email, reason, recorded_at)
		SELECT _campaign_id, s.email_hash, 'unsubscribed', s.occurred_at, CASE WHEN _complained THEN 'complaint' ELSE '' END,
			1, s.source_id, s.contact_key, s.email, s.reason, mailchimp_sync.clock()
		FROM shown s WHERE NOT s.is_erased
		ON CONFLICT DO NOTHING
		RETURNING *
	)
	SELECT (SELECT array_agg(ROW(n.*)::mailchimp_sync.activity) FROM stored n), ARRAY(SELECT s.email_hash FROM shown s)
	INTO _new, _hashes;
	PERFORM mailchimp_sync.raise_recipients(_campaign_id, _hashes, array_fill('unsubscribed'::text, ARRAY[cardinality(_hashes)]));

	SELECT a.* INTO _audience FROM mailchimp_sync.campaign c
	JOIN mailchimp_sync.audience a USING (audience_id)
	WHERE c.campaign_id = _campaign_id;
	-- R45; a policy is the audience's (D11), and without an audience nobody says that it does not matter
	PERFORM mailchimp_sync.signal_leaving(_audience.audience_id, n) FROM unnest(_new) n WHERE NOT mailchimp_sync.import_is_past(n);
	IF coalesce(_audience.on_unsubscribe, 'opt_out') = 'opt_out' THEN
		PERFORM mailchimp_sync.opt_out_add(n.source_id, n.contact_key, n.email, 'mailchimp', n.reason, 'Mailchimp')
		FROM unnest(_new) n WHERE NOT mailchimp_sync.leaving_is_over(_audience.audience_id, n)
			AND NOT mailchimp_sync.import_came_back(_audience.audience_id, n);
		PERFORM mailchimp_sync.opt_outs_explained(array_agg(n.email_hash), array_agg(n.reason)) FROM unnest(_new) n;
	END IF;
	PERFORM mailchimp_sync.member_left(_audience.audience_id, h.email_hash, n.occurred_at, n.reason)
	FROM unnest(_new) n
	CROSS JOIN LATERAL (
		SELECT n.email_hash
		UNION
		SELECT c.member_hash FROM mailchimp_sync.contact c
		WHERE c.audience_id = _audience.audience_id AND c.source_id = n.source_id AND c.contact_key = n.contact_key) h;
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT c.source_id, c.contact_key FROM unnest(_new) n
	JOIN mailchimp_sync.contact c ON c.audience_id = _audience.audience_id AND c.email_hash = n.email_hash
	UNION
	SELECT n.source_id, n.contact_key FROM unnest(_new) n WHERE n.source_id IS NOT NULL;
END
$$;

/* ---- what people see ---- */

CREATE VIEW @extschema@.mc_activity WITH (security_barrier) AS
SELECT a.campaign_id, c.mailchimp_id AS mailchimp_campaign_id, c.name AS title, s.source, a.contact_key, a.email,
	a.type, a.bounce_type, a.url, a.ip, a.machine, a.reason, a.occurred_at
FROM mailchimp_sync.activity a
JOIN mailchimp_sync.campaign c USING (campaign_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.source s USING (source_id);
COMMENT ON VIEW @extschema@.mc_activity IS
	'every bounce, open, click and unsubscribe, with the campaign and the contact; a complaint is an unsubscribe with the reason "abuse complaint"';
