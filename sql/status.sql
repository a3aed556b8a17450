/*
 * status.sql: is it working, how far is it (N8).
 */

/* ---- progress ---- */

-- a step of a campaign (send.sql) for people, and whether it goes through its recipients, or asks Mailchimp for them
CREATE FUNCTION mailchimp_sync.campaign_phase(_step text, OUT phase text, OUT walks boolean, OUT asks boolean)
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE
			WHEN _step IN ('target', 'find_tags', 'tag_members', 'foreign_members', 'resolve') THEN 'aiming'
			WHEN _step = 'decide' THEN 'choosing'
			WHEN _step = 'join' THEN 'joining'
			WHEN _step IN ('fold', 'refold', 'recheck') THEN 'refreshing'
			WHEN _step = 'settle' THEN 'waiting for contacts'
			WHEN _step = 'fix' THEN 'fixing'
			WHEN _step IN ('segment', 'find_segment', 'remove', 'fill') THEN 'filling'
			WHEN _step IN ('create', 'find_campaign', 'settings', 'content') THEN 'making'
			WHEN _step IN ('count', 'walk') THEN 'counting'
			WHEN _step IN ('domain', 'template', 'checklist', 'arrive') THEN 'checking'
			WHEN _step = 'schedule' THEN 'scheduling'
			WHEN _step IN ('send', 'look', 'sent') THEN 'sending'
			WHEN _step = 'unschedule' THEN 'unscheduling'
			WHEN _step IN ('recall', 'drop_campaign', 'drop_segment', 'gone') THEN 'removing'
			WHEN _step IN ('trace', 'renew', 'sent_to') THEN 'tracing'
			ELSE _step END,
		_step IN ('decide', 'join', 'fold', 'settle', 'refold', 'recheck'), _step IN ('remove', 'fill')
$$;

CREATE VIEW @extschema@.mc_progress WITH (security_barrier) AS
SELECT 'push'::text AS work, a.audience, NULL::bigint AS campaign_id,
	CASE WHEN x.comparing THEN 'comparing' WHEN c.held = c.pending THEN 'held' ELSE 'sending' END AS phase,
	c.done, c.done + c.pending AS total, r.rate,
	CASE WHEN r.rate > 0 AND c.held = 0 THEN ceil(c.pending / r.rate) * interval '1 second' END AS eta
FROM mailchimp_sync.audience a
JOIN mailchimp_sync.permitted_connection p USING (connection)
CROSS JOIN LATERAL (SELECT coalesce(bool_or(s.compare_from IS NOT NULL), false) AS comparing
	FROM mailchimp_sync.audience_source s WHERE s.audience_id = a.audience_id) x
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE k.state = 'in_sync') AS done,
		count(*) FILTER (WHERE k.action IS NOT NULL) AS pending, count(g.kind) AS held
	FROM mailchimp_sync.contact k
	LEFT JOIN mailchimp_sync.guard_stop g ON g.audience_id = k.audience_id AND g.kind = k.queue
	WHERE k.audience_id = a.audience_id) c
-- contacts per second over the last minute
CROSS JOIN LATERAL (SELECT round(sum(q.contacts) / 60.0, 1) AS rate
	FROM mailchimp_sync.request q
	WHERE q.audience_id = a.audience_id AND q.outcome = 'answered' AND q.status < 300
		AND q.started_at > mailchimp_sync.clock() - interval '1 minute') r
WHERE a.active_since IS NOT NULL AND (x.comparing OR c.pending > 0)
UNION ALL
-- recipients that the step is through with, where it goes through all of them; else those in the segment
SELECT 'campaign', a.audience, c.campaign_id, s.phase, r.done, r.total, q.rate,
	CASE WHEN q.rate > 0 THEN ceil((r.total - r.done) / q.rate) * interval '1 second' END
FROM mailchimp_sync.campaign c
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (audience_id)
CROSS JOIN LATERAL mailchimp_sync.campaign_phase(c.step) s
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE CASE WHEN s.walks THEN (r.source_id, r.contact_key)
				<= (split_part(c.cursor, ':', 1)::integer, substr(c.cursor, strpos(c.cursor, ':') + 1) COLLATE "C")
			ELSE r.filled END) AS done, count(*) AS total
	FROM mailchimp_sync.recipient r
	WHERE r.campaign_id = c.campaign_id AND (r.status = 'pending' OR (c.step = 'decide' AND r.status = 'skipped'))) r
-- recipients per second: since the step began, or by requests over the last minute
CROSS JOIN LATERAL (SELECT CASE
		WHEN s.walks THEN round(r.done / greatest(extract(epoch FROM mailchimp_sync.clock() - c.went_at), 1), 1)
		WHEN s.asks THEN (SELECT round(sum(l.contacts) / 60.0, 1) FROM mailchimp_sync.request l
			WHERE l.campaign_id = c.campaign_id AND l.outcome = 'answered' AND l.status < 300
				AND l.started_at > mailchimp_sync.clock() - interval '1 minute') END AS rate) q
WHERE c.goal IS NOT NULL
UNION ALL
-- pages of its report, of all that are known
SELECT 'poll', a.audience, c.campaign_id, CASE WHEN o.next_attempt_at IS NULL THEN 'reading' ELSE 'waiting' END, g.done, g.total,
	q.rate, CASE WHEN q.rate > 0 THEN ceil((g.total - g.done) / q.rate) * interval '1 second' END
FROM mailchimp_sync.poll o
JOIN mailchimp_sync.campaign c USING (campaign_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (audience_id)
CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE g.is_done) AS done, count(*) AS total
	FROM mailchimp_sync.poll_page g WHERE g.campaign_id = o.campaign_id) g
CROSS JOIN LATERAL (SELECT round((g.done / greatest(extract(epoch FROM mailchimp_sync.clock() - o.started_at), 1))::numeric, 1) AS rate) q
WHERE o.figures <> '{}'		-- else it is not known yet whether there are any
UNION ALL
-- members, of all that the list was last said to have; who is in its archive is not among those
SELECT 'pull', a.audience, NULL, CASE WHEN r.next_attempt_at IS NOT NULL THEN 'waiting' WHEN r.archived THEN 'archive' ELSE 'members' END,
	r.rows_read, greatest(r.rows_read, l.member_count), q.rate,
	CASE WHEN q.rate > 0 AND NOT r.archived THEN ceil((greatest(r.rows_read, l.member_count) - r.rows_read) / q.rate) * interval '1 second' END
FROM mailchimp_sync.reading r
JOIN mailchimp_sync.audience a USING (audience_id)
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.list l USING (connection, list_id)
CROSS JOIN LATERAL (SELECT round((r.rows_read / greatest(extract(epoch FROM mailchimp_sync.clock() - r.begun_at), 1))::numeric, 1) AS rate) q
WHERE r.whole;
COMMENT ON VIEW @extschema@.mc_progress IS
	'work under way: how far it is, contacts (pages of a report: work poll; members: work pull) per second lately, and how long it will take at that rate';

-- what mc_run says
CREATE FUNCTION mailchimp_sync.progress_lines() RETURNS SETOF text
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY
	SELECT concat_ws(', ', format('audience "%s": %s of %s contacts are at Mailchimp', a.audience, s.done, s.done + s.pending),
		CASE WHEN s.comparing THEN 'comparing' END,
		CASE WHEN s.refused > 0 THEN format('%s refused', s.refused) END,
		(SELECT string_agg(g.detail, ', ' ORDER BY g.kind) FROM mailchimp_sync.guard_stop g WHERE g.audience_id = a.audience_id))
	FROM mailchimp_sync.audience a
	CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE c.state = 'in_sync') AS done,
			count(*) FILTER (WHERE c.action IN ('subscribe', 'update', 'tag')) AS pending,
			count(*) FILTER (WHERE c.state = 'refused') AS refused,
			EXISTS (SELECT FROM mailchimp_sync.audience_source x
				WHERE x.audience_id = a.audience_id AND x.compare_from IS NOT NULL) AS comparing
		FROM mailchimp_sync.contact c WHERE c.audience_id = a.audience_id) s
	WHERE a.active_since IS NOT NULL
	UNION ALL
	SELECT format('audience "%s": %s of %s members are read', p.audience, p.done, p.total)
	FROM @extschema@.mc_progress p
	WHERE p.work = 'pull'
	UNION ALL
	SELECT format('campaign %s "%s": %s, %s of %s %s', p.campaign_id, c.name, p.phase, p.done, p.total,
			CASE p.work WHEN 'poll' THEN 'pages of its report' ELSE 'recipients' END)
		|| CASE WHEN p.rate > 0 THEN format(', %s per second, %s left', p.rate, p.eta) ELSE '' END
	FROM @extschema@.mc_progress p
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	WHERE p.campaign_id IS NOT NULL
	ORDER BY 1;
END
$$;

/* ---- status ---- */

CREATE VIEW @extschema@.mc_status WITH (security_barrier) AS
SELECT 'worker'::text AS item, w.pid IS NOT NULL AS ok,
	CASE WHEN w.pid IS NULL THEN 'not running' WHEN w.is_worker THEN 'running' ELSE 'mc_run is running' END AS value,
	CASE WHEN w.pid IS NOT NULL THEN format('process %s%s', w.pid, CASE
			WHEN NOT w.is_worker THEN ''
			WHEN NOT w.preloaded THEN '; it lasts until the server stops: mailchimp_sync is not in shared_preload_libraries'
			WHEN NOT w.listed THEN '; it lasts until the server stops: this database is not in mailchimp_sync.databases' END)
		WHEN pg_is_in_recovery() THEN 'this server is a standby; after a promotion it starts'
		WHEN EXISTS (SELECT FROM mailchimp_sync.worker) THEN 'stopped by mc_stop_worker; SELECT mc_start_worker() starts it'
		WHEN w.preloaded AND w.listed THEN 'it is started within a minute; if it does not last, the server''s log tells why'
		ELSE 'SELECT mc_start_worker(), or CALL mc_run() from time to time' END AS detail
FROM mailchimp_sync.engine() w
UNION ALL
SELECT 'sending', current_setting('mailchimp_sync.send')::boolean, current_setting('mailchimp_sync.send'),
	CASE WHEN NOT current_setting('mailchimp_sync.send')::boolean THEN 'nothing leaves: the setting mailchimp_sync.send is off' END
UNION ALL
SELECT format('connection %s', c.connection), c.state = 'ok', c.state, c.detail
FROM @extschema@.mc_connection c
UNION ALL
SELECT format('audience %s', a.audience), a.state IN ('new', 'active'), a.state, a.detail
FROM @extschema@.mc_audience a
UNION ALL
SELECT format('source %s', s.source), s.state = 'ok' AND s.detail IS NULL, s.state, s.detail
FROM @extschema@.mc_source s
UNION ALL
SELECT 'events', q.events = 0 OR w.pid IS NOT NULL, q.events::text,
	CASE WHEN q.events > 0 AND w.pid IS NULL THEN 'nobody is at work' END
FROM (SELECT count(*) AS events FROM mailchimp_sync.event) q, mailchimp_sync.engine() w
UNION ALL
SELECT 'pending', q.oldest IS NULL OR q.oldest > mailchimp_sync.clock() - interval '1 hour', q.pending::text,
	CASE WHEN q.oldest IS NOT NULL THEN format('the oldest since %s', q.oldest) END
FROM (SELECT count(*) AS pending, min(c.changed_at) AS oldest
	FROM mailchimp_sync.contact c
	JOIN mailchimp_sync.audience a USING (audience_id)
	JOIN mailchimp_sync.permitted_connection p USING (connection)
	WHERE c.action IS NOT NULL) q
UNION ALL
-- what rests until somebody mends the data, or for a day, is no alarm, nor that a list of the account could not be fetched, what keeps failing is
SELECT 'failures', q.lasting = 0, q.failures::text,
	CASE WHEN q.failures > 0 THEN format('%s of them tried again by itself; see mc_failure', q.retried) END
FROM (SELECT count(*) AS failures, count(f.next_attempt_at) AS retried,
		count(*) FILTER (WHERE f.work <> 'refresh' AND f.next_attempt_at < f.last_failed_at + interval '1 hour'
			-- a table of the CRM that takes nothing at all
			OR f.work = 'pull' AND f.source IS NOT NULL AND f.contact_key IS NULL) AS lasting
	FROM @extschema@.mc_failure f) q
UNION ALL
SELECT 'erasures', q.oldest IS NULL OR q.oldest > mailchimp_sync.clock() - interval '1 hour', q.waiting::text,
	CASE WHEN q.oldest IS NOT NULL THEN format('the oldest since %s; see mc_erasure', q.oldest) END
FROM (SELECT count(*) AS waiting, min(e.asked_at) AS oldest FROM mailchimp_sync.erasure e WHERE e.done_at IS NULL) q;
COMMENT ON VIEW @extschema@.mc_status IS
	'is everything working, and if not, why; an alarm is WHERE NOT ok';
