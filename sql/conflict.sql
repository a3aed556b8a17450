/*
 * conflict.sql: who has the say in a field that both the CRM and Mailchimp can change (R85, D14).
 *
 * Three ways are compared: what the CRM has, what Mailchimp shows, and the base, which is what each of them had
 * when they last agreed (member.sent_fields and shown_fields; two, since Mailchimp truncates and
 * normalises). Pure; desired.sql and inbound.sql ask the same function, so what the one leaves is the other's.
 */

/*
 * A value as it is compared, null where there is nothing: numbers by what they are worth, text without the
 * blanks around it, an address without its empty parts.
 */
CREATE FUNCTION mailchimp_sync.field_value(_value jsonb) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT CASE jsonb_typeof(_value)
		WHEN 'number' THEN trim_scale((_value #>> '{}')::numeric)::text
		WHEN 'object' THEN (SELECT jsonb_object_agg(p.key, btrim(p.value))::text FROM jsonb_each_text(_value) AS p
			WHERE btrim(p.value) <> '')
		ELSE nullif(btrim(_value #>> '{}'), '') END
$$;

/*
 * Is what Mailchimp shows all that there can be of it? Texts are cut at 255 bytes (API 3.0, merge fields), and not
 * within a letter.
 */
CREATE FUNCTION mailchimp_sync.is_cut_off(_shown text, _whole text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT coalesce(octet_length(convert_to(_shown, 'UTF8')) BETWEEN 252 AND 255
		AND octet_length(convert_to(_whole, 'UTF8')) > 255 AND starts_with(_whole, _shown), false)
$$;

/*
 * For each field what is to be done: nothing ("in_sync"), the CRM gets Mailchimp's value ("to_crm") or the other
 * way round ("to_mailchimp").
 *
 * _inbound: the fields with an inbound column. _payload: the merge fields that the CRM wants there; _sent, _shown: the
 * base; _read: what Mailchimp shows now (null: what it showed then). _crm_at, _mailchimp_at: of the last change
 * of the record, for latest_wins; where they do not tell, the CRM leads.
 *
 * A field of which nothing was ever sent has no base: then a side has changed that has something. A
 * field without an inbound column is the CRM's own, one that the mapping does not name can only come in.
 * What Mailchimp emptied comes in nowhere.
 */
CREATE FUNCTION mailchimp_sync.field_decisions(_policy text, _inbound text[], _payload jsonb, _sent jsonb,
	_shown jsonb, _read jsonb, _crm_at timestamptz, _mailchimp_at timestamptz, OUT field text, OUT decision text)
RETURNS SETOF record
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 10
SET search_path = pg_catalog, pg_temp
AS $$
	SELECT k.field, CASE
		WHEN v.crm IS NOT DISTINCT FROM v.mailchimp OR mailchimp_sync.is_cut_off(v.mailchimp, v.crm) THEN 'in_sync'
		WHEN NOT c.crm AND NOT c.mailchimp THEN 'in_sync'
		WHEN NOT k.goes_out THEN CASE WHEN c.mailchimp AND v.mailchimp IS NOT NULL AND _policy <> 'crm_wins'
			THEN 'to_crm' ELSE 'in_sync' END
		WHEN NOT k.comes_in OR NOT c.mailchimp OR v.mailchimp IS NULL OR _policy = 'crm_wins' THEN 'to_mailchimp'
		WHEN NOT c.crm OR _policy = 'mailchimp_wins' OR _mailchimp_at > _crm_at THEN 'to_crm'
		ELSE 'to_mailchimp' END
	FROM (SELECT u.field, _payload ? u.field AS goes_out, u.field = ANY (_inbound) AS comes_in, coalesce(_sent ? u.field, false) AS has_base
		FROM (SELECT jsonb_object_keys(_payload) UNION SELECT unnest(_inbound)) AS u(field)) AS k
	CROSS JOIN LATERAL (SELECT mailchimp_sync.field_value(_payload -> k.field) AS crm,
		mailchimp_sync.field_value(coalesce(_read, _shown, _sent) -> k.field) AS mailchimp,
		mailchimp_sync.field_value(_sent -> k.field) AS sent,
		mailchimp_sync.field_value(coalesce(_shown, _sent) -> k.field) AS shown) AS v
	CROSS JOIN LATERAL (SELECT
		CASE WHEN k.has_base THEN v.crm IS DISTINCT FROM v.sent ELSE v.crm IS NOT NULL END AS crm,
		CASE WHEN k.has_base THEN v.mailchimp IS DISTINCT FROM v.shown ELSE v.mailchimp IS NOT NULL END AS mailchimp) AS c
$$;
