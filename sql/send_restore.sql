/*
 * send_restore.sql: campaigns in a copy of a database that was told to go on
 * (see send.sql): the search for what the original made, and what is done with it.
 */

-- mc_resume in a copy: what became of campaigns that are not over here is to be found out before anything is done with them
CREATE FUNCTION mailchimp_sync.campaigns_restored() RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET restored_at = mailchimp_sync.clock(), begun_at = NULL, cursor = NULL, attempts = 0,
		next_attempt_at = NULL, step = CASE WHEN c.goal IS NOT NULL THEN 'trace' END
	WHERE c.origin = 'local' AND c.status IN ('draft', 'preparing', 'prepared', 'scheduled', 'sending', 'failed');
	SELECT mailchimp_sync.forget_test_mails(NULL);
$$;

-- a search begins; one that begins when nothing of the other database's can land any more is the last one
CREATE FUNCTION mailchimp_sync.step_trace(_c mailchimp_sync.campaign) RETURNS boolean
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET restored_at = '-infinity'
	WHERE campaign_id = _c.campaign_id AND restored_at + mailchimp_sync.ghost_life() <= mailchimp_sync.clock();
	SELECT true;
$$;

/* ---- answers ---- */

/*
 * The search is over and found nothing that was sent. If something could still land while it went on,
 * it is made once more. Then what there is is taken over; the people there are none of ours.
 */
CREATE FUNCTION mailchimp_sync.campaign_traced(_c mailchimp_sync.campaign, _template_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.restored_at > '-infinity' THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'trace',
			_c.restored_at + mailchimp_sync.ghost_life() - mailchimp_sync.clock());
		UPDATE mailchimp_sync.campaign SET
			last_error = 'waiting until requests of the database that this is a copy of can no longer arrive at Mailchimp'
		WHERE campaign_id = _c.campaign_id;
		RETURN;
	END IF;
	UPDATE mailchimp_sync.campaign c SET status = coalesce(mailchimp_sync.campaign_leads_to('stay', c.status), c.status),
		fixed_at = NULL, altered = c.mailchimp_id IS NOT NULL,
		content_at = coalesce(c.content_at, CASE WHEN _template_id = c.template_id THEN mailchimp_sync.clock() END)
	WHERE c.campaign_id = _c.campaign_id;
	IF _c.goal IN ('cancel', 'delete') THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'recall');
	ELSIF _c.segment_id IS NULL THEN
		PERFORM mailchimp_sync.campaign_taken_over(_c.campaign_id);
	ELSE
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'renew');
	END IF;
END
$$;

-- nobody is in its segment, and it goes its way from the start
CREATE FUNCTION mailchimp_sync.campaign_taken_over(_campaign_id bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.recipient SET segment_email = NULL, filled = false
	WHERE campaign_id = _campaign_id AND (segment_email IS NOT NULL OR filled);
	UPDATE mailchimp_sync.campaign SET restored_at = NULL WHERE campaign_id = _campaign_id;
	SELECT mailchimp_sync.segment_changed(_campaign_id);
	SELECT mailchimp_sync.campaign_go(_campaign_id, 'domain');
$$;

CREATE FUNCTION mailchimp_sync.renew_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	PERFORM mailchimp_sync.campaign_taken_over(_campaign_id);
END
$$;

/*
 * A page of those whom Mailchimp has sent it, whatever is known of them here: a recipient
 * with that address (of several the one that was to get it), else the contact that has it, else the member alone.
 */
CREATE FUNCTION mailchimp_sync.sent_to_done(_campaign_id bigint, _hashes text[], _emails text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	UPDATE mailchimp_sync.recipient r SET status = 'sent', skip_reason = NULL, filled = true,
		detail = CASE WHEN r.skip_reason = 'opted_out' THEN 'opted out when it was too late' END
	FROM (
		SELECT DISTINCT ON (n.email_hash) n.source_id, n.contact_key FROM mailchimp_sync.recipient n
		WHERE n.campaign_id = _campaign_id AND n.email_hash = ANY (_hashes)
		ORDER BY n.email_hash, n.status = 'skipped', n.skip_reason = 'duplicate', n.source_id, n.contact_key) f
	WHERE r.campaign_id = _campaign_id AND r.source_id = f.source_id AND r.contact_key = f.contact_key
		AND r.status IN ('pending', 'skipped');
	INSERT INTO mailchimp_sync.recipient AS r (campaign_id, source_id, contact_key, email, email_hash, status, filled,
		added_at, added_by)
	SELECT DISTINCT ON (g.email_hash) _campaign_id, coalesce(k.source_id, 0), coalesce(k.contact_key, g.email_hash), g.email,
		g.email_hash, 'sent', true, mailchimp_sync.clock(), _c.created_by
	FROM unnest(_hashes, _emails) AS g(email_hash, email)
	LEFT JOIN mailchimp_sync.contact k ON k.audience_id = _c.audience_id AND k.email_hash = g.email_hash
	WHERE NOT EXISTS (SELECT FROM mailchimp_sync.recipient n
		WHERE n.campaign_id = _campaign_id AND n.email_hash = g.email_hash AND n.status NOT IN ('pending', 'skipped'))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = g.email_hash)
	ORDER BY g.email_hash, k.state = 'conflict', k.source_id, k.contact_key
	ON CONFLICT (campaign_id, source_id, contact_key) DO UPDATE SET email = excluded.email, email_hash = excluded.email_hash,
		status = 'sent', skip_reason = NULL, detail = NULL, filled = true
	WHERE r.status IN ('pending', 'skipped');
	IF cardinality(_hashes) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_look_on(_c);
		RETURN;
	END IF;
	UPDATE mailchimp_sync.recipient SET status = 'skipped', skip_reason = 'not_member',
		detail = 'was not among those to whom Mailchimp has sent it'
	WHERE campaign_id = _campaign_id AND status = 'pending';
	UPDATE mailchimp_sync.recipient SET segment_email = NULL
	WHERE campaign_id = _campaign_id AND status = 'skipped' AND segment_email IS NOT NULL;
	UPDATE mailchimp_sync.campaign SET goal = NULL, restored_at = NULL WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.campaign_go(_campaign_id);
END
$$;
