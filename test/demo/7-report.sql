-- Mailchimp's totals, and what is recorded here one by one:

SELECT * FROM mc_report WHERE campaign_id = 1 \gx

-- Who opened, how often; and how often each link was clicked.

SELECT contact_key, email, opens, first_at, last_at FROM mc_report_openers(1) ORDER BY opens DESC, email LIMIT 5;
SELECT url, clicks, unique_clicks FROM mc_report_links(1) ORDER BY clicks DESC;

-- Whose address is dead (hard) or whose mailbox was full (soft)?

SELECT contact_key, email, bounce_type, occurred_at FROM mc_report_bounces(1) ORDER BY occurred_at;

-- Each recipient has one status: bounced < opened < clicked < unsubscribed, never lowered.

SELECT status, count(*) FROM mc_campaign_recipient WHERE campaign_id = 1 GROUP BY 1 ORDER BY 2 DESC;

-- What happened is a table like any other, to be joined with the CRM: the consultants' best candidates to call.

SELECT o.name AS consultant, c.first_name, c.last_name, count(*) AS clicks, max(a.occurred_at) AS last_click
FROM mc_activity a JOIN crm.candidate c ON a.source = 'candidate' AND a.contact_key = c.id::text
JOIN crm.owner o ON o.id = c.owner_id
WHERE a.type = 'clicked' GROUP BY 1, 2, 3 ORDER BY 4 DESC, 5 DESC LIMIT 5;

-- Whoever unsubscribed is in the opt-out group now ...

SELECT contact_key, origin, reason, date_trunc('second', added_at) AS added_at FROM mc_group_member
WHERE origin = 'mailchimp' ORDER BY contact_key::int;

-- ... and gets no next mailing, whoever adds them. Nor do dead addresses; a mailbox that was full may be tried again.

SELECT mc_create_campaign('After the open evening', 'Candidates') AS campaign;
SELECT mc_add_recipients(2, 'candidate', array_agg(contact_key)) AS "will get it" FROM mc_campaign_recipient
WHERE campaign_id = 1 AND status IN ('bounced', 'unsubscribed');
SELECT status, skip_reason, detail, count(*) FROM mc_campaign_recipient
WHERE campaign_id = 2 GROUP BY 1, 2, 3 ORDER BY 4 DESC, 2;
