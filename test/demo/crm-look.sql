
SELECT (SELECT count(*) FROM crm.candidate) AS candidates, (SELECT count(*) FROM crm.contact) AS contacts,
    (SELECT count(*) FROM crm.owner) AS owners;
SELECT id, first_name, prefix, last_name, email, status, sectors, mailings, owner_id FROM crm.candidate
WHERE id IN (1, 7, 31, 41, 55) ORDER BY id;
