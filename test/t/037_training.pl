# A training connection mails and pushes only the addresses that it was given (R15, N18), whoever adds whom to a campaign;
# and the counts that people see say so.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 4);
my ($node, $sim) = @$crm{qw(node sim)};

$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": ["P1@Example.org", "p3@example.org"]}')});
$crm->mia("SELECT mc_sync_audience('customers')");
$node->wait_until("SELECT in_sync = 2 AND not_allowed = 2 AND contacts = 4 FROM mc_audience_status");
pass('N18: the others are not allowed, in capitals or not');

my $campaign = $crm->mia("SELECT mc_create_campaign('Try', 'customers', 'Newsletter', 'Ann', 'news\@example.org')");
is($crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{1,2,3}')"), 2, 'how many will get it');
is($crm->mia("SELECT contact_key, status, skip_reason FROM mc_campaign_recipient WHERE campaign_id = $campaign ORDER BY 1"),
	"1|pending|\n2|skipped|not_allowed\n3|pending|", 'the rest is skipped with the reason');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Try'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1', 'and not mailed');
is($crm->mia("SELECT recipients, skipped, emails_sent FROM mc_campaign WHERE campaign_id = $campaign"), '2|1|2', 'the figures');

# taken from the list while a campaign is prepared: not mailed either
$campaign = $crm->mia("SELECT mc_create_campaign('Again', 'customers', 'Newsletter', 'Ann', 'news\@example.org')");
$crm->mia("SELECT mc_add_recipients($campaign, 'candidate', '{1,3}')");
$crm->mia("SELECT mc_prepare_campaign($campaign)");
$crm->wait_status($campaign, 'prepared');
$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": ["p3@example.org"]}')});
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('Again'), 'campaigns 1 sends 1 segments 1 p3@example.org=1', 'nor who is not on the list any more');

# nor when Mailchimp has it scheduled already
$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": ["p1@example.org", "p3@example.org"]}')});
$node->wait_until("SELECT in_sync = 2 FROM mc_audience_status");
($campaign, my $quarter) = $crm->scheduled('Timed', '{1,3}', 3600);
my $since = $crm->last_request;
$crm->ada(q{SELECT mc_alter_connection('demo', '{"only_addresses": ["p3@example.org"]}')});
$sim->wait_requests(1, since => $since, path => '/actions/schedule$');
$crm->wait_status($campaign, 'scheduled');
$crm->both_at($quarter + 1);
$crm->wait_status($campaign, 'sent');
is($crm->remains('Timed'), 'campaigns 1 sends 1 segments 1 p3@example.org=1', 'a campaign that is scheduled is corrected');

done_testing();
