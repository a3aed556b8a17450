-- # 4. Switch on
-- Mark switches the audiences on. The background worker is not running yet, so he lets the work
-- be done in his own session and watches.

SELECT mc_sync_audience('Candidates'), mc_sync_audience('Clients');
CALL mc_run();

-- Every contact is in exactly one state, and the states add up.

SELECT audience, contacts, in_sync, pending, refused, conflict, opted_out FROM mc_audience_status;

-- Whoever did not get in, and why: in Mailchimp's own words where Mailchimp refused.

SELECT audience, contact_key, state, detail FROM mc_contact_state
WHERE state NOT IN ('in_sync', 'opted_out') ORDER BY audience, state, contact_key::int;
