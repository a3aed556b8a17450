-- A moment later Mailchimp has it. Mark looks at the last requests, and at some of the people:

SELECT work, method, path, status, outcome FROM mc_request ORDER BY started_at DESC LIMIT 4;
SELECT s.contact_key, s.email, s.state, s.detail, m.status AS "at Mailchimp", m.merge_fields ->> 'OWNERNAME' AS owner
FROM mc_contact_state s LEFT JOIN mc_member m USING (audience, source, contact_key)
WHERE s.audience = 'Candidates' AND s.contact_key IN ('1', '3', '55', '301') ORDER BY s.contact_key::int;
SELECT count(*) AS "members of the married owner" FROM mc_member
WHERE merge_fields ->> 'OWNERNAME' = 'Tom Hendriks-Vos';
