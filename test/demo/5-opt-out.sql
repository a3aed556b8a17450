-- A candidate phones: no more mailings, please. Mark puts her in the opt-out group, and no campaign
-- gets round that. The others came from the CRM's own column "mailings".

SELECT mc_opt_out('candidate', 10, reason => 'by phone');
SELECT name, tag FROM mc_group;
SELECT contact_key, email, origin, reason, added_by FROM mc_group_member ORDER BY contact_key::int;
