
-- The CRM goes about its business and calls nothing of ours: an owner marries, somebody gets a job,
-- somebody new arrives, a broken address is mended.

UPDATE crm.owner SET name = 'Tom Hendriks-Vos' WHERE id = 2;
UPDATE crm.candidate SET status = 'placed' WHERE id = 3;
INSERT INTO crm.candidate (id, initials, first_name, last_name, email, sectors, owner_id)
VALUES (301, 'A.', 'Aisha', 'El Amrani', 'aisha.elamrani@post.test', '{IT,Healthcare}', 1);
UPDATE crm.candidate SET email = 'sophie.brown@example.org' WHERE id = 55;

-- What is rolled back never leaves the database.

BEGIN;
UPDATE crm.candidate SET last_name = 'Rolled back';
ROLLBACK;
