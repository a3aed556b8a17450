-- The pages of campaigns in every state, as words: what is drawn is in test/browser, what real figures look like in test/t/041_report_html.pl.
-- (N16, R99, R107, R108)
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us7');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', '2026-03-01Z');
INSERT INTO mailchimp_sync.audience (audience_id, audience, connection, list_id, direction, conflict, on_leave, on_unsubscribe, recipients, double_opt_in, every,
	read_every, created_at)
VALUES (1, 'Job seekers', 'mc_main', 'l1', 'push', 'crm_wins', 'archive', 'opt_out', 'join', false, '1 day', '10 minutes', '2026-03-01Z');
DO $$ BEGIN PERFORM mc_grant('regress_mc_rita', 'reader', 'mc_main'); END $$;
SET timezone = 'UTC';
RESET client_min_messages;

-- what a person reads, line by line
CREATE FUNCTION words(_page text) RETURNS SETOF text LANGUAGE sql AS $$
	SELECT btrim(l) FROM regexp_split_to_table(regexp_replace(regexp_replace(regexp_replace(replace(replace(replace(substring(_page FROM '<body>(.*)</body>'), '&nbsp;', ' '), '&middot;', '-'), '&ndash;', '-'),
		'</(h1|h2|p|tr|dd|caption|summary|g)>|</header>', E'\n', 'g'), '<[^>]*>', ' ', 'g'), ' +', ' ', 'g'), '\s*\n\s*') l WHERE btrim(l) <> ''
$$;
CREATE FUNCTION campaign(_id bigint, _status text, _sent_at timestamptz DEFAULT NULL, _emails_sent int DEFAULT NULL) RETURNS void LANGUAGE sql AS $$
	INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, subject, from_name, from_email, status, marker, created_at, created_by,
		mailchimp_id, web_id, sent_at, emails_sent, scheduled_for, last_error)
	VALUES (_id, 'mc_main', 1, 'l1', 'The name of ' || _id, 'A subject', 'Ann', 'ann@example.org', _status, 'm' || _id, '2026-03-01 08:00Z', 'x',
		CASE WHEN _status NOT IN ('draft', 'preparing') THEN 'c' || _id END, CASE WHEN _status NOT IN ('draft', 'preparing') THEN _id END,
		_sent_at, _emails_sent, CASE WHEN _status = 'scheduled' THEN '2026-03-29 00:30Z'::timestamptz END,
		CASE WHEN _status = 'failed' THEN 'The domain <example.org> is not verified.' END)
$$;
SELECT campaign(i, s) FROM unnest('{draft,preparing,prepared,scheduled,canceled,failed,deleted}'::text[]) WITH ORDINALITY u(s, i);
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, skip_reason, added_at, added_by)
SELECT 2, 1, i::text, 'x', i::text, CASE WHEN i = 1 THEN 'pending' ELSE 'skipped' END, (ARRAY[NULL, 'opted_out', 'opted_out', 'no_email'])[i], '2026-03-01Z', 'x'
FROM generate_series(1, 4) i;

-- before it was sent, or never: also without any recipient
SET ROLE regress_mc_rita;
SELECT words(mc_report_html(1));
SELECT words(mc_report_html(2));
SELECT words(mc_report_html(3));
SELECT words(mc_report_html(5));
SELECT words(mc_report_html(6));
SELECT words(mc_report_html(7));
-- times are those of the session's time zone, which the page names; the hour that is put forward
SET timezone = 'Europe/Amsterdam';
SELECT words(mc_report_html(4));
SET timezone = 'Asia/Kolkata';
SELECT words(mc_report_html(4)) OFFSET 2 LIMIT 2;
RESET timezone;
SET timezone = 'UTC';
-- nothing but drafts
SELECT words(mc_reports_html());
RESET ROLE;

-- sent: nobody asked for figures yet; to nobody; nothing was delivered; delivered, and nobody opened it; being sent
SELECT campaign(11, 'sent', '2026-03-02 08:00Z', 12), campaign(12, 'sent', '2026-03-03 08:00Z', 0), campaign(13, 'sent', '2026-03-04 08:00Z', 2),
	campaign(14, 'sent', '2026-03-05 08:00Z', 3), campaign(15, 'sending', '2026-03-06 08:00Z');
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces, syntax_errors,
	unsubscribed, complaints, polled_at)
VALUES (12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-03-07Z'), (13, 2, 0, 0, 0, 0, 1, 1, 0, 0, 0, '2026-03-07Z'), (14, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, '2026-03-07Z');
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, bounce_type, recorded_at)
VALUES (13, 'a', 'bounced', '2026-03-04 08:01Z', 'hard', 1, 'a@Mail.example', 'hard', '2026-03-07Z'),
	(13, 'b', 'bounced', '2026-03-04 08:02Z', 'soft', 1, NULL, 'soft', '2026-03-07Z');
SET ROLE regress_mc_rita;
SELECT words(mc_report_html(11));
SELECT words(mc_report_html(12));
SELECT words(mc_report_html(13));
SELECT words(mc_report_html(14));
SELECT words(mc_report_html(15));
RESET ROLE;

-- everything: deleted after it was sent, of an audience that is gone, with erased persons; the comparison is with 12 to 14, of which 12 and 13 delivered nothing
SELECT campaign(16, 'deleted', '2026-03-28 22:10Z', 100);
UPDATE mailchimp_sync.campaign SET audience_id = NULL, from_name = NULL WHERE campaign_id = 16;
INSERT INTO mailchimp_sync.report (campaign_id, emails_sent, opens_total, unique_opens, clicks_total, unique_clickers, hard_bounces, soft_bounces, syntax_errors,
	unsubscribed, complaints, polled_at, human_opens, human_openers)
VALUES (16, 100, 60, 40, 9, 1, 5, 4, 1, 2, 1, '2026-03-31Z', 45, 30);
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, recorded_at)
SELECT 16, i::text, 'opened', timestamptz '2026-03-28 22:10Z' + i * i * interval '29 seconds', '', 1, 'x', timestamptz '2026-03-31Z' FROM generate_series(1, 59) i
UNION ALL
SELECT 16, i::text, 'clicked', timestamptz '2026-03-28 22:15Z' + i * interval '17 minutes', '', 1, 'x', '2026-03-31Z' FROM generate_series(1, 9) i
UNION ALL
SELECT 16, 'late', 'opened', '2026-04-30Z', '', 1, 'x', '2026-03-31Z';
INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, source_id, contact_key, reason, recorded_at)
VALUES (16, 'u1', 'unsubscribed', '2026-03-29 00:59:59Z', '', 1, 'left@example.org', NULL, NULL, 'too & often', '2026-03-31Z'),
	(16, 'u2', 'unsubscribed', '2026-03-29 01:00:00Z', '', 1, NULL, NULL, NULL, NULL, '2026-03-31Z');
INSERT INTO mailchimp_sync.report_link (campaign_id, link_id, url, clicks, unique_clicks, last_click) VALUES (16, 'a', 'https://www.example.org/', 6, 1, NULL), (16, 'b', 'mailto:ann@example.org', 3, 1, NULL), (16, 'c', 'https://nobody.example/', 0, 0, NULL);
SET ROLE regress_mc_rita;
SET timezone = 'Europe/Amsterdam';
SELECT words(mc_report_html(16));
SET timezone = 'UTC';
SELECT words(mc_reports_html());
RESET ROLE;

-- a note where figures differ (D17)
UPDATE mailchimp_sync.report SET opens_total = 61 WHERE campaign_id = 16;
SELECT words(mc_report_html(16)) OFFSET 8 LIMIT 1;

-- machines' opens and clicks in a column of their own
UPDATE mailchimp_sync.activity SET machine = true WHERE campaign_id = 16 AND (type, email_hash) IN (('opened', '1'), ('opened', '2'), ('clicked', '9'), ('opened', 'late'));
UPDATE mailchimp_sync.report SET machine_clicks = 1 WHERE campaign_id = 16;
SELECT w FROM words(mc_report_html(16)) w WHERE w ~ 'machine|people|by ';
-- how long the pieces are, and that they have everything: a minute, a day, a month, a year, thirty years
CREATE FUNCTION pieces(_span interval, _events int) RETURNS TABLE (width interval, first_at timestamptz, pieces bigint, later bigint, opens numeric) LANGUAGE sql AS $$
	DELETE FROM mailchimp_sync.activity WHERE campaign_id = 11;
	INSERT INTO mailchimp_sync.activity (campaign_id, email_hash, type, occurred_at, sub_key, ordinal, email, recorded_at)
	SELECT 11, i::text, 'opened', timestamptz '2026-03-02 08:50Z' + _span * i / _events, '', 1, 'x', '2026-03-31Z' FROM generate_series(1, _events) i;
	SELECT min(t.width), min(t.begins_at), count(*) FILTER (WHERE NOT t.is_later), sum(t.opens) FILTER (WHERE t.is_later)::bigint, sum(t.opens)
	FROM mailchimp_sync.report_timeline_rows(11) t
$$;
SELECT p.* FROM unnest('{1 minute,11 hours,1 day,2 days,7 days,30 days,365 days,10950 days}'::interval[]) s, pieces(s, 200) p;
SELECT * FROM pieces('40 years', 1);
-- the end of a scale can be halved
SELECT n, mailchimp_sync.chart_top(n) FROM unnest('{NULL,0,1,2,3,10,11,13,17,99,101,1000000001}'::numeric[]) n;
-- what can be followed is a whole address of the web, and nothing else
SELECT u, mailchimp_sync.html_link(u) FROM unnest(ARRAY['https://a.example/?b=1&c="', 'https://a.example/?b=1&c=''', 'javascript:alert(1)', E'https://a\nb', ' https://a.example',
	'HTTP://A.example/b/', 'data:text/html,x', '//a.example', 'https://', NULL]) u;
-- words are shortened, never within a character's number, and control characters go
SELECT mailchimp_sync.html_escape(w, l) FROM (VALUES ('abcdef', 6), ('abcdef', 5), ('abcdef', 0), ('"""""', 4), (E'a\x01\x7f\tb', 9), ('', 5), (NULL, 5), ('<&>', NULL)) v(w, l);
SELECT mc_report_html(99);			-- fails
SELECT mc_report_html(NULL);		-- fails

DROP FUNCTION words, campaign, pieces;
SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_rita;
