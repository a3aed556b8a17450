-- What came to a webhook: who sent it, what it says, who may pass it on, and that nothing else is stored (N12). Registering,
-- delivery and what follows are in test/t/063_webhook.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
SET timezone = 'UTC';
CREATE ROLE regress_mc_hook;
CREATE ROLE regress_mc_other;
CREATE ROLE regress_mc_reader;
CREATE ROLE regress_mc_admin;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
CREATE SERVER mc_other FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
RESET client_min_messages;

-- HMAC-SHA256 by its definition (RFC 2104), for keys of no more than a block
CREATE FUNCTION hmac(_key bytea, _message bytea) RETURNS bytea LANGUAGE sql AS $$
	WITH pad AS (
		SELECT x.pad, string_agg(set_byte('\x00', 0, x.pad # CASE WHEN i < length(_key) THEN get_byte(_key, i) ELSE 0 END), '' ORDER BY i) AS key
		FROM (VALUES (x'36'::integer), (x'5c'::integer)) AS x (pad), generate_series(0, 63) AS i GROUP BY x.pad)
	SELECT sha256(o.key || sha256(n.key || _message)) FROM pad o, pad n WHERE o.pad = x'5c'::integer AND n.pad = x'36'::integer
$$;
-- the second test case of RFC 4231
SELECT hmac('Jefe', 'what do ya want for nothing?');
CREATE FUNCTION sign(_body text, _key text, _at timestamptz DEFAULT now()) RETURNS text LANGUAGE sql AS $$
	SELECT format('t=%s,v1=%s', t.t, encode(hmac(convert_to(_key, 'UTF8'), convert_to(t.t || '.' || _body, 'UTF8')), 'hex'))
	FROM (SELECT extract(epoch FROM _at)::bigint AS t) AS t
$$;

-- who sent it, and when
SELECT mailchimp_sync.webhook_signed_at('type=x', sign('type=x', 'key', '2026-07-08 18:01:39+00'), 'key');
SELECT mailchimp_sync.webhook_signed_at('', sign('', 'key', '2026-07-08 18:01:39+00'), 'key');
SELECT mailchimp_sync.webhook_signed_at(repeat('ë', 100000), sign(repeat('ë', 100000), 'key', '2026-07-08 18:01:39+00'), 'key');
-- upper case, other versions, several secrets
SELECT c.name, mailchimp_sync.webhook_signed_at('type=x', c.signature, 'key')
FROM (SELECT sign('type=x', 'key', '2026-07-08 18:01:39+00') AS s, sign('type=x', 'old', '2026-07-08 18:01:39+00') AS o) AS x,
	LATERAL (VALUES ('upper case', replace(upper(s), 'T=', 't=')), ('v1', replace(replace(upper(s), 'T=', 't='), 'V1', 'v1')),
		('more', 'v0=abc,' || s || ',v2='), ('old first', o || ',' || split_part(s, ',', 2)), ('new first', s || ',' || split_part(o, ',', 2))) AS c (name, signature);
-- and what proves nothing
SELECT c.name, mailchimp_sync.webhook_signed_at(c.body, c.signature, c.key)
FROM (SELECT sign('type=x', 'key') AS s) AS x,
	LATERAL (VALUES ('another body', 'type=y', s, 'key'), ('another key', 'type=x', s, 'kex'), ('another time', 'type=x', overlay(s PLACING '9' FROM 3 FOR 1), 'key'),
		('cut', 'type=x', left(s, -1), 'key'), ('longer', 'type=x', s || '0', 'key'), ('no hex', 'type=x', left(s, -1) || 'g', 'key'), ('no time', 'type=x', split_part(s, ',', 2), 'key'),
		('no v1', 'type=x', split_part(s, ',', 1), 'key'), ('far', 'type=x', 't=999999999999,v1=' || repeat('0', 64), 'key'), ('negative', 'type=x', 't=-1,v1=' || repeat('0', 64), 'key'),
		('empty', 'type=x', '', 'key'), ('commas', 'type=x', ',,,', 'key'), ('none', 'type=x', NULL, 'key')) AS c (name, body, signature, key);

-- what it says: names are decoded, the first of several counts, what is beyond ASCII is no id
SELECT mailchimp_sync.form_values('type=profile&data%5Blist_id%5D=a6b5da1054&data[id]=x%2By+z&data[id]=second', ARRAY['type', 'data[list_id]', 'data[id]', 'none']);
SELECT mailchimp_sync.form_values('a&b=&=c&&d=1=2&e=%4&f=%zz&g=%00&h=%C3%AB&%', ARRAY['a', 'b', '', 'd', 'e', 'f', 'g', 'h', '%']);
SELECT mailchimp_sync.form_values('', ARRAY['a', 'b']), mailchimp_sync.form_values('a=1', '{}');

-- addresses
SELECT mailchimp_sync.webhook_base(u) FROM unnest(ARRAY['https://x.test/h?secret=abc', 'https://x.test/h?a=1&secret=abc', 'https://x.test/h?secret=abc&a=1',
	'https://x.test/h', 'https://x.test/h?nosecret=abc']) AS u;
CREATE FUNCTION refusal(_url text) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM mailchimp_sync.check_webhook_url(_url);
	RETURN NULL;
EXCEPTION WHEN invalid_parameter_value THEN
	RETURN SQLERRM;
END
$$;
SELECT u, refusal(u) FROM unnest(ARRAY['https://crm.test/hook', 'https://crm.test', 'https://crm.test:8443/hook?a=1', 'http://127.0.0.1:80/hook', 'http://localhost/',
	'https://crm.test/hook?secret=0123456789abcdef', 'http://crm.test/hook', 'http://127.0.0.1.crm.test/', 'https://user:word@crm.test/hook', 'https://crm.test/a b', 'https://crm.test/ë',
	'https://crm.test/#x', 'https://', 'ftp://crm.test', '', 'https://crm.test/hook?secret=short', 'https://crm.test/hook?secret=0123456789abcdef%20']) AS u;

-- two audiences of two connections with a webhook each, as mc_register_webhook leaves them
DO $$
BEGIN
	PERFORM mc_grant('regress_mc_hook', 'webhook', 'mc_main'), mc_grant('regress_mc_other', 'webhook', 'mc_other'), mc_grant('regress_mc_reader', 'reader'),
		mc_grant('regress_mc_admin', 'admin');
	INSERT INTO mailchimp_sync.audience (audience, connection, list_id, direction, conflict, on_leave, on_unsubscribe, recipients, double_opt_in, every,
		read_every, created_at, active_since)
	SELECT a, c, l, 'push', 'crm_wins', 'archive', 'opt_out', 'join', false, '1 day', '10 minutes', now(), now()
	FROM (VALUES ('people', 'mc_main', 'aaaaaaaaaa'), ('others', 'mc_other', 'bbbbbbbbbb')) AS v (a, c, l);
	INSERT INTO mailchimp_sync.webhook (audience_id, webhook_id, url, secret_hash, signing_secret, registered_at)
	SELECT a.audience_id, 'id', 'https://crm.test/' || a.audience, sha256(convert_to('secret of ' || a.audience, 'UTF8')), 'key of ' || a.audience, now()
	FROM mailchimp_sync.audience a;
	INSERT INTO mailchimp_sync.campaign (connection, audience_id, list_id, name, status, marker, created_at, created_by, mailchimp_id)
	SELECT a.connection, a.audience_id, a.list_id, 'News', 'sent', a.audience, now(), 'x', 'c' || a.list_id FROM mailchimp_sync.audience a;
END
$$;
CREATE VIEW hint AS SELECT a.audience, c.name AS campaign FROM mailchimp_sync.webhook_hint h JOIN mailchimp_sync.audience a USING (audience_id)
	LEFT JOIN mailchimp_sync.campaign c USING (campaign_id) ORDER BY webhook_hint_id;
CREATE FUNCTION receive(_type text, _list_id text DEFAULT 'aaaaaaaaaa', _id text DEFAULT '1', _key text DEFAULT 'key of people', _secret text DEFAULT 'secret of people', _at timestamptz DEFAULT now())
RETURNS text LANGUAGE plpgsql AS $$
DECLARE
	_body text := format('type=%s&fired_at=2026-07-08+18%%3A01%%3A39&data%%5Blist_id%%5D=%s&data%%5Bid%%5D=%s', _type, _list_id, _id);
	_detail text;
BEGIN
	PERFORM mc_receive_webhook(_body, sign(_body, _key, _at), _secret);
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	GET STACKED DIAGNOSTICS _detail = PG_EXCEPTION_DETAIL;
	RETURN concat_ws(' ', SQLSTATE, SQLERRM || ':', _detail);
END
$$;

-- the level and nothing else (R14, D19)
SET ROLE regress_mc_hook;
SELECT receive('unsubscribe');
SELECT receive('unsubscribe', 'bbbbbbbbbb', _key => 'key of others', _secret => 'secret of others');
SET ROLE regress_mc_other;
SELECT receive('unsubscribe');
SET ROLE regress_mc_reader;
SELECT receive('unsubscribe');
SET ROLE regress_mc_admin;
SELECT receive('unsubscribe');
RESET ROLE;
SELECT * FROM hint;
DELETE FROM mailchimp_sync.webhook_hint;

-- refused: another secret, another key, too old, too new; nothing is stored
SET ROLE regress_mc_hook;
SELECT receive('unsubscribe', _secret => 'secret');
SELECT receive('unsubscribe', _secret => NULL);
SELECT receive('unsubscribe', _key => 'key');
SELECT receive('unsubscribe', _at => now() - interval '320 s');
SELECT receive('unsubscribe', _at => now() + interval '320 s');
SELECT mc_receive_webhook(repeat('x', 262145), 't=1,v1=0', 'secret of people');
SELECT mc_receive_webhook(NULL, NULL, NULL);
RESET ROLE;
SELECT * FROM hint;
SET ROLE regress_mc_hook;
SELECT receive('unsubscribe', _at => now() - interval '280 s'), receive('unsubscribe', _at => now() + interval '280 s');
RESET ROLE;
DELETE FROM mailchimp_sync.webhook_hint;

-- what is taken: one hint however many come; what is not ours is nothing
SET ROLE regress_mc_hook;
SELECT t, receive(t) FROM unnest(ARRAY['subscribe', 'unsubscribe', 'profile', 'upemail', 'cleaned', 'unsubscribe']) AS t;
SELECT receive('campaign', _id => 'caaaaaaaaaa'), receive('campaign', _id => 'caaaaaaaaaa');
SELECT receive('campaign', _id => 'cbbbbbbbbbb'), receive('campaign', _id => 'unknown'), receive('upsms'), receive('subscribe', 'bbbbbbbbbb'), receive('', '');
RESET ROLE;
SELECT * FROM hint;
DELETE FROM mailchimp_sync.webhook_hint;

-- as PostgREST calls it: the headers in a setting
CREATE FUNCTION post(_headers jsonb) RETURNS text LANGUAGE plpgsql AS $$
BEGIN
	PERFORM set_config('request.headers', _headers::text, true);
	PERFORM mc_webhook('type=profile&data[list_id]=aaaaaaaaaa');
	RETURN 'taken';
EXCEPTION WHEN OTHERS THEN
	RETURN concat_ws(' ', SQLSTATE, SQLERRM);
END
$$;
SET ROLE regress_mc_hook;
SELECT mc_webhook('type=profile');
SELECT post(jsonb_build_object('x-mailchimp-signature', sign('type=profile&data[list_id]=aaaaaaaaaa', 'key of people'), 'x-webhook-secret', 'secret of people', 'host', 'crm.test'));
SELECT post(jsonb_build_object('x-mailchimp-signature', sign('type=profile&data[list_id]=aaaaaaaaaa', 'key of people')));
SELECT post('{}');
RESET ROLE;
SELECT * FROM hint;

-- what this level cannot reach
SELECT p.proname FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace AND p.proname LIKE 'mc\_%' AND has_function_privilege('regress_mc_hook', p.oid, 'EXECUTE') ORDER BY 1;
SELECT c.relname FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relname LIKE 'mc\_%' AND has_table_privilege('regress_mc_hook', c.oid, 'SELECT');
SELECT has_server_privilege('regress_mc_hook', 'mc_main', 'USAGE'), has_foreign_data_wrapper_privilege('regress_mc_hook', 'mailchimp_sync', 'USAGE');
SELECT mailchimp_sync.roles_without_server('mc_main')::regrole;
SELECT mc_revoke('regress_mc_hook');
SET ROLE regress_mc_hook;
SELECT mc_webhook('');
RESET ROLE;

-- campaigns are polled, but not every moment; an audience that goes says what stays at Mailchimp
UPDATE mailchimp_sync.campaign SET last_polled_at = CASE name WHEN 'News' THEN now() - interval '20 s' END WHERE audience_id = 1;
INSERT INTO mailchimp_sync.webhook_hint (audience_id, campaign_id, at) SELECT audience_id, campaign_id, now() FROM mailchimp_sync.campaign;
SELECT mailchimp_sync.webhook_poll();
SELECT mailchimp_sync.webhook_poll_due();
SELECT audience_id, next_poll_at > now() + interval '30 s' AS later, next_poll_at <= clock_timestamp() AS now FROM mailchimp_sync.campaign ORDER BY 1;
\set VERBOSITY terse
SELECT mc_drop_audience('people');
SELECT mc_disconnect('mc_other');
\set VERBOSITY default
SELECT count(*) FROM mailchimp_sync.webhook;

SET client_min_messages = warning;
DROP SERVER mc_main;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_hook, regress_mc_other, regress_mc_reader, regress_mc_admin;
