# A campaign is sent at most once, at whatever instant the engine or the server dies, and leaves nothing over at Mailchimp
# (N3, design.md rule 6): at each kind of request that there is, before and after its effect, the worker is killed and the
# server is stopped at once, with several campaigns at such requests. The old requests land afterwards.
# That an answer is lost on top of that is in 035_campaign_doubt_crash.pl, the same for pushes in 054_crash.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $crm = McCampaign->start(people => 40, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};

$node->query('ALTER SYSTEM SET mailchimp_sync.max_connections = 10');
$node->query('SELECT pg_reload_conf()');

my $ways = McWays->new($crm);
my @kinds = $ways->kinds;
my %ran;

for my $crash ($ways->crashes)
{
	my @runs = map { my $kind = $_; map { my $run = $ways->run($kind); $run->{when} = $_; $run } qw(before after) } @kinds;
	for my $batch ($ways->batches(8, @runs))
	{
		$ways->hold($batch);
		$ways->crash($crash);
		$ways->land;
		$ways->go($batch);
		my $remains = $crm->all_remains(map { $_->{name} } @$batch);
		is($remains->{ $_->{name} }, $_->{end}, "N3: $_->{kind}{name}, $_->{when} its effect: $crash") for @$batch;
		$ran{ $_->{kind}{name} }++ for @$batch;
	}
}
is(join(' ', map { $ran{ $_->{name} } } @kinds), join(' ', map { 4 } @kinds), 'each kind of request met all of them');
is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
