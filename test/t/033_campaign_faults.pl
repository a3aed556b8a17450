# A campaign is sent at most once, whatever happens to any of its requests, and leaves nothing over at Mailchimp (N3,
# design.md rule 6): each kind of request that a send makes, by the journal of an undisturbed one, is lost before and
# after its effect, and the worker is killed at it before and after its effect.

use strict;
use warnings;
use McCampaign;
use McTest;
use Test::More;

my $crm = McCampaign->start;
my ($sim, $node) = @$crm{qw(sim node)};
my $once = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';

# ---- an undisturbed one tells the kinds of requests

my ($last) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
my $campaign = $crm->campaign('plain', '{1,2,3}');
$crm->mia("SELECT mc_send_campaign($campaign)");
$crm->wait_status($campaign, 'sent');
is($crm->remains('plain'), $once, 'sent once, to everybody, from a segment of its own');
my %kinds;
$kinds{ $_->{route} } = 1 for grep { $_->{route} =~ m{campaigns|segments} } $sim->journal(since => $last);
is(join("\n", sort keys %kinds), join("\n", sort(
			'GET /campaigns/{campaign_id}',
			'GET /campaigns/{campaign_id}/send-checklist',
			'POST /campaigns',
			'POST /campaigns/{campaign_id}/actions/send',
			'POST /lists/{list_id}/segments',
			'POST /lists/{list_id}/segments/{segment_id}',
			'PUT /campaigns/{campaign_id}/content')),
	'the kinds of requests of a send');

# ---- each of them goes wrong

sub pattern
{
	my ($route) = @_;
	$route =~ s/\{[^}]*\}/[^\/]+/g;
	return "^$route\$";
}

sub kill_engine
{
	my ($when, %where) = @_;
	$sim->hold(%where, when => $when);
	return sub {
		my ($held) = $sim->wait_held;
		my $pid = $crm->engine_pid;
		kill 'KILL', $pid or die "kill $pid: $!";
		McTest::poll('the server to come back', sub {
			(eval { $node->query("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $pid)") } // '') eq 't';
		});
		$sim->release;
	};
}

# What can happen to a request, each prepares it and may return what is to be done meanwhile.
sub troubles
{
	my (%where) = @_;
	return (
		'lost before its effect' => sub { $sim->fault(%where, fault => 'reset_before'); undef },
		'lost after its effect' => sub { $sim->fault(%where, fault => 'reset_after'); undef },
		'killed before its effect' => sub { kill_engine('before', %where) },
		'killed after its effect' => sub { kill_engine('after', %where) });
}

my $pairs = 0;
for my $kind (sort keys %kinds)
{
	my ($method, $route) = split / /, $kind;
	my %where = (method => $method, path => pattern($route));
	my %troubles = troubles(%where);
	if ($kind =~ /^POST .*(segments|campaigns|send)$/)
	{
		$troubles{"answered by $_"} = do { my $fault = $_; sub { $sim->fault(%where, fault => $fault); undef } }
		  for qw(html_502 html_504_after cut garbage bare_429);
		$troubles{'answered by 500'} = sub { $sim->fault(%where, fault => { type => 'status', status => 500, json => \1 }); undef };
	}
	for my $trouble (sort keys %troubles)
	{
		my $name = 'c' . ++$pairs;
		my $campaign = $crm->campaign($name, '{1,2,3}');
		my $meanwhile = $troubles{$trouble}->();
		$crm->mia("SELECT mc_send_campaign($campaign)");
		$meanwhile->() if $meanwhile;
		$crm->wait_status($campaign, 'sent');
		is($crm->remains($name), $once, "$kind: $trouble");
		$sim->delete('/_sim/faults');
	}
}
# ---- and those of the way back

for my $kind ('GET /campaigns/{campaign_id}', 'DELETE /campaigns/{campaign_id}', 'DELETE /lists/{list_id}/segments/{segment_id}')
{
	my ($method, $route) = split / /, $kind;
	my %troubles = troubles(method => $method, path => pattern($route));
	for my $trouble (sort keys %troubles)
	{
		my $name = 'c' . ++$pairs;
		my $campaign = $crm->campaign($name, '{1,2,3}');
		$crm->mia("SELECT mc_prepare_campaign($campaign)");
		$crm->wait_status($campaign, 'prepared');
		my $meanwhile = $troubles{$trouble}->();
		$crm->mia("SELECT mc_delete_campaign($campaign)");
		$meanwhile->() if $meanwhile;
		$crm->wait_status($campaign, 'deleted');
		is($crm->remains($name), 'campaigns 0 sends 0 segments 0', "deleting, $kind: $trouble");
		$sim->delete('/_sim/faults');
	}
}
note "$pairs pairs of request and fault";

# ---- an old request that lands after we have given it up: our clock is not moved, so that it can

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '1s'");
$node->query('SELECT pg_reload_conf()');
for my $route ('POST /lists/{list_id}/segments', 'POST /campaigns', 'POST /campaigns/{campaign_id}/actions/send')
{
	my ($method, $path) = split / /, $route;
	my $name = 'late' . ++$pairs;
	my $campaign = $crm->campaign($name, '{1,2,3}');
	$sim->fault(method => $method, path => pattern($path), fault => { type => 'late', ms => 3000 });
	$crm->mia("SELECT mc_send_campaign($campaign)");
	McTest::poll("campaign $campaign to be sent", sub { $crm->column($campaign, 'status') eq 'sent' });
	is($crm->remains($name), $once, "$route lands late: found, not repeated");
}

# The old request to fill the segment lands after somebody of it has opted out: they are taken out after that (N2).
my $name = 'late' . ++$pairs;
my $campaign2 = $crm->campaign($name, '{1,2,3}');
$sim->fault(method => 'POST', path => '/segments/\d+$', fault => { type => 'late', ms => 3000 });
$sim->hold(method => 'POST', path => '/segments/\d+$', nth => 2, when => 'after');
$crm->mia("SELECT mc_send_campaign($campaign2)");
$sim->wait_held;
$crm->mia("SELECT mc_opt_out('candidate', 2)");
$sim->release;
McTest::poll('the removal to wait', sub { $crm->column($campaign2, 'last_error') =~ /^waiting until an earlier request can no longer arrive/ });
McTest::poll('the old request to land', sub {
	grep { ($_->{fault} // '') eq 'late' && defined $_->{ended} && $_->{path} =~ m{/segments/\d+$} } $sim->journal(method => 'POST');
});
$crm->wait_status($campaign2, 'sent');
is($crm->remains($name), 'campaigns 1 sends 1 segments 1 p1@example.org=1 p3@example.org=1', 'who opted out is taken out after it');

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
