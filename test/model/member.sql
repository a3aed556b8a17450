-- Members at Mailchimp as the simulator shows them, what became of them, and whether somebody had ended a subscription: for the
-- comparisons of both models.

-- ---- what is there, now and when last compared (with what people did to them since)

CREATE TABLE model.member (list text, web_id integer, address text, email text, status text, fields jsonb, tags text[], raw jsonb,
	PRIMARY KEY (list, web_id));
CREATE TABLE model.before (LIKE model.member INCLUDING ALL);
CREATE TABLE model.forgotten (list text, hash text);
-- every change of a status or address; request is null for what people did at Mailchimp by themselves
CREATE TABLE model.change (n integer PRIMARY KEY, list text, web_id integer, address text, was text, from_status text, to_status text,
	request integer);
CREATE TABLE model.mark (n integer);	-- up to here they were compared
INSERT INTO model.mark VALUES (0);
-- what people did to members there since the last comparison, and values and tags that they put or took away and nobody has overwritten
CREATE TABLE model.acted (list text, web_id integer);
CREATE TABLE model.edited (list text, web_id integer, field text, value text);
CREATE TABLE model.hand_tag (list text, web_id integer, tag text, is_there boolean);

-- what the public views said then
CREATE TABLE model.state (LIKE public.mc_contact_state);

CREATE FUNCTION model.member_of(_list text, _raw jsonb) RETURNS model.member LANGUAGE sql AS $$
	SELECT ROW(_list, (_raw ->> 'web_id')::integer, lower(_raw ->> 'email_address'), _raw ->> 'email_address', _raw ->> 'status',
		_raw -> 'merge_fields', ARRAY(SELECT jsonb_array_elements_text(_raw -> 'tags')), _raw)::model.member
$$;

-- somebody did something to a member at Mailchimp, which is like that now
CREATE FUNCTION model.act(_list text, _raw jsonb) RETURNS void LANGUAGE sql AS $$
	DELETE FROM model.before b WHERE b.list = _list AND b.web_id = (_raw ->> 'web_id')::integer;
	INSERT INTO model.before SELECT (model.member_of(_list, _raw)).*;
	INSERT INTO model.acted VALUES (_list, (_raw ->> 'web_id')::integer);
$$;

CREATE FUNCTION model.load(_lists jsonb, _changes jsonb) RETURNS void LANGUAGE sql AS $$
	TRUNCATE model.member, model.forgotten, model.state;
	INSERT INTO model.state SELECT * FROM public.mc_contact_state;
	INSERT INTO model.member SELECT (model.member_of(l.key, m)).* FROM jsonb_each(_lists) l, jsonb_array_elements(l.value -> 'members') m;
	INSERT INTO model.forgotten SELECT l.key, h FROM jsonb_each(_lists) l, jsonb_array_elements_text(l.value -> 'forgotten') h;
	INSERT INTO model.change SELECT c.n, c.list, c.web_id, lower(c.email), lower(c.was), c."from", c."to", c.request
	FROM jsonb_to_recordset(_changes) AS c(n integer, list text, web_id integer, email text, was text, "from" text, "to" text, request integer);
$$;

-- ---- consent

/*
 * Did the person, a colleague or we end the subscription of a member before its change _n, and nobody but the person took that
 * back? (D10, D12) What a colleague did in the minutes between the last reading of statuses and our archiving the member is lost
 * with it; what the person did Mailchimp keeps.
 */
CREATE FUNCTION model.consent_ended(_list text, _web_id integer, _n integer) RETURNS boolean LANGUAGE sql STABLE AS $$
	SELECT coalesce((SELECT c.request IS NOT NULL AND c.to_status = 'unsubscribed' OR c.request IS NULL AND c.to_status <> 'subscribed'
		FROM model.change c
		WHERE c.list = _list AND c.web_id = _web_id AND c.n < _n AND c.was IS NULL
			AND CASE WHEN c.request IS NULL THEN c.to_status IN ('subscribed', 'unsubscribed', 'cleaned', 'archived')
				ELSE c.to_status = 'unsubscribed' OR (c.to_status = 'archived' AND c.from_status NOT IN ('subscribed', 'pending')) END
		ORDER BY c.n DESC LIMIT 1), false)
$$;

