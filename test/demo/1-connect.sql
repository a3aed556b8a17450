-- # 1. Connect
-- A superuser installs the extension and says who may do what: Anna administers the
-- coupling, Mark is a marketer. Nobody else sees anything.

CREATE EXTENSION mailchimp_sync;
SELECT mc_grant('anna', 'admin'), mc_grant('mark', 'marketer');

-- With a real account this is  SELECT mc_connect('main', '<your API key>')  and Anna does it herself.
-- Only a superuser may name another endpoint; here it is the stand-in for Mailchimp.

SELECT mc_connect('main', 'demo-us1', endpoint => :'endpoint') AS account;
