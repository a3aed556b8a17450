/*
 * import_result.sql: what becomes of imported campaigns (see import.sql): what a poll or a look shows, and who got them.
 *
 * To whom they went, Mailchimp knows: whoever does something with such a mail becomes its recipient here, the person whose
 * address it is, if a contact has it, else the address alone.
 */

-- a poll of one that is not sent has looked at it
CREATE FUNCTION mailchimp_sync.import_state_seen(_c mailchimp_sync.campaign, _started_at timestamptz, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_line	mailchimp_sync.import_line;
BEGIN
	_line.mailchimp_id := _c.mailchimp_id;
	_line.archive_url := _shown.archive_url;
	_line.mailchimp_status := _shown.status;
	_line.emails_sent := _shown.emails_sent;
	_line.send_time := _shown.send_time;
	_line.recipient_count := _shown.recipient_count;
	_line.name := _shown.title;
	_line.subject := _shown.subject;
	_line.from_name := _shown.from_name;
	_line.from_email := _shown.from_email;
	_line.template_id := _shown.template_id;
	PERFORM mailchimp_sync.import_polls(mailchimp_sync.import_known(_c.connection, _started_at, ARRAY[_line]), 0);
END
$$;

-- on the way to be deleted, or to have its schedule taken back, it is found to be sent, or being sent (true): it is what it is
CREATE FUNCTION mailchimp_sync.import_left(_c mailchimp_sync.campaign, _shown mailchimp_sync.shown) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.status = 'sent' OR mailchimp_sync.import_status(_shown.status, _shown.emails_sent) NOT IN ('sending', 'sent') THEN
		RETURN false;
	END IF;
	UPDATE mailchimp_sync.campaign c SET goal = NULL, status = 'sending' WHERE c.campaign_id = _c.campaign_id;
	PERFORM mailchimp_sync.campaign_go(_c.campaign_id);
	UPDATE mailchimp_sync.campaign c SET went_at = NULL WHERE c.campaign_id = _c.campaign_id;
	PERFORM mailchimp_sync.import_state_seen(_c, mailchimp_sync.clock(), _shown);
	UPDATE mailchimp_sync.campaign c SET last_error = 'Mailchimp was sending it already' WHERE c.campaign_id = _c.campaign_id;
	RETURN true;
END
$$;

-- whose address it is: a contact of that audience, else of another; no row: nobody's
CREATE FUNCTION mailchimp_sync.import_person(_audience_id integer, _email_hash text, OUT source_id integer, OUT contact_key text)
RETURNS SETOF record
LANGUAGE sql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT b.source_id, b.contact_key FROM mailchimp_sync.audience a
	CROSS JOIN LATERAL mailchimp_sync.contact_behind(a.audience_id, _email_hash) b
	ORDER BY a.audience_id IS DISTINCT FROM _audience_id, a.audience_id LIMIT 1
$$;

-- who is shown by a page of a report gets a row, unless there is one; whoever was erased does not
CREATE FUNCTION mailchimp_sync.import_recipients(_campaign_id bigint, _ids text[], _emails text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off		-- a page of persons: looked up one by one (activity.sql)
SET enable_mergejoin = off
SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id AND c.origin = 'imported';
	IF NOT FOUND THEN
		RETURN;
	END IF;
	INSERT INTO mailchimp_sync.recipient (campaign_id, source_id, contact_key, email, email_hash, status, filled, added_at, added_by)
	SELECT DISTINCT ON (g.email_hash) _campaign_id, coalesce(k.source_id, 0), coalesce(k.contact_key, g.email_hash), g.email, g.email_hash,
		'sent', true, mailchimp_sync.clock(), _c.created_by
	FROM (SELECT lower(u.id) COLLATE "C" AS email_hash, u.email FROM unnest(_ids, _emails) AS u(id, email)) g
	LEFT JOIN LATERAL mailchimp_sync.import_person(_c.audience_id, g.email_hash) k ON true
	WHERE NOT EXISTS (SELECT FROM mailchimp_sync.recipient n WHERE n.campaign_id = _campaign_id AND n.email_hash = g.email_hash)
		AND NOT EXISTS (SELECT FROM mailchimp_sync.erased e WHERE e.email_hash = g.email_hash)
	ORDER BY g.email_hash
	ON CONFLICT (campaign_id, source_id, contact_key) DO NOTHING;
END
$$;

/*
 * Campaigns are often imported before there is an audience, and its contacts are unknown then. So for a day after one was switched on, a
 * poll of a campaign that came before looks once more whose the addresses are.
 */
CREATE FUNCTION mailchimp_sync.import_link(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
SET enable_hashjoin = off
SET enable_mergejoin = off
AS $$
DECLARE
	_c	mailchimp_sync.campaign;
BEGIN
	SELECT * INTO _c FROM mailchimp_sync.campaign c WHERE c.campaign_id = _campaign_id AND c.origin = 'imported'
		AND c.linked_at <= (SELECT max(a.active_since) FROM mailchimp_sync.audience a) + interval '1 day';
	IF NOT FOUND THEN
		RETURN;
	END IF;
	UPDATE mailchimp_sync.campaign SET linked_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
	WITH known AS MATERIALIZED (
		SELECT DISTINCT ON (k.source_id, k.contact_key) r.contact_key AS address, r.email_hash, k.source_id, k.contact_key
		FROM mailchimp_sync.recipient r CROSS JOIN LATERAL mailchimp_sync.import_person(_c.audience_id, r.email_hash) k
		WHERE r.campaign_id = _campaign_id AND r.source_id = 0 AND r.email IS NOT NULL
			AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient o WHERE o.campaign_id = _campaign_id AND o.source_id = k.source_id
				AND o.contact_key = k.contact_key)
		ORDER BY k.source_id, k.contact_key, r.email_hash
	), named AS (
		UPDATE mailchimp_sync.recipient r SET source_id = k.source_id, contact_key = k.contact_key FROM known k
		WHERE r.campaign_id = _campaign_id AND r.source_id = 0 AND r.contact_key = k.address
	)
	UPDATE mailchimp_sync.activity a SET source_id = k.source_id, contact_key = k.contact_key FROM known k
	WHERE a.campaign_id = _campaign_id AND a.email_hash = k.email_hash AND a.source_id IS NULL;
END
$$;

/*
 * Who unsubscribed by an imported campaign before it was imported is no news. They are in the opt-out group all the same (R45), but
 * for those whom the list has shown as subscribed since: they have let themselves in again before anybody here knew that they had left.
 */
CREATE FUNCTION mailchimp_sync.import_came_back(_audience_id integer, _line mailchimp_sync.activity) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.campaign c
			WHERE c.campaign_id = _line.campaign_id AND c.origin = 'imported' AND _line.occurred_at < c.imported_at)
		AND EXISTS (SELECT FROM mailchimp_sync.member m WHERE m.audience_id = _audience_id AND m.email_hash = _line.email_hash
			AND m.status = 'subscribed' AND m.last_changed > _line.occurred_at);
END
$$;

CREATE FUNCTION mailchimp_sync.import_is_past(_line mailchimp_sync.activity) RETURNS boolean
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN EXISTS (SELECT FROM mailchimp_sync.campaign c
		WHERE c.campaign_id = _line.campaign_id AND c.origin = 'imported' AND _line.occurred_at < c.imported_at);
END
$$;

-- an audience is made of a list: the campaigns of that list are its own from now on
CREATE FUNCTION mailchimp_sync.import_coupled(_connection text, _list_id text, _audience_id integer) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign c SET audience_id = _audience_id
	WHERE c.connection = _connection AND c.list_id = _list_id AND c.origin = 'imported'
$$;
