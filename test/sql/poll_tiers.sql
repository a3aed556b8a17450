-- The polling schedule (R50-R55, D1-D3, N10), to the second, under a moved clock. What is fetched is in
-- test/t/040_poll.pl.
\set SHOW_CONTEXT never
SET client_min_messages = warning;
DROP EXTENSION IF EXISTS mailchimp_sync CASCADE;
CREATE EXTENSION mailchimp_sync;
CREATE ROLE regress_mc_ada;
CREATE ROLE regress_mc_rita;
CREATE SERVER mc_main FOREIGN DATA WRAPPER mailchimp_sync OPTIONS (dc 'us6');
DO $$ BEGIN PERFORM mc_grant('regress_mc_ada', 'admin'), mc_grant('regress_mc_rita', 'reader'); END $$;
SET timezone = 'UTC';
RESET client_min_messages;

-- the defaults (R50-R55, D2)
SET ROLE regress_mc_rita;
SELECT * FROM mc_poll_tiers();
SELECT mc_set_poll_tier(1, '0', '5 minutes');	-- fails
RESET ROLE;

-- campaigns as the engine would have left them
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by,
	mailchimp_id, sent_at, next_poll_at) VALUES
	(1, 'mc_main', 'l1', 'at once', 'sent', 'm1', '2026-03-01 02:59:00Z', 'x', 'c1', '2026-03-01 03:00:00Z', '2026-03-01 03:00:00Z'),
	-- weeks ahead: counted from when it was sent (D1)
	(2, 'mc_main', 'l1', 'weeks ahead', 'sent', 'm2', '2026-01-01 03:00:00Z', 'x', 'c2', '2026-03-01 03:00:00Z', '2026-03-01 03:00:00Z'),
	-- not sent: counted from when it was made
	(3, 'mc_main', 'l1', 'prepared', 'prepared', 'm3', '2026-03-01 03:00:00Z', 'x', 'c3', NULL, '2026-03-01 03:00:00Z'),
	(4, 'mc_main', 'l1', 'draft', 'draft', 'm4', '2026-03-01 03:00:00Z', 'x', NULL, NULL, NULL),
	(5, 'mc_main', 'l1', 'deleted', 'deleted', 'm5', '2026-03-01 03:00:00Z', 'x', 'c5', '2026-03-01 03:00:00Z', NULL);

CREATE FUNCTION set_clock(_at timestamptz) RETURNS timestamptz LANGUAGE sql AS $$
	SELECT set_config('mailchimp_sync.clock_offset', (_at - now())::text, true);
	SELECT mailchimp_sync.clock();
$$;
-- at each bound, a second before and after it: the tier, and the spacing after a poll that succeeds then
CREATE FUNCTION look(_campaign_id bigint, _from timestamptz) RETURNS TABLE (bound interval, seconds integer, tier integer,
	age interval, spacing interval) LANGUAGE plpgsql AS $$
DECLARE
	_bound		interval;
	_seconds	integer;
BEGIN
	FOREACH _bound IN ARRAY ARRAY['0', '2 hours', '24 hours', '7 days', '14 days', '1 month', '10 years']::interval[] LOOP
		FOREACH _seconds IN ARRAY ARRAY[-1, 0, 1] LOOP
			-- bounds are counted in UTC
			PERFORM set_clock(((_from AT TIME ZONE 'UTC') + _bound) AT TIME ZONE 'UTC' + _seconds * interval '1 second');
			UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
			PERFORM mailchimp_sync.poll_succeeded(_campaign_id, mailchimp_sync.clock());
			RETURN QUERY SELECT _bound, _seconds, s.tier, s.age, s.next_poll_at - s.last_polled_at
			FROM mc_poll_schedule s WHERE s.campaign_id = _campaign_id AND s.last_polled_at = mailchimp_sync.clock();
		END LOOP;
	END LOOP;
END
$$;
SELECT * FROM look(1, '2026-03-01 03:00:00Z');
SELECT count(*) AS differ FROM (SELECT * FROM look(1, '2026-03-01 03:00:00Z') EXCEPT SELECT * FROM look(2, '2026-03-01 03:00:00Z')) d;
SELECT count(*) AS differ FROM (SELECT * FROM look(1, '2026-03-01 03:00:00Z') EXCEPT SELECT * FROM look(3, '2026-03-01 03:00:00Z')) d;
-- in New York a month after 28 February, 22:00, is 28 March
SET timezone = 'America/New_York';
BEGIN;
SELECT set_clock('2026-03-29 02:00:00Z') IS NOT NULL AS at;
SELECT tier FROM mc_poll_schedule WHERE campaign_id = 1;
COMMIT;
SELECT count(*) AS differ FROM (SELECT * FROM look(1, '2026-03-01 03:00:00Z')
	EXCEPT SELECT * FROM look(2, '2026-03-01 03:00:00Z')) d;
SELECT seconds, tier FROM look(1, '2026-03-01 03:00:00Z') WHERE bound = '1 month';
SET timezone = 'UTC';

-- spacing since the last poll: a missed one is done once and then counts (D3)
BEGIN;
SELECT set_clock('2026-03-03 00:00:00Z') IS NOT NULL AS at;
UPDATE mailchimp_sync.campaign SET last_polled_at = '2026-03-01 03:10:00Z', next_poll_at = '2026-03-01 03:20:00Z' WHERE campaign_id = 1;
SELECT next_poll_at < mailchimp_sync.clock() AS due FROM mc_poll_schedule WHERE campaign_id = 1;
SELECT mailchimp_sync.poll_succeeded(1, mailchimp_sync.clock());
SELECT last_polled_at, next_poll_at FROM mc_poll_schedule WHERE campaign_id = 1;
-- somebody asks for one while one is under way: it is not lost
UPDATE mailchimp_sync.campaign SET next_poll_at = '2026-03-03 00:00:00Z' WHERE campaign_id = 1;
SELECT mailchimp_sync.poll_succeeded(1, '2026-03-02 23:59:59Z');
SELECT next_poll_at FROM mc_poll_schedule WHERE campaign_id = 1;
-- Mailchimp's clock is ahead of ours
SELECT set_clock('2026-03-01 02:59:50Z') IS NOT NULL AS at;
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id = 1;
SELECT mailchimp_sync.poll_succeeded(1, mailchimp_sync.clock());
SELECT age, tier, next_poll_at FROM mc_poll_schedule WHERE campaign_id = 1;
COMMIT;

-- a site's own tiers: they replace and add, and count at once (D2, N10)
SET ROLE regress_mc_ada;
SELECT mc_set_poll_tier(1, '0', '5 minutes'), mc_set_poll_tier(7, '1 year', '30 days'), mc_set_poll_tier(2, '3 hours', '1 hour');
SELECT * FROM mc_poll_tiers();
RESET ROLE;
SELECT last_polled_at, next_poll_at FROM mc_poll_schedule WHERE campaign_id = 1;
SELECT bound, seconds, tier, spacing FROM look(1, '2026-03-01 03:00:00Z') WHERE bound IN ('2 hours', '10 years');
-- one that asks more often than those before it takes effect when it begins, not after a long wait
SELECT mc_set_poll_tier(8, '2 years', '1 hour');
BEGIN;
SELECT set_clock('2028-02-28 00:00:00Z') IS NOT NULL AS at;
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id = 1;
SELECT mailchimp_sync.poll_succeeded(1, mailchimp_sync.clock());
SELECT tier, next_poll_at FROM mc_poll_schedule WHERE campaign_id = 1;
COMMIT;
-- what somebody asked for comes no later
UPDATE mailchimp_sync.campaign SET next_poll_at = '2026-03-01 03:04:00Z' WHERE campaign_id = 3;
SELECT last_polled_at, next_poll_at, (SELECT o.next_poll_at FROM mc_poll_schedule o WHERE o.campaign_id = 1) AS of_another FROM mc_poll_schedule WHERE campaign_id = 3;
SELECT mc_set_poll_tier(8, '2 years', '10 hours');
SELECT next_poll_at, (SELECT o.next_poll_at FROM mc_poll_schedule o WHERE o.campaign_id = 1) AS of_another FROM mc_poll_schedule WHERE campaign_id = 3;
-- back to the defaults
SELECT mc_set_poll_tier(t, NULL, NULL) FROM unnest('{1,2,7,8,9}'::int[]) t;
SELECT tier, min_age, every FROM mc_poll_tiers();
SELECT * FROM mailchimp_sync.poll_tier;

-- the spread: a thousand that are due together are not for long; never early, at most 30 s late, and no later each time
SET mailchimp_sync.poll_spread = '30s';
INSERT INTO mailchimp_sync.campaign (campaign_id, connection, list_id, name, status, marker, created_at, created_by, mailchimp_id, sent_at, next_poll_at)
SELECT 1000 + n, 'mc_main', 'l1', 'many', 'sent', 'n' || n, '2026-03-01 03:00:00Z', 'x', 'n' || n, '2026-03-01 03:00:00Z', '2026-03-01 03:00:00Z'
FROM generate_series(1, 1000) n;
-- each is polled so long after it was due: the spacing of the polls, and how they stand apart
CREATE FUNCTION poll_many(_rounds integer, _late interval) RETURNS TABLE (round integer, early bigint, late bigint, exact bigint, seconds bigint, most bigint)
LANGUAGE plpgsql AS $$
DECLARE
	_c	record;
BEGIN
	FOR _round IN 1 .. _rounds LOOP
		FOR _c IN SELECT campaign_id, next_poll_at FROM mailchimp_sync.campaign WHERE name = 'many' LOOP
			PERFORM set_clock(_c.next_poll_at + _late), mailchimp_sync.poll_succeeded(_c.campaign_id, _c.next_poll_at + _late);
		END LOOP;
		RETURN QUERY SELECT _round, count(*) FILTER (WHERE s.late < '0'), count(*) FILTER (WHERE s.late > '30 s'), count(*) FILTER (WHERE s.late = '0'),
			count(DISTINCT s.second), max(s.same) FROM (
			SELECT c.next_poll_at - c.last_polled_at - '10 minutes' AS late, date_trunc('second', c.next_poll_at) AS second,
				count(*) OVER (PARTITION BY date_trunc('second', c.next_poll_at)) AS same
			FROM mailchimp_sync.campaign c WHERE c.name = 'many') s;
	END LOOP;
END
$$;
SELECT round, early, late, exact, seconds, most < 60 AS apart FROM poll_many(3, '0.2 s');
-- missed, all done at once: in no turn
BEGIN;
SELECT set_clock('2026-03-01 04:30:00Z') IS NOT NULL AS at;
SELECT count(mailchimp_sync.poll_succeeded(campaign_id, mailchimp_sync.clock())) FROM mailchimp_sync.campaign WHERE name = 'many';
SELECT min(next_poll_at - last_polled_at) >= '10 minutes' AS not_early, max(next_poll_at - last_polled_at) <= '10 minutes 30 s' AS not_late,
	count(DISTINCT date_trunc('second', next_poll_at)) AS seconds FROM mc_poll_schedule WHERE name = 'many';
-- whose poll somebody asked for is in no turn either, but no later than the others; nor is one that was tried again
UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id = 1001;
SELECT mailchimp_sync.poll_succeeded(1001, mailchimp_sync.clock());
SELECT next_poll_at - last_polled_at AS of_30 FROM mc_poll_schedule WHERE campaign_id = 1001;
-- the same share of a shorter one
CREATE FUNCTION poll_now(_campaign_id bigint) RETURNS interval LANGUAGE sql AS $$
	UPDATE mailchimp_sync.campaign SET next_poll_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
	SELECT mailchimp_sync.poll_succeeded(_campaign_id, mailchimp_sync.clock());
	SELECT next_poll_at - last_polled_at FROM mailchimp_sync.campaign WHERE campaign_id = _campaign_id
$$;
SET LOCAL mailchimp_sync.poll_spread = '3s';
SELECT poll_now(1001) AS of_3;
SET LOCAL mailchimp_sync.poll_spread = 0;
SELECT poll_now(1001) AS off;
COMMIT;
RESET mailchimp_sync.poll_spread;
DELETE FROM mailchimp_sync.campaign WHERE name = 'many';

-- what cannot be set
SELECT mc_set_poll_tier(0, '0', '5 minutes');
SELECT mc_set_poll_tier(NULL, '0', '5 minutes');
SELECT mc_set_poll_tier(1, '0', NULL);
SELECT mc_set_poll_tier(1, '0', '59 seconds');
SELECT mc_set_poll_tier(1, '-1 hour', '5 minutes');
SELECT mc_set_poll_tier(7, '300000 years', '1 day');
SELECT mc_set_poll_tier(7, '90 days', '300000 years');
SELECT mc_set_poll_tier(1, '1 hour', '5 minutes');
SELECT mc_set_poll_tier(2, '24 hours', '5 minutes');
SELECT * FROM mailchimp_sync.poll_tier;

-- who may see the schedule sees that of her connections
SET ROLE regress_mc_rita;
SELECT campaign_id, name FROM mc_poll_schedule ORDER BY 1;
RESET ROLE;
SELECT mc_revoke('regress_mc_rita');
SET ROLE regress_mc_rita;
SELECT campaign_id, name FROM mc_poll_schedule;
RESET ROLE;

DROP FUNCTION look, poll_many, poll_now, set_clock;
DROP EXTENSION mailchimp_sync CASCADE;
DROP ROLE regress_mc_ada, regress_mc_rita;
