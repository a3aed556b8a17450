# A campaign is sent at most once, where an answer is lost and the engine dies on top of that (N3, design.md rule 6): at each
# request that must not be repeated blindly, for each thing that can happen to the answer, the worker is killed and the
# server is stopped at once, either when the answer has come and is not applied yet, or when the doubt is stored and the
# look at what became of the request is under way.
#
# One of the two crashes at each of these instants, unless MATRIX=all asks for both, at every kind of request.

use strict;
use warnings;
use McCampaign;
use McTest;
use McWays;
use Test::More;

my $all = ($ENV{MATRIX} // '') eq 'all';
my $crm = McCampaign->start(people => $all ? 400 : 60, worker => 1);
my ($sim, $node) = @$crm{qw(sim node)};

$node->query('ALTER SYSTEM SET mailchimp_sync.max_connections = 10');
$node->query('SELECT pg_reload_conf()');

my $ways = McWays->new($crm);
my @kinds = grep { $all || ($ways->look_of($_) && $_->{name} !~ /,/) } $ways->kinds;
my $turn = 0;

sub with_faults
{
	my ($kind, @faults) = @_;
	my @runs = map { $ways->run($kind) } @faults;
	$ways->fault($runs[$_], $faults[$_], $kind->{is_list} ? $_ + 1 : undef) for 0 .. $#runs;
	return @runs;
}

sub ends
{
	my ($what, @runs) = @_;
	is($ways->missed(@runs), '', "$runs[0]{kind}{name}: $what: all of it happened");
	$sim->delete('/_sim/faults');
	$ways->go(\@runs);
	my $remains = $crm->all_remains(map { $_->{name} } @runs);
	is($remains->{ $_->{name} }, $_->{end}, "N3: $_->{kind}{name}: $_->{fault}: $what") for @runs;
}

# ---- the answers are there, or will never come, and nobody has applied them

sub dies_applying
{
	my ($kind, $crash) = @_;
	my @runs = with_faults($kind, $ways->faults_of($kind));
	my ($last) = sort { $b <=> $a } map { $_->{n} } $sim->journal;
	my @holds = $ways->hold(\@runs, 'before');
	my $session = $node->session;
	$session->query('BEGIN; LOCK TABLE mailchimp_sync.request IN SHARE MODE;');
	$sim->release(hold => $_) for @holds;
	McTest::poll('the faults to happen', sub { !grep { $_->{held} && !defined $_->{ended} && !(($_->{fault} // '') =~ /^hang/) } $sim->journal(since => $last) });
	$node->wait_until("SELECT EXISTS (SELECT FROM pg_locks WHERE relation = 'mailchimp_sync.request'::regclass AND NOT granted)");
	$ways->crash($crash);
	eval { $session->quit };
	ends("the answer is not applied yet: $crash", @runs);
}

# ---- the doubt is stored, and the first look is under way. Doubt takes a slot, and so does a look

sub dies_looking
{
	my ($kind, $crash) = @_;
	my @runs = with_faults($kind, qw(reset_before reset_after cut garbage bare_429), $turn % 2 ? '500' : 'html_504_after');
	my @holds = $ways->hold(\@runs, 'before');
	my $look = $ways->look_of($kind);
	$sim->hold(%$look, times => -1, $look->{path} =~ m{^\^/campaigns/} ? (about => '^c\\d+ \\[') : (), when => $turn % 2 ? 'before' : 'after');
	$sim->release(hold => $_) for @holds;
	$ways->go_until_held(\@runs, scalar @runs);
	$ways->crash($crash);
	$ways->land;
	ends("looking for it: $crash", @runs);
}

for my $kind (@kinds)
{
	my @crashes = $ways->crashes;
	@crashes = reverse @crashes if $turn++ % 2;
	dies_applying($kind, $crashes[0]);
	dies_applying($kind, $crashes[1]) if $all;
	next unless $ways->look_of($kind);
	dies_looking($kind, $crashes[1]);
	dies_looking($kind, $crashes[0]) if $all;
}
is($crm->mia('SELECT count(*) FROM mc_failure'), 0, 'no failure is left over');

$node->stop;
done_testing();
