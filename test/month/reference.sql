-- What must be known of campaigns at an instant, by plain SQL over the events that the month test (t/067_month.pl) generated,
-- and what differs from that, and from the truth of the simulator.

CREATE SCHEMA month;

-- who got the mail, under which address, as whom
CREATE TABLE month.person (campaign_id bigint, email text, contact_key text, PRIMARY KEY (campaign_id, email));

CREATE TABLE month.event (n bigint PRIMARY KEY, campaign_id bigint, email text, action text, at timestamptz, url text, reason text, machine boolean);

-- who was erased, by the address that a campaign went to, and up to when its events were known before that
CREATE TABLE month.erased (campaign_id bigint, email text, known_until timestamptz, PRIMARY KEY (campaign_id, email));

-- the simulator's truth of the moment
CREATE TABLE month.truth (campaign_id bigint PRIMARY KEY, document jsonb);

-- lines of one of its lists, without those who were erased
CREATE FUNCTION month.lines(_campaign bigint, _list text) RETURNS TABLE (email text, status text, opens bigint, clicks bigint, type text,
	at timestamptz, reason text) LANGUAGE sql STABLE AS $$
	SELECT l.* FROM month.truth t
	CROSS JOIN jsonb_to_recordset(t.document -> _list) AS l(email text, status text, opens bigint, clicks bigint, type text,
		at timestamptz, reason text)
	WHERE t.campaign_id = _campaign
		AND NOT EXISTS (SELECT FROM month.erased x WHERE x.campaign_id = _campaign AND x.email = l.email)
$$;

-- What Mailchimp shows at an instant and we are to know: of several bounces the first alone, of who was erased what was
-- known before, without the person.
CREATE FUNCTION month.known(_campaign bigint, _at timestamptz) RETURNS TABLE (person text, email text, contact_key text, type text,
	bounce_type text, url text, reason text, at timestamptz, machine boolean) LANGUAGE sql STABLE AS $$
	SELECT e.email, p.email, p.contact_key,
		CASE e.action WHEN 'open' THEN 'opened' WHEN 'click' THEN 'clicked' WHEN 'hard' THEN 'bounced' WHEN 'soft' THEN 'bounced'
			ELSE 'unsubscribed' END,
		CASE WHEN e.action IN ('hard', 'soft') THEN e.action END, e.url,
		CASE e.action WHEN 'abuse' THEN 'abuse complaint' ELSE CASE WHEN x.email IS NULL THEN e.reason END END, e.at, e.machine
	FROM month.event e
	LEFT JOIN month.erased x USING (campaign_id, email)
	LEFT JOIN month.person p ON p.campaign_id = e.campaign_id AND p.email = e.email AND x.email IS NULL
	WHERE e.campaign_id = _campaign AND e.at <= least(_at, x.known_until)
		AND NOT (e.action IN ('hard', 'soft') AND EXISTS (SELECT FROM month.event f WHERE f.campaign_id = e.campaign_id
			AND f.email = e.email AND f.action IN ('hard', 'soft') AND (f.at, f.n) < (e.at, e.n)))
$$;

-- R44, D4: sent < bounced < opened < clicked < unsubscribed
CREATE FUNCTION month.statuses(_campaign bigint, _at timestamptz) RETURNS TABLE (contact_key text, email text, status text)
LANGUAGE sql STABLE AS $$
	SELECT CASE WHEN x.email IS NULL THEN p.contact_key END, CASE WHEN x.email IS NULL THEN p.email END,
		CASE WHEN bool_or(k.type = 'unsubscribed') THEN 'unsubscribed' WHEN bool_or(k.type = 'clicked') THEN 'clicked'
			WHEN bool_or(k.type = 'opened') THEN 'opened' WHEN bool_or(k.type = 'bounced') THEN 'bounced' ELSE 'sent' END
	FROM month.person p
	LEFT JOIN month.erased x USING (campaign_id, email)
	LEFT JOIN month.known(_campaign, _at) k ON k.person = p.email
	WHERE p.campaign_id = _campaign
	GROUP BY p.email, p.contact_key, x.email
$$;

-- Two queries that are to give the same, with $1 the campaign and $2 the instant.
CREATE FUNCTION month.differ(_what text, _campaign bigint, _at timestamptz, _ours text, _theirs text) RETURNS SETOF text
LANGUAGE plpgsql STABLE AS $$
BEGIN
	RETURN QUERY EXECUTE format($q$SELECT %1$L || ': too much ' || r::text FROM (%2$s EXCEPT ALL (%3$s)) r
		UNION ALL SELECT %1$L || ': missing ' || r::text FROM (%3$s EXCEPT ALL (%2$s)) r$q$, _what, _ours, _theirs) USING _campaign, _at;
END
$$;

-- What is known of a campaign, ours and theirs: first by plain SQL, then by the simulator's truth.
CREATE TABLE month.look (what text PRIMARY KEY, ours text, theirs text);
INSERT INTO month.look VALUES
('statuses', $$SELECT CASE WHEN email IS NOT NULL THEN contact_key END, email, status
	FROM mc_campaign_recipient WHERE campaign_id = $1 AND status <> 'skipped'$$,
	$$SELECT * FROM month.statuses($1, $2)$$),
('mc_activity', $$SELECT contact_key, email, type, bounce_type, url, reason, occurred_at, machine FROM mc_activity WHERE campaign_id = $1$$,
	$$SELECT contact_key, email, type, bounce_type, url, reason, at, machine FROM month.known($1, $2)$$),
('mc_report_openers', $$SELECT contact_key, email, opens, first_at, last_at FROM mc_report_openers($1)$$,
	$$SELECT contact_key, email, count(*), min(at), max(at) FROM month.known($1, $2) WHERE type = 'opened' GROUP BY person, 1, 2$$),
('mc_report_clickers', $$SELECT contact_key, email, clicks, first_at, last_at FROM mc_report_clickers($1)$$,
	$$SELECT contact_key, email, count(*), min(at), max(at) FROM month.known($1, $2) WHERE type = 'clicked' GROUP BY person, 1, 2$$),
('mc_report_bounces', $$SELECT contact_key, email, bounce_type, occurred_at FROM mc_report_bounces($1)$$,
	$$SELECT contact_key, email, bounce_type, at FROM month.known($1, $2) WHERE type = 'bounced'$$),
('recorded', $$SELECT recorded_opened, recorded_clicked FROM mc_report WHERE campaign_id = $1$$,
	$$SELECT count(*) FILTER (WHERE type = 'opened'), count(*) FILTER (WHERE type = 'clicked') FROM month.known($1, $2)$$),

('mc_report', $$SELECT jsonb_build_object('emails_sent', emails_sent, 'hard', hard_bounces, 'soft', soft_bounces, 'left', unsubscribed,
		'complained', complaints, 'opened', total_opened, 'openers', unique_opened, 'clicked', total_clicked, 'clickers', unique_clicked,
		'by machines', machine_opened, 'clicked by machines', machine_clicked, 'by persons', human_opened)
	FROM mc_report WHERE campaign_id = $1$$,
	$$SELECT jsonb_build_object('emails_sent', t -> 'emails_sent', 'hard', t -> 'hard_bounces', 'soft', t -> 'soft_bounces', 'left', t -> 'unsubscribed',
		'complained', t -> 'complaints', 'opened', t #> '{opens,total}', 'openers', t #> '{opens,unique}', 'clicked', t #> '{clicks,total}',
		'clickers', t #> '{clicks,unique}', 'by machines', (t #>> '{opens,total}')::bigint - (t #>> '{opens,human_total}')::bigint,
		'clicked by machines', (t #>> '{clicks,total}')::bigint - (t #>> '{clicks,human_total}')::bigint,
		'by persons', t #> '{opens,human_unique}')
	FROM month.truth m, jsonb(m.document) t WHERE m.campaign_id = $1$$),
('rates', $$SELECT open_rate, click_rate, human_open_rate FROM mc_report WHERE campaign_id = $1$$,
	$$SELECT round(100.0 * (t #>> '{opens,unique}')::bigint / (t ->> 'delivered')::bigint, 2),
		round(100.0 * (t #>> '{clicks,unique}')::bigint / (t ->> 'delivered')::bigint, 2),
		round(100.0 * (t #>> '{opens,human_unique}')::bigint / (t ->> 'delivered')::bigint, 2)
	FROM month.truth m, jsonb(m.document) t WHERE m.campaign_id = $1$$),
('mc_report_links', $$SELECT url, clicks, unique_clicks FROM mc_report_links($1) WHERE clicks > 0$$,
	$$SELECT l.* FROM month.truth t, jsonb_to_recordset(t.document -> 'links') AS l(url text, total bigint, "unique" bigint)
	WHERE t.campaign_id = $1$$),
('one status each', $$SELECT email, status FROM mc_campaign_recipient WHERE campaign_id = $1 AND status <> 'skipped' AND email IS NOT NULL$$,
	$$SELECT email, status FROM month.lines($1, 'persons')$$),
('who opened', $$SELECT email, opens FROM mc_report_openers($1) WHERE email IS NOT NULL$$,
	$$SELECT email, opens FROM month.lines($1, 'persons') WHERE opens > 0$$),
('who clicked', $$SELECT email, clicks FROM mc_report_clickers($1) WHERE email IS NOT NULL$$,
	$$SELECT email, clicks FROM month.lines($1, 'persons') WHERE clicks > 0$$),
('whose mail bounced', $$SELECT email, bounce_type, occurred_at FROM mc_report_bounces($1) WHERE email IS NOT NULL$$,
	$$SELECT email, type, at FROM month.lines($1, 'bounces')$$),
('who left', $$SELECT email, reason, occurred_at FROM mc_activity WHERE campaign_id = $1 AND type = 'unsubscribed' AND email IS NOT NULL$$,
	$$SELECT email, reason, at FROM month.lines($1, 'unsubscribes')
	UNION ALL SELECT email, 'abuse complaint', at FROM month.lines($1, 'complaints_by')$$);

CREATE FUNCTION month.compare(_campaign bigint, _at timestamptz, _truth jsonb) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
	INSERT INTO month.truth VALUES (_campaign, _truth) ON CONFLICT (campaign_id) DO UPDATE SET document = _truth;
	RETURN QUERY SELECT month.differ(l.what, _campaign, _at, l.ours, l.theirs) FROM month.look l;
END
$$;

-- R45: whom campaigns made leave, as far as each of them (id: instant) is known, by the contact that got the mail
CREATE FUNCTION month.compare_group(_campaigns jsonb) RETURNS SETOF text LANGUAGE sql STABLE AS $$
	SELECT month.differ('mc_group_member', NULL, NULL, $q$SELECT DISTINCT contact_key FROM mc_group_member WHERE origin = 'mailchimp'$q$,
		format($q$SELECT DISTINCT k.contact_key FROM jsonb_each_text(%L) c
			CROSS JOIN LATERAL month.known(c.key::bigint, c.value::timestamptz) k
			WHERE k.type = 'unsubscribed' AND k.contact_key IS NOT NULL$q$, _campaigns))
$$;
