-- The people in the demo's CRM: plausible names, always the same ones, and the flaws that real data has.

INSERT INTO crm.owner VALUES
    (1, 'Marieke Visser', 'marieke@bureau.test'), (2, 'Tom Hendriks', 'tom@bureau.test'),
    (3, 'Emily Carter', 'emily@bureau.test'), (4, 'Joris Kuipers', 'joris@bureau.test');

-- Steps without a common divisor with the number of names: no pair of names comes twice.
WITH name AS (
    SELECT string_to_array('Sanne,Daan,Emma,Lucas,Julia,Sem,Tess,Milan,Lotte,Bram,Fleur,Thijs,Anouk,Ruben,Femke,Jasper,'
            'Noor,Sven,Iris,Bas,Olivia,Harry,Grace,Jack,Amelia,Oscar,Sophie,Liam,Charlotte', ',') AS first,
        string_to_array('Jong|de,Jansen|,Vries|de,Berg|van den,Bakker|,Dijk|van,Visser|,Smit|,Meijer|,Boer|de,Mulder|,'
            'Groot|de,Bos|,Vos|,Peters|,Leeuwen|van,Dekker|,Brouwer|,Wit|de,Dijkstra|,Linden|van der,Kok|,Smith|,'
            'Taylor|,Brown|,Wilson|,Evans|,Walker|,Wright|,Hughes|,Green|', ',') AS last
), person AS (
    SELECT i AS id, name.first[1 + i % 29] AS first_name, split_part(name.last[1 + i % 31], '|', 1) AS last_name,
        nullif(split_part(name.last[1 + i % 31], '|', 2), '') AS prefix
    FROM name, generate_series(1, 400) AS i
), addressed AS (
    SELECT p.*, lower(format('%s.%s%s@%s', first_name, replace(prefix, ' ', ''), last_name,
        (ARRAY['example.org', 'example.net', 'post.test'])[1 + id % 3])) AS email
    FROM person p
), candidate AS (
    INSERT INTO crm.candidate
    SELECT id, left(first_name, 1) || '.', first_name, prefix, last_name, email,
        CASE WHEN id % 12 = 0 THEN 'placed' ELSE 'active' END,
        CASE id % 5 WHEN 0 THEN '{Finance}' WHEN 1 THEN '{IT}' WHEN 2 THEN '{Healthcare}' WHEN 3 THEN '{Logistics}'
            ELSE '{IT,Finance}' END::text[],
        id % 50 <> 7, 1 + id % 4
    FROM addressed WHERE id <= 300
)
INSERT INTO crm.contact
SELECT id - 300, first_name, concat_ws(' ', prefix, last_name), (ARRAY['Havenbedrijf Noord', 'Kade 12', 'Northgate Ltd',
    'Zorggroep Linde'])[1 + id % 4], email, 1 + id % 4
FROM addressed WHERE id BETWEEN 301 AND 360;

-- Nobody's data is clean.
UPDATE crm.candidate SET first_name = NULL WHERE id IN (31, 62);                             -- initials only
UPDATE crm.candidate SET email = NULL WHERE id IN (41, 83, 127, 211);                        -- no address
UPDATE crm.candidate SET email = 'bram.devries@' WHERE id = 55;                              -- broken ones
UPDATE crm.candidate SET email = 'tess at example.org' WHERE id = 118;
UPDATE crm.candidate SET email = 'fleur@@example.net' WHERE id = 241;
UPDATE crm.candidate SET email = (SELECT email FROM crm.candidate WHERE id = 14) WHERE id = 74;  -- a couple shares one
UPDATE crm.candidate SET email = 'info@example.com' WHERE id = 99;                           -- Mailchimp calls it fake
UPDATE crm.candidate SET email = 'toomany.lists@example.org' WHERE id = 163;                 -- on a lot of lists
