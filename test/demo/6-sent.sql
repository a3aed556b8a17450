-- Sent. One more was left out on the way: Mailchimp itself refuses the address.

SELECT name, audience, template_id, status, recipients, skipped, emails_sent, sent_at, report_url FROM mc_campaign \gx
SELECT contact_key, status, skip_reason, detail FROM mc_campaign_recipient
WHERE campaign_id = 1 AND skip_reason = 'refused';
