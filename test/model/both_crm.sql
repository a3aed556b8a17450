-- The CRM of the model of audiences in both directions: one table, source and audience for each policy of conflicts, which all look
-- the same. Run as ann, an admin who owns it all.
--
--	tag    column      on the way out                        on the way in
--	FNAME  first_name  as it is, and Mailchimp cuts it off    as it is
--	LNAME  last_name   as it is                               a trigger of the CRM spells it as it likes
--	CITY   city        in capitals: not the inverse of ...    ... as it is
--	BORN   born        Mailchimp writes dates in its own way  as it is
--	NICK   nick        grows by a word each time              as it is
--	NOTE   note        as it is                               never: the CRM's own
--	PHONE  phone       never: Mailchimp's own                 as it is

CREATE SCHEMA model;

-- every change of a field, by whomever, in its order; an address is the field EMAIL, tags and the rule's flag are MORE
CREATE TABLE model.log (n bigserial PRIMARY KEY, kind text, id integer, tag text, old text, new text, at timestamptz, people boolean, action text);
CREATE INDEX ON model.log (kind, id);

CREATE FUNCTION crm.tidy() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
	NEW.last_name := pg_catalog.initcap(pg_catalog.btrim(NEW.last_name));
	RETURN NEW;
END
$$;

-- people work in sessions that say so; what is in a statement of its own has the time of its statement, as our clocks tell it
CREATE FUNCTION model.log_row() RETURNS trigger LANGUAGE plpgsql SET search_path = pg_catalog AS $$
DECLARE
	_old	jsonb := CASE WHEN TG_OP <> 'INSERT' THEN to_jsonb(OLD) ELSE '{}' END;
	_new	jsonb := CASE WHEN TG_OP <> 'DELETE' THEN to_jsonb(NEW) ELSE '{}' END;
BEGIN
	INSERT INTO model.log (kind, id, tag, old, new, at, people, action)
	SELECT TG_TABLE_NAME, coalesce(_new ->> 'id', _old ->> 'id')::integer, c.tag, _old ->> c.name, _new ->> c.name,
		clock_timestamp() + current_setting('mailchimp_sync.clock_offset')::interval,
		coalesce(current_setting('model.people', true) = 'on', false), lower(TG_OP)
	FROM (VALUES ('EMAIL', 'email'), ('FNAME', 'first_name'), ('LNAME', 'last_name'), ('CITY', 'city'), ('BORN', 'born'), ('NICK', 'nick'),
		('NOTE', 'note'), ('PHONE', 'phone'), ('MORE', 'groups'), ('MORE', 'active'), ('FACT', 'mailchimp_status'), ('FACT', 'mailchimp_id')) AS c(tag, name)
	WHERE _old -> c.name IS DISTINCT FROM _new -> c.name;
	RETURN NULL;
END
$$;

-- ids from 1000 on are of rows that came from Mailchimp
CREATE SEQUENCE crm.ids START 1000;
GRANT USAGE ON SCHEMA model TO PUBLIC;

DO $f$
DECLARE
	_kind	text;
BEGIN
	FOREACH _kind IN ARRAY '{crm_wins,mailchimp_wins,latest_wins}'::text[] LOOP
		EXECUTE format($$
			CREATE TABLE crm.%1$I (id integer PRIMARY KEY DEFAULT nextval('crm.ids'), email text, first_name text,
				last_name text CHECK (last_name <> 'Refused'), city text, born text, nick text, note text, phone text, groups text[],
				active boolean DEFAULT true, lead_source text, mailchimp_status text, mailchimp_id text, list_name text);
			CREATE TRIGGER tidy BEFORE INSERT OR UPDATE ON crm.%1$I FOR EACH ROW EXECUTE FUNCTION crm.tidy();
			CREATE TRIGGER log AFTER INSERT OR UPDATE OR DELETE ON crm.%1$I FOR EACH ROW EXECUTE FUNCTION model.log_row();
		$$, _kind);
		PERFORM mc_add_source(_kind, format('crm.%I', _kind)::regclass, 'id', 'email', merge_fields => $$ {"FNAME": "first_name", "LNAME": "last_name",
			"CITY": "upper(city)", "BORN": "born", "NICK": "'Mr ' || nullif(nick, '')", "NOTE": "note"} $$, tags => 'groups');
	END LOOP;
END
$f$;

-- all but the fields of the list is known at once
CREATE FUNCTION model.add(_kind text, _on_unsubscribe text) RETURNS void LANGUAGE sql AS $$
	SELECT mc_create_audience(_kind, 'main', _kind, _kind, 'active', direction => 'both', conflict => _kind, on_unsubscribe => _on_unsubscribe);
$$;
CREATE FUNCTION model.begin(_kind text) RETURNS void LANGUAGE sql AS $$
	SELECT mc_set_inbound(_kind, _kind, '{"email": "email", "FNAME": "first_name", "LNAME": "last_name", "CITY": "city", "BORN": "born",
		"NICK": "nick", "PHONE": "phone", "status": "mailchimp_status", "id": "mailchimp_id", "list_name": "list_name"}', '{"lead_source": "MailChimp"}');
	SELECT mc_sync_audience(_kind);
$$;
