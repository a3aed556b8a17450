# A campaign is sent at most once, whatever answer comes to the orders to send it, to schedule it and to take that back (N3,
# R28, D12, design.md rule 6), also where somebody opts out of what is scheduled and where our engine sends it at its
# hour; and where the look at what became of a request that must not be repeated goes wrong, too.
# Other requests of campaigns are in 033_campaign_faults.pl.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $crm = McCampaign->start(people => 60, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};

$node->query('ALTER SYSTEM SET mailchimp_sync.max_connections = 10');
$node->query('SELECT pg_reload_conf()');

my $ways = McWays->new($crm);
my @kinds = $ways->kinds;

# ---- the look at what became of one that must not be repeated

for my $kind (grep { $ways->look_of($_) && $_->{name} !~ /,/ } @kinds)
{
	my @faults = grep { !/hang/ } $ways->faults_of($kind);
	my @looks = qw(500 reset_before bare_429 garbage html_502 cut reset_before 500);
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

# ---- the orders themselves

$node->query("ALTER SYSTEM SET mailchimp_sync.request_timeout = '3s'");
$node->query('SELECT pg_reload_conf()');
$ways->meet_faults(grep { $_->{name} =~ m{/actions/} } @kinds);

is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
