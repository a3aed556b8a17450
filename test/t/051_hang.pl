# A request that hangs delays nobody, whether the worker made it or mc_run (design.md rules 1 and 9): while it is out,
# the engine holds no snapshot, transaction id or relation lock, and it goes when it is told to.

use strict;
use warnings;
use McPeople;
use McTest;
use Test::More;
use Time::HiRes qw(time);

# What nothing may take longer than, in seconds.
my $limit = 2;

my $sim = McTest::Simulator->start;
$sim->post('/_sim/demo');
my $node = McTest::Node->start('main', extension => 0, conf => "mailchimp_sync.databases = 'one'\n");
$node->query('CREATE DATABASE one');
my $people = McPeople->new($node, $sim, db => 'one');
$people->sync;
$people->wait_in_step;

sub quick
{
	my ($what, $function) = @_;
	my $start = time;
	my $result = $function->();
	cmp_ok(time - $start, '<', $limit, "$what, in " . sprintf('%.2f s', time - $start));
	return $result;
}

# Every push from now on hangs until the test lets it go.
sub hang { $sim->hold(method => 'POST', path => '^/lists/[^/]+$', when => 'before', times => -1) }

my $changes = 0;
sub change { my $name = 'Change' . ++$changes; $people->ann("UPDATE crm.person SET first_name = '$name' WHERE id = 1") }

sub ended { return $node->query("SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $_[0])") eq 't' }

sub wait_end { my ($pid) = @_; McTest::poll("the end of process $pid", sub { ended($pid) }) }

# The engine $pid has a request out; it must not show.
sub looks_idle
{
	my ($who, $pid) = @_;
	# (between two of its short transactions, of which one may just be under way)
	McTest::poll("$who at rest", sub {
		$node->query("SELECT backend_xid, backend_xmin, wait_event FROM pg_stat_activity WHERE pid = $pid") eq '||Extension'
		  && $node->query("SELECT locktype, mode FROM pg_locks WHERE pid = $pid AND locktype <> 'virtualxid'") eq 'object|ExclusiveLock' });
	pass("$who waits without a transaction id, a snapshot or a lock but that of being the only engine");
	quick("$who: DROP DATABASE of another database", sub { $node->query('CREATE DATABASE other'); $node->query('DROP DATABASE other') });
	quick("$who: an exclusive lock on the CRM's table", sub { $people->ann('BEGIN; LOCK TABLE crm.person; ROLLBACK') });
	quick("$who: VACUUM FULL of its own tables", sub { $people->super('VACUUM FULL mailchimp_sync.contact') });
	# an old snapshot of the engine's would keep the rows that just died
	$people->ann('CREATE TABLE crm.dead AS SELECT 1 AS a; DELETE FROM crm.dead');
	like(($node->psql('one', 'VACUUM (VERBOSE) crm.dead'))[2], qr/1 removed, 0 remain, 0 are dead but not yet removable/, "$who holds back no VACUUM");
	$people->ann('DROP TABLE crm.dead');
}

# -----------------------------------------------------------------------------------------------------------------
# The worker
# -----------------------------------------------------------------------------------------------------------------

my $pid = $people->wait_worker;
hang();
change();
$sim->wait_held;
$node->wait_until("SELECT state = 'idle' AND xact_start IS NULL FROM pg_stat_activity WHERE pid = $pid");
pass('the worker has no transaction open');
looks_idle('the worker', $pid);
quick('the worker: pg_terminate_backend', sub { $node->query("SELECT pg_terminate_backend($pid)"); wait_end($pid) });
$people->wait_worker($pid);
$sim->wait_held(2);
quick('the worker: mc_stop_worker', sub { $people->ann('SELECT mc_stop_worker()'); McTest::poll('its end', sub { $people->workers eq '' }) });
$sim->release;
$people->ann('SELECT mc_start_worker()');
$people->wait_in_step;

hang();
change();
$sim->wait_held;
quick('the worker: fast shutdown', sub { $node->stop('fast') });
$sim->release;
$node->start;
$people->wait_in_step;
pass('the change arrives after all');

# -----------------------------------------------------------------------------------------------------------------
# mc_run
# -----------------------------------------------------------------------------------------------------------------

$people->ann('SELECT mc_stop_worker()');
McTest::poll('the end of the worker', sub { $people->workers eq '' });

# (The requests of those that ended count for a while yet.)
sub run_hanging
{
	$people->later(140);
	my $session = $node->session(db => 'one', as => 'mia');
	my $pid = $session->query('SELECT pg_backend_pid()');
	hang();
	change();
	McTest::begin($session, 'CALL mc_run();');
	$sim->wait_held;
	$node->wait_until("SELECT wait_event = 'Extension' FROM pg_stat_activity WHERE pid = $pid");
	return ($session, $pid);
}

(my $session, $pid) = run_hanging();
looks_idle('mc_run', $pid);
quick('mc_run: pg_cancel_backend', sub { $node->query("SELECT pg_cancel_backend($pid)"); $session->query('') });
like($session->{stderr}, qr/canceling statement/, 'is heard');
$sim->release;
$session->quit;

($session, $pid) = run_hanging();
quick('mc_run: pg_terminate_backend', sub { $node->query("SELECT pg_terminate_backend($pid)"); wait_end($pid) });
$session->{run}->finish;
$sim->release;

($session, $pid) = run_hanging();
quick('mc_run: fast shutdown', sub { $node->stop('fast') });
$session->{run}->finish;
$sim->release;
$node->start;
$people->later(140);
$people->mia('CALL mc_run()');
ok($people->in_step, 'the changes arrive after all');

($session, $pid) = run_hanging();
quick('mc_run: DROP EXTENSION', sub { $people->super('DROP EXTENSION mailchimp_sync CASCADE') });
$sim->release;
$session->query('');
like($session->{stderr}, qr/55000|extension "mailchimp_sync" was dropped/, 'mc_run says why it ends');
is($session->query('SELECT 1'), 1, 'and the session lives');
$session->quit;

# -----------------------------------------------------------------------------------------------------------------
# DROP EXTENSION under the worker
# -----------------------------------------------------------------------------------------------------------------

$people->super('DROP SCHEMA crm CASCADE');
$sim->post('/_sim/reset');
$sim->post('/_sim/demo');
$people = McPeople->new($node, $sim, db => 'one');
$pid = $people->wait_worker;
$people->sync;
$people->wait_in_step;
hang();
change();
$sim->wait_held;
my $end = $node->log_end;
quick('the worker: DROP EXTENSION', sub { $people->super('DROP EXTENSION mailchimp_sync CASCADE') });
$sim->release;
wait_end($pid);
like(PostgreSQL::Test::Utils::slurp_file($node->logfile, $end), qr/LOG:  .*extension "mailchimp_sync" was dropped/, 'the worker ends by itself');
unlike(PostgreSQL::Test::Utils::slurp_file($node->logfile), qr/PANIC|server process .* was terminated/, 'nothing crashed');

$node->stop;
done_testing();
