-- # 6. A mailing
-- Mark mails the active candidates in IT and healthcare. The selection is any query, and it does not
-- have to be clean: opted-out people, broken, missing and double addresses are in it.

SELECT mc_create_campaign('Open evening for IT and healthcare', 'Candidates', template => 'Invitation',
    from_name => 'Bureau Recruitment', from_email => 'news@example.org') AS campaign;
SELECT mc_add_recipients(1, 'candidate', array_agg(id)) AS "will get it" FROM crm.candidate
WHERE status = 'active' AND sectors && '{IT,Healthcare}';
SELECT status, skip_reason, count(*), min(email) AS example FROM mc_campaign_recipient
WHERE campaign_id = 1 GROUP BY 1, 2 ORDER BY 3 DESC, 2;

-- Is anything missing?

SELECT * FROM mc_check_campaign(1);
