-- The pure parts of weighing a contact: addresses, what goes over the wire, who comes first, what is masked (D8, D13, N8).
\set VERBOSITY default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
RESET client_min_messages;

-- Mailchimp's subscriber hash
SELECT mailchimp_sync.email_hash('Urist.McVankab@Freddiesjokes.com') = md5('urist.mcvankab@freddiesjokes.com') AS lower_case,
	mailchimp_sync.email_hash(E' \ta@b.test\r\n') = mailchimp_sync.email_hash('a@b.test') AS line_ends_are_trimmed,
	mailchimp_sync.email_hash('  vv@b.tv ') = md5('vv@b.tv') AS trimmed,
	mailchimp_sync.email_hash(NULL) IS NULL AS none;

-- D8: syntax
SELECT e AS good FROM unnest(ARRAY['a@b.test', 'a.b+c@d-e.f.test', 'o''brien@x.test', '1@2.test', repeat('a', 64) || '@b.test', 'é@b.test',
	'a@bücher.test', '!#$%&*/=?^_`{|}~-@x.test']) AS e WHERE NOT mailchimp_sync.is_email(e);
SELECT e AS bad FROM unnest(ARRAY['', ' ', 'a', 'a@', '@b.test', 'a@b', 'a@b.', 'a@.test', 'a@b..test', '.a@b.test', 'a.@b.test', 'a..b@c.test',
	'a b@c.test', 'a@b c.test', 'a@b@c.test', 'a,b@c.test', 'a;b@c.test', '<a@b.test>', 'Ann <a@b.test>', '"a"@b.test', 'a@b.t', E'a\n@b.test',
	repeat('a', 65) || '@b.test', 'a@' || repeat('b', 250) || '.test', E'a\u0001@b.test', 'a@[1.2.3.4]', 'a\b@c.test']) AS e
WHERE mailchimp_sync.is_email(e);
SELECT mailchimp_sync.is_email(NULL) AS none;

-- what is sent: a value that is gone is emptied, not left out; canonical
SELECT mailchimp_sync.payload('{"email": " a@b.test ", "fields": {"B": null, "A": "x", "N": 1.50, "J": {"addr1": "y"}}, "tags": ["t"], "linked": true, "rules": {}}');
SELECT mailchimp_sync.payload('{"email": "a@b.test", "fields": {}, "tags": []}'), mailchimp_sync.payload('{"email": "a@b.test"}');
SELECT mailchimp_sync.payload_hash(mailchimp_sync.payload('{"email": "a@b.test", "fields": {"A": "1", "B": "2"}}'))
		= mailchimp_sync.payload_hash(mailchimp_sync.payload('{"fields": {"B": "2", "A": "1"}, "email": "a@b.test", "tags": []}')) AS same,
	mailchimp_sync.payload_hash(mailchimp_sync.payload('{"email": "a@b.test", "fields": {"A": "1"}}'))
		= mailchimp_sync.payload_hash(mailchimp_sync.payload('{"email": "A@b.test", "fields": {"A": "1"}}')) AS other_case,
	mailchimp_sync.payload_hash(NULL) IS NULL AS nothing;
SELECT encode(mailchimp_sync.payload_hash('{"email": "a@b.test", "merge_fields": {}, "tags": []}'), 'hex') AS format_1;

-- D13: by the order of the sources, then by key; numbers as numbers
SELECT string_agg(format('%s/%s', p, k), ' ' ORDER BY mailchimp_sync.precedence(p, 'bigint', k) COLLATE "C")
FROM (VALUES (1, '10'), (1, '9'), (2, '1'), (1, '-5'), (10, '0'), (1, '9223372036854775807'), (1, '-9223372036854775808')) AS v(p, k);
SELECT string_agg(k, ' ' ORDER BY mailchimp_sync.precedence(1, 'text', k) COLLATE "C") FROM unnest(ARRAY['b', 'a', 'B', '10', '9']) AS k;

SELECT s.state, a.action, mailchimp_sync.preview_action(s.state, a.action)
FROM (VALUES ('pending'), ('in_sync'), ('refused'), ('conflict'), ('opted_out'), ('inactive'), ('not_linked'), ('not_allowed'), ('outside')) AS s(state)
JOIN (VALUES ('subscribe'), ('update'), ('leave'), ('rename'), (NULL)) AS a(action) ON (s.state = 'pending') = (a.action IS NOT NULL)
ORDER BY s.state COLLATE "C", a.action COLLATE "C";

-- mc_request: addresses and hashes are people, ids are not
SELECT mailchimp_sync.mask(p) FROM unnest(ARRAY[
	'/lists/0123456789', '/lists/0123456789/members/0123456789abcdef0123456789abcdef/tags', '/lists/0123456789/members/a%40b.test',
	'/search-members?query=a.b@c.test&list_id=0123456789', '/campaigns/0123456789/actions/send']) AS p;

-- pauses: 1 s, 2, 4 ... 5 minutes, a quarter to either side
SELECT f AS failures, bool_and(b BETWEEN 0.75 * w AND 1.25 * w) AS within
FROM (VALUES (0, 1), (1, 1), (2, 2), (3, 4), (9, 256), (10, 300), (1000000, 300)) AS v(f, w)
CROSS JOIN LATERAL (SELECT extract(epoch FROM mailchimp_sync.backoff(f + 0 * g)) AS b FROM generate_series(1, 50) g) AS b
GROUP BY f ORDER BY f;
DROP EXTENSION mailchimp_sync CASCADE;
