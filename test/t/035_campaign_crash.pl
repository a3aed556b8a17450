# A campaign is sent at most once, at whatever instant the engine or the server dies, and leaves nothing over at Mailchimp
# (N3, design.md rule 6): the worker is killed at each kind of request that there is, before and after its effect, and the
# server stopped at once at those that must not be repeated. The old request lands afterwards.
# The same for pushes is in 054_crash.pl, answers that get lost are in 033_campaign_faults.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $crm = McCampaign->start(people => 40, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};
my $ways = McWays->new($crm);
my @kinds = $ways->kinds;

my %crashes = ('the worker is killed' => 'kill_worker', 'the server stops' => 'stop_at_once');

sub one_crash
{
	my ($kind, $name, $crash, $when) = @_;
	my $how = $crashes{$crash};
	my $died = 0;
	$sim->hold(method => $kind->{method}, path => $kind->{path}, nth => $kind->{nth}, when => $when);
	local $crm->{meanwhile} = sub {
		return if $died || !@{ $sim->get('/_sim/holds')->{held} };
		$died = 1;
		$node->$how;
		$sim->release;
	};
	$ways->go($kind, $name);
	is($crm->remains($name) . ($died ? '' : ' (nothing died)'), $ways->end($kind), "N3: $kind->{name}, $when its effect: $crash");
}

my (%ran, $pairs);
for my $kind (@kinds)
{
	for my $when (qw(before after))
	{
		for my $crash (sort keys %crashes)
		{
			next if $crash eq 'the server stops' && $kind->{name} !~ m{^POST .*(/segments|/campaigns|/send)$};
			one_crash($kind, 'c' . ++$pairs, $crash, $when);
			$ran{ $kind->{name} }++;
		}
	}
}
note "$pairs pairs of request and crash: ", join(', ', map { "$ran{$_} at $_" } sort keys %ran);
ok($ran{ $_->{name} }, "$_->{name} met crashes") for @kinds;
is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
