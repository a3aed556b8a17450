# A campaign is sent at most once, whatever answer comes to any of its requests, and leaves nothing over at Mailchimp (N3,
# design.md rule 6): each kind of request, by the journal of undisturbed ways, is lost before and after its effect, or
# answered with what is no answer. What lands only later is in 033_campaign_late.pl, that the engine dies at it in 035_campaign_crash.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $crm = McCampaign->start(people => 40, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $once = 'campaigns 1 sends 1 segments 1 p1@example.org=1 p2@example.org=1 p3@example.org=1';

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

# What was looked at and has changed nothing is asked again, whatever happened to the answer.
my %faults = (read => [qw(reset_before garbage bare_429 500)],
	write => [qw(reset_before reset_after html_502 html_504_after cut garbage bare_429 500)]);
my (%ran, $pairs);
for my $kind (@kinds)
{
	for my $fault (@{ $faults{ $kind->{method} eq 'GET' ? 'read' : 'write' } })
	{
		my $name = 'c' . ++$pairs;
		$sim->fault(method => $kind->{method}, path => $kind->{path}, nth => $kind->{nth},
			fault => $fault eq '500' ? { type => 'status', status => 500, json => \1 } : $fault);
		$ways->go($kind, $name);
		is($crm->remains($name), $ways->end($kind), "$kind->{name}: $fault");
		$ran{ $kind->{name} }++;
		$sim->delete('/_sim/faults');
	}
}
note "$pairs pairs of request and fault: ", join(', ', map { "$ran{$_} at $_" } sort keys %ran);
ok($ran{ $_->{name} }, "$_->{name} met faults") for @kinds;

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
