/*
 * send_tidy.sql: what is left of a campaign that was sent. Its segment is a tag on each of its recipients at Mailchimp;
 * some time after the sending it is removed there, one at a time of each connection.
 *
 * The campaign has no goal and no step then, so people can delete it meanwhile: the answer must not be taken for that of
 * a step of theirs.
 */

-- so long people may look at Mailchimp whom it was sent to, and make a segment of their own of that
CREATE FUNCTION mailchimp_sync.tidy_after() RETURNS interval
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$ SELECT interval '7 days' $$;

-- the next one of a connection, which may be due in a while
CREATE FUNCTION mailchimp_sync.campaign_to_tidy(_connection text) RETURNS SETOF mailchimp_sync.campaign
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN QUERY SELECT c.* FROM mailchimp_sync.campaign c
	WHERE c.connection = _connection AND c.tidy_at IS NOT NULL AND c.segment_id IS NOT NULL AND c.goal IS NULL
		AND c.status IN ('sent', 'deleted')		-- deleted: at Mailchimp, by people
		AND NOT EXISTS (SELECT FROM mailchimp_sync.audience a WHERE a.audience_id = c.audience_id AND a.paused)
	ORDER BY c.tidy_at LIMIT 1;
END
$$;

-- is this the answer to such a request?
CREATE FUNCTION mailchimp_sync.is_tidying(_c mailchimp_sync.campaign, _step text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _step = 'drop_segment' AND _c.step IS DISTINCT FROM 'drop_segment'
$$;

CREATE FUNCTION mailchimp_sync.tidy_done(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.campaign SET segment_id = NULL, tidy_at = NULL WHERE campaign_id = _c.campaign_id;
	IF _c.goal IS NULL THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id);
	END IF;
END
$$;

-- it does no harm where it is, so tomorrow is soon enough
CREATE FUNCTION mailchimp_sync.tidy_refused(_c mailchimp_sync.campaign, _title text, _detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_at	timestamptz := mailchimp_sync.day_later();
BEGIN
	UPDATE mailchimp_sync.campaign SET tidy_at = _at WHERE campaign_id = _c.campaign_id;
	IF _c.goal IS NULL THEN
		UPDATE mailchimp_sync.campaign SET begun_at = NULL, last_error = concat_ws(': ', _title, _detail)
		WHERE campaign_id = _c.campaign_id;
		PERFORM mailchimp_sync.note_campaign_failure(_c.campaign_id, _title, _detail, _at);
	END IF;
END
$$;
