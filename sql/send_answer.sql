/*
 * send_answer.sql: what each answer of Mailchimp means for a campaign (see send.sql).
 *
 * Called by src/campaign.c with what it read in the answer; all of them end by
 * saying where the campaign goes.
 */

-- what was asked before is known to have landed
CREATE FUNCTION mailchimp_sync.forget_ghosts(_campaign_id bigint, _step text) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	DELETE FROM mailchimp_sync.inflight f
	WHERE f.kind = 'campaign' AND f.campaign_id = _campaign_id AND f.phase = _step AND f.doubt_at IS NOT NULL
$$;

-- a look that began then shows all that the request in doubt can ever have done
CREATE FUNCTION mailchimp_sync.doubt_is_over(_c mailchimp_sync.campaign, _looked_at timestamptz) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT _looked_at >= _c.begun_at + mailchimp_sync.ghost_life()
$$;

-- looks again after 1, 2, 4 ... s, the last time when nothing can land any more
CREATE FUNCTION mailchimp_sync.look_again(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.campaign_stay(_c.campaign_id, 'nobody knows yet whether the last request arrived at Mailchimp', NULL,
		greatest(interval '1 second', least(interval '1 minute',
			_c.begun_at + mailchimp_sync.ghost_life() - mailchimp_sync.clock())))
$$;

-- the next page of a search; what is in doubt stays so
CREATE FUNCTION mailchimp_sync.campaign_look_on(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET cursor = coalesce(_c.cursor::integer, 0) + mailchimp_sync.page_size(), next_attempt_at = NULL
	WHERE campaign_id = _c.campaign_id
$$;

-- by it we know again what is ours, also when people have changed the rest of the name
CREATE FUNCTION mailchimp_sync.bears_marker(_name text, _marker text) RETURNS boolean
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT strpos(_name, format('[%s]', _marker)) > 0
$$;

CREATE FUNCTION mailchimp_sync.segment_done(_campaign_id bigint, _segment_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	UPDATE mailchimp_sync.campaign SET segment_id = _segment_id WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.forget_ghosts(_campaign_id, 'segment');
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'remove');
END
$$;

CREATE FUNCTION mailchimp_sync.find_segment_done(_campaign_id bigint, _looked_at timestamptz, _ids text[], _names text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_found	bigint;
BEGIN
	SELECT f.id::bigint INTO _found FROM unnest(_ids, _names) AS f(id, name)
	WHERE mailchimp_sync.bears_marker(f.name, _c.marker) LIMIT 1;
	IF _found IS NULL AND cardinality(_ids) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_look_on(_c);
	ELSIF _c.restored_at IS NOT NULL THEN
		UPDATE mailchimp_sync.campaign SET segment_id = coalesce(_found, segment_id) WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'find_campaign');
	ELSIF _found IS NOT NULL THEN
		PERFORM mailchimp_sync.segment_done(_campaign_id, _found);
	ELSIF mailchimp_sync.doubt_is_over(_c, _looked_at) THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'segment');
	ELSE
		PERFORM mailchimp_sync.look_again(_c);
	END IF;
END
$$;

-- the recipients that a request carries, by source: they are to be found by the primary key, whatever the planner thinks
CREATE FUNCTION mailchimp_sync.carried_recipients(_inflight_id bigint, OUT source_id integer, OUT contact_keys text[])
RETURNS SETOF record
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT u.source_id, array_agg(u.contact_key COLLATE "C" ORDER BY u.contact_key COLLATE "C")
	FROM mailchimp_sync.inflight f
	CROSS JOIN LATERAL unnest(f.source_ids, f.contact_keys) AS u(source_id, contact_key)
	WHERE f.inflight_id = _inflight_id GROUP BY u.source_id
$$;

-- figures of the segment count anew; how many are expected is counted when they are asked for (ask_count)
CREATE FUNCTION mailchimp_sync.segment_changed(_campaign_id bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.campaign SET count_looks = 0, count_last = NULL, count_since = NULL, segment_expected = NULL
	WHERE campaign_id = _campaign_id
$$;

/*
 * All but those that the answer names as errors are in it now; these cannot be
 * mailed. _refused: JSON arrays of addresses, for each of _errors.
 */
CREATE FUNCTION mailchimp_sync.fill_done(_inflight_id bigint, _campaign_id bigint, _refused text[], _errors text[])
RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_sent	record;
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	FOR _sent IN SELECT * FROM mailchimp_sync.carried_recipients(_inflight_id) LOOP
		UPDATE mailchimp_sync.recipient r SET filled = true
		WHERE r.campaign_id = _campaign_id AND r.source_id = _sent.source_id
			-- a range is read by the index in any case
			AND r.contact_key BETWEEN _sent.contact_keys[1] AND _sent.contact_keys[cardinality(_sent.contact_keys)]
			AND r.contact_key = ANY (_sent.contact_keys);
		UPDATE mailchimp_sync.recipient r SET segment_email = NULL, filled = false, status = 'skipped', skip_reason = 'not_member',
			detail = e.error
		FROM (SELECT DISTINCT ON (1) mailchimp_sync.email_hash(u.email) AS email_hash, u.error
				FROM unnest(_refused, _errors) AS x(emails, error)
				CROSS JOIN LATERAL (SELECT t.email, x.error
					FROM jsonb_array_elements_text(x.emails::jsonb) AS t(email)) u) e
		WHERE r.campaign_id = _campaign_id AND r.source_id = _sent.source_id
			-- a range is read by the index in any case
			AND r.contact_key BETWEEN _sent.contact_keys[1] AND _sent.contact_keys[cardinality(_sent.contact_keys)]
			AND r.contact_key = ANY (_sent.contact_keys)
			AND r.email_hash = e.email_hash;
	END LOOP;
	PERFORM mailchimp_sync.segment_changed(_campaign_id);
	-- somebody may have opted out meanwhile
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'remove');
END
$$;

CREATE FUNCTION mailchimp_sync.remove_done(_inflight_id bigint, _campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_sent	record;
BEGIN
	FOR _sent IN SELECT * FROM mailchimp_sync.carried_recipients(_inflight_id) LOOP
		UPDATE mailchimp_sync.recipient r SET segment_email = NULL, filled = false
		WHERE r.campaign_id = _campaign_id AND r.source_id = _sent.source_id
			-- a range is read by the index in any case
			AND r.contact_key BETWEEN _sent.contact_keys[1] AND _sent.contact_keys[cardinality(_sent.contact_keys)]
			AND r.contact_key = ANY (_sent.contact_keys);
	END LOOP;
	PERFORM mailchimp_sync.segment_changed(_campaign_id);
	-- somebody may have wanted something of a prepared campaign meanwhile: that goes its way from the start
	PERFORM mailchimp_sync.campaign_go(_campaign_id, coalesce(_c.step, 'remove'));
END
$$;

CREATE FUNCTION mailchimp_sync.create_done(_campaign_id bigint, _mailchimp_id text, _web_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	UPDATE mailchimp_sync.campaign SET mailchimp_id = _mailchimp_id, web_id = _web_id WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.forget_ghosts(_campaign_id, 'create');
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'settings');
END
$$;

CREATE FUNCTION mailchimp_sync.find_campaign_done(_campaign_id bigint, _looked_at timestamptz, _ids text[],
	_web_ids text[], _statuses text[], _titles text[], _segment_ids text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c		mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
	_found	record;
BEGIN
	-- what people replicated from it is younger; what was sent to its segment is ours, whatever title somebody gave it
	SELECT f.* INTO _found
	FROM unnest(_ids, _web_ids, _statuses, _titles, _segment_ids) WITH ORDINALITY
		AS f(id, web_id, status, title, segment_id, position)
	WHERE mailchimp_sync.bears_marker(f.title, _c.marker)
		OR (f.segment_id = _c.segment_id::text AND f.status IN ('sending', 'sent'))
	ORDER BY f.position DESC LIMIT 1;
	IF _found.id IS NULL AND cardinality(_ids) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_look_on(_c);
	ELSIF _c.restored_at IS NOT NULL THEN
		UPDATE mailchimp_sync.campaign SET mailchimp_id = _found.id, web_id = _found.web_id::bigint
		WHERE campaign_id = _campaign_id RETURNING * INTO _c;
		IF _found.id IS NOT NULL THEN
			PERFORM mailchimp_sync.campaign_go(_campaign_id, 'look');
		ELSE
			PERFORM mailchimp_sync.campaign_traced(_c, NULL);
		END IF;
	ELSIF _c.begun_at IS NULL AND _found.id IS NOT NULL THEN
		-- not by us, as far as we know: this database was taken back to an earlier state
		UPDATE mailchimp_sync.campaign SET restored_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'trace');
	ELSIF _c.begun_at IS NULL THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'create');
	ELSIF _found.id IS NOT NULL THEN
		PERFORM mailchimp_sync.create_done(_campaign_id, _found.id, _found.web_id::bigint);
	ELSIF mailchimp_sync.doubt_is_over(_c, _looked_at) THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'create');
	ELSE
		PERFORM mailchimp_sync.look_again(_c);
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.settings_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	UPDATE mailchimp_sync.campaign SET altered = false WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.segment_changed(_campaign_id);
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'content');
END
$$;

CREATE FUNCTION mailchimp_sync.content_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	UPDATE mailchimp_sync.campaign SET content_at = mailchimp_sync.clock() WHERE campaign_id = _campaign_id;
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'count');
END
$$;

/*
 * The campaign as Mailchimp shows it, read in several steps. Whatever step that
 * is: one that Mailchimp is sending or has sent is on its way, whoever did that.
 */
CREATE FUNCTION mailchimp_sync.look_done(_campaign_id bigint, _step text, _looked_at timestamptz,
	_shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	PERFORM mailchimp_sync.adopt_shown(_c, _shown);
	IF mailchimp_sync.adopt_sending(_c, _shown) THEN
		RETURN;
	ELSIF _shown.status = 'schedule' AND _c.status <> 'sent' AND _c.step <> 'sent' THEN
		PERFORM mailchimp_sync.campaign_shown_scheduled(_c, _looked_at, _shown.send_time);
	ELSIF _step = 'recall' THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'drop_campaign');
	ELSIF _c.step = 'unschedule' AND _shown.status IN ('save', 'paused') THEN
		PERFORM mailchimp_sync.unschedule_done(_campaign_id);
	ELSIF _step = 'look' AND _c.restored_at IS NOT NULL
			AND (_shown.status IN ('save', 'paused') OR _c.goal IN ('cancel', 'delete')) THEN
		PERFORM mailchimp_sync.campaign_traced(_c, _shown.template_id);
	-- after the order to send it may show as scheduled for a moment (API 5.8)
	ELSIF _shown.status NOT IN ('save', 'paused') AND NOT (_step = 'sent' AND _shown.status = 'schedule') THEN
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'changed at Mailchimp', format('it is "%s" there', _shown.status));
	ELSIF _step = 'count' AND _shown.segment_id IS DISTINCT FROM _c.segment_id THEN
		PERFORM mailchimp_sync.campaign_aims_elsewhere(_c);
	ELSIF _step = 'count' THEN
		PERFORM mailchimp_sync.campaign_counted(_c, _shown.recipient_count);
	ELSIF _step = 'look' THEN
		PERFORM mailchimp_sync.campaign_unsent(_c, _looked_at);
	ELSE
		PERFORM mailchimp_sync.campaign_lingers(_c);
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.campaign_leaving(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.campaign SET goal = 'send',
		status = coalesce(mailchimp_sync.campaign_leads_to('leave', status), status)
	WHERE campaign_id = _c.campaign_id;
	PERFORM mailchimp_sync.forget_ghosts(_c.campaign_id, 'send');
	IF _c.step IS NOT DISTINCT FROM 'sent' THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, NULL, _first => '250 milliseconds');
	ELSE
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'sent', '250 milliseconds');
	END IF;
END
$$;

-- who joined the group after the last look, when Mailchimp had the order already (D12)
CREATE FUNCTION mailchimp_sync.note_late_opt_outs(_campaign_id bigint) RETURNS void
LANGUAGE sql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
	UPDATE mailchimp_sync.recipient r SET detail = 'opted out when it was too late'
	FROM (SELECT n.source_id, n.contact_key FROM mailchimp_sync.opt_out o
		JOIN mailchimp_sync.recipient n ON n.campaign_id = _campaign_id AND n.source_id = o.source_id
			AND n.contact_key = o.contact_key
		UNION
		SELECT n.source_id, n.contact_key FROM mailchimp_sync.opt_out o
		JOIN mailchimp_sync.recipient n ON n.campaign_id = _campaign_id AND n.email_hash = o.email_hash) late
	WHERE r.campaign_id = _campaign_id AND r.source_id = late.source_id AND r.contact_key = late.contact_key
		AND r.status = 'sent'
$$;

/*
 * It was sent. To those who are in the segment, if all went as we wanted it. To whom it went else, Mailchimp
 * alone can say: after a restore, or when somebody who was to leave the segment was still in it, as when
 * people send it there, or its hour comes while they are being taken out.
 */
CREATE FUNCTION mailchimp_sync.campaign_sent(_c mailchimp_sync.campaign, _shown mailchimp_sync.shown) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_is_known	boolean := _c.restored_at IS NULL AND _shown.status = 'sent'
		AND _shown.segment_id IS NOT DISTINCT FROM _c.segment_id
		AND NOT EXISTS (SELECT FROM mailchimp_sync.leaving_recipients(_c.campaign_id, 1))
		AND NOT EXISTS (SELECT FROM mailchimp_sync.coming_recipients(_c.campaign_id, 1));
BEGIN
	UPDATE mailchimp_sync.recipient SET status = 'sent'
	WHERE campaign_id = _c.campaign_id AND status = 'pending' AND _is_known;
	PERFORM mailchimp_sync.note_late_opt_outs(_c.campaign_id);
	PERFORM mailchimp_sync.forget_ghosts(_c.campaign_id, 'send');
	UPDATE mailchimp_sync.campaign SET status = mailchimp_sync.campaign_leads_to('end', _c.status),
		goal = CASE WHEN NOT _is_known THEN 'send' END, emails_sent = _shown.emails_sent,
		sent_at = coalesce(_shown.send_time, mailchimp_sync.clock()), told_for = NULL,
		next_poll_at = mailchimp_sync.clock(), tidy_at = mailchimp_sync.clock() + mailchimp_sync.tidy_after()
	WHERE campaign_id = _c.campaign_id;
	PERFORM mailchimp_sync.campaign_go(_c.campaign_id, CASE WHEN NOT _is_known THEN 'sent_to' END);
	PERFORM mailchimp_sync.signal_campaign('campaign_sent', _c.campaign_id);
END
$$;

-- after doubt: unsent. Only when the old request can no longer land it is tried again, fixed anew
CREATE FUNCTION mailchimp_sync.campaign_unsent(_c mailchimp_sync.campaign, _looked_at timestamptz) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF mailchimp_sync.doubt_is_over(_c, _looked_at) THEN
		UPDATE mailchimp_sync.campaign SET status = coalesce(mailchimp_sync.campaign_leads_to('stay', _c.status), status)
		WHERE campaign_id = _c.campaign_id;
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'recheck');
	ELSE
		PERFORM mailchimp_sync.look_again(_c);
	END IF;
END
$$;

-- Mailchimp took the order to send and shows the campaign as unsent: it is never given twice
CREATE FUNCTION mailchimp_sync.campaign_lingers(_c mailchimp_sync.campaign) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	IF _c.attempts < 22 THEN
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id, 'Mailchimp has the order to send it and has not begun yet',
			_first => '250 milliseconds');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_c.campaign_id, 'not sent', 'Mailchimp took the order to send it and did not begin');
	END IF;
END
$$;

/*
 * Mailchimp counts the recipients some time after the segment was filled, and its figures
 * are cached. Equal: on. Else, after three equal looks and five minutes, the segment itself is
 * read: who is missing is skipped, who should not be there is taken out.
 */
CREATE FUNCTION mailchimp_sync.campaign_counted(_c mailchimp_sync.campaign, _count bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_looks	integer := CASE WHEN _c.count_last = _count THEN _c.count_looks + 1 ELSE 1 END;
	_since	timestamptz := coalesce(_c.count_since, mailchimp_sync.clock());
BEGIN
	UPDATE mailchimp_sync.campaign SET count_last = _count, count_looks = _looks, count_since = _since
	WHERE campaign_id = _c.campaign_id;
	IF _count = _c.segment_expected THEN
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'checklist');
	ELSIF _looks >= 3 AND mailchimp_sync.clock() >= _since + interval '5 minutes' THEN
		UPDATE mailchimp_sync.recipient SET seen = false WHERE campaign_id = _c.campaign_id AND seen;
		PERFORM mailchimp_sync.campaign_go(_c.campaign_id, 'walk');
	ELSE
		PERFORM mailchimp_sync.campaign_stay(_c.campaign_id,
			format('Mailchimp counts %s of %s recipients', _count, _c.segment_expected), _first => '250 milliseconds');
	END IF;
END
$$;

-- a page of the segment's members that can get mail; the walk ends on a short page
CREATE FUNCTION mailchimp_sync.walk_done(_campaign_id bigint, _hashes text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	UPDATE mailchimp_sync.recipient r SET seen = true, segment_email = coalesce(r.segment_email, r.email)
	WHERE r.campaign_id = _campaign_id AND r.email_hash = ANY (_hashes) AND r.status IN ('pending', 'skipped')
		AND NOT EXISTS (SELECT FROM mailchimp_sync.recipient o WHERE r.status = 'skipped' AND o.campaign_id = _campaign_id
			AND o.email_hash = r.email_hash AND o.status = 'pending');
	IF cardinality(_hashes) >= mailchimp_sync.page_size() THEN
		PERFORM mailchimp_sync.campaign_continue(_campaign_id, (coalesce(_c.cursor::integer, 0) + mailchimp_sync.page_size())::text);
		RETURN;
	END IF;
	UPDATE mailchimp_sync.recipient SET status = 'skipped', skip_reason = 'unsubscribed',
		detail = 'Mailchimp does not count it among the subscribed members of the segment'
	WHERE campaign_id = _campaign_id AND status = 'pending' AND filled AND NOT seen;
	IF EXISTS (SELECT FROM mailchimp_sync.leaving_recipients(_campaign_id, 1)) THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'remove');
	ELSIF _c.count_last < _c.segment_expected THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'checklist');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'too many recipients',
			format('Mailchimp counts %s recipients, and only %s were put in', _c.count_last, _c.segment_expected));
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.checklist_done(_campaign_id bigint, _is_ready boolean, _types text[], _headings text[],
	_details text[]) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	IF _is_ready AND 'error' <> ALL (_types) THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'arrive');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'not ready', (SELECT coalesce(
				string_agg(concat_ws(': ', i.heading, nullif(i.detail, '')), '; ' ORDER BY i.ordinality)
					FILTER (WHERE i.type = 'error'),
				string_agg(concat_ws(': ', i.heading, nullif(i.detail, '')), '; ' ORDER BY i.ordinality)
					FILTER (WHERE i.type <> 'success'), 'Mailchimp gives no reason')
			FROM unnest(_types, _headings, _details) WITH ORDINALITY AS i(type, heading, detail)));
	END IF;
END
$$;

CREATE FUNCTION mailchimp_sync.send_done(_campaign_id bigint) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	PERFORM mailchimp_sync.answered_campaign(_campaign_id);
	PERFORM mailchimp_sync.campaign_go(_campaign_id, 'sent');
END
$$;

/* ---- no ---- */

CREATE FUNCTION mailchimp_sync.drop_done(_campaign_id bigint, _step text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	IF mailchimp_sync.is_tidying(_c, _step) THEN
		PERFORM mailchimp_sync.tidy_done(_c);
		RETURN;
	ELSIF _step = 'drop_segment' THEN
		UPDATE mailchimp_sync.campaign SET segment_id = NULL WHERE campaign_id = _campaign_id;
		UPDATE mailchimp_sync.recipient SET segment_email = NULL, filled = false
		WHERE campaign_id = _campaign_id AND segment_email IS NOT NULL;
	END IF;
	PERFORM mailchimp_sync.campaign_go(_campaign_id,
		(SELECT s.next FROM mailchimp_sync.campaign_steps() s WHERE s.step = _step));
END
$$;

/*
 * Mailchimp answered no (4xx). 404 means different things: what is to go is gone
 * already; a segment that somebody deleted is made anew; a campaign never is, since
 * nobody could say any more whether it had been sent.
 */
CREATE FUNCTION mailchimp_sync.campaign_refused(_campaign_id bigint, _step text, _status integer, _title text,
	_detail text) RETURNS void
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_c	mailchimp_sync.campaign := mailchimp_sync.answered_campaign(_campaign_id);
BEGIN
	IF _status = 404 AND _step IN ('recall', 'drop_campaign', 'drop_segment') THEN
		PERFORM mailchimp_sync.drop_done(_campaign_id, _step);
	ELSIF mailchimp_sync.is_tidying(_c, _step) THEN
		PERFORM mailchimp_sync.tidy_refused(_c, _title, _detail);
	ELSIF _status = 404 AND _step IN ('look', 'unschedule') AND _c.goal IN ('cancel', 'delete') THEN
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'recall');
	ELSIF _status = 404 AND _step = 'renew' THEN
		UPDATE mailchimp_sync.campaign SET segment_id = NULL WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.campaign_taken_over(_campaign_id);
	ELSIF _status = 404 AND _step = 'tag_members' THEN
		PERFORM mailchimp_sync.segment_walked(_campaign_id);
	ELSIF _status = 404 AND _step IN ('fill', 'remove', 'walk') THEN
		UPDATE mailchimp_sync.recipient SET segment_email = NULL, filled = false
		WHERE campaign_id = _campaign_id AND segment_email IS NOT NULL;
		UPDATE mailchimp_sync.campaign SET segment_id = NULL, altered = mailchimp_id IS NOT NULL
		WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'segment');
	ELSIF _step IN ('domain', 'template') THEN
		PERFORM mailchimp_sync.ready_refused(_c, _step, _status);
	ELSIF _status = 404 AND _step IN ('segment', 'find_segment') THEN
		PERFORM mailchimp_sync.part_is_stale(_c.connection, 'lists');
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, 'the list is gone', mailchimp_sync.list_gone_words(_c));
	ELSIF _status = 403 AND _step NOT IN ('schedule', 'unschedule') THEN
		PERFORM mailchimp_sync.campaign_forbidden(_c, _detail);
	ELSIF _status = 400 AND _step = 'content' THEN
		PERFORM mailchimp_sync.content_refused(_c, _title, _detail);
	ELSIF _step = 'schedule' AND (_status = 403 OR _status <> 404 AND _c.refusals >= 4) THEN
		PERFORM mailchimp_sync.schedule_refused(_c, _title, _detail);
	ELSIF _step = 'unschedule' AND _status <> 404 AND _c.refusals < 4 THEN
		PERFORM mailchimp_sync.unschedule_refused(_c);
	ELSIF _step IN ('send', 'schedule') AND _status <> 404 AND _c.refusals < 4 THEN
		-- it may be counting again
		UPDATE mailchimp_sync.campaign SET status = coalesce(mailchimp_sync.campaign_leads_to('stay', _c.status), status),
			refusals = _c.refusals + 1
		WHERE campaign_id = _campaign_id;
		PERFORM mailchimp_sync.segment_changed(_campaign_id);
		PERFORM mailchimp_sync.campaign_go(_campaign_id, 'count', 2 ^ _c.refusals * interval '1 second');
	ELSE
		PERFORM mailchimp_sync.campaign_fail(_campaign_id, _title, CASE WHEN _status = 404
			AND _step IN ('settings', 'content', 'count', 'checklist', 'schedule', 'correct', 'unschedule', 'send', 'look', 'sent')
			THEN 'the campaign is gone at Mailchimp' ELSE _detail END);
	END IF;
END
$$;
