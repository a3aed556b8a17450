/*
 * poll_tier.sql: when a campaign is polled (R50-R55, D1-D3, N10).
 *
 * Tiers say how far apart the polls of a campaign of some age are, counted from the last one that succeeded. Campaigns that
 * were polled, or sent, together would fall due together for ever, so each is up to mailchimp_sync.poll_spread later than the
 * rest, always by the same share of it: never early. A poll that came in its turn stays in its turn, the next one is not put
 * off once more; one that was missed or asked for by somebody is in no turn.
 */

-- a site's own tiers; the defaults are in the view tier
CREATE TABLE mailchimp_sync.poll_tier (
	tier			integer PRIMARY KEY CHECK (tier > 0),
	min_age			interval NOT NULL CHECK (min_age >= interval '0'),
	every			interval NOT NULL CHECK (every > interval '0')
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.poll_tier', '');

-- in force: from an age of min_age on, up to the next tier's, once in every (D2)
CREATE VIEW mailchimp_sync.tier AS
SELECT tier, coalesce(t.min_age, d.min_age) AS min_age, coalesce(t.every, d.every) AS every
FROM (VALUES
	(1, interval '0', interval '10 minutes'),
	(2, interval '2 hours', interval '1 hour'),
	(3, interval '24 hours', interval '3 hours'),
	(4, interval '7 days', interval '6 hours'),
	(5, interval '14 days', interval '12 hours'),
	(6, interval '1 month', interval '24 hours')) AS d(tier, min_age, every)
FULL JOIN mailchimp_sync.poll_tier t USING (tier);

/*
 * When campaigns are to be polled next, by these tiers, when the last poll that succeeded was at _at (null: then): that, plus the
 * spacing of the tier in which it fell (D3). A tier that begins later and asks more often, as a site may
 * set it, takes effect when it begins; the defaults have none. A poll that was missed is late
 * and done once. One that is scheduled is looked at when its hour has come, and every minute then until it is being sent.
 * The spread is how much later than the rest each campaign is, always the same. Days and months are added in UTC.
 */
CREATE FUNCTION mailchimp_sync.poll_times(_campaign_ids bigint[], _at timestamptz, _tiers mailchimp_sync.tier[])
RETURNS TABLE (campaign_id bigint, tier_at timestamptz, spread interval, hour_at timestamptz)
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
SET plan_cache_mode = force_generic_plan		-- for each poll, and planning takes longer than that
AS $$
BEGIN
	RETURN QUERY
	SELECT c.campaign_id, n.tier_at,
		(hashint8extended(c.campaign_id, 0) & 65535) / 65536.0 * current_setting('mailchimp_sync.poll_spread')::interval,
		CASE WHEN c.status <> 'scheduled' THEN NULL WHEN c.scheduled_for > l.at THEN c.scheduled_for
			WHEN c.scheduled_for > l.at - interval '1 hour' THEN l.at + interval '1 minute' END
	FROM unnest(_campaign_ids) AS i(campaign_id)
	JOIN mailchimp_sync.campaign c USING (campaign_id)
	CROSS JOIN LATERAL (SELECT greatest(c.created_at, c.sent_at) AS born_at) b		-- D1
	-- Mailchimp's clock may be ahead of ours: a campaign is never younger than new
	CROSS JOIN LATERAL (SELECT greatest(coalesce(_at, c.last_polled_at, mailchimp_sync.clock()), b.born_at) AS at) l
	CROSS JOIN LATERAL (SELECT min(greatest(r.begins_at, ((l.at AT TIME ZONE 'UTC') + r.every) AT TIME ZONE 'UTC')) AS tier_at
		FROM (SELECT g.begins_at, g.every, max(g.begins_at) FILTER (WHERE g.begins_at <= l.at) OVER () AS current_begins_at
			FROM (SELECT t.every, ((b.born_at AT TIME ZONE 'UTC') + t.min_age) AT TIME ZONE 'UTC' AS begins_at
				FROM unnest(_tiers) t) g) r
		WHERE r.begins_at >= r.current_begins_at) n;
END
$$;

-- of one campaign; _spread: instead of its own, where the poll at _at was spread itself
CREATE FUNCTION mailchimp_sync.poll_next_at(_campaign_id bigint, _at timestamptz DEFAULT NULL, _spread interval DEFAULT NULL)
RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (SELECT least(n.tier_at + coalesce(_spread, n.spread), n.hour_at)
		FROM mailchimp_sync.poll_times(ARRAY[_campaign_id], _at, ARRAY(SELECT t FROM mailchimp_sync.tier t)) n);
END
$$;

CREATE FUNCTION @extschema@.mc_poll_tiers() RETURNS TABLE (tier integer, min_age interval, every interval)
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_poll_tiers() IS
	'how often results are fetched: from an age of min_age on, once in every; the defaults and what this site has set';

CREATE FUNCTION mailchimp_sync.mc_poll_tiers() RETURNS TABLE (tier integer, min_age interval, every interval)
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT t.tier, t.min_age, t.every FROM mailchimp_sync.tier t ORDER BY t.min_age
$$;

CREATE FUNCTION @extschema@.mc_set_poll_tier(tier integer, min_age interval, every interval) RETURNS void
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_set_poll_tier(integer, interval, interval) IS
	'sets or adds a tier of the polling schedule; with min_age and every null the site''s own goes and the default returns';

CREATE FUNCTION mailchimp_sync.mc_set_poll_tier(_tier integer, _min_age interval, _every interval) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_before	mailchimp_sync.tier[];
BEGIN
	IF NOT coalesce(_tier > 0, false) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'tier must be a number from 1 on',
			HINT = 'mc_poll_tiers() lists the tiers.';
	ELSIF (_min_age IS NULL) <> (_every IS NULL) THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'min_age and every belong together',
			HINT = 'Give both, or null for both to return to the default.';
	ELSIF _every < interval '1 minute' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'every must be at least one minute';
	ELSIF _min_age < interval '0' THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'min_age must not be negative';
	ELSIF greatest(_min_age, _every) > interval '100 years' THEN
		-- an instant that is out of range would make each poll fail
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'min_age and every must not be more than 100 years';
	END IF;
	LOCK TABLE mailchimp_sync.poll_tier IN SHARE ROW EXCLUSIVE MODE;
	_before := ARRAY(SELECT t FROM mailchimp_sync.tier t);
	DELETE FROM mailchimp_sync.poll_tier t WHERE t.tier = _tier;
	INSERT INTO mailchimp_sync.poll_tier (tier, min_age, every) SELECT _tier, _min_age, _every WHERE _every IS NOT NULL;
	PERFORM mailchimp_sync.check_tiers();
	PERFORM mailchimp_sync.tiers_changed(_before);
	PERFORM mailchimp_sync.wake();
END
$$;

-- the campaigns whose next poll that moves; what somebody asked for comes no later
CREATE FUNCTION mailchimp_sync.tiers_changed(_before mailchimp_sync.tier[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ids	bigint[] := ARRAY(SELECT c.campaign_id FROM mailchimp_sync.campaign c
		WHERE c.next_poll_at IS NOT NULL AND c.last_polled_at IS NOT NULL AND c.poll_failures = 0);
BEGIN
	UPDATE mailchimp_sync.campaign c SET spread_poll_at = n.tier_at + n.spread,
		next_poll_at = least(n.tier_at + n.spread, n.hour_at, CASE WHEN c.next_poll_at < o.tier_at THEN c.next_poll_at END)
	FROM mailchimp_sync.poll_times(_ids, NULL, ARRAY(SELECT t FROM mailchimp_sync.tier t)) n
	JOIN mailchimp_sync.poll_times(_ids, NULL, _before) o USING (campaign_id)
	WHERE c.campaign_id = n.campaign_id AND n.tier_at IS DISTINCT FROM o.tier_at;
END
$$;

CREATE FUNCTION mailchimp_sync.check_tiers() RETURNS void
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_same	record;
BEGIN
	IF NOT EXISTS (SELECT FROM mailchimp_sync.tier t WHERE t.min_age = interval '0') THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'no tier begins at the age of 0',
			HINT = 'A new campaign would be in no tier.';
	END IF;
	SELECT t.min_age, string_agg(t.tier::text, ' and ' ORDER BY t.tier) AS tiers INTO _same
	FROM mailchimp_sync.tier t GROUP BY 1 HAVING count(*) > 1 LIMIT 1;
	IF FOUND THEN
		RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
			MESSAGE = format('tiers %s begin at the same age', _same.tiers), HINT = 'Give each tier an age of its own.';
	END IF;
END
$$;

CREATE VIEW @extschema@.mc_poll_schedule WITH (security_barrier) AS
WITH tiers AS MATERIALIZED (SELECT * FROM mailchimp_sync.tier)	-- once, not for each campaign
SELECT c.campaign_id, c.name, a.now_at - a.born_at AS age, t.tier, c.last_polled_at, c.next_poll_at
FROM mailchimp_sync.campaign c
JOIN mailchimp_sync.permitted_connection p USING (connection)
CROSS JOIN LATERAL (SELECT greatest(c.created_at, c.sent_at) AS born_at,
	greatest(mailchimp_sync.clock(), c.created_at, c.sent_at) AS now_at) a
CROSS JOIN LATERAL (SELECT x.tier
	FROM (SELECT o.tier, ((a.born_at AT TIME ZONE 'UTC') + o.min_age) AT TIME ZONE 'UTC' AS begins_at FROM tiers o) x
	WHERE x.begins_at <= a.now_at ORDER BY x.begins_at DESC LIMIT 1) t
WHERE c.status IN ('prepared', 'scheduled', 'failed', 'sending', 'sent') AND c.goal IS NULL AND c.next_poll_at IS NOT NULL;
COMMENT ON VIEW @extschema@.mc_poll_schedule IS
	'the campaigns that are polled: age (since they were sent), tier, and when results are fetched next';
