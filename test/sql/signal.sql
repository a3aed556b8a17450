-- Signals (R39, R45, R95, R96, N11, D11, D12): each kind once, switches, rights, order, retention. Facts are stored here
-- as the engine stores them; that it tells who listens, and nobody else does, is in test/t/059_signals.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_rita;
CREATE ROLE regress_mc_mia;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.connection (connection, state) VALUES ('mc_main', 'ok'), ('mc_other', 'ok');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now());
DO $$ BEGIN
	PERFORM mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_rita', 'reader'), mc_grant('regress_mc_mia', 'reader', 'mc_other');
END $$;
CREATE TABLE candidate (id int PRIMARY KEY, email text);
INSERT INTO candidate SELECT i, 'p' || i || '@example.org' FROM generate_series(1, 9) i;
ALTER TABLE candidate OWNER TO regress_mc_ada;
SET ROLE regress_mc_ada;
DO $$ BEGIN
	PERFORM mc_add_source('candidate', 'candidate', 'id', 'email');
	PERFORM mc_create_audience('customers', 'mc_main', 'Customers', 'candidate');
	PERFORM mc_sync_audience('customers');
END $$;
RESET ROLE;
SET timezone = 'UTC';
RESET client_min_messages;

INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, marker, created_at, created_by,
	mailchimp_id, web_id, sent_at, emails_sent)
SELECT i, 'mc_main', audience_id, 'l1', 'Spring', 'sent', 'm' || i, '2020-03-01Z', 'x', 'c' || i, 77, '2020-03-01Z', 7
FROM mailchimp_sync.audience, generate_series(1, 2) i;
INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, added_at, added_by)
SELECT c, source_id, i::text, 'p' || i || '@example.org', md5('p' || i || '@example.org'), 'sent', now(), 'x'
FROM mailchimp_sync.source, generate_series(1, 2) c, generate_series(1, 8) i;
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, member_hash, state, changed_at)
SELECT audience_id, source_id, i::text, 'p' || i || '@example.org', md5('p' || i || '@example.org'), md5('p' || i || '@example.org'),
	'in_sync', now()
FROM mailchimp_sync.audience, mailchimp_sync.source, generate_series(1, 8) i;
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours)
SELECT audience_id, md5('p' || i || '@example.org'), 'p' || i || '@example.org', 'subscribed', true
FROM mailchimp_sync.audience, generate_series(1, 8) i;

CREATE FUNCTION report(_complained boolean, _who text, _at text, _reason text, _campaign bigint DEFAULT 1) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.unsubscribes_seen(_campaign, ARRAY[md5(_who || '@example.org')], ARRAY[_who || '@example.org'],
		ARRAY['2020-03-01T' || _at || '+00:00'], ARRAY[_reason], _complained)
$$;
CREATE FUNCTION list(_who text, _status text, _at text, _reason text DEFAULT '') RETURNS void LANGUAGE sql AS $$
	INSERT INTO mailchimp_sync.reading (audience_id, whole, since, begun_at, page_since)
	SELECT audience_id, false, '2020-03-01Z', now(), '2020-03-01Z' FROM mailchimp_sync.audience ON CONFLICT DO NOTHING;
	SELECT mailchimp_sync.read_seen(audience_id, false, now(), ARRAY[md5(_who || '@example.org')], ARRAY[_who || '@example.org'], ARRAY[_status],
		ARRAY['x'], ARRAY[_reason], ARRAY['2020-03-01T' || _at || '+00:00'], ARRAY[NULL]) FROM mailchimp_sync.audience;
$$;
-- the signals since the last look
CREATE TABLE looked (after bigint);
INSERT INTO looked VALUES (0);
CREATE FUNCTION news() RETURNS TABLE (kind text, connection text, audience text, campaign_id bigint, contact_key text, email text, detail jsonb)
LANGUAGE sql AS $$
	WITH news AS MATERIALIZED (SELECT * FROM mc_signals('test', (SELECT after FROM looked))),
	seen AS (UPDATE looked SET after = coalesce((SELECT max(signal_id) FROM news), after))
	SELECT n.kind, n.connection, n.audience, n.campaign_id, n.contact_key, n.email, n.detail FROM news n ORDER BY n.signal_id
$$;

-- ---- unsubscribed, by a campaign's mail (R45, R95) ----
SELECT report(false, 'p1', '10:00:00', 'too much'), report(false, 'p1', '10:00:00', 'too much');
SELECT * FROM news();
-- a complaint and the unsubscription that follows it are one, on whichever page they are found first
SELECT report(true, 'p2', '10:00:00', NULL), report(false, 'p2', '10:00:01', 'None given');
SELECT * FROM news();
-- somebody without a contact, or a recipient at all
SELECT report(false, 'stranger', '10:00:00', ''), report(true, 'stranger', '10:00:01', NULL);
SELECT * FROM news();

-- ---- unsubscribed, as the list shows it (R95, D11): one, whichever says it first, with the better facts ----
SELECT list('p3', 'unsubscribed', '10:05:00', 'None given');
SELECT * FROM news();
SELECT unsubscribed_at, unsubscribe_reason FROM mc_member WHERE contact_key = '3';
SELECT report(false, 'p3', '10:00:00', 'never asked for it');
SELECT * FROM news();
SELECT unsubscribed_at, unsubscribe_reason FROM mc_member WHERE contact_key = '3';
-- the other way round
SELECT list('p1', 'unsubscribed', '10:05:00', 'None given');
SELECT * FROM news();
SELECT unsubscribed_at, unsubscribe_reason FROM mc_member WHERE contact_key = '1';
-- who was let in again meanwhile is not put out by the line of the report that comes later; by a later leaving he is
SELECT list('p4', 'unsubscribed', '10:05:00');
SELECT mc_opt_in('candidate', 4);
SELECT report(false, 'p4', '10:00:00', 'late');
SELECT mc_is_opted_out('candidate', 4);
SELECT list('p4', 'subscribed', '11:00:00'), list('p4', 'unsubscribed', '12:00:00', 'again');
SELECT mc_is_opted_out('candidate', 4);
SELECT * FROM news();
-- one who had left and come back before the report told of it: known, too
SELECT list('p5', 'unsubscribed', '10:05:00'), list('p5', 'subscribed', '11:00:00');
SELECT report(false, 'p5', '10:00:00', 'late');
SELECT * FROM news();
SELECT status, unsubscribed_at, unsubscribe_reason FROM mc_member WHERE contact_key = '5';
-- D12: he is blocked all the same
SELECT mc_is_opted_out('candidate', 5);

-- D11: whatever the policy is; reason and time are with the member
UPDATE mailchimp_sync.audience SET on_unsubscribe = 'inactive';
SELECT list('p6', 'unsubscribed', '10:05:00', 'moved'), report(false, 'p6', '10:00:00', 'None given');
UPDATE mailchimp_sync.audience SET on_unsubscribe = 'ignore';
SELECT report(false, 'p7', '10:00:00', 'done');
SELECT * FROM news();
SELECT contact_key, unsubscribed_at, unsubscribe_reason, mc_is_opted_out('candidate', contact_key) FROM mc_member
WHERE contact_key IN ('6', '7') ORDER BY 1;
UPDATE mailchimp_sync.audience SET on_unsubscribe = 'opt_out';
-- who has opted out here does not leave there by himself, nor is somebody news of whom we knew nothing before
SELECT mc_opt_out('candidate', 8, 'by telephone');
SELECT list('p8', 'unsubscribed', '10:05:00', 'N/A (Unsubscribed by an admin)'), report(false, 'p8', '10:06:00', 'too');
SELECT list('p9', 'unsubscribed', '10:05:00');
SELECT * FROM news();
SELECT email, reason FROM mc_group_member ORDER BY email, reason;

-- an answer that says no reason, as that to a push: a later one does
INSERT INTO mailchimp_sync.inflight (kind, connection, method, path, body, writes, audience_id, source_ids, contact_keys, email_hashes,
	versions, hashes, sent_at)
SELECT 'push', 'mc_main', 'POST', '/lists/l1', '{"members": [{"email_address": "p5@example.org", "tags": []}]}', true, audience_id,
	ARRAY[source_id], '{5}', ARRAY[md5('p5@example.org')], '{1}', '{x}', now() FROM mailchimp_sync.audience, mailchimp_sync.source;
SELECT mc_opt_in('candidate', 5);
SELECT mailchimp_sync.push_accepted(inflight_id, email_hashes, '{p5@example.org}', '{unsubscribed}', '{x}', '{"{}"}', '{"[]"}',
	'{2020-03-01T13:00:00+00:00}') FROM mailchimp_sync.inflight;
SELECT * FROM news();
SELECT reason FROM mc_group_member WHERE contact_key = '5';
DELETE FROM mailchimp_sync.inflight;
UPDATE mailchimp_sync.member SET read_at = now() - interval '1 hour';
SELECT list('p5', 'unsubscribed', '13:00:00', 'enough');
SELECT * FROM news();
SELECT reason FROM mc_group_member WHERE contact_key = '5';
SELECT unsubscribe_reason FROM mc_member WHERE contact_key = '5';

-- ---- campaigns (R95) ----
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, audience_id, list_id, name, status, goal, step, marker, created_at, created_by)
SELECT i, 'mc_main', audience_id, 'l1', 'Campaign ' || i, 'preparing', CASE i WHEN 11 THEN 'prepare' WHEN 12 THEN 'unschedule' ELSE 'send' END,
	'arrive', 'n' || i, '2020-03-01Z', 'x' FROM mailchimp_sync.audience, generate_series(11, 14) i;
SELECT mailchimp_sync.step_arrive(c) FROM mailchimp_sync.campaign c WHERE campaign_id IN (11, 12) ORDER BY campaign_id;
SELECT mailchimp_sync.campaign_sent(c, ROW('sent', '2020-03-01 12:00Z', NULL, 5, 5, NULL, NULL, NULL, NULL, NULL, NULL)::mailchimp_sync.shown)
FROM mailchimp_sync.campaign c WHERE campaign_id = 13;
SELECT mailchimp_sync.campaign_fail(14, 'the template is gone', 'choose another');
-- what was sent does not fail any more
SELECT mailchimp_sync.campaign_fail(1, 'too late', 'nobody hears of it');
SELECT * FROM news();

-- ---- what keeps failing: once a spell (R95) ----
SELECT mailchimp_sync.audience_failed(audience_id, 'no such list') FROM mailchimp_sync.audience, generate_series(1, 7);
SELECT * FROM news();
SELECT mailchimp_sync.audience_failed(audience_id, 'no such list') FROM mailchimp_sync.audience, generate_series(1, 20);
SELECT * FROM news();
SELECT mailchimp_sync.audience_works(audience_id) FROM mailchimp_sync.audience;
SELECT mailchimp_sync.audience_failed(audience_id, 'again') FROM mailchimp_sync.audience, generate_series(1, 8);
SELECT * FROM news();
SELECT mailchimp_sync.audience_works(audience_id) FROM mailchimp_sync.audience;
-- of reading alone
SELECT mailchimp_sync.read_rests(audience_id, false, 'Bad Request', 'no', NULL) FROM mailchimp_sync.audience, generate_series(1, 20);
SELECT * FROM news();
-- of a connection: its engine tries again when the pause is over
CREATE FUNCTION fails(_times integer, _status integer, _detail text) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.connection_replied('mc_main', 'answered', _status, _detail, NULL), ends FROM generate_series(1, _times),
		LATERAL (SELECT set_config('mailchimp_sync.clock_offset', (generate_series * interval '1 hour')::text, true)) AS o(ends)
$$;
SELECT fails(7, 500, 'out of order');
SELECT * FROM news();
SELECT fails(20, 500, 'out of order');
SELECT * FROM news();
SELECT fails(1, 200, NULL);
-- of a source: at once if it is stopped until somebody mends it
CREATE FUNCTION source_fails(_times integer, _state text) RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.source_trouble(s.source_id, mailchimp_sync.source_version(s), _state, 'what it says')
	FROM mailchimp_sync.source s, generate_series(1, _times)
$$;
SELECT source_fails(7, '55P03');
SELECT * FROM news();
SELECT source_fails(13, '55P03');
SELECT * FROM news();
UPDATE mailchimp_sync.source SET state = 'ok', failures = 0, detail = NULL;
SELECT source_fails(1, '42703');
SELECT * FROM news();
UPDATE mailchimp_sync.source SET state = 'ok', failures = 0, detail = NULL;

-- ---- the key: once, until there is another; what somebody finds by asking is told with the hourly clearing ----
SELECT fails(1, 401, 'API Key Invalid'), fails(2, 401, 'and more words');
SELECT * FROM news();
SELECT mailchimp_sync.tidy() IS NOT NULL AS tidied;
SELECT * FROM news();
SELECT mailchimp_sync.connection_replied('mc_other', 'answered', 401, 'API Key Invalid', NULL, false);
SELECT * FROM news();
SELECT mailchimp_sync.tidy() IS NOT NULL AS tidied;
SELECT * FROM news();
SELECT mailchimp_sync.tidy() IS NOT NULL AS tidied;
SELECT * FROM news();
UPDATE mailchimp_sync.connection SET state = 'ok', checked_at = NULL;

-- ---- the guard: once, though it counts again and again ----
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, member_hash, state, action, changed_at)
SELECT audience_id, source_id, 'g' || i, 'g' || i || '@example.org', md5('g' || i), md5('g' || i), 'outside', 'leave', now()
FROM mailchimp_sync.audience, mailchimp_sync.source, generate_series(1, 60) i;
UPDATE mailchimp_sync.guard SET waiting = 60, check_at = now(), filling = false;
SELECT mailchimp_sync.guard();
UPDATE mailchimp_sync.guard SET check_at = now();
SELECT mailchimp_sync.guard();
SELECT * FROM news();

-- ---- switches (R96) ----
SET ROLE regress_mc_rita;
SELECT mc_set_signal('campaign_sent', false, 'billing');
SELECT kind, count(*) FROM mc_signals('billing') GROUP BY 1 ORDER BY 1;
SELECT count(*) FROM mc_signals('crm') WHERE kind = 'campaign_sent';
SELECT mc_set_signal('campaign_sent', false);					-- fails: for admins
SELECT mc_set_signal('campaign_sent', false, 'regress_mc_ada');	-- fails: for ada
SELECT mc_set_signal('campaign_sent', false, 'regress_mc_rita');
SELECT mc_set_signal('campaign_sent', false, ' ');				-- fails
SELECT mc_set_signal('campain_sent', false, 'billing');			-- fails
SELECT mc_set_signal(NULL, true, 'billing');					-- fails
RESET ROLE;
-- off for all, but on for one: it is written, and the others do not get it
SET ROLE regress_mc_ada;
SELECT mc_set_signal('campaign_failed', false), mc_set_signal('campaign_failed', true, 'regress_mc_rita');
RESET ROLE;
SELECT mailchimp_sync.signal_campaign('campaign_failed', 14);
SELECT (SELECT count(*) FROM mc_signals('crm') WHERE kind = 'campaign_failed') AS crm,
	(SELECT count(*) FROM mc_signals('regress_mc_rita') WHERE kind = 'campaign_failed') AS rita,
	(SELECT count(*) FROM mc_signals(NULL) WHERE kind = 'campaign_failed') AS nobody, (SELECT count(*) FROM mc_signal WHERE kind = 'campaign_failed') AS written;
-- off for everybody: not written at all, and on again from then on
SELECT mc_set_signal('campaign_failed', NULL, 'regress_mc_rita');
SELECT mailchimp_sync.signal_campaign('campaign_failed', 14);
SELECT count(*) FROM mc_signal WHERE kind = 'campaign_failed';
SELECT mc_set_signal('campaign_failed', NULL);
SELECT mailchimp_sync.signal_campaign('campaign_failed', 14);
SELECT count(*) FROM mc_signal WHERE kind = 'campaign_failed';
SELECT * FROM mailchimp_sync.signal_switch ORDER BY 1, 2;

-- ---- who sees what ----
SELECT kind, connection FROM mc_signal EXCEPT SELECT kind, connection FROM mc_signals('all');
SET ROLE regress_mc_mia;
SELECT kind, connection FROM mc_signal;
SELECT kind, connection FROM mc_signals('mia');
SELECT mc_signals('mia', 1000);
RESET ROLE;
SELECT mc_revoke('regress_mc_mia');
SET ROLE regress_mc_mia;
SELECT count(*) FROM mc_signal;
SELECT mc_signals('mia');
SELECT mc_set_signal('unsubscribed', false, 'mia');
RESET ROLE;

-- ---- N11: in their order, and none twice: each page begins after the last number ----
SELECT count(*) = count(DISTINCT signal_id) AS all_differ, bool_and(ordered) FROM (
	SELECT signal_id, signal_id > lag(signal_id, 1, 0) OVER () AS ordered FROM mc_signals('all')) s;
SELECT (SELECT count(*) FROM mc_signals('all', after)) AS behind, after > 0 AS ahead FROM (
	SELECT signal_id AS after FROM mc_signals('all') ORDER BY 1 DESC OFFSET 3 LIMIT 1) p;
-- what is rolled back is told to nobody; where commits need not reach the disk, those that tell somebody a number do
BEGIN;
SET LOCAL synchronous_commit = off;
SELECT mailchimp_sync.signal_campaign('campaign_failed', 14);
SHOW synchronous_commit;
ROLLBACK;
SELECT count(*) FROM mc_signal WHERE kind = 'campaign_failed';

-- ---- a person who is erased is erased from them ----
SELECT kind, contact_key FROM mc_signal WHERE email = 'p3@example.org';
INSERT INTO mailchimp_sync.erasure (email_hash, source_ids, contact_keys, asked_at, asked_by, clean_at)
SELECT md5('p3@example.org'), ARRAY[source_id], '{3}', now(), 'x', now() FROM mailchimp_sync.source;
SELECT mailchimp_sync.erase_signals(e) FROM mailchimp_sync.erasure e;
SELECT count(*) FROM mc_signal WHERE email = 'p3@example.org' OR contact_key = '3';
SELECT count(*) > 0 AS others FROM mc_signal WHERE email IS NOT NULL;
-- and the reason is not read anew that they gave under another address, which stays blocked
UPDATE mailchimp_sync.opt_out SET email = 'q3@example.org', email_hash = md5('q3@example.org'), reason = 'my heart' WHERE contact_key = '3';
SELECT mailchimp_sync.erase_opt_outs(e) FROM mailchimp_sync.erasure e;
SELECT list('q3', 'unsubscribed', '20:00', 'my heart');
SELECT email, email_hash = md5('q3@example.org') AS is_blocked, origin, reason FROM mailchimp_sync.opt_out WHERE contact_key = '3';

-- ---- kept for a while ----
SELECT current_setting('mailchimp_sync.signal_retention');
SET mailchimp_sync.clock_offset = '29 days';
SELECT mailchimp_sync.tidy_signals();
SET mailchimp_sync.clock_offset = '31 days';
SELECT mailchimp_sync.tidy_signals() > 0 AS cleared;
SELECT count(*) FROM mc_signal;
RESET mailchimp_sync.clock_offset;

DROP TABLE looked;
DROP FUNCTION source_fails, fails, news, list, report;
DROP EXTENSION mailchimp_sync CASCADE;
DROP TABLE candidate;
DROP ROLE regress_mc_ada, regress_mc_rita, regress_mc_mia;
