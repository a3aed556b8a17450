/*
 * inbound.sql: which columns of the CRM take what Mailchimp shows (R88, R91, R92).
 *
 * One definition for each source of an audience. It runs as the source's owner, with the names of columns as they
 * are then: one that is gone, or has another name, is a failure of the definition (inbound_write.sql).
 */
CREATE TABLE mailchimp_sync.inbound (
	audience_id		integer NOT NULL,
	source_id		integer NOT NULL,
	-- {"FNAME": "first_name", "email": ..., "status": ..., "id": ..., "list_name": ..., "list_from": ...}
	columns			jsonb NOT NULL,
	defaults		jsonb NOT NULL,		-- {"lead_source": "MailChimp"}: of new rows
	create_new		boolean NOT NULL,
	into_relation	regclass,			-- null: the source's own
	into_key		text,				-- the source's key as an expression over into_relation
	search_path		text NOT NULL,		-- of who defined it, for the CRM's triggers
	-- every member is to be looked at again: those after this hash still are; null: all are
	walk_after		text COLLATE "C",
	failures		integer NOT NULL DEFAULT 0,
	next_attempt_at	timestamptz,
	PRIMARY KEY (audience_id, source_id)
);
SELECT pg_catalog.pg_extension_config_dump('mailchimp_sync.inbound', '');
