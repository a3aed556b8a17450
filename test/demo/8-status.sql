-- # 8. Does all of it work?
-- For Anna, who administers it. An alarm is one query: WHERE NOT ok.

SELECT * FROM mc_status;

-- What keeps failing or was refused, in Mailchimp's own words. It rests until the contact changes.

SELECT work, contact_key, attempts, detail FROM mc_failure ORDER BY contact_key::int;
