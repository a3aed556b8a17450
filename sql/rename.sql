/*
 * rename.sql: a contact's address changed, and the member moves with it.
 *
 * One PATCH of email_address keeps the member's status and history (D10); its
 * other data follow by push under the new address. Waits for every ghost of
 * both addresses.
 *
 * Mailchimp moves nobody to an address that the list has. Where it is another
 * contact's who moves too, that one goes first; where contacts took each other's
 * addresses in a circle one of them steps aside to an address of its own
 * ("aside"), so that each keeps its status and none inherits another's. Where the
 * address is there for good, the contact gives its former one up and takes over the
 * member under the new one (desired.sql); that an address is there may first be
 * known by the refusal.
 *
 * Whether a member has moved or stepped aside is not known until an answer comes, perhaps of
 * a later request: contact.aside_email says until then where it may be instead, and whoever
 * finds nobody under member_hash looks there. Where it is to go elsewhere meanwhile, or to stay,
 * Mailchimp is asked first ("look"): else somebody who had unsubscribed would
 * be left behind under the one address and be subscribed under the other.
 *
 * With direction both the address may have changed at Mailchimp as well: who is to move waits for a read that began after
 * that was decided, as those who leave do (read.sql), and whoever is not found then is asked for by Mailchimp's id.
 */
CREATE INDEX contact_rename_due ON mailchimp_sync.contact (audience_id, next_attempt_at NULLS FIRST)
	WHERE action = 'rename';

-- the contact that is at Mailchimp under an address and is to move
CREATE FUNCTION mailchimp_sync.moves_away(_audience_id integer, _email_hash text)
RETURNS SETOF mailchimp_sync.contact
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT c.* FROM mailchimp_sync.contact c
	WHERE c.audience_id = _audience_id AND c.member_hash = _email_hash AND c.action = 'rename'
$$;

-- is the new address another one's, who moves away first?
CREATE FUNCTION mailchimp_sync.waits_for_another(_contact mailchimp_sync.contact) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT EXISTS (SELECT FROM mailchimp_sync.moves_away(_contact.audience_id, _contact.email_hash) o
		WHERE (o.source_id, o.contact_key) <> (_contact.source_id, _contact.contact_key))
$$;

/*
 * Do the contacts that wait for each other's addresses stand in a circle, in which nobody is on the way
 * yet? Many may wait (all addresses of a table moved by one row), so no more than a hundred are looked at: who has
 * to wait for as many may as well step aside, which is one request more and no harm.
 */
CREATE FUNCTION mailchimp_sync.waits_for_itself(_contact mailchimp_sync.contact) RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	WITH RECURSIVE way(email_hash, step) AS (
		SELECT _contact.email_hash, 1
		UNION ALL
		SELECT o.email_hash, w.step + 1 FROM way w
		CROSS JOIN LATERAL (SELECT m.email_hash FROM mailchimp_sync.moves_away(_contact.audience_id, w.email_hash) m LIMIT 1) o
		WHERE w.step < 100 AND w.email_hash <> _contact.member_hash
	)
	SELECT EXISTS (SELECT FROM way w WHERE w.email_hash = _contact.member_hash OR w.step = 100)
		AND NOT EXISTS (SELECT FROM way w JOIN mailchimp_sync.busy b USING (email_hash)
			WHERE b.audience_id = _contact.audience_id)
$$;

/*
 * The contact that can move next, of those that rest no longer than _before: one
 * whose new address nobody holds, else one of a circle, which steps aside.
 */
CREATE FUNCTION mailchimp_sync.rename_ready(_audience_id integer, _before timestamptz, OUT contact mailchimp_sync.contact, OUT aside boolean)
RETURNS SETOF record
LANGUAGE plpgsql STABLE ROWS 1
SET search_path = pg_catalog, pg_temp
SET enable_sort = off		-- by the index, and no further than to the first
AS $$
#variable_conflict use_column
BEGIN
	RETURN QUERY
	SELECT c.contact, k.aside
	FROM (VALUES (false), (true)) AS k(aside)
	CROSS JOIN LATERAL (SELECT o AS contact FROM mailchimp_sync.contact o
		WHERE o.audience_id = _audience_id AND o.action = 'rename' AND coalesce(o.next_attempt_at, '-infinity') <= _before
			AND o.source_id = ANY (ARRAY(SELECT s.source_id FROM mailchimp_sync.source s WHERE mailchimp_sync.source_is_usable(s)))
			AND o.member_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
			AND o.email_hash NOT IN (SELECT b.email_hash FROM mailchimp_sync.busy b WHERE b.audience_id = _audience_id)
			AND CASE WHEN k.aside THEN mailchimp_sync.waits_for_itself(o) ELSE NOT mailchimp_sync.waits_for_another(o) END
		ORDER BY o.next_attempt_at NULLS FIRST LIMIT 1) AS c
	LIMIT 1;
END
$$;

/*
 * Where a member waits until its new address is free: a sub-address of that one,
 * so that a mail sent meanwhile reaches the person still.
 */
CREATE FUNCTION mailchimp_sync.aside_address(_contact mailchimp_sync.contact) RETURNS text
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT format('%s+moving-%s@%s', left(split_part(_contact.email, '@', 1), 48),
		left(_contact.member_hash, 8), split_part(_contact.email, '@', 2))
$$;

CREATE FUNCTION mailchimp_sync.rename_next(_connection text) RETURNS SETOF mailchimp_sync.work
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_ready	record;
	_now	mailchimp_sync.contact;
	_email	text;
BEGIN
	-- as far as that is done soon: many may be as they should again
	FOR _look IN 1 .. 50 LOOP
		SELECT (r.contact).*, r.aside, a.list_id, a.direction = 'both'
			AND (mailchimp_sync.is_read(a) AND (r.contact).changed_at < a.read_begun_at) IS NOT TRUE AS is_unread INTO _ready
		FROM mailchimp_sync.sending_audiences(_connection) a
		CROSS JOIN LATERAL mailchimp_sync.rename_ready(a.audience_id, mailchimp_sync.clock()) r LIMIT 1;
		-- evaluated anew just before the request, with all who have or had its addresses
		EXIT WHEN NOT FOUND
			OR NOT mailchimp_sync.fold_rivals(_ready.audience_id, _ready.source_id, ARRAY[_ready.contact_key]);
		SELECT c.* INTO _now FROM mailchimp_sync.contact c
		WHERE c.audience_id = _ready.audience_id AND c.source_id = _ready.source_id
			AND c.contact_key = _ready.contact_key AND c.action = 'rename'
			AND (c.member_hash, c.email_hash) = (_ready.member_hash, _ready.email_hash)
			AND mailchimp_sync.waits_for_another(c) = _ready.aside;
		IF FOUND AND _ready.is_unread THEN
			UPDATE mailchimp_sync.contact c SET next_attempt_at = 'infinity'
			WHERE c.audience_id = _now.audience_id AND c.source_id = _now.source_id AND c.contact_key = _now.contact_key;
		ELSIF FOUND THEN
			_email := CASE WHEN _ready.aside THEN mailchimp_sync.aside_address(_now) ELSE _now.email END;
			IF mailchimp_sync.email_hash(_now.aside_email) <> mailchimp_sync.email_hash(_email) THEN
				RETURN NEXT mailchimp_sync.look_work(_connection, _ready.list_id, _now);
			ELSE
				UPDATE mailchimp_sync.contact c SET aside_email = _email
				WHERE c.audience_id = _now.audience_id AND c.source_id = _now.source_id AND c.contact_key = _now.contact_key;
				RETURN NEXT mailchimp_sync.rename_work(_connection, _ready.list_id, _now, _email);
			END IF;
			RETURN;
		END IF;
	END LOOP;
END
$$;

CREATE FUNCTION mailchimp_sync.rename_work(_connection text, _list_id text, _contact mailchimp_sync.contact, _email text)
RETURNS mailchimp_sync.work
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ROW(_connection, 'PATCH', format('/lists/%s/members/%s', _list_id, _contact.member_hash),
		jsonb_build_object('email_address', _email)::text, true, _contact.audience_id, NULL,
		CASE WHEN _email = _contact.email THEN 'rename' ELSE 'aside' END,
		ARRAY[_contact.source_id, _contact.source_id], ARRAY[_contact.contact_key, _contact.contact_key],
		ARRAY[_contact.member_hash, mailchimp_sync.email_hash(_email)], ARRAY[_contact.version, _contact.version],
		ARRAY[_contact.desired_hash, _contact.desired_hash])::mailchimp_sync.work
$$;

-- is it still there under its former address?
CREATE FUNCTION mailchimp_sync.look_work(_connection text, _list_id text, _contact mailchimp_sync.contact)
RETURNS mailchimp_sync.work
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT ROW(_connection, 'GET', format('/lists/%s/members/%s?fields=email_address,status', _list_id, _contact.member_hash),
		NULL, false, _contact.audience_id, NULL, 'look', ARRAY[_contact.source_id, _contact.source_id],
		ARRAY[_contact.contact_key, _contact.contact_key], ARRAY[_contact.member_hash, _contact.member_hash],
		ARRAY[_contact.version, _contact.version],
		ARRAY[_contact.desired_hash, _contact.desired_hash])::mailchimp_sync.work
$$;

CREATE FUNCTION mailchimp_sync.rename_due() RETURNS timestamptz
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	RETURN (
		SELECT min(greatest(coalesce((r.contact).next_attempt_at, mailchimp_sync.clock()), a.next_attempt_at))
		FROM mailchimp_sync.usable_connection u
		JOIN mailchimp_sync.audience a USING (connection)
		CROSS JOIN LATERAL mailchimp_sync.rename_ready(a.audience_id, 'infinity') r
		WHERE a.active_since IS NOT NULL AND NOT a.paused AND mailchimp_sync.goes_out(a));
END
$$;

/*
 * The member is where the request says, with that status. _found false: there is none under the
 * old address. It may be where aside_email says; else the contact is subscribed as a new one, but
 * for somebody who was not to be mailed, of whom the new address has to say the same (D10).
 * Where the answer is the first to show an unsubscription, that was said of the former address, too, which
 * Mailchimp does not have any more.
 */
CREATE FUNCTION mailchimp_sync.rename_done(_inflight_id bigint, _found boolean, _email text, _status text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_f		mailchimp_sync.inflight;
	_former	mailchimp_sync.member;
	_hash	text;
BEGIN
	SELECT * INTO STRICT _f FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	SELECT * INTO _former FROM mailchimp_sync.member m
	WHERE m.audience_id = _f.audience_id AND m.email_hash = _f.email_hashes[1];
	IF NOT _found AND _f.phase = 'rename' AND mailchimp_sync.know_by_id(_former) THEN
		UPDATE mailchimp_sync.contact c SET action = NULL, attempts = 0, next_attempt_at = NULL, aside_email = NULL,
			member_hash = lower(_former.mailchimp_id)
		WHERE c.audience_id = _f.audience_id AND c.member_hash = _former.email_hash;
		PERFORM mailchimp_sync.rename_told(_f);
		RETURN;
	END IF;
	IF _found THEN
		_hash := _f.email_hashes[2];
	ELSIF _f.phase <> 'rename'
		OR _former.status IN ('unsubscribed', 'cleaned', 'archived') AND NOT _former.archived_by_us THEN
		SELECT c.aside_email, mailchimp_sync.email_hash(c.aside_email) INTO _email, _hash FROM mailchimp_sync.contact c
		WHERE c.audience_id = _f.audience_id AND c.source_id = _f.source_ids[1] AND c.contact_key = _f.contact_keys[1];
	END IF;
	IF _found THEN
		PERFORM mailchimp_sync.signal_statuses(_f.audience_id, ARRAY[_former.email_hash], ARRAY[_former.status], ARRAY[_status],
			ARRAY[NULL::text], ARRAY[NULL::timestamptz]);
	END IF;
	IF _f.email_hashes[1] IS DISTINCT FROM _hash THEN
		DELETE FROM mailchimp_sync.member m
		WHERE m.audience_id = _f.audience_id AND m.email_hash = coalesce(_hash, _f.email_hashes[1]);
	END IF;
	UPDATE mailchimp_sync.member m SET email_hash = _hash, email = _email,
		status = CASE WHEN _found THEN _status ELSE m.status END,
		status_before = CASE WHEN _found IS FALSE OR _status IN ('archived', 'unsubscribed') AND m.status IS DISTINCT FROM 'subscribed'
			THEN m.status_before END,
		-- we did that: the next read tells when; but not where what people changed there comes into the CRM
		last_changed = CASE WHEN _found AND _f.phase <> 'look' AND m.read_fields IS NULL THEN NULL ELSE m.last_changed END,
		-- a page asked for before that shows the old address
		read_at = CASE WHEN _found THEN mailchimp_sync.clock() ELSE m.read_at END,
		-- of a leave in doubt it is known now
		archived_by_us = m.archived_by_us AND (NOT _found OR _status = 'archived')
	WHERE m.audience_id = _f.audience_id AND m.email_hash = _f.email_hashes[1] AND _hash IS NOT NULL;
	UPDATE mailchimp_sync.contact c SET action = NULL, attempts = 0, next_attempt_at = NULL, sent_hash = NULL,
		member_hash = _hash, aside_email = NULL
	WHERE c.audience_id = _f.audience_id AND c.source_id = _f.source_ids[1] AND c.contact_key = _f.contact_keys[1];
	IF _found THEN
		PERFORM mailchimp_sync.members_seen(_f.audience_id, ARRAY[_hash], ARRAY[_status]);
		PERFORM mailchimp_sync.opt_out_add(NULL, NULL, _former.email, 'mailchimp', NULL, 'Mailchimp')
		FROM mailchimp_sync.audience a
		WHERE a.audience_id = _f.audience_id AND a.on_unsubscribe = 'opt_out'
			AND _status = 'unsubscribed' AND _former.status IS DISTINCT FROM 'unsubscribed'
			AND NOT mailchimp_sync.is_unsubscribed_by_us(_former)
			AND _former.email_hash <> _hash AND _former.email <> '';
	END IF;
	-- who was last known under the new address cannot be there any more, but may have stepped aside
	IF _found AND _f.phase <> 'look' THEN
		WITH gone AS (
			UPDATE mailchimp_sync.contact c SET member_hash = mailchimp_sync.email_hash(c.aside_email), aside_email = NULL,
				sent_hash = NULL
			WHERE c.audience_id = _f.audience_id AND c.member_hash = _hash
				AND (c.source_id, c.contact_key) <> (_f.source_ids[1], _f.contact_keys[1])
			RETURNING c.source_id, c.contact_key
		)
		INSERT INTO mailchimp_sync.event (source_id, contact_key) SELECT g.source_id, g.contact_key FROM gone g;
	END IF;
	DELETE FROM mailchimp_sync.failure x
	WHERE x.work = 'rename' AND x.audience_id = _f.audience_id
		AND x.source_id = _f.source_ids[1] AND x.contact_key = _f.contact_keys[1];
	PERFORM mailchimp_sync.rename_told(_f);
END
$$;

/*
 * A member that is not found under its address is known by its id from now on (which Mailchimp takes in place of a hash), until it
 * is found under another. False where that is not known, or was tried.
 */
CREATE FUNCTION mailchimp_sync.know_by_id(_member mailchimp_sync.member) RETURNS boolean
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
	UPDATE mailchimp_sync.member m SET email_hash = lower(m.mailchimp_id), look_at = mailchimp_sync.clock()
	FROM mailchimp_sync.audience a
	WHERE m.audience_id = _member.audience_id AND m.email_hash = _member.email_hash AND m.mailchimp_id <> ''
		AND m.email_hash <> lower(m.mailchimp_id) AND a.audience_id = m.audience_id AND a.direction = 'both';
	RETURN FOUND;
END
$$;

-- the contact, and all who wait for one of the addresses, are evaluated anew
CREATE FUNCTION mailchimp_sync.rename_told(_f mailchimp_sync.inflight) RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	INSERT INTO mailchimp_sync.event (source_id, contact_key)
	SELECT _f.source_ids[1], _f.contact_keys[1]
	UNION
	SELECT c.source_id, c.contact_key FROM unnest(_f.email_hashes) AS h(email_hash)
	JOIN mailchimp_sync.contact c ON c.audience_id = _f.audience_id AND c.email_hash = h.email_hash
$$;

/*
 * An answer that refuses it. Where the list has the new address (API 3.0: Member
 * Exists) the contact takes that member over, also where it could not step aside;
 * anything else rests with Mailchimp's words until the contact changes (or a day has passed, retry.sql).
 */
CREATE FUNCTION mailchimp_sync.rename_refused(_inflight_id bigint, _title text, _detail text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
	_f		mailchimp_sync.inflight;
	_c		mailchimp_sync.contact;
	_taken	boolean;
BEGIN
	SELECT * INTO STRICT _f FROM mailchimp_sync.inflight f WHERE f.inflight_id = _inflight_id;
	_taken := _f.phase = 'aside' OR _title = 'Member Exists' OR _detail LIKE '%already a list member%';
	UPDATE mailchimp_sync.contact c SET action = NULL,
		next_attempt_at = CASE WHEN NOT _taken AND mailchimp_sync.refuses_for_now(_detail)
			THEN mailchimp_sync.day_later() END,
		attempts = CASE WHEN _taken THEN 0 ELSE c.attempts + 1 END,
		taken_hash = CASE WHEN _taken THEN c.email_hash ELSE c.taken_hash END,
		aside_email = CASE WHEN _f.phase = 'look' THEN c.aside_email END,
		refused_hash = CASE WHEN NOT _taken THEN _f.hashes[1] END,
		state = CASE WHEN _taken THEN 'pending' ELSE 'refused' END,
		detail = CASE WHEN _taken THEN c.detail ELSE _detail END
	WHERE c.audience_id = _f.audience_id AND c.source_id = _f.source_ids[1] AND c.contact_key = _f.contact_keys[1]
	RETURNING c.* INTO _c;
	IF FOUND AND NOT _taken THEN
		PERFORM mailchimp_sync.note_failure('rename', _f.connection, _title, _detail, _c.next_attempt_at, _c.audience_id,
			_source_id => _c.source_id, _contact_key => _c.contact_key, _email => _c.email, _attempts => _c.attempts);
	END IF;
	PERFORM mailchimp_sync.rename_told(_f);
END
$$;

CREATE FUNCTION mailchimp_sync.rename_failed(_inflight_id bigint, _outcome text, _title text, _detail text,
	_retry_at timestamptz)
RETURNS void
LANGUAGE sql
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT mailchimp_sync.push_failed(_inflight_id, _outcome, _title, _detail, _retry_at)
$$;
