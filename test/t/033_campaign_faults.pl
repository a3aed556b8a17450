# A campaign is sent at most once, whatever answer comes to any of its requests, and leaves nothing over at Mailchimp (N3,
# design.md rule 6): each kind of request, by the journal of undisturbed ways, is lost before and after its effect, never
# answered, or answered with what is no answer; and so is the look at what became of those that must not be repeated.
# What lands only later is in 033_campaign_late.pl, that the engine dies at it in 035_campaign_crash.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $crm = McCampaign->start(people => 40, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $once = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '3s'; ALTER SYSTEM SET mailchimp_sync.max_connections = 10");
$node->query('SELECT pg_reload_conf()');

# ---- undisturbed ways tell the kinds of requests

my $ways = McWays->new($crm);
my @kinds = $ways->kinds;
is(join("\n", sort map { $_->{name} } @kinds), join("\n", sort(
			'GET /campaigns',
			'GET /campaigns/{campaign_id}',
			'GET /campaigns/{campaign_id}/send-checklist',
			'POST /campaigns',
			'PATCH /campaigns/{campaign_id}',
			'DELETE /campaigns/{campaign_id}',
			'POST /campaigns/{campaign_id}/actions/send',
			'PUT /campaigns/{campaign_id}/content',
			'GET /lists/{list_id}/segments',
			'POST /lists/{list_id}/segments',
			'POST /lists/{list_id}/segments/{segment_id}',
			'POST /lists/{list_id}/segments/{segment_id}, removing',
			'PATCH /lists/{list_id}/segments/{segment_id}',
			'DELETE /lists/{list_id}/segments/{segment_id}',
			'GET /lists/{list_id}/segments/{segment_id}/members',
			'GET /reports/{campaign_id}/sent-to')),
	'the kinds of requests of campaigns');

# ---- each of them goes wrong

my @pairs = map { my $kind = $_; map { [ $ways->run($kind), $_ ] } $ways->faults_of($kind) } @kinds;
my %fault_of = map { $_->[0]{name} => $_->[1] } @pairs;
for my $runs ($ways->batches(20, map { $_->[0] } @pairs))
{
	my $searches = 0;
	$ways->fault($_, $fault_of{ $_->{name} }, $_->{kind}{is_list} ? ++$searches : undef) for @$runs;
	$ways->go($runs);
	is($ways->missed(@$runs), '', 'all of it happened: ' . join ', ', map { "$_->{kind}{name}: $_->{fault}" } @$runs);
	my $remains = $crm->all_remains(map { $_->{name} } @$runs);
	is($remains->{ $_->{name} }, $_->{end}, "N3: $_->{kind}{name}: $_->{fault}") for @$runs;
	$sim->delete('/_sim/faults');
}
note scalar(@pairs) . ' pairs of request and fault';

# ---- so does the look at what became of one that must not be repeated

for my $kind (grep { $ways->look_of($_) } @kinds)
{
	my @faults = grep { !/hang/ } $ways->faults_of($kind);
	my @looks = qw(500 reset_before bare_429 garbage html_502 cut hang 500);
	my @runs = map { $ways->run($kind) } @faults;
	$ways->fault($runs[$_], $faults[$_]) for 0 .. $#runs;
	my @holds = $ways->hold(\@runs, 'before');
	my @second = map { { kind => { name => 'the look' }, rule => { %{ $ways->look_of($kind) }, nth => $_ + 1 } } } 0 .. $#runs;
	$ways->fault($second[$_], $looks[$_]) for 0 .. $#runs;
	$sim->release(hold => $_) for @holds;
	$ways->go(\@runs);
	is($ways->missed(@runs, @second), '', "all of it happened to $kind->{name} and the looks after it");
	my $remains = $crm->all_remains(map { $_->{name} } @runs);
	is($remains->{ $_->{name} }, $_->{end}, "N3: $_->{kind}{name}: $_->{fault}, and looking for it fails") for @runs;
	$sim->delete('/_sim/holds');
	$sim->delete('/_sim/faults');
}

# ---- Mailchimp cannot be reached at the very moment of sending: nothing has happened, and it goes on

{
	my $name = 'unreachable';
	my $campaign = $crm->campaign($name, '{1,2,3}');
	$sim->hold(method => 'GET', path => '/send-checklist$', when => 'after');
	$crm->mia("SELECT mc_send_campaign($campaign)");
	$sim->wait_held;
	$node->query("ALTER SERVER demo OPTIONS (SET endpoint 'http://127.0.0.1:1')");
	$sim->release;
	McTest::poll('the failure to be noted', sub { $crm->column($campaign, 'last_error') =~ /^Not sent/ });
	is($crm->column($campaign, 'status'), 'preparing', 'it is not being sent, so it can be stopped');
	$node->query("ALTER SERVER demo OPTIONS (SET endpoint '" . $sim->url . "')");
	$crm->wait_status($campaign, 'sent');
	is($crm->remains($name), $once, 'sent as soon as Mailchimp can be reached');
}

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
