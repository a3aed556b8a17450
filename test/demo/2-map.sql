-- # 2. Map the CRM
-- A source says in SQL what of a table goes to Mailchimp: the key, the address, merge fields, tags.
-- Expressions run with Anna's own rights, read only.

SELECT mc_add_source('candidate', 'crm.candidate', key => 'id', email => 'email',
    merge_fields => '{"FNAME": "coalesce(first_name, initials)", "LNAME": "concat_ws('' '', prefix, last_name)",
        "OWNERNAME": "(SELECT o.name FROM crm.owner o WHERE o.id = owner_id)",
        "OWNEREMAIL": "(SELECT o.email FROM crm.owner o WHERE o.id = owner_id)"}',
    tags => 'sectors', opt_out => 'NOT mailings');

-- Owners are in another table: when one changes, that concerns all of the owner's candidates.

SELECT mc_watch('candidate', 'crm.owner', 'SELECT c.id FROM crm.candidate c JOIN changed o ON c.owner_id = o.id');

-- Client contacts are the same mechanism once more.

SELECT mc_add_source('contact', 'crm.contact', key => 'id', email => 'email',
    merge_fields => '{"FNAME": "first_name", "LNAME": "last_name", "COMPANY": "company"}');

-- An audience couples a Mailchimp list to a source by a rule. Nothing is sent yet.

SELECT mc_create_audience('Candidates', 'main', 'Job seekers', 'candidate', rule => 'status = ''active''');
SELECT mc_create_audience('Clients', 'main', 'Client news', 'contact');
SELECT audience, list_name, sources, direction, on_leave, on_unsubscribe, state FROM mc_audience;
