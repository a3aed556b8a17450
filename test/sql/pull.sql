-- What pages of members do to what we know (R84, R95, D10-D12, D15): who is stored, what is left out, who moves, who is gone. The requests
-- themselves are in test/t/062_pull.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
INSERT INTO mailchimp_sync.connection (connection, state) VALUES ('mc_main', 'ok');
INSERT INTO mailchimp_sync.list (connection, list_id, name, fetched_at) VALUES ('mc_main', 'l1', 'Customers', now()), ('mc_main', 'l2', 'Donors', now());
CREATE TABLE person (id int PRIMARY KEY, email text);
DO $$ BEGIN
	PERFORM mc_add_source('person', 'person', 'id', 'email');
	PERFORM mc_create_audience('both', 'mc_main', 'Customers', 'person', direction => 'both');
	PERFORM mc_create_audience('push', 'mc_main', 'Donors', 'person');
	PERFORM mc_sync_audience('both'), mc_sync_audience('push');
END $$;
SET timezone = 'UTC';
\pset null '-'
CREATE SCHEMA test_pull;

CREATE FUNCTION test_pull.hash(_who text) RETURNS text LANGUAGE sql AS $$ SELECT md5(_who || '@example.org') $$;
-- one page, asked for so long ago: who, status, FNAME (null: no fields), id at Mailchimp, and the minute of the last change
CREATE FUNCTION test_pull.page(_rows text[], _ago interval DEFAULT '0', _whole boolean DEFAULT false, _audience text DEFAULT 'both') RETURNS void LANGUAGE sql AS $$
	SELECT mailchimp_sync.members_shown(a.audience_id, _whole, clock_timestamp() - _ago, array_agg(test_pull.hash(r[1])), array_agg(r[1] || '@example.org'),
		array_agg(r[2]), array_agg(r[4]), array_agg(''::text), array_agg('2020-03-01T10:' || lpad(coalesce(r[5], '0'), 2, '0') || ':00+00:00'),
		array_agg(CASE WHEN r[3] LIKE '{%' OR r[3] LIKE '[%' THEN r[3] ELSE '{"FNAME": "' || r[3] || '"}' END))
	FROM mailchimp_sync.audience a, unnest(_rows) AS u(line), string_to_array(line, ' ', '-') AS r
	WHERE a.audience = _audience GROUP BY a.audience_id
$$;
CREATE VIEW test_pull.shown AS
SELECT split_part(m.email, '@', 1) AS who, m.status, m.read_fields ->> 'FNAME' AS name, m.mailchimp_id AS id, m.ours,
	m.email_hash = md5(m.email) AS hashed, m.look_at IS NOT NULL AS looked_for
FROM mailchimp_sync.member m JOIN mailchimp_sync.audience USING (audience_id) WHERE audience = 'both';
CREATE TABLE test_pull.looked (after bigint);
INSERT INTO test_pull.looked VALUES (0);
CREATE FUNCTION test_pull.news() RETURNS SETOF text LANGUAGE sql AS $$
	WITH news AS MATERIALIZED (SELECT * FROM mailchimp_sync.signal WHERE signal_id > (SELECT after FROM test_pull.looked)),
		seen AS (UPDATE test_pull.looked SET after = greatest(after, (SELECT max(signal_id) FROM news)))
	SELECT concat_ws(' ', kind, split_part(email, '@', 1), contact_key, nullif(detail - 'unsubscribed_at', '{}')) FROM news ORDER BY 1
$$;
-- what has a request of ours under way
CREATE FUNCTION test_pull.flies(_who text, _kind text DEFAULT 'push') RETURNS void LANGUAGE sql AS $$
	INSERT INTO mailchimp_sync.inflight (kind, connection, method, path, writes, audience_id, email_hashes, sent_at)
	SELECT _kind, 'mc_main', 'POST', '/', true, audience_id, ARRAY[test_pull.hash(_who)], now() FROM mailchimp_sync.audience WHERE audience = 'both'
$$;
CREATE FUNCTION test_pull.walked() RETURNS void LANGUAGE sql AS $$
	UPDATE mailchimp_sync.audience SET walked_at = now() WHERE audience = 'both'
$$;
RESET client_min_messages;

-- ---- who is stored, and what is no news ----
SELECT test_pull.page('{a subscribed Ann A,b unsubscribed Bob B,c archived Cas C,d subscribed [1] D,e subscribed - E}');
SELECT test_pull.page('{a subscribed Ann A}', _audience => 'push');
SELECT * FROM test_pull.shown ORDER BY who;
SELECT count(*) AS of_an_audience_that_pushes FROM mailchimp_sync.member m JOIN mailchimp_sync.audience USING (audience_id) WHERE audience = 'push';
SELECT * FROM test_pull.news() AS none_by_the_first_walk;
SELECT test_pull.walked();
-- fields that come for the first time are no change, others are; a status that is not one of Mailchimp's is no member
SELECT test_pull.page('{a subscribed Anna A 1,b subscribed Bob B 1,d subscribed Dan D 1,f subscribed Fay F,g pending Gus G,h asleep Hal H}');
SELECT * FROM test_pull.news() AS news;
SELECT test_pull.page('{a subscribed Anna A 1,f subscribed Fay F}');
SELECT * FROM test_pull.news() AS none;
SELECT test_pull.page('{g subscribed Gus G 1}');
SELECT * FROM test_pull.news() AS confirmed;

-- ---- what a page cannot say ----
-- asked for before what we know; an older change; a request of ours under way, or a batch that archives; somebody who was erased
INSERT INTO mailchimp_sync.opt_out (email_hash, origin, added_at, added_by) VALUES (test_pull.hash('z'), 'erasure', now(), 'x');
INSERT INTO mailchimp_sync.batch (connection, list_id, operations, email_hashes, phase, next_attempt_at, asked_at)
VALUES ('mc_main', 'l1', 2, ARRAY[test_pull.hash('f'), test_pull.hash('g')], 'look', now(), now());
SELECT test_pull.flies('b');
SELECT test_pull.page('{a subscribed stale A 9}', '1 minute'), test_pull.page('{d subscribed older D 0}'),
	test_pull.page('{b subscribed busy B 9,f archived - F 9,g unsubscribed Gus G 9,z subscribed Zoe Z 9}');
SELECT * FROM test_pull.shown WHERE who IN ('a', 'b', 'd', 'f', 'g', 'z') ORDER BY who;
SELECT * FROM test_pull.news() AS news;
DELETE FROM mailchimp_sync.batch;

-- ---- another address ----
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, member_hash, state, changed_at)
SELECT a.audience_id, s.source_id, k, w || '@example.org', test_pull.hash(w), test_pull.hash(w), 'in_sync', now()
FROM mailchimp_sync.audience a, mailchimp_sync.source s, (VALUES ('1', 'a'), ('4', 'd'), ('6', 'f')) AS v(k, w) WHERE a.audience = 'both';
-- none while a request of ours to either address is under way, by a page of before, or to an address that was erased
SELECT test_pull.flies('x', 'rename');
SELECT test_pull.page('{b2 subscribed Bob B 10,x subscribed Anna A 10}'), test_pull.page('{z subscribed Anna A 10}'), test_pull.page('{y subscribed Anna A 10}', '1 hour');
SELECT who, status, id, hashed FROM test_pull.shown WHERE id IN ('A', 'B') ORDER BY who;
SELECT * FROM test_pull.news() AS news;
DELETE FROM mailchimp_sync.inflight;
-- one moves, with her contact; two take each other's addresses, in one page and in two
SELECT test_pull.page('{a2 subscribed Anna A 11}');
SELECT test_pull.page('{f subscribed Dan D 11,d subscribed Fay F 11}');
SELECT who, status, name, id, hashed FROM test_pull.shown WHERE id IN ('A', 'D', 'F') ORDER BY id;
SELECT contact_key, split_part(m.email, '@', 1) AS member, m.mailchimp_id AS id FROM mailchimp_sync.contact c
JOIN mailchimp_sync.member m ON (m.audience_id, m.email_hash) = (c.audience_id, c.member_hash) ORDER BY 1;
SELECT * FROM test_pull.news() AS news;
SELECT test_pull.page('{d subscribed Dan D 12}');
SELECT name, id, hashed, looked_for FROM test_pull.shown WHERE id IN ('D', 'F') ORDER BY id;
SELECT c.contact_key, c.member_hash = m.email_hash AS linked, m.mailchimp_id AS id, m.email_hash AS asked_for FROM mailchimp_sync.contact c
JOIN mailchimp_sync.member m ON (m.audience_id, m.email_hash) = (c.audience_id, c.member_hash) WHERE m.mailchimp_id = 'F';
SELECT test_pull.page('{f subscribed Fay F 12}');
SELECT name, id, hashed, looked_for FROM test_pull.shown WHERE id IN ('D', 'F') ORDER BY id;
SELECT contact_key, split_part(m.email, '@', 1) AS member, m.mailchimp_id AS id FROM mailchimp_sync.contact c
JOIN mailchimp_sync.member m ON (m.audience_id, m.email_hash) = (c.audience_id, c.member_hash) ORDER BY 1;
SELECT * FROM test_pull.news() AS news;
-- an opt-out holds for both addresses (D12), whether it was the address's or the contact's; nobody else's does
SELECT mailchimp_sync.opt_out_add(NULL, NULL, 'd@example.org', 'manual', NULL, 'x'), mailchimp_sync.opt_out_add(source_id, '6', 'f@example.org', 'manual', NULL, 'x')
FROM mailchimp_sync.source;
SELECT test_pull.page('{d2 subscribed Dan D 13,f2 subscribed Fay F 13,a3 subscribed Anna A 13}');
SELECT split_part(email, '@', 1) AS who, contact_key, origin, reason FROM mailchimp_sync.opt_out WHERE email IS NOT NULL ORDER BY 1;

-- ---- who was not shown by a walk ----
-- moved before any fields were read of her: known by the id at its end; f2 was left out of its page, Dan's new address, too, and b was not in any
INSERT INTO mailchimp_sync.reading (audience_id, whole, since, begun_at, page_since, archived)
SELECT audience_id, true, '1970-01-01Z', clock_timestamp(), '1970-01-01Z', true FROM mailchimp_sync.audience WHERE audience = 'both';
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours, mailchimp_id)
SELECT audience_id, test_pull.hash('p'), 'p@example.org', 'subscribed', true, 'P' FROM mailchimp_sync.audience WHERE audience = 'both';
INSERT INTO mailchimp_sync.contact (audience_id, source_id, contact_key, email, email_hash, member_hash, state, changed_at)
SELECT a.audience_id, s.source_id, '9', 'p@example.org', test_pull.hash('p'), test_pull.hash('p'), 'in_sync', now()
FROM mailchimp_sync.audience a, mailchimp_sync.source s WHERE a.audience = 'both';
SELECT test_pull.flies('f2');
SELECT test_pull.page('{p2 subscribed Pia P 14,f2 subscribed Fay F 14,a3 subscribed Anna A 13,c archived Cas C}', _whole => true);
DELETE FROM mailchimp_sync.inflight;
SELECT test_pull.flies('e'), test_pull.flies('d3');
SELECT test_pull.page('{d3 subscribed Dan D 15}', _whole => true);
SELECT mailchimp_sync.walk_done(r) FROM mailchimp_sync.reading r WHERE whole;
DELETE FROM mailchimp_sync.inflight;
SELECT who, status, id, ours, looked_for FROM test_pull.shown ORDER BY who;
SELECT split_part(m.email, '@', 1) AS member, m.ours FROM mailchimp_sync.contact c
JOIN mailchimp_sync.member m ON (m.audience_id, m.email_hash) = (c.audience_id, c.member_hash) WHERE contact_key = '9';
-- one by one: b is there, g is not, and nobody here has to do with her
CREATE FUNCTION test_pull.look(_who text) RETURNS bigint LANGUAGE sql AS $$
	INSERT INTO mailchimp_sync.inflight (kind, connection, method, path, writes, audience_id, phase, sent_at)
	SELECT 'look', 'mc_main', 'GET', '/', false, audience_id, test_pull.hash(_who), now() FROM mailchimp_sync.audience WHERE audience = 'both' RETURNING inflight_id
$$;
SELECT mailchimp_sync.look_seen(test_pull.look('b'), clock_timestamp(), ARRAY[test_pull.hash('b')], '{b@example.org}', '{subscribed}', '{B}', '{""}', '{2020-03-01T10:20:00+00:00}', '{"{\"FNAME\": \"Bob\"}"}');
SELECT mailchimp_sync.look_failed(test_pull.look('g'), 'doubt', 'Not', 'now', NULL) FROM generate_series(1, 3);
SELECT email, title, attempts, next_attempt_at > now() AS rests FROM mailchimp_sync.failure;
SELECT mailchimp_sync.look_gone(test_pull.look('g'), clock_timestamp());
SELECT count(*) AS failures FROM mailchimp_sync.failure;
-- a contact's: it was deleted for good; not where a push is under way, or has ended since
SELECT test_pull.flies('a3');
SELECT mailchimp_sync.look_gone(test_pull.look('a3'), clock_timestamp());
DELETE FROM mailchimp_sync.inflight;
SELECT mailchimp_sync.look_gone(test_pull.look('a3'), clock_timestamp() - interval '1 day'), mailchimp_sync.look_gone(test_pull.look('d2'), clock_timestamp());
SELECT who, status, looked_for FROM test_pull.shown WHERE who IN ('a3', 'b', 'd2', 'g') ORDER BY who;

-- ---- what is to come into the CRM: what is news, where there is somewhere for it to come ----
SELECT count(*) AS none FROM mailchimp_sync.member WHERE inbound_at IS NOT NULL;
INSERT INTO mailchimp_sync.inbound (audience_id, source_id, columns, defaults, create_new, search_path)
SELECT x.audience_id, x.source_id, '{}', '{}', true, '' FROM mailchimp_sync.audience_source x JOIN mailchimp_sync.audience USING (audience_id) WHERE audience = 'both';
SELECT test_pull.page('{a3 subscribed Anna A 13,d2 subscribed Daniel D 21,k subscribed Kim K,p3 subscribed Pia P 21}');
UPDATE mailchimp_sync.member SET shown_tags = '{x}';
SELECT split_part(email, '@', 1) AS who FROM mailchimp_sync.member WHERE inbound_at <= clock_timestamp() ORDER BY 1;

-- ---- what a page costs does not grow with the list, whatever the planner knows of it ----
INSERT INTO mailchimp_sync.member (audience_id, email_hash, email, status, ours, mailchimp_id, read_fields)
SELECT audience_id, test_pull.hash('m' || i), 'm' || i || '@example.org', 'subscribed', true, 'M' || i, '{}' FROM mailchimp_sync.audience, generate_series(1, 20000) i
WHERE audience = 'both';
SET plan_cache_mode = force_generic_plan;
DISCARD PLANS;
CREATE FUNCTION test_pull.rows_read() RETURNS bigint LANGUAGE sql AS $$
	SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_all_tables WHERE relid = 'mailchimp_sync.member'::regclass
$$;
BEGIN;
SELECT test_pull.rows_read() AS before \gset
SELECT test_pull.page((SELECT array_agg(format('m%s subscribed N M%s 30', i, i)) FROM generate_series(1, 50) i)
	|| (SELECT array_agg(format('m%s unsubscribed M M%s 30', i, i)) FROM generate_series(51, 100) i), _whole => true);
SELECT test_pull.rows_read() - :before BETWEEN 100 AND 3000 AS few_rows;
SELECT test_pull.rows_read() AS before \gset
SELECT test_pull.page(array_agg(format('n%s subscribed N M%s 31', i, i)), _whole => true) FROM generate_series(1, 10) i;
SELECT test_pull.rows_read() - :before BETWEEN 10 AND 1000 AS few_rows;
COMMIT;
RESET plan_cache_mode;

SET client_min_messages = warning;
DROP EXTENSION mailchimp_sync CASCADE;
DROP SCHEMA test_pull CASCADE;
DROP TABLE person;
