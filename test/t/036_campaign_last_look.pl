# The last look before a campaign is sent (R32, R48, N2, N3, design.md rule 6): what the CRM says of its recipients is never
# older than a minute, however long something stood in the way, and what it says too late is reported; and a look at what became of a request that comes to
# nothing itself settles nothing.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 6);
my ($sim, $node) = @$crm{qw(sim node)};

# ---- who is opted out by something that makes no event, while the campaign waits to be sent

$crm->ada(<<'SQL');
CREATE TABLE blocked (id int PRIMARY KEY);
SELECT mc_add_source('candidate', 'candidate', 'id', 'email', '{"FNAME": "first_name"}', linked => 'linked',
	opt_out => 'opted_out OR EXISTS (SELECT FROM blocked b WHERE b.id = candidate.id)');
SQL
my $campaign = $crm->campaign('Waits', '{1,2,3}');
$sim->hold(method => 'GET', path => 'send-checklist', when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
my $session = $node->session(as => 'mia');
$session->query("BEGIN; SELECT mc_opt_out_email('nobody\@example.org');");
$sim->release;
McTest::poll('sending to wait', sub { $crm->column($campaign, 'last_error') =~ /^waiting for open transactions/ });
$crm->ada('INSERT INTO blocked VALUES (2)');
$crm->later(61);
McTest::poll('it to be seen', sub { $crm->recipients($campaign) =~ /2 skipped opted_out/ });
$session->query('COMMIT');
$session->quit;
$crm->wait_status($campaign, 'sent');
is($crm->remains('Waits'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1', 'looked at once more, and not mailed');
is($crm->recipients($campaign), '1 sent, 2 skipped opted_out, 3 sent', 'with the reason');

# ---- who opts out when Mailchimp has the order already is mailed, and that is said (R48, D12)

$campaign = $crm->campaign('Too late', '{1,2,3,5,6}');
$sim->hold(method => 'POST', path => '/actions/send$', when => 'before');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_opt_out('candidate', 5); SELECT mc_opt_out_email('P6\@example.org')");
$sim->release;
$crm->wait_status($campaign, 'sent');
is($crm->recipients($campaign), '1 sent, 2 skipped opted_out, 3 sent, 5 sent, 6 sent', 'the others are sent it, too');
is($crm->mia("SELECT string_agg(contact_key || ' ' || detail, ', ' ORDER BY contact_key) FROM mc_campaign_recipient
	WHERE campaign_id = $campaign AND status = 'sent'"), '5 opted out when it was too late, 6 opted out when it was too late',
	'by contact and by address: reported as such');
is($crm->remains('Too late'), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1 p5@example.org=1 p6@example.org=1', 'sent once');

# ---- the answer to "create" is lost, the campaign appears late, and looking for it fails at first: one campaign, sent once

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '3s'");
$node->query('SELECT pg_reload_conf()');
for my $fault ({ type => 'status', status => 500, json => \1 }, 'bare_429')
{
	my $name = 'Late ' . (ref $fault ? 500 : $fault);
	$campaign = $crm->campaign($name, '{1,3,4}');
	$sim->hold(method => 'POST', path => '^/campaigns$', when => 'before');
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$sim->wait_held;
	$sim->fault(method => 'GET', path => '^/campaigns$', fault => $fault);
	McTest::poll('two looks', sub { 2 <= grep { defined $_->{ended} } looks() });
	$sim->release;
	McTest::poll("campaign $campaign to be sent", sub { $crm->column($campaign, 'status') eq 'sent' });
	is($crm->remains($name), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1 p4@example.org=1', "$name: found, not repeated");
}

# The requests that looked for a campaign since it was to be made.
sub looks
{
	my ($made) = sort { $b <=> $a } map { $_->{n} } $sim->journal(method => 'POST', path => '^/campaigns$');
	return $sim->journal(method => 'GET', path => '^/campaigns$', since => $made);
}

$node->stop;
done_testing();
