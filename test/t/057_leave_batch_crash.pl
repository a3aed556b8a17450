# A crash, or a copy of the database, at any request of a batch of leaves (R58, R74, D9, N5, N14): who left is archived,
# and who came back is brought back, also by a copy that goes on where the original stopped.

use strict;
use warnings;
use McLeave;
use McTest;
use Test::More;

# Nobody reads statuses meanwhile, so that a page of members is one of the batch.
my $many = McLeave->start('main', candidates => 520, databases => 'postgres, started, running, verified', audience => ", read_every => '1 day'");
my ($crm, $node, $sim) = @$many{qw(crm node sim)};

sub open_requests { return scalar grep { !defined $_->{ended} } $sim->journal }

# Until the request is held: 0, or how much later it comes.
sub hold
{
	my ($method, $path, $when, $later) = @_;
	if ($later)
	{
		$many->leave('id <= 510');
		$many->quiet(1);
		$sim->hold(method => $method, path => $path, when => $when);
		$crm->later($later);
	}
	else
	{
		$sim->hold(method => $method, path => $path, when => $when);
		$many->leave('id <= 510');
		$many->wait_until('SELECT EXISTS (SELECT FROM mailchimp_sync.batch)');
	}
	$sim->wait_held;
	# the worker has gone on when this has arrived
	$crm->ann("UPDATE crm.candidate SET first_name = first_name || '+' WHERE id = 520");
	my $name = $crm->ann('SELECT first_name FROM crm.candidate WHERE id = 520');
	McTest::poll('a push', sub { $crm->member('c520@crm.test')->{merge_fields}{FNAME} eq $name });
	is(open_requests(), 1, "$method $path: it is asked once");
}

for my $case (
	[ 'start', 'POST', '^/batches$', 'before', 0, 'kill_worker' ],
	[ 'start', 'POST', '^/batches$', 'after', 0, 'stop_at_once' ],
	[ 'look', 'GET', '^/batches/', 'after', 60, 'kill_worker' ],
	[ 'verify', 'GET', '/members$', 'after', 60, 'stop_at_once' ],
	[ 'stop', 'DELETE', '^/batches/', 'before', 3600, 'kill_worker' ])
{
	my ($name, $method, $path, $when, $later, $crash) = @$case;
	# one that is stopped has done its work but for the last step, so that its members are archived
	$many->config(batch_until => $name eq 'stop' ? 'finalizing' : 'finished');
	hold($method, $path, $when, $later);
	$node->$crash;
	$many->back('id IN (1, 2)');
	# what was under way lands now, if it has not before
	$sim->release;
	McTest::poll('the end of the old request', sub { open_requests() == 0 });
	$node->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.event)');
	# a ghost ends, and what is asked for by then may have another time to wait for
	for (1 .. 3) { $crm->later(140); $many->wait_until('SELECT NOT EXISTS (SELECT FROM mailchimp_sync.inflight)') }
	$many->quiet(0);
	is($many->posted, '510', "N5: $name, $when: it is started once");
	$many->in_step("$name, $when");
}

# -----------------------------------------------------------------------------------------------------------------
# Copies
# -----------------------------------------------------------------------------------------------------------------

sub dump_to { $node->command_ok([ 'pg_dump', '-Fc', '-f', $node->basedir . "/$_[0].dump", '-d', $node->connstr('postgres') ], "dumped: $_[0]") }

$many->config(batch_until => 'pending');
hold('POST', '^/batches$', 'before', 0);
dump_to('started');
$sim->release;
$many->quiet(1);
dump_to('running');
$sim->hold(method => 'GET', path => '/members$', when => 'after');
$many->config(batch_until => 'finished');
$crm->later(60);
$sim->wait_held;
dump_to('verified');
$crm->ann('SELECT mc_stop_worker()');
$node->wait_until('SELECT pid IS NULL FROM mailchimp_sync.engine()');
$sim->release;

my $back = 0;
for my $copy (qw(started running verified))
{
	my @in = (db => $copy, as => 'ann');
	$back++;
	$node->query("CREATE DATABASE $copy");
	$node->command_ok([ 'pg_restore', '-1', '-d', $node->connstr($copy), $node->basedir . "/$copy.dump" ], "$copy: restored");
	$node->query("UPDATE crm.candidate SET active = true, first_name = 'Back' WHERE id = $back", @in);
	$node->query('SELECT mc_resume()', @in);
	$crm->later(140);
	my $moved = time;
	McTest::poll("$copy to be done", sub {
		# something may have gone wrong under load, and rest
		$crm->later(140), $moved = time if time > $moved + 10;
		$node->query("SELECT mc_approve('people')", @in) if $node->query('SELECT state FROM mc_audience', @in) eq 'guard_stopped';
		# who is outside may be still to leave, once the copy has read whom the one before brought back
		$many->count('archived', "id <= 510 AND id <> $back") == 509 && $node->query("SELECT count(*) FILTER (WHERE state = 'in_sync') = 11 AND count(*) FILTER (WHERE state = 'outside' AND action IS NULL) = 509
			AND NOT EXISTS (SELECT FROM mailchimp_sync.batch) FROM mailchimp_sync.contact", db => $copy) eq 't';
	});
	is($crm->shown("c$back\@crm.test") =~ s/\|g\d$//r, 'subscribed|Back', "N14: $copy: who comes back is brought back");
	pass("$copy: all others are archived");
	$node->query('SELECT mc_stop_worker()', @in);
}
is($many->states =~ s/.* //r, 'finished', 'all by one batch');
is($many->posted, '510', 'which was started once');

done_testing();
