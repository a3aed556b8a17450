# An old request of a campaign that lands after we have given it up is found, not repeated (N3, N2, design.md rule 6). Our clock is not
# moved before it has, so that it can. Answers that get lost at once are in 033_campaign_faults.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start(people => 8, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $once = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '1s'");
$node->query('SELECT pg_reload_conf()');
my $turn = 0;
for my $route ('POST /lists/{list_id}/segments', 'POST /campaigns', 'POST /campaigns/{campaign_id}/actions/send')
{
	my ($method, $path) = split / /, $route =~ s/\{[^}]*\}/[^\/]+/gr;
	my $name = 'late ' . ++$turn;
	my $campaign = $crm->campaign($name, '{1,2,3}');
	$sim->fault(method => $method, path => "^$path\$", fault => { type => 'late', ms => 3000 });
	$crm->mia("SELECT mc_send_campaign($campaign)");
	McTest::poll("campaign $campaign to be sent", sub { $crm->column($campaign, 'status') eq 'sent' });
	is($crm->remains($name), $once, "$route lands late: found, not repeated");
	$crm->later(140);	# those that nobody answered count against the slots
}

# The old request to fill the segment lands after somebody of it has opted out: they are taken out after that (N2).
my $name = 'late removal';
my $campaign = $crm->campaign($name, '{1,2,3}');
$sim->fault(method => 'POST', path => '/segments/\d+$', fault => { type => 'late', ms => 3000 });
$sim->hold(method => 'POST', path => '/segments/\d+$', nth => 2, when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign)");
$sim->wait_held;
$crm->mia("SELECT mc_opt_out('candidate', 2)");
$sim->release;
McTest::poll('the removal to wait', sub { $crm->column($campaign, 'last_error') =~ /^waiting until an earlier request can no longer arrive/ });
McTest::poll('the old request to land', sub {
	grep { ($_->{fault} // '') eq 'late' && defined $_->{ended} && $_->{path} =~ m{/segments/\d+$} } $sim->journal(method => 'POST');
});
$crm->wait_status($campaign, 'sent');
is($crm->remains($name), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1', 'who opted out is taken out after it');

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
