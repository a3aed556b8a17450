/*
 * account.sql: what people see of a connection and of the account behind it.
 */
CREATE VIEW @extschema@.mc_connection WITH (security_barrier) AS
SELECT s.connection, pg_catalog.pg_get_userbyid(s.owner)::text AS owner, s.dc AS datacenter, s.account_name, s.state,
	s.detail, s.checked_at
FROM mailchimp_sync.connection_state s
JOIN mailchimp_sync.permitted_connection p USING (connection);
COMMENT ON VIEW @extschema@.mc_connection IS 'the connections to Mailchimp accounts, and how they are';

CREATE VIEW @extschema@.mc_list WITH (security_barrier) AS
SELECT l.connection, l.list_id, l.name, l.from_name, l.from_email, l.member_count, a.audience
FROM mailchimp_sync.list l
JOIN mailchimp_sync.permitted_connection p USING (connection)
LEFT JOIN mailchimp_sync.audience a USING (connection, list_id);
COMMENT ON VIEW @extschema@.mc_list IS 'the lists of each account, as of the last mc_connect or mc_refresh, and the audience that is coupled to them';

CREATE VIEW @extschema@.mc_template WITH (security_barrier) AS
SELECT t.connection, t.template_id, t.name, t.active, t.edited_at
FROM mailchimp_sync.template t
JOIN mailchimp_sync.permitted_connection p USING (connection);
COMMENT ON VIEW @extschema@.mc_template IS 'the user templates of each account; not active: deleted at Mailchimp';

-- the providers with the most addresses, for domains of which Mailchimp says nothing
CREATE FUNCTION mailchimp_sync.is_free_mail(_domain text) RETURNS boolean
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT coalesce(_domain ~ '^(((g|google|proton)mail|aol|icloud|me|msn)\.com|(yahoo|hotmail|outlook|live|gmx)\.(com?\.)?[a-z]{2,3}|(web|t-online)\.de|proton\.me)$', false)
$$;

-- R4, R5: what is to be done about a domain that mail is sent from; null: nothing
CREATE FUNCTION mailchimp_sync.domain_advice(_domain text, _verified boolean, _authenticated boolean, _is_free_mail boolean)
RETURNS text
	LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
	SELECT CASE
		WHEN _is_free_mail THEN format('send from an address at a domain of your own: %s belongs to a provider of free mail, nobody else '
			'can publish records in its DNS, and mail in its name that comes from elsewhere is refused or taken for spam', _domain)
		WHEN NOT coalesce(_verified, false) THEN format('verify %s at Mailchimp (Account > Domains > Add & Verify Domain): '
			'a mail with a code goes to an address at that domain', _domain)
		WHEN NOT coalesce(_authenticated, false) THEN format('authenticate %s at Mailchimp (Account > Domains > Start '
			'Authentication) and publish the CNAME and TXT (SPF, DMARC) records that it shows in the domain''s DNS', _domain)
	END
$$;

CREATE VIEW @extschema@.mc_domain WITH (security_barrier) AS
SELECT d.connection, d.domain, d.verified, d.authenticated,
	mailchimp_sync.domain_advice(d.domain, d.verified, d.authenticated, d.is_free_mail) AS advice
FROM mailchimp_sync.domain d
JOIN mailchimp_sync.permitted_connection p USING (connection);
COMMENT ON VIEW @extschema@.mc_domain IS 'the sending domains of each account, and what is to be done about them';

-- EMAIL is a merge tag of every list, and no merge field
CREATE VIEW @extschema@.mc_merge_field WITH (security_barrier) AS
SELECT a.audience, f.tag, f.name, f.type, f.required,
	f.tag = 'EMAIL' OR EXISTS (SELECT FROM mailchimp_sync.audience_source x
		JOIN mailchimp_sync.source s USING (source_id)
		WHERE x.audience_id = a.audience_id AND s.field_exprs ? f.tag) AS mapped,
	'*|' || f.tag || '|*' AS example
FROM mailchimp_sync.audience a
JOIN mailchimp_sync.permitted_connection p USING (connection)
CROSS JOIN LATERAL (
	SELECT 'EMAIL' AS tag, 'Email Address' AS name, 'email' AS type, true AS required
	UNION ALL
	SELECT m.tag, m.name, m.type, m.required FROM mailchimp_sync.merge_field m
	WHERE m.connection = a.connection AND m.list_id = a.list_id) AS f;
COMMENT ON VIEW @extschema@.mc_merge_field IS
	'the merge tags that can be used in campaigns of each audience, and which of them its sources fill';

/* ---- asking again ---- */

CREATE FUNCTION @extschema@.mc_refresh(connection text) RETURNS void
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_refresh(text) IS
	'fetches lists, merge fields of coupled lists, templates and sending domains now';

CREATE FUNCTION mailchimp_sync.mc_refresh(_connection text) RETURNS void
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'mc_refresh';

CREATE FUNCTION mailchimp_sync.ask_account(_connection text, OUT outcome text, OUT status integer, OUT title text,
	OUT detail text, OUT retry_after_s integer)
	LANGUAGE c STRICT AS 'MODULE_PATHNAME', 'mc_ask_account';
COMMENT ON FUNCTION mailchimp_sync.ask_account(text) IS
	'as mc_refresh, but always allowed, and tells what Mailchimp says instead of raising it';

CREATE FUNCTION @extschema@.mc_check_connection(connection text) RETURNS TABLE (item text, ok boolean, detail text)
	LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'mc_gate';
COMMENT ON FUNCTION @extschema@.mc_check_connection(text) IS
	'asks Mailchimp now whether key, role, lists, templates and sending domains are ready for work, and says what to do';

-- R3-R7; also where nothing may be sent (paused, restored, .send off): it only looks
CREATE FUNCTION mailchimp_sync.mc_check_connection(_connection text)
RETURNS TABLE (item text, ok boolean, detail text)
	LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
	_reply	record;
	_c		mailchimp_sync.connection;
	_hint	text;
BEGIN
	PERFORM mailchimp_sync.require_connection(_connection);
	BEGIN
		SELECT * INTO _reply FROM mailchimp_sync.ask_account(_connection);
	EXCEPTION WHEN invalid_authorization_specification OR undefined_object THEN
		-- no key, a file that cannot be read, no server
		GET STACKED DIAGNOSTICS _hint = PG_EXCEPTION_HINT;
		RETURN QUERY SELECT 'key', false, format('%s. %s', SQLERRM, _hint);
		RETURN;
	END;
	IF _reply.title IS NOT NULL THEN
		PERFORM mailchimp_sync.connection_replied(_connection, _reply.outcome, _reply.status, _reply.detail,
			_reply.retry_after_s, false);
		RETURN QUERY SELECT 'key', false, format('%s: %s%s', _reply.title, _reply.detail,
			CASE WHEN _reply.status = 401 THEN ' Give a new key to mc_connect.' END);
		RETURN;
	END IF;
	SELECT * INTO _c FROM mailchimp_sync.connection c WHERE c.connection = _connection;
	RETURN QUERY
		SELECT 'key', true, format('account %s', _c.account_name)
		UNION ALL
		SELECT 'role', coalesce(_c.user_role NOT IN ('author', 'viewer'), false), CASE
			WHEN _c.user_role IN ('author', 'viewer') THEN format('the key''s user is %s; managing audiences and sending '
				'campaigns takes the role manager, admin or owner', _c.user_role)
			ELSE coalesce(_c.user_role, 'Mailchimp does not tell the role of the key''s user') END
		UNION ALL
		SELECT 'list', count(*) > 0, CASE WHEN count(*) > 0 THEN format('%s found', count(*))
			ELSE 'make an audience at Mailchimp, then call mc_refresh' END
		FROM mailchimp_sync.list l WHERE l.connection = _connection
		UNION ALL
		SELECT 'template', count(*) > 0, CASE WHEN count(*) > 0 THEN format('%s found', count(*))
			ELSE 'make a template at Mailchimp (Content > Templates), then call mc_refresh' END
		FROM mailchimp_sync.template t WHERE t.connection = _connection AND t.active;
	RETURN QUERY
		SELECT format('domain %s', f.domain), advice.words IS NULL, coalesce(advice.words, 'verified and authenticated')
		FROM (
			SELECT lower(split_part(l.from_email, '@', 2)) AS domain FROM mailchimp_sync.list l
			WHERE l.connection = _connection AND l.from_email IS NOT NULL
			UNION
			SELECT lower(split_part(k.from_email, '@', 2)) FROM mailchimp_sync.campaign k
			WHERE k.connection = _connection AND k.from_email IS NOT NULL
				AND k.origin = 'local' AND k.status IN ('draft', 'preparing', 'prepared', 'scheduled', 'failed')
		) f
		LEFT JOIN mailchimp_sync.domain d ON d.connection = _connection AND d.domain = f.domain
		CROSS JOIN LATERAL (SELECT mailchimp_sync.domain_advice(f.domain, d.verified, d.authenticated,
			coalesce(d.is_free_mail, mailchimp_sync.is_free_mail(f.domain)))) AS advice(words)
		ORDER BY f.domain;
END
$$;
