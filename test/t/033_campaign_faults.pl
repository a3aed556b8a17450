# A campaign is sent at most once, whatever answer comes to any of its requests, and leaves nothing over at Mailchimp (N3,
# design.md rule 6): each kind of request, by the journal of undisturbed ways, is lost before and after its effect, never
# answered, or answered with what is no answer. Here those that make and unmake it; sending and scheduling are in
# 033_campaign_action_faults.pl. What lands only later is in 033_campaign_late.pl, that the engine dies in 035_campaign_crash.pl.

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
			'POST /campaigns/{campaign_id}/actions/send, hold',
			'POST /campaigns/{campaign_id}/actions/schedule',
			'POST /campaigns/{campaign_id}/actions/schedule, correct',
			'POST /campaigns/{campaign_id}/actions/unschedule',
			'POST /campaigns/{campaign_id}/actions/unschedule, correct',
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

# ---- each that makes or unmakes something, or looks, goes wrong

$ways->meet_faults(grep { $_->{name} !~ m{/actions/} } @kinds);

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
