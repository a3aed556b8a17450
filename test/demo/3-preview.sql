-- # 3. Preview
-- Mark asks what would happen if the audience were switched on. No request is made for this; it is
-- the very evaluation that the run uses.

SELECT action, count(*) AS contacts, min(reason) AS reason FROM mc_preview('Candidates')
GROUP BY action, reason ORDER BY 2 DESC;
SELECT contact_key, email, jsonb_pretty(after) AS "as Mailchimp will get it"
FROM mc_preview('Candidates') WHERE action = 'subscribe' ORDER BY contact_key::int LIMIT 1;
